// SPDX-License-Identifier: Apache-2.0
#include "runtime/runtime.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/part_name.h"
#include "base/time.h"
#include "remote/secret.h"
#include "runtime/call.h"
#include "runtime/events.h"
#include "runtime/probe.h"
#include "runtime/heads.h"

#define PRUNE_MS 60000u   // how often old ledger rows are deleted, and
#define PRUNE_ROWS 20000u // how many: the writer is never held up for long
#define TICK_MS 250u      // how soon a loaded model or a link that is back is noticed without a request

const char *td_version(void) {
    return TANDEM_VERSION;
}

int td_failure_set(struct td_failure *failure, enum td_err err, const char *fmt, ...) {
    if (failure) {
        va_list args;
        snprintf(failure->code, sizeof failure->code, "%s", td_err_code(err));
        va_start(args, fmt);
        vsnprintf(failure->message, sizeof failure->message, fmt, args);
        va_end(args);
    }
    return 1;
}

int td_failure_from(struct td_failure *failure, const struct td_error *e) {
    return td_failure_set(failure, e->code, "%s", e->message[0] ? e->message : td_err_text(e->code));
}

void td_worker_prepare_remote(struct td_worker *w, uint64_t epoch) {
    unsigned returns = td_health_link_returns(w->runtime->health);
    td_remote_set_policy_version(w->remote, epoch);
    if (returns != w->link_returns) {
        w->link_returns = returns;
        td_remote_refresh(w->remote);
    }
}

struct td_config *td_runtime_config(struct td_runtime *rt, uint64_t *epoch) {
    pthread_mutex_lock(&rt->lock);
    struct td_config *config = td_config_ref(rt->config);
    if (epoch)
        *epoch = rt->epoch;
    pthread_mutex_unlock(&rt->lock);
    return config;
}

void td_runtime_world(struct td_runtime *rt, const struct td_config *config, bool batch, uint64_t now_ns,
                      struct td_world *out) {
    int64_t wall_ms = td_wall_ms();
    td_health_world(rt->health, config->targets, config->target_count, batch, now_ns, out);
    td_device_facts(out, now_ns);
    for (uint32_t i = 0; i < config->target_count; i++) {
        const struct td_target *t = &config->targets[i];
        out->targets[i].budget_left_nusd = td_govern_target_left(rt->govern, t->name, wall_ms);
        out->targets[i].missing = t->provider == TD_PROVIDER_LLAMA && !t->model_found;
    }
}

// ------------------------------------------------------------------------------------------------------ configuration
// --

