// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PARAMS_BYTES_MAX 1024u // an exchange's id is far shorter
#define FOLLOW_NS 300000000    // how often new rows are asked for

static long limit = 20, hours; // hours 0: not given
static const char *exchange;
static bool follow;

static void print_head(void) {
    printf("%s%-20s%-14s%-8s%-14s%7s%7s%12s%8s  %s%s\n", td_cli_bold(), "TIME (UTC)", "TARGET", "TIER", "OUTCOME", "IN",
           "OUT", "COST", "MS", "EXCHANGE", td_cli_reset());
}

static void print_word(const char *name, struct td_str value) {
    if (value.n)
        printf(" · %s%s%.*s", name, *name ? " " : "", TD_STR_ARG(value));
}

// What one wants to know of a single exchange's attempts beside the table.
static void print_details(td_json *row) {
    td_json *name;
    size_t i, n;
    printf("    %" PRId64, td_json_get_int(row, "attempt", 0));
    print_word("model", td_json_get_str(row, "model"));
    print_word("reason", td_json_get_str(row, "reason"));
    print_word("rule", td_json_get_str(row, "rule"));
    print_word("mode", td_json_get_str(row, "mode"));
    print_word("class", td_json_get_str(row, "data_class"));
    td_json *names = td_json_get(row, "label_names");
    yyjson_arr_foreach(names, i, n, name) print_word(i ? "" : "labels", td_json_str(name));
    if (names && !td_json_get_bool(row, "label_names_sure", true))
        printf(" (as they are called now)");
    print_word("error", td_json_get_str(row, "error"));
    if (td_json_get_int(row, "http_status", 0))
        printf(" · HTTP %" PRId64, td_json_get_int(row, "http_status", 0));
    putchar('\n');
}

static void print_rows(td_json *root) {
    td_json *row;
    size_t i, n;
    yyjson_arr_foreach(td_json_get(root, "rows"), i, n, row) {
        char when[32] = "-";
        time_t t = (time_t)(td_json_get_int(row, "wall_ms", 0) / 1000);
        struct tm tm;
        if (gmtime_r(&t, &tm))
            strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
        struct td_str outcome = td_json_get_str(row, "outcome"), target = td_json_get_str(row, "target");
        struct td_str tier = target.n ? td_json_get_str(row, "tier") : TD_STR("-"); // refused before any was tried
        printf("%-20s%-14.*s%-8.*s%s%-14.*s%s%7" PRId64 "%7" PRId64 "%12s%8" PRId64 "  %.*s\n", when,
               TD_STR_ARG(target.n ? target : TD_STR("-")), TD_STR_ARG(tier),
               td_str_is(outcome, "ok") ? td_cli_green() : td_cli_red(), TD_STR_ARG(outcome), td_cli_reset(),
               td_json_get_int(row, "prompt_tokens", 0), td_json_get_int(row, "completion_tokens", 0),
               td_cli_money(td_json_get_int(row, "cost_nusd", 0)), td_json_get_int(row, "duration_us", 0) / 1000,
               TD_STR_ARG(td_json_get_str(row, "exchange")));
        if (exchange)
            print_details(row);
    }
}

static void print_stats(td_json *root) {
    td_json *t;
    size_t i, n;
    td_json *targets = td_json_get(root, "targets");
    printf("%s%-14s%-8s%9s%9s%10s%10s%12s%9s%9s%s\n", td_cli_bold(), "TARGET", "TIER", "ATTEMPTS", "OK", "IN", "OUT",
           "COST", "P50 MS", "P95 MS", td_cli_reset());
    yyjson_arr_foreach(targets, i, n, t) {
        if (!td_json_get_str(t, "target").n)
            continue; // requests that were refused before any target was tried
        printf("%-14.*s%-8.*s%9" PRId64 "%9" PRId64 "%10" PRId64 "%10" PRId64 "%12s%9" PRId64 "%9" PRId64 "\n",
               TD_STR_ARG(td_json_get_str(t, "target")), TD_STR_ARG(td_json_get_str(t, "tier")),
               td_json_get_int(t, "attempts", 0), td_json_get_int(t, "ok", 0), td_json_get_int(t, "prompt_tokens", 0),
               td_json_get_int(t, "completion_tokens", 0), td_cli_money(td_json_get_int(t, "cost_nusd", 0)),
               td_json_get_int(t, "p50_ms", 0), td_json_get_int(t, "p95_ms", 0));
    }
    int64_t cost = td_json_get_int(root, "cost_nusd", 0), cloud = td_json_get_int(root, "cloud_only_nusd", 0);
    printf("\n%" PRId64 " answers cost %s", td_json_get_int(root, "delivered", 0), td_cli_money(cost));
    struct td_str name = td_json_get_str(root, "cloud_only_target");
    if (name.n)
        printf("; on %.*s alone the same traffic would have cost %s", TD_STR_ARG(name), td_cli_money(cloud));
    printf(".\n");
}

// What is asked for, with a zero behind it; rows after number `after`.
static enum td_err write_params(struct td_buf *out, long count, uint64_t after) {
    enum td_err err = td_buf_printf(out, "{\"limit\":%ld,\"after\":%" PRIu64, count, after);
    if (err == TD_OK && hours)
        err = td_buf_printf(out, ",\"hours\":%ld", hours);
    if (err == TD_OK && exchange) {
        err = td_buf_addz(out, ",\"exchange\":");
        err = err ? err : td_buf_add_json(out, td_str_of(exchange));
    }
    err = err ? err : td_buf_addc(out, '}');
    return err || td_buf_z(out) ? err : TD_ERR_NOMEM;
}

