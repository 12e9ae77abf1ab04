// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <netinet/in.h>

#include "remote/address.h"

static enum td_scope scope(const char *text) {
    struct sockaddr_storage a;
    assert_true(td_address_literal(td_str_of(text), &a));
    return td_address_scope((const struct sockaddr *)(const void *)&a);
}

static void scopes_are_told_apart(void **state) {
    (void)state;
    static const struct {
        const char *address;
        enum td_scope scope;
    } rows[] = {
        {"1.1.1.1", TD_SCOPE_GLOBAL},
        {"9.255.255.255", TD_SCOPE_GLOBAL},
        {"10.0.0.0", TD_SCOPE_PRIVATE},
        {"10.255.255.255", TD_SCOPE_PRIVATE},
        {"11.0.0.0", TD_SCOPE_GLOBAL},
        {"172.15.255.255", TD_SCOPE_GLOBAL},
        {"172.16.0.0", TD_SCOPE_PRIVATE},
        {"172.31.255.255", TD_SCOPE_PRIVATE},
        {"172.32.0.0", TD_SCOPE_GLOBAL},
        {"192.168.1.1", TD_SCOPE_PRIVATE},
        {"100.64.0.1", TD_SCOPE_PRIVATE},
        {"100.128.0.0", TD_SCOPE_GLOBAL},
        {"127.0.0.1", TD_SCOPE_LOOPBACK},
        {"127.255.0.9", TD_SCOPE_LOOPBACK},
        {"169.254.0.1", TD_SCOPE_LINK_LOCAL},
        {"169.254.169.254", TD_SCOPE_METADATA},
        {"169.254.170.2", TD_SCOPE_METADATA},
        {"100.100.100.200", TD_SCOPE_METADATA},
        {"0.0.0.0", TD_SCOPE_UNUSABLE},
        {"224.0.0.1", TD_SCOPE_UNUSABLE},
        {"255.255.255.255", TD_SCOPE_UNUSABLE},
        {"::1", TD_SCOPE_LOOPBACK},
        {"[::1]", TD_SCOPE_LOOPBACK},
        {"::", TD_SCOPE_UNUSABLE},
        {"fe80::1", TD_SCOPE_LINK_LOCAL},
        {"fe80::1%eth0", TD_SCOPE_LINK_LOCAL},
        {"fd00:ec2::254", TD_SCOPE_METADATA},
        {"fd00::1", TD_SCOPE_PRIVATE},
        {"2606:4700::1111", TD_SCOPE_GLOBAL},
        {"ff02::1", TD_SCOPE_UNUSABLE},
        // An IPv4 address in disguise is what it leads to.
        {"::ffff:127.0.0.1", TD_SCOPE_LOOPBACK},
        {"::ffff:169.254.169.254", TD_SCOPE_METADATA},
        {"::ffff:a9fe:a9fe", TD_SCOPE_METADATA},
        {"64:ff9b::a9fe:a9fe", TD_SCOPE_METADATA},
        {"2002:7f00:1::", TD_SCOPE_LOOPBACK},
        {"::127.0.0.1", TD_SCOPE_LOOPBACK},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (scope(rows[i].address) != rows[i].scope)
            fail_msg("%s: %d instead of %d", rows[i].address, (int)scope(rows[i].address), (int)rows[i].scope);
}

static void names_are_no_literals(void **state) {
    (void)state;
    struct sockaddr_storage a;
    const char *names[] = {"",      "localhost",  "example.com", "0x7f000001", "2130706433",
                           "127.1", "127.0.0.1.", "0177.0.0.1",  "1.2.3.256",  "[::1"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_false(td_address_literal(td_str_of(names[i]), &a));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(scopes_are_told_apart),
                                       cmocka_unit_test(names_are_no_literals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
