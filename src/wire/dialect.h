// SPDX-License-Identifier: Apache-2.0
// One table per dialect, so that exchange and runtime call N client dialects and M provider dialects without knowing
// them. What each function may do stands in its own header (openai_request.h, openai_provider.h, openai_answer.h).
//
// How to add one: write NAME_request.c (read), NAME_answer.c (write), NAME_provider.c where it is also spoken to
// providers; add a row to enum td_dialect and to the table in dialect.c; leave NULL what the dialect has not.
#ifndef TD_WIRE_DIALECT_H
#define TD_WIRE_DIALECT_H

#include "base/near.h"
#include "wire/answer.h"
#include "wire/provider.h"

struct td_dialect_ops {
    const char *name;
    // Client side.
    enum td_err (*read_request)(struct td_arena *arena, enum td_kind kind, struct td_str body, struct td_request *req,
                                struct td_error *e);
    enum td_err (*answer_create)(const struct td_answer_spec *spec, struct td_answer_writer **out);
    void (*answer_destroy)(struct td_answer_writer *w);
    enum td_err (*answer_event)(struct td_answer_writer *w, const struct td_event *ev, struct td_buf *out);
    enum td_err (*answer_revision)(struct td_answer_writer *w, enum td_revision_op op, const struct td_origin *origin,
                                   bool final, struct td_buf *out);
    enum td_err (*answer_end)(struct td_answer_writer *w, const struct td_answer_meta *meta, struct td_buf *out);
    enum td_err (*answer_fail)(struct td_answer_writer *w, enum td_err err, struct td_str message,
                               const struct td_answer_meta *meta, struct td_buf *out);
    void (*answer_reset)(struct td_answer_writer *w);
    void (*answer_part)(struct td_answer_writer *w, uint32_t part);
    enum td_err (*answer_keepalive)(struct td_buf *out);
    void (*answer_near)(const struct td_answer_writer *w, struct td_near *near); // what the next event will touch
    int (*status)(enum td_err err);
    enum td_err (*write_error)(enum td_err err, int status, struct td_str message, struct td_str param,
                               const char *code, const struct td_answer_meta *meta, struct td_buf *out);
    enum td_err (*write_models)(const struct td_model_entry *models, uint32_t count, struct td_buf *out);
    // Provider side.
    enum td_err (*write_request)(const struct td_request *req, const struct td_write_spec *spec, struct td_buf *out);
    enum td_err (*write_url)(struct td_str base_url, struct td_str path_style, struct td_str api_version,
                             enum td_kind kind, struct td_str model, struct td_buf *out);
    enum td_err (*reader_create)(const struct td_reader_spec *spec, struct td_reader **out);
    bool (*reader_feed)(struct td_reader *r, struct td_str piece);
    void (*reader_finish)(struct td_reader *r, bool clean);
    bool (*reader_is_complete)(const struct td_reader *r);
    void (*reader_stop)(struct td_reader *r);
    void (*reader_destroy)(struct td_reader *r);
    void (*read_error)(int status, struct td_str retry_after, struct td_str retry_after_ms, int64_t now_s,
                       struct td_str body, struct td_upstream_error *out);
};

// Never NULL for a member of the enum.
const struct td_dialect_ops *td_dialect_ops(enum td_dialect dialect);

#endif
