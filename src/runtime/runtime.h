// SPDX-License-Identifier: Apache-2.0
// The runtime's inside: what td_runtime_open builds and who owns what. A runtime owns the store, the governor, the
// model manager, the health table and one worker a thread. A worker owns its loop, its two backends and the calls that
// run on it; a call never leaves its worker. The configuration in force is one pointer under a lock; whoever needs it
// takes a reference.
#ifndef TD_RUNTIME_RUNTIME_H
#define TD_RUNTIME_RUNTIME_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend/backend.h"
#include "base/counters.h"
#include "config/config.h"
#include "govern/govern.h"
#include "local/local.h"
#include "policy/stick.h"
#include "remote/remote.h"
#include "store/ledger.h"
#include "store/store.h"
#include "tandem/admin.h"
#include "target/health.h"

#define TD_WORKERS_MAX 16u

struct td_runtime;
struct td_call;

struct td_worker {
    struct td_runtime *runtime;
    unsigned index;
    struct td_loop *loop;
    pthread_t thread;
    bool started;
    struct td_backend *local;
    struct td_remote *remote;
    unsigned link_returns;    // td_health_link_returns when `remote` was last told
    struct td_call *calls;    // running, newest first
    unsigned depth;           // of calls being stepped: a call that arrives inside another's callback waits its turn
    struct td_prober *prober; // of worker 0 (probe.h)
    struct td_timer *tick;    // drives what must happen now and then on this worker
};

struct td_runtime {
    struct td_options options; // strings owned
    char *config_path, *config_text, *data_dir, *host_path;
    pthread_mutex_t lock; // guards config, epoch
    struct td_config *config;
    struct td_config *listen_config; // of the last td_listen_settings_get, whose strings it holds
    uint64_t epoch;                  // counts configurations: the policy version that grants are bound to
    struct td_store *store;
    struct td_govern *govern;
    struct td_manager *manager;
    struct td_health *health;
    struct td_stick *stick;
    struct td_heads *heads;     // heads.h
    struct td_repeats *repeats; // repeat.h
    unsigned char body_key[32]; // of receipts
    struct td_worker workers[TD_WORKERS_MAX];
    unsigned worker_count;
    atomic_uint next_worker;
    atomic_int running; // calls
    atomic_bool draining;
    char bound_address[128];
    const char *hosts[64], *origins[64]; // of td_listen_settings_get
    uint64_t started_ns, pruned_ns;
    int64_t started_wall_ms;
    struct td_events *events;     // events.h
    pthread_mutex_t keep_lock;    // guards keeping
    struct td_call *keeping;      // calls whose request is kept and whose own answer is not yet beside it
    struct td_replayer *replayer; // jobs/replay.h; kept here for jobs/open.c, as is:
    struct td_webhook_sender *webhook;
    struct {
        struct td_counter *requests, *failed, *bytes_out, *ledger_lost, *turned_away[2]; // interactive, batch
        struct td_gauge *running, *link_up;
        struct td_histogram *added, *ttft;
    } metrics;
};

// The runtime without its jobs; jobs/open.c makes td_runtime_open and td_runtime_close of these.
int td_runtime_create(const struct td_options *options, struct td_runtime **out, struct td_failure *failure);
void td_runtime_destroy(struct td_runtime *rt);
// Ends every running call with an error to its client. Returns at once.
void td_runtime_end_calls(struct td_runtime *rt);
// configuration.c: reads what the runtime was opened with, anew (`previous` may be NULL); opens the governor and sets
// the log's level by rt->config.
enum td_err td_runtime_read_config(const struct td_runtime *rt, const struct td_config *previous,
                                   struct td_config **out, struct td_error *e) TD_MUST_USE;
enum td_err td_runtime_open_govern(struct td_runtime *rt, struct td_error *e) TD_MUST_USE;
void td_runtime_set_log_level(struct td_runtime *rt);
// worker.c, in this order: how many, the model manager with the small models loading (before all that takes time: they
// load meanwhile, on another core), the threads. What was made when one fails is for td_runtime_destroy.
void td_runtime_count_workers(struct td_runtime *rt, const struct td_options *options);
enum td_err td_runtime_start_models(struct td_runtime *rt, struct td_error *e) TD_MUST_USE;
enum td_err td_runtime_make_workers(struct td_runtime *rt, struct td_error *e) TD_MUST_USE;
// A reference to the configuration in force; `epoch` (may be NULL) its number.
struct td_config *td_runtime_config(struct td_runtime *rt, uint64_t *epoch);
// Before something goes out, on the worker's thread: its remote learns which policy is in force, and, where the link
// was gone since the last time, finds names and connections anew: it may be another network.
void td_worker_prepare_remote(struct td_worker *w, uint64_t epoch);
// Fills *failure (may be NULL) from an error and returns 1.
int td_failure_set(struct td_failure *failure, enum td_err err, const char *fmt, ...) TD_PRINTF(3, 4);
int td_failure_from(struct td_failure *failure, const struct td_error *e);
// The world as it is now, for this configuration.
void td_runtime_world(struct td_runtime *rt, const struct td_config *config, bool batch, uint64_t now_ns,
                      struct td_world *out);
// The load on local models (load.c): as metrics, as ",\"load\":{…}" of one target; and a request that one had no room
// for.
void td_runtime_load_metrics(struct td_runtime *rt);
enum td_err td_runtime_load_write(struct td_runtime *rt, const struct td_target *target,
                                  struct td_buf *out) TD_MUST_USE;
void td_runtime_turned_away(struct td_runtime *rt, const struct td_target *target, bool batch, uint64_t now_ns);
// Where the data directory is: "~" replaced. NULL without memory or HOME.
char *td_expand_home(struct td_str path);

#endif
