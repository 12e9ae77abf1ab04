// SPDX-License-Identifier: Apache-2.0
// What comes back: whole answers, and answers broken in every way the scripted upstream knows.
#include "drive.h"

static struct drive d;
static bool tls; // the same cases, carried by libcurl

static int setup(void **state) {
    (void)state;
    drive_open(&d, NULL, NULL);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    drive_close(&d);
    return 0;
}

static int fresh(void **state) {
    (void)state;
    drive_fresh(&d, tls);
    d.target.timeouts = (struct td_timeouts){20000, 20000, 20000, 50000}; // nothing here is about time
    return 0;
}

static struct td_str expected(void) {
    static char text[4096];
    static size_t n;
    struct take t;
    if (!n) {
        drive_once(&d, &t, "hello [tokens=40]");
        assert_int_equal(t.ends, 1);
        assert_int_equal(t.deltas, 40);
        n = t.text.n;
        memcpy(text, t.text.p, n);
        take_finish(&t);
    }
    return td_str_n(text, n);
}

// What a scripted request gives: TD_OK for a whole answer.
static void gives(const char *behaviour, enum td_err want, unsigned deltas) {
    struct take t;
    struct td_str whole = expected();
    drive_script(&d, behaviour);
    drive_once(&d, &t, "hello [tokens=40]");
    if (t.code != want || t.deltas != deltas)
        fail_msg("%s gave %s (%s) after %u deltas", behaviour, t.errors ? td_err_code(t.code) : "an answer", t.message,
                 t.deltas);
    assert_int_equal(t.ends, want == TD_OK);
    assert_true(t.text.n <= whole.n);
    assert_memory_equal(t.text.p ? t.text.p : "", whole.p, t.text.n);
    assert_true(want != TD_OK || t.text.n == whole.n);
    take_finish(&t);
}

static void a_stream_comes_whole(void **state) {
    (void)state;
    struct take t, again;
    drive_once(&d, &t, "first [tokens=40]");
    assert_int_equal(t.ends, 1);
    assert_int_equal(t.deltas, 40);
    assert_int_equal(t.finishes, 1);
    assert_int_equal(t.usage.completion_tokens, 40);
    assert_true(t.stats.first_ns >= t.stats.connected_ns && t.stats.end_ns >= t.stats.first_ns);
    assert_true(t.stats.bytes_in > 4000 && t.stats.bytes_out > 100);
    drive_once(&d, &again, "first [tokens=40]");
    assert_int_equal(again.text.n, t.text.n);
    assert_memory_equal(again.text.p, t.text.p, t.text.n);
    assert_true(again.stats.reused_connection);
    take_finish(&t);
    take_finish(&again);
}

static void cuts_into_packets_do_not_matter(void **state) {
    (void)state;
    gives("{\"piece_bytes\":1}", TD_OK, 40);
    gives("{\"piece_bytes\":7,\"crlf\":true}", TD_OK, 40);
    gives("{\"piece_bytes\":100,\"gzip\":true}", TD_OK, 40);
    gives("{\"no_done\":true}", TD_OK, 40);
    gives("{\"no_usage\":true}", TD_OK, 40);
    gives("{\"duplicate_finish\":true}", TD_OK, 40);
}

