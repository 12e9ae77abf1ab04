// SPDX-License-Identifier: Apache-2.0
#include "runtime/call.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/time.h"
#include "route/features.h"
#include "runtime/heads.h"
#include "target/words.h"

static void free_call(struct td_call *call) {
    td_call_keep_done(call);
    struct td_worker *w = call->worker;
    if (call->link) {
        *call->link = call->next;
        if (call->next)
            call->next->link = call->link;
    }
    for (uint32_t i = 0; i < TD_ATTEMPTS_MAX; i++) {
        struct td_slot *s = call->slots[i];
        if (!s)
            continue;
        if (s->attempt)
            s->backend->ops->destroy(s->backend, s->attempt);
        td_buf_finish(&s->body);
    }
    td_timer_destroy(call->timer);
    td_timer_destroy(call->alive);
    if (call->writer)
        td_dialect_ops(call->request.dialect)->answer_destroy(call->writer);
    td_buf_finish(&call->out);
    td_config_unref(call->config);
    td_arena_finish(&call->arena);
    atomic_fetch_sub(&w->runtime->running, 1);
    td_gauge_add(w->runtime->metrics.running, -1);
    td_free(call);
}

void td_call_unref(struct td_call *call) {
    if (call && atomic_fetch_sub(&call->refs, 1) == 1)
        free_call(call);
}

struct td_call *td_call_create(struct td_worker *worker) {
    struct td_call *call = td_calloc(1, sizeof *call);
    if (!call)
        return NULL;
    call->worker = worker;
    atomic_init(&call->refs, 2);
    td_arena_init(&call->arena, TD_ARENA_BYTES_MAX);
    td_buf_init(&call->out, TD_REPLY_BYTES_MAX);
    call->config = td_runtime_config(worker->runtime, &call->epoch);
    call->arrival_ns = td_now_ns();
    call->arrival_wall_ms = td_wall_ms();
    td_id_new(call->exchange_id);
    call->first_attempt = UINT32_MAX;
    atomic_fetch_add(&worker->runtime->running, 1);
    td_gauge_add(worker->runtime->metrics.running, 1);
    td_counter_add(worker->runtime->metrics.requests, 1);
    return call;
}

void td_call_enlist(struct td_call *call) {
    struct td_worker *w = call->worker;
    call->next = w->calls;
    call->link = &w->calls;
    if (call->next)
        call->next->link = &call->next;
    w->calls = call;
}

// The request is over: money and limits settled, the running reference given up.
static void finish(struct td_call *call) {
    struct td_runtime *rt = call->worker->runtime;
    if (call->ended)
        return;
    call->ended = true;
    if (call->timer)
        td_timer_disarm(call->timer);
    if (call->repeating)
        td_repeats_end(rt->repeats, &call->repeat);
    if (call->admitted)
        td_govern_finish(rt->govern, &call->ticket, call->tokens_used, td_now_ns());
    td_call_unref(call);
}

void td_call_refuse(struct td_call *call, enum td_err err, const struct td_error *e, uint32_t retry_after_ms) {
    call->refused = true;
    td_counter_add(call->worker->runtime->metrics.failed, 1);
    call->presenter->refuse(call, err, e, retry_after_ms);
    td_call_record(call, NULL, err);
    finish(call);
}

// Who asks, and may they now?
static enum td_err admit(struct td_call *call, struct td_str key, bool trusted, bool local_peer, struct td_error *e) {
    struct td_runtime *rt = call->worker->runtime;
    if (call->replay) // bound by the same limits and budgets, and only as long as its key is good
        return td_govern_recall(rt->govern, call->replay->tenant, td_outbox_key_id(call->replay->allowed), &call->who,
                                e);
    bool keys_exist = td_govern_key_count(rt->govern, call->arrival_wall_ms) > 0;
    // A key of ours that is shown must be good, also where none is asked for: a revoked one opens nothing.
    bool shown = td_str_starts(key, TD_STR("td_live_"));
    if (trusted || (local_peer && !keys_exist && !shown)) {
        td_govern_anonymous(&call->who);
        return TD_OK;
    }
    return td_govern_identify(rt->govern, key, call->arrival_wall_ms, &call->who, e);
}

