// SPDX-License-Identifier: Apache-2.0
// Frames of the model host become events of their attempt.
#include "local/attempt.h"

#include <math.h>

#include "base/time.h"

#define CREDIT_STEP 32u // credits go back in such parcels

bool td_local_emit(struct td_attempt *a, const struct td_event *event) {
    bool gone = false;
    a->gone = &gone;
    a->copy.on_event(a->copy.user, event);
    if (gone)
        return false;
    a->gone = NULL;
    return true;
}

struct records {
    const struct td_token *tokens;
    uint32_t count;
};

// Reads token records; texts stay where they are in the frame.
static bool read_tokens(struct td_attempt *a, struct td_proto_reader *r, struct records *out) {
    struct td_local *local = a->local;
    uint32_t count = td_proto_get_u32(r);
    size_t used = count;
    *out = (struct records){NULL, 0};
    if (count == 0)
        return !r->bad;
    if (count > TD_PROTO_TOKENS_MAX)
        return false;
    struct td_proto_reader again = *r;
    for (uint32_t i = 0; i < count && !again.bad; i++) { // how many alternatives?
        td_proto_get_u64(&again);
        td_proto_get_str(&again);
        uint32_t top = td_proto_get_u32(&again);
        if (top > TD_LOGPROBS_MAX)
            return false;
        for (uint32_t j = 0; j < top; j++) {
            td_proto_get_f32(&again);
            td_proto_get_str(&again);
        }
        used += top;
    }
    if (again.bad)
        return false;
    if (used > local->token_cap) {
        struct td_token *more = td_realloc(local->tokens, used * sizeof *more);
        if (!more)
            return false;
        local->tokens = more;
        local->token_cap = used;
    }
    struct td_token *top = local->tokens + count;
    for (uint32_t i = 0; i < count; i++) {
        struct td_token *t = &local->tokens[i];
        *t = (struct td_token){.logprob = td_proto_get_f32(r), .entropy = td_proto_get_f32(r)};
        t->text = td_proto_get_str(r);
        t->top_count = td_proto_get_u32(r);
        t->top = top;
        for (uint32_t j = 0; j < t->top_count; j++, top++) {
            *top = (struct td_token){.logprob = td_proto_get_f32(r), .entropy = NAN};
            top->text = td_proto_get_str(r);
        }
        a->logprob_sum += t->logprob;
        a->entropy_sum += t->entropy;
        a->stats.min_logprob =
            a->token_count == 0 || t->logprob < a->stats.min_logprob ? t->logprob : a->stats.min_logprob;
        a->token_count++;
    }
    *out = (struct records){local->tokens, count};
    return true;
}

static void spend(struct td_attempt *a) {
    if (++a->owed < CREDIT_STEP)
        return;
    td_link_send(a->link, TD_FRAME_CREDIT, a->id, &a->owed);
    a->owed = 0;
}

static void note_first(struct td_attempt *a) {
    if (!a->stats.first_ns)
        a->stats.first_ns = td_now_ns();
}

// False: the frame makes no sense. *alive false: the attempt has gone.
static bool on_text(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_proto_reader r;
    struct records tokens;
    td_proto_read(&r, f->body);
    struct td_event event = {.type = f->type == TD_FRAME_TEXT ? TD_EV_DELTA : TD_EV_REASONING};
    event.choice = td_proto_get_u32(&r);
    event.delta.text = td_proto_get_str(&r);
    if (!read_tokens(a, &r, &tokens) || !td_proto_ok(&r) || event.choice >= TD_CHOICES_MAX ||
        !td_str_is_utf8(event.delta.text))
        return false;
    if (a->copy.want_tokens) {
        event.delta.tokens = tokens.tokens;
        event.delta.token_count = tokens.count;
    }
    note_first(a);
    spend(a);
    *alive = td_local_emit(a, &event);
    return true;
}

