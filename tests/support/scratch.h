// SPDX-License-Identifier: Apache-2.0
// A directory of a test's own under TMPDIR (or /tmp), removed with everything in it at the end.
#ifndef TD_TESTS_SCRATCH_H
#define TD_TESTS_SCRATCH_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static inline const char *scratch_make(char path[256]) {
    const char *base = getenv("TMPDIR");
    snprintf(path, 256, "%s/tandem-test-XXXXXX", base ? base : "/tmp");
    return mkdtemp(path);
}

static inline int scratch_drop_one(const char *path, const struct stat *st, int flag, struct FTW *at) {
    (void)st, (void)flag, (void)at;
    return remove(path);
}

static inline void scratch_drop(const char *path) {
    nftw(path, scratch_drop_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