static void a_broken_stream_is_never_a_success(void **state) {
    (void)state;
    gives("{\"cut_after_tokens\":25}", TD_ERR_CUT, 25);
    gives("{\"cut_after_tokens\":40}", TD_ERR_CUT, 40);
    gives("{\"cut_after_tokens\":10,\"close_after\":true}", TD_ERR_CUT, 10);
    gives("{\"no_finish\":true,\"no_done\":true}", TD_ERR_CUT, 40);
    gives("{\"error_after_tokens\":5}", TD_ERR_UPSTREAM_SERVER, 5);
    gives("{\"error_after_tokens\":-1}", TD_ERR_UPSTREAM_SERVER, 0);
    gives("{\"reset\":true}", TD_ERR_CUT, 0);
    gives("{\"close_early\":true}", TD_ERR_CUT, 0);
    gives("{\"garbage\":true}", TD_ERR_UPSTREAM_GARBAGE, 0);
    gives("{\"content_type\":\"text/html; charset=utf-8\"}", TD_ERR_UPSTREAM_GARBAGE, 0);
    gives("{\"gzip_bomb_mb\":64}", TD_ERR_UPSTREAM_GARBAGE, 0);
    gives("{\"header_flood_bytes\":100000}", TD_ERR_UPSTREAM_GARBAGE, 0);
    gives("{\"status\":302,\"location\":\"http://127.0.0.1:1/\"}", TD_ERR_UPSTREAM_GARBAGE, 0);
}

static void a_reset_in_mid_stream_keeps_what_came(void **state) {
    (void)state;
    struct take t;
    struct td_str whole = expected();
    drive_script(&d, "{\"cut_after_tokens\":25,\"cut\":\"rst\",\"token_ms\":1}");
    drive_once(&d, &t, "hello [tokens=40]");
    assert_int_equal(t.code, TD_ERR_CUT);
    assert_true(t.deltas > 0 && t.deltas <= 25); // a reset may overtake what was sent just before
    assert_memory_equal(t.text.p, whole.p, t.text.n);
    take_finish(&t);
}

static void a_cut_at_any_byte_is_seen(void **state) {
    (void)state;
    struct td_str whole = expected();
    for (unsigned at = 1; at < 2400; at += 37) {
        char behaviour[64];
        struct take t;
        snprintf(behaviour, sizeof behaviour, "{\"cut_at_byte\":%u}", at);
        drive_script(&d, behaviour);
        drive_once(&d, &t, "hello [tokens=40]");
        assert_int_equal(t.code, TD_ERR_CUT);
        assert_memory_equal(t.text.p ? t.text.p : "", whole.p, t.text.n);
        take_finish(&t);
    }
}

static void caps_hold(void **state) {
    (void)state;
    struct take t;
    drive_script(&d, "{\"giant_line_bytes\":2000000},{\"garbage_body\":true}");
    for (int i = 0; i < 2; i++) {
        drive_once(&d, &t, "hello");
        assert_int_equal(t.errors, 1);
        assert_true(t.code == TD_ERR_UPSTREAM_GARBAGE || t.code == TD_ERR_CUT);
        assert_int_equal(t.deltas, 0);
        take_finish(&t);
    }
    drive_script(&d, "{\"giant_body_bytes\":80000000}");
    t = (struct take){0};
    assert_ok(take_start(&t, &d, "hello", false));
    drive_run(&d);
    assert_int_equal(t.code, TD_ERR_UPSTREAM_GARBAGE);
    take_finish(&t);
}

static void a_malformed_event_is_left_out_and_marked(void **state) {
    (void)state;
    struct take t;
    drive_script(&d, "{\"malformed_at\":7}");
    drive_once(&d, &t, "hello [tokens=40]");
    assert_int_equal(t.ends, 1);
    assert_int_equal(t.deltas, 39);
    assert_true(t.damaged);
    take_finish(&t);
}

