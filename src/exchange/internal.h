// SPDX-License-Identifier: Apache-2.0
// What the three parts of the exchange share; no other room includes it. The state diagram:
//
//   OPEN --START--> TRYING --last attempt ended well--> [WAITING for DURABLE, KEPT] --> OVER
//                     |  ^                                                         ^
//                     +--+ next attempt   nobody left [WAITING for KEPT], abort, gone -+
//
// While TRYING, `lead` is the attempt whose output goes to the client, or -1: nothing shown yet, or what was shown has
// been cut and another attempt is asked to go on. `draft` is the cascade's local try or the progressive draft, kept as
// reserve until its fate is known; its RECORD waits as long.
#ifndef TD_EXCHANGE_INTERNAL_H
#define TD_EXCHANGE_INTERNAL_H

#include "base/time.h"
#include "exchange/exchange.h"

// ---- store

// Events kept for later: what is held back, and whole answers for clients that do not stream. Pieces of the same text
// are joined. Offsets, not pointers, because the buffers move when they grow.
struct td_x_piece {
    enum td_event_type type;
    uint32_t choice, index; // index: of the tool call or embedding
    size_t at, n;           // in bytes
    size_t id_at, id_n, name_at, name_n;
    uint32_t token_at, token_count; // in tokens
    size_t raw_at, raw_n;           // in `texts`: what the provider said of its own (td_openai_own_fields)
};
struct td_x_kept_token {
    size_t at, n; // in bytes of `texts`
    float logprob, entropy;
    uint32_t top_at, top_count; // in tokens
};
struct td_x_store {
    struct td_buf bytes, texts;   // answer text; token texts
    struct td_buf pieces, tokens; // arrays of the two structs above
};
void td_x_store_init(struct td_x_store *s);
void td_x_store_finish(struct td_x_store *s);
enum td_err td_x_store_add(struct td_x_store *s, const struct td_event *ev, bool with_tokens) TD_MUST_USE;
uint32_t td_x_store_count(const struct td_x_store *s);
// Rebuilds piece `i`; its views are valid until the next add, token arrays come from `arena`.
enum td_err td_x_store_get(const struct td_x_store *s, uint32_t i, struct td_arena *arena,
                           struct td_event *out) TD_MUST_USE;
// Text of choice 0 where it is one piece; {NULL, 0} otherwise.
struct td_str td_x_store_text(const struct td_x_store *s);
// The tool calls of choice 0 as JSON, appended; see td_exchange_answer.
enum td_err td_x_store_calls(const struct td_x_store *s, struct td_arena *arena, struct td_buf *out) TD_MUST_USE;
// The same answer: text, refusals and tool calls (ids apart, which providers make up), reasoning left aside.
bool td_x_store_same(const struct td_x_store *a, const struct td_x_store *b);

// ---- fault

enum td_x_class {
    TD_X_CLASS_RETRY,    // the same target again after a pause, then the next
    TD_X_CLASS_LAST,     // the next target first; this one again when nobody else is left
    TD_X_CLASS_NEXT,     // another try of the same would end the same: only the next target
    TD_X_CLASS_SILENT,   // took the request and said nothing: never again in this exchange
    TD_X_CLASS_CONTEXT,  // only a target with more context
    TD_X_CLASS_DECLINED, // the model's own "not for me": the next, and no fault
    TD_X_CLASS_FINAL     // nobody else is asked
};
enum td_x_class td_x_fault_class(enum td_err code);

// ---- attempt

struct td_x_attempt {
    struct td_x_record rec;
    enum { TD_X_STARTING, TD_X_RUNNING, TD_X_OVER } state;
    bool recorded, paused, has_usage;
    bool ended;      // END or ERROR came, or CANCEL went out
    bool whole_only; // progressive: compared only when it ends (it, or the draft, has more than text)
    bool stop_hit;   // a stop string that began before the cut ended in its text
    uint64_t sent_ns, last_ns;
    uint32_t connect_ms; // its limit; 0 the target's own
    struct td_x_store store;
    uint32_t content_choices, finished_choices; // bits
    enum td_finish finishes[TD_CHOICES_MAX];
    struct {
        char bytes[4];
        uint8_t n;
    } carry[TD_CHOICES_MAX]; // the first bytes of a character whose rest has not come
    uint32_t tokens;         // counted: by the backend, or one an event
    bool tokens_exact;
    // probabilities of all tokens, and of the first hold_tokens
    uint32_t probable, window;
    double logprob_sum, entropy_sum, window_sum, window_min, first_logprob, second_logprob;
    uint32_t declined; // bytes of the target's `declines` that the answer is so far; UINT32_MAX: it is something else
    uint32_t entropies;
    size_t match; // SPLICE and progressive: bytes of what was shown that it reproduced
};

