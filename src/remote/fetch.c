// SPDX-License-Identifier: Apache-2.0
// Plain exchanges beside inference: webhooks, telemetry, downloads, and probes of targets.
//
//   start -> (connected) -> head -> data … -> done -> destroy
//
// on_head and on_data run inside libcurl's callbacks; destroying from there is put off by the engine until libcurl has
// returned. on_done runs outside of them.
#include "remote/route.h"

#include <sodium.h>
#include <stdio.h>

#include "base/log.h"
#include "base/time.h"
#include "loop/loop.h"
#include "remote/secret.h"

#define IDLE_MS_DEFAULT 30000u
#define PROBE_BODY_BYTES_MAX (1u << 20)

struct td_fetch {
    struct td_xfer x; // first
    struct td_fetch_spec spec;
    struct td_probe_spec probe;
    bool is_probe, got_head, done;
    struct route *route; // probes
    struct td_place place;
    struct td_timer *timer;
    uint32_t connect_ms, idle_ms, total_ms;
    uint64_t start_ns, last_ns, bytes, bytes_max;
    size_t header_bytes;
    struct curl_slist *headers;
    char *url, *ca, *proxy;
    struct td_secret proxy_user;
    struct td_fetch_head head;
    char location[TD_REMOTE_URL_BYTES_MAX], etag[256], content_type[128], log_id[64];
    enum td_err verdict;
    const char *verdict_what;
};

static struct td_fetch *of(struct td_xfer *x) {
    return (struct td_fetch *)(void *)x;
}

static void fetch_free(struct td_fetch *f) {
    td_xfer_finish(&f->x);
    td_timer_destroy(f->timer);
    td_headers_finish(f->headers);
    td_secret_finish(&f->proxy_user);
    td_free(f->url), td_free(f->ca), td_free(f->proxy);
    td_route_release(f->route);
    td_free(f);
}

// ---- ends

static void finish(struct td_fetch *f, enum td_err err, const char *what) {
    char message[240];
    f->done = true;
    td_timer_disarm(f->timer);
    if (err && td_log_on(TD_LOG_INFO))
        td_log(TD_LOG_INFO, "remote", *f->log_id ? f->log_id : NULL, "while=%s err=%s detail=\"%.160s\"",
               f->is_probe ? "probe" : "fetch", td_err_code(err), f->x.why);
    if (f->is_probe) {
        uint64_t end = f->probe.probe == TD_PROBE_CONNECT && f->x.connected ? f->x.connected_ns : td_now_ns();
        f->probe.on_done(f->probe.user, err, f->head.status, (end - f->start_ns) / 1000);
        return;
    }
    snprintf(message, sizeof message, "%s", what);
    f->spec.on_done(f->spec.user, err, f->head.status, message);
}

static void on_end(struct td_xfer *x) {
    struct td_fetch *f = of(x);
    const char *what = "";
    enum td_err err = f->verdict;
    if (err)
        what = f->verdict_what;
    else if (x->code != CURLE_OK)
        err = td_xfer_error(x, &what);
    if ((err == TD_ERR_CONNECT || err == TD_ERR_TLS) && x->place->name)
        td_name_doubt(x->place->name);
    if (!err && f->is_probe && f->probe.probe == TD_PROBE_MODELS) {
        int status = f->head.status;
        err = status == 429 ? TD_ERR_UPSTREAM_RATE : status >= 500 || status == 0 ? TD_ERR_UPSTREAM_SERVER : TD_OK;
    }
    finish(f, err, what);
}

static uint64_t due_at(const struct td_fetch *f, enum td_err *what) {
    uint64_t at;
    if (!f->x.connected)
        *what = f->x.state == TD_XFER_RESOLVING ? TD_ERR_DNS : TD_ERR_CONNECT,
        at = f->start_ns + f->connect_ms * TD_MS_NS;
    else
        *what = TD_ERR_IDLE, at = f->last_ns + f->idle_ms * TD_MS_NS;
    if (f->total_ms && f->start_ns + f->total_ms * TD_MS_NS < at)
        *what = TD_ERR_DEADLINE, at = f->start_ns + f->total_ms * TD_MS_NS;
    return at;
}

