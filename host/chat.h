// SPDX-License-Identifier: Apache-2.0
// What llama.cpp's common library does for a chat, behind a C face: the model's own template rendered, the grammar that
// tools and response formats ask for, sampling under it, and the answer parsed into text, reasoning and tool calls as
// it grows. No exception crosses this header. Turns are made on one thread (the door's); samplers and parsers belong to
// one other (the engine's); a third may prepare while those are not there yet or at work.
#ifndef TD_HOST_CHAT_H
#define TD_HOST_CHAT_H

#include <llama.h>
#include <stdarg.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "base/err.h"
#include "base/limits.h"
#include "base/str.h"

struct host_templates;
struct host_turn;
struct host_sampler;
struct host_parser;

// Silences the common library's log, which would show prompt text. Once, at start.
void host_chat_quiet(void);
// `fn` is told, on whatever thread, when C++ gets no memory, before the exception that somebody may swallow. Once, at
// start.
void host_on_no_memory(void (*fn)(void));

// The model's template (or the library's default where it has none), or `source` where it is not "". NULL with *e
// filled.
struct host_templates *host_templates_create(const struct llama_model *model, const char *source, struct td_error *e);
// The same before the model is loaded, from the text of its template. NULL where that takes the model. Of use only once
// adopted.
struct host_templates *host_templates_early(struct td_str source);
// The model is loaded. False: these are not what host_templates_create would make of it, so they must go.
bool host_templates_adopt(struct host_templates *t, const struct llama_model *model);
// Chats with these tools (a JSON array, as host_turn_in has it) are expected: from now on a turn with them waits until
// host_templates_prepare is through. Before any turn.
void host_templates_expect(struct host_templates *t, struct td_str tools);
// Makes what the expected chats need. What cannot be made is left to the request, which gets the reason. With early
// templates it returns only once adopt was called. One thread, while others make turns.
void host_templates_prepare(struct host_templates *t);
void host_templates_destroy(struct host_templates *t);
// The template knows tools.
bool host_templates_tools(const struct host_templates *t);

struct host_turn_in {
    struct td_str messages;    // JSON array
    struct td_str tools;       // JSON array, "" none
    struct td_str tool_choice; // "auto", "none", "required"
    struct td_str schema;      // JSON schema the answer must follow, "" none
    struct td_str kwargs;      // JSON object for the template, "" none
    int parallel_tools;        // -1: as the template can
    bool no_thinking;
};
// Renders. TD_ERR_BAD_REQUEST with the library's reason (never prompt text), TD_ERR_LIMIT (template time).
enum td_err host_turn_create(const struct host_templates *t, const struct host_turn_in *in, struct host_turn **out,
                             struct td_error *e) TD_MUST_USE;
void host_turn_destroy(struct host_turn *turn);
struct td_str host_turn_prompt(const struct host_turn *turn);
// Its grammar and parser were there already.
bool host_turn_known(const struct host_turn *turn);
size_t host_turn_stop_count(const struct host_turn *turn);
struct td_str host_turn_stop(const struct host_turn *turn, size_t i);

struct host_sampling { // NaN and negative: not given, then the model's own wish, then the library's default
    float temperature, top_p, presence_penalty, frequency_penalty;
    int64_t seed;
    const llama_logit_bias *bias;
    size_t bias_count;
};
// `turn` NULL: no grammar. *greedy: the token is simply the likeliest one and the sampler need not be asked.
enum td_err host_sampler_create(const struct llama_model *model, const struct host_turn *turn,
                                const struct host_sampling *in, struct host_sampler **out, bool *greedy,
                                struct td_error *e) TD_MUST_USE;
void host_sampler_destroy(struct host_sampler *s);
// Chooses from the logits of output `index` and takes the choice in. LLAMA_TOKEN_NULL: it failed (no token fits).
llama_token host_sampler_next(struct host_sampler *s, struct llama_context *context, int32_t index);
// This token's text is part of the answer's syntax though it is a special token.
bool host_turn_preserves(const struct host_turn *turn, llama_token token);

// Pieces of the answer, in order; views valid during the call.
struct host_piece {
    enum { HOST_PIECE_TEXT, HOST_PIECE_REASONING, HOST_PIECE_TOOL } kind;
    struct td_str text; // TEXT, REASONING; TOOL: arguments
    uint32_t index;     // TOOL
    struct td_str id, name;
};
struct host_parser *host_parser_create(const struct host_turn *turn);
void host_parser_destroy(struct host_parser *p);
// `answer`: everything generated so far (whole characters). Calls fn for what is new. TD_ERR_UPSTREAM_GARBAGE: the
// finished answer (`partial` false) does not have the form the template promises.
enum td_err host_parser_feed(struct host_parser *p, struct td_str answer, bool partial,
                             void (*fn)(void *arg, const struct host_piece *piece), void *arg) TD_MUST_USE;
bool host_parser_has_tools(const struct host_parser *p);

#ifdef __cplusplus
}
#endif

#endif
