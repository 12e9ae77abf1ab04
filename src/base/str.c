// SPDX-License-Identifier: Apache-2.0
#include "base/str.h"

static unsigned char lower(unsigned char c) {
    return c >= 'A' && c <= 'Z' ? (unsigned char)(c + 32) : c;
}

bool td_str_ieq(struct td_str a, struct td_str b) {
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        if (lower((unsigned char)a.p[i]) != lower((unsigned char)b.p[i]))
            return false;
    return true;
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct td_str td_str_trim(struct td_str s) {
    while (s.n && is_space(s.p[0]))
        s.p++, s.n--;
    while (s.n && is_space(s.p[s.n - 1]))
        s.n--;
    return s;
}

// Length of the well-formed sequence at `p`, 0 when ill-formed, -1 when it is a proper prefix of a well-formed one.
static int utf8_len(const unsigned char *p, size_t n) {
    unsigned char lo = 0x80, hi = 0xbf;
    int len;
    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        len = 2;
    else if (p[0] >= 0xe0 && p[0] <= 0xef)
        len = 3;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4)
        len = 4;
    else
        return 0;
    if (p[0] == 0xe0)
        lo = 0xa0;
    else if (p[0] == 0xed)
        hi = 0x9f;
    else if (p[0] == 0xf0)
        lo = 0x90;
    else if (p[0] == 0xf4)
        hi = 0x8f;
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n)
            return -1;
        if (p[i] < lo || p[i] > hi)
            return 0;
        lo = 0x80, hi = 0xbf;
    }
    return len;
}

bool td_str_is_utf8(struct td_str s) {
    const unsigned char *p = (const unsigned char *)s.p;
    size_t i = 0;
    while (i < s.n) {
        uint64_t word;
        while (i + 8 <= s.n && (memcpy(&word, p + i, 8), (word & 0x8080808080808080u) == 0))
            i += 8;
        if (i >= s.n)
            break;
        int len = utf8_len(p + i, s.n - i);
        if (len <= 0)
            return false;
        i += (size_t)len;
    }
    return true;
}

size_t td_str_utf8_whole(struct td_str s) {
    const unsigned char *p = (const unsigned char *)s.p;
    for (size_t back = 1; back <= 3 && back <= s.n; back++) {
        size_t at = s.n - back;
        if ((p[at] & 0xc0) != 0x80)
            return utf8_len(p + at, back) == -1 ? at : s.n;
    }
    return s.n;
}

bool td_str_to_u64(struct td_str s, uint64_t *out) {
    uint64_t v = 0;
    if (s.n == 0)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        unsigned d = (unsigned char)s.p[i] - '0';
        if (d > 9 || v > (UINT64_MAX - d) / 10)
            return false;
        v = v * 10 + d;
    }
    *out = v;
    return true;
}

unsigned td_str_distance(struct td_str a, struct td_str b, unsigned max) {
    unsigned row[65];
    if (a.n > 64 || b.n > 64)
        return max + 1;
    for (size_t j = 0; j <= b.n; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= a.n; i++) {
        unsigned diag = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b.n; j++) {
            unsigned up = row[j], best = diag + (a.p[i - 1] != b.p[j - 1]);
            if (up + 1 < best)
                best = up + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diag = up;
            row[j] = best;
        }
    }
    return row[b.n] > max ? max + 1 : row[b.n];
}

size_t td_str_digits(char out[TD_U64_DIGITS], uint64_t v) {
    static const char pairs[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434"
        "44546474849505152535455565758596061626364656667686970717273747576777879808182838485868788"
        "8990919293949596979899";
    size_t at = TD_U64_DIGITS;
    for (; v >= 100; v /= 100)
        memcpy(out + (at -= 2), pairs + v % 100 * 2, 2);
    if (v >= 10)
        memcpy(out + (at -= 2), pairs + v * 2, 2);
    else
        out[--at] = (char)('0' + v);
    return at;
}
