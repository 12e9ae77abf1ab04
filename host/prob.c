// SPDX-License-Identifier: Apache-2.0
#include "host/prob.h"

#include <math.h>
#include <string.h>

#define LANES 8

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&               \
    !defined(__SANITIZE_THREAD__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

// Eight at once, as vectors that GCC and Clang both know: of loops over arrays of eight GCC makes scalar code.
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t whole __attribute__((vector_size(LANES * sizeof(int32_t))));

#define ALL(x) ((lanes){0} + (x))

FOR_EACH_CPU static float largest(const float *x, int32_t n) {
    lanes m = ALL(-INFINITY), v;
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        memcpy(&v, x + i, sizeof v);
        whole more = v > m;
        m = (lanes)((more & (whole)v) | (~more & (whole)m));
    }
    for (; i < n; i++)
        m[0] = x[i] > m[0] ? x[i] : m[0];
    for (int j = 1; j < LANES; j++)
        m[0] = m[j] > m[0] ? m[j] : m[0];
    return m[0];
}

// The sums of e and of d * e, with e = exp(d) and d = x - max, not below -87, also where x is no number: 2^k times a
// polynomial on [-ln2/2, ln2/2] (the Taylor series to d^6: below 2e-7 there).
FOR_EACH_CPU static void sums(const float *x, int32_t n, float max, float *sum, float *weighted) {
    const lanes least = ALL(-87.0f);
    lanes s = {0}, w = {0};
    for (int32_t i = 0; i < n; i += LANES) {
        lanes v = ALL(-INFINITY); // after the end: nothing
        if (n - i >= LANES)
            memcpy(&v, x + i, sizeof v);
        else
            memcpy(&v, x + i, (size_t)(n - i) * sizeof *x);
        lanes d = v - max;
        whole above = d > least;
        d = (lanes)((above & (whole)d) | (~above & (whole)least));
        whole k = __builtin_convertvector(d * 1.44269504f - 0.5f, whole);
        lanes turns = __builtin_convertvector(k, lanes), r = d - turns * 0.693359375f + turns * 2.12194440e-4f;
        lanes p =
            1.0f + r * (1.0f + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
        lanes e = p * (lanes)((k + 127) << 23);
        s += e;
        w += e * d;
    }
    *sum = *weighted = 0;
    for (int j = 0; j < LANES; j++) {
        *sum += s[j];
        *weighted += w[j];
    }
}

void host_prob(const float *logits, int32_t count, struct host_prob *out) {
    *out = (struct host_prob){.best = -1, .max = largest(logits, count)};
    for (int32_t i = 0; i < count; i++)
        if (logits[i] == out->max) {
            out->best = i;
            break;
        }
    if (!isfinite(out->max))
        out->best = -1;
    if (out->best < 0)
        return;
    float sum, weighted;
    sums(logits, count, out->max, &sum, &weighted);
    out->log_sum = logf(sum);
    out->entropy = out->log_sum - weighted / sum;
}

int32_t host_prob_top(const float *logits, int32_t count, int32_t *out, int32_t want) {
    int32_t have = 0;
    for (int32_t i = 0; i < count; i++) {
        if (!isfinite(logits[i]) || (have == want && logits[i] <= logits[out[have - 1]]))
            continue;
        int32_t at = have < want ? have++ : have - 1;
        while (at > 0 && logits[out[at - 1]] < logits[i]) {
            out[at] = out[at - 1];
            at--;
        }
        out[at] = i;
    }
    return have;
}
