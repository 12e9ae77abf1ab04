// SPDX-License-Identifier: Apache-2.0
// Why a target was taken or refused: one list of stable words and English texts. Static storage, any thread.
#ifndef TD_POLICY_REASON_H
#define TD_POLICY_REASON_H

#include <stdbool.h>

// Why a target was taken or refused. X(NAME, "stable-word", "English text")
#define TD_REASON_LIST(X)                                                                                              \
    X(CHOSEN, "chosen", "best by preference, quality, latency and cost")                                               \
    X(PINNED, "pinned", "the request names this target")                                                               \
    X(FALLBACK, "fallback", "next best")                                                                               \
    X(LOCAL_FIRST, "local-first", "cascade: the device tries first")                                                   \
    X(DRAFT, "draft", "progressive: gives the draft")                                                                  \
    X(REFINE, "refine", "progressive: gives the better answer")                                                        \
    X(HEDGE, "hedge", "second try when the first is slow")                                                             \
    X(OFFLINE, "offline", "the network is gone; answered on the device, degraded")                                     \
    X(NOT_PINNED, "not-pinned", "the request names another target")                                                    \
    X(CLASS, "class", "the data class is above its clearance")                                                         \
    X(LABEL, "label", "a label is not cleared for it")                                                                 \
    X(RESIDENCY, "residency", "its region is not allowed for this request")                                            \
    X(TIER, "tier", "its tier is not allowed for this request")                                                        \
    X(DENIED, "denied", "a rule denies it")                                                                            \
    X(LOCAL_ONLY, "local-only", "a rule keeps this request on the device")                                             \
    X(CAPABILITY, "capability", "it cannot do what the request needs")                                                 \
    X(OTHER_MODEL, "other-model", "embeddings of another model would not compare")                                     \
    X(CONTEXT, "context", "the input does not fit its context")                                                        \
    X(OUTPUT, "output", "it gives no answer as long as the request allows")                                            \
    X(HEALTH, "health", "it is failing; its breaker is open")                                                          \
    X(NOT_READY, "not-ready", "it is not ready")                                                                       \
    X(NO_LINK, "no-link", "there is no network")                                                                       \
    X(METERED, "metered", "the link is metered and the rule or preference avoids it")                                  \
    X(DEADLINE, "deadline", "it cannot answer before the deadline")                                                    \
    X(COST, "cost", "it would cost more than the request or the budget allows")                                        \
    X(DEVICE, "device", "the device is too hot, too low on battery or out of memory")                                  \
    X(OVERLOADED, "overloaded", "its queue is full")                                                                   \
    X(RANKED_OUT, "ranked-out", "allowed, but the plan has enough better ones")                                        \
    X(REMOVED, "removed", "the configuration in force no longer has it")                                               \
    X(RETRY_AFTER, "retry-after", "it asked to be left alone for now")                                                 \
    X(NO_MODEL, "no-model", "its model file is not there")

enum td_reason {
#define X(name, word, text) TD_REASON_##name,
    TD_REASON_LIST(X)
#undef X
        TD_REASON_COUNT
};

// What happens to an answer that breaks off after its first byte (docs/resilience.md).
enum td_on_cut { TD_ON_CUT_CONTINUE, TD_ON_CUT_RESTART, TD_ON_CUT_ERROR };

const char *td_reason_word(enum td_reason reason);
// The refusal may pass by itself: the same request may be answered later (an error of status 503, not 403).
bool td_reason_passes(enum td_reason reason);
const char *td_reason_text(enum td_reason reason);

#endif
