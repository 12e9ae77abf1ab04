// SPDX-License-Identifier: Apache-2.0
// The exchange: one request's life as a pure state machine. The runtime feeds it inputs (an event of an attempt, a
// timer, the client going away) and carries out the effects it answers with (start this attempt, show this to the
// client, write this record); the exchange itself does no I/O, reads no clock, draws no randomness of its own (jitter
// comes from plan->draw) and allocates only from the request's arena and from capped buffers that the arena frees.
// The same inputs give the same effects, so any exchange can be replayed from its row.
//
// Three parts: the plan executor decides which attempt comes next (exchange.c, fault.c), an attempt keeps the record of
// one try (attempt.c), the presenter decides what the client sees (present.c). All five plan modes run here.
//
// Thread: one worker owns an exchange from open to END; no locks. Reentrancy: never call td_exchange_step while
// carrying out the effects of the step before; what happens meanwhile (a start that is refused at once) is queued and
// fed after.
//
// What always holds, whatever comes in (the simulator in tests/sim asserts it):
//   - each START is followed by exactly one RECORD of that attempt, and by at most one CANCEL, before the RECORD;
//   - END comes exactly once, after every RECORD; nothing comes after it, and later inputs give no effects;
//   - the client sees BEGIN at most once and first; exactly one of DONE or ERROR, last (none when the client has gone);
//   - text is never taken back from a client that did not ask for revisions;
//   - DONE means a whole answer: the last attempt of it gave its finish, or max_tokens had been reached when it broke
//   off;
//   - no attempt is started after the deadline, after CLIENT_GONE or ABORT, nor more than TD_ATTEMPTS_MAX in all.
#ifndef TD_EXCHANGE_EXCHANGE_H
#define TD_EXCHANGE_EXCHANGE_H

#include "backend/backend.h"
#include "base/near.h"
#include "route/plan.h"

// Why an attempt is made. Goes into its ledger row.
enum td_x_role {
    TD_X_ROLE_MAIN,     // the first, its retries, and fallbacks while nothing was shown
    TD_X_ROLE_DRAFT,    // cascade: the local first try; progressive: the draft
    TD_X_ROLE_REFINE,   // progressive: the better answer; cascade: the escalation
    TD_X_ROLE_HEDGE,    // second try beside a slow first
    TD_X_ROLE_CONTINUE, // goes on where a shown answer was cut, from `prefix`
    TD_X_ROLE_SPLICE    // asked afresh after a cut; shown only if it reproduces the bytes already shown
};

// How an attempt ended.
enum td_x_outcome {
    TD_X_OUTCOME_OK,        // a whole answer (whether shown or not: see `delivered`)
    TD_X_OUTCOME_FAILED,    // `code` says how
    TD_X_OUTCOME_DECLINED,  // the model said "not for me", or its confidence was too low and a better one answered
    TD_X_OUTCOME_REFUSED,   // never sent: policy, budget, a full queue…; `refusal` and `code` say which
    TD_X_OUTCOME_LOST,      // overtaken by another attempt (hedge, better answer) and cancelled
    TD_X_OUTCOME_CANCELLED, // the client went away, the deadline passed, or the process stops
    TD_X_OUTCOME_MISMATCH   // SPLICE: its answer differs from the bytes already shown
};

