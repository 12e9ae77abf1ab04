// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include "base/time.h"
#include "cli/chat.h"

static const char *model, *prefer, *data_class, *tools_file, *system_text;
static bool no_tools, progressive, fresh, queue;
static long max_tokens;

struct view {
    uint64_t start_ns, first_ns;
    struct td_buf text;  // what stands on the screen
    struct td_buf tools; // JSON, for --json
    unsigned tool_count;
    struct td_answer end;
    char target[128], tier[16], model[128], reason[32], code[64], message[4096], finish[32], exchange[32];
    bool failed;
};

static void keep(struct view *v, const struct td_answer *a) {
    snprintf(v->target, sizeof v->target, "%s", a->target);
    snprintf(v->tier, sizeof v->tier, "%s", a->tier);
    snprintf(v->model, sizeof v->model, "%s", a->model);
    snprintf(v->reason, sizeof v->reason, "%s", a->reason);
    snprintf(v->exchange, sizeof v->exchange, "%s", a->exchange);
    v->end = *a;
}

// Arguments as a person reads them: set_timer(duration: "10 minutes").
static void print_call(const struct td_answer *a) {
    struct td_arena arena;
    struct td_buf value;
    td_json *root, *key, *v;
    size_t i, n;
    td_arena_init(&arena, 1 << 20);
    td_buf_init(&value, 1 << 20);
    fputs(td_cli_bold(), stdout);
    td_cli_show(stdout, td_str_of(a->name));
    printf("%s(", td_cli_reset());
    if (td_json_parse(&arena, td_str_of(a->arguments), 32, &root, NULL) == TD_OK && yyjson_is_obj(root)) {
        yyjson_obj_foreach(root, i, n, key, v) {
            td_buf_clear(&value);
            if (td_json_write(v, &value) == TD_OK) {
                fputs(i ? ", " : "", stdout);
                td_cli_show(stdout, td_str_of(yyjson_get_str(key)));
                fputs(": ", stdout);
                td_cli_show(stdout, td_buf_str(&value));
            }
        }
    } else {
        td_cli_show(stdout, td_str_of(a->arguments));
    }
    printf(")\n");
    td_buf_finish(&value);
    td_arena_finish(&arena);
}

static enum td_err keep_call(struct view *v, const struct td_answer *a) {
    enum td_err err = td_buf_printf(&v->tools, "%s{\"name\":", v->tool_count++ ? "," : "");
    if (err == TD_OK)
        err = td_buf_add_json(&v->tools, td_str_of(a->name));
    if (err == TD_OK)
        err = td_buf_addz(&v->tools, ",\"arguments\":");
    if (err == TD_OK)
        err = td_buf_add_json(&v->tools, td_str_of(a->arguments));
    return err == TD_OK ? td_buf_addz(&v->tools, "}") : err;
}

// Columns that the character at text[*at] takes; *at goes behind it.
static unsigned width_at(const struct td_buf *text, size_t *at) {
    mbstate_t state = {0};
    wchar_t c = 0;
    size_t n = mbrtowc(&c, text->p + *at, text->n - *at, &state);
    *at += n == 0 || n > text->n ? 1 : n;
    int width = n > text->n ? 1 : wcwidth(c);
    return width < 0 ? 0 : (unsigned)width;
}

// How far below its first line the cursor stands after `text`, on a screen of so many columns.
static unsigned lines_below(const struct td_buf *text, unsigned columns) {
    unsigned lines = 0, column = 0;
    for (size_t at = 0; at < text->n;) {
        if (text->p[at] == '\n') {
            lines++, column = 0, at++;
            continue;
        }
        if (text->p[at] == '\t') {
            column = (column | 7) + 1 < columns ? (column | 7) + 1 : columns - 1, at++;
            continue;
        }
        unsigned width = width_at(text, &at);
        if (column + width > columns) // it is wrapped when the next character comes, not before
            lines++, column = 0;
        column += width;
    }
    return lines;
}

// Takes what stands on the screen away: back over the lines it fills, then clear to the end.
static void erase(const struct td_buf *text) {
    struct winsize size = {0};
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0), before = utf8 ? uselocale(utf8) : (locale_t)0;
    unsigned columns = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
    unsigned lines = lines_below(text, columns);
    if (utf8) {
        uselocale(before);
        freelocale(utf8);
    }
    if (lines)
        printf("\033[%uA", lines);
    printf("\r\033[J");
}

static void on_text(struct view *v, const struct td_answer *a) {
    bool redraw = a->type == TD_ANSWER_REVISION;
    if (redraw && !td_cli.json) {
        if (isatty(STDOUT_FILENO))
            erase(&v->text);
        else
            printf("\n--- better answer ---\n");
    }
    if (redraw)
        td_buf_clear(&v->text);
    if (!v->first_ns)
        v->first_ns = td_now_ns();
    if (td_buf_add(&v->text, a->text, a->text_length) == TD_OK && !td_cli.json) {
        td_cli_show(stdout, (struct td_str){a->text, a->text_length});
        if (!td_cli_flush())
            td_chat_interrupt(); // nobody reads on: what is not written need not be paid
    }
}

