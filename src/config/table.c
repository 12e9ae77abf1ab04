// SPDX-License-Identifier: Apache-2.0
// All options, one row each. The order of rows is the order of reading: targets before the rules that name them.
#include "config/option.h"

#include "privacy/content.h"
#include "target/words.h"

#define OF_tier td_tier_of
#define OF_model_class td_model_class_of
#define OF_connectivity td_connectivity_of
#define OF_kind td_kind_of
#define OF_class td_class_parse
#define OF_prefer td_prefer_parse
#define OF_mode td_mode_parse

// Adapters: the words of an enum as the rows want them.
#define WORD(name, type)                                                                                               \
    static bool word_##name(struct td_str s, uint32_t *v) {                                                            \
        type e;                                                                                                        \
        if (!OF_##name(s, &e))                                                                                         \
            return false;                                                                                              \
        *v = (uint32_t)e;                                                                                              \
        return true;                                                                                                   \
    }
#define BITS(name, type)                                                                                               \
    static bool bit_##name(struct td_str s, uint32_t *v) {                                                             \
        type e;                                                                                                        \
        if (!OF_##name(s, &e))                                                                                         \
            return false;                                                                                              \
        *v = 1u << (uint32_t)e;                                                                                        \
        return true;                                                                                                   \
    }
WORD(tier, enum td_tier)
WORD(model_class, enum td_model_class)
WORD(class, enum td_class)
WORD(prefer, enum td_prefer)
WORD(connectivity, enum td_connectivity)
BITS(tier, enum td_tier)
BITS(kind, enum td_kind)
BITS(prefer, enum td_prefer)
BITS(mode, enum td_mode)

static bool word_of_list(struct td_str s, const char *const *words, uint32_t *v) {
    for (uint32_t i = 0; words[i]; i++)
        if (td_str_is(s, words[i])) {
            *v = i;
            return true;
        }
    return false;
}

static bool word_provider(struct td_str s, uint32_t *v) {
    enum td_provider p;
    if (!td_provider_of(s, &p) || p == TD_PROVIDER_FAKE) // the fake is for tests, which build their targets by hand
        return false;
    *v = p;
    return true;
}
static bool word_mode(struct td_str s, uint32_t *v) {
    enum td_mode m = TD_MODE_DEFAULT;
    if (!td_str_is(s, "auto") && !td_mode_parse(s, &m))
        return false;
    *v = m;
    return true;
}
static bool word_on_cut(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"continue", "restart", "error", NULL}, v);
}
static bool word_durability(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"batched", "before_answer", "before_egress", NULL}, v);
}
static bool word_reconcile(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"take_better", "keep_local", "ask", NULL}, v);
}
static bool word_log_level(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"error", "warn", "info", "debug", NULL}, v);
}
static bool word_path_style(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"openai", "azure", NULL}, v);
}
static bool word_prefix_mark(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"plain", "vllm", "mistral", NULL}, v);
}
static bool bit_capability(struct td_str s, uint32_t *v) {
    return td_capability_of(s, v);
}
static bool bit_feature(struct td_str s, uint32_t *v) {
    if (!word_of_list(s,
                      (const char *const[]){"question", "command", "code", "math", "fresh", "multi_turn", "long",
                                            "creative", "analysis", NULL},
                      v))
        return false;
    *v = 1u << *v;
    return true;
}

#define TIERS "device | edge | onprem | cloud"
#define CLASSES "public | internal | confidential | restricted"
#define PREFERS "balanced | fast | cheap | quality | private"
#define MODES "single | fallback | cascade | progressive | hedge"
#define CAPABILITIES                                                                                                   \
    "chat | completion | embedding | tools | json | json_schema | logprobs | infill | image | audio | file | "         \
    "choices | continue"
#define U32_MAX 4294967295.0
#define HEADER_NAME_BYTES_MAX 128u

static struct td_node *first_item(const struct td_node *node) {
    return node->type == TD_NODE_LIST ? node->first : (struct td_node *)(uintptr_t)node;
}
static struct td_node *next_item(const struct td_node *list, const struct td_node *item) {
    return list->type == TD_NODE_LIST ? item->next : NULL;
}

// One or a list of labels into a bit set.
static enum td_err read_labels(struct td_loader *l, const struct td_node *node, uint32_t *out) {
    *out = 0;
    for (const struct td_node *n = first_item(node); n; n = next_item(node, n)) {
        if (n->type != TD_NODE_SCALAR || !td_name_valid(n->text))
            return td_option_error(l, n, "expected a label: letters, digits, '.', '_' and '-'");
        uint32_t bit = td_label_intern(l, n, n->text);
        if (!bit)
            return l->e->code;
        *out |= bit;
    }
    return TD_OK;
}

static const char *const class_expects = "expected " CLASSES;

