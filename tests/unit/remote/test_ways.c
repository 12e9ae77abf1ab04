// SPDX-License-Identifier: Apache-2.0
// The ways there: TLS, client certificates, proxies, names, and which addresses are allowed.
#include "drive.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <unistd.h>

static struct drive d;

// ---- a resolver for the tests: names ending in .test, some of which never answer

static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_change = PTHREAD_COND_INITIALIZER;
static bool gate_open;
static unsigned inside_now, lookups;
static const char *_Atomic points_to = "127.0.0.1"; // read by threads that look up
static int fails_with;

static int lookup(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out) {
    struct addrinfo own = *hints;
    (void)host;
    pthread_mutex_lock(&gate_lock);
    lookups++;
    inside_now++;
    pthread_cond_broadcast(&gate_change);
    while (strncmp(host, "hole", 4) == 0 && !gate_open)
        pthread_cond_wait(&gate_change, &gate_lock);
    inside_now--;
    pthread_cond_broadcast(&gate_change);
    int fail = fails_with;
    pthread_mutex_unlock(&gate_lock);
    own.ai_flags = AI_NUMERICHOST;
    return fail ? fail : getaddrinfo(points_to, port, &own, out);
}

static void open_gate(bool open) {
    pthread_mutex_lock(&gate_lock);
    gate_open = open;
    pthread_cond_broadcast(&gate_change);
    while (open && inside_now)
        pthread_cond_wait(&gate_change, &gate_lock);
    pthread_mutex_unlock(&gate_lock);
}

static int setup(void **state) {
    (void)state;
    struct td_remote_options options = {.lookup = lookup, .lookup_free = freeaddrinfo};
    static const char *const args[] = {"--proxy-auth", "Basic dXNlcjpwYXNz", NULL}; // user:pass
    drive_open(&d, &options, args);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    open_gate(true);
    drive_close(&d);
    return 0;
}

static int fresh(void **state) {
    (void)state;
    upstream_post(&d.up, "/_reset", "{}");
    drive_plain(&d);
    d.target.tier = TD_TIER_CLOUD;
    d.target.proxy = d.target.client_cert_file = d.target.client_key_file = TD_STR_NONE;
    d.target.timeouts = (struct td_timeouts){2000, 2000, 2000, 8000};
    points_to = "127.0.0.1";
    fails_with = 0;
    return 0;
}

static double seconds(const struct take *t) {
    return (double)(t->end_ns - t->start_ns) / 1e9;
}

static enum td_err outcome(void) {
    struct take t;
    drive_once(&d, &t, "hello [tokens=10]");
    enum td_err err = t.errors ? t.code : TD_OK;
    assert_int_equal(t.deltas, err ? 0 : 10);
    take_finish(&t);
    return err;
}

static void named(const char *name) {
    char url[128];
    snprintf(url, sizeof url, "http://%s:%u/v1", name, d.up.port);
    drive_url(&d, url);
}

static void tls_is_verified(void **state) {
    (void)state;
    drive_tls(&d, d.up.tls);
    assert_int_equal(outcome(), TD_OK);
    drive_tls(&d, d.up.tls_expired);
    assert_int_equal(outcome(), TD_ERR_TLS);
    drive_tls(&d, d.up.tls_wrong_host);
    assert_int_equal(outcome(), TD_ERR_TLS);
    drive_tls(&d, d.up.port); // speaks no TLS
    assert_int_equal(outcome(), TD_ERR_TLS);
    drive_tls(&d, d.up.tls);
    d.target.ca_file = TD_STR_NONE; // the system's authorities do not know it
    assert_int_equal(outcome(), TD_ERR_TLS);
    d.target.ca_file = TD_STR("/nonexistent/ca.pem");
    assert_int_equal(outcome(), TD_ERR_TLS);
}

static void tls_connections_are_kept_too(void **state) {
    (void)state;
    struct take t;
    drive_tls(&d, d.up.tls);
    for (int i = 0; i < 2; i++) {
        drive_once(&d, &t, "hello");
        assert_int_equal(t.ends, 1);
        if (i)
            assert_true(t.stats.reused_connection);
        take_finish(&t);
        drive_run_ms(&d, 5);
    }
}

