// SPDX-License-Identifier: Apache-2.0
// Both ends of N event streams in one thread, with a gateway between: the source, which answers the gateway's requests
// with an event every EVERY ms per stream, and the client that asks for them and reads them. Two processes that share
// a core take it from each other for milliseconds; one thread that sends a few events and then reads what has come
// measures the gateway.
//
//   sse-bench SOURCE_PORT TO_PORT STREAMS EVERY_MS TOKENS [PATH]
//
// TO_PORT is the gateway's, or SOURCE_PORT itself for no gateway. After a few streams to warm up it prints "warm" and
// waits for a line; then it starts the streams, spread over a second, prints "steady" when the last has begun for a
// while, "over" when the first is about to end, and then the figures, percentiles in microseconds. Where nothing else
// is said they are of the time between the two; those of the start and the end follow as "ramp_…":
//   late   of an event's sending: what the source is behind its own time table (the streams' phases are spread evenly)
//   lag    from an event's sending to its reading
//   gap    between two neighbouring events of a stream, less EVERY_MS; negative counts as 0
//   added  an event's lag less that of the one before: what the way between added to the gap
//   first  from a request to its first event, which is sent at once
// An event carries its number and the time it was sent in its text. An event that is missing, out of order or doubled
// is counted as lost.
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
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "percentiles.h"

enum {
    STREAMS_MAX = 4096,
    SENDS_PER_TURN = 4, // then what has come is read: neither end keeps the other waiting for long
    READS_PER_TURN = 8,
    START_MS = 1000,
    WARM_STREAMS = 8,
    WARM_TOKENS = 20,
    TAIL_MAX = 2048,
    RUN_S_MAX = 60,
};

// Of every stream: one connection of the client, and the source's of the gateway, which may be used again.
struct client {
    int fd;
    uint64_t asked_ns, last_ns, last_lag_ns;
    uint32_t next; // the number that the next event must have
    bool open, complete;
    char *tail; // the beginning of an event whose end has not come
    size_t tail_n;
};

struct served {
    int fd; // -1 free
    char request[8192];
    size_t request_n;
};

struct slot {
    struct served *to; // NULL: nobody asked yet, or over
    uint32_t next;
};

enum { LATE, LAG, GAP, ADDED, FIRST, KINDS };
static struct samples samples[2][KINDS] = {
    {{.name = "late"}, {.name = "lag"}, {.name = "gap"}, {.name = "added"}, {.name = "first"}},
    {{.name = "ramp_late"}, {.name = "ramp_lag"}, {.name = "ramp_gap"}, {.name = "ramp_added"}, {.name = "first"}}};
static bool steady; // between the start and the end
static struct client clients[STREAMS_MAX];
static struct served served[2 * STREAMS_MAX];
static struct slot slots[STREAMS_MAX];
static uint32_t slot_count, slots_taken, tokens;
static uint64_t every_ns, base_ns, turn, turn_at; // the slot whose turn is next: number `turn_at` of round `turn`
static uint64_t events_read, lost, cut;
static int poll_fd, listen_fd;
static const char *path = "/v1/chat/completions";

enum { KIND_LISTEN, KIND_SERVED, KIND_CLIENT };

static void add(int kind, int64_t ns) {
    samples_add(&samples[!steady][kind], ns);
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, uint32_t kind, uint32_t index) {
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = (uint64_t)kind << 32 | index};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e) != 0)
        die("epoll_ctl");
}

static void set_up(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
}

// ---- the source

// The event of a stream: only number and time change, and they are as long always.
static char event_text[] =
    "NNN\r\ndata: {\"id\":\"cmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
    "\"model\":\"big-model\",\"choices\":[{\"index\":0,\"delta\":{\"content\":"
    "\"@0000000000000000000#00000 \"},\"logprobs\":null,\"finish_reason\":null}]}\n\n\r\n";
static char *event_ns, *event_number;
enum { NS_DIGITS = 19, NUMBER_DIGITS = 5 };

