// SPDX-License-Identifier: Apache-2.0
// Reads one reply. The body is sorted by its first byte: '{' or '[' begins one JSON document (also where a stream was
// asked for), anything else is an event stream.
//
//   reading ──[DONE] or end, all finished──▶ ended (END)
//      └──error object, cut, too large, stop──▶ ended (ERROR, or nothing after stop)
#include "wire/openai_provider.h"

#include <math.h>
#include <stdio.h>

#include "base/limits.h"
#include "wire/alike.h"
#include "wire/openai_keys.h"
#include "wire/sse.h"

enum form { FORM_UNKNOWN, FORM_EVENTS, FORM_WHOLE };

// A tool call as its pieces come in. Until its name is known nothing of it is handed up.
struct call {
    int64_t provider_index; // -1: the provider gives none
    uint64_t id_hash;       // 0: it gave no id
    bool started;
    struct td_buf id, arguments; // before the start
};

struct choice {
    bool seen, finished, raw_given;
    struct call *calls;
    uint32_t call_count, call_room;
};

struct td_reader {
    // What every event asks for.
    struct td_reader_spec spec;
    enum form form;
    bool started, ended, done, damaged, any_good, has_usage;
    size_t bytes;
    td_json *raw; // the chunk being read, where events shall carry it
    struct td_alike alike;
    struct td_sse sse;
    struct choice choices[TD_CHOICES_MAX];

    char id[64];
    struct td_buf body; // of a whole reply
    struct td_usage usage;
};

// --- handing up ---

static void hand_up(struct td_reader *r, struct td_event *ev) {
    if (r->ended)
        return;
    ev->damaged = r->damaged;
    r->damaged = false;
    if (r->raw && ev->type != TD_EV_START && ev->type != TD_EV_USAGE && ev->type != TD_EV_EMBEDDING) {
        struct choice *c = &r->choices[ev->choice];
        ev->raw = c->raw_given ? NULL : r->raw;
        c->raw_given = true;
    }
    r->spec.on_event(r->spec.user, ev);
}

static void end_with(struct td_reader *r, struct td_event *ev) {
    if (r->ended)
        return;
    r->raw = NULL;
    hand_up(r, ev);
    r->ended = true;
}

static void fail(struct td_reader *r, enum td_err code, const char *message) {
    end_with(r, &(struct td_event){.type = TD_EV_ERROR, .error = {.code = code, .message = td_str_of(message)}});
}

static void fail_as(struct td_reader *r, int status, struct td_str body) {
    struct td_upstream_error e;
    td_openai_read_error(status, TD_STR_NONE, TD_STR_NONE, 0, body, &e);
    end_with(r, &(struct td_event){.type = TD_EV_ERROR,
                                   .error = {.code = e.code,
                                             .message = td_str_of(e.message),
                                             .http_status = status,
                                             .retry_after_ms = e.retry_after_ms}});
}

static void no_memory(struct td_reader *r) {
    fail(r, TD_ERR_NOMEM, td_err_text(TD_ERR_NOMEM));
}

static void hand_up_text(struct td_reader *r, enum td_event_type type, uint32_t choice, struct td_str text,
                         const struct td_token *tokens, uint32_t token_count) {
    hand_up(r, &(struct td_event){.type = type,
                                  .choice = choice,
                                  .delta = {.text = text, .tokens = tokens, .token_count = token_count}});
}

static void start(struct td_reader *r, td_json *root) {
    if (r->started)
        return;
    r->started = true;
    hand_up(r, &(struct td_event){
                   .type = TD_EV_START,
                   .start = {.model = td_json_get_str(root, "model"), .provider_id = td_json_get_str(root, "id")}});
}

// --- token probabilities ---

struct tokens {
    struct td_arena arena;
    struct td_token *list;
    uint32_t count;
};

// The exact bytes where the provider gives them, else the text.
static struct td_str token_bytes(struct td_arena *a, td_json *obj) {
    td_json *bytes = td_json_get(obj, "bytes"), *v;
    size_t i, max;
    if (!yyjson_is_arr(bytes))
        return td_json_get_str(obj, "token");
    char *p = td_arena_alloc(a, yyjson_arr_size(bytes) + 1);
    if (!p)
        return TD_STR_NONE;
    yyjson_arr_foreach(bytes, i, max, v) {
        if (!yyjson_is_uint(v) || yyjson_get_uint(v) > 255)
            return td_json_get_str(obj, "token");
        p[i] = (char)yyjson_get_uint(v);
    }
    return td_str_n(p, yyjson_arr_size(bytes));
}

