// SPDX-License-Identifier: Apache-2.0
// Our own HTTP/1.1 connections, against a server that says byte for byte what a case wants: how replies are read
// through a real socket, when a connection is used again, how one is reached, and how a request goes out.
#include "drive.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "raw_server.h"
#include "vectors.h"

static struct drive d;

static const char *names_to[2]; // what every name resolves to
static int lookup(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out) {
    struct addrinfo own = *hints, *second = NULL;
    (void)host;
    own.ai_flags = AI_NUMERICHOST;
    int err = getaddrinfo(names_to[0], port, &own, out);
    if (!err && names_to[1] && (err = getaddrinfo(names_to[1], port, &own, &second)) == 0)
        (*out)->ai_next = second;
    return err;
}

static struct td_remote_options options = {.lookup = lookup, .lookup_free = freeaddrinfo, .idle_connections_max = 3};

static int setup(void **state) {
    (void)state;
    drive_open(&d, &options, NULL);
    return !raw_open();
}

static int teardown(void **state) {
    (void)state;
    drive_close(&d);
    raw_close();
    return 0;
}

#define WHOLE                                                                                                          \
    "{\"id\":\"x\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,"            \
    "\"message\":{\"role\":\"assistant\",\"content\":\"fine\"},\"finish_reason\":\"stop\"}]}"

static char well[1024]; // a whole answer with its length

static void say(const char *reply, size_t n) {
    pthread_mutex_lock(&raw.lock);
    raw.reply = reply;
    raw.reply_n = n;
    pthread_mutex_unlock(&raw.lock);
}

static void say_well(const char *fields) {
    int n = snprintf(well, sizeof well, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n%s\r\n%s", sizeof WHOLE - 1, fields,
                     WHOLE);
    say(well, (size_t)n);
}

static int fresh(void **state) {
    char url[64];
    (void)state;
    td_remote_refresh(d.remote); // no connection of another case
    pthread_mutex_lock(&raw.lock);
    raw.piece = 0;
    raw.close_after = raw.early = raw.babble = raw.close_idle = raw.stall = raw.wild = false;
    raw.slow_us = 0;
    raw.strange = 0;
    raw.connections = raw.requests = 0;
    pthread_mutex_unlock(&raw.lock);
    say_well("");
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v1", raw.port);
    drive_url(&d, url);
    d.target.tier = TD_TIER_ONPREM;
    d.target.header_count = 0;
    d.target.api_key_ref = TD_STR_NONE;
    d.target.timeouts = (struct td_timeouts){20000, 20000, 20000, 40000};
    return 0;
}

static unsigned count_of(const unsigned *n) {
    pthread_mutex_lock(&raw.lock);
    unsigned now = *n;
    pthread_mutex_unlock(&raw.lock);
    return now;
}

// One whole answer asked for; what it gave.
static void ask(struct take *t) {
    *t = (struct take){0};
    assert_ok(take_start(t, &d, "hello", false));
    drive_run(&d);
    assert_int_equal(t->ends + t->errors, 1);
    d.backend->ops->destroy(d.backend, t->attempt);
    t->attempt = NULL;
}

static void expect_fine(void) {
    struct take t;
    ask(&t);
    if (!t.ends || !td_str_is(td_buf_str(&t.text), "fine"))
        fail_msg("%s (%s)", td_err_code(t.code), t.message);
    take_finish(&t);
}

static void expect_error(enum td_err code, const char *part) {
    struct take t;
    ask(&t);
    if (t.code != code || !strstr(t.message, part))
        fail_msg("%s (%s), not %s (%s)", td_err_code(t.code), t.message, td_err_code(code), part);
    take_finish(&t);
}

// ---- replies

static size_t vector_piece;

