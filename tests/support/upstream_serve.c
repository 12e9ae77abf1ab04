// SPDX-License-Identifier: Apache-2.0
// One request of the scripted upstream, from its first byte to the answer that its behaviour asks for.
#include "upstream_conn.h"

#include <event2/buffer.h>
#include <netinet/in.h>
#include <stdio.h>

#include "base/time.h"

#define BODY_MAX (64u << 20)

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

void on_timer(evutil_socket_t fd, short what, void *arg) {
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

struct td_str header(const struct conn *c, const char *name) {
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

// ---- requests out of bytes

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

void serve(struct conn *c) {
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

void on_read(struct bufferevent *bev, void *arg) {
    (void)bev;
    serve(arg);
}

void on_event(struct bufferevent *bev, short what, void *arg) {
    struct conn *c = arg;
    (void)bev;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR))
        conn_free(c);
}