// One attempt, for the ledger, the budget, the breaker and the counters. Owned by the exchange; complete when RECORD
// hands it over. Text views live in the request's arena. Counts of an attempt that was cut or cancelled are estimates
// here; a runtime whose backend knows better ones may put those into the row (and the cost by td_x_cost_nusd).
struct td_x_record {
    uint32_t attempt; // 0-based, in order of START
    uint32_t step;    // index into plan->steps
    uint32_t target;  // index into targets
    uint32_t retry;   // 0 the first try of this step, then 1, 2
    enum td_x_role role;
    enum td_reason reason; // plan's reason of the step
    enum td_x_outcome outcome;
    enum td_err code;       // TD_OK with OK, LOST
    enum td_reason refusal; // with REFUSED
    int http_status;        // the upstream's; 0 none
    uint32_t retry_after_ms;
    bool sent;                           // the backend took it: bytes may have left
    bool delivered;                      // the client saw some of its output, or it confirmed what the client saw
    bool damaged;                        // an event of its stream could not be read: it ended there
    uint64_t start_ns, first_ns, end_ns; // monotonic; first_ns: first content, 0 none came
    uint32_t prefix_bytes;               // CONTINUE: handed over; SPLICE: to be reproduced
    uint64_t text_bytes;                 // answer text it produced
    uint32_t events;                     // content events it produced
    struct td_usage usage;               // estimated where the provider said nothing; zero where nothing was used
    int64_t cost_nusd;                   // usage x the target's price
    double confidence;                   // 0..1 by td_x_config.confidence; NaN unknown
    double mean_logprob, mean_entropy;   // of the answer's tokens; NaN unknown
    bool finished;                       // a finish reason came
    enum td_finish finish;               // of choice 0
    struct td_str model, provider_id;    // as the target named them; "" unknown
};

// ---- inputs

enum td_x_input_type {
    TD_X_IN_START,   // first input, exactly once
    TD_X_IN_STARTED, // `attempt` passed every check and the backend took it (optional where an EVENT follows anyway)
    TD_X_IN_REFUSED, // `attempt` cannot be started; `refused` says why. No event of it may follow
    TD_X_IN_EVENT,   // `attempt` produced `event`
    TD_X_IN_TIMER,   // the time of the last TIMER effect has come (too early or late does no harm)
    TD_X_IN_CLIENT_GONE,
    TD_X_IN_CLIENT_STOP,    // the client reads too slowly
    TD_X_IN_CLIENT_PROCEED, // it reads again
    TD_X_IN_DRAIN,          // the process will stop: nothing optional is started any more, what runs may finish
    TD_X_IN_ABORT,          // end now, with `abort_code` to the client
    TD_X_IN_DURABLE,        // the records handed over are (`durable`) on disk, or cannot be; only with
                            // durable_before_answer
    TD_X_IN_KEPT            // what OUTBOX asked for is done, or cannot be; only with waits_for_outbox
};

struct td_x_input {
    enum td_x_input_type type;
    uint32_t attempt;
    const struct td_event *event; // valid during the step and the carrying-out of its effects
    // Optional, with END and ERROR: the backend's own counts; used where no USAGE event came.
    const struct td_attempt_stats *stats;
    struct {
        enum td_err code;      // NO_TARGET policy; OVERLOAD full queue; BUDGET; RATE; LEDGER; GRANT; CONNECT …
        enum td_reason reason; // the constraint, for the record and the error's text
        struct td_str message; // fit for the client; may be empty
        uint32_t retry_after_ms;
    } refused;
    enum td_err abort_code;
    bool durable;
    // The shared budgets at this moment (10 % of calls may be retries, 2 % hedges). Given with every input; a hedge's
    // only where td_exchange_hedge_due, so that its place can be taken before it is asked for.
    bool retry_budget, hedge_budget;
};

// ---- client events

enum td_x_out_type {
    TD_X_OUT_BEGIN,    // the first committed origin: `attempt`; response headers can be written
    TD_X_OUT_EVENT,    // `event`: DELTA, REASONING, REFUSAL, TOOL_CALL or EMBEDDING, to be shown as it is
    TD_X_OUT_ORIGIN,   // from here on another attempt, `attempt`, gives the text (a cut answer goes on)
    TD_X_OUT_REVISION, // only to clients that asked for revisions; `revision`
    TD_X_OUT_FINISH,   // `finish` of one choice; all choices' come together, directly before DONE
    TD_X_OUT_DONE,     // the whole answer came; `done`
    TD_X_OUT_ERROR     // `error`; before BEGIN it is the response, after it a typed error inside the stream
};

enum td_x_op {
    TD_X_OP_APPEND,  // the text shown so far stands, what follows is appended
    TD_X_OP_REPLACE, // all that was shown of the answer is void; what follows is the answer
    TD_X_OP_CONFIRM  // the text shown so far is the answer; nothing follows but FINISH and DONE
};

