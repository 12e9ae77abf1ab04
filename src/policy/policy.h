// SPDX-License-Identifier: Apache-2.0
// Policy: which targets a request may reach, whatever else speaks for them. Rules are compiled to a table when the
// configuration is read and evaluated without allocation. Pure: facts, link and device facts in, verdict out.
//
// All matching rules apply: what they allow intersects, what any denies is denied, the strictest transform holds, the
// first matching rule in file order gives mode, on_cut and outbox. No rule can widen what another narrowed. Immutable
// after its configuration was read; any thread.
#ifndef TD_POLICY_POLICY_H
#define TD_POLICY_POLICY_H

#include "policy/facts.h"
#include "policy/reason.h"
#include "target/world.h"

// In order of strictness.
enum td_transform { TD_TRANSFORM_NONE, TD_TRANSFORM_LOCAL_ONLY, TD_TRANSFORM_BLOCK };
enum td_tristate { TD_ANY, TD_NO, TD_YES };

#define TD_REGIONS_MAX 16u // in one rule; more belongs into two rules

// A set of targets described by what they are. A dimension that is not stated holds every target.
struct td_target_set {
    bool has_tiers, has_targets, has_regions;
    uint32_t tiers;   // bit per policy tier
    uint64_t targets; // bit per target index
    struct td_str regions[TD_REGIONS_MAX];
    uint32_t region_count;
};

struct td_when {
    uint32_t labels;     // any of these; 0 not asked
    uint32_t labels_all; // all of these
    uint32_t classes;    // bit per enum td_class; 0 not asked
    struct td_str residency, tenant, model;
    uint32_t kinds;                  // bit per enum td_kind; 0 not asked
    uint32_t capabilities;           // needs any of these; 0 not asked
    uint32_t prefers, modes;         // bits; 0 not asked
    uint32_t features;               // any of these; 0 not asked
    uint32_t tokens_min, tokens_max; // estimated input tokens; max 0: no limit
    enum td_tristate tools, conversation, fresh, batch, stream, link_up, metered, on_battery, hot;
    uint32_t battery_below_percent; // 0 not asked
};

struct td_rule {
    struct td_str name, reason;
    struct td_when when;
    bool has_allow, has_deny;
    struct td_target_set allow, deny;
    enum td_transform transform;
    enum td_mode mode; // DEFAULT: not stated
    bool has_on_cut, has_outbox, outbox;
    enum td_on_cut on_cut;
    double on_cut_min_quality;
    int64_t cost_nusd_max; // per request; -1 none
};

struct td_content_rules; // privacy/content.h

struct td_alias {
    struct td_str from, to;
};

struct td_tenant {
    struct td_str name;
    enum td_class default_class;                // of its unlabelled requests; UNKNOWN: the policy's
    uint32_t labels;                            // every request of it bears these
    struct td_str residency;                    // "" none; holds for each of its requests
    int64_t budget_day_nusd, budget_month_nusd; // -1 none
    uint32_t requests_per_min;                  // 0 unlimited
    uint32_t tokens_per_min;                    // 0 unlimited
    bool has_allow;
    struct td_target_set allow;
    bool batch; // its requests are shed first
};

// Rules, and what they speak of: the same lists as the configuration's, so that a decision needs facts, policy and
// world and nothing else.
struct td_policy {
    uint64_t version; // differs whenever the configuration's text differs
    enum td_class default_class;
    struct td_rule *rules;
    uint32_t rule_count;
    struct td_str labels[TD_LABELS_MAX]; // name of each bit; "" free
    uint32_t label_count;
    enum td_class label_class[TD_LABELS_MAX]; // the class a label raises to; UNKNOWN none
    struct td_content_rules *content;         // NULL none
    // Defaults where neither request nor rule speaks.
    enum td_prefer prefer;
    enum td_mode mode; // DEFAULT: chosen per request
    enum td_on_cut on_cut;
    double on_cut_min_quality;
    double cascade_threshold;
    uint32_t hold_tokens, hold_ms;
    bool pass_draft; // cascade: the one that is asked next sees the unsure draft
    bool hedge_paid;
    uint32_t hedge_ppm_max;  // share of calls that may be hedged
    uint32_t hedge_after_ms; // 0: the target's own p95
    bool outbox;
    struct td_str default_model; // what a request without a model asks for
    const struct td_target *targets;
    uint32_t target_count;
    const struct td_alias *aliases;
    uint32_t alias_count;
    const struct td_tenant *tenants; // sorted by name
    uint32_t tenant_count;
};

