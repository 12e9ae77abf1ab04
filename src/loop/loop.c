// SPDX-License-Identifier: Apache-2.0
#include "loop/loop.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/time.h"

// As many pieces of work are done one after the other as share their code in the processor's caches; more would only
// keep the first one's answer back.
enum { CALLS_PER_BREATH = 8 };

struct td_loop {
    struct event_base *base;
    struct event *wake, *soon;
    int wake_fd;
    struct td_post *later, **later_last;
    void (*on_breath)(void *arg);
    void *breath_arg;
    unsigned calls;       // since the last breath
    pthread_mutex_t lock; // guards the queue
    struct td_post *first, **last;
    atomic_bool stopping;
};

struct td_watch {
    struct td_loop *loop;
    struct event *event;
    int fd, events;
    void (*fn)(void *arg, int events);
    void *arg;
};

struct td_timer {
    struct event *event;
    void (*fn)(void *arg);
    void *arg;
};

static void run_posts(struct td_loop *loop) {
    pthread_mutex_lock(&loop->lock);
    struct td_post *p = loop->first;
    loop->first = NULL;
    loop->last = &loop->first;
    pthread_mutex_unlock(&loop->lock);
    while (p) {
        struct td_post *next = p->next;
        bool ours = p->allocated; // the caller's own may be gone after fn
        p->fn(p->arg);
        if (ours)
            td_free(p);
        p = next;
    }
}

static void on_soon(evutil_socket_t fd, short what, void *arg) {
    struct td_loop *loop = arg;
    struct td_post *p = loop->later;
    (void)fd, (void)what;
    loop->later = NULL;
    loop->later_last = &loop->later;
    for (struct td_post *next; p; p = next) {
        next = p->next;
        p->fn(p->arg);
    }
}

void td_loop_later(struct td_loop *loop, struct td_post *own, void (*fn)(void *arg), void *arg) {
    *own = (struct td_post){NULL, fn, arg, false};
    if (!loop->later)
        event_active(loop->soon, 0, 0);
    *loop->later_last = own;
    loop->later_last = &own->next;
}

void td_loop_on_breath(struct td_loop *loop, void (*fn)(void *arg), void *arg) {
    loop->on_breath = fn;
    loop->breath_arg = arg;
}

void td_loop_breathe(struct td_loop *loop) {
    if (++loop->calls < CALLS_PER_BREATH)
        return;
    loop->calls = 0;
    if (loop->on_breath)
        loop->on_breath(loop->breath_arg);
}

static void on_wake(evutil_socket_t fd, short what, void *arg) {
    struct td_loop *loop = arg;
    uint64_t n;
    (void)what;
    ssize_t got = read(fd, &n, sizeof n);
    (void)got; // EAGAIN only: another turn already drained it
    run_posts(loop);
    if (atomic_load(&loop->stopping))
        event_base_loopbreak(loop->base);
}

struct td_loop *td_loop_create(void) {
    struct td_loop *loop = td_calloc(1, sizeof *loop);
    struct event_config *config = event_config_new();
    if (!loop || !config)
        goto fail;
    loop->last = &loop->first;
    loop->later_last = &loop->later;
    loop->wake_fd = -1;
    pthread_mutex_init(&loop->lock, NULL);
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_PRECISE_TIMER);
    loop->base = event_base_new_with_config(config);
    loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!loop->base || loop->wake_fd < 0)
        goto fail;
    loop->wake = event_new(loop->base, loop->wake_fd, EV_READ | EV_PERSIST, on_wake, loop);
    loop->soon = event_new(loop->base, -1, 0, on_soon, loop);
    if (!loop->wake || !loop->soon || event_add(loop->wake, NULL) != 0)
        goto fail;
    event_config_free(config);
    return loop;
fail:
    if (config)
        event_config_free(config);
    td_loop_destroy(loop);
    return NULL;
}

void td_loop_destroy(struct td_loop *loop) {
    if (!loop)
        return;
    if (loop->last)
        run_posts(loop);
    if (loop->soon) {
        on_soon(-1, 0, loop);
        event_free(loop->soon);
    }
    if (loop->wake)
        event_free(loop->wake);
    if (loop->base)
        event_base_free(loop->base);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    pthread_mutex_destroy(&loop->lock);
    td_free(loop);
}

