// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include "base/time.h"
#include "base/wait.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond;

static void *until_stopped(void *arg) {
    struct td_side *side = arg;
    pthread_mutex_lock(&side->lock);
    while (!side->stop)
        pthread_cond_wait(&side->cond, &side->lock);
    pthread_mutex_unlock(&side->lock);
    return NULL;
}

// A condition of the wall clock would take a monotonic time for one long past and not wait at all.
static void a_nap_lasts_by_the_monotonic_clock(void **state) {
    (void)state;
    struct td_side side;
    uint64_t longest = 0;
    assert_int_equal(td_side_start(&side, "test", until_stopped, &side), TD_OK);
    for (int i = 0; i < 5 && longest < 20 * TD_MS_NS; i++) { // one or two may be woken for nothing
        uint64_t from = td_now_ns();
        assert_true(td_side_nap(&side, 20));
        longest = td_now_ns() - from > longest ? td_now_ns() - from : longest;
    }
    assert_true(longest >= 20 * TD_MS_NS);
    td_side_stop(&side);
}

struct napper {
    struct td_side side;
    bool told; // what its nap said
};

static void *nap_long(void *arg) {
    struct napper *n = arg;
    n->told = td_side_nap(&n->side, 3600000);
    return NULL;
}

// Whether the nap has begun by then or not.
static void a_nap_ends_when_stopped(void **state) {
    (void)state;
    struct napper n = {.told = true};
    assert_int_equal(td_side_start(&n.side, "test", nap_long, &n), TD_OK);
    td_side_stop(&n.side);
    assert_false(n.told);
}

static void a_time_past_is_not_waited_for(void **state) {
    (void)state;
    pthread_mutex_lock(&lock);
    assert_false(td_wait_until(&cond, &lock, td_now_ns() - 1));
    pthread_mutex_unlock(&lock);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_nap_lasts_by_the_monotonic_clock),
                                       cmocka_unit_test(a_nap_ends_when_stopped),
                                       cmocka_unit_test(a_time_past_is_not_waited_for)};
    td_wait_init(&cond);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
