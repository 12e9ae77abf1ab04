// SPDX-License-Identifier: Apache-2.0
// What each error means for the plan, which HTTP status it gets, and what a failed attempt leads to. One row an error:
// a new row of TD_ERR_LIST fails the unit test until it is judged here.
#include "exchange/internal.h"

static const struct {
    enum td_x_class class;
    int status;
} rows[TD_ERR_COUNT] = {
    [TD_OK] = {TD_X_CLASS_NEXT, 200},
    [TD_ERR_NOMEM] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_INTERNAL] = {TD_X_CLASS_NEXT, 500},
    [TD_ERR_LIMIT] = {TD_X_CLASS_NEXT, 413},
    [TD_ERR_USAGE] = {TD_X_CLASS_NEXT, 400},
    [TD_ERR_IO] = {TD_X_CLASS_LAST, 500},
    [TD_ERR_CONFIG] = {TD_X_CLASS_NEXT, 500},
    [TD_ERR_BAD_REQUEST] = {TD_X_CLASS_NEXT, 400},
    [TD_ERR_BAD_JSON] = {TD_X_CLASS_NEXT, 400},
    [TD_ERR_UNSUPPORTED] = {TD_X_CLASS_NEXT, 400},
    [TD_ERR_UNAUTHORIZED] = {TD_X_CLASS_NEXT, 401},
    [TD_ERR_FORBIDDEN] = {TD_X_CLASS_NEXT, 403},
    [TD_ERR_NOT_FOUND] = {TD_X_CLASS_NEXT, 404},
    [TD_ERR_MODEL_NOT_FOUND] = {TD_X_CLASS_NEXT, 404},
    [TD_ERR_NO_TARGET] = {TD_X_CLASS_NEXT, 403},
    [TD_ERR_UNAVAILABLE] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_BLOCKED] = {TD_X_CLASS_FINAL, 403},
    [TD_ERR_BUDGET] = {TD_X_CLASS_NEXT, 429},
    [TD_ERR_RATE] = {TD_X_CLASS_NEXT, 429},
    [TD_ERR_OVERLOAD] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_DEADLINE] = {TD_X_CLASS_NEXT, 504}, // of an attempt: the target's own total; the request's is in time.c
    [TD_ERR_CONTEXT_LENGTH] = {TD_X_CLASS_CONTEXT, 400},
    [TD_ERR_CONTENT_POLICY] = {TD_X_CLASS_FINAL, 400},
    // The network may be gone: what can answer without it comes first.
    [TD_ERR_CONNECT] = {TD_X_CLASS_LAST, 502},
    [TD_ERR_DNS] = {TD_X_CLASS_LAST, 502},
    [TD_ERR_TLS] = {TD_X_CLASS_NEXT, 502},
    [TD_ERR_FIRST_TOKEN] = {TD_X_CLASS_SILENT, 504},
    [TD_ERR_IDLE] = {TD_X_CLASS_SILENT, 504},
    [TD_ERR_CUT] = {TD_X_CLASS_LAST, 502},
    [TD_ERR_UPSTREAM_AUTH] = {TD_X_CLASS_NEXT, 502},
    [TD_ERR_UPSTREAM_RATE] = {TD_X_CLASS_RETRY, 429},
    [TD_ERR_UPSTREAM_QUOTA] = {TD_X_CLASS_NEXT, 429}, // used up is not busy: waiting does not help
    [TD_ERR_UPSTREAM_REQUEST] = {TD_X_CLASS_NEXT, 400},
    [TD_ERR_UPSTREAM_NOT_FOUND] = {TD_X_CLASS_NEXT, 502},
    [TD_ERR_UPSTREAM_SERVER] = {TD_X_CLASS_RETRY, 502},
    [TD_ERR_UPSTREAM_GARBAGE] = {TD_X_CLASS_NEXT, 502},
    [TD_ERR_HOST_CRASH] = {TD_X_CLASS_LAST, 503},
    [TD_ERR_HOST_LOAD] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_HOST_MEMORY] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_NOT_FOR_ME] = {TD_X_CLASS_DECLINED, 422},
    [TD_ERR_GRANT] = {TD_X_CLASS_NEXT, 500},
    [TD_ERR_LEDGER] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_LOCKED] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_CANCELLED] = {TD_X_CLASS_NEXT, 499}, // as others write it in their logs; no client is left to read it
    [TD_ERR_METHOD] = {TD_X_CLASS_NEXT, 405},
    [TD_ERR_KEY_REUSED] = {TD_X_CLASS_NEXT, 422},
    [TD_ERR_IN_PROGRESS] = {TD_X_CLASS_NEXT, 409},
    [TD_ERR_CHAIN] = {TD_X_CLASS_NEXT, 508}, // another target may answer it without a further hop
};

enum td_x_class td_x_fault_class(enum td_err code) {
    return (unsigned)code < TD_ERR_COUNT ? rows[code].class : TD_X_CLASS_NEXT;
}

int td_x_http_status(enum td_err code, int upstream_status) {
    if (code == TD_ERR_UPSTREAM_REQUEST && upstream_status >= 400 && upstream_status < 500)
        return upstream_status;
    int status = (unsigned)code < TD_ERR_COUNT ? rows[code].status : 0;
    return status ? status : 500;
}

const char *td_x_role_word(enum td_x_role role) {
    static const char *const words[] = {"main", "draft", "refine", "hedge", "continue", "splice"};
    return (unsigned)role < sizeof words / sizeof *words ? words[role] : "";
}

const char *td_x_outcome_word(enum td_x_outcome outcome) {
    static const char *const words[] = {"ok", "failed", "declined", "refused", "lost", "cancelled", "mismatch"};
    return (unsigned)outcome < sizeof words / sizeof *words ? words[outcome] : "";
}

const char *td_x_op_word(enum td_x_op op) {
    static const char *const words[] = {"append", "replace", "confirm"};
    return (unsigned)op < sizeof words / sizeof *words ? words[op] : "";
}

// ---- what comes of one

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
    // It fits, as the answer had begun: the host comes back with room.
    bool again_later = class == TD_X_CLASS_LAST || (code == TD_ERR_HOST_MEMORY && a->rec.events);
    bool passing = !refused && (class == TD_X_CLASS_RETRY || again_later);
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
    td_x_proceed(x, was_draft ? -1 : again);
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
    td_x_proceed(x, -1);
}

void td_x_step_free(struct td_exchange *x, const struct td_x_attempt *a) {
    struct td_x_step *s = &x->steps[a->rec.step];
    if (s->state != TD_X_STEP_BUSY)
        return;
    s->state = TD_X_STEP_FREE;
    s->tries = 0;
}
