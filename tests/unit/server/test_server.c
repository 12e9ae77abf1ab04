// SPDX-License-Identifier: Apache-2.0
// The whole listener on real sockets, with a runtime that has no core.
#include "unit.h"

#include <ctype.h>
#include <sys/stat.h>

#include "base/limits.h"
#include "base/time.h"
#include "fake_runtime.h"
#include "raw_http.h"
#include "server/answer.h"
#include "server/server.h"

struct house {
    struct td_runtime *runtime;
    struct fake_counts *counts;
    struct td_listen_settings settings;
    struct td_server_limits limits;
    struct td_server *server;
    unsigned port;
};

static void house_open(struct house *h) {
    struct td_failure failure = {"", ""};
    h->runtime = fake_runtime_create(2);
    h->counts = fake_runtime_counts(h->runtime);
    if (!h->settings.address)
        h->settings.address = "127.0.0.1";
    if (td_server_start_limited(h->runtime, &h->settings, &h->limits, &h->server, &failure) != 0)
        fail_msg("%s: %s", failure.code, failure.message);
    h->port = td_server_port(h->server);
}

static void house_close(struct house *h) {
    td_server_stop(h->server);
    assert_int_equal(atomic_load(&h->counts->live), 0);
    fake_runtime_destroy(h->runtime);
}

// Sends a request of the usual form; `extra` are whole header lines or "".
static void ask(struct raw_client *c, const struct house *h, const char *method, const char *path, const char *extra,
                const char *body) {
    char text[4096];
    int n = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n%s", method, path, h->port, extra);
    if (body)
        n += snprintf(text + n, sizeof text - (size_t)n,
                      "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    else
        n += snprintf(text + n, sizeof text - (size_t)n, "\r\n");
    raw_send(c, text, (size_t)n);
}

static void expect_status(struct raw_client *c, int status) {
    struct raw_answer a = raw_read(c, false);
    assert_int_equal(a.status, status);
    assert_true(a.whole);
    raw_answer_finish(&a);
}

static void expect_alive(struct raw_client *c, const struct house *h) {
    ask(c, h, "GET", "/healthz", "", NULL);
    expect_status(c, 200);
}

// ---- the vectors

static size_t unescape(const char *text, unsigned port, char *out) {
    size_t n = 0;
    while (*text) {
        unsigned times, byte;
        int used = 0;
        char c;
        if (strncmp(text, "{H}", 3) == 0) {
            n += (size_t)sprintf(out + n, "127.0.0.1:%u", port);
            text += 3;
        } else if (sscanf(text, "{%u*FIELD}%n", &times, &used) == 1 && used) {
            while (times--)
                n += (size_t)sprintf(out + n, "X-F: v\r\n");
            text += used;
        } else if (sscanf(text, "{%u*%c}%n", &times, &c, &used) == 2 && used) {
            memset(out + n, c, times);
            n += times;
            text += used;
        } else if (*text == '\\' && text[1] == 'x' && sscanf(text + 2, "%2x", &byte) == 1) {
            out[n++] = (char)byte;
            text += 4;
        } else if (*text == '\\') {
            static const char from[] = "rnt0\\", to[] = "\r\n\t\0\\";
            const char *at = strchr(from, text[1]);
            assert_non_null(at);
            out[n++] = to[at - from];
            text += 2;
        } else {
            out[n++] = *text++;
        }
    }
    return n;
}

// Runs one vector: every response in order, then either the server's close or a connection that still works.
static bool run_vector(struct house *h, const char *name, const char *want, const char *text) {
    static char bytes[128 << 10];
    struct raw_client c = raw_connect(h->port);
    raw_send(&c, bytes, unescape(text, h->port, bytes));
    bool right = true, closes = strchr(want, '!') != NULL, head = strncmp(text, "HEAD ", 5) == 0;
    for (const char *p = want; isdigit((unsigned char)*p); p += strspn(p, "0123456789"), p += *p == ',') {
        struct raw_answer a = raw_read(&c, head);
        if (a.status != atoi(p) || !a.whole) {
            print_error("%s: wanted %s, got %d\n", name, want, a.status);
            right = false;
        } else if (a.status >= 400 && !strstr(a.body, "{\"error\":{\"message\":\"")) {
            print_error("%s: not an error in the API's form: %s\n", name, a.body);
            right = false;
        }
        if (strstr(a.head, "access-control-")) {
            print_error("%s: a CORS header\n", name);
            right = false;
        }
        raw_answer_finish(&a);
    }
    if (right && closes && (!raw_wait_closed(&c) || c.in_n > 0)) {
        print_error("%s: still open, or more came: %s\n", name, c.in);
        right = false;
    }
    if (right && !closes) {
        ask(&c, h, "GET", "/healthz", "", NULL);
        struct raw_answer a = raw_read(&c, false);
        if (a.status != 200) {
            print_error("%s: the connection does not work any more (%d)\n", name, a.status);
            right = false;
        }
        raw_answer_finish(&a);
    }
    raw_close(&c);
    return right;
}

static void framing_is_strict(void **state) {
    (void)state;
    struct house h = {.limits = {.linger_ms = 50}};
    house_open(&h);
    FILE *f = fopen(VECTORS, "r");
    assert_non_null(f);
    char line[4096];
    int wrong = 0, run = 0;
    while (fgets(line, sizeof line, f)) {
        char name[32], want[16];
        line[strcspn(line, "\n")] = '\0';
        if (!line[0] || line[0] == '#')
            continue;
        assert_int_equal(sscanf(line, "%31s %15s", name, want), 2);
        assert_true(strlen(line) > 37);
        wrong += !run_vector(&h, name, want, line + 37);
        run++;
    }
    fclose(f);
    assert_true(run > 100);
    assert_int_equal(wrong, 0);
    house_close(&h);
}

static void requests_may_come_byte_by_byte(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    char text[256];
    int n = snprintf(text, sizeof text,
                     "POST /v1/echo HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
                     "Transfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n",
                     h.port);
    for (int i = 0; i < n; i++) {
        raw_send(&c, text + i, 1);
        if (i % 16 == 0)
            usleep(200);
    }
    struct raw_answer a = raw_read(&c, false);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body, "[1,2]");
    raw_answer_finish(&a);
    expect_alive(&c, &h);
    raw_close(&c);
    house_close(&h);
}

