// SPDX-License-Identifier: Apache-2.0
// Attempts through a real model host with models of random weights: a tiny one, and a slow one whose answers last.
#include "unit.h"

#include <signal.h>

#include "base/counters.h"
#include "base/json.h"
#include "base/log.h"
#include "local.h"
#include "local/protocol.h"

#define WAIT_MS 30000

static const char *host, *tiny, *slow;
static struct house h;

static int open_house(void **state) {
    (void)state;
    struct td_manager_options options = {.host_path = host, .workers = 1};
    return house_open(&h, &options) ? 0 : 1;
}

static int close_house(void **state) {
    (void)state;
    house_close(&h);
    return 0;
}

static void ask_done(struct ask *a, const char *gguf, enum td_kind kind, const char *body) {
    ask_open(a, &h, gguf, kind, body);
    assert_true(ask_all(a, WAIT_MS));
}

static void a_chat_streams_and_ends_once(void **state) {
    (void)state;
    struct ask a;
    ask_done(&a, tiny, TD_KIND_CHAT,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"max_tokens\":12,\"temperature\":0}");
    assert_int_equal(a.error, TD_OK);
    assert_int_equal(a.starts, 1);
    assert_int_equal(a.ends, 1);
    assert_int_equal(a.finishes, 1);
    assert_int_equal(a.finish, TD_FINISH_LENGTH);
    assert_int_equal(a.usage.completion_tokens, 12);
    assert_int_equal(a.stats.completion_tokens, 12);
    assert_true(a.text.n > 0 && td_str_is_utf8(td_buf_str(&a.text)));
    assert_true(a.stats.mean_logprob < 0 && a.stats.min_logprob <= a.stats.mean_logprob);
    assert_true(a.stats.mean_entropy > 0);
    assert_true(a.stats.first_ns > a.stats.connected_ns && a.stats.end_ns >= a.stats.first_ns);
    assert_string_equal(a.model, "tiny");
    ask_close(&a);
}

static void a_second_turn_reuses_the_first_ones_prefix(void **state) {
    (void)state;
    struct ask a, b;
    const char *body = "{\"prompt\":\"the same long beginning of a conversation\",\"max_tokens\":4,\"temperature\":0}";
    ask_done(&a, tiny, TD_KIND_COMPLETION, body);
    ask_done(&b, tiny, TD_KIND_COMPLETION, body);
    assert_int_equal(a.usage.cached_tokens, 0);
    assert_int_equal(b.usage.cached_tokens, a.usage.prompt_tokens - 1);
    assert_int_equal(a.text.n, b.text.n);
    assert_memory_equal(a.text.p, b.text.p, a.text.n);
    ask_close(&a);
    ask_close(&b);
}

// A stop string that lies across tokens: the text ends before it, and none of it was shown on the way.
static void a_stop_string_is_never_shown(void **state) {
    (void)state;
    struct ask a, b;
    char body[256];
    ask_done(&a, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":60,\"temperature\":0}");
    unsigned tried = 0;
    for (size_t at = 4; at + 3 < a.text.n && tried < 6; at++) {
        char stop[4];
        memcpy(stop, a.text.p + at, 3);
        stop[3] = 0;
        bool plain = true;
        for (int i = 0; i < 3; i++)
            plain &= stop[i] > 31 && stop[i] < 127 && stop[i] != '"' && stop[i] != '\\';
        const char *first = plain ? memmem(a.text.p, a.text.n, stop, 3) : NULL;
        if (!first)
            continue;
        tried++;
        snprintf(body, sizeof body, "{\"prompt\":\"x\",\"max_tokens\":60,\"temperature\":0,\"stop\":[\"%s\"]}", stop);
        ask_done(&b, tiny, TD_KIND_COMPLETION, body);
        assert_int_equal(b.finish, TD_FINISH_STOP);
        assert_int_equal(b.text.n, first - a.text.p);
        assert_memory_equal(b.text.p, a.text.p, b.text.n);
        ask_close(&b);
    }
    assert_true(tried > 2);
    ask_close(&a);
}

