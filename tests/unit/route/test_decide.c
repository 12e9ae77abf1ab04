// SPDX-License-Identifier: Apache-2.0
// decide() as a table: one row is a request (and a state of the world) with the plan it must give.
#include "world.h"

#include <stdio.h>

#include "route/decide.h"
#include "target/words.h"

// clang-format off: rows of a table, one a line
#define HOUSE                                                                                                          \
    "version: 1\n"                                                                                                     \
    "targets:\n"                                                                                                       \
    "  - {name: star, tier: device, provider: llama, model: /s.gguf, class: command, quality: 0.35, context: 2048}\n"  \
    "  - {name: lap, tier: device, provider: llama, model: /l.gguf, class: small, quality: 0.5, context: 8192,\n"      \
    "     capabilities: [default, embedding]}\n"                                                                       \
    "  - {name: rack, tier: onprem, provider: openai, model: mid, base_url: 'https://rack.lan/v1', terminal: true,\n"  \
    "     region: eu, clearance: restricted, labels: [phi, pii], context: 32768, capabilities: [default, "             \
    "embedding]}\n"                                                                                                    \
    "  - {name: us, tier: cloud, provider: openai, model: big, base_url: 'https://us.example.com/v1', region: "        \
    "us-east,\n"                                                                                                       \
    "     clearance: internal, price: {input: 2.5, output: 10}, quality: 0.9, context: 128000,\n"                      \
    "     capabilities: [default, image], fallback: [eu, star]}\n"                                                     \
    "  - {name: eu, tier: cloud, provider: openai, model: big, base_url: 'https://eu.example.com/v1', region: "        \
    "eu-west,\n"                                                                                                       \
    "     clearance: confidential, price: {input: 3, output: 12}, quality: 0.9, context: 128000}\n"                    \
    "  - {name: open, tier: cloud, provider: openai, model: any, base_url: 'https://any.example.com/v1',\n"            \
    "     price: {input: 0.1, output: 0.4}, quality: 0.6, max_output: 4096}\n"                                         \
    "aliases: {gpt-4o: us, assistant: 'auto:private'}\n"

#define RULES                                                                                                          \
    "policy:\n"                                                                                                        \
    "  rules:\n"                                                                                                       \
    "    - {name: phi-stays, when: {labels: [phi]}, allow: {tiers: [device, onprem]}}\n"                               \
    "    - {name: eu-only, when: {residency: eu}, allow: {regions: [eu, local]}}\n"                                    \
    "    - {name: no-secrets, when: {labels: [secret]}, transform: local_only, reason: 'secrets stay here'}\n"         \
    "    - {name: stop, when: {labels: [forbidden]}, transform: block, reason: 'not for any model'}\n"                 \
    "    - {name: thrift, when: {tenant: cheap}, budget: {request_usd: 0.001}}\n"                                      \
    "    - {name: drafts, when: {tenant: editor}, mode: progressive}\n"                                                \
    "    - {name: saver, when: {device: {battery_below: 30}}, deny: {targets: [lap]}}\n"                               \
    "tenants: [{name: cheap}, {name: editor}, {name: clinic, labels: [phi], residency: eu},\n"                         \
    "  {name: guest, allow: {targets: [star]}, default_class: public}]\n"

struct row {
    const char *what;
    void (*change)(struct td_facts *, struct td_world *, const struct td_policy *);
    const char *plan;     // "mode: name(reason) name(reason)", "none" without steps
    const char *verdicts; // "name=reason …" that must be among the verdicts; NULL nothing more
};

enum { STAR, LAP, RACK, US, EU, OPEN };
#define CHANGE(name, ...)                                                                                              \
    static void name(struct td_facts *f, struct td_world *w, const struct td_policy *p) {                              \
        (void)f, (void)w, (void)p;                                                                                     \
        __VA_ARGS__                                                                                                    \
    }

CHANGE(as_it_is, )
CHANGE(command, f->features = TD_FEATURE_COMMAND; f->has_tools = true; f->words = 5; f->difficulty_ppm = 100000;
       f->output_tokens = 60;)
