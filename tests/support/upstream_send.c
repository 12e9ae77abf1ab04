// SPDX-License-Identifier: Apache-2.0
// How the scripted upstream writes, and how its connections end.
#include "upstream_conn.h"

#include <errno.h>
#include <event2/buffer.h>
#include <linux/filter.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/time.h"

double now_ms(const struct server *s) {
    return (double)(td_now_ns() - s->start_ns) / 1e6;
}

// Straight into the socket while nothing is queued: a bufferevent would wait for the next turn of the loop.
void put(struct conn *c, const void *p, size_t n) {
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

void conn_free(struct conn *c) {
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

void reset(struct conn *c) {
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

void close_soon(struct conn *c) {
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

void answered(struct conn *c) {
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

bool body_put(struct conn *c, const void *p, size_t n) {
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

bool body_add(struct conn *c, const void *p, size_t n, bool last) {
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

void body_end(struct conn *c) {
    if (c->gzip && !body_add(c, "", 0, true))
        return;
    if (c->chunked)
        put(c, "0\r\n\r\n", 5);
    answered(c);
}

void make_head(struct conn *c, int status, const char *type, int64_t length, const char *extra) {
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

void send_head(struct conn *c) {
    put(c, c->head.p, c->head.n);
    c->head_sent = true;
}

void reply(struct conn *c, int status, const char *type, struct td_str body, const char *extra) {
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

void reply_error(struct conn *c, int status, const char *message, const char *type, const char *code) {
    char body[512];
    int n =
        snprintf(body, sizeof body, "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}",
                 message, type, code);
    reply(c, status, "application/json", td_str_n(body, (size_t)n), NULL);
}

void after(struct conn *c, int64_t ms) {
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    evtimer_add(c->timer, &tv);
}
