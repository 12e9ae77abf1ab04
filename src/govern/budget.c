// SPDX-License-Identifier: Apache-2.0
// Invariants: money is spent only out of `left`; `left` grows only by what a record on disk already counts as taken;
// so at any instant, taken on disk >= what was spent + what may still be spent. A period only moves forward.
#include <stdio.h>
#include <time.h>

#include "base/log.h"
#include "base/time.h"
#include "govern/inner.h"
#include "loop/loop.h"
#include "store/accounts.h"
#include "store/ledger.h"

#define DAY_MS 86400000ll
#define FLUSH_MS 5000
#define LEASE_PARTS 50 // a lease is a fiftieth of the limit: what one crash can lose

// Days since 1970-01-01 of the first of the month `ahead` months after that of `day` (proleptic Gregorian calendar).
static int64_t month_start(int64_t day, int ahead) {
    int64_t z = day + 719468, era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t doe = z - era * 146097, yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153; // March is 0
    int64_t months = (yoe + era * 400) * 12 + mp + ahead, y, m;
    y = (months >= 0 ? months : months - 11) / 12;
    m = months - y * 12;
    era = (y >= 0 ? y : y - 399) / 400;
    yoe = y - era * 400;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + (153 * m + 2) / 5 - 719468;
}

static int64_t day_of(int64_t wall_ms) {
    return wall_ms / DAY_MS - (wall_ms % DAY_MS < 0);
}

int64_t td_period_start(enum td_period period, int64_t wall_ms) {
    int64_t day = day_of(wall_ms);
    return (period == TD_PERIOD_DAY ? day : month_start(day, 0)) * DAY_MS;
}

int64_t td_period_end(enum td_period period, int64_t wall_ms) {
    int64_t day = day_of(wall_ms);
    return (period == TD_PERIOD_DAY ? day + 1 : month_start(day, 1)) * DAY_MS;
}

static void set_period(struct td_budget *b, int64_t wall_ms) {
    b->start_ms = td_period_start(b->period, wall_ms);
    b->end_ms = td_period_end(b->period, wall_ms);
}

// What the ledger knows of this scope in the period, for a budget without a record, or a record of an older period.
static enum td_err spent_by_ledger(struct td_govern *g, const char *kind, const char *name, int64_t since_ms,
                                   int64_t *nusd, struct td_error *e) {
    bool tenant = strcmp(kind, "tenant") == 0;
    return td_ledger_spent(g->store, tenant ? td_str_of(name) : TD_STR_NONE, tenant ? TD_STR_NONE : td_str_of(name),
                           since_ms, nusd, e);
}

static enum td_err read_record(struct td_govern *g, struct td_budget *b, const char *kind, const char *name,
                               struct td_error *e) {
    struct td_budget_record record = {0};
    struct td_error why = {0};
    set_period(b, td_wall_ms());
    enum td_err err = td_budgets_get(g->store, td_str_of(b->scope), &record, &why);
    if (err == TD_OK && record.period_ms >= b->start_ms) {
        // Also when the clock went back: the later period goes on.
        set_period(b, record.period_ms);
        b->taken = record.taken_nusd;
        return TD_OK;
    }
    if (err != TD_OK && err != TD_ERR_NOT_FOUND) {
        if (e)
            *e = why;
        return err;
    }
    if (td_store_flush(g->store, FLUSH_MS) != TD_OK)
        return td_error_set(e, TD_ERR_LEDGER, "while reading what was spent: the ledger cannot be written");
    return spent_by_ledger(g, kind, name, b->start_ms, &b->taken, e);
}

