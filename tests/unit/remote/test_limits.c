// SPDX-License-Identifier: Apache-2.0
// Limits in time, cancelling, and back-pressure.
#include "drive.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

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
    d.target.timeouts = (struct td_timeouts){2000, 2000, 2000, 8000};
    return 0;
}

static double seconds(const struct take *t) {
    return (double)(t->end_ns - t->start_ns) / 1e9;
}

// The upstream must have seen the connection close soon after we let go: `count` requests ended.
static double closed_after_ms(unsigned request) {
    struct td_arena arena;
    td_arena_init(&arena, 1 << 20);
    td_json *seen = yyjson_arr_get(upstream_log(&d.up, &arena, request + 1, request + 1), request);
    double at = td_json_get_num(seen, "closed_ms", -1), begin = td_json_get_num(seen, "at_ms", -1);
    td_arena_finish(&arena);
    assert_true(at >= 0);
    return at - begin;
}

static void each_silence_has_its_error(void **state) {
    (void)state;
    static const struct {
        const char *behaviour;
        struct td_timeouts t;
        enum td_err code;
        double from_s, to_s;
        unsigned deltas;
    } rows[] = {
        {"{\"hang\":true}", {2000, 150, 2000, 8000}, TD_ERR_FIRST_TOKEN, 0.14, 4, 0},
        {"{\"first_token_ms\":9000}", {2000, 150, 2000, 8000}, TD_ERR_FIRST_TOKEN, 0.14, 4, 0},
        {"{\"first_token_ms\":9000,\"comment_ms\":20}", {2000, 150, 50, 8000}, TD_ERR_FIRST_TOKEN, 0.14, 4, 0},
        {"{\"header_byte_ms\":20}", {2000, 150, 2000, 8000}, TD_ERR_FIRST_TOKEN, 0.14, 4, 0},
        {"{\"silence_after_tokens\":20}", {2000, 2000, 150, 8000}, TD_ERR_IDLE, 0.14, 4, 20},
        {"{\"silence_after_tokens\":20,\"comment_ms\":20}", {2000, 2000, 150, 8000}, TD_ERR_IDLE, 0.14, 4, 20},
        {"{\"silence_after_tokens\":20}", {2000, 2000, 5000, 200}, TD_ERR_DEADLINE, 0.19, 4, 20},
        {"{\"hang\":true}", {2000, 5000, 5000, 200}, TD_ERR_DEADLINE, 0.19, 4, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct take t;
        upstream_post(&d.up, "/_reset", "{}");
        drive_script(&d, rows[i].behaviour);
        d.target.timeouts = rows[i].t;
        drive_once(&d, &t, "hello [tokens=40]");
        if (t.code != rows[i].code || t.deltas != rows[i].deltas || seconds(&t) < rows[i].from_s ||
            seconds(&t) > rows[i].to_s)
            fail_msg("row %zu: %s after %u deltas and %.3f s", i, td_err_code(t.code), t.deltas, seconds(&t));
        assert_true(closed_after_ms(0) < 4000);
        take_finish(&t);
    }
}

// An answer that has its finish is whole, though neither [DONE] nor the end of the body ever comes: it does not wait
// for the limit of silence, counts what is said of usage a moment later, and the connection is not used again.
static void a_finish_is_enough(void **state) {
    (void)state;
    static const struct {
        const char *behaviour;
        struct td_timeouts t;
        unsigned used;
    } rows[] = {
        {"{\"open_end\":true}", {2000, 2000, 60000, 60000}, 40},
        {"{\"open_end\":true,\"no_usage\":true}", {2000, 2000, 60000, 60000}, 0},
        {"{\"open_end\":true,\"end_ms\":50}", {2000, 2000, 60000, 60000}, 40},
        {"{\"open_end\":true,\"comment_ms\":20}", {2000, 2000, 60000, 60000}, 40},
        {"{\"open_end\":true}", {2000, 2000, 50, 60000}, 40}, // less silence allowed than is waited for usage
        {"{\"open_end\":true}", {2000, 2000, 60000, 200}, 40},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct take t;
        struct td_arena arena;
        upstream_post(&d.up, "/_reset", "{}");
        drive_script(&d, rows[i].behaviour);
        d.target.timeouts = rows[i].t;
        drive_once(&d, &t, "hello [tokens=40]");
        if (t.ends != 1 || t.deltas != 40 || t.finishes != 1 || t.damaged || seconds(&t) > 20 ||
            t.usage.completion_tokens != rows[i].used)
            fail_msg("row %zu: %s after %u deltas and %.3f s, usage %u", i, td_err_code(t.code), t.deltas, seconds(&t),
                     t.usage.completion_tokens);
        assert_true(closed_after_ms(0) > 0); // we closed it
        take_finish(&t);
        d.target.timeouts = (struct td_timeouts){2000, 2000, 2000, 8000};
        drive_once(&d, &t, "hello");
        assert_int_equal(t.ends, 1);
        take_finish(&t);
        td_arena_init(&arena, 1 << 20);
        td_json *log = upstream_log(&d.up, &arena, 2, 1);
        assert_int_not_equal(td_json_get_int(yyjson_arr_get(log, 0), "connection", 0),
                             td_json_get_int(yyjson_arr_get(log, 1), "connection", 0));
        td_arena_finish(&arena);
    }
}

// The network goes while the connection is kept: the next request does not wait as for a slow answer, and the one after
// it does not take that connection again.
static void a_dead_connection_is_found_within_the_connect_limit(void **state) {
    (void)state;
    for (int whole = 0; whole < 2; whole++) {
        struct take t;
        upstream_post(&d.up, "/_reset", "{}");
        d.target.timeouts = (struct td_timeouts){300, 8000, 8000, 16000};
        drive_script(&d, "{\"deaf\":true}");
        drive_once(&d, &t, "hello");
        assert_int_equal(t.ends, 1);
        take_finish(&t);
        t = (struct take){0};
        assert_ok(take_start(&t, &d, "hello", !whole));
        drive_run(&d);
        assert_int_equal(t.code, TD_ERR_CONNECT);
        assert_true(seconds(&t) >= 0.29 && seconds(&t) < 4);
        take_finish(&t);
        drive_once(&d, &t, "hello");
        assert_int_equal(t.ends, 1);
        take_finish(&t);
    }
}

// A server that has the request and thinks is not taken for a dead one, however often it is looked.
static void a_server_that_thinks_is_not_dead(void **state) {
    (void)state;
    struct take t;
    d.target.timeouts = (struct td_timeouts){50, 8000, 8000, 16000};
    for (int i = 0; i < 2; i++) {
        drive_script(&d, "{\"first_token_ms\":500}");
        drive_once(&d, &t, "hello");
        assert_int_equal(t.ends, 1);
        take_finish(&t);
    }
}

static void a_deadline_of_the_attempt_binds(void **state) {
    (void)state;
    struct take t = {.d = &d};
    struct td_str body =
        TD_STR("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"stream\":true}");
    struct td_attempt_spec spec = {.target = &d.target, .stream = true, .body = body, .user = &t};
    spec.grant = drive_grant(&d, TD_GRANT_INFERENCE, TD_STR_NONE, body);
    spec.deadline_ns = td_now_ns() - 1;
    assert_int_equal(d.backend->ops->start(d.backend, &spec, &t.attempt, NULL), TD_ERR_DEADLINE);
}

// A whole answer may take its time before the first byte: the model thinks until it is complete.
static void a_whole_answer_has_only_its_total_time(void **state) {
    (void)state;
    struct take t = {0};
    d.target.timeouts = (struct td_timeouts){2000, 50, 50, 8000};
    drive_script(&d, "{\"first_token_ms\":300}");
    assert_ok(take_start(&t, &d, "hello [tokens=40]", false));
    drive_run(&d);
    assert_int_equal(t.ends, 1);
    assert_true(seconds(&t) >= 0.29);
    take_finish(&t);
    t = (struct take){0};
    d.target.timeouts.total_ms = 150;
    drive_script(&d, "{\"hang\":true}");
    assert_ok(take_start(&t, &d, "hello", false));
    drive_run(&d);
    assert_int_equal(t.code, TD_ERR_DEADLINE);
    take_finish(&t);
}

static void a_slow_stream_within_its_limits_is_fine(void **state) {
    (void)state;
    struct take t;
    d.target.timeouts = (struct td_timeouts){100, 400, 150, 8000};
    drive_script(&d, "{\"first_token_ms\":300,\"token_ms\":20}");
    drive_once(&d, &t, "hello [tokens=30]");
    assert_int_equal(t.ends, 1);
    assert_int_equal(t.deltas, 30);
    assert_true(seconds(&t) > 0.85);
    take_finish(&t);
}

// A port that is taken but not listened on: unlike one that was just closed, no other program can come to own it, and
// no kept connection leads there.
static void nobody_listening_is_known_at_once(void **state) {
    (void)state;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    int held = socket(AF_INET, SOCK_STREAM, 0);
    char url[64];
    struct take t;
    assert_int_equal(bind(held, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(getsockname(held, (struct sockaddr *)&at, &n), 0);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v1", ntohs(at.sin_port));
    drive_url(&d, url);
    drive_once(&d, &t, "hello");
    assert_int_equal(t.code, TD_ERR_CONNECT);
    assert_true(seconds(&t) < 1.5); // far below the connect limit
    assert_true(t.stats.connected_ns == 0 && t.stats.bytes_out == 0);
    take_finish(&t);
    close(held);
    fresh(NULL);
    drive_once(&d, &t, "hello");
    assert_int_equal(t.ends, 1);
    take_finish(&t);
}

// A listener whose backlog is full drops further connections silently, as a firewall would.
static void a_black_hole_costs_the_connect_limit(void **state) {
    (void)state;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    int hole = socket(AF_INET, SOCK_STREAM, 0), fill[8];
    char url[64];
    struct take t;
    assert_int_equal(bind(hole, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(hole, 0), 0);
    assert_int_equal(getsockname(hole, (struct sockaddr *)&at, &n), 0);
    for (int i = 0; i < 8; i++) {
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(fill[i], (struct sockaddr *)&at, sizeof at);
    }
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v1", ntohs(at.sin_port));
    drive_url(&d, url);
    d.target.timeouts = (struct td_timeouts){200, 5000, 5000, 8000};
    drive_once(&d, &t, "hello");
    assert_int_equal(t.code, TD_ERR_CONNECT);
    assert_true(seconds(&t) >= 0.19 && seconds(&t) < 4);
    take_finish(&t);
    for (int i = 0; i < 8; i++)
        close(fill[i]);
    close(hole);
}

// From inside an event after `after` tokens, or after `wait_ms` without any. How long until the upstream sees it.
static double cancel_ms(unsigned after, unsigned wait_ms) {
    struct take t = {.destroy_after = after};
    upstream_post(&d.up, "/_reset", "{}");
    drive_script(&d, after ? "{\"token_ms\":10}" : "{\"first_token_ms\":5000}");
    assert_ok(take_start(&t, &d, "hello [tokens=40]", true));
    if (after)
        drive_run(&d);
    else
        for (unsigned i = 0; i < 1000 && !t.stats.connected_ns; i++) {
            drive_run_ms(&d, 5);
            d.backend->ops->stats(d.backend, t.attempt, &t.stats);
        }
    drive_run_ms(&d, wait_ms);
    assert_int_equal(t.deltas, after);
    uint64_t before = td_now_ns();
    take_finish(&t);
    d.waiting = 0;
    (void)closed_after_ms(0); // waits for it
    uint64_t took = td_now_ns() - before;
    drive_run_ms(&d, 30);
    assert_int_equal(t.deltas, after); // nothing comes any more
    assert_int_equal(t.errors + t.ends, 0);
    take_finish(&t);
    return (double)took / 1e6;
}

// The best of a few, since the machine that tests may be busy with other things for 50 ms.
static void cancelling_closes_the_upstream_within_50_ms(void **state) {
    (void)state;
    static const unsigned rows[][2] = {{1, 0}, {4, 0}, {16, 0}, {0, 5}, {0, 50}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double best = 1e9;
        for (int again = 0; again < 8 && best >= 50; again++) {
            double ms = cancel_ms(rows[i][0], rows[i][1] + 20 * (unsigned)again);
            best = ms < best ? ms : best;
        }
        if (best >= 50)
            fail_msg("after %u tokens or %u ms: %.1f ms", rows[i][0], rows[i][1], best);
    }
}

static void cancelling_at_once_sends_nothing(void **state) {
    (void)state;
    struct td_arena arena;
    struct take t = {0};
    assert_ok(take_start(&t, &d, "hello", true));
    take_finish(&t);
    d.waiting = 0;
    drive_run_ms(&d, 30);
    td_arena_init(&arena, 1 << 20);
    assert_int_equal(yyjson_arr_size(upstream_log(&d.up, &arena, 0, 0)), 0);
    td_arena_finish(&arena);
}

static struct take loser;

static void kill_loser(struct take *t) {
    if (t->deltas == 1) {
        d.backend->ops->destroy(d.backend, loser.attempt);
        loser.attempt = NULL;
        d.waiting--;
    }
}

// As a hedge does: the first token of one ends the other, from inside an event.
static void one_attempt_can_end_another(void **state) {
    (void)state;
    struct take t = {.on_delta = kill_loser};
    loser = (struct take){0};
    drive_script(&d, "{\"first_token_ms\":3000},{\"token_ms\":5}");
    assert_ok(take_start(&loser, &d, "hello", true));
    drive_run_ms(&d, 20);
    assert_ok(take_start(&t, &d, "hello [tokens=40]", true));
    drive_run(&d);
    assert_int_equal(t.ends, 1);
    assert_int_equal(loser.deltas + loser.errors, 0);
    assert_true(closed_after_ms(0) < 2000);
    take_finish(&t);
    take_finish(&loser);
}

static unsigned used_ms(void) { // processor time of this process
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (unsigned)(used.tv_sec * 1000 + used.tv_nsec / 1000000);
}

// And stands still while it is paused, which is no busy waiting.
static void run_until_paused(const struct take *t, unsigned then_ms) {
    for (int i = 0; i < 1000 && t->deltas < t->pause_after; i++)
        drive_run_ms(&d, 10);
    assert_int_equal(t->deltas, t->pause_after);
    unsigned used = used_ms();
    drive_run_ms(&d, then_ms);
    if (used_ms() - used > then_ms / 2)
        fail_msg("%u ms of processor in %u ms of pause", used_ms() - used, then_ms);
}

static void a_pause_holds_everything_back(void **state) {
    (void)state;
    struct take t;
    for (int round = 0; round < 3; round++) { // 0: all in one packet; 1: paced; 2: while paused the upstream ends
        t = (struct take){.pause_after = 3};
        drive_script(&d, round == 1 ? "{\"token_ms\":5}" : "{}");
        assert_ok(take_start(&t, &d, "hello [tokens=40]", true));
        run_until_paused(&t, round == 2 ? 300 : 100);
        assert_int_equal(t.deltas, 3);
        assert_int_equal(t.ends + t.errors, 0);
        d.backend->ops->resume(d.backend, t.attempt);
        assert_int_equal(t.deltas, 3); // not from inside resume
        drive_run(&d);
        assert_int_equal(t.ends, 1);
        assert_int_equal(t.deltas, 40);
        take_finish(&t);
    }
}

static void pausing_does_not_count_as_silence(void **state) {
    (void)state;
    struct take t = {.pause_after = 3};
    d.target.timeouts = (struct td_timeouts){2000, 2000, 600, 20000};
    drive_script(&d, "{\"token_ms\":5}");
    assert_ok(take_start(&t, &d, "hello [tokens=40]", true));
    run_until_paused(&t, 1200);
    assert_int_equal(t.errors, 0);
    d.backend->ops->resume(d.backend, t.attempt);
    drive_run(&d);
    assert_int_equal(t.ends, 1);
    assert_int_equal(t.deltas, 40);
    take_finish(&t);
}

// A long answer for a reader that does not read: what is kept here stays small, the rest stays with the upstream.
static void a_paused_stream_is_bounded_by_flow_control(void **state) {
    (void)state;
    struct take t = {.pause_after = 3};
    d.target.timeouts.total_ms = 60000;
    d.target.timeouts.first_token_ms = 10000;
    assert_ok(take_start(&t, &d, "hello [tokens=30000]", true));
    run_until_paused(&t, 300);
    d.backend->ops->stats(d.backend, t.attempt, &t.stats);
    if (t.stats.bytes_in > 100000)
        fail_msg("%u bytes were read while paused", (unsigned)t.stats.bytes_in);
    d.backend->ops->resume(d.backend, t.attempt);
    drive_run(&d);
    if (t.deltas != 30000)
        fail_msg("%s (%s) after %u deltas", td_err_code(t.code), t.message, t.deltas);
    assert_int_equal(t.ends, 1);
    take_finish(&t);
}

static void cancelling_a_paused_one_is_clean(void **state) {
    (void)state;
    struct take t = {.pause_after = 3};
    drive_script(&d, "{\"token_ms\":5}");
    assert_ok(take_start(&t, &d, "hello [tokens=40]", true));
    run_until_paused(&t, 20);
    take_finish(&t);
    d.waiting = 0;
    assert_true(closed_after_ms(0) < 4000);
    t = (struct take){.pause_after = 3};
    assert_ok(take_start(&t, &d, "hello [tokens=40]", true));
    run_until_paused(&t, 20);
    d.backend->ops->resume(d.backend, t.attempt); // and gone before it takes effect
    take_finish(&t);
    d.waiting = 0;
    drive_run_ms(&d, 20);
}

// Destroyed right after its end, an attempt still lets its connection be used again.
static void a_finished_stream_leaves_its_connection(void **state) {
    (void)state;
    struct take t;
    struct td_arena arena;
    uint64_t first = 0;
    for (int i = 0; i < 5; i++) {
        drive_once(&d, &t, "hello");
        assert_int_equal(t.ends, 1);
        take_finish(&t);
        drive_run_ms(&d, 5);
    }
    td_arena_init(&arena, 1 << 20);
    td_json *log = upstream_log(&d.up, &arena, 5, 5), *one;
    size_t i, max;
    yyjson_arr_foreach(log, i, max, one) {
        uint64_t connection = (uint64_t)td_json_get_int(one, "connection", 0);
        assert_true(i == 0 || connection == first);
        first = connection;
    }
    td_arena_finish(&arena);
}

static void many_at_once(void **state) {
    (void)state;
    static struct take all[200];
    upstream_post(&d.up, "/_script", "{\"standing\":{\"token_ms\":3}}");
    d.target.timeouts = (struct td_timeouts){20000, 20000, 20000, 50000}; // 200 handshakes take a busy machine seconds
    for (int i = 0; i < 200; i++) {
        all[i] = (struct take){.destroy_after = i % 4 == 3 ? 5 : 0};
        assert_ok(take_start(&all[i], &d, "hello [tokens=20]", true));
    }
    drive_run(&d);
    for (int i = 0; i < 200; i++) {
        assert_int_equal(all[i].deltas, i % 4 == 3 ? 5 : 20);
        assert_int_equal(all[i].ends, i % 4 != 3);
        take_finish(&all[i]);
    }
}

int main(int argc, char **argv) {
    tls = argc > 1 && strcmp(argv[1], "tls") == 0;
#define T(name) cmocka_unit_test_setup(name, fresh)
    const struct CMUnitTest tests[] = {
        T(each_silence_has_its_error),
        T(a_finish_is_enough),
        T(a_dead_connection_is_found_within_the_connect_limit),
        T(a_server_that_thinks_is_not_dead),
        T(a_deadline_of_the_attempt_binds),
        T(a_whole_answer_has_only_its_total_time),
        T(a_slow_stream_within_its_limits_is_fine),
        T(nobody_listening_is_known_at_once),
        T(a_black_hole_costs_the_connect_limit),
        T(cancelling_closes_the_upstream_within_50_ms),
        T(cancelling_at_once_sends_nothing),
        T(one_attempt_can_end_another),
        T(a_pause_holds_everything_back),
        T(pausing_does_not_count_as_silence),
        T(a_paused_stream_is_bounded_by_flow_control),
        T(cancelling_a_paused_one_is_clean),
        T(a_finished_stream_leaves_its_connection),
        T(many_at_once),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