// ---- requests and answers

static void the_core_gets_the_request_as_it_came(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    ask(&c, &h, "GET", "/v1/about?a=%20b&c", "X-Name:  some value \r\nAuthorization: Bearer k\r\n", NULL);
    struct raw_answer a = raw_read(&c, false);
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.body, "method=GET\npath=/v1/about\nquery=a=%20b&c\npeer=127.0.0.1\nlocal=1\nsubject=\n"));
    assert_non_null(strstr(a.body, "\nX-Name=[some value]\nAuthorization=[Bearer k]\n"));
    raw_answer_finish(&a);
    ask(&c, &h, "GET", "/v1/about", "", NULL);
    a = raw_read(&c, false);
    assert_non_null(strstr(a.body, "path=/v1/about\nquery=\n"));
    assert_string_equal(raw_header(&a, "x-content-type-options"), "nosniff");
    assert_int_equal(strlen(raw_header(&a, "date")), 29);
    assert_null(raw_header(&a, "connection"));
    raw_answer_finish(&a);
    raw_close(&c);
    house_close(&h);
}

static void head_has_the_length_and_no_body(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    static const char *const paths[] = {"/healthz", "/v1/about", "/v1/sse?n=3&ms=1", "/nothing"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        ask(&c, &h, "HEAD", paths[i], "", NULL);
        struct raw_answer a = raw_read(&c, true);
        assert_int_equal(a.status, i == 3 ? 404 : 200);
        assert_true(raw_header(&a, "content-length") || raw_header(&a, "transfer-encoding"));
        raw_answer_finish(&a);
        expect_alive(&c, &h);
    }
    raw_close(&c);
    house_close(&h);
}

static void pipelined_requests_are_answered_in_order(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    for (int i = 0; i < 40; i++) {
        char body[200];
        snprintf(body, sizeof body, "{\"n\":%d,\"pad\":\"%0*d\"}", i, i * 3 + 1, 0);
        ask(&c, &h, "POST", i % 3 ? "/v1/later" : "/v1/echo", "", body);
    }
    for (int i = 0; i < 40; i++) {
        char wanted[32];
        struct raw_answer a = raw_read(&c, false);
        snprintf(wanted, sizeof wanted, "{\"n\":%d,", i);
        assert_memory_equal(a.body, wanted, strlen(wanted));
        raw_answer_finish(&a);
    }
    raw_close(&c);
    house_close(&h);
}

