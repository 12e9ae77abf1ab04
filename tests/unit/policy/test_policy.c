// SPDX-License-Identifier: Apache-2.0
// The laws of the policy: rules only narrow, their order does not change who may answer, and every attempt is held
// against the stricter of two policies.
#include "world.h"

#include <stdio.h>

#define TARGETS                                                                                                        \
    "targets:\n"                                                                                                       \
    "  - {name: d, tier: device, provider: llama, model: /x.gguf}\n"                                                   \
    "  - {name: e, tier: edge, provider: openai, model: m, base_url: 'https://e.lan', terminal: true, region: eu, "    \
    "clearance: confidential}\n"                                                                                       \
    "  - {name: o, tier: onprem, provider: tandem, model: m, base_url: 'https://o.lan', region: eu-west, clearance: "  \
    "restricted, labels: [phi]}\n"                                                                                     \
    "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'https://c.com', region: us, clearance: "        \
    "internal}\n"                                                                                                      \
    "  - {name: p, tier: cloud, provider: openai, model: m, base_url: 'https://p.com'}\n"

static uint64_t seed;
static uint32_t roll(uint32_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static void random_set(struct td_target_set *set) {
    static const char *const regions[] = {"eu", "us", "local", "eu-west"};
    set->has_tiers = roll(2);
    set->tiers = roll(16);
    set->has_targets = roll(3) == 0;
    set->targets = roll(32);
    set->has_regions = roll(3) == 0;
    set->region_count = roll(3);
    for (uint32_t i = 0; i < set->region_count; i++)
        set->regions[i] = td_str_of(regions[roll(4)]);
}

static struct td_rule random_rule(void) {
    struct td_rule r = {.name = TD_STR("r"), .cost_nusd_max = -1, .on_cut_min_quality = -1};
    r.when.labels = roll(2) ? roll(16) : 0;
    r.when.labels_all = roll(4) == 0 ? roll(16) : 0;
    r.when.classes = roll(3) == 0 ? roll(32) : 0;
    r.when.residency = roll(4) == 0 ? TD_STR("eu") : TD_STR_NONE;
    r.when.kinds = roll(4) == 0 ? roll(8) : 0;
    r.when.tokens_min = roll(4) == 0 ? roll(200) : 0;
    r.when.tools = (enum td_tristate)(roll(6) == 0 ? 1 + roll(2) : 0);
    r.when.metered = (enum td_tristate)(roll(6) == 0 ? 1 + roll(2) : 0);
    r.has_allow = roll(2);
    random_set(&r.allow);
    r.has_deny = roll(3) == 0;
    random_set(&r.deny);
    r.transform = roll(8) == 0 ? (enum td_transform)(1 + roll(2)) : TD_TRANSFORM_NONE;
    r.mode = (enum td_mode)roll(6);
    r.has_outbox = roll(2);
    r.outbox = roll(2);
    return r;
}

static struct td_facts random_facts(void) {
    struct td_facts f = facts_plain();
    f.labels = roll(2) ? roll(16) : 0;
    f.data_class = (enum td_class)roll(5);
    f.residency = roll(3) == 0 ? TD_STR("eu") : TD_STR_NONE;
    f.kind = (enum td_kind)roll(3);
    f.input_tokens = roll(300);
    f.has_tools = roll(2);
    f.tiers_allowed = roll(5) == 0 ? roll(16) : 0;
    return f;
}

static uint64_t allowed(const struct td_policy *p, const struct td_facts *f, const struct td_world *w) {
    struct td_ruling r;
    uint64_t set = 0;
    td_policy_rule(p, f, w, &r);
    for (uint32_t i = 0; i < p->target_count; i++)
        if (td_policy_admits(p, &r, f, &p->targets[i], NULL) == TD_REASON_CHOSEN)
            set |= 1ull << i;
    return set;
}

static void one_more_rule_never_widens(void **state) {
    (void)state;
    struct td_config *c = config_of("version: 1\n" TARGETS);
    struct td_world w;
    unsigned narrowed = 0;
    world_well(c, &w);
    for (seed = 1; seed < 3000;) {
        uint64_t start = seed;
        struct td_rule rules[8];
        struct td_policy p = c->policy;
        p.rules = rules;
        w.link.metered = roll(2);
        uint32_t n = roll(7);
        for (uint32_t i = 0; i <= n; i++)
            rules[i] = random_rule();
        for (int k = 0; k < 8; k++) {
            struct td_facts f = random_facts();
            p.rule_count = n;
            uint64_t before = allowed(&p, &f, &w);
            p.rule_count = n + 1;
            uint64_t after = allowed(&p, &f, &w);
            assert_int_equal(after & ~before, 0);
            narrowed += after != before;
        }
        seed = start + 1;
    }
    assert_true(narrowed > 1000); // else the property would hold for nothing
    td_config_unref(c);
}

static void the_order_of_rules_does_not_change_who_may_answer(void **state) {
    (void)state;
    struct td_config *c = config_of("version: 1\n" TARGETS);
    struct td_world w;
    world_well(c, &w);
    for (uint64_t start = 1; start < 3000; start++) {
        struct td_rule rules[6];
        struct td_policy p = c->policy;
        seed = start;
        p.rules = rules;
        p.rule_count = 6;
        for (uint32_t i = 0; i < 6; i++)
            rules[i] = random_rule();
        struct td_facts f = random_facts();
        uint64_t before = allowed(&p, &f, &w);
        for (uint32_t i = 5; i > 0; i--) {
            uint32_t k = roll(i + 1);
            struct td_rule t = rules[i];
            rules[i] = rules[k];
            rules[k] = t;
        }
        assert_int_equal(allowed(&p, &f, &w), before);
    }
    td_config_unref(c);
}

static void the_first_matching_rule_gives_mode_and_the_rest(void **state) {
    (void)state;
    struct td_config *c =
        config_of("version: 1\n" TARGETS "policy:\n"
                  "  rules:\n"
                  "    - {when: {labels: [phi]}, mode: single, outbox: true, budget: {request_usd: 0.5}}\n"
                  "    - {mode: hedge, on_cut: {do: error, min_quality: 0.6}, outbox: false}\n"
                  "    - {mode: cascade, on_cut: restart, budget: {request_usd: 0.1}}\n");
    struct td_facts f = facts_plain();
    struct td_ruling r;
    td_policy_rule(&c->policy, &f, NULL, &r);
    assert_int_equal(r.mode, TD_MODE_HEDGE);
    assert_int_equal(r.on_cut, TD_ON_CUT_ERROR);
    assert_true(r.on_cut_min_quality > 0.59 && !r.outbox);
    assert_int_equal(r.cost_nusd_max, 100000000);
    f.labels = TD_LABEL_PHI;
    td_policy_rule(&c->policy, &f, NULL, &r);
    assert_int_equal(r.mode, TD_MODE_SINGLE);
    assert_true(r.outbox);
    assert_int_equal(r.data_class, TD_CLASS_CONFIDENTIAL); // what the label raises to
    assert_int_equal(r.cost_nusd_max, 100000000);          // the lowest of all that match
    td_config_unref(c);
}

static void every_condition_is_asked(void **state) {
    (void)state;
    static const char *const when[] = {
        "{labels: [pci, phi]}",
        "{labels_all: [phi, pii]}",
        "{data_class: restricted}",
        "{data_class: {min: confidential}}",
        "{residency: eu}",
        "{tenant: t}",
        "{model: special}",
        "{kind: completion}",
        "{capabilities: tools}",
        "{tools: true}",
        "{tokens: {min: 1000}}",
        "{features: code}",
        "{prefer: cheap}",
        "{mode: hedge}",
        "{conversation: true}",
        "{fresh: true}",
        "{batch: true}",
        "{stream: true}",
        "{link: {up: false}}",
        "{link: {metered: true}}",
        "{device: {on_battery: true}}",
        "{device: {hot: true}}",
        "{device: {battery_below: 50}}",
    };
    for (size_t i = 0; i < sizeof when / sizeof when[0]; i++) {
        char text[2048];
        snprintf(text, sizeof text, "version: 1\n" TARGETS "policy: {rules: [{when: %s, deny: {tiers: device}}]}\n",
                 when[i]);
        struct td_config *c = config_of(text);
        struct td_facts f = facts_plain();
        struct td_world w;
        world_well(c, &w);
        if (!(allowed(&c->policy, &f, &w) & 1))
            fail_msg("%s matches a plain request", when[i]);
        f.labels = TD_LABEL_PHI | TD_LABEL_PII;
        f.data_class = TD_CLASS_RESTRICTED;
        f.residency = TD_STR("eu");
        f.tenant = TD_STR("t");
        f.model = TD_STR("special");
        f.kind = TD_KIND_COMPLETION;
        f.capabilities |= TD_CAP_TOOLS;
        f.has_tools = f.conversation = f.fresh = f.batch = f.stream = true;
        f.input_tokens = 1000;
        f.features = TD_FEATURE_CODE;
        f.prefer = TD_PREFER_CHEAP;
        f.mode = TD_MODE_HEDGE;
        w.link.up = false;
        w.link.metered = w.device.on_battery = w.device.hot = true;
        w.device.battery_percent = 49;
        if (allowed(&c->policy, &f, &w) & 1)
            fail_msg("%s does not match", when[i]);
        td_config_unref(c);
    }
}

static void the_stricter_of_two_policies_holds(void **state) {
    (void)state;
    static const struct {
        const char *what, *accepted, *current, *target;
        bool allowed;
        enum td_reason reason;
    } rows[] = {
        {"the same", "", "", "c", true, TD_REASON_CHOSEN},
        {"a new rule", "", "policy: {rules: [{name: n, deny: {tiers: cloud}}]}\n", "c", false, TD_REASON_DENIED},
        {"a rule that went", "policy: {rules: [{name: n, deny: {tiers: cloud}}]}\n", "", "c", false, TD_REASON_DENIED},
        {"a stricter default class", "", "default_class: confidential\n", "c", false, TD_REASON_CLASS},
        {"a milder default class", "default_class: confidential\n", "", "c", false, TD_REASON_CLASS},
        {"a new transform", "", "policy: {rules: [{transform: local_only}]}\n", "c", false, TD_REASON_LOCAL_ONLY},
        {"the device is still the device", "", "policy: {rules: [{transform: local_only}]}\n", "d", true,
         TD_REASON_CHOSEN},
        {"a new block", "", "policy: {rules: [{transform: block}]}\n", "d", false, TD_REASON_DENIED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[2][2048];
        snprintf(text[0], sizeof text[0], "version: 1\n" TARGETS "%s", rows[i].accepted);
        snprintf(text[1], sizeof text[1], "version: 1\n" TARGETS "%s", rows[i].current);
        struct td_config *a = config_of(text[0]), *b = config_of(text[1]);
        struct td_facts f = facts_plain();
        struct td_policy_verdict v = td_policy_check_attempt(&a->policy, &b->policy, &f, NULL,
                                                             td_policy_target(&a->policy, td_str_of(rows[i].target)));
        if (v.allowed != rows[i].allowed || v.reason != rows[i].reason)
            fail_msg("%s: %d %s", rows[i].what, v.allowed, td_reason_word(v.reason));
        td_config_unref(a);
        td_config_unref(b);
    }
}

static void a_changed_target_must_pass_as_it_was_and_as_it_is(void **state) {
    (void)state;
#define ONE(region, clearance)                                                                                         \
    "version: 1\ntargets:\n  - {name: x, tier: device, provider: llama, model: /x}\n  - {name: c, tier: cloud, "       \
    "provider: openai, model: m, base_url: 'https://c.com', region: " region ", clearance: " clearance "}\n"
    struct td_config *eu = config_of(ONE("eu", "internal")), *us = config_of(ONE("us", "internal"));
    struct td_config *low = config_of(ONE("eu", "public"));
    struct td_config *gone =
        config_of("version: 1\ntargets:\n  - {name: x, tier: device, provider: llama, model: /x}\n");
    struct td_facts f = facts_plain();
    const struct td_target *t = &eu->targets[1];
    f.residency = TD_STR("eu");
    assert_true(td_policy_check_attempt(&eu->policy, &eu->policy, &f, NULL, t).allowed);
    assert_int_equal(td_policy_check_attempt(&eu->policy, &us->policy, &f, NULL, t).reason, TD_REASON_RESIDENCY);
    assert_int_equal(td_policy_check_attempt(&us->policy, &eu->policy, &f, NULL, &us->targets[1]).reason,
                     TD_REASON_RESIDENCY);
    assert_int_equal(td_policy_check_attempt(&eu->policy, &low->policy, &f, NULL, t).reason, TD_REASON_CLASS);
    assert_int_equal(td_policy_check_attempt(&eu->policy, &gone->policy, &f, NULL, t).reason, TD_REASON_REMOVED);
    td_config_unref(eu);
    td_config_unref(us);
    td_config_unref(low);
    td_config_unref(gone);
}

static void a_tenant_that_went_takes_its_requests_along(void **state) {
    (void)state;
    struct td_config *a = config_of("version: 1\n" TARGETS "tenants: [{name: t, allow: {tiers: device}}]\n");
    struct td_config *b = config_of("version: 1\n" TARGETS);
    struct td_facts f = facts_plain();
    f.tenant = TD_STR("t");
    assert_true(td_policy_check_attempt(&a->policy, &a->policy, &f, NULL, &a->targets[0]).allowed);
    assert_false(td_policy_check_attempt(&a->policy, &a->policy, &f, NULL, &a->targets[3]).allowed);
    assert_false(td_policy_check_attempt(&a->policy, &b->policy, &f, NULL, &a->targets[0]).allowed);
    td_config_unref(a);
    td_config_unref(b);
}

static void regions_hold_their_parts_and_nothing_else(void **state) {
    (void)state;
    static const struct {
        const char *region, *allowed;
        bool within;
    } rows[] = {{"eu", "eu", true},       {"eu-west", "eu", true},        {"europe", "eu", false},
                {"eu", "eu-west", false}, {"eu-west-1", "eu-west", true}, {"", "eu", false},
                {"us", "eu", false}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(td_region_within(td_str_of(rows[i].region), td_str_of(rows[i].allowed)), rows[i].within);
}

static void the_tiers_that_are_left_are_those_that_rules_leave(void **state) {
    (void)state;
    static const struct {
        const char *policy;
        uint32_t wished, left;
    } rows[] = {
        {"", 0, 15},
        {"", 1u << TD_TIER_CLOUD, 1u << TD_TIER_CLOUD},
        {"policy: {rules: [{allow: {tiers: [device, onprem]}}, {deny: {tiers: device}}]}\n", 0, 1u << TD_TIER_ONPREM},
        {"policy: {rules: [{when: {labels: phi}, allow: {tiers: device}}]}\n", 0, 15}, // does not match
        {"policy: {rules: [{allow: {tiers: [device, edge]}}]}\n", 1u << TD_TIER_CLOUD, 0},
        {"policy: {rules: [{transform: local_only}]}\n", 0, 1u << TD_TIER_DEVICE},
        {"policy: {rules: [{transform: block}]}\n", 0, 0},
        {"tenants: [{name: t, allow: {tiers: [edge, cloud]}}]\n", 0, 1u << TD_TIER_EDGE | 1u << TD_TIER_CLOUD},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[2048];
        snprintf(text, sizeof text, "version: 1\n" TARGETS "%s", rows[i].policy);
        struct td_config *c = config_of(text);
        struct td_facts f = facts_plain();
        f.tenant = TD_STR("t");
        f.tiers_allowed = rows[i].wished;
        assert_int_equal(td_policy_tiers(&c->policy, &f, NULL), rows[i].left);
        td_config_unref(c);
    }
}

// A webhook is a place like a target, but no rule that names targets speaks of it.
static void a_place_that_is_no_target_is_judged_by_what_it_is(void **state) {
    (void)state;
#define HOOK(more) "webhook: {url: 'https://h.com/x'" more "}\n"
    static const struct {
        const char *rest;
        enum td_reason reason;
    } rows[] = {
        {HOOK(", region: us, clearance: internal"), TD_REASON_CHOSEN},
        {HOOK(""), TD_REASON_CLASS},
        {HOOK(", clearance: internal"), TD_REASON_CLASS}, // nobody knows where it is
        {HOOK(", region: us, clearance: internal") "policy: {rules: [{allow: {targets: [c]}}]}\n", TD_REASON_DENIED},
        {HOOK(", region: us, clearance: internal") "policy: {rules: [{deny: {targets: [d, e, o, c, p]}}]}\n",
         TD_REASON_CHOSEN},
        {HOOK(", region: us, clearance: internal") "policy: {rules: [{allow: {regions: [eu]}}]}\n",
         TD_REASON_RESIDENCY},
        {HOOK(", region: eu, tier: onprem, clearance: internal") "policy: {rules: [{allow: {tiers: [onprem]}}]}\n",
         TD_REASON_CHOSEN},
        {HOOK(", region: us, clearance: internal") "policy: {rules: [{transform: local_only}]}\n",
         TD_REASON_LOCAL_ONLY},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[2048];
        snprintf(text, sizeof text, "version: 1\n" TARGETS "%s", rows[i].rest);
        struct td_config *c = config_of(text);
        struct td_facts f = facts_plain();
        struct td_ruling r;
        f.data_class = TD_CLASS_INTERNAL;
        td_policy_rule(&c->policy, &f, NULL, &r);
        assert_int_equal(td_policy_admits(&c->policy, &r, &f, &c->webhook.place, NULL), rows[i].reason);
        td_config_unref(c);
    }
#undef HOOK
}

// What the caller stated counts by its name, also where only the policy in force has a rule for it.
static void labels_keep_their_names_where_bits_do_not(void **state) {
    (void)state;
    struct td_policy before = {.labels = {TD_STR("pii"), TD_STR("18"), TD_STR("bird")}, .label_count = 3};
    struct td_policy after = {.labels = {TD_STR("bird"), TD_STR("pii"), TD_STR("birds")}, .label_count = 3};
    static const struct {
        uint32_t bits;
        const char *names;
        uint32_t then;
    } cases[] = {
        {0, "", 0},
        {5, "pii bird", 3},
        {2, "18", TD_LABEL_OTHER}, // nobody names it any more: it is a label all the same
        {TD_LABEL_OTHER, "*", TD_LABEL_OTHER},
        {4 | TD_LABEL_OTHER, "bird *", 1 | TD_LABEL_OTHER},
        {8, "*", TD_LABEL_OTHER},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct td_buf names;
        td_buf_init(&names, 1024);
        assert_int_equal(td_policy_label_names(&before, cases[i].bits, &names), TD_OK);
        assert_true(td_str_is(td_buf_str(&names), cases[i].names));
        assert_int_equal(td_policy_label_bits(&after, td_buf_str(&names)), cases[i].then);
        td_buf_finish(&names);
    }
}

static void a_label_that_a_reload_names_binds_what_runs(void **state) {
    (void)state;
    static const char *const later_text =
        "version: 1\n" TARGETS "policy: {content: {labels: {quiet: {class: restricted}}}, "
        "rules: [{when: {labels: [quiet]}, allow: {tiers: [device]}}]}\n";
    struct td_config *before = config_of("version: 1\n" TARGETS), *later = NULL;
    struct td_error e = {0};
    if (td_config_load_text(td_str_of(later_text), "test.yaml", "/", before, &later, &e) != TD_OK)
        fail_msg("%s", e.message);
    const struct td_str stated[] = {TD_STR("other"), TD_STR("quiet")};
    for (uint32_t count = 1; count <= 2; count++) {
        struct td_facts f = facts_plain();
        f.data_class = TD_CLASS_INTERNAL;
        f.labels = TD_LABEL_OTHER;
        f.stated_labels = stated;
        f.stated_label_count = count;
        assert_true(td_policy_check_attempt(&before->policy, &before->policy, &f, NULL, &before->targets[3]).allowed);
        assert_int_equal(
            td_policy_check_attempt(&before->policy, &later->policy, &f, NULL, &before->targets[3]).allowed,
            count == 1);
        assert_true(td_policy_check_attempt(&before->policy, &later->policy, &f, NULL, &before->targets[0]).allowed);
    }
    td_config_unref(before);
    td_config_unref(later);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_place_that_is_no_target_is_judged_by_what_it_is),
        cmocka_unit_test(one_more_rule_never_widens),
        cmocka_unit_test(the_order_of_rules_does_not_change_who_may_answer),
        cmocka_unit_test(the_first_matching_rule_gives_mode_and_the_rest),
        cmocka_unit_test(every_condition_is_asked),
        cmocka_unit_test(the_stricter_of_two_policies_holds),
        cmocka_unit_test(a_changed_target_must_pass_as_it_was_and_as_it_is),
        cmocka_unit_test(a_tenant_that_went_takes_its_requests_along),
        cmocka_unit_test(the_tiers_that_are_left_are_those_that_rules_leave),
        cmocka_unit_test(regions_hold_their_parts_and_nothing_else),
        cmocka_unit_test(labels_keep_their_names_where_bits_do_not),
        cmocka_unit_test(a_label_that_a_reload_names_binds_what_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
