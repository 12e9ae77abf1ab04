// SPDX-License-Identifier: Apache-2.0
// Waiting on a condition with a limit, by the monotonic clock: a wall clock that jumps makes nobody wait longer; and a
// thread that works beside the workers until it is stopped. Any thread.
#ifndef TD_BASE_WAIT_H
#define TD_BASE_WAIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

// A condition for td_wait_until; destroyed with pthread_cond_destroy.
void td_wait_init(pthread_cond_t *cond);
// Waits with `lock` held until signalled (or woken for nothing) or until td_now_ns() is until_ns; false when that is
// past.
bool td_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns);

// A thread of its own, with the lock and the condition through which others reach it. What else they share is guarded
// by `lock` too.
struct td_side {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool stop; // under `lock`
};
// Runs fn(arg) under this name (15 bytes at most). On TD_ERR_IO nothing is left behind.
enum td_err td_side_start(struct td_side *side, const char *name, void *(*fn)(void *), void *arg) TD_MUST_USE;
// Sets `stop`, wakes whoever waits on the condition, and returns when fn has. Once after each start.
void td_side_stop(struct td_side *side);
// Sleeps at most ms, less when stopped; with `lock` not held. False when it is time to stop.
bool td_side_nap(struct td_side *side, uint32_t ms);

#endif
