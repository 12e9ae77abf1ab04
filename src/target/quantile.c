// SPDX-License-Identifier: Apache-2.0
#include "target/quantile.h"

// Bucket 4·k + j holds values from 2^k · (4 + j) / 4.
static uint32_t bucket_of(uint64_t value) {
    if (value < 1)
        value = 1;
    uint32_t k = 63 - (uint32_t)__builtin_clzll(value);
    uint32_t j = k >= 2 ? (uint32_t)(value >> (k - 2)) & 3 : (uint32_t)(value << (2 - k)) & 3;
    uint32_t b = 4 * k + j;
    return b < TD_QUANTILE_BUCKETS ? b : TD_QUANTILE_BUCKETS - 1;
}

// The middle of a bucket.
static uint32_t value_of(uint32_t bucket) {
    uint64_t low = ((uint64_t)1 << (bucket / 4)) * (4 + bucket % 4);
    uint64_t high = low + ((uint64_t)1 << (bucket / 4));
    uint64_t middle = (low + high + 4) / 8;
    return middle ? (uint32_t)middle : 1;
}

void td_quantile_add(struct td_quantile *q, uint64_t value) {
    q->buckets[bucket_of(value)] += 2; // in halves: a single measurement survives one halving
    q->total += 2;
    if (q->total < 2 * TD_QUANTILE_WEIGHT_MAX)
        return;
    q->total = 0;
    for (uint32_t i = 0; i < TD_QUANTILE_BUCKETS; i++) {
        q->buckets[i] /= 2;
        q->total += q->buckets[i];
    }
}

uint32_t td_quantile_at(const struct td_quantile *q, uint32_t ppm) {
    uint64_t want = (uint64_t)q->total * ppm, seen = 0;
    for (uint32_t i = 0; i < TD_QUANTILE_BUCKETS; i++) {
        seen += q->buckets[i];
        if (q->buckets[i] && seen * 1000000 >= want)
            return value_of(i);
    }
    return 0;
}
