// SPDX-License-Identifier: Apache-2.0
// A connection's life: (dial) -> IN USE by one attempt -> IDLE in its route's list -> IN USE … -> closed.
//
// In the usual case an attempt is one send (head, length and body are gathered by the kernel from where they lie) and,
// after a glance whether the connection is quiet, one receive into a buffer that all connections of the worker share: a
// reply is handed up as it was read, and what a connection keeps to itself is the beginning of a line at most. It stays
// registered with the loop all its life, so that neither taking it up nor putting it back is a system call, and the
// other side's closing is noticed while idle.
//
// An attempt may be stopped, destroyed and used again from inside what it hears. A connection therefore looks after
// each such call whether it still has its attempt, and is freed only when nothing of its own is on the stack.
#include "remote/plain.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/time.h"
#include "loop/loop.h"
#include "remote/attempt.h"
#include "remote/dial.h"
#include "remote/http_reply.h"
#include "remote/route.h"
#include "remote/unpack.h"

#define SCRATCH_BYTES (32u << 10)
#define PACKED_READ_BYTES (4u << 10) // small enough that what it inflates to can be held back
#define IDLE_S_MAX 118u              // as long as libcurl keeps its own
#define LOOK_EVERY 32u               // pieces, then it is noted anew where a stream's memory lies
#define TAIL_BYTES_MAX 192u          // the length, an idempotency key, the empty line

struct attempt;

struct td_conn_out {
    struct event ev;
    int fd;
    short watched;         // EV_READ | EV_WRITE as the loop has it
    bool used, busy, dead; // used: it carried a request before this one; busy: its own code is on the stack
    struct td_plain *plain;
    struct td_plain_route *route; // its list is where it waits; valid while idle
    struct attempt *user;         // NULL: idle
    uint32_t pieces;              // of the answer to `user`
    struct td_near near;          // what the next one will touch
    struct td_reply reply;
    struct td_buf kept; // the beginning of a line whose end has not come
    uint64_t idle_until_ns;
    TAILQ_ENTRY(td_conn_out) of_route, of_all;
};

enum { TODO_START = 1, TODO_GO_ON = 2 };

struct attempt {
    struct td_attempt a; // first
    struct td_conn_out *conn;
    struct td_dial *dial;
    struct td_name_waiter waiter;
    struct td_unpack *unpack;
    uint64_t raw; // bytes of a packed body
    size_t sent;  // of head and body
    bool sending; // there is more, and the connection takes it
    bool sent_all, resolving;
    uint8_t todo;
    TAILQ_ENTRY(attempt) todos;
};

struct td_plain {
    struct td_loop *loop;
    struct event *kick; // somebody asked for something
    struct td_timer *sweep;
    uint64_t sweep_ns; // when it will fire; 0 not armed
    TAILQ_HEAD(, attempt) todo;
    struct td_conns_out idle; // of all routes, the last one used first
    uint32_t idle_count, idle_max;
    char scratch[SCRATCH_BYTES];
};

static struct attempt *of(struct td_attempt *a) {
    return (struct attempt *)(void *)a;
}

static struct td_plain *plain_of(const struct attempt *t) {
    return t->a.r->plain;
}

static const struct td_attempt_end ended_whole = {.whole = true, .what = ""};
static const struct td_attempt_end ended_cut = {.cut = true, .err = TD_ERR_CUT, .what = "the connection broke"};

// ---- what is to be done outside of the caller's call

static void todo_add(struct attempt *t, uint8_t what) {
    struct td_plain *p = plain_of(t);
    if (!t->todo)
        TAILQ_INSERT_TAIL(&p->todo, t, todos);
    t->todo |= what;
    event_active(p->kick, EV_TIMEOUT, 0);
}

static void todo_forget(struct attempt *t) {
    if (t->todo)
        TAILQ_REMOVE(&plain_of(t)->todo, t, todos);
    t->todo = 0;
}

// ---- connections

static void on_ready(evutil_socket_t fd, short what, void *arg);

