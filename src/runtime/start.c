// SPDX-License-Identifier: Apache-2.0
// Starting one attempt: the only way from a plan to a backend. Every attempt, be it first, retry, hedge, continuation
// or refinement, walks the same line: policy (stricter of then and now) → shared budgets → money → admission → bytes →
// receipt → grant → backend. Whatever refuses is fed back as REFUSED with its reason.
#include <inttypes.h>
#include <string.h>

#include "base/time.h"
#include "privacy/content.h"
#include "runtime/call.h"
#include "target/words.h"

#define BODY_BESIDES_TEXT 512u // of a serialised request without tools

static void refuse(struct td_call *call, uint32_t attempt, enum td_err code, enum td_reason reason,
                   uint32_t retry_after_ms) {
    struct td_x_input in = {.type = TD_X_IN_REFUSED, .attempt = attempt};
    in.refused.code = code;
    in.refused.reason = reason;
    in.refused.message = td_str_of(td_err_text(code));
    in.refused.retry_after_ms = retry_after_ms;
    if (td_exchange_record(call->x, attempt)->role == TD_X_ROLE_HEDGE) // nothing of it was sent
        td_health_unhedge(call->worker->runtime->health);
    td_call_feed(call, &in);
}

static void refuse_by_policy(struct td_call *call, uint32_t attempt, const struct td_policy_verdict *verdict) {
    refuse(call, attempt, verdict->transform == TD_TRANSFORM_BLOCK ? TD_ERR_BLOCKED : TD_ERR_NO_TARGET, verdict->reason,
           0);
}

// The answers that end in this turn of the loop are all read before the first of them is written.
static void on_end(void *user) {
    struct td_slot *slot = user;
    struct td_call *call = slot->call;
    struct td_event event = {.type = TD_EV_END};
    struct td_x_input in = {.type = TD_X_IN_EVENT, .attempt = slot->start.attempt, .event = &event};
    struct td_attempt_stats stats;
    if (slot->attempt) {
        slot->backend->ops->stats(slot->backend, slot->attempt, &stats);
        in.stats = &stats;
        td_call_feed(call, &in);
    }
    td_call_unref(call);
}

static void on_event(void *user, const struct td_event *event) {
    struct td_slot *slot = user;
    uint32_t attempt = slot->start.attempt;
    struct td_call *call = slot->call;
    struct td_x_input in = {.type = TD_X_IN_EVENT, .attempt = attempt, .event = event};
    struct td_attempt_stats stats;
    // Another attempt writes its own bytes from the request: these are not needed while the answer comes.
    if (slot->body.p && slot->attempt && slot->backend->ops->sent(slot->backend, slot->attempt))
        td_buf_finish(&slot->body);
    if (event->type == TD_EV_END && slot->attempt) {
        atomic_fetch_add(&call->refs, 1);
        td_loop_later(call->worker->loop, &slot->later, on_end, slot);
        return;
    }
    if (event->type == TD_EV_START && event->start.model.n)
        slot->model = td_arena_str(&call->arena, event->start.model);
    if ((event->type == TD_EV_END || event->type == TD_EV_ERROR) && slot->attempt) {
        slot->backend->ops->stats(slot->backend, slot->attempt, &stats);
        in.stats = &stats;
    }
    td_call_feed(call, &in);
}

// What the sink keeps is its own; what a piece of a stream needs of it, the listener keeps at its beginning.
#define SINK_BYTES 192u

static void on_near(void *user, struct td_near *near) {
    const struct td_slot *slot = user;
    const struct td_call *call = slot->call;
    td_near_add(near, slot, offsetof(struct td_slot, grant));
    td_near_add(near, call, offsetof(struct td_call, request));
    if (call->x)
        td_exchange_near(call->x, near);
    if (call->writer)
        td_dialect_ops(call->request.dialect)->answer_near(call->writer, near);
    td_near_add(near, call->sink_user, SINK_BYTES);
}