// What all matching rules together say of one request.
struct td_ruling {
    uint64_t matched[TD_RULES_MAX / 64]; // bit per rule
    const struct td_tenant *tenant;      // NULL none
    enum td_class data_class;            // effective
    uint32_t labels;                     // the request's and its tenant's
    struct td_str residency;             // the request's, else its tenant's
    enum td_prefer prefer;               // never DEFAULT
    enum td_transform transform;
    const struct td_rule *transform_rule;
    enum td_mode mode;
    const struct td_rule *mode_rule;
    enum td_on_cut on_cut;
    double on_cut_min_quality;
    bool outbox;
    int64_t cost_nusd_max; // -1 none
    const struct td_rule *cost_rule;
};

// The label's bit; TD_LABEL_OTHER for a name that the configuration does not know.
uint32_t td_policy_label(const struct td_policy *policy, struct td_str name);
struct td_buf;
// Labels by their names, with a space between, for what outlives a configuration: bits may stand for other names in the
// next. "*" is TD_LABEL_OTHER, and so is a name that is not known when it is read.
enum td_err td_policy_label_names(const struct td_policy *policy, uint32_t labels, struct td_buf *out) TD_MUST_USE;
uint32_t td_policy_label_bits(const struct td_policy *policy, struct td_str names);
// The class after the labels had their say: at least `stated`, at least what each label raises to; UNKNOWN stays.
enum td_class td_policy_class_raise(const struct td_policy *policy, enum td_class stated, uint32_t labels);
// Rules that match. `world` may be NULL: link up, not metered, mains power.
void td_policy_rule(const struct td_policy *policy, const struct td_facts *facts, const struct td_world *world,
                    struct td_ruling *out);
// May this target see this request? TD_REASON_CHOSEN, or the first constraint that refuses it; *rule the rule that did.
enum td_reason td_policy_admits(const struct td_policy *policy, const struct td_ruling *ruling,
                                const struct td_facts *facts, const struct td_target *target,
                                const struct td_rule **rule);

struct td_policy_verdict {
    bool allowed;
    enum td_reason reason; // where refused
    struct td_str rule;    // "" none; points into one of the two snapshots
    enum td_transform transform;
    uint64_t version; // of the policy that refused, else of the one in force
};

// The door before every attempt, retry, hedge, continuation, revision and replay: `target` (one of
// accepted->targets) must be allowed by the policy the request was accepted under and by the one in force, and still be
// named there. Both may be the same. Fails closed: a target that is no longer in force is refused.
struct td_policy_verdict td_policy_check_attempt(const struct td_policy *accepted, const struct td_policy *current,
                                                 const struct td_facts *facts, const struct td_world *world,
                                                 const struct td_target *target);
// The facts as a later policy sees them: a label that the caller stated and only this one has a name for bears that
// name.
struct td_facts td_policy_facts_in(const struct td_policy *policy, const struct td_facts *facts);
// `index` of a place that is no target of the list (a webhook): no rule that names targets speaks of it.
#define TD_TARGET_UNLISTED UINT32_MAX
// The tiers that facts, matching rules and the tenant leave, as bits: what the next Tandem of a chain must keep to.
// `world` may be NULL as above.
uint32_t td_policy_tiers(const struct td_policy *policy, const struct td_facts *facts, const struct td_world *world);
// NULL where there is none of this name.
const struct td_target *td_policy_target(const struct td_policy *policy, struct td_str name);
const struct td_tenant *td_policy_tenant(const struct td_policy *policy, struct td_str name);
// What a client's model name stands for: itself where no alias says otherwise.
struct td_str td_policy_alias(const struct td_policy *policy, struct td_str model);
// True where `region` is `allowed` or lies in it ("eu" holds "eu-west-1").
bool td_region_within(struct td_str region, struct td_str allowed);

#endif
