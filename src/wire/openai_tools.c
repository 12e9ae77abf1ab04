// SPDX-License-Identifier: Apache-2.0
#include "wire/openai_body.h"

#include <stdio.h>

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

static enum td_err read_tool(struct td_openai_body *r, uint32_t ti, td_json *v, struct td_tool *tool) {
    char where[80];
#define TOOL_FIELD(field) (snprintf(where, sizeof where, "tools[%u]" field, ti), where)
    if (!yyjson_is_obj(v))
        return td_openai_wrong_type(r, TOOL_FIELD(""), "an object", v);
    size_t i, max;
    td_json *key, *item, *type = NULL, *function = NULL, *name = NULL, *description = NULL, *strict = NULL;
    yyjson_obj_foreach(v, i, max, key, item) {
        td_json **slot = td_openai_is(key, "type") ? &type : td_openai_is(key, "function") ? &function : NULL;
        if (slot && *slot)
            return td_openai_twice(r, TOOL_FIELD(""));
        if (slot)
            *slot = item;
    }
    if (!yyjson_is_str(type))
        return td_openai_wrong_type(r, TOOL_FIELD(".type"), "a string", type);
    if (!td_openai_is(type, "function"))
        return REFUSE(r, UNSUPPORTED, TOOL_FIELD(".type"), "Only tools of type 'function' are supported.");
    if (!yyjson_is_obj(function))
        return td_openai_wrong_type(r, TOOL_FIELD(".function"), "an object", function);
    yyjson_obj_foreach(function, i, max, key, item) {
        td_json **slot = td_openai_is(key, "name")          ? &name
                         : td_openai_is(key, "description") ? &description
                         : td_openai_is(key, "parameters")  ? &tool->parameters
                         : td_openai_is(key, "strict")      ? &strict
                                                            : NULL;
        if (slot && *slot)
            return td_openai_twice(r, TOOL_FIELD(".function"));
        if (slot)
            *slot = item;
    }
    enum td_err err = td_openai_read_text(r, TOOL_FIELD(".function.name"), name, &tool->name);
    if (err == TD_OK && !is_function_name(tool->name, TD_NAME_BYTES_MAX))
        return REFUSE(r, BAD_REQUEST, TOOL_FIELD(".function.name"),
                      "A function's name has 1 to %u characters out of a-z, A-Z, 0-9, '_', '-', '.', ':', '/'.",
                      TD_NAME_BYTES_MAX);
    if (err == TD_OK && description && !yyjson_is_null(description))
        err = td_openai_read_text(r, TOOL_FIELD(".function.description"), description, &tool->description);
    if (err == TD_OK && strict && !yyjson_is_null(strict) && !yyjson_is_bool(strict))
        return td_openai_wrong_type(r, TOOL_FIELD(".function.strict"), "a boolean", strict);
    if (yyjson_is_null(tool->parameters))
        tool->parameters = NULL;
    if (err == TD_OK && tool->parameters) {
        if (!yyjson_is_obj(tool->parameters))
            return td_openai_wrong_type(r, TOOL_FIELD(".function.parameters"), "a JSON schema (an object)",
                                        tool->parameters);
        r->text_bytes += td_openai_json_text_bytes(tool->parameters);
    }
    tool->raw = v;
    return err;
#undef TOOL_FIELD
}

