// SPDX-License-Identifier: Apache-2.0
// Buffers with a ceiling; the escapes of JSON strings are written here too, straight into the buffer.
#include "base/mem.h"

#include "base/block.h"
#include "base/format.h"
#include "base/wide.h"

#define MOVED_BYTES_MAX (64u << 10) // a larger buffer the C library may grow in its place

void td_buf_init(struct td_buf *b, size_t ceiling) {
    *b = (struct td_buf){.ceiling = ceiling};
}

void td_buf_finish(struct td_buf *b) {
    td_block_give(b->p, b->cap);
    b->p = NULL;
    b->n = b->cap = 0;
}

void td_buf_clear(struct td_buf *b) {
    b->n = 0;
}

static enum td_err enlarge(struct td_buf *b, size_t n) {
    // At first what is asked for. The sizes of blocks lie a little over powers of two.
    size_t cap = b->cap ? b->cap + b->cap - b->cap / 16 : n > 128 ? n : 128;
    while (cap < b->n + n)
        cap *= 2;
    cap = td_block_size(cap);
    char *p = cap > MOVED_BYTES_MAX ? td_realloc(b->p, cap) : td_malloc(cap);
    if (!p)
        return TD_ERR_NOMEM;
    if (b->n && cap <= MOVED_BYTES_MAX)
        memcpy(p, b->p, b->n);
    if (cap <= MOVED_BYTES_MAX)
        td_block_give(b->p, b->cap);
    b->p = p;
    b->cap = cap;
    return TD_OK;
}

static inline enum td_err grow(struct td_buf *b, size_t n) {
    if (n > b->ceiling || b->n > b->ceiling - n)
        return TD_ERR_LIMIT;
    return b->cap - b->n >= n ? TD_OK : enlarge(b, n);
}

enum td_err td_buf_append(struct td_buf *b, const void *p, size_t n) {
    enum td_err err = grow(b, n);
    if (err == TD_OK && n) {
        memcpy(b->p + b->n, p, n);
        b->n += n;
    }
    return err;
}

enum td_err td_buf_add_u64(struct td_buf *b, uint64_t v) {
    char digits[TD_U64_DIGITS];
    size_t at = td_str_digits(digits, v);
    return td_buf_add(b, digits + at, sizeof digits - at);
}

enum td_err td_buf_printf(struct td_buf *b, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = td_vformat(NULL, 0, fmt, args);
    va_end(args);
    enum td_err err = n < 0 ? TD_ERR_INTERNAL : grow(b, (size_t)n);
    if (err == TD_OK)
        err = grow(b, (size_t)n + 1) == TD_OK ? TD_OK : TD_ERR_LIMIT; // vsnprintf also writes its NUL
    if (err == TD_OK) {
        td_vformat(b->p + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    }
    va_end(again);
    return err;
}

// Length of the leading run of `p` that needs no escape in a JSON string; as many blocks of thirty-two bytes as have
// none, then by eight.
typedef uint8_t bytes __attribute__((vector_size(32)));
typedef uint64_t quarters __attribute__((vector_size(32)));

static TD_INLINE size_t plain_blocks(const char *p, size_t n) {
    size_t i = 0;
    for (; i + 2 * sizeof(bytes) <= n; i += 2 * sizeof(bytes)) {
        bytes b[2], found;
        memcpy(b, p + i, sizeof b);
        found = (bytes)((b[0] < 0x20) | (b[0] == '"') | (b[0] == '\\'));
        found |= (bytes)((b[1] < 0x20) | (b[1] == '"') | (b[1] == '\\'));
        quarters q = (quarters)found;
        if (q[0] | q[1] | q[2] | q[3])
            break;
    }
    return i;
}

TD_AVX2 static size_t plain_blocks_avx2(const char *p, size_t n) {
    return plain_blocks(p, n);
}

static size_t json_plain(const char *p, size_t n) {
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    size_t i = n < 2 * sizeof(bytes) ? 0 : td_has_avx2() ? plain_blocks_avx2(p, n) : plain_blocks(p, n);
    for (; i + sizeof(uint64_t) <= n; i += sizeof(uint64_t)) {
        uint64_t w, quote, back;
        memcpy(&w, p + i, sizeof w);
        quote = w ^ ones * '"';
        back = w ^ ones * '\\';
        // A byte borrows where it is below what is taken from it; one of 0x80 and more has its high bit and is plain.
        if (((w - ones * 0x20) | (quote - ones) | (back - ones)) & ~w & high)
            break;
    }
    while (i < n && (unsigned char)p[i] >= 0x20 && p[i] != '"' && p[i] != '\\')
        i++;
    return i;
}

static size_t json_escape(unsigned char c, char esc[6]) {
    static const char hex[] = "0123456789abcdef";
    esc[0] = '\\';
    switch (c) {
    case '"':
    case '\\':
        esc[1] = (char)c;
        return 2;
    case '\n':
        esc[1] = 'n';
        return 2;
    case '\r':
        esc[1] = 'r';
        return 2;
    case '\t':
        esc[1] = 't';
        return 2;
    default:
        memcpy(esc, "\\u00", 4);
        esc[4] = hex[c >> 4];
        esc[5] = hex[c & 15];
        return 6;
    }
}

enum td_err td_buf_add_json(struct td_buf *b, struct td_str s) {
    size_t before = b->n;
    size_t run = s.n < SIZE_MAX - 2 ? json_plain(s.p, s.n) : 0;
    enum td_err err = s.n < SIZE_MAX - 2 ? grow(b, s.n + 2) : TD_ERR_LIMIT;
    if (err != TD_OK)
        return err;
    b->p[b->n++] = '"';
    for (size_t i = 0;;) {
        if (run) // where there is nothing, s.p may be NULL
            err = td_buf_add(b, s.p + i, run);
        i += run;
        if (err != TD_OK || i == s.n)
            break;
        char esc[6];
        err = td_buf_add(b, esc, json_escape((unsigned char)s.p[i++], esc));
        run = json_plain(s.p + i, s.n - i);
    }
    if (err == TD_OK)
        err = td_buf_addc(b, '"');
    if (err != TD_OK)
        b->n = before;
    return err;
}

char *td_buf_reserve(struct td_buf *b, size_t n) {
    return grow(b, n) == TD_OK && b->p ? b->p + b->n : NULL; // no room asked of an empty one: p is NULL
}

void td_buf_expect(struct td_buf *b, size_t n) {
    enum td_err err = grow(b, n);
    (void)err;
}

void td_buf_drop(struct td_buf *b, size_t n) {
    if (n < b->n)
        memmove(b->p, b->p + n, b->n - n);
    b->n = n < b->n ? b->n - n : 0;
}

const char *td_buf_z(struct td_buf *b) {
    size_t ceiling = b->ceiling;
    b->ceiling = ceiling + 1; // the NUL is not content
    enum td_err err = grow(b, 1);
    b->ceiling = ceiling;
    if (err != TD_OK)
        return NULL;
    b->p[b->n] = 0;
    return b->p;
}
