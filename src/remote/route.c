// SPDX-License-Identifier: Apache-2.0
#include "remote/route.h"

#include <sodium.h>
#include <stdio.h>

#include "base/log.h"
#include "base/time.h"
#include "remote/attempt.h"
#include "remote/secret.h"
#include "wire/openai_provider.h"

// What a named host may resolve to. Nearby machines may be anywhere but at a metadata service; a cloud is neither this
// machine nor a neighbour on the link. Private addresses stay allowed: companies reach their clouds through them.
static uint32_t scopes_of(enum td_tier tier) {
    uint32_t all = TD_SCOPE_GLOBAL | TD_SCOPE_PRIVATE;
    return tier == TD_TIER_CLOUD ? all : all | TD_SCOPE_LOOPBACK | TD_SCOPE_LINK_LOCAL;
}

#define LITERAL_SCOPES (TD_SCOPE_GLOBAL | TD_SCOPE_PRIVATE | TD_SCOPE_LOOPBACK | TD_SCOPE_LINK_LOCAL)

static unsigned char hash_key[crypto_shorthash_KEYBYTES];

static void hash_str(uint64_t *h, struct td_str s) {
    unsigned char one[crypto_shorthash_BYTES];
    uint64_t v;
    crypto_shorthash(one, (const unsigned char *)(s.p ? s.p : ""), s.n, hash_key);
    memcpy(&v, one, sizeof v);
    *h = (*h ^ v) * 0x9e3779b97f4a7c15ull;
    *h ^= *h >> 29;
}

// Everything the route is made from. Equal fingerprints: the same route.
static uint64_t fingerprint_of(const struct td_target *t) {
    uint64_t h = (uint64_t)t->tier * 64 + (uint64_t)t->provider;
    const struct td_str all[] = {t->name,        t->model,       t->base_url, t->path_style,       t->api_version,
                                 t->api_key_ref, t->auth_header, t->ca_file,  t->client_cert_file, t->client_key_file,
                                 t->proxy};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        hash_str(&h, all[i]);
    for (uint32_t i = 0; i < t->header_count; i++) {
        hash_str(&h, t->headers[i].name);
        hash_str(&h, t->headers[i].value);
    }
    return h;
}

void td_headers_finish(struct curl_slist *list) {
    for (struct curl_slist *l = list; l; l = l->next)
        sodium_memzero(l->data, strlen(l->data));
    curl_slist_free_all(list);
}

static bool is_token(struct td_str s) { // RFC 9110 section 5.6.2
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] <= 0x20 || (unsigned char)s.p[i] >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", s.p[i]))
            return false;
    return s.n > 0;
}

enum td_err td_headers_add(struct curl_slist **list, struct td_str name, struct td_str value, struct td_error *e) {
    char line[TD_SECRET_BYTES_MAX + 256];
    if (!is_token(name))
        return td_error_set(e, TD_ERR_CONFIG, "'%.*s' is no header name", (int)(name.n < 40 ? name.n : 40), name.p);
    for (size_t i = 0; i < value.n; i++)
        if (((unsigned char)value.p[i] < 0x20 && value.p[i] != '\t') || value.p[i] == 0x7f)
            return td_error_set(e, TD_ERR_CONFIG, "the header '%.*s' holds a control character", TD_STR_ARG(name));
    int n = snprintf(line, sizeof line, value.n ? "%.*s: %.*s" : "%.*s;%.*s", TD_STR_ARG(name), TD_STR_ARG(value));
    if (n < 0 || (size_t)n >= sizeof line) {
        sodium_memzero(line, sizeof line);
        return td_error_set(e, TD_ERR_CONFIG, "the header '%.*s' is too long", TD_STR_ARG(name));
    }
    struct curl_slist *longer = curl_slist_append(*list, line);
    sodium_memzero(line, (size_t)n);
    if (!longer)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing headers");
    *list = longer;
    return TD_OK;
}

static bool has_header(const struct td_target *t, struct td_str name) {
    for (uint32_t i = 0; i < t->header_count; i++)
        if (td_str_ieq(t->headers[i].name, name))
            return true;
    return false;
}

