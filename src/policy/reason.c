// SPDX-License-Identifier: Apache-2.0
#include "policy/reason.h"

static const struct {
    const char *word, *text;
} reasons[] = {
#define X(name, word, text) {word, text},
    TD_REASON_LIST(X)
#undef X
};

const char *td_reason_word(enum td_reason reason) {
    return (unsigned)reason < TD_REASON_COUNT ? reasons[reason].word : "";
}

const char *td_reason_text(enum td_reason reason) {
    return (unsigned)reason < TD_REASON_COUNT ? reasons[reason].text : "";
}
