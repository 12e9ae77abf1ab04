// SPDX-License-Identifier: Apache-2.0
// API keys: "td_live_" and 256 random bits in base64url. Only a keyed BLAKE2b of the whole text is kept (key: this data
// directory's secret), so neither the file nor a timing of the look-up tells anything about a key.
#include <sodium.h>
#include <stdio.h>

#include "base/time.h"
#include "govern/inner.h"
#include "store/accounts.h"

#define PREFIX "td_live_"
#define SECRET_CHARS 43u // 32 bytes in base64url without padding
_Static_assert(sizeof PREFIX - 1 + SECRET_CHARS + 1 == TD_KEY_TEXT_BYTES, "a key's text fits its buffer exactly");

void td_govern_anonymous(struct td_identity *out) {
    *out = (struct td_identity){.tenant = "default"};
}

static bool is_live(const struct td_key *k, int64_t wall_ms) {
    return k->revoked_ms == 0 && (k->expires_ms == 0 || wall_ms < k->expires_ms);
}

static uint64_t table_hash(const unsigned char hash[32]) {
    uint64_t h;
    memcpy(&h, hash, sizeof h);
    return h;
}

static void table_put(uint32_t *table, uint32_t cap, const unsigned char hash[32], uint32_t slot) {
    uint32_t at = (uint32_t)table_hash(hash) & (cap - 1);
    while (table[at])
        at = (at + 1) & (cap - 1);
    table[at] = slot;
}

// With the lock held.
static enum td_err add_key(struct td_govern *g, const struct td_key *key) {
    uint32_t count = g->key_count ? g->key_count : 1; // slot 0 is nobody
    if (count >= TD_GOVERN_SLOTS_MAX)
        return TD_ERR_LIMIT;
    if ((count + 1) * 2 >= g->key_table_cap) {
        uint32_t cap = g->key_table_cap ? g->key_table_cap * 2 : 64;
        uint32_t *table = td_calloc(cap, sizeof *table);
        if (!table)
            return TD_ERR_NOMEM;
        for (uint32_t i = 1; i < g->key_count; i++)
            table_put(table, cap, g->keys[i].hash, i);
        td_free(g->key_table);
        g->key_table = table;
        g->key_table_cap = cap;
    }
    if ((count & (count - 1)) == 0) { // full at every power of two
        struct td_key *grown = td_realloc(g->keys, count * 2 * sizeof *grown);
        if (!grown)
            return TD_ERR_NOMEM;
        g->keys = grown;
    }
    g->keys[count] = *key;
    table_put(g->key_table, g->key_table_cap, key->hash, count);
    g->key_count = count + 1;
    g->live_until_ms = g->live_from_ms = 0; // count again
    return TD_OK;
}

static struct td_rate rate_for(struct td_govern *g, const char *id) {
    struct td_rate rate = {0};
    const struct td_limits *l = g->limits;
    for (uint32_t i = 0; i < l->key_count; i++)
        if (td_str_is(l->keys[i].name, id) || (l->keys[i].name.n == 0 && rate.requests.per_min == 0)) {
            rate.requests.per_min = l->keys[i].requests_per_min;
            rate.tokens.per_min = l->keys[i].tokens_per_min;
            if (l->keys[i].name.n)
                break;
        }
    return rate;
}

struct loading {
    struct td_key *keys;
    char (*tenants)[TD_NAME_BYTES_MAX + 1];
    uint32_t count, cap;
    enum td_err err;
};

static bool load_one(void *user, const struct td_key_record *r) {
    struct loading *l = user;
    if (l->count == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 64;
        void *keys = td_realloc(l->keys, cap * sizeof *l->keys);
        if (keys)
            l->keys = keys;
        void *tenants = td_realloc(l->tenants, cap * sizeof *l->tenants);
        if (tenants)
            l->tenants = tenants;
        if (!keys || !tenants) {
            l->err = TD_ERR_NOMEM;
            return false;
        }
        l->cap = cap;
    }
    struct td_key *k = &l->keys[l->count];
    *k = (struct td_key){.expires_ms = r->expires_ms, .revoked_ms = r->revoked_ms};
    snprintf(k->id, sizeof k->id, "%.*s", TD_STR_ARG(r->id));
    snprintf(l->tenants[l->count], sizeof *l->tenants, "%.*s", TD_STR_ARG(r->tenant));
    memcpy(k->hash, r->hash, 32);
    l->count++;
    return true;
}