// One list each, since libcurl's lists cannot share a tail with two heads and still be freed simply.
static enum td_err make_headers(const struct td_target *t, bool stream, bool packs, struct curl_slist **list,
                                struct td_error *e) {
    bool azure = td_str_is(t->path_style, "azure");
    struct td_str auth = t->auth_header.n ? t->auth_header : azure ? TD_STR("api-key") : TD_STR("authorization");
    struct td_secret secret = {NULL, 0};
    enum td_err err = td_headers_add(list, TD_STR("Content-Type"), TD_STR("application/json"), e);
    if (!err)
        err = td_headers_add(list, TD_STR("Accept"), stream ? TD_STR("text/event-stream") : TD_STR("application/json"),
                             e);
    // Compression would hold back the events of a stream in many servers, and costs both sides more than it saves on
    // the way to a machine nearby. These two stand here because libcurl, asked through its own options, formats them
    // twice for each request.
    if (!err)
        err = td_headers_add(list, TD_STR("Accept-Encoding"), packs ? TD_STR("gzip, deflate") : TD_STR("identity"), e);
    if (!err && !has_header(t, TD_STR("User-Agent")))
        err = td_headers_add(list, TD_STR("User-Agent"), TD_STR(TD_REMOTE_AGENT), e);
    if (!err) { // no "Expect: 100-continue": it costs a round trip
        struct curl_slist *longer = curl_slist_append(*list, "Expect:");
        err = longer ? TD_OK : td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing headers");
        *list = longer ? longer : *list;
    }
    if (!err && t->api_key_ref.n && !(err = td_secret_resolve(t->api_key_ref, &secret, e))) {
        char value[TD_SECRET_BYTES_MAX + 16];
        bool bearer = td_str_ieq(auth, TD_STR("authorization"));
        int n = snprintf(value, sizeof value, "%s%s", bearer ? "Bearer " : "", secret.p);
        err = td_headers_add(list, auth, td_str_n(value, (size_t)n), e);
        sodium_memzero(value, sizeof value);
        td_secret_finish(&secret);
    }
    for (uint32_t i = 0; !err && i < t->header_count; i++) {
        const struct td_header *h = &t->headers[i];
        if (!td_secret_is_ref(h->value)) {
            err = td_headers_add(list, h->name, h->value, e);
        } else if (!(err = td_secret_resolve(h->value, &secret, e))) {
            err = td_headers_add(list, h->name, td_str_n(secret.p, secret.n), e);
            td_secret_finish(&secret);
        }
    }
    return err;
}

static enum td_err make_urls(struct route *route, const struct td_target *t, struct td_error *e) {
    struct td_buf b;
    td_buf_init(&b, TD_REMOTE_URL_BYTES_MAX);
    enum td_err err = TD_OK;
    for (int kind = TD_KIND_CHAT; !err && kind <= TD_KIND_EMBEDDING; kind++) {
        td_buf_clear(&b);
        err = td_openai_write_url(t->base_url, t->path_style, t->api_version, (enum td_kind)kind, t->model, &b);
        if (!err && !(route->urls[kind] = td_strndup(b.p, b.n)))
            err = TD_ERR_NOMEM;
    }
    td_buf_clear(&b);
    if (!err && td_str_is(t->path_style, "azure"))
        err = td_buf_printf(&b, "%.*s/openai/models?api-version=%.*s", TD_STR_ARG(t->base_url),
                            TD_STR_ARG(t->api_version));
    else if (!err)
        err = td_buf_printf(&b, "%.*s/models", TD_STR_ARG(t->base_url));
    if (!err && !(route->models_url = td_strndup(b.p, b.n)))
        err = TD_ERR_NOMEM;
    td_buf_finish(&b);
    return err ? td_error_set(e, err, "while writing the URLs of target '%.*s': %s", TD_STR_ARG(t->name),
                              td_err_text(err))
               : TD_OK;
}

static enum td_err copy(struct td_str s, char **out) {
    *out = s.n ? td_strndup(s.p, s.n) : NULL;
    return s.n && !*out ? TD_ERR_NOMEM : TD_OK;
}

// Where to, with which headers, carried by what. Behind a proxy the address is the proxy's, which is the operator's own
// machine.
static enum td_err make_way(struct td_remote *r, struct route *route, const struct td_target *t, struct td_error *e) {
    char host[256], proxy[TD_REMOTE_URL_BYTES_MAX];
    uint16_t port;
    bool tls;
    struct td_secret user = {NULL, 0};
    enum td_err err = td_url_check(td_str_of(route->urls[TD_KIND_CHAT]), host, sizeof host, &port, &tls, e);
    bool plain = !err && !tls && !t->proxy.n;
    route->carrier = plain ? &td_plain_carrier : &td_curl_carrier;
    for (int i = 0; !err && i < 2; i++)
        err = make_headers(t, i, !i && !plain, &route->headers[i], e);
    if (!err && plain && r)
        err = td_plain_route_init(&route->plain, r->plain, route->urls, td_str_of(host), port, route->headers, e);
    if (err)
        return err;
    if (!t->proxy.n)
        return r ? td_place_set(r, &route->place, td_str_of(host), port, scopes_of(t->tier), LITERAL_SCOPES, e) : TD_OK;
    err = td_proxy_read(t->proxy, proxy, sizeof proxy, host, sizeof host, &port, &user, e);
    if (!err && r)
        err = td_place_set(r, &route->place, td_str_of(host), port, scopes_of(TD_TIER_ONPREM), LITERAL_SCOPES, e);
    if (!err && (!(route->proxy = td_strdup(proxy)) || (user.n && !(route->proxy_user = td_strndup(user.p, user.n)))))
        err = td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing a proxy");
    hash_str(&route->proxy_id, td_str_of(route->proxy));
    hash_str(&route->proxy_user_id, td_str_of(route->proxy_user));
    td_secret_finish(&user);
    return err;
}

