// SPDX-License-Identifier: Apache-2.0
#include "wire/openai_provider.h"

#include <math.h>

#include "base/limits.h"
#include "wire/openai_keys.h"

struct writer {
    struct td_emit m;
    const struct td_request *req;
    const struct td_write_spec *spec;
};

static bool is_one_of(struct td_str key, const char *const *list) {
    for (; *list; list++)
        if (td_str_is(key, *list))
            return true;
    return false;
}

// ,"key":value for the fields of the client's own object that are not in `known` (ended by NULL).
static void pass_through(struct writer *w, td_json *obj, const char *const *known) {
    size_t i, max;
    td_json *key, *v;
    if (!w->spec->same_dialect || !yyjson_is_obj(obj))
        return;
    yyjson_obj_foreach(obj, i, max, key, v) {
        if (!is_one_of(td_json_str(key), known))
            td_emit_member(&w->m, key, v);
    }
}

// A part that is no text: written as the client wrote it; the hook sees its strings but for the data itself.
static void write_media(struct writer *w, const struct td_part *part) {
    static const char *const plain[] = {"type", "url", "data", "file_data", "file_id", "format", "detail", NULL};
    size_t i, max, k, inner_max;
    td_json *key, *v, *name, *inner;
    td_emit_lit(&w->m, "{");
    yyjson_obj_foreach(part->raw, i, max, key, v) {
        if (i)
            td_emit_lit(&w->m, ",");
        td_emit_string(&w->m, td_json_str(key));
        td_emit_lit(&w->m, ":");
        if (yyjson_is_str(v) && is_one_of(td_json_str(key), plain)) {
            td_emit_string(&w->m, td_json_str(v));
        } else if (yyjson_is_obj(v)) {
            td_emit_lit(&w->m, "{");
            yyjson_obj_foreach(v, k, inner_max, name, inner) {
                if (k)
                    td_emit_lit(&w->m, ",");
                td_emit_string(&w->m, td_json_str(name));
                td_emit_lit(&w->m, ":");
                if (yyjson_is_str(inner) && is_one_of(td_json_str(name), plain))
                    td_emit_string(&w->m, td_json_str(inner));
                else
                    td_emit_value(&w->m, inner);
            }
            td_emit_lit(&w->m, "}");
        } else {
            td_emit_value(&w->m, v);
        }
    }
    td_emit_lit(&w->m, "}");
}

static void write_part(struct writer *w, const struct td_part *part) {
    static const char *const text_keys[] = {"type", "text", NULL}, *const refusal_keys[] = {"type", "refusal", NULL};
    switch (part->type) {
    case TD_PART_TEXT:
        td_emit_lit(&w->m, "{\"type\":\"text\",\"text\":");
        td_emit_text(&w->m, part->text);
        pass_through(w, part->raw, text_keys);
        td_emit_lit(&w->m, "}");
        return;
    case TD_PART_REFUSAL:
        td_emit_lit(&w->m, "{\"type\":\"refusal\",\"refusal\":");
        td_emit_text(&w->m, part->text);
        pass_through(w, part->raw, refusal_keys);
        td_emit_lit(&w->m, "}");
        return;
    default:
        write_media(w, part);
    }
}

// A text part without an object of its own came as a plain string, a refusal without one as a field of the message.
static void write_content(struct writer *w, const struct td_message *msg) {
    const struct td_part *refusal = NULL;
    uint32_t count = msg->part_count;
    if (count && msg->parts[count - 1].type == TD_PART_REFUSAL && !msg->parts[count - 1].raw)
        refusal = &msg->parts[--count];
    td_emit_lit(&w->m, ",\"content\":");
    if (count == 0) {
        td_emit_lit(&w->m, "null");
    } else if (count == 1 && !msg->parts[0].raw) {
        td_emit_text(&w->m, msg->parts[0].text);
    } else {
        td_emit_lit(&w->m, "[");
        for (uint32_t i = 0; i < count; i++) {
            if (i)
                td_emit_lit(&w->m, ",");
            write_part(w, &msg->parts[i]);
        }
        td_emit_lit(&w->m, "]");
    }
    if (refusal) {
        td_emit_lit(&w->m, ",\"refusal\":");
        td_emit_text(&w->m, refusal->text);
    }
}

