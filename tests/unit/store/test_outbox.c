// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <stdio.h>

#include "base/time.h"
#include "loop/loop.h"
#include "scratch.h"
#include "store/catalogue.h"
#include "store/outbox.h"

static char dir[256];
static struct td_store *store;

static int make_dir(void **state) {
    (void)state;
    return scratch_make(dir) ? 0 : -1;
}

static int drop_dir(void **state) {
    (void)state;
    td_store_close(store);
    store = NULL;
    scratch_drop(dir);
    return 0;
}

static void open_store(const struct td_store_options *options) {
    struct td_error e = {0};
    td_store_close(store);
    store = NULL;
    if (td_store_open(dir, options, &store, &e) != TD_OK)
        fail_msg("open: %s", e.message);
}

static struct td_outbox_entry sample(const char *id) {
    return (struct td_outbox_entry){.id = td_str_of(id),
                                    .tenant = TD_STR("acme"),
                                    .conversation = TD_STR("talk"),
                                    .state = TD_OUTBOX_ANSWERED_LOCALLY,
                                    .created_ms = 1000,
                                    .expires_ms = 100000,
                                    .policy_version = 7,
                                    .data_class = TD_CLASS_INTERNAL,
                                    .labels = TD_STR("phi bird"),
                                    .residency = TD_STR("eu"),
                                    .reconcile = TD_STR("take_better"),
                                    .request = TD_STR("{\"question\":\"canary-request\"}"),
                                    .context = TD_STR("{\"canary\":\"context\"}"),
                                    .local = {TD_STR("canary-local"), TD_STR("device"), TD_STR("starter"), 0.35, 1001}};
}

struct seen {
    unsigned count;
    struct td_outbox_entry entry;
    char ids[16][32], labels[64], request[64], context[64], local[64], cloud[64], verdict[32], key[64];
};

static bool on_entry(void *user, const struct td_outbox_entry *x) {
    struct seen *s = user;
    s->entry = *x;
    if (s->count < 16)
        snprintf(s->ids[s->count], 32, "%.*s", TD_STR_ARG(x->id));
    snprintf(s->labels, 64, "%.*s", TD_STR_ARG(x->labels));
    snprintf(s->request, 64, "%.*s", TD_STR_ARG(x->request));
    snprintf(s->context, 64, "%.*s", TD_STR_ARG(x->context));
    snprintf(s->local, 64, "%.*s", TD_STR_ARG(x->local.body));
    snprintf(s->cloud, 64, "%.*s", TD_STR_ARG(x->cloud.body));
    snprintf(s->verdict, 32, "%.*s", TD_STR_ARG(x->verdict));
    snprintf(s->key, 64, "%.*s", TD_STR_ARG(x->idempotency_key));
    s->count++;
    return true;
}

static struct seen look(const char *id) {
    struct seen s = {0};
    assert_ok(td_outbox_get(store, TD_STR_NONE, td_str_of(id), on_entry, &s, NULL));
    return s;
}

#define KEY_A "tdk-0123456789abcdef0123456789abcdef"
#define KEY_B "tdk-0123456789abcdef0123456789abcdee"

static void the_same_request_under_a_clients_key_is_kept_once(void **state) {
    (void)state;
    static const struct {
        const char *id, *tenant, *key;
        enum td_err err;
        const char *twin;
    } rows[] = {
        {"K1", "acme", KEY_A "-1", TD_OK, ""},
        {"K2", "acme", KEY_A "-1", TD_ERR_IN_PROGRESS, "K1"},
        {"K3", "acme", KEY_A "-2", TD_ERR_KEY_REUSED, ""}, // another request
        {"K4", "acme", KEY_B "-1", TD_OK, ""},
        {"K5", "other", KEY_A "-2", TD_OK, ""},
        {"K6", "acme", "", TD_OK, ""},
    };
    char twin[27];
    open_store(NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct td_outbox_entry x = sample(rows[i].id);
        x.tenant = td_str_of(rows[i].tenant);
        x.idempotency_key = td_str_of(rows[i].key);
        x.twin = twin;
        twin[0] = 0;
        assert_int_equal(td_outbox_add(store, &x, NULL, NULL), rows[i].err);
        assert_string_equal(twin, rows[i].twin);
    }
    struct seen s = look("K1");
    assert_string_equal(s.key, KEY_A "-1");
    // One that ended without an answer does not stand in the way.
    assert_ok(td_outbox_move(store, TD_STR("K1"),
                             &(struct td_outbox_move){.from = TD_OUTBOX_ANSWERED_LOCALLY, .to = TD_OUTBOX_DROPPED},
                             NULL, NULL));
    struct td_outbox_entry x = sample("K7");
    x.idempotency_key = TD_STR(KEY_A "-2");
    assert_ok(td_outbox_add(store, &x, NULL, NULL));
}