static void refusals_keep_their_meaning(void **state) {
    (void)state;
    static const struct {
        const char *behaviour;
        enum td_err code;
        int status;
        uint32_t retry_after_ms;
    } rows[] = {
        {"{\"status\":429,\"retry_after\":\"2\"}", TD_ERR_UPSTREAM_RATE, 429, 2000},
        {"{\"status\":429,\"retry_after_ms\":\"150\"}", TD_ERR_UPSTREAM_RATE, 429, 150},
        {"{\"status\":429}", TD_ERR_UPSTREAM_RATE, 429, 0},
        {"{\"status\":500}", TD_ERR_UPSTREAM_SERVER, 500, 0},
        {"{\"status\":503,\"retry_after\":\"1\"}", TD_ERR_UPSTREAM_SERVER, 503, 1000},
        {"{\"status\":503,\"gzip\":true}", TD_ERR_UPSTREAM_SERVER, 503, 0},
        {"{\"context_length\":true}", TD_ERR_CONTEXT_LENGTH, 400, 0},
        {"{\"content_policy\":true}", TD_ERR_CONTENT_POLICY, 400, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct take t;
        drive_script(&d, rows[i].behaviour);
        drive_once(&d, &t, "hello");
        assert_int_equal(t.code, rows[i].code);
        assert_int_equal(t.http_status, rows[i].status);
        assert_int_equal(t.retry_after_ms, rows[i].retry_after_ms);
        assert_int_equal(t.deltas, 0);
        take_finish(&t);
    }
}

static unsigned requests_seen(void) {
    struct td_arena arena;
    td_arena_init(&arena, 64u << 20);
    unsigned n = (unsigned)yyjson_arr_size(upstream_log(&d.up, &arena, 0, 0));
    td_arena_finish(&arena);
    return n;
}

// libcurl would send again by itself when a kept connection turns out dead; the ledger must see every try.
static void nothing_is_sent_twice(void **state) {
    (void)state;
    struct take t;
    drive_once(&d, &t, "hello");
    assert_int_equal(t.ends, 1);
    take_finish(&t);
    for (int i = 0; i < 2; i++) {
        unsigned before = requests_seen();
        drive_script(&d, i ? "{\"close_early\":true}" : "{\"reset\":true}");
        drive_once(&d, &t, "hello");
        assert_int_equal(t.code, TD_ERR_CUT);
        assert_int_equal(requests_seen(), before + 1);
        take_finish(&t);
        drive_once(&d, &t, "hello");
        assert_int_equal(t.ends, 1);
        take_finish(&t);
    }
}

static void redirects_are_not_followed(void **state) {
    (void)state;
    char behaviour[128];
    unsigned before = requests_seen();
    snprintf(behaviour, sizeof behaviour, "{\"status\":302,\"location\":\"http://127.0.0.1:%u/v1/models\"}", d.up.port);
    gives(behaviour, TD_ERR_UPSTREAM_GARBAGE, 0);
    assert_int_equal(requests_seen(), before + 1);
}

static void whole_answers_too(void **state) {
    (void)state;
    struct take t = {0};
    assert_ok(take_start(&t, &d, "hello [tokens=40]", false));
    drive_run(&d);
    assert_int_equal(t.ends, 1);
    assert_int_equal(t.usage.completion_tokens, 40);
    assert_true(td_str_eq(td_buf_str(&t.text), expected()));
    take_finish(&t);
    drive_script(&d, "{\"gzip\":true}");
    t = (struct take){0};
    assert_ok(take_start(&t, &d, "hello [tokens=40]", false));
    drive_run(&d);
    assert_int_equal(t.ends, 1);
    assert_true(td_str_eq(td_buf_str(&t.text), expected()));
    take_finish(&t);
}

static void other_kinds(void **state) {
    (void)state;
    struct take t = {0};
    assert_ok(take_start_body(&t, &d, TD_KIND_EMBEDDING, "{\"model\":\"e\",\"input\":[\"a\",\"b\"]}", false));
    drive_run(&d);
    assert_int_equal(t.ends, 1);
    assert_int_equal(t.vectors, 2);
    take_finish(&t);
    t = (struct take){0};
    assert_ok(take_start_body(
        &t, &d, TD_KIND_COMPLETION,
        "{\"model\":\"e\",\"prompt\":\"Once upon a time there\",\"max_tokens\":5,\"stream\":true}", true));
    drive_run(&d);
    assert_int_equal(t.ends, 1);
    assert_int_equal(t.deltas, 5);
    take_finish(&t);
    t = (struct take){0};
    assert_ok(take_start_body(&t, &d, TD_KIND_CHAT,
                              "{\"model\":\"e\",\"messages\":[{\"role\":\"user\",\"content\":\"TOOL:set_timer "
                              "{\\\"minutes\\\": 10}\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":"
                              "\"set_timer\"}}],\"stream\":true}",
                              true));
    drive_run(&d);
    assert_int_equal(t.ends, 1);
    assert_true(t.tool_calls >= 2);
    assert_str(td_buf_str(&t.text), "{\"minutes\": 10}");
    take_finish(&t);
}

// A cut answer, asked again with what came as a prefix, joins to the uncut one byte for byte.
static void the_upstream_continues_a_prefix(void **state) {
    (void)state;
    struct take t, rest = {0};
    struct td_buf body;
    drive_script(&d, "{\"cut_after_tokens\":13}");
    drive_once(&d, &t, "hello [tokens=40]");
    assert_int_equal(t.code, TD_ERR_CUT);
    td_buf_init(&body, 65536);
    assert_ok(td_buf_addz(&body, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hello [tokens=40]\"},"
                                 "{\"role\":\"assistant\",\"content\":"));
    assert_ok(td_buf_add_json(&body, td_buf_str(&t.text)));
    assert_ok(td_buf_addz(&body, "}],\"stream\":true}"));
    assert_ok(take_start_body(&rest, &d, TD_KIND_CHAT, td_buf_z(&body), true));
    drive_run(&d);
    assert_int_equal(rest.ends, 1);
    assert_int_equal(rest.deltas, 27);
    assert_ok(td_buf_add(&t.text, rest.text.p, rest.text.n));
    assert_true(td_str_eq(td_buf_str(&t.text), expected()));
    td_buf_finish(&body);
    take_finish(&rest);
    take_finish(&t);
}

static struct take second;

static void start_second(struct take *t) {
    if (t->deltas == 3) {
        second = (struct take){0};
        assert_ok(take_start(&second, &d, "second [tokens=5]", true));
    }
}

static void an_attempt_can_be_started_from_an_event(void **state) {
    (void)state;
    struct take t = {.on_delta = start_second};
    assert_ok(take_start(&t, &d, "hello [tokens=40]", true));
    drive_run(&d);
    assert_int_equal(t.ends, 1);
    assert_int_equal(second.ends, 1);
    assert_int_equal(second.deltas, 5);
    take_finish(&t);
    take_finish(&second);
}

static void the_request_is_as_it_should_be(void **state) {
    (void)state;
    struct take t;
    struct td_arena arena;
    struct td_header custom[] = {{TD_STR("X-Team"), TD_STR("blue")},
                                 {TD_STR("X-Token"), TD_STR("env:TD_TEST_TOKEN")},
                                 {TD_STR("user-agent"), TD_STR("kiosk/1")}};
    setenv("TD_TEST_KEY", "sk-test-1", 1);
    setenv("TD_TEST_TOKEN", "tok-2", 1);
    d.target.api_key_ref = TD_STR("env:TD_TEST_KEY");
    d.target.headers = custom;
    d.target.header_count = 3;
    drive_once(&d, &t, "hello");
    assert_int_equal(t.ends, 1);
    td_arena_init(&arena, 1 << 20);
    td_json *seen = yyjson_arr_get_last(upstream_log(&d.up, &arena, 1, 1));
    td_json *headers = td_json_get(seen, "headers");
    assert_str(td_json_get_str(seen, "path"), "/v1/chat/completions");
    assert_str(td_json_get_str(headers, "authorization"), "Bearer sk-test-1");
    assert_str(td_json_get_str(headers, "idempotency-key"), "key-1");
    assert_str(td_json_get_str(headers, "content-type"), "application/json");
    assert_str(td_json_get_str(headers, "accept"), "text/event-stream");
    assert_str(td_json_get_str(headers, "x-team"), "blue");
    assert_str(td_json_get_str(headers, "x-token"), "tok-2");
    size_t agents = 0, i, max;
    td_json *key, *value;
    yyjson_obj_foreach(headers, i, max, key, value) {
        agents += td_str_is(td_json_str(key), "user-agent") && td_str_is(td_json_str(value), "kiosk/1");
        agents += td_str_is(td_json_str(key), "user-agent") * 10;
    }
    assert_int_equal(agents, 11); // one alone, and not ours
    assert_null(td_json_get(headers, "expect"));
    take_finish(&t);
    // Azure: another path, another header.
    char base[64];
    snprintf(base, sizeof base, tls ? "https://localhost:%u" : "http://127.0.0.1:%u", tls ? d.up.tls : d.up.port);
    drive_url(&d, base);
    d.target.path_style = TD_STR("azure");
    d.target.api_version = TD_STR("2024-06-01");
    drive_once(&d, &t, "hello");
    assert_int_equal(t.ends, 1);
    seen = yyjson_arr_get_last(upstream_log(&d.up, &arena, 2, 2));
    headers = td_json_get(seen, "headers");
    assert_str(td_json_get_str(seen, "path"), "/openai/deployments/big-model/chat/completions?api-version=2024-06-01");
    assert_str(td_json_get_str(headers, "api-key"), "sk-test-1");
    assert_null(td_json_get(headers, "authorization"));
    take_finish(&t);
    td_arena_finish(&arena);
    d.target.path_style = d.target.api_version = d.target.api_key_ref = TD_STR_NONE;
    d.target.header_count = 0;
}

static void without_a_fitting_grant_nothing_leaves(void **state) {
    (void)state;
    struct take t = {0};
    struct td_error e = {0};
    struct td_str body = TD_STR("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}");
    struct td_attempt_spec spec = {.target = &d.target, .body = body, .on_event = NULL, .user = &t};
    assert_int_equal(d.backend->ops->start(d.backend, &spec, &t.attempt, &e), TD_ERR_GRANT);
    spec.grant = drive_grant(&d, TD_GRANT_INFERENCE, TD_STR_NONE, TD_STR("{}"));
    assert_int_equal(d.backend->ops->start(d.backend, &spec, &t.attempt, &e), TD_ERR_GRANT);
    spec.grant = drive_grant(&d, TD_GRANT_PROBE, TD_STR_NONE, TD_STR_NONE);
    assert_int_equal(d.backend->ops->start(d.backend, &spec, &t.attempt, &e), TD_ERR_GRANT);
    td_remote_set_policy_version(d.remote, 2);
    spec.grant = drive_grant(&d, TD_GRANT_INFERENCE, TD_STR_NONE, body);
    assert_int_equal(d.backend->ops->start(d.backend, &spec, &t.attempt, &e), TD_ERR_GRANT);
    td_remote_set_policy_version(d.remote, 0);
    assert_null(t.attempt);
    drive_run_ms(&d, 50);
    assert_int_equal(requests_seen(), 0);
}

int main(int argc, char **argv) {
    tls = argc > 1 && strcmp(argv[1], "tls") == 0;
#define T(name) cmocka_unit_test_setup(name, fresh)
    const struct CMUnitTest tests[] = {
        T(a_stream_comes_whole),
        T(cuts_into_packets_do_not_matter),
        T(a_broken_stream_is_never_a_success),
        T(a_reset_in_mid_stream_keeps_what_came),
        T(a_cut_at_any_byte_is_seen),
        T(caps_hold),
        T(a_malformed_event_is_left_out_and_marked),
        T(refusals_keep_their_meaning),
        T(nothing_is_sent_twice),
        T(redirects_are_not_followed),
        T(whole_answers_too),
        T(other_kinds),
        T(the_upstream_continues_a_prefix),
        T(an_attempt_can_be_started_from_an_event),
        T(the_request_is_as_it_should_be),
        T(without_a_fitting_grant_nothing_leaves),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