static void on_answer(void *user, const struct td_answer *a) {
    struct view *v = user;
    switch (a->type) {
    case TD_ANSWER_BEGIN:
        keep(v, a);
        break;
    case TD_ANSWER_TEXT:
    case TD_ANSWER_REVISION:
        on_text(v, a);
        break;
    case TD_ANSWER_TOOL_CALL:
        if (!v->first_ns)
            v->first_ns = td_now_ns();
        if (keep_call(v, a) == TD_OK && !td_cli.json)
            print_call(a);
        break;
    case TD_ANSWER_END:
        keep(v, a);
        snprintf(v->finish, sizeof v->finish, "%s", a->finish);
        break;
    case TD_ANSWER_ERROR:
        v->failed = true;
        keep(v, a);
        snprintf(v->code, sizeof v->code, "%s", a->code);
        snprintf(v->message, sizeof v->message, "%.*s", (int)a->text_length, a->text);
        break;
    }
}

static enum td_err add_message(struct td_buf *b, const char *role, struct td_str text) {
    TD_TRY(td_buf_printf(b, "{\"role\":\"%s\",\"content\":", role));
    TD_TRY(td_buf_add_json(b, text));
    return td_buf_addz(b, "}");
}

static enum td_err make_body(struct td_buf *b, struct td_str text, struct td_error *e) {
    TD_TRY(td_buf_addz(b, "{\"model\":"));
    TD_TRY(td_buf_add_json(b, td_str_of(model ? model : "auto")));
    TD_TRY(td_buf_addz(b, ",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"messages\":["));
    if (system_text) {
        TD_TRY(add_message(b, "system", td_str_of(system_text)));
        TD_TRY(td_buf_addc(b, ','));
    }
    TD_TRY(add_message(b, "user", text));
    TD_TRY(td_buf_addz(b, "]"));
    if (max_tokens)
        TD_TRY(td_buf_printf(b, ",\"max_tokens\":%ld", max_tokens));
    if (!no_tools)
        TD_TRY(td_chat_add_tools(b, tools_file, e));
    TD_TRY(td_buf_printf(b, ",\"tandem\":{\"fresh\":%s%s%s", fresh ? "true" : "false",
                         progressive ? ",\"mode\":\"progressive\"" : "", queue ? ",\"queue\":true" : ""));
    if (prefer) {
        TD_TRY(td_buf_addz(b, ",\"prefer\":"));
        TD_TRY(td_buf_add_json(b, td_str_of(prefer)));
    }
    if (data_class) {
        TD_TRY(td_buf_addz(b, ",\"data_class\":"));
        TD_TRY(td_buf_add_json(b, td_str_of(data_class)));
    }
    return td_buf_addz(b, "}}");
}

static void print_origin(const struct view *v, uint64_t end_ns) {
    double ms = (double)(end_ns - v->start_ns) / 1e6;
    double first = v->first_ns ? (double)(v->first_ns - v->start_ns) / 1e6 : ms;
    if (v->text.n && v->text.p[v->text.n - 1] != '\n')
        printf("\n");
    fflush(stdout);
    bool plain = !td_cli_stderr_is_terminal();
    fprintf(stderr, "%s%s · %s%s%s · %s · first %.0f ms, all %.0f ms%s%s%s\n", plain ? "" : td_cli_dim(), v->target,
            v->tier, v->reason[0] ? " · " : "", v->reason, td_cli_money(v->end.cost_nusd), first, ms,
            v->end.degraded ? " · degraded" : "", v->end.queued ? " · queued" : "", plain ? "" : td_cli_reset());
}

static enum td_err write_json(const struct view *v, uint64_t end_ns, struct td_buf *b) {
    TD_TRY(td_buf_addz(b, "{\"text\":"));
    TD_TRY(td_buf_add_json(b, td_buf_str(&v->text)));
    TD_TRY(td_buf_printf(b, ",\"tool_calls\":[%.*s],\"finish\":\"%s\",\"target\":", TD_STR_ARG(td_buf_str(&v->tools)),
                         v->finish));
    TD_TRY(td_buf_add_json(b, td_str_of(v->target)));
    TD_TRY(td_buf_addz(b, ",\"model\":"));
    TD_TRY(td_buf_add_json(b, td_str_of(v->model)));
    return td_buf_printf(
        b,
        ",\"tier\":\"%s\",\"reason\":\"%s\",\"exchange\":\"%s\",\"degraded\":%s,\"queued\":%s,\"prompt_tokens\":%u,"
        "\"completion_tokens\":%u,\"cost_nusd\":%" PRId64 ",\"ms\":%.1f}",
        v->tier, v->reason, v->exchange, v->end.degraded ? "true" : "false", v->end.queued ? "true" : "false",
        v->end.prompt_tokens, v->end.completion_tokens, v->end.cost_nusd, (double)(end_ns - v->start_ns) / 1e6);
}

static enum td_err print_json(const struct view *v, uint64_t end_ns) {
    struct td_buf b;
    td_buf_init(&b, 64 << 20);
    enum td_err err = write_json(v, end_ns, &b);
    if (err == TD_OK)
        printf("%.*s\n", TD_STR_ARG(td_buf_str(&b)));
    td_buf_finish(&b);
    return err;
}

