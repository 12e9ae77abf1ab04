// SPDX-License-Identifier: Apache-2.0
// Like test_openai_answer.c this program writes the bodies it made to the file named by TANDEM_WIRE_DUMP, for
// check_schema.py.
#include "unit.h"

#include <stdio.h>

#include "wire/dialect.h"
#include "wire/emit.h"
#include "wire/openai_provider.h"
#include "wire/openai_request.h"

static struct td_arena arena;
static struct td_error error;
static struct td_request req;
static struct td_buf out;

static int setup(void **state) {
    (void)state;
    td_arena_init(&arena, 1 << 24);
    td_buf_init(&out, 1 << 24);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    td_arena_finish(&arena);
    td_buf_finish(&out);
    return 0;
}

static void read_as(enum td_kind kind, const char *body) {
    if (td_openai_read_request(&arena, kind, td_str_of(body), &req, &error) != TD_OK)
        fail_msg("%s: %s", error.message, body);
}

static void dump(enum td_kind kind, struct td_str json) {
    static const char *const schemas[] = {"CreateChatCompletionRequest", "CreateCompletionRequest",
                                          "CreateEmbeddingRequest"};
    const char *path = getenv("TANDEM_WIRE_DUMP");
    FILE *f = path ? fopen(path, "a") : NULL;
    if (f) {
        fprintf(f, "%s\t%.*s\n", schemas[kind], TD_STR_ARG(json));
        fclose(f);
    }
}

static void expect(enum td_kind kind, const char *body, struct td_write_spec spec, const char *written) {
    if (!spec.model.p)
        spec.model = TD_STR("M");
    read_as(kind, body);
    td_buf_clear(&out);
    assert_ok(td_openai_write_request(&req, &spec, &out));
    if (!spec.same_dialect) // else there are fields that the schema cannot know
        dump(kind, td_buf_str(&out));
    if (!td_str_is(td_buf_str(&out), written))
        fail_msg("got\n%.*s\nexpected\n%s", TD_STR_ARG(td_buf_str(&out)), written);
}

#define USER "{\"role\":\"user\",\"content\":\"hi\"}"
#define CHAT(fields) "{\"model\":\"auto\",\"messages\":[" USER "]" fields "}"
#define OUT(fields) "{\"model\":\"M\",\"messages\":[" USER "]" fields "}"

static void a_plain_request_is_written_plainly(void **state) {
    (void)state;
    expect(TD_KIND_CHAT, CHAT(""), (struct td_write_spec){0}, OUT(""));
    expect(TD_KIND_CHAT, CHAT(",\"stream\":true"), (struct td_write_spec){.stream = true},
           OUT(",\"stream\":true,\"stream_options\":{\"include_usage\":true}"));
    expect(TD_KIND_CHAT, CHAT(",\"stream\":true"), (struct td_write_spec){0},
           OUT("")); // the target is asked for a whole one
    expect(TD_KIND_CHAT,
           CHAT(",\"temperature\":0.7,\"top_p\":1,\"presence_penalty\":-1.5,\"frequency_penalty\":0.1,\"seed\":-9,"
                "\"n\":2,\"max_tokens\":10,\"stop\":\"E\",\"logprobs\":true,\"top_logprobs\":3,\"user\":\"u\""),
           (struct td_write_spec){0},
           OUT(",\"max_tokens\":10,\"temperature\":0.7,\"top_p\":1,\"presence_penalty\":-1.5,\"frequency_penalty\":0.1,"
               "\"seed\":-9,\"n\":2,\"stop\":[\"E\"],\"logprobs\":true,\"top_logprobs\":3,\"user\":\"u\""));
    expect(TD_KIND_CHAT, CHAT(",\"max_completion_tokens\":10"), (struct td_write_spec){.max_tokens = 4},
           OUT(",\"max_completion_tokens\":4"));
    expect(TD_KIND_CHAT, CHAT(""), (struct td_write_spec){.want_logprobs = true}, OUT(",\"logprobs\":true"));
}

#define FUNCTION                                                                                                       \
    "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\","   \
    "\"properties\":{\"x\":{\"type\":\"number\",\"minimum\":0.5}}},\"strict\":true}}"

