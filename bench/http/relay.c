// SPDX-License-Identifier: Apache-2.0
// The least that a gateway can do: every connection it accepts gets one of its own to the upstream, and what comes on
// either is sent on the other, read and forgotten. What an event costs here is the kernel's (and the loopback device's)
// own, which no gateway on this machine can be below.
//   relay PORT UPSTREAM_PORT [IDLE_US]
// IDLE_US is turned away after each piece: what a gateway that costs so much more is like. On SIGTERM it prints what a
// receive and a send took.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FILES_MAX = 16384 };

static int peer_of[FILES_MAX]; // 0: none
static int poll_fd;
static volatile sig_atomic_t ending;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void on_term(int sig) {
    (void)sig;
    ending = 1;
}

static void take(int fd, int peer) {
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    peer_of[fd] = peer;
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e) != 0)
        exit(1);
}

static void on_connection(int listen_fd, int upstream_port) {
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)upstream_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    int up = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (up < 0 || fd >= FILES_MAX || up >= FILES_MAX || connect(up, (struct sockaddr *)&to, sizeof to) != 0) {
        close(fd);
        if (up >= 0)
            close(up);
        return;
    }
    take(fd, up);
    take(up, fd);
}

static int open_listener(int port) {
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 2048) != 0)
        exit(1);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e);
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: relay PORT UPSTREAM_PORT [IDLE_US]\n");
        return 2;
    }
    struct rlimit files = {FILES_MAX, FILES_MAX};
    setrlimit(RLIMIT_NOFILE, &files);
    struct sigaction act = {.sa_handler = on_term};
    sigaction(SIGTERM, &act, NULL);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    int listen_fd = open_listener(atoi(argv[1]));
    uint64_t pieces = 0, receive_ns = 0, send_ns = 0, idle_ns = argc > 3 ? (uint64_t)(atof(argv[3]) * 1e3) : 0;
    while (!ending) {
        struct epoll_event events[64];
        int n = epoll_wait(poll_fd, events, 64, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd, peer = peer_of[fd];
            static char in[32768];
            if (fd == listen_fd) {
                on_connection(fd, atoi(argv[2]));
                continue;
            }
            uint64_t before = now_ns();
            ssize_t got = recv(fd, in, sizeof in, 0);
            uint64_t between = now_ns();
            if (got > 0 && send(peer, in, (size_t)got, MSG_NOSIGNAL) == got) {
                pieces++;
                receive_ns += between - before;
                uint64_t after = now_ns();
                send_ns += after - between;
                while (idle_ns && now_ns() - after < idle_ns)
                    ;
            } else if (got >= 0 || errno != EAGAIN) {
                close(fd);
                close(peer);
                for (int k = i + 1; k < n; k++) // its other end may be among what is ready
                    if (events[k].data.fd == peer)
                        events[k--] = events[--n];
            }
        }
    }
    if (pieces)
        printf("pieces=%lu receive_us=%.2f send_us=%.2f\n", (unsigned long)pieces,
               (double)receive_ns / (double)pieces / 1e3, (double)send_ns / (double)pieces / 1e3);
    return 0;
}
