// SPDX-License-Identifier: Apache-2.0
// The control paths: what was seen of the requests, which behaviours come next, down and up again.
#include "upstream_conn.h"

#include <event2/listener.h>
#include <stdio.h>

#include "base/time.h"

#define LOG_BODY_MAX (256u << 10)

struct record *log_request(struct conn *c, struct td_str body) {
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

void check_waiters(struct server *s) {
    struct conn *c;
    do {
        for (c = s->conns; c && !(c->watching && waiter_ready(c)); c = c->next)
            ;
        if (c)
            send_log(c);
    } while (c);
}

uint64_t query_number(struct td_str path, const char *name) {
    const char *at = memmem(path.p, path.n, name, strlen(name));
    uint64_t n = 0;
    for (const char *p = at ? at + strlen(name) : NULL; p && p < path.p + path.n && *p >= '0' && *p <= '9'; p++)
        n = n * 10 + (uint64_t)(*p - '0');
    return n;
}

bool script_read(struct server *s, struct td_str text, char why[128]) {
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

bool control(struct conn *c, struct td_str body) {
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
