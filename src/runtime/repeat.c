// SPDX-License-Identifier: Apache-2.0
#include "runtime/repeat.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/time.h"
#include "store/outbox.h"

#define WAYS 8u
#define SETS (TD_REPEAT_KEYS_MAX / WAYS)

struct place {
    uint64_t key[2], body;
    uint64_t seen_ns; // 0: free
    bool running;
};

struct td_repeats {
    pthread_mutex_t lock;
    unsigned char secret[32];
    struct place sets[SETS][WAYS];
};

struct td_repeats *td_repeats_create(const unsigned char secret[32]) {
    struct td_repeats *r = td_calloc(1, sizeof *r);
    if (!r)
        return NULL;
    memcpy(r->secret, secret, sizeof r->secret);
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

void td_repeats_destroy(struct td_repeats *r) {
    if (!r)
        return;
    pthread_mutex_destroy(&r->lock);
    td_free(r);
}

bool td_repeat_is_key(struct td_str key) {
    for (size_t i = 0; i < key.n; i++)
        if ((unsigned char)key.p[i] <= 0x20 || (unsigned char)key.p[i] >= 0x7f)
            return false;
    return key.n > 0 && key.n <= TD_REPEAT_KEY_BYTES_MAX;
}

static uint64_t hash2(const unsigned char secret[16], struct td_str a, struct td_str b) {
    uint64_t parts[2] = {td_siphash(secret, a), td_siphash(secret, b)};
    return td_siphash(secret, td_str_n((const char *)parts, sizeof parts));
}

uint64_t td_repeat_body(const struct td_repeats *r, struct td_str path, struct td_str body) {
    return hash2(r->secret, path, body);
}

void td_repeat_make(const struct td_repeats *r, struct td_str tenant, struct td_str key, uint64_t body,
                    struct td_repeat *out) {
    *out = (struct td_repeat){.key = {hash2(r->secret, tenant, key), hash2(r->secret + 16, tenant, key)}, .body = body};
    snprintf(out->name, sizeof out->name, TD_OUTBOX_CLIENT_KEY "%016" PRIx64 "%016" PRIx64 "-%016" PRIx64, out->key[0],
             out->key[1], body);
}

void td_repeat_part(const struct td_repeats *r, const struct td_repeat *first, uint32_t part, struct td_repeat *out) {
    struct td_str whole = td_str_n((const char *)first->key, sizeof first->key);
    td_repeat_make(r, whole, td_str_n((const char *)&part, sizeof part), first->body, out);
}

void td_repeat_sent(const struct td_repeats *r, const struct td_repeat *repeat, struct td_str target,
                    struct td_str bytes, char out[TD_REPEAT_SENT_BYTES]) {
    snprintf(out, TD_REPEAT_SENT_BYTES, TD_OUTBOX_CLIENT_KEY "%016" PRIx64 "%016" PRIx64 "-%016" PRIx64, repeat->key[0],
             repeat->key[1], hash2(r->secret, target, bytes));
}

// Its place, or the one that it may have: a free one, else that of the oldest, those that run last.
static struct place *find(struct td_repeats *r, const struct td_repeat *repeat, uint64_t now_ns, bool *known) {
    struct place *set = r->sets[repeat->key[0] % SETS], *best = NULL;
    for (unsigned i = 0; i < WAYS; i++) {
        struct place *p = &set[i];
        if (p->seen_ns && !p->running && now_ns > p->seen_ns + TD_REPEAT_KEEP_S * TD_S_NS)
            *p = (struct place){0};
        if (p->seen_ns && p->key[0] == repeat->key[0] && p->key[1] == repeat->key[1]) {
            *known = true;
            return p;
        }
        bool older = best && p->running == best->running && p->seen_ns < best->seen_ns;
        if (!best || (best->running && !p->running) || older)
            best = p;
    }
    *known = false;
    return best;
}

enum td_err td_repeats_begin(struct td_repeats *r, const struct td_repeat *repeat, uint64_t now_ns,
                             struct td_error *e) {
    enum td_err err = TD_OK;
    bool known;
    pthread_mutex_lock(&r->lock);
    struct place *p = find(r, repeat, now_ns, &known);
    if (known && p->body != repeat->body)
        err = td_error_set(e, TD_ERR_KEY_REUSED, "%s", td_err_text(TD_ERR_KEY_REUSED));
    else if (known && p->running)
        err = td_error_set(e, TD_ERR_IN_PROGRESS, "%s", td_err_text(TD_ERR_IN_PROGRESS));
    else
        *p = (struct place){{repeat->key[0], repeat->key[1]}, repeat->body, now_ns ? now_ns : 1, true};
    pthread_mutex_unlock(&r->lock);
    return err;
}

void td_repeats_end(struct td_repeats *r, const struct td_repeat *repeat) {
    bool known;
    pthread_mutex_lock(&r->lock);
    struct place *p = find(r, repeat, 0, &known);
    if (known)
        p->running = false;
    pthread_mutex_unlock(&r->lock);
}