struct events {
    unsigned count;
    uint64_t ids[64];
    char type[32], data[64], exchange[32];
};

static bool on_event(void *user, const struct td_event_record *r) {
    struct events *x = user;
    if (x->count < 64)
        x->ids[x->count] = r->id;
    snprintf(x->type, 32, "%.*s", TD_STR_ARG(r->type));
    snprintf(x->data, 64, "%.*s", TD_STR_ARG(r->data));
    snprintf(x->exchange, 32, "%.*s", TD_STR_ARG(r->exchange));
    x->count++;
    return true;
}

static void an_entry_walks_the_whole_way(void **state) {
    (void)state;
    struct td_outbox_entry x = sample("E1");
    struct td_outbox_answer cloud = {TD_STR("canary-cloud"), TD_STR("cloud"), TD_STR("big"), 0.9, 2000};
    struct td_outbox_event event = {TD_STR("revision"), TD_STR("{\"canary\":1}")};
    open_store(NULL);
    assert_ok(td_outbox_add(store, &x, NULL, NULL));
    assert_int_equal(td_outbox_add(store, &x, NULL, NULL), TD_ERR_USAGE);
    assert_ok(td_outbox_move(store, x.id,
                             &(struct td_outbox_move){.from = TD_OUTBOX_ANSWERED_LOCALLY, .to = TD_OUTBOX_INTENT_SENT},
                             NULL, NULL));
    // A try that failed goes back to where it came from, later.
    assert_ok(td_outbox_move(store, x.id,
                             &(struct td_outbox_move){.from = TD_OUTBOX_INTENT_SENT,
                                                      .to = TD_OUTBOX_ANSWERED_LOCALLY,
                                                      .attempted = true,
                                                      .next_try_ms = 5000,
                                                      .error = TD_ERR_CONNECT},
                             NULL, NULL));
    struct seen s = look("E1");
    assert_int_equal(s.entry.attempts, 1);
    assert_int_equal(s.entry.next_try_ms, 5000);
    assert_int_equal(s.entry.last_error, TD_ERR_CONNECT);
    assert_ok(td_outbox_move(store, x.id,
                             &(struct td_outbox_move){.from = TD_OUTBOX_ANSWERED_LOCALLY, .to = TD_OUTBOX_INTENT_SENT},
                             NULL, NULL));
    assert_ok(td_outbox_move(
        store, x.id,
        &(struct td_outbox_move){
            .from = TD_OUTBOX_INTENT_SENT, .to = TD_OUTBOX_ANSWERED_BY_CLOUD, .cloud = &cloud, .attempted = true},
        NULL, NULL));
    // Reconciling with nothing accepted is refused.
    assert_int_equal(
        td_outbox_move(store, x.id,
                       &(struct td_outbox_move){.from = TD_OUTBOX_ANSWERED_BY_CLOUD, .to = TD_OUTBOX_RECONCILED}, NULL,
                       NULL),
        TD_ERR_USAGE);
    assert_ok(td_outbox_move(store, x.id,
                             &(struct td_outbox_move){.from = TD_OUTBOX_ANSWERED_BY_CLOUD,
                                                      .to = TD_OUTBOX_RECONCILED,
                                                      .accepted = TD_ACCEPTED_CLOUD,
                                                      .verdict = TD_STR("quality 0.90>0.35"),
                                                      .event = &event},
                             NULL, NULL));
    open_store(NULL);
    s = look("E1");
    assert_int_equal(s.entry.state, TD_OUTBOX_RECONCILED);
    assert_string_equal(s.labels, "phi bird");
    assert_string_equal(s.request, "{\"question\":\"canary-request\"}");
    assert_string_equal(s.context, "{\"canary\":\"context\"}");
    assert_string_equal(s.local, "canary-local"); // both answers are kept
    assert_string_equal(s.cloud, "canary-cloud");
    assert_string_equal(s.verdict, "quality 0.90>0.35");
    assert_int_equal(strlen(s.key), 26);
    assert_int_equal(s.entry.attempts, 2);
    struct events events = {0};
    assert_ok(td_events_after(store, TD_STR("acme"), 0, 10, on_event, &events, NULL));
    assert_int_equal(events.count, 1);
    assert_string_equal(events.type, "revision");
    assert_string_equal(events.data, "{\"canary\":1}");
    assert_string_equal(events.exchange, "E1");
    uint64_t last;
    assert_ok(td_events_last(store, &last, NULL));
    assert_true(last == events.ids[0]);
    // A reader of all tenants' events, and how far it got.
    uint64_t marked;
    events.count = 0;
    assert_ok(td_events_next(store, 0, on_event, &events, NULL));
    assert_int_equal(events.count, 1);
    assert_ok(td_events_next(store, last, on_event, &events, NULL));
    assert_int_equal(events.count, 1);
    assert_ok(td_events_marked(store, "reader", &marked, NULL));
    assert_true(marked == UINT64_MAX);
    assert_ok(td_events_mark(store, "reader", last, NULL));
    open_store(NULL);
    assert_ok(td_events_marked(store, "reader", &marked, NULL));
    assert_true(marked == last);
    assert_ok(td_events_marked(store, "another", &marked, NULL));
    assert_true(marked == UINT64_MAX);
    events.count = 0;
    assert_ok(td_events_after(store, TD_STR("acme"), last, 10, on_event, &events, NULL));
    assert_ok(td_events_after(store, TD_STR("other"), 0, 10, on_event, &events, NULL));
    assert_int_equal(events.count, 0);
    // Texts stand in no file in the clear.
    char command[400];
    snprintf(command, sizeof command, "grep -rq canary '%s'", dir);
    assert_int_not_equal(system(command), 0);
}

