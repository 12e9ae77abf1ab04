// SPDX-License-Identifier: Apache-2.0
#include "law.h"

#include <stdio.h>
#include <string.h>

#define TEXT_BYTES_MAX (64u << 10)

enum { NOWHERE, EU, EU_WEST, US, LOCAL, REGIONS };
static const char *const regions[REGIONS] = {"", "eu", "eu-west", "us", "local"};
static const char *const labels[LAW_LABELS] = {"pii", "phi", "secret", "alpha", "beta", "gamma"};
static const char *const tiers[TD_TIER_COUNT] = {"device", "edge", "onprem", "cloud"};
static const char *const classes[] = {"", "public", "internal", "confidential", "restricted"};
static const char *const names[TARGETS] = {"device", "cloud", "spare", "edge"};
#define FIXED_LABELS 7u // pii, phi and secret have their bits and classes without anybody naming them

const char *law_label(uint32_t i) {
    return labels[i];
}

const char *law_region(uint32_t i) {
    return regions[i];
}

uint32_t law_draw_region(struct rng *rng) {
    return EU + rng_below(rng, US);
}

// ---- drawing

static uint32_t draw_bits(struct rng *rng, uint32_t of, uint32_t percent_each) {
    uint32_t bits = 0;
    for (uint32_t i = 0; i < of; i++)
        bits |= (uint32_t)rng_chance(rng, percent_each) << i;
    return bits;
}

static uint32_t present(const struct law *law) {
    uint32_t bits = 0;
    for (uint32_t i = 0; i < TARGETS; i++)
        bits |= (uint32_t)law->targets[i].there << i;
    return bits;
}

static struct law_set draw_set(const struct law *law, struct rng *rng, uint32_t percent_each) {
    struct law_set set = {0};
    uint32_t kind = rng_below(rng, 4);
    if (kind == 0 || kind == 3)
        set.tiers = draw_bits(rng, TD_TIER_COUNT, percent_each);
    if (kind == 1 || kind == 3)
        set.regions = draw_bits(rng, REGIONS, percent_each) & ~1u;
    if (kind == 2)
        set.targets = draw_bits(rng, TARGETS, percent_each) & present(law);
    return set;
}

static void draw_rule(struct law *law, struct rng *rng) {
    struct law_rule *r = &law->rules[law->rule_count++];
    *r = (struct law_rule){0};
    uint32_t when = rng_chance(rng, 5) ? 5 : rng_below(rng, 5); // 5: always
    if (when == 0)
        r->labels = draw_bits(rng, LAW_LABELS, 35);
    if (when == 1)
        r->labels_all = draw_bits(rng, LAW_LABELS, 20);
    if (when == 2)
        r->classes = draw_bits(rng, TD_CLASS_RESTRICTED, 40) << 1;
    if (when == 3)
        r->residency = law_draw_region(rng);
    if (when == 4 || rng_chance(rng, 10))
        r->stream = rng_chance(rng, 50) ? TD_YES : TD_NO;
    uint32_t what = rng_below(rng, 100);
    if (what < 50)
        r->allow = draw_set(law, rng, 75);
    else if (what < 90)
        r->deny = draw_set(law, rng, 30);
    else
        r->transform = rng_chance(rng, 80) ? TD_TRANSFORM_LOCAL_ONLY : TD_TRANSFORM_BLOCK;
}

