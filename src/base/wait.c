// SPDX-License-Identifier: Apache-2.0
#include "base/wait.h"

#include <errno.h>
#include <time.h>

#include "base/time.h"

void td_wait_init(pthread_cond_t *cond) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

bool td_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns) {
    struct timespec t = {(time_t)(until_ns / TD_S_NS), (long)(until_ns % TD_S_NS)};
    return pthread_cond_timedwait(cond, lock, &t) != ETIMEDOUT;
}

bool td_wait_nap(pthread_cond_t *cond, pthread_mutex_t *lock, const bool *stop, uint32_t ms) {
    uint64_t until_ns = td_now_ns() + ms * TD_MS_NS;
    pthread_mutex_lock(lock);
    if (!*stop)
        td_wait_until(cond, lock, until_ns);
    bool go_on = !*stop;
    pthread_mutex_unlock(lock);
    return go_on;
}
