// SPDX-License-Identifier: Apache-2.0
// What the logits say of a token: its probability, the entropy of the whole distribution, the likeliest alternatives.
// Fast enough to be done for every token (vectorised; exp to about 2e-7). Pure, any thread.
#ifndef TD_HOST_PROB_H
#define TD_HOST_PROB_H

#include <stdint.h>

struct host_prob {
    int32_t best;  // index of the largest logit, the first of equals; -1 where no logit is a number
    float max;     // that logit
    float log_sum; // log of the sum of exp(logit - max)
    float entropy; // nats
};
void host_prob(const float *logits, int32_t count, struct host_prob *out);
static inline float host_prob_of(const struct host_prob *p, const float *logits, int32_t token) {
    return logits[token] - p->max - p->log_sum;
}
// The `want` largest, in order; returns how many there are.
int32_t host_prob_top(const float *logits, int32_t count, int32_t *out, int32_t want);

#endif
