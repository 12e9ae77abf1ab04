// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/time.h"
#include "loop/loop.h"
#include "scratch.h"
#include "store/ledger.h"

static char dir[256];

static int make_dir(void **state) {
    (void)state;
    return scratch_make(dir) ? 0 : -1;
}

static int drop_dir(void **state) {
    (void)state;
    scratch_drop(dir);
    return 0;
}

static struct td_store *open_store(const struct td_store_options *options) {
    struct td_store *store = NULL;
    struct td_error e = {0};
    if (td_store_open(dir, options, &store, &e) != TD_OK)
        fail_msg("open: %s", e.message);
    return store;
}

static struct td_ledger_row sample(const char *exchange) {
    return (struct td_ledger_row){.exchange = td_str_of(exchange),
                                  .attempt = 1,
                                  .tenant = TD_STR("acme"),
                                  .key_id = TD_STR("key_1"),
                                  .wall_ms = 1700000000000,
                                  .mode = TD_MODE_CASCADE,
                                  .reason = TD_REASON_LOCAL_FIRST,
                                  .target = TD_STR("device"),
                                  .model = TD_STR("starter"),
                                  .region = TD_STR("local"),
                                  .tier = TD_TIER_DEVICE,
                                  .provider = TD_PROVIDER_LLAMA,
                                  .data_class = TD_CLASS_CONFIDENTIAL,
                                  .labels = 5,
                                  .policy_version = 0xfedcba9876543210u,
                                  .outcome = TD_OUTCOME_ESCALATED,
                                  .error = TD_ERR_NOT_FOR_ME,
                                  .http_status = 200,
                                  .delivered = true,
                                  .bytes_out = 1234,
                                  .body_mac = {1, 2, 3},
                                  .prompt_tokens = 100,
                                  .completion_tokens = 20,
                                  .cost_nusd = 123456789,
                                  .ttft_us = 30000,
                                  .duration_us = 90000,
                                  .mean_logprob = -0.25f,
                                  .min_logprob = NAN,
                                  .mean_entropy = 1.5f,
                                  .mean_margin = NAN,
                                  .draft_tokens = 20,
                                  .decision = TD_STR("{\"draw\":7}")};
}

struct seen {
    unsigned count;
    struct td_ledger_row row;
    uint64_t numbers[64];
    char target[32], decision[64], exchange[32];
};

static bool on_row(void *user, const struct td_ledger_row *row) {
    struct seen *s = user;
    s->row = *row;
    snprintf(s->target, sizeof s->target, "%.*s", TD_STR_ARG(row->target));
    snprintf(s->decision, sizeof s->decision, "%.*s", TD_STR_ARG(row->decision));
    snprintf(s->exchange, sizeof s->exchange, "%.*s", TD_STR_ARG(row->exchange));
    if (s->count < 64)
        s->numbers[s->count] = row->number;
    s->count++;
    return true;
}

// The rows of an exchange.
static unsigned of_exchange(struct td_store *store, struct td_str exchange, struct seen *seen) {
    struct td_ledger_filter filter = {.exchange = exchange};
    seen->count = 0;
    assert_ok(td_ledger_tail(store, &filter, 100, on_row, seen, NULL));
    return seen->count;
}

static void a_row_comes_back_as_it_was_given(void **state) {
    (void)state;
    struct td_store *store = open_store(NULL);
    struct td_ledger_row row = sample("01ARZ3NDEKTSV4RRFFQ69G5FAV");
    struct seen seen = {0};
    assert_ok(td_ledger_append(store, &row));
    assert_ok(td_store_flush(store, 5000));
    assert_int_equal(of_exchange(store, row.exchange, &seen), 1);
    assert_string_equal(seen.target, "device");
    assert_string_equal(seen.decision, "{\"draw\":7}");
    assert_true(seen.row.policy_version == row.policy_version);
    assert_int_equal(seen.row.reason, TD_REASON_LOCAL_FIRST);
    assert_int_equal(seen.row.outcome, TD_OUTCOME_ESCALATED);
    assert_int_equal(seen.row.error, TD_ERR_NOT_FOR_ME);
    assert_int_equal(seen.row.data_class, TD_CLASS_CONFIDENTIAL);
    assert_int_equal(seen.row.cost_nusd, 123456789);
    assert_true(seen.row.delivered);
    assert_false(seen.row.damaged);
    assert_true(seen.row.mean_logprob == -0.25f);
    assert_true(isnan(seen.row.min_logprob));
    assert_memory_equal(seen.row.body_mac, row.body_mac, 32);
    assert_int_equal(of_exchange(store, TD_STR("nobody"), &seen), 0);
    td_store_close(store);
}

