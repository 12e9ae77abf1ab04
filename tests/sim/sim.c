// SPDX-License-Identifier: Apache-2.0
// Usage: exchange-sim [--seed N] [--count M] [--first I] [--trace]      random exchanges; --first skips to one of them
//        exchange-sim [--seed N] --cuts M                              one stream cut at each of M random moments
// Prints the seed and what happened; exit 1 at the first broken invariant, with the line that replays it.
#include "sim.h"

#include "route/features.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void say(const struct sim *s, const char *fmt, ...) {
    if (!s->trace)
        return;
    printf("%8.1f ms  ", (double)(s->now_ns - s->start_ns) / 1e6);
    va_list args;
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
}

void sim_fail(struct sim *s, const char *what) {
    say(s, "BROKEN: %s", what);
    if (!s->failed)
        s->failed = what;
}

static void write_story(struct sim *s, uint32_t family) {
    static const char *const words[] = {"Rome",     "fell", "straße",  "über", "naïve",  "中文",
                                        "🙂🙂", "a",    "the",     "END",  "ENDED",  "of",
                                        "one",      "two",  "Ünïcödé", "EN",   "signal", "kitchen"};
    uint32_t count = 1 + rng_below(&s->rng, 60);
    size_t n = 0;
    if (family && rng_chance(&s->rng, 20)) { // what some devices decline with
        s->story_n[family] = (size_t)snprintf(s->story[family], TEXT_MAX, "~Not for me.");
        return;
    }
    for (uint32_t i = 0; i < count && n + 32 < TEXT_MAX / 4; i++) {
        const char *w = words[rng_below(&s->rng, sizeof words / sizeof *words)];
        if (i || family)
            s->story[family][n++] = i ? ' ' : '~';
        memcpy(s->story[family] + n, w, strlen(w));
        n += strlen(w);
    }
    s->story_n[family] = n;
}

static void draw_targets(struct sim *s) {
    for (uint32_t i = 0; i < TARGETS; i++) {
        struct td_target *t = &s->targets[i];
        *t = s->laws[0].config->targets[i];
        t->model = t->name;
        t->hedge = rng_chance(&s->rng, 50);
        t->declines = i == DEVICE && rng_chance(&s->rng, 50) ? TD_STR("~Not for me.") : TD_STR_NONE;
        s->family[i] = i == DEVICE ? !rng_chance(&s->rng, 30) : rng_chance(&s->rng, 20);
    }
}

static void draw_request(struct sim *s) {
    struct td_request *q = &s->request;
    *q = (struct td_request){.n = 1, .text_bytes = 4 * (1 + rng_below(&s->rng, 500))};
    q->stream = rng_chance(&s->rng, 75);
    q->wishes.revisions = rng_chance(&s->rng, 40);
    q->logprobs = rng_chance(&s->rng, 10);
    if (rng_chance(&s->rng, 25))
        q->max_tokens = 1 + rng_below(&s->rng, 50);
    if (rng_chance(&s->rng, 20)) {
        strcpy(s->stop, rng_chance(&s->rng, 50) ? "END" : " of");
        q->stops[0] = td_str_of(s->stop);
        q->stop_count = 1;
    }
    uint32_t kind = rng_below(&s->rng, 100);
    if (kind < 4) {
        q->kind = TD_KIND_EMBEDDING;
        q->stream = false;
    } else if (kind < 14) {
        s->tool_answer = true;
    } else if (kind < 20) {
        q->n = 2;
    } else if (kind < 25) {
        q->format = TD_FORMAT_JSON_OBJECT;
    }
}

