// SPDX-License-Identifier: Apache-2.0
// Rate limits as token buckets that hold one minute's worth, kept as the time at which the bucket would be full again
// (the generic cell rate algorithm, ITU-T I.371): two words each, no refilling. Pure.
#ifndef TD_GOVERN_RATE_H
#define TD_GOVERN_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct td_bucket {
    uint32_t per_min; // 0 no limit
    int64_t full_at_ns;
};

struct td_rate {
    struct td_bucket requests, tokens;
};

// How long until `n` can be taken; 0 now. A demand above the whole bucket is granted when the bucket is full, and then
// paid off: otherwise it never could be.
uint64_t td_bucket_wait_ns(const struct td_bucket *b, uint32_t n, uint64_t now_ns);
void td_bucket_take(struct td_bucket *b, int64_t n, uint64_t now_ns); // negative gives back

#endif
