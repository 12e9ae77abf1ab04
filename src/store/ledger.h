// SPDX-License-Identifier: Apache-2.0
// The ledger: the append-only record of attempts, one row each, also the failed, cancelled, hedged and those refused
// before anything was sent; and the receipts of what left the machine. Both are kept in one hash chain keyed with the
// data directory's secret: a record that was changed, removed or put in later by somebody without that key is found by
// td_ledger_verify. Rows hold no text of a request or an answer.
//
// Handing over copies the row and never blocks, waits or calls the system (save a wake-up when the writer sleeps).
// Queries read what is committed, on the caller's thread; they may take milliseconds: not from a worker's loop.
#ifndef TD_STORE_LEDGER_H
#define TD_STORE_LEDGER_H

#include "route/plan.h"
#include "store/store.h"

#define TD_LEDGER_TEXT_BYTES_MAX 128u       // each name in a row; longer ones are cut at a character
#define TD_LEDGER_DECISION_BYTES_MAX 16384u // decision inputs; 64 targets fit; larger ones are left out and counted

// How an attempt ended. X(NAME, "stable-word")
#define TD_OUTCOME_LIST(X)                                                                                             \
    X(OK, "ok")                 /* a whole answer */                                                                   \
    X(FAILED, "failed")         /* before its first byte */                                                            \
    X(CUT, "cut")               /* after its first byte */                                                             \
    X(CANCELLED, "cancelled")   /* the client went away or asked for it */                                             \
    X(LOST_HEDGE, "lost_hedge") /* another attempt was faster */                                                       \
    X(ESCALATED, "escalated")   /* the cascade did not trust it */                                                     \
    X(SUPERSEDED, "superseded") /* a draft that a better answer replaced */                                            \
    X(REFUSED, "refused")       /* nothing was sent: no target, budget, full queue, policy */

enum td_outcome {
#define X(name, word) TD_OUTCOME_##name,
    TD_OUTCOME_LIST(X)
#undef X
        TD_OUTCOME_COUNT
};
const char *td_outcome_word(enum td_outcome outcome);

// One attempt. Views are copied by td_ledger_append; in query callbacks they live during the call. Zero (or NaN for
// probabilities) where a fact is not known.
struct td_ledger_row {
    uint64_t number;              // given by the ledger, rising; ignored by append
    struct td_str exchange;       // 26 characters
    uint32_t attempt;             // from 1; 0: the exchange ended without any
    struct td_str tenant, key_id; // "" anonymous
    struct td_str conversation;   // keyed hash, hexadecimal; "" none
    int64_t wall_ms;              // when the attempt ended
    enum td_kind kind;
    enum td_dialect dialect; // the client's
    enum td_mode mode;
    enum td_reason reason;               // why this step, or why refused
    struct td_str rule;                  // deciding rule, "" none
    struct td_str target, model, region; // model: the one that really answered, else the configured
    enum td_tier tier;
    enum td_provider provider;
    enum td_class data_class;
    uint32_t labels; // bits
    uint64_t policy_version;
    enum td_outcome outcome;
    enum td_err error; // TD_OK none
    int http_status;   // the upstream's; 0 none
    bool damaged;      // an event of the stream could not be read
    bool delivered;    // this answer, or part of it, is what the client got
    bool degraded;     // offline: a better target existed
    uint64_t receipt;  // number of its egress receipt; 0: nothing left the machine
    uint64_t bytes_out, bytes_in;
    unsigned char body_mac[32]; // keyed MAC of the bytes that left; zero none
    uint32_t prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens;
    bool tokens_estimated;
    int64_t cost_nusd; // nano-dollars
    bool cost_estimated;
    uint64_t queue_us, connect_us, ttft_us, duration_us;        // ttft and duration from the attempt's start
    uint32_t retries;                                           // of this target before this attempt
    float mean_logprob, min_logprob, mean_entropy, mean_margin; // margin: first minus second probability
    uint32_t draft_tokens;                                      // length of the local draft the probabilities are over
    struct td_str decision; // inputs of the decision, compact JSON, for replay; give it once an exchange
};

// Copies the row into the hand-over. After it returns TD_OK the row survives kill -9. TD_ERR_LEDGER: the ring is full
// because the disk has been refusing writes; the row was not taken (and is counted).
enum td_err td_ledger_append(struct td_store *store, const struct td_ledger_row *row) TD_MUST_USE;
// The same, and `ack` is called when the row is on the disk (power loss included). Rows of several callers share a
// commit. With an error returned no ack comes. TD_ERR_LEDGER, TD_ERR_NOMEM.
enum td_err td_ledger_append_acked(struct td_store *store, const struct td_ledger_row *row,
                                   const struct td_ack *ack) TD_MUST_USE;

