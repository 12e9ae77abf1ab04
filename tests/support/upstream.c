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
#include "upstream.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "base/time.h"

#define HEADERS_MAX 64
#define BODY_MAX (64u << 20)
#define LOG_MAX 20000
#define LOG_BODY_MAX (256u << 10)

struct server;

struct listener {
    struct server *s;
    struct evconnlistener *ev;
    SSL_CTX *tls;
    bool control;
    uint16_t port;
};

// What was seen of one request.
struct record {
    char method[16];
    char *path, *headers, *body;                 // headers: a JSON object
    double at_ms, first_ms, ended_ms, closed_ms; // since start; -1 not
    uint32_t tokens;
    int status;
    uint64_t connection;
    bool tls;
};

struct conn {
    struct conn *next, **prev;
    struct server *s;
    struct bufferevent *bev, *tunnel;
    struct event *timer;
    int fd;
    bool tls, closing, control, watching; // watching: waits for /_log's condition
    uint64_t number;
    struct td_str method, path;
    struct td_str names[HEADERS_MAX], values[HEADERS_MAX];
    uint32_t header_count;
    // The request being answered.
    bool busy, head_sent, chunked, keep;
    size_t take; // bytes of the input that belong to it
    size_t need; // as many must have come before it is worth looking
    struct td_arena arena;
    bool arena_live;
    struct job job;
    struct behaviour b;
    struct record *rec;
    char id[32];
    uint32_t next_token;
    bool finished, ended;       // the stream had its finish; and all that follows, but the body stays open
    uint64_t sent, first_at_ns; // first_at_ns: no token before

    struct td_buf head;
    size_t head_at;
    z_stream *gzip;
    uint64_t wait_requests, wait_closed, wait_until_ns;
};

struct server {
    struct event_base *base;
    struct listener listeners[2 + TLS_MODE_COUNT];
    uint32_t listener_count;
    struct conn *conns;
    struct event *stdin_event, *term_event, *int_event;
    struct behaviour *queue, standing;
    uint32_t queue_count;
    bool has_standing, down, instant, stamp;
    struct record *log[LOG_MAX];
    uint32_t log_count;
    uint64_t start_ns, next_conn, next_id;
    const char *api_key, *proxy_auth, *models;
    uint32_t tokens, token_ms, first_token_ms;
    char *instant_reply;
    size_t instant_n;
};

static void serve(struct conn *c);
static void stream_next(struct conn *c);
static void check_waiters(struct server *s);
static bool listener_open(struct listener *l);

static double now_ms(const struct server *s) {
    return (double)(td_now_ns() - s->start_ns) / 1e6;
}

// ---- sending

// Straight into the socket while nothing is queued: a bufferevent would wait for the next turn of the loop.
static void put(struct conn *c, const void *p, size_t n) {
    if (c->closing || n == 0)
        return;
    struct evbuffer *out = bufferevent_get_output(c->bev);
    if (!c->tls && evbuffer_get_length(out) == 0) {
        ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            p = (const char *)p + sent;
            n -= (size_t)sent;
        }
    }
    if (n)
        bufferevent_write(c->bev, p, n);
}

static void conn_free(struct conn *c) {
    if (c->rec && c->busy && c->rec->closed_ms < 0)
        c->rec->closed_ms = now_ms(c->s);
    *c->prev = c->next;
    if (c->next)
        c->next->prev = c->prev;
    struct server *s = c->s;
    bool logged = c->rec != NULL;
    event_free(c->timer);
    if (c->tunnel)
        bufferevent_free(c->tunnel);
    bufferevent_free(c->bev);
    if (c->arena_live)
        td_arena_finish(&c->arena);
    if (c->gzip) {
        deflateEnd(c->gzip);
        td_free(c->gzip);
    }
    td_buf_finish(&c->head);
    td_free(c);
    if (logged)
        check_waiters(s);
}

