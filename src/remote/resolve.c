// SPDX-License-Identifier: Apache-2.0
// A name's life: NEW -> (lookup) -> FRESH -> (ttl) -> STALE -> (lookup) -> FRESH … ; a lookup that finds nobody
// answering leaves a STALE name STALE, one that says "no such name" makes it NEW again. At most one thread per name.
//
// A thread may outlive the resolver, since getaddrinfo cannot be called off. It reaches the resolver only through the
// gate, which is counted and says whether the resolver is still there.
#include "remote/resolve.h"

#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

#include "base/time.h"
#include "loop/loop.h"

#define STACK_BYTES (256u << 10) // glibc's resolver and its modules need about 100 KiB

struct gate {
    pthread_mutex_t lock;
    struct td_resolver *resolver; // NULL: gone
    unsigned refs;
};

struct td_resolver {
    struct td_loop *loop;
    struct td_resolver_options options;
    struct gate *gate;
    struct td_name *names;
};

struct td_name {
    struct td_name *next;
    struct td_resolver *r;
    char host[256], port_text[8];
    uint16_t port;
    bool looking;
    uint64_t fresh_until_ns, usable_until_ns;
    struct td_addresses addresses;
    struct td_name_waiter *waiters;
    uint32_t loaded_generation, loaded_scopes;
};

struct job {
    struct gate *gate;
    struct td_name *name; // only to be used while the resolver is there
    char host[256], port_text[8];
    int (*lookup)(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out);
    void (*lookup_free)(struct addrinfo *list);
    int result;
    struct td_addresses addresses;
};

static void gate_release(struct gate *g) {
    pthread_mutex_lock(&g->lock);
    bool last = --g->refs == 0;
    pthread_mutex_unlock(&g->lock);
    if (last) {
        pthread_mutex_destroy(&g->lock);
        td_free(g);
    }
}

struct td_resolver *td_resolver_create(struct td_loop *loop, const struct td_resolver_options *options) {
    struct td_resolver *r = td_calloc(1, sizeof *r);
    struct gate *g = td_calloc(1, sizeof *g);
    if (!r || !g) {
        td_free(r);
        td_free(g);
        return NULL;
    }
    pthread_mutex_init(&g->lock, NULL);
    g->resolver = r;
    g->refs = 1;
    r->loop = loop;
    r->options = *options;
    r->gate = g;
    if (!r->options.ttl_ms)
        r->options.ttl_ms = 60000;
    if (!r->options.lookup) {
        r->options.lookup = getaddrinfo;
        r->options.lookup_free = freeaddrinfo;
    }
    return r;
}

void td_resolver_destroy(struct td_resolver *r) {
    if (!r)
        return;
    pthread_mutex_lock(&r->gate->lock);
    r->gate->resolver = NULL;
    pthread_mutex_unlock(&r->gate->lock);
    gate_release(r->gate);
    for (struct td_name *n = r->names, *next; n; n = next) {
        next = n->next;
        td_free(n);
    }
    td_free(r);
}

void td_resolver_expire(struct td_resolver *r) {
    for (struct td_name *n = r->names; n; n = n->next)
        n->fresh_until_ns = 0;
}

struct td_name *td_resolver_name(struct td_resolver *r, struct td_str host, uint16_t port) {
    for (struct td_name *n = r->names; n; n = n->next)
        if (n->port == port && td_str_ieq(td_str_of(n->host), host))
            return n;
    struct td_name *n = host.n < sizeof n->host ? td_calloc(1, sizeof *n) : NULL;
    if (!n)
        return NULL;
    memcpy(n->host, host.p, host.n);
    snprintf(n->port_text, sizeof n->port_text, "%u", port);
    n->port = port;
    n->r = r;
    n->next = r->names;
    r->names = n;
    return n;
}

static void wake_waiters(struct td_name *n, enum td_err err) {
    struct td_name_waiter *all = n->waiters, *w;
    n->waiters = NULL;
    if (all)
        all->prev = &all;
    while ((w = all) != NULL) { // a waiter called may take others off the list
        td_name_unwait(w);
        w->fn(w, err);
    }
}

