// SPDX-License-Identifier: Apache-2.0
// The store from inside: what the files of this room share. Two sides: `hand-over` (journal, operations, acks; knows
// no SQL beyond begin and commit) and `tables` (ledger, outbox, accounts, catalogue: each change is a function that the
// writer thread runs in its transaction, each query runs on a reader connection of the pool).
#ifndef TD_STORE_INNER_H
#define TD_STORE_INNER_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/counters.h"
#include "store/db.h"
#include "store/journal.h"
#include "store/ledger.h"
#include "store/rollup.h"
#include "store/segment.h"
#include "store/shapes.h"
#include "store/store.h"

#define TD_STORE_READERS_MAX 4u    // queries at once; more wait
#define TD_STORE_OPS_MAX 4096u     // operations waiting for the writer; beyond it they are refused
#define TD_STORE_TURN_ROWS 4096u   // rows in one transaction, so that acks never wait for an endless one
#define TD_STORE_RETRY_MS 250u     // how often a refusing disk is asked again
#define TD_STORE_CLOSE_MS 3000u    // how long closing waits for a refusing disk
#define TD_STORE_ROLLUP_ROWS 2000u // rows a stats query may have to read itself
#define TD_STORE_WAL_PAGES 1000u   // checkpoint beyond this many

// End of the hash chain.
struct td_chain {
    unsigned char head[32];
};

// A change to be made by the writer thread. `run` may be called again after a failed transaction only by a new
// submission: a failed operation is over. It must leave *arg alone but for results.
struct td_op {
    struct td_op *next;
    enum td_err (*run)(struct td_store *store, struct td_db *db, void *arg, struct td_error *e);
    void *arg;
    struct td_arena arena;          // of an asynchronous operation: *arg and what it points to
    struct td_pending_ack *pending; // of an asynchronous one; made with it, so that it can always be acknowledged
    bool waited_for, done;
    enum td_err err;
    struct td_error error;
};

// A posted acknowledgement, or one waiting for its row.
struct td_pending_ack {
    struct td_pending_ack *next;
    struct td_ack ack;
    enum td_err err;
    uint64_t number;
};

struct td_reader {
    struct td_db db;
    bool busy, open;
};

enum td_sleep { TD_AWAKE, TD_SLEEP_IDLE, TD_SLEEP_GATHER };

struct td_store {
    struct td_store_options options;
    char *db_path;
    int dir_fd, lock_fd;
    unsigned char secret[32], chain_key[32], seal_key[32];

    pthread_mutex_t readers_lock;
    pthread_cond_t readers_free;
    struct td_reader readers[TD_STORE_READERS_MAX];

    struct td_journal *journal;
    _Atomic uint64_t durable; // every number below is on the disk (or was never finished)
    _Atomic bool writable;
    _Atomic int sleeping; // enum td_sleep

    pthread_mutex_t lock; // guards what follows
    pthread_cond_t wake, turned;
    struct td_op *ops, **ops_last;
    unsigned op_count;
    struct td_pending_ack *acks, *undelivered;
    bool hurry;
    atomic_bool closing; // set under the lock, and looked at by the writer outside it as well

    pthread_t thread; // the rest belongs to the writer
    bool thread_runs;
    struct td_db writer;
    struct td_chain chain;
    struct td_segment_draft draft; // what this turn took and has not written yet
    struct td_rollup rollup;
    uint64_t retry_at_ns, gather_until_ns, rollup_at_ns, noted_at_ns;
    int wal_pages;
    bool noted_writable; // what the log last said

    struct td_counter *rows_total, *refused_total, *commits_total, *failures_total, *omitted_total;
    struct td_histogram *commit_us;
    struct td_gauge *ring_gauge;
};

// writer.c
enum td_err td_writer_recover(struct td_store *store, struct td_error *e) TD_MUST_USE;
enum td_err td_writer_start(struct td_store *store, struct td_error *e) TD_MUST_USE;
void td_writer_stop(struct td_store *store);
// Wakes the writer when it sleeps; `urgent` also while it gathers.
void td_writer_nudge(struct td_store *store, bool urgent);
// Has `run` done by the writer and waits until that is durable.
enum td_err td_store_do(struct td_store *store,
                        enum td_err (*run)(struct td_store *, struct td_db *, void *arg, struct td_error *), void *arg,
                        struct td_error *e) TD_MUST_USE;
// The same without waiting: makes an operation whose arena the caller fills; submit gives it away.
struct td_op *td_op_create(size_t arg_size, size_t ceiling);
void td_op_destroy(struct td_op *op);
// Ownership passes also on failure. TD_ERR_OVERLOAD: too many wait. `ack` NULL: waits.
enum td_err td_op_submit(struct td_store *store, struct td_op *op, const struct td_ack *ack,
                         struct td_error *e) TD_MUST_USE;

// ledger.c, on the writer thread, in a transaction. A record is taken into the draft and the usage sums, the draft is
// written when it is full or the turn's last record is in it. A transaction that fails takes store->chain and the draft
// back, and the sums count as incomplete.
enum td_err td_ledger_load(struct td_store *store, struct td_error *e) TD_MUST_USE;
enum td_err td_ledger_take(struct td_store *store, struct td_db *db, const struct td_journal_record *r,
                           struct td_error *e) TD_MUST_USE;
enum td_err td_ledger_write(struct td_store *store, struct td_db *db, struct td_error *e) TD_MUST_USE;
enum td_err td_ledger_put(struct td_db *db, const struct td_segment *x, const unsigned char chain[32],
                          struct td_error *e) TD_MUST_USE;
// The number of the last record that the database holds.
enum td_err td_ledger_taken(struct td_db *db, uint64_t *number, struct td_error *e) TD_MUST_USE;
// ledger_read.c: makes the sums anew of the rows that the written ones do not cover.
enum td_err td_ledger_rollup_reload(struct td_store *store, struct td_db *db, struct td_error *e) TD_MUST_USE;

// convert.c: what stands in the tables of schema 1 goes into segments, a part of it in each transaction. Before there
// are other threads.
enum td_err td_convert(struct td_store *store, struct td_error *e) TD_MUST_USE;

// prune.c: where the chain's front was cut off by retention; number 0 nowhere. `sound` false: somebody else did it.
struct td_chain_cut {
    uint64_t number;
    unsigned char head[32];
};
enum td_err td_prune_cut(struct td_store *store, struct td_db *db, struct td_chain_cut *out, bool *sound,
                         struct td_error *e) TD_MUST_USE;
enum td_err td_prune_seal(struct td_store *store, struct td_db *db, const struct td_chain_cut *cut,
                          struct td_error *e) TD_MUST_USE;

// outbox_text.c: a text of the outbox at rest, bound to `what` it is ("request", "context", "local", "cloud", "event")
// of entry `id`, so that none can stand in for another. Any thread. Sealing puts it into the arena, TD_STR_NONE where
// the text is empty; false without memory. Opening makes *buf, which the caller finishes also after an error, and lets
// *out view it; an empty text leaves *out alone.
bool td_outbox_seal(struct td_store *store, struct td_arena *arena, const char *what, struct td_str id,
                    struct td_str text, struct td_str *out) TD_MUST_USE;
enum td_err td_outbox_unseal(struct td_store *store, const char *what, struct td_str id, struct td_str sealed,
                             struct td_buf *buf, struct td_str *out, struct td_error *e) TD_MUST_USE;

// store.c: a reader connection inside a read transaction.
enum td_err td_reader_take(struct td_store *store, struct td_db **db, struct td_error *e) TD_MUST_USE;
void td_reader_give(struct td_store *store, struct td_db *db);

#endif
