// SPDX-License-Identifier: Apache-2.0
#include "store/ledger.h"

#include <sodium.h>
#include <stdio.h>

#include "store/inner.h"

// ---- hand-over, on the workers ----

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

// ---- the tables, on the writer ----

// A link is the MAC of the one before, the record's number and its packed form.
static void link_chain(const unsigned char key[32], const struct td_shape *shape, uint64_t number,
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

static enum td_err grow_sql(const struct td_shape *shape, struct td_buf *insert, struct td_buf *select) {
    td_buf_init(insert, 8192);
    td_buf_init(select, 8192);
    enum td_err err = td_buf_printf(insert, "INSERT OR IGNORE INTO %s(number,v,chain", shape->table);
    if (err == TD_OK)
        err = td_db_columns(shape, false, insert);
    if (err == TD_OK)
        err = td_buf_addz(insert, ") VALUES(?1,?2,?3");
    for (unsigned i = 0; err == TD_OK && i < shape->count; i++)
        err = td_buf_printf(insert, ",?%u", i + 4);
    if (err == TD_OK)
        err = td_buf_addz(insert, ")");
    if (err == TD_OK)
        err = td_buf_addz(select, "SELECT number,v,chain");
    if (err == TD_OK)
        err = td_db_columns(shape, false, select);
    if (err == TD_OK)
        err = td_buf_printf(select, " FROM %s", shape->table);
    if (err == TD_OK && (!td_buf_z(insert) || !td_buf_z(select)))
        err = TD_ERR_NOMEM;
    return err;
}

static enum td_err load_head(struct td_db *db, const char *sql, struct td_chain *chain, struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(db, sql);
    if (!s)
        return td_db_fail(db, "reading the end of a hash chain", e);
    int rc = sqlite3_step(s);
    enum td_err err = TD_OK;
    if (rc == SQLITE_ROW && td_db_blob(s, 0).n == 32)
        memcpy(chain->head, td_db_blob(s, 0).p, 32);
    else if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        err = td_db_fail(db, "reading the end of a hash chain", e);
    sqlite3_reset(s);
    return err;
}

enum td_err td_ledger_load(struct td_store *store, struct td_error *e) {
    enum td_err err = grow_sql(&td_shape_row, &store->insert_row, &store->select_row);
    if (err == TD_OK)
        err = grow_sql(&td_shape_receipt, &store->insert_receipt, &store->select_receipt);
    if (err != TD_OK)
        return td_error_set(e, err, "while preparing the ledger");
    if (store->options.read_only)
        return TD_OK;
    err = load_head(&store->writer, "SELECT chain FROM ledger ORDER BY number DESC LIMIT 1", &store->row_chain, e);
    if (err == TD_OK)
        err = load_head(&store->writer, "SELECT chain FROM receipts ORDER BY number DESC LIMIT 1",
                        &store->receipt_chain, e);
    return err;
}

enum td_err td_ledger_insert(struct td_store *store, struct td_db *db, const struct td_journal_record *r,
                             struct td_error *e) {
    bool is_row = r->kind == TD_RECORD_ROW;
    const struct td_shape *shape = is_row ? &td_shape_row : &td_shape_receipt;
    struct td_chain *chain = is_row ? &store->row_chain : &store->receipt_chain;
    if (r->kind != TD_RECORD_ROW && r->kind != TD_RECORD_RECEIPT)
        return TD_OK; // of a newer program that was killed; nothing here can read it
    sqlite3_stmt *s = td_db_statement(db, (is_row ? &store->insert_row : &store->insert_receipt)->p);
    if (!s)
        return td_db_fail(db, "writing the ledger", e);
    td_db_bind_int(s, 1, (int64_t)r->number);
    td_db_bind_int(s, 2, r->n ? r->p[0] : 0);
    if (!td_db_bind_packed(s, 4, shape, r->p, r->n))
        return TD_OK;
    link_chain(store->chain_key, shape, r->number, r->p, r->n, chain->head);
    td_db_bind_blob(s, 3, td_str_n((const char *)chain->head, 32));
    return td_db_done(db, s, "writing the ledger", e);
}

// ---- queries, on the caller's thread ----

// "SELECT … FROM ledger" with an ending; remembered by the connection under the buffer's address, which the caller
// keeps: so each ending is prepared anew and finalised here.
static sqlite3_stmt *select_rows(struct td_store *store, struct td_db *db, bool rows, const char *ending) {
    struct td_buf sql;
    sqlite3_stmt *s = NULL;
    td_buf_init(&sql, 8192);
    if (td_buf_add_str(&sql, td_buf_str(rows ? &store->select_row : &store->select_receipt)) == TD_OK &&
        td_buf_addz(&sql, ending) == TD_OK)
        sqlite3_prepare_v2(db->c, sql.p, (int)sql.n, &s, NULL);
    td_buf_finish(&sql);
    return s;
}

static void read_row(sqlite3_stmt *s, struct td_ledger_row *row) {
    td_db_read_record(s, 3, &td_shape_row, row);
    row->number = (uint64_t)sqlite3_column_int64(s, 0);
}

// Gives rows to fn until it says no; counts them.
static enum td_err each_row(struct td_db *db, sqlite3_stmt *s, td_ledger_row_fn fn, void *user, uint64_t *count,
                            struct td_error *e) {
    struct td_ledger_row row;
    int rc = SQLITE_DONE;
    while (s && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        read_row(s, &row);
        (*count)++;
        if (!fn(user, &row))
            break;
    }
    enum td_err err = !s || (rc != SQLITE_DONE && rc != SQLITE_ROW) ? td_db_fail(db, "reading the ledger", e) : TD_OK;
    sqlite3_finalize(s);
    return err;
}

enum td_err td_ledger_tail(struct td_store *store, const struct td_ledger_filter *filter, uint32_t count,
                           td_ledger_row_fn fn, void *user, struct td_error *e) {
    static const char ending[] = " WHERE number IN (SELECT number FROM ledger WHERE number>?1 AND number>(SELECT "
                                 "max(number) FROM ledger)-1000000"
                                 " AND (?2='' OR tenant=?2) AND (?3='' OR target=?3) AND wall_ms>=?4 AND wall_ms<?5"
                                 " ORDER BY number DESC LIMIT ?6) ORDER BY number";
    struct td_ledger_filter none = {0};
    const struct td_ledger_filter *f = filter ? filter : &none;
    struct td_db *db;
    uint64_t seen = 0;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = select_rows(store, db, true, ending);
    if (s) {
        td_db_bind_int(s, 1, (int64_t)f->after);
        td_db_bind_str(s, 2, f->tenant);
        td_db_bind_str(s, 3, f->target);
        td_db_bind_int(s, 4, f->since_ms ? f->since_ms : INT64_MIN);
        td_db_bind_int(s, 5, f->until_ms ? f->until_ms : INT64_MAX);
        td_db_bind_int(s, 6, count);
    }
    err = each_row(db, s, fn, user, &seen, e);
    td_reader_give(store, db);
    return err;
}

enum td_err td_ledger_by_exchange(struct td_store *store, struct td_str exchange, td_ledger_row_fn fn, void *user,
                                  struct td_error *e) {
    struct td_db *db;
    uint64_t seen = 0;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = select_rows(store, db, true, " WHERE exchange=?1 ORDER BY attempt,number");
    if (s)
        td_db_bind_str(s, 1, exchange);
    err = each_row(db, s, fn, user, &seen, e);
    td_reader_give(store, db);
    if (err == TD_OK && seen == 0)
        err = td_error_set(e, TD_ERR_NOT_FOUND, "no such exchange in the ledger");
    return err;
}

enum td_err td_ledger_row_json(const struct td_ledger_row *row, bool with_decision, struct td_buf *out) {
    enum td_err err = td_buf_printf(out, "{\"number\":%llu,", (unsigned long long)row->number);
    if (err == TD_OK)
        err = td_record_json(&td_shape_row, row, with_decision, out);
    return err != TD_OK ? err : td_buf_addc(out, '}');
}

struct adding {
    struct td_rollup *rollup;
    const struct td_ledger_filter *filter;
    bool by_target_only;
    enum td_err err;
};

static bool add_row(void *user, const struct td_ledger_row *row) {
    struct adding *a = user;
    int64_t hour = row->wall_ms / TD_ROLLUP_HOUR_MS - (row->wall_ms % TD_ROLLUP_HOUR_MS < 0);
    if (!a->filter || td_rollup_matches(a->filter, hour, row->tenant, row->target))
        a->err = td_rollup_add(a->rollup, row, a->by_target_only);
    return a->err == TD_OK;
}

// Adds the rows that the written sums do not cover.
static enum td_err add_rest(struct td_store *store, struct td_db *db, struct adding *a, struct td_error *e) {
    int64_t rolled;
    uint64_t seen = 0;
    enum td_err err = td_db_meta_get(db, "rolled", 0, &rolled, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = select_rows(store, db, true, " WHERE number>?1 ORDER BY number");
    if (s)
        td_db_bind_int(s, 1, rolled);
    err = each_row(db, s, add_row, a, &seen, e);
    if (err == TD_OK && a->err != TD_OK)
        err = td_error_set(e, a->err, "while adding up usage");
    return err;
}

enum td_err td_ledger_rollup_reload(struct td_store *store, struct td_db *db, struct td_error *e) {
    struct adding a = {.rollup = &store->rollup};
    td_rollup_finish(&store->rollup);
    enum td_err err = add_rest(store, db, &a, e);
    store->rollup.incomplete = err != TD_OK;
    return err;
}

static void give_stats(struct td_rollup_entry *x, const struct td_price *price, struct td_str name) {
    struct td_ledger_stats *s = &x->sums;
    s->target = name;
    s->tier = x->tier;
    s->ttft_us_p50 = td_latencies_at(&x->ttft, 0.50);
    s->ttft_us_p95 = td_latencies_at(&x->ttft, 0.95);
    s->duration_us_p50 = td_latencies_at(&x->duration, 0.50);
    s->duration_us_p95 = td_latencies_at(&x->duration, 0.95);
    if (price)
        s->cloud_alone_nusd = (int64_t)s->delivered_prompt_tokens * price->input_nusd +
                              (int64_t)s->delivered_completion_tokens * price->output_nusd;
}

static void add_to_total(struct td_ledger_stats *t, const struct td_ledger_stats *s) {
    t->attempts += s->attempts;
    t->ok += s->ok;
    t->failed += s->failed;
    t->delivered += s->delivered;
    t->degraded += s->degraded;
    t->damaged += s->damaged;
    t->prompt_tokens += s->prompt_tokens;
    t->completion_tokens += s->completion_tokens;
    t->cached_tokens += s->cached_tokens;
    t->reasoning_tokens += s->reasoning_tokens;
    t->delivered_prompt_tokens += s->delivered_prompt_tokens;
    t->delivered_completion_tokens += s->delivered_completion_tokens;
    t->bytes_out += s->bytes_out;
    t->cost_nusd += s->cost_nusd;
}

// Fills `r` with sums by target, out of written sums and the rows behind them, as of one moment.
static enum td_err sum_up(struct td_store *store, const struct td_ledger_filter *filter, struct td_rollup *r,
                          struct td_error *e) {
    struct td_db *db;
    struct adding a = {.rollup = r, .filter = filter, .by_target_only = true};
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    err = td_rollup_read(r, db, filter, e);
    if (err == TD_OK)
        err = add_rest(store, db, &a, e);
    td_reader_give(store, db);
    return err;
}

enum td_err td_ledger_stats(struct td_store *store, const struct td_ledger_filter *filter,
                            const struct td_price *cloud_price, td_ledger_stats_fn fn, void *user, struct td_error *e) {
    struct td_ledger_filter none = {0};
    struct td_rollup r = {0};
    struct td_rollup_entry total = {.tier = TD_TIER_DEVICE};
    enum td_err err = sum_up(store, filter ? filter : &none, &r, e);
    bool more = true;
    for (uint32_t i = 0; err == TD_OK && i < r.slot_count; i++)
        for (struct td_rollup_entry *x = r.slots[i]; err == TD_OK && x; x = x->next) {
            give_stats(x, cloud_price, td_str_of(x->target));
            more = more && fn(user, &x->sums);
            add_to_total(&total.sums, &x->sums);
            err = td_latencies_merge(&total.ttft, &x->ttft);
            if (err == TD_OK)
                err = td_latencies_merge(&total.duration, &x->duration);
        }
    if (err == TD_OK && more) {
        give_stats(&total, cloud_price, TD_STR("*"));
        fn(user, &total.sums);
    }
    td_free(total.ttft.buckets);
    td_free(total.duration.buckets);
    td_rollup_finish(&r);
    return err;
}

enum td_err td_ledger_spent(struct td_store *store, struct td_str tenant, struct td_str target, int64_t since_ms,
                            int64_t *nusd, struct td_error *e) {
    struct td_ledger_filter filter = {.tenant = tenant, .target = target, .since_ms = since_ms};
    struct td_rollup r = {0};
    enum td_err err = sum_up(store, &filter, &r, e);
    *nusd = 0;
    for (uint32_t i = 0; err == TD_OK && i < r.slot_count; i++)
        for (struct td_rollup_entry *x = r.slots[i]; x; x = x->next)
            *nusd += x->sums.cost_nusd;
    td_rollup_finish(&r);
    return err;
}

static enum td_err verify_one(struct td_store *store, struct td_db *db, bool rows, uint64_t *count, uint64_t *bad,
                              uint64_t *pruned, unsigned char head[32], struct td_error *e) {
    const struct td_shape *shape = rows ? &td_shape_row : &td_shape_receipt;
    unsigned char packed[TD_RECORD_BYTES_MAX];
    union {
        struct td_ledger_row row;
        struct td_receipt receipt;
    } record;
    struct td_chain_cut cut;
    bool sound;
    enum td_err err = td_prune_cut(store, db, rows, &cut, &sound, e);
    if (err != TD_OK)
        return err;
    *pruned = cut.number;
    memcpy(head, cut.head, 32);
    if (!sound)
        *bad = cut.number;
    sqlite3_stmt *s = select_rows(store, db, rows, " ORDER BY number");
    int rc = SQLITE_DONE;
    while (s && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        uint64_t number = (uint64_t)sqlite3_column_int64(s, 0);
        td_db_read_record(s, 3, shape, &record);
        size_t n = td_record_pack_as(shape, (unsigned char)sqlite3_column_int(s, 1), &record, packed);
        link_chain(store->chain_key, shape, number, packed, n, head);
        struct td_str stored = td_db_blob(s, 2);
        (*count)++;
        if (stored.n == 32 && sodium_memcmp(stored.p, head, 32) == 0)
            continue;
        if (*bad == 0)
            *bad = number;
        if (stored.n == 32)
            memcpy(head, stored.p, 32); // go on from what is there: only the first break is reported
    }
    err = !s || rc != SQLITE_DONE ? td_db_fail(db, "reading the ledger", e) : TD_OK;
    sqlite3_finalize(s);
    return err == TD_ERR_LEDGER ? TD_ERR_IO : err;
}

enum td_err td_ledger_verify(struct td_store *store, struct td_ledger_proof *proof, struct td_error *e) {
    struct td_db *db;
    *proof = (struct td_ledger_proof){0};
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    err = verify_one(store, db, true, &proof->rows, &proof->bad_row, &proof->pruned_row, proof->row_head, e);
    if (err == TD_OK)
        err = verify_one(store, db, false, &proof->receipts, &proof->bad_receipt, &proof->pruned_receipt,
                         proof->receipt_head, e);
    td_reader_give(store, db);
    return err;
}