// The bodies are no answers of any dialect; what counts here is what became of the connection.
static void run_vector(const struct vector *v) {
    struct take t;
    bool bad = strcmp(v->gives, "bad") == 0, cut = strcmp(v->gives, "cut") == 0;
    bool closes = cut || strchr(v->gives, '$') != NULL, keeps = !bad && !closes && !strchr(v->gives, '!');
    if (vector_piece && v->n > 400)
        return;
    fresh(NULL);
    say(v->bytes, v->n);
    pthread_mutex_lock(&raw.lock);
    raw.piece = vector_piece;
    raw.close_after = closes;
    pthread_mutex_unlock(&raw.lock);
    ask(&t);
    bool ours = t.code == TD_ERR_UPSTREAM_GARBAGE && !strstr(t.message, "not understood") &&
                !strstr(t.message, "not what was asked");
    if (ours != bad && !(t.http_status >= 300 && t.http_status < 400))
        fail_msg("%s: %s (%s)", v->name, td_err_code(t.code), t.message);
    if (cut && t.code != TD_ERR_CUT)
        fail_msg("%s: %s (%s)", v->name, td_err_code(t.code), t.message);
    take_finish(&t);
    pthread_mutex_lock(&raw.lock);
    raw.piece = 0;
    raw.close_after = false;
    pthread_mutex_unlock(&raw.lock);
    say_well("");
    ask(&t);
    if (!t.ends)
        fail_msg("after %s: %s (%s)", v->name, td_err_code(t.code), t.message);
    take_finish(&t);
    if (count_of(&raw.connections) != (keeps ? 1 : 2) || count_of(&raw.requests) != 2)
        fail_msg("%s: %u connections for %u requests", v->name, raw.connections, raw.requests);
}

static void replies_are_read_strictly(void **state) {
    (void)state;
    vector_piece = 0;
    assert_true(vectors_each(run_vector) > 130);
    vector_piece = 1;
    assert_true(vectors_each(run_vector) > 130);
}

static void what_is_packed_is_unpacked_or_refused(void **state) {
    (void)state;
    static const char *const rows[] = {
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n{\"a\"",
        "HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 4\r\n\r\n\x0b\x02\x80\x03",
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08", // and a zero byte:
                                                                                              // unfinished
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        say(rows[i], strlen(rows[i]) + (i == 2));
        expect_error(TD_ERR_UPSTREAM_GARBAGE, "encoding is broken");
    }
    say_well("Content-Encoding: Identity\r\n");
    expect_fine();
}

static void on_bare_event(void *user, const struct td_event *ev) {
    unsigned *over = user;
    if (ev->type != TD_EV_END && ev->type != TD_EV_ERROR)
        return;
    ++*over;
    drive_stop(&d);
}

// Byte by byte, so that the beginnings of lines must be kept: where there is no memory for them, that is the error, and
// the next request is fine.
static void without_memory_there_is_an_error(void **state) {
    (void)state;
    struct td_str body = TD_STR("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}");
    pthread_mutex_lock(&raw.lock);
    raw.piece = 1;
    pthread_mutex_unlock(&raw.lock);
    for (uint64_t n = 1; n <= 30; n++) {
        unsigned over = 0;
        struct td_attempt *a = NULL;
        struct td_attempt_spec spec = {.target = &d.target, .body = body, .on_event = on_bare_event, .user = &over};
        spec.grant = drive_grant(&d, TD_GRANT_INFERENCE, TD_STR_NONE, body);
        spec.exchange_id = "x";
        td_remote_refresh(d.remote); // from the route on, everything is made anew
        td_alloc_fail_at(n);
        enum td_err err = d.backend->ops->start(d.backend, &spec, &a, NULL);
        if (!err)
            drive_run_ms(&d, 60000);
        assert_int_equal(over, err == TD_OK);
        d.backend->ops->destroy(d.backend, a);
        td_alloc_fail_at(0);
    }
    expect_fine();
}

// ---- when a connection is used again

static void a_connection_is_used_again(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++)
        expect_fine();
    assert_int_equal(count_of(&raw.connections), 1);
    assert_int_equal(count_of(&raw.requests), 5);
}

static void run_until_open(unsigned wanted) {
    for (int i = 0; i < 2000 && count_of(&raw.open) != wanted; i++)
        drive_run_ms(&d, 5);
    assert_int_equal(count_of(&raw.open), wanted);
}

static void not_where_the_server_has_hung_up(void **state) {
    (void)state;
    expect_fine();
    pthread_mutex_lock(&raw.lock);
    raw.close_idle = true;
    pthread_mutex_unlock(&raw.lock);
    run_until_open(0); // the loop hears of it
    drive_run_ms(&d, 20);
    expect_fine();
    // And where it did so while the loop was not looking.
    pthread_mutex_lock(&raw.lock);
    raw.close_idle = true;
    pthread_mutex_unlock(&raw.lock);
    while (count_of(&raw.open))
        usleep(1000);
    expect_fine();
    assert_int_equal(count_of(&raw.connections), 3);
    assert_int_equal(count_of(&raw.requests), 3);
}

static void not_where_it_said_something_unasked(void **state) {
    (void)state;
    expect_fine();
    pthread_mutex_lock(&raw.lock);
    raw.babble = true;
    pthread_mutex_unlock(&raw.lock);
    run_until_open(0); // we have closed it
    expect_fine();
    assert_int_equal(count_of(&raw.connections), 2);
}

