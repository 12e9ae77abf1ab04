// SPDX-License-Identifier: Apache-2.0
// Answers that come compressed though nobody asked for it: gzip and deflate (RFC 9110 section 8.4.1), unpacked
// piece by piece. How far they may inflate is the caller's business. One owner.
#ifndef TD_REMOTE_UNPACK_H
#define TD_REMOTE_UNPACK_H

#include "base/mem.h"

struct td_unpack;

// NULL without memory.
struct td_unpack *td_unpack_create(void);
void td_unpack_destroy(struct td_unpack *u); // takes NULL
// Takes from `in`, of which then is left what was not taken; `out` is what was made of it, until the next call. Empty:
// more input is needed, or the data has ended. TD_ERR_UPSTREAM_GARBAGE: not compressed like this, or more behind its
// end; TD_ERR_NOMEM.
enum td_err td_unpack_some(struct td_unpack *u, struct td_str *in, struct td_str *out) TD_MUST_USE;
// Everything was there: data that was begun has come to its end.
bool td_unpack_is_whole(const struct td_unpack *u);

#endif