CHANGE(long_command, command(f, w, p); f->words = 21;)
CHANGE(is_public, f->data_class = TD_CLASS_PUBLIC;)
CHANGE(confidential, f->data_class = TD_CLASS_CONFIDENTIAL;)
CHANGE(restricted, f->data_class = TD_CLASS_RESTRICTED;)
CHANGE(phi, f->labels = TD_LABEL_PHI;)
CHANGE(pci, f->labels = TD_LABEL_PCI;)
CHANGE(secret, f->labels = TD_LABEL_SECRET;)
CHANGE(unknown_label, f->labels = TD_LABEL_OTHER;)
CHANGE(forbidden, f->labels = td_policy_label(p, TD_STR("forbidden"));)
CHANGE(in_eu, f->residency = TD_STR("eu");)
CHANGE(in_ch, f->residency = TD_STR("ch");)
CHANGE(image, f->capabilities |= TD_CAP_IMAGE;)
CHANGE(embedding, f->kind = TD_KIND_EMBEDDING; f->capabilities = TD_CAP_EMBEDDING; f->output_tokens = 0;
       f->features = 0;)
CHANGE(embedding_down, embedding(f, w, p); w->targets[LAP].full = true;)
CHANGE(big_input, f->input_tokens = 40000;)
CHANGE(catalogue, command(f, w, p); f->input_tokens = 12000; f->tool_tokens = 11950; f->capabilities |= TD_CAP_TOOLS;)
CHANGE(long_answer, is_public(f, w, p); f->max_tokens = 4097;)
CHANGE(near_context, f->input_tokens = 2300; f->model = TD_STR("star");)
CHANGE(fast, f->prefer = TD_PREFER_FAST;)
CHANGE(cheap, f->prefer = TD_PREFER_CHEAP;)
CHANGE(quality, f->prefer = TD_PREFER_QUALITY;)
CHANGE(auto_private, f->model = TD_STR("auto:private");)
CHANGE(aliased, f->model = TD_STR("gpt-4o");)
CHANGE(alias_of_auto, f->model = TD_STR("assistant");)
CHANGE(pinned, f->model = TD_STR("eu");)
CHANGE(pinned_phi, f->model = TD_STR("us"); f->labels = TD_LABEL_PHI;)
CHANGE(link_down, w->link.up = false;)
CHANGE(link_down_command, command(f, w, p); w->link.up = false;)
CHANGE(forced_offline_image, f->capabilities |= TD_CAP_IMAGE; w->link.forced = TD_CONNECTIVITY_OFFLINE;)
CHANGE(link_down_image, f->capabilities |= TD_CAP_IMAGE; w->link.up = false;)
CHANGE(metered_batch, f->batch = true; w->link.metered = true;)
CHANGE(rack_open, w->targets[RACK].breaker = TD_BREAKER_OPEN;)
CHANGE(half_open, w->targets[RACK].breaker = TD_BREAKER_HALF_OPEN;)
CHANGE(half_open_probe, w->targets[RACK].breaker = TD_BREAKER_HALF_OPEN; w->targets[RACK].probe_ok = true;)
CHANGE(ramp_out, w->targets[RACK].ramp_ppm = 100000; f->draw = 100000;)
CHANGE(ramp_in, w->targets[RACK].ramp_ppm = 100000; f->draw = 99999;)
CHANGE(last_open, f->capabilities |= TD_CAP_IMAGE; w->targets[US].breaker = TD_BREAKER_OPEN;)
CHANGE(last_retry_after, f->capabilities |= TD_CAP_IMAGE; w->targets[US].retry_after_ms = 3000;)
CHANGE(rack_full, w->targets[RACK].full = true;)
CHANGE(not_ready, w->targets[LAP].ready = false; f->labels = TD_LABEL_SECRET;)
CHANGE(hot, w->device.hot = true; f->labels = TD_LABEL_SECRET;)
CHANGE(low_battery, w->device.battery_percent = 20; f->labels = TD_LABEL_SECRET;)
CHANGE(deadline, f->deadline_ms = 150;)
CHANGE(impossible_deadline, f->deadline_ms = 10;)
CHANGE(ceiling, f->max_cost_nusd = 2000000; f->prefer = TD_PREFER_QUALITY;)
CHANGE(zero_budget, f->budget_left_nusd = 0; f->prefer = TD_PREFER_QUALITY;)
CHANGE(target_budget, w->targets[US].budget_left_nusd = 100; w->targets[EU].budget_left_nusd = 100;
       f->prefer = TD_PREFER_QUALITY;)
