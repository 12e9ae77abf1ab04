// SPDX-License-Identifier: Apache-2.0
// The seeded simulator of the exchange: virtual clock, targets with faults, policies that change (law.h) and grants
// made under them, clients that stall and leave, a process that drains, a disk that fails. sim.c draws a scenario and
// carries out the effects, fake.c is a target's side of an attempt, check.c the client's side and the invariants. One
// exchange is one seed: whatever fails is replayed by the line that is printed.
#ifndef TD_TESTS_SIM_H
#define TD_TESTS_SIM_H

#include "base/time.h"
#include "exchange/exchange.h"
#include "law.h"
#include "remote/grant.h"

#define LAWS_MAX 8u // of one exchange: the one it came in under, and one for each reload
#define TEXT_MAX 4096u

enum fault {
    FAULT_NONE,
    FAULT_RATE_AFTER, // 429 with Retry-After
    FAULT_RATE,       // 429 without
    FAULT_500,
    FAULT_503,
    FAULT_RESET,  // before headers
    FAULT_MUTE,   // accepts and never answers
    FAULT_LATE,   // first token after 20 s
    FAULT_CUT,    // connection gone after some events
    FAULT_SILENT, // nothing more after some events
    FAULT_DAMAGED,
    FAULT_NO_DONE,      // finish, then the connection closes
    FAULT_NO_DONE_OPEN, // finish, then nothing
    FAULT_CONTEXT,      // 400
    FAULT_CONTENT,      // 400
    FAULT_PREFIX,       // 400 where there is a prefix
    FAULT_DNS,
    FAULT_TLS,
    FAULT_CRASH, // the model host, after some events
    FAULT_MEMORY,
    FAULT_NOT_FOR_ME,
    FAULT_AUTH,
    FAULT_REQUEST, // 400, whatever is asked
    FAULT_GARBAGE,
    FAULT_INSIDE,         // a typed error inside the stream
    FAULT_TOTAL,          // the target's own total
    FAULT_END_UNFINISHED, // END without a finish
    FAULT_COUNT
};

// A target's side of one attempt.
struct fake {
    bool used, alive, paused, allowed, sent, told_damage, told_finish, delivered_all;
    uint32_t target;
    struct td_grant *grant; // what it is sent with; NULL on the device
    uint64_t law;           // the number of the law under which it was let through
    enum td_x_role role;
    enum fault fault;
    uint32_t fault_at;   // events of content before it strikes
    uint64_t next_ns;    // when it says something next; UINT64_MAX never
    int stage;           // 0 before STARTED, 1 before START event, 2 reasoning, 3 content, 4 finish, 5 usage, 6 end
    char full[TEXT_MAX]; // the whole answer that this attempt stands for, prefix included
    size_t full_n, pos;  // pos: next byte to say
    uint32_t choice, events, tokens, tokens_max, reasoning;
    bool hit_max, burst, splits, sure;
    uint32_t step_ms;
    enum td_finish finish;
};

// What the client has.
struct client {
    char text[2][TEXT_MAX], tool[TEXT_MAX];
    size_t text_n[2], tool_n;
    uint32_t revision, floats, pieces;
    bool begun, done, error, gone, degraded;
    enum td_err code;
    uint32_t last_attempt;
    uint32_t finishes;
    enum td_finish finish;
    struct td_usage usage_total;
    int64_t cost_nusd;
};

struct sim {
    uint64_t seed, index;
    struct rng rng;
    bool trace;
    struct td_arena arena;
    struct td_request request;
    struct td_plan plan;
    struct td_target targets[TARGETS];
    struct td_x_config config;
    struct td_exchange *x;
    uint64_t now_ns, start_ns, timer_ns; // timer_ns UINT64_MAX: none
    char story[2][TEXT_MAX];             // what the two families of targets answer
    size_t story_n[2];
    uint32_t family[TARGETS];
    char stop[8];
    struct law laws[LAWS_MAX]; // [0]: the one the request was accepted under; the last: the one in force
    uint32_t law_count;
    struct law_request asks; // what the laws look at in the request
    struct td_facts facts;
    struct td_ruling ruling; // of the law it was accepted under
    bool tool_answer, drain_sent, aborted, disk_fails, kept;
    uint32_t kept_asked, reloads, nonsense; // nonsense: reloads that were refused
    uint32_t overtaken, stale, granted; // attempts that only the policy of a reload refused; whose grant it made stale
    uint64_t kept_asked_ns;
    struct fake fakes[TD_ATTEMPTS_MAX];
    uint32_t fake_count;
    struct client client;
    struct {
        enum { ACT_RELOAD, ACT_GONE, ACT_STALL, ACT_FLOW, ACT_DRAIN, ACT_ABORT, ACT_DISK, ACT_KEPT } what;
        uint64_t at_ns;
    } acts[12];
    uint32_t act_count;
    // observed
    uint32_t started, recorded, ends, retries;
    enum td_x_end_kind end;
    enum td_err end_code, first_fault;
    int64_t cost_nusd, end_cost_nusd;
    struct td_usage usage_total;
    uint64_t shut, out, context_over; // bits of targets that must not be asked again; bits of steps refused by policy
    bool content_refused, context_hit;
    uint64_t not_before_ns[TARGETS];
    uint64_t first_content_ns;                           // of the draft
    uint32_t connect_ms[TD_ATTEMPTS_MAX], steps_started; // limits as given; bits
    bool hung;                                           // a connection was waited for in vain
    bool cut_campaign;
    const char *failed; // the first broken invariant
};

// sim.c
void sim_fail(struct sim *s, const char *what);
void sim_feed(struct sim *s, struct td_x_input in);
bool sim_send(struct sim *s, uint32_t attempt); // its bytes leave; false where they may not, and the exchange knows it
// fake.c
void fake_start(struct sim *s, const struct td_x_start *start);
void fake_speak(struct sim *s, uint32_t attempt); // its time has come
enum fault fake_draw_fault(struct sim *s, uint32_t target);
// check.c
void check_start(struct sim *s, const struct td_x_start *start);
void check_record(struct sim *s, const struct td_x_record *r);
void check_out(struct sim *s, const struct td_x_out *out);
void check_end(struct sim *s);
void check_heard(struct sim *s, uint32_t attempt, const struct td_event *ev); // before it is fed

#endif
