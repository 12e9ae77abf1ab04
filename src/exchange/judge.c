// SPDX-License-Identifier: Apache-2.0
// What an attempt says: held back, judged, shown or kept for later, and whether its end is the answer.
#include "exchange/internal.h"

#define HOLD_MS_DEFAULT 400u // held back at most so long where the plan does not say: below what feels like a pause

// The cascade's question, asked at the end of the window or of the answer. A backend that gives no probabilities
// cannot be judged: its own "not for me" is all there is.
void td_x_judge(struct td_exchange *x, struct td_x_attempt *a) {
    double confidence = td_x_attempt_confidence(x, a);
    bool filtered = a->rec.finished && a->rec.finish == TD_FINISH_CONTENT_FILTER; // not to be routed around
    x->hold_ns = 0;
    if (!filtered && (confidence < x->plan->cascade_threshold || td_x_attempt_declined(x, a))) {
        td_x_escalate(x);
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
            td_x_judge(x, a);
            return;
        }
    }
    if (x->plan->hold_tokens && a->tokens >= x->plan->hold_tokens)
        td_x_judge(x, a);
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
    return x->refine_ns || td_x_free_step(x) >= 0;
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
    if (td_x_is_draft(x, a) && td_x_shows_draft(x)) {
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
    if (td_x_shows_draft(x)) {
        if (x->refine_over)
            td_x_use_draft(x, true);
        return; // the better answer confirms it, or its failure does
    }
    if (!x->escalated && !x->trusted)
        td_x_judge(x, a);
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
    td_x_proceed(x, -1);
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