static bool watch(struct td_conn_out *c, short wanted) {
    if (c->watched == wanted)
        return true;
    event_del(&c->ev);
    c->watched = 0;
    if (!wanted)
        return true;
    event_assign(&c->ev, td_loop_base(c->plain->loop), c->fd, (short)(wanted | EV_PERSIST), on_ready, c);
    if (event_add(&c->ev, NULL) != 0)
        return false;
    c->watched = wanted;
    return true;
}

static void forget_kept(struct td_conn_out *c) {
    td_buf_finish(&c->kept);
    td_buf_init(&c->kept, TD_REPLY_HEADER_BYTES_MAX + SCRATCH_BYTES);
}

static void conn_free(struct td_conn_out *c) {
    td_buf_finish(&c->kept);
    td_free(c);
}

static void conn_close(struct td_conn_out *c) {
    event_del(&c->ev);
    close(c->fd);
    c->user = NULL;
    c->dead = true;
    if (!c->busy)
        conn_free(c);
}

static struct td_conn_out *conn_make(struct td_plain *p, int fd) {
    struct td_conn_out *c = td_calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return NULL;
    }
    c->fd = fd;
    c->plain = p;
    td_buf_init(&c->kept, TD_REPLY_HEADER_BYTES_MAX + SCRATCH_BYTES);
    event_assign(&c->ev, td_loop_base(p->loop), fd, EV_READ | EV_PERSIST, on_ready, c);
    return c;
}

static void idle_remove(struct td_conn_out *c) {
    TAILQ_REMOVE(&c->route->idle, c, of_route);
    TAILQ_REMOVE(&c->plain->idle, c, of_all);
    c->plain->idle_count--;
}

static void idle_close(struct td_conn_out *c) {
    idle_remove(c);
    conn_close(c);
}

static void sweep_at(struct td_plain *p, uint64_t at, uint64_t now) {
    if (p->sweep_ns && p->sweep_ns <= at)
        return;
    p->sweep_ns = at;
    td_timer_arm(p->sweep, at > now ? (at - now + TD_MS_NS - 1) / TD_MS_NS : 0);
}

static void on_sweep(void *arg) {
    struct td_plain *p = arg;
    uint64_t now = td_now_ns(), next = 0;
    p->sweep_ns = 0;
    for (struct td_conn_out *c = TAILQ_FIRST(&p->idle), *after; c; c = after) {
        after = TAILQ_NEXT(c, of_all);
        if (c->idle_until_ns <= now)
            idle_close(c);
        else if (!next || c->idle_until_ns < next)
            next = c->idle_until_ns;
    }
    if (next)
        sweep_at(p, next, now);
}

// Back into its route's list, or away. What the server said about how long it waits is taken with a second's margin.
static void conn_release(struct td_conn_out *c, struct td_plain_route *route) {
    struct td_plain *p = c->plain;
    uint32_t keep_s = c->reply.keep_s && c->reply.keep_s < IDLE_S_MAX ? c->reply.keep_s - 1 : IDLE_S_MAX;
    c->user = NULL;
    if (!td_reply_keeps(&c->reply) || !keep_s || !watch(c, EV_READ)) {
        conn_close(c);
        return;
    }
    forget_kept(c);
    c->used = true;
    c->route = route;
    uint64_t now = td_now_ns();
    c->idle_until_ns = now + keep_s * TD_S_NS;
    TAILQ_INSERT_HEAD(&route->idle, c, of_route);
    TAILQ_INSERT_HEAD(&p->idle, c, of_all);
    sweep_at(p, c->idle_until_ns, now);
    if (++p->idle_count > p->idle_max)
        idle_close(TAILQ_LAST(&p->idle, td_conns_out));
}

// A connection that has something to say before it is asked is not used: it was closed, or what is there already would
// be taken for the answer to a request that it has never seen. The loop would find out too, but perhaps only after the
// request has gone out, so the question is asked each time. It is the third and cheapest system call of a request.
static bool is_stale(const struct td_conn_out *c, uint64_t now) {
    char byte;
    return now >= c->idle_until_ns || recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 ||
           (errno != EAGAIN && errno != EWOULDBLOCK);
}

