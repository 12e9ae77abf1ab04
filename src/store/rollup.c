// SPDX-License-Identifier: Apache-2.0
#include "store/rollup.h"

#include <string.h>

static uint32_t bucket_of(uint64_t us) {
    if (us < 16)
        return (uint32_t)us;
    unsigned e = 63 - (unsigned)__builtin_clzll(us);
    if (e > 40)
        return 16 + (40 - 4) * 16 + 15; // twelve days: whatever is beyond is the same
    return (uint32_t)(16 + (e - 4) * 16 + ((us >> (e - 4)) & 15));
}

static uint64_t middle_of(uint32_t bucket) {
    if (bucket < 16)
        return bucket;
    unsigned e = (bucket - 16u) / 16 + 4, sub = (bucket - 16u) % 16;
    uint64_t width = 1ull << (e - 4);
    return (16 + sub) * width + width / 2;
}

static enum td_err latencies_add(struct td_latencies *l, uint32_t bucket, uint32_t n) {
    uint32_t at = l->count;
    while (at > 0 && l->buckets[at - 1].bucket >= bucket)
        at--;
    if (at < l->count && l->buckets[at].bucket == bucket) {
        l->buckets[at].count += n;
        return TD_OK;
    }
    if (l->count == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 8;
        struct td_latency_bucket *p = td_realloc(l->buckets, cap * sizeof *p);
        if (!p)
            return TD_ERR_NOMEM;
        l->buckets = p;
        l->cap = cap;
    }
    memmove(l->buckets + at + 1, l->buckets + at, (l->count - at) * sizeof *l->buckets);
    l->buckets[at] = (struct td_latency_bucket){bucket, n};
    l->count++;
    return TD_OK;
}

enum td_err td_latencies_merge(struct td_latencies *into, const struct td_latencies *from) {
    enum td_err err = TD_OK;
    for (uint32_t i = 0; err == TD_OK && i < from->count; i++)
        err = latencies_add(into, from->buckets[i].bucket, from->buckets[i].count);
    return err;
}

uint64_t td_latencies_at(const struct td_latencies *l, double q) {
    uint64_t total = 0, seen = 0;
    for (uint32_t i = 0; i < l->count; i++)
        total += l->buckets[i].count;
    for (uint32_t i = 0; i < l->count; i++) {
        seen += l->buckets[i].count;
        if ((double)seen >= q * (double)total)
            return middle_of(l->buckets[i].bucket);
    }
    return 0;
}

static void entry_destroy(struct td_rollup_entry *x) {
    td_free(x->tenant);
    td_free(x->target);
    td_free(x->ttft.buckets);
    td_free(x->duration.buckets);
    td_free(x);
}

void td_rollup_finish(struct td_rollup *r) {
    for (uint32_t i = 0; i < r->slot_count; i++)
        while (r->slots[i]) {
            struct td_rollup_entry *next = r->slots[i]->next;
            entry_destroy(r->slots[i]);
            r->slots[i] = next;
        }
    td_free(r->slots);
    *r = (struct td_rollup){0};
}

static uint64_t hash_of(int64_t hour, struct td_str tenant, struct td_str target) {
    uint64_t h = 1469598103934665603ull ^ (uint64_t)hour;
    for (size_t i = 0; i < tenant.n; i++)
        h = (h ^ (unsigned char)tenant.p[i]) * 1099511628211ull;
    h = (h ^ 0xff) * 1099511628211ull;
    for (size_t i = 0; i < target.n; i++)
        h = (h ^ (unsigned char)target.p[i]) * 1099511628211ull;
    return h;
}

static enum td_err grow(struct td_rollup *r) {
    uint32_t count = r->slot_count ? r->slot_count * 2 : 64;
    struct td_rollup_entry **slots = td_calloc(count, sizeof *slots);
    if (!slots)
        return TD_ERR_NOMEM;
    for (uint32_t i = 0; i < r->slot_count; i++)
        while (r->slots[i]) {
            struct td_rollup_entry *x = r->slots[i];
            r->slots[i] = x->next;
            uint64_t h = hash_of(x->hour, td_str_of(x->tenant), td_str_of(x->target));
            x->next = slots[h & (count - 1)];
            slots[h & (count - 1)] = x;
        }
    td_free(r->slots);
    r->slots = slots;
    r->slot_count = count;
    return TD_OK;
}

static struct td_rollup_entry *find(struct td_rollup *r, int64_t hour, struct td_str tenant, struct td_str target) {
    if (r->entry_count >= r->slot_count && grow(r) != TD_OK)
        return NULL;
    struct td_rollup_entry **slot = &r->slots[hash_of(hour, tenant, target) & (r->slot_count - 1)];
    for (struct td_rollup_entry *x = *slot; x; x = x->next)
        if (x->hour == hour && td_str_is(tenant, x->tenant) && td_str_is(target, x->target))
            return x;
    struct td_rollup_entry *x = td_calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->hour = hour;
    x->tenant = td_strndup(tenant.p, tenant.n);
    x->target = td_strndup(target.p, target.n);
    if (!x->tenant || !x->target) {
        entry_destroy(x);
        return NULL;
    }
    x->next = *slot;
    *slot = x;
    r->entry_count++;
    return x;
}

