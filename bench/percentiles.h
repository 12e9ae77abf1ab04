// SPDX-License-Identifier: Apache-2.0
// Samples in microseconds and how they are printed, for what measures streams. One thread.
#ifndef BENCH_PERCENTILES_H
#define BENCH_PERCENTILES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct samples {
    const char *name;
    uint32_t *us;
    size_t n, max;
};

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// Room for `max`, whose pages come now and not while something is measured.
static inline void samples_make(struct samples *s, size_t max) {
    s->max = max;
    s->n = 0;
    s->us = malloc(max * sizeof *s->us);
    if (!s->us) {
        perror("malloc");
        exit(1);
    }
    memset(s->us, 0, max * sizeof *s->us);
}

// What is below 0 counts as 0; what finds no room is left out.
static inline void samples_add(struct samples *s, int64_t ns) {
    if (s->n < s->max)
        s->us[s->n++] = ns < 0 ? 0 : ns / 1000 > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns / 1000);
}

static inline int samples_compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

// One line, or none where there are no samples; sorts them.
static inline void samples_print(struct samples *s) {
    if (s->n == 0)
        return;
    qsort(s->us, s->n, sizeof *s->us, samples_compare);
    printf("%s_us n=%zu p50=%u p90=%u p99=%u p999=%u max=%u\n", s->name, s->n, s->us[s->n / 2], s->us[s->n * 9 / 10],
           s->us[s->n * 99 / 100], s->us[s->n * 999 / 1000], s->us[s->n - 1]);
}

#endif
