// SPDX-License-Identifier: Apache-2.0
// As vsnprintf, snprintf and strtod, but with a decimal point whatever locale the host program has set: all that is
// formatted here is JSON, a protocol or a file, and must read the same everywhere. Any thread.
#ifndef TD_BASE_FORMAT_H
#define TD_BASE_FORMAT_H

#include <stdarg.h>
#include <stddef.h>

#include "base/err.h"

int td_vformat(char *out, size_t n, const char *fmt, va_list args) __attribute__((format(printf, 3, 0)));
int td_format(char *out, size_t n, const char *fmt, ...) TD_PRINTF(3, 4);
double td_number(const char *z);

#endif
