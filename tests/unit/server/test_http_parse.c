// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <stdio.h>

#include "server/http_parse.h"

static int read_all(struct td_http_head *head, const char *p, size_t n) {
    const char *why;
    td_http_head_init(head);
    return td_http_head_read(head, p, n, &why);
}

static void a_head_reads_the_same_at_every_cut(void **state) {
    (void)state;
    static const char text[] = "POST /v1/chat/completions?a=b%20c HTTP/1.1\r\nHost: h:1\r\ncontent-length:  12 \t\r\n"
                               "Connection: x, Close\r\nX-Empty:\r\n\r\nbody";
    size_t head_n = sizeof text - 1 - 4;
    for (size_t cut = 0; cut <= head_n; cut++) {
        struct td_http_head head;
        const char *why = "";
        td_http_head_init(&head);
        // The part lies in memory of exactly its size, so that a sanitizer sees any step beyond it.
        char *part = malloc(cut ? cut : 1);
        memcpy(part, text, cut);
        int first = td_http_head_read(&head, part, cut, &why);
        free(part);
        assert_int_equal(first, cut == head_n);
        if (cut < head_n)
            assert_int_equal(td_http_head_read(&head, text, sizeof text - 1, &why), 1);
        assert_int_equal(td_http_head_bytes(&head), head_n);
        assert_int_equal(head.method, TD_HTTP_POST);
        assert_str(td_http_view(text, head.target), "/v1/chat/completions?a=b%20c");
        assert_int_equal(head.field_count, 4);
        assert_str(td_http_view(text, head.fields[1].name), "content-length");
        assert_str(td_http_view(text, head.fields[1].value), "12");
        assert_str(td_http_view(text, head.fields[3].value), "");
        assert_int_equal(head.content_length, 12);
        assert_true(head.close);
    }
}

static char text_of_test[TD_HEADER_BYTES_MAX + 256];

static char *line_of(size_t target_n) {
    char *text = text_of_test;
    int n = sprintf(text, "GET /");
    memset(text + n, 'a', target_n - 1);
    sprintf(text + n + target_n - 1, " HTTP/1.1\r\nHost: h\r\n\r\n");
    return text;
}

static void the_request_line_ends_at_8_kib(void **state) {
    (void)state;
    struct td_http_head head;
    size_t fits = TD_REQUEST_LINE_BYTES_MAX - strlen("GET  HTTP/1.1");
    char *text = line_of(fits);
    assert_int_equal(read_all(&head, text, strlen(text)), 1);
    text = line_of(fits + 1);
    assert_int_equal(read_all(&head, text, strlen(text)), 414);
}

static void the_header_ends_at_32_kib(void **state) {
    (void)state;
    struct td_http_head head;
    static const char start[] = "GET / HTTP/1.1\r\n", host[] = "Host: h\r\n";
    for (int over = 0; over <= 1; over++) {
        size_t value_n = TD_HEADER_BYTES_MAX - strlen(host) - strlen("X: \r\n") + (size_t)over;
        char *text = text_of_test;
        int n = sprintf(text, "%s%sX: ", start, host);
        memset(text + n, 'a', value_n);
        sprintf(text + n + value_n, "\r\n\r\n");
        assert_int_equal(read_all(&head, text, strlen(text)), over ? 431 : 1);
    }
}

static void a_hundred_fields_are_enough(void **state) {
    (void)state;
    struct td_http_head head;
    for (unsigned fields = TD_HEADER_FIELDS_MAX; fields <= TD_HEADER_FIELDS_MAX + 1; fields++) {
        char text[4096];
        int n = sprintf(text, "GET / HTTP/1.1\r\nHost: h\r\n");
        for (unsigned i = 1; i < fields; i++)
            n += sprintf(text + n, "X-%u: v\r\n", i);
        n += sprintf(text + n, "\r\n");
        assert_int_equal(read_all(&head, text, (size_t)n), fields > TD_HEADER_FIELDS_MAX ? 431 : 1);
    }
}

