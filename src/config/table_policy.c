// SPDX-License-Identifier: Apache-2.0
// Who may do what: sets of targets, tenants, rules, what the text itself says.
#include "config/table.h"

#include "privacy/content.h"

// ---- sets of targets

static enum td_err read_set_targets(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_target_set *set = base;
    for (const struct td_node *n = td_first_item(node); n; n = td_next_item(node, n)) {
        const struct td_target *t = NULL;
        for (uint32_t i = 0; n->type == TD_NODE_SCALAR && i < l->config->target_count && !t; i++)
            if (td_str_eq(l->config->targets[i].name, n->text))
                t = &l->config->targets[i];
        if (!t)
            return td_option_error(l, n, "targets: expected the name of a target, '%.*s' is none",
                                   n->text.n > 40 ? 40 : (int)n->text.n, n->text.p ? n->text.p : "");
        set->targets |= 1ull << t->index;
    }
    return TD_OK;
}

static enum td_err read_set_regions(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_target_set *set = base;
    for (const struct td_node *n = td_first_item(node); n; n = td_next_item(node, n)) {
        if (n->type != TD_NODE_SCALAR || !td_region_valid(n->text))
            return td_option_error(l, n, "regions: expected regions such as eu, us-east or local");
        if (set->region_count == TD_REGIONS_MAX)
            return td_option_error(l, n, "regions: at most %u", TD_REGIONS_MAX);
        set->regions[set->region_count++] = n->text;
    }
    return TD_OK;
}

#define S(field) offsetof(struct td_target_set, field)
static const struct td_option td_config_set_rows[] = {
    {"tiers", TD_OPT_WORDS, S(tiers), 0, 0, NULL, "where they run", TIERS, td_bit_tier, .stated = S(has_tiers) + 1},
    {"regions", TD_OPT_CUSTOM, S(regions), 0, 0, NULL, "regions, each with all its parts (eu holds eu-west)",
     "one or a list of regions", NULL, NULL, TD_SHAPE_ONE, read_set_regions, S(has_regions) + 1},
    {"targets", TD_OPT_CUSTOM, S(targets), 0, 0, NULL, "names", "one or a list of target names", NULL, NULL,
     TD_SHAPE_ONE, read_set_targets, S(has_targets) + 1},
    {NULL}};

// ---- tenants

static enum td_err read_tenant_labels(struct td_loader *l, const struct td_node *node, void *base) {
    return td_config_read_labels(l, node, &((struct td_tenant *)base)->labels);
}

#define N(field) offsetof(struct td_tenant, field)
static const struct td_option rate_rows[] = {
    {"requests_per_min", TD_OPT_U32, N(requests_per_min), 0, 10000000, "0", "0 unlimited"},
    {"tokens_per_min", TD_OPT_U32, N(tokens_per_min), 0, U32_MAX, "0", "input and output; 0 unlimited"},
    {NULL}};
const struct td_option td_config_tenant_rows[] = {
    {"name", TD_OPT_NAME, N(name), 0, 0, NULL, "what keys and the ledger call it"},
    {"default_class", TD_OPT_WORD, N(default_class), 0, 0, NULL, "class of its requests that nothing labelled", CLASSES,
     td_word_class},
    {"labels", TD_OPT_CUSTOM, N(labels), 0, 0, NULL, "labels that each of its requests bears",
     "one or a list of labels", NULL, NULL, TD_SHAPE_ONE, read_tenant_labels},
    {"residency", TD_OPT_REGION, N(residency), 0, 0, NULL, "region its requests must stay in (or on the device)"},
    {"budget_usd_per_day", TD_OPT_USD, N(budget_day_nusd), 0, 0, NULL, "most it may spend in a day (UTC)"},
    {"budget_usd_per_month", TD_OPT_USD, N(budget_month_nusd), 0, 0, NULL, "most it may spend in a month (UTC)"},
    {"rate", TD_OPT_SECTION, 0, 0, 0, NULL, "rate limits", NULL, NULL, rate_rows},
    {"allow", TD_OPT_SECTION, N(allow), 0, 0, NULL, "the only targets it may reach", NULL, NULL, td_config_set_rows,
     .stated = N(has_allow) + 1},
    {"batch", TD_OPT_BOOL, N(batch), 0, 0, "false", "its requests give way to others under load"},
    {NULL}};

