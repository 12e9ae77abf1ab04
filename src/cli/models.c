// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static const char *name, *sha256, *ca_file;
static const char *const verbs[] = {"list", "add", "pull", "rm", NULL};
static atomic_bool interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    atomic_store(&interrupted, true);
}

static const char *bytes_text(uint64_t n) {
    static char ring[4][24];
    static unsigned at;
    char *p = ring[at++ & 3];
    if (n >= 1u << 30)
        snprintf(p, sizeof ring[0], "%.2f GiB", (double)n / (1 << 30));
    else
        snprintf(p, sizeof ring[0], "%.1f MiB", (double)n / (1 << 20));
    return p;
}

static bool on_progress(void *user, uint64_t done, uint64_t total) {
    static uint64_t last;
    (void)user;
    if (td_cli_stderr_is_terminal() && !td_cli.json && (done - last > 1 << 20 || done == total)) {
        last = done;
        if (total) {
            int filled = (int)(done * 30 / total);
            fprintf(stderr, "\r[%.*s%*s] %3d %%  %s of %s ", filled, "##############################", 30 - filled, "",
                    (int)(done * 100 / total), bytes_text(done), bytes_text(total));
        } else {
            fprintf(stderr, "\r%s ", bytes_text(done));
        }
    }
    return !atomic_load(&interrupted);
}

static void print_list(td_json *root) {
    td_json *t;
    size_t i, n;
    printf("%s%-18s%-8s%-10s%-12s%s%s\n", td_cli_bold(), "TARGET", "TIER", "PROVIDER", "STATE", "MODEL",
           td_cli_reset());
    yyjson_arr_foreach(td_json_get(root, "targets"), i, n, t) {
        bool local = td_str_is(td_json_get_str(t, "provider"), "llama");
        const char *state = !local                                  ? "remote"
                            : td_json_get_bool(t, "loaded", false)  ? "loaded"
                            : td_json_get_bool(t, "loading", false) ? "loading"
                            : td_json_get_bool(t, "found", false)   ? "on disk"
                                                                    : "missing";
        printf("%-18.*s%-8.*s%-10.*s%-12s%.*s\n", TD_STR_ARG(td_json_get_str(t, "name")),
               TD_STR_ARG(td_json_get_str(t, "tier")), TD_STR_ARG(td_json_get_str(t, "provider")), state,
               TD_STR_ARG(td_json_get_str(t, "model")));
    }
    td_json *models = td_json_get(root, "models");
    if (yyjson_arr_size(models))
        printf("\n%s%-36s%12s  %-18s%s%s\n", td_cli_bold(), "CATALOGUE", "SIZE", "SHA-256", "PATH", td_cli_reset());
    yyjson_arr_foreach(models, i, n, t) {
        printf("%-36.*s%12s  %.16s  %.*s\n", TD_STR_ARG(td_json_get_str(t, "name")),
               bytes_text((uint64_t)td_json_get_int(t, "bytes", 0)), td_json_get_str(t, "sha256").p,
               TD_STR_ARG(td_json_get_str(t, "path")));
    }
}

static int list(void) {
    struct td_failure failure;
    struct td_arena arena;
    td_json *root;
    char *result = NULL;
    if (td_cli_admin("models.list", "{}", &result, &failure) != 0)
        return td_cli_failure(&failure);
    td_arena_init(&arena, 64 << 20);
    if (td_cli.json)
        printf("%s\n", result);
    else if (td_json_parse(&arena, td_str_of(result), 16, &root, NULL) == TD_OK)
        print_list(root);
    td_arena_finish(&arena);
    td_string_free(result);
    return TD_EXIT_OK;
}

static enum td_err add_field(struct td_buf *b, const char *key, const char *value) {
    enum td_err err = td_buf_printf(b, "%s\"%s\":", b->n > 1 ? "," : "", key);
    return err == TD_OK ? td_buf_add_json(b, td_str_of(value)) : err;
}

static int enter(const struct td_pulled *got, const char *source) {
    struct td_failure failure;
    struct td_buf params;
    char *result = NULL, full[PATH_MAX];
    td_buf_init(&params, 65536);
    enum td_err err = td_buf_addz(&params, "{");
    if (err == TD_OK)
        err = add_field(&params, "name", name ? name : got->name);
    if (err == TD_OK)
        err = add_field(&params, "path", realpath(got->path, full) ? full : got->path);
    if (err == TD_OK)
        err = add_field(&params, "sha256", got->sha256);
    if (err == TD_OK)
        err = add_field(&params, "source", source);
    if (err == TD_OK)
        err = td_buf_printf(&params, ",\"bytes\":%" PRIu64 "}", got->bytes);
    int code = TD_EXIT_OK;
    if (err != TD_OK || !td_buf_z(&params))
        code = td_cli_fail(TD_EXIT_FAILED, "out of memory");
    else if (td_cli_admin("models.add", params.p, &result, &failure) != 0)
        code = td_cli_failure(&failure);
    else if (td_cli.json)
        printf("{\"name\":\"%s\",\"sha256\":\"%s\",\"bytes\":%" PRIu64 ",\"verified\":%s}\n", name ? name : got->name,
               got->sha256, got->bytes, got->verified ? "true" : "false");
    else
        printf("%s\n%sSHA-256 %s (%s), %s%s\n", got->path, td_cli_dim(), got->sha256,
               got->verified ? "verified" : "no digest was published to compare with", bytes_text(got->bytes),
               td_cli_reset());
    td_string_free(result);
    td_buf_finish(&params);
    return code;
}

