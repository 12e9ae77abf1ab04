// SPDX-License-Identifier: Apache-2.0
#include "wire/openai_request.h"

#include <math.h>
#include <stdio.h>

#include "wire/openai_keys.h"

struct reader {
    struct td_arena *arena;
    struct td_error *e;
    struct td_request *req;
    td_json *tool_choice, *tandem; // read after everything else
    bool has_top_logprobs, has_stream_options;
    uint64_t text_bytes;
};

// Says what is wrong with which field of the request, and is the error code.
#define REFUSE(r, code, field, ...)                                                                                    \
    (td_error_set((r)->e, TD_ERR_##code, __VA_ARGS__), td_error_param((r)->e, "%s", field), TD_ERR_##code)
#define NO_MEMORY(r) td_error_set((r)->e, TD_ERR_NOMEM, "out of memory while reading the request")

static const char *const keys[] = {
#define X(name, key, kinds) key,
    TD_OPENAI_KEY_LIST(X)
#undef X
};

static bool is(td_json *key, const char *z) {
    return td_str_is(td_json_str(key), z);
}

static const char *type_word(td_json *v) {
    return yyjson_is_str(v)    ? "a string"
           : yyjson_is_bool(v) ? "a boolean"
           : yyjson_is_num(v)  ? "a number"
           : yyjson_is_arr(v)  ? "an array"
           : yyjson_is_obj(v)  ? "an object"
           : yyjson_is_null(v) ? "null"
                               : "nothing";
}

static enum td_err wrong_type(struct reader *r, const char *field, const char *expected, td_json *v) {
    return REFUSE(r, BAD_REQUEST, field, "Invalid type for '%s': expected %s, got %s.", field, expected, type_word(v));
}

static enum td_err twice(struct reader *r, const char *field) {
    return REFUSE(r, BAD_REQUEST, field, "'%s' is given twice in one object.", field);
}

// Text that is counted and may hold anything but NUL (C strings of templates and tokenizers end there).
static enum td_err read_text(struct reader *r, const char *field, td_json *v, struct td_str *out) {
    if (!yyjson_is_str(v))
        return wrong_type(r, field, "a string", v);
    struct td_str s = td_json_str(v);
    if (s.n && memchr(s.p, 0, s.n))
        return REFUSE(r, BAD_REQUEST, field, "'%s' holds a NUL character.", field);
    r->text_bytes += s.n;
    *out = s;
    return TD_OK;
}

// A short string that names something.
static enum td_err read_name(struct reader *r, const char *field, td_json *v, size_t bytes_max, struct td_str *out) {
    uint64_t before = r->text_bytes;
    enum td_err err = read_text(r, field, v, out);
    r->text_bytes = before;
    if (err == TD_OK && out->n > bytes_max)
        return REFUSE(r, BAD_REQUEST, field, "'%s' is longer than %zu bytes.", field, bytes_max);
    return err;
}

static enum td_err read_bool(struct reader *r, const char *field, td_json *v, bool *out) {
    if (!yyjson_is_bool(v))
        return wrong_type(r, field, "a boolean", v);
    *out = yyjson_get_bool(v);
    return TD_OK;
}

static enum td_err read_number(struct reader *r, const char *field, td_json *v, double low, double high, double *out) {
    if (!yyjson_is_num(v))
        return wrong_type(r, field, "a number", v);
    double d = yyjson_get_num(v);
    if (!(d >= low && d <= high))
        return REFUSE(r, BAD_REQUEST, field, "Invalid value for '%s': expected a number from %g to %g.", field, low,
                      high);
    *out = d;
    return TD_OK;
}

static enum td_err read_count(struct reader *r, const char *field, td_json *v, uint32_t low, uint32_t high,
                              uint32_t *out) {
    if (!yyjson_is_int(v))
        return wrong_type(r, field, "an integer", v);
    if (!yyjson_is_uint(v) || yyjson_get_uint(v) < low || yyjson_get_uint(v) > high)
        return REFUSE(r, BAD_REQUEST, field, "Invalid value for '%s': expected an integer from %u to %u.", field, low,
                      high);
    *out = (uint32_t)yyjson_get_uint(v);
    return TD_OK;
}

// Strings and keys inside a JSON value: about the text a model would see of it. Depth is bounded by the parser.
static uint64_t json_text_bytes(td_json *v) {
    size_t i, max;
    td_json *key, *item;
    uint64_t n = 1;
    if (yyjson_is_str(v))
        return yyjson_get_len(v) + 2;
    if (yyjson_is_obj(v)) {
        yyjson_obj_foreach(v, i, max, key, item) n += yyjson_get_len(key) + 4 + json_text_bytes(item);
    } else if (yyjson_is_arr(v)) {
        yyjson_arr_foreach(v, i, max, item) n += 1 + json_text_bytes(item);
    }
    return n;
}

// --- messages ---

struct place {
    char z[80];
};

static const char *message_field(struct place *p, uint32_t index, const char *field) {
    snprintf(p->z, sizeof p->z, "messages[%u]%s%s", index, field[0] ? "." : "", field);
    return p->z;
}

static const char *part_field(struct place *p, uint32_t message, uint32_t part, const char *field) {
    snprintf(p->z, sizeof p->z, "messages[%u].content[%u]%s%s", message, part, field[0] ? "." : "", field);
    return p->z;
}

// What kinds of content parts each role may bring.
static const uint32_t role_parts[] = {
    [TD_ROLE_SYSTEM] = 1 << TD_PART_TEXT,
    [TD_ROLE_DEVELOPER] = 1 << TD_PART_TEXT,
    [TD_ROLE_USER] = 1 << TD_PART_TEXT | 1 << TD_PART_IMAGE | 1 << TD_PART_AUDIO | 1 << TD_PART_FILE,
    [TD_ROLE_ASSISTANT] = 1 << TD_PART_TEXT | 1 << TD_PART_REFUSAL,
    [TD_ROLE_TOOL] = 1 << TD_PART_TEXT,
};

static const struct {
    const char *type, *field;
    const char *inner; // where its bulk lies; NULL: the field itself is the text
    uint32_t capability;
} part_types[] = {
    [TD_PART_TEXT] = {"text", "text", NULL, 0},
    [TD_PART_IMAGE] = {"image_url", "image_url", "url", TD_CAP_IMAGE},
    [TD_PART_AUDIO] = {"input_audio", "input_audio", "data", TD_CAP_AUDIO},
    [TD_PART_FILE] = {"file", "file", NULL, TD_CAP_FILE},
    [TD_PART_REFUSAL] = {"refusal", "refusal", NULL, 0},
};

static enum td_err read_media(struct reader *r, uint32_t mi, uint32_t pi, td_json *media, struct td_part *part) {
    struct place where;
    const char *field = part_types[part->type].field, *inner = part_types[part->type].inner;
    if (!yyjson_is_obj(media))
        return wrong_type(r, part_field(&where, mi, pi, field), "an object", media);
    if (part->type == TD_PART_FILE) {
        td_json *data = td_json_get(media, "file_data"), *id = td_json_get(media, "file_id");
        if (!data && !id)
            return REFUSE(r, BAD_REQUEST, part_field(&where, mi, pi, field), "'file' needs 'file_data' or 'file_id'.");
        if ((data && !yyjson_is_str(data)) || (id && !yyjson_is_str(id)))
            return wrong_type(r, part_field(&where, mi, pi, field), "strings inside", data ? data : id);
        part->text = td_json_str(data ? data : id);
        return TD_OK;
    }
    td_json *bulk = td_json_get(media, inner);
    if (!yyjson_is_str(bulk) || yyjson_get_len(bulk) == 0) {
        char name[40];
        snprintf(name, sizeof name, "%s.%s", field, inner);
        return wrong_type(r, part_field(&where, mi, pi, name), "a non-empty string", bulk);
    }
    if (part->type == TD_PART_AUDIO && !yyjson_is_str(td_json_get(media, "format")))
        return wrong_type(r, part_field(&where, mi, pi, "input_audio.format"), "a string",
                          td_json_get(media, "format"));
    part->text = td_json_str(bulk);
    return TD_OK;
}

static enum td_err read_part(struct reader *r, enum td_role role, uint32_t mi, uint32_t pi, td_json *v,
                             struct td_part *part) {
    struct place where;
    if (!yyjson_is_obj(v))
        return wrong_type(r, part_field(&where, mi, pi, ""), "an object", v);
    size_t i, max;
    td_json *key, *item, *type = NULL, *media = NULL;
    yyjson_obj_foreach(v, i, max, key, item) {
        if (is(key, "type")) {
            if (type)
                return twice(r, part_field(&where, mi, pi, "type"));
            type = item;
        }
    }
    if (!yyjson_is_str(type))
        return wrong_type(r, part_field(&where, mi, pi, "type"), "a string", type);
    uint32_t t = 0;
    while (t <= TD_PART_REFUSAL && !is(type, part_types[t].type))
        t++;
    if (t > TD_PART_REFUSAL || !(role_parts[role] & 1u << t))
        return REFUSE(r, BAD_REQUEST, part_field(&where, mi, pi, "type"),
                      "A message of role '%s' cannot hold a content part of this type.", td_role_word(role));
    yyjson_obj_foreach(v, i, max, key, item) {
        if (is(key, part_types[t].field)) {
            if (media)
                return twice(r, part_field(&where, mi, pi, part_types[t].field));
            media = item;
        }
    }
    part->type = (enum td_part_type)t;
    part->raw = v;
    r->req->capabilities |= part_types[t].capability;
    if (t == TD_PART_TEXT || t == TD_PART_REFUSAL)
        return read_text(r, part_field(&where, mi, pi, part_types[t].field), media, &part->text);
    return read_media(r, mi, pi, media, part);
}

static enum td_err read_parts(struct reader *r, uint32_t mi, td_json *content, td_json *refusal, struct td_message *m) {
    struct place where;
    bool array = yyjson_is_arr(content);
    size_t count = (array ? yyjson_arr_size(content) : content != NULL) + (refusal != NULL);
    if (array && yyjson_arr_size(content) == 0)
        return REFUSE(r, BAD_REQUEST, message_field(&where, mi, "content"), "'content' is an empty array.");
    if (content && !array && !yyjson_is_str(content))
        return wrong_type(r, message_field(&where, mi, "content"), "a string or an array of parts", content);
    if (count == 0)
        return TD_OK;
    if (!(m->parts = td_arena_array(r->arena, count, sizeof *m->parts)))
        return NO_MEMORY(r);
    enum td_err err = TD_OK;
    if (array) {
        size_t i, max;
        td_json *v;
        yyjson_arr_foreach(content, i, max, v) {
            if ((err = read_part(r, m->role, mi, (uint32_t)i, v, &m->parts[m->part_count++])) != TD_OK)
                return err;
        }
    } else if (content) {
        err = read_text(r, message_field(&where, mi, "content"), content, &m->parts[m->part_count++].text);
    }
    if (err == TD_OK && refusal) {
        struct td_part *p = &m->parts[m->part_count++];
        p->type = TD_PART_REFUSAL;
        err = read_text(r, message_field(&where, mi, "refusal"), refusal, &p->text);
    }
    return err;
}

static enum td_err read_tool_call(struct reader *r, uint32_t mi, uint32_t ci, td_json *v, struct td_tool_call *call) {
    struct place where;
    char name[48];
#define CALL_FIELD(field) (snprintf(name, sizeof name, "tool_calls[%u]" field, ci), message_field(&where, mi, name))
    if (!yyjson_is_obj(v))
        return wrong_type(r, CALL_FIELD(""), "an object", v);
    size_t i, max;
    td_json *key, *item, *id = NULL, *type = NULL, *function = NULL;
    yyjson_obj_foreach(v, i, max, key, item) {
        td_json **slot = is(key, "id") ? &id : is(key, "type") ? &type : is(key, "function") ? &function : NULL;
        if (!slot)
            continue;
        if (*slot)
            return twice(r, CALL_FIELD(""));
        *slot = item;
    }
    if (type && yyjson_is_str(type) && is(type, "custom"))
        return REFUSE(r, UNSUPPORTED, CALL_FIELD(".type"), "Custom tools are not supported; use function tools.");
    if (type && !(yyjson_is_str(type) && is(type, "function")))
        return REFUSE(r, BAD_REQUEST, CALL_FIELD(".type"), "The type of a tool call must be 'function'.");
    if (!yyjson_is_obj(function))
        return wrong_type(r, CALL_FIELD(".function"), "an object", function);
    enum td_err err = read_name(r, CALL_FIELD(".id"), id, 256, &call->id);
    td_json *fname = NULL, *arguments = NULL;
    if (err != TD_OK)
        return err;
    yyjson_obj_foreach(function, i, max, key, item) {
        td_json **slot = is(key, "name") ? &fname : is(key, "arguments") ? &arguments : NULL;
        if (!slot)
            continue;
        if (*slot)
            return twice(r, CALL_FIELD(".function"));
        *slot = item;
    }
    err = read_text(r, CALL_FIELD(".function.name"), fname, &call->name);
    if (err == TD_OK && call->name.n == 0)
        return REFUSE(r, BAD_REQUEST, CALL_FIELD(".function.name"), "The function's name is empty.");
    return err == TD_OK ? read_text(r, CALL_FIELD(".function.arguments"), arguments, &call->arguments) : err;
#undef CALL_FIELD
}

static enum td_err read_tool_calls(struct reader *r, uint32_t mi, td_json *calls, struct td_message *m) {
    struct place where;
    if (!yyjson_is_arr(calls))
        return wrong_type(r, message_field(&where, mi, "tool_calls"), "an array", calls);
    size_t count = yyjson_arr_size(calls), i, max;
    if (count > TD_TOOL_CALLS_MAX)
        return REFUSE(r, LIMIT, message_field(&where, mi, "tool_calls"), "More than %u tool calls in one message.",
                      TD_TOOL_CALLS_MAX);
    if (count == 0)
        return TD_OK;
    if (!(m->tool_calls = td_arena_array(r->arena, count, sizeof *m->tool_calls)))
        return NO_MEMORY(r);
    td_json *v;
    yyjson_arr_foreach(calls, i, max, v) {
        enum td_err err = read_tool_call(r, mi, (uint32_t)i, v, &m->tool_calls[m->tool_call_count++]);
        if (err != TD_OK)
            return err;
    }
    r->req->capabilities |= TD_CAP_TOOLS;
    return TD_OK;
}

enum message_key {
    KEY_ROLE,
    KEY_CONTENT,
    KEY_NAME,
    KEY_TOOL_CALL_ID,
    KEY_TOOL_CALLS,
    KEY_REFUSAL,
    KEY_FUNCTION_CALL,
    KEY_AUDIO,
    KEY_COUNT
};

static enum message_key message_key_of(td_json *key) {
    switch (yyjson_get_len(key)) {
    case 4:
        return is(key, "role") ? KEY_ROLE : is(key, "name") ? KEY_NAME : KEY_COUNT;
    case 5:
        return is(key, "audio") ? KEY_AUDIO : KEY_COUNT;
    case 7:
        return is(key, "content") ? KEY_CONTENT : is(key, "refusal") ? KEY_REFUSAL : KEY_COUNT;
    case 10:
        return is(key, "tool_calls") ? KEY_TOOL_CALLS : KEY_COUNT;
    case 12:
        return is(key, "tool_call_id") ? KEY_TOOL_CALL_ID : KEY_COUNT;
    case 13:
        return is(key, "function_call") ? KEY_FUNCTION_CALL : KEY_COUNT;
    default:
        return KEY_COUNT;
    }
}

static enum td_err read_role(struct reader *r, uint32_t mi, td_json *role, enum td_role *out) {
    struct place where;
    if (!yyjson_is_str(role))
        return wrong_type(r, message_field(&where, mi, "role"), "a string", role);
    for (int i = TD_ROLE_SYSTEM; i <= TD_ROLE_TOOL; i++)
        if (is(role, td_role_word((enum td_role)i))) {
            *out = (enum td_role)i;
            return TD_OK;
        }
    if (is(role, "function"))
        return REFUSE(r, UNSUPPORTED, message_field(&where, mi, "role"),
                      "The role 'function' is deprecated and not supported; use tool messages.");
    return REFUSE(r, BAD_REQUEST, message_field(&where, mi, "role"),
                  "Invalid value for 'role': expected one of system, developer, user, assistant, tool.");
}

static enum td_err read_message(struct reader *r, uint32_t mi, td_json *v, struct td_message *m) {
    struct place where;
    td_json *k[KEY_COUNT] = {0};
    uint32_t seen = 0;
    if (!yyjson_is_obj(v))
        return wrong_type(r, message_field(&where, mi, ""), "an object", v);
    size_t i, max;
    td_json *key, *item;
    yyjson_obj_foreach(v, i, max, key, item) {
        enum message_key at = message_key_of(key);
        if (at == KEY_COUNT)
            continue;
        if (seen & 1u << at)
            return twice(r, message_field(&where, mi, yyjson_get_str(key)));
        seen |= 1u << at;
        k[at] = yyjson_is_null(item) ? NULL : item;
    }
    m->raw = v;
    enum td_err err = read_role(r, mi, k[KEY_ROLE], &m->role);
    bool assistant = err == TD_OK && m->role == TD_ROLE_ASSISTANT, tool = err == TD_OK && m->role == TD_ROLE_TOOL;
    if (err == TD_OK && k[KEY_FUNCTION_CALL])
        return REFUSE(r, UNSUPPORTED, message_field(&where, mi, "function_call"),
                      "'function_call' is deprecated and not supported; use 'tool_calls'.");
    if (err == TD_OK && k[KEY_NAME])
        err = read_name(r, message_field(&where, mi, "name"), k[KEY_NAME], 256, &m->name);
    if (err == TD_OK && assistant && k[KEY_TOOL_CALLS])
        err = read_tool_calls(r, mi, k[KEY_TOOL_CALLS], m);
    if (err == TD_OK && k[KEY_TOOL_CALLS] && !assistant)
        return REFUSE(r, BAD_REQUEST, message_field(&where, mi, "tool_calls"),
                      "Only messages of role 'assistant' have 'tool_calls'.");
    if (err == TD_OK && tool) {
        if (!k[KEY_TOOL_CALL_ID])
            return REFUSE(r, BAD_REQUEST, message_field(&where, mi, "tool_call_id"),
                          "A message of role 'tool' needs 'tool_call_id'.");
        err = read_name(r, message_field(&where, mi, "tool_call_id"), k[KEY_TOOL_CALL_ID], 256, &m->tool_call_id);
        r->req->capabilities |= TD_CAP_TOOLS;
    }
    if (err == TD_OK && !k[KEY_CONTENT] && !(assistant && (m->tool_call_count || k[KEY_REFUSAL] || k[KEY_AUDIO])))
        return REFUSE(r, BAD_REQUEST, message_field(&where, mi, "content"), "A message of role '%s' needs 'content'.",
                      td_role_word(m->role));
    return err == TD_OK ? read_parts(r, mi, k[KEY_CONTENT], assistant ? k[KEY_REFUSAL] : NULL, m) : err;
}

static enum td_err read_messages(struct reader *r, td_json *list) {
    struct td_request *req = r->req;
    if (!yyjson_is_arr(list))
        return wrong_type(r, "messages", "an array", list);
    size_t count = yyjson_arr_size(list), i, max;
    if (count == 0)
        return REFUSE(r, BAD_REQUEST, "messages", "'messages' is empty.");
    if (count > TD_MESSAGES_MAX)
        return REFUSE(r, LIMIT, "messages", "More than %u messages.", TD_MESSAGES_MAX);
    if (!(req->messages = td_arena_array(r->arena, count, sizeof *req->messages)))
        return NO_MEMORY(r);
    td_json *v;
    yyjson_arr_foreach(list, i, max, v) {
        enum td_err err = read_message(r, (uint32_t)i, v, &req->messages[req->message_count++]);
        if (err != TD_OK)
            return err;
    }
    return TD_OK;
}

// --- tools and formats ---

static bool is_function_name(struct td_str s, size_t bytes_max) {
    if (s.n == 0 || s.n > bytes_max)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
              c == '.' || c == ':' || c == '/'))
            return false;
    }
    return true;
}

