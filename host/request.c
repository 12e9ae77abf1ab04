// SPDX-License-Identifier: Apache-2.0
// From an attempt's body to something the engine can decode. Every number is checked against its range here.
#include <math.h>

#include "base/json.h"
#include "host/guest.h"

void host_request_free(struct host_request *r) {
    if (!r)
        return;
    host_turn_destroy(r->turn);
    td_arena_finish(&r->arena);
    td_free(r);
}

static struct td_str json_text(struct td_arena *a, td_json *v) {
    struct td_buf b;
    struct td_str s = TD_STR_NONE;
    td_buf_init(&b, TD_HOST_FRAME_BYTES_MAX);
    if (v && td_json_write(v, &b) == TD_OK)
        s = td_arena_str(a, td_buf_str(&b));
    td_buf_finish(&b);
    return s;
}

// A number in [low, high] or absent; *out stays as it is where absent.
static enum td_err get_float(td_json *root, const char *key, double low, double high, float *out, struct td_error *e) {
    td_json *v = td_json_get(root, key);
    if (!v)
        return TD_OK;
    double d = yyjson_is_num(v) ? yyjson_get_num(v) : NAN;
    if (!(d >= low && d <= high))
        return td_error_set(e, TD_ERR_BAD_REQUEST, "'%s' must be a number from %g to %g", key, low, high);
    *out = (float)d;
    return TD_OK;
}

static enum td_err get_count(td_json *root, const char *key, uint32_t low, uint32_t high, uint32_t *out,
                             struct td_error *e) {
    td_json *v = td_json_get(root, key);
    if (!v)
        return TD_OK;
    if (!yyjson_is_uint(v) || yyjson_get_uint(v) < low || yyjson_get_uint(v) > high)
        return td_error_set(e, TD_ERR_BAD_REQUEST, "'%s' must be an integer from %u to %u", key, low, high);
    *out = (uint32_t)yyjson_get_uint(v);
    return TD_OK;
}

static enum td_err read_stops(struct host_request *r, td_json *v, struct td_error *e) {
    size_t count = yyjson_is_arr(v) ? yyjson_arr_size(v) : v ? 1 : 0;
    if (count > TD_STOPS_MAX)
        return td_error_set(e, TD_ERR_BAD_REQUEST, "at most %u stop strings", TD_STOPS_MAX);
    for (size_t i = 0; i < count; i++) {
        td_json *s = yyjson_is_arr(v) ? yyjson_arr_get(v, i) : v;
        if (!yyjson_is_str(s))
            return td_error_set(e, TD_ERR_BAD_REQUEST, "'stop' must be a string or a list of strings");
        if (yyjson_get_len(s))
            r->stops[r->stop_count++] = td_json_str(s);
    }
    return TD_OK;
}

static enum td_err read_bias(struct host_guest *g, struct host_request *r, td_json *v, struct td_error *e) {
    if (!v)
        return TD_OK;
    size_t count = yyjson_obj_size(v), i = 0;
    llama_logit_bias *bias = td_arena_array(&r->arena, count, sizeof *bias);
    if (!yyjson_is_obj(v) || count > 1024)
        return td_error_set(e, TD_ERR_BAD_REQUEST, "'logit_bias' must be an object of at most 1024 token ids");
    if (!bias)
        return TD_ERR_NOMEM;
    yyjson_obj_iter it = yyjson_obj_iter_with(v);
    for (yyjson_val *k; (k = yyjson_obj_iter_next(&it));) {
        uint64_t token;
        yyjson_val *n = yyjson_obj_iter_get_val(k);
        double d = yyjson_is_num(n) ? yyjson_get_num(n) : NAN;
        if (!td_str_to_u64(td_json_str(k), &token) || token >= (uint64_t)llama_vocab_n_tokens(g->vocab) ||
            !(d >= -100 && d <= 100))
            return td_error_set(e, TD_ERR_BAD_REQUEST, "'logit_bias' maps token ids to numbers from -100 to 100");
        bias[i++] = (llama_logit_bias){(llama_token)token, d <= -100 ? -INFINITY : (float)d};
    }
    r->sampling.bias = bias;
    r->sampling.bias_count = i;
    return TD_OK;
}

