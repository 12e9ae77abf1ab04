// SPDX-License-Identifier: Apache-2.0
// How good predictions were: the sums behind `tandem eval`. Pure; NaN where a number does not exist.
#ifndef TD_CLI_METRICS_H
#define TD_CLI_METRICS_H

#include <stdbool.h>
#include <stddef.h>

struct td_scored {
    double score; // how sure, 0 to 1
    bool good;    // it was right, or in scope
};
// Area under the ROC curve: how often a good one scores higher than another; ties count half. Sorts. NaN unless both
// kinds are there.
double td_metrics_auroc(struct td_scored *v, size_t n);
// Expected calibration error: mean distance between how sure and how often right, over `bins` equal bins of the score.
double td_metrics_ece(const struct td_scored *v, size_t n, unsigned bins);
// The smallest value that at least `percent` of the values do not exceed.
double td_metrics_percentile(const double *sorted, size_t n, double percent);
// Harmonic mean of precision and recall, in percent.
double td_metrics_f1(size_t right, size_t predicted, size_t expected);
// Mean score of the good or of the other ones.
double td_metrics_mean(const struct td_scored *v, size_t n, bool good);

struct td_threshold {
    double at;           // ask further below it; NaN unless both kinds are there
    double kept, caught; // share of the good ones at or above it, of the others below it
};
// The highest threshold that keeps at least this share of the good ones. Sorts.
struct td_threshold td_metrics_threshold(struct td_scored *v, size_t n, double keep);

#endif
