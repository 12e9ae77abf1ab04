// SPDX-License-Identifier: Apache-2.0
// States of a streamed choice: untouched → (role sent) → finish pending → finish sent. At most one finish is pending at
// a time: its frame lies in `pending` without the closing brace, so that the `tandem` object can still be put in.
#include "wire/openai_answer.h"

#include <math.h>

#include "base/limits.h"
#include "wire/emit.h"
#include "wire/openai_keys.h"

#define EXTRAS_MAX 16u // fields passed through at one level; more is no provider, it is noise

// Fields of the provider's own that pass through, collected for a whole answer: ,"key":value… The first value stays.
struct extras {
    struct td_buf json;
    struct td_str keys[EXTRAS_MAX];
    uint32_t count;
};

struct call {
    struct td_str id, name;
    struct td_buf arguments;
};

enum { LP_TOKENS, LP_VALUES, LP_TOP, LP_OFFSETS, LP_COUNT }; // chat uses the first alone

struct choice {
    bool role_sent, finished;
    enum td_finish finish;
    uint32_t calls_seen;
    uint64_t characters;  // of text, for completions' text_offset
    struct td_buf prefix; // streaming: a text frame up to its text
    // Whole answers:
    struct td_buf text, reasoning, refusal, logprobs[LP_COUNT];
    bool has_refusal;
    struct call *calls;
    uint32_t call_count, call_room;
    struct extras extras, message_extras;
};

struct td_answer_writer {
    struct td_answer_spec spec;
    struct td_arena arena;
    struct td_str id, model;
    bool model_known;
    struct td_buf head;    // data: {"id":…,"model":…,
    struct td_buf pending; // a finish frame without its end
    struct choice *choices;
    struct td_usage usage;
    bool has_usage, damaged;
    struct extras extras;
    struct td_buf vectors; // embeddings: the entries of `data`
    uint32_t vector_count;
    uint32_t revision;
    enum td_revision_op op;
    struct td_origin origin, draft; // of the last revision and of the draft
};

// --- create, destroy ---

static struct td_origin copy_origin(struct td_arena *a, const struct td_origin *o) {
    return (struct td_origin){td_arena_str(a, o->target), td_arena_str(a, o->tier), td_arena_str(a, o->model)};
}

static void choice_init(struct choice *c, size_t ceiling) {
    td_buf_init(&c->prefix, ceiling);
    td_buf_init(&c->text, ceiling);
    td_buf_init(&c->reasoning, ceiling);
    td_buf_init(&c->refusal, ceiling);
    for (int i = 0; i < LP_COUNT; i++)
        td_buf_init(&c->logprobs[i], ceiling);
    td_buf_init(&c->extras.json, ceiling);
    td_buf_init(&c->message_extras.json, ceiling);
}

