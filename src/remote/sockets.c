// SPDX-License-Identifier: Apache-2.0
// Sockets of idle kept connections stay registered with the loop, so that reusing one costs no system call; what the
// open and close callbacks see keeps that table true.
#include "remote/sockets.h"

#include <event2/event.h>
#include <netinet/in.h>
#include <unistd.h>

#include "base/time.h"
#include "loop/loop.h"

struct td_sock {
    struct event *ev;
    struct td_remote *r;
    short registered; // EV_READ | EV_WRITE as the loop has it
    uint64_t idle;    // libcurl does not watch it now, and how many had become so before; 0 it does
};

static void on_sock(evutil_socket_t fd, short what, void *arg) {
    struct td_sock *s = arg;
    struct td_remote *r = s->r;
    int running;
    if (s->idle) { // the other side closed a kept connection; libcurl will find out when it wants to reuse it
        event_del(s->ev);
        s->registered = 0;
        return;
    }
    r->in_curl = true;
    curl_multi_socket_action(
        r->multi, fd, (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0), &running);
    r->in_curl = false;
    td_engine_settle(r);
}

static struct td_sock *sock_of(struct td_remote *r, curl_socket_t fd) {
    return fd >= 0 && (size_t)fd < r->sock_count ? r->socks[fd] : NULL;
}

void td_sockets_forget(struct td_remote *r, curl_socket_t fd) {
    struct td_sock *s = sock_of(r, fd);
    if (!s)
        return;
    event_free(s->ev);
    td_free(s);
    r->socks[fd] = NULL;
}

static struct td_sock *sock_make(struct td_remote *r, curl_socket_t fd) {
    if ((size_t)fd >= r->sock_count) {
        size_t count = (size_t)fd + 64;
        struct td_sock **socks = td_realloc(r->socks, count * sizeof *socks);
        if (!socks)
            return NULL;
        memset(socks + r->sock_count, 0, (count - r->sock_count) * sizeof *socks);
        r->socks = socks;
        r->sock_count = count;
    }
    struct td_sock *s = td_calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->r = r;
    s->ev = event_new(td_loop_base(r->loop), fd, EV_READ | EV_PERSIST, on_sock, s);
    if (!s->ev) {
        td_free(s);
        return NULL;
    }
    return r->socks[fd] = s;
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *sock) {
    struct td_remote *r = user;
    struct td_sock *s = sock_of(r, fd);
    (void)easy, (void)sock;
    if (what == CURL_POLL_REMOVE) {
        if (s && s->registered && s->registered != EV_READ) {
            event_del(s->ev);
            s->registered = 0;
        } else if (!s || !s->registered) {
            return 0;
        }
        s->idle = ++r->idle_count;
        return 0;
    }
    short want = (short)((what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0));
    if (!s && !(s = sock_make(r, fd)))
        return -1;
    s->idle = 0;
    if (s->registered == want)
        return 0;
    event_del(s->ev);
    s->registered = 0;
    if (event_assign(s->ev, td_loop_base(r->loop), fd, (short)(want | EV_PERSIST), on_sock, s) != 0 ||
        event_add(s->ev, NULL) != 0)
        return -1;
    s->registered = want;
    return 0;
}

static void arm(struct td_remote *r, uint64_t now) {
    uint64_t us = r->due_ns > now ? (r->due_ns - now) / 1000 : 0;
    struct timeval tv = {(time_t)(us / 1000000), (suseconds_t)(us % 1000000)};
    r->armed_ns = evtimer_add(r->timer, &tv) == 0 ? r->due_ns : 0;
}

// Arming is lazy: a timer that fires too early is set again, one that is no longer wanted just fires.
static int on_curl_timer(CURLM *multi, long timeout_ms, void *user) {
    struct td_remote *r = user;
    (void)multi;
    r->due_now = timeout_ms == 0;
    r->due_ns = 0;
    if (timeout_ms == 0 && !r->in_curl && !r->settling)
        event_active(r->kick, EV_TIMEOUT, 0);
    if (timeout_ms <= 0)
        return 0;
    uint64_t now = td_now_ns();
    r->due_ns = now + (uint64_t)timeout_ms * TD_MS_NS;
    if (!r->armed_ns || r->armed_ns > r->due_ns)
        arm(r, now);
    return 0;
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
    struct td_remote *r = arg;
    (void)fd, (void)what;
    uint64_t now = td_now_ns();
    r->armed_ns = 0;
    if (!r->due_ns)
        return;
    if (now < r->due_ns) {
        arm(r, now);
        return;
    }
    r->due_ns = 0;
    r->due_now = true;
    td_engine_settle(r);
}

static void on_kick(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    td_engine_settle(arg);
}

bool td_sockets_init(struct td_remote *r) {
    r->kick = event_new(td_loop_base(r->loop), -1, 0, on_kick, r);
    r->timer = evtimer_new(td_loop_base(r->loop), on_timer, r);
    return r->kick && r->timer && curl_multi_setopt(r->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket) == CURLM_OK &&
           curl_multi_setopt(r->multi, CURLMOPT_SOCKETDATA, r) == CURLM_OK &&
           curl_multi_setopt(r->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer) == CURLM_OK &&
           curl_multi_setopt(r->multi, CURLMOPT_TIMERDATA, r) == CURLM_OK;
}

void td_sockets_finish(struct td_remote *r) {
    for (size_t fd = 0; fd < r->sock_count; fd++)
        td_sockets_forget(r, (curl_socket_t)fd);
    td_free(r->socks);
    if (r->kick)
        event_free(r->kick);
    if (r->timer)
        event_free(r->timer);
}

// libcurl closes a kept connection only when it finds it dead: so the oldest are made to look so, and go within a
// second of the next one that is made.
void td_sockets_end_idle(struct td_remote *r, unsigned max) {
    uint64_t done = 0;
    for (; max; max--) {
        size_t oldest = r->sock_count;
        for (size_t fd = 0; fd < r->sock_count; fd++)
            if (r->socks[fd] && r->socks[fd]->registered && r->socks[fd]->idle > done &&
                (oldest == r->sock_count || r->socks[fd]->idle < r->socks[oldest]->idle))
                oldest = fd;
        if (oldest == r->sock_count)
            return;
        done = r->socks[oldest]->idle;
        shutdown((int)oldest, SHUT_RDWR);
    }
}

static int port_of(int fd, int (*name)(int, struct sockaddr *restrict, socklen_t *restrict)) {
    struct sockaddr_storage address = {0};
    socklen_t n = sizeof address;
    if (name(fd, (struct sockaddr *)(void *)&address, &n) != 0)
        return -1;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&address)->sin6_port
                                               : ((struct sockaddr_in *)(void *)&address)->sin_port);
}

int td_xfer_descriptor(const struct td_xfer *x) {
    for (size_t fd = 0; x->connected && fd < x->r->sock_count; fd++)
        if (x->r->socks[fd] && port_of((int)fd, getsockname) == x->local_port &&
            port_of((int)fd, getpeername) == x->peer_port)
            return (int)fd;
    return -1;
}
