// SPDX-License-Identifier: Apache-2.0
// A plan: what decide() returns and the exchange executes. A plain value in the caller's arena: ordered attempts with
// mode, limits and transforms, and a verdict with its reason for every target, taken or refused. The same inputs give
// the same plan, byte for byte.
#ifndef TD_ROUTE_PLAN_H
#define TD_ROUTE_PLAN_H

#include "policy/reason.h"
#include "target/world.h"

struct td_verdict {
    bool taken;
    enum td_reason reason;
    struct td_str rule;  // name of the deciding rule, "" none; points into the configuration snapshot
    double score;        // utility, NaN where refused
    int64_t cost_nusd;   // expected, with the prices of the configuration
    uint32_t latency_ms; // expected time to first token
    uint32_t lacks;      // refused for capability: the enum td_capability bits it does not have
    double quality;      // expected
};

struct td_step {
    uint32_t target; // index
    enum td_reason reason;
    uint32_t retries_max; // same target again, before the next step
    // While a later step is left its connection must be there by then; after another's hung, by the second. 0: the
    // target's own limit.
    uint32_t connect_ms, connect_late_ms;
};

struct td_plan {
    enum td_mode mode; // never DEFAULT
    struct td_step steps[TD_ATTEMPTS_MAX];
    uint32_t step_count; // 0: nobody may answer; the verdicts say why
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
    enum td_prefer prefer;   // effective, never DEFAULT
    struct td_str mode_rule; // rule that gave the mode, "" none
    bool shed;               // batch work: the first to be turned away under load
    uint32_t retry_after_ms; // no step: when asking again may help; 0 unknown
    uint64_t draw;           // the random draw used for ties and jitter, stored for replay
    // Of each target. Last, because a decision makes only as many places as there are targets: a plan is not copied.
    struct td_verdict verdicts[TD_TARGETS_MAX];
};

static inline size_t td_plan_bytes(uint32_t targets) {
    return offsetof(struct td_plan, verdicts) + targets * sizeof(struct td_verdict);
}
// What the router expects of this target for this request; 0 where the plan does not say.
static inline double td_plan_estimate(const struct td_plan *plan, uint32_t target) {
    return target < plan->verdict_count ? plan->verdicts[target].quality : 0;
}
// Is an answer of target `a` worth more than one of `b`? By quality; where that is equal, by what is expected of each.
static inline bool td_plan_is_better(const struct td_plan *plan, const struct td_target *a, const struct td_target *b) {
    if (a->quality != b->quality)
        return a->quality > b->quality;
    return td_plan_estimate(plan, a->index) > td_plan_estimate(plan, b->index);
}

#endif