static enum td_err read_tool(struct reader *r, uint32_t ti, td_json *v, struct td_tool *tool) {
    struct place where;
#define TOOL_FIELD(field) (snprintf(where.z, sizeof where.z, "tools[%u]" field, ti), where.z)
    if (!yyjson_is_obj(v))
        return wrong_type(r, TOOL_FIELD(""), "an object", v);
    size_t i, max;
    td_json *key, *item, *type = NULL, *function = NULL, *name = NULL, *description = NULL, *strict = NULL;
    yyjson_obj_foreach(v, i, max, key, item) {
        td_json **slot = is(key, "type") ? &type : is(key, "function") ? &function : NULL;
        if (slot && *slot)
            return twice(r, TOOL_FIELD(""));
        if (slot)
            *slot = item;
    }
    if (!yyjson_is_str(type))
        return wrong_type(r, TOOL_FIELD(".type"), "a string", type);
    if (!is(type, "function"))
        return REFUSE(r, UNSUPPORTED, TOOL_FIELD(".type"), "Only tools of type 'function' are supported.");
    if (!yyjson_is_obj(function))
        return wrong_type(r, TOOL_FIELD(".function"), "an object", function);
    yyjson_obj_foreach(function, i, max, key, item) {
        td_json **slot = is(key, "name")          ? &name
                         : is(key, "description") ? &description
                         : is(key, "parameters")  ? &tool->parameters
                         : is(key, "strict")      ? &strict
                                                  : NULL;
        if (slot && *slot)
            return twice(r, TOOL_FIELD(".function"));
        if (slot)
            *slot = item;
    }
    enum td_err err = read_text(r, TOOL_FIELD(".function.name"), name, &tool->name);
    if (err == TD_OK && !is_function_name(tool->name, TD_NAME_BYTES_MAX))
        return REFUSE(r, BAD_REQUEST, TOOL_FIELD(".function.name"),
                      "A function's name has 1 to %u characters out of a-z, A-Z, 0-9, '_', '-', '.', ':', '/'.",
                      TD_NAME_BYTES_MAX);
    if (err == TD_OK && description && !yyjson_is_null(description))
        err = read_text(r, TOOL_FIELD(".function.description"), description, &tool->description);
    if (err == TD_OK && strict && !yyjson_is_null(strict) && !yyjson_is_bool(strict))
        return wrong_type(r, TOOL_FIELD(".function.strict"), "a boolean", strict);
    if (yyjson_is_null(tool->parameters))
        tool->parameters = NULL;
    if (err == TD_OK && tool->parameters) {
        if (!yyjson_is_obj(tool->parameters))
            return wrong_type(r, TOOL_FIELD(".function.parameters"), "a JSON schema (an object)", tool->parameters);
        r->text_bytes += json_text_bytes(tool->parameters);
    }
    tool->raw = v;
    return err;
#undef TOOL_FIELD
}

