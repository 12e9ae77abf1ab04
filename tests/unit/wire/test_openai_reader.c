// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <math.h>

#include "wire/alike.h"
#include "wire/openai_provider.h"

// Events as lines of text, so that two runs can be compared.
struct log {
    struct td_buf text;
    struct td_reader *reader;
    int stop_after; // 0 never
};

static void put(struct log *log, const char *word, struct td_str s) {
    assert_ok(td_buf_printf(&log->text, " %s=", word));
    assert_ok(td_buf_add_json(&log->text, s));
}

static void put_tokens(struct log *log, const struct td_token *t, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        assert_ok(td_buf_printf(&log->text, " [%zu:", t[i].text.n));
        for (size_t k = 0; k < t[i].text.n; k++)
            assert_ok(td_buf_printf(&log->text, "%02x", (unsigned char)t[i].text.p[k]));
        assert_ok(td_buf_printf(&log->text, " %.3g", (double)t[i].logprob));
        put_tokens(log, t[i].top, t[i].top_count);
        assert_ok(td_buf_addc(&log->text, ']'));
        assert_true(isnan(t[i].entropy));
    }
}

static void on_event(void *user, const struct td_event *ev) {
    static const char *const names[] = {"start",  "delta", "reasoning", "refusal", "tool",
                                        "vector", "usage", "finish",    "end",     "error"};
    struct log *log = user;
    assert_ok(td_buf_printf(&log->text, "%s%s %u", ev->damaged ? "damaged " : "", names[ev->type], ev->choice));
    switch (ev->type) {
    case TD_EV_START:
        put(log, "model", ev->start.model);
        put(log, "id", ev->start.provider_id);
        break;
    case TD_EV_DELTA:
    case TD_EV_REASONING:
    case TD_EV_REFUSAL:
        put(log, "text", ev->delta.text);
        put_tokens(log, ev->delta.tokens, ev->delta.token_count);
        break;
    case TD_EV_TOOL_CALL:
        assert_ok(td_buf_printf(&log->text, " %u", ev->tool.index));
        put(log, "id", ev->tool.id);
        put(log, "name", ev->tool.name);
        put(log, "arguments", ev->tool.arguments);
        break;
    case TD_EV_EMBEDDING:
        assert_ok(td_buf_printf(&log->text, " %u", ev->embedding.index));
        for (uint32_t i = 0; i < ev->embedding.count; i++)
            assert_ok(td_buf_printf(&log->text, " %g", (double)ev->embedding.values[i]));
        break;
    case TD_EV_USAGE:
        assert_ok(td_buf_printf(&log->text, " %u/%u cached %u reasoning %u", ev->usage.prompt_tokens,
                                ev->usage.completion_tokens, ev->usage.cached_tokens, ev->usage.reasoning_tokens));
        break;
    case TD_EV_FINISH:
        assert_ok(td_buf_printf(&log->text, " %s", td_finish_word(ev->finish.reason)));
        break;
    case TD_EV_ERROR:
        assert_ok(td_buf_printf(&log->text, " %s", td_err_code(ev->error.code)));
        put(log, "message", ev->error.message);
        break;
    case TD_EV_END:
        break;
    }
    if (ev->raw)
        assert_ok(td_buf_addz(&log->text, " raw"));
    assert_ok(td_buf_addc(&log->text, '\n'));
    if (log->stop_after && --log->stop_after == 0)
        td_openai_reader_stop(log->reader);
}

struct how {
    enum td_kind kind;
    uint32_t choices;
    bool raw, broken;
    size_t reply_bytes_max, line_bytes_max;
    int stop_after;
};

