// SPDX-License-Identifier: Apache-2.0
// What the ledger and the governor cost: `store_bench [ROWS] [DIR]`. Prints the hand-over per row as a worker pays it,
// the whole processor time per row (worker and writer), hand-over to durable in each durability mode at a steady 1,000
// rows a second, key + admission + budget per request, and the stats query over ROWS rows (default 100,000).
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "base/counters.h"
#include "base/time.h"
#include "govern/govern.h"
#include "scratch.h"
#include "store/ledger.h"

#define PACED 3000

static struct td_ledger_row sample(void) {
    return (struct td_ledger_row){.exchange = TD_STR("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                                  .attempt = 1,
                                  .tenant = TD_STR("default"),
                                  .conversation = TD_STR("0123456789abcdef0123456789abcdef"),
                                  .wall_ms = td_wall_ms(),
                                  .mode = TD_MODE_FALLBACK,
                                  .reason = TD_REASON_CHOSEN,
                                  .target = TD_STR("cloud"),
                                  .model = TD_STR("big-model"),
                                  .region = TD_STR("us"),
                                  .tier = TD_TIER_CLOUD,
                                  .provider = TD_PROVIDER_OPENAI,
                                  .data_class = TD_CLASS_INTERNAL,
                                  .http_status = 200,
                                  .delivered = true,
                                  .bytes_out = 1200,
                                  .bytes_in = 1100,
                                  .body_mac = {1},
                                  .prompt_tokens = 300,
                                  .completion_tokens = 200,
                                  .cost_nusd = 2750000,
                                  .ttft_us = 300000,
                                  .duration_us = 900000,
                                  .decision =
                                      TD_STR("{\"draw\":123456789,\"world\":{\"up\":1},\"features\":[1,2,3,4,5,6]}")};
}

static double seconds_of_cpu(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

struct paced {
    uint64_t start_ns, us;
};

static void on_durable(void *arg, enum td_err err) {
    struct paced *p = arg;
    (void)err;
    p->us = (td_now_ns() - p->start_ns) / 1000;
}

// Upper edge of the bucket that holds the share `q` of the commits so far, milliseconds.
static double commit_ms(double q) {
    struct td_buf b;
    double edge = 0, total = 0;
    td_buf_init(&b, 1u << 20);
    const char *text = td_counters_write(&b) == TD_OK ? td_buf_z(&b) : "";
    const char *count = text ? strstr(text, "tandem_store_commit_seconds_count ") : NULL;
    if (count)
        sscanf(count, "%*s %lf", &total);
    const char *at = text;
    while (at && (at = strstr(at, "tandem_store_commit_seconds_bucket{le=\""))) {
        double le, n;
        if (sscanf(at, "tandem_store_commit_seconds_bucket{le=\"%lf\"} %lf", &le, &n) == 2 && n >= q * total) {
            edge = le * 1e3;
            break;
        }
        at++;
    }
    td_buf_finish(&b);
    return edge;
}

static void durable_latency(const char *dir, const char *name, bool acked) {
    static struct paced paced[PACED];
    static uint64_t us[PACED];
    struct td_store *store;
    if (td_store_open(dir, NULL, &store, NULL) != TD_OK)
        exit(1);
    struct td_ledger_row row = sample();
    double cpu = seconds_of_cpu();
    uint64_t start = td_now_ns();
    for (int i = 0; i < PACED; i++) {
        struct td_ack ack = {NULL, on_durable, &paced[i]};
        paced[i] = (struct paced){td_now_ns(), 0};
        if ((acked ? td_ledger_append_acked(store, &row, &ack) : td_ledger_append(store, &row)) != TD_OK)
            exit(1);
        uint64_t next = start + (uint64_t)(i + 1) * 1000000, now = td_now_ns();
        if (next > now)
            nanosleep(&(struct timespec){0, (long)(next - now)}, NULL);
    }
    if (td_store_flush(store, 10000) != TD_OK)
        exit(1);
    cpu = seconds_of_cpu() - cpu;
    td_store_close(store);
    if (acked) {
        for (int i = 0; i < PACED; i++)
            us[i] = paced[i].us;
        qsort(us, PACED, sizeof *us, by_value);
        printf("%-28s hand-over to durable: p50 %6.2f ms  p99 %6.2f ms  max %6.2f ms   cpu %.1f us/row\n", name,
               (double)us[PACED / 2] / 1e3, (double)us[PACED * 99 / 100] / 1e3, (double)us[PACED - 1] / 1e3,
               cpu / PACED * 1e6);
    } else {
        printf("%-28s nobody waits; 10 ms gathering + commit (p50 <= %.2f ms, p99 <= %.2f ms)   cpu %.1f us/row\n",
               name, commit_ms(0.5), commit_ms(0.99), cpu / PACED * 1e6);
    }
}

static void burst(struct td_store *store, unsigned rows) {
    struct td_ledger_row row = sample();
    static uint64_t ns[1 << 16];
    unsigned measured = 0;
    double cpu = seconds_of_cpu();
    uint64_t start = td_now_ns();
    for (unsigned i = 0; i < rows; i++) {
        row.wall_ms += i % 1000 == 0; // some hours of traffic
        row.target = i % 5 ? TD_STR("cloud") : TD_STR("device");
        uint64_t before = td_now_ns();
        enum td_err err = td_ledger_append(store, &row);
        if (err == TD_OK && i < sizeof ns / sizeof *ns)
            ns[measured++] = td_now_ns() - before;
        if (err != TD_OK) { // the ring is full: the disk sets the pace here
            nanosleep(&(struct timespec){0, 2000000}, NULL);
            i--;
        }
    }
    if (td_store_flush(store, 60000) != TD_OK)
        exit(1);
    double wall = (double)(td_now_ns() - start) / 1e9;
    cpu = seconds_of_cpu() - cpu;
    qsort(ns, measured, sizeof *ns, by_value);
    printf("hand-over, worker's side     p50 %.2f us  p99 %.2f us\n", (double)ns[measured / 2] / 1e3,
           (double)ns[measured * 99 / 100] / 1e3);
    printf("%u rows                 %.0f rows/s to disk, %.2f us of processor per row (worker and writer)\n", rows,
           rows / wall, cpu / rows * 1e6);
}

static bool on_stats(void *user, const struct td_ledger_stats *s) {
    (void)user, (void)s;
    return true;
}

static void stats(struct td_store *store) {
    for (int i = 0; i < 2; i++) {
        uint64_t start = td_now_ns();
        if (td_ledger_stats(store, NULL, NULL, on_stats, NULL, NULL) != TD_OK)
            exit(1);
        printf("stats query (%s)         %.2f ms\n", i ? "again" : "first", (double)(td_now_ns() - start) / 1e6);
    }
}

static void govern(struct td_store *store) {
    struct td_govern_limit tenants[] = {{.requests_per_min = 4000000000u,
                                         .tokens_per_min = 4000000000u,
                                         .day_nusd = 1000000000000000ll,
                                         .month_nusd = 1000000000000000ll}};
    struct td_govern_config config = {.tenants = tenants, .tenant_count = 1};
    struct td_govern *g;
    char id[TD_KEY_ID_BYTES], key[TD_KEY_TEXT_BYTES];
    int64_t wall = td_wall_ms();
    if (td_govern_open(store, &config, &g, NULL) != TD_OK ||
        td_govern_key_create(g, TD_STR("acme"), TD_STR(""), wall, 0, id, key, NULL) != TD_OK)
        exit(1);
    uint64_t start = td_now_ns();
    double cpu = seconds_of_cpu();
    const int rounds = 200000;
    for (int i = 0; i < rounds; i++) {
        struct td_identity who;
        struct td_ticket ticket;
        struct td_hold hold;
        uint32_t retry;
        if (td_govern_identify(g, td_str_of(key), wall, &who, NULL) != TD_OK ||
            td_govern_admit(g, &who, 100, start, wall, &ticket, &retry, NULL) != TD_OK ||
            td_govern_reserve(g, &ticket, TD_STR("cloud"), 1000, wall, &hold, NULL) != TD_OK)
            exit(1);
        td_govern_settle(g, &hold, 900);
        td_govern_finish(g, &ticket, 90, start);
    }
    printf("key, limits, budget          %.2f us of processor per request\n", (seconds_of_cpu() - cpu) / rounds * 1e6);
    td_govern_close(g);
}

int main(int argc, char **argv) {
    unsigned rows = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 100000;
    char dir[256];
    struct td_store *store;
    if (argc > 2)
        setenv("TMPDIR", argv[2], 1);
    if (!scratch_make(dir))
        return 1;
    durable_latency(dir, "batched, 1000 rows/s", false);
    durable_latency(dir, "before_answer, 1000 rows/s", true);
    if (td_store_open(dir, NULL, &store, NULL) != TD_OK)
        return 1;
    burst(store, rows);
    stats(store);
    govern(store);
    td_store_close(store);
    scratch_drop(dir);
    return 0;
}
