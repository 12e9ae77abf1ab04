// SPDX-License-Identifier: Apache-2.0
// States of a streamed choice: untouched → (role sent) → finish pending → finish sent. At most one finish is pending at
// a time: its frame lies in `pending` without the closing brace, so that the `tandem` object can still be put in.
#include "wire/openai_answer.h"

#include "base/limits.h"
#include "wire/openai_writer.h"

// ---- create, destroy

static struct td_origin copy_origin(struct td_arena *a, const struct td_origin *o) {
    return (struct td_origin){td_arena_str(a, o->target), td_arena_str(a, o->tier), td_arena_str(a, o->model)};
}

static void choice_init(struct td_ow_choice *c, size_t ceiling) {
    td_buf_init(&c->prefix, ceiling);
    td_buf_init(&c->text, ceiling);
    td_buf_init(&c->reasoning, ceiling);
    td_buf_init(&c->refusal, ceiling);
    for (int i = 0; i < LP_COUNT; i++)
        td_buf_init(&c->logprobs[i], ceiling);
    td_buf_init(&c->extras.json, ceiling);
    td_buf_init(&c->message_extras.json, ceiling);
}

static void choice_finish(struct td_ow_choice *c) {
    td_buf_finish(&c->prefix);
    td_buf_finish(&c->text);
    td_buf_finish(&c->reasoning);
    td_buf_finish(&c->refusal);
    for (int i = 0; i < LP_COUNT; i++)
        td_buf_finish(&c->logprobs[i]);
    td_buf_finish(&c->extras.json);
    td_buf_finish(&c->message_extras.json);
    for (uint32_t i = 0; i < c->call_count; i++)
        td_buf_finish(&c->calls[i].arguments);
    td_free(c->calls);
}

static struct td_str made_id(struct td_arena *a, struct td_str prefix, struct td_str exchange) {
    char *p = td_arena_alloc(a, prefix.n + exchange.n + 1);
    if (!p)
        return TD_STR_NONE;
    memcpy(p, prefix.p, prefix.n);
    if (exchange.n)
        memcpy(p + prefix.n, exchange.p, exchange.n);
    return td_str_n(p, prefix.n + exchange.n);
}

enum td_err td_openai_answer_create(const struct td_answer_spec *spec, struct td_answer_writer **out) {
    struct td_answer_writer *w = td_calloc(1, sizeof *w);
    if (!w)
        return TD_ERR_NOMEM;
    w->spec = *spec;
    if (w->spec.choices == 0)
        w->spec.choices = 1;
    if (w->spec.choices > TD_CHOICES_MAX)
        w->spec.choices = TD_CHOICES_MAX;
    w->choice_count = w->spec.choices * (spec->parts > 1 ? spec->parts : 1);
    if (w->spec.bytes_max == 0)
        w->spec.bytes_max = TD_REPLY_BYTES_MAX;
    td_arena_init_small(&w->arena, w->spec.bytes_max + (1u << 20));
    td_buf_init(&w->head, 64u << 10);
    td_buf_init(&w->pending, w->spec.bytes_max);
    td_buf_init(&w->vectors, w->spec.bytes_max);
    td_buf_init(&w->extras.json, w->spec.bytes_max);
    w->choices = td_calloc(w->choice_count, sizeof *w->choices);
    if (w->choices)
        for (uint32_t i = 0; i < w->choice_count; i++)
            choice_init(&w->choices[i], w->spec.bytes_max);
    w->id = made_id(&w->arena, spec->kind == TD_KIND_CHAT ? TD_STR("chatcmpl-") : TD_STR("cmpl-"), spec->exchange);
    w->spec.exchange = td_arena_str(&w->arena, spec->exchange);
    w->model = w->spec.model = td_arena_str(&w->arena, spec->model);
    if (!w->choices || !w->id.p || !w->spec.exchange.p || !w->model.p) {
        td_openai_answer_destroy(w);
        return TD_ERR_NOMEM;
    }
    *out = w;
    return TD_OK;
}

