// SPDX-License-Identifier: Apache-2.0
// The host's own products against the library's: the same bits, for any number of rows, columns, blocks and threads. In
// this program narrow.c's function has another name, so that it is seen whether the library really calls the one that
// stands in its own's place.
#include "unit.h"

#include <dlfcn.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "host/backends.h"
#include "host/narrow.h"

enum { BLOCK = 32, BLOCK_BYTES = 34 };

struct ggml_compute_params {
    int thread, threads;
};
typedef bool product(const struct ggml_compute_params *p, int64_t rows, int64_t columns, int64_t blocks, const void *a,
                     int64_t a_step, const void *b, int64_t b_step, void *c, int64_t c_step, int a_type, int b_type,
                     int c_type);
product host_product, llamafile_sgemm;
static atomic_uint calls, taken;

__attribute__((visibility("default"))) bool llamafile_sgemm(const struct ggml_compute_params *p, int64_t rows,
                                                            int64_t columns, int64_t blocks, const void *a,
                                                            int64_t a_step, const void *b, int64_t b_step, void *c,
                                                            int64_t c_step, int a_type, int b_type, int c_type) {
    bool took = host_product(p, rows, columns, blocks, a, a_step, b, b_step, c, c_step, a_type, b_type, c_type);
    atomic_fetch_add(&calls, 1);
    atomic_fetch_add(&taken, took);
    return took;
}

static uint32_t random_bits(void) {
    static uint64_t state = 7;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static float random_float(void) {
    return (float)(int32_t)random_bits() / 2147483648.0f;
}

// Rows of blocks with all values that a byte may have, and scales of many sizes.
static unsigned char *random_blocks(int64_t rows, int64_t blocks) {
    unsigned char *p = test_malloc((size_t)(rows * blocks * BLOCK_BYTES));
    for (int64_t i = 0; i < rows * blocks; i++) {
        ggml_fp16_t scale = ggml_fp32_to_fp16(random_float() * (i % 7 ? 0.01f : 8.0f));
        memcpy(p + i * BLOCK_BYTES, &scale, sizeof scale);
        for (int k = 0; k < BLOCK; k++)
            p[i * BLOCK_BYTES + 2 + k] = (unsigned char)(i % 11 ? random_bits() >> 24 : i % 2 ? 128 : 127);
    }
    return p;
}

static void *in_library(const char *name) {
    Dl_info where;
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    assert_true(dladdr(ggml_backend_dev_backend_reg(device), &where) != 0);
    void *file = dlopen(where.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    assert_non_null(file);
    return dlsym(file, name);
}

// What the library makes of it: one column by its dot product, more by its tiles.
static void by_library(int64_t rows, int64_t columns, int64_t blocks, const void *a, const void *b, float *c) {
    product *tiles;
    *(void **)&tiles = in_library("llamafile_sgemm");
    assert_non_null(tiles);
    struct ggml_compute_params p = {0, 1};
    if (tiles(&p, rows, columns, blocks, a, blocks, b, blocks, c, rows, GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, GGML_TYPE_F32))
        return;
    assert_int_equal(columns, 1);
    const struct ggml_type_traits_cpu *(*traits)(enum ggml_type);
    *(void **)&traits = in_library("ggml_get_type_traits_cpu");
    assert_non_null(traits);
    for (int64_t i = 0; i < rows; i++)
        traits(GGML_TYPE_Q8_0)
            ->vec_dot((int)blocks * BLOCK, &c[i], 0, (const char *)a + i * blocks * BLOCK_BYTES, 0, b, 0, 1);
}

static void every_shape_gives_the_same_bits(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {3, 2}, {8, 1}, {17, 16}, {64, 5}, {100, 33}, {9, 1024}, {12, 2049}};
    if (!host_narrow_use(true))
        skip(); // not with these libraries, or not on this processor
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int64_t columns = 1; columns <= 66; columns += columns < 18 ? 1 : 23) {
            int64_t rows = shapes[s][0], blocks = shapes[s][1], count = rows * columns;
            unsigned char *a = random_blocks(rows, blocks), *b = random_blocks(columns, blocks);
            float *theirs = test_malloc((size_t)count * sizeof *theirs),
                  *ours = test_malloc((size_t)count * sizeof *ours);
            by_library(rows, columns, blocks, a, b, theirs);
            for (int threads = 1; threads <= 3; threads++) {
                bool took = true;
                memset(ours, 0x7f, (size_t)count * sizeof *ours);
                for (int i = 0; i < threads; i++) {
                    struct ggml_compute_params p = {i, threads};
                    took &= host_product(&p, rows, columns, blocks, a, blocks, b, blocks, ours, rows, GGML_TYPE_Q8_0,
                                         GGML_TYPE_Q8_0, GGML_TYPE_F32);
                }
                if (took)
                    assert_memory_equal(ours, theirs, (size_t)count * sizeof *ours);
                else
                    assert_true(columns == 1 && blocks > 2048); // the library's own way
            }
            test_free(a), test_free(b), test_free(theirs), test_free(ours);
        }
}

