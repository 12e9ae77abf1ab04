// SPDX-License-Identifier: Apache-2.0
#include "route/decide.h"

#include "target/words.h"

// What the refusals are about, for the choice of an error: what may pass by itself is worth another try later; else one
// constraint behind all of them names the error.
enum td_err td_plan_error(const struct td_plan *plan) {
    uint64_t seen = 0;
    bool passes = false;
    if (plan->step_count)
        return TD_OK;
    if (plan->blocked)
        return TD_ERR_BLOCKED;
    for (uint32_t i = 0; i < plan->verdict_count; i++) {
        enum td_reason reason = plan->verdicts[i].reason;
        if (reason == TD_REASON_NOT_PINNED)
            continue;
        seen |= 1ull << reason;
        passes = passes || td_reason_passes(reason);
    }
    const uint64_t unable = 1ull << TD_REASON_CONTEXT | 1ull << TD_REASON_CAPABILITY | 1ull << TD_REASON_OUTPUT;
    if (seen == 1ull << TD_REASON_OVERLOADED)
        return TD_ERR_OVERLOAD;
    if (passes)
        return TD_ERR_UNAVAILABLE;
    if (seen == 1ull << TD_REASON_COST)
        return TD_ERR_BUDGET;
    if (seen == 1ull << TD_REASON_DEADLINE)
        return TD_ERR_DEADLINE;
    if (seen && !(seen & ~unable)) // none can, whatever policy allows
        return seen >> TD_REASON_CONTEXT & 1 ? TD_ERR_CONTEXT_LENGTH : TD_ERR_UNSUPPORTED;
    return TD_ERR_NO_TARGET;
}

// What the reason's own text does not tell: the classes, the rule, what it cannot do, and how an unstated region or
// clearance came in.
static enum td_err add_detail(const struct td_verdict *v, const struct td_target *t, const struct td_plan *plan,
                              struct td_buf *out) {
    if (v->rule.n)
        TD_TRY(td_buf_printf(out, " (rule %.*s)", TD_STR_ARG(v->rule)));
    if (v->reason == TD_REASON_CLASS) {
        const char *hint = t->policy_tier == TD_TIER_CLOUD && t->tier != TD_TIER_CLOUD ? "; it does not state terminal"
                           : !t->region.n                                              ? "; it states no region"
                           : !t->clearance_stated                                      ? "; it states no clearance"
                                                                                       : "";
        TD_TRY(td_buf_printf(out, " (%s > %s%s)", td_class_word(plan->data_class), td_class_word(t->clearance), hint));
    }
    const char *separator = " (";
    for (uint32_t lacks = v->lacks; lacks; lacks &= lacks - 1, separator = ", ")
        TD_TRY(td_buf_printf(out, "%s%s", separator, td_capability_word((unsigned)__builtin_ctz(lacks))));
    if (v->lacks)
        TD_TRY(td_buf_addc(out, ')'));
    if (v->reason == TD_REASON_RESIDENCY && !v->rule.n)
        TD_TRY(td_buf_printf(out, " (%s%.*s, wanted %.*s)", t->region.n ? "" : "none stated", TD_STR_ARG(t->region),
                             TD_STR_ARG(plan->residency)));
    return TD_OK;
}

enum td_err td_no_target_message(const struct td_plan *plan, const struct td_policy *p, struct td_buf *out) {
    if (plan->blocked) {
        TD_TRY(td_buf_printf(out, "blocked by rule %.*s", TD_STR_ARG(plan->block_rule)));
        return plan->block_reason.n ? td_buf_printf(out, ": %.*s", TD_STR_ARG(plan->block_reason)) : TD_OK;
    }
    TD_TRY(td_buf_addz(out, "no target may answer: "));
    bool first = true;
    for (uint32_t i = 0; i < plan->verdict_count; i++) {
        const struct td_verdict *v = &plan->verdicts[i];
        if (v->reason == TD_REASON_NOT_PINNED)
            continue;
        TD_TRY(td_buf_printf(out, "%s%.*s: %s", first ? "" : "; ", TD_STR_ARG(p->targets[i].name),
                             td_reason_text(v->reason)));
        TD_TRY(add_detail(v, &p->targets[i], plan, out));
        first = false;
    }
    return TD_OK;
}

