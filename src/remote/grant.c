// SPDX-License-Identifier: Apache-2.0
#include "remote/grant.h"

#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>

#include "base/hash.h"

// Three sums. The MAC, a keyed hash under the ledger's key, is the receipt's and outlives the grant. The cover binds
// the grant to the bytes and their destination, the seal binds its own fields together, so that one put together by
// hand or changed afterwards is not taken. Cover and seal serve within this process alone, once, and nobody sees them:
// SipHashes over the grant's serial number, under keys that never leave it.
struct td_grant {
    unsigned char mac[TD_GRANT_MAC_BYTES];
    uint64_t cover, seal;
    uint64_t policy_version;
    uint64_t serial;
    uint32_t kind;
    bool used;
};

#define SHORT_KEY_BYTES 16u

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static unsigned char process_key[TD_GRANT_MAC_BYTES], cover_key[SHORT_KEY_BYTES], seal_key[SHORT_KEY_BYTES];
static bool key_ready;

static void make_key(void) {
    if (sodium_init() < 0)
        return;
    randombytes_buf(process_key, sizeof process_key);
    randombytes_buf(cover_key, sizeof cover_key);
    randombytes_buf(seal_key, sizeof seal_key);
    key_ready = true;
}

static void add(crypto_generichash_state *h, const void *p, size_t n) {
    crypto_generichash_update(h, p, n);
}

// Length before content, so that no two lists of fields give the same bytes.
static void add_str(crypto_generichash_state *h, struct td_str s) {
    uint64_t n = s.n;
    add(h, &n, sizeof n);
    if (s.n)
        add(h, s.p, s.n);
}

static void compute_mac(unsigned char out[TD_GRANT_MAC_BYTES], const unsigned char key[TD_GRANT_MAC_BYTES],
                        const struct td_grant_terms *terms, uint64_t policy_version, struct td_str bytes) {
    crypto_generichash_state h;
    uint32_t kind = (uint32_t)terms->kind;
    crypto_generichash_init(&h, key, TD_GRANT_MAC_BYTES, TD_GRANT_MAC_BYTES);
    add(&h, &kind, sizeof kind);
    add(&h, &policy_version, sizeof policy_version);
    add_str(&h, terms->target ? terms->target->name : TD_STR_NONE);
    add_str(&h, terms->target ? terms->target->base_url : terms->url);
    add_str(&h, bytes);
    crypto_generichash_final(&h, out, TD_GRANT_MAC_BYTES);
}

static uint64_t compute_cover(const struct td_grant *g, const struct td_grant_terms *terms, struct td_str bytes) {
    const struct td_target *t = terms->target;
    uint64_t parts[] = {g->serial, td_siphash(cover_key, t ? t->name : TD_STR_NONE),
                        td_siphash(cover_key, t ? t->base_url : terms->url), td_siphash(cover_key, bytes)};
    return td_siphash(cover_key, td_str_n((const char *)parts, sizeof parts));
}

static uint64_t compute_seal(const struct td_grant *g) {
    unsigned char all[sizeof g->mac + 3 * sizeof(uint64_t) + sizeof g->kind], *at = all;
    memcpy(at, g->mac, sizeof g->mac), at += sizeof g->mac;
    memcpy(at, &g->cover, sizeof g->cover), at += sizeof g->cover;
    memcpy(at, &g->policy_version, sizeof g->policy_version), at += sizeof g->policy_version;
    memcpy(at, &g->serial, sizeof g->serial), at += sizeof g->serial;
    memcpy(at, &g->kind, sizeof g->kind);
    return td_siphash(seal_key, td_str_n((const char *)all, sizeof all));
}

static bool wants_target(enum td_grant_kind kind) {
    return kind == TD_GRANT_INFERENCE || kind == TD_GRANT_PROBE;
}

static bool terms_hold(const struct td_grant_terms *t) {
    if ((unsigned)t->kind >= TD_GRANT_KIND_COUNT)
        return false;
    return wants_target(t->kind) ? t->target && t->target->base_url.n && !t->url.n : !t->target && t->url.n;
}

// The target's own limits, asked again at the last moment. A probe carries no bytes of anybody.
static const char *why_not(const struct td_egress_check *check, const struct td_grant_terms *terms,
                           struct td_str bytes) {
    const struct td_target *t = terms->target;
    if (!check->allowed)
        return "the policy check did not allow it";
    if (!check->policy_version)
        return "no policy version";
    if (check->data_class <= TD_CLASS_UNKNOWN || check->data_class > TD_CLASS_RESTRICTED)
        return "the data class is not known";
    if (terms->kind == TD_GRANT_PROBE)
        return bytes.n ? "a probe carries no bytes" : NULL;
    if (!t)
        return NULL;
    enum td_class most = t->clearance;
    if (t->tier != TD_TIER_DEVICE && (!t->clearance_stated || !t->region.n))
        most = TD_CLASS_PUBLIC;
    if (check->data_class > most)
        return "the data class is above the target's clearance";
    if (check->labels & ~t->labels_cleared)
        return "a label is not cleared for the target";
    return NULL;
}

enum td_err td_grant_issue(struct td_arena *arena, const struct td_egress_check *check,
                           const struct td_grant_terms *terms, struct td_str bytes, struct td_grant **out,
                           struct td_error *e) {
    static atomic_uint_fast64_t serial;
    pthread_once(&key_once, make_key);
    if (!key_ready)
        return td_error_set(e, TD_ERR_GRANT, "no source of random numbers");
    if (!terms_hold(terms))
        return td_error_set(e, TD_ERR_GRANT, "a grant needs a kind and one place");
    const char *refusal = why_not(check, terms, bytes);
    if (refusal)
        return td_error_set(e, TD_ERR_GRANT, "sending was refused: %s", refusal);
    struct td_grant *g = td_arena_alloc(arena, sizeof *g);
    if (!g)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while issuing a grant");
    g->policy_version = check->policy_version;
    g->kind = (uint32_t)terms->kind;
    g->serial = atomic_fetch_add(&serial, 1) + 1;
    compute_mac(g->mac, terms->receipt_key ? terms->receipt_key : process_key, terms, g->policy_version, bytes);
    g->cover = compute_cover(g, terms, bytes);
    g->seal = compute_seal(g);
    *out = g;
    return TD_OK;
}

void td_grant_mac(const struct td_grant *grant, unsigned char out[TD_GRANT_MAC_BYTES]) {
    memcpy(out, grant->mac, TD_GRANT_MAC_BYTES);
}

uint64_t td_grant_policy_version(const struct td_grant *grant) {
    return grant->policy_version;
}

enum td_err td_grant_consume(struct td_grant *g, const struct td_grant_terms *terms, struct td_str bytes,
                             uint64_t policy_version_min, struct td_error *e) {
    const char *refusal = NULL;
    if (!g || !key_ready)
        return td_error_set(e, TD_ERR_GRANT, "sending was refused: no grant");
    if (g->used)
        refusal = "the grant was used before";
    else if (compute_seal(g) != g->seal)
        refusal = "the grant is not genuine";
    else if (!terms_hold(terms) || g->kind != (uint32_t)terms->kind)
        refusal = "the grant is of another kind";
    else if (g->policy_version < policy_version_min)
        refusal = "the grant is of an older policy";
    else if (compute_cover(g, terms, bytes) != g->cover)
        refusal = "the bytes or their destination are not what was allowed";
    g->used = true;
    return refusal ? td_error_set(e, TD_ERR_GRANT, "sending was refused: %s", refusal) : TD_OK;
}
