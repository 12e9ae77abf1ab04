// SPDX-License-Identifier: Apache-2.0
// From a canonical request to facts: one pass over its text for size, shape and content labels. Pure.
#ifndef TD_ROUTE_FEATURES_H
#define TD_ROUTE_FEATURES_H

#include "policy/policy.h"

// What is known beside the request itself.
struct td_facts_input {
    struct td_str tenant;       // "" none
    enum td_class sticky_class; // the conversation's (policy/stick.h); UNKNOWN none
    uint32_t sticky_labels;
    uint32_t tiers_allowed;   // from an earlier hop; 0 all
    int64_t budget_left_nusd; // the tenant's; INT64_MAX none
    uint64_t draw;
};

// Fills *out: wishes, tenant defaults, content rules and stickiness together make class and labels; no wish widens what
// the tenant or the content says. Views point into `request`. TD_OK.
enum td_err td_facts_make(const struct td_request *request, const struct td_policy *policy,
                          const struct td_facts_input *input, struct td_facts *out) TD_MUST_USE;
// Estimated tokens of a text: bytes per token by script. Never 0 for a text that is not empty.
uint32_t td_tokens_estimate(struct td_str text);

#endif
