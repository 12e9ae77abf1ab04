// SPDX-License-Identifier: Apache-2.0
// The sums of an evaluation, as tables or as JSON.
#include "cli/eval.h"

#include <math.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/metrics.h"

#define BINS 10u
#define KEEP 0.95         // share of right calls that a threshold is to keep
#define INTENTS_MAX 1024u // in the table; more are counted in the totals only

struct intent_count {
    struct td_str name;
    unsigned total, correct;
};

static int by_number(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// How sure the model is that the utterance is for it at all.
static double scope_score(const struct td_eval_item *i) {
    return i->declined ? 1 - i->confidence : i->confidence;
}

struct totals {
    unsigned right, exact, failed;
    double f1, auroc, ece, sure_right, sure_wrong, p50, p95, p99;
    struct td_threshold threshold;
};

static enum td_err sum_up(const struct td_eval *ev, struct totals *t) {
    struct td_str none = td_eval_none(ev);
    double *ms = td_calloc(ev->count, sizeof *ms);
    struct td_scored *v = td_calloc(ev->count, sizeof *v);
    size_t scored = 0, calls = 0;
    *t = (struct totals){.f1 = td_metrics_f1(ev->slots_right, ev->slots_predicted, ev->slots_expected)};
    if (!ms || !v) {
        td_free(ms);
        td_free(v);
        return TD_ERR_NOMEM;
    }
    for (unsigned i = 0; i < ev->count; i++) {
        const struct td_eval_item *it = &ev->items[i];
        t->right += it->correct;
        t->exact += it->exact;
        t->failed += it->failed;
        ms[i] = it->ms;
        if (!isnan(it->confidence))
            v[scored++] = (struct td_scored){scope_score(it), !td_str_eq(it->intent, none)};
    }
    qsort(ms, ev->count, sizeof *ms, by_number);
    t->p50 = td_metrics_percentile(ms, ev->count, 50);
    t->p95 = td_metrics_percentile(ms, ev->count, 95);
    t->p99 = td_metrics_percentile(ms, ev->count, 99);
    t->auroc = td_metrics_auroc(v, scored);
    scored = 0;
    for (unsigned i = 0; i < ev->count; i++)
        if (!isnan(ev->items[i].confidence))
            v[scored++] = (struct td_scored){ev->items[i].confidence, ev->items[i].correct};
    t->ece = td_metrics_ece(v, scored, BINS);
    t->sure_right = td_metrics_mean(v, scored, true);
    t->sure_wrong = td_metrics_mean(v, scored, false);
    for (unsigned i = 0; i < ev->count; i++) // a declined answer goes on to the next target at any threshold
        if (!isnan(ev->items[i].confidence) && !ev->items[i].declined)
            v[calls++] = (struct td_scored){ev->items[i].confidence, ev->items[i].correct};
    t->threshold = td_metrics_threshold(v, calls, KEEP);
    td_free(ms);
    td_free(v);
    return TD_OK;
}

static unsigned count_intents(struct td_eval *ev, struct intent_count *counts, unsigned max) {
    unsigned n = 0;
    for (unsigned i = 0; i < ev->count; i++) {
        unsigned at = 0;
        while (at < n && !td_str_eq(counts[at].name, ev->items[i].intent))
            at++;
        if (at == n && n < max)
            counts[n++] = (struct intent_count){.name = ev->items[i].intent};
        if (at < n) {
            counts[at].total++;
            counts[at].correct += ev->items[i].correct;
        }
    }
    return n;
}

static int by_accuracy(const void *a, const void *b) {
    const struct intent_count *x = a, *y = b;
    double p = (double)x->correct / x->total, q = (double)y->correct / y->total;
    return p != q ? (p > q) - (p < q) : (x->total < y->total) - (x->total > y->total);
}

static double percent(unsigned part, unsigned whole) {
    return whole ? 100.0 * part / whole : NAN;
}

static void print_number(const char *name, double value, const char *unit) {
    if (isnan(value))
        printf("%-34s      n/a\n", name);
    else
        printf("%-34s %8.*f%s\n", name, *unit ? 2 : 4, value, unit);
}

static void print_json_number(const char *name, double value) {
    if (isnan(value))
        printf(",\"%s\":null", name);
    else
        printf(",\"%s\":%.6g", name, value);
}

static void print_intents(struct td_eval *ev) {
    static struct intent_count counts[INTENTS_MAX];
    unsigned intents = count_intents(ev, counts, INTENTS_MAX);
    qsort(counts, intents, sizeof counts[0], by_accuracy);
    printf("%s%-34s %8s %8s%s\n", td_cli_bold(), "INTENT (worst first)", "ITEMS", "RIGHT", td_cli_reset());
    for (unsigned i = 0; i < intents; i++)
        printf("%-34.*s %8u %7.1f%%\n", TD_STR_ARG(counts[i].name), counts[i].total,
               percent(counts[i].correct, counts[i].total));
}

static void report_json(const struct td_eval *ev, const struct totals *t) {
    printf("{\"items\":%u,\"failed\":%u", ev->count, t->failed);
    print_json_number("accuracy", percent(t->right, ev->count));
    print_json_number("in_scope_accuracy", percent(ev->in_scope_right, ev->in_scope));
    print_json_number("exact_match", percent(t->exact, ev->count));
    print_json_number("slot_f1", t->f1);
    print_json_number("scope_auroc", t->auroc);
    print_json_number("ece", t->ece);
    print_json_number("confidence_right", t->sure_right);
    print_json_number("confidence_wrong", t->sure_wrong);
    print_json_number("threshold", t->threshold.at);
    print_json_number("threshold_keeps_right", 100 * t->threshold.kept);
    print_json_number("threshold_catches_wrong", 100 * t->threshold.caught);
    print_json_number("p50_ms", t->p50);
    print_json_number("p95_ms", t->p95);
    print_json_number("p99_ms", t->p99);
    printf("}\n");
}

static void report_text(struct td_eval *ev, const struct totals *t) {
    print_intents(ev);
    printf("\n%-34s %8u\n%-34s %8u\n", "items", ev->count, "failed", t->failed);
    print_number("intent accuracy", percent(t->right, ev->count), " %");
    print_number("intent accuracy, in scope", percent(ev->in_scope_right, ev->in_scope), " %");
    print_number("exact match", percent(t->exact, ev->count), " %");
    print_number("slot F1", t->f1, " %");
    print_number("in scope or not, AUROC", t->auroc, "");
    print_number("calibration error (ECE, 10 bins)", t->ece, "");
    print_number("confidence when right", t->sure_right, "");
    print_number("confidence when wrong", t->sure_wrong, "");
    print_number("threshold keeping 95 % right calls", t->threshold.at, "");
    print_number("  wrong calls it would escalate", 100 * t->threshold.caught, " %");
    print_number("latency p50", t->p50, " ms");
    print_number("latency p95", t->p95, " ms");
    print_number("latency p99", t->p99, " ms");
}

int td_eval_report(struct td_eval *ev) {
    struct totals t;
    if (sum_up(ev, &t) != TD_OK)
        return td_cli_fail(TD_EXIT_FAILED, "out of memory");
    if (td_cli.json)
        report_json(ev, &t);
    else
        report_text(ev, &t);
    return TD_EXIT_OK;
}
