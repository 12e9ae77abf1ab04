// SPDX-License-Identifier: Apache-2.0
#include "store/accounts.h"

#include "store/inner.h"

static enum td_err add_key(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    const struct td_key_record *k = arg;
    (void)store;
    sqlite3_stmt *s = td_db_statement(db, "INSERT INTO api_keys(id,hash,tenant,label,created_ms,expires_ms,revoked_ms)"
                                          " VALUES(?1,?2,?3,?4,?5,?6,?7)");
    if (s) {
        td_db_bind_str(s, 1, k->id);
        td_db_bind_blob(s, 2, td_str_n((const char *)k->hash, 32));
        td_db_bind_str(s, 3, k->tenant);
        td_db_bind_str(s, 4, k->label);
        td_db_bind_int(s, 5, k->created_ms);
        td_db_bind_int(s, 6, k->expires_ms);
        td_db_bind_int(s, 7, k->revoked_ms);
    }
    return td_db_done(db, s, "adding an API key", e);
}

enum td_err td_keys_add(struct td_store *store, const struct td_key_record *key, struct td_error *e) {
    return td_store_do(store, add_key, (void *)key, e);
}

struct revoke {
    struct td_str id;
    int64_t wall_ms;
};

static enum td_err revoke_key(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    const struct revoke *r = arg;
    (void)store;
    sqlite3_stmt *s = td_db_statement(
        db, "UPDATE api_keys SET revoked_ms=CASE revoked_ms WHEN 0 THEN ?2 ELSE revoked_ms END WHERE id=?1");
    if (s) {
        td_db_bind_str(s, 1, r->id);
        td_db_bind_int(s, 2, r->wall_ms);
    }
    enum td_err err = td_db_done(db, s, "revoking an API key", e);
    if (err == TD_OK && td_db_changes(db) == 0)
        err = td_error_set(e, TD_ERR_NOT_FOUND, "no API key has this id");
    return err;
}

enum td_err td_keys_revoke(struct td_store *store, struct td_str id, int64_t wall_ms, struct td_error *e) {
    return td_store_do(store, revoke_key, &(struct revoke){id, wall_ms}, e);
}

enum td_err td_keys_each(struct td_store *store, td_key_record_fn fn, void *user, struct td_error *e) {
    struct td_db *db;
    int rc = SQLITE_DONE;
    bool more = true;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = td_db_statement(
        db, "SELECT id,hash,tenant,label,created_ms,expires_ms,revoked_ms FROM api_keys ORDER BY created_ms,id");
    while (s && more && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct td_key_record k = {.id = td_db_str(s, 0),
                                  .tenant = td_db_str(s, 2),
                                  .label = td_db_str(s, 3),
                                  .created_ms = sqlite3_column_int64(s, 4),
                                  .expires_ms = sqlite3_column_int64(s, 5),
                                  .revoked_ms = sqlite3_column_int64(s, 6)};
        struct td_str hash = td_db_blob(s, 1);
        if (hash.n == 32) {
            memcpy(k.hash, hash.p, 32);
            more = fn(user, &k);
        }
    }
    if (!s || (rc != SQLITE_DONE && rc != SQLITE_ROW))
        err = td_db_fail(db, "reading API keys", e);
    if (s)
        sqlite3_reset(s);
    td_reader_give(store, db);
    return err;
}

enum td_err td_budgets_get(struct td_store *store, struct td_str scope, struct td_budget_record *out,
                           struct td_error *e) {
    struct td_db *db;
    int rc = SQLITE_ERROR;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = td_db_statement(db, "SELECT period_ms,taken_nusd FROM budgets WHERE scope=?1");
    if (s) {
        td_db_bind_str(s, 1, scope);
        rc = sqlite3_step(s);
    }
    if (rc == SQLITE_ROW)
        *out = (struct td_budget_record){scope, sqlite3_column_int64(s, 0), sqlite3_column_int64(s, 1)};
    else if (rc == SQLITE_DONE)
        err = td_error_set(e, TD_ERR_NOT_FOUND, "no such budget yet");
    else
        err = td_db_fail(db, "reading a budget", e);
    if (s)
        sqlite3_reset(s);
    td_reader_give(store, db);
    return err;
}

static enum td_err put_budget(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    const struct td_budget_record *b = arg;
    (void)store;
    sqlite3_stmt *s =
        td_db_statement(db, "INSERT OR REPLACE INTO budgets(scope,period_ms,taken_nusd) VALUES(?1,?2,?3)");
    if (s) {
        td_db_bind_str(s, 1, b->scope);
        td_db_bind_int(s, 2, b->period_ms);
        td_db_bind_int(s, 3, b->taken_nusd);
    }
    return td_db_done(db, s, "writing a budget", e);
}

enum td_err td_budgets_put(struct td_store *store, const struct td_budget_record *record, const struct td_ack *ack,
                           struct td_error *e) {
    struct td_op *op = td_op_create(sizeof *record, 4096);
    if (!op)
        return td_error_set(e, TD_ERR_NOMEM, "while writing a budget");
    struct td_budget_record *b = op->arg;
    *b = *record;
    b->scope = td_arena_str(&op->arena, record->scope);
    op->run = put_budget;
    if (!b->scope.p) {
        td_op_destroy(op);
        return td_error_set(e, TD_ERR_NOMEM, "while writing a budget");
    }
    return td_op_submit(store, op, ack, e);
}
