// SPDX-License-Identifier: Apache-2.0
// One attempt: a POST to a target, its answer read by wire/ and handed up as events.
//
//   start -> RESOLVING/CONNECTING -> WAITING (for the first token) -> STREAMING -> OVER -> destroy
//
// OVER means that END or ERROR was handed up: nothing follows. Destroy is allowed at any moment, also from inside an
// event. Where the answer had ended well but libcurl has not yet seen the last bytes of the reply, the attempt lingers
// for a moment without its owner, so that the connection can be kept. Limits in time hang on one timer per attempt,
// which is set lazily: it fires too early rather than being moved with every token.
#include "remote/route.h"

#include <stdio.h>

#include "base/log.h"
#include "base/time.h"
#include "loop/loop.h"
#include "wire/openai_provider.h"

#define HOLD_BYTES_MAX (256u << 10)      // what one turn of the loop can bring for a paused attempt is below 32 KiB
#define ERROR_BODY_BYTES_MAX (64u << 10) // kept of an error's body; what follows is read and dropped
#define ERROR_BODY_READ_MAX (1u << 20)
#define LINGER_MS 1000u
#define LINGER_BYTES_MAX (64u << 10)
#define INFLATE_FREE_BYTES (64u << 10) // small answers may compress as well as they like

struct td_attempt {
    struct td_xfer x; // first
    struct route *route;
    struct td_attempt *next, **prev; // among the ready or the lingering
    struct td_timer *timer;
    uint64_t armed_ns;
    struct td_attempt_spec spec;
    struct curl_slist key_line, *headers_set;
    char key_text[192];
    const char *url_set;
    long age_set;
    // The reply.
    struct td_reader *reader;
    struct td_buf hold, error_body;
    int status;
    bool packed, typed_wrong, body_begun;
    char retry_after[64], retry_after_ms[32];
    size_t header_bytes;
    uint64_t body_bytes, late_bytes, last_ns, linger_until_ns;
    enum td_err verdict; // why we ourselves broke it off
    const char *verdict_what;
    bool over, well, paused, end_held, detached;
    int busy;    // inside the reader: not to be freed now
    bool doomed; // destroyed meanwhile
    struct td_attempt_stats stats;
    uint32_t tokens, pieces; // with probabilities; events with something of the answer
};

static struct td_attempt *of(struct td_xfer *x) {
    return (struct td_attempt *)(void *)x;
}

static void unlink_attempt(struct td_attempt *a) {
    if (!a->prev)
        return;
    *a->prev = a->next;
    if (a->next)
        a->next->prev = a->prev;
    a->prev = NULL;
}

static void link_attempt(struct td_attempt *a, struct td_attempt **list) {
    a->next = *list;
    a->prev = list;
    if (a->next)
        a->next->prev = &a->next;
    *list = a;
}

// ---- time

static uint64_t sooner(uint64_t a, uint64_t b) {
    return !a ? b : !b || a < b ? a : b;
}

static uint32_t connect_ms(const struct td_attempt *a) {
    return a->spec.connect_ms ? a->spec.connect_ms : a->spec.target->timeouts.connect_ms;
}

// The next moment at which something is too late, and what it would be.
static uint64_t due_at(const struct td_attempt *a, enum td_err *what) {
    const struct td_timeouts *t = &a->spec.target->timeouts;
    uint64_t start = a->stats.start_ns, at = 0;
    if (a->detached) {
        *what = TD_ERR_CANCELLED;
        return a->linger_until_ns;
    }
    if (a->over)
        return 0;
    if (a->paused)
        at = 0;
    else if (!a->x.connected)
        *what = a->x.state == TD_XFER_RESOLVING ? TD_ERR_DNS : TD_ERR_CONNECT, at = start + connect_ms(a) * TD_MS_NS;
    else if (a->spec.stream && !a->stats.first_ns)
        *what = TD_ERR_FIRST_TOKEN, at = a->x.connected_ns + t->first_token_ms * TD_MS_NS;
    else if (a->body_begun)
        *what = TD_ERR_IDLE, at = a->last_ns + t->idle_ms * TD_MS_NS;
    uint64_t end = sooner(t->total_ms ? start + t->total_ms * TD_MS_NS : 0, a->spec.deadline_ns);
    if (end && (!at || end < at))
        *what = TD_ERR_DEADLINE, at = end;
    return at;
}