static struct td_conn_out *conn_take(struct td_plain_route *route) {
    struct td_conn_out *c;
    uint64_t now = td_now_ns();
    while ((c = TAILQ_FIRST(&route->idle)) != NULL) {
        idle_remove(c);
        if (!is_stale(c, now))
            return c;
        conn_close(c);
    }
    return NULL;
}

// ---- the end of a transfer

// Lets go of everything but the attempt itself.
static void let_go(struct attempt *t) {
    td_name_unwait(&t->waiter);
    td_dial_cancel(t->dial);
    t->dial = NULL;
    if (t->conn)
        conn_close(t->conn);
    t->conn = NULL;
    td_unpack_destroy(t->unpack);
    t->unpack = NULL;
    t->sending = t->resolving = false;
    todo_forget(t);
}

static void end(struct attempt *t, const struct td_attempt_end *how) {
    let_go(t);
    td_attempt_end(&t->a, how);
}

static void end_with(struct attempt *t, enum td_err err, const char *what) {
    struct td_attempt_end how = {.err = err, .what = what};
    end(t, &how);
}

// ---- the request

// What follows the ready-made pieces: the digits of the length, the idempotency key, the empty line.
static size_t write_tail(const struct attempt *t, char tail[TAIL_BYTES_MAX]) {
    static const char key_name[] = "\r\nIdempotency-Key: ";
    const struct td_attempt_spec *spec = &t->a.spec;
    char digits[TD_U64_DIGITS];
    size_t at = td_str_digits(digits, spec->body.n), n = sizeof digits - at;
    memcpy(tail, digits + at, n);
    if (spec->idempotency_key && spec->target->idempotency && td_attempt_key_fits(spec->idempotency_key)) {
        size_t key_n = strlen(spec->idempotency_key);
        memcpy(tail + n, key_name, sizeof key_name - 1);
        n += sizeof key_name - 1;
        memcpy(tail + n, spec->idempotency_key, key_n);
        n += key_n;
    }
    memcpy(tail + n, "\r\n\r\n", 4);
    return n + 4;
}

static short watched_by(const struct attempt *t) {
    return (short)((t->a.paused ? 0 : EV_READ) | (t->sending ? EV_WRITE : 0));
}

// Sends what the socket takes. False: the connection takes nothing any more.
static bool send_some(struct attempt *t) {
    const struct td_plain_route *route = &t->a.route->plain;
    const struct td_attempt_spec *spec = &t->a.spec;
    const struct td_buf *line = &route->lines[spec->kind], *fields = &route->fields[spec->stream];
    char tail[TAIL_BYTES_MAX];
    struct iovec parts[4] = {{line->p, line->n},
                             {fields->p, fields->n},
                             {tail, write_tail(t, tail)},
                             {(char *)(uintptr_t)spec->body.p, spec->body.n}};
    size_t skip = t->sent, left = 0, first = 0;
    for (size_t i = 0; i < 4; i++) {
        size_t gone = skip < parts[i].iov_len ? skip : parts[i].iov_len;
        parts[i].iov_base = (char *)parts[i].iov_base + gone;
        parts[i].iov_len -= gone;
        skip -= gone;
        left += parts[i].iov_len;
        first += first == i && !parts[i].iov_len;
    }
    struct msghdr m = {.msg_iov = parts + first, .msg_iovlen = 4 - first};
    ssize_t put = sendmsg(t->conn->fd, &m, MSG_NOSIGNAL);
    if (put < 0) {
        t->sending = errno == EAGAIN || errno == EINTR || errno == EWOULDBLOCK;
        return t->sending;
    }
    t->sent += (size_t)put;
    t->sent_all = (size_t)put == left;
    t->sending = !t->sent_all;
    return true;
}

static void begin(struct attempt *t);

static void send_first(struct attempt *t, struct td_conn_out *c) {
    t->conn = c;
    c->user = t;
    c->pieces = c->near.count = 0;
    td_reply_init(&c->reply);
    t->sent = 0;
    t->sent_all = false;
    if (!send_some(t)) {
        t->a.detail = strerror(errno);
        if (!c->used) {
            end(t, &ended_cut);
            return;
        }
        // Closed by the other side just now, and nothing of the request has left: another one may carry it.
        t->conn = NULL;
        conn_close(c);
        begin(t);
        return;
    }
    if (!watch(c, watched_by(t))) {
        end_with(t, TD_ERR_NOMEM, "out of memory");
        return;
    }
    td_attempt_connected(&t->a, c->used);
}

