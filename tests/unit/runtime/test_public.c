// SPDX-License-Identifier: Apache-2.0
// A caller that changes its mind at once: between reading, judging and starting a request its worker looks up, and a
// request that nobody waits for any more must neither be answered twice nor stay.
#include "unit.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "runtime/runtime.h"
#include "scratch.h"
#include "store/ledger.h"

#define CALLS 150

struct seen {
    atomic_uint ends, late;
};

static void on_answer(void *user, const struct td_answer *a) {
    struct seen *s = user;
    if (atomic_load(&s->ends))
        atomic_fetch_add(&s->late, 1);
    if (a->type == TD_ANSWER_END || a->type == TD_ANSWER_ERROR)
        atomic_fetch_add(&s->ends, 1);
}

// Takes connections and never speaks: no request of this test is answered.
static int silent_port(unsigned *port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, n), 0);
    assert_int_equal(listen(fd, CALLS), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
    *port = ntohs(at.sin_port);
    return fd;
}

static bool count_row(void *user, const struct td_ledger_row *row) {
    if (row->outcome == TD_OUTCOME_CANCELLED || row->error == TD_ERR_CANCELLED)
        ++*(unsigned *)user;
    return true;
}

static void a_request_taken_back_at_once_ends_once_and_is_noted(void **state) {
    (void)state;
    static const char body[] = "{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}";
    struct seen seen[CALLS] = {0};
    char dir[256], text[512];
    unsigned port, rows = 0;
    struct td_failure failure = {0};
    struct td_runtime *rt = NULL;
    int fd = silent_port(&port);
    assert_non_null(scratch_make(dir));
    snprintf(text, sizeof text,
             "version: 1\ntargets:\n  - {name: cloud, tier: cloud, provider: openai, base_url: "
             "\"http://127.0.0.1:%u/v1\", model: m, region: us, clearance: internal, quality: 0.9}\n",
             port);
    struct td_options options = {.config_text = text, .data_dir = dir, .workers = 1, .log = TD_LOG_QUIET};
    assert_int_equal(td_runtime_open(&options, &rt, &failure), 0);
    for (unsigned i = 0; i < CALLS; i++) {
        struct td_call *call = NULL;
        assert_int_equal(td_chat(rt, body, sizeof body - 1, NULL, on_answer, &seen[i], &call, &failure), 0);
        if (i % 3 == 2) // also somewhere on its way
            nanosleep(&(struct timespec){0, (long)(i % 7) * 30000}, NULL);
        if (i % 3)
            td_call_cancel(call);
        td_call_release(call);
    }
    for (int i = 0; i < 3000 && atomic_load(&rt->running); i++)
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    assert_int_equal(atomic_load(&rt->running), 0);
    assert_ok(td_store_flush(rt->store, 30000));
    assert_ok(td_ledger_tail(rt->store, NULL, 2 * CALLS, count_row, &rows, NULL));
    assert_int_equal(rows, CALLS);
    for (unsigned i = 0; i < CALLS; i++) {
        assert_int_equal(atomic_load(&seen[i].late), 0);
        assert_true(atomic_load(&seen[i].ends) <= 1);
    }
    td_runtime_close(rt);
    close(fd);
    scratch_drop(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_request_taken_back_at_once_ends_once_and_is_noted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
