// SPDX-License-Identifier: Apache-2.0
#include "exchange/internal.h"

#include <math.h>

// Two places stay free so that even without memory the client can be told that there is none.
#define OUTS_SPARE 2u

bool td_x_out_reserve(struct td_exchange *x, uint32_t n) {
    uint32_t cap = x->out_cap;
    while (x->out_count + n + OUTS_SPARE > cap)
        cap *= 2;
    if (cap == x->out_cap)
        return true;
    struct td_x_out *more = td_arena_array(x->c.arena, cap, sizeof *more);
    if (!more)
        return false;
    memcpy(more, x->outs, x->out_count * sizeof *more);
    x->outs = more;
    x->out_cap = cap;
    return true;
}

static struct td_x_out *out_add(struct td_exchange *x, enum td_x_out_type type, uint32_t attempt) {
    if (type != TD_X_OUT_ERROR && !td_x_out_reserve(x, 1)) {
        x->out_of_memory = true;
        return &x->spare_out;
    }
    struct td_x_effect *last = x->fx->count ? &x->fx->list[x->fx->count - 1] : NULL;
    if (!last || last->type != TD_X_DO_EMIT) {
        last = td_x_effect_add(x, TD_X_DO_EMIT);
        last->emit.count = 0;
    }
    last->emit.count++;
    struct td_x_out *out = &x->outs[x->out_count++];
    *out = (struct td_x_out){.type = type, .attempt = attempt, .revision = x->revision};
    return out;
}

static void forget_shown(struct td_exchange *x) {
    td_buf_clear(&x->sent);
    x->sent_tokens = 0;
    td_x_store_finish(&x->calls);
    td_x_store_init(&x->calls);
    x->tool_shown = x->refusal_shown = x->others_shown = x->text_lost = x->calls_lost = false;
}

static void begin_chain(struct td_exchange *x, const struct td_x_attempt *a) {
    x->chain[0] = a->rec.attempt;
    x->chain_count = 1;
}

// Everyone else who is still trying has lost; a draft that was kept in reserve is not needed any more.
static void drop_rivals(struct td_exchange *x, const struct td_x_attempt *winner) {
    for (uint32_t i = 0; i < x->attempt_count; i++) {
        struct td_x_attempt *b = x->attempts[i];
        if (b == winner || b->recorded)
            continue;
        bool declined = td_x_is_draft(x, b) && (x->plan->mode == TD_MODE_CASCADE || td_x_attempt_declined(x, b));
        enum td_x_outcome outcome = declined ? TD_X_OUTCOME_DECLINED : TD_X_OUTCOME_LOST;
        if (b->state == TD_X_OVER)
            b->rec.outcome = outcome;
        td_x_step_free(x, b);
        td_x_attempt_cancel(x, b, outcome, TD_OK);
        if (td_x_is_draft(x, b))
            x->draft = -1;
    }
    x->hedge_ns = 0;
}

void td_x_commit(struct td_exchange *x, struct td_x_attempt *a) {
    if (td_x_is_lead(x, a))
        return;
    bool keeps_rival = td_x_is_draft(x, a) && x->plan->mode == TD_MODE_PROGRESSIVE && x->aware;
    if (!keeps_rival)
        drop_rivals(x, a);
    x->lead = td_x_index(a);
    bool goes_on = a->rec.role == TD_X_ROLE_CONTINUE;
    if (goes_on && x->chain_count < TD_ATTEMPTS_MAX)
        x->chain[x->chain_count++] = a->rec.attempt;
    else
        begin_chain(x, a);
    if (!x->begun) {
        x->begun = true;
        out_add(x, TD_X_OUT_BEGIN, a->rec.attempt);
    } else if (x->restart) {
        x->restart = false;
        x->revision++;
        forget_shown(x);
        out_add(x, TD_X_OUT_REVISION, a->rec.attempt)->op = TD_X_OP_REPLACE;
    } else {
        x->continued = true;
        out_add(x, TD_X_OUT_ORIGIN, a->rec.attempt);
    }
    x->seam_open = goes_on;
    x->seam_at = x->sent.n;
    x->seam_held = TD_STR_NONE;
    if (x->stopped && a->state != TD_X_OVER && !a->paused) {
        a->paused = true;
        td_x_effect_add(x, TD_X_DO_PAUSE)->attempt = a->rec.attempt;
    }
}

