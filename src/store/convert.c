// SPDX-License-Identifier: Apache-2.0
// From schema 1, which had the tables `ledger` and `receipts` with a column for each field and a hash chain for each
// table, to segments. Done at the first start of a program that knows segments, before anything else is written: a part
// in each transaction, which takes as many records out of the old tables as it writes, so that a kill at any moment
// loses nothing and the next start goes on; at the end the old tables are dropped. A record that did not fit its old
// chain must not come out of this as if nothing had been: its segment gets a link of zeros, which fits no chain.
#include <sodium.h>
#include <string.h>

#include "base/format.h"
#include "base/log.h"
#include "store/inner.h"

#define PART_RECORDS 4000u // in one transaction
#define OLD_VERSION 1      // of the packed form that the old chains were made over

// One of the two old tables.
struct old_table {
    const struct td_shape *shape;
    const char *head_name, *cut_name; // in `meta`
    const char *delete_sql;
    sqlite3_stmt *s;
    bool more;
    unsigned char head[32]; // of its chain, as far as it was walked
};

struct convert {
    struct td_store *store;
    struct old_table tables[2];
    uint64_t last; // number of the last record taken
    uint64_t count;
    bool broken; // a record in the draft did not fit
};

// A link of the old chains is the MAC of the one before, the record's number and its packed form.
static void old_link(const unsigned char key[32], const struct td_shape *shape, uint64_t number,
                     const unsigned char *packed, size_t n, unsigned char head[32]) {
    crypto_generichash_state state;
    unsigned char le[8];
    for (int i = 0; i < 8; i++)
        le[i] = (unsigned char)(number >> (8 * i));
    crypto_generichash_init(&state, key, 32, 32);
    crypto_generichash_update(&state, (const unsigned char *)shape->table, strlen(shape->table));
    crypto_generichash_update(&state, head, 32);
    crypto_generichash_update(&state, le, sizeof le);
    crypto_generichash_update(&state, packed, n);
    crypto_generichash_final(&state, head, 32);
}

// Four of the store's numbers as the 32 bytes they were made of.
static enum td_err old_bytes(struct td_db *db, const char *prefix, unsigned char out[32], struct td_error *e) {
    enum td_err err = TD_OK;
    for (int i = 0; err == TD_OK && i < 4; i++) {
        char name[32];
        int64_t part = 0;
        td_format(name, sizeof name, "%s%d", prefix, i);
        err = td_db_meta_get(db, name, 0, &part, e);
        memcpy(out + 8 * i, &part, sizeof part);
    }
    return err;
}

// Where an old chain begins: at nothing, or where retention had cut it.
static enum td_err old_start(struct convert *c, struct old_table *t, uint64_t *cut, struct td_error *e) {
    struct td_db *db = &c->store->writer;
    unsigned char stored[32], mac[32];
    char prefix[32];
    int64_t number;
    enum td_err err = td_db_meta_get(db, t->cut_name, 0, &number, e);
    *cut = (uint64_t)number;
    if (err != TD_OK || number == 0)
        return err;
    td_format(prefix, sizeof prefix, "%s_h", t->cut_name);
    err = old_bytes(db, prefix, t->head, e);
    td_format(prefix, sizeof prefix, "%s_m", t->cut_name);
    if (err == TD_OK)
        err = old_bytes(db, prefix, stored, e);
    crypto_generichash_state state;
    unsigned char le[8];
    const char *mark = t->shape == &td_shape_row ? "cut rows" : "cut receipts";
    for (int i = 0; i < 8; i++)
        le[i] = (unsigned char)((uint64_t)number >> (8 * i));
    crypto_generichash_init(&state, c->store->chain_key, 32, 32);
    crypto_generichash_update(&state, (const unsigned char *)mark, strlen(mark));
    crypto_generichash_update(&state, le, sizeof le);
    crypto_generichash_update(&state, t->head, 32);
    crypto_generichash_final(&state, mac, 32);
    if (err == TD_OK && sodium_memcmp(mac, stored, 32) != 0)
        c->broken = true;
    return err;
}