static void arm(struct td_fetch *f) {
    enum td_err what;
    uint64_t at = due_at(f, &what), now = td_now_ns();
    td_timer_arm(f->timer, at > now ? (at - now + TD_MS_NS - 1) / TD_MS_NS : 0);
}

static void on_time(void *arg) {
    struct td_fetch *f = arg;
    enum td_err what;
    if (f->done)
        return;
    if (td_now_ns() < due_at(f, &what)) {
        arm(f);
        return;
    }
    td_xfer_abort(&f->x);
    finish(f, what, td_err_text(what));
}

static void on_connected(struct td_xfer *x) {
    struct td_fetch *f = of(x);
    f->last_ns = x->connected_ns;
    arm(f);
}

static bool on_go_on(struct td_xfer *x) {
    (void)x;
    return true;
}

static void on_stopped(struct td_xfer *x) {
    fetch_free(of(x));
}

static const struct td_xfer_ops xfer_ops = {on_connected, on_end, on_go_on, on_stopped};

// ---- the reply

static size_t refuse(struct td_fetch *f, enum td_err verdict, const char *what) {
    if (!f->verdict) {
        f->verdict = verdict;
        f->verdict_what = what;
    }
    return 0;
}

static struct td_str keep(char *to, size_t size, struct td_str value) {
    if (value.n >= size)
        return TD_STR_NONE;
    memcpy(to, value.p, value.n);
    return td_str_n(to, value.n);
}

// "bytes 100-199/200", or in a 416 "bytes */200": RFC 9110 section 14.4.
static void read_range(struct td_fetch_head *h, struct td_str v) {
    const char *dash = memchr(v.p, '-', v.n), *slash = memchr(v.p, '/', v.n);
    bool none = td_str_starts(v, TD_STR("bytes */"));
    uint64_t from, total;
    if (!none && (!td_str_starts(v, TD_STR("bytes ")) || !dash || !slash || dash < v.p + 6 ||
                  !td_str_to_u64(td_str_n(v.p + 6, (size_t)(dash - v.p) - 6), &from) || from > INT64_MAX))
        return;
    h->range_start = none ? -1 : (int64_t)from;
    if (td_str_to_u64(td_str_n(slash + 1, (size_t)(v.p + v.n - slash) - 1), &total) && total <= INT64_MAX)
        h->range_total = (int64_t)total;
}

static void begin_head(struct td_fetch *f, int status) {
    f->head = (struct td_fetch_head){.status = status, .content_length = -1, .range_start = -1, .range_total = -1};
}

static bool end_head(struct td_fetch *f) {
    if (f->head.status < 200 || f->got_head)
        return true;
    f->got_head = true;
    if (f->is_probe || !f->spec.on_head)
        return true;
    return f->spec.on_head(f->spec.user, &f->head);
}

static size_t on_header(char *p, size_t one, size_t n, void *user) {
    struct td_fetch *f = user;
    struct td_fetch_head *h = &f->head;
    struct td_str line = td_str_trim(td_str_n(p, n));
    uint64_t number;
    (void)one;
    if (f->x.stopping)
        return 0;
    f->header_bytes += n;
    f->last_ns = td_now_ns();
    if (f->header_bytes > TD_REPLY_HEADER_BYTES_MAX)
        return refuse(f, TD_ERR_UPSTREAM_GARBAGE, "the reply's header is too large");
    if (line.n == 0)
        return end_head(f) ? n : refuse(f, TD_ERR_CANCELLED, "stopped");
    if (td_str_starts(line, TD_STR("HTTP/"))) {
        const char *space = memchr(line.p, ' ', line.n);
        begin_head(f, space ? atoi(space) : 0);
        return n;
    }
    const char *colon = memchr(line.p, ':', line.n);
    if (!colon)
        return n;
    struct td_str name = td_str_n(line.p, (size_t)(colon - line.p));
    struct td_str value = td_str_trim(td_str_n(colon + 1, line.n - name.n - 1));
    if (td_str_ieq(name, TD_STR("content-length")) && td_str_to_u64(value, &number) && number <= INT64_MAX)
        h->content_length = (int64_t)number;
    else if (td_str_ieq(name, TD_STR("content-range")))
        read_range(h, value);
    else if (td_str_ieq(name, TD_STR("location")))
        h->location = keep(f->location, sizeof f->location, value);
    else if (td_str_ieq(name, TD_STR("etag")))
        h->etag = keep(f->etag, sizeof f->etag, value);
    else if (td_str_ieq(name, TD_STR("content-type")))
        h->content_type = keep(f->content_type, sizeof f->content_type, value);
    else if (td_str_ieq(name, TD_STR("retry-after")) && td_str_to_u64(value, &number))
        h->retry_after_ms = number < 86400 ? (uint32_t)number * 1000 : 86400000;
    return n;
}

