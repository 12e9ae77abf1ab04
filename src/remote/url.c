// SPDX-License-Identifier: Apache-2.0
// Where a transfer goes: URLs, proxies, and what of them is allowed.
#include "remote/engine.h"

#include <net/if.h>
#include <stdio.h>

#include "remote/secret.h"

enum td_err td_url_check(struct td_str url, char *host, size_t host_size, uint16_t *port, bool *tls,
                         struct td_error *e) {
    char text[TD_REMOTE_URL_BYTES_MAX];
    char *part = NULL, *scheme = NULL, *number = NULL;
    uint64_t value = 0;
    enum td_err err = TD_ERR_CONFIG;
    if (url.n == 0 || url.n >= sizeof text)
        return td_error_set(e, TD_ERR_CONFIG, "a URL must have 1 to %u bytes", TD_REMOTE_URL_BYTES_MAX - 1);
    for (size_t i = 0; i < url.n; i++)
        if ((unsigned char)url.p[i] <= 0x20 || (unsigned char)url.p[i] >= 0x7f)
            return td_error_set(e, TD_ERR_CONFIG, "a URL must be printable ASCII without spaces");
    memcpy(text, url.p, url.n);
    text[url.n] = 0;
    // libcurl would forgive these; others who read the same URL would not, or otherwise.
    const char *slashes = strstr(text, "://");
    if (!slashes || slashes[3] == '/' || strchr(text, '\\'))
        return td_error_set(e, TD_ERR_CONFIG, "not a URL");
    CURLU *u = curl_url();
    if (!u)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading a URL");
    if (curl_url_set(u, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK) {
        td_error_set(e, err, "not a URL");
        goto out;
    }
    *tls = strcmp(scheme, "https") == 0;
    if (!*tls && strcmp(scheme, "http") != 0) {
        td_error_set(e, err, "only http and https URLs are allowed");
        goto out;
    }
    if (curl_url_get(u, CURLUPART_USER, &part, 0) == CURLUE_OK ||
        curl_url_get(u, CURLUPART_PASSWORD, &part, 0) == CURLUE_OK) {
        td_error_set(e, err, "a URL must not hold a user or password");
        goto out;
    }
    if (curl_url_get(u, CURLUPART_FRAGMENT, &part, 0) == CURLUE_OK) {
        td_error_set(e, err, "a URL here must not have a fragment");
        goto out;
    }
    if (curl_url_get(u, CURLUPART_HOST, &part, 0) != CURLUE_OK || strlen(part) >= host_size || !*part) {
        td_error_set(e, err, "the URL has no usable host");
        goto out;
    }
    snprintf(host, host_size, "%s", part);
    if (curl_url_get(u, CURLUPART_PORT, &number, CURLU_DEFAULT_PORT) != CURLUE_OK ||
        !td_str_to_u64(td_str_of(number), &value) || value == 0 || value > 65535) {
        td_error_set(e, err, "the URL has no usable port");
        goto out;
    }
    *port = (uint16_t)value;
    err = TD_OK;
out:
    curl_free(part), curl_free(scheme), curl_free(number);
    curl_url_cleanup(u);
    return err;
}

enum td_err td_url_add_target(const char *url, struct td_buf *out) {
    char *path = NULL, *query = NULL;
    enum td_err err = TD_ERR_NOMEM;
    CURLU *u = curl_url();
    if (!u)
        return err;
    if (curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK || curl_url_get(u, CURLUPART_PATH, &path, 0) != CURLUE_OK)
        goto out;
    err = td_buf_addz(out, path);
    if (!err && curl_url_get(u, CURLUPART_QUERY, &query, 0) == CURLUE_OK) {
        err = td_buf_addc(out, '?');
        err = err ? err : td_buf_addz(out, query);
    }
out:
    curl_free(path), curl_free(query);
    curl_url_cleanup(u);
    return err;
}

uint32_t td_url_zone(const char *url) {
    char *zone = NULL;
    uint64_t number = 0;
    CURLU *u = curl_url();
    if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_ZONEID, &zone, 0) == CURLUE_OK) {
        number = if_nametoindex(zone);
        if (!number && (!td_str_to_u64(td_str_of(zone), &number) || number > UINT32_MAX))
            number = 0;
    }
    curl_free(zone);
    curl_url_cleanup(u);
    return (uint32_t)number;
}