enum td_err td_openai_read_tools(struct td_openai_body *r, td_json *list) {
    struct td_request *req = r->req;
    if (!yyjson_is_arr(list))
        return td_openai_wrong_type(r, "tools", "an array", list);
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
static enum td_err named_tool(struct td_openai_body *r, const char *field, td_json *v, struct td_tool **out) {
    td_json *type = td_json_get(v, "type"), *name = td_json_get(td_json_get(v, "function"), "name");
    if (yyjson_is_str(type) && td_openai_is(type, "custom"))
        return REFUSE(r, UNSUPPORTED, field, "Custom tools are not supported; use function tools.");
    if (!yyjson_is_str(type) || !td_openai_is(type, "function") || !yyjson_is_str(name))
        return REFUSE(r, BAD_REQUEST, field, "Invalid value for '%s': expected a function by its name.", field);
    if (!(*out = find_tool(r->req, td_json_str(name))))
        return REFUSE(r, BAD_REQUEST, field, "'%s' names a function that is not in 'tools'.", field);
    return TD_OK;
}

// The newer form that allows only some of the tools: the others are not offered at all.
static enum td_err allowed_tools(struct td_openai_body *r, td_json *v) {
    struct td_request *req = r->req;
    td_json *allowed = td_json_get(v, "allowed_tools"), *mode = td_json_get(allowed, "mode");
    td_json *list = td_json_get(allowed, "tools");
    bool required = yyjson_is_str(mode) && td_openai_is(mode, "required");
    if (!required && !(yyjson_is_str(mode) && td_openai_is(mode, "auto")))
        return REFUSE(r, BAD_REQUEST, "tool_choice.allowed_tools.mode", "Expected 'auto' or 'required'.");
    if (!yyjson_is_arr(list))
        return td_openai_wrong_type(r, "tool_choice.allowed_tools.tools", "an array", list);
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

enum td_err td_openai_read_tool_choice(struct td_openai_body *r, td_json *v) {
    struct td_request *req = r->req;
    if (yyjson_is_str(v)) {
        if (td_openai_is(v, "auto"))
            req->tool_choice = TD_TOOL_CHOICE_AUTO;
        else if (td_openai_is(v, "none"))
            req->tool_choice = TD_TOOL_CHOICE_NONE;
        else if (td_openai_is(v, "required"))
            req->tool_choice = TD_TOOL_CHOICE_REQUIRED;
        else
            return REFUSE(r, BAD_REQUEST, "tool_choice",
                          "Invalid value for 'tool_choice': expected none, auto, required or an object.");
    } else if (yyjson_is_obj(v)) {
        td_json *type = td_json_get(v, "type");
        if (yyjson_is_str(type) && td_openai_is(type, "allowed_tools"))
            return allowed_tools(r, v);
        struct td_tool *tool;
        enum td_err err = named_tool(r, "tool_choice", v, &tool);
        if (err != TD_OK)
            return err;
        req->tool_choice = TD_TOOL_CHOICE_NAMED;
        req->tool_choice_name = tool->name;
    } else {
        return td_openai_wrong_type(r, "tool_choice", "a string or an object", v);
    }
    if (req->tool_choice == TD_TOOL_CHOICE_REQUIRED && req->tool_count == 0)
        return REFUSE(r, BAD_REQUEST, "tool_choice", "'tool_choice' requires a tool but 'tools' is empty.");
    return TD_OK;
}

enum td_err td_openai_read_format(struct td_openai_body *r, td_json *v) {
    struct td_request *req = r->req;
    if (!yyjson_is_obj(v))
        return td_openai_wrong_type(r, "response_format", "an object", v);
    td_json *type = td_json_get(v, "type"), *schema = td_json_get(v, "json_schema");
    if (!yyjson_is_str(type))
        return td_openai_wrong_type(r, "response_format.type", "a string", type);
    if (td_openai_is(type, "text"))
        return TD_OK;
    if (td_openai_is(type, "json_object")) {
        req->format = TD_FORMAT_JSON_OBJECT;
        req->capabilities |= TD_CAP_JSON;
        return TD_OK;
    }
    if (!td_openai_is(type, "json_schema"))
        return REFUSE(r, BAD_REQUEST, "response_format.type", "Expected one of text, json_object, json_schema.");
    if (!yyjson_is_obj(schema))
        return td_openai_wrong_type(r, "response_format.json_schema", "an object", schema);
    enum td_err err =
        td_openai_read_name(r, "response_format.json_schema.name", td_json_get(schema, "name"), 64, &req->schema_name);
    if (err == TD_OK && !is_function_name(req->schema_name, 64))
        return REFUSE(r, BAD_REQUEST, "response_format.json_schema.name",
                      "A schema's name has 1 to 64 characters out of a-z, A-Z, 0-9, '_' and '-'.");
    td_json *inner = td_json_get(schema, "schema");
    if (err == TD_OK && inner && !yyjson_is_obj(inner))
        return td_openai_wrong_type(r, "response_format.json_schema.schema", "an object", inner);
    req->format = TD_FORMAT_JSON_SCHEMA;
    req->capabilities |= TD_CAP_JSON_SCHEMA;
    req->schema = inner;
    r->text_bytes += inner ? td_openai_json_text_bytes(inner) : 0;
    return err;
}
