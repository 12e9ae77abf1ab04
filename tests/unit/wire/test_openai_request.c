// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <math.h>

#include "wire/openai_request.h"

static struct td_arena arena;
static struct td_error error;
static struct td_request req;

static int setup(void **state) {
    (void)state;
    td_arena_init(&arena, TD_ARENA_BYTES_MAX);
    memset(&error, 0, sizeof error);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    td_arena_finish(&arena);
    return 0;
}

#define CHAT(fields) "{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]" fields "}"
#define USER "{\"role\":\"user\",\"content\":\"hi\"},"
#define TEN USER USER USER USER USER USER USER USER USER USER
#define MESSAGE(m) "{\"model\":\"auto\",\"messages\":[" m "]}"

static enum td_err chat(const char *body) {
    return td_openai_read_chat(&arena, td_str_of(body), &req, &error);
}

struct refused {
    const char *body;
    enum td_err code;
    const char *param;
};

static void expect_refused(enum td_kind kind, const struct refused *list, size_t count) {
    for (size_t i = 0; i < count; i++) {
        memset(&error, 0, sizeof error);
        enum td_err err = td_openai_read_request(&arena, kind, td_str_of(list[i].body), &req, &error);
        if (err != list[i].code || strcmp(error.param, list[i].param) != 0)
            fail_msg("%s: %s, param '%s', '%s'", list[i].body, td_err_code(err), error.param, error.message);
        assert_int_equal(error.code, err);
        assert_true(error.message[0] != 0);
    }
}
#define EXPECT_REFUSED(kind, list) expect_refused(kind, list, sizeof(list) / sizeof *(list))

static void a_full_chat_request_is_read(void **state) {
    (void)state;
    assert_ok(
        chat("{\"model\":\"gpt-x\",\"messages\":["
             "{\"role\":\"developer\",\"content\":\"be \\u00e9 brief\"},"
             "{\"role\":\"user\",\"name\":\"ann\",\"content\":[{\"type\":\"text\",\"text\":\"look\"},"
             "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,AAAA\",\"detail\":\"low\"}}]},"
             "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\","
             "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}]},"
             "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"42\"}],"
             "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"does f\","
             "\"parameters\":{\"type\":\"object\"},\"strict\":true}}],"
             "\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}},\"parallel_tool_calls\":false,"
             "\"temperature\":0.5,\"top_p\":1,\"presence_penalty\":-2,\"frequency_penalty\":2,\"seed\":-7,\"n\":2,"
             "\"max_tokens\":5,\"max_completion_tokens\":9,\"stop\":[\"\\n\",\"\",\"END\"],\"stream\":true,"
             "\"stream_options\":{\"include_usage\":true},\"logprobs\":true,\"top_logprobs\":20,\"user\":\"u1\","
             "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"s\",\"schema\":{\"type\":"
             "\"object\"},"
             "\"strict\":true}},\"reasoning_effort\":\"low\"}"));
    assert_str(req.model, "gpt-x");
    assert_int_equal(req.message_count, 4);
    assert_int_equal(req.messages[0].role, TD_ROLE_DEVELOPER);
    assert_str(req.messages[0].parts[0].text, "be \xc3\xa9 brief");
    assert_str(req.messages[1].name, "ann");
    assert_int_equal(req.messages[1].part_count, 2);
    assert_int_equal(req.messages[1].parts[1].type, TD_PART_IMAGE);
    assert_str(req.messages[1].parts[1].text, "data:image/png;base64,AAAA");
    assert_int_equal(req.messages[2].part_count, 0);
    assert_int_equal(req.messages[2].tool_call_count, 1);
    assert_str(req.messages[2].tool_calls[0].arguments, "{\"x\":1}");
    assert_str(req.messages[3].tool_call_id, "c1");
    assert_int_equal(req.tool_count, 1);
    assert_int_equal(req.tool_choice, TD_TOOL_CHOICE_NAMED);
    assert_str(req.tool_choice_name, "f");
    assert_false(req.parallel_tool_calls);
    assert_true(req.temperature == 0.5 && req.top_p == 1 && req.presence_penalty == -2 && req.frequency_penalty == 2);
    assert_int_equal(req.seed, -7);
    assert_int_equal(req.n, 2);
    assert_int_equal(req.max_tokens, 9);
    assert_true(req.max_completion_tokens);
    assert_int_equal(req.stop_count, 2);
    assert_str(req.stops[1], "END");
    assert_true(req.stream && req.include_usage && req.logprobs);
    assert_int_equal(req.top_logprobs, 20);
    assert_int_equal(req.format, TD_FORMAT_JSON_SCHEMA);
    assert_str(req.schema_name, "s");
    assert_non_null(req.schema);
    assert_int_equal(req.capabilities,
                     TD_CAP_CHAT | TD_CAP_TOOLS | TD_CAP_IMAGE | TD_CAP_JSON_SCHEMA | TD_CAP_LOGPROBS | TD_CAP_CHOICES);
    assert_between(req.text_bytes, 10 + 4 + 1 + 7 + 2 + 1 + 6, 120);
}

