// SPDX-License-Identifier: Apache-2.0
#include "server/access.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>

bool td_access_is_loopback(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24 == 127;
    if (address->sa_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
        return IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == 127);
    }
    return address->sa_family == AF_UNIX;
}

static bool is_wildcard(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr == htonl(INADDR_ANY);
    return address->sa_family == AF_INET6 &&
           IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

void td_access_address_text(const struct sockaddr *address, char *out, size_t cap) {
    char text[INET6_ADDRSTRLEN] = "";
    out[0] = '\0';
    if (address->sa_family == AF_UNIX) {
        snprintf(out, cap, "unix");
    } else if (address->sa_family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)address)->sin_addr, out, (socklen_t)cap);
    } else if (address->sa_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(a)) {
            inet_ntop(AF_INET, &a->s6_addr[12], out, (socklen_t)cap);
        } else {
            inet_ntop(AF_INET6, a, text, sizeof text);
            snprintf(out, cap, "[%s]", text);
        }
    }
}

static enum td_err read_unix(const char *path, struct td_listen_address *out, struct td_error *e) {
    if (path[0] != '/')
        return td_error_set(e, TD_ERR_LISTEN, "a Unix socket needs an absolute path: unix:/path");
    if (strlen(path) >= sizeof out->local.sun_path)
        return td_error_set(e, TD_ERR_LISTEN, "the Unix socket's path is longer than %zu bytes",
                            sizeof out->local.sun_path - 1);
    out->local.sun_family = AF_UNIX;
    memcpy(out->local.sun_path, path, strlen(path) + 1);
    out->length = sizeof out->local;
    out->is_unix = out->loopback = true;
    return TD_OK;
}

enum td_err td_listen_address_read(const char *text, unsigned port, struct td_listen_address *out, struct td_error *e) {
    memset(out, 0, sizeof *out);
    if (strncmp(text, "unix:", 5) == 0)
        return read_unix(text + 5, out, e);
    if (port > 65535)
        return td_error_set(e, TD_ERR_LISTEN, "port %u does not exist", port);
    char bare[64];
    size_t n = strlen(text);
    bool brackets = n > 2 && text[0] == '[' && text[n - 1] == ']';
    if (snprintf(bare, sizeof bare, "%.*s", (int)(brackets ? n - 2 : n), text + brackets) >= (int)sizeof bare)
        return td_error_set(e, TD_ERR_LISTEN, "the address to listen on is too long");
    struct sockaddr_in *v4 = (void *)&out->storage;
    struct sockaddr_in6 *v6 = (void *)&out->storage;
    if (!brackets && inet_pton(AF_INET, strcmp(bare, "localhost") == 0 ? "127.0.0.1" : bare, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        out->length = sizeof *v4;
    } else if (inet_pton(AF_INET6, bare, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        out->length = sizeof *v6;
    } else {
        return td_error_set(e, TD_ERR_LISTEN, "the address to listen on must be numeric, \"localhost\" or unix:/path");
    }
    out->loopback = td_access_is_loopback(&out->any);
    out->wildcard = is_wildcard(&out->any);
    td_access_address_text(&out->any, out->host, sizeof out->host);
    return TD_OK;
}

enum td_err td_access_check_exposure(const struct td_listen_address *address, const struct td_listen_settings *settings,
                                     struct td_error *e) {
    if (address->loopback)
        return TD_OK;
    bool tls = settings->tls_cert && settings->tls_cert[0] && settings->tls_key && settings->tls_key[0];
    if (settings->has_keys && tls)
        return TD_OK;
    return td_error_set(e, TD_ERR_EXPOSED,
                        "%s can be reached from other machines, and %s: create a key (tandem keys create) and set "
                        "tls.cert and tls.key, or listen on 127.0.0.1",
                        address->host,
                        settings->has_keys ? "TLS is not set up"
                        : tls              ? "there is no API key"
                                           : "there are neither API keys nor TLS");
}

// Takes ":port" off; false where what follows the last colon of a host is no port. Without one, *port is 0.
static bool split_port(struct td_str host, struct td_str *name, unsigned *port) {
    *name = host;
    *port = 0;
    const char *colon = memrchr(host.p, ':', host.n);
    if (!colon || memchr(colon, ']', (size_t)(host.p + host.n - colon)))
        return true;
    uint64_t value;
    struct td_str digits = {colon + 1, (size_t)(host.p + host.n - colon - 1)};
    if (digits.n == 0 || digits.n > 5 || digits.p[0] == '0' || !td_str_to_u64(digits, &value) || value > 65535)
        return false;
    *name = (struct td_str){host.p, (size_t)(colon - host.p)};
    *port = (unsigned)value;
    return true;
}

static bool is_configured(const struct td_access *a, struct td_str host, struct td_str name, unsigned port) {
    for (size_t i = 0; i < a->settings->host_count; i++) {
        struct td_str allowed = td_str_of(a->settings->hosts[i]), allowed_name;
        unsigned allowed_port;
        if (!split_port(allowed, &allowed_name, &allowed_port))
            continue;
        if (allowed_port ? td_str_ieq(host, allowed) : td_str_ieq(name, allowed_name) && (port == 0 || port == a->port))
            return true;
    }
    return false;
}

bool td_access_host(const struct td_access *a, struct td_str host, const char *connected) {
    struct td_str name;
    unsigned port;
    if (host.n == 0 || host.n > 255 || !split_port(host, &name, &port) || name.n == 0)
        return false;
    if (is_configured(a, host, name, port))
        return true;
    // A client leaves out the scheme's own port; on a Unix socket the port means nothing.
    bool own_port = a->address->is_unix || port == a->port || (port == 0 && a->port == (a->tls ? 443u : 80u));
    if (!own_port)
        return false;
    if (td_str_ieq(name, TD_STR("localhost")) || td_str_is(name, "127.0.0.1") || td_str_is(name, "[::1]"))
        return true;
    if (a->address->wildcard)
        return connected[0] && td_str_ieq(name, td_str_of(connected));
    return a->address->host[0] && td_str_ieq(name, td_str_of(a->address->host));
}

bool td_access_origin(const struct td_access *a, struct td_str origin, struct td_str host) {
    for (size_t i = 0; i < a->settings->origin_count; i++)
        if (td_str_ieq(origin, td_str_of(a->settings->origins[i])))
            return true;
    struct td_str scheme = a->tls ? TD_STR("https://") : TD_STR("http://");
    return td_str_starts(origin, scheme) && td_str_ieq((struct td_str){origin.p + scheme.n, origin.n - scheme.n}, host);
}
