// SPDX-License-Identifier: Apache-2.0
#include "route/decide.h"

#include "target/words.h"

// Numbers a decision rests on. Arithmetic is additions, products and quotients only: these come out the same on every
// machine (IEEE 754), which library functions such as log() do not promise.
#define STEPS_MAX 5u             // a sixth target is no better than an honest error
#define LATENCY_HALF_MS 1500.0   // this long costs half of the latency weight
#define COST_HALF_NUSD 4000000.0 // and this much (0.004 USD) half of the cost weight
#define DIFFICULTY_PENALTY 0.8   // how much of what a model lacks a hard request brings out
#define COMMAND_WORDS_MAX 20u    // longer is no command to an assistant
#define COMMAND_TOKENS_MAX 2000u // without the tools offered; system prompt included
#define CONTEXT_SLACK 8u         // the token estimate may be off by an eighth: the target itself counts exactly
#define BATTERY_LOW_PERCENT 10u  // large local models would empty it
#define CONNECT_SLACK 20u        // a twentieth of the connect budget for what lies between two attempts
#define CONNECT_TIMES 2u         // slowest connecting seen lately, and this often, is always waited for
#define CONNECT_LATE 8u          // an eighth of it for the next one, after one that hung
#define CONNECT_ROUNDS 4u        // a name, TCP, TLS and some air, where only the link's round trip is known

static const struct {
    double quality, latency, cost;
} weights[] = {
    [TD_PREFER_BALANCED] = {1.0, 0.35, 0.35}, [TD_PREFER_FAST] = {0.3, 1.0, 0.1},
    [TD_PREFER_CHEAP] = {0.4, 0.1, 1.0},      [TD_PREFER_QUALITY] = {1.0, 0.05, 0.02},
    [TD_PREFER_PRIVATE] = {0.5, 0.2, 0.2},
};
static const double private_bonus[] = {2.0, 1.0, 1.0, 0.0};          // by tier
static const uint32_t latency_prior_ms[] = {60, 120, 200, 700};      // time to first token, by tier
static const uint32_t itl_prior_us[] = {20000, 15000, 15000, 15000}; // per token, by tier

struct decision {
    const struct td_facts *f;
    const struct td_policy *p;
    const struct td_world *w;
    struct td_plan *plan;
    struct td_ruling r;
    const struct td_target *pinned; // NULL: all targets
    bool metered, offline;
    uint64_t allowed; // bit per target
    uint32_t ranked[TD_TARGETS_MAX], ranked_count;
};

static double at_least_zero(double v) {
    return v > 0 ? v : 0;
}

// ---- what is expected of a target

static bool is_command(const struct td_facts *f) {
    const uint32_t other =
        TD_FEATURE_QUESTION | TD_FEATURE_CODE | TD_FEATURE_CREATIVE | TD_FEATURE_ANALYSIS | TD_FEATURE_LONG;
    return f->kind == TD_KIND_CHAT && f->words > 0 && f->words <= COMMAND_WORDS_MAX && !(f->features & other) &&
           f->input_tokens - f->tool_tokens <= COMMAND_TOKENS_MAX &&
           f->has_tools; // without tools there is nothing to command
}

static double expected_quality(const struct decision *d, const struct td_target *t) {
    double prior = t->quality, hard = (double)d->f->difficulty_ppm / 1e6;
    double q = at_least_zero(prior - hard * (1 - prior) * DIFFICULTY_PENALTY);
    if (t->model_class == TD_MODEL_COMMAND) {
        if (is_command(d->f))
            return prior > 0.9 ? prior : 0.9;
        q = prior * 0.3;
    }
    if (t->model_class == TD_MODEL_REASONING && d->f->features & (TD_FEATURE_MATH | TD_FEATURE_ANALYSIS))
        q += 0.05;
    if (d->f->fresh)
        q += t->fresh ? 0.15 : -0.3;
    else if (d->f->features & TD_FEATURE_FRESH && t->fresh)
        q += 0.15;
    return q < 0 ? 0 : q > 1 ? 1 : q;
}

