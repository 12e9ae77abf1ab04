// SPDX-License-Identifier: Apache-2.0
// OpenAI clients: canonical events → chat.completion.chunk / text_completion frames, or one JSON body; errors in
// OpenAI's form; the models list. id, created and model stay the same over one answer. Fields that a provider of the
// same dialect sent beside the known ones pass through. Streaming frames are written from a prefix made once per
// stream. One owner, no I/O.
//
// The last chunk before [DONE] carries the `tandem` object, so a finish is kept back until td_openai_answer_end (or
// until another event follows it).
#ifndef TD_WIRE_OPENAI_ANSWER_H
#define TD_WIRE_OPENAI_ANSWER_H

#include "base/near.h"
#include "wire/answer.h"

enum td_err td_openai_answer_create(const struct td_answer_spec *spec, struct td_answer_writer **out) TD_MUST_USE;
void td_openai_answer_destroy(struct td_answer_writer *w); // takes NULL
// Takes any event but END and ERROR. Streaming: appends the frames it makes to `out` (START and USAGE make none).
// Whole: keeps it, `out` is untouched (may be NULL). TD_ERR_LIMIT, TD_ERR_NOMEM.
enum td_err td_openai_answer_event(struct td_answer_writer *w, const struct td_event *ev,
                                   struct td_buf *out) TD_MUST_USE;
// Progressive, streaming, opted-in clients only (docs/protocol.md): announces that the text that follows drafts, is
// appended to, or replaces what came before, or that it is confirmed. Numbers the revision (draft is 1). `final`: its
// text is complete with this frame.
enum td_err td_openai_answer_revision(struct td_answer_writer *w, enum td_revision_op op,
                                      const struct td_origin *origin, bool final, struct td_buf *out) TD_MUST_USE;
// Success: the rest of the stream with usage chunk and [DONE], or the whole body.
enum td_err td_openai_answer_end(struct td_answer_writer *w, const struct td_answer_meta *meta,
                                 struct td_buf *out) TD_MUST_USE;
// The stream failed after its head was sent: one frame with the error object and `tandem`, no [DONE]. `meta` may be
// NULL.
enum td_err td_openai_answer_fail(struct td_answer_writer *w, enum td_err err, struct td_str message,
                                  const struct td_answer_meta *meta, struct td_buf *out) TD_MUST_USE;
// An answer of several parts (spec.parts): the events that follow are of this one, its choices counted from 0.
void td_openai_answer_part(struct td_answer_writer *w, uint32_t part);
// A restart: forgets all that was taken in; the model may be named anew. Streaming: only right while nothing of the
// text was sent, or behind a `replace`.
void td_openai_answer_reset(struct td_answer_writer *w);
// An SSE comment that keeps a connection alive.
enum td_err td_openai_answer_keepalive(struct td_buf *out) TD_MUST_USE;
// Notes what the next event of a stream will touch.
void td_openai_answer_near(const struct td_answer_writer *w, struct td_near *near);

// The HTTP status for an error.
int td_openai_status(enum td_err err);
// Seconds for a Retry-After header, rounded up, at least 1; 0: send none. `retry_after_ms` is what is known, 0 nothing.
uint32_t td_openai_retry_after_s(enum td_err err, uint32_t retry_after_ms);
// Appends {"error":{message,type,param,code}}. `status` 0: td_openai_status(err). `message` empty: the error's own
// text; `param` empty: null; `code` NULL: the stable code of `err`; `meta` NULL: without a `tandem` object.
enum td_err td_openai_write_error(enum td_err err, int status, struct td_str message, struct td_str param,
                                  const char *code, const struct td_answer_meta *meta, struct td_buf *out) TD_MUST_USE;
// Appends the body of GET /v1/models, or of one model.
enum td_err td_openai_write_models(const struct td_model_entry *models, uint32_t count, struct td_buf *out) TD_MUST_USE;
enum td_err td_openai_write_model(const struct td_model_entry *model, struct td_buf *out) TD_MUST_USE;

// What a chunk or body says that canonical events do not carry, as an object of the chunk's own shape with one choice:
// the form in which an event's `raw` is kept.
enum td_err td_openai_own_fields(td_json *raw, uint32_t choice, struct td_buf *out) TD_MUST_USE;

#endif