static const char *on_cut_word(enum td_on_cut on_cut) {
    static const char *const words[] = {"continue", "restart", "error"};
    return words[on_cut];
}

static enum td_err add_usd(struct td_buf *out, int64_t nusd) {
    return td_buf_printf(out, "%lld.%09lld", (long long)(nusd / 1000000000), (long long)(nusd % 1000000000));
}

static const char *const feature_words[] = {"question",   "command", "code",     "math",    "fresh",
                                            "multi_turn", "long",    "creative", "analysis"};

static enum td_err add_labels_text(const struct td_policy *p, uint32_t labels, struct td_buf *out) {
    for (; labels; labels &= labels - 1) {
        uint32_t bit = (uint32_t)__builtin_ctz(labels);
        struct td_str name = p->labels[bit].n ? p->labels[bit] : TD_STR("(other)");
        TD_TRY(td_buf_printf(out, " %.*s", TD_STR_ARG(name)));
    }
    return TD_OK;
}

static enum td_err add_request_text(const struct td_plan *plan, const struct td_policy *p, const struct td_facts *f,
                                    struct td_buf *out) {
    TD_TRY(td_buf_printf(out, "request   %s, about %u tokens in, %u out; class %s", td_kind_word(f->kind),
                         f->input_tokens, f->output_tokens, td_class_word(plan->data_class)));
    if (plan->labels) {
        TD_TRY(td_buf_addz(out, ", labels"));
        TD_TRY(add_labels_text(p, plan->labels, out));
    }
    if (plan->residency.n)
        TD_TRY(td_buf_printf(out, ", residency %.*s", TD_STR_ARG(plan->residency)));
    TD_TRY(td_buf_addz(out, "\nlooks like"));
    for (unsigned i = 0; i < sizeof feature_words / sizeof feature_words[0]; i++)
        if (f->features >> i & 1)
            TD_TRY(td_buf_printf(out, " %s", feature_words[i]));
    return td_buf_printf(out, "%s (difficulty %.2f)\n", f->features ? "" : " nothing in particular",
                         (double)f->difficulty_ppm / 1e6);
}

static enum td_err add_verdict_text(const struct td_plan *plan, const struct td_target *t, const struct td_verdict *v,
                                    int place, struct td_buf *out) {
    if (place >= 0)
        TD_TRY(td_buf_printf(out, "  %d. ", place + 1));
    else
        TD_TRY(td_buf_addz(out, "  -  "));
    TD_TRY(td_buf_printf(out, "%-16.*s %-7s ", TD_STR_ARG(t->name), td_tier_word(t->tier)));
    if (v->score == v->score) {
        TD_TRY(td_buf_printf(out, "score %5.2f  quality %.2f  %5u ms  $", v->score, v->quality, v->latency_ms));
        TD_TRY(add_usd(out, v->cost_nusd));
        TD_TRY(td_buf_addz(out, "  "));
    }
    TD_TRY(td_buf_printf(out, "%s: %s", td_reason_word(v->reason), td_reason_text(v->reason)));
    TD_TRY(add_detail(v, t, plan, out));
    return td_buf_addc(out, '\n');
}

static int place_of(const struct td_plan *plan, uint32_t target) {
    for (uint32_t k = 0; k < plan->step_count; k++)
        if (plan->steps[k].target == target)
            return (int)k;
    return -1;
}

