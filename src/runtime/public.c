// SPDX-License-Identifier: Apache-2.0
// td_chat: the library's own door. The exchange's client events become td_answer callbacks.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/time.h"
#include "runtime/batch.h"
#include "runtime/call.h"
#include "target/words.h"

#define TOOLS_MAX 128u

struct tool {
    struct td_buf id, name, arguments;
};

// Beside the call, in its arena: what an application sees is whole tool calls and NUL-terminated strings.
struct td_public {
    struct td_buf text;
    struct tool *tools; // grows in the arena
    unsigned tool_count;
    unsigned revision;
    enum td_finish finish;
    const char *key;
    char *body; // until it is read
    size_t body_n;
    struct td_origin named; // whose names the next two are, in the arena
    const char *target, *model;
    atomic_bool cancelled;
    struct td_post cancel_post, release_post; // letting go needs no memory
};

// What a revision replaces is void, its tool calls too.
static void forget_tools(struct td_public *p) {
    for (unsigned i = 0; i < p->tool_count; i++) {
        td_buf_finish(&p->tools[i].id);
        td_buf_finish(&p->tools[i].name);
        td_buf_finish(&p->tools[i].arguments);
    }
    p->tool_count = 0;
}

static void free_public(void *arg) {
    struct td_public *p = arg;
    td_free(p->body);
    td_buf_finish(&p->text);
    forget_tools(p);
}

static void fill(struct td_call *call, struct td_answer *a, enum td_answer_type type) {
    *a = (struct td_answer){.type = type,
                            .text = "",
                            .call_id = "",
                            .name = "",
                            .arguments = "",
                            .finish = "",
                            .code = "",
                            .exchange = call->exchange_id,
                            .target = "",
                            .tier = "",
                            .model = "",
                            .reason = "",
                            .confidence = NAN,
                            .revision = call->public_state->revision};
    if (call->x && call->last_origin < td_exchange_attempts(call->x)) {
        struct td_origin o = td_call_origin(call, call->last_origin);
        const struct td_x_record *r = td_exchange_record(call->x, call->last_origin);
        struct td_public *p = call->public_state;
        if (!p->target || !p->model || p->named.target.p != o.target.p || p->named.model.p != o.model.p) {
            p->named = o; // views into the configuration and the arena: the same pointer is the same name
            p->target = td_arena_str(&call->arena, o.target).p;
            p->model = td_arena_str(&call->arena, o.model).p;
        }
        a->target = p->target;
        a->tier = o.tier.p;
        a->model = p->model;
        a->reason = td_reason_word(r->reason);
        a->target = a->target ? a->target : "";
        a->model = a->model ? a->model : "";
    }
}

static void hand_over(struct td_call *call, const struct td_answer *a) {
    if (!call->sink_done)
        call->on_answer(call->answer_user, a);
}

static void fail(struct td_call *call, enum td_err err, struct td_str message) {
    struct td_answer a;
    fill(call, &a, TD_ANSWER_ERROR);
    a.code = td_err_code(err);
    a.queued = call->outbox_acked;
    struct td_str copy = td_arena_str(&call->arena, message);
    a.text = copy.p ? copy.p : td_err_text(err);
    a.text_length = copy.p ? copy.n : strlen(a.text);
    hand_over(call, &a);
    call->sink_done = true;
}

static void refuse(struct td_call *call, enum td_err err, const struct td_error *e, uint32_t retry_after_ms) {
    (void)retry_after_ms;
    fail(call, err,
         call->why_nobody.n ? call->why_nobody : td_str_of(e && e->message[0] ? e->message : td_err_text(err)));
}

static enum td_err on_text(struct td_call *call, struct td_str text, enum td_answer_type type) {
    struct td_public *p = call->public_state;
    struct td_answer a;
    td_buf_clear(&p->text);
    enum td_err err = td_buf_add_str(&p->text, text);
    if (err != TD_OK || !td_buf_z(&p->text))
        return TD_ERR_NOMEM;
    fill(call, &a, type);
    a.text = p->text.p;
    a.text_length = p->text.n;
    hand_over(call, &a);
    return TD_OK;
}