static int by_name(const void *a, const void *b) {
    const struct td_str x = ((const struct td_tenant *)a)->name, y = ((const struct td_tenant *)b)->name;
    int c = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);
    return c ? c : (x.n > y.n) - (x.n < y.n);
}

enum td_err td_config_read_tenants(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_config *c = base;
    struct td_tenant *tenants;
    void *items;
    uint32_t count = 0;
    if (node->type != TD_NODE_LIST)
        return td_option_error(l, node, "tenants: expected a list");
    enum td_err err = td_option_items(l, node, TD_TENANTS_MAX, sizeof *tenants, &items);
    if (err != TD_OK)
        return err;
    tenants = items;
    for (const struct td_node *n = node->first; n; n = n->next) {
        struct td_tenant *t = &tenants[count++];
        t->budget_day_nusd = t->budget_month_nusd = -1;
        if (n->type != TD_NODE_MAP)
            return td_option_error(l, n, "tenants: expected a map with a name");
        err = td_option_read(l, n, td_config_tenant_rows, t);
        if (err != TD_OK)
            return err;
        if (!t->name.n)
            return td_option_error(l, n, "a tenant needs a name");
    }
    qsort(tenants, count, sizeof *tenants, by_name);
    for (uint32_t i = 1; i < count; i++)
        if (by_name(&tenants[i - 1], &tenants[i]) == 0)
            return td_option_error(l, node, "tenants: '%.*s' stands here twice", TD_STR_ARG(tenants[i].name));
    c->policy.tenants = tenants;
    c->policy.tenant_count = count;
    return TD_OK;
}

// ---- policy

static enum td_err read_when_labels(struct td_loader *l, const struct td_node *node, void *base) {
    return td_config_read_labels(l, node, &((struct td_when *)base)->labels);
}
static enum td_err read_when_labels_all(struct td_loader *l, const struct td_node *node, void *base) {
    return td_config_read_labels(l, node, &((struct td_when *)base)->labels_all);
}

// A class, a list of classes, or {min: class}.
static enum td_err read_when_class(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_when *when = base;
    uint32_t v;
    if (node->type == TD_NODE_MAP) {
        const struct td_node *n = node->first;
        if (node->count != 1 || !td_str_is(n->key, "min") || n->type != TD_NODE_SCALAR || !td_word_class(n->text, &v))
            return td_option_error(l, node, "data_class: expected {min: class}, a class or a list");
        for (; v <= TD_CLASS_RESTRICTED; v++)
            when->classes |= 1u << v;
        return TD_OK;
    }
    for (const struct td_node *n = td_first_item(node); n; n = td_next_item(node, n)) {
        if (n->type != TD_NODE_SCALAR || !td_word_class(n->text, &v))
            return td_option_error(l, n, "data_class: expected " CLASSES);
        when->classes |= 1u << v;
    }
    return TD_OK;
}

#define W(field) offsetof(struct td_when, field)
static const struct td_option tokens_rows[] = {
    {"min", TD_OPT_U32, W(tokens_min), 0, U32_MAX, "0", "at least this many"},
    {"max", TD_OPT_U32, W(tokens_max), 1, U32_MAX, NULL, "at most this many"},
    {NULL}};
static const struct td_option link_rows[] = {{"up", TD_OPT_TRISTATE, W(link_up), 0, 0, NULL, "there is a network"},
                                             {"metered", TD_OPT_TRISTATE, W(metered), 0, 0, NULL, "it is metered"},
                                             {NULL}};
