// SPDX-License-Identifier: Apache-2.0
// What the files of this dialect share. The fields of OpenAI request bodies that the canonical request carries: the
// reader understands them, the writer writes them itself; every other field passes through to a provider of the same
// dialect. The same for the fields of chunks and bodies on their way back. Private to this room.
#ifndef TD_WIRE_OPENAI_KEYS_H
#define TD_WIRE_OPENAI_KEYS_H

#include "wire/emit.h"

#define CHAT (1u << TD_KIND_CHAT)
#define TEXT (1u << TD_KIND_COMPLETION)
#define EMBED (1u << TD_KIND_EMBEDDING)
// X(NAME, "key", kinds that know it)
#define TD_OPENAI_KEY_LIST(X)                                                                                          \
    X(MODEL, "model", CHAT | TEXT | EMBED)                                                                             \
    X(MESSAGES, "messages", CHAT)                                                                                      \
    X(STREAM, "stream", CHAT | TEXT)                                                                                   \
    X(STREAM_OPTIONS, "stream_options", CHAT | TEXT)                                                                   \
    X(TEMPERATURE, "temperature", CHAT | TEXT)                                                                         \
    X(TOP_P, "top_p", CHAT | TEXT)                                                                                     \
    X(MAX_TOKENS, "max_tokens", CHAT | TEXT)                                                                           \
    X(MAX_COMPLETION_TOKENS, "max_completion_tokens", CHAT)                                                            \
    X(N, "n", CHAT | TEXT)                                                                                             \
    X(STOP, "stop", CHAT | TEXT)                                                                                       \
    X(SEED, "seed", CHAT | TEXT)                                                                                       \
    X(PRESENCE_PENALTY, "presence_penalty", CHAT | TEXT)                                                               \
    X(FREQUENCY_PENALTY, "frequency_penalty", CHAT | TEXT)                                                             \
    X(LOGPROBS, "logprobs", CHAT | TEXT)                                                                               \
    X(TOP_LOGPROBS, "top_logprobs", CHAT)                                                                              \
    X(TOOLS, "tools", CHAT)                                                                                            \
    X(TOOL_CHOICE, "tool_choice", CHAT)                                                                                \
    X(PARALLEL_TOOL_CALLS, "parallel_tool_calls", CHAT)                                                                \
    X(RESPONSE_FORMAT, "response_format", CHAT)                                                                        \
    X(USER, "user", CHAT | TEXT | EMBED)                                                                               \
    X(FUNCTIONS, "functions", CHAT)                                                                                    \
    X(FUNCTION_CALL, "function_call", CHAT)                                                                            \
    X(PROMPT, "prompt", TEXT)                                                                                          \
    X(SUFFIX, "suffix", TEXT)                                                                                          \
    X(BEST_OF, "best_of", TEXT)                                                                                        \
    X(ECHO, "echo", TEXT)                                                                                              \
    X(INPUT, "input", EMBED)                                                                                           \
    X(DIMENSIONS, "dimensions", EMBED)                                                                                 \
    X(ENCODING_FORMAT, "encoding_format", EMBED)                                                                       \
    X(TANDEM, "tandem", CHAT | TEXT | EMBED)

enum td_openai_key {
#define X(name, key, kinds) TD_OPENAI_KEY_##name,
    TD_OPENAI_KEY_LIST(X)
#undef X
        TD_OPENAI_KEY_COUNT // unknown
};

enum td_openai_key td_openai_key_of(enum td_kind kind, struct td_str key);

// Fields of a chunk or body, of an entry of its choices, of a delta or message, that canonical events carry.
bool td_openai_known_top(struct td_str key);
bool td_openai_known_choice(struct td_str key);
bool td_openai_known_delta(struct td_str key);

// "error":{…}; arguments as of td_openai_write_error.
void td_openai_emit_error(struct td_emit *m, enum td_err err, int status, struct td_str message, struct td_str param,
                          const char *code);

#endif