static struct td_token read_token(struct td_arena *a, td_json *obj) {
    double logprob = td_json_get_num(obj, "logprob", NAN);
    return (struct td_token){.text = token_bytes(a, obj), .logprob = (float)logprob, .entropy = NAN};
}

// Chat: [{token, logprob, bytes, top_logprobs: [{…}]}]
static void read_chat_tokens(struct tokens *t, td_json *list) {
    size_t i, max, k, top_max;
    td_json *v, *alternative;
    if (!yyjson_is_arr(list) || yyjson_arr_size(list) == 0)
        return;
    t->list = td_arena_array(&t->arena, yyjson_arr_size(list), sizeof *t->list);
    yyjson_arr_foreach(list, i, max, v) {
        if (!t->list || !yyjson_is_obj(v))
            return;
        struct td_token *token = &t->list[t->count++];
        *token = read_token(&t->arena, v);
        td_json *top = td_json_get(v, "top_logprobs");
        if (!yyjson_is_arr(top) || yyjson_arr_size(top) == 0)
            continue;
        struct td_token *tops = td_arena_array(&t->arena, yyjson_arr_size(top), sizeof *tops);
        yyjson_arr_foreach(top, k, top_max, alternative) {
            if (tops && yyjson_is_obj(alternative) && k < TD_LOGPROBS_MAX)
                tops[token->top_count++] = read_token(&t->arena, alternative);
        }
        token->top = tops;
    }
}

// Completions: parallel lists {tokens, token_logprobs, top_logprobs: [{text: logprob}]}
static void read_completion_tokens(struct tokens *t, td_json *logprobs) {
    td_json *texts = td_json_get(logprobs, "tokens"), *values = td_json_get(logprobs, "token_logprobs");
    td_json *tops = td_json_get(logprobs, "top_logprobs"), *v, *key, *p;
    size_t i, max, k, top_max;
    if (!yyjson_is_arr(texts) || !yyjson_is_arr(values) || yyjson_arr_size(texts) != yyjson_arr_size(values))
        return;
    t->list = td_arena_array(&t->arena, yyjson_arr_size(texts), sizeof *t->list);
    td_json *value = yyjson_arr_get_first(values), *top = yyjson_is_arr(tops) ? yyjson_arr_get_first(tops) : NULL;
    size_t top_left = yyjson_is_arr(tops) ? yyjson_arr_size(tops) : 0;
    yyjson_arr_foreach(texts, i, max, v) {
        if (!t->list)
            return;
        struct td_token *token = &t->list[t->count++];
        *token = (struct td_token){.text = td_json_str(v),
                                   .logprob = yyjson_is_num(value) ? (float)yyjson_get_num(value) : NAN,
                                   .entropy = NAN};
        if (top_left && yyjson_is_obj(top)) {
            struct td_token *list = td_arena_array(&t->arena, yyjson_obj_size(top), sizeof *list);
            yyjson_obj_foreach(top, k, top_max, key, p) {
                if (list && yyjson_is_num(p) && token->top_count < TD_LOGPROBS_MAX)
                    list[token->top_count++] = (struct td_token){
                        .text = td_json_str(key), .logprob = (float)yyjson_get_num(p), .entropy = NAN};
            }
            token->top = list;
        }
        value = unsafe_yyjson_get_next(value);
        if (top_left && --top_left)
            top = unsafe_yyjson_get_next(top);
    }
}

static void read_tokens(struct tokens *t, td_json *choice, const char *list) {
    td_json *logprobs = td_json_get(choice, "logprobs");
    td_arena_init(&t->arena, TD_REPLY_BYTES_MAX);
    if (!yyjson_is_obj(logprobs))
        return;
    read_chat_tokens(t, td_json_get(logprobs, list));
    if (t->count == 0 && list[0] == 'c')
        read_completion_tokens(t, logprobs);
}

// --- tool calls ---