struct td_x_out {
    enum td_x_out_type type;
    uint32_t attempt;  // whose output this is
    uint32_t revision; // number of the revision it belongs to: 0 the first text, then rising by one
    union {
        struct td_event event; // `raw` kept where the event is passed on unchanged
        enum td_x_op op;       // REVISION
        struct {
            uint32_t choice;
            enum td_finish reason;
        } finish;
        struct {
            struct td_usage usage;       // of the delivered answer
            struct td_usage usage_total; // all attempts that were sent
            int64_t cost_nusd;           // all attempts
            bool degraded;               // a better answer was wanted and could not be had
            double confidence;           // of the delivering local model; NaN unknown
        } done;
        struct {
            enum td_err code;
            struct td_str message; // in the arena
            int http_status;       // for the response; td_x_http_status
            uint32_t retry_after_ms;
        } error;
    };
};

// ---- effects

enum td_x_effect_type {
    TD_X_DO_START,  // `start`: check policy, budget, admission again; then serialise, grant, start; or feed REFUSED
    TD_X_DO_CANCEL, // `attempt`: stop it now and destroy it; no event of it may be fed any more
    TD_X_DO_RECORD, // `record`: the attempt is over: ledger row, settle money, health; destroy the backend's attempt
    TD_X_DO_EMIT,   // `emit`: client events, in order
    TD_X_DO_TIMER,  // `timer_ns`: feed TIMER at that monotonic time; replaces the timer before
    TD_X_DO_PAUSE,  // `attempt`: back-pressure
    TD_X_DO_RESUME, // `attempt`
    TD_X_DO_OUTBOX, // `outbox`: keep the request durably for a better answer
    TD_X_DO_END     // `end`: nothing more comes; drop the arena when the client's bytes are out
};

struct td_x_start {
    uint32_t attempt, step, target;
    enum td_x_role role;
    bool retry;           // counts against the retry budget
    bool want_tokens;     // probabilities are needed
    uint32_t max_tokens;  // what remains of the request's max_tokens; 0 the request gave none
    struct td_str prefix; // CONTINUE: the answer so far as the client saw it, to be transformed again; in the arena
    struct td_str draft;  // REFINE: what the draft has so far, for policies that pass it on; may be empty; in the arena
    uint32_t connect_ms;  // its connection must be there by then: others are left; 0 the target's own limit
    uint64_t deadline_ns; // monotonic; 0 none
};

enum td_x_outbox_why {
    TD_X_OUTBOX_OFFLINE,  // the plan is degraded: emitted before the first START
    TD_X_OUTBOX_DEGRADED, // a lesser answer was delivered
    TD_X_OUTBOX_FAILED    // no answer was delivered
};

struct td_x_end {
    enum td_x_end_kind {
        TD_X_END_OK,       // DONE was shown
        TD_X_END_DEGRADED, // DONE was shown, with a lesser answer than wanted
        TD_X_END_ERROR,    // ERROR was the response
        TD_X_END_BROKEN,   // ERROR inside a stream that had begun
        TD_X_END_GONE      // the client went away
    } kind;
    enum td_err code; // TD_OK when DONE
    int http_status;
    int64_t cost_nusd; // all attempts
};

struct td_x_effect {
    enum td_x_effect_type type;
    union {
        struct td_x_start start;
        uint32_t attempt;
        const struct td_x_record *record;
        struct {
            const struct td_x_out *list;
            uint32_t count;
        } emit;
        uint64_t timer_ns;
        enum td_x_outbox_why outbox;
        struct td_x_end end;
    };
};

// A step gives at most a CANCEL, RECORD, PAUSE and START for each attempt, and a few emissions around them.
#define TD_X_EFFECTS_MAX (6u * TD_ATTEMPTS_MAX + 16u)

