// SPDX-License-Identifier: Apache-2.0
// The writer thread. It sleeps while nothing waits (IDLE), gathers rows for batch_ms after the first (GATHER), and
// turns: one transaction over what is in the ring, the operations and, now and then, the usage sums. A turn that fails
// changes nothing: rows stay in the ring and are tried again every TD_STORE_RETRY_MS, operations and acks are told.
//
//   IDLE ──row──► GATHER ──time, many rows, or somebody waits──► turn ──► IDLE
//     └────────────operation, or somebody waits─────────────────►┘
//
// Invariant: the newest segment says which record of the ring is the last that the database holds (retention leaves it
// there), so a record enters once however often the process is killed.
#include <signal.h>
#include <time.h>

#include "base/log.h"
#include "base/time.h"
#include "base/wait.h"
#include "loop/loop.h"
#include "store/inner.h"

#define NOTE_EVERY_NS (5 * TD_S_NS) // a store at its limit changes its mind often; the log need not hear of each

void td_writer_nudge(struct td_store *store, bool urgent) {
    // One total order over `sleeping` and the journal's next number (all four accesses are sequentially consistent):
    // either we see the writer asleep, or it saw our record before it fell asleep.
    int sleeping = atomic_load(&store->sleeping);
    if (sleeping == TD_AWAKE || (sleeping == TD_SLEEP_GATHER && !urgent))
        return;
    pthread_mutex_lock(&store->lock);
    atomic_store_explicit(&store->sleeping, TD_AWAKE, memory_order_relaxed);
    pthread_cond_signal(&store->wake);
    pthread_mutex_unlock(&store->lock);
}

static void sleep_until(struct td_store *store, uint64_t until_ns) {
    td_wait_until(&store->wake, &store->lock, until_ns);
}

// With the lock held. Returns when a turn is due.
static void wait_for_work(struct td_store *store) {
    for (;;) {
        uint64_t now = td_now_ns();
        bool refused = store->retry_at_ns > now;
        bool somebody = store->ops || store->acks || store->hurry || store->closing;
        if (refused && !store->closing) {
            sleep_until(store, store->retry_at_ns);
            continue;
        }
        if (somebody || store->undelivered)
            break;
        atomic_store(&store->sleeping, store->gather_until_ns ? TD_SLEEP_GATHER : TD_SLEEP_IDLE);
        uint64_t pending = td_journal_next_number(store->journal) - atomic_load(&store->durable);
        if (pending == 0) {
            pthread_cond_wait(&store->wake, &store->lock);
        } else if (store->gather_until_ns == 0) {
            store->gather_until_ns = now + store->options.batch_ms * TD_MS_NS;
        } else if (now >= store->gather_until_ns || pending >= store->options.batch_rows) {
            break;
        } else {
            sleep_until(store, store->gather_until_ns);
        }
    }
    atomic_store_explicit(&store->sleeping, TD_AWAKE, memory_order_relaxed);
    store->gather_until_ns = 0;
}

static void run_ack(void *arg) {
    struct td_pending_ack *p = arg;
    p->ack.fn(p->ack.arg, p->err);
    td_free(p);
}

// Without the lock. What cannot be posted for want of memory waits for the next turn.
static void deliver(struct td_store *store, struct td_pending_ack *list) {
    while (list) {
        struct td_pending_ack *next = list->next;
        if (!list->ack.loop) {
            run_ack(list);
        } else if (td_loop_post(list->ack.loop, run_ack, list) != TD_OK) {
            pthread_mutex_lock(&store->lock);
            list->next = store->undelivered;
            store->undelivered = list;
            pthread_mutex_unlock(&store->lock);
        }
        list = next;
    }
}

// Takes the acks of rows below `durable` (or all of them, with an error).
static void deliver_row_acks(struct td_store *store, uint64_t durable, enum td_err err) {
    struct td_pending_ack *ready = NULL, **last = &ready;
    pthread_mutex_lock(&store->lock);
    struct td_pending_ack **at = &store->acks;
    while (*at) {
        struct td_pending_ack *p = *at;
        if (err == TD_OK && p->number >= durable) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        p->next = NULL;
        p->err = err;
        *last = p;
        last = &p->next;
    }
    pthread_mutex_unlock(&store->lock);
    deliver(store, ready);
}

void td_op_destroy(struct td_op *op) {
    if (!op)
        return;
    td_arena_finish(&op->arena);
    td_free(op->pending);
    td_free(op);
}

static void finish_ops(struct td_store *store, struct td_op *op) {
    while (op) {
        struct td_op *next = op->next;
        if (op->waited_for) {
            pthread_mutex_lock(&store->lock);
            op->done = true; // from here on it may be gone with its owner
            pthread_cond_broadcast(&store->turned);
            pthread_mutex_unlock(&store->lock);
        } else {
            struct td_pending_ack *p = op->pending;
            op->pending = NULL;
            p->err = op->err;
            td_op_destroy(op);
            deliver(store, p);
        }
        op = next;
    }
}