static void what_is_not_given_is_marked_so(void **state) {
    (void)state;
    assert_ok(chat(CHAT(",\"temperature\":null,\"stop\":null,\"n\":null,\"tools\":null")));
    assert_true(isnan(req.temperature) && isnan(req.top_p));
    assert_int_equal(req.seed, -1);
    assert_int_equal(req.n, 1);
    assert_int_equal(req.max_tokens, 0);
    assert_false(req.stream || req.logprobs || req.include_usage);
    assert_true(req.parallel_tool_calls);
    assert_int_equal(req.capabilities, TD_CAP_CHAT);
    assert_int_equal(req.text_bytes, 2);
    assert_int_equal(req.wishes.max_cost_nusd, -1);
}

static void ranges_end_where_they_say(void **state) {
    (void)state;
    assert_ok(chat(CHAT(",\"temperature\":0")));
    assert_ok(chat(CHAT(",\"temperature\":2,\"top_p\":0,\"n\":16,\"max_tokens\":1")));
    assert_ok(chat(CHAT(",\"logprobs\":true,\"top_logprobs\":0")));
    assert_ok(chat(CHAT(",\"seed\":-9223372036854775808")));
    assert_ok(chat(CHAT(",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\","
                        "\"e\",\"f\",\"g\"]")));
    assert_int_equal(req.stop_count, 16);
    static const struct refused list[] = {
        {CHAT(",\"temperature\":2.0001"), TD_ERR_BAD_REQUEST, "temperature"},
        {CHAT(",\"temperature\":-0.1"), TD_ERR_BAD_REQUEST, "temperature"},
        {CHAT(",\"temperature\":\"1\""), TD_ERR_BAD_REQUEST, "temperature"},
        {CHAT(",\"top_p\":1.1"), TD_ERR_BAD_REQUEST, "top_p"},
        {CHAT(",\"n\":0"), TD_ERR_BAD_REQUEST, "n"},
        {CHAT(",\"n\":17"), TD_ERR_BAD_REQUEST, "n"},
        {CHAT(",\"n\":1.0"), TD_ERR_BAD_REQUEST, "n"},
        {CHAT(",\"n\":-1"), TD_ERR_BAD_REQUEST, "n"},
        {CHAT(",\"max_tokens\":0"), TD_ERR_BAD_REQUEST, "max_tokens"},
        {CHAT(",\"max_tokens\":99999999999"), TD_ERR_BAD_REQUEST, "max_tokens"},
        {CHAT(",\"max_completion_tokens\":true"), TD_ERR_BAD_REQUEST, "max_completion_tokens"},
        {CHAT(",\"presence_penalty\":2.5"), TD_ERR_BAD_REQUEST, "presence_penalty"},
        {CHAT(",\"frequency_penalty\":-3"), TD_ERR_BAD_REQUEST, "frequency_penalty"},
        {CHAT(",\"seed\":1.5"), TD_ERR_BAD_REQUEST, "seed"},
        {CHAT(",\"seed\":9223372036854775808"), TD_ERR_BAD_REQUEST, "seed"},
        {CHAT(",\"logprobs\":true,\"top_logprobs\":21"), TD_ERR_BAD_REQUEST, "top_logprobs"},
        {CHAT(",\"top_logprobs\":2"), TD_ERR_BAD_REQUEST, "top_logprobs"},
        {CHAT(",\"logprobs\":5"), TD_ERR_BAD_REQUEST, "logprobs"},
        {CHAT(",\"stop\":5"), TD_ERR_BAD_REQUEST, "stop"},
        {CHAT(",\"stop\":[1]"), TD_ERR_BAD_REQUEST, "stop"},
        {CHAT(",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\",\"e\",\"f\","
              "\"g\",\"h\"]"),
         TD_ERR_BAD_REQUEST, "stop"},
        {CHAT(",\"stream\":\"true\""), TD_ERR_BAD_REQUEST, "stream"},
        {CHAT(",\"stream_options\":{}"), TD_ERR_BAD_REQUEST, "stream_options"},
        {CHAT(",\"stream\":true,\"stream_options\":{\"include_usage\":1}"), TD_ERR_BAD_REQUEST,
         "stream_options.include_usage"},
    };
    EXPECT_REFUSED(TD_KIND_CHAT, list);
}