// ---- targets

static enum td_err read_target_labels(struct td_loader *l, const struct td_node *node, void *base) {
    return read_labels(l, node, &((struct td_target *)base)->labels_cleared);
}

// A header that the configuration may add to requests. Not those that say where a message ends, whom a connection is
// for or what stands in the body (RFC 9110, RFC 9112 section 6): another value there would let two readers of the same
// bytes see two requests, or a fixed idempotency key give everyone the first answer. `authorization` belongs to the
// key.
static enum td_err check_header_name(struct td_loader *l, const struct td_node *node, const char *option,
                                     struct td_str name, bool for_key) {
    static const char *const ours[] = {"host",
                                       "content-length",
                                       "content-type",
                                       "content-encoding",
                                       "accept",
                                       "accept-encoding",
                                       "connection",
                                       "keep-alive",
                                       "te",
                                       "trailer",
                                       "upgrade",
                                       "transfer-encoding",
                                       "http2-settings",
                                       "expect",
                                       "idempotency-key",
                                       "authorization"};
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    for (size_t i = 0; i < name.n; i++)
        if (!memchr(allowed, name.p[i], sizeof allowed - 1))
            return td_option_error(l, node, "%s: '%.*s' is no header name", option, TD_STR_ARG(name));
    if (name.n == 0 || name.n > HEADER_NAME_BYTES_MAX)
        return td_option_error(l, node, "%s: a header name has 1 to %u bytes", option, HEADER_NAME_BYTES_MAX);
    for (size_t i = 0; i < sizeof ours / sizeof ours[0] - for_key; i++)
        if (td_str_ieq(name, td_str_of(ours[i])))
            return td_option_error(l, node, "%s: '%s' is set by Tandem itself", option, ours[i]);
    if (name.n >= 6 && td_str_ieq(td_str_n(name.p, 6), TD_STR("proxy-")))
        return td_option_error(l, node, "%s: '%.*s' is for a proxy alone; see proxy", option, TD_STR_ARG(name));
    return TD_OK;
}

static enum td_err read_headers(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_target *t = base;
    void *items;
    if (node->type != TD_NODE_MAP)
        return td_option_error(l, node, "headers: expected a map of names and values");
    enum td_err err = td_option_items(l, node, 32, sizeof(struct td_header), &items);
    if (err != TD_OK)
        return err;
    t->headers = items;
    for (const struct td_node *n = node->first; n; n = n->next) {
        err = check_header_name(l, n, "headers", n->key, false);
        if (err != TD_OK)
            return err;
        if (n->type != TD_NODE_SCALAR || n->text.n > 4096)
            return td_option_error(l, n, "headers: expected a name and a text of at most 4096 bytes");
        for (size_t i = 0; i < n->text.n; i++)
            if ((unsigned char)n->text.p[i] < 0x20 || n->text.p[i] == 0x7f)
                return td_option_error(l, n, "headers: a value must not hold control characters");
        t->headers[t->header_count++] = (struct td_header){n->key, n->text};
    }
    return TD_OK;
}

static enum td_err read_auth_header(struct td_loader *l, const struct td_node *node, void *base) {
    if (node->type != TD_NODE_SCALAR)
        return td_option_error(l, node, "auth_header: expected the name of a header");
    ((struct td_target *)base)->auth_header = node->text;
    return check_header_name(l, node, "auth_header", node->text, true);
}

static enum td_err read_capabilities(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_target *t = base;
    t->capabilities = 0;
    for (const struct td_node *n = first_item(node); n; n = next_item(node, n)) {
        uint32_t bit = 0;
        if (n->type != TD_NODE_SCALAR || (!td_str_is(n->text, "default") && !td_capability_of(n->text, &bit)))
            return td_option_error(l, n, "capabilities: expected one or a list of default | " CAPABILITIES);
        t->capabilities |= bit ? bit : 1u << 31; // load.c puts the provider's own set there
    }
    return TD_OK;
}

static enum td_err read_model_class(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_target *t = base;
    uint32_t v;
    if (node->type != TD_NODE_SCALAR || !word_model_class(node->text, &v))
        return td_option_error(l, node, "class: expected small | medium | large | reasoning | command");
    t->model_class = v;
    t->class_name = node->text;
    return TD_OK;
}

static enum td_err read_path_style(struct td_loader *l, const struct td_node *node, void *base) {
    uint32_t v;
    if (node->type != TD_NODE_SCALAR || !word_path_style(node->text, &v))
        return td_option_error(l, node, "path_style: expected openai | azure");
    ((struct td_target *)base)->path_style = node->text;
    return TD_OK;
}

