// SPDX-License-Identifier: Apache-2.0
#include "runtime/probe.h"

#include "base/log.h"
#include "base/time.h"

struct td_prober {
    struct td_worker *worker;
    struct td_config *config; // of the probe that runs; its target lives in it
    struct td_fetch *fetch;   // NULL none runs
    struct td_arena arena;    // its grant
    uint32_t next;            // which target is asked next: all in turn
    bool ended;               // to be freed at the next tick, not inside its own callback
};

struct td_prober *td_prober_create(struct td_worker *worker) {
    struct td_prober *p = td_calloc(1, sizeof *p);
    if (p) {
        p->worker = worker;
        td_arena_init(&p->arena, 4096);
    }
    return p;
}

static void clear(struct td_prober *p) {
    td_fetch_destroy(p->fetch);
    p->fetch = NULL;
    p->ended = false;
    td_config_unref(p->config);
    p->config = NULL;
    td_arena_finish(&p->arena);
    td_arena_init(&p->arena, 4096);
}

void td_prober_destroy(struct td_prober *p) {
    if (!p)
        return;
    clear(p);
    td_arena_finish(&p->arena);
    td_free(p);
}

static void on_done(void *user, enum td_err err, int http_status, uint64_t rtt_us) {
    struct td_prober *p = user;
    (void)http_status;
    p->ended = true;
    td_health_link_result(p->worker->runtime->health, err == TD_OK, (uint32_t)(rtt_us / 1000), td_now_ns());
    if (err == TD_OK)
        td_log(TD_LOG_INFO, "link", NULL, "msg=\"the network is back\" rtt_ms=%u", (unsigned)(rtt_us / 1000));
}

static const struct td_target *next_target(struct td_prober *p, const struct td_config *config) {
    for (uint32_t i = 0; i < config->target_count; i++) {
        const struct td_target *t = &config->targets[p->next++ % config->target_count];
        if (t->provider != TD_PROVIDER_LLAMA && !t->loopback)
            return t;
    }
    // All remote targets are on this machine (a tunnel, a test): their link is as good as any.
    for (uint32_t i = 0; i < config->target_count; i++) {
        const struct td_target *t = &config->targets[p->next++ % config->target_count];
        if (t->provider != TD_PROVIDER_LLAMA)
            return t;
    }
    return NULL;
}

void td_prober_tick(struct td_prober *p, struct td_config *config) {
    struct td_runtime *rt = p->worker->runtime;
    struct td_error e;
    if (p->ended)
        clear(p);
    if (p->fetch || !config->probes || !td_health_link_probe_due(rt->health, config->probe_interval_ms, td_now_ns()))
        return;
    const struct td_target *t = next_target(p, config);
    struct td_egress_check check = {.allowed = true, .data_class = TD_CLASS_PUBLIC, .policy_version = UINT64_MAX};
    struct td_grant_terms terms = {.kind = TD_GRANT_PROBE, .target = t};
    struct td_probe_spec spec = {.target = t, .probe = TD_PROBE_CONNECT, .on_done = on_done, .user = p};
    if (!t)
        return;
    p->config = td_config_ref(config);
    enum td_err err = td_grant_issue(&p->arena, &check, &terms, TD_STR_NONE, &spec.grant, &e);
    if (err == TD_OK)
        err = td_remote_probe(p->worker->remote, &spec, &p->fetch, &e);
    if (err != TD_OK)
        clear(p);
}