static void caps_hold_at_and_over(void **state) {
    (void)state;
    struct td_store *store = open_store(NULL);
    static char long_text[TD_LEDGER_DECISION_BYTES_MAX + 1];
    memset(long_text, 'x', sizeof long_text);
    struct td_ledger_row row = sample("caps");
    struct seen seen = {0};
    row.decision = td_str_n(long_text, TD_LEDGER_DECISION_BYTES_MAX);
    row.target = td_str_n(long_text, TD_LEDGER_TEXT_BYTES_MAX + 1);
    assert_ok(td_ledger_append(store, &row));
    row.decision.n++;
    assert_ok(td_ledger_append(store, &row));
    assert_ok(td_store_flush(store, 5000));
    assert_ok(td_ledger_tail(store, NULL, 2, on_row, &seen, NULL));
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.row.decision.n, 0); // the second: left out
    assert_int_equal(seen.row.target.n, TD_LEDGER_TEXT_BYTES_MAX);
    struct td_ledger_proof proof;
    assert_ok(td_ledger_verify(store, &proof, NULL));
    assert_int_equal(proof.bad, 0);
    td_store_close(store);
}

struct acked {
    struct td_loop *loop;
    struct td_store *store;
    int calls;
    enum td_err err;
    struct seen seen;
};

static void on_ack(void *arg, enum td_err err) {
    struct acked *a = arg;
    a->calls++;
    a->err = err;
    // Durable means visible to a reader too.
    if (td_ledger_tail(a->store, NULL, 10, on_row, &a->seen, NULL) != TD_OK)
        a->err = TD_ERR_INTERNAL;
    td_loop_stop(a->loop);
}

static void an_ack_comes_on_the_loop_when_the_row_is_committed(void **state) {
    (void)state;
    struct acked a = {.loop = td_loop_create(), .store = open_store(NULL), .err = TD_ERR_INTERNAL};
    struct td_ack ack = {a.loop, on_ack, &a};
    struct td_ledger_row row = sample("acked");
    assert_ok(td_ledger_append_acked(a.store, &row, &ack));
    td_loop_run(a.loop);
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.err, TD_OK);
    assert_int_equal(a.seen.count, 1);
    td_store_close(a.store);
    td_loop_destroy(a.loop);
}

static void numbers_rise_over_restarts_and_tail_filters(void **state) {
    (void)state;
    struct seen seen = {0};
    for (int round = 0; round < 3; round++) {
        struct td_store *store = open_store(NULL);
        for (int i = 0; i < 5; i++) {
            struct td_ledger_row row = sample("numbers");
            row.target = i == 0 ? TD_STR("cloud") : TD_STR("device");
            assert_ok(td_ledger_append(store, &row));
        }
        td_store_close(store);
    }
    struct td_store *store = open_store(NULL);
    assert_ok(td_ledger_tail(store, NULL, 100, on_row, &seen, NULL));
    assert_int_equal(seen.count, 15);
    for (unsigned i = 1; i < 15; i++)
        assert_true(seen.numbers[i] > seen.numbers[i - 1]);
    struct td_ledger_filter filter = {.target = TD_STR("cloud"), .after = seen.numbers[0]};
    seen.count = 0;
    assert_ok(td_ledger_tail(store, &filter, 100, on_row, &seen, NULL));
    assert_int_equal(seen.count, 2);
    td_store_close(store);
}

struct sums {
    unsigned count;
    struct td_ledger_stats device, cloud, total;
};

static bool on_stats(void *user, const struct td_ledger_stats *s) {
    struct sums *sums = user;
    sums->count++;
    *(td_str_is(s->target, "*") ? &sums->total : td_str_is(s->target, "cloud") ? &sums->cloud : &sums->device) = *s;
    return true;
}