// At opening, so no lock is needed but add_key's rule is kept.
enum td_err td_keys_load(struct td_govern *g, struct td_error *e) {
    struct loading l = {0};
    enum td_err err = td_keys_each(g->store, load_one, &l, e);
    if (err == TD_OK && l.err != TD_OK)
        err = td_error_set(e, l.err, "while reading API keys");
    for (uint32_t i = 0; err == TD_OK && i < l.count; i++) {
        struct td_key *k = &l.keys[i];
        err = td_tenant_open(g, td_str_of(l.tenants[i]), &k->tenant, e);
        if (err != TD_OK)
            break;
        k->rate = rate_for(g, k->id);
        pthread_mutex_lock(&g->lock);
        err = add_key(g, k);
        pthread_mutex_unlock(&g->lock);
        if (err != TD_OK)
            td_error_set(e, err, "while reading API keys");
    }
    td_free(l.keys);
    td_free(l.tenants);
    return err;
}

static void hash_key(const struct td_govern *g, struct td_str text, unsigned char out[32]) {
    crypto_generichash(out, 32, (const unsigned char *)text.p, text.n, g->hash_key, 32);
}

enum td_err td_govern_identify(struct td_govern *g, struct td_str key, int64_t wall_ms, struct td_identity *out,
                               struct td_error *e) {
    unsigned char hash[32];
    bool found = false;
    if (key.n != TD_KEY_TEXT_BYTES - 1)
        return td_error_set(e, TD_ERR_UNAUTHORIZED, "the API key is missing or not valid");
    hash_key(g, key, hash);
    pthread_mutex_lock(&g->lock);
    for (uint32_t at = (uint32_t)table_hash(hash); g->key_table_cap; at++) {
        uint32_t slot = g->key_table[at & (g->key_table_cap - 1)];
        if (slot == 0)
            break;
        const struct td_key *k = &g->keys[slot];
        if (sodium_memcmp(k->hash, hash, 32) != 0)
            continue;
        found = is_live(k, wall_ms);
        if (found) {
            *out = (struct td_identity){.tenant_slot = k->tenant, .key_slot = slot};
            snprintf(out->tenant, sizeof out->tenant, "%s", g->tenants[k->tenant].name);
            memcpy(out->key_id, k->id, sizeof out->key_id);
        }
        break;
    }
    pthread_mutex_unlock(&g->lock);
    return found ? TD_OK : td_error_set(e, TD_ERR_UNAUTHORIZED, "the API key is missing or not valid");
}

enum td_err td_govern_recall(struct td_govern *g, struct td_str tenant, struct td_str key_id, struct td_identity *out,
                             struct td_error *e) {
    struct td_identity found = {.key_slot = 0};
    pthread_mutex_lock(&g->lock);
    found.tenant_slot = td_names_find(&g->tenant_names, tenant);
    bool known = found.tenant_slot != TD_GOVERN_NO_SLOT;
    if (known)
        snprintf(found.tenant, sizeof found.tenant, "%s", g->tenants[found.tenant_slot].name);
    for (uint32_t i = 1; known && key_id.n && i < g->key_count && !found.key_slot; i++) {
        if (td_str_is(key_id, g->keys[i].id) && g->keys[i].tenant == found.tenant_slot) {
            found.key_slot = i;
            memcpy(found.key_id, g->keys[i].id, sizeof found.key_id);
        }
    }
    pthread_mutex_unlock(&g->lock);
    if (!known || (key_id.n && !found.key_slot))
        return td_error_set(e, TD_ERR_UNAUTHORIZED, "who asked is not known any more");
    *out = found;
    return TD_OK;
}

uint32_t td_govern_key_count(struct td_govern *g, int64_t wall_ms) {
    pthread_mutex_lock(&g->lock);
    if (wall_ms < g->live_from_ms || wall_ms >= g->live_until_ms) {
        g->live_keys = 0;
        g->live_from_ms = wall_ms;
        g->live_until_ms = INT64_MAX;
        for (uint32_t i = 1; i < g->key_count; i++) {
            const struct td_key *k = &g->keys[i];
            g->live_keys += is_live(k, wall_ms);
            if (is_live(k, wall_ms) && k->expires_ms && k->expires_ms < g->live_until_ms)
                g->live_until_ms = k->expires_ms;
        }
    }
    uint32_t count = g->live_keys;
    pthread_mutex_unlock(&g->lock);
    return count;
}

static bool name_is_fit(struct td_str s) {
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
              c == '-'))
            return false;
    }
    return s.n > 0 && s.n <= TD_NAME_BYTES_MAX;
}