static void schedule(struct td_attempt *a) {
    enum td_err what;
    uint64_t at = due_at(a, &what), now;
    if (!at || (a->armed_ns && a->armed_ns <= at))
        return;
    now = td_now_ns();
    td_timer_arm(a->timer, at > now ? (at - now + TD_MS_NS - 1) / TD_MS_NS : 0);
    a->armed_ns = at;
}

// ---- handing up

static void recycle(struct td_attempt *a);

static void hand_up(struct td_attempt *a, const struct td_event *ev) {
    if (a->over || a->detached || a->doomed)
        return;
    switch (ev->type) {
    case TD_EV_DELTA:
        for (uint32_t i = 0; i < ev->delta.token_count; i++) {
            float p = ev->delta.tokens[i].logprob, n = (float)a->tokens;
            struct td_attempt_stats *s = &a->stats;
            s->mean_logprob = n > 0 ? (s->mean_logprob * n + p) / (n + 1) : p;
            s->min_logprob = n > 0 && s->min_logprob < p ? s->min_logprob : p;
            a->tokens++;
        }
        // fall through
    case TD_EV_REASONING:
    case TD_EV_REFUSAL:
    case TD_EV_TOOL_CALL:
    case TD_EV_EMBEDDING:
        a->last_ns = td_now_ns();
        a->pieces++;
        if (!a->stats.first_ns) {
            a->stats.first_ns = a->last_ns;
            schedule(a); // silence may be allowed less time than the first token
        }
        break;
    case TD_EV_USAGE:
        a->stats.prompt_tokens = ev->usage.prompt_tokens;
        a->stats.completion_tokens = ev->usage.completion_tokens;
        break;
    case TD_EV_END:
    case TD_EV_ERROR:
        a->over = true;
        a->well = ev->type == TD_EV_END;
        a->stats.end_ns = td_now_ns();
        break;
    case TD_EV_START:
    case TD_EV_FINISH:
        break;
    }
    a->spec.on_event(a->spec.user, ev);
}

static void on_reader_event(void *user, const struct td_event *ev) {
    hand_up(user, ev);
}

// After the reader returned: true where the attempt was destroyed from inside an event, and may be gone now.
static bool leave_reader(struct td_attempt *a) {
    if (--a->busy || !a->doomed)
        return false;
    td_xfer_stop(&a->x);
    return true;
}

static void fail(struct td_attempt *a, enum td_err code, int status, uint32_t retry_after_ms, const char *message) {
    const struct td_target *t = a->spec.target;
    if (td_log_on(TD_LOG_INFO))
        td_log(TD_LOG_INFO, "remote", a->spec.exchange_id,
               "while=attempt target=%.*s err=%s status=%d reused=%d detail=\"%.160s\"", TD_STR_ARG(t->name),
               td_err_code(code), status, a->x.reused, a->x.why);
    struct td_event ev = {.type = TD_EV_ERROR};
    ev.error.code = code;
    ev.error.message = td_str_of(message);
    ev.error.http_status = status;
    ev.error.retry_after_ms = retry_after_ms;
    a->busy++;
    hand_up(a, &ev);
    (void)leave_reader(a);
}

static void fail_named(struct td_attempt *a, enum td_err code, const char *what) {
    char message[240];
    snprintf(message, sizeof message, "target '%.*s': %s", TD_STR_ARG(a->spec.target->name), what);
    fail(a, code, a->status, 0, message);
}

static void on_time(void *arg) {
    struct td_attempt *a = arg;
    enum td_err what = TD_OK;
    char text[120];
    a->armed_ns = 0;
    uint64_t at = a->route ? due_at(a, &what) : 0; // without a route it waits for its next use
    if (!at)
        return;
    if (td_now_ns() < at) {
        schedule(a);
        return;
    }
    if (a->detached) {
        td_xfer_stop(&a->x);
        return;
    }
    const struct td_timeouts *t = &a->spec.target->timeouts;
    if (what == TD_ERR_CONNECT && a->route->place.name)
        td_name_doubt(a->route->place.name);
    switch (what) {
    case TD_ERR_DNS:
        snprintf(text, sizeof text, "no answer from the name servers within %u ms", connect_ms(a));
        break;
    case TD_ERR_CONNECT:
        snprintf(text, sizeof text, "no connection within %u ms", connect_ms(a));
        break;
    case TD_ERR_FIRST_TOKEN:
        snprintf(text, sizeof text, "no first token within %u ms", t->first_token_ms);
        break;
    case TD_ERR_IDLE:
        snprintf(text, sizeof text, "silent for %u ms", t->idle_ms);
        break;
    default:
        snprintf(text, sizeof text, "not complete within its time");
    }
    td_xfer_abort(&a->x); // closed before anybody hears of it
    fail_named(a, what, text);
}