// More than may be read ahead: TCP holds the client back and nothing is lost.
static void pipelining_more_than_is_read_ahead_still_works(void **state) {
    (void)state;
    struct house h = {.settings = {.body_bytes_max = 1 << 20}};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    enum { BODY = 150000 };
    char *body = malloc(BODY + 1), head[256];
    memset(body, ' ', BODY);
    for (int i = 0; i < 4; i++) {
        int n = snprintf(head, sizeof head,
                         "POST /v1/later HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
                         "Content-Length: %d\r\n\r\n",
                         h.port, BODY);
        body[0] = (char)('0' + i);
        raw_send(&c, head, (size_t)n);
        raw_send(&c, body, BODY);
    }
    for (int i = 0; i < 4; i++) {
        struct raw_answer a = raw_read(&c, false);
        assert_int_equal(a.body_n, BODY);
        assert_int_equal(a.body[0], '0' + i);
        raw_answer_finish(&a);
    }
    free(body);
    raw_close(&c);
    house_close(&h);
}

static void a_client_may_wait_for_100_continue(void **state) {
    (void)state;
    struct house h = {.settings = {.body_bytes_max = 1000}};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    char text[256];
    snprintf(text, sizeof text,
             "POST /v1/echo HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
             "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
             h.port);
    raw_sendz(&c, text);
    expect_status(&c, 100);
    raw_sendz(&c, "{}");
    expect_status(&c, 200);
    // What will be refused anyway is refused before the body is sent.
    snprintf(text, sizeof text,
             "POST /v1/echo HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
             "Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n",
             h.port);
    raw_sendz(&c, text);
    expect_status(&c, 413);
    raw_close(&c);
    house_close(&h);
}

static void streams_are_chunked_event_by_event(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    ask(&c, &h, "GET", "/v1/sse?n=20&ms=2", "", NULL);
    struct raw_answer a = raw_read(&c, false);
    assert_int_equal(a.status, 200);
    assert_string_equal(raw_header(&a, "transfer-encoding"), "chunked");
    assert_true(a.whole);
    int events = 0;
    for (const char *p = a.body; (p = strstr(p, "data: {")); p++)
        events++;
    assert_int_equal(events, 20);
    assert_non_null(strstr(a.body, "data: [DONE]\n\n"));
    raw_answer_finish(&a);
    expect_alive(&c, &h);
    raw_close(&c);
    house_close(&h);
}

static bool holds(const struct raw_client *c, const char *text) {
    return memmem(c->in, c->in_n, text, strlen(text)) != NULL;
}

static void a_piece_leaves_before_a_long_turn_ends_and_an_end_does_not(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    ask(&c, &h, "GET", "/v1/long", "", NULL);
    uint64_t give_up = td_now_ns() + 4 * TD_S_NS; // the turn itself goes on after five
    while (!holds(&c, "first") && td_now_ns() < give_up)
        raw_receive(&c, 100);
    assert_true(holds(&c, "5\r\nfirst\r\n"));
    atomic_store(&h.counts->long_turn, 1);
    raw_receive(&c, 50); // an answer's end waits for its row, which is handed over behind the turn's work
    assert_false(holds(&c, "0\r\n\r\n"));
    atomic_store(&h.counts->long_turn, 2);
    give_up = td_now_ns() + 10 * TD_S_NS;
    while (!holds(&c, "0\r\n\r\n") && td_now_ns() < give_up)
        raw_receive(&c, 100);
    assert_true(holds(&c, "first\r\n0\r\n\r\n"));
    raw_close(&c);
    house_close(&h);
}

static void http_1_0_gets_streams_that_end_with_the_connection(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    char text[128];
    snprintf(text, sizeof text, "GET /v1/sse?n=3&ms=1 HTTP/1.0\r\nHost: 127.0.0.1:%u\r\n\r\n", h.port);
    struct raw_client c = raw_connect(h.port);
    raw_sendz(&c, text);
    struct raw_answer a = raw_read(&c, false);
    assert_null(raw_header(&a, "transfer-encoding"));
    assert_string_equal(raw_header(&a, "connection"), "close");
    assert_true(a.whole);
    assert_memory_equal(a.body, "data: {", 7);
    raw_answer_finish(&a);
    raw_close(&c);
    // A broken one must not look whole: the connection is reset.
    snprintf(text, sizeof text, "GET /v1/cut HTTP/1.0\r\nHost: 127.0.0.1:%u\r\n\r\n", h.port);
    c = raw_connect(h.port);
    raw_sendz(&c, text);
    a = raw_read(&c, false);
    assert_false(a.whole);
    assert_true(c.reset);
    raw_answer_finish(&a);
    raw_close(&c);
    house_close(&h);
}

static void a_broken_answer_never_looks_whole(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    static const char *const paths[] = {"/v1/cut", "/v1/short"};
    for (int i = 0; i < 2; i++) {
        struct raw_client c = raw_connect(h.port);
        ask(&c, &h, "GET", paths[i], "", NULL);
        struct raw_answer a = raw_read(&c, false);
        assert_int_equal(a.status, 200);
        assert_false(a.whole);
        assert_true(raw_wait_closed(&c));
        raw_answer_finish(&a);
        raw_close(&c);
    }
    struct raw_client c = raw_connect(h.port);
    ask(&c, &h, "GET", "/v1/silent", "", NULL);
    expect_status(&c, 500);
    raw_close(&c);
    house_close(&h);
}