static void malformed_bodies_are_told_apart(void **state) {
    (void)state;
    static const struct refused list[] = {
        {"", TD_ERR_BAD_JSON, ""},
        {"{", TD_ERR_BAD_JSON, ""},
        {"nonsense", TD_ERR_BAD_JSON, ""},
        {"{\"model\":\"a\",}", TD_ERR_BAD_JSON, ""},
        {CHAT("} trailing"), TD_ERR_BAD_JSON, ""},
        {CHAT(",\"x\":\"\xff\""), TD_ERR_BAD_JSON, ""},
        {CHAT(",\"x\":\"\xed\xa0\x80\""), TD_ERR_BAD_JSON, ""},
        {CHAT(",\"x\":\"\\ud800\""), TD_ERR_BAD_JSON, ""},
        {CHAT(",\"x\":\"\x01\""), TD_ERR_BAD_JSON, ""},
        {CHAT(",\"x\":NaN"), TD_ERR_BAD_JSON, ""},
        {"[]", TD_ERR_BAD_REQUEST, ""},
        {"\"text\"", TD_ERR_BAD_REQUEST, ""},
        {"{}", TD_ERR_BAD_REQUEST, "messages"}, // a model need not be named: default_model
        {"{\"model\":\"a\"}", TD_ERR_BAD_REQUEST, "messages"},
        {"{\"model\":\"a\",\"messages\":null}", TD_ERR_BAD_REQUEST, "messages"},
        {"{\"model\":\"a\",\"messages\":[]}", TD_ERR_BAD_REQUEST, "messages"},
        {"{\"model\":\"a\",\"messages\":{}}", TD_ERR_BAD_REQUEST, "messages"},
        {"{\"model\":7,\"messages\":[]}", TD_ERR_BAD_REQUEST, "model"},
        {"{\"model\":\"\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", TD_ERR_BAD_REQUEST, "model"},
        {CHAT(",\"model\":\"b\""), TD_ERR_BAD_REQUEST, "model"},
        {CHAT(",\"temperature\":1,\"temperature\":1"), TD_ERR_BAD_REQUEST, "temperature"},
        {MESSAGE("{\"role\":\"user\",\"content\":\"a\\u0000b\"}"), TD_ERR_BAD_REQUEST, "messages[0].content"},
    };
    EXPECT_REFUSED(TD_KIND_CHAT, list);
    assert_int_equal(td_openai_read_chat(&arena, TD_STR("{\"a\":\"\0\"}"), &req, &error), TD_ERR_BAD_JSON);
}