static void too_long_a_prompt_is_refused_before_work(void **state) {
    (void)state;
    struct ask a;
    char body[2048];
    int n = snprintf(body, sizeof body, "{\"max_tokens\":1,\"prompt\":\"");
    for (int i = 0; i < 600; i++)
        body[n++] = "~#"[i % 2];
    snprintf(body + n, sizeof body - (size_t)n, "\"}");
    ask_done(&a, tiny, TD_KIND_COMPLETION, body);
    assert_int_equal(a.error, TD_ERR_CONTEXT_LENGTH);
    assert_int_equal(a.starts, 0);
    assert_int_equal(a.ends, 1);
    ask_close(&a);
}

static void an_answer_that_fills_the_context_ends_with_length(void **state) {
    (void)state;
    struct ask a;
    ask_done(&a, tiny, TD_KIND_COMPLETION,
             "{\"prompt\":\"hello\",\"temperature\":0,\"logit_bias\":{\"2\":-100,\"4\":-100}}");
    assert_int_equal(a.error, TD_OK);
    assert_int_equal(a.finish, TD_FINISH_LENGTH);
    assert_int_equal(a.usage.prompt_tokens + a.usage.completion_tokens, 512);
    ask_close(&a);
}

static void several_choices_come_from_one_prompt(void **state) {
    (void)state;
    struct ask a;
    ask_done(&a, tiny, TD_KIND_COMPLETION,
             "{\"prompt\":\"a prompt for three\",\"max_tokens\":7,\"n\":3,\"seed\":5,\"temperature\":1}");
    assert_int_equal(a.error, TD_OK);
    assert_int_equal(a.finishes, 3);
    assert_true(a.usage.completion_tokens <= 21 && a.usage.completion_tokens > 3);
    assert_int_equal(a.ends, 1);
    ask_close(&a);
}

static void the_same_seed_gives_the_same_answer(void **state) {
    (void)state;
    struct ask a, b, c;
    ask_done(&a, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":30,\"seed\":7,\"temperature\":1.5}");
    ask_done(&b, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":30,\"seed\":7,\"temperature\":1.5}");
    ask_done(&c, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":30,\"seed\":8,\"temperature\":1.5}");
    assert_true(a.text.n == b.text.n && memcmp(a.text.p, b.text.p, a.text.n) == 0);
    assert_false(a.text.n == c.text.n && memcmp(a.text.p, c.text.p, a.text.n) == 0);
    ask_close(&a);
    ask_close(&b);
    ask_close(&c);
}

static void a_schema_is_enforced(void **state) {
    (void)state;
    struct ask a;
    struct td_arena arena;
    td_json *root;
    ask_done(
        &a, tiny, TD_KIND_CHAT,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"max_tokens\":400,\"temperature\":1,\"seed\":3,"
        "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":{\"type\":"
        "\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"enum\":[\"x\",\"y\"]}},\"required\":"
        "[\"a\",\"b\"],\"additionalProperties\":false}}}}");
    assert_int_equal(a.error, TD_OK);
    assert_int_equal(a.finish, TD_FINISH_STOP);
    td_arena_init(&arena, 1 << 20);
    assert_ok(td_json_parse(&arena, td_buf_str(&a.text), 8, &root, NULL));
    assert_true(yyjson_is_int(td_json_get(root, "a")));
    assert_true(yyjson_is_str(td_json_get(root, "b")));
    assert_int_equal(yyjson_obj_size(root), 2);
    td_arena_finish(&arena);
    ask_close(&a);
}

#define TOOLS                                                                                                          \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"other\",\"parameters\":{\"type\":\"object\","          \
    "\"properties\":{}}}},{\"type\":\"function\",\"function\":{\"name\":\"set_timer\",\"description\":\"d\","          \
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"seconds\":{\"type\":\"integer\"}},\"required\":["           \
    "\"seconds\"]}}}]"

static const char *write_tools(const char *text, size_t n) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/tandem-tools-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), n);
    close(fd);
    return path;
}