static void a_client_certificate_is_shown(void **state) {
    (void)state;
    char cert[128], key[128];
    drive_tls(&d, d.up.tls_mtls);
    enum td_err refused = outcome(); // with TLS 1.3 the server hangs up after the handshake, and its alert may get lost
    assert_true(refused == TD_ERR_TLS || refused == TD_ERR_CUT);
    snprintf(cert, sizeof cert, "%s/client.pem", d.up.folder);
    snprintf(key, sizeof key, "%s/client.key", d.up.folder);
    d.target.client_cert_file = td_str_of(cert);
    d.target.client_key_file = td_str_of(key);
    assert_int_equal(outcome(), TD_OK);
}

static void proxies_are_used_with_their_credentials(void **state) {
    (void)state;
    char proxy[128], bare[128];
    setenv("TD_TEST_PROXY", "user:pass", 1);
    setenv("TD_TEST_PROXY_WRONG", "user:canary", 1);
    snprintf(proxy, sizeof proxy, "http://env:TD_TEST_PROXY@127.0.0.1:%u", d.up.port);
    snprintf(bare, sizeof bare, "http://127.0.0.1:%u", d.up.port);
    drive_tls(&d, d.up.tls);
    d.target.proxy = td_str_of(proxy);
    assert_int_equal(outcome(), TD_OK);
    struct td_arena arena;
    td_arena_init(&arena, 1 << 20);
    td_json *log = upstream_log(&d.up, &arena, 2, 0);
    assert_str(td_json_get_str(yyjson_arr_get_first(log), "method"), "CONNECT");
    td_arena_finish(&arena);
    d.target.proxy = td_str_of(bare);
    assert_int_equal(outcome(), TD_ERR_UPSTREAM_AUTH);
    char wrong[128];
    snprintf(wrong, sizeof wrong, "http://env:TD_TEST_PROXY_WRONG@127.0.0.1:%u", d.up.port);
    d.target.proxy = td_str_of(wrong);
    assert_int_equal(outcome(), TD_ERR_UPSTREAM_AUTH);
}

static void the_environment_gives_no_proxy(void **state) {
    (void)state;
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
    assert_int_equal(outcome(), TD_OK);
    unsetenv("http_proxy");
    unsetenv("ALL_PROXY");
}

static void names_are_looked_up_once(void **state) {
    (void)state;
    d.target.tier = TD_TIER_ONPREM;
    named("one.test");
    lookups = 0;
    for (int i = 0; i < 3; i++)
        assert_int_equal(outcome(), TD_OK);
    assert_int_equal(lookups, 1);
    td_remote_refresh(d.remote); // forgets the name: asked again, the old answer serving meanwhile
    assert_int_equal(outcome(), TD_OK);
    drive_run_ms(&d, 20);
    assert_int_equal(lookups, 2);
}

static void a_name_that_is_not_there(void **state) {
    (void)state;
    named("absent.test");
    fails_with = EAI_NONAME;
    assert_int_equal(outcome(), TD_ERR_DNS);
    fails_with = EAI_AGAIN;
    assert_int_equal(outcome(), TD_ERR_DNS);
    fails_with = 0;
    d.target.tier = TD_TIER_EDGE;
    assert_int_equal(outcome(), TD_OK); // nothing bad is remembered
}

