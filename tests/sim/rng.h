// SPDX-License-Identifier: Apache-2.0
// The simulator's random numbers: one word of state, the same draws on every machine.
#ifndef TD_TESTS_RNG_H
#define TD_TESTS_RNG_H

#include <stdbool.h>
#include <stdint.h>

struct rng {
    uint64_t state;
};
static inline uint64_t rng_next(struct rng *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline uint32_t rng_below(struct rng *r, uint32_t n) {
    return n ? (uint32_t)(rng_next(r) % n) : 0;
}
static inline bool rng_chance(struct rng *r, uint32_t percent) {
    return rng_below(r, 100) < percent;
}

#endif
