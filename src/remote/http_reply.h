// SPDX-License-Identifier: Apache-2.0
// The strict reader of HTTP/1.x replies (RFC 9110, RFC 9112) for connections that are our own: pure, no I/O, no memory,
// resumable at any byte. What could be read in two ways is refused, never repaired: a bare LF, a folded field, space
// before a colon, a second length, a length beside chunks, a transfer coding other than chunked, a chunk's size that is
// not plain hexadecimal. Where the RFC leaves a choice: interim replies (1xx) are skipped, a few of them; a switch of
// protocols was never asked for and is refused; a body without length and chunks ends with the connection (whether it
// is whole is for the dialect to say); chunk extensions and trailers are skipped, bounded. One reply, one owner.
//
// The caller gives what it has and is told one thing at a time, with how many bytes that took. Bytes that were not
// taken are given again, with more behind them: they are the beginning of a line.
#ifndef TD_REMOTE_HTTP_REPLY_H
#define TD_REMOTE_HTTP_REPLY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/str.h"

// What one step found.
enum td_reply_step {
    TD_REPLY_MORE,   // nothing more in these bytes
    TD_REPLY_STATUS, // the final status line: r->status
    TD_REPLY_FIELD,  // a field of the final head: name and value; those that frame the message are kept to ourselves
    TD_REPLY_DATA,   // a piece of the body: value
    TD_REPLY_END,    // the reply is whole; what follows belongs to another
    TD_REPLY_BAD     // refused, r->why says what for; nothing more may be read
};

struct td_reply_piece {
    struct td_str name, value; // views into the caller's bytes; the value without white space around it
};

struct td_reply {
    uint64_t left;       // of the body, or of the current chunk
    uint32_t line_bytes; // of all lines of the head (or of the trailer) so far
    uint32_t scanned;    // no line end among so many of the bytes not yet taken
    uint32_t keep_s;     // Keep-Alive: timeout=N; 0 not said
    uint16_t status;
    uint16_t extension; // bytes of the current chunk's
    uint8_t state, digits, interim;
    bool http10, close, chunked, has_length;
    const char *why; // static storage
};

void td_reply_init(struct td_reply *r);
// `p` and `n`: all bytes that were not taken yet. *used: how many this step took. After END only END comes, after BAD
// only BAD.
enum td_reply_step td_reply_read(struct td_reply *r, const char *p, size_t n, size_t *used,
                                 struct td_reply_piece *piece);
// The connection has ended and all bytes were read: was that the end of the reply?
bool td_reply_ends_here(const struct td_reply *r);
// After END: may the connection carry another request?
static inline bool td_reply_keeps(const struct td_reply *r) {
    return !r->close;
}

#endif