// What a grant lets out (remote/grant.h). X(NAME, "stable-word")
#define TD_EGRESS_LIST(X)                                                                                              \
    X(INFERENCE, "inference")                                                                                          \
    X(WEBHOOK, "webhook")                                                                                              \
    X(TELEMETRY, "telemetry")                                                                                          \
    X(MODEL_PULL, "model_pull")                                                                                        \
    X(PROBE, "probe")                                                                                                  \
    X(SYNC, "sync")

enum td_egress {
#define X(name, word) TD_EGRESS_##name,
    TD_EGRESS_LIST(X)
#undef X
        TD_EGRESS_COUNT
};
const char *td_egress_word(enum td_egress kind);

// What is about to leave the machine; written before it does.
struct td_receipt {
    uint64_t number; // given by the ledger; ignored by append
    int64_t wall_ms;
    enum td_egress kind;
    struct td_str exchange; // "" where none
    uint32_t attempt;
    struct td_str tenant, target, region;
    enum td_class data_class;
    uint32_t labels;
    uint64_t policy_version;
    uint64_t bytes;
    unsigned char body_mac[32];
};

// Hands a receipt over and gives its number, which the grant and the attempt's row carry. `ack` may be NULL: then the
// receipt is as safe as a batched row. TD_ERR_LEDGER: nothing may be sent. TD_ERR_NOMEM.
enum td_err td_receipt_append(struct td_store *store, const struct td_receipt *receipt, const struct td_ack *ack,
                              uint64_t *number) TD_MUST_USE;

// Return false to stop the query.
typedef bool (*td_ledger_row_fn)(void *user, const struct td_ledger_row *row);

// Which rows. Zero means no limit; views "" match all.
struct td_ledger_filter {
    struct td_str tenant, target, exchange;
    int64_t since_ms, until_ms; // wall time
    uint64_t after;             // rows with a larger number only ("tail -f")
};
// The newest `count` matching rows, oldest of them first. Looks at no more than the newest million records.
enum td_err td_ledger_tail(struct td_store *store, const struct td_ledger_filter *filter, uint32_t count,
                           td_ledger_row_fn fn, void *user, struct td_error *e) TD_MUST_USE;
// One row as a compact JSON object (the form of the command line and the admin door), `decision` included on wish.
struct td_buf;
enum td_err td_ledger_row_json(const struct td_ledger_row *row, bool with_decision, struct td_buf *out) TD_MUST_USE;

// Sums by target. Kept by the hour as rows arrive, so the cost of asking does not grow with the rows.
struct td_ledger_stats {
    struct td_str target; // "" where no target was tried; "*" in the total
    enum td_tier tier;
    uint64_t attempts, ok, failed, delivered, degraded, damaged; // failed: FAILED or CUT
    uint64_t prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens;
    uint64_t delivered_prompt_tokens, delivered_completion_tokens;
    uint64_t bytes_out;
    int64_t cost_nusd;
    uint64_t ttft_us_p50, ttft_us_p95, duration_us_p50, duration_us_p95; // of ok attempts; within 5 %; 0 unknown
    int64_t cloud_alone_nusd; // what the delivered tokens would have cost at `cloud_price`
};
typedef bool (*td_ledger_stats_fn)(void *user, const struct td_ledger_stats *stats);
// `cloud_price`: the price of the best cloud target (NULL: cloud_alone stays 0). since and until are widened to whole
// hours (UTC); `filter->after` is ignored. fn gets one record per target and the total last.
enum td_err td_ledger_stats(struct td_store *store, const struct td_ledger_filter *filter,
                            const struct td_price *cloud_price, td_ledger_stats_fn fn, void *user,
                            struct td_error *e) TD_MUST_USE;
// Money spent since `since_ms` (whole hours) by a tenant ("" all) at a target ("" all).
enum td_err td_ledger_spent(struct td_store *store, struct td_str tenant, struct td_str target, int64_t since_ms,
                            int64_t *nusd, struct td_error *e) TD_MUST_USE;

struct td_ledger_proof {
    uint64_t rows, receipts; // checked
    uint64_t bad;            // the first record that may not fit: the chain's link is broken there or in the few
                             // milliseconds of records after it that were written with it; 0 none
    uint64_t pruned;         // last record that retention deleted; 0 none
    unsigned char head[32];  // end of the chain: note it elsewhere to detect a cut tail
};
// Walks the chain. TD_OK also when something is wrong: the proof says. TD_ERR_IO: could not be read.
enum td_err td_ledger_verify(struct td_store *store, struct td_ledger_proof *proof, struct td_error *e) TD_MUST_USE;

// Deletes records older than `before_ms` (wall time) from the front of the chain, as they were written together, until
// one is younger or `limit` are gone. Sums by the hour stay; so do rows that the sums do not cover yet, and what was
// written last. `ack` NULL: waits.
enum td_err td_ledger_prune(struct td_store *store, int64_t before_ms, uint32_t limit, const struct td_ack *ack,
                            struct td_error *e) TD_MUST_USE;

#endif