// A model of its own (by `parallel`) that is told of tools, and one chat with other tools or these.
static void chat_with_tools(const char *path, uint32_t parallel, const char *tools) {
    struct ask a;
    char body[1024];
    snprintf(body, sizeof body,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"timer\"}],\"max_tokens\":4,\"temperature\":0,%s}", tools);
    ask_open(&a, &h, tiny, TD_KIND_CHAT, body);
    a.target.parallel = parallel;
    a.target.tools_file = td_str_of(path);
    assert_true(ask_all(&a, WAIT_MS));
    assert_int_equal(a.error, TD_OK);
    ask_close(&a);
}

static void tools_that_were_announced_are_prepared_with_the_load(void **state) {
    (void)state;
    struct td_counter *known = td_counter_get("tandem_local_chats_prepared_total", ""),
                      *made = td_counter_get("tandem_local_chats_unprepared_total", "");
    uint64_t knew = td_counter_value(known), had_to = td_counter_value(made);
    // As a file has it: spaced, and in an object.
    static const char text[] =
        "{ \"tools\" : [ { \"type\" : \"function\", \"function\" : { \"name\" : \"announced\", \"parameters\" : {\n"
        "  \"type\" : \"object\", \"properties\" : { } } } } ] }";
    static const char same[] = "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"announced\",\"parameters\":{"
                               "\"type\":\"object\",\"properties\":{}}}}]";
    const char *path = write_tools(text, sizeof text - 1);
    chat_with_tools(path, 2, same);
    assert_int_equal(td_counter_value(known), knew + 1);
    chat_with_tools(path, 2, TOOLS);
    assert_int_equal(td_counter_value(known), knew + 1);
    assert_int_equal(td_counter_value(made), had_to + 1);
    chat_with_tools(path, 2, TOOLS);
    assert_int_equal(td_counter_value(known), knew + 2);
    assert_int_equal(td_counter_value(made), had_to + 1);
    unlink(path);
}

static void tools_files_that_are_of_no_use_do_no_harm(void **state) {
    (void)state;
    static char text[TD_PROTO_PREPARE_BYTES_MAX + 1];
    struct td_counter *made = td_counter_get("tandem_local_chats_unprepared_total", "");
    uint64_t had_to = td_counter_value(made);
    chat_with_tools("/nowhere/tools.json", 3, TOOLS);
    memset(text, ' ', sizeof text);
    memcpy(text, "[]", 2);
    for (uint32_t less = 0; less < 2; less++) { // over the limit, and at it
        const char *path = write_tools(text, sizeof text - less);
        chat_with_tools(path, 5 + less, TOOLS);
        unlink(path);
    }
    const char *path = write_tools("no JSON", 7);
    chat_with_tools(path, 7, TOOLS);
    unlink(path);
    assert_int_equal(td_counter_value(made), had_to + 4);
}

static uint64_t resident_bytes(uint32_t parallel) {
    char path[64], text[128] = "";
    unsigned long long pages = 0;
    struct td_manager_status s;
    struct td_target target = {.model = td_str_of(tiny), .parallel = parallel, .context = 512};
    td_manager_status(h.manager, &target, &s);
    snprintf(path, sizeof path, "/proc/%d/statm", s.pid);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    assert_non_null(fgets(text, sizeof text, f));
    fclose(f);
    assert_int_equal(sscanf(text, "%*u %llu", &pages), 1);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

// Keys and values for 64 requests are set aside, but memory only where a request has written some.
static void memory_for_requests_that_never_come_is_not_taken(void **state) {
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); // their own memory hides it
#endif
    uint64_t cache =
        2ull * 32 * 2 * 2 * 512 * 64; // layers, width of keys, keys and values, their bytes, tokens, requests
    chat_with_tools("", 1, TOOLS);
    chat_with_tools("", 64, TOOLS);
    assert_true(resident_bytes(64) < resident_bytes(1) + cache / 2);
}