// An operation that fails for its own reasons is undone alone; one that fails because of the disk takes the
// transaction with it.
static enum td_err run_op(struct td_store *store, struct td_op *op, struct td_error *e) {
    struct td_db *db = &store->writer;
    enum td_err err = td_db_exec(db, "SAVEPOINT op", e);
    if (err != TD_OK)
        return err;
    op->err = op->run(store, db, op->arg, &op->error);
    if (op->err == TD_ERR_LEDGER || sqlite3_get_autocommit(db->c)) {
        if (e)
            *e = op->error;
        return op->err != TD_OK ? op->err : TD_ERR_LEDGER;
    }
    return td_db_exec(db, op->err == TD_OK ? "RELEASE op" : "ROLLBACK TO op; RELEASE op", e);
}

struct turn {
    struct td_op *ops;
    uint64_t cursor, last; // ring: where to go on; number of the last record taken, 0 none
    uint32_t rows;
    bool waiting, rollup;
};

// The sums of all rows that the database will hold after this transaction.
static enum td_err write_sums(struct td_store *store, uint64_t last, struct td_error *e) {
    enum td_err err = TD_OK;
    if (store->rollup.incomplete)
        err = td_ledger_rollup_reload(store, &store->writer, e);
    if (err == TD_OK)
        err = td_rollup_write(&store->rollup, &store->writer, e);
    return err == TD_OK ? td_db_meta_put(&store->writer, "rolled", (int64_t)last, e) : err;
}

static enum td_err fill_transaction(struct td_store *store, struct turn *t, struct td_error *e) {
    struct td_journal_record r;
    struct td_db *db = &store->writer;
    enum td_err err = td_db_done(db, td_db_statement(db, "BEGIN IMMEDIATE"), "writing to the store", e);
    while (err == TD_OK && t->rows < TD_STORE_TURN_ROWS &&
           td_journal_next(store->journal, &t->cursor, &r, &t->waiting)) {
        err = td_ledger_take(store, db, &r, e);
        t->last = r.number;
        t->rows++;
    }
    if (err == TD_OK)
        err = td_ledger_write(store, db, e);
    for (struct td_op *op = t->ops; err == TD_OK && op; op = op->next)
        err = run_op(store, op, e);
    if (err == TD_OK && t->rollup)
        err = write_sums(store, t->last ? t->last : atomic_load(&store->durable) - 1, e);
    return err == TD_OK ? td_db_done(db, td_db_statement(db, "COMMIT"), "writing to the store", e) : err;
}

// After the commit: written sums begin anew, the ring's room is given back.
static void take_rows(struct td_store *store, const struct turn *t) {
    if (t->rollup) {
        td_rollup_finish(&store->rollup);
        store->rollup_at_ns = td_now_ns();
    }
    if (!t->last)
        return;
    td_journal_release(store->journal, t->cursor);
    atomic_store(&store->durable, t->last + 1);
}

// The transaction has failed: nothing of it has happened.
static void take_back(struct td_store *store, const struct td_chain *chain) {
    if (!sqlite3_get_autocommit(store->writer.c))
        sqlite3_exec(store->writer.c, "ROLLBACK", NULL, NULL, NULL);
    store->chain = *chain;
    td_segment_clear(&store->draft);
    store->rollup.incomplete = true; // rows of this turn are in it
}

static void note_state(struct td_store *store, bool refused, const struct td_error *e) {
    bool was = atomic_load(&store->writable);
    // Refuse paid calls before the ring is full, and take them again only when it has room: no flapping.
    unsigned fill = td_journal_fill(store->journal);
    bool is = !refused && fill < (was ? 224 : 128);
    td_gauge_set(store->ring_gauge, fill);
    atomic_store(&store->writable, is);
    uint64_t now = td_now_ns();
    if (is == store->noted_writable || now - store->noted_at_ns < NOTE_EVERY_NS)
        return;
    store->noted_writable = is;
    store->noted_at_ns = now;
    if (is)
        td_log(TD_LOG_INFO, "store", NULL, "writable=true");
    else
        td_log(TD_LOG_ERROR, "store", NULL, "while=commit writable=false err=\"%s\"",
               refused ? e->message : "the disk is too slow");
}

static void checkpoint(struct td_store *store) {
    if (store->wal_pages < (int)TD_STORE_WAL_PAGES)
        return;
    int log = 0, done = 0;
    if (sqlite3_wal_checkpoint_v2(store->writer.c, NULL, SQLITE_CHECKPOINT_PASSIVE, &log, &done) == SQLITE_OK &&
        log == done)
        store->wal_pages = 0; // the next commit starts the log over
}