CHANGE(thrifty, f->tenant = TD_STR("cheap"); f->prefer = TD_PREFER_QUALITY;)
CHANGE(clinic, f->tenant = TD_STR("clinic");)
CHANGE(guest, f->tenant = TD_STR("guest");)
CHANGE(guest_escapes, f->tenant = TD_STR("clinic"); f->residency = TD_STR("us");)
CHANGE(chain, f->tiers_allowed = 1 << TD_TIER_DEVICE;)
CHANGE(wish_single, f->mode = TD_MODE_SINGLE;)
CHANGE(wish_cascade, f->mode = TD_MODE_CASCADE;)
CHANGE(wish_progressive, f->mode = TD_MODE_PROGRESSIVE; f->revisions = true;)
CHANGE(progressive_unaware, f->mode = TD_MODE_PROGRESSIVE;)
CHANGE(rule_progressive_unaware, f->tenant = TD_STR("editor");)
CHANGE(rule_progressive_aware, f->tenant = TD_STR("editor"); f->revisions = true;)
CHANGE(wish_hedge, f->mode = TD_MODE_HEDGE; w->targets[RACK].ttft_ms_p50 = 100; w->targets[RACK].ttft_ms_p95 = 333;)
CHANGE(wish_hedge_metered, wish_hedge(f, w, p); w->link.metered = true;)
CHANGE(cascade_of_choices, command(f, w, p); f->choices = 2; f->capabilities |= TD_CAP_CHOICES;)
CHANGE(slow_rack, w->targets[RACK].ttft_ms_p50 = 30000;)
CHANGE(queued_rack, f->labels = TD_LABEL_PHI; w->targets[LAP].active = 4; w->targets[LAP].queued = 20;
       w->targets[RACK].ttft_ms_p50 = 50;)

