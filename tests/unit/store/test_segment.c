// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <math.h>
#include <sodium.h>

#include "store/record.h"
#include "store/segment.h"
#include "store/shapes.h"

static struct td_ledger_row extremes(bool low) {
    return (struct td_ledger_row){.exchange = TD_STR("x"),
                                  .attempt = low ? 0 : UINT32_MAX,
                                  .wall_ms = low ? INT64_MIN : INT64_MAX,
                                  .policy_version = low ? 0 : UINT64_MAX,
                                  .http_status = low ? INT32_MIN : INT32_MAX,
                                  .delivered = !low,
                                  .body_mac = {!low},
                                  .cost_nusd = low ? -1 : 1,
                                  .mean_logprob = low ? NAN : -INFINITY,
                                  .min_logprob = low ? -0.0f : 1e-40f,
                                  .mean_entropy = NAN,
                                  .mean_margin = NAN};
}

static void numbers_survive_both_packed_forms(void **state) {
    (void)state;
    for (unsigned char version = 1; version <= td_shape_row.version; version++)
        for (int low = 0; low < 2; low++) {
            unsigned char packed[TD_RECORD_BYTES_MAX];
            struct td_ledger_row row = extremes(low), back;
            size_t n = td_record_pack_as(&td_shape_row, version, &row, packed);
            assert_int_equal(packed[0], version);
            assert_true(td_record_unpack(&td_shape_row, packed, n, false, &back));
            assert_true(back.wall_ms == row.wall_ms && back.cost_nusd == row.cost_nusd);
            assert_true(back.policy_version == row.policy_version && back.attempt == row.attempt);
            assert_true(back.http_status == row.http_status && back.delivered == row.delivered);
            assert_memory_equal(back.body_mac, row.body_mac, 32);
            assert_true(low ? isnan(back.mean_logprob) : back.mean_logprob == -INFINITY);
            assert_memory_equal(&back.min_logprob, &row.min_logprob, sizeof row.min_logprob);
            assert_true(isnan(back.mean_margin));
            // Cut anywhere it is refused, and nothing behind its end is read.
            for (size_t cut = 0; cut < n; cut++) {
                unsigned char *exact = malloc(cut ? cut : 1);
                assert_non_null(exact);
                memcpy(exact, packed, cut);
                assert_false(td_record_unpack(&td_shape_row, exact, cut, false, &back));
                free(exact);
            }
        }
    // Neither the version before the first nor one to come is guessed at.
    struct td_ledger_row row = {0};
    assert_false(td_record_unpack(&td_shape_row, (const unsigned char *)"\0", 1, false, &row));
    assert_false(td_record_unpack(&td_shape_row, (const unsigned char *)"\xff", 1, false, &row));
}

static void varints_hold_64_bits_and_no_more(void **state) {
    (void)state;
    static const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX / 2, UINT64_MAX};
    static const unsigned char over[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02};
    static const unsigned char longer[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01};
    uint64_t v;
    const unsigned char *at;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        unsigned char bytes[TD_VARINT_BYTES_MAX];
        unsigned char *end = td_varint_put(bytes, values[i]);
        for (at = bytes; at < end; at++) {
            const unsigned char *p = bytes;
            assert_false(td_varint_get(&p, at, &v));
        }
        at = bytes;
        assert_true(td_varint_get(&at, end, &v));
        assert_true(v == values[i] && at == end);
    }
    at = over;
    assert_false(td_varint_get(&at, over + sizeof over, &v));
    at = longer;
    assert_false(td_varint_get(&at, longer + sizeof longer, &v));
}

static enum td_err add(struct td_segment_draft *d, uint64_t number, uint32_t kind, size_t n, int64_t wall_ms,
                       const char *exchange) {
    static unsigned char bytes[TD_RECORD_BYTES_MAX];
    memset(bytes, (int)number, n);
    return td_segment_add(d, &(struct td_journal_record){number, kind, bytes, n}, wall_ms, td_str_of(exchange));
}

