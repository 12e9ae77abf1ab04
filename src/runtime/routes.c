// SPDX-License-Identifier: Apache-2.0
// The door for client dialects: which path is answered how, and what is read of a request before it is judged.
#include "runtime/http.h"

#include <stdio.h>
#include <string.h>

#include "base/time.h"
#include "runtime/batch.h"
#include "runtime/events.h"
#include "target/words.h"

static struct td_str header(const struct td_http_request *r, const char *name) {
    struct td_str want = td_str_of(name);
    for (size_t i = 0; i < r->header_count; i++)
        if (td_str_ieq(td_str_n(r->headers[i].name, r->headers[i].name_length), want))
            return td_str_n(r->headers[i].value, r->headers[i].value_length);
    return TD_STR_NONE;
}

static struct td_str bearer(const struct td_http_request *r) {
    struct td_str value = td_str_trim(header(r, "authorization"));
    if (value.n > 7 && td_str_ieq(td_str_n(value.p, 7), TD_STR("bearer ")))
        return td_str_trim(td_str_n(value.p + 7, value.n - 7));
    return td_str_trim(header(r, "x-api-key"));
}

static void answer_json(struct td_call *call, int status) {
    struct td_http_heads h = {.n = 0};
    td_http_send_head(call, status, &h, false, call->out.n);
    td_http_send_data(call);
    td_http_send_end(call, true);
}

static enum td_err read_wish(struct td_call *call, struct td_str name, struct td_str value, struct td_error *e) {
    struct td_str kept = td_arena_str(&call->arena, value); // the listener's bytes go when this call returns
    return kept.p ? td_wishes_read_header(&call->request.wishes, name, kept, e) : TD_ERR_NOMEM;
}

// At most one, and one that can be told apart from others.
static enum td_err read_client_key(struct td_call *call, const struct td_http_request *r, struct td_error *e) {
    struct td_str want = TD_STR("idempotency-key"), key = TD_STR_NONE;
    unsigned count = 0;
    for (size_t i = 0; i < r->header_count; i++)
        if (td_str_ieq(td_str_n(r->headers[i].name, r->headers[i].name_length), want)) {
            key = td_str_trim(td_str_n(r->headers[i].value, r->headers[i].value_length));
            count++;
        }
    if (!count)
        return TD_OK;
    if (count > 1 || !td_repeat_is_key(key)) {
        td_error_set(e, TD_ERR_BAD_REQUEST,
                     "Invalid header Idempotency-Key: expected one of 1 to %u visible characters.",
                     TD_REPEAT_KEY_BYTES_MAX);
        return td_error_param(e, "idempotency-key"), TD_ERR_BAD_REQUEST;
    }
    call->client_key = td_arena_str(&call->arena, key);
    call->repeat.body =
        td_repeat_body(call->worker->runtime->repeats, td_str_of(r->path), td_str_n(r->body, r->body_length));
    return call->client_key.p ? TD_OK : TD_ERR_NOMEM;
}

static void infer(struct td_call *call, const struct td_http_request *r, enum td_kind kind) {
    struct td_error e = {0};
    call->request.kind = kind;
    call->request.dialect = TD_DIALECT_OPENAI;
    enum td_err err = td_dialect_ops(TD_DIALECT_OPENAI)
                          ->read_request(&call->arena, kind, td_str_n(r->body, r->body_length), &call->request, &e);
    if (err == TD_OK && call->request.prompt_count)
        err = td_batch_open(call, td_str_n(r->body, r->body_length), &e);
    for (size_t i = 0; err == TD_OK && i < r->header_count; i++) {
        struct td_str name = td_str_n(r->headers[i].name, r->headers[i].name_length);
        if (name.n > 9 && td_str_ieq(td_str_n(name.p, 9), TD_STR("x-tandem-")))
            err = read_wish(call, name, td_str_n(r->headers[i].value, r->headers[i].value_length), &e);
    }
    err = err ? err : read_client_key(call, r, &e);
    if (err != TD_OK) {
        td_call_refuse(call, err, &e, 0);
        return;
    }
    call->stream = call->request.stream;
    td_call_run(call, bearer(r), strcmp(r->peer, "unix") == 0, r->local_peer);
    td_batch_start(call);
}