static void make_event(void) {
    char size[4];
    snprintf(size, sizeof size, "%03zx", sizeof event_text - 1 - 3 - 2 - 2);
    memcpy(event_text, size, 3);
    event_ns = strchr(event_text, '@') + 1;
    event_number = strchr(event_text, '#') + 1;
}

static void digits(char *p, int n, uint64_t v) {
    while (n-- > 0) {
        p[n] = (char)('0' + v % 10);
        v /= 10;
    }
}

static void write_event(uint32_t n, uint64_t now) {
    digits(event_number, NUMBER_DIGITS, n);
    digits(event_ns, NS_DIGITS, now);
}

// A socket that takes nothing at 10 KB a second has a gateway behind it that does not read: the run is void.
static void send_all(int fd, const char *p, size_t n) {
    while (n > 0) {
        ssize_t put = send(fd, p, n, MSG_NOSIGNAL);
        if (put <= 0) {
            cut++;
            return;
        }
        p += put;
        n -= (size_t)put;
    }
}

static void send_last(int fd) {
    static const char finish[] = "data: {\"id\":\"cmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
                                 "\"model\":\"big-model\",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,"
                                 "\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    char text[sizeof finish + 32];
    int n = snprintf(text, sizeof text, "%zx\r\n%s\r\n0\r\n\r\n", sizeof finish - 1, finish);
    send_all(fd, text, (size_t)n);
}

// Sends what is due, a few events at most. Returns when the next one will be.
static uint64_t send_due(void) {
    uint64_t due = 0;
    for (int sent = 0; sent < SENDS_PER_TURN;) {
        due = base_ns + turn * every_ns + turn_at * every_ns / slot_count;
        uint64_t now = now_ns();
        if (now < due)
            return due;
        struct slot *s = &slots[turn_at];
        if (++turn_at == slot_count)
            turn_at = 0, turn++;
        if (!s->to)
            continue;
        sent++;
        if (s->next == tokens) {
            send_last(s->to->fd);
            s->to = NULL;
            continue;
        }
        add(LATE, (int64_t)(now - due));
        write_event(s->next++, now);
        send_all(s->to->fd, event_text, sizeof event_text - 1);
    }
    return due;
}

static void answer(struct served *v) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                               "Transfer-Encoding: chunked\r\n\r\n";
    static const char other[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    bool stream = memmem(v->request, v->request_n, "\"stream\":true", 13) && slots_taken < slot_count;
    v->request_n = 0;
    if (!stream) {
        send_all(v->fd, other, sizeof other - 1);
        return;
    }
    char both[sizeof head + sizeof event_text];
    write_event(0, now_ns());
    memcpy(both, head, sizeof head - 1);
    memcpy(both + sizeof head - 1, event_text, sizeof event_text - 1);
    send_all(v->fd, both, sizeof head + sizeof event_text - 2);
    slots[slots_taken++] = (struct slot){v, 1};
}

static void on_request(uint32_t index) {
    struct served *v = &served[index];
    ssize_t got = recv(v->fd, v->request + v->request_n, sizeof v->request - 1 - v->request_n, 0);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN)
            return;
        for (uint32_t i = 0; i < slots_taken; i++)
            if (slots[i].to == v)
                slots[i].to = NULL, cut++;
        close(v->fd);
        v->fd = -1;
        return;
    }
    v->request_n += (size_t)got;
    v->request[v->request_n] = '\0';
    const char *end = strstr(v->request, "\r\n\r\n"), *length = strcasestr(v->request, "\r\ncontent-length:");
    if (end && v->request_n >= (size_t)(end + 4 - v->request) + (length ? strtoul(length + 17, NULL, 10) : 0))
        answer(v);
}

static void on_connection(void) {
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    uint32_t i = 0;
    while (i < 2 * STREAMS_MAX && served[i].fd >= 0)
        i++;
    if (i == 2 * STREAMS_MAX) {
        close(fd);
        return;
    }
    set_up(fd);
    served[i].fd = fd;
    served[i].request_n = 0;
    watch(fd, KIND_SERVED, i);
}

// ---- the client

