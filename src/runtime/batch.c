// SPDX-License-Identifier: Apache-2.0
#include "runtime/batch.h"

#include <math.h>
#include <string.h>

#include "base/time.h"
#include "runtime/http.h"

#define RUNNING_MAX 4u // parts at work at a time: what a local model answers side by side by default

struct part {
    struct td_str prompt;
    struct td_call *call; // NULL: not begun
    bool over;            // its answer is whole
};

struct td_batch {
    struct td_call *first; // with a reference until the batch is over
    struct part *parts;
    uint32_t count, begun, whole;
    td_json *root; // the client's body, in the first part's arena
    struct td_wishes wishes;
    struct td_answer_meta meta; // sums of the parts that are over
    struct td_usage usage;
    struct td_answer_attempt *attempts;
    struct td_str *exchanges;
};

static const struct td_presenter presenter_batch; // below

// The body of one part: the client's, with its own prompt alone.
static enum td_err write_part(const struct td_batch *b, uint32_t part, struct td_buf *out) {
    td_json *key, *value;
    size_t i, max;
    enum td_err err = td_buf_addc(out, '{');
    yyjson_obj_foreach(b->root, i, max, key, value) {
        bool prompt = td_str_is(td_json_str(key), "prompt");
        if (err == TD_OK && i)
            err = td_buf_addc(out, ',');
        err = err ? err : td_buf_add_json(out, td_json_str(key));
        err = err ? err : td_buf_addc(out, ':');
        if (err == TD_OK)
            err = prompt ? td_buf_add_json(out, b->parts[part].prompt) : td_json_write(value, out);
    }
    return err ? err : td_buf_addc(out, '}');
}

// So that nothing of it is looked at, kept or sent with another part's text.
static enum td_err read_part(const struct td_batch *b, uint32_t part, struct td_call *call, struct td_error *e) {
    struct td_buf body;
    td_buf_init(&body, TD_BODY_BYTES_MAX + TD_HEADER_BYTES_MAX);
    enum td_err err = write_part(b, part, &body);
    struct td_str kept = err == TD_OK ? td_arena_str(&call->arena, td_buf_str(&body)) : TD_STR_NONE;
    td_buf_finish(&body);
    if (err == TD_OK && !kept.p)
        err = TD_ERR_NOMEM;
    return err ? err
               : td_dialect_ops(TD_DIALECT_OPENAI)
                     ->read_request(&call->arena, TD_KIND_COMPLETION, kept, &call->request, e);
}

enum td_err td_batch_open(struct td_call *call, struct td_str body, struct td_error *e) {
    const struct td_request *r = &call->request;
    uint32_t count = r->prompt_count;
    struct td_batch *b = td_arena_alloc(&call->arena, sizeof *b);
    struct part *parts = td_arena_array(&call->arena, count, sizeof *parts);
    struct td_answer_attempt *attempts =
        td_arena_array(&call->arena, (size_t)count * TD_ATTEMPTS_MAX, sizeof *attempts);
    struct td_str *exchanges = td_arena_array(&call->arena, count, sizeof *exchanges);
    uint64_t besides = body.n;
    if (!b || !parts || !attempts || !exchanges)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading the request");
    *b = (struct td_batch){
        .parts = parts, .count = count, .root = r->root, .attempts = attempts, .exchanges = exchanges};
    for (uint32_t i = 0; i < count; i++) {
        parts[i] = (struct part){.prompt = r->prompts[i]};
        besides -= parts[i].prompt.n < besides ? parts[i].prompt.n : besides;
    }
    if (besides * count > TD_BODY_BYTES_MAX) // each part is read for itself
        return td_error_set(e, TD_ERR_LIMIT, "what stands beside the prompts is too long for %u of them", count);
    enum td_err err = read_part(b, 0, call, e);
    if (err != TD_OK)
        return err;
    b->meta = (struct td_answer_meta){.confidence = NAN, .attempts = attempts, .exchanges = exchanges};
    b->first = call;
    b->begun = 1;
    parts[0].call = call;
    call->batch = b;
    call->presenter = &presenter_batch;
    atomic_fetch_add(&call->refs, 1);
    return TD_OK;
}

// Nobody speaks to the client any more. The batch lies in the first part's arena.
static void close(struct td_batch *b) {
    struct td_call *first = b->first;
    for (uint32_t i = 0; i < b->begun; i++)
        b->parts[i].call->batch = NULL;
    for (uint32_t i = 1; i < b->begun; i++)
        td_call_unref(b->parts[i].call);
    td_call_unref(first);
}