#define T(field) offsetof(struct td_target, field)
static const struct td_option timeouts[] = {
    {"connect_ms", TD_OPT_U32, T(timeouts.connect_ms), 1, 60000, "2000", "time to a connection, TLS included"},
    {"first_token_ms", TD_OPT_U32, T(timeouts.first_token_ms), 1, 3600000, "10000", "from sending to the first token"},
    {"idle_ms", TD_OPT_U32, T(timeouts.idle_ms), 1, 3600000, "15000", "longest silence between tokens"},
    {"total_ms", TD_OPT_U32, T(timeouts.total_ms), 1, 86400000, "120000", "the whole attempt"},
    {NULL}};
static const struct td_option price[] = {
    {"input", TD_OPT_PRICE, T(price.input_nusd), 0, 0, "0", "USD per million input tokens"},
    {"output", TD_OPT_PRICE, T(price.output_nusd), 0, 0, "0", "USD per million output tokens"},
    {"cached_input", TD_OPT_PRICE, T(price.cached_input_nusd), 0, 0, NULL,
     "USD per million input tokens served from a prefix cache; default: as input"},
    {NULL}};
static const struct td_option target_rows[] = {
    {"name", TD_OPT_NAME, T(name), 0, 0, NULL, "what requests, rules and the ledger call it"},
    {"tier", TD_OPT_WORD, T(tier), 0, 0, NULL, "where it runs", TIERS, word_tier},
    {"provider", TD_OPT_WORD, T(provider), 0, 0, NULL,
     "llama: a GGUF file run here; openai: any OpenAI-compatible server; tandem: another Tandem",
     "llama | openai | tandem", word_provider},
    {"model", TD_OPT_TEXT, T(model), 1, 4096, NULL,
     "the provider's name for the model, or the path of a GGUF file (of its first part, where there are several)"},
    {"base_url", TD_OPT_URL, T(base_url), 0, 0, NULL, "where the API starts, with its version part"},
    {"path_style", TD_OPT_CUSTOM, T(path_style), 0, 0, "openai", "azure: deployments in the path and an api-version",
     "openai | azure", NULL, NULL, TD_SHAPE_ONE, read_path_style},
    {"api_version", TD_OPT_TEXT, T(api_version), 1, 64, NULL, "azure: the api-version parameter"},
    {"api_key", TD_OPT_SECRET, T(api_key_ref), 0, 0, NULL, "where the key is found"},
    {"auth_header", TD_OPT_CUSTOM, T(auth_header), 0, 0, NULL,
     "the header that carries the key; default: authorization (azure: api-key)", "the name of a header", NULL, NULL,
     TD_SHAPE_ONE, read_auth_header},
    {"ca_file", TD_OPT_PATH, T(ca_file), 0, 0, NULL, "a private CA's certificates (PEM)"},
    {"client_cert", TD_OPT_PATH, T(client_cert_file), 0, 0, NULL, "client certificate (PEM)"},
    {"client_key", TD_OPT_PATH, T(client_key_file), 0, 0, NULL, "its private key (PEM)"},
    {"proxy", TD_OPT_TEXT, T(proxy), 1, 1024, NULL,
     "http://host:port of a proxy, or http://env:NAME@host:port for one that wants credentials; the environment's are "
     "not used"},
    {"headers", TD_OPT_CUSTOM, T(headers), 0, 0, NULL, "further request headers", "a map of names and values", NULL,
     NULL, TD_SHAPE_ONE, read_headers},
    {"insecure", TD_OPT_BOOL, T(insecure), 0, 0, "false", "allow http:// to a host that is not this machine"},
    {"region", TD_OPT_REGION, T(region), 0, 0, NULL,
     "where it processes data; without one it sees public data only; the device's is local"},
    {"clearance", TD_OPT_WORD, T(clearance), 0, 0, NULL,
     "highest data class it may see; not stated: public (on the device: restricted)", CLASSES, word_class,
     .stated = T(clearance_stated) + 1},
    {"labels", TD_OPT_CUSTOM, T(labels_cleared), 0, 0, NULL, "the only labels it may see; not stated: all",
     "one or a list of labels", NULL, NULL, TD_SHAPE_ONE, read_target_labels},
    {"price", TD_OPT_SECTION, 0, 0, 0, NULL, "what it costs", NULL, NULL, price},
    {"budget_usd_per_day", TD_OPT_USD, T(budget_day_nusd), 0, 0, NULL, "most that may be spent here in a day (UTC)"},
    {"budget_usd_per_month", TD_OPT_USD, T(budget_month_nusd), 0, 0, NULL,
     "most that may be spent here in a month (UTC)"},
    {"context", TD_OPT_U32, T(context), 1, 100000000, NULL, "tokens of input and output together; default: not known"},
    {"max_output", TD_OPT_U32, T(max_output), 1, 100000000, NULL, "tokens of one answer; default: not known"},
    {"capabilities", TD_OPT_CUSTOM, T(capabilities), 0, 0, NULL,
     "what it can do; `default` stands for the provider's usual set", "one or a list of default | " CAPABILITIES, NULL,
     NULL, TD_SHAPE_ONE, read_capabilities},
    {"class", TD_OPT_CUSTOM, T(class_name), 0, 0, NULL,
     "what kind of model it is; default by tier: small, medium, medium, large",
     "small | medium | large | reasoning | command", NULL, NULL, TD_SHAPE_ONE, read_model_class},
    {"quality", TD_OPT_NUMBER, T(quality), 0, 1, NULL, "expected quality of its answers, 0 to 1; default by class"},
    {"latency_ms", TD_OPT_U32, T(latency_ms), 0, 3600000, "0",
     "expected time to first token until measured; 0: by tier"},
    {"timeouts", TD_OPT_SECTION, 0, 0, 0, NULL, "limits of one attempt, milliseconds", NULL, NULL, timeouts},
    {"fallback", TD_OPT_TEXTS, T(fallback), 0, TD_ATTEMPTS_MAX - 1, NULL,
     "targets that may follow when a request names this one"},
    {"terminal", TD_OPT_BOOL, T(terminal), 0, 0, "false",
     "openai below the cloud tier: it does not forward; without this it counts as cloud"},
    {"continues", TD_OPT_BOOL, T(continues), 0, 0, "false",
     "accepts the beginning of an answer and goes on from there"},
    {"continue_mark", TD_OPT_WORD, T(prefix_mark), 0, 0, "plain",
     "what tells the server to go on: vllm sends continue_final_message, mistral marks the message as prefix",
     "plain | vllm | mistral", word_prefix_mark},
    {"idempotency", TD_OPT_BOOL, T(idempotency), 0, 0, "false", "honours an Idempotency-Key header"},
    {"fresh", TD_OPT_BOOL, T(fresh), 0, 0, "false", "knows more than its training: search, retrieval"},
    {"hedge", TD_OPT_BOOL, T(hedge), 0, 0, "false", "may be asked as a hedge though it costs money"},
    {"declines", TD_OPT_TEXT, T(declines), 0, 256, NULL,
     "the whole answer by which the model says that a request is not for it; default of a llama target: Not for me."},
    {"cascade_threshold", TD_OPT_NUMBER, T(cascade_threshold), 0, 1, NULL,
     "confidence below which a cascade escalates; default: the policy's"},
    {"parallel", TD_OPT_U32, T(parallel), 0, 1024, "0",
     "attempts at once; llama: sequences decoded together, default 4; remote: 0 is no limit"},
    {"queue_max", TD_OPT_U32, T(queue_max), 0, 65536, "64", "attempts that may wait"},
    {"slowdown_max", TD_OPT_NUMBER, T(slowdown_max), 0, 100, "2",
     "llama: when somebody must be turned away, the others are answered in at most so many times what they take alone; "
     "0: "
     "only queue_max counts"},
    {"gpu_layers", TD_OPT_U32, T(gpu_layers), 0, 10000, "0", "llama: layers on the accelerator"},
    {"threads", TD_OPT_U32, T(threads), 0, 1024, "0", "llama: threads; 0: the number of cores"},
    {"memory_max", TD_OPT_BYTES, T(memory_bytes_max), 0, 1e15, "0",
     "llama: most memory this model may take; 0 no own limit"},
    {"tools", TD_OPT_PATH, T(tools_file), 0, 0, NULL,
     "llama: tools (JSON) that requests are likely to bring, made ready while the model loads; default of class "
     "command: "
     "the assistant catalogue"},
    {NULL}};

