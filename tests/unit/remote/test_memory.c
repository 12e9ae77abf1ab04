// SPDX-License-Identifier: Apache-2.0
// Every allocation on the way out fails once: each time there is an answer or a typed error, and nothing is lost. (Run
// under AddressSanitizer, this also says that nothing leaks.) libcurl keeps its own
// allocator: the 7.88 of Debian 12 frees a host name twice when it runs out of memory while keeping a TLS session.
#include "drive.h"

#include <event2/event.h>

#include "base/log.h"

static struct upstream up;
static char url[64], ca[128];

struct story {
    struct td_loop *loop;
    unsigned ends, errors;
};

static void on_event(void *user, const struct td_event *ev) {
    struct story *s = user;
    s->ends += ev->type == TD_EV_END;
    s->errors += ev->type == TD_EV_ERROR;
    if (ev->type == TD_EV_END || ev->type == TD_EV_ERROR)
        event_base_loopbreak(td_loop_base(s->loop));
}

static void on_guard(void *arg) {
    (void)arg;
    fprintf(stderr, "an attempt without memory ended in nothing\n");
    abort();
}

// One streamed attempt from nothing to nothing.
static void tell(struct story *s, uint64_t fail_at) {
    static const struct td_egress_check fine = {.allowed = true, .data_class = TD_CLASS_PUBLIC, .policy_version = 1};
    struct td_target target = {.name = TD_STR("cloud"),
                               .tier = TD_TIER_ONPREM,
                               .model = TD_STR("m"),
                               .base_url = td_str_of(url),
                               .ca_file = td_str_of(ca),
                               .api_key_ref = TD_STR("env:TD_TEST_KEY"),
                               .clearance = TD_CLASS_PUBLIC,
                               .labels_cleared = ~0u,
                               .timeouts = {2000, 2000, 2000, 4000}};
    struct td_arena arena;
    struct td_remote *r = NULL;
    struct td_attempt *a = NULL;
    struct td_str body =
        TD_STR("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi [tokens=5]\"}],\"stream\":true}");
    struct td_grant_terms terms = {.kind = TD_GRANT_INFERENCE, .target = &target};
    struct td_attempt_spec spec = {
        .target = &target, .stream = true, .body = body, .exchange_id = "x", .on_event = on_event, .user = s};
    td_alloc_fail_at(0); // a story may need one allocation less than the first: by how its bytes came
    *s = (struct story){.loop = td_loop_create()};
    struct td_timer *guard = td_timer_create(s->loop, on_guard, NULL);
    assert_non_null(guard);
    td_timer_arm(guard, 20000);
    td_arena_init(&arena, 1 << 20);
    assert_ok(td_grant_issue(&arena, &fine, &terms, body, &spec.grant, NULL));
    td_alloc_fail_at(fail_at);
    enum td_err err = td_remote_create(s->loop, NULL, &r, NULL);
    if (!err) {
        struct td_backend *b = td_remote_backend(r);
        err = b->ops->start(b, &spec, &a, NULL);
        if (!err)
            event_base_loop(td_loop_base(s->loop), EVLOOP_NO_EXIT_ON_EMPTY);
        b->ops->destroy(b, a);
    }
    s->errors += err != TD_OK;
    td_remote_destroy(r);
    td_timer_destroy(guard);
    td_arena_finish(&arena);
    td_loop_destroy(s->loop);
}

static void each_allocation_fails_once(void **state) {
    (void)state;
    struct story s;
    td_log_set_level(TD_LOG_ERROR);
    setenv("TD_TEST_KEY", "k", 1);
    for (int way = 0; way < 3; way++) { // our own connections, libcurl, our own with an answer that must be unpacked
        bool tls = way == 1;
        upstream_post(&up, "/_script", way == 2 ? "{\"standing\":{\"gzip\":true}}" : "{\"standing\":{}}");
        snprintf(url, sizeof url, tls ? "https://localhost:%u/v1" : "http://127.0.0.1:%u/v1", tls ? up.tls : up.port);
        snprintf(ca, sizeof ca, "%s%s", tls ? up.folder : "", tls ? "/ca.pem" : "");
        tell(&s, UINT64_MAX);
        uint64_t count = td_alloc_count();
        assert_int_equal(s.ends, 1);
        assert_true(count > 10);
        for (uint64_t n = 1; n <= count; n++) {
            tell(&s, n);
            assert_int_equal(s.ends + s.errors, 1);
        }
        td_alloc_fail_at(0);
        tell(&s, 0);
        assert_int_equal(s.ends, 1);
    }
}

static int setup(void **state) {
    (void)state;
    upstream_start(&up, NULL);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    upstream_stop(&up);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_allocation_fails_once)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
