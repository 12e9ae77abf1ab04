// SPDX-License-Identifier: Apache-2.0
#include "runtime/runtime.h"

#include <stdio.h>
#include <time.h>

#include "base/log.h"
#include "base/time.h"
#include "runtime/call.h"
#include "runtime/events.h"
#include "runtime/heads.h"
#include "runtime/repeat.h"
#include "runtime/probe.h"

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

// ---- open, close

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

static enum td_err take_options(struct td_runtime *rt, const struct td_options *o, struct td_error *e) {
    rt->config_path = o->config_path ? td_strdup(o->config_path) : NULL;
    rt->config_text = o->config_text ? td_strdup(o->config_text) : NULL;
    rt->host_path = o->host_path ? td_strdup(o->host_path) : td_resource_path("tandem-host");
    if ((o->config_path && !rt->config_path) || (o->config_text && !rt->config_text) ||
        (o->host_path && !rt->host_path))
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    enum td_err err = td_runtime_read_config(rt, NULL, &rt->config, e);
    if (err != TD_OK)
        return err;
    rt->data_dir = td_expand_home(o->data_dir ? td_str_of(o->data_dir) : rt->config->data_dir);
    if (!rt->data_dir)
        return td_error_set(e, TD_ERR_CONFIG, "data_dir: HOME is not set");
    rt->listen_config = td_config_ref(rt->config);
    rt->options.log = o->log;
    td_runtime_set_log_level(rt);
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
        td_runtime_count_workers(rt, options);
        err = td_runtime_start_models(rt, e);
    }
    if (err == TD_OK)
        err = open_store(rt, options->operator_only, e);
    if (err == TD_OK)
        err = td_runtime_open_govern(rt, e);
    if (err != TD_OK)
        return err;
    td_store_secret(rt->store, TD_SECRET_CONVERSATION, secret);
    rt->stick = td_stick_create(TD_STICK_ENTRIES_MAX, secret);
    rt->health = td_health_create();
    rt->heads = td_heads_create(rt->store, secret);
    td_store_secret(rt->store, TD_SECRET_REPEAT, secret);
    rt->repeats = td_repeats_create(secret);
    if (!rt->stick || !rt->health || !rt->heads || !rt->repeats ||
        td_health_adopt(rt->health, rt->config->targets, rt->config->target_count, td_now_ns()) != TD_OK)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    td_health_force_link(rt->health, rt->config->connectivity);
    if (options->operator_only)
        return TD_OK;
    err = td_runtime_make_workers(rt, e);
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
    rt->started_wall_ms = td_wall_ms();
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

// What one call is told may end others (of the same batch): the one we are at stays, and with it what is next.
static void feed_all(struct td_worker *w, const struct td_x_input *in) {
    struct td_call *call = w->calls, *next;
    if (call)
        atomic_fetch_add(&call->refs, 1);
    for (; call; call = next) {
        td_call_feed(call, in);
        if ((next = call->next))
            atomic_fetch_add(&next->refs, 1);
        td_call_unref(call);
    }
}

static void end_calls(void *arg) {
    feed_all(arg, &(struct td_x_input){.type = TD_X_IN_ABORT, .abort_code = TD_ERR_CANCELLED});
}

// Nothing optional is started any more: no retry after a pause, no better answer that was not asked for yet.
static void drain_calls(void *arg) {
    feed_all(arg, &(struct td_x_input){.type = TD_X_IN_DRAIN});
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
    td_repeats_destroy(rt->repeats);
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

// ---- for the listener

unsigned td_runtime_worker_count(const struct td_runtime *rt) {
    return rt->worker_count;
}

struct td_loop *td_runtime_worker_loop(struct td_runtime *rt, unsigned worker) {
    return rt->workers[worker].loop;
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
