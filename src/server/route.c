// SPDX-License-Identifier: Apache-2.0
// From a whole head to its place: who may ask, what is there, and the listener's own three answers.
#include <netinet/in.h>

#include "server/conn.h"

static struct td_str field(const struct td_conn *c, int index) {
    return index < 0 ? TD_STR_NONE : td_http_view(c->in.p, c->head.fields[index].value);
}

static struct td_str path_of(const struct td_conn *c) {
    struct td_str target = td_http_view(c->in.p, c->head.target);
    const char *query = memchr(target.p, '?', target.n);
    return query ? (struct td_str){target.p, (size_t)(query - target.p)} : target;
}

// The address the client connected to; only needed where all addresses are listened on.
static void connected_address(const struct td_conn *c, char *out, size_t cap) {
    struct sockaddr_storage own;
    socklen_t n = sizeof own;
    out[0] = '\0';
    if (c->worker->config->access.address->wildcard && getsockname(c->stream.fd, (struct sockaddr *)&own, &n) == 0)
        td_access_address_text((struct sockaddr *)&own, out, cap);
}

// Before routing and for every method: DNS rebinding and foreign web pages end here.
static bool check_access(struct td_conn *c) {
    const struct td_access *access = &c->worker->config->access;
    char connected[64];
    connected_address(c, connected, sizeof connected);
    struct td_str host = field(c, c->head.host);
    if (!td_access_host(access, host, connected)) {
        td_conn_refuse(c, 403, "this Host is not served here (see `hosts` in the configuration)", NULL, true);
        return false;
    }
    if (c->head.origin >= 0 && !td_access_origin(access, field(c, c->head.origin), host)) {
        td_conn_refuse(c, 403, "web pages of another origin may not use this server", NULL, true);
        return false;
    }
    // A browser names no Origin for what a page merely embeds (images, scripts, links), but says whose page it is.
    struct td_str site = field(c, c->head.fetch_site);
    if (c->head.origin < 0 && (td_str_ieq(site, TD_STR("cross-site")) || td_str_ieq(site, TD_STR("same-site"))) &&
        td_str_starts(path_of(c), TD_STR("/v1/"))) {
        td_conn_refuse(c, 403, "web pages of another origin may not use this server", NULL, true);
        return false;
    }
    return true;
}

static bool is_json(struct td_str type) {
    const char *semicolon = type.n ? memchr(type.p, ';', type.n) : NULL;
    if (semicolon)
        type.n = (size_t)(semicolon - type.p);
    return td_str_ieq(td_str_trim(type), TD_STR("application/json"));
}

static bool has_body(const struct td_conn *c) {
    return c->head.chunked || c->head.content_length > 0;
}

static void answer_ready(struct td_conn *c) {
    char why[128] = "";
    bool draining = atomic_load_explicit(&c->worker->listener->draining, memory_order_relaxed);
    if (draining)
        td_conn_refuse(c, 503, "draining", NULL, true);
    else if (td_runtime_ready(c->worker->listener->runtime, why) != 0)
        td_conn_refuse(c, 503, why, NULL, false);
    else
        td_conn_answer(c, 200, "text/plain; charset=utf-8", TD_STR("ready\n"), NULL);
}

static void answer_metrics(struct td_conn *c) {
    char *text = td_runtime_metrics(c->worker->listener->runtime);
    if (text)
        td_conn_answer(c, 200, "text/plain; version=0.0.4; charset=utf-8", td_str_of(text), NULL);
    else
        td_conn_refuse(c, 500, "out of memory", NULL, true);
    td_string_free(text);
}

static void answer_health(struct td_conn *c) {
    td_conn_answer(c, 200, "text/plain; charset=utf-8", TD_STR("ok\n"), NULL);
}

