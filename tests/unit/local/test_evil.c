// SPDX-License-Identifier: Apache-2.0
// A guest that a hostile model has taken over costs its attempts one typed error each, and the house nothing.
#include "unit.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "local.h"

static const char *evil, *tiny;
static char folder[] = "/tmp/tandem-evil-XXXXXX";

// The program's name tells it what to do.
static void open_with(struct house *h, const char *kind, char path[128]) {
    struct td_manager_options options = {.host_path = path, .workers = 1, .hang_ms_max = 600};
    snprintf(path, 128, "%s/%s", folder, kind);
    FILE *from = fopen(evil, "rb"), *to = fopen(path, "wb");
    char bytes[65536];
    assert_true(from && to);
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, from)) > 0;)
        assert_int_equal(fwrite(bytes, 1, n, to), n);
    fclose(from);
    fclose(to);
    assert_int_equal(chmod(path, 0700), 0);
    assert_true(house_open(h, &options));
}

static void what_no_honest_guest_sends_is_a_crash_of_it(void **state) {
    (void)state;
    static const char *const kinds[] = {"garbage", "huge", "ids", "utf8", "tokens", "finish"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct house h;
        struct ask a, b;
        char path[128];
        open_with(&h, kinds[i], path);
        ask_open(&a, &h, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\"}");
        ask_open(&b, &h, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"y\"}");
        assert_ok(ask_start(&a));
        assert_ok(ask_start(&b));
        assert_true(ask_wait(&a, 10000) && ask_wait(&b, 10000));
        assert_int_equal(a.error, TD_ERR_HOST_CRASH);
        assert_int_equal(b.error, TD_ERR_HOST_CRASH);
        assert_int_equal(a.ends, 1);
        assert_int_equal(b.ends, 1);
        ask_close(&a);
        ask_close(&b);
        house_close(&h);
        unlink(path);
    }
}

static void an_end_said_twice_is_heard_once(void **state) {
    (void)state;
    struct house h;
    struct ask a;
    char path[128];
    open_with(&h, "twice", path);
    ask_open(&a, &h, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\"}");
    assert_true(ask_all(&a, 10000));
    uint64_t until = td_now_ns() + 100 * TD_MS_NS;
    while (td_now_ns() < until)
        house_turn(&h);
    assert_int_equal(a.ends, 1);
    ask_close(&a);
    house_close(&h);
    unlink(path);
}

// It can never be reached from there again: it is replaced, so that who asks next does not wait for nothing.
static void a_guest_that_hangs_up_is_replaced(void **state) {
    (void)state;
    struct house h;
    struct ask a;
    char path[128];
    static const char *const prompts[] = {"{\"prompt\":\"x\"}", "{\"prompt\":\"y\"}", "{\"prompt\":\"z\"}"};
    open_with(&h, "hangup", path);
    for (size_t i = 0; i < 3; i++) {
        ask_open(&a, &h, tiny, TD_KIND_COMPLETION, prompts[i]);
        assert_ok(ask_start(&a));
        assert_true(ask_wait(&a, 20000));
        assert_int_equal(a.error, TD_ERR_HOST_CRASH);
        ask_close(&a);
    }
    house_close(&h);
    unlink(path);
}

static void pause_it(struct ask *a) {
    a->house->backend->ops->pause(a->house->backend, a->attempt);
    a->on_delta = NULL;
}

// It does not keep to its credits while the attempt is paused: what is held has a ceiling, then it is ended.
static void a_flood_ends_at_a_ceiling(void **state) {
    (void)state;
    struct house h;
    struct ask a;
    char path[128];
    open_with(&h, "flood", path);
    ask_open(&a, &h, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\"}");
    a.on_delta = pause_it;
    assert_ok(ask_start(&a));
    assert_true(ask_wait(&a, 20000));
    assert_int_equal(a.error, TD_ERR_HOST_CRASH);
    assert_int_equal(a.deltas, 1);
    ask_close(&a);
    house_close(&h);
    unlink(path);
}

int main(int argc, char **argv) {
    if (argc != 3 || !mkdtemp(folder))
        return 2;
    evil = argv[1];
    tiny = argv[2];
    td_log_set_level(TD_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_no_honest_guest_sends_is_a_crash_of_it),
        cmocka_unit_test(an_end_said_twice_is_heard_once),
        cmocka_unit_test(a_guest_that_hangs_up_is_replaced),
        cmocka_unit_test(a_flood_ends_at_a_ceiling),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
