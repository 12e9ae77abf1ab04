// SPDX-License-Identifier: Apache-2.0
#include "base/hash.h"

#include <sodium.h>

uint64_t td_hash64(struct td_str s) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

uint64_t td_siphash(const uint8_t key[16], struct td_str s) {
    unsigned char out[crypto_shorthash_BYTES];
    uint64_t h;
    crypto_shorthash(out, (const unsigned char *)(s.p ? s.p : ""), s.n, key);
    memcpy(&h, out, sizeof h);
    return h;
}
