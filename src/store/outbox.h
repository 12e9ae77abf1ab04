// SPDX-License-Identifier: Apache-2.0
// The outbox: requests kept durably for a better answer later, with the one that was accepted, and the events that tell
// their clients of it. Bounded in entries and bytes; texts are sealed at rest with a key of the data directory.
// Every change is one transaction; its ack says it is durable. `ack` NULL: the call itself waits
// (milliseconds: not from a worker's loop). Callbacks of queries must not call the store; their views live during the
// call.
//
//   queued ──► answered_locally ──► intent_sent ──► answered_by_cloud ──► reconciled
//      └──────────────────────────────►┘ │ └─► (failed: back to where it came from, attempts + 1)
//   queued, answered_locally, intent_sent ──► expired | rejected (policy or provider, for good)
//   reconciled ──► reconciled (a person overrules: the other answer stands)
//   any but reconciled ──► dropped (a person); expired, rejected ──► queued | answered_locally (a person retries)
//
// Before a byte of a replay leaves, the entry is moved to intent_sent and that is durable: an entry found there after a
// crash may have been paid once already, every other has not.
#ifndef TD_STORE_OUTBOX_H
#define TD_STORE_OUTBOX_H

#include "store/store.h"
#include "wire/request.h"

#define TD_OUTBOX_ENTRY_BYTES_MAX (40u << 20) // a request's body at its cap and what goes with it

// X(NAME, "stable-word", TERMINAL); the order is kept on disk: new ones go to the end.
#define TD_OUTBOX_STATE_LIST(X)                                                                                        \
    X(QUEUED, "queued", 0)                                                                                             \
    X(ANSWERED_LOCALLY, "answered_locally", 0)                                                                         \
    X(INTENT_SENT, "intent_sent", 0)                                                                                   \
    X(ANSWERED_BY_CLOUD, "answered_by_cloud", 0)                                                                       \
    X(RECONCILED, "reconciled", 1)                                                                                     \
    X(EXPIRED, "expired", 1)                                                                                           \
    X(DROPPED, "dropped", 1)                                                                                           \
    X(REJECTED, "rejected", 1)

enum td_outbox_state {
#define X(name, word, terminal) TD_OUTBOX_##name,
    TD_OUTBOX_STATE_LIST(X)
#undef X
        TD_OUTBOX_STATE_COUNT
};
const char *td_outbox_state_word(enum td_outbox_state state);
// Whether the diagram above has this arrow. Pure; the store refuses every other move.
bool td_outbox_move_is_legal(enum td_outbox_state from, enum td_outbox_state to);

enum td_accepted { TD_ACCEPTED_NONE, TD_ACCEPTED_LOCAL, TD_ACCEPTED_CLOUD };

struct td_outbox_answer {
    struct td_str body; // the answer as the client's dialect has it (JSON); sealed at rest
    struct td_str target, model;
    double quality; // the target's, when it answered
    int64_t wall_ms;
};

#define TD_OUTBOX_CLIENT_KEY "tdk-"
#define TD_OUTBOX_CLIENT_KEY_BYTES 36u // with the key's own 32 digits

struct td_outbox_entry {
    struct td_str id; // the exchange's
    struct td_str tenant, conversation;
    enum td_outbox_state state;
    uint32_t priority; // 0 interactive, 1 batch
    int64_t created_ms, expires_ms, next_try_ms, changed_ms;
    uint32_t attempts;
    // The policy it was accepted under; replay takes the stricter of this and the one then in force.
    uint64_t policy_version;
    enum td_class data_class;
    struct td_str labels; // names with a space between; "*" one that nothing names
    struct td_str residency;
    struct td_str reconcile; // "take_better", "keep_local", "ask"
    // Goes with every try; made by td_outbox_add where empty. One of a client begins with TD_OUTBOX_CLIENT_KEY and what
    // stands for its key; what stands for the request follows.
    struct td_str idempotency_key;
    char *twin;            // of td_outbox_add: see there; room for an id of 26 and its end, or NULL
    struct td_str request; // the client's body; sealed at rest
    struct td_str context; // whatever else a replay needs (JSON); sealed at rest
    struct td_outbox_answer local, cloud;
    enum td_accepted accepted;
    struct td_str verdict; // why this answer was accepted, one word and numbers
    enum td_err last_error;
    uint64_t bytes; // what it counts for
};

// Puts an entry in, state QUEUED or ANSWERED_LOCALLY (with `local`). `id`, `tenant`, times and texts are taken from
// *entry. TD_ERR_OVERLOAD: the outbox is full of entries that are not finished; finished ones give way, oldest first.
// TD_ERR_LIMIT: the entry is too large. TD_ERR_USAGE: the id is there. With a client's key, where the tenant has an
// entry under it that waits or has its answer: TD_ERR_IN_PROGRESS the same request is kept already, and `twin` has its
// id before the ack comes; TD_ERR_KEY_REUSED it is another one.
enum td_err td_outbox_add(struct td_store *store, const struct td_outbox_entry *entry, const struct td_ack *ack,
                          struct td_error *e) TD_MUST_USE;

