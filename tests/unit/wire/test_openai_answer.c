// SPDX-License-Identifier: Apache-2.0
// Beside its own assertions this program writes every body and frame it made to the file named by TANDEM_WIRE_DUMP, one
// a line behind the name of the schema it claims to follow; check_schema.py judges them.
#include "unit.h"

#include <math.h>
#include <stdio.h>

#include "docs.h"
#include "wire/openai_answer.h"

static struct td_arena arena;
static struct td_buf out;
static struct td_answer_writer *w;
static const char *frame_schema = "CreateChatCompletionStreamResponse";

static int setup(void **state) {
    (void)state;
    td_arena_init(&arena, 1 << 24);
    td_buf_init(&out, 1 << 24);
    w = NULL;
    frame_schema = "CreateChatCompletionStreamResponse";
    return 0;
}
static int teardown(void **state) {
    (void)state;
    td_openai_answer_destroy(w);
    td_buf_finish(&out);
    td_arena_finish(&arena);
    return 0;
}

static void dump(const char *schema, struct td_str json) {
    const char *path = getenv("TANDEM_WIRE_DUMP");
    td_json *v;
    struct td_error e;
    if (td_json_parse(&arena, json, 64, &v, &e) != TD_OK)
        fail_msg("%s: %.*s", e.message, TD_STR_ARG(json));
    FILE *f = path ? fopen(path, "a") : NULL;
    if (f) {
        fprintf(f, "%s\t%.*s\n", schema, TD_STR_ARG(json));
        fclose(f);
    }
}

// Every frame is one `data:` line that ends in an empty one, and JSON but for [DONE].
static void check_frames(struct td_str s) {
    while (s.n) {
        const char *end = memmem(s.p, s.n, "\n\n", 2);
        assert_non_null(end);
        struct td_str line = td_str_n(s.p, (size_t)(end - s.p));
        s = td_str_n(end + 2, s.n - line.n - 2);
        if (line.p[0] == ':')
            continue;
        assert_null(memchr(line.p, '\n', line.n));
        assert_true(td_str_starts(line, TD_STR("data: ")));
        line = td_str_n(line.p + 6, line.n - 6);
        if (!td_str_is(line, "[DONE]"))
            dump(td_str_starts(line, TD_STR("{\"error\"")) ? "ErrorResponse" : frame_schema, line);
    }
}

static void create(struct td_answer_spec spec) {
    if (!spec.exchange.p)
        spec.exchange = TD_STR("X1");
    if (!spec.model.p)
        spec.model = TD_STR("auto");
    spec.created_s = 1700000000;
    assert_ok(td_openai_answer_create(&spec, &w));
}

static void event(struct td_event ev) {
    assert_ok(td_openai_answer_event(w, &ev, &out));
}
static void start(const char *model) {
    event((struct td_event){.type = TD_EV_START, .start = {.model = td_str_of(model)}});
}
static void text(uint32_t choice, const char *z) {
    event((struct td_event){.type = TD_EV_DELTA, .choice = choice, .delta = {.text = td_str_of(z)}});
}
static void finish(uint32_t choice, enum td_finish reason) {
    event((struct td_event){.type = TD_EV_FINISH, .choice = choice, .finish = {.reason = reason}});
}
static void usage(uint32_t in, uint32_t o) {
    event((struct td_event){.type = TD_EV_USAGE, .usage = {.prompt_tokens = in, .completion_tokens = o}});
}
static void tool(uint32_t index, const char *id, const char *name, const char *arguments) {
    event((struct td_event){
        .type = TD_EV_TOOL_CALL,
        .tool = {.index = index, .id = td_str_of(id), .name = td_str_of(name), .arguments = td_str_of(arguments)}});
}

static struct td_answer_meta meta(void) {
    static const struct td_answer_attempt attempts[] = {
        {.origin = {TD_STR("device"), TD_STR("device"), TD_STR("starter")},
         .reason = TD_STR("local-first"),
         .outcome = TD_STR("tandem.model.declined"),
         .duration_ms = 12},
        {.origin = {TD_STR("cloud"), TD_STR("cloud"), TD_STR("big")},
         .reason = TD_STR("fallback"),
         .outcome = TD_STR("ok"),
         .usage = {.prompt_tokens = 9, .completion_tokens = 2},
         .cost_nusd = 42500,
         .ttft_ms = 80,
         .duration_ms = 400},
    };
    return (struct td_answer_meta){.exchange = TD_STR("X1"),
                                   .origin = {TD_STR("cloud"), TD_STR("cloud"), TD_STR("big")},
                                   .reason = TD_STR("fallback"),
                                   .confidence = NAN,
                                   .cost_nusd = 42500,
                                   .usage_total = {.prompt_tokens = 18, .completion_tokens = 2},
                                   .attempts = attempts,
                                   .attempt_count = 2};
}

