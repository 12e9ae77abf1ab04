// SPDX-License-Identifier: Apache-2.0
// What the three files of the answer writer share: its state (openai_answer.c: life and streaming), the pieces of JSON
// that frames and bodies have in common (openai_pieces.c), and the whole body (openai_whole.c). Private to this room.
#ifndef TD_WIRE_OPENAI_WRITER_H
#define TD_WIRE_OPENAI_WRITER_H

#include "wire/emit.h"
#include "wire/openai_answer.h"
#include "wire/openai_keys.h"

#define EXTRAS_MAX 16u // fields passed through at one level; more is no provider, it is noise

// Fields of the provider's own that pass through, collected for a whole answer: ,"key":value… The first value stays.
struct td_ow_extras {
    struct td_buf json;
    struct td_str *keys; // EXTRAS_MAX of them, in the arena, from the first field on
    uint32_t count;
};

struct td_ow_call {
    struct td_str id, name;
    struct td_buf arguments;
};

enum { LP_TOKENS, LP_VALUES, LP_TOP, LP_OFFSETS, LP_COUNT }; // chat uses the first alone

struct td_ow_choice {
    bool begun, role_sent, finished; // begun: something came of it, also what this form has no place for
    enum td_finish finish;
    uint32_t calls_seen;
    uint64_t characters;  // of text, for completions' text_offset
    struct td_buf prefix; // streaming: a text frame up to its text
    // Whole answers:
    struct td_buf text, reasoning, refusal, logprobs[LP_COUNT];
    bool has_refusal;
    struct td_ow_call *calls;
    uint32_t call_count, call_room;
    struct td_ow_extras extras, message_extras;
};

struct td_answer_writer {
    // What every piece of a stream asks for.
    struct td_answer_spec spec;
    struct td_ow_choice *choices;
    uint32_t choice_count, part; // choices of all parts; the part that speaks
    struct td_buf pending;       // a finish frame without its end
    bool model_known, has_usage, damaged;

    struct td_arena arena;
    struct td_str id, model;
    struct td_buf head; // data: {"id":…,"model":…,
    struct td_usage usage;
    struct td_ow_extras extras;
    struct td_buf vectors; // embeddings: the entries of `data`
    uint32_t vector_count;
    uint32_t revision;
    enum td_revision_op op;
    struct td_origin origin, draft; // of the last revision and of the draft
};

// ---- pieces

// ,"key":value for each unknown field of `obj`. Null values say nothing and are left out.
void td_ow_unknown(struct td_emit *m, td_json *obj, bool (*known)(struct td_str));
// The entry of raw's `choices` with this index, and its delta or message; NULL none.
td_json *td_ow_raw_choice(td_json *raw, uint32_t index);
// Which choice of the whole answer is the first of the part that speaks; a provider counts from there.
static inline uint32_t td_ow_first_choice(const struct td_answer_writer *w) {
    return w->part * w->spec.choices;
}
td_json *td_ow_raw_message(td_json *choice);
// Elements of a chat's logprobs, and of one of the four parallel lists of a completion's; with commas between.
void td_ow_chat_tokens(struct td_emit *m, const struct td_answer_writer *w, const struct td_token *tokens,
                       uint32_t count);
void td_ow_completion_tokens(struct td_emit *m, const struct td_answer_writer *w, const struct td_token *tokens,
                             uint32_t count, int list, uint64_t offset);
extern const char *const td_ow_lists[LP_COUNT]; // what stands before each of the four
uint64_t td_ow_characters(struct td_str s);
// The value of "logprobs" in a frame; `ev` may be NULL.
void td_ow_logprobs(struct td_emit *m, const struct td_answer_writer *w, const struct td_event *ev, uint64_t offset);
void td_ow_usage(struct td_emit *m, const struct td_usage *u, bool embedding);
// Members of `tandem` about the revision, each with a comma behind it. `opens`: the frame opens the revision; the last
// frame of an answer names it once more without doing so.
void td_ow_revision(struct td_emit *m, const struct td_answer_writer *w, bool opens, bool final);
// ,"tandem":{…} of the last frame or the body; nothing for NULL. `w` NULL: of an error before any frame.
void td_ow_meta(struct td_emit *m, const struct td_answer_writer *w, const struct td_answer_meta *meta);
// The usage of the delivered answer, NULL where nobody knows it.
const struct td_usage *td_ow_final_usage(const struct td_answer_writer *w, const struct td_answer_meta *meta);
// For calls that came without an id: unique within a conversation, since the exchange's id is. In the arena.
struct td_str td_ow_made_id(struct td_answer_writer *w, uint32_t choice, uint32_t index);

// ---- whole

enum td_err td_ow_whole_event(struct td_answer_writer *w, const struct td_event *ev) TD_MUST_USE;
enum td_err td_ow_keep_vector(struct td_answer_writer *w, const struct td_event *ev) TD_MUST_USE;
void td_ow_whole_end(struct td_emit *m, struct td_answer_writer *w, const struct td_answer_meta *meta);

#endif
