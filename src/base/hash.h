// SPDX-License-Identifier: Apache-2.0
// Two hashes of bytes: a fast one for tables and versions (not for secrets, not against malice), and SipHash-2-4,
// keyed, for what an attacker could choose. Pure, any thread.
#ifndef TD_BASE_HASH_H
#define TD_BASE_HASH_H

#include "base/str.h"

// FNV-1a, 64 bits, with a final mix. The same on every machine.
uint64_t td_hash64(struct td_str s);
// SipHash-2-4 (Aumasson and Bernstein, 2012) through libsodium; of 128 bytes and more, SipHash over the SipHashes of
// four lanes, every fourth word in each, under keys that differ by the lane's number (the form of Google's
// SipTreeHash). For tables and checks within a process: not the same on machines of another byte order, nor promised to
// stay.
uint64_t td_siphash(const uint8_t key[16], struct td_str s);

#endif
