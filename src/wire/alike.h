// SPDX-License-Identifier: Apache-2.0
// Chunks of one stream that differ from each other in their text alone, which is nearly all of them. What stands before
// and after the text of one that was read as JSON is kept; the next that has the same before and after, and between
// them what a JSON string may hold without escapes, says the same with another text, and needs no reading. Pure; one
// owner; memory as long as one chunk. Private to this room.
#ifndef TD_WIRE_ALIKE_H
#define TD_WIRE_ALIKE_H

#include "base/json.h"

struct td_alike {
    struct td_buf around;    // what stands before the text, and what stands after it; empty: nothing is known
    size_t before_n;         // bytes of the former
    uint32_t choice;         // whose text it is
    uint8_t learned_in_vain; // in a row: a provider whose chunks are never alike is not followed for ever
};

void td_alike_init(struct td_alike *a);
void td_alike_finish(struct td_alike *a);

// True where `chunk` is like the one learned; *text is then its text, a view into it.
bool td_alike_text(struct td_alike *a, struct td_str chunk, struct td_str *text);

// Takes `chunk`, which parsed as `root`, for its like if it holds text and nothing else that a reader of streams acts
// upon: one choice, without reasoning, refusal, calls, token probabilities, finish or usage. Without memory for it
// nothing is learned.
void td_alike_learn(struct td_alike *a, struct td_str chunk, td_json *root);

#endif
