// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "config/config.h"

static struct td_config *load(const char *text) {
    struct td_config *c = NULL;
    struct td_error e = {0};
    if (td_config_load_text(td_str_of(text), "t.yaml", "/etc/tandem", NULL, &c, &e) != TD_OK)
        fail_msg("%s", e.message);
    return c;
}

#define DEVICE "targets:\n  - {name: d, tier: device, provider: llama, model: /x.gguf}\n"
#define CLOUD                                                                                                          \
    "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'https://api.example.com/v1', region: us, "      \
    "clearance: internal}\n"

static void the_example_is_read_as_written(void **state) {
    (void)state;
    struct td_config *c =
        load("version: 1\n"
             "listen: 127.0.0.1:8484\n"
             "data_dir: ~/.local/share/tandem\n"
             "tls: {}                           # cert, key, client_ca: TLS and mTLS\n"
             "targets:\n"
             "  - name: device\n"
             "    tier: device\n"
             "    provider: llama\n"
             "    model: models/starter.gguf\n"
             "    parallel: 4\n"
             "    quality: 0.35\n"
             "  - name: cloud\n"
             "    tier: cloud\n"
             "    provider: openai\n"
             "    base_url: https://api.example.com/v1\n"
             "    model: big-model\n"
             "    api_key: env:EXAMPLE_API_KEY\n"
             "    ca_file: /path/ca.pem\n"
             "    region: us\n"
             "    clearance: internal\n"
             "    price: {input: 2.50, output: 10.00}\n"
             "    context: 128000\n"
             "    quality: 0.9\n"
             "    timeouts: {connect_ms: 2000, first_token_ms: 10000, idle_ms: 15000, total_ms: 120000}\n"
             "policy:\n"
             "  rules:\n"
             "    - when: {labels: [phi]}\n"
             "      allow: {tiers: [device, onprem]}\n"
             "    - when: {residency: eu}\n"
             "      allow: {regions: [eu, local]}\n"
             "  default: {prefer: balanced}\n");
    assert_str(c->listen.address, "127.0.0.1");
    assert_int_equal(c->listen.port, 8484);
    assert_true(c->listen.loopback);
    assert_int_equal(c->target_count, 2);
    const struct td_target *d = &c->targets[0], *t = &c->targets[1];
    assert_int_equal(d->tier, TD_TIER_DEVICE);
    assert_int_equal(d->clearance, TD_CLASS_RESTRICTED);
    assert_str(d->region, "local");
    assert_int_equal(d->parallel, 4);
    assert_true(d->quality > 0.349 && d->quality < 0.351);
    assert_true(isnan(d->cascade_threshold));
    assert_int_equal(t->price.input_nusd, 2500);
    assert_int_equal(t->price.output_nusd, 10000);
    assert_int_equal(t->price.cached_input_nusd, 2500);
    assert_true(t->paid && !t->loopback && !d->paid && d->loopback);
    assert_int_equal(t->clearance, TD_CLASS_INTERNAL);
    assert_int_equal(t->timeouts.idle_ms, 15000);
    assert_int_equal(t->labels_cleared, UINT32_MAX);
    assert_int_equal(c->policy.rule_count, 2);
    assert_int_equal(c->policy.rules[0].when.labels, TD_LABEL_PHI);
    assert_int_equal(c->policy.rules[0].allow.tiers, 1 << TD_TIER_DEVICE | 1 << TD_TIER_ONPREM);
    assert_str(c->policy.rules[1].allow.regions[1], "local");
    assert_int_equal(c->policy.default_class, TD_CLASS_INTERNAL);
    assert_int_equal(c->policy.prefer, TD_PREFER_BALANCED);
    assert_int_equal(c->policy.mode, TD_MODE_DEFAULT);
    td_config_unref(c);
}

