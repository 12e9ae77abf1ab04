// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

static const char *tenant, *name;
static long days;

static void print_day(int64_t ms) {
    char text[32] = "-";
    time_t t = (time_t)(ms / 1000);
    struct tm tm;
    if (ms > 0 && gmtime_r(&t, &tm))
        strftime(text, sizeof text, "%Y-%m-%d", &tm);
    printf("%-12s", text);
}

static void print_list(td_json *root) {
    td_json *key;
    size_t i, n;
    td_json *keys = td_json_get(root, "keys");
    printf("%s%-22s%-16s%-16s%-12s%-12s%s%s\n", td_cli_bold(), "ID", "TENANT", "NAME", "CREATED", "EXPIRES", "STATE",
           td_cli_reset());
    yyjson_arr_foreach(keys, i, n, key) {
        printf("%-22.*s%-16.*s%-16.*s", TD_STR_ARG(td_json_get_str(key, "id")),
               TD_STR_ARG(td_json_get_str(key, "tenant")), TD_STR_ARG(td_json_get_str(key, "name")));
        print_day(td_json_get_int(key, "created_ms", 0));
        print_day(td_json_get_int(key, "expires_ms", 0));
        printf("%s\n", td_json_get_bool(key, "revoked", false) ? "revoked" : "active");
    }
}

static void print_created(td_json *root) {
    struct td_str of = td_json_get_str(root, "tenant");
    printf("%.*s\n%sKeep it now: only its hash is stored. Id %.*s, tenant %.*s.%s\n",
           TD_STR_ARG(td_json_get_str(root, "key")), td_cli_dim(), TD_STR_ARG(td_json_get_str(root, "id")),
           TD_STR_ARG(of), td_cli_reset());
    if (!td_json_get_bool(root, "configured", true))
        fprintf(stderr,
                "tandem: note: the configuration has no tenant '%.*s', so that no budget or limit holds for it\n",
                TD_STR_ARG(of));
}

static int show(const char *verb, td_json *root) {
    if (strcmp(verb, "create") == 0)
        print_created(root);
    else if (strcmp(verb, "list") == 0)
        print_list(root);
    else
        printf("revoked\n");
    return TD_EXIT_OK;
}

static enum td_err write_params(struct td_buf *b, const char *id) {
    TD_TRY(td_buf_addz(b, "{\"tenant\":"));
    TD_TRY(td_buf_add_json(b, td_str_of(tenant ? tenant : "default")));
    TD_TRY(td_buf_addz(b, ",\"name\":"));
    TD_TRY(td_buf_add_json(b, td_str_of(name ? name : "")));
    TD_TRY(td_buf_printf(b, ",\"days\":%ld,\"id\":", days));
    TD_TRY(td_buf_add_json(b, td_str_of(id)));
    return td_buf_addz(b, "}");
}

static int run(int argc, char **argv) {
    struct td_buf params;
    if (argc < 1 || (strcmp(argv[0], "create") && strcmp(argv[0], "list") && strcmp(argv[0], "revoke")))
        return td_cli_fail(TD_EXIT_USAGE, "keys wants create, list or revoke");
    if ((strcmp(argv[0], "revoke") == 0) != (argc == 2))
        return td_cli_fail(TD_EXIT_USAGE, argc > 1 ? "too many arguments" : "revoke wants a key's id (see keys list)");
    td_buf_init(&params, 4096);
    enum td_err err = write_params(&params, argc == 2 ? argv[1] : "");
    int code =
        err != TD_OK ? td_cli_fail(TD_EXIT_FAILED, "out of memory") : td_cli_operate("keys", argv[0], &params, show);
    td_buf_finish(&params);
    return code;
}

static const struct td_opt options[] = {
    {"tenant", 't', TD_OPT_STRING, "NAME", "tenant the key belongs to (default: default)", .string = &tenant},
    {"name", 'n', TD_OPT_STRING, "TEXT", "a name to know it by", .string = &name},
    {"days", 'd', TD_OPT_NUMBER, "N", "valid for so many days (0: for good)", .number = &days, .min = 0, .max = 36500},
    {0},
};
static const char *const verbs[] = {"create", "list", "revoke", NULL};

const struct td_command td_command_keys = {
    .name = "keys",
    .arguments = "create|list|revoke [ID]",
    .help = "create, list and revoke API keys",
    .details =
        "A key is shown once, at its creation; the store keeps a keyed hash. While one is active every request needs "
        "one, also from this machine; the owner's own commands do not.",
    .options = options,
    .verbs = verbs,
    .run = run,
};