static uint32_t list_models(const struct td_config *config, const struct td_world *world,
                            struct td_model_entry *entries, int64_t created_s) {
    uint32_t n = 0;
    entries[n++] = (struct td_model_entry){.id = TD_STR("auto"), .owned_by = TD_STR("tandem"), .created_s = created_s};
    for (uint32_t i = 0; i < config->target_count; i++) {
        const struct td_target *t = &config->targets[i];
        entries[n++] =
            (struct td_model_entry){.id = t->name,
                                    .owned_by = td_str_of(td_provider_word(t->provider)),
                                    .created_s = created_s,
                                    .tier = td_str_of(td_tier_word(t->tier)),
                                    .context = t->context,
                                    .capabilities = t->capabilities & ~world->targets[i].capabilities_absent};
    }
    for (uint32_t i = 0; i < config->policy.alias_count; i++)
        entries[n++] = (struct td_model_entry){
            .id = config->policy.aliases[i].from, .owned_by = TD_STR("tandem"), .created_s = created_s};
    return n;
}

// The key a listing needs is the key that asking needs.
static bool may_look(struct td_call *call, const struct td_http_request *r) {
    struct td_runtime *rt = call->worker->runtime;
    struct td_error e = {0};
    bool open =
        strcmp(r->peer, "unix") == 0 || (r->local_peer && td_govern_key_count(rt->govern, call->arrival_wall_ms) == 0);
    td_govern_anonymous(&call->who);
    if (!open && td_govern_identify(rt->govern, bearer(r), call->arrival_wall_ms, &call->who, &e) != TD_OK) {
        td_http_refuse(call, TD_ERR_UNAUTHORIZED, &e, 0);
        return false;
    }
    return true;
}

// A name as clients put it into a path (RFC 3986): "auto%3Afast", "meta%2Fllama".
static struct td_str decode_name(struct td_arena *arena, struct td_str name) {
    static const char digits[] = "0123456789abcdef";
    char *out = td_arena_alloc(arena, name.n + 1);
    size_t n = 0;
    for (size_t i = 0; out && i < name.n; i++) {
        const char *high = i + 2 < name.n && name.p[i] == '%' ? strchr(digits, name.p[i + 1] | 32) : NULL;
        const char *low = high ? strchr(digits, name.p[i + 2] | 32) : NULL;
        out[n++] = low ? (char)((high - digits) * 16 + (low - digits)) : name.p[i];
        i += low ? 2 : 0;
    }
    return out && td_str_is_utf8(td_str_n(out, n)) ? td_str_n(out, n) : name;
}

// What a request may name without its being listed: auto with a preference.
static bool is_auto_with_preference(struct td_str name) {
    enum td_prefer prefer;
    return td_str_starts(name, TD_STR("auto:")) && td_prefer_parse(td_str_n(name.p + 5, name.n - 5), &prefer);
}

static void models(struct td_call *call, const struct td_http_request *r, struct td_str name) {
    const struct td_dialect_ops *d = td_dialect_ops(TD_DIALECT_OPENAI);
    struct td_model_entry *entries;
    struct td_world *world;
    struct td_error e;
    if (!may_look(call, r))
        return;
    entries = td_arena_array(&call->arena, call->config->target_count + call->config->policy.alias_count + 1,
                             sizeof *entries);
    world = td_arena_alloc(&call->arena, sizeof *world);
    if (!entries || !world) {
        td_http_refuse(call, TD_ERR_NOMEM, NULL, 0);
        return;
    }
    td_runtime_world(call->worker->runtime, call->config, false, td_now_ns(), world);
    uint32_t n = list_models(call->config, world, entries, call->worker->runtime->started_wall_ms / 1000);
    if (name.n == 0) {
        if (d->write_models(entries, n, &call->out) == TD_OK)
            answer_json(call, 200);
        else
            td_http_refuse(call, TD_ERR_NOMEM, NULL, 0);
        return;
    }
    name = decode_name(&call->arena, name);
    if (is_auto_with_preference(name))
        entries[0].id = name;
    for (uint32_t i = 0; i < n; i++) {
        if (td_str_eq(entries[i].id, name) && td_openai_write_model(&entries[i], &call->out) == TD_OK) {
            answer_json(call, 200);
            return;
        }
    }
    td_error_set(&e, TD_ERR_MODEL_NOT_FOUND, "the model '%.*s' does not exist", (int)(name.n < 128 ? name.n : 128),
                 name.p);
    td_http_refuse(call, TD_ERR_MODEL_NOT_FOUND, &e, 0);
}

// ---- admin, events