static int64_t expected_cost(const struct td_facts *f, const struct td_target *t) {
    return (int64_t)f->input_tokens * t->price.input_nusd +
           (int64_t)f->output_tokens * t->price.output_nusd * (f->choices > 1 ? f->choices : 1);
}

static uint32_t per_token_us(const struct td_target *t, const struct td_target_state *s) {
    return s->itl_us_p50 ? s->itl_us_p50 : itl_prior_us[t->tier];
}

static uint32_t clamp_ms(uint64_t ms) {
    return ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

// Time to first token: measured, else configured, else the tier's; plus loading and the queue.
static uint32_t expected_ttft(const struct decision *d, const struct td_target *t, const struct td_target_state *s) {
    uint64_t ms = s->ttft_ms_p50 ? s->ttft_ms_p50 : t->latency_ms ? t->latency_ms : latency_prior_ms[t->tier];
    if (t->provider == TD_PROVIDER_LLAMA && !s->loaded)
        ms += s->load_ms;
    if (t->parallel && s->active >= t->parallel) {
        uint64_t one = ms + (uint64_t)d->f->output_tokens * per_token_us(t, s) / 1000;
        ms += one * (s->queued + 1) / t->parallel;
    }
    if (t->policy_tier != TD_TIER_DEVICE && !t->loopback && !s->ttft_ms_p50)
        ms += d->w->link.rtt_ms;
    return clamp_ms(ms);
}

static double score_of(const struct decision *d, const struct td_target *t, const struct td_verdict *v) {
    double generating_ms = (double)d->f->output_tokens * per_token_us(t, &d->w->targets[t->index]) / 1000;
    double latency = v->latency_ms + generating_ms / 4; // streamed text is read while it comes
    double cost = (double)v->cost_nusd;
    double score = weights[d->r.prefer].quality * v->quality -
                   weights[d->r.prefer].latency * latency / (latency + LATENCY_HALF_MS) -
                   weights[d->r.prefer].cost * cost / (cost + COST_HALF_NUSD);
    if (v->latency_ms >= t->timeouts.first_token_ms) // as things are, the attempt would be given up
        score -= 0.5;
    if (d->metered && !t->loopback)
        score -= 0.15;
    if (d->r.prefer == TD_PREFER_PRIVATE)
        score += private_bonus[t->policy_tier];
    return score;
}

// ---- hard constraints, in this order

static bool in_fallback(const struct td_target *pinned, const struct td_target *t) {
    for (uint32_t i = 0; i < pinned->fallback_count; i++)
        if (td_str_eq(pinned->fallback[i], t->name))
            return true;
    return false;
}

static bool over_cost(const struct decision *d, const struct td_target_state *s, int64_t cost,
                      const struct td_rule **rule) {
    if (d->r.cost_nusd_max >= 0 && cost > d->r.cost_nusd_max) {
        *rule = d->r.cost_rule;
        return true;
    }
    return (d->f->max_cost_nusd >= 0 && cost > d->f->max_cost_nusd) || (cost > 0 && cost > s->budget_left_nusd) ||
           (cost > 0 && cost > d->f->budget_left_nusd);
}

static bool unhealthy(const struct decision *d, const struct td_target_state *s) {
    if (s->breaker == TD_BREAKER_OPEN || (s->breaker == TD_BREAKER_HALF_OPEN && !s->probe_ok))
        return true;
    return s->ramp_ppm && s->ramp_ppm < 1000000 && s->breaker == TD_BREAKER_CLOSED &&
           d->f->draw % 1000000 >= s->ramp_ppm;
}

static bool device_unfit(const struct decision *d, const struct td_target *t) {
    if (t->provider != TD_PROVIDER_LLAMA || t->model_class == TD_MODEL_COMMAND || t->model_class == TD_MODEL_SMALL)
        return false;
    return d->w->device.hot || (d->w->device.on_battery && d->w->device.battery_percent < BATTERY_LOW_PERCENT);
}

static bool too_late(const struct decision *d, const struct td_target *t, const struct td_target_state *s,
                     uint32_t ttft_ms) {
    if (!d->f->deadline_ms)
        return false;
    uint64_t ms = ttft_ms;
    if (s->itl_us_p50) // only what was measured may refuse for the length of the answer
        ms += (uint64_t)d->f->output_tokens * per_token_us(t, s) / 1000;
    return ms > d->f->deadline_ms;
}

static bool over_context(uint32_t tokens, uint32_t context) {
    return context && tokens - tokens / CONTEXT_SLACK >= context;
}

// A model made for commands knows its tools by heart: its template does not write them out. Where only the loaded model
// told its context, the text alone is judged here, for its template may do the same; its host counts exactly.
static bool too_long(const struct decision *d, const struct td_target *t, const struct td_target_state *s) {
    uint32_t text = d->f->input_tokens - d->f->tool_tokens;
    return over_context(t->model_class == TD_MODEL_COMMAND ? text : d->f->input_tokens, t->context) ||
           over_context(text, s->context);
}

static uint32_t lacking(const struct decision *d, const struct td_target *t) {
    return d->f->capabilities & ~(t->capabilities & ~d->w->targets[t->index].capabilities_absent);
}

static enum td_reason refuse(const struct decision *d, const struct td_target *t, const struct td_verdict *v,
                             const struct td_rule **rule) {
    const struct td_target_state *s = &d->w->targets[t->index];
    if (d->pinned && t != d->pinned && !in_fallback(d->pinned, t))
        return TD_REASON_NOT_PINNED;
    enum td_reason reason = td_policy_admits(d->p, &d->r, d->f, t, rule);
    if (reason != TD_REASON_CHOSEN)
        return reason;
    if (lacking(d, t))
        return TD_REASON_CAPABILITY;
    if (too_long(d, t, s))
        return TD_REASON_CONTEXT;
    if (t->max_output && d->f->max_tokens > t->max_output)
        return TD_REASON_OUTPUT;
    if (over_cost(d, s, v->cost_nusd, rule))
        return TD_REASON_COST;
    if (!t->loopback && d->offline)
        return TD_REASON_NO_LINK;
    if (!t->loopback && d->metered && d->f->batch)
        return TD_REASON_METERED;
    if (!s->ready)
        return s->missing ? TD_REASON_NO_MODEL : TD_REASON_NOT_READY;
    if (unhealthy(d, s))
        return TD_REASON_HEALTH;
    if (s->retry_after_ms)
        return TD_REASON_RETRY_AFTER;
    if (s->full)
        return TD_REASON_OVERLOADED;
    if (device_unfit(d, t))
        return TD_REASON_DEVICE;
    if (too_late(d, t, s, v->latency_ms))
        return TD_REASON_DEADLINE;
    return TD_REASON_CHOSEN;
}

static void judge_all(struct decision *d) {
    for (uint32_t i = 0; i < d->p->target_count; i++) {
        const struct td_target *t = &d->p->targets[i];
        const struct td_rule *rule = NULL;
        struct td_verdict *v = &d->plan->verdicts[i];
        v->cost_nusd = expected_cost(d->f, t);
        v->latency_ms = expected_ttft(d, t, &d->w->targets[i]);
        v->quality = expected_quality(d, t);
        v->score = __builtin_nan("");
        v->reason = refuse(d, t, v, &rule);
        v->rule = rule ? rule->name : TD_STR_NONE;
        v->lacks = v->reason == TD_REASON_CAPABILITY ? lacking(d, t) : 0;
        if (v->reason == TD_REASON_CHOSEN)
            d->allowed |= 1ull << i;
    }
    d->plan->verdict_count = d->p->target_count;
}

// The last candidates are never ejected for what may have passed meanwhile: a hot device first, then a target thought
// unhealthy or unreachable (unless the network is off by order).
static void keep_the_last(struct decision *d) {
    static const enum td_reason soft[][2] = {{TD_REASON_DEVICE, TD_REASON_DEVICE},
                                             {TD_REASON_HEALTH, TD_REASON_NO_LINK}};
    bool ordered = d->w->link.forced == TD_CONNECTIVITY_OFFLINE;
    for (unsigned k = 0; k < 2 && !d->allowed; k++)
        for (uint32_t i = 0; i < d->p->target_count; i++) {
            enum td_reason reason = d->plan->verdicts[i].reason;
            if ((reason == soft[k][0] || reason == soft[k][1]) && !(reason == TD_REASON_NO_LINK && ordered) &&
                !d->w->targets[i].retry_after_ms)
                d->allowed |= 1ull << i;
        }
}

// ---- order

// A number from the draw for each target: equals share the work.
static uint64_t mix(uint64_t draw, uint32_t index) {
    uint64_t x = draw + 0x9e3779b97f4a7c15u * (index + 1);
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint32_t place_in_fallback(const struct td_target *pinned, const struct td_target *t) {
    if (t == pinned)
        return 0;
    for (uint32_t i = 0; i < pinned->fallback_count; i++)
        if (td_str_eq(pinned->fallback[i], t->name))
            return i + 1;
    return UINT32_MAX;
}

static bool comes_before(const struct decision *d, uint32_t a, uint32_t b) {
    const struct td_verdict *va = &d->plan->verdicts[a], *vb = &d->plan->verdicts[b];
    if (d->pinned)
        return place_in_fallback(d->pinned, &d->p->targets[a]) < place_in_fallback(d->pinned, &d->p->targets[b]);
    if (va->score != vb->score)
        return va->score > vb->score;
    uint64_t ma = mix(d->f->draw, a), mb = mix(d->f->draw, b);
    return ma != mb ? ma > mb : a < b;
}

static void rank(struct decision *d) {
    for (uint32_t i = 0; i < d->p->target_count; i++) {
        if (!(d->allowed >> i & 1))
            continue;
        d->plan->verdicts[i].score = score_of(d, &d->p->targets[i], &d->plan->verdicts[i]);
        uint32_t at = d->ranked_count++;
        for (; at > 0 && comes_before(d, i, d->ranked[at - 1]); at--)
            d->ranked[at] = d->ranked[at - 1];
        d->ranked[at] = i;
    }
}

// Vectors of different models do not compare: one model answers all embeddings of a kind of request, the first in file
// order that may and can, whether or not it is well just now.
static void keep_one_embedding_model(struct decision *d) {
    const struct td_target *first = d->pinned;
    for (uint32_t i = 0; i < d->p->target_count && !first; i++) {
        enum td_reason reason = d->plan->verdicts[i].reason;
        if (reason == TD_REASON_CHOSEN || reason >= TD_REASON_HEALTH)
            first = &d->p->targets[i];
    }
    for (uint32_t i = 0; i < d->p->target_count && first; i++)
        if (d->allowed >> i & 1 && !td_str_eq(d->p->targets[i].model, first->model)) {
            d->allowed &= ~(1ull << i);
            d->plan->verdicts[i].reason = TD_REASON_OTHER_MODEL;
        }
}

// ---- mode

static void to_front(struct decision *d, uint32_t place) {
    uint32_t target = d->ranked[place];
    memmove(d->ranked + 1, d->ranked, place * sizeof d->ranked[0]);
    d->ranked[0] = target;
}

// Place of the best target on this device, UINT32_MAX none. `likely`: only a small one that may well do. `drafts`: also
// one that can only say a friendly word until the better answer comes.
static uint32_t best_local(const struct decision *d, bool likely, bool drafts) {
    for (uint32_t i = 0; i < d->ranked_count; i++) {
        const struct td_target *t = &d->p->targets[d->ranked[i]];
        if (t->policy_tier != TD_TIER_DEVICE)
            continue;
        if (!drafts && t->model_class == TD_MODEL_COMMAND && !d->f->has_tools)
            continue; // it only calls tools
        if (!likely || (t->model_class == TD_MODEL_COMMAND && is_command(d->f)) ||
            (t->model_class == TD_MODEL_SMALL && d->f->difficulty_ppm < 500000 && !d->f->fresh &&
             !(d->f->features & (TD_FEATURE_QUESTION | TD_FEATURE_LONG | TD_FEATURE_CODE | TD_FEATURE_ANALYSIS))))
            return i;
    }
    return UINT32_MAX;
}

// A target not on this device, or a stronger one on it, that could take over from `local`.
static bool has_better(const struct decision *d, uint32_t local) {
    const struct td_target *l = &d->p->targets[d->ranked[local]];
    for (uint32_t i = 0; i < d->ranked_count; i++)
        if (i != local && d->p->targets[d->ranked[i]].quality > l->quality)
            return true;
    return false;
}

// Behind the first, the better answer comes first: place 1 is the highest expected quality, weighed as before.
static bool arrange_local_first(struct decision *d, bool likely, bool drafts) {
    uint32_t local = best_local(d, likely, drafts);
    if (local == UINT32_MAX || !has_better(d, local))
        return false;
    to_front(d, local);
    const struct td_target *l = &d->p->targets[d->ranked[0]];
    for (uint32_t i = 1; i < d->ranked_count; i++) {
        uint32_t target = d->ranked[i];
        if (d->p->targets[target].quality > l->quality) {
            memmove(d->ranked + 2, d->ranked + 1, (i - 1) * sizeof d->ranked[0]);
            d->ranked[1] = target;
            break;
        }
    }
    return true;
}

static bool arrange_hedge(struct decision *d) {
    for (uint32_t i = 1; i < d->ranked_count && !d->metered; i++) {
        const struct td_target *t = &d->p->targets[d->ranked[i]];
        if (t->paid && !t->hedge && !d->p->hedge_paid)
            continue;
        uint32_t target = d->ranked[i];
        memmove(d->ranked + 2, d->ranked + 1, (i - 1) * sizeof d->ranked[0]);
        d->ranked[1] = target;
        const struct td_target_state *s = &d->w->targets[d->ranked[0]];
        uint32_t expected = d->plan->verdicts[d->ranked[0]].latency_ms;
        d->plan->hedge_after_ms = d->p->hedge_after_ms ? d->p->hedge_after_ms
                                  : s->ttft_ms_p95     ? s->ttft_ms_p95
                                                       : clamp_ms(2 * (uint64_t)expected);
        return true;
    }
    return false;
}

static enum td_mode choose_mode(struct decision *d) {
    enum td_mode mode = d->f->mode;
    bool plain = d->f->kind != TD_KIND_EMBEDDING && d->f->choices <= 1 && !d->pinned;
    if (mode == TD_MODE_DEFAULT || (mode == TD_MODE_PROGRESSIVE && !d->f->revisions)) {
        mode = d->r.mode;
        d->plan->mode_rule = d->r.mode_rule ? d->r.mode_rule->name : TD_STR_NONE;
    }
    if (mode == TD_MODE_DEFAULT)
        mode = d->p->mode;
    if (mode == TD_MODE_PROGRESSIVE && !d->f->revisions) // an unaware client gets one answer, nothing replaced
        mode = TD_MODE_CASCADE;
    if (d->ranked_count <= 1 || mode == TD_MODE_SINGLE)
        return TD_MODE_SINGLE;
    if (mode == TD_MODE_PROGRESSIVE && plain && !d->metered && arrange_local_first(d, false, true))
        return mode;
    if (mode == TD_MODE_CASCADE && plain && arrange_local_first(d, false, false))
        return mode;
    if (mode == TD_MODE_HEDGE && d->f->kind != TD_KIND_EMBEDDING && arrange_hedge(d))
        return mode;
    if (mode == TD_MODE_DEFAULT && plain && (d->r.prefer == TD_PREFER_BALANCED || d->r.prefer == TD_PREFER_CHEAP) &&
        arrange_local_first(d, true, false))
        return TD_MODE_CASCADE;
    return TD_MODE_FALLBACK;
}

static enum td_reason step_reason(const struct decision *d, enum td_mode mode, uint32_t place, uint32_t target) {
    if (d->pinned && &d->p->targets[target] == d->pinned)
        return TD_REASON_PINNED;
    if (mode == TD_MODE_CASCADE && place == 0)
        return TD_REASON_LOCAL_FIRST;
    if (mode == TD_MODE_PROGRESSIVE && place < 2)
        return place == 0 ? TD_REASON_DRAFT : TD_REASON_REFINE;
    if (mode == TD_MODE_HEDGE && place == 1)
        return TD_REASON_HEDGE;
    if (place == 0 && !d->pinned)
        return d->plan->degraded && d->offline ? TD_REASON_OFFLINE : TD_REASON_CHOSEN;
    return TD_REASON_FALLBACK;
}

// Was a better target refused only because it cannot be reached now?
static bool is_degraded(const struct decision *d) {
    if (d->ranked_count == 0)
        return false;
    double best = d->plan->verdicts[d->ranked[0]].quality;
    for (uint32_t i = 0; i < d->p->target_count; i++) {
        const struct td_verdict *v = &d->plan->verdicts[i];
        if (!(d->allowed >> i & 1) && v->quality > best &&
            (v->reason == TD_REASON_NO_LINK || v->reason == TD_REASON_HEALTH || v->reason == TD_REASON_RETRY_AFTER ||
             v->reason == TD_REASON_METERED))
            return true;
    }
    return false;
}

// Until its answer is there: the first token of a stream, else all of it; rather late than usual.
static uint64_t answer_ms(const struct decision *d, uint32_t target) {
    const struct td_target *t = &d->p->targets[target];
    const struct td_target_state *s = &d->w->targets[target];
    uint64_t ms = d->plan->verdicts[target].latency_ms;
    if (s->ttft_ms_p95 > s->ttft_ms_p50)
        ms += s->ttft_ms_p95 - s->ttft_ms_p50;
    if (!d->f->stream)
        ms += (uint64_t)d->f->output_tokens * per_token_us(t, s) / 1000;
    return ms;
}

// What making a connection takes, with room to spare; 0 unknown.
static uint64_t connecting_ms(const struct decision *d, const struct td_target *t) {
    const struct td_target_state *s = &d->w->targets[t->index];
    return s->connect_ms_p95 ? (uint64_t)CONNECT_TIMES * s->connect_ms_p95
           : t->loopback     ? 0
                             : (uint64_t)CONNECT_ROUNDS * d->w->link.rtt_ms;
}

static uint32_t at_most(uint64_t ms, uint32_t limit) {
    return ms < limit ? (uint32_t)ms : limit;
}

// Whoever finds the network gone is still answered within the connect budget. What is left then is the first later step
// on this machine: it gets the time that it needs, and those before it enough to show that their connection is better.
// Together that is half of the budget at most, and a connection that has been taking long lately is waited for
// nevertheless.
static void limit_connecting(const struct decision *d, uint32_t place) {
    struct td_plan *plan = d->plan;
    struct td_step *step = &plan->steps[place];
    const struct td_target *t = &d->p->targets[step->target];
    uint32_t budget = t->timeouts.connect_ms;
    uint64_t known = connecting_ms(d, t), reserve = budget / CONNECT_SLACK;
    if (place + 1 >= plan->step_count)
        return;
    uint32_t last = place + 1;
    while (last + 1 < plan->step_count && !d->p->targets[plan->steps[last].target].loopback)
        reserve += plan->steps[last++].connect_late_ms;
    if (!d->p->targets[plan->steps[last].target].loopback) {
        last = place + 1; // all are far away: the next one may do
        reserve = budget / CONNECT_SLACK;
    }
    reserve += answer_ms(d, plan->steps[last].target);
    step->connect_ms = budget - at_most(reserve, budget / 2);
    step->connect_late_ms = at_most(known ? known : budget / CONNECT_LATE, step->connect_ms);
    if (known > step->connect_ms)
        step->connect_ms = at_most(known, budget);
}

static void write_steps(struct decision *d) {
    struct td_plan *plan = d->plan;
    enum td_mode mode = choose_mode(d);
    uint32_t max = mode == TD_MODE_SINGLE ? 1 : STEPS_MAX;
    plan->mode = mode;
    for (uint32_t i = 0; i < d->ranked_count; i++) {
        struct td_verdict *v = &plan->verdicts[d->ranked[i]];
        if (i >= max) {
            v->reason = TD_REASON_RANKED_OUT;
            continue;
        }
        v->taken = true;
        v->reason = step_reason(d, mode, i, d->ranked[i]);
        plan->steps[i] =
            (struct td_step){.target = d->ranked[i], .reason = v->reason, .retries_max = d->ranked_count == 1 ? 2 : 1};
        plan->step_count++;
    }
    for (uint32_t i = 0; i < d->p->target_count; i++)
        if (d->allowed >> i & 1 && !plan->verdicts[i].taken)
            plan->verdicts[i].reason = TD_REASON_RANKED_OUT;
    for (uint32_t i = plan->step_count; i-- > 0;)
        limit_connecting(d, i);
    if (plan->step_count) {
        double own = d->p->targets[plan->steps[0].target].cascade_threshold;
        plan->cascade_threshold = own == own ? own : d->p->cascade_threshold;
    }
}

static enum td_err resolve_model(struct decision *d) {
    struct td_str model = td_policy_alias(d->p, d->f->model.n ? d->f->model : d->p->default_model);
    enum td_prefer prefer;
    if (model.n == 0 || td_str_is(model, "auto"))
        return TD_OK;
    if (td_str_starts(model, TD_STR("auto:")))
        return td_prefer_parse(td_str_n(model.p + 5, model.n - 5), &prefer) ? TD_OK : TD_ERR_MODEL_NOT_FOUND;
    d->pinned = td_policy_target(d->p, model);
    return d->pinned ? TD_OK : TD_ERR_MODEL_NOT_FOUND;
}

static void copy_limits(struct decision *d) {
    struct td_plan *plan = d->plan;
    plan->on_cut = d->r.on_cut;
    plan->on_cut_min_quality = d->r.on_cut_min_quality;
    plan->hold_tokens = d->p->hold_tokens;
    plan->hold_ms = d->p->hold_ms;
    plan->refine_after_ms = d->f->refine_after_ms;
    plan->deadline_ms = d->f->deadline_ms;
    plan->max_cost_nusd = d->f->max_cost_nusd;
    if (d->r.cost_nusd_max >= 0 && (plan->max_cost_nusd < 0 || d->r.cost_nusd_max < plan->max_cost_nusd))
        plan->max_cost_nusd = d->r.cost_nusd_max;
    plan->data_class = d->r.data_class;
    plan->labels = d->r.labels;
    plan->residency = d->r.residency;
    plan->outbox = (d->r.outbox || d->f->queue) && d->f->kind != TD_KIND_EMBEDDING;
    plan->policy_version = d->p->version;
    plan->prefer = d->r.prefer;
    plan->shed = d->f->batch || (d->r.tenant && d->r.tenant->batch);
    plan->draw = d->f->draw;
    plan->blocked = d->r.transform == TD_TRANSFORM_BLOCK;
    if (plan->blocked) {
        plan->block_rule = d->r.transform_rule->name;
        plan->block_reason = d->r.transform_rule->reason;
    }
}

enum td_err td_decide(const struct td_facts *f, const struct td_policy *p, const struct td_world *w,
                      struct td_arena *arena, const struct td_plan **out) {
    struct decision d = {.f = f, .p = p, .w = w};
    enum td_err err = resolve_model(&d);
    if (err != TD_OK)
        return err;
    d.plan = td_arena_alloc(arena, td_plan_bytes(p->target_count));
    if (!d.plan)
        return TD_ERR_NOMEM;
    d.metered = w->link.metered || w->link.forced == TD_CONNECTIVITY_METERED;
    d.offline = !w->link.up || w->link.forced == TD_CONNECTIVITY_OFFLINE;
    td_policy_rule(p, f, w, &d.r);
    copy_limits(&d);
    judge_all(&d);
    if (f->kind == TD_KIND_EMBEDDING)
        keep_one_embedding_model(&d);
    keep_the_last(&d);
    if (f->kind == TD_KIND_EMBEDDING)
        keep_one_embedding_model(&d);
    rank(&d);
    d.plan->degraded = is_degraded(&d);
    write_steps(&d);
    for (uint32_t i = 0; i < p->target_count && !d.plan->step_count; i++) {
        enum td_reason reason = d.plan->verdicts[i].reason;
        uint32_t wait = reason == TD_REASON_RETRY_AFTER  ? w->targets[i].retry_after_ms
                        : reason == TD_REASON_OVERLOADED ? w->targets[i].full_ms
                                                         : 0;
        if (wait && (!d.plan->retry_after_ms || wait < d.plan->retry_after_ms))
            d.plan->retry_after_ms = wait;
    }
    *out = d.plan;
    return TD_OK;
}
