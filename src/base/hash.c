// SPDX-License-Identifier: Apache-2.0
#include "base/hash.h"

#include <sodium.h>

#include "base/wide.h"

uint64_t td_hash64(struct td_str s) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t siphash(const uint8_t key[16], const void *p, size_t n) {
    unsigned char out[crypto_shorthash_BYTES];
    uint64_t h;
    crypto_shorthash(out, p, n, key);
    memcpy(&h, out, sizeof h);
    return h;
}

// ---- four lanes: a SipHash waits for itself most of the time, so four beside each other take hardly longer than one.

#define LANES 4u
#define ROW (LANES * sizeof(uint64_t))
#define LANES_FROM 128u // bytes; below it one lane is as fast

typedef uint64_t lanes __attribute__((vector_size(ROW)));

#define ROTATE(x, bits) ((x) << (bits) | (x) >> (64 - (bits)))
#define SIP_ROUND(v)                                                                                                   \
    do {                                                                                                               \
        (v)[0] += (v)[1], (v)[2] += (v)[3];                                                                            \
        (v)[1] = ROTATE((v)[1], 13) ^ (v)[0], (v)[3] = ROTATE((v)[3], 16) ^ (v)[2];                                    \
        (v)[0] = ROTATE((v)[0], 32);                                                                                   \
        (v)[2] += (v)[1], (v)[0] += (v)[3];                                                                            \
        (v)[1] = ROTATE((v)[1], 17) ^ (v)[2], (v)[3] = ROTATE((v)[3], 21) ^ (v)[0];                                    \
        (v)[2] = ROTATE((v)[2], 32);                                                                                   \
    } while (0)

// SipHash-2-4's rounds over `rows` rows of four words, each lane under a key of its own, ended as SipHash ends but
// without its last block, which the caller's hash over the lanes has.
static TD_INLINE void hash_rows(const uint8_t key[16], const char *p, size_t rows, uint64_t out[LANES]) {
    const lanes number = {1, 2, 3, 4};
    uint64_t k0, k1;
    lanes v[4], word;
    memcpy(&k0, key, sizeof k0);
    memcpy(&k1, key + sizeof k0, sizeof k1);
    v[0] = number ^ k0 ^ 0x736f6d6570736575u;
    v[1] = number ^ k1 ^ 0x646f72616e646f6du;
    v[2] = number ^ k0 ^ 0x6c7967656e657261u;
    v[3] = number ^ k1 ^ 0x7465646279746573u;
    for (size_t i = 0; i < rows; i++) {
        memcpy(&word, p + i * ROW, sizeof word);
        v[3] ^= word;
        SIP_ROUND(v);
        SIP_ROUND(v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        SIP_ROUND(v);
    v[0] ^= v[1] ^ v[2] ^ v[3];
    memcpy(out, &v[0], ROW);
}

TD_AVX2 static void hash_rows_avx2(const uint8_t key[16], const char *p, size_t rows, uint64_t out[LANES]) {
    hash_rows(key, p, rows, out);
}

static void hash_rows_plain(const uint8_t key[16], const char *p, size_t rows, uint64_t out[LANES]) {
    hash_rows(key, p, rows, out);
}

uint64_t td_siphash(const uint8_t key[16], struct td_str s) {
    struct {
        uint64_t n, lane[LANES];
        char rest[ROW];
    } all = {.n = s.n};
    if (s.n < LANES_FROM)
        return siphash(key, s.p ? s.p : "", s.n);
    size_t rows = s.n / ROW;
    if (td_has_avx2())
        hash_rows_avx2(key, s.p, rows, all.lane);
    else
        hash_rows_plain(key, s.p, rows, all.lane);
    memcpy(all.rest, s.p + rows * ROW, s.n % ROW);
    return siphash(key, &all, sizeof all);
}