static void a_named_tool_must_be_among_the_tools(void **state) {
    (void)state;
    struct ask a;
    ask_done(&a, tiny, TD_KIND_CHAT,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"timer\"}],\"max_tokens\":4,\"temperature\":0," TOOLS
             ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"set_timer\"}}}");
    assert_int_equal(a.error, TD_OK);
    ask_close(&a);
    ask_done(&a, tiny, TD_KIND_CHAT,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"timer\"}]," TOOLS
             ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"unknown\"}}}");
    assert_int_equal(a.error, TD_ERR_BAD_REQUEST);
    ask_close(&a);
}

static void what_is_out_of_range_is_a_typed_error(void **state) {
    (void)state;
    static const char *const bodies[] = {
        "{\"prompt\":\"x\",\"temperature\":-1}",
        "{\"prompt\":\"x\",\"temperature\":1e300}",
        "{\"prompt\":\"x\",\"temperature\":\"hot\"}",
        "{\"prompt\":\"x\",\"top_p\":2}",
        "{\"prompt\":\"x\",\"n\":0}",
        "{\"prompt\":\"x\",\"n\":17}",
        "{\"prompt\":\"x\",\"n\":-1}",
        "{\"prompt\":\"x\",\"max_tokens\":0}",
        "{\"prompt\":\"x\",\"max_tokens\":-5}",
        "{\"prompt\":\"x\",\"max_tokens\":1.5}",
        "{\"prompt\":\"x\",\"max_tokens\":99999999999}",
        "{\"prompt\":\"x\",\"logprobs\":21}",
        "{\"prompt\":\"x\",\"seed\":\"a\"}",
        "{\"prompt\":\"x\",\"stop\":[1]}",
        "{\"prompt\":\"x\",\"stop\":[\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\","
        "\"\"]}",
        "{\"prompt\":\"x\",\"logit_bias\":{\"640\":1}}",
        "{\"prompt\":\"x\",\"logit_bias\":{\"-1\":1}}",
        "{\"prompt\":\"x\",\"logit_bias\":{\"1\":1e9}}",
        "[]",
    };
    struct ask a;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        ask_done(&a, tiny, TD_KIND_COMPLETION, bodies[i]);
        assert_int_equal(a.error, TD_ERR_BAD_REQUEST);
        assert_int_equal(a.ends, 1);
        ask_close(&a);
    }
    ask_done(&a, tiny, TD_KIND_COMPLETION, "{\"prompt\":");
    assert_int_equal(a.error, TD_ERR_BAD_JSON);
    ask_close(&a);
    ask_done(&a, tiny, TD_KIND_CHAT, "{\"messages\":[]}");
    assert_int_equal(a.error, TD_ERR_BAD_REQUEST);
    ask_close(&a);
    ask_done(&a, tiny, TD_KIND_CHAT, "{\"messages\":[{\"role\":\"user\"}]}");
    assert_true(a.error == TD_ERR_BAD_REQUEST || a.error == TD_OK);
    ask_close(&a);
    ask_done(&a, tiny, TD_KIND_EMBEDDING, "{\"input\":[\"a\"],\"dimensions\":3}");
    assert_int_equal(a.error, TD_ERR_UNSUPPORTED);
    ask_close(&a);
}

#define ENDLESS "\"temperature\":0,\"logit_bias\":{\"2\":-100,\"4\":-100}"

static void open_slow(struct ask *a, const char *body) {
    ask_open(a, &h, slow, TD_KIND_COMPLETION, body);
    a->target.context = 4096;
    a->target.parallel = 1;
}

