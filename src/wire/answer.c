// SPDX-License-Identifier: Apache-2.0
#include "wire/answer.h"

void td_answer_spec_of(const struct td_request *req, struct td_answer_spec *out) {
    *out = (struct td_answer_spec){
        .kind = req->kind,
        .model = req->model,
        .stream = req->stream,
        .include_usage = req->include_usage,
        .logprobs = req->logprobs,
        .top_logprobs = req->top_logprobs,
        .choices = req->n,
        .base64 = req->base64,
    };
}

const char *td_revision_word(enum td_revision_op op) {
    static const char *const words[] = {"draft", "append", "replace", "confirm"};
    return (unsigned)op < sizeof words / sizeof *words ? words[op] : "";
}