static void stats_add_up_before_and_after_a_restart(void **state) {
    (void)state;
    struct td_price price = {.input_nusd = 2500, .output_nusd = 10000};
    for (int round = 0; round < 2; round++) {
        struct td_store *store = open_store(NULL);
        for (int i = 0; round == 0 && i < 1000; i++) {
            struct td_ledger_row row = sample("stats");
            bool cloud = i % 10 == 0;
            row.target = cloud ? TD_STR("cloud") : TD_STR("device");
            row.tier = cloud ? TD_TIER_CLOUD : TD_TIER_DEVICE;
            row.outcome = cloud && i % 20 == 0 ? TD_OUTCOME_CUT : TD_OUTCOME_OK;
            row.delivered = row.outcome == TD_OUTCOME_OK;
            row.cost_nusd = cloud ? 1000000 : 0;
            row.ttft_us = (uint64_t)i * 100;
            row.wall_ms += (int64_t)i * 60000; // over 17 hours
            assert_ok(td_ledger_append(store, &row));
        }
        assert_ok(td_store_flush(store, 5000));
        struct sums sums = {0};
        assert_ok(td_ledger_stats(store, NULL, &price, on_stats, &sums, NULL));
        assert_int_equal(sums.count, 3);
        assert_int_equal(sums.total.attempts, 1000);
        assert_int_equal(sums.device.attempts, 900);
        assert_int_equal(sums.cloud.failed, 50);
        assert_int_equal(sums.cloud.cost_nusd, 100 * 1000000);
        assert_int_equal(sums.total.cloud_alone_nusd, 950ll * (100 * 2500 + 20 * 10000));
        // Percentiles within 5 %.
        assert_true(fabs((double)sums.device.ttft_us_p50 - 50000) < 2500);
        assert_true(fabs((double)sums.device.ttft_us_p95 - 95000) < 4750);
        // Whole hours: 60 rows of one hour.
        struct td_ledger_filter filter = {.since_ms = 1700002800000, .until_ms = 1700006400000};
        sums = (struct sums){0};
        assert_ok(td_ledger_stats(store, &filter, &price, on_stats, &sums, NULL));
        assert_int_equal(sums.total.attempts, 60);
        int64_t spent;
        assert_ok(td_ledger_spent(store, TD_STR("acme"), TD_STR("cloud"), 0, &spent, NULL));
        assert_int_equal(spent, 100 * 1000000);
        assert_ok(td_ledger_spent(store, TD_STR("other"), TD_STR("cloud"), 0, &spent, NULL));
        assert_int_equal(spent, 0);
        td_store_close(store);
    }
}

static void text_is_never_read_as_sql(void **state) {
    (void)state;
    static const char *const evil[] = {"' OR '1'='1", "x'; DROP TABLE ledger; --", "\" OR 1=1 --", "%", "*", "a\\'b"};
    struct td_store *store = open_store(NULL);
    struct td_ledger_row row = sample("honest");
    assert_ok(td_ledger_append(store, &row));
    for (size_t i = 0; i < sizeof evil / sizeof *evil; i++) {
        struct seen seen = {0};
        struct sums sums = {0};
        struct td_ledger_filter filter = {.tenant = td_str_of(evil[i])};
        assert_ok(td_store_flush(store, 5000));
        assert_ok(td_ledger_tail(store, &filter, 10, on_row, &seen, NULL));
        assert_int_equal(seen.count, 0);
        assert_ok(td_ledger_stats(store, &filter, NULL, on_stats, &sums, NULL));
        assert_int_equal(sums.total.attempts, 0);
        assert_int_equal(of_exchange(store, td_str_of(evil[i]), &seen), 0);
        // As a value it goes in and comes out as it is.
        row.exchange = row.tenant = row.target = td_str_of(evil[i]);
        assert_ok(td_ledger_append(store, &row));
        assert_ok(td_store_flush(store, 5000));
        assert_int_equal(of_exchange(store, td_str_of(evil[i]), &seen), 1);
        assert_string_equal(seen.target, evil[i]);
    }
    td_store_close(store);
}

