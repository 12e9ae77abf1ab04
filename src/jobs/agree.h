// SPDX-License-Identifier: Apache-2.0
// Do two answers to one question mean the same? Judged from the texts alone, without a model, and cautiously: a wrong
// "same" loses a difference, a wrong "different" only shows one that is none. So precision counts before recall:
// numbers, dates, times, units and money must be equal, so must negation, code and JSON; an answer that adds something
// the question did not hold is another answer. `tandem eval --agree FILE` measures it on labelled pairs; the project's
// own are tests/data/agree/pairs.jsonl. Pure; any thread; bounded: texts over TD_AGREE_BYTES_MAX are compared word for
// word.
#ifndef TD_JOBS_AGREE_H
#define TD_JOBS_AGREE_H

#include "base/str.h"

#define TD_AGREE_BYTES_MAX (64u << 10) // longer answers never mean the same unless they say the same

// `question` may be empty: what the question holds need not be repeated by an answer. False without memory.
bool td_answers_agree(struct td_str question, struct td_str a, struct td_str b);

// The text is a model's way of saying that it cannot answer.
bool td_answer_declines(struct td_str text);

#endif
