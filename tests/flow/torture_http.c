// SPDX-License-Identifier: Apache-2.0
// Every allocation of the way in fails once: two listeners (plain, and mTLS) are started on a runtime, asked over real
// sockets in all the ways below, and stopped. First with all memory there, to count the allocations, those of libevent
// and OpenSSL among them; then once for each of them, which fails. Whatever fails: the start says why or works, at most
// one request is disturbed (a typed error, or a connection closed before its answer was whole), no answer is wrong and
// none that was cut looks whole, every request afterwards is answered, and no descriptor is left open. What the
// requests do behind the listener is torture.c's business.
//   torture_http [--every N] [--first N] [--last N]    every Nth allocation, of those in the range
#include <arpa/inet.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/mem.h"
#include "child.h"
#include "server/server.h"
#include "torture_each.h"

#define WAIT_S 60 // for one answer; only a hang takes so long

static struct upstream upstream;
static SSL_CTX *client_tls;
static const char *asking = "";

static void complain(const char *what, const char *more) {
    fprintf(stderr, "allocation %llu, %s: %s%s%s\n", (unsigned long long)torture_failing, asking, what,
            *more ? ": " : "", more);
    abort();
}

// ---- whose memory is short

// The client's own allocations, in this same process, do not count.
static _Thread_local bool is_client;

static void *tls_malloc(size_t n, const char *file, int line) {
    (void)file, (void)line;
    return is_client ? td_plain_malloc(n) : td_malloc(n);
}

static void *tls_realloc(void *p, size_t n, const char *file, int line) {
    (void)file, (void)line;
    if (n == 0) { // OpenSSL means free
        td_free(p);
        return NULL;
    }
    return is_client ? td_plain_realloc(p, n) : td_realloc(p, n);
}

static void tls_free(void *p, const char *file, int line) {
    (void)file, (void)line;
    td_free(p);
}

// ---- requests

enum where { PLAIN, SECURE, WHERE_COUNT };

struct ask {
    const char *name;
    enum where where;
    const char *line; // method and path
    const char *body; // NULL none
    size_t padding;   // spaces before the body: more than one read takes
    bool chunked;     // how the body is sent
    bool twice;       // two requests in one go
    bool leaves;      // the client goes when the answer begins
    int status;
    const char *answer; // in the body
};

#define SAY(model, text, more)                                                                                         \
    "{\"model\":\"" model "\",\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}]" more "}"
#define CHAT "POST /v1/chat/completions"
#define TEXT "POST /v1/completions"
#define SEVERAL(more) "{\"model\":\"cloud\",\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\"],\"max_tokens\":2" more "}"

static const struct ask asks[] = {
    {"health", PLAIN, "GET /healthz", .status = 200, .answer = "ok"},
    {"metrics", PLAIN, "GET /metrics", .status = 200, .answer = "tandem_http_requests_total"},
    {"no such path", PLAIN, "GET /nothing", .status = 404, .answer = "\"error\""},
    {"stream", PLAIN, CHAT, SAY("cloud", "ECHO:word", ",\"stream\":true"), .status = 200, .answer = "[DONE]"},
    {"whole", PLAIN, CHAT, SAY("cloud", "ECHO:word", ""), .status = 200, .answer = "\"word\""},
    {"chunked", PLAIN, CHAT, SAY("cloud", "ECHO:word", ""), .chunked = true, .status = 200, .answer = "\"word\""},
    {"large", PLAIN, CHAT, SAY("cloud", "ECHO:word", ""), .padding = 600000, .status = 200, .answer = "\"word\""},
    {"large and chunked", PLAIN, CHAT, SAY("cloud", "ECHO:word", ""), .padding = 300000, .chunked = true, .status = 200,
     .answer = "\"word\""},
    {"several prompts", PLAIN, TEXT, SEVERAL(""), .status = 200, .answer = "\"index\":5"},
    {"several prompts streamed", PLAIN, TEXT, SEVERAL(",\"stream\":true"), .status = 200, .answer = "[DONE]"},
    {"leaves several prompts", PLAIN, TEXT, SEVERAL(",\"user\":\"SLOW\",\"stream\":true"), .leaves = true,
     .status = 200, .answer = ""},
    {"pipelined", PLAIN, CHAT, SAY("cloud", "ECHO:word", ""), .twice = true, .status = 200, .answer = "\"word\""},
    {"no JSON", PLAIN, CHAT, "{\"model\":", .status = 400, .answer = "tandem.request.json"},
    {"leaves", PLAIN, CHAT, SAY("cloud", "SLOW please", ",\"stream\":true"), .leaves = true, .status = 200,
     .answer = ""},
    {"bad head", PLAIN, "GET /healthz HTTP/1.1\r\nno colon", .status = 400, .answer = "\"error\""},
    {"health over TLS", SECURE, "GET /healthz", .status = 200, .answer = "ok"},
    {"stream over TLS", SECURE, CHAT, SAY("cloud", "ECHO:word", ",\"stream\":true"), .status = 200, .answer = "[DONE]"},
    {"large over TLS", SECURE, CHAT, SAY("cloud", "ECHO:word", ""), .padding = 100000, .status = 200,
     .answer = "\"word\""},
    {"leaves over TLS", SECURE, CHAT, SAY("cloud", "SLOW please", ",\"stream\":true"), .leaves = true, .status = 200,
     .answer = ""},
};

