// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <stdio.h>
#include <unistd.h>

#include "local/starved.h"

static void the_groups_counter_is_found(void **state) {
    (void)state;
    static const struct {
        const char *cgroups, *path;
    } rows[] = {
        {"0::/\n", "/R/memory.events"}, // a container's own root
        {"0::/system.slice/tandem.service\n", "/R/system.slice/tandem.service/memory.events"},
        {"0::/a:b/c", "/R/a:b/c/memory.events"},
        {"4:memory:/a\n1:cpu:/b\n0::/c\n", "/R/memory/a/memory.oom_control"},
        {"0::/c\n4:memory:/a\n", "/R/memory/a/memory.oom_control"},
        {"4:memory:/\n1:cpu:/\n0::/\n", "/R/memory.events"}, // of one that is ending
        {"5:memory_other:/a\n", ""},
        {"0::relative\n", ""},
        {"nonsense\n\n::\n:", ""},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char path[64];
        td_starved_path("/R", rows[i].cgroups, path, sizeof path);
        assert_string_equal(path, rows[i].path);
    }
    char small[20];
    td_starved_path("/R", "0::/abc\n", small, sizeof small);
    assert_string_equal(small, "");
    td_starved_path("/R", "0::/ab\n", small, sizeof small);
    assert_string_equal(small, "/R/ab/memory.events");
}

static void the_counter_is_read(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t count;
    } rows[] = {
        {"low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 4\n", 3},
        {"oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", 0},
        {"oom_group_kill 4\n", TD_STARVED_UNKNOWN},
        {"oom_kill x\n", TD_STARVED_UNKNOWN},
        {"", TD_STARVED_UNKNOWN},
    };
    char file[] = "/tmp/tandem-starved-XXXXXX";
    int fd = mkstemp(file);
    assert_true(fd >= 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = strlen(rows[i].text);
        assert_int_equal(ftruncate(fd, 0), 0);
        assert_int_equal(pwrite(fd, rows[i].text, n, 0), n);
        assert_int_equal(td_starved_count(file), rows[i].count);
    }
    close(fd);
    unlink(file);
    assert_int_equal(td_starved_count(file), TD_STARVED_UNKNOWN);
    struct td_starved here;
    td_starved_look(getpid(), &here);
    assert_int_equal(here.machine, td_starved_count("/proc/vmstat"));
    assert_false(td_starved_rose(&here, &here));
}

static struct td_starved look(uint64_t machine, const char *path, uint64_t group) {
    struct td_starved s = {.machine = machine, .group = group};
    snprintf(s.path, sizeof s.path, "%s", path);
    return s;
}

static void one_kill_is_one_guests_end(void **state) {
    (void)state;
    struct td_starved a = look(5, "/a", 1), b = a, c = look(5, "/c", 0), after = look(6, "/a", 2);
    assert_true(td_starved_rose(&a, &after));
    td_starved_forget(&b, &after);
    assert_false(td_starved_rose(&b, &after));
    assert_true(td_starved_rose(&b, &(struct td_starved){7, 3, "/a"}));
    td_starved_forget(&c, &after); // of another group: only the machine's count is of both
    assert_int_equal(c.machine, 6);
    assert_int_equal(c.group, 0);
    struct td_starved elsewhere = look(6, "/a", 1), moved = look(6, "", TD_STARVED_UNKNOWN);
    assert_false(td_starved_rose(&a, &elsewhere)); // killed in another group
    assert_true(td_starved_rose(&a, &moved));      // its group at the end is not known: the machine's count
    struct td_starved blind = look(TD_STARVED_UNKNOWN, "", TD_STARVED_UNKNOWN);
    assert_false(td_starved_rose(&blind, &blind));
    assert_false(td_starved_rose(&a, &blind));
    assert_false(td_starved_rose(&blind, &a));
    td_starved_forget(&blind, &a);
    assert_int_equal(blind.machine, TD_STARVED_UNKNOWN);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_groups_counter_is_found),
        cmocka_unit_test(the_counter_is_read),
        cmocka_unit_test(one_kill_is_one_guests_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