// Steps between rows and columns need not be their lengths, and what lies between stays as it is.
static void gaps_are_left_alone(void **state) {
    (void)state;
    enum { ROWS = 10, COLUMNS = 5, BLOCKS = 3, GAP = 2 };
    if (!host_narrow_use(true))
        skip();
    unsigned char *a = random_blocks(ROWS, BLOCKS + GAP), *b = random_blocks(COLUMNS, BLOCKS + GAP);
    float c[COLUMNS][ROWS + GAP], d[COLUMNS][ROWS + GAP];
    product *tiles;
    *(void **)&tiles = in_library("llamafile_sgemm");
    memset(c, 0x55, sizeof c);
    memset(d, 0x55, sizeof d);
    struct ggml_compute_params p = {0, 1};
    assert_true(host_product(&p, ROWS, COLUMNS, BLOCKS, a, BLOCKS + GAP, b, BLOCKS + GAP, c, ROWS + GAP, GGML_TYPE_Q8_0,
                             GGML_TYPE_Q8_0, GGML_TYPE_F32));
    assert_true(tiles(&p, ROWS, COLUMNS, BLOCKS, a, BLOCKS + GAP, b, BLOCKS + GAP, d, ROWS + GAP, GGML_TYPE_Q8_0,
                      GGML_TYPE_Q8_0, GGML_TYPE_F32));
    assert_memory_equal(c, d, sizeof c);
    test_free(a), test_free(b);
}

// Through the library's own graph, as models are computed.
static void the_library_calls_it(void **state) {
    (void)state;
    enum { ROWS = 40, COLUMNS = 3, BLOCKS = 4 };
    if (!host_narrow_use(true))
        skip();
    ggml_backend_t cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    struct ggml_init_params p = {.mem_size = 1 << 20, .no_alloc = true};
    struct ggml_context *context = ggml_init(p);
    struct ggml_tensor *a = ggml_new_tensor_2d(context, GGML_TYPE_Q8_0, (int64_t)BLOCKS * BLOCK, ROWS);
    struct ggml_tensor *b = ggml_new_tensor_2d(context, GGML_TYPE_F32, (int64_t)BLOCKS * BLOCK, COLUMNS);
    struct ggml_tensor *c = ggml_mul_mat(context, a, b);
    struct ggml_cgraph *graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, c);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(context, cpu);
    assert_non_null(buffer);
    unsigned char *weights = random_blocks(ROWS, BLOCKS);
    float columns[COLUMNS * BLOCKS * BLOCK], got[COLUMNS * ROWS];
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        columns[i] = random_float();
    ggml_backend_tensor_set(a, weights, 0, ggml_nbytes(a));
    ggml_backend_tensor_set(b, columns, 0, sizeof columns);
    atomic_store(&taken, 0);
    assert_int_equal(ggml_backend_graph_compute(cpu, graph), GGML_STATUS_SUCCESS);
    assert_true(atomic_load(&taken) > 0);
    ggml_backend_tensor_get(c, got, 0, sizeof got);
    for (int j = 0; j < COLUMNS; j++)
        for (int i = 0; i < ROWS; i++) {
            double sum = 0, size = 0;
            for (int k = 0; k < BLOCKS * BLOCK; k++) {
                const unsigned char *block = weights + (i * BLOCKS + k / BLOCK) * BLOCK_BYTES;
                ggml_fp16_t scale;
                memcpy(&scale, block, sizeof scale);
                double w = (double)ggml_fp16_to_fp32(scale) * (signed char)block[2 + k % BLOCK];
                sum += w * (double)columns[j * BLOCKS * BLOCK + k];
                size += w < 0 ? -w : w;
            }
            double off = sum - (double)got[j * ROWS + i];
            assert_true((off < 0 ? -off : off) <= 0.005 * size + 1e-6); // columns are rounded to a 127th
        }
    test_free(weights);
    ggml_backend_buffer_free(buffer);
    ggml_free(context);
    ggml_backend_free(cpu);
}

// Before it is told that it may, and when it is told that it shall not, nothing is taken.
static void nothing_is_taken_unasked(void **state) {
    float c[1];
    if (*state)
        assert_false(host_narrow_use(false));
    struct ggml_compute_params p = {0, 1};
    unsigned char *a = random_blocks(1, 1);
    assert_false(host_product(&p, 1, 1, 1, a, 1, a, 1, c, 1, GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, GGML_TYPE_F32));
    test_free(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_taken_unasked),
        cmocka_unit_test(every_shape_gives_the_same_bits),
        cmocka_unit_test(gaps_are_left_alone),
        cmocka_unit_test(the_library_calls_it),
        cmocka_unit_test_prestate(nothing_is_taken_unasked, &calls),
    };
    host_backends_load();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
