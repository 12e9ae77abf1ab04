// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "scratch.h"
#include "store/journal.h"
#include "store/seal.h"

static char dir[256];
static int dir_fd;

static int make_dir(void **state) {
    (void)state;
    if (!scratch_make(dir))
        return -1;
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY);
    return dir_fd >= 0 ? 0 : -1;
}

static int drop_dir(void **state) {
    (void)state;
    close(dir_fd);
    scratch_drop(dir);
    return 0;
}

static struct td_journal *open_ring(size_t bytes) {
    struct td_journal *j = NULL;
    assert_ok(td_journal_open(dir_fd, "ring", bytes, &j, NULL));
    return j;
}

// A record of `n` bytes that can be told from others; false when the ring is full.
static bool put(struct td_journal *j, size_t n, bool commit) {
    uint64_t number;
    unsigned char *p = td_journal_reserve(j, 7, n, &number);
    if (!p)
        return false;
    memset(p, (int)(number & 0xff), n);
    if (commit)
        td_journal_commit(p);
    return true;
}

static void assert_record(const struct td_journal_record *r, uint64_t number) {
    assert_int_equal(r->number, number);
    assert_int_equal(r->kind, 7);
    for (size_t i = 0; i < r->n; i++)
        assert_int_equal(r->p[i], number & 0xff);
}

static void it_goes_round_and_refuses_only_when_full(void **state) {
    (void)state;
    struct td_journal *j = open_ring(64 << 10);
    struct td_journal_record r;
    uint64_t in = 1, out = 1;
    bool waiting;
    td_journal_restart(j, 1);
    uint64_t cursor = td_journal_head(j);
    for (int round = 0; round < 200; round++) {
        unsigned refused_at = 0;
        while (put(j, (in * 37) % 5000, true))
            in++;
        refused_at = td_journal_fill(j);
        assert_true(refused_at > 150); // of 256; the rest may be padding at the end and a record too large for it
        for (int i = 0; i < 5 && td_journal_next(j, &cursor, &r, &waiting); i++)
            assert_record(&r, out++);
        td_journal_release(j, cursor);
    }
    while (td_journal_next(j, &cursor, &r, &waiting))
        assert_record(&r, out++);
    assert_int_equal(in, out);
    assert_int_equal(td_journal_next_number(j), in);
    td_journal_release(j, cursor);
    assert_int_equal(td_journal_fill(j), 0);
    uint64_t number;
    assert_null(td_journal_reserve(j, 7, 33 << 10, &number)); // more than half the ring
    assert_null(td_journal_reserve(j, 7, SIZE_MAX - 10, &number));
    td_journal_close(j);
}

static void records_wait_for_those_before_them(void **state) {
    (void)state;
    struct td_journal *j = open_ring(64 << 10);
    struct td_journal_record r;
    uint64_t number;
    bool waiting;
    td_journal_restart(j, 1);
    uint64_t cursor = td_journal_head(j);
    unsigned char *first = td_journal_reserve(j, 7, 10, &number);
    assert_non_null(first);
    assert_true(put(j, 10, true));
    assert_false(td_journal_next(j, &cursor, &r, &waiting));
    assert_true(waiting);
    memset(first, 1, 10);
    td_journal_commit(first);
    assert_true(td_journal_next(j, &cursor, &r, &waiting));
    assert_record(&r, 1);
    assert_true(td_journal_next(j, &cursor, &r, &waiting));
    assert_record(&r, 2);
    assert_false(td_journal_next(j, &cursor, &r, &waiting));
    assert_false(waiting);
    td_journal_close(j);
}

static void recovery_takes_whole_records_and_steps_over_the_rest(void **state) {
    (void)state;
    struct td_journal *j = open_ring(64 << 10);
    struct td_journal_record r;
    uint64_t lost = 0;
    td_journal_restart(j, 1);
    for (int i = 0; i < 10; i++)
        assert_true(put(j, 100, i != 4)); // number 5 was being copied
    td_journal_close(j);
    // Number 8 is torn: a record takes 160 bytes (header 32, payload 100, padding), so its payload begins at 7 * 160
    // + 32.
    int fd = openat(dir_fd, "ring", O_RDWR);
    assert_int_equal(pwrite(fd, "torn", 4, 4096 + 7 * 160 + 32 + 50), 4);
    close(fd);
    j = open_ring(128 << 10); // another size is taken only once it is empty
    uint64_t cursor = td_journal_head(j);
    static const uint64_t want[] = {1, 2, 3, 4, 6, 7, 9, 10};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_true(td_journal_recover(j, &cursor, &r, &lost));
        assert_record(&r, want[i]);
    }
    assert_false(td_journal_recover(j, &cursor, &r, &lost));
    assert_int_equal(lost, 2);
    td_journal_restart(j, 11);
    cursor = td_journal_head(j);
    assert_false(td_journal_recover(j, &cursor, &r, &lost)); // nothing comes back
    assert_true(put(j, 10, true));
    td_journal_close(j);
}