static void tools_and_formats_are_written_back(void **state) {
    (void)state;
    static const char tools[] =
        ",\"tools\":[" FUNCTION "],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":"
        "\"f\"}},\"parallel_tool_calls\":false,\"response_format\":{\"type\":\"json_schema\","
        "\"json_schema\":{\"name\":\"s\",\"schema\":{\"type\":\"object\"},\"strict\":true}}";
    char body[2048], expected[2048];
    snprintf(body, sizeof body, "{\"model\":\"auto\",\"messages\":[" USER "]%s}", tools);
    snprintf(expected, sizeof expected, "{\"model\":\"M\",\"messages\":[" USER "]%s}", tools);
    expect(TD_KIND_CHAT, body, (struct td_write_spec){0}, expected);
    expect(TD_KIND_CHAT, CHAT(",\"tools\":[" FUNCTION "],\"tool_choice\":\"none\""), (struct td_write_spec){0},
           OUT(",\"tools\":[" FUNCTION "],\"tool_choice\":\"none\""));
    expect(TD_KIND_CHAT, CHAT(",\"tools\":[" FUNCTION "],\"tool_choice\":\"auto\""), (struct td_write_spec){0},
           OUT(",\"tools\":[" FUNCTION "]"));
    expect(TD_KIND_CHAT, CHAT(",\"response_format\":{\"type\":\"json_object\"}"), (struct td_write_spec){0},
           OUT(",\"response_format\":{\"type\":\"json_object\"}"));
}

static void messages_keep_their_form(void **state) {
    (void)state;
    static const char messages[] =
        "[{\"role\":\"developer\",\"content\":\"d\"},{\"role\":\"user\",\"name\":\"ann\",\"content\":[{\"type\":"
        "\"text\","
        "\"text\":\"a\\nb\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:x\",\"detail\":\"low\"}}]},"
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\",\"function\":{"
        "\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}]},{\"role\":\"tool\",\"content\":\"42\",\"tool_call_id\":"
        "\"1\"},"
        "{\"role\":\"assistant\",\"content\":null,\"refusal\":\"no\"},{\"role\":\"assistant\",\"content\":[{\"type\":"
        "\"refusal\",\"refusal\":\"never\"}]}]";
    char body[2048], expected[2048];
    snprintf(body, sizeof body, "{\"messages\":%s,\"model\":\"auto\"}", messages);
    snprintf(expected, sizeof expected, "{\"model\":\"M\",\"messages\":%s}", messages);
    expect(TD_KIND_CHAT, body, (struct td_write_spec){0}, expected);
}