static size_t on_body(char *p, size_t one, size_t n, void *user) {
    struct td_fetch *f = user;
    (void)one;
    if (n == 0 || f->x.stopping)
        return 0;
    f->last_ns = td_now_ns();
    f->bytes += n;
    if (f->bytes > f->bytes_max)
        return refuse(f, TD_ERR_UPSTREAM_GARBAGE, "the reply is too large");
    if (f->is_probe || !f->spec.on_data || f->spec.on_data(f->spec.user, td_str_n(p, n)))
        return n;
    return refuse(f, TD_ERR_CANCELLED, "stopped");
}

// ---- starting

#define SET(option, value)                                                                                             \
    do {                                                                                                               \
        if (curl_easy_setopt(easy, option, value) != CURLE_OK)                                                         \
            return td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing a transfer");                          \
    } while (0)

static enum td_err make(struct td_remote *r, struct td_fetch **out, struct td_error *e) {
    struct td_fetch *f = td_calloc(1, sizeof *f);
    if (!f || td_xfer_init(&f->x, r, &xfer_ops) != TD_OK) {
        td_free(f);
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing a transfer");
    }
    *out = f;
    f->timer = td_timer_create(r->loop, on_time, f);
    if (!f->timer)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing a transfer");
    CURL *easy = f->x.easy;
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, f);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, f);
    begin_head(f, 0);
    return TD_OK;
}

static void begin(struct td_fetch *f, const struct td_place *place) {
    f->start_ns = f->last_ns = td_now_ns();
    td_xfer_start(&f->x, place);
    arm(f);
}

static enum td_err copy(struct td_str s, char **out, struct td_error *e) {
    *out = td_strndup(s.p, s.n);
    return *out ? TD_OK : td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing a transfer");
}

// The key's bytes into `out`; 0 where it is none.
static size_t signing_key(const struct td_secret *secret, unsigned char out[TD_SECRET_BYTES_MAX]) {
    size_t n = secret->n;
    if (n <= 6 || memcmp(secret->p, "whsec_", 6) != 0) {
        memcpy(out, secret->p, n);
        return n;
    }
    return sodium_base642bin(out, TD_SECRET_BYTES_MAX, secret->p + 6, n - 6, NULL, &n, NULL,
                             sodium_base64_VARIANT_ORIGINAL) == 0
               ? n
               : 0;
}

static enum td_err add_signature(struct td_fetch *f, const struct td_fetch_spec *s, const char *time_s,
                                 struct td_error *e) {
    unsigned char key[TD_SECRET_BYTES_MAX], mac[crypto_auth_hmacsha256_BYTES];
    char value[80] = "v1,";
    struct td_secret secret;
    crypto_auth_hmacsha256_state h;
    enum td_err err = td_secret_resolve(s->sign_ref, &secret, e);
    if (err)
        return err;
    size_t n = signing_key(&secret, key);
    td_secret_finish(&secret);
    if (n == 0)
        return td_error_set(e, TD_ERR_CONFIG, "the webhook's secret is not Base64 after whsec_");
    crypto_auth_hmacsha256_init(&h, key, n);
    sodium_memzero(key, sizeof key);
    crypto_auth_hmacsha256_update(&h, (const unsigned char *)s->sign_id.p, s->sign_id.n);
    crypto_auth_hmacsha256_update(&h, (const unsigned char *)".", 1);
    crypto_auth_hmacsha256_update(&h, (const unsigned char *)time_s, strlen(time_s));
    crypto_auth_hmacsha256_update(&h, (const unsigned char *)".", 1);
    crypto_auth_hmacsha256_update(&h, (const unsigned char *)s->body.p, s->body.n);
    crypto_auth_hmacsha256_final(&h, mac);
    sodium_memzero(&h, sizeof h);
    sodium_bin2base64(value + 3, sizeof value - 3, mac, sizeof mac, sodium_base64_VARIANT_ORIGINAL);
    return td_headers_add(&f->headers, TD_STR("webhook-signature"), td_str_of(value), e);
}