static bool named(struct td_str list, struct td_str name) {
    while (list.n) {
        const char *end = memchr(list.p, '\n', list.n);
        struct td_str line = td_str_n(list.p, end ? (size_t)(end - list.p) : list.n);
        if (td_str_eq(line, name))
            return true;
        list = end ? td_str_n(end + 1, list.n - line.n - 1) : TD_STR_NONE;
    }
    return false;
}

// A replay asks only who may give a better answer than there is: by quality, as it was then; where that is equal, by
// what the router expects of each now.
static bool is_worth_asking(const struct td_call *call, const struct td_target *target) {
    const struct td_replay *r = call->replay;
    if (target->quality != r->better_than)
        return target->quality > r->better_than;
    const struct td_target *local = td_policy_target(&call->config->policy, r->local_target);
    return td_plan_estimate(call->plan, target->index) > (local ? td_plan_estimate(call->plan, local->index) : 0);
}

// May it, under the policy it was accepted under and the one in force?
static bool check_policy(struct td_call *call, const struct td_target *target, uint64_t *epoch,
                         struct td_policy_verdict *verdict) {
    struct td_runtime *rt = call->worker->runtime;
    struct td_config *current = td_runtime_config(rt, epoch);
    td_worker_prepare_remote(call->worker, *epoch);
    *verdict = td_policy_check_attempt(&call->config->policy, &current->policy, &call->facts, call->world, target);
    td_config_unref(current);
    if (verdict->allowed && call->replay && !named(call->replay->allowed, target->name)) {
        verdict->allowed = false;
        verdict->reason = TD_REASON_DENIED; // not by the policy it was accepted under
    }
    if (verdict->allowed && call->replay && !is_worth_asking(call, target)) {
        verdict->allowed = false;
        verdict->reason = TD_REASON_RANKED_OUT; // as good an answer is there already
    }
    return verdict->allowed;
}

static void on_lease(void *arg, enum td_err err) {
    struct td_slot *slot = arg;
    uint32_t attempt = slot->start.attempt;
    struct td_call *call = slot->call;
    if (slot->waiting && !call->ended) {
        slot->waiting = false;
        if (err == TD_OK)
            td_call_start_attempt(call, &slot->start);
        else
            refuse(call, attempt, TD_ERR_LEDGER, TD_REASON_COST, 0);
    }
    td_call_unref(call);
}

// What this request has cost so far. An attempt under way counts with the money that is put aside for it.
static int64_t spent_nusd(const struct td_call *call, uint32_t but_for_attempt) {
    int64_t sum = 0;
    uint32_t n = td_exchange_attempts(call->x);
    for (uint32_t i = 0; i < n && i < TD_ATTEMPTS_MAX; i++)
        if (i != but_for_attempt)
            sum += call->slots[i] && call->slots[i]->held ? call->slots[i]->hold.nusd
                                                          : td_exchange_record(call->x, i)->cost_nusd;
    return sum;
}

// Puts the money aside. TD_ERR_CANCELLED: it waits for a lease and will come back.
static enum td_err reserve(struct td_call *call, struct td_slot *slot, const struct td_target *target) {
    struct td_runtime *rt = call->worker->runtime;
    struct td_error e;
    uint32_t out_tokens = slot->start.max_tokens          ? slot->start.max_tokens
                          : call->facts.output_tokens > 0 ? call->facts.output_tokens * 2
                                                          : 1024;
    struct td_usage most = {.prompt_tokens = call->facts.input_tokens + call->facts.input_tokens / 4,
                            .completion_tokens = out_tokens};
    int64_t nusd = target->paid ? td_x_cost_nusd(target, &most) : 0;
    if (target->paid && !td_store_writable(rt->store))
        return TD_ERR_LEDGER;
    // The ceiling is for all attempts together: what was dear to fail leaves less for the next.
    int64_t ceiling = call->plan->max_cost_nusd;
    if (target->paid && ceiling >= 0 &&
        spent_nusd(call, slot->start.attempt) + call->plan->verdicts[slot->start.target].cost_nusd > ceiling)
        return TD_ERR_NO_TARGET;
    enum td_err err = td_govern_reserve(rt->govern, &call->ticket, target->name, nusd, td_wall_ms(), &slot->hold, &e);
    if (err == TD_OK) {
        slot->held = true;
    } else if (err == TD_ERR_OVERLOAD) {
        struct td_ack ack = {call->worker->loop, on_lease, slot};
        atomic_fetch_add(&call->refs, 1);
        if (td_govern_when_ready(rt->govern, &ack) == TD_OK) {
            slot->waiting = true;
            return TD_ERR_CANCELLED;
        }
        atomic_fetch_sub(&call->refs, 1);
    }
    return err;
}