static void a_nonsense_ring_is_walked_no_further_or_made_anew(void **state) {
    (void)state;
    struct td_journal *j = open_ring(64 << 10);
    struct td_journal_record r;
    uint64_t lost = 0;
    td_journal_restart(j, 1);
    for (int i = 0; i < 10; i++)
        assert_true(put(j, 100, true));
    td_journal_close(j);
    static const unsigned char wild[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f};
    int fd = openat(dir_fd, "ring", O_RDWR);
    assert_int_equal(pwrite(fd, wild, 16, 4096 + 3 * 160), 16); // the fourth record's lengths
    close(fd);
    j = open_ring(64 << 10);
    uint64_t cursor = td_journal_head(j), count = 0;
    while (td_journal_recover(j, &cursor, &r, &lost))
        assert_record(&r, ++count);
    assert_int_equal(count, 3);
    assert_int_equal(lost, 1);
    td_journal_close(j);
    // A file that is no ring, or was cut, holds nothing; it does not keep the store from opening.
    for (int round = 0; round < 2; round++) {
        fd = openat(dir_fd, "ring", O_RDWR);
        if (round == 0)
            assert_int_equal(ftruncate(fd, 5000), 0);
        else
            assert_int_equal(pwrite(fd, "not a ring", 10, 0), 10);
        close(fd);
        j = open_ring(64 << 10);
        cursor = td_journal_head(j);
        assert_false(td_journal_recover(j, &cursor, &r, &lost));
        td_journal_restart(j, 1);
        assert_true(put(j, 10, true));
        td_journal_close(j);
    }
}

static void an_idle_ring_stays_on_its_first_pages(void **state) {
    (void)state;
    struct td_journal *j = open_ring(4 << 20);
    struct td_journal_record r;
    const unsigned char *first = NULL;
    size_t farthest = 0;
    uint64_t number, want = 1;
    bool waiting;
    td_journal_restart(j, 1);
    uint64_t cursor = td_journal_head(j);
    for (int i = 0; i < 20000; i++) {
        unsigned char *p = td_journal_reserve(j, 7, 700, &number);
        assert_non_null(p);
        if (!first)
            first = p;
        if ((size_t)(p - first) > farthest)
            farthest = (size_t)(p - first);
        memset(p, (int)(number & 0xff), 700);
        td_journal_commit(p);
        assert_true(td_journal_next(j, &cursor, &r, &waiting));
        assert_record(&r, want++);
        td_journal_release(j, cursor);
    }
    assert_true(farthest < (1u << 20) + 4096);
    td_journal_close(j);
}

static void *put_many(void *arg) {
    struct td_journal *j = arg;
    for (int i = 0; i < 20000; i++)
        if (!put(j, (size_t)(i % 300), true)) {
            i--;
            usleep(50);
        }
    return NULL;
}

static void many_workers_lose_and_mix_nothing(void **state) {
    (void)state;
    struct td_journal *j = open_ring(64 << 10);
    struct td_journal_record r;
    pthread_t threads[4];
    uint64_t want = 1;
    bool waiting;
    td_journal_restart(j, 1);
    uint64_t cursor = td_journal_head(j);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, put_many, j), 0);
    while (want <= 80000) {
        if (td_journal_next(j, &cursor, &r, &waiting)) {
            assert_record(&r, want++);
            td_journal_release(j, cursor);
        } else {
            usleep(50);
        }
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_false(td_journal_next(j, &cursor, &r, &waiting));
    td_journal_close(j);
}

static void a_sealed_text_opens_only_as_what_it_is(void **state) {
    (void)state;
    unsigned char key[32] = {1}, other[32] = {2};
    struct td_buf sealed, again, plain;
    td_buf_init(&sealed, 1000);
    td_buf_init(&again, 1000);
    td_buf_init(&plain, 1000);
    assert_ok(td_seal(key, TD_STR("request/E1"), TD_STR("secret"), &sealed));
    assert_ok(td_seal(key, TD_STR("request/E1"), TD_STR("secret"), &again));
    assert_int_equal(sealed.n, 6 + TD_SEAL_OVERHEAD_BYTES);
    assert_memory_not_equal(sealed.p, again.p, sealed.n); // fresh nonce
    assert_ok(td_unseal(key, TD_STR("request/E1"), td_buf_str(&sealed), &plain));
    assert_str(td_buf_str(&plain), "secret");
    assert_int_equal(td_unseal(key, TD_STR("request/E2"), td_buf_str(&sealed), &plain), TD_ERR_IO);
    assert_int_equal(td_unseal(key, TD_STR("local/E1"), td_buf_str(&sealed), &plain), TD_ERR_IO);
    assert_int_equal(td_unseal(other, TD_STR("request/E1"), td_buf_str(&sealed), &plain), TD_ERR_IO);
    for (size_t i = 0; i < sealed.n; i++) {
        sealed.p[i] ^= 1;
        assert_int_equal(td_unseal(key, TD_STR("request/E1"), td_buf_str(&sealed), &plain), TD_ERR_IO);
        sealed.p[i] ^= 1;
        assert_int_equal(td_unseal(key, TD_STR("request/E1"), td_str_n(sealed.p, i), &plain), TD_ERR_IO);
    }
    td_buf_finish(&sealed);
    td_buf_finish(&again);
    td_buf_finish(&plain);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, make_dir, drop_dir)
    const struct CMUnitTest tests[] = {
        T(it_goes_round_and_refuses_only_when_full),
        T(records_wait_for_those_before_them),
        T(recovery_takes_whole_records_and_steps_over_the_rest),
        T(a_nonsense_ring_is_walked_no_further_or_made_anew),
        T(an_idle_ring_stays_on_its_first_pages),
        T(many_workers_lose_and_mix_nothing),
        T(a_sealed_text_opens_only_as_what_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
