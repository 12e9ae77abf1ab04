// SPDX-License-Identifier: Apache-2.0
// The words shared by all provider dialects: how a request shall be written for a target, how its reply is read, what
// its error said. Plain values; no I/O.
#ifndef TD_WIRE_PROVIDER_H
#define TD_WIRE_PROVIDER_H

#include "wire/event.h"
#include "wire/request.h"

// Rewrites one string that carries text (message content, tool arguments and descriptions, prompt, inputs, strings of
// unknown fields): appends the new text, unescaped UTF-8, to `out`. TD_OK or the error that stops the writing.
typedef enum td_err (*td_text_fn)(void *user, struct td_str text, struct td_buf *out);

// Zero-initialise. `stream` bodies always ask for usage, so that what was used is known.
struct td_write_spec {
    struct td_str model; // the provider's name for it
    bool stream;
    bool same_dialect;    // fields unknown here are copied from the client's body (never `tandem`)
    struct td_str prefix; // continue: the text so far, as a trailing assistant message (completions: after the prompt)
    enum td_prefix_mark prefix_mark;
    struct td_str draft; // chat: a lesser model's answer, shown to this one as such; "" none
    uint32_t max_tokens; // overrides the request's (what is left after a cut); 0: the request's
    bool want_logprobs;  // ask for token probabilities though the client did not
    td_text_fn text;     // NULL: text goes as it is
    void *text_user;
    // Provider `tandem`: the `tandem` object for the next hop, NULL none. The effective values of the plan (class,
    // labels, residency, tiers, what is left of deadline and cost, hops with this one counted), which may be stricter
    // than what the caller said.
    const struct td_wishes *chain;
};

// Zero-initialise; caps of 0 mean those of base/limits.h.
struct td_reader_spec {
    enum td_kind kind;
    bool stream;      // what was asked for; a whole JSON body is understood all the same
    bool raw;         // events carry the provider's own chunk (same dialect)
    uint32_t choices; // asked for; 0 counts as 1
    struct td_str id; // the exchange's: seeds ids of tool calls that came without one; copied
    size_t reply_bytes_max, line_bytes_max;
    td_event_fn on_event; // called from feed and finish only
    void *user;
};

struct td_reader; // one reply being read

// What a provider's error meant.
struct td_upstream_error {
    enum td_err code;        // CONTEXT_LENGTH, CONTENT_POLICY, UPSTREAM_*
    char message[240];       // the provider's words, cut at a whole character; ours where credentials are concerned
    char provider_code[64];  // its own machine-readable code or type, "" none
    uint32_t retry_after_ms; // its wish; 0 none
};

#endif
