// SPDX-License-Identifier: Apache-2.0
// A whole answer: events are kept until the end, then written as one body.
#include "wire/openai_writer.h"

#include "base/limits.h"

static enum td_err keep_unknown(struct td_answer_writer *w, struct td_ow_extras *x, td_json *obj,
                                bool (*known)(struct td_str)) {
    size_t i, max;
    td_json *key, *v;
    if (!yyjson_is_obj(obj))
        return TD_OK;
    struct td_emit m;
    td_emit_init(&m, &x->json);
    yyjson_obj_foreach(obj, i, max, key, v) {
        struct td_str k = td_json_str(key);
        bool have = known(k) || yyjson_is_null(v) || x->count == EXTRAS_MAX;
        for (uint32_t j = 0; !have && j < x->count; j++)
            have = td_str_eq(x->keys[j], k);
        if (have)
            continue;
        if (!x->keys && !(x->keys = td_arena_array(&w->arena, EXTRAS_MAX, sizeof *x->keys))) {
            m.err = TD_ERR_NOMEM;
            break;
        }
        td_emit_member(&m, key, v);
        if (!(x->keys[x->count++] = td_arena_str(&w->arena, k)).p)
            m.err = TD_ERR_NOMEM;
    }
    td_emit_finish(&m);
    return m.err;
}

static enum td_err keep_call(struct td_answer_writer *w, struct td_ow_choice *c, const struct td_event *ev) {
    if (ev->tool.index >= TD_TOOL_CALLS_MAX)
        return TD_ERR_LIMIT;
    while (c->call_count <= ev->tool.index) {
        if (c->call_count == c->call_room) {
            uint32_t room = c->call_room ? c->call_room * 2 : 4;
            struct td_ow_call *calls = td_realloc(c->calls, room * sizeof *calls);
            if (!calls)
                return TD_ERR_NOMEM;
            c->calls = calls;
            c->call_room = room;
        }
        c->calls[c->call_count] = (struct td_ow_call){0};
        td_buf_init(&c->calls[c->call_count++].arguments, w->spec.bytes_max);
    }
    struct td_ow_call *call = &c->calls[ev->tool.index];
    if (!call->id.n)
        call->id = ev->tool.id.n ? td_arena_str(&w->arena, ev->tool.id)
                                 : td_ow_made_id(w, (uint32_t)(c - w->choices), ev->tool.index);
    if (!call->name.n)
        call->name = td_arena_str(&w->arena, ev->tool.name);
    if (!call->id.p || !call->name.p)
        return TD_ERR_NOMEM;
    return td_buf_add_str(&call->arguments, ev->tool.arguments);
}

static enum td_err keep_tokens(struct td_answer_writer *w, struct td_ow_choice *c, const struct td_event *ev) {
    if (!w->spec.logprobs || ev->delta.token_count == 0)
        return TD_OK;
    enum td_err err = TD_OK;
    int lists = w->spec.kind == TD_KIND_CHAT ? 1 : LP_COUNT;
    for (int list = 0; err == TD_OK && list < lists; list++) {
        struct td_emit m;
        td_emit_init(&m, &c->logprobs[list]);
        if (c->logprobs[list].n)
            td_emit_lit(&m, ",");
        if (w->spec.kind == TD_KIND_CHAT)
            td_ow_chat_tokens(&m, w, ev->delta.tokens, ev->delta.token_count);
        else
            td_ow_completion_tokens(&m, w, ev->delta.tokens, ev->delta.token_count, list, c->characters);
        td_emit_finish(&m);
        err = m.err;
    }
    c->characters += td_ow_characters(ev->delta.text);
    return err;
}

