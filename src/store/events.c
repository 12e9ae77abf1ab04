// SPDX-License-Identifier: Apache-2.0
// Events for clients, read in the order of their ids, and how far each of their readers got. They are written with the
// change of the outbox that they tell of (outbox.c).
#include <stdio.h>

#include "store/inner.h"
#include "store/outbox.h"

// Steps a bound statement over events; gives the connection back.
static enum td_err each_event(struct td_store *store, struct td_db *db, sqlite3_stmt *s, td_event_record_fn fn,
                              void *user, struct td_error *e) {
    bool more = true;
    int rc = SQLITE_DONE;
    enum td_err err = TD_OK;
    while (s && err == TD_OK && more && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct td_buf buf;
        struct td_event_record r = {.id = (uint64_t)sqlite3_column_int64(s, 0),
                                    .tenant = td_db_str(s, 1),
                                    .exchange = td_db_str(s, 2),
                                    .type = td_db_str(s, 3),
                                    .wall_ms = sqlite3_column_int64(s, 5)};
        err = td_outbox_unseal(store, "event", r.exchange, td_db_blob(s, 4), &buf, &r.data, e);
        if (err == TD_OK)
            more = fn(user, &r);
        td_buf_finish(&buf);
    }
    if (err == TD_OK && (!s || (rc != SQLITE_DONE && rc != SQLITE_ROW)))
        err = td_db_fail(db, "reading events", e);
    if (s)
        sqlite3_reset(s);
    td_reader_give(store, db);
    return err;
}

#define EVENT_COLUMNS "SELECT id,tenant,exchange,type,data,wall_ms FROM events"

enum td_err td_events_after(struct td_store *store, struct td_str tenant, uint64_t after, uint32_t limit,
                            td_event_record_fn fn, void *user, struct td_error *e) {
    struct td_db *db;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = td_db_statement(db, EVENT_COLUMNS " WHERE tenant=?1 AND id>?2 ORDER BY id LIMIT ?3");
    if (s) {
        td_db_bind_str(s, 1, tenant);
        td_db_bind_int(s, 2, (int64_t)after);
        td_db_bind_int(s, 3, limit ? limit : 100);
    }
    return each_event(store, db, s, fn, user, e);
}

enum td_err td_events_next(struct td_store *store, uint64_t after, td_event_record_fn fn, void *user,
                           struct td_error *e) {
    struct td_db *db;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = td_db_statement(db, EVENT_COLUMNS " WHERE id>?1 ORDER BY id LIMIT 1");
    if (s)
        td_db_bind_int(s, 1, (int64_t)after);
    return each_event(store, db, s, fn, user, e);
}

struct mark {
    char name[64];
    uint64_t id;
};

static void mark_name(char out[64], const char *reader) {
    snprintf(out, 64, "events.%s", reader);
}

static enum td_err run_mark(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    const struct mark *m = arg;
    (void)store;
    return td_db_meta_put(db, m->name, (int64_t)m->id, e);
}

enum td_err td_events_mark(struct td_store *store, const char *reader, uint64_t id, struct td_error *e) {
    struct mark m = {.id = id};
    mark_name(m.name, reader);
    return td_store_do(store, run_mark, &m, e);
}

enum td_err td_events_marked(struct td_store *store, const char *reader, uint64_t *id, struct td_error *e) {
    struct td_db *db;
    char name[64];
    int64_t value = -1;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    mark_name(name, reader);
    err = td_db_meta_get(db, name, -1, &value, e);
    td_reader_give(store, db);
    *id = value < 0 ? UINT64_MAX : (uint64_t)value;
    return err;
}

enum td_err td_events_last(struct td_store *store, uint64_t *id, struct td_error *e) {
    struct td_db *db;
    int64_t last = 0;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = td_db_statement(db, "SELECT seq FROM sqlite_sequence WHERE name='events'");
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    if (rc == SQLITE_ROW)
        last = sqlite3_column_int64(s, 0);
    else if (rc != SQLITE_DONE)
        err = td_db_fail(db, "reading events", e);
    if (s)
        sqlite3_reset(s);
    td_reader_give(store, db);
    *id = (uint64_t)last;
    return err;
}
