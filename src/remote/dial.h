// SPDX-License-Identifier: Apache-2.0
// A TCP connection to the first of several addresses that answers, without making the loop wait. They are tried in
// their order; the next one begins when one has failed, or beside it when it has not answered for a quarter of a second
// (RFC 8305 section 5). Only addresses in the allowed scopes are ever given a packet. How long all of it may take is
// the caller's business: td_dial_cancel. On the loop's thread; private to this room.
#ifndef TD_REMOTE_DIAL_H
#define TD_REMOTE_DIAL_H

#include "remote/address.h"

#define TD_DIAL_DELAY_MS 250u // RFC 8305's own

struct td_dial;
struct td_loop;

// `fd` is the caller's from now on, non-blocking; or -1, with the system's error number (0 none).
typedef void (*td_dial_fn)(void *user, int fd, int error);

// Addresses with their ports; copied. `fn` is called once, never from inside; after that the dial is gone.
// TD_ERR_CONNECT: none could even be begun, *error then is the system's number, or 0 where no address was allowed.
// TD_ERR_NOMEM.
enum td_err td_dial_start(struct td_loop *loop, const struct sockaddr_storage *list, uint32_t count, uint32_t scopes,
                          td_dial_fn fn, void *user, struct td_dial **out, int *error) TD_MUST_USE;
// A socket that does not block, for a connection outward. Where descriptors are short, idle connections are closed
// first; -1 with errno, EMFILE also where what is left is kept for others (loop/descriptors.h).
int td_dial_socket(struct td_loop *loop, int family, int type, int protocol);
// Closes what was begun; `fn` is not called. Takes NULL.
void td_dial_cancel(struct td_dial *d);

#endif
