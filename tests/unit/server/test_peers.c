// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>

#include "server/peers.h"

static struct td_peer_key key_of(const char *text) {
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
        return td_peer_key_of((struct sockaddr *)&v4);
    assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
    return td_peer_key_of((struct sockaddr *)&v6);
}

static void an_address_holds_its_share_and_no_more(void **state) {
    (void)state;
    struct td_peers peers;
    assert_ok(td_peers_init(&peers, 4096));
    struct td_peer_key a = key_of("192.0.2.1"), b = key_of("192.0.2.2");
    for (int i = 0; i < 64; i++)
        assert_true(td_peers_enter(&peers, a, 64));
    assert_false(td_peers_enter(&peers, a, 64));
    assert_true(td_peers_enter(&peers, b, 64));
    td_peers_leave(&peers, a);
    assert_true(td_peers_enter(&peers, a, 64));
    assert_false(td_peers_enter(&peers, a, 64));
    td_peers_finish(&peers);
}

static void loopback_is_exempt(void **state) {
    (void)state;
    struct td_peers peers;
    assert_ok(td_peers_init(&peers, 16));
    for (int i = 0; i < 1000; i++) {
        assert_true(td_peers_enter(&peers, key_of("127.0.0.1"), 1));
        assert_true(td_peers_enter(&peers, key_of("::1"), 1));
    }
    td_peers_finish(&peers);
}

static void one_network_of_ipv6_counts_as_one(void **state) {
    (void)state;
    struct td_peers peers;
    assert_ok(td_peers_init(&peers, 16));
    assert_true(td_peers_enter(&peers, key_of("2001:db8:1:2::1"), 1));
    assert_false(td_peers_enter(&peers, key_of("2001:db8:1:2:ffff::9"), 1));
    assert_true(td_peers_enter(&peers, key_of("2001:db8:1:3::1"), 1));
    assert_true(td_peers_enter(&peers, key_of("::ffff:192.0.2.1"), 1));
    assert_false(td_peers_enter(&peers, key_of("192.0.2.1"), 1));
    td_peers_finish(&peers);
}

// Addresses come and go in random order; counts must come out right whatever rows they share.
static void counts_survive_any_order(void **state) {
    (void)state;
    enum { ADDRESSES = 60, STEPS = 200000 };
    struct td_peers peers;
    unsigned held[ADDRESSES] = {0}, total = 0, seed = 7;
    assert_ok(td_peers_init(&peers, ADDRESSES));
    for (int step = 0; step < STEPS; step++) {
        seed = seed * 1664525 + 1013904223;
        unsigned who = seed >> 8 & 63, enter = seed >> 20 & 1;
        if (who >= ADDRESSES)
            continue;
        char text[32];
        snprintf(text, sizeof text, "192.0.2.%u", who);
        if (enter) {
            assert_int_equal(td_peers_enter(&peers, key_of(text), 3), held[who] < 3);
            held[who] += held[who] < 3;
        } else if (held[who]) {
            td_peers_leave(&peers, key_of(text));
            held[who]--;
        }
    }
    for (int i = 0; i < ADDRESSES; i++)
        total += held[i];
    assert_true(total > 0);
    td_peers_finish(&peers);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_holds_its_share_and_no_more),
        cmocka_unit_test(loopback_is_exempt),
        cmocka_unit_test(one_network_of_ipv6_counts_as_one),
        cmocka_unit_test(counts_survive_any_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