// ---- the reply

static size_t refuse(struct td_attempt *a, enum td_err verdict, const char *what) {
    if (!a->verdict) {
        a->verdict = verdict;
        a->verdict_what = what;
    }
    return 0; // libcurl takes less than it offered for an error
}

static bool type_fits(struct td_str type) {
    const char *end = type.n ? memchr(type.p, ';', type.n) : NULL;
    if (end)
        type.n = (size_t)(end - type.p);
    type = td_str_trim(type);
    return type.n == 0 || memmem(type.p, type.n, "json", 4) || td_str_ieq(type, TD_STR("text/event-stream")) ||
           td_str_ieq(type, TD_STR("text/plain")) || td_str_ieq(type, TD_STR("application/octet-stream"));
}

static void keep(char *to, size_t size, struct td_str value) {
    snprintf(to, size, "%.*s", (int)(value.n < size ? value.n : 0), value.p);
}

static size_t on_header(char *p, size_t one, size_t n, void *user) {
    struct td_attempt *a = user;
    struct td_str line = td_str_n(p, n);
    (void)one;
    if (a->doomed || a->x.stopping)
        return 0;
    a->header_bytes += n;
    a->stats.bytes_in += n;
    if (a->header_bytes > TD_REPLY_HEADER_BYTES_MAX)
        return refuse(a, TD_ERR_UPSTREAM_GARBAGE, "its header is too large");
    if (td_str_starts(line, TD_STR("HTTP/"))) {
        const char *space = memchr(p, ' ', n);
        a->status = space ? atoi(space) : 0;
        a->packed = a->typed_wrong = false;
        return n;
    }
    const char *colon = memchr(p, ':', n);
    if (!colon)
        return n;
    struct td_str name = td_str_n(p, (size_t)(colon - p)), value = td_str_n(colon + 1, n - name.n - 1);
    switch (name.n) { // cheaper than comparing each header with each name
    case 11:
        if (td_str_ieq(name, TD_STR("retry-after")))
            keep(a->retry_after, sizeof a->retry_after, td_str_trim(value));
        break;
    case 12:
        if (td_str_ieq(name, TD_STR("content-type")))
            a->typed_wrong = !type_fits(td_str_trim(value));
        break;
    case 14:
        if (td_str_ieq(name, TD_STR("retry-after-ms")))
            keep(a->retry_after_ms, sizeof a->retry_after_ms, td_str_trim(value));
        break;
    case 16:
        if (td_str_ieq(name, TD_STR("content-encoding")))
            a->packed = true;
        break;
    }
    return n;
}

static bool ensure_reader(struct td_attempt *a) {
    if (a->reader)
        return true;
    struct td_reader_spec spec = {.kind = a->spec.kind,
                                  .stream = a->spec.stream,
                                  .raw = a->spec.raw,
                                  .choices = a->spec.choices,
                                  .id = td_str_of(a->spec.exchange_id),
                                  .on_event = on_reader_event,
                                  .user = a};
    return td_openai_reader_create(&spec, &a->reader) == TD_OK;
}

// Line by line, so that a pause takes effect between two events; the rest is then held back.
static bool feed(struct td_attempt *a, const char *p, size_t n) {
    a->busy++;
    while (n && !a->over && !a->doomed && !a->paused) {
        const char *end = a->spec.stream ? memchr(p, '\n', n) : NULL;
        size_t piece = end ? (size_t)(end - p) + 1 : n;
        if (!td_openai_reader_feed(a->reader, td_str_n(p, piece)))
            break;
        p += piece;
        n -= piece;
    }
    if (leave_reader(a))
        return false;
    if (a->over || !a->paused || !n)
        return true;
    td_xfer_halt(&a->x);
    if (td_buf_add(&a->hold, p, n) == TD_OK)
        return true;
    (void)refuse(a, TD_ERR_UPSTREAM_GARBAGE, "it sent more than can be held back");
    return false;
}