static void wake(struct td_loop *loop) {
    uint64_t one = 1;
    ssize_t put = write(loop->wake_fd, &one, sizeof one);
    (void)put; // a full eventfd is already readable
}

void td_loop_run(struct td_loop *loop) {
    td_keep_blocks(true);
    if (!atomic_load(&loop->stopping))
        event_base_loop(loop->base, EVLOOP_NO_EXIT_ON_EMPTY);
    td_keep_blocks(false);
}

void td_loop_stop(struct td_loop *loop) {
    atomic_store(&loop->stopping, true);
    wake(loop);
}

struct event_base *td_loop_base(struct td_loop *loop) {
    return loop->base;
}

uint64_t td_loop_now_ns(const struct td_loop *loop) {
    (void)loop;
    return td_now_ns();
}

static void add(struct td_loop *loop, struct td_post *p) {
    pthread_mutex_lock(&loop->lock);
    bool was_empty = loop->first == NULL;
    *loop->last = p;
    loop->last = &p->next;
    pthread_mutex_unlock(&loop->lock);
    if (was_empty)
        wake(loop);
}

enum td_err td_loop_post(struct td_loop *loop, void (*fn)(void *arg), void *arg) {
    struct td_post *p = td_malloc(sizeof *p);
    if (!p)
        return TD_ERR_NOMEM;
    *p = (struct td_post){NULL, fn, arg, true};
    add(loop, p);
    return TD_OK;
}

void td_loop_post_own(struct td_loop *loop, struct td_post *own, void (*fn)(void *arg), void *arg) {
    *own = (struct td_post){NULL, fn, arg, false};
    add(loop, own);
}

static void on_watch(evutil_socket_t fd, short what, void *arg) {
    struct td_watch *w = arg;
    (void)fd;
    w->fn(w->arg, (what & EV_READ ? TD_WATCH_READ : 0) | (what & EV_WRITE ? TD_WATCH_WRITE : 0));
}

struct td_watch *td_watch_create(struct td_loop *loop, int fd, void (*fn)(void *arg, int events), void *arg) {
    struct td_watch *w = td_calloc(1, sizeof *w);
    if (!w)
        return NULL;
    *w = (struct td_watch){.loop = loop, .fd = fd, .fn = fn, .arg = arg};
    w->event = event_new(loop->base, fd, EV_READ | EV_PERSIST, on_watch, w);
    if (!w->event) {
        td_free(w);
        return NULL;
    }
    return w;
}

enum td_err td_watch_set(struct td_watch *w, int events) {
    if (events == w->events)
        return TD_OK;
    event_del(w->event);
    w->events = 0;
    if (events == 0)
        return TD_OK;
    short what = (short)((events & TD_WATCH_READ ? EV_READ : 0) | (events & TD_WATCH_WRITE ? EV_WRITE : 0));
    if (event_assign(w->event, w->loop->base, w->fd, (short)(what | EV_PERSIST), on_watch, w) != 0 ||
        event_add(w->event, NULL) != 0)
        return TD_ERR_NOMEM;
    w->events = events;
    return TD_OK;
}

void td_watch_destroy(struct td_watch *w) {
    if (!w)
        return;
    event_free(w->event);
    td_free(w);
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
    struct td_timer *t = arg;
    (void)fd, (void)what;
    t->fn(t->arg);
}

struct td_timer *td_timer_create(struct td_loop *loop, void (*fn)(void *arg), void *arg) {
    struct td_timer *t = td_calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->fn = fn;
    t->arg = arg;
    t->event = evtimer_new(loop->base, on_timer, t);
    if (!t->event) {
        td_free(t);
        return NULL;
    }
    return t;
}

void td_timer_arm(struct td_timer *t, uint64_t after_ms) {
    struct timeval tv = {(time_t)(after_ms / 1000), (suseconds_t)(after_ms % 1000 * 1000)};
    evtimer_add(t->event, &tv); // cannot fail once allocated, save for lack of memory in the timer heap
}

void td_timer_disarm(struct td_timer *t) {
    event_del(t->event);
}

void td_timer_destroy(struct td_timer *t) {
    if (!t)
        return;
    event_free(t->event);
    td_free(t);
}