static void route_free(struct route *route) {
    while (route->ready) // each holds no reference while it waits
        route->carrier->destroy(route->ready);
    td_plain_route_finish(&route->plain);
    for (int i = 0; i < 3; i++)
        td_free(route->urls[i]);
    td_free(route->models_url);
    td_headers_finish(route->headers[0]);
    td_headers_finish(route->headers[1]);
    td_free(route->ca), td_free(route->cert), td_free(route->key), td_free(route->proxy);
    if (route->proxy_user)
        sodium_memzero(route->proxy_user, strlen(route->proxy_user));
    td_free(route->proxy_user);
    td_free(route);
}

// `r` NULL: only to see whether it could be made.
static enum td_err make(struct td_remote *r, const struct td_target *t, struct route **out, struct td_error *e) {
    struct route *route = td_calloc(1, sizeof *route);
    if (!route)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing a target");
    route->refs = 1;
    enum td_err err = make_urls(route, t, e);
    if (!err && (copy(t->ca_file, &route->ca) || copy(t->client_cert_file, &route->cert) ||
                 copy(t->client_key_file, &route->key)))
        err = td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing a target");
    err = err ? err : make_way(r, route, t, e);
    if (err) {
        route_free(route);
        return err;
    }
    *out = route;
    return TD_OK;
}

enum td_err td_route_get(struct td_remote *r, const struct td_target *t, struct route **out, struct td_error *e) {
    static const unsigned char none[sizeof hash_key];
    if (t->index >= TD_TARGETS_MAX)
        return td_error_set(e, TD_ERR_INTERNAL, "a target's index is out of range");
    if (memcmp(hash_key, none, sizeof none) == 0)
        return td_error_set(e, TD_ERR_INTERNAL, "the way out was not set up");
    uint64_t fingerprint = fingerprint_of(t);
    struct route **slot = &r->routes[t->index];
    if (*slot && (*slot)->fingerprint != fingerprint)
        td_route_drop(slot);
    if (!*slot) {
        enum td_err err = make(r, t, slot, e);
        if (err)
            return err;
        (*slot)->fingerprint = fingerprint;
    }
    (*slot)->refs++;
    *out = *slot;
    return TD_OK;
}

void td_route_release(struct route *route) {
    if (route && --route->refs == 0)
        route_free(route);
}

void td_route_drop(struct route **slot) {
    if (!*slot)
        return;
    (*slot)->dropped = true;
    td_plain_route_drop(&(*slot)->plain);
    td_route_release(*slot);
    *slot = NULL;
}

enum td_err td_route_apply(const struct route *route, struct td_xfer *x) {
    enum td_err err = td_xfer_set_tls(x->easy, route->ca, route->cert, route->key);
    if (!err && route->proxy)
        err = td_xfer_set_proxy(x->easy, route->proxy, route->proxy_user);
    return err;
}

bool td_route_is_apart(struct td_remote *r, const struct route *route) {
    struct td_tunnels *found = NULL, *oldest = &r->tunnels[0];
    uint64_t now = td_now_ns();
    for (size_t i = 0; i < sizeof r->tunnels / sizeof *r->tunnels; i++) {
        if (r->tunnels[i].used_ns && r->tunnels[i].proxy_id == route->proxy_id)
            found = &r->tunnels[i];
        if (r->tunnels[i].used_ns < oldest->used_ns)
            oldest = &r->tunnels[i];
    }
    struct td_tunnels *mine = found ? found : oldest;
    bool free_by_now = !mine->used_ns || now - mine->used_ns > (TD_IDLE_CONNECTION_S_MAX + 2) * TD_S_NS;
    if (mine->proxy_id != route->proxy_id || mine->user_id != route->proxy_user_id) {
        if (!free_by_now)
            return true;
        *mine = (struct td_tunnels){.proxy_id = route->proxy_id, .user_id = route->proxy_user_id};
    }
    mine->used_ns = now;
    return false;
}

void td_routes_init(void) {
    if (sodium_init() >= 0)
        randombytes_buf(hash_key, sizeof hash_key);
    hash_key[0] |= 1; // never all zero
}
