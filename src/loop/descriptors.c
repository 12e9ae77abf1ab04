// SPDX-License-Identifier: Apache-2.0
#include "loop/descriptors.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "base/counters.h"

#define RESERVED 32u    // two model hosts being started, the store's files, a few names and secrets
#define SHED_AT_ONCE 8u // of each shedder: shortage comes in bursts, and each costs somebody a new connection
#define SHEDDERS_MAX 8u // of one loop: its listener and its way out, with room

static atomic_uint limit; // 0 not known
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, td_fd_shedder) shedders = LIST_HEAD_INITIALIZER(shedders);
static struct td_counter *short_count, *shed_count;

void td_fd_limit_raise(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return;
    if (files.rlim_cur < files.rlim_max) {
        rlim_t before = files.rlim_cur;
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0)
            files.rlim_cur = before;
    }
    unsigned n = files.rlim_cur < INT32_MAX ? (unsigned)files.rlim_cur : INT32_MAX;
    atomic_store(&limit, n);
    td_gauge_set(td_gauge_get("tandem_descriptors_limit", "File descriptors that the process may have."), n);
}

enum td_fd_room td_fd_room(int fd) {
    unsigned most = atomic_load_explicit(&limit, memory_order_relaxed);
    unsigned kept = most / 4 < RESERVED ? most / 4 : RESERVED;
    if (fd < 0)
        return errno == EMFILE || errno == ENFILE ? TD_FD_SHORT : TD_FD_PLENTY;
    return !most || (unsigned)fd + 2 * kept < most ? TD_FD_PLENTY
           : (unsigned)fd + kept < most            ? TD_FD_TIGHT
                                                   : TD_FD_SHORT;
}

void td_fd_shedder_add(struct td_fd_shedder *own, struct td_loop *loop, unsigned (*shed)(void *arg, unsigned max),
                       void *arg) {
    *own = (struct td_fd_shedder){.loop = loop, .shed = shed, .arg = arg};
    pthread_mutex_lock(&lock);
    if (!shed_count) {
        short_count = td_counter_get("tandem_descriptors_short_total",
                                     "Times that few or no file descriptors were left for a connection.");
        shed_count =
            td_counter_get("tandem_descriptors_shed_total", "Idle connections closed to make room for others.");
    }
    LIST_INSERT_HEAD(&shedders, own, all);
    pthread_mutex_unlock(&lock);
}

void td_fd_shedder_remove(struct td_fd_shedder *own) {
    if (!own->loop)
        return;
    pthread_mutex_lock(&lock);
    LIST_REMOVE(own, all);
    pthread_mutex_unlock(&lock);
    own->loop = NULL;
}

// On the loop's thread, on which alone its shedders come and go.
static unsigned shed_of(struct td_loop *loop) {
    struct td_fd_shedder *mine[SHEDDERS_MAX], *s;
    unsigned count = 0, closed = 0;
    pthread_mutex_lock(&lock);
    LIST_FOREACH(s, &shedders, all) {
        if (s->loop != loop || count == SHEDDERS_MAX)
            continue;
        s->asked = false;
        mine[count++] = s;
    }
    pthread_mutex_unlock(&lock);
    for (unsigned i = 0; i < count; i++)
        closed += mine[i]->shed(mine[i]->arg, SHED_AT_ONCE);
    td_counter_add(shed_count, closed);
    return closed;
}

static void on_asked(void *arg) {
    (void)shed_of(arg);
}

// Under the lock: a loop whose shedders are all removed may be gone. Once is enough until it has been heard.
static void ask_others(struct td_loop *loop) {
    struct td_fd_shedder *s, *of_same;
    LIST_FOREACH(s, &shedders, all) {
        if (s->loop == loop || s->asked || td_loop_post(s->loop, on_asked, s->loop) != TD_OK)
            continue;
        LIST_FOREACH(of_same, &shedders, all) {
            of_same->asked = of_same->asked || of_same->loop == s->loop;
        }
    }
}

unsigned td_fd_shed(struct td_loop *loop) {
    td_counter_add(short_count, 1);
    pthread_mutex_lock(&lock);
    ask_others(loop);
    pthread_mutex_unlock(&lock);
    return loop ? shed_of(loop) : 0;
}