static const struct row rows[] = {
    {"a question goes to the best that may see it", as_it_is,
     "fallback: us(chosen) eu(fallback) rack(fallback) lap(fallback) star(fallback)", "open=class"},
    {"a command is tried on the device first", command,
     "cascade: star(local-first) us(fallback) eu(fallback) rack(fallback) lap(fallback)", NULL},
    {"a long text is no command", long_command, "cascade: lap(local-first) us(fallback)", NULL},
    {"public data may go where nothing is stated", is_public,
     "fallback: us(chosen) eu(fallback) rack(fallback) open(fallback) lap(fallback)", "star=ranked-out"},
    {"confidential stays where it is cleared", confidential,
     "fallback: eu(chosen) rack(fallback) lap(fallback) star(fallback)", "us=class open=class"},
    {"restricted too", restricted, "fallback: rack(chosen) lap(fallback) star(fallback)",
     "us=class eu=class open=class"},
    {"phi by rule", phi, "fallback: rack(chosen) lap(fallback) star(fallback)", "us=tier eu=tier open=tier"},
    {"a label that a target does not list", pci, "fallback: eu(chosen) lap(fallback) star(fallback)",
     "rack=label us=class"},
    {"a label nobody knows", unknown_label, "fallback: us(chosen)", "rack=label"},
    {"secrets stay", secret, "fallback: lap(chosen) star(fallback)", "rack=local-only us=local-only"},
    {"a blocked request goes nowhere", forbidden, "none", "star=denied rack=denied"},
    {"residency", in_eu, "fallback: eu(chosen) rack(fallback) lap(fallback) star(fallback)",
     "us=residency open=residency"},
    {"residency without a rule", in_ch, "fallback: lap(chosen) star(fallback)", "rack=residency us=residency"},
    {"only one can see images", image, "single: us(chosen)", "star=capability eu=capability"},
    {"embeddings never change the model", embedding, "single: lap(chosen)", "rack=other-model us=capability"},
    {"not even when it is down", embedding_down, "none", "lap=overloaded rack=other-model"},
    {"a context that holds it", big_input, "fallback: us(chosen) eu(fallback)",
     "star=context lap=context rack=context"},
    {"a long catalogue makes no command long", catalogue, "cascade: star(local-first)", "lap=context"},
    {"an answer longer than a target gives", long_answer, "fallback: us(chosen)", "open=output"},
    {"estimates have slack", near_context, "single: star(pinned)", NULL},
    {"fast", fast, "fallback: rack(chosen)", NULL},
    {"cheap", cheap, "fallback: rack(chosen) lap(fallback)", NULL},
    {"quality", quality, "fallback: us(chosen) eu(fallback) rack(fallback)", NULL},
    {"private", auto_private, "fallback: lap(chosen) star(fallback) rack(fallback)", NULL},
    {"an alias pins", aliased, "fallback: us(pinned) eu(fallback) star(fallback)", "rack=not-pinned lap=not-pinned"},
    {"an alias may stand for auto", alias_of_auto, "fallback: lap(chosen)", NULL},
    {"a pinned target without a list stands alone", pinned, "single: eu(pinned)", "us=not-pinned"},
    {"policy binds a pinned request", pinned_phi, "single: star(fallback)", "us=tier eu=tier rack=not-pinned"},
    {"no network", link_down, "fallback: lap(offline) star(fallback)", "rack=no-link us=no-link"},
    {"no network, a command", link_down_command, "cascade: star(local-first) lap(fallback)", "rack=no-link"},
    {"offline by order is final", forced_offline_image, "none", "us=no-link"},
    {"no network but no other way", link_down_image, "single: us(chosen)", NULL},
    {"background work avoids a metered link", metered_batch, "fallback: lap(chosen) star(fallback)",
     "rack=metered us=metered"},
    {"an open breaker", rack_open, "fallback: us(chosen)", "rack=health"},
    {"half open without a probe to spare", half_open, "fallback: us(chosen)", "rack=health"},
    {"half open, and this is the probe", half_open_probe, "fallback: us(chosen) eu(fallback) rack(fallback)", NULL},
    {"ramping: not this request", ramp_out, "fallback: us(chosen)", "rack=health"},
    {"ramping: this one", ramp_in, "fallback: us(chosen) eu(fallback) rack(fallback)", NULL},
    {"the last candidate is never ejected", last_open, "single: us(chosen)", NULL},
    {"but its own wish to rest is kept", last_retry_after, "none", "us=retry-after"},
    {"a full queue", rack_full, "fallback: us(chosen)", "rack=overloaded"},
    {"a model that is not there", not_ready, "single: star(chosen)", "lap=not-ready"},
    {"small models may run hot", hot, "fallback: lap(chosen) star(fallback)", NULL},
    {"a rule on the battery", low_battery, "single: star(chosen)", "lap=denied"},
    {"a deadline that some can meet", deadline, "fallback: lap(chosen) star(fallback)", "rack=deadline us=deadline"},
    {"a deadline that none can meet", impossible_deadline, "none", "star=deadline us=deadline"},
    {"a cost ceiling", ceiling, "fallback: rack(chosen) lap(fallback) star(fallback)", "us=cost eu=cost"},
    {"a spent budget still allows what is free", zero_budget, "fallback: rack(chosen)", "us=cost eu=cost"},
    {"a target's own budget", target_budget, "fallback: rack(chosen)", "us=cost eu=cost"},
    {"a rule's ceiling", thrifty, "fallback: rack(chosen)", "us=cost"},
    {"a tenant's labels and region", clinic, "fallback: rack(chosen) lap(fallback) star(fallback)", "us=tier eu=tier"},
    {"a tenant's list", guest, "single: star(chosen)", "lap=denied rack=denied"},
    {"a wish does not leave the tenant's region", guest_escapes, "fallback: lap(chosen) star(fallback)",
     "rack=residency"},
    {"an earlier hop's tiers", chain, "fallback: lap(chosen) star(fallback)", "rack=tier"},
    {"single", wish_single, "single: us(chosen)", "rack=ranked-out"},
    {"cascade on request", wish_cascade, "cascade: lap(local-first) us(fallback)", NULL},
    {"progressive on request", wish_progressive, "progressive: lap(draft) us(refine) eu(fallback)", NULL},
    {"an unaware client never gets progressive", progressive_unaware, "fallback: us(chosen)", NULL},
    {"not by rule either", rule_progressive_unaware, "cascade: lap(local-first)", NULL},
    {"by rule where the client is aware", rule_progressive_aware, "progressive: lap(draft) us(refine)", NULL},
    {"hedge goes to what is free", wish_hedge, "hedge: us(chosen) rack(hedge) eu(fallback)", NULL},
    {"no hedge over a metered link", wish_hedge_metered, "fallback:", NULL},
    {"several choices cannot be held back", cascade_of_choices, "fallback: star(chosen)", NULL},
    {"measured latency counts", slow_rack,
     "fallback: us(chosen) eu(fallback) lap(fallback) star(fallback) rack(fallback)", NULL},
    {"a long queue counts", queued_rack, "fallback: rack(chosen)", NULL},
};

// clang-format on

static struct td_buf text_of(const struct td_plan *plan, const struct td_policy *p) {
    struct td_buf b;
    td_buf_init(&b, 4096);
    if (plan->step_count == 0)
        assert_ok(td_buf_addz(&b, "none"));
    else
        assert_ok(td_buf_printf(&b, "%s:", td_mode_word(plan->mode)));
    for (uint32_t i = 0; i < plan->step_count; i++)
        assert_ok(td_buf_printf(&b, " %.*s(%s)", TD_STR_ARG(p->targets[plan->steps[i].target].name),
                                td_reason_word(plan->steps[i].reason)));
    return b;
}

