// SPDX-License-Identifier: Apache-2.0
// A plan: what decide() returns and the exchange executes. A plain value in the caller's arena: ordered attempts with
// mode, limits and transforms, and a verdict with its reason for every target, taken or refused. The same inputs give
// the same plan, byte for byte.
#ifndef TD_ROUTE_PLAN_H
#define TD_ROUTE_PLAN_H

#include "target/world.h"

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
    X(CONTEXT, "context", "the input does not fit its context")                                                        \
    X(HEALTH, "health", "it is failing; its breaker is open")                                                          \
    X(NOT_READY, "not-ready", "it is not ready")                                                                       \
    X(NO_LINK, "no-link", "there is no network")                                                                       \
    X(METERED, "metered", "the link is metered and the rule or preference avoids it")                                  \
    X(DEADLINE, "deadline", "it cannot answer before the deadline")                                                    \
    X(COST, "cost", "it would cost more than the request or the budget allows")                                        \
    X(DEVICE, "device", "the device is too hot, too low on battery or out of memory")                                  \
    X(OVERLOADED, "overloaded", "its queue is full")                                                                   \
    X(RANKED_OUT, "ranked-out", "allowed, but the plan has enough better ones")                                        \
    X(RETRY_AFTER, "retry-after", "it asked to be left alone for now")

enum td_reason {
#define X(name, word, text) TD_REASON_##name,
    TD_REASON_LIST(X)
#undef X
        TD_REASON_COUNT
};

enum td_on_cut { TD_ON_CUT_CONTINUE, TD_ON_CUT_RESTART, TD_ON_CUT_ERROR };

struct td_verdict {
    bool taken;
    enum td_reason reason;
    struct td_str rule;  // name of the deciding rule, "" none; points into the configuration snapshot
    double score;        // utility, NaN where refused
    int64_t cost_nusd;   // expected
    uint32_t latency_ms; // expected time to first token
    double quality;      // expected
};

struct td_step {
    uint32_t target; // index
    enum td_reason reason;
    uint32_t retries_max; // same target again, before the next step
};

struct td_plan {
    enum td_mode mode; // never DEFAULT
    struct td_step steps[TD_ATTEMPTS_MAX];
    uint32_t step_count; // 0: nobody may answer; the verdicts say why
    struct td_verdict verdicts[TD_TARGETS_MAX];
    uint32_t verdict_count;
    enum td_on_cut on_cut;
    double on_cut_min_quality;
    double cascade_threshold;      // confidence, 0..1
    uint32_t hold_tokens, hold_ms; // cascade: how much is held back until trusted
    uint32_t hedge_after_ms;       // 0: no hedge
    uint32_t refine_after_ms;
    uint64_t deadline_ms;     // from arrival; 0 none
    int64_t max_cost_nusd;    // -1 none
    enum td_class data_class; // effective
    uint32_t labels;          // effective label bits
    struct td_str residency;
    bool degraded; // offline: a better target exists but cannot be reached
    bool outbox;   // policy or wish: queue for a better answer
    bool blocked;  // a rule with transform block
    struct td_str block_rule, block_reason;
    uint64_t policy_version;
    uint64_t draw; // the random draw used for ties and jitter, stored for replay
};

const char *td_reason_word(enum td_reason reason);
const char *td_reason_text(enum td_reason reason);

#endif