static void stop_all(struct td_batch *b) {
    for (uint32_t i = 0; i < b->begun; i++) {
        b->parts[i].call->released |= i > 0; // what was not judged yet will not be
        td_call_feed(b->parts[i].call, &(struct td_x_input){.type = TD_X_IN_CLIENT_GONE});
    }
}

// Adds what a part's exchange tells. Its memory goes before the answer does; names of the configuration stay.
static void add_meta(struct td_batch *b, struct td_call *call, const struct td_x_out *done) {
    struct td_answer_attempt *own = b->attempts + b->meta.attempt_count;
    struct td_answer_meta m, *sum = &b->meta;
    b->exchanges[call->part] = td_arena_str(&b->first->arena, td_str_of(call->exchange_id));
    if (!call->x)
        return;
    td_call_meta(call, done, &m, own);
    for (uint32_t i = 0; i < m.attempt_count; i++) {
        own[i].part = call->part;
        own[i].origin.model = td_arena_str(&b->first->arena, own[i].origin.model);
    }
    sum->attempt_count += m.attempt_count;
    if (call->part == 0) {
        sum->origin = m.origin;
        sum->origin.model = td_arena_str(&b->first->arena, m.origin.model);
        sum->reason = m.reason;
        sum->mode = m.mode;
    }
    sum->degraded |= m.degraded;
    sum->queued |= m.queued;
    sum->damaged |= m.damaged;
    sum->cost_nusd += m.cost_nusd;
    td_x_usage_add(&sum->usage_total, &m.usage_total);
    if (m.usage)
        td_x_usage_add(&b->usage, m.usage);
}

// The first failure is the answer; it says which prompt it is of.
static void fail(struct td_batch *b, const struct td_call *call, const struct td_x_out *out) {
    struct td_call *first = b->first;
    struct td_x_out told = *out;
    stop_all(b);
    for (uint32_t i = 0; i < b->begun; i++)
        if (!b->parts[i].over)
            add_meta(b, b->parts[i].call, NULL);
    b->meta.exchange = td_str_of(first->exchange_id);
    b->meta.exchange_count = b->begun;
    struct td_str message =
        td_arena_printf(&first->arena, "prompt[%u]: %.*s", call->part, TD_STR_ARG(out->error.message));
    if (message.p && told.error.code != TD_ERR_MODEL_NOT_FOUND) // that is no prompt's fault
        told.error.message = message;
    td_http_fail(first, &told, &b->meta);
    close(b);
}

static void fail_with(struct td_batch *b, const struct td_call *call, enum td_err err, struct td_str message,
                      uint32_t retry_after_ms) {
    struct td_x_out out = {.type = TD_X_OUT_ERROR};
    out.error.code = err;
    out.error.message = message.n ? message : td_str_of(td_err_text(err));
    out.error.retry_after_ms = td_openai_retry_after_s(err, retry_after_ms) * 1000;
    fail(b, call, &out);
}

static uint64_t elapsed_ms(const struct td_call *first) {
    return (td_now_ns() - first->arrival_ns) / TD_MS_NS;
}

// A part is bound by what the request was let in with: its configuration, its caller, what is left of its deadline.
static enum td_err begin_part(struct td_batch *b, struct td_call *call, struct td_error *e) {
    struct td_call *first = b->first;
    td_config_unref(call->config);
    call->config = td_config_ref(first->config);
    call->epoch = first->epoch;
    call->presenter = &presenter_batch;
    enum td_err err = read_part(b, call->part, call, e);
    if (err != TD_OK)
        return err;
    call->stream = first->stream;
    call->request.wishes = b->wishes;
    if (first->repeat.name[0])
        td_repeat_part(call->worker->runtime->repeats, &first->repeat, call->part, &call->repeat);
    if (b->wishes.deadline_ms) {
        uint64_t gone_ms = elapsed_ms(first);
        if (gone_ms >= b->wishes.deadline_ms)
            return TD_ERR_DEADLINE;
        call->request.wishes.deadline_ms -= gone_ms;
    }
    return TD_OK;
}

