// SPDX-License-Identifier: Apache-2.0
// The webhook: every event of the outbox (a later answer, an entry that expired) is delivered to one configured
// address, in order, at least once, each with an id that stays the same over all tries, until the receiver says 2xx.
// How far delivery got is durable, so it goes on after a crash or a long outage where it stopped. A receiver that is
// down is asked again with growing pauses for as long as events are kept; one that refuses an event for good loses that
// event alone. The text goes along only where policy, then and now, lets the receiver see it; else the event says that
// it is withheld. One thread of its own; the sending happens on a worker's loop, through remote/ and with a grant.
#ifndef TD_JOBS_WEBHOOK_H
#define TD_JOBS_WEBHOOK_H

#include "runtime/runtime.h"

struct td_webhook_sender;

enum td_err td_webhook_start(struct td_runtime *rt, struct td_webhook_sender **out) TD_MUST_USE;
// Stops what is being sent; it will be sent again. Takes NULL.
void td_webhook_stop(struct td_webhook_sender *w);

#endif
