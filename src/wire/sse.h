// SPDX-License-Identifier: Apache-2.0
// Server-sent events (WHATWG HTML, "Server-sent events", parsing an event stream), incremental over any cut of the
// input: byte order mark, LF, CR and CRLF, comments, data over several lines, event names, ids. An event that lies
// whole in one piece of input with a single data line is handed over without a copy; all else goes through one buffer
// with a ceiling. One owner, no I/O.
#ifndef TD_WIRE_SSE_H
#define TD_WIRE_SSE_H

#include "base/limits.h"
#include "base/mem.h"

// Valid during the callback only.
struct td_sse_event {
    struct td_str name; // of the `event` field, "" none
    struct td_str data; // lines joined with LF
    struct td_str id;   // of this event's `id` field, "" none (an event stream keeps the last one)
};

// Returns false to stop: td_sse_feed then returns at once and the parser ignores all further input.
typedef bool (*td_sse_fn)(void *user, const struct td_sse_event *event);

struct td_sse {
    td_sse_fn on_event;
    void *user;
    size_t line_bytes_max;
    struct td_buf line;                          // a line begun in an earlier piece
    struct td_buf data, name, id;                // fields of an event begun in an earlier piece, or of several lines
    struct td_str data_view, name_view, id_view; // the same while they lie in the piece being fed
    bool has_data;                               // an empty data field is still one
    bool skip_lf;                                // a CR was just seen: an LF belongs to it
    bool stopped;
    uint32_t bom; // bytes of a byte order mark seen; 3: past it
};

// `line_bytes_max` caps one line and one event's data together (usually TD_SSE_LINE_BYTES_MAX). Allocates nothing.
void td_sse_init(struct td_sse *s, size_t line_bytes_max, td_sse_fn on_event, void *user);
void td_sse_finish(struct td_sse *s);
// Takes a piece of the stream. TD_ERR_LIMIT: a line or event is longer than allowed; TD_ERR_NOMEM. After an error
// nothing more is parsed. As the specification says, an event that the end of the stream cuts off before its empty line
// is not dispatched; td_sse_end does dispatch it, since some servers leave the last empty line out.
enum td_err td_sse_feed(struct td_sse *s, struct td_str piece) TD_MUST_USE;
enum td_err td_sse_end(struct td_sse *s) TD_MUST_USE;

#endif
