// SPDX-License-Identifier: Apache-2.0
// Conversations go on from the answer that was accepted. A client that names its conversation (`tandem.conversation`)
// sends back the answer it was given; where another one took its place (the later one, accepted by rule or by a person,
// or the first one again, when a person overruled that), that one stands in the history that models see. What was
// replaced by what is kept in the outbox; this table holds it in memory, by keyed hash of tenant, conversation and old
// text. Bounded: the oldest are forgotten first, and then the client's own text stands. Thread-safe: one lock.
#ifndef TD_RUNTIME_HEADS_H
#define TD_RUNTIME_HEADS_H

#include "base/err.h"
#include "store/outbox.h"

#define TD_HEADS_MAX 1024u            // answers
#define TD_HEADS_BYTES_MAX (8u << 20) // of their texts together

struct td_heads;
struct td_arena;

// Takes what the outbox still knows. NULL without memory.
struct td_heads *td_heads_create(struct td_store *store, const unsigned char secret[16]);
void td_heads_destroy(struct td_heads *heads);
// `entry` with its texts: from now on the accepted answer stands for the other one.
void td_heads_put(struct td_heads *heads, const struct td_outbox_entry *entry, enum td_accepted accepted);
// Puts accepted answers into the history. `conversation` as the outbox has it. TD_ERR_NOMEM.
enum td_err td_heads_apply(struct td_heads *heads, struct td_arena *arena, struct td_str tenant,
                           struct td_str conversation, struct td_request *request) TD_MUST_USE;

#endif
