// SPDX-License-Identifier: Apache-2.0
// How many connections each remote address holds. An IPv6 address counts by its /64, which one machine owns whole. Any
// thread.
#ifndef TD_SERVER_PEERS_H
#define TD_SERVER_PEERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/err.h"

struct td_peer_key {
    uint64_t hi, lo; // all zero: exempt (loopback, Unix socket)
};

struct td_peers {
    pthread_mutex_t lock;
    struct td_peer_slot *slots; // open addressing, at most half full
    unsigned slot_count;
};

// Room for `connections_max` addresses. TD_ERR_NOMEM.
enum td_err td_peers_init(struct td_peers *peers, unsigned connections_max) TD_MUST_USE;
void td_peers_finish(struct td_peers *peers);
struct td_peer_key td_peer_key_of(const struct sockaddr *address);
// False when the address already holds `max`.
bool td_peers_enter(struct td_peers *peers, struct td_peer_key key, unsigned max);
void td_peers_leave(struct td_peers *peers, struct td_peer_key key);

#endif
