// SPDX-License-Identifier: Apache-2.0
// What the `tandem` object of an answer says, gathered from the exchange's records.
#include <math.h>

#include "runtime/call.h"
#include "target/words.h"

struct td_origin td_call_origin(const struct td_call *call, uint32_t attempt) {
    const struct td_slot *slot = call->slots[attempt];
    const struct td_target *t = &call->config->targets[td_exchange_record(call->x, attempt)->target];
    return (struct td_origin){t->name, td_str_of(td_tier_word(t->tier)),
                              slot && slot->model.n ? slot->model : t->model};
}

static uint32_t ms_between(uint64_t from_ns, uint64_t to_ns) {
    return to_ns > from_ns ? (uint32_t)((to_ns - from_ns) / 1000000) : 0;
}

void td_call_meta(struct td_call *call, const struct td_x_out *done, struct td_answer_meta *meta,
                  struct td_answer_attempt attempts[TD_ATTEMPTS_MAX]) {
    *meta = (struct td_answer_meta){.exchange = td_str_of(call->exchange_id),
                                    .mode = td_str_of(td_mode_word(call->plan->mode)),
                                    .queued = call->outbox_acked,
                                    .queued_as = td_str_of(call->outbox_acked ? call->queued_as : ""),
                                    .confidence = NAN,
                                    .attempts = attempts};
    uint32_t n = td_exchange_attempts(call->x), last = call->last_origin;
    for (uint32_t i = 0; i < n && i < TD_ATTEMPTS_MAX; i++) {
        const struct td_x_record *r = td_exchange_record(call->x, i);
        struct td_answer_attempt *a = &attempts[meta->attempt_count++];
        *a = (struct td_answer_attempt){
            .origin = td_call_origin(call, i),
            .reason = td_str_of(td_reason_word(r->reason)),
            .outcome = td_str_of(r->code == TD_OK ? td_x_outcome_word(r->outcome) : td_err_code(r->code)),
            .usage = r->usage,
            .cost_nusd = r->cost_nusd,
            .ttft_ms = r->first_ns ? ms_between(r->start_ns, r->first_ns) : 0,
            .duration_ms = ms_between(r->start_ns, r->end_ns)};
        meta->damaged |= r->damaged && r->delivered;
        meta->cost_nusd += r->cost_nusd;
        td_x_usage_add(&meta->usage_total, &r->usage);
    }
    if (last < n) {
        meta->origin = td_call_origin(call, last);
        meta->reason = td_str_of(td_reason_word(td_exchange_record(call->x, last)->reason));
    }
    if (done && done->type == TD_X_OUT_DONE) {
        meta->degraded = done->done.degraded;
        meta->confidence = done->done.confidence;
        meta->cost_nusd = done->done.cost_nusd;
        meta->usage = &done->done.usage;
        meta->usage_total = done->done.usage_total;
    }
}
