// SPDX-License-Identifier: Apache-2.0
// tandem eval: runs utterances with expected intent and slots through any target and says how good it is. Intents are
// tool calls: TOOL, or TOOL.ACTION where the call has an `action` argument; a label file maps them to a public set's
// own labels.
#include "cli/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "cli/chat.h"
#include "cli/cli.h"

#define ITEMS_MAX 1000000u

static const char *model, *tools_file, *labels_file, *set_name, *predictions_file;
static bool no_tools, agree;
static long limit;

static void on_answer(void *user, const struct td_answer *a) {
    struct td_eval_answer *out = user;
    enum td_err err = TD_OK;
    switch (a->type) {
    case TD_ANSWER_TEXT:
        err = td_buf_add(&out->text, a->text, a->text_length);
        break;
    case TD_ANSWER_TOOL_CALL:
        if (out->name.n == 0) {
            err = td_buf_addz(&out->name, a->name);
            if (err == TD_OK)
                err = td_buf_addz(&out->arguments, a->arguments);
        }
        break;
    case TD_ANSWER_END:
        out->confidence = a->confidence;
        break;
    case TD_ANSWER_ERROR:
        out->failed = true;
        snprintf(out->code, sizeof out->code, "%s", a->code);
        break;
    default:
        break;
    }
    out->failed |= err != TD_OK;
}

static int load_tools(struct td_eval *ev) {
    char *found = tools_file ? NULL : td_resource_path("catalogue.json");
    const char *path = tools_file ? tools_file : found;
    int code = TD_EXIT_OK;
    if (!no_tools && !path)
        code = td_cli_fail(TD_EXIT_USAGE, "no tool catalogue found; name one with --tools, or say --no-tools");
    else if (!no_tools && td_cli_read_file(path, &ev->tools) != TD_OK)
        code = td_cli_fail(TD_EXIT_USAGE, "%s cannot be read", path);
    td_string_free(found);
    return code;
}

static int load_labels(struct td_eval *ev) {
    struct td_buf text;
    td_json *root;
    struct td_error e;
    if (!labels_file)
        return TD_EXIT_OK;
    if (!set_name)
        return td_cli_fail(TD_EXIT_USAGE, "--labels needs --set, the name of the label set in it");
    td_buf_init(&text, 16 << 20);
    enum td_err err = td_cli_read_file(labels_file, &text);
    if (err == TD_OK)
        err = td_json_parse(&ev->arena, td_buf_str(&text), 16, &root, &e);
    td_buf_finish(&text);
    if (err != TD_OK)
        return td_cli_fail(TD_EXIT_USAGE, "%s cannot be read", labels_file);
    ev->labels = td_json_get(td_json_get(root, "sets"), set_name);
    return ev->labels ? TD_EXIT_OK : td_cli_fail(TD_EXIT_USAGE, "%s has no set '%s'", labels_file, set_name);
}

static enum td_err make_body(const struct td_eval *ev, struct td_str text, struct td_buf *b) {
    td_buf_clear(b);
    TD_TRY(td_buf_addz(b, "{\"model\":"));
    TD_TRY(td_buf_add_json(b, td_str_of(model ? model : "auto")));
    TD_TRY(td_buf_addz(b, ",\"stream\":true,\"temperature\":0,\"messages\":[{\"role\":\"user\",\"content\":"));
    TD_TRY(td_buf_add_json(b, text));
    TD_TRY(td_buf_addz(b, "}]"));
    if (ev->tools.n) {
        TD_TRY(td_buf_addz(b, ",\"tools\":"));
        TD_TRY(td_buf_add_str(b, td_buf_str(&ev->tools)));
    }
    return td_buf_addz(b, "}");
}

static enum td_err run_line(struct td_eval *ev, struct td_str line, struct td_buf *body) {
    struct td_arena arena;
    struct td_eval_answer a = {.confidence = NAN};
    struct td_eval_expected x;
    td_json *row;
    td_arena_init(&arena, 16 << 20);
    td_buf_init(&a.text, 16 << 20);
    td_buf_init(&a.name, 1024);
    td_buf_init(&a.arguments, 16 << 20);
    enum td_err err = td_json_parse(&arena, line, 16, &row, NULL);
    struct td_str text = err == TD_OK ? td_json_get_str(row, "text") : TD_STR_NONE;
    if (err == TD_OK && !text.n)
        err = TD_ERR_BAD_JSON;
    if (err == TD_OK)
        err = make_body(ev, text, body);
    if (err == TD_OK)
        err = td_eval_expect(ev, &arena, row, &x);
    if (err == TD_OK) {
        struct td_eval_item *item = &ev->items[ev->count++];
        item->id = td_arena_str(&ev->arena, td_json_get_str(row, "id"));
        item->intent = td_arena_str(&ev->arena, x.intent);
        uint64_t start = td_now_ns();
        td_chat_session_ask(ev->session, td_buf_str(body), on_answer, &a);
        item->ms = (double)(td_now_ns() - start) / 1e6;
        td_eval_judge(ev, &arena, &x, &a, item);
    }
    td_buf_finish(&a.text);
    td_buf_finish(&a.name);
    td_buf_finish(&a.arguments);
    td_arena_finish(&arena);
    return err;
}

