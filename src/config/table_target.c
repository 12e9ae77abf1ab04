// SPDX-License-Identifier: Apache-2.0
// The options of a target.
#include "config/table.h"

#include "target/words.h"

#define HEADER_NAME_BYTES_MAX 128u

static enum td_err read_target_labels(struct td_loader *l, const struct td_node *node, void *base) {
    return td_config_read_labels(l, node, &((struct td_target *)base)->labels_cleared);
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
    for (const struct td_node *n = td_first_item(node); n; n = td_next_item(node, n)) {
        uint32_t bit = 0;
        if (n->type != TD_NODE_SCALAR || (!td_str_is(n->text, "default") && !td_capability_parse(n->text, &bit)))
            return td_option_error(l, n, "capabilities: expected one or a list of default | " CAPABILITIES);
        t->capabilities |= bit ? bit : 1u << 31; // load.c puts the provider's own set there
    }
    return TD_OK;
}

static enum td_err read_model_class(struct td_loader *l, const struct td_node *node, void *base) {
    struct td_target *t = base;
    uint32_t v;
    if (node->type != TD_NODE_SCALAR || !td_word_model_class(node->text, &v))
        return td_option_error(l, node, "class: expected small | medium | large | reasoning | command");
    t->model_class = v;
    t->class_name = node->text;
    return TD_OK;
}

static enum td_err read_path_style(struct td_loader *l, const struct td_node *node, void *base) {
    uint32_t v;
    if (node->type != TD_NODE_SCALAR || !td_word_path_style(node->text, &v))
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
const struct td_option td_config_target_rows[] = {
    {"name", TD_OPT_NAME, T(name), 0, 0, NULL, "what requests, rules and the ledger call it"},
    {"tier", TD_OPT_WORD, T(tier), 0, 0, NULL, "where it runs", TIERS, td_word_tier},
    {"provider", TD_OPT_WORD, T(provider), 0, 0, NULL,
     "llama: a GGUF file run here; openai: any OpenAI-compatible server; tandem: another Tandem",
     "llama | openai | tandem", td_word_provider},
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
    {"proxy", TD_OPT_PROXY, T(proxy), 0, 0, NULL,
     "http://host:port of a proxy, or http://env:NAME@host:port for one that wants credentials; the environment's are "
     "not used"},
    {"headers", TD_OPT_CUSTOM, T(headers), 0, 0, NULL, "further request headers", "a map of names and values", NULL,
     NULL, TD_SHAPE_ONE, read_headers},
    {"insecure", TD_OPT_BOOL, T(insecure), 0, 0, "false", "allow http:// to a host that is not this machine"},
    {"region", TD_OPT_REGION, T(region), 0, 0, NULL,
     "where it processes data; without one it sees public data only; the device's is local"},
    {"clearance", TD_OPT_WORD, T(clearance), 0, 0, NULL,
     "highest data class it may see; not stated: public (on the device: restricted)", CLASSES, td_word_class,
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
     "plain | vllm | mistral", td_word_prefix_mark},
    {"idempotency", TD_OPT_BOOL, T(idempotency), 0, 0, "false",
     "honours an Idempotency-Key header: gets one with each request"},
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

enum td_err td_config_read_targets(struct td_loader *l, const struct td_node *node, void *base) {
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
        err = td_option_read(l, n, td_config_target_rows, t);
        if (err == TD_OK)
            err = td_config_target_complete(l, n, t);
        t->index = c->target_count++;
    }
    return err;
}