static td_json *parse(struct td_str s) {
    td_json *v;
    struct td_error e;
    if (td_json_parse(&arena, s, 64, &v, &e) != TD_OK)
        fail_msg("%s: %.*s", e.message, TD_STR_ARG(s));
    return v;
}

#define HEAD                                                                                                           \
    "data: {\"id\":\"chatcmpl-X1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"big\","
#define REST ",\"logprobs\":null,\"finish_reason\":null}]}\n\n"

static void a_stream_says_what_came(void **state) {
    (void)state;
    create((struct td_answer_spec){.stream = true});
    start("big");
    assert_int_equal(out.n, 0); // nothing is committed before there is text
    text(0, "He\"y");
    assert_str(td_buf_str(&out),
               HEAD "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"He\\\"y\"}" REST);
    td_buf_clear(&out);
    text(0, "\n");
    text(0, "");
    assert_str(td_buf_str(&out), HEAD "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\n\"}" REST);
    td_buf_clear(&out);
    start("another"); // a later attempt: the model of one answer stays
    text(0, "!");
    assert_str(td_buf_str(&out), HEAD "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"!\"}" REST);
    td_buf_clear(&out);
    finish(0, TD_FINISH_STOP);
    usage(9, 2);
    assert_int_equal(out.n, 0); // kept back for the tandem object
    struct td_answer_meta m = meta();
    assert_ok(td_openai_answer_end(w, &m, &out));
    assert_str(td_buf_str(&out), HEAD
               "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"tandem\":{"
               "\"exchange\":\"X1\",\"target\":\"cloud\",\"tier\":\"cloud\",\"model\":\"big\",\"reason\":\"fallback\","
               "\"degraded\":false,\"cost_usd\":0.0000425,\"cost_nusd\":42500,\"usage_total\":{\"prompt_tokens\":18,"
               "\"completion_tokens\":2,"
               "\"total_tokens\":20},\"attempts\":[{\"target\":\"device\",\"tier\":\"device\",\"model\":\"starter\","
               "\"reason\":\"local-first\",\"outcome\":\"tandem.model.declined\",\"usage\":{\"prompt_tokens\":0,"
               "\"completion_tokens\":0,\"total_tokens\":0},\"cost_usd\":0,\"ttft_ms\":0,\"duration_ms\":12},{"
               "\"target\":\"cloud\",\"tier\":\"cloud\",\"model\":\"big\",\"reason\":\"fallback\",\"outcome\":\"ok\","
               "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"total_tokens\":11},\"cost_usd\":0.0000425,"
               "\"ttft_ms\":80,\"duration_ms\":400}]}}\n\ndata: [DONE]\n\n");
    check_frames(td_buf_str(&out));
}

static void usage_comes_in_a_chunk_of_its_own_where_asked_for(void **state) {
    (void)state;
    create((struct td_answer_spec){.stream = true, .include_usage = true});
    start("big");
    text(0, "a");
    text(0, "b");
    finish(0, TD_FINISH_LENGTH);
    event((struct td_event){
        .type = TD_EV_USAGE,
        .usage = {.prompt_tokens = 9, .completion_tokens = 2, .cached_tokens = 4, .reasoning_tokens = 1}});
    struct td_answer_meta m = meta();
    assert_ok(td_openai_answer_end(w, &m, &out));
    check_frames(td_buf_str(&out));
    const char *z = td_buf_z(&out);
    assert_non_null(strstr(z, "\"content\":\"b\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n"));
    assert_non_null(strstr(z, "\"finish_reason\":\"length\"}],\"usage\":null}\n\n"));
    assert_non_null(strstr(z,
                           "\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"total_tokens\":11,"
                           "\"prompt_tokens_details\":{\"cached_tokens\":4},"
                           "\"completion_tokens_details\":{\"reasoning_tokens\":1}},\"tandem\":{"));
    assert_true(strstr(strstr(z, "\"tandem\""), "\"tandem\":{\"exchange\"") != NULL);
}

