// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include "base/time.h"
#include "base/wait.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond;

// A condition of the wall clock would take a monotonic time for one long past and not wait at all.
static void a_nap_lasts_by_the_monotonic_clock(void **state) {
    (void)state;
    bool stop = false;
    uint64_t longest = 0;
    for (int i = 0; i < 5 && longest < 20 * TD_MS_NS; i++) { // one or two may be woken for nothing
        uint64_t from = td_now_ns();
        assert_true(td_wait_nap(&cond, &lock, &stop, 20));
        longest = td_now_ns() - from > longest ? td_now_ns() - from : longest;
    }
    assert_true(longest >= 20 * TD_MS_NS);
}

static void a_nap_ends_at_once_when_stopped(void **state) {
    (void)state;
    bool stop = true;
    assert_false(td_wait_nap(&cond, &lock, &stop, 3600000));
}

static void a_time_past_is_not_waited_for(void **state) {
    (void)state;
    pthread_mutex_lock(&lock);
    assert_false(td_wait_until(&cond, &lock, td_now_ns() - 1));
    pthread_mutex_unlock(&lock);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_nap_lasts_by_the_monotonic_clock),
                                       cmocka_unit_test(a_nap_ends_at_once_when_stopped),
                                       cmocka_unit_test(a_time_past_is_not_waited_for)};
    td_wait_init(&cond);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
