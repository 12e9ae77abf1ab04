// SPDX-License-Identifier: Apache-2.0
// The governor from inside. Tenants, keys, targets and budgets live in arrays that only grow, so a slot number stays
// good for ever; one lock guards them all and is never held over a disk access. Changes by operators are serialised by
// a second lock, taken first.
#ifndef TD_GOVERN_INNER_H
#define TD_GOVERN_INNER_H

#include <pthread.h>

#include "base/mem.h"
#include "govern/govern.h"
#include "govern/rate.h"

#define TD_GOVERN_SLOTS_MAX 65536u // tenants, keys or budgets; beyond it the operator should use several Tandems
#define TD_GOVERN_NO_SLOT UINT32_MAX

// Name → slot, open addressing; names are owned by the slots.
struct td_names {
    struct td_name {
        const char *name;
        uint32_t slot;
    } * entries;
    uint32_t cap, count;
};

enum td_period { TD_PERIOD_DAY, TD_PERIOD_MONTH, TD_PERIOD_COUNT };

// left: what the process may still spend of what it took; may be negative when an attempt cost more than was held.
// limit - taken + left is what the budget really has.
struct td_budget {
    struct td_govern *owner;
    char *scope;
    enum td_period period;
    int64_t limit; // nano-dollars; 0: switched off
    int64_t start_ms, end_ms;
    int64_t taken; // as on disk
    int64_t left;
    bool in_flight; // a lease is on its way to the disk
    int64_t sent_taken, sent_start_ms;
};

// The configured limits, copied. Looked up by name when a tenant, key or target appears.
struct td_limits {
    struct td_arena arena;
    struct td_govern_limit *tenants, *keys, *targets;
    uint32_t tenant_count, key_count, target_count;
};

struct td_subject { // tenant or target
    char *name;
    uint32_t budgets[TD_PERIOD_COUNT];
    struct td_rate rate;
};

struct td_key {
    char id[TD_KEY_ID_BYTES];
    unsigned char hash[32];
    uint32_t tenant;
    int64_t expires_ms, revoked_ms;
    struct td_rate rate;
};

struct td_waiter {
    struct td_waiter *next;
    struct td_ack ack;
    enum td_err err;
};

struct td_govern {
    struct td_store *store;
    unsigned char hash_key[32];
    pthread_mutex_t admin; // operators, one at a time; before `lock`
    pthread_mutex_t lock;  // everything below
    pthread_cond_t idle;
    struct td_subject *tenants, *targets;
    struct td_key *keys; // slot 0 is nobody
    struct td_budget **budgets;
    uint32_t tenant_count, target_count, key_count, budget_count;
    struct td_names tenant_names, target_names, budget_names;
    uint32_t *key_table; // slots by hash, 0 empty
    uint32_t key_table_cap;
    uint32_t live_keys; // neither revoked nor expired, while the clock is between:
    int64_t live_from_ms, live_until_ms;
    struct td_waiter *waiters;
    uint32_t in_flight;
    struct td_limits *limits; // as configured
};

// names.c
uint32_t td_names_find(const struct td_names *n, struct td_str name);
enum td_err td_names_add(struct td_names *n, const char *name, uint32_t slot) TD_MUST_USE;

// budget.c
int64_t td_period_start(enum td_period period, int64_t wall_ms);
int64_t td_period_end(enum td_period period, int64_t wall_ms);
// Finds or makes the budget and reads its record; waits for the disk; `admin` held. `kind` "tenant" or "target".
enum td_err td_budget_open(struct td_govern *g, const char *kind, const char *name, enum td_period period,
                           uint32_t *slot, struct td_error *e) TD_MUST_USE;
// Takes the first lease of a budget that has none; waits for the disk; `admin` held.
enum td_err td_budget_first_lease(struct td_govern *g, uint32_t slot, struct td_error *e) TD_MUST_USE;
// What the budget has, leased or not, after moving to the period of `wall_ms`; `lock` held.
int64_t td_budget_has(struct td_budget *b, int64_t wall_ms);
void td_budgets_give_back(struct td_govern *g);

// keys.c
enum td_err td_keys_load(struct td_govern *g, struct td_error *e) TD_MUST_USE;

// govern.c: finds or makes a tenant with the limits for it; waits for the disk; `admin` held.
enum td_err td_tenant_open(struct td_govern *g, struct td_str name, uint32_t *slot, struct td_error *e) TD_MUST_USE;

#endif
