// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool colour(void) {
    static int known = -1;
    if (known < 0)
        known = isatty(STDOUT_FILENO) && !getenv("NO_COLOR") && !td_cli.no_color && !td_cli.json;
    return known;
}

const char *td_cli_dim(void) {
    return colour() ? "\033[2m" : "";
}
const char *td_cli_bold(void) {
    return colour() ? "\033[1m" : "";
}
const char *td_cli_red(void) {
    return colour() ? "\033[31m" : "";
}
const char *td_cli_green(void) {
    return colour() ? "\033[32m" : "";
}
const char *td_cli_reset(void) {
    return colour() ? "\033[0m" : "";
}

bool td_cli_stderr_is_terminal(void) {
    return isatty(STDERR_FILENO);
}

// Length of the control character at p: C0 but tab and line feed, DEL, or a C1 one as UTF-8 (C2 80 to C2 9F); else 0.
static size_t control_at(const unsigned char *p, size_t n) {
    if (p[0] == 0xc2 && n > 1 && p[1] >= 0x80 && p[1] <= 0x9f)
        return 2;
    return (p[0] < 0x20 && p[0] != '\t' && p[0] != '\n') || p[0] == 0x7f;
}

void td_cli_show(FILE *to, struct td_str text) {
    bool terminal = isatty(fileno(to));
    size_t from = 0, at = 0;
    while (terminal && at < text.n) {
        size_t control = control_at((const unsigned char *)text.p + at, text.n - at);
        if (control) {
            fwrite(text.p + from, 1, at - from, to);
            from = at + control;
        }
        at += control ? control : 1;
    }
    fwrite(text.p + from, 1, text.n - from, to);
}

static int lost; // errno of the first write that failed

// Where a write in between failed, its errno is gone; a pipe still says that nobody reads it.
static bool is_closed(void) {
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&out, 1, 0) == 1 && out.revents & POLLERR;
}

bool td_cli_flush(void) {
    bool failed = fflush(stdout) != 0;
    int why = errno;
    if (!lost && (failed || ferror(stdout)))
        lost = failed ? why : is_closed() ? EPIPE : EIO;
    return !lost;
}

int td_cli_end(int code) {
    if (td_cli_flush())
        return code;
    if (lost != EPIPE)
        td_cli_fail(code, "standard output: %s", strerror(lost));
    return code == TD_EXIT_OK ? TD_EXIT_FAILED : code;
}

int td_cli_fail(int code, const char *fmt, ...) {
    char line[4096 + 256]; // a message, and what goes around it
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    fputs("tandem: ", stderr);
    td_cli_show(stderr, (struct td_str){line, n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1});
    fputc('\n', stderr);
    return code;
}

int td_cli_failure(const struct td_failure *failure) {
    bool usage = strcmp(failure->code, "tandem.config.invalid") == 0 || strcmp(failure->code, "tandem.usage") == 0;
    return td_cli_fail(usage ? TD_EXIT_USAGE : TD_EXIT_FAILED, "%s (%s)", failure->message, failure->code);
}

void td_cli_options(struct td_options *options) {
    memset(options, 0, sizeof *options);
    options->config_path = td_cli.config ? td_cli.config : getenv("TANDEM_CONFIG");
    if (!td_cli.config && options->config_path && !*options->config_path) // set to nothing is not set
        options->config_path = NULL;
    if (!options->config_path && access("tandem.yaml", R_OK) == 0)
        options->config_path = "tandem.yaml";
    options->data_dir = td_cli.data_dir;
}

const char *td_cli_data_dir(void) {
    static char *dir;
    if (!dir) {
        struct td_options options;
        struct td_failure failure;
        td_cli_options(&options);
        dir = td_config_data_dir(&options, &failure);
        if (!dir)
            exit(td_cli_failure(&failure));
    }
    return dir;
}

int td_cli_admin(const char *method, const char *params, char **result, struct td_failure *failure) {
    int failed = td_admin_remote(td_cli_data_dir(), method, params, result, failure);
    if (!failed || strcmp(failure->code, "tandem.not_found") != 0 || strncmp(failure->message, "no daemon", 9) != 0)
        return failed;
    struct td_options options;
    struct td_runtime *runtime = NULL;
    td_cli_options(&options);
    options.operator_only = true;
    failed = td_runtime_open(&options, &runtime, failure);
    if (!failed)
        failed = td_admin_call(runtime, method, params, result, failure);
    td_runtime_close(runtime);
    return failed;
}

const char *td_cli_money(int64_t nusd) {
    static char ring[4][40];
    static int at;
    char *p = ring[at++ & 3];
    int64_t a = nusd < 0 ? -nusd : nusd;
    // Enough digits to see a single cheap request, not more.
    if (a == 0)
        snprintf(p, sizeof ring[0], "$0");
    else if (a < 10000000)
        snprintf(p, sizeof ring[0], "%s$%.6f", nusd < 0 ? "-" : "", (double)a / 1e9);
    else
        snprintf(p, sizeof ring[0], "%s$%.4f", nusd < 0 ? "-" : "", (double)a / 1e9);
    return p;
}

enum td_err td_cli_read_file(const char *path, struct td_buf *out) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    enum td_err err = f ? TD_OK : TD_ERR_IO;
    char part[16384];
    size_t n;
    while (err == TD_OK && (n = fread(part, 1, sizeof part, f)) > 0)
        err = td_buf_add(out, part, n);
    if (err == TD_OK && ferror(f))
        err = TD_ERR_IO;
    int why = errno;
    if (f && f != stdin)
        fclose(f);
    errno = why;
    return err;
}

int td_cli_operate(const char *room, const char *verb, struct td_buf *params,
                   int (*show)(const char *verb, td_json *root)) {
    struct td_failure failure;
    struct td_arena arena;
    td_json *root;
    char method[64], *result = NULL;
    int code = TD_EXIT_OK;
    snprintf(method, sizeof method, "%s.%s", room, verb);
    if (!td_buf_z(params))
        return td_cli_fail(TD_EXIT_FAILED, "out of memory");
    if (td_cli_admin(method, params->p, &result, &failure) != 0)
        return td_cli_failure(&failure);
    td_arena_init(&arena, 256 << 20);
    if (td_cli.json)
        printf("%s\n", result);
    else if (td_json_parse(&arena, td_str_of(result), 64, &root, NULL) != TD_OK)
        code = td_cli_fail(TD_EXIT_FAILED, "the answer could not be read");
    else
        code = show(verb, root);
    td_arena_finish(&arena);
    td_string_free(result);
    return code;
}