static void a_local_answer_that_comes_late_is_kept(void **state) {
    (void)state;
    struct td_outbox_entry x = sample("E1");
    struct td_outbox_answer local = x.local;
    struct td_outbox_move answered = {.from = TD_OUTBOX_QUEUED, .to = TD_OUTBOX_ANSWERED_LOCALLY, .local = &local};
    struct td_outbox_move intent = {.from = TD_OUTBOX_QUEUED, .to = TD_OUTBOX_INTENT_SENT};
    struct td_outbox_move back = {.from = TD_OUTBOX_INTENT_SENT, .to = TD_OUTBOX_QUEUED, .attempted = true};
    x.state = TD_OUTBOX_QUEUED;
    x.local = (struct td_outbox_answer){0};
    open_store(NULL);
    assert_ok(td_outbox_add(store, &x, NULL, NULL));
    assert_ok(td_outbox_move(store, x.id, &intent, NULL, NULL)); // replay was faster
    assert_ok(td_outbox_move(store, x.id, &answered, NULL, NULL));
    struct seen s = look("E1");
    assert_int_equal(s.entry.state, TD_OUTBOX_INTENT_SENT);
    assert_string_equal(s.local, "canary-local");
    assert_int_equal(td_outbox_move(store, x.id, &answered, NULL, NULL), TD_ERR_USAGE); // once
    assert_ok(td_outbox_move(store, x.id, &back, NULL, NULL));
    s = look("E1");
    assert_int_equal(s.entry.state, TD_OUTBOX_ANSWERED_LOCALLY);
    assert_int_equal(s.entry.attempts, 1);
    assert_int_equal(s.entry.bytes, x.request.n + x.context.n + local.body.n);
}

