// SPDX-License-Identifier: Apache-2.0
// A request and its outbox entry: queued when the plan says a better answer is wanted and cannot be had now; the answer
// the client got meanwhile goes along; later asked again. Nothing here waits for the disk.
#include <string.h>

#include "base/log.h"
#include "base/time.h"
#include "policy/policy.h"
#include "runtime/call.h"

static const char *const reconcile_words[] = {"take_better", "keep_local", "ask"};

// The request's own answer is on its way, and the two are to be compared: replay waits for it, or so long if the
// process died before it came.
#define OWN_ANSWER_MS 5000

// The least that can answer now. A replay that overtakes the answer on its way to the client must not ask for another
// of that kind.
static const struct td_target *least_of_plan(const struct td_call *call) {
    const struct td_target *least = NULL;
    for (uint32_t i = 0; i < call->plan->step_count; i++) {
        const struct td_target *t = &call->config->targets[call->plan->steps[i].target];
        least = !least || td_plan_is_better(call->plan, least, t) ? t : least;
    }
    return least;
}

// The targets that policy would have let this request go to, if they are better than what answers now: a replay may go
// to no other.
static enum td_err allowed_targets(const struct td_call *call, bool answered, struct td_buf *out) {
    const struct td_config *config = call->config;
    const struct td_target *least = answered ? least_of_plan(call) : NULL;
    enum td_err err = TD_OK;
    for (uint32_t i = 0; err == TD_OK && i < config->target_count; i++) {
        const struct td_target *t = &config->targets[i];
        if (t->tier == TD_TIER_DEVICE || (least && !td_plan_is_better(call->plan, t, least)) ||
            !td_policy_check_attempt(&config->policy, &config->policy, &call->facts, call->world, t).allowed)
            continue;
        err = td_buf_add_str(out, t->name);
        if (err == TD_OK)
            err = td_buf_addc(out, '\n');
    }
    return err;
}

// The webhook as well: a later answer tells its text to no receiver that the policy of now would keep it from.
static enum td_err allowed_webhook(const struct td_call *call, struct td_buf *out) {
    const struct td_config *config = call->config;
    struct td_ruling ruling;
    if (!config->webhook.place.base_url.n)
        return TD_OK;
    td_policy_rule(&config->policy, &call->facts, call->world, &ruling);
    if (td_policy_admits(&config->policy, &ruling, &call->facts, &config->webhook.place, NULL) != TD_REASON_CHOSEN)
        return TD_OK;
    return td_buf_addz(out, TD_OUTBOX_WEBHOOK_MARK "\n");
}

struct td_str td_outbox_key_id(struct td_str allowed) {
    struct td_str mark = TD_STR(TD_OUTBOX_KEY_MARK);
    while (allowed.n) {
        const char *end = memchr(allowed.p, '\n', allowed.n);
        struct td_str line = td_str_n(allowed.p, end ? (size_t)(end - allowed.p) : allowed.n);
        if (td_str_starts(line, mark))
            return td_str_n(line.p + mark.n, line.n - mark.n);
        allowed = end ? td_str_n(end + 1, allowed.n - line.n - 1) : TD_STR_NONE;
    }
    return TD_STR_NONE;
}

// The request as the client meant it: its body, with all its wishes in the `tandem` object, those of its headers too.
static enum td_err write_request(const struct td_call *call, struct td_buf *out) {
    td_json *key, *value;
    size_t i, max;
    enum td_err err = td_buf_addc(out, '{');
    yyjson_obj_foreach(call->request.root, i, max, key, value) {
        if (err != TD_OK || td_str_is(td_json_str(key), "tandem"))
            continue;
        err = td_buf_add_json(out, td_json_str(key));
        err = err ? err : td_buf_addc(out, ':');
        err = err ? err : td_json_write(value, out);
        err = err ? err : td_buf_addc(out, ',');
    }
    err = err ? err : td_buf_addz(out, "\"tandem\":");
    err = err ? err : td_wishes_write(&call->request.wishes, out);
    return err ? err : td_buf_addc(out, '}');
}

static void on_queued(void *arg, enum td_err err) {
    struct td_call *call = arg;
    call->outbox_acked = err == TD_OK || call->queued_as[0]; // the same request waits there already
    if (!call->outbox_acked)
        td_log(TD_LOG_WARN, "outbox", call->exchange_id, "while=queue err=%s", td_err_code(err));
    if (!call->ended)
        td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_KEPT});
    td_call_unref(call);
}

static void keep_open(struct td_call *call) {
    struct td_runtime *rt = call->worker->runtime;
    pthread_mutex_lock(&rt->keep_lock);
    call->keep_next = rt->keeping;
    call->keep_link = &rt->keeping;
    if (call->keep_next)
        call->keep_next->keep_link = &call->keep_next;
    rt->keeping = call;
    pthread_mutex_unlock(&rt->keep_lock);
}