// A replay is bound by what the request was found to be when it was accepted, and it wants what the device cannot give.
static void narrow(struct td_call *call) {
    const struct td_replay *r = call->replay;
    struct td_facts *f = &call->facts;
    if (r->data_class > f->data_class)
        f->data_class = r->data_class;
    f->labels |= td_policy_label_bits(&call->config->policy, r->labels);
    if (!f->residency.n)
        f->residency = r->residency;
    uint32_t away = (1u << TD_TIER_EDGE) | (1u << TD_TIER_ONPREM) | (1u << TD_TIER_CLOUD);
    if (f->tiers_allowed) // what the caller allowed stays; 0 would mean all
        away = away & f->tiers_allowed ? away & f->tiers_allowed : 1u << TD_TIER_COUNT;
    f->tiers_allowed = away;
    f->mode = TD_MODE_FALLBACK;
    f->revisions = f->queue = false;
    f->deadline_ms = r->deadline_ms;
    f->batch = true;
}

static void write_hex(char out[17], uint64_t v) {
    for (int i = 15; i >= 0; i--, v >>= 4)
        out[i] = "0123456789abcdef"[v & 15];
    out[16] = 0;
}

static enum td_err make_facts(struct td_call *call) {
    struct td_runtime *rt = call->worker->runtime;
    struct td_str tenant = td_str_of(call->who.tenant);
    struct td_facts_input in = {.tenant = tenant, .tiers_allowed = 0};
    struct td_stick_keys sticky;
    td_stick_keys(rt->stick, tenant, &call->request, &sticky);
    td_stick_find(rt->stick, &sticky, &in.sticky_class, &in.sticky_labels);
    in.budget_left_nusd = td_govern_tenant_left(rt->govern, tenant, call->arrival_wall_ms);
    td_random(&in.draw, sizeof in.draw);
    if (sticky.count)
        write_hex(call->conversation, sticky.keys[0]);
    enum td_err err = TD_OK;
    if (call->request.wishes.conversation.n) // before anything is judged: what is sent is what is looked at
        err = td_heads_apply(rt->heads, &call->arena, tenant, td_str_of(call->conversation), &call->request);
    if (err == TD_OK)
        err = td_facts_make(&call->request, &call->config->policy, &in, &call->facts);
    if (err == TD_OK && call->replay)
        narrow(call);
    if (err == TD_OK)
        td_stick_raise(rt->stick, &sticky, call->facts.data_class, call->facts.labels);
    return err;
}

static enum td_err decide(struct td_call *call, struct td_error *e) {
    const struct td_config *config = call->config;
    call->world = td_arena_alloc(&call->arena, td_world_bytes(config->target_count));
    if (!call->world)
        return TD_ERR_NOMEM;
    td_runtime_world(call->worker->runtime, config, call->facts.batch, call->arrival_ns, call->world);
    enum td_err err = td_decide(&call->facts, &config->policy, call->world, &call->arena, &call->plan);
    if (err == TD_ERR_MODEL_NOT_FOUND)
        td_error_set(e, err, "the model '%.*s' does not exist", TD_STR_ARG(call->request.model));
    return err;
}

static void on_timer(void *arg) {
    td_call_feed(arg, &(struct td_x_input){.type = TD_X_IN_TIMER});
}

static enum td_err open_exchange(struct td_call *call) {
    struct td_config *config = call->config;
    struct td_x_config xc = {
        .arena = &call->arena,
        .request = &call->request,
        .plan = call->plan,
        .targets = config->targets,
        .target_count = config->target_count,
        .arrival_ns = call->arrival_ns,
        .prompt_tokens = call->facts.input_tokens,
        .durable_before_answer = config->durability != TD_DURABILITY_BATCHED,
        .waits_for_outbox = true,
    };
    if (!call->replay && call->plan->step_count)
        td_health_call(call->worker->runtime->health);
    call->timer = td_timer_create(call->worker->loop, on_timer, call);
    return call->timer ? td_exchange_open(&xc, &call->x) : TD_ERR_NOMEM;
}

static void begin(void *arg) {
    td_call_feed(arg, &(struct td_x_input){.type = TD_X_IN_START});
    td_call_unref(arg);
}