// Every byte value in every place where a lenient reader might let it through.
static void no_byte_slips_through(void **state) {
    (void)state;
    static const char *const places[] = {"GET /a?b HTTP/1.1\r\nHost: h\r\nXa: b\r\n\r\n"};
    struct td_http_head head;
    static const char token[] = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    static const char target[] = "-._~!$&'()*+,;=:@/?0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for (int c = 0; c < 256; c++) {
        char text[128];
        size_t n = strlen(places[0]);
        memcpy(text, places[0], n);
        text[5] = (char)c; // in the path
        bool good = c && memchr(target, c, sizeof target - 1);
        assert_int_equal(read_all(&head, text, n) == 1, good);
        memcpy(text, places[0], n);
        text[29] = (char)c; // the second letter of a field's name; a colon there only ends the name earlier
        good = c && (memchr(token, c, sizeof token - 1) || c == ':');
        assert_int_equal(read_all(&head, text, n) == 1, good);
        memcpy(text, places[0], n);
        text[32] = (char)c; // in a field's value
        good = c == '\t' || (c >= ' ' && c != 0x7f);
        assert_int_equal(read_all(&head, text, n) == 1, good);
    }
}

static enum td_http_chunks_result decode(const char *text, size_t n, size_t step, size_t max, char *out, size_t *out_n,
                                         size_t *used_n) {
    struct td_http_chunks c;
    enum td_http_chunks_result result = TD_HTTP_CHUNKS_MORE;
    td_http_chunks_init(&c);
    *out_n = *used_n = 0;
    while (*used_n < n && result == TD_HTTP_CHUNKS_MORE) {
        size_t used, made, take = n - *used_n < step ? n - *used_n : step;
        result = td_http_chunks_read(&c, text + *used_n, take, out + *out_n, *out_n, max, &used, &made);
        *used_n += used;
        *out_n += made;
    }
    return result;
}

static void chunks_decode_at_every_cut(void **state) {
    (void)state;
    static const char text[] = "5\r\nhello\r\n0007\r\n, world\r\n0\r\n\r\nNEXT";
    for (size_t step = 1; step < sizeof text; step++) {
        char out[64];
        size_t out_n, used_n;
        assert_int_equal(decode(text, sizeof text - 1, step, 100, out, &out_n, &used_n), TD_HTTP_CHUNKS_DONE);
        assert_int_equal(out_n, 12);
        assert_memory_equal(out, "hello, world", 12);
        assert_int_equal(used_n, sizeof text - 1 - 4);
    }
}

static void chunks_decode_in_place(void **state) {
    (void)state;
    char text[] = "5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n";
    struct td_http_chunks c;
    size_t used, made;
    td_http_chunks_init(&c);
    assert_int_equal(td_http_chunks_read(&c, text, sizeof text - 1, text, 0, 100, &used, &made), TD_HTTP_CHUNKS_DONE);
    assert_memory_equal(text, "hello, world", 12);
}

static void the_body_cap_holds_for_chunks(void **state) {
    (void)state;
    static const char text[] = "5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n";
    char out[64];
    size_t out_n, used_n;
    assert_int_equal(decode(text, sizeof text - 1, 3, 10, out, &out_n, &used_n), TD_HTTP_CHUNKS_DONE);
    assert_int_equal(decode(text, sizeof text - 1, 3, 9, out, &out_n, &used_n), TD_HTTP_CHUNKS_TOO_LARGE);
    assert_int_equal(decode("fffffffffffffff\r\n", 17, 17, 1 << 20, out, &out_n, &used_n), TD_HTTP_CHUNKS_TOO_LARGE);
    assert_int_equal(decode("ffffffffffffffff\r\n", 18, 18, 1 << 20, out, &out_n, &used_n), TD_HTTP_CHUNKS_BAD);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_reads_the_same_at_every_cut),
        cmocka_unit_test(the_request_line_ends_at_8_kib),
        cmocka_unit_test(the_header_ends_at_32_kib),
        cmocka_unit_test(a_hundred_fields_are_enough),
        cmocka_unit_test(no_byte_slips_through),
        cmocka_unit_test(chunks_decode_at_every_cut),
        cmocka_unit_test(chunks_decode_in_place),
        cmocka_unit_test(the_body_cap_holds_for_chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