static void tool_calls_stream_with_their_indexes(void **state) {
    (void)state;
    create((struct td_answer_spec){.stream = true});
    start("big");
    tool(0, "a", "f", "");
    tool(0, "", "", "{\"x\":");
    tool(0, "", "", "1}");
    tool(1, "", "g", "{}"); // no id: it gets one
    finish(0, TD_FINISH_TOOL_CALLS);
    assert_ok(td_openai_answer_end(w, NULL, &out));
    check_frames(td_buf_str(&out));
    const char *z = td_buf_z(&out);
    assert_non_null(
        strstr(z, "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"type\":"
                  "\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}"));
    assert_non_null(strstr(z, "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"x\\\":\"}}]}"));
    assert_non_null(strstr(z, "{\"index\":1,\"id\":\"call_X10_1\",\"type\":\"function\""));
    assert_non_null(strstr(z, "\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]"));
}

static struct td_token tokens[2];
static struct td_token top;
static struct td_event token_event(void) {
    top = (struct td_token){.text = TD_STR("b"), .logprob = -1.5f};
    tokens[0] = (struct td_token){.text = TD_STR("a"), .logprob = -0.25f, .top = &top, .top_count = 1};
    tokens[1] = (struct td_token){.text = TD_STR("\xc3"), .logprob = -INFINITY};
    return (struct td_event){.type = TD_EV_DELTA, .delta = {.text = TD_STR("a"), .tokens = tokens, .token_count = 2}};
}

static void token_probabilities_are_shown_to_who_asked(void **state) {
    (void)state;
    create((struct td_answer_spec){.stream = true, .logprobs = true, .top_logprobs = 1});
    start("big");
    event(token_event());
    finish(0, TD_FINISH_STOP);
    assert_ok(td_openai_answer_end(w, NULL, &out));
    check_frames(td_buf_str(&out));
    const char *z = td_buf_z(&out);
    assert_non_null(
        strstr(z, "\"logprobs\":{\"content\":[{\"token\":\"a\",\"logprob\":-0.25,\"bytes\":[97],\"top_logprobs\":["
                  "{\"token\":\"b\",\"logprob\":-1.5,\"bytes\":[98]}]},{\"token\":\"\xef\xbf\xbd\",\"logprob\":"
                  "-9999,\"bytes\":[195],\"top_logprobs\":[]}],\"refusal\":null}"));
    td_openai_answer_destroy(w);
    td_buf_clear(&out);
    create((struct td_answer_spec){.stream = true}); // who did not ask
    event(token_event());
    event(token_event());
    assert_null(strstr(td_buf_z(&out), "token"));
}

static void completions_have_their_own_form(void **state) {
    (void)state;
    frame_schema = "CreateCompletionResponse";
    for (int stream = 0; stream < 2; stream++) {
        td_openai_answer_destroy(w);
        td_buf_clear(&out);
        create(
            (struct td_answer_spec){.kind = TD_KIND_COMPLETION, .stream = stream, .logprobs = true, .top_logprobs = 1});
        start("big");
        event(token_event());
        event(token_event());
        if (!stream) {
            finish(0, TD_FINISH_STOP);
            usage(3, 4);
            struct td_answer_meta m = meta();
            assert_ok(td_openai_answer_end(w, &m, &out));
            dump("CreateCompletionResponse", td_buf_str(&out));
            assert_non_null(
                strstr(td_buf_z(&out),
                       "\"text\":\"aa\",\"logprobs\":{\"tokens\":[\"a\",\"\xef\xbf\xbd\",\"a\",\"\xef\xbf\xbd\"],"
                       "\"token_logprobs\":[-0.25,-9999,-0.25,-9999],\"top_logprobs\":[{\"b\":-1.5},{},"
                       "{\"b\":-1.5},{}],\"text_offset\":[0,1,1,2]},\"finish_reason\":\"stop\""));
        } else {
            assert_non_null(
                strstr(td_buf_z(&out),
                       "data: {\"id\":\"cmpl-X1\",\"object\":\"text_completion\",\"created\":1700000000,"
                       "\"model\":\"big\",\"choices\":[{\"index\":0,\"text\":\"a\",\"logprobs\":{\"tokens\":["));
        }
    }
    text(0, "tail");
    finish(0, TD_FINISH_LENGTH);
    td_buf_clear(&out);
    assert_ok(td_openai_answer_end(w, NULL, &out));
    assert_non_null(strstr(td_buf_z(&out), "\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\""));
}