static size_t on_body(char *p, size_t one, size_t n, void *user) {
    struct td_attempt *a = user;
    (void)one;
    if (n == 0 || a->doomed || a->x.stopping)
        return 0;
    a->stats.bytes_in += n;
    a->body_bytes += n;
    if (a->over) // the last bytes after [DONE], or of an answer that failed
        return a->well && (a->late_bytes += n) <= LINGER_BYTES_MAX ? n : 0;
    if (a->packed) {
        curl_off_t raw = 0;
        curl_easy_getinfo(a->x.easy, CURLINFO_SIZE_DOWNLOAD_T, &raw);
        if (a->body_bytes > INFLATE_FREE_BYTES + ((uint64_t)raw + TD_REMOTE_BUFFER_BYTES) * TD_INFLATE_RATIO_MAX)
            return refuse(a, TD_ERR_UPSTREAM_GARBAGE, "its compressed answer inflates too far");
    }
    if (a->status < 200 || a->status > 299) {
        size_t room = ERROR_BODY_BYTES_MAX - a->error_body.n;
        if (a->body_bytes > ERROR_BODY_READ_MAX)
            return refuse(a, TD_ERR_UPSTREAM_GARBAGE, "its error is too large");
        return td_buf_add(&a->error_body, p, n < room ? n : room) == TD_OK ? n
                                                                           : refuse(a, TD_ERR_NOMEM, "out of memory");
    }
    if (a->typed_wrong)
        return refuse(a, TD_ERR_UPSTREAM_GARBAGE, "its answer has another content type than JSON or an event stream");
    if (!ensure_reader(a))
        return refuse(a, TD_ERR_NOMEM, "out of memory");
    if (!a->spec.stream || !a->body_begun)
        a->last_ns = td_now_ns();
    if (!a->body_begun) {
        a->body_begun = true;
        schedule(a);
    }
    if (a->paused)
        td_xfer_halt(&a->x);
    if (a->hold.n) // order: what is held back goes first
        return td_buf_add(&a->hold, p, n) == TD_OK ? n : refuse(a, TD_ERR_UPSTREAM_GARBAGE, "it does not wait");
    return feed(a, p, n) ? n : 0;
}

// The transfer is at its end and everything held back was handed up.
static void conclude(struct td_attempt *a) {
    const char *what = "";
    CURLcode code = a->x.code;
    if (a->verdict) {
        fail_named(a, a->verdict, a->verdict_what);
    } else if (a->status >= 300 && a->status <= 399) {
        fail_named(a, TD_ERR_UPSTREAM_GARBAGE, "it redirected, and redirects are not followed");
    } else if (a->status >= 400) {
        struct td_upstream_error error;
        td_openai_read_error(a->status, td_str_of(a->retry_after), td_str_of(a->retry_after_ms), td_wall_ms() / 1000,
                             td_buf_str(&a->error_body), &error);
        if (error.code == TD_ERR_UPSTREAM_AUTH) // a key in a file may have been replaced: read it again next time
            td_route_drop(&a->x.r->routes[a->spec.target->index]);
        fail(a, error.code, a->status, error.retry_after_ms, error.message);
    } else if (a->status >= 200 && a->x.connected && ensure_reader(a) && !a->typed_wrong &&
               (code == CURLE_OK || code == CURLE_PARTIAL_FILE || code == CURLE_RECV_ERROR ||
                code == CURLE_GOT_NOTHING || code == CURLE_HTTP2 || code == CURLE_HTTP2_STREAM ||
                code == CURLE_SEND_ERROR)) {
        a->busy++;
        td_openai_reader_finish(a->reader, code == CURLE_OK);
        (void)leave_reader(a);
    } else if (code == CURLE_OK) {
        fail_named(a, TD_ERR_UPSTREAM_GARBAGE, "its answer is not what was asked for");
    } else {
        enum td_err err = td_xfer_error(&a->x, &what);
        if (err == TD_ERR_CUT)
            what = "the connection closed before its answer began";
        if ((err == TD_ERR_CONNECT || err == TD_ERR_TLS) && a->route->place.name)
            td_name_doubt(a->route->place.name);
        fail_named(a, err, what);
    }
}