// What is known of the request becomes a plan, and the plan an exchange.
static void judge(void *arg) {
    struct td_call *call = arg;
    struct td_runtime *rt = call->worker->runtime;
    struct td_error e = {0};
    uint32_t retry_after_ms = 0;
    enum td_err err = TD_OK;
    if (call->released || call->sink_done) { // nobody waits for it any more
        call->refused = true;
        td_call_record(call, NULL, TD_ERR_CANCELLED);
        finish(call);
        td_call_unref(call);
        return;
    }
    if (atomic_load(&rt->draining) && !call->part) { // parts of what was let in are let in
        err = td_error_set(&e, TD_ERR_OVERLOAD, "the server is shutting down");
        retry_after_ms = 1000;
    }
    if (err == TD_OK)
        err = make_facts(call);
    if (err == TD_OK) {
        err = td_govern_admit(rt->govern, &call->who, call->facts.input_tokens + call->facts.output_tokens,
                              call->arrival_ns, call->arrival_wall_ms, &call->ticket, &retry_after_ms, &e);
        call->admitted = err == TD_OK;
    }
    if (err == TD_OK)
        err = decide(call, &e);
    for (uint32_t i = 0; err == TD_OK && i < call->plan->verdict_count; i++)
        if (call->plan->verdicts[i].reason == TD_REASON_OVERLOADED)
            td_runtime_turned_away(rt, &call->config->targets[i], call->facts.batch, call->arrival_ns);
    // Nobody can answer now: where a later answer is wanted, it is an exchange that keeps the request and says so.
    enum td_err why_none = err == TD_OK ? td_plan_error(call->plan) : TD_OK;
    bool later = why_none == TD_ERR_UNAVAILABLE || why_none == TD_ERR_OVERLOAD;
    if (why_none != TD_OK && !(later && call->plan->outbox && call->config->outbox.enabled && !call->replay)) {
        struct td_buf why;
        td_buf_init(&why, TD_TARGETS_MAX * 512); // a target's name, its reason and the rule's name
        err = why_none;
        if (td_no_target_message(call->plan, &call->config->policy, &why) == TD_OK)
            call->why_nobody = td_arena_str(&call->arena, td_buf_str(&why));
        td_buf_finish(&why);
        retry_after_ms = call->plan->retry_after_ms;
    } else if (err == TD_OK) {
        err = open_exchange(call);
    }
    if (err != TD_OK) {
        if (!e.message[0])
            td_error_set(&e, err, "%s", td_err_text(err));
        td_call_refuse(call, err, &e, retry_after_ms);
        td_call_unref(call);
        return;
    }
    td_loop_later(call->worker->loop, &call->later, begin, call); // with the reference
}

static enum td_err begin_repeat(struct td_call *call, struct td_error *e) {
    struct td_repeats *repeats = call->worker->runtime->repeats;
    td_repeat_make(repeats, td_str_of(call->who.tenant), call->client_key, call->repeat.body, &call->repeat);
    enum td_err err = td_repeats_begin(repeats, &call->repeat, call->arrival_ns, e);
    call->repeating = err == TD_OK;
    return err;
}

// The requests of one turn of the loop are all read before the first is judged, and all judged before the first is sent
// on.
void td_call_run(struct td_call *call, struct td_str key, bool trusted, bool local_peer) {
    struct td_error e = {0};
    enum td_err err = admit(call, key, trusted, local_peer, &e);
    if (err == TD_OK && call->client_key.n)
        err = begin_repeat(call, &e);
    if (err != TD_OK) {
        if (!e.message[0])
            td_error_set(&e, err, "%s", td_err_text(err));
        td_call_refuse(call, err, &e, err == TD_ERR_IN_PROGRESS ? 1000 : 0);
        return;
    }
    atomic_fetch_add(&call->refs, 1);
    td_loop_later(call->worker->loop, &call->later, judge, call);
}

void td_call_run_beside(struct td_call *call, const struct td_call *first) {
    call->who = first->who;
    atomic_fetch_add(&call->refs, 1);
    td_loop_later(call->worker->loop, &call->later, judge, call);
}

void td_call_stop_attempt(struct td_call *call, uint32_t attempt) {
    struct td_slot *s = call->slots[attempt];
    if (!s || !s->attempt)
        return;
    s->backend->ops->stats(s->backend, s->attempt, &s->stats);
    s->has_stats = true;
    s->backend->ops->destroy(s->backend, s->attempt);
    s->attempt = NULL;
}

static enum td_err row_error(enum td_err refused, const struct td_x_record *r) {
    return r ? r->code : refused;
}

