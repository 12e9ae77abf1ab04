// SPDX-License-Identifier: Apache-2.0
#include "wire/openai_request.h"

#include <math.h>

#include "wire/openai_body.h"
#include "wire/openai_keys.h"

static const char *const keys[] = {
#define X(name, key, kinds) key,
    TD_OPENAI_KEY_LIST(X)
#undef X
};

static enum td_err read_stop(struct td_openai_body *r, td_json *v) {
    struct td_request *req = r->req;
    uint64_t before = r->text_bytes;
    enum td_err err = TD_OK;
    if (yyjson_is_arr(v)) {
        size_t i, max;
        td_json *item;
        if (yyjson_arr_size(v) > TD_STOPS_MAX)
            return REFUSE(r, BAD_REQUEST, "stop", "'stop' has more than %u entries.", TD_STOPS_MAX);
        yyjson_arr_foreach(v, i, max, item) {
            if (err == TD_OK)
                err = td_openai_read_text(r, "stop", item, &req->stops[req->stop_count]);
            if (err == TD_OK && req->stops[req->stop_count].n) // an empty one would stop everywhere
                req->stop_count++;
        }
    } else if (yyjson_is_str(v)) {
        err = td_openai_read_text(r, "stop", v, &req->stops[0]);
        req->stop_count = err == TD_OK && req->stops[0].n;
    } else {
        return td_openai_wrong_type(r, "stop", "a string or an array of strings", v);
    }
    r->text_bytes = before;
    return err;
}

static enum td_err read_seed(struct td_openai_body *r, td_json *v) {
    if (!yyjson_is_int(v))
        return td_openai_wrong_type(r, "seed", "an integer", v);
    if (yyjson_is_uint(v) && yyjson_get_uint(v) > INT64_MAX)
        return REFUSE(r, BAD_REQUEST, "seed", "'seed' is larger than 64 bits.");
    r->req->seed = yyjson_get_sint(v);
    return TD_OK;
}

static enum td_err read_stream_options(struct td_openai_body *r, td_json *v) {
    if (!yyjson_is_obj(v))
        return td_openai_wrong_type(r, "stream_options", "an object", v);
    r->has_stream_options = true;
    td_json *usage = td_json_get(v, "include_usage");
    return usage ? td_openai_read_bool(r, "stream_options.include_usage", usage, &r->req->include_usage) : TD_OK;
}

// Chat: a boolean beside top_logprobs. Completions: the number of alternatives.
static enum td_err read_logprobs(struct td_openai_body *r, td_json *v) {
    struct td_request *req = r->req;
    if (req->kind == TD_KIND_CHAT)
        return td_openai_read_bool(r, "logprobs", v, &req->logprobs);
    req->logprobs = true;
    return td_openai_read_count(r, "logprobs", v, 0, TD_LOGPROBS_MAX, &req->top_logprobs);
}

static enum td_err refuse_tokens(struct td_openai_body *r, const char *field) {
    return REFUSE(r, UNSUPPORTED, field,
                  "Token numbers are not supported as '%s': what cannot be read cannot be labelled. Send text.", field);
}

static enum td_err read_prompts(struct td_openai_body *r, td_json *v) {
    struct td_request *req = r->req;
    enum td_err err = TD_OK;
    size_t i, max;
    td_json *item;
    if (!yyjson_is_arr(v))
        return td_openai_read_text(r, "prompt", v, &req->prompt);
    if (yyjson_arr_size(v) == 0 || yyjson_arr_size(v) > TD_PROMPTS_MAX)
        return REFUSE(r, BAD_REQUEST, "prompt", "'prompt' must have 1 to %u entries.", TD_PROMPTS_MAX);
    struct td_str *list = td_arena_array(r->arena, yyjson_arr_size(v), sizeof *list);
    if (!list)
        return NO_MEMORY(r);
    yyjson_arr_foreach(v, i, max, item) {
        if (yyjson_is_num(item) || yyjson_is_arr(item))
            return refuse_tokens(r, "prompt");
        if ((err = td_openai_read_text(r, "prompt", item, &list[i])) != TD_OK)
            return err;
    }
    req->prompt = list[0];
    if (max > 1) {
        req->prompts = list;
        req->prompt_count = (uint32_t)max;
    }
    return TD_OK;
}