static void on_connected(struct td_xfer *x) {
    struct td_attempt *a = of(x);
    a->stats.connected_ns = x->connected_ns;
    a->stats.reused_connection = x->reused;
    a->stats.bytes_out = a->spec.body.n;
    schedule(a);
}

static void on_end(struct td_xfer *x) {
    struct td_attempt *a = of(x);
    if (a->detached)
        recycle(a);
    else if (a->over)
        return;
    else if (a->hold.n)
        a->end_held = true;
    else
        conclude(a);
}

static bool on_go_on(struct td_xfer *x) {
    struct td_attempt *a = of(x);
    if (a->paused || a->over)
        return !a->paused;
    if (a->hold.n) {
        struct td_buf held = a->hold; // feed may hold back again
        td_buf_init(&a->hold, HOLD_BYTES_MAX);
        bool alive = feed(a, held.p, held.n);
        td_buf_finish(&held);
        if (!alive)
            return false;
    }
    if (a->end_held && !a->hold.n && !a->over) {
        a->end_held = false;
        conclude(a);
        return false;
    }
    return !a->paused;
}

// ---- life

static void on_stopped(struct td_xfer *x) {
    recycle(of(x));
}

static const struct td_xfer_ops xfer_ops = {on_connected, on_end, on_go_on, on_stopped};

void td_attempt_free(struct td_attempt *a) {
    unlink_attempt(a);
    td_openai_reader_destroy(a->reader);
    td_timer_destroy(a->timer);
    td_buf_finish(&a->hold);
    td_buf_finish(&a->error_body);
    td_xfer_finish(&a->x);
    td_free(a);
}

// Back among the ready ones, or away. Its timer may still be set; it then finds nothing to do.
static void recycle(struct td_attempt *a) {
    struct route *route = a->route;
    unlink_attempt(a);
    td_openai_reader_destroy(a->reader);
    a->reader = NULL;
    td_buf_finish(&a->hold);
    td_buf_finish(&a->error_body);
    a->route = NULL;
    if (route->dropped || route->ready_count == TD_ROUTE_READY_MAX) {
        td_attempt_free(a);
    } else {
        link_attempt(a, &route->ready);
        route->ready_count++;
    }
    td_route_release(route);
}

#define SET(option, value)                                                                                             \
    do {                                                                                                               \
        if (curl_easy_setopt(easy, option, value) != CURLE_OK)                                                         \
            goto fail;                                                                                                 \
    } while (0)

static struct td_attempt *make(struct td_remote *r, struct route *route) {
    struct td_attempt *a = td_calloc(1, sizeof *a);
    if (!a || td_xfer_init(&a->x, r, &xfer_ops) != TD_OK) {
        td_free(a);
        return NULL;
    }
    CURL *easy = a->x.easy;
    a->timer = td_timer_create(r->loop, on_time, a);
    if (!a->timer || td_route_apply(route, &a->x) != TD_OK)
        goto fail;
    SET(CURLOPT_ACCEPT_ENCODING, "gzip, deflate");
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, a);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, a);
    return a;
fail:
    td_attempt_free(a);
    return NULL;
}

static struct td_attempt *take(struct td_remote *r, struct route *route) {
    struct td_attempt *a = route->ready;
    if (!a)
        return make(r, route);
    unlink_attempt(a);
    route->ready_count--;
    return a;
}

static bool key_fits(const char *key) {
    size_t n = strlen(key);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)key[i] <= 0x20 || (unsigned char)key[i] >= 0x7f)
            return false;
    return n > 0 && n <= 128;
}

static enum td_err prepare(struct td_attempt *a, const struct td_attempt_spec *spec) {
    CURL *easy = a->x.easy;
    struct route *route = a->route;
    struct curl_slist *headers = route->headers[spec->stream];
    if (spec->idempotency_key && spec->target->idempotency && key_fits(spec->idempotency_key)) {
        snprintf(a->key_text, sizeof a->key_text, "Idempotency-Key: %s", spec->idempotency_key);
        a->key_line = (struct curl_slist){a->key_text, headers};
        headers = &a->key_line;
    }
    if (a->url_set != route->urls[spec->kind]) {
        a->url_set = NULL;
        SET(CURLOPT_URL, route->urls[spec->kind]);
        a->url_set = route->urls[spec->kind];
    }
    if (a->headers_set != headers) {
        SET(CURLOPT_HTTPHEADER, headers);
        a->headers_set = headers;
    }
    if ((a->x.r->refreshed_ns || a->age_set) && td_xfer_set_age(&a->x, &a->age_set) != TD_OK)
        goto fail;
    SET(CURLOPT_POSTFIELDS, spec->body.p ? spec->body.p : "");
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)spec->body.n);
    return TD_OK;
