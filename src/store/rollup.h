// SPDX-License-Identifier: Apache-2.0
// Sums over ledger rows by hour, tenant and target, with histograms of latencies (16 buckets an octave: 6 % wide, so a
// percentile is off by at most about 3 %). The writer adds each committed row and writes the sums out now and then,
// together with the number of the last row they cover; a query adds up the written sums and the few rows behind them.
// One thread at a time.
#ifndef TD_STORE_ROLLUP_H
#define TD_STORE_ROLLUP_H

#include "store/db.h"
#include "store/ledger.h"

#define TD_ROLLUP_HOUR_MS 3600000

struct td_latencies { // sparse, sorted by bucket
    struct td_latency_bucket {
        uint32_t bucket;
        uint32_t count;
    } * buckets;
    uint32_t count, cap;
};

struct td_rollup_entry {
    struct td_rollup_entry *next; // in its hash slot
    int64_t hour;
    char *tenant, *target;
    enum td_tier tier;
    struct td_ledger_stats sums; // percentiles unused
    struct td_latencies ttft, duration;
};

struct td_rollup {
    struct td_rollup_entry **slots;
    uint32_t slot_count, entry_count;
    uint64_t rows;   // added since it was cleared
    bool incomplete; // memory ran out: must be read again from the table
};

void td_rollup_finish(struct td_rollup *r); // empties
// hour, tenant: of the row, unless `by_target_only`.
enum td_err td_rollup_add(struct td_rollup *r, const struct td_ledger_row *row, bool by_target_only) TD_MUST_USE;
// Adds to the table `usage` what this rollup holds.
enum td_err td_rollup_write(const struct td_rollup *r, struct td_db *db, struct td_error *e) TD_MUST_USE;
// Adds what the table holds for these hours, by target only.
enum td_err td_rollup_read(struct td_rollup *r, struct td_db *db, const struct td_ledger_filter *filter,
                           struct td_error *e) TD_MUST_USE;
bool td_rollup_matches(const struct td_ledger_filter *filter, int64_t hour, struct td_str tenant, struct td_str target);
// Value at the share `q` (0..1), microseconds; 0 where there are none.
uint64_t td_latencies_at(const struct td_latencies *l, double q);
enum td_err td_latencies_merge(struct td_latencies *into, const struct td_latencies *from) TD_MUST_USE;

#endif
