// SPDX-License-Identifier: Apache-2.0
#include "server/peers.h"

#include <netinet/in.h>
#include <string.h>

#include "base/mem.h"
#include "base/time.h"
#include "server/access.h"

struct td_peer_slot {
    struct td_peer_key key;
    unsigned count; // 0: free
};

static uint64_t salt; // addresses that a stranger picks must not fall into one row

enum td_err td_peers_init(struct td_peers *peers, unsigned connections_max) {
    unsigned n = 16;
    while (n < connections_max * 2)
        n *= 2;
    peers->slots = td_calloc(n, sizeof *peers->slots);
    peers->slot_count = n;
    if (!peers->slots)
        return TD_ERR_NOMEM;
    if (!salt)
        td_random(&salt, sizeof salt);
    pthread_mutex_init(&peers->lock, NULL);
    return TD_OK;
}

void td_peers_finish(struct td_peers *peers) {
    if (!peers->slots)
        return;
    pthread_mutex_destroy(&peers->lock);
    td_free(peers->slots);
    peers->slots = NULL;
}

struct td_peer_key td_peer_key_of(const struct sockaddr *address) {
    struct td_peer_key key = {0, 0};
    if (td_access_is_loopback(address))
        return key;
    if (address->sa_family == AF_INET) {
        key.hi = 1;
        key.lo = ((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr;
    } else if (address->sa_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
        uint32_t v4;
        memcpy(&v4, &a->s6_addr[12], 4);
        if (IN6_IS_ADDR_V4MAPPED(a))
            return (struct td_peer_key){1, v4};
        memcpy(&key.hi, a->s6_addr, 8);
        key.lo = 1;
    }
    return key;
}

static bool is_exempt(struct td_peer_key key) {
    return key.hi == 0 && key.lo == 0;
}

static unsigned home_of(const struct td_peers *peers, struct td_peer_key key) {
    uint64_t h = (key.hi ^ salt) * 0x9e3779b97f4a7c15ull;
    h = (h ^ h >> 32 ^ key.lo) * 0xd6e8feb86659fd93ull;
    return (unsigned)(h >> 32) & (peers->slot_count - 1);
}

// The key's slot, else the free one where it would go.
static unsigned slot_of(const struct td_peers *peers, struct td_peer_key key) {
    unsigned i = home_of(peers, key);
    while (peers->slots[i].count && (peers->slots[i].key.hi != key.hi || peers->slots[i].key.lo != key.lo))
        i = (i + 1) & (peers->slot_count - 1);
    return i;
}

bool td_peers_enter(struct td_peers *peers, struct td_peer_key key, unsigned max) {
    if (is_exempt(key))
        return true;
    pthread_mutex_lock(&peers->lock);
    struct td_peer_slot *slot = &peers->slots[slot_of(peers, key)];
    bool fits = slot->count < max;
    if (fits) {
        slot->key = key;
        slot->count++;
    }
    pthread_mutex_unlock(&peers->lock);
    return fits;
}

// Empties slot `hole` and moves back what its absence would hide (linear probing without tombstones).
static void close_hole(struct td_peers *peers, unsigned hole) {
    unsigned mask = peers->slot_count - 1;
    peers->slots[hole].count = 0;
    for (unsigned i = (hole + 1) & mask; peers->slots[i].count; i = (i + 1) & mask) {
        unsigned home = home_of(peers, peers->slots[i].key);
        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        peers->slots[hole] = peers->slots[i];
        peers->slots[i].count = 0;
        hole = i;
    }
}

void td_peers_leave(struct td_peers *peers, struct td_peer_key key) {
    if (is_exempt(key))
        return;
    pthread_mutex_lock(&peers->lock);
    unsigned i = slot_of(peers, key);
    if (peers->slots[i].count && --peers->slots[i].count == 0)
        close_hole(peers, i);
    pthread_mutex_unlock(&peers->lock);
}