static void headers_cannot_split_the_response(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    ask(&c, &h, "GET", "/v1/evil", "", NULL);
    struct raw_answer a = raw_read(&c, false);
    assert_int_equal(a.status, 200);
    assert_null(strstr(a.head, "x-injected"));
    assert_null(strstr(a.head, "x-bad name"));
    assert_null(raw_header(&a, "transfer-encoding"));
    assert_string_equal(raw_header(&a, "content-length"), "2");
    assert_string_equal(raw_header(&a, "x-fine"), "yes");
    assert_string_equal(a.body, "{}");
    raw_answer_finish(&a);
    raw_close(&c);
    house_close(&h);
}

static void the_listener_answers_for_itself(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    ask(&c, &h, "GET", "/readyz", "", NULL);
    expect_status(&c, 200);
    atomic_store(&h.counts->unready, true);
    ask(&c, &h, "GET", "/readyz", "", NULL);
    struct raw_answer a = raw_read(&c, false);
    assert_int_equal(a.status, 503);
    assert_non_null(strstr(a.body, "no model is loaded"));
    raw_answer_finish(&a);
    ask(&c, &h, "GET", "/metrics", "", NULL);
    a = raw_read(&c, false);
    assert_int_equal(a.status, 200);
    assert_string_equal(raw_header(&a, "content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert_non_null(strstr(a.body, "fake 1\n"));
    raw_answer_finish(&a);
    ask(&c, &h, "DELETE", "/metrics", "", NULL);
    a = raw_read(&c, false);
    assert_int_equal(a.status, 405);
    assert_string_equal(raw_header(&a, "allow"), "GET, HEAD, OPTIONS");
    raw_answer_finish(&a);
    ask(&c, &h, "OPTIONS", "/v1/chat/completions", "", NULL);
    a = raw_read(&c, false);
    assert_int_equal(a.status, 204);
    assert_string_equal(raw_header(&a, "allow"), "GET, HEAD, POST, OPTIONS");
    raw_answer_finish(&a);
    raw_close(&c);
    house_close(&h);
}

// ---- clients that go away, or are slow

static void a_client_that_goes_away_is_noticed_at_once(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    static const char *const paths[] = {"/v1/hold", "/v1/sse?n=100000&ms=1000"};
    for (int i = 0; i < 4; i++) {
        struct raw_client c = raw_connect(h.port);
        ask(&c, &h, "POST", paths[i % 2], "", "{}");
        raw_wait(atomic_load(&h.counts->calls) == i + 1);
        struct linger reset = {i >= 2, 0};
        setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        raw_close(&c);
        uint64_t start = td_now_ns();
        raw_wait(atomic_load(&h.counts->released_early) == i + 1);
        assert_true(td_now_ns() - start < 1000 * TD_MS_NS); // the goal is 50 ms; a loaded test machine needs slack
        assert_int_equal(atomic_load(&h.counts->live), 0);
    }
    house_close(&h);
}

static void a_half_closed_client_gets_what_is_ready(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    ask(&c, &h, "POST", "/v1/echo", "", "[7]");
    shutdown(c.fd, SHUT_WR);
    struct raw_answer a = raw_read(&c, false);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body, "[7]");
    raw_answer_finish(&a);
    assert_true(raw_wait_closed(&c));
    raw_close(&c);
    // While an answer is still being made, the end of its input counts as going away.
    c = raw_connect(h.port);
    ask(&c, &h, "POST", "/v1/hold", "", "{}");
    shutdown(c.fd, SHUT_WR);
    assert_true(raw_wait_closed(&c));
    assert_int_equal(c.in_n, 0);
    raw_wait(atomic_load(&h.counts->released_early) == 1);
    raw_close(&c);
    house_close(&h);
}

static void a_slow_client_stops_the_upstream(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    enum { PIECES = 4000, PIECE = 4096 }; // 16 MB: more than sockets hold
    struct raw_client c = raw_connect(h.port);
    ask(&c, &h, "GET", "/v1/flood?n=4000", "", NULL);
    raw_wait(atomic_load(&h.counts->stops) == 1);
    long held = atomic_load(&h.counts->pieces);
    assert_true(held < PIECES);
    struct raw_answer a = raw_read(&c, false);
    assert_true(a.whole);
    assert_int_equal(a.body_n, PIECES * PIECE);
    for (size_t i = 0; i < a.body_n; i++)
        if (a.body[i] != 'x')
            fail_msg("damaged at %zu", i);
    raw_answer_finish(&a);
    assert_true(atomic_load(&h.counts->proceeds) >= 1);
    assert_int_equal(atomic_load(&h.counts->stops), atomic_load(&h.counts->proceeds));
    expect_alive(&c, &h);
    raw_close(&c);
    house_close(&h);
}

static void a_client_that_takes_nothing_is_given_up(void **state) {
    (void)state;
    struct house h = {.limits = {.write_stall_ms = 100}};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    ask(&c, &h, "GET", "/v1/flood", "", NULL);
    raw_wait(atomic_load(&h.counts->released_early) == 1);
    raw_close(&c);
    house_close(&h);
}

// ---- limits

static void a_slow_header_is_answered_408(void **state) {
    (void)state;
    struct house h = {.limits = {.header_ms = 150, .linger_ms = 50}};
    house_open(&h);
    struct raw_client quick = raw_connect(h.port), slow = raw_connect(h.port), silent = raw_connect(h.port);
    raw_sendz(&slow, "GET /healthz HTTP/1.1\r\nHost: ");
    expect_alive(&quick, &h);
    uint64_t start = td_now_ns();
    expect_status(&slow, 408);
    assert_true(td_now_ns() - start > 100 * TD_MS_NS);
    assert_true(raw_wait_closed(&slow));
    assert_true(raw_wait_closed(&silent));
    assert_int_equal(silent.in_n, 0); // nothing was asked, so nothing is answered
    expect_alive(&quick, &h);         // idle is another limit
    raw_close(&quick);
    raw_close(&slow);
    raw_close(&silent);
    house_close(&h);
}

static void a_slow_body_is_answered_408(void **state) {
    (void)state;
    struct house h = {.limits = {.body_window_ms = 200, .linger_ms = 50}};
    house_open(&h);
    char head[256], piece[600];
    memset(piece, ' ', sizeof piece);
    snprintf(head, sizeof head,
             "POST /v1/echo HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
             "Content-Length: 3000\r\n\r\n",
             h.port);
    struct raw_client slow = raw_connect(h.port), steady = raw_connect(h.port);
    raw_sendz(&slow, head);
    raw_sendz(&steady, head);
    for (int i = 0; i < 5; i++) { // 600 bytes each 100 ms: six times the least
        raw_send(&steady, piece, sizeof piece);
        usleep(100000);
    }
    expect_status(&steady, 200);
    expect_status(&slow, 408);
    assert_true(raw_wait_closed(&slow));
    raw_close(&slow);
    raw_close(&steady);
    house_close(&h);
}

static void an_idle_connection_closes_without_a_word(void **state) {
    (void)state;
    struct house h = {.limits = {.keepalive_ms = 100}};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    expect_alive(&c, &h);
    assert_true(raw_wait_closed(&c));
    assert_int_equal(c.in_n, 0);
    raw_close(&c);
    house_close(&h);
}

static void send_body(struct house *h, struct raw_client *c, size_t n, bool chunked) {
    char head[256];
    char *body = malloc(n);
    memset(body, ' ', n);
    snprintf(head, sizeof head,
             chunked ? "POST /v1/echo HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
                       "Transfer-Encoding: chunked\r\n\r\n%zx\r\n"
                     : "POST /v1/echo HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
                       "Content-Length: %zu\r\n\r\n",
             h->port, n);
    raw_sendz(c, head);
    raw_send(c, body, n);
    if (chunked)
        raw_sendz(c, "\r\n0\r\n\r\n");
    free(body);
}

static void bodies_end_at_their_cap(void **state) {
    (void)state;
    enum { MAX = 100000 };
    struct house h = {.settings = {.body_bytes_max = MAX}, .limits = {.linger_ms = 200}};
    house_open(&h);
    for (int chunked = 0; chunked <= 1; chunked++) {
        struct raw_client c = raw_connect(h.port);
        send_body(&h, &c, MAX, chunked);
        struct raw_answer a = raw_read(&c, false);
        assert_int_equal(a.status, 200);
        assert_int_equal(a.body_n, MAX);
        raw_answer_finish(&a);
        send_body(&h, &c, MAX + 1, chunked);
        expect_status(&c, 413);
        assert_true(raw_wait_closed(&c));
        raw_close(&c);
    }
    house_close(&h);
}

static void the_largest_body_of_all_passes(void **state) {
    (void)state;
    struct house h = {.settings = {.body_bytes_max = SIZE_MAX}};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    send_body(&h, &c, TD_BODY_BYTES_MAX, false);
    struct raw_answer a = raw_read(&c, false);
    assert_int_equal(a.status, 200);
    assert_int_equal(a.body_n, TD_BODY_BYTES_MAX);
    raw_answer_finish(&a);
    char head[256]; // an operator cannot go beyond the fixed limit
    snprintf(head, sizeof head,
             "POST /v1/echo HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
             "Content-Length: %u\r\n\r\n",
             h.port, TD_BODY_BYTES_MAX + 1);
    raw_sendz(&c, head);
    expect_status(&c, 413);
    raw_close(&c);
    house_close(&h);
}

// Sends a body but for its last byte.
static void begin_body(const struct house *h, struct raw_client *c, size_t n) {
    char text[256], *part = malloc(n);
    memset(part, ' ', n);
    snprintf(text, sizeof text,
             "POST /v1/echo HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n\r\n",
             h->port, n);
    raw_sendz(c, text);
    raw_send(c, part, n - 1);
    free(part);
}

static void all_bodies_together_have_a_ceiling(void **state) {
    (void)state;
    enum { CLIENTS = 4, EACH = 40000 };
    struct house h = {.limits = {.bodies_bytes = CLIENTS * EACH, .linger_ms = 200}};
    house_open(&h);
    struct raw_client c[CLIENTS + 1];
    struct pollfd p[CLIENTS + 1];
    for (int i = 0; i <= CLIENTS; i++) {
        c[i] = raw_connect(h.port);
        p[i] = (struct pollfd){c[i].fd, POLLIN, 0};
    }
    for (int over = 0; over <= 1; over++) {
        int refused = -1;
        for (int i = 0; i < CLIENTS; i++)
            begin_body(&h, &c[i], EACH + 1);
        if (over) { // one byte too much: whoever's bytes are read last is refused, and nobody else
            begin_body(&h, &c[CLIENTS], 2);
            assert_int_equal(poll(p, CLIENTS + 1, RAW_WAIT_MS), 1);
            for (int i = 0; i <= CLIENTS; i++)
                refused = p[i].revents ? i : refused;
            expect_status(&c[refused], 503);
        }
        for (int i = 0; i < CLIENTS + over; i++) {
            if (i == refused)
                continue;
            raw_sendz(&c[i], " ");
            expect_status(&c[i], 200);
        }
    }
    for (int i = 0; i <= CLIENTS; i++)
        raw_close(&c[i]);
    house_close(&h);
}

static void connections_end_at_their_cap(void **state) {
    (void)state;
    enum { MAX = 10 };
    struct house h = {.settings = {.connections_max = MAX, .connections_per_peer_max = 2}}; // loopback is no peer
    house_open(&h);
    struct raw_client c[MAX], over;
    for (int i = 0; i < MAX; i++) {
        c[i] = raw_connect(h.port);
        expect_alive(&c[i], &h);
    }
    over = raw_connect(h.port);
    struct raw_answer a = raw_read(&over, false);
    assert_int_equal(a.status, 503);
    assert_true(a.whole);
    assert_string_equal(raw_header(&a, "retry-after"), "1");
    raw_answer_finish(&a);
    assert_true(raw_wait_closed(&over));
    raw_close(&over);
    for (int i = 0; i < MAX; i++)
        expect_alive(&c[i], &h);
    raw_close(&c[0]);
    // Once one has gone there is room again.
    for (int status = 503; status != 200;) {
        over = raw_connect(h.port);
        ask(&over, &h, "GET", "/healthz", "", NULL);
        a = raw_read(&over, false);
        status = a.status ? a.status : 503;
        raw_answer_finish(&a);
        raw_close(&over);
    }
    for (int i = 1; i < MAX; i++)
        raw_close(&c[i]);
    house_close(&h);
}

// ---- starting and stopping

static void draining_finishes_what_runs(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct raw_client idle = raw_connect(h.port), busy = raw_connect(h.port);
    expect_alive(&idle, &h);
    ask(&busy, &h, "GET", "/v1/sse?n=30&ms=10", "", NULL);
    raw_wait(atomic_load(&h.counts->live) == 1);
    assert_int_equal(td_server_drain(h.server, 5000), 0);
    assert_true(raw_wait_closed(&idle));
    struct raw_answer a = raw_read(&busy, false);
    assert_true(a.whole);
    assert_non_null(strstr(a.body, "data: [DONE]"));
    raw_answer_finish(&a);
    assert_true(raw_wait_closed(&busy));
    struct raw_client late = raw_connect(h.port);
    assert_true(late.closed);
    raw_close(&idle);
    raw_close(&busy);
    raw_close(&late);
    house_close(&h);
}

static void draining_gives_up_after_its_time(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    ask(&c, &h, "POST", "/v1/hold", "", "{}");
    raw_wait(atomic_load(&h.counts->live) == 1);
    assert_int_equal(td_server_drain(h.server, 50), 1);
    house_close(&h); // cancels it: house_close asserts that nothing is live
    assert_true(raw_wait_closed(&c));
    raw_close(&c);
}

static void expect_failure(const struct td_listen_settings *settings, const char *code) {
    struct td_runtime *runtime = fake_runtime_create(1);
    struct td_server *server = (void *)1;
    struct td_failure failure = {"", ""};
    assert_int_equal(td_server_start(runtime, settings, &server, &failure), 1);
    assert_string_equal(failure.code, code);
    assert_true(failure.message[0] != '\0');
    assert_null(server);
    fake_runtime_destroy(runtime);
}

static void wrong_settings_fail_with_a_code(void **state) {
    (void)state;
    struct house h = {0};
    house_open(&h);
    struct td_listen_settings s = {.address = "127.0.0.1", .port = h.port};
    expect_failure(&s, "tandem.listen.failed"); // in use
    s = (struct td_listen_settings){.address = "0.0.0.0", .loopback = true};
    expect_failure(&s, "tandem.listen.refused");
    s = (struct td_listen_settings){.address = "::", .has_keys = true};
    expect_failure(&s, "tandem.listen.refused");
    s = (struct td_listen_settings){.address = "name.example"};
    expect_failure(&s, "tandem.listen.failed");
    s = (struct td_listen_settings){.address = "127.0.0.1", .tls_cert = "/nonexistent", .tls_key = "/nonexistent"};
    expect_failure(&s, "tandem.config.invalid");
    s = (struct td_listen_settings){.address = "127.0.0.1", .tls_key = "/nonexistent"};
    expect_failure(&s, "tandem.config.invalid");
    char *name = malloc(TD_ACCESS_LIST_BYTES_MAX + 1); // more Host names than are kept
    memset(name, 'x', TD_ACCESS_LIST_BYTES_MAX);
    name[TD_ACCESS_LIST_BYTES_MAX] = '\0';
    s = (struct td_listen_settings){.address = "127.0.0.1", .hosts = (const char *const *)&name, .host_count = 1};
    expect_failure(&s, "tandem.internal.memory");
    free(name);
    house_close(&h);
}

static void a_reload_takes_all_or_nothing(void **state) {
    (void)state;
    static const char *const hosts[] = {"new.example"};
    struct house h = {.settings = {.body_bytes_max = 100}};
    house_open(&h);
    struct raw_client c = raw_connect(h.port);
    static const char text[] = "GET /healthz HTTP/1.1\r\nHost: new.example\r\n\r\n";
    raw_sendz(&c, text);
    expect_status(&c, 403);
    raw_close(&c);
    c = raw_connect(h.port); // this one lives through the reloads
    expect_alive(&c, &h);
    struct td_listen_settings wrong = h.settings, next = h.settings;
    struct td_failure failure = {"", ""};
    next.hosts = wrong.hosts = hosts;
    next.host_count = wrong.host_count = 1;
    wrong.tls_cert = wrong.tls_key = "/nonexistent";
    assert_int_equal(td_server_reload(h.server, &wrong, &failure), 1);
    assert_string_equal(failure.code, "tandem.config.invalid");
    raw_sendz(&c, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); // no port: still not allowed
    expect_status(&c, 403);
    raw_close(&c);
    c = raw_connect(h.port);
    expect_alive(&c, &h);
    next.body_bytes_max = 10;
    assert_int_equal(td_server_reload(h.server, &next, &failure), 0);
    raw_sendz(&c, text);
    expect_status(&c, 200);
    send_body(&h, &c, 11, false);
    expect_status(&c, 413);
    raw_close(&c);
    house_close(&h);
}

static void a_unix_socket_is_private_and_replaced_when_stale(void **state) {
    (void)state;
    char path[64], address[80];
    snprintf(path, sizeof path, "/tmp/tandem-test-%d.sock", getpid());
    snprintf(address, sizeof address, "unix:%s", path);
    struct sockaddr_un left = {.sun_family = AF_UNIX};
    snprintf(left.sun_path, sizeof left.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&left, sizeof left), 0);
    close(fd); // the file stays, as after a crash
    struct house h = {.settings = {.address = address}};
    house_open(&h);
    struct stat now;
    assert_int_equal(stat(path, &now), 0);
    assert_int_equal(now.st_mode & 0777, 0600);
    assert_string_equal(td_server_url(h.server), address);
    struct raw_client c = raw_connect_unix(path);
    raw_sendz(&c, "GET /v1/about HTTP/1.1\r\nHost: localhost\r\n\r\n");
    struct raw_answer a = raw_read(&c, false);
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.body, "peer=unix\nlocal=1\n"));
    raw_answer_finish(&a);
    raw_sendz(&c, "GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    expect_status(&c, 403);
    raw_close(&c);
    expect_failure(&h.settings, "tandem.listen.failed"); // another server lives there
    assert_int_equal(stat(path, &now), 0);
    house_close(&h);
    assert_int_equal(stat(path, &now), -1);
}

