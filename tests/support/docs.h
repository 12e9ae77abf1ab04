// SPDX-License-Identifier: Apache-2.0
// Pages of docs/, for tests that hold them against the program.
#ifndef TD_TESTS_DOCS_H
#define TD_TESTS_DOCS_H

#include <stdio.h>

#include "unit.h"

// The whole page; free it. meson says where the sources are; by hand the build folder is taken to lie among them.
static inline char *docs_read(const char *name) {
    const char *root = getenv("ROOT");
    char path[1024];
    snprintf(path, sizeof path, "%s/docs/%s", root ? root : "..", name);
    FILE *f = fopen(path, "r");
    if (!f)
        fail_msg("no %s", path);
    char *text = calloc(1, 1 << 18);
    size_t n = fread(text, 1, (1 << 18) - 1, f);
    assert_true(n > 0);
    fclose(f);
    return text;
}

#endif