void td_call_keep_done(struct td_call *call) {
    struct td_runtime *rt = call->worker->runtime;
    pthread_mutex_lock(&rt->keep_lock);
    if (call->keep_link) {
        *call->keep_link = call->keep_next;
        if (call->keep_next)
            call->keep_next->keep_link = call->keep_link;
        call->keep_link = NULL;
    }
    pthread_mutex_unlock(&rt->keep_lock);
}

bool td_call_keeps(struct td_runtime *rt, struct td_str id) {
    bool found = false;
    pthread_mutex_lock(&rt->keep_lock);
    for (const struct td_call *call = rt->keeping; call && !found; call = call->keep_next)
        found = td_str_is(id, call->exchange_id);
    pthread_mutex_unlock(&rt->keep_lock);
    return found;
}

void td_call_keep(struct td_call *call, enum td_x_outbox_why why) {
    struct td_runtime *rt = call->worker->runtime;
    const struct td_config *config = call->config;
    struct td_buf allowed, request, labels;
    struct td_error e = {0};
    if (!config->outbox.enabled || call->replay || call->outbox_asked || call->request.kind == TD_KIND_EMBEDDING) {
        td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_KEPT});
        return;
    }
    td_buf_init(&allowed, 64 << 10);
    td_buf_init(&request, TD_ARENA_BYTES_MAX);
    td_buf_init(&labels, 64 << 10);
    enum td_err err = allowed_targets(call, why != TD_X_OUTBOX_FAILED, &allowed);
    if (err == TD_OK && allowed.n == 0)
        err = TD_ERR_NO_TARGET; // nobody could ever answer it better
    if (err == TD_OK)
        err = allowed_webhook(call, &allowed);
    if (err == TD_OK && call->who.key_id[0])
        err = td_buf_printf(&allowed, TD_OUTBOX_KEY_MARK "%s\n", call->who.key_id);
    if (err == TD_OK)
        err = write_request(call, &request);
    if (err == TD_OK)
        err = td_policy_label_names(&config->policy, call->plan->labels, &labels);
    struct td_outbox_entry entry = {
        .id = td_str_of(call->exchange_id),
        .tenant = td_str_of(call->who.tenant),
        .conversation = td_str_of(call->conversation),
        .state = TD_OUTBOX_QUEUED,
        .priority = call->facts.batch ? 1 : 0,
        .created_ms = call->arrival_wall_ms,
        .expires_ms = call->arrival_wall_ms + (int64_t)config->outbox.expiry_s * 1000,
        .next_try_ms = why == TD_X_OUTBOX_FAILED ? 0 : td_wall_ms() + OWN_ANSWER_MS,
        .policy_version = config->policy.version,
        .data_class = call->plan->data_class,
        .labels = td_buf_str(&labels),
        .residency = call->plan->residency,
        .reconcile = td_str_of(reconcile_words[config->outbox.reconcile]),
        .idempotency_key = td_str_of(call->repeat.name),
        .twin = call->queued_as,
        .request = td_buf_str(&request),
        .context = td_buf_str(&allowed),
    };
    struct td_ack ack = {call->worker->loop, on_queued, call};
    atomic_fetch_add(&call->refs, 1);
    if (err == TD_OK) {
        keep_open(call);
        err = td_outbox_add(rt->store, &entry, &ack, &e);
    }
    if (err != TD_OK) {
        td_call_keep_done(call);
        atomic_fetch_sub(&call->refs, 1);
        if (err != TD_ERR_NO_TARGET)
            td_log(TD_LOG_WARN, "outbox", call->exchange_id, "while=queue err=%s", td_err_code(err));
    }
    call->outbox_asked = err == TD_OK;
    if (err != TD_OK)
        td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_KEPT});
    td_buf_finish(&allowed);
    td_buf_finish(&request);
    td_buf_finish(&labels);
}

static void on_answer_kept(void *arg, enum td_err err) {
    struct td_call *call = arg;
    td_call_keep_done(call);
    if (err != TD_OK && !call->queued_as[0])
        td_log(TD_LOG_WARN, "outbox", call->exchange_id, "while=keep_answer err=%s", td_err_code(err));
    td_call_unref(call);
}