static enum td_outcome outcome_of(const struct td_x_record *r) {
    switch (r->outcome) {
    case TD_X_OUTCOME_OK:
        return r->delivered ? TD_OUTCOME_OK : TD_OUTCOME_SUPERSEDED;
    case TD_X_OUTCOME_FAILED:
    case TD_X_OUTCOME_MISMATCH:
        return r->events ? TD_OUTCOME_CUT : TD_OUTCOME_FAILED;
    case TD_X_OUTCOME_DECLINED:
        return TD_OUTCOME_ESCALATED;
    case TD_X_OUTCOME_REFUSED:
        return TD_OUTCOME_REFUSED;
    case TD_X_OUTCOME_LOST:
        return r->role == TD_X_ROLE_HEDGE || r->role == TD_X_ROLE_MAIN ? TD_OUTCOME_LOST_HEDGE : TD_OUTCOME_SUPERSEDED;
    case TD_X_OUTCOME_CANCELLED:
        return TD_OUTCOME_CANCELLED;
    }
    return TD_OUTCOME_FAILED;
}

static void on_row_durable(void *arg, enum td_err err) {
    struct td_call *call = arg;
    call->rows_pending--;
    call->rows_lost |= err != TD_OK;
    if (call->rows_pending == 0 && !call->ended)
        td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_DURABLE, .durable = !call->rows_lost});
    td_call_unref(call);
}

static void fill_attempt(const struct td_call *call, const struct td_x_record *r, struct td_ledger_row *row) {
    const struct td_target *t = &call->config->targets[r->target];
    const struct td_slot *s = call->slots[r->attempt];
    row->attempt = r->attempt + 1;
    row->target = t->name;
    row->model = r->model.n ? r->model : t->model;
    row->region = t->region;
    row->tier = t->tier;
    row->provider = t->provider;
    row->reason = r->outcome == TD_X_OUTCOME_REFUSED ? r->refusal : r->reason;
    row->rule = call->plan->verdicts[r->target].rule;
    row->outcome = outcome_of(r);
    row->http_status = r->http_status;
    row->damaged = r->damaged;
    row->delivered = r->delivered;
    row->prompt_tokens = r->usage.prompt_tokens;
    row->completion_tokens = r->usage.completion_tokens;
    row->cached_tokens = r->usage.cached_tokens;
    row->reasoning_tokens = r->usage.reasoning_tokens;
    row->tokens_estimated = row->cost_estimated = r->usage.estimated;
    row->cost_nusd = r->cost_nusd;
    row->retries = r->retry;
    row->ttft_us = r->first_ns > r->start_ns ? (r->first_ns - r->start_ns) / 1000 : 0;
    row->duration_us = r->end_ns > r->start_ns ? (r->end_ns - r->start_ns) / 1000 : 0;
    row->mean_logprob = (float)r->mean_logprob;
    row->mean_entropy = (float)r->mean_entropy;
    row->min_logprob = row->mean_margin = NAN;
    if (t->tier == TD_TIER_DEVICE)
        row->draft_tokens = r->usage.completion_tokens;
    if (s) {
        row->receipt = s->receipt;
        memcpy(row->body_mac, s->body_mac, sizeof row->body_mac);
    }
    if (s && s->has_stats) {
        row->bytes_out = t->provider == TD_PROVIDER_LLAMA ? 0 : s->stats.bytes_out;
        row->bytes_in = s->stats.bytes_in;
        row->min_logprob = s->stats.min_logprob;
        if (s->stats.connected_ns > s->stats.start_ns)
            row->connect_us = (s->stats.connected_ns - s->stats.start_ns) / 1000;
    }
}

void td_call_record(struct td_call *call, const struct td_x_record *r, enum td_err refused) {
    struct td_runtime *rt = call->worker->runtime;
    struct td_buf decision;
    struct td_ledger_row row = {
        .exchange = td_str_of(call->exchange_id),
        .tenant = td_str_of(call->who.tenant),
        .key_id = td_str_of(call->who.key_id),
        .conversation = td_str_of(call->conversation),
        .wall_ms = td_wall_ms(),
        .kind = call->request.kind,
        .dialect = call->request.dialect,
        .mode = call->plan ? call->plan->mode : TD_MODE_DEFAULT,
        .data_class = call->plan ? call->plan->data_class : call->facts.data_class,
        .labels = call->plan ? call->plan->labels : call->facts.labels,
        .policy_version = call->config->policy.version,
        .outcome = TD_OUTCOME_REFUSED,
        .error = row_error(refused, r),
        .degraded = call->plan && call->plan->degraded,
        .mean_logprob = NAN,
        .min_logprob = NAN,
        .mean_entropy = NAN,
        .mean_margin = NAN,
    };
    td_buf_init(&decision, TD_LEDGER_DECISION_BYTES_MAX);
    td_buf_expect(&decision, 512); // at once instead of in steps
    if (r)
        fill_attempt(call, r, &row);
    // One row an exchange carries what the decision was made from.
    if (call->plan && (!r || r->attempt == 0) &&
        td_decision_inputs_write(&call->facts, call->world, &call->config->policy, &decision) == TD_OK)
        row.decision = td_buf_str(&decision);
    enum td_err err;
    if (r && call->config->durability != TD_DURABILITY_BATCHED) {
        struct td_ack ack = {call->worker->loop, on_row_durable, call};
        atomic_fetch_add(&call->refs, 1);
        call->rows_pending++;
        err = td_ledger_append_acked(rt->store, &row, &ack);
        if (err != TD_OK) {
            call->rows_pending--;
            call->rows_lost = true;
            atomic_fetch_sub(&call->refs, 1); // never the last: the running reference is held
        }
    } else {
        err = td_ledger_append(rt->store, &row);
    }
    if (err != TD_OK)
        td_counter_add(rt->metrics.ledger_lost, 1);
    td_buf_finish(&decision);
}