// An operator's method, over the Unix socket of the data directory: it may wait for the disk, so it runs on a thread of
// its own and comes back to the worker with its answer.
struct admin_job {
    struct td_call *call;
    char method[64];
    bool for_client; // errors in the dialect's form
    const char *params;
    char *result;
    struct td_failure failure;
    int failed;
};

static void on_admin_done(void *arg) {
    struct admin_job *job = arg;
    struct td_call *call = job->call;
    enum td_err err;
    if (job->failed && job->for_client) {
        struct td_error e;
        td_error_set(&e, TD_ERR_NOT_FOUND, "nothing is kept of this exchange");
        td_http_refuse(call, TD_ERR_NOT_FOUND, &e, 0);
        td_string_free(job->result);
        td_free(job);
        td_call_unref(call);
        return;
    }
    if (job->failed) {
        err = td_buf_addz(&call->out, "{\"error\":{\"code\":");
        if (err == TD_OK)
            err = td_buf_add_json(&call->out, td_str_of(job->failure.code));
        if (err == TD_OK)
            err = td_buf_addz(&call->out, ",\"message\":");
        if (err == TD_OK)
            err = td_buf_add_json(&call->out, td_str_of(job->failure.message));
        if (err == TD_OK)
            err = td_buf_addz(&call->out, "}}");
    } else {
        err = td_buf_addz(&call->out, job->result);
    }
    if (err == TD_OK)
        answer_json(call, job->failed ? 400 : 200);
    else
        td_http_refuse(call, err, NULL, 0);
    td_string_free(job->result);
    td_free(job);
    td_call_unref(call);
}

static void *admin_main(void *arg) {
    struct admin_job *job = arg;
    job->failed = td_admin_call(job->call->worker->runtime, job->method, job->params, &job->result, &job->failure);
    while (td_loop_post(job->call->worker->loop, on_admin_done, job) != TD_OK)
        nanosleep(&(struct timespec){0, 10000000}, NULL); // memory may come back; the answer must not be lost
    return NULL;
}

// `params` in the call's arena, or NULL without memory.
static void run_job(struct td_call *call, const char *method, const char *params, bool for_client) {
    struct admin_job *job = td_calloc(1, sizeof *job);
    pthread_t thread;
    if (job) {
        job->call = call;
        job->params = params;
        job->for_client = for_client;
        snprintf(job->method, sizeof job->method, "%s", method);
    }
    if (!job || !job->params || pthread_create(&thread, NULL, admin_main, job) != 0) {
        td_free(job);
        td_http_refuse(call, TD_ERR_NOMEM, NULL, 0);
        td_call_unref(call);
        return;
    }
    pthread_detach(thread);
}

static void admin(struct td_call *call, const struct td_http_request *r) {
    run_job(call, r->path + 7, td_arena_str(&call->arena, td_str_n(r->body, r->body_length)).p, false);
}

// GET /v1/tandem/exchanges/{id}: what became of a request that was kept for a better answer.
static void exchange_state(struct td_call *call, const struct td_http_request *r, struct td_str id) {
    if (!may_look(call, r)) {
        td_call_unref(call);
        return;
    }
    bool plain = id.n == 26 && strspn(id.p, "0123456789ABCDEFGHJKMNPQRSTVWXYZ") >= 26;
    struct td_str params = td_arena_printf(&call->arena, "{\"id\":\"%.*s\",\"tenant\":\"%s\"}", plain ? 26 : 0,
                                           plain ? id.p : "", call->who.tenant);
    run_job(call, "exchanges.get", params.p, true);
}

static void open_events(struct td_call *call) {
    struct td_http_heads h = {.n = 0};
    td_http_send_head(call, 200, &h, true, SIZE_MAX);
    if (td_buf_addz(&call->out, ": listening\n\n") == TD_OK)
        td_http_send_data(call);
}

// GET /v1/tandem/events: every later answer of this tenant, from now on or from Last-Event-ID.
static void events(struct td_call *call, const struct td_http_request *r) {
    struct td_str last = td_str_trim(header(r, "last-event-id"));
    uint64_t after = TD_EVENTS_FROM_NOW;
    if (!may_look(call, r)) {
        td_call_unref(call);
        return;
    }
    if (last.n && !td_str_to_u64(last, &after)) {
        struct td_error e;
        td_error_set(&e, TD_ERR_BAD_REQUEST, "Last-Event-ID is a number");
        td_http_refuse(call, TD_ERR_BAD_REQUEST, &e, 0);
        td_call_unref(call);
        return;
    }
    if (td_events_listen(call->worker->runtime->events, call, after, open_events) != TD_OK) {
        td_http_refuse(call, TD_ERR_NOMEM, NULL, 0);
        td_call_unref(call);
    }
}

