// SPDX-License-Identifier: Apache-2.0
// An OpenAI request body while it is read (this room only): openai_request.c is the body and its plain fields,
// openai_messages.c its messages, openai_tools.c tools, tool choice and response format, openai_fields.c what all of
// them read fields with. Views into the parsed JSON; the arena is the request's. Every function that can refuse says
// which field is wrong, and how.
#ifndef TD_WIRE_OPENAI_BODY_H
#define TD_WIRE_OPENAI_BODY_H

#include "wire/openai_request.h"

struct td_openai_body {
    struct td_arena *arena;
    struct td_error *e;
    struct td_request *req;
    td_json *tool_choice, *tandem; // read after everything else
    bool has_top_logprobs, has_stream_options;
    uint32_t best_of; // 0: not given
    uint64_t text_bytes;
};

// Says what is wrong with which field of the request, and is the error code.
#define REFUSE(r, code, field, ...)                                                                                    \
    (td_error_set((r)->e, TD_ERR_##code, __VA_ARGS__), td_error_param((r)->e, "%s", field), TD_ERR_##code)
#define NO_MEMORY(r) td_error_set((r)->e, TD_ERR_NOMEM, "out of memory while reading the request")

static inline bool td_openai_is(td_json *key, const char *z) {
    return td_str_is(td_json_str(key), z);
}

// Refuses: `v` is no `expected`.
enum td_err td_openai_wrong_type(struct td_openai_body *r, const char *field, const char *expected,
                                 td_json *v) TD_MUST_USE;
// Refuses: the field is given twice.
enum td_err td_openai_twice(struct td_openai_body *r, const char *field) TD_MUST_USE;
// Text that is counted and may hold anything but NUL (C strings of templates and tokenizers end there).
enum td_err td_openai_read_text(struct td_openai_body *r, const char *field, td_json *v,
                                struct td_str *out) TD_MUST_USE;
// A short string that names something.
enum td_err td_openai_read_name(struct td_openai_body *r, const char *field, td_json *v, size_t bytes_max,
                                struct td_str *out) TD_MUST_USE;
enum td_err td_openai_read_bool(struct td_openai_body *r, const char *field, td_json *v, bool *out) TD_MUST_USE;
enum td_err td_openai_read_number(struct td_openai_body *r, const char *field, td_json *v, double low, double high,
                                  double *out) TD_MUST_USE;
enum td_err td_openai_read_count(struct td_openai_body *r, const char *field, td_json *v, uint32_t low, uint32_t high,
                                 uint32_t *out) TD_MUST_USE;
// Strings and keys inside a JSON value: about the text a model would see of it. Depth is bounded by the parser.
uint64_t td_openai_json_text_bytes(td_json *v);
enum td_err td_openai_read_messages(struct td_openai_body *r, td_json *list) TD_MUST_USE;
enum td_err td_openai_read_tools(struct td_openai_body *r, td_json *list) TD_MUST_USE;
enum td_err td_openai_read_tool_choice(struct td_openai_body *r, td_json *v) TD_MUST_USE;
enum td_err td_openai_read_format(struct td_openai_body *r, td_json *v) TD_MUST_USE;

#endif