static struct tool *tool_at(struct td_call *call, unsigned index) {
    struct td_public *p = call->public_state;
    if (index >= TOOLS_MAX)
        return NULL;
    if (!p->tools)
        p->tools = td_arena_array(&call->arena, TOOLS_MAX, sizeof *p->tools);
    while (p->tools && p->tool_count <= index) {
        struct tool *t = &p->tools[p->tool_count++];
        td_buf_init(&t->id, 1024);
        td_buf_init(&t->name, 1024);
        td_buf_init(&t->arguments, 16 << 20);
    }
    return p->tools ? &p->tools[index] : NULL;
}

static enum td_err on_event(struct td_call *call, const struct td_event *ev) {
    struct tool *t;
    enum td_err err;
    if (ev->choice != 0)
        return TD_OK; // an application that wants several answers reads the wire form
    switch (ev->type) {
    case TD_EV_DELTA:
    case TD_EV_REFUSAL:
        return ev->delta.text.n ? on_text(call, ev->delta.text, TD_ANSWER_TEXT) : TD_OK;
    case TD_EV_TOOL_CALL:
        t = tool_at(call, ev->tool.index);
        if (!t)
            return TD_ERR_LIMIT;
        err = t->id.n ? TD_OK : td_buf_add_str(&t->id, ev->tool.id);
        if (err == TD_OK && !t->name.n)
            err = td_buf_add_str(&t->name, ev->tool.name);
        return err == TD_OK ? td_buf_add_str(&t->arguments, ev->tool.arguments) : err;
    default:
        return TD_OK;
    }
}

static enum td_err hand_tools(struct td_call *call) {
    struct td_public *p = call->public_state;
    struct td_answer a;
    for (unsigned i = 0; i < p->tool_count; i++) {
        struct tool *t = &p->tools[i];
        fill(call, &a, TD_ANSWER_TOOL_CALL);
        a.call_id = td_buf_z(&t->id);
        a.name = td_buf_z(&t->name);
        a.arguments = td_buf_z(&t->arguments);
        if (!a.call_id || !a.name || !a.arguments)
            return TD_ERR_NOMEM;
        hand_over(call, &a);
    }
    return TD_OK;
}

static enum td_err on_done(struct td_call *call, const struct td_x_out *out) {
    static const char *const finishes[] = {"stop", "length", "tool_calls", "content_filter"};
    struct td_answer a;
    enum td_err err = hand_tools(call);
    if (err != TD_OK)
        return err;
    fill(call, &a, TD_ANSWER_END);
    a.finish = finishes[call->public_state->finish & 3];
    a.degraded = out->done.degraded;
    a.queued = call->outbox_acked;
    a.confidence = out->done.confidence;
    a.prompt_tokens = out->done.usage.prompt_tokens;
    a.completion_tokens = out->done.usage.completion_tokens;
    a.cost_nusd = out->done.cost_nusd;
    hand_over(call, &a);
    call->sink_done = true;
    return TD_OK;
}

static enum td_err emit_one(struct td_call *call, const struct td_x_out *out) {
    struct td_answer a;
    switch (out->type) {
    case TD_X_OUT_BEGIN:
        call->first_attempt = call->last_origin = out->attempt;
        fill(call, &a, TD_ANSWER_BEGIN);
        hand_over(call, &a);
        return TD_OK;
    case TD_X_OUT_EVENT:
        return on_event(call, &out->event);
    case TD_X_OUT_ORIGIN:
        call->last_origin = out->attempt;
        return TD_OK;
    case TD_X_OUT_REVISION:
        call->last_origin = out->attempt;
        call->public_state->revision = out->revision;
        if (out->op == TD_X_OP_REPLACE)
            forget_tools(call->public_state);
        return out->op == TD_X_OP_REPLACE ? on_text(call, TD_STR(""), TD_ANSWER_REVISION) : TD_OK;
    case TD_X_OUT_FINISH:
        if (out->finish.choice == 0)
            call->public_state->finish = out->finish.reason;
        return TD_OK;
    case TD_X_OUT_DONE:
        return on_done(call, out);
    case TD_X_OUT_ERROR:
        fail(call, out->error.code, out->error.message);
        return TD_OK;
    }
    return TD_OK;
}

static void emit(struct td_call *call, const struct td_x_out *list, uint32_t count) {
    for (uint32_t i = 0; i < count && !call->sink_done; i++) {
        enum td_err err = emit_one(call, &list[i]);
        if (err != TD_OK) {
            fail(call, err, td_str_of(td_err_text(err)));
            td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_CLIENT_GONE});
        }
    }
}