void td_call_keep_answer(struct td_call *call) {
    struct td_runtime *rt = call->worker->runtime;
    struct td_error e;
    if (!call->outbox_asked || call->last_origin >= TD_ATTEMPTS_MAX) {
        td_call_keep_done(call);
        return;
    }
    struct td_origin origin = td_call_origin(call, call->last_origin);
    struct td_buf text;
    td_buf_init(&text, TD_REPLY_BYTES_MAX);
    if (td_exchange_answer(call->x, &text) != TD_OK)
        td_buf_clear(&text);
    struct td_outbox_answer local = {
        .body = td_buf_str(&text),
        .target = origin.target,
        .model = origin.model,
        .quality = call->config->targets[td_exchange_record(call->x, call->last_origin)->target].quality,
        .wall_ms = td_wall_ms(),
    };
    struct td_outbox_move move = {
        .from = TD_OUTBOX_QUEUED, .to = TD_OUTBOX_ANSWERED_LOCALLY, .local = &local, .next_try_ms = td_wall_ms()};
    struct td_ack ack = {call->worker->loop, on_answer_kept, call};
    atomic_fetch_add(&call->refs, 1);
    // An answer that says nothing is none: the entry waits without one.
    if (!text.n || td_outbox_move(rt->store, td_str_of(call->exchange_id), &move, &ack, &e) != TD_OK) {
        atomic_fetch_sub(&call->refs, 1);
        td_call_keep_done(call);
    }
    td_buf_finish(&text);
}

// ---- replay

static double estimate_of(const struct td_call *call, struct td_str name) {
    const struct td_target *t = td_policy_target(&call->config->policy, name);
    return t ? td_plan_estimate(call->plan, t->index) : 0;
}

// The client of a replay: keeps the answer's text until it is complete.
static void replay_emit(struct td_call *call, const struct td_x_out *list, uint32_t count) {
    const struct td_replay *r = call->replay;
    for (uint32_t i = 0; i < count && !call->sink_done; i++) {
        const struct td_x_out *o = &list[i];
        if (o->type == TD_X_OUT_BEGIN || o->type == TD_X_OUT_ORIGIN) {
            call->last_origin = o->attempt;
        } else if (o->type == TD_X_OUT_DONE) {
            struct td_origin origin = td_call_origin(call, call->last_origin);
            const struct td_target *t = &call->config->targets[td_exchange_record(call->x, call->last_origin)->target];
            call->sink_done = true;
            struct td_buf text;
            td_buf_init(&text, TD_REPLY_BYTES_MAX);
            enum td_err err = td_exchange_answer(call->x, &text);
            if (err == TD_OK && !td_str_trim(td_buf_str(&text)).n)
                err = TD_ERR_UPSTREAM_GARBAGE; // an answer that says nothing is none; another try may say more
            struct td_replayed answer = {.err = err,
                                         .body = td_buf_str(&text),
                                         .target = origin.target,
                                         .model = origin.model,
                                         .quality = t->quality,
                                         .estimate = estimate_of(call, t->name),
                                         .local_estimate = estimate_of(call, r->local_target),
                                         .sent = true};
            r->done(r->user, &answer);
            td_buf_finish(&text);
        } else if (o->type == TD_X_OUT_ERROR) {
            bool sent = false;
            for (uint32_t a = 0; a < td_exchange_attempts(call->x); a++)
                sent |= td_exchange_record(call->x, a)->sent;
            call->sink_done = true;
            r->done(r->user, &(struct td_replayed){.err = o->error.code, .sent = sent});
        }
    }
}

static void replay_refuse(struct td_call *call, enum td_err err, const struct td_error *e, uint32_t retry_after_ms) {
    const struct td_replay *r = call->replay;
    (void)e, (void)retry_after_ms;
    if (!call->sink_done) {
        call->sink_done = true;
        r->done(r->user, &(struct td_replayed){.err = err});
    }
}

static const struct td_presenter presenter_replay = {.emit = replay_emit, .refuse = replay_refuse};

static void start_replay(void *arg) {
    struct td_call *call = arg;
    struct td_error e = {0};
    struct td_str body = call->replay->request;
    td_call_enlist(call);
    // The stored body says which endpoint it came to: prompts are completions, messages chat.
    struct td_arena look;
    td_json *root = NULL;
    td_arena_init(&look, TD_ARENA_BYTES_MAX);
    enum td_kind kind =
        td_json_parse(&look, body, TD_JSON_DEPTH_MAX, &root, NULL) == TD_OK && td_json_get(root, "prompt")
            ? TD_KIND_COMPLETION
            : TD_KIND_CHAT;
    td_arena_finish(&look);
    enum td_err err = td_dialect_ops(TD_DIALECT_OPENAI)->read_request(&call->arena, kind, body, &call->request, &e);
    if (err != TD_OK)
        td_call_refuse(call, err, &e, 0);
    else
        td_call_run(call, TD_STR_NONE, true, true);
    td_call_unref(call); // the handle: nobody keeps one
}

enum td_err td_call_replay(struct td_runtime *rt, const struct td_replay *replay) {
    unsigned at = atomic_fetch_add(&rt->next_worker, 1);
    struct td_call *call = td_call_create(&rt->workers[at % rt->worker_count]);
    if (!call)
        return TD_ERR_NOMEM;
    call->presenter = &presenter_replay;
    call->replay = replay;
    if (td_loop_post(call->worker->loop, start_replay, call) != TD_OK) {
        td_call_unref(call);
        td_call_unref(call);
        return TD_ERR_NOMEM;
    }
    return TD_OK;
}
