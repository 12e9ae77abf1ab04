// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include "base/hash.h"
#include "base/url.h"

static void what_is_accepted_reads_one_way(void **state) {
    (void)state;
    static const struct {
        const char *text, *host, *path;
        uint16_t port;
        bool tls, loopback;
    } rows[] = {
        {"https://api.example.com/v1", "api.example.com", "/v1", 443, true, false},
        {"https://api.example.com/v1///", "api.example.com", "/v1", 443, true, false},
        {"http://127.0.0.1:8080", "127.0.0.1", "", 8080, false, true},
        {"http://127.255.0.9/", "127.255.0.9", "", 80, false, true},
        {"http://localhost:1", "localhost", "", 1, false, true},
        {"http://LOCALHOST", "LOCALHOST", "", 80, false, true},
        {"http://[::1]:65535/a/b", "::1", "/a/b", 65535, false, true},
        {"https://[2001:db8::1]", "2001:db8::1", "", 443, true, false},
        {"https://localhost.example.com", "localhost.example.com", "", 443, true, false},
        {"https://my_host-1.lan", "my_host-1.lan", "", 443, true, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct td_url u;
        struct td_error e;
        if (td_url_parse(td_str_of(rows[i].text), &u, &e) != TD_OK)
            fail_msg("%s: %s", rows[i].text, e.message);
        assert_str(u.host, rows[i].host);
        assert_str(u.path, rows[i].path);
        assert_int_equal(u.port, rows[i].port);
        assert_int_equal(u.tls, rows[i].tls);
        assert_int_equal(u.loopback, rows[i].loopback);
    }
}

// The shapes by which two parsers were made to read two hosts (CVE-2024-6587, CVE-2026-24779, CVE-2026-25960).
static void what_could_be_read_two_ways_is_refused(void **state) {
    (void)state;
    static const char *const rows[] = {
        "",
        "api.example.com",
        "ftp://a.b",
        "HTTPS://a.b",
        "https://",
        "https:///v1",
        "https://user@a.b",
        "https://a.b@c.d/",
        "https://a.b\\@c.d",
        "https://a.b#@c.d",
        "https://a.b?x=1",
        "https://a.b/%2e%2e/x?y",
        "https://a b",
        "https://a.b/\r\nx",
        "https://ż.pl",
        "https://%61.b",
        "https://a..b",
        "https://.a",
        "https://a.",
        "https://-a.b",
        "https://a-.b",
        "https://0x7f000001",
        "https://0x7f.1",
        "https://2130706433",
        "https://127.1",
        "https://127.0.0.01",
        "https://0177.0.0.1",
        "https://1.2.3.4.5",
        "https://256.1.1.1",
        "https://[::1",
        "https://[::1]x",
        "https://[fe80::1%25eth0]",
        "https://[1.2.3.4]",
        "https://a.b:",
        "https://a.b:0",
        "https://a.b:65536",
        "https://a.b:80a",
        "https://a.b:+80",
        "https://a.b/../admin",
        "https://a.b/./x",
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct td_url u;
        struct td_error e = {0};
        if (td_url_parse(td_str_of(rows[i]), &u, &e) != TD_ERR_CONFIG || !e.message[0])
            fail_msg("'%s' was accepted", rows[i]);
    }
    assert_int_equal(td_url_parse(td_str_n("https://a\0.b", 12), &(struct td_url){0}, NULL), TD_ERR_CONFIG);
}

static void length_is_limited(void **state) {
    (void)state;
    char text[TD_URL_BYTES_MAX + 1];
    struct td_url u;
    memset(text, 'a', sizeof text);
    memcpy(text, "https://a.b/", 12);
    assert_ok(td_url_parse(td_str_n(text, TD_URL_BYTES_MAX), &u, NULL));
    assert_int_equal(td_url_parse(td_str_n(text, TD_URL_BYTES_MAX + 1), &u, NULL), TD_ERR_CONFIG);
}

// The reference value of SipHash-2-4's paper (appendix A): key 00..0f, message 00..0e.
static void siphash_is_siphash(void **state) {
    (void)state;
    uint8_t key[16], message[15];
    for (uint8_t i = 0; i < 16; i++)
        key[i] = i;
    for (uint8_t i = 0; i < 15; i++)
        message[i] = i;
    assert_true(td_siphash(key, td_str_n((const char *)message, 15)) == 0xa129ca6149be45e5u);
    assert_true(td_hash64(TD_STR("a")) != td_hash64(TD_STR("b")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_accepted_reads_one_way),
        cmocka_unit_test(what_could_be_read_two_ways_is_refused),
        cmocka_unit_test(length_is_limited),
        cmocka_unit_test(siphash_is_siphash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
