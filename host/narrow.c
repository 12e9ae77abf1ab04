// SPDX-License-Identifier: Apache-2.0
// Products of 8-bit weights (GGML_TYPE_Q8_0) with a few columns: what each step of decoding is made of. The library
// calls `llamafile_sgemm` for them; this program brings one in its library's place that gives the same bits in half of
// the time or less, on processors with AVX2 and nothing wider. The library goes through four rows of weights at once,
// which the processor does not fetch ahead; here a row passes all columns while what follows is fetched, and the
// columns' scales are read once. Everything else, and every other processor, goes on to the library.
//
// The function is internal to libggml: its arguments are those of the version that tools/setup fetches, so meson.build
// asks for it (HOST_NARROW) only with that one, and test_narrow.c holds its results against the library's, bit by bit.
#include "host/narrow.h"

#if defined(HOST_NARROW) && defined(__x86_64__)
#include <cpuid.h>
#include <dlfcn.h>
#include <ggml-backend.h>
#include <immintrin.h>
#include <stdint.h>

struct ggml_compute_params { // its head
    int thread, threads;
};

typedef bool product(const struct ggml_compute_params *p, int64_t rows, int64_t columns, int64_t blocks, const void *a,
                     int64_t a_step, const void *b, int64_t b_step, void *c, int64_t c_step, int a_type, int b_type,
                     int c_type);

static product *library; // both are set before anything is computed
static bool is_of_use;

#define FOR_AVX2 __attribute__((target("avx2,fma,f16c")))
#define TILE FOR_AVX2 static inline __attribute__((always_inline))
#define COLUMNS_MAX 64   // beyond it the library's tiles do as well
#define TOGETHER 8       // columns whose sums stay in registers
#define SCALES_MAX 16384 // 64 KiB on the stack
#define STRIP 8          // rows that stay in the cache while all columns pass
#define BLOCKS_MANY 512  // of a row; 16 KiB of scales
#define AHEAD 4096       // bytes fetched before they are needed

struct block { // Q8_0: half-precision scale, 32 signed bytes
    uint16_t scale;
    int8_t q[32];
} __attribute__((packed));

static bool has(unsigned leaf, unsigned part, int reg, unsigned bit) {
    unsigned r[4] = {0};
    return __get_cpuid_count(leaf, part, &r[0], &r[1], &r[2], &r[3]) && (r[reg] >> bit & 1);
}

// AVX-VNNI and AVX-512 have one instruction for what takes three here, and the library uses it.
static bool fits_processor(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && !__builtin_cpu_supports("avx512f") &&
           has(1, 0, 2, 29) /* f16c */ && !has(7, 1, 0, 4) /* AVX-VNNI */;
}

TILE float sum(__m256 v) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

// One row with n columns; the order of all sums is the library's.
TILE void row(const int n, int64_t blocks, const struct block *a, const struct block *b, int64_t b_step,
              const float *scales, float *c, int64_t c_step) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 sums[TOGETHER];
#pragma GCC unroll 8
    for (int j = 0; j < n; j++)
        sums[j] = _mm256_setzero_ps();
    for (int64_t i = 0; i < blocks; i++) {
        _mm_prefetch((const char *)&a[i] + AHEAD, _MM_HINT_T0);
        __m256i w = _mm256_loadu_si256((const void *)a[i].q), size = _mm256_sign_epi8(w, w);
        __m256 scale = _mm256_set1_ps(_cvtsh_ss(a[i].scale));
#pragma GCC unroll 8
        for (int j = 0; j < n; j++) {
            __m256i v = _mm256_sign_epi8(_mm256_loadu_si256((const void *)b[j * b_step + i].q), w);
            __m256i dot = _mm256_madd_epi16(_mm256_maddubs_epi16(size, v), ones);
            __m256 both = _mm256_mul_ps(scale, _mm256_broadcast_ss(&scales[i * TOGETHER + j]));
            sums[j] = _mm256_fmadd_ps(both, _mm256_cvtepi32_ps(dot), sums[j]);
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < n; j++)
        c[j * c_step] = sum(sums[j]);
}

// The same, the row's scales first multiplied with those of all columns: three columns and more do not wait for memory.
TILE void row_many(const int n, int64_t blocks, const struct block *a, const struct block *b, int64_t b_step,
                   const float *scales, float *c, int64_t c_step) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 sums[TOGETHER];
    float both[BLOCKS_MANY * TOGETHER] __attribute__((aligned(32)));