struct td_x_step {
    enum { TD_X_STEP_FREE, TD_X_STEP_BUSY, TD_X_STEP_PAUSED, TD_X_STEP_OUT } state; // PAUSED: failed, may be retried
    uint32_t tries;
    uint64_t not_before_ns; // Retry-After
    bool no_prefix;         // it refused to go on from a prefix
};

struct td_x_fault {
    enum td_err code;
    enum td_reason reason;
    int http_status;
    uint32_t retry_after_ms;
    struct td_str message;
    uint32_t target;
};

struct td_exchange {
    struct td_x_config c;
    const struct td_request *request;
    const struct td_plan *plan;
    enum { TD_X_OPEN, TD_X_TRYING, TD_X_WAITING, TD_X_ENDED } phase;
    uint64_t now_ns, deadline_ns;
    struct td_x_effects *fx;
    bool retry_budget, hedge_budget; // of this input

    struct td_x_attempt *attempts[TD_ATTEMPTS_MAX]; // the others are made when they are started, in the arena
    uint32_t attempt_count, step_limit;
    struct td_x_step steps[TD_ATTEMPTS_MAX];
    uint64_t shut; // bits of targets never to be asked again
    uint32_t retries_used;
    int lead, draft;
    bool hung;        // a connection was waited for in vain: the next will not be waited for as long
    bool escalated;   // the draft is reserve only
    bool trusted;     // cascade, not streamed: the draft is the answer once it is whole
    bool refine_over; // progressive: nobody is left who could give a better answer
    bool draining, stopped, outboxed, degraded, rows_wait; // rows_wait: for DURABLE
    uint64_t outbox_wait_ns;                               // until then the end waits for KEPT; 0 not

    // what the client has
    bool aware; // understands revisions
    bool begun, tool_shown, refusal_shown, restart;
    bool others_shown; // text of further choices
    bool text_lost;    // `sent` could not take it all: no going on from it
    uint32_t revision;
    struct td_buf sent;      // text of choice 0 in this revision
    struct td_x_store calls; // its tool calls
    bool calls_lost;         // which did not fit
    uint32_t sent_tokens;
    uint32_t chain[TD_ATTEMPTS_MAX], chain_count; // whose text it is, in order
    bool continued;                               // the lead goes on from another's text
    size_t seam_at;                               // where in `sent` its own begins
    bool seam_open;                               // a stop string could still span the seam
    struct td_str seam_held;                      // its first bytes, kept until that is decided; in the arena

    struct td_x_fault fault, refusal, declined; // the first of each kind is what the client hears
    struct td_x_fault failed;                   // WAITING, its code set: what it will hear instead of an answer
    bool final;                                 // nobody else is to be asked
    uint32_t context_over;                      // context of the largest target that was too small; UINT32_MAX unknown
    bool context_hit;

    // times, 0 none
    uint64_t retry_ns, hold_ns, hedge_ns, refine_ns, armed_ns;
    uint32_t retry_step;
    uint64_t random;

    uint32_t out_count, out_cap;
    bool out_of_memory;
    struct td_x_out *outs, spare_out;
    struct td_x_attempt first; // most exchanges have no other
};

static inline struct td_x_attempt *td_x_at(struct td_exchange *x, int i) {
    return i < 0 ? NULL : x->attempts[i];
}
static inline const struct td_target *td_x_target(const struct td_exchange *x, const struct td_x_attempt *a) {
    return &x->c.targets[a->rec.target];
}
static inline int td_x_index(const struct td_x_attempt *a) {
    return (int)a->rec.attempt;
}
static inline bool td_x_is_lead(const struct td_exchange *x, const struct td_x_attempt *a) {
    return x->lead == td_x_index(a);
}
static inline bool td_x_is_draft(const struct td_exchange *x, const struct td_x_attempt *a) {
    return x->draft == td_x_index(a);
}
static inline bool td_x_past_deadline(const struct td_exchange *x, uint64_t at_ns) {
    return x->deadline_ns && at_ns >= x->deadline_ns;
}
static inline bool td_x_is_whole(const struct td_x_attempt *a) {
    return a->state == TD_X_OVER && a->rec.outcome == TD_X_OUTCOME_OK;
}
// Progressive to a client that understands revisions: the draft is shown beside the main line.
static inline bool td_x_shows_draft(const struct td_exchange *x) {
    return x->plan->mode == TD_MODE_PROGRESSIVE && x->aware;
}
struct td_x_effect *td_x_effect_add(struct td_exchange *x, enum td_x_effect_type type);

