// SPDX-License-Identifier: Apache-2.0
// The configuration of a running runtime: where it is read from, what of it the governor, the health table and the
// listener take, and how another one takes its place, whole or not at all.
#include <stdio.h>

#include "base/log.h"
#include "base/time.h"
#include "runtime/runtime.h"

enum td_err td_runtime_read_config(const struct td_runtime *rt, const struct td_config *previous,
                                   struct td_config **out, struct td_error *e) {
    if (rt->config_path)
        return td_config_load(rt->config_path, previous, out, e);
    struct td_str text = rt->config_text ? td_str_of(rt->config_text) : td_config_default_text();
    return td_config_load_text(text, rt->config_text ? "(text)" : "(default)", NULL, previous, out, e);
}

static int64_t budget(int64_t nusd) {
    return nusd > 0 ? nusd : 0;
}

static enum td_err govern_limits(const struct td_config *config, struct td_arena *arena, struct td_govern_config *out) {
    const struct td_policy *policy = &config->policy;
    struct td_govern_limit *tenants = td_arena_array(arena, policy->tenant_count + 1, sizeof *tenants);
    struct td_govern_limit *targets = td_arena_array(arena, config->target_count + 1, sizeof *targets);
    struct td_govern_limit *each_key = td_arena_alloc(arena, sizeof *each_key);
    if (!tenants || !targets || !each_key)
        return TD_ERR_NOMEM;
    for (uint32_t i = 0; i < policy->tenant_count; i++) {
        const struct td_tenant *t = &policy->tenants[i];
        tenants[i] = (struct td_govern_limit){.name = t->name,
                                              .requests_per_min = t->requests_per_min,
                                              .tokens_per_min = t->tokens_per_min,
                                              .day_nusd = budget(t->budget_day_nusd),
                                              .month_nusd = budget(t->budget_month_nusd)};
    }
    for (uint32_t i = 0; i < config->target_count; i++) {
        const struct td_target *t = &config->targets[i];
        targets[i] = (struct td_govern_limit){
            .name = t->name, .day_nusd = budget(t->budget_day_nusd), .month_nusd = budget(t->budget_month_nusd)};
    }
    *each_key = (struct td_govern_limit){.requests_per_min = config->key_requests_per_min,
                                         .tokens_per_min = config->key_tokens_per_min};
    *out = (struct td_govern_config){.tenants = tenants,
                                     .keys = each_key,
                                     .targets = targets,
                                     .tenant_count = policy->tenant_count,
                                     .key_count = 1,
                                     .target_count = config->target_count};
    return TD_OK;
}

enum td_err td_runtime_open_govern(struct td_runtime *rt, struct td_error *e) {
    struct td_arena arena;
    struct td_govern_config config;
    td_arena_init(&arena, 8 << 20);
    enum td_err err = govern_limits(rt->config, &arena, &config);
    if (err == TD_OK)
        err = td_govern_open(rt->store, &config, &rt->govern, e);
    else
        td_error_set(e, err, "out of memory");
    td_arena_finish(&arena);
    return err;
}

void td_runtime_set_log_level(struct td_runtime *rt) {
    td_log_set_level(rt->options.log == TD_LOG_QUIET     ? TD_LOG_WARN
                     : rt->options.log == TD_LOG_VERBOSE ? TD_LOG_DEBUG
                                                         : rt->config->log_level);
}

