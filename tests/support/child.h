// SPDX-License-Identifier: Apache-2.0
// The scripted upstream as a test's child process: started with a pipe to its standard input, so that it ends with the
// test whatever happens; driven over its control port. Blocking calls, for tests only; a failure ends the test.
#ifndef TD_TESTS_CHILD_H
#define TD_TESTS_CHILD_H

#include <sys/types.h>

#include "base/json.h"

struct upstream {
    pid_t pid;
    int in;
    uint16_t port, control, tls, tls_expired, tls_wrong_host, tls_mtls;
    char folder[64]; // ca.pem, client.pem, client.key
};

// `args` NULL-terminated, after the program's name; may be NULL. The program is $SCRIPTED_UPSTREAM.
void upstream_start(struct upstream *u, const char *const *args);
void upstream_stop(struct upstream *u);
// POST /_script, /_down, /_reset with this JSON.
void upstream_post(const struct upstream *u, const char *path, const char *json);
// What it saw: the array of requests; waits until there are `requests`, and `closed` of them ended. Fails after 5 s.
td_json *upstream_log(const struct upstream *u, struct td_arena *arena, unsigned requests, unsigned closed);

#endif
