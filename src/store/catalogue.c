// SPDX-License-Identifier: Apache-2.0
#include "store/catalogue.h"

#include "base/limits.h"
#include "store/inner.h"

// A name becomes part of a path and of a request's `model`; the grammar leaves no way out of the models' directory.
static bool name_is_fit(struct td_str s) {
    bool segment_empty = true;
    if (s.n == 0 || s.n > TD_NAME_BYTES_MAX)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (c == '/' || c == ':') {
            if (segment_empty)
                return false;
            segment_empty = true;
        } else if (alnum || (!segment_empty && (c == '.' || c == '_' || c == '-'))) {
            if (c == '.' && s.p[i - 1] == '.')
                return false;
            segment_empty = false;
        } else {
            return false;
        }
    }
    return !segment_empty;
}

static bool digest_is_fit(struct td_str s) {
    for (size_t i = 0; i < s.n; i++)
        if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'f')))
            return false;
    return s.n == 64;
}

static enum td_err put_model(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    const struct td_model_record *m = arg;
    (void)store;
    sqlite3_stmt *s = td_db_statement(
        db, "INSERT OR REPLACE INTO models(name,path,sha256,bytes,source,added_ms) VALUES(?1,?2,?3,?4,?5,?6)");
    if (s) {
        td_db_bind_str(s, 1, m->name);
        td_db_bind_str(s, 2, m->path);
        td_db_bind_str(s, 3, m->sha256);
        td_db_bind_int(s, 4, (int64_t)m->bytes);
        td_db_bind_str(s, 5, m->source);
        td_db_bind_int(s, 6, m->added_ms);
    }
    return td_db_done(db, s, "adding a model", e);
}

enum td_err td_catalogue_put(struct td_store *store, const struct td_model_record *model, struct td_error *e) {
    if (!name_is_fit(model->name))
        return td_error_set(e, TD_ERR_USAGE,
                            "a model's name has letters, digits, '.', '_', '-', and '/' or ':' between");
    if (!digest_is_fit(model->sha256))
        return td_error_set(e, TD_ERR_USAGE, "a SHA-256 has 64 lower-case hexadecimal digits");
    return td_store_do(store, put_model, (void *)model, e);
}

static enum td_err remove_model(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    (void)store;
    sqlite3_stmt *s = td_db_statement(db, "DELETE FROM models WHERE name=?1");
    if (s)
        td_db_bind_str(s, 1, *(const struct td_str *)arg);
    enum td_err err = td_db_done(db, s, "removing a model", e);
    if (err == TD_OK && td_db_changes(db) == 0)
        err = td_error_set(e, TD_ERR_NOT_FOUND, "no model of this name is in the catalogue");
    return err;
}

enum td_err td_catalogue_remove(struct td_store *store, struct td_str name, struct td_error *e) {
    return td_store_do(store, remove_model, &name, e);
}

// `name` "" gives all.
static enum td_err each(struct td_store *store, struct td_str name, td_model_record_fn fn, void *user, unsigned *count,
                        struct td_error *e) {
    struct td_db *db;
    int rc = SQLITE_DONE;
    bool more = true;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = td_db_statement(db, "SELECT name,path,sha256,bytes,source,added_ms FROM models"
                                          " WHERE ?1='' OR name=?1 ORDER BY name");
    if (s)
        td_db_bind_str(s, 1, name);
    while (s && more && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct td_model_record m = {.name = td_db_str(s, 0),
                                    .path = td_db_str(s, 1),
                                    .sha256 = td_db_str(s, 2),
                                    .bytes = (uint64_t)sqlite3_column_int64(s, 3),
                                    .source = td_db_str(s, 4),
                                    .added_ms = sqlite3_column_int64(s, 5)};
        more = fn(user, &m);
        (*count)++;
    }
    if (!s || (rc != SQLITE_DONE && rc != SQLITE_ROW))
        err = td_db_fail(db, "reading the catalogue", e);
    if (s)
        sqlite3_reset(s);
    td_reader_give(store, db);
    return err;
}

enum td_err td_catalogue_get(struct td_store *store, struct td_str name, td_model_record_fn fn, void *user,
                             struct td_error *e) {
    unsigned count = 0;
    enum td_err err = name.n ? each(store, name, fn, user, &count, e) : TD_OK;
    if (err == TD_OK && count == 0)
        err = td_error_set(e, TD_ERR_NOT_FOUND, "no model of this name is in the catalogue");
    return err;
}

enum td_err td_catalogue_each(struct td_store *store, td_model_record_fn fn, void *user, struct td_error *e) {
    unsigned count = 0;
    return each(store, TD_STR_NONE, fn, user, &count, e);
}