static void the_embedded_defaults_load(void **state) {
    (void)state;
    struct td_config *c = NULL;
    assert_ok(td_config_load_text(td_config_default_text(), "(default)", NULL, NULL, &c, NULL));
    assert_int_equal(c->target_count, 1);
    assert_int_equal(c->targets[0].model_class, TD_MODEL_COMMAND);
    assert_true(td_str_starts(c->targets[0].model, TD_STR("/")));
    const uint32_t whole_api = TD_CAP_CHAT | TD_CAP_COMPLETION | TD_CAP_EMBEDDING | TD_CAP_TOOLS | TD_CAP_JSON_SCHEMA;
    assert_int_equal(c->targets[0].capabilities & whole_api, whole_api);
    td_config_unref(c);
}

static void errors_say_where_and_what(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } rows[] = {
        {"", "t.yaml:1:1: expected options, starting with version: 1"},
        {DEVICE, "t.yaml:1:1: the file must start with version: 1"},
        {"version: 2\n" DEVICE, "t.yaml:1:10: version: expected 1"},
        {"version: 1\nlistn: x\n" DEVICE, "t.yaml:2:1: unknown key 'listn'; did you mean 'listen'?"},
        {"version: 1\nzzzzzz: x\n" DEVICE, "t.yaml:2:1: unknown key 'zzzzzz'"},
        {"version: 1\n", "t.yaml:1:1: at least one target is needed"},
        {"version: 1\nversion: 1\n", "t.yaml:2:1: this key stands here twice"},
        {"version: 1\nworkers: many\n" DEVICE, "t.yaml:2:10: workers: expected a whole number from 0 to 64"},
        {"version: 1\nworkers: 65\n" DEVICE, "t.yaml:2:10: workers: expected a whole number from 0 to 64"},
        {"version: 1\nworkers: [1]\n" DEVICE,
         "t.yaml:2:10: workers: expected a whole number from 0 to 64, found a list"},
        {"version: 1\nprobes: 'true'\n" DEVICE, "t.yaml:2:9: probes: expected true or false"},
        {"version: 1\nprobes: yes\n" DEVICE, "t.yaml:2:9: probes: expected true or false"},
        {"version: 1\nlisten: 8484\n" DEVICE,
         "t.yaml:2:9: listen: expected address:port such as 127.0.0.1:8484, or unix:/path"},
        {"version: 1\nlisten: '::1:80'\n" DEVICE, "t.yaml:2:9: listen: an IPv6 address stands in brackets: [::1]:8484"},
        {"version: 1\nlisten: '127.0.0.1:65536'\n" DEVICE,
         "t.yaml:2:9: listen: expected address:port such as 127.0.0.1:8484, or unix:/path"},
        {"version: 1\na: &x 1\n", "t.yaml:2:4: anchors, aliases and tags are not used in this file"},
        {"version: 1\n--- \nversion: 1\n", "t.yaml:2:1: one document only"},
        {"version: 1\nx: [\n", "t.yaml:3:1: did not find expected node content while parsing a flow node"},
        {"version: 1\ntargets:\n  - {name: d, tier: device, provider: llama}\n",
         "t.yaml:3:5: a target needs name, tier, provider and model; model is missing"},
        {"version: 1\ntargets:\n  - {name: auto, tier: device, provider: llama, model: x}\n",
         "t.yaml:3:5: 'auto' is no name for a target: requests say it to let Tandem choose"},
        {"version: 1\ntargets:\n  - {name: d, tier: cloud, provider: llama, model: x}\n",
         "t.yaml:3:5: target 'd': provider llama runs here, so its tier is device"},
        {"version: 1\n" DEVICE "  - {name: d, tier: device, provider: llama, model: /y}\n",
         "t.yaml:4:5: the target name 'd' stands here twice"},
        {"version: 1\n" DEVICE "  - {name: c, tier: cloud, provider: openai, model: m}\n",
         "t.yaml:4:5: target 'c' needs a base_url"},
        {"version: 1\n" DEVICE "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'http://a.b/v1'}\n",
         "t.yaml:4:5: target 'c': http:// would send prompts and keys in the clear; use https://, or say insecure: "
         "true"},
        {"version: 1\n" DEVICE "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'https://u@a.b/v1'}\n",
         "t.yaml:4:66: base_url: the URL holds a character that is not allowed here (byte 9)"},
        {"version: 1\n" DEVICE
         "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', api_key: sk-123456}\n",
         "t.yaml:4:90: api_key: expected env:NAME, file:PATH or credential:NAME, never the secret itself"},
        {"version: 1\n" DEVICE
         "  - {name: c, tier: onprem, provider: openai, model: m, base_url: 'https://a.b', region: local}\n",
         "t.yaml:4:5: target 'c': region local is this device itself"},
        {"version: 1\n" DEVICE
         "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', region: EU}\n",
         "t.yaml:4:89: region: expected a region: lower-case letters and digits, parts joined by '-', such as eu or "
         "us-east"},
        {"version: 1\n" DEVICE
         "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', fallback: [d, e]}\n",
         "t.yaml:4:91: fallback: 'e' is not the name of another target"},
        {"version: 1\n" DEVICE
         "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', headers: {Host: x}}\n",
         "t.yaml:4:97: headers: 'host' is set by Tandem itself"},
        {"version: 1\n" DEVICE "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', "
         "headers: {X-A: \"b\\r\\nc\"}}\n",
         "t.yaml:4:96: headers: a value must not hold control characters"},
        {"version: 1\ntargets:\n  - {name: c, tier: cloud, provider: openai, base_url: https://a.com/v1, model: m,\n"
         "     proxy: \"http://user:plain@proxy:3128\"}\n",
         "t.yaml:4:13: proxy: expected http://host:port, or http://env:NAME@host:port with user:password in NAME, "
         "never "
         "the password itself"},
        {"version: 1\n" DEVICE
         "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', headers: {\"X\\nA\": b}}\n",
         "t.yaml:4:99: headers: 'X\nA' is no header name"},
        {"version: 1\n" DEVICE "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', "
         "auth_header: \"X: y\\r\\nZ\"}\n",
         "t.yaml:4:94: auth_header: 'X: y\r\nZ' is no header name"},
        {"version: 1\n" DEVICE
         "  - {name: c, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', auth_header: ''}\n",
         "t.yaml:4:94: auth_header: a header name has 1 to 128 bytes"},
        {"version: 1\n" DEVICE "policy: {rules: [{transform: pseudonymise}]}\n",
         "t.yaml:4:30: transform: expected block | local_only; no other transform is available"},
        {"version: 1\n" DEVICE "policy: {rules: [{allow: {targets: [x]}}]}\n",
         "t.yaml:4:37: targets: expected the name of a target, 'x' is none"},
        {"version: 1\n" DEVICE "policy: {rules: [{name: a}, {name: a}]}\n",
         "t.yaml:4:29: rules: the name 'a' stands here twice"},
        {"version: 1\n" DEVICE "policy: {rules: [{when: {data_class: secret}}]}\n",
         "t.yaml:4:38: data_class: expected public | internal | confidential | restricted"},
        {"version: 1\n" DEVICE "aliases: {gpt: nothing}\n",
         "t.yaml:4:16: aliases: 'nothing' is neither auto, auto:preference nor the name of a target"},
        {"version: 1\n" DEVICE "tenants: [{name: a}, {name: a}]\n", "t.yaml:4:10: tenants: 'a' stands here twice"},
        {"version: 1\n" DEVICE "tls: {cert: a.pem}\n", "t.yaml:4:6: tls: cert and key belong together"},
        {"version: 1\n" DEVICE "policy: {content: {labels: {phi: {patterns: ['a(']}}}}\n",
         "t.yaml:4:46: pattern, at byte 2: a group lacks its )"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct td_config *c = NULL;
        struct td_error e = {0};
        enum td_err err = td_config_load_text(td_str_of(rows[i].text), "t.yaml", "/d", NULL, &c, &e);
        if (err != TD_ERR_CONFIG || strcmp(e.message, rows[i].message) != 0)
            fail_msg("row %zu: error %d\n  got:  %s\n  want: %s", i, err, e.message, rows[i].message);
        assert_null(c);
    }
}

