// SPDX-License-Identifier: Apache-2.0
// Reads one reply. The body is sorted by its first byte: '{' or '[' begins one JSON document (also where a stream was
// asked for), anything else is an event stream.
//
//   reading ──[DONE] or end, all finished──▶ ended (END)
//      └──error object, cut, too large, stop──▶ ended (ERROR, or nothing after stop)
//
// Its tool calls, token probabilities and vectors are read in openai_calls.c, openai_tokens.c and openai_vectors.c.
#include "wire/openai_provider.h"

#include "wire/openai_keys.h"
#include "wire/openai_reader.h"

// ---- handing up

void td_or_hand_up(struct td_reader *r, struct td_event *ev) {
    if (r->ended)
        return;
    ev->damaged = r->damaged;
    r->damaged = false;
    if (r->raw && ev->type != TD_EV_START && ev->type != TD_EV_USAGE && ev->type != TD_EV_EMBEDDING) {
        struct td_or_choice *c = &r->choices[ev->choice];
        ev->raw = c->raw_given ? NULL : r->raw;
        c->raw_given = true;
    }
    r->spec.on_event(r->spec.user, ev);
}

void td_or_end_with(struct td_reader *r, struct td_event *ev) {
    if (r->ended)
        return;
    r->raw = NULL;
    td_or_hand_up(r, ev);
    r->ended = true;
}

void td_or_fail(struct td_reader *r, enum td_err code, const char *message) {
    td_or_end_with(r, &(struct td_event){.type = TD_EV_ERROR, .error = {.code = code, .message = td_str_of(message)}});
}

static void fail_as(struct td_reader *r, int status, struct td_str body) {
    struct td_upstream_error e;
    td_openai_read_error(status, TD_STR_NONE, TD_STR_NONE, 0, body, &e);
    td_or_end_with(r, &(struct td_event){.type = TD_EV_ERROR,
                                         .error = {.code = e.code,
                                                   .message = td_str_of(e.message),
                                                   .http_status = status,
                                                   .retry_after_ms = e.retry_after_ms}});
}

void td_or_no_memory(struct td_reader *r) {
    td_or_fail(r, TD_ERR_NOMEM, td_err_text(TD_ERR_NOMEM));
}

static void hand_up_text(struct td_reader *r, enum td_event_type type, uint32_t choice, struct td_str text,
                         const struct td_token *tokens, uint32_t token_count) {
    td_or_hand_up(r, &(struct td_event){.type = type,
                                        .choice = choice,
                                        .delta = {.text = text, .tokens = tokens, .token_count = token_count}});
}

void td_or_start(struct td_reader *r, td_json *root) {
    if (r->started)
        return;
    r->started = true;
    td_or_hand_up(r, &(struct td_event){.type = TD_EV_START,
                                        .start = {.model = td_json_get_str(root, "model"),
                                                  .provider_id = td_json_get_str(root, "id")}});
}

// ---- choices

static void take_content(struct td_reader *r, uint32_t choice, td_json *content, td_json *obj) {
    struct td_or_tokens t = {0};
    size_t i, max;
    td_json *part;
    td_or_read_tokens(&t, obj, "content");
    if (yyjson_is_arr(content)) { // Mistral: parts, some of them thinking
        yyjson_arr_foreach(content, i, max, part) {
            struct td_str text = td_json_get_str(part, "text");
            td_json *thinking = td_json_get(part, "thinking");
            if (text.n)
                hand_up_text(r, TD_EV_DELTA, choice, text, NULL, 0);
            if (yyjson_is_arr(thinking))
                text = td_json_get_str(yyjson_arr_get_first(thinking), "text");
            else
                text = td_json_str(thinking);
            if (text.n)
                hand_up_text(r, TD_EV_REASONING, choice, text, NULL, 0);
        }
    } else if (yyjson_is_str(content) || t.count) {
        struct td_str text = td_json_str(content);
        if (text.n || t.count)
            hand_up_text(r, TD_EV_DELTA, choice, text, t.list, t.count);
    }
    if (content && !yyjson_is_arr(content) && !yyjson_is_str(content))
        r->damaged = true;
    td_arena_finish(&t.arena);
}