static void take_result(struct td_name *n, const struct job *job) {
    uint64_t now = td_now_ns();
    n->looking = false;
    if (job->result == 0 && job->addresses.count) {
        uint32_t generation = n->addresses.generation;
        bool same = job->addresses.count == n->addresses.count &&
                    memcmp(job->addresses.list, n->addresses.list, sizeof n->addresses.list) == 0;
        n->addresses = job->addresses;
        n->addresses.generation = generation + !same;
        n->fresh_until_ns = now + n->r->options.ttl_ms * TD_MS_NS;
        n->usable_until_ns = now + TD_RESOLVE_STALE_S * TD_S_NS;
    } else if (job->result == EAI_NONAME) {
        n->usable_until_ns = 0;
    } else if (now < n->usable_until_ns) {
        n->fresh_until_ns = now + TD_S_NS; // where an old answer serves, asking once a second is enough
    }
    wake_waiters(n, job->result == 0 && job->addresses.count ? TD_OK : TD_ERR_DNS);
}

static void on_result(void *arg) {
    struct job *job = arg;
    struct gate *g = job->gate;
    pthread_mutex_lock(&g->lock);
    bool alive = g->resolver != NULL;
    pthread_mutex_unlock(&g->lock);
    if (alive) // and stays so: only this thread destroys it
        take_result(job->name, job);
    gate_release(g);
    td_free(job);
}

static void *look_up(void *arg) {
    struct job *job = arg;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *list = NULL;
    job->result = job->lookup(job->host, job->port_text, &hints, &list);
    for (struct addrinfo *a = list; a && job->addresses.count < TD_ADDRESSES_MAX; a = a->ai_next)
        if (a->ai_addrlen <= sizeof(struct sockaddr_storage))
            memcpy(&job->addresses.list[job->addresses.count++], a->ai_addr, a->ai_addrlen);
    if (list)
        job->lookup_free(list);
    struct gate *g = job->gate;
    pthread_mutex_lock(&g->lock);
    // Posting under the lock: the resolver, and with it the loop, cannot go meanwhile.
    bool posted = g->resolver && td_loop_post(g->resolver->loop, on_result, job) == TD_OK;
    pthread_mutex_unlock(&g->lock);
    if (!posted) {
        gate_release(g);
        td_free(job);
    }
    return NULL;
}

static bool start_lookup(struct td_name *n) {
    struct job *job = td_calloc(1, sizeof *job);
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, before;
    if (!job)
        return false;
    job->gate = n->r->gate;
    job->name = n;
    job->lookup = n->r->options.lookup;
    job->lookup_free = n->r->options.lookup_free;
    memcpy(job->host, n->host, sizeof job->host);
    memcpy(job->port_text, n->port_text, sizeof job->port_text);
    pthread_mutex_lock(&job->gate->lock);
    job->gate->refs++;
    pthread_mutex_unlock(&job->gate->lock);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all); // signals are for the threads that expect them
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, &attr, look_up, job);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (failed) {
        gate_release(job->gate);
        td_free(job);
        return false;
    }
    n->looking = true;
    return true;
}

const struct td_addresses *td_name_get(struct td_name *n) {
    uint64_t now = td_now_ns();
    if (now >= n->fresh_until_ns && !n->looking)
        (void)start_lookup(n);
    return now < n->usable_until_ns ? &n->addresses : NULL;
}

enum td_err td_name_wait(struct td_name *n, struct td_name_waiter *w) {
    if (!n->looking)
        return TD_ERR_DNS;
    w->next = n->waiters;
    w->prev = &n->waiters;
    if (w->next)
        w->next->prev = &w->next;
    n->waiters = w;
    return TD_OK;
}

void td_name_unwait(struct td_name_waiter *w) {
    if (!w->prev)
        return;
    *w->prev = w->next;
    if (w->next)
        w->next->prev = w->prev;
    w->prev = NULL;
}

void td_name_doubt(struct td_name *n) {
    n->fresh_until_ns = 0;
}

void td_name_set_loaded(struct td_name *n, uint32_t generation, uint32_t scopes) {
    n->loaded_generation = generation;
    n->loaded_scopes = scopes;
}

bool td_name_is_loaded(const struct td_name *n, uint32_t generation, uint32_t scopes) {
    return n->loaded_generation == generation && n->loaded_scopes == scopes;
}

const char *td_name_host(const struct td_name *n) {
    return n->host;
}

uint16_t td_name_port(const struct td_name *n) {
    return n->port;
}
