// SPDX-License-Identifier: Apache-2.0
// The configuration: any text is either a snapshot that a decision can be made with, or an error that says where.
#include <stdint.h>
#include <stdlib.h>

#include "config/config.h"
#include "route/decide.h"

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            abort();                                                                                                   \
    } while (0)

static void decide_with(const struct td_config *c) {
    struct td_facts f = {.kind = TD_KIND_CHAT, .max_cost_nusd = -1, .budget_left_nusd = INT64_MAX, .choices = 1};
    struct td_world w = {.target_count = c->target_count, .link.up = true};
    struct td_arena arena;
    const struct td_plan *plan = NULL;
    td_arena_init(&arena, 1 << 20);
    for (uint32_t i = 0; i < c->target_count; i++)
        w.targets[i] = (struct td_target_state){.ready = true, .budget_left_nusd = INT64_MAX};
    for (unsigned labels = 0; labels < 16; labels++) {
        f.labels = labels;
        f.data_class = (enum td_class)(labels % 5);
        MUST(td_decide(&f, &c->policy, &w, &arena, &plan) == TD_OK);
        for (uint32_t k = 0; k < plan->step_count; k++)
            MUST(td_policy_check_attempt(&c->policy, &c->policy, &f, &w, &c->targets[plan->steps[k].target]).allowed);
    }
    td_arena_finish(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct td_config *first = NULL, *second = NULL;
    struct td_error e = {0};
    struct td_str text = {(const char *)data, n};
    enum td_err err = td_config_load_text(text, "fuzz.yaml", "/nowhere", NULL, &first, &e);
    if (err != TD_OK) {
        MUST(first == NULL && e.code == err && e.message[0]);
        return 0;
    }
    MUST(first->target_count > 0 && first->target_count <= TD_TARGETS_MAX);
    decide_with(first);
    MUST(td_config_load_text(text, "fuzz.yaml", "/nowhere", first, &second, &e) == TD_OK); // as a reload of itself
    MUST(second->policy.label_count == first->policy.label_count && second->version == first->version);
    td_config_unref(first);
    decide_with(second);
    td_config_unref(second);
    return 0;
}
