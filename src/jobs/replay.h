// SPDX-License-Identifier: Apache-2.0
// Replay of the outbox: when the network is there, what was kept is asked again, by priority and age, jittered and at a
// limited rate; the two answers are reconciled by the entry's rule and the client is told by an event. One thread of
// its own; it waits for the disk at every transition, so that after a crash each entry is exactly where its last
// acknowledged step left it. Before bytes leave, the entry is durably in `intent_sent`: only such an entry may have
// been paid once already.
#ifndef TD_JOBS_REPLAY_H
#define TD_JOBS_REPLAY_H

#include "runtime/runtime.h"

struct td_replayer;

enum td_err td_replayer_start(struct td_runtime *rt, struct td_replayer **out) TD_MUST_USE;
// Lets the entry in hand finish its transition. Takes NULL.
void td_replayer_stop(struct td_replayer *r);

#endif