static void only_the_arrows_of_the_diagram_exist(void **state) {
    (void)state;
    static const char *const legal[] = {"queued>answered_locally",
                                        "queued>intent_sent",
                                        "queued>expired",
                                        "queued>rejected",
                                        "queued>dropped",
                                        "answered_locally>intent_sent",
                                        "answered_locally>expired",
                                        "answered_locally>rejected",
                                        "answered_locally>dropped",
                                        "intent_sent>answered_by_cloud",
                                        "intent_sent>queued",
                                        "intent_sent>answered_locally",
                                        "intent_sent>expired",
                                        "intent_sent>rejected",
                                        "intent_sent>dropped",
                                        "answered_by_cloud>reconciled",
                                        "answered_by_cloud>dropped",
                                        "reconciled>reconciled",
                                        "expired>queued",
                                        "expired>answered_locally",
                                        "expired>dropped",
                                        "rejected>queued",
                                        "rejected>answered_locally",
                                        "rejected>dropped"};
    unsigned found = 0;
    for (int a = 0; a < TD_OUTBOX_STATE_COUNT; a++)
        for (int b = 0; b < TD_OUTBOX_STATE_COUNT; b++) {
            char arrow[64];
            bool want = false;
            snprintf(arrow, sizeof arrow, "%s>%s", td_outbox_state_word((enum td_outbox_state)a),
                     td_outbox_state_word((enum td_outbox_state)b));
            for (size_t i = 0; i < sizeof legal / sizeof *legal; i++)
                want |= strcmp(legal[i], arrow) == 0;
            assert_int_equal(td_outbox_move_is_legal((enum td_outbox_state)a, (enum td_outbox_state)b), want);
            found += want;
        }
    assert_int_equal(found, sizeof legal / sizeof *legal);
    // And the store keeps to it: a refused move changes nothing.
    struct td_outbox_entry x = sample("E1");
    open_store(NULL);
    assert_ok(td_outbox_add(store, &x, NULL, NULL));
    for (int b = 0; b < TD_OUTBOX_STATE_COUNT; b++) {
        struct td_outbox_move m = {
            .from = TD_OUTBOX_QUEUED, .to = (enum td_outbox_state)b, .accepted = TD_ACCEPTED_LOCAL};
        assert_int_equal(td_outbox_move(store, x.id, &m, NULL, NULL), TD_ERR_USAGE); // it is not queued
        m.from = TD_OUTBOX_ANSWERED_LOCALLY;
        if (!td_outbox_move_is_legal(m.from, m.to))
            assert_int_equal(td_outbox_move(store, x.id, &m, NULL, NULL), TD_ERR_USAGE);
    }
    assert_int_equal(look("E1").entry.state, TD_OUTBOX_ANSWERED_LOCALLY);
    struct td_outbox_move m = {.from = TD_OUTBOX_QUEUED, .to = TD_OUTBOX_DROPPED};
    assert_int_equal(td_outbox_move(store, TD_STR("nobody"), &m, NULL, NULL), TD_ERR_NOT_FOUND);
}