static enum td_err admit(struct td_call *call, struct td_slot *slot, const struct td_target *target) {
    struct td_runtime *rt = call->worker->runtime;
    bool last = slot->start.step + 1 >= call->plan->step_count;
    if (slot->start.retry && call->request.wishes.hops)
        return TD_ERR_UPSTREAM_SERVER; // retries are made by one Tandem of a chain, the first: else they multiply
    if (slot->start.retry && !td_health_retry(rt->health, target, td_now_ns()))
        return TD_ERR_UPSTREAM_SERVER;
    slot->admission = td_health_admit(rt->health, target, call->facts.batch, last, td_now_ns());
    slot->admitted = slot->admission.admitted;
    if (!slot->admitted && slot->admission.refused == TD_ADMIT_FULL)
        td_runtime_turned_away(rt, target, call->facts.batch, td_now_ns());
    return slot->admitted ? TD_OK : TD_ERR_OVERLOAD;
}

static enum td_reason admission_reason(const struct td_admission *a) {
    switch (a->refused) {
    case TD_ADMIT_OPEN:
        return TD_REASON_HEALTH;
    case TD_ADMIT_RETRY_AFTER:
        return TD_REASON_RETRY_AFTER;
    default:
        return TD_REASON_OVERLOADED;
    }
}

// A stream is asked for wherever the answer may have to change hands in the middle, also when the client wants it
// whole.
static bool upstream_streams(const struct td_call *call, const struct td_target *target) {
    return call->request.kind != TD_KIND_EMBEDDING &&
           (call->request.stream || call->plan->mode != TD_MODE_SINGLE || target->provider == TD_PROVIDER_LLAMA);
}

// The tiers a request may still reach beyond the next Tandem. That one's own device is where it stands itself, and
// there the request may go.
static void chain_tiers(const struct td_call *call, struct td_wishes *w) {
    struct td_config *current = td_runtime_config(call->worker->runtime, NULL);
    struct td_facts of_now = td_policy_facts_in(&current->policy, &call->facts);
    uint32_t tiers = td_policy_tiers(&call->config->policy, &call->facts, call->world) &
                     td_policy_tiers(&current->policy, &of_now, call->world);
    td_config_unref(current);
    tiers |= 1u << TD_TIER_DEVICE;
    w->tier_count = 0;
    for (int t = 0; t < TD_TIER_COUNT && tiers != (1u << TD_TIER_COUNT) - 1; t++)
        if (tiers >> t & 1)
            w->tiers[w->tier_count++] = td_str_of(td_tier_word((enum td_tier)t));
}

