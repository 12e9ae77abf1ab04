// SPDX-License-Identifier: Apache-2.0
// scripted-upstream: an OpenAI-compatible server for tests and benches, plain and over TLS, that misbehaves on request.
//
//   scripted-upstream [--port N] [--tls FOLDER] [--api-key KEY] [--proxy-auth USER:PASS] [--tokens N] [--token-ms N]
//                     [--first-token-ms N] [--models a,b] [--script JSON] [--instant] [--stamp]
//
// Prints one `name=value` per line when it listens: port, control_port and, with --tls, tls_port, tls_expired_port,
// tls_wrong_host_port, tls_mtls_port; FOLDER then holds ca.pem, client.pem, client.key,
// server.pem, server.key. Ends on SIGTERM or when its standard input ends. --instant: plain requests get one fixed
// answer of 1 KB, streams fixed tokens, nothing is logged. --stamp: every token tells when it was sent.
//
// Control, on every port and on control_port (which --down leaves alone):
//   POST /_script {"queue": [B, …], "standing": B | null}   behaviours: one per request, then the standing one
//   POST /_down {"down": true}                              the other ports refuse connections, and live ones are reset
//   POST /_reset                                            empties script and log, up again
//   GET  /_log[?requests=N&closed=M&timeout_ms=T]           what it saw; waits until there are N requests and M
//                                                           of them ended
// A behaviour B is an object with the fields of `struct behaviour` (upstream.h) and their names; `match` limits it to
// bodies that hold that string, `path` to paths that end so.
#include "upstream_conn.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/time.h"

static void on_accept(struct evconnlistener *ev, evutil_socket_t fd, struct sockaddr *address, int n, void *arg) {
    struct listener *l = arg;
    struct server *s = l->s;
    int one = 1;
    (void)ev, (void)address, (void)n;
    struct conn *c = td_calloc(1, sizeof *c);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!c) {
        close(fd);
        return;
    }
    SSL *ssl = l->tls ? SSL_new(l->tls) : NULL;
    c->bev = ssl ? bufferevent_openssl_socket_new(s->base, fd, ssl, BUFFEREVENT_SSL_ACCEPTING,
                                                  BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS)
                 : bufferevent_socket_new(s->base, fd, BEV_OPT_CLOSE_ON_FREE);
    c->s = s;
    c->fd = fd;
    c->tls = ssl != NULL;
    c->control = l->control;
    c->number = ++s->next_conn;
    c->timer = evtimer_new(s->base, on_timer, c);
    td_buf_init(&c->head, 4u << 20);
    c->next = s->conns;
    c->prev = &s->conns;
    if (c->next)
        c->next->prev = &c->next;
    s->conns = c;
    if (ssl)
        bufferevent_openssl_set_allow_dirty_shutdown(c->bev, 1);
    bufferevent_set_max_single_read(c->bev, 256 << 10);
    bufferevent_setcb(c->bev, on_read, NULL, on_event, c);
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
}

bool listener_open(struct listener *l) {
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(l->port)};
    socklen_t n = sizeof at;
    l->ev = evconnlistener_new_bind(l->s->base, on_accept, l,
                                    LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_EXEC, 1024,
                                    (struct sockaddr *)&at, sizeof at);
    if (!l->ev || getsockname(evconnlistener_get_fd(l->ev), (struct sockaddr *)&at, &n) != 0)
        return false;
    l->port = ntohs(at.sin_port);
    return true;
}

static bool add_listener(struct server *s, uint16_t port, SSL_CTX *tls, bool control) {
    struct listener *l = &s->listeners[s->listener_count];
    *l = (struct listener){.s = s, .tls = tls, .control = control, .port = port};
    if (!listener_open(l))
        return false;
    s->listener_count++;
    return true;
}

static void on_stdin(evutil_socket_t fd, short what, void *arg) {
    char drop[256];
    (void)what;
    if (read(fd, drop, sizeof drop) == 0)
        event_base_loopbreak(((struct server *)arg)->base);
}

static void on_signal(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    event_base_loopbreak(((struct server *)arg)->base);
}