static const struct td_plan *decide_row(const struct row *row, const struct td_config *c, struct td_arena *a,
                                        struct td_facts *f, struct td_world *w) {
    const struct td_plan *plan = NULL;
    *f = facts_plain();
    world_well(c, w);
    row->change(f, w, &c->policy);
    assert_ok(td_decide(f, &c->policy, w, a, &plan));
    return plan;
}

static void the_table_holds(void **state) {
    (void)state;
    struct td_config *c = config_of(HOUSE RULES);
    unsigned wrong = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct td_arena a;
        struct td_facts f;
        struct td_world w;
        td_arena_init(&a, 1 << 20);
        const struct td_plan *plan = decide_row(&rows[i], c, &a, &f, &w);
        struct td_buf got = text_of(plan, &c->policy);
        bool ok = td_str_starts(td_buf_str(&got), td_str_of(rows[i].plan));
        char list[200], *rest = list;
        snprintf(list, sizeof list, "%s", rows[i].verdicts ? rows[i].verdicts : "");
        for (char *item = strtok_r(list, " ", &rest); item; item = strtok_r(NULL, " ", &rest)) {
            char *eq = strchr(item, '=');
            const struct td_target *t = td_policy_target(&c->policy, td_str_n(item, (size_t)(eq - item)));
            const char *reason = td_reason_word(plan->verdicts[t->index].reason);
            if (strcmp(reason, eq + 1) != 0) {
                print_message("  %s: %s is %s\n", rows[i].what, item, reason);
                ok = false;
            }
        }
        if (!ok) {
            print_message("%s\n  got:  %s\n  want: %s\n", rows[i].what, td_buf_z(&got), rows[i].plan);
            wrong++;
        }
        td_buf_finish(&got);
        td_arena_finish(&a);
    }
    td_config_unref(c);
    assert_int_equal(wrong, 0);
}

// Whatever the plan is: each step passes the door that every attempt goes through, and no refused target is a step.
static void every_step_passes_the_door(void **state) {
    (void)state;
    struct td_config *c = config_of(HOUSE RULES);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct td_arena a;
        struct td_facts f;
        struct td_world w;
        td_arena_init(&a, 1 << 20);
        const struct td_plan *plan = decide_row(&rows[i], c, &a, &f, &w);
        for (uint32_t k = 0; k < plan->step_count; k++) {
            const struct td_target *t = &c->targets[plan->steps[k].target];
            assert_true(plan->verdicts[t->index].taken);
            assert_true(td_policy_check_attempt(&c->policy, &c->policy, &f, &w, t).allowed);
        }
        if (plan->mode == TD_MODE_PROGRESSIVE)
            assert_true(f.revisions);
        td_arena_finish(&a);
    }
    td_config_unref(c);
}

static void the_same_inputs_give_the_same_plan(void **state) {
    (void)state;
    struct td_config *c = config_of(HOUSE RULES);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct td_buf text[2];
        for (int k = 0; k < 2; k++) {
            struct td_arena a;
            struct td_facts f;
            struct td_world w;
            td_arena_init(&a, 1 << 20);
            td_buf_init(&text[k], 1 << 20);
            assert_ok(td_explain_json(decide_row(&rows[i], c, &a, &f, &w), &c->policy, &f, &text[k]));
            td_arena_finish(&a);
        }
        assert_int_equal(text[0].n, text[1].n);
        assert_memory_equal(text[0].p, text[1].p, text[0].n);
        td_buf_finish(&text[0]);
        td_buf_finish(&text[1]);
    }
    td_config_unref(c);
}

static struct td_buf explain(const struct td_config *c, const struct td_facts *f, const struct td_world *w,
                             struct td_arena *a) {
    const struct td_plan *plan = NULL;
    struct td_buf b;
    td_buf_init(&b, 1 << 20);
    assert_ok(td_decide(f, &c->policy, w, a, &plan));
    assert_ok(td_explain_json(plan, &c->policy, f, &b));
    return b;
}