// Where a name leads, judged by tier. The same name for every row, so that answers must also be replaced.
static void addresses_are_checked(void **state) {
    (void)state;
    static const struct {
        const char *to;
        enum td_tier tier;
        bool refused;
    } rows[] = {
        {"127.0.0.1", TD_TIER_CLOUD, true},        {"127.0.0.1", TD_TIER_ONPREM, false},
        {"169.254.169.254", TD_TIER_CLOUD, true},  {"169.254.169.254", TD_TIER_EDGE, true},
        {"169.254.1.1", TD_TIER_CLOUD, true},      {"0.0.0.0", TD_TIER_EDGE, true},
        {"::ffff:127.0.0.1", TD_TIER_CLOUD, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char name[32];
        struct take t;
        snprintf(name, sizeof name, "row%zu.test", i);
        points_to = rows[i].to;
        d.target.tier = rows[i].tier;
        named(name);
        drive_once(&d, &t, "hello");
        if (rows[i].refused != (t.code == TD_ERR_CONNECT && strstr(t.message, "not allowed") != NULL))
            fail_msg("%s for tier %d: %s", rows[i].to, (int)rows[i].tier, t.message);
        take_finish(&t);
    }
    struct td_arena arena;
    td_arena_init(&arena, 1 << 20);
    assert_int_equal(yyjson_arr_size(upstream_log(&d.up, &arena, 0, 0)), 1); // only the one allowed was sent
    td_arena_finish(&arena);
    // A kept connection of one target does not serve another that may not go there.
    d.target.tier = TD_TIER_ONPREM;
    points_to = "127.0.0.1";
    named("shared.test");
    assert_int_equal(outcome(), TD_OK);
    d.target.tier = TD_TIER_CLOUD;
    assert_int_equal(outcome(), TD_ERR_CONNECT);
}

static void urls_are_read_strictly(void **state) {
    (void)state;
    static const char *const bad[] = {"ftp://h/v1",    "file:///etc/passwd",  "http://user:pw@h/v1",
                                      "http:///v1",    "http://h:0/v1",       "http://h:99999/v1",
                                      "h/v1",          "http://b\xc3\xbc/v1", "http://169.254.169.254/v1",
                                      "http://h/v1#x", "gopher://h"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct take t = {0};
        drive_url(&d, bad[i]);
        if (take_start(&t, &d, "hello", true) != TD_ERR_CONFIG)
            fail_msg("%s was taken", bad[i]);
        take_finish(&t);
    }
}

// The reason for resolving outside libcurl: names nobody answers for, beside live streams; and cancelling such an
// attempt, where libcurl would wait for its thread.
static void a_black_hole_in_dns_disturbs_nobody(void **state) {
    (void)state;
    static struct take live[20], dead[10];
    char name[32];
    struct td_target here = d.target;
    uint64_t worst = 0;
    open_gate(false);
    upstream_post(&d.up, "/_script", "{\"standing\":{\"token_ms\":10}}");
    for (int i = 0; i < 20; i++) {
        live[i] = (struct take){0};
        assert_ok(take_start(&live[i], &d, "hello [tokens=60]", true));
    }
    char urls[10][64];
    struct td_target holes[10];
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "hole%d.test", i);
        named(name);
        memcpy(urls[i], d.url, sizeof urls[i]);
        holes[i] = here;
        holes[i].index = (uint32_t)i + 1;
        holes[i].timeouts.connect_ms = i % 2 ? 200 : 60000; // its own limit, or the attempt's
        d.connect_ms = i % 2 ? 0 : 200;
        holes[i].base_url = td_str_of(urls[i]);
        d.use = &holes[i];
        dead[i] = (struct take){0};
        assert_ok(take_start(&dead[i], &d, "hello", true));
    }
    d.use = NULL;
    d.connect_ms = 0;
    drive_run_ms(&d, 50);
    for (int i = 5; i < 10; i++) { // half of them are cancelled in mid-air
        uint64_t before = td_now_ns();
        take_finish(&dead[i]);
        uint64_t took = td_now_ns() - before;
        worst = took > worst ? took : worst;
        d.waiting--;
    }
    assert_true(worst < 200 * TD_MS_NS);
    drive_run(&d);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(dead[i].code, TD_ERR_DNS);
        assert_non_null(strstr(dead[i].message, "within 200 ms"));
        assert_true(seconds(&dead[i]) >= 0.19 && seconds(&dead[i]) < 4);
        take_finish(&dead[i]);
    }
    for (int i = 0; i < 20; i++) {
        assert_int_equal(live[i].ends, 1);
        assert_int_equal(live[i].deltas, 60);
        assert_true(seconds(&live[i]) < 8); // 0.6 s of tokens
        take_finish(&live[i]);
    }
    drive_plain(&d);
}

