// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/time.h"
#include "govern/govern.h"
#include "govern/rate.h"
#include "scratch.h"
#include "store/accounts.h"
#include "store/ledger.h"

#define USD 1000000000ll // nano-dollars
#define DAY_MS 86400000ll

static char dir[256];
static struct td_store *store;
static struct td_govern *g;

static int make_dir(void **state) {
    (void)state;
    return scratch_make(dir) ? 0 : -1;
}

static void open_both(const struct td_govern_config *config) {
    struct td_error e = {0};
    if (td_store_open(dir, NULL, &store, &e) != TD_OK || td_govern_open(store, config, &g, &e) != TD_OK)
        fail_msg("open: %s", e.message);
}

static void close_both(void) {
    td_govern_close(g);
    td_store_close(store);
    g = NULL;
    store = NULL;
}

static int drop_dir(void **state) {
    (void)state;
    close_both();
    scratch_drop(dir);
    return 0;
}

static void a_key_is_shown_once_and_found_by_its_hash(void **state) {
    (void)state;
    char id[TD_KEY_ID_BYTES], key[TD_KEY_TEXT_BYTES], command[400];
    struct td_identity who = {0};
    int64_t now = td_wall_ms();
    open_both(NULL);
    assert_int_equal(td_govern_key_count(g, now), 0);
    assert_ok(td_govern_key_create(g, TD_STR("acme"), TD_STR("laptop"), now, 0, id, key, NULL));
    assert_int_equal(strncmp(key, "td_live_", 8), 0);
    assert_int_equal(strlen(key), TD_KEY_TEXT_BYTES - 1);
    assert_int_equal(td_govern_key_count(g, now), 1);
    for (int restart = 0; restart < 2; restart++) {
        assert_ok(td_govern_identify(g, td_str_of(key), now, &who, NULL));
        assert_string_equal(who.tenant, "acme");
        assert_string_equal(who.key_id, id);
        close_both();
        open_both(NULL);
    }
    // Every single wrong character, a cut and an extension are refused.
    for (size_t i = 0; i < strlen(key); i++) {
        char wrong[TD_KEY_TEXT_BYTES];
        memcpy(wrong, key, sizeof wrong);
        wrong[i] = wrong[i] == 'A' ? 'B' : 'A';
        assert_int_equal(td_govern_identify(g, td_str_of(wrong), now, &who, NULL), TD_ERR_UNAUTHORIZED);
        assert_int_equal(td_govern_identify(g, td_str_n(key, i), now, &who, NULL), TD_ERR_UNAUTHORIZED);
    }
    char longer[TD_KEY_TEXT_BYTES + 1];
    snprintf(longer, sizeof longer, "%sA", key);
    assert_int_equal(td_govern_identify(g, td_str_of(longer), now, &who, NULL), TD_ERR_UNAUTHORIZED);
    assert_int_equal(td_govern_identify(g, TD_STR_NONE, now, &who, NULL), TD_ERR_UNAUTHORIZED);
    // Its text stands in no file.
    snprintf(command, sizeof command, "grep -rq '%s' '%s'", key + 8, dir);
    assert_int_not_equal(system(command), 0);
}

static void a_revoked_or_expired_key_opens_nothing(void **state) {
    (void)state;
    char id[TD_KEY_ID_BYTES], key[TD_KEY_TEXT_BYTES], other_id[TD_KEY_ID_BYTES], other[TD_KEY_TEXT_BYTES];
    struct td_identity who, other_who;
    struct td_ticket ticket;
    uint32_t retry;
    int64_t now = td_wall_ms();
    open_both(NULL);
    assert_int_equal(td_govern_key_create(g, TD_STR("a"), TD_STR(""), now, now, id, key, NULL), TD_ERR_USAGE);
    assert_int_equal(td_govern_key_create(g, TD_STR("a/b"), TD_STR(""), now, 0, id, key, NULL), TD_ERR_USAGE);
    assert_ok(td_govern_key_create(g, TD_STR("acme"), TD_STR(""), now, now + 1000, id, key, NULL));
    assert_ok(td_govern_key_create(g, TD_STR("acme"), TD_STR(""), now, 0, other_id, other, NULL));
    assert_ok(td_govern_identify(g, td_str_of(key), now + 999, &who, NULL));
    assert_int_equal(td_govern_identify(g, td_str_of(key), now + 1000, &who, NULL), TD_ERR_UNAUTHORIZED);
    assert_int_equal(td_govern_key_count(g, now + 999), 2);
    assert_int_equal(td_govern_key_count(g, now + 1000), 1);
    assert_ok(td_govern_identify(g, td_str_of(other), now, &other_who, NULL));
    assert_ok(td_govern_key_revoke(g, td_str_of(other_id), now, NULL));
    // An identity taken before is checked again.
    assert_int_equal(td_govern_admit(g, &other_who, 1, 1, now, &ticket, &retry, NULL), TD_ERR_UNAUTHORIZED);
    assert_int_equal(td_govern_identify(g, td_str_of(other), now, &who, NULL), TD_ERR_UNAUTHORIZED);
    assert_int_equal(td_govern_key_revoke(g, TD_STR("key_none"), now, NULL), TD_ERR_NOT_FOUND);
    close_both();
    open_both(NULL);
    assert_int_equal(td_govern_identify(g, td_str_of(other), now, &who, NULL), TD_ERR_UNAUTHORIZED);
    assert_int_equal(td_govern_key_count(g, now), 1);
}