#pragma GCC unroll 8
    for (int j = 0; j < n; j++)
        sums[j] = _mm256_setzero_ps();
    for (int64_t i = 0; i < blocks; i++) {
        _mm_prefetch((const char *)&a[i] + AHEAD, _MM_HINT_T0);
        __m256 scale = _mm256_set1_ps(_cvtsh_ss(a[i].scale));
        _mm256_store_ps(&both[i * TOGETHER], _mm256_mul_ps(scale, _mm256_loadu_ps(&scales[i * TOGETHER])));
    }
    for (int64_t i = 0; i < blocks; i++) {
        __m256i w = _mm256_loadu_si256((const void *)a[i].q), size = _mm256_sign_epi8(w, w);
#pragma GCC unroll 8
        for (int j = 0; j < n; j++) {
            __m256i v = _mm256_sign_epi8(_mm256_loadu_si256((const void *)b[j * b_step + i].q), w);
            __m256i dot = _mm256_madd_epi16(_mm256_maddubs_epi16(size, v), ones);
            sums[j] = _mm256_fmadd_ps(_mm256_broadcast_ss(&both[i * TOGETHER + j]), _mm256_cvtepi32_ps(dot), sums[j]);
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < n; j++)
        c[j * c_step] = sum(sums[j]);
}

#define ROWS(n)                                                                                                        \
    case n:                                                                                                            \
        for (int64_t i = from; i < to; i++)                                                                            \
            if (n > 2 && blocks <= BLOCKS_MANY)                                                                        \
                row_many(n, blocks, a + i * a_step, b, b_step, scales, c + i, c_step);                                 \
            else                                                                                                       \
                row(n, blocks, a + i * a_step, b, b_step, scales, c + i, c_step);                                      \
        break

FOR_AVX2 static void rows(int64_t n, int64_t from, int64_t to, int64_t blocks, const struct block *a, int64_t a_step,
                          const struct block *b, int64_t b_step, const float *scales, float *c, int64_t c_step) {
    switch (n) {
        ROWS(1);
        ROWS(2);
        ROWS(3);
        ROWS(4);
        ROWS(5);
        ROWS(6);
        ROWS(7);
        ROWS(8);
    }
}

FOR_AVX2 static void multiply(const struct ggml_compute_params *p, int64_t row_count, int64_t columns, int64_t blocks,
                              const struct block *a, int64_t a_step, const struct block *b, int64_t b_step, float *c,
                              int64_t c_step) {
    float scales[SCALES_MAX]; // of eight columns after the other, by blocks
    int64_t share = (row_count + p->threads - 1) / p->threads;
    share = (share + STRIP - 1) / STRIP * STRIP; // threads do not write into one line of the cache
    int64_t from = share * p->thread, end = from + share < row_count ? from + share : row_count;
    for (int64_t j = 0; j < columns && from < end; j++)
        for (int64_t i = 0; i < blocks; i++)
            scales[(j / TOGETHER * blocks + i) * TOGETHER + j % TOGETHER] = _cvtsh_ss(b[j * b_step + i].scale);
    for (int64_t j = columns; j % TOGETHER && from < end; j++) // computed with, and left
        for (int64_t i = 0; i < blocks; i++)
            scales[(j / TOGETHER * blocks + i) * TOGETHER + j % TOGETHER] = 0;
    for (; from < end; from += STRIP) {
        int64_t to = from + STRIP < end ? from + STRIP : end;
        for (int64_t j = 0; j < columns; j += TOGETHER)
            rows(columns - j < TOGETHER ? columns - j : TOGETHER, from, to, blocks, a, a_step, b + j * b_step, b_step,
                 scales + j * blocks, c + j * c_step, c_step);
    }
}

// The library that the processor's back end lies in.
static product *find_library(void) {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    Dl_info where;
    product *found = NULL;
    if (!device || !dladdr(ggml_backend_dev_backend_reg(device), &where))
        return NULL;
    void *file = dlopen(where.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    if (file)
        *(void **)&found = dlsym(file, "llamafile_sgemm");
    return found;
}

bool host_narrow_use(bool wanted) {
    library = find_library();
    is_of_use = wanted && library && fits_processor();
    return is_of_use;
}

__attribute__((visibility("default"))) product llamafile_sgemm;
bool llamafile_sgemm(const struct ggml_compute_params *p, int64_t row_count, int64_t columns, int64_t blocks,
                     const void *a, int64_t a_step, const void *b, int64_t b_step, void *c, int64_t c_step, int a_type,
                     int b_type, int c_type) {
    if (is_of_use && columns <= COLUMNS_MAX && (columns + TOGETHER - 1) / TOGETHER * TOGETHER * blocks <= SCALES_MAX &&
        a_type == GGML_TYPE_Q8_0 && b_type == GGML_TYPE_Q8_0 && c_type == GGML_TYPE_F32) {
        multiply(p, row_count, columns, blocks, a, a_step, b, b_step, c, c_step);
        return true;
    }
    return library && library(p, row_count, columns, blocks, a, a_step, b, b_step, c, c_step, a_type, b_type, c_type);
}
#else
bool host_narrow_use(bool wanted) {
    (void)wanted;
    return false;
}
#endif
