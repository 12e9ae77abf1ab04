// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <sodium.h>

#include "base/hash.h"

static const uint8_t key[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static uint64_t rotate(uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

static void sip_round(uint64_t v[4]) {
    v[0] += v[1], v[1] = rotate(v[1], 13) ^ v[0], v[0] = rotate(v[0], 32);
    v[2] += v[3], v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotate(v[1], 17) ^ v[2], v[2] = rotate(v[2], 32);
}

// One lane as the paper writes SipHash, a word at a time.
static uint64_t lane(uint64_t number, const char *p, size_t rows) {
    uint64_t k[2], v[4];
    memcpy(k, key, sizeof k);
    k[0] ^= number, k[1] ^= number;
    v[0] = k[0] ^ 0x736f6d6570736575u, v[1] = k[1] ^ 0x646f72616e646f6du;
    v[2] = k[0] ^ 0x6c7967656e657261u, v[3] = k[1] ^ 0x7465646279746573u;
    for (size_t i = 0; i < rows; i++) {
        uint64_t word;
        memcpy(&word, p + i * 32 + (number - 1) * 8, sizeof word);
        v[3] ^= word;
        sip_round(v), sip_round(v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t plain(const void *p, size_t n) {
    uint8_t out[8];
    uint64_t h;
    crypto_shorthash(out, p, n, key);
    memcpy(&h, out, sizeof h);
    return h;
}

static void siphash_is_what_its_paper_says(void **state) {
    char text[64];
    (void)state;
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)i;
    assert_true(td_siphash(key, td_str_n(text, 0)) == 0x726fdb47dd0e0e31u); // appendix A, vectors.h
    assert_true(td_siphash(key, td_str_n(text, 15)) == 0xa129ca6149be45e5u);
    assert_true(td_siphash(key, td_str_n(text, 63)) == 0x958a324ceb064572u);
    assert_true(td_siphash(key, TD_STR_NONE) == td_siphash(key, td_str_n(text, 0)));
}

static void long_texts_are_hashed_in_four_lanes(void **state) {
    char text[1024 + 7], *at = text + 7; // not aligned
    (void)state;
    for (size_t i = 0; i < 1024; i++)
        at[i] = (char)(i * 37 + i / 256);
    for (size_t n = 100; n < 1024; n += 1 + n / 97) {
        struct {
            uint64_t n, lanes[4];
            char rest[32];
        } all = {.n = n};
        for (uint64_t k = 0; k < 4; k++)
            all.lanes[k] = lane(k + 1, at, n / 32);
        memcpy(all.rest, at + n / 32 * 32, n % 32);
        assert_true(td_siphash(key, td_str_n(at, n)) == (n < 128 ? plain(at, n) : plain(&all, sizeof all)));
    }
}

static void every_byte_counts_and_so_does_the_length(void **state) {
    char text[300] = {0};
    (void)state;
    uint64_t zeros = td_siphash(key, td_str_n(text, 299));
    assert_true(zeros != td_siphash(key, td_str_n(text, 300)));
    for (size_t i = 0; i < 299; i++) {
        text[i] = 1;
        assert_true(zeros != td_siphash(key, td_str_n(text, 299)));
        text[i] = 0;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(siphash_is_what_its_paper_says),
        cmocka_unit_test(long_texts_are_hashed_in_four_lanes),
        cmocka_unit_test(every_byte_counts_and_so_does_the_length),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
