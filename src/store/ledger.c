// SPDX-License-Identifier: Apache-2.0
#include "store/ledger.h"

#include "base/time.h"
#include "store/inner.h"

// ---- hand-over, on the workers

static enum td_err hand_over(struct td_store *store, uint32_t kind, const struct td_shape *shape, const void *record,
                             const struct td_ack *ack, uint64_t *number) {
    unsigned char packed[TD_RECORD_BYTES_MAX];
    struct td_pending_ack *p = NULL;
    if (!store->journal)
        return TD_ERR_LEDGER;
    if (ack && !(p = td_malloc(sizeof *p)))
        return TD_ERR_NOMEM;
    size_t n = td_record_pack(shape, record, packed);
    void *room = td_journal_reserve(store->journal, kind, n, number);
    if (!room) {
        td_counter_add(store->refused_total, 1);
        td_free(p);
        return TD_ERR_LEDGER;
    }
    memcpy(room, packed, n);
    td_journal_commit(room);
    bool urgent = *number - atomic_load_explicit(&store->durable, memory_order_relaxed) >= store->options.batch_rows;
    if (p) {
        *p = (struct td_pending_ack){NULL, *ack, TD_OK, *number};
        pthread_mutex_lock(&store->lock);
        p->next = store->acks;
        store->acks = p;
        pthread_mutex_unlock(&store->lock);
        urgent = true;
    }
    td_writer_nudge(store, urgent);
    return TD_OK;
}

enum td_err td_ledger_append_acked(struct td_store *store, const struct td_ledger_row *row, const struct td_ack *ack) {
    uint64_t number;
    if (row->decision.n > TD_LEDGER_DECISION_BYTES_MAX)
        td_counter_add(store->omitted_total, 1);
    return hand_over(store, TD_RECORD_ROW, &td_shape_row, row, ack, &number);
}

enum td_err td_ledger_append(struct td_store *store, const struct td_ledger_row *row) {
    return td_ledger_append_acked(store, row, NULL);
}

enum td_err td_receipt_append(struct td_store *store, const struct td_receipt *receipt, const struct td_ack *ack,
                              uint64_t *number) {
    return hand_over(store, TD_RECORD_RECEIPT, &td_shape_receipt, receipt, ack, number);
}

// ---- the table, on the writer

enum td_err td_ledger_load(struct td_store *store, struct td_error *e) {
    struct td_chain_cut cut;
    bool sound;
    enum td_err err = td_prune_cut(store, &store->writer, &cut, &sound, e);
    if (err != TD_OK)
        return err;
    memcpy(store->chain.head, cut.head, 32);
    sqlite3_stmt *s = td_db_statement(&store->writer, "SELECT chain FROM segments ORDER BY last DESC LIMIT 1");
    if (!s)
        return td_db_fail(&store->writer, "reading the end of the hash chain", e);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW && td_db_blob(s, 0).n == 32)
        memcpy(store->chain.head, td_db_blob(s, 0).p, 32);
    else if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        err = td_db_fail(&store->writer, "reading the end of the hash chain", e);
    sqlite3_reset(s);
    return err;
}

enum td_err td_ledger_taken(struct td_db *db, uint64_t *number, struct td_error *e) {
    int64_t noted, last = 0;
    enum td_err err = td_db_meta_get(db, "taken", 0, &noted, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = td_db_statement(db, "SELECT max(last) FROM segments");
    if (!s || sqlite3_step(s) != SQLITE_ROW)
        err = td_db_fail(db, "reading the ledger's end", e);
    else
        last = sqlite3_column_int64(s, 0);
    if (s)
        sqlite3_reset(s);
    *number = (uint64_t)(last > noted ? last : noted);
    return err;
}

enum td_err td_ledger_take(struct td_store *store, struct td_db *db, const struct td_journal_record *r,
                           struct td_error *e) {
    union {
        struct td_ledger_row row;
        struct td_receipt receipt;
    } x;
    int64_t wall_ms;
    struct td_str exchange = TD_STR_NONE;
    enum td_err err = td_segment_has_room(&store->draft, r->n) ? TD_OK : td_ledger_write(store, db, e);
    if (err != TD_OK)
        return err;
    if (r->kind == TD_RECORD_ROW && td_record_unpack(&td_shape_row, r->p, r->n, true, &x.row)) {
        wall_ms = x.row.wall_ms;
        exchange = x.row.exchange;
        if (!store->rollup.incomplete && td_rollup_add(&store->rollup, &x.row, false) != TD_OK)
            store->rollup.incomplete = true;
    } else if (r->kind == TD_RECORD_RECEIPT && td_record_unpack(&td_shape_receipt, r->p, r->n, true, &x.receipt)) {
        wall_ms = x.receipt.wall_ms;
    } else {
        wall_ms = td_wall_ms(); // of a newer program that was killed: kept for it, unread
    }
    err = td_segment_add(&store->draft, r, wall_ms, exchange);
    return err == TD_OK ? TD_OK : td_error_set(e, err, "while writing the ledger");
}

enum td_err td_ledger_put(struct td_db *db, const struct td_segment *x, const unsigned char chain[32],
                          struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(db, "INSERT INTO segments(last,first,from_ms,until_ms,from_exchange,"
                                          "until_exchange,chain,records) VALUES(?1,?2,?3,?4,?5,?6,?7,?8)");
    if (s) {
        td_db_bind_int(s, 1, (int64_t)x->last);
        td_db_bind_int(s, 2, (int64_t)x->first);
        td_db_bind_int(s, 3, x->from_ms);
        td_db_bind_int(s, 4, x->until_ms);
        td_db_bind_str(s, 5, x->from_exchange);
        td_db_bind_str(s, 6, x->until_exchange);
        td_db_bind_blob(s, 7, td_str_n((const char *)chain, 32));
        td_db_bind_blob(s, 8, x->records);
    }
    return td_db_done(db, s, "writing the ledger", e);
}

enum td_err td_ledger_write(struct td_store *store, struct td_db *db, struct td_error *e) {
    const struct td_segment *x = &store->draft.s;
    if (!x->last)
        return TD_OK;
    td_segment_link(store->chain_key, x, store->chain.head);
    enum td_err err = td_ledger_put(db, x, store->chain.head, e);
    td_segment_clear(&store->draft);
    return err;
}
