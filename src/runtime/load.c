// SPDX-License-Identifier: Apache-2.0
// What operators see of the load on local models: metrics when they are asked for, and a part of models.list.
#include <stdio.h>

#include "runtime/runtime.h"

// Gauges are whole numbers: what has a fraction is told in thousandths.
static void tell(const char *what, struct td_str target, double value, const char *help) {
    char name[TD_NAME_BYTES_MAX + 80];
    snprintf(name, sizeof name, "tandem_model_%s{target=\"%.*s\"}", what, TD_STR_ARG(target));
    td_gauge_set(td_gauge_get(name, help), (int64_t)(value + 0.5));
}

void td_runtime_load_metrics(struct td_runtime *rt) {
    struct td_config *config = td_runtime_config(rt, NULL);
    for (uint32_t i = 0; i < config->target_count; i++) {
        const struct td_target *t = &config->targets[i];
        struct td_health_load l;
        if (t->provider != TD_PROVIDER_LLAMA)
            continue;
        td_health_load(rt->health, t, &l);
        tell("inside", t->name, l.active, "Attempts that a local model has, running or waiting.");
        tell("limit_thousandths", t->name, l.limit * 1000, "How many it takes now.");
        tell("overloaded", t->name, l.overloaded, "1 while somebody has to be turned away.");
        tell("slowdown_thousandths", t->name, l.slowdown * 1000,
             "Under overload: how many times what it takes alone an answer takes.");
        tell("alone_milliseconds", t->name, l.alone_ms, "What recent answers would have taken alone.");
    }
    td_config_unref(config);
}

enum td_err td_runtime_load_write(struct td_runtime *rt, const struct td_target *t, struct td_buf *out) {
    struct td_health_load l;
    td_health_load(rt->health, t, &l);
    return td_buf_printf(
        out,
        ",\"load\":{\"inside\":%u,\"limit\":%.2f,\"overloaded\":%s,\"slowdown\":%.2f,\"alone_ms\":%.1f,"
        "\"turned_away\":{\"interactive\":%llu,\"batch\":%llu}}",
        l.active, l.limit, l.overloaded ? "true" : "false", l.slowdown, l.alone_ms,
        (unsigned long long)l.turned_away[0], (unsigned long long)l.turned_away[1]);
}

void td_runtime_turned_away(struct td_runtime *rt, const struct td_target *t, bool batch, uint64_t now_ns) {
    td_counter_add(rt->metrics.turned_away[batch], 1);
    td_health_turned_away(rt->health, t, batch, now_ns);
}