#define TEXT_BYTES_MAX (16u << 20)

static enum td_err read_input(int argc, char **argv, struct td_buf *text, struct td_error *e) {
    bool given = argc == 1 && strcmp(argv[0], "-") != 0;
    enum td_err err = given ? td_buf_addz(text, argv[0]) : td_cli_read_file("-", text);
    if (err == TD_ERR_IO)
        return td_error_set(e, err, "standard input: %m");
    if (err == TD_ERR_LIMIT)
        return td_error_set(e, err, "the text is longer than %u MiB", TEXT_BYTES_MAX >> 20);
    if (err == TD_OK && td_str_trim(td_buf_str(text)).n == 0)
        return td_error_set(e, TD_ERR_USAGE, "ask wants a text; this one is empty");
    if (err == TD_OK && !td_str_is_utf8(td_buf_str(text)))
        return td_error_set(e, TD_ERR_USAGE, "the text is not UTF-8");
    return err;
}

static int run(int argc, char **argv) {
    struct td_failure failure;
    struct view view = {0};
    struct td_buf text, body;
    struct td_chat_session *session = NULL;
    struct td_error e = {0};
    int code = TD_EXIT_FAILED;
    if (argc > 1 || (argc == 0 && isatty(STDIN_FILENO)))
        return td_cli_fail(TD_EXIT_USAGE, "ask wants one text (quote it), or - for standard input");
    td_buf_init(&text, TEXT_BYTES_MAX);
    td_buf_init(&body, 32 << 20);
    td_buf_init(&view.text, 64 << 20);
    td_buf_init(&view.tools, 8 << 20);
    enum td_err err = read_input(argc, argv, &text, &e);
    if (err == TD_OK)
        err = make_body(&body, td_str_trim(td_buf_str(&text)), &e);
    if (err != TD_OK) {
        code = e.message[0] ? td_cli_fail(TD_EXIT_USAGE, "%s", e.message)
                            : td_cli_fail(code, "could not make the request: %s", td_err_text(err));
        goto out;
    }
    session = td_chat_session_open(&failure);
    if (!session) {
        code = td_cli_failure(&failure);
        goto out;
    }
    view.start_ns = td_now_ns();
    bool ok = td_chat_session_ask(session, td_buf_str(&body), on_answer, &view);
    uint64_t end_ns = td_now_ns();
    if (!ok || view.failed) {
        if (view.text.n && !td_cli.json)
            printf("\n");
        if (!td_cli_flush()) {
            code = TD_EXIT_FAILED; // td_cli_end says why
            goto out;
        }
        code = td_cli_fail(strcmp(view.code, "tandem.cancelled") == 0 ? TD_EXIT_CANCELLED : TD_EXIT_FAILED, "%s (%s)",
                           view.message, view.code);
        if (view.end.queued && !td_cli.json)
            fprintf(stderr, "it is kept for later: tandem outbox show %s\n", view.exchange);
    } else {
        code = TD_EXIT_OK;
        if (!td_cli.json)
            print_origin(&view, end_ns);
        else if (print_json(&view, end_ns) != TD_OK)
            code = TD_EXIT_FAILED;
    }
out:
    td_chat_session_close(session);
    td_buf_finish(&text);
    td_buf_finish(&body);
    td_buf_finish(&view.text);
    td_buf_finish(&view.tools);
    return code;
}

static const struct td_opt options[] = {
    {"model", 'm', TD_OPT_STRING, "NAME", "auto, auto:fast|cheap|quality|private, or a target's name",
     .string = &model},
    {"prefer", 'p', TD_OPT_STRING, "WHAT", "fast, cheap, quality, private or balanced", .string = &prefer},
    {"class", 0, TD_OPT_STRING, "CLASS", "data class: public, internal, confidential, restricted",
     .string = &data_class},
    {"system", 's', TD_OPT_STRING, "TEXT", "a system message", .string = &system_text},
    {"tools", 0, TD_OPT_STRING, "FILE", "offer these tools (JSON) instead of the assistant catalogue",
     .string = &tools_file},
    {"no-tools", 0, TD_OPT_FLAG, NULL, "offer no tools", .flag = &no_tools},
    {"progressive", 0, TD_OPT_FLAG, NULL, "show a local draft at once, redraw when the better answer comes",
     .flag = &progressive},
    {"queue", 0, TD_OPT_FLAG, NULL, "keep it for a better answer where only a lesser one can be had now",
     .flag = &queue},
    {"fresh", 0, TD_OPT_FLAG, NULL, "the answer needs current information", .flag = &fresh},
    {"max-tokens", 0, TD_OPT_NUMBER, "N", "longest answer", .number = &max_tokens, .min = 1, .max = 1000000},
    {0},
};

const struct td_command td_command_ask = {
    .name = "ask",
    .arguments = "TEXT",
    .help = "ask something; says where the answer came from and what it cost",
    .details = "Uses the daemon of the data directory where one runs, else answers in this process.",
    .options = options,
    .run = run,
};
