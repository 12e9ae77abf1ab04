// SPDX-License-Identifier: Apache-2.0
// Is the network back? While attempts say it is gone, a light probe (DNS, TCP, TLS; not a request) asks one remote
// target at a time, at most once per interval. On worker 0's loop alone.
#ifndef TD_RUNTIME_PROBE_H
#define TD_RUNTIME_PROBE_H

#include "runtime/runtime.h"

struct td_prober;

struct td_prober *td_prober_create(struct td_worker *worker); // NULL without memory
// Cancels what runs. Takes NULL.
void td_prober_destroy(struct td_prober *p);
// Called every tick: sends a probe if one is due.
void td_prober_tick(struct td_prober *p, struct td_config *config);

#endif