// Feeds `input` cut at `a`, or byte by byte where step is 1.
static void run(struct how how, struct td_str input, size_t a, bool bytes, struct log *log) {
    struct td_reader_spec spec = {.kind = how.kind,
                                  .stream = true,
                                  .raw = how.raw,
                                  .choices = how.choices,
                                  .id = TD_STR("X1"),
                                  .reply_bytes_max = how.reply_bytes_max,
                                  .line_bytes_max = how.line_bytes_max,
                                  .on_event = on_event,
                                  .user = log};
    *log = (struct log){.stop_after = how.stop_after};
    td_buf_init(&log->text, 1 << 24);
    assert_ok(td_openai_reader_create(&spec, &log->reader));
    bool more = true;
    if (bytes) {
        for (size_t i = 0; more && i < input.n; i++) {
            char c = input.p[i]; // from a place that changes, so that views kept too long show
            more = td_openai_reader_feed(log->reader, td_str_n(&c, 1));
        }
    } else {
        char *first = malloc(a + 1), *second = malloc(input.n - a + 1);
        memcpy(first, input.p, a);
        memcpy(second, input.p + a, input.n - a);
        more = td_openai_reader_feed(log->reader, td_str_n(first, a));
        memset(first, '#', a);
        if (more)
            td_openai_reader_feed(log->reader, td_str_n(second, input.n - a));
        free(first);
        free(second);
    }
    td_openai_reader_finish(log->reader, !how.broken);
    td_openai_reader_finish(log->reader, true); // a second time says nothing more
    assert_false(td_openai_reader_feed(log->reader, TD_STR("data: {}\n\n")));
    td_openai_reader_destroy(log->reader);
}

static void expect_how(struct how how, const char *input, const char *events) {
    struct td_str in = td_str_of(input);
    for (size_t a = 0; a <= in.n + 1; a++) {
        struct log log;
        run(how, in, a <= in.n ? a : 0, a > in.n, &log);
        if (!td_str_is(td_buf_str(&log.text), events))
            fail_msg("cut at %zu of %zu\n--- got\n%.*s--- expected\n%s", a, in.n, TD_STR_ARG(td_buf_str(&log.text)),
                     events);
        td_buf_finish(&log.text);
    }
}

static void expect(const char *input, const char *events) {
    expect_how((struct how){0}, input, events);
}

#define CHUNK(choices) "data: {\"id\":\"c1\",\"model\":\"m\",\"choices\":[" choices "]}\n\n"
#define DELTA(fields) CHUNK("{\"index\":0,\"delta\":{" fields "},\"finish_reason\":null}")
#define FINISH(reason) CHUNK("{\"index\":0,\"delta\":{},\"finish_reason\":\"" reason "\"}")
#define STARTED "start 0 model=\"m\" id=\"c1\"\n"
#define DONE "data: [DONE]\n\n"

static void a_stream_is_read(void **state) {
    (void)state;
    expect(DELTA("\"role\":\"assistant\",\"content\":\"\"")
               DELTA("\"content\":\"Hé\"") ": ping\n\n" DELTA("\"content\":\"llo\"") FINISH("stop")
                   CHUNK("") "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,"
                             "\"prompt_tokens_details\":{\"cached_tokens\":4},"
                             "\"completion_tokens_details\":{\"reasoning_tokens\":1}}}\r\n\r\n" DONE,
           STARTED "delta 0 text=\"Hé\"\ndelta 0 text=\"llo\"\nfinish 0 stop\nusage 0 9/2 cached 4 reasoning 1\n"
                   "end 0\n");
}

static void a_missing_done_after_the_finish_is_fine(void **state) {
    (void)state;
    expect(DELTA("\"content\":\"a\"") FINISH("length"), STARTED "delta 0 text=\"a\"\nfinish 0 length\nend 0\n");
    expect_how((struct how){.broken = true}, DELTA("\"content\":\"a\"") FINISH("length"),
               STARTED "delta 0 text=\"a\"\nfinish 0 length\nend 0\n");
}

#define CUT "error 0 tandem.upstream.cut message=\"the upstream's answer ended before its finish\"\n"
#define GARBAGE "error 0 tandem.upstream.garbage message=\"the upstream's answer was not understood\"\n"

static void a_stream_without_its_finish_is_cut(void **state) {
    (void)state;
    expect(DELTA("\"content\":\"a\""), STARTED "delta 0 text=\"a\"\n" CUT);
    expect(DELTA("\"content\":\"a\"") DONE, STARTED "delta 0 text=\"a\"\n" CUT);
    expect(DELTA("\"content\":\"a\"") "data: {\"cho", STARTED "delta 0 text=\"a\"\ndamaged " CUT);
    expect(DONE, GARBAGE);
    expect("", GARBAGE);
    expect_how((struct how){.broken = true}, "", CUT);
    expect("<html>bad gateway</html>\n", GARBAGE);
    // Two choices were asked for, one finished.
    expect_how((struct how){.choices = 2}, DELTA("\"content\":\"a\"") FINISH("stop"),
               STARTED "delta 0 text=\"a\"\nfinish 0 stop\n" CUT);
    expect_how((struct how){.choices = 2}, DELTA("\"content\":\"a\"") FINISH("stop") DONE, // it gave one alone
               STARTED "delta 0 text=\"a\"\nfinish 0 stop\nend 0\n");
    expect(DELTA("\"content\":\"a\"") FINISH("insufficient_system_resource") DONE,
           STARTED "delta 0 text=\"a\"\nerror 0 tandem.upstream.cut message=\"the upstream broke off its answer\"\n");
}

