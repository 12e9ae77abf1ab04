// SPDX-License-Identifier: Apache-2.0
// The guest's inside. Two threads: the door (main) loads the model, then reads frames, reads requests, renders and
// tokenises; the engine owns the model's contexts and decodes. A third, at the start, makes the chat template ready and
// what the first requests will ask of it, while the model loads (prepare.c). The two share the queue and the requests'
// flags (struct host_guest's lock), and each connection's outgoing bytes (its own lock). A request belongs to the door
// until it is queued, then to the engine, which ends it, takes it out of the list and frees it.
#ifndef TD_HOST_GUEST_H
#define TD_HOST_GUEST_H

#include <llama.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/limits.h"
#include "base/mem.h"
#include "host/chat.h"
#include "local/protocol.h"
#include "wire/event.h"
#include "wire/request.h"

enum {
    HOST_CONNS_MAX = 65,
    HOST_PARALLEL_MAX = 64,
    HOST_CHUNK_MAX = 512,
    HOST_FILE_CONTROL = 3,
    HOST_FILE_MODEL = 4 // the model's first file; its other parts follow
};

// The guest's status where it had to end; for want of memory TD_PROTO_EXIT_MEMORY.
enum { HOST_EXIT_SETUP = 70, HOST_EXIT_TEMPLATE = 71, HOST_EXIT_PROTOCOL = 72 };

// Did libllama or C++ get no memory since this was asked last? What they say themselves of the failure that follows is
// often something else.
bool host_was_short_of_memory(void);

struct host_conn {
    int fd; // -1 closed
    struct td_buf in;
    pthread_mutex_t lock; // guards out and broken
    struct td_buf out;
    bool broken;
};

struct host_request {
    struct host_request *next; // in the guest's list
    struct host_conn *conn;
    uint32_t id, flags, priority;
    enum td_kind kind;
    atomic_uint credits;
    atomic_bool cancelled;
    struct td_arena arena;
    struct host_turn *turn; // chat only
    llama_token *prompt;    // chat and completion
    int32_t prompt_count;
    struct host_tokens {
        llama_token *tokens;
        int32_t count;
    } * inputs; // embedding only
    uint32_t input_count;
    uint32_t choices, max_tokens; // max_tokens 0: as many as fit
    struct td_str stops[TD_STOPS_MAX];
    uint32_t stop_count;
    size_t stop_bytes_max;
    struct host_sampling sampling;
    int32_t top_count; // alternatives per token
    bool want_tokens;
    bool formed; // response_format: the grammar says where the answer ends
    bool calls;  // tools are offered
    // The engine's.
    uint32_t choices_started, choices_done, inputs_done;
    uint32_t cached_tokens, completion_tokens, reasoning_tokens;
    bool started, dead;
};

struct host_guest {
    struct llama_model *model;
    const struct llama_vocab *vocab;
    struct llama_context *context;    // NULL: an embedding model
    struct host_templates *templates; // once settled, as the next; never freed
    struct td_error templates_error;  // why there are none
    struct td_proto_setup setup;
    struct td_proto_ready ready;
    uint32_t beyond_prompt; // tokens that an answer may have more than its prompt, by the model's metadata; 0 any
    char name[TD_NAME_BYTES_MAX + 1];
    struct host_conn conns[HOST_CONNS_MAX]; // [0] is the control connection
    uint32_t conn_count;
    int wake_fd; // wakes the door: bytes wait to be sent
    pthread_mutex_t lock;
    pthread_cond_t work;           // wakes the engine
    bool pinged;                   // the house wants a sign of life
    struct host_request *requests; // all that were queued and not ended, in order of arrival
    atomic_uint starved;           // requests in a row that ended for want of memory
};

// What a request ended with: any thread.
void host_note_end(struct host_guest *g, enum td_err code);
// With the lock held: a guest that keeps getting no memory, and has no request in hand, makes room for a fresh one.
void host_leave_if_starved(struct host_guest *g);

// Sends frames (any thread). What does not fit into the socket now is kept, and the door sends it later. False: broken.
bool host_send(struct host_guest *g, struct host_conn *c, const struct td_buf *frames);
// Reads a request's body, renders, tokenises and checks it against the context. On success *out is ready to be queued.
enum td_err host_request_read(struct host_guest *g, struct host_conn *c, uint32_t id, const struct td_proto_request *in,
                              struct host_request **out, struct td_error *e) TD_MUST_USE;
void host_request_free(struct host_request *r);
// Tools as OpenAI JSON (a list, or an object with the list as `tools`) in the form that requests' tools are compared
// in.
enum td_err host_tools_read(struct td_arena *a, struct td_str json, struct td_str *out, struct td_error *e) TD_MUST_USE;
// Before the model is loaded: starts the thread that prepares. `tools`: what requests are likely to bring, "" nothing
// known; it must stay as it is. False: no thread.
bool host_prepare_start(struct host_guest *g, struct td_str tools);
// g->model is there, and it can chat.
void host_prepare_loaded(void);
// After all of loading: returns when g->templates and g->templates_error are what they will be. `chats` false: never
// any.
void host_prepare_settle(struct host_guest *g, bool chats);
// Ends the guest where the thread that made it uses up too much processor time between arming and disarming: templates
// are programs that came with the model.
timer_t host_watchdog_create(void);
void host_watchdog_arm(timer_t t, bool on);
// The door (door.c): before the sandbox, and then for good.
void host_door_init(void);
void host_door_serve(struct host_guest *g);
// The engine's thread; never returns.
void *host_engine_run(void *guest);

#endif
