// SPDX-License-Identifier: Apache-2.0
#include "wire/openai_body.h"

#include <stdio.h>

struct place {
    char z[80];
};

// The name of a field is made before it is known whether it will be needed: not with printf, which costs more than
// reading the field does. What is too long is cut.
static char *put(char *at, const struct place *p, const char *z, size_t n) {
    size_t room = (size_t)(p->z + sizeof p->z - 1 - at);
    memcpy(at, z, n < room ? n : room);
    return at + (n < room ? n : room);
}

static char *put_index(char *at, const struct place *p, const char *before, uint32_t index) {
    char digits[TD_U64_DIGITS];
    size_t from = td_str_digits(digits, index);
    at = put(at, p, before, strlen(before));
    at = put(at, p, digits + from, sizeof digits - from);
    return put(at, p, "]", 1);
}

static const char *put_field(char *at, struct place *p, const char *field) {
    if (field[0])
        at = put(at, p, ".", 1);
    *put(at, p, field, strlen(field)) = 0;
    return p->z;
}

static const char *message_field(struct place *p, uint32_t index, const char *field) {
    return put_field(put_index(p->z, p, "messages[", index), p, field);
}

static const char *part_field(struct place *p, uint32_t message, uint32_t part, const char *field) {
    return put_field(put_index(put_index(p->z, p, "messages[", message), p, ".content[", part), p, field);
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

static enum td_err read_media(struct td_openai_body *r, uint32_t mi, uint32_t pi, td_json *media,
                              struct td_part *part) {
    struct place where;
    const char *field = part_types[part->type].field, *inner = part_types[part->type].inner;
    if (!yyjson_is_obj(media))
        return td_openai_wrong_type(r, part_field(&where, mi, pi, field), "an object", media);
    if (part->type == TD_PART_FILE) {
        td_json *data = td_json_get(media, "file_data"), *id = td_json_get(media, "file_id");
        if (!data && !id)
            return REFUSE(r, BAD_REQUEST, part_field(&where, mi, pi, field), "'file' needs 'file_data' or 'file_id'.");
        if ((data && !yyjson_is_str(data)) || (id && !yyjson_is_str(id)))
            return td_openai_wrong_type(r, part_field(&where, mi, pi, field), "strings inside", data ? data : id);
        part->text = td_json_str(data ? data : id);
        return TD_OK;
    }
    td_json *bulk = td_json_get(media, inner);
    if (!yyjson_is_str(bulk) || yyjson_get_len(bulk) == 0) {
        char name[40];
        snprintf(name, sizeof name, "%s.%s", field, inner);
        return td_openai_wrong_type(r, part_field(&where, mi, pi, name), "a non-empty string", bulk);
    }
    if (part->type == TD_PART_AUDIO && !yyjson_is_str(td_json_get(media, "format")))
        return td_openai_wrong_type(r, part_field(&where, mi, pi, "input_audio.format"), "a string",
                                    td_json_get(media, "format"));
    part->text = td_json_str(bulk);
    return TD_OK;
}

static enum td_err read_part(struct td_openai_body *r, enum td_role role, uint32_t mi, uint32_t pi, td_json *v,
                             struct td_part *part) {
    struct place where;
    if (!yyjson_is_obj(v))
        return td_openai_wrong_type(r, part_field(&where, mi, pi, ""), "an object", v);
    size_t i, max;
    td_json *key, *item, *type = NULL, *media = NULL;
    yyjson_obj_foreach(v, i, max, key, item) {
        if (td_openai_is(key, "type")) {
            if (type)
                return td_openai_twice(r, part_field(&where, mi, pi, "type"));
            type = item;
        }
    }
    if (!yyjson_is_str(type))
        return td_openai_wrong_type(r, part_field(&where, mi, pi, "type"), "a string", type);
    uint32_t t = 0;
    while (t <= TD_PART_REFUSAL && !td_openai_is(type, part_types[t].type))
        t++;
    if (t > TD_PART_REFUSAL || !(role_parts[role] & 1u << t))
        return REFUSE(r, BAD_REQUEST, part_field(&where, mi, pi, "type"),
                      "A message of role '%s' cannot hold a content part of this type.", td_role_word(role));
    yyjson_obj_foreach(v, i, max, key, item) {
        if (td_openai_is(key, part_types[t].field)) {
            if (media)
                return td_openai_twice(r, part_field(&where, mi, pi, part_types[t].field));
            media = item;
        }
    }
    part->type = (enum td_part_type)t;
    part->raw = v;
    r->req->capabilities |= part_types[t].capability;
    if (t == TD_PART_TEXT || t == TD_PART_REFUSAL)
        return td_openai_read_text(r, part_field(&where, mi, pi, part_types[t].field), media, &part->text);
    return read_media(r, mi, pi, media, part);
}

static enum td_err read_parts(struct td_openai_body *r, uint32_t mi, td_json *content, td_json *refusal,
                              struct td_message *m) {
    struct place where;
    bool array = yyjson_is_arr(content);
    size_t count = (array ? yyjson_arr_size(content) : content != NULL) + (refusal != NULL);
    if (array && yyjson_arr_size(content) == 0)
        return REFUSE(r, BAD_REQUEST, message_field(&where, mi, "content"), "'content' is an empty array.");
    if (content && !array && !yyjson_is_str(content))
        return td_openai_wrong_type(r, message_field(&where, mi, "content"), "a string or an array of parts", content);
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
        err = td_openai_read_text(r, message_field(&where, mi, "content"), content, &m->parts[m->part_count++].text);
    }
    if (err == TD_OK && refusal) {
        struct td_part *p = &m->parts[m->part_count++];
        p->type = TD_PART_REFUSAL;
        err = td_openai_read_text(r, message_field(&where, mi, "refusal"), refusal, &p->text);
    }
    return err;
}

