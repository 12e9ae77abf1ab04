// SPDX-License-Identifier: Apache-2.0
// Do two answers mean the same? Judged from the texts alone, cautiously: a wrong "yes" hides a better answer, a wrong
// "no" only shows it. Pure; any thread.
#ifndef TD_JOBS_AGREE_H
#define TD_JOBS_AGREE_H

#include "base/str.h"

bool td_texts_agree(struct td_str a, struct td_str b);

#endif
