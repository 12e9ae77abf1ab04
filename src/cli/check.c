// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

static bool schema;

static int run(int argc, char **argv) {
    struct td_options options;
    struct td_failure failure;
    if (schema) {
        char *text = td_config_schema(!td_cli.json);
        if (text)
            printf("%s\n", text);
        td_string_free(text);
        return text ? TD_EXIT_OK : td_cli_fail(TD_EXIT_FAILED, "out of memory");
    }
    td_cli_options(&options);
    const char *path = argc > 0 ? argv[0] : options.config_path;
    if (argc > 1)
        return td_cli_fail(TD_EXIT_USAGE, "check takes one file");
    if (!path)
        return td_cli_fail(TD_EXIT_USAGE, "no configuration file given, and there is no tandem.yaml here");
    if (td_config_check(path, &failure) != 0) {
        if (!td_cli.json)
            return td_cli_fail(TD_EXIT_USAGE, "%s", failure.message);
        struct td_buf out;
        td_buf_init(&out, 4096);
        if (td_buf_addz(&out, "{\"valid\":false,\"message\":") == TD_OK &&
            td_buf_add_json(&out, td_str_of(failure.message)) == TD_OK && td_buf_addz(&out, "}") == TD_OK)
            printf("%.*s\n", TD_STR_ARG(td_buf_str(&out)));
        td_buf_finish(&out);
        return TD_EXIT_USAGE;
    }
    printf(td_cli.json ? "{\"valid\":true}\n" : "%s is valid\n", path);
    return TD_EXIT_OK;
}

static const struct td_opt options_of_check[] = {
    {"schema", 0, TD_OPT_FLAG, NULL, "print every option instead (Markdown, or JSON with --json)", .flag = &schema},
    {0},
};

const struct td_command td_command_check = {
    .name = "check",
    .arguments = "[FILE]",
    .help = "validate a configuration: says file, line, column and what was expected",
    .details = "Exits with 2 when the file is not valid.",
    .options = options_of_check,
    .run = run,
};
