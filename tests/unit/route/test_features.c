// SPDX-License-Identifier: Apache-2.0
#include "world.h"

#include <stdio.h>

#include "route/features.h"

static struct td_facts facts_of(const struct td_config *c, const char *text, const struct td_wishes *wishes) {
    struct td_part part = {.type = TD_PART_TEXT, .text = td_str_of(text)};
    struct td_message m = {.role = TD_ROLE_USER, .parts = &part, .part_count = 1};
    struct td_request r = {
        .messages = &m, .message_count = 1, .n = 1, .capabilities = TD_CAP_CHAT, .wishes = {.max_cost_nusd = -1}};
    struct td_facts_input in = {.budget_left_nusd = INT64_MAX};
    struct td_facts f;
    if (wishes)
        r.wishes = *wishes;
    assert_ok(td_facts_make(&r, &c->policy, &in, &f));
    return f;
}

#define ONE "version: 1\ntargets: [{name: d, tier: device, provider: llama, model: /x}]\n"

static void commands_are_told_from_questions(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint32_t has, lacks;
    } rows[] = {
        {"set a timer for 10 minutes", TD_FEATURE_COMMAND, TD_FEATURE_QUESTION},
        {"turn off the kitchen lights", TD_FEATURE_COMMAND, TD_FEATURE_QUESTION},
        {"remind me to call the dentist tomorrow at nine", TD_FEATURE_COMMAND, TD_FEATURE_QUESTION},
        {"what is 18 % of 240", TD_FEATURE_COMMAND | TD_FEATURE_MATH, TD_FEATURE_QUESTION},
        {"add milk to my shopping list", TD_FEATURE_COMMAND, TD_FEATURE_QUESTION},
        {"what's the weather in Paris", TD_FEATURE_COMMAND, TD_FEATURE_QUESTION},
        {"Tell me about the history of the Roman Empire", TD_FEATURE_QUESTION, TD_FEATURE_COMMAND},
        {"Why is the sky blue?", TD_FEATURE_QUESTION, TD_FEATURE_COMMAND},
        {"Explain quantum entanglement", TD_FEATURE_QUESTION, TD_FEATURE_COMMAND},
        {"Wyjaśnij mi teorię względności", TD_FEATURE_QUESTION, TD_FEATURE_COMMAND},
        {"Write a poem about autumn", TD_FEATURE_CREATIVE, TD_FEATURE_COMMAND},
        {"fix this: ```int main(){return x;}```", TD_FEATURE_CODE, TD_FEATURE_COMMAND},
        {"compare these two contracts step by step", TD_FEATURE_ANALYSIS, TD_FEATURE_COMMAND},
        {"any news today", TD_FEATURE_FRESH, 0},
        {"", 0, TD_FEATURE_COMMAND},
    };
    struct td_config *c = config_of(ONE);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint32_t got = facts_of(c, rows[i].text, NULL).features;
        if ((got & rows[i].has) != rows[i].has || got & rows[i].lacks)
            fail_msg("'%s': %x", rows[i].text, got);
    }
    td_config_unref(c);
}

static void tokens_are_estimated_within_reason(void **state) {
    (void)state;
    // About what byte-pair vocabularies of 100,000 entries make of prose, code, Polish and Chinese.
    static const struct {
        const char *text;
        uint32_t tokens;
    } rows[] = {
        {"The quick brown fox jumps over the lazy dog and runs into the forest.", 15},
        {"for (int i = 0; i < n; i++) { sum += values[i] * 2; }", 25},
        {"Zażółć gęślą jaźń i jedź do domu.", 20},
        {"今天天气很好，我们去公园散步吧。", 17},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint32_t got = td_tokens_estimate(td_str_of(rows[i].text));
        if (got * 3 < rows[i].tokens * 2 || got * 2 > rows[i].tokens * 3)
            fail_msg("'%s': %u instead of about %u", rows[i].text, got, rows[i].tokens);
    }
    assert_int_equal(td_tokens_estimate(TD_STR_NONE), 0);
    assert_int_equal(td_tokens_estimate(TD_STR("a")), 1);
}

