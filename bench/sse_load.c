// SPDX-License-Identifier: Apache-2.0
// Opens N event streams against one server from one thread and measures how evenly their events arrive.
//   sse-load ADDRESS PORT PATH STREAMS [BODY] [-e EVERY_MS] [-k KEY]
// With BODY the request is a POST of that JSON. Starts are spread over one second. Printed: streams complete (they saw
// "[DONE]" or the last chunk), events, and percentiles in microseconds of
//   gap   time between two neighbouring events of a stream minus EVERY_MS (default 20; negative counts as 0)
//   lag   now minus the event's own time, where events carry one: "t":<CLOCK_MONOTONIC ns>, or a token "@<ns>"
//   first time from the request's last byte to the first event
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "percentiles.h"

enum { SAMPLES_MAX = 4 << 20, LINE_MAX_BYTES = 64 << 10, RUN_S_MAX = 60 };

struct stream {
    int fd;
    uint64_t asked_ns, last_ns;
    unsigned events;
    bool head_done, complete, closed;
    size_t match;   // how much of "\n\ndata: " the input matches just now
    char tail[256]; // the last bytes seen, to find "t": and the end marks
    size_t tail_n;
};

static struct samples gaps = {.name = "gap"}, lags = {.name = "lag"}, firsts = {.name = "first"};
static double every_ms = 20;

// One event line ("data: …") has arrived whole.
static void on_event(struct stream *s, const char *line, size_t n, uint64_t now) {
    if (n >= 12 && memcmp(line, "data: [DONE]", 12) == 0) {
        s->complete = true;
        return;
    }
    if (s->events++ == 0)
        samples_add(&firsts, (int64_t)(now - s->asked_ns));
    else
        samples_add(&gaps, (int64_t)(now - s->last_ns) - (int64_t)(every_ms * 1e6));
    s->last_ns = now;
    const char *t = memmem(line, n, "\"t\":", 4), *token = memmem(line, n, "\"content\":\"@", 12);
    if (t || token)
        samples_add(&lags, (int64_t)(now - strtoull(t ? t + 4 : token + 12, NULL, 10)));
}

// Keeps the unfinished line in `pending`; chunk framing lines are harmless: only lines that begin with "data: " count.
struct pending {
    char *p;
    size_t n;
};

static void on_bytes(struct stream *s, struct pending *pending, const char *p, size_t n, uint64_t now) {
    while (n > 0) {
        const char *nl = memchr(p, '\n', n);
        size_t take = nl ? (size_t)(nl - p) : n;
        if (pending->n + take < LINE_MAX_BYTES) {
            pending->p = realloc(pending->p, pending->n + take + 1);
            memcpy(pending->p + pending->n, p, take);
            pending->n += take;
            pending->p[pending->n] = '\0';
        }
        if (!nl)
            return;
        if (pending->n >= 6 && memcmp(pending->p, "data: ", 6) == 0)
            on_event(s, pending->p, pending->n, now);
        else if (pending->n <= 2 && pending->n > 0 && pending->p[0] == '0')
            s->complete = true; // the last chunk
        pending->n = 0;
        p += take + 1;
        n -= take + 1;
    }
}

static int open_stream(const char *address, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
        return -1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

int main(int argc, char **argv) {
    const char *key = NULL, *body = NULL;
    int option, at = 0;
    const char *words[5] = {0};
    while ((option = getopt(argc, argv, "-e:k:")) != -1) {
        if (option == 'e')
            every_ms = atof(optarg);
        else if (option == 'k')
            key = optarg;
        else if (option == 1 && at < 5)
            words[at++] = optarg;
    }
    if (at < 4) {
        fprintf(stderr, "usage: sse-load ADDRESS PORT PATH STREAMS [BODY] [-e EVERY_MS] [-k KEY]\n");
        return 2;
    }
    int port = atoi(words[1]), count = atoi(words[3]);
    body = words[4];
    struct rlimit files = {8192, 8192};
    setrlimit(RLIMIT_NOFILE, &files);
    samples_make(&gaps, SAMPLES_MAX);
    samples_make(&lags, SAMPLES_MAX);
    samples_make(&firsts, (size_t)count);
    struct stream *streams = calloc((size_t)count, sizeof *streams);
    struct pending *pending = calloc((size_t)count, sizeof *pending);
    char *request = malloc((body ? strlen(body) : 0) + 1024);
    int request_n =
        sprintf(request, "%s %s HTTP/1.1\r\nHost: %s:%d\r\nAccept: text/event-stream\r\n%s%s%s", body ? "POST" : "GET",
                words[2], words[0], port, key ? "Authorization: Bearer " : "", key ? key : "", key ? "\r\n" : "");
    if (body)
        request_n +=
            sprintf(request + request_n, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
    request_n += sprintf(request + request_n, "\r\n%s", body ? body : "");
    int poll = epoll_create1(0), opened = 0, open_now = 0, failed = 0;
    uint64_t start = now_ns();
    while ((opened < count || open_now > 0) && now_ns() - start < (uint64_t)RUN_S_MAX * 1000000000u) {
        while (opened < count && now_ns() - start >= (uint64_t)opened * 1000000000u / (uint64_t)count) {
            struct stream *s = &streams[opened];
            s->fd = open_stream(words[0], port);
            if (s->fd < 0 || write(s->fd, request, (size_t)request_n) != request_n) {
                failed++;
                opened++;
                continue;
            }
            s->asked_ns = now_ns();
            fcntl(s->fd, F_SETFL, O_NONBLOCK);
            struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)opened};
            epoll_ctl(poll, EPOLL_CTL_ADD, s->fd, &e);
            opened++;
            open_now++;
        }
        struct epoll_event events[256];
        int n = epoll_wait(poll, events, 256, opened < count ? 1 : 1000);
        for (int i = 0; i < n; i++) {
            struct stream *s = &streams[events[i].data.u32];
            char in[16384];
            ssize_t got = read(s->fd, in, sizeof in);
            if (got > 0)
                on_bytes(s, &pending[events[i].data.u32], in, (size_t)got, now_ns());
            if ((got < 0 && errno != EAGAIN) || got == 0 || s->complete) {
                close(s->fd);
                open_now--;
            }
        }
    }
    int complete = 0;
    unsigned long events = 0;
    unsigned least = ~0u, most = 0;
    for (int i = 0; i < count; i++) {
        complete += streams[i].complete;
        events += streams[i].events;
        least = streams[i].events < least ? streams[i].events : least;
        most = streams[i].events > most ? streams[i].events : most;
    }
    printf("streams=%d complete=%d failed=%d events=%lu per_stream_min=%u per_stream_max=%u seconds=%.2f\n", count,
           complete, failed, events, least, most, (double)(now_ns() - start) / 1e9);
    samples_print(&gaps);
    samples_print(&lags);
    samples_print(&firsts);
    return complete == count ? 0 : 1;
}
