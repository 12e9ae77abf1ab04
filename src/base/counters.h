// SPDX-License-Identifier: Apache-2.0
// Counters, gauges and histograms of the process, named once at start and bumped from any thread without a lock.
// Exporters walk them. Labels are part of the name ("tandem_attempts_total{target=\"cloud\",outcome=\"ok\"}").
#ifndef TD_BASE_COUNTERS_H
#define TD_BASE_COUNTERS_H

#include <stdint.h>

#include "base/mem.h"

struct td_counter;   // rises only
struct td_gauge;     // goes both ways
struct td_histogram; // microseconds, powers of two

// Finds or makes the metric of this name (registry lock; do it once, keep the pointer; it lives as long as the
// process). `help` is one line for the exporter. NULL when memory ran out: every bump below takes NULL.
struct td_counter *td_counter_get(const char *name, const char *help);
struct td_gauge *td_gauge_get(const char *name, const char *help);
struct td_histogram *td_histogram_get(const char *name, const char *help);
void td_counter_add(struct td_counter *c, uint64_t n);
void td_gauge_set(struct td_gauge *g, int64_t v);
void td_gauge_add(struct td_gauge *g, int64_t by);
void td_histogram_add(struct td_histogram *h, uint64_t us);
uint64_t td_counter_value(const struct td_counter *c);
// Appends all metrics in Prometheus text format 0.0.4.
enum td_err td_counters_write(struct td_buf *out) TD_MUST_USE;

#endif