static void ask(uint32_t index, int port) {
    static const char body[] = "{\"model\":\"auto\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":"
                               "\"Count.\"}]}";
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct client *c = &clients[index];
    char request[1024];
    int n = snprintf(request, sizeof request,
                     "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n%s",
                     path, port, sizeof body - 1, body);
    char *tail = c->tail;
    *c = (struct client){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .tail = tail, .open = true};
    if (!c->tail && !(c->tail = malloc(TAIL_MAX)))
        die("malloc");
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("connect");
    set_up(c->fd);
    c->asked_ns = now_ns();
    send_all(c->fd, request, (size_t)n);
    watch(c->fd, KIND_CLIENT, index);
}

static uint64_t number(const char *p, int n) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++)
        v = v * 10 + (uint64_t)(p[i] - '0');
    return v;
}

static void on_event(struct client *c, const char *text, uint64_t now) {
    uint64_t sent = number(text, NS_DIGITS), lag = now - sent;
    uint32_t got = (uint32_t)number(text + NS_DIGITS + 1, NUMBER_DIGITS);
    lost += got != c->next;
    add(LAG, (int64_t)lag);
    if (c->next == 0)
        add(FIRST, (int64_t)(now - c->asked_ns));
    else
        add(ADDED, (int64_t)lag - (int64_t)c->last_lag_ns);
    if (c->next > 1) // the second waits for its stream's place in the time table
        add(GAP, (int64_t)(now - c->last_ns) - (int64_t)every_ns);
    c->next = got + 1;
    c->last_ns = now;
    c->last_lag_ns = lag;
    events_read++;
}