void td_openai_answer_destroy(struct td_answer_writer *w) {
    if (!w)
        return;
    for (uint32_t i = 0; w->choices && i < w->choice_count; i++)
        choice_finish(&w->choices[i]);
    td_free(w->choices);
    td_buf_finish(&w->head);
    td_buf_finish(&w->pending);
    td_buf_finish(&w->vectors);
    td_buf_finish(&w->extras.json);
    td_arena_finish(&w->arena);
    td_free(w);
}

void td_openai_answer_reset(struct td_answer_writer *w) {
    for (uint32_t i = 0; i < w->choice_count; i++) {
        struct td_ow_choice *c = &w->choices[i];
        bool begun = c->begun, role_sent = c->role_sent;
        struct td_buf prefix = c->prefix;
        td_buf_init(&c->prefix, 0);
        choice_finish(c);
        *c = (struct td_ow_choice){.begun = begun, .role_sent = role_sent};
        choice_init(c, w->spec.bytes_max);
        c->prefix = prefix;
    }
    td_buf_clear(&w->pending);
    td_buf_clear(&w->vectors);
    td_buf_clear(&w->extras.json);
    w->extras.count = 0;
    w->vector_count = 0;
    w->has_usage = false;
    if (w->head.n == 0) // once a frame named the model, it stays
        w->model_known = false;
}

// ---- streaming

// "tool_calls":[{…}] of a delta.
static void emit_call_delta(struct td_emit *m, struct td_answer_writer *w, struct td_ow_choice *c,
                            const struct td_event *ev) {
    bool first = ev->tool.index >= c->calls_seen;
    td_emit_lit(m, "\"tool_calls\":[{\"index\":");
    td_emit_u64(m, ev->tool.index);
    if (first) {
        struct td_str id = ev->tool.id.n ? ev->tool.id : td_ow_made_id(w, ev->choice, ev->tool.index);
        if (!id.p)
            m->err = TD_ERR_NOMEM;
        td_emit_lit(m, ",\"id\":");
        td_emit_string(m, id);
        td_emit_lit(m, ",\"type\":\"function\",\"function\":{\"name\":");
        td_emit_string(m, ev->tool.name);
        td_emit_lit(m, ",\"arguments\":");
        c->calls_seen = ev->tool.index + 1;
    } else {
        td_emit_lit(m, ",\"function\":{\"arguments\":");
    }
    td_emit_string(m, ev->tool.arguments);
    td_emit_lit(m, "}}]");
}

static enum td_err make_head(struct td_answer_writer *w) {
    struct td_emit m;
    td_emit_init(&m, &w->head);
    td_emit_lit(&m, "data: {\"id\":");
    td_emit_string(&m, w->id);
    if (w->spec.kind == TD_KIND_CHAT)
        td_emit_lit(&m, ",\"object\":\"chat.completion.chunk\",\"created\":");
    else
        td_emit_lit(&m, ",\"object\":\"text_completion\",\"created\":");
    td_emit_i64(&m, w->spec.created_s);
    td_emit_lit(&m, ",\"model\":");
    td_emit_string(&m, w->model);
    td_emit_lit(&m, ",");
    td_emit_finish(&m);
    if (m.err != TD_OK)
        td_buf_clear(&w->head);
    return m.err;
}

// A frame up to the inside of `delta` (chat) or to the value of `text` (completions).
static void open_frame(struct td_emit *m, struct td_answer_writer *w, uint32_t choice) {
    if (w->head.n == 0 && m->err == TD_OK)
        m->err = make_head(w);
    td_emit_raw(m, w->head.p, w->head.n);
    td_emit_lit(m, "\"choices\":[{\"index\":");
    td_emit_u64(m, choice);
    if (w->spec.kind == TD_KIND_CHAT)
        td_emit_lit(m, ",\"delta\":{");
    else
        td_emit_lit(m, ",\"text\":");
}

