// SPDX-License-Identifier: Apache-2.0
// Asks a server on this machine from one thread, with little processor time of its own: a generator that shares two
// cores with a model must not take from it what it measures.
//   load PORT PATH -c CLIENTS [-w WARM_S] [-s SECONDS] BODY…         each asks again when it has its answer
//   load PORT PATH -r PER_SECOND [-w WARM_S] [-s SECONDS] BODY…      evenly spaced, whatever comes back
// Bodies are sent in turn. Connections are kept. Of an answer the status and the length are looked at. A client that is
// turned away asks again after 5 ms. Printed as JSON, of SECONDS after WARM_S: `goodput` (answers that ended, per
// second), `ms` (of each answer to what was asked since, also when it ended later), `kinds` (for each body: answered,
// not answered), `own` (the share of a core that this program took).
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "percentiles.h"

enum { CONNS_MAX = 4096, BODIES_MAX = 16, HEAD_MAX = 4096, ANSWERS_MAX = 1 << 20, EVENTS = 64 };
static const uint64_t PAUSE_NS = 5000000, DRAIN_NS = 60ull * 1000000000u;

struct conn {
    int fd; // -1: none
    uint32_t kind;
    bool busy, in_body;
    uint64_t asked_ns, again_ns; // again_ns: a client that pauses
    size_t left, head_n;
    int status;
    char head[HEAD_MAX + 1];
};

static struct conn conns[CONNS_MAX];
static uint32_t idle[CONNS_MAX], idle_n, conns_n, busy_n, clients;
static char *requests[BODIES_MAX];
static size_t request_n[BODIES_MAX];
static uint32_t bodies, port;
static struct samples took = {.name = "took"};
static uint64_t from_ns, until_ns, ended, kinds[BODIES_MAX][2];
static int poll_fd;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static bool open_conn(struct conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd >= 0 && connect(c->fd, (struct sockaddr *)&to, sizeof to) == 0) {
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &ev) == 0;
    }
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    return false;
}

static void over(struct conn *c, bool ok) {
    uint64_t now = now_ns();
    c->busy = c->in_body = false;
    c->head_n = 0;
    busy_n--;
    if (c->asked_ns >= from_ns)
        kinds[c->kind][ok ? 0 : 1]++;
    if (ok && c->asked_ns >= from_ns)
        samples_add(&took, (int64_t)(now - c->asked_ns));
    ended += ok && now >= from_ns && now <= until_ns;
    c->again_ns = ok ? now : now + PAUSE_NS;
    if (!clients)
        idle[idle_n++] = (uint32_t)(c - conns);
}

static void drop(struct conn *c) {
    close(c->fd);
    c->fd = -1;
    if (c->busy)
        over(c, false);
}

static void ask(struct conn *c, uint32_t kind) {
    c->kind = kind;
    c->busy = true;
    c->asked_ns = now_ns();
    busy_n++;
    if ((c->fd < 0 && !open_conn(c)) || send(c->fd, requests[kind], request_n[kind], MSG_NOSIGNAL) < 0) {
        if (c->fd >= 0)
            drop(c);
        else
            over(c, false);
    }
}

// The next request of those that come evenly spaced.
static void ask_any(uint32_t kind) {
    if (idle_n > 0)
        ask(&conns[idle[--idle_n]], kind);
    else if (conns_n < CONNS_MAX)
        ask(&conns[conns_n++], kind);
    else
        fail("load: more than 4096 requests at once");
}

// The end of the head has come: true, and `left` is set.
static bool head_done(struct conn *c) {
    c->head[c->head_n] = '\0';
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end)
        return false;
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    size_t have = c->head_n - (size_t)(end + 4 - c->head);
    if (!length || length > end) {
        fprintf(stderr, "load: an answer without a length\n");
        exit(1);
    }
    c->status = atoi(c->head + 9);
    c->left = strtoull(length + 17, NULL, 10) - have;
    c->in_body = true;
    return true;
}

static void on_bytes(struct conn *c) {
    static char rest[64 << 10];
    char *to = c->in_body ? rest : c->head + c->head_n;
    ssize_t n = recv(c->fd, to, c->in_body ? sizeof rest : HEAD_MAX - c->head_n, 0);
    if (n <= 0) {
        drop(c);
        return;
    }
    if (c->in_body) {
        c->left -= (size_t)n;
    } else {
        c->head_n += (size_t)n;
        if (!head_done(c)) {
            if (c->head_n == HEAD_MAX)
                drop(c);
            return;
        }
    }
    if (c->left == 0)
        over(c, c->status == 200);
}

