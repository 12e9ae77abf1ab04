// SPDX-License-Identifier: Apache-2.0
// Which slot a request gets. libllama decodes together only sequences whose numbers follow each other: of slots 0 and 2
// it makes two steps, as slow as one after the other. So a newcomer goes beside those that run, where that does not
// cost it a beginning that it shares, or somebody else the text of a long conversation. Pure.
#ifndef TD_HOST_PLACE_H
#define TD_HOST_PLACE_H

#include <stdbool.h>
#include <stdint.h>

struct host_place {
    bool busy;
    int32_t held, shared; // tokens in it; of these, how many the newcomer begins with as well
    uint64_t used;        // when, on any clock
};

// The best free place's number, or -1: none is free.
int32_t host_place_choose(const struct host_place *places, uint32_t count);

#endif