static const char config[] =
    "version: 1\n"
    "targets:\n"
    "  - {name: cloud, tier: cloud, provider: openai, base_url: \"http://127.0.0.1:%u/v1\", model: good, region: us, "
    "clearance: internal, quality: 0.8}\n";

struct link {
    int fd; // -1 closed
    SSL *ssl;
    char in[1 << 20];
    size_t n;
};
static struct link links[WHERE_COUNT] = {{.fd = -1}, {.fd = -1}};
static unsigned ports[WHERE_COUNT];

static void hang_up(struct link *l) {
    SSL_free(l->ssl);
    l->ssl = NULL;
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    l->n = 0;
}

static bool dial(struct link *l, enum where where) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)ports[where])};
    struct timeval patience = {.tv_sec = WAIT_S};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    l->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(l->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(l->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    bool ok = l->fd >= 0 && connect(l->fd, (struct sockaddr *)&to, sizeof to) == 0;
    if (ok && where == SECURE) {
        l->ssl = SSL_new(client_tls);
        ok = l->ssl && SSL_set_fd(l->ssl, l->fd) == 1 && SSL_connect(l->ssl) == 1;
    }
    if (!ok)
        hang_up(l);
    return ok;
}

static void send_all(struct link *l, const char *p, size_t n) {
    while (n) {
        ssize_t put = l->ssl ? SSL_write(l->ssl, p, (int)n) : send(l->fd, p, n, MSG_NOSIGNAL);
        if (put <= 0)
            return; // it refused early; its answer says why
        p += put;
        n -= (size_t)put;
    }
}

// False: the other side has closed.
static bool more(struct link *l) {
    if (l->n + 1 >= sizeof l->in)
        complain("an answer without end", "");
    errno = 0;
    ssize_t got = l->ssl ? SSL_read(l->ssl, l->in + l->n, (int)(sizeof l->in - l->n - 1))
                         : recv(l->fd, l->in + l->n, sizeof l->in - l->n - 1, 0);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        complain("it never ended", "");
    if (got <= 0)
        return false;
    l->n += (size_t)got;
    l->in[l->n] = 0;
    return true;
}

// One answer; *body is what its framing says, NUL-terminated. False: it was not whole.
static bool read_answer(struct link *l, int *status, char *body, size_t size) {
    const char *end, *length;
    size_t at, n = 0;
    *status = 0;
    body[0] = 0;
    l->in[l->n] = 0;
    while (!(end = strstr(l->in, "\r\n\r\n")))
        if (!more(l))
            return false;
    at = (size_t)(end - l->in) + 4;
    *status = atoi(l->in + 9);
    l->in[at - 1] = 0;
    length = strstr(l->in, "content-length: ");
    l->in[at - 1] = '\n';
    if (length) {
        n = strtoul(length + 16, NULL, 10);
        while (l->n < at + n)
            if (!more(l))
                return false;
        snprintf(body, size, "%.*s", (int)n, l->in + at);
        at += n;
    }
    for (size_t piece = 1; !length && piece;) {
        char *line;
        while (!(line = strstr(l->in + at, "\r\n")))
            if (!more(l))
                return false;
        piece = strtoul(l->in + at, NULL, 16);
        at = (size_t)(line - l->in) + 2;
        while (l->n < at + piece + 2)
            if (!more(l))
                return false;
        if (n + piece < size) {
            memcpy(body + n, l->in + at, piece);
            n += piece;
            body[n] = 0;
        }
        at += piece + 2;
    }
    memmove(l->in, l->in + at, l->n - at + 1);
    l->n -= at;
    return true;
}

static void send_request(struct link *l, const struct ask *ask) {
    static char text[1 << 20];
    size_t body_n = ask->body ? ask->padding + strlen(ask->body) : 0;
    int n = snprintf(text, sizeof text, "%s%s\r\nHost: 127.0.0.1:%u\r\n", ask->line,
                     strstr(ask->line, "HTTP/1.1") ? "" : " HTTP/1.1", ports[ask->where]);
    size_t at = (size_t)n;
    if (ask->body)
        at += (size_t)sprintf(text + at, "Content-Type: application/json\r\n");
    if (ask->body && ask->chunked)
        at += (size_t)sprintf(text + at, "Transfer-Encoding: chunked\r\n\r\n%zx\r\n", body_n);
    else if (ask->body)
        at += (size_t)sprintf(text + at, "Content-Length: %zu\r\n\r\n", body_n);
    else
        at += (size_t)sprintf(text + at, "\r\n");
    memset(text + at, ' ', ask->padding);
    at += ask->padding;
    at += (size_t)sprintf(text + at, "%s%s", ask->body ? ask->body : "", ask->chunked ? "\r\n0\r\n\r\n" : "");
    if (ask->twice) {
        memcpy(text + at, text, at);
        at *= 2;
    }
    send_all(l, text, at);
}

// True: answered as it should be. False: disturbed, but honestly.
static bool put(const struct ask *ask) {
    static char body[1 << 20], what[64];
    struct link *l = &links[ask->where];
    int status = 0;
    bool right = true;
    asking = ask->name;
    if (l->fd < 0 && !dial(l, ask->where))
        return false;
    send_request(l, ask);
    if (ask->leaves) {
        right = more(l) && strncmp(l->in, "HTTP/1.1 200", 12) == 0;
        hang_up(l);
        return right;
    }
    for (int i = 0; i <= ask->twice; i++) {
        if (!read_answer(l, &status, body, sizeof body)) {
            hang_up(l);
            return false;
        }
        bool good = status == ask->status && strstr(body, ask->answer);
        if (!good && !strstr(body, "\"tandem.") && !strstr(body, "not ready"))
            snprintf(what, sizeof what, "a wrong answer with status %d", status), complain(what, body);
        right = right && good;
    }
    if (status >= 400) // the listener may close after these; whether it did shows too late
        hang_up(l);
    return right;
}

// ---- one round

static struct td_server *start(struct td_runtime *rt, enum where where) {
    char cert[128], key[128], ca[128];
    struct td_listen_settings settings;
    struct td_failure failure = {0};
    struct td_server *server = NULL;
    td_listen_settings_get(rt, &settings);
    settings.address = "127.0.0.1";
    settings.port = 0;
    if (where == SECURE) {
        snprintf(cert, sizeof cert, "%s/server.pem", upstream.folder);
        snprintf(key, sizeof key, "%s/server.key", upstream.folder);
        snprintf(ca, sizeof ca, "%s/ca.pem", upstream.folder);
        settings.tls_cert = cert;
        settings.tls_key = key;
        settings.tls_client_ca = ca;
    }
    asking = where == SECURE ? "start with TLS" : "start";
    if (td_server_start(rt, &settings, &server, &failure) != 0) {
        if (torture_failing == 0 || strncmp(failure.code, "tandem.", 7) != 0 || !failure.message[0])
            complain("the start failed without saying why", failure.code);
        return NULL;
    }
    ports[where] = td_server_port(server);
    return server;
}

// False: a listener did not start.
static bool run(const char *dir, uint64_t fail_at) {
    char text[1024], names[512] = "";
    struct td_failure failure = {0};
    struct td_runtime *rt = NULL;
    struct td_server *servers[WHERE_COUNT] = {NULL};
    unsigned disturbed = 0;
    snprintf(text, sizeof text, config, upstream.port);
    struct td_options o = {.config_text = text, .data_dir = dir, .workers = 1, .log = TD_LOG_QUIET};
    if (td_runtime_open(&o, &rt, &failure) != 0)
        complain("no runtime", failure.message);
    is_client = false; // the start works on this thread
    td_alloc_fail_at(fail_at);
    servers[PLAIN] = start(rt, PLAIN);
    servers[SECURE] = servers[PLAIN] ? start(rt, SECURE) : NULL;
    is_client = true;
    for (size_t i = 0; i < sizeof asks / sizeof *asks && servers[SECURE]; i++)
        if (!put(&asks[i])) {
            snprintf(names + strlen(names), sizeof names - strlen(names), "%s; ", asks[i].name);
            disturbed++;
            if (torture_failing == 0)
                complain("not answered as it should be", "");
        }
    if (disturbed > 1)
        complain("one allocation disturbed several requests", names);
    // Whatever it was, it is over.
    for (size_t i = 0; i < sizeof asks / sizeof *asks && servers[SECURE] && torture_failing; i++)
        if (!asks[i].leaves && !put(&asks[i]) && td_alloc_count() < fail_at)
            complain("not well afterwards", "");
    for (int i = 0; i < WHERE_COUNT; i++)
        hang_up(&links[i]);
    is_client = false;
    td_server_stop(servers[SECURE]);
    td_server_stop(servers[PLAIN]);
    torture_allocations = td_alloc_count();
    td_alloc_fail_at(0);
    td_runtime_close(rt);
    return servers[SECURE] != NULL;
}

static SSL_CTX *make_client(void) {
    char path[128];
    SSL_CTX *c = SSL_CTX_new(TLS_client_method());
    snprintf(path, sizeof path, "%s/client.pem", upstream.folder);
    bool ok = c && SSL_CTX_use_certificate_file(c, path, SSL_FILETYPE_PEM) == 1;
    snprintf(path, sizeof path, "%s/client.key", upstream.folder);
    if (!ok || SSL_CTX_use_PrivateKey_file(c, path, SSL_FILETYPE_PEM) != 1)
        complain("no client certificate", path);
    return c;
}

int main(int argc, char **argv) {
    static const char script[] = "{\"queue\":[{\"match\":\"SLOW\",\"token_ms\":5,\"times\":1000000000}]}";
    char dir[] = "/tmp/tandem-torture-XXXXXX", command[64];
    if (!torture_options(argc, argv) || !mkdtemp(dir))
        return 2;
    // Refused where a library has used OpenSSL before main: its own allocations are left out then.
    if (CRYPTO_set_mem_functions(tls_malloc, tls_realloc, tls_free) != 1)
        puts("without OpenSSL's own allocations");
    event_set_mem_functions(td_malloc, td_realloc, td_free);
    signal(SIGPIPE, SIG_IGN); // SSL_write has no flag for it
    const char *const args[] = {"--tokens", "100", "--script", script, NULL};
    upstream_start(&upstream, args);
    is_client = true;
    client_tls = make_client();
    torture_each(run, dir, complain, "starting");
    SSL_CTX_free(client_tls);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (system(command) != 0)
        complain("the scratch folder stays", dir);
    upstream_stop(&upstream);
    return 0;
}