static void draw(struct law *law, const struct law *before, struct rng *rng, bool plain) {
    static const uint32_t homes[TARGETS] = {LOCAL, US, EU_WEST, EU};
    law->default_class = plain || rng_chance(rng, 90) ? TD_CLASS_INTERNAL : TD_CLASS_PUBLIC + rng_below(rng, 4);
    for (uint32_t i = 0; i < TARGETS; i++) {
        struct law_target *t = &law->targets[i];
        *t = (struct law_target){.there = !before || !rng_chance(rng, 6),
                                 .terminal = plain || rng_chance(rng, 85),
                                 .clearance = TD_CLASS_RESTRICTED,
                                 .region = homes[i]};
        if (plain || i == DEVICE)
            continue;
        if (rng_chance(rng, 25))
            t->clearance = TD_CLASS_PUBLIC + rng_below(rng, 4);
        if (rng_chance(rng, 4))
            t->clearance = 0;
        if (rng_chance(rng, 10))
            t->region = rng_chance(rng, 50) ? NOWHERE : law_draw_region(rng);
        if (rng_chance(rng, 10))
            t->labels = draw_bits(rng, LAW_LABELS, 60);
    }
    if (!present(law))
        law->targets[DEVICE].there = true;
    for (uint32_t n = plain ? 0 : rng_below(rng, LAW_RULES_MAX + 1); n > 0; n--)
        draw_rule(law, rng);
    for (uint32_t i = 3; i < LAW_LABELS && !plain; i++) // of those with a class of their own
        if (rng_chance(rng, 15))
            law->label_class[i] = TD_CLASS_INTERNAL + rng_below(rng, 3);
}

// ---- writing it down

struct pen {
    struct td_buf text;
    enum td_err err;
};

static void put(struct pen *p, const char *text) {
    if (p->err == TD_OK)
        p->err = td_buf_addz(&p->text, text);
}

// "key: [a, b], ", or nothing for no bits.
static void put_list(struct pen *p, const char *key, uint32_t bits, const char *const *words) {
    if (!bits)
        return;
    put(p, key);
    put(p, ": [");
    for (const char *comma = ""; bits; bits &= bits - 1, comma = ", ") {
        put(p, comma);
        put(p, words[__builtin_ctz(bits)]);
    }
    put(p, "], ");
}

static void put_word(struct pen *p, const char *key, const char *word) {
    put(p, key);
    put(p, ": ");
    put(p, word);
    put(p, ", ");
}

static void put_target(struct pen *p, const struct law *law, uint32_t i) {
    static const char *const own[TARGETS] = {
        "tier: device, provider: llama, model: /device.gguf, quality: 0.35, context: 2048",
        "tier: cloud, provider: openai, model: cloud, base_url: 'https://cloud.example/v1', quality: 0.9, context: "
        "8192, "
        "continues: true, price: {input: 2.5, output: 10, cached_input: 1.25}",
        "tier: cloud, provider: openai, model: spare, base_url: 'https://spare.example/v1', quality: 0.8, context: "
        "32768, "
        "price: {input: 2.5, output: 10, cached_input: 1.25}",
        "tier: edge, provider: openai, model: edge, base_url: 'https://edge.example/v1', quality: 0.5, context: 16384, "
        "continues: true"};
    const struct law_target *t = &law->targets[i];
    put(p, "  - {");
    put_word(p, "name", names[i]);
    if (i != DEVICE && t->region)
        put_word(p, "region", regions[t->region]);
    if (i != DEVICE && t->clearance)
        put_word(p, "clearance", classes[t->clearance]);
    if (i == EDGE && t->terminal)
        put_word(p, "terminal", "true");
    put_list(p, "labels", t->labels, labels);
    put(p, own[i]);
    put(p, "}\n");
}

static void put_set(struct pen *p, const char *key, const struct law_set *set) {
    if (!set->tiers && !set->regions && !set->targets)
        return;
    put(p, key);
    put(p, ": {");
    put_list(p, "tiers", set->tiers, tiers);
    put_list(p, "regions", set->regions, regions);
    put_list(p, "targets", set->targets, names);
    put(p, "}, ");
}

