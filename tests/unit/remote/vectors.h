// SPDX-License-Identifier: Apache-2.0
// The table of replies (tests/support/reply_vectors.txt), read line by line.
#ifndef TD_TESTS_VECTORS_H
#define TD_TESTS_VECTORS_H

#include "unit.h"

#include <stdio.h>

struct vector {
    char name[32], gives[32];
    char bytes[256 << 10];
    size_t n;
};

// Calls fn for each; how many there were.
unsigned vectors_each(void (*fn)(const struct vector *v));

#endif
