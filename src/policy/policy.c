// SPDX-License-Identifier: Apache-2.0
#include "policy/policy.h"

#include <string.h>

#include "base/mem.h"

uint32_t td_policy_label(const struct td_policy *p, struct td_str name) {
    for (uint32_t i = 0; i < p->label_count; i++)
        if (td_str_eq(p->labels[i], name))
            return 1u << i;
    return TD_LABEL_OTHER;
}

enum td_err td_policy_label_names(const struct td_policy *p, uint32_t labels, struct td_buf *out) {
    enum td_err err = TD_OK;
    bool other = false, first = true;
    for (; err == TD_OK && labels; labels &= labels - 1) {
        struct td_str name = p->labels[__builtin_ctz(labels)];
        if (name.n == 0) {
            other = true;
            continue;
        }
        err = first ? TD_OK : td_buf_addc(out, ' ');
        if (err == TD_OK)
            err = td_buf_add_str(out, name);
        first = false;
    }
    return err == TD_OK && other ? td_buf_addz(out, first ? "*" : " *") : err;
}

uint32_t td_policy_label_bits(const struct td_policy *p, struct td_str names) {
    uint32_t labels = 0;
    while (names.n) {
        const char *space = memchr(names.p, ' ', names.n);
        struct td_str name = td_str_n(names.p, space ? (size_t)(space - names.p) : names.n);
        if (name.n)
            labels |= td_policy_label(p, name);
        names = space ? td_str_n(space + 1, names.n - name.n - 1) : TD_STR_NONE;
    }
    return labels;
}

enum td_class td_policy_class_raise(const struct td_policy *p, enum td_class class, uint32_t labels) {
    for (; labels; labels &= labels - 1) {
        enum td_class c = p->label_class[__builtin_ctz(labels)];
        if (c > class)
            class = c;
    }
    return class;
}

const struct td_target *td_policy_target(const struct td_policy *p, struct td_str name) {
    for (uint32_t i = 0; i < p->target_count; i++)
        if (td_str_eq(p->targets[i].name, name))
            return &p->targets[i];
    return NULL;
}

const struct td_tenant *td_policy_tenant(const struct td_policy *p, struct td_str name) {
    uint32_t from = 0, to = p->tenant_count;
    while (from < to) {
        uint32_t mid = from + (to - from) / 2;
        struct td_str at = p->tenants[mid].name;
        int c = memcmp(at.p, name.p ? name.p : "", at.n < name.n ? at.n : name.n);
        if (c == 0 && at.n == name.n)
            return &p->tenants[mid];
        if (c < 0 || (c == 0 && at.n < name.n))
            from = mid + 1;
        else
            to = mid;
    }
    return NULL;
}

struct td_str td_policy_alias(const struct td_policy *p, struct td_str model) {
    for (uint32_t i = 0; i < p->alias_count; i++)
        if (td_str_eq(p->aliases[i].from, model))
            return p->aliases[i].to;
    return model;
}

bool td_region_within(struct td_str region, struct td_str allowed) {
    return region.n && td_str_starts(region, allowed) && (region.n == allowed.n || region.p[allowed.n] == '-');
}

static enum td_class effective_class(const struct td_policy *p, const struct td_facts *f) {
    const struct td_tenant *tenant = f->tenant.n ? td_policy_tenant(p, f->tenant) : NULL;
    enum td_class class = td_policy_class_raise(p, f->data_class, f->labels | (tenant ? tenant->labels : 0));
    if (class == TD_CLASS_UNKNOWN)
        class = tenant && tenant->default_class != TD_CLASS_UNKNOWN ? tenant->default_class : p->default_class;
    return class;
}

static bool tristate_holds(enum td_tristate want, bool is) {
    return want == TD_ANY || (want == TD_YES) == is;
}

