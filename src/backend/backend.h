// SPDX-License-Identifier: Apache-2.0
// What executes one attempt: the interface that local/ (model host), remote/ (HTTPS) and the fake implement. One
// backend object per kind and worker; every call and every callback happens on that worker's thread. A backend may
// reorder nothing within an attempt and must end each with exactly one END or ERROR event, unless it was cancelled:
// after cancel returns, no callback comes any more.
#ifndef TD_BACKEND_BACKEND_H
#define TD_BACKEND_BACKEND_H

#include "base/near.h"
#include "target/target.h"
#include "wire/event.h"

struct td_grant; // the proof that these bytes may go to this target (remote/grant.h)
struct td_attempt;

struct td_attempt_spec {
    const struct td_target *target; // must stay alive (its snapshot is held by the exchange) until END, ERROR or cancel
    enum td_kind kind;
    bool stream;
    struct td_str body;          // serialised in the target's dialect; must stay alive as long, or until it is sent
    struct td_grant *grant;      // remote only; consumed by start
    const char *exchange_id;     // for the log
    const char *idempotency_key; // NULL none
    uint64_t deadline_ns;        // monotonic, absolute; 0 none
    uint32_t connect_ms;         // remote: less than the target's own limit; 0 that one
    bool want_tokens;            // hand up probabilities (cascade, logprobs)
    bool raw;                    // remote: events carry the provider's own chunk (client and provider speak the same)
    uint32_t choices;            // asked for; 0 counts as 1
    uint32_t priority;           // 0 interactive, 1 batch
    void (*on_event)(void *user, const struct td_event *event);
    // Notes what on_event will touch when the next piece of a stream comes; NULL nothing.
    void (*near)(void *user, struct td_near *near);
    void *user;
};

// What an attempt cost in time and bytes, for the ledger; valid after END, ERROR, and readable before cancel.
struct td_attempt_stats {
    uint64_t start_ns, connected_ns, first_ns, end_ns; // monotonic; 0 did not happen
    uint64_t bytes_out, bytes_in;
    bool reused_connection;
    uint32_t prompt_tokens, completion_tokens;     // counted by the backend where it can
    float mean_logprob, min_logprob, mean_entropy; // NaN unknown
};

struct td_backend {
    const struct td_backend_ops *ops;
};

struct td_backend_ops {
    const char *name;
    // Starts an attempt. A failure that is known at once is returned (nothing was sent, no callback comes); all else
    // arrives as events, never from inside start.
    enum td_err (*start)(struct td_backend *b, const struct td_attempt_spec *spec, struct td_attempt **out,
                         struct td_error *e) TD_MUST_USE;
    // Stops it, at once and for good; frees the attempt. Also the way to free one that ended.
    void (*destroy)(struct td_backend *b, struct td_attempt *a);
    // Back-pressure: between pause and resume no DELTA is handed up; what arrives meanwhile is bounded by flow control.
    void (*pause)(struct td_backend *b, struct td_attempt *a);
    void (*resume)(struct td_backend *b, struct td_attempt *a);
    void (*stats)(struct td_backend *b, const struct td_attempt *a, struct td_attempt_stats *out);
    // The whole request has left: spec.body is not read any more and may go.
    bool (*sent)(struct td_backend *b, const struct td_attempt *a);
};

#endif
