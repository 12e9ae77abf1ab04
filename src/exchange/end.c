// SPDX-License-Identifier: Apache-2.0
// How an exchange ends: with the answer, an error, or a client that has gone; and what is kept for later.
#include "exchange/internal.h"

#include <stdio.h>

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
void td_x_no_target(struct td_exchange *x) {
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

void td_x_keep_for_later(struct td_exchange *x, enum td_x_outbox_why why) {
    if (!x->plan->outbox || x->outboxed)
        return;
    x->outboxed = true;
    td_x_effect_add(x, TD_X_DO_OUTBOX)->outbox = why;
    if (x->c.waits_for_outbox)
        x->outbox_wait_ns = x->now_ns + TD_X_OUTBOX_WAIT_MS * TD_MS_NS;
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
    if (x->draft >= 0 && x->draft != x->lead && td_x_is_whole(x->attempts[x->draft]))
        td_x_attempt_record(x, x->attempts[x->draft]);
    record_all(x, TD_X_OUTCOME_LOST, TD_OK);
    x->degraded |= is_lesser(x);
    if (x->degraded)
        td_x_keep_for_later(x, TD_X_OUTBOX_DEGRADED);
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
        td_x_keep_for_later(x, TD_X_OUTBOX_FAILED);
    if (td_x_past_deadline(x, x->now_ns))
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
