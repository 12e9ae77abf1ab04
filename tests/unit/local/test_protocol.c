// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include "local/protocol.h"

static void what_is_written_is_read_back(void **state) {
    (void)state;
    struct td_buf b;
    struct td_frame f;
    size_t used;
    struct td_proto_request in = {1, TD_PROTO_WANT_TOKENS, 1, 7, TD_STR("{\"prompt\":\"x\"}")}, out;
    td_buf_init(&b, 4096);
    assert_ok(td_proto_put_request(&b, 77, &in));
    assert_ok(td_proto_next(td_buf_str(&b), 4096, &f, &used));
    assert_int_equal(used, b.n);
    assert_int_equal(f.type, TD_FRAME_REQUEST);
    assert_int_equal(f.id, 77);
    assert_true(td_proto_get_request(f.body, &out));
    assert_int_equal(out.credits, 7);
    assert_str(out.body, "{\"prompt\":\"x\"}");
    td_buf_finish(&b);
}

static void a_frame_in_pieces_waits_for_its_end(void **state) {
    (void)state;
    struct td_buf b;
    struct td_frame f;
    size_t used;
    td_buf_init(&b, 4096);
    assert_ok(td_proto_put_error(&b, TD_FRAME_ERROR, 3, TD_ERR_CUT, TD_STR("why")));
    for (size_t n = 0; n < b.n; n++) {
        assert_ok(td_proto_next(td_str_n(b.p, n), 4096, &f, &used));
        assert_int_equal(used, 0);
    }
    td_buf_finish(&b);
}

static void a_frame_at_the_limit_passes_and_over_it_does_not(void **state) {
    (void)state;
    unsigned char head[TD_PROTO_HEADER_BYTES] = {[4] = TD_FRAME_TEXT};
    struct td_frame f;
    size_t used;
    head[1] = 1; // 256 bytes
    assert_ok(td_proto_next(td_str_n((char *)head, sizeof head), 256, &f, &used));
    assert_int_equal(td_proto_next(td_str_n((char *)head, sizeof head), 255, &f, &used), TD_ERR_UPSTREAM_GARBAGE);
    head[3] = 0xff; // 4 GiB
    assert_int_equal(td_proto_next(td_str_n((char *)head, sizeof head), TD_HOST_FRAME_BYTES_MAX, &f, &used),
                     TD_ERR_UPSTREAM_GARBAGE);
}

static void unknown_types_and_reserved_bytes_are_refused(void **state) {
    (void)state;
    struct td_frame f;
    size_t used;
    const unsigned char types[] = {0, TD_FRAME_COUNT, 255};
    for (size_t i = 0; i < sizeof types; i++) {
        unsigned char head[TD_PROTO_HEADER_BYTES] = {[4] = types[i]};
        assert_int_equal(td_proto_next(td_str_n((char *)head, sizeof head), 64, &f, &used), TD_ERR_UPSTREAM_GARBAGE);
    }
    unsigned char head[TD_PROTO_HEADER_BYTES] = {[4] = TD_FRAME_END, [6] = 1};
    assert_int_equal(td_proto_next(td_str_n((char *)head, sizeof head), 64, &f, &used), TD_ERR_UPSTREAM_GARBAGE);
}

static void a_body_cut_or_too_long_is_not_read(void **state) {
    (void)state;
    struct td_buf b;
    struct td_frame f;
    size_t used;
    struct td_proto_setup setup = {.version = 1, .prepares = true, .name = TD_STR("m")}, out;
    td_buf_init(&b, 4096);
    assert_ok(td_proto_put_setup(&b, &setup));
    assert_ok(td_proto_next(td_buf_str(&b), 4096, &f, &used));
    assert_true(td_proto_get_setup(f.body, &out));
    assert_true(out.prepares);
    for (size_t n = 0; n < f.body.n; n++)
        assert_false(td_proto_get_setup(td_str_n(f.body.p, n), &out));
    assert_ok(td_buf_addc(&b, 0));
    assert_false(td_proto_get_setup(td_str_n(b.p + TD_PROTO_HEADER_BYTES, b.n - TD_PROTO_HEADER_BYTES), &out));
    td_buf_finish(&b);
}

static void a_string_longer_than_the_frame_does_not_read_past_it(void **state) {
    (void)state;
    const char body[] = {(char)0xff, (char)0xff, (char)0xff, (char)0xff, 'a'};
    struct td_proto_reader r;
    td_proto_read(&r, td_str_n(body, sizeof body));
    struct td_str s = td_proto_get_str(&r);
    assert_null(s.p);
    assert_false(td_proto_ok(&r));
    assert_int_equal(td_proto_get_u32(&r), 0);
}

static void an_error_code_outside_the_list_becomes_internal(void **state) {
    (void)state;
    struct td_buf b;
    struct td_frame f;
    struct td_str message;
    size_t used;
    enum td_err code;
    const uint32_t codes[] = {0, TD_ERR_COUNT, 0x7fffffff, 0xffffffff};
    for (size_t i = 0; i < 4; i++) {
        td_buf_init(&b, 4096);
        assert_ok(td_proto_put_error(&b, TD_FRAME_ERROR, 1, (enum td_err)codes[i], TD_STR("")));
        assert_ok(td_proto_next(td_buf_str(&b), 4096, &f, &used));
        assert_true(td_proto_get_error(f.body, &code, &message));
        assert_int_equal(code, TD_ERR_INTERNAL);
        td_buf_finish(&b);
    }
}

static void a_frame_that_does_not_fit_leaves_the_buffer_whole(void **state) {
    (void)state;
    struct td_buf b;
    td_buf_init(&b, 40);
    assert_ok(td_buf_addz(&b, "before"));
    assert_int_equal(td_proto_put_error(&b, TD_FRAME_ERROR, 1, TD_ERR_CUT, TD_STR("a message that is too long for it")),
                     TD_ERR_LIMIT);
    assert_str(td_buf_str(&b), "before");
    td_buf_finish(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(a_frame_in_pieces_waits_for_its_end),
        cmocka_unit_test(a_frame_at_the_limit_passes_and_over_it_does_not),
        cmocka_unit_test(unknown_types_and_reserved_bytes_are_refused),
        cmocka_unit_test(a_body_cut_or_too_long_is_not_read),
        cmocka_unit_test(a_string_longer_than_the_frame_does_not_read_past_it),
        cmocka_unit_test(an_error_code_outside_the_list_becomes_internal),
        cmocka_unit_test(a_frame_that_does_not_fit_leaves_the_buffer_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