static void depth_has_a_ceiling(void **state) {
    (void)state;
    for (unsigned depth = 62; depth <= 65; depth++) { // the value of x is one level further in
        struct td_buf b;
        td_buf_init(&b, 4096);
        assert_ok(td_buf_addz(&b, "{\"model\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"x\":"));
        for (unsigned i = 0; i < depth; i++)
            assert_ok(td_buf_addc(&b, '['));
        for (unsigned i = 0; i < depth; i++)
            assert_ok(td_buf_addc(&b, ']'));
        assert_ok(td_buf_addc(&b, '}'));
        assert_int_equal(td_openai_read_chat(&arena, td_buf_str(&b), &req, &error),
                         depth + 1 <= TD_JSON_DEPTH_MAX ? TD_OK : TD_ERR_LIMIT);
        td_buf_finish(&b);
    }
    assert_ok(
        chat(CHAT(",\"x\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"")));
    assert_ok(
        chat(CHAT(",\"x\":\"\\\\\",\"y\":\"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"")));
}

static void messages_have_the_shape_of_their_role(void **state) {
    (void)state;
    assert_ok(chat(MESSAGE("{\"role\":\"assistant\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"no\"}]}")));
    assert_int_equal(req.messages[0].parts[0].type, TD_PART_REFUSAL);
    assert_ok(chat(MESSAGE("{\"role\":\"assistant\",\"refusal\":\"no\"}")));
    assert_int_equal(req.messages[0].parts[0].type, TD_PART_REFUSAL);
    assert_ok(chat(MESSAGE("{\"role\":\"user\",\"content\":\"\"}")));
    assert_ok(
        chat(MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\",\"input_audio\":"
                     "{\"data\":\"AA\",\"format\":\"wav\"}},{\"type\":\"file\",\"file\":{\"file_id\":\"f\"}}]}")));
    assert_int_equal(req.capabilities, TD_CAP_CHAT | TD_CAP_AUDIO | TD_CAP_FILE);
    static const struct refused list[] = {
        {MESSAGE("7"), TD_ERR_BAD_REQUEST, "messages[0]"},
        {MESSAGE(TEN TEN "7"), TD_ERR_BAD_REQUEST, "messages[20]"},
        {MESSAGE(TEN
                 "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"text\",\"text\":1}]}"),
         TD_ERR_BAD_REQUEST, "messages[10].content[1].text"},
        {MESSAGE("{}"), TD_ERR_BAD_REQUEST, "messages[0].role"},
        {MESSAGE("{\"role\":\"robot\",\"content\":\"x\"}"), TD_ERR_BAD_REQUEST, "messages[0].role"},
        {MESSAGE("{\"role\":\"function\",\"name\":\"f\",\"content\":\"x\"}"), TD_ERR_UNSUPPORTED, "messages[0].role"},
        {MESSAGE("{\"role\":\"user\"}"), TD_ERR_BAD_REQUEST, "messages[0].content"},
        {MESSAGE("{\"role\":\"user\",\"content\":null}"), TD_ERR_BAD_REQUEST, "messages[0].content"},
        {MESSAGE("{\"role\":\"user\",\"content\":7}"), TD_ERR_BAD_REQUEST, "messages[0].content"},
        {MESSAGE("{\"role\":\"user\",\"content\":[]}"), TD_ERR_BAD_REQUEST, "messages[0].content"},
        {MESSAGE("{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\",\"content\":[\"x\"]}"), TD_ERR_BAD_REQUEST,
         "messages[1].content[0]"},
        {MESSAGE("{\"role\":\"user\",\"content\":[{\"text\":\"x\"}]}"), TD_ERR_BAD_REQUEST,
         "messages[0].content[0].type"},
        {MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"), TD_ERR_BAD_REQUEST,
         "messages[0].content[0].text"},
        {MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\",\"text\":\"b\"}]}"),
         TD_ERR_BAD_REQUEST, "messages[0].content[0].text"},
        {MESSAGE("{\"role\":\"system\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"u\"}}]}"),
         TD_ERR_BAD_REQUEST, "messages[0].content[0].type"},
        {MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":\"u\"}]}"), TD_ERR_BAD_REQUEST,
         "messages[0].content[0].image_url"},
        {MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}"), TD_ERR_BAD_REQUEST,
         "messages[0].content[0].image_url.url"},
        {MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"file\",\"file\":{}}]}"), TD_ERR_BAD_REQUEST,
         "messages[0].content[0].file"},
        {MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"video\"}]}"), TD_ERR_BAD_REQUEST,
         "messages[0].content[0].type"},
        {MESSAGE("{\"role\":\"user\",\"role\":\"system\",\"content\":\"x\"}"), TD_ERR_BAD_REQUEST, "messages[0].role"},
        {MESSAGE("{\"role\":\"user\",\"content\":\"x\",\"content\":null}"), TD_ERR_BAD_REQUEST, "messages[0].content"},
        {MESSAGE("{\"role\":\"tool\",\"content\":\"x\"}"), TD_ERR_BAD_REQUEST, "messages[0].tool_call_id"},
        {MESSAGE("{\"role\":\"user\",\"content\":\"x\",\"tool_calls\":[]}"), TD_ERR_BAD_REQUEST,
         "messages[0].tool_calls"},
        {MESSAGE("{\"role\":\"assistant\",\"tool_calls\":[]}"), TD_ERR_BAD_REQUEST, "messages[0].content"},
        {MESSAGE("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\"}]}"), TD_ERR_BAD_REQUEST,
         "messages[0].tool_calls[0].function"},
        {MESSAGE("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"custom\"}]}"), TD_ERR_UNSUPPORTED,
         "messages[0].tool_calls[0].type"},
        {MESSAGE("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":{}}}"
                 "]}"),
         TD_ERR_BAD_REQUEST, "messages[0].tool_calls[0].function.arguments"},
        {MESSAGE("{\"role\":\"assistant\",\"content\":\"x\",\"function_call\":{}}"), TD_ERR_UNSUPPORTED,
         "messages[0].function_call"},
    };
    EXPECT_REFUSED(TD_KIND_CHAT, list);
}

