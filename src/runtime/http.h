// SPDX-License-Identifier: Apache-2.0
// How an answer goes to a client's sink (http.c): what a request of one exchange and one of several prompts (batch.c)
// have in common. `call` is the one that holds the client, `speaker` the one whose exchange says it. On the worker's
// thread.
#ifndef TD_RUNTIME_HTTP_H
#define TD_RUNTIME_HTTP_H

#include "runtime/call.h"

struct td_http_heads {
    struct td_http_header list[12];
    size_t n;
};

// Views live until the head is sent. An empty value adds nothing.
void td_http_head_add(struct td_http_heads *h, const char *name, struct td_str value);
void td_http_send_head(struct td_call *call, int status, struct td_http_heads *h, bool stream, size_t length);
void td_http_send_data(struct td_call *call); // what lies in call->out
void td_http_send_end(struct td_call *call, bool clean);
// An answer that is an error and nothing else.
void td_http_send_error(struct td_call *call, struct td_http_heads *h, enum td_err err, int status,
                        struct td_str message, struct td_str param, const struct td_answer_meta *meta);
void td_http_keep_alive(struct td_call *call);
// The first committed origin: the head of a stream.
void td_http_begin(struct td_call *call, struct td_call *speaker, uint32_t attempt);
// Makes call->writer where there is none yet.
enum td_err td_http_writer(struct td_call *call, const struct td_call *speaker, uint32_t parts) TD_MUST_USE;
// The whole answer has come: its end goes out. On failure nothing has.
enum td_err td_http_done(struct td_call *call, const struct td_answer_meta *meta) TD_MUST_USE;
// out->error as the response, or inside the stream that has begun.
void td_http_fail(struct td_call *call, const struct td_x_out *out, struct td_answer_meta *meta);
// The request never became an exchange.
void td_http_refuse(struct td_call *call, enum td_err err, const struct td_error *e, uint32_t retry_after_ms);

#endif