static uint64_t hash(struct td_str s) { // FNV-1a; never 0 for text
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * 1099511628211u;
    return s.n ? h | 1 : 0;
}

static struct call *new_call(struct td_reader *r, struct choice *c, int64_t index, struct td_str id) {
    if (c->call_count == TD_TOOL_CALLS_MAX) {
        r->damaged = true;
        return NULL;
    }
    if (c->call_count == c->call_room) {
        uint32_t room = c->call_room ? c->call_room * 2 : 2;
        struct call *calls = td_realloc(c->calls, room * sizeof *calls);
        if (!calls) {
            no_memory(r);
            return NULL;
        }
        c->calls = calls;
        c->call_room = room;
    }
    struct call *call = &c->calls[c->call_count++];
    *call = (struct call){.provider_index = index, .id_hash = hash(id)};
    td_buf_init(&call->id, 1024);
    td_buf_init(&call->arguments, TD_SSE_LINE_BYTES_MAX);
    return call;
}

// Which call a piece belongs to. Providers differ: most number the calls; some give every call the index 0 but a new
// id; some leave the index out and send each call whole.
static struct call *find_call(struct td_reader *r, struct choice *c, int64_t index, struct td_str id, bool named) {
    for (uint32_t i = c->call_count; i-- > 0;) {
        struct call *call = &c->calls[i];
        if (index >= 0 ? call->provider_index != index : id.n && call->id_hash != hash(id))
            continue;
        if (index >= 0 && named && id.n && call->id_hash && call->id_hash != hash(id))
            break;
        if (index < 0 && !id.n && named)
            break;
        return call;
    }
    return new_call(r, c, index, id);
}

static void hand_up_call(struct td_reader *r, uint32_t choice, struct call *call, struct td_str id, struct td_str name,
                         struct td_str arguments) {
    uint32_t index = (uint32_t)(call - r->choices[choice].calls);
    hand_up(r, &(struct td_event){.type = TD_EV_TOOL_CALL,
                                  .choice = choice,
                                  .tool = {.index = index, .id = id, .name = name, .arguments = arguments}});
}

static void take_piece(struct td_reader *r, uint32_t choice, struct call *call, struct td_str id, struct td_str name,
                       struct td_str arguments) {
    char made[128];
    if (call->started) {
        if (arguments.n)
            hand_up_call(r, choice, call, TD_STR_NONE, TD_STR_NONE, arguments);
        return;
    }
    enum td_err err = TD_OK;
    if (call->id.n == 0)
        err = td_buf_add_str(&call->id, id);
    if (err == TD_OK && (name.n == 0 || call->arguments.n))
        err = td_buf_add_str(&call->arguments, arguments);
    if (err != TD_OK) {
        fail(r, err == TD_ERR_NOMEM ? err : TD_ERR_UPSTREAM_GARBAGE, "a tool call of the upstream is too large");
        return;
    }
    if (name.n == 0)
        return;
    call->started = true;
    if (call->id.n == 0) {
        snprintf(made, sizeof made, "call_%s%u_%u", r->id, choice, (unsigned)(call - r->choices[choice].calls));
        id = td_str_of(made);
    } else {
        id = td_buf_str(&call->id);
    }
    hand_up_call(r, choice, call, id, name, call->arguments.n ? td_buf_str(&call->arguments) : arguments);
    td_buf_finish(&call->arguments);
}

static void take_call(struct td_reader *r, uint32_t choice, td_json *v, bool whole) {
    if (!yyjson_is_obj(v)) {
        r->damaged = true;
        return;
    }
    struct choice *c = &r->choices[choice];
    td_json *function = td_json_get(v, "function"), *arguments = td_json_get(function, "arguments");
    struct td_str id = td_json_get_str(v, "id"), name = td_json_get_str(function, "name"), text = TD_STR_NONE;
    struct td_buf written;
    td_buf_init(&written, TD_SSE_LINE_BYTES_MAX);
    if (yyjson_is_str(arguments)) {
        text = td_json_str(arguments);
    } else if (yyjson_is_obj(arguments)) { // Ollama's own form
        if (td_json_write(arguments, &written) == TD_OK)
            text = td_buf_str(&written);
        else
            r->damaged = true;
    } else if (arguments) {
        r->damaged = true;
    }
    int64_t index = td_json_get_int(v, "index", -1);
    struct call *call = whole ? new_call(r, c, index, id) : find_call(r, c, index < 0 ? -1 : index, id, name.n > 0);
    if (call)
        take_piece(r, choice, call, id, name, text);
    td_buf_finish(&written);
}

