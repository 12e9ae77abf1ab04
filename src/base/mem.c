// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"

#include <langinfo.h>
#include <locale.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/wide.h"

static atomic_uint_fast64_t fail_at;
static atomic_uint_fast64_t alloc_count;
static atomic_bool counting;

__attribute__((constructor)) static void read_environment(void) {
    const char *z = getenv("TANDEM_FAIL_ALLOC");
    if (z)
        td_alloc_fail_at(strtoull(z, NULL, 10));
}

void td_alloc_fail_at(uint64_t number) {
    atomic_store(&alloc_count, 0);
    atomic_store(&fail_at, number);
    atomic_store(&counting, number != 0);
}

uint64_t td_alloc_count(void) {
    return atomic_load(&alloc_count);
}

static bool fails_now(void) {
    if (!atomic_load_explicit(&counting, memory_order_relaxed))
        return false;
    return atomic_fetch_add(&alloc_count, 1) + 1 == atomic_load(&fail_at);
}

// ---- blocks kept for the next request
//
// A request takes the same blocks as the one before. The C library keeps seven of each size below 1 KiB for a thread
// and none above; what 64 requests free in one turn of the loop it merges into its heap and cuts out again. A thread
// that serves requests keeps them instead, in sizes of two steps an octave. Not under a sanitizer, which must see every
// block come and go.
#if defined(__has_feature) // clang's way of saying it
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__GLIBC__) && !defined(SANITIZED) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define KEPT_BYTES_MAX (2u << 20) // a thread's: what 64 requests free and take again within a turn of the loop
#define SMALL_SIZES 11u
#define SMALL_EXTRA 8u  // fills the C library's own unit
#define LARGE_EXTRA 64u // room for the header that an arena puts before a page
#define SLACK_MAX 24u   // by which the C library may give more than was asked for

static const uint16_t kept_sizes[] = {40,   56,   72,   104,  136,  200,  264,  392,  520,   776,
                                      1032, 1088, 1600, 2112, 3136, 4160, 6208, 8256, 12352, 16448};
#define KEPT_SIZES (sizeof kept_sizes / sizeof kept_sizes[0])
#define KEPT_SIZE_MAX 16448u
#define KEPT_OF_SIZE_MAX 1024u

// Beside the blocks, not in them: a block that comes back was written long ago and is in no near cache any more.
struct kept_blocks {
    uint32_t count[KEPT_SIZES];
    void *block[KEPT_SIZES][KEPT_OF_SIZE_MAX];
};

static _Thread_local struct {
    struct kept_blocks *list; // NULL: nothing is kept
    uint32_t bytes;
} kept;

// Twice the power of two that `n` reaches, plus one where it reaches one and a half times that.
static unsigned steps_below(size_t n) {
    unsigned k = 63u - (unsigned)__builtin_clzll(n);
    return 2 * k + (n >= (size_t)3 << (k - 1));
}

// The smallest size that holds `n`, which is at most KEPT_SIZE_MAX.
static unsigned size_for(size_t n) {
    if (n <= kept_sizes[0])
        return 0;
    if (n <= kept_sizes[SMALL_SIZES - 1])
        return steps_below(n - SMALL_EXTRA - 1) - 2 * 5 + 1;
    return n <= kept_sizes[SMALL_SIZES] ? SMALL_SIZES : steps_below(n - LARGE_EXTRA - 1) - 2 * 10 + 1 + SMALL_SIZES;
}

// The largest size within `n` bytes, which are at least the smallest size.
static unsigned size_within(size_t n) {
    return n < kept_sizes[SMALL_SIZES] ? steps_below(n - SMALL_EXTRA) - 2 * 5
                                       : steps_below(n - LARGE_EXTRA) - 2 * 10 + SMALL_SIZES;
}

static void *take_kept(size_t n) {
    unsigned i = size_for(n);
    if (!kept.list->count[i])
        return malloc(kept_sizes[i]);
    void **last = &kept.list->block[i][--kept.list->count[i]];
    if (kept.list->count[i])
        __builtin_prefetch(last[-1], 1); // who takes the next one of this size writes it
    kept.bytes -= kept_sizes[i];
    return *last;
}

static bool is_kept_size(size_t n) {
    return kept.list && n <= KEPT_SIZE_MAX;
}

static bool keep_as(void *p, unsigned i) {
    if (kept.bytes + kept_sizes[i] > KEPT_BYTES_MAX || kept.list->count[i] == KEPT_OF_SIZE_MAX)
        return false;
    kept.list->block[i][kept.list->count[i]++] = p;
    kept.bytes += kept_sizes[i];
    return true;
}

