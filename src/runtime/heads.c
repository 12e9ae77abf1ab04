// SPDX-License-Identifier: Apache-2.0
#include "runtime/heads.h"

#include <pthread.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

struct head {
    uint64_t key;
    char *text;
    size_t n;
};

struct td_heads {
    pthread_mutex_t lock;
    unsigned char secret[16];
    struct head ring[TD_HEADS_MAX];
    uint32_t next; // the oldest
    size_t bytes;
};

static uint64_t key_of(const struct td_heads *h, struct td_str tenant, struct td_str conversation, struct td_str text) {
    uint64_t parts[3] = {td_siphash(h->secret, tenant), td_siphash(h->secret, conversation),
                         td_siphash(h->secret, td_str_trim(text))};
    return td_siphash(h->secret, td_str_n((const char *)parts, sizeof parts));
}

static void drop(struct td_heads *h, struct head *old) {
    h->bytes -= old->n;
    td_free(old->text);
    *old = (struct head){0};
}

void td_heads_put(struct td_heads *h, const struct td_outbox_entry *e, enum td_accepted accepted) {
    bool local = accepted == TD_ACCEPTED_LOCAL;
    struct td_str old = local ? e->cloud.body : e->local.body, stands = local ? e->local.body : e->cloud.body;
    if (!h || !e->conversation.n || !td_str_trim(old).n || !stands.n || stands.n > TD_HEADS_BYTES_MAX ||
        td_str_eq(td_str_trim(old), td_str_trim(stands)))
        return;
    char *text = td_strndup(stands.p, stands.n);
    if (!text)
        return;
    uint64_t overruled = key_of(h, e->tenant, e->conversation, stands);
    pthread_mutex_lock(&h->lock);
    for (uint32_t i = 0; i < TD_HEADS_MAX; i++) // nothing stands for what stands now
        if (h->ring[i].text && h->ring[i].key == overruled)
            drop(h, &h->ring[i]);
    for (uint32_t i = 0; i < TD_HEADS_MAX && h->bytes + stands.n > TD_HEADS_BYTES_MAX; i++)
        drop(h, &h->ring[(h->next + i) % TD_HEADS_MAX]);
    struct head *place = &h->ring[h->next];
    h->next = (h->next + 1) % TD_HEADS_MAX;
    drop(h, place);
    *place = (struct head){key_of(h, e->tenant, e->conversation, old), text, stands.n};
    h->bytes += place->n;
    pthread_mutex_unlock(&h->lock);
}

// The newest with this key; {NULL, 0} none, or no memory (*err).
static struct td_str find(struct td_heads *h, struct td_arena *arena, uint64_t key, enum td_err *err) {
    struct td_str found = TD_STR_NONE;
    pthread_mutex_lock(&h->lock);
    for (uint32_t i = 1; i <= TD_HEADS_MAX && !found.p && *err == TD_OK; i++) {
        const struct head *at = &h->ring[(h->next + TD_HEADS_MAX - i) % TD_HEADS_MAX];
        if (!at->text || at->key != key)
            continue;
        found = td_arena_str(arena, td_str_n(at->text, at->n));
        *err = found.p ? TD_OK : TD_ERR_NOMEM;
    }
    pthread_mutex_unlock(&h->lock);
    return found;
}

enum td_err td_heads_apply(struct td_heads *h, struct td_arena *arena, struct td_str tenant, struct td_str conversation,
                           struct td_request *request) {
    enum td_err err = TD_OK;
    if (!h || !conversation.n)
        return TD_OK;
    for (uint32_t i = 0; i < request->message_count && err == TD_OK; i++) {
        struct td_message *m = &request->messages[i];
        if (m->role != TD_ROLE_ASSISTANT || m->part_count != 1 || m->parts[0].type != TD_PART_TEXT)
            continue;
        struct td_str later = find(h, arena, key_of(h, tenant, conversation, m->parts[0].text), &err);
        if (!later.p)
            continue;
        request->text_bytes += (uint32_t)later.n;
        request->text_bytes -= (uint32_t)m->parts[0].text.n;
        m->parts[0].text = later;
    }
    return err;
}

static bool on_entry(void *user, const struct td_outbox_entry *entry) {
    // Of the first answers only those that somebody chose: the client of another never saw what lost.
    if (entry->accepted == TD_ACCEPTED_CLOUD || td_str_is(entry->verdict, "person"))
        td_heads_put(user, entry, entry->accepted);
    return true;
}

struct td_heads *td_heads_create(struct td_store *store, const unsigned char secret[16]) {
    struct td_heads *h = td_calloc(1, sizeof *h);
    struct td_error e;
    if (!h)
        return NULL;
    memcpy(h->secret, secret, sizeof h->secret);
    pthread_mutex_init(&h->lock, NULL);
    // Reconciled ones are kept for days at most; what does not fit the table pushes out the oldest.
    struct td_outbox_filter filter = {.states = 1u << TD_OUTBOX_RECONCILED, .limit = UINT32_MAX >> 1, .texts = true};
    (void)!td_outbox_list(store, &filter, on_entry, h, &e); // without it the clients' own texts stand
    return h;
}

void td_heads_destroy(struct td_heads *h) {
    if (!h)
        return;
    for (uint32_t i = 0; i < TD_HEADS_MAX; i++)
        td_free(h->ring[i].text);
    pthread_mutex_destroy(&h->lock);
    memset(h->secret, 0, sizeof h->secret);
    td_free(h);
}
