// SPDX-License-Identifier: Apache-2.0
#include "script.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>

#include "base/time.h"

static const char *const err_names[] = {"OK",
#define X(name, code, text) #name,
                                        TD_ERR_LIST(X)
#undef X
};

static enum td_err err_of(const char *name, size_t n) {
    for (unsigned i = 0; i < TD_ERR_COUNT; i++)
        if (strlen(err_names[i]) == n && memcmp(err_names[i], name, n) == 0)
            return (enum td_err)i;
    fail_msg("no such error: %.*s", (int)n, name);
    return TD_OK;
}

static void make_targets(struct td_target *t) {
    static const struct {
        const char *name, *model;
        enum td_tier tier;
        double quality;
        uint32_t context;
        bool continues, paid;
    } list[TARGETS] = {{"device", "starter", TD_TIER_DEVICE, 0.35, 2048, true, false},
                       {"cloud", "big", TD_TIER_CLOUD, 0.9, 8192, true, true},
                       {"spare", "other", TD_TIER_CLOUD, 0.8, 32768, false, true},
                       {"edge", "mid", TD_TIER_EDGE, 0.5, 16384, true, false}};
    for (uint32_t i = 0; i < TARGETS; i++) {
        t[i] = (struct td_target){.index = i,
                                  .name = td_str_of(list[i].name),
                                  .model = td_str_of(list[i].model),
                                  .tier = list[i].tier,
                                  .provider = i == DEVICE ? TD_PROVIDER_LLAMA : TD_PROVIDER_OPENAI,
                                  .quality = list[i].quality,
                                  .context = list[i].context,
                                  .continues = list[i].continues,
                                  .paid = list[i].paid,
                                  .timeouts = {2000, 10000, 15000, 120000}};
        if (list[i].paid)
            t[i].price = (struct td_price){2500, 10000, 1250};
    }
}

void run_open(struct run *r, const struct setup *s) {
    *r = (struct run){.retry_budget = true, .hedge_budget = true};
    td_arena_init(&r->arena, 64u << 20);
    td_buf_init(&r->trace, 1u << 20);
    make_targets(r->targets);
    r->targets[SPARE].hedge = true;
    r->targets[DEVICE].declines = td_str_of(s->declines);
    r->targets[DEVICE].model_class = s->command ? TD_MODEL_COMMAND : TD_MODEL_SMALL;
    r->request = (struct td_request){.kind = s->kind,
                                     .stream = !s->whole,
                                     .n = s->n ? s->n : 1,
                                     .max_tokens = s->max_tokens,
                                     .format = s->format,
                                     .logprobs = s->logprobs,
                                     .text_bytes = s->context ? s->context * 4 : 40};
    r->request.wishes.revisions = s->aware;
    if (s->stop) {
        r->request.stops[0] = td_str_of(s->stop);
        r->request.stop_count = 1;
    }
    r->plan = (struct td_plan){.mode = s->mode,
                               .on_cut = s->on_cut,
                               .on_cut_min_quality = s->min_quality,
                               .cascade_threshold = s->threshold,
                               .hold_tokens = s->hold_tokens,
                               .hold_ms = s->hold_ms,
                               .hedge_after_ms = s->hedge_ms,
                               .refine_after_ms = s->refine_ms,
                               .deadline_ms = s->deadline_ms,
                               .outbox = s->outbox,
                               .degraded = s->degraded,
                               .max_cost_nusd = -1,
                               .draw = 42};
    for (const char *p = s->steps; *p; p++) {
        struct td_step *step = &r->plan.steps[r->plan.step_count++];
        step->target = *p == 'd' ? DEVICE : *p == 'c' ? CLOUD : *p == 's' ? SPARE : EDGE;
        step->retries_max = s->retries;
        step->connect_ms = s->connect_ms;
        step->connect_late_ms = s->connect_late_ms;
    }
    r->now_ns = TD_S_NS;
    struct td_x_config c = {.arena = &r->arena,
                            .request = &r->request,
                            .plan = &r->plan,
                            .targets = r->targets,
                            .target_count = TARGETS,
                            .arrival_ns = r->now_ns,
                            .durable_before_answer = s->durable};
    assert_ok(td_exchange_open(&c, &r->x));
}