// What frames a message, or speaks to the next hop alone, is nobody's to set; whatever the letters' case.
static void framing_headers_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {
        "Content-Length",   "Transfer-Encoding", "Host",         "Connection",       "TE",
        "Trailer",          "Upgrade",           "Expect",       "Keep-Alive",       "Proxy-Authorization",
        "proxy-connection", "HTTP2-Settings",    "Content-Type", "Content-Encoding", "Idempotency-Key"};
    static const char *const fine[] = {"X-Api-Key", "api-key", "Ocp-Apim-Subscription-Key", "Cookie", "X-Proxy-Key"};
    for (size_t i = 0; i < sizeof names / sizeof *names + sizeof fine / sizeof *fine; i++) {
        bool good = i >= sizeof names / sizeof *names;
        const char *name = good ? fine[i - sizeof names / sizeof *names] : names[i];
        for (int custom = 0; custom < 2; custom++) {
            struct td_config *c = NULL;
            struct td_error e = {0};
            char text[256];
            snprintf(text, sizeof text,
                     "version: 1\ntargets:\n  - {name: c, tier: cloud, provider: openai, model: m, base_url: "
                     "'https://a.b', %s%s%s}\n",
                     custom ? "headers: {" : "auth_header: ", name, custom ? ": x}" : "");
            enum td_err err = td_config_load_text(td_str_of(text), "t.yaml", "/d", NULL, &c, &e);
            if (err != (good ? TD_OK : TD_ERR_CONFIG) || (!good && strncmp(e.message, "t.yaml:3:", 9) != 0))
                fail_msg("%s: %s", text, e.message);
            td_config_unref(c);
        }
    }
}

