// SPDX-License-Identifier: Apache-2.0
#include "raw_server.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PEERS_MAX = 64, REQUEST_BYTES_MAX = 16 << 20 };

struct peer {
    int fd;
    char *in;
    size_t n, cap;
    unsigned requests;
};

struct raw_server raw = {.lock = PTHREAD_MUTEX_INITIALIZER};

uint32_t sum_of(const char *p, size_t n) {
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 16777619u;
    return h;
}

static void raw_answer(struct peer *p) {
    size_t piece = raw.piece ? raw.piece : raw.reply_n;
    for (size_t at = 0; at < raw.reply_n; at += piece) {
        size_t n = raw.reply_n - at < piece ? raw.reply_n - at : piece;
        if (send(p->fd, raw.reply + at, n, MSG_NOSIGNAL) < 0)
            break;
        if (raw.piece)
            usleep(50);
    }
}

uint32_t dices[2];

unsigned roll_one(uint32_t *dice, unsigned sides) {
    *dice = *dice * 1664525u + 1013904223u;
    return (*dice >> 8) % sides;
}

static void raw_hang_up(struct peer *p);

// Four pieces that each say which request they belong to; whole or cut, once or twice, with a length or in chunks.
static void raw_answer_wild(struct peer *p, unsigned number) {
    char events[2048], reply[8192];
    int n = 0, all;
    for (int i = 0; i < 4; i++)
        n += snprintf(events + n, sizeof events - (size_t)n, CHUNK("\"delta\":{\"content\":\"<%u>\"}"), number);
    n += snprintf(events + n, sizeof events - (size_t)n,
                  CHUNK("\"delta\":{},\"finish_reason\":\"stop\"") "data: [DONE]\n\n");
    bool chunked = roll_one(&dices[1], 2), last = roll_one(&dices[1], 6) != 0, twice = roll_one(&dices[1], 6) == 0;
    if (chunked)
        all = snprintf(reply, sizeof reply, "%sHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%s",
                       roll_one(&dices[1], 3) ? "" : "HTTP/1.1 100 Continue\r\n\r\n", (unsigned)n, events,
                       last ? "0\r\n\r\n" : "");
    else
        all = snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", n,
                       roll_one(&dices[1], 6) ? "" : "Connection: close\r\n", events);
    if (twice && 2 * (size_t)all < sizeof reply) { // in one go: what is sent later could be the next one's answer
        memcpy(reply + all, reply, (size_t)all);
        (void)!send(p->fd, reply, 2 * (size_t)all, MSG_NOSIGNAL);
        return;
    }
    int cut = roll_one(&dices[1], 5) ? all : (int)roll_one(&dices[1], (unsigned)all),
        piece = roll_one(&dices[1], 2) ? all : 1 + (int)roll_one(&dices[1], 200);
    for (int at = 0; at < cut; at += piece)
        if (send(p->fd, reply + at, (size_t)(cut - at < piece ? cut - at : piece), MSG_NOSIGNAL) < 0)
            break;
    if (cut == all && roll_one(&dices[1], 8))
        return;
    if (roll_one(&dices[1], 2)) { // a reset
        struct linger off = {1, 0};
        setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
    }
    raw_hang_up(p);
}

static void raw_hang_up(struct peer *p) {
    close(p->fd);
    free(p->in);
    *p = (struct peer){.fd = -1};
    raw.open--;
}

// True: a whole request was there, and is taken off.
static bool raw_take(struct peer *p) {
    char *end = memmem(p->in, p->n, "\r\n\r\n", 4), *length;
    if (!end)
        return false;
    size_t head = (size_t)(end + 4 - p->in), body;
    end[3] = 0;
    length = strcasestr(p->in, "content-length: ");
    body = length ? strtoul(length + 16, NULL, 10) : 0;
    end[3] = '\n';
    if (p->n < head + body && !raw.early)
        return false;
    raw.request_n = head < sizeof raw.request ? head : 0;
    memcpy(raw.request, p->in, raw.request_n);
    raw.body_n = p->n - head < body ? p->n - head : body;
    raw.body_sum = sum_of(p->in + head, raw.body_n);
    char *number = memmem(p->in + head, raw.body_n, "no=", 3);
    raw.number = number ? (unsigned)strtoul(number + 3, NULL, 10) : 0;
    memmove(p->in, p->in + head + raw.body_n, p->n - head - raw.body_n);
    p->n -= head + raw.body_n;
    raw.requests++;
    return true;
}

