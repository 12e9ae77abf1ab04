// SPDX-License-Identifier: Apache-2.0
// Loops over many bytes at once. They are written with the compiler's own vectors, which it turns into whatever the
// machine has, and compiled twice where that differs: once for every processor of the family, once for those with
// AVX2, chosen when called. Only for loops over text; what takes a handful of bytes gains nothing. Any thread.
//
//   static TD_INLINE uint32_t count(const char *p, size_t n) { … }        // the loop
//   TD_AVX2 static uint32_t count_avx2(const char *p, size_t n) { return count(p, n); }
//   … td_has_avx2() ? count_avx2(p, n) : count(p, n) …
#ifndef TD_BASE_WIDE_H
#define TD_BASE_WIDE_H

#include <stdbool.h>

#define TD_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define TD_AVX2 __attribute__((target("avx2")))
static inline bool td_has_avx2(void) {
    return __builtin_cpu_supports("avx2") != 0;
}
#else
#define TD_AVX2
static inline bool td_has_avx2(void) {
    return false;
}
#endif

#endif
