// SPDX-License-Identifier: Apache-2.0
// The reader of replies alone: the table of vectors, whole and cut at every byte, and the caps to the byte.
#include "vectors.h"

#include "base/limits.h"
#include "remote/http_reply.h"

struct outcome {
    enum td_reply_step last; // END, BAD or MORE
    bool ends_here, keeps;
    int status;
    unsigned fields;
    size_t left; // bytes behind the end
    uint32_t keep_s;
    char body[512];
    size_t body_n;
    const char *why;
};

// Reads what arrives `step` bytes at a time, as a connection would: what is not taken is given again.
static void read_cut(const char *bytes, size_t n, size_t step, struct outcome *o) {
    struct td_reply r;
    struct td_reply_piece piece;
    size_t from = 0, have = 0;
    td_reply_init(&r);
    *o = (struct outcome){.last = TD_REPLY_MORE};
    while (o->last == TD_REPLY_MORE && have < n) {
        have = n - have < step ? n : have + step;
        char *exact = malloc(have - from); // so that reading beyond it is seen
        memcpy(exact, bytes + from, have - from);
        size_t at = 0, used;
        do {
            o->last = td_reply_read(&r, exact + at, have - from - at, &used, &piece);
            at += used;
            assert_true(at <= have - from);
            if (o->last == TD_REPLY_STATUS)
                o->status = r.status;
            if (o->last == TD_REPLY_FIELD)
                o->fields++;
            if (o->last == TD_REPLY_DATA) {
                assert_true(piece.value.n > 0 && o->body_n + piece.value.n <= sizeof o->body);
                memcpy(o->body + o->body_n, piece.value.p, piece.value.n);
                o->body_n += piece.value.n;
            }
        } while (o->last == TD_REPLY_STATUS || o->last == TD_REPLY_FIELD || o->last == TD_REPLY_DATA);
        from += at;
        free(exact);
    }
    o->left = n - from;
    o->ends_here = td_reply_ends_here(&r);
    o->keeps = td_reply_keeps(&r);
    o->keep_s = r.keep_s;
    o->why = r.why;
    if (o->last == TD_REPLY_BAD) { // and stays so
        size_t used = 7;
        assert_int_equal(td_reply_read(&r, "x", 1, &used, &piece), TD_REPLY_BAD);
        assert_int_equal(used, 0);
        assert_true(r.why && *r.why);
    }
}

static bool is_whole(const struct vector *v, const struct outcome *o) {
    const char *colon = strchr(v->gives, ':');
    size_t n = strcspn(colon + 1, "!$");
    char mark = colon[1 + n];
    bool ended = mark == '$' ? o->last == TD_REPLY_MORE && o->ends_here : o->last == TD_REPLY_END;
    bool kept = o->keeps && o->left == 0;
    return ended && o->status == atoi(v->gives) && o->body_n == n && memcmp(o->body, colon + 1, n) == 0 &&
           kept == (mark == 0);
}

static void check(const struct vector *v, size_t step) {
    struct outcome o;
    read_cut(v->bytes, v->n, step, &o);
    bool right = strcmp(v->gives, "bad") == 0   ? o.last == TD_REPLY_BAD
                 : strcmp(v->gives, "cut") == 0 ? o.last == TD_REPLY_MORE && !o.ends_here
                                                : is_whole(v, &o);
    if (!right)
        fail_msg("%s, %zu bytes at a time: step %d, status %d, %zu bytes of body, %s", v->name, step, (int)o.last,
                 o.status, o.body_n, o.why ? o.why : "");
}

static void check_all_cuts(const struct vector *v) {
    check(v, v->n ? v->n : 1);
    for (size_t step = 1; step < 64 && step < v->n && v->n < 2000; step++)
        check(v, step);
    if (v->n >= 2000)
        check(v, 1000);
}