void td_x_release(struct td_exchange *x, struct td_x_attempt *a) {
    for (uint32_t i = 0; i < td_x_store_count(&a->store); i++) {
        struct td_event ev;
        if (td_x_store_get(&a->store, i, x->c.arena, &ev) != TD_OK) {
            x->out_of_memory = true;
            return;
        }
        td_x_show(x, a, &ev);
    }
}

// a then b, in the arena; only for the few bytes at a seam or a split character.
static struct td_str join(struct td_exchange *x, struct td_str a, struct td_str b) {
    if (a.n == 0)
        return b;
    char *p = td_arena_alloc(x->c.arena, a.n + b.n + 1);
    if (!p) {
        x->out_of_memory = true;
        return TD_STR_NONE;
    }
    memcpy(p, a.p, a.n);
    if (b.n)
        memcpy(p + a.n, b.p, b.n);
    return td_str_n(p, a.n + b.n);
}

// Puts a character together that came in two events; keeps back the first half of one whose rest is to come.
static struct td_str whole_characters(struct td_exchange *x, struct td_x_attempt *a, uint32_t choice,
                                      struct td_str text) {
    if (choice >= TD_CHOICES_MAX)
        return text;
    if (a->carry[choice].n) {
        text = join(x, td_str_n(a->carry[choice].bytes, a->carry[choice].n), text);
        a->carry[choice].n = 0;
    }
    size_t whole = td_str_utf8_whole(text);
    if (whole < text.n) {
        a->carry[choice].n = (uint8_t)(text.n - whole);
        memcpy(a->carry[choice].bytes, text.p + whole, text.n - whole);
        text.n = whole;
    }
    return text;
}

// A stop string may begin before the cut and end after it, where no model can see it whole. True when the answer
// ends here; else *text is what may be shown now.
static bool seam_stops(struct td_exchange *x, struct td_str *text) {
    struct td_str after = join(x, x->seam_held, *text);
    struct td_str before = td_str_n(x->sent.p, x->seam_at);
    bool undecided = false;
    for (uint32_t i = 0; i < x->request->stop_count; i++) {
        struct td_str stop = x->request->stops[i];
        for (size_t k = 1; k < stop.n && k <= before.n; k++) {
            if (memcmp(before.p + before.n - k, stop.p, k) != 0)
                continue;
            size_t rest = stop.n - k, have = after.n < rest ? after.n : rest;
            if (memcmp(after.p ? after.p : "", stop.p + k, have) != 0)
                continue;
            if (have == rest)
                return true;
            undecided = true;
        }
    }
    if (undecided) {
        x->seam_held = td_arena_str(x->c.arena, after);
        *text = TD_STR_NONE;
    } else {
        x->seam_open = false;
        x->seam_held = TD_STR_NONE;
        *text = after;
    }
    return false;
}

static void put_text(struct td_exchange *x, struct td_x_attempt *a, struct td_event *ev) {
    if (ev->choice == 0 && ev->delta.text.n && td_buf_add_str(&x->sent, ev->delta.text) != TD_OK)
        x->text_lost = true;
    x->others_shown |= ev->choice != 0;
    if (ev->choice == 0)
        x->sent_tokens += ev->delta.token_count ? ev->delta.token_count : 1;
    if (!x->request->logprobs && ev->delta.token_count) {
        ev->delta.tokens = NULL;
        ev->delta.token_count = 0;
        ev->raw = NULL;
    }
    a->rec.delivered = true;
    out_add(x, TD_X_OUT_EVENT, a->rec.attempt)->event = *ev;
}

