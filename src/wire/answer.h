// SPDX-License-Identifier: Apache-2.0
// The words shared by all client dialects: what an answer needs beside its events. An answer writer turns canonical
// events into the client's bytes, streamed or whole. Plain values; no I/O, no clock.
#ifndef TD_WIRE_ANSWER_H
#define TD_WIRE_ANSWER_H

#include "wire/event.h"
#include "wire/request.h"

struct td_origin {
    struct td_str target, tier, model;
};

// Fixed for one answer. Views are copied.
struct td_answer_spec {
    enum td_kind kind;
    struct td_str exchange; // id; the answer's own id is made from it
    struct td_str model;    // until a START names the one that answers
    int64_t created_s;      // wall clock, seconds
    bool stream;
    bool include_usage;    // stream_options.include_usage
    bool logprobs;         // the client asked for them; else they are not shown
    uint32_t top_logprobs; // at most so many alternatives per token
    uint32_t choices;      // 0 counts as 1
    uint32_t parts;        // so many times these: one answer of several exchanges; 0 counts as 1
    bool base64;           // embeddings
    size_t bytes_max;      // ceiling of a whole answer; 0: TD_REPLY_BYTES_MAX
};

// From the request; exchange, created_s and model are the caller's to fill in.
void td_answer_spec_of(const struct td_request *req, struct td_answer_spec *out);

enum td_revision_op { TD_REVISION_DRAFT, TD_REVISION_APPEND, TD_REVISION_REPLACE, TD_REVISION_CONFIRM };
// "draft", "append", "replace", "confirm". Static storage.
const char *td_revision_word(enum td_revision_op op);

struct td_answer_attempt {
    struct td_origin origin;
    struct td_str reason;  // why it was chosen, a word of route/plan.h
    struct td_str outcome; // "ok" or the stable error code
    struct td_usage usage;
    int64_t cost_nusd;
    uint32_t ttft_ms, duration_ms;
    uint32_t part; // whose it is, where there are several
};

// What the last chunk's or the body's `tandem` object says. Zero-initialise and set confidence to NaN where unknown.
struct td_answer_meta {
    struct td_str exchange;
    struct td_origin origin; // of the answer as delivered
    struct td_str reason;
    struct td_str mode;      // "" leaves it out
    struct td_str queued_as; // the exchange that it is kept under already; "" its own
    bool degraded, queued, damaged;
    double confidence;            // 0..1, NaN unknown
    int64_t cost_nusd;            // all attempts
    const struct td_usage *usage; // of the delivered answer; NULL: the last USAGE event's, none: left out
    struct td_usage usage_total;  // all attempts
    const struct td_answer_attempt *attempts;
    uint32_t attempt_count;
    const struct td_str *exchanges; // of all parts, where there are several; `exchange` is the first of them
    uint32_t exchange_count;
};

struct td_answer_writer;

struct td_model_entry {
    struct td_str id, owned_by;
    int64_t created_s;
    struct td_str tier; // "" leaves it out of the entry's `tandem` object
    uint32_t context;   // tokens, 0 unknown
    uint32_t capabilities;
};

#endif
