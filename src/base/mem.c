// SPDX-License-Identifier: Apache-2.0
// The allocator and the arenas made of it, in one file so that an arena's blocks cost no call.
#include "base/mem.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdatomic.h>
#include <stdlib.h>

#include "base/block.h"
#include "base/format.h"

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

// Asking the C library for a block's size would read the block's header, which after all that a request has done is in
// no cache any more.
size_t td_block_size(size_t n) {
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

size_t td_block_size(size_t n) {
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

void *td_block_take(size_t *n) {
    *n = td_block_size(*n);
    return td_malloc(*n);
}

void td_block_give(void *p, size_t n) {
    if (p && !keep_block(p, n))
        free(p);
}

// ---- arenas

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
        td_block_give(a->head, sizeof *next + a->head->cap);
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
        struct td_arena_chunk *c = td_block_take(&size);
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
