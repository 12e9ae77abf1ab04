// SPDX-License-Identifier: Apache-2.0
// The relay of relay.c once more, with io_uring in the place of epoll, recv and send: what a gateway could save by it.
// Every connection has one receive that stays (multishot, into buffers that the kernel takes from a ring), what came is
// sent from where it lies, and all sends of a turn go into the kernel together with the wait for the next turn: one
// system call a turn.
//   relay-uring PORT UPSTREAM_PORT
// On SIGTERM it prints how many events a system call moved.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    FILES_MAX = 16384,
    ENTRIES = 4096,
    BUFFERS = 512, // few: they go round, and what went round stands in the processor's cache
    BUFFER_BYTES = 2048,
    GROUP = 0,
};
enum { ON_LISTEN, ON_RECEIVE, ON_SEND };

// What a completion says is told by its user data: what, whose (and which of those that had this number), which buffer.
static uint64_t tag(unsigned what, int fd, unsigned life, unsigned buffer) {
    return (uint64_t)what << 60 | (uint64_t)(life & 0xfff) << 48 | (uint64_t)(unsigned)fd << 16 | buffer;
}

static int peer_of[FILES_MAX];
static unsigned life_of[FILES_MAX];
static int ring_fd;
static unsigned *sq_head, *sq_tail, *cq_head, *cq_tail, sq_mask, cq_mask, sq_next;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static struct io_uring_buf_ring *buffers;
static char *memory;
static uint16_t buffers_tail;
static uint64_t calls, pieces;
static volatile sig_atomic_t ending;

static void on_term(int sig) {
    (void)sig;
    ending = 1;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void enter(unsigned wait) {
    unsigned submit = sq_next - *sq_tail;
    atomic_store_explicit((_Atomic unsigned *)sq_tail, sq_next, memory_order_release);
    calls++;
    if (syscall(SYS_io_uring_enter, ring_fd, submit, wait, wait ? IORING_ENTER_GETEVENTS : 0, NULL, 0) < 0 &&
        errno != EINTR && errno != EAGAIN && errno != EBUSY && errno != ETIME)
        die("io_uring_enter");
}

static struct io_uring_sqe *next(void) {
    if (sq_next - atomic_load_explicit((_Atomic unsigned *)sq_head, memory_order_acquire) > sq_mask)
        enter(0);
    struct io_uring_sqe *s = &sqes[sq_next++ & sq_mask];
    memset(s, 0, sizeof *s);
    return s;
}

static void give_back(unsigned buffer) {
    struct io_uring_buf *b = &buffers->bufs[buffers_tail & (BUFFERS - 1)];
    b->addr = (uint64_t)(uintptr_t)(memory + (size_t)buffer * BUFFER_BYTES);
    b->len = BUFFER_BYTES;
    b->bid = (uint16_t)buffer;
    atomic_store_explicit((_Atomic uint16_t *)&buffers->tail, ++buffers_tail, memory_order_release);
}

static void open_ring(void) {
    struct io_uring_params p = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE |
                                         IORING_SETUP_SUBMIT_ALL,
                                .cq_entries = 4 * ENTRIES};
    ring_fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &p);
    if (ring_fd < 0)
        die("io_uring_setup");
    size_t n = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe),
           sq_n = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    char *ring =
        mmap(NULL, n > sq_n ? n : sq_n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_fd, IORING_OFF_SQ_RING);
    sqes = mmap(NULL, p.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_fd,
                IORING_OFF_SQES);
    if (ring == MAP_FAILED || sqes == MAP_FAILED)
        die("mmap");
    sq_head = (unsigned *)(void *)(ring + p.sq_off.head), sq_tail = (unsigned *)(void *)(ring + p.sq_off.tail);
    cq_head = (unsigned *)(void *)(ring + p.cq_off.head), cq_tail = (unsigned *)(void *)(ring + p.cq_off.tail);
    sq_mask = p.sq_entries - 1, cq_mask = p.cq_entries - 1;
    cqes = (struct io_uring_cqe *)(void *)(ring + p.cq_off.cqes);
    unsigned *array = (unsigned *)(void *)(ring + p.sq_off.array);
    for (unsigned i = 0; i < p.sq_entries; i++)
        array[i] = i;
    size_t list_n = BUFFERS * sizeof(struct io_uring_buf);
    buffers = mmap(NULL, list_n + BUFFERS * BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffers == MAP_FAILED)
        die("mmap");
    memory = (char *)buffers + list_n;
    struct io_uring_buf_reg reg = {.ring_addr = (uint64_t)(uintptr_t)buffers, .ring_entries = BUFFERS, .bgid = GROUP};
    if (syscall(SYS_io_uring_register, ring_fd, IORING_REGISTER_PBUF_RING, &reg, 1) != 0)
        die("IORING_REGISTER_PBUF_RING");
    for (unsigned i = 0; i < BUFFERS; i++)
        give_back(i);
    struct io_uring_rsrc_register files = {.nr = FILES_MAX, .flags = IORING_RSRC_REGISTER_SPARSE};
    if (syscall(SYS_io_uring_register, ring_fd, IORING_REGISTER_FILES2, &files, sizeof files) != 0)
        die("IORING_REGISTER_FILES2");
}