static enum td_err health_code(const struct td_x_record *r) {
    if (r->outcome == TD_X_OUTCOME_OK || r->outcome == TD_X_OUTCOME_DECLINED || r->outcome == TD_X_OUTCOME_MISMATCH)
        return TD_OK;
    return r->outcome == TD_X_OUTCOME_FAILED ? r->code : TD_ERR_CANCELLED;
}

// The rows of what ended in this turn of the loop, before its answers leave (server/server.c settles after them).
static void note(void *arg) {
    struct td_slot *s = arg;
    td_call_record(s->call, td_exchange_record(s->call->x, s->start.attempt), TD_OK);
    td_call_unref(s->call);
}

static void on_record(struct td_call *call, const struct td_x_record *r) {
    struct td_runtime *rt = call->worker->runtime;
    struct td_slot *s = call->slots[r->attempt];
    const struct td_target *t = &call->config->targets[r->target];
    if (!s) { // there was no memory to begin it
        td_call_record(call, r, TD_OK);
        return;
    }
    td_call_stop_attempt(call, r->attempt);
    s->waiting = false;
    if (s->held) {
        td_govern_settle(rt->govern, &s->hold, r->cost_nusd);
        s->held = false;
    }
    if (s->admitted) {
        const struct td_usage *u = &r->usage;
        struct td_health_outcome o = {.code = health_code(r),
                                      .retry_after_ms = r->retry_after_ms,
                                      .steady = r->finished && call->request.n <= 1 && !s->was_paused,
                                      .prompt_tokens = u->prompt_tokens -
                                                       (u->cached_tokens < u->prompt_tokens ? u->cached_tokens : 0),
                                      .tokens = u->completion_tokens,
                                      .answered = r->http_status != 0 || r->first_ns != 0,
                                      .connect_limit_ms = s->start.connect_ms};
        if (s->has_stats && !s->stats.reused_connection && s->stats.connected_ns > s->stats.start_ns)
            o.connect_us = (s->stats.connected_ns - s->stats.start_ns) / 1000;
        if (r->end_ns > r->start_ns)
            o.duration_us = (r->end_ns - r->start_ns) / 1000;
        if (r->first_ns > r->start_ns)
            o.ttft_us = (r->first_ns - r->start_ns) / 1000;
        if (r->usage.completion_tokens > 1 && r->end_ns > r->first_ns && r->first_ns)
            o.itl_us = (r->end_ns - r->first_ns) / 1000 / (r->usage.completion_tokens - 1);
        td_health_end(rt->health, t, &s->admission, &o, r->end_ns);
        s->admitted = false;
        if (o.ttft_us)
            td_histogram_add(rt->metrics.ttft, o.ttft_us);
    }
    call->tokens_used += r->usage.prompt_tokens + r->usage.completion_tokens;
    if (s->has_stats && t->provider != TD_PROVIDER_LLAMA)
        td_counter_add(rt->metrics.bytes_out, s->stats.bytes_out);
    td_buf_finish(&s->body);
    if (call->config->durability == TD_DURABILITY_BATCHED) { // else the answer waits for it
        atomic_fetch_add(&call->refs, 1);
        td_loop_later(call->worker->loop, &s->noting, note, s);
    } else {
        td_call_record(call, r, TD_OK);
    }
}

