// SPDX-License-Identifier: Apache-2.0
// The manager's inside (this room only). The manager is one object in four files: manager.c is what workers and
// operators call, keeper.c its thread (what is loaded, who is alive), spawn.c how a guest's process is made, notes.c
// how workers are told to look again.
//
// A model's guests:
//
//   (none) → loading → ready → retiring → dead          retiring: a newer guest has taken over
//              └───────── dead ←┘                       dead: killed or ended, waits to be reaped, then freed
//
// Invariants. Everything below `lock` is read and written under it. A model has at most one guest that is loading and
// one that is ready. A guest's memory counts against the ceiling from before it is spawned until it has been reaped.
// Only the manager's thread spawns, reads control connections, reaps and kills. Guests are counted: the manager holds
// one count until it has reaped the process, each worker's connection one more.
#ifndef TD_LOCAL_INSIDE_H
#define TD_LOCAL_INSIDE_H

#include <pthread.h>

#include "local/files.h"
#include "local/guest.h"
#include "local/starved.h"

#define WORKERS_MAX 64u
#define MODELS_MAX 256u     // names an operator may have configured over the process's life
#define SUSPECTS_MAX 64u    // prompts remembered per ended guest
#define QUARANTINE_MAX 256u // prompts remembered in all; the oldest makes room

enum guest_state { GUEST_LOADING, GUEST_READY, GUEST_RETIRING, GUEST_DEAD };

struct td_guest {
    struct td_guest *next;
    struct td_model *model;
    enum guest_state state;
    unsigned counts;
    uint32_t generation, active, load_ms;
    int pid, pidfd, control;
    int connections[WORKERS_MAX];
    struct td_buf in;
    uint64_t memory_bytes, started_ns, heard_ns;
    uint64_t cut_ns; // since when a worker has no connection to it any more; 0: all have
    struct td_proto_ready ready;
    bool ours, judged,
        guilty;               // ours: ended for no fault of it; judged: how it ended is known; guilty: by its own fault
    enum td_err end;          // once judged: what its attempts are told
    struct td_starved killed; // when it began
    uint64_t suspects[SUSPECTS_MAX];
    uint32_t suspect_count;
};

struct td_model {
    struct td_model *next;
    uint64_t number; // from 1
    char *path, *name;
    char *tools_file; // what requests are likely to bring; NULL none. As the target that came last says
    uint32_t context, parallel, threads, gpu_layers;
    uint64_t memory_bytes_max;
    struct td_guest *loading, *ready;
    bool preload, swap;
    uint32_t waiting, generation, load_ms;
    uint64_t memory_bytes, used_ns, retry_ns, memory_wait_ns;
    uint32_t capabilities;
    uint32_t load_failures, crashes;
    enum td_err error; // of the last load
    char message[240];
};

struct td_hub_worker {
    struct td_loop *loop;
    void (*fn)(void *arg);
    void *arg;
    bool noted;
};

// Where notes to the workers start from. Counted apart from the manager, because a loop that is taken down late runs
// what was posted to it when the manager may have gone.
struct td_hub {
    pthread_mutex_t lock;
    unsigned counts;
    struct td_hub_worker workers[WORKERS_MAX];
};

struct td_manager {
    pthread_mutex_t lock; // before the hub's, where both are held
    struct td_hub *hub;
    pthread_t thread;
    int wake_fd;
    bool stopping, note_again;
    char *host_path;
    unsigned worker_count;
    uint64_t memory_bytes_max;
    uint32_t idle_unload_ms, load_ms_max, hang_ms_max;
    struct td_model *models;
    uint32_t model_count;
    struct td_guest *guests;
    struct {
        uint64_t prompt;
        uint32_t strikes;
    } quarantine[QUARANTINE_MAX];
    uint32_t quarantine_next;
    uint8_t key[16]; // of the prompts' hashes
};

// All of these with the lock held, save where they say otherwise.

// Wakes the manager's thread. With or without the lock.
void td_manager_wake(struct td_manager *m);
// Tells every worker to look again; where there is no memory for that, the thread tries again soon. Any thread.
void td_manager_note(struct td_manager *m);
// Unlocks the hub, whose lock is held, and frees it after the last.
void td_hub_release(struct td_hub *hub);
// A prompt is judged with the model that it ended: a broken model must not outlaw prompts for the others.
void td_manager_strike(struct td_manager *m, const struct td_model *model, uint64_t prompt);
// Spawns a guest that gets the open model files, and what requests are likely to bring (`tools_file`, NULL none).
// Without the lock: nothing of it is shared yet.
enum td_err td_guest_start(struct td_manager *m, struct td_model *model, const char *tools_file,
                           const struct td_model_files *parts, uint32_t context, struct td_guest **out,
                           struct td_error *e) TD_MUST_USE;
// Kills it; it is reaped by the thread. `ours`: for no fault of its own.
void td_guest_end(struct td_guest *g, bool ours);
// Gives one count back.
void td_guest_release(struct td_guest *g);
// Tokens of context that a request gets. Any thread.
uint32_t td_model_context(const struct td_model *model, const struct td_gguf *info);
// The thread.
void *td_manager_run(void *manager);

#endif
