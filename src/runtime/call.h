// SPDX-License-Identifier: Apache-2.0
// One request in flight: the shell around the pure exchange (exchange/exchange.h). It reads the request, asks policy
// and route for a plan, feeds the exchange and carries out its effects with real backends, real money and real rows.
// One worker owns it from birth to END; other threads only post to that worker's loop.
//
//   born ─ read ─ admitted ─ planned ─ stepping … ─ END ─ (handle released) ─ freed
//
// Two references: the caller's handle, and the running exchange. A caller that lets go of its handle while the exchange
// runs is a client that went away.
#ifndef TD_RUNTIME_CALL_H
#define TD_RUNTIME_CALL_H

#include "exchange/exchange.h"
#include "route/decide.h"
#include "runtime/repeat.h"
#include "runtime/runtime.h"
#include "store/outbox.h"
#include "wire/dialect.h"
#include "wire/openai_answer.h"

// What an attempt holds while it runs. In the call's arena, made when the attempt is started.
struct td_slot {
    struct td_call *call;
    struct td_backend *backend; // NULL: never started
    struct td_attempt *attempt; // NULL: destroyed or not started
    struct td_x_start start;    // as the exchange asked
    struct td_buf body;         // the serialised bytes, until they are sent and the answer begins
    struct td_grant *grant;
    struct td_hold hold;
    struct td_admission admission;
    bool held, admitted, used, waiting, was_paused;
    uint64_t receipt;
    unsigned char body_mac[32];
    struct td_attempt_stats stats;
    bool has_stats;
    struct td_str model;          // that answered
    struct td_post later, noting; // it waits for its next stage in this turn; its row does
};

// How client events leave: as bytes of the dialect (http.c) or as td_answer (public.c).
struct td_presenter {
    void (*emit)(struct td_call *call, const struct td_x_out *list, uint32_t count);
    // The request never became an exchange: refused at the door.
    void (*refuse)(struct td_call *call, enum td_err err, const struct td_error *e, uint32_t retry_after_ms);
};

struct td_call {
    // What every event of a stream asks for, so that it lies in few lines of the cache.
    struct td_worker *worker;
    atomic_int refs;
    bool ended, released, refused;
    atomic_bool gone;  // the same as released, for the event stream's thread
    atomic_bool laden; // events for it are on their way to its worker
    bool head_sent, sink_done, stream;
    atomic_bool client_stopped; // it reads too slowly; the event stream's thread looks, too
    // Inputs that come up while effects are being carried out; on the stack of td_call_feed, NULL outside of it.
    struct td_x_input *queue;
    unsigned queue_n;
    struct td_exchange *x;
    const struct td_plan *plan;
    uint64_t last_data_ns, fed_ns; // fed_ns: when the exchange was last fed
    const struct td_presenter *presenter;
    // http.c
    const struct td_http_sink *sink;
    void *sink_user;
    struct td_answer_writer *writer;
    struct td_buf out;
    struct td_timer *alive; // keep-alives of a stream that has begun
    struct td_request request;

    struct td_call *next, **link; // in worker->calls
    struct td_arena arena;
    struct td_config *config; // accepted under
    uint64_t epoch;
    char exchange_id[27];
    uint64_t arrival_ns;
    int64_t arrival_wall_ms;
    struct td_identity who;
    struct td_ticket ticket;
    bool admitted;
    struct td_facts facts;
    char conversation[17];
    struct td_world *world;   // as decided under, in the arena; NULL: refused before
    struct td_str why_nobody; // nobody may answer: which constraint refused which target, in the arena; "" else
    struct td_slot *slots[TD_ATTEMPTS_MAX]; // by the exchange's attempt number; NULL: it was never begun here
    struct td_timer *timer;
    struct td_post later;  // it waits for its next stage in this turn of the loop
    unsigned rows_pending; // before_answer: rows whose ack is out
    bool rows_lost;
    uint32_t tokens_used;
    struct td_batch *batch; // batch.c: it is one of several prompts of a request; NULL else, or when that is over
    uint32_t part;          // which of them
    // The outbox: what was queued for this request, and what a replay brings along.
    bool outbox_asked, outbox_acked;
    char queued_as[27]; // the entry of the same request that was there already; "" none
    // A request that came with an Idempotency-Key, "" none; it is in rt->repeats while `repeating`.
    struct td_str client_key;
    struct td_repeat repeat; // .body from the start, the rest once its tenant is known; of further prompts, all at once
    bool repeating;
    struct td_call *keep_next, **keep_link; // in runtime->keeping; keep_link NULL: not in it
    const struct td_replay *replay;         // NULL: a client's own request
    uint32_t first_attempt, last_origin;
    // public.c
    td_answer_fn on_answer;
    void *answer_user;
    struct td_public *public_state;
};