// One event for the client, written in the same transaction as the change it tells of.
struct td_outbox_event {
    struct td_str type; // "revision", "expired", …
    struct td_str data; // JSON; sealed at rest
};

// A change of state with what comes with it. Zero or empty fields change nothing.
struct td_outbox_move {
    enum td_outbox_state from, to;
    const struct td_outbox_answer *local, *cloud; // with to = ANSWERED_LOCALLY, ANSWERED_BY_CLOUD
    int64_t next_try_ms;                          // after a failed try
    bool attempted;                               // counts one attempt
    enum td_accepted accepted;                    // with RECONCILED; also points the conversation at this exchange
    struct td_str verdict;
    enum td_err error;
    const struct td_outbox_event *event;
};
// TD_ERR_NOT_FOUND; TD_ERR_USAGE: it is not in `from`, or there is no such arrow; TD_ERR_LIMIT: the answers together,
// or the event, have more than TD_OUTBOX_ENTRY_BYTES_MAX. Then nothing has changed. Two moves give way to what happened
// meanwhile: back to QUEUED becomes ANSWERED_LOCALLY where there is a local answer, and from QUEUED to ANSWERED_LOCALLY
// only adds the answer where replay has taken the entry already.
enum td_err td_outbox_move(struct td_store *store, struct td_str id, const struct td_outbox_move *move,
                           const struct td_ack *ack, struct td_error *e) TD_MUST_USE;
// A person's "try again now": EXPIRED, REJECTED back to waiting with a new expiry; waiting ones lose their delay.
enum td_err td_outbox_retry(struct td_store *store, struct td_str id, int64_t now_ms, int64_t expires_ms,
                            struct td_error *e) TD_MUST_USE;
// Moves what waits past its expiry to EXPIRED (with an event) and removes finished entries and events older
// than `keep_ms`. At most `limit` of each kind a call.
enum td_err td_outbox_sweep(struct td_store *store, int64_t now_ms, int64_t keep_ms, uint32_t limit,
                            const struct td_ack *ack, struct td_error *e) TD_MUST_USE;

// Entries of before schema 3 bear their labels as bits, which are names only together with the configuration: until
// they are named their labels are "*". `name` writes the names for some bits; it runs on the writer thread.
enum td_err td_outbox_name_labels(struct td_store *store,
                                  enum td_err (*name)(void *user, uint32_t bits, struct td_buf *out), void *user,
                                  struct td_error *e) TD_MUST_USE;

typedef bool (*td_outbox_fn)(void *user, const struct td_outbox_entry *entry);
struct td_outbox_filter {
    struct td_str tenant; // "" all
    uint32_t states;      // bits 1 << state; 0 all
    int64_t due_ms;       // > 0: only QUEUED and ANSWERED_LOCALLY with next_try <= due < expires, by priority and age
    uint32_t limit;       // 0: 100
    bool texts;           // open request, context and answers too
};
enum td_err td_outbox_list(struct td_store *store, const struct td_outbox_filter *filter, td_outbox_fn fn, void *user,
                           struct td_error *e) TD_MUST_USE;
// With its texts. `tenant` "" any. TD_ERR_NOT_FOUND.
enum td_err td_outbox_get(struct td_store *store, struct td_str tenant, struct td_str id, td_outbox_fn fn, void *user,
                          struct td_error *e) TD_MUST_USE;
struct td_outbox_size {
    uint64_t entries, bytes; // with the finished ones that are still kept; these give way where the caps are reached
    uint64_t by_state[TD_OUTBOX_STATE_COUNT];
};
enum td_err td_outbox_size(struct td_store *store, struct td_outbox_size *out, struct td_error *e) TD_MUST_USE;

// Events, in the order of their ids, for Last-Event-ID. Ids rise and are never used twice.
struct td_event_record {
    uint64_t id;
    struct td_str tenant, exchange, type, data;
    int64_t wall_ms;
};
typedef bool (*td_event_record_fn)(void *user, const struct td_event_record *event);
enum td_err td_events_after(struct td_store *store, struct td_str tenant, uint64_t after, uint32_t limit,
                            td_event_record_fn fn, void *user, struct td_error *e) TD_MUST_USE;
// The first event after `after`, whosever it is. Not for clients.
enum td_err td_events_next(struct td_store *store, uint64_t after, td_event_record_fn fn, void *user,
                           struct td_error *e) TD_MUST_USE;
// How far a reader of its own got, durably: the newest id that it is done with. `*id` UINT64_MAX: never marked.
enum td_err td_events_mark(struct td_store *store, const char *reader, uint64_t id, struct td_error *e) TD_MUST_USE;
enum td_err td_events_marked(struct td_store *store, const char *reader, uint64_t *id, struct td_error *e) TD_MUST_USE;
// The newest id; 0 none yet.
enum td_err td_events_last(struct td_store *store, uint64_t *id, struct td_error *e) TD_MUST_USE;

#endif
