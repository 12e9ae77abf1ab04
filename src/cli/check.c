// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

#include <string.h>

static bool schema;

// A file can be right though what it names is not there: said, but no failure.
static int report(const char *path) {
    char *notes = td_config_notes(path), *rest = NULL;
    struct td_buf out;
    td_buf_init(&out, 1 << 20);
    enum td_err err = td_buf_addz(&out, "{\"valid\":true,\"notes\":[");
    if (!td_cli.json)
        printf("%s is valid\n", path);
    for (char *line = notes ? strtok_r(notes, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
        if (!td_cli.json)
            fprintf(stderr, "note: %s\n", line);
        if (err == TD_OK && line != notes)
            err = td_buf_addc(&out, ',');
        if (err == TD_OK)
            err = td_buf_add_json(&out, td_str_of(line));
    }
    if (err == TD_OK)
        err = td_buf_addz(&out, "]}");
    if (td_cli.json && err == TD_OK)
        printf("%.*s\n", TD_STR_ARG(td_buf_str(&out)));
    td_buf_finish(&out);
    td_string_free(notes);
    return err == TD_OK ? TD_EXIT_OK : td_cli_fail(TD_EXIT_FAILED, "out of memory");
}

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
    return report(path);
}

static const struct td_opt options_of_check[] = {
    {"schema", 0, TD_OPT_FLAG, NULL, "print every option instead (Markdown, or JSON with --json)", .flag = &schema},
    {0},
};

const struct td_command td_command_check = {
    .name = "check",
    .arguments = "[FILE]",
    .help = "validate a configuration: says file, line, column and what was expected",
    .details =
        "Exits with 2 when the file is not valid. What a valid file names and is not there (a model, a key) is noted.",
    .options = options_of_check,
    .run = run,
};