// What came of a replay. Views live during the call.
struct td_replayed {
    enum td_err err;
    struct td_str body; // the whole answer's text where err is TD_OK
    struct td_str target, model;
    double quality;                  // of the target
    double estimate, local_estimate; // what the router expects of it, and of `local_target`, for this request
    bool sent;
};

// A request of the outbox that is asked again. Views live until done was called.
struct td_replay {
    struct td_str id, request, tenant, residency, idempotency_key;
    struct td_str labels;       // by name, as the outbox has them
    struct td_str local_target; // who answered meanwhile; "" nobody
    struct td_str allowed; // names of the targets it might go to when it was accepted, each followed by a line feed
    double better_than;    // quality of the answer there is: who cannot do better is not asked; below 0 any may be
    enum td_class data_class;
    uint32_t deadline_ms;
    // On the call's worker, exactly once.
    void (*done)(void *user, const struct td_replayed *answer);
    void *user;
};
// Stand among `allowed`: where the webhook might see the answer; and before the id of the key that asked. No target has
// such a name.
#define TD_OUTBOX_WEBHOOK_MARK "@webhook"
#define TD_OUTBOX_KEY_MARK "@key:"
// Asks it again on some worker: on any better target but the device, under the stricter of then and now. TD_ERR_NOMEM:
// done is not called. Any thread.
enum td_err td_call_replay(struct td_runtime *rt, const struct td_replay *replay) TD_MUST_USE;
// Queues the request for a better answer (outbox.c); the answer given meanwhile goes along when it is complete.
void td_call_keep(struct td_call *call, enum td_x_outbox_why why);
void td_call_keep_answer(struct td_call *call);
// The id of the key that an entry's request came with, out of its list of who was allowed; "" none.
struct td_str td_outbox_key_id(struct td_str allowed);
// Nothing more comes to its entry from this call.
void td_call_keep_done(struct td_call *call);
// Some call still works on the answer that belongs beside this entry: it is not asked again before. Any thread.
bool td_call_keeps(struct td_runtime *rt, struct td_str id);

// Makes a call for `worker` with both references; any thread. NULL without memory.
struct td_call *td_call_create(struct td_worker *worker);
// Puts it on its worker's list of running calls; on the worker's thread, once.
void td_call_enlist(struct td_call *call);
// From the read request to the first effects. Everything that goes wrong reaches the client through the presenter.
// `key` the API key the client gave, "" none; `trusted` the client is this user on this machine's Unix socket.
void td_call_run(struct td_call *call, struct td_str key, bool trusted, bool local_peer);
// The same for a further part of a request whose first part, `first`, was let in: as the same caller.
void td_call_run_beside(struct td_call *call, const struct td_call *first);
void td_call_feed(struct td_call *call, const struct td_x_input *in);
void td_call_unref(struct td_call *call);
// Starts one attempt, or feeds REFUSED (start.c).
void td_call_start_attempt(struct td_call *call, const struct td_x_start *start);
// The attempt is over: stats taken, backend's attempt destroyed.
void td_call_stop_attempt(struct td_call *call, uint32_t attempt);
// The finished call's facts for the client: the `tandem` object (answer.c). Views into the call.
void td_call_meta(struct td_call *call, const struct td_x_out *done, struct td_answer_meta *meta,
                  struct td_answer_attempt attempts[TD_ATTEMPTS_MAX]);
struct td_origin td_call_origin(const struct td_call *call, uint32_t attempt);
// The request ends before any exchange: tells the client, writes the row, gives up the running reference.
void td_call_refuse(struct td_call *call, enum td_err err, const struct td_error *e, uint32_t retry_after_ms);
// One ledger row for an attempt of this call (record NULL: the exchange ended without any).
void td_call_record(struct td_call *call, const struct td_x_record *record, enum td_err refused);

extern const struct td_presenter td_presenter_http, td_presenter_public;

#endif