// Long texts are counted sixteen bytes at a time: that must give what counting byte by byte gives, wherever a block
// ends.
static void blocks_count_like_bytes(void **state) {
    (void)state;
    static const char alphabet[] = "aB7 '=+{;`\xc3\xa9 zZ09./^%}\n";
    struct td_config *c = config_of(ONE);
    char text[2600];
    uint32_t seed = 1;
    for (size_t n = 1; n < sizeof text; n += n < 70 ? 1 : 97) {
        bool ascii = n % 2;
        uint32_t words = 0, milli = 0;
        bool inside = false;
        text[0] = '.'; // nothing to trim
        for (size_t i = 1; i < n; i++) {
            seed = seed * 1664525 + 1013904223;
            text[i] = alphabet[(seed >> 16) % (sizeof alphabet - 1)];
            if (i + 1 == n || (ascii && (unsigned char)text[i] >= 0x80))
                text[i] = 'q';
        }
        text[n] = 0;
        for (size_t i = 0; i < n; i++) {
            bool word = strchr("aB7'zZ09q", text[i]) || (unsigned char)text[i] >= 0x80;
            words += word && !inside;
            inside = word;
            milli += (unsigned char)text[i] == 0xc3   ? 900
                     : (unsigned char)text[i] >= 0x80 ? 0
                     : strchr("az q", text[i])        ? 215
                     : strchr("BZ", text[i])          ? 300
                     : strchr("709", text[i])         ? 400
                                                      : 750;
        }
        assert_int_equal(facts_of(c, text, NULL).words, words);
        assert_int_equal(td_tokens_estimate(td_str_n(text, n)), (milli + 999) / 1000);
    }
    td_config_unref(c);
}

static void offered_tools_are_counted_apart(void **state) {
    (void)state;
    struct td_config *c = config_of(ONE);
    struct td_arena a;
    struct td_buf b;
    struct td_tool tool = {0};
    td_arena_init(&a, 4 << 20);
    td_buf_init(&b, 1 << 20);
    assert_ok(td_buf_addz(&b, "{\"function\":{\"description\":\""));
    for (int i = 0; i < 4000; i++)
        assert_ok(td_buf_addz(&b, "some words "));
    assert_ok(td_buf_addz(&b, "\"}}"));
    assert_ok(td_json_parse(&a, td_buf_str(&b), 8, &tool.raw, NULL));
    struct td_part part = {.type = TD_PART_TEXT, .text = TD_STR("set a timer for 10 minutes")};
    struct td_message m = {.role = TD_ROLE_USER, .parts = &part, .part_count = 1};
    struct td_request r = {.messages = &m, .message_count = 1, .tools = &tool, .tool_count = 1, .n = 1};
    struct td_facts_input in = {0};
    struct td_facts f;
    assert_ok(td_facts_make(&r, &c->policy, &in, &f));
    assert_true(f.has_tools && f.tool_tokens > 5000 && f.input_tokens > f.tool_tokens);
    assert_true(f.input_tokens - f.tool_tokens < 30);
    assert_int_equal(f.features & (TD_FEATURE_COMMAND | TD_FEATURE_LONG), TD_FEATURE_COMMAND);
    td_buf_finish(&b);
    td_arena_finish(&a);
    td_config_unref(c);
}

