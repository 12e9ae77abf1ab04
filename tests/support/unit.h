// SPDX-License-Identifier: Apache-2.0
// What every unit test includes: cmocka in the order it wants its headers, and the views' comparison.
#ifndef TD_TESTS_UNIT_H
#define TD_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"

#define assert_str(view, literal)                                                                                      \
    do {                                                                                                               \
        struct td_str view_ = (view);                                                                                  \
        assert_int_equal(view_.n, strlen(literal));                                                                    \
        assert_memory_equal(view_.p ? view_.p : "", literal, view_.n);                                                 \
    } while (0)

// cmocka's own has another name from one version to the next.
#define assert_between(value, low, high)                                                                               \
    do {                                                                                                               \
        uintmax_t value_ = (uintmax_t)(value), low_ = (uintmax_t)(low), high_ = (uintmax_t)(high);                     \
        if (value_ < low_ || value_ > high_)                                                                           \
            fail_msg("%ju is not between %ju and %ju", value_, low_, high_);                                           \
    } while (0)

#define assert_ok(call) assert_int_equal((call), TD_OK)

#endif