static enum td_err read_tools(struct reader *r, td_json *list) {
    struct td_request *req = r->req;
    if (!yyjson_is_arr(list))
        return wrong_type(r, "tools", "an array", list);
    size_t count = yyjson_arr_size(list), i, max;
    if (count > TD_TOOLS_MAX)
        return REFUSE(r, LIMIT, "tools", "More than %u tools.", TD_TOOLS_MAX);
    if (count == 0)
        return TD_OK;
    if (!(req->tools = td_arena_array(r->arena, count, sizeof *req->tools)))
        return NO_MEMORY(r);
    td_json *v;
    yyjson_arr_foreach(list, i, max, v) {
        enum td_err err = read_tool(r, (uint32_t)i, v, &req->tools[req->tool_count++]);
        if (err != TD_OK)
            return err;
    }
    return TD_OK;
}

static struct td_tool *find_tool(const struct td_request *req, struct td_str name) {
    for (uint32_t i = 0; i < req->tool_count; i++)
        if (td_str_eq(req->tools[i].name, name))
            return &req->tools[i];
    return NULL;
}

// {"type":"function","function":{"name":…}} → the name.
static enum td_err named_tool(struct reader *r, const char *field, td_json *v, struct td_tool **out) {
    td_json *type = td_json_get(v, "type"), *name = td_json_get(td_json_get(v, "function"), "name");
    if (yyjson_is_str(type) && is(type, "custom"))
        return REFUSE(r, UNSUPPORTED, field, "Custom tools are not supported; use function tools.");
    if (!yyjson_is_str(type) || !is(type, "function") || !yyjson_is_str(name))
        return REFUSE(r, BAD_REQUEST, field, "Invalid value for '%s': expected a function by its name.", field);
    if (!(*out = find_tool(r->req, td_json_str(name))))
        return REFUSE(r, BAD_REQUEST, field, "'%s' names a function that is not in 'tools'.", field);
    return TD_OK;
}

