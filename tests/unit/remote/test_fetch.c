// SPDX-License-Identifier: Apache-2.0
// Plain exchanges: downloads that resume, webhooks, and their limits.
#include "drive.h"

static struct drive d;

struct get {
    struct td_fetch_head head;
    char etag[64], location[256];
    struct td_buf body;
    unsigned heads, dones;
    enum td_err err;
    int status;
    uint64_t stop_at; // bytes
};

static bool on_head(void *user, const struct td_fetch_head *head) {
    struct get *g = user;
    g->head = *head;
    g->heads++;
    snprintf(g->etag, sizeof g->etag, "%.*s", TD_STR_ARG(head->etag));
    snprintf(g->location, sizeof g->location, "%.*s", TD_STR_ARG(head->location));
    return true;
}

static bool on_data(void *user, struct td_str bytes) {
    struct get *g = user;
    assert_ok(td_buf_add_str(&g->body, bytes));
    return !g->stop_at || g->body.n < g->stop_at;
}

static void on_done(void *user, enum td_err err, int status, const char *message) {
    struct get *g = user;
    assert_non_null(message);
    g->dones++;
    g->err = err;
    g->status = status;
    d.waiting = 0;
    drive_stop(&d);
}

static int setup(void **state) {
    (void)state;
    drive_open(&d, NULL, NULL);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    drive_close(&d);
    return 0;
}

static int fresh(void **state) {
    (void)state;
    upstream_post(&d.up, "/_reset", "{}");
    return 0;
}

static struct td_fetch_spec spec_of(struct get *g, const char *path) {
    static char url[256];
    *g = (struct get){.stop_at = g->stop_at, .body = g->body};
    if (!g->body.ceiling)
        td_buf_init(&g->body, 64u << 20);
    snprintf(url, sizeof url, "http://127.0.0.1:%u%s", d.up.port, path);
    return (struct td_fetch_spec){.kind = TD_GRANT_MODEL_PULL,
                                  .url = td_str_of(url),
                                  .private_ok = true,
                                  .on_head = on_head,
                                  .on_data = on_data,
                                  .on_done = on_done,
                                  .user = g};
}

static void run(struct td_fetch_spec *spec) {
    struct td_fetch *f;
    struct td_error e = {0};
    spec->grant = drive_grant(&d, spec->kind, spec->url, spec->body);
    if (td_remote_fetch(d.remote, spec, &f, &e) != TD_OK)
        fail_msg("%s", e.message);
    d.waiting = 1;
    drive_run(&d);
    assert_int_equal(((struct get *)spec->user)->dones, 1);
    td_fetch_destroy(f);
}

static void a_download_resumes_where_it_broke_off(void **state) {
    (void)state;
    struct get g = {0}, whole = {0};
    struct td_fetch_spec spec = spec_of(&whole, "/_file/3000000");
    run(&spec);
    assert_int_equal(whole.err, TD_OK);
    assert_int_equal(whole.head.content_length, 3000000);
    assert_int_equal(whole.body.n, 3000000);
    upstream_post(&d.up, "/_script", "{\"queue\":[{\"cut_at_byte\":1000000}]}");
    spec = spec_of(&g, "/_file/3000000");
    run(&spec);
    assert_int_equal(g.err, TD_ERR_CUT);
    assert_int_equal(g.body.n, 1000000);
    spec = spec_of(&g, "/_file/3000000");
    spec.range_from = 1000000;
    spec.if_range = TD_STR("\"v1\"");
    run(&spec);
    assert_int_equal(g.status, 206);
    assert_int_equal(g.head.range_start, 1000000);
    assert_int_equal(g.head.range_total, 3000000);
    assert_true(td_str_eq(td_buf_str(&g.body), td_buf_str(&whole.body)));
    // Another version: the whole file comes.
    td_buf_clear(&g.body);
    spec = spec_of(&g, "/_file/3000000");
    spec.range_from = 1000000;
    spec.if_range = TD_STR("\"v0\"");
    run(&spec);
    assert_int_equal(g.status, 200);
    assert_int_equal(g.body.n, 3000000);
    td_buf_finish(&g.body);
    td_buf_finish(&whole.body);
}

static void the_receiver_can_stop(void **state) {
    (void)state;
    struct get g = {.stop_at = 100000};
    struct td_fetch_spec spec = spec_of(&g, "/_file/30000000");
    run(&spec);
    assert_int_equal(g.err, TD_ERR_CANCELLED);
    assert_true(g.body.n >= 100000 && g.body.n < 400000);
    td_buf_finish(&g.body);
}

