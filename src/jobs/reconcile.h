// SPDX-License-Identifier: Apache-2.0
// Two answers to one request, the one the client has and the later one: which stands? The rule, in this order
// (docs/resilience.md has it for operators):
//   1. an answer that is none loses: empty, the model's or provider's "not for me", no JSON where JSON was asked for;
//   2. answers that mean the same (jobs/agree.h) are the one the client has;
//   3. `keep_local` keeps it, `ask` leaves it to a person;
//   4. `take_better`: the target of higher quality; where equal, what the router expects of each for this request;
//      where that is equal too, the one the client has.
// Pure; any thread.
#ifndef TD_JOBS_RECONCILE_H
#define TD_JOBS_RECONCILE_H

#include "store/outbox.h"

struct td_rivals {
    struct td_str request;                 // the client's body
    struct td_str rule;                    // "take_better", "keep_local", "ask"
    struct td_str local, later;            // texts
    double local_quality, later_quality;   // the targets'
    double local_estimate, later_estimate; // the router's, for this request
};

struct td_judgement {
    enum td_accepted accepted; // NONE: a person decides
    const char *verdict;       // stable word: why
    const char *op;            // what the client is told: "replace", "confirm", "ask"
};
struct td_judgement td_reconcile(const struct td_rivals *rivals);

#endif
