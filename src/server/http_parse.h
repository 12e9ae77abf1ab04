// SPDX-License-Identifier: Apache-2.0
// The strict reader of HTTP/1.x requests (RFC 9110, RFC 9112): pure, no I/O, resumable at any byte. A message that
// could be read in two ways is refused with a status, never repaired. Stricter than the RFC where it leaves a choice
// that an API does not need: no absolute request targets, no chunk extensions, no trailers, no bodies on GET, no bare
// LF. The head keeps offsets into the caller's buffer, which may move between calls; the bytes before `at` must not
// change.
#ifndef TD_SERVER_HTTP_PARSE_H
#define TD_SERVER_HTTP_PARSE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/str.h"

enum td_http_method {
    TD_HTTP_GET,
    TD_HTTP_HEAD,
    TD_HTTP_POST,
    TD_HTTP_PUT,
    TD_HTTP_PATCH,
    TD_HTTP_DELETE,
    TD_HTTP_OPTIONS
};

// Offsets fit 16 bits: a head is at most request line plus fields.
_Static_assert(TD_REQUEST_LINE_BYTES_MAX + TD_HEADER_BYTES_MAX + 4 < UINT16_MAX, "offsets of a head are 16 bits wide");

struct td_http_span {
    uint16_t at, n;
};

struct td_http_field {
    struct td_http_span name, value; // value without white space around it
};

struct td_http_head {
    // Where reading stands.
    uint16_t at;         // start of the line being read
    uint16_t scanned;    // no line end lies before this
    uint16_t fields_at;  // first byte after the request line
    bool line_done;      // the request line is read
    uint16_t blank_skip; // empty line before the request line (RFC 9112 section 2.2 allows one)

    // What was read.
    enum td_http_method method;
    struct td_http_span target;
    bool http10;
    unsigned field_count;
    struct td_http_field fields[TD_HEADER_FIELDS_MAX];

    // What the fields mean; an index into `fields`, -1 absent.
    int host, origin, fetch_site, content_type;
    uint16_t seen;           // which of the fields that may appear once have appeared
    uint64_t content_length; // 0 without a body
    bool has_length, chunked, close, expect_continue;
};

// 0: more bytes are needed. 1: whole; the head is td_http_head_bytes long. Else the HTTP status of the refusal, and
// `why` points to a sentence in static storage.
void td_http_head_init(struct td_http_head *head);
int td_http_head_read(struct td_http_head *head, const char *p, size_t n, const char **why);
// Length of a whole head with its empty line.
static inline size_t td_http_head_bytes(const struct td_http_head *head) {
    return head->at;
}
static inline struct td_str td_http_view(const char *p, struct td_http_span s) {
    return (struct td_str){p + s.at, s.n};
}
const char *td_http_method_name(enum td_http_method method);

// A chunked body (RFC 9112 section 7.1), decoded in place.
struct td_http_chunks {
    uint64_t left; // of the current chunk's data
    uint8_t state, digits;
};
enum td_http_chunks_result { TD_HTTP_CHUNKS_MORE, TD_HTTP_CHUNKS_DONE, TD_HTTP_CHUNKS_BAD, TD_HTTP_CHUNKS_TOO_LARGE };

void td_http_chunks_init(struct td_http_chunks *c);
// Reads `n` raw bytes at `in`, appends data at `out` (which may overlap at or before `in`). *used and *made say how
// many were read and written. TOO_LARGE as soon as the data made so far (`before` bytes in earlier calls) and the
// announced chunk exceed `max`.
enum td_http_chunks_result td_http_chunks_read(struct td_http_chunks *c, const char *in, size_t n, char *out,
                                               size_t before, size_t max, size_t *used, size_t *made);

#endif
