// SPDX-License-Identifier: Apache-2.0
// A note of the memory that the next piece of a stream will touch. Between two pieces of one stream come those of all
// the others, and its structs have left the processor's near caches; each that is then asked for after the other keeps
// the piece waiting. Asked for all together before a system call, they are there when it returns. An address that has
// become wrong since it was noted costs a little and does no harm: nothing is read or written by it. One thread.
#ifndef TD_BASE_NEAR_H
#define TD_BASE_NEAR_H

#include <stddef.h>
#include <stdint.h>

#define TD_NEAR_MAX 16u // places of a stream, with room
#define TD_NEAR_LINE 64u

// A place is the address of its first line; how many lines it has stands in the bits below.
struct td_near {
    uint32_t count;
    uintptr_t places[TD_NEAR_MAX];
};

// Notes `n` bytes from `p`; what is too much, NULL or empty is left out.
static inline void td_near_add(struct td_near *near, const void *p, size_t n) {
    uintptr_t first = (uintptr_t)p & ~(uintptr_t)(TD_NEAR_LINE - 1);
    if (!p || !n || near->count == TD_NEAR_MAX)
        return;
    size_t lines = ((uintptr_t)p + n - first + TD_NEAR_LINE - 1) / TD_NEAR_LINE;
    near->places[near->count++] = first | (lines < TD_NEAR_LINE ? lines : TD_NEAR_LINE - 1);
}

static inline void td_near_fetch(const struct td_near *near) {
    for (uint32_t i = 0; i < near->count; i++) {
        uintptr_t lines = near->places[i] & (TD_NEAR_LINE - 1), at = near->places[i] - lines;
        for (; lines > 0; lines--, at += TD_NEAR_LINE)
            __builtin_prefetch((const void *)at, 1);
    }
}

#endif