static enum td_err read_input(struct td_openai_body *r, td_json *v) {
    struct td_request *req = r->req;
    bool array = yyjson_is_arr(v);
    size_t count = array ? yyjson_arr_size(v) : 1, i, max;
    if (!array && !yyjson_is_str(v))
        return td_openai_wrong_type(r, "input", "a string or an array of strings", v);
    if (count == 0 || count > TD_INPUTS_MAX)
        return REFUSE(r, BAD_REQUEST, "input", "'input' must have 1 to %u entries.", TD_INPUTS_MAX);
    if (!(req->inputs = td_arena_array(r->arena, count, sizeof *req->inputs)))
        return NO_MEMORY(r);
    enum td_err err = TD_OK;
    if (!array) {
        err = td_openai_read_text(r, "input", v, &req->inputs[req->input_count++]);
    } else {
        td_json *item;
        yyjson_arr_foreach(v, i, max, item) {
            if (yyjson_is_num(item) || yyjson_is_arr(item))
                return refuse_tokens(r, "input");
            if (err == TD_OK)
                err = td_openai_read_text(r, "input", item, &req->inputs[req->input_count++]);
        }
    }
    for (uint32_t k = 0; err == TD_OK && k < req->input_count; k++)
        if (req->inputs[k].n == 0)
            return REFUSE(r, BAD_REQUEST, "input", "'input' holds an empty string.");
    return err;
}

static enum td_err read_encoding(struct td_openai_body *r, td_json *v) {
    if (!yyjson_is_str(v) || (!td_openai_is(v, "float") && !td_openai_is(v, "base64")))
        return REFUSE(r, BAD_REQUEST, "encoding_format", "'encoding_format' is 'float' or 'base64'.");
    r->req->base64 = td_openai_is(v, "base64");
    return TD_OK;
}

// What is refused unless it is given as the value that changes nothing.
static enum td_err read_refused(struct td_openai_body *r, enum td_openai_key key, td_json *v) {
    if (key == TD_OPENAI_KEY_FUNCTIONS || key == TD_OPENAI_KEY_FUNCTION_CALL)
        return REFUSE(r, UNSUPPORTED, keys[key], "'%s' is deprecated and not supported; use 'tools'.", keys[key]);
    if (key == TD_OPENAI_KEY_ECHO && yyjson_is_bool(v) && !yyjson_get_bool(v))
        return TD_OK;
    return REFUSE(r, UNSUPPORTED, keys[key], "'%s' is not supported.", keys[key]);
}

