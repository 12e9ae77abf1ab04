// SPDX-License-Identifier: Apache-2.0
// Answers as models give them, parsed while they grow: text and tool calls come out in pieces, nothing twice.
#include "unit.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include "base/json.h"
#include "host/chat.h"

static struct llama_model *model, *starter;
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

// What a model said amiss, or would not say, must not end the conversation.
static void what_clients_send_back_is_rendered(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":null,\"refusal\":\"never that\"},"
         "{\"role\":\"user\",\"content\":\"x\"}]",
         "never that"},
        {"[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":"
         "\"hm\"},"
         "{\"type\":\"refusal\",\"refusal\":\"not this\"}]},{\"role\":\"user\",\"content\":\"x\"}]",
         "not this"},
#define CALLED(arguments)                                                                                              \
    "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"a\","   \
    "\"type\":"                                                                                                        \
    "\"function\",\"function\":{\"name\":\"get_time\",\"arguments\":\"" arguments "\"}}]},{\"role\":\"tool\","         \
    "\"tool_call_id\":\"a\",\"content\":\"noon\"}]"
        {CALLED(""), "get_time"},
        {CALLED("{\\\"unfinished"), "unfinished"},
        {CALLED("7 words"), "7 words"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct host_turn *turn = turn_of(cases[i][0], "none");
        struct td_str prompt = host_turn_prompt(turn);
        assert_non_null(memmem(prompt.p, prompt.n, cases[i][1], strlen(cases[i][1])));
        host_turn_destroy(turn);
    }
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

#define TIMER                                                                                                          \
    "[{\"type\":\"function\",\"function\":{\"name\":\"timer\",\"parameters\":{\"type\":\"object\",\"properties\":{"    \
    "\"action\":{\"type\":\"string\",\"enum\":[\"set\",\"check\",\"cancel\"]},\"duration\":{\"type\":\"string\"},"     \
    "\"label\":{\"type\":\"string\"}},\"required\":[\"action\"]}}}]"
#define CALL                                                                                                           \
    "<tool_call>{\"name\":\"timer\",\"arguments\":{\"action\":\"set\",\"duration\":\"10 minutes\"}}</tool_call>"

static struct host_turn *turn_in(const struct host_templates *t, const char *tools) {
    struct host_turn *turn;
    struct td_error e = {0};
    struct host_turn_in in = {.messages = td_str_of(hello), .tools = td_str_of(tools), .parallel_tools = -1};
    in.tool_choice = in.tools.n ? TD_STR("auto") : TD_STR_NONE;
    assert_ok(host_turn_create(t, &in, &turn, &e));
    return turn;
}

static void *prepare(void *t) {
    host_templates_prepare(t);
    return NULL;
}

static void same_turns(const struct host_turn *a, const struct host_turn *b) {
    struct got of_a, of_b;
    assert_true(td_str_eq(host_turn_prompt(a), host_turn_prompt(b)));
    assert_int_equal(host_turn_stop_count(a), host_turn_stop_count(b));
    for (size_t i = 0; i < host_turn_stop_count(a); i++)
        assert_true(td_str_eq(host_turn_stop(a, i), host_turn_stop(b, i)));
    for (llama_token i = 0; i < llama_vocab_n_tokens(llama_model_get_vocab(starter)); i++)
        assert_int_equal(host_turn_preserves(a, i), host_turn_preserves(b, i));
    open_got(&of_a);
    open_got(&of_b);
    assert_ok(feed(a, CALL, 5, &of_a));
    assert_ok(feed(b, CALL, 5, &of_b));
    assert_int_equal(of_a.calls, of_b.calls);
    assert_true(td_str_eq(td_buf_str(&of_a.arguments[0]), td_buf_str(&of_b.arguments[0])));
    assert_true(td_str_eq(td_buf_str(&of_a.text), td_buf_str(&of_b.text)));
    close_got(&of_a);
    close_got(&of_b);
}