static void send_more(struct td_conn_out *c) {
    struct attempt *t = c->user;
    (void)send_some(t); // where nothing more is taken, the other side may have said why: reading goes on
    if (!watch(c, watched_by(t)))
        end_with(t, TD_ERR_NOMEM, "out of memory");
}

// ---- getting there

// A descriptor that is missing here says nothing about the target.
static void end_undialled(struct attempt *t, enum td_err err, int error) {
    t->a.detail = error ? strerror(error) : "";
    if (error == EMFILE || error == ENFILE)
        end_with(t, TD_ERR_OVERLOAD, TD_REMOTE_NO_DESCRIPTOR);
    else
        end_with(t, err,
                 err == TD_ERR_NOMEM ? "out of memory"
                 : error             ? "no connection"
                                     : "its address is not allowed for it");
}

static void on_dialled(void *user, int fd, int error) {
    struct attempt *t = user;
    t->dial = NULL;
    if (fd < 0) {
        end_undialled(t, TD_ERR_CONNECT, error);
        return;
    }
    struct td_conn_out *c = conn_make(plain_of(t), fd);
    if (!c)
        end_with(t, TD_ERR_NOMEM, "out of memory");
    else
        send_first(t, c);
}

static void dial(struct attempt *t, const struct sockaddr_storage *list, uint32_t count) {
    int error;
    enum td_err err =
        td_dial_start(plain_of(t)->loop, list, count, t->a.route->place.scopes, on_dialled, t, &t->dial, &error);
    if (err)
        end_undialled(t, err, error);
}

static void on_name(struct td_name_waiter *w, enum td_err err) {
    struct attempt *t = (struct attempt *)(void *)((char *)w - offsetof(struct attempt, waiter));
    t->resolving = false;
    if (err)
        end_with(t, TD_ERR_DNS, "its name could not be resolved");
    else
        begin(t);
}

static void begin(struct attempt *t) {
    struct route *route = t->a.route;
    struct td_conn_out *c = conn_take(&route->plain);
    if (c) {
        send_first(t, c);
        return;
    }
    struct td_name *name = route->place.name;
    if (!name) {
        dial(t, route->plain.places, route->plain.place_count);
        return;
    }
    const struct td_addresses *a = td_name_get(name);
    if (a) {
        dial(t, a->list, a->count);
        return;
    }
    t->resolving = td_name_wait(name, &t->waiter) == TD_OK;
    if (!t->resolving)
        end_with(t, TD_ERR_DNS, "its name could not be resolved");
}

static void on_kick(evutil_socket_t fd, short what, void *arg) {
    struct td_plain *p = arg;
    struct attempt *t;
    (void)fd, (void)what;
    while ((t = TAILQ_FIRST(&p->todo)) != NULL) {
        uint8_t todo = t->todo;
        todo_forget(t);
        if (todo & TODO_START)
            begin(t);
        else if (td_attempt_go_on(&t->a) && t->conn && !watch(t->conn, watched_by(t)))
            end_with(t, TD_ERR_NOMEM, "out of memory");
    }
}

// ---- the reply

// True: the connection still belongs to `t`.
static bool hand_plain(struct td_conn_out *c, struct attempt *t, struct td_str data, uint64_t raw) {
    bool on = td_attempt_body(&t->a, data.p, data.n, raw);
    if (c->user != t)
        return false;
    if (!on)
        end(t, &ended_cut);
    return on;
}

static bool hand_packed(struct td_conn_out *c, struct attempt *t, struct td_str in) {
    struct td_str made;
    if (!t->unpack && !(t->unpack = td_unpack_create())) {
        end_with(t, TD_ERR_NOMEM, "out of memory");
        return false;
    }
    t->raw += in.n;
    do {
        enum td_err err = td_unpack_some(t->unpack, &in, &made);
        if (err) {
            end_with(t, err, err == TD_ERR_NOMEM ? "out of memory" : "its answer's encoding is broken");
            return false;
        }
        if (made.n && !hand_plain(c, t, made, t->raw))
            return false;
    } while (made.n || in.n);
    return true;
}