static int on_wal(void *arg, sqlite3 *c, const char *name, int pages) {
    struct td_store *store = arg;
    (void)c, (void)name;
    store->wal_pages = pages;
    return SQLITE_OK;
}

static bool rollup_is_due(const struct td_store *store) {
    const struct td_rollup *r = &store->rollup;
    return (r->rows > 0 || r->incomplete) &&
           (r->rows >= TD_STORE_ROLLUP_ROWS || store->closing || td_now_ns() - store->rollup_at_ns > 10 * TD_S_NS);
}

static void turn(struct td_store *store, struct td_op *ops) {
    struct turn t = {.ops = ops, .cursor = td_journal_head(store->journal), .rollup = rollup_is_due(store)};
    struct td_error e = {0};
    struct td_chain chain = store->chain;
    bool work = ops || t.rollup || td_journal_next_number(store->journal) > atomic_load(&store->durable);
    uint64_t start = td_now_ns();
    enum td_err err = work ? fill_transaction(store, &t, &e) : TD_OK;
    if (err == TD_OK) {
        take_rows(store, &t);
        store->retry_at_ns = 0;
        if (work) {
            td_counter_add(store->commits_total, 1);
            td_counter_add(store->rows_total, t.rows);
            td_histogram_add(store->commit_us, (td_now_ns() - start) / 1000);
        }
    } else {
        take_back(store, &chain);
        store->retry_at_ns = td_now_ns() + TD_STORE_RETRY_MS * TD_MS_NS;
        td_counter_add(store->failures_total, 1);
        for (struct td_op *op = ops; op; op = op->next) {
            op->err = err;
            op->error = e;
        }
    }
    note_state(store, err != TD_OK, &e);
    deliver_row_acks(store, atomic_load(&store->durable), err == TD_OK ? TD_OK : TD_ERR_LEDGER);
    finish_ops(store, ops);
    pthread_mutex_lock(&store->lock);
    pthread_cond_broadcast(&store->turned);
    pthread_mutex_unlock(&store->lock);
    if (err == TD_OK)
        checkpoint(store);
    if (err == TD_OK && t.waiting && t.rows == 0)
        nanosleep(&(struct timespec){0, 100000}, NULL); // a worker is in the middle of its copy
}

static void retry_undelivered(struct td_store *store) {
    pthread_mutex_lock(&store->lock);
    struct td_pending_ack *list = store->undelivered;
    store->undelivered = NULL;
    pthread_mutex_unlock(&store->lock);
    deliver(store, list);
    if (store->undelivered)
        nanosleep(&(struct timespec){0, 5000000}, NULL);
}

static void *writer_main(void *arg) {
    struct td_store *store = arg;
    uint64_t close_by = 0;
    pthread_setname_np(pthread_self(), "td-store");
    for (;;) {
        pthread_mutex_lock(&store->lock);
        wait_for_work(store);
        struct td_op *ops = store->ops;
        store->ops = NULL;
        store->ops_last = &store->ops;
        store->op_count = 0;
        store->hurry = false;
        bool closing = store->closing;
        pthread_mutex_unlock(&store->lock);
        turn(store, ops);
        if (store->undelivered)
            retry_undelivered(store);
        if (!closing)
            continue;
        uint64_t now = td_now_ns();
        if (!close_by)
            close_by = now + TD_STORE_CLOSE_MS * TD_MS_NS;
        bool empty = td_journal_next_number(store->journal) == atomic_load(&store->durable) && !rollup_is_due(store);
        if (empty || now >= close_by)
            return NULL;
        if (store->retry_at_ns)
            nanosleep(&(struct timespec){0, 50000000}, NULL);
    }
}

enum td_err td_writer_start(struct td_store *store, struct td_error *e) {
    sigset_t all, before;
    sqlite3_wal_hook(store->writer.c, on_wal, store);
    store->rollup_at_ns = td_now_ns();
    atomic_store(&store->writable, true);
    store->noted_writable = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); // signals are the program's affair, not this thread's
    int rc = pthread_create(&store->thread, NULL, writer_main, store);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return td_error_set(e, TD_ERR_NOMEM, "while starting the store's writer");
    store->thread_runs = true;
    return TD_OK;
}

void td_writer_stop(struct td_store *store) {
    if (!store->thread_runs)
        return;
    pthread_mutex_lock(&store->lock);
    store->closing = true;
    pthread_cond_signal(&store->wake);
    pthread_mutex_unlock(&store->lock);
    pthread_join(store->thread, NULL);
    store->thread_runs = false;
    deliver_row_acks(store, 0, TD_ERR_LEDGER);
    retry_undelivered(store);
}

