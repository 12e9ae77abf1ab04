// SPDX-License-Identifier: Apache-2.0
#include "base/url.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static bool is_alnum(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool address_of(struct td_str host, int family, void *out) {
    char z[INET6_ADDRSTRLEN];
    if (host.n == 0 || host.n >= sizeof z || memchr(host.p, 0, host.n))
        return false;
    memcpy(z, host.p, host.n);
    z[host.n] = 0;
    return inet_pton(family, z, out) == 1;
}

bool td_host_is_loopback(struct td_str host) {
    struct in_addr v4;
    struct in6_addr v6;
    if (td_str_ieq(host, TD_STR("localhost")))
        return true;
    if (address_of(host, AF_INET, &v4))
        return (ntohl(v4.s_addr) >> 24) == 127;
    return address_of(host, AF_INET6, &v6) && IN6_IS_ADDR_LOOPBACK(&v6);
}

// A name whose last label is a number would be read as an address by some and as a name by others.
static bool host_valid(struct td_str host) {
    struct in_addr v4;
    size_t label = 0;
    bool digits = true;
    if (host.n == 0 || host.n > 253)
        return false;
    for (size_t i = 0; i < host.n; i++) {
        char c = host.p[i];
        if (c == '.') {
            if (label == 0 || host.p[i - 1] == '-')
                return false;
            label = 0;
            digits = true;
            continue;
        }
        if (!(is_alnum(c) || c == '_' || (c == '-' && label > 0)) || ++label > 63)
            return false;
        digits = digits && c >= '0' && c <= '9';
        if (label == 2 && digits == false && host.p[i - 1] == '0' && (c == 'x' || c == 'X'))
            return false; // 0x7f…: a number to some
    }
    if (label == 0 || host.p[host.n - 1] == '-')
        return false;
    return !digits || address_of(host, AF_INET, &v4);
}

static enum td_err parse_host(struct td_str *rest, struct td_url *out, struct td_error *e) {
    size_t end = 0;
    if (rest->n && rest->p[0] == '[') {
        struct in6_addr v6;
        while (end < rest->n && rest->p[end] != ']')
            end++;
        if (end == rest->n)
            return td_error_set(e, TD_ERR_CONFIG, "the URL's address lacks its closing bracket");
        out->host = td_str_n(rest->p + 1, end - 1);
        out->ipv6 = true;
        if (!address_of(out->host, AF_INET6, &v6))
            return td_error_set(e, TD_ERR_CONFIG, "the URL's address is no IPv6 address");
        end++;
    } else {
        while (end < rest->n && rest->p[end] != ':' && rest->p[end] != '/')
            end++;
        out->host = td_str_n(rest->p, end);
        if (!host_valid(out->host))
            return td_error_set(e, TD_ERR_CONFIG, "the URL's host is neither a plain name nor an address");
    }
    *rest = td_str_n(rest->p + end, rest->n - end);
    return TD_OK;
}

enum td_err td_url_parse(struct td_str text, struct td_url *out, struct td_error *e) {
    struct td_url url = {0};
    struct td_str rest = text;
    enum td_err err;
    if (text.n > TD_URL_BYTES_MAX)
        return td_error_set(e, TD_ERR_CONFIG, "the URL is longer than %u bytes", TD_URL_BYTES_MAX);
    for (size_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        if (c <= 0x20 || c >= 0x7f || c == '\\' || c == '@' || c == '?' || c == '#' || c == '"' || c == '<' || c == '>')
            return td_error_set(e, TD_ERR_CONFIG, "the URL holds a character that is not allowed here (byte %zu)", i);
    }
    if (td_str_starts(rest, TD_STR("https://")))
        url.tls = true;
    else if (!td_str_starts(rest, TD_STR("http://")))
        return td_error_set(e, TD_ERR_CONFIG, "the URL must start with https:// or http://");
    rest = td_str_n(rest.p + (url.tls ? 8 : 7), rest.n - (url.tls ? 8 : 7));
    err = parse_host(&rest, &url, e);
    if (err != TD_OK)
        return err;
    url.port = url.tls ? 443 : 80;
    if (rest.n && rest.p[0] == ':') {
        uint64_t port;
        size_t end = 1;
        while (end < rest.n && rest.p[end] != '/')
            end++;
        if (!td_str_to_u64(td_str_n(rest.p + 1, end - 1), &port) || port == 0 || port > 65535 || end > 6)
            return td_error_set(e, TD_ERR_CONFIG, "the URL's port is not a number from 1 to 65535");
        url.port = (uint16_t)port;
        rest = td_str_n(rest.p + end, rest.n - end);
    }
    if (rest.n && rest.p[0] != '/')
        return td_error_set(e, TD_ERR_CONFIG, "the URL has something other than a port or a path after its host");
    while (rest.n && rest.p[rest.n - 1] == '/')
        rest.n--;
    for (size_t i = 0; i + 1 < rest.n; i++)
        if (rest.p[i] == '/' && rest.p[i + 1] == '.')
            return td_error_set(e, TD_ERR_CONFIG, "the URL's path has a part that starts with a dot");
    url.path = rest;
    url.loopback = td_host_is_loopback(url.host);
    *out = url;
    return TD_OK;
}
