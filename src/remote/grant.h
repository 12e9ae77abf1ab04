// SPDX-License-Identifier: Apache-2.0
// The proof that certain bytes may leave this machine for a certain place. Issued once the policy check has passed,
// verified and used up by remote/ when it sends, refused for anything else: other bytes, another target or address,
// another kind, a second use, an older policy. A grant lives in the arena it was issued into; its issuer keeps that
// arena until the send was started. One thread at a time. Everything here fails closed: when in doubt, TD_ERR_GRANT.
#ifndef TD_REMOTE_GRANT_H
#define TD_REMOTE_GRANT_H

#include "target/target.h"

enum td_grant_kind {
    TD_GRANT_INFERENCE,  // a request to a model
    TD_GRANT_WEBHOOK,    // a later answer, delivered to the operator's own address
    TD_GRANT_TELEMETRY,  // counters and spans, never text
    TD_GRANT_MODEL_PULL, // fetching a model file or a catalogue
    TD_GRANT_PROBE,      // is the target there?
    TD_GRANT_SYNC,       // between Tandems
    TD_GRANT_KIND_COUNT
};

#define TD_GRANT_MAC_BYTES 32

// The evidence: what the policy check of this very attempt found. Fill every field from the check's own result;
// zero-initialised it allows nothing.
struct td_egress_check {
    bool allowed;             // the check's verdict for this target, with every constraint
    enum td_class data_class; // effective class of what is sent; UNKNOWN is refused
    uint32_t labels;          // effective label bits of what is sent
    uint64_t policy_version;  // the policy in force that allowed it; 0 is refused
};

// What a grant is for. `target` for inference and probes; `url` for the rest (exactly one of the two).
struct td_grant_terms {
    enum td_grant_kind kind;
    const struct td_target *target;
    struct td_str url;
    // The ledger's receipt key: the grant's MAC then serves as the receipt's. NULL: a key of this process.
    const unsigned char *receipt_key; // TD_GRANT_MAC_BYTES bytes
};

struct td_grant;

// Issues a grant for exactly `bytes` (may be empty: a probe, a download). Beyond `check.allowed` it compares class and
// labels with the target's clearance itself, so that a mistake above does not become an egress. TD_ERR_GRANT when the
// evidence does not carry it; TD_ERR_NOMEM.
enum td_err td_grant_issue(struct td_arena *arena, const struct td_egress_check *check,
                           const struct td_grant_terms *terms, struct td_str bytes, struct td_grant **out,
                           struct td_error *e) TD_MUST_USE;

// The keyed MAC over kind, place, policy version and bytes, for the egress receipt.
void td_grant_mac(const struct td_grant *grant, unsigned char out[TD_GRANT_MAC_BYTES]);
uint64_t td_grant_policy_version(const struct td_grant *grant);

// Uses the grant up and says whether it covers this send; only remote/ calls it. `policy_version_min` is the policy in
// force (0: not known). A refused grant is used up too.
enum td_err td_grant_consume(struct td_grant *grant, const struct td_grant_terms *terms, struct td_str bytes,
                             uint64_t policy_version_min, struct td_error *e) TD_MUST_USE;

#endif
