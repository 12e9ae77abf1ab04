// SPDX-License-Identifier: Apache-2.0
// A client that sends exactly the bytes a test gives it, and tells responses apart. Every wait has a deadline.
#ifndef TD_TESTS_RAW_HTTP_H
#define TD_TESTS_RAW_HTTP_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/time.h"

enum { RAW_WAIT_MS = 5000 };

struct raw_client {
    int fd;
    char *in; // all that came and was not taken, NUL-terminated
    size_t in_n, in_cap;
    bool closed, reset;
};

struct raw_answer {
    int status; // 0: none came
    char head[8192];
    char *body; // decoded; free with raw_answer_finish
    size_t body_n;
    bool whole; // the framing says so
};

static inline struct raw_client raw_connect(unsigned port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct raw_client c = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .in = calloc(1, 1)};
    if (connect(c.fd, (struct sockaddr *)&to, sizeof to) != 0)
        c.closed = true;
    return c;
}

static inline struct raw_client raw_connect_unix(const char *path) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
    struct raw_client c = {.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), .in = calloc(1, 1)};
    if (connect(c.fd, (struct sockaddr *)&to, sizeof to) != 0)
        c.closed = true;
    return c;
}

static inline void raw_close(struct raw_client *c) {
    if (c->fd >= 0)
        close(c->fd);
    free(c->in);
    *c = (struct raw_client){.fd = -1};
}

static inline void raw_send(struct raw_client *c, const char *p, size_t n) {
    while (n > 0) {
        ssize_t put = send(c->fd, p, n, MSG_NOSIGNAL);
        if (put <= 0)
            return; // the server may refuse and close before it has read everything
        p += put;
        n -= (size_t)put;
    }
}

static inline void raw_sendz(struct raw_client *c, const char *z) {
    raw_send(c, z, strlen(z));
}

// Waits at most `ms` for more; false when nothing came and when the server has closed.
static inline bool raw_receive(struct raw_client *c, int ms) {
    struct pollfd p = {c->fd, POLLIN, 0};
    char more[65536];
    if (c->closed || poll(&p, 1, ms) <= 0)
        return false;
    ssize_t got = recv(c->fd, more, sizeof more, 0);
    if (got <= 0) {
        c->closed = true;
        c->reset = got < 0;
        return false;
    }
    if (c->in_n + (size_t)got + 1 > c->in_cap) {
        c->in_cap = 2 * (c->in_n + (size_t)got + 1);
        c->in = realloc(c->in, c->in_cap);
    }
    memcpy(c->in + c->in_n, more, (size_t)got);
    c->in_n += (size_t)got;
    c->in[c->in_n] = '\0';
    return true;
}

static inline bool raw_wait_closed(struct raw_client *c) {
    uint64_t end = td_now_ns() + RAW_WAIT_MS * TD_MS_NS;
    while (!c->closed && td_now_ns() < end)
        raw_receive(c, 100);
    return c->closed;
}

static inline void raw_take(struct raw_client *c, size_t n) {
    memmove(c->in, c->in + n, c->in_n - n + 1);
    c->in_n -= n;
}

// Waits until `n` bytes from the start are there; false at the end of the input or the deadline.
static inline bool raw_need(struct raw_client *c, size_t n) {
    uint64_t end = td_now_ns() + RAW_WAIT_MS * TD_MS_NS;
    while (c->in_n < n && !c->closed && td_now_ns() < end)
        raw_receive(c, 100);
    return c->in_n >= n;
}

static inline const char *raw_header(const struct raw_answer *a, const char *name) {
    static char value[512];
    char wanted[128];
    snprintf(wanted, sizeof wanted, "\r\n%s: ", name);
    const char *at = strstr(a->head, wanted);
    if (!at)
        return NULL;
    snprintf(value, sizeof value, "%.*s", (int)strcspn(at + strlen(wanted), "\r"), at + strlen(wanted));
    return value;
}

static inline void raw_answer_finish(struct raw_answer *a) {
    free(a->body);
    a->body = NULL;
}

static inline void raw_body_chunked(struct raw_client *c, struct raw_answer *a) {
    size_t at = 0, body_cap = 0;
    while (!a->whole) {
        char *end;
        while (!(end = strstr(c->in + at, "\r\n")))
            if (!raw_need(c, c->in_n + 1))
                return;
        size_t n = strtoul(c->in + at, NULL, 16), data = (size_t)(end - c->in) + 2;
        if (!raw_need(c, data + n + 2))
            return;
        if (a->body_n + n + 1 > body_cap) {
            body_cap = 2 * (a->body_n + n + 1);
            a->body = realloc(a->body, body_cap);
        }
        memcpy(a->body + a->body_n, c->in + data, n);
        a->body_n += n;
        a->body[a->body_n] = '\0';
        at = data + n + 2;
        a->whole = n == 0;
    }
    raw_take(c, at);
}

// The next response; `bodiless`: it answers a HEAD. Status 0 when none comes within the deadline.
static inline struct raw_answer raw_read(struct raw_client *c, bool bodiless) {
    struct raw_answer a = {.body = calloc(1, 1)};
    while (!strstr(c->in, "\r\n\r\n"))
        if (!raw_need(c, c->in_n + 1))
            return a;
    size_t head_n = (size_t)(strstr(c->in, "\r\n\r\n") - c->in) + 4;
    snprintf(a.head, sizeof a.head, "%.*s", (int)head_n, c->in);
    if (sscanf(a.head, "HTTP/1.1 %3d", &a.status) != 1)
        return a;
    raw_take(c, head_n);
    if (bodiless || a.status == 204 || a.status < 200) {
        a.whole = true;
    } else if (raw_header(&a, "content-length")) {
        size_t n = strtoul(raw_header(&a, "content-length"), NULL, 10);
        a.whole = raw_need(c, n);
        n = a.whole ? n : c->in_n;
        a.body = realloc(a.body, n + 1);
        memcpy(a.body, c->in, n);
        a.body[n] = '\0';
        a.body_n = n;
        raw_take(c, n);
    } else if (raw_header(&a, "transfer-encoding")) {
        raw_body_chunked(c, &a);
    } else {
        a.whole = raw_wait_closed(c) && !c->reset;
        a.body = realloc(a.body, c->in_n + 1);
        memcpy(a.body, c->in, c->in_n + 1);
        a.body_n = c->in_n;
        raw_take(c, c->in_n);
    }
    return a;
}

// Waits on a condition with a deadline.
#define raw_wait(condition)                                                                                            \
    do {                                                                                                               \
        uint64_t end_ = td_now_ns() + RAW_WAIT_MS * TD_MS_NS;                                                          \
        while (!(condition) && td_now_ns() < end_)                                                                     \
            usleep(500);                                                                                               \
        assert_true(condition);                                                                                        \
    } while (0)

#endif