// The form before tool calls: one function without an id.
static void take_function_call(struct td_reader *r, uint32_t choice, td_json *v) {
    struct choice *c = &r->choices[choice];
    struct call *call = c->call_count ? &c->calls[0] : new_call(r, c, -1, TD_STR_NONE);
    if (call)
        take_piece(r, choice, call, TD_STR_NONE, td_json_get_str(v, "name"), td_json_get_str(v, "arguments"));
}

// --- choices ---

static void take_content(struct td_reader *r, uint32_t choice, td_json *content, td_json *obj) {
    struct tokens t = {0};
    size_t i, max;
    td_json *part;
    read_tokens(&t, obj, "content");
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
    struct tokens t = {0};
    read_tokens(&t, obj, "refusal");
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
            fail(r, TD_ERR_CUT, "the upstream broke off its answer");
            return;
        }
    }
    enum td_finish finish = TD_FINISH_STOP; // what is left are names for the end of text
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (td_str_is(reason, words[i].word))
            finish = words[i].finish;
    struct choice *c = &r->choices[choice];
    for (uint32_t i = 0; i < c->call_count; i++)
        r->damaged = r->damaged || !c->calls[i].started; // a call that never had a name
    hand_up(r, &(struct td_event){.type = TD_EV_FINISH, .choice = choice, .finish = {.reason = finish}});
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
    struct choice *c = &r->choices[choice];
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
            take_call(r, choice, v, whole);
        }
    } else if (calls) {
        r->damaged = true;
    }
    if (yyjson_is_obj(td_json_get(message, "function_call")))
        take_function_call(r, choice, td_json_get(message, "function_call"));
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

// --- usage, embeddings ---