static void write_tool_calls(struct writer *w, const struct td_message *msg) {
    td_emit_lit(&w->m, ",\"tool_calls\":[");
    for (uint32_t i = 0; i < msg->tool_call_count; i++) {
        const struct td_tool_call *call = &msg->tool_calls[i];
        if (i)
            td_emit_lit(&w->m, ",");
        td_emit_lit(&w->m, "{\"id\":");
        td_emit_string(&w->m, call->id);
        td_emit_lit(&w->m, ",\"type\":\"function\",\"function\":{\"name\":");
        td_emit_string(&w->m, call->name);
        td_emit_lit(&w->m, ",\"arguments\":");
        td_emit_text(&w->m, call->arguments);
        td_emit_lit(&w->m, "}}");
    }
    td_emit_lit(&w->m, "]");
}

static void write_message(struct writer *w, const struct td_message *msg) {
    static const char *const known[] = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", NULL};
    td_emit_lit(&w->m, "{\"role\":");
    td_emit_string(&w->m, td_str_of(td_role_word(msg->role)));
    if (msg->name.n) {
        td_emit_lit(&w->m, ",\"name\":");
        td_emit_text(&w->m, msg->name);
    }
    write_content(w, msg);
    if (msg->tool_call_count)
        write_tool_calls(w, msg);
    if (msg->role == TD_ROLE_TOOL) {
        td_emit_lit(&w->m, ",\"tool_call_id\":");
        td_emit_string(&w->m, msg->tool_call_id);
    }
    pass_through(w, msg->raw, known);
    td_emit_lit(&w->m, "}");
}

static void write_tool(struct writer *w, const struct td_tool *tool) {
    static const char *const known[] = {"type", "function", NULL};
    static const char *const known_inside[] = {"name", "description", "parameters", "strict", NULL};
    td_json *function = td_json_get(tool->raw, "function"), *strict = td_json_get(function, "strict");
    td_emit_lit(&w->m, "{\"type\":\"function\",\"function\":{\"name\":");
    td_emit_string(&w->m, tool->name);
    if (tool->description.p) {
        td_emit_lit(&w->m, ",\"description\":");
        td_emit_text(&w->m, tool->description);
    }
    if (tool->parameters) {
        td_emit_lit(&w->m, ",\"parameters\":");
        td_emit_value(&w->m, tool->parameters);
    }
    if (strict) {
        td_emit_lit(&w->m, ",\"strict\":");
        td_emit_value(&w->m, strict);
    }
    pass_through(w, function, known_inside);
    td_emit_lit(&w->m, "}");
    pass_through(w, tool->raw, known);
    td_emit_lit(&w->m, "}");
}

static void write_tools(struct writer *w) {
    static const char *const choices[] = {"auto", "none", "required"};
    const struct td_request *req = w->req;
    if (req->tool_count == 0)
        return;
    td_emit_lit(&w->m, ",\"tools\":[");
    for (uint32_t i = 0; i < req->tool_count; i++) {
        if (i)
            td_emit_lit(&w->m, ",");
        write_tool(w, &req->tools[i]);
    }
    td_emit_lit(&w->m, "]");
    if (req->tool_choice == TD_TOOL_CHOICE_NAMED) {
        td_emit_lit(&w->m, ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":");
        td_emit_string(&w->m, req->tool_choice_name);
        td_emit_lit(&w->m, "}}");
    } else if (req->tool_choice != TD_TOOL_CHOICE_AUTO) {
        td_emit_lit(&w->m, ",\"tool_choice\":");
        td_emit_string(&w->m, td_str_of(choices[req->tool_choice]));
    }
    if (!req->parallel_tool_calls)
        td_emit_lit(&w->m, ",\"parallel_tool_calls\":false");
}

static void write_format(struct writer *w) {
    static const char *const known[] = {"name", "schema", NULL};
    td_json *inner = td_json_get(td_json_get(w->req->root, "response_format"), "json_schema");
    if (w->req->format == TD_FORMAT_JSON_OBJECT)
        td_emit_lit(&w->m, ",\"response_format\":{\"type\":\"json_object\"}");
    if (w->req->format != TD_FORMAT_JSON_SCHEMA)
        return;
    td_emit_lit(&w->m, ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":");
    td_emit_string(&w->m, w->req->schema_name);
    if (w->req->schema) {
        td_emit_lit(&w->m, ",\"schema\":");
        td_emit_value(&w->m, w->req->schema);
    }
    size_t i, max;
    td_json *key, *v;
    if (yyjson_is_obj(inner)) { // strict and description belong to the dialect itself
        yyjson_obj_foreach(inner, i, max, key, v) {
            if (!is_one_of(td_json_str(key), known))
                td_emit_member(&w->m, key, v);
        }
    }
    td_emit_lit(&w->m, "}}");
}

static void write_number(struct writer *w, const char *member, double v) {
    if (isnan(v))
        return;
    td_emit_raw(&w->m, member, strlen(member));
    td_emit_double(&w->m, v);
}