static void wait_until(uint64_t ns) {
    struct epoll_event ready[EVENTS];
    uint64_t now = now_ns(), left = ns > now ? ns - now : 0;
    struct timespec t = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
    int n = epoll_pwait2(poll_fd, ready, EVENTS, &t, NULL);
    if (n < 0 && errno != EINTR)
        fail("epoll");
    for (int i = 0; i < n; i++)
        on_bytes(ready[i].data.ptr);
}

static void ask_in_time(double rate) {
    uint64_t begin = now_ns();
    for (uint64_t i = 0; now_ns() < until_ns; i++) {
        uint64_t due = begin + (uint64_t)((double)i * 1e9 / rate);
        do
            wait_until(due);
        while (now_ns() < due);
        ask_any((uint32_t)(i % bodies));
    }
}

static void ask_in_turn(void) {
    uint32_t turn = 0;
    while (now_ns() < until_ns) {
        uint64_t next = until_ns, now = now_ns();
        for (uint32_t i = 0; i < clients; i++) {
            struct conn *c = &conns[i];
            if (!c->busy && c->again_ns <= now)
                ask(c, turn++ % bodies);
            if (!c->busy && c->again_ns < next)
                next = c->again_ns;
        }
        wait_until(next);
    }
}

static void report(double seconds, uint64_t cpu_us, uint64_t wall_ns) {
    printf("{\"goodput\":%.3f,\"own\":%.3f,\"kinds\":[", (double)ended / seconds,
           (double)cpu_us * 1e3 / (double)wall_ns);
    for (uint32_t i = 0; i < bodies; i++)
        printf("%s[%llu,%llu]", i ? "," : "", (unsigned long long)kinds[i][0], (unsigned long long)kinds[i][1]);
    printf("],\"ms\":[");
    for (size_t i = 0; i < took.n; i++)
        printf("%s%.3f", i ? "," : "", (double)took.us[i] / 1e3);
    printf("]}\n");
}

static uint64_t cpu_us(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000u +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

int main(int argc, char **argv) {
    double rate = 0, warm = 1, seconds = 10;
    const char *path = NULL;
    int option;
    while ((option = getopt(argc, argv, "-c:r:w:s:")) != -1) {
        if (option == 'c')
            clients = (uint32_t)atoi(optarg);
        else if (option == 'r')
            rate = atof(optarg);
        else if (option == 'w')
            warm = atof(optarg);
        else if (option == 's')
            seconds = atof(optarg);
        else if (option == 1 && !port)
            port = (uint32_t)atoi(optarg);
        else if (option == 1 && !path)
            path = optarg;
        else if (option == 1 && bodies < BODIES_MAX &&
                 (request_n[bodies] =
                      (size_t)asprintf(&requests[bodies],
                                       "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%u\r\ncontent-type: application/json\r\n"
                                       "content-length: %zu\r\n\r\n%s",
                                       path, port, strlen(optarg), optarg)) != (size_t)-1)
            bodies++;
        else
            bodies = BODIES_MAX + 1;
    }
    if (bodies == 0 || bodies > BODIES_MAX || clients > CONNS_MAX || (clients == 0) == (rate <= 0)) {
        fprintf(stderr, "usage: load PORT PATH -c CLIENTS|-r PER_SECOND [-w WARM_S] [-s SECONDS] BODY...\n");
        return 2;
    }
    struct rlimit files = {CONNS_MAX + 64, CONNS_MAX + 64};
    setrlimit(RLIMIT_NOFILE, &files);
    samples_make(&took, ANSWERS_MAX);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (uint32_t i = 0; i < CONNS_MAX; i++)
        conns[i].fd = -1;
    uint64_t begin = now_ns(), before = cpu_us();
    from_ns = begin + (uint64_t)(warm * 1e9);
    until_ns = from_ns + (uint64_t)(seconds * 1e9);
    if (clients)
        ask_in_turn();
    else
        ask_in_time(rate);
    uint64_t wall = now_ns() - begin, used = cpu_us() - before;
    while (busy_n > 0 && now_ns() < until_ns + DRAIN_NS)
        wait_until(until_ns + DRAIN_NS);
    report(seconds, used, wall);
    return 0;
}
