// SPDX-License-Identifier: Apache-2.0
// What can be asked of the ledger, on the caller's thread: segments are walked and their records unpacked one by one.
#include <sodium.h>

#include "store/inner.h"

#define SEGMENTS "SELECT first,last,from_ms,until_ms,from_exchange,until_exchange,records,chain FROM segments "

// The segment a statement made of SEGMENTS stands at; its views live until the statement moves.
static struct td_segment segment_at(sqlite3_stmt *s) {
    return (struct td_segment){.first = (uint64_t)sqlite3_column_int64(s, 0),
                               .last = (uint64_t)sqlite3_column_int64(s, 1),
                               .from_ms = sqlite3_column_int64(s, 2),
                               .until_ms = sqlite3_column_int64(s, 3),
                               .from_exchange = td_db_str(s, 4),
                               .until_exchange = td_db_str(s, 5),
                               .records = td_db_blob(s, 6)};
}

// The next row of a segment with a number above `after`; of its fields all, or (`summed`) those the writer looks at.
static bool next_row(struct td_segment_reader *it, uint64_t after, bool summed, struct td_ledger_row *row) {
    struct td_journal_record r;
    while (td_segment_next(it, &r)) {
        if (r.number <= after || r.kind != TD_RECORD_ROW || !td_record_unpack(&td_shape_row, r.p, r.n, summed, row))
            continue;
        row->number = r.number;
        return true;
    }
    return false;
}

// Which rows a walk gives: those of the statement's segments with a number above `after` that match, less the first.
struct span {
    sqlite3_stmt *s;
    uint64_t after, skip;
    const struct td_ledger_filter *filter; // NULL: all
};

static bool matches(const struct td_ledger_filter *f, const struct td_ledger_row *row) {
    return (f->tenant.n == 0 || td_str_eq(f->tenant, row->tenant)) &&
           (f->target.n == 0 || td_str_eq(f->target, row->target)) &&
           (f->exchange.n == 0 || td_str_eq(f->exchange, row->exchange)) &&
           (f->since_ms == 0 || row->wall_ms >= f->since_ms) && (f->until_ms == 0 || row->wall_ms < f->until_ms);
}

// Gives rows to fn until it says no.
static enum td_err each_row(struct td_db *db, struct span *span, td_ledger_row_fn fn, void *user, struct td_error *e) {
    struct td_segment_reader it;
    struct td_ledger_row row;
    bool more = true;
    int rc = SQLITE_DONE;
    while (span->s && more && (rc = sqlite3_step(span->s)) == SQLITE_ROW) {
        struct td_segment segment = segment_at(span->s);
        td_segment_read(&it, &segment);
        while (more && next_row(&it, span->after, false, &row)) {
            if (span->filter && !matches(span->filter, &row))
                continue;
            if (span->skip > 0)
                span->skip--;
            else
                more = fn(user, &row);
        }
    }
    enum td_err err =
        !span->s || (rc != SQLITE_DONE && rc != SQLITE_ROW) ? td_db_fail(db, "reading the ledger", e) : TD_OK;
    if (span->s)
        sqlite3_reset(span->s);
    return err;
}

static void bind_filter(sqlite3_stmt *s, const struct td_ledger_filter *f) {
    td_db_bind_int(s, 1, (int64_t)f->after);
    td_db_bind_int(s, 2, f->since_ms ? f->since_ms : INT64_MIN);
    td_db_bind_int(s, 3, f->until_ms ? f->until_ms : INT64_MAX);
    td_db_bind_str(s, 4, f->exchange);
}

// Goes back from the newest segment until `count` matching rows are passed; *start gets the segment to begin with and
// *skip how many of its matching rows come before. *start 0: no row matches.
static enum td_err find_start(struct td_db *db, const struct td_ledger_filter *f, uint32_t count, uint64_t *start,
                              uint64_t *skip, struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(
        db, SEGMENTS "WHERE last>?1 AND last>(SELECT max(last) FROM segments)-1000000 AND until_ms>=?2 AND from_ms<?3"
                     " AND (?4='' OR (from_exchange<=?4 AND until_exchange>=?4)) ORDER BY last DESC");
    uint64_t found = 0;
    int rc = SQLITE_ERROR;
    *start = *skip = 0;
    if (s)
        bind_filter(s, f);
    while (s && found < count && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct td_segment segment = segment_at(s);
        struct td_segment_reader it;
        struct td_ledger_row row;
        uint64_t before = found;
        td_segment_read(&it, &segment);
        while (next_row(&it, f->after, true, &row))
            found += matches(f, &row);
        if (found > before)
            *start = segment.last;
    }
    enum td_err err = rc != SQLITE_DONE && rc != SQLITE_ROW ? td_db_fail(db, "reading the ledger", e) : TD_OK;
    if (s)
        sqlite3_reset(s);
    *skip = found > count ? found - count : 0;
    return err;
}

