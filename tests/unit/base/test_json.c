// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include "base/json.h"

static struct td_json_pool pool;

static enum td_err both(const char *text, unsigned depth) {
    struct td_arena arena;
    td_json *v;
    struct td_error e;
    td_arena_init(&arena, 1 << 20);
    enum td_err a = td_json_parse(&arena, td_str_of(text), depth, &v, &e);
    enum td_err b = td_json_parse_pooled(&pool, td_str_of(text), depth, &v, &e);
    td_arena_finish(&arena);
    assert_int_equal(a, b);
    return a;
}

static void depth_counts_brackets_outside_of_strings(void **state) {
    (void)state;
    assert_ok(both("[[1]]", 2));
    assert_int_equal(both("[[1]]", 1), TD_ERR_LIMIT);
    assert_int_equal(both("{\"a\":{\"b\":[]}}", 2), TD_ERR_LIMIT);
    assert_ok(both("[[1],[2],[3]]", 2));
    assert_ok(both("[\"[[[[\"]", 1));
    assert_ok(both("[\"\\\"[[[[\"]", 1));
    assert_ok(both("[\"\\\\\"]", 1));
    assert_int_equal(both("[\"\\\\\",[1]]", 1), TD_ERR_LIMIT);     // the string ends behind an escaped backslash
    assert_int_equal(both("[\"\\\\\\\"\",[1]]", 1), TD_ERR_LIMIT); // three backslashes: the quote belongs to it
    assert_int_equal(both("[\"unended [[[", 1), TD_ERR_BAD_JSON);
    assert_int_equal(both("]]]]", 1), TD_ERR_BAD_JSON);
}

static void a_pool_is_used_again(void **state) {
    (void)state;
    td_json *v;
    struct td_buf big;
    td_buf_init(&big, 1 << 20);
    assert_ok(td_buf_addc(&big, '['));
    while (big.n < 200000)
        assert_ok(td_buf_addz(&big, "\"0123456789\","));
    assert_ok(td_buf_addz(&big, "7]"));
    for (int i = 0; i < 3; i++) { // small, too large for keeping, small again
        assert_ok(td_json_parse_pooled(&pool, TD_STR("{\"a\":\"b\",\"n\":[1,2,3]}"), 64, &v, NULL));
        assert_str(td_json_get_str(v, "a"), "b");
        void *kept = pool.memory;
        assert_ok(td_json_parse_pooled(&pool, td_buf_str(&big), 64, &v, NULL));
        assert_int_equal(yyjson_get_int(yyjson_arr_get_last(v)), 7);
        assert_ptr_equal(pool.memory, kept);
        assert_int_equal(td_json_parse_pooled(&pool, TD_STR("{"), 64, &v, NULL), TD_ERR_BAD_JSON);
    }
    td_buf_finish(&big);
    td_json_pool_finish(&pool);
    td_alloc_fail_at(1);
    assert_int_equal(td_json_parse_pooled(&pool, TD_STR("{}"), 64, &v, NULL), TD_ERR_NOMEM);
    td_alloc_fail_at(0);
    assert_ok(td_json_parse_pooled(&pool, TD_STR("{}"), 64, &v, NULL));
}

static void getters_tell_types_apart(void **state) {
    (void)state;
    td_json *v;
    assert_ok(td_json_parse_pooled(
        &pool, TD_STR("{\"s\":\"x\",\"n\":null,\"i\":-3,\"u\":18446744073709551615,\"d\":1.5}"), 64, &v, NULL));
    assert_null(td_json_get(v, "n"));
    assert_null(td_json_get(v, "absent"));
    assert_null(td_json_get(NULL, "s"));
    assert_null(td_json_get_str(v, "i").p);
    assert_null(td_json_str(v).p);
    assert_int_equal(td_json_str(v).n, 0); // an object has a length, too, but no text
    assert_int_equal(td_json_get_int(v, "i", 9), -3);
    assert_int_equal(td_json_get_int(v, "u", 9), 9);
    assert_int_equal(td_json_get_int(v, "d", 9), 9);
    assert_true(td_json_get_num(v, "d", 0) == 1.5);
}

static int finish_pool(void **state) {
    (void)state;
    td_json_pool_finish(&pool);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(depth_counts_brackets_outside_of_strings),
        cmocka_unit_test(a_pool_is_used_again),
        cmocka_unit_test(getters_tell_types_apart),
    };
    return cmocka_run_group_tests(tests, NULL, finish_pool);
}
