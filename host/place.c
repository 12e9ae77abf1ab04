// SPDX-License-Identifier: Apache-2.0
#include "host/place.h"

#define NEAR_TOKENS 16   // read again in one short step
#define CHEAP_TOKENS 256 // what may be lost to whoever comes back for it

static uint32_t pull(const struct host_place *places, uint32_t count, uint32_t i) {
    if (places[i].held - places[i].shared > CHEAP_TOKENS)
        return 0;
    return (uint32_t)(i > 0 && places[i - 1].busy) + (uint32_t)(i + 1 < count && places[i + 1].busy);
}

static bool is_better(const struct host_place *places, uint32_t count, uint32_t a, uint32_t b) {
    const struct host_place *x = &places[a], *y = &places[b];
    if (x->shared > y->shared + NEAR_TOKENS || y->shared > x->shared + NEAR_TOKENS)
        return x->shared > y->shared;
    uint32_t to_x = pull(places, count, a), to_y = pull(places, count, b);
    if (to_x != to_y)
        return to_x > to_y;
    return x->shared != y->shared ? x->shared > y->shared : x->used < y->used;
}

int32_t host_place_choose(const struct host_place *places, uint32_t count) {
    int32_t best = -1;
    for (uint32_t i = 0; i < count; i++)
        if (!places[i].busy && (best < 0 || is_better(places, count, i, (uint32_t)best)))
            best = (int32_t)i;
    return best;
}