static enum td_err read_targets(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_config *c = base;
    void *items;
    if (node->type != TD_NODE_LIST)
        return td_option_error(l, node, "targets: expected a list");
    enum td_err err = td_option_items(l, node, TD_TARGETS_MAX, sizeof *c->targets, &items);
    c->targets = items;
    for (const struct td_node *n = node->first; n && err == TD_OK; n = n->next) {
        struct td_target *t = &c->targets[c->target_count];
        t->labels_cleared = UINT32_MAX;
        t->price.cached_input_nusd = -1;
        t->quality = -1;
        t->cascade_threshold = __builtin_nan("");
        t->tier = TD_TIER_COUNT; // load.c asks for what has no default
        t->provider = TD_PROVIDER_FAKE;
        if (n->type != TD_NODE_MAP)
            return td_option_error(l, n, "targets: expected a map with name, tier, provider and model");
        err = td_option_read(l, n, target_rows, t);
        if (err == TD_OK)
            err = td_config_target_complete(l, n, t);
        t->index = c->target_count++;
    }
    return err;
}

// ---- sets of targets

static enum td_err read_set_targets(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_target_set *set = base;
    for (const struct td_node *n = first_item(node); n; n = next_item(node, n)) {
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
    for (const struct td_node *n = first_item(node); n; n = next_item(node, n)) {
        if (n->type != TD_NODE_SCALAR || !td_region_valid(n->text))
            return td_option_error(l, n, "regions: expected regions such as eu, us-east or local");
        if (set->region_count == TD_REGIONS_MAX)
            return td_option_error(l, n, "regions: at most %u", TD_REGIONS_MAX);
        set->regions[set->region_count++] = n->text;
    }
    return TD_OK;
}

#define S(field) offsetof(struct td_target_set, field)
static const struct td_option set_rows[] = {
    {"tiers", TD_OPT_WORDS, S(tiers), 0, 0, NULL, "where they run", TIERS, bit_tier, .stated = S(has_tiers) + 1},
    {"regions", TD_OPT_CUSTOM, S(regions), 0, 0, NULL, "regions, each with all its parts (eu holds eu-west)",
     "one or a list of regions", NULL, NULL, TD_SHAPE_ONE, read_set_regions, S(has_regions) + 1},
    {"targets", TD_OPT_CUSTOM, S(targets), 0, 0, NULL, "names", "one or a list of target names", NULL, NULL,
     TD_SHAPE_ONE, read_set_targets, S(has_targets) + 1},
    {NULL}};

// ---- tenants

static enum td_err read_tenant_labels(struct td_loader *l, const struct td_node *node, void *base) {
    return read_labels(l, node, &((struct td_tenant *)base)->labels);
}

#define N(field) offsetof(struct td_tenant, field)
static const struct td_option rate_rows[] = {
    {"requests_per_min", TD_OPT_U32, N(requests_per_min), 0, 10000000, "0", "0 unlimited"},
    {"tokens_per_min", TD_OPT_U32, N(tokens_per_min), 0, U32_MAX, "0", "input and output; 0 unlimited"},
    {NULL}};
static const struct td_option tenant_rows[] = {
    {"name", TD_OPT_NAME, N(name), 0, 0, NULL, "what keys and the ledger call it"},
    {"default_class", TD_OPT_WORD, N(default_class), 0, 0, NULL, "class of its requests that nothing labelled", CLASSES,
     word_class},
    {"labels", TD_OPT_CUSTOM, N(labels), 0, 0, NULL, "labels that each of its requests bears",
     "one or a list of labels", NULL, NULL, TD_SHAPE_ONE, read_tenant_labels},
    {"residency", TD_OPT_REGION, N(residency), 0, 0, NULL, "region its requests must stay in (or on the device)"},
    {"budget_usd_per_day", TD_OPT_USD, N(budget_day_nusd), 0, 0, NULL, "most it may spend in a day (UTC)"},
    {"budget_usd_per_month", TD_OPT_USD, N(budget_month_nusd), 0, 0, NULL, "most it may spend in a month (UTC)"},
    {"rate", TD_OPT_SECTION, 0, 0, 0, NULL, "rate limits", NULL, NULL, rate_rows},
    {"allow", TD_OPT_SECTION, N(allow), 0, 0, NULL, "the only targets it may reach", NULL, NULL, set_rows,
     .stated = N(has_allow) + 1},
    {"batch", TD_OPT_BOOL, N(batch), 0, 0, "false", "its requests give way to others under load"},
    {NULL}};

static int by_name(const void *a, const void *b) {
    const struct td_str x = ((const struct td_tenant *)a)->name, y = ((const struct td_tenant *)b)->name;
    int c = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);
    return c ? c : (x.n > y.n) - (x.n < y.n);
}

