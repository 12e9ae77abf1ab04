// SPDX-License-Identifier: Apache-2.0
#include "exchange/internal.h"

#define RETRIES_MAX_DEFAULT 2u
#define RETRY_BASE_MS_DEFAULT 200u
#define RETRY_CAP_MS_DEFAULT 5000u
#define RETRY_WAIT_MS_DEFAULT 30000u     // nobody else can answer: a person still waits that long
#define RETRY_WAIT_NEXT_MS_DEFAULT 2000u // somebody else can: not worth more
#define OUTS_FIRST 6u                    // a whole answer in one step, and the two that are kept back
#define PROMPT_BYTES_PER_TOKEN 4u

static void free_buffers(void *arg) {
    struct td_exchange *x = arg;
    td_buf_finish(&x->sent);
    td_x_store_finish(&x->calls);
    for (uint32_t i = 0; i < x->attempt_count; i++)
        td_x_store_finish(&x->attempts[i]->store);
}

static void fill_defaults(struct td_x_config *c) {
    if (c->prompt_tokens == 0)
        c->prompt_tokens = c->request->text_bytes / PROMPT_BYTES_PER_TOKEN;
    if (c->retries_max == 0)
        c->retries_max = RETRIES_MAX_DEFAULT;
    else if (c->retries_max == UINT32_MAX)
        c->retries_max = 0;
    if (c->retry_base_ms == 0)
        c->retry_base_ms = RETRY_BASE_MS_DEFAULT;
    if (c->retry_cap_ms == 0)
        c->retry_cap_ms = RETRY_CAP_MS_DEFAULT;
    if (c->retry_wait_ms_max == 0)
        c->retry_wait_ms_max = RETRY_WAIT_MS_DEFAULT;
    if (c->retry_wait_next_ms_max == 0)
        c->retry_wait_next_ms_max = RETRY_WAIT_NEXT_MS_DEFAULT;
}

enum td_err td_exchange_open(const struct td_x_config *config, struct td_exchange **out) {
    const struct td_plan *plan = config->plan;
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (plan->step_count > TD_ATTEMPTS_MAX || plan->steps[i].target >= config->target_count)
            return TD_ERR_USAGE;
    struct td_exchange *x = td_arena_alloc(config->arena, sizeof *x);
    struct td_x_out *outs = td_arena_array(config->arena, OUTS_FIRST, sizeof *outs);
    if (!x || !outs)
        return TD_ERR_NOMEM;
    x->c = *config;
    fill_defaults(&x->c);
    x->request = config->request;
    x->plan = plan;
    x->outs = outs;
    x->out_cap = OUTS_FIRST;
    x->lead = x->draft = -1;
    x->random = plan->draw;
    x->degraded = plan->degraded;
    x->aware = x->request->wishes.revisions && x->request->stream;
    x->step_limit = plan->mode == TD_MODE_SINGLE && plan->step_count ? 1 : plan->step_count;
    if (plan->deadline_ms)
        x->deadline_ns = config->arrival_ns + plan->deadline_ms * TD_MS_NS;
    td_buf_init(&x->sent, TD_REPLY_BYTES_MAX);
    td_x_store_init(&x->calls);
    enum td_err err = td_arena_on_finish(config->arena, free_buffers, x);
    if (!err)
        *out = x;
    return err;
}

struct td_x_effect *td_x_effect_add(struct td_exchange *x, enum td_x_effect_type type) {
    static struct td_x_effect beyond; // never reached: TD_X_EFFECTS_MAX counts the worst step
    if (x->fx->count == TD_X_EFFECTS_MAX)
        return &beyond;
    struct td_x_effect *effect = &x->fx->list[x->fx->count++];
    effect->type = type;
    return effect;
}

// What could not be read may have been text: nothing after the gap belongs to what was shown before it, so the attempt
// counts as cut there. After the finish nothing of the answer can be missing.
static bool has_gap(const struct td_exchange *x, const struct td_x_attempt *a, const struct td_event *ev) {
    return ev->damaged && ev->type != TD_EV_ERROR && !td_x_attempt_whole(x, a);
}

static void on_event(struct td_exchange *x, struct td_x_attempt *a, const struct td_x_input *in) {
    const struct td_event *ev = in->event;
    if (has_gap(x, a, ev)) {
        a->rec.sent = a->rec.damaged = true;
        td_x_attempt_stop(x, a);
        td_x_on_fault(x, a, TD_ERR_CUT, 0, 0, TD_STR("an event of the answer could not be read"));
        return;
    }
    td_x_attempt_note(x, a, ev);
    switch (ev->type) {
    case TD_EV_START:
    case TD_EV_USAGE:
    case TD_EV_FINISH:
        return; // shown when the answer is whole
    case TD_EV_END:
        a->ended = true;
        td_x_attempt_stats(a, in->stats);
        td_x_on_whole(x, a);
        return;
    case TD_EV_ERROR:
        a->ended = true;
        td_x_attempt_stats(a, in->stats);
        if (td_x_attempt_whole(x, a) && x->request->kind != TD_KIND_EMBEDDING)
            td_x_on_whole(x, a); // the finish had come: only the transport's end is missing
        else
            td_x_on_fault(x, a, ev->error.code ? ev->error.code : TD_ERR_INTERNAL, ev->error.http_status,
                          ev->error.retry_after_ms, ev->error.message);
        return;
    default:
        if (ev->choice < TD_CHOICES_MAX)
            td_x_on_content(x, a, ev);
    }
}