// What the next Tandem must hold to: the effective values, which may be stricter than what the caller said. A request
// that has passed too many Tandems goes to no further one.
static enum td_err chain_wishes(const struct td_call *call, uint32_t attempt, struct td_wishes *w) {
    const struct td_plan *plan = call->plan;
    const struct td_policy *policy = &call->config->policy;
    *w = call->request.wishes;
    if (++w->hops > TD_HOPS_MAX)
        return TD_ERR_CHAIN;
    if (plan->data_class > w->data_class)
        w->data_class = plan->data_class;
    for (uint32_t bit = 0; bit < policy->label_count && bit < TD_LABELS_MAX; bit++) {
        bool known = !(plan->labels >> bit & 1) || policy->labels[bit].n == 0;
        for (uint32_t i = 0; !known && i < w->label_count; i++)
            known = td_str_eq(w->labels[i], policy->labels[bit]);
        if (!known && w->label_count == TD_LABELS_MAX)
            return TD_ERR_FORBIDDEN; // what cannot be said cannot be enforced there
        if (!known)
            w->labels[w->label_count++] = policy->labels[bit];
    }
    w->residency = plan->residency;
    chain_tiers(call, w);
    w->max_cost_nusd = -1;
    if (plan->max_cost_nusd >= 0) {
        int64_t spent = spent_nusd(call, attempt);
        w->max_cost_nusd = plan->max_cost_nusd > spent ? plan->max_cost_nusd - spent : 0;
    }
    if (plan->deadline_ms) {
        uint64_t spent_ms = (td_now_ns() - call->arrival_ns) / TD_MS_NS;
        w->deadline_ms = plan->deadline_ms > spent_ms ? plan->deadline_ms - spent_ms : 1;
    }
    return TD_OK;
}

// Then what neither the client nor Tandem has a canonical form for passes through, both ways.
static bool same_dialect(const struct td_call *call, const struct td_target *target) {
    return call->request.dialect == TD_DIALECT_OPENAI && target->provider != TD_PROVIDER_LLAMA;
}

// The draft goes along only where the policy says so, and never where it would show what the request did not: a label
// that the draft's own text bears and the request does not.
static struct td_str draft_for(const struct td_call *call, const struct td_slot *slot, const struct td_target *target) {
    const struct td_policy *policy = &call->config->policy;
    bool wanted = policy->pass_draft && call->plan->mode == TD_MODE_CASCADE && slot->start.draft.n &&
                  target->provider != TD_PROVIDER_LLAMA && call->request.kind == TD_KIND_CHAT;
    if (!wanted || td_str_eq(slot->start.draft, call->config->targets[call->plan->steps[0].target].declines) ||
        td_content_scan(policy->content, slot->start.draft) & ~call->plan->labels)
        return TD_STR_NONE;
    return slot->start.draft;
}

static enum td_err serialise(struct td_call *call, struct td_slot *slot, const struct td_target *target) {
    struct td_write_spec spec = {
        .model = target->provider == TD_PROVIDER_LLAMA ? target->name : target->model,
        .stream = upstream_streams(call, target),
        .same_dialect = same_dialect(call, target),
        .prefix = slot->start.prefix,
        .prefix_mark = target->prefix_mark,
        .draft = draft_for(call, slot, target),
        .max_tokens = slot->start.max_tokens,
        .want_logprobs = slot->start.want_tokens && target->provider == TD_PROVIDER_LLAMA,
    };
    struct td_wishes chain;
    td_buf_clear(&slot->body);
    if (target->provider == TD_PROVIDER_TANDEM) {
        enum td_err err = chain_wishes(call, slot->start.attempt, &chain);
        if (err != TD_OK)
            return err;
        spec.chain = &chain;
    }
    td_buf_expect(&slot->body, call->request.text_bytes + BODY_BESIDES_TEXT); // at once instead of in steps
    return td_dialect_ops(TD_DIALECT_OPENAI)->write_request(&call->request, &spec, &slot->body);
}

static enum td_err launch(struct td_call *call, struct td_slot *slot, const struct td_target *target,
                          struct td_error *e);

// before_egress: the receipt is on the disk (or is not), now the bytes may go.
static void on_receipt(void *arg, enum td_err err) {
    struct td_slot *slot = arg;
    uint32_t attempt = slot->start.attempt;
    struct td_call *call = slot->call;
    if (slot->waiting && !call->ended) {
        const struct td_target *target = &call->config->targets[slot->start.target];
        struct td_error e;
        slot->waiting = false;
        if (err != TD_OK)
            refuse(call, attempt, TD_ERR_LEDGER, TD_REASON_NOT_READY, 0);
        else if ((err = launch(call, slot, target, &e)) != TD_OK)
            refuse(call, attempt, err, TD_REASON_NOT_READY, 0);
    }
    td_call_unref(call);
}