static enum td_prefer effective_prefer(const struct td_policy *p, const struct td_facts *f) {
    enum td_prefer prefer = f->prefer;
    struct td_str model = td_policy_alias(p, f->model);
    if (prefer == TD_PREFER_DEFAULT && td_str_starts(model, TD_STR("auto:"))) {
        static const char *const words[] = {"", "balanced", "fast", "cheap", "quality", "private"};
        for (unsigned i = TD_PREFER_BALANCED; i <= TD_PREFER_PRIVATE; i++)
            if (td_str_is(td_str_n(model.p + 5, model.n - 5), words[i]))
                prefer = (enum td_prefer)i;
    }
    return prefer == TD_PREFER_DEFAULT ? p->prefer : prefer;
}

static bool world_holds(const struct td_when *w, const struct td_world *world) {
    bool up = !world || (world->link.up && world->link.forced != TD_CONNECTIVITY_OFFLINE);
    bool metered = world && (world->link.metered || world->link.forced == TD_CONNECTIVITY_METERED);
    uint32_t battery = world ? world->device.battery_percent : 100;
    return tristate_holds(w->link_up, up) && tristate_holds(w->metered, metered) &&
           tristate_holds(w->on_battery, world && world->device.on_battery) &&
           tristate_holds(w->hot, world && world->device.hot) &&
           (!w->battery_below_percent || battery < w->battery_below_percent);
}

static bool rule_matches(const struct td_policy *p, const struct td_rule *rule, const struct td_facts *f,
                         const struct td_world *world, const struct td_ruling *r) {
    const struct td_when *w = &rule->when;
    if (w->labels && !(w->labels & r->labels))
        return false;
    if (w->labels_all & ~r->labels)
        return false;
    if (w->classes && !(w->classes >> r->data_class & 1))
        return false;
    if (w->residency.n && !td_region_within(r->residency, w->residency))
        return false;
    if (w->tenant.n && !td_str_eq(w->tenant, f->tenant))
        return false;
    if (w->model.n && !td_str_eq(w->model, f->model))
        return false;
    if (w->kinds && !(w->kinds >> f->kind & 1))
        return false;
    if (w->capabilities && !(w->capabilities & f->capabilities))
        return false;
    if (w->prefers && !(w->prefers >> effective_prefer(p, f) & 1))
        return false;
    if (w->modes && !(w->modes >> f->mode & 1))
        return false;
    if (w->features && !(w->features & f->features))
        return false;
    if (f->input_tokens < w->tokens_min || (w->tokens_max && f->input_tokens > w->tokens_max))
        return false;
    return tristate_holds(w->tools, f->has_tools) && tristate_holds(w->conversation, f->conversation) &&
           tristate_holds(w->fresh, f->fresh) && tristate_holds(w->batch, f->batch) &&
           tristate_holds(w->stream, f->stream) && world_holds(w, world);
}

static void apply_rule(const struct td_rule *rule, struct td_ruling *r, bool *has_on_cut, bool *has_outbox) {
    if (rule->transform > r->transform) {
        r->transform = rule->transform;
        r->transform_rule = rule;
    }
    if (rule->mode != TD_MODE_DEFAULT && !r->mode_rule) {
        r->mode = rule->mode;
        r->mode_rule = rule;
    }
    if (rule->has_on_cut && !*has_on_cut) {
        r->on_cut = rule->on_cut;
        if (rule->on_cut_min_quality >= 0)
            r->on_cut_min_quality = rule->on_cut_min_quality;
        *has_on_cut = true;
    }
    if (rule->has_outbox && !*has_outbox) {
        r->outbox = rule->outbox;
        *has_outbox = true;
    }
    if (rule->cost_nusd_max >= 0 && (r->cost_nusd_max < 0 || rule->cost_nusd_max < r->cost_nusd_max)) {
        r->cost_nusd_max = rule->cost_nusd_max;
        r->cost_rule = rule;
    }
}

