// SPDX-License-Identifier: Apache-2.0
// What govern/ keeps on disk: tenants, API keys (keyed hashes only) and the money counters behind budgets. Used by
// govern/ alone. Calls that change something wait until it is durable unless they take an ack.
#ifndef TD_STORE_ACCOUNTS_H
#define TD_STORE_ACCOUNTS_H

#include "store/store.h"

struct td_key_record {
    struct td_str id; // "key_…", public
    struct td_str tenant, label;
    unsigned char hash[32];
    int64_t created_ms, expires_ms, revoked_ms; // 0: never
};
typedef bool (*td_key_record_fn)(void *user, const struct td_key_record *key);
enum td_err td_keys_add(struct td_store *store, const struct td_key_record *key, struct td_error *e) TD_MUST_USE;
// TD_ERR_NOT_FOUND. Revoking twice keeps the first time.
enum td_err td_keys_revoke(struct td_store *store, struct td_str id, int64_t wall_ms, struct td_error *e) TD_MUST_USE;
enum td_err td_keys_each(struct td_store *store, td_key_record_fn fn, void *user, struct td_error *e) TD_MUST_USE;

// Money taken from a budget in its current period: spent, or out on a lease. The record is created from what the
// ledger says was spent, never from zero.
struct td_budget_record {
    struct td_str scope; // "tenant:acme/day", "target:cloud/month"
    int64_t period_ms;   // its start, wall clock
    int64_t taken_nusd;
};
typedef bool (*td_budget_record_fn)(void *user, const struct td_budget_record *record);
// TD_ERR_NOT_FOUND: there never was one.
enum td_err td_budgets_get(struct td_store *store, struct td_str scope, struct td_budget_record *out,
                           struct td_error *e) TD_MUST_USE;
// Replaces the record. The ack says that the lease is on disk: only then may it be spent.
enum td_err td_budgets_put(struct td_store *store, const struct td_budget_record *record, const struct td_ack *ack,
                           struct td_error *e) TD_MUST_USE;

#endif