static void completion_frames_validate(void **state) {
    (void)state;
    create((struct td_answer_spec){.kind = TD_KIND_COMPLETION, .stream = true});
    start("big");
    text(0, "a");
    text(0, "b");
    assert_non_null(
        strstr(td_buf_z(&out), "{\"index\":0,\"text\":\"b\",\"logprobs\":null,\"finish_reason\":null}]}\n\n"));
}

static void a_whole_answer_is_one_body(void **state) {
    (void)state;
    create((struct td_answer_spec){.choices = 2});
    start("big");
    text(0, "He");
    text(1, "Yo");
    text(0, "y");
    finish(1, TD_FINISH_LENGTH);
    finish(0, TD_FINISH_STOP);
    usage(9, 3);
    assert_int_equal(out.n, 0);
    struct td_answer_meta m = meta();
    m.confidence = 0.5;
    m.degraded = true;
    assert_ok(td_openai_answer_end(w, &m, &out));
    dump("CreateChatCompletionResponse", td_buf_str(&out));
    td_json *v = parse(td_buf_str(&out)), *choices = td_json_get(v, "choices"), *tandem = td_json_get(v, "tandem");
    assert_str(td_json_get_str(v, "model"), "big");
    assert_int_equal(yyjson_arr_size(choices), 2);
    assert_str(td_json_get_str(td_json_get(yyjson_arr_get(choices, 0), "message"), "content"), "Hey");
    assert_str(td_json_get_str(yyjson_arr_get(choices, 1), "finish_reason"), "length");
    assert_int_equal(td_json_get_int(td_json_get(v, "usage"), "total_tokens", 0), 12);
    assert_true(td_json_get_num(tandem, "confidence", 0) == 0.5);
    assert_true(td_json_get_bool(tandem, "degraded", false));
    assert_int_equal(yyjson_arr_size(td_json_get(tandem, "attempts")), 2);
}

// Two exchanges, each with two choices: the provider of the second counts its own from 0 again.
static void parts_share_one_answer(void **state) {
    (void)state;
    static const struct td_str exchanges[] = {TD_STR("01A"), TD_STR("01B")};
    for (int stream = 0; stream < 2; stream++) {
        td_openai_answer_destroy(w);
        td_buf_clear(&out);
        create((struct td_answer_spec){.kind = TD_KIND_COMPLETION, .choices = 2, .parts = 2, .stream = stream});
        start("big");
        td_json *raw = parse(TD_STR("{\"choices\":[{\"index\":1,\"text\":\"d\",\"native\":7}]}"));
        td_openai_answer_part(w, 1);
        event((struct td_event){.type = TD_EV_DELTA, .choice = 1, .delta = {.text = TD_STR("d")}, .raw = raw});
        text(0, "c");
        td_openai_answer_part(w, 0);
        text(0, "a");
        text(1, "b");
        text(2, "not asked for");
        for (uint32_t part = 0; part < 2; part++) {
            td_openai_answer_part(w, part);
            finish(0, TD_FINISH_STOP);
            if (part == 1) // the last is still to come
                assert_int_equal(td_openai_answer_end(w, NULL, &out), TD_ERR_CUT);
            finish(1, TD_FINISH_LENGTH);
        }
        struct td_answer_meta m = meta();
        struct td_answer_attempt attempts[] = {m.attempts[0], m.attempts[1]};
        attempts[1].part = 1;
        m.attempts = attempts;
        m.exchanges = exchanges;
        m.exchange_count = 2;
        assert_ok(td_openai_answer_end(w, &m, &out));
        if (stream) {
            assert_non_null(strstr(td_buf_z(&out), "{\"index\":3,\"text\":\"d\",\"logprobs\":null,"
                                                   "\"finish_reason\":null,\"native\":7}"));
            assert_non_null(strstr(td_buf_z(&out), "{\"index\":2,\"text\":\"c\""));
            assert_non_null(strstr(td_buf_z(&out), "\"exchanges\":[\"01A\",\"01B\"]"));
            continue;
        }
        dump("CreateCompletionResponse", td_buf_str(&out));
        td_json *v = parse(td_buf_str(&out)), *choices = td_json_get(v, "choices");
        td_json *told = td_json_get(td_json_get(v, "tandem"), "attempts");
        assert_int_equal(yyjson_arr_size(choices), 4);
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(td_json_get_int(yyjson_arr_get(choices, i), "index", -1), i);
            assert_true(td_str_eq(td_json_get_str(yyjson_arr_get(choices, i), "text"), td_str_n("abcd" + i, 1)));
        }
        assert_int_equal(td_json_get_int(yyjson_arr_get(choices, 3), "native", 0), 7);
        assert_int_equal(td_json_get_int(yyjson_arr_get(told, 1), "prompt", -1), 1);
    }
}