enum td_err td_budget_open(struct td_govern *g, const char *kind, const char *name, enum td_period period,
                           uint32_t *slot, struct td_error *e) {
    char scope[TD_NAME_BYTES_MAX + 32];
    snprintf(scope, sizeof scope, "%s:%.*s/%s", kind, (int)TD_NAME_BYTES_MAX, name,
             period == TD_PERIOD_DAY ? "day" : "month");
    *slot = td_names_find(&g->budget_names, td_str_of(scope));
    if (*slot != TD_GOVERN_NO_SLOT)
        return TD_OK;
    struct td_budget *b = td_calloc(1, sizeof *b);
    enum td_err err = TD_ERR_NOMEM;
    if (!b || !(b->scope = td_strdup(scope)))
        goto out;
    b->owner = g;
    b->period = period;
    err = read_record(g, b, kind, name, e);
    if (err != TD_OK)
        goto out;
    pthread_mutex_lock(&g->lock);
    struct td_budget **grown =
        g->budget_count < TD_GOVERN_SLOTS_MAX ? td_realloc(g->budgets, (g->budget_count + 1) * sizeof *grown) : NULL;
    err = grown ? td_names_add(&g->budget_names, b->scope, g->budget_count) : TD_ERR_NOMEM;
    if (grown)
        g->budgets = grown;
    if (err == TD_OK) {
        *slot = g->budget_count;
        g->budgets[g->budget_count++] = b;
    }
    pthread_mutex_unlock(&g->lock);
out:
    if (err == TD_ERR_NOMEM)
        td_error_set(e, err, "while opening a budget");
    if (err != TD_OK && b) {
        td_free(b->scope);
        td_free(b);
    }
    return err;
}

// The lease to send for, so that `need` can be spent: 0 where the budget has not so much. A debt (an attempt that cost
// more than was held) is always written down, even beyond the limit.
static int64_t lease_for(const struct td_budget *b, int64_t need) {
    int64_t part = b->limit / LEASE_PARTS, rest = b->limit - b->taken, short_of = need - b->left;
    int64_t amount = part > short_of ? part : short_of;
    if (amount > rest)
        amount = rest;
    if (amount < short_of)
        amount = need == 0 ? short_of : 0;
    return amount > 0 ? amount : 0;
}

enum td_err td_budget_first_lease(struct td_govern *g, uint32_t slot, struct td_error *e) {
    pthread_mutex_lock(&g->lock);
    struct td_budget *b = g->budgets[slot];
    int64_t amount = b->limit > 0 && b->left <= 0 && !b->in_flight ? lease_for(b, 0) : 0;
    struct td_budget_record record = {td_str_of(b->scope), b->start_ms, b->taken + amount};
    b->in_flight |= amount > 0;
    g->in_flight += amount > 0;
    pthread_mutex_unlock(&g->lock);
    if (amount == 0)
        return TD_OK;
    enum td_err err = td_budgets_put(g->store, &record, NULL, e);
    pthread_mutex_lock(&g->lock);
    b->in_flight = false;
    g->in_flight--;
    if (err == TD_OK && b->start_ms == record.period_ms) {
        b->taken = record.taken_nusd;
        b->left += amount;
    }
    pthread_mutex_unlock(&g->lock);
    return err;
}

static void tell(void *arg) {
    struct td_waiter *w = arg;
    w->ack.fn(w->ack.arg, w->err);
    td_free(w);
}

// On the store's writer thread. Without memory for a post it waits for some: the callback belongs to the loop's thread
// and nowhere else.
static void tell_all(struct td_waiter *w, enum td_err err) {
    while (w) {
        struct td_waiter *next = w->next;
        w->err = err;
        if (!w->ack.loop)
            tell(w);
        else
            while (td_loop_post(w->ack.loop, tell, w) != TD_OK)
                nanosleep(&(struct timespec){0, 1000000}, NULL);
        w = next;
    }
}

// On the store's writer thread.
static void on_lease(void *arg, enum td_err err) {
    struct td_budget *b = arg;
    struct td_govern *g = b->owner;
    pthread_mutex_lock(&g->lock);
    b->in_flight = false;
    if (err == TD_OK && b->start_ms == b->sent_start_ms) {
        b->left += b->sent_taken - b->taken;
        b->taken = b->sent_taken;
    }
    struct td_waiter *waiters = g->waiters;
    g->waiters = NULL;
    if (--g->in_flight == 0)
        pthread_cond_broadcast(&g->idle);
    pthread_mutex_unlock(&g->lock);
    tell_all(waiters, err);
}