static void not_longer_than_the_server_waits(void **state) {
    (void)state;
    say_well("Keep-Alive: timeout=1\r\n"); // less our margin, that is nothing
    expect_fine();
    expect_fine();
    assert_int_equal(count_of(&raw.connections), 2);
    say_well("Keep-Alive: timeout=2\r\n");
    expect_fine();
    expect_fine();
    assert_int_equal(count_of(&raw.connections), 3);
    run_until_open(0); // closed after its second, without anybody asking
    say_well("");
    expect_fine();
    assert_int_equal(count_of(&raw.connections), 4);
}

static void not_after_the_network_changed(void **state) {
    (void)state;
    expect_fine();
    td_remote_refresh(d.remote);
    run_until_open(0);
    expect_fine();
    assert_int_equal(count_of(&raw.connections), 2);
}

static void only_so_many_are_kept(void **state) {
    (void)state;
    static struct take all[10];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 10; i++) {
            all[i] = (struct take){0};
            assert_ok(take_start(&all[i], &d, "hello", false));
        }
        drive_run(&d);
        for (int i = 0; i < 10; i++) {
            assert_int_equal(all[i].ends, 1);
            take_finish(&all[i]);
        }
        run_until_open(3); // idle_connections_max
    }
    assert_int_equal(count_of(&raw.requests), 20);
    assert_true(count_of(&raw.connections) >= 10);
}

// The connection is back before the answer's end is heard: what is started from there takes it up.
static struct take follower;

static void start_follower(struct take *t) {
    (void)t;
    follower = (struct take){0};
    assert_ok(take_start(&follower, &d, "hello", false));
}

static void what_is_started_at_the_end_finds_it(void **state) {
    (void)state;
    struct take t = {.on_delta = start_follower};
    assert_ok(take_start(&t, &d, "hello", false));
    drive_run(&d);
    assert_int_equal(t.ends + follower.ends, 2);
    assert_int_equal(count_of(&raw.connections), 1);
    take_finish(&t);
    take_finish(&follower);
}

// ---- getting there

// A listener that is full drops what comes, as a firewall does.
static int black_hole(const char *address, uint16_t port, int fill[8]) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int hole = listen_on(address, &port, 0);
    assert_true(hole >= 0);
    inet_pton(AF_INET, address, &at.sin_addr);
    for (int i = 0; i < 8; i++) {
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(fill[i], (struct sockaddr *)&at, sizeof at);
    }
    return hole;
}

static void named(const char *name) {
    char url[64];
    snprintf(url, sizeof url, "http://%s:%u/v1", name, raw.port);
    drive_url(&d, url);
}

static void the_next_address_is_tried(void **state) {
    (void)state;
    struct take t;
    int fill[8];
    names_to[1] = "127.0.0.1";
    names_to[0] = "127.0.0.3"; // nobody listens
    named("refused.test");
    expect_fine();
    names_to[0] = "169.254.169.254"; // not allowed
    named("forbidden.test");
    expect_fine();
    names_to[0] = "127.0.0.2"; // answers nothing
    int hole = black_hole("127.0.0.2", raw.port, fill);
    named("silent.test");
    ask(&t);
    assert_int_equal(t.ends, 1);
    assert_true(t.end_ns - t.start_ns >= 240 * TD_MS_NS);
    take_finish(&t);
    assert_int_equal(count_of(&raw.requests), 3);
    // None answers: the limit for connecting holds for all together.
    d.target.timeouts.connect_ms = 400;
    names_to[1] = "127.0.0.2";
    named("both-silent.test");
    expect_error(TD_ERR_CONNECT, "no connection within 400 ms");
    names_to[0] = "169.254.169.254";
    names_to[1] = "0.0.0.0";
    named("both-forbidden.test");
    expect_error(TD_ERR_CONNECT, "not allowed");
    names_to[0] = "127.0.0.3";
    names_to[1] = "127.0.0.3";
    named("both-refused.test");
    expect_error(TD_ERR_CONNECT, "no connection");
    for (int i = 0; i < 8; i++)
        close(fill[i]);
    close(hole);
}

static void localhost_is_known_without_asking(void **state) {
    (void)state;
    names_to[0] = "203.0.113.1"; // would lead elsewhere
    names_to[1] = NULL;
    named("localhost");
    expect_fine(); // though nobody listens on ::1
    named("model.localhost");
    expect_fine();
    assert_int_equal(count_of(&raw.requests), 2);
}

