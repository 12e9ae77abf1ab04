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

struct order {
    struct td_loop *loop;
    struct td_post posts[3];
    char seen[8];
    size_t n;
};

static void third(void *arg) {
    struct order *o = arg;
    o->seen[o->n++] = '3';
    td_loop_stop(o->loop);
}

static void first(void *arg) {
    struct order *o = arg;
    o->seen[o->n++] = '1';
    td_loop_later(o->loop, &o->posts[2], third, o); // put in while the others run: after them
}

static void second(void *arg) {
    struct order *o = arg;
    o->seen[o->n++] = '2';
}

static void begin(void *arg) {
    struct order *o = arg;
    td_loop_later(o->loop, &o->posts[0], first, o);
    td_loop_later(o->loop, &o->posts[1], second, o);
    o->seen[o->n++] = '0'; // what is under way goes on first
}

static void later_is_in_order_and_after_what_is_ready(void **state) {
    (void)state;
    struct order o = {.loop = td_loop_create()};
    assert_non_null(o.loop);
    assert_ok(td_loop_post(o.loop, begin, &o));
    td_loop_run(o.loop);
    assert_string_equal(o.seen, "0123");
    td_loop_destroy(o.loop);
}

static void on_breath(void *arg) {
    ++*(int *)arg;
}

static void a_breath_comes_every_few_calls(void **state) {
    (void)state;
    struct td_loop *loop = td_loop_create();
    int breaths = 0, calls = 0;
    assert_non_null(loop);
    td_loop_breathe(loop); // nobody wants to know
    td_loop_on_breath(loop, on_breath, &breaths);
    while (breaths < 3 && calls < 1000)
        td_loop_breathe(loop), calls++;
    assert_int_equal(breaths, 3);
    assert_in_range(calls, 3, 3 * 64);
    td_loop_on_breath(loop, NULL, NULL);
    for (int i = 0; i < 100; i++)
        td_loop_breathe(loop);
    assert_int_equal(breaths, 3);
    td_loop_destroy(loop);
}

static void count_run(void *arg) {
    (*(int *)arg)++;
}

// What is let go in the last turn must be let go.
static void later_runs_also_when_the_loop_ends(void **state) {
    (void)state;
    struct td_post post;
    int runs = 0;
    struct td_loop *loop = td_loop_create();
    assert_non_null(loop);
    td_loop_later(loop, &post, count_run, &runs);
    td_loop_destroy(loop);
    assert_int_equal(runs, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_breath_comes_every_few_calls),
                                       cmocka_unit_test(posts_of_another_thread_all_run),
                                       cmocka_unit_test(later_is_in_order_and_after_what_is_ready),
                                       cmocka_unit_test(later_runs_also_when_the_loop_ends)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
