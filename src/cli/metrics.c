// SPDX-License-Identifier: Apache-2.0
#include "cli/metrics.h"

#include <math.h>
#include <stdlib.h>

static int by_score(const void *a, const void *b) {
    double x = ((const struct td_scored *)a)->score, y = ((const struct td_scored *)b)->score;
    return (x > y) - (x < y);
}

static size_t count_good(const struct td_scored *v, size_t n) {
    size_t good = 0;
    for (size_t i = 0; i < n; i++)
        good += v[i].good;
    return good;
}

double td_metrics_auroc(struct td_scored *v, size_t n) {
    size_t good = count_good(v, n);
    double ranks = 0;
    if (good == 0 || good == n)
        return NAN;
    qsort(v, n, sizeof *v, by_score);
    for (size_t i = 0, j; i < n; i = j) {
        for (j = i; j < n && v[j].score == v[i].score;)
            j++;
        for (size_t k = i; k < j; k++)
            if (v[k].good)
                ranks += (double)(i + 1 + j) / 2; // ties share their rank
    }
    return (ranks - (double)good * (double)(good + 1) / 2) / ((double)good * (double)(n - good));
}

double td_metrics_ece(const struct td_scored *v, size_t n, unsigned bins) {
    double sum = 0;
    for (unsigned b = 0; b < bins; b++) {
        double right = 0, sure = 0;
        for (size_t i = 0; i < n; i++) {
            unsigned bin = (unsigned)(v[i].score * bins);
            if ((bin < bins ? bin : bins - 1) != b)
                continue;
            right += v[i].good;
            sure += v[i].score;
        }
        sum += fabs(right - sure);
    }
    return n ? sum / (double)n : NAN;
}

double td_metrics_percentile(const double *sorted, size_t n, double percent) {
    if (n == 0)
        return NAN;
    size_t rank = (size_t)ceil(percent / 100 * (double)n);
    return sorted[rank ? rank - 1 : 0];
}

double td_metrics_f1(size_t right, size_t predicted, size_t expected) {
    return predicted + expected ? 200.0 * (double)right / (double)(predicted + expected) : NAN;
}

double td_metrics_mean(const struct td_scored *v, size_t n, bool good) {
    double sum = 0;
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        if (v[i].good == good) {
            sum += v[i].score;
            count++;
        }
    return count ? sum / (double)count : NAN;
}

struct td_threshold td_metrics_threshold(struct td_scored *v, size_t n, double keep) {
    struct td_threshold best = {NAN, NAN, NAN};
    size_t good = count_good(v, n), good_below = 0;
    if (good == 0 || good == n)
        return best;
    qsort(v, n, sizeof *v, by_score);
    for (size_t i = 0; i < n; i++) {
        double kept = (double)(good - good_below) / (double)good;
        if (kept < keep)
            break;
        if (i == 0 || v[i].score != v[i - 1].score)
            best = (struct td_threshold){v[i].score, kept, (double)(i - good_below) / (double)(n - good)};
        good_below += v[i].good;
    }
    return best;
}