static enum td_err add_webhook_headers(struct td_fetch *f, const struct td_fetch_spec *s, struct td_error *e) {
    char time_s[24];
    snprintf(time_s, sizeof time_s, "%lld", (long long)(td_wall_ms() / 1000));
    enum td_err err = td_headers_add(&f->headers, TD_STR("webhook-id"), s->sign_id, e);
    err = err ? err : td_headers_add(&f->headers, TD_STR("webhook-timestamp"), td_str_of(time_s), e);
    return err || !s->sign_ref.n ? err : add_signature(f, s, time_s, e);
}

static enum td_err add_headers(struct td_fetch *f, const struct td_fetch_spec *s, struct td_error *e) {
    enum td_err err = td_headers_add(&f->headers, TD_STR("User-Agent"), TD_STR(TD_REMOTE_AGENT), e);
    struct td_secret secret;
    bool typed = false;
    for (uint32_t i = 0; !err && i < s->header_count; i++) {
        typed = typed || td_str_ieq(s->headers[i].name, TD_STR("content-type"));
        err = td_headers_add(&f->headers, s->headers[i].name, s->headers[i].value, e);
    }
    if (!err && s->post && !typed)
        err = td_headers_add(&f->headers, TD_STR("Content-Type"), TD_STR("application/json"), e);
    if (!err && s->range_from > 0 && s->if_range.n)
        err = td_headers_add(&f->headers, TD_STR("If-Range"), s->if_range, e);
    if (!err && s->auth_ref.n && !(err = td_secret_resolve(s->auth_ref, &secret, e))) {
        char value[TD_SECRET_BYTES_MAX + 16];
        int n = snprintf(value, sizeof value, "Bearer %s", secret.p);
        err = td_headers_add(&f->headers, TD_STR("Authorization"), td_str_n(value, (size_t)n), e);
        sodium_memzero(value, sizeof value);
        td_secret_finish(&secret);
    }
    if (!err && s->sign_id.n)
        err = add_webhook_headers(f, s, e);
    if (!err && s->post) {
        struct curl_slist *longer = curl_slist_append(f->headers, "Expect:");
        err = longer ? TD_OK : td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing headers");
        f->headers = longer ? longer : f->headers;
    }
    return err;
}

static enum td_err set_place(struct td_fetch *f, const struct td_fetch_spec *s, struct td_error *e) {
    uint32_t scopes = TD_SCOPE_GLOBAL;
    char host[256], proxy[TD_REMOTE_URL_BYTES_MAX];
    uint16_t port;
    bool tls;
    enum td_err err = td_url_check(s->url, host, sizeof host, &port, &tls, e);
    if (err)
        return err;
    if (s->private_ok)
        scopes |= TD_SCOPE_PRIVATE | TD_SCOPE_LOOPBACK | TD_SCOPE_LINK_LOCAL;
    if (!s->proxy.n)
        return td_place_set(f->x.r, &f->place, td_str_of(host), port, scopes, scopes, e);
    err = td_proxy_read(s->proxy, proxy, sizeof proxy, host, sizeof host, &port, &f->proxy_user, e);
    scopes = TD_SCOPE_GLOBAL | TD_SCOPE_PRIVATE | TD_SCOPE_LOOPBACK | TD_SCOPE_LINK_LOCAL; // the operator's own machine
    if (!err)
        err = td_place_set(f->x.r, &f->place, td_str_of(host), port, scopes, scopes, e);
    return err ? err : copy(td_str_of(proxy), &f->proxy, e);
}