static void it_is_bounded_in_entries_and_bytes(void **state) {
    (void)state;
    struct td_outbox_entry x = sample("E1");
    uint64_t one = x.request.n + x.context.n + x.local.body.n;
    open_store(&(struct td_store_options){.outbox_entries_max = 2});
    assert_ok(td_outbox_add(store, &x, NULL, NULL));
    x.id = TD_STR("E2");
    assert_ok(td_outbox_add(store, &x, NULL, NULL));
    x.id = TD_STR("E3");
    assert_int_equal(td_outbox_add(store, &x, NULL, NULL), TD_ERR_OVERLOAD);
    open_store(&(struct td_store_options){.outbox_bytes_max = 3 * one});
    assert_ok(td_outbox_add(store, &x, NULL, NULL)); // exactly full
    x.id = TD_STR("E4");
    assert_int_equal(td_outbox_add(store, &x, NULL, NULL), TD_ERR_OVERLOAD);
    struct td_outbox_size size;
    assert_ok(td_outbox_size(store, &size, NULL));
    assert_int_equal(size.entries, 3);
    assert_int_equal(size.bytes, 3 * one);
    assert_int_equal(size.by_state[TD_OUTBOX_ANSWERED_LOCALLY], 3);
    // What is finished gives way, oldest first, and only as much as is needed; what waits never does.
    struct td_outbox_move drop = {.from = TD_OUTBOX_ANSWERED_LOCALLY, .to = TD_OUTBOX_DROPPED};
    assert_ok(td_outbox_move(store, TD_STR("E2"), &drop, NULL, NULL));
    assert_ok(td_outbox_add(store, &x, NULL, NULL));
    assert_int_equal(td_outbox_get(store, x.tenant, TD_STR("E2"), on_entry, &(struct seen){0}, NULL), TD_ERR_NOT_FOUND);
    assert_int_equal(look("E1").entry.state, TD_OUTBOX_ANSWERED_LOCALLY);
    x.id = TD_STR("E5");
    assert_int_equal(td_outbox_add(store, &x, NULL, NULL), TD_ERR_OVERLOAD);
    assert_ok(td_outbox_size(store, &size, NULL));
    assert_int_equal(size.bytes, 3 * one);
    char *big = malloc(TD_OUTBOX_ENTRY_BYTES_MAX + 1);
    assert_non_null(big);
    memset(big, 'b', TD_OUTBOX_ENTRY_BYTES_MAX);
    open_store(NULL);
    x.state = TD_OUTBOX_QUEUED;
    x.local = (struct td_outbox_answer){0};
    x.context = TD_STR("c");
    x.request = td_str_n(big, TD_OUTBOX_ENTRY_BYTES_MAX);
    assert_int_equal(td_outbox_add(store, &x, NULL, NULL), TD_ERR_LIMIT);
    x.request.n--;
    assert_ok(td_outbox_add(store, &x, NULL, NULL));
    // An answer and the event that tells of it are bounded each for itself.
    struct td_outbox_answer answer = {.body = td_str_n(big, TD_OUTBOX_ENTRY_BYTES_MAX), .target = TD_STR("cloud")};
    struct td_outbox_event event = {TD_STR("revision"), td_str_n(big, TD_OUTBOX_ENTRY_BYTES_MAX + 1)};
    struct td_outbox_move sent = {.from = TD_OUTBOX_QUEUED, .to = TD_OUTBOX_INTENT_SENT};
    struct td_outbox_move answered = {
        .from = TD_OUTBOX_INTENT_SENT, .to = TD_OUTBOX_ANSWERED_BY_CLOUD, .cloud = &answer, .event = &event};
    memset(big, 'b', TD_OUTBOX_ENTRY_BYTES_MAX + 1);
    assert_ok(td_outbox_move(store, x.id, &sent, NULL, NULL));
    assert_int_equal(td_outbox_move(store, x.id, &answered, NULL, NULL), TD_ERR_LIMIT);
    event.data.n--;
    answer.body.n++;
    assert_int_equal(td_outbox_move(store, x.id, &answered, NULL, NULL), TD_ERR_LIMIT);
    answer.body.n--;
    assert_ok(td_outbox_move(store, x.id, &answered, NULL, NULL));
    free(big);
}

