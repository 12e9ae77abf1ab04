// SPDX-License-Identifier: Apache-2.0
// Who may ask, how often, and for how much: tenants, API keys, rate limits and budgets. The only owner of money
// counters. Any thread; the hot path (identify, admit, reserve, settle, finish) never waits for the disk and holds one
// short lock; it allocates only when it sends for a new lease.
//
// Budgets work by durable leases. A budget's record on disk says how much is *taken*: spent or out on a lease. The
// process takes a lease (a small part of the limit) durably, then spends it in memory: reserve before an attempt with
// the most it can cost, settle with what it did cost. Leases are renewed ahead of need. A crash loses what was left of
// the lease: it under-spends and never over-spends. A clean close gives the rest back. Where no record exists it is
// made from the ledger, and until a record has been read nothing may be spent: a missing counter never means zero.
// Periods are UTC days and months; a clock that jumps back stays in the period already begun.
#ifndef TD_GOVERN_GOVERN_H
#define TD_GOVERN_GOVERN_H

#include "base/limits.h"
#include "store/store.h"

struct td_govern;

#define TD_KEY_TEXT_BYTES 52u // "td_live_" + 43 characters + NUL
#define TD_KEY_ID_BYTES 21u   // "key_" + 16 characters + NUL

// Limits of a tenant, a key or a target; 0 means none.
struct td_govern_limit {
    struct td_str name; // tenant, key id or target; "" for tenants and keys: each that is not named
    uint32_t requests_per_min, tokens_per_min;
    int64_t day_nusd, month_nusd; // tenants and targets
};
struct td_govern_config {
    const struct td_govern_limit *tenants, *keys, *targets;
    uint32_t tenant_count, key_count, target_count;
};

// `store` must outlive it. Reads keys and counters (waits for the disk). TD_ERR_IO, TD_ERR_NOMEM.
enum td_err td_govern_open(struct td_store *store, const struct td_govern_config *config, struct td_govern **out,
                           struct td_error *e) TD_MUST_USE;
// Gives leases back durably, frees. Takes NULL. Open holds are lost to the budget. Before td_store_close.
void td_govern_close(struct td_govern *g);
// New limits; counters and leases of what stays are kept. Whole or not at all. Waits for the disk.
enum td_err td_govern_configure(struct td_govern *g, const struct td_govern_config *config,
                                struct td_error *e) TD_MUST_USE;

// Who asks. A value; valid for ever, checked again at every admission.
struct td_identity {
    uint32_t tenant_slot, key_slot;     // private; key_slot 0: no key
    char tenant[TD_NAME_BYTES_MAX + 1]; // "default" without a key
    char key_id[TD_KEY_ID_BYTES];       // "" without a key
};
// The anonymous identity (allowed on loopback while no key is demanded; the caller decides that).
void td_govern_anonymous(struct td_identity *out);
// Finds the key in constant time. TD_ERR_UNAUTHORIZED: unknown, malformed, expired or revoked (the message tells them
// apart in no way). `wall_ms` decides expiry.
enum td_err td_govern_identify(struct td_govern *g, struct td_str key, int64_t wall_ms, struct td_identity *out,
                               struct td_error *e) TD_MUST_USE;
// Who asked before, for what is asked again on their behalf (the outbox): by the names they had. Whether the key is
// still good td_govern_admit says. TD_ERR_UNAUTHORIZED: there is no such tenant or key any more.
enum td_err td_govern_recall(struct td_govern *g, struct td_str tenant, struct td_str key_id, struct td_identity *out,
                             struct td_error *e) TD_MUST_USE;
// Keys that are neither revoked nor expired.
uint32_t td_govern_key_count(struct td_govern *g, int64_t wall_ms);

// A request that was let in.
struct td_ticket {
    uint32_t tenant, key; // slots; private
    uint32_t tokens;      // counted so far
};
// Takes one request and `tokens` (an estimate of prompt plus answer) from the rate limits of tenant and key. `now_ns`
// monotonic. TD_ERR_RATE with *retry_after_ms; TD_ERR_UNAUTHORIZED: the key was revoked or expired since. Refused
// requests take nothing. Money is no reason here: an empty budget still has answers that cost none.
enum td_err td_govern_admit(struct td_govern *g, const struct td_identity *who, uint32_t tokens, uint64_t now_ns,
                            int64_t wall_ms, struct td_ticket *out, uint32_t *retry_after_ms,
                            struct td_error *e) TD_MUST_USE;
// The request is over; corrects the token limits by what was really used.
void td_govern_finish(struct td_govern *g, const struct td_ticket *ticket, uint32_t tokens, uint64_t now_ns);

// Money put aside for one attempt.
struct td_hold {
    int64_t nusd;
    uint32_t slots[4]; // private
    int64_t periods[4];
    uint32_t slot_count;
};
// Puts aside the most an attempt at `target` can cost, in every budget that binds it. All or nothing. Call it for every
// attempt, free ones too (cheap). TD_ERR_BUDGET: used up. TD_ERR_LEDGER: the store cannot be written, so nothing may be
// spent. TD_ERR_OVERLOAD: the budget has money, but no lease is ready; it is being taken: td_govern_when_ready tells.
enum td_err td_govern_reserve(struct td_govern *g, const struct td_ticket *ticket, struct td_str target, int64_t nusd,
                              int64_t wall_ms, struct td_hold *out, struct td_error *e) TD_MUST_USE;
// What it really cost; 0 where nothing was billed. More than was held is charged all the same. Exactly once per hold.
void td_govern_settle(struct td_govern *g, struct td_hold *hold, int64_t actual_nusd);
// Calls back (once) when leases under way are durable or have failed; then reserve again. TD_ERR_NOMEM.
enum td_err td_govern_when_ready(struct td_govern *g, const struct td_ack *ack) TD_MUST_USE;
// What budgets leave at this target (of any tenant) now; INT64_MAX unlimited, 0 unknown. For the world's snapshot.
int64_t td_govern_target_left(struct td_govern *g, struct td_str target, int64_t wall_ms);
int64_t td_govern_tenant_left(struct td_govern *g, struct td_str tenant, int64_t wall_ms);

// Keys, for operators; these wait for the disk. The key's text is given once and kept nowhere.
enum td_err td_govern_key_create(struct td_govern *g, struct td_str tenant, struct td_str label, int64_t wall_ms,
                                 int64_t expires_ms, char id[TD_KEY_ID_BYTES], char key[TD_KEY_TEXT_BYTES],
                                 struct td_error *e) TD_MUST_USE;
enum td_err td_govern_key_revoke(struct td_govern *g, struct td_str id, int64_t wall_ms,
                                 struct td_error *e) TD_MUST_USE;
struct td_key_info {
    const char *id, *tenant, *label;
    int64_t created_ms, expires_ms, revoked_ms; // 0: never
};
enum td_err td_govern_key_list(struct td_govern *g, bool (*fn)(void *user, const struct td_key_info *key), void *user,
                               struct td_error *e) TD_MUST_USE;

#endif
