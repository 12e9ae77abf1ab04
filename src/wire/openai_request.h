// SPDX-License-Identifier: Apache-2.0
// Reads request bodies of the OpenAI API (chat completions, completions, embeddings; openai-openapi 2.3.0) into the
// canonical request: one JSON parse, every known field checked for type and range, views instead of copies. Everything
// lives in `arena`; `body` must live as long as the request. Pure; one owner.
//
// Policy on odd input: a known key given twice in one object is refused (two readers of the same bytes must not see two
// requests); JSON null counts as "not given"; unknown keys are kept in `root` for a provider of the same dialect; NUL
// characters in text are refused; what this program cannot carry (functions, custom tools, token arrays as prompt,
// best_of, echo, token numbers) is TD_ERR_UNSUPPORTED, never ignored.
#ifndef TD_WIRE_OPENAI_REQUEST_H
#define TD_WIRE_OPENAI_REQUEST_H

#include "wire/request.h"

// Errors of all three, with e->message fit for the client and e->param the field: TD_ERR_BAD_JSON, TD_ERR_BAD_REQUEST,
// TD_ERR_UNSUPPORTED, TD_ERR_LIMIT, TD_ERR_NOMEM. *req is written only on success.
enum td_err td_openai_read_chat(struct td_arena *arena, struct td_str body, struct td_request *req,
                                struct td_error *e) TD_MUST_USE;
enum td_err td_openai_read_completion(struct td_arena *arena, struct td_str body, struct td_request *req,
                                      struct td_error *e) TD_MUST_USE;
enum td_err td_openai_read_embedding(struct td_arena *arena, struct td_str body, struct td_request *req,
                                     struct td_error *e) TD_MUST_USE;
// The one of the three that `kind` names.
enum td_err td_openai_read_request(struct td_arena *arena, enum td_kind kind, struct td_str body,
                                   struct td_request *req, struct td_error *e) TD_MUST_USE;

#endif
