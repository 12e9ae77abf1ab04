// SPDX-License-Identifier: Apache-2.0
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

uint64_t td_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * TD_S_NS + (uint64_t)t.tv_nsec;
}

int64_t td_wall_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void from_kernel(void *p, size_t n) {
    unsigned char *at = p;
    while (n > 0) {
        ssize_t got = getrandom(at, n > 256 ? 256 : n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
            got = fd >= 0 ? read(fd, at, n) : -1;
            if (fd >= 0)
                close(fd);
            if (got <= 0)
                __builtin_trap(); // no randomness at all: keys and ids would be guessable
        }
        at += got;
        n -= (size_t)got;
    }
}

// Ids and draws come out of a small store per thread, filled by one system call for many; what was given out is wiped.
// A forked child throws its parent's away. Keys never come from it.
#define STORE_BYTES 256u // what getrandom gives in one piece, whatever the signals
#define FROM_STORE_MAX 16u

static atomic_uint forks;
static pthread_once_t watch_once = PTHREAD_ONCE_INIT;
static bool watched;

static void on_fork(void) {
    atomic_fetch_add(&forks, 1);
}

static void watch_forks(void) {
    watched = pthread_atfork(NULL, NULL, on_fork) == 0;
}

void td_random(void *p, size_t n) {
    static _Thread_local struct {
        unsigned char bytes[STORE_BYTES];
        size_t left;
        unsigned forks;
    } store;
    if (store.left == 0)
        pthread_once(&watch_once, watch_forks);
    if (n > FROM_STORE_MAX || !watched) {
        from_kernel(p, n);
        return;
    }
    unsigned now = atomic_load_explicit(&forks, memory_order_relaxed);
    if (store.left < n || store.forks != now) {
        from_kernel(store.bytes, sizeof store.bytes);
        store.left = sizeof store.bytes;
        store.forks = now;
    }
    store.left -= n;
    memcpy(p, store.bytes + store.left, n);
    explicit_bzero(store.bytes + store.left, n);
}

void td_id_new(char out[27]) {
    static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    unsigned char r[10];
    uint64_t ms = (uint64_t)td_wall_ms();
    td_random(r, sizeof r);
    for (int i = 9; i >= 0; i--, ms >>= 5)
        out[i] = digits[ms & 31];
    for (int half = 0; half < 2; half++) {
        uint64_t v = 0;
        for (int i = 0; i < 5; i++)
            v = v << 8 | r[half * 5 + i];
        for (int i = 7; i >= 0; i--, v >>= 5)
            out[10 + half * 8 + i] = digits[v & 31];
    }
    out[26] = 0;
}
