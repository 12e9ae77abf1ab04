// SPDX-License-Identifier: Apache-2.0
// One attempt, and what carries it. The attempt (attempt.c) is what the backend's owner sees: limits in time, the
// reader of the dialect, back-pressure, how it ended. A carrier brings the request out and the answer in: libcurl
// (curl_attempt.c) for TLS, HTTP/2 and proxies, a connection of our own (plain.c) for everything else. A route has one
// carrier for all its attempts. On the loop's thread; private to this room.
#ifndef TD_REMOTE_ATTEMPT_H
#define TD_REMOTE_ATTEMPT_H

#include "remote/remote.h"

struct route;

// What an attempt asks of its carrier.
struct td_carrier {
    // A new attempt, zeroed but for what the carrier itself needs; used again for others of the same route.
    struct td_attempt *(*make)(struct td_remote *r, struct route *route);
    // One that is not under way, and what the carrier keeps for it.
    void (*destroy)(struct td_attempt *a);
    // Takes a->spec in. TD_ERR_NOMEM.
    enum td_err (*prepare)(struct td_attempt *a);
    // Begins. Nothing is called back from inside, nothing is sent in this turn of the caller.
    void (*start)(struct td_attempt *a);
    // Ends it at once; td_attempt_stopped comes from inside or as soon as the carrier can.
    void (*stop)(struct td_attempt *a);
    // The same without td_attempt_stopped.
    void (*abort)(struct td_attempt *a);
    // Nothing more is read until go_on. `halt` is the form for use from inside td_attempt_body.
    void (*pause)(struct td_attempt *a);
    void (*halt)(struct td_attempt *a);
    // Calls td_attempt_go_on, not from inside, and then reads on.
    void (*go_on)(struct td_attempt *a);
    // Not connected yet because the name has no addresses yet.
    bool (*is_resolving)(const struct td_attempt *a);
    // The whole request has left: nothing of a->spec is read any more.
    bool (*is_sent)(const struct td_attempt *a);
    // The connection's descriptor, to be looked at only; -1 none.
    int (*descriptor)(const struct td_attempt *a);
};

struct td_attempt {
    const struct td_carrier *by;
    struct td_remote *r;
    struct route *route;
    struct td_attempt *next, **prev; // among the ready or the lingering
    struct td_timer *timer;
    uint64_t armed_ns;
    struct td_attempt_spec spec;
    const char *detail; // written by the carrier: why it ended, for the log
    // The reply.
    struct td_reader *reader;
    struct td_buf hold, error_body;
    int status;
    bool connected, under_way; // under_way: connected, and the end was not heard of
    bool packed, typed_wrong, body_begun;
    uint32_t unheard_looks; // how often it was looked whether the other end is still there
    char retry_after[64], retry_after_ms[32];
    uint64_t body_bytes, late_bytes, last_ns, linger_until_ns;
    enum td_err verdict; // why we ourselves broke it off
    const char *verdict_what;
    bool over, well, paused, end_held, detached;
    int busy;    // inside the reader: not to be freed now
    bool doomed; // destroyed meanwhile
    struct td_attempt_stats stats;
    uint32_t tokens, pieces; // with probabilities; events with something of the answer
    uint32_t finishes;
    // How the transfer ended, where that must wait.
    struct td_attempt_end {
        bool whole;       // the reply came to its end
        bool cut;         // the connection ended or broke after the request went out
        enum td_err err;  // where it is not whole
        const char *what; // in words fit for the caller; static
    } end;
};

// What a carrier tells an attempt. Where one returns false, the carrier ends the transfer; the attempt may be gone by
// then, if td_attempt_stopped was called meanwhile.
//
// The connection stands, the request goes out.
void td_attempt_connected(struct td_attempt *a, bool reused);
// A status line; forgets the fields of an earlier one.
void td_attempt_status(struct td_attempt *a, int status);
void td_attempt_field(struct td_attempt *a, struct td_str name, struct td_str value);
// A piece of the body. `raw`: for a packed answer, how many bytes of it came until now.
bool td_attempt_body(struct td_attempt *a, const char *p, size_t n, uint64_t raw);
// Breaks it off with an error of ours, which the end that follows will then be. Always false.
bool td_attempt_refuse(struct td_attempt *a, enum td_err verdict, const char *what);
// Ended by itself: the last of a transfer that was not stopped or aborted.
void td_attempt_end(struct td_attempt *a, const struct td_attempt_end *end);
// Hands up what was held back. True: read on.
bool td_attempt_go_on(struct td_attempt *a);
// Notes what the next piece of its body will touch, but for the attempt itself.
void td_attempt_near(const struct td_attempt *a, struct td_near *near);
// The carrier has let go of it after `stop`.
void td_attempt_stopped(struct td_attempt *a);

// For carriers: the parts that all attempts have.
enum td_err td_attempt_init(struct td_attempt *a, struct td_remote *r, const struct td_carrier *by) TD_MUST_USE;
void td_attempt_finish(struct td_attempt *a);

// True where `key` may stand in a header.
bool td_attempt_key_fits(const char *key);

extern const struct td_carrier td_curl_carrier, td_plain_carrier;

#endif
