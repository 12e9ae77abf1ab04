// SPDX-License-Identifier: Apache-2.0
// The presenter that turns the exchange's client events into bytes of the dialect. Which path is answered how is in
// routes.c.
#include "runtime/http.h"

#include <stdio.h>
#include <string.h>

#include "base/time.h"
#include "runtime/batch.h"

#define USUAL_ANSWER_BYTES 2048u  // a short answer and what stands around it
#define PART_BYTES_MIN (4u << 20) // ceiling of each text, however many share the answer

void td_http_head_add(struct td_http_heads *h, const char *name, struct td_str value) {
    if (value.n && h->n < sizeof h->list / sizeof h->list[0])
        h->list[h->n++] = (struct td_http_header){name, strlen(name), value.p, value.n};
}

void td_http_send_head(struct td_call *call, int status, struct td_http_heads *h, bool stream, size_t length) {
    if (call->head_sent || call->sink_done)
        return;
    call->head_sent = true;
    td_http_head_add(h, "content-type",
                     stream ? TD_STR("text/event-stream; charset=utf-8") : TD_STR("application/json"));
    td_http_head_add(h, "cache-control", TD_STR("no-store"));
    td_http_head_add(h, "x-tandem-exchange", td_str_of(call->exchange_id));
    td_http_head_add(h, "x-request-id", td_str_of(call->exchange_id)); // where OpenAI's clients look for it
    if (!call->released)
        call->sink->on_head(call->sink_user, status, h->list, h->n, stream, length);
}

void td_http_send_data(struct td_call *call) {
    if (call->out.n && !call->released && !call->sink_done) {
        call->sink->on_data(call->sink_user, call->out.p, call->out.n);
        if (call->alive)
            call->last_data_ns = call->fed_ns;
    }
    if (call->stream) // its next piece is written where another's was just now, which the cache still holds
        td_buf_finish(&call->out);
    else
        td_buf_clear(&call->out);
}

// Looks only now and then: a stream that speaks does not move the timer with every token.
static void on_alive(void *arg) {
    struct td_call *call = arg;
    uint64_t now = td_now_ns(), silence_ms = (now - call->last_data_ns) / TD_MS_NS, most = call->config->keepalive_ms;
    if (call->released || call->sink_done)
        return;
    if (silence_ms >= most && !call->client_stopped) {
        static const char comment[] = ": keep-alive\n\n";
        call->sink->on_data(call->sink_user, comment, sizeof comment - 1);
        call->last_data_ns = now;
        silence_ms = 0;
    }
    td_timer_arm(call->alive, silence_ms < most ? most - silence_ms : most);
}

// Without memory for it the stream goes without keep-alives.
void td_http_keep_alive(struct td_call *call) {
    if (!call->config->keepalive_ms || call->alive)
        return;
    call->alive = td_timer_create(call->worker->loop, on_alive, call);
    call->last_data_ns = td_now_ns();
    if (call->alive)
        td_timer_arm(call->alive, call->config->keepalive_ms);
}

void td_http_send_end(struct td_call *call, bool clean) {
    if (call->alive)
        td_timer_disarm(call->alive);
    if (call->sink_done)
        return;
    call->sink_done = true;
    if (!call->released)
        call->sink->on_end(call->sink_user, clean);
}