// The newer form that allows only some of the tools: the others are not offered at all.
static enum td_err allowed_tools(struct reader *r, td_json *v) {
    struct td_request *req = r->req;
    td_json *allowed = td_json_get(v, "allowed_tools"), *mode = td_json_get(allowed, "mode");
    td_json *list = td_json_get(allowed, "tools");
    bool required = yyjson_is_str(mode) && is(mode, "required");
    if (!required && !(yyjson_is_str(mode) && is(mode, "auto")))
        return REFUSE(r, BAD_REQUEST, "tool_choice.allowed_tools.mode", "Expected 'auto' or 'required'.");
    if (!yyjson_is_arr(list))
        return wrong_type(r, "tool_choice.allowed_tools.tools", "an array", list);
    struct td_tool *kept = td_arena_array(r->arena, yyjson_arr_size(list), sizeof *kept);
    uint32_t count = 0;
    if (!kept)
        return NO_MEMORY(r);
    size_t i, max;
    td_json *item;
    yyjson_arr_foreach(list, i, max, item) {
        struct td_tool *tool;
        enum td_err err = named_tool(r, "tool_choice.allowed_tools.tools", item, &tool);
        if (err != TD_OK)
            return err;
        kept[count++] = *tool;
    }
    req->tools = kept;
    req->tool_count = count;
    req->tool_choice = required ? TD_TOOL_CHOICE_REQUIRED : TD_TOOL_CHOICE_AUTO;
    return TD_OK;
}