static void unknown_fields_pass_within_a_dialect_only(void **state) {
    (void)state;
    static const char body[] =
        "{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi\","
        "\"cache\":1}],"
        "\"mood\":\"good\"}],\"service_tier\":\"flex\",\"logit_bias\":{\"5\":-1.5},\"big\":18446744073709551615,"
        "\"stream\":true,\"stream_options\":{\"include_usage\":false,\"include_obfuscation\":false},"
        "\"tandem\":{\"prefer\":\"fast\"}}";
    expect(
        TD_KIND_CHAT, body, (struct td_write_spec){.stream = true, .same_dialect = true},
        "{\"model\":\"M\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi\",\"cache\":1}"
        "],"
        "\"mood\":\"good\"}],\"stream\":true,\"stream_options\":{\"include_usage\":true,\"include_obfuscation\":false},"
        "\"service_tier\":\"flex\",\"logit_bias\":{\"5\":-1.5},\"big\":18446744073709551615}");
    expect(TD_KIND_CHAT, body, (struct td_write_spec){.stream = true},
           "{\"model\":\"M\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]}],"
           "\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
}

static void a_prefix_becomes_the_last_message(void **state) {
    (void)state;
    expect(TD_KIND_CHAT, CHAT(""), (struct td_write_spec){.prefix = TD_STR("so \"far\"")},
           "{\"model\":\"M\",\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":\"so \\\"far\\\"\"}]}");
    expect(TD_KIND_COMPLETION, "{\"model\":\"a\",\"prompt\":\"def \",\"suffix\":\"end\",\"logprobs\":2}",
           (struct td_write_spec){.prefix = TD_STR("f(")},
           "{\"model\":\"M\",\"prompt\":\"def f(\",\"suffix\":\"end\",\"logprobs\":2}");
    expect(TD_KIND_CHAT, CHAT(""), (struct td_write_spec){.prefix = TD_STR("a"), .prefix_mark = TD_PREFIX_MISTRAL},
           "{\"model\":\"M\",\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":\"a\",\"prefix\":true}]}");
    expect(TD_KIND_CHAT, CHAT(""), (struct td_write_spec){.prefix = TD_STR("a"), .prefix_mark = TD_PREFIX_VLLM},
           "{\"model\":\"M\",\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":\"a\"}],"
           "\"continue_final_message\":true,\"add_generation_prompt\":false}");
    expect(TD_KIND_CHAT, CHAT(""), (struct td_write_spec){.prefix_mark = TD_PREFIX_VLLM},
           "{\"model\":\"M\",\"messages\":[" USER "]}"); // nothing to go on from
    struct td_write_spec spec = {.model = TD_STR("M"), .prefix = TD_STR("x")};
    read_as(TD_KIND_CHAT, CHAT(",\"n\":2"));
    td_buf_clear(&out);
    assert_int_equal(td_openai_write_request(&req, &spec, &out), TD_ERR_UNSUPPORTED);
    assert_int_equal(out.n, 0);
}

static void a_draft_is_shown_as_what_it_is(void **state) {
    (void)state;
    expect(TD_KIND_CHAT, CHAT(""), (struct td_write_spec){.draft = TD_STR("it \"may\" be")},
           "{\"model\":\"M\",\"messages\":[" USER ",{\"role\":\"user\",\"content\":\"Another, smaller model has "
           "drafted this answer. It was not sure; use what is "
           "right in it and answer yourself.\\n\\nit \\\"may\\\" be\"}]}");
}

static void embeddings_are_written(void **state) {
    (void)state;
    expect(TD_KIND_EMBEDDING, "{\"model\":\"a\",\"input\":\"x\"}", (struct td_write_spec){0},
           "{\"model\":\"M\",\"input\":\"x\"}");
    expect(TD_KIND_EMBEDDING,
           "{\"model\":\"a\",\"input\":[\"x\"],\"dimensions\":3,\"encoding_format\":\"base64\",\"extra\":[]}",
           (struct td_write_spec){.same_dialect = true},
           "{\"model\":\"M\",\"input\":[\"x\"],\"dimensions\":3,\"encoding_format\":\"base64\",\"extra\":[]}");
}

// Marks what it sees, and refuses one word.
static enum td_err mark(void *user, struct td_str text, struct td_buf *to) {
    ++*(int *)user;
    if (td_str_is(text, "forbidden"))
        return TD_ERR_BLOCKED;
    enum td_err err = td_buf_addc(to, '<');
    if (err == TD_OK)
        err = td_buf_add_str(to, text);
    return err == TD_OK ? td_buf_addc(to, '>') : err;
}

static void every_text_goes_through_the_hook(void **state) {
    (void)state;
    int calls = 0;
    struct td_write_spec spec = {.same_dialect = true, .prefix = TD_STR("far"), .text = mark, .text_user = &calls};
    expect(
        TD_KIND_CHAT,
        "{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"name\":\"ann\",\"content\":\"hi\"},{\"role\":\"user\","
        "\"content\":[{\"type\":\"text\",\"text\":\"t\"},{\"type\":\"file\",\"file\":{\"filename\":\"n\",\"file_data\":"
        "\"D\"}}]},{\"role\":\"assistant\",\"refusal\":\"no\",\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":"
        "\"f\","
        "\"arguments\":\"{}\"}}]}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":"
        "\"d\"}}],"
        "\"stop\":\"s\",\"user\":\"u\",\"metadata\":{\"k\":\"v\",\"n\":[1,true,null,\"w\"]}}",
        spec,
        "{\"model\":\"M\",\"messages\":[{\"role\":\"user\",\"name\":\"<ann>\",\"content\":\"<hi>\"},{\"role\":\"user\","
        "\"content\":[{\"type\":\"text\",\"text\":\"<t>\"},{\"type\":\"file\",\"file\":{\"filename\":\"<n>\","
        "\"file_data\":\"D\"}}]},{\"role\":\"assistant\",\"content\":null,\"refusal\":\"<no>\",\"tool_calls\":[{\"id\":"
        "\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"<{}>\"}}]},{\"role\":\"assistant\","
        "\"content\":\"<far>\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":"
        "\"<d>\"}}],\"stop\":[\"<s>\"],\"user\":\"<u>\",\"metadata\":{\"k\":\"<v>\",\"n\":[1,true,null,\"<w>\"]}}");
    assert_int_equal(calls, 12);
    spec.prefix = TD_STR("b");
    expect(TD_KIND_COMPLETION, "{\"model\":\"a\",\"prompt\":\"a\"}", spec, "{\"model\":\"M\",\"prompt\":\"<a><b>\"}");
    read_as(TD_KIND_CHAT, CHAT(",\"metadata\":{\"k\":[\"forbidden\"]}"));
    td_buf_clear(&out);
    assert_ok(td_buf_addz(&out, "before"));
    assert_int_equal(td_openai_write_request(&req, &spec, &out), TD_ERR_BLOCKED);
    assert_str(td_buf_str(&out), "before");
}

static void a_chain_passes_the_wishes_on(void **state) {
    (void)state;
    struct td_wishes w;
    td_wishes_init(&w);
    w.data_class = TD_CLASS_CONFIDENTIAL;
    w.labels[w.label_count++] = TD_STR("phi");
    w.residency = TD_STR("eu");
    w.tiers[w.tier_count++] = TD_STR("onprem");
    w.deadline_ms = 1200;
    w.hops = 1;
    w.mode = TD_MODE_PROGRESSIVE;
    expect(TD_KIND_CHAT, CHAT(",\"tandem\":{\"data_class\":\"public\"}"),
           (struct td_write_spec){.same_dialect = true, .chain = &w},
           OUT(",\"tandem\":{\"data_class\":\"confidential\",\"labels\":[\"phi\"],\"residency\":\"eu\",\"deadline_ms\":"
               "1200,"
               "\"tiers\":[\"onprem\"],\"hops\":1}"));
    // The next hop understands it.
    assert_ok(td_openai_read_chat(&arena, td_arena_str(&arena, td_buf_str(&out)), &req, &error));
    assert_int_equal(req.wishes.hops, 1);
    assert_int_equal(req.wishes.data_class, TD_CLASS_CONFIDENTIAL);
}

static void urls_are_built(void **state) {
    (void)state;
    static const struct {
        const char *base, *style, *version, *model, *url;
        enum td_kind kind;
    } list[] = {
        {"https://h/v1", "", "", "m", "https://h/v1/chat/completions", TD_KIND_CHAT},
        {"https://h/v1/", "openai", "x", "m", "https://h/v1/completions", TD_KIND_COMPLETION},
        {"https://h/v1", "openai", "", "m", "https://h/v1/embeddings", TD_KIND_EMBEDDING},
        {"https://h", "azure", "2024-10-21", "my gpt/4?",
         "https://h/openai/deployments/my%20gpt%2F4%3F/chat/completions?api-version=2024-10-21", TD_KIND_CHAT},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        td_buf_clear(&out);
        assert_ok(td_openai_write_url(td_str_of(list[i].base), td_str_of(list[i].style), td_str_of(list[i].version),
                                      list[i].kind, td_str_of(list[i].model), &out));
        assert_str(td_buf_str(&out), list[i].url);
    }
}

static void numbers_are_short_and_exact(void **state) {
    (void)state;
    static const struct {
        double v;
        const char *z;
    } list[] = {{0, "0"},
                {1, "1"},
                {0.7, "0.7"},
                {-1.5, "-1.5"},
                {0.1 + 0.2, "0.30000000000000004"},
                {1e300, "1e+300"},
                {123456789.125, "123456789.125"}};
    struct td_emit m;
    td_emit_init(&m, &out);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        td_buf_clear(&out);
        td_emit_double(&m, list[i].v);
        assert_str(td_buf_str(&out), list[i].z);
    }
    uint32_t bits = 1;
    for (int i = 0; i < 20000; i++) {
        float v;
        bits = bits * 1664525u + 1013904223u;
        memcpy(&v, &bits, sizeof v);
        if (v != v || v - v != 0)
            continue;
        td_buf_clear(&out);
        td_emit_float(&m, v);
        assert_true(strtof(td_buf_z(&out), NULL) == v);
    }
    td_buf_clear(&out);
    td_emit_usd(&m, 1500);
    td_emit_lit(&m, " ");
    td_emit_usd(&m, 2000000000);
    td_emit_lit(&m, " ");
    td_emit_usd(&m, -1);
    td_emit_lit(&m, " ");
    td_emit_i64(&m, INT64_MIN);
    td_emit_lit(&m, " ");
    td_emit_u64(&m, UINT64_MAX);
    assert_int_equal(m.err, TD_OK);
    assert_str(td_buf_str(&out), "0.0000015 2 -0.000000001 -9223372036854775808 18446744073709551615");
    td_emit_finish(&m);
}