// attempt.c: keeps the record of one try.
void td_x_attempt_note(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev);
void td_x_attempt_stats(struct td_x_attempt *a, const struct td_attempt_stats *stats);
// True when every choice that had content is finished (chat and completion), or the vectors came (embedding).
bool td_x_attempt_whole(const struct td_exchange *x, const struct td_x_attempt *a);
// Its text so far may become, or its whole answer is, the target's "not for me".
bool td_x_attempt_may_decline(const struct td_exchange *x, const struct td_x_attempt *a);
bool td_x_attempt_declined(const struct td_exchange *x, const struct td_x_attempt *a);
// A command model: probability of its first two tokens; others: over the first hold_tokens tokens. NaN where there were
// no probabilities.
double td_x_attempt_confidence(const struct td_exchange *x, const struct td_x_attempt *a);
void td_x_attempt_close(struct td_exchange *x, struct td_x_attempt *a, enum td_x_outcome outcome, enum td_err code);
// Tells the runtime to stop it, where it has not ended by itself.
void td_x_attempt_stop(struct td_exchange *x, struct td_x_attempt *a);
// Stops, closes and records it.
void td_x_attempt_cancel(struct td_exchange *x, struct td_x_attempt *a, enum td_x_outcome outcome, enum td_err code);
void td_x_attempt_record(struct td_exchange *x, struct td_x_attempt *a);
// When its own limits run out, 0 never; and with which error.
uint64_t td_x_attempt_limit(const struct td_exchange *x, const struct td_x_attempt *a, enum td_err *code);

// present.c: what the client sees.
void td_x_commit(struct td_exchange *x, struct td_x_attempt *a);  // it leads from now on
void td_x_release(struct td_exchange *x, struct td_x_attempt *a); // shows what was kept of it
void td_x_show(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev);
void td_x_splice(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev);
void td_x_rival(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev); // progressive: refine
void td_x_rival_end(struct td_exchange *x, struct td_x_attempt *a);
void td_x_revise(struct td_exchange *x, struct td_x_attempt *a, enum td_x_op op);
void td_x_flush(struct td_exchange *x, struct td_x_attempt *a); // what the seam holds
bool td_x_out_reserve(struct td_exchange *x, uint32_t n);       // room for n more client events
int64_t td_x_cost_total(const struct td_exchange *x);
void td_x_show_end(struct td_exchange *x);
void td_x_show_error(struct td_exchange *x, enum td_err code, int http_status, uint32_t retry_after_ms,
                     struct td_str message);

// executor.c: which attempt comes next.
void td_x_begin(struct td_exchange *x);
int td_x_free_step(const struct td_exchange *x); // the first that may be asked now; -1 none
enum td_x_role td_x_next_role(const struct td_exchange *x, uint32_t step);
bool td_x_ask(struct td_exchange *x, uint32_t step, enum td_x_role role); // false: it cannot be begun
// Where nobody is at work on the answer: asks the next, or waits, or ends. `again`: the step that failed last, where
// another try of it comes before the next step; else -1.
void td_x_proceed(struct td_exchange *x, int again);
void td_x_escalate(struct td_exchange *x); // the draft is not trusted
// The draft as the answer, where nothing better can be had. False where there is none, or the client has seen too much
// of another. `now`: it must be whole already.
bool td_x_use_draft(struct td_exchange *x, bool now);

// judge.c: what an attempt says.
// Keeps the event for later; where that cannot be done the attempt has failed and is dealt with.
enum td_err td_x_keep(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev) TD_MUST_USE;
void td_x_on_content(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev);
void td_x_on_whole(struct td_exchange *x, struct td_x_attempt *a); // it ended well
void td_x_judge(struct td_exchange *x, struct td_x_attempt *a);    // the cascade's question

// fault.c: what a failure means.
void td_x_on_fault(struct td_exchange *x, struct td_x_attempt *a, enum td_err code, int http_status,
                   uint32_t retry_after_ms, struct td_str message);
void td_x_on_refused(struct td_exchange *x, struct td_x_attempt *a, const struct td_x_input *in);
void td_x_on_mismatch(struct td_exchange *x, struct td_x_attempt *a);
void td_x_step_free(struct td_exchange *x, const struct td_x_attempt *a); // it was overtaken, not failed

// end.c: how it ends.
void td_x_no_target(struct td_exchange *x); // why, as the refusal
void td_x_keep_for_later(struct td_exchange *x, enum td_x_outbox_why why);
void td_x_succeed(struct td_exchange *x);                   // the answer is complete with `lead`
void td_x_give_up(struct td_exchange *x, enum td_err code); // TD_OK: the first fault
void td_x_gone(struct td_exchange *x);
void td_x_on_durable(struct td_exchange *x, bool durable);
void td_x_on_kept(struct td_exchange *x);

// time.c: what happens by the clock, or because the process stops.
void td_x_on_timer(struct td_exchange *x);
void td_x_on_drain(struct td_exchange *x);
void td_x_on_abort(struct td_exchange *x, enum td_err code);
void td_x_arm(struct td_exchange *x);

#endif