// What it says of itself, and what the door makes of that: facts, and the ruling of the law it comes in under.
static enum td_err draw_facts(struct sim *s) {
    struct law_request *asks = &s->asks;
    struct td_wishes *w = &s->request.wishes;
    const struct td_policy *policy = &s->laws[0].config->policy;
    struct td_facts_input in = {.budget_left_nusd = INT64_MAX, .draw = 1};
    asks->stream = s->request.stream;
    if (rng_chance(&s->rng, 30))
        asks->data_class = TD_CLASS_PUBLIC + rng_below(&s->rng, 4);
    if (rng_chance(&s->rng, 25))
        asks->labels = 1u << rng_below(&s->rng, LAW_LABELS) | 1u << rng_below(&s->rng, LAW_LABELS);
    if (rng_chance(&s->rng, 8))
        asks->residency = law_draw_region(&s->rng);
    if (rng_chance(&s->rng, 5))
        asks->tiers = 1u << TD_TIER_DEVICE | 1u << (TD_TIER_EDGE + rng_below(&s->rng, 3));
    w->max_cost_nusd = -1;
    w->data_class = asks->data_class;
    w->residency = td_str_of(law_region(asks->residency));
    for (uint32_t i = 0; i < LAW_LABELS; i++)
        if (asks->labels >> i & 1)
            w->labels[w->label_count++] = td_str_of(law_label(i));
    in.tiers_allowed = asks->tiers;
    enum td_err err = td_facts_make(&s->request, policy, &in, &s->facts);
    td_policy_rule(policy, &s->facts, NULL, &s->ruling);
    return err;
}