static enum td_err read_tool_call(struct td_openai_body *r, uint32_t mi, uint32_t ci, td_json *v,
                                  struct td_tool_call *call) {
    struct place where;
    char name[48];
#define CALL_FIELD(field) (snprintf(name, sizeof name, "tool_calls[%u]" field, ci), message_field(&where, mi, name))
    if (!yyjson_is_obj(v))
        return td_openai_wrong_type(r, CALL_FIELD(""), "an object", v);
    size_t i, max;
    td_json *key, *item, *id = NULL, *type = NULL, *function = NULL;
    yyjson_obj_foreach(v, i, max, key, item) {
        td_json **slot = td_openai_is(key, "id")         ? &id
                         : td_openai_is(key, "type")     ? &type
                         : td_openai_is(key, "function") ? &function
                                                         : NULL;
        if (!slot)
            continue;
        if (*slot)
            return td_openai_twice(r, CALL_FIELD(""));
        *slot = item;
    }
    if (type && yyjson_is_str(type) && td_openai_is(type, "custom"))
        return REFUSE(r, UNSUPPORTED, CALL_FIELD(".type"), "Custom tools are not supported; use function tools.");
    if (type && !(yyjson_is_str(type) && td_openai_is(type, "function")))
        return REFUSE(r, BAD_REQUEST, CALL_FIELD(".type"), "The type of a tool call must be 'function'.");
    if (!yyjson_is_obj(function))
        return td_openai_wrong_type(r, CALL_FIELD(".function"), "an object", function);
    enum td_err err = td_openai_read_name(r, CALL_FIELD(".id"), id, 256, &call->id);
    td_json *fname = NULL, *arguments = NULL;
    if (err != TD_OK)
        return err;
    yyjson_obj_foreach(function, i, max, key, item) {
        td_json **slot = td_openai_is(key, "name") ? &fname : td_openai_is(key, "arguments") ? &arguments : NULL;
        if (!slot)
            continue;
        if (*slot)
            return td_openai_twice(r, CALL_FIELD(".function"));
        *slot = item;
    }
    err = td_openai_read_text(r, CALL_FIELD(".function.name"), fname, &call->name);
    if (err == TD_OK && call->name.n == 0)
        return REFUSE(r, BAD_REQUEST, CALL_FIELD(".function.name"), "The function's name is empty.");
    return err == TD_OK ? td_openai_read_text(r, CALL_FIELD(".function.arguments"), arguments, &call->arguments) : err;
#undef CALL_FIELD
}