// Threads still inside getaddrinfo when everything is torn down.
static void a_lookup_may_outlive_the_remote(void **state) {
    (void)state;
    struct td_remote_options options = {.lookup = lookup, .lookup_free = freeaddrinfo};
    struct td_loop *loop = td_loop_create();
    struct td_remote *r;
    struct take t = {0};
    open_gate(false);
    assert_ok(td_remote_create(loop, &options, &r, NULL));
    struct td_backend *outer = d.backend;
    d.backend = td_remote_backend(r);
    named("hole-late.test");
    assert_ok(take_start(&t, &d, "hello", true));
    d.waiting = 0;
    drive_run_ms(&d, 5); // another loop: this one never turned
    pthread_mutex_lock(&gate_lock);
    unsigned before = inside_now;
    pthread_mutex_unlock(&gate_lock);
    (void)before;
    take_finish(&t);
    d.backend = outer;
    td_remote_destroy(r);
    td_loop_destroy(loop);
    open_gate(true);
}

static enum td_err probe_err;
static int probe_status, probes_done;

static void on_probed(void *user, enum td_err err, int status, uint64_t rtt_us) {
    (void)user;
    probe_err = err;
    probe_status = status;
    probes_done++;
    assert_true(rtt_us < 5000000);
    d.waiting = 0;
    drive_stop(&d);
}

static enum td_err probe(enum td_probe kind) {
    struct td_fetch *f;
    struct td_probe_spec spec = {.target = &d.target, .probe = kind, .on_done = on_probed, .timeout_ms = 1500};
    spec.grant = drive_grant(&d, TD_GRANT_PROBE, TD_STR_NONE, TD_STR_NONE);
    assert_ok(td_remote_probe(d.remote, &spec, &f, NULL));
    d.waiting = 1;
    drive_run(&d);
    td_fetch_destroy(f);
    return probe_err;
}

static void probes_tell_the_living(void **state) {
    (void)state;
    assert_int_equal(probe(TD_PROBE_CONNECT), TD_OK);
    assert_int_equal(probe(TD_PROBE_MODELS), TD_OK);
    assert_int_equal(probe_status, 200);
    upstream_post(&d.up, "/_script",
                  "{\"queue\":[{\"status\":503},{\"status\":429},{\"hang\":true},{\"reset\":true}]}");
    assert_int_equal(probe(TD_PROBE_MODELS), TD_ERR_UPSTREAM_SERVER);
    assert_int_equal(probe(TD_PROBE_MODELS), TD_ERR_UPSTREAM_RATE);
    assert_int_equal(probe(TD_PROBE_MODELS), TD_ERR_DEADLINE);
    assert_int_equal(probe(TD_PROBE_MODELS), TD_ERR_CUT);
    upstream_post(&d.up, "/_down", "{\"down\":true}");
    assert_int_equal(probe(TD_PROBE_CONNECT), TD_ERR_CONNECT);
    upstream_post(&d.up, "/_down", "{\"down\":false}");
    drive_tls(&d, d.up.tls);
    assert_int_equal(probe(TD_PROBE_CONNECT), TD_OK);
    drive_tls(&d, d.up.tls_expired);
    assert_int_equal(probe(TD_PROBE_CONNECT), TD_ERR_TLS);
}

int main(void) {
#define T(name) cmocka_unit_test_setup(name, fresh)
    const struct CMUnitTest tests[] = {
        T(tls_is_verified),
        T(tls_connections_are_kept_too),
        T(a_client_certificate_is_shown),
        T(proxies_are_used_with_their_credentials),
        T(the_environment_gives_no_proxy),
        T(names_are_looked_up_once),
        T(a_name_that_is_not_there),
        T(addresses_are_checked),
        T(urls_are_read_strictly),
        T(a_black_hole_in_dns_disturbs_nobody),
        T(a_lookup_may_outlive_the_remote),
        T(probes_tell_the_living),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
