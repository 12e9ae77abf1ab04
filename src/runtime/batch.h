// SPDX-License-Identifier: Apache-2.0
// Several prompts in one completion. Each is a part with an exchange of its own: its own plan, attempts, ledger rows
// and money, as if it had come alone. A few run at a time. One answer carries them all: the choices of part p are p·n
// to p·n+n−1, usage and cost are sums. It is whole or it is an error: the first part that fails ends the others.
//
// The call that came in is the first part and holds the client; the others hang on it. All on one worker's thread.
#ifndef TD_RUNTIME_BATCH_H
#define TD_RUNTIME_BATCH_H

#include "runtime/call.h"

// Makes `call`, whose request has several prompts, the first part of its batch; before wishes in headers are read.
// `body` the client's. TD_ERR_LIMIT, TD_ERR_NOMEM.
enum td_err td_batch_open(struct td_call *call, struct td_str body, struct td_error *e) TD_MUST_USE;
// Starts further parts, if `call` is the first of several and was not refused.
void td_batch_start(struct td_call *call);
// Tells all running parts but the first; nothing for other calls.
void td_batch_feed(struct td_call *call, enum td_x_input_type type);
// The client has gone; nothing for other calls.
void td_batch_gone(struct td_call *call);

#endif