static enum td_err read_tool_choice(struct reader *r, td_json *v) {
    struct td_request *req = r->req;
    if (yyjson_is_str(v)) {
        if (is(v, "auto"))
            req->tool_choice = TD_TOOL_CHOICE_AUTO;
        else if (is(v, "none"))
            req->tool_choice = TD_TOOL_CHOICE_NONE;
        else if (is(v, "required"))
            req->tool_choice = TD_TOOL_CHOICE_REQUIRED;
        else
            return REFUSE(r, BAD_REQUEST, "tool_choice",
                          "Invalid value for 'tool_choice': expected none, auto, required or an object.");
    } else if (yyjson_is_obj(v)) {
        td_json *type = td_json_get(v, "type");
        if (yyjson_is_str(type) && is(type, "allowed_tools"))
            return allowed_tools(r, v);
        struct td_tool *tool;
        enum td_err err = named_tool(r, "tool_choice", v, &tool);
        if (err != TD_OK)
            return err;
        req->tool_choice = TD_TOOL_CHOICE_NAMED;
        req->tool_choice_name = tool->name;
    } else {
        return wrong_type(r, "tool_choice", "a string or an object", v);
    }
    if (req->tool_choice == TD_TOOL_CHOICE_REQUIRED && req->tool_count == 0)
        return REFUSE(r, BAD_REQUEST, "tool_choice", "'tool_choice' requires a tool but 'tools' is empty.");
    return TD_OK;
}

