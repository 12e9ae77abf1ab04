// SPDX-License-Identifier: Apache-2.0
// Answers as models give them, parsed while they grow: text and tool calls come out in pieces, nothing twice.
#include "unit.h"

#include <dlfcn.h>
#include <stdio.h>

#include "base/json.h"
#include "host/chat.h"

static struct llama_model *model;
static struct host_templates *templates;

struct got {
    struct td_buf text, arguments[4];
    char names[4][64], ids[4][64];
    unsigned calls, names_seen;
};

static void on_piece(void *arg, const struct host_piece *p) {
    struct got *g = arg;
    if (p->kind != HOST_PIECE_TOOL) {
        assert_ok(td_buf_add_str(&g->text, p->text));
        return;
    }
    assert_true(p->index < 4 && p->index <= g->calls);
    if (p->index == g->calls) { // the first piece of a call brings its name and id
        assert_true(p->name.n > 0 && p->id.n > 0);
        g->calls++;
    }
    if (p->name.n) {
        g->names_seen++;
        snprintf(g->names[p->index], 64, "%.*s", TD_STR_ARG(p->name));
        snprintf(g->ids[p->index], 64, "%.*s", TD_STR_ARG(p->id));
    }
    assert_ok(td_buf_add_str(&g->arguments[p->index], p->text));
}

static void open_got(struct got *g) {
    *g = (struct got){0};
    td_buf_init(&g->text, 1 << 20);
    for (int i = 0; i < 4; i++)
        td_buf_init(&g->arguments[i], 1 << 20);
}

static void close_got(struct got *g) {
    td_buf_finish(&g->text);
    for (int i = 0; i < 4; i++)
        td_buf_finish(&g->arguments[i]);
}

static struct host_turn *turn_of(const char *messages, const char *choice) {
    struct host_turn *turn;
    struct td_error e = {0};
    struct host_turn_in in = {.messages = td_str_of(messages),
                              .tools =
                                  TD_STR("[{\"type\":\"function\",\"function\":{\"name\":\"set_timer\",\"parameters\":{"
                                         "\"type\":\"object\",\"properties\":{\"seconds\":{\"type\":\"integer\"},"
                                         "\"label\":{\"type\":\"string\"}},\"required\":[\"seconds\"]}}}]"),
                              .tool_choice = td_str_of(choice),
                              .parallel_tools = 1};
    assert_ok(host_turn_create(templates, &in, &turn, &e));
    return turn;
}

static const char hello[] = "[{\"role\":\"user\",\"content\":\"hello\"}]";

// Feeds the answer in steps of `step` bytes.
static enum td_err feed(const struct host_turn *turn, const char *answer, size_t step, struct got *g) {
    struct host_parser *p = host_parser_create(turn);
    size_t n = strlen(answer);
    for (size_t at = step; at < n; at += step)
        assert_ok(host_parser_feed(p, td_str_n(answer, at), true, on_piece, g));
    enum td_err err = host_parser_feed(p, td_str_n(answer, n), false, on_piece, g);
    assert_int_equal(host_parser_has_tools(p), g->calls > 0);
    host_parser_destroy(p);
    return err;
}

static void a_call_comes_in_pieces_that_make_its_arguments(void **state) {
    (void)state;
    struct host_turn *turn = turn_of(hello, "auto");
    for (size_t step = 1; step < 40; step += 3) {
        struct got g;
        struct td_arena arena;
        td_json *root;
        open_got(&g);
        assert_ok(
            feed(turn,
                 "<tool_call>\n{\"name\": \"set_timer\", \"arguments\": {\"seconds\": 600, \"label\": \"tea \\\"x\\\" "
                 "time\"}}\n</tool_call>",
                 step, &g));
        assert_int_equal(g.calls, 1);
        assert_int_equal(g.names_seen, 1);
        assert_string_equal(g.names[0], "set_timer");
        td_arena_init(&arena, 1 << 20);
        assert_ok(td_json_parse(&arena, td_buf_str(&g.arguments[0]), 8, &root, NULL));
        assert_int_equal(td_json_get_int(root, "seconds", 0), 600);
        assert_str(td_json_get_str(root, "label"), "tea \"x\" time");
        td_arena_finish(&arena);
        close_got(&g);
    }
    host_turn_destroy(turn);
}

