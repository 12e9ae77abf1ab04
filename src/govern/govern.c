// SPDX-License-Identifier: Apache-2.0
#include "govern/govern.h"

#include <stdio.h>

#include "govern/inner.h"

// ---- limits

static enum td_err copy_limits(struct td_arena *arena, const struct td_govern_limit *from, uint32_t count,
                               struct td_govern_limit **out) {
    *out = td_arena_array(arena, count ? count : 1, sizeof **out);
    if (!*out)
        return TD_ERR_NOMEM;
    for (uint32_t i = 0; i < count; i++) {
        (*out)[i] = from[i];
        (*out)[i].name = td_arena_str(arena, from[i].name);
        if (!(*out)[i].name.p)
            return TD_ERR_NOMEM;
    }
    return TD_OK;
}

static void limits_destroy(struct td_limits *l) {
    if (!l)
        return;
    td_arena_finish(&l->arena);
    td_free(l);
}

static struct td_limits *limits_create(const struct td_govern_config *c) {
    struct td_limits *l = td_calloc(1, sizeof *l);
    if (!l)
        return NULL;
    td_arena_init(&l->arena, 32u << 20);
    l->tenant_count = c->tenant_count;
    l->key_count = c->key_count;
    l->target_count = c->target_count;
    if (copy_limits(&l->arena, c->tenants, c->tenant_count, &l->tenants) == TD_OK &&
        copy_limits(&l->arena, c->keys, c->key_count, &l->keys) == TD_OK &&
        copy_limits(&l->arena, c->targets, c->target_count, &l->targets) == TD_OK)
        return l;
    limits_destroy(l);
    return NULL;
}

// The limit named so, else the one for all others, else none.
static struct td_govern_limit limit_for(const struct td_govern_limit *limits, uint32_t count, struct td_str name) {
    struct td_govern_limit found = {0};
    for (uint32_t i = 0; i < count; i++) {
        if (td_str_eq(limits[i].name, name))
            return limits[i];
        if (limits[i].name.n == 0)
            found = limits[i];
    }
    return found;
}

static void set_rate(struct td_rate *rate, const struct td_govern_limit *limit) {
    rate->requests.per_min = limit->requests_per_min;
    rate->tokens.per_min = limit->tokens_per_min;
}

// ---- tenants and targets

// Gives a subject the budgets it needs and sets their limits. Waits for the disk; `admin` held. Slots in *subject
// change under `lock` only.
static enum td_err set_budgets(struct td_govern *g, const char *kind, struct td_subject **subjects, uint32_t at,
                               const struct td_govern_limit *limit, struct td_error *e) {
    const int64_t nusd[TD_PERIOD_COUNT] = {limit->day_nusd, limit->month_nusd};
    enum td_err err = TD_OK;
    for (int p = 0; err == TD_OK && p < TD_PERIOD_COUNT; p++) {
        uint32_t slot = (*subjects)[at].budgets[p];
        if (slot == TD_GOVERN_NO_SLOT && nusd[p] <= 0)
            continue;
        if (slot == TD_GOVERN_NO_SLOT)
            err = td_budget_open(g, kind, (*subjects)[at].name, (enum td_period)p, &slot, e);
        if (err != TD_OK)
            break;
        pthread_mutex_lock(&g->lock);
        g->budgets[slot]->limit = nusd[p] > 0 ? nusd[p] : 0;
        (*subjects)[at].budgets[p] = slot;
        pthread_mutex_unlock(&g->lock);
        err = td_budget_first_lease(g, slot, e);
    }
    return err;
}

static enum td_err add_subject(struct td_govern *g, struct td_subject **subjects, uint32_t *count,
                               struct td_names *names, struct td_str name, uint32_t *slot) {
    char *copy = *count < TD_GOVERN_SLOTS_MAX ? td_strndup(name.p ? name.p : "", name.n) : NULL;
    if (!copy)
        return TD_ERR_NOMEM;
    pthread_mutex_lock(&g->lock);
    struct td_subject *grown = td_realloc(*subjects, (*count + 1) * sizeof *grown);
    if (grown)
        *subjects = grown;
    enum td_err err = grown ? td_names_add(names, copy, *count) : TD_ERR_NOMEM;
    if (err == TD_OK) {
        *slot = *count;
        grown[(*count)++] = (struct td_subject){.name = copy, .budgets = {TD_GOVERN_NO_SLOT, TD_GOVERN_NO_SLOT}};
    }
    pthread_mutex_unlock(&g->lock);
    if (err != TD_OK)
        td_free(copy);
    return err;
}