static const struct td_option device_rows[] = {
    {"on_battery", TD_OPT_TRISTATE, W(on_battery), 0, 0, NULL, "no mains power"},
    {"hot", TD_OPT_TRISTATE, W(hot), 0, 0, NULL, "thermally throttled"},
    {"battery_below", TD_OPT_U32, W(battery_below_percent), 1, 100, NULL, "battery charge under this percentage"},
    {NULL}};
static const struct td_option when_rows[] = {
    {"labels", TD_OPT_CUSTOM, W(labels), 0, 0, NULL, "bears any of these labels", "one or a list of labels", NULL, NULL,
     TD_SHAPE_ONE, read_when_labels},
    {"labels_all", TD_OPT_CUSTOM, W(labels_all), 0, 0, NULL, "bears all of these labels", "one or a list of labels",
     NULL, NULL, TD_SHAPE_ONE, read_when_labels_all},
    {"data_class", TD_OPT_CUSTOM, W(classes), 0, 0, NULL, "is of this class, of one of these, or {min: class}",
     CLASSES " | a list | {min: class}", NULL, NULL, TD_SHAPE_ONE, read_when_class},
    {"residency", TD_OPT_REGION, W(residency), 0, 0, NULL, "asks to stay in this region"},
    {"tenant", TD_OPT_NAME, W(tenant), 0, 0, NULL, "comes from this tenant"},
    {"model", TD_OPT_TEXT, W(model), 1, TD_NAME_BYTES_MAX, NULL, "asks for this model name"},
    {"kind", TD_OPT_WORDS, W(kinds), 0, 0, NULL, "is of this kind", "chat | completion | embedding", td_bit_kind},
    {"capabilities", TD_OPT_WORDS, W(capabilities), 0, 0, NULL, "needs any of these", CAPABILITIES, td_bit_capability},
    {"tools", TD_OPT_TRISTATE, W(tools), 0, 0, NULL, "offers tools"},
    {"tokens", TD_OPT_SECTION, 0, 0, 0, NULL, "estimated input tokens", NULL, NULL, tokens_rows},
    {"features", TD_OPT_WORDS, W(features), 0, 0, NULL, "looks like any of these",
     "question | command | code | math | fresh | multi_turn | long | creative | analysis", td_bit_feature},
    {"prefer", TD_OPT_WORDS, W(prefers), 0, 0, NULL, "is to be answered by this preference", PREFERS, td_bit_prefer},
    {"mode", TD_OPT_WORDS, W(modes), 0, 0, NULL, "asks for this mode", MODES, td_bit_mode},
    {"conversation", TD_OPT_TRISTATE, W(conversation), 0, 0, NULL, "names a conversation or continues one"},
    {"fresh", TD_OPT_TRISTATE, W(fresh), 0, 0, NULL, "wants information newer than training"},
    {"batch", TD_OPT_TRISTATE, W(batch), 0, 0, NULL, "is of batch priority"},
    {"stream", TD_OPT_TRISTATE, W(stream), 0, 0, NULL, "is streamed"},
    {"link", TD_OPT_SECTION, 0, 0, 0, NULL, "facts of the network", NULL, NULL, link_rows},
    {"device", TD_OPT_SECTION, 0, 0, 0, NULL, "facts of this machine", NULL, NULL, device_rows},
    {NULL}};

// A word, or {do: word, min_quality: 0.5}.
static enum td_err on_cut_of(struct td_loader *l, const struct td_node *node, enum td_on_cut *on_cut, double *min) {
    static const struct td_option min_row = {"min_quality", TD_OPT_NUMBER, 0, 0, 1, NULL, NULL};
    const struct td_node *word = node;
    uint32_t v;
    if (node->type == TD_NODE_MAP) {
        word = NULL;
        for (const struct td_node *n = node->first; n; n = n->next) {
            if (td_str_is(n->key, "do")) {
                word = n;
            } else if (td_str_is(n->key, "min_quality")) {
                enum td_err err = td_option_value(l, n, &min_row, min);
                if (err != TD_OK)
                    return err;
            } else {
                return td_option_error(l, n, "on_cut: expected do and min_quality");
            }
        }
    }
    if (!word || word->type != TD_NODE_SCALAR || !td_word_on_cut(word->text, &v))
        return td_option_error(l, word ? word : node,
                               "on_cut: expected continue | restart | error, or {do, min_quality}");
    *on_cut = v;
    return TD_OK;
}