void run_close(struct run *r) {
    td_arena_finish(&r->arena);
    td_buf_finish(&r->trace);
}

static void say(struct run *r, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    assert_ok(td_buf_addz(&r->trace, r->trace.n ? " " : ""));
    assert_ok(td_buf_addz(&r->trace, text));
}

static const char *lower(const char *name) {
    static char text[32];
    size_t i;
    for (i = 0; name[i] && i < sizeof text - 1; i++)
        text[i] = (char)tolower(name[i]);
    text[i] = 0;
    return text;
}

static void say_event(struct run *r, const struct td_event *ev) {
    const char *choice = ev->choice ? "#1" : "";
    switch (ev->type) {
    case TD_EV_TOOL_CALL:
        say(r, "tool%u(%.*s%.*s)", ev->tool.index, TD_STR_ARG(ev->tool.name), TD_STR_ARG(ev->tool.arguments));
        break;
    case TD_EV_REASONING:
        say(r, "?\"%.*s\"", TD_STR_ARG(ev->delta.text));
        break;
    case TD_EV_EMBEDDING:
        say(r, "vector%u[%u]", ev->embedding.index, ev->embedding.count);
        break;
    default:
        say(r, "%s\"%.*s\"", choice, TD_STR_ARG(ev->delta.text));
        for (uint32_t i = 0; i < ev->delta.token_count; i++)
            say(r, "p=%.2f", exp((double)ev->delta.tokens[i].logprob));
    }
}

static void say_out(struct run *r, const struct td_x_out *o) {
    static const char *const finishes[] = {"stop", "length", "tools", "filter"};
    switch (o->type) {
    case TD_X_OUT_BEGIN:
        say(r, "B%u", o->attempt);
        break;
    case TD_X_OUT_EVENT:
        say_event(r, &o->event);
        break;
    case TD_X_OUT_ORIGIN:
        say(r, "O%u", o->attempt);
        break;
    case TD_X_OUT_REVISION:
        say(r, "V%u:%s/%u", o->revision, td_x_op_word(o->op), o->attempt);
        break;
    case TD_X_OUT_FINISH:
        say(r, "F%s:%s", o->finish.choice ? "#1" : "", finishes[o->finish.reason]);
        break;
    case TD_X_OUT_DONE:
        r->dones++;
        r->usage = o->done.usage;
        r->usage_total = o->done.usage_total;
        say(r, "D%s", o->done.degraded ? "~" : "");
        break;
    case TD_X_OUT_ERROR:
        r->errors++;
        say(r, "E:%s:%d", lower(err_names[o->error.code]), o->error.http_status);
        if (o->error.retry_after_ms)
            say(r, "after=%u", o->error.retry_after_ms);
        break;
    }
}

static void say_start(struct run *r, const struct td_x_start *s) {
    assert_false(r->started_bits >> s->attempt & 1);
    r->started_bits |= 1u << s->attempt;
    r->starts++;
    say(r, "S%u/%.*s:%s%s", s->attempt, TD_STR_ARG(r->targets[s->target].name), td_x_role_word(s->role),
        s->retry ? "!" : "");
    if (s->prefix.n)
        say(r, "<%.*s>", TD_STR_ARG(s->prefix));
    if (s->max_tokens)
        say(r, "max=%u", s->max_tokens);
    if (s->connect_ms)
        say(r, "connect=%u", s->connect_ms);
}

