// SPDX-License-Identifier: Apache-2.0
// OpenAI-compatible servers as providers: the canonical request written as their body, their reply (SSE chunks or one
// JSON body) read into canonical events, their errors understood in the wordings of OpenAI, Azure, vLLM, llama-server,
// Ollama, Mistral, DeepSeek and Anthropic's compatible endpoint. Also the body for the local model host and for the
// next Tandem of a chain. Pure: no I/O, no clock. A reader has one owner.
#ifndef TD_WIRE_OPENAI_PROVIDER_H
#define TD_WIRE_OPENAI_PROVIDER_H

#include "base/near.h"
#include "wire/provider.h"

// Appends the body. The order of fields is fixed, so equal requests give equal bytes (prompt caches of providers).
// TD_ERR_LIMIT, TD_ERR_NOMEM, TD_ERR_UNSUPPORTED (a prefix on a request with several choices), or what spec->text
// returned; `out` is then as before.
enum td_err td_openai_write_request(const struct td_request *req, const struct td_write_spec *spec,
                                    struct td_buf *out) TD_MUST_USE;

// Appends the URL: base_url + "/chat/completions" and so on; path_style "azure": base_url
// + "/openai/deployments/MODEL/chat/completions?api-version=VERSION", both percent-encoded (RFC 3986).
enum td_err td_openai_write_url(struct td_str base_url, struct td_str path_style, struct td_str api_version,
                                enum td_kind kind, struct td_str model, struct td_buf *out) TD_MUST_USE;

// A reply with status 200. Events come from inside feed and finish, in the order event.h promises, ended by exactly one
// END or ERROR. Rules: a stream that ends before every choice had its finish is TD_ERR_CUT; a missing [DONE] after the
// finish is fine; an event that is no JSON or has wrong types is left out and marks the next one `damaged`; an error
// object in the stream is an ERROR; more than reply_bytes_max is TD_ERR_UPSTREAM_GARBAGE.
enum td_err td_openai_reader_create(const struct td_reader_spec *spec, struct td_reader **out) TD_MUST_USE;
// Takes a piece of the body, cut anywhere. False once END or ERROR was handed over (or after stop): the rest is not
// needed.
bool td_openai_reader_feed(struct td_reader *r, struct td_str piece);
// The body is complete. `clean` false: the connection broke (then a missing [DONE] is still fine after all finishes).
// Hands over END or ERROR if none came yet.
void td_openai_reader_finish(struct td_reader *r, bool clean);
// Every choice that was asked for has its finish: a connection that then breaks or falls silent has lost nothing,
// finish will hand over END.
bool td_openai_reader_is_complete(const struct td_reader *r);
// No further event, also from inside a callback. destroy must not be called from inside one; it takes NULL.
void td_openai_reader_stop(struct td_reader *r);
void td_openai_reader_destroy(struct td_reader *r);
// Notes what the next piece of a stream will touch.
void td_openai_reader_near(const struct td_reader *r, struct td_near *near);

// A reply with another status. `retry_after` and `retry_after_ms` are the header fields' values ("" none; the first in
// seconds or as an HTTP date, RFC 9110 section 10.2.3), `now_s` the wall clock for the date form. Never fails: what is
// not understood is judged by its status.
void td_openai_read_error(int status, struct td_str retry_after, struct td_str retry_after_ms, int64_t now_s,
                          struct td_str body, struct td_upstream_error *out);

#endif