void td_policy_rule(const struct td_policy *p, const struct td_facts *f, const struct td_world *world,
                    struct td_ruling *r) {
    const struct td_tenant *tenant = f->tenant.n ? td_policy_tenant(p, f->tenant) : NULL;
    bool has_on_cut = false, has_outbox = false;
    memset(r, 0, sizeof *r);
    r->tenant = tenant;
    r->labels = f->labels | (tenant ? tenant->labels : 0);
    r->residency = f->residency.n ? f->residency : tenant ? tenant->residency : TD_STR_NONE;
    r->data_class = effective_class(p, f);
    r->prefer = effective_prefer(p, f);
    r->on_cut = p->on_cut;
    r->on_cut_min_quality = p->on_cut_min_quality;
    r->outbox = p->outbox;
    r->cost_nusd_max = -1;
    for (uint32_t i = 0; i < p->rule_count; i++)
        if (rule_matches(p, &p->rules[i], f, world, r)) {
            r->matched[i / 64] |= 1ull << (i % 64);
            apply_rule(&p->rules[i], r, &has_on_cut, &has_outbox);
        }
}

// What a target is to the rules; `index` its place in the policy's own list.
static bool region_in(const struct td_target_set *set, struct td_str region) {
    for (uint32_t i = 0; i < set->region_count; i++)
        if (td_region_within(region, set->regions[i]))
            return true;
    return false;
}

static bool named_in(const struct td_target_set *set, uint32_t index) {
    return index < TD_TARGETS_MAX && set->targets >> index & 1;
}

// TD_REASON_CHOSEN where the set holds it, else the dimension that does not.
static enum td_reason outside(const struct td_target_set *set, const struct td_target *t, uint32_t index) {
    if (set->has_tiers && !(set->tiers >> t->policy_tier & 1))
        return TD_REASON_TIER;
    if (set->has_regions && !region_in(set, t->region))
        return TD_REASON_RESIDENCY;
    if (set->has_targets && !named_in(set, index))
        return TD_REASON_DENIED;
    return TD_REASON_CHOSEN;
}

static bool in_any(const struct td_target_set *set, const struct td_target *t, uint32_t index) {
    return (set->has_tiers && set->tiers >> t->policy_tier & 1) || (set->has_regions && region_in(set, t->region)) ||
           (set->has_targets && named_in(set, index));
}

// The rules that matched, on one target.
static enum td_reason rules_admit(const struct td_policy *p, const struct td_ruling *r, const struct td_target *t,
                                  uint32_t index, const struct td_rule **by) {
    for (uint32_t w = 0; w * 64 < p->rule_count; w++)
        for (uint64_t bits = r->matched[w]; bits; bits &= bits - 1) {
            const struct td_rule *rule = &p->rules[w * 64 + (uint32_t)__builtin_ctzll(bits)];
            enum td_reason reason = TD_REASON_CHOSEN;
            if (rule->has_deny && in_any(&rule->deny, t, index))
                reason = TD_REASON_DENIED;
            else if (rule->has_allow)
                reason = outside(&rule->allow, t, index);
            if (reason != TD_REASON_CHOSEN) {
                *by = rule;
                return reason;
            }
        }
    return TD_REASON_CHOSEN;
}

static enum td_reason admits(const struct td_policy *p, const struct td_ruling *r, const struct td_facts *f,
                             const struct td_target *t, uint32_t index, const struct td_rule **by) {
    enum td_reason reason = rules_admit(p, r, t, index, by);
    if (reason != TD_REASON_CHOSEN)
        return reason;
    if (r->transform == TD_TRANSFORM_BLOCK ||
        (r->transform == TD_TRANSFORM_LOCAL_ONLY && t->policy_tier != TD_TIER_DEVICE)) {
        *by = r->transform_rule;
        return r->transform == TD_TRANSFORM_BLOCK ? TD_REASON_DENIED : TD_REASON_LOCAL_ONLY;
    }
    if (f->tiers_allowed && !(f->tiers_allowed >> t->policy_tier & 1))
        return TD_REASON_TIER;
    if (r->tenant && r->tenant->has_allow && (reason = outside(&r->tenant->allow, t, index)) != TD_REASON_CHOSEN)
        return reason;
    struct td_str own = r->tenant ? r->tenant->residency : TD_STR_NONE; // a request cannot leave its tenant's region
    bool local = td_str_is(t->region, "local");
    if (!local && ((r->residency.n && !td_region_within(t->region, r->residency)) ||
                   (own.n && !td_region_within(t->region, own))))
        return TD_REASON_RESIDENCY;
    if (r->data_class > t->clearance)
        return TD_REASON_CLASS;
    if (r->labels & ~t->labels_cleared)
        return TD_REASON_LABEL;
    return TD_REASON_CHOSEN;
}

