// SPDX-License-Identifier: Apache-2.0
// Secrets by reference: the configuration names where a key is, only remote/ ever reads it. References are "env:NAME",
// "file:PATH" (a regular file that others cannot read) and "credential:NAME" (a file of the service manager, in
// $CREDENTIALS_DIRECTORY). A resolved value is kept in memory until it is finished, then wiped; no function logs one
// or puts it into an error. Any thread.
#ifndef TD_REMOTE_SECRET_H
#define TD_REMOTE_SECRET_H

#include "base/mem.h"

#define TD_SECRET_BYTES_MAX 8192u // a JSON web token with many claims has about 4 KiB

struct td_secret {
    char *p; // NUL-terminated
    size_t n;
};

// True where `ref` has one of the three forms, whether or not it can be read now.
bool td_secret_is_ref(struct td_str ref);
// Reads the secret `ref` points to, without surrounding white space. TD_ERR_CONFIG: no such form, absent, empty, too
// long, holding control bytes (they would split a header), or a file that others may read. TD_ERR_NOMEM.
enum td_err td_secret_resolve(struct td_str ref, struct td_secret *out, struct td_error *e) TD_MUST_USE;
// Wipes and frees. Takes an empty one.
void td_secret_finish(struct td_secret *s);

#endif
