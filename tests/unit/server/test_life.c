// SPDX-License-Identifier: Apache-2.0
// The listener from start to stop: settings that are refused, reloads, draining, sockets of its own, want of memory.
#include "house.h"

#include <sys/stat.h>

#include "docs.h"
#include "server/answer.h"

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
    char row[120], *text = docs_read("errors.md");
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        snprintf(row, sizeof row, "| `%s` | %d |", td_answer_code(statuses[i]), statuses[i]);
        if (!strstr(text, row))
            fail_msg("docs/errors.md lacks: %s", row);
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
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