static void reset(struct conn *c) {
    struct linger linger = {1, 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    if (c->rec)
        c->rec->ended_ms = now_ms(c->s);
    c->busy = false;
    conn_free(c);
}

static void on_flushed(struct bufferevent *bev, void *arg) {
    (void)bev;
    conn_free(arg);
}

static void on_event(struct bufferevent *bev, short what, void *arg);

// Closes once everything queued has been sent.
static void close_soon(struct conn *c) {
    if (c->rec && c->rec->ended_ms < 0)
        c->rec->ended_ms = now_ms(c->s);
    c->busy = false;
    if (evbuffer_get_length(bufferevent_get_output(c->bev)) == 0) {
        conn_free(c);
        return;
    }
    c->closing = true;
    event_del(c->timer);
    bufferevent_disable(c->bev, EV_READ);
    bufferevent_setcb(c->bev, NULL, on_flushed, on_event, c);
}

// Like a network that is gone: what is sent to this connection is dropped before TCP sees it, and so not acknowledged.
static void turn_deaf(const struct conn *c) {
    struct sock_filter drop = {BPF_RET | BPF_K, 0, 0, 0};
    struct sock_fprog program = {1, &drop};
    if (setsockopt(c->fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0)
        fprintf(stderr, "cannot turn deaf: %s\n", strerror(errno));
}

static void answered(struct conn *c) {
    struct server *s = c->s;
    bool logged = c->rec != NULL;
    if (c->rec)
        c->rec->ended_ms = now_ms(s);
    c->rec = NULL;
    c->busy = false;
    if (c->gzip) {
        deflateEnd(c->gzip);
        td_free(c->gzip);
        c->gzip = NULL;
    }
    td_arena_finish(&c->arena);
    c->arena_live = false;
    struct evbuffer *in = bufferevent_get_input(c->bev);
    evbuffer_drain(in, c->take);
    bool keep = c->keep;
    if (c->b.deaf)
        turn_deaf(c);
    if (!keep)
        close_soon(c);
    if (logged)
        check_waiters(s);
    if (keep && evbuffer_get_length(in))
        event_active(c->timer, EV_TIMEOUT, 0);
}

static const char *status_text(int status) {
    switch (status) {
    case 200:
        return "OK";
    case 302:
        return "Found";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 404:
        return "Not Found";
    case 429:
        return "Too Many Requests";
    case 500:
        return "Internal Server Error";
    case 503:
        return "Service Unavailable";
    default:
        return "Status";
    }
}

// False: the connection is gone, do not touch it.
static bool body_put(struct conn *c, const void *p, size_t n) {
    size_t left = n;
    bool cut = false;
    if (c->b.cut_at_byte > 0 && c->sent + n >= (uint64_t)c->b.cut_at_byte) {
        left = (size_t)((uint64_t)c->b.cut_at_byte - c->sent);
        cut = true;
    }
    c->sent += left;
    const char *bytes = p;
    while (left && c->chunked) {
        size_t piece = c->b.piece_bytes > 0 && left > (size_t)c->b.piece_bytes ? (size_t)c->b.piece_bytes : left;
        char small[4096];
        int head = snprintf(small, sizeof small, "%zx\r\n", piece);
        if ((size_t)head + piece + 2 <= sizeof small) {
            memcpy(small + head, bytes, piece);
            memcpy(small + head + piece, "\r\n", 2);
            put(c, small, (size_t)head + piece + 2);
        } else {
            put(c, small, (size_t)head);
            put(c, bytes, piece);
            put(c, "\r\n", 2);
        }
        bytes += piece;
        left -= piece;
    }
    if (left)
        put(c, bytes, left);
    if (!cut)
        return true;
    if (strcmp(c->b.cut, "rst") == 0)
        reset(c);
    else
        close_soon(c);
    return false;
}

static bool body_add(struct conn *c, const void *p, size_t n, bool last) {
    if (!c->gzip)
        return n == 0 || body_put(c, p, n);
    unsigned char out[16384];
    c->gzip->next_in = (Bytef *)(uintptr_t)p;
    c->gzip->avail_in = (uInt)n;
    do {
        c->gzip->next_out = out;
        c->gzip->avail_out = sizeof out;
        deflate(c->gzip, last ? Z_FINISH : Z_SYNC_FLUSH);
        if (sizeof out != c->gzip->avail_out && !body_put(c, out, sizeof out - c->gzip->avail_out))
            return false;
    } while (c->gzip->avail_out == 0);
    return true;
}

static void body_end(struct conn *c) {
    if (c->gzip && !body_add(c, "", 0, true))
        return;
    if (c->chunked)
        put(c, "0\r\n\r\n", 5);
    answered(c);
}

// Builds the head; `length` < 0: chunked.
static void make_head(struct conn *c, int status, const char *type, int64_t length, const char *extra) {
    const struct behaviour *b = &c->b;
    td_buf_clear(&c->head);
    c->chunked = length < 0;
    c->keep = c->keep && !b->close_after;
    if (c->rec)
        c->rec->status = status;
    enum td_err err = td_buf_printf(&c->head, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\n", status, status_text(status),
                                    *b->content_type ? b->content_type : type);
    if (length < 0)
        err = err ? err : td_buf_addz(&c->head, "Transfer-Encoding: chunked\r\n");
    else
        err = err ? err : td_buf_printf(&c->head, "Content-Length: %lld\r\n", (long long)length);
    if (!c->keep)
        err = err ? err : td_buf_addz(&c->head, "Connection: close\r\n");
    if (*b->retry_after)
        err = err ? err : td_buf_printf(&c->head, "Retry-After: %s\r\n", b->retry_after);
    if (*b->retry_after_ms)
        err = err ? err : td_buf_printf(&c->head, "retry-after-ms: %s\r\n", b->retry_after_ms);
    if (*b->location)
        err = err ? err : td_buf_printf(&c->head, "Location: %s\r\n", b->location);
    if (c->gzip || b->gzip_bomb_mb)
        err = err ? err : td_buf_addz(&c->head, "Content-Encoding: gzip\r\n");
    for (int64_t i = 0; !err && i < b->header_flood_bytes; i += 100)
        err = td_buf_printf(&c->head, "X-Flood-%06d: %080d\r\n", (int)i, 0);
    err = err ? err : td_buf_printf(&c->head, "%sX-Request-Id: %s\r\n\r\n", extra ? extra : "", c->id);
    if (err)
        td_buf_clear(&c->head);
}

static void send_head(struct conn *c) {
    put(c, c->head.p, c->head.n);
    c->head_sent = true;
}

static void reply(struct conn *c, int status, const char *type, struct td_str body, const char *extra) {
    if (c->b.gzip || c->b.piece_bytes)
        make_head(c, status, type, -1, extra);
    else
        make_head(c, status, type, (int64_t)body.n, extra);
    send_head(c);
    if (body_add(c, body.p, body.n, true)) {
        if (c->chunked)
            put(c, "0\r\n\r\n", 5);
        answered(c);
    }
}

static void reply_error(struct conn *c, int status, const char *message, const char *type, const char *code) {
    char body[512];
    int n =
        snprintf(body, sizeof body, "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}",
                 message, type, code);
    reply(c, status, "application/json", td_str_n(body, (size_t)n), NULL);
}

static void after(struct conn *c, int64_t ms) {
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    evtimer_add(c->timer, &tv);
}

// ---- streaming

static bool event_put(struct conn *c, struct td_str json) {
    char small[8192];
    const char *open = c->b.crlf ? "data:" : "data: ", *close = c->b.crlf ? "\r\n\r\n" : "\n\n";
    size_t no = strlen(open), nc = strlen(close);
    if (json.n + no + nc <= sizeof small) {
        memcpy(small, open, no);
        memcpy(small + no, json.p, json.n);
        memcpy(small + no + json.n, close, nc);
        return body_add(c, small, no + json.n + nc, false);
    }
    return body_add(c, open, no, false) && body_add(c, json.p, json.n, false) && body_add(c, close, nc, false);
}

static uint32_t steps_of(const struct answer *a) {
    return a->call_count ? a->call_count * CALL_PIECES : a->token_count;
}

static void stream_comment(struct conn *c) {
    if (c->b.comment_ms > 0 && body_add(c, ": still here\n\n", 14, false))
        after(c, c->b.comment_ms);
}

// False: the connection is gone.
static bool stream_finish(struct conn *c) {
    struct td_buf out;
    bool alive = true;
    td_buf_init(&out, 1 << 20);
    for (uint32_t i = 0; i < c->job.n; i++) {
        for (int twice = 0; alive && !c->b.no_finish && twice < 1 + c->b.duplicate_finish; twice++) {
            td_buf_clear(&out);
            if (job_chunk_finish(&c->job, c->id, i, c->b.filter ? "content_filter" : NULL, &out) == TD_OK)
                alive = event_put(c, td_buf_str(&out));
        }
    }
    td_buf_finish(&out);
    c->finished = true;
    return alive;
}

static void stream_end(struct conn *c) {
    struct td_buf out;
    uint32_t tokens = 0;
    bool alive = true;
    td_buf_init(&out, 1 << 20);
    for (uint32_t i = 0; i < c->job.n; i++)
        tokens += c->job.answers[i].call_count ? c->job.answers[i].call_count * 8 : c->job.answers[i].token_count;
    if (c->job.include_usage && !c->b.no_usage && job_chunk_usage(&c->job, c->id, tokens, &out) == TD_OK)
        alive = event_put(c, td_buf_str(&out));
    if (alive && !c->b.no_done && !c->b.open_end)
        alive = event_put(c, TD_STR("[DONE]"));
    td_buf_finish(&out);
    c->ended = c->b.open_end;
    if (alive && !c->b.open_end)
        body_end(c);
    else if (alive)
        stream_comment(c);
}

static void stream_error(struct conn *c) {
    static const char text[] =
        "{\"error\":{\"message\":\"the engine died\",\"type\":\"server_error\",\"param\":null,\"code\":null}}";
    if (event_put(c, td_str_of(text)))
        body_end(c);
}

// One step of every choice. False: the connection is gone or the stream must stop here.
static bool stream_step(struct conn *c) {
    struct td_buf out;
    bool alive = true;
    uint32_t i = c->next_token++;
    td_buf_init(&out, 1 << 20);
    for (uint32_t choice = 0; alive && choice < c->job.n; choice++) {
        const struct answer *a = &c->job.answers[choice];
        enum td_err err = TD_OK;
        if (i >= steps_of(a))
            continue;
        td_buf_clear(&out);
        if (c->b.malformed_at > 0 && i + 1 == (uint64_t)c->b.malformed_at)
            err = td_buf_addz(&out, "{\"choices\": [{\"delta\": {\"content\": \"bro");
        else if (a->call_count)
            err = job_chunk_call(&c->job, c->id, choice, i / CALL_PIECES, i % CALL_PIECES, &out);
        else
            err = job_chunk(&c->job, c->id, choice, i, &out);
        if (!err)
            alive = event_put(c, td_buf_str(&out));
    }
    td_buf_finish(&out);
    if (!alive)
        return false;
    if (c->rec) {
        if (i == 0)
            c->rec->first_ms = now_ms(c->s);
        c->rec->tokens = i + 1;
    }
    return true;
}

static bool stream_fault(struct conn *c) {
    const struct behaviour *b = &c->b;
    uint32_t i = c->next_token;
    if (i == 0 && b->comment_ms > 0 && td_now_ns() + TD_MS_NS / 2 < c->first_at_ns) {
        if (body_add(c, ": still here\n\n", 14, false))
            after(c, b->comment_ms);
        return true;
    }
    if (b->error_after_tokens && (int64_t)i >= (b->error_after_tokens < 0 ? 0 : b->error_after_tokens)) {
        stream_error(c);
        return true;
    }
    if (b->cut_after_tokens > 0 && i >= b->cut_after_tokens) {
        if (strcmp(b->cut, "rst") == 0)
            reset(c);
        else
            close_soon(c);
        return true;
    }
    if (b->silence_after_tokens > 0 && i >= b->silence_after_tokens) {
        stream_comment(c);
        return true;
    }
    return false;
}

static void stream_next(struct conn *c) {
    uint32_t most = 0;
    int64_t pace = c->b.token_ms ? c->b.token_ms : c->s->token_ms;
    for (uint32_t i = 0; i < c->job.n; i++)
        most = steps_of(&c->job.answers[i]) > most ? steps_of(&c->job.answers[i]) : most;
    do {
        if (stream_fault(c))
            return;
        if (c->next_token >= most) {
            bool first = !c->finished;
            if (c->ended)
                stream_comment(c);
            else if (first && !stream_finish(c))
                return;
            else if (first && c->b.end_ms > 0)
                after(c, c->b.end_ms);
            else
                stream_end(c);
            return;
        }
        if (!stream_step(c))
            return;
    } while (pace <= 0);
    after(c, pace);
}

static void stream_begin(struct conn *c) {
    struct td_buf out;
    int64_t first = c->b.first_token_ms ? c->b.first_token_ms : c->s->first_token_ms;
    td_buf_init(&out, 1 << 20);
    bool alive = true;
    for (uint32_t i = 0; alive && c->job.kind == JOB_CHAT && i < c->job.n; i++) {
        td_buf_clear(&out);
        if (job_chunk_role(&c->job, c->id, i, &out) == TD_OK)
            alive = event_put(c, td_buf_str(&out));
    }
    td_buf_finish(&out);
    if (!alive)
        return;
    c->first_at_ns = td_now_ns() + (uint64_t)first * TD_MS_NS;
    if (first > 0)
        after(c, c->b.comment_ms > 0 && c->b.comment_ms < first ? c->b.comment_ms : first);
    else
        stream_next(c);
}

// ---- bodies that are wrong on purpose

static void send_bomb(struct conn *c) {
    char *zeros = td_calloc(1, 1 << 20);
    make_head(c, 200, c->job.stream ? "text/event-stream" : "application/json", -1, NULL);
    send_head(c);
    for (int64_t i = 0; zeros && i < c->b.gzip_bomb_mb; i++) {
        memset(zeros, ' ', 1 << 20);
        if (!body_add(c, zeros, 1 << 20, false)) {
            td_free(zeros);
            return;
        }
    }
    td_free(zeros);
    body_end(c);
}

static void send_giant(struct conn *c, int64_t n, bool line) {
    static char filler[65536];
    memset(filler, 'x', sizeof filler);
    make_head(c, 200, c->job.stream ? "text/event-stream" : "application/json", -1, NULL);
    send_head(c);
    if (!body_add(c, line ? "data: \"" : "{\"x\":\"", line ? 7 : 6, false))
        return;
    for (; n > 0; n -= (int64_t)sizeof filler)
        if (!body_add(c, filler, n < (int64_t)sizeof filler ? (size_t)n : sizeof filler, false))
            return;
    if (body_add(c, "\"\n\n", 3, false))
        body_end(c);
}

static void send_noise(struct conn *c) {
    unsigned char noise[2000];
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (unsigned char)(i * 2654435761u >> 13);
    make_head(c, 200, c->job.stream ? "text/event-stream" : "application/json", (int64_t)sizeof noise, NULL);
    send_head(c);
    if (body_add(c, noise, sizeof noise, true))
        body_end(c);
}

// ---- requests

static void send_whole(struct conn *c) {
    struct td_buf out;
    td_buf_init(&out, 64u << 20);
    enum td_err err = c->job.kind == JOB_EMBEDDINGS
                          ? job_embeddings(&c->job, &out)
                          : job_whole(&c->job, c->id, c->b.filter ? "content_filter" : NULL, !c->b.no_usage, &out);
    if (c->rec) {
        c->rec->first_ms = now_ms(c->s);
        c->rec->tokens = c->job.answers[0].token_count;
    }
    if (!err)
        reply(c, 200, "application/json", td_buf_str(&out), NULL);
    td_buf_finish(&out);
}

// The part of an answer that comes after the waiting.
static void answer(struct conn *c) {
    const struct behaviour *b = &c->b;
    if (b->gzip || b->gzip_bomb_mb) {
        c->gzip = td_calloc(1, sizeof *c->gzip);
        if (!c->gzip || deflateInit2(c->gzip, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) != Z_OK)
            abort();
    }
    if (b->gzip_bomb_mb)
        send_bomb(c);
    else if (b->giant_line_bytes || b->giant_body_bytes)
        send_giant(c, b->giant_line_bytes ? b->giant_line_bytes : b->giant_body_bytes, b->giant_line_bytes != 0);
    else if (b->garbage_body)
        send_noise(c);
    else if (b->context_length)
        reply_error(c, 400,
                    "This model's maximum context length is 8192 tokens. However, your messages resulted in "
                    "9000 tokens. Please reduce the length of the messages.",
                    "invalid_request_error", "context_length_exceeded");
    else if (b->content_policy)
        reply_error(c, 400, "Your request was rejected as a result of our safety system.", "invalid_request_error",
                    "content_policy_violation");
    else if (b->refuse_prefix && c->job.ends_with_assistant)
        reply_error(c, 400, "The last message must not have the role 'assistant'.", "invalid_request_error", "");
    else if (b->status == 429)
        reply_error(c, 429, "Rate limit reached for requests", "requests", "rate_limit_exceeded");
    else if (b->status >= 300)
        reply_error(c, (int)b->status, "The server had an error while processing your request", "server_error", "");
    else if (c->job.stream) {
        make_head(c, 200, "text/event-stream", -1, "Cache-Control: no-cache\r\n");
        send_head(c);
        stream_begin(c);
    } else {
        send_whole(c);
    }
}

static void send_slow_head(struct conn *c) {
    if (c->head_at == 0)
        make_head(c, 200, "text/event-stream", -1, NULL);
    if (c->head_at < c->head.n) {
        put(c, c->head.p + c->head_at++, 1);
        after(c, c->b.header_byte_ms);
        return;
    }
    c->head_sent = true;
    stream_begin(c);
}

static bool refuse_at_once(struct conn *c) {
    if (c->b.reset) {
        reset(c);
    } else if (c->b.close_early) {
        close_soon(c);
    } else if (c->b.garbage) {
        put(c, "\x16\x03\x01 SSH-2.0-no http here\r\n\r\n\x01\x02\x03", 31);
        close_soon(c);
    } else {
        return c->b.hang;
    }
    return true;
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
    struct conn *c = arg;
    (void)fd, (void)what;
    if (c->watching) {
        check_waiters(c->s);
    } else if (!c->busy) {
        serve(c);
    } else if (c->head_sent) {
        stream_next(c);
    } else if (c->b.header_byte_ms) {
        send_slow_head(c);
    } else {
        answer(c);
    }
}

static struct td_str header(const struct conn *c, const char *name) {
    for (uint32_t i = 0; i < c->header_count; i++)
        if (td_str_ieq(c->names[i], td_str_of(name)))
            return c->values[i];
    return TD_STR_NONE;
}

static bool take_behaviour(struct server *s, struct td_str path, struct td_str body, struct behaviour *out) {
    for (uint32_t i = 0; i < s->queue_count; i++) {
        struct behaviour *b = &s->queue[i];
        size_t tail = strlen(b->path);
        if ((*b->match && !memmem(body.p, body.n, b->match, strlen(b->match))) ||
            (tail && (path.n < tail || memcmp(path.p + path.n - tail, b->path, tail) != 0)))
            continue;
        *out = *b;
        if (--b->times <= 0)
            memmove(b, b + 1, (--s->queue_count - i) * sizeof *b);
        return true;
    }
    if (s->has_standing &&
        (!*s->standing.match || memmem(body.p, body.n, s->standing.match, strlen(s->standing.match)))) {
        *out = s->standing;
        return true;
    }
    return false;
}

static struct record *log_request(struct conn *c, struct td_str body) {
    struct server *s = c->s;
    struct td_buf headers;
    if (s->log_count == LOG_MAX)
        return NULL;
    struct record *r = td_calloc(1, sizeof *r);
    td_buf_init(&headers, 1 << 20);
    enum td_err err = r ? td_buf_addc(&headers, '{') : TD_ERR_NOMEM;
    for (uint32_t i = 0; !err && i < c->header_count; i++) {
        char name[128];
        size_t n = c->names[i].n < sizeof name ? c->names[i].n : sizeof name;
        for (size_t k = 0; k < n; k++)
            name[k] =
                (char)(c->names[i].p[k] >= 'A' && c->names[i].p[k] <= 'Z' ? c->names[i].p[k] + 32 : c->names[i].p[k]);
        err = i ? td_buf_addc(&headers, ',') : TD_OK;
        err = err ? err : td_buf_add_json(&headers, td_str_n(name, n));
        err = err ? err : td_buf_addc(&headers, ':');
        err = err ? err : td_buf_add_json(&headers, c->values[i]);
    }
    err = err ? err : td_buf_addc(&headers, '}');
    if (err) {
        td_free(r);
        td_buf_finish(&headers);
        return NULL;
    }
    snprintf(r->method, sizeof r->method, "%.*s", TD_STR_ARG(c->method));
    r->path = td_strndup(c->path.p, c->path.n);
    r->headers = td_strndup(headers.p, headers.n);
    r->body = td_strndup(body.p, body.n < LOG_BODY_MAX ? body.n : LOG_BODY_MAX);
    r->at_ms = now_ms(s);
    r->first_ms = r->ended_ms = r->closed_ms = -1;
    r->connection = c->number;
    r->tls = c->tls;
    td_buf_finish(&headers);
    s->log[s->log_count++] = r;
    return r;
}

static void log_clear(struct server *s) {
    for (struct conn *c = s->conns; c; c = c->next)
        c->rec = NULL;
    for (uint32_t i = 0; i < s->log_count; i++) {
        td_free(s->log[i]->path), td_free(s->log[i]->headers), td_free(s->log[i]->body);
        td_free(s->log[i]);
    }
    s->log_count = 0;
}

static enum td_err log_write(struct server *s, struct td_buf *out) {
    enum td_err err = td_buf_printf(out, "{\"now_ms\":%.3f,\"requests\":[", now_ms(s));
    for (uint32_t i = 0; !err && i < s->log_count; i++) {
        const struct record *r = s->log[i];
        err = td_buf_printf(out, "%s\n{\"method\":\"%s\",\"path\":", i ? "," : "", r->method);
        err = err ? err : td_buf_add_json(out, td_str_of(r->path));
        err =
            err ? err
                : td_buf_printf(out,
                                ",\"at_ms\":%.3f,\"first_ms\":%.3f,\"ended_ms\":%.3f,\"closed_ms\":%.3f,\"tokens\":%u,"
                                "\"status\":%d,\"connection\":%llu,\"tls\":%s,\"headers\":%s,\"body\":",
                                r->at_ms, r->first_ms, r->ended_ms, r->closed_ms, r->tokens, r->status,
                                (unsigned long long)r->connection, r->tls ? "true" : "false", r->headers);
        struct td_str body = td_str_of(r->body);
        if (!err && td_str_is_utf8(body))
            err = td_buf_add_json(out, body);
        else if (!err)
            err = td_buf_addz(out, "null");
        err = err ? err : td_buf_addc(out, '}');
    }
    return err ? err : td_buf_addz(out, "]}\n");
}

static void send_log(struct conn *c) {
    struct td_buf out;
    td_buf_init(&out, 256u << 20);
    c->watching = false;
    if (log_write(c->s, &out) == TD_OK)
        reply(c, 200, "application/json", td_buf_str(&out), NULL);
    td_buf_finish(&out);
}

static bool waiter_ready(const struct conn *c) {
    uint64_t over = 0;
    for (uint32_t i = 0; i < c->s->log_count; i++)
        over += c->s->log[i]->ended_ms >= 0 || c->s->log[i]->closed_ms >= 0;
    return td_now_ns() >= c->wait_until_ns || (c->s->log_count >= c->wait_requests && over >= c->wait_closed);
}

static void check_waiters(struct server *s) {
    struct conn *c;
    do {
        for (c = s->conns; c && !(c->watching && waiter_ready(c)); c = c->next)
            ;
        if (c)
            send_log(c);
    } while (c);
}

static uint64_t query_number(struct td_str path, const char *name) {
    const char *at = memmem(path.p, path.n, name, strlen(name));
    uint64_t n = 0;
    for (const char *p = at ? at + strlen(name) : NULL; p && p < path.p + path.n && *p >= '0' && *p <= '9'; p++)
        n = n * 10 + (uint64_t)(*p - '0');
    return n;
}

static bool script_read(struct server *s, struct td_str text, char why[128]) {
    struct td_arena arena;
    td_json *root, *one;
    struct td_error e;
    size_t i, max;
    bool ok = false;
    td_arena_init(&arena, 64u << 20);
    snprintf(why, 128, "not a JSON object");
    if (td_json_parse(&arena, text, 16, &root, &e) != TD_OK || !yyjson_is_obj(root))
        goto out;
    td_json *queue = td_json_get(root, "queue"), *standing = td_json_get(root, "standing");
    struct behaviour *entries = td_calloc(yyjson_arr_size(queue) + 1, sizeof *entries), rest = {0};
    uint32_t n = 0;
    ok = entries && (!standing || behaviour_read(standing, &rest, why));
    yyjson_arr_foreach(queue, i, max, one) ok = ok && behaviour_read(one, &entries[n++], why);
    if (!ok) {
        td_free(entries);
        goto out;
    }
    td_free(s->queue);
    s->queue = entries;
    s->queue_count = n;
    s->standing = rest;
    s->has_standing = standing != NULL;
out:
    td_arena_finish(&arena);
    return ok;
}

// A listener that is only disabled still takes connections into its backlog, so it is closed, and bound again later.
static void set_down(struct server *s, bool down) {
    struct conn *c;
    for (uint32_t i = 0; i < s->listener_count && down != s->down; i++) {
        struct listener *l = &s->listeners[i];
        if (l->control)
            continue;
        if (down) {
            evconnlistener_free(l->ev);
            l->ev = NULL;
        } else if (!listener_open(l)) {
            perror("scripted-upstream: listen");
            event_base_loopbreak(s->base);
        }
    }
    s->down = down;
    do {
        for (c = down ? s->conns : NULL; c && c->control; c = c->next)
            ;
        if (c)
            reset(c);
    } while (c);
}

// True where the path was one of ours.
static bool control(struct conn *c, struct td_str body) {
    struct server *s = c->s;
    char why[128];
    if (td_str_starts(c->path, TD_STR("/_log"))) {
        uint64_t timeout = query_number(c->path, "timeout_ms=");
        c->wait_requests = query_number(c->path, "requests=");
        c->wait_closed = query_number(c->path, "closed=");
        c->wait_until_ns = td_now_ns() + timeout * TD_MS_NS;
        c->watching = true;
        if (waiter_ready(c))
            send_log(c);
        else
            after(c, (int64_t)timeout);
        return true;
    }
    if (td_str_is(c->path, "/_script")) {
        if (script_read(s, body, why))
            reply(c, 200, "application/json", TD_STR("{}\n"), NULL);
        else
            reply_error(c, 400, why, "script", "");
        return true;
    }
    if (td_str_is(c->path, "/_reset")) {
        if (s->down)
            set_down(s, false);
        s->queue_count = 0;
        s->has_standing = false;
        log_clear(s);
        reply(c, 200, "application/json", TD_STR("{}\n"), NULL);
        return true;
    }
    if (td_str_is(c->path, "/_down")) {
        c->control = true;
        set_down(s, memmem(body.p, body.n, "true", 4) != NULL);
        reply(c, 200, "application/json", TD_STR("{}\n"), NULL);
        return true;
    }
    return false;
}

static bool ends(struct td_str s, const char *tail) {
    size_t n = strlen(tail);
    return s.n >= n && memcmp(s.p + s.n - n, tail, n) == 0;
}

static bool key_fits(const struct conn *c) {
    char want[512];
    if (!c->s->api_key)
        return true;
    snprintf(want, sizeof want, "Bearer %s", c->s->api_key);
    return td_str_is(header(c, "authorization"), want) || td_str_is(header(c, "api-key"), c->s->api_key);
}

static void send_models(struct conn *c) {
    char out[4096];
    int n = snprintf(out, sizeof out, "{\"object\":\"list\",\"data\":[");
    const char *p = c->s->models;
    while (*p && n < 3000) {
        const char *end = strchrnul(p, ',');
        n +=
            snprintf(out + n, sizeof out - (size_t)n, "%s{\"id\":\"%.*s\",\"object\":\"model\",\"created\":1700000000}",
                     p == c->s->models ? "" : ",", (int)(end - p), p);
        p = *end ? end + 1 : end;
    }
    n += snprintf(out + n, sizeof out - (size_t)n, "]}");
    reply(c, 200, "application/json", td_str_n(out, (size_t)n), NULL);
}

// Files for downloads: /_file/N serves N deterministic bytes, with ranges and an ETag.
static void send_file(struct conn *c, struct td_str path) {
    uint64_t size = query_number(path, "/_file/"), from = 0;
    struct td_str range = header(c, "range"), condition = header(c, "if-range");
    char extra[200], *bytes = td_malloc(65536);
    bool part = td_str_starts(range, TD_STR("bytes=")) && (!condition.n || td_str_is(condition, "\"v1\""));
    if (part)
        from = query_number(range, "bytes=");
    if (!bytes || from > size) {
        td_free(bytes);
        reply_error(c, 416, "range", "range", "");
        return;
    }
    int n = snprintf(extra, sizeof extra, "ETag: \"v1\"\r\nAccept-Ranges: bytes\r\n");
    if (part)
        snprintf(extra + n, sizeof extra - (size_t)n, "Content-Range: bytes %llu-%llu/%llu\r\n",
                 (unsigned long long)from, (unsigned long long)(size - 1), (unsigned long long)size);
    make_head(c, part ? 206 : 200, "application/octet-stream", (int64_t)(size - from), extra);
    send_head(c);
    while (from < size) {
        size_t k = size - from < 65536 ? (size_t)(size - from) : 65536;
        for (size_t i = 0; i < k; i++)
            bytes[i] = (char)((from + i) * 2654435761u >> 11);
        if (!body_put(c, bytes, k)) {
            td_free(bytes);
            return;
        }
        from += k;
    }
    td_free(bytes);
    answered(c);
}

static void dispatch(struct conn *c, struct td_str body) {
    struct server *s = c->s;
    const struct behaviour *b = &c->b;
    struct td_str path = c->path;
    const char *query = path.n ? memchr(path.p, '?', path.n) : NULL;
    if (query)
        path.n = (size_t)(query - path.p);
    char why[128];
    enum job_kind kind = ends(path, "/chat/completions") ? JOB_CHAT
                         : ends(path, "/completions")    ? JOB_COMPLETION
                                                         : JOB_EMBEDDINGS;
    take_behaviour(s, path, body, &c->b);
    if (refuse_at_once(c))
        return;
    if (!key_fits(c)) {
        reply_error(c, 401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key");
        return;
    }
    if (ends(path, "/models") || td_str_starts(path, TD_STR("/_file/"))) {
        if (b->status >= 300)
            answer(c);
        else if (ends(path, "/models"))
            send_models(c);
        else
            send_file(c, path);
        return;
    }
    if (td_str_starts(path, TD_STR("/_hook"))) {
        if (b->status >= 300)
            answer(c);
        else
            reply(c, 200, "application/json", TD_STR("{}"), NULL);
        return;
    }
    if (!td_str_is(c->method, "POST") || (kind == JOB_EMBEDDINGS && !ends(path, "/embeddings"))) {
        reply_error(c, 404, "Unknown request URL.", "invalid_request_error", "unknown_url");
        return;
    }
    if (!job_read(&c->arena, kind, body, b->tokens ? (uint32_t)b->tokens : s->tokens, b->say, &c->job, why)) {
        reply_error(c, 400, why, "invalid_request_error", "");
        return;
    }
    c->job.stamp = s->stamp;
    if (strncmp(c->job.model, "missing", 7) == 0) {
        reply_error(c, 404, "The model does not exist or you do not have access to it.", "invalid_request_error",
                    "model_not_found");
        return;
    }
    int64_t wait = b->headers_ms;
    if (!c->job.stream && !b->status) {
        uint32_t tokens = c->job.answers[0].token_count;
        wait += (b->first_token_ms ? b->first_token_ms : s->first_token_ms) +
                (b->token_ms ? b->token_ms : s->token_ms) * (int64_t)tokens;
    }
    if (wait > 0)
        after(c, wait);
    else if (b->header_byte_ms)
        send_slow_head(c);
    else
        answer(c);
}

// ---- connections

static void on_tunnel_read(struct bufferevent *bev, void *arg) {
    struct conn *c = arg;
    bufferevent_write_buffer(bev == c->tunnel ? c->bev : c->tunnel, bufferevent_get_input(bev));
}

static void on_tunnel_event(struct bufferevent *bev, short what, void *arg) {
    (void)bev;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR))
        close_soon(arg);
}

// CONNECT as a proxy would do it; every name leads to this machine's own loopback.
static void tunnel(struct conn *c) {
    const char *colon = memrchr(c->path.p, ':', c->path.n);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    static const char ok[] = "HTTP/1.1 200 Connected\r\n\r\n";
    to.sin_port = htons((uint16_t)(colon ? atoi(colon + 1) : 0));
    if (c->s->proxy_auth && !td_str_is(header(c, "proxy-authorization"), c->s->proxy_auth)) {
        reply(c, 407, "text/plain", TD_STR("no"), "Proxy-Authenticate: Basic realm=\"p\"\r\n");
        return;
    }
    c->tunnel = bufferevent_socket_new(c->s->base, -1, BEV_OPT_CLOSE_ON_FREE);
    if (!c->tunnel || bufferevent_socket_connect(c->tunnel, (struct sockaddr *)&to, sizeof to) != 0) {
        close_soon(c);
        return;
    }
    evbuffer_drain(bufferevent_get_input(c->bev), c->take);
    td_arena_finish(&c->arena);
    c->arena_live = false;
    bufferevent_setcb(c->tunnel, on_tunnel_read, NULL, on_tunnel_event, c);
    bufferevent_setcb(c->bev, on_tunnel_read, NULL, on_event, c);
    bufferevent_enable(c->tunnel, EV_READ | EV_WRITE);
    put(c, ok, sizeof ok - 1);
}

static bool parse_headers(struct conn *c, struct td_str head) {
    const char *p = head.p, *end = head.p + head.n, *line = memmem(p, (size_t)(end - p), "\r\n", 2);
    const char *sp1 = line ? memchr(p, ' ', (size_t)(line - p)) : NULL;
    const char *sp2 = sp1 ? memchr(sp1 + 1, ' ', (size_t)(line - sp1 - 1)) : NULL;
    if (!sp2)
        return false;
    c->method = td_str_n(p, (size_t)(sp1 - p));
    c->path = td_str_n(sp1 + 1, (size_t)(sp2 - sp1 - 1));
    if (td_str_starts(c->path, TD_STR("http://"))) { // as a proxy gets it
        const char *slash = memchr(c->path.p + 7, '/', c->path.n - 7);
        if (!slash)
            return false;
        c->path = td_str_n(slash, (size_t)(c->path.p + c->path.n - slash));
    }
    c->header_count = 0;
    for (p = line + 2; p < end; p = line + 2) {
        line = memmem(p, (size_t)(end - p), "\r\n", 2);
        if (!line)
            line = end;
        const char *colon = memchr(p, ':', (size_t)(line - p));
        if (line == p)
            break;
        if (!colon || c->header_count == HEADERS_MAX)
            return false;
        c->names[c->header_count] = td_str_n(p, (size_t)(colon - p));
        c->values[c->header_count++] = td_str_trim(td_str_n(colon + 1, (size_t)(line - colon - 1)));
    }
    return true;
}

// One whole request at the start of the input? Then answers it.
static void serve(struct conn *c) {
    struct evbuffer *in = bufferevent_get_input(c->bev);
    size_t n = evbuffer_get_length(in);
    uint64_t length = 0;
    if (c->busy || c->closing || n < 18 || n < c->need)
        return;
    const char *p = (const char *)evbuffer_pullup(in, -1);
    if (!p || (unsigned char)*p < 0x20) { // TLS on the plain port
        close_soon(c);
        return;
    }
    const char *end = memmem(p, n, "\r\n\r\n", 4);
    if (!end) {
        if (n > 65536)
            close_soon(c);
        return;
    }
    size_t head = (size_t)(end - p) + 4;
    if (!parse_headers(c, td_str_n(p, head - 2))) {
        close_soon(c);
        return;
    }
    struct td_str value = header(c, "content-length");
    if (value.n && !td_str_to_u64(value, &length)) {
        close_soon(c);
        return;
    }
    if (length > BODY_MAX || header(c, "transfer-encoding").n) {
        close_soon(c);
        return;
    }
    if (n < head + length) {
        c->need = head + (size_t)length;
        if (td_str_is(header(c, "expect"), "100-continue") && n == head)
            put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        return;
    }
    struct td_str body = td_str_n(p + head, (size_t)length);
    struct server *s = c->s;
    c->take = head + (size_t)length;
    c->need = 0;
    c->busy = true;
    c->head_sent = false;
    c->sent = 0;
    c->next_token = 0;
    c->finished = c->ended = false;
    c->head_at = 0;
    c->keep = !td_str_ieq(header(c, "connection"), TD_STR("close"));
    memset(&c->b, 0, sizeof c->b);
    c->job.stream = false;
    td_arena_init(&c->arena, 256u << 20);
    c->arena_live = true;
    if (s->instant && !memmem(body.p, body.n, "\"stream\":true", 13) && c->path.n > 1 && c->path.p[1] != '_') {
        put(c, s->instant_reply, s->instant_n);
        answered(c);
        return;
    }
    snprintf(c->id, sizeof c->id, "cmpl-%llu", (unsigned long long)++s->next_id);
    if (c->path.n > 1 && c->path.p[1] == '_' && control(c, body))
        return;
    if (!s->instant)
        c->rec = log_request(c, body);
    if (td_str_is(c->method, "CONNECT"))
        tunnel(c);
    else
        dispatch(c, body);
    if (!s->instant)
        check_waiters(s);
}

static void on_read(struct bufferevent *bev, void *arg) {
    (void)bev;
    serve(arg);
}

static void on_event(struct bufferevent *bev, short what, void *arg) {
    struct conn *c = arg;
    (void)bev;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR))
        conn_free(c);
}

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

static bool listener_open(struct listener *l) {
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