static void what_is_unstated_off_the_device_sees_public_only(void **state) {
    (void)state;
    struct td_config *c = load(
        "version: 1\ntargets:\n"
        "  - {name: a, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', clearance: restricted}\n"
        "  - {name: b, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', region: eu}\n"
        "  - {name: e, tier: edge, provider: openai, model: m, base_url: 'https://a.b', region: eu, clearance: "
        "internal}\n"
        "  - {name: f, tier: edge, provider: openai, model: m, base_url: 'https://a.b', region: eu, terminal: true}\n"
        "  - {name: l, tier: device, provider: openai, model: m, base_url: 'http://127.0.0.1:1/v1'}\n"
        "  - {name: t, tier: device, provider: openai, model: m, base_url: 'http://127.0.0.1:1/v1', terminal: true}\n");
    assert_int_equal(c->targets[0].clearance, TD_CLASS_PUBLIC); // no region
    assert_int_equal(c->targets[1].clearance, TD_CLASS_PUBLIC); // no clearance
    assert_int_equal(c->targets[2].policy_tier, TD_TIER_CLOUD); // may forward
    assert_int_equal(c->targets[3].policy_tier, TD_TIER_EDGE);
    assert_int_equal(c->targets[4].policy_tier, TD_TIER_CLOUD);
    assert_int_equal(c->targets[4].clearance, TD_CLASS_PUBLIC);
    assert_int_equal(c->targets[5].policy_tier, TD_TIER_DEVICE);
    assert_int_equal(c->targets[5].clearance, TD_CLASS_RESTRICTED);
    td_config_unref(c);
}