static enum td_err read_sampling(struct host_guest *g, struct host_request *r, td_json *root, struct td_error *e) {
    enum td_err err;
    uint32_t top = 0;
    r->sampling = (struct host_sampling){NAN, NAN, NAN, NAN, -1, NULL, 0};
    r->choices = 1;
    if ((err = get_float(root, "temperature", 0, 2, &r->sampling.temperature, e)) ||
        (err = get_float(root, "top_p", 0, 1, &r->sampling.top_p, e)) ||
        (err = get_float(root, "presence_penalty", -2, 2, &r->sampling.presence_penalty, e)) ||
        (err = get_float(root, "frequency_penalty", -2, 2, &r->sampling.frequency_penalty, e)) ||
        (err = get_count(root, "max_tokens", 1, INT32_MAX, &r->max_tokens, e)) ||
        (err = get_count(root, "max_completion_tokens", 1, INT32_MAX, &r->max_tokens, e)) ||
        (err = get_count(root, "n", 1, TD_CHOICES_MAX, &r->choices, e)) ||
        (err = read_stops(r, td_json_get(root, "stop"), e)) ||
        (err = read_bias(g, r, td_json_get(root, "logit_bias"), e)))
        return err;
    td_json *seed = td_json_get(root, "seed"), *logprobs = td_json_get(root, "logprobs");
    if (seed && !yyjson_is_int(seed))
        return td_error_set(e, TD_ERR_BAD_REQUEST, "'seed' must be an integer");
    if (seed)
        r->sampling.seed = (int64_t)(yyjson_get_uint(seed) & 0x7fffffff);
    r->want_tokens = r->flags & TD_PROTO_WANT_TOKENS || yyjson_is_true(logprobs) || yyjson_is_num(logprobs);
    if (yyjson_is_num(logprobs))
        err = get_count(root, "logprobs", 0, TD_LOGPROBS_MAX, &top, e);
    else
        err = get_count(root, "top_logprobs", 0, TD_LOGPROBS_MAX, &top, e);
    r->top_count = (int32_t)top;
    return err;
}

static enum td_err tokenize(struct host_guest *g, struct td_arena *a, struct td_str text, bool special, bool parse,
                            llama_token **out, int32_t *count, struct td_error *e) {
    if (text.n > INT32_MAX / 2)
        return td_error_set(e, TD_ERR_LIMIT, "the input is too long");
    int32_t most = (int32_t)text.n + 16;
    llama_token *tokens = td_arena_array(a, (size_t)most, sizeof *tokens);
    if (!tokens)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while tokenising");
    int32_t n = llama_tokenize(g->vocab, text.p ? text.p : "", (int32_t)text.n, tokens, most, special, parse);
    if (n < 0)
        return td_error_set(e, TD_ERR_BAD_REQUEST, "the input cannot be tokenised");
    *out = tokens;
    *count = n;
    return TD_OK;
}

static enum td_err read_infill(struct host_guest *g, struct host_request *r, struct td_str prompt, struct td_str suffix,
                               struct td_error *e) {
    llama_token pre = llama_vocab_fim_pre(g->vocab), suf = llama_vocab_fim_suf(g->vocab),
                mid = llama_vocab_fim_mid(g->vocab);
    if (pre < 0 || suf < 0 || mid < 0)
        return td_error_set(e, TD_ERR_UNSUPPORTED, "this model cannot fill in the middle ('suffix')");
    llama_token *a = NULL, *b = NULL; // gcc 14 does not see that an error of tokenize is one
    int32_t na = 0, nb = 0, at = 0;
    enum td_err err;
    if ((err = tokenize(g, &r->arena, prompt, false, false, &a, &na, e)) ||
        (err = tokenize(g, &r->arena, suffix, false, false, &b, &nb, e)))
        return err;
    r->prompt = td_arena_array(&r->arena, (size_t)na + (size_t)nb + 4, sizeof *r->prompt);
    if (!r->prompt)
        return TD_ERR_NOMEM;
    if (llama_vocab_get_add_bos(g->vocab))
        r->prompt[at++] = llama_vocab_bos(g->vocab);
    r->prompt[at++] = pre;
    memcpy(r->prompt + at, a, (size_t)na * sizeof *a);
    at += na;
    r->prompt[at++] = suf;
    memcpy(r->prompt + at, b, (size_t)nb * sizeof *b);
    at += nb;
    r->prompt[at++] = mid;
    r->prompt_count = at;
    return TD_OK;
}

