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

enum td_err td_side_start(struct td_side *side, const char *name, void *(*fn)(void *), void *arg) {
    side->stop = false;
    pthread_mutex_init(&side->lock, NULL);
    td_wait_init(&side->cond);
    if (pthread_create(&side->thread, NULL, fn, arg) != 0) {
        pthread_cond_destroy(&side->cond);
        pthread_mutex_destroy(&side->lock);
        return TD_ERR_IO;
    }
    pthread_setname_np(side->thread, name);
    return TD_OK;
}

void td_side_stop(struct td_side *side) {
    pthread_mutex_lock(&side->lock);
    side->stop = true;
    pthread_cond_broadcast(&side->cond);
    pthread_mutex_unlock(&side->lock);
    pthread_join(side->thread, NULL);
    pthread_cond_destroy(&side->cond);
    pthread_mutex_destroy(&side->lock);
}

bool td_side_nap(struct td_side *side, uint32_t ms) {
    uint64_t until_ns = td_now_ns() + ms * TD_MS_NS;
    pthread_mutex_lock(&side->lock);
    if (!side->stop)
        td_wait_until(&side->cond, &side->lock, until_ns);
    bool go_on = !side->stop;
    pthread_mutex_unlock(&side->lock);
    return go_on;
}
