// SPDX-License-Identifier: Apache-2.0
// Requests that a client may send again: those with an Idempotency-Key (draft-ietf-httpapi-idempotency-key-header). A
// key belongs to its tenant and to the bytes it first came with: other bytes under it are refused, and so is the same
// request while the first is being answered. No answers are kept here: one that is over is asked again, under a key
// that a provider knows from the first time. Bounded, in memory, a day long; the outbox holds its keys itself.
// Thread-safe: one lock.
#ifndef TD_RUNTIME_REPEAT_H
#define TD_RUNTIME_REPEAT_H

#include "base/err.h"
#include "base/str.h"

#define TD_REPEAT_KEY_BYTES_MAX 255u // of a client's key
#define TD_REPEAT_KEYS_MAX 4096u     // remembered; the oldest of those that share a place is forgotten first
#define TD_REPEAT_KEEP_S 86400u

#define TD_REPEAT_SENT_BYTES 64u

struct td_repeats;

// One request with a key: what stands for the key and its tenant, for the bytes, and what the outbox calls it. Neither
// the key nor the request can be read from it, and with the same data directory it is the same after a restart.
struct td_repeat {
    uint64_t key[2], body;
    char name[TD_REPEAT_SENT_BYTES]; // td_outbox_entry.idempotency_key
};

// NULL without memory. `secret` of the data directory.
struct td_repeats *td_repeats_create(const unsigned char secret[32]);
void td_repeats_destroy(struct td_repeats *r);
// 1 to TD_REPEAT_KEY_BYTES_MAX visible ASCII characters.
bool td_repeat_is_key(struct td_str key);
uint64_t td_repeat_body(const struct td_repeats *r, struct td_str path, struct td_str body);
void td_repeat_make(const struct td_repeats *r, struct td_str tenant, struct td_str key, uint64_t body,
                    struct td_repeat *out);
// Of several prompts in one request, that of a further one (`part` from 1).
void td_repeat_part(const struct td_repeats *r, const struct td_repeat *first, uint32_t part, struct td_repeat *out);
// The request begins. TD_ERR_KEY_REUSED: the key came with other bytes. TD_ERR_IN_PROGRESS: the first is still being
// answered. On TD_OK the second must follow.
enum td_err td_repeats_begin(struct td_repeats *r, const struct td_repeat *repeat, uint64_t now_ns,
                             struct td_error *e) TD_MUST_USE;
void td_repeats_end(struct td_repeats *r, const struct td_repeat *repeat);
// What a provider is told: the same for the same bytes to the same target, and for nothing else. Two tenants, who may
// use one account there under the same key, do not get each other's answers.
void td_repeat_sent(const struct td_repeats *r, const struct td_repeat *repeat, struct td_str target,
                    struct td_str bytes, char out[TD_REPEAT_SENT_BYTES]);

#endif