static void a_stored_decision_replays_byte_for_byte(void **state) {
    (void)state;
    struct td_config *c = config_of(HOUSE RULES);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct td_arena a;
        struct td_facts f, g;
        struct td_world w, v;
        struct td_buf inputs, again;
        td_arena_init(&a, 4 << 20);
        td_buf_init(&inputs, 1 << 16);
        td_buf_init(&again, 1 << 16);
        decide_row(&rows[i], c, &a, &f, &w);
        f.draw = UINT64_MAX - i;
        w.targets[US].itl_us_p50 = 12345;
        w.targets[US].budget_left_nusd = -7;
        struct td_buf before = explain(c, &f, &w, &a);
        assert_ok(td_decision_inputs_write(&f, &w, &c->policy, &inputs));
        assert_ok(td_decision_inputs_read(td_buf_str(&inputs), &c->policy, &a, &g, &v, NULL));
        assert_memory_equal(&v, &w, sizeof v);
        struct td_buf after = explain(c, &g, &v, &a);
        assert_int_equal(before.n, after.n);
        assert_memory_equal(before.p, after.p, before.n);
        assert_ok(td_decision_inputs_write(&g, &v, &c->policy, &again));
        assert_int_equal(inputs.n, again.n);
        assert_memory_equal(inputs.p, again.p, again.n);
        td_buf_finish(&before);
        td_buf_finish(&after);
        td_buf_finish(&inputs);
        td_buf_finish(&again);
        td_arena_finish(&a);
    }
    td_config_unref(c);
}

static void a_row_replays_under_another_policy(void **state) {
    (void)state;
    struct td_config *c = config_of(HOUSE RULES);
    struct td_config *other = config_of("version: 1\ntargets:\n"
                                        "  - {name: new, tier: device, provider: llama, model: /n.gguf, quality: 0.8}\n"
                                        "  - {name: rack, tier: onprem, provider: openai, model: mid, base_url: "
                                        "'https://rack.lan/v1', terminal: true, region: eu, clearance: internal}\n");
    struct row row = {.change = rack_open};
    struct td_arena a;
    struct td_facts f, g;
    struct td_world w, v;
    struct td_buf inputs;
    td_arena_init(&a, 4 << 20);
    td_buf_init(&inputs, 1 << 16);
    decide_row(&row, c, &a, &f, &w);
    f.labels = td_policy_label(&c->policy, TD_STR("forbidden")) | TD_LABEL_PHI;
    assert_ok(td_decision_inputs_write(&f, &w, &c->policy, &inputs));
    assert_ok(td_decision_inputs_read(td_buf_str(&inputs), &other->policy, &a, &g, &v, NULL));
    assert_int_equal(g.labels, TD_LABEL_PHI | TD_LABEL_OTHER);
    assert_true(v.targets[0].ready);
    assert_int_equal(v.targets[1].breaker, TD_BREAKER_OPEN);
    td_buf_finish(&inputs);
    td_arena_finish(&a);
    td_config_unref(c);
    td_config_unref(other);
}

static void what_was_never_written_is_refused(void **state) {
    (void)state;
    static const char *const texts[] = {
        "",
        "{}",
        "[]",
        "{\"v\":2,\"facts\":{},\"world\":{},\"targets\":{}}",
        "{\"v\":1,\"facts\":[],\"world\":{},\"targets\":{}}",
        "{\"v\":1,\"facts\":{\"kind\":3},\"world\":{},\"targets\":{}}",
        "{\"v\":1,\"facts\":{\"in\":-1},\"world\":{},\"targets\":{}}",
        "{\"v\":1,\"facts\":{\"in\":4294967296},\"world\":{},\"targets\":{}}",
        "{\"v\":1,\"facts\":{\"labels\":[1]},\"world\":{},\"targets\":{}}",
        "{\"v\":1,\"facts\":{},\"world\":{},\"targets\":{\"us\":{\"breaker\":9}}}",
    };
    struct td_config *c = config_of(HOUSE);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct td_arena a;
        struct td_facts f;
        struct td_world w;
        td_arena_init(&a, 1 << 20);
        assert_int_equal(td_decision_inputs_read(td_str_of(texts[i]), &c->policy, &a, &f, &w, NULL), TD_ERR_BAD_JSON);
        td_arena_finish(&a);
    }
    td_config_unref(c);
}

