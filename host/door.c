// SPDX-License-Identifier: Apache-2.0
// The door: frames in, frames out. Reads requests, renders and tokenises them, and queues them for the engine.
#include "host/guest.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TEMPLATE_S_MAX 1 // processor time after which a template is taken for an endless loop

// ---- connections

bool host_send(struct host_guest *g, struct host_conn *c, const struct td_buf *frames) {
    size_t sent = 0;
    pthread_mutex_lock(&c->lock);
    if (!c->broken && c->out.n == 0) {
        ssize_t n = send(c->fd, frames->p, frames->n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0)
            sent = (size_t)n;
        else if (errno != EAGAIN && errno != EINTR)
            c->broken = true;
    }
    if (!c->broken && sent < frames->n) {
        if (td_buf_add(&c->out, frames->p + sent, frames->n - sent) != TD_OK)
            c->broken = true;
        uint64_t one = 1;
        ssize_t put = write(g->wake_fd, &one, sizeof one);
        (void)put; // a full eventfd is readable already
    }
    bool ok = !c->broken;
    pthread_mutex_unlock(&c->lock);
    return ok;
}

static bool send_error(struct host_guest *g, struct host_conn *c, enum td_frame_type type, uint32_t id,
                       enum td_err code, const char *message) {
    struct td_buf b;
    td_buf_init(&b, TD_PROTO_CONTROL_BYTES_MAX);
    bool ok = td_proto_put_error(&b, type, id, code, td_str_of(message)) == TD_OK && host_send(g, c, &b);
    td_buf_finish(&b);
    return ok;
}

static void flush(struct host_conn *c) {
    pthread_mutex_lock(&c->lock);
    ssize_t n = c->out.n ? send(c->fd, c->out.p, c->out.n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (n > 0)
        td_buf_drop(&c->out, (size_t)n);
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
        c->broken = true;
    pthread_mutex_unlock(&c->lock);
}

// ---- requests

static timer_t watchdog; // the door's

static void on_watchdog(int sig) {
    (void)sig;
    _exit(HOST_EXIT_TEMPLATE);
}

timer_t host_watchdog_create(void) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    timer_t t;
    signal(SIGALRM, on_watchdog);
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &t) != 0)
        _exit(HOST_EXIT_SETUP);
    return t;
}

void host_watchdog_arm(timer_t t, bool on) {
    timer_settime(t, 0, &(struct itimerspec){.it_value = {.tv_sec = on ? TEMPLATE_S_MAX : 0}}, NULL);
}

static void on_request(struct host_guest *g, struct host_conn *c, const struct td_frame *f) {
    struct td_proto_request in;
    struct host_request *r = NULL;
    struct td_error e = {TD_OK, ""};
    if (!td_proto_get_request(f->body, &in))
        _exit(HOST_EXIT_PROTOCOL);
    host_watchdog_arm(watchdog, true);
    enum td_err err = host_request_read(g, c, f->id, &in, &r, &e);
    host_watchdog_arm(watchdog, false);
    if (err) {
        send_error(g, c, TD_FRAME_ERROR, f->id, err, e.message);
        host_note_end(g, err);
        pthread_mutex_lock(&g->lock);
        host_leave_if_starved(g);
        pthread_mutex_unlock(&g->lock);
        return;
    }
    pthread_mutex_lock(&g->lock);
    struct host_request **at = &g->requests;
    while (*at)
        at = &(*at)->next;
    *at = r;
    pthread_cond_signal(&g->work);
    pthread_mutex_unlock(&g->lock);
}

// `id` 0 with cancel: all of this connection.
static void on_flag(struct host_guest *g, struct host_conn *c, uint32_t id, uint32_t credits, bool cancel) {
    pthread_mutex_lock(&g->lock);
    for (struct host_request *r = g->requests; r; r = r->next) {
        if (r->conn != c || (id && r->id != id))
            continue;
        if (cancel)
            atomic_store(&r->cancelled, true);
        else
            atomic_fetch_add(&r->credits, credits);
    }
    pthread_cond_signal(&g->work);
    pthread_mutex_unlock(&g->lock);
}

static void on_frame(struct host_guest *g, struct host_conn *c, const struct td_frame *f) {
    struct td_proto_reader r;
    td_proto_read(&r, f->body);
    uint32_t n;
    if ((c == &g->conns[0]) != (f->type == TD_FRAME_PING))
        _exit(HOST_EXIT_PROTOCOL);
    switch (f->type) {
    case TD_FRAME_PING:
        pthread_mutex_lock(&g->lock);
        g->pinged = true;
        pthread_cond_signal(&g->work);
        pthread_mutex_unlock(&g->lock);
        return;
    case TD_FRAME_REQUEST:
        on_request(g, c, f);
        return;
    case TD_FRAME_CREDIT:
        n = td_proto_get_u32(&r);
        if (!td_proto_ok(&r) || n > TD_PROTO_CREDITS)
            _exit(HOST_EXIT_PROTOCOL);
        on_flag(g, c, f->id, n, false);
        return;
    case TD_FRAME_CANCEL:
        on_flag(g, c, f->id, 0, true);
        return;
    default:
        _exit(HOST_EXIT_PROTOCOL);
    }
}

static void read_frames(struct host_guest *g, struct host_conn *c) {
    char *to = td_buf_reserve(&c->in, 1 << 16);
    if (!to)
        _exit(TD_PROTO_EXIT_MEMORY); // whoever cannot listen any more must be replaced
    ssize_t n = recv(c->fd, to, 1 << 16, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        if (c == &g->conns[0])
            _exit(0);
        pthread_mutex_lock(&c->lock);
        c->broken = true;
        close(c->fd);
        c->fd = -1;
        pthread_mutex_unlock(&c->lock);
        on_flag(g, c, 0, 0, true);
        return;
    }
    td_buf_grew(&c->in, (size_t)n);
    size_t at = 0, used = 1;
    while (used) {
        struct td_frame f;
        if (td_proto_next(td_str_n(c->in.p + at, c->in.n - at), TD_HOST_FRAME_BYTES_MAX, &f, &used) != TD_OK)
            _exit(HOST_EXIT_PROTOCOL);
        if (used)
            on_frame(g, c, &f);
        at += used;
    }
    td_buf_drop(&c->in, at);
}

void host_door_serve(struct host_guest *g) {
    struct pollfd fds[HOST_CONNS_MAX + 1];
    for (;;) {
        for (uint32_t i = 0; i < g->conn_count; i++) {
            pthread_mutex_lock(&g->conns[i].lock);
            bool waiting = g->conns[i].out.n && !g->conns[i].broken;
            fds[i] = (struct pollfd){g->conns[i].fd, (short)(POLLIN | (waiting ? POLLOUT : 0)), 0};
            pthread_mutex_unlock(&g->conns[i].lock);
        }
        fds[g->conn_count] = (struct pollfd){g->wake_fd, POLLIN, 0};
        if (poll(fds, g->conn_count + 1, -1) < 0)
            continue;
        uint64_t n;
        if (fds[g->conn_count].revents && read(g->wake_fd, &n, sizeof n) < 0)
            continue;
        for (uint32_t i = 0; i < g->conn_count; i++) {
            if (fds[i].revents & POLLOUT)
                flush(&g->conns[i]);
            if (fds[i].revents & (POLLIN | POLLHUP | POLLERR))
                read_frames(g, &g->conns[i]);
        }
    }
}

void host_door_init(void) {
    watchdog = host_watchdog_create();
}
