// SPDX-License-Identifier: Apache-2.0
#include "remote/dial.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "loop/descriptors.h"

#define KEEP_ALIVE_S 60 // a peer that is gone for good is noticed within minutes, also in a long silence

struct try {
    struct td_dial *d;
    struct event ev;
    int fd; // -1: not begun, or failed
    struct sockaddr_storage address;
};

struct td_dial {
    struct td_loop *loop;
    td_dial_fn fn;
    void *user;
    struct event delay;
    uint32_t count, next, running;
    int error;
    struct try tries[];
};

static void give_up(struct try *t) {
    if (t->fd < 0)
        return;
    event_del(&t->ev);
    close(t->fd);
    t->fd = -1;
    t->d->running--;
}

void td_dial_cancel(struct td_dial *d) {
    if (!d)
        return;
    event_del(&d->delay);
    for (uint32_t i = 0; i < d->count; i++)
        give_up(&d->tries[i]);
    td_free(d);
}

static void on_answer(evutil_socket_t fd, short what, void *arg);

int td_dial_socket(struct td_loop *loop, int family, int type, int protocol) {
    int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    if (td_fd_room(fd) == TD_FD_PLENTY)
        return fd;
    if (td_fd_room(fd) == TD_FD_SHORT && fd >= 0)
        close(fd), fd = -1;
    unsigned closed = td_fd_shed(loop);
    if (fd < 0 && closed)
        fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    if (fd >= 0 && td_fd_room(fd) != TD_FD_SHORT)
        return fd;
    if (fd >= 0)
        close(fd);
    errno = EMFILE;
    return -1;
}

static int open_socket(struct td_loop *loop, int family) {
    int fd = td_dial_socket(loop, family, SOCK_STREAM, IPPROTO_TCP), one = 1, seconds = KEEP_ALIVE_S;
    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds);
    return fd;
}

static bool begin(struct try *t) {
    struct td_dial *d = t->d;
    const struct sockaddr *address = (const struct sockaddr *)(const void *)&t->address;
    socklen_t n = t->address.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    t->fd = open_socket(d->loop, address->sa_family);
    if (t->fd < 0) {
        d->error = errno;
        return false;
    }
    d->running++;
    errno = 0;
    event_assign(&t->ev, td_loop_base(d->loop), t->fd, EV_WRITE, on_answer, t);
    // Also a connection that stands at once is heard of through the loop.
    if ((connect(t->fd, address, n) != 0 && errno != EINPROGRESS) || event_add(&t->ev, NULL) != 0) {
        d->error = errno ? errno : ENOMEM;
        give_up(t);
        return false;
    }
    return true;
}

// Begins with the next address that can be begun with. False: there is none.
static bool begin_next(struct td_dial *d) {
    while (d->next < d->count) {
        if (!begin(&d->tries[d->next++]))
            continue;
        if (d->next < d->count) {
            struct timeval delay = {0, TD_DIAL_DELAY_MS * 1000};
            event_add(&d->delay, &delay); // without memory for it the next one waits for this one to fail
        }
        return true;
    }
    return false;
}

static void on_delay(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    (void)begin_next(arg);
}

static void on_answer(evutil_socket_t fd, short what, void *arg) {
    struct try *t = arg;
    struct td_dial *d = t->d;
    int error = 0;
    socklen_t n = sizeof error;
    (void)what;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) != 0)
        error = errno;
    td_dial_fn fn = d->fn;
    void *user = d->user;
    if (error) {
        d->error = error;
        give_up(t);
        if (begin_next(d) || d->running)
            return;
        td_dial_cancel(d);
        fn(user, -1, error);
        return;
    }
    event_del(&t->ev);
    t->fd = -1; // not ours any more
    td_dial_cancel(d);
    fn(user, fd, 0);
}

enum td_err td_dial_start(struct td_loop *loop, const struct sockaddr_storage *list, uint32_t count, uint32_t scopes,
                          td_dial_fn fn, void *user, struct td_dial **out, int *error) {
    struct td_dial *d = td_calloc(1, sizeof *d + count * sizeof d->tries[0]);
    *error = 0;
    if (!d)
        return TD_ERR_NOMEM;
    d->loop = loop;
    d->fn = fn;
    d->user = user;
    evtimer_assign(&d->delay, td_loop_base(loop), on_delay, d);
    for (uint32_t i = 0; i < count; i++)
        if (td_address_scope((const struct sockaddr *)(const void *)&list[i]) & scopes)
            d->tries[d->count++] = (struct try){.d = d, .fd = -1, .address = list[i]};
    if (!begin_next(d)) {
        *error = d->error;
        td_dial_cancel(d);
        return TD_ERR_CONNECT;
    }
    *out = d;
    return TD_OK;
}