enum td_reason td_policy_admits(const struct td_policy *p, const struct td_ruling *r, const struct td_facts *f,
                                const struct td_target *t, const struct td_rule **by) {
    const struct td_rule *rule = NULL;
    enum td_reason reason = admits(p, r, f, t, t->index, &rule);
    if (by)
        *by = rule;
    return reason;
}

uint32_t td_policy_tiers(const struct td_policy *p, const struct td_facts *f, const struct td_world *world) {
    struct td_ruling r;
    uint32_t tiers = f->tiers_allowed ? f->tiers_allowed : (1u << TD_TIER_COUNT) - 1;
    td_policy_rule(p, f, world, &r);
    for (uint32_t i = 0; i < p->rule_count; i++) {
        const struct td_rule *rule = &p->rules[i];
        if (!(r.matched[i / 64] >> (i % 64) & 1))
            continue;
        if (rule->has_allow && rule->allow.has_tiers)
            tiers &= rule->allow.tiers;
        if (rule->has_deny && rule->deny.has_tiers)
            tiers &= ~rule->deny.tiers;
    }
    if (r.tenant && r.tenant->has_allow && r.tenant->allow.has_tiers)
        tiers &= r.tenant->allow.tiers;
    if (r.transform >= TD_TRANSFORM_LOCAL_ONLY)
        tiers &= r.transform == TD_TRANSFORM_BLOCK ? 0 : 1u << TD_TIER_DEVICE;
    return tiers & ((1u << TD_TIER_COUNT) - 1);
}

// One policy's word on a target that may be described by another snapshot, at its place in this one.
static bool check_one(const struct td_policy *p, const struct td_facts *f, const struct td_world *world,
                      const struct td_target *t, uint32_t index, struct td_policy_verdict *v) {
    struct td_ruling r;
    const struct td_rule *rule = NULL;
    td_policy_rule(p, f, world, &r);
    if (r.transform > v->transform)
        v->transform = r.transform;
    enum td_reason reason = admits(p, &r, f, t, index, &rule);
    if (reason == TD_REASON_CHOSEN)
        return true;
    v->allowed = false;
    v->reason = reason;
    v->rule = rule ? rule->name : TD_STR_NONE;
    v->version = p->version;
    return false;
}

struct td_facts td_policy_facts_in(const struct td_policy *p, const struct td_facts *f) {
    struct td_facts seen = *f;
    for (uint32_t i = 0; i < f->stated_label_count; i++)
        seen.labels |= td_policy_label(p, f->stated_labels[i]);
    return seen;
}

struct td_policy_verdict td_policy_check_attempt(const struct td_policy *accepted, const struct td_policy *current,
                                                 const struct td_facts *f, const struct td_world *world,
                                                 const struct td_target *t) {
    struct td_policy_verdict v = {.allowed = true, .reason = TD_REASON_CHOSEN, .version = current->version};
    if (!check_one(accepted, f, world, t, t->index, &v) || accepted == current)
        return v;
    const struct td_target *now = td_policy_target(current, t->name);
    bool tenant_gone = f->tenant.n && td_policy_tenant(accepted, f->tenant) && !td_policy_tenant(current, f->tenant);
    if (!now || tenant_gone) { // what it was limited to is no longer known
        v.allowed = false;
        v.reason = TD_REASON_REMOVED;
        return v;
    }
    struct td_facts of_now = td_policy_facts_in(current, f);
    // As it is described now, and as the running attempt will still reach it: both must do.
    if (check_one(current, &of_now, world, now, now->index, &v))
        check_one(current, &of_now, world, t, now->index, &v);
    return v;
}
