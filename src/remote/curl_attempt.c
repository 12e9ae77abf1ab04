// SPDX-License-Identifier: Apache-2.0
// Attempts carried by libcurl: TLS, HTTP/2, proxies. The engine (engine.h) runs the transfer; here libcurl's callbacks
// become what an attempt hears.
#include "remote/attempt.h"

#include <stdio.h>

#include "remote/route.h"

struct curl_attempt {
    struct td_attempt a; // first
    struct td_xfer x;
    struct curl_slist key_line, *headers_set;
    char key_text[192];
    const char *url_set;
    long age_set;
    size_t header_bytes;
};

static struct curl_attempt *of(struct td_attempt *a) {
    return (struct curl_attempt *)(void *)a;
}

static struct curl_attempt *of_xfer(struct td_xfer *x) {
    return (struct curl_attempt *)(void *)((char *)x - offsetof(struct curl_attempt, x));
}

// ---- the reply

// libcurl takes less than it offered for an error.
static size_t on_header(char *p, size_t one, size_t n, void *user) {
    struct curl_attempt *c = user;
    struct td_attempt *a = &c->a;
    (void)one;
    if (a->doomed || c->x.stopping)
        return 0;
    c->header_bytes += n;
    a->stats.bytes_in += n;
    if (c->header_bytes > TD_REPLY_HEADER_BYTES_MAX)
        return td_attempt_refuse(a, TD_ERR_UPSTREAM_GARBAGE, "its header is too large");
    if (td_str_starts(td_str_n(p, n), TD_STR("HTTP/"))) {
        const char *space = memchr(p, ' ', n);
        td_attempt_status(a, space ? atoi(space) : 0);
        return n;
    }
    const char *colon = memchr(p, ':', n);
    if (colon) {
        size_t name = (size_t)(colon - p);
        td_attempt_field(a, td_str_n(p, name), td_str_trim(td_str_n(colon + 1, n - name - 1)));
    }
    return n;
}

static size_t on_body(char *p, size_t one, size_t n, void *user) {
    struct curl_attempt *c = user;
    curl_off_t raw = 0;
    (void)one;
    if (c->x.stopping)
        return 0;
    // A newer libcurl (8.14 for one) reads on in spite of the pause, and then wants its next turn at once, again and
    // again. What it brings is left with it: that it understands.
    if (c->x.halted)
        return CURL_WRITEFUNC_PAUSE;
    c->a.stats.bytes_in += n;
    if (c->a.packed)
        curl_easy_getinfo(c->x.easy, CURLINFO_SIZE_DOWNLOAD_T, &raw);
    return td_attempt_body(&c->a, p, n, (uint64_t)raw) ? n : 0;
}

static void on_connected(struct td_xfer *x) {
    td_attempt_connected(&of_xfer(x)->a, x->reused);
}

static void on_end(struct td_xfer *x) {
    struct td_attempt *a = &of_xfer(x)->a;
    struct td_attempt_end end = {.whole = x->code == CURLE_OK, .what = ""};
    end.cut = x->code == CURLE_PARTIAL_FILE || x->code == CURLE_RECV_ERROR || x->code == CURLE_GOT_NOTHING ||
              x->code == CURLE_HTTP2 || x->code == CURLE_HTTP2_STREAM || x->code == CURLE_SEND_ERROR;
    if (!end.whole)
        end.err = td_xfer_error(x, &end.what);
    td_attempt_end(a, &end);
}

static bool on_go_on(struct td_xfer *x) {
    return td_attempt_go_on(&of_xfer(x)->a);
}

static void on_stopped(struct td_xfer *x) {
    td_attempt_stopped(&of_xfer(x)->a);
}

static const struct td_xfer_ops xfer_ops = {on_connected, on_end, on_go_on, on_stopped};

// ---- life

static void carrier_destroy(struct td_attempt *a) {
    struct curl_attempt *c = of(a);
    td_attempt_finish(a);
    td_xfer_finish(&c->x);
    td_free(c);
}

#define SET(option, value)                                                                                             \
    do {                                                                                                               \
        if (curl_easy_setopt(easy, option, value) != CURLE_OK)                                                         \
            goto fail;                                                                                                 \
    } while (0)