// What a delta says, each member with a comma behind it.
static void emit_delta(struct td_emit *m, struct td_answer_writer *w, struct td_ow_choice *c, const struct td_event *ev,
                       td_json *raw) {
    enum td_event_type type = ev ? ev->type : TD_EV_START;
    if (!c->role_sent) {
        td_emit_lit(m, "\"role\":\"assistant\",");
        if (type != TD_EV_DELTA)
            td_emit_lit(m, "\"content\":null,");
    }
    if (type == TD_EV_DELTA && (ev->delta.text.n || !c->role_sent)) {
        td_emit_lit(m, "\"content\":");
        td_emit_string(m, ev->delta.text);
        td_emit_lit(m, ",");
    } else if (type == TD_EV_REASONING || type == TD_EV_REFUSAL) {
        if (type == TD_EV_REASONING)
            td_emit_lit(m, "\"reasoning_content\":");
        else
            td_emit_lit(m, "\"refusal\":");
        td_emit_string(m, ev->delta.text);
        td_emit_lit(m, ",");
    } else if (type == TD_EV_TOOL_CALL) {
        emit_call_delta(m, w, c, ev);
        td_emit_lit(m, ",");
    }
    size_t i, max;
    td_json *key, *v, *message = td_ow_raw_message(raw);
    if (!yyjson_is_obj(message))
        return;
    yyjson_obj_foreach(message, i, max, key, v) {
        if (yyjson_is_null(v) || td_openai_known_delta(td_json_str(key)))
            continue;
        td_emit_string(m, td_json_str(key));
        td_emit_lit(m, ":");
        td_emit_value(m, v);
        td_emit_lit(m, ",");
    }
}

// A frame but for the closing brace, where `tandem` may follow.
static void emit_frame(struct td_emit *m, struct td_answer_writer *w, uint32_t index, const struct td_event *ev,
                       const char *finish) {
    struct td_ow_choice *c = &w->choices[index];
    td_json *raw = ev ? ev->raw : NULL;
    td_json *choice = raw ? td_ow_raw_choice(raw, index - td_ow_first_choice(w)) : NULL;
    bool text = ev && ev->type == TD_EV_DELTA;
    open_frame(m, w, index);
    if (w->spec.kind == TD_KIND_CHAT) {
        emit_delta(m, w, c, ev, choice);
        td_emit_close(m);
    } else {
        td_emit_string(m, text ? ev->delta.text : TD_STR_NONE);
    }
    td_emit_lit(m, ",\"logprobs\":");
    td_ow_logprobs(m, w, ev, c->characters);
    td_emit_lit(m, ",\"finish_reason\":");
    if (finish) {
        td_emit_lit(m, "\"");
        td_emit_raw(m, finish, strlen(finish));
        td_emit_lit(m, "\"");
    } else {
        td_emit_lit(m, "null");
    }
    td_ow_unknown(m, choice, td_openai_known_choice);
    td_emit_lit(m, "}]");
    if (w->spec.include_usage)
        td_emit_lit(m, ",\"usage\":null");
    td_ow_unknown(m, raw, td_openai_known_top);
    if (m->err == TD_OK) {
        c->role_sent = true;
        if (text)
            c->characters += td_ow_characters(ev->delta.text);
    }
}

static void flush_pending(struct td_emit *m, struct td_answer_writer *w) {
    if (w->pending.n == 0)
        return;
    td_emit_raw(m, w->pending.p, w->pending.n);
    td_emit_lit(m, "}\n\n");
    td_buf_clear(&w->pending);
}

// The bytes around the text of a frame that says nothing else; made once per choice.
static enum td_err make_prefix(struct td_answer_writer *w, uint32_t index) {
    struct td_ow_choice *c = &w->choices[index];
    struct td_emit m;
    td_emit_init(&m, &c->prefix);
    open_frame(&m, w, index);
    if (w->spec.kind == TD_KIND_CHAT)
        td_emit_lit(&m, "\"content\":");
    td_emit_finish(&m);
    if (m.err != TD_OK)
        td_buf_clear(&c->prefix);
    return m.err;
}

