// SPDX-License-Identifier: Apache-2.0
// The scripted upstream's inside: a server that speaks the OpenAI dialect with answers that are a pure function of the
// prompt, and that misbehaves on purpose where a test's script says so. One thread, one process, for tests and benches
// only. See upstream.c for how to use it.
#ifndef TD_TESTS_UPSTREAM_H
#define TD_TESTS_UPSTREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "base/limits.h"

// What one request is answered with. Zero-initialised: well. Counts and times of 0 mean "not".
struct behaviour {
    int64_t times;                // how many requests this entry of the queue serves; 0 is 1
    int64_t status;               // an error status instead of an answer
    int64_t headers_ms;           // wait before the first header byte
    int64_t header_byte_ms;       // then this long between any two header bytes
    int64_t first_token_ms;       // from the request to the first token
    int64_t token_ms;             // between tokens
    int64_t tokens;               // length of the answer
    int64_t cut_after_tokens;     // close after so many tokens (cut: "fin" or "rst")
    int64_t cut_at_byte;          // close after so many bytes of the body
    int64_t silence_after_tokens; // then nothing, connection open
    int64_t malformed_at;         // this event (from 1) is not JSON
    int64_t error_after_tokens;   // an error object inside the stream, then its end; -1: at once, before any token
    int64_t gzip_bomb_mb;         // a gzip body that inflates to so much
    int64_t giant_line_bytes;     // one event line of this length
    int64_t giant_body_bytes;     // a body that goes on for so long
    int64_t header_flood_bytes;   // extra header fields
    int64_t piece_bytes;          // the body in HTTP chunks of this size
    int64_t comment_ms;           // SSE comments at this pace while waiting for the first token and in silence
    int64_t end_ms;               // from the finish to usage and [DONE]
    bool hang;                    // accept, read, never answer
    bool reset;                   // reset before headers
    bool close_early;             // close politely before headers
    bool garbage;                 // random bytes instead of HTTP
    bool garbage_body;            // HTTP, but the body is noise
    bool no_done, no_finish, no_usage;
    bool open_end;                       // neither [DONE] nor the end of the body, the connection stays open
    bool refuse_prefix;                  // 400 where the last message is the assistant's
    bool gzip;                           // the body compressed
    bool context_length, content_policy; // the provider's 400s
    bool close_after;                    // no keep-alive
    bool deaf;                           // from the answer's end on nothing on this connection arrives any more
    bool crlf;                           // CR LF line ends and no space after "data:"
    bool filter;                         // finish_reason content_filter
    bool duplicate_finish;
    char retry_after[64], retry_after_ms[32], content_type[64], location[256], cut[8], match[64], path[64];
    char say[256]; // the answer's text
};

// Reads one behaviour object; an unknown key is an error (message in `why`).
bool behaviour_read(td_json *obj, struct behaviour *out, char why[128]);

struct token {
    uint32_t at, n; // bytes of the answer's text
};

struct answer {
    struct td_str text;
    struct token *tokens;
    uint32_t token_count;
    const char *finish; // "stop", "length", "tool_calls"
    struct {
        struct td_str name, arguments;
    } calls[4];
    uint32_t call_count;
};

enum job_kind { JOB_CHAT, JOB_COMPLETION, JOB_EMBEDDINGS };

// One request of the API, read as far as the answer depends on it.
struct job {
    enum job_kind kind;
    td_json *root;
    char model[128];
    bool stream, include_usage, logprobs, ends_with_assistant, stamp; // stamp: tokens are "@" and the time, in ns
    uint32_t top_logprobs, n, prompt_tokens;
    struct answer answers[8];
};

// Builds the deterministic answers. False: the request is malformed, `why` says how. `tokens` is the default length;
// `say`, where it is not "", the whole text of a chat's answer.
bool job_read(struct td_arena *arena, enum job_kind kind, struct td_str body, uint32_t tokens, const char *say,
              struct job *out, char why[128]);
// One chunk of a stream for token `i` of choice `choice` (without "data: " and line ends).
enum td_err job_chunk(const struct job *j, const char *id, uint32_t choice, uint32_t i, struct td_buf *out);
enum td_err job_chunk_role(const struct job *j, const char *id, uint32_t choice, struct td_buf *out);
enum td_err job_chunk_call(const struct job *j, const char *id, uint32_t choice, uint32_t call, uint32_t piece,
                           struct td_buf *out);
enum td_err job_chunk_finish(const struct job *j, const char *id, uint32_t choice, const char *finish,
                             struct td_buf *out);
enum td_err job_chunk_usage(const struct job *j, const char *id, uint32_t completion_tokens, struct td_buf *out);
// A whole answer; `finish` NULL: the answer's own.
enum td_err job_whole(const struct job *j, const char *id, const char *finish, bool usage, struct td_buf *out);
enum td_err job_embeddings(const struct job *j, struct td_buf *out);
// Pieces into which a tool call's arguments are streamed; the first carries id and name.
#define CALL_PIECES 4u

// A throw-away certificate authority and certificates, written into `folder`.
struct ssl_ctx_st;
enum tls_mode { TLS_GOOD, TLS_EXPIRED, TLS_WRONG_HOST, TLS_MTLS, TLS_MODE_COUNT };
bool tls_make(const char *folder, struct ssl_ctx_st *contexts[TLS_MODE_COUNT]);

#endif
