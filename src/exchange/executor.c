// SPDX-License-Identifier: Apache-2.0
// Which attempt comes next: the candidates, their turns and pauses, and what is left when nobody better can be asked.
#include "exchange/internal.h"

#include <math.h>

#define RETRY_AFTER_SPREAD_MS_MAX 250u    // so that not everyone who waited comes back in the same millisecond
#define DEADLINE_SLACK_NS (5u * TD_MS_NS) // nobody answers in less; an attempt's own clock may run out a bit earlier
#define CONTEXT_RESERVE_TOKENS 16u        // template and separators around a prefix

static uint64_t draw(struct td_exchange *x) { // splitmix64 (Steele, Lea, Flood 2014)
    uint64_t z = x->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint32_t draw_below(struct td_exchange *x, uint32_t n) {
    return n ? (uint32_t)(draw(x) % n) : 0;
}

// Somebody is at work on the answer that is wanted; a draft in reserve does not count.
static bool line_busy(const struct td_exchange *x) {
    for (uint32_t i = 0; i < x->attempt_count; i++) {
        const struct td_x_attempt *a = x->attempts[i];
        bool reserve = td_x_is_draft(x, a) && (x->escalated || td_x_shows_draft(x));
        if (a->state != TD_X_OVER && !reserve)
            return true;
    }
    return false;
}

// The client has text of this revision that whoever comes next must go on from. A progressive draft that broke off is
// not that: the better answer is compared with it.
static bool is_cut(const struct td_exchange *x) {
    if (td_x_shows_draft(x) && x->chain_count && x->attempts[x->chain[0]]->rec.role == TD_X_ROLE_DRAFT)
        return false;
    bool shown = x->sent.n || x->text_lost || x->tool_shown || x->refusal_shown || x->others_shown;
    return x->begun && x->lead < 0 && shown && !x->restart;
}

static bool continuable(const struct td_exchange *x) {
    return x->plan->on_cut == TD_ON_CUT_CONTINUE && x->request->stream && x->request->n <= 1 && !x->tool_shown &&
           !x->refusal_shown && !x->text_lost && x->request->kind != TD_KIND_EMBEDDING;
}

// ---- candidates

static bool fits_context(const struct td_exchange *x, const struct td_target *t) {
    if (x->context_hit && t->context && t->context <= x->context_over)
        return false;
    if (!is_cut(x) || t->context == 0)
        return true;
    return (uint64_t)x->c.prompt_tokens + x->sent_tokens + CONTEXT_RESERVE_TOKENS <= t->context;
}

static bool eligible(const struct td_exchange *x, uint32_t step) {
    const struct td_target *t = &x->c.targets[x->plan->steps[step].target];
    const struct td_target *first = &x->c.targets[x->plan->steps[0].target];
    if (x->shut >> t->index & 1 || !fits_context(x, t))
        return false;
    if (x->request->kind == TD_KIND_EMBEDDING && !td_str_eq(t->model, first->model))
        return false; // vectors of different models do not compare
    return !is_cut(x) || t->quality >= x->plan->on_cut_min_quality;
}

int td_x_free_step(const struct td_exchange *x) {
    for (uint32_t i = 0; i < x->step_limit; i++)
        if (x->steps[i].state == TD_X_STEP_FREE && eligible(x, i))
            return (int)i;
    return -1;
}

static bool may_retry(const struct td_exchange *x, uint32_t step) {
    return !x->draining && x->retry_budget && x->retries_used < x->c.retries_max &&
           x->steps[step].tries <= x->plan->steps[step].retries_max && eligible(x, step);
}

enum td_x_role td_x_next_role(const struct td_exchange *x, uint32_t step) {
    if (is_cut(x)) {
        const struct td_target *t = &x->c.targets[x->plan->steps[step].target];
        bool takes_prefix = (t->continues || t->capabilities & TD_CAP_CONTINUE) && !x->steps[step].no_prefix;
        bool plain = x->request->format == TD_FORMAT_TEXT; // a grammar cannot be told where to go on
        return takes_prefix && plain ? TD_X_ROLE_CONTINUE : TD_X_ROLE_SPLICE;
    }
    return x->escalated || td_x_shows_draft(x) ? TD_X_ROLE_REFINE : TD_X_ROLE_MAIN;
}

static uint32_t tokens_left(const struct td_exchange *x, enum td_x_role role) {
    uint32_t max = x->request->max_tokens;
    if (max == 0 || role != TD_X_ROLE_CONTINUE)
        return max;
    return x->sent_tokens < max ? max - x->sent_tokens : 1;
}

// A cascade judges by them; a command model's confidence is told with every answer.
static bool wants_tokens(const struct td_exchange *x, uint32_t step, enum td_x_role role) {
    const struct td_target *t = &x->c.targets[x->plan->steps[step].target];
    return x->request->logprobs || (role == TD_X_ROLE_DRAFT && x->plan->mode == TD_MODE_CASCADE) ||
           (t->provider == TD_PROVIDER_LLAMA && t->model_class == TD_MODEL_COMMAND);
}

bool td_x_ask(struct td_exchange *x, uint32_t step, enum td_x_role role) {
    if (x->attempt_count == TD_ATTEMPTS_MAX || td_x_past_deadline(x, x->now_ns))
        return false;
    struct td_x_step *s = &x->steps[step];
    struct td_x_attempt *a = x->attempt_count ? td_arena_alloc(x->c.arena, sizeof *a) : &x->first;
    const struct td_step *planned = &x->plan->steps[step];
    struct td_str prefix = TD_STR_NONE, draft = TD_STR_NONE;
    if (!a)
        return false;
    if (role == TD_X_ROLE_CONTINUE) {
        prefix = td_arena_str(x->c.arena, td_buf_str(&x->sent));
        if (!prefix.p)
            return false;
    }
    if (role == TD_X_ROLE_REFINE && x->draft >= 0)
        draft = td_arena_str(x->c.arena, td_x_store_text(&x->attempts[x->draft]->store));
    td_x_store_init(&a->store);
    a->tokens_exact = true;
    a->rec = (struct td_x_record){.attempt = x->attempt_count,
                                  .step = step,
                                  .target = planned->target,
                                  .retry = s->tries,
                                  .role = role,
                                  .reason = planned->reason,
                                  .start_ns = x->now_ns,
                                  .confidence = NAN,
                                  .mean_logprob = NAN,
                                  .mean_entropy = NAN};
    if (role == TD_X_ROLE_CONTINUE || role == TD_X_ROLE_SPLICE)
        a->rec.prefix_bytes = (uint32_t)x->sent.n;
    x->attempts[x->attempt_count++] = a;
    x->retries_used += s->tries > 0;
    s->state = TD_X_STEP_BUSY;
    if (td_x_free_step(x) >= 0)
        a->connect_ms = x->hung ? planned->connect_late_ms : planned->connect_ms;
    struct td_x_start *effect = &td_x_effect_add(x, TD_X_DO_START)->start;
    *effect = (struct td_x_start){.attempt = a->rec.attempt,
                                  .step = step,
                                  .target = planned->target,
                                  .role = role,
                                  .retry = s->tries > 0,
                                  .want_tokens = wants_tokens(x, step, role),
                                  .max_tokens = tokens_left(x, role),
                                  .prefix = prefix,
                                  .draft = draft,
                                  .connect_ms = a->connect_ms,
                                  .deadline_ns = x->deadline_ns};
    s->tries++;
    return true;
}

// ---- waiting, retrying

static uint32_t backoff_ms(struct td_exchange *x, uint32_t tries) {
    uint32_t most = x->c.retry_base_ms;
    for (uint32_t i = 1; i < tries && most < x->c.retry_cap_ms; i++)
        most *= 2;
    return draw_below(x, (most < x->c.retry_cap_ms ? most : x->c.retry_cap_ms) + 1);
}

static bool wait_for(struct td_exchange *x, uint32_t step, uint32_t wait_ms_max) {
    if (!may_retry(x, step) || x->attempt_count == TD_ATTEMPTS_MAX)
        return false;
    struct td_x_step *s = &x->steps[step];
    uint64_t delay_ns = backoff_ms(x, s->tries) * TD_MS_NS;
    if (s->not_before_ns > x->now_ns) { // the server's wish wins over our own pause
        delay_ns = s->not_before_ns - x->now_ns;
        uint64_t spread = delay_ns / TD_MS_NS / 10;
        delay_ns += draw_below(x, (uint32_t)(spread < RETRY_AFTER_SPREAD_MS_MAX ? spread : RETRY_AFTER_SPREAD_MS_MAX)) *
                    TD_MS_NS;
    }
    if (delay_ns > wait_ms_max * TD_MS_NS || td_x_past_deadline(x, x->now_ns + delay_ns))
        return false;
    x->retry_step = step;
    x->retry_ns = x->now_ns + delay_ns;
    if (delay_ns == 0)
        x->retry_ns = x->now_ns ? x->now_ns : 1;
    return true;
}

// Of those that failed in a way that may pass, the one that may be asked again soonest.
static bool wait_for_any(struct td_exchange *x) {
    uint32_t tried = 0;
    for (;;) {
        int best = -1;
        for (uint32_t i = 0; i < x->step_limit; i++)
            if (x->steps[i].state == TD_X_STEP_PAUSED && !(tried >> i & 1) &&
                (best < 0 || x->steps[i].not_before_ns < x->steps[best].not_before_ns))
                best = (int)i;
        if (best < 0)
            return false;
        if (wait_for(x, (uint32_t)best, x->c.retry_wait_ms_max))
            return true;
        tried |= 1u << best;
    }
}

// ---- how it goes on

static void mark_degraded(struct td_exchange *x) {
    x->degraded = true;
    x->refine_over = true;
}

bool td_x_use_draft(struct td_exchange *x, bool now) {
    struct td_x_attempt *a = td_x_at(x, x->draft);
    if (!a || (now && !td_x_is_whole(a)))
        return false;
    bool running = a->state != TD_X_OVER;
    if (!x->begun) {
        mark_degraded(x);
        x->trusted = true;
        x->escalated = false;
        if (running && (!x->request->stream || a->rec.events == 0))
            return true; // what comes of it shows it
        td_x_commit(x, a);
        td_x_release(x, a);
    } else if (td_x_is_lead(x, a)) {
        mark_degraded(x);
        if (!running)
            td_x_revise(x, a, TD_X_OP_CONFIRM);
    } else if (x->aware && !running) {
        mark_degraded(x);
        td_x_revise(x, a, TD_X_OP_REPLACE);
    } else {
        return false;
    }
    if (!running)
        td_x_succeed(x);
    return true;
}

static bool restart_after_cut(struct td_exchange *x) {
    if (!is_cut(x) || x->plan->on_cut != TD_ON_CUT_RESTART || !x->aware)
        return false;
    x->restart = true;
    return true;
}

void td_x_proceed(struct td_exchange *x, int again) {
    if (x->phase != TD_X_TRYING || line_busy(x) || x->retry_ns || x->refine_ns)
        return;
    if (x->final) {
        td_x_give_up(x, TD_OK);
        return;
    }
    if ((td_x_shows_draft(x) && x->refine_over) || td_x_past_deadline(x, x->now_ns + DEADLINE_SLACK_NS))
        goto draft;
    if (is_cut(x) && !restart_after_cut(x) && !continuable(x))
        goto draft;
    int step = td_x_free_step(x);
    if (again >= 0 && wait_for(x, (uint32_t)again, step >= 0 ? x->c.retry_wait_next_ms_max : x->c.retry_wait_ms_max))
        return;
    if (step >= 0 && td_x_ask(x, (uint32_t)step, td_x_next_role(x, (uint32_t)step)))
        return;
    if (wait_for_any(x))
        return;
draft:
    if (!td_x_use_draft(x, false))
        td_x_give_up(x, TD_OK);
}

void td_x_escalate(struct td_exchange *x) {
    struct td_x_attempt *a = td_x_at(x, x->draft);
    x->escalated = true;
    x->hold_ns = 0;
    // A free draft runs on while the better answer is awaited: it is what is left if that fails.
    if (a && a->state != TD_X_OVER && td_x_target(x, a)->paid) {
        td_x_attempt_cancel(x, a, TD_X_OUTCOME_DECLINED, TD_OK);
        x->draft = -1;
    }
    td_x_proceed(x, -1);
}

void td_x_begin(struct td_exchange *x) {
    const struct td_plan *plan = x->plan;
    x->phase = TD_X_TRYING;
    if (plan->blocked) {
        struct td_str why = plan->block_reason.n ? plan->block_reason : td_str_of(td_err_text(TD_ERR_BLOCKED));
        x->refusal = (struct td_x_fault){.code = TD_ERR_BLOCKED, .message = why};
    } else if (plan->step_count == 0) {
        td_x_no_target(x);
    }
    if (x->refusal.code) {
        td_x_give_up(x, TD_OK);
        return;
    }
    if (td_x_past_deadline(x, x->now_ns)) {
        td_x_give_up(x, TD_ERR_DEADLINE);
        return;
    }
    if (plan->degraded)
        td_x_keep_for_later(x, TD_X_OUTBOX_OFFLINE);
    bool pair = x->step_limit > 1 && x->request->kind != TD_KIND_EMBEDDING;
    bool drafts = pair && (plan->mode == TD_MODE_CASCADE || plan->mode == TD_MODE_PROGRESSIVE);
    if (drafts)
        x->draft = 0;
    (void)td_x_ask(x, 0, drafts ? TD_X_ROLE_DRAFT : TD_X_ROLE_MAIN);
    if (pair && plan->mode == TD_MODE_HEDGE && plan->hedge_after_ms)
        x->hedge_ns = x->now_ns + plan->hedge_after_ms * TD_MS_NS;
    if (!drafts || plan->mode != TD_MODE_PROGRESSIVE)
        return;
    if (!x->aware)
        x->escalated = true; // one valid answer: the better one, the draft stands by
    else if (plan->refine_after_ms)
        x->refine_ns = x->now_ns + plan->refine_after_ms * TD_MS_NS;
    td_x_proceed(x, -1);
}
