// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <pthread.h>

#include "loop/loop.h"

struct world {
    struct td_loop *loop;
    int posted, fired;
};

static void on_timer(void *arg) {
    struct world *w = arg;
    w->fired++;
    td_loop_stop(w->loop);
}

static void on_post(void *arg) {
    ((struct world *)arg)->posted++;
}

static void *post_many(void *arg) {
    struct world *w = arg;
    for (int i = 0; i < 1000; i++)
        if (td_loop_post(w->loop, on_post, w) != TD_OK)
            return arg;
    return NULL;
}

static void posts_of_another_thread_all_run(void **state) {
    (void)state;
    struct world w = {td_loop_create(), 0, 0};
    assert_non_null(w.loop);
    struct td_timer *t = td_timer_create(w.loop, on_timer, &w);
    assert_non_null(t);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, post_many, &w), 0);
    void *failed;
    pthread_join(thread, &failed);
    assert_null(failed);
    td_timer_arm(t, 5);
    td_loop_run(w.loop);
    assert_int_equal(w.posted, 1000);
    assert_int_equal(w.fired, 1);
    td_timer_destroy(t);
    td_loop_destroy(w.loop);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(posts_of_another_thread_all_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