enum td_err td_ledger_tail(struct td_store *store, const struct td_ledger_filter *filter, uint32_t count,
                           td_ledger_row_fn fn, void *user, struct td_error *e) {
    struct td_ledger_filter none = {0};
    struct span span = {.filter = filter ? filter : &none};
    struct td_db *db;
    uint64_t start;
    if (count == 0)
        return TD_OK;
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    span.after = span.filter->after;
    err = find_start(db, span.filter, count, &start, &span.skip, e);
    if (err == TD_OK && start) {
        span.s =
            td_db_statement(db, SEGMENTS "WHERE last>=?1 AND until_ms>=?2 AND from_ms<?3"
                                         " AND (?4='' OR (from_exchange<=?4 AND until_exchange>=?4)) ORDER BY last");
        if (span.s) {
            bind_filter(span.s, span.filter);
            td_db_bind_int(span.s, 1, (int64_t)start);
        }
        err = each_row(db, &span, fn, user, e);
    }
    td_reader_give(store, db);
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
static enum td_err add_rest(struct td_db *db, struct adding *a, struct td_error *e) {
    int64_t rolled;
    enum td_err err = td_db_meta_get(db, "rolled", 0, &rolled, e);
    if (err != TD_OK)
        return err;
    struct span span = {.s = td_db_statement(db, SEGMENTS "WHERE last>?1 ORDER BY last"), .after = (uint64_t)rolled};
    if (span.s)
        td_db_bind_int(span.s, 1, rolled);
    err = each_row(db, &span, add_row, a, e);
    if (err == TD_OK && a->err != TD_OK)
        err = td_error_set(e, a->err, "while adding up usage");
    return err;
}

enum td_err td_ledger_rollup_reload(struct td_store *store, struct td_db *db, struct td_error *e) {
    struct adding a = {.rollup = &store->rollup};
    td_rollup_finish(&store->rollup);
    enum td_err err = add_rest(db, &a, e);
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
        err = add_rest(db, &a, e);
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

// Whether the columns beside the packed bytes say what the bytes say; counts its records.
static bool is_whole(const struct td_segment *s, struct td_ledger_proof *proof) {
    struct td_segment_reader it;
    struct td_journal_record r;
    td_segment_read(&it, s);
    while (td_segment_next(&it, &r)) {
        proof->rows += r.kind == TD_RECORD_ROW;
        proof->receipts += r.kind == TD_RECORD_RECEIPT;
    }
    return it.sound && it.number == s->last;
}

static enum td_err verify(struct td_store *store, struct td_db *db, struct td_ledger_proof *proof, struct td_error *e) {
    struct td_chain_cut cut;
    bool sound;
    enum td_err err = td_prune_cut(store, db, &cut, &sound, e);
    if (err != TD_OK)
        return err;
    proof->pruned = cut.number;
    memcpy(proof->head, cut.head, 32);
    if (!sound)
        proof->bad = cut.number;
    sqlite3_stmt *s = td_db_statement(db, SEGMENTS "ORDER BY last");
    int rc = SQLITE_ERROR;
    while (s && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct td_segment segment = segment_at(s);
        struct td_str stored = td_db_blob(s, 7);
        td_segment_link(store->chain_key, &segment, proof->head);
        if (is_whole(&segment, proof) && stored.n == 32 && sodium_memcmp(stored.p, proof->head, 32) == 0)
            continue;
        if (proof->bad == 0)
            proof->bad = segment.first;
        if (stored.n == 32)
            memcpy(proof->head, stored.p, 32); // go on from what is there: only the first break is reported
    }
    err = rc != SQLITE_DONE ? td_db_fail(db, "reading the ledger", e) : TD_OK;
    if (s)
        sqlite3_reset(s);
    return err == TD_ERR_LEDGER ? TD_ERR_IO : err;
}

enum td_err td_ledger_verify(struct td_store *store, struct td_ledger_proof *proof, struct td_error *e) {
    struct td_db *db;
    *proof = (struct td_ledger_proof){0};
    enum td_err err = td_reader_take(store, &db, e);
    if (err != TD_OK)
        return err;
    err = verify(store, db, proof, e);
    td_reader_give(store, db);
    return err;
}