static void caps_and_limits_hold(void **state) {
    (void)state;
    struct get g = {0};
    struct td_fetch_spec spec = spec_of(&g, "/_file/100000");
    spec.bytes_max = 100000;
    run(&spec);
    assert_int_equal(g.err, TD_OK);
    spec = spec_of(&g, "/_file/100001");
    spec.bytes_max = 100000;
    run(&spec);
    assert_int_equal(g.err, TD_ERR_UPSTREAM_GARBAGE);
    upstream_post(&d.up, "/_script", "{\"queue\":[{\"hang\":true},{\"hang\":true}]}");
    spec = spec_of(&g, "/_file/10");
    spec.idle_ms = 100;
    run(&spec);
    assert_int_equal(g.err, TD_ERR_IDLE);
    spec = spec_of(&g, "/_file/10");
    spec.total_ms = 100;
    run(&spec);
    assert_int_equal(g.err, TD_ERR_DEADLINE);
    td_buf_finish(&g.body);
}

static void redirects_are_reported(void **state) {
    (void)state;
    struct get g = {0};
    upstream_post(&d.up, "/_script", "{\"queue\":[{\"status\":302,\"location\":\"https://elsewhere.example/x\"}]}");
    struct td_fetch_spec spec = spec_of(&g, "/_file/10");
    run(&spec);
    assert_int_equal(g.err, TD_OK);
    assert_int_equal(g.status, 302);
    assert_string_equal(g.location, "https://elsewhere.example/x");
    td_buf_finish(&g.body);
}

static void a_webhook_arrives(void **state) {
    (void)state;
    struct get g = {0};
    struct td_header headers[] = {{TD_STR("Tandem-Event"), TD_STR("01ABC")}};
    setenv("TD_TEST_HOOK", "hook-key", 1);
    struct td_fetch_spec spec = spec_of(&g, "/_hook/1");
    spec.kind = TD_GRANT_WEBHOOK;
    spec.post = true;
    spec.body = TD_STR("{\"answer\":1}");
    spec.headers = headers;
    spec.header_count = 1;
    spec.auth_ref = TD_STR("env:TD_TEST_HOOK");
    run(&spec);
    assert_int_equal(g.err, TD_OK);
    assert_int_equal(g.status, 200);
    struct td_arena arena;
    td_arena_init(&arena, 1 << 20);
    td_json *seen = yyjson_arr_get_first(upstream_log(&d.up, &arena, 1, 1));
    assert_str(td_json_get_str(seen, "body"), "{\"answer\":1}");
    assert_str(td_json_get_str(td_json_get(seen, "headers"), "tandem-event"), "01ABC");
    assert_str(td_json_get_str(td_json_get(seen, "headers"), "authorization"), "Bearer hook-key");
    td_arena_finish(&arena);
    td_buf_finish(&g.body);
}

static void only_what_was_granted(void **state) {
    (void)state;
    struct get g = {0};
    struct td_fetch *f = NULL;
    struct td_fetch_spec spec = spec_of(&g, "/_hook/1");
    spec.kind = TD_GRANT_WEBHOOK;
    spec.post = true;
    spec.body = TD_STR("{\"answer\":1}");
    assert_int_equal(td_remote_fetch(d.remote, &spec, &f, NULL), TD_ERR_GRANT);
    spec.grant = drive_grant(&d, TD_GRANT_WEBHOOK, spec.url, TD_STR("{\"answer\":2}"));
    assert_int_equal(td_remote_fetch(d.remote, &spec, &f, NULL), TD_ERR_GRANT);
    spec.grant = drive_grant(&d, TD_GRANT_MODEL_PULL, spec.url, spec.body);
    assert_int_equal(td_remote_fetch(d.remote, &spec, &f, NULL), TD_ERR_GRANT);
    spec.grant = drive_grant(&d, TD_GRANT_WEBHOOK, TD_STR("http://127.0.0.1:1/"), spec.body);
    assert_int_equal(td_remote_fetch(d.remote, &spec, &f, NULL), TD_ERR_GRANT);
    // An address on one's own network needs to be asked for.
    spec.private_ok = false;
    spec.grant = drive_grant(&d, TD_GRANT_WEBHOOK, spec.url, spec.body);
    assert_int_equal(td_remote_fetch(d.remote, &spec, &f, NULL), TD_ERR_CONFIG);
    // A header that would split is refused.
    struct td_header bad = {TD_STR("X-A"), TD_STR("1\r\nX-B: 2")};
    spec.private_ok = true;
    spec.headers = &bad;
    spec.header_count = 1;
    spec.grant = drive_grant(&d, TD_GRANT_WEBHOOK, spec.url, spec.body);
    assert_int_equal(td_remote_fetch(d.remote, &spec, &f, NULL), TD_ERR_CONFIG);
    assert_null(f);
    td_buf_finish(&g.body);
}

int main(void) {
#define T(name) cmocka_unit_test_setup(name, fresh)
    const struct CMUnitTest tests[] = {
        T(a_download_resumes_where_it_broke_off),
        T(the_receiver_can_stop),
        T(caps_and_limits_hold),
        T(redirects_are_reported),
        T(a_webhook_arrives),
        T(only_what_was_granted),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
