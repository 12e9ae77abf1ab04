// SPDX-License-Identifier: Apache-2.0
// The sockets and the timer of libcurl's multi handle, watched by the worker's loop. Part of the engine; all on the
// loop's thread. Private to this room.
#ifndef TD_REMOTE_SOCKETS_H
#define TD_REMOTE_SOCKETS_H

#include "remote/engine.h"

// Gives r->multi its callbacks, makes r->kick and r->timer. False without memory; then, too, finish takes them back.
bool td_sockets_init(struct td_remote *r) TD_MUST_USE;
void td_sockets_finish(struct td_remote *r);
// The descriptor was closed, or is another's now.
void td_sockets_forget(struct td_remote *r, curl_socket_t fd);
// Ends up to `max` kept connections, the longest idle first.
void td_sockets_end_idle(struct td_remote *r, unsigned max);

#endif
