// SPDX-License-Identifier: Apache-2.0
// Candidate: libmicrohttpd, driven from a libevent loop through its epoll descriptor. Usage: candidate-mhd PORT
#include "candidate.h"

#include <event2/event.h>
#include <microhttpd.h>
#include <netinet/in.h>

static struct MHD_Daemon *daemon_;
static struct event_base *base;
static struct event *timeout_event;

struct stream {
    struct MHD_Connection *connection;
    struct event *timer;
    int sent, started;
    int due;
};

static void run(void) {
    MHD_run(daemon_);
    MHD_UNSIGNED_LONG_LONG ms;
    if (MHD_get_timeout(daemon_, &ms) == MHD_YES) {
        struct timeval t = {(time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000)};
        event_add(timeout_event, &t);
    }
}

static void on_ready(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what, (void)arg;
    run();
}

static void on_token(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    struct stream *s = arg;
    s->due = 1;
    MHD_resume_connection(s->connection);
    struct timeval now = {0, 0};
    event_add(timeout_event, &now);
}

static ssize_t on_pull(void *arg, uint64_t at, char *out, size_t cap) {
    (void)at;
    struct stream *s = arg;
    if (s->sent == CANDIDATE_TOKENS)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (!s->due) {
        MHD_suspend_connection(s->connection);
        return 0;
    }
    s->due = 0;
    s->sent++;
    return candidate_token(out, cap, s->sent);
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode why) {
    (void)arg, (void)connection;
    struct stream *s = *state;
    if (s && why != MHD_REQUEST_TERMINATED_COMPLETED_OK) {
        puts("gone");
        fflush(stdout);
    }
    if (s && s->timer)
        event_free(s->timer);
    free(s);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *body, size_t *body_length, void **state) {
    (void)arg, (void)method, (void)version, (void)body;
    struct stream *s = *state;
    if (!s) {
        s = *state = calloc(1, sizeof *s);
        s->connection = connection;
        return MHD_YES;
    }
    if (*body_length) {
        *body_length = 0;
        return MHD_YES;
    }
    struct MHD_Response *response;
    if (!strcmp(url, "/hold")) {
        MHD_suspend_connection(connection);
        return MHD_YES;
    }
    if (!strcmp(url, "/sse")) {
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 512, on_pull, s, NULL);
        MHD_add_response_header(response, "Content-Type", "text/event-stream");
        s->timer = event_new(base, -1, EV_PERSIST, on_token, s);
        struct timeval every = {0, CANDIDATE_TOKEN_MS * 1000};
        event_add(s->timer, &every);
    } else {
        response =
            MHD_create_response_from_buffer(CANDIDATE_ANSWER_BYTES, (void *)candidate_answer(), MHD_RESPMEM_PERSISTENT);
        MHD_add_response_header(response, "Content-Type", "application/json");
    }
    enum MHD_Result queued = MHD_queue_response(connection, 200, response);
    MHD_destroy_response(response);
    return queued;
}

int main(int argc, char **argv) {
    base = event_base_new();
    timeout_event = event_new(base, -1, 0, on_ready, NULL);
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(argc > 1 ? argv[1] : "18502")),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    daemon_ = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, NULL,
                               MHD_OPTION_SOCK_ADDR, &at, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
                               MHD_OPTION_CONNECTION_LIMIT, 4096u, MHD_OPTION_STRICT_FOR_CLIENT, 1,
                               MHD_OPTION_CONNECTION_TIMEOUT, 10u, MHD_OPTION_END);
    if (!daemon_)
        return 1;
    int fd = MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    struct event *ready = event_new(base, fd, EV_READ | EV_PERSIST, on_ready, NULL);
    event_add(ready, NULL);
    run();
    event_base_dispatch(base);
}