static enum td_err select_all(struct td_db *db, struct old_table *t, struct td_error *e) {
    struct td_buf sql;
    td_buf_init(&sql, 8192);
    enum td_err err = td_buf_addz(&sql, "SELECT number,chain");
    for (unsigned i = 0; err == TD_OK && i < t->shape->count; i++)
        if (t->shape->fields[i].since <= OLD_VERSION)
            err = td_buf_printf(&sql, ",%s", t->shape->fields[i].name);
    if (err == TD_OK)
        err = td_buf_printf(&sql, " FROM %s ORDER BY number", t->shape->table);
    if (err == TD_OK && sqlite3_prepare_v2(db->c, sql.p, (int)sql.n, &t->s, NULL) != SQLITE_OK)
        err = td_db_fail(db, "reading the old ledger", e);
    td_buf_finish(&sql);
    return err;
}

static void read_record(sqlite3_stmt *s, const struct td_shape *shape, void *record) {
    int at = 2;
    memset(record, 0, shape->size);
    for (unsigned i = 0; i < shape->count; i++) {
        const struct td_field *f = &shape->fields[i];
        struct td_packed_value v = {.absent = true};
        if (f->since <= OLD_VERSION && sqlite3_column_type(s, at++) != SQLITE_NULL) {
            v.absent = false;
            if (f->type == TD_FIELD_F32)
                v.real = (float)sqlite3_column_double(s, at - 1);
            else if (f->type == TD_FIELD_MAC)
                v.absent = (v.text = td_db_blob(s, at - 1)).n != 32;
            else if (f->type == TD_FIELD_TEXT || f->type == TD_FIELD_BLOB || f->type == TD_FIELD_WORD)
                v.text = td_db_str(s, at - 1);
            else
                v.number = sqlite3_column_int64(s, at - 1);
        }
        td_record_set(record, f, &v);
    }
}

static enum td_err write_draft(struct convert *c, struct td_error *e) {
    struct td_store *store = c->store;
    if (!store->draft.s.last)
        return TD_OK;
    if (c->broken)
        memset(store->chain.head, 0, 32);
    else
        td_segment_link(store->chain_key, &store->draft.s, store->chain.head);
    enum td_err err = td_ledger_put(&store->writer, &store->draft.s, store->chain.head, e);
    td_segment_clear(&store->draft);
    c->broken = false;
    return err;
}

// The record the table's statement stands at.
static enum td_err take(struct convert *c, struct old_table *t, struct td_error *e) {
    struct td_store *store = c->store;
    unsigned char packed[TD_RECORD_BYTES_MAX];
    union {
        struct td_ledger_row row;
        struct td_receipt receipt;
    } x;
    const bool is_row = t->shape == &td_shape_row;
    struct td_journal_record r = {.number = (uint64_t)sqlite3_column_int64(t->s, 0),
                                  .kind = is_row ? TD_RECORD_ROW : TD_RECORD_RECEIPT,
                                  .p = packed};
    read_record(t->s, t->shape, &x);
    size_t old_n = td_record_pack_as(t->shape, OLD_VERSION, &x, packed);
    old_link(store->chain_key, t->shape, r.number, packed, old_n, t->head);
    struct td_str stored = td_db_blob(t->s, 1);
    bool fits = stored.n == 32 && sodium_memcmp(stored.p, t->head, 32) == 0;
    if (!fits && stored.n == 32)
        memcpy(t->head, stored.p, 32);
    r.n = td_record_pack(t->shape, &x, packed);
    enum td_err err = td_segment_has_room(&store->draft, r.n) ? TD_OK : write_draft(c, e);
    c->broken |= !fits;
    if (err == TD_OK && td_segment_add(&store->draft, &r, is_row ? x.row.wall_ms : x.receipt.wall_ms,
                                       is_row ? x.row.exchange : TD_STR_NONE) != TD_OK)
        err = td_error_set(e, TD_ERR_NOMEM, "while converting the ledger");
    c->last = r.number;
    c->count++;
    return err;
}

static enum td_err step(struct td_db *db, struct old_table *t, struct td_error *e) {
    int rc = sqlite3_step(t->s);
    t->more = rc == SQLITE_ROW;
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? TD_OK : td_db_fail(db, "reading the old ledger", e);
}