// Base 64 of the vector as little-endian floats, or a list of numbers.
static void emit_vector(struct td_emit *m, const float *values, uint32_t count, bool base64) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (!base64) {
        td_emit_lit(m, "[");
        for (uint32_t i = 0; i < count; i++) {
            if (i)
                td_emit_lit(m, ",");
            td_emit_float(m, values[i]);
        }
        td_emit_lit(m, "]");
        return;
    }
    const unsigned char *p = (const unsigned char *)values;
    size_t n = (size_t)count * sizeof *values;
    td_emit_lit(m, "\"");
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? p[i + 1] : 0u) << 8 | (i + 2 < n ? p[i + 2] : 0u);
        char four[4] = {digits[v >> 18], digits[v >> 12 & 63], i + 1 < n ? digits[v >> 6 & 63] : '=',
                        i + 2 < n ? digits[v & 63] : '='};
        td_emit_raw(m, four, 4);
    }
    td_emit_lit(m, "\"");
}

enum td_err td_ow_keep_vector(struct td_answer_writer *w, const struct td_event *ev) {
    struct td_emit m;
    td_emit_init(&m, &w->vectors);
    if (w->vector_count)
        td_emit_lit(&m, ",");
    td_emit_lit(&m, "{\"object\":\"embedding\",\"index\":");
    td_emit_u64(&m, ev->embedding.index);
    td_emit_lit(&m, ",\"embedding\":");
    emit_vector(&m, ev->embedding.values, ev->embedding.count, w->spec.base64);
    td_emit_lit(&m, "}");
    td_emit_finish(&m);
    w->vector_count++;
    return m.err;
}

enum td_err td_ow_whole_event(struct td_answer_writer *w, const struct td_event *ev) {
    struct td_ow_choice *c = &w->choices[ev->choice];
    enum td_err err = TD_OK;
    if (ev->raw) {
        td_json *choice = td_ow_raw_choice(ev->raw, ev->choice - td_ow_first_choice(w));
        err = keep_unknown(w, &w->extras, ev->raw, td_openai_known_top);
        if (err == TD_OK)
            err = keep_unknown(w, &c->extras, choice, td_openai_known_choice);
        if (err == TD_OK)
            err = keep_unknown(w, &c->message_extras, td_ow_raw_message(choice), td_openai_known_delta);
    }
    if (err != TD_OK)
        return err;
    switch (ev->type) {
    case TD_EV_DELTA:
        err = td_buf_add_str(&c->text, ev->delta.text);
        return err == TD_OK ? keep_tokens(w, c, ev) : err;
    case TD_EV_REASONING:
        return td_buf_add_str(&c->reasoning, ev->delta.text);
    case TD_EV_REFUSAL:
        c->has_refusal = true;
        return td_buf_add_str(&c->refusal, ev->delta.text);
    case TD_EV_TOOL_CALL:
        return keep_call(w, c, ev);
    case TD_EV_FINISH:
        c->finished = true;
        c->finish = ev->finish.reason;
        return TD_OK;
    default:
        return TD_OK;
    }
}

static void emit_calls(struct td_emit *m, const struct td_ow_choice *c) {
    td_emit_lit(m, ",\"tool_calls\":[");
    for (uint32_t i = 0; i < c->call_count; i++) {
        const struct td_ow_call *call = &c->calls[i];
        if (i)
            td_emit_lit(m, ",");
        td_emit_lit(m, "{\"id\":");
        td_emit_string(m, call->id);
        td_emit_lit(m, ",\"type\":\"function\",\"function\":{\"name\":");
        td_emit_string(m, call->name);
        td_emit_lit(m, ",\"arguments\":");
        td_emit_string(m, td_buf_str(&call->arguments));
        td_emit_lit(m, "}}");
    }
    td_emit_lit(m, "]");
}