static void rate_limits_hold_exactly_and_say_when(void **state) {
    (void)state;
    struct td_govern_limit tenants[] = {{.requests_per_min = 60, .tokens_per_min = 6000}};
    struct td_govern_config config = {.tenants = tenants, .tenant_count = 1};
    struct td_identity who;
    struct td_ticket ticket;
    uint32_t retry = 0;
    uint64_t now = 1000 * TD_S_NS;
    open_both(&config);
    td_govern_anonymous(&who);
    for (int i = 0; i < 60; i++)
        assert_ok(td_govern_admit(g, &who, 10, now, 0, &ticket, &retry, NULL));
    assert_int_equal(td_govern_admit(g, &who, 10, now, 0, &ticket, &retry, NULL), TD_ERR_RATE);
    assert_int_equal(retry, 1000); // one a second
    assert_int_equal(td_govern_admit(g, &who, 10, now + 999 * TD_MS_NS, 0, &ticket, &retry, NULL), TD_ERR_RATE);
    assert_ok(td_govern_admit(g, &who, 10, now + 1000 * TD_MS_NS, 0, &ticket, &retry, NULL));
    // Tokens: an answer that was longer than estimated is paid off.
    now += 200 * TD_S_NS;
    assert_ok(td_govern_admit(g, &who, 1000, now, 0, &ticket, &retry, NULL));
    td_govern_finish(g, &ticket, 6000, now);
    assert_int_equal(td_govern_admit(g, &who, 100, now, 0, &ticket, &retry, NULL), TD_ERR_RATE);
    assert_int_equal(retry, 1000);
    // One request larger than a minute's worth waits for a full bucket, not for ever.
    assert_int_equal(td_govern_admit(g, &who, 100000, now, 0, &ticket, &retry, NULL), TD_ERR_RATE);
    assert_int_equal(retry, 60000);
    assert_ok(td_govern_admit(g, &who, 100000, now + 60 * TD_S_NS, 0, &ticket, &retry, NULL));
    // Without limits nothing is refused, and new limits count at once.
    assert_ok(td_govern_configure(g, &(struct td_govern_config){0}, NULL));
    for (int i = 0; i < 1000; i++)
        assert_ok(td_govern_admit(g, &who, 100000, now, 0, &ticket, &retry, NULL));
}

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool open;
};

static void on_ready(void *arg, enum td_err err) {
    struct gate *gate = arg;
    (void)err;
    pthread_mutex_lock(&gate->lock);
    gate->open = true;
    pthread_cond_signal(&gate->cond);
    pthread_mutex_unlock(&gate->lock);
}

// Reserves, waiting for leases where one is under way.
static enum td_err reserve(const struct td_ticket *ticket, const char *target, int64_t nusd, int64_t wall_ms,
                           struct td_hold *hold) {
    for (;;) {
        enum td_err err = td_govern_reserve(g, ticket, td_str_of(target), nusd, wall_ms, hold, NULL);
        if (err != TD_ERR_OVERLOAD)
            return err;
        struct gate gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
        if (td_govern_when_ready(g, &(struct td_ack){NULL, on_ready, &gate}) != TD_OK)
            return TD_ERR_NOMEM;
        pthread_mutex_lock(&gate.lock);
        while (!gate.open)
            pthread_cond_wait(&gate.cond, &gate.lock);
        pthread_mutex_unlock(&gate.lock);
    }
}

