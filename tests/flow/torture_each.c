// SPDX-License-Identifier: Apache-2.0
#include "torture_each.h"

#include <dirent.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

uint64_t torture_failing, torture_allocations;

static uint64_t every = 1, first = 1, last = UINT64_MAX;

bool torture_options(int argc, char **argv) {
    static const struct option options[] = {
        {"every", 1, NULL, 'e'}, {"first", 1, NULL, 'f'}, {"last", 1, NULL, 'l'}, {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == '?')
            return false;
        *(c == 'e' ? &every : c == 'f' ? &first : &last) = strtoull(optarg, NULL, 10);
    }
    return every > 0;
}

static unsigned descriptors(void) {
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

void torture_each(bool (*round)(const char *arg, uint64_t fail_at), const char *arg,
                  void (*complain)(const char *what, const char *more), const char *what) {
    uint64_t refused = 0, rounds = 0;
    round(arg, TORTURE_NONE); // libraries take memory for good at their first use
    unsigned before = descriptors();
    round(arg, TORTURE_NONE);
    uint64_t count = torture_allocations, end = last < count ? last : count;
    for (uint64_t n = first; n <= end; n += every, rounds++) {
        torture_failing = n;
        refused += !round(arg, n);
        if (descriptors() > before)
            complain("a descriptor is left open", "");
    }
    printf("%llu allocations, %llu failed one by one (%llu while %s); no crash, no lie, nothing left open\n",
           (unsigned long long)count, (unsigned long long)rounds, (unsigned long long)refused, what);
}
