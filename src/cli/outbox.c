// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

static const char *const verbs[] = {"list", "show", "accept", "reject", "retry", "drop", NULL};

static void print_entry(td_json *e) {
    char when[32] = "-";
    time_t t = (time_t)(td_json_get_int(e, "created_ms", 0) / 1000);
    struct tm tm;
    if (gmtime_r(&t, &tm))
        strftime(when, sizeof when, "%Y-%m-%d %H:%M", &tm);
    printf("%-27.*s%-17s%-18.*s%-12.*s%5" PRId64 "\n", TD_STR_ARG(td_json_get_str(e, "id")), when,
           TD_STR_ARG(td_json_get_str(e, "state")), TD_STR_ARG(td_json_get_str(e, "priority")),
           td_json_get_int(e, "attempts", 0));
}

static void print_text(const char *title, struct td_str text) {
    if (text.n == 0)
        return;
    printf("%s%s%s\n", td_cli_bold(), title, td_cli_reset());
    td_cli_show(stdout, text);
    putchar('\n');
}

static int show(const char *verb, td_json *root) {
    td_json *entry;
    size_t i, n;
    if (strcmp(verb, "list") == 0) {
        printf("%s%-27s%-17s%-18s%-12s%5s%s\n", td_cli_bold(), "ID", "QUEUED (UTC)", "STATE", "PRIORITY", "TRIES",
               td_cli_reset());
        yyjson_arr_foreach(td_json_get(root, "entries"), i, n, entry) print_entry(entry);
    } else if (strcmp(verb, "show") == 0) {
        print_entry(root);
        print_text("local answer", td_json_get_str(root, "local_text"));
        print_text("better answer", td_json_get_str(root, "cloud_text"));
    } else {
        printf("%.*s\n", TD_STR_ARG(td_json_get_str(root, "state")));
    }
    return TD_EXIT_OK;
}

static enum td_err write_params(struct td_buf *b, const char *id) {
    TD_TRY(td_buf_addz(b, "{\"id\":"));
    TD_TRY(td_buf_add_json(b, td_str_of(id)));
    return td_buf_addz(b, "}");
}

static int run(int argc, char **argv) {
    struct td_buf params;
    bool known = false;
    for (int i = 0; argc > 0 && verbs[i]; i++)
        known |= strcmp(argv[0], verbs[i]) == 0;
    if (!known)
        return td_cli_fail(TD_EXIT_USAGE, "outbox wants list, show, accept, reject, retry or drop");
    if (argc != (strcmp(argv[0], "list") == 0 ? 1 : 2))
        return td_cli_fail(TD_EXIT_USAGE, argc > 2 ? "too many arguments" : "outbox %s wants an entry's id", argv[0]);
    td_buf_init(&params, 4096);
    enum td_err err = write_params(&params, argc == 2 ? argv[1] : "");
    int code =
        err != TD_OK ? td_cli_fail(TD_EXIT_FAILED, "out of memory") : td_cli_operate("outbox", argv[0], &params, show);
    td_buf_finish(&params);
    return code;
}

const struct td_command td_command_outbox = {
    .name = "outbox",
    .arguments = "list|show|accept|reject|retry|drop [ID]",
    .help = "requests kept for a better answer, and what became of them",
    .verbs = verbs,
    .run = run,
};