static void say_effect(struct run *r, const struct td_x_effect *e) {
    static const char *const ends[] = {"ok", "degraded", "error", "broken", "gone"};
    static const char *const outbox[] = {"offline", "degraded", "failed"};
    assert_int_equal(r->ends, 0);
    switch (e->type) {
    case TD_X_DO_START:
        say_start(r, &e->start);
        break;
    case TD_X_DO_CANCEL:
        assert_true(r->started_bits >> e->attempt & 1);
        assert_false(r->recorded_bits >> e->attempt & 1);
        say(r, "X%u", e->attempt);
        break;
    case TD_X_DO_RECORD:
        assert_true(r->started_bits >> e->record->attempt & 1);
        assert_false(r->recorded_bits >> e->record->attempt & 1);
        r->recorded_bits |= 1u << e->record->attempt;
        r->cost_nusd += e->record->cost_nusd;
        say(r, "R%u=%s", e->record->attempt, td_x_outcome_word(e->record->outcome));
        break;
    case TD_X_DO_EMIT:
        for (uint32_t i = 0; i < e->emit.count; i++)
            say_out(r, &e->emit.list[i]);
        break;
    case TD_X_DO_TIMER:
        r->timer_ns = e->timer_ns;
        break;
    case TD_X_DO_PAUSE:
    case TD_X_DO_RESUME:
        say(r, "%c%u", e->type == TD_X_DO_PAUSE ? 'P' : 'U', e->attempt);
        break;
    case TD_X_DO_OUTBOX:
        say(r, "Q:%s", outbox[e->outbox]);
        break;
    case TD_X_DO_END:
        r->ends++;
        r->end_cost_nusd = e->end.cost_nusd;
        assert_int_equal(r->started_bits, r->recorded_bits);
        say(r, ".%s", ends[e->end.kind]);
        break;
    }
}

static void step(struct run *r, struct td_x_input in) {
    struct td_x_effects fx;
    in.retry_budget = r->retry_budget;
    in.hedge_budget = r->hedge_budget;
    td_exchange_step(r->x, &in, r->now_ns, &fx);
    for (uint32_t i = 0; i < fx.count; i++)
        say_effect(r, &fx.list[i]);
}

static void send(struct run *r, uint32_t attempt, struct td_event ev) {
    step(r, (struct td_x_input){.type = TD_X_IN_EVENT, .attempt = attempt, .event = &ev});
}

static bool is(const char *w, size_t n, const char *word) {
    return strlen(word) == n && memcmp(w, word, n) == 0;
}

static unsigned long number_after(const char *w, size_t n, unsigned commas) {
    for (size_t i = 0; i < n; i++)
        if (w[i] == ',' && commas-- == 1)
            return strtoul(w + i + 1, NULL, 10);
    return 0;
}

static size_t name_length(const char *w, size_t n) {
    const char *comma = memchr(w, ',', n);
    return comma ? (size_t)(comma - w) : n;
}

static void on_text(struct run *r, uint32_t a, const char *w, const char *quote, size_t text_n) {
    struct td_event ev = {.type = TD_EV_DELTA, .delta.text = td_str_n(quote + 1, text_n)};
    struct td_token token = {.text = ev.delta.text, .entropy = 0.5f};
    if (*w == '?')
        ev.type = TD_EV_REASONING;
    else if (*w == '#')
        ev.choice = (uint32_t)strtoul(w + 1, NULL, 10);
    else if (*w == '~')
        ev.damaged = true;
    else if (isdigit((unsigned char)*w)) {
        token.logprob = (float)log(strtod(w, NULL) / 100);
        ev.delta.tokens = &token;
        ev.delta.token_count = 1;
    } else if (*w == '*') {
        bool first = td_exchange_record(r->x, a)->events == 0;
        ev = (struct td_event){.type = TD_EV_TOOL_CALL};
        ev.tool.arguments = td_str_n(quote + 1, text_n);
        if (first) {
            ev.tool.id = TD_STR("call_1");
            ev.tool.name = TD_STR("f");
        }
    }
    send(r, a, ev);
}