static enum td_err read_config(const struct td_runtime *rt, const struct td_config *previous, struct td_config **out,
                               struct td_error *e) {
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

static enum td_err open_govern(struct td_runtime *rt, struct td_error *e) {
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

static void set_log_level(struct td_runtime *rt) {
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
    int refused = read_config(rt, before, &next, &e) != TD_OK ? td_failure_from(failure, &e) : 0;
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
    set_log_level(rt);
    td_config_unref(before); // the runtime's
    td_config_unref(before); // ours
    return 0;
}

char *td_config_data_dir(const struct td_options *options, struct td_failure *failure) {
    struct td_runtime rt = {.config_path = (char *)(uintptr_t)options->config_path,
                            .config_text = (char *)(uintptr_t)options->config_text};
    struct td_config *config = NULL;
    struct td_error e = {0};
    if (!options->data_dir && read_config(&rt, NULL, &config, &e) != TD_OK) {
        td_failure_from(failure, &e);
        return NULL;
    }
    char *dir = td_expand_home(options->data_dir ? td_str_of(options->data_dir) : config->data_dir);
    if (!dir)
        td_failure_set(failure, TD_ERR_CONFIG, "data_dir: HOME is not set");
    td_config_unref(config);
    return dir;
}

char *td_config_schema(bool markdown) {
    struct td_buf b;
    td_buf_init(&b, 1 << 20);
    enum td_err err = markdown ? td_config_schema_markdown(&b) : td_config_schema_json(&b);
    if (err != TD_OK || !td_buf_z(&b)) {
        td_buf_finish(&b);
        return NULL;
    }
    return b.p;
}

int td_config_check(const char *path, struct td_failure *failure) {
    struct td_config *config = NULL;
    struct td_error e = {0};
    if (td_config_load(path, NULL, &config, &e) != TD_OK)
        return td_failure_from(failure, &e);
    td_config_unref(config);
    return 0;
}

static enum td_err note_target(const struct td_target *t, struct td_buf *b) {
    const struct {
        const char *what;
        struct td_str path;
    } files[] = {{"ca_file", t->ca_file}, {"client_cert", t->client_cert_file}, {"client_key", t->client_key_file}};
    struct td_secret secret = {0};
    struct td_error e = {0};
    enum td_err err = TD_OK;
    if (t->provider == TD_PROVIDER_LLAMA && !t->model_found)
        err = td_buf_printf(b, "target '%.*s': there is no model file %.*s yet\n", TD_STR_ARG(t->name),
                            TD_STR_ARG(t->model));
    for (size_t i = 0; err == TD_OK && i < 3; i++)
        if (files[i].path.n && access(files[i].path.p, R_OK) != 0)
            err = td_buf_printf(b, "target '%.*s': %s %.*s cannot be read\n", TD_STR_ARG(t->name), files[i].what,
                                TD_STR_ARG(files[i].path));
    if (err == TD_OK && t->api_key_ref.n && td_secret_resolve(t->api_key_ref, &secret, &e) != TD_OK)
        err = td_buf_printf(b, "target '%.*s': %s\n", TD_STR_ARG(t->name), e.message);
    td_secret_finish(&secret);
    const char *at = t->proxy.n ? memrchr(t->proxy.p, '@', t->proxy.n) : NULL,
               *from = strstr(at ? t->proxy.p : "", "://");
    if (err == TD_OK && at && from &&
        td_secret_resolve(td_str_n(from + 3, (size_t)(at - from) - 3), &secret, &e) != TD_OK)
        err = td_buf_printf(b, "target '%.*s': proxy: %s\n", TD_STR_ARG(t->name), e.message);
    td_secret_finish(&secret);
    return err;
}

char *td_config_notes(const char *path) {
    struct td_config *config = NULL;
    struct td_buf b;
    td_buf_init(&b, 1 << 20);
    enum td_err err = td_config_load(path, NULL, &config, NULL);
    for (uint32_t i = 0; err == TD_OK && i < config->target_count; i++)
        err = note_target(&config->targets[i], &b);
    td_config_unref(config);
    if (err == TD_OK && td_buf_z(&b))
        return b.p;
    td_buf_finish(&b);
    return NULL;
}

// ------------------------------------------------------------------------------------------------------------ workers
// --

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

static void count_workers(struct td_runtime *rt, const struct td_options *options) {
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    rt->worker_count = options->workers      ? options->workers
                       : rt->config->workers ? rt->config->workers
                                             : (unsigned)processors;
    if (rt->worker_count < 1)
        rt->worker_count = 1;
    if (rt->worker_count > TD_WORKERS_MAX)
        rt->worker_count = TD_WORKERS_MAX;
}

// Before all that takes time here: the small models load meanwhile, on another core.
static enum td_err start_models(struct td_runtime *rt, struct td_error *e) {
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

static enum td_err make_workers(struct td_runtime *rt, struct td_error *e) {
    enum td_err err = TD_OK;
    look_at_models(rt, rt->config);
    for (unsigned i = 0; err == TD_OK && i < rt->worker_count; i++)
        err = make_worker(rt, i, e);
    return err;
}

static void name_metrics(struct td_runtime *rt) {
    rt->metrics.requests = td_counter_get("tandem_requests_total", "Requests taken.");
    rt->metrics.failed = td_counter_get("tandem_requests_failed_total", "Requests that ended in an error.");
    rt->metrics.bytes_out = td_counter_get("tandem_egress_bytes_total", "Bytes that left this machine.");
    rt->metrics.ledger_lost = td_counter_get("tandem_ledger_refused_total", "Ledger rows that could not be taken.");
    rt->metrics.turned_away[0] = td_counter_get("tandem_model_turned_away_total{priority=\"interactive\"}",
                                                "Times that a request found a local model full.");
    rt->metrics.turned_away[1] = td_counter_get("tandem_model_turned_away_total{priority=\"batch\"}",
                                                "Times that a request found a local model full.");
    rt->metrics.running = td_gauge_get("tandem_requests_running", "Requests running now.");
    rt->metrics.link_up = td_gauge_get("tandem_link_up", "1 while the network is taken to be there.");
    rt->metrics.added = td_histogram_get("tandem_request_seconds", "Time from arrival to the end of the answer.");
    rt->metrics.ttft =
        td_histogram_get("tandem_first_token_seconds", "Time from an attempt's start to its first token.");
}

// --------------------------------------------------------------------------------------------------------- open, close
// --

static enum td_err take_options(struct td_runtime *rt, const struct td_options *o, struct td_error *e) {
    rt->config_path = o->config_path ? td_strdup(o->config_path) : NULL;
    rt->config_text = o->config_text ? td_strdup(o->config_text) : NULL;
    rt->host_path = o->host_path ? td_strdup(o->host_path) : td_resource_path("tandem-host");
    if ((o->config_path && !rt->config_path) || (o->config_text && !rt->config_text) ||
        (o->host_path && !rt->host_path))
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    enum td_err err = read_config(rt, NULL, &rt->config, e);
    if (err != TD_OK)
        return err;
    rt->data_dir = td_expand_home(o->data_dir ? td_str_of(o->data_dir) : rt->config->data_dir);
    if (!rt->data_dir)
        return td_error_set(e, TD_ERR_CONFIG, "data_dir: HOME is not set");
    rt->listen_config = td_config_ref(rt->config);
    rt->options.log = o->log;
    set_log_level(rt);
    return TD_OK;
}

static enum td_err name_labels(void *policy, uint32_t labels, struct td_buf *out) {
    return td_policy_label_names(policy, labels, out);
}

static enum td_err open_store(struct td_runtime *rt, bool operator_only, struct td_error *e) {
    struct td_store_options options = {.durability = rt->config->durability,
                                       .batch_ms = rt->config->ledger_batch_ms,
                                       .outbox_entries_max = rt->config->outbox.entries_max,
                                       .outbox_bytes_max = rt->config->outbox.bytes_max};
    enum td_err err = td_store_open(rt->data_dir, &options, &rt->store, e);
    if (err == TD_OK)
        td_store_secret(rt->store, TD_SECRET_BODY, rt->body_key);
    if (err == TD_OK && !operator_only) // this configuration is as near as can be to the one they were made under
        err = td_outbox_name_labels(rt->store, name_labels, &rt->config->policy, e);
    return err;
}

static enum td_err open_parts(struct td_runtime *rt, const struct td_options *options, struct td_error *e) {
    unsigned char secret[32];
    enum td_err err = take_options(rt, options, e);
    if (err == TD_OK && !options->operator_only) {
        count_workers(rt, options);
        err = start_models(rt, e);
    }
    if (err == TD_OK)
        err = open_store(rt, options->operator_only, e);
    if (err == TD_OK)
        err = open_govern(rt, e);
    if (err != TD_OK)
        return err;
    td_store_secret(rt->store, TD_SECRET_CONVERSATION, secret);
    rt->stick = td_stick_create(TD_STICK_ENTRIES_MAX, secret);
    rt->health = td_health_create();
    rt->heads = td_heads_create(rt->store, secret);
    if (!rt->stick || !rt->health || !rt->heads ||
        td_health_adopt(rt->health, rt->config->targets, rt->config->target_count, td_now_ns()) != TD_OK)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    td_health_force_link(rt->health, rt->config->connectivity);
    if (options->operator_only)
        return TD_OK;
    err = make_workers(rt, e);
    if (err == TD_OK && (err = td_events_start(rt, &rt->events)) != TD_OK)
        td_error_set(e, err, "a thread could not be started");
    return err;
}

int td_runtime_create(const struct td_options *options, struct td_runtime **out, struct td_failure *failure) {
    struct td_options none = {0};
    struct td_error e = {0};
    struct td_runtime *rt = td_calloc(1, sizeof *rt);
    if (!rt)
        return td_failure_set(failure, TD_ERR_NOMEM, "out of memory");
    pthread_mutex_init(&rt->lock, NULL);
    pthread_mutex_init(&rt->keep_lock, NULL);
    rt->epoch = 1;
    rt->started_ns = td_now_ns();
    name_metrics(rt);
    enum td_err err = open_parts(rt, options ? options : &none, &e);
    if (err != TD_OK) {
        td_runtime_destroy(rt);
        e.code = err;
        return td_failure_from(failure, &e);
    }
    *out = rt;
    return 0;
}

static void end_calls(void *arg) {
    struct td_worker *w = arg;
    for (struct td_call *call = w->calls, *next; call; call = next) {
        next = call->next;
        td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_ABORT, .abort_code = TD_ERR_CANCELLED});
    }
}

// Nothing optional is started any more: no retry after a pause, no better answer that was not asked for yet.
static void drain_calls(void *arg) {
    struct td_worker *w = arg;
    for (struct td_call *call = w->calls, *next; call; call = next) {
        next = call->next;
        td_call_feed(call, &(struct td_x_input){.type = TD_X_IN_DRAIN});
    }
}

int td_runtime_drain(struct td_runtime *rt, unsigned timeout_ms) {
    uint64_t until = td_now_ns() + timeout_ms * TD_MS_NS;
    atomic_store(&rt->draining, true);
    for (unsigned i = 0; i < rt->worker_count; i++)
        if (rt->workers[i].started && td_loop_post(rt->workers[i].loop, drain_calls, &rt->workers[i]) != TD_OK)
            td_log(TD_LOG_WARN, "runtime", NULL, "while=drain err=%s", td_err_code(TD_ERR_NOMEM));
    while (atomic_load(&rt->running) > 0 && td_now_ns() < until)
        nanosleep(&(struct timespec){0, 2000000}, NULL);
    return atomic_load(&rt->running) > 0;
}

void td_runtime_end_calls(struct td_runtime *rt) {
    for (unsigned i = 0; i < rt->worker_count; i++)
        if (rt->workers[i].started && td_loop_post(rt->workers[i].loop, end_calls, &rt->workers[i]) != TD_OK)
            td_log(TD_LOG_ERROR, "runtime", NULL, "while=close err=memory");
}

void td_runtime_destroy(struct td_runtime *rt) {
    atomic_store(&rt->draining, true);
    td_events_stop(rt->events);
    td_runtime_end_calls(rt);
    td_runtime_drain(rt, 2000); // calls end at once; only handles that were never released would keep one
    for (unsigned i = 0; i < rt->worker_count; i++)
        if (rt->workers[i].started) {
            td_loop_stop(rt->workers[i].loop);
            pthread_join(rt->workers[i].thread, NULL);
        }
    for (unsigned i = 0; i < rt->worker_count; i++)
        td_timer_destroy(rt->workers[i].tick);
    td_govern_close(rt->govern);
    td_store_close(rt->store);
    for (unsigned i = 0; i < rt->worker_count; i++) {
        td_prober_destroy(rt->workers[i].prober);
        td_local_destroy(rt->workers[i].local);
        td_remote_destroy(rt->workers[i].remote);
    }
    td_manager_destroy(rt->manager);
    for (unsigned i = 0; i < rt->worker_count; i++)
        td_loop_destroy(rt->workers[i].loop);
    td_heads_destroy(rt->heads);
    td_stick_destroy(rt->stick);
    td_health_destroy(rt->health);
    td_config_unref(rt->listen_config);
    td_config_unref(rt->config);
    pthread_mutex_destroy(&rt->lock);
    td_free(rt->config_path);
    td_free(rt->config_text);
    td_free(rt->data_dir);
    td_free(rt->host_path);
    td_free(rt);
}

// ---------------------------------------------------------------------------------------------------------- listeners
// --

unsigned td_runtime_worker_count(const struct td_runtime *rt) {
    return rt->worker_count;
}

struct td_loop *td_runtime_worker_loop(struct td_runtime *rt, unsigned worker) {
    return rt->workers[worker].loop;
}

void td_listen_settings_get(struct td_runtime *rt, struct td_listen_settings *out) {
    struct td_config *now = td_runtime_config(rt, NULL);
    listen_settings(rt, now, out);
    td_config_unref(now);
}

int td_runtime_ready(struct td_runtime *rt, char why[128]) {
    why[0] = 0;
    if (atomic_load(&rt->draining))
        snprintf(why, 128, "shutting down");
    else if (!td_store_writable(rt->store))
        snprintf(why, 128, "the ledger cannot be written");
    return why[0] != 0;
}

char *td_runtime_metrics(struct td_runtime *rt) {
    struct td_buf b;
    td_runtime_load_metrics(rt);
    td_buf_init(&b, 16 << 20);
    if (td_counters_write(&b) != TD_OK || !td_buf_z(&b)) {
        td_buf_finish(&b);
        return NULL;
    }
    return b.p;
}