static int run_file(struct td_eval *ev, const char *path) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    char *line = NULL;
    size_t cap = 0, number = 0;
    ssize_t n;
    struct td_buf body;
    int code = TD_EXIT_OK;
    if (!f)
        return td_cli_fail(TD_EXIT_USAGE, "%s cannot be read", path);
    td_buf_init(&body, 32 << 20);
    while (code == TD_EXIT_OK && (!limit || ev->count < (unsigned)limit) && (n = getline(&line, &cap, f)) > 0) {
        struct td_str text = td_str_trim(td_str_n(line, (size_t)n));
        number++;
        if (text.n == 0)
            continue;
        if (ev->count == ev->cap) {
            unsigned more = ev->cap ? ev->cap * 2 : 1024;
            struct td_eval_item *items = more <= ITEMS_MAX * 2 ? td_realloc(ev->items, more * sizeof *items) : NULL;
            if (!items) {
                code = td_cli_fail(TD_EXIT_FAILED, "too many items, or out of memory");
                break;
            }
            memset(items + ev->cap, 0, (more - ev->cap) * sizeof *items);
            ev->items = items;
            ev->cap = more;
        }
        enum td_err err = run_line(ev, text, &body);
        if (err != TD_OK)
            code = td_cli_fail(TD_EXIT_USAGE,
                               "%s:%zu: not an object with \"id\", \"text\", and \"intent\" or \"tool_call\"", path,
                               number);
        if (td_cli_stderr_is_terminal() && ev->count % 50 == 0)
            fprintf(stderr, "\r%u", ev->count);
    }
    if (td_cli_stderr_is_terminal())
        fprintf(stderr, "\r\033[K");
    if (f != stdin)
        fclose(f);
    free(line);
    td_buf_finish(&body);
    return code;
}

static int run(int argc, char **argv) {
    struct td_eval ev = {0};
    struct td_failure failure;
    int code = TD_EXIT_OK;
    if (argc != 1)
        return td_cli_fail(TD_EXIT_USAGE, "eval wants one JSONL file (or -)");
    if (agree)
        return td_eval_agree(argv[0]);
    td_arena_init(&ev.arena, (size_t)2 << 30);
    td_buf_init(&ev.tools, 4 << 20);
    code = load_tools(&ev);
    if (code == TD_EXIT_OK)
        code = load_labels(&ev);
    if (code == TD_EXIT_OK && predictions_file && !(ev.predictions = fopen(predictions_file, "wb")))
        code = td_cli_fail(TD_EXIT_USAGE, "%s cannot be written", predictions_file);
    if (code == TD_EXIT_OK && !(ev.session = td_chat_session_open(&failure)))
        code = td_cli_failure(&failure);
    if (code == TD_EXIT_OK)
        code = run_file(&ev, argv[0]);
    if (code == TD_EXIT_OK && ev.count == 0)
        code = td_cli_fail(TD_EXIT_USAGE, "%s holds no items", argv[0]);
    if (code == TD_EXIT_OK)
        code = td_eval_report(&ev);
    if (ev.predictions && (fclose(ev.predictions) != 0 || ev.predictions_failed) && code == TD_EXIT_OK)
        code = td_cli_fail(TD_EXIT_FAILED, "%s could not be written whole", predictions_file);
    td_chat_session_close(ev.session);
    td_free(ev.items);
    td_buf_finish(&ev.tools);
    td_arena_finish(&ev.arena);
    return code;
}

static const struct td_opt options[] = {
    {"model", 'm', TD_OPT_STRING, "NAME", "the target to evaluate (default: auto)", .string = &model},
    {"tools", 0, TD_OPT_STRING, "FILE", "tools to offer (default: the assistant catalogue)", .string = &tools_file},
    {"no-tools", 0, TD_OPT_FLAG, NULL, "offer no tools", .flag = &no_tools},
    {"labels", 'l', TD_OPT_STRING, "FILE", "maps calls and arguments to the labels of the data",
     .string = &labels_file},
    {"set", 's', TD_OPT_STRING, "NAME", "which set of the label file", .string = &set_name},
    {"predictions", 'p', TD_OPT_STRING, "FILE", "write one JSON line per item", .string = &predictions_file},
    {"agree", 0, TD_OPT_FLAG, NULL,
     "measure instead how answers are judged to mean the same: lines of {\"q\",\"a\",\"b\",\"same\",\"kind\"}",
     .flag = &agree},
    {"limit", 'n', TD_OPT_NUMBER, "N", "only the first N items", .number = &limit, .min = 1, .max = 1000000},
    {0},
};

const struct td_command td_command_eval = {
    .name = "eval",
    .arguments = "FILE",
    .help = "measure a target on utterances with expected intent and slots (JSONL)",
    .details = "Input lines: {\"id\",\"text\",\"intent\",\"slots\"}, or with \"tool_call\":{\"name\",\"arguments\"} "
               "for the last two. Predictions: "
               "{\"id\",\"intent\",\"slots\",\"confidence\",\"ms\"}.",
    .options = options,
    .run = run,
};
