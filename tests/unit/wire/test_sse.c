// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include "wire/sse.h"

struct log {
    struct td_buf text; // name|data|id, one event a line, LF in data shown as /
    int stop_after;
};

static bool note(void *user, const struct td_sse_event *ev) {
    struct log *log = user;
    assert_ok(td_buf_printf(&log->text, "%.*s|", TD_STR_ARG(ev->name)));
    for (size_t i = 0; i < ev->data.n; i++)
        assert_ok(td_buf_addc(&log->text, ev->data.p[i] == '\n' ? '/' : ev->data.p[i]));
    assert_ok(td_buf_printf(&log->text, "|%.*s\n", TD_STR_ARG(ev->id)));
    return --log->stop_after != 0;
}

// Feeds `input` cut at `a` and `b`.
static void run(struct td_str input, size_t a, size_t b, struct log *log) {
    struct td_sse s;
    td_sse_init(&s, 1 << 20, note, log);
    assert_ok(td_sse_feed(&s, td_str_n(input.p, a)));
    assert_ok(td_sse_feed(&s, td_str_n(input.p + a, b - a)));
    assert_ok(td_sse_feed(&s, td_str_n(input.p + b, input.n - b)));
    assert_ok(td_sse_end(&s));
    td_sse_finish(&s);
}

static void expect(struct td_str input, const char *events) {
    for (size_t a = 0; a <= input.n; a++) {
        for (size_t b = a; b <= input.n; b++) {
            struct log log = {0};
            td_buf_init(&log.text, 1 << 20);
            run(input, a, b, &log);
            assert_str(td_buf_str(&log.text), events);
            td_buf_finish(&log.text);
        }
    }
}

static void events_are_the_same_at_every_cut(void **state) {
    (void)state;
    expect(TD_STR("data: {\"a\":1}\n\ndata: [DONE]\n\n"), "|{\"a\":1}|\n|[DONE]|\n");
    expect(TD_STR("event: error\ndata: x\nid: 7\n\n"), "error|x|7\n");
    expect(TD_STR("data: one\ndata: two\ndata\n\n"), "|one/two/|\n");
}

static void all_line_ends_are_line_ends(void **state) {
    (void)state;
    expect(TD_STR("data: a\r\n\r\ndata: b\r\rdata: c\n\n"), "|a|\n|b|\n|c|\n");
    expect(TD_STR("data: a\r\ndata: b\rdata: c\n\r\n"), "|a/b/c|\n");
}

static void byte_order_mark_counts_at_the_start_alone(void **state) {
    (void)state;
    expect(TD_STR("\xef\xbb\xbf"
                  "data: a\n\n\xef\xbb\xbf"
                  "data: b\n\n"),
           "|a|\n");
    expect(TD_STR("\xef\xbb"
                  "data: a\n\ndata: b\n\n"),
           "|b|\n");
}

static void comments_and_unknown_fields_say_nothing(void **state) {
    (void)state;
    expect(TD_STR(": keep-alive\n\n:\n\nretry: 10\nfoo: x\n\ndata:a\n\n"), "|a|\n");
    expect(TD_STR("event: lonely\n\ndata: a\n\n"), "|a|\n"); // an event without data is none, and its name is forgotten
    expect(TD_STR("data\n\ndata:\n\n"), "||\n||\n");
    expect(TD_STR("data:  two spaces\n\n"), "| two spaces|\n");
}

static void the_last_event_may_lack_its_empty_line(void **state) {
    (void)state;
    expect(TD_STR("data: a\n\ndata: b\n"), "|a|\n|b|\n");
    expect(TD_STR("data: a\n\ndata: b"), "|a|\n|b|\n");
}

static void a_listener_may_stop(void **state) {
    (void)state;
    struct log log = {.stop_after = 1};
    td_buf_init(&log.text, 1 << 20);
    run(TD_STR("data: a\n\ndata: b\n\n"), 3, 18, &log);
    assert_str(td_buf_str(&log.text), "|a|\n");
    td_buf_finish(&log.text);
}

