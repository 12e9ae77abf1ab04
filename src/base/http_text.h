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

enum td_http_field_fault { TD_HTTP_FIELD_FINE, TD_HTTP_FIELD_FOLDED, TD_HTTP_FIELD_NAME, TD_HTTP_FIELD_VALUE };

// field-name ":" OWS field-value OWS (RFC 9112 section 5); no folding, no space before the colon. `line` without its
// end, at least one byte.
static inline enum td_http_field_fault td_http_field(struct td_str line, struct td_str *name, struct td_str *value) {
    if (line.p[0] == ' ' || line.p[0] == '\t')
        return TD_HTTP_FIELD_FOLDED;
    const char *colon = memchr(line.p, ':', line.n);
    if (!colon || colon == line.p || !td_http_all(line.p, (size_t)(colon - line.p), TD_HTTP_TOKEN))
        return TD_HTTP_FIELD_NAME;
    const char *v = colon + 1, *end = line.p + line.n;
    while (v < end && (*v == ' ' || *v == '\t'))
        v++;
    while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *name = td_str_n(line.p, (size_t)(colon - line.p));
    *value = td_str_n(v, (size_t)(end - v));
    return td_http_all(v, value->n, TD_HTTP_VALUE) ? TD_HTTP_FIELD_FINE : TD_HTTP_FIELD_VALUE;
}

// The next element of a comma-separated list, trimmed; false at its end.
bool td_http_next_element(struct td_str *list, struct td_str *element);

#endif