static void write_stops(struct writer *w) {
    if (w->req->stop_count == 0)
        return;
    td_emit_lit(&w->m, ",\"stop\":[");
    for (uint32_t i = 0; i < w->req->stop_count; i++) {
        if (i)
            td_emit_lit(&w->m, ",");
        td_emit_text(&w->m, w->req->stops[i]);
    }
    td_emit_lit(&w->m, "]");
}

static void write_logprobs(struct writer *w) {
    const struct td_request *req = w->req;
    if (!req->logprobs && !w->spec->want_logprobs)
        return;
    if (req->kind == TD_KIND_COMPLETION) {
        td_emit_lit(&w->m, ",\"logprobs\":");
        td_emit_u64(&w->m, req->logprobs ? req->top_logprobs : 1);
        return;
    }
    td_emit_lit(&w->m, ",\"logprobs\":true");
    if (req->top_logprobs) {
        td_emit_lit(&w->m, ",\"top_logprobs\":");
        td_emit_u64(&w->m, req->top_logprobs);
    }
}

static void write_sampling(struct writer *w) {
    static const char *const stream_known[] = {"include_usage", NULL};
    const struct td_request *req = w->req;
    uint32_t max_tokens = w->spec->max_tokens ? w->spec->max_tokens : req->max_tokens;
    if (max_tokens) {
        if (req->max_completion_tokens)
            td_emit_lit(&w->m, ",\"max_completion_tokens\":");
        else
            td_emit_lit(&w->m, ",\"max_tokens\":");
        td_emit_u64(&w->m, max_tokens);
    }
    write_number(w, ",\"temperature\":", req->temperature);
    write_number(w, ",\"top_p\":", req->top_p);
    write_number(w, ",\"presence_penalty\":", req->presence_penalty);
    write_number(w, ",\"frequency_penalty\":", req->frequency_penalty);
    if (req->seed != -1) {
        td_emit_lit(&w->m, ",\"seed\":");
        td_emit_i64(&w->m, req->seed);
    }
    if (req->n > 1) {
        td_emit_lit(&w->m, ",\"n\":");
        td_emit_u64(&w->m, req->n);
    }
    write_stops(w);
    write_logprobs(w);
    if (w->spec->stream) {
        td_emit_lit(&w->m, ",\"stream\":true,\"stream_options\":{\"include_usage\":true");
        pass_through(w, td_json_get(req->root, "stream_options"), stream_known);
        td_emit_lit(&w->m, "}");
    }
}

static void write_draft(struct writer *w) {
    static const char before[] =
        "Another, smaller model has drafted this answer. It was not sure; use what is right in "
        "it and answer yourself.\n\n";
    td_buf_clear(&w->m.scratch);
    if (w->m.err == TD_OK)
        w->m.err = td_buf_addz(&w->m.scratch, before);
    if (w->m.err == TD_OK)
        w->m.err = w->m.text ? w->m.text(w->m.text_user, w->spec->draft, &w->m.scratch)
                             : td_buf_add_str(&w->m.scratch, w->spec->draft);
    td_emit_lit(&w->m, ",{\"role\":\"user\",\"content\":");
    td_emit_string(&w->m, td_buf_str(&w->m.scratch));
    td_emit_lit(&w->m, "}");
}

static void write_chat(struct writer *w) {
    td_emit_lit(&w->m, ",\"messages\":[");
    for (uint32_t i = 0; i < w->req->message_count; i++) {
        if (i)
            td_emit_lit(&w->m, ",");
        write_message(w, &w->req->messages[i]);
    }
    if (w->spec->draft.n)
        write_draft(w);
    if (w->spec->prefix.n) {
        td_emit_lit(&w->m, ",{\"role\":\"assistant\",\"content\":");
        td_emit_text(&w->m, w->spec->prefix);
        if (w->spec->prefix_mark == TD_PREFIX_MISTRAL)
            td_emit_lit(&w->m, ",\"prefix\":true");
        td_emit_lit(&w->m, "}");
    }
    td_emit_lit(&w->m, "]");
    if (w->spec->prefix.n && w->spec->prefix_mark == TD_PREFIX_VLLM)
        td_emit_lit(&w->m, ",\"continue_final_message\":true,\"add_generation_prompt\":false");
    write_tools(w);
    write_format(w);
    write_sampling(w);
}