enum td_err td_explain_text(const struct td_plan *plan, const struct td_policy *p, const struct td_facts *f,
                            struct td_buf *out) {
    TD_TRY(add_request_text(plan, p, f, out));
    TD_TRY(td_buf_printf(out, "plan      %s, prefer %s", plan->step_count ? td_mode_word(plan->mode) : "none",
                         td_prefer_word(plan->prefer)));
    if (plan->mode_rule.n)
        TD_TRY(td_buf_printf(out, ", mode by rule %.*s", TD_STR_ARG(plan->mode_rule)));
    if (plan->mode == TD_MODE_CASCADE)
        TD_TRY(td_buf_printf(out, ", escalates below confidence %.2f", plan->cascade_threshold));
    if (plan->hedge_after_ms)
        TD_TRY(td_buf_printf(out, ", hedge after %u ms", plan->hedge_after_ms));
    if (plan->deadline_ms)
        TD_TRY(td_buf_printf(out, ", deadline %llu ms", (unsigned long long)plan->deadline_ms));
    TD_TRY(td_buf_printf(out, ", on cut %s%s%s\n", on_cut_word(plan->on_cut), plan->degraded ? ", degraded" : "",
                         plan->outbox ? ", may wait in the outbox" : ""));
    for (uint32_t k = 0; k < plan->step_count; k++)
        TD_TRY(add_verdict_text(plan, &p->targets[plan->steps[k].target], &plan->verdicts[plan->steps[k].target],
                                (int)k, out));
    for (uint32_t i = 0; i < plan->verdict_count; i++)
        if (place_of(plan, i) < 0)
            TD_TRY(add_verdict_text(plan, &p->targets[i], &plan->verdicts[i], -1, out));
    if (plan->step_count)
        return TD_OK;
    TD_TRY(td_no_target_message(plan, p, out));
    return td_buf_addc(out, '\n');
}

static enum td_err add_labels_json(const struct td_policy *p, uint32_t labels, struct td_buf *out) {
    const char *comma = "";
    TD_TRY(td_buf_addc(out, '['));
    for (; labels; labels &= labels - 1, comma = ",") {
        uint32_t bit = (uint32_t)__builtin_ctz(labels);
        TD_TRY(td_buf_addz(out, comma));
        TD_TRY(td_buf_add_json(out, p->labels[bit].n ? p->labels[bit] : TD_STR("other")));
    }
    return td_buf_addc(out, ']');
}

static enum td_err add_member(struct td_buf *out, const char *key, struct td_str value) {
    TD_TRY(td_buf_printf(out, ",\"%s\":", key));
    return td_buf_add_json(out, value);
}

static enum td_err add_verdict_json(const struct td_target *t, const struct td_verdict *v, int place,
                                    struct td_buf *out) {
    TD_TRY(td_buf_addz(out, "{\"target\":"));
    TD_TRY(td_buf_add_json(out, t->name));
    TD_TRY(td_buf_printf(out, ",\"tier\":\"%s\"", td_tier_word(t->tier)));
    TD_TRY(add_member(out, "model", t->model));
    TD_TRY(td_buf_printf(out, ",\"taken\":%s,\"place\":", v->taken ? "true" : "false"));
    TD_TRY(place >= 0 ? td_buf_printf(out, "%d", place + 1) : td_buf_addz(out, "null"));
    TD_TRY(
        td_buf_printf(out, ",\"reason\":\"%s\",\"text\":\"%s\"", td_reason_word(v->reason), td_reason_text(v->reason)));
    TD_TRY(v->rule.n ? add_member(out, "rule", v->rule) : td_buf_addz(out, ",\"rule\":null"));
    TD_TRY(td_buf_addz(out, ",\"score\":"));
    TD_TRY(v->score == v->score ? td_buf_printf(out, "%.9g", v->score) : td_buf_addz(out, "null"));
    return td_buf_printf(out, ",\"quality\":%.9g,\"latency_ms\":%u,\"cost_nusd\":%lld}", v->quality, v->latency_ms,
                         (long long)v->cost_nusd);
}