static enum td_err read_rule_on_cut(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_rule *rule = base;
    return on_cut_of(l, node, &rule->on_cut, &rule->on_cut_min_quality);
}

static enum td_err read_transform(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_rule *rule = base;
    if (node->type == TD_NODE_SCALAR && td_str_is(node->text, "block"))
        rule->transform = TD_TRANSFORM_BLOCK;
    else if (node->type == TD_NODE_SCALAR && td_str_is(node->text, "local_only"))
        rule->transform = TD_TRANSFORM_LOCAL_ONLY;
    else
        return td_option_error(l, node, "transform: expected block | local_only; no other transform is available");
    return TD_OK;
}

#define R(field) offsetof(struct td_rule, field)
static const struct td_option rule_budget_rows[] = {
    {"request_usd", TD_OPT_USD, R(cost_nusd_max), 0, 0, NULL, "most that one request may be expected to cost"}, {NULL}};
static const struct td_option rule_rows[] = {
    {"name", TD_OPT_NAME, R(name), 0, 0, NULL, "what explanations and the ledger call it; default: rule-1, rule-2, …"},
    {"when", TD_OPT_SECTION, R(when), 0, 0, NULL, "all of these hold; nothing: always", NULL, NULL, when_rows},
    {"allow", TD_OPT_SECTION, R(allow), 0, 0, NULL, "the only targets; what several rules allow intersects", NULL, NULL,
     td_config_set_rows, .stated = R(has_allow) + 1},
    {"deny", TD_OPT_SECTION, R(deny), 0, 0, NULL, "not these: whatever is in any of the lists", NULL, NULL,
     td_config_set_rows, .stated = R(has_deny) + 1},
    {"transform", TD_OPT_CUSTOM, R(transform), 0, 0, NULL,
     "block refuses the request, local_only keeps it on the device", "block | local_only", NULL, NULL, TD_SHAPE_ONE,
     read_transform},
    {"mode", TD_OPT_WORD, R(mode), 0, 0, NULL, "how attempts follow each other", "auto | " MODES, td_word_mode},
    {"on_cut", TD_OPT_CUSTOM, R(on_cut), 0, 0, NULL, "what follows when an answer breaks off",
     "continue | restart | error | {do: word, min_quality: 0..1}", NULL, NULL, TD_SHAPE_ONE, read_rule_on_cut,
     R(has_on_cut) + 1},
    {"outbox", TD_OPT_BOOL, R(outbox), 0, 0, NULL, "keep for a better answer when only a lesser one can be had",
     .stated = R(has_outbox) + 1},
    {"budget", TD_OPT_SECTION, 0, 0, 0, NULL, "limits of cost", NULL, NULL, rule_budget_rows},
    {"reason", TD_OPT_TEXT, R(reason), 1, 200, NULL, "said to the client when this rule refuses"},
    {NULL}};

static enum td_err read_rules(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_policy *p = base;
    void *items;
    if (node->type != TD_NODE_LIST)
        return td_option_error(l, node, "rules: expected a list");
    enum td_err err = td_option_items(l, node, TD_RULES_MAX, sizeof *p->rules, &items);
    p->rules = items;
    for (const struct td_node *n = node->first; n && err == TD_OK; n = n->next) {
        struct td_rule *rule = &p->rules[p->rule_count++];
        rule->cost_nusd_max = -1;
        rule->on_cut_min_quality = -1;
        if (n->type != TD_NODE_MAP)
            return td_option_error(l, n, "rules: expected a map such as {when: …, allow: …}");
        err = td_option_read(l, n, rule_rows, rule);
        if (err == TD_OK && !rule->name.n) {
            rule->name = td_arena_printf(l->arena, "rule-%u", p->rule_count);
            err = rule->name.p ? TD_OK : td_error_set(l->e, TD_ERR_NOMEM, "out of memory while reading rules");
        }
        for (uint32_t i = 0; err == TD_OK && i + 1 < p->rule_count; i++)
            if (td_str_eq(p->rules[i].name, rule->name))
                return td_option_error(l, n, "rules: the name '%.*s' stands here twice", TD_STR_ARG(rule->name));
    }
    return err;
}