// The counters of the sums, in the order they are stored.
#define SUMS(X)                                                                                                        \
    X(attempts)                                                                                                        \
    X(ok)                                                                                                              \
    X(failed)                                                                                                          \
    X(delivered)                                                                                                       \
    X(degraded)                                                                                                        \
    X(damaged)                                                                                                         \
    X(prompt_tokens)                                                                                                   \
    X(completion_tokens)                                                                                               \
    X(cached_tokens) X(reasoning_tokens) X(delivered_prompt_tokens) X(delivered_completion_tokens) X(bytes_out)
#define ONE(name) +1
enum { SUM_COUNT = 0 SUMS(ONE) };

static void sums_add(struct td_ledger_stats *into, const struct td_ledger_stats *from) {
#define ADD(name) into->name += from->name;
    SUMS(ADD)
#undef ADD
    into->cost_nusd += from->cost_nusd;
}

static void row_sums(const struct td_ledger_row *row, struct td_ledger_stats *s) {
    bool failed = row->outcome == TD_OUTCOME_FAILED || row->outcome == TD_OUTCOME_CUT;
    *s = (struct td_ledger_stats){.attempts = row->attempt > 0,
                                  .ok = row->outcome == TD_OUTCOME_OK,
                                  .failed = failed,
                                  .delivered = row->delivered,
                                  .degraded = row->degraded,
                                  .damaged = row->damaged,
                                  .prompt_tokens = row->prompt_tokens,
                                  .completion_tokens = row->completion_tokens,
                                  .cached_tokens = row->cached_tokens,
                                  .reasoning_tokens = row->reasoning_tokens,
                                  .delivered_prompt_tokens = row->delivered ? row->prompt_tokens : 0,
                                  .delivered_completion_tokens = row->delivered ? row->completion_tokens : 0,
                                  .bytes_out = row->bytes_out,
                                  .cost_nusd = row->cost_nusd};
}

static int64_t hour_of(int64_t wall_ms) {
    return wall_ms / TD_ROLLUP_HOUR_MS - (wall_ms % TD_ROLLUP_HOUR_MS < 0);
}

enum td_err td_rollup_add(struct td_rollup *r, const struct td_ledger_row *row, bool by_target_only) {
    struct td_ledger_stats sums;
    enum td_err err = TD_OK;
    struct td_rollup_entry *x = by_target_only ? find(r, 0, TD_STR_NONE, row->target)
                                               : find(r, hour_of(row->wall_ms), row->tenant, row->target);
    if (!x) {
        r->incomplete = true;
        return TD_ERR_NOMEM;
    }
    if (row->outcome == TD_OUTCOME_OK && row->ttft_us)
        err = latencies_add(&x->ttft, bucket_of(row->ttft_us), 1);
    if (err == TD_OK && row->outcome == TD_OUTCOME_OK && row->duration_us)
        err = latencies_add(&x->duration, bucket_of(row->duration_us), 1);
    row_sums(row, &sums);
    sums_add(&x->sums, &sums);
    x->tier = row->tier;
    r->rows++;
    r->incomplete |= err != TD_OK;
    return err;
}

bool td_rollup_matches(const struct td_ledger_filter *f, int64_t hour, struct td_str tenant, struct td_str target) {
    return (f->tenant.n == 0 || td_str_eq(f->tenant, tenant)) && (f->target.n == 0 || td_str_eq(f->target, target)) &&
           (f->since_ms == 0 || hour >= hour_of(f->since_ms)) && (f->until_ms == 0 || hour <= hour_of(f->until_ms - 1));
}

static struct td_str bytes_of(const struct td_latencies *l) {
    return td_str_n((const char *)l->buckets, l->count * sizeof *l->buckets);
}

// Stored buckets are this machine's structs; a file moved to a machine of other byte order shows no percentiles.
static enum td_err latencies_read(struct td_str blob, struct td_latencies *l) {
    enum td_err err = TD_OK;
    struct td_latency_bucket b;
    for (size_t i = 0; err == TD_OK && i + sizeof b <= blob.n; i += sizeof b) {
        memcpy(&b, blob.p + i, sizeof b);
        if (b.bucket < 16 + 37 * 16)
            err = latencies_add(l, b.bucket, b.count);
    }
    return err;
}

static void sums_read(struct td_str blob, int64_t cost, struct td_ledger_stats *s) {
    uint64_t v[SUM_COUNT] = {0};
    memcpy(v, blob.p, blob.n < sizeof v ? blob.n : sizeof v);
    unsigned i = 0;
#define GET(name) s->name = v[i++];
    SUMS(GET)
#undef GET
    s->cost_nusd = cost;
}

