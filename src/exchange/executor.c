// SPDX-License-Identifier: Apache-2.0
#include "exchange/internal.h"

#include <math.h>
#include <stdio.h>

#define HOLD_MS_DEFAULT 400u // held back at most so long where the plan does not say: below what feels like a pause
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

static bool past_deadline(const struct td_exchange *x, uint64_t at_ns) {
    return x->deadline_ns && at_ns >= x->deadline_ns;
}

static bool is_whole(const struct td_x_attempt *a) {
    return a->state == TD_X_OVER && a->rec.outcome == TD_X_OUTCOME_OK;
}

// Progressive to a client that understands revisions: the draft is shown beside the main line.
static bool shows_draft(const struct td_exchange *x) {
    return x->plan->mode == TD_MODE_PROGRESSIVE && x->aware;
}

// Somebody is at work on the answer that is wanted; a draft in reserve does not count.
static bool line_busy(const struct td_exchange *x) {
    for (uint32_t i = 0; i < x->attempt_count; i++) {
        const struct td_x_attempt *a = x->attempts[i];
        bool reserve = td_x_is_draft(x, a) && (x->escalated || shows_draft(x));
        if (a->state != TD_X_OVER && !reserve)
            return true;
    }
    return false;
}

// The client has text of this revision that whoever comes next must go on from. A progressive draft that broke off is
// not that: the better answer is compared with it.
static bool is_cut(const struct td_exchange *x) {
    if (shows_draft(x) && x->chain_count && x->attempts[x->chain[0]]->rec.role == TD_X_ROLE_DRAFT)
        return false;
    bool shown = x->sent.n || x->text_lost || x->tool_shown || x->refusal_shown || x->others_shown;
    return x->begun && x->lead < 0 && shown && !x->restart;
}

static bool continuable(const struct td_exchange *x) {
    return x->plan->on_cut == TD_ON_CUT_CONTINUE && x->request->stream && x->request->n <= 1 && !x->tool_shown &&
           !x->refusal_shown && !x->text_lost && x->request->kind != TD_KIND_EMBEDDING;
}

// ------------------------------------------------------------------------------------------------------- candidates --

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

static int free_step(const struct td_exchange *x) {
    for (uint32_t i = 0; i < x->step_limit; i++)
        if (x->steps[i].state == TD_X_STEP_FREE && eligible(x, i))
            return (int)i;
    return -1;
}

static bool may_retry(const struct td_exchange *x, uint32_t step) {
    return !x->draining && x->retry_budget && x->retries_used < x->c.retries_max &&
           x->steps[step].tries <= x->plan->steps[step].retries_max && eligible(x, step);
}

