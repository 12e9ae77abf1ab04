// SPDX-License-Identifier: Apache-2.0
// Links: bytes to a guest, and frames from it to the attempts that they are for.
#include "local/attempt.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES (64u << 10) // one turn of the loop reads at most this from one guest

static void sweep_soon(struct td_local *local) {
    td_timer_arm(local->sweeper, 0);
}

void td_link_break(struct td_link *link) {
    enum td_err err = td_watch_set(link->watch, 0); // taking a watch off cannot fail
    (void)err;
    link->broken = true;
    sweep_soon(link->local);
}

void td_link_flush(struct td_link *link) {
    while (link->out.n && !link->broken) {
        ssize_t n = send(link->fd, link->out.p, link->out.n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            td_buf_drop(&link->out, (size_t)n);
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            td_link_break(link);
        break;
    }
    if (!link->broken && td_watch_set(link->watch, TD_WATCH_READ | (link->out.n ? TD_WATCH_WRITE : 0)) != TD_OK)
        td_link_break(link);
}

void td_link_send(struct td_link *link, enum td_frame_type type, uint32_t id, const uint32_t *n) {
    struct td_proto_writer w;
    if (link->broken)
        return;
    td_proto_begin(&w, &link->out, type, id);
    if (n)
        td_proto_u32(&w, *n);
    if (td_proto_end(&w) != TD_OK)
        td_link_break(link);
    else
        td_link_flush(link);
}

void td_link_destroy(struct td_link *link) {
    td_watch_destroy(link->watch);
    close(link->fd);
    td_buf_finish(&link->in);
    td_buf_finish(&link->out);
    td_guest_drop(link->local->manager, link->guest);
    td_free(link);
}

static struct td_attempt *find(struct td_link *link, uint32_t id) {
    for (struct td_attempt *a = link->attempts; a; a = a->next)
        if (a->id == id)
            return a;
    return NULL;
}

// Hands out or holds one frame. False: the guest broke the protocol.
static bool deliver(struct td_link *link, const struct td_frame *f, size_t bytes) {
    struct td_attempt *a = find(link, f->id);
    bool alive;
    if (!a)
        return f->id != 0 && f->id < link->next_id; // cancelled a moment ago
    a->stats.bytes_in += bytes;
    if (!a->paused && a->held.n == 0)
        return td_local_take(a, f, &alive);
    // Credits bound what can come; the ceiling is for a guest that ignores them.
    return td_buf_add(&a->held, f->body.p - TD_PROTO_HEADER_BYTES, bytes) == TD_OK;
}

static void read_link(struct td_link *link) {
    char *to = td_buf_reserve(&link->in, READ_BYTES);
    ssize_t n = to ? recv(link->fd, to, READ_BYTES, MSG_DONTWAIT) : -1;
    if (n < 0 && to && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        td_link_break(link);
        return;
    }
    td_buf_grew(&link->in, (size_t)n);
    size_t at = 0, used = 1;
    // The sweeper runs from the loop only, so the link outlives this call.
    while (used && !link->broken) {
        struct td_frame f;
        if (td_proto_next(td_str_n(link->in.p + at, link->in.n - at), TD_HOST_FRAME_BYTES_MAX, &f, &used) != TD_OK ||
            (used && !deliver(link, &f, used))) {
            td_manager_condemn(link->local->manager, link->guest);
            td_link_break(link);
            break;
        }
        at += used;
    }
    td_buf_drop(&link->in, at);
}

static void on_link(void *arg, int events) {
    struct td_link *link = arg;
    if (events & TD_WATCH_WRITE)
        td_link_flush(link);
    if (events & TD_WATCH_READ && !link->broken)
        read_link(link);
}

void td_local_replay(struct td_attempt *a) {
    struct td_local *local = a->local;
    struct td_link *link = a->link;
    size_t at = 0, used = 1;
    bool alive = true, ok = true;
    struct td_buf held = a->held; // the attempt may go while its frames are read
    td_buf_init(&a->held, TD_HOST_FRAME_BYTES_MAX);
    while (alive && ok && a->state == TD_LOCAL_SENT && !a->paused && used) {
        struct td_frame f;
        ok = td_proto_next(td_str_n(held.p + at, held.n - at), TD_HOST_FRAME_BYTES_MAX, &f, &used) == TD_OK;
        at += used;
        if (ok && used)
            ok = td_local_take(a, &f, &alive);
    }
    if (!ok) {
        td_manager_condemn(local->manager, link->guest);
        td_link_break(link);
    }
    if (alive && a->state == TD_LOCAL_SENT && td_buf_add(&a->held, held.p + at, held.n - at) != TD_OK)
        td_link_break(link);
    td_buf_finish(&held);
}

struct td_link *td_link_find(struct td_local *local, struct td_guest *guest) {
    for (struct td_link *link = local->links; link; link = link->next)
        if (link->guest == guest && !link->broken)
            return link;
    struct td_link *link = td_calloc(1, sizeof *link);
    int fd = link ? td_guest_connection(local->manager, guest, local->worker) : -1;
    struct td_watch *watch = fd >= 0 ? td_watch_create(local->loop, fd, on_link, link) : NULL;
    if (!watch || td_watch_set(watch, TD_WATCH_READ) != TD_OK) {
        // Without memory the connection goes back, and another try follows soon.
        td_watch_destroy(watch);
        td_guest_return(local->manager, guest, local->worker, fd);
        td_free(link);
        td_timer_arm(local->sweeper, 50);
        return NULL;
    }
    *link =
        (struct td_link){.next = local->links, .local = local, .guest = guest, .fd = fd, .watch = watch, .next_id = 1};
    td_buf_init(&link->in, TD_HOST_FRAME_BYTES_MAX + READ_BYTES * 2);
    td_buf_init(&link->out, 4ull * TD_HOST_FRAME_BYTES_MAX);
    td_guest_hold(local->manager, guest);
    local->links = link;
    return link;
}
