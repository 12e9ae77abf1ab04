// SPDX-License-Identifier: Apache-2.0
// The event stream of later answers (GET /v1/tandem/events): one thread asks the store for what is new and hands it to
// the clients that listen, each on its own worker. A client that comes back with Last-Event-ID gets what it missed; ids
// rise and are never used twice.
#ifndef TD_RUNTIME_EVENTS_H
#define TD_RUNTIME_EVENTS_H

#include <stdint.h>

#include "base/err.h"

struct td_events;
struct td_call;
struct td_runtime;

enum td_err td_events_start(struct td_runtime *rt, struct td_events **out) TD_MUST_USE;
// Ends the thread; listeners are let go of. Takes NULL.
void td_events_stop(struct td_events *events);
// Something was written: look now. Any thread.
void td_events_wake(struct td_events *events);
#define TD_EVENTS_FROM_NOW UINT64_MAX
// `call` gets every event of its tenant after `after`, until it is released; `open` is called once before the first, on
// its worker, when it is sure that nothing from then on will be missed. Takes a reference.
enum td_err td_events_listen(struct td_events *events, struct td_call *call, uint64_t after,
                             void (*open)(struct td_call *call)) TD_MUST_USE;

#endif