// Moves up to PART_RECORDS of the front, in the order of their numbers.
static enum td_err move_part(struct convert *c, bool *done, struct td_error *e) {
    struct td_db *db = &c->store->writer;
    struct old_table *rows = &c->tables[0], *receipts = &c->tables[1];
    enum td_err err = select_all(db, rows, e);
    if (err == TD_OK)
        err = select_all(db, receipts, e);
    if (err == TD_OK)
        err = step(db, rows, e);
    if (err == TD_OK)
        err = step(db, receipts, e);
    for (uint32_t n = 0; err == TD_OK && n < PART_RECORDS && (rows->more || receipts->more); n++) {
        bool row_first =
            rows->more && (!receipts->more || sqlite3_column_int64(rows->s, 0) < sqlite3_column_int64(receipts->s, 0));
        struct old_table *t = row_first ? rows : receipts;
        err = take(c, t, e);
        if (err == TD_OK)
            err = step(db, t, e);
    }
    *done = !rows->more && !receipts->more;
    if (err == TD_OK)
        err = write_draft(c, e);
    for (int i = 0; i < 2; i++) {
        struct old_table *t = &c->tables[i];
        sqlite3_finalize(t->s);
        t->s = NULL;
        sqlite3_stmt *s = err == TD_OK ? td_db_statement(db, t->delete_sql) : NULL;
        if (err == TD_OK && s)
            td_db_bind_int(s, 1, (int64_t)c->last);
        if (err == TD_OK)
            err = td_db_done(db, s, "converting the ledger", e);
        if (err == TD_OK)
            err = td_db_meta_put_bytes(db, t->head_name, t->head, e);
    }
    return err;
}

// Retention had cut both chains: the new one begins as if it had been cut there.
static enum td_err start(struct convert *c, struct td_error *e) {
    struct td_db *db = &c->store->writer;
    uint64_t cut[2] = {0, 0};
    enum td_err err = TD_OK;
    for (int i = 0; err == TD_OK && i < 2; i++)
        err = old_start(c, &c->tables[i], &cut[i], e);
    return err == TD_OK && (cut[0] || cut[1])
               ? td_prune_seal(c->store, db, &(struct td_chain_cut){.number = cut[0] > cut[1] ? cut[0] : cut[1]}, e)
               : err;
}

static enum td_err go_on(struct convert *c, struct td_error *e) {
    enum td_err err = TD_OK;
    for (int i = 0; err == TD_OK && i < 2; i++)
        err = td_db_meta_get_bytes(&c->store->writer, c->tables[i].head_name, c->tables[i].head, e);
    return err;
}

enum td_err td_convert(struct td_store *store, struct td_error *e) {
    struct td_db *db = &store->writer;
    struct convert c = {.store = store,
                        .tables = {{.shape = &td_shape_row,
                                    .head_name = "old_rows",
                                    .cut_name = "cut_rows",
                                    .delete_sql = "DELETE FROM ledger WHERE number<=?1"},
                                   {.shape = &td_shape_receipt,
                                    .head_name = "old_receipts",
                                    .cut_name = "cut_receipts",
                                    .delete_sql = "DELETE FROM receipts WHERE number<=?1"}}};
    enum td_err err = TD_OK;
    bool done = !td_db_has_table(db, "ledger"), begun;
    int64_t mark;
    if (done)
        return TD_OK;
    err = td_db_meta_get(db, "converting", 0, &mark, e);
    begun = mark != 0;
    while (err == TD_OK && !done) {
        err = td_db_exec(db, "BEGIN IMMEDIATE", e);
        if (err == TD_OK)
            err = begun ? go_on(&c, e) : start(&c, e);
        if (err == TD_OK)
            err = td_ledger_load(store, e);
        if (err == TD_OK)
            err = move_part(&c, &done, e);
        if (err == TD_OK)
            err = done ? td_db_exec(db,
                                    "DROP TABLE ledger; DROP TABLE receipts; DELETE FROM meta WHERE name GLOB 'cut_r*'"
                                    " OR name IN ('converting','old_rows','old_receipts')",
                                    e)
                       : td_db_meta_put(db, "converting", 1, e);
        if (err == TD_OK)
            err = td_db_exec(db, "COMMIT", e);
        if (err == TD_OK)
            sqlite3_wal_checkpoint_v2(db->c, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
        begun = true;
    }
    if (err != TD_OK && !sqlite3_get_autocommit(db->c))
        sqlite3_exec(db->c, "ROLLBACK", NULL, NULL, NULL);
    if (err == TD_OK && c.count)
        td_log(TD_LOG_INFO, "store", NULL, "while=convert records=%llu", (unsigned long long)c.count);
    return err;
}