static void on_end(struct td_call *call, const struct td_x_end *end) {
    struct td_runtime *rt = call->worker->runtime;
    if (end->kind == TD_X_END_ERROR || end->kind == TD_X_END_BROKEN)
        td_counter_add(rt->metrics.failed, 1);
    td_histogram_add(rt->metrics.added, (td_now_ns() - call->arrival_ns) / 1000);
    if (end->kind == TD_X_END_DEGRADED)
        td_call_keep_answer(call);
    else
        td_call_keep_done(call);
    if (td_exchange_attempts(call->x) == 0)
        td_call_record(call, NULL, end->code);
}

static void set_timer(struct td_call *call, uint64_t at_ns) {
    uint64_t now = td_now_ns();
    td_timer_arm(call->timer, at_ns > now ? (at_ns - now + TD_MS_NS - 1) / TD_MS_NS : 0);
}

// Carries out one effect. Returns true for END.
static bool carry_out(struct td_call *call, const struct td_x_effect *effect) {
    struct td_slot *s;
    switch (effect->type) {
    case TD_X_DO_START:
        td_call_start_attempt(call, &effect->start);
        break;
    case TD_X_DO_CANCEL:
        td_call_stop_attempt(call, effect->attempt);
        break;
    case TD_X_DO_RECORD:
        on_record(call, effect->record);
        break;
    case TD_X_DO_EMIT:
        call->presenter->emit(call, effect->emit.list, effect->emit.count);
        break;
    case TD_X_DO_TIMER:
        set_timer(call, effect->timer_ns);
        break;
    case TD_X_DO_PAUSE:
        s = call->slots[effect->attempt];
        if (s)
            s->was_paused = true;
        if (s && s->attempt)
            s->backend->ops->pause(s->backend, s->attempt);
        break;
    case TD_X_DO_RESUME:
        s = call->slots[effect->attempt];
        if (s && s->attempt)
            s->backend->ops->resume(s->backend, s->attempt);
        break;
    case TD_X_DO_OUTBOX:
        td_call_keep(call, effect->outbox);
        break;
    case TD_X_DO_END:
        on_end(call, &effect->end);
        return true;
    }
    return false;
}

// A hedge's place is taken before the exchange is asked whether it wants one: who may not hedge leaves no trace of it.
static bool take_hedge(struct td_call *call, const struct td_x_input *in, uint64_t now_ns) {
    return in->type == TD_X_IN_TIMER && td_exchange_hedge_due(call->x, now_ns) &&
           td_health_hedge(call->worker->runtime->health, call->config->policy.hedge_ppm_max);
}

static bool starts_hedge(const struct td_x_effects *effects) {
    for (uint32_t i = 0; i < effects->count; i++)
        if (effects->list[i].type == TD_X_DO_START && effects->list[i].start.role == TD_X_ROLE_HEDGE)
            return true;
    return false;
}

// Each attempt is refused at most once, and the client has only so much to say.
#define QUEUE_MAX (2 * TD_ATTEMPTS_MAX + 8)

void td_call_feed(struct td_call *call, const struct td_x_input *in) {
    struct td_x_effects effects;
    struct td_x_input queue[QUEUE_MAX];
    if (call->ended || !call->x)
        return;
    if (call->queue) {
        // Only small inputs without borrowed memory come up here: REFUSED (with a static message) and the client's own.
        if (call->queue_n < QUEUE_MAX)
            call->queue[call->queue_n++] = *in;
        return;
    }
    call->queue = queue;
    call->worker->depth++;
    atomic_fetch_add(&call->refs, 1);
    struct td_x_input now = *in;
    bool over = false;
    for (unsigned next = 0; !over;) {
        now.retry_budget = true; // taken from the shared budgets when it comes to it (start.c)
        call->fed_ns = td_now_ns();
        now.hedge_budget = take_hedge(call, &now, call->fed_ns);
        td_exchange_step(call->x, &now, call->fed_ns, &effects);
        if (now.hedge_budget && !starts_hedge(&effects))
            td_health_unhedge(call->worker->runtime->health);
        for (uint32_t i = 0; i < effects.count && !over; i++)
            over = carry_out(call, &effects.list[i]);
        if (next == call->queue_n)
            break;
        now = queue[next++];
        if (next == call->queue_n)
            next = call->queue_n = 0;
    }
    call->queue_n = 0;
    call->queue = NULL;
    call->worker->depth--;
    if (over)
        finish(call);
    td_call_unref(call);
}