// One sequence only: the second request gets a token because the first one's decoding stopped.
static void a_cancel_stops_the_decoding(void **state) {
    (void)state;
    struct ask a, b;
    open_slow(&a, "{\"prompt\":\"go on for ever\"," ENDLESS "}");
    assert_ok(ask_start(&a));
    assert_true(house_until(&h, a.deltas > 2, WAIT_MS));
    ask_close(&a);
    assert_int_equal(house_status(&h, &a.target).active, 0);
    uint64_t start = td_now_ns();
    open_slow(&b, "{\"prompt\":\"x\",\"max_tokens\":1}");
    assert_true(ask_all(&b, WAIT_MS));
    print_message("cancel while decoding: next answer after %.1f ms\n", (double)(td_now_ns() - start) / 1e6);
    assert_int_equal(b.error, TD_OK);
    assert_true(td_now_ns() - start < 1000 * TD_MS_NS); // 4,000 more tokens would take ten times as long
    ask_close(&b);
}

static void a_cancel_stops_the_reading_of_a_prompt(void **state) {
    (void)state;
    static char body[16000];
    struct ask a, b;
    int n = snprintf(body, sizeof body, "{\"prompt\":\"");
    for (int i = 0; i < 3900; i++)
        body[n++] = "~#^"[i % 3];
    snprintf(body + n, sizeof body - (size_t)n, "\"," ENDLESS "}");
    open_slow(&b, "{\"prompt\":\"x\",\"max_tokens\":1}"); // loads the model
    assert_true(ask_all(&b, WAIT_MS));
    ask_close(&b);
    open_slow(&a, body);
    assert_ok(ask_start(&a));
    assert_true(house_until(&h, a.starts == 1, WAIT_MS)); // taken up: the prompt is being read
    assert_int_equal(a.deltas, 0);
    ask_close(&a);
    uint64_t start = td_now_ns();
    open_slow(&b, "{\"prompt\":\"x\",\"max_tokens\":1}");
    assert_true(ask_all(&b, WAIT_MS));
    print_message("cancel while reading the prompt: next answer after %.1f ms\n", (double)(td_now_ns() - start) / 1e6);
    assert_int_equal(b.error, TD_OK);
    assert_true(td_now_ns() - start < 1500 * TD_MS_NS); // a chunk (at most 200 ms of one core), not the prompt
    ask_close(&b);
}

static void destroy_it(struct ask *a) {
    a->house->backend->ops->destroy(a->house->backend, a->attempt);
    a->attempt = NULL;
    a->on_delta = NULL;
}

static void an_attempt_may_be_destroyed_from_its_own_event(void **state) {
    (void)state;
    struct ask a, b;
    ask_open(&a, &h, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":50,\"temperature\":0}");
    a.on_delta = destroy_it;
    assert_ok(ask_start(&a));
    assert_true(house_until(&h, a.deltas == 1, WAIT_MS));
    ask_done(&b, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"y\",\"max_tokens\":5,\"temperature\":0}");
    assert_int_equal(b.error, TD_OK);
    assert_int_equal(a.deltas, 1);
    assert_int_equal(a.ends, 0);
    ask_close(&a);
    ask_close(&b);
}

static void pause_it(struct ask *a) {
    a->house->backend->ops->pause(a->house->backend, a->attempt);
    a->on_delta = NULL;
}

static void between_pause_and_resume_nothing_is_handed_up(void **state) {
    (void)state;
    const char *body = "{\"prompt\":\"x\"," ENDLESS "}";
    struct ask whole, a;
    ask_done(&whole, tiny, TD_KIND_COMPLETION, body);
    ask_open(&a, &h, tiny, TD_KIND_COMPLETION, body);
    a.on_delta = pause_it;
    assert_ok(ask_start(&a));
    assert_true(house_until(&h, a.deltas == 1, WAIT_MS));
    uint64_t until = td_now_ns() + 300 * TD_MS_NS;
    while (td_now_ns() < until)
        house_turn(&h);
    assert_int_equal(a.deltas, 1);
    assert_false(a.over);
    h.backend->ops->resume(h.backend, a.attempt);
    assert_int_equal(a.deltas, 1); // never from inside resume
    assert_true(ask_wait(&a, WAIT_MS));
    assert_int_equal(a.error, TD_OK);
    assert_int_equal(a.text.n, whole.text.n);
    assert_memory_equal(a.text.p, whole.text.p, whole.text.n);
    ask_close(&a);
    ask_close(&whole);
}