static void make_instant(struct server *s) {
    char text[1100];
    struct td_buf b;
    static const char shape[] = "{\"id\":\"cmpl-0\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":"
                                "\"instant\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
                                "\"%s\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,"
                                "\"completion_tokens\":200,\"total_tokens\":210}}";
    size_t fill = 1024 - (sizeof shape - 3);
    for (size_t i = 0; i < fill; i++)
        text[i] = i % 6 == 5 ? ' ' : (char)('a' + i % 23);
    text[fill] = 0;
    td_buf_init(&b, 8192);
    if (td_buf_printf(&b, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n") !=
            TD_OK ||
        td_buf_printf(&b, shape, text) != TD_OK)
        abort();
    s->instant_reply = b.p;
    s->instant_n = b.n;
}

static bool start(struct server *s, uint16_t port, const char *tls_folder) {
    static const char *const names[] = {"tls_port", "tls_expired_port", "tls_wrong_host_port", "tls_mtls_port"};
    SSL_CTX *contexts[TLS_MODE_COUNT] = {0};
    if (!add_listener(s, port, NULL, false) || !add_listener(s, 0, NULL, true))
        return false;
    printf("port=%u\ncontrol_port=%u\n", s->listeners[0].port, s->listeners[1].port);
    if (tls_folder) {
        if (!tls_make(tls_folder, contexts))
            return false;
        for (int i = 0; i < TLS_MODE_COUNT; i++) {
            if (!add_listener(s, 0, contexts[i], false))
                return false;
            printf("%s=%u\n", names[i], s->listeners[s->listener_count - 1].port);
        }
    }
    printf("ready=1\n");
    return fflush(stdout) == 0;
}

static int usage(void) {
    fputs("usage: scripted-upstream [--port N] [--tls FOLDER] [--api-key KEY] [--proxy-auth VALUE] [--tokens N]\n"
          "       [--token-ms N] [--first-token-ms N] [--models a,b] [--script JSON] [--instant] [--stamp]\n",
          stderr);
    return 2;
}

int main(int argc, char **argv) {
    static struct server s = {.models = "big-model", .tokens = 60};
    const char *tls_folder = NULL, *script = NULL;
    uint16_t port = 0;
    char why[128];
    int status = 1;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--stamp") == 0) {
            s.stamp = true;
            continue;
        }
        if (strcmp(name, "--instant") == 0) {
            s.instant = true;
            continue;
        }
        const char *value = i + 1 < argc ? argv[++i] : NULL;
        if (!value)
            return usage();
        if (strcmp(name, "--port") == 0)
            port = (uint16_t)atoi(value);
        else if (strcmp(name, "--tls") == 0)
            tls_folder = value;
        else if (strcmp(name, "--api-key") == 0)
            s.api_key = value;
        else if (strcmp(name, "--proxy-auth") == 0)
            s.proxy_auth = value;
        else if (strcmp(name, "--tokens") == 0)
            s.tokens = (uint32_t)atoi(value);
        else if (strcmp(name, "--token-ms") == 0)
            s.token_ms = (uint32_t)atoi(value);
        else if (strcmp(name, "--first-token-ms") == 0)
            s.first_token_ms = (uint32_t)atoi(value);
        else if (strcmp(name, "--models") == 0)
            s.models = value;
        else if (strcmp(name, "--script") == 0)
            script = value;
        else
            return usage();
    }
    signal(SIGPIPE, SIG_IGN);
    struct event_config *config = event_config_new();
    if (!config)
        return 1;
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_PRECISE_TIMER);
    s.base = event_base_new_with_config(config);
    event_config_free(config);
    s.start_ns = td_now_ns();
    make_instant(&s);
    if (!s.base)
        return 1;
    if (script && !script_read(&s, td_str_of(script), why)) {
        fprintf(stderr, "scripted-upstream: --script: %s\n", why);
        return 2;
    }
    s.stdin_event = event_new(s.base, STDIN_FILENO, EV_READ | EV_PERSIST, on_stdin, &s);
    s.term_event = evsignal_new(s.base, SIGTERM, on_signal, &s);
    s.int_event = evsignal_new(s.base, SIGINT, on_signal, &s);
    if (event_add(s.stdin_event, NULL) != 0) // a plain file or /dev/null cannot be watched: then only signals end it
        event_free(s.stdin_event), s.stdin_event = NULL;
    event_add(s.term_event, NULL);
    event_add(s.int_event, NULL);
    if (!start(&s, port, tls_folder)) {
        fprintf(stderr, "scripted-upstream: cannot listen: %s\n", strerror(errno));
        goto out;
    }
    event_base_dispatch(s.base);
    status = 0;
out:
    // Connections still open now, and what libevent defers of closing a TLS connection, go with the process: taken
    // apart here, LeakSanitizer would report whatever the loop had not come to.
    fflush(NULL);
    _exit(status);
}
