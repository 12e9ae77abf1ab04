// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include "remote/grant.h"

static struct td_arena arena;
static struct td_target cloud, other;
static const struct td_egress_check fine = {
    .allowed = true, .data_class = TD_CLASS_INTERNAL, .labels = 1, .policy_version = 7};

static int setup(void **state) {
    (void)state;
    td_arena_init(&arena, 1 << 20);
    cloud = (struct td_target){.name = TD_STR("cloud"),
                               .tier = TD_TIER_CLOUD,
                               .base_url = TD_STR("https://api.example.com/v1"),
                               .region = TD_STR("eu"),
                               .clearance = TD_CLASS_INTERNAL,
                               .clearance_stated = true,
                               .labels_cleared = 3};
    other = cloud;
    other.name = TD_STR("other");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    td_arena_finish(&arena);
    return 0;
}

static struct td_grant_terms terms_of(const struct td_target *t) {
    return (struct td_grant_terms){.kind = TD_GRANT_INFERENCE, .target = t};
}

static struct td_grant *issue(struct td_str bytes) {
    struct td_grant *g = NULL;
    struct td_grant_terms terms = terms_of(&cloud);
    assert_ok(td_grant_issue(&arena, &fine, &terms, bytes, &g, NULL));
    return g;
}

static void a_grant_covers_its_bytes_once(void **state) {
    (void)state;
    struct td_grant_terms terms = terms_of(&cloud);
    struct td_grant *g = issue(TD_STR("hello"));
    assert_int_equal(td_grant_policy_version(g), 7);
    assert_ok(td_grant_consume(g, &terms, TD_STR("hello"), 7, NULL));
    assert_int_equal(td_grant_consume(g, &terms, TD_STR("hello"), 7, NULL), TD_ERR_GRANT);
}

static void a_grant_covers_nothing_else(void **state) {
    (void)state;
    struct td_grant_terms terms = terms_of(&cloud), elsewhere = terms_of(&other), probe = terms;
    probe.kind = TD_GRANT_PROBE;
    struct td_error e = {0};
    assert_int_equal(td_grant_consume(issue(TD_STR("hello")), &terms, TD_STR("hellp"), 0, &e), TD_ERR_GRANT);
    assert_int_equal(e.code, TD_ERR_GRANT);
    assert_int_equal(td_grant_consume(issue(TD_STR("hello")), &terms, TD_STR("hell"), 0, NULL), TD_ERR_GRANT);
    assert_int_equal(td_grant_consume(issue(TD_STR("hello")), &elsewhere, TD_STR("hello"), 0, NULL), TD_ERR_GRANT);
    assert_int_equal(td_grant_consume(issue(TD_STR("hello")), &probe, TD_STR("hello"), 0, NULL), TD_ERR_GRANT);
    assert_int_equal(td_grant_consume(NULL, &terms, TD_STR("hello"), 0, NULL), TD_ERR_GRANT);
    assert_int_equal(td_grant_consume(issue(TD_STR("hello")), &terms, TD_STR("hello"), 8, NULL), TD_ERR_GRANT);
    // The address changed under the same name.
    struct td_grant *g = issue(TD_STR("hello"));
    cloud.base_url = TD_STR("https://evil.example.com/v1");
    assert_int_equal(td_grant_consume(g, &terms, TD_STR("hello"), 0, NULL), TD_ERR_GRANT);
}

static void a_refused_grant_is_used_up(void **state) {
    (void)state;
    struct td_grant_terms terms = terms_of(&cloud);
    struct td_grant *g = issue(TD_STR("hello"));
    assert_int_equal(td_grant_consume(g, &terms, TD_STR("bye"), 0, NULL), TD_ERR_GRANT);
    assert_int_equal(td_grant_consume(g, &terms, TD_STR("hello"), 0, NULL), TD_ERR_GRANT);
}