static void a_bad_event_among_good_ones_is_left_out(void **state) {
    (void)state;
    expect(DELTA("\"content\":\"a\"") "data: {\"choices\":[{\"ind\n\n" DELTA("\"content\":\"b\"") FINISH("stop") DONE,
           STARTED "delta 0 text=\"a\"\ndamaged delta 0 text=\"b\"\nfinish 0 stop\nend 0\n");
    expect("data: nonsense\n\ndata: 7\n\n", "damaged " GARBAGE);
}

static void an_object_that_carries_no_choices_is_no_damage(void **state) {
    (void)state;
    expect(
        DELTA("\"content\":\"a\"") "data: {}\n\ndata: {\"id\":7,\"model\":[]}\n\ndata: {\"kind\":\"ping\"}\n\n" DELTA(
            "\"content\":\"b\"") FINISH("stop") DONE,
        STARTED "delta 0 text=\"a\"\ndelta 0 text=\"b\"\nfinish 0 stop\nend 0\n");
}

static void wrong_types_do_no_harm(void **state) {
    (void)state;
    static const char *const odd[] = {"{\"choices\":7}",
                                      "{\"choices\":{}}",
                                      "{\"choices\":[7]}",
                                      "{\"choices\":[{\"index\":-1}]}",
                                      "{\"choices\":[{\"index\":999999}]}",
                                      "{\"choices\":[{\"index\":0,\"delta\":7}]}",
                                      "{\"choices\":[{\"index\":0,\"delta\":{\"content\":7}}]}",
                                      "{\"choices\":[{\"index\":0,\"delta\":[]}]}",
                                      "{\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":7}}]}",
                                      "{\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[7]}}]}",
                                      "{\"choices\":[{\"index\":0,\"finish_reason\":7}]}",
                                      "[]",
                                      "null",
                                      "{\"choices\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
                                      "[[[[[]]]]]]]]]]]]]]]]]]]]]]]]"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        struct log log;
        char text[1024];
        snprintf(text, sizeof text, "%sdata: %s\n\n%s", DELTA("\"content\":\"a\""), odd[i],
                 DELTA("\"content\":\"b\"") FINISH("stop") DONE);
        run((struct how){0}, td_str_of(text), 0, false, &log);
        if (!td_str_is(td_buf_str(&log.text),
                       STARTED "delta 0 text=\"a\"\ndamaged delta 0 text=\"b\"\nfinish 0 stop\nend 0\n"))
            fail_msg("%s: %.*s", odd[i], TD_STR_ARG(td_buf_str(&log.text)));
        td_buf_finish(&log.text);
    }
    expect("data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"logprobs\":{\"content\":[7,{\"bytes\":[999],"
           "\"token\":\"t\",\"top_logprobs\":[7]}]}}],\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":\"x\"}}\n\n"
           "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n",
           "start 0 model=\"\" id=\"\"\ndelta 0 text=\"a\"\nusage 0 0/0 cached 0 reasoning 0\nfinish 0 stop\nend 0\n");
    // Objects where text belongs, one of them beside token probabilities.
    struct log log;
    run((struct how){0},
        TD_STR("data: {\"choices\":[{\"delta\":{\"content\":{\"a\":1,\"b\":2}},\"logprobs\":{\"content\":["
               "{\"token\":\"t\",\"logprob\":-1}]}}]}\n\n"
               "data: {\"choices\":[{\"delta\":{\"content\":[{\"thinking\":{\"a\":1}}]}}]}\n\n" FINISH("stop") DONE),
        0, false, &log);
    assert_non_null(memmem(log.text.p, log.text.n, "damaged ", 8));
    td_buf_finish(&log.text);
}

