// SPDX-License-Identifier: Apache-2.0
// The hand-over ring: many workers put records in, one writer takes them out, and what is in it outlives `kill -9`,
// because the ring is a shared mapping of a file: its pages belong to the kernel, not to the process. Putting a record
// in makes no system call. The file's blocks are allocated when it is made, so a full disk cannot hurt later.
//
// Invariants: [head, tail) holds whole records, first to last by sequence number; a record's length is written before
// the tail that covers it, so the ring can be walked after a kill at any instruction; a record counts only when its
// state says COMMITTED and its sum fits. Room is given back (head moves) only after the database has committed, and the
// database remembers the last number it took, so a record is taken exactly once. After a power loss pages may be older
// or newer than one another: the walk then stops at the first header that makes no sense.
#ifndef TD_STORE_JOURNAL_H
#define TD_STORE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct td_journal;

struct td_journal_record {
    uint64_t number;
    uint32_t kind;
    const unsigned char *p;
    size_t n;
};

// Opens data_dir's ring or makes one of `bytes` (rounded up to pages). What it holds from before stays until
// td_journal_restart. TD_ERR_IO, TD_ERR_NOMEM.
enum td_err td_journal_open(int dir_fd, const char *name, size_t bytes, struct td_journal **out,
                            struct td_error *e) TD_MUST_USE;
void td_journal_close(struct td_journal *j);
// Empties it and numbers new records from `next`. Only before other threads use it.
void td_journal_restart(struct td_journal *j, uint64_t next);

// Any thread. Reserves room for `n` bytes; *number gets the record's number. NULL when the ring is full. The caller
// fills all of it and commits, soon: the writer waits for records in order.
void *td_journal_reserve(struct td_journal *j, uint32_t kind, size_t n, uint64_t *number) TD_MUST_USE;
void td_journal_commit(void *payload);
// The number the next record will get: all smaller ones have been given out.
uint64_t td_journal_next_number(const struct td_journal *j);
// Share of the ring in use, 0 … 256.
unsigned td_journal_fill(const struct td_journal *j);

// The writer, or recovery before there are other threads. A cursor starts at td_journal_head; next gives the record
// there and moves on. False: nothing more, or (*waiting true) the next one is still being filled.
uint64_t td_journal_head(const struct td_journal *j);
bool td_journal_next(const struct td_journal *j, uint64_t *cursor, struct td_journal_record *out, bool *waiting);
// Gives back the room before `cursor`.
void td_journal_release(struct td_journal *j, uint64_t cursor);
// For recovery: like next, but steps over records that were never finished or do not sum up (counted in *lost).
bool td_journal_recover(const struct td_journal *j, uint64_t *cursor, struct td_journal_record *out, uint64_t *lost);

#endif