static bool hand_body(struct td_conn_out *c, struct attempt *t, struct td_str data) {
    return t->a.packed ? hand_packed(c, t, data) : hand_plain(c, t, data, 0);
}

// The reply is whole. Its connection is put back before anybody hears of it, so that what is started from there finds
// it; not where more was sent than asked for, nor where the server answered before it had heard the whole request.
static void complete(struct td_conn_out *c, bool more) {
    struct attempt *t = c->user;
    struct td_attempt_end how = ended_whole;
    if (t->a.packed && t->unpack && !td_unpack_is_whole(t->unpack))
        how = (struct td_attempt_end){.err = TD_ERR_UPSTREAM_GARBAGE, .what = "its answer's encoding is broken"};
    t->conn = NULL;
    if (more || !t->sent_all || t->a.route->dropped)
        conn_close(c);
    else
        conn_release(c, &t->a.route->plain);
    end(t, &how);
}

// Keeps what was not taken for when more comes. `p` lies in c->kept or in the scratch.
static bool keep(struct td_conn_out *c, const char *p, size_t n) {
    if (n == 0) {
        forget_kept(c);
        return true;
    }
    if (c->kept.n) {
        td_buf_drop(&c->kept, c->kept.n - n);
        return true;
    }
    return td_buf_add(&c->kept, p, n) == TD_OK;
}

static void read_reply(struct td_conn_out *c, struct attempt *t, const char *p, size_t n) {
    struct td_reply_piece piece;
    for (;;) {
        size_t used;
        enum td_reply_step step = td_reply_read(&c->reply, p, n, &used, &piece);
        p += used;
        n -= used;
        switch (step) {
        case TD_REPLY_STATUS:
            td_attempt_status(&t->a, c->reply.status);
            break;
        case TD_REPLY_FIELD:
            td_attempt_field(&t->a, piece.name, piece.value);
            break;
        case TD_REPLY_DATA:
            if (!hand_body(c, t, piece.value))
                return;
            break;
        case TD_REPLY_END:
            complete(c, n > 0);
            return;
        case TD_REPLY_BAD:
            t->a.detail = c->reply.why;
            end_with(t, TD_ERR_UPSTREAM_GARBAGE, c->reply.why);
            return;
        case TD_REPLY_MORE:
            if (!keep(c, p, n))
                end_with(t, TD_ERR_NOMEM, "out of memory");
            return;
        }
    }
}

static void read_some(struct td_conn_out *c) {
    struct td_plain *p = c->plain;
    struct attempt *t = c->user;
    ssize_t got = recv(c->fd, p->scratch, t->a.packed ? PACKED_READ_BYTES : sizeof p->scratch, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR || errno == EWOULDBLOCK))
        return;
    if (got <= 0) {
        t->a.detail = got < 0 ? strerror(errno) : "closed by the other side";
        if (got == 0 && td_reply_ends_here(&c->reply)) {
            c->reply.close = true;
            complete(c, false);
        } else {
            end(t, &ended_cut);
        }
        return;
    }
    t->a.stats.bytes_in += (uint64_t)got;
    if (!c->kept.n)
        read_reply(c, t, p->scratch, (size_t)got);
    else if (td_buf_add(&c->kept, p->scratch, (size_t)got) != TD_OK)
        end_with(t, TD_ERR_NOMEM, "out of memory");
    else
        read_reply(c, t, c->kept.p, c->kept.n);
}

// Once the answer has begun, so that all it needs is there; its buffers move while they grow.
static void look_around(struct td_conn_out *c) {
    if (!c->user->a.spec.stream || !c->user->a.body_begun || c->pieces++ % LOOK_EVERY != 0)
        return;
    c->near.count = 0;
    td_near_add(&c->near, c->user, sizeof *c->user);
    td_attempt_near(&c->user->a, &c->near);
}

