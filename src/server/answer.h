// SPDX-License-Identifier: Apache-2.0
// Writes response heads and error bodies into a buffer. Pure.
#ifndef TD_SERVER_ANSWER_H
#define TD_SERVER_ANSWER_H

#include <stdbool.h>

#include "base/mem.h"
#include "tandem/admin.h"

enum td_framing {
    TD_FRAMING_NONE,   // a status that has no body
    TD_FRAMING_LENGTH, // Content-Length
    TD_FRAMING_CHUNKED,
    TD_FRAMING_CLOSE // HTTP/1.0: the end of the connection ends the body
};

struct td_answer_head {
    int status;
    const struct td_http_header *headers; // framing and connection fields among them are left out: they are ours
    size_t header_count;
    enum td_framing framing;
    size_t content_length; // for TD_FRAMING_LENGTH
    bool close;
    const char *date; // IMF-fixdate
};

// Appends a whole head. A header that holds a line break or is no token is left out: it could only be an attack.
enum td_err td_answer_head_write(const struct td_answer_head *head, struct td_buf *out) TD_MUST_USE;
// Appends {"error": {"message", "type", "param", "code"}}, the form that OpenAI's clients read.
enum td_err td_answer_error_write(int status, const char *code, const char *message, struct td_buf *out) TD_MUST_USE;
// The code that stands for a refusal by the listener itself.
const char *td_answer_code(int status);

#endif
