// SPDX-License-Identifier: Apache-2.0
#include "base/near.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>

#include <cmocka.h>

static _Alignas(TD_NEAR_LINE) char memory[TD_NEAR_LINE * 80];

static size_t lines_of(const struct td_near *near, uint32_t i) {
    return near->places[i] & (TD_NEAR_LINE - 1);
}

static const void *place_of(const struct td_near *near, uint32_t i) {
    return (const void *)(near->places[i] - lines_of(near, i));
}

static void every_line_touched_is_noted(void **state) {
    static const struct {
        size_t at, n, first, lines;
    } cases[] = {{0, 1, 0, 1},     {0, 64, 0, 1},     {0, 65, 0, 2},     {63, 1, 0, 1},   {63, 2, 0, 2},
                 {64, 128, 64, 2}, {100, 156, 64, 3}, {100, 157, 64, 4}, {0, 4032, 0, 63}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct td_near near = {0};
        td_near_add(&near, memory + cases[i].at, cases[i].n);
        assert_int_equal(near.count, 1);
        assert_ptr_equal(place_of(&near, 0), memory + cases[i].first);
        assert_int_equal(lines_of(&near, 0), cases[i].lines);
    }
}

static void nothing_is_left_out_and_too_much_is_cut(void **state) {
    struct td_near near = {0};
    (void)state;
    td_near_add(&near, NULL, 64);
    td_near_add(&near, memory, 0);
    assert_int_equal(near.count, 0);
    td_near_add(&near, memory, sizeof memory);
    assert_ptr_equal(place_of(&near, 0), memory);
    assert_int_equal(lines_of(&near, 0), TD_NEAR_LINE - 1);
    for (uint32_t i = 1; i < TD_NEAR_MAX + 3; i++)
        td_near_add(&near, memory + i, 1);
    assert_int_equal(near.count, TD_NEAR_MAX);
}

// A buffer may have been freed since it was noted.
static void an_address_that_is_nobodys_does_no_harm(void **state) {
    struct td_near near = {0};
    (void)state;
    memory[0] = 'a';
    td_near_add(&near, (const void *)(uintptr_t)TD_NEAR_LINE, 4096);
    td_near_add(&near, (const void *)(UINTPTR_MAX - 4095), 4000);
    td_near_add(&near, memory, 64);
    td_near_fetch(&near);
    assert_int_equal(near.count, 3);
    assert_int_equal(memory[0], 'a');
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_line_touched_is_noted),
                                       cmocka_unit_test(nothing_is_left_out_and_too_much_is_cut),
                                       cmocka_unit_test(an_address_that_is_nobodys_does_no_harm)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
