// SPDX-License-Identifier: Apache-2.0
// What is known of targets at run time: breaker, load, latency, link. One object per process, shared by all workers and
// outliving every configuration snapshot (entries are found by the target's name, so a reload forgets nothing). A mutex
// per target, held for a few arithmetic operations. No clock of its own: `now_ns` is monotonic (base/time.h).
//
//            failures ≥ half of the last ≥ 5, or 3 in a row              after the open time (1 s, doubling to 5 s)
//   CLOSED ───────────────────────────────────────────────────▶ OPEN ───────────────────────────────────────────▶
//   HALF_OPEN
//     ▲  ramp: 10 % of requests, doubling each second, to all     ▲            probe failed │
//     └───────────────────────────────────────────────────────────┴────────────────────────────────────────────────────┘
//                                   probe succeeded; probes: one at a time, at most one a second
#ifndef TD_TARGET_HEALTH_H
#define TD_TARGET_HEALTH_H

#include "target/limit.h"
#include "target/world.h"

#define TD_HEALTH_ENTRIES_MAX 256u // names ever seen; those no configuration has any more make room

struct td_health;

struct td_health *td_health_create(void); // NULL without memory
void td_health_destroy(struct td_health *health);
// A configuration comes into force: makes entries for its targets (old ones keep their state). TD_ERR_NOMEM.
enum td_err td_health_adopt(struct td_health *health, const struct td_target *targets, uint32_t count,
                            uint64_t now_ns) TD_MUST_USE;

// Fills `out` for these targets: breaker, latency, load, link; device facts are td_device_facts' and budgets start
// unlimited. `batch`: for a request of low priority (`full` differs). Any thread.
void td_health_world(struct td_health *health, const struct td_target *targets, uint32_t count, bool batch,
                     uint64_t now_ns, struct td_world *out);

struct td_admission {
    bool admitted; // then td_health_end must follow exactly once
    bool probe;    // it is the half-open probe
    bool warm;     // its model was loaded
    struct td_limit_ticket ticket;
    enum { TD_ADMIT_OK, TD_ADMIT_OPEN, TD_ADMIT_FULL, TD_ADMIT_RETRY_AFTER } refused;
    uint32_t retry_after_ms;
};
// Asks to start an attempt now. `forced`: it is the last candidate, an open breaker does not refuse it.
struct td_admission td_health_admit(struct td_health *health, const struct td_target *target, bool batch, bool forced,
                                    uint64_t now_ns);

struct td_health_outcome {
    enum td_err code;          // TD_OK; TD_ERR_CANCELLED says nothing about the target
    uint32_t retry_after_ms;   // the server's; 0 none
    bool answered;             // any byte of a response came: the link works
    uint64_t ttft_us;          // 0 no first token
    uint64_t itl_us;           // mean time per token after the first; 0 unknown
    uint64_t duration_us;      // of the attempt; tells a connection that hung from one that was refused
    uint64_t connect_us;       // of a new connection; 0 none was made
    uint32_t connect_limit_ms; // how long it could take; 0 timeouts.connect_ms
    // Of local models, what the limit learns from:
    bool steady;            // one whole answer, and the client took it as it came
    uint32_t prompt_tokens; // that had to be read
    uint32_t tokens;        // of the answer
};
void td_health_end(struct td_health *health, const struct td_target *target, const struct td_admission *admission,
                   const struct td_health_outcome *outcome, uint64_t now_ns);

// A decision passed this local model by because it was full (td_target_state.full, or TD_ADMIT_FULL).
void td_health_turned_away(struct td_health *health, const struct td_target *target, bool batch, uint64_t now_ns);
// For metrics and operators.
struct td_health_load {
    uint32_t active;
    double limit; // how many may be inside now; 0 no limit
    bool overloaded;
    double slowdown;         // under overload: how many times what it takes alone an answer takes; 0 unknown
    double alone_ms;         // what recent answers would have taken alone; 0 unknown
    uint64_t turned_away[2]; // ever: interactive, batch
};
void td_health_load(struct td_health *health, const struct td_target *target, struct td_health_load *out);

// May a failed attempt be tried again on the same target? Takes one from its retry budget (10 % of calls) if so.
bool td_health_retry(struct td_health *health, const struct td_target *target, uint64_t now_ns);
// A caller's request begins: once for each exchange, however many attempts it makes. Any thread.
void td_health_call(struct td_health *health);
// Takes a place among the hedges, if they are then at most `ppm_max` of the calls begun so far: at this moment, with
// all threads together. A place whose hedge came to nothing before it was sent is given back with the second.
bool td_health_hedge(struct td_health *health, uint32_t ppm_max);
void td_health_unhedge(struct td_health *health);

// From the model host's client: can it answer, does it need loading first and for how long, how many tokens does it
// take (0 unknown), what can it not do. What was learned of context and abilities stays when the model is unloaded.
void td_health_set_model(struct td_health *health, const struct td_target *target, bool ready, bool loaded,
                         uint32_t load_ms, uint32_t context, uint32_t capabilities_absent);
// Connectivity: forced by the configuration, or sensed from attempts and probes.
void td_health_force_link(struct td_health *health, enum td_connectivity connectivity);
// How often the link came back, forced or sensed: another number than before means that it may be another network.
// Without a lock.
unsigned td_health_link_returns(const struct td_health *health);
void td_health_link_result(struct td_health *health, bool up, uint32_t rtt_ms, uint64_t now_ns);
// True at most once per interval while the link is down and not forced: send a light probe now.
bool td_health_link_probe_due(struct td_health *health, uint32_t interval_ms, uint64_t now_ns);
// True where the link is (or is forced) up; *since_ns when that last changed.
bool td_health_link_up(struct td_health *health, uint64_t *since_ns);

// RAM, cores, battery and heat of this machine (/proc, /sys), read at most once a second. Any thread.
void td_device_facts(struct td_world *world, uint64_t now_ns);

#endif