static enum td_err read_field(struct td_openai_body *r, enum td_openai_key key, td_json *v) {
    struct td_request *req = r->req;
    const char *field = keys[key];
    switch (key) {
    case TD_OPENAI_KEY_MODEL:
        return td_openai_read_name(r, field, v, TD_NAME_BYTES_MAX, &req->model);
    case TD_OPENAI_KEY_MESSAGES:
        return td_openai_read_messages(r, v);
    case TD_OPENAI_KEY_STREAM:
        return td_openai_read_bool(r, field, v, &req->stream);
    case TD_OPENAI_KEY_STREAM_OPTIONS:
        return read_stream_options(r, v);
    case TD_OPENAI_KEY_TEMPERATURE:
        return td_openai_read_number(r, field, v, 0, 2, &req->temperature);
    case TD_OPENAI_KEY_TOP_P:
        return td_openai_read_number(r, field, v, 0, 1, &req->top_p);
    case TD_OPENAI_KEY_MAX_COMPLETION_TOKENS:
        req->max_completion_tokens = true;
        return td_openai_read_count(r, field, v, 1, INT32_MAX, &req->max_tokens);
    case TD_OPENAI_KEY_MAX_TOKENS:
        // The newer name wins where both are given, whatever their order.
        return req->max_completion_tokens ? TD_OK : td_openai_read_count(r, field, v, 1, INT32_MAX, &req->max_tokens);
    case TD_OPENAI_KEY_N:
        return td_openai_read_count(r, field, v, 1, TD_CHOICES_MAX, &req->n);
    case TD_OPENAI_KEY_STOP:
        return read_stop(r, v);
    case TD_OPENAI_KEY_SEED:
        return read_seed(r, v);
    case TD_OPENAI_KEY_PRESENCE_PENALTY:
        return td_openai_read_number(r, field, v, -2, 2, &req->presence_penalty);
    case TD_OPENAI_KEY_FREQUENCY_PENALTY:
        return td_openai_read_number(r, field, v, -2, 2, &req->frequency_penalty);
    case TD_OPENAI_KEY_LOGPROBS:
        return read_logprobs(r, v);
    case TD_OPENAI_KEY_TOP_LOGPROBS:
        r->has_top_logprobs = true;
        return td_openai_read_count(r, field, v, 0, TD_LOGPROBS_MAX, &req->top_logprobs);
    case TD_OPENAI_KEY_TOOLS:
        return td_openai_read_tools(r, v);
    case TD_OPENAI_KEY_TOOL_CHOICE:
        r->tool_choice = v;
        return TD_OK;
    case TD_OPENAI_KEY_PARALLEL_TOOL_CALLS:
        return td_openai_read_bool(r, field, v, &req->parallel_tool_calls);
    case TD_OPENAI_KEY_RESPONSE_FORMAT:
        return td_openai_read_format(r, v);
    case TD_OPENAI_KEY_USER:
        return td_openai_read_name(r, field, v, 512, &req->user);
    case TD_OPENAI_KEY_PROMPT:
        return read_prompts(r, v);
    case TD_OPENAI_KEY_BEST_OF:
        return td_openai_read_count(r, field, v, 1, TD_CHOICES_MAX, &r->best_of);
    case TD_OPENAI_KEY_SUFFIX:
        return td_openai_read_text(r, field, v, &req->suffix);
    case TD_OPENAI_KEY_INPUT:
        return read_input(r, v);
    case TD_OPENAI_KEY_DIMENSIONS:
        return td_openai_read_count(r, field, v, 1, 1u << 20, &req->dimensions);
    case TD_OPENAI_KEY_ENCODING_FORMAT:
        return read_encoding(r, v);
    case TD_OPENAI_KEY_TANDEM:
        r->tandem = v;
        return TD_OK;
    default:
        return read_refused(r, key, v);
    }
}