#define CALL(fields) DELTA("\"tool_calls\":[{" fields "}]")

static void tool_calls_are_numbered_whatever_the_provider_does(void **state) {
    (void)state;
    static const char *const expected =
        STARTED "tool 0 0 id=\"a\" name=\"f\" arguments=\"\"\ntool 0 0 id=\"\" name=\"\" arguments=\"{\\\"x\\\":\"\n"
                "tool 0 0 id=\"\" name=\"\" arguments=\"1}\"\ntool 0 1 id=\"b\" name=\"g\" arguments=\"{}\"\n"
                "finish 0 tool_calls\nend 0\n";
    // As it should be.
    expect(CALL("\"index\":0,\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}")
               CALL("\"index\":0,\"function\":{\"arguments\":\"{\\\"x\\\":\"}")
                   CALL("\"index\":0,\"function\":{\"arguments\":\"1}\"}")
                       CALL("\"index\":1,\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}")
                           FINISH("tool_calls") DONE,
           expected);
    // Every call has the index 0; id and name come again with each piece.
    expect(CALL("\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}")
               CALL("\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":\"}")
                   CALL("\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"1}\"}")
                       CALL("\"index\":0,\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}")
                           FINISH("tool_calls") DONE,
           expected);
    // No index.
    expect(CALL("\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}") CALL(
               "\"function\":{\"arguments\":\"{\\\"x\\\":\"}") CALL("\"id\":\"a\",\"function\":{\"arguments\":\"1}\"}")
               CALL("\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}") FINISH("tool_calls") DONE,
           expected);
    // Indexes that do not begin at 0.
    expect(CALL("\"index\":3,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}")
               CALL("\"index\":3,\"function\":{\"arguments\":\"{\\\"x\\\":\"}")
                   CALL("\"index\":3,\"function\":{\"arguments\":\"1}\"}")
                       CALL("\"index\":5,\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}")
                           FINISH("tool_calls") DONE,
           expected);
}

static void tool_calls_without_an_id_get_one(void **state) {
    (void)state;
    expect(DELTA("\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}},"
                 "{\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]") FINISH("stop") DONE,
           STARTED "tool 0 0 id=\"call_X10_0\" name=\"f\" arguments=\"{\\\"x\\\":1}\"\n"
                   "tool 0 1 id=\"call_X10_1\" name=\"f\" arguments=\"{}\"\nfinish 0 stop\nend 0\n");
    // The name comes late: nothing is handed up before it.
    expect(CALL("\"index\":0,\"id\":\"a\",\"function\":{\"arguments\":\"{\"}")
               CALL("\"index\":0,\"function\":{\"name\":\"f\",\"arguments\":\"}\"}") FINISH("tool_calls") DONE,
           STARTED "tool 0 0 id=\"a\" name=\"f\" arguments=\"{}\"\nfinish 0 tool_calls\nend 0\n");
    expect(DELTA("\"function_call\":{\"name\":\"f\",\"arguments\":\"\"}")
               DELTA("\"function_call\":{\"arguments\":\"{}\"}") FINISH("function_call") DONE,
           STARTED "tool 0 0 id=\"call_X10_0\" name=\"f\" arguments=\"\"\ntool 0 0 id=\"\" name=\"\" arguments=\"{}\"\n"
                   "finish 0 tool_calls\nend 0\n");
}

static void tool_calls_have_a_ceiling(void **state) {
    (void)state;
    struct td_buf b;
    struct log log;
    td_buf_init(&b, 1 << 20);
    for (unsigned i = 0; i < TD_TOOL_CALLS_MAX + 1; i++)
        assert_ok(td_buf_printf(&b, CALL("\"index\":%u,\"id\":\"i%u\",\"function\":{\"name\":\"f\"}"), i, i));
    assert_ok(td_buf_addz(&b, FINISH("tool_calls") DONE));
    run((struct how){0}, td_buf_str(&b), 0, false, &log);
    const char *text = td_buf_z(&log.text);
    assert_non_null(strstr(text, "tool 0 127 "));
    assert_null(strstr(text, "tool 0 128 "));
    assert_non_null(strstr(text, "damaged finish"));
    td_buf_finish(&log.text);
    td_buf_finish(&b);
}

