// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <locale.h>
#include <stdio.h>

#include "base/format.h"
#include "base/str.h"
#include "scratch.h"

static void arena_stops_at_its_ceiling(void **state) {
    (void)state;
    struct td_arena a;
    td_arena_init(&a, 1024);
    assert_non_null(td_arena_alloc(&a, 1008));
    assert_non_null(td_arena_alloc(&a, 16));
    assert_null(td_arena_alloc(&a, 1));
    td_arena_finish(&a);
}

static void arena_memory_is_zeroed_and_aligned(void **state) {
    (void)state;
    struct td_arena a;
    td_arena_init(&a, 1 << 20);
    for (size_t n = 1; n < 9000; n += 97) {
        unsigned char *p = td_arena_alloc(&a, n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xff, n);
    }
    td_arena_finish(&a);
}

static int order[2], ran;
static void note(void *arg) {
    order[ran++] = (int)(intptr_t)arg;
}

static void arena_cleans_up_last_first(void **state) {
    (void)state;
    struct td_arena a;
    td_arena_init(&a, 4096);
    assert_ok(td_arena_on_finish(&a, note, (void *)1));
    assert_ok(td_arena_on_finish(&a, note, (void *)2));
    td_arena_finish(&a);
    assert_int_equal(ran, 2);
    assert_int_equal(order[0], 2);
    assert_int_equal(order[1], 1);
}

static void buffer_refuses_more_than_its_ceiling_and_stays_whole(void **state) {
    (void)state;
    struct td_buf b;
    td_buf_init(&b, 5);
    assert_ok(td_buf_addz(&b, "12345"));
    assert_int_equal(td_buf_addc(&b, '6'), TD_ERR_LIMIT);
    assert_str(td_buf_str(&b), "12345");
    assert_string_equal(td_buf_z(&b), "12345");
    td_buf_drop(&b, 2);
    assert_str(td_buf_str(&b), "345");
    td_buf_finish(&b);
}

// One byte at a time, as RFC 8259 has it.
static void escape_slowly(struct td_buf *b, const char *p, size_t n) {
    assert_ok(td_buf_addc(b, '"'));
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c == '"' || c == '\\')
            assert_ok(td_buf_printf(b, "\\%c", c));
        else if (c < 0x20)
            assert_ok(c == '\n'   ? td_buf_addz(b, "\\n")
                      : c == '\r' ? td_buf_addz(b, "\\r")
                      : c == '\t' ? td_buf_addz(b, "\\t")
                                  : td_buf_printf(b, "\\u%04x", c));
        else
            assert_ok(td_buf_addc(b, (char)c));
    }
    assert_ok(td_buf_addc(b, '"'));
}

// Long runs are looked at in blocks: an escape at any place of any length must not be missed, and no other byte taken
// for one.
static void buffer_escapes_json_wherever_it_is_due(void **state) {
    (void)state;
    char text[150];
    struct td_buf fast, slow;
    td_buf_init(&fast, 4096);
    td_buf_init(&slow, 4096);
    for (size_t n = 0; n <= sizeof text; n++)
        for (size_t at = 0; at<n; at += n> 70 ? 3 : 1)
            for (int c = 0; c < 256; c += c < 0x30 || (c >= 0x58 && c < 0x60) || (c >= 0x7c && c < 0x84) ? 1 : 7) {
                memset(text, 'a' + (int)(n % 26), n);
                text[at] = (char)c;
                td_buf_clear(&fast);
                td_buf_clear(&slow);
                assert_ok(td_buf_add_json(&fast, td_str_n(text, n)));
                escape_slowly(&slow, text, n);
                assert_int_equal(fast.n, slow.n);
                assert_memory_equal(fast.p, slow.p, fast.n);
            }
    td_buf_finish(&fast);
    td_buf_finish(&slow);
}

static void numbers_are_written_whole(void **state) {
    (void)state;
    char want[24], have[TD_U64_DIGITS];
    uint64_t v = 0;
    for (int i = 0; i < 400; i++) {
        int n = snprintf(want, sizeof want, "%llu", (unsigned long long)v);
        size_t at = td_str_digits(have, v);
        assert_int_equal(TD_U64_DIGITS - at, n);
        assert_memory_equal(have + at, want, (size_t)n);
        v = i < 210 ? v + 1 : i == 210 ? UINT64_MAX : i % 2 ? v / 3 : v - 1;
    }
}

static void buffer_escapes_json(void **state) {
    (void)state;
    struct td_buf b;
    td_buf_init(&b, 100);
    assert_ok(td_buf_add_json(&b, TD_STR("a\"b\\\n\x01ż")));
    assert_str(td_buf_str(&b), "\"a\\\"b\\\\\\n\\u0001ż\"");
    td_buf_finish(&b);
}

static void a_failed_allocation_changes_nothing(void **state) {
    (void)state;
    struct td_buf b;
    td_buf_init(&b, 1000);
    assert_ok(td_buf_addz(&b, "kept"));
    td_alloc_fail_at(1);
    char big[500] = {0};
    assert_int_equal(td_buf_add(&b, big, sizeof big), TD_ERR_NOMEM);
    td_alloc_fail_at(0);
    assert_str(td_buf_str(&b), "kept");
    td_buf_finish(&b);
}

