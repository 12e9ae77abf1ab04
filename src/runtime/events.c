// SPDX-License-Identifier: Apache-2.0
#include "runtime/events.h"

#include <inttypes.h>
#include <time.h>

#include "base/time.h"
#include "base/wait.h"
#include "runtime/call.h"

#define LOOK_MS 250u           // how late an event may be when nobody wakes us
#define BATCH_MAX 64u          // events handed over at once
#define BATCH_BYTES (1u << 20) // where so much is gathered the rest waits: the listener reads that first
#define KEEPALIVE_MS 15000u    // a comment, so that proxies keep the connection

struct listener {
    struct listener *next;
    struct td_call *call; // a reference
    uint64_t after, last_sent_ns;
    void (*open)(struct td_call *call); // on its worker, once: it is known where it begins; NULL: done
};

struct td_events {
    struct td_runtime *rt;
    struct td_side side; // its lock guards the rest
    struct listener *listeners;
    bool woken;
};

// What travels to a listener's worker.
struct parcel {
    struct td_call *call;
    void (*open)(struct td_call *call);
    struct td_buf text;
};

static void on_parcel(void *arg) {
    struct parcel *p = arg;
    struct td_call *call = p->call;
    if (p->open)
        p->open(call);
    if (!call->released && !call->sink_done && p->text.n)
        call->sink->on_data(call->sink_user, p->text.p, p->text.n);
    atomic_store(&call->laden, false);
    td_buf_finish(&p->text);
    td_free(p);
    td_call_unref(call);
}

static void on_let_go(void *arg) {
    struct td_call *call = arg;
    if (!call->released && !call->sink_done) {
        call->sink_done = true;
        call->sink->on_end(call->sink_user, true);
    }
    td_call_unref(call); // the listener's reference
    td_call_unref(call); // the running one
}

struct gather {
    struct td_buf *out;
    uint64_t last;
    enum td_err err;
};

static bool on_event(void *user, const struct td_event_record *ev) {
    struct gather *g = user;
    size_t before = g->out->n;
    enum td_err err = td_buf_printf(g->out, "id: %" PRIu64 "\ndata: {\"id\":%" PRIu64 ",\"type\":", ev->id, ev->id);
    if (err == TD_OK)
        err = td_buf_add_json(g->out, ev->type);
    if (err == TD_OK)
        err = td_buf_addz(g->out, ",\"exchange\":");
    if (err == TD_OK)
        err = td_buf_add_json(g->out, ev->exchange);
    if (err == TD_OK)
        err = td_buf_printf(g->out, ",\"time_ms\":%" PRId64 ",\"data\":", ev->wall_ms);
    if (err == TD_OK)
        err = td_buf_add_str(g->out, ev->data.n ? ev->data : TD_STR("null"));
    if (err == TD_OK)
        err = td_buf_addz(g->out, "}\n\n");
    if (err == TD_OK)
        g->last = ev->id;
    else
        g->out->n = before; // it comes with the next parcel, alone
    g->err = before ? TD_OK : err;
    return err == TD_OK && g->out->n < BATCH_BYTES;
}

// One that does not say where it was begins with what comes from now on.
static bool knows_its_place(struct td_events *events, struct listener *l) {
    struct td_error e;
    return l->after != TD_EVENTS_FROM_NOW || td_events_last(events->rt->store, &l->after, &e) == TD_OK;
}

// Not before its client has taken what it was given: a slow one costs a parcel, not all that there is.
static void send_new(struct td_events *events, struct listener *l) {
    struct td_error e;
    uint64_t now = td_now_ns();
    if (atomic_load(&l->call->laden) || atomic_load(&l->call->client_stopped) || !knows_its_place(events, l))
        return;
    struct parcel *p = td_calloc(1, sizeof *p);
    if (!p)
        return;
    td_buf_init(&p->text, TD_REPLY_BYTES_MAX);
    struct gather g = {.out = &p->text, .last = l->after};
    enum td_err err =
        td_events_after(events->rt->store, td_str_of(l->call->who.tenant), l->after, BATCH_MAX, on_event, &g, &e);
    if (err == TD_OK && p->text.n == 0 && now - l->last_sent_ns > KEEPALIVE_MS * TD_MS_NS)
        err = td_buf_addz(&p->text, ": alive\n\n");
    if (err != TD_OK || g.err != TD_OK || (p->text.n == 0 && !l->open)) {
        td_buf_finish(&p->text);
        td_free(p);
        return;
    }
    p->call = l->call;
    p->open = l->open;
    atomic_fetch_add(&l->call->refs, 1);
    atomic_store(&l->call->laden, true);
    if (td_loop_post(l->call->worker->loop, on_parcel, p) == TD_OK) {
        l->after = g.last;
        l->last_sent_ns = now;
        l->open = NULL;
        return;
    }
    atomic_store(&l->call->laden, false);
    atomic_fetch_sub(&l->call->refs, 1);
    td_buf_finish(&p->text);
    td_free(p);
}

static void let_go(struct td_call *call) {
    while (td_loop_post(call->worker->loop, on_let_go, call) != TD_OK)
        nanosleep(&(struct timespec){0, 10000000}, NULL); // memory may come back; the reference must not be lost
}

static void *main_loop(void *arg) {
    struct td_events *events = arg;
    pthread_mutex_lock(&events->side.lock);
    while (!events->side.stop) {
        for (struct listener **at = &events->listeners; *at;) {
            struct listener *l = *at;
            if (atomic_load(&l->call->gone)) {
                *at = l->next;
                let_go(l->call);
                td_free(l);
                continue;
            }
            send_new(events, l);
            at = &l->next;
        }
        if (!events->woken && !events->side.stop) {
            if (events->listeners)
                td_wait_until(&events->side.cond, &events->side.lock, td_now_ns() + LOOK_MS * TD_MS_NS);
            else
                pthread_cond_wait(&events->side.cond, &events->side.lock);
        }
        events->woken = false;
    }
    while (events->listeners) {
        struct listener *l = events->listeners;
        events->listeners = l->next;
        let_go(l->call);
        td_free(l);
    }
    pthread_mutex_unlock(&events->side.lock);
    return NULL;
}

enum td_err td_events_start(struct td_runtime *rt, struct td_events **out) {
    struct td_events *events = td_calloc(1, sizeof *events);
    if (!events)
        return TD_ERR_NOMEM;
    events->rt = rt;
    enum td_err err = td_side_start(&events->side, "tandem-events", main_loop, events);
    if (err != TD_OK)
        td_free(events);
    else
        *out = events;
    return err;
}

void td_events_stop(struct td_events *events) {
    if (!events)
        return;
    td_side_stop(&events->side);
    td_free(events);
}

void td_events_wake(struct td_events *events) {
    if (!events)
        return;
    pthread_mutex_lock(&events->side.lock);
    events->woken = true;
    pthread_cond_signal(&events->side.cond);
    pthread_mutex_unlock(&events->side.lock);
}

enum td_err td_events_listen(struct td_events *events, struct td_call *call, uint64_t after,
                             void (*open)(struct td_call *call)) {
    struct listener *l = td_calloc(1, sizeof *l);
    if (!l || !events) {
        td_free(l);
        return TD_ERR_NOMEM;
    }
    l->call = call;
    l->after = after;
    l->open = open;
    l->last_sent_ns = td_now_ns();
    atomic_fetch_add(&call->refs, 1);
    pthread_mutex_lock(&events->side.lock);
    l->next = events->listeners;
    events->listeners = l;
    events->woken = true;
    pthread_cond_signal(&events->side.cond);
    pthread_mutex_unlock(&events->side.lock);
    return TD_OK;
}