// What `config` tells the listener; the runtime keeps the configuration whose strings it hands out.
static void listen_settings(struct td_runtime *rt, struct td_config *config, struct td_listen_settings *out) {
    const struct td_listen *l = &config->listen;
    td_config_unref(rt->listen_config);
    rt->listen_config = td_config_ref(config);
    *out = (struct td_listen_settings){.address = l->address.p ? l->address.p : "",
                                       .port = l->port,
                                       .loopback = l->loopback,
                                       .has_keys = td_govern_key_count(rt->govern, td_wall_ms()) > 0,
                                       .tls_cert = l->tls_cert.n ? l->tls_cert.p : "",
                                       .tls_key = l->tls_key.n ? l->tls_key.p : "",
                                       .tls_client_ca = l->tls_client_ca.n ? l->tls_client_ca.p : "",
                                       .hosts = rt->hosts,
                                       .origins = rt->origins,
                                       .body_bytes_max = l->body_bytes_max,
                                       .connections_max = l->connections_max,
                                       .connections_per_peer_max = l->connections_per_peer_max,
                                       .data_dir = rt->data_dir,
                                       .drain_ms = rt->listen_config->drain_ms};
    if (l->unix_path.n) {
        snprintf(rt->bound_address, sizeof rt->bound_address, "unix:%.*s", TD_STR_ARG(l->unix_path));
        out->address = rt->bound_address;
        out->loopback = true;
    }
    for (uint32_t i = 0; i < l->host_count && i < 64; i++)
        rt->hosts[out->host_count++] = l->hosts[i].p;
    for (uint32_t i = 0; i < l->origin_count && i < 64; i++)
        rt->origins[out->origin_count++] = l->origins[i].p;
}

void td_listen_settings_get(struct td_runtime *rt, struct td_listen_settings *out) {
    struct td_config *now = td_runtime_config(rt, NULL);
    listen_settings(rt, now, out);
    td_config_unref(now);
}

// Limits and health go by this configuration.
static enum td_err adopt(struct td_runtime *rt, const struct td_config *config, struct td_error *e) {
    struct td_arena arena;
    struct td_govern_config limits;
    td_arena_init(&arena, 8 << 20);
    enum td_err err = govern_limits(config, &arena, &limits);
    if (err == TD_OK)
        err = td_health_adopt(rt->health, config->targets, config->target_count, td_now_ns());
    if (err != TD_OK)
        td_error_set(e, err, "out of memory");
    else
        err = td_govern_configure(rt->govern, &limits, e);
    td_arena_finish(&arena);
    return err;
}

// What a running process cannot change; NULL nothing.
static const char *needs_restart(const struct td_config *a, const struct td_config *b) {
    return !td_str_eq(a->data_dir, b->data_dir)             ? "data_dir"
           : a->workers != b->workers                       ? "workers"
           : a->durability != b->durability                 ? "ledger.durability"
           : a->ledger_batch_ms != b->ledger_batch_ms       ? "ledger.batch_ms"
           : a->outbox.entries_max != b->outbox.entries_max ? "outbox.max_entries"
           : a->outbox.bytes_max != b->outbox.bytes_max     ? "outbox.max_bytes"
           : a->memory_bytes_max != b->memory_bytes_max     ? "models.memory_max"
           : a->idle_unload_s != b->idle_unload_s           ? "models.idle_unload_s"
                                                            : NULL;
}

int td_runtime_reload(struct td_runtime *rt, td_accept_fn *accept, void *user, struct td_failure *failure) {
    struct td_config *next = NULL, *before = td_runtime_config(rt, NULL);
    struct td_listen_settings settings;
    struct td_error e = {0}, again;
    int refused = td_runtime_read_config(rt, before, &next, &e) != TD_OK ? td_failure_from(failure, &e) : 0;
    const char *fixed = refused ? NULL : needs_restart(before, next);
    if (fixed)
        refused = td_failure_set(failure, TD_ERR_CONFIG, "%s: a change needs a restart", fixed);
    if (!refused && adopt(rt, next, &e) != TD_OK)
        refused = td_failure_from(failure, &e);
    if (!refused && accept) {
        listen_settings(rt, next, &settings);
        refused = accept(user, &settings, failure);
    }
    if (refused) {
        if (next && adopt(rt, before, &again) != TD_OK)
            td_log(TD_LOG_ERROR, "runtime", NULL, "while=undo err=%s", td_err_code(again.code));
        td_config_unref(next);
        td_config_unref(before);
        return 1;
    }
    td_health_force_link(rt->health, next->connectivity);
    pthread_mutex_lock(&rt->lock);
    rt->config = next;
    rt->epoch++;
    pthread_mutex_unlock(&rt->lock);
    td_runtime_set_log_level(rt);
    td_config_unref(before); // the runtime's
    td_config_unref(before); // ours
    return 0;
}