// What was made ready while the model was loading is what would have been made of the model.
static void early_templates_make_the_same_of_a_chat(void **state) {
    (void)state;
    pthread_t thread;
    struct td_error e = {0};
    static const char *const tools[] = {TIMER, ""};
    struct host_templates *early = host_templates_early(td_str_of(llama_model_chat_template(starter, NULL)));
    struct host_templates *late = host_templates_create(starter, "", &e);
    assert_non_null(early);
    assert_non_null(late);
    assert_int_equal(host_templates_tools(early), host_templates_tools(late));
    host_templates_expect(early, TD_STR(TIMER));
    assert_int_equal(pthread_create(&thread, NULL, prepare, early), 0);
    assert_true(host_templates_adopt(early, starter));
    for (size_t i = 0; i < 2; i++)
        for (int again = 0; again < 2; again++) {
            struct host_turn *a = turn_in(early, tools[i]), *b = turn_in(late, tools[i]);
            assert_int_equal(host_turn_known(a), again || i == 0); // the turn waited for what was being made
            assert_int_equal(host_turn_known(b), again);
            same_turns(a, b);
            host_turn_destroy(a);
            host_turn_destroy(b);
        }
    pthread_join(thread, NULL);
    host_templates_destroy(early);
    host_templates_destroy(late);
}

static void early_templates_of_another_model_are_refused(void **state) {
    (void)state;
    pthread_t thread;
    struct host_templates *early = host_templates_early(td_str_of(llama_model_chat_template(starter, NULL)));
    assert_non_null(early);
    host_templates_expect(early, TD_STR(TIMER));
    assert_int_equal(pthread_create(&thread, NULL, prepare, early), 0);
    assert_false(host_templates_adopt(early, model));
    pthread_join(thread, NULL); // it does not wait for ever
    host_templates_destroy(early);
    // This model's prompts begin with a token of its own.
    assert_true(llama_vocab_get_add_bos(llama_model_get_vocab(model)));
    early = host_templates_early(TD_STR("{% for m in messages %}{{ m.content }}{% endfor %}"));
    assert_non_null(early);
    assert_false(host_templates_adopt(early, model));
    host_templates_destroy(early);
}

static void what_takes_the_model_is_not_made_early(void **state) {
    (void)state;
    static const char *const sources[] = {"", "chatml", "{{ bos_token }}{{ messages[0].content }}",
                                          "{{ messages[0].content }}{{ eos_token }}", "{% if %}"};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        assert_null(host_templates_early(td_str_of(sources[i])));
}

// What cannot be made is nobody's failure: turns do without.
static void tools_that_cannot_be_prepared_hold_nobody_up(void **state) {
    (void)state;
    struct td_error e = {0};
    static const char *const tools[] = {"[1]", "{", "[{\"type\":\"function\"}]"};
    for (size_t i = 0; i < sizeof tools / sizeof *tools; i++) {
        struct host_templates *t = host_templates_create(starter, "", &e);
        assert_non_null(t);
        host_templates_expect(t, td_str_of(tools[i]));
        host_templates_prepare(t);
        struct host_turn *turn = turn_in(t, TIMER);
        assert_false(host_turn_known(turn));
        host_turn_destroy(turn);
        host_templates_destroy(t);
    }
}

int main(int argc, char **argv) {
    if (argc != 3)
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
    starter = llama_model_load_from_file(argv[2], llama_model_default_params());
    if (!templates || !starter)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_comes_in_pieces_that_make_its_arguments),
        cmocka_unit_test(two_calls_have_their_own_indexes_and_ids),
        cmocka_unit_test(plain_text_stays_plain_text),
        cmocka_unit_test(a_continued_answer_does_not_repeat_its_beginning),
        cmocka_unit_test(what_clients_send_back_is_rendered),
        cmocka_unit_test(bad_messages_are_a_typed_error_without_their_text),
        cmocka_unit_test(early_templates_make_the_same_of_a_chat),
        cmocka_unit_test(early_templates_of_another_model_are_refused),
        cmocka_unit_test(what_takes_the_model_is_not_made_early),
        cmocka_unit_test(tools_that_cannot_be_prepared_hold_nobody_up),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    host_templates_destroy(templates);
    llama_model_free(model);
    llama_model_free(starter);
    return failed;
}