// An answer that is an error and nothing else.
void td_http_send_error(struct td_call *call, struct td_http_heads *h, enum td_err err, int status,
                        struct td_str message, struct td_str param, const struct td_answer_meta *meta) {
    static const char no_memory[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\","
                                    "\"param\":null,\"code\":\"tandem.internal.memory\"}}\n";
    td_buf_clear(&call->out);
    bool written =
        td_dialect_ops(call->request.dialect)->write_error(err, status, message, param, NULL, meta, &call->out) ==
        TD_OK;
    if (!written)
        td_buf_clear(&call->out);
    td_http_send_head(call, written ? status : 500, h, false, written ? call->out.n : sizeof no_memory - 1);
    if (!written && !call->released && !call->sink_done)
        call->sink->on_data(call->sink_user, no_memory, sizeof no_memory - 1);
    td_http_send_data(call);
    td_http_send_end(call, true);
}

void td_http_refuse(struct td_call *call, enum td_err err, const struct td_error *e, uint32_t retry_after_ms) {
    struct td_http_heads h = {.n = 0};
    char seconds[16];
    struct td_str message = call->why_nobody.n   ? call->why_nobody
                            : e && e->message[0] ? td_str_of(e->message)
                                                 : td_str_of(td_err_text(err));
    uint32_t wait_s = err == TD_ERR_RATE || err == TD_ERR_OVERLOAD || err == TD_ERR_BUDGET || retry_after_ms
                          ? (retry_after_ms + 999) / 1000
                          : 0;
    if (wait_s == 0 && (err == TD_ERR_RATE || err == TD_ERR_OVERLOAD))
        wait_s = 1;
    if (wait_s) {
        snprintf(seconds, sizeof seconds, "%u", wait_s);
        td_http_head_add(&h, "retry-after", td_str_of(seconds));
    }
    if (err == TD_ERR_UNAUTHORIZED)
        td_http_head_add(&h, "www-authenticate", TD_STR("Bearer"));
    td_http_send_error(call, &h, err, td_dialect_ops(call->request.dialect)->status(err), message,
                       e ? td_str_of(e->param) : TD_STR_NONE, NULL);
}

void td_http_begin(struct td_call *call, struct td_call *speaker, uint32_t attempt) {
    struct td_origin origin = td_call_origin(speaker, attempt);
    struct td_http_heads h = {.n = 0};
    speaker->first_attempt = speaker->last_origin = attempt;
    if (!call->stream || call->head_sent)
        return; // the head of a whole answer waits for its length
    td_http_head_add(&h, "x-tandem-target", origin.target);
    td_http_head_add(&h, "x-tandem-tier", origin.tier);
    td_http_head_add(&h, "x-tandem-reason", td_str_of(td_reason_word(td_exchange_record(speaker->x, attempt)->reason)));
    td_http_send_head(call, 200, &h, true, SIZE_MAX);
    td_http_keep_alive(call);
}

enum td_err td_http_writer(struct td_call *call, const struct td_call *speaker, uint32_t parts) {
    struct td_answer_spec spec;
    if (call->writer)
        return TD_OK;
    td_answer_spec_of(&call->request, &spec);
    spec.exchange = td_str_of(call->exchange_id);
    spec.created_s = call->arrival_wall_ms / 1000;
    spec.model = td_call_origin(speaker, speaker->first_attempt).model;
    spec.parts = parts;
    if (parts > 1 && (spec.bytes_max = TD_REPLY_BYTES_MAX / parts) < PART_BYTES_MIN)
        spec.bytes_max = PART_BYTES_MIN;
    return td_dialect_ops(call->request.dialect)->answer_create(&spec, &call->writer);
}

enum td_err td_http_done(struct td_call *call, const struct td_answer_meta *meta) {
    if (!call->stream)
        td_buf_expect(&call->out, USUAL_ANSWER_BYTES); // at once instead of in steps
    enum td_err err = td_dialect_ops(call->request.dialect)->answer_end(call->writer, meta, &call->out);
    if (err != TD_OK)
        return err;
    if (!call->stream) {
        struct td_http_heads h = {.n = 0};
        td_http_head_add(&h, "x-tandem-target", meta->origin.target);
        td_http_head_add(&h, "x-tandem-tier", meta->origin.tier);
        td_http_head_add(&h, "x-tandem-reason", meta->reason);
        td_http_send_head(call, 200, &h, false, call->out.n);
    }
    td_http_send_data(call);
    td_http_send_end(call, true);
    return TD_OK;
}

static enum td_err on_done(struct td_call *call, const struct td_x_out *out) {
    struct td_answer_attempt attempts[TD_ATTEMPTS_MAX];
    struct td_answer_meta meta;
    td_call_meta(call, out, &meta, attempts);
    return td_http_done(call, &meta);
}

void td_http_fail(struct td_call *call, const struct td_x_out *out, struct td_answer_meta *meta) {
    const struct td_dialect_ops *d = td_dialect_ops(call->request.dialect);
    if (!call->head_sent) {
        struct td_http_heads h = {.n = 0};
        char seconds[16];
        if (out->error.retry_after_ms) {
            snprintf(seconds, sizeof seconds, "%u", (out->error.retry_after_ms + 999) / 1000);
            td_http_head_add(&h, "retry-after", td_str_of(seconds));
        }
        int status = out->error.http_status ? out->error.http_status : d->status(out->error.code);
        meta->origin = (struct td_origin){TD_STR_NONE, TD_STR_NONE, TD_STR_NONE}; // it is nobody's answer
        meta->reason = TD_STR_NONE;
        td_http_send_error(call, &h, out->error.code, status, out->error.message, TD_STR_NONE, meta);
        return;
    }
    td_buf_clear(&call->out);
    bool told =
        call->writer && d->answer_fail(call->writer, out->error.code, out->error.message, meta, &call->out) == TD_OK;
    td_http_send_data(call);
    td_http_send_end(call, told);
}

static void on_error(struct td_call *call, const struct td_x_out *out) {
    struct td_answer_attempt attempts[TD_ATTEMPTS_MAX];
    struct td_answer_meta meta;
    td_call_meta(call, out, &meta, attempts);
    td_http_fail(call, out, &meta);
}

static enum td_err emit_one(struct td_call *call, const struct td_x_out *out) {
    const struct td_dialect_ops *d = td_dialect_ops(call->request.dialect);
    static const enum td_revision_op ops[] = {TD_REVISION_APPEND, TD_REVISION_REPLACE, TD_REVISION_CONFIRM};
    struct td_event finish = {.type = TD_EV_FINISH};
    struct td_origin origin;
    enum td_err err = TD_OK;
    switch (out->type) {
    case TD_X_OUT_BEGIN:
        td_http_begin(call, call, out->attempt);
        err = td_http_writer(call, call, 1);
        if (err == TD_OK && call->stream && call->plan->mode == TD_MODE_PROGRESSIVE && call->request.wishes.revisions) {
            origin = td_call_origin(call, out->attempt);
            err = d->answer_revision(call->writer, TD_REVISION_DRAFT, &origin, false, &call->out);
        }
        break;
    case TD_X_OUT_EVENT:
        err = d->answer_event(call->writer, &out->event, &call->out);
        break;
    case TD_X_OUT_ORIGIN:
        call->last_origin = out->attempt;
        break;
    case TD_X_OUT_REVISION:
        call->last_origin = out->attempt;
        origin = td_call_origin(call, out->attempt);
        if (call->stream)
            err = d->answer_revision(call->writer, ops[out->op], &origin, out->op == TD_X_OP_CONFIRM, &call->out);
        else if (out->op == TD_X_OP_REPLACE)
            d->answer_reset(call->writer);
        break;
    case TD_X_OUT_FINISH:
        finish.choice = out->finish.choice;
        finish.finish.reason = out->finish.reason;
        err = d->answer_event(call->writer, &finish, &call->out);
        break;
    case TD_X_OUT_DONE:
        err = on_done(call, out);
        break;
    case TD_X_OUT_ERROR:
        on_error(call, out);
        break;
    }
    return err;
}

static void emit(struct td_call *call, const struct td_x_out *list, uint32_t count) {
    if (call->released || call->sink_done)
        return;
    for (uint32_t i = 0; i < count && !call->sink_done; i++) {
        enum td_err err = emit_one(call, &list[i]);
        if (err != TD_OK) {
            // The answer cannot be written (too large, no memory): told as an error where that is still possible.
            struct td_x_out failure = {.type = TD_X_OUT_ERROR};
            failure.error.code = err;
            failure.error.message = td_str_of(td_err_text(err));
            on_error(call, &failure);
            td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_CLIENT_GONE});
            return;
        }
    }
    if (call->stream)
        td_http_send_data(call);
}

const struct td_presenter td_presenter_http = {.emit = emit, .refuse = td_http_refuse};

void td_http_stop(struct td_call *call) {
    if (!call)
        return;
    call->client_stopped = true;
    td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_CLIENT_STOP});
    td_batch_feed(call, TD_X_IN_CLIENT_STOP);
}

void td_http_proceed(struct td_call *call) {
    if (!call)
        return;
    call->client_stopped = false;
    td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_CLIENT_PROCEED});
    td_batch_feed(call, TD_X_IN_CLIENT_PROCEED);
}