static void put_rule(struct pen *p, const struct law_rule *r) {
    put(p, "    - {when: {");
    put_list(p, "labels", r->labels, labels);
    put_list(p, "labels_all", r->labels_all, labels);
    put_list(p, "data_class", r->classes, classes);
    if (r->residency)
        put_word(p, "residency", regions[r->residency]);
    if (r->stream)
        put_word(p, "stream", r->stream == TD_YES ? "true" : "false");
    put(p, "}, ");
    put_set(p, "allow", &r->allow);
    put_set(p, "deny", &r->deny);
    if (r->transform)
        put_word(p, "transform", r->transform == TD_TRANSFORM_BLOCK ? "block" : "local_only");
    put(p, "}\n");
}

static enum td_err write(struct pen *p, const struct law *law, struct rng *rng) {
    uint32_t order[TARGETS] = {DEVICE, CLOUD, SPARE, EDGE};
    for (uint32_t i = 0; law->number > 1 && i < TARGETS; i++) { // a reload may list them in another order
        uint32_t j = i + rng_below(rng, TARGETS - i), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    put(p, "version: 1\n");
    put_word(p, "default_class", classes[law->default_class]);
    p->text.n -= 2; // the comma
    put(p, "\ntargets:\n");
    for (uint32_t i = 0; i < TARGETS; i++)
        if (law->targets[order[i]].there)
            put_target(p, law, order[i]);
    put(p, "policy:\n  default: {prefer: balanced}\n");
    bool content = false;
    for (uint32_t i = 3; i < LAW_LABELS; i++)
        if (law->label_class[i]) {
            put(p, content ? "" : "  content:\n    labels:\n");
            content = true;
            put(p, "      ");
            put(p, labels[i]);
            put(p, ": {class: ");
            put(p, classes[law->label_class[i]]);
            put(p, "}\n");
        }
    put(p, law->rule_count ? "  rules:\n" : "");
    for (uint32_t i = 0; i < law->rule_count; i++)
        put_rule(p, &law->rules[i]);
    return p->err;
}

static enum td_err read_back(struct law *law, const struct law *before, struct pen *p, struct td_error *e) {
    if (p->err != TD_OK)
        return p->err;
    return td_config_load_text(td_buf_str(&p->text), "law.yaml", "/", before ? before->config : NULL, &law->config, e);
}

bool law_make(struct law *law, const struct law *before, uint64_t number, struct rng *rng, bool plain, bool tell) {
    struct pen p = {.err = TD_OK};
    struct td_error e = {0};
    memset(law, 0, sizeof *law);
    law->number = number;
    draw(law, before, rng, plain);
    law->labels_named = FIXED_LABELS | (before ? before->labels_named : 0);
    for (uint32_t i = 0; i < LAW_LABELS; i++)
        law->labels_named |= (uint32_t)(law->label_class[i] != TD_CLASS_UNKNOWN) << i;
    for (uint32_t i = 0; i < law->rule_count; i++)
        law->labels_named |= law->rules[i].labels | law->rules[i].labels_all;
    for (uint32_t i = 0; i < TARGETS; i++)
        law->labels_named |= law->targets[i].there ? law->targets[i].labels : 0;
    td_buf_init(&p.text, TEXT_BYTES_MAX);
    (void)write(&p, law, rng);
    enum td_err err = read_back(law, before, &p, &e);
    if (err != TD_OK || tell)
        printf("# law %llu %s\n%.*s", (unsigned long long)number, e.message, TD_STR_ARG(td_buf_str(&p.text)));
    td_buf_finish(&p.text);
    return err == TD_OK;
}

bool law_refuses_nonsense(const struct law *in_force, struct rng *rng) {
    static const char *const faults[] = {"surprise: 1\n", "  rules:\n    - {transform: forget}\n", "targets: []\n",
                                         "  rules:\n    - {allow: {targets: [nobody]}}\n", "\tx"};
    struct law law = *in_force;
    struct pen p = {.err = TD_OK};
    struct td_error e = {0};
    law.rule_count = 0;
    law.config = NULL;
    td_buf_init(&p.text, TEXT_BYTES_MAX);
    (void)write(&p, &law, rng);
    put(&p, faults[rng_below(rng, sizeof faults / sizeof *faults)]);
    bool refused = read_back(&law, in_force, &p, &e) != TD_OK && !law.config && e.message[0];
    td_buf_finish(&p.text);
    td_config_unref(law.config);
    return refused;
}

void law_finish(struct law *law) {
    td_config_unref(law->config);
    law->config = NULL;
}

// ---- what they mean

static bool within(uint32_t region, uint32_t in) {
    return region == in || (region == EU_WEST && in == EU);
}

static bool any_within(uint32_t region, uint32_t set) {
    for (; set; set &= set - 1)
        if (within(region, (uint32_t)__builtin_ctz(set)))
            return true;
    return false;
}

static enum td_class raised(const struct law *law, uint32_t request_labels, enum td_class class) {
    static const enum td_class fixed[3] = {TD_CLASS_CONFIDENTIAL, TD_CLASS_CONFIDENTIAL, TD_CLASS_RESTRICTED};
    for (; request_labels; request_labels &= request_labels - 1) {
        uint32_t i = (uint32_t)__builtin_ctz(request_labels);
        enum td_class c = i < 3 ? fixed[i] : law->label_class[i];
        class = c > class ? c : class;
    }
    return class;
}

// Where a target stands for the rules.
struct place {
    uint32_t index, tier, region, clearance, labels;
};

static struct place place_of(const struct law *law, uint32_t target) {
    static const uint32_t own[TARGETS] = {TD_TIER_DEVICE, TD_TIER_CLOUD, TD_TIER_CLOUD, TD_TIER_EDGE};
    const struct law_target *t = &law->targets[target];
    struct place p = {target, own[target], t->region, t->clearance, t->labels};
    if (target == EDGE && !t->terminal)
        p.tier = TD_TIER_CLOUD; // it may forward
    if (target != DEVICE && (!t->region || !t->clearance))
        p.clearance = TD_CLASS_PUBLIC;
    return p;
}

static bool rule_holds(const struct law_rule *r, const struct law_request *q, enum td_class class) {
    return (!r->labels || r->labels & q->labels) && !(r->labels_all & ~q->labels) &&
           (!r->classes || r->classes >> class & 1) &&
           (!r->residency || (q->residency && within(q->residency, r->residency))) &&
           (r->stream == TD_ANY || (r->stream == TD_YES) == q->stream);
}

static bool rule_permits(const struct law_rule *r, const struct place *p) {
    const struct law_set *a = &r->allow, *d = &r->deny;
    if (r->transform == TD_TRANSFORM_BLOCK || (r->transform == TD_TRANSFORM_LOCAL_ONLY && p->tier != TD_TIER_DEVICE))
        return false;
    if (d->tiers >> p->tier & 1 || d->targets >> p->index & 1 || any_within(p->region, d->regions))
        return false;
    return (!a->tiers || a->tiers >> p->tier & 1) && (!a->targets || a->targets >> p->index & 1) &&
           (!a->regions || any_within(p->region, a->regions));
}

bool law_permits(const struct law *law, const struct law *described, const struct law *accepted,
                 const struct law_request *q, uint32_t target) {
    struct place p = place_of(described, target);
    if (!law->targets[target].there)
        return false;
    enum td_class class = raised(law, q->labels, raised(accepted, q->labels, q->data_class));
    if (class == TD_CLASS_UNKNOWN)
        class = law->default_class;
    for (uint32_t i = 0; i < law->rule_count; i++)
        if (rule_holds(&law->rules[i], q, class) && !rule_permits(&law->rules[i], &p))
            return false;
    bool stays = p.region == LOCAL || !q->residency || (p.region && within(p.region, q->residency));
    return stays && (!q->tiers || q->tiers >> p.tier & 1) && class <= p.clearance &&
           (!p.labels || !(q->labels & ~p.labels));
}