#define TOOL(name) "{\"type\":\"function\",\"function\":{\"name\":\"" name "\"}}"

static void tools_and_formats_have_their_shape(void **state) {
    (void)state;
    assert_ok(chat(CHAT(",\"tools\":[" TOOL("a") "," TOOL(
        "b") "],\"tool_choice\":{\"type\":\"allowed_tools\","
             "\"allowed_tools\":{\"mode\":\"required\",\"tools\":[" TOOL("b") "]}}")));
    assert_int_equal(req.tool_count, 1);
    assert_str(req.tools[0].name, "b");
    assert_int_equal(req.tool_choice, TD_TOOL_CHOICE_REQUIRED);
    assert_ok(chat(CHAT(",\"tool_choice\":\"required\",\"tools\":[" TOOL("a") "]"))); // whatever their order
    assert_ok(chat(CHAT(",\"tool_choice\":\"none\",\"tools\":[]")));
    assert_ok(chat(CHAT(",\"response_format\":{\"type\":\"json_object\"}")));
    assert_int_equal(req.capabilities, TD_CAP_CHAT | TD_CAP_JSON);
    static const struct refused list[] = {
        {CHAT(",\"tools\":{}"), TD_ERR_BAD_REQUEST, "tools"},
        {CHAT(",\"tools\":[{}]"), TD_ERR_BAD_REQUEST, "tools[0].type"},
        {CHAT(",\"tools\":[{\"type\":\"custom\"}]"), TD_ERR_UNSUPPORTED, "tools[0].type"},
        {CHAT(",\"tools\":[" TOOL("a") ",{\"type\":\"function\"}]"), TD_ERR_BAD_REQUEST, "tools[1].function"},
        {CHAT(",\"tools\":[" TOOL("") "]"), TD_ERR_BAD_REQUEST, "tools[0].function.name"},
        {CHAT(",\"tools\":[" TOOL("a b") "]"), TD_ERR_BAD_REQUEST, "tools[0].function.name"},
        {CHAT(",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\",\"parameters\":[]}}]"),
         TD_ERR_BAD_REQUEST, "tools[0].function.parameters"},
        {CHAT(",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\",\"strict\":1}}]"), TD_ERR_BAD_REQUEST,
         "tools[0].function.strict"},
        {CHAT(",\"tool_choice\":\"required\""), TD_ERR_BAD_REQUEST, "tool_choice"},
        {CHAT(",\"tool_choice\":\"any\""), TD_ERR_BAD_REQUEST, "tool_choice"},
        {CHAT(",\"tool_choice\":7"), TD_ERR_BAD_REQUEST, "tool_choice"},
        {CHAT(",\"tools\":[" TOOL("a") "],\"tool_choice\":" TOOL("b")), TD_ERR_BAD_REQUEST, "tool_choice"},
        {CHAT(",\"functions\":[]"), TD_ERR_UNSUPPORTED, "functions"},
        {CHAT(",\"function_call\":\"auto\""), TD_ERR_UNSUPPORTED, "function_call"},
        {CHAT(",\"response_format\":\"json\""), TD_ERR_BAD_REQUEST, "response_format"},
        {CHAT(",\"response_format\":{\"type\":\"xml\"}"), TD_ERR_BAD_REQUEST, "response_format.type"},
        {CHAT(",\"response_format\":{\"type\":\"json_schema\"}"), TD_ERR_BAD_REQUEST, "response_format.json_schema"},
        {CHAT(",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"\"}}"), TD_ERR_BAD_REQUEST,
         "response_format.json_schema.name"},
        {CHAT(",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":true}}"),
         TD_ERR_BAD_REQUEST, "response_format.json_schema.schema"},
    };
    EXPECT_REFUSED(TD_KIND_CHAT, list);
}