static void reasoning_refusals_and_parts_are_told_apart(void **state) {
    (void)state;
    expect(DELTA("\"reasoning_content\":\"hm\",\"content\":null") DELTA("\"reasoning\":\"so\"")
               DELTA("\"content\":[{\"type\":\"thinking\",\"thinking\":[{\"type\":\"text\",\"text\":\"t\"}]},"
                     "{\"type\":\"text\",\"text\":\"x\"}]") DELTA("\"refusal\":\"no\"") FINISH("content_filter") DONE,
           STARTED "reasoning 0 text=\"hm\"\nreasoning 0 text=\"so\"\nreasoning 0 text=\"t\"\ndelta 0 text=\"x\"\n"
                   "refusal 0 text=\"no\"\nfinish 0 content_filter\nend 0\n");
}

static void token_probabilities_come_with_their_text(void **state) {
    (void)state;
    expect(
        CHUNK("{\"index\":0,\"delta\":{\"content\":\"é\"},\"logprobs\":{\"content\":[{\"token\":\"?\",\"logprob\":-0.5,"
              "\"bytes\":[195],\"top_logprobs\":[{\"token\":\"a\",\"logprob\":-1,\"bytes\":null}]},"
              "{\"token\":\"?\",\"logprob\":0,\"bytes\":[169],\"top_logprobs\":[]}]}}") FINISH("stop") DONE,
        STARTED "delta 0 text=\"é\" [1:c3 -0.5 [1:61 -1]] [1:a9 0]\nfinish 0 stop\nend 0\n");
    expect_how((struct how){.kind = TD_KIND_COMPLETION},
               CHUNK("{\"index\":0,\"text\":\"ab\",\"logprobs\":{\"tokens\":[\"a\",\"b\"],\"token_logprobs\":[-1,-2],"
                     "\"top_logprobs\":[{\"a\":-1,\"c\":-3},null]}}")
                   CHUNK("{\"index\":0,\"text\":\"\",\"finish_reason\":\"stop\"}"),
               STARTED "delta 0 text=\"ab\" [1:61 -1 [1:61 -1] [1:63 -3]] [1:62 -2]\nfinish 0 stop\nend 0\n");
}

static void an_error_in_the_stream_is_an_error(void **state) {
    (void)state;
    expect(DELTA("\"content\":\"a\"") "data: {\"error\":{\"message\":\"slow down\",\"type\":\"rate_limit_error\"}}\n\n",
           STARTED "delta 0 text=\"a\"\nerror 0 tandem.upstream.rate message=\"slow down\"\n");
    expect(
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"}}\n\n",
        "error 0 tandem.upstream.server message=\"busy\"\n");
    expect("data: {\"object\":\"error\",\"message\":\"longer than the maximum model length\",\"code\":400}\n\n",
           "error 0 tandem.context_length message=\"longer than the maximum model length\"\n");
}

static void a_whole_body_gives_the_same_events(void **state) {
    (void)state;
    expect(
        " {\"id\":\"c1\",\"object\":\"chat.completion\",\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":"
        "{\"role\":\"assistant\",\"content\":\"hi\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":"
        "{\"name\":\"f\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"tool_calls\"}],"
        "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n",
        STARTED "delta 0 text=\"hi\"\ntool 0 0 id=\"a\" name=\"f\" arguments=\"{}\"\nfinish 0 tool_calls\n"
                "usage 0 3/1 cached 0 reasoning 0\nend 0\n");
    expect("{\"choices\":[]}", "start 0 model=\"\" id=\"\"\n" GARBAGE);
    expect("{\"choices\":[{\"mess", GARBAGE);
    expect_how((struct how){.broken = true}, "{\"choices\":[{\"mess", CUT);
    expect("{\"error\":\"model not loaded\"}", "error 0 tandem.upstream.server message=\"model not loaded\"\n");
}

