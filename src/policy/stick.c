// SPDX-License-Identifier: Apache-2.0
#include "policy/stick.h"

#include <pthread.h>

#include "base/hash.h"
#include "base/mem.h"

// A hash table with chains and a list by time of use, both through indices: one block of memory, no allocation later.
// Index 0 is no slot, so that the table begins as zeroed memory of which no page exists before it is used.
#define NONE 0u

struct slot {
    uint64_t key;
    uint32_t labels;
    uint32_t data_class;
    uint32_t chain; // next in its bucket
    uint32_t older, newer;
};

struct td_stick {
    pthread_mutex_t lock;
    uint8_t secret[16];
    struct slot *slots;
    uint32_t *buckets, mask;
    uint32_t count, slots_max, newest, oldest;
};

struct td_stick *td_stick_create(uint32_t entries_max, const uint8_t secret[16]) {
    struct td_stick *s = td_calloc(1, sizeof *s);
    uint32_t buckets = 16;
    if (!s)
        return NULL;
    if (entries_max == 0 || entries_max > TD_STICK_ENTRIES_MAX)
        entries_max = TD_STICK_ENTRIES_MAX;
    while (buckets < entries_max)
        buckets *= 2;
    s->slots = td_calloc(entries_max + 1, sizeof *s->slots);
    s->buckets = td_calloc(buckets, sizeof *s->buckets);
    if (!s->slots || !s->buckets) {
        td_free(s->slots);
        td_free(s->buckets);
        td_free(s);
        return NULL;
    }
    memcpy(s->secret, secret, sizeof s->secret);
    s->mask = buckets - 1;
    s->slots_max = entries_max;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

void td_stick_destroy(struct td_stick *s) {
    if (!s)
        return;
    pthread_mutex_destroy(&s->lock);
    memset(s->secret, 0, sizeof s->secret);
    td_free(s->slots);
    td_free(s->buckets);
    td_free(s);
}

// ---- keys

// Each step hashes the value so far with the next piece, so that a prefix has one value however long it becomes.
static uint64_t fold(const struct td_stick *s, uint64_t so_far, uint64_t tag, struct td_str text) {
    struct {
        uint64_t so_far, tag, text;
    } block = {so_far, tag, td_siphash(s->secret, text)};
    return td_siphash(s->secret, td_str_n((const char *)&block, sizeof block));
}

static uint64_t fold_message(const struct td_stick *s, uint64_t h, const struct td_message *m) {
    h = fold(s, h, 0x100 + (uint64_t)m->role, m->name);
    for (uint32_t i = 0; i < m->part_count; i++)
        h = fold(s, h, 0x200 + (uint64_t)m->parts[i].type, m->parts[i].text);
    for (uint32_t i = 0; i < m->tool_call_count; i++) {
        h = fold(s, h, 0x300, m->tool_calls[i].name);
        h = fold(s, h, 0x301, m->tool_calls[i].arguments);
    }
    return h;
}

void td_stick_keys(const struct td_stick *s, struct td_str tenant, const struct td_request *r,
                   struct td_stick_keys *out) {
    uint64_t ring[TD_STICK_PREFIXES_MAX], h = fold(s, 0, 1, tenant);
    uint32_t seen = 0;
    out->count = 0;
    if (r->wishes.conversation.n) {
        out->keys[out->count++] = fold(s, h, 2, r->wishes.conversation);
        return;
    }
    // Only prefixes that end in what a client sent can have been stored by an earlier turn. A request is stored under
    // the whole of it, so the first one asked for is the whole.
    for (uint32_t i = 0; i < r->message_count; i++) {
        h = fold_message(s, h, &r->messages[i]);
        bool turn_end = r->messages[i].role == TD_ROLE_USER || r->messages[i].role == TD_ROLE_TOOL;
        if (turn_end || i + 1 == r->message_count)
            ring[seen++ % TD_STICK_PREFIXES_MAX] = h;
    }
    for (uint32_t i = 0; i < seen && i < TD_STICK_PREFIXES_MAX; i++)
        out->keys[out->count++] = ring[(seen - 1 - i) % TD_STICK_PREFIXES_MAX];
}

// ---- the table; all below with the lock held

static uint32_t find(const struct td_stick *s, uint64_t key) {
    uint32_t i = s->buckets[key & s->mask];
    while (i != NONE && s->slots[i].key != key)
        i = s->slots[i].chain;
    return i;
}

static void unlink_use(struct td_stick *s, uint32_t i) {
    struct slot *e = &s->slots[i];
    *(e->newer == NONE ? &s->newest : &s->slots[e->newer].older) = e->older;
    *(e->older == NONE ? &s->oldest : &s->slots[e->older].newer) = e->newer;
}

static void link_newest(struct td_stick *s, uint32_t i) {
    struct slot *e = &s->slots[i];
    e->newer = NONE;
    e->older = s->newest;
    *(s->newest == NONE ? &s->oldest : &s->slots[s->newest].newer) = i;
    s->newest = i;
}

static uint32_t take_slot(struct td_stick *s) {
    if (s->count < s->slots_max)
        return ++s->count;
    uint32_t i = s->oldest;
    uint32_t *at = &s->buckets[s->slots[i].key & s->mask];
    while (*at != i)
        at = &s->slots[*at].chain;
    *at = s->slots[i].chain;
    unlink_use(s, i);
    return i;
}

bool td_stick_find(struct td_stick *s, const struct td_stick_keys *keys, enum td_class *data_class, uint32_t *labels) {
    bool known = false;
    *data_class = TD_CLASS_UNKNOWN;
    *labels = 0;
    pthread_mutex_lock(&s->lock);
    for (uint32_t k = 0; k < keys->count; k++) {
        uint32_t i = find(s, keys->keys[k]);
        if (i == NONE)
            continue;
        known = true;
        *labels |= s->slots[i].labels;
        if (s->slots[i].data_class > *data_class)
            *data_class = (enum td_class)s->slots[i].data_class;
    }
    pthread_mutex_unlock(&s->lock);
    return known;
}

void td_stick_raise(struct td_stick *s, const struct td_stick_keys *keys, enum td_class data_class, uint32_t labels) {
    if (!keys->count || (data_class == TD_CLASS_UNKNOWN && !labels)) // what is not there needs no remembering
        return;
    uint64_t key = keys->keys[0];
    pthread_mutex_lock(&s->lock);
    uint32_t i = find(s, key);
    if (i == NONE) {
        i = take_slot(s);
        s->slots[i] = (struct slot){.key = key, .chain = s->buckets[key & s->mask]};
        s->buckets[key & s->mask] = i;
    } else {
        unlink_use(s, i);
    }
    link_newest(s, i);
    s->slots[i].labels |= labels;
    if (data_class > s->slots[i].data_class)
        s->slots[i].data_class = data_class;
    pthread_mutex_unlock(&s->lock);
}