static void emit_kept_logprobs(struct td_emit *m, const struct td_answer_writer *w, const struct td_ow_choice *c) {
    td_emit_lit(m, ",\"logprobs\":");
    if (c->logprobs[0].n == 0) {
        td_emit_lit(m, "null");
    } else if (w->spec.kind == TD_KIND_CHAT) {
        td_emit_lit(m, "{\"content\":[");
        td_emit_raw(m, c->logprobs[0].p, c->logprobs[0].n);
        td_emit_lit(m, "],\"refusal\":null}");
    } else {
        for (int list = 0; list < LP_COUNT; list++) {
            td_emit_raw(m, td_ow_lists[list], strlen(td_ow_lists[list]));
            td_emit_raw(m, c->logprobs[list].p, c->logprobs[list].n);
        }
        td_emit_lit(m, "]}");
    }
}

static void emit_choice(struct td_emit *m, const struct td_answer_writer *w, uint32_t index) {
    const struct td_ow_choice *c = &w->choices[index];
    td_emit_lit(m, "{\"index\":");
    td_emit_u64(m, index);
    if (w->spec.kind == TD_KIND_CHAT) {
        td_emit_lit(m, ",\"message\":{\"role\":\"assistant\",\"content\":");
        if (c->text.n || (c->call_count == 0 && !c->has_refusal))
            td_emit_string(m, td_buf_str(&c->text));
        else
            td_emit_lit(m, "null");
        td_emit_lit(m, ",\"refusal\":");
        if (c->has_refusal)
            td_emit_string(m, td_buf_str(&c->refusal));
        else
            td_emit_lit(m, "null");
        if (c->reasoning.n) {
            td_emit_lit(m, ",\"reasoning_content\":");
            td_emit_string(m, td_buf_str(&c->reasoning));
        }
        if (c->call_count)
            emit_calls(m, c);
        td_emit_raw(m, c->message_extras.json.p, c->message_extras.json.n);
        td_emit_lit(m, "}");
    } else {
        td_emit_lit(m, ",\"text\":");
        td_emit_string(m, td_buf_str(&c->text));
    }
    emit_kept_logprobs(m, w, c);
    td_emit_lit(m, ",\"finish_reason\":\"");
    td_emit_raw(m, td_finish_word(c->finish), strlen(td_finish_word(c->finish)));
    td_emit_lit(m, "\"");
    td_emit_raw(m, c->extras.json.p, c->extras.json.n);
    td_emit_lit(m, "}");
}

void td_ow_whole_end(struct td_emit *m, struct td_answer_writer *w, const struct td_answer_meta *meta) {
    const struct td_usage *usage = td_ow_final_usage(w, meta);
    bool embedding = w->spec.kind == TD_KIND_EMBEDDING;
    if (embedding) {
        td_emit_lit(m, "{\"object\":\"list\",\"data\":[");
        td_emit_raw(m, w->vectors.p, w->vectors.n);
        td_emit_lit(m, "],\"model\":");
        td_emit_string(m, w->model);
    } else {
        td_emit_lit(m, "{\"id\":");
        td_emit_string(m, w->id);
        if (w->spec.kind == TD_KIND_CHAT)
            td_emit_lit(m, ",\"object\":\"chat.completion\",\"created\":");
        else
            td_emit_lit(m, ",\"object\":\"text_completion\",\"created\":");
        td_emit_i64(m, w->spec.created_s);
        td_emit_lit(m, ",\"model\":");
        td_emit_string(m, w->model);
        td_emit_lit(m, ",\"choices\":[");
        bool first = true;
        for (uint32_t i = 0; i < w->choice_count; i++) {
            if (!w->choices[i].finished)
                continue;
            if (!first)
                td_emit_lit(m, ",");
            first = false;
            emit_choice(m, w, i);
        }
        td_emit_lit(m, "]");
    }
    if (usage || embedding) {
        td_emit_lit(m, ",\"usage\":");
        td_ow_usage(m, usage ? usage : &(struct td_usage){.estimated = true}, embedding);
    }
    td_emit_raw(m, w->extras.json.p, w->extras.json.n);
    td_ow_meta(m, w, meta);
    td_emit_lit(m, "}");
}
