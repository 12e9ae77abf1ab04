// SPDX-License-Identifier: Apache-2.0
// What both readers of HTTP, of requests and of replies, take a message apart with: one table, so that they cannot come
// to differ. Pure; any thread.
#ifndef TD_BASE_HTTP_TEXT_H
#define TD_BASE_HTTP_TEXT_H

#include "base/str.h"

// Byte classes, one bit each. token: RFC 9110 section 5.6.2. target: what RFC 3986 allows in a path and a query. value:
// RFC 9110 section 5.5.
enum { TD_HTTP_TOKEN = 1, TD_HTTP_TARGET = 2, TD_HTTP_VALUE = 4, TD_HTTP_HEX = 8 };

extern uint8_t td_http_class_of[256];

// True where each of the bytes is of the class; also of none.
static inline bool td_http_all(const char *p, size_t n, uint8_t wanted) {
    uint8_t have = wanted;
    for (size_t i = 0; i < n; i++)
        have &= td_http_class_of[(uint8_t)p[i]];
    return have != 0;
}

// The next element of a comma-separated list, trimmed; false at its end.
bool td_http_next_element(struct td_str *list, struct td_str *element);

#endif