static void embeddings_come_as_numbers_or_base64(void **state) {
    (void)state;
    struct how how = {.kind = TD_KIND_EMBEDDING};
    expect_how(
        how,
        "{\"object\":\"list\",\"model\":\"m\",\"data\":[{\"index\":0,\"embedding\":[1,-0.5,2e-3]},"
        "{\"index\":1,\"embedding\":\"AACAPwAAAMA=\"}],\"usage\":{\"prompt_tokens\":5,\"total_tokens\":5}}",
        "start 0 model=\"m\" id=\"\"\nvector 0 0 1 -0.5 0.002\nvector 0 1 1 -2\nusage 0 5/0 cached 0 reasoning 0\n"
        "end 0\n");
    static const char *const bad[] = {"{\"data\":[]}",
                                      "{\"data\":7}",
                                      "{\"data\":[{}]}",
                                      "{\"data\":[{\"embedding\":[]}]}",
                                      "{\"data\":[{\"embedding\":[\"x\"]}]}",
                                      "{\"data\":[{\"embedding\":\"AAA=\"}]}",
                                      "{\"data\":[{\"embedding\":\"****\"}]}",
                                      "{\"data\":[{\"embedding\":[1],\"index\":99999}]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct log log;
        run(how, td_str_of(bad[i]), 0, false, &log);
        assert_non_null(strstr(td_buf_z(&log.text), "tandem.upstream.garbage"));
        td_buf_finish(&log.text);
    }
}

static void raw_chunks_come_once_per_choice(void **state) {
    (void)state;
    expect_how(
        (struct how){.raw = true},
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\",\"x\":1}]}\n\n"
        "data: {\"choices\":[]}\n\n" DONE,
        "start 0 model=\"\" id=\"\"\ndelta 0 text=\"a\" raw\nfinish 0 stop\nend 0\n");
    expect_how((struct how){.raw = true}, DELTA("\"audio\":{\"data\":\"AA\"}") FINISH("stop"),
               STARTED "delta 0 text=\"\" raw\nfinish 0 stop\nend 0\n");
    // A chunk that holds nothing unknown is not handed along.
    expect_how((struct how){.raw = true}, DELTA("\"content\":\"a\"") FINISH("stop"),
               STARTED "delta 0 text=\"a\"\nfinish 0 stop\nend 0\n");
}

static void replies_have_ceilings(void **state) {
    (void)state;
    const char *text = DELTA("\"content\":\"a\"") FINISH("stop") DONE;
    size_t n = strlen(text);
    expect_how((struct how){.reply_bytes_max = n}, text, STARTED "delta 0 text=\"a\"\nfinish 0 stop\nend 0\n");
    struct log log;
    run((struct how){.reply_bytes_max = n - 1}, td_str_of(text), 0, false, &log);
    assert_non_null(strstr(td_buf_z(&log.text), "larger than allowed"));
    td_buf_finish(&log.text);
    run((struct how){.line_bytes_max = 60}, td_str_of(text), 0, true, &log);
    assert_non_null(strstr(td_buf_z(&log.text), "longer than allowed"));
    td_buf_finish(&log.text);
}

// One stream, its events as they are and with a name, which keeps the reader from taking any for its like.
static void expect_same_with_a_name(struct how how, const char *const *chunks, size_t count) {
    struct td_buf plain, named;
    struct log read, reference;
    td_buf_init(&plain, 1 << 20);
    td_buf_init(&named, 1 << 20);
    for (size_t i = 0; i < count; i++) {
        assert_ok(td_buf_printf(&plain, "data: %s\n\n", chunks[i]));
        assert_ok(td_buf_printf(&named, "event: chunk\ndata: %s\n\n", chunks[i]));
    }
    run(how, td_buf_str(&named), 0, false, &reference);
    for (size_t a = 0; a <= plain.n + 1; a++) {
        run(how, td_buf_str(&plain), a <= plain.n ? a : 0, a > plain.n, &read);
        if (!td_str_eq(td_buf_str(&read.text), td_buf_str(&reference.text)))
            fail_msg("cut at %zu\n--- got\n%.*s--- expected\n%.*s", a, TD_STR_ARG(td_buf_str(&read.text)),
                     TD_STR_ARG(td_buf_str(&reference.text)));
        td_buf_finish(&read.text);
    }
    td_buf_finish(&reference.text);
    td_buf_finish(&plain);
    td_buf_finish(&named);
}

#define LIKE(index, text, more)                                                                                        \
    "{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":" #index ",\"delta\":{\"content\":\"" text                 \
    "\"},\"finish_reason\":null" more "}]}"
#define OLD_LIKE(text)                                                                                                 \
    "{\"choices\": [{\"text\": \"" text "\", \"index\": 0, \"logprobs\": null, \"finish_reason\": null}]}"