fail:
    return TD_ERR_NOMEM;
}

static enum td_err attempt_start(struct td_backend *b, const struct td_attempt_spec *spec, struct td_attempt **out,
                                 struct td_error *e) {
    struct td_remote *r = (struct td_remote *)(void *)b;
    struct td_grant_terms terms = {.kind = TD_GRANT_INFERENCE, .target = spec->target};
    struct route *route;
    uint64_t now = td_now_ns();
    enum td_err err = td_grant_consume(spec->grant, &terms, spec->body, r->policy_version_min, e);
    if (err)
        return err;
    if (spec->deadline_ns && spec->deadline_ns <= now)
        return td_error_set(e, TD_ERR_DEADLINE, "the deadline passed before the attempt began");
    err = td_route_get(r, spec->target, &route, e);
    if (err)
        return err;
    struct td_attempt *a = take(r, route);
    if (!a) {
        td_route_release(route);
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while starting an attempt");
    }
    a->route = route;
    a->spec = *spec;
    a->spec.grant = NULL; // used up; its arena may go
    td_buf_init(&a->hold, HOLD_BYTES_MAX);
    td_buf_init(&a->error_body, ERROR_BODY_BYTES_MAX);
    a->status = 0;
    a->packed = a->typed_wrong = a->body_begun = false;
    a->retry_after[0] = a->retry_after_ms[0] = 0;
    a->header_bytes = 0;
    a->body_bytes = a->late_bytes = a->last_ns = a->linger_until_ns = 0;
    a->verdict = TD_OK;
    a->over = a->well = a->paused = a->end_held = a->detached = a->doomed = false;
    a->busy = 0;
    a->tokens = a->pieces = 0;
    a->stats = (struct td_attempt_stats){.start_ns = now,
                                         .mean_logprob = __builtin_nanf(""),
                                         .min_logprob = __builtin_nanf(""),
                                         .mean_entropy = __builtin_nanf("")};
    err = prepare(a, spec);
    if (err) {
        recycle(a);
        return td_error_set(e, err, "out of memory while starting an attempt");
    }
    td_xfer_start(&a->x, &route->place);
    schedule(a);
    *out = a;
    return TD_OK;
}

static void attempt_destroy(struct td_backend *b, struct td_attempt *a) {
    (void)b;
    if (!a)
        return;
    if (a->reader)
        td_openai_reader_stop(a->reader);
    if (a->over && a->well && a->x.state == TD_XFER_RUNNING && !a->hold.n) {
        a->detached = true;
        a->linger_until_ns = td_now_ns() + LINGER_MS * TD_MS_NS;
        if (a->paused)
            td_xfer_go_on(&a->x);
        a->paused = false;
        link_attempt(a, &a->x.r->lingering);
        schedule(a);
        return;
    }
    a->doomed = true;
    if (!a->busy)
        td_xfer_stop(&a->x);
}

static void attempt_pause(struct td_backend *b, struct td_attempt *a) {
    (void)b;
    a->paused = true;
    td_xfer_pause(&a->x);
}

static void attempt_resume(struct td_backend *b, struct td_attempt *a) {
    (void)b;
    if (!a->paused)
        return;
    a->paused = false;
    a->last_ns = td_now_ns();
    td_xfer_go_on(&a->x);
    schedule(a);
}

static void attempt_stats(struct td_backend *b, const struct td_attempt *a, struct td_attempt_stats *out) {
    (void)b;
    *out = a->stats;
    if (!out->completion_tokens) // no usage came (yet): most providers send a token an event
        out->completion_tokens = a->tokens > a->pieces ? a->tokens : a->pieces;
}

const struct td_backend_ops td_attempt_ops = {"remote",      attempt_start,  attempt_destroy,
                                              attempt_pause, attempt_resume, attempt_stats};

void td_attempts_finish(struct td_remote *r) {
    while (r->lingering)
        td_xfer_stop(&r->lingering->x);
}
