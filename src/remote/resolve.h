// SPDX-License-Identifier: Apache-2.0
// Names to addresses, without ever making the loop wait: each name being looked up has a thread of its own that calls
// getaddrinfo(3) and posts the result (docs/decisions/0003-name-resolution.md says why). Names come from the
// configuration, so their number is bounded. A result is fresh for a while; afterwards it still serves while a new
// lookup runs, and while the name servers cannot be reached. Everything on the loop's thread.
#ifndef TD_REMOTE_RESOLVE_H
#define TD_REMOTE_RESOLVE_H

#include <sys/socket.h>

#include "base/mem.h"

struct addrinfo;
struct td_loop;
struct td_resolver;
struct td_name; // one host and port; lives as long as the resolver

#define TD_ADDRESSES_MAX 16u     // of one name; more would only be tried one after the other
#define TD_RESOLVE_STALE_S 3600u // how long an old answer serves while nobody answers anew

struct td_resolver_options {
    uint32_t ttl_ms;
    int (*lookup)(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out);
    void (*lookup_free)(struct addrinfo *list);
};

// In the order of preference that getaddrinfo gives (RFC 6724).
struct td_addresses {
    struct sockaddr_storage list[TD_ADDRESSES_MAX];
    uint32_t count;
    uint32_t generation; // grows with every change
};

// Waits for a lookup; owned by the waiter.
struct td_name_waiter {
    struct td_name_waiter *next, **prev; // prev NULL: not waiting
    void (*fn)(struct td_name_waiter *w, enum td_err err);
};

struct td_resolver *td_resolver_create(struct td_loop *loop, const struct td_resolver_options *options);
// Threads still inside getaddrinfo are left to finish by themselves; their results are dropped.
void td_resolver_destroy(struct td_resolver *r);
// All names become stale: the next use looks them up again.
void td_resolver_expire(struct td_resolver *r);
// Finds or makes. NULL without memory.
struct td_name *td_resolver_name(struct td_resolver *r, struct td_str host, uint16_t port);

// The addresses to use now, or NULL: then wait. Starts a lookup where the answer is missing or no longer fresh.
const struct td_addresses *td_name_get(struct td_name *name);
// `fn` is called once when the lookup under way ends (TD_OK or TD_ERR_DNS), never from inside. Call only after
// td_name_get returned NULL. TD_ERR_DNS where no lookup could be started.
enum td_err td_name_wait(struct td_name *name, struct td_name_waiter *w) TD_MUST_USE;
void td_name_unwait(struct td_name_waiter *w);
// A connection to these addresses failed: ask again before the next use, but do not forget them.
void td_name_doubt(struct td_name *name);
// A note for the user of the addresses: those of this generation, filtered by `scopes`, are where they are used.
void td_name_set_loaded(struct td_name *name, uint32_t generation, uint32_t scopes);
bool td_name_is_loaded(const struct td_name *name, uint32_t generation, uint32_t scopes);
const char *td_name_host(const struct td_name *name);
uint16_t td_name_port(const struct td_name *name);

#endif