// What only makes sense together.
static enum td_err check_whole(struct td_openai_body *r, uint64_t seen) {
    struct td_request *req = r->req;
    static const enum td_openai_key content[] = {
        [TD_KIND_CHAT] = TD_OPENAI_KEY_MESSAGES,
        [TD_KIND_COMPLETION] = TD_OPENAI_KEY_PROMPT,
        [TD_KIND_EMBEDDING] = TD_OPENAI_KEY_INPUT,
    };
    static const uint32_t capability[] = {
        [TD_KIND_CHAT] = TD_CAP_CHAT,
        [TD_KIND_COMPLETION] = TD_CAP_COMPLETION,
        [TD_KIND_EMBEDDING] = TD_CAP_EMBEDDING,
    };
    if (seen & 1ull << TD_OPENAI_KEY_MODEL && req->model.n == 0)
        return REFUSE(r, BAD_REQUEST, "model", "'model' is empty.");
    if (!(seen & 1ull << content[req->kind]))
        return REFUSE(r, BAD_REQUEST, keys[content[req->kind]], "'%s' is missing.", keys[content[req->kind]]);
    if (r->best_of && r->best_of != req->n) // as many as are asked for are the best of themselves
        return REFUSE(r, UNSUPPORTED, "best_of", "'best_of' is not supported, but as much as 'n'.");
    if (req->prompt_count * req->n > TD_COMPLETIONS_MAX)
        return REFUSE(r, BAD_REQUEST, "n", "The prompts times 'n' are more than %u completions.", TD_COMPLETIONS_MAX);
    if (req->kind == TD_KIND_CHAT && r->has_top_logprobs && req->top_logprobs && !req->logprobs)
        return REFUSE(r, BAD_REQUEST, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true.");
    if (r->has_stream_options && !req->stream)
        return REFUSE(r, BAD_REQUEST, "stream_options", "'stream_options' needs 'stream' to be true.");
    enum td_err err = r->tool_choice ? td_openai_read_tool_choice(r, r->tool_choice) : TD_OK;
    if (err == TD_OK && r->tandem)
        err = td_wishes_read(r->arena, r->tandem, &req->wishes, r->e);
    req->capabilities |= capability[req->kind] | (req->tool_count ? TD_CAP_TOOLS : 0) |
                         (req->logprobs ? TD_CAP_LOGPROBS : 0) | (req->suffix.n ? TD_CAP_INFILL : 0) |
                         (req->n > 1 ? TD_CAP_CHOICES : 0);
    if (yyjson_is_obj(td_json_get(req->root, "audio"))) // spoken answers
        req->capabilities |= TD_CAP_AUDIO;
    req->text_bytes = r->text_bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)r->text_bytes;
    return err;
}

enum td_err td_openai_read_request(struct td_arena *arena, enum td_kind kind, struct td_str body,
                                   struct td_request *out, struct td_error *e) {
    struct td_request req = {.kind = kind,
                             .dialect = TD_DIALECT_OPENAI,
                             .parallel_tool_calls = true,
                             .temperature = NAN,
                             .top_p = NAN,
                             .presence_penalty = NAN,
                             .frequency_penalty = NAN,
                             .seed = -1,
                             .n = 1};
    struct td_openai_body r = {.arena = arena, .e = e, .req = &req};
    td_wishes_init(&req.wishes);
    enum td_err err = td_json_parse(arena, body, TD_JSON_DEPTH_MAX, &req.root, e);
    if (err != TD_OK)
        return err;
    if (!yyjson_is_obj(req.root))
        return REFUSE(&r, BAD_REQUEST, "", "The body must be a JSON object.");
    uint64_t seen = 0, given = 0;
    size_t i, max;
    td_json *key, *v;
    yyjson_obj_foreach(req.root, i, max, key, v) {
        enum td_openai_key k = td_openai_key_of(kind, td_json_str(key));
        if (k == TD_OPENAI_KEY_COUNT)
            continue;
        if (seen & 1ull << k)
            return td_openai_twice(&r, keys[k]);
        seen |= 1ull << k;
        if (yyjson_is_null(v))
            continue;
        given |= 1ull << k;
        if ((err = read_field(&r, k, v)) != TD_OK)
            return err;
    }
    if ((err = check_whole(&r, given)) == TD_OK)
        *out = req;
    return err;
}

enum td_err td_openai_read_chat(struct td_arena *arena, struct td_str body, struct td_request *req,
                                struct td_error *e) {
    return td_openai_read_request(arena, TD_KIND_CHAT, body, req, e);
}

enum td_err td_openai_read_completion(struct td_arena *arena, struct td_str body, struct td_request *req,
                                      struct td_error *e) {
    return td_openai_read_request(arena, TD_KIND_COMPLETION, body, req, e);
}

enum td_err td_openai_read_embedding(struct td_arena *arena, struct td_str body, struct td_request *req,
                                     struct td_error *e) {
    return td_openai_read_request(arena, TD_KIND_EMBEDDING, body, req, e);
}
