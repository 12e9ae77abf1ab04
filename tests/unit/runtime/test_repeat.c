// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <stdio.h>

#include "base/time.h"
#include "runtime/repeat.h"

#define S TD_S_NS
static const unsigned char secret[32] = {1, 2, 3, [16] = 9};

static struct td_repeat of(const struct td_repeats *r, const char *tenant, const char *key, const char *body) {
    struct td_repeat repeat;
    td_repeat_make(r, td_str_of(tenant), td_str_of(key),
                   td_repeat_body(r, TD_STR("/v1/chat/completions"), td_str_of(body)), &repeat);
    return repeat;
}

static void a_key_stands_for_one_request_of_one_tenant(void **state) {
    (void)state;
    struct td_repeats *r = td_repeats_create(secret);
    struct td_error e;
    struct td_repeat a = of(r, "acme", "k1", "{}"), other = of(r, "acme", "k1", "{ }"),
                     theirs = of(r, "b", "k1", "{ }");
    assert_ok(td_repeats_begin(r, &a, S, &e));
    assert_int_equal(td_repeats_begin(r, &a, S, &e), TD_ERR_IN_PROGRESS);
    assert_int_equal(td_repeats_begin(r, &other, S, &e), TD_ERR_KEY_REUSED);
    assert_ok(td_repeats_begin(r, &theirs, S, &e));
    td_repeats_end(r, &a);
    assert_int_equal(td_repeats_begin(r, &other, 2 * S, &e), TD_ERR_KEY_REUSED);
    assert_ok(td_repeats_begin(r, &a, 2 * S, &e));
    td_repeats_end(r, &a);
    td_repeats_end(r, &a);
    assert_int_equal(td_repeats_begin(r, &other, (2 + TD_REPEAT_KEEP_S) * S, &e), TD_ERR_KEY_REUSED);
    assert_ok(td_repeats_begin(r, &other, (3 + TD_REPEAT_KEEP_S) * S, &e)); // forgotten after a day
    assert_int_equal(td_repeats_begin(r, &theirs, (3 + TD_REPEAT_KEEP_S) * S, &e),
                     TD_ERR_IN_PROGRESS); // not while it runs
    // The path is part of the request.
    assert_true(td_repeat_body(r, TD_STR("/v1/completions"), TD_STR("{}")) !=
                td_repeat_body(r, TD_STR("/v1/chat/completions"), TD_STR("{}")));
    td_repeats_destroy(r);
    td_repeats_destroy(NULL);
}

static void what_is_remembered_is_bounded(void **state) {
    (void)state;
    struct td_repeats *r = td_repeats_create(secret);
    struct td_error e;
    struct td_repeat runs = of(r, "acme", "runs", "{}");
    unsigned known = 0;
    assert_ok(td_repeats_begin(r, &runs, S, &e));
    for (unsigned i = 0; i < 3 * TD_REPEAT_KEYS_MAX; i++) {
        char key[32];
        snprintf(key, sizeof key, "key-%u", i);
        struct td_repeat one = of(r, "acme", key, "{}");
        assert_ok(td_repeats_begin(r, &one, S + i, &e));
        td_repeats_end(r, &one);
    }
    for (unsigned i = 3 * TD_REPEAT_KEYS_MAX; i-- > 0;) {
        char key[32];
        snprintf(key, sizeof key, "key-%u", i);
        struct td_repeat one = of(r, "acme", key, "{}");
        one.body ^= 1;
        if (td_repeats_begin(r, &one, 2 * S, &e) == TD_ERR_KEY_REUSED)
            known++;
        else
            td_repeats_end(r, &one);
    }
    assert_true(known > 0 && known <= TD_REPEAT_KEYS_MAX);
    assert_int_equal(td_repeats_begin(r, &runs, 3 * S, &e), TD_ERR_IN_PROGRESS); // gives way last
    td_repeats_destroy(r);
}

static void what_is_a_key(void **state) {
    (void)state;
    char longest[TD_REPEAT_KEY_BYTES_MAX + 2];
    memset(longest, 'k', sizeof longest);
    assert_true(td_repeat_is_key(TD_STR("k")) && td_repeat_is_key(TD_STR("\"8e03978e-40d5-43dd-bc93-6894a57f9324\"")));
    assert_true(td_repeat_is_key(td_str_n(longest, TD_REPEAT_KEY_BYTES_MAX)));
    assert_false(td_repeat_is_key(td_str_n(longest, TD_REPEAT_KEY_BYTES_MAX + 1)));
    assert_false(td_repeat_is_key(TD_STR("")) || td_repeat_is_key(TD_STR("a b")) || td_repeat_is_key(TD_STR("a\tb")) ||
                 td_repeat_is_key(TD_STR("\x7f")) || td_repeat_is_key(TD_STR("\xc3\xa9")));
}

static void providers_are_told_neither_key_nor_tenant(void **state) {
    (void)state;
    struct td_repeats *r = td_repeats_create(secret), *later = td_repeats_create(secret);
    struct td_repeat a = of(r, "acme", "secret-key", "{}"), b = of(r, "other", "secret-key", "{}");
    struct td_repeat again = of(later, "acme", "secret-key", "{}");
    char sent[4][TD_REPEAT_SENT_BYTES];
    td_repeat_sent(r, &a, TD_STR("cloud"), TD_STR("bytes"), sent[0]);
    td_repeat_sent(later, &again, TD_STR("cloud"), TD_STR("bytes"), sent[1]);
    assert_string_equal(sent[0], sent[1]); // also after a restart
    td_repeat_sent(r, &b, TD_STR("cloud"), TD_STR("bytes"), sent[1]);
    td_repeat_sent(r, &a, TD_STR("spare"), TD_STR("bytes"), sent[2]);
    td_repeat_sent(r, &a, TD_STR("cloud"), TD_STR("other"), sent[3]);
    for (int i = 1; i < 4; i++)
        assert_string_not_equal(sent[0], sent[i]);
    struct td_repeat second, third;
    td_repeat_part(r, &a, 1, &second);
    td_repeat_part(r, &a, 2, &third);
    assert_true(memcmp(second.name, a.name, 36) && memcmp(third.name, a.name, 36) &&
                memcmp(second.name, third.name, 36)); // each is a request of its own
    assert_null(strstr(sent[0], "secret"));
    assert_memory_equal(sent[0], a.name, 36);
    td_repeats_destroy(r);
    td_repeats_destroy(later);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_stands_for_one_request_of_one_tenant),
        cmocka_unit_test(what_is_remembered_is_bounded),
        cmocka_unit_test(what_is_a_key),
        cmocka_unit_test(providers_are_told_neither_key_nor_tenant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