// With the lock held. False when it could not be sent.
static bool send_for_lease(struct td_govern *g, struct td_budget *b, int64_t need) {
    int64_t amount = lease_for(b, need);
    if (b->in_flight || amount == 0)
        return b->in_flight;
    b->sent_taken = b->taken + amount;
    b->sent_start_ms = b->start_ms;
    struct td_budget_record record = {td_str_of(b->scope), b->start_ms, b->sent_taken};
    struct td_ack ack = {NULL, on_lease, b};
    b->in_flight = true;
    g->in_flight++;
    if (td_budgets_put(g->store, &record, &ack, NULL) == TD_OK)
        return true;
    b->in_flight = false;
    g->in_flight--;
    return false;
}

// A new period begins with nothing taken; what was left of the old lease ends with it.
static void roll(struct td_budget *b, int64_t wall_ms) {
    if (wall_ms < b->end_ms)
        return;
    set_period(b, wall_ms);
    b->taken = b->left = 0;
}

int64_t td_budget_has(struct td_budget *b, int64_t wall_ms) {
    roll(b, wall_ms);
    int64_t has = b->limit - b->taken + b->left;
    return has > 0 ? has : 0;
}

static uint32_t slots_of(struct td_govern *g, const struct td_ticket *ticket, struct td_str target, uint32_t slots[4]) {
    uint32_t n = 0, t = td_names_find(&g->target_names, target);
    const struct td_subject *both[] = {&g->tenants[ticket->tenant], t == TD_GOVERN_NO_SLOT ? NULL : &g->targets[t]};
    for (int i = 0; i < 2; i++)
        for (int p = 0; both[i] && p < TD_PERIOD_COUNT; p++) {
            uint32_t slot = both[i]->budgets[p];
            if (slot != TD_GOVERN_NO_SLOT && g->budgets[slot]->limit > 0)
                slots[n++] = slot;
        }
    return n;
}

// Whether `nusd` can be taken from this budget now; else why not. With the lock held.
static enum td_err can_take(struct td_govern *g, struct td_budget *b, int64_t nusd, int64_t wall_ms,
                            struct td_error *e) {
    int64_t has = td_budget_has(b, wall_ms);
    if (b->left >= nusd)
        return TD_OK;
    if (has < nusd)
        return td_error_set(e, TD_ERR_BUDGET, "the budget %s is used up", b->scope);
    if (!td_store_writable(g->store) || !send_for_lease(g, b, nusd))
        return td_error_set(e, TD_ERR_LEDGER, "no money can be set aside: the store cannot be written");
    return td_error_set(e, TD_ERR_OVERLOAD, "money is being set aside; try again");
}

enum td_err td_govern_reserve(struct td_govern *g, const struct td_ticket *ticket, struct td_str target, int64_t nusd,
                              int64_t wall_ms, struct td_hold *out, struct td_error *e) {
    struct td_hold hold = {.nusd = nusd};
    enum td_err err = TD_OK;
    if (nusd < 0)
        return td_error_set(e, TD_ERR_USAGE, "a negative amount cannot be set aside");
    pthread_mutex_lock(&g->lock);
    hold.slot_count = slots_of(g, ticket, target, hold.slots);
    for (uint32_t i = 0; nusd > 0 && i < hold.slot_count; i++) {
        enum td_err one = can_take(g, g->budgets[hold.slots[i]], nusd, wall_ms, err == TD_OK ? e : NULL);
        if (one != TD_OK && err == TD_OK)
            err = one; // go on all the same: all leases that are needed are sent for at once
        if (one == TD_ERR_BUDGET)
            break;
    }
    for (uint32_t i = 0; err == TD_OK && i < hold.slot_count; i++) {
        struct td_budget *b = g->budgets[hold.slots[i]];
        roll(b, wall_ms);
        b->left -= nusd;
        hold.periods[i] = b->start_ms;
        if (b->left < b->limit / LEASE_PARTS / 2)
            (void)send_for_lease(g, b, 0); // ahead of need
    }
    pthread_mutex_unlock(&g->lock);
    if (err == TD_OK)
        *out = hold;
    return err;
}