// The bytes exist: receipt and grant. TD_ERR_CANCELLED: waits for the disk.
static enum td_err permit(struct td_call *call, struct td_slot *slot, const struct td_target *target,
                          const struct td_policy_verdict *verdict, uint64_t epoch, struct td_error *e) {
    struct td_runtime *rt = call->worker->runtime;
    struct td_egress_check check = {.allowed = verdict->allowed,
                                    .data_class = call->plan->data_class,
                                    .labels = call->plan->labels,
                                    .policy_version = epoch};
    struct td_grant_terms terms = {.kind = TD_GRANT_INFERENCE, .target = target, .receipt_key = rt->body_key};
    enum td_err err = td_grant_issue(&call->arena, &check, &terms, td_buf_str(&slot->body), &slot->grant, e);
    if (err != TD_OK)
        return err;
    td_grant_mac(slot->grant, slot->body_mac);
    struct td_receipt receipt = {
        .wall_ms = td_wall_ms(),
        .kind = TD_EGRESS_INFERENCE,
        .exchange = td_str_of(call->exchange_id),
        .attempt = slot->start.attempt + 1,
        .tenant = td_str_of(call->who.tenant),
        .target = target->name,
        .region = target->region,
        .data_class = call->plan->data_class,
        .labels = call->plan->labels,
        .policy_version = call->config->policy.version,
        .bytes = slot->body.n,
    };
    memcpy(receipt.body_mac, slot->body_mac, sizeof receipt.body_mac);
    bool waits = call->config->durability == TD_DURABILITY_BEFORE_EGRESS;
    struct td_ack ack = {call->worker->loop, on_receipt, slot};
    if (waits)
        atomic_fetch_add(&call->refs, 1);
    err = td_receipt_append(rt->store, &receipt, waits ? &ack : NULL, &slot->receipt);
    if (waits && err == TD_OK) {
        slot->waiting = true;
        return TD_ERR_CANCELLED;
    }
    if (waits)
        atomic_fetch_sub(&call->refs, 1);
    return err;
}

// The same for every try of the same request. Going on from a prefix is another request: under the same key a provider
// would give the old answer again, or refuse it. So is what the next Tandem gets: less time is left with each try.
static const char *idempotency_key(struct td_call *call, const struct td_slot *slot, const struct td_target *target) {
    const char *key = call->replay ? call->replay->idempotency_key.p : call->exchange_id;
    uint64_t bytes;
    if (!target->idempotency)
        return NULL;
    if (call->repeat.name[0]) {
        char sent[TD_REPEAT_SENT_BYTES];
        td_repeat_sent(call->worker->runtime->repeats, &call->repeat, target->name, td_buf_str(&slot->body), sent);
        return td_arena_str(&call->arena, td_str_of(sent)).p;
    }
    if (slot->start.role != TD_X_ROLE_CONTINUE && target->provider != TD_PROVIDER_TANDEM)
        return key;
    memcpy(&bytes, slot->body_mac, sizeof bytes);
    return td_arena_printf(&call->arena, "%s-%016" PRIx64, key, bytes).p;
}

static enum td_err launch(struct td_call *call, struct td_slot *slot, const struct td_target *target,
                          struct td_error *e) {
    struct td_attempt_spec spec = {
        .target = target,
        .kind = call->request.kind,
        .stream = upstream_streams(call, target),
        .body = td_buf_str(&slot->body),
        .grant = slot->grant,
        .exchange_id = call->exchange_id,
        .idempotency_key = idempotency_key(call, slot, target),
        .deadline_ns = slot->start.deadline_ns,
        .connect_ms = slot->start.connect_ms,
        .want_tokens = slot->start.want_tokens || call->request.logprobs,
        .raw = same_dialect(call, target),
        .choices = call->request.n,
        .priority = call->facts.batch ? 1 : 0,
        .on_event = on_event,
        .near = on_near,
        .user = slot,
    };
    slot->backend =
        target->provider == TD_PROVIDER_LLAMA ? call->worker->local : td_remote_backend(call->worker->remote);
    if (!slot->backend)
        return td_error_set(e, TD_ERR_HOST_LOAD, "no model host is installed");
    return slot->backend->ops->start(slot->backend, &spec, &slot->attempt, e);
}

