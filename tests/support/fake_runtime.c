// SPDX-License-Identifier: Apache-2.0
#include "fake_runtime.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/time.h"
#include "loop/loop.h"

enum { WORKERS_MAX = 16, PIECE_BYTES = 4096, PIECES_PER_TURN = 8 };

struct td_runtime {
    unsigned workers;
    struct td_loop *loops[WORKERS_MAX];
    pthread_t threads[WORKERS_MAX];
    struct fake_counts counts;
};

struct td_call {
    struct td_runtime *runtime;
    const struct td_http_sink *sink;
    void *user;
    struct td_loop *loop;
    struct td_timer *timer;
    char *body;
    size_t body_length;
    unsigned long left, every_ms;
    bool ended, stopped;
    uint64_t next_ns;
};

static void *run_loop(void *loop) {
    td_loop_run(loop);
    return NULL;
}

struct td_runtime *fake_runtime_create(unsigned workers) {
    struct td_runtime *r = calloc(1, sizeof *r);
    r->workers = workers;
    for (unsigned i = 0; i < workers; i++) {
        r->loops[i] = td_loop_create();
        pthread_create(&r->threads[i], NULL, run_loop, r->loops[i]);
    }
    return r;
}

void fake_runtime_destroy(struct td_runtime *r) {
    for (unsigned i = 0; i < r->workers; i++) {
        td_loop_stop(r->loops[i]);
        pthread_join(r->threads[i], NULL);
        td_loop_destroy(r->loops[i]);
    }
    free(r);
}

struct fake_counts *fake_runtime_counts(struct td_runtime *r) {
    return &r->counts;
}

unsigned td_runtime_worker_count(const struct td_runtime *r) {
    return r->workers;
}

struct td_loop *td_runtime_worker_loop(struct td_runtime *r, unsigned worker) {
    return r->loops[worker];
}

int td_runtime_ready(struct td_runtime *r, char why[128]) {
    if (!atomic_load(&r->counts.unready))
        return 0;
    snprintf(why, 128, "no model is loaded");
    return 1;
}

char *td_runtime_metrics(struct td_runtime *r) {
    (void)r;
    return strdup("# TYPE fake gauge\nfake 1\n");
}

void td_string_free(char *text) {
    free(text);
}

static void head(struct td_call *call, int status, const char *type, bool stream, size_t length) {
    struct td_http_header h = {"content-type", 12, type, strlen(type)};
    call->sink->on_head(call->user, status, &h, 1, stream, length);
}

static void end(struct td_call *call, bool clean) {
    call->ended = true;
    call->sink->on_end(call->user, clean);
}

static void answer(struct td_call *call, const char *p, size_t n) {
    head(call, 200, "application/json", false, n);
    call->sink->on_data(call->user, p, n);
    end(call, true);
}

static void on_later(void *arg) {
    struct td_call *call = arg;
    answer(call, call->body, call->body_length);
}

static void on_token(void *arg) {
    struct td_call *call = arg;
    char text[512];
    int n =
        snprintf(text, sizeof text,
                 "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\","
                 "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"w%lu \"},\"finish_reason\":null}],\"t\":%llu}\n\n",
                 call->left, (unsigned long long)td_now_ns());
    call->sink->on_data(call->user, text, (size_t)n);
    if (--call->left == 0) {
        call->sink->on_data(call->user, "data: [DONE]\n\n", 14);
        end(call, true);
        return;
    }
    // Timers count whole milliseconds from now; aim at the grid so that lateness does not add up.
    call->next_ns += call->every_ms * TD_MS_NS;
    uint64_t now = td_now_ns();
    td_timer_arm(call->timer, call->next_ns > now ? (call->next_ns - now + TD_MS_NS / 2) / TD_MS_NS : 0);
}

static void on_flood(void *arg) {
    struct td_call *call = arg;
    static const char piece[PIECE_BYTES] = {[0 ... PIECE_BYTES - 1] = 'x'};
    for (int i = 0; i < PIECES_PER_TURN && call->left > 0 && !call->stopped; i++) {
        call->sink->on_data(call->user, piece, sizeof piece);
        atomic_fetch_add(&call->runtime->counts.pieces, 1);
        call->left--;
    }
    if (call->left == 0)
        end(call, true);
    else if (!call->stopped)
        td_timer_arm(call->timer, 0);
}

static void breathe_until(struct td_call *call, int part) {
    uint64_t give_up = td_now_ns() + 5 * TD_S_NS;
    for (int i = 0; i < 64; i++)
        td_loop_breathe(call->loop);
    while (atomic_load(&call->runtime->counts.long_turn) < part && td_now_ns() < give_up)
        usleep(1000);
}

static void on_long_turn(void *arg) {
    struct td_call *call = arg;
    call->sink->on_data(call->user, "first", 5);
    breathe_until(call, 1);
    end(call, true);
    breathe_until(call, 2);
}

static unsigned long query_number(const char *query, const char *key, unsigned long otherwise) {
    const char *at = strstr(query, key);
    return at ? strtoul(at + strlen(key), NULL, 10) : otherwise;
}

