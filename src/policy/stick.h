// SPDX-License-Identifier: Apache-2.0
// Class and labels stick to a conversation: what one turn was found to hold, later turns keep. Keys are keyed hashes
// (SipHash-2-4 under a secret of the process) of tenant and explicit id, or of tenant and message prefix, so that
// nothing of a conversation crosses tenants and the table holds no text. Bounded: the conversation unused for longest
// is forgotten first (its text is still scanned with each request). Thread-safe: one lock, held for a few probes.
#ifndef TD_POLICY_STICK_H
#define TD_POLICY_STICK_H

#include "policy/facts.h"

#define TD_STICK_ENTRIES_MAX 65536u // 32 bytes each
#define TD_STICK_PREFIXES_MAX 64u   // of one request, the longest ones: a conversation grows by a few messages a turn

struct td_stick;
struct td_stick_keys { // of one request, longest prefix first; explicit id alone where there is one
    uint64_t keys[TD_STICK_PREFIXES_MAX];
    uint32_t count;
};

// NULL without memory. `secret`: 16 random bytes.
struct td_stick *td_stick_create(uint32_t entries_max, const uint8_t secret[16]);
void td_stick_destroy(struct td_stick *stick);
void td_stick_keys(const struct td_stick *stick, struct td_str tenant, const struct td_request *request,
                   struct td_stick_keys *out);
// The strictest class and all labels of what was remembered under any of the keys; UNKNOWN and 0 where nothing was.
// True where the conversation is known.
bool td_stick_find(struct td_stick *stick, const struct td_stick_keys *keys, enum td_class *data_class,
                   uint32_t *labels);
// Remembers under the first key (the whole request, or the explicit id); only ever raises. Call when a request is
// accepted, before any attempt.
void td_stick_raise(struct td_stick *stick, const struct td_stick_keys *keys, enum td_class data_class,
                    uint32_t labels);

#endif