static void a_whole_answer_keeps_tool_calls_refusals_and_reasoning(void **state) {
    (void)state;
    create((struct td_answer_spec){.logprobs = true, .top_logprobs = 1, .choices = 2});
    start("big");
    event((struct td_event){.type = TD_EV_REASONING, .delta = {.text = TD_STR("hm")}});
    tool(0, "a", "f", "{\"x\"");
    tool(1, "b", "g", "{}");
    tool(0, "", "", ":1}");
    finish(0, TD_FINISH_TOOL_CALLS);
    event((struct td_event){.type = TD_EV_REFUSAL, .choice = 1, .delta = {.text = TD_STR("no")}});
    struct td_event ev = token_event();
    ev.choice = 1;
    event(ev);
    finish(1, TD_FINISH_STOP);
    assert_ok(td_openai_answer_end(w, NULL, &out));
    dump("CreateChatCompletionResponse", td_buf_str(&out));
    td_json *choices = td_json_get(parse(td_buf_str(&out)), "choices");
    td_json *message = td_json_get(yyjson_arr_get(choices, 0), "message");
    assert_true(yyjson_is_null(yyjson_obj_get(message, "content")));
    assert_str(td_json_get_str(message, "reasoning_content"), "hm");
    td_json *call = yyjson_arr_get(td_json_get(message, "tool_calls"), 0);
    assert_str(td_json_get_str(td_json_get(call, "function"), "arguments"), "{\"x\":1}");
    assert_str(td_json_get_str(td_json_get(yyjson_arr_get(choices, 1), "message"), "refusal"), "no");
}

static void a_truncated_answer_is_no_success(void **state) {
    (void)state;
    for (int stream = 0; stream < 2; stream++) {
        td_openai_answer_destroy(w);
        td_buf_clear(&out);
        create((struct td_answer_spec){.stream = stream});
        start("big");
        text(0, "a");
        size_t before = out.n;
        assert_int_equal(td_openai_answer_end(w, NULL, &out), TD_ERR_CUT);
        assert_int_equal(out.n, before);
        // Also where all that came of a choice is nothing that this form of answer could show.
        td_openai_answer_destroy(w);
        td_buf_clear(&out);
        create((struct td_answer_spec){.kind = TD_KIND_COMPLETION, .choices = 2, .stream = stream});
        text(0, "a");
        event(
            (struct td_event){.type = TD_EV_TOOL_CALL, .choice = 1, .tool = {.id = TD_STR("c"), .name = TD_STR("f")}});
        finish(0, TD_FINISH_STOP);
        assert_int_equal(td_openai_answer_end(w, NULL, &out), TD_ERR_CUT);
        finish(1, TD_FINISH_TOOL_CALLS);
        assert_ok(td_openai_answer_end(w, NULL, &out));
    }
}

static void fields_of_the_same_dialect_pass_through(void **state) {
    (void)state;
    td_json *raw =
        parse(TD_STR("{\"id\":\"p\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\",\"mood\":\"good\"},"
                     "\"stop_reason\":7,\"finish_reason\":null}],\"system_fingerprint\":\"fp\","
                     "\"service_tier\":\"default\",\"usage\":null,\"x\":{\"y\":[1]},\"tandem\":{\"exchange\":"
                     "\"theirs\"}}"));
    for (int stream = 0; stream < 2; stream++) {
        td_openai_answer_destroy(w);
        td_buf_clear(&out);
        create((struct td_answer_spec){.stream = stream});
        start("big");
        for (int i = 0; i < 2; i++)
            event((struct td_event){.type = TD_EV_DELTA, .delta = {.text = TD_STR("a")}, .raw = raw});
        finish(0, TD_FINISH_STOP);
        assert_ok(td_openai_answer_end(w, NULL, &out));
        if (stream)
            check_frames(td_buf_str(&out));
        else
            dump("CreateChatCompletionResponse", td_buf_str(&out));
        const char *z = td_buf_z(&out);
        assert_non_null(strstr(z, "\"mood\":\"good\""));
        assert_non_null(strstr(z, "\"stop_reason\":7"));
        assert_non_null(strstr(z, "\"system_fingerprint\":\"fp\",\"service_tier\":\"default\",\"x\":{\"y\":[1]}"));
        assert_null(strstr(z, "theirs"));
    }
}