// When the network is gone the device must still answer within the connect budget of 2 s.
static void connecting_leaves_the_next_one_time(void **state) {
    (void)state;
    struct td_config *c = config_of(HOUSE);
    struct td_facts f = facts_plain();
    struct td_world w;
    struct td_arena a;
    const struct td_plan *plan;
    td_arena_init(&a, 1 << 20);
    world_well(c, &w);
    f.model = TD_STR("us"); // then eu, then star, which is the device
    f.data_class = TD_CLASS_PUBLIC;
    f.stream = true;
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(plan->step_count, 3);
    assert_int_equal(plan->steps[0].connect_ms, 2000 - 100 - 60 - 250); // slack, the device's first token, eu's try
    assert_int_equal(plan->steps[1].connect_ms, 2000 - 100 - 60);
    assert_int_equal(plan->steps[1].connect_late_ms, 250);
    assert_int_equal(plan->steps[2].connect_ms, 0); // nobody is left behind it
    w.targets[STAR].ttft_ms_p50 = 20;
    w.targets[STAR].ttft_ms_p95 = 45;
    w.targets[STAR].itl_us_p50 = 1000;
    w.targets[EU].connect_ms_p95 = 60;
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(plan->steps[0].connect_ms, 2000 - 100 - 45 - 120);
    f.stream = false; // then it is the whole answer that must be there
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(plan->steps[1].connect_ms, 2000 - 100 - 45 - 200);
    w.targets[STAR].itl_us_p50 = 100000; // it would take ten times the budget: half is enough
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(plan->steps[1].connect_ms, 1000);
    w.targets[EU].connect_ms_p95 = 800; // nor is a slow line given up before it can have answered
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(plan->steps[1].connect_ms, 1600);
    w.targets[EU].connect_ms_p95 = 1900;
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(plan->steps[1].connect_ms, 2000);
    w.link.rtt_ms = 300;
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(plan->steps[0].connect_ms, 1200);
    td_arena_finish(&a);
    td_config_unref(c);
}

static void unknown_models_are_unknown(void **state) {
    (void)state;
    struct td_config *c = config_of(HOUSE);
    static const char *const names[] = {"gpt-5", "auto:best", "auto:", "Auto", "us "};
    struct td_facts f = facts_plain();
    struct td_world w;
    struct td_arena a;
    const struct td_plan *plan;
    world_well(c, &w);
    td_arena_init(&a, 1 << 20);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        f.model = td_str_of(names[i]);
        assert_int_equal(td_decide(&f, &c->policy, &w, &a, &plan), TD_ERR_MODEL_NOT_FOUND);
    }
    f.model = TD_STR_NONE;
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    td_arena_finish(&a);
    td_config_unref(c);
}

static void equals_share_the_work(void **state) {
    (void)state;
    struct td_config *c = config_of("version: 1\ntargets:\n"
                                    "  - {name: a, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', "
                                    "region: eu, clearance: internal}\n"
                                    "  - {name: b, tier: cloud, provider: openai, model: m, base_url: 'https://b.b', "
                                    "region: eu, clearance: internal}\n");
    struct td_facts f = facts_plain();
    struct td_world w;
    unsigned first[2] = {0};
    world_well(c, &w);
    for (uint64_t draw = 0; draw < 1000; draw++) {
        struct td_arena a;
        const struct td_plan *plan;
        td_arena_init(&a, 1 << 20);
        f.draw = draw * 0x9e3779b97f4a7c15u;
        assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
        first[plan->steps[0].target]++;
        td_arena_finish(&a);
    }
    assert_true(first[0] > 400 && first[1] > 400);
    td_config_unref(c);
}

static void the_error_says_what_refused_whom(void **state) {
    (void)state;
    static const struct {
        void (*change)(struct td_facts *, struct td_world *, const struct td_policy *);
        enum td_err err;
        const char *message;
    } cases[] = {
        {forbidden, TD_ERR_BLOCKED, "blocked by rule stop: not for any model"},
        {forced_offline_image, TD_ERR_UNAVAILABLE, "us: there is no network"},
        {last_retry_after, TD_ERR_UNAVAILABLE, "us: it asked to be left alone for now"},
        {impossible_deadline, TD_ERR_NO_TARGET,
         "open: the data class is above its clearance (internal > public; it states no region)"},
    };
    struct td_config *c = config_of(HOUSE RULES);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct row row = {.change = cases[i].change};
        struct td_arena a;
        struct td_facts f;
        struct td_world w;
        struct td_buf b;
        td_arena_init(&a, 1 << 20);
        td_buf_init(&b, 1 << 16);
        const struct td_plan *plan = decide_row(&row, c, &a, &f, &w);
        assert_int_equal(td_plan_error(plan), cases[i].err);
        assert_ok(td_no_target_message(plan, &c->policy, &b));
        if (!strstr(td_buf_z(&b), cases[i].message))
            fail_msg("%s", td_buf_z(&b));
        td_buf_finish(&b);
        td_arena_finish(&a);
    }
    td_config_unref(c);
}