static struct td_ticket anonymous_ticket(void) {
    struct td_identity who;
    struct td_ticket ticket;
    uint32_t retry;
    td_govern_anonymous(&who);
    assert_ok(td_govern_admit(g, &who, 1, 1, td_wall_ms(), &ticket, &retry, NULL));
    return ticket;
}

static void a_budget_is_spent_to_its_end_and_not_beyond(void **state) {
    (void)state;
    struct td_govern_limit tenants[] = {{.day_nusd = 1 * USD}},
                           targets[] = {{.name = TD_STR("cloud"), .month_nusd = 3 * USD}};
    struct td_govern_config config = {.tenants = tenants, .tenant_count = 1, .targets = targets, .target_count = 1};
    int64_t now = td_wall_ms();
    open_both(&config);
    struct td_ticket ticket = anonymous_ticket();
    struct td_hold hold;
    int64_t spent = 0;
    enum td_err err;
    while ((err = reserve(&ticket, "cloud", 7000000, now, &hold)) == TD_OK) {
        td_govern_settle(g, &hold, 5000000);
        spent += 5000000;
        assert_true(spent <= 1 * USD);
    }
    assert_int_equal(err, TD_ERR_BUDGET);
    assert_true(spent > 1 * USD - 7000000 - 5000000); // nothing was left lying
    assert_int_equal(td_govern_tenant_left(g, TD_STR("default"), now), 1 * USD - spent);
    assert_int_equal(td_govern_target_left(g, TD_STR("cloud"), now), 3 * USD - spent);
    assert_true(td_govern_target_left(g, TD_STR("other"), now) == INT64_MAX);
    assert_ok(reserve(&ticket, "cloud", 0, now, &hold)); // what costs nothing needs nothing
    td_govern_settle(g, &hold, 0);
    // A clean close gives the leases back: the same sum is left.
    close_both();
    open_both(&config);
    assert_int_equal(td_govern_tenant_left(g, TD_STR("default"), now), 1 * USD - spent);
    assert_int_equal(td_govern_target_left(g, TD_STR("cloud"), now), 3 * USD - spent);
    // A new day, a new budget; a clock that goes back stays in it.
    ticket = anonymous_ticket();
    assert_ok(reserve(&ticket, "cloud", 900000000, now + DAY_MS, &hold));
    td_govern_settle(g, &hold, 900000000);
    assert_int_equal(reserve(&ticket, "cloud", 900000000, now, &hold), TD_ERR_BUDGET);
    // What costs more than was held is charged all the same.
    assert_ok(reserve(&ticket, "cloud", 1000000, now + DAY_MS, &hold));
    td_govern_settle(g, &hold, 300000000);
    assert_int_equal(td_govern_tenant_left(g, TD_STR("default"), now + DAY_MS), 0);
}

static void a_crash_never_over_spends(void **state) {
    (void)state;
    struct td_govern_limit tenants[] = {{.month_nusd = 1 * USD}};
    struct td_govern_config config = {.tenants = tenants, .tenant_count = 1};
    int fds[2];
    int64_t spent = 0, amount, left = 0;
    assert_int_equal(pipe(fds), 0);
    for (int round = 0; round < 4; round++) {
        pid_t child = fork();
        if (child == 0) {
            open_both(&config);
            struct td_ticket ticket = anonymous_ticket();
            struct td_hold hold;
            for (int i = 0; i < 97; i++) {
                if (reserve(&ticket, "cloud", 1000000, td_wall_ms(), &hold) != TD_OK)
                    _exit(1);
                td_govern_settle(g, &hold, 1000000);
                int64_t cost = 1000000;
                if (write(fds[1], &cost, sizeof cost) != sizeof cost)
                    _exit(2);
            }
            kill(getpid(), SIGKILL);
        }
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        for (int i = 0; i < 97; i++) {
            assert_int_equal(read(fds[0], &amount, sizeof amount), sizeof amount);
            spent += amount;
        }
        open_both(&config);
        left = td_govern_tenant_left(g, TD_STR("default"), td_wall_ms());
        assert_true(left <= 1 * USD - spent);                          // never more than there is
        assert_true(left >= 1 * USD - spent - (round + 1) * USD / 25); // a crash costs a lease or two
        close_both();
    }
    close(fds[0]), close(fds[1]);
}

