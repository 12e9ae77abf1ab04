// SPDX-License-Identifier: Apache-2.0
#include "store/db.h"

#include <string.h>

enum td_err td_db_fail(struct td_db *db, const char *doing, struct td_error *e) {
    int code = db->c ? sqlite3_errcode(db->c) & 0xff : SQLITE_NOMEM;
    const char *why = db->c ? sqlite3_errmsg(db->c) : "out of memory";
    enum td_err err = TD_ERR_LEDGER;
    if (code == SQLITE_NOMEM || code == SQLITE_OK) // SQLite is fine: it was our own memory that ran out
        err = TD_ERR_NOMEM;
    else if (code == SQLITE_MISUSE || code == SQLITE_ERROR || code == SQLITE_RANGE)
        err = TD_ERR_INTERNAL;
    return td_error_set(e, err, "while %s: %s", doing, why);
}

enum td_err td_db_exec(struct td_db *db, const char *sql, struct td_error *e) {
    if (sqlite3_exec(db->c, sql, NULL, NULL, NULL) != SQLITE_OK)
        return td_db_fail(db, "writing to the store", e);
    return TD_OK;
}

enum td_err td_db_open(const char *path, bool writer, bool read_only_files, struct td_db *db, struct td_error *e) {
    *db = (struct td_db){0};
    int flags = read_only_files ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
    if (sqlite3_open_v2(path, &db->c, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW, NULL) != SQLITE_OK) {
        enum td_err err = td_db_fail(db, "opening the store", e);
        td_db_close(db);
        return err == TD_ERR_LEDGER ? td_error_set(e, TD_ERR_IO, "the store in the data directory cannot be opened")
                                    : err;
    }
    sqlite3_extended_result_codes(db->c, 1);
    sqlite3_busy_timeout(db->c, 2000);
    // Defensive: a damaged or hostile file must not reach further than its own data.
    sqlite3_db_config(db->c, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(db->c, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    enum td_err err;
    if (writer) {
        err = td_db_exec(db,
                         "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0;"
                         "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2048; PRAGMA journal_size_limit=16777216;"
                         "PRAGMA foreign_keys=OFF",
                         e);
    } else {
        sqlite3_db_config(db->c, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        err = td_db_exec(db,
                         "PRAGMA query_only=ON; PRAGMA wal_autocheckpoint=0; PRAGMA temp_store=MEMORY;"
                         "PRAGMA cache_size=-1024",
                         e);
    }
    if (err != TD_OK)
        td_db_close(db);
    return err;
}

void td_db_close(struct td_db *db) {
    for (unsigned i = 0; i < db->count; i++)
        sqlite3_finalize(db->statements[i]);
    if (db->c)
        sqlite3_close(db->c);
    *db = (struct td_db){0};
}

sqlite3_stmt *td_db_statement(struct td_db *db, const char *sql) {
    for (unsigned i = 0; i < db->count; i++)
        if (db->texts[i] == sql) {
            sqlite3_reset(db->statements[i]);
            sqlite3_clear_bindings(db->statements[i]);
            return db->statements[i];
        }
    sqlite3_stmt *s = NULL;
    if (db->count == TD_DB_STATEMENTS_MAX ||
        sqlite3_prepare_v3(db->c, sql, -1, SQLITE_PREPARE_PERSISTENT, &s, NULL) != SQLITE_OK)
        return NULL;
    db->texts[db->count] = sql;
    db->statements[db->count++] = s;
    return s;
}

enum td_err td_db_done(struct td_db *db, sqlite3_stmt *s, const char *doing, struct td_error *e) {
    if (!s)
        return td_db_fail(db, doing, e);
    int rc = sqlite3_step(s);
    enum td_err err = rc == SQLITE_DONE || rc == SQLITE_ROW ? TD_OK : td_db_fail(db, doing, e);
    sqlite3_reset(s);
    return err;
}

int td_db_changes(struct td_db *db) {
    return sqlite3_changes(db->c);
}

void td_db_bind_str(sqlite3_stmt *s, int at, struct td_str v) {
    sqlite3_bind_text(s, at, v.p ? v.p : "", (int)v.n, SQLITE_STATIC);
}

void td_db_bind_blob(sqlite3_stmt *s, int at, struct td_str v) {
    if (v.n)
        sqlite3_bind_blob(s, at, v.p, (int)v.n, SQLITE_STATIC);
    else
        sqlite3_bind_null(s, at);
}

void td_db_bind_int(sqlite3_stmt *s, int at, int64_t v) {
    sqlite3_bind_int64(s, at, v);
}

struct td_str td_db_str(sqlite3_stmt *s, int column) {
    const char *p = (const char *)sqlite3_column_text(s, column);
    return td_str_n(p ? p : "", p ? (size_t)sqlite3_column_bytes(s, column) : 0);
}

struct td_str td_db_blob(sqlite3_stmt *s, int column) {
    const char *p = sqlite3_column_blob(s, column);
    return td_str_n(p ? p : "", p ? (size_t)sqlite3_column_bytes(s, column) : 0);
}

enum td_err td_db_meta_get(struct td_db *db, const char *name, int64_t otherwise, int64_t *out, struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(db, "SELECT value FROM meta WHERE name=?1");
    if (!s)
        return td_db_fail(db, "reading the store's own table", e);
    td_db_bind_str(s, 1, td_str_of(name));
    int rc = sqlite3_step(s);
    *out = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : otherwise;
    enum td_err err =
        rc == SQLITE_ROW || rc == SQLITE_DONE ? TD_OK : td_db_fail(db, "reading the store's own table", e);
    sqlite3_reset(s);
    return err;
}

enum td_err td_db_meta_put(struct td_db *db, const char *name, int64_t value, struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(db, "INSERT INTO meta(name,value) VALUES(?1,?2)"
                                          " ON CONFLICT(name) DO UPDATE SET value=excluded.value");
    if (s) {
        td_db_bind_str(s, 1, td_str_of(name));
        td_db_bind_int(s, 2, value);
    }
    return td_db_done(db, s, "writing the store's own table", e);
}

enum td_err td_db_meta_get_bytes(struct td_db *db, const char *name, unsigned char out[32], struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(db, "SELECT value FROM meta WHERE name=?1");
    if (!s)
        return td_db_fail(db, "reading the store's own table", e);
    td_db_bind_str(s, 1, td_str_of(name));
    int rc = sqlite3_step(s);
    struct td_str bytes = rc == SQLITE_ROW ? td_db_blob(s, 0) : TD_STR_NONE;
    memset(out, 0, 32);
    if (bytes.n == 32)
        memcpy(out, bytes.p, 32);
    enum td_err err =
        rc == SQLITE_ROW || rc == SQLITE_DONE ? TD_OK : td_db_fail(db, "reading the store's own table", e);
    sqlite3_reset(s);
    return err;
}

enum td_err td_db_meta_put_bytes(struct td_db *db, const char *name, const unsigned char bytes[32],
                                 struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(db, "INSERT INTO meta(name,value) VALUES(?1,?2)"
                                          " ON CONFLICT(name) DO UPDATE SET value=excluded.value");
    if (s) {
        td_db_bind_str(s, 1, td_str_of(name));
        td_db_bind_blob(s, 2, td_str_n((const char *)bytes, 32));
    }
    return td_db_done(db, s, "writing the store's own table", e);
}

bool td_db_has_table(struct td_db *db, const char *name) {
    sqlite3_stmt *s = td_db_statement(db, "SELECT 1 FROM sqlite_master WHERE type='table' AND name=?1");
    if (s)
        td_db_bind_str(s, 1, td_str_of(name));
    bool has = s && sqlite3_step(s) == SQLITE_ROW;
    if (s)
        sqlite3_reset(s);
    return has;
}

// The schema, one entry per version; an entry is never changed once released, only followed by another. Version 1 had
// the tables `ledger` and `receipts` instead of `segments`: where they are, convert.c empties and drops them.
static const char *const migrations[] = {
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    "CREATE TABLE usage(hour INTEGER, tenant TEXT, target TEXT, tier TEXT, sums BLOB, ttft BLOB, duration BLOB,"
    " cost_nusd INTEGER, PRIMARY KEY(hour,tenant,target)) WITHOUT ROWID;"
    "CREATE TABLE models(name TEXT PRIMARY KEY, path TEXT, sha256 TEXT, bytes INTEGER, source TEXT,"
    " added_ms INTEGER) WITHOUT ROWID;"
    "CREATE TABLE api_keys(id TEXT PRIMARY KEY, hash BLOB UNIQUE, tenant TEXT, label TEXT, created_ms INTEGER,"
    " expires_ms INTEGER, revoked_ms INTEGER) WITHOUT ROWID;"
    "CREATE TABLE budgets(scope TEXT PRIMARY KEY, period_ms INTEGER, taken_nusd INTEGER) WITHOUT ROWID;"
    // Long columns last: what is listed is read without walking over them.
    "CREATE TABLE outbox(id TEXT PRIMARY KEY, tenant TEXT, conversation TEXT, state INTEGER, priority INTEGER,"
    " created_ms INTEGER, expires_ms INTEGER, next_try_ms INTEGER, changed_ms INTEGER, attempts INTEGER,"
    " policy_version INTEGER, data_class INTEGER, labels INTEGER, residency TEXT, reconcile TEXT,"
    " idempotency_key TEXT, local_target TEXT, local_model TEXT, local_quality REAL, local_ms INTEGER,"
    " cloud_target TEXT, cloud_model TEXT, cloud_quality REAL, cloud_ms INTEGER, accepted INTEGER, verdict TEXT,"
    " last_error TEXT, bytes INTEGER, request BLOB, context BLOB, local_body BLOB, cloud_body BLOB);"
    "CREATE INDEX outbox_due ON outbox(priority,created_ms) WHERE state<2;"
    "CREATE INDEX outbox_size ON outbox(state,bytes);"
    "CREATE INDEX outbox_changed ON outbox(changed_ms);"
    "CREATE TABLE events(id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT, exchange TEXT, type TEXT, data BLOB,"
    " wall_ms INTEGER);"
    "CREATE INDEX events_tenant ON events(tenant,id);",
    // What a query needs to pass a segment by comes first, so that it is read without its records.
    "CREATE TABLE segments(last INTEGER PRIMARY KEY, first INTEGER, from_ms INTEGER, until_ms INTEGER,"
    " from_exchange TEXT, until_exchange TEXT, chain BLOB, records BLOB);",
    // Labels of the outbox by name; bits of before wait for somebody who has the configuration.
    "ALTER TABLE outbox RENAME TO outbox_1;"
    "CREATE TABLE outbox(id TEXT PRIMARY KEY, tenant TEXT, conversation TEXT, state INTEGER, priority INTEGER,"
    " created_ms INTEGER, expires_ms INTEGER, next_try_ms INTEGER, changed_ms INTEGER, attempts INTEGER,"
    " policy_version INTEGER, data_class INTEGER, labels TEXT, label_bits INTEGER, residency TEXT, reconcile TEXT,"
    " idempotency_key TEXT, local_target TEXT, local_model TEXT, local_quality REAL, local_ms INTEGER,"
    " cloud_target TEXT, cloud_model TEXT, cloud_quality REAL, cloud_ms INTEGER, accepted INTEGER, verdict TEXT,"
    " last_error TEXT, bytes INTEGER, request BLOB, context BLOB, local_body BLOB, cloud_body BLOB);"
    "DROP INDEX outbox_due; DROP INDEX outbox_size; DROP INDEX outbox_changed;"
    "CREATE INDEX outbox_due ON outbox(priority,created_ms) WHERE state<2;"
    "CREATE INDEX outbox_size ON outbox(state,bytes);"
    "CREATE INDEX outbox_changed ON outbox(changed_ms);"
    "INSERT INTO outbox(id, tenant, conversation, state, priority, created_ms, expires_ms, next_try_ms, "
    "changed_ms, attempts, policy_version, data_class, residency, reconcile, idempotency_key, "
    "local_target, local_model, local_quality, local_ms, cloud_target, cloud_model, cloud_quality, "
    "cloud_ms, accepted, verdict, last_error, bytes, request, context, local_body, cloud_body, labels, "
    "label_bits) SELECT id, tenant, conversation, state, priority, created_ms, expires_ms, next_try_ms, "
    "changed_ms, attempts, policy_version, data_class, residency, reconcile, idempotency_key, "
    "local_target, local_model, local_quality, local_ms, cloud_target, cloud_model, cloud_quality, "
    "cloud_ms, accepted, verdict, last_error, bytes, request, context, local_body, cloud_body, CASE "
    "labels WHEN 0 THEN '' END, nullif(labels,0) FROM outbox_1;"
    "DROP TABLE outbox_1;",
};
#define SCHEMA_VERSION ((int)(sizeof migrations / sizeof *migrations))

static enum td_err read_version(struct td_db *db, int *version, struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(db, "PRAGMA user_version");
    if (!s || sqlite3_step(s) != SQLITE_ROW)
        return td_db_fail(db, "reading the store's version", e);
    *version = sqlite3_column_int(s, 0);
    sqlite3_reset(s);
    if (*version > SCHEMA_VERSION)
        return td_error_set(e, TD_ERR_CONFIG,
                            "the store has schema %d, this program knows up to %d: use a newer program", *version,
                            SCHEMA_VERSION);
    return TD_OK;
}

enum td_err td_db_check(struct td_db *db, struct td_error *e) {
    int have;
    enum td_err err = read_version(db, &have, e);
    if (err == TD_OK && (have < SCHEMA_VERSION || td_db_has_table(db, "ledger")))
        err = td_error_set(e, TD_ERR_CONFIG, "the store is of an older version: open it for writing once");
    return err;
}

enum td_err td_db_migrate(struct td_db *db, struct td_error *e) {
    int have;
    enum td_err err = read_version(db, &have, e);
    if (err != TD_OK)
        return err;
    if (have == SCHEMA_VERSION)
        return TD_OK;
    struct td_buf sql;
    td_buf_init(&sql, 64u << 10);
    err = td_buf_addz(&sql, "BEGIN IMMEDIATE;");
    for (int v = have; err == TD_OK && v < SCHEMA_VERSION; v++)
        err = td_buf_addz(&sql, migrations[v]);
    if (err == TD_OK)
        err = td_buf_printf(&sql, "PRAGMA user_version=%d;COMMIT", SCHEMA_VERSION);
    const char *z = err == TD_OK ? td_buf_z(&sql) : NULL;
    err = z ? td_db_exec(db, z, e) : td_error_set(e, TD_ERR_NOMEM, "while preparing the store");
    td_buf_finish(&sql);
    if (err != TD_OK)
        sqlite3_exec(db->c, "ROLLBACK", NULL, NULL, NULL);
    return err;
}
