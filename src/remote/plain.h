// SPDX-License-Identifier: Apache-2.0
// The carrier for targets that are spoken to without TLS and without a proxy: HTTP/1.1 on connections of our own
// (docs/decisions/0009-plain-http-client.md has the reasons and the figures). One object per worker, and a share in
// each route that uses it: the request's head in ready-made pieces, where to connect to, and the connections kept for
// reuse. On the loop's thread; private to this room.
#ifndef TD_REMOTE_PLAIN_H
#define TD_REMOTE_PLAIN_H

#include <sys/queue.h>

#include "remote/engine.h"

struct td_plain;
struct td_conn_out;
struct curl_slist;
TAILQ_HEAD(td_conns_out, td_conn_out);

// A route's share. The pieces hold secrets and are wiped.
struct td_plain_route {
    struct td_plain *plain;
    struct td_buf lines[3];            // by enum td_kind: request line and Host
    struct td_buf fields[2];           // [0] for whole answers, [1] for streams; ends before the length's digits
    struct sockaddr_storage places[2]; // where the host is an address or localhost, its name then is NULL
    uint32_t place_count;
    struct td_conns_out idle; // the last one used first
};

// NULL without memory. `idle_max`: connections kept over all routes; the one unused for the longest time goes first.
struct td_plain *td_plain_create(struct td_loop *loop, uint32_t idle_max);
void td_plain_destroy(struct td_plain *p); // every route must have gone; takes NULL

// Closes at most `max` kept connections, those unused for the longest time; returns how many.
unsigned td_plain_shed(struct td_plain *p, unsigned max);

// `urls` by enum td_kind, all to the same host; `headers` as for libcurl. TD_ERR_NOMEM, TD_ERR_CONFIG.
enum td_err td_plain_route_init(struct td_plain_route *route, struct td_plain *p, char *const urls[3],
                                struct td_str host, uint16_t port, struct curl_slist *const headers[2],
                                struct td_error *e) TD_MUST_USE;
// The connections kept go; those in use go when their attempt is done with them.
void td_plain_route_drop(struct td_plain_route *route);
void td_plain_route_finish(struct td_plain_route *route);

#endif