static void embeddings_are_numbers_or_base64(void **state) {
    (void)state;
    static const float values[] = {1, -2, 0.1f};
    for (int base64 = 0; base64 < 2; base64++) {
        td_openai_answer_destroy(w);
        td_buf_clear(&out);
        create((struct td_answer_spec){.kind = TD_KIND_EMBEDDING, .base64 = base64});
        start("vec");
        event((struct td_event){.type = TD_EV_EMBEDDING, .embedding = {.index = 0, .values = values, .count = 3}});
        event((struct td_event){.type = TD_EV_EMBEDDING, .embedding = {.index = 1, .values = values, .count = 2}});
        usage(5, 0);
        assert_ok(td_openai_answer_end(w, NULL, &out));
        if (!base64)
            dump("CreateEmbeddingResponse", td_buf_str(&out));
        assert_str(
            td_buf_str(&out),
            base64 ? "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":"
                     "\"AACAPwAAAMDNzMw9\"},{\"object\":\"embedding\",\"index\":1,\"embedding\":\"AACAPwAAAMA=\"}],"
                     "\"model\":\"vec\",\"usage\":{\"prompt_tokens\":5,\"total_tokens\":5}}"
                   : "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[1,-2,0.1]},"
                     "{\"object\":\"embedding\",\"index\":1,\"embedding\":[1,-2]}],\"model\":\"vec\",\"usage\":{"
                     "\"prompt_tokens\":5,\"total_tokens\":5}}");
    }
}

static void revisions_travel_inside_valid_chunks(void **state) {
    (void)state;
    static const struct td_origin device = {{"device", 6}, {"device", 6}, {"starter", 7}};
    static const struct td_origin cloud = {{"cloud", 5}, {"cloud", 5}, {"big", 3}};
    create((struct td_answer_spec){.stream = true});
    start("starter");
    assert_ok(td_openai_answer_revision(w, TD_REVISION_DRAFT, &device, false, &out));
    text(0, "a draft");
    finish(0, TD_FINISH_STOP); // the draft's: forgotten
    assert_ok(td_openai_answer_revision(w, TD_REVISION_REPLACE, &cloud, false, &out));
    text(0, "better");
    finish(0, TD_FINISH_LENGTH);
    struct td_answer_meta m = meta();
    m.mode = TD_STR("progressive");
    assert_ok(td_openai_answer_end(w, &m, &out));
    check_frames(td_buf_str(&out));
    const char *z = td_buf_z(&out);
    const char *draft =
        strstr(z, "\"delta\":{\"role\":\"assistant\",\"content\":null},\"logprobs\":null,\"finish_reason\":null}],"
                  "\"tandem\":{\"revision\":1,\"op\":\"draft\",\"final\":false,\"origin\":{\"target\":"
                  "\"device\",\"tier\":\"device\",\"model\":\"starter\"}}}\n\n");
    assert_non_null(draft);
    const char *replace =
        strstr(draft, "\"delta\":{},\"logprobs\":null,\"finish_reason\":null}],\"tandem\":{\"revision\":2,"
                      "\"op\":\"replace\",\"final\":false,\"origin\":{\"target\":\"cloud\",\"tier\":"
                      "\"cloud\",\"model\":\"big\"},\"draft\":{\"target\":\"device\"");
    assert_non_null(replace);
    assert_null(strstr(z, "\"finish_reason\":\"stop\""));
    const char *end = strstr(replace, "\"finish_reason\":\"length\"");
    assert_non_null(end);
    assert_non_null(strstr(end, "\"mode\":\"progressive\",\"revision\":2,\"final\":true"));
}

static void a_whole_answer_forgets_what_was_replaced(void **state) {
    (void)state;
    static const struct td_origin device = {{"device", 6}, {"device", 6}, {"starter", 7}};
    create((struct td_answer_spec){0});
    start("starter");
    assert_ok(td_openai_answer_revision(w, TD_REVISION_DRAFT, &device, false, NULL));
    text(0, "draft");
    tool(0, "a", "f", "{}");
    finish(0, TD_FINISH_STOP);
    assert_ok(td_openai_answer_revision(w, TD_REVISION_REPLACE, &device, false, NULL));
    start("big");
    text(0, "better");
    finish(0, TD_FINISH_STOP);
    assert_ok(td_openai_answer_end(w, NULL, &out));
    dump("CreateChatCompletionResponse", td_buf_str(&out));
    assert_null(strstr(td_buf_z(&out), "draft"));
    assert_null(strstr(td_buf_z(&out), "tool_calls"));
    assert_non_null(strstr(td_buf_z(&out), "\"model\":\"big\""));
}

