// SPDX-License-Identifier: Apache-2.0
// The event loop of one worker thread: file descriptors, timers, and a queue through which other threads reach it. A
// thin layer over libevent; `td_loop_base` hands out the `struct event_base` for the few rooms that drive libraries of
// their own on it (server: the HTTP listener; remote: libcurl's sockets). Everything but td_loop_post, td_loop_post_own
// and td_loop_stop belongs to the loop's own thread.
#ifndef TD_LOOP_LOOP_H
#define TD_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct td_loop;
struct td_watch;
struct td_timer;
struct event_base;

enum { TD_WATCH_READ = 1, TD_WATCH_WRITE = 2 };

// Makes a loop; it runs when some thread calls td_loop_run. NULL without memory or descriptors.
struct td_loop *td_loop_create(void);
void td_loop_destroy(struct td_loop *loop);
// Runs until td_loop_stop. Call from the thread that shall own the loop.
void td_loop_run(struct td_loop *loop);
// Any thread.
void td_loop_stop(struct td_loop *loop);
struct event_base *td_loop_base(struct td_loop *loop);
// Monotonic nanoseconds, refreshed once per turn of the loop: cheap.
uint64_t td_loop_now_ns(const struct td_loop *loop);

// Runs fn(arg) on the loop's thread, in order of posting. Any thread. TD_ERR_NOMEM: it will not run.
enum td_err td_loop_post(struct td_loop *loop, void (*fn)(void *arg), void *arg) TD_MUST_USE;

// The same with the caller's own memory, for what must never fail: giving back, letting go. `own` stays untouched until
// fn was called, and may be freed by it.
struct td_post {
    struct td_post *next; // private, like the rest
    void (*fn)(void *arg);
    void *arg;
    bool allocated;
};
void td_loop_post_own(struct td_loop *loop, struct td_post *own, void (*fn)(void *arg), void *arg);
// Runs fn(arg) in this same turn of the loop, after what is ready now, in order; only on the loop's thread, and `own`
// as above. For work that many events of one turn bring along: done one kind after the other it finds its code in the
// processor's cache, which is a good part of what a small request costs.
void td_loop_later(struct td_loop *loop, struct td_post *own, void (*fn)(void *arg), void *arg);

// For who reads what many others wait for, at the end of a callback with nobody's code on the stack but the loop's:
// after every few such calls in a turn, fn(arg) is run, so that what is ready to leave need not wait for the end of a
// long turn. One fn a loop; NULL none.
void td_loop_on_breath(struct td_loop *loop, void (*fn)(void *arg), void *arg);
void td_loop_breathe(struct td_loop *loop);

// Watches a descriptor (level-triggered) until changed or destroyed. `events` 0 pauses it.
struct td_watch *td_watch_create(struct td_loop *loop, int fd, void (*fn)(void *arg, int events), void *arg);
enum td_err td_watch_set(struct td_watch *w, int events) TD_MUST_USE;
void td_watch_destroy(struct td_watch *w);

// A one-shot timer that can be armed again. fn runs on the loop's thread.
struct td_timer *td_timer_create(struct td_loop *loop, void (*fn)(void *arg), void *arg);
void td_timer_arm(struct td_timer *t, uint64_t after_ms); // replaces an earlier arming
void td_timer_disarm(struct td_timer *t);
void td_timer_destroy(struct td_timer *t);

#endif