// The place in the ring's own table is the descriptor's number.
static void keep_file(int fd, int in_place) {
    struct io_uring_files_update u = {.offset = (unsigned)in_place, .fds = (uint64_t)(uintptr_t)&fd};
    if (syscall(SYS_io_uring_register, ring_fd, IORING_REGISTER_FILES_UPDATE, &u, 1) != 1)
        die("IORING_REGISTER_FILES_UPDATE");
}

static void receive(int fd, bool quiet) {
    struct io_uring_sqe *s = next();
    s->opcode = IORING_OP_RECV;
    s->fd = fd;
    s->flags = IOSQE_BUFFER_SELECT | IOSQE_FIXED_FILE;
    s->ioprio = (uint16_t)(IORING_RECV_MULTISHOT | (quiet ? IORING_RECVSEND_POLL_FIRST : 0));
    s->buf_group = GROUP;
    s->user_data = tag(ON_RECEIVE, fd, life_of[fd], 0);
}

static void send_on(int fd, unsigned buffer, unsigned n) {
    struct io_uring_sqe *s = next();
    s->opcode = IORING_OP_SEND;
    s->fd = fd;
    s->flags = IOSQE_FIXED_FILE;
    s->addr = (uint64_t)(uintptr_t)(memory + (size_t)buffer * BUFFER_BYTES);
    s->len = n;
    s->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
    s->user_data = tag(ON_SEND, fd, life_of[fd], buffer);
}

static void take(int fd, int peer) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    peer_of[fd] = peer;
    life_of[fd]++;
    keep_file(fd, fd);
    receive(fd, true);
}

static void on_connection(int fd, int upstream_port) {
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)upstream_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
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

static void let_go(int fd) {
    shutdown(fd, SHUT_RDWR); // its receive ends; what comes of it is of an earlier life by then
    life_of[fd]++;
    peer_of[fd] = 0;
    keep_file(-1, fd);
    close(fd);
}

static void on_received(const struct io_uring_cqe *c, int fd) {
    bool known = (c->user_data >> 48 & 0xfff) == (life_of[fd] & 0xfff) && peer_of[fd];
    if (c->res > 0) {
        unsigned buffer = c->flags >> IORING_CQE_BUFFER_SHIFT;
        if (known)
            send_on(peer_of[fd], buffer, (unsigned)c->res);
        else
            give_back(buffer);
        pieces++;
    } else if (known && c->res != -ENOBUFS) {
        int peer = peer_of[fd];
        let_go(fd);
        let_go(peer);
        return;
    }
    if (known && !(c->flags & IORING_CQE_F_MORE))
        receive(fd, false);
}

static int open_listener(int port) {
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 2048) != 0)
        die("listen");
    return fd;
}

static void accept_on(int fd) {
    struct io_uring_sqe *s = next();
    s->opcode = IORING_OP_ACCEPT;
    s->fd = fd;
    s->ioprio = IORING_ACCEPT_MULTISHOT;
    s->accept_flags = SOCK_CLOEXEC;
    s->user_data = tag(ON_LISTEN, 0, 0, 0);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: relay-uring PORT UPSTREAM_PORT\n");
        return 2;
    }
    struct rlimit files = {FILES_MAX, FILES_MAX};
    setrlimit(RLIMIT_NOFILE, &files);
    struct sigaction act = {.sa_handler = on_term};
    sigaction(SIGTERM, &act, NULL);
    open_ring();
    int listen_fd = open_listener(atoi(argv[1]));
    accept_on(listen_fd);
    while (!ending) {
        enter(1);
        unsigned head = *cq_head, tail = atomic_load_explicit((_Atomic unsigned *)cq_tail, memory_order_acquire);
        for (; head != tail; head++) {
            const struct io_uring_cqe *c = &cqes[head & cq_mask];
            int fd = (int)(c->user_data >> 16 & 0xffffffff);
            switch (c->user_data >> 60) {
            case ON_LISTEN:
                if (c->res >= 0)
                    on_connection(c->res, atoi(argv[2]));
                if (!(c->flags & IORING_CQE_F_MORE))
                    accept_on(listen_fd);
                break;
            case ON_RECEIVE:
                on_received(c, fd);
                break;
            default:
                give_back((unsigned)c->user_data & 0xffff);
            }
        }
        atomic_store_explicit((_Atomic unsigned *)cq_head, head, memory_order_release);
    }
    printf("pieces=%lu calls=%lu\n", (unsigned long)pieces, (unsigned long)calls);
    return 0;
}