void td_govern_settle(struct td_govern *g, struct td_hold *hold, int64_t actual_nusd) {
    if (actual_nusd < 0)
        actual_nusd = 0;
    pthread_mutex_lock(&g->lock);
    for (uint32_t i = 0; i < hold->slot_count; i++) {
        struct td_budget *b = g->budgets[hold->slots[i]];
        int64_t back = hold->nusd - actual_nusd;
        // A hold of a past period gives nothing back to this one, but what it cost too much is paid.
        if (b->start_ms == hold->periods[i] || back < 0)
            b->left += back;
        if (b->left < 0)
            (void)send_for_lease(g, b, 0);
    }
    hold->slot_count = 0;
    pthread_mutex_unlock(&g->lock);
}

enum td_err td_govern_when_ready(struct td_govern *g, const struct td_ack *ack) {
    struct td_waiter *w = td_malloc(sizeof *w);
    if (!w)
        return TD_ERR_NOMEM;
    *w = (struct td_waiter){NULL, *ack, TD_OK};
    pthread_mutex_lock(&g->lock);
    bool under_way = g->in_flight > 0;
    if (under_way) {
        w->next = g->waiters;
        g->waiters = w;
    }
    pthread_mutex_unlock(&g->lock);
    if (under_way)
        return TD_OK;
    // It came in between.
    if (!ack->loop) {
        tell(w);
    } else if (td_loop_post(ack->loop, tell, w) != TD_OK) {
        td_free(w);
        return TD_ERR_NOMEM;
    }
    return TD_OK;
}

static int64_t left_of(struct td_govern *g, const struct td_names *names, const struct td_subject *subjects,
                       struct td_str name, int64_t wall_ms) {
    int64_t least = INT64_MAX;
    uint32_t slot = td_names_find(names, name);
    for (int p = 0; slot != TD_GOVERN_NO_SLOT && p < TD_PERIOD_COUNT; p++) {
        uint32_t at = subjects[slot].budgets[p];
        struct td_budget *b = at == TD_GOVERN_NO_SLOT ? NULL : g->budgets[at];
        if (!b || b->limit == 0)
            continue;
        int64_t has = td_budget_has(b, wall_ms);
        if (has < least)
            least = has;
    }
    return least;
}

int64_t td_govern_target_left(struct td_govern *g, struct td_str target, int64_t wall_ms) {
    pthread_mutex_lock(&g->lock);
    int64_t left = left_of(g, &g->target_names, g->targets, target, wall_ms);
    pthread_mutex_unlock(&g->lock);
    return left;
}

int64_t td_govern_tenant_left(struct td_govern *g, struct td_str tenant, int64_t wall_ms) {
    pthread_mutex_lock(&g->lock);
    int64_t left = left_of(g, &g->tenant_names, g->tenants, tenant, wall_ms);
    pthread_mutex_unlock(&g->lock);
    return left;
}

// At the end: nothing is in flight any more and nobody spends.
void td_budgets_give_back(struct td_govern *g) {
    pthread_mutex_lock(&g->lock);
    while (g->in_flight > 0)
        pthread_cond_wait(&g->idle, &g->lock);
    pthread_mutex_unlock(&g->lock);
    for (uint32_t i = 0; i < g->budget_count; i++) {
        struct td_budget *b = g->budgets[i];
        struct td_budget_record record = {td_str_of(b->scope), b->start_ms, b->taken - b->left};
        if (b->left == 0)
            continue;
        if (td_budgets_put(g->store, &record, NULL, NULL) != TD_OK)
            td_log(TD_LOG_WARN, "govern", NULL, "while=close lease_kept=true"); // under-spends, never over-spends
    }
}