// A neighbour on a link is found through the interface that its address names.
static void a_zone_names_the_interface(void **state) {
    (void)state;
    struct ifaddrs *all = NULL, *i;
    struct sockaddr_in6 at = {0};
    char text[64], url[160];
    struct take t = {0};
    socklen_t n = sizeof at;
    assert_int_equal(getifaddrs(&all), 0);
    for (i = all; i; i = i->ifa_next)
        if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET6 &&
            IN6_IS_ADDR_LINKLOCAL(&((struct sockaddr_in6 *)i->ifa_addr)->sin6_addr))
            break;
    if (!i) {
        freeifaddrs(all);
        skip(); // a machine without one
    }
    memcpy(&at, i->ifa_addr, sizeof at);
    at.sin6_port = 0;
    inet_ntop(AF_INET6, &at.sin6_addr, text, sizeof text);
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 4) == 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
    for (int number = 0; number < 2; number++) {
        if (number)
            snprintf(url, sizeof url, "http://[%s%%25%u]:%u/v1", text, at.sin6_scope_id, ntohs(at.sin6_port));
        else
            snprintf(url, sizeof url, "http://[%s%%25%s]:%u/v1", text, i->ifa_name, ntohs(at.sin6_port));
        drive_url(&d, url);
        d.target.timeouts.first_token_ms = 50;
        t = (struct take){0};
        assert_ok(take_start(&t, &d, "hello", true));
        drive_run(&d);
        if (t.code != TD_ERR_FIRST_TOKEN) // the connection stands, and nobody answers
            fail_msg("%s: %s (%s)", url, td_err_code(t.code), t.message);
        take_finish(&t);
    }
    close(fd);
    freeifaddrs(all);
}

// ---- the request

static void the_request_is_as_it_should_be(void **state) {
    (void)state;
    char want[1024];
    struct td_header custom[] = {{TD_STR("X-Team"), TD_STR("blue")}, {TD_STR("X-Empty"), TD_STR_NONE}};
    setenv("TD_TEST_KEY", "sk-test-1", 1);
    d.target.api_key_ref = TD_STR("env:TD_TEST_KEY");
    d.target.headers = custom;
    d.target.header_count = 2;
    expect_fine();
    pthread_mutex_lock(&raw.lock);
    int n = snprintf(want, sizeof want,
                     "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
                     "Accept: application/json\r\nAccept-Encoding: identity\r\nUser-Agent: tandem/0.1\r\n"
                     "authorization: Bearer sk-test-1\r\nX-Team: blue\r\nX-Empty:\r\nContent-Length: %zu\r\n"
                     "Idempotency-Key: key-1\r\n\r\n",
                     raw.port, raw.body_n);
    assert_int_equal(raw.request_n, n);
    assert_memory_equal(raw.request, want, raw.request_n);
    pthread_mutex_unlock(&raw.lock);
}

static char *big_body(size_t n) {
    char *p = malloc(n + 1);
    for (size_t i = 0; i < n; i++)
        p[i] = (char)('a' + i * 7 % 26);
    p[n] = 0;
    return p;
}

// More than the socket takes at once, to a server that is slow to read it.
static void a_large_request_goes_out_whole(void **state) {
    (void)state;
    size_t n = 9000001;
    char *body = big_body(n);
    struct take t = {0};
    pthread_mutex_lock(&raw.lock);
    raw.slow_us = 200;
    pthread_mutex_unlock(&raw.lock);
    assert_ok(take_start_body(&t, &d, TD_KIND_CHAT, body, false));
    drive_run(&d);
    assert_int_equal(t.ends, 1);
    assert_int_equal(raw.body_n, n);
    assert_int_equal(raw.body_sum, sum_of(body, n));
    take_finish(&t);
    pthread_mutex_lock(&raw.lock);
    raw.slow_us = 0;
    pthread_mutex_unlock(&raw.lock);
    expect_fine();
    assert_int_equal(count_of(&raw.connections), 1);
    free(body);
}

// Who answers before the request is whole has its answer taken, and not the rest of the request.
static void an_early_answer_counts(void **state) {
    (void)state;
    static const char no[] = "HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n";
    char *body = big_body(9000001);
    struct take t = {0};
    say(no, sizeof no - 1);
    pthread_mutex_lock(&raw.lock);
    raw.early = true;
    pthread_mutex_unlock(&raw.lock);
    assert_ok(take_start_body(&t, &d, TD_KIND_CHAT, body, false));
    drive_run(&d);
    assert_int_equal(t.http_status, 413);
    take_finish(&t);
    run_until_open(0); // such a connection is not used again
    free(body);
}