static enum td_err add_facts_json(const struct td_plan *plan, const struct td_policy *p, const struct td_facts *f,
                                  struct td_buf *out) {
    const char *comma = "";
    TD_TRY(td_buf_printf(out, "{\"kind\":\"%s\",\"data_class\":\"%s\",\"labels\":", td_kind_word(f->kind),
                         td_class_word(plan->data_class)));
    TD_TRY(add_labels_json(p, plan->labels, out));
    TD_TRY(add_member(out, "residency", plan->residency));
    TD_TRY(add_member(out, "tenant", f->tenant));
    TD_TRY(add_member(out, "model", f->model));
    TD_TRY(td_buf_printf(out, ",\"input_tokens\":%u,\"output_tokens\":%u,\"difficulty\":%.6f,\"features\":[",
                         f->input_tokens, f->output_tokens, (double)f->difficulty_ppm / 1e6));
    for (unsigned i = 0; i < sizeof feature_words / sizeof feature_words[0]; i++)
        if (f->features >> i & 1) {
            TD_TRY(td_buf_printf(out, "%s\"%s\"", comma, feature_words[i]));
            comma = ",";
        }
    return td_buf_addz(out, "]}");
}

enum td_err td_explain_json(const struct td_plan *plan, const struct td_policy *p, const struct td_facts *f,
                            struct td_buf *out) {
    TD_TRY(td_buf_addz(out, "{\"request\":"));
    TD_TRY(add_facts_json(plan, p, f, out));
    TD_TRY(td_buf_printf(out, ",\"mode\":\"%s\",\"prefer\":\"%s\"", td_mode_word(plan->mode),
                         td_prefer_word(plan->prefer)));
    TD_TRY(add_member(out, "mode_rule", plan->mode_rule));
    TD_TRY(td_buf_printf(out,
                         ",\"on_cut\":\"%s\",\"on_cut_min_quality\":%.9g,\"cascade_threshold\":%.9g,\"hold_tokens\":%u,"
                         "\"hold_ms\":%u,\"hedge_after_ms\":%u,\"refine_after_ms\":%u,\"deadline_ms\":%llu,"
                         "\"max_cost_nusd\":%lld,\"degraded\":%s,\"outbox\":%s,\"blocked\":%s,\"shed\":%s",
                         on_cut_word(plan->on_cut), plan->on_cut_min_quality, plan->cascade_threshold,
                         plan->hold_tokens, plan->hold_ms, plan->hedge_after_ms, plan->refine_after_ms,
                         (unsigned long long)plan->deadline_ms, (long long)plan->max_cost_nusd,
                         plan->degraded ? "true" : "false", plan->outbox ? "true" : "false",
                         plan->blocked ? "true" : "false", plan->shed ? "true" : "false"));
    TD_TRY(td_buf_printf(out, ",\"policy_version\":\"%016llx\",\"draw\":\"%016llx\",\"retry_after_ms\":%u,\"steps\":[",
                         (unsigned long long)plan->policy_version, (unsigned long long)plan->draw,
                         plan->retry_after_ms));
    for (uint32_t k = 0; k < plan->step_count; k++) {
        TD_TRY(td_buf_addz(out, k ? ",{\"target\":" : "{\"target\":"));
        TD_TRY(td_buf_add_json(out, p->targets[plan->steps[k].target].name));
        TD_TRY(td_buf_printf(out, ",\"reason\":\"%s\",\"retries_max\":%u,\"connect_ms\":%u,\"connect_late_ms\":%u}",
                             td_reason_word(plan->steps[k].reason), plan->steps[k].retries_max,
                             plan->steps[k].connect_ms, plan->steps[k].connect_late_ms));
    }
    TD_TRY(td_buf_addz(out, "],\"targets\":["));
    for (uint32_t i = 0; i < plan->verdict_count; i++) {
        TD_TRY(td_buf_addz(out, i ? "," : ""));
        TD_TRY(add_verdict_json(&p->targets[i], &plan->verdicts[i], place_of(plan, i), out));
    }
    TD_TRY(td_buf_addc(out, ']'));
    if (plan->step_count == 0) {
        struct td_buf why;
        td_buf_init(&why, 1 << 16);
        enum td_err err = td_no_target_message(plan, p, &why);
        if (err == TD_OK)
            err = add_member(out, "message", td_buf_str(&why));
        td_buf_finish(&why);
        TD_TRY(err);
    }
    return td_buf_addc(out, '}');
}
