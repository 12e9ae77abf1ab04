// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include "server/access.h"

struct listener {
    struct td_listen_settings settings;
    struct td_listen_address address;
    struct td_access access;
};

static void listen_on(struct listener *l, const char *address, unsigned port, bool tls) {
    memset(l, 0, sizeof *l);
    l->settings.address = address;
    l->settings.port = port;
    assert_ok(td_listen_address_read(address, port, &l->address, NULL));
    l->access = (struct td_access){&l->settings, &l->address, port, tls};
}

static bool host(const struct listener *l, const char *value) {
    return td_access_host(&l->access, td_str_of(value), "");
}

static bool origin(const struct listener *l, const char *value, const char *with_host) {
    return td_access_origin(&l->access, td_str_of(value), td_str_of(with_host));
}

static void addresses_that_other_machines_reach_need_keys_and_tls(void **state) {
    (void)state;
    static const char *const outside[] = {"0.0.0.0",        "::",        "[::]",
                                          "192.168.1.5",    "10.0.0.1",  "2001:db8::1",
                                          "169.254.1.1",    "128.0.0.1", "126.255.255.255",
                                          "::ffff:8.8.8.8", "fe80::1"};
    static const char *const inside[] = {
        "127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "::ffff:127.0.0.1", "unix:/run/tandem.sock"};
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
        struct listener l;
        listen_on(&l, inside[i], 8484, false);
        assert_ok(td_access_check_exposure(&l.address, &l.settings, NULL));
    }
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        struct listener l;
        struct td_error e = {.code = TD_OK};
        listen_on(&l, outside[i], 8484, false);
        l.settings.loopback = true; // what the configuration believes does not matter
        assert_int_equal(td_access_check_exposure(&l.address, &l.settings, &e), TD_ERR_EXPOSED);
        assert_non_null(strstr(e.message, "neither API keys nor TLS"));
        l.settings.has_keys = true;
        assert_int_equal(td_access_check_exposure(&l.address, &l.settings, &e), TD_ERR_EXPOSED);
        assert_non_null(strstr(e.message, "TLS is not set up"));
        l.settings.tls_cert = "c.pem";
        assert_int_equal(td_access_check_exposure(&l.address, &l.settings, &e), TD_ERR_EXPOSED);
        l.settings.tls_key = "k.pem";
        assert_ok(td_access_check_exposure(&l.address, &l.settings, &e));
        l.settings.has_keys = false;
        assert_int_equal(td_access_check_exposure(&l.address, &l.settings, &e), TD_ERR_EXPOSED);
        assert_non_null(strstr(e.message, "there is no API key"));
    }
}

static void what_is_no_address_is_refused(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "",       "example.com", "127.0.0.1:80", "127.0.0.256", "[127.0.0.1]", "unix:relative",
        "0x7f.1", "127.1",       "::1]",         "unix:"};
    struct td_listen_address a;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(td_listen_address_read(wrong[i], 8484, &a, NULL), TD_ERR_LISTEN);
    assert_int_equal(td_listen_address_read("127.0.0.1", 65536, &a, NULL), TD_ERR_LISTEN);
    assert_ok(td_listen_address_read("127.0.0.1", 65535, &a, NULL));
    char path[200] = "unix:/";
    memset(path + 6, 'a', 107 - 1); // sun_path holds 108 with its NUL
    assert_ok(td_listen_address_read(path, 0, &a, NULL));
    path[6 + 106] = 'a';
    assert_int_equal(td_listen_address_read(path, 0, &a, NULL), TD_ERR_LISTEN);
}

static void only_exact_hosts_pass_on_loopback(void **state) {
    (void)state;
    struct listener l;
    listen_on(&l, "127.0.0.1", 8484, false);
    static const char *const right[] = {"127.0.0.1:8484", "localhost:8484", "LocalHost:8484", "[::1]:8484"};
    static const char *const wrong[] = {
        "",
        "127.0.0.1",
        "localhost",
        "127.0.0.1:80",
        "127.0.0.1:08484",
        "127.0.0.1:84840",
        "127.0.0.1:8484 ",
        "127.0.0.1.:8484",
        "localhost.:8484",
        "localhost.evil.example:8484",
        "evil.example:8484",
        "127.0.0.1.nip.io:8484",
        "a@127.0.0.1:8484",
        "127.0.0.1:8484@evil.example",
        "127.0.0.1:8484,evil.example",
        "127.1:8484",
        "2130706433:8484",
        "0x7f000001:8484",
        "0.0.0.0:8484",
        "[::]:8484",
        "::1:8484",
        "[0:0:0:0:0:0:0:1]:8484",
        "[::ffff:127.0.0.1]:8484",
        "127.0.0.2:8484",
        ":8484",
        "localhost:",
        "localhost:8484:8484",
        "localhost:+8484",
        "[::1:8484",
    };
    for (size_t i = 0; i < sizeof right / sizeof *right; i++)
        assert_true(host(&l, right[i]));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(host(&l, wrong[i]));
}