// An answer can end, event for event, before its request is out, and its reply go on as HTTP. With the answer's end the
// request's bytes are their owner's again: whatever stands there then must not be sent.
struct hasty {
    struct td_attempt *a;
    char *body;
    size_t n;
    bool pause, destroy;
    unsigned ends;
};

static void on_hasty(void *user, const struct td_event *ev) {
    struct hasty *h = user;
    if (ev->type == TD_EV_DELTA && h->pause) {
        d.backend->ops->pause(d.backend, h->a);
        drive_stop(&d);
    }
    if (ev->type != TD_EV_END && ev->type != TD_EV_ERROR)
        return;
    h->ends += ev->type == TD_EV_END;
    memset(h->body, '#', h->n);
    if (h->destroy) {
        d.backend->ops->destroy(d.backend, h->a);
        h->a = NULL;
    }
    drive_stop(&d);
}

static void with_the_answer_the_request_ends(void **state) {
    (void)state;
    static const char events[] =
        CHUNK("\"delta\":{\"content\":\"fine\"}") CHUNK("\"delta\":{},\"finish_reason\":\"stop\"") "data: [DONE]\n\n";
    static char reply[1024]; // read by the server
    int n = snprintf(reply, sizeof reply,
                     "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "%zx\r\n%s\r\n",
                     sizeof events - 1, events);
    char proxy[64];
    snprintf(proxy, sizeof proxy, "http://127.0.0.1:%u", raw.port);
    for (unsigned i = 0; i < 8; i++) {
        struct hasty h = {.n = 9000001, .pause = i & 1, .destroy = i & 2};
        h.body = big_body(h.n);
        struct td_attempt_spec spec = {.target = &d.target, .stream = true, .on_event = on_hasty, .user = &h};
        spec.body = td_str_n(h.body, h.n);
        spec.exchange_id = "x";
        fresh(NULL);
        if (i & 4) // carried by libcurl
            d.target.proxy = td_str_of(proxy);
        spec.grant = drive_grant(&d, TD_GRANT_INFERENCE, TD_STR_NONE, spec.body);
        say(reply, (size_t)n);
        pthread_mutex_lock(&raw.lock);
        raw.early = raw.stall = true;
        pthread_mutex_unlock(&raw.lock);
        assert_ok(d.backend->ops->start(d.backend, &spec, &h.a, NULL));
        drive_run_ms(&d, 60000);
        if (h.pause) {
            assert_int_equal(h.ends, 0);
            d.backend->ops->resume(d.backend, h.a);
            drive_run_ms(&d, 60000);
        }
        assert_int_equal(h.ends, 1);
        pthread_mutex_lock(&raw.lock);
        raw.stall = false;
        pthread_mutex_unlock(&raw.lock);
        run_until_open(0); // such a connection cannot be kept
        assert_int_equal(count_of(&raw.strange), 0);
        d.backend->ops->destroy(d.backend, h.a);
        d.target.proxy = TD_STR_NONE;
        free(h.body);
    }
}

// ---- what is held back

static void stop_and_starve(struct take *t) {
    if (t->deltas > 2)
        return;
    d.backend->ops->pause(d.backend, t->attempt);
    td_alloc_fail_at(t->deltas == 2 ? 1 : 0);
    drive_stop(&d);
}

// Paused again while what was held back is handed up, with no memory just then: nothing of the answer is missing.
static void a_second_pause_loses_nothing(void **state) {
    (void)state;
    static const char events[] = CHUNK("\"delta\":{\"content\":\"a\"}") CHUNK("\"delta\":{\"content\":\"b\"}")
        CHUNK("\"delta\":{\"content\":\"c\"}") CHUNK("\"delta\":{},\"finish_reason\":\"stop\"") "data: [DONE]\n\n";
    static char reply[1024]; // read by the server
    int n = snprintf(reply, sizeof reply,
                     "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %zu\r\n\r\n%s",
                     sizeof events - 1, events);
    struct take t = {.on_delta = stop_and_starve};
    say(reply, (size_t)n);
    assert_ok(take_start(&t, &d, "hello", true));
    for (unsigned i = 1; i <= 2; i++) {
        drive_run_ms(&d, 60000);
        td_alloc_fail_at(0);
        assert_int_equal(t.deltas, i);
        d.backend->ops->resume(d.backend, t.attempt);
    }
    drive_run(&d);
    assert_int_equal(t.ends, 1);
    assert_true(td_str_is(td_buf_str(&t.text), "abc"));
    take_finish(&t);
}