// Every allocation fails once while requests go through: some are answered with an error or cut, none takes the server
// down, and afterwards all is as before.
static void no_failed_allocation_brings_it_down(void **state) {
    (void)state;
    struct house h = {.limits = {.linger_ms = 50}};
    house_open(&h);
    for (int nth = 1; nth <= 60; nth++) {
        td_alloc_fail_at(td_alloc_count() + (uint64_t)nth);
        for (int i = 0; i < 3; i++) {
            struct raw_client c = raw_connect(h.port);
            ask(&c, &h, "POST", "/v1/echo", "", "{}");
            ask(&c, &h, "GET", "/v1/sse?n=2&ms=1", "Connection: close\r\n", NULL);
            struct raw_answer a = raw_read(&c, false);
            raw_answer_finish(&a);
            assert_true(raw_wait_closed(&c));
            raw_close(&c);
        }
        td_alloc_fail_at(0);
        struct raw_client c = raw_connect(h.port);
        expect_alive(&c, &h);
        raw_close(&c);
    }
    raw_wait(atomic_load(&h.counts->live) == 0);
    house_close(&h);
}

// docs/errors.md has a row for every code the listener gives of itself, with its status where no other shares it.
static void every_code_is_documented(void **state) {
    (void)state;
    static const int statuses[] = {400, 403, 404, 405, 408, 413, 415, 500, 503};
    static char text[64 << 10];
    char path[1024], row[120];
    const char *here = strstr(__FILE__, "tests/unit/server/");
    snprintf(path, sizeof path, "%.*sdocs/errors.md", (int)(here - __FILE__), __FILE__);
    FILE *f = fopen(path, "r");
    if (!f) // run from elsewhere than the build folder
        skip();
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        snprintf(row, sizeof row, "| `%s` | %d |", td_answer_code(statuses[i]), statuses[i]);
        if (!strstr(text, row))
            fail_msg("docs/errors.md lacks: %s", row);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(framing_is_strict),
        cmocka_unit_test(requests_may_come_byte_by_byte),
        cmocka_unit_test(the_core_gets_the_request_as_it_came),
        cmocka_unit_test(head_has_the_length_and_no_body),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(pipelining_more_than_is_read_ahead_still_works),
        cmocka_unit_test(a_client_may_wait_for_100_continue),
        cmocka_unit_test(streams_are_chunked_event_by_event),
        cmocka_unit_test(a_piece_leaves_before_a_long_turn_ends_and_an_end_does_not),
        cmocka_unit_test(http_1_0_gets_streams_that_end_with_the_connection),
        cmocka_unit_test(a_broken_answer_never_looks_whole),
        cmocka_unit_test(headers_cannot_split_the_response),
        cmocka_unit_test(the_listener_answers_for_itself),
        cmocka_unit_test(a_client_that_goes_away_is_noticed_at_once),
        cmocka_unit_test(a_half_closed_client_gets_what_is_ready),
        cmocka_unit_test(a_slow_client_stops_the_upstream),
        cmocka_unit_test(a_client_that_takes_nothing_is_given_up),
        cmocka_unit_test(a_slow_header_is_answered_408),
        cmocka_unit_test(a_slow_body_is_answered_408),
        cmocka_unit_test(an_idle_connection_closes_without_a_word),
        cmocka_unit_test(bodies_end_at_their_cap),
        cmocka_unit_test(the_largest_body_of_all_passes),
        cmocka_unit_test(all_bodies_together_have_a_ceiling),
        cmocka_unit_test(connections_end_at_their_cap),
        cmocka_unit_test(draining_finishes_what_runs),
        cmocka_unit_test(draining_gives_up_after_its_time),
        cmocka_unit_test(wrong_settings_fail_with_a_code),
        cmocka_unit_test(a_reload_takes_all_or_nothing),
        cmocka_unit_test(a_unix_socket_is_private_and_replaced_when_stale),
        cmocka_unit_test(every_code_is_documented),
        cmocka_unit_test(no_failed_allocation_brings_it_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
