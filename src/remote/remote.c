// SPDX-License-Identifier: Apache-2.0
#include "remote/remote.h"

#include <pthread.h>

#include "base/time.h"
#include "remote/engine.h"
#include "remote/route.h"
#include "remote/sockets.h"

#define IDLE_CONNECTIONS_DEFAULT 256u

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_ready;

static void start_curl(void) {
    td_routes_init();
    // Its blocks come and go with every request: let the worker keep them (base/mem.h).
    curl_ready = curl_global_init_mem(CURL_GLOBAL_DEFAULT, td_plain_malloc, td_free, td_plain_realloc, td_plain_strdup,
                                      td_plain_calloc);
}

static unsigned on_shed(void *arg, unsigned max) {
    struct td_remote *r = arg;
    unsigned closed = td_plain_shed(r->plain, max);
    td_sockets_end_idle(r, max - closed);
    return closed;
}

enum td_err td_remote_create(struct td_loop *loop, const struct td_remote_options *options, struct td_remote **out,
                             struct td_error *e) {
    struct td_remote_options o = options ? *options : (struct td_remote_options){0};
    struct td_resolver_options names = {o.resolve_ttl_ms, o.lookup, o.lookup_free};
    pthread_once(&curl_once, start_curl);
    struct td_remote *r = curl_ready == CURLE_OK ? td_calloc(1, sizeof *r) : NULL;
    if (!r)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while setting up the way out");
    r->backend.ops = &td_attempt_ops;
    r->loop = loop;
    r->todo_last = &r->todo;
    uint32_t idle_max = o.idle_connections_max ? o.idle_connections_max : IDLE_CONNECTIONS_DEFAULT;
    r->plain = td_plain_create(loop, idle_max);
    r->multi = curl_multi_init();
    r->share = curl_share_init();
    r->resolver = td_resolver_create(loop, &names);
    if (!r->plain || !r->multi || !r->share || !r->resolver || !td_sockets_init(r) ||
        curl_share_setopt(r->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION) != CURLSHE_OK ||
        curl_multi_setopt(r->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX) != CURLM_OK ||
        curl_multi_setopt(r->multi, CURLMOPT_MAXCONNECTS, (long)idle_max) != CURLM_OK) {
        td_remote_destroy(r);
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while setting up the way out");
    }
    td_fd_shedder_add(&r->shedder, loop, on_shed, r);
    *out = r;
    return TD_OK;
}

void td_remote_destroy(struct td_remote *r) {
    if (!r)
        return;
    td_fd_shedder_remove(&r->shedder);
    td_attempts_finish(r);
    for (uint32_t i = 0; i < TD_TARGETS_MAX; i++)
        td_route_drop(&r->routes[i]);
    td_plain_destroy(r->plain);
    r->in_curl = true; // what closing calls back must not start anything
    if (r->multi)
        curl_multi_cleanup(r->multi);
    if (r->share)
        curl_share_cleanup(r->share);
    td_resolver_destroy(r->resolver);
    td_sockets_finish(r);
    td_free(r);
}

struct td_backend *td_remote_backend(struct td_remote *r) {
    return &r->backend;
}

void td_remote_set_policy_version(struct td_remote *r, uint64_t version) {
    r->policy_version_min = version;
}

void td_remote_refresh(struct td_remote *r) {
    for (uint32_t i = 0; i < TD_TARGETS_MAX; i++)
        td_route_drop(&r->routes[i]);
    td_resolver_expire(r->resolver);
    r->refreshed_ns = td_now_ns();
}
