// SPDX-License-Identifier: Apache-2.0
// The listener's limits in time, bytes and connections, each at and over it.
#include "house.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_header_is_answered_408),
        cmocka_unit_test(a_slow_body_is_answered_408),
        cmocka_unit_test(an_idle_connection_closes_without_a_word),
        cmocka_unit_test(bodies_end_at_their_cap),
        cmocka_unit_test(the_largest_body_of_all_passes),
        cmocka_unit_test(all_bodies_together_have_a_ceiling),
        cmocka_unit_test(connections_end_at_their_cap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
