// SPDX-License-Identifier: Apache-2.0
// Retention: segments beyond a certain age are deleted from the front of the hash chain, a few at a time, on the writer
// thread. What the sums by the hour do not cover yet stays, and so does the newest segment. The link at which the chain
// was cut is kept with a MAC, so that verification goes on from there and a front that somebody else cut off is found.
#include <sodium.h>
#include <string.h>

#include "store/inner.h"
#include "store/ledger.h"

struct prune {
    int64_t before_ms;
    uint32_t limit;
};

static void seal_cut(const struct td_store *store, const struct td_chain_cut *cut, unsigned char mac[32]) {
    crypto_generichash_state state;
    unsigned char le[8];
    for (int i = 0; i < 8; i++)
        le[i] = (unsigned char)(cut->number >> (8 * i));
    crypto_generichash_init(&state, store->chain_key, 32, 32);
    crypto_generichash_update(&state, (const unsigned char *)"cut", 3);
    crypto_generichash_update(&state, le, sizeof le);
    crypto_generichash_update(&state, cut->head, 32);
    crypto_generichash_final(&state, mac, 32);
}

enum td_err td_prune_cut(struct td_store *store, struct td_db *db, struct td_chain_cut *out, bool *sound,
                         struct td_error *e) {
    unsigned char stored[32], mac[32];
    int64_t number;
    *out = (struct td_chain_cut){0};
    *sound = true;
    enum td_err err = td_db_meta_get(db, "cut", 0, &number, e);
    if (err != TD_OK || number == 0)
        return err;
    out->number = (uint64_t)number;
    err = td_db_meta_get_bytes(db, "cut_head", out->head, e);
    if (err == TD_OK)
        err = td_db_meta_get_bytes(db, "cut_mac", stored, e);
    if (err != TD_OK)
        return err;
    seal_cut(store, out, mac);
    *sound = sodium_memcmp(mac, stored, 32) == 0;
    return TD_OK;
}

// The last segment of the front that may go, with its link: number 0 none. The front is looked at in order and left
// where the first stands that is too young, not in the sums yet, the newest, or one too many.
static enum td_err find_end(struct td_db *db, const struct prune *p, struct td_chain_cut *end, struct td_error *e) {
    int64_t rolled, first = 0;
    int rc = SQLITE_ERROR;
    enum td_err err = td_db_meta_get(db, "rolled", 0, &rolled, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = td_db_statement(db, "SELECT first,last,until_ms,chain FROM segments WHERE last<=?1 AND last<"
                                          "(SELECT max(last) FROM segments) ORDER BY last");
    if (s)
        td_db_bind_int(s, 1, rolled);
    while (s && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        int64_t last = sqlite3_column_int64(s, 1);
        struct td_str chain = td_db_blob(s, 3);
        if (end->number == 0)
            first = sqlite3_column_int64(s, 0);
        bool too_many = end->number != 0 && last - first >= (int64_t)p->limit;
        if (sqlite3_column_int64(s, 2) >= p->before_ms || too_many || chain.n != 32)
            break;
        end->number = (uint64_t)last;
        memcpy(end->head, chain.p, 32);
    }
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        err = td_db_fail(db, "looking for old records", e);
    if (s)
        sqlite3_reset(s);
    return err;
}

enum td_err td_prune_seal(struct td_store *store, struct td_db *db, const struct td_chain_cut *cut,
                          struct td_error *e) {
    unsigned char mac[32];
    seal_cut(store, cut, mac);
    enum td_err err = td_db_meta_put(db, "cut", (int64_t)cut->number, e);
    if (err == TD_OK)
        err = td_db_meta_put_bytes(db, "cut_head", cut->head, e);
    return err == TD_OK ? td_db_meta_put_bytes(db, "cut_mac", mac, e) : err;
}

static enum td_err run_prune(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    struct td_chain_cut cut = {0};
    enum td_err err = find_end(db, arg, &cut, e);
    if (err == TD_OK && cut.number == 0)
        return TD_OK;
    if (err == TD_OK)
        err = td_prune_seal(store, db, &cut, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = td_db_statement(db, "DELETE FROM segments WHERE last<=?1");
    if (s)
        td_db_bind_int(s, 1, (int64_t)cut.number);
    return td_db_done(db, s, "deleting old records", e);
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
