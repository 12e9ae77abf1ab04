// SPDX-License-Identifier: Apache-2.0
// Candidate: libevent's evhttp. Usage: candidate-evhttp PORT
#include "candidate.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>

struct stream {
    struct evhttp_request *request;
    struct event *timer;
    int sent;
};

static void on_gone(struct evhttp_connection *connection, void *arg) {
    (void)connection;
    struct stream *s = arg;
    puts("gone");
    fflush(stdout);
    if (s->timer)
        event_free(s->timer);
    free(s);
}

static void on_token(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    struct stream *s = arg;
    struct evbuffer *chunk = evbuffer_new();
    char text[512];
    evbuffer_add(chunk, text, (size_t)candidate_token(text, sizeof text, s->sent));
    evhttp_send_reply_chunk(s->request, chunk);
    evbuffer_free(chunk);
    if (++s->sent == CANDIDATE_TOKENS) {
        evhttp_connection_set_closecb(evhttp_request_get_connection(s->request), NULL, NULL);
        evhttp_send_reply_end(s->request);
        event_free(s->timer);
        free(s);
    }
}

static void on_request(struct evhttp_request *request, void *arg) {
    struct event_base *base = arg;
    const char *uri = evhttp_request_get_uri(request);
    struct evhttp_connection *connection = evhttp_request_get_connection(request);
    if (!strcmp(uri, "/sse") || !strcmp(uri, "/hold")) {
        struct stream *s = calloc(1, sizeof *s);
        s->request = request;
        evhttp_connection_set_closecb(connection, on_gone, s);
        if (uri[1] == 'h')
            return;
        evhttp_add_header(evhttp_request_get_output_headers(request), "Content-Type", "text/event-stream");
        evhttp_send_reply_start(request, 200, "OK");
        s->timer = event_new(base, -1, EV_PERSIST, on_token, s);
        struct timeval every = {0, CANDIDATE_TOKEN_MS * 1000};
        event_add(s->timer, &every);
        return;
    }
    struct evbuffer *out = evbuffer_new();
    evbuffer_add_reference(out, candidate_answer(), CANDIDATE_ANSWER_BYTES, NULL, NULL);
    evhttp_add_header(evhttp_request_get_output_headers(request), "Content-Type", "application/json");
    evhttp_send_reply(request, 200, "OK", out);
    evbuffer_free(out);
}

int main(int argc, char **argv) {
    struct event_base *base = event_base_new();
    struct evhttp *http = evhttp_new(base);
    evhttp_set_gencb(http, on_request, base);
    evhttp_set_max_headers_size(http, 32 << 10);
    evhttp_set_max_body_size(http, 32 << 20);
    evhttp_set_timeout(http, 10);
    if (evhttp_bind_socket(http, "127.0.0.1", (unsigned short)atoi(argc > 1 ? argv[1] : "18501")) != 0)
        return 1;
    event_base_dispatch(base);
}
