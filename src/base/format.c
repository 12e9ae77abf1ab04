// SPDX-License-Identifier: Apache-2.0
#include "base/format.h"

#include <langinfo.h>
#include <locale.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

static _Atomic(locale_t) plain;

static locale_t plain_locale(void) {
    locale_t l = atomic_load(&plain), none = (locale_t)0;
    if (!l && (l = newlocale(LC_ALL_MASK, "C", (locale_t)0)) && !atomic_compare_exchange_strong(&plain, &none, l)) {
        freelocale(l);
        l = none;
    }
    return l;
}

int td_vformat(char *out, size_t n, const char *fmt, va_list args) {
    locale_t before = (locale_t)0, l;
    if (*nl_langinfo(RADIXCHAR) != '.' && (l = plain_locale()))
        before = uselocale(l);
    int made = vsnprintf(out, n, fmt, args);
    if (before)
        uselocale(before);
    return made;
}

int td_format(char *out, size_t n, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int made = td_vformat(out, n, fmt, args);
    va_end(args);
    return made;
}

double td_number(const char *z) {
    locale_t before = (locale_t)0, l;
    if (*nl_langinfo(RADIXCHAR) != '.' && (l = plain_locale()))
        before = uselocale(l);
    double v = strtod(z, NULL);
    if (before)
        uselocale(before);
    return v;
}