static void chunks_alike_are_read_like_any_other(void **state) {
    (void)state;
    static const char *const chat[] = {
        LIKE(0, "one", ""),
        LIKE(0, " two", ""),
        LIKE(0, "", ""),
        LIKE(0, "a \\\"quote\\\" and \\n", ""),
        LIKE(0, "Straße 日本 🌊", ""),
        LIKE(0, "\xff\xc3", ""),             // no UTF-8
        LIKE(0, "\xed\xa0\x80", ""),         // half of a surrogate pair
        LIKE(0, "a\x01z", ""),               // a control character as it is
        LIKE(0, "eight byt\x1f", ""),        // at every place of a word
        LIKE(0, "ends in \\", ""),           // the quote behind it is its own
        LIKE(0, "a\",\"refusal\":\"no", ""), // another member, no text
        LIKE(0, "a\"}},{\"index\":1,\"delta\":{\"content\":\"b", ""),
        LIKE(1, "another choice", ""),
        LIKE(1, "again", ""),
        LIKE(0, "\\u0041", ""),
        LIKE(0, "three", ",\"logprobs\":{\"content\":[{\"token\":\"three\",\"logprob\":-0.5}]}"),
        LIKE(0, "four", ",\"logprobs\":{\"content\":[{\"token\":\"four\",\"logprob\":-0.5}]}"),
        LIKE(0, "five", ",\"own\":{\"content\":\"five\"}"),
        LIKE(0, "six", ",\"own\":{\"content\":\"five\"}"),
        "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"thinks\",\"reasoning\":\"thinks\"}}]}",
        "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"aloud\",\"reasoning\":\"thinks\"}}]}",
        "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_"
        "tokens\":2}}",
        "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"y\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_"
        "tokens\":2}}",
        "{\"choices\":[{\"index\":16,\"delta\":{\"content\":\"x\"}}]}",
        "{\"choices\":[{\"index\":16,\"delta\":{\"content\":\"y\"}}]}",
        LIKE(0, "seven", ""),
        LIKE(0, "eight", ""),
        "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"last\"},\"finish_reason\":\"stop\"}]}",
        LIKE(0, "too late", ""),
        "{\"choices\":[{\"index\":1,\"delta\":{},\"finish_reason\":\"stop\"}]}",
        "[DONE]",
    };
    static const char *const completion[] = {
        OLD_LIKE("one"),
        OLD_LIKE(" two"),
        OLD_LIKE("th\\tree"),
        OLD_LIKE("\x7f"),
        "{\"choices\": [{\"text\": \"\", \"index\": 0, \"finish_reason\": \"length\"}]}",
        "[DONE]",
    };
    static const char *const fails[] = {LIKE(0, "one", ""), LIKE(0, "two", ",\"x\":{\"error\":1}"),
                                        "{\"error\":{\"message\":\"x\"},\"choices\":[]}"};
    for (int raw = 0; raw < 2; raw++) {
        struct how how = {.choices = 2, .raw = raw};
        expect_same_with_a_name(how, chat, sizeof chat / sizeof *chat);
        expect_same_with_a_name(how, fails, sizeof fails / sizeof *fails);
        how = (struct how){.kind = TD_KIND_COMPLETION, .raw = raw};
        expect_same_with_a_name(how, completion, sizeof completion / sizeof *completion);
    }
}

static void chunks_alike_take_no_memory(void **state) {
    (void)state;
    struct log log = {0};
    struct td_reader_spec spec = {.stream = true, .on_event = on_event, .user = &log};
    td_buf_init(&log.text, 1 << 20);
    assert_non_null(td_buf_reserve(&log.text, 1 << 16));
    assert_ok(td_openai_reader_create(&spec, &log.reader));
    assert_true(td_openai_reader_feed(log.reader, TD_STR("data: " LIKE(0, "one", "") "\n\n")));
    uint64_t before = td_alloc_count();
    for (int i = 0; i < 100; i++)
        assert_true(td_openai_reader_feed(log.reader, TD_STR("data: " LIKE(0, "a word more", "") "\n\n")));
    assert_int_equal(td_alloc_count(), before);
    assert_non_null(strstr(td_buf_z(&log.text), "delta 0 text=\"one\"\ndelta 0 text=\"a word more\"\n"));
    td_openai_reader_destroy(log.reader);
    td_buf_finish(&log.text);
}