// Before the thread exists: what a killed process had handed over goes into the table.
enum td_err td_writer_recover(struct td_store *store, struct td_error *e) {
    struct td_journal_record r;
    uint64_t lost = 0, found = 0, last;
    uint64_t cursor = td_journal_head(store->journal);
    enum td_err err = td_ledger_taken(&store->writer, &last, e);
    if (err == TD_OK)
        err = td_db_exec(&store->writer, "BEGIN IMMEDIATE", e);
    while (err == TD_OK && td_journal_recover(store->journal, &cursor, &r, &lost)) {
        if (r.number <= last)
            continue;
        err = td_ledger_take(store, &store->writer, &r, e);
        last = r.number;
        found++;
    }
    if (err == TD_OK)
        err = td_ledger_write(store, &store->writer, e);
    if (err == TD_OK)
        err = td_db_exec(&store->writer, "COMMIT", e);
    if (err == TD_OK)
        err = td_ledger_rollup_reload(store, &store->writer, e);
    if (err != TD_OK)
        return err;
    if (found || lost)
        td_log(TD_LOG_WARN, "store", NULL, "while=recover rows=%llu unfinished=%llu", (unsigned long long)found,
               (unsigned long long)lost);
    td_journal_restart(store->journal, last + 1);
    atomic_store(&store->durable, last + 1);
    return TD_OK;
}

struct td_op *td_op_create(size_t arg_size, size_t ceiling) {
    struct td_op *op = td_calloc(1, sizeof *op);
    if (!op)
        return NULL;
    td_arena_init(&op->arena, ceiling);
    op->pending = td_calloc(1, sizeof *op->pending);
    op->arg = td_arena_alloc(&op->arena, arg_size ? arg_size : 1);
    if (op->pending && op->arg)
        return op;
    td_op_destroy(op);
    return NULL;
}

static enum td_err enqueue(struct td_store *store, struct td_op *op, struct td_error *e) {
    enum td_err err = TD_OK;
    pthread_mutex_lock(&store->lock);
    if (store->options.read_only) {
        err = td_error_set(e, TD_ERR_USAGE, "the store was opened for reading only");
    } else if (store->closing) {
        err = td_error_set(e, TD_ERR_CANCELLED, "the store is closing");
    } else if (store->op_count >= TD_STORE_OPS_MAX) {
        err = td_error_set(e, TD_ERR_OVERLOAD, "too many changes wait for the disk");
    } else {
        *store->ops_last = op;
        store->ops_last = &op->next;
        store->op_count++;
        atomic_store_explicit(&store->sleeping, TD_AWAKE, memory_order_relaxed);
        pthread_cond_signal(&store->wake);
    }
    pthread_mutex_unlock(&store->lock);
    return err;
}

static enum td_err wait_for(struct td_store *store, struct td_op *op, struct td_error *e) {
    op->waited_for = true;
    enum td_err err = enqueue(store, op, e);
    if (err != TD_OK)
        return err;
    pthread_mutex_lock(&store->lock);
    while (!op->done)
        pthread_cond_wait(&store->turned, &store->lock);
    pthread_mutex_unlock(&store->lock);
    if (op->err != TD_OK && e)
        *e = op->error;
    return op->err;
}

enum td_err td_store_do(struct td_store *store,
                        enum td_err (*run)(struct td_store *, struct td_db *, void *arg, struct td_error *), void *arg,
                        struct td_error *e) {
    struct td_op op = {.run = run, .arg = arg};
    return wait_for(store, &op, e);
}

enum td_err td_op_submit(struct td_store *store, struct td_op *op, const struct td_ack *ack, struct td_error *e) {
    enum td_err err;
    if (!ack) {
        err = wait_for(store, op, e);
        td_op_destroy(op);
        return err;
    }
    op->pending->ack = *ack;
    err = enqueue(store, op, e);
    if (err != TD_OK)
        td_op_destroy(op);
    return err;
}

enum td_err td_store_flush(struct td_store *store, uint32_t timeout_ms) {
    if (store->options.read_only)
        return TD_OK;
    uint64_t target = td_journal_next_number(store->journal);
    uint64_t deadline = td_now_ns() + timeout_ms * TD_MS_NS;
    enum td_err err = TD_OK;
    pthread_mutex_lock(&store->lock);
    while (err == TD_OK && atomic_load(&store->durable) < target) {
        store->hurry = true;
        atomic_store_explicit(&store->sleeping, TD_AWAKE, memory_order_relaxed);
        pthread_cond_signal(&store->wake);
        if (!td_wait_until(&store->turned, &store->lock, deadline))
            err = TD_ERR_DEADLINE;
    }
    pthread_mutex_unlock(&store->lock);
    return err;
}