static bool keep(void *p) {
    size_t n = kept.list && p ? malloc_usable_size(p) : 0;
    if (n < kept_sizes[0] || n > KEPT_SIZE_MAX + SLACK_MAX)
        return false;
    unsigned i = size_within(n);
    return i < KEPT_SIZES && keep_as(p, i);
}

// For owners that remember a block's size: `n` as block_size gave it. Asking the C library would read the block's
// header, which after all that a request has done is in no cache any more.
static size_t block_size(size_t n) {
    return n <= KEPT_SIZE_MAX ? kept_sizes[size_for(n)] : n;
}

static bool keep_block(void *p, size_t n) {
    if (!kept.list || n > KEPT_SIZE_MAX)
        return false;
    unsigned i = size_for(n);
    return kept_sizes[i] == n && keep_as(p, i);
}

static void *move_kept(void *p, size_t n) {
    size_t have = malloc_usable_size(p);
    if (have >= n)
        return p;
    void *to = take_kept(n);
    if (!to)
        return NULL;
    memcpy(to, p, have);
    td_free(p);
    return to;
}

void td_keep_blocks(bool on) {
    if (on && !kept.list) {
        kept.list = malloc(sizeof *kept.list); // of which only the pages that are used come into being
        if (kept.list)
            memset(kept.list->count, 0, sizeof kept.list->count);
    } else if (!on && kept.list) {
        for (size_t i = 0; i < KEPT_SIZES; i++)
            while (kept.list->count[i])
                free(kept.list->block[i][--kept.list->count[i]]);
        free(kept.list);
        kept.list = NULL;
        kept.bytes = 0;
    }
}
#else
static bool is_kept_size(size_t n) {
    (void)n;
    return false;
}

static void *take_kept(size_t n) {
    return malloc(n);
}

static void *move_kept(void *p, size_t n) {
    return realloc(p, n);
}

static bool keep(void *p) {
    (void)p;
    return false;
}

static size_t block_size(size_t n) {
    return n;
}

static bool keep_block(void *p, size_t n) {
    (void)p, (void)n;
    return false;
}

void td_keep_blocks(bool on) {
    (void)on;
}
#endif

void *td_plain_malloc(size_t n) {
    return is_kept_size(n) ? take_kept(n) : malloc(n ? n : 1);
}

void *td_plain_calloc(size_t count, size_t n) {
    size_t all;
    if (__builtin_mul_overflow(count, n, &all) || !is_kept_size(all))
        return calloc(count ? count : 1, n ? n : 1);
    void *p = take_kept(all);
    return p ? memset(p, 0, all) : NULL;
}

void *td_plain_realloc(void *p, size_t n) {
    if (!p)
        return td_plain_malloc(n);
    return is_kept_size(n) ? move_kept(p, n) : realloc(p, n ? n : 1);
}

char *td_plain_strdup(const char *z) {
    size_t n = strlen(z) + 1;
    char *copy = td_plain_malloc(n);
    return copy ? memcpy(copy, z, n) : NULL;
}

void *td_malloc(size_t n) {
    return fails_now() ? NULL : td_plain_malloc(n);
}

void *td_calloc(size_t count, size_t n) {
    return fails_now() ? NULL : td_plain_calloc(count, n);
}

void *td_realloc(void *p, size_t n) {
    return fails_now() ? NULL : td_plain_realloc(p, n);
}

char *td_strndup(const char *p, size_t n) {
    char *copy = td_malloc(n + 1);
    if (copy) {
        if (n)
            memcpy(copy, p, n);
        copy[n] = 0;
    }
    return copy;
}

char *td_strdup(const char *z) {
    return td_strndup(z, strlen(z));
}

void td_free(void *p) {
    if (!keep(p))
        free(p);
}

// A block of at least *n bytes, *n becomes how many it has; give_block takes that number.
static void *take_block(size_t *n) {
    *n = block_size(*n);
    return td_malloc(*n);
}

static void give_block(void *p, size_t n) {
    if (p && !keep_block(p, n))
        free(p);
}

#define CHUNK_MIN 1088u // two of the sizes that workers keep
#define CHUNK_MIN_SMALL 264u
#define ALIGN 16

struct td_arena_chunk {
    struct td_arena_chunk *next;
    size_t used, cap;
    _Alignas(ALIGN) char bytes[];
};

struct td_arena_cleanup {
    struct td_arena_cleanup *next;
    void (*fn)(void *arg);
    void *arg;
};

void td_arena_init(struct td_arena *a, size_t ceiling) {
    *a = (struct td_arena){.ceiling = ceiling, .chunk_min = CHUNK_MIN - sizeof(struct td_arena_chunk)};
}

