// SPDX-License-Identifier: Apache-2.0
// The workers: what each thread is made of, the models that are loaded before the first request, and what worker 0
// looks after while requests run (models, link, retention).
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/part_name.h"
#include "base/time.h"
#include "runtime/probe.h"
#include "runtime/runtime.h"

#define PRUNE_MS 60000u   // how often old ledger rows are deleted, and
#define PRUNE_ROWS 20000u // how many: the writer is never held up for long
#define TICK_MS 250u      // how soon a loaded model or a link that is back is noticed without a request

void td_worker_prepare_remote(struct td_worker *w, uint64_t epoch) {
    unsigned returns = td_health_link_returns(w->runtime->health);
    td_remote_set_policy_version(w->remote, epoch);
    if (returns != w->link_returns) {
        w->link_returns = returns;
        td_remote_refresh(w->remote);
    }
}

static void *worker_main(void *arg) {
    struct td_worker *w = arg;
    char name[16];
    snprintf(name, sizeof name, "tandem-%u", w->index);
    pthread_setname_np(pthread_self(), name);
    td_loop_run(w->loop);
    return NULL;
}

static void look_at_models(struct td_runtime *rt, const struct td_config *config) {
    for (uint32_t i = 0; i < config->target_count; i++) {
        const struct td_target *t = &config->targets[i];
        struct td_manager_status s;
        if (t->provider != TD_PROVIDER_LLAMA)
            continue;
        if (!rt->manager) {
            td_health_set_model(rt->health, t, false, false, 0, 0, 0);
            continue;
        }
        td_manager_status(rt->manager, t, &s);
        td_health_set_model(rt->health, t, s.known ? s.ready : t->model_found, s.loaded, s.load_ms,
                            s.loaded ? s.context : 0, s.loaded ? t->capabilities & ~s.capabilities : 0);
    }
}

// Small models load at once, so that the first request finds them loaded: they cost little while nobody asks.
static void preload_small_models(struct td_runtime *rt) {
    for (uint32_t i = 0; rt->manager && i < rt->config->target_count; i++) {
        const struct td_target *t = &rt->config->targets[i];
        char path[PATH_MAX];
        struct stat s;
        struct td_error e;
        struct td_part_name part; // small parts do not make a small model
        if (t->provider != TD_PROVIDER_LLAMA || t->model.n >= sizeof path || td_part_name_read(t->model, &part))
            continue;
        memcpy(path, t->model.p, t->model.n);
        path[t->model.n] = 0;
        if (stat(path, &s) == 0 && s.st_size <= TD_PRELOAD_BYTES_MAX && td_manager_preload(rt->manager, t, &e) != TD_OK)
            td_log(TD_LOG_WARN, "runtime", NULL, "while=preload err=%s", td_err_code(e.code));
    }
}

// Retention, a little every minute. Nobody waits for it; a refusal is tried again.
static void on_pruned(void *arg, enum td_err err) {
    (void)arg;
    if (err != TD_OK)
        td_log(TD_LOG_WARN, "ledger", NULL, "while=prune err=%s", td_err_code(err));
}

static void prune(struct td_worker *w, const struct td_config *config) {
    struct td_runtime *rt = w->runtime;
    uint64_t now = td_now_ns();
    struct td_ack ack = {w->loop, on_pruned, NULL};
    if (!config->ledger_keep_days || (rt->pruned_ns && now - rt->pruned_ns < PRUNE_MS * TD_MS_NS))
        return;
    rt->pruned_ns = now;
    enum td_err err =
        td_ledger_prune(rt->store, td_wall_ms() - (int64_t)config->ledger_keep_days * 86400000, PRUNE_ROWS, &ack, NULL);
    if (err != TD_OK)
        on_pruned(NULL, err);
}

static void on_tick(void *arg) {
    struct td_worker *w = arg;
    struct td_config *config = td_runtime_config(w->runtime, NULL);
    look_at_models(w->runtime, config);
    td_gauge_set(w->runtime->metrics.link_up, td_health_link_up(w->runtime->health, NULL));
    td_prober_tick(w->prober, config);
    prune(w, config);
    td_config_unref(config);
    td_timer_arm(w->tick, TICK_MS);
}

static enum td_err make_worker(struct td_runtime *rt, unsigned i, struct td_error *e) {
    struct td_worker *w = &rt->workers[i];
    w->runtime = rt;
    w->index = i;
    w->loop = td_loop_create();
    if (!w->loop)
        return td_error_set(e, TD_ERR_NOMEM, "could not make an event loop");
    enum td_err err = td_remote_create(w->loop, NULL, &w->remote, e);
    if (err == TD_OK && rt->manager)
        err = td_local_create(rt->manager, i, w->loop, &w->local, e);
    if (err == TD_OK && i == 0) {
        w->tick = td_timer_create(w->loop, on_tick, w);
        w->prober = td_prober_create(w);
        if (!w->tick || !w->prober)
            err = td_error_set(e, TD_ERR_NOMEM, "out of memory");
        else
            td_timer_arm(w->tick, TICK_MS);
    }
    if (err == TD_OK && pthread_create(&w->thread, NULL, worker_main, w) != 0)
        err = td_error_set(e, TD_ERR_IO, "could not start a thread");
    w->started = err == TD_OK;
    return err;
}

void td_runtime_count_workers(struct td_runtime *rt, const struct td_options *options) {
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    rt->worker_count = options->workers      ? options->workers
                       : rt->config->workers ? rt->config->workers
                                             : (unsigned)processors;
    if (rt->worker_count < 1)
        rt->worker_count = 1;
    if (rt->worker_count > TD_WORKERS_MAX)
        rt->worker_count = TD_WORKERS_MAX;
}

enum td_err td_runtime_start_models(struct td_runtime *rt, struct td_error *e) {
    if (!rt->host_path)
        return TD_OK; // no model host installed: device targets say so
    struct td_manager_options options = {.host_path = rt->host_path,
                                         .workers = rt->worker_count,
                                         .memory_bytes_max = rt->config->memory_bytes_max,
                                         .idle_unload_ms =
                                             rt->config->idle_unload_s ? rt->config->idle_unload_s * 1000 : UINT32_MAX};
    enum td_err err = td_manager_create(&options, &rt->manager, e);
    if (err == TD_OK)
        preload_small_models(rt);
    return err;
}

enum td_err td_runtime_make_workers(struct td_runtime *rt, struct td_error *e) {
    enum td_err err = TD_OK;
    look_at_models(rt, rt->config);
    for (unsigned i = 0; err == TD_OK && i < rt->worker_count; i++)
        err = make_worker(rt, i, e);
    return err;
}