// Caller-owned; filled by each step. Views in it are valid until the next step of this exchange, those that came in
// with an event no longer than that event.
struct td_x_effects {
    uint32_t count;
    struct td_x_effect list[TD_X_EFFECTS_MAX];
};

// ---- set-up

// How a local answer's confidence is reckoned from its tokens' probabilities, over the first hold_tokens tokens.
enum td_x_confidence {
    TD_X_CONFIDENCE_MEAN,  // geometric mean probability: exp(mean logprob)
    TD_X_CONFIDENCE_FIRST, // probability of the first token
    TD_X_CONFIDENCE_MIN    // probability of the least likely token
};

#define TD_X_OUTBOX_WAIT_MS 500u // a slow disk may keep the mark "queued" from a client, not the answer

// Zero means the default everywhere below.
struct td_x_config {
    struct td_arena *arena;           // the request's; outlives the exchange
    const struct td_request *request; // all of these live as long as the arena
    const struct td_plan *plan;       // step_count 0 and `blocked` are answered with the plan's own reasons
    const struct td_target *targets;  // indexed by td_step.target
    uint32_t target_count;
    uint64_t arrival_ns;    // plan->deadline_ms counts from here
    uint32_t prompt_tokens; // estimate of the prompt; default: text_bytes / 4
    enum td_x_confidence confidence;
    bool durable_before_answer;      // the end of the answer waits for DURABLE
    bool waits_for_outbox;           // …for KEPT, where OUTBOX was asked; at most TD_X_OUTBOX_WAIT_MS
    uint32_t retries_max;            // in the whole exchange; default 2; UINT32_MAX: none
    uint32_t retry_base_ms;          // full jitter over base x 2^n; default 200
    uint32_t retry_cap_ms;           // default 5000
    uint32_t retry_wait_ms_max;      // longest Retry-After waited for when no other target is left; default 30000
    uint32_t retry_wait_next_ms_max; // …when another is; default 2000
};

struct td_exchange;

// Makes an exchange in config->arena (nothing to free but the arena). TD_ERR_NOMEM; TD_ERR_USAGE when the plan names a
// target that is not there.
enum td_err td_exchange_open(const struct td_x_config *config, struct td_exchange **out) TD_MUST_USE;
// One step. `now_ns` must not go back. Inputs that make no sense any more (an event of a cancelled attempt) are
// ignored.
void td_exchange_step(struct td_exchange *x, const struct td_x_input *in, uint64_t now_ns, struct td_x_effects *out);
// TIMER at this moment may begin a hedge, if `hedge_budget` has room.
bool td_exchange_hedge_due(const struct td_exchange *x, uint64_t now_ns);
// Notes what the next event of an answer under way will touch.
void td_exchange_near(const struct td_exchange *x, struct td_near *near);
// The same for what keeps and compares answers: where there is no text, the tool calls of choice 0, appended as
// {"tool_calls":[{"name":…,"arguments":{…}}]}. TD_ERR_NOMEM, TD_ERR_LIMIT.
enum td_err td_exchange_answer(const struct td_exchange *x, struct td_buf *out) TD_MUST_USE;
uint32_t td_exchange_attempts(const struct td_exchange *x);
// `attempt` below td_exchange_attempts; NULL otherwise. Lives in the arena.
const struct td_x_record *td_exchange_record(const struct td_exchange *x, uint32_t attempt);

// Money for a usage at a target's price, in nano-dollars; saturates.
int64_t td_x_cost_nusd(const struct td_target *target, const struct td_usage *usage);
// Adds one attempt's usage to a sum; estimated once, estimated for good.
void td_x_usage_add(struct td_usage *sum, const struct td_usage *usage);
// The HTTP status that an error gets; `upstream_status` is passed on where the caller is at fault (400, 422 …).
int td_x_http_status(enum td_err code, int upstream_status);

const char *td_x_role_word(enum td_x_role role);          // "main", "draft" …; for ledger and wire
const char *td_x_outcome_word(enum td_x_outcome outcome); // "ok", "failed" …
const char *td_x_op_word(enum td_x_op op);                // "append", "replace", "confirm"

#endif
