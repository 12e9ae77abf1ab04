// SPDX-License-Identifier: Apache-2.0
// What happens by the clock, or because the process stops.
#include "exchange/internal.h"

static void try_hedge(struct td_exchange *x) {
    int running = 0, step = td_x_free_step(x);
    for (uint32_t i = 0; i < x->attempt_count; i++)
        running += x->attempts[i]->state != TD_X_OVER;
    if (running != 1 || x->lead >= 0 || step < 0 || x->draining || !x->hedge_budget)
        return;
    const struct td_x_attempt *slow = x->attempts[x->attempt_count - 1];
    const struct td_target *t = &x->c.targets[x->plan->steps[step].target];
    bool meant = x->plan->steps[step].reason == TD_REASON_HEDGE; // the plan weighed the money
    if (slow->state != TD_X_OVER && slow->rec.events == 0 && (meant || !t->paid || t->hedge))
        (void)td_x_ask(x, (uint32_t)step, TD_X_ROLE_HEDGE);
}

bool td_exchange_hedge_due(const struct td_exchange *x, uint64_t now_ns) {
    return x->phase == TD_X_TRYING && x->hedge_ns && x->hedge_ns <= now_ns;
}

static bool due(uint64_t *at_ns, uint64_t now_ns) {
    if (*at_ns == 0 || *at_ns > now_ns)
        return false;
    *at_ns = 0;
    return true;
}

void td_x_on_timer(struct td_exchange *x) {
    if (td_x_past_deadline(x, x->now_ns)) {
        if (x->phase == TD_X_WAITING && !x->rows_wait)
            td_x_on_kept(x);
        else if (x->phase == TD_X_WAITING || !td_x_use_draft(x, true))
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
        !td_x_ask(x, x->retry_step, td_x_next_role(x, x->retry_step)))
        td_x_proceed(x, -1);
    if (x->phase == TD_X_TRYING && due(&x->hold_ns, x->now_ns) && x->draft >= 0 && !x->trusted && !x->escalated)
        td_x_judge(x, x->attempts[x->draft]);
    if (x->phase == TD_X_TRYING && due(&x->hedge_ns, x->now_ns))
        try_hedge(x);
    if (x->phase == TD_X_TRYING && due(&x->refine_ns, x->now_ns))
        td_x_proceed(x, -1);
}

void td_x_on_abort(struct td_exchange *x, enum td_err code) {
    if ((x->phase != TD_X_WAITING || x->rows_wait) && (x->phase != TD_X_TRYING || !td_x_use_draft(x, true)))
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
        td_x_proceed(x, -1);
    } else if (waits) {
        x->retry_ns = 0;
        td_x_proceed(x, -1);
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