static enum td_err prepare(struct td_fetch *f, const struct td_fetch_spec *s, struct td_error *e) {
    CURL *easy = f->x.easy;
    enum td_err err = set_place(f, s, e);
    err = err ? err : copy(s->url, &f->url, e);
    err = err || !s->ca_file.n ? err : copy(s->ca_file, &f->ca, e);
    err = err ? err : add_headers(f, s, e);
    if (err)
        return err;
    if (td_xfer_set_tls(easy, f->ca, NULL, NULL) || (f->proxy && td_xfer_set_proxy(easy, f->proxy, f->proxy_user.p)))
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing a transfer");
    SET(CURLOPT_URL, f->url);
    SET(CURLOPT_HTTPHEADER, f->headers);
    if (s->post) {
        SET(CURLOPT_POSTFIELDS, s->body.p ? s->body.p : "");
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)s->body.n);
    } else if (s->range_from > 0) {
        char range[32];
        snprintf(range, sizeof range, "%lld-", (long long)s->range_from);
        SET(CURLOPT_RANGE, range);
    }
    if (!s->post)
        SET(CURLOPT_BUFFERSIZE, 64L << 10); // downloads are large, and few
    return TD_OK;
}

enum td_err td_remote_fetch(struct td_remote *r, const struct td_fetch_spec *s, struct td_fetch **out,
                            struct td_error *e) {
    struct td_grant_terms terms = {.kind = s->kind, .url = s->url};
    struct td_fetch *f = NULL;
    enum td_err err = td_grant_consume(s->grant, &terms, s->body, r->policy_version_min, e);
    if (err)
        return err;
    err = make(r, &f, e);
    err = err ? err : prepare(f, s, e);
    if (err) {
        if (f)
            fetch_free(f);
        return err;
    }
    f->spec = *s;
    f->spec.grant = NULL;
    f->connect_ms = s->connect_ms ? s->connect_ms : TD_CONNECT_MS_DEFAULT;
    f->idle_ms = s->idle_ms ? s->idle_ms : IDLE_MS_DEFAULT;
    f->total_ms = s->total_ms;
    f->bytes_max = s->bytes_max ? s->bytes_max : TD_REPLY_BYTES_MAX;
    if (s->log_id)
        snprintf(f->log_id, sizeof f->log_id, "%s", s->log_id);
    begin(f, &f->place);
    *out = f;
    return TD_OK;
}

static enum td_err prepare_probe(struct td_fetch *f, struct td_error *e) {
    CURL *easy = f->x.easy;
    if (td_route_apply(f->route, &f->x))
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing a probe");
    SET(CURLOPT_URL, f->route->models_url);
    SET(CURLOPT_FRESH_CONNECT, 1L); // a kept connection would not say whether the way is still there
    if (f->probe.probe == TD_PROBE_CONNECT) {
        SET(CURLOPT_CONNECT_ONLY, 1L);
    } else {
        SET(CURLOPT_HTTPGET, 1L);
        SET(CURLOPT_HTTPHEADER, f->route->headers[0]);
    }
    return TD_OK;
}

enum td_err td_remote_probe(struct td_remote *r, const struct td_probe_spec *s, struct td_fetch **out,
                            struct td_error *e) {
    struct td_grant_terms terms = {.kind = TD_GRANT_PROBE, .target = s->target};
    struct td_fetch *f = NULL;
    struct route *route = NULL;
    enum td_err err = td_grant_consume(s->grant, &terms, TD_STR_NONE, r->policy_version_min, e);
    err = err ? err : td_route_get(r, s->target, &route, e);
    if (err)
        return err;
    err = make(r, &f, e);
    if (!f) {
        td_route_release(route);
        return err;
    }
    f->route = route;
    f->is_probe = true;
    f->probe = *s;
    f->probe.grant = NULL;
    err = err ? err : prepare_probe(f, e);
    if (err) {
        fetch_free(f);
        return err;
    }
    const struct td_timeouts *t = &s->target->timeouts;
    f->connect_ms = t->connect_ms ? t->connect_ms : TD_CONNECT_MS_DEFAULT;
    f->idle_ms = t->first_token_ms ? t->first_token_ms : IDLE_MS_DEFAULT;
    f->total_ms = s->timeout_ms ? s->timeout_ms : f->connect_ms + f->idle_ms;
    f->bytes_max = PROBE_BODY_BYTES_MAX;
    begin(f, &route->place);
    *out = f;
    return TD_OK;
}

void td_fetch_destroy(struct td_fetch *f) {
    if (f)
        td_xfer_stop(&f->x);
}