static void take_refusal(struct td_reader *r, uint32_t choice, td_json *message, td_json *obj) {
    struct td_str text = td_json_get_str(message, "refusal");
    if (text.n == 0)
        return;
    struct td_or_tokens t = {0};
    td_or_read_tokens(&t, obj, "refusal");
    hand_up_text(r, TD_EV_REFUSAL, choice, text, t.list, t.count);
    td_arena_finish(&t.arena);
}

static void take_finish(struct td_reader *r, uint32_t choice, struct td_str reason) {
    static const struct {
        const char *word;
        enum td_finish finish;
    } words[] = {
        {"stop", TD_FINISH_STOP},
        {"length", TD_FINISH_LENGTH},
        {"tool_calls", TD_FINISH_TOOL_CALLS},
        {"content_filter", TD_FINISH_CONTENT_FILTER},
        {"function_call", TD_FINISH_TOOL_CALLS},
        {"max_tokens", TD_FINISH_LENGTH},         // Anthropic's word through compatible front ends
        {"model_length", TD_FINISH_LENGTH},       // Mistral
        {"tool_use", TD_FINISH_TOOL_CALLS},       // Anthropic
        {"safety", TD_FINISH_CONTENT_FILTER},     // Google
        {"refusal", TD_FINISH_CONTENT_FILTER},    // Anthropic
        {"sensitive", TD_FINISH_CONTENT_FILTER},  // Zhipu
        {"RECITATION", TD_FINISH_CONTENT_FILTER}, // Google
    };
    // Words for "it broke": an answer that ends so is cut, not finished.
    static const char *const broken[] = {"error", "abort", "insufficient_system_resource", "network_error"};
    if (reason.n == 0)
        return;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        if (td_str_is(reason, broken[i])) {
            td_or_fail(r, TD_ERR_CUT, "the upstream broke off its answer");
            return;
        }
    }
    enum td_finish finish = TD_FINISH_STOP; // what is left are names for the end of text
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (td_str_is(reason, words[i].word))
            finish = words[i].finish;
    struct td_or_choice *c = &r->choices[choice];
    for (uint32_t i = 0; i < c->call_count; i++)
        r->damaged = r->damaged || !c->calls[i].started; // a call that never had a name
    td_or_hand_up(r, &(struct td_event){.type = TD_EV_FINISH, .choice = choice, .finish = {.reason = finish}});
    c->finished = true;
}

static bool has_unknown(td_json *obj, bool (*known)(struct td_str)) {
    size_t i, max;
    td_json *key, *v;
    if (!yyjson_is_obj(obj))
        return false;
    yyjson_obj_foreach(obj, i, max, key, v) {
        if (!yyjson_is_null(v) && !known(td_json_str(key)))
            return true;
    }
    return false;
}

// Only a chunk with fields of its provider's own is worth handing along.
static bool tells_more(td_json *root) {
    size_t i, max;
    td_json *choice;
    if (has_unknown(root, td_openai_known_top))
        return true;
    yyjson_arr_foreach(td_json_get(root, "choices"), i, max, choice) {
        td_json *delta = td_json_get(choice, "delta");
        if (has_unknown(choice, td_openai_known_choice) ||
            has_unknown(delta ? delta : td_json_get(choice, "message"), td_openai_known_delta))
            return true;
    }
    return false;
}