static enum td_reason refusal_of(enum td_err err) {
    switch (err) {
    case TD_ERR_BUDGET:
    case TD_ERR_LEDGER:
    case TD_ERR_NO_TARGET:
        return TD_REASON_COST;
    case TD_ERR_OVERLOAD:
        return TD_REASON_OVERLOADED;
    case TD_ERR_HOST_MEMORY:
        return TD_REASON_DEVICE;
    case TD_ERR_GRANT:
        return TD_REASON_DENIED;
    default:
        return TD_REASON_NOT_READY;
    }
}

// The bytes of all that begins in this turn of the loop exist. Between then and now a reload may have come: policy is
// asked anew, so that the grant is of the one in force.
static void on_serialised(void *arg) {
    struct td_slot *slot = arg;
    struct td_call *call = slot->call;
    const struct td_target *target = &call->config->targets[slot->start.target];
    struct td_policy_verdict verdict;
    struct td_error e = {0};
    uint64_t epoch;
    if (slot->waiting && !call->ended) {
        slot->waiting = false;
        if (!check_policy(call, target, &epoch, &verdict)) {
            refuse_by_policy(call, slot->start.attempt, &verdict);
        } else {
            enum td_err err = permit(call, slot, target, &verdict, epoch, &e);
            if (err == TD_OK)
                err = launch(call, slot, target, &e);
            if (err != TD_OK && !(err == TD_ERR_CANCELLED && slot->waiting))
                refuse(call, slot->start.attempt, err, refusal_of(err), 0);
        }
    }
    td_call_unref(call);
}

static struct td_slot *slot_for(struct td_call *call, const struct td_x_start *start) {
    struct td_slot *slot = call->slots[start->attempt];
    if (slot || !(slot = td_arena_alloc(&call->arena, sizeof *slot)))
        return slot;
    slot->call = call;
    slot->start = *start;
    td_buf_init(&slot->body, TD_ARENA_BYTES_MAX);
    return call->slots[start->attempt] = slot;
}

void td_call_start_attempt(struct td_call *call, const struct td_x_start *start) {
    struct td_slot *slot = slot_for(call, start);
    const struct td_target *target = &call->config->targets[start->target];
    struct td_policy_verdict verdict;
    struct td_error e = {0};
    uint64_t epoch;
    if (!slot) {
        refuse(call, start->attempt, TD_ERR_NOMEM, TD_REASON_NOT_READY, 0);
        return;
    }
    if (!check_policy(call, target, &epoch, &verdict)) {
        refuse_by_policy(call, start->attempt, &verdict);
        return;
    }
    enum td_err err = reserve(call, slot, target);
    if (err == TD_OK) {
        err = admit(call, slot, target);
        if (err != TD_OK) {
            refuse(call, start->attempt, err, admission_reason(&slot->admission), slot->admission.retry_after_ms);
            return;
        }
        err = serialise(call, slot, target);
        if (err == TD_OK && target->provider != TD_PROVIDER_LLAMA) {
            atomic_fetch_add(&call->refs, 1);
            slot->waiting = true;
            td_loop_later(call->worker->loop, &slot->later, on_serialised, slot);
            return;
        }
        if (err == TD_OK)
            err = launch(call, slot, target, &e);
    }
    if (err == TD_ERR_CANCELLED && slot->waiting)
        return;
    if (err != TD_OK)
        refuse(call, start->attempt, err, refusal_of(err), 0);
}