const struct td_presenter td_presenter_public = {.emit = emit, .refuse = refuse};

// On the worker's thread.
static void start(void *arg) {
    struct td_call *call = arg;
    struct td_error e = {0};
    td_call_enlist(call);
    call->request.kind = TD_KIND_CHAT;
    call->request.dialect = TD_DIALECT_OPENAI;
    struct td_public *p = call->public_state;
    enum td_err err = td_dialect_ops(TD_DIALECT_OPENAI)
                          ->read_request(&call->arena, TD_KIND_CHAT, td_str_n(p->body, p->body_n), &call->request, &e);
    td_free(p->body);
    p->body = NULL;
    if (err == TD_OK && atomic_load(&p->cancelled)) {
        err = TD_ERR_CANCELLED;
        td_error_set(&e, err, "%s", td_err_text(err));
    }
    if (err != TD_OK)
        td_call_refuse(call, err, &e, 0);
    else
        td_call_run(call, td_str_of(p->key), p->key == NULL, true);
    td_call_unref(call); // the post's own
}

int td_chat(struct td_runtime *runtime, const char *body, size_t length, const char *key, td_answer_fn on_answer,
            void *user, struct td_call **out, struct td_failure *failure) {
    unsigned at = atomic_fetch_add(&runtime->next_worker, 1);
    if (runtime->worker_count == 0)
        return td_failure_set(failure, TD_ERR_USAGE, "this runtime was opened for operators only");
    if (length > TD_BODY_BYTES_MAX)
        return td_failure_set(failure, TD_ERR_LIMIT, "the request is larger than %u bytes", TD_BODY_BYTES_MAX);
    struct td_call *call = td_call_create(&runtime->workers[at % runtime->worker_count]);
    if (!call)
        return td_failure_set(failure, TD_ERR_NOMEM, "out of memory");
    struct td_public *p = td_arena_alloc(&call->arena, sizeof *p);
    call->presenter = &td_presenter_public;
    call->on_answer = on_answer;
    call->answer_user = user;
    call->public_state = p;
    bool ready = p && td_arena_on_finish(&call->arena, free_public, p) == TD_OK;
    if (ready) {
        td_buf_init(&p->text, TD_REPLY_BYTES_MAX);
        p->body = td_strndup(body, length);
        p->body_n = length;
        p->key = key ? td_arena_str(&call->arena, td_str_of(key)).p : NULL;
        atomic_fetch_add(&call->refs, 1);
        ready = p->body && (!key || p->key) && td_loop_post(call->worker->loop, start, call) == TD_OK;
        if (!ready)
            atomic_fetch_sub(&call->refs, 1);
    }
    if (!ready) {
        td_call_unref(call);
        td_call_unref(call);
        return td_failure_set(failure, TD_ERR_NOMEM, "out of memory");
    }
    *out = call;
    return 0;
}

static void cancel(void *arg) {
    struct td_call *call = arg;
    bool was_done = call->sink_done || call->ended;
    td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_CLIENT_GONE});
    if (!was_done && call->public_state && call->on_answer)
        fail(call, TD_ERR_CANCELLED, td_str_of(td_err_text(TD_ERR_CANCELLED)));
    td_call_unref(call);
}

void td_call_cancel(struct td_call *call) {
    if (!call || !call->public_state)
        return;
    if (atomic_exchange(&call->public_state->cancelled, true))
        return; // it is on its way
    atomic_fetch_add(&call->refs, 1);
    td_loop_post_own(call->worker->loop, &call->public_state->cancel_post, cancel, call);
}

static void release(void *arg) {
    struct td_call *call = arg;
    call->released = true;
    atomic_store(&call->gone, true);
    if (!call->ended) {
        call->sink_done = true;
        td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_CLIENT_GONE});
    }
    td_batch_gone(call);
    td_call_unref(call);
}

void td_call_release(struct td_call *call) {
    if (!call)
        return;
    if (call->public_state) { // from whatever thread: the call's own worker lets go of it
        td_loop_post_own(call->worker->loop, &call->public_state->release_post, release, call);
        return;
    }
    release(call);
}