static enum td_err read_completion(struct host_guest *g, struct host_request *r, td_json *root, struct td_error *e) {
    td_json *prompt = td_json_get(root, "prompt");
    struct td_str suffix = td_json_get_str(root, "suffix");
    if (prompt && !yyjson_is_str(prompt))
        return td_error_set(e, TD_ERR_UNSUPPORTED, "'prompt' must be one string");
    struct td_str text = prompt ? td_json_str(prompt) : TD_STR("");
    if (suffix.n)
        return read_infill(g, r, text, suffix, e);
    return tokenize(g, &r->arena, text, true, true, &r->prompt, &r->prompt_count, e);
}

enum td_err host_tools_read(struct td_arena *a, struct td_str json, struct td_str *out, struct td_error *e) {
    td_json *root;
    enum td_err err = td_json_parse(a, json, TD_JSON_DEPTH_MAX, &root, e);
    if (err)
        return err;
    td_json *tools = yyjson_is_obj(root) ? td_json_get(root, "tools") : root;
    if (!yyjson_is_arr(tools) || !yyjson_arr_size(tools) || yyjson_arr_size(tools) > TD_TOOLS_MAX)
        return td_error_set(e, TD_ERR_BAD_REQUEST, "'tools' must be a list of 1 to %u tools", TD_TOOLS_MAX);
    *out = json_text(a, tools);
    return out->p ? TD_OK : TD_ERR_NOMEM;
}

// tool_choice {"type":"function","function":{"name":X}} leaves only that tool and requires it; "none" leaves none: a
// model that is shown tools may call one all the same, and the call would stand in the text.
static enum td_err read_tools(struct host_request *r, td_json *root, struct host_turn_in *in, struct td_error *e) {
    td_json *tools = td_json_get(root, "tools"), *choice = td_json_get(root, "tool_choice");
    if (!tools || (yyjson_is_arr(tools) && yyjson_arr_size(tools) == 0))
        return TD_OK;
    if (yyjson_is_str(choice) && td_str_is(td_json_str(choice), "none"))
        return TD_OK;
    if (!yyjson_is_arr(tools) || yyjson_arr_size(tools) > TD_TOOLS_MAX)
        return td_error_set(e, TD_ERR_BAD_REQUEST, "'tools' must be a list of at most %u tools", TD_TOOLS_MAX);
    in->tool_choice = yyjson_is_str(choice) ? td_json_str(choice) : TD_STR("auto");
    if (!yyjson_is_obj(choice)) {
        in->tools = json_text(&r->arena, tools);
        return in->tools.p ? TD_OK : TD_ERR_NOMEM;
    }
    struct td_str name = td_json_get_str(td_json_get(choice, "function"), "name");
    size_t i, count;
    yyjson_val *tool;
    yyjson_arr_foreach(tools, i, count, tool) {
        if (!td_str_eq(td_json_get_str(td_json_get(tool, "function"), "name"), name) || !name.n)
            continue;
        struct td_str text = json_text(&r->arena, tool);
        in->tools = td_arena_printf(&r->arena, "[%.*s]", TD_STR_ARG(text));
        in->tool_choice = TD_STR("required");
        return text.p && in->tools.p ? TD_OK : TD_ERR_NOMEM;
    }
    return td_error_set(e, TD_ERR_BAD_REQUEST, "'tool_choice' names a tool that is not in 'tools'");
}