static void content_and_caller_and_conversation_add_up(void **state) {
    (void)state;
    struct td_config *c = config_of(ONE "policy: {content: {labels: {phi: {words: [diagnosis]}, project: {patterns: "
                                        "['PX-[0-9]{4}'], class: restricted}}}}\n");
    struct td_wishes w = {.data_class = TD_CLASS_PUBLIC,
                          .labels = {TD_STR("pii"), TD_STR("unheard-of")},
                          .label_count = 2,
                          .max_cost_nusd = -1};
    struct td_facts f = facts_of(c, "hello", NULL);
    assert_int_equal(f.data_class, TD_CLASS_UNKNOWN);
    assert_int_equal(f.labels, 0);
    f = facts_of(c, "the Diagnosis was", NULL);
    assert_int_equal(f.labels, TD_LABEL_PHI);
    assert_int_equal(f.data_class, TD_CLASS_CONFIDENTIAL);
    f = facts_of(c, "about PX-1234", &w); // the caller's "public" does not lower what the content says
    assert_int_equal(f.labels, TD_LABEL_PII | TD_LABEL_OTHER | td_policy_label(&c->policy, TD_STR("project")));
    assert_int_equal(f.data_class, TD_CLASS_RESTRICTED);
    w.label_count = 0;
    f = facts_of(c, "hello", &w);
    assert_int_equal(f.data_class, TD_CLASS_PUBLIC);

    struct td_request r = {.n = 1, .wishes = {.max_cost_nusd = -1}};
    struct td_facts_input in = {.sticky_class = TD_CLASS_CONFIDENTIAL, .sticky_labels = TD_LABEL_PCI};
    assert_ok(td_facts_make(&r, &c->policy, &in, &f));
    assert_int_equal(f.labels, TD_LABEL_PCI);
    assert_int_equal(f.data_class, TD_CLASS_CONFIDENTIAL);
    td_config_unref(c);
}

static void tiers_of_a_wish_narrow(void **state) {
    (void)state;
    struct td_config *c = config_of(ONE);
    struct td_wishes w = {.max_cost_nusd = -1};
    assert_int_equal(facts_of(c, "hi", &w).tiers_allowed, 0);
    w.tiers[w.tier_count++] = TD_STR("device");
    w.tiers[w.tier_count++] = TD_STR("onprem");
    assert_int_equal(facts_of(c, "hi", &w).tiers_allowed, 1u << TD_TIER_DEVICE | 1u << TD_TIER_ONPREM);
    w.tier_count = 1;
    struct td_request r = {.n = 1, .wishes = w};
    struct td_facts_input in = {.budget_left_nusd = INT64_MAX, .tiers_allowed = 1u << TD_TIER_CLOUD};
    struct td_facts f;
    assert_ok(td_facts_make(&r, &c->policy, &in, &f));
    assert_int_equal(f.tiers_allowed & ((1u << TD_TIER_COUNT) - 1), 0); // nothing in common
    assert_int_not_equal(f.tiers_allowed, 0);                           // and not: all
    td_config_unref(c);
}

static void labels_are_found_wherever_text_may_hide(void **state) {
    (void)state;
    static const char *const bodies[] = {
        "{\"messages\":[{\"role\":\"user\",\"content\":\"my diagnosis\"}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"my diagnosis\"}]}]}",
        "{\"tools\":[{\"function\":{\"description\":\"a diagnosis\"}}]}",
        "{\"unknown\":{\"deep\":[{\"field\":\"diagnosis\"}]}}",
        "{\"unknown\":{\"diagnosis\":1}}",
        "{\"x\":\"\\u0064iagnosis\"}",
    };
    struct td_config *c = config_of(ONE "policy: {content: {labels: {phi: {words: [diagnosis]}}}}\n");
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct td_arena a;
        struct td_request r = {.n = 1, .wishes = {.max_cost_nusd = -1}};
        struct td_facts_input in = {0};
        struct td_facts f;
        td_arena_init(&a, 1 << 20);
        assert_ok(td_json_parse(&a, td_str_of(bodies[i]), 64, &r.root, NULL));
        assert_ok(td_facts_make(&r, &c->policy, &in, &f));
        if (f.labels != TD_LABEL_PHI)
            fail_msg("%s", bodies[i]);
        td_arena_finish(&a);
    }
    td_config_unref(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_are_told_from_questions),
        cmocka_unit_test(tokens_are_estimated_within_reason),
        cmocka_unit_test(blocks_count_like_bytes),
        cmocka_unit_test(offered_tools_are_counted_apart),
        cmocka_unit_test(content_and_caller_and_conversation_add_up),
        cmocka_unit_test(tiers_of_a_wish_narrow),
        cmocka_unit_test(labels_are_found_wherever_text_may_hide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