// To add a route of the listener's own: one row. Everything under /v1/ belongs to the core.
static const struct {
    struct td_str path;
    void (*answer)(struct td_conn *c);
} own_routes[] = {
    {{"/healthz", 8}, answer_health},
    {{"/readyz", 7}, answer_ready},
    {{"/metrics", 8}, answer_metrics},
};

static void answer_own(struct td_conn *c, struct td_str path) {
    size_t i = 0, n = sizeof own_routes / sizeof *own_routes;
    while (i < n && !td_str_eq(own_routes[i].path, path))
        i++;
    if (i == n)
        td_conn_refuse(c, 404, "there is nothing at this path; the API is under /v1/", NULL, has_body(c));
    else if (c->head.method == TD_HTTP_OPTIONS)
        td_conn_answer(c, 204, NULL, TD_STR_NONE, "GET, HEAD, OPTIONS");
    else if (c->head.method != TD_HTTP_GET && c->head.method != TD_HTTP_HEAD)
        td_conn_refuse(c, 405, "this path knows GET and HEAD", "GET, HEAD, OPTIONS", has_body(c));
    else
        own_routes[i].answer(c);
}

bool td_route_head(struct td_conn *c) {
    const struct td_http_head *head = &c->head;
    struct td_str path = path_of(c);
    td_counter_add(c->worker->listener->requests, 1);
    if (!check_access(c))
        return false;
    if (head->method == TD_HTTP_OPTIONS && path.p[0] == '*') {
        td_conn_answer(c, 204, NULL, TD_STR_NONE, "GET, HEAD, POST, OPTIONS");
        return false;
    }
    // Operators' methods are for the user who owns the Unix socket, and for nobody over a network.
    bool operators = strcmp(c->peer, "unix") == 0 && td_str_starts(path, TD_STR("/admin/"));
    if (!operators && !td_str_starts(path, TD_STR("/v1/"))) {
        answer_own(c, path);
        return false;
    }
    bool takes_body = head->method == TD_HTTP_POST || head->method == TD_HTTP_PUT || head->method == TD_HTTP_PATCH;
    if (head->method == TD_HTTP_OPTIONS) {
        td_conn_answer(c, 204, NULL, TD_STR_NONE, "GET, HEAD, POST, OPTIONS");
        return false;
    }
    // A page of another origin can send any other type without asking first.
    if (takes_body && !is_json(field(c, head->content_type))) {
        td_conn_refuse(c, 415, "the body must be application/json", NULL, true);
        return false;
    }
    if (head->content_length > c->worker->config->body_bytes_max) {
        td_conn_refuse(c, 413, "the body is too large", NULL, true);
        return false;
    }
    return true;
}

void td_route_call(struct td_conn *c) {
    struct td_http_head *head = &c->head;
    c->headers = head->field_count ? td_malloc(head->field_count * sizeof *c->headers) : NULL;
    if (head->field_count && !c->headers) {
        td_conn_refuse(c, 500, "out of memory", NULL, true);
        return;
    }
    for (unsigned i = 0; i < head->field_count; i++)
        c->headers[i] = (struct td_http_header){c->in.p + head->fields[i].name.at, head->fields[i].name.n,
                                                c->in.p + head->fields[i].value.at, head->fields[i].value.n};
    // The bytes behind path and query are spaces and the question mark: they make way for NULs.
    struct td_str path = path_of(c);
    char *target = c->in.p + head->target.at;
    target[head->target.n] = '\0';
    bool has_query = path.n < head->target.n;
    target[path.n] = '\0';
    struct td_http_request request = {
        .method = td_http_method_name(head->method),
        .path = target,
        .query = has_query ? target + path.n + 1 : "",
        .body = c->in.p + td_http_head_bytes(head),
        .body_length = c->body_n,
        .headers = c->headers,
        .header_count = head->field_count,
        .peer = c->peer,
        .local_peer = c->local,
        .subject = c->subject,
    };
    td_http_call(c->worker->listener->runtime, c->worker->index, &request, &td_conn_sink, c, &c->call);
}