void td_arena_init_small(struct td_arena *a, size_t ceiling) {
    *a = (struct td_arena){.ceiling = ceiling, .chunk_min = CHUNK_MIN_SMALL - sizeof(struct td_arena_chunk)};
}

void td_arena_finish(struct td_arena *a) {
    while (a->cleanups) {
        struct td_arena_cleanup *c = a->cleanups;
        a->cleanups = c->next;
        c->fn(c->arg);
    }
    while (a->head) {
        struct td_arena_chunk *next = a->head->next;
        give_block(a->head, sizeof *next + a->head->cap);
        a->head = next;
    }
    a->used = 0;
}

void *td_arena_alloc(struct td_arena *a, size_t n) {
    if (n > a->ceiling)
        return NULL;
    n = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (n == 0)
        n = ALIGN;
    if (n > a->ceiling || a->used > a->ceiling - n)
        return NULL;
    if (!a->head || a->head->cap - a->head->used < n) {
        // Chunks grow with use, so a big request costs few of them and a small one little.
        size_t cap = a->used / 2 < a->chunk_min ? a->chunk_min : a->used / 2;
        if (cap < n)
            cap = n;
        if (cap > (1u << 20) && cap > n)
            cap = n > (1u << 20) ? n : 1u << 20;
        size_t size = sizeof(struct td_arena_chunk) + cap;
        struct td_arena_chunk *c = take_block(&size);
        if (!c)
            return NULL;
        c->used = 0;
        c->cap = size - sizeof *c;
        if (a->head && n == cap && a->head->cap - a->head->used > 256) {
            // A single large block goes behind the head, whose rest stays useful.
            c->next = a->head->next;
            a->head->next = c;
            c->used = n;
            a->used += n;
            return memset(c->bytes, 0, n);
        }
        c->next = a->head;
        a->head = c;
    }
    void *p = a->head->bytes + a->head->used;
    a->head->used += n;
    a->used += n;
    return memset(p, 0, n);
}

void *td_arena_array(struct td_arena *a, size_t count, size_t n) {
    if (n && count > SIZE_MAX / n)
        return NULL;
    return td_arena_alloc(a, count * n);
}

struct td_str td_arena_str(struct td_arena *a, struct td_str s) {
    char *p = td_arena_alloc(a, s.n + 1);
    if (!p)
        return TD_STR_NONE;
    if (s.n)
        memcpy(p, s.p, s.n);
    return (struct td_str){p, s.n};
}

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

struct td_str td_arena_printf(struct td_arena *a, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = td_vformat(NULL, 0, fmt, args);
    va_end(args);
    char *p = n < 0 ? NULL : td_arena_alloc(a, (size_t)n + 1);
    if (p)
        td_vformat(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p ? (struct td_str){p, (size_t)n} : TD_STR_NONE;
}

enum td_err td_arena_on_finish(struct td_arena *a, void (*fn)(void *arg), void *arg) {
    struct td_arena_cleanup *c = td_arena_alloc(a, sizeof *c);
    if (!c)
        return TD_ERR_NOMEM;
    *c = (struct td_arena_cleanup){a->cleanups, fn, arg};
    a->cleanups = c;
    return TD_OK;
}

#define MOVED_BYTES_MAX (64u << 10) // a larger buffer the C library may grow in its place

void td_buf_init(struct td_buf *b, size_t ceiling) {
    *b = (struct td_buf){.ceiling = ceiling};
}

void td_buf_finish(struct td_buf *b) {
    give_block(b->p, b->cap);
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
    cap = block_size(cap);
    char *p = cap > MOVED_BYTES_MAX ? td_realloc(b->p, cap) : td_malloc(cap);
    if (!p)
        return TD_ERR_NOMEM;
    if (b->n && cap <= MOVED_BYTES_MAX)
        memcpy(p, b->p, b->n);
    if (cap <= MOVED_BYTES_MAX)
        give_block(b->p, b->cap);
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
typedef uint8_t block __attribute__((vector_size(32)));
typedef uint64_t quarters __attribute__((vector_size(32)));

static TD_INLINE size_t plain_blocks(const char *p, size_t n) {
    size_t i = 0;
    for (; i + 2 * sizeof(block) <= n; i += 2 * sizeof(block)) {
        block b[2], found;
        memcpy(b, p + i, sizeof b);
        found = (block)((b[0] < 0x20) | (b[0] == '"') | (b[0] == '\\'));
        found |= (block)((b[1] < 0x20) | (b[1] == '"') | (b[1] == '\\'));
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
    size_t i = n < 2 * sizeof(block) ? 0 : td_has_avx2() ? plain_blocks_avx2(p, n) : plain_blocks(p, n);
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