static void what_is_due_comes_by_priority_and_age(void **state) {
    (void)state;
    static const struct {
        const char *id;
        uint32_t priority;
        int64_t created, next, expires;
    } rows[] = {{"E1", 1, 10, 0, 9000},
                {"E2", 0, 30, 0, 9000},
                {"E3", 0, 20, 0, 9000},
                {"E4", 0, 1, 5000, 9000},
                {"E5", 0, 1, 0, 900}};
    open_store(NULL);
    for (int i = 0; i < 5; i++) {
        struct td_outbox_entry x = sample(rows[i].id);
        x.priority = rows[i].priority;
        x.created_ms = rows[i].created;
        x.next_try_ms = rows[i].next;
        x.expires_ms = rows[i].expires;
        assert_ok(td_outbox_add(store, &x, NULL, NULL));
    }
    struct seen s = {0};
    struct td_outbox_filter due = {.due_ms = 1000};
    assert_ok(td_outbox_list(store, &due, on_entry, &s, NULL));
    assert_int_equal(s.count, 3); // E4 is not due, E5 is over
    assert_string_equal(s.ids[0], "E3");
    assert_string_equal(s.ids[1], "E2");
    assert_string_equal(s.ids[2], "E1");
    assert_string_equal(s.request, ""); // not asked for
    // The sweep ends what is over, tells of it, and a person can bring it back.
    assert_ok(td_outbox_sweep(store, 1000, 100000, 10, NULL, NULL));
    assert_int_equal(look("E5").entry.state, TD_OUTBOX_EXPIRED);
    struct events events = {0};
    assert_ok(td_events_after(store, TD_STR("acme"), 0, 10, on_event, &events, NULL));
    assert_int_equal(events.count, 1);
    assert_string_equal(events.type, "expired");
    assert_ok(td_outbox_sweep(store, 1000, 100000, 10, NULL, NULL)); // once
    events.count = 0;
    assert_ok(td_events_after(store, TD_STR("acme"), 0, 10, on_event, &events, NULL));
    assert_int_equal(events.count, 1);
    assert_ok(td_outbox_retry(store, TD_STR("E5"), 2000, 8000, NULL));
    struct seen back = look("E5");
    assert_int_equal(back.entry.state, TD_OUTBOX_ANSWERED_LOCALLY);
    assert_int_equal(back.entry.expires_ms, 8000);
    assert_int_equal(td_outbox_retry(store, TD_STR("none"), 2000, 8000, NULL), TD_ERR_NOT_FOUND);
    // Finished entries go when they were kept long enough, and make room.
    struct td_outbox_move drop = {.from = TD_OUTBOX_ANSWERED_LOCALLY, .to = TD_OUTBOX_DROPPED};
    assert_ok(td_outbox_move(store, TD_STR("E1"), &drop, NULL, NULL));
    assert_int_equal(td_outbox_retry(store, TD_STR("E1"), 2000, 8000, NULL), TD_ERR_USAGE);
    assert_ok(td_outbox_sweep(store, td_wall_ms() + 1000, 0, 10, NULL, NULL));
    struct td_outbox_size size;
    assert_ok(td_outbox_size(store, &size, NULL));
    assert_int_equal(size.by_state[TD_OUTBOX_DROPPED], 0);
}

struct acked {
    struct td_loop *loop;
    int calls, wrong;
    enum td_err last;
};

static void on_ack(void *arg, enum td_err err) {
    struct acked *a = arg;
    a->last = err;
    if (++a->calls == 100)
        td_loop_stop(a->loop);
}

static void acks_of_many_changes_all_come(void **state) {
    (void)state;
    struct acked a = {.loop = td_loop_create()};
    struct td_ack ack = {a.loop, on_ack, &a};
    open_store(NULL);
    for (int i = 0; i < 100; i++) {
        char id[16];
        snprintf(id, sizeof id, "E%d", i % 50); // each twice: the second is refused
        struct td_outbox_entry x = sample(id);
        assert_ok(td_outbox_add(store, &x, &ack, NULL));
    }
    td_loop_run(a.loop);
    assert_int_equal(a.calls, 100);
    assert_int_equal(a.last, TD_ERR_USAGE);
    struct td_outbox_size size;
    assert_ok(td_outbox_size(store, &size, NULL));
    assert_int_equal(size.entries, 50);
    td_store_close(store);
    store = NULL;
    td_loop_destroy(a.loop);
}

static bool on_model(void *user, const struct td_model_record *m) {
    snprintf(user, 128, "%.*s %.*s %llu", TD_STR_ARG(m->name), TD_STR_ARG(m->path), (unsigned long long)m->bytes);
    return true;
}