static void on_ready(evutil_socket_t fd, short what, void *arg) {
    struct td_conn_out *c = arg;
    (void)fd;
    if (!c->user) { // idle: closed by the other side, or bytes that nobody asked for
        idle_close(c);
        return;
    }
    c->busy = true;
    td_near_fetch(&c->near);
    if (what & EV_WRITE)
        send_more(c);
    if ((what & EV_READ) && c->user && !c->user->a.paused)
        read_some(c);
    if (c->user)
        look_around(c);
    c->busy = false;
    struct td_loop *loop = c->plain->loop;
    if (c->dead)
        conn_free(c);
    td_loop_breathe(loop);
}

// ---- as a carrier

static void carrier_destroy(struct td_attempt *a) {
    td_attempt_finish(a);
    td_free(a);
}

static struct td_attempt *carrier_make(struct td_remote *r, struct route *route) {
    struct attempt *t = td_calloc(1, sizeof *t);
    (void)route;
    if (!t)
        return NULL;
    t->waiter.fn = on_name;
    if (td_attempt_init(&t->a, r, &td_plain_carrier) != TD_OK) {
        carrier_destroy(&t->a);
        return NULL;
    }
    return &t->a;
}

static enum td_err carrier_prepare(struct td_attempt *a) {
    of(a)->raw = 0;
    of(a)->sent_all = false;
    return TD_OK;
}

static void carrier_start(struct td_attempt *a) {
    todo_add(of(a), TODO_START);
}

static void carrier_abort(struct td_attempt *a) {
    let_go(of(a));
}

static void carrier_stop(struct td_attempt *a) {
    let_go(of(a));
    td_attempt_stopped(a);
}

// Reading stops now; a failure to unregister cannot be, one to register again is met where it goes on.
static void carrier_pause(struct td_attempt *a) {
    struct attempt *t = of(a);
    if (t->conn)
        (void)watch(t->conn, (short)(t->sending ? EV_WRITE : 0));
}

static void carrier_go_on(struct td_attempt *a) {
    todo_add(of(a), TODO_GO_ON);
}

static bool carrier_is_resolving(const struct td_attempt *a) {
    return ((const struct attempt *)(const void *)a)->resolving;
}

static bool carrier_is_sent(const struct td_attempt *a) {
    return ((const struct attempt *)(const void *)a)->sent_all;
}

static int carrier_descriptor(const struct td_attempt *a) {
    const struct td_conn_out *c = ((const struct attempt *)(const void *)a)->conn;
    return c ? c->fd : -1;
}

const struct td_carrier td_plain_carrier = {carrier_make,  carrier_destroy,      carrier_prepare, carrier_start,
                                            carrier_stop,  carrier_abort,        carrier_pause,   carrier_pause,
                                            carrier_go_on, carrier_is_resolving, carrier_is_sent, carrier_descriptor};

void td_plain_route_drop(struct td_plain_route *route) {
    struct td_conn_out *c;
    while (route->plain && (c = TAILQ_FIRST(&route->idle)) != NULL)
        idle_close(c);
}

unsigned td_plain_shed(struct td_plain *p, unsigned max) {
    unsigned closed = 0;
    for (; closed < max && !TAILQ_EMPTY(&p->idle); closed++)
        idle_close(TAILQ_LAST(&p->idle, td_conns_out));
    return closed;
}

// ---- a worker's

struct td_plain *td_plain_create(struct td_loop *loop, uint32_t idle_max) {
    struct td_plain *p = td_calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->loop = loop;
    p->idle_max = idle_max;
    TAILQ_INIT(&p->todo);
    TAILQ_INIT(&p->idle);
    p->kick = event_new(td_loop_base(loop), -1, 0, on_kick, p);
    p->sweep = td_timer_create(loop, on_sweep, p);
    if (!p->kick || !p->sweep) {
        td_plain_destroy(p);
        return NULL;
    }
    return p;
}

void td_plain_destroy(struct td_plain *p) {
    if (!p)
        return;
    if (p->kick)
        event_free(p->kick);
    td_timer_destroy(p->sweep);
    td_free(p);
}
