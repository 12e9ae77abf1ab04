// SPDX-License-Identifier: Apache-2.0
// For tests of decisions: a configuration from text, a world where all is well, and facts of an ordinary question.
#ifndef TD_TESTS_WORLD_H
#define TD_TESTS_WORLD_H

#include "unit.h"

#include "config/config.h"

static inline struct td_config *config_of(const char *text) {
    struct td_config *c = NULL;
    struct td_error e = {0};
    if (td_config_load_text(td_str_of(text), "test.yaml", "/", NULL, &c, &e) != TD_OK)
        fail_msg("%s", e.message);
    return c;
}

static inline void world_well(const struct td_config *c, struct td_world *w) {
    memset(w, 0, sizeof *w);
    w->target_count = c->target_count;
    w->link.up = true;
    w->device.battery_percent = 100;
    for (uint32_t i = 0; i < c->target_count; i++)
        w->targets[i] = (struct td_target_state){.ready = true, .loaded = true, .budget_left_nusd = INT64_MAX};
}

static inline struct td_facts facts_plain(void) {
    return (struct td_facts){.kind = TD_KIND_CHAT,
                             .model = TD_STR("auto"),
                             .capabilities = TD_CAP_CHAT,
                             .input_tokens = 30,
                             .output_tokens = 200,
                             .words = 12,
                             .choices = 1,
                             .features = TD_FEATURE_QUESTION,
                             .difficulty_ppm = 350000,
                             .max_cost_nusd = -1,
                             .budget_left_nusd = INT64_MAX,
                             .draw = 1};
}

#endif