static void start_more(struct td_batch *b) {
    while (b->begun < b->count && b->begun - b->whole < RUNNING_MAX) {
        struct td_call *call = td_call_create(b->first->worker);
        struct td_error e = {0};
        if (!call) {
            fail_with(b, b->first, TD_ERR_NOMEM, TD_STR_NONE, 0);
            return;
        }
        call->part = b->begun;
        call->batch = b;
        b->parts[b->begun++].call = call;
        td_call_enlist(call);
        enum td_err err = begin_part(b, call, &e);
        if (err != TD_OK) {
            td_call_refuse(call, err, &e, 0); // ends the batch
            return;
        }
        td_call_run_beside(call, b->first);
    }
}

// The money is for all prompts together; revisions are of one answer alone. The first part is judged after this.
void td_batch_start(struct td_call *call) {
    struct td_batch *b = call->batch;
    struct td_wishes *w = &call->request.wishes;
    if (!b)
        return;
    if (w->max_cost_nusd > 0)
        w->max_cost_nusd /= b->count;
    w->revisions = false;
    b->wishes = *w;
    start_more(b);
}

void td_batch_feed(struct td_call *call, enum td_x_input_type type) {
    struct td_batch *b = call->batch;
    for (uint32_t i = 1; b && i < b->begun; i++)
        td_call_feed(b->parts[i].call, &(struct td_x_input){.type = type});
}

void td_batch_gone(struct td_call *call) {
    struct td_batch *b = call->batch;
    if (!b)
        return;
    stop_all(b);
    close(b);
}

static enum td_err on_done(struct td_batch *b, struct td_call *call, const struct td_x_out *out) {
    b->parts[call->part].over = true;
    add_meta(b, call, out);
    if (++b->whole < b->count) {
        start_more(b);
        return TD_OK;
    }
    b->meta.exchange = td_str_of(b->first->exchange_id);
    b->meta.exchange_count = b->count;
    b->meta.usage = &b->usage;
    enum td_err err = td_http_done(b->first, &b->meta);
    if (err == TD_OK)
        close(b);
    return err;
}

static enum td_err emit_one(struct td_batch *b, struct td_call *call, const struct td_x_out *out) {
    struct td_call *first = b->first;
    const struct td_dialect_ops *d = td_dialect_ops(first->request.dialect);
    struct td_event finish = {.type = TD_EV_FINISH};
    switch (out->type) {
    case TD_X_OUT_BEGIN:
        td_http_begin(first, call, out->attempt);
        if (atomic_load(&first->client_stopped))
            td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_CLIENT_STOP});
        return td_http_writer(first, call, b->count);
    case TD_X_OUT_EVENT:
        d->answer_part(first->writer, call->part);
        return d->answer_event(first->writer, &out->event, &first->out);
    case TD_X_OUT_ORIGIN:
        call->last_origin = out->attempt;
        return TD_OK;
    case TD_X_OUT_FINISH:
        finish.choice = out->finish.choice;
        finish.finish.reason = out->finish.reason;
        d->answer_part(first->writer, call->part);
        return d->answer_event(first->writer, &finish, &first->out);
    case TD_X_OUT_DONE:
        return on_done(b, call, out);
    case TD_X_OUT_ERROR:
        fail(b, call, out);
        return TD_OK;
    case TD_X_OUT_REVISION: // asked for by nobody
        break;
    }
    return TD_ERR_INTERNAL;
}

static void emit(struct td_call *call, const struct td_x_out *list, uint32_t count) {
    struct td_call *first = call->batch ? call->batch->first : NULL;
    if (!first)
        return;
    atomic_fetch_add(&first->refs, 1); // the batch may end here
    for (uint32_t i = 0; i < count && call->batch; i++) {
        enum td_err err = emit_one(call->batch, call, &list[i]);
        if (err != TD_OK && call->batch)
            fail_with(call->batch, call, err, TD_STR_NONE, 0);
    }
    if (call->batch && call->stream)
        td_http_send_data(first);
    td_call_unref(first);
}

// The door was shut to the whole request, or to one of its prompts.
static void refuse(struct td_call *call, enum td_err err, const struct td_error *e, uint32_t retry_after_ms) {
    struct td_batch *b = call->batch;
    if (!b)
        return;
    if (b->begun == 1) {
        struct td_call *first = b->first;
        td_http_refuse(first, err, e, retry_after_ms);
        close(b);
        return;
    }
    fail_with(b, call, err,
              call->why_nobody.n ? call->why_nobody
              : e                ? td_str_of(e->message)
                                 : TD_STR_NONE,
              retry_after_ms);
}

static const struct td_presenter presenter_batch = {.emit = emit, .refuse = refuse};