static void take_choice(struct td_reader *r, td_json *obj, uint32_t position, bool whole) {
    int64_t index = td_json_get_int(obj, "index", position);
    if (!yyjson_is_obj(obj) || index < 0 || index >= TD_CHOICES_MAX) {
        r->damaged = true;
        return;
    }
    uint32_t choice = (uint32_t)index;
    struct td_or_choice *c = &r->choices[choice];
    if (c->finished)
        return;
    c->seen = true;
    td_json *message = td_json_get(obj, "delta"), *text = td_json_get(obj, "text");
    if (!message)
        message = td_json_get(obj, "message");
    if (message && !yyjson_is_obj(message)) {
        r->damaged = true;
        message = NULL;
    }
    td_json *thought = td_json_get(message, "reasoning_content"), *calls = td_json_get(message, "tool_calls"), *v;
    if (!thought)
        thought = td_json_get(message, "reasoning");
    if (yyjson_is_str(thought) && yyjson_get_len(thought))
        hand_up_text(r, TD_EV_REASONING, choice, td_json_str(thought), NULL, 0);
    take_content(r, choice, message ? td_json_get(message, "content") : text, obj);
    take_refusal(r, choice, message, obj);
    size_t i, max;
    if (yyjson_is_arr(calls)) {
        yyjson_arr_foreach(calls, i, max, v) {
            td_or_take_call(r, choice, v, whole);
        }
    } else if (calls) {
        r->damaged = true;
    }
    if (yyjson_is_obj(td_json_get(message, "function_call")))
        td_or_take_function_call(r, choice, td_json_get(message, "function_call"));
    if (r->raw && !c->raw_given &&
        (has_unknown(message, td_openai_known_delta) || has_unknown(obj, td_openai_known_choice)) &&
        !td_json_get(obj, "finish_reason"))
        hand_up_text(r, TD_EV_DELTA, choice, TD_STR_NONE, NULL, 0);
    td_json *finish = td_json_get(obj, "finish_reason");
    if (yyjson_is_str(finish))
        take_finish(r, choice, td_json_str(finish));
    else if (finish)
        r->damaged = true;
    else if (whole) // a whole body has no other way to say it
        take_finish(r, choice, TD_STR("stop"));
}

// ---- usage

