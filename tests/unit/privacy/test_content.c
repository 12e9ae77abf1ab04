// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <regex.h>
#include <stdio.h>

#include "base/time.h"
#include "privacy/content.h"
#include "privacy/regex.h"

static uint32_t scan_one(bool pattern, const char *rule, struct td_str text) {
    struct td_arena a;
    struct td_error e = {0};
    td_arena_init(&a, 64 << 20);
    struct td_content_rules *r = td_content_create(&a);
    enum td_err err = (pattern ? td_content_add_pattern : td_content_add_word)(r, td_str_of(rule), 1, &e);
    if (err != TD_OK)
        fail_msg("%s: %s", rule, e.message);
    assert_ok(td_content_compile(r));
    uint32_t found = td_content_scan(r, text);
    td_arena_finish(&a);
    return found;
}

static void words_are_found_whole_and_in_any_case(void **state) {
    (void)state;
    static const struct {
        const char *word, *text;
        bool found;
    } rows[] = {
        {"cancer", "He has cancer.", true},
        {"cancer", "CANCER", true},
        {"cancer", "cancers", false},
        {"cancer", "precancer", false},
        {"cancer", "cancer2", false},
        {"cancer", "(cancer)", true},
        {"cancer", "non-cancer", true},
        {"blood pressure", "his Blood\n  pressure rose", true},
        {"blood pressure", "blood-pressure", false},
        {"blood pressure", "blood pressures", false},
        {"hiv", "hive", false},
        {"hiv", "a hive, then HIV", true},
        {"c++", "I write C++ daily", true},
        {"c++", "c plus plus", false},
        {"covid-19", "Covid-19!", true},
        {"ŻÓŁĆ", "kamień: żółć", true},
        {"żółć", "ŻÓŁĆ", true},
        {"łuk", "Łuk", true},
        {"łuk", "Łuki", false},
        {"Москва", "в МОСКВА и", true},
        {"ΣΟΦΟΣ", "σοφος σοφός", true},
        {"straße", "Straße 5", true},
        {"癌", "他有癌症", true},
        {"癌症", "他有癌症。", true},
        {"東京都", "東京", false},
        {"x", "", false},
        {"x", "\xff\xfe x \xc3", true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (scan_one(false, rows[i].word, td_str_of(rows[i].text)) != rows[i].found)
            fail_msg("'%s' in '%s'", rows[i].word, rows[i].text);
}

static void patterns_match_what_they_say(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *text;
        bool found;
    } rows[] = {
        {"\\bMRN[ -]?[0-9]{6,8}\\b", "see MRN-1234567.", true},
        {"\\bMRN[ -]?[0-9]{6,8}\\b", "see MRN-12345", false},
        {"\\bMRN[ -]?[0-9]{6,8}\\b", "see MRN-123456789", false},
        {"\\bMRN[ -]?[0-9]{6,8}\\b", "xMRN-1234567", false},
        {"^start", "start here", true},
        {"^start", "a start", false},
        {"end$", "the end", true},
        {"end$", "the end.", false},
        {"a|bc", "xbcx", true},
        {"(ab)+c", "ababc", true},
        {"(ab)+c", "aabbc", false},
        {"a{3}", "aa aa", false},
        {"a{3}", "xaaax", true},
        {"a{2,}b", "ab aab", true},
        {"a.c", "a\nc", false},
        {"a.c", "ażc", true},
        {"a.c", "a😀c", true},
        {"a..c", "ażc", false},
        {"[^a]b", "ab", false},
        {"[^a]b", "żb", true},
        {"[ąć]x", "ćx", true},
        {"[a-c\\d_-]z", "-z", true},
        {"[]x]y", "]y", true},
        {"(?i)secret", "SeCrEt", true},
        {"secret", "Secret", false},
        {"\\w+@\\w+\\.com", "mail józef@firma.com now", true},
        {"\\d\\s\\d", "1\t2", true},
        {"\\D\\D", "1a2", false},
        {"\\Bar", "far", true},
        {"\\Bar", "ar", false},
        {"\\bżar\\b", "pożar", false},
        {"a?b??c", "c", true},
        {"(?:x|y){2}z", "xyz", true},
        {"\\.\\*\\(", ".*(", true},
        {"\\x", "", false},
    };
    for (size_t i = 0; i + 1 < sizeof rows / sizeof rows[0]; i++)
        if (scan_one(true, rows[i].pattern, td_str_of(rows[i].text)) != rows[i].found)
            fail_msg("'%s' in '%s'", rows[i].pattern, rows[i].text);
}

static void wrong_rules_are_refused_with_a_place(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *message;
    } rows[] = {
        {"", "a pattern is UTF-8 text"},
        {"a(b", "at byte 3: a group lacks its )"},
        {"a)b", "at byte 1: a ) without its ("},
        {"[ab", "a class lacks its ]"},
        {"*a", "a repeat has nothing before it"},
        {"a{2", "a repeat lacks its }"},
        {"a{3,2}", "upper bound"},
        {"a{1001}", "from 0 to 1000"},
        {"(a)\\1", "back-references"},
        {"(?=a)b", "only (?:…)"},
        {"a*", "matches everything"},
        {"[z-a]", "goes up"},
        {"a\\", "ends in a backslash"},
        {"((a{100}){100}){100}", "too large"},
        {"\xff", "UTF-8"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct td_arena a;
        struct td_error e = {0};
        td_arena_init(&a, 64 << 20);
        struct td_content_rules *r = td_content_create(&a);
        assert_int_equal(td_content_add_pattern(r, td_str_of(rows[i].pattern), 1, &e), TD_ERR_CONFIG);
        if (!strstr(e.message, rows[i].message))
            fail_msg("'%s': %s", rows[i].pattern, e.message);
        td_arena_finish(&a);
    }
}

static uint64_t seed;
static uint32_t roll(uint32_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static size_t random_pattern(char *out, int depth) {
    static const char *const atoms[] = {"a", "b", "c", ".", "[ab]", "[^a]", "ab", "ca"};
    static const char *const repeats[] = {"", "", "", "*", "+", "?", "{2}", "{1,3}", "{2,}"};
    size_t n = 0;
    uint32_t parts = 1 + roll(3);
    for (uint32_t i = 0; i < parts; i++) {
        if (i && roll(3) == 0)
            out[n++] = '|';
        if (depth && roll(3) == 0) {
            out[n++] = '(';
            n += random_pattern(out + n, depth - 1);
            out[n++] = ')';
        } else {
            n += (size_t)sprintf(out + n, "%s", atoms[roll(8)]);
        }
        // A repeat behind a two-letter atom binds to its second letter here and there alike.
        n += (size_t)sprintf(out + n, "%s", repeats[roll(9)]);
    }
    out[n] = 0;
    return n;
}

// Against the C library's own engine, alone, in groups, and as a program without a table.
static void another_engine_agrees(void **state) {
    (void)state;
    unsigned compared = 0, matched = 0;
    for (uint64_t start = 1; start <= 400; start++) {
        char patterns[6][512];
        regex_t posix[6];
        struct td_arena a;
        uint32_t bits = 0;
        seed = start * 7919;
        td_arena_init(&a, 64 << 20);
        struct td_content_rules *r = td_content_create(&a);
        for (uint32_t i = 0; i < 6; i++) {
            do
                random_pattern(patterns[i], 2);
            while (strlen(patterns[i]) > 60);
            struct td_error e;
            if (td_content_add_pattern(r, td_str_of(patterns[i]), 1u << i, &e) == TD_OK) {
                assert_int_equal(regcomp(&posix[i], patterns[i], REG_EXTENDED | REG_NOSUB), 0);
                bits |= 1u << i;
            }
        }
        assert_ok(td_content_compile(r));
        for (int k = 0; k < 30; k++) {
            char text[24];
            uint32_t n = roll(20), want = 0;
            for (uint32_t i = 0; i < n; i++)
                text[i] = "abcd"[roll(4)];
            text[n] = 0;
            for (uint32_t i = 0; i < 6; i++)
                if (bits >> i & 1 && regexec(&posix[i], text, 0, NULL, 0) == 0)
                    want |= 1u << i;
            uint32_t got = td_content_scan(r, td_str_of(text));
            if (got != want)
                for (uint32_t i = 0; i < 6; i++)
                    if ((got ^ want) >> i & 1)
                        fail_msg("'%s' in '%s': %u, the other engine says %u", patterns[i], text, got >> i & 1,
                                 want >> i & 1);
            compared += (unsigned)__builtin_popcount(bits);
            matched += (unsigned)__builtin_popcount(want);
        }
        for (uint32_t i = 0; i < 6; i++)
            if (bits >> i & 1)
                regfree(&posix[i]);
        td_arena_finish(&a);
    }
    assert_true(compared > 20000 && matched > 5000 && matched < compared - 5000);
}

// Patterns that ruin engines that try one way after another, and a table that grows too large for its limit.
static void time_is_linear_whatever_comes(void **state) {
    (void)state;
    static const char *const patterns[] = {"(a+)+$x",         "(a|aa)+$x",         "(a*a*)*bc",
                                           "a{0,200}b{200}c", "(a|b)*a(a|b){14}c", ".*.*.*=.*x$y"};
    size_t n = 1 << 20;
    char *text = malloc(n);
    memset(text, 'a', n);
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        uint64_t from = td_now_ns();
        assert_int_equal(scan_one(true, patterns[i], td_str_n(text, i == 3 ? n / 8 : n)), 0);
        assert_true(td_now_ns() - from < 20 * TD_S_NS);
    }
    free(text);
}

static void many_rules_keep_their_labels_apart(void **state) {
    (void)state;
    struct td_arena a;
    td_arena_init(&a, 256 << 20);
    struct td_content_rules *r = td_content_create(&a);
    for (uint32_t i = 0; i < 20000; i++) {
        char word[32];
        snprintf(word, sizeof word, "word%u", i);
        assert_ok(td_content_add_word(r, td_arena_str(&a, td_str_of(word)), 1u << i % 8, NULL));
    }
    for (uint32_t i = 0; i < 200; i++) {
        char pattern[64];
        snprintf(pattern, sizeof pattern, "\\b%c%c[0-9]{4}-%u\\b", 'A' + (int)(i % 26), 'A' + (int)(i / 26), i);
        assert_ok(td_content_add_pattern(r, td_arena_str(&a, td_str_of(pattern)), 1u << (8 + i % 8), NULL));
    }
    assert_ok(td_content_compile(r));
    assert_int_equal(td_content_scan(r, TD_STR("some word10003 and")), 1 << 3);
    assert_int_equal(td_content_scan(r, TD_STR("some word20000 and")), 0);
    assert_int_equal(td_content_scan(r, TD_STR("id BB1234-27 x")), 1 << (8 + 27 % 8));
    assert_int_equal(td_content_scan(r, TD_STR("id BB1234-28 x")), 0);
    assert_int_equal(td_content_scan(NULL, TD_STR("x")), 0);
    td_arena_finish(&a);
}

static void limits_hold(void **state) {
    (void)state;
    struct td_arena a;
    struct td_error e;
    char long_pattern[TD_PATTERN_BYTES_MAX + 2];
    td_arena_init(&a, 64 << 20);
    struct td_content_rules *r = td_content_create(&a);
    memset(long_pattern, 'a', sizeof long_pattern);
    assert_ok(td_content_add_pattern(r, td_str_n(long_pattern, TD_PATTERN_BYTES_MAX), 1, &e));
    assert_int_equal(td_content_add_pattern(r, td_str_n(long_pattern, TD_PATTERN_BYTES_MAX + 1), 1, &e), TD_ERR_CONFIG);
    for (unsigned i = 1; i < TD_CONTENT_PATTERNS_MAX; i++)
        assert_ok(td_content_add_pattern(r, TD_STR("ab"), 1, &e));
    assert_int_equal(td_content_add_pattern(r, TD_STR("ab"), 1, &e), TD_ERR_CONFIG);
    assert_int_equal(td_content_add_word(r, TD_STR(" - "), 1, &e), TD_ERR_CONFIG);
    td_arena_finish(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_found_whole_and_in_any_case),
        cmocka_unit_test(patterns_match_what_they_say),
        cmocka_unit_test(wrong_rules_are_refused_with_a_place),
        cmocka_unit_test(another_engine_agrees),
        cmocka_unit_test(time_is_linear_whatever_comes),
        cmocka_unit_test(many_rules_keep_their_labels_apart),
        cmocka_unit_test(limits_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