static bool is_localhost(struct td_str host) {
    static const char tail[] = ".localhost"; // RFC 6761 section 6.3
    return td_str_ieq(host, TD_STR("localhost")) ||
           (host.n > sizeof tail - 1 && td_str_ieq(td_str_n(host.p + host.n - (sizeof tail - 1), sizeof tail - 1),
                                                   td_str_n(tail, sizeof tail - 1)));
}

enum td_err td_place_set(struct td_remote *r, struct td_place *p, struct td_str host, uint16_t port, uint32_t scopes,
                         uint32_t literal_scopes, struct td_error *e) {
    struct sockaddr_storage address;
    *p = (struct td_place){.scopes = scopes};
    if (td_address_literal(host, &address)) {
        p->scopes = literal_scopes;
        if (!(td_address_scope((const struct sockaddr *)(const void *)&address) & p->scopes))
            return td_error_set(e, TD_ERR_CONFIG, "the address %.*s is not allowed here", TD_STR_ARG(host));
        return TD_OK;
    }
    if (is_localhost(host)) { // libcurl knows this one without asking anybody
        p->scopes = TD_SCOPE_LOOPBACK & (scopes | literal_scopes);
        return p->scopes ? TD_OK : td_error_set(e, TD_ERR_CONFIG, "localhost is not allowed here");
    }
    p->name = td_resolver_name(r->resolver, host, port);
    return p->name ? TD_OK : td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing a name");
}

enum td_err td_xfer_set_tls(CURL *easy, const char *ca, const char *cert, const char *key) {
    bool ok = true;
    if (ca) // this authority alone, not beside those of the system
        ok = curl_easy_setopt(easy, CURLOPT_CAINFO, ca) == CURLE_OK &&
             curl_easy_setopt(easy, CURLOPT_CAPATH, NULL) == CURLE_OK;
    if (ok && cert)
        ok = curl_easy_setopt(easy, CURLOPT_SSLCERT, cert) == CURLE_OK &&
             curl_easy_setopt(easy, CURLOPT_SSLKEY, key ? key : cert) == CURLE_OK;
    return ok ? TD_OK : TD_ERR_NOMEM;
}

enum td_err td_proxy_read(struct td_str proxy, char *url, size_t url_size, char *host, size_t host_size, uint16_t *port,
                          struct td_secret *user_password, struct td_error *e) {
    bool tls;
    const char *slashes = memmem(proxy.p, proxy.n, "://", 3);
    const char *at = slashes ? memrchr(slashes + 3, '@', (size_t)(proxy.p + proxy.n - slashes - 3)) : NULL;
    *user_password = (struct td_secret){NULL, 0};
    if (at) {
        struct td_str ref = td_str_n(slashes + 3, (size_t)(at - slashes - 3));
        if (!td_secret_is_ref(ref))
            return td_error_set(e, TD_ERR_CONFIG,
                                "the proxy's user and password are given by reference: "
                                "http://env:NAME@host:port, with user:password in NAME");
        enum td_err err = td_secret_resolve(ref, user_password, e);
        if (err)
            return err;
    }
    int head = slashes ? (int)(slashes + 3 - proxy.p) : 0;
    struct td_str rest =
        at ? td_str_n(at + 1, (size_t)(proxy.p + proxy.n - at - 1)) : td_str_n(proxy.p + head, proxy.n - (size_t)head);
    int n = snprintf(url, url_size, "%.*s%.*s", head, proxy.p, TD_STR_ARG(rest));
    enum td_err err = n < 0 || (size_t)n >= url_size
                          ? td_error_set(e, TD_ERR_CONFIG, "the proxy's URL is too long")
                          : td_url_check(td_str_n(url, (size_t)n), host, host_size, port, &tls, e);
    if (err)
        td_secret_finish(user_password);
    return err;
}

