// SPDX-License-Identifier: Apache-2.0
// A view of bytes that somebody else owns: pointer and length, not NUL-terminated, may hold any byte. Copy freely; the
// owner decides how long it lives. Any thread.
#ifndef TD_BASE_STR_H
#define TD_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct td_str {
    const char *p;
    size_t n;
};

#define TD_STR(literal) ((struct td_str){"" literal, sizeof(literal) - 1})
#define TD_STR_NONE ((struct td_str){NULL, 0})
// For printf's "%.*s".
#define TD_STR_ARG(s) (int)(s).n, (s).p ? (s).p : ""

static inline struct td_str td_str_of(const char *z) {
    return (struct td_str){z, z ? strlen(z) : 0};
}
static inline struct td_str td_str_n(const char *p, size_t n) {
    return (struct td_str){p, n};
}
static inline bool td_str_eq(struct td_str a, struct td_str b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool td_str_is(struct td_str a, const char *z) {
    return td_str_eq(a, td_str_of(z));
}
static inline bool td_str_starts(struct td_str a, struct td_str prefix) {
    return a.n >= prefix.n && (prefix.n == 0 || memcmp(a.p, prefix.p, prefix.n) == 0);
}
// ASCII case-insensitive comparison (header names, RFC 9110 section 5.1).
bool td_str_ieq(struct td_str a, struct td_str b);
// Without leading and trailing ASCII white space.
struct td_str td_str_trim(struct td_str s);
// True when every byte sequence is well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF).
bool td_str_is_utf8(struct td_str s);
// Length of the longest prefix of `s` that does not end inside a UTF-8 sequence.
size_t td_str_utf8_whole(struct td_str s);
// Parses decimal digits only, no sign, no space. False on overflow or any other byte.
bool td_str_to_u64(struct td_str s, uint64_t *out);
// Writes `v` in decimal at the end of `out` and returns where it begins: the digits are out + returned … out + 20.
#define TD_U64_DIGITS 20
size_t td_str_digits(char out[TD_U64_DIGITS], uint64_t v);
// Levenshtein distance, capped at `max` + 1; for "did you mean" hints. Inputs longer than 64 bytes count as far away.
unsigned td_str_distance(struct td_str a, struct td_str b, unsigned max);

#endif