static enum td_err read_format(struct reader *r, td_json *v) {
    struct td_request *req = r->req;
    if (!yyjson_is_obj(v))
        return wrong_type(r, "response_format", "an object", v);
    td_json *type = td_json_get(v, "type"), *schema = td_json_get(v, "json_schema");
    if (!yyjson_is_str(type))
        return wrong_type(r, "response_format.type", "a string", type);
    if (is(type, "text"))
        return TD_OK;
    if (is(type, "json_object")) {
        req->format = TD_FORMAT_JSON_OBJECT;
        req->capabilities |= TD_CAP_JSON;
        return TD_OK;
    }
    if (!is(type, "json_schema"))
        return REFUSE(r, BAD_REQUEST, "response_format.type", "Expected one of text, json_object, json_schema.");
    if (!yyjson_is_obj(schema))
        return wrong_type(r, "response_format.json_schema", "an object", schema);
    enum td_err err =
        read_name(r, "response_format.json_schema.name", td_json_get(schema, "name"), 64, &req->schema_name);
    if (err == TD_OK && !is_function_name(req->schema_name, 64))
        return REFUSE(r, BAD_REQUEST, "response_format.json_schema.name",
                      "A schema's name has 1 to 64 characters out of a-z, A-Z, 0-9, '_' and '-'.");
    td_json *inner = td_json_get(schema, "schema");
    if (err == TD_OK && inner && !yyjson_is_obj(inner))
        return wrong_type(r, "response_format.json_schema.schema", "an object", inner);
    req->format = TD_FORMAT_JSON_SCHEMA;
    req->capabilities |= TD_CAP_JSON_SCHEMA;
    req->schema = inner;
    r->text_bytes += inner ? json_text_bytes(inner) : 0;
    return err;
}