enum td_err td_tenant_open(struct td_govern *g, struct td_str name, uint32_t *slot, struct td_error *e) {
    enum td_err err = TD_OK;
    *slot = td_names_find(&g->tenant_names, name);
    if (*slot != TD_GOVERN_NO_SLOT)
        return TD_OK;
    err = add_subject(g, &g->tenants, &g->tenant_count, &g->tenant_names, name, slot);
    if (err != TD_OK)
        return td_error_set(e, err, "while adding a tenant");
    struct td_govern_limit limit = limit_for(g->limits->tenants, g->limits->tenant_count, name);
    pthread_mutex_lock(&g->lock);
    set_rate(&g->tenants[*slot].rate, &limit);
    pthread_mutex_unlock(&g->lock);
    return set_budgets(g, "tenant", &g->tenants, *slot, &limit, e);
}

static enum td_err target_open(struct td_govern *g, struct td_str name, struct td_error *e) {
    uint32_t slot = td_names_find(&g->target_names, name);
    if (slot != TD_GOVERN_NO_SLOT)
        return TD_OK;
    enum td_err err = add_subject(g, &g->targets, &g->target_count, &g->target_names, name, &slot);
    return err == TD_OK ? TD_OK : td_error_set(e, err, "while adding a target's budget");
}

// Makes what the limits name; then each tenant, key and target gets its limits.
static enum td_err apply_limits(struct td_govern *g, struct td_error *e) {
    const struct td_limits *l = g->limits;
    enum td_err err = TD_OK;
    uint32_t slot;
    for (uint32_t i = 0; err == TD_OK && i < l->tenant_count; i++)
        if (l->tenants[i].name.n)
            err = td_tenant_open(g, l->tenants[i].name, &slot, e);
    for (uint32_t i = 0; err == TD_OK && i < l->target_count; i++)
        if (l->targets[i].name.n)
            err = target_open(g, l->targets[i].name, e);
    for (uint32_t i = 0; err == TD_OK && i < g->tenant_count; i++) {
        struct td_govern_limit limit = limit_for(l->tenants, l->tenant_count, td_str_of(g->tenants[i].name));
        pthread_mutex_lock(&g->lock);
        set_rate(&g->tenants[i].rate, &limit);
        pthread_mutex_unlock(&g->lock);
        err = set_budgets(g, "tenant", &g->tenants, i, &limit, e);
    }
    for (uint32_t i = 0; err == TD_OK && i < g->target_count; i++) {
        struct td_govern_limit limit = limit_for(l->targets, l->target_count, td_str_of(g->targets[i].name));
        err = set_budgets(g, "target", &g->targets, i, &limit, e);
    }
    pthread_mutex_lock(&g->lock);
    for (uint32_t i = 1; err == TD_OK && i < g->key_count; i++) {
        struct td_govern_limit limit = limit_for(l->keys, l->key_count, td_str_of(g->keys[i].id));
        set_rate(&g->keys[i].rate, &limit);
    }
    pthread_mutex_unlock(&g->lock);
    return err;
}

enum td_err td_govern_configure(struct td_govern *g, const struct td_govern_config *config, struct td_error *e) {
    struct td_limits *before, *next = limits_create(config);
    if (!next)
        return td_error_set(e, TD_ERR_NOMEM, "while taking in limits");
    pthread_mutex_lock(&g->admin);
    before = g->limits;
    g->limits = next;
    enum td_err err = apply_limits(g, e);
    if (err != TD_OK) {
        // The old limits again. This needs nothing that does not exist already.
        g->limits = before;
        (void)!apply_limits(g, NULL);
        before = next;
    }
    limits_destroy(before);
    pthread_mutex_unlock(&g->admin);
    return err;
}

// ---- open and close