// Runs `sql` on the closed store's file, as somebody who tampers would.
static void tamper(const char *sql) {
    char path[300];
    sqlite3 *c;
    snprintf(path, sizeof path, "%s/tandem.db", dir);
    assert_int_equal(sqlite3_open(path, &c), SQLITE_OK);
    assert_int_equal(sqlite3_exec(c, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(c);
}

// What is handed over between two flushes is one segment.
static void append_pair(struct td_store *store, int64_t wall_ms, int64_t cost_nusd) {
    struct td_ledger_row row = sample("pair");
    struct td_receipt receipt = {.wall_ms = wall_ms, .target = TD_STR("cloud"), .bytes = 10, .body_mac = {9}};
    uint64_t number;
    row.wall_ms = wall_ms;
    row.cost_nusd = cost_nusd;
    assert_ok(td_ledger_append(store, &row));
    assert_ok(td_receipt_append(store, &receipt, NULL, &number));
    assert_ok(td_store_flush(store, 5000));
}

static struct td_ledger_proof prove(struct td_store *store) {
    struct td_ledger_proof proof;
    assert_ok(td_ledger_verify(store, &proof, NULL));
    return proof;
}

static void a_changed_or_missing_record_breaks_the_chain(void **state) {
    (void)state;
    static const struct {
        const char *sql;
        uint64_t bad;
    } cases[] = {
        // A byte of a packed row; what stands beside the packed bytes; a link; a segment gone; two that change places.
        {"UPDATE segments SET records=CAST(substr(records,1,40)||x'00'||substr(records,42) AS BLOB) WHERE last=8", 7},
        {"UPDATE segments SET until_ms=0 WHERE last=8", 7},
        {"UPDATE segments SET from_exchange='a' WHERE last=8", 7},
        {"UPDATE segments SET until_exchange=until_exchange||zeroblob(200) WHERE last=8", 7},
        {"UPDATE segments SET first=6 WHERE last=8", 6},
        {"UPDATE segments SET chain=zeroblob(32) WHERE last=8", 7},
        {"UPDATE segments SET chain=NULL WHERE last=8", 7},
        {"UPDATE segments SET records=NULL WHERE last=8", 7},
        {"DELETE FROM segments WHERE last=8", 9},
        {"UPDATE segments SET last=100 WHERE last=8; UPDATE segments SET last=8 WHERE last=10; "
         "UPDATE segments SET last=10 WHERE last=100",
         9},
    };
    struct td_store *store = open_store(NULL);
    for (int i = 0; i < 10; i++)
        append_pair(store, 1000 + i, 1);
    struct td_ledger_proof whole = prove(store);
    assert_int_equal(whole.rows, 10);
    assert_int_equal(whole.receipts, 10);
    assert_int_equal(whole.bad, 0);
    td_store_close(store);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tamper("CREATE TABLE kept AS SELECT * FROM segments");
        tamper(cases[i].sql);
        store = open_store(NULL);
        struct td_ledger_proof proof = prove(store);
        if (proof.bad != cases[i].bad)
            fail_msg("%s: %d", cases[i].sql, (int)proof.bad);
        struct seen seen = {0};
        assert_ok(td_ledger_tail(store, NULL, 100, on_row, &seen, NULL)); // what can be read is read
        assert_true(seen.count >= 8);
        td_store_close(store);
        tamper("DELETE FROM segments; INSERT INTO segments SELECT * FROM kept; DROP TABLE kept");
    }
    store = open_store(NULL);
    struct td_ledger_proof again = prove(store);
    assert_int_equal(again.bad, 0);
    assert_memory_equal(again.head, whole.head, 32);
    td_store_close(store);
}

static void old_rows_go_and_the_chain_still_holds(void **state) {
    (void)state;
    struct td_store *store = open_store(NULL);
    int64_t nusd;
    for (int i = 0; i < 30; i++)
        append_pair(store, 1000 + i, 7);
    td_store_close(store); // writes the sums out
    store = open_store(NULL);
    assert_ok(td_ledger_prune(store, 1010, 8, NULL, NULL));
    assert_int_equal(prove(store).rows, 26); // a few at a time
    assert_int_equal(prove(store).receipts, 26);
    assert_ok(td_ledger_prune(store, 1010, 1, NULL, NULL)); // what was written together goes together
    assert_int_equal(prove(store).rows, 25);
    for (int i = 0; i < 5; i++)
        assert_ok(td_ledger_prune(store, 1010, 4, NULL, NULL));
    struct td_ledger_proof proof = prove(store);
    assert_int_equal(proof.rows, 20);
    assert_int_equal(proof.receipts, 20);
    assert_int_equal(proof.bad, 0);
    assert_int_equal(proof.pruned, 20);
    assert_ok(td_ledger_prune(store, INT64_MAX, 1000, NULL, NULL)); // the newest stays: the next hangs on it
    assert_int_equal(prove(store).rows, 1);
    append_pair(store, 2000, 1);
    assert_ok(td_ledger_prune(store, INT64_MAX, 1000, NULL, NULL)); // so does what the sums do not cover
    proof = prove(store);
    assert_int_equal(proof.rows, 1);
    assert_int_equal(proof.bad, 0);
    append_pair(store, 2001, 1);
    append_pair(store, 2002, 1);
    assert_ok(td_ledger_prune(store, INT64_MAX, 1000, NULL, NULL));
    assert_int_equal(prove(store).rows, 3);
    assert_ok(td_ledger_spent(store, TD_STR("acme"), TD_STR_NONE, 0, &nusd, NULL));
    assert_int_equal(nusd, 213); // what was spent stays known
    td_store_close(store);
    // A front that somebody else cut off is found, also where he notes it as retention would.
    tamper("UPDATE meta SET value=(SELECT min(last) FROM segments) WHERE name='cut';"
           "UPDATE meta SET value=(SELECT chain FROM segments ORDER BY last LIMIT 1) WHERE name='cut_head';"
           "DELETE FROM segments WHERE last=(SELECT min(last) FROM segments)");
    store = open_store(NULL);
    assert_true(prove(store).bad > 0);
    td_store_close(store);
}

static void numbers_go_on_where_the_newest_segment_ends(void **state) {
    (void)state;
    struct td_store *store = open_store(NULL);
    append_pair(store, 1000, 1);
    td_store_close(store);
    store = open_store(NULL);
    assert_ok(td_ledger_prune(store, INT64_MAX, 1000, NULL, NULL));
    append_pair(store, 1001, 1);
    struct seen seen = {0};
    assert_ok(td_ledger_tail(store, NULL, 100, on_row, &seen, NULL));
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.numbers[1], 3);
    td_store_close(store);
}