enum td_err td_xfer_set_proxy(CURL *easy, const char *proxy_url, const char *user_password) {
    bool ok = curl_easy_setopt(easy, CURLOPT_PROXY, proxy_url) == CURLE_OK;
    if (ok && user_password)
        ok = curl_easy_setopt(easy, CURLOPT_PROXYUSERPWD, user_password) == CURLE_OK;
    return ok ? TD_OK : TD_ERR_NOMEM;
}

// One row per way in which libcurl can fail that means something of its own here.
static const struct {
    CURLcode code;
    enum td_err err;
    const char *what;
} meanings[] = {
    {CURLE_COULDNT_RESOLVE_HOST, TD_ERR_DNS, "its name could not be resolved"},
    {CURLE_COULDNT_RESOLVE_PROXY, TD_ERR_DNS, "the proxy's name could not be resolved"},
    {CURLE_COULDNT_CONNECT, TD_ERR_CONNECT, "no connection"},
    {CURLE_PROXY, TD_ERR_CONNECT, "the proxy failed"},
    {CURLE_INTERFACE_FAILED, TD_ERR_CONNECT, "no connection"},
    {CURLE_SSL_CONNECT_ERROR, TD_ERR_TLS, "the TLS handshake failed"},
    {CURLE_PEER_FAILED_VERIFICATION, TD_ERR_TLS, "its certificate was not accepted"},
    {CURLE_SSL_CERTPROBLEM, TD_ERR_TLS, "the client certificate cannot be used"},
    {CURLE_SSL_CIPHER, TD_ERR_TLS, "no common TLS cipher"},
    {CURLE_SSL_CACERT_BADFILE, TD_ERR_TLS, "the CA file cannot be used"},
    {CURLE_SSL_ISSUER_ERROR, TD_ERR_TLS, "its certificate was not accepted"},
    {CURLE_SSL_INVALIDCERTSTATUS, TD_ERR_TLS, "its certificate was not accepted"},
    {CURLE_UNSUPPORTED_PROTOCOL, TD_ERR_UPSTREAM_GARBAGE, "its answer is not HTTP"},
    {CURLE_WEIRD_SERVER_REPLY, TD_ERR_UPSTREAM_GARBAGE, "its answer is not HTTP"},
    {CURLE_BAD_CONTENT_ENCODING, TD_ERR_UPSTREAM_GARBAGE, "its answer's encoding is broken"},
    {CURLE_FILESIZE_EXCEEDED, TD_ERR_UPSTREAM_GARBAGE, "its answer is too large"},
    {CURLE_OUT_OF_MEMORY, TD_ERR_NOMEM, "out of memory"},
    {CURLE_URL_MALFORMAT, TD_ERR_CONFIG, "its URL cannot be used"},
};

enum td_err td_xfer_error(const struct td_xfer *x, const char **what) {
    long proxy_status = 0;
    if (x->refused == TD_ERR_CONNECT && !x->connected) {
        *what = "its address is not allowed for it";
        return TD_ERR_CONNECT;
    }
    if (x->refused == TD_ERR_OVERLOAD && !x->connected) {
        *what = TD_REMOTE_NO_DESCRIPTOR;
        return TD_ERR_OVERLOAD;
    }
    curl_easy_getinfo(x->easy, CURLINFO_HTTP_CONNECTCODE, &proxy_status);
    if (!x->connected && proxy_status >= 400) {
        *what = proxy_status == 407 ? "the proxy wants other credentials" : "the proxy refused to connect";
        return proxy_status == 407 ? TD_ERR_UPSTREAM_AUTH : TD_ERR_CONNECT;
    }
    for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++)
        if (meanings[i].code == x->code) {
            *what = meanings[i].what;
            return meanings[i].err;
        }
    // With TLS 1.3 a server's refusal of the client certificate comes after the handshake, as a failed read.
    if (strstr(x->why, "SSL routines") && strstr(x->why, "alert")) {
        *what = "TLS was refused by the other side";
        return TD_ERR_TLS;
    }
    *what = x->connected ? "the connection broke" : "no connection";
    return x->connected ? TD_ERR_CUT : TD_ERR_CONNECT;
}
