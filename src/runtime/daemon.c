// SPDX-License-Identifier: Apache-2.0
// A small blocking HTTP/1.1 client for one purpose: the command line talking to the daemon of the same user over the
// Unix socket in the data directory. It speaks to our own server only, so it knows just what that sends.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "tandem/admin.h"

typedef bool on_data_fn(void *user, const char *data, size_t length);

// A signal, or a while without bytes: the caller is asked whether it still wants to wait.
#define LOOK_US 250000

struct client {
    int fd;
    on_data_fn *on_data;
    void *user;
    bool stopped; // by the caller
    char buf[16384];
    size_t from, to; // unread bytes
};

static int fail(struct td_failure *failure, enum td_err err, const char *message) {
    if (failure) {
        snprintf(failure->code, sizeof failure->code, "%s", td_err_code(err));
        snprintf(failure->message, sizeof failure->message, "%s", message);
    }
    return 1;
}

static int connect_to(const char *data_dir) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int n = snprintf(addr.sun_path, sizeof addr.sun_path, "%s/tandem.sock", data_dir);
    if (n < 0 || (size_t)n >= sizeof addr.sun_path)
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof addr) != 0) {
        close(fd);
        fd = -1;
    }
    struct timeval look = {.tv_usec = LOOK_US};
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &look, sizeof look); // without it only a signal makes it look
    return fd;
}

static bool send_all(int fd, const char *p, size_t n) {
    while (n > 0) {
        ssize_t put = send(fd, p, n, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return false;
        p += put;
        n -= (size_t)put;
    }
    return true;
}

// Reads more; false at the end or on error.
static bool fill(struct client *c) {
    if (c->from == c->to)
        c->from = c->to = 0;
    if (c->to == sizeof c->buf)
        return false;
    for (;;) {
        ssize_t got = recv(c->fd, c->buf + c->to, sizeof c->buf - c->to, 0);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
            if (c->on_data && !c->on_data(c->user, "", 0)) {
                c->stopped = true;
                return false;
            }
            continue;
        }
        if (got <= 0)
            return false;
        c->to += (size_t)got;
        return true;
    }
}

// One line without its CRLF into `line`; false when the peer closed or the line is too long.
static bool read_line(struct client *c, char *line, size_t cap) {
    size_t n = 0;
    for (;;) {
        if (c->from == c->to && !fill(c))
            return false;
        char ch = c->buf[c->from++];
        if (ch == '\n') {
            line[n > 0 && line[n - 1] == '\r' ? n - 1 : n] = 0;
            return true;
        }
        if (n + 1 >= cap)
            return false;
        line[n++] = ch;
    }
}

// Hands up `n` bytes of body. 1 done, 0 stopped by the caller, -1 broken.
static int pass(struct client *c, size_t n, on_data_fn *on_data, void *user) {
    while (n > 0) {
        if (c->from == c->to && !fill(c))
            return -1;
        size_t have = c->to - c->from;
        if (have > n)
            have = n;
        if (on_data && !on_data(user, c->buf + c->from, have))
            return 0;
        c->from += have;
        n -= have;
    }
    return 1;
}

static int read_chunks(struct client *c, on_data_fn *on_data, void *user) {
    char line[128];
    for (;;) {
        if (!read_line(c, line, sizeof line))
            return -1;
        size_t n = strtoul(line, NULL, 16);
        if (n == 0)
            return read_line(c, line, sizeof line) ? 1 : -1;
        int done = pass(c, n, on_data, user);
        if (done != 1)
            return done;
        if (!read_line(c, line, sizeof line))
            return -1;
    }
}

static int read_answer(struct client *c, on_data_fn *on_data, void *user, int *status) {
    char line[8192];
    bool chunked = false;
    uint64_t length = 0;
    if (!read_line(c, line, sizeof line) || sscanf(line, "HTTP/1.1 %d", status) != 1)
        return -1;
    while (read_line(c, line, sizeof line) && line[0]) {
        char *colon = strchr(line, ':');
        if (!colon)
            return -1;
        struct td_str name = td_str_n(line, (size_t)(colon - line)), value = td_str_trim(td_str_of(colon + 1));
        if (td_str_ieq(name, TD_STR("transfer-encoding")))
            chunked = td_str_ieq(value, TD_STR("chunked"));
        else if (td_str_ieq(name, TD_STR("content-length")) && !td_str_to_u64(value, &length))
            return -1;
    }
    return chunked ? read_chunks(c, on_data, user) : pass(c, (size_t)length, on_data, user);
}

int td_daemon_request(const char *data_dir, const char *method, const char *path, const char *body, size_t length,
                      bool (*on_data)(void *user, const char *data, size_t length), void *user, int *status,
                      struct td_failure *failure) {
    struct client *c = td_calloc(1, sizeof *c);
    char head[512];
    int result = 1;
    if (!c)
        return fail(failure, TD_ERR_NOMEM, "out of memory");
    c->on_data = on_data;
    c->user = user;
    c->fd = connect_to(data_dir);
    if (c->fd < 0) {
        fail(failure, TD_ERR_NOT_FOUND, "no daemon runs on this data directory");
        goto out;
    }
    int n = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                     "Connection: close\r\n\r\n",
                     method, path, length);
    if (n < 0 || (size_t)n >= sizeof head || !send_all(c->fd, head, (size_t)n) || !send_all(c->fd, body, length) ||
        (read_answer(c, on_data, user, status) < 0 && !c->stopped)) {
        fail(failure, TD_ERR_IO, "the connection to the daemon broke");
        goto out;
    }
    result = 0;
out:
    if (c->fd >= 0)
        close(c->fd);
    td_free(c);
    return result;
}

struct collect {
    struct td_buf body;
};

static bool on_collect(void *user, const char *data, size_t length) {
    return td_buf_add(&((struct collect *)user)->body, data, length) == TD_OK;
}

int td_admin_remote(const char *data_dir, const char *method, const char *params, char **result,
                    struct td_failure *failure) {
    struct collect collect;
    char path[160];
    int status = 0;
    td_buf_init(&collect.body, TD_REPLY_BYTES_MAX);
    snprintf(path, sizeof path, "/admin/%s", method);
    int failed =
        td_daemon_request(data_dir, "POST", path, params, strlen(params), on_collect, &collect, &status, failure);
    if (!failed && !td_buf_z(&collect.body))
        failed = fail(failure, TD_ERR_NOMEM, "out of memory");
    if (!failed && status != 200) {
        struct td_arena arena;
        td_arena_init(&arena, 1 << 20);
        td_json *root = NULL;
        failed = fail(failure, TD_ERR_INTERNAL, "the daemon refused");
        if (td_json_parse(&arena, td_buf_str(&collect.body), 8, &root, NULL) == TD_OK && failure) {
            td_json *error = td_json_get(root, "error");
            struct td_str code = td_json_get_str(error, "code"), message = td_json_get_str(error, "message");
            snprintf(failure->code, sizeof failure->code, "%.*s", TD_STR_ARG(code));
            snprintf(failure->message, sizeof failure->message, "%.*s", TD_STR_ARG(message));
        }
        td_arena_finish(&arena);
    }
    if (!failed)
        *result = collect.body.p;
    else
        td_buf_finish(&collect.body);
    return failed;
}
