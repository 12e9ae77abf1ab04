// SPDX-License-Identifier: Apache-2.0
// The models of this machine: which are loaded, which may be, and the guests (model hosts) that run them. One object,
// shared by all workers and guarded by a lock; a thread of its own starts guests, hears their heartbeats and reaps
// them. Models load when an attempt needs them, at most as many as the memory ceiling holds; a model that is serving is
// never evicted, an idle one is (least recently used first, or after its idle time). Any thread may call anything here.
#ifndef TD_LOCAL_MANAGER_H
#define TD_LOCAL_MANAGER_H

#include "loop/loop.h"
#include "target/target.h"

struct td_manager;

// Zero-initialise; zero means the default. Strings are copied.
struct td_manager_options {
    const char *host_path;     // the tandem-host program; required
    unsigned workers;          // how many td_local there may be; required, at most 64
    uint64_t memory_bytes_max; // over all models: weights + KV + compute; default: 3/4 of the machine's memory
    uint32_t idle_unload_ms;   // an unused model is unloaded after this; default 300,000
    uint32_t load_ms_max;      // a load that takes longer has failed; default 120,000
    uint32_t hang_ms_max;      // a guest that works and shows no progress so long is killed; default 10,000
};

enum td_err td_manager_create(const struct td_manager_options *options, struct td_manager **out,
                              struct td_error *e) TD_MUST_USE;
// Ends all guests. All td_local must have been destroyed. Takes NULL.
void td_manager_destroy(struct td_manager *m);

// One model as operators and the world snapshot see it.
struct td_manager_status {
    bool known;             // an attempt or a preload named it before
    bool loaded, loading;   // loaded: answers without loading first
    bool ready;             // loaded or loadable: the last load did not fail
    enum td_err last_error; // of the last load; TD_OK
    uint32_t load_ms;       // measured, or estimated from the file's size; 0 unknown
    uint32_t active;        // attempts in the guest
    uint32_t queued;        // attempts waiting for it to load
    uint32_t generation;    // counts the guests this model has had
    uint32_t context;       // tokens per request; 0 until loaded
    uint32_t capabilities;  // enum td_capability bits as the file shows; 0 until loaded
    uint64_t memory_bytes;  // what it takes or would take; 0 until its file was looked at
    int pid;                // of the guest; 0 none
};
void td_manager_status(struct td_manager *m, const struct td_target *target, struct td_manager_status *out);

// Starts loading a target's model though no attempt waits for it (start-up, `models` command). Returns at once.
enum td_err td_manager_preload(struct td_manager *m, const struct td_target *target, struct td_error *e) TD_MUST_USE;
// Loads the model's file again beside the running guest; when the second one is ready it takes all new attempts and the
// first ends after its last. A failure leaves the first in place.
enum td_err td_manager_swap(struct td_manager *m, const struct td_target *target, struct td_error *e) TD_MUST_USE;

// Estimates and ceilings, for `check` and for tests: bytes this target's model will take (weights + KV + compute),
// after the strict check of its file. TD_ERR_HOST_LOAD with the reason for a file that is no usable GGUF.
enum td_err td_manager_estimate(const struct td_target *target, uint64_t *bytes, struct td_error *e) TD_MUST_USE;

#endif