static void about(struct td_call *call, const struct td_http_request *q) {
    struct td_buf b;
    td_buf_init(&b, 256 << 10);
    enum td_err err = td_buf_printf(&b, "method=%s\npath=%s\nquery=%s\npeer=%s\nlocal=%d\nsubject=%s\n", q->method,
                                    q->path, q->query, q->peer, q->local_peer, q->subject ? q->subject : "");
    for (size_t i = 0; i < q->header_count && err == TD_OK; i++)
        err = td_buf_printf(&b, "%.*s=[%.*s]\n", (int)q->headers[i].name_length, q->headers[i].name,
                            (int)q->headers[i].value_length, q->headers[i].value);
    answer(call, b.p, b.n);
    td_buf_finish(&b);
}

static void start_timed(struct td_call *call, unsigned worker, void (*fn)(void *), unsigned long after_ms) {
    call->loop = call->runtime->loops[worker];
    call->timer = td_timer_create(call->loop, fn, call);
    if (!call->timer) { // a torture run took the memory
        end(call, false);
        return;
    }
    call->next_ns = td_now_ns() + after_ms * TD_MS_NS;
    td_timer_arm(call->timer, after_ms);
}

static void broken_answers(struct td_call *call, const char *path) {
    static const struct td_http_header evil[] = {{"x-split", 7, "a\r\nx-injected: 1", 16},
                                                 {"x-bad name", 10, "v", 1},
                                                 {"content-length", 14, "99", 2},
                                                 {"transfer-encoding", 17, "gzip", 4},
                                                 {"x-fine", 6, "yes", 3}};
    if (!strcmp(path, "/v1/cut")) {
        head(call, 200, "text/event-stream", true, SIZE_MAX);
        call->sink->on_data(call->user, "some", 4);
        end(call, false);
    } else if (!strcmp(path, "/v1/short")) {
        head(call, 200, "application/json", false, 10);
        call->sink->on_data(call->user, "12345", 5);
        end(call, true);
    } else if (!strcmp(path, "/v1/evil")) {
        call->sink->on_head(call->user, 200, evil, 5, false, 2);
        call->sink->on_data(call->user, "{}", 2);
        end(call, true);
    } else if (!strcmp(path, "/v1/silent")) {
        end(call, true);
    } else {
        static const char text[] = "{\"error\":{\"message\":\"no such path\",\"code\":\"tandem.not_found\"}}";
        head(call, 404, "application/json", false, sizeof text - 1);
        call->sink->on_data(call->user, text, sizeof text - 1);
        end(call, true);
    }
}

void td_http_call(struct td_runtime *r, unsigned worker, const struct td_http_request *q,
                  const struct td_http_sink *sink, void *user, struct td_call **out) {
    static char completion[1025];
    struct td_call *call = calloc(1, sizeof *call);
    *call = (struct td_call){.runtime = r, .sink = sink, .user = user};
    *out = call;
    atomic_fetch_add(&r->counts.calls, 1);
    atomic_fetch_add(&r->counts.live, 1);
    if (!strcmp(q->path, "/v1/echo")) {
        answer(call, q->body, q->body_length);
    } else if (!strcmp(q->path, "/v1/chat/completions")) {
        if (!completion[0])
            snprintf(completion, sizeof completion, "{\"choices\":[{\"message\":{\"content\":\"%0*d\"}}]}", 1024 - 42,
                     0);
        answer(call, completion, 1024);
    } else if (!strcmp(q->path, "/v1/about")) {
        about(call, q);
    } else if (!strcmp(q->path, "/v1/later")) {
        // The views end with this call.
        call->body = malloc(q->body_length + 1);
        if (q->body_length)
            memcpy(call->body, q->body, q->body_length);
        call->body_length = q->body_length;
        start_timed(call, worker, on_later, 5);
    } else if (!strcmp(q->path, "/v1/sse")) {
        call->left = query_number(q->query, "n=", 400);
        call->every_ms = query_number(q->query, "ms=", 20);
        head(call, 200, "text/event-stream", true, SIZE_MAX);
        start_timed(call, worker, on_token, call->every_ms);
    } else if (!strcmp(q->path, "/v1/flood")) {
        call->left = query_number(q->query, "n=", 1ul << 40);
        head(call, 200, "application/octet-stream", true, SIZE_MAX);
        start_timed(call, worker, on_flood, 0);
    } else if (!strcmp(q->path, "/v1/long")) {
        head(call, 200, "text/event-stream", true, SIZE_MAX);
        start_timed(call, worker, on_long_turn, 1);
    } else if (strcmp(q->path, "/v1/hold") != 0) {
        broken_answers(call, q->path);
    }
}

void td_http_stop(struct td_call *call) {
    call->stopped = true;
    atomic_fetch_add(&call->runtime->counts.stops, 1);
}

void td_http_proceed(struct td_call *call) {
    call->stopped = false;
    atomic_fetch_add(&call->runtime->counts.proceeds, 1);
    if (call->timer && !call->ended)
        td_timer_arm(call->timer, 0);
}

void td_call_release(struct td_call *call) {
    if (!call)
        return;
    if (!call->ended)
        atomic_fetch_add(&call->runtime->counts.released_early, 1);
    atomic_fetch_sub(&call->runtime->counts.live, 1);
    td_timer_destroy(call->timer);
    free(call->body);
    free(call);
}
