// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "jobs/agree.h"
#include "jobs/reconcile.h"

static bool agree(const char *q, const char *a, const char *b) {
    bool one = td_answers_agree(td_str_of(q), td_str_of(a), td_str_of(b));
    assert_true(one == td_answers_agree(td_str_of(q), td_str_of(b), td_str_of(a))); // whoever comes first
    return one;
}

static FILE *open_pairs(void) {
    char path[512];
    snprintf(path, sizeof path, "%s/tests/data/agree/pairs.jsonl", getenv("ROOT") ? getenv("ROOT") : ".");
    FILE *f = fopen(path, "r");
    if (!f)
        f = fopen("../tests/data/agree/pairs.jsonl", "r");
    return f;
}

// Hardly a wrong "same" on the labelled pairs, and most that are the same are found.
static void the_labelled_pairs_are_judged_well(void **state) {
    (void)state;
    FILE *f = open_pairs();
    char line[16384];
    unsigned pairs = 0, same = 0, found = 0, wrong = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        struct td_arena arena;
        td_json *root;
        td_arena_init(&arena, 1 << 20);
        assert_ok(td_json_parse(&arena, td_str_of(line), 8, &root, NULL));
        struct td_str q = td_json_get_str(root, "q"), a = td_json_get_str(root, "a"), b = td_json_get_str(root, "b");
        bool label = td_json_get_bool(root, "same", false), judged = td_answers_agree(q, a, b);
        assert_true(judged == td_answers_agree(q, b, a));
        assert_true(td_answers_agree(q, a, a) && td_answers_agree(q, b, b));
        pairs++;
        same += label;
        found += label && judged;
        wrong += !label && judged;
        td_arena_finish(&arena);
    }
    fclose(f);
    assert_true(pairs >= 200);
    assert_true(wrong * 50 <= found + wrong); // precision at least 98 %
    assert_true(found * 100 >= same * 85);
}

static void what_must_never_pass_for_the_same(void **state) {
    (void)state;
    assert_false(agree("", "It costs 5 dollars.", "It costs 5 euros."));
    assert_false(agree("", "-5", "5"));
    assert_false(agree("Was it not open?", "It was open.", "It was not open."));
    assert_false(agree("Red or blue?", "Red", "Red and blue"));
    assert_false(agree("", "", "something"));
    assert_false(agree("", "{\"a\":1}", "{\"a\":2}"));
    assert_false(agree("", "9:00", "21:00"));
}

static void what_is_said_in_other_ways(void **state) {
    (void)state;
    assert_true(agree("", "It takes 90 minutes.", "It takes 1.5 hours."));
    assert_true(agree("What is it?", "It isn't possible.", "It is impossible."));
    assert_true(agree("", "  Hello,   world\n", "hello, WORLD"));
    assert_true(agree("", "[1, 2]", "```json\n[1,2]\n```"));
}

static void hostile_texts_are_judged_without_harm(void **state) {
    (void)state;
    size_t n = TD_AGREE_BYTES_MAX + 10;
    char *big = malloc(n + 1);
    memset(big, '7', n);
    big[n] = 0;
    assert_true(agree("", big, big));
    big[n - 1] = '8';
    char *other = strdup(big);
    other[0] = '1';
    assert_false(agree("", big, other)); // over the ceiling: word for word
    big[TD_AGREE_BYTES_MAX - 1] = other[TD_AGREE_BYTES_MAX - 1] = 0;
    assert_false(agree(big, big, other)); // one number of 65,535 digits
    for (size_t i = 0; i + 1 < TD_AGREE_BYTES_MAX; i++)
        big[i] = i % 2 ? ' ' : (char)('a' + i % 26);
    assert_true(agree("", big, big));
    assert_false(agree("\xff\xfe", "\xe2\x82", "\xf0\x9f\x98"));
    assert_false(agree("", "``` ``` ```", "```\n"));
    assert_false(agree("", "1,,,,,2..3::4", "May May 99:99 $$$ 5th%%"));
    free(big);
    free(other);
}

static void the_rule_of_take_better(void **state) {
    (void)state;
    static const struct {
        const char *request, *rule, *local, *later;
        double lq, rq, le, re;
        enum td_accepted accepted;
        const char *verdict, *op;
    } rows[] = {
        {"{}", "take_better", "a", "", 0, 1, 0, 1, TD_ACCEPTED_LOCAL, "cloud-empty", "confirm"},
        {"{}", "take_better", "", "b", 1, 0, 1, 0, TD_ACCEPTED_CLOUD, "local-empty", "replace"},
        {"{}", "take_better", "a river", "I can't help with that.", 0, 1, 0, 1, TD_ACCEPTED_LOCAL, "cloud-declines",
         "confirm"},
        {"{}", "take_better", "Not for me.", "a river", 1, 0, 1, 0, TD_ACCEPTED_CLOUD, "local-declines", "replace"},
        {"{\"response_format\":{\"type\":\"json_object\"}}", "take_better", "{\"a\":1}", "a is one", 0, 1, 0, 1,
         TD_ACCEPTED_LOCAL, "cloud-not-json", "confirm"},
        {"{\"response_format\":{\"type\":\"json_object\"}}", "keep_local", "a is one", "{\"a\":1}", 1, 0, 1, 0,
         TD_ACCEPTED_CLOUD, "local-not-json", "replace"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"capital of France?\"}]}", "ask", "Paris",
         "The capital of France is Paris.", 0, 1, 0, 1, TD_ACCEPTED_LOCAL, "agree", "confirm"},
        {"{}", "keep_local", "a", "b", 0, 1, 0, 1, TD_ACCEPTED_LOCAL, "keep-local", "confirm"},
        {"{}", "ask", "a river", "a lake", 0, 1, 0, 1, TD_ACCEPTED_NONE, "ask", "ask"},
        {"{}", "take_better", "a river", "a lake", .3, .9, .9, .3, TD_ACCEPTED_CLOUD, "better-target", "replace"},
        {"{}", "take_better", "a river", "a lake", .9, .3, .3, .9, TD_ACCEPTED_LOCAL, "local-better-target", "confirm"},
        {"{}", "take_better", "a river", "a lake", .5, .5, .3, .9, TD_ACCEPTED_CLOUD, "better-estimate", "replace"},
        {"{}", "take_better", "a river", "a lake", .5, .5, .9, .9, TD_ACCEPTED_LOCAL, "local-at-least-as-good",
         "confirm"},
        {"no json", "take_better", "", "", 0, 0, 0, 0, TD_ACCEPTED_LOCAL, "cloud-empty", "confirm"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct td_judgement j = td_reconcile(&(struct td_rivals){td_str_of(rows[i].request), td_str_of(rows[i].rule),
                                                                 td_str_of(rows[i].local), td_str_of(rows[i].later),
                                                                 rows[i].lq, rows[i].rq, rows[i].le, rows[i].re});
        assert_string_equal(j.verdict, rows[i].verdict);
        assert_string_equal(j.op, rows[i].op);
        assert_int_equal(j.accepted, rows[i].accepted);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_labelled_pairs_are_judged_well),
        cmocka_unit_test(what_must_never_pass_for_the_same),
        cmocka_unit_test(what_is_said_in_other_ways),
        cmocka_unit_test(hostile_texts_are_judged_without_harm),
        cmocka_unit_test(the_rule_of_take_better),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