static void a_grant_changed_by_hand_is_refused(void **state) {
    (void)state;
    struct td_grant_terms terms = terms_of(&cloud);
    for (size_t i = 0; i < TD_GRANT_MAC_BYTES + 36; i++) { // all but the mark of its use
        struct td_grant *g = issue(TD_STR("hello"));
        ((unsigned char *)g)[i] ^= 1;
        assert_int_equal(td_grant_consume(g, &terms, TD_STR("hello"), 0, NULL), TD_ERR_GRANT);
    }
}

static enum td_err try_issue(struct td_egress_check check, struct td_grant_terms terms, struct td_str bytes) {
    struct td_grant *g = NULL;
    enum td_err err = td_grant_issue(&arena, &check, &terms, bytes, &g, NULL);
    assert_true((err == TD_OK) == (g != NULL));
    return err;
}

static void evidence_must_carry_it(void **state) {
    (void)state;
    struct td_egress_check check = {0};
    struct td_grant_terms terms = terms_of(&cloud);
    assert_int_equal(try_issue(check, terms, TD_STR("x")), TD_ERR_GRANT);
    check = fine;
    check.allowed = false;
    assert_int_equal(try_issue(check, terms, TD_STR("x")), TD_ERR_GRANT);
    check = fine;
    check.data_class = TD_CLASS_UNKNOWN;
    assert_int_equal(try_issue(check, terms, TD_STR("x")), TD_ERR_GRANT);
    check.data_class = TD_CLASS_CONFIDENTIAL;
    assert_int_equal(try_issue(check, terms, TD_STR("x")), TD_ERR_GRANT);
    check = fine;
    check.labels = 4;
    assert_int_equal(try_issue(check, terms, TD_STR("x")), TD_ERR_GRANT);
    check = fine;
    check.policy_version = 0;
    assert_int_equal(try_issue(check, terms, TD_STR("x")), TD_ERR_GRANT);
    cloud.region = TD_STR_NONE; // unstated: public only
    assert_int_equal(try_issue(fine, terms, TD_STR("x")), TD_ERR_GRANT);
    check = fine;
    check.data_class = TD_CLASS_PUBLIC;
    assert_ok(try_issue(check, terms, TD_STR("x")));
    terms.target = NULL;
    assert_int_equal(try_issue(fine, terms, TD_STR("x")), TD_ERR_GRANT);
    terms = (struct td_grant_terms){.kind = TD_GRANT_WEBHOOK, .url = TD_STR("https://h.example/")};
    assert_ok(try_issue(fine, terms, TD_STR("x")));
    terms = (struct td_grant_terms){.kind = TD_GRANT_PROBE, .target = &cloud};
    assert_ok(try_issue(fine, terms, TD_STR_NONE));
    assert_int_equal(try_issue(fine, terms, TD_STR("x")), TD_ERR_GRANT);
}

static void the_receipt_is_keyed(void **state) {
    (void)state;
    unsigned char key[2][TD_GRANT_MAC_BYTES] = {{1}, {2}}, mac[3][TD_GRANT_MAC_BYTES];
    struct td_grant *g;
    for (int i = 0; i < 3; i++) {
        struct td_grant_terms terms = terms_of(&cloud);
        terms.receipt_key = key[i % 2];
        assert_ok(td_grant_issue(&arena, &fine, &terms, TD_STR("yes"), &g, NULL));
        td_grant_mac(g, mac[i]);
        assert_ok(td_grant_consume(g, &terms, TD_STR("yes"), 7, NULL));
    }
    assert_memory_not_equal(mac[0], mac[1], TD_GRANT_MAC_BYTES);
    assert_memory_equal(mac[0], mac[2], TD_GRANT_MAC_BYTES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_grant_covers_its_bytes_once, setup, teardown),
        cmocka_unit_test_setup_teardown(a_grant_covers_nothing_else, setup, teardown),
        cmocka_unit_test_setup_teardown(a_refused_grant_is_used_up, setup, teardown),
        cmocka_unit_test_setup_teardown(a_grant_changed_by_hand_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(evidence_must_carry_it, setup, teardown),
        cmocka_unit_test_setup_teardown(the_receipt_is_keyed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
