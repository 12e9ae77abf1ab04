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

bool td_reason_passes(enum td_reason reason) {
    switch (reason) {
    case TD_REASON_HEALTH:
    case TD_REASON_NOT_READY:
    case TD_REASON_NO_MODEL:
    case TD_REASON_NO_LINK:
    case TD_REASON_METERED:
    case TD_REASON_DEVICE:
    case TD_REASON_OVERLOADED:
    case TD_REASON_RETRY_AFTER:
        return true;
    default:
        return false;
    }
}
