// SPDX-License-Identifier: Apache-2.0
// Retention: rows and receipts beyond a certain age are deleted from the front of their hash chains, a few at a time,
// on the writer thread. What the sums by the hour do not cover yet stays, and so does the newest record of each chain.
// The link at which a chain was cut is kept with a MAC, so that verification goes on from there and a front that
// somebody else cut off is found.
#include <sodium.h>
#include <string.h>

#include "store/inner.h"
#include "store/ledger.h"

struct prune {
    int64_t before_ms;
    uint32_t limit;
};

static void seal_cut(const struct td_store *store, bool rows, const struct td_chain_cut *cut, unsigned char mac[32]) {
    crypto_generichash_state state;
    unsigned char le[8];
    for (int i = 0; i < 8; i++)
        le[i] = (unsigned char)(cut->number >> (8 * i));
    crypto_generichash_init(&state, store->chain_key, 32, 32);
    crypto_generichash_update(&state, (const unsigned char *)(rows ? "cut rows" : "cut receipts"), rows ? 8 : 12);
    crypto_generichash_update(&state, le, sizeof le);
    crypto_generichash_update(&state, cut->head, 32);
    crypto_generichash_final(&state, mac, 32);
}

// 32 bytes as four of the store's own numbers.
static enum td_err put_bytes(struct td_db *db, bool rows, char what, const unsigned char bytes[32],
                             struct td_error *e) {
    enum td_err err = TD_OK;
    for (int i = 0; err == TD_OK && i < 4; i++) {
        char name[32];
        int64_t part;
        memcpy(&part, bytes + 8 * i, sizeof part);
        td_format(name, sizeof name, "cut_%s_%c%d", rows ? "rows" : "receipts", what, i);
        err = td_db_meta_put(db, name, part, e);
    }
    return err;
}

static enum td_err get_bytes(struct td_db *db, bool rows, char what, unsigned char bytes[32], struct td_error *e) {
    enum td_err err = TD_OK;
    for (int i = 0; err == TD_OK && i < 4; i++) {
        char name[32];
        int64_t part = 0;
        td_format(name, sizeof name, "cut_%s_%c%d", rows ? "rows" : "receipts", what, i);
        err = td_db_meta_get(db, name, 0, &part, e);
        memcpy(bytes + 8 * i, &part, sizeof part);
    }
    return err;
}

enum td_err td_prune_cut(struct td_store *store, struct td_db *db, bool rows, struct td_chain_cut *out, bool *sound,
                         struct td_error *e) {
    unsigned char stored[32], mac[32];
    int64_t number;
    *out = (struct td_chain_cut){0};
    *sound = true;
    enum td_err err = td_db_meta_get(db, rows ? "cut_rows" : "cut_receipts", 0, &number, e);
    if (err != TD_OK || number == 0)
        return err;
    out->number = (uint64_t)number;
    err = get_bytes(db, rows, 'h', out->head, e);
    if (err == TD_OK)
        err = get_bytes(db, rows, 'm', stored, e);
    seal_cut(store, rows, out, mac);
    *sound = sodium_memcmp(mac, stored, 32) == 0;
    return err;
}

static enum td_err get_number(struct td_db *db, const char *sql, int64_t a, int64_t b, int64_t *out,
                              struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(db, sql);
    if (!s)
        return td_db_fail(db, "looking for old records", e);
    td_db_bind_int(s, 1, a);
    td_db_bind_int(s, 2, b);
    int rc = sqlite3_step(s);
    *out = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    enum td_err err = rc == SQLITE_ROW || rc == SQLITE_DONE ? TD_OK : td_db_fail(db, "looking for old records", e);
    sqlite3_reset(s);
    return err;
}

// The last record of the front that may go: 0 none. Found without walking the table: the front is looked at in order
// and left where the first younger record stands.
static enum td_err find_end(struct td_db *db, bool rows, const struct prune *p, int64_t *end, struct td_error *e) {
    int64_t rolled, young;
    enum td_err err = td_db_meta_get(db, "rolled", 0, &rolled, e);
    if (err == TD_OK)
        err = get_number(db,
                         rows ? "SELECT min(number) FROM (SELECT number,wall_ms FROM ledger ORDER BY number LIMIT ?2)"
                                " WHERE wall_ms>=?1"
                              : "SELECT min(number) FROM (SELECT number,wall_ms FROM receipts ORDER BY number LIMIT ?2)"
                                " WHERE wall_ms>=?1",
                         p->before_ms, (int64_t)p->limit + 1, &young, e);
    if (err == TD_OK)
        err = get_number(
            db,
            rows ? "SELECT max(number) FROM (SELECT number FROM ledger WHERE (?1=0 OR number<?1) AND number<"
                   "(SELECT max(number) FROM ledger) ORDER BY number LIMIT ?2)"
                 : "SELECT max(number) FROM (SELECT number FROM receipts WHERE (?1=0 OR number<?1) AND number<"
                   "(SELECT max(number) FROM receipts) ORDER BY number LIMIT ?2)",
            young, p->limit, end, e);
    if (err == TD_OK && rows && *end > rolled)
        err = get_number(db, "SELECT max(number) FROM ledger WHERE number<=?1 AND ?2=?2", rolled, 0, end, e);
    return err;
}

static enum td_err cut(struct td_store *store, struct td_db *db, bool rows, const struct prune *p, struct td_error *e) {
    struct td_chain_cut at = {0};
    unsigned char mac[32];
    int64_t end = 0;
    enum td_err err = find_end(db, rows, p, &end, e);
    if (err != TD_OK || end == 0)
        return err;
    at.number = (uint64_t)end;
    sqlite3_stmt *s = td_db_statement(db, rows ? "SELECT chain FROM ledger WHERE number=?1"
                                               : "SELECT chain FROM receipts WHERE number=?1");
    if (!s)
        return td_db_fail(db, "reading where a chain is cut", e);
    td_db_bind_int(s, 1, end);
    bool found = sqlite3_step(s) == SQLITE_ROW && td_db_blob(s, 0).n == 32;
    if (found)
        memcpy(at.head, td_db_blob(s, 0).p, 32);
    sqlite3_reset(s);
    if (!found)
        return td_db_fail(db, "reading where a chain is cut", e);
    seal_cut(store, rows, &at, mac);
    err = td_db_meta_put(db, rows ? "cut_rows" : "cut_receipts", end, e);
    if (err == TD_OK)
        err = put_bytes(db, rows, 'h', at.head, e);
    if (err == TD_OK)
        err = put_bytes(db, rows, 'm', mac, e);
    if (err != TD_OK)
        return err;
    s = td_db_statement(db, rows ? "DELETE FROM ledger WHERE number<=?1" : "DELETE FROM receipts WHERE number<=?1");
    if (s)
        td_db_bind_int(s, 1, end);
    return td_db_done(db, s, "deleting old records", e);
}

static enum td_err run_prune(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    enum td_err err = cut(store, db, true, arg, e);
    return err == TD_OK ? cut(store, db, false, arg, e) : err;
}

enum td_err td_ledger_prune(struct td_store *store, int64_t before_ms, uint32_t limit, const struct td_ack *ack,
                            struct td_error *e) {
    struct td_op *op = td_op_create(sizeof(struct prune), 4096);
    if (!op)
        return td_error_set(e, TD_ERR_NOMEM, "while pruning the ledger");
    *(struct prune *)op->arg = (struct prune){before_ms, limit};
    op->run = run_prune;
    return td_op_submit(store, op, ack, e);
}
