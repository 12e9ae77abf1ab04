// SPDX-License-Identifier: Apache-2.0
// Local models as a backend: attempts of `provider: llama` targets, executed by a model host (a guest process, host/)
// over a socket pair. One td_local per worker; all calls and callbacks on that worker's thread. It owns no model: the
// manager does, and all workers' backends share its guests. The attempt's body is OpenAI JSON (chat: `messages`;
// completion: `prompt`; embedding: `input`), read inside the guest. A trailing assistant message is a prefix to go on
// from.
#ifndef TD_LOCAL_LOCAL_H
#define TD_LOCAL_LOCAL_H

#include "backend/backend.h"
#include "local/manager.h"
#include "loop/loop.h"

// Makes the backend of worker `worker` (below the manager's worker count, one backend each). The manager must outlive
// it. Call on the loop's thread or before the loop runs. TD_ERR_NOMEM, TD_ERR_USAGE.
//
// What start returns at once: TD_ERR_OVERLOAD (the target's queue_max attempts wait already), TD_ERR_HOST_CRASH (this
// body ended its guest twice and is quarantined), TD_ERR_HOST_LOAD (the model failed to load a moment ago),
// TD_ERR_HOST_MEMORY (can never fit), TD_ERR_NOMEM. Everything else comes as one ERROR event; the codes are those and
// TD_ERR_CONTEXT_LENGTH, TD_ERR_BAD_REQUEST, TD_ERR_BAD_JSON, TD_ERR_UNSUPPORTED, TD_ERR_LIMIT (template time),
// TD_ERR_DEADLINE.
enum td_err td_local_create(struct td_manager *manager, unsigned worker, struct td_loop *loop, struct td_backend **out,
                            struct td_error *e) TD_MUST_USE;
// Every attempt must have been destroyed. On the loop's thread or after the loop stopped. Takes NULL.
void td_local_destroy(struct td_backend *backend);

#endif
