// SPDX-License-Identifier: Apache-2.0
// What the tests of the listener share: one on a free port, with a runtime that has no core, and requests of the usual
// form.
#ifndef TD_TESTS_HOUSE_H
#define TD_TESTS_HOUSE_H

#include "unit.h"

#include "base/limits.h"
#include "base/time.h"
#include "fake_runtime.h"
#include "raw_http.h"
#include "server/server.h"

struct house {
    struct td_runtime *runtime;
    struct fake_counts *counts;
    struct td_listen_settings settings;
    struct td_server_limits limits;
    struct td_server *server;
    unsigned port;
};

// `settings` and `limits` as the test has filled them; the address is 127.0.0.1 where there is none.
void house_open(struct house *h);
void house_close(struct house *h);
// Sends a request of the usual form; `extra` are whole header lines or "".
void ask(struct raw_client *c, const struct house *h, const char *method, const char *path, const char *extra,
         const char *body);
// Posts a body of `n` blanks to be echoed.
void send_body(struct house *h, struct raw_client *c, size_t n, bool chunked);
void expect_status(struct raw_client *c, int status);
void expect_alive(struct raw_client *c, const struct house *h);

#endif