// --- the other fields ---

static enum td_err read_stop(struct reader *r, td_json *v) {
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
                err = read_text(r, "stop", item, &req->stops[req->stop_count]);
            if (err == TD_OK && req->stops[req->stop_count].n) // an empty one would stop everywhere
                req->stop_count++;
        }
    } else if (yyjson_is_str(v)) {
        err = read_text(r, "stop", v, &req->stops[0]);
        req->stop_count = err == TD_OK && req->stops[0].n;
    } else {
        return wrong_type(r, "stop", "a string or an array of strings", v);
    }
    r->text_bytes = before;
    return err;
}

static enum td_err read_seed(struct reader *r, td_json *v) {
    if (!yyjson_is_int(v))
        return wrong_type(r, "seed", "an integer", v);
    if (yyjson_is_uint(v) && yyjson_get_uint(v) > INT64_MAX)
        return REFUSE(r, BAD_REQUEST, "seed", "'seed' is larger than 64 bits.");
    r->req->seed = yyjson_get_sint(v);
    return TD_OK;
}

static enum td_err read_stream_options(struct reader *r, td_json *v) {
    if (!yyjson_is_obj(v))
        return wrong_type(r, "stream_options", "an object", v);
    r->has_stream_options = true;
    td_json *usage = td_json_get(v, "include_usage");
    return usage ? read_bool(r, "stream_options.include_usage", usage, &r->req->include_usage) : TD_OK;
}

// Chat: a boolean beside top_logprobs. Completions: the number of alternatives.
static enum td_err read_logprobs(struct reader *r, td_json *v) {
    struct td_request *req = r->req;
    if (req->kind == TD_KIND_CHAT)
        return read_bool(r, "logprobs", v, &req->logprobs);
    req->logprobs = true;
    return read_count(r, "logprobs", v, 0, TD_LOGPROBS_MAX, &req->top_logprobs);
}

static enum td_err read_prompt(struct reader *r, td_json *v) {
    if (yyjson_is_arr(v)) {
        if (yyjson_arr_size(v) != 1 || !yyjson_is_str(yyjson_arr_get_first(v)))
            return REFUSE(r, UNSUPPORTED, "prompt",
                          "One prompt of text is supported; several prompts and token arrays are not.");
        v = yyjson_arr_get_first(v);
    }
    return read_text(r, "prompt", v, &r->req->prompt);
}

static enum td_err read_input(struct reader *r, td_json *v) {
    struct td_request *req = r->req;
    bool array = yyjson_is_arr(v);
    size_t count = array ? yyjson_arr_size(v) : 1, i, max;
    if (!array && !yyjson_is_str(v))
        return wrong_type(r, "input", "a string or an array of strings", v);
    if (count == 0 || count > TD_INPUTS_MAX)
        return REFUSE(r, BAD_REQUEST, "input", "'input' must have 1 to %u entries.", TD_INPUTS_MAX);
    if (!(req->inputs = td_arena_array(r->arena, count, sizeof *req->inputs)))
        return NO_MEMORY(r);
    enum td_err err = TD_OK;
    if (!array) {
        err = read_text(r, "input", v, &req->inputs[req->input_count++]);
    } else {
        td_json *item;
        yyjson_arr_foreach(v, i, max, item) {
            if (yyjson_is_num(item) || yyjson_is_arr(item))
                return REFUSE(r, UNSUPPORTED, "input", "Token arrays are not supported as 'input'; send text.");
            if (err == TD_OK)
                err = read_text(r, "input", item, &req->inputs[req->input_count++]);
        }
    }
    for (uint32_t k = 0; err == TD_OK && k < req->input_count; k++)
        if (req->inputs[k].n == 0)
            return REFUSE(r, BAD_REQUEST, "input", "'input' holds an empty string.");
    return err;
}