// Rows after `*last`, as they come, until interrupted; one JSON object a line with --json. Only a daemon writes rows.
static int follow_rows(uint64_t last) {
    struct td_failure failure;
    struct td_buf params;
    char *result = NULL;
    for (;;) {
        struct td_arena arena;
        td_json *root, *row;
        size_t i, n;
        td_buf_init(&params, PARAMS_BYTES_MAX);
        enum td_err err = write_params(&params, 10000, last);
        int failed = err ? 0 : td_admin_remote(td_cli_data_dir(), "ledger.tail", params.p, &result, &failure);
        td_buf_finish(&params);
        if (err)
            return td_cli_fail(TD_EXIT_USAGE, "that is no exchange's id");
        if (failed)
            return strcmp(failure.code, "tandem.not_found") == 0
                       ? td_cli_fail(TD_EXIT_NO_DAEMON, "no daemon runs on this data directory: nothing new will come")
                       : td_cli_failure(&failure);
        td_arena_init(&arena, 256 << 20);
        if (td_json_parse(&arena, td_str_of(result), 16, &root, NULL) == TD_OK) {
            yyjson_arr_foreach(td_json_get(root, "rows"), i, n, row) {
                last = (uint64_t)td_json_get_int(row, "number", 0);
                char *line = td_cli.json ? yyjson_val_write(row, 0, NULL) : NULL;
                if (line)
                    puts(line);
                free(line);
            }
            if (!td_cli.json)
                print_rows(root);
            if (!td_cli_flush()) { // nobody reads on
                td_arena_finish(&arena);
                td_string_free(result);
                return TD_EXIT_FAILED;
            }
        }
        td_arena_finish(&arena);
        td_string_free(result);
        result = NULL;
        nanosleep(&(struct timespec){0, FOLLOW_NS}, NULL);
    }
}

static uint64_t last_number(td_json *root) {
    td_json *row;
    size_t i, n;
    uint64_t last = 0;
    yyjson_arr_foreach(td_json_get(root, "rows"), i, n, row) last = (uint64_t)td_json_get_int(row, "number", 0);
    return last;
}

static int run(int argc, char **argv) {
    struct td_failure failure;
    struct td_buf params;
    char *result = NULL;
    const char *method;
    if (argc != 1 || (strcmp(argv[0], "tail") && strcmp(argv[0], "stats") && strcmp(argv[0], "verify")))
        return td_cli_fail(TD_EXIT_USAGE, "ledger wants tail, stats or verify");
    method = strcmp(argv[0], "tail") == 0    ? "ledger.tail"
             : strcmp(argv[0], "stats") == 0 ? "ledger.stats"
                                             : "ledger.verify";
    if (follow && strcmp(argv[0], "tail") != 0)
        return td_cli_fail(TD_EXIT_USAGE, "only tail can be followed");
    if (exchange && strcmp(argv[0], "tail") != 0)
        return td_cli_fail(TD_EXIT_USAGE, "only tail shows one exchange");
    if (follow && td_cli.json)
        return follow_rows(0);
    td_buf_init(&params, PARAMS_BYTES_MAX);
    enum td_err err = write_params(&params, limit, 0);
    int failed = err ? 0 : td_cli_admin(method, params.p, &result, &failure);
    td_buf_finish(&params);
    if (err)
        return td_cli_fail(TD_EXIT_USAGE, "that is no exchange's id");
    if (failed)
        return td_cli_failure(&failure);
    struct td_arena arena;
    td_json *root;
    int code = TD_EXIT_OK;
    td_arena_init(&arena, 256 << 20);
    if (td_cli.json)
        printf("%s\n", result);
    else if (td_json_parse(&arena, td_str_of(result), 16, &root, NULL) != TD_OK)
        code = td_cli_fail(TD_EXIT_FAILED, "the answer could not be read");
    else if (exchange && !follow && yyjson_arr_size(td_json_get(root, "rows")) == 0)
        code = td_cli_fail(TD_EXIT_FAILED, "the ledger has no row of this exchange");
    else if (strcmp(argv[0], "tail") == 0) {
        print_head();
        print_rows(root);
        fflush(stdout);
    } else if (strcmp(argv[0], "stats") == 0)
        print_stats(root);
    else {
        bool whole = td_json_get_bool(root, "valid", false);
        printf("%s: %" PRId64 " rows, %" PRId64 " receipts%s\n", whole ? "the chain is whole" : "THE CHAIN IS BROKEN",
               td_json_get_int(root, "rows", 0), td_json_get_int(root, "receipts", 0),
               td_json_get_int(root, "pruned", 0) ? " (older ones are no longer kept)" : "");
        code = whole ? TD_EXIT_OK : TD_EXIT_FAILED;
    }
    uint64_t last = follow && code == TD_EXIT_OK ? last_number(root) : 0;
    td_arena_finish(&arena);
    td_string_free(result);
    return follow && code == TD_EXIT_OK ? follow_rows(last) : code;
}

static const struct td_opt options[] = {
    {"limit", 'n', TD_OPT_NUMBER, "N", "rows to show (default 20)", .number = &limit, .min = 1, .max = 10000},
    {"follow", 'f', TD_OPT_FLAG, NULL, "tail: go on with new rows as they come (with --json one object a line)",
     .flag = &follow},
    {"exchange", 'x', TD_OPT_STRING, "ID", "tail: only this exchange's attempts, with more about each, however old",
     .string = &exchange},
    {"hours", 0, TD_OPT_NUMBER, "N", "look back so far (default 24)", .number = &hours, .min = 1, .max = 876000},
    {0},
};
static const char *const verbs[] = {"tail", "stats", "verify", NULL};

const struct td_command td_command_ledger = {
    .name = "ledger",
    .arguments = "tail|stats|verify",
    .help = "what happened, what it cost, and what the cloud alone would have cost",
    .options = options,
    .verbs = verbs,
    .run = run,
};