static void money_is_exact_and_never_rounded_down(void **state) {
    (void)state;
    struct td_config *c = load("version: 1\ntargets:\n"
                               "  - {name: a, tier: cloud, provider: openai, model: m, base_url: 'https://a.b', price: "
                               "{input: 0.0375, output: 0.6, cached_input: 0}}\n"
                               "tenants: [{name: t, budget_usd_per_day: 0.000000001, budget_usd_per_month: 12.5}]\n");
    assert_int_equal(c->targets[0].price.input_nusd, 38);
    assert_int_equal(c->targets[0].price.output_nusd, 600);
    assert_int_equal(c->targets[0].price.cached_input_nusd, 0);
    assert_int_equal(c->policy.tenants[0].budget_day_nusd, 1);
    assert_int_equal(c->policy.tenants[0].budget_month_nusd, 12500000000);
    td_config_unref(c);
}

static void labels_keep_their_bits_across_a_reload(void **state) {
    (void)state;
    struct td_config *a = load("version: 1\n" DEVICE "policy: {rules: [{when: {labels: [x, y]}}]}\n"), *b = NULL;
    assert_ok(td_config_load_text(TD_STR("version: 1\n" DEVICE "policy: {rules: [{when: {labels: [z, y]}}]}\n"), "b",
                                  "/", a, &b, NULL));
    assert_int_equal(td_policy_label(&a->policy, TD_STR("y")), td_policy_label(&b->policy, TD_STR("y")));
    assert_int_not_equal(td_policy_label(&b->policy, TD_STR("z")), td_policy_label(&a->policy, TD_STR("x")));
    assert_int_equal(td_policy_label(&a->policy, TD_STR("z")), TD_LABEL_OTHER);
    td_config_unref(a);
    td_config_unref(b);
}

static void limits_hold_at_and_over_them(void **state) {
    (void)state;
    struct td_config *c = NULL;
    struct td_error e = {0};
    for (unsigned n = TD_TARGETS_MAX; n <= TD_TARGETS_MAX + 1; n++) {
        struct td_buf b;
        td_buf_init(&b, 1 << 20);
        assert_ok(td_buf_addz(&b, "version: 1\ntargets:\n"));
        for (unsigned i = 0; i < n; i++)
            assert_ok(td_buf_printf(&b, "  - {name: t%u, tier: device, provider: llama, model: /x}\n", i));
        enum td_err err = td_config_load_text(td_buf_str(&b), "f", "/", NULL, &c, &e);
        assert_int_equal(err, n > TD_TARGETS_MAX ? TD_ERR_CONFIG : TD_OK);
        td_config_unref(err == TD_OK ? c : NULL);
        td_buf_finish(&b);
    }
    for (unsigned n = TD_RULES_MAX; n <= TD_RULES_MAX + 1; n++) {
        struct td_buf b;
        td_buf_init(&b, 1 << 20);
        assert_ok(td_buf_addz(&b, "version: 1\n" DEVICE "policy:\n  rules:\n"));
        for (unsigned i = 0; i < n; i++)
            assert_ok(td_buf_addz(&b, "    - {when: {residency: eu}, allow: {regions: [eu, local]}}\n"));
        enum td_err err = td_config_load_text(td_buf_str(&b), "f", "/", NULL, &c, &e);
        assert_int_equal(err, n > TD_RULES_MAX ? TD_ERR_CONFIG : TD_OK);
        td_config_unref(err == TD_OK ? c : NULL);
        td_buf_finish(&b);
    }
    char *big = malloc(TD_CONFIG_BYTES_MAX + 2);
    memset(big, ' ', TD_CONFIG_BYTES_MAX + 2);
    memcpy(big, "version: 1\n" DEVICE "#", strlen("version: 1\n" DEVICE "#"));
    assert_ok(td_config_load_text(td_str_n(big, TD_CONFIG_BYTES_MAX), "f", "/", NULL, &c, &e));
    td_config_unref(c);
    assert_int_equal(td_config_load_text(td_str_n(big, TD_CONFIG_BYTES_MAX + 1), "f", "/", NULL, &c, &e), TD_ERR_LIMIT);
    free(big);
    // Depth: the 17th level is refused before anything else is looked at.
    assert_int_equal(td_config_load_text(TD_STR("a: [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]"), "f", "/", NULL, &c, &e),
                     TD_ERR_CONFIG);
    assert_non_null(strstr(e.message, "nested too deeply"));
}