static enum td_err read_tenants(struct td_loader *l, const struct td_node *node, void *base) {
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
        err = td_option_read(l, n, tenant_rows, t);
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
    return read_labels(l, node, &((struct td_when *)base)->labels);
}
static enum td_err read_when_labels_all(struct td_loader *l, const struct td_node *node, void *base) {
    return read_labels(l, node, &((struct td_when *)base)->labels_all);
}

// A class, a list of classes, or {min: class}.
static enum td_err read_when_class(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_when *when = base;
    uint32_t v;
    if (node->type == TD_NODE_MAP) {
        const struct td_node *n = node->first;
        if (node->count != 1 || !td_str_is(n->key, "min") || n->type != TD_NODE_SCALAR || !word_class(n->text, &v))
            return td_option_error(l, node, "data_class: expected {min: class}, a class or a list");
        for (; v <= TD_CLASS_RESTRICTED; v++)
            when->classes |= 1u << v;
        return TD_OK;
    }
    for (const struct td_node *n = first_item(node); n; n = next_item(node, n)) {
        if (n->type != TD_NODE_SCALAR || !word_class(n->text, &v))
            return td_option_error(l, n, "data_class: %s", class_expects);
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
    {"kind", TD_OPT_WORDS, W(kinds), 0, 0, NULL, "is of this kind", "chat | completion | embedding", bit_kind},
    {"capabilities", TD_OPT_WORDS, W(capabilities), 0, 0, NULL, "needs any of these", CAPABILITIES, bit_capability},
    {"tools", TD_OPT_TRISTATE, W(tools), 0, 0, NULL, "offers tools"},
    {"tokens", TD_OPT_SECTION, 0, 0, 0, NULL, "estimated input tokens", NULL, NULL, tokens_rows},
    {"features", TD_OPT_WORDS, W(features), 0, 0, NULL, "looks like any of these",
     "question | command | code | math | fresh | multi_turn | long | creative | analysis", bit_feature},
    {"prefer", TD_OPT_WORDS, W(prefers), 0, 0, NULL, "is to be answered by this preference", PREFERS, bit_prefer},
    {"mode", TD_OPT_WORDS, W(modes), 0, 0, NULL, "asks for this mode", MODES, bit_mode},
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
    if (!word || word->type != TD_NODE_SCALAR || !word_on_cut(word->text, &v))
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
     set_rows, .stated = R(has_allow) + 1},
    {"deny", TD_OPT_SECTION, R(deny), 0, 0, NULL, "not these: whatever is in any of the lists", NULL, NULL, set_rows,
     .stated = R(has_deny) + 1},
    {"transform", TD_OPT_CUSTOM, R(transform), 0, 0, NULL,
     "block refuses the request, local_only keeps it on the device", "block | local_only", NULL, NULL, TD_SHAPE_ONE,
     read_transform},
    {"mode", TD_OPT_WORD, R(mode), 0, 0, NULL, "how attempts follow each other", "auto | " MODES, word_mode},
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
     word_prefer},
    {"mode", TD_OPT_WORD, P(mode), 0, 0, "auto", "auto: chosen for each request", "auto | " MODES, word_mode},
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
     CLASSES, word_class},
    {"words", TD_OPT_CUSTOM, C(words), 0, 0, NULL, "whole words or phrases, regardless of case",
     "one or a list of texts", NULL, NULL, TD_SHAPE_ONE, read_content_words},
    {"patterns", TD_OPT_CUSTOM, C(patterns), 0, 0, NULL, "regular expressions", "one or a list of texts", NULL, NULL,
     TD_SHAPE_ONE, read_content_patterns},
    {NULL}};

