// SPDX-License-Identifier: Apache-2.0
// Drives remote/ in a test: a loop, a remote, targets, and attempts whose events are written down.
#ifndef TD_TESTS_DRIVE_H
#define TD_TESTS_DRIVE_H

#include "unit.h"

#include <stdio.h>

#include "base/time.h"
#include "child.h"
#include "loop/loop.h"
#include "remote/remote.h"

struct drive {
    struct upstream up;
    struct td_loop *loop;
    struct td_remote *remote;
    struct td_backend *backend;
    struct td_arena arena;
    struct td_target target;
    const struct td_target *use; // the one for the next attempt; NULL: target
    char url[256], ca[128];
    struct td_timer *guard;
    uint32_t connect_ms; // of the next attempt
    unsigned waiting;    // attempts to wait for
    bool strict;         // running out of time is a failure
};

struct take { // one attempt and what it gave
    struct drive *d;
    struct td_attempt *attempt;
    struct td_buf text;
    unsigned deltas, starts, finishes, ends, errors, tool_calls, vectors;
    enum td_err code;
    int http_status;
    uint32_t retry_after_ms;
    char message[256];
    bool damaged, inside;
    uint64_t start_ns, first_ns, end_ns;
    unsigned destroy_after; // deltas; 0 never
    unsigned pause_after;
    void (*on_delta)(struct take *t);
    struct td_usage usage;
    struct td_attempt_stats stats;
};

void drive_open(struct drive *d, const struct td_remote_options *options, const char *const *args);
void drive_close(struct drive *d);
// Points the target at the plain port, or at `port` over TLS.
void drive_plain(struct drive *d);
void drive_tls(struct drive *d, uint16_t port);
// The upstream as at its start, and the target pointed at it, plain or over TLS.
void drive_fresh(struct drive *d, bool tls);
// What it does with the next requests: behaviours (tests/support/upstream.h), separated by commas.
void drive_script(struct drive *d, const char *queue);
void drive_url(struct drive *d, const char *url);
// Starts a streamed chat of this prompt.
enum td_err take_start(struct take *t, struct drive *d, const char *prompt, bool stream);
enum td_err take_start_body(struct take *t, struct drive *d, enum td_kind kind, const char *body, bool stream);
void take_finish(struct take *t);
// Runs the loop until nothing waits any more (at most a minute) or for `ms`.
void drive_run(struct drive *d);
// Ends drive_run.
void drive_stop(struct drive *d);
void drive_run_ms(struct drive *d, unsigned ms);
// Start, run, destroy; the outcome in *t (free its text with take_finish).
void drive_once(struct drive *d, struct take *t, const char *prompt);
struct td_grant *drive_grant(struct drive *d, enum td_grant_kind kind, struct td_str url, struct td_str bytes);

#endif
