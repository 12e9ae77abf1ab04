// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include "host/place.h"

static void nobody_runs_so_the_longest_shared_then_the_oldest(void **state) {
    (void)state;
    struct host_place p[4] = {{.used = 5}, {.used = 3}, {.used = 9}, {.used = 4}};
    assert_int_equal(host_place_choose(p, 4), 1);
    p[2].shared = p[2].held = 9;
    assert_int_equal(host_place_choose(p, 4), 2);
    p[3].shared = p[3].held = 400;
    assert_int_equal(host_place_choose(p, 4), 3);
}

static void beside_those_that_run(void **state) {
    (void)state;
    struct host_place p[5] = {{.used = 1}, {.used = 2}, {.used = 8}, {.busy = true}, {.used = 9}};
    assert_int_equal(host_place_choose(p, 5), 2); // the older of the two beside it
    p[1].busy = true;
    assert_int_equal(host_place_choose(p, 5), 2); // and what closes a gap before all
    p[2].busy = true;
    assert_int_equal(host_place_choose(p, 5), 0);
    p[0].busy = p[4].busy = true;
    assert_int_equal(host_place_choose(p, 5), -1);
}

static void a_shared_beginning_is_worth_more(void **state) {
    (void)state;
    struct host_place p[4] = {
        {.busy = true}, {.held = 40, .shared = 10}, {.held = 40, .shared = 10}, {.held = 40, .shared = 40}};
    assert_int_equal(host_place_choose(p, 4), 3);
    p[3].shared = 20; // ten tokens more are not
    assert_int_equal(host_place_choose(p, 4), 1);
}

static void a_long_conversation_is_not_lost_for_it(void **state) {
    (void)state;
    struct host_place p[3] = {{.busy = true}, {.held = 2000, .used = 7}, {.held = 2000, .used = 5}};
    assert_int_equal(host_place_choose(p, 3), 2); // by age
    p[1].held = 200;
    assert_int_equal(host_place_choose(p, 3), 1);
    p[1] = (struct host_place){.held = 2000, .shared = 1990}; // its own conversation
    assert_int_equal(host_place_choose(p, 3), 1);
}

// Four slots of which two or three run, ends at random: how many steps libllama makes of each of ours.
static void runs_stay_together(void **state) {
    (void)state;
    uint64_t random = 7, groups = 0, steps = 0;
    struct host_place p[4] = {{0}};
    for (uint64_t turn = 1; turn < 20000; turn++) {
        uint32_t running = 0, drawn[4];
        for (int i = 0; i < 4; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            drawn[i] = (uint32_t)(random >> 33);
            running += p[i].busy;
        }
        for (int i = 0; i < 4; i++)
            if (p[i].busy && drawn[i] % 8 == 0) {
                p[i].busy = false;
                running--;
            }
        for (; running < (turn / 100 % 2 ? 2u : 3u); running++) {
            int32_t at = host_place_choose(p, 4);
            assert_true(at >= 0 && !p[at].busy);
            p[at].busy = true;
            p[at].used = turn;
        }
        for (int i = 0; i < 4; i++)
            groups += p[i].busy && (i == 0 || !p[i - 1].busy);
        steps++;
    }
    print_message("%.2f groups a step\n", (double)groups / (double)steps);
    assert_true((double)groups <= 1.15 * (double)steps); // by age alone 1.5
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_runs_so_the_longest_shared_then_the_oldest),
        cmocka_unit_test(beside_those_that_run),
        cmocka_unit_test(a_shared_beginning_is_worth_more),
        cmocka_unit_test(a_long_conversation_is_not_lost_for_it),
        cmocka_unit_test(runs_stay_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