static void one_kind_of_refusal_gets_its_own_error(void **state) {
    (void)state;
    struct td_config *c =
        config_of("version: 1\ntargets:\n  - {name: d, tier: device, provider: llama, model: /x, context: 100}\n");
    struct td_facts f = facts_plain();
    struct td_world w;
    struct td_arena a;
    const struct td_plan *plan;
    world_well(c, &w);
    td_arena_init(&a, 1 << 20);
    f.input_tokens = 1000;
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(td_plan_error(plan), TD_ERR_CONTEXT_LENGTH);
    f = facts_plain();
    f.capabilities |= TD_CAP_IMAGE;
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(td_plan_error(plan), TD_ERR_UNSUPPORTED);
    f = facts_plain();
    w.targets[0].full = true;
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(td_plan_error(plan), TD_ERR_OVERLOAD);
    w.targets[0].full = false;
    w.targets[0].ready = false;
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(td_plan_error(plan), TD_ERR_UNAVAILABLE);
    assert_int_equal(plan->verdicts[0].reason, TD_REASON_NOT_READY);
    w.targets[0].missing = true;
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(plan->verdicts[0].reason, TD_REASON_NO_MODEL);
    w.targets[0].ready = true;
    f.input_tokens = 80;
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(plan->step_count, 1); // 100 are configured
    w.targets[0].context = 50;             // the loaded model takes fewer
    assert_ok(td_decide(&f, &c->policy, &w, &a, &plan));
    assert_int_equal(td_plan_error(plan), TD_ERR_CONTEXT_LENGTH);
    td_arena_finish(&a);
    td_config_unref(c);
}

static void explanations_name_every_target(void **state) {
    (void)state;
    struct td_config *c = config_of(HOUSE RULES);
    struct row row = {.change = phi};
    struct td_arena a;
    struct td_facts f;
    struct td_world w;
    struct td_buf b;
    td_json *root;
    td_arena_init(&a, 4 << 20);
    td_buf_init(&b, 1 << 20);
    const struct td_plan *plan = decide_row(&row, c, &a, &f, &w);
    assert_ok(td_explain_text(plan, &c->policy, &f, &b));
    const char *text = td_buf_z(&b);
    for (uint32_t i = 0; i < c->target_count; i++)
        assert_non_null(strstr(text, c->targets[i].name.p));
    assert_non_null(strstr(text, "tier: its tier is not allowed for this request (rule phi-stays)"));
    td_buf_clear(&b);
    assert_ok(td_explain_json(plan, &c->policy, &f, &b));
    assert_ok(td_json_parse(&a, td_buf_str(&b), 16, &root, NULL));
    assert_int_equal(yyjson_arr_size(td_json_get(root, "targets")), c->target_count);
    assert_str(td_json_get_str(yyjson_arr_get(td_json_get(root, "targets"), US), "rule"), "phi-stays");
    td_buf_finish(&b);
    td_arena_finish(&a);
    td_config_unref(c);
}

static void memory_comes_from_the_arena_alone(void **state) {
    (void)state;
    struct td_config *c = config_of(HOUSE);
    struct td_facts f = facts_plain();
    struct td_world w;
    struct td_arena a;
    const struct td_plan *plan;
    world_well(c, &w);
    td_arena_init(&a, 64);
    assert_int_equal(td_decide(&f, &c->policy, &w, &a, &plan), TD_ERR_NOMEM);
    td_arena_finish(&a);
    td_config_unref(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_holds),
        cmocka_unit_test(every_step_passes_the_door),
        cmocka_unit_test(the_same_inputs_give_the_same_plan),
        cmocka_unit_test(a_stored_decision_replays_byte_for_byte),
        cmocka_unit_test(a_row_replays_under_another_policy),
        cmocka_unit_test(what_was_never_written_is_refused),
        cmocka_unit_test(connecting_leaves_the_next_one_time),
        cmocka_unit_test(unknown_models_are_unknown),
        cmocka_unit_test(equals_share_the_work),
        cmocka_unit_test(the_error_says_what_refused_whom),
        cmocka_unit_test(one_kind_of_refusal_gets_its_own_error),
        cmocka_unit_test(explanations_name_every_target),
        cmocka_unit_test(memory_comes_from_the_arena_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