static void a_deadline_ends_it(void **state) {
    (void)state;
    struct ask a;
    open_slow(&a, "{\"prompt\":\"x\"," ENDLESS "}");
    a.spec.deadline_ns = td_now_ns() + 600 * TD_MS_NS;
    assert_true(ask_all(&a, WAIT_MS));
    assert_int_equal(a.error, TD_ERR_DEADLINE);
    assert_int_equal(a.ends, 1);
    ask_close(&a);
}

static void a_full_queue_refuses_at_once(void **state) {
    (void)state;
    struct ask a, b, c;
    open_slow(&a, "{\"prompt\":\"x\"," ENDLESS "}");
    open_slow(&b, "{\"prompt\":\"y\",\"max_tokens\":1}");
    open_slow(&c, "{\"prompt\":\"z\",\"max_tokens\":1}");
    a.target.queue_max = b.target.queue_max = c.target.queue_max = 1;
    assert_ok(ask_start(&a));
    assert_ok(ask_start(&b));
    assert_int_equal(ask_start(&c), TD_ERR_OVERLOAD);
    ask_close(&a);
    assert_true(ask_wait(&b, WAIT_MS));
    assert_int_equal(b.error, TD_OK);
    ask_close(&b);
    ask_close(&c);
}

static void interactive_requests_go_before_batch(void **state) {
    (void)state;
    struct ask first, batch, interactive;
    open_slow(&first, "{\"prompt\":\"x\",\"max_tokens\":60,\"temperature\":0}");
    open_slow(&batch, "{\"prompt\":\"y\",\"max_tokens\":1}");
    open_slow(&interactive, "{\"prompt\":\"z\",\"max_tokens\":1}");
    batch.spec.priority = 1;
    assert_ok(ask_start(&first));
    assert_ok(ask_start(&batch));
    assert_ok(ask_start(&interactive));
    assert_true(ask_wait(&first, WAIT_MS) && ask_wait(&batch, WAIT_MS) && ask_wait(&interactive, WAIT_MS));
    assert_true(interactive.over_ns < batch.over_ns);
    ask_close(&first);
    ask_close(&batch);
    ask_close(&interactive);
}

// ---- what a model's file says of its answers

