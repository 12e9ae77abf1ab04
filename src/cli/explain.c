// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

#include <string.h>

#include "cli/chat.h"

static const char *model, *data_class, *label, *residency, *prefer, *tools_file, *body_file;
static bool no_tools;

static enum td_err add_wish(struct td_buf *b, const char *key, const char *value, bool *first) {
    if (!value)
        return TD_OK;
    TD_TRY(td_buf_printf(b, "%s\"%s\":", *first ? "" : ",", key));
    *first = false;
    return td_buf_add_json(b, td_str_of(value));
}

static enum td_err make_body(struct td_buf *b, const char *text, struct td_error *e) {
    bool first = true;
    TD_TRY(td_buf_addz(b, "{\"model\":"));
    TD_TRY(td_buf_add_json(b, td_str_of(model ? model : "auto")));
    TD_TRY(td_buf_addz(b, ",\"messages\":[{\"role\":\"user\",\"content\":"));
    TD_TRY(td_buf_add_json(b, td_str_of(text)));
    TD_TRY(td_buf_addz(b, "}]"));
    if (!no_tools)
        TD_TRY(td_chat_add_tools(b, tools_file, e));
    TD_TRY(td_buf_addz(b, ",\"tandem\":{"));
    TD_TRY(add_wish(b, "data_class", data_class, &first));
    TD_TRY(add_wish(b, "residency", residency, &first));
    TD_TRY(add_wish(b, "prefer", prefer, &first));
    if (label) {
        TD_TRY(td_buf_printf(b, "%s\"labels\":[", first ? "" : ","));
        TD_TRY(td_buf_add_json(b, td_str_of(label)));
        TD_TRY(td_buf_addz(b, "]"));
    }
    return td_buf_addz(b, "}}");
}

static int run(int argc, char **argv) {
    struct td_failure failure;
    struct td_error e = {0};
    struct td_buf params;
    char *result = NULL;
    if (argc != (body_file ? 0 : 1))
        return td_cli_fail(TD_EXIT_USAGE, "explain wants one text, or --body FILE");
    td_buf_init(&params, 33 << 20);
    enum td_err err = td_buf_addz(&params, "{\"body\":");
    if (err == TD_OK)
        err = body_file ? td_cli_read_file(body_file, &params) : make_body(&params, argv[0], &e);
    if (err == TD_ERR_IO && body_file)
        td_error_set(&e, err, "%s: %m", body_file);
    if (err == TD_OK)
        err = td_buf_addz(&params, "}");
    int code = TD_EXIT_OK;
    if (err != TD_OK || !td_buf_z(&params)) {
        code = td_cli_fail(e.message[0] ? TD_EXIT_USAGE : TD_EXIT_FAILED, "could not read the request: %s",
                           e.message[0] ? e.message : td_err_text(err));
    } else if (td_cli_admin("explain", params.p, &result, &failure) != 0) {
        code = td_cli_failure(&failure);
    } else if (td_cli.json) {
        printf("%s\n", result);
    } else {
        struct td_arena arena;
        td_json *root;
        td_arena_init(&arena, 64 << 20);
        if (td_json_parse(&arena, td_str_of(result), 32, &root, NULL) == TD_OK)
            td_cli_show(stdout, td_json_get_str(root, "text"));
        td_arena_finish(&arena);
    }
    td_string_free(result);
    td_buf_finish(&params);
    return code;
}

static const struct td_opt options[] = {
    {"model", 'm', TD_OPT_STRING, "NAME", "auto, auto:fast|cheap|quality|private, or a target's name",
     .string = &model},
    {"class", 0, TD_OPT_STRING, "CLASS", "data class: public, internal, confidential, restricted",
     .string = &data_class},
    {"label", 0, TD_OPT_STRING, "LABEL", "a label, such as phi or pii", .string = &label},
    {"residency", 0, TD_OPT_STRING, "REGION", "where the data may be processed, such as eu", .string = &residency},
    {"prefer", 'p', TD_OPT_STRING, "WHAT", "fast, cheap, quality, private or balanced", .string = &prefer},
    {"tools", 0, TD_OPT_STRING, "FILE", "with these tools (JSON) instead of the assistant catalogue",
     .string = &tools_file},
    {"no-tools", 0, TD_OPT_FLAG, NULL, "without tools", .flag = &no_tools},
    {"body", 'b', TD_OPT_STRING, "FILE", "a whole request body (JSON; - for standard input)", .string = &body_file},
    {0},
};

const struct td_command td_command_explain = {
    .name = "explain",
    .arguments = "TEXT",
    .help = "the plan for a request, without running it",
    .details = "What `ask` would do with the same options: every target, taken or refused, and why.",
    .options = options,
    .run = run,
};
