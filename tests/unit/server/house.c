// SPDX-License-Identifier: Apache-2.0
#include "house.h"

void house_open(struct house *h) {
    struct td_failure failure = {"", ""};
    h->runtime = fake_runtime_create(2);
    h->counts = fake_runtime_counts(h->runtime);
    if (!h->settings.address)
        h->settings.address = "127.0.0.1";
    if (td_server_start_limited(h->runtime, &h->settings, &h->limits, &h->server, &failure) != 0)
        fail_msg("%s: %s", failure.code, failure.message);
    h->port = td_server_port(h->server);
}

void house_close(struct house *h) {
    td_server_stop(h->server);
    assert_int_equal(atomic_load(&h->counts->live), 0);
    fake_runtime_destroy(h->runtime);
}

void ask(struct raw_client *c, const struct house *h, const char *method, const char *path, const char *extra,
         const char *body) {
    char text[4096];
    int n = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n%s", method, path, h->port, extra);
    if (body)
        n += snprintf(text + n, sizeof text - (size_t)n,
                      "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    else
        n += snprintf(text + n, sizeof text - (size_t)n, "\r\n");
    raw_send(c, text, (size_t)n);
}

void expect_status(struct raw_client *c, int status) {
    struct raw_answer a = raw_read(c, false);
    assert_int_equal(a.status, status);
    assert_true(a.whole);
    raw_answer_finish(&a);
}

void expect_alive(struct raw_client *c, const struct house *h) {
    ask(c, h, "GET", "/healthz", "", NULL);
    expect_status(c, 200);
}

void send_body(struct house *h, struct raw_client *c, size_t n, bool chunked) {
    char head[256];
    char *body = malloc(n);
    memset(body, ' ', n);
    snprintf(head, sizeof head,
             chunked ? "POST /v1/echo HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
                       "Transfer-Encoding: chunked\r\n\r\n%zx\r\n"
                     : "POST /v1/echo HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
                       "Content-Length: %zu\r\n\r\n",
             h->port, n);
    raw_sendz(c, head);
    raw_send(c, body, n);
    if (chunked)
        raw_sendz(c, "\r\n0\r\n\r\n");
    free(body);
}
