// SPDX-License-Identifier: Apache-2.0
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/wait.h"
#include "store/inner.h"
#include "store/seal.h"

#define DB_NAME "tandem.db"
#define RING_NAME "handover.ring"
#define LOCK_NAME "lock"

static enum td_err make_directories(const char *path, struct td_error *e) {
    char *copy = td_strdup(path);
    if (!copy)
        return td_error_set(e, TD_ERR_NOMEM, "while opening the data directory");
    enum td_err err = TD_OK;
    for (char *p = copy + 1; err == TD_OK; p++) {
        char was = *p;
        if (was && was != '/')
            continue;
        *p = 0;
        if (mkdir(copy, 0700) != 0 && errno != EEXIST)
            err = td_error_set(e, TD_ERR_IO, "the data directory %.140s cannot be made: %s", path, strerror(errno));
        *p = was;
        if (!was)
            break;
    }
    td_free(copy);
    return err;
}

static enum td_err open_directory(struct td_store *store, const char *path, struct td_error *e) {
    struct stat st;
    if (!store->options.read_only && access(path, F_OK) != 0) {
        enum td_err err = make_directories(path, e);
        if (err != TD_OK)
            return err;
    }
    store->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->dir_fd < 0 && errno == ENOENT)
        return td_error_set(e, TD_ERR_NOT_FOUND, "there is no data directory yet");
    if (store->dir_fd < 0 || fstat(store->dir_fd, &st) != 0)
        return td_error_set(e, TD_ERR_IO, "the data directory %.140s cannot be opened: %s", path, strerror(errno));
    if (st.st_uid != geteuid() && geteuid() != 0)
        return td_error_set(e, TD_ERR_CONFIG, "the data directory belongs to another user");
    if (st.st_mode & 022)
        return td_error_set(e, TD_ERR_CONFIG, "other users can write to the data directory; chmod 700 it");
    return TD_OK;
}

