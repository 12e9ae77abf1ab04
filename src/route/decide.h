// SPDX-License-Identifier: Apache-2.0
// The decision: facts, policy and world in, plan out. Pure: no I/O, no clock, no lock, memory from the caller's arena
// alone; the same inputs give the same plan, byte for byte. Hard constraints first, in a fixed order, each with its
// reason; then preference and a utility over expected quality, time to first token and cost; then the mode.
#ifndef TD_ROUTE_DECIDE_H
#define TD_ROUTE_DECIDE_H

#include "policy/policy.h"
#include "route/plan.h"

// TD_OK with a plan also where nobody may answer (step_count 0; the verdicts say why). TD_ERR_MODEL_NOT_FOUND when the
// request names a model that is neither a target, an alias nor "auto[:preference]"; TD_ERR_NOMEM. Any thread.
enum td_err td_decide(const struct td_facts *facts, const struct td_policy *policy, const struct td_world *world,
                      struct td_arena *arena, const struct td_plan **out) TD_MUST_USE;

// Which error a plan without steps is: TD_ERR_BLOCKED, TD_ERR_BUDGET (cost alone refused), TD_ERR_OVERLOAD (load,
// health or Retry-After alone), TD_ERR_CONTEXT_LENGTH, TD_ERR_UNSUPPORTED (capability), TD_ERR_DEADLINE, else
// TD_ERR_NO_TARGET. TD_OK when there are steps.
enum td_err td_plan_error(const struct td_plan *plan);
// Appends one English sentence: which constraint refused which target.
enum td_err td_no_target_message(const struct td_plan *plan, const struct td_policy *policy,
                                 struct td_buf *out) TD_MUST_USE;

// The plan for people and for programs: every target, taken or refused, with reason, rule, score, cost and latency.
enum td_err td_explain_text(const struct td_plan *plan, const struct td_policy *policy, const struct td_facts *facts,
                            struct td_buf *out) TD_MUST_USE;
enum td_err td_explain_json(const struct td_plan *plan, const struct td_policy *policy, const struct td_facts *facts,
                            struct td_buf *out) TD_MUST_USE;

// What a decision needed beside the policy, as compact JSON for the ledger row, and back. Targets and labels travel by
// name, so a row can also be replayed under another policy ("what if"). Reading: TD_ERR_BAD_JSON for anything that
// td_decision_inputs_write cannot have written; views point into the arena.
enum td_err td_decision_inputs_write(const struct td_facts *facts, const struct td_world *world,
                                     const struct td_policy *policy, struct td_buf *out) TD_MUST_USE;
enum td_err td_decision_inputs_read(struct td_str text, const struct td_policy *policy, struct td_arena *arena,
                                    struct td_facts *facts, struct td_world *world, struct td_error *e) TD_MUST_USE;

#endif