// Adds the columns (sums, cost_nusd, ttft, duration, tier) from `column` on to an entry.
static enum td_err entry_read(struct td_rollup_entry *x, sqlite3_stmt *s, int column) {
    struct td_ledger_stats sums = {0};
    sums_read(td_db_blob(s, column), sqlite3_column_int64(s, column + 1), &sums);
    sums_add(&x->sums, &sums);
    enum td_err err = latencies_read(td_db_blob(s, column + 2), &x->ttft);
    if (err == TD_OK)
        err = latencies_read(td_db_blob(s, column + 3), &x->duration);
    x->tier = (enum td_tier)sqlite3_column_int(s, column + 4);
    return err;
}

static enum td_err write_entry(const struct td_rollup_entry *add, struct td_db *db, struct td_error *e) {
    enum td_err err = TD_OK;
    struct td_rollup_entry x = {.sums = add->sums, .tier = add->tier};
    sqlite3_stmt *s = td_db_statement(db, "SELECT sums,cost_nusd,ttft,duration,tier FROM usage"
                                          " WHERE hour=?1 AND tenant=?2 AND target=?3");
    if (!s)
        return td_db_fail(db, "reading usage sums", e);
    td_db_bind_int(s, 1, add->hour);
    td_db_bind_str(s, 2, td_str_of(add->tenant));
    td_db_bind_str(s, 3, td_str_of(add->target));
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW)
        err = entry_read(&x, s, 0);
    else if (rc != SQLITE_DONE)
        err = td_db_fail(db, "reading usage sums", e);
    sqlite3_reset(s);
    x.tier = add->tier;
    if (err == TD_OK)
        err = td_latencies_merge(&x.ttft, &add->ttft);
    if (err == TD_OK)
        err = td_latencies_merge(&x.duration, &add->duration);
    if (err == TD_OK) {
        uint64_t v[SUM_COUNT];
        unsigned i = 0;
#define PUT(name) v[i++] = x.sums.name;
        SUMS(PUT)
#undef PUT
        s = td_db_statement(db, "INSERT OR REPLACE INTO usage(hour,tenant,target,tier,sums,ttft,duration,cost_nusd)"
                                " VALUES(?1,?2,?3,?4,?5,?6,?7,?8)");
        if (s) {
            td_db_bind_int(s, 1, add->hour);
            td_db_bind_str(s, 2, td_str_of(add->tenant));
            td_db_bind_str(s, 3, td_str_of(add->target));
            td_db_bind_int(s, 4, x.tier);
            td_db_bind_blob(s, 5, td_str_n((const char *)v, sizeof v));
            td_db_bind_blob(s, 6, bytes_of(&x.ttft));
            td_db_bind_blob(s, 7, bytes_of(&x.duration));
            td_db_bind_int(s, 8, x.sums.cost_nusd);
        }
        err = td_db_done(db, s, "writing usage sums", e);
    }
    td_free(x.ttft.buckets);
    td_free(x.duration.buckets);
    return err;
}

enum td_err td_rollup_write(const struct td_rollup *r, struct td_db *db, struct td_error *e) {
    enum td_err err = TD_OK;
    for (uint32_t i = 0; err == TD_OK && i < r->slot_count; i++)
        for (struct td_rollup_entry *x = r->slots[i]; err == TD_OK && x; x = x->next)
            err = write_entry(x, db, e);
    return err;
}

enum td_err td_rollup_read(struct td_rollup *r, struct td_db *db, const struct td_ledger_filter *f,
                           struct td_error *e) {
    enum td_err err = TD_OK;
    sqlite3_stmt *s = td_db_statement(db, "SELECT hour,tenant,target,sums,cost_nusd,ttft,duration,tier FROM usage"
                                          " WHERE hour BETWEEN ?1 AND ?2");
    if (!s)
        return td_db_fail(db, "reading usage sums", e);
    td_db_bind_int(s, 1, f->since_ms ? hour_of(f->since_ms) : INT64_MIN);
    td_db_bind_int(s, 2, f->until_ms ? hour_of(f->until_ms - 1) : INT64_MAX);
    int rc;
    while (err == TD_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct td_str target = td_db_str(s, 2);
        if (!td_rollup_matches(f, sqlite3_column_int64(s, 0), td_db_str(s, 1), target))
            continue;
        struct td_rollup_entry *x = find(r, 0, TD_STR_NONE, target);
        err = x ? entry_read(x, s, 3) : td_error_set(e, TD_ERR_NOMEM, "while adding up usage");
    }
    if (err == TD_OK && rc != SQLITE_DONE)
        err = td_db_fail(db, "reading usage sums", e);
    sqlite3_reset(s);
    return err;
}
