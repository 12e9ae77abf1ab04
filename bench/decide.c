// SPDX-License-Identifier: Apache-2.0
// What a decision costs: a 2 KB request, eight targets, six rules. Prints the times of taking facts (with and without
// content rules), of the snapshot of the world, and of decide() itself. `bench-decide [rounds]`.
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <time.h>

#include "config/config.h"
#include "route/decide.h"
#include "route/features.h"
#include "target/health.h"

static const char targets[] =
    "version: 1\ntargets:\n"
    "  - {name: star, tier: device, provider: llama, model: /s.gguf, class: command, context: 2048}\n"
    "  - {name: lap, tier: device, provider: llama, model: /l.gguf, class: small, context: 8192}\n"
    "  - {name: rack, tier: onprem, provider: openai, model: m, base_url: 'https://rack.lan/v1', terminal: true, "
    "region: "
    "eu, clearance: restricted}\n"
    "  - {name: edge, tier: edge, provider: tandem, model: auto, base_url: 'https://edge.lan/v1', region: eu, "
    "clearance: "
    "confidential}\n"
    "  - {name: us1, tier: cloud, provider: openai, model: a, base_url: 'https://a.com/v1', region: us, clearance: "
    "internal, price: {input: 2.5, output: 10}}\n"
    "  - {name: us2, tier: cloud, provider: openai, model: b, base_url: 'https://b.com/v1', region: us-east, "
    "clearance: "
    "internal, price: {input: 3, output: 15}}\n"
    "  - {name: eu1, tier: cloud, provider: openai, model: c, base_url: 'https://c.com/v1', region: eu-west, "
    "clearance: "
    "confidential, price: {input: 1, output: 4}}\n"
    "  - {name: any, tier: cloud, provider: openai, model: d, base_url: 'https://d.com/v1', price: {input: 0.1, "
    "output: "
    "0.4}}\n";
static const char rules[] = "  rules:\n"
                            "    - {when: {labels: [phi]}, allow: {tiers: [device, onprem]}}\n"
                            "    - {when: {residency: eu}, allow: {regions: [eu, local]}}\n"
                            "    - {when: {data_class: {min: confidential}}, deny: {targets: [any]}}\n"
                            "    - {when: {labels: [secret]}, transform: local_only}\n"
                            "    - {when: {tokens: {min: 4000}}, mode: fallback}\n"
                            "    - {when: {tools: true, batch: true}, allow: {tiers: [device]}}\n";
static const char content[] =
    "  content: {labels: {phi: {words: [diagnosis, blood pressure, chemotherapy, insulin, mrn],"
    " patterns: ['(?i)\\bmrn[ -]?[0-9]{6,8}\\b', '\\b[0-9]{3}-[0-9]{2}-[0-9]{4}\\b',"
    " '\\b[A-Z][0-9]{2}\\.[0-9]{1,2}\\b']}, pci: {patterns: ['\\b(?:[0-9][ -]?){13,19}\\b']}}}\n";

static uint64_t thread_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void report(const char *what, uint64_t *ns, size_t n) {
    qsort(ns, n, sizeof *ns, by_value);
    printf("%-36s p50 %6.2f µs   p99 %6.2f µs   p99.9 %6.2f µs\n", what, (double)ns[n / 2] / 1e3,
           (double)ns[n * 99 / 100] / 1e3, (double)ns[n * 999 / 1000] / 1e3);
}

static struct td_config *load(const char *with_content) {
    struct td_buf text;
    struct td_config *c = NULL;
    struct td_error e;
    td_buf_init(&text, 1 << 20);
    if (td_buf_printf(&text, "%spolicy:\n%s%s", targets, with_content, rules) != TD_OK ||
        td_config_load_text(td_buf_str(&text), "bench", "/", NULL, &c, &e) != TD_OK) {
        fprintf(stderr, "bench-decide: %s\n", e.message);
        exit(1);
    }
    td_buf_finish(&text);
    return c;
}

static void measure(const struct td_config *c, const char *what, size_t rounds) {
    static char prose[2048];
    static const char sentence[] = "Please summarise what was said about the schedule, the rooms and the people. ";
    for (size_t i = 0; i < sizeof prose; i++)
        prose[i] = sentence[i % (sizeof sentence - 1)];
    struct td_part part = {.type = TD_PART_TEXT, .text = {prose, sizeof prose}};
    struct td_message message = {.role = TD_ROLE_USER, .parts = &part, .part_count = 1};
    struct td_request request = {.model = TD_STR("auto"),
                                 .messages = &message,
                                 .message_count = 1,
                                 .n = 1,
                                 .capabilities = TD_CAP_CHAT,
                                 .text_bytes = sizeof prose,
                                 .wishes.max_cost_nusd = -1};
    struct td_health *health = td_health_create();
    uint64_t *ns[3];
    char line[64];
    if (!health || td_health_adopt(health, c->targets, c->target_count, 1) != TD_OK)
        exit(1);
    for (int k = 0; k < 3; k++)
        if (!(ns[k] = calloc(rounds, sizeof *ns[k])))
            exit(1);
    for (size_t i = 0; i < rounds; i++) {
        struct td_facts_input in = {.budget_left_nusd = INT64_MAX, .draw = i * 0x9e3779b97f4a7c15u};
        struct td_facts facts;
        static struct td_world world;
        struct td_arena arena;
        const struct td_plan *plan;
        td_arena_init(&arena, 1 << 20);
        uint64_t t0 = thread_ns();
        if (td_facts_make(&request, &c->policy, &in, &facts) != TD_OK)
            exit(1);
        uint64_t t1 = thread_ns();
        td_health_world(health, c->targets, c->target_count, false, 2, &world);
        uint64_t t2 = thread_ns();
        if (td_decide(&facts, &c->policy, &world, &arena, &plan) != TD_OK)
            exit(1);
        uint64_t t3 = thread_ns();
        ns[0][i] = t1 - t0;
        ns[1][i] = t2 - t1;
        ns[2][i] = t3 - t2;
        td_arena_finish(&arena);
    }
    snprintf(line, sizeof line, "facts of 2 KB, %s", what);
    report(line, ns[0], rounds);
    report("world of 8 targets", ns[1], rounds);
    report("decide, 8 targets, 6 rules", ns[2], rounds);
    for (int k = 0; k < 3; k++)
        free(ns[k]);
    td_health_destroy(health);
}

int main(int argc, char **argv) {
    size_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    struct utsname machine;
    char cpu[128] = "?", buf[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(buf, sizeof buf, f))
        if (sscanf(buf, "model name : %127[^\n]", cpu) == 1)
            break;
    if (f)
        fclose(f);
    uname(&machine);
    printf("%s, %s; processor time of the thread, %zu rounds, one clock reading (about 0.2 µs) included\n", cpu,
           machine.machine, rounds ? rounds : 1);
    struct td_config *plain = load(""), *labelled = load(content);
    measure(plain, "no content rules", rounds ? rounds : 1);
    measure(labelled, "9 content rules", rounds ? rounds : 1);
    td_config_unref(plain);
    td_config_unref(labelled);
    return 0;
}
