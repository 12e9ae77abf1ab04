// SPDX-License-Identifier: Apache-2.0
// A model host that a hostile model has taken over: it says it is ready, then answers the first request with something
// that no honest guest sends. What, its own name's last letters say (a link to this program): garbage, huge, ids, utf8,
// tokens, credits, twice, flood; hangup closes the connection and lives on.
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "local/protocol.h"
#include "wire/event.h"

static const char *kind;

static void say(int fd, struct td_buf *b) {
    for (size_t at = 0; at < b->n;) {
        ssize_t n = send(fd, b->p + at, b->n - at, MSG_NOSIGNAL);
        if (n <= 0)
            exit(0);
        at += (size_t)n;
    }
    td_buf_clear(b);
}

static void text(struct td_buf *b, uint32_t id, struct td_str what, uint32_t tokens) {
    struct td_proto_writer w;
    td_proto_begin(&w, b, TD_FRAME_TEXT, id);
    td_proto_u32(&w, 0);
    td_proto_str(&w, what);
    td_proto_u32(&w, tokens);
    if (td_proto_end(&w) != TD_OK)
        exit(1);
}

static void answer(int fd, uint32_t id) {
    struct td_buf b;
    struct td_proto_writer w;
    td_buf_init(&b, 1 << 20);
    if (strstr(kind, "garbage")) {
        for (int i = 0; i < 4000; i++)
            if (td_buf_addc(&b, (char)(i * 37 + 11)) != TD_OK)
                exit(1);
    } else if (strstr(kind, "huge")) {
        if (td_buf_add(&b, "\xff\xff\xff\xff\x08\0\0\0\x01\0\0\0", 12) != TD_OK)
            exit(1);
    } else if (strstr(kind, "ids")) {
        text(&b, 0xfffffff0u, TD_STR("for nobody"), 0);
    } else if (strstr(kind, "utf8")) {
        text(&b, id, TD_STR("\xff\xfe"), 0);
    } else if (strstr(kind, "tokens")) {
        text(&b, id, TD_STR("x"), 0xffffffff);
    } else if (strstr(kind, "twice")) {
        for (int i = 0; i < 2; i++) {
            td_proto_begin(&w, &b, TD_FRAME_END, id);
            if (td_proto_end(&w) != TD_OK)
                exit(1);
        }
    } else if (strstr(kind, "hangup")) {
        close(fd);
        for (;;)
            pause();
    } else if (strstr(kind, "flood")) { // more than any credit allows
        for (;;) {
            text(&b, id, TD_STR("flood "), 0);
            say(fd, &b);
        }
    } else {
        td_proto_begin(&w, &b, TD_FRAME_FINISH, id);
        td_proto_u32(&w, 77);
        td_proto_u32(&w, 99);
        td_proto_u32(&w, 0);
        if (td_proto_end(&w) != TD_OK)
            exit(1);
    }
    say(fd, &b);
}

int main(int argc, char **argv) {
    static char in[1 << 16];
    struct td_buf b;
    struct td_proto_ready ready = {.version = TD_PROTO_VERSION, .context = 512, .parallel = 4};
    (void)argc;
    (void)argv;
    char self[4096] = "";
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        return 1;
    kind = strrchr(self, '/');
    td_buf_init(&b, 4096);
    if (!kind || recv(3, in, sizeof in, 0) <= 0 || td_proto_put_ready(&b, &ready) != TD_OK)
        return 1;
    say(3, &b);
    size_t have = 0;
    for (;;) {
        struct pollfd fds[2] = {{3, POLLIN, 0}, {5, POLLIN, 0}};
        if (poll(fds, 2, -1) < 0)
            continue;
        if (fds[0].revents && recv(3, self, sizeof self, 0) <= 0)
            return 0;
        if (!fds[1].revents)
            continue;
        ssize_t n = recv(5, in + have, sizeof in - have, 0);
        struct td_frame f;
        size_t used;
        if (n <= 0)
            return 0;
        have += (size_t)n;
        while (td_proto_next(td_str_n(in, have), sizeof in, &f, &used) == TD_OK && used) {
            if (f.type == TD_FRAME_REQUEST)
                answer(5, f.id);
            memmove(in, in + used, have - used);
            have -= used;
        }
    }
}