static void a_second_process_is_told_who_holds_the_directory(void **state) {
    (void)state;
    struct td_store *store = open_store(&(struct td_store_options){.holder = "tandem serve"});
    char want[64];
    snprintf(want, sizeof want, "pid %ld tandem serve", (long)getpid());
    pid_t child = fork();
    if (child == 0) {
        struct td_store *other = NULL;
        struct td_error e = {0};
        enum td_err err = td_store_open(dir, NULL, &other, &e);
        _exit(err == TD_ERR_LOCKED && strstr(e.message, want) && !other ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    td_store_close(store);
    store = open_store(NULL); // the lock went with its holder
    td_store_close(store);
}

static void files_are_the_owners_alone(void **state) {
    (void)state;
    static const char *const names[] = {"", "/tandem.db", "/tandem.db-wal", "/secret.key", "/handover.ring", "/lock"};
    struct td_store *store = open_store(NULL);
    struct td_ledger_row row = sample("files");
    assert_ok(td_ledger_append(store, &row));
    assert_ok(td_store_flush(store, 5000));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[300];
        struct stat st;
        snprintf(path, sizeof path, "%s%s", dir, names[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 077, 0);
    }
    td_store_close(store);
    struct td_error e = {0};
    assert_int_equal(chmod(dir, 0777), 0);
    assert_int_equal(td_store_open(dir, NULL, &store, &e), TD_ERR_CONFIG);
    assert_int_equal(chmod(dir, 0700), 0);
    // Another secret than the one it was made with is noticed at once.
    char path[300];
    snprintf(path, sizeof path, "%s/secret.key", dir);
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    fputc('?', f), fputc('!', f);
    fclose(f);
    assert_int_equal(td_store_open(dir, NULL, &store, &e), TD_ERR_CONFIG);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(td_store_open(dir, NULL, &store, &e), TD_ERR_CONFIG);
}

static void readers_share_and_change_nothing(void **state) {
    (void)state;
    struct td_store_options read_only = {.read_only = true};
    struct td_store *store = NULL, *other = NULL;
    assert_int_equal(td_store_open(dir, &read_only, &store, NULL), TD_ERR_NOT_FOUND);
    store = open_store(NULL);
    struct td_ledger_row row = sample("read");
    assert_ok(td_ledger_append(store, &row));
    td_store_close(store);
    store = open_store(&read_only);
    assert_ok(td_store_open(dir, &read_only, &other, NULL));
    struct seen seen = {0};
    assert_ok(td_ledger_tail(other, NULL, 10, on_row, &seen, NULL));
    assert_int_equal(seen.count, 1);
    assert_int_equal(td_ledger_append(store, &row), TD_ERR_LEDGER);
    assert_false(td_store_writable(store));
    td_store_close(store);
    td_store_close(other);
}

// In a child of its own: a limit on file size stands for a full disk.
static int full_disk(void) {
    signal(SIGXFSZ, SIG_IGN);
    struct td_store *store = NULL;
    if (td_store_open(dir, &(struct td_store_options){.ring_bytes = 256 << 10}, &store, NULL) != TD_OK)
        return 1;
    struct td_ledger_row row = sample("full");
    unsigned taken = 0;
    if (td_ledger_append(store, &row) != TD_OK || td_store_flush(store, 5000) != TD_OK || !td_store_writable(store))
        return 2;
    taken++;
    struct rlimit was, limit;
    getrlimit(RLIMIT_FSIZE, &was);
    limit = was;
    limit.rlim_cur = 64 << 10;
    setrlimit(RLIMIT_FSIZE, &limit);
    uint64_t until = td_now_ns() + 20 * TD_S_NS;
    while (td_store_writable(store) && td_now_ns() < until) {
        if (td_ledger_append(store, &row) == TD_OK)
            taken++;
        usleep(100);
    }
    if (td_store_writable(store))
        return 3;
    // Rows still go in until the ring is full, then they are refused, not lost silently.
    enum td_err err;
    while ((err = td_ledger_append(store, &row)) == TD_OK)
        taken++;
    if (err != TD_ERR_LEDGER)
        return 4;
    setrlimit(RLIMIT_FSIZE, &was);
    while (!td_store_writable(store) && td_now_ns() < until)
        usleep(1000);
    if (!td_store_writable(store) || td_ledger_append(store, &row) != TD_OK || td_store_flush(store, 5000) != TD_OK)
        return 5;
    taken++;
    struct td_ledger_proof proof;
    if (td_ledger_verify(store, &proof, NULL) != TD_OK || proof.rows != taken || proof.bad)
        return 6;
    struct sums sums = {0}; // turns that failed have not counted their rows twice
    if (td_ledger_stats(store, NULL, NULL, on_stats, &sums, NULL) != TD_OK || sums.total.attempts != taken)
        return 7;
    td_store_close(store);
    return 0;
}

static void a_full_disk_stops_paid_calls_loses_nothing_and_heals(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0)
        _exit(full_disk());
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_true(WIFEXITED(status));
}

static void rows_of_a_killed_process_are_in_the_ledger(void **state) {
    (void)state;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        struct td_store *store = open_store(NULL);
        struct td_ledger_row row = sample("killed");
        for (unsigned i = 0; i < 1000000; i++) {
            if (td_ledger_append(store, &row) != TD_OK)
                usleep(1000), i--;
            else if (write(fds[1], &i, sizeof i) != sizeof i)
                _exit(1);
        }
        _exit(0);
    }
    close(fds[1]);
    unsigned last = 0, got;
    while (read(fds[0], &got, sizeof got) == sizeof got) {
        last = got;
        if (got == 3000)
            kill(child, SIGKILL);
    }
    close(fds[0]);
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status));
    struct td_store *store = open_store(NULL);
    struct td_ledger_proof proof;
    assert_ok(td_ledger_verify(store, &proof, NULL));
    assert_true(proof.rows >= last + 1);
    assert_true(proof.rows <= last + 2); // one may have been handed over and not told
    assert_int_equal(proof.bad, 0);
    td_store_close(store);
}