// The lock file holds "PID NAME" of its holder, for people; the lock itself is the kernel's and ends with its process.
static enum td_err take_lock(struct td_store *store, const char *path, struct td_error *e) {
    char holder[96] = "";
    bool shared = store->options.read_only;
    store->lock_fd = openat(store->dir_fd, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (store->lock_fd < 0)
        return td_error_set(e, TD_ERR_IO, "the data directory %.140s cannot be written: %s", path, strerror(errno));
    if (flock(store->lock_fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            return td_error_set(e, TD_ERR_IO, "while locking the data directory: %s", strerror(errno));
        ssize_t n = pread(store->lock_fd, holder, sizeof holder - 1, 0);
        holder[n > 0 ? n : 0] = 0;
        holder[strcspn(holder, "\n")] = 0;
        return td_error_set(e, TD_ERR_LOCKED, "another process holds the data directory%s%s", holder[0] ? ": " : "",
                            holder);
    }
    if (shared)
        return TD_OK;
    int n = snprintf(holder, sizeof holder, "pid %ld %.64s\n", (long)getpid(),
                     store->options.holder ? store->options.holder : "tandem");
    if (ftruncate(store->lock_fd, 0) != 0 || pwrite(store->lock_fd, holder, (size_t)n, 0) != n)
        (void)n; // a full disk: the lock holds all the same
    return TD_OK;
}

static enum td_err open_writer(struct td_store *store, struct td_error *e) {
    // SQLite gives its side files the main file's mode, so that one is made here, closed to others.
    int fd = openat(store->dir_fd, DB_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return td_error_set(e, TD_ERR_IO, "while opening " DB_NAME ": %s", strerror(errno));
    struct stat st;
    bool fresh = fstat(fd, &st) == 0 && st.st_size == 0;
    if (fchmod(fd, 0600) != 0)
        (void)fd; // not the owner: the directory's check has spoken
    close(fd);
    enum td_err err = td_secret_load(store->dir_fd, fresh, store->secret, e);
    if (err == TD_OK)
        err = td_db_open(store->db_path, true, false, &store->writer, e);
    if (err == TD_OK)
        err = td_db_migrate(&store->writer, e);
    return err;
}

// The database remembers which secret it was made with.
static enum td_err check_secret(struct td_store *store, struct td_db *db, struct td_error *e) {
    unsigned char mark[32];
    int64_t want, have;
    td_secret_derive(store->secret, 99, mark);
    memcpy(&want, mark, 8);
    want &= INT64_MAX;
    enum td_err err = td_db_meta_get(db, "secret", 0, &have, e);
    if (err == TD_OK && have == 0 && !store->options.read_only)
        err = td_db_meta_put(db, "secret", want, e);
    else if (err == TD_OK && have != want)
        err = td_error_set(e, TD_ERR_CONFIG, "secret.key is not the one this data directory was made with");
    td_secret_derive(store->secret, TD_SECRET_CHAIN, store->chain_key);
    td_secret_derive(store->secret, TD_SECRET_OUTBOX, store->seal_key);
    return err;
}

static enum td_err open_for_writing(struct td_store *store, struct td_error *e) {
    enum td_err err = open_writer(store, e);
    if (err == TD_OK)
        err = check_secret(store, &store->writer, e);
    if (err == TD_OK)
        err = td_convert(store, e);
    if (err == TD_OK)
        err = td_ledger_load(store, e);
    if (err == TD_OK)
        err = td_journal_open(store->dir_fd, RING_NAME, store->options.ring_bytes, &store->journal, e);
    if (err == TD_OK)
        err = td_writer_recover(store, e);
    if (err == TD_OK)
        err = td_writer_start(store, e);
    return err;
}

static enum td_err open_for_reading(struct td_store *store, struct td_error *e) {
    struct td_db *db;
    if (faccessat(store->dir_fd, DB_NAME, F_OK, 0) != 0)
        return td_error_set(e, TD_ERR_NOT_FOUND, "there is no store in the data directory yet");
    enum td_err err = td_secret_load(store->dir_fd, false, store->secret, e);
    if (err == TD_OK)
        err = td_reader_take(store, &db, e);
    if (err == TD_OK) {
        err = td_db_check(db, e);
        if (err == TD_OK)
            err = check_secret(store, db, e);
        td_reader_give(store, db);
    }
    return err;
}

static void set_defaults(struct td_store_options *o) {
    o->batch_ms = o->batch_ms == 0 ? 10 : o->batch_ms > 20 ? 20 : o->batch_ms;
    o->batch_rows = o->batch_rows ? o->batch_rows : 512;
    o->ring_bytes = o->ring_bytes == 0 ? 4u << 20 : o->ring_bytes > 256u << 20 ? 256u << 20 : o->ring_bytes;
    o->outbox_entries_max = o->outbox_entries_max ? o->outbox_entries_max : 10000;
    o->outbox_bytes_max = o->outbox_bytes_max ? o->outbox_bytes_max : 256u << 20;
}

static void name_metrics(struct td_store *s) {
    s->rows_total = td_counter_get("tandem_ledger_rows_total", "Ledger rows and receipts on disk.");
    s->refused_total = td_counter_get("tandem_ledger_refused_total", "Ledger rows refused because the ring was full.");
    s->omitted_total = td_counter_get("tandem_ledger_decisions_omitted_total", "Decision inputs too large to be kept.");
    s->commits_total = td_counter_get("tandem_store_commits_total", "Transactions of the store.");
    s->failures_total = td_counter_get("tandem_store_commit_failures_total", "Transactions the disk refused.");
    s->commit_us = td_histogram_get("tandem_store_commit_seconds", "Time from begin to durable.");
    s->ring_gauge = td_gauge_get("tandem_store_ring_fill", "Hand-over ring in use, of 256.");
}

enum td_err td_store_open(const char *data_dir, const struct td_store_options *options, struct td_store **out,
                          struct td_error *e) {
    struct td_store *store = td_calloc(1, sizeof *store);
    if (!store)
        return td_error_set(e, TD_ERR_NOMEM, "while opening the store");
    if (options)
        store->options = *options;
    set_defaults(&store->options);
    store->dir_fd = store->lock_fd = -1;
    store->ops_last = &store->ops;
    td_segment_init(&store->draft);
    pthread_mutex_init(&store->lock, NULL);
    pthread_mutex_init(&store->readers_lock, NULL);
    td_wait_init(&store->wake);
    td_wait_init(&store->turned);
    pthread_cond_init(&store->readers_free, NULL);
    name_metrics(store);

    size_t n = strlen(data_dir);
    store->db_path = td_malloc(n + sizeof DB_NAME + 1);
    enum td_err err = TD_OK;
    if (n == 0)
        err = td_error_set(e, TD_ERR_CONFIG, "no data directory is named");
    else if (!store->db_path)
        err = td_error_set(e, TD_ERR_NOMEM, "while opening the store");
    if (err == TD_OK) {
        snprintf(store->db_path, n + sizeof DB_NAME + 1, "%s/" DB_NAME, data_dir);
        err = open_directory(store, data_dir, e);
    }
    if (err == TD_OK)
        err = take_lock(store, data_dir, e);
    if (err == TD_OK)
        err = store->options.read_only ? open_for_reading(store, e) : open_for_writing(store, e);
    if (err == TD_OK)
        *out = store;
    else
        td_store_close(store);
    return err;
}

void td_store_close(struct td_store *store) {
    if (!store)
        return;
    td_writer_stop(store);
    for (unsigned i = 0; i < TD_STORE_READERS_MAX; i++)
        if (store->readers[i].open)
            td_db_close(&store->readers[i].db);
    td_db_close(&store->writer);
    td_journal_close(store->journal);
    td_rollup_finish(&store->rollup);
    td_segment_finish(&store->draft);
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    if (store->dir_fd >= 0)
        close(store->dir_fd);
    pthread_mutex_destroy(&store->lock);
    pthread_mutex_destroy(&store->readers_lock);
    pthread_cond_destroy(&store->wake);
    pthread_cond_destroy(&store->turned);
    pthread_cond_destroy(&store->readers_free);
    td_free(store->db_path);
    explicit_bzero(store->secret, sizeof store->secret);
    explicit_bzero(store->chain_key, sizeof store->chain_key);
    explicit_bzero(store->seal_key, sizeof store->seal_key);
    td_free(store);
}

bool td_store_writable(const struct td_store *store) {
    return atomic_load_explicit(&store->writable, memory_order_relaxed);
}

void td_store_secret(const struct td_store *store, enum td_secret_use use, unsigned char out[32]) {
    td_secret_derive(store->secret, use, out);
}

enum td_err td_reader_take(struct td_store *store, struct td_db **db, struct td_error *e) {
    struct td_reader *r = NULL;
    pthread_mutex_lock(&store->readers_lock);
    while (!r) {
        for (unsigned i = 0; !r && i < TD_STORE_READERS_MAX; i++)
            if (!store->readers[i].busy)
                r = &store->readers[i];
        if (!r)
            pthread_cond_wait(&store->readers_free, &store->readers_lock);
    }
    r->busy = true;
    pthread_mutex_unlock(&store->readers_lock);
    enum td_err err = TD_OK;
    if (!r->open) {
        err = td_db_open(store->db_path, false, store->options.read_only, &r->db, e);
        r->open = err == TD_OK;
    }
    if (err == TD_OK)
        err = td_db_exec(&r->db, "BEGIN", e);
    *db = &r->db;
    if (err != TD_OK)
        td_reader_give(store, &r->db);
    return err;
}

void td_reader_give(struct td_store *store, struct td_db *db) {
    struct td_reader *r = (struct td_reader *)db; // its first member
    if (r->open && !sqlite3_get_autocommit(r->db.c))
        sqlite3_exec(r->db.c, "ROLLBACK", NULL, NULL, NULL);
    pthread_mutex_lock(&store->readers_lock);
    r->busy = false;
    pthread_cond_signal(&store->readers_free);
    pthread_mutex_unlock(&store->readers_lock);
}
