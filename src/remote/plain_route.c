// SPDX-License-Identifier: Apache-2.0
// What a route prepares once for all its requests on connections of our own.
#include "remote/plain.h"

#include <netinet/in.h>
#include <sodium.h>

// "Name: value" of libcurl's list, "Name;" for an empty value, "Name:" for one that is not to be sent.
static enum td_err add_fields(struct td_buf *out, const struct curl_slist *headers) {
    enum td_err err = TD_OK;
    size_t total = 64;
    for (const struct curl_slist *h = headers; h; h = h->next)
        total += strlen(h->data) + 3;
    td_buf_expect(out, total); // a buffer that grew would leave copies of secrets behind
    for (const struct curl_slist *h = headers; h && !err; h = h->next) {
        size_t n = strlen(h->data);
        const char *colon = memchr(h->data, ':', n);
        if (colon && colon + 1 == h->data + n)
            continue;
        bool empty = !colon;
        err = td_buf_add(out, h->data, n - empty);
        err = err ? err : td_buf_addz(out, empty ? ":\r\n" : "\r\n");
    }
    return err ? err : td_buf_addz(out, "Content-Length: ");
}

static enum td_err add_line(struct td_buf *out, const char *url, struct td_str host, uint16_t port) {
    enum td_err err = td_buf_addz(out, "POST ");
    err = err ? err : td_url_add_target(url, out);
    err = err ? err : td_buf_addz(out, " HTTP/1.1\r\nHost: ");
    err = err ? err : td_buf_add_str(out, host);
    if (!err && port != 80)
        err = td_buf_printf(out, ":%u", port);
    return err ? err : td_buf_addz(out, "\r\n");
}

static void add_place(struct td_plain_route *route, const struct sockaddr_storage *address, uint16_t port) {
    struct sockaddr_storage *s = &route->places[route->place_count++];
    *s = *address;
    if (s->ss_family == AF_INET)
        ((struct sockaddr_in *)(void *)s)->sin_port = htons(port);
    else
        ((struct sockaddr_in6 *)(void *)s)->sin6_port = htons(port);
}

enum td_err td_plain_route_init(struct td_plain_route *route, struct td_plain *p, char *const urls[3],
                                struct td_str host, uint16_t port, struct curl_slist *const headers[2],
                                struct td_error *e) {
    struct sockaddr_storage address;
    enum td_err err = TD_OK;
    route->plain = p;
    TAILQ_INIT(&route->idle);
    for (int i = 0; i < 3; i++)
        td_buf_init(&route->lines[i], TD_REMOTE_URL_BYTES_MAX + 512);
    for (int i = 0; i < 2; i++)
        td_buf_init(&route->fields[i], 1u << 20); // 32 headers of 8 KiB at most
    for (int i = 0; i < 3 && !err; i++)
        err = add_line(&route->lines[i], urls[i], host, port);
    for (int i = 0; i < 2 && !err; i++)
        err = add_fields(&route->fields[i], headers[i]);
    if (td_address_literal(host, &address)) {
        if (address.ss_family == AF_INET6)
            ((struct sockaddr_in6 *)(void *)&address)->sin6_scope_id = td_url_zone(urls[0]);
        add_place(route, &address, port);
    } else { // localhost (RFC 6761 section 6.3): known without asking anybody; for a name, unused
        (void)td_address_literal(TD_STR("::1"), &address);
        add_place(route, &address, port);
        (void)td_address_literal(TD_STR("127.0.0.1"), &address);
        add_place(route, &address, port);
    }
    return err ? td_error_set(e, err, "while preparing the head of requests: %s", td_err_text(err)) : TD_OK;
}

static void wipe(struct td_buf *b) {
    if (b->p)
        sodium_memzero(b->p, b->cap);
    td_buf_finish(b);
}

void td_plain_route_finish(struct td_plain_route *route) {
    td_plain_route_drop(route);
    for (int i = 0; i < 3; i++)
        wipe(&route->lines[i]);
    for (int i = 0; i < 2; i++)
        wipe(&route->fields[i]);
}
