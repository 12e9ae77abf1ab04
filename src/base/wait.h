// SPDX-License-Identifier: Apache-2.0
// Waiting on a condition with a limit, by the monotonic clock: a wall clock that jumps makes nobody wait longer. Any
// thread.
#ifndef TD_BASE_WAIT_H
#define TD_BASE_WAIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

// A condition for td_wait_until; destroyed with pthread_cond_destroy.
void td_wait_init(pthread_cond_t *cond);
// Waits with `lock` held until signalled (or woken for nothing) or until td_now_ns() is until_ns; false when that is
// past.
bool td_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns);
// Sleeps at most ms, less when *stop is set and the condition signalled; takes and gives back `lock`, which guards
// *stop. False when *stop is set.
bool td_wait_nap(pthread_cond_t *cond, pthread_mutex_t *lock, const bool *stop, uint32_t ms);

#endif