// Two pieces, cut at each place.
static void check_two_pieces(const struct vector *v) {
    struct outcome whole, cut;
    if (v->n >= 2000)
        return;
    read_cut(v->bytes, v->n, v->n ? v->n : 1, &whole);
    for (size_t at = 1; at < v->n; at++) {
        struct td_reply r;
        struct td_reply_piece piece;
        size_t from = 0, used, end = at;
        td_reply_init(&r);
        cut = (struct outcome){0};
        for (int half = 0; half < 2; half++, end = v->n)
            do {
                cut.last = td_reply_read(&r, v->bytes + from, end - from, &used, &piece);
                from += used;
                cut.body_n += cut.last == TD_REPLY_DATA ? piece.value.n : 0;
            } while (cut.last == TD_REPLY_STATUS || cut.last == TD_REPLY_FIELD || cut.last == TD_REPLY_DATA);
        if (cut.last != whole.last || (whole.last != TD_REPLY_BAD && cut.body_n != whole.body_n))
            fail_msg("%s, cut at %zu: step %d, not %d", v->name, at, (int)cut.last, (int)whole.last);
    }
}

static void replies_are_read_strictly(void **state) {
    (void)state;
    assert_true(vectors_each(check_all_cuts) > 130);
}

static void cuts_do_not_matter(void **state) {
    (void)state;
    assert_true(vectors_each(check_two_pieces) > 130);
}

// A head of exactly `n` bytes.
static char *head_of(size_t n) {
    static const char start[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: ";
    char *p = malloc(n);
    memset(p, 'a', n);
    memcpy(p, start, sizeof start - 1);
    memcpy(p + n - 4, "\r\n\r\n", 4);
    return p;
}

static void the_head_has_its_cap(void **state) {
    (void)state;
    struct outcome o;
    for (size_t step = 997; step <= 100000; step *= 100) {
        char *p = head_of(TD_REPLY_HEADER_BYTES_MAX);
        read_cut(p, TD_REPLY_HEADER_BYTES_MAX, step, &o);
        assert_int_equal(o.last, TD_REPLY_END);
        free(p);
        p = head_of(TD_REPLY_HEADER_BYTES_MAX + 1);
        read_cut(p, TD_REPLY_HEADER_BYTES_MAX + 1, step, &o);
        assert_int_equal(o.last, TD_REPLY_BAD);
        assert_string_equal(o.why, "its header is too large");
        free(p);
    }
    // A line that never ends is refused as soon as it is too long, not kept.
    char *p = malloc(TD_REPLY_HEADER_BYTES_MAX + 1);
    memset(p, 'a', TD_REPLY_HEADER_BYTES_MAX + 1);
    memcpy(p, "HTTP/1.1 200 ", 13);
    read_cut(p, TD_REPLY_HEADER_BYTES_MAX, TD_REPLY_HEADER_BYTES_MAX, &o);
    assert_int_equal(o.last, TD_REPLY_MORE);
    read_cut(p, TD_REPLY_HEADER_BYTES_MAX + 1, 1000, &o);
    assert_int_equal(o.last, TD_REPLY_BAD);
    free(p);
}

static void fields_come_with_their_values(void **state) {
    (void)state;
    static const char text[] = "HTTP/1.1 429 Slow down\r\nRetry-After:\t7 \r\nKeep-Alive: max=3, timeout=9\r\nX:\r\n"
                               "Content-Length: 0\r\nDate: now: then\r\n\r\n";
    static const char *const want[][2] = {{"Retry-After", "7"}, {"X", ""}, {"Date", "now: then"}};
    struct td_reply r;
    struct td_reply_piece piece;
    size_t at = 0, used, seen = 0;
    enum td_reply_step step;
    td_reply_init(&r);
    do {
        step = td_reply_read(&r, text + at, sizeof text - 1 - at, &used, &piece);
        at += used;
        if (step == TD_REPLY_FIELD) {
            assert_str(piece.name, want[seen][0]);
            assert_str(piece.value, want[seen][1]);
            seen++;
        }
    } while (step != TD_REPLY_END && step != TD_REPLY_BAD && step != TD_REPLY_MORE);
    assert_int_equal(step, TD_REPLY_END);
    assert_int_equal(seen, 3);
    assert_int_equal(r.keep_s, 9);
    assert_int_equal(r.status, 429);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_are_read_strictly),
        cmocka_unit_test(cuts_do_not_matter),
        cmocka_unit_test(the_head_has_its_cap),
        cmocka_unit_test(fields_come_with_their_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