static struct td_attempt *carrier_make(struct td_remote *r, struct route *route) {
    struct curl_attempt *c = td_calloc(1, sizeof *c);
    if (!c || td_xfer_init(&c->x, r, &xfer_ops) != TD_OK) {
        td_free(c);
        return NULL;
    }
    CURL *easy = c->x.easy;
    if (td_attempt_init(&c->a, r, &td_curl_carrier) != TD_OK || td_route_apply(route, &c->x) != TD_OK)
        goto fail;
    c->a.detail = c->x.why;
    SET(CURLOPT_ACCEPT_ENCODING, "gzip, deflate");
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, c);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, c);
    return &c->a;
fail:
    carrier_destroy(&c->a);
    return NULL;
}

static enum td_err carrier_prepare(struct td_attempt *a) {
    struct curl_attempt *c = of(a);
    const struct td_attempt_spec *spec = &a->spec;
    CURL *easy = c->x.easy;
    struct route *route = a->route;
    struct curl_slist *headers = route->headers[spec->stream];
    a->detail = c->x.why;
    c->header_bytes = 0;
    if (spec->idempotency_key && spec->target->idempotency && td_attempt_key_fits(spec->idempotency_key)) {
        snprintf(c->key_text, sizeof c->key_text, "Idempotency-Key: %s", spec->idempotency_key);
        c->key_line = (struct curl_slist){c->key_text, headers};
        headers = &c->key_line;
    }
    if (c->url_set != route->urls[spec->kind]) {
        c->url_set = NULL;
        SET(CURLOPT_URL, route->urls[spec->kind]);
        c->url_set = route->urls[spec->kind];
    }
    if (c->headers_set != headers) {
        SET(CURLOPT_HTTPHEADER, headers);
        c->headers_set = headers;
    }
    if ((a->r->refreshed_ns || c->age_set) && td_xfer_set_age(&c->x, &c->age_set) != TD_OK)
        goto fail;
    if (route->proxy) {
        long apart = td_route_is_apart(a->r, route);
        SET(CURLOPT_FRESH_CONNECT, apart);
        SET(CURLOPT_FORBID_REUSE, apart);
    }
    SET(CURLOPT_POSTFIELDS, spec->body.p ? spec->body.p : "");
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)spec->body.n);
    return TD_OK;
fail:
    return TD_ERR_NOMEM;
}

static void carrier_start(struct td_attempt *a) {
    td_xfer_start(&of(a)->x, &a->route->place);
}

static void carrier_stop(struct td_attempt *a) {
    td_xfer_stop(&of(a)->x);
}

static void carrier_abort(struct td_attempt *a) {
    td_xfer_abort(&of(a)->x);
}

static void carrier_pause(struct td_attempt *a) {
    td_xfer_pause(&of(a)->x);
}

static void carrier_halt(struct td_attempt *a) {
    td_xfer_halt(&of(a)->x);
}

static void carrier_go_on(struct td_attempt *a) {
    td_xfer_go_on(&of(a)->x);
}

static bool carrier_is_resolving(const struct td_attempt *a) {
    return ((const struct curl_attempt *)(const void *)a)->x.state == TD_XFER_RESOLVING;
}

static bool carrier_is_sent(const struct td_attempt *a) {
    curl_off_t n = 0;
    return curl_easy_getinfo(((const struct curl_attempt *)(const void *)a)->x.easy, CURLINFO_SIZE_UPLOAD_T, &n) ==
               CURLE_OK &&
           n >= (curl_off_t)a->spec.body.n;
}

static int carrier_descriptor(const struct td_attempt *a) {
    return td_xfer_descriptor(&((const struct curl_attempt *)(const void *)a)->x);
}

const struct td_carrier td_curl_carrier = {carrier_make,  carrier_destroy,      carrier_prepare, carrier_start,
                                           carrier_stop,  carrier_abort,        carrier_pause,   carrier_halt,
                                           carrier_go_on, carrier_is_resolving, carrier_is_sent, carrier_descriptor};