static void a_clock_that_jumps_back_harms_no_row(void **state) {
    (void)state;
    struct td_store *store = open_store(NULL);
    for (int i = 0; i < 4; i++) {
        struct td_ledger_row row = sample("clock");
        row.wall_ms = i % 2 ? -5000 : 4102444800000;
        assert_ok(td_ledger_append(store, &row));
    }
    assert_ok(td_store_flush(store, 5000));
    struct sums sums = {0};
    struct seen seen = {0};
    assert_ok(td_ledger_stats(store, NULL, NULL, on_stats, &sums, NULL));
    assert_int_equal(sums.total.attempts, 4);
    assert_ok(td_ledger_tail(store, NULL, 10, on_row, &seen, NULL));
    assert_int_equal(seen.count, 4);
    td_store_close(store);
}

// SQLite takes its memory through the program's allocator here, so that its allocations fail as well.
static void *sqlite_malloc(int n) {
    size_t *p = td_malloc(sizeof *p * 2 + (size_t)n);
    if (p)
        *p = (size_t)n;
    return p ? p + 2 : NULL;
}

static void sqlite_free(void *p) {
    td_free((size_t *)p - 2);
}

static void *sqlite_realloc(void *p, int n) {
    size_t *grown = td_realloc((size_t *)p - 2, sizeof *grown * 2 + (size_t)n);
    if (grown)
        *grown = (size_t)n;
    return grown ? grown + 2 : NULL;
}