void td_x_show(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev) {
    struct td_event shown = *ev;
    switch (ev->type) {
    case TD_EV_DELTA:
        shown.delta.text = whole_characters(x, a, ev->choice, ev->delta.text);
        if (x->seam_open && ev->choice == 0 && seam_stops(x, &shown.delta.text)) {
            a->stop_hit = true;
            return;
        }
        if (shown.delta.text.n == 0 && ev->delta.text.n)
            return; // the rest of a character is to come
        if (shown.delta.text.n == 0 && !ev->raw)
            return;
        if (shown.delta.text.p != ev->delta.text.p || shown.delta.text.n != ev->delta.text.n) {
            shown.raw = NULL;
            shown.delta.tokens = NULL;
            shown.delta.token_count = 0;
        }
        put_text(x, a, &shown);
        return;
    case TD_EV_REASONING:
        if (x->continued)
            return; // it thought about the rest only; the client has seen the first one's thoughts
        break;
    case TD_EV_TOOL_CALL:
        x->tool_shown = true;
        x->calls_lost |= td_x_store_add(&x->calls, ev, false) != TD_OK;
        shown.tool.tokens = NULL;
        shown.tool.token_count = 0;
        break;
    case TD_EV_REFUSAL:
        x->refusal_shown = true;
        break;
    default:
        break;
    }
    a->rec.delivered = true;
    out_add(x, TD_X_OUT_EVENT, a->rec.attempt)->event = shown;
}

void td_x_flush(struct td_exchange *x, struct td_x_attempt *a) {
    if (!x->seam_open)
        return;
    x->seam_open = false;
    if (x->seam_held.n) {
        struct td_event ev = {.type = TD_EV_DELTA, .delta.text = x->seam_held};
        x->seam_held = TD_STR_NONE;
        put_text(x, a, &ev);
    }
}

// Compares text with what was shown. False when it differs; else *rest is what goes beyond it.
static bool matches(struct td_exchange *x, struct td_x_attempt *a, struct td_str text, struct td_str *rest) {
    size_t left = x->sent.n - a->match, n = text.n < left ? text.n : left;
    if (n && memcmp(x->sent.p + a->match, text.p, n) != 0)
        return false;
    a->match += n;
    *rest = td_str_n(text.p ? text.p + n : NULL, text.n - n);
    return true;
}

void td_x_splice(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev) {
    if (ev->type == TD_EV_REASONING)
        return;
    struct td_str rest = TD_STR_NONE;
    bool same = ev->type == TD_EV_DELTA && ev->choice == 0 && matches(x, a, ev->delta.text, &rest);
    if (!same) {
        td_x_on_mismatch(x, a);
        return;
    }
    if (rest.n) {
        td_x_commit(x, a);
        struct td_event tail = *ev;
        tail.delta.text = rest;
        tail.delta.tokens = NULL;
        tail.delta.token_count = 0;
        tail.raw = NULL;
        td_x_show(x, a, &tail);
    }
}

void td_x_revise(struct td_exchange *x, struct td_x_attempt *a, enum td_x_op op) {
    struct td_x_attempt *draft = td_x_at(x, x->draft);
    if (draft && draft != a && draft->state != TD_X_OVER) {
        td_x_attempt_cancel(x, draft, TD_X_OUTCOME_LOST, TD_OK);
        x->draft = -1;
    }
    x->revision++;
    x->lead = td_x_index(a);
    begin_chain(x, a);
    x->continued = false;
    if (op == TD_X_OP_REPLACE)
        forget_shown(x);
    out_add(x, TD_X_OUT_REVISION, a->rec.attempt)->op = op;
    if (op == TD_X_OP_REPLACE)
        td_x_release(x, a);
    if (op == TD_X_OP_CONFIRM)
        a->rec.delivered = true;
    if (x->stopped && a->state != TD_X_OVER && !a->paused) {
        a->paused = true;
        td_x_effect_add(x, TD_X_DO_PAUSE)->attempt = a->rec.attempt;
    }
}