static enum td_err read_default_on_cut(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_policy *p = base;
    return on_cut_of(l, node, &p->on_cut, &p->on_cut_min_quality);
}

static enum td_err read_hedge_share(struct td_loader *l, const struct td_node *node, void *base) {
    static const struct td_option row = {"max_share", TD_OPT_NUMBER, 0, 0, 0.2, NULL, NULL};
    double share = 0;
    enum td_err err = td_option_value(l, node, &row, &share);
    ((struct td_policy *)base)->hedge_ppm_max = (uint32_t)(share * 1e6 + 0.5);
    return err;
}

#define P(field) offsetof(struct td_policy, field)
static const struct td_option cascade_rows[] = {
    {"threshold", TD_OPT_NUMBER, P(cascade_threshold), 0, 1, "0.5", "confidence below which the next target is asked"},
    {"hold_tokens", TD_OPT_U32, P(hold_tokens), 0, 100000, "48", "tokens held back until the answer is trusted"},
    {"hold_ms", TD_OPT_U32, P(hold_ms), 0, 60000, "1500", "longest time they are held back"},
    {"pass_draft", TD_OPT_BOOL, P(pass_draft), 0, 0, "false", "show the unsure draft to the model that is asked next"},
    {NULL}};
static const struct td_option hedge_rows[] = {
    {"paid", TD_OPT_BOOL, P(hedge_paid), 0, 0, "false", "also to targets that cost money"},
    {"max_share", TD_OPT_CUSTOM, P(hedge_ppm_max), 0, 0, "0.02", "of all calls", "0 to 0.2", NULL, NULL, TD_SHAPE_ONE,
     read_hedge_share},
    {"after_ms", TD_OPT_U32, P(hedge_after_ms), 0, 600000, "0", "0: the first target's own p95 to first token"},
    {NULL}};
static const struct td_option default_rows[] = {
    {"prefer", TD_OPT_WORD, P(prefer), 0, 0, "balanced", "what counts where the request does not say", PREFERS,
     td_word_prefer},
    {"mode", TD_OPT_WORD, P(mode), 0, 0, "auto", "auto: chosen for each request", "auto | " MODES, td_word_mode},
    {"on_cut", TD_OPT_CUSTOM, P(on_cut), 0, 0, "continue", "what follows when an answer breaks off",
     "continue | restart | error | {do: word, min_quality: 0..1}", NULL, NULL, TD_SHAPE_ONE, read_default_on_cut},
    {"outbox", TD_OPT_BOOL, P(outbox), 0, 0, "false", "keep requests for a better answer when offline"},
    {"cascade", TD_OPT_SECTION, 0, 0, 0, NULL, "local first, escalate when unsure", NULL, NULL, cascade_rows},
    {"hedge", TD_OPT_SECTION, 0, 0, 0, NULL, "a second attempt when the first is slow", NULL, NULL, hedge_rows},
    {NULL}};

// ---- content rules

struct content_label {
    enum td_class data_class;
    const struct td_node *words, *patterns;
};

static enum td_err read_content_words(struct td_loader *l, const struct td_node *node, void *base) {
    (void)l;
    ((struct content_label *)base)->words = node;
    return TD_OK;
}
static enum td_err read_content_patterns(struct td_loader *l, const struct td_node *node, void *base) {
    (void)l;
    ((struct content_label *)base)->patterns = node;
    return TD_OK;
}