static void two_calls_have_their_own_indexes_and_ids(void **state) {
    (void)state;
    struct host_turn *turn = turn_of(hello, "auto");
    for (size_t step = 1; step < 30; step += 7) {
        struct got g;
        open_got(&g);
        assert_ok(feed(turn,
                       "<tool_call>\n{\"name\": \"set_timer\", \"arguments\": {\"seconds\": 1}}\n</tool_call>\n"
                       "<tool_call>\n{\"name\": \"set_timer\", \"arguments\": {\"seconds\": 2}}\n</tool_call>",
                       step, &g));
        assert_int_equal(g.calls, 2);
        assert_string_not_equal(g.ids[0], g.ids[1]);
        assert_non_null(memmem(g.arguments[0].p, g.arguments[0].n, "1", 1));
        assert_non_null(memmem(g.arguments[1].p, g.arguments[1].n, "2", 1));
        close_got(&g);
    }
    host_turn_destroy(turn);
}

static void plain_text_stays_plain_text(void **state) {
    (void)state;
    struct host_turn *turn = turn_of(hello, "auto");
    for (size_t step = 1; step < 20; step++) {
        struct got g;
        open_got(&g);
        assert_ok(feed(turn, "Hello, this is < plain > text {\"with\": \"braces\"}.", step, &g));
        assert_int_equal(g.calls, 0);
        assert_str(td_buf_str(&g.text), "Hello, this is < plain > text {\"with\": \"braces\"}.");
        close_got(&g);
    }
    host_turn_destroy(turn);
}

static void a_continued_answer_does_not_repeat_its_beginning(void **state) {
    (void)state;
    struct host_turn *turn =
        turn_of("[{\"role\":\"user\",\"content\":\"count\"},{\"role\":\"assistant\",\"content\":\"one two\"}]", "none");
    struct td_str prompt = host_turn_prompt(turn);
    assert_true(prompt.n > 7 && memcmp(prompt.p + prompt.n - 7, "one two", 7) == 0);
    for (size_t step = 1; step < 8; step++) {
        struct got g;
        open_got(&g);
        assert_ok(feed(turn, " three four", step, &g));
        assert_str(td_buf_str(&g.text), " three four");
        close_got(&g);
    }
    host_turn_destroy(turn);
}

static void bad_messages_are_a_typed_error_without_their_text(void **state) {
    (void)state;
    static const char *const bad[] = {
        "{}",
        "[1]",
        "[{\"role\":5}]",
        "[{\"content\":\"canary\"}]",
        "[",
        "",
        "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":1,\"canary\":2}]}]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct host_turn *turn = NULL;
        struct td_error e = {0};
        struct host_turn_in in = {.messages = td_str_of(bad[i])};
        if (host_turn_create(templates, &in, &turn, &e) == TD_OK) {
            host_turn_destroy(turn);
            continue;
        }
        assert_int_equal(e.code, TD_ERR_BAD_REQUEST);
        assert_null(strstr(e.message, "canary"));
    }
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    Dl_info where;
    char folder[4096];
    struct td_error e = {0};
    host_chat_quiet();
    if (!dladdr((void *)(uintptr_t)ggml_backend_load_all, &where))
        return 1;
    snprintf(folder, sizeof folder, "%s", where.dli_fname);
    *strrchr(folder, '/') = 0;
    ggml_backend_load_all_from_path(folder);
    model = llama_model_load_from_file(argv[1], llama_model_default_params());
    templates = model ? host_templates_create(model, "", &e) : NULL;
    if (!templates)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_comes_in_pieces_that_make_its_arguments),
        cmocka_unit_test(two_calls_have_their_own_indexes_and_ids),
        cmocka_unit_test(plain_text_stays_plain_text),
        cmocka_unit_test(a_continued_answer_does_not_repeat_its_beginning),
        cmocka_unit_test(bad_messages_are_a_typed_error_without_their_text),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    host_templates_destroy(templates);
    llama_model_free(model);
    return failed;
}
