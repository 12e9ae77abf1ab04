// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <sys/resource.h>

#include "loop/descriptors.h"

struct keeper {
    struct td_fd_shedder shedder;
    pthread_t on;
    unsigned has, asked;
};

static unsigned shed(void *arg, unsigned max) {
    struct keeper *k = arg;
    unsigned n = k->has < max ? k->has : max;
    assert_true(pthread_equal(pthread_self(), k->on));
    k->has -= n;
    k->asked++;
    return n;
}

static enum td_fd_room room_of_error(int error) {
    errno = error;
    return td_fd_room(-1);
}

static void the_last_ones_are_kept_for_others(void **state) {
    (void)state;
    struct rlimit files, now;
    assert_int_equal(td_fd_room(1000000), TD_FD_PLENTY); // nobody knows the limit yet
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    files.rlim_cur = 100;
    files.rlim_max = 256;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    td_fd_limit_raise();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &now), 0);
    assert_int_equal(now.rlim_cur, 256);
    assert_int_equal(td_fd_room(0), TD_FD_PLENTY);
    assert_int_equal(td_fd_room(191), TD_FD_PLENTY);
    assert_int_equal(td_fd_room(192), TD_FD_TIGHT);
    assert_int_equal(td_fd_room(223), TD_FD_TIGHT);
    assert_int_equal(td_fd_room(224), TD_FD_SHORT);
    assert_int_equal(room_of_error(EMFILE), TD_FD_SHORT);
    assert_int_equal(room_of_error(ENFILE), TD_FD_SHORT);
    assert_int_equal(room_of_error(EAGAIN), TD_FD_PLENTY);
    assert_int_equal(room_of_error(ECONNABORTED), TD_FD_PLENTY);
}

static void *run(void *loop) {
    td_loop_run(loop);
    return NULL;
}

static void take_thread(void *arg) {
    ((struct keeper *)arg)->on = pthread_self();
}

static void stop(void *loop) {
    td_loop_stop(loop);
}

static void the_callers_own_close_at_once_the_others_on_their_thread(void **state) {
    (void)state;
    struct td_loop *mine = td_loop_create(), *other = td_loop_create();
    struct keeper a = {.on = pthread_self(), .has = 100}, b = {.on = pthread_self(), .has = 3}, c = {.has = 100},
                  d = {0};
    pthread_t thread;
    td_fd_shedder_add(&a.shedder, mine, shed, &a);
    td_fd_shedder_add(&b.shedder, mine, shed, &b);
    td_fd_shedder_add(&c.shedder, other, shed, &c);
    td_fd_shedder_add(&d.shedder, other, shed, &d);
    assert_ok(td_loop_post(other, take_thread, &c));
    assert_ok(td_loop_post(other, take_thread, &d));
    unsigned first = td_fd_shed(mine), again = td_fd_shed(mine);
    assert_true(a.has < 100 && a.has > 50); // a few, not all
    assert_int_equal(b.has, 0);
    assert_int_equal(first + again, 100 - a.has + 3);
    assert_int_equal(first - again, 3);
    assert_int_equal(c.asked, 0);
    assert_ok(td_loop_post(other, stop, other));
    assert_int_equal(pthread_create(&thread, NULL, run, other), 0);
    pthread_join(thread, NULL);
    assert_int_equal(c.asked, 1); // though asked for twice
    assert_int_equal(d.asked, 1);
    assert_int_equal(100 - c.has, (100 - a.has) / 2);
    // One that asks without a loop of its own; a keeper that has gone by then is not asked.
    assert_int_equal(td_fd_shed(NULL), 0);
    td_fd_shedder_remove(&c.shedder);
    td_fd_shedder_remove(&c.shedder);
    td_fd_shedder_remove(&d.shedder);
    td_loop_destroy(other);
    assert_int_equal(c.asked, 1);
    td_fd_shedder_remove(&a.shedder);
    td_fd_shedder_remove(&b.shedder);
    td_loop_destroy(mine);
    assert_int_equal(b.asked, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_ones_are_kept_for_others),
        cmocka_unit_test(the_callers_own_close_at_once_the_others_on_their_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
