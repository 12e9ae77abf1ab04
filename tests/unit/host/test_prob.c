// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <math.h>

#include "host/prob.h"

static uint64_t seed = 88172645463325252ull;

static float next(float spread) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return ((float)(seed >> 40) / 8388608.0f - 1.0f) * spread;
}

// The definitions, in double precision.
static void naive(const float *x, int n, int token, double *logprob, double *entropy) {
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int i = 0; i < n; i++)
        sum += exp(x[i] - max);
    *logprob = x[token] - max - log(sum);
    *entropy = 0;
    for (int i = 0; i < n; i++) {
        double p = exp(x[i] - max) / sum;
        *entropy -= p > 0 ? p * log(p) : 0;
    }
}

static void agrees_with_the_definition(void **state) {
    (void)state;
    static float x[50021];
    const int sizes[] = {1, 2, 15, 16, 17, 640, 50021};
    const float spreads[] = {0.001f, 1, 10, 80, 400};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t k = 0; k < sizeof spreads / sizeof *spreads; k++) {
            struct host_prob p;
            double logprob, entropy;
            for (int i = 0; i < sizes[s]; i++)
                x[i] = next(spreads[k]);
            host_prob(x, sizes[s], &p);
            for (int i = 0; i < sizes[s]; i++)
                assert_true(x[i] <= x[p.best]);
            naive(x, sizes[s], p.best, &logprob, &entropy);
            assert_true(fabs(host_prob_of(&p, x, p.best) - logprob) < 2e-4);
            assert_true(fabs(p.entropy - entropy) < 1e-3 * (1 + entropy));
        }
}

static void the_first_of_equals_is_best(void **state) {
    (void)state;
    float x[40] = {0};
    struct host_prob p;
    x[11] = x[30] = 5;
    host_prob(x, 40, &p);
    assert_int_equal(p.best, 11);
}

static void what_is_no_number_never_wins(void **state) {
    (void)state;
    float x[33];
    struct host_prob p;
    for (int i = 0; i < 33; i++)
        x[i] = NAN;
    host_prob(x, 33, &p);
    assert_int_equal(p.best, -1);
    x[20] = -3;
    host_prob(x, 33, &p);
    assert_int_equal(p.best, 20);
    x[21] = INFINITY;
    host_prob(x, 33, &p);
    assert_int_equal(p.best, -1);
}

static void the_top_comes_in_order(void **state) {
    (void)state;
    float x[100];
    int32_t top[20];
    for (int i = 0; i < 100; i++)
        x[i] = next(3);
    x[50] = NAN;
    assert_int_equal(host_prob_top(x, 100, top, 20), 20);
    for (int k = 0; k < 20; k++) {
        int above = 0;
        for (int i = 0; i < 100; i++)
            above += x[i] > x[top[k]];
        assert_int_equal(above, k);
    }
    assert_int_equal(host_prob_top(x, 5, top, 20), 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_definition),
        cmocka_unit_test(the_first_of_equals_is_best),
        cmocka_unit_test(what_is_no_number_never_wins),
        cmocka_unit_test(the_top_comes_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
