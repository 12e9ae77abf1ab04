// SPDX-License-Identifier: Apache-2.0
// The outbox read: entries by what they are or what is due, with their texts opened where they are wanted. On a reader
// connection of the caller's thread.
#include "store/outbox.h"

#include "store/inner.h"

#define ENTRY_COLUMNS                                                                                                  \
    "SELECT id,tenant,conversation,state,priority,created_ms,expires_ms,next_try_ms,changed_ms,attempts,"              \
    "policy_version,data_class,labels,residency,reconcile,idempotency_key,local_target,local_model,local_quality,"     \
    "local_ms,cloud_target,cloud_model,cloud_quality,cloud_ms,accepted,verdict,last_error,bytes"
#define TEXT_COLUMNS ",request,context,local_body,cloud_body"

static enum td_err error_of(struct td_str code) {
    for (int i = 1; i < TD_ERR_COUNT; i++)
        if (td_str_is(code, td_err_code((enum td_err)i)))
            return (enum td_err)i;
    return TD_OK;
}

static void read_entry(sqlite3_stmt *s, struct td_outbox_entry *x) {
    *x = (struct td_outbox_entry){
        .id = td_db_str(s, 0),
        .tenant = td_db_str(s, 1),
        .conversation = td_db_str(s, 2),
        .state = (enum td_outbox_state)sqlite3_column_int(s, 3),
        .priority = (uint32_t)sqlite3_column_int64(s, 4),
        .created_ms = sqlite3_column_int64(s, 5),
        .expires_ms = sqlite3_column_int64(s, 6),
        .next_try_ms = sqlite3_column_int64(s, 7),
        .changed_ms = sqlite3_column_int64(s, 8),
        .attempts = (uint32_t)sqlite3_column_int64(s, 9),
        .policy_version = (uint64_t)sqlite3_column_int64(s, 10),
        .data_class = (enum td_class)sqlite3_column_int(s, 11),
        .labels = sqlite3_column_type(s, 12) == SQLITE_NULL ? TD_STR("*") : td_db_str(s, 12),
        .residency = td_db_str(s, 13),
        .reconcile = td_db_str(s, 14),
        .idempotency_key = td_db_str(s, 15),
        .local = {TD_STR_NONE, td_db_str(s, 16), td_db_str(s, 17), sqlite3_column_double(s, 18),
                  sqlite3_column_int64(s, 19)},
        .cloud = {TD_STR_NONE, td_db_str(s, 20), td_db_str(s, 21), sqlite3_column_double(s, 22),
                  sqlite3_column_int64(s, 23)},
        .accepted = (enum td_accepted)sqlite3_column_int(s, 24),
        .verdict = td_db_str(s, 25),
        .last_error = error_of(td_db_str(s, 26)),
        .bytes = (uint64_t)sqlite3_column_int64(s, 27),
    };
}

static enum td_err give_entry(struct td_store *store, sqlite3_stmt *s, bool texts, td_outbox_fn fn, void *user,
                              bool *more, struct td_error *e) {
    static const char *const what[4] = {"request", "context", "local", "cloud"};
    struct td_outbox_entry x;
    struct td_buf bufs[4] = {0};
    enum td_err err = TD_OK;
    read_entry(s, &x);
    struct td_str *out[4] = {&x.request, &x.context, &x.local.body, &x.cloud.body};
    for (int i = 0; texts && err == TD_OK && i < 4; i++)
        err = td_outbox_unseal(store, what[i], x.id, td_db_blob(s, 28 + i), &bufs[i], out[i], e);
    if (err == TD_OK)
        *more = fn(user, &x);
    for (int i = 0; i < 4; i++)
        td_buf_finish(&bufs[i]);
    return err;
}

// Steps a bound statement over entries; gives the connection back.
static enum td_err each_entry(struct td_store *store, struct td_db *db, sqlite3_stmt *s, bool texts, td_outbox_fn fn,
                              void *user, unsigned *count, struct td_error *e) {
    enum td_err err = TD_OK;
    bool more = true;
    int rc = SQLITE_DONE;
    while (s && err == TD_OK && more && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        err = give_entry(store, s, texts, fn, user, &more, e);
        (*count)++;
    }
    if (err == TD_OK && (!s || (rc != SQLITE_DONE && rc != SQLITE_ROW)))
        err = td_db_fail(db, "reading the outbox", e);
    if (s)
        sqlite3_reset(s);
    td_reader_give(store, db);
    return err;
}

enum td_err td_outbox_list(struct td_store *store, const struct td_outbox_filter *filter, td_outbox_fn fn, void *user,
                           struct td_error *e) {
#define ALL " FROM outbox WHERE (?1='' OR tenant=?1) AND (?2=0 OR (?2>>state)&1) ORDER BY id LIMIT ?3"
// No try is put off for an hour: one that seems to be was noted before somebody set the clock back.
#define DUE                                                                                                            \
    " FROM outbox WHERE state<2 AND (?1='' OR tenant=?1) AND (next_try_ms<=?2 OR next_try_ms>?2+3600000) AND "         \
    "expires_ms>?2"                                                                                                    \
    " ORDER BY priority,created_ms LIMIT ?3"
    struct td_db *db;
    unsigned count = 0;
    bool due = filter->due_ms > 0;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s =
        td_db_statement(db, filter->texts ? (due ? ENTRY_COLUMNS TEXT_COLUMNS DUE : ENTRY_COLUMNS TEXT_COLUMNS ALL)
                                          : (due ? ENTRY_COLUMNS DUE : ENTRY_COLUMNS ALL));
    if (s) {
        td_db_bind_str(s, 1, filter->tenant);
        td_db_bind_int(s, 2, due ? filter->due_ms : filter->states);
        td_db_bind_int(s, 3, filter->limit ? filter->limit : 100);
    }
    return each_entry(store, db, s, filter->texts, fn, user, &count, e);
}

enum td_err td_outbox_get(struct td_store *store, struct td_str tenant, struct td_str id, td_outbox_fn fn, void *user,
                          struct td_error *e) {
    struct td_db *db;
    unsigned count = 0;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s =
        td_db_statement(db, ENTRY_COLUMNS TEXT_COLUMNS " FROM outbox WHERE id=?2 AND (?1='' OR tenant=?1)");
    if (s) {
        td_db_bind_str(s, 1, tenant);
        td_db_bind_str(s, 2, id);
    }
    err = each_entry(store, db, s, true, fn, user, &count, e);
    if (err == TD_OK && count == 0)
        err = td_error_set(e, TD_ERR_NOT_FOUND, "no such entry in the outbox");
    return err;
}

enum td_err td_outbox_size(struct td_store *store, struct td_outbox_size *out, struct td_error *e) {
    struct td_db *db;
    int rc = SQLITE_ERROR;
    *out = (struct td_outbox_size){0};
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = td_db_statement(db, "SELECT state,count(*),total(bytes) FROM outbox GROUP BY state");
    while (s && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        int state = sqlite3_column_int(s, 0);
        if (state >= 0 && state < TD_OUTBOX_STATE_COUNT)
            out->by_state[state] = (uint64_t)sqlite3_column_int64(s, 1);
        out->entries += (uint64_t)sqlite3_column_int64(s, 1);
        out->bytes += (uint64_t)sqlite3_column_int64(s, 2);
    }
    if (rc != SQLITE_DONE)
        err = td_db_fail(db, "measuring the outbox", e);
    if (s)
        sqlite3_reset(s);
    td_reader_give(store, db);
    return err;
}