static void the_catalogue_refuses_names_that_are_paths(void **state) {
    (void)state;
    static const char *const bad[] = {"",     "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden",
                                      "a/.b", "a\\b",        "a b",  "a%2e",   "-rf",  "a:", ":a"};
    char got[128];
    struct td_model_record m = {.name = TD_STR("org/model-7b:q4_k.m"),
                                .path = TD_STR("/models/x.gguf"),
                                .sha256 = TD_STR("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
                                .source = TD_STR("https://example.com/x.gguf"),
                                .bytes = 12345678901,
                                .added_ms = 1};
    open_store(NULL);
    assert_ok(td_catalogue_put(store, &m, NULL));
    m.bytes = 7;
    assert_ok(td_catalogue_put(store, &m, NULL));
    assert_ok(td_catalogue_get(store, m.name, on_model, got, NULL));
    assert_string_equal(got, "org/model-7b:q4_k.m /models/x.gguf 7");
    struct td_str good = m.name;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        m.name = td_str_of(bad[i]);
        assert_int_equal(td_catalogue_put(store, &m, NULL), TD_ERR_USAGE);
    }
    m.name = TD_STR("x\0y");
    assert_int_equal(td_catalogue_put(store, &m, NULL), TD_ERR_USAGE);
    m.name = good;
    m.sha256.n--;
    assert_int_equal(td_catalogue_put(store, &m, NULL), TD_ERR_USAGE);
    assert_ok(td_catalogue_remove(store, good, NULL));
    assert_int_equal(td_catalogue_remove(store, good, NULL), TD_ERR_NOT_FOUND);
    assert_int_equal(td_catalogue_get(store, good, on_model, got, NULL), TD_ERR_NOT_FOUND);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    struct td_outbox_answer cloud = {TD_STR("cloud answer"), TD_STR("cloud"), TD_STR("big"), 0.9, 2000};
    struct td_outbox_event event = {TD_STR("revision"), TD_STR("{}")};
    bool done = false;
    open_store(NULL);
    for (uint64_t n = 1; !done && n < 500; n++) {
        char id[16];
        struct seen s = {0};
        struct td_error e = {0};
        snprintf(id, sizeof id, "E%d", (int)n);
        struct td_outbox_entry x = sample(id);
        td_alloc_fail_at(n);
        enum td_err err = td_outbox_add(store, &x, NULL, &e);
        if (err == TD_OK)
            err = td_outbox_move(
                store, x.id, &(struct td_outbox_move){.from = TD_OUTBOX_ANSWERED_LOCALLY, .to = TD_OUTBOX_INTENT_SENT},
                NULL, &e);
        if (err == TD_OK)
            err = td_outbox_move(
                store, x.id,
                &(struct td_outbox_move){
                    .from = TD_OUTBOX_INTENT_SENT, .to = TD_OUTBOX_ANSWERED_BY_CLOUD, .cloud = &cloud, .event = &event},
                NULL, &e);
        if (err == TD_OK)
            err = td_outbox_get(store, x.tenant, x.id, on_entry, &s, &e);
        if (err == TD_OK)
            err = td_outbox_sweep(store, 200000, 0, 10, NULL, &e);
        done = td_alloc_count() < n;
        td_alloc_fail_at(0);
        if (err != TD_OK && err != TD_ERR_NOMEM)
            fail_msg("allocation %d: %s", (int)n, e.message);
    }
    assert_true(done);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, make_dir, drop_dir)
    const struct CMUnitTest tests[] = {
        T(an_entry_walks_the_whole_way),
        T(the_same_request_under_a_clients_key_is_kept_once),
        T(a_local_answer_that_comes_late_is_kept),
        T(only_the_arrows_of_the_diagram_exist),
        T(it_is_bounded_in_entries_and_bytes),
        T(what_is_due_comes_by_priority_and_age),
        T(acks_of_many_changes_all_come),
        T(the_catalogue_refuses_names_that_are_paths),
        T(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
