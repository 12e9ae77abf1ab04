// SPDX-License-Identifier: Apache-2.0
// A streaming quantile: counts in buckets that grow by a quarter of an octave (at most 9 % off), halved now and then so
// that old measurements fade. No allocation. One owner.
#ifndef TD_TARGET_QUANTILE_H
#define TD_TARGET_QUANTILE_H

#include <stdint.h>

#define TD_QUANTILE_BUCKETS 96u     // 1 to 2^24: microseconds up to 16 s, or milliseconds up to hours
#define TD_QUANTILE_WEIGHT_MAX 200u // measurements that count; then all are halved

struct td_quantile {
    uint16_t buckets[TD_QUANTILE_BUCKETS];
    uint32_t total;
};

void td_quantile_add(struct td_quantile *q, uint64_t value);
// The value under which `ppm` millionths of what was seen lie; 0 where nothing was seen.
uint32_t td_quantile_at(const struct td_quantile *q, uint32_t ppm);

#endif