static bool is_post(const struct td_http_request *r) {
    return strcmp(r->method, "POST") == 0;
}

static bool is_get(const struct td_http_request *r) {
    return strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0;
}

// The paths that take a request for a model.
static const struct {
    const char *path;
    enum td_kind kind;
} posts[] = {{"/v1/chat/completions", TD_KIND_CHAT},
             {"/v1/completions", TD_KIND_COMPLETION},
             {"/v1/embeddings", TD_KIND_EMBEDDING}};

static void not_found(struct td_call *call, struct td_str path) {
    struct td_error e;
    td_error_set(&e, TD_ERR_NOT_FOUND, "%s; /v1 offers chat/completions, completions, embeddings and models",
                 td_str_starts(path, TD_STR("/v1/responses")) ? "the Responses API is not offered"
                                                              : "there is nothing at this path");
    td_http_refuse(call, TD_ERR_NOT_FOUND, &e, 0);
}

static void wrong_method(struct td_call *call, const struct td_http_request *r, const char *allow) {
    struct td_http_heads h = {.n = 0};
    struct td_error e;
    td_error_set(&e, TD_ERR_METHOD, "this path takes %s, not %s", allow, r->method);
    td_http_head_add(&h, "allow", td_str_of(allow));
    td_http_send_error(call, &h, TD_ERR_METHOD, td_dialect_ops(call->request.dialect)->status(TD_ERR_METHOD),
                       td_str_of(e.message), TD_STR_NONE, NULL);
}

// Paths that are read. True: `call` keeps its running reference until a thread or a stream is done.
static bool look(struct td_call *call, const struct td_http_request *r) {
    static const struct td_str exchanges = {"/v1/tandem/exchanges/", 21}, one_model = {"/v1/models/", 11};
    struct td_str path = td_str_of(r->path);
    bool all_models = td_str_is(path, "/v1/models"), model = td_str_starts(path, one_model),
         exchange = td_str_starts(path, exchanges), stream = td_str_is(path, "/v1/tandem/events");
    if (!all_models && !model && !exchange && !stream)
        not_found(call, path);
    else if (!is_get(r))
        wrong_method(call, r, "GET, HEAD, OPTIONS");
    else if (exchange)
        exchange_state(call, r, td_str_n(path.p + exchanges.n, path.n - exchanges.n));
    else if (stream)
        events(call, r);
    else
        models(call, r, model ? td_str_n(path.p + one_model.n, path.n - one_model.n) : TD_STR_NONE);
    return is_get(r) && (exchange || stream);
}

static void route(struct td_call *call, const struct td_http_request *r) {
    struct td_str path = td_str_of(r->path);
    for (size_t i = 0; i < sizeof posts / sizeof *posts; i++) {
        if (!td_str_is(path, posts[i].path))
            continue;
        if (is_post(r)) {
            infer(call, r, posts[i].kind);
            return;
        }
        wrong_method(call, r, "POST, OPTIONS");
        td_call_unref(call);
        return;
    }
    if (is_post(r) && td_str_starts(path, TD_STR("/admin/")) && strcmp(r->peer, "unix") == 0) {
        admin(call, r); // keeps the running reference until its thread is done
        return;
    }
    if (!look(call, r))
        td_call_unref(call); // no exchange: its running reference
}

void td_http_call(struct td_runtime *runtime, unsigned worker, const struct td_http_request *request,
                  const struct td_http_sink *sink, void *user, struct td_call **out) {
    struct td_call *call = td_call_create(&runtime->workers[worker]);
    *out = call;
    if (!call) {
        static const char body[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,"
                                   "\"code\":\"tandem.internal.memory\"}}";
        static const struct td_http_header type = {"content-type", 12, "application/json", 16};
        sink->on_head(user, 503, &type, 1, false, sizeof body - 1);
        sink->on_data(user, body, sizeof body - 1);
        sink->on_end(user, true);
        return;
    }
    call->presenter = &td_presenter_http;
    call->sink = sink;
    call->sink_user = user;
    td_call_enlist(call);
    route(call, request);
}