static void what_is_written_reads_back_the_same(void **state) {
    (void)state;
    read_as(TD_KIND_CHAT, CHAT(",\"tools\":[" FUNCTION "],\"stop\":[\"a\",\"b\"],\"temperature\":0.3,\"seed\":5"));
    struct td_write_spec spec = {.model = TD_STR("auto"), .same_dialect = true};
    assert_ok(td_openai_write_request(&req, &spec, &out));
    struct td_str first = td_arena_str(&arena, td_buf_str(&out));
    assert_ok(td_openai_read_chat(&arena, first, &req, &error));
    td_buf_clear(&out);
    assert_ok(td_openai_write_request(&req, &spec, &out));
    assert_true(td_str_eq(first, td_buf_str(&out)));
}

static void each_allocation_may_fail(void **state) {
    (void)state;
    int calls = 0, failures = 0;
    read_as(TD_KIND_CHAT, CHAT(",\"tools\":[" FUNCTION "],\"metadata\":{\"a\":[1,2]}"));
    for (uint64_t n = 1; n < 60; n++) {
        struct td_write_spec spec = {
            .model = TD_STR("M"), .same_dialect = true, .text = n % 2 ? mark : NULL, .text_user = &calls};
        td_buf_finish(&out);
        td_alloc_fail_at(n);
        enum td_err err = td_openai_write_request(&req, &spec, &out);
        td_alloc_fail_at(0);
        if (err == TD_OK)
            continue;
        assert_int_equal(err, TD_ERR_NOMEM);
        assert_int_equal(out.n, 0);
        failures++;
    }
    assert_between(failures, 3, 50);
}

static void the_table_is_complete(void **state) {
    (void)state;
    const struct td_dialect_ops *ops = td_dialect_ops(TD_DIALECT_OPENAI);
    assert_string_equal(ops->name, "openai");
    for (const char *p = (const char *)&ops->read_request; p < (const char *)(ops + 1); p += sizeof(void *)) {
        void *fn;
        memcpy(&fn, p, sizeof fn);
        assert_non_null(fn);
    }
    assert_non_null(td_dialect_ops((enum td_dialect)99));
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_plain_request_is_written_plainly),
        T(tools_and_formats_are_written_back),
        T(messages_keep_their_form),
        T(unknown_fields_pass_within_a_dialect_only),
        T(a_prefix_becomes_the_last_message),
        T(a_draft_is_shown_as_what_it_is),
        T(embeddings_are_written),
        T(every_text_goes_through_the_hook),
        T(a_chain_passes_the_wishes_on),
        T(urls_are_built),
        T(numbers_are_short_and_exact),
        T(what_is_written_reads_back_the_same),
        T(each_allocation_may_fail),
        T(the_table_is_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