static void on_readable(uint32_t index) {
    static const char mark[] = "\"content\":\"@";
    enum { MARK = sizeof mark - 1, REST = NS_DIGITS + 1 + NUMBER_DIGITS };
    static char in[TAIL_MAX + (64 << 10)];
    struct client *c = &clients[index];
    memcpy(in, c->tail, c->tail_n);
    ssize_t got = recv(c->fd, in + c->tail_n, sizeof in - c->tail_n, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    uint64_t now = now_ns();
    if (got > 0) {
        size_t n = c->tail_n + (size_t)got;
        char *p = in, *end = in + n, *at;
        while ((at = memmem(p, (size_t)(end - p), mark, MARK)) != NULL && end - at >= MARK + REST) {
            on_event(c, at + MARK, now);
            p = at + MARK + REST;
        }
        c->complete = memmem(p, (size_t)(end - p), "data: [DONE]", 12) != NULL;
        // From here on an event may have begun.
        size_t left = at ? (size_t)(end - at) : (size_t)(end - p) < MARK + 8 ? (size_t)(end - p) : MARK + 8;
        memcpy(c->tail, end - left, left);
        c->tail_n = left;
    }
    if (got <= 0 || c->complete) {
        lost += c->next != tokens;
        close(c->fd);
        c->open = false;
    }
}

// ---- a run

static void turn_once(uint64_t until_ns) {
    struct epoll_event events[READS_PER_TURN];
    uint64_t due = send_due(), now = now_ns();
    if (until_ns < due)
        due = until_ns;
    uint64_t wait = due > now ? due - now : 0;
    if (wait > 100000000u)
        wait = 100000000u;
    struct timespec t = {0, (long)wait};
    int n = epoll_pwait2(poll_fd, events, READS_PER_TURN, &t, NULL);
    for (int i = 0; i < n; i++) {
        uint32_t kind = (uint32_t)(events[i].data.u64 >> 32), index = (uint32_t)events[i].data.u64;
        if (kind == KIND_CLIENT)
            on_readable(index);
        else if (kind == KIND_SERVED)
            on_request(index);
        else
            on_connection();
    }
}

static void say(const char *what) {
    printf("%s events=%lu\n", what, (unsigned long)events_read);
    fflush(stdout);
}

static uint32_t count_open(uint32_t *complete) {
    uint32_t open = 0;
    *complete = 0;
    for (uint32_t i = 0; i < slot_count; i++) {
        open += clients[i].open;
        *complete += clients[i].complete;
    }
    return open;
}

static void forget(uint32_t count, uint32_t length) {
    slot_count = count;
    slots_taken = 0;
    tokens = length;
    memset(slots, 0, sizeof slots);
    for (uint32_t i = 0; i < count; i++)
        clients[i].complete = false;
    turn = turn_at = 0;
    lost = cut = events_read = 0;
    for (size_t i = 0; i < 2 * KINDS; i++)
        samples[i / KINDS][i % KINDS].n = 0;
}

// True when every stream was seen to its end.
static bool run(uint32_t count, uint32_t length, int port, uint64_t start_ns, bool saying) {
    forget(count, length);
    base_ns = now_ns();
    uint64_t over_at = base_ns + (length - 5) * every_ns, half_ns = (over_at - base_ns - start_ns) / 2;
    // What the start left behind is over within a second.
    uint64_t steady_at = base_ns + start_ns + (half_ns < 1000000000u ? half_ns : 1000000000u);
    uint64_t give_up_at = base_ns + (uint64_t)RUN_S_MAX * 1000000000u, now = base_ns;
    uint32_t asked = 0, complete = 0, said = saying ? 0 : 2;
    while (asked < count || (now < over_at || count_open(&complete) > 0)) {
        for (uint64_t at; asked < count && (at = base_ns + asked * start_ns / count) <= now; asked++)
            ask(asked, port);
        for (int i = 0; i < 16; i++)
            turn_once(asked < count ? base_ns + asked * start_ns / count : UINT64_MAX);
        now = now_ns();
        if (said < 2 && now >= (said ? over_at : steady_at)) {
            say(said++ ? "over" : "steady");
            steady = said == 1;
        }
        if (now > give_up_at)
            break;
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    if (saying)
        printf("streams=%u complete=%u events=%lu lost=%lu cut=%lu seconds=%.2f own_cpu_s=%.2f\n", count, complete,
               (unsigned long)events_read, (unsigned long)lost, (unsigned long)cut, (double)(now - base_ns) / 1e9,
               (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                   (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    return complete == count && lost == 0 && cut == 0;
}

static void listen_on(int port) {
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (listen_fd < 0 || bind(listen_fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(listen_fd, 2048) != 0)
        die("listen");
    watch(listen_fd, KIND_LISTEN, 0);
}

int main(int argc, char **argv) {
    if (argc < 6 || atoi(argv[3]) < 1 || atoi(argv[3]) > STREAMS_MAX || atoi(argv[5]) < 100) {
        fprintf(stderr, "usage: sse-bench SOURCE_PORT TO_PORT STREAMS EVERY_MS TOKENS [PATH]\n");
        return 2;
    }
    int to = atoi(argv[2]);
    uint32_t count = (uint32_t)atoi(argv[3]), length = (uint32_t)atoi(argv[5]);
    every_ns = (uint64_t)(atof(argv[4]) * 1e6);
    path = argc > 6 ? argv[6] : path;
    struct rlimit files = {3 * STREAMS_MAX, 3 * STREAMS_MAX};
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1000);
    (void)!setpriority(PRIO_PROCESS, 0, -15); // where it may: what else runs on this core shall not be measured
    for (size_t i = 0; i < 2 * KINDS; i++)
        samples_make(&samples[i / KINDS][i % KINDS], (size_t)count * (length + 1) + WARM_STREAMS * WARM_TOKENS);
    for (size_t i = 0; i < 2 * STREAMS_MAX; i++)
        served[i].fd = -1;
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    make_event();
    listen_on(atoi(argv[1]));
    if (!run(WARM_STREAMS, WARM_TOKENS, to, 20000000u, false)) {
        fprintf(stderr, "sse-bench: warming up, streams were cut\n");
        return 1;
    }
    say("warm");
    char line[16];
    if (!fgets(line, sizeof line, stdin))
        return 1;
    bool whole = run(count, length, to, START_MS * 1000000u, true);
    for (size_t i = 0; i < 2 * KINDS; i++)
        samples_print(&samples[i / KINDS][i % KINDS]);
    return whole ? 0 : 1;
}
