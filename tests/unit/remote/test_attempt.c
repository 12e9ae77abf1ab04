// SPDX-License-Identifier: Apache-2.0
#include "drive.h"

static struct drive d;

static int setup(void **state) {
    (void)state;
    drive_open(&d, NULL, NULL);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    drive_close(&d);
    return 0;
}

static void script(const char *queue) {
    char text[1024];
    snprintf(text, sizeof text, "{\"queue\":[%s]}", queue);
    upstream_post(&d.up, "/_script", text);
}

static void a_stream_comes_whole(void **state) {
    (void)state;
    struct take t, again;
    drive_once(&d, &t, "hello [tokens=40]");
    assert_int_equal(t.ends, 1);
    assert_int_equal(t.deltas, 40);
    assert_int_equal(t.finishes, 1);
    assert_int_equal(t.usage.completion_tokens, 40);
    assert_true(t.stats.first_ns >= t.stats.connected_ns && t.stats.end_ns >= t.stats.first_ns);
    assert_false(t.stats.reused_connection);
    assert_true(t.stats.bytes_in > 4000 && t.stats.bytes_out > 100);
    drive_once(&d, &again, "hello [tokens=40]");
    assert_int_equal(again.text.n, t.text.n);
    assert_memory_equal(again.text.p, t.text.p, t.text.n);
    assert_true(again.stats.reused_connection);
    take_finish(&t);
    take_finish(&again);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_stream_comes_whole, setup, teardown),
    };
    (void)script;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
