// SPDX-License-Identifier: Apache-2.0
// A client's byte stream: a non-blocking socket, plain or under TLS. Belongs to one worker's thread.
#ifndef TD_SERVER_STREAM_H
#define TD_SERVER_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"
#include "tandem/admin.h"

struct td_tls; // certificate, key and client CA, shared by all connections

struct td_stream {
    int fd;
    void *ssl; // NULL: plain
    bool read_wants_write, write_wants_read;
};

enum { TD_STREAM_AGAIN = -1, TD_STREAM_FAILED = -2 };

// Reads certificate chain, key and, where given, the CA that client certificates must come from (mTLS: a client without
// one is not let in). TLS 1.2 or newer, HTTP/1.1 only. *out is NULL where the settings name no certificate.
// TD_ERR_CONFIG, TD_ERR_NOMEM.
enum td_err td_tls_create(const struct td_listen_settings *settings, struct td_tls **out,
                          struct td_error *e) TD_MUST_USE;
void td_tls_destroy(struct td_tls *tls);

// Takes over `fd`; `tls` NULL: plain. TD_ERR_NOMEM (fd stays the caller's).
enum td_err td_stream_init(struct td_stream *s, int fd, struct td_tls *tls) TD_MUST_USE;
// Closes; `reset` sends RST, so that the peer cannot take what it got for whole.
void td_stream_finish(struct td_stream *s, bool reset);

// Bytes read, 0 at the end of the input, TD_STREAM_AGAIN, TD_STREAM_FAILED.
ssize_t td_stream_read(struct td_stream *s, char *p, size_t n);
// Bytes written (maybe fewer than asked), TD_STREAM_AGAIN, TD_STREAM_FAILED.
ssize_t td_stream_write(struct td_stream *s, const char *p, size_t n);
// Decrypted bytes wait that no descriptor event will announce.
bool td_stream_pending(const struct td_stream *s);
// No more output: FIN, under TLS close_notify before it.
void td_stream_shut(struct td_stream *s);
// The client certificate's subject (RFC 2253 order), "" without one.
void td_stream_subject(const struct td_stream *s, char *out, size_t cap);

#endif
