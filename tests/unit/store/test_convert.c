// SPDX-License-Identifier: Apache-2.0
// Stores of schema 1: schema1.sql is one that a program of that time wrote; larger ones are made here.
#include "unit.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/time.h"
#include "scratch.h"
#include "store/journal.h"
#include "store/ledger.h"
#include "store/outbox.h"
#include "store/seal.h"
#include "store/shapes.h"

// The key schema1.sql's chains were made with.
static const char key_hex[] = "bc1f7e29a049c49accc8cab807e9a0dd7cb0115085acca0c0051b4ebb2bf1fbe";
static char dir[256];

static int drop_dir(void **state) {
    (void)state;
    scratch_drop(dir);
    return 0;
}

static sqlite3 *open_file(void) {
    char path[300];
    sqlite3 *c;
    snprintf(path, sizeof path, "%s/tandem.db", dir);
    assert_int_equal(sqlite3_open(path, &c), SQLITE_OK);
    return c;
}

static void sql(sqlite3 *c, const char *text) {
    char *message = NULL;
    if (sqlite3_exec(c, text, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s", message);
}

static int64_t number_from(sqlite3 *c, const char *text) {
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_prepare_v2(c, text, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return n;
}

// A directory with the store of schema1.sql.
static int make_old(void **state) {
    static char text[128 << 10];
    unsigned char key[32];
    char path[300];
    (void)state;
    if (!scratch_make(dir) || sodium_init() < 0)
        return -1;
    snprintf(path, sizeof path, "%s/tests/unit/store/schema1.sql", getenv("ROOT") ? getenv("ROOT") : ".");
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (!f || n == 0 || n == sizeof text - 1 || fclose(f) != 0)
        return -1;
    text[n] = 0;
    snprintf(path, sizeof path, "%s/secret.key", dir);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    if (sodium_hex2bin(key, sizeof key, key_hex, sizeof key_hex - 1, NULL, NULL, NULL) != 0 || fd < 0 ||
        write(fd, key, sizeof key) != sizeof key || close(fd) != 0)
        return -1;
    sqlite3 *c = open_file();
    sql(c, text);
    sqlite3_close(c);
    return 0;
}

static struct td_store *open_store(void) {
    struct td_store *store = NULL;
    struct td_error e = {0};
    if (td_store_open(dir, NULL, &store, &e) != TD_OK)
        fail_msg("open: %s", e.message);
    return store;
}

static struct td_ledger_proof prove(struct td_store *store) {
    struct td_ledger_proof proof;
    assert_ok(td_ledger_verify(store, &proof, NULL));
    return proof;
}

// Holds a row against what schema1.sql's program was given (its 19 rows carry their index in the exchange).
static bool on_old_row(void *user, const struct td_ledger_row *row) {
    unsigned *count = user, i;
    char exchange[32], decision[64] = "";
    if (td_str_is(row->exchange, "last")) {
        assert_int_equal(row->cost_nusd, 1);
        assert_int_equal(*count, 19);
        return false;
    }
    i = ++*count; // the first of its 20 had been deleted by retention
    snprintf(exchange, sizeof exchange, "01JCZX0000000000000000%04u", i);
    if (i % 2)
        snprintf(decision, sizeof decision, "{\"v\":1,\"draw\":%u}", i * 1000003);
    assert_true(td_str_is(row->exchange, exchange));
    assert_true(td_str_is(row->tenant, i % 2 ? "acme" : "globex"));
    assert_true(td_str_is(row->key_id, "key_1"));
    assert_true(td_str_is(row->conversation, "0123456789abcdef"));
    assert_true(td_str_is(row->rule, "phi stays"));
    assert_true(td_str_is(row->target, i % 3 ? "cloud" : "device"));
    assert_true(td_str_is(row->model, "\xc3\xbc"
                                      "ber-model"));
    assert_true(td_str_is(row->decision, decision));
    assert_int_equal(row->wall_ms, 1700000000000 + i * 60000);
    assert_int_equal(row->mode, TD_MODE_CASCADE);
    assert_int_equal(row->reason, TD_REASON_LOCAL_FIRST);
    assert_int_equal(row->tier, i % 3 ? TD_TIER_CLOUD : TD_TIER_DEVICE);
    assert_int_equal(row->provider, TD_PROVIDER_OPENAI);
    assert_int_equal(row->data_class, TD_CLASS_CONFIDENTIAL);
    assert_int_equal(row->labels, 5);
    assert_true(row->policy_version == 0xfedcba9876543210u);
    assert_int_equal(row->outcome, i % 5 ? TD_OUTCOME_OK : TD_OUTCOME_CUT);
    assert_int_equal(row->error, i % 5 ? TD_OK : TD_ERR_NOT_FOR_ME);
    assert_int_equal(row->http_status, 200);
    assert_true(row->damaged == (i % 10 == 0) && row->delivered == (i % 5 != 0));
    assert_true((row->receipt > 0) == (i % 3 != 0));
    assert_int_equal(row->bytes_out, 1234);
    assert_int_equal(row->body_mac[0], i % 3);
    assert_int_equal(row->cost_nusd, i * 1000001);
    assert_int_equal(row->ttft_us, 30000 + i);
    assert_int_equal(row->duration_us, 90000);
    assert_true(row->mean_logprob == -0.25f && isnan(row->min_logprob) && row->mean_entropy == 1.5f);
    assert_int_equal(row->draft_tokens, 20);
    return true;
}

static void assert_all_there(struct td_store *store) {
    unsigned count = 0;
    int64_t nusd;
    struct td_ledger_proof proof = prove(store);
    assert_int_equal(proof.rows, 20);
    assert_int_equal(proof.receipts, 11);
    assert_int_equal(proof.bad, 0);
    assert_int_equal(proof.pruned, 4);
    assert_ok(td_ledger_tail(store, NULL, 1000, on_old_row, &count, NULL));
    assert_int_equal(count, 19);
    assert_ok(td_ledger_spent(store, TD_STR_NONE, TD_STR_NONE, 0, &nusd, NULL));
    assert_int_equal(nusd, 190 * 1000001 + 1);
}

static void every_old_record_is_there_and_proved(void **state) {
    (void)state;
    struct td_store *store = NULL;
    struct td_error e = {0};
    // Who may only read is told so.
    assert_int_equal(td_store_open(dir, &(struct td_store_options){.read_only = true}, &store, &e), TD_ERR_CONFIG);
    for (int i = 0; i < 2; i++) {
        store = open_store();
        assert_all_there(store);
        td_store_close(store);
    }
    sqlite3 *c = open_file();
    assert_int_equal(number_from(c, "PRAGMA user_version"), 3);
    assert_int_equal(number_from(c, "SELECT count(*) FROM sqlite_master WHERE name IN ('ledger','receipts')"), 0);
    assert_int_equal(number_from(c, "SELECT count(*) FROM meta WHERE name LIKE 'cut!_r%' ESCAPE '!'"), 0);
    sqlite3_close(c);
    // And it goes on from there.
    store = open_store();
    struct td_ledger_row row = {.exchange = TD_STR("new"), .attempt = 1, .wall_ms = 1800000000000};
    assert_ok(td_ledger_append(store, &row));
    assert_ok(td_store_flush(store, 5000));
    assert_int_equal(prove(store).rows, 21);
    assert_ok(td_ledger_prune(store, 1750000000000, 1000, NULL, NULL));
    assert_int_equal(prove(store).rows, 1);
    assert_int_equal(prove(store).bad, 0);
    td_store_close(store);
}

static bool on_entry(void *user, const struct td_outbox_entry *x) {
    char(*labels)[64] = user;
    snprintf(labels[td_str_is(x->id, "01JCZX00000000000000000001") ? 0 : 1], 64, "%.*s", TD_STR_ARG(x->labels));
    assert_true(td_str_is(x->request, "{\"model\":\"auto\"}") && td_str_is(x->residency, "eu"));
    return true;
}

static enum td_err name_bits(void *user, uint32_t bits, struct td_buf *out) {
    unsigned *calls = user;
    ++*calls;
    assert_int_equal(bits, 1u << 4 | 1u << 1);
    return td_buf_addz(out, "phi bird");
}

static void labels_of_the_outbox_get_their_names(void **state) {
    (void)state;
    struct td_outbox_filter filter = {.texts = true};
    for (int i = 0; i < 3; i++) {
        char labels[2][64] = {"?", "?"};
        unsigned calls = 0;
        struct td_store *store = open_store();
        assert_ok(td_outbox_list(store, &filter, on_entry, labels, NULL));
        assert_string_equal(labels[0], i < 2 ? "*" : "phi bird"); // never without, and named once
        assert_string_equal(labels[1], "");
        if (i > 0)
            assert_ok(td_outbox_name_labels(store, name_bits, &calls, NULL));
        assert_int_equal(calls, i == 1);
        td_store_close(store);
    }
}

// Rows the old program had handed over and not brought into its tables: version 1 of the packed form, in the ring.
static void an_old_ring_is_taken_too(void **state) {
    (void)state;
    unsigned char packed[TD_RECORD_BYTES_MAX];
    struct td_journal *ring;
    uint64_t number;
    unsigned count = 0;
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY);
    struct td_ledger_row row = {.exchange = TD_STR("ring"),
                                .wall_ms = 1700100000000,
                                .target = TD_STR("cloud"),
                                .cost_nusd = -1,
                                .min_logprob = NAN,
                                .mean_margin = 2.5f};
    sqlite3 *c = open_file();
    int64_t taken = number_from(c, "SELECT value FROM meta WHERE name='taken'");
    sqlite3_close(c);
    assert_ok(td_journal_open(dir_fd, "handover.ring", 1 << 20, &ring, NULL));
    td_journal_restart(ring, (uint64_t)taken); // the first is in the tables already
    for (int i = 0; i < 2; i++) {
        size_t n = td_record_pack_as(&td_shape_row, 1, &row, packed);
        void *room = td_journal_reserve(ring, TD_RECORD_ROW, n, &number);
        assert_non_null(room);
        memcpy(room, packed, n);
        td_journal_commit(room);
    }
    td_journal_close(ring);
    close(dir_fd);
    struct td_store *store = open_store();
    assert_int_equal(prove(store).rows, 21);
    assert_int_equal(prove(store).bad, 0);
    int64_t nusd;
    assert_ok(td_ledger_spent(store, TD_STR_NONE, TD_STR("cloud"), 1700100000000, &nusd, NULL));
    assert_int_equal(nusd, -1);
    assert_ok(td_ledger_tail(store, NULL, 1000, on_old_row, &count, NULL));
    td_store_close(store);
}

static void what_did_not_fit_the_old_chain_does_not_fit_the_new_one(void **state) {
    (void)state;
    static const char *const tampers[] = {
        "UPDATE ledger SET cost_nusd=cost_nusd-1 WHERE number=(SELECT number FROM ledger LIMIT 1 OFFSET 9)",
        "DELETE FROM ledger WHERE number=(SELECT number FROM ledger LIMIT 1 OFFSET 9)",
        "UPDATE receipts SET bytes=7 WHERE number=(SELECT max(number) FROM receipts)",
        "UPDATE meta SET value=value+1 WHERE name='cut_rows_h0'",
        "DELETE FROM ledger WHERE number<10; UPDATE meta SET value=9 WHERE name='cut_rows'",
        "UPDATE ledger SET chain=NULL WHERE number=(SELECT number FROM ledger LIMIT 1 OFFSET 9)",
    };
    for (size_t i = 0; i < sizeof tampers / sizeof *tampers; i++) {
        if (i > 0) {
            drop_dir(state);
            assert_int_equal(make_old(state), 0);
        }
        sqlite3 *c = open_file();
        sql(c, tampers[i]);
        sqlite3_close(c);
        struct td_store *store = open_store();
        if (prove(store).bad == 0)
            fail_msg("%s went unnoticed", tampers[i]);
        struct td_ledger_row row = {.exchange = TD_STR("new"), .wall_ms = 1800000000000};
        assert_ok(td_ledger_append(store, &row));
        td_store_close(store);
        store = open_store();
        assert_true(prove(store).bad > 0 && prove(store).bad < 40); // the break stays where it was
        td_store_close(store);
    }
}

static void every_allocation_may_fail(void **state) {
    bool done = false;
    for (uint64_t n = 1, run = 0; !done; n += 1 + n / 40, run++) {
        struct td_store *store = NULL;
        struct td_error e = {0};
        if (run % 10 == 0) {
            drop_dir(state);
            assert_int_equal(make_old(state), 0);
        }
        td_alloc_fail_at(n);
        enum td_err err = td_store_open(dir, NULL, &store, &e);
        done = td_alloc_count() < n;
        td_alloc_fail_at(0);
        if (err != TD_OK && err != TD_ERR_NOMEM)
            fail_msg("allocation %d: %s", (int)n, e.message);
        td_store_close(store);
        store = open_store();
        assert_all_there(store);
        td_store_close(store);
    }
}

// ---- a larger one, made here

#define MANY 30000

static void old_columns(const struct td_shape *shape, char *out, size_t size) {
    size_t n = 0;
    for (unsigned i = 0; i < shape->count; i++)
        n += (size_t)snprintf(out + n, size - n, ",%s", shape->fields[i].name);
}

static void bind_old(sqlite3_stmt *s, const struct td_shape *shape, const unsigned char *packed, size_t n) {
    struct td_packed it;
    struct td_packed_value v;
    assert_true(td_packed_start(&it, shape, packed, n));
    for (unsigned i = 0; i < shape->count; i++) {
        const struct td_field *f = &shape->fields[i];
        int at = (int)i + 4;
        assert_true(td_packed_next(&it, f, &v));
        if (v.absent)
            sqlite3_bind_null(s, at);
        else if (f->type == TD_FIELD_MAC)
            sqlite3_bind_blob(s, at, v.text.p, 32, SQLITE_STATIC);
        else if (f->type == TD_FIELD_TEXT || f->type == TD_FIELD_BLOB || f->type == TD_FIELD_WORD)
            sqlite3_bind_text(s, at, v.text.p, (int)v.text.n, SQLITE_STATIC);
        else if (f->type == TD_FIELD_F32)
            sqlite3_bind_double(s, at, (double)v.real);
        else
            sqlite3_bind_int64(s, at, v.number);
    }
}

// MANY records of one table, chained as schema 1 did.
static void fill_old(sqlite3 *c, const struct td_shape *shape, const unsigned char key[32], int64_t first) {
    static char columns[4096], marks[1024], text[8192];
    unsigned char head[32] = {0}, packed[TD_RECORD_BYTES_MAX];
    sqlite3_stmt *s;
    old_columns(shape, columns, sizeof columns);
    size_t n = 0;
    for (unsigned i = 0; i < shape->count; i++)
        n += (size_t)snprintf(marks + n, sizeof marks - n, ",?%u", i + 4);
    snprintf(text, sizeof text, "CREATE TABLE %s(number INTEGER PRIMARY KEY, v INTEGER, chain BLOB%s)", shape->table,
             columns);
    sql(c, text);
    snprintf(text, sizeof text, "INSERT INTO %s(number,v,chain%s) VALUES(?1,?2,?3%s)", shape->table, columns, marks);
    assert_int_equal(sqlite3_prepare_v2(c, text, -1, &s, NULL), SQLITE_OK);
    for (int64_t number = first; number < first + 2 * MANY; number += 2) {
        struct td_ledger_row row = {.exchange = TD_STR("many"), .wall_ms = number, .cost_nusd = 3};
        struct td_receipt receipt = {.wall_ms = number, .bytes = 10};
        unsigned char le[8];
        n = td_record_pack_as(shape, 1, shape == &td_shape_row ? (void *)&row : (void *)&receipt, packed);
        crypto_generichash_state state;
        for (int i = 0; i < 8; i++)
            le[i] = (unsigned char)((uint64_t)number >> (8 * i));
        crypto_generichash_init(&state, key, 32, 32);
        crypto_generichash_update(&state, (const unsigned char *)shape->table, strlen(shape->table));
        crypto_generichash_update(&state, head, 32);
        crypto_generichash_update(&state, le, sizeof le);
        crypto_generichash_update(&state, packed, n);
        crypto_generichash_final(&state, head, 32);
        sqlite3_bind_int64(s, 1, number);
        sqlite3_bind_int64(s, 2, 1);
        sqlite3_bind_blob(s, 3, head, 32, SQLITE_STATIC);
        bind_old(s, shape, packed, n);
        assert_int_equal(sqlite3_step(s), SQLITE_DONE);
        sqlite3_reset(s);
    }
    sqlite3_finalize(s);
}

static bool in_order(void *user, const struct td_ledger_row *row) {
    uint64_t *next = user;
    assert_int_equal(row->number, *next);
    assert_int_equal(row->wall_ms, *next);
    *next += 2;
    return true;
}

static void a_kill_at_any_moment_loses_nothing(void **state) {
    (void)state;
    unsigned char secret[32], key[32];
    unsigned kills = 0;
    assert_int_equal(sodium_hex2bin(secret, sizeof secret, key_hex, sizeof key_hex - 1, NULL, NULL, NULL), 0);
    td_secret_derive(secret, TD_SECRET_CHAIN, key);
    sqlite3 *c = open_file();
    sql(c, "PRAGMA journal_mode=WAL; BEGIN; DROP TABLE ledger; DROP TABLE receipts;"
           "DELETE FROM meta WHERE name LIKE 'cut%'; DELETE FROM usage");
    fill_old(c, &td_shape_row, key, 1);
    fill_old(c, &td_shape_receipt, key, 2);
    sql(c, "UPDATE meta SET value=0 WHERE name='rolled'; UPDATE meta SET value=60000 WHERE name='taken'; COMMIT");
    sqlite3_close(c);
    for (useconds_t wait = 2000;; wait += 3000) { // longer each time, so that it comes to an end
        pid_t child = fork();
        if (child == 0) {
            struct td_store *store = NULL;
            _exit(td_store_open(dir, NULL, &store, NULL) == TD_OK ? 0 : 1);
        }
        int status;
        usleep(wait);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status)) {
            assert_int_equal(WEXITSTATUS(status), 0);
            break;
        }
        kills++;
        c = open_file();
        bool over = number_from(c, "SELECT count(*) FROM sqlite_master WHERE name='ledger'") == 0;
        sqlite3_close(c);
        if (over)
            break;
    }
    assert_true(kills > 2);
    struct td_store *store = open_store();
    struct td_ledger_proof proof = prove(store);
    assert_int_equal(proof.rows, MANY);
    assert_int_equal(proof.receipts, MANY);
    assert_int_equal(proof.bad, 0);
    uint64_t next = 1;
    assert_ok(td_ledger_tail(store, NULL, UINT32_MAX, in_order, &next, NULL));
    assert_int_equal(next, 2 * MANY + 1);
    int64_t nusd;
    assert_ok(td_ledger_spent(store, TD_STR_NONE, TD_STR_NONE, 0, &nusd, NULL));
    assert_int_equal(nusd, 3 * MANY);
    td_store_close(store);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, make_old, drop_dir)
    const struct CMUnitTest tests[] = {
        T(every_old_record_is_there_and_proved),
        T(labels_of_the_outbox_get_their_names),
        T(an_old_ring_is_taken_too),
        T(what_did_not_fit_the_old_chain_does_not_fit_the_new_one),
        T(every_allocation_may_fail),
        T(a_kill_at_any_moment_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