static enum td_x_role next_role(const struct td_exchange *x, uint32_t step) {
    if (is_cut(x)) {
        const struct td_target *t = &x->c.targets[x->plan->steps[step].target];
        bool takes_prefix = (t->continues || t->capabilities & TD_CAP_CONTINUE) && !x->steps[step].no_prefix;
        bool plain = x->request->format == TD_FORMAT_TEXT; // a grammar cannot be told where to go on
        return takes_prefix && plain ? TD_X_ROLE_CONTINUE : TD_X_ROLE_SPLICE;
    }
    return x->escalated || shows_draft(x) ? TD_X_ROLE_REFINE : TD_X_ROLE_MAIN;
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

static bool start(struct td_exchange *x, uint32_t step, enum td_x_role role) {
    if (x->attempt_count == TD_ATTEMPTS_MAX || past_deadline(x, x->now_ns))
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
    if (free_step(x) >= 0)
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

// -------------------------------------------------------------------------------------------------- waiting, retrying
// --

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
    if (delay_ns > wait_ms_max * TD_MS_NS || past_deadline(x, x->now_ns + delay_ns))
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

// --------------------------------------------------------------------------------------------------- how it goes on --

static void mark_degraded(struct td_exchange *x) {
    x->degraded = true;
    x->refine_over = true;
}

// The draft as the answer, where nothing better can be had. False where there is none, or the client has seen too
// much of another. `now`: it must be whole already.
static bool use_draft(struct td_exchange *x, bool now) {
    struct td_x_attempt *a = td_x_at(x, x->draft);
    if (!a || (now && !is_whole(a)))
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

// Nobody is at work on the answer: ask the next, or wait, or end. `again`: the step that failed last, where another
// try of it comes before the next step; else -1.
static void proceed(struct td_exchange *x, int again) {
    if (x->phase != TD_X_TRYING || line_busy(x) || x->retry_ns || x->refine_ns)
        return;
    if (x->final) {
        td_x_give_up(x, TD_OK);
        return;
    }
    if ((shows_draft(x) && x->refine_over) || past_deadline(x, x->now_ns + DEADLINE_SLACK_NS))
        goto draft;
    if (is_cut(x) && !restart_after_cut(x) && !continuable(x))
        goto draft;
    int step = free_step(x);
    if (again >= 0 && wait_for(x, (uint32_t)again, step >= 0 ? x->c.retry_wait_next_ms_max : x->c.retry_wait_ms_max))
        return;
    if (step >= 0 && start(x, (uint32_t)step, next_role(x, (uint32_t)step)))
        return;
    if (wait_for_any(x))
        return;
draft:
    if (!use_draft(x, false))
        td_x_give_up(x, TD_OK);
}

static void escalate(struct td_exchange *x) {
    struct td_x_attempt *a = td_x_at(x, x->draft);
    x->escalated = true;
    x->hold_ns = 0;
    // A free draft runs on while the better answer is awaited: it is what is left if that fails.
    if (a && a->state != TD_X_OVER && td_x_target(x, a)->paid) {
        td_x_attempt_cancel(x, a, TD_X_OUTCOME_DECLINED, TD_OK);
        x->draft = -1;
    }
    proceed(x, -1);
}

// The cascade's question, asked at the end of the window or of the answer. A backend that gives no probabilities
// cannot be judged: its own "not for me" is all there is.
static void judge(struct td_exchange *x, struct td_x_attempt *a) {
    double confidence = td_x_attempt_confidence(x, a);
    bool filtered = a->rec.finished && a->rec.finish == TD_FINISH_CONTENT_FILTER; // not to be routed around
    x->hold_ns = 0;
    if (!filtered && (confidence < x->plan->cascade_threshold || td_x_attempt_declined(x, a))) {
        escalate(x);
        return;
    }
    x->trusted = true;
    if (x->request->stream) {
        td_x_commit(x, a);
        td_x_release(x, a);
    }
}

// Seen so far; while it runs, only what the window holds counts.
static void consider(struct td_exchange *x, struct td_x_attempt *a) {
    if (x->hold_ns == 0) {
        x->hold_ns = x->now_ns + (x->plan->hold_ms ? x->plan->hold_ms : HOLD_MS_DEFAULT) * TD_MS_NS;
        if (x->plan->cascade_threshold <= 0) {
            judge(x, a);
            return;
        }
    }
    if (x->plan->hold_tokens && a->tokens >= x->plan->hold_tokens)
        judge(x, a);
}

enum td_err td_x_keep(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev) {
    enum td_err err = td_x_store_add(&a->store, ev, x->request->logprobs);
    if (err) {
        td_x_attempt_stop(x, a);
        td_x_on_fault(x, a, err, 0, 0, TD_STR("its answer was too large to keep"));
    }
    return err;
}

static void check_stop(struct td_exchange *x, struct td_x_attempt *a) {
    if (!a->stop_hit || a->state == TD_X_OVER)
        return;
    a->finished_choices |= 1;
    a->rec.finished = true;
    a->finishes[0] = a->rec.finish = TD_FINISH_STOP;
    x->seam_open = false;
    td_x_attempt_stop(x, a);
    td_x_attempt_close(x, a, TD_X_OUTCOME_OK, TD_OK);
    td_x_succeed(x);
}

// Somebody else is at work or can be asked: then "not for me" is not the answer yet.
static bool has_others(const struct td_exchange *x, const struct td_x_attempt *a) {
    if (a->rec.role == TD_X_ROLE_CONTINUE)
        return true; // it is never how another's text goes on
    for (uint32_t i = 0; i < x->attempt_count; i++)
        if (x->attempts[i] != a && x->attempts[i]->state != TD_X_OVER)
            return true;
    return x->refine_ns || free_step(x) >= 0;
}

// Shows it, and what of it was kept so far. What may still become "not for me" is kept back: at most so many bytes.
static void show_or_keep(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev) {
    bool open = !td_x_is_lead(x, a) && td_x_attempt_may_decline(x, a) && has_others(x, a);
    bool kept = td_x_store_count(&a->store) > 0 && !td_x_is_lead(x, a);
    if ((open || kept) && td_x_keep(x, a, ev) != TD_OK)
        return;
    if (open)
        return;
    td_x_commit(x, a);
    if (kept)
        td_x_release(x, a);
    else
        td_x_show(x, a, ev);
    check_stop(x, a);
}

void td_x_on_content(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev) {
    if (td_x_is_draft(x, a) && shows_draft(x)) {
        if (td_x_keep(x, a, ev) != TD_OK)
            return;
        td_x_commit(x, a);
        td_x_show(x, a, ev);
    } else if (td_x_is_lead(x, a)) {
        td_x_show(x, a, ev);
        check_stop(x, a);
    } else if (td_x_is_draft(x, a)) {
        if (td_x_keep(x, a, ev) != TD_OK)
            return;
        if (!x->escalated && !x->trusted) {
            consider(x, a);
        } else if (x->trusted && x->request->stream) {
            td_x_commit(x, a);
            td_x_release(x, a);
        }
    } else if (a->rec.role == TD_X_ROLE_SPLICE) {
        td_x_splice(x, a, ev);
    } else if (a->rec.role == TD_X_ROLE_REFINE && x->aware && x->begun && !x->restart) {
        td_x_rival(x, a, ev);
    } else if (!x->request->stream) {
        (void)!td_x_keep(x, a, ev);
    } else {
        show_or_keep(x, a, ev);
    }
}

static void on_draft_whole(struct td_exchange *x, struct td_x_attempt *a) {
    td_x_attempt_close(x, a, TD_X_OUTCOME_OK, TD_OK);
    if (shows_draft(x)) {
        if (x->refine_over)
            use_draft(x, true);
        return; // the better answer confirms it, or its failure does
    }
    if (!x->escalated && !x->trusted)
        judge(x, a);
    if (x->phase != TD_X_TRYING || x->escalated)
        return;
    if (!td_x_is_lead(x, a)) {
        td_x_commit(x, a);
        td_x_release(x, a);
    }
    td_x_succeed(x);
}

// It stays in reserve: where nobody better can be had, an honest "not for me" is more than nothing.
static void on_declined(struct td_exchange *x, struct td_x_attempt *a) {
    if (x->draft >= 0 || x->begun) {
        td_x_on_fault(x, a, TD_ERR_NOT_FOR_ME, 0, 0, TD_STR_NONE);
        return;
    }
    td_x_attempt_close(x, a, TD_X_OUTCOME_OK, TD_OK);
    x->draft = td_x_index(a);
    x->escalated = true;
    proceed(x, -1);
}

void td_x_on_whole(struct td_exchange *x, struct td_x_attempt *a) {
    if (!td_x_attempt_whole(x, a)) {
        td_x_on_fault(x, a, TD_ERR_CUT, 0, 0, TD_STR("the answer ended without its finish"));
        return;
    }
    bool unseen = !td_x_is_lead(x, a) && !td_x_is_draft(x, a);
    if (unseen && td_x_attempt_declined(x, a) && has_others(x, a)) {
        on_declined(x, a);
        return;
    }
    if (td_x_is_draft(x, a) && !(x->trusted && td_x_is_lead(x, a))) {
        on_draft_whole(x, a);
        return;
    }
    if (a->rec.role == TD_X_ROLE_SPLICE && !td_x_is_lead(x, a) && a->match != x->sent.n) {
        td_x_on_mismatch(x, a);
        return;
    }
    td_x_attempt_close(x, a, TD_X_OUTCOME_OK, TD_OK);
    if (a->rec.role == TD_X_ROLE_REFINE && x->aware && x->begun && !x->restart && !td_x_is_lead(x, a)) {
        td_x_rival_end(x, a);
    } else if (!td_x_is_lead(x, a)) {
        td_x_commit(x, a);
        td_x_release(x, a);
    }
    td_x_flush(x, a);
    td_x_succeed(x);
}

// ------------------------------------------------------------------------------------------------------------ faults
// --

static void remember(struct td_exchange *x, struct td_x_attempt *a, enum td_err code, struct td_str message) {
    bool declined = code == TD_ERR_NOT_FOR_ME;
    bool refused = a->rec.outcome == TD_X_OUTCOME_REFUSED;
    if (declined ? x->declined.code : refused ? x->refusal.code : x->fault.code)
        return;
    struct td_str kept = message.n ? td_arena_str(x->c.arena, message) : td_str_of(td_err_text(code));
    struct td_x_fault fault = {
        code, a->rec.refusal, a->rec.http_status, a->rec.retry_after_ms, kept.p ? kept : TD_STR_NONE, a->rec.target};
    *(declined ? &x->declined : refused ? &x->refusal : &x->fault) = fault;
}

// What the failure says about asking this target again. Returns the step where it is to be tried again first, or -1.
static int settle_step(struct td_exchange *x, const struct td_x_attempt *a, enum td_err code) {
    struct td_x_step *s = &x->steps[a->rec.step];
    const struct td_target *t = td_x_target(x, a);
    enum td_x_class class = td_x_fault_class(code);
    bool refused = a->rec.outcome == TD_X_OUTCOME_REFUSED;
    if (class == TD_X_CLASS_SILENT)
        x->shut |= 1ull << t->index;
    if (class == TD_X_CLASS_CONTEXT) {
        uint32_t over = t->context ? t->context : x->c.prompt_tokens;
        x->context_over = x->context_hit && x->context_over > over ? x->context_over : over;
        x->context_hit = true;
    }
    if (a->rec.role == TD_X_ROLE_CONTINUE && a->rec.events == 0 && !s->no_prefix &&
        (code == TD_ERR_UPSTREAM_REQUEST || code == TD_ERR_UNSUPPORTED)) {
        s->no_prefix = true; // asked afresh it may still give the same answer
        s->state = TD_X_STEP_FREE;
        s->tries = 0;
        return -1;
    }
    if (refused && a->rec.role == TD_X_ROLE_HEDGE && code != TD_ERR_NO_TARGET && code != TD_ERR_BLOCKED) {
        s->state = TD_X_STEP_FREE; // no room for a second try; as a fallback it is still good
        s->tries = 0;
        return -1;
    }
    bool passing = !refused && (class == TD_X_CLASS_RETRY || class == TD_X_CLASS_LAST);
    bool unsaid = code == TD_ERR_UPSTREAM_RATE && !a->rec.retry_after_ms; // how long: the next first, then a moment
    uint32_t wait_ms = unsaid ? TD_RATE_PAUSE_MS : a->rec.retry_after_ms;
    s->state = passing ? TD_X_STEP_PAUSED : TD_X_STEP_OUT;
    s->not_before_ns = wait_ms ? x->now_ns + wait_ms * TD_MS_NS : 0;
    return passing && class == TD_X_CLASS_RETRY && !unsaid ? (int)a->rec.step : -1;
}

static void after_failure(struct td_exchange *x, struct td_x_attempt *a, enum td_err code, struct td_str message) {
    remember(x, a, code, message);
    bool was_draft = td_x_is_draft(x, a);
    int again = settle_step(x, a, code);
    td_x_attempt_record(x, a);
    if (td_x_is_lead(x, a)) {
        x->lead = -1;
        x->seam_open = false;
        x->seam_held = TD_STR_NONE; // whoever goes on says it again
    }
    if (was_draft) {
        x->draft = -1;
        x->hold_ns = x->refine_ns = 0;
        x->escalated |= !x->trusted;
    }
    if (td_x_fault_class(code) == TD_X_CLASS_FINAL && a->rec.outcome != TD_X_OUTCOME_REFUSED) {
        x->final = true; // a hedge's partner that was asked already may still answer
        x->refine_ns = 0;
    }
    proceed(x, was_draft ? -1 : again);
}

static bool hung(const struct td_exchange *x, const struct td_x_attempt *a, enum td_err code) {
    uint64_t limit_ms = a->connect_ms ? a->connect_ms : td_x_target(x, a)->timeouts.connect_ms;
    return (code == TD_ERR_CONNECT || code == TD_ERR_DNS) && x->now_ns - a->rec.start_ns >= limit_ms * TD_MS_NS / 2;
}

void td_x_on_fault(struct td_exchange *x, struct td_x_attempt *a, enum td_err code, int http_status,
                   uint32_t retry_after_ms, struct td_str message) {
    uint32_t max = x->request->max_tokens;
    if (td_x_is_lead(x, a) && max && x->sent_tokens >= max && x->request->n <= 1 && !x->tool_shown &&
        code != TD_ERR_CONTENT_POLICY) {
        // Every event shown was a token at least: there was nothing more to come but the finish.
        a->finished_choices |= 1;
        a->finishes[0] = TD_FINISH_LENGTH;
        td_x_attempt_close(x, a, TD_X_OUTCOME_FAILED, code);
        td_x_succeed(x);
        return;
    }
    a->rec.http_status = http_status;
    a->rec.retry_after_ms = retry_after_ms;
    x->hung |= hung(x, a, code);
    bool declined = code == TD_ERR_NOT_FOR_ME;
    td_x_attempt_close(x, a, declined ? TD_X_OUTCOME_DECLINED : TD_X_OUTCOME_FAILED, code);
    after_failure(x, a, code, message);
}

void td_x_on_refused(struct td_exchange *x, struct td_x_attempt *a, const struct td_x_input *in) {
    enum td_err code = in->refused.code ? in->refused.code : TD_ERR_INTERNAL;
    a->rec.refusal = in->refused.reason;
    a->rec.retry_after_ms = in->refused.retry_after_ms;
    td_x_attempt_close(x, a, TD_X_OUTCOME_REFUSED, code);
    after_failure(x, a, code, in->refused.message);
}

void td_x_on_mismatch(struct td_exchange *x, struct td_x_attempt *a) {
    td_x_attempt_stop(x, a);
    td_x_attempt_close(x, a, TD_X_OUTCOME_MISMATCH, TD_ERR_CUT);
    td_x_attempt_record(x, a);
    x->steps[a->rec.step].state = TD_X_STEP_OUT;
    proceed(x, -1);
}

void td_x_step_free(struct td_exchange *x, const struct td_x_attempt *a) {
    struct td_x_step *s = &x->steps[a->rec.step];
    if (s->state != TD_X_STEP_BUSY)
        return;
    s->state = TD_X_STEP_FREE;
    s->tries = 0;
}

// ---------------------------------------------------------------------------------------------------- begin and end --

// Why nobody may answer: the plan's verdicts, target by target.
static struct td_str verdicts_text(struct td_exchange *x) {
    char text[1024];
    size_t n = (size_t)snprintf(text, sizeof text, "%s", td_err_text(TD_ERR_NO_TARGET));
    const char *separator = ": ";
    for (uint32_t i = 0; i < x->plan->verdict_count && i < x->c.target_count; i++) {
        const struct td_verdict *v = &x->plan->verdicts[i];
        if (v->taken || v->reason == TD_REASON_NOT_PINNED)
            continue;
        struct td_str name = x->c.targets[i].name;
        int more =
            snprintf(text + n, sizeof text - n, "%s%.*s (%s)", separator, TD_STR_ARG(name), td_reason_word(v->reason));
        if (more < 0 || (size_t)more >= sizeof text - n)
            break;
        n += (size_t)more;
        separator = ", ";
    }
    return td_arena_str(x->c.arena, td_str_n(text, n));
}

// One constraint behind all refusals names the error; what may pass by itself is worth trying again later (503).
static void no_target(struct td_exchange *x) {
    uint64_t seen = 0;
    bool passes = false;
    for (uint32_t i = 0; i < x->plan->verdict_count; i++) {
        enum td_reason reason = x->plan->verdicts[i].reason;
        if (x->plan->verdicts[i].taken || reason == TD_REASON_NOT_PINNED)
            continue;
        seen |= 1ull << reason;
        passes = passes || td_reason_passes(reason);
    }
    struct td_x_fault *f = &x->refusal;
    f->code = TD_ERR_NO_TARGET;
    f->message = verdicts_text(x);
    f->retry_after_ms = x->plan->retry_after_ms;
    if (seen == 1ull << TD_REASON_OVERLOADED)
        f->code = TD_ERR_OVERLOAD;
    else if (passes)
        f->code = TD_ERR_UNAVAILABLE;
    else if (seen == 1ull << TD_REASON_CONTEXT)
        f->code = TD_ERR_CONTEXT_LENGTH;
    else if (seen == 1ull << TD_REASON_CAPABILITY)
        f->code = TD_ERR_UNSUPPORTED;
    else if (seen == 1ull << TD_REASON_DEADLINE)
        f->code = TD_ERR_DEADLINE;
    else if (seen == 1ull << TD_REASON_COST)
        f->code = TD_ERR_BUDGET;
}

static void keep_for_later(struct td_exchange *x, enum td_x_outbox_why why) {
    if (!x->plan->outbox || x->outboxed)
        return;
    x->outboxed = true;
    td_x_effect_add(x, TD_X_DO_OUTBOX)->outbox = why;
    if (x->c.waits_for_outbox)
        x->outbox_wait_ns = x->now_ns + TD_X_OUTBOX_WAIT_MS * TD_MS_NS;
}

void td_x_begin(struct td_exchange *x) {
    const struct td_plan *plan = x->plan;
    x->phase = TD_X_TRYING;
    if (plan->blocked) {
        struct td_str why = plan->block_reason.n ? plan->block_reason : td_str_of(td_err_text(TD_ERR_BLOCKED));
        x->refusal = (struct td_x_fault){.code = TD_ERR_BLOCKED, .message = why};
    } else if (plan->step_count == 0) {
        no_target(x);
    }
    if (x->refusal.code) {
        td_x_give_up(x, TD_OK);
        return;
    }
    if (past_deadline(x, x->now_ns)) {
        td_x_give_up(x, TD_ERR_DEADLINE);
        return;
    }
    if (plan->degraded)
        keep_for_later(x, TD_X_OUTBOX_OFFLINE);
    bool pair = x->step_limit > 1 && x->request->kind != TD_KIND_EMBEDDING;
    bool drafts = pair && (plan->mode == TD_MODE_CASCADE || plan->mode == TD_MODE_PROGRESSIVE);
    if (drafts)
        x->draft = 0;
    (void)start(x, 0, drafts ? TD_X_ROLE_DRAFT : TD_X_ROLE_MAIN);
    if (pair && plan->mode == TD_MODE_HEDGE && plan->hedge_after_ms)
        x->hedge_ns = x->now_ns + plan->hedge_after_ms * TD_MS_NS;
    if (!drafts || plan->mode != TD_MODE_PROGRESSIVE)
        return;
    if (!x->aware)
        x->escalated = true; // one valid answer: the better one, the draft stands by
    else if (plan->refine_after_ms)
        x->refine_ns = x->now_ns + plan->refine_after_ms * TD_MS_NS;
    proceed(x, -1);
}

static void record_all(struct td_exchange *x, enum td_x_outcome outcome, enum td_err code) {
    for (uint32_t i = 0; i < x->attempt_count; i++)
        if (!x->attempts[i]->recorded)
            td_x_attempt_cancel(x, x->attempts[i], outcome, code);
    x->retry_ns = x->hold_ns = x->hedge_ns = x->refine_ns = 0;
}

static void end(struct td_exchange *x, enum td_x_end_kind kind, enum td_err code, int http_status) {
    x->phase = TD_X_ENDED;
    td_x_effect_add(x, TD_X_DO_END)->end =
        (struct td_x_end){.kind = kind, .code = code, .http_status = http_status, .cost_nusd = td_x_cost_total(x)};
}

static void show_success(struct td_exchange *x) {
    uint32_t finishes = (uint32_t)__builtin_popcount(x->attempts[x->lead]->finished_choices);
    if (x->out_of_memory || !td_x_out_reserve(x, finishes + 1)) {
        td_x_give_up(x, TD_ERR_NOMEM); // something of the answer could not be shown: it is not whole
        return;
    }
    td_x_show_end(x);
    end(x, x->degraded ? TD_X_END_DEGRADED : TD_X_END_OK, TD_OK, 200);
}

static void show_failure(struct td_exchange *x) {
    const struct td_x_fault *f = &x->failed;
    bool own = f->code == TD_ERR_NO_TARGET && f->http_status; // judged in no_target
    int status = own ? f->http_status : td_x_http_status(f->code, f->http_status);
    td_x_show_error(x, f->code, status, f->retry_after_ms, f->message);
    end(x, x->begun ? TD_X_END_BROKEN : TD_X_END_ERROR, f->code, status);
}

// The answer is whole, or there will be none; its end is shown once what is promised with it is on the disk.
static void show_when_safe(struct td_exchange *x) {
    if (x->phase != TD_X_WAITING || x->rows_wait || x->outbox_wait_ns)
        return;
    if (x->failed.code)
        show_failure(x);
    else
        show_success(x);
}

// A better target was asked and failed: the answer is a lesser one than was wanted.
static bool is_lesser(const struct td_exchange *x) {
    const struct td_target *lead = td_x_target(x, x->attempts[x->lead]);
    for (uint32_t i = 0; i < x->attempt_count; i++) {
        const struct td_x_attempt *a = x->attempts[i];
        bool failed = a->rec.outcome == TD_X_OUTCOME_FAILED ||
                      (a->rec.outcome == TD_X_OUTCOME_REFUSED && a->rec.code != TD_ERR_NO_TARGET);
        if (a->state == TD_X_OVER && failed && td_plan_is_better(x->plan, td_x_target(x, a), lead))
            return true;
    }
    return false;
}

void td_x_succeed(struct td_exchange *x) {
    td_x_attempt_record(x, x->attempts[x->lead]);
    if (x->draft >= 0 && x->draft != x->lead && is_whole(x->attempts[x->draft]))
        td_x_attempt_record(x, x->attempts[x->draft]);
    record_all(x, TD_X_OUTCOME_LOST, TD_OK);
    x->degraded |= is_lesser(x);
    if (x->degraded)
        keep_for_later(x, TD_X_OUTBOX_DEGRADED);
    x->phase = TD_X_WAITING;
    x->rows_wait = x->c.durable_before_answer;
    show_when_safe(x);
}

// What the caller did wrong, or must not have, no later answer will mend.
static bool worth_keeping(enum td_err code) {
    enum td_x_class class = td_x_fault_class(code);
    return class != TD_X_CLASS_FINAL && class != TD_X_CLASS_CONTEXT && code != TD_ERR_UPSTREAM_REQUEST &&
           code != TD_ERR_UNSUPPORTED && code != TD_ERR_NO_TARGET && code != TD_ERR_CHAIN && code != TD_ERR_CANCELLED;
}

void td_x_give_up(struct td_exchange *x, enum td_err code) {
    struct td_x_fault f = x->fault.code ? x->fault : x->refusal.code ? x->refusal : x->declined;
    if (code || f.code == TD_OK) {
        f = (struct td_x_fault){.code = code ? code : TD_ERR_INTERNAL};
        f.message = td_str_of(td_err_text(f.code));
    }
    record_all(x, TD_X_OUTCOME_CANCELLED, f.code);
    if (worth_keeping(f.code))
        keep_for_later(x, TD_X_OUTBOX_FAILED);
    if (past_deadline(x, x->now_ns))
        x->outbox_wait_ns = 0;
    x->failed = f;
    x->rows_wait = false;
    x->phase = TD_X_WAITING;
    show_when_safe(x);
}

void td_x_gone(struct td_exchange *x) {
    record_all(x, TD_X_OUTCOME_CANCELLED, TD_ERR_CANCELLED);
    end(x, TD_X_END_GONE, TD_ERR_CANCELLED, td_x_http_status(TD_ERR_CANCELLED, 0));
}

void td_x_on_durable(struct td_exchange *x, bool durable) {
    if (x->phase != TD_X_WAITING || !x->rows_wait)
        return;
    x->rows_wait = false;
    if (durable)
        show_when_safe(x);
    else
        td_x_give_up(x, TD_ERR_LEDGER);
}

void td_x_on_kept(struct td_exchange *x) {
    x->outbox_wait_ns = 0;
    show_when_safe(x);
}

// ------------------------------------------------------------------------------------------------------------- times
// --

static void try_hedge(struct td_exchange *x) {
    int running = 0, step = free_step(x);
    for (uint32_t i = 0; i < x->attempt_count; i++)
        running += x->attempts[i]->state != TD_X_OVER;
    if (running != 1 || x->lead >= 0 || step < 0 || x->draining || !x->hedge_budget)
        return;
    const struct td_x_attempt *slow = x->attempts[x->attempt_count - 1];
    const struct td_target *t = &x->c.targets[x->plan->steps[step].target];
    bool meant = x->plan->steps[step].reason == TD_REASON_HEDGE; // the plan weighed the money
    if (slow->state != TD_X_OVER && slow->rec.events == 0 && (meant || !t->paid || t->hedge))
        (void)start(x, (uint32_t)step, TD_X_ROLE_HEDGE);
}

static bool due(uint64_t *at_ns, uint64_t now_ns) {
    if (*at_ns == 0 || *at_ns > now_ns)
        return false;
    *at_ns = 0;
    return true;
}

void td_x_on_timer(struct td_exchange *x) {
    if (past_deadline(x, x->now_ns)) {
        if (x->phase == TD_X_WAITING && !x->rows_wait)
            td_x_on_kept(x);
        else if (x->phase == TD_X_WAITING || !use_draft(x, true))
            td_x_give_up(x, TD_ERR_DEADLINE);
        return;
    }
    if (due(&x->outbox_wait_ns, x->now_ns))
        td_x_on_kept(x);
    for (uint32_t i = 0; i < x->attempt_count && x->phase == TD_X_TRYING; i++) {
        struct td_x_attempt *a = x->attempts[i];
        enum td_err code = TD_OK;
        uint64_t limit = td_x_attempt_limit(x, a, &code);
        if (limit == 0 || limit > x->now_ns)
            continue;
        td_x_attempt_stop(x, a);
        if (td_x_attempt_whole(x, a))
            td_x_on_whole(x, a); // all that it had to say was said
        else
            td_x_on_fault(x, a, code, 0, 0, td_str_of(td_err_text(code)));
    }
    if (x->phase == TD_X_TRYING && due(&x->retry_ns, x->now_ns) &&
        !start(x, x->retry_step, next_role(x, x->retry_step)))
        proceed(x, -1);
    if (x->phase == TD_X_TRYING && due(&x->hold_ns, x->now_ns) && x->draft >= 0 && !x->trusted && !x->escalated)
        judge(x, x->attempts[x->draft]);
    if (x->phase == TD_X_TRYING && due(&x->hedge_ns, x->now_ns))
        try_hedge(x);
    if (x->phase == TD_X_TRYING && due(&x->refine_ns, x->now_ns))
        proceed(x, -1);
}

void td_x_on_abort(struct td_exchange *x, enum td_err code) {
    if ((x->phase != TD_X_WAITING || x->rows_wait) && (x->phase != TD_X_TRYING || !use_draft(x, true)))
        td_x_give_up(x, code);
    if (!x->rows_wait)
        td_x_on_kept(x);
}

void td_x_on_drain(struct td_exchange *x) {
    x->draining = true;
    x->hedge_ns = 0;
    if (x->phase != TD_X_TRYING)
        return;
    bool waits = x->retry_ns != 0;
    if (x->refine_ns) { // the better answer has not been asked: the draft will do
        x->refine_ns = 0;
        x->refine_over = true;
        proceed(x, -1);
    } else if (waits) {
        x->retry_ns = 0;
        proceed(x, -1);
    }
}

static void earliest(uint64_t *min, uint64_t at) {
    if (at && (*min == 0 || at < *min))
        *min = at;
}

void td_x_arm(struct td_exchange *x) {
    uint64_t min = 0;
    if (x->phase != TD_X_TRYING && x->phase != TD_X_WAITING)
        return;
    earliest(&min, x->deadline_ns);
    earliest(&min, x->outbox_wait_ns);
    if (x->phase == TD_X_TRYING) {
        earliest(&min, x->retry_ns);
        earliest(&min, x->hold_ns);
        earliest(&min, x->hedge_ns);
        earliest(&min, x->refine_ns);
        enum td_err code;
        for (uint32_t i = 0; i < x->attempt_count; i++)
            if (x->attempts[i]->state != TD_X_OVER)
                earliest(&min, td_x_attempt_limit(x, x->attempts[i], &code));
    }
    // A timer that comes too early looks again and is set anew: a stream does not move it with every token.
    if (min == 0 || (x->armed_ns && x->armed_ns <= min))
        return;
    x->armed_ns = min;
    td_x_effect_add(x, TD_X_DO_TIMER)->timer_ns = min;
}