static void completions_take_prompts_of_text(void **state) {
    (void)state;
    assert_ok(td_openai_read_completion(&arena,
                                        TD_STR("{\"model\":\"m\",\"prompt\":[\"def f(\"],\"suffix\":\"return\","
                                               "\"logprobs\":3,\"echo\":false,\"best_of\":1}"),
                                        &req, &error));
    assert_str(req.prompt, "def f(");
    assert_str(req.suffix, "return");
    assert_true(req.logprobs);
    assert_int_equal(req.top_logprobs, 3);
    assert_int_equal(req.capabilities, TD_CAP_COMPLETION | TD_CAP_INFILL | TD_CAP_LOGPROBS);
    assert_int_equal(req.text_bytes, 12);
    assert_int_equal(req.prompt_count, 0);
    assert_ok(td_openai_read_completion(
        &arena, TD_STR("{\"model\":\"m\",\"prompt\":[\"a\",\"\",\"bc\"],\"n\":2,\"best_of\":2}"), &req, &error));
    assert_int_equal(req.prompt_count, 3);
    assert_str(req.prompt, "a");
    assert_str(req.prompts[2], "bc");
    struct td_buf most;
    td_buf_init(&most, 4096);
    for (unsigned count = TD_PROMPTS_MAX; count <= TD_PROMPTS_MAX + 1; count++) {
        td_buf_clear(&most);
        assert_ok(td_buf_addz(&most, "{\"model\":\"m\",\"prompt\":[\"a\""));
        for (unsigned i = 1; i < count; i++)
            assert_ok(td_buf_addz(&most, ",\"a\""));
        assert_ok(td_buf_addz(&most, "]}"));
        assert_int_equal(td_openai_read_completion(&arena, td_buf_str(&most), &req, &error),
                         count > TD_PROMPTS_MAX ? TD_ERR_BAD_REQUEST : TD_OK);
    }
    td_buf_clear(&most);
    assert_ok(td_buf_addz(&most, "{\"model\":\"m\",\"n\":2,\"prompt\":[\"a\""));
    for (unsigned i = 1; i < TD_COMPLETIONS_MAX / 2 + 1; i++)
        assert_ok(td_buf_addz(&most, ",\"a\""));
    assert_ok(td_buf_addz(&most, "]}"));
    assert_int_equal(td_openai_read_completion(&arena, td_buf_str(&most), &req, &error), TD_ERR_BAD_REQUEST);
    assert_string_equal(error.param, "n");
    td_buf_finish(&most);
    static const struct refused list[] = {
        {"{\"model\":\"m\"}", TD_ERR_BAD_REQUEST, "prompt"},
        {"{\"model\":\"m\",\"prompt\":7}", TD_ERR_BAD_REQUEST, "prompt"},
        {"{\"model\":\"m\",\"prompt\":[]}", TD_ERR_BAD_REQUEST, "prompt"},
        {"{\"model\":\"m\",\"prompt\":[\"a\",null]}", TD_ERR_BAD_REQUEST, "prompt"},
        {"{\"model\":\"m\",\"prompt\":[\"a\",[1]]}", TD_ERR_UNSUPPORTED, "prompt"},
        {"{\"model\":\"m\",\"prompt\":\"a\",\"best_of\":3,\"n\":2}", TD_ERR_UNSUPPORTED, "best_of"},
        {"{\"model\":\"m\",\"prompt\":[1,2]}", TD_ERR_UNSUPPORTED, "prompt"},
        {"{\"model\":\"m\",\"prompt\":\"a\",\"echo\":true}", TD_ERR_UNSUPPORTED, "echo"},
        {"{\"model\":\"m\",\"prompt\":\"a\",\"best_of\":2}", TD_ERR_UNSUPPORTED, "best_of"},
        {"{\"model\":\"m\",\"prompt\":\"a\",\"logprobs\":true}", TD_ERR_BAD_REQUEST, "logprobs"},
    };
    EXPECT_REFUSED(TD_KIND_COMPLETION, list);
}