static void new_texts(char id[TD_KEY_ID_BYTES], char key[TD_KEY_TEXT_BYTES]) {
    unsigned char secret[32];
    char random_id[27];
    td_id_new(random_id);
    snprintf(id, TD_KEY_ID_BYTES, "key_%.16s", random_id + 10); // the random half
    td_random(secret, sizeof secret);
    memcpy(key, PREFIX, sizeof PREFIX - 1);
    sodium_bin2base64(key + sizeof PREFIX - 1, SECRET_CHARS + 1, secret, sizeof secret,
                      sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    explicit_bzero(secret, sizeof secret);
}

enum td_err td_govern_key_create(struct td_govern *g, struct td_str tenant, struct td_str label, int64_t wall_ms,
                                 int64_t expires_ms, char id[TD_KEY_ID_BYTES], char key[TD_KEY_TEXT_BYTES],
                                 struct td_error *e) {
    struct td_key k = {.expires_ms = expires_ms};
    if (tenant.n == 0)
        tenant = TD_STR("default");
    if (!name_is_fit(tenant))
        return td_error_set(e, TD_ERR_USAGE, "a tenant's name has letters, digits, '.', '_' and '-'");
    if (label.n > TD_NAME_BYTES_MAX || !td_str_is_utf8(label))
        return td_error_set(e, TD_ERR_USAGE, "a key's label has at most %u bytes", TD_NAME_BYTES_MAX);
    if (expires_ms != 0 && expires_ms <= wall_ms)
        return td_error_set(e, TD_ERR_USAGE, "the key would have expired already");
    pthread_mutex_lock(&g->admin);
    new_texts(id, key);
    memcpy(k.id, id, sizeof k.id);
    hash_key(g, td_str_of(key), k.hash);
    enum td_err err = td_tenant_open(g, tenant, &k.tenant, e);
    struct td_key_record record = {td_str_of(id), tenant, label, {0}, wall_ms, expires_ms, 0};
    memcpy(record.hash, k.hash, 32);
    if (err == TD_OK)
        err = td_keys_add(g->store, &record, e);
    if (err == TD_OK) {
        k.rate = rate_for(g, k.id);
        pthread_mutex_lock(&g->lock);
        err = add_key(g, &k);
        pthread_mutex_unlock(&g->lock);
        if (err != TD_OK)
            td_error_set(e, err, "the key was made, but works only after a restart");
    }
    pthread_mutex_unlock(&g->admin);
    if (err != TD_OK)
        explicit_bzero(key, TD_KEY_TEXT_BYTES);
    return err;
}

enum td_err td_govern_key_revoke(struct td_govern *g, struct td_str id, int64_t wall_ms, struct td_error *e) {
    // In memory first: it ends now, whatever the disk says.
    pthread_mutex_lock(&g->admin);
    pthread_mutex_lock(&g->lock);
    for (uint32_t i = 1; i < g->key_count; i++)
        if (td_str_is(id, g->keys[i].id) && g->keys[i].revoked_ms == 0) {
            g->keys[i].revoked_ms = wall_ms > 0 ? wall_ms : 1;
            g->live_until_ms = g->live_from_ms = 0;
        }
    pthread_mutex_unlock(&g->lock);
    enum td_err err = td_keys_revoke(g->store, id, wall_ms > 0 ? wall_ms : 1, e);
    pthread_mutex_unlock(&g->admin);
    return err;
}

struct listing {
    bool (*fn)(void *user, const struct td_key_info *key);
    void *user;
};

static bool list_one(void *user, const struct td_key_record *r) {
    struct listing *l = user;
    char id[TD_KEY_ID_BYTES], tenant[TD_NAME_BYTES_MAX + 1], label[TD_NAME_BYTES_MAX + 1];
    snprintf(id, sizeof id, "%.*s", TD_STR_ARG(r->id));
    snprintf(tenant, sizeof tenant, "%.*s", TD_STR_ARG(r->tenant));
    snprintf(label, sizeof label, "%.*s", TD_STR_ARG(r->label));
    return l->fn(l->user, &(struct td_key_info){id, tenant, label, r->created_ms, r->expires_ms, r->revoked_ms});
}

enum td_err td_govern_key_list(struct td_govern *g, bool (*fn)(void *user, const struct td_key_info *key), void *user,
                               struct td_error *e) {
    return td_keys_each(g->store, list_one, &(struct listing){fn, user}, e);
}