// The frame most streams consist of: text alone.
static enum td_err plain_frame(struct td_answer_writer *w, const struct td_event *ev, struct td_buf *out) {
    static const char *const tails[2][2] = {
        {",\"logprobs\":null,\"finish_reason\":null}]}\n\n",
         ",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n"},
        {"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
         "},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n"},
    };
    struct td_ow_choice *c = &w->choices[ev->choice];
    enum td_err err = c->prefix.n ? TD_OK : make_prefix(w, ev->choice);
    size_t before = out->n;
    struct td_str tail = td_str_of(tails[w->spec.kind == TD_KIND_CHAT][w->spec.include_usage]);
    if (err == TD_OK) {
        td_buf_expect(out, c->prefix.n + ev->delta.text.n + 2 + tail.n); // at once instead of in steps
        err = td_buf_add(out, c->prefix.p, c->prefix.n);
    }
    if (err == TD_OK)
        err = td_buf_add_json(out, ev->delta.text);
    if (err == TD_OK)
        err = td_buf_add_str(out, tail);
    if (err != TD_OK)
        out->n = before;
    else if (w->spec.kind == TD_KIND_COMPLETION)
        c->characters += td_ow_characters(ev->delta.text);
    return err;
}

static bool is_plain(const struct td_answer_writer *w, const struct td_event *ev) {
    return ev->type == TD_EV_DELTA && !ev->raw && w->pending.n == 0 && w->choices[ev->choice].role_sent &&
           (ev->delta.token_count == 0 || !w->spec.logprobs);
}

static enum td_err stream_event(struct td_answer_writer *w, const struct td_event *ev, struct td_buf *out) {
    struct td_ow_choice *c = &w->choices[ev->choice];
    bool chat = w->spec.kind == TD_KIND_CHAT;
    if (ev->type == TD_EV_DELTA && ev->delta.text.n == 0 && !ev->raw)
        return TD_OK;
    if (!chat && ev->type != TD_EV_DELTA && ev->type != TD_EV_FINISH)
        return TD_OK; // completions have no place for it
    if (is_plain(w, ev))
        return plain_frame(w, ev, out);
    struct td_emit m;
    size_t before = out->n;
    td_emit_init(&m, out);
    flush_pending(&m, w);
    if (ev->type == TD_EV_FINISH) {
        m.out = &w->pending;
        emit_frame(&m, w, ev->choice, ev, td_finish_word(ev->finish.reason));
        c->finished = true;
    } else {
        emit_frame(&m, w, ev->choice, ev, NULL);
        td_emit_lit(&m, "}\n\n");
    }
    td_emit_finish(&m);
    if (m.err != TD_OK)
        out->n = before;
    return m.err;
}

void td_openai_answer_part(struct td_answer_writer *w, uint32_t part) {
    w->part = part;
}

enum td_err td_openai_answer_event(struct td_answer_writer *w, const struct td_event *ev, struct td_buf *out) {
    w->damaged = w->damaged || ev->damaged;
    switch (ev->type) {
    case TD_EV_START:
        if (!w->model_known && ev->start.model.n) {
            struct td_str model = td_arena_str(&w->arena, ev->start.model);
            if (!model.p)
                return TD_ERR_NOMEM;
            w->model = model;
            w->model_known = true;
        }
        return TD_OK;
    case TD_EV_USAGE:
        w->usage = ev->usage;
        w->has_usage = true;
        return TD_OK;
    case TD_EV_EMBEDDING:
        return td_ow_keep_vector(w, ev);
    case TD_EV_END:
    case TD_EV_ERROR:
        return TD_ERR_USAGE;
    default:
        if (ev->choice >= w->spec.choices)
            return TD_OK; // more choices than were asked for
        if (w->part) {
            struct td_event moved = *ev;
            moved.choice += td_ow_first_choice(w);
            w->choices[moved.choice].begun = true;
            return w->spec.stream ? stream_event(w, &moved, out) : td_ow_whole_event(w, &moved);
        }
        w->choices[ev->choice].begun = true;
        return w->spec.stream ? stream_event(w, ev, out) : td_ow_whole_event(w, ev);
    }
}