// Whatever is taken, freed and taken again while blocks are kept: each holds what was asked for, and nobody else's
// bytes.
static void kept_blocks_hold_what_was_asked_for(void **state) {
    (void)state;
    enum { COUNT = 400 };
    static unsigned char *blocks[COUNT];
    static size_t sizes[COUNT];
    uint32_t seed = 7;
    td_keep_blocks(true);
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < COUNT; i++) {
            seed = seed * 1664525 + 1013904223;
            size_t n = (seed >> 8) % (round % 2 ? 1200 : 20000);
            if (round == 0)
                n = (size_t)i * 43; // also 0, and every edge between two sizes
            if (blocks[i] && seed & 64) {
                size_t both = n < sizes[i] ? n : sizes[i];
                blocks[i] = td_realloc(blocks[i], n);
                assert_non_null(blocks[i]);
                for (size_t k = 0; k < both; k++)
                    assert_int_equal(blocks[i][k], (unsigned char)i);
            } else {
                for (size_t k = 0; k < sizes[i]; k++)
                    assert_int_equal(blocks[i][k], (unsigned char)i);
                td_free(blocks[i]);
                blocks[i] = seed & 128 ? td_calloc(n, 1) : td_malloc(n);
                assert_non_null(blocks[i]);
                for (size_t k = 0; k < n && seed & 128; k++)
                    assert_int_equal(blocks[i][k], 0);
            }
            sizes[i] = n;
            memset(blocks[i], i, n);
        }
    }
    for (size_t n = 0; n < 20000; n++) { // each size, and its whole length
        unsigned char *p = td_malloc(n);
        assert_non_null(p);
        memset(p, 0xff, n);
        td_free(p);
    }
    for (int i = 0; i < COUNT; i++)
        td_free(blocks[i]);
    td_keep_blocks(false);
}

static void utf8_is_told_from_what_only_looks_like_it(void **state) {
    (void)state;
    assert_true(td_str_is_utf8(TD_STR("plain ascii, longer than eight bytes")));
    assert_true(td_str_is_utf8(TD_STR("zażółć \xf0\x9f\x98\x80")));
    assert_false(td_str_is_utf8(TD_STR("\xc0\xaf")));         // overlong
    assert_false(td_str_is_utf8(TD_STR("\xed\xa0\x80")));     // surrogate
    assert_false(td_str_is_utf8(TD_STR("\xf4\x90\x80\x80"))); // beyond U+10FFFF
    assert_false(td_str_is_utf8(TD_STR("12345678\xe2\x82"))); // cut
    assert_int_equal(td_str_utf8_whole(TD_STR("ab\xe2\x82")), 2);
    assert_int_equal(td_str_utf8_whole(TD_STR("ab\xe2\x82\xac")), 5);
    assert_int_equal(td_str_utf8_whole(TD_STR("ab")), 2);
}

static void numbers_do_not_overflow(void **state) {
    (void)state;
    uint64_t v;
    assert_true(td_str_to_u64(TD_STR("18446744073709551615"), &v));
    assert_true(v == UINT64_MAX);
    assert_false(td_str_to_u64(TD_STR("18446744073709551616"), &v));
    assert_false(td_str_to_u64(TD_STR("-1"), &v));
    assert_false(td_str_to_u64(TD_STR(""), &v));
}

// A program that embeds the library may have set a locale in which a number has a comma.
static void numbers_have_a_point_in_every_locale(void **state) {
    (void)state;
    char dir[256], command[512], plain[32];
    struct td_arena a;
    struct td_buf b;
    assert_non_null(scratch_make(dir));
    // Made here: nothing of it but the comma. localedef warns of all the rest, and ends with 1.
    snprintf(command, sizeof command,
             "cd %s && printf 'LC_NUMERIC\\ndecimal_point \"<U002C>\"\\nthousands_sep \"\"\\ngrouping "
             "-1\\nEND LC_NUMERIC\\n' >source && localedef -c -i source -f ANSI_X3.4-1968 ./comma >/dev/null 2>&1",
             dir);
    int made = system(command);
    setenv("LOCPATH", dir, 1);
    bool set = made != -1 && setlocale(LC_NUMERIC, "comma");
    td_arena_init(&a, 4096);
    td_buf_init(&b, 4096);
    if (set) {
        snprintf(plain, sizeof plain, "%.1f", 0.5);
        assert_string_equal(plain, "0,5"); // the test tests something
    }
    assert_ok(td_buf_printf(&b, "%g %.3f", 0.25, 1.5));
    assert_str(td_buf_str(&b), "0.25 1.500");
    assert_str(td_arena_printf(&a, "%.2f", 2.75), "2.75");
    assert_true(td_number("0.125") == 0.125);
    td_buf_finish(&b);
    td_arena_finish(&a);
    setlocale(LC_ALL, "C");
    unsetenv("LOCPATH");
    scratch_drop(dir);
    if (!set)
        skip(); // without locales installed nothing was tested
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arena_stops_at_its_ceiling),
        cmocka_unit_test(arena_memory_is_zeroed_and_aligned),
        cmocka_unit_test(arena_cleans_up_last_first),
        cmocka_unit_test(buffer_refuses_more_than_its_ceiling_and_stays_whole),
        cmocka_unit_test(buffer_escapes_json),
        cmocka_unit_test(buffer_escapes_json_wherever_it_is_due),
        cmocka_unit_test(numbers_are_written_whole),
        cmocka_unit_test(a_failed_allocation_changes_nothing),
        cmocka_unit_test(kept_blocks_hold_what_was_asked_for),
        cmocka_unit_test(utf8_is_told_from_what_only_looks_like_it),
        cmocka_unit_test(numbers_do_not_overflow),
        cmocka_unit_test(numbers_have_a_point_in_every_locale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
