// SPDX-License-Identifier: Apache-2.0
// What the files of the reply reader share: its state, how it hands events up, and the parts of a reply that are read
// in files of their own. Private to this room.
#ifndef TD_WIRE_OPENAI_READER_H
#define TD_WIRE_OPENAI_READER_H

#include "base/limits.h"
#include "wire/alike.h"
#include "wire/openai_provider.h"
#include "wire/sse.h"

enum td_or_form { FORM_UNKNOWN, FORM_EVENTS, FORM_WHOLE };

// A tool call as its pieces come in. Until its name is known nothing of it is handed up.
struct td_or_call {
    int64_t provider_index; // -1: the provider gives none
    uint64_t id_hash;       // 0: it gave no id
    bool started;
    struct td_buf id, arguments; // before the start
};

struct td_or_choice {
    bool seen, finished, raw_given;
    struct td_or_call *calls;
    uint32_t call_count, call_room;
};

struct td_reader {
    // What every event asks for.
    struct td_reader_spec spec;
    enum td_or_form form;
    bool started, ended, done, damaged, any_good, has_usage;
    size_t bytes;
    td_json *raw; // the chunk being read, where events shall carry it
    struct td_alike alike;
    struct td_sse sse;
    struct td_or_choice choices[TD_CHOICES_MAX];

    char id[64];
    struct td_buf body; // of a whole reply
    struct td_usage usage;
};

// ---- openai_reader.c

// Nothing is handed up any more once the reader ended.
void td_or_hand_up(struct td_reader *r, struct td_event *ev);
void td_or_end_with(struct td_reader *r, struct td_event *ev);
void td_or_fail(struct td_reader *r, enum td_err code, const char *message);
void td_or_no_memory(struct td_reader *r);
// START, once.
void td_or_start(struct td_reader *r, td_json *root);
void td_or_take_usage(struct td_reader *r, td_json *usage);

// ---- openai_tokens.c

struct td_or_tokens {
    struct td_arena arena;
    struct td_token *list;
    uint32_t count;
};
// Of `choice`, the tokens under `list` ("content", "refusal"); none where there are none. The caller finishes t->arena.
void td_or_read_tokens(struct td_or_tokens *t, td_json *choice, const char *list);

// ---- openai_calls.c

// One entry of `tool_calls`: a piece of a call in a stream, all of it where the reply is `whole`.
void td_or_take_call(struct td_reader *r, uint32_t choice, td_json *entry, bool whole);
// The form before tool calls: one function without an id.
void td_or_take_function_call(struct td_reader *r, uint32_t choice, td_json *function);
void td_or_free_calls(struct td_or_choice *c);

// ---- openai_vectors.c

// A whole reply with embeddings, up to its END or ERROR.
void td_or_take_vectors(struct td_reader *r, td_json *root);

#endif