static void a_segment_gives_back_what_it_took(void **state) {
    (void)state;
    static const struct {
        uint64_t number;
        uint32_t kind;
        size_t n;
        int64_t wall_ms;
        const char *exchange;
    } in[] = {{5, 1, 10, 700, "m"},
              {6, 2, 0, 600, ""},
              {9, 77, 300, 900, ""}, // of a kind that is not known here
              {1ull << 62, 1, 1, -3, "b"},
              {UINT64_MAX, 1, 20000, 800, "mm"}};
    struct td_segment_draft d;
    struct td_segment_reader it;
    struct td_journal_record r;
    td_segment_init(&d);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < 5; i++)
            assert_ok(add(&d, in[i].number, in[i].kind, in[i].n, in[i].wall_ms, in[i].exchange));
        assert_true(d.s.first == 5 && d.s.last == UINT64_MAX);
        assert_true(d.s.from_ms == -3 && d.s.until_ms == 900);
        assert_true(td_str_is(d.s.from_exchange, "b") && td_str_is(d.s.until_exchange, "mm"));
        td_segment_read(&it, &d.s);
        for (size_t i = 0; i < 5; i++) {
            assert_true(td_segment_next(&it, &r));
            assert_true(r.number == in[i].number && r.kind == in[i].kind && r.n == in[i].n);
            for (size_t k = 0; k < r.n; k++)
                assert_int_equal(r.p[k], (unsigned char)r.number);
        }
        assert_false(td_segment_next(&it, &r));
        assert_true(it.sound);
        if (round == 0)
            td_segment_clear(&d);
    }
    // Cut anywhere: whole records come, then it says that it is not sound.
    for (size_t cut = 0; cut < d.s.records.n; cut += 1 + cut / 50) {
        char *exact = malloc(cut ? cut : 1);
        struct td_segment s = d.s;
        assert_non_null(exact);
        memcpy(exact, d.s.records.p, cut);
        s.records = td_str_n(exact, cut);
        td_segment_read(&it, &s);
        while (td_segment_next(&it, &r))
            assert_true(r.n == 0 || r.p + r.n <= (unsigned char *)exact + cut);
        assert_true(!it.sound || it.number < UINT64_MAX);
        free(exact);
    }
    td_segment_finish(&d);
}

static void a_full_one_begins_another(void **state) {
    (void)state;
    struct td_segment_draft d;
    td_segment_init(&d);
    uint64_t number = 1;
    assert_true(td_segment_has_room(&d, TD_RECORD_BYTES_MAX)); // an empty one takes any record
    while (td_segment_has_room(&d, 1000))
        assert_ok(add(&d, number++, 1, 1000, 0, "x"));
    assert_true(d.s.records.n <= TD_SEGMENT_BYTES_MAX + 3 * TD_VARINT_BYTES_MAX);
    assert_true(d.s.records.n > TD_SEGMENT_BYTES_MAX - 2000);
    td_segment_finish(&d);
}

static void a_link_covers_everything(void **state) {
    (void)state;
    static const unsigned char key[32] = {1}, other[32] = {2};
    struct td_segment s = {.first = 1,
                           .last = 2,
                           .from_ms = 3,
                           .until_ms = 4,
                           .from_exchange = TD_STR("a"),
                           .until_exchange = TD_STR("b"),
                           .records = TD_STR("abc")};
    unsigned char first[32] = {0}, head[32];
    td_segment_link(key, &s, first);
    for (int i = 0; i < 10; i++) {
        struct td_segment t = s;
        memset(head, 0, 32);
        if (i == 0)
            t.first++;
        else if (i == 1)
            t.last++;
        else if (i == 2)
            t.from_ms++;
        else if (i == 3)
            t.until_ms++;
        else if (i == 4)
            t.from_exchange = TD_STR("ab"), t.until_exchange = TD_STR_NONE; // the same bytes in a row
        else if (i == 5)
            t.until_exchange = TD_STR("c");
        else if (i == 6)
            t.records = TD_STR("abd");
        else if (i == 7)
            t.records = TD_STR("ab");
        else if (i == 8)
            head[31] = 1;
        td_segment_link(i == 9 ? other : key, &t, head);
        assert_memory_not_equal(head, first, 32);
    }
    memset(head, 0, 32);
    td_segment_link(key, &s, head);
    assert_memory_equal(head, first, 32);
}

int main(void) {
    if (sodium_init() < 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_survive_both_packed_forms), cmocka_unit_test(varints_hold_64_bits_and_no_more),
        cmocka_unit_test(a_segment_gives_back_what_it_took), cmocka_unit_test(a_full_one_begins_another),
        cmocka_unit_test(a_link_covers_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