static void a_stream_that_fails_says_so(void **state) {
    (void)state;
    create((struct td_answer_spec){.stream = true});
    start("big");
    text(0, "a");
    finish(0, TD_FINISH_STOP);
    td_buf_clear(&out);
    struct td_answer_meta m = meta();
    assert_ok(td_openai_answer_fail(w, TD_ERR_CUT, TD_STR_NONE, &m, &out));
    check_frames(td_buf_str(&out));
    assert_true(
        td_str_starts(td_buf_str(&out), TD_STR("data: {\"error\":{\"message\":\"the upstream's answer ended before "
                                               "its finish\",\"type\":\"server_error\",\"param\":null,\"code\":"
                                               "\"tandem.upstream.cut\"},\"tandem\":{")));
    assert_null(strstr(td_buf_z(&out), "finish_reason"));
    assert_null(strstr(td_buf_z(&out), "[DONE]"));
    td_buf_clear(&out);
    assert_ok(td_openai_answer_keepalive(&out));
    assert_true(td_buf_str(&out).p[0] == ':');
}

static void every_error_has_a_status_and_a_body(void **state) {
    (void)state;
    for (int err = TD_OK + 1; err < TD_ERR_COUNT; err++) {
        int status = td_openai_status((enum td_err)err);
        assert_between(status, 400, 599);
        td_buf_clear(&out);
        assert_ok(td_openai_write_error((enum td_err)err, 0, TD_STR_NONE, TD_STR("a.b"), NULL, NULL, &out));
        dump("ErrorResponse", td_buf_str(&out));
        td_json *e = td_json_get(parse(td_buf_str(&out)), "error");
        assert_str(td_json_get_str(e, "code"), td_err_code((enum td_err)err));
        assert_str(td_json_get_str(e, "message"), td_err_text((enum td_err)err));
        assert_str(td_json_get_str(e, "param"), "a.b");
    }
    td_buf_clear(&out);
    assert_ok(td_openai_write_error(TD_ERR_CONTEXT_LENGTH, 0, TD_STR("too \"long\""), TD_STR_NONE,
                                    "context_length_exceeded", NULL, &out));
    assert_str(td_buf_str(&out),
               "{\"error\":{\"message\":\"too \\\"long\\\"\",\"type\":\"invalid_request_error\",\"param\":"
               "null,\"code\":\"context_length_exceeded\"}}");
    struct td_answer_meta m = meta();
    m.exchange = TD_STR("01JD");
    m.queued = true;
    td_buf_clear(&out);
    assert_ok(td_openai_write_error(TD_ERR_UNAVAILABLE, 0, TD_STR_NONE, TD_STR_NONE, NULL, &m, &out));
    dump("ErrorResponse", td_buf_str(&out));
    td_json *told = td_json_get(parse(td_buf_str(&out)), "tandem");
    assert_true(td_json_get_bool(told, "queued", false));
    assert_str(td_json_get_str(told, "exchange"), "01JD");
    assert_int_equal(td_openai_retry_after_s(TD_ERR_RATE, 1), 1);
    assert_int_equal(td_openai_retry_after_s(TD_ERR_UPSTREAM_RATE, 1001), 2);
    assert_int_equal(td_openai_retry_after_s(TD_ERR_RATE, 0), 1);
    assert_int_equal(td_openai_retry_after_s(TD_ERR_BAD_REQUEST, 5000), 0);
}

// docs/errors.md has a row for every code, with the status that clients get.
static void every_error_is_documented(void **state) {
    (void)state;
    char *text = docs_read("errors.md");
    for (int err = TD_OK + 1; err < TD_ERR_COUNT; err++) {
        char row[200];
        snprintf(row, sizeof row, "| `%s` | %d | %s |", td_err_code((enum td_err)err),
                 td_openai_status((enum td_err)err), td_err_text((enum td_err)err));
        if (!strstr(text, row))
            fail_msg("docs/errors.md lacks: %s", row);
    }
    free(text);
}

