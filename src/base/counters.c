// SPDX-License-Identifier: Apache-2.0
#include "base/counters.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define BUCKETS 28 // 1 µs … 134 s, then +Inf

enum kind { COUNTER, GAUGE, HISTOGRAM };

struct metric {
    struct metric *next;
    char *name, *help;
    enum kind kind;
    atomic_int_fast64_t value; // counter, gauge; sum of a histogram
    atomic_uint_fast64_t buckets[];
};

struct td_counter {
    struct metric m;
};
struct td_gauge {
    struct metric m;
};
struct td_histogram {
    struct metric m;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric *first, **last = &first;

static struct metric *get(const char *name, const char *help, enum kind kind) {
    struct metric *m;
    pthread_mutex_lock(&lock);
    for (m = first; m; m = m->next)
        if (strcmp(m->name, name) == 0)
            break;
    if (!m && (m = td_calloc(1, sizeof *m + (kind == HISTOGRAM ? (BUCKETS + 1) * sizeof m->buckets[0] : 0)))) {
        m->name = td_strdup(name);
        m->help = td_strdup(help);
        m->kind = kind;
        if (m->name && m->help) {
            *last = m;
            last = &m->next;
        } else {
            td_free(m->name);
            td_free(m->help);
            td_free(m);
            m = NULL;
        }
    }
    pthread_mutex_unlock(&lock);
    return m && m->kind == kind ? m : NULL;
}

struct td_counter *td_counter_get(const char *name, const char *help) {
    return (struct td_counter *)get(name, help, COUNTER);
}
struct td_gauge *td_gauge_get(const char *name, const char *help) {
    return (struct td_gauge *)get(name, help, GAUGE);
}
struct td_histogram *td_histogram_get(const char *name, const char *help) {
    return (struct td_histogram *)get(name, help, HISTOGRAM);
}

void td_counter_add(struct td_counter *c, uint64_t n) {
    if (c)
        atomic_fetch_add_explicit(&c->m.value, (int_fast64_t)n, memory_order_relaxed);
}
void td_gauge_set(struct td_gauge *g, int64_t v) {
    if (g)
        atomic_store_explicit(&g->m.value, v, memory_order_relaxed);
}
void td_gauge_add(struct td_gauge *g, int64_t by) {
    if (g)
        atomic_fetch_add_explicit(&g->m.value, by, memory_order_relaxed);
}
uint64_t td_counter_value(const struct td_counter *c) {
    return c ? (uint64_t)atomic_load_explicit(&c->m.value, memory_order_relaxed) : 0;
}

void td_histogram_add(struct td_histogram *h, uint64_t us) {
    if (!h)
        return;
    unsigned bucket = us <= 1 ? 0 : 64 - (unsigned)__builtin_clzll(us - 1);
    atomic_fetch_add_explicit(&h->m.buckets[bucket < BUCKETS ? bucket : BUCKETS], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->m.value, (int_fast64_t)us, memory_order_relaxed);
}

// "name{a="b"}" in two parts: the family and the labels without braces.
static void split_name(const char *name, struct td_str *family, struct td_str *labels) {
    const char *brace = strchr(name, '{');
    *family = brace ? td_str_n(name, (size_t)(brace - name)) : td_str_of(name);
    *labels = brace ? td_str_n(brace + 1, strlen(brace) - 2) : TD_STR_NONE;
}

static enum td_err write_histogram(const struct metric *m, struct td_str family, struct td_str labels,
                                   struct td_buf *out) {
    const char *comma = labels.n ? "," : "";
    uint64_t total = 0;
    for (unsigned i = 0; i <= BUCKETS; i++) {
        enum td_err err;
        total += atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
        if (i < BUCKETS)
            err = td_buf_printf(out, "%.*s_bucket{%.*s%sle=\"%.6f\"} %" PRIu64 "\n", TD_STR_ARG(family),
                                TD_STR_ARG(labels), comma, (double)(1ull << i) / 1e6, total);
        else
            err = td_buf_printf(out, "%.*s_bucket{%.*s%sle=\"+Inf\"} %" PRIu64 "\n", TD_STR_ARG(family),
                                TD_STR_ARG(labels), comma, total);
        if (err != TD_OK)
            return err;
    }
    const char *open = labels.n ? "{" : "", *close = labels.n ? "}" : "";
    return td_buf_printf(out, "%.*s_sum%s%.*s%s %.6f\n%.*s_count%s%.*s%s %" PRIu64 "\n", TD_STR_ARG(family), open,
                         TD_STR_ARG(labels), close, (double)atomic_load(&m->value) / 1e6, TD_STR_ARG(family), open,
                         TD_STR_ARG(labels), close, total);
}

// A family's samples stand together under one TYPE line, so the first metric of a family writes all of them.
static enum td_err write_family(const struct metric *head, struct td_str family, struct td_buf *out) {
    static const char *const types[] = {"counter", "gauge", "histogram"};
    enum td_err err = td_buf_printf(out, "# HELP %.*s %s\n# TYPE %.*s %s\n", TD_STR_ARG(family), head->help,
                                    TD_STR_ARG(family), types[head->kind]);
    for (const struct metric *m = head; m && err == TD_OK; m = m->next) {
        struct td_str other, labels;
        split_name(m->name, &other, &labels);
        if (!td_str_eq(other, family))
            continue;
        if (m->kind == HISTOGRAM)
            err = write_histogram(m, family, labels, out);
        else
            err = td_buf_printf(out, "%s %" PRId64 "\n", m->name, (int64_t)atomic_load(&m->value));
    }
    return err;
}

enum td_err td_counters_write(struct td_buf *out) {
    enum td_err err = TD_OK;
    pthread_mutex_lock(&lock);
    for (const struct metric *m = first; m && err == TD_OK; m = m->next) {
        struct td_str family, labels, seen;
        split_name(m->name, &family, &labels);
        const struct metric *before = first;
        for (; before != m; before = before->next) {
            split_name(before->name, &seen, &labels);
            if (td_str_eq(seen, family))
                break;
        }
        if (before == m)
            err = write_family(m, family, out);
    }
    pthread_mutex_unlock(&lock);
    return err;
}
