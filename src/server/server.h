// SPDX-License-Identifier: Apache-2.0
// The HTTP listener: turns bytes of clients into td_http_call and answers back into bytes. It knows the core only
// through include/tandem/ and puts its sockets on the runtime's worker loops, so that a request stays on one thread.
// Plain TCP, TLS, mTLS or a Unix socket. Every ambiguity of HTTP framing is refused, never repaired
// (docs/decisions/0001). Routes: /v1/… goes to the core, /healthz, /readyz and /metrics are answered here.
//
// Ownership: the caller keeps the runtime alive until td_server_stop returned; settings are copied. Threads: start,
// reload, drain and stop are called from one thread that is none of the workers, while the runtime's workers run.
#ifndef TD_SERVER_SERVER_H
#define TD_SERVER_SERVER_H

#include "tandem/admin.h"

struct td_server;

// What the listener allows; zero means the value of base/limits.h, which none may exceed. Milliseconds and bytes.
struct td_server_limits {
    unsigned header_ms;      // a request's head, from its first byte
    unsigned body_window_ms; // each such stretch of a body must bring TD_BODY_RATE_BYTES_MIN per second
    unsigned keepalive_ms;   // an idle connection
    unsigned write_stall_ms; // a client that takes no byte of its answer
    unsigned linger_ms;      // reading on after the last answer, so that the client sees it
    unsigned bodies_bytes;   // all bodies being received, of all clients
};

// Binds and starts to accept. Returns 0, or 1 with `failure` filled: "tandem.listen.refused" when the address can be
// reached from other machines and keys or TLS are missing; "tandem.listen.failed" when it cannot be bound (in use, no
// permission, not a numeric address); "tandem.config.invalid" when certificate, key or client CA cannot be read;
// "tandem.internal.memory". Port 0 takes a free one. Raises the process's soft limit of open files to the hard one and
// ignores SIGPIPE.
int td_server_start(struct td_runtime *runtime, const struct td_listen_settings *settings, struct td_server **out,
                    struct td_failure *failure);
// The same with limits of one's own; `limits` NULL: the defaults.
int td_server_start_limited(struct td_runtime *runtime, const struct td_listen_settings *settings,
                            const struct td_server_limits *limits, struct td_server **out, struct td_failure *failure);

// Takes new settings, whole or not at all: certificates, Host names, Origins, caps. Address, port and whether TLS is
// spoken stay; connections that exist keep their certificate. Failures as above.
int td_server_reload(struct td_server *server, const struct td_listen_settings *settings, struct td_failure *failure);

// What a client puts before a path: "http://127.0.0.1:8484", "https://[::1]:8484", "unix:/run/t.sock". Lives as long as
// the server.
const char *td_server_url(const struct td_server *server);
unsigned td_server_port(const struct td_server *server); // 0 for a Unix socket

// Takes no new connection, closes idle ones, answers what runs with "Connection: close", and waits. Returns 0 when no
// connection is left, 1 when some still were after `timeout_ms`. /readyz says 503 from here on.
int td_server_drain(struct td_server *server, unsigned timeout_ms);

// Closes everything, cancels calls still running, frees the server. Takes NULL.
void td_server_stop(struct td_server *server);

#endif