static void a_missing_counter_is_made_from_the_ledger(void **state) {
    (void)state;
    struct td_govern_limit tenants[] = {{.month_nusd = 1 * USD}};
    struct td_govern_config config = {.tenants = tenants, .tenant_count = 1};
    int64_t now = td_wall_ms();
    open_both(NULL);
    struct td_ledger_row row = {.exchange = TD_STR("x"),
                                .attempt = 1,
                                .tenant = TD_STR("default"),
                                .target = TD_STR("cloud"),
                                .wall_ms = now,
                                .cost_nusd = 400000000};
    assert_ok(td_ledger_append(store, &row));
    assert_ok(td_govern_configure(g, &config, NULL));
    assert_int_equal(td_govern_tenant_left(g, TD_STR("default"), now), 600000000);
    close_both();
    // Somebody removes the record: the money is still spent.
    char path[300];
    sqlite3 *c;
    snprintf(path, sizeof path, "%s/tandem.db", dir);
    assert_int_equal(sqlite3_open(path, &c), SQLITE_OK);
    assert_int_equal(sqlite3_exec(c, "DELETE FROM budgets", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(c);
    open_both(&config);
    assert_int_equal(td_govern_tenant_left(g, TD_STR("default"), now), 600000000);
}

static atomic_int_fast64_t total_spent;

static void *spend(void *arg) {
    struct td_ticket ticket = *(struct td_ticket *)arg;
    struct td_hold hold;
    for (int i = 0; i < 2000; i++) {
        enum td_err err = reserve(&ticket, "cloud", 1000000, td_wall_ms(), &hold);
        if (err == TD_ERR_BUDGET)
            continue;
        if (err != TD_OK)
            return arg;
        td_govern_settle(g, &hold, i % 3 ? 1000000 : 400000);
        atomic_fetch_add(&total_spent, i % 3 ? 1000000 : 400000);
    }
    return NULL;
}

static void many_threads_share_a_budget(void **state) {
    (void)state;
    struct td_govern_limit tenants[] = {{.day_nusd = 2 * USD, .month_nusd = 5 * USD}};
    struct td_govern_config config = {.tenants = tenants, .tenant_count = 1};
    pthread_t threads[4];
    open_both(&config);
    struct td_ticket ticket = anonymous_ticket();
    atomic_store(&total_spent, 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, spend, &ticket), 0);
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    int64_t spent = atomic_load(&total_spent);
    assert_true(spent <= 2 * USD);
    assert_true(spent > 2 * USD - 2 * 1000000);
    assert_int_equal(td_govern_tenant_left(g, TD_STR("default"), td_wall_ms()), 2 * USD - spent);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    struct td_govern_limit tenants[] = {{.day_nusd = 2 * USD, .requests_per_min = 5},
                                        {.name = TD_STR("acme"), .month_nusd = USD}};
    struct td_govern_config config = {.tenants = tenants, .tenant_count = 2};
    int64_t now = td_wall_ms();
    char id[TD_KEY_ID_BYTES], key[TD_KEY_TEXT_BYTES];
    assert_ok(td_store_open(dir, NULL, &store, NULL));
    bool done = false;
    for (uint64_t n = 1; !done && n < 500; n++) {
        struct td_error e = {0};
        td_alloc_fail_at(n);
        enum td_err err = td_govern_open(store, &config, &g, &e);
        if (err == TD_OK)
            err = td_govern_key_create(g, TD_STR("acme"), TD_STR(""), now, 0, id, key, &e);
        if (err == TD_OK)
            err = td_govern_configure(g, &config, &e);
        done = td_alloc_count() < n;
        td_alloc_fail_at(0);
        if (err != TD_OK && err != TD_ERR_NOMEM)
            fail_msg("allocation %d: %s", (int)n, e.message);
        td_govern_close(g);
        g = NULL;
    }
    assert_true(done);
    assert_ok(td_govern_open(store, &config, &g, NULL));
    assert_int_equal(td_govern_tenant_left(g, TD_STR("acme"), now), USD);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, make_dir, drop_dir)
    const struct CMUnitTest tests[] = {
        T(a_key_is_shown_once_and_found_by_its_hash),
        T(a_revoked_or_expired_key_opens_nothing),
        T(rate_limits_hold_exactly_and_say_when),
        T(a_budget_is_spent_to_its_end_and_not_beyond),
        T(a_crash_never_over_spends),
        T(a_missing_counter_is_made_from_the_ledger),
        T(many_threads_share_a_budget),
        T(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