// Prompt and prefix become one string, each through the hook on its own.
static void write_completion(struct writer *w) {
    struct td_str parts[] = {w->req->prompt, w->spec->prefix};
    td_emit_lit(&w->m, ",\"prompt\":");
    if (w->spec->prefix.n == 0) {
        td_emit_text(&w->m, w->req->prompt);
    } else {
        td_buf_clear(&w->m.scratch);
        for (int i = 0; i < 2 && w->m.err == TD_OK; i++)
            w->m.err = w->m.text ? w->m.text(w->m.text_user, parts[i], &w->m.scratch)
                                 : td_buf_add_str(&w->m.scratch, parts[i]);
        td_emit_string(&w->m, td_buf_str(&w->m.scratch));
    }
    if (w->req->suffix.n) {
        td_emit_lit(&w->m, ",\"suffix\":");
        td_emit_text(&w->m, w->req->suffix);
    }
    write_sampling(w);
}

static void write_embedding(struct writer *w) {
    const struct td_request *req = w->req;
    bool single = req->input_count == 1 && yyjson_is_str(td_json_get(req->root, "input"));
    td_emit_lit(&w->m, ",\"input\":");
    if (!single)
        td_emit_lit(&w->m, "[");
    for (uint32_t i = 0; i < req->input_count; i++) {
        if (i)
            td_emit_lit(&w->m, ",");
        td_emit_text(&w->m, req->inputs[i]);
    }
    if (!single)
        td_emit_lit(&w->m, "]");
    if (req->dimensions) {
        td_emit_lit(&w->m, ",\"dimensions\":");
        td_emit_u64(&w->m, req->dimensions);
    }
    if (req->base64)
        td_emit_lit(&w->m, ",\"encoding_format\":\"base64\"");
}

enum td_err td_openai_write_request(const struct td_request *req, const struct td_write_spec *spec,
                                    struct td_buf *out) {
    struct writer w = {.req = req, .spec = spec};
    size_t before = out->n, i, max;
    td_json *key, *v;
    if (spec->prefix.n && (req->n > 1 || req->kind == TD_KIND_EMBEDDING))
        return TD_ERR_UNSUPPORTED;
    td_emit_init(&w.m, out);
    w.m.text = spec->text;
    w.m.text_user = spec->text_user;
    td_emit_lit(&w.m, "{\"model\":");
    td_emit_string(&w.m, spec->model);
    if (req->kind == TD_KIND_CHAT)
        write_chat(&w);
    else if (req->kind == TD_KIND_COMPLETION)
        write_completion(&w);
    else
        write_embedding(&w);
    if (req->user.n) {
        td_emit_lit(&w.m, ",\"user\":");
        td_emit_text(&w.m, req->user);
    }
    if (spec->same_dialect && yyjson_is_obj(req->root)) {
        yyjson_obj_foreach(req->root, i, max, key, v) {
            if (td_openai_key_of(req->kind, td_json_str(key)) == TD_OPENAI_KEY_COUNT)
                td_emit_member(&w.m, key, v);
        }
    }
    if (spec->chain) {
        td_emit_lit(&w.m, ",\"tandem\":");
        if (w.m.err == TD_OK)
            w.m.err = td_wishes_write(spec->chain, out);
    }
    td_emit_lit(&w.m, "}");
    td_emit_finish(&w.m);
    if (w.m.err != TD_OK)
        out->n = before;
    return w.m.err;
}

// RFC 3986 section 2.3: all but the unreserved characters.
static enum td_err add_percent(struct td_buf *out, struct td_str s) {
    enum td_err err = TD_OK;
    for (size_t i = 0; err == TD_OK && i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                     c == '.' || c == '_' || c == '~';
        err = plain ? td_buf_addc(out, (char)c) : td_buf_printf(out, "%%%02X", c);
    }
    return err;
}

enum td_err td_openai_write_url(struct td_str base_url, struct td_str path_style, struct td_str api_version,
                                enum td_kind kind, struct td_str model, struct td_buf *out) {
    static const char *const paths[] = {"/chat/completions", "/completions", "/embeddings"};
    size_t before = out->n;
    bool azure = td_str_is(path_style, "azure");
    while (base_url.n && base_url.p[base_url.n - 1] == '/')
        base_url.n--;
    enum td_err err = td_buf_add_str(out, base_url);
    if (err == TD_OK && azure)
        err = td_buf_addz(out, "/openai/deployments/");
    if (err == TD_OK && azure)
        err = add_percent(out, model);
    if (err == TD_OK)
        err = td_buf_addz(out, paths[kind]);
    if (err == TD_OK && azure && api_version.n) {
        err = td_buf_addz(out, "?api-version=");
        if (err == TD_OK)
            err = add_percent(out, api_version);
    }
    if (err != TD_OK)
        out->n = before;
    return err;
}
