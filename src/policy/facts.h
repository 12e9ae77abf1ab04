// SPDX-License-Identifier: Apache-2.0
// What is known of a request when it is decided: a plain value, made once (route/features.h), stored with the ledger
// row so that the decision can be replayed. Views point into the request's arena or the configuration snapshot.
#ifndef TD_POLICY_FACTS_H
#define TD_POLICY_FACTS_H

#include "target/target.h"

// Label bits: 0..3 have fixed names; the configuration names up to 27 more; the last stands for every label that the
// configuration does not know, so that a target which lists what it may see is never shown one it did not list.
#define TD_LABEL_PII (1u << 0)
#define TD_LABEL_PHI (1u << 1)
#define TD_LABEL_PCI (1u << 2)
#define TD_LABEL_SECRET (1u << 3)
#define TD_LABEL_OTHER (1u << 31)

enum td_feature {
    TD_FEATURE_QUESTION = 1 << 0, // asks for knowledge or an explanation
    TD_FEATURE_COMMAND = 1 << 1,  // short and imperative: what an assistant is told to do
    TD_FEATURE_CODE = 1 << 2,
    TD_FEATURE_MATH = 1 << 3,
    TD_FEATURE_FRESH = 1 << 4,      // speaks of now: news, weather, prices, today
    TD_FEATURE_MULTI_TURN = 1 << 5, // an earlier answer is part of it
    TD_FEATURE_LONG = 1 << 6,       // long input or a long answer is wanted
    TD_FEATURE_CREATIVE = 1 << 7,   // write, compose, translate, summarise
    TD_FEATURE_ANALYSIS = 1 << 8    // compare, prove, plan, step by step
};

struct td_facts {
    enum td_kind kind;
    struct td_str model;  // as the client wrote it; aliases and "auto:…" are resolved by decide
    struct td_str tenant; // "" none
    enum td_class
        data_class; // what caller, tenant, content rules and the conversation made of it; UNKNOWN: nothing did
    uint32_t labels;
    const struct td_str *stated_labels; // by the caller, as written: a later policy may know more of them
    uint32_t stated_label_count;
    struct td_str residency; // "" none
    uint32_t tiers_allowed;  // bit per enum td_tier, from an earlier hop of a chain; 0: all
    uint32_t capabilities;   // needed
    enum td_prefer prefer;   // DEFAULT: the configuration's
    enum td_mode mode;       // wished
    bool revisions;          // the client understands revisions
    bool stream, fresh, queue, batch, has_tools, conversation;
    uint32_t input_tokens;  // estimate
    uint32_t tool_tokens;   // part of them: what the offered tools take
    uint32_t output_tokens; // expected
    uint32_t max_tokens;    // asked limit; 0 none
    uint32_t text_bytes, words, turns, choices;
    uint32_t features;        // enum td_feature bits
    uint32_t difficulty_ppm;  // 0 easy .. 1000000 hard, from the text alone
    uint64_t deadline_ms;     // from arrival; 0 none
    int64_t max_cost_nusd;    // -1 none
    int64_t budget_left_nusd; // the tenant's; INT64_MAX none
    uint32_t refine_after_ms;
    uint64_t draw; // random, for ties, ramps and jitter
};

#endif
