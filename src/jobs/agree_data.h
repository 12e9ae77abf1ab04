// SPDX-License-Identifier: Apache-2.0
// Answers that are data, JSON or code in fences, mean the same where they hold the same; words do not excuse a
// difference there. Pure; any thread.
#ifndef TD_JOBS_AGREE_DATA_H
#define TD_JOBS_AGREE_DATA_H

#include "base/mem.h"

// OPEN: no data, or the same code on both sides; then *a and *b are what stands around it, for the words to be judged.
enum td_agree_verdict { TD_AGREE_DIFFERENT, TD_AGREE_SAME, TD_AGREE_OPEN };
enum td_agree_verdict td_agree_data(struct td_arena *arena, struct td_str *a, struct td_str *b);

#endif