static int sqlite_size(void *p) {
    return p ? (int)*((size_t *)p - 2) : 0;
}

static int sqlite_round_up(int n) {
    return (n + 7) & ~7;
}

static int sqlite_begin(void *arg) {
    (void)arg;
    return SQLITE_OK;
}

static void sqlite_end(void *arg) {
    (void)arg;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    bool done = false;
    // The first few hundred one by one, SQLite's thousands in growing steps.
    for (uint64_t n = 1; !done && n < 1000000; n += 1 + n / 60) {
        struct td_store *store = NULL;
        struct td_ledger_row row = sample("torture");
        struct sums sums = {0};
        struct td_error e = {0};
        td_alloc_fail_at(n);
        enum td_err err = td_store_open(dir, NULL, &store, &e);
        if (err == TD_OK && td_ledger_append(store, &row) == TD_OK)
            err = td_store_flush(store, 5000);
        if (err == TD_OK)
            err = td_ledger_stats(store, NULL, NULL, on_stats, &sums, &e);
        td_store_close(store);
        done = td_alloc_count() < n;
        td_alloc_fail_at(0);
        if (err != TD_OK && err != TD_ERR_NOMEM)
            fail_msg("allocation %d: %s: %s", (int)n, td_err_text(err), e.message);
    }
    assert_true(done);
    struct td_store *store = open_store(NULL);
    struct td_ledger_proof proof;
    struct sums sums = {0};
    assert_ok(td_ledger_verify(store, &proof, NULL));
    assert_int_equal(proof.bad, 0);
    assert_ok(td_ledger_stats(store, NULL, NULL, on_stats, &sums, NULL));
    assert_int_equal(sums.total.attempts, proof.rows); // sums lost nothing either
    td_store_close(store);
}

int main(void) {
    static const struct sqlite3_mem_methods methods = {sqlite_malloc,   sqlite_free,  sqlite_realloc, sqlite_size,
                                                       sqlite_round_up, sqlite_begin, sqlite_end,     NULL};
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &methods) != SQLITE_OK)
        return 1;
#define T(f) cmocka_unit_test_setup_teardown(f, make_dir, drop_dir)
    const struct CMUnitTest tests[] = {
        T(a_row_comes_back_as_it_was_given),
        T(caps_hold_at_and_over),
        T(an_ack_comes_on_the_loop_when_the_row_is_committed),
        T(numbers_rise_over_restarts_and_tail_filters),
        T(stats_add_up_before_and_after_a_restart),
        T(text_is_never_read_as_sql),
        T(a_changed_or_missing_record_breaks_the_chain),
        T(old_rows_go_and_the_chain_still_holds),
        T(numbers_go_on_where_the_newest_segment_ends),
        T(a_second_process_is_told_who_holds_the_directory),
        T(files_are_the_owners_alone),
        T(readers_share_and_change_nothing),
        T(a_full_disk_stops_paid_calls_loses_nothing_and_heals),
        T(rows_of_a_killed_process_are_in_the_ledger),
        T(a_clock_that_jumps_back_harms_no_row),
        T(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
