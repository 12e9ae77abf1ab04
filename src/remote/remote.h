// SPDX-License-Identifier: Apache-2.0
// The one door out: every connection Tandem opens to another machine is opened here, on the worker's own event loop:
// plain HTTP/1.1 to a model on connections of our own, everything else (TLS, HTTP/2, proxies, fetches, probes) with
// libcurl. One object per worker; all calls and callbacks on that worker's thread. It implements backend/backend.h for
// remote targets (td_remote_backend), and beside it offers a plain fetch (webhooks, telemetry, model downloads) and a
// probe. Each takes a grant of its kind (remote/grant.h) and sends nothing without.
//
// How an attempt ends, beyond what the provider itself says (wire/ maps statuses and error bodies):
//
//   TD_ERR_DNS               the name does not exist, or nobody answered within timeouts.connect_ms
//   TD_ERR_CONNECT           no connection within timeouts.connect_ms, refused, unreachable, an address that is not
//                            allowed, or a connection on which nothing was acknowledged for as long
//   TD_ERR_TLS               the handshake failed or the certificate was not accepted
//   TD_ERR_FIRST_TOKEN       connected, but nothing of the answer within timeouts.first_token_ms (streams only)
//   TD_ERR_IDLE              the answer began, then nothing for timeouts.idle_ms
//   TD_ERR_DEADLINE          timeouts.total_ms or the attempt's own deadline passed
//   TD_ERR_CUT               the connection closed or broke before the answer was complete, also before its first byte
//   TD_ERR_UPSTREAM_GARBAGE  not HTTP, not the dialect, a redirect, or over one of the caps of base/limits.h
//
// An attempt is sent once: libcurl's own silent resending on a reused connection is switched off, and ours are not sent
// again once a byte has left, so that the ledger sees every try. Time spent paused does not count as idle.
#ifndef TD_REMOTE_REMOTE_H
#define TD_REMOTE_REMOTE_H

#include "backend/backend.h"
#include "remote/grant.h"

struct addrinfo;
struct td_loop;
struct td_remote;
struct td_fetch;

// Zero-initialise; zero means the default.
struct td_remote_options {
    uint32_t idle_connections_max; // kept open for reuse; default 256
    uint32_t resolve_ttl_ms;       // how long a resolved name is taken as fresh; default 60000
    // Stands in for getaddrinfo(3) in tests; called on threads of its own.
    int (*lookup)(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out);
    void (*lookup_free)(struct addrinfo *list);
};

enum td_err td_remote_create(struct td_loop *loop, const struct td_remote_options *options, struct td_remote **out,
                             struct td_error *e) TD_MUST_USE;
// Every attempt, fetch and probe must have been destroyed. Takes NULL.
void td_remote_destroy(struct td_remote *r);
struct td_backend *td_remote_backend(struct td_remote *r);
// The policy now in force on this worker: grants of an older one are refused from here on.
void td_remote_set_policy_version(struct td_remote *r, uint64_t version);
// Forgets resolved names and cached secrets, and takes up no connection older than a second any more; for a changed
// network.
void td_remote_refresh(struct td_remote *r);

// A probe: is the target reachable (CONNECT: DNS, TCP, TLS) or does it answer (MODELS: GET base_url/models, any status
// below 500 but 429 counts as alive)? Ends with one call of on_done, unless cancelled by td_fetch_destroy; never from
// inside td_remote_probe. The grant is of kind PROBE, for the target and no bytes.
enum td_probe { TD_PROBE_CONNECT, TD_PROBE_MODELS };
struct td_probe_spec {
    const struct td_target *target; // alive until the end
    enum td_probe probe;
    struct td_grant *grant;
    uint32_t timeout_ms; // 0: timeouts.connect_ms + timeouts.first_token_ms of the target
    // `err` TD_OK: alive, after `rtt_us` (connect time for CONNECT, whole answer for MODELS).
    void (*on_done)(void *user, enum td_err err, int http_status, uint64_t rtt_us);
    void *user;
};
enum td_err td_remote_probe(struct td_remote *r, const struct td_probe_spec *spec, struct td_fetch **out,
                            struct td_error *e) TD_MUST_USE;

// One plain HTTP exchange. Not for inference: kinds WEBHOOK, TELEMETRY, MODEL_PULL, SYNC. Redirects are not followed
// but reported (status 3xx with `location`): whoever wants to go there needs a grant for it.
struct td_fetch_head {
    int status;
    int64_t content_length;                     // -1 unknown
    int64_t range_start;                        // of a 206's Content-Range, -1 none
    int64_t range_total;                        // likewise, or of a 416's; -1 unknown
    struct td_str location, etag, content_type; // valid during the call
    uint32_t retry_after_ms;
};
struct td_fetch_spec {
    enum td_grant_kind kind;
    struct td_grant *grant;          // for `url` and `body`; consumed by td_remote_fetch
    struct td_str url;               // http or https
    bool post;                       // else GET
    struct td_str body;              // alive until the end
    const struct td_header *headers; // copied
    uint32_t header_count;
    struct td_str auth_ref; // "env:NAME" …: sent as "authorization: Bearer …"; empty none
    // Signed as Standard Webhooks says (standardwebhooks.com): webhook-id, webhook-timestamp and webhook-signature, an
    // HMAC-SHA-256 of "id.timestamp.body" under the secret that `sign_ref` names ("whsec_" and Base64, or as it is).
    // Empty: not signed; the id and the time are sent all the same where there is an id.
    struct td_str sign_ref, sign_id;
    struct td_str ca_file, proxy;           // as in a target; empty none
    int64_t range_from;                     // > 0: asks for the rest only
    struct td_str if_range;                 // the ETag that rest must belong to
    uint64_t bytes_max;                     // of the reply's body; 0: TD_REPLY_BYTES_MAX
    uint32_t connect_ms, idle_ms, total_ms; // 0: 5000, 30000, none
    bool private_ok;                        // the address may be loopback or private (webhooks on one's own network)
    const char *log_id;                     // NULL none
    // False stops the transfer: on_done then says TD_ERR_CANCELLED. Both may be NULL.
    bool (*on_head)(void *user, const struct td_fetch_head *head);
    bool (*on_data)(void *user, struct td_str bytes);
    // Exactly once, last, never from inside td_remote_fetch; not after td_fetch_destroy. TD_OK whatever the status.
    void (*on_done)(void *user, enum td_err err, int http_status, const char *message);
    void *user;
};
enum td_err td_remote_fetch(struct td_remote *r, const struct td_fetch_spec *spec, struct td_fetch **out,
                            struct td_error *e) TD_MUST_USE;
// Stops it at once; also the way to free one that ended. Takes NULL.
void td_fetch_destroy(struct td_fetch *f);

#endif