// The library resolves references to parts of the schema ("#/…"), not to the whole ("#"), which is how a list or a tree
// of the schema's own kind is written: the whole gets a name beside its own members. `text` has no white space between
// values, and inside a string the quotes would be escaped.
static struct td_str name_root(struct td_arena *a, struct td_str text) {
    static const char whole[] = "\"$ref\":\"#\"", named[] = "\"$ref\":\"#/tandem-root\"",
                      before[] = "{\"tandem-root\":";
    size_t found = 0;
    for (const char *at = text.p; (at = memmem(at, (size_t)(text.p + text.n - at), whole, sizeof whole - 1));
         at += sizeof whole - 1)
        found++;
    if (!found)
        return text;
    size_t inner = text.n + found * (sizeof named - sizeof whole);
    char *out = td_arena_alloc(a, sizeof before + 2 * inner), *end = out;
    if (!out)
        return TD_STR_NONE;
    end = mempcpy(end, before, sizeof before - 1);
    const char *schema = end, *from = text.p;
    for (const char *at; (at = memmem(from, (size_t)(text.p + text.n - from), whole, sizeof whole - 1));
         from = at + sizeof whole - 1) {
        end = mempcpy(end, from, (size_t)(at - from));
        end = mempcpy(end, named, sizeof named - 1);
    }
    end = mempcpy(end, from, (size_t)(text.p + text.n - from));
    *end++ = ',';
    end = mempcpy(end, schema + 1, inner - 1);
    return td_str_n(out, (size_t)(end - out));
}

static enum td_err read_format(struct host_request *r, td_json *root, struct host_turn_in *in, struct td_error *e) {
    td_json *format = td_json_get(root, "response_format");
    struct td_str type = td_json_get_str(format, "type");
    if (!format || td_str_is(type, "text"))
        return TD_OK;
    td_json *schema = NULL;
    if (td_str_is(type, "json_schema"))
        schema = td_json_get(td_json_get(format, "json_schema"), "schema");
    else if (!td_str_is(type, "json_object"))
        return td_error_set(e, TD_ERR_BAD_REQUEST, "'response_format' must be text, json_object or json_schema");
    in->schema = yyjson_obj_size(schema) ? json_text(&r->arena, schema) : TD_STR("{\"type\":\"object\"}");
    if (in->schema.p)
        in->schema = name_root(&r->arena, in->schema);
    r->formed = true;
    return in->schema.p ? TD_OK : TD_ERR_NOMEM;
}

static enum td_err read_chat(struct host_guest *g, struct host_request *r, td_json *root, struct td_error *e) {
    enum td_err err;
    td_json *messages = td_json_get(root, "messages"), *parallel = td_json_get(root, "parallel_tool_calls");
    struct host_turn_in in = {.parallel_tools = parallel ? yyjson_get_bool(parallel) : -1};
    if (!g->templates)
        return td_error_set(e, TD_ERR_UNSUPPORTED, "%s", g->templates_error.message);
    if (!yyjson_is_arr(messages) || !yyjson_arr_size(messages) || yyjson_arr_size(messages) > TD_MESSAGES_MAX)
        return td_error_set(e, TD_ERR_BAD_REQUEST, "'messages' must be a list of 1 to %u messages", TD_MESSAGES_MAX);
    in.messages = json_text(&r->arena, messages);
    in.kwargs = json_text(&r->arena, td_json_get(root, "chat_template_kwargs"));
    in.no_thinking = td_str_is(td_json_get_str(root, "reasoning_effort"), "none");
    if (!in.messages.p)
        return TD_ERR_NOMEM;
    if ((err = read_tools(r, root, &in, e)) || (err = read_format(r, root, &in, e)) ||
        (err = host_turn_create(g->templates, &in, &r->turn, e)))
        return err;
    r->calls = in.tools.n > 0;
    for (size_t i = 0; i < host_turn_stop_count(r->turn) && r->stop_count < TD_STOPS_MAX; i++)
        if (host_turn_stop(r->turn, i).n)
            r->stops[r->stop_count++] = host_turn_stop(r->turn, i);
    return tokenize(g, &r->arena, host_turn_prompt(r->turn), true, true, &r->prompt, &r->prompt_count, e);
}

