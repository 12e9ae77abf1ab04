// SPDX-License-Identifier: Apache-2.0
#include "govern/rate.h"

#define MINUTE_NS 60000000000ll

static int64_t price_ns(const struct td_bucket *b, int64_t n) {
    return (int64_t)((double)n * ((double)MINUTE_NS / b->per_min));
}

uint64_t td_bucket_wait_ns(const struct td_bucket *b, uint32_t n, uint64_t now_ns) {
    if (b->per_min == 0 || n == 0)
        return 0;
    int64_t now = (int64_t)now_ns, full_at = b->full_at_ns > now ? b->full_at_ns : now;
    int64_t wait = n >= b->per_min ? full_at - now : full_at + price_ns(b, n) - MINUTE_NS - now;
    return wait > 0 ? (uint64_t)wait : 0;
}

void td_bucket_take(struct td_bucket *b, int64_t n, uint64_t now_ns) {
    if (b->per_min == 0)
        return;
    int64_t now = (int64_t)now_ns;
    if (b->full_at_ns < now)
        b->full_at_ns = now;
    b->full_at_ns += price_ns(b, n);
}
