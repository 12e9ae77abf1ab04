// SPDX-License-Identifier: Apache-2.0
// What every fuzz target includes. A target is one LLVMFuzzerTestOneInput; it calls fuzz_check for what must hold.
// Linked with -fsanitize=fuzzer it searches; linked with replay.c it runs once over files, which is how the tests keep
// the corpus and every finding alive.
//
// How to add one: write fuzz/NAME.c, put seeds into fuzz/corpus/NAME/, add NAME to the list in fuzz/meson.build.
#ifndef TD_FUZZ_FUZZ_H
#define TD_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define fuzz_check(what)                                                                                               \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #what);                                  \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#endif