// ---- all of it at once

static unsigned roll(unsigned sides) {
    return roll_one(&dices[0], sides);
}

struct some {
    struct td_attempt *a;
    unsigned number, deltas;
    bool paused, over;
    char *body;
};
static struct some some[24];
static unsigned numbers, whole_ones;

static void some_end(struct some *s) {
    d.backend->ops->destroy(d.backend, s->a);
    free(s->body);
    *s = (struct some){0};
}

static void on_some(void *user, const struct td_event *ev) {
    struct some *s = user;
    char want[16];
    drive_stop(&d);
    assert_true(s->a && !s->over);
    if (ev->type == TD_EV_DELTA && ev->delta.text.n) {
        snprintf(want, sizeof want, "<%u>", s->number);
        assert_true(!s->paused && td_str_is(ev->delta.text, want));
        s->deltas++;
    }
    s->over = ev->type == TD_EV_END || ev->type == TD_EV_ERROR;
    if (ev->type == TD_EV_END) {
        assert_int_equal(s->deltas, 4);
        whole_ones++;
    }
    if (s->over) {
        free(s->body);
        s->body = NULL;
    }
    if (roll(12) == 0 && ev->type == TD_EV_DELTA) { // events of one line come together
        s->paused = true;
        d.backend->ops->pause(d.backend, s->a);
    } else if (roll(12) == 0) {
        some_end(s);
    } else if (roll(40) == 0) {
        td_remote_refresh(d.remote);
    }
}

static void some_start(struct some *s) {
    size_t pad = roll(8) ? 10 : roll(2000000);
    s->number = ++numbers;
    s->body = malloc(pad + 64);
    int n = sprintf(s->body, "{\"messages\":\"no=%u %*s\"}", s->number, (int)pad, "");
    struct td_attempt_spec spec = {.target = &d.target, .stream = true, .on_event = on_some, .user = s};
    spec.body = td_str_n(s->body, (size_t)n);
    spec.exchange_id = "x";
    spec.grant = drive_grant(&d, TD_GRANT_INFERENCE, TD_STR_NONE, spec.body);
    assert_ok(d.backend->ops->start(d.backend, &spec, &s->a, NULL));
}

// Many at a time, paused, resumed and ended at any moment, also from inside their events, on connections that break in
// every way: nobody hears another's answer, or anything of a half one as a whole, or anything after the end.
static void whatever_happens_nothing_is_mixed_up(void **state) {
    (void)state;
    const char *more = getenv("TD_TEST_WHOLE");
    unsigned wanted = more ? (unsigned)atol(more) : 200;
    pthread_mutex_lock(&raw.lock);
    raw.wild = true;
    pthread_mutex_unlock(&raw.lock);
    while (whole_ones < wanted) {
        struct some *s = &some[roll(24)];
        if (!s->a)
            some_start(s);
        else if (s->over || roll(60) == 0)
            some_end(s);
        else if (s->paused && roll(2)) {
            s->paused = false;
            d.backend->ops->resume(d.backend, s->a);
        }
        if (roll(3) == 0) // until somebody hears something, so that a slow machine has the same story
            drive_run_ms(&d, 100);
    }
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        if (some[i].a)
            some_end(&some[i]);
    td_remote_refresh(d.remote);
    run_until_open(0);
}

int main(void) {
#define T(name) cmocka_unit_test_setup(name, fresh)
    const struct CMUnitTest tests[] = {
        T(replies_are_read_strictly),
        T(what_is_packed_is_unpacked_or_refused),
        T(without_memory_there_is_an_error),
        T(a_connection_is_used_again),
        T(not_where_the_server_has_hung_up),
        T(not_where_it_said_something_unasked),
        T(not_longer_than_the_server_waits),
        T(not_after_the_network_changed),
        T(only_so_many_are_kept),
        T(what_is_started_at_the_end_finds_it),
        T(the_next_address_is_tried),
        T(localhost_is_known_without_asking),
        T(a_zone_names_the_interface),
        T(the_request_is_as_it_should_be),
        T(a_large_request_goes_out_whole),
        T(an_early_answer_counts),
        T(with_the_answer_the_request_ends),
        T(a_second_pause_loses_nothing),
        T(whatever_happens_nothing_is_mixed_up),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
