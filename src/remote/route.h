// SPDX-License-Identifier: Apache-2.0
// A route: everything about reaching one target that is the same for all its attempts, prepared once: URLs, header
// lists with the key in them, TLS and proxy settings, and a few attempts and connections ready for reuse. Made from a
// target as the configuration states it, and made anew when any of that changes. Counted: attempts under way keep
// theirs. The header lists hold secrets and are wiped. On the loop's thread; private to this room.
#ifndef TD_REMOTE_ROUTE_H
#define TD_REMOTE_ROUTE_H

#include "remote/engine.h"
#include "remote/plain.h"

#define TD_ROUTE_READY_MAX 64u // attempts kept for reuse: with libcurl about 8 KiB each, else below one

struct td_attempt;
struct td_carrier;

struct route {
    unsigned refs;
    uint64_t fingerprint;
    const struct td_carrier *carrier;
    char *urls[3]; // by enum td_kind
    char *models_url;
    struct curl_slist *headers[2]; // [0] for whole answers, [1] for streams
    struct td_place place;
    char *ca, *cert, *key, *proxy, *proxy_user;
    uint64_t proxy_id, proxy_user_id; // hashes of the two
    struct td_attempt *ready;         // unused, options set
    uint32_t ready_count;
    bool dropped;                // no longer in the table: nothing is kept for reuse
    struct td_plain_route plain; // without TLS and proxy
};

// The route of a target as it is now, from the table or new. The caller gets a reference. TD_ERR_CONFIG, TD_ERR_NOMEM.
enum td_err td_route_get(struct td_remote *r, const struct td_target *t, struct route **out,
                         struct td_error *e) TD_MUST_USE;
void td_route_release(struct route *route);
// Takes it out of the table. Takes a slot that is empty.
void td_route_drop(struct route **slot);
// TLS, proxy and connection options of the route on a transfer.
enum td_err td_route_apply(const struct route *route, struct td_xfer *x) TD_MUST_USE;
// Whether a transfer must not share tunnels: a tunnel through a proxy belongs to whoever's credentials opened it, and
// libcurl from version 8 on takes it up for anybody. The first to use a proxy has its tunnels kept; others open and
// close their own until the first has used it no more for as long as libcurl keeps a connection.
bool td_route_is_apart(struct td_remote *r, const struct route *route);
// Wipes and frees a list of headers that may hold a secret.
void td_headers_finish(struct curl_slist *list);
// Appends "name: value"; refuses what would split a header (RFC 9110 section 5.5). TD_ERR_CONFIG, TD_ERR_NOMEM.
enum td_err td_headers_add(struct curl_slist **list, struct td_str name, struct td_str value,
                           struct td_error *e) TD_MUST_USE;

void td_routes_init(void); // once per process

// attempt.c
extern const struct td_backend_ops td_attempt_ops;
void td_attempts_finish(struct td_remote *r); // those that linger

#endif
