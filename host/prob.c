// SPDX-License-Identifier: Apache-2.0
#include "host/prob.h"

#include <math.h>
#include <string.h>

#define LANES 16

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&               \
    !defined(__SANITIZE_THREAD__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

// exp for x <= 0: 2^k times a polynomial on [-ln2/2, ln2/2] (the Taylor series to x^6: below 2e-7 there).
static inline float exp_small(float x) {
    x = x > -87.0f ? x : -87.0f; // also where x is no number
    float k = x * 1.44269504f;
    int32_t i = (int32_t)(k - 0.5f);
    float r = x - (float)i * 0.693359375f + (float)i * 2.12194440e-4f;
    float p = 1.0f + r * (1.0f + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
    int32_t bits = (i + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

FOR_EACH_CPU static float largest(const float *x, int32_t n) {
    float m[LANES];
    for (int j = 0; j < LANES; j++)
        m[j] = -INFINITY;
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            m[j] = x[i + j] > m[j] ? x[i + j] : m[j];
    for (; i < n; i++)
        m[0] = x[i] > m[0] ? x[i] : m[0];
    for (int j = 1; j < LANES; j++)
        m[0] = m[j] > m[0] ? m[j] : m[0];
    return m[0];
}

FOR_EACH_CPU static void sums(const float *x, int32_t n, float max, float *sum, float *weighted) {
    float s[LANES] = {0}, w[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float d = x[i + j] - max;
            float e = exp_small(d);
            s[j] += e;
            w[j] += e * (d > -87.0f ? d : -87.0f);
        }
    for (; i < n; i++) {
        float d = x[i] - max;
        float e = exp_small(d);
        s[0] += e;
        w[0] += e * (d > -87.0f ? d : -87.0f);
    }
    for (int j = 1; j < LANES; j++) {
        s[0] += s[j];
        w[0] += w[j];
    }
    *sum = s[0];
    *weighted = w[0];
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