static uint32_t get_count(td_json *obj, const char *key) {
    int64_t v = td_json_get_int(obj, key, 0);
    return v < 0 ? 0 : v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

static void take_usage(struct td_reader *r, td_json *v) {
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
    hand_up(r, &(struct td_event){.type = TD_EV_USAGE, .usage = u});
}

static int base64_digit(char c) {
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+' || c == '-' ? 62
           : c == '/' || c == '_' ? 63
                                  : -1;
}

// Little-endian floats. False where it is no base 64 of whole floats.
static bool read_base64(struct td_str s, float *out, uint32_t *count) {
    unsigned char *p = (unsigned char *)out;
    uint32_t bits = 0, have = 0;
    size_t n = 0;
    while (s.n && s.p[s.n - 1] == '=')
        s.n--;
    for (size_t i = 0; i < s.n; i++) {
        int d = base64_digit(s.p[i]);
        if (d < 0)
            return false;
        bits = bits << 6 | (uint32_t)d;
        have += 6;
        if (have >= 8) {
            have -= 8;
            p[n++] = (unsigned char)(bits >> have);
        }
    }
    *count = (uint32_t)(n / sizeof *out);
    return n && n % sizeof *out == 0;
}

static bool read_floats(td_json *list, float *out, uint32_t *count) {
    size_t i, max;
    td_json *v;
    yyjson_arr_foreach(list, i, max, v) {
        if (!yyjson_is_num(v))
            return false;
        out[i] = (float)yyjson_get_num(v);
    }
    *count = (uint32_t)yyjson_arr_size(list);
    return *count > 0;
}

static bool take_vector(struct td_reader *r, td_json *entry, uint32_t position) {
    td_json *v = td_json_get(entry, "embedding");
    size_t room = yyjson_is_str(v) ? yyjson_get_len(v) : yyjson_is_arr(v) ? yyjson_arr_size(v) * sizeof(float) : 0;
    float *values = room ? td_malloc(room + sizeof *values) : NULL;
    uint32_t count = 0;
    bool good = false;
    if (room && !values)
        no_memory(r);
    else if (values)
        good = yyjson_is_str(v) ? read_base64(td_json_str(v), values, &count) : read_floats(v, values, &count);
    int64_t index = td_json_get_int(entry, "index", position);
    good = good && index >= 0 && index < TD_INPUTS_MAX;
    if (good)
        hand_up(r, &(struct td_event){.type = TD_EV_EMBEDDING,
                                      .embedding = {.index = (uint32_t)index, .values = values, .count = count}});
    td_free(values);
    return good;
}

static void take_vectors(struct td_reader *r, td_json *root) {
    td_json *data = td_json_get(root, "data"), *v;
    size_t i, max;
    if (!yyjson_is_arr(data) || yyjson_arr_size(data) == 0 || yyjson_arr_size(data) > TD_INPUTS_MAX) {
        fail(r, TD_ERR_UPSTREAM_GARBAGE, "the upstream sent no embeddings");
        return;
    }
    start(r, root);
    yyjson_arr_foreach(data, i, max, v) {
        if (!take_vector(r, v, (uint32_t)i)) {
            fail(r, TD_ERR_UPSTREAM_GARBAGE, "the upstream sent an embedding that is none");
            return;
        }
    }
    take_usage(r, td_json_get(root, "usage"));
    end_with(r, &(struct td_event){.type = TD_EV_END});
}

// --- chunks and bodies ---

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
    start(r, root);
    for (uint32_t k = 0; k < TD_CHOICES_MAX; k++)
        r->choices[k].raw_given = false;
    r->raw = r->spec.raw && tells_more(root) ? root : NULL;
    if (yyjson_is_arr(choices)) {
        yyjson_arr_foreach(choices, i, max, v) {
            take_choice(r, v, (uint32_t)i, whole);
        }
    }
    take_usage(r, usage);
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
        end_with(r, &(struct td_event){.type = TD_EV_END});
    else if (r->any_good || !clean)
        fail(r, TD_ERR_CUT, td_err_text(TD_ERR_CUT));
    else
        fail(r, TD_ERR_UPSTREAM_GARBAGE, td_err_text(TD_ERR_UPSTREAM_GARBAGE));
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
        no_memory(r);
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
        no_memory(r);
    } else if (err != TD_OK) {
        fail(r,
             clean && err == TD_ERR_LIMIT ? TD_ERR_UPSTREAM_GARBAGE
             : clean                      ? TD_ERR_UPSTREAM_GARBAGE
                                          : TD_ERR_CUT,
             td_err_text(clean ? TD_ERR_UPSTREAM_GARBAGE : TD_ERR_CUT));
    } else if (is_error(root, TD_STR_NONE)) {
        fail_as(r, 0, body);
    } else if (r->spec.kind == TD_KIND_EMBEDDING) {
        take_vectors(r, root);
    } else {
        take_root(r, root, true);
        r->done = true;
        if (td_openai_reader_is_complete(r))
            end_with(r, &(struct td_event){.type = TD_EV_END});
        else
            fail(r, TD_ERR_UPSTREAM_GARBAGE, td_err_text(TD_ERR_UPSTREAM_GARBAGE));
    }
    td_arena_finish(&arena);
}

// --- the object ---

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
    for (uint32_t i = 0; i < TD_CHOICES_MAX; i++) {
        for (uint32_t k = 0; k < r->choices[i].call_count; k++) {
            td_buf_finish(&r->choices[i].calls[k].id);
            td_buf_finish(&r->choices[i].calls[k].arguments);
        }
        td_free(r->choices[i].calls);
    }
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
        fail(r, TD_ERR_UPSTREAM_GARBAGE, "the upstream's answer is larger than allowed");
        return false;
    }
    r->bytes += piece.n;
    if (r->form == FORM_UNKNOWN)
        sort_form(r, &piece);
    if (r->form == FORM_UNKNOWN)
        return true;
    enum td_err err = r->form == FORM_EVENTS ? td_sse_feed(&r->sse, piece) : td_buf_add_str(&r->body, piece);
    if (err == TD_ERR_NOMEM)
        no_memory(r);
    else if (err != TD_OK)
        fail(r, TD_ERR_UPSTREAM_GARBAGE, "a line of the upstream's answer is longer than allowed");
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
        no_memory(r);
    else
        finish_stream(r, clean);
}
