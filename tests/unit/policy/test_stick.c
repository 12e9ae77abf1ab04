// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include "policy/stick.h"

static const uint8_t secret[16] = "0123456789abcdef";

struct talk {
    struct td_request request;
    struct td_message messages[300];
    struct td_part parts[300];
};

static void say(struct talk *t, enum td_role role, const char *text) {
    uint32_t i = t->request.message_count++;
    t->parts[i] = (struct td_part){.type = TD_PART_TEXT, .text = td_str_of(text)};
    t->messages[i] = (struct td_message){.role = role, .parts = &t->parts[i], .part_count = 1};
    t->request.messages = t->messages;
}

static bool found(struct td_stick *s, const char *tenant, const struct talk *t, enum td_class *c, uint32_t *labels) {
    struct td_stick_keys keys;
    td_stick_keys(s, td_str_of(tenant), &t->request, &keys);
    return td_stick_find(s, &keys, c, labels);
}

static void raise_to(struct td_stick *s, const char *tenant, const struct talk *t, enum td_class c, uint32_t labels) {
    struct td_stick_keys keys;
    td_stick_keys(s, td_str_of(tenant), &t->request, &keys);
    td_stick_raise(s, &keys, c, labels);
}

static void the_next_turn_finds_what_the_last_one_left(void **state) {
    (void)state;
    struct td_stick *s = td_stick_create(100, secret);
    struct talk t = {0};
    enum td_class c;
    uint32_t labels;
    say(&t, TD_ROLE_SYSTEM, "be kind");
    say(&t, TD_ROLE_USER, "my diagnosis is");
    assert_false(found(s, "a", &t, &c, &labels));
    raise_to(s, "a", &t, TD_CLASS_RESTRICTED, TD_LABEL_PHI);
    say(&t, TD_ROLE_ASSISTANT, "I see");
    say(&t, TD_ROLE_USER, "and the weather?");
    assert_true(found(s, "a", &t, &c, &labels));
    assert_int_equal(c, TD_CLASS_RESTRICTED);
    assert_int_equal(labels, TD_LABEL_PHI);
    assert_false(found(s, "b", &t, &c, &labels)); // nothing crosses tenants
    struct talk other = {0};
    say(&other, TD_ROLE_SYSTEM, "be kind");
    say(&other, TD_ROLE_USER, "something else");
    assert_false(found(s, "a", &other, &c, &labels)); // a shared system prompt is no conversation
    td_stick_destroy(s);
}

static void it_only_rises(void **state) {
    (void)state;
    struct td_stick *s = td_stick_create(100, secret);
    struct talk t = {0};
    enum td_class c;
    uint32_t labels;
    t.request.wishes.conversation = TD_STR("c-1");
    say(&t, TD_ROLE_USER, "x");
    raise_to(s, "", &t, TD_CLASS_CONFIDENTIAL, TD_LABEL_PII);
    raise_to(s, "", &t, TD_CLASS_PUBLIC, TD_LABEL_PCI);
    struct talk later = {0};
    later.request.wishes.conversation = TD_STR("c-1");
    say(&later, TD_ROLE_USER, "entirely new words");
    assert_true(found(s, "", &later, &c, &labels));
    assert_int_equal(c, TD_CLASS_CONFIDENTIAL);
    assert_int_equal(labels, TD_LABEL_PII | TD_LABEL_PCI);
    td_stick_destroy(s);
}

static void message_boundaries_count(void **state) {
    (void)state;
    struct td_stick *s = td_stick_create(100, secret);
    struct talk a = {0}, b = {0}, c = {0};
    struct td_stick_keys ka, kb, kc;
    say(&a, TD_ROLE_USER, "one");
    say(&a, TD_ROLE_USER, "two");
    say(&b, TD_ROLE_USER, "onetwo");
    say(&c, TD_ROLE_USER, "one");
    say(&c, TD_ROLE_TOOL, "two");
    td_stick_keys(s, TD_STR("t"), &a.request, &ka);
    td_stick_keys(s, TD_STR("t"), &b.request, &kb);
    td_stick_keys(s, TD_STR("t"), &c.request, &kc);
    assert_true(ka.keys[0] != kb.keys[0] && ka.keys[0] != kc.keys[0]);
    uint8_t other[16] = "fedcba9876543210";
    struct td_stick *o = td_stick_create(100, other);
    td_stick_keys(o, TD_STR("t"), &a.request, &kb);
    assert_true(ka.keys[0] != kb.keys[0]); // keyed
    td_stick_destroy(o);
    td_stick_destroy(s);
}

static void long_conversations_are_found_by_their_newest_prefixes(void **state) {
    (void)state;
    struct td_stick *s = td_stick_create(1000, secret);
    static struct talk t;
    struct td_stick_keys keys;
    enum td_class c;
    uint32_t labels;
    t = (struct talk){0};
    for (int i = 0; i < 149; i++)
        say(&t, i % 2 ? TD_ROLE_ASSISTANT : TD_ROLE_USER, "again");
    td_stick_keys(s, TD_STR("t"), &t.request, &keys);
    assert_int_equal(keys.count, TD_STICK_PREFIXES_MAX);
    raise_to(s, "t", &t, TD_CLASS_RESTRICTED, 0);
    say(&t, TD_ROLE_ASSISTANT, "again");
    say(&t, TD_ROLE_USER, "more");
    assert_true(found(s, "t", &t, &c, &labels));
    td_stick_destroy(s);
}

static void the_oldest_is_forgotten_first(void **state) {
    (void)state;
    enum { MAX = 50 };
    struct td_stick *s = td_stick_create(MAX, secret);
    struct td_stick_keys keys = {.count = 1};
    enum td_class c;
    uint32_t labels;
    for (uint64_t i = 1; i <= 10 * MAX; i++) {
        keys.keys[0] = i * 0x9e3779b97f4a7c15u;
        td_stick_raise(s, &keys, TD_CLASS_INTERNAL, 1);
        if (i > MAX / 2) { // the first stays in use
            keys.keys[0] = 0x9e3779b97f4a7c15u;
            td_stick_raise(s, &keys, TD_CLASS_INTERNAL, 1);
        }
    }
    uint32_t known = 0;
    for (uint64_t i = 1; i <= 10 * MAX; i++) {
        keys.keys[0] = i * 0x9e3779b97f4a7c15u;
        bool is = td_stick_find(s, &keys, &c, &labels);
        known += is;
        if (i == 1 || i > 10 * MAX - (MAX - 1))
            assert_true(is);
    }
    assert_int_equal(known, MAX);
    td_stick_destroy(s);
}

static void creation_survives_a_lack_of_memory(void **state) {
    (void)state;
    for (uint64_t n = 1; n <= 3; n++) {
        td_alloc_fail_at(n);
        assert_null(td_stick_create(10, secret));
        td_alloc_fail_at(0);
    }
    td_stick_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_next_turn_finds_what_the_last_one_left),
        cmocka_unit_test(it_only_rises),
        cmocka_unit_test(message_boundaries_count),
        cmocka_unit_test(long_conversations_are_found_by_their_newest_prefixes),
        cmocka_unit_test(the_oldest_is_forgotten_first),
        cmocka_unit_test(creation_survives_a_lack_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