static enum td_err read_encoding(struct reader *r, td_json *v) {
    if (!yyjson_is_str(v) || (!is(v, "float") && !is(v, "base64")))
        return REFUSE(r, BAD_REQUEST, "encoding_format", "'encoding_format' is 'float' or 'base64'.");
    r->req->base64 = is(v, "base64");
    return TD_OK;
}

// What is refused unless it is given as the value that changes nothing.
static enum td_err read_refused(struct reader *r, enum td_openai_key key, td_json *v) {
    if (key == TD_OPENAI_KEY_FUNCTIONS || key == TD_OPENAI_KEY_FUNCTION_CALL)
        return REFUSE(r, UNSUPPORTED, keys[key], "'%s' is deprecated and not supported; use 'tools'.", keys[key]);
    if (key == TD_OPENAI_KEY_ECHO && yyjson_is_bool(v) && !yyjson_get_bool(v))
        return TD_OK;
    if (key == TD_OPENAI_KEY_BEST_OF && yyjson_is_uint(v) && yyjson_get_uint(v) == 1)
        return TD_OK;
    return REFUSE(r, UNSUPPORTED, keys[key], "'%s' is not supported.", keys[key]);
}

static enum td_err read_field(struct reader *r, enum td_openai_key key, td_json *v) {
    struct td_request *req = r->req;
    const char *field = keys[key];
    switch (key) {
    case TD_OPENAI_KEY_MODEL:
        return read_name(r, field, v, TD_NAME_BYTES_MAX, &req->model);
    case TD_OPENAI_KEY_MESSAGES:
        return read_messages(r, v);
    case TD_OPENAI_KEY_STREAM:
        return read_bool(r, field, v, &req->stream);
    case TD_OPENAI_KEY_STREAM_OPTIONS:
        return read_stream_options(r, v);
    case TD_OPENAI_KEY_TEMPERATURE:
        return read_number(r, field, v, 0, 2, &req->temperature);
    case TD_OPENAI_KEY_TOP_P:
        return read_number(r, field, v, 0, 1, &req->top_p);
    case TD_OPENAI_KEY_MAX_COMPLETION_TOKENS:
        req->max_completion_tokens = true;
        return read_count(r, field, v, 1, INT32_MAX, &req->max_tokens);
    case TD_OPENAI_KEY_MAX_TOKENS:
        // The newer name wins where both are given, whatever their order.
        return req->max_completion_tokens ? TD_OK : read_count(r, field, v, 1, INT32_MAX, &req->max_tokens);
    case TD_OPENAI_KEY_N:
        return read_count(r, field, v, 1, TD_CHOICES_MAX, &req->n);
    case TD_OPENAI_KEY_STOP:
        return read_stop(r, v);
    case TD_OPENAI_KEY_SEED:
        return read_seed(r, v);
    case TD_OPENAI_KEY_PRESENCE_PENALTY:
        return read_number(r, field, v, -2, 2, &req->presence_penalty);
    case TD_OPENAI_KEY_FREQUENCY_PENALTY:
        return read_number(r, field, v, -2, 2, &req->frequency_penalty);
    case TD_OPENAI_KEY_LOGPROBS:
        return read_logprobs(r, v);
    case TD_OPENAI_KEY_TOP_LOGPROBS:
        r->has_top_logprobs = true;
        return read_count(r, field, v, 0, TD_LOGPROBS_MAX, &req->top_logprobs);
    case TD_OPENAI_KEY_TOOLS:
        return read_tools(r, v);
    case TD_OPENAI_KEY_TOOL_CHOICE:
        r->tool_choice = v;
        return TD_OK;
    case TD_OPENAI_KEY_PARALLEL_TOOL_CALLS:
        return read_bool(r, field, v, &req->parallel_tool_calls);
    case TD_OPENAI_KEY_RESPONSE_FORMAT:
        return read_format(r, v);
    case TD_OPENAI_KEY_USER:
        return read_name(r, field, v, 512, &req->user);
    case TD_OPENAI_KEY_PROMPT:
        return read_prompt(r, v);
    case TD_OPENAI_KEY_SUFFIX:
        return read_text(r, field, v, &req->suffix);
    case TD_OPENAI_KEY_INPUT:
        return read_input(r, v);
    case TD_OPENAI_KEY_DIMENSIONS:
        return read_count(r, field, v, 1, 1u << 20, &req->dimensions);
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
static enum td_err check_whole(struct reader *r, uint64_t seen) {
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
    if (req->kind == TD_KIND_CHAT && r->has_top_logprobs && req->top_logprobs && !req->logprobs)
        return REFUSE(r, BAD_REQUEST, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true.");
    if (r->has_stream_options && !req->stream)
        return REFUSE(r, BAD_REQUEST, "stream_options", "'stream_options' needs 'stream' to be true.");
    enum td_err err = r->tool_choice ? read_tool_choice(r, r->tool_choice) : TD_OK;
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
    struct reader r = {.arena = arena, .e = e, .req = &req};
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
            return twice(&r, keys[k]);
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