static void on_attempt(struct td_exchange *x, const struct td_x_input *in) {
    if (in->attempt >= x->attempt_count || x->phase != TD_X_TRYING)
        return;
    struct td_x_attempt *a = x->attempts[in->attempt];
    if (a->state == TD_X_OVER || a->ended)
        return;
    if (in->type == TD_X_IN_EVENT) {
        on_event(x, a, in);
    } else if (a->state == TD_X_STARTING) {
        if (in->type == TD_X_IN_REFUSED) {
            a->ended = true;
            td_x_on_refused(x, a, in);
        } else {
            a->state = TD_X_RUNNING;
            a->rec.sent = true;
            a->sent_ns = x->now_ns;
        }
    }
}

static void on_stop(struct td_exchange *x, bool stop) {
    x->stopped = stop;
    for (uint32_t i = 0; i < x->attempt_count; i++) {
        struct td_x_attempt *a = x->attempts[i];
        if (a->state == TD_X_OVER || a->paused == stop || (stop && !td_x_is_lead(x, a)))
            continue;
        a->paused = stop;
        a->last_ns = x->now_ns; // the silence was ours
        td_x_effect_add(x, stop ? TD_X_DO_PAUSE : TD_X_DO_RESUME)->attempt = i;
    }
}

static void dispatch(struct td_exchange *x, const struct td_x_input *in) {
    switch (in->type) {
    case TD_X_IN_START:
        if (x->phase == TD_X_OPEN)
            td_x_begin(x);
        return;
    case TD_X_IN_STARTED:
    case TD_X_IN_REFUSED:
    case TD_X_IN_EVENT:
        on_attempt(x, in);
        return;
    case TD_X_IN_TIMER:
        x->armed_ns = 0;
        if (x->phase != TD_X_OPEN)
            td_x_on_timer(x);
        return;
    case TD_X_IN_CLIENT_GONE:
        td_x_gone(x);
        return;
    case TD_X_IN_CLIENT_STOP:
    case TD_X_IN_CLIENT_PROCEED:
        on_stop(x, in->type == TD_X_IN_CLIENT_STOP);
        return;
    case TD_X_IN_DRAIN:
        td_x_on_drain(x);
        return;
    case TD_X_IN_ABORT:
        td_x_on_abort(x, in->abort_code ? in->abort_code : TD_ERR_CANCELLED);
        return;
    case TD_X_IN_DURABLE:
        td_x_on_durable(x, in->durable);
        return;
    case TD_X_IN_KEPT:
        td_x_on_kept(x);
        return;
    }
}

void td_exchange_step(struct td_exchange *x, const struct td_x_input *in, uint64_t now_ns, struct td_x_effects *out) {
    out->count = 0;
    x->fx = out;
    x->out_count = 0;
    if (now_ns > x->now_ns)
        x->now_ns = now_ns;
    x->retry_budget = in->retry_budget;
    x->hedge_budget = in->hedge_budget;
    if (x->phase == TD_X_ENDED)
        return;
    dispatch(x, in);
    if (x->out_of_memory && x->phase != TD_X_ENDED)
        td_x_give_up(x, TD_ERR_NOMEM);
    td_x_arm(x);
    const struct td_x_out *list = x->outs;
    for (uint32_t i = 0; i < out->count; i++) {
        if (out->list[i].type != TD_X_DO_EMIT)
            continue;
        out->list[i].emit.list = list;
        list += out->list[i].emit.count;
    }
    x->fx = NULL;
}

enum td_err td_exchange_answer(const struct td_exchange *x, struct td_buf *out) {
    if (x->sent.n || !x->tool_shown)
        return td_buf_add_str(out, td_buf_str(&x->sent));
    return x->calls_lost ? TD_ERR_NOMEM : td_x_store_calls(&x->calls, x->c.arena, out);
}

uint32_t td_exchange_attempts(const struct td_exchange *x) {
    return x->attempt_count;
}

const struct td_x_record *td_exchange_record(const struct td_exchange *x, uint32_t attempt) {
    return attempt < x->attempt_count ? &x->attempts[attempt]->rec : NULL;
}

void td_exchange_near(const struct td_exchange *x, struct td_near *near) {
    const struct td_x_attempt *lead = x->lead < 0 ? NULL : x->attempts[x->lead];
    td_near_add(near, x, offsetof(struct td_exchange, steps));
    td_near_add(near, &x->shut, offsetof(struct td_exchange, calls) - offsetof(struct td_exchange, shut));
    td_near_add(near, &x->calls_lost, offsetof(struct td_exchange, fault) - offsetof(struct td_exchange, calls_lost));
    td_near_add(near, &x->retry_ns, offsetof(struct td_exchange, first) - offsetof(struct td_exchange, retry_ns));
    td_near_add(near, x->outs, 2 * sizeof *x->outs);
    td_near_add(near, lead, sizeof *lead);
    td_near_add(near, x->sent.p ? x->sent.p + x->sent.n : NULL, TD_NEAR_LINE);
}
