// SPDX-License-Identifier: Apache-2.0
// What the files of the engine share: the turn (engine.c), how an answer leaves (answer.c), embeddings (embed.c). All
// on the engine's thread.
#ifndef TD_HOST_ENGINE_H
#define TD_HOST_ENGINE_H

#include "host/guest.h"
#include "host/prob.h"

struct host_job {
    struct host_request *r;
    uint32_t choice;
    struct host_sampler *sampler;
    struct host_parser *parser;
    bool greedy;
    int32_t read;     // prompt tokens decoded
    int32_t index;    // of its logits in this batch, -1 none
    llama_token last; // sampled, not decoded yet; -1 none
    uint32_t produced, max;
    uint32_t own_max;      // the model's own limit; UINT32_MAX it has none
    struct td_buf text;    // the answer so far, whole characters
    unsigned char half[4]; // of a character
    uint32_t half_count;
    size_t shown;         // bytes of `text` given to the parser or handed out
    struct td_buf tokens; // records not handed out yet, as the frames carry them
    uint32_t token_count;
    uint64_t parse_ns, parsed_at_ns;
    bool handed_text;
};

struct host_slot {
    struct host_job *job; // NULL free
    llama_token *cache;
    int32_t cache_count;
    uint64_t used; // turn of last use
};

struct host_engine {
    struct host_guest *g;
    struct host_slot *slots;
    uint32_t slot_count;
    uint64_t turn;
    struct llama_batch batch;
    struct llama_context *embedder;
    struct td_buf out; // frames of this turn for one connection
    double tokens_per_ms;
    int32_t vocab_count, context;
    int32_t swa;      // sliding window, 0 none
    bool recurrent;   // sequences cannot be cut back
    uint64_t decoded; // tokens, for the sign of life
};

// ---- answer.c. Frames are put into e->out and leave with host_send_out; want of memory ends the request.

void host_send_out(struct host_engine *e, struct host_request *r);
void host_spend_credit(struct host_request *r);
// The request's ERROR; it is dead then.
void host_fail_request(struct host_engine *e, struct host_request *r, enum td_err code, const char *why);
void host_put_usage(struct host_engine *e, struct host_request *r, uint32_t prompt_tokens);
void host_put_end(struct host_engine *e, struct host_request *r);
// The records of all tokens since the last frame, into the next one.
void host_put_tokens(struct td_proto_writer *w, struct host_job *j);
// Notes a token with its probability and its alternatives.
enum td_err host_record_token(struct host_engine *e, struct host_job *j, const float *logits, llama_token token,
                              const struct host_prob *p) TD_MUST_USE;
// A token's bytes: in `small`, or in a block that the caller frees. Returns how many.
int host_piece_of(struct host_engine *e, const struct host_job *j, llama_token token, char **out, char small[256]);
// Adds bytes to the answer, as whole characters.
enum td_err host_add_text(struct host_job *j, const char *p, size_t n) TD_MUST_USE;
// Cuts the answer before the first stop string that ends in the bytes from `from` on. False: there is none.
bool host_cut_at_stop(struct host_job *j, size_t from);
// What of the answer can be shown now; all of it where it is the `last` time, `cut`: though it has not come to its end.
enum td_err host_hand_out(struct host_engine *e, struct host_job *j, bool last, bool cut) TD_MUST_USE;

// ---- embed.c

// The next input of an embedding request, and after the last one its end.
void host_embed_next(struct host_engine *e, struct host_request *r);

#endif
