// SPDX-License-Identifier: Apache-2.0
// The floor under a gateway made of these parts: Tandem's listener, libcurl, and nothing between them. Every byte of a
// request goes to the upstream as it came, every byte of the answer back. Usage: floor PORT UPSTREAM_PORT
#include <curl/curl.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/mem.h"
#include "loop/loop.h"
#include "server/server.h"

enum { IDLE_HANDLES_MAX = 1024 };

struct td_runtime {
    struct td_loop *loop;
    CURLM *multi;
    struct event *timer;
    CURL *idle[IDLE_HANDLES_MAX];
    size_t idle_count;
    struct curl_slist *headers;
    char base[64];
};

struct td_call {
    struct td_runtime *runtime;
    const struct td_http_sink *sink;
    void *user;
    CURL *easy;
    char url[256];
    bool begun;
};

static void take_finished(struct td_runtime *r) {
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(r->multi, &left));) {
        if (m->msg != CURLMSG_DONE)
            continue;
        struct td_call *call;
        bool clean = m->data.result == CURLE_OK;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        curl_multi_remove_handle(r->multi, call->easy);
        if (r->idle_count < IDLE_HANDLES_MAX)
            r->idle[r->idle_count++] = call->easy;
        else
            curl_easy_cleanup(call->easy);
        call->easy = NULL;
        call->sink->on_end(call->user, clean && call->begun);
    }
}

static void on_socket_event(evutil_socket_t fd, short what, void *arg) {
    struct td_runtime *r = arg;
    int running;
    curl_multi_socket_action(
        r->multi, fd, (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0), &running);
    take_finished(r);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg) {
    struct td_runtime *r = arg;
    int running;
    (void)fd, (void)what;
    curl_multi_socket_action(r->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    take_finished(r);
}

static int on_timer_change(CURLM *multi, long ms, void *arg) {
    struct td_runtime *r = arg;
    struct timeval t = {ms / 1000, ms % 1000 * 1000};
    (void)multi;
    if (ms < 0)
        event_del(r->timer);
    else
        event_add(r->timer, &t);
    return 0;
}

static int on_socket_change(CURL *easy, curl_socket_t fd, int what, void *arg, void *known) {
    struct td_runtime *r = arg;
    struct event *e = known;
    (void)easy;
    if (e)
        event_free(e);
    e = NULL;
    if (what != CURL_POLL_REMOVE) {
        short events =
            (short)(EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0));
        e = event_new(td_loop_base(r->loop), fd, events, on_socket_event, r);
        event_add(e, NULL);
    }
    curl_multi_assign(r->multi, fd, e);
    return 0;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg) {
    struct td_call *call = arg;
    if (!call->begun) {
        long status = 500;
        char *type = NULL;
        curl_off_t length = -1;
        curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(call->easy, CURLINFO_CONTENT_TYPE, &type);
        curl_easy_getinfo(call->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
        const char *shown = type ? type : "application/json";
        struct td_http_header h = {"content-type", 12, shown, strlen(shown)};
        call->begun = true;
        call->sink->on_head(call->user, (int)status, &h, 1, strncasecmp(shown, "text/event-stream", 17) == 0,
                            length < 0 ? SIZE_MAX : (size_t)length);
    }
    call->sink->on_data(call->user, p, size * n);
    return size * n;
}

static CURL *handle_of(struct td_runtime *r) {
    if (r->idle_count)
        return r->idle[--r->idle_count];
    CURL *easy = curl_easy_init();
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, r->headers);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    return easy;
}

void td_http_call(struct td_runtime *r, unsigned worker, const struct td_http_request *q,
                  const struct td_http_sink *sink, void *user, struct td_call **out) {
    struct td_call *call = calloc(1, sizeof *call);
    (void)worker;
    *call = (struct td_call){.runtime = r, .sink = sink, .user = user, .easy = handle_of(r)};
    *out = call;
    snprintf(call->url, sizeof call->url, "%s%s", r->base, q->path);
    curl_easy_setopt(call->easy, CURLOPT_URL, call->url);
    curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body_length);
    curl_easy_setopt(call->easy, CURLOPT_COPYPOSTFIELDS, q->body);
    curl_easy_setopt(call->easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(call->easy, CURLOPT_PRIVATE, call);
    curl_multi_add_handle(r->multi, call->easy);
}

void td_call_release(struct td_call *call) {
    if (!call)
        return;
    if (call->easy) {
        curl_multi_remove_handle(call->runtime->multi, call->easy);
        curl_easy_cleanup(call->easy);
    }
    free(call);
}

void td_http_stop(struct td_call *call) {
    if (call->easy)
        curl_easy_pause(call->easy, CURLPAUSE_RECV);
}

void td_http_proceed(struct td_call *call) {
    if (call->easy)
        curl_easy_pause(call->easy, CURLPAUSE_CONT);
}

unsigned td_runtime_worker_count(const struct td_runtime *r) {
    (void)r;
    return 1;
}

struct td_loop *td_runtime_worker_loop(struct td_runtime *r, unsigned worker) {
    (void)worker;
    return r->loop;
}

int td_runtime_ready(struct td_runtime *r, char why[128]) {
    (void)r, (void)why;
    return 0;
}

char *td_runtime_metrics(struct td_runtime *r) {
    (void)r;
    return strdup("");
}

void td_string_free(char *text) {
    free(text);
}

static void *run_loop(void *loop) {
    td_loop_run(loop);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: floor PORT UPSTREAM_PORT\n");
        return 2;
    }
    struct td_runtime r = {.loop = td_loop_create(), .multi = curl_multi_init()};
    snprintf(r.base, sizeof r.base, "http://127.0.0.1:%d", atoi(argv[2]));
    r.headers = curl_slist_append(curl_slist_append(NULL, "Content-Type: application/json"), "Expect:");
    r.timer = event_new(td_loop_base(r.loop), -1, 0, on_timeout, &r);
    curl_multi_setopt(r.multi, CURLMOPT_SOCKETFUNCTION, on_socket_change);
    curl_multi_setopt(r.multi, CURLMOPT_SOCKETDATA, &r);
    curl_multi_setopt(r.multi, CURLMOPT_TIMERFUNCTION, on_timer_change);
    curl_multi_setopt(r.multi, CURLMOPT_TIMERDATA, &r);
    curl_multi_setopt(r.multi, CURLMOPT_MAXCONNECTS, 2048L);
    pthread_t thread;
    pthread_create(&thread, NULL, run_loop, r.loop);
    struct td_listen_settings settings = {.address = "127.0.0.1", .port = (unsigned)atoi(argv[1])};
    struct td_server *server;
    struct td_failure failure;
    if (td_server_start(&r, &settings, &server, &failure) != 0) {
        fprintf(stderr, "%s: %s\n", failure.code, failure.message);
        return 1;
    }
    pause();
}