enum td_err td_openai_answer_revision(struct td_answer_writer *w, enum td_revision_op op,
                                      const struct td_origin *origin, bool final, struct td_buf *out) {
    struct td_origin copy = copy_origin(&w->arena, origin);
    if (!copy.target.p || !copy.tier.p || !copy.model.p)
        return TD_ERR_NOMEM;
    w->revision++;
    w->op = op;
    w->origin = copy;
    if (op == TD_REVISION_DRAFT)
        w->draft = copy;
    if (!w->spec.stream) {
        if (op == TD_REVISION_REPLACE)
            td_openai_answer_reset(w);
        return TD_OK;
    }
    struct td_emit m;
    size_t before = out->n;
    td_emit_init(&m, out);
    // A finish that the draft's model gave is not the answer's.
    td_buf_clear(&w->pending);
    w->choices[0].finished = false;
    emit_frame(&m, w, 0, NULL, NULL);
    td_emit_lit(&m, ",\"tandem\":{");
    td_ow_revision(&m, w, true, final);
    td_emit_close(&m);
    td_emit_lit(&m, "}\n\n");
    td_emit_finish(&m);
    if (m.err != TD_OK)
        out->n = before;
    return m.err;
}

// ---- the end

static void end_stream(struct td_emit *m, struct td_answer_writer *w, const struct td_answer_meta *meta) {
    const struct td_usage *usage = td_ow_final_usage(w, meta);
    if (w->spec.include_usage) {
        flush_pending(m, w);
        td_emit_raw(m, w->head.p, w->head.n);
        td_emit_lit(m, "\"choices\":[],\"usage\":");
        if (usage)
            td_ow_usage(m, usage, false);
        else
            td_emit_lit(m, "null");
    } else if (w->pending.n) {
        td_emit_raw(m, w->pending.p, w->pending.n);
        td_buf_clear(&w->pending);
    } else {
        emit_frame(m, w, 0, NULL, NULL);
    }
    td_ow_meta(m, w, meta);
    td_emit_lit(m, "}\n\ndata: [DONE]\n\n");
}

// Nothing that began may lack its finish: a truncated answer is no success.
static bool is_complete(const struct td_answer_writer *w) {
    bool any = w->vector_count > 0;
    if (w->spec.kind == TD_KIND_EMBEDDING)
        return any;
    for (uint32_t i = 0; i < w->choice_count; i++) {
        if (w->choices[i].begun && !w->choices[i].finished)
            return false;
        any = any || w->choices[i].finished;
    }
    return any;
}

enum td_err td_openai_answer_end(struct td_answer_writer *w, const struct td_answer_meta *meta, struct td_buf *out) {
    if (!is_complete(w))
        return TD_ERR_CUT;
    struct td_emit m;
    size_t before = out->n;
    td_emit_init(&m, out);
    if (w->spec.stream)
        end_stream(&m, w, meta);
    else
        td_ow_whole_end(&m, w, meta);
    td_emit_finish(&m);
    if (m.err != TD_OK)
        out->n = before;
    return m.err;
}

enum td_err td_openai_answer_keepalive(struct td_buf *out) {
    return td_buf_addz(out, ": keep-alive\n\n");
}

void td_openai_answer_near(const struct td_answer_writer *w, struct td_near *near) {
    td_near_add(near, w, offsetof(struct td_answer_writer, id));
    td_near_add(near, w->choices, offsetof(struct td_ow_choice, text));
    td_near_add(near, w->choices[0].prefix.p, w->choices[0].prefix.n);
}

enum td_err td_openai_answer_fail(struct td_answer_writer *w, enum td_err err, struct td_str message,
                                  const struct td_answer_meta *meta, struct td_buf *out) {
    struct td_emit m;
    size_t before = out->n;
    td_emit_init(&m, out);
    td_buf_clear(&w->pending); // what failed did not finish
    td_emit_lit(&m, "data: {");
    td_openai_emit_error(&m, err, 0, message, TD_STR_NONE, NULL);
    td_ow_meta(&m, w, meta);
    td_emit_lit(&m, "}\n\n");
    td_emit_finish(&m);
    if (m.err != TD_OK)
        out->n = before;
    return m.err;
}