static enum td_err read_embedding(struct host_guest *g, struct host_request *r, td_json *root, struct td_error *e) {
    td_json *input = td_json_get(root, "input");
    size_t count = yyjson_is_arr(input) ? yyjson_arr_size(input) : 1;
    uint32_t dimensions = 0;
    enum td_err err = get_count(root, "dimensions", 1, INT32_MAX, &dimensions, e);
    if (err)
        return err;
    if (dimensions && dimensions != (uint32_t)llama_model_n_embd_out(g->model))
        return td_error_set(e, TD_ERR_UNSUPPORTED, "this model's vectors have %d dimensions",
                            llama_model_n_embd_out(g->model));
    if (count == 0 || count > 2048)
        return td_error_set(e, TD_ERR_BAD_REQUEST, "'input' must be 1 to 2048 strings");
    r->inputs = td_arena_array(&r->arena, count, sizeof *r->inputs);
    if (!r->inputs)
        return TD_ERR_NOMEM;
    for (size_t i = 0; i < count; i++) {
        td_json *s = yyjson_is_arr(input) ? yyjson_arr_get(input, i) : input;
        struct host_tokens *t = &r->inputs[i];
        if (!yyjson_is_str(s))
            return td_error_set(e, TD_ERR_UNSUPPORTED, "'input' must be a string or a list of strings");
        if ((err = tokenize(g, &r->arena, td_json_str(s), true, false, &t->tokens, &t->count, e)))
            return err;
        if (t->count == 0)
            return td_error_set(e, TD_ERR_BAD_REQUEST, "an empty input has no embedding");
        if ((uint32_t)t->count > g->ready.context)
            return td_error_set(e, TD_ERR_CONTEXT_LENGTH, "input %zu has %d tokens, the model's context holds %u", i,
                                t->count, g->ready.context);
    }
    r->input_count = (uint32_t)count;
    return TD_OK;
}

static enum td_err read_body(struct host_guest *g, struct host_request *r, struct td_str body, struct td_error *e) {
    td_json *root;
    enum td_err err = td_json_parse(&r->arena, body, TD_JSON_DEPTH_MAX, &root, e);
    if (err)
        return err;
    if (!yyjson_is_obj(root))
        return td_error_set(e, TD_ERR_BAD_REQUEST, "the body must be a JSON object");
    if (r->kind == TD_KIND_EMBEDDING)
        return read_embedding(g, r, root, e);
    if (!g->context)
        return td_error_set(e, TD_ERR_UNSUPPORTED, "this model makes embeddings only");
    if ((err = read_sampling(g, r, root, e)) ||
        (err = r->kind == TD_KIND_CHAT ? read_chat(g, r, root, e) : read_completion(g, r, root, e)))
        return err;
    if (r->prompt_count == 0) {
        if (llama_vocab_bos(g->vocab) < 0)
            return td_error_set(e, TD_ERR_BAD_REQUEST, "the prompt is empty");
        r->prompt[0] = llama_vocab_bos(g->vocab);
        r->prompt_count = 1;
    }
    if ((uint32_t)r->prompt_count >= g->ready.context)
        return td_error_set(e, TD_ERR_CONTEXT_LENGTH, "the prompt has %d tokens, the model's context holds %u",
                            r->prompt_count, g->ready.context);
    for (uint32_t i = 0; i < r->stop_count; i++)
        if (r->stops[i].n > r->stop_bytes_max)
            r->stop_bytes_max = r->stops[i].n;
    return TD_OK;
}

enum td_err host_request_read(struct host_guest *g, struct host_conn *c, uint32_t id, const struct td_proto_request *in,
                              struct host_request **out, struct td_error *e) {
    if (in->kind > TD_KIND_EMBEDDING)
        return td_error_set(e, TD_ERR_UNSUPPORTED, "the model host does not know this kind of request");
    struct host_request *r = td_calloc(1, sizeof *r);
    if (!r)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    td_arena_init(&r->arena, TD_ARENA_BYTES_MAX * 4ull); // tokens take up to four bytes for one of text
    r->conn = c;
    r->id = id;
    r->flags = in->flags;
    r->priority = in->priority;
    r->kind = (enum td_kind)in->kind;
    atomic_store(&r->credits, in->credits);
    enum td_err err = read_body(g, r, in->body, e);
    if (err) {
        if (e && !e->code)
            td_error_set(e, err, "%s", td_err_text(err));
        host_request_free(r);
        return err;
    }
    *out = r;
    return TD_OK;
}
