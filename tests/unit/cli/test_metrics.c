// SPDX-License-Identifier: Apache-2.0
// The numbers of `tandem eval`, against sums done by hand.
#include "unit.h"

#include <math.h>

#include "cli/metrics.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static void is(double got, double want) {
    assert_true(fabs(got - want) < 1e-12);
}

static void auroc_counts_ordered_pairs(void **state) {
    (void)state;
    // Of the six pairs of a good (0.9, 0.6, 0.4) and another (0.6, 0.1): 0.9 beats both, 0.6 beats one and ties one,
    // 0.4 beats one: (2 + 1.5 + 1) / 6.
    struct td_scored v[] = {{0.9, true}, {0.1, false}, {0.6, true}, {0.6, false}, {0.4, true}};
    is(td_metrics_auroc(v, COUNT(v)), 0.75);
    struct td_scored apart[] = {{0.2, false}, {0.3, true}};
    is(td_metrics_auroc(apart, 2), 1);
    struct td_scored wrong_way[] = {{0.3, false}, {0.2, true}};
    is(td_metrics_auroc(wrong_way, 2), 0);
    struct td_scored same[] = {{0.5, false}, {0.5, true}, {0.5, true}};
    is(td_metrics_auroc(same, 3), 0.5);
    assert_true(isnan(td_metrics_auroc(apart, 1)) && isnan(td_metrics_auroc(apart, 0)));
}

static void ece_weighs_each_bins_distance(void **state) {
    (void)state;
    // Ten bins. 0.8…0.9: mean 0.85, one of two right: 0.35 off, twice. 0.9…1: 0.95 and 1.0 (the last bin takes 1.0 in),
    // both right: 0.025 off, twice. 0.2…0.3: 0.25, wrong: 0.25 off, once. (0.7 + 0.05 + 0.25) / 5.
    struct td_scored v[] = {{0.82, true}, {0.88, false}, {0.95, true}, {1.0, true}, {0.25, false}};
    is(td_metrics_ece(v, COUNT(v), 10), 0.2);
    struct td_scored sure[] = {{1.0, true}, {0.0, false}};
    is(td_metrics_ece(sure, 2, 10), 0);
    assert_true(isnan(td_metrics_ece(v, 0, 10)));
}

static void percentiles_are_values_that_occurred(void **state) {
    (void)state;
    double ms[200];
    for (int i = 0; i < 200; i++)
        ms[i] = i + 1;
    is(td_metrics_percentile(ms, 200, 50), 100);
    is(td_metrics_percentile(ms, 200, 99), 198);
    is(td_metrics_percentile(ms, 3, 50), 2);
    is(td_metrics_percentile(ms, 1, 99), 1);
    is(td_metrics_percentile(ms, 10, 0), 1);
    assert_true(isnan(td_metrics_percentile(ms, 0, 50)));
}

static void f1_is_the_harmonic_mean(void **state) {
    (void)state;
    // Precision 6/8, recall 6/12: 2 · 0.75 · 0.5 / 1.25 = 0.6.
    is(td_metrics_f1(6, 8, 12), 60);
    is(td_metrics_f1(0, 3, 0), 0);
    is(td_metrics_f1(4, 4, 4), 100);
    assert_true(isnan(td_metrics_f1(0, 0, 0)));
}

static void the_threshold_keeps_right_and_catches_wrong(void **state) {
    (void)state;
    // At 0.7 three of four good ones are kept and both others caught; at 0.5 all four, but only one is caught.
    struct td_scored v[] = {{0.9, true}, {0.3, false}, {0.8, true}, {0.6, false}, {0.7, true}, {0.5, true}};
    struct td_threshold t = td_metrics_threshold(v, COUNT(v), 0.75);
    is(t.at, 0.7);
    is(t.kept, 0.75);
    is(t.caught, 1);
    t = td_metrics_threshold(v, COUNT(v), 0.76);
    is(t.at, 0.5);
    is(t.kept, 1);
    is(t.caught, 0.5);
    struct td_scored ties[] = {{0.5, true}, {0.5, false}, {0.5, true}, {0.2, false}};
    t = td_metrics_threshold(ties, COUNT(ties), 0.5);
    is(t.at, 0.5);
    is(t.kept, 1);
    is(t.caught, 0.5);
    is(td_metrics_mean(v, COUNT(v), true), 0.725);
    is(td_metrics_mean(v, COUNT(v), false), 0.45);
    struct td_scored right[] = {{0.9, true}, {0.8, true}};
    assert_true(isnan(td_metrics_threshold(right, 2, 0.5).at) && isnan(td_metrics_mean(right, 2, false)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auroc_counts_ordered_pairs),
        cmocka_unit_test(ece_weighs_each_bins_distance),
        cmocka_unit_test(percentiles_are_values_that_occurred),
        cmocka_unit_test(f1_is_the_harmonic_mean),
        cmocka_unit_test(the_threshold_keeps_right_and_catches_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