#define C(field) offsetof(struct content_label, field)
static const struct td_option content_label_rows[] = {
    {"class", TD_OPT_WORD, C(data_class), 0, 0, NULL,
     "raises the request at least to this class; default: pii, phi, pci confidential, secret restricted, others none",
     CLASSES, td_word_class},
    {"words", TD_OPT_CUSTOM, C(words), 0, 0, NULL, "whole words or phrases, regardless of case",
     "one or a list of texts", NULL, NULL, TD_SHAPE_ONE, read_content_words},
    {"patterns", TD_OPT_CUSTOM, C(patterns), 0, 0, NULL, "regular expressions", "one or a list of texts", NULL, NULL,
     TD_SHAPE_ONE, read_content_patterns},
    {NULL}};

static enum td_err add_content(struct td_loader *l, const struct td_node *list, uint32_t label,
                               enum td_err (*add)(struct td_content_rules *, struct td_str, uint32_t,
                                                  struct td_error *)) {
    for (const struct td_node *n = list ? td_first_item(list) : NULL; n; n = td_next_item(list, n)) {
        struct td_error why = {0};
        if (n->type != TD_NODE_SCALAR)
            return td_option_error(l, n, "expected a text");
        enum td_err err = add(l->config->policy.content, n->text, label, &why);
        if (err == TD_ERR_NOMEM)
            return td_error_set(l->e, err, "out of memory while reading content rules");
        if (err != TD_OK)
            return td_option_error(l, n, "%s", why.message);
    }
    return TD_OK;
}

static enum td_err read_content_labels(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_policy *p = base;
    enum td_err err = TD_OK;
    if (node->type != TD_NODE_MAP)
        return td_option_error(l, node, "labels: expected a map of labels");
    p->content = td_content_create(l->arena);
    if (!p->content)
        return td_error_set(l->e, TD_ERR_NOMEM, "out of memory while reading content rules");
    for (const struct td_node *n = node->first; n && err == TD_OK; n = n->next) {
        struct content_label cl = {0};
        uint32_t bit = td_name_valid(n->key) ? td_label_intern(l, n, n->key) : 0;
        if (!td_name_valid(n->key))
            return td_option_error(l, n, "expected a label: letters, digits, '.', '_' and '-'");
        if (!bit)
            return l->e->code;
        if (n->type != TD_NODE_MAP)
            return td_option_error(l, n, "expected a map with words, patterns or class");
        err = td_option_read(l, n, content_label_rows, &cl);
        if (cl.data_class != TD_CLASS_UNKNOWN)
            p->label_class[__builtin_ctz(bit)] = cl.data_class;
        if (err == TD_OK)
            err = add_content(l, cl.words, bit, td_content_add_word);
        if (err == TD_OK)
            err = add_content(l, cl.patterns, bit, td_content_add_pattern);
    }
    if (err == TD_OK && td_content_compile(p->content) != TD_OK)
        err = td_error_set(l->e, TD_ERR_NOMEM, "out of memory while compiling content rules");
    return err;
}

static const struct td_option content_rows[] = {{"labels", TD_OPT_CUSTOM, 0, 0, 0, NULL,
                                                 "what puts each label on a text", "a map of labels", NULL,
                                                 content_label_rows, TD_SHAPE_MAP, read_content_labels},
                                                {NULL}};
const struct td_option td_config_policy_rows[] = {
    {"content", TD_OPT_SECTION, 0, 0, 0, NULL, "labels from the text itself", NULL, NULL, content_rows},
    {"rules", TD_OPT_CUSTOM, 0, 0, 0, NULL, "all that match apply; none widens what another narrowed",
     "a list of rules", NULL, rule_rows, TD_SHAPE_LIST, read_rules},
    {"default", TD_OPT_SECTION, 0, 0, 0, NULL, "where neither request nor rule speaks", NULL, NULL, default_rows},
    {NULL}};