static void embeddings_take_texts(void **state) {
    (void)state;
    assert_ok(td_openai_read_embedding(
        &arena, TD_STR("{\"model\":\"m\",\"input\":[\"a\",\"bc\"],\"dimensions\":3,\"encoding_format\":\"base64\"}"),
        &req, &error));
    assert_int_equal(req.input_count, 2);
    assert_str(req.inputs[1], "bc");
    assert_true(req.base64);
    assert_int_equal(req.dimensions, 3);
    assert_int_equal(req.capabilities, TD_CAP_EMBEDDING);
    static const struct refused list[] = {
        {"{\"model\":\"m\",\"input\":[]}", TD_ERR_BAD_REQUEST, "input"},
        {"{\"model\":\"m\",\"input\":\"\"}", TD_ERR_BAD_REQUEST, "input"},
        {"{\"model\":\"m\",\"input\":[1,2]}", TD_ERR_UNSUPPORTED, "input"},
        {"{\"model\":\"m\",\"input\":[[1]]}", TD_ERR_UNSUPPORTED, "input"},
        {"{\"model\":\"m\",\"input\":{}}", TD_ERR_BAD_REQUEST, "input"},
        {"{\"model\":\"m\",\"input\":\"a\",\"dimensions\":0}", TD_ERR_BAD_REQUEST, "dimensions"},
        {"{\"model\":\"m\",\"input\":\"a\",\"encoding_format\":\"hex\"}", TD_ERR_BAD_REQUEST, "encoding_format"},
    };
    EXPECT_REFUSED(TD_KIND_EMBEDDING, list);
}

static void counts_have_ceilings(void **state) {
    (void)state;
    struct td_buf b;
    td_buf_init(&b, 16 << 20);
    for (int over = 0; over < 2; over++) {
        td_buf_clear(&b);
        assert_ok(td_buf_addz(&b, "{\"model\":\"m\",\"messages\":["));
        for (unsigned i = 0; i < TD_MESSAGES_MAX + (unsigned)over; i++)
            assert_ok(td_buf_printf(&b, "%s{\"role\":\"user\",\"content\":\"x\"}", i ? "," : ""));
        assert_ok(td_buf_addz(&b, "]}"));
        assert_int_equal(td_openai_read_chat(&arena, td_buf_str(&b), &req, &error), over ? TD_ERR_LIMIT : TD_OK);
        td_buf_clear(&b);
        assert_ok(td_buf_addz(&b, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":["));
        for (unsigned i = 0; i < TD_TOOLS_MAX + (unsigned)over; i++)
            assert_ok(td_buf_printf(&b, "%s" TOOL("f"), i ? "," : ""));
        assert_ok(td_buf_addz(&b, "]}"));
        assert_int_equal(td_openai_read_chat(&arena, td_buf_str(&b), &req, &error), over ? TD_ERR_LIMIT : TD_OK);
        td_buf_clear(&b);
        assert_ok(td_buf_addz(&b, "{\"model\":\"m\",\"input\":["));
        for (unsigned i = 0; i < TD_INPUTS_MAX + (unsigned)over; i++)
            assert_ok(td_buf_addz(&b, i ? ",\"x\"" : "\"x\""));
        assert_ok(td_buf_addz(&b, "]}"));
        assert_int_equal(td_openai_read_embedding(&arena, td_buf_str(&b), &req, &error),
                         over ? TD_ERR_BAD_REQUEST : TD_OK);
    }
    td_buf_finish(&b);
}

static void each_allocation_may_fail(void **state) {
    (void)state;
    const char *body = CHAT(",\"tools\":[" TOOL("a") "],\"tandem\":{\"labels\":[\"pii\"]}");
    int failures = 0;
    for (uint64_t n = 1; n < 50; n++) {
        struct td_arena a;
        td_arena_init(&a, TD_ARENA_BYTES_MAX);
        td_alloc_fail_at(n);
        enum td_err err = td_openai_read_chat(&a, td_str_of(body), &req, &error);
        td_alloc_fail_at(0);
        td_arena_finish(&a);
        if (err == TD_OK)
            break;
        assert_int_equal(err, TD_ERR_NOMEM);
        failures++;
    }
    assert_between(failures, 1, 40);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_full_chat_request_is_read),
        T(what_is_not_given_is_marked_so),
        T(ranges_end_where_they_say),
        T(malformed_bodies_are_told_apart),
        T(depth_has_a_ceiling),
        T(messages_have_the_shape_of_their_role),
        T(tools_and_formats_have_their_shape),
        T(completions_take_prompts_of_text),
        T(embeddings_take_texts),
        T(counts_have_ceilings),
        T(each_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