static enum td_err add_content(struct td_loader *l, const struct td_node *list, uint32_t label,
                               enum td_err (*add)(struct td_content_rules *, struct td_str, uint32_t,
                                                  struct td_error *)) {
    for (const struct td_node *n = list ? first_item(list) : NULL; n; n = next_item(list, n)) {
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
static const struct td_option policy_rows[] = {
    {"content", TD_OPT_SECTION, 0, 0, 0, NULL, "labels from the text itself", NULL, NULL, content_rows},
    {"rules", TD_OPT_CUSTOM, 0, 0, 0, NULL, "all that match apply; none widens what another narrowed",
     "a list of rules", NULL, rule_rows, TD_SHAPE_LIST, read_rules},
    {"default", TD_OPT_SECTION, 0, 0, 0, NULL, "where neither request nor rule speaks", NULL, NULL, default_rows},
    {NULL}};

// ---- the root

#define F(field) offsetof(struct td_config, field)

static enum td_err read_version(struct td_loader *l, const struct td_node *node, void *base) {
    (void)base;
    if (node->type != TD_NODE_SCALAR || !td_str_is(node->text, "1"))
        return td_option_error(l, node, "version: expected 1");
    return TD_OK;
}

static enum td_err read_aliases(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_config *c = base;
    void *items;
    if (node->type != TD_NODE_MAP)
        return td_option_error(l, node, "aliases: expected a map of model names");
    enum td_err err = td_option_items(l, node, TD_ALIASES_MAX, sizeof(struct td_alias), &items);
    if (err != TD_OK)
        return err;
    struct td_alias *aliases = items;
    for (const struct td_node *n = node->first; n; n = n->next) {
        if (n->key.n == 0 || n->key.n > TD_NAME_BYTES_MAX)
            return td_option_error(l, n, "aliases: a model name has 1 to %u bytes", TD_NAME_BYTES_MAX);
        if (n->type != TD_NODE_SCALAR || n->text.n == 0 || n->text.n > TD_NAME_BYTES_MAX)
            return td_option_error(l, n, "aliases: expected auto, auto:preference or the name of a target");
        if (!td_config_model_exists(c, n->text))
            return td_option_error(l, n, "aliases: '%.*s' is neither auto, auto:preference nor the name of a target",
                                   TD_STR_ARG(n->text));
        aliases[c->policy.alias_count++] = (struct td_alias){n->key, n->text};
    }
    c->policy.aliases = aliases;
    return TD_OK;
}

static const struct td_option tls_rows[] = {
    {"cert", TD_OPT_PATH, F(listen.tls_cert), 0, 0, NULL, "certificate chain (PEM)"},
    {"key", TD_OPT_PATH, F(listen.tls_key), 0, 0, NULL, "private key (PEM)"},
    {"client_ca", TD_OPT_PATH, F(listen.tls_client_ca), 0, 0, NULL, "clients must show a certificate of this CA"},
    {NULL}};
static const struct td_option limits_rows[] = {
    {"body_max", TD_OPT_BYTES, F(listen.body_bytes_max), 1024, TD_BODY_BYTES_MAX, "32MiB", "largest request body"},
    {"connections", TD_OPT_U32, F(listen.connections_max), 1, TD_CONNECTIONS_MAX, "4096", "clients at once"},
    {"connections_per_peer", TD_OPT_U32, F(listen.connections_per_peer_max), 1, TD_CONNECTIONS_MAX, "64",
     "of one remote address"},
    {NULL}};
static const struct td_option key_rate_rows[] = {
    {"requests_per_min", TD_OPT_U32, F(key_requests_per_min), 0, 10000000, "0", "0 unlimited"},
    {"tokens_per_min", TD_OPT_U32, F(key_tokens_per_min), 0, U32_MAX, "0", "input and output; 0 unlimited"},
    {NULL}};
static const struct td_option models_rows[] = {
    {"memory_max", TD_OPT_BYTES, F(memory_bytes_max), 0, 1e15, "0",
     "all local models together; 0: half of the machine's memory"},
    {"idle_unload_s", TD_OPT_U32, F(idle_unload_s), 0, 31536000, "900", "unload after this long unused; 0 never"},
    {NULL}};
static const struct td_option ledger_rows[] = {
    {"durability", TD_OPT_WORD, F(durability), 0, 0, "batched",
     "what must be on the disk before the answer (before_answer) or before anything is sent (before_egress)",
     "batched | before_answer | before_egress", word_durability},
    {"batch_ms", TD_OPT_U32, F(ledger_batch_ms), 1, 1000, "20", "longest time rows wait for each other"},
    {"keep_days", TD_OPT_U32, F(ledger_keep_days), 0, 36500, "0",
     "rows and receipts are kept this long; 0 for good. Sums by the hour always stay"},
    {NULL}};
static const struct td_option outbox_rows[] = {
    {"enabled", TD_OPT_BOOL, F(outbox.enabled), 0, 0, "true", "keep requests that deserve a better answer"},
    {"max_entries", TD_OPT_U32, F(outbox.entries_max), 1, 1000000, "1000", "kept at once"},
    {"max_bytes", TD_OPT_BYTES, F(outbox.bytes_max), 1024, 1e12, "64MiB", "kept at once"},
    {"expiry_s", TD_OPT_U64, F(outbox.expiry_s), 1, 31536000, "86400", "not replayed after this"},
    {"replay_per_min", TD_OPT_U32, F(outbox.replay_per_min), 1, 60000, "60", "replayed after reconnecting"},
    {"reconcile", TD_OPT_WORD, F(outbox.reconcile), 0, 0, "take_better", "when two answers differ",
     "take_better | keep_local | ask", word_reconcile},
    {NULL}};

static enum td_err read_webhook_labels(struct td_loader *l, const struct td_node *node, void *base) {
    return read_labels(l, node, &((struct td_config *)base)->webhook.place.labels_cleared);
}

#define H(field) F(webhook.place.field)
static const struct td_option webhook_rows[] = {
    {"url", TD_OPT_URL, H(base_url), 0, 0, NULL, "where later answers are delivered (POST)"},
    {"secret", TD_OPT_SECRET, F(webhook.secret_ref), 0, 0, NULL, "where the secret is found that signs each delivery"},
    {"auth", TD_OPT_SECRET, H(api_key_ref), 0, 0, NULL, "where a bearer token for the receiver is found"},
    {"ca_file", TD_OPT_PATH, H(ca_file), 0, 0, NULL, "a private CA's certificates (PEM)"},
    {"proxy", TD_OPT_TEXT, H(proxy), 1, 1024, NULL, "http://host:port of a proxy; default: none"},
    {"private", TD_OPT_BOOL, F(webhook.private_ok), 0, 0, "false",
     "its address may be on this machine or a private network"},
    {"insecure", TD_OPT_BOOL, H(insecure), 0, 0, "false", "allow http:// to a host that is not this machine"},
    {"tier", TD_OPT_WORD, H(tier), 0, 0, "cloud", "where the receiver runs, for the rules", TIERS, word_tier},
    {"region", TD_OPT_REGION, H(region), 0, 0, NULL, "where the receiver is; without one it sees public texts only"},
    {"clearance", TD_OPT_WORD, H(clearance), 0, 0, NULL,
     "highest data class whose text it may see; not stated: public; what is above is told without its text", CLASSES,
     word_class, .stated = H(clearance_stated) + 1},
    {"labels", TD_OPT_CUSTOM, 0, 0, 0, NULL, "the only labels it may see; not stated: all", "one or a list of labels",
     NULL, NULL, TD_SHAPE_ONE, read_webhook_labels},
    {NULL}};
const struct td_option td_config_options[] = {
    {"version", TD_OPT_CUSTOM, 0, 0, 0, NULL, "of this file's form; must be given", "1", NULL, NULL, TD_SHAPE_ONE,
     read_version},
    {"listen", TD_OPT_CUSTOM, F(listen), 0, 0, "127.0.0.1:8484", "address:port or unix:/path",
     "address:port or unix:/path", NULL, NULL, TD_SHAPE_ONE, td_config_read_listen},
    {"hosts", TD_OPT_TEXTS, F(listen.hosts), 0, 64, NULL, "further Host names that clients may use"},
    {"origins", TD_OPT_TEXTS, F(listen.origins), 0, 64, NULL, "web pages that may call this API (CORS)"},
    {"tls", TD_OPT_SECTION, 0, 0, 0, NULL, "TLS for clients", NULL, NULL, tls_rows},
    {"limits", TD_OPT_SECTION, 0, 0, 0, NULL, "what clients may take", NULL, NULL, limits_rows},
    {"data_dir", TD_OPT_PATH, F(data_dir), 0, 0, "~/.local/share/tandem", "ledger, outbox, keys and socket"},
    {"workers", TD_OPT_U32, F(workers), 0, 64, "0",
     "threads that serve requests; 0: the number of processors, at most 16"},
    {"log_level", TD_OPT_WORD, F(log_level), 0, 0, "info", "what goes to standard error", "error | warn | info | debug",
     word_log_level},
    {"drain_ms", TD_OPT_U32, F(drain_ms), 0, 3600000, "30000", "how long SIGTERM waits for running requests"},
    {"keepalive_ms", TD_OPT_U32, F(keepalive_ms), 0, 3600000, "15000",
     "a stream that has begun and is silent for so long gets a comment, for the proxies on its way; 0: never"},
    {"connectivity", TD_OPT_WORD, F(connectivity), 0, 0, "auto", "auto senses the network", "auto | offline | metered",
     word_connectivity},
    {"probes", TD_OPT_BOOL, F(probes), 0, 0, "true", "light probes find out when the network is back"},
    {"probe_interval_ms", TD_OPT_U32, F(probe_interval_ms), 1000, 3600000, "2000", "between two probes"},
    {"models", TD_OPT_SECTION, 0, 0, 0, NULL, "local models", NULL, NULL, models_rows},
    {"targets", TD_OPT_CUSTOM, 0, 0, 0, NULL, "models and where they are reached", "a list of targets", NULL,
     target_rows, TD_SHAPE_LIST, read_targets},
    {"default_model", TD_OPT_TEXT, F(policy.default_model), 1, TD_NAME_BYTES_MAX, "auto",
     "for requests that name none"},
    {"aliases", TD_OPT_CUSTOM, 0, 0, 0, NULL, "model names that clients send, and what they stand for",
     "a map of model names", NULL, NULL, TD_SHAPE_ONE, read_aliases},
    {"default_class", TD_OPT_WORD, F(policy.default_class), 0, 0, "internal", "of requests that nothing labelled",
     CLASSES, word_class},
    {"tenants", TD_OPT_CUSTOM, 0, 0, 0, NULL,
     "who may call; keys are made with `tandem keys create`; `default` stands for requests without a key",
     "a list of tenants", NULL, tenant_rows, TD_SHAPE_LIST, read_tenants},
    {"key_rate", TD_OPT_SECTION, 0, 0, 0, NULL, "rate limits of each API key, beside its tenant's", NULL, NULL,
     key_rate_rows},
    {"policy", TD_OPT_SECTION, F(policy), 0, 0, NULL, "which request may go where", NULL, NULL, policy_rows},
    {"ledger", TD_OPT_SECTION, 0, 0, 0, NULL, "the record of every attempt", NULL, NULL, ledger_rows},
    {"outbox", TD_OPT_SECTION, 0, 0, 0, NULL, "requests kept for a better answer", NULL, NULL, outbox_rows},
    {"webhook", TD_OPT_SECTION, 0, 0, 0, NULL, "delivery of later answers", NULL, NULL, webhook_rows},
    {NULL}};