enum td_err td_govern_open(struct td_store *store, const struct td_govern_config *config, struct td_govern **out,
                           struct td_error *e) {
    static const struct td_govern_config none;
    uint32_t slot;
    struct td_govern *g = td_calloc(1, sizeof *g);
    if (!g)
        return td_error_set(e, TD_ERR_NOMEM, "while opening the governor");
    g->store = store;
    pthread_mutex_init(&g->admin, NULL);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->idle, NULL);
    td_store_secret(store, TD_SECRET_API_KEYS, g->hash_key);
    g->limits = limits_create(config ? config : &none);
    enum td_err err = g->limits ? TD_OK : td_error_set(e, TD_ERR_NOMEM, "while taking in limits");
    if (err == TD_OK)
        err = td_tenant_open(g, TD_STR("default"), &slot, e); // slot 0: the anonymous one
    if (err == TD_OK)
        err = td_keys_load(g, e);
    if (err == TD_OK)
        err = apply_limits(g, e);
    if (err == TD_OK)
        *out = g;
    else
        td_govern_close(g);
    return err;
}

void td_govern_close(struct td_govern *g) {
    if (!g)
        return;
    td_budgets_give_back(g);
    for (uint32_t i = 0; i < g->tenant_count; i++)
        td_free(g->tenants[i].name);
    for (uint32_t i = 0; i < g->target_count; i++)
        td_free(g->targets[i].name);
    for (uint32_t i = 0; i < g->budget_count; i++) {
        td_free(g->budgets[i]->scope);
        td_free(g->budgets[i]);
    }
    td_free(g->tenants);
    td_free(g->targets);
    td_free(g->budgets);
    td_free(g->keys);
    td_free(g->key_table);
    td_free(g->tenant_names.entries);
    td_free(g->target_names.entries);
    td_free(g->budget_names.entries);
    limits_destroy(g->limits);
    explicit_bzero(g->hash_key, sizeof g->hash_key);
    pthread_mutex_destroy(&g->admin);
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->idle);
    td_free(g);
}

// ---- admission

static uint32_t to_ms(uint64_t ns) {
    uint64_t ms = (ns + 999999) / 1000000;
    return ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

enum td_err td_govern_admit(struct td_govern *g, const struct td_identity *who, uint32_t tokens, uint64_t now_ns,
                            int64_t wall_ms, struct td_ticket *out, uint32_t *retry_after_ms, struct td_error *e) {
    enum td_err err = TD_OK;
    uint64_t wait = 0, w;
    *retry_after_ms = 0;
    pthread_mutex_lock(&g->lock);
    struct td_rate *rates[2] = {&g->tenants[who->tenant_slot].rate,
                                who->key_slot ? &g->keys[who->key_slot].rate : NULL};
    const struct td_key *key = who->key_slot ? &g->keys[who->key_slot] : NULL;
    if (key && (key->revoked_ms || (key->expires_ms && wall_ms >= key->expires_ms)))
        err = td_error_set(e, TD_ERR_UNAUTHORIZED, "the API key is not valid");
    for (int i = 0; err == TD_OK && i < 2 && rates[i]; i++) {
        if ((w = td_bucket_wait_ns(&rates[i]->requests, 1, now_ns)) > wait)
            wait = w;
        if ((w = td_bucket_wait_ns(&rates[i]->tokens, tokens, now_ns)) > wait)
            wait = w;
    }
    if (err == TD_OK && wait > 0) {
        *retry_after_ms = to_ms(wait);
        err = td_error_set(e, TD_ERR_RATE, "the rate limit is used up; try again in %u ms", *retry_after_ms);
    }
    for (int i = 0; err == TD_OK && i < 2 && rates[i]; i++) {
        td_bucket_take(&rates[i]->requests, 1, now_ns);
        td_bucket_take(&rates[i]->tokens, tokens, now_ns);
    }
    pthread_mutex_unlock(&g->lock);
    if (err == TD_OK)
        *out = (struct td_ticket){who->tenant_slot, who->key_slot, tokens};
    return err;
}

void td_govern_finish(struct td_govern *g, const struct td_ticket *ticket, uint32_t tokens, uint64_t now_ns) {
    int64_t more = (int64_t)tokens - ticket->tokens;
    if (more == 0)
        return;
    pthread_mutex_lock(&g->lock);
    td_bucket_take(&g->tenants[ticket->tenant].rate.tokens, more, now_ns);
    if (ticket->key)
        td_bucket_take(&g->keys[ticket->key].rate.tokens, more, now_ns);
    pthread_mutex_unlock(&g->lock);
}