static void raw_serve(struct peer *p) {
    if (p->cap - p->n < 65536)
        p->in = realloc(p->in, p->cap = p->cap ? 2 * p->cap : 131072);
    ssize_t got = recv(p->fd, p->in + p->n, 65536, 0);
    pthread_mutex_lock(&raw.lock);
    if (got <= 0) {
        raw_hang_up(p);
    } else {
        for (size_t i = 0; i < (size_t)got; i++)
            raw.strange += p->in[p->n + i] == '#';
        p->n += (size_t)got;
        if (p->requests == 0 || !raw.early)
            while (raw_take(p)) {
                p->requests++;
                if (raw.wild) {
                    raw_answer_wild(p, raw.number);
                    if (p->fd < 0)
                        break;
                    continue;
                }
                raw_answer(p);
                if (raw.close_after) {
                    raw_hang_up(p);
                    break;
                }
            }
    }
    pthread_mutex_unlock(&raw.lock);
}

static void *raw_run(void *arg) {
    static struct peer peers[PEERS_MAX];
    (void)arg;
    for (int i = 0; i < PEERS_MAX; i++)
        peers[i].fd = -1;
    while (!atomic_load(&raw.stop)) {
        struct pollfd fds[PEERS_MAX + 1] = {{.fd = raw.listener, .events = POLLIN}};
        pthread_mutex_lock(&raw.lock);
        bool stall = raw.stall;
        unsigned slow_us = raw.slow_us;
        pthread_mutex_unlock(&raw.lock);
        for (int i = 0; i < PEERS_MAX; i++)
            fds[i + 1] = (struct pollfd){.fd = stall && peers[i].requests ? -1 : peers[i].fd, .events = POLLIN};
        poll(fds, PEERS_MAX + 1, 5);
        if (slow_us)
            usleep(slow_us);
        for (int i = 0; i < PEERS_MAX; i++)
            if (peers[i].fd >= 0 && fds[i + 1].revents)
                raw_serve(&peers[i]);
        pthread_mutex_lock(&raw.lock);
        for (int i = 0; i < PEERS_MAX; i++) {
            if (peers[i].fd >= 0 && raw.babble)
                (void)!send(peers[i].fd, "HTTP/1.1 408 Too slow\r\n\r\n", 25, MSG_NOSIGNAL);
            if (peers[i].fd >= 0 && raw.close_idle)
                raw_hang_up(&peers[i]);
        }
        raw.babble = raw.close_idle = false;
        if (fds[0].revents)
            for (int i = 0; i < PEERS_MAX; i++)
                if (peers[i].fd < 0) {
                    peers[i].fd = accept(raw.listener, NULL, NULL);
                    raw.connections += peers[i].fd >= 0;
                    raw.open += peers[i].fd >= 0;
                    break;
                }
        pthread_mutex_unlock(&raw.lock);
    }
    for (int i = 0; i < PEERS_MAX; i++)
        if (peers[i].fd >= 0)
            raw_hang_up(&peers[i]);
    return NULL;
}

int listen_on(const char *address, uint16_t *port, int backlog) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(*port)};
    socklen_t n = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    inet_pton(AF_INET, address, &at.sin_addr);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, backlog) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &n) != 0) {
        close(fd);
        return -1;
    }
    *port = ntohs(at.sin_port);
    return fd;
}

bool raw_open(void) {
    raw.listener = listen_on("127.0.0.1", &raw.port, 64);
    return raw.listener >= 0 && pthread_create(&raw.thread, NULL, raw_run, NULL) == 0;
}

void raw_close(void) {
    atomic_store(&raw.stop, true);
    pthread_join(raw.thread, NULL);
    close(raw.listener);
}