static enum td_err read_tool_calls(struct td_openai_body *r, uint32_t mi, td_json *calls, struct td_message *m) {
    struct place where;
    if (!yyjson_is_arr(calls))
        return td_openai_wrong_type(r, message_field(&where, mi, "tool_calls"), "an array", calls);
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
        return td_openai_is(key, "role") ? KEY_ROLE : td_openai_is(key, "name") ? KEY_NAME : KEY_COUNT;
    case 5:
        return td_openai_is(key, "audio") ? KEY_AUDIO : KEY_COUNT;
    case 7:
        return td_openai_is(key, "content") ? KEY_CONTENT : td_openai_is(key, "refusal") ? KEY_REFUSAL : KEY_COUNT;
    case 10:
        return td_openai_is(key, "tool_calls") ? KEY_TOOL_CALLS : KEY_COUNT;
    case 12:
        return td_openai_is(key, "tool_call_id") ? KEY_TOOL_CALL_ID : KEY_COUNT;
    case 13:
        return td_openai_is(key, "function_call") ? KEY_FUNCTION_CALL : KEY_COUNT;
    default:
        return KEY_COUNT;
    }
}

static enum td_err read_role(struct td_openai_body *r, uint32_t mi, td_json *role, enum td_role *out) {
    struct place where;
    if (!yyjson_is_str(role))
        return td_openai_wrong_type(r, message_field(&where, mi, "role"), "a string", role);
    for (int i = TD_ROLE_SYSTEM; i <= TD_ROLE_TOOL; i++)
        if (td_openai_is(role, td_role_word((enum td_role)i))) {
            *out = (enum td_role)i;
            return TD_OK;
        }
    if (td_openai_is(role, "function"))
        return REFUSE(r, UNSUPPORTED, message_field(&where, mi, "role"),
                      "The role 'function' is deprecated and not supported; use tool messages.");
    return REFUSE(r, BAD_REQUEST, message_field(&where, mi, "role"),
                  "Invalid value for 'role': expected one of system, developer, user, assistant, tool.");
}

static enum td_err read_message(struct td_openai_body *r, uint32_t mi, td_json *v, struct td_message *m) {
    struct place where;
    td_json *k[KEY_COUNT] = {0};
    uint32_t seen = 0;
    if (!yyjson_is_obj(v))
        return td_openai_wrong_type(r, message_field(&where, mi, ""), "an object", v);
    size_t i, max;
    td_json *key, *item;
    yyjson_obj_foreach(v, i, max, key, item) {
        enum message_key at = message_key_of(key);
        if (at == KEY_COUNT)
            continue;
        if (seen & 1u << at)
            return td_openai_twice(r, message_field(&where, mi, yyjson_get_str(key)));
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
        err = td_openai_read_name(r, message_field(&where, mi, "name"), k[KEY_NAME], 256, &m->name);
    if (err == TD_OK && assistant && k[KEY_TOOL_CALLS])
        err = read_tool_calls(r, mi, k[KEY_TOOL_CALLS], m);
    if (err == TD_OK && k[KEY_TOOL_CALLS] && !assistant)
        return REFUSE(r, BAD_REQUEST, message_field(&where, mi, "tool_calls"),
                      "Only messages of role 'assistant' have 'tool_calls'.");
    if (err == TD_OK && tool) {
        if (!k[KEY_TOOL_CALL_ID])
            return REFUSE(r, BAD_REQUEST, message_field(&where, mi, "tool_call_id"),
                          "A message of role 'tool' needs 'tool_call_id'.");
        err = td_openai_read_name(r, message_field(&where, mi, "tool_call_id"), k[KEY_TOOL_CALL_ID], 256,
                                  &m->tool_call_id);
        r->req->capabilities |= TD_CAP_TOOLS;
    }
    if (err == TD_OK && !k[KEY_CONTENT] && !(assistant && (m->tool_call_count || k[KEY_REFUSAL] || k[KEY_AUDIO])))
        return REFUSE(r, BAD_REQUEST, message_field(&where, mi, "content"), "A message of role '%s' needs 'content'.",
                      td_role_word(m->role));
    return err == TD_OK ? read_parts(r, mi, k[KEY_CONTENT], assistant ? k[KEY_REFUSAL] : NULL, m) : err;
}

enum td_err td_openai_read_messages(struct td_openai_body *r, td_json *list) {
    struct td_request *req = r->req;
    if (!yyjson_is_arr(list))
        return td_openai_wrong_type(r, "messages", "an array", list);
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