static void choice_finish(struct choice *c) {
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

enum td_err td_openai_answer_create(const struct td_answer_spec *spec, struct td_answer_writer **out) {
    struct td_answer_writer *w = td_calloc(1, sizeof *w);
    if (!w)
        return TD_ERR_NOMEM;
    w->spec = *spec;
    if (w->spec.choices == 0)
        w->spec.choices = 1;
    if (w->spec.choices > TD_CHOICES_MAX)
        w->spec.choices = TD_CHOICES_MAX;
    if (w->spec.bytes_max == 0)
        w->spec.bytes_max = TD_REPLY_BYTES_MAX;
    td_arena_init(&w->arena, w->spec.bytes_max + (1u << 20));
    td_buf_init(&w->head, 64u << 10);
    td_buf_init(&w->pending, w->spec.bytes_max);
    td_buf_init(&w->vectors, w->spec.bytes_max);
    td_buf_init(&w->extras.json, w->spec.bytes_max);
    w->choices = td_calloc(w->spec.choices, sizeof *w->choices);
    if (w->choices)
        for (uint32_t i = 0; i < w->spec.choices; i++)
            choice_init(&w->choices[i], w->spec.bytes_max);
    w->id = td_arena_printf(&w->arena, "%s%.*s", spec->kind == TD_KIND_CHAT ? "chatcmpl-" : "cmpl-",
                            TD_STR_ARG(spec->exchange));
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
    for (uint32_t i = 0; w->choices && i < w->spec.choices; i++)
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
    for (uint32_t i = 0; i < w->spec.choices; i++) {
        struct choice *c = &w->choices[i];
        bool role_sent = c->role_sent;
        struct td_buf prefix = c->prefix;
        td_buf_init(&c->prefix, 0);
        choice_finish(c);
        *c = (struct choice){.role_sent = role_sent};
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

// --- fields that pass through ---

// ,"key":value for each unknown field of `obj`. Null values say nothing and are left out.
static void emit_unknown(struct td_emit *m, td_json *obj, bool (*known)(struct td_str)) {
    size_t i, max;
    td_json *key, *v;
    if (!yyjson_is_obj(obj))
        return;
    yyjson_obj_foreach(obj, i, max, key, v) {
        if (!yyjson_is_null(v) && !known(td_json_str(key)))
            td_emit_member(m, key, v);
    }
}

static enum td_err keep_unknown(struct td_answer_writer *w, struct extras *x, td_json *obj,
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
        td_emit_member(&m, key, v);
        if (!(x->keys[x->count++] = td_arena_str(&w->arena, k)).p)
            m.err = TD_ERR_NOMEM;
    }
    td_emit_finish(&m);
    return m.err;
}

// The entry of raw's `choices` with this index.
static td_json *raw_choice(td_json *raw, uint32_t index) {
    td_json *list = td_json_get(raw, "choices"), *v;
    size_t i, max;
    if (!yyjson_is_arr(list))
        return NULL;
    yyjson_arr_foreach(list, i, max, v) {
        if (td_json_get_int(v, "index", 0) == (int64_t)index)
            return v;
    }
    return NULL;
}

static td_json *raw_message(td_json *choice) {
    td_json *delta = td_json_get(choice, "delta");
    return delta ? delta : td_json_get(choice, "message");
}

// --- pieces ---

// Token texts may be parts of characters; JSON wants whole ones. The exact bytes stand beside it.
static void emit_token_text(struct td_emit *m, struct td_str s) {
    if (td_str_is_utf8(s)) {
        td_emit_string(m, s);
        return;
    }
    char whole[256];
    size_t n = 0;
    for (size_t i = 0; i < s.n && n + 3 <= sizeof whole; i++) {
        if ((unsigned char)s.p[i] < 0x80) {
            whole[n++] = s.p[i];
        } else {
            memcpy(whole + n, "\xef\xbf\xbd", 3);
            n += 3;
        }
    }
    td_emit_string(m, td_str_n(whole, n));
}

static void emit_token_head(struct td_emit *m, const struct td_token *t) {
    td_emit_lit(m, "{\"token\":");
    emit_token_text(m, t->text);
    td_emit_lit(m, ",\"logprob\":");
    td_emit_float(m, isfinite(t->logprob) ? t->logprob : -9999.0f);
    td_emit_lit(m, ",\"bytes\":[");
    for (size_t i = 0; i < t->text.n; i++) {
        if (i)
            td_emit_lit(m, ",");
        td_emit_u64(m, (unsigned char)t->text.p[i]);
    }
    td_emit_lit(m, "]");
}

static uint32_t top_count(const struct td_answer_writer *w, const struct td_token *t) {
    return t->top_count < w->spec.top_logprobs ? t->top_count : w->spec.top_logprobs;
}

static void emit_chat_tokens(struct td_emit *m, const struct td_answer_writer *w, const struct td_token *tokens,
                             uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        if (i)
            td_emit_lit(m, ",");
        emit_token_head(m, &tokens[i]);
        td_emit_lit(m, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < top_count(w, &tokens[i]); k++) {
            if (k)
                td_emit_lit(m, ",");
            emit_token_head(m, &tokens[i].top[k]);
            td_emit_lit(m, "}");
        }
        td_emit_lit(m, "]}");
    }
}

static uint64_t characters(struct td_str s) {
    uint64_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    return n;
}

// One of the four parallel lists of a completion's logprobs.
static void emit_completion_tokens(struct td_emit *m, const struct td_answer_writer *w, const struct td_token *tokens,
                                   uint32_t count, int list, uint64_t offset) {
    for (uint32_t i = 0; i < count; i++) {
        const struct td_token *t = &tokens[i];
        if (i)
            td_emit_lit(m, ",");
        if (list == LP_TOKENS) {
            emit_token_text(m, t->text);
        } else if (list == LP_VALUES) {
            td_emit_float(m, isfinite(t->logprob) ? t->logprob : -9999.0f);
        } else if (list == LP_OFFSETS) {
            td_emit_u64(m, offset);
            offset += characters(t->text);
        } else {
            td_emit_lit(m, "{");
            for (uint32_t k = 0; k < top_count(w, t); k++) {
                if (k)
                    td_emit_lit(m, ",");
                emit_token_text(m, t->top[k].text);
                td_emit_lit(m, ":");
                td_emit_float(m, isfinite(t->top[k].logprob) ? t->top[k].logprob : -9999.0f);
            }
            td_emit_lit(m, "}");
        }
    }
}

static const char *const completion_lists[] = {"{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[",
                                               "],\"text_offset\":["};

// "logprobs" of a frame: the value.
static void emit_logprobs(struct td_emit *m, const struct td_answer_writer *w, const struct td_event *ev,
                          uint64_t offset) {
    bool text = ev && (ev->type == TD_EV_DELTA || ev->type == TD_EV_REFUSAL);
    if (!w->spec.logprobs || !text || ev->delta.token_count == 0) {
        td_emit_lit(m, "null");
        return;
    }
    if (w->spec.kind == TD_KIND_COMPLETION) {
        for (int list = 0; list < LP_COUNT; list++) {
            td_emit_raw(m, completion_lists[list], strlen(completion_lists[list]));
            emit_completion_tokens(m, w, ev->delta.tokens, ev->delta.token_count, list, offset);
        }
        td_emit_lit(m, "]}");
        return;
    }
    bool refusal = ev->type == TD_EV_REFUSAL;
    if (refusal)
        td_emit_lit(m, "{\"content\":null,\"refusal\":[");
    else
        td_emit_lit(m, "{\"content\":[");
    emit_chat_tokens(m, w, ev->delta.tokens, ev->delta.token_count);
    if (refusal)
        td_emit_lit(m, "]}");
    else
        td_emit_lit(m, "],\"refusal\":null}");
}

static void emit_usage(struct td_emit *m, const struct td_usage *u, bool embedding) {
    td_emit_lit(m, "{\"prompt_tokens\":");
    td_emit_u64(m, u->prompt_tokens);
    if (!embedding) {
        td_emit_lit(m, ",\"completion_tokens\":");
        td_emit_u64(m, u->completion_tokens);
    }
    td_emit_lit(m, ",\"total_tokens\":");
    td_emit_u64(m, (uint64_t)u->prompt_tokens + (embedding ? 0 : u->completion_tokens));
    if (u->cached_tokens) {
        td_emit_lit(m, ",\"prompt_tokens_details\":{\"cached_tokens\":");
        td_emit_u64(m, u->cached_tokens);
        td_emit_lit(m, "}");
    }
    if (u->reasoning_tokens) {
        td_emit_lit(m, ",\"completion_tokens_details\":{\"reasoning_tokens\":");
        td_emit_u64(m, u->reasoning_tokens);
        td_emit_lit(m, "}");
    }
    if (u->estimated)
        td_emit_lit(m, ",\"estimated\":true");
    td_emit_lit(m, "}");
}

static void emit_origin(struct td_emit *m, const char *key, const struct td_origin *o) {
    td_emit_lit(m, "\"");
    td_emit_raw(m, key, strlen(key));
    td_emit_lit(m, "\":{");
    td_emit_word(m, "target", o->target);
    td_emit_word(m, "tier", o->tier);
    td_emit_word(m, "model", o->model);
    td_emit_close(m);
    td_emit_lit(m, ",");
}

// `opens`: the frame opens the revision; the last frame of an answer names it once more without doing so.
static void emit_revision(struct td_emit *m, const struct td_answer_writer *w, bool opens, bool final) {
    td_emit_lit(m, "\"revision\":");
    td_emit_u64(m, w->revision);
    td_emit_lit(m, ",");
    if (opens)
        td_emit_word(m, "op", td_str_of(td_revision_word(w->op)));
    if (final)
        td_emit_lit(m, "\"final\":true,");
    else
        td_emit_lit(m, "\"final\":false,");
    emit_origin(m, "origin", &w->origin);
    if (w->draft.target.n && w->op != TD_REVISION_DRAFT)
        emit_origin(m, "draft", &w->draft);
}

static void emit_attempt(struct td_emit *m, const struct td_answer_attempt *a) {
    td_emit_lit(m, "{");
    td_emit_word(m, "target", a->origin.target);
    td_emit_word(m, "tier", a->origin.tier);
    td_emit_word(m, "model", a->origin.model);
    td_emit_word(m, "reason", a->reason);
    td_emit_word(m, "outcome", a->outcome);
    td_emit_lit(m, "\"usage\":");
    emit_usage(m, &a->usage, false);
    td_emit_lit(m, ",\"cost_usd\":");
    td_emit_usd(m, a->cost_nusd);
    td_emit_lit(m, ",\"ttft_ms\":");
    td_emit_u64(m, a->ttft_ms);
    td_emit_lit(m, ",\"duration_ms\":");
    td_emit_u64(m, a->duration_ms);
    td_emit_lit(m, "}");
}

// ,"tandem":{…} of the last frame or the body.
static void emit_meta(struct td_emit *m, const struct td_answer_writer *w, const struct td_answer_meta *meta) {
    if (!meta)
        return;
    td_emit_lit(m, ",\"tandem\":{");
    td_emit_word(m, "exchange", meta->exchange.n ? meta->exchange : w->spec.exchange);
    td_emit_word(m, "target", meta->origin.target);
    td_emit_word(m, "tier", meta->origin.tier);
    td_emit_word(m, "model", meta->origin.model);
    td_emit_word(m, "reason", meta->reason);
    td_emit_word(m, "mode", meta->mode);
    if (w->revision)
        emit_revision(m, w, false, true);
    if (meta->degraded)
        td_emit_lit(m, "\"degraded\":true,");
    else
        td_emit_lit(m, "\"degraded\":false,");
    if (meta->queued)
        td_emit_lit(m, "\"queued\":true,");
    if (meta->damaged || w->damaged)
        td_emit_lit(m, "\"damaged\":true,");
    if (isfinite(meta->confidence)) {
        td_emit_lit(m, "\"confidence\":");
        td_emit_float(m, (float)meta->confidence);
        td_emit_lit(m, ",");
    }
    td_emit_lit(m, "\"cost_usd\":");
    td_emit_usd(m, meta->cost_nusd);
    td_emit_lit(m, ",\"cost_nusd\":");
    td_emit_i64(m, meta->cost_nusd);
    td_emit_lit(m, ",\"usage_total\":");
    emit_usage(m, &meta->usage_total, false);
    td_emit_lit(m, ",\"attempts\":[");
    for (uint32_t i = 0; i < meta->attempt_count; i++) {
        if (i)
            td_emit_lit(m, ",");
        emit_attempt(m, &meta->attempts[i]);
    }
    td_emit_lit(m, "]}");
}

// --- streaming ---

// For calls that came without an id: unique within a conversation, since the exchange's id is.
static struct td_str made_id(struct td_answer_writer *w, uint32_t choice, uint32_t index) {
    return td_arena_printf(&w->arena, "call_%.*s%u_%u", TD_STR_ARG(w->spec.exchange), choice, index);
}

// "tool_calls":[{…}] of a delta.
static void emit_call_delta(struct td_emit *m, struct td_answer_writer *w, struct choice *c,
                            const struct td_event *ev) {
    bool first = ev->tool.index >= c->calls_seen;
    td_emit_lit(m, "\"tool_calls\":[{\"index\":");
    td_emit_u64(m, ev->tool.index);
    if (first) {
        struct td_str id = ev->tool.id.n ? ev->tool.id : made_id(w, ev->choice, ev->tool.index);
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
static void emit_delta(struct td_emit *m, struct td_answer_writer *w, struct choice *c, const struct td_event *ev,
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
    td_json *key, *v, *message = raw_message(raw);
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
    struct choice *c = &w->choices[index];
    td_json *raw = ev ? ev->raw : NULL, *choice = raw ? raw_choice(raw, index) : NULL;
    bool text = ev && ev->type == TD_EV_DELTA;
    open_frame(m, w, index);
    if (w->spec.kind == TD_KIND_CHAT) {
        emit_delta(m, w, c, ev, choice);
        td_emit_close(m);
    } else {
        td_emit_string(m, text ? ev->delta.text : TD_STR_NONE);
    }
    td_emit_lit(m, ",\"logprobs\":");
    emit_logprobs(m, w, ev, c->characters);
    td_emit_lit(m, ",\"finish_reason\":");
    if (finish) {
        td_emit_lit(m, "\"");
        td_emit_raw(m, finish, strlen(finish));
        td_emit_lit(m, "\"");
    } else {
        td_emit_lit(m, "null");
    }
    emit_unknown(m, choice, td_openai_known_choice);
    td_emit_lit(m, "}]");
    if (w->spec.include_usage)
        td_emit_lit(m, ",\"usage\":null");
    emit_unknown(m, raw, td_openai_known_top);
    if (m->err == TD_OK) {
        c->role_sent = true;
        if (text)
            c->characters += characters(ev->delta.text);
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
    struct choice *c = &w->choices[index];
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
    struct choice *c = &w->choices[ev->choice];
    enum td_err err = c->prefix.n ? TD_OK : make_prefix(w, ev->choice);
    size_t before = out->n;
    if (err == TD_OK)
        err = td_buf_add(out, c->prefix.p, c->prefix.n);
    if (err == TD_OK)
        err = td_buf_add_json(out, ev->delta.text);
    if (err == TD_OK)
        err = td_buf_addz(out, tails[w->spec.kind == TD_KIND_CHAT][w->spec.include_usage]);
    if (err != TD_OK)
        out->n = before;
    else if (w->spec.kind == TD_KIND_COMPLETION)
        c->characters += characters(ev->delta.text);
    return err;
}

static bool is_plain(const struct td_answer_writer *w, const struct td_event *ev) {
    return ev->type == TD_EV_DELTA && !ev->raw && w->pending.n == 0 && w->choices[ev->choice].role_sent &&
           (ev->delta.token_count == 0 || !w->spec.logprobs);
}

static enum td_err stream_event(struct td_answer_writer *w, const struct td_event *ev, struct td_buf *out) {
    struct choice *c = &w->choices[ev->choice];
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

// --- whole ---

static enum td_err keep_call(struct td_answer_writer *w, struct choice *c, const struct td_event *ev) {
    if (ev->tool.index >= TD_TOOL_CALLS_MAX)
        return TD_ERR_LIMIT;
    while (c->call_count <= ev->tool.index) {
        if (c->call_count == c->call_room) {
            uint32_t room = c->call_room ? c->call_room * 2 : 4;
            struct call *calls = td_realloc(c->calls, room * sizeof *calls);
            if (!calls)
                return TD_ERR_NOMEM;
            c->calls = calls;
            c->call_room = room;
        }
        c->calls[c->call_count] = (struct call){0};
        td_buf_init(&c->calls[c->call_count++].arguments, w->spec.bytes_max);
    }
    struct call *call = &c->calls[ev->tool.index];
    if (!call->id.n)
        call->id = ev->tool.id.n ? td_arena_str(&w->arena, ev->tool.id)
                                 : made_id(w, (uint32_t)(c - w->choices), ev->tool.index);
    if (!call->name.n)
        call->name = td_arena_str(&w->arena, ev->tool.name);
    if (!call->id.p || !call->name.p)
        return TD_ERR_NOMEM;
    return td_buf_add_str(&call->arguments, ev->tool.arguments);
}

static enum td_err keep_tokens(struct td_answer_writer *w, struct choice *c, const struct td_event *ev) {
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
            emit_chat_tokens(&m, w, ev->delta.tokens, ev->delta.token_count);
        else
            emit_completion_tokens(&m, w, ev->delta.tokens, ev->delta.token_count, list, c->characters);
        td_emit_finish(&m);
        err = m.err;
    }
    c->characters += characters(ev->delta.text);
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

static enum td_err keep_vector(struct td_answer_writer *w, const struct td_event *ev) {
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

static enum td_err whole_event(struct td_answer_writer *w, const struct td_event *ev) {
    struct choice *c = &w->choices[ev->choice];
    enum td_err err = TD_OK;
    if (ev->raw) {
        td_json *choice = raw_choice(ev->raw, ev->choice);
        err = keep_unknown(w, &w->extras, ev->raw, td_openai_known_top);
        if (err == TD_OK)
            err = keep_unknown(w, &c->extras, choice, td_openai_known_choice);
        if (err == TD_OK)
            err = keep_unknown(w, &c->message_extras, raw_message(choice), td_openai_known_delta);
    }
    if (err != TD_OK)
        return err;
    c->role_sent = true;
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
        return keep_vector(w, ev);
    case TD_EV_END:
    case TD_EV_ERROR:
        return TD_ERR_USAGE;
    default:
        if (ev->choice >= w->spec.choices)
            return TD_OK; // more choices than were asked for
        return w->spec.stream ? stream_event(w, ev, out) : whole_event(w, ev);
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
    emit_revision(&m, w, true, final);
    td_emit_close(&m);
    td_emit_lit(&m, "}\n\n");
    td_emit_finish(&m);
    if (m.err != TD_OK)
        out->n = before;
    return m.err;
}

// --- the end ---

static const struct td_usage *final_usage(const struct td_answer_writer *w, const struct td_answer_meta *meta) {
    return meta && meta->usage ? meta->usage : w->has_usage ? &w->usage : NULL;
}

static void end_stream(struct td_emit *m, struct td_answer_writer *w, const struct td_answer_meta *meta) {
    const struct td_usage *usage = final_usage(w, meta);
    if (w->spec.include_usage) {
        flush_pending(m, w);
        td_emit_raw(m, w->head.p, w->head.n);
        td_emit_lit(m, "\"choices\":[],\"usage\":");
        if (usage)
            emit_usage(m, usage, false);
        else
            td_emit_lit(m, "null");
    } else if (w->pending.n) {
        td_emit_raw(m, w->pending.p, w->pending.n);
        td_buf_clear(&w->pending);
    } else {
        emit_frame(m, w, 0, NULL, NULL);
    }
    emit_meta(m, w, meta);
    td_emit_lit(m, "}\n\ndata: [DONE]\n\n");
}

static void emit_calls(struct td_emit *m, const struct choice *c) {
    td_emit_lit(m, ",\"tool_calls\":[");
    for (uint32_t i = 0; i < c->call_count; i++) {
        const struct call *call = &c->calls[i];
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

static void emit_kept_logprobs(struct td_emit *m, const struct td_answer_writer *w, const struct choice *c) {
    td_emit_lit(m, ",\"logprobs\":");
    if (c->logprobs[0].n == 0) {
        td_emit_lit(m, "null");
    } else if (w->spec.kind == TD_KIND_CHAT) {
        td_emit_lit(m, "{\"content\":[");
        td_emit_raw(m, c->logprobs[0].p, c->logprobs[0].n);
        td_emit_lit(m, "],\"refusal\":null}");
    } else {
        for (int list = 0; list < LP_COUNT; list++) {
            td_emit_raw(m, completion_lists[list], strlen(completion_lists[list]));
            td_emit_raw(m, c->logprobs[list].p, c->logprobs[list].n);
        }
        td_emit_lit(m, "]}");
    }
}

static void emit_choice(struct td_emit *m, const struct td_answer_writer *w, uint32_t index) {
    const struct choice *c = &w->choices[index];
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

static void end_whole(struct td_emit *m, struct td_answer_writer *w, const struct td_answer_meta *meta) {
    const struct td_usage *usage = final_usage(w, meta);
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
        for (uint32_t i = 0; i < w->spec.choices; i++) {
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
        emit_usage(m, usage ? usage : &(struct td_usage){.estimated = true}, embedding);
    }
    td_emit_raw(m, w->extras.json.p, w->extras.json.n);
    emit_meta(m, w, meta);
    td_emit_lit(m, "}");
}

// Nothing that began may lack its finish: a truncated answer is no success.
static bool is_complete(const struct td_answer_writer *w) {
    bool any = w->vector_count > 0;
    if (w->spec.kind == TD_KIND_EMBEDDING)
        return any;
    for (uint32_t i = 0; i < w->spec.choices; i++) {
        if (w->choices[i].role_sent && !w->choices[i].finished)
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
        end_whole(&m, w, meta);
    td_emit_finish(&m);
    if (m.err != TD_OK)
        out->n = before;
    return m.err;
}

enum td_err td_openai_answer_keepalive(struct td_buf *out) {
    return td_buf_addz(out, ": keep-alive\n\n");
}

enum td_err td_openai_answer_fail(struct td_answer_writer *w, enum td_err err, struct td_str message,
                                  const struct td_answer_meta *meta, struct td_buf *out) {
    struct td_emit m;
    size_t before = out->n;
    td_emit_init(&m, out);
    td_buf_clear(&w->pending); // what failed did not finish
    td_emit_lit(&m, "data: {");
    td_openai_emit_error(&m, err, 0, message, TD_STR_NONE, NULL);
    emit_meta(&m, w, meta);
    td_emit_lit(&m, "}\n\n");
    td_emit_finish(&m);
    if (m.err != TD_OK)
        out->n = before;
    return m.err;
}
