// SPDX-License-Identifier: Apache-2.0
// A connection to the SQLite file and the few helpers the rest of this room is written with. Prepared statements are
// kept per connection, found by the address of their text, so every statement is a string literal or a static buffer.
// A connection belongs to one thread at a time.
#ifndef TD_STORE_DB_H
#define TD_STORE_DB_H

#include <sqlite3.h>

#include "base/mem.h"

#define TD_DB_STATEMENTS_MAX 96u // more texts than this room has

struct td_db {
    sqlite3 *c;
    const char *texts[TD_DB_STATEMENTS_MAX];
    sqlite3_stmt *statements[TD_DB_STATEMENTS_MAX];
    unsigned count;
};

// `writer`: the one connection that may write and checkpoint (SQLite up to 3.51 can lose data when two do).
enum td_err td_db_open(const char *path, bool writer, bool read_only_files, struct td_db *db,
                       struct td_error *e) TD_MUST_USE;
void td_db_close(struct td_db *db);
// Creates or migrates the schema; what a table held is moved by convert.c. TD_ERR_CONFIG when the file is newer than
// this program.
enum td_err td_db_migrate(struct td_db *db, struct td_error *e) TD_MUST_USE;
// For who may not migrate: TD_ERR_CONFIG when the file is newer or has yet to be migrated.
enum td_err td_db_check(struct td_db *db, struct td_error *e) TD_MUST_USE;
bool td_db_has_table(struct td_db *db, const char *name);

// Reset and without bindings; NULL on failure (ask td_db_fail).
sqlite3_stmt *td_db_statement(struct td_db *db, const char *sql);
// Turns SQLite's state into an error: full and read-only disks, I/O and corruption are TD_ERR_LEDGER ("cannot be
// written"), memory is TD_ERR_NOMEM.
enum td_err td_db_fail(struct td_db *db, const char *doing, struct td_error *e);
// Runs a statement without results.
enum td_err td_db_exec(struct td_db *db, const char *sql, struct td_error *e) TD_MUST_USE;
// Steps a bound statement that gives no rows, and resets it.
enum td_err td_db_done(struct td_db *db, sqlite3_stmt *s, const char *doing, struct td_error *e) TD_MUST_USE;
int td_db_changes(struct td_db *db);

// Binding and reading; the view must live until the statement was stepped.
void td_db_bind_str(sqlite3_stmt *s, int at, struct td_str v);  // text
void td_db_bind_blob(sqlite3_stmt *s, int at, struct td_str v); // NULL when empty
void td_db_bind_int(sqlite3_stmt *s, int at, int64_t v);
struct td_str td_db_str(sqlite3_stmt *s, int column);
struct td_str td_db_blob(sqlite3_stmt *s, int column);

// One integer by name in the table `meta`.
enum td_err td_db_meta_get(struct td_db *db, const char *name, int64_t otherwise, int64_t *out,
                           struct td_error *e) TD_MUST_USE;
enum td_err td_db_meta_put(struct td_db *db, const char *name, int64_t value, struct td_error *e) TD_MUST_USE;

// 32 bytes by name in the same table; zeros where there are none.
enum td_err td_db_meta_get_bytes(struct td_db *db, const char *name, unsigned char out[32],
                                 struct td_error *e) TD_MUST_USE;
enum td_err td_db_meta_put_bytes(struct td_db *db, const char *name, const unsigned char bytes[32],
                                 struct td_error *e) TD_MUST_USE;

#endif
