// SPDX-License-Identifier: Apache-2.0
// Memory: one allocator for the whole program (so that a torture run can make each allocation fail once), arenas that a
// request owns, and buffers that are born with a ceiling.
#ifndef TD_BASE_MEM_H
#define TD_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

// malloc, calloc, realloc, strdup, free, with failure injection. NULL means out of memory. Any thread.
void *td_malloc(size_t n);
void *td_calloc(size_t count, size_t n);
void *td_realloc(void *p, size_t n);
char *td_strdup(const char *z);
char *td_strndup(const char *p, size_t n);
void td_free(void *p);
// The same without injected failures, for libraries that take an allocator.
void *td_plain_malloc(size_t n);
void *td_plain_calloc(size_t count, size_t n);
void *td_plain_realloc(void *p, size_t n);
char *td_plain_strdup(const char *z);
// This thread keeps freed blocks up to 16 KiB for its next requests (on), or gives them back and stops (off, as the
// thread must before it ends).
void td_keep_blocks(bool on);
// Torture: the allocation with this running number (from 1, over the whole process) fails once; 0 switches it off.
// Also set by the environment variable TANDEM_FAIL_ALLOC. td_alloc_count says how many there have been.
void td_alloc_fail_at(uint64_t number);
uint64_t td_alloc_count(void);

// An arena: many small allocations, freed at once. Not thread-safe: one owner. Memory comes zeroed and 16-byte aligned.
// A request's arena also runs clean-ups, last registered first, when it is finished.
struct td_arena_chunk;
struct td_arena_cleanup;
struct td_arena {
    struct td_arena_chunk *head;
    struct td_arena_cleanup *cleanups;
    size_t used, ceiling, chunk_min;
};
// `ceiling` in bytes over all chunks; allocation beyond it returns NULL. Allocates nothing itself. The first chunk has
// a kilobyte (_small: a quarter), the next ones half as much as was used before: at most a third of an arena lies idle.
void td_arena_init(struct td_arena *a, size_t ceiling);
void td_arena_init_small(struct td_arena *a, size_t ceiling);
void td_arena_finish(struct td_arena *a);
void *td_arena_alloc(struct td_arena *a, size_t n) TD_MUST_USE;
// Array of `count` elements of `n` bytes, overflow-checked.
void *td_arena_array(struct td_arena *a, size_t count, size_t n) TD_MUST_USE;
// Copies `s` and NUL-terminates it; .p is NULL when memory ran out.
struct td_str td_arena_str(struct td_arena *a, struct td_str s);
struct td_str td_arena_printf(struct td_arena *a, const char *fmt, ...) TD_PRINTF(2, 3);
// Calls fn(arg) at td_arena_finish.
enum td_err td_arena_on_finish(struct td_arena *a, void (*fn)(void *arg), void *arg) TD_MUST_USE;

// A growing byte buffer with a ceiling. After a failed append the content is as before. `p` is not NUL-terminated
// unless td_buf_z was asked. One owner.
struct td_buf {
    char *p;
    size_t n, cap, ceiling;
};
void td_buf_init(struct td_buf *b, size_t ceiling);
void td_buf_finish(struct td_buf *b);
// Empties it, keeps the memory.
void td_buf_clear(struct td_buf *b);
// TD_ERR_LIMIT over the ceiling, TD_ERR_NOMEM without memory.
enum td_err td_buf_append(struct td_buf *b, const void *p, size_t n) TD_MUST_USE;
// Inline for pieces whose length the compiler knows, of which an answer is put together by the hundred.
TD_MUST_USE static inline enum td_err td_buf_add(struct td_buf *b, const void *p, size_t n) {
    if (!__builtin_constant_p(n) || n > b->cap - b->n || n > b->ceiling - b->n)
        return td_buf_append(b, p, n);
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
    return TD_OK;
}
TD_MUST_USE static inline enum td_err td_buf_add_str(struct td_buf *b, struct td_str s) {
    return td_buf_append(b, s.p, s.n);
}
TD_MUST_USE static inline enum td_err td_buf_addz(struct td_buf *b, const char *z) {
    return td_buf_add(b, z, strlen(z));
}
TD_MUST_USE static inline enum td_err td_buf_addc(struct td_buf *b, char c) {
    return td_buf_add(b, &c, 1);
}
// In decimal.
enum td_err td_buf_add_u64(struct td_buf *b, uint64_t v) TD_MUST_USE;
enum td_err td_buf_printf(struct td_buf *b, const char *fmt, ...) TD_PRINTF(2, 3) TD_MUST_USE;
// Appends `s` as a JSON string with quotes and escapes (RFC 8259 section 7); `s` must be UTF-8.
enum td_err td_buf_add_json(struct td_buf *b, struct td_str s) TD_MUST_USE;
// Makes room for `n` more bytes and returns where they go (NULL on failure); td_buf_grew takes them in.
char *td_buf_reserve(struct td_buf *b, size_t n) TD_MUST_USE;
// The same where it is only to save steps: the appends that follow say what fails.
void td_buf_expect(struct td_buf *b, size_t n);
static inline void td_buf_grew(struct td_buf *b, size_t n) {
    b->n += n;
}
// Drops the first `n` bytes.
void td_buf_drop(struct td_buf *b, size_t n);
// NUL-terminates (not counted in n) and returns it; NULL on failure.
const char *td_buf_z(struct td_buf *b) TD_MUST_USE;
static inline struct td_str td_buf_str(const struct td_buf *b) {
    return (struct td_str){b->p, b->n};
}

#endif