static void draw_plan(struct sim *s) {
    struct td_plan *p = &s->plan;
    struct rng *r = &s->rng;
    *p = (struct td_plan){.mode = (enum td_mode)(TD_MODE_SINGLE + rng_below(r, 5)), .max_cost_nusd = -1};
    uint32_t order[TARGETS] = {DEVICE, CLOUD, SPARE, EDGE};
    bool local_first = p->mode == TD_MODE_CASCADE || p->mode == TD_MODE_PROGRESSIVE;
    for (uint32_t i = local_first; i < TARGETS; i++) {
        uint32_t j = i + rng_below(r, TARGETS - i), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    uint32_t most = rng_chance(r, 2) ? 0 : 1 + rng_below(r, TARGETS);
    bool errs = rng_chance(r, 10); // plans what the policy forbids: the door must not rely on plans
    for (uint32_t i = 0; i < TARGETS && p->step_count < most; i++)
        if (errs || td_policy_admits(&s->laws[0].config->policy, &s->ruling, &s->facts, &s->targets[order[i]], NULL) ==
                        TD_REASON_CHOSEN) {
            p->steps[p->step_count] = (struct td_step){.target = order[i],
                                                       .retries_max = rng_below(r, 3),
                                                       .connect_ms = 1000 + p->step_count,
                                                       .connect_late_ms = 100 + p->step_count};
            p->step_count++;
        }
    p->on_cut = (enum td_on_cut)(rng_chance(r, 70) ? TD_ON_CUT_CONTINUE : 1 + rng_below(r, 2));
    p->on_cut_min_quality = rng_chance(r, 20) ? 0.6 : 0;
    p->cascade_threshold = rng_chance(r, 10) ? 0 : 0.7;
    p->hold_tokens = rng_chance(r, 50) ? 1 + rng_below(r, 20) : 0;
    p->hold_ms = rng_chance(r, 50) ? 1 + rng_below(r, 300) : 0;
    p->hedge_after_ms = 1 + rng_below(r, 500);
    p->refine_after_ms = rng_chance(r, 30) ? rng_below(r, 500) : 0;
    p->deadline_ms = rng_chance(r, 30) ? rng_below(r, 20000) : 0;
    p->outbox = rng_chance(r, 30);
    p->degraded = rng_chance(r, 5);
    p->draw = rng_next(r);
}

static void add_act(struct sim *s, int what, uint64_t at_ns) {
    s->acts[s->act_count].what = what;
    s->acts[s->act_count++].at_ns = at_ns;
}

static uint64_t some_time(struct sim *s) {
    uint32_t most = rng_chance(&s->rng, 70) ? 3000 : 40000;
    return s->start_ns + rng_below(&s->rng, most) * TD_MS_NS + rng_below(&s->rng, 1000) * 1000u;
}

static void draw_acts(struct sim *s) {
    for (int most = 4; most > 0 && rng_chance(&s->rng, 35); most--) // 12 acts at most, all kinds together
        add_act(s, ACT_RELOAD, some_time(s));
    if (rng_chance(&s->rng, 15))
        add_act(s, ACT_GONE, some_time(s));
    if (rng_chance(&s->rng, 15)) {
        uint64_t at = some_time(s);
        add_act(s, ACT_STALL, at);
        add_act(s, ACT_FLOW, at + rng_below(&s->rng, 30000) * TD_MS_NS);
    }
    if (rng_chance(&s->rng, 10))
        add_act(s, ACT_DRAIN, some_time(s));
    if (rng_chance(&s->rng, 5))
        add_act(s, ACT_ABORT, some_time(s));
}

static void say_effect(struct sim *s, const struct td_x_effect *e) {
    static const char *const names[] = {"start", "cancel", "record", "emit", "timer",
                                        "pause", "resume", "outbox", "end"};
    if (!s->trace)
        return;
    if (e->type == TD_X_DO_START)
        say(s, "  start %u %s as %s%s", e->start.attempt, s->targets[e->start.target].name.p,
            td_x_role_word(e->start.role), e->start.retry ? ", a retry" : "");
    else if (e->type == TD_X_DO_RECORD)
        say(s, "  record %u %s %s%s", e->record->attempt, td_x_outcome_word(e->record->outcome),
            td_err_code(e->record->code), e->record->delivered ? ", shown" : "");
    else if (e->type == TD_X_DO_EMIT)
        for (uint32_t i = 0; i < e->emit.count; i++) {
            const struct td_x_out *o = &e->emit.list[i];
            struct td_str text =
                o->type == TD_X_OUT_EVENT && o->event.type != TD_EV_TOOL_CALL && o->event.type != TD_EV_EMBEDDING
                    ? o->event.delta.text
                    : TD_STR_NONE;
            say(s, "  out %u of %u: %.*s%s", o->type, o->attempt, TD_STR_ARG(text),
                o->type == TD_X_OUT_ERROR      ? td_err_code(o->error.code)
                : o->type == TD_X_OUT_REVISION ? td_x_op_word(o->op)
                                               : "");
        }
    else if (e->type != TD_X_DO_TIMER)
        say(s, "  %s", names[e->type]);
}

struct pending {
    struct td_x_input list[TD_ATTEMPTS_MAX];
    uint32_t count;
};

static const struct law *law_in_force(const struct sim *s) {
    return &s->laws[s->law_count - 1];
}

// By the second reading of the laws: under the one it was accepted under, and under this one, as the target is
// described there and as the running request still reaches it.
static bool is_permitted(const struct sim *s, const struct law *law, uint32_t target) {
    const struct law *first = &s->laws[0];
    return law_permits(first, first, first, &s->asks, target) && law_permits(law, law, first, &s->asks, target) &&
           law_permits(law, first, first, &s->asks, target);
}

static struct td_str bytes_of(struct sim *s, uint32_t attempt) {
    return td_arena_printf(&s->arena, "attempt %u of %llu", attempt, (unsigned long long)s->index);
}

// The door, as the runtime opens it: the stricter of two policies, then a grant for these bytes and nothing else.
static bool ask_door(struct sim *s, uint32_t attempt, struct fake *f) {
    const struct law *first = &s->laws[0], *now = law_in_force(s);
    const struct td_target *target = &first->config->targets[f->target];
    struct td_policy_verdict v =
        td_policy_check_attempt(&first->config->policy, &now->config->policy, &s->facts, NULL, target);
    struct td_egress_check check = {.allowed = v.allowed,
                                    .data_class = s->ruling.data_class,
                                    .labels = s->ruling.labels,
                                    .policy_version = now->number};
    struct td_grant_terms terms = {.kind = TD_GRANT_INFERENCE, .target = target};
    struct td_error e;
    bool permitted = is_permitted(s, now, f->target);
    if (v.allowed && !permitted)
        sim_fail(s, "the door let through what a rule forbids");
    // A label that the first law did not know is not cleared for a target that lists others, whatever came later.
    if (!v.allowed && permitted && !(s->asks.labels & ~first->labels_named))
        sim_fail(s, "the door refused what no rule forbids");
    f->law = now->number;
    if (f->target != DEVICE &&
        td_grant_issue(&s->arena, &check, &terms, bytes_of(s, attempt), &f->grant, &e) != TD_OK && v.allowed)
        sim_fail(s, "no grant for what the door let through");
    if (!v.allowed && f->grant)
        sim_fail(s, "a grant for what the door refused");
    s->granted += f->grant != NULL;
    return v.allowed;
}

bool sim_send(struct sim *s, uint32_t attempt) {
    struct fake *f = &s->fakes[attempt];
    const struct law *now = law_in_force(s);
    struct td_grant_terms terms = {.kind = TD_GRANT_INFERENCE, .target = &s->laws[0].config->targets[f->target]};
    struct td_error e;
    if (f->target != DEVICE) {
        enum td_err err = td_grant_consume(f->grant, &terms, bytes_of(s, attempt), now->number, &e);
        if ((err == TD_OK) != (f->law == now->number))
            sim_fail(s, "a grant outlived its policy, or died before it");
        if (err == TD_OK && td_grant_consume(f->grant, &terms, bytes_of(s, attempt), now->number, &e) == TD_OK)
            sim_fail(s, "a grant was good twice");
        if (err != TD_OK) {
            f->alive = false;
            s->stale++;
            struct td_x_input in = {.type = TD_X_IN_REFUSED, .attempt = attempt};
            in.refused.code = TD_ERR_GRANT;
            in.refused.reason = TD_REASON_NOT_READY;
            sim_feed(s, in);
            return false;
        }
    }
    // What left keeps to the version that its grant names; on the device, to the one that was asked.
    uint64_t named = f->grant ? td_grant_policy_version(f->grant) : f->law;
    if (named == 0 || named > s->law_count || s->laws[named - 1].number != named ||
        !is_permitted(s, &s->laws[named - 1], f->target))
        sim_fail(s, "bytes left that the policy named by their grant forbids");
    f->sent = true;
    return true;
}

// The runtime's part of a start: every attempt is checked again, against the stricter of two policies.
static void on_start(struct sim *s, const struct td_x_start *start, struct pending *refused) {
    check_start(s, start);
    if (start->attempt >= TD_ATTEMPTS_MAX)
        return;
    s->started |= 1u << start->attempt;
    fake_start(s, start);
    struct fake *f = &s->fakes[start->attempt];
    struct td_x_input in = {.type = TD_X_IN_REFUSED, .attempt = start->attempt};
    f->allowed = ask_door(s, start->attempt, f);
    if (!f->allowed) {
        in.refused.code = TD_ERR_NO_TARGET;
        in.refused.reason = TD_REASON_CLASS;
        s->overtaken += is_permitted(s, &s->laws[0], start->target);
    } else if (!s->cut_campaign && rng_chance(&s->rng, 5)) {
        in.refused.code = rng_chance(&s->rng, 50) ? TD_ERR_OVERLOAD : TD_ERR_BUDGET;
        in.refused.reason = TD_REASON_OVERLOADED;
    }
    if (in.refused.code) {
        f->alive = false;
        refused->list[refused->count++] = in;
    }
}

static void on_act_later(struct sim *s, int what, uint64_t at_ns) {
    for (uint32_t i = 0; i < s->act_count; i++)
        if ((int)s->acts[i].what == what) {
            s->acts[i].at_ns = at_ns;
            return;
        }
    add_act(s, what, at_ns);
}

static void carry_out(struct sim *s, const struct td_x_effect *e, struct pending *refused) {
    say_effect(s, e);
    if (s->ends)
        sim_fail(s, "an effect after the end");
    switch (e->type) {
    case TD_X_DO_START:
        on_start(s, &e->start, refused);
        return;
    case TD_X_DO_CANCEL:
        if (s->recorded >> e->attempt & 1 || !(s->started >> e->attempt & 1) || !s->fakes[e->attempt].alive)
            sim_fail(s, "a cancel of what does not run");
        s->fakes[e->attempt].alive = false;
        return;
    case TD_X_DO_RECORD:
        check_record(s, e->record);
        if (s->fakes[e->record->attempt].alive)
            sim_fail(s, "a record of what still runs");
        if (s->config.durable_before_answer)
            on_act_later(s, ACT_DISK, s->now_ns + rng_below(&s->rng, 20) * TD_MS_NS);
        return;
    case TD_X_DO_EMIT:
        for (uint32_t i = 0; i < e->emit.count; i++)
            check_out(s, &e->emit.list[i]);
        return;
    case TD_X_DO_TIMER:
        s->timer_ns = e->timer_ns;
        return;
    case TD_X_DO_PAUSE:
    case TD_X_DO_RESUME:
        s->fakes[e->attempt].paused = e->type == TD_X_DO_PAUSE;
        if (s->fakes[e->attempt].next_ns < s->now_ns)
            s->fakes[e->attempt].next_ns = s->now_ns;
        return;
    case TD_X_DO_OUTBOX:
        if (!s->plan.outbox || s->kept_asked++)
            sim_fail(s, "kept for later though nobody wished it, or twice");
        s->kept_asked_ns = s->now_ns;
        if (rng_chance(&s->rng, 90)) // else the disk hangs
            on_act_later(s, ACT_KEPT, s->now_ns + rng_below(&s->rng, 700) * TD_MS_NS);
        return;
    case TD_X_DO_END:
        s->ends++;
        s->end = e->end.kind;
        s->end_code = e->end.code;
        s->end_cost_nusd = e->end.cost_nusd;
        return;
    }
}

void sim_feed(struct sim *s, struct td_x_input in) {
    struct td_x_effects fx;
    struct pending refused = {0};
    in.retry_budget = !rng_chance(&s->rng, 5);
    in.hedge_budget = !rng_chance(&s->rng, 20);
    td_exchange_step(s->x, &in, s->now_ns, &fx);
    for (uint32_t i = 0; i < fx.count; i++)
        carry_out(s, &fx.list[i], &refused);
    bool holding = s->first_content_ns && !s->client.begun && s->request.stream && s->fake_count == 1;
    uint64_t hold_ns = (s->plan.hold_ms ? s->plan.hold_ms : 400) * TD_MS_NS;
    if (holding && !s->ends && s->now_ns > s->first_content_ns + hold_ns)
        sim_fail(s, "held back longer than promised");
    for (uint32_t i = 0; i < refused.count; i++)
        sim_feed(s, refused.list[i]);
}

static void reload(struct sim *s) {
    const struct law *before = law_in_force(s);
    if (rng_chance(&s->rng, 10)) { // whole or not at all
        s->nonsense++;
        if (!law_refuses_nonsense(before, &s->rng))
            sim_fail(s, "a configuration with a fault was taken");
        return;
    }
    s->reloads++;
    if (!law_make(&s->laws[s->law_count], before, before->number + 1, &s->rng, false, s->trace))
        sim_fail(s, "a configuration was refused");
    else
        s->law_count++;
}

static void act(struct sim *s, int what) {
    static const char *const names[] = {"reload", "gone", "stall", "flow", "drain", "abort", "disk", "kept"};
    say(s, "%s", names[what]);
    switch (what) {
    case ACT_RELOAD:
        reload(s);
        return;
    case ACT_GONE:
        sim_feed(s, (struct td_x_input){.type = TD_X_IN_CLIENT_GONE});
        s->client.gone = true;
        return;
    case ACT_STALL:
    case ACT_FLOW:
        sim_feed(s, (struct td_x_input){.type = what == ACT_STALL ? TD_X_IN_CLIENT_STOP : TD_X_IN_CLIENT_PROCEED});
        return;
    case ACT_DRAIN:
        s->drain_sent = true;
        sim_feed(s, (struct td_x_input){.type = TD_X_IN_DRAIN});
        return;
    case ACT_ABORT:
        s->aborted = true;
        sim_feed(s, (struct td_x_input){.type = TD_X_IN_ABORT, .abort_code = TD_ERR_OVERLOAD});
        return;
    case ACT_DISK:
        s->disk_fails = rng_chance(&s->rng, 10);
        sim_feed(s, (struct td_x_input){.type = TD_X_IN_DURABLE, .durable = !s->disk_fails});
        return;
    case ACT_KEPT:
        s->kept = true;
        sim_feed(s, (struct td_x_input){.type = TD_X_IN_KEPT});
        return;
    }
}

// The next thing that happens, and its time. False when nothing will ever happen again.
static bool advance(struct sim *s) {
    uint64_t at = s->timer_ns;
    int fake = -1, action = -1;
    for (uint32_t i = 0; i < s->act_count; i++)
        if (s->acts[i].at_ns < at) {
            at = s->acts[i].at_ns;
            action = (int)i;
        }
    for (uint32_t i = 0; i < s->fake_count; i++)
        if (s->fakes[i].alive && !s->fakes[i].paused && s->fakes[i].next_ns < at) {
            at = s->fakes[i].next_ns;
            fake = (int)i;
        }
    if (at == UINT64_MAX)
        return false;
    if (at > s->now_ns)
        s->now_ns = at;
    if (fake >= 0) {
        fake_speak(s, (uint32_t)fake);
    } else if (action >= 0) {
        s->acts[action].at_ns = UINT64_MAX;
        act(s, s->acts[action].what);
    } else {
        s->timer_ns = UINT64_MAX;
        sim_feed(s, (struct td_x_input){.type = TD_X_IN_TIMER});
    }
    return true;
}

static void run(struct sim *s) {
    s->config = (struct td_x_config){.arena = &s->arena,
                                     .request = &s->request,
                                     .plan = &s->plan,
                                     .targets = s->targets,
                                     .target_count = TARGETS,
                                     .arrival_ns = s->start_ns,
                                     .durable_before_answer = !s->cut_campaign && rng_chance(&s->rng, 20),
                                     .waits_for_outbox = rng_chance(&s->rng, 80)};
    if (td_exchange_open(&s->config, &s->x) != TD_OK) {
        sim_fail(s, "could not be opened");
        return;
    }
    sim_feed(s, (struct td_x_input){.type = TD_X_IN_START});
    for (uint32_t steps = 0; !s->ends && !s->failed; steps++)
        if (steps > 100000 || !advance(s))
            sim_fail(s, "it never ends");
    check_end(s);
    uint32_t ends = s->ends; // whatever comes now gives nothing
    for (int what = TD_X_IN_START; what <= TD_X_IN_KEPT && !s->failed; what++) {
        static const struct td_event late = {.type = TD_EV_DELTA, .delta.text = {"late", 4}};
        sim_feed(s, (struct td_x_input){.type = what, .event = &late, .durable = true});
    }
    if (s->ends != ends)
        sim_fail(s, "a second end");
}

// The law of a start: the same for LAW_LASTS exchanges, as nobody restarts for each; drawn of itself, so that any one
// of them can be replayed alone.
#define LAW_LASTS 8u
static bool first_law(struct law *out, uint64_t seed, uint64_t index, bool plain, bool tell) {
    static struct law kept;
    static uint64_t kept_seed, kept_index;
    uint64_t generation = plain ? 0 : 1 + index / LAW_LASTS;
    struct rng rng = {seed * 0x9e6c63d0876a9a47u + generation};
    if (!kept.config || kept_seed != seed || kept_index != generation) {
        law_finish(&kept);
        if (!law_make(&kept, NULL, 1, &rng, plain, tell))
            return false;
        kept_seed = seed;
        kept_index = generation;
    }
    *out = kept;
    td_config_ref(out->config);
    return true;
}

static void close_sim(struct sim *s) {
    for (uint32_t i = 0; i < s->law_count; i++)
        law_finish(&s->laws[i]);
    td_arena_finish(&s->arena);
}

static bool open_sim(struct sim *s, uint64_t seed, uint64_t index, bool trace, bool cuts) {
    memset(s, 0, sizeof *s);
    s->seed = seed;
    s->index = index;
    s->trace = trace;
    s->rng.state = seed * 0x2545f4914f6cdd1du + index;
    (void)rng_next(&s->rng);
    s->rng.state ^= rng_next(&s->rng);
    s->now_ns = s->start_ns = TD_S_NS + rng_below(&s->rng, 1000000);
    s->timer_ns = UINT64_MAX;
    s->cut_campaign = cuts;
    td_arena_init(&s->arena, 16u << 20);
    if (!first_law(&s->laws[0], seed, index, cuts, trace))
        return false;
    s->law_count = 1;
    write_story(s, 0);
    write_story(s, 1);
    draw_targets(s);
    draw_request(s);
    if (draw_facts(s) != TD_OK)
        return false;
    draw_plan(s);
    say(s, "labels %x, class %d, region %s, tiers %x, %s", s->asks.labels, s->asks.data_class,
        law_region(s->asks.residency), s->asks.tiers, s->asks.stream ? "streamed" : "whole");
    return true;
}

static const char *const end_words[] = {"ok", "degraded", "error", "broken", "gone"};

static bool broken(struct sim *s, const char *how) {
    if (s->failed)
        printf("BROKEN: %s\nreplay: exchange-sim --seed %llu --first %llu %s --trace\n", s->failed,
               (unsigned long long)s->seed, (unsigned long long)s->index, how);
    return s->failed != NULL;
}

static int run_random(uint64_t seed, uint64_t first, uint64_t count, bool trace) {
    uint64_t ends[5] = {0}, modes[6] = {0}, attempts = 0, revisions = 0, continued = 0, reloads = 0, overtaken = 0;
    uint64_t nonsense = 0, granted = 0, stale = 0;
    static struct sim s;
    for (uint64_t i = first; i < first + count; i++) {
        if (!open_sim(&s, seed, i, trace, false))
            return 1;
        draw_acts(&s);
        run(&s);
        close_sim(&s);
        if (broken(&s, "--count 1"))
            return 1;
        ends[s.end]++;
        modes[s.plan.mode]++;
        attempts += s.fake_count;
        revisions += s.client.revision;
        reloads += s.reloads;
        overtaken += s.overtaken;
        nonsense += s.nonsense;
        granted += s.granted;
        stale += s.stale;
        for (uint32_t k = 0; k < s.fake_count; k++)
            continued += s.fakes[k].role >= TD_X_ROLE_CONTINUE && s.fakes[k].delivered_all;
    }
    printf("seed %llu: %llu exchanges, %llu attempts, every invariant held\n", (unsigned long long)seed,
           (unsigned long long)count, (unsigned long long)attempts);
    printf("single %llu, fallback %llu, cascade %llu, progressive %llu, hedge %llu; %llu revisions, %llu cut and gone "
           "on with\n",
           (unsigned long long)modes[TD_MODE_SINGLE], (unsigned long long)modes[TD_MODE_FALLBACK],
           (unsigned long long)modes[TD_MODE_CASCADE], (unsigned long long)modes[TD_MODE_PROGRESSIVE],
           (unsigned long long)modes[TD_MODE_HEDGE], (unsigned long long)revisions, (unsigned long long)continued);
    printf(
        "%llu reloads in the middle of one, each compiled, and %llu refused; %llu grants, %llu overtaken by a reload; "
        "%llu attempts refused by the policy then in force\n",
        (unsigned long long)reloads, (unsigned long long)nonsense, (unsigned long long)granted,
        (unsigned long long)stale, (unsigned long long)overtaken);
    for (int i = 0; i < 5; i++)
        printf("%s %llu%s", end_words[i], (unsigned long long)ends[i], i < 4 ? ", " : "\n");
    return 0;
}

// What an uncut run gives: the story, or its first max_tokens tokens.
static size_t uncut_length(const struct sim *s) {
    uint32_t tokens = 1;
    for (size_t i = 1; i < s->story_n[0]; i++)
        if (s->story[0][i] == ' ' && s->request.max_tokens && tokens++ == s->request.max_tokens)
            return i;
    return s->story_n[0];
}

static int run_cuts(uint64_t seed, uint64_t first, uint64_t count, bool trace) {
    uint64_t complete = 0, exact = 0, errors = 0, twice = 0;
    static struct sim s;
    for (uint64_t i = first; i < first + count; i++) {
        if (!open_sim(&s, seed, i, trace, true))
            return 1;
        s.tool_answer = false;
        s.stop[0] = 0;
        memset(s.family, 0, sizeof s.family); // every target answers the same
        s.request = (struct td_request){.n = 1, .stream = true, .text_bytes = 40, .max_tokens = s.request.max_tokens};
        s.asks = (struct law_request){.stream = true};
        s.facts = (struct td_facts){.stream = true};
        td_policy_rule(&s.laws[0].config->policy, &s.facts, NULL, &s.ruling);
        s.plan = (struct td_plan){.mode = TD_MODE_FALLBACK, .step_count = 4, .max_cost_nusd = -1, .draw = s.plan.draw};
        for (uint32_t k = 0; k < s.plan.step_count; k++)
            s.plan.steps[k] = (struct td_step){
                .target = (CLOUD + k) % TARGETS, .retries_max = 2, .connect_ms = 1000 + k, .connect_late_ms = 100 + k};
        run(&s);
        close_sim(&s);
        if (broken(&s, "--cuts 1"))
            return 1;
        size_t n = uncut_length(&s);
        complete += s.client.done;
        errors += s.client.error;
        exact += s.client.done && s.client.text_n[0] == n && memcmp(s.client.text[0], s.story[0], n) == 0;
        twice += s.fake_count > 2;
    }
    printf("seed %llu: %llu streams cut (%llu more than once): %llu complete, %llu byte for byte as uncut, %llu typed "
           "errors, %llu truncated successes\n",
           (unsigned long long)seed, (unsigned long long)count, (unsigned long long)twice, (unsigned long long)complete,
           (unsigned long long)exact, (unsigned long long)errors, (unsigned long long)(complete - exact));
    return exact == complete && complete + errors == count && complete * 100 >= count * 99 ? 0 : 1;
}

int main(int argc, char **argv) {
    uint64_t seed = 1, first = 0, count = 100000, cuts = 0;
    bool trace = false;
    for (int i = 1; i < argc; i++) {
        uint64_t *to = strcmp(argv[i], "--seed") == 0    ? &seed
                       : strcmp(argv[i], "--first") == 0 ? &first
                       : strcmp(argv[i], "--count") == 0 ? &count
                       : strcmp(argv[i], "--cuts") == 0  ? &cuts
                                                         : NULL;
        if (strcmp(argv[i], "--trace") == 0) {
            trace = true;
        } else if (!to || i + 1 == argc) {
            fprintf(stderr, "usage: %s [--seed N] [--first I] [--count M | --cuts M] [--trace]\n", argv[0]);
            return 2;
        } else {
            *to = strtoull(argv[++i], NULL, 10);
        }
    }
    return cuts ? run_cuts(seed, first, cuts, trace) : run_random(seed, first, count, trace);
}