static void what_is_never_alike_is_not_learned_for_ever(void **state) {
    (void)state;
    struct td_alike a;
    struct td_arena arena;
    struct td_str text;
    td_alike_init(&a);
    td_arena_init(&arena, 1 << 20);
    int learned = 0;
    for (int i = 0; i < 20; i++) {
        char chunk[200];
        td_json *root;
        snprintf(chunk, sizeof chunk, "{\"n\":%d,\"choices\":[{\"delta\":{\"content\":\"x\"}}]}", i);
        assert_false(td_alike_text(&a, td_str_of(chunk), &text)); // another number
        assert_ok(td_json_parse(&arena, td_str_of(chunk), 16, &root, NULL));
        size_t before = a.learned_in_vain;
        td_alike_learn(&a, td_str_of(chunk), root);
        learned += a.learned_in_vain > before;
    }
    assert_in_range(learned, 2, 8);
    td_arena_finish(&arena);
    td_alike_finish(&a);
}

static void a_listener_may_stop(void **state) {
    (void)state;
    expect_how((struct how){.stop_after = 2}, DELTA("\"content\":\"a\"") DELTA("\"content\":\"b\"") FINISH("stop") DONE,
               STARTED "delta 0 text=\"a\"\n");
}

static void each_allocation_may_fail(void **state) {
    (void)state;
    static const char text[] = CALL("\"index\":0,\"id\":\"a\",\"function\":{\"arguments\":\"{\"}")
        CALL("\"index\":0,\"function\":{\"name\":\"f\",\"arguments\":\"}\"}") FINISH("tool_calls") DONE;
    struct td_reader_spec spec = {.on_event = on_event};
    for (uint64_t n = 1; n < 40; n++) {
        struct log log = {0};
        td_buf_init(&log.text, 1 << 20);
        assert_non_null(td_buf_reserve(&log.text, 1 << 16)); // the log itself shall not fail
        spec.user = &log;
        td_alloc_fail_at(n);
        if (td_openai_reader_create(&spec, &log.reader) != TD_OK) {
            td_alloc_fail_at(0);
            td_buf_finish(&log.text);
            continue;
        }
        for (size_t i = 0; i + 1 < sizeof text; i += 7)
            if (!td_openai_reader_feed(log.reader,
                                       td_str_n(text + i, sizeof text - 1 - i < 7 ? sizeof text - 1 - i : 7)))
                break;
        td_openai_reader_finish(log.reader, true);
        td_alloc_fail_at(0);
        td_openai_reader_destroy(log.reader);
        const char *z = td_buf_z(&log.text);
        assert_true(strstr(z, "end 0") || strstr(z, "tandem.internal.memory"));
        td_buf_finish(&log.text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_is_read),
        cmocka_unit_test(a_missing_done_after_the_finish_is_fine),
        cmocka_unit_test(a_stream_without_its_finish_is_cut),
        cmocka_unit_test(a_bad_event_among_good_ones_is_left_out),
        cmocka_unit_test(an_object_that_carries_no_choices_is_no_damage),
        cmocka_unit_test(wrong_types_do_no_harm),
        cmocka_unit_test(tool_calls_are_numbered_whatever_the_provider_does),
        cmocka_unit_test(tool_calls_without_an_id_get_one),
        cmocka_unit_test(tool_calls_have_a_ceiling),
        cmocka_unit_test(reasoning_refusals_and_parts_are_told_apart),
        cmocka_unit_test(token_probabilities_come_with_their_text),
        cmocka_unit_test(an_error_in_the_stream_is_an_error),
        cmocka_unit_test(a_whole_body_gives_the_same_events),
        cmocka_unit_test(embeddings_come_as_numbers_or_base64),
        cmocka_unit_test(raw_chunks_come_once_per_choice),
        cmocka_unit_test(replies_have_ceilings),
        cmocka_unit_test(chunks_alike_are_read_like_any_other),
        cmocka_unit_test(chunks_alike_take_no_memory),
        cmocka_unit_test(what_is_never_alike_is_not_learned_for_ever),
        cmocka_unit_test(a_listener_may_stop),
        cmocka_unit_test(each_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