static void models_are_listed(void **state) {
    (void)state;
    static const struct td_model_entry list[] = {{.id = {"auto", 4}, .owned_by = {"tandem", 6}, .created_s = 1},
                                                 {.id = {"cloud", 5},
                                                  .owned_by = {"openai", 6},
                                                  .created_s = 2,
                                                  .tier = {"cloud", 5},
                                                  .context = 8192,
                                                  .capabilities = TD_CAP_CHAT | TD_CAP_TOOLS}};
    assert_ok(td_openai_write_models(list, 2, &out));
    dump("ListModelsResponse", td_buf_str(&out));
    assert_non_null(strstr(td_buf_z(&out), "\"tandem\":{\"tier\":\"cloud\",\"context\":8192,\"capabilities\":[\"chat\","
                                           "\"tools\"]}"));
    td_buf_clear(&out);
    assert_ok(td_openai_write_model(&list[0], &out));
    dump("Model", td_buf_str(&out));
    td_buf_clear(&out);
    assert_ok(td_openai_write_models(NULL, 0, &out));
    assert_str(td_buf_str(&out), "{\"object\":\"list\",\"data\":[]}");
}

static void a_whole_answer_has_a_ceiling(void **state) {
    (void)state;
    create((struct td_answer_spec){.bytes_max = 100});
    struct td_event ev = {.type = TD_EV_DELTA, .delta = {.text = TD_STR("0123456789")}};
    for (int i = 0; i < 10; i++)
        assert_ok(td_openai_answer_event(w, &ev, NULL));
    assert_int_equal(td_openai_answer_event(w, &ev, NULL), TD_ERR_LIMIT);
}

static enum td_err script(struct td_answer_writer *writer) {
    const struct td_event events[] = {
        {.type = TD_EV_START, .start = {.model = TD_STR("m")}},
        {.type = TD_EV_DELTA, .delta = {.text = TD_STR("some text that is longer than nothing")}},
        {.type = TD_EV_TOOL_CALL, .tool = {.id = TD_STR("a"), .name = TD_STR("f"), .arguments = TD_STR("{}")}},
        {.type = TD_EV_DELTA, .delta = {.text = TD_STR("more")}},
        {.type = TD_EV_FINISH, .finish = {.reason = TD_FINISH_STOP}},
    };
    enum td_err err = TD_OK;
    for (size_t i = 0; err == TD_OK && i < sizeof events / sizeof *events; i++)
        err = td_openai_answer_event(writer, &events[i], &out);
    struct td_answer_meta m = meta();
    return err == TD_OK ? td_openai_answer_end(writer, &m, &out) : err;
}

static void each_allocation_may_fail(void **state) {
    (void)state;
    for (int stream = 0; stream < 2; stream++) {
        int failures = 0;
        for (uint64_t n = 1; n < 60; n++) {
            struct td_answer_spec spec = {.exchange = TD_STR("X"), .model = TD_STR("m"), .stream = stream};
            struct td_answer_writer *writer = NULL;
            td_buf_finish(&out);
            td_buf_init(&out, 1 << 20);
            td_alloc_fail_at(n);
            enum td_err err = td_openai_answer_create(&spec, &writer);
            if (err == TD_OK)
                err = script(writer);
            td_alloc_fail_at(0);
            td_openai_answer_destroy(writer);
            if (err == TD_OK)
                break;
            assert_int_equal(err, TD_ERR_NOMEM);
            failures++;
        }
        assert_between(failures, 3, 50);
    }
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_stream_says_what_came),
        T(usage_comes_in_a_chunk_of_its_own_where_asked_for),
        T(tool_calls_stream_with_their_indexes),
        T(token_probabilities_are_shown_to_who_asked),
        T(completions_have_their_own_form),
        T(completion_frames_validate),
        T(a_whole_answer_is_one_body),
        T(parts_share_one_answer),
        T(a_whole_answer_keeps_tool_calls_refusals_and_reasoning),
        T(a_truncated_answer_is_no_success),
        T(fields_of_the_same_dialect_pass_through),
        T(embeddings_are_numbers_or_base64),
        T(revisions_travel_inside_valid_chunks),
        T(a_whole_answer_forgets_what_was_replaced),
        T(a_stream_that_fails_says_so),
        T(every_error_has_a_status_and_a_body),
        T(every_error_is_documented),
        T(models_are_listed),
        T(a_whole_answer_has_a_ceiling),
        T(each_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