static bool on_tool(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_proto_reader r;
    struct records tokens;
    struct td_event event = {.type = TD_EV_TOOL_CALL};
    td_proto_read(&r, f->body);
    event.choice = td_proto_get_u32(&r);
    event.tool.index = td_proto_get_u32(&r);
    event.tool.id = td_proto_get_str(&r);
    event.tool.name = td_proto_get_str(&r);
    event.tool.arguments = td_proto_get_str(&r);
    if (!read_tokens(a, &r, &tokens) || !td_proto_ok(&r) || event.choice >= TD_CHOICES_MAX ||
        !td_str_is_utf8(event.tool.id) || !td_str_is_utf8(event.tool.name) || !td_str_is_utf8(event.tool.arguments))
        return false;
    if (a->copy.want_tokens) {
        event.tool.tokens = tokens.tokens;
        event.tool.token_count = tokens.count;
    }
    note_first(a);
    spend(a);
    *alive = td_local_emit(a, &event);
    return true;
}

static bool on_embedding(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_proto_reader r;
    struct td_event event = {.type = TD_EV_EMBEDDING};
    td_proto_read(&r, f->body);
    event.embedding.index = td_proto_get_u32(&r);
    event.embedding.count = td_proto_get_u32(&r);
    if (event.embedding.count > 65536 || (size_t)(r.end - r.p) != 4ull * event.embedding.count)
        return false;
    float *values = td_malloc(event.embedding.count * sizeof *values);
    if (!values)
        return false;
    for (uint32_t i = 0; i < event.embedding.count; i++)
        values[i] = td_proto_get_f32(&r);
    event.embedding.values = values;
    note_first(a);
    spend(a);
    *alive = td_local_emit(a, &event);
    td_free(values);
    return true;
}

static bool on_usage(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_proto_reader r;
    struct td_event event = {.type = TD_EV_USAGE};
    td_proto_read(&r, f->body);
    event.usage.prompt_tokens = td_proto_get_u32(&r);
    event.usage.completion_tokens = td_proto_get_u32(&r);
    event.usage.cached_tokens = td_proto_get_u32(&r);
    event.usage.reasoning_tokens = td_proto_get_u32(&r);
    a->prompt_tokens = event.usage.prompt_tokens;
    *alive = td_proto_ok(&r) && td_local_emit(a, &event);
    return td_proto_ok(&r);
}

static bool on_finish(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_proto_reader r;
    struct records tokens;
    struct td_event event = {.type = TD_EV_FINISH};
    td_proto_read(&r, f->body);
    event.choice = td_proto_get_u32(&r);
    uint32_t reason = td_proto_get_u32(&r);
    if (!read_tokens(a, &r, &tokens) || !td_proto_ok(&r) || reason > TD_FINISH_TOOL_CALLS ||
        event.choice >= TD_CHOICES_MAX)
        return false;
    event.finish.reason = (enum td_finish)reason;
    *alive = td_local_emit(a, &event);
    return true;
}

bool td_local_take(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_event event;
    struct td_str message;
    enum td_err code;
    *alive = true;
    switch (f->type) {
    case TD_FRAME_START: {
        struct td_proto_reader r;
        td_proto_read(&r, f->body);
        event = (struct td_event){.type = TD_EV_START, .start = {.model = td_proto_get_str(&r)}};
        uint32_t how = td_proto_get_u32(&r);
        if (!td_proto_ok(&r) || !td_str_is_utf8(event.start.model))
            return false;
        if (how & (TD_PROTO_START_KNOWN | TD_PROTO_START_MADE))
            td_counter_add(how & TD_PROTO_START_KNOWN ? a->local->known : a->local->made, 1);
        *alive = td_local_emit(a, &event);
        return true;
    }
    case TD_FRAME_TEXT:
    case TD_FRAME_REASONING:
        return on_text(a, f, alive);
    case TD_FRAME_TOOL:
        return on_tool(a, f, alive);
    case TD_FRAME_EMBEDDING:
        return on_embedding(a, f, alive);
    case TD_FRAME_USAGE:
        return on_usage(a, f, alive);
    case TD_FRAME_FINISH:
        return on_finish(a, f, alive);
    case TD_FRAME_END:
        td_local_end(a, true);
        event = (struct td_event){.type = TD_EV_END};
        *alive = td_local_emit(a, &event);
        return true;
    case TD_FRAME_ERROR:
        if (!td_proto_get_error(f->body, &code, &message) || !td_str_is_utf8(message))
            return false;
        *alive = td_local_fail(a, code, message, true);
        return true;
    default:
        return false;
    }
}