static void configured_hosts_pass_with_their_port(void **state) {
    (void)state;
    struct listener l;
    static const char *const hosts[] = {"ai.example", "gate.example:9000"};
    listen_on(&l, "127.0.0.1", 8484, false);
    l.settings.hosts = hosts;
    l.settings.host_count = 2;
    assert_true(host(&l, "ai.example"));
    assert_true(host(&l, "AI.Example:8484"));
    assert_true(host(&l, "gate.example:9000"));
    assert_false(host(&l, "ai.example:9000"));
    assert_false(host(&l, "gate.example"));
    assert_false(host(&l, "gate.example:8484"));
    assert_false(host(&l, "x.ai.example"));
    assert_false(host(&l, "ai.example.evil.example"));
}

static void default_ports_may_be_left_out(void **state) {
    (void)state;
    struct listener l;
    listen_on(&l, "127.0.0.1", 443, true);
    assert_true(host(&l, "localhost"));
    l.access.tls = false;
    assert_false(host(&l, "localhost"));
    listen_on(&l, "127.0.0.1", 80, false);
    assert_true(host(&l, "localhost"));
}

static void a_wildcard_answers_to_the_address_that_was_reached(void **state) {
    (void)state;
    struct listener l;
    listen_on(&l, "0.0.0.0", 8484, true);
    assert_true(td_access_host(&l.access, TD_STR("192.168.1.5:8484"), "192.168.1.5"));
    assert_false(td_access_host(&l.access, TD_STR("192.168.1.6:8484"), "192.168.1.5"));
    assert_false(td_access_host(&l.access, TD_STR("evil.example:8484"), "192.168.1.5"));
    assert_false(td_access_host(&l.access, TD_STR("0.0.0.0:8484"), "192.168.1.5"));
    assert_true(td_access_host(&l.access, TD_STR("localhost:8484"), "127.0.0.1"));
    listen_on(&l, "192.168.1.5", 8484, true);
    assert_true(host(&l, "192.168.1.5:8484"));
}

static void a_unix_socket_does_not_ask_for_a_port(void **state) {
    (void)state;
    struct listener l;
    listen_on(&l, "unix:/run/t.sock", 0, false);
    assert_true(host(&l, "localhost"));
    assert_true(host(&l, "localhost:1234"));
    assert_false(host(&l, "evil.example"));
    assert_false(host(&l, ""));
}

static void pages_of_other_origins_stay_outside(void **state) {
    (void)state;
    struct listener l;
    static const char *const origins[] = {"https://app.example"};
    listen_on(&l, "127.0.0.1", 8484, false);
    assert_true(origin(&l, "http://127.0.0.1:8484", "127.0.0.1:8484"));
    assert_false(origin(&l, "http://localhost:8484", "127.0.0.1:8484"));
    assert_false(origin(&l, "https://127.0.0.1:8484", "127.0.0.1:8484"));
    assert_false(origin(&l, "http://127.0.0.1:3000", "127.0.0.1:8484"));
    assert_false(origin(&l, "http://127.0.0.1", "127.0.0.1:8484"));
    assert_false(origin(&l, "null", "127.0.0.1:8484"));
    assert_false(origin(&l, "", "127.0.0.1:8484"));
    assert_false(origin(&l, "file://", "127.0.0.1:8484"));
    assert_false(origin(&l, "https://app.example", "127.0.0.1:8484"));
    l.settings.origins = origins;
    l.settings.origin_count = 1;
    assert_true(origin(&l, "https://app.example", "127.0.0.1:8484"));
    assert_false(origin(&l, "https://app.example.evil.example", "127.0.0.1:8484"));
    assert_false(origin(&l, "http://app.example", "127.0.0.1:8484"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_that_other_machines_reach_need_keys_and_tls),
        cmocka_unit_test(what_is_no_address_is_refused),
        cmocka_unit_test(only_exact_hosts_pass_on_loopback),
        cmocka_unit_test(configured_hosts_pass_with_their_port),
        cmocka_unit_test(default_ports_may_be_left_out),
        cmocka_unit_test(a_wildcard_answers_to_the_address_that_was_reached),
        cmocka_unit_test(a_unix_socket_does_not_ask_for_a_port),
        cmocka_unit_test(pages_of_other_origins_stay_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