// Progressive, the better answer: silent as long as it says what the draft says, which the client has already.
void td_x_rival(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev) {
    if (td_x_keep(x, a, ev) != TD_OK)
        return;
    if (ev->type == TD_EV_REASONING)
        return;
    if (ev->type != TD_EV_DELTA || x->request->n > 1 || x->tool_shown || x->refusal_shown)
        a->whole_only = true; // more than text: only whole answers can be compared
    if (a->whole_only)
        return;
    struct td_str rest;
    if (!matches(x, a, ev->delta.text, &rest)) {
        td_x_revise(x, a, TD_X_OP_REPLACE);
    } else if (rest.n) {
        td_x_revise(x, a, TD_X_OP_APPEND);
        struct td_event tail = {.type = TD_EV_DELTA, .delta.text = rest};
        td_x_show(x, a, &tail);
    }
}

void td_x_rival_end(struct td_exchange *x, struct td_x_attempt *a) {
    struct td_x_attempt *draft = td_x_at(x, x->draft);
    bool same = draft ? td_x_store_same(&draft->store, &a->store)
                      : !a->whole_only && !x->tool_shown && !x->refusal_shown && a->match == x->sent.n;
    td_x_revise(x, a, same ? TD_X_OP_CONFIRM : TD_X_OP_REPLACE);
}

void td_x_usage_add(struct td_usage *sum, const struct td_usage *u) {
    sum->prompt_tokens += u->prompt_tokens;
    sum->completion_tokens += u->completion_tokens;
    sum->cached_tokens += u->cached_tokens;
    sum->reasoning_tokens += u->reasoning_tokens;
    sum->estimated |= u->estimated;
}

int64_t td_x_cost_total(const struct td_exchange *x) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < x->attempt_count; i++)
        if (__builtin_add_overflow(sum, x->attempts[i]->rec.cost_nusd, &sum))
            return INT64_MAX;
    return sum;
}

void td_x_show_end(struct td_exchange *x) {
    struct td_x_attempt *a = td_x_at(x, x->lead);
    for (uint32_t i = 0; i < TD_CHOICES_MAX; i++) {
        if (!(a->finished_choices & 1u << i))
            continue;
        struct td_x_out *out = out_add(x, TD_X_OUT_FINISH, a->rec.attempt);
        out->finish.choice = i;
        out->finish.reason = a->finishes[i];
    }
    struct td_usage usage = {0}, total = {0};
    for (uint32_t i = 0; i < x->chain_count; i++) {
        struct td_usage part = x->attempts[x->chain[i]]->rec.usage;
        if (i > 0) // the prompt was one; that the later ones read the text so far again is in the total
            part.prompt_tokens = part.cached_tokens = 0;
        td_x_usage_add(&usage, &part);
    }
    for (uint32_t i = 0; i < x->attempt_count; i++)
        td_x_usage_add(&total, &x->attempts[i]->rec.usage);
    struct td_x_out *out = out_add(x, TD_X_OUT_DONE, a->rec.attempt);
    out->done.usage = usage;
    out->done.usage_total = total;
    out->done.cost_nusd = td_x_cost_total(x);
    out->done.degraded = x->degraded;
    out->done.confidence = a->rec.confidence;
}

void td_x_show_error(struct td_exchange *x, enum td_err code, int http_status, uint32_t retry_after_ms,
                     struct td_str message) {
    uint32_t attempt = x->attempt_count ? x->attempt_count - 1 : 0;
    struct td_x_out *out = out_add(x, TD_X_OUT_ERROR, x->lead >= 0 ? (uint32_t)x->lead : attempt);
    out->error.code = code;
    out->error.http_status = http_status;
    out->error.retry_after_ms = retry_after_ms;
    out->error.message = message;
}