static void make_model(char path[64], const char *options) {
    char command[256];
    snprintf(path, 64, "/tmp/tandem-wish-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(command, sizeof command, "%s %s %s", getenv("MAKE_GGUF"), path, options);
    assert_int_equal(system(command), 0);
}

static void a_model_may_wish_to_be_greedy(void **state) {
    (void)state;
    struct ask a, b, c;
    char path[64];
    make_model(path, "--temp 0");
    ask_done(&a, path, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":30}");
    ask_done(&b, path, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":30,\"temperature\":0}");
    ask_done(&c, path, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":30,\"temperature\":2,\"seed\":3}");
    assert_int_equal(a.error, TD_OK);
    assert_true(a.text.n > 0 && a.text.n == b.text.n && memcmp(a.text.p, b.text.p, a.text.n) == 0);
    assert_true(c.text.n != a.text.n || memcmp(a.text.p, c.text.p, a.text.n) != 0); // what is asked for goes first
    ask_close(&a);
    ask_close(&b);
    ask_close(&c);
    unlink(path);
}

#define ENDLESS_CHAT "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]," ENDLESS

static void an_answer_beyond_the_models_own_limit_is_declined_unseen(void **state) {
    (void)state;
    struct ask a, b, c;
    char path[64];
    make_model(path, "--beyond-prompt 8");
    ask_done(&a, path, TD_KIND_CHAT, "{" ENDLESS_CHAT "}");
    assert_int_equal(a.error, TD_ERR_NOT_FOR_ME);
    assert_int_equal(a.text.n, 0);
    assert_int_equal(a.finishes, 0);
    // The request's own limit comes first, and then there is an answer.
    ask_done(&b, path, TD_KIND_CHAT, "{" ENDLESS_CHAT ",\"max_tokens\":5}");
    assert_int_equal(b.error, TD_OK);
    assert_int_equal(b.finish, TD_FINISH_LENGTH);
    assert_int_equal(b.usage.completion_tokens, 5);
    assert_true(b.text.n > 0);
    // Plain completions have no such limit.
    ask_done(&c, path, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":100," ENDLESS "}");
    assert_int_equal(c.usage.completion_tokens, 100);
    ask_close(&a);
    ask_close(&b);
    ask_close(&c);
    unlink(path);
}

static bool ends_in_a_circle(const struct td_buf *text) {
    size_t n = 24;
    return text->n > 2 * n && memmem(text->p, text->n - n / 2, text->p + text->n - n, n) != NULL;
}

static void a_model_that_copies_does_not_go_round(void **state) {
    (void)state;
    struct ask a, b;
    char path[64];
    const char *body = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"temperature\":0,\"max_tokens\":60,"
                       "\"logit_bias\":{\"400\":100,\"2\":-100,\"4\":-100}}"; // it says one token, again and again
    ask_done(&a, tiny, TD_KIND_CHAT, body);
    assert_true(ends_in_a_circle(&a.text));
    make_model(path, "--beyond-prompt 400");
    ask_done(&b, path, TD_KIND_CHAT, body);
    assert_int_equal(b.error, TD_OK);
    assert_int_equal(b.usage.completion_tokens, 60);
    assert_false(ends_in_a_circle(&b.text));
    ask_close(&a);
    ask_close(&b);
    unlink(path);
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    host = argv[1];
    tiny = argv[2];
    slow = argv[3];
    td_log_set_level(TD_LOG_ERROR);
    open_house(NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_streams_and_ends_once),
        cmocka_unit_test(a_second_turn_reuses_the_first_ones_prefix),
        cmocka_unit_test(a_stop_string_is_never_shown),
        cmocka_unit_test(too_long_a_prompt_is_refused_before_work),
        cmocka_unit_test(an_answer_that_fills_the_context_ends_with_length),
        cmocka_unit_test(several_choices_come_from_one_prompt),
        cmocka_unit_test(the_same_seed_gives_the_same_answer),
        cmocka_unit_test(a_schema_is_enforced),
        cmocka_unit_test(tools_that_were_announced_are_prepared_with_the_load),
        cmocka_unit_test(tools_files_that_are_of_no_use_do_no_harm),
        cmocka_unit_test(memory_for_requests_that_never_come_is_not_taken),
        cmocka_unit_test(a_named_tool_must_be_among_the_tools),
        cmocka_unit_test(what_is_out_of_range_is_a_typed_error),
        cmocka_unit_test(a_cancel_stops_the_decoding),
        cmocka_unit_test(a_cancel_stops_the_reading_of_a_prompt),
        cmocka_unit_test(an_attempt_may_be_destroyed_from_its_own_event),
        cmocka_unit_test(between_pause_and_resume_nothing_is_handed_up),
        cmocka_unit_test(a_deadline_ends_it),
        cmocka_unit_test(a_full_queue_refuses_at_once),
        cmocka_unit_test(interactive_requests_go_before_batch),
        cmocka_unit_test(a_model_may_wish_to_be_greedy),
        cmocka_unit_test(an_answer_beyond_the_models_own_limit_is_declined_unseen),
        cmocka_unit_test(a_model_that_copies_does_not_go_round),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    close_house(NULL);
    return failed;
}
