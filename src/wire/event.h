// SPDX-License-Identifier: Apache-2.0
// The canonical event stream of an attempt: what every backend produces and every client dialect is written from. An
// event and all views in it are valid only during the call that hands it over. Order within one attempt: START, then
// any of DELTA, REASONING, TOOL_CALL, USAGE, then FINISH per choice, then USAGE possibly, then END exactly once, unless
// ERROR ends it. After END or ERROR nothing follows. EMBEDDING replaces deltas for embeddings.
#ifndef TD_WIRE_EVENT_H
#define TD_WIRE_EVENT_H

#include "base/json.h"

enum td_event_type {
    TD_EV_START,     // the target accepted; `start`
    TD_EV_DELTA,     // text of the answer; `delta`
    TD_EV_REASONING, // text of visible reasoning, where a provider gives it; `delta`
    TD_EV_REFUSAL,   // text of a refusal (OpenAI's delta.refusal); `delta`
    TD_EV_TOOL_CALL, // the beginning or a piece of one; `tool`
    TD_EV_EMBEDDING, // one vector; `embedding`
    TD_EV_USAGE,     // `usage`; a later one replaces an earlier
    TD_EV_FINISH,    // one choice is complete; `finish`
    TD_EV_END,       // the whole answer came; success
    TD_EV_ERROR      // the attempt failed; `error`
};

enum td_finish { TD_FINISH_STOP, TD_FINISH_LENGTH, TD_FINISH_TOOL_CALLS, TD_FINISH_CONTENT_FILTER };

// A token with its probability; `top` the most likely alternatives, itself included where it is among them.
struct td_token {
    struct td_str text; // bytes, may be part of a character
    float logprob;      // natural logarithm
    float entropy;      // nats, of the whole distribution; NaN where the backend does not know it
    const struct td_token *top;
    uint32_t top_count;
};

struct td_usage {
    uint32_t prompt_tokens, completion_tokens;
    uint32_t cached_tokens;    // part of prompt_tokens served from a prefix cache
    uint32_t reasoning_tokens; // part of completion_tokens
    bool estimated;            // counted here, not by the provider
};

struct td_event {
    enum td_event_type type;
    uint32_t choice;
    union {
        struct {
            struct td_str model;       // the model that really answers
            struct td_str provider_id; // the provider's own id of this answer, may be empty
        } start;
        struct {
            struct td_str text; // whole UTF-8 characters
            const struct td_token *tokens;
            uint32_t token_count; // 0 where the backend gives no probabilities
        } delta;
        struct {
            uint32_t index;
            struct td_str id, name;        // non-empty on the first piece only
            struct td_str arguments;       // appended
            const struct td_token *tokens; // with probabilities, where the backend gives them (cascade judges by them)
            uint32_t token_count;
        } tool;
        struct {
            uint32_t index;
            const float *values;
            uint32_t count;
        } embedding;
        struct td_usage usage;
        struct {
            enum td_finish reason;
        } finish;
        struct {
            enum td_err code;
            struct td_str message;   // fit for the client; the provider's own words where it gave any
            int http_status;         // the upstream's; 0 none
            uint32_t retry_after_ms; // the upstream's; 0 none
        } error;
    };
    bool damaged; // an event before this one could not be read: text may be missing
    // The provider's own chunk or body (its root) where client and provider speak the same dialect, so that fields
    // unknown here pass through; set on the first event of each choice in a chunk, else NULL. A DELTA without text may
    // come for its sake alone.
    td_json *raw;
};

// Where a reader hands its events to.
typedef void (*td_event_fn)(void *user, const struct td_event *event);

// "stop", "length", "tool_calls", "content_filter". Static storage.
const char *td_finish_word(enum td_finish f);

#endif