static void on_attempt_word(struct run *r, uint32_t a, const char *w, size_t n) {
    static const char *const finishes[] = {"stop", "length", "tools", "filter"};
    struct td_event ev = {.type = TD_EV_FINISH};
    if (*w == '#') {
        ev.choice = (uint32_t)(w[1] - '0');
        w += 2, n -= 2;
    }
    for (unsigned i = 0; i < 4; i++)
        if (is(w, n, finishes[i])) {
            ev.finish.reason = (enum td_finish)i;
            send(r, a, ev);
            return;
        }
    if (is(w, n, "on")) {
        step(r, (struct td_x_input){.type = TD_X_IN_STARTED, .attempt = a});
    } else if (is(w, n, "hi")) {
        send(r, a, (struct td_event){.type = TD_EV_START, .start.model = TD_STR("m")});
    } else if (is(w, n, "end")) {
        send(r, a, (struct td_event){.type = TD_EV_END});
    } else if (is(w, n, "vec")) {
        static const float values[4] = {1, 2, 3, 4};
        send(r, a, (struct td_event){.type = TD_EV_EMBEDDING, .embedding = {0, values, 4}});
    } else if (*w == '!') {
        ev = (struct td_event){.type = TD_EV_ERROR};
        ev.error.code = err_of(w + 1, name_length(w + 1, n - 1));
        ev.error.http_status = (int)number_after(w, n, 1);
        ev.error.retry_after_ms = (uint32_t)number_after(w, n, 2);
        send(r, a, ev);
    } else if (n > 3 && memcmp(w, "no,", 3) == 0) {
        struct td_x_input in = {.type = TD_X_IN_REFUSED, .attempt = a};
        in.refused.code = err_of(w + 3, n - 3);
        step(r, in);
    } else if (n > 4 && memcmp(w, "use,", 4) == 0) {
        ev = (struct td_event){.type = TD_EV_USAGE};
        ev.usage.prompt_tokens = (uint32_t)number_after(w, n, 1);
        ev.usage.completion_tokens = (uint32_t)number_after(w, n, 2);
        send(r, a, ev);
    } else {
        fail_msg("what is %.*s", (int)n, w);
    }
}

static void on_word(struct run *r, const char *w, size_t n) {
    static const struct {
        const char *word;
        struct td_x_input in;
    } plain[] = {{"go", {.type = TD_X_IN_START}},
                 {"gone", {.type = TD_X_IN_CLIENT_GONE}},
                 {"stall", {.type = TD_X_IN_CLIENT_STOP}},
                 {"flow", {.type = TD_X_IN_CLIENT_PROCEED}},
                 {"drain", {.type = TD_X_IN_DRAIN}},
                 {"abort", {.type = TD_X_IN_ABORT, .abort_code = TD_ERR_OVERLOAD}},
                 {"disk", {.type = TD_X_IN_DURABLE, .durable = true}},
                 {"nodisk", {.type = TD_X_IN_DURABLE}}};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (is(w, n, plain[i].word)) {
            step(r, plain[i].in);
            return;
        }
    if (*w == '@') {
        r->now_ns = TD_S_NS + strtoull(w + 1, NULL, 10) * TD_MS_NS;
        step(r, (struct td_x_input){.type = TD_X_IN_TIMER});
    } else if (is(w, n, "-retry") || is(w, n, "+retry")) {
        r->retry_budget = *w == '+';
    } else if (is(w, n, "-hedge") || is(w, n, "+hedge")) {
        r->hedge_budget = *w == '+';
    } else {
        fail_msg("what is %.*s", (int)n, w);
    }
}

void run_script(struct run *r, const char *script) {
    const char *p = script;
    while (*p) {
        if (*p == ' ') {
            p++;
            continue;
        }
        const char *w = p;
        while (*p && *p != ' ' && *p != '\'')
            p++;
        if (*p == '\'') {
            const char *quote = p++;
            while (*p != '\'')
                p++;
            on_text(r, (uint32_t)(*w - '0'), w + 2, quote, (size_t)(p - quote - 1));
            p++;
        } else if (w[1] == ':') {
            on_attempt_word(r, (uint32_t)(*w - '0'), w + 2, (size_t)(p - w - 2));
        } else {
            on_word(r, w, (size_t)(p - w));
        }
    }
}

static void run_row(const struct row *row) {
    struct run r;
    run_open(&r, &row->setup);
    run_script(&r, row->script);
    const char *got = td_buf_z(&r.trace);
    if (strcmp(got, row->trace) != 0)
        fail_msg("%s\n  script   %s\n  expected %s\n  got      %s", row->name, row->script, row->trace, got);
    if (r.ends) {
        assert_int_equal(r.cost_nusd, r.end_cost_nusd);
        size_t before = r.trace.n;
        run_script(&r, "@999999999 drain gone abort"); // nothing comes after the end
        assert_int_equal(r.trace.n, before);
    }
    run_close(&r);
}

void run_rows(const struct row *rows, size_t count) {
    for (size_t i = 0; i < count; i++)
        run_row(&rows[i]);
}