static void files_are_read_and_their_folder_counts(void **state) {
    (void)state;
    char dir[] = "/tmp/td-config-XXXXXX", path[64], model[64];
    struct td_config *c = NULL;
    struct td_error e = {0};
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/t.yaml", dir);
    snprintf(model, sizeof model, "%s/m.gguf", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("version: 1\ntargets:\n  - {name: d, tier: device, provider: llama, model: m.gguf}\n", f);
    fclose(f);
    f = fopen(model, "w");
    fclose(f);
    assert_ok(td_config_load(path, NULL, &c, &e));
    assert_str(c->targets[0].model, model);
    assert_true(c->targets[0].model_found);
    td_config_unref(c);
    unlink(model);
    unlink(path);
    assert_int_equal(td_config_load(path, NULL, &c, &e), TD_ERR_CONFIG);
    assert_int_equal(td_config_load(dir, NULL, &c, &e), TD_ERR_CONFIG);
    rmdir(dir);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    static const char text[] =
        "version: 1\n" DEVICE CLOUD
        "policy: {content: {labels: {phi: {words: [blood], patterns: ['[0-9]{3}']}}}, rules: [{when: "
        "{labels: [phi, other]}, deny: {tiers: cloud}}]}\naliases: {a: d}\ntenants: [{name: t}]\n";
    enum td_err err = TD_ERR_NOMEM;
    for (uint64_t n = 1; err != TD_OK; n++) {
        struct td_config *c = NULL;
        struct td_error e = {0};
        td_alloc_fail_at(n);
        err = td_config_load_text(td_str_of(text), "f", "/", NULL, &c, &e);
        td_alloc_fail_at(0);
        assert_true(err == TD_OK || err == TD_ERR_NOMEM);
        assert_true(err == TD_OK || e.code == TD_ERR_NOMEM);
        assert_true(n < 10000);
        td_config_unref(c);
    }
}

static void the_schema_is_valid_json_and_names_every_option(void **state) {
    (void)state;
    struct td_buf b;
    struct td_arena a;
    td_json *root;
    td_buf_init(&b, 1 << 20);
    td_arena_init(&a, 8 << 20);
    assert_ok(td_config_schema_json(&b));
    assert_ok(td_json_parse(&a, td_buf_str(&b), 64, &root, NULL));
    td_json *props = td_json_get(root, "properties");
    assert_non_null(td_json_get(td_json_get(td_json_get(props, "targets"), "items"), "properties"));
    assert_non_null(td_json_get(props, "listen"));
    td_buf_clear(&b);
    assert_ok(td_config_schema_markdown(&b));
    assert_non_null(strstr(td_buf_z(&b), "| `policy.rules[].when.data_class` |"));
    assert_non_null(strstr(td_buf_z(&b), "| `targets[].timeouts.connect_ms` | 1…60000 | `2000` |"));
    td_buf_finish(&b);
    td_arena_finish(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_is_read_as_written),
        cmocka_unit_test(the_embedded_defaults_load),
        cmocka_unit_test(errors_say_where_and_what),
        cmocka_unit_test(framing_headers_are_refused),
        cmocka_unit_test(what_is_unstated_off_the_device_sees_public_only),
        cmocka_unit_test(money_is_exact_and_never_rounded_down),
        cmocka_unit_test(labels_keep_their_bits_across_a_reload),
        cmocka_unit_test(limits_hold_at_and_over_them),
        cmocka_unit_test(files_are_read_and_their_folder_counts),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(the_schema_is_valid_json_and_names_every_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