// `pieces` how the line of `n` bytes is cut.
static enum td_err feed_line(size_t max, size_t n, size_t piece, int *events) {
    struct log log = {0};
    struct td_sse s;
    char *line = malloc(n + 2);
    memset(line, 'x', n);
    memcpy(line, "data:", 5);
    memcpy(line + n, "\n\n", 2);
    td_buf_init(&log.text, 1 << 20);
    td_sse_init(&s, max, note, &log);
    enum td_err err = TD_OK;
    for (size_t at = 0; err == TD_OK && at < n + 2; at += piece)
        err = td_sse_feed(&s, td_str_n(line + at, n + 2 - at < piece ? n + 2 - at : piece));
    *events = log.text.n > 0;
    td_sse_finish(&s);
    td_buf_finish(&log.text);
    free(line);
    return err;
}

static void a_line_has_a_ceiling(void **state) {
    (void)state;
    int events;
    for (size_t piece = 1; piece < 200; piece += 33) {
        assert_int_equal(feed_line(100, 100, piece, &events), TD_OK);
        assert_int_equal(events, 1);
        assert_int_equal(feed_line(100, 101, piece, &events), TD_ERR_LIMIT);
        assert_int_equal(events, 0);
    }
}

static void many_data_lines_have_a_ceiling_together(void **state) {
    (void)state;
    struct log log = {0};
    struct td_sse s;
    td_buf_init(&log.text, 1 << 20);
    td_sse_init(&s, 100, note, &log);
    enum td_err err = TD_OK;
    int lines = 0;
    while (err == TD_OK && lines < 100) {
        err = td_sse_feed(&s, TD_STR("data: 0123456789\n"));
        lines++;
    }
    assert_int_equal(err, TD_ERR_LIMIT);
    assert_between(lines, 9, 11);
    assert_ok(td_sse_feed(&s, TD_STR("\n\ndata: more\n\n")));
    assert_int_equal(log.text.n, 0);
    td_sse_finish(&s);
    td_buf_finish(&log.text);
}

static void any_bytes_give_the_same_events_however_cut(void **state) {
    (void)state;
    static const char alphabet[] = "data: \n\r:idevnt\xef\xbb\xbf\0x";
    uint64_t seed = 12345;
    for (int round = 0; round < 3000; round++) {
        char text[48];
        size_t n = 0;
        for (; n < sizeof text; n++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[n] = alphabet[(seed >> 33) % (sizeof alphabet - 1)];
            if (n % 16 == 0)
                memcpy(text + n, "data:", 5), n += 4;
        }
        struct log whole = {0}, cut = {0};
        td_buf_init(&whole.text, 1 << 20);
        td_buf_init(&cut.text, 1 << 20);
        run(td_str_n(text, sizeof text), sizeof text, sizeof text, &whole);
        size_t a = (seed >> 20) % sizeof text, b = a + (seed >> 40) % (sizeof text - a);
        run(td_str_n(text, sizeof text), a, b, &cut);
        assert_int_equal(whole.text.n, cut.text.n);
        assert_memory_equal(whole.text.p ? whole.text.p : "", cut.text.p ? cut.text.p : "", cut.text.n);
        td_buf_finish(&whole.text);
        td_buf_finish(&cut.text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_are_the_same_at_every_cut),
        cmocka_unit_test(all_line_ends_are_line_ends),
        cmocka_unit_test(byte_order_mark_counts_at_the_start_alone),
        cmocka_unit_test(comments_and_unknown_fields_say_nothing),
        cmocka_unit_test(the_last_event_may_lack_its_empty_line),
        cmocka_unit_test(a_listener_may_stop),
        cmocka_unit_test(a_line_has_a_ceiling),
        cmocka_unit_test(many_data_lines_have_a_ceiling_together),
        cmocka_unit_test(any_bytes_give_the_same_events_however_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