static uint32_t get_count(td_json *obj, const char *key) {
    int64_t v = td_json_get_int(obj, key, 0);
    return v < 0 ? 0 : v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

void td_or_take_usage(struct td_reader *r, td_json *v) {
    if (!yyjson_is_obj(v))
        return;
    struct td_usage u = {.prompt_tokens = get_count(v, "prompt_tokens"),
                         .completion_tokens = get_count(v, "completion_tokens")};
    u.cached_tokens = get_count(td_json_get(v, "prompt_tokens_details"), "cached_tokens");
    if (!u.cached_tokens)
        u.cached_tokens = get_count(v, "prompt_cache_hit_tokens"); // DeepSeek
    if (u.cached_tokens > u.prompt_tokens)
        u.cached_tokens = u.prompt_tokens;
    u.reasoning_tokens = get_count(td_json_get(v, "completion_tokens_details"), "reasoning_tokens");
    if (u.reasoning_tokens > u.completion_tokens)
        u.reasoning_tokens = u.completion_tokens;
    if (r->has_usage && u.prompt_tokens == r->usage.prompt_tokens &&
        u.completion_tokens == r->usage.completion_tokens && u.cached_tokens == r->usage.cached_tokens &&
        u.reasoning_tokens == r->usage.reasoning_tokens)
        return;
    r->usage = u;
    r->has_usage = true;
    td_or_hand_up(r, &(struct td_event){.type = TD_EV_USAGE, .usage = u});
}

// ---- chunks and bodies

static bool is_error(td_json *root, struct td_str event_name) {
    struct td_str object = td_json_get_str(root, "object"), type = td_json_get_str(root, "type");
    return td_json_get(root, "error") || td_str_is(object, "error") || td_str_is(type, "error") ||
           td_str_is(event_name, "error");
}

static void take_root(struct td_reader *r, td_json *root, bool whole) {
    td_json *choices = td_json_get(root, "choices"), *usage = td_json_get(root, "usage"), *v;
    size_t i, max;
    if (!yyjson_is_arr(choices) && !yyjson_is_obj(usage)) {
        r->damaged = r->damaged || choices; // without the member it is a ping or a note: no text can be lost with it
        return;
    }
    r->any_good = true;
    td_or_start(r, root);
    for (uint32_t k = 0; k < TD_CHOICES_MAX; k++)
        r->choices[k].raw_given = false;
    r->raw = r->spec.raw && tells_more(root) ? root : NULL;
    if (yyjson_is_arr(choices)) {
        yyjson_arr_foreach(choices, i, max, v) {
            take_choice(r, v, (uint32_t)i, whole);
        }
    }
    td_or_take_usage(r, usage);
    r->raw = NULL;
}

// With fields of its provider's own that shall be handed along, each chunk is looked at.
static void take_chunk(struct td_reader *r, td_json *root, struct td_str data) {
    take_root(r, root, false);
    if (!r->ended && r->any_good && !(r->spec.raw && tells_more(root)))
        td_alike_learn(&r->alike, data, root);
}

static uint32_t finished_count(const struct td_reader *r, bool *open) {
    uint32_t n = 0;
    *open = false;
    for (uint32_t i = 0; i < TD_CHOICES_MAX; i++) {
        n += r->choices[i].finished;
        *open = *open || (r->choices[i].seen && !r->choices[i].finished);
    }
    return n;
}

bool td_openai_reader_is_complete(const struct td_reader *r) {
    bool open;
    uint32_t n = finished_count(r, &open);
    return !open && n && (r->done || n >= r->spec.choices);
}

// A connection that broke is a cut whatever came before; one that ended well without a single readable event is
// garbage.
static void finish_stream(struct td_reader *r, bool clean) {
    if (td_openai_reader_is_complete(r))
        td_or_end_with(r, &(struct td_event){.type = TD_EV_END});
    else if (r->any_good || !clean)
        td_or_fail(r, TD_ERR_CUT, td_err_text(TD_ERR_CUT));
    else
        td_or_fail(r, TD_ERR_UPSTREAM_GARBAGE, td_err_text(TD_ERR_UPSTREAM_GARBAGE));
}

// A chunk that has only another text than one before, which was read and was sound.
static bool take_alike(struct td_reader *r, const struct td_sse_event *ev, struct td_str data) {
    struct td_str text;
    if (ev->name.n || !td_alike_text(&r->alike, data, &text))
        return false;
    if (text.n && !r->choices[r->alike.choice].finished)
        hand_up_text(r, TD_EV_DELTA, r->alike.choice, text, NULL, 0);
    return true;
}

static bool on_sse(void *user, const struct td_sse_event *ev) {
    struct td_reader *r = user;
    struct td_str data = td_str_trim(ev->data);
    td_json *root;
    if (r->ended)
        return false;
    if (data.n == 0)
        return true;
    if (td_str_is(data, "[DONE]")) {
        r->done = true;
        finish_stream(r, true);
        return false;
    }
    if (take_alike(r, ev, data))
        return !r->ended;
    // Nothing of an event's tree is needed after it: between two of them a stream holds none.
    struct td_json_pool pool = {0};
    enum td_err err = td_json_parse_pooled(&pool, data, TD_JSON_DEPTH_MAX, &root, NULL);
    if (err == TD_ERR_NOMEM)
        td_or_no_memory(r);
    else if (err != TD_OK || !yyjson_is_obj(root))
        r->damaged = true;
    else if (is_error(root, ev->name))
        fail_as(r, 0, data);
    else
        take_chunk(r, root, data);
    td_json_pool_finish(&pool);
    return !r->ended;
}

static void take_whole(struct td_reader *r, bool clean) {
    struct td_arena arena;
    td_json *root = NULL;
    td_arena_init(&arena, 1u << 20);
    struct td_str body = td_buf_str(&r->body);
    enum td_err err = td_json_parse(&arena, body, TD_JSON_DEPTH_MAX, &root, NULL);
    if (err == TD_ERR_NOMEM) {
        td_or_no_memory(r);
    } else if (err != TD_OK) {
        err = clean ? TD_ERR_UPSTREAM_GARBAGE : TD_ERR_CUT;
        td_or_fail(r, err, td_err_text(err));
    } else if (is_error(root, TD_STR_NONE)) {
        fail_as(r, 0, body);
    } else if (r->spec.kind == TD_KIND_EMBEDDING) {
        td_or_take_vectors(r, root);
    } else {
        take_root(r, root, true);
        r->done = true;
        if (td_openai_reader_is_complete(r))
            td_or_end_with(r, &(struct td_event){.type = TD_EV_END});
        else
            td_or_fail(r, TD_ERR_UPSTREAM_GARBAGE, td_err_text(TD_ERR_UPSTREAM_GARBAGE));
    }
    td_arena_finish(&arena);
}

// ---- the object

enum td_err td_openai_reader_create(const struct td_reader_spec *spec, struct td_reader **out) {
    struct td_reader *r = td_calloc(1, sizeof *r);
    if (!r)
        return TD_ERR_NOMEM;
    r->spec = *spec;
    if (r->spec.choices == 0)
        r->spec.choices = 1;
    if (r->spec.reply_bytes_max == 0)
        r->spec.reply_bytes_max = TD_REPLY_BYTES_MAX;
    if (r->spec.line_bytes_max == 0)
        r->spec.line_bytes_max = TD_SSE_LINE_BYTES_MAX;
    r->spec.id = td_str_n(r->id, spec->id.n < sizeof r->id ? spec->id.n : sizeof r->id - 1);
    if (r->spec.id.n) // zeroed before, so it ends in NUL
        memcpy(r->id, spec->id.p, r->spec.id.n);
    td_sse_init(&r->sse, r->spec.line_bytes_max, on_sse, r);
    td_buf_init(&r->body, r->spec.reply_bytes_max);
    td_alike_init(&r->alike);
    *out = r;
    return TD_OK;
}

void td_openai_reader_destroy(struct td_reader *r) {
    if (!r)
        return;
    for (uint32_t i = 0; i < TD_CHOICES_MAX; i++)
        td_or_free_calls(&r->choices[i]);
    td_sse_finish(&r->sse);
    td_buf_finish(&r->body);
    td_alike_finish(&r->alike);
    td_free(r);
}

void td_openai_reader_stop(struct td_reader *r) {
    r->ended = true;
}

static void sort_form(struct td_reader *r, struct td_str *piece) {
    while (piece->n && (piece->p[0] == ' ' || piece->p[0] == '\t' || piece->p[0] == '\r' || piece->p[0] == '\n'))
        piece->p++, piece->n--;
    if (piece->n)
        r->form = piece->p[0] == '{' || piece->p[0] == '[' ? FORM_WHOLE : FORM_EVENTS;
}

bool td_openai_reader_feed(struct td_reader *r, struct td_str piece) {
    if (r->ended)
        return false;
    if (piece.n > r->spec.reply_bytes_max - r->bytes) {
        td_or_fail(r, TD_ERR_UPSTREAM_GARBAGE, "the upstream's answer is larger than allowed");
        return false;
    }
    r->bytes += piece.n;
    if (r->form == FORM_UNKNOWN)
        sort_form(r, &piece);
    if (r->form == FORM_UNKNOWN)
        return true;
    enum td_err err = r->form == FORM_EVENTS ? td_sse_feed(&r->sse, piece) : td_buf_add_str(&r->body, piece);
    if (err == TD_ERR_NOMEM)
        td_or_no_memory(r);
    else if (err != TD_OK)
        td_or_fail(r, TD_ERR_UPSTREAM_GARBAGE, "a line of the upstream's answer is longer than allowed");
    return !r->ended;
}

void td_openai_reader_finish(struct td_reader *r, bool clean) {
    if (r->ended)
        return;
    if (r->form == FORM_WHOLE) {
        take_whole(r, clean);
        return;
    }
    enum td_err err = td_sse_end(&r->sse);
    if (err == TD_ERR_NOMEM)
        td_or_no_memory(r);
    else
        finish_stream(r, clean);
}

void td_openai_reader_near(const struct td_reader *r, struct td_near *near) {
    td_near_add(near, r, offsetof(struct td_reader, choices) + sizeof r->choices[0]);
    td_near_add(near, r->alike.around.p, r->alike.around.n);
}
