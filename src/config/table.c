// SPDX-License-Identifier: Apache-2.0
// All options, one row each, here and in the tables beside it (table.h). The order of rows is the order of reading:
// targets before the rules that name them.
#include "config/table.h"

enum td_err td_config_read_labels(struct td_loader *l, const struct td_node *node, uint32_t *out) {
    *out = 0;
    for (const struct td_node *n = td_first_item(node); n; n = td_next_item(node, n)) {
        if (n->type != TD_NODE_SCALAR || !td_name_valid(n->text))
            return td_option_error(l, n, "expected a label: letters, digits, '.', '_' and '-'");
        uint32_t bit = td_label_intern(l, n, n->text);
        if (!bit)
            return l->e->code;
        *out |= bit;
    }
    return TD_OK;
}

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
     "batched | before_answer | before_egress", td_word_durability},
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
     "take_better | keep_local | ask", td_word_reconcile},
    {NULL}};

static enum td_err read_webhook_labels(struct td_loader *l, const struct td_node *node, void *base) {
    return td_config_read_labels(l, node, &((struct td_config *)base)->webhook.place.labels_cleared);
}

#define H(field) F(webhook.place.field)
static const struct td_option webhook_rows[] = {
    {"url", TD_OPT_URL, H(base_url), 0, 0, NULL, "where later answers are delivered (POST)"},
    {"secret", TD_OPT_SECRET, F(webhook.secret_ref), 0, 0, NULL, "where the secret is found that signs each delivery"},
    {"auth", TD_OPT_SECRET, H(api_key_ref), 0, 0, NULL, "where a bearer token for the receiver is found"},
    {"ca_file", TD_OPT_PATH, H(ca_file), 0, 0, NULL, "a private CA's certificates (PEM)"},
    {"proxy", TD_OPT_PROXY, H(proxy), 0, 0, NULL, "http://host:port of a proxy; default: none"},
    {"private", TD_OPT_BOOL, F(webhook.private_ok), 0, 0, "false",
     "its address may be on this machine or a private network"},
    {"insecure", TD_OPT_BOOL, H(insecure), 0, 0, "false", "allow http:// to a host that is not this machine"},
    {"tier", TD_OPT_WORD, H(tier), 0, 0, "cloud", "where the receiver runs, for the rules", TIERS, td_word_tier},
    {"region", TD_OPT_REGION, H(region), 0, 0, NULL, "where the receiver is; without one it sees public texts only"},
    {"clearance", TD_OPT_WORD, H(clearance), 0, 0, NULL,
     "highest data class whose text it may see; not stated: public; what is above is told without its text", CLASSES,
     td_word_class, .stated = H(clearance_stated) + 1},
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
     td_word_log_level},
    {"drain_ms", TD_OPT_U32, F(drain_ms), 0, 3600000, "30000", "how long SIGTERM waits for running requests"},
    {"keepalive_ms", TD_OPT_U32, F(keepalive_ms), 0, 3600000, "15000",
     "a stream that has begun and is silent for so long gets a comment, for the proxies on its way; 0: never"},
    {"connectivity", TD_OPT_WORD, F(connectivity), 0, 0, "auto", "auto senses the network", "auto | offline | metered",
     td_word_connectivity},
    {"probes", TD_OPT_BOOL, F(probes), 0, 0, "true", "light probes find out when the network is back"},
    {"probe_interval_ms", TD_OPT_U32, F(probe_interval_ms), 1000, 3600000, "2000", "between two probes"},
    {"models", TD_OPT_SECTION, 0, 0, 0, NULL, "local models", NULL, NULL, models_rows},
    {"targets", TD_OPT_CUSTOM, 0, 0, 0, NULL, "models and where they are reached", "a list of targets", NULL,
     td_config_target_rows, TD_SHAPE_LIST, td_config_read_targets},
    {"default_model", TD_OPT_TEXT, F(policy.default_model), 1, TD_NAME_BYTES_MAX, "auto",
     "for requests that name none"},
    {"aliases", TD_OPT_CUSTOM, 0, 0, 0, NULL, "model names that clients send, and what they stand for",
     "a map of model names", NULL, NULL, TD_SHAPE_ONE, read_aliases},
    {"default_class", TD_OPT_WORD, F(policy.default_class), 0, 0, "internal", "of requests that nothing labelled",
     CLASSES, td_word_class},
    {"tenants", TD_OPT_CUSTOM, 0, 0, 0, NULL,
     "who may call; keys are made with `tandem keys create`; `default` stands for requests without a key",
     "a list of tenants", NULL, td_config_tenant_rows, TD_SHAPE_LIST, td_config_read_tenants},
    {"key_rate", TD_OPT_SECTION, 0, 0, 0, NULL, "rate limits of each API key, beside its tenant's", NULL, NULL,
     key_rate_rows},
    {"policy", TD_OPT_SECTION, F(policy), 0, 0, NULL, "which request may go where", NULL, NULL, td_config_policy_rows},
    {"ledger", TD_OPT_SECTION, 0, 0, 0, NULL, "the record of every attempt", NULL, NULL, ledger_rows},
    {"outbox", TD_OPT_SECTION, 0, 0, 0, NULL, "requests kept for a better answer", NULL, NULL, outbox_rows},
    {"webhook", TD_OPT_SECTION, 0, 0, 0, NULL, "delivery of later answers", NULL, NULL, webhook_rows},
    {NULL}};