// pull fetches a file into the data directory; add takes one that stays where it is (and reads it once for its digest).
static int pull(const char *source) {
    struct td_failure failure;
    struct td_pulled got;
    char dir[4000];
    snprintf(dir, sizeof dir, "%s/models", td_cli_data_dir());
    struct td_pull options = {
        .source = source, .dir = dir, .sha256 = sha256, .ca_file = ca_file, .on_progress = on_progress};
    struct sigaction action = {.sa_handler = on_interrupt}, before;
    sigaction(SIGINT, &action, &before);
    if (!td_cli.verbose)
        td_log_set_level(TD_LOG_ERROR); // the failure itself is told below, once
    int failed = td_models_pull(&options, &got, &failure);
    sigaction(SIGINT, &before, NULL);
    if (td_cli_stderr_is_terminal() && !td_cli.json)
        fprintf(stderr, "\r\033[K");
    if (failed && atomic_load(&interrupted))
        return td_cli_fail(TD_EXIT_CANCELLED, "%s", failure.message);
    return failed ? td_cli_failure(&failure) : enter(&got, source);
}

static int remove_model(const char *which) {
    struct td_failure failure;
    struct td_arena arena;
    struct td_buf params;
    td_json *root;
    char *found = NULL, *result = NULL, mine[4000], real[PATH_MAX];
    int code = TD_EXIT_OK;
    td_buf_init(&params, 65536);
    td_arena_init(&arena, 1 << 20);
    if (td_buf_addz(&params, "{") != TD_OK || add_field(&params, "name", which) != TD_OK ||
        td_buf_addz(&params, "}") != TD_OK || !td_buf_z(&params))
        code = td_cli_fail(TD_EXIT_FAILED, "out of memory");
    else if (td_cli_admin("models.get", params.p, &found, &failure) != 0 ||
             td_cli_admin("models.rm", params.p, &result, &failure) != 0)
        code = td_cli_failure(&failure);
    else if (td_json_parse(&arena, td_str_of(found), 8, &root, NULL) == TD_OK) {
        // Only what pull brought is deleted; what was added stays its owner's.
        struct td_str path = td_json_get_str(root, "path");
        snprintf(mine, sizeof mine, "%s/models", td_cli_data_dir());
        if (td_model_delete(realpath(mine, real) ? real : mine, path.p, &failure) != 0)
            code = td_cli_fail(TD_EXIT_FAILED, "the entry is gone, but not all it stood for: %s", failure.message);
        else if (!td_cli.json)
            printf("removed\n");
    }
    if (td_cli.json && code == TD_EXIT_OK)
        printf("{\"removed\":true}\n");
    td_arena_finish(&arena);
    td_buf_finish(&params);
    td_string_free(found);
    td_string_free(result);
    return code;
}

static int add(const char *path) {
    struct td_failure failure;
    struct td_pulled got;
    if (td_model_inspect(path, &got, &failure) != 0)
        return td_cli_failure(&failure);
    if (sha256 && strcasecmp(sha256, got.sha256) != 0)
        return td_cli_fail(TD_EXIT_FAILED, "the file's SHA-256 is %s", got.sha256);
    got.verified = sha256 != NULL;
    return enter(&got, path);
}

static int run(int argc, char **argv) {
    if (argc == 1 && strcmp(argv[0], "list") == 0)
        return list();
    if (argc == 2 && strcmp(argv[0], "pull") == 0)
        return pull(argv[1]);
    if (argc == 2 && strcmp(argv[0], "add") == 0)
        return add(argv[1]);
    if (argc == 2 && strcmp(argv[0], "rm") == 0)
        return remove_model(argv[1]);
    return td_cli_fail(TD_EXIT_USAGE, "models wants list, add FILE, pull SOURCE or rm NAME");
}

static const struct td_opt options[] = {
    {"name", 'n', TD_OPT_STRING, "NAME", "the name to keep it under (default: the file's)", .string = &name},
    {"sha256", 0, TD_OPT_STRING, "HEX", "the digest the file must have", .string = &sha256},
    {"ca-file", 0, TD_OPT_STRING, "FILE", "a private CA's certificates (PEM), for a mirror of your own",
     .string = &ca_file},
    {0},
};

const struct td_command td_command_models = {
    .name = "models",
    .arguments = "list | add FILE | pull SOURCE | rm NAME",
    .help = "list, add, fetch and remove models",
    .details =
        "SOURCE is an https URL, a file, a folder with one model in it, or a Hugging Face repository as "
        "owner/name[:file] (HF_ENDPOINT, HF_TOKEN). A broken download goes on where it stopped. A model in "
        "parts (name-00001-of-00003.gguf) is named by its first; the others go with it. A model in the catalogue "
        "is used by its file's name: `model: name.gguf` in the configuration.",
    .options = options,
    .verbs = verbs,
    .run = run,
};
