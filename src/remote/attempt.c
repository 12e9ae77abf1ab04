// SPDX-License-Identifier: Apache-2.0
// One attempt: a POST to a target, its answer read by wire/ and handed up as events.
//
//   start -> RESOLVING/CONNECTING -> WAITING (for the first token) -> STREAMING -> OVER -> destroy
//
// OVER means that END or ERROR was handed up: nothing follows, and the bytes of the request are its owner's again.
// Where an answer ended before its request had gone out whole, the connection is therefore closed there. Destroy is
// allowed at any moment, also from inside an event. Where the answer had ended well but the carrier has not yet seen
// the last bytes of the reply, the attempt lingers for a moment without its owner, so that the connection can be kept.
// Limits in time hang on one timer per attempt, which is set lazily: it fires too early rather than being moved with
// every token.
#include "remote/attempt.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/time.h"
#include "loop/loop.h"
#include "remote/route.h"
#include "wire/openai_provider.h"

#define HOLD_BYTES_MAX (256u << 10)      // what one turn of the loop can bring for a paused attempt is below 144 KiB
#define ERROR_BODY_BYTES_MAX (64u << 10) // kept of an error's body; what follows is read and dropped
#define ERROR_BODY_READ_MAX (1u << 20)
#define LINGER_MS 1000u
#define LINGER_BYTES_MAX (64u << 10)
#define OVERLOAD_RETRY_MS 1000u // idle connections were asked to go: by then they have
// After the last finish, for a chunk with the usage: it is sent at once and at most lost on the way and sent again.
#define FINISH_GRACE_MS 500u
#define INFLATE_FREE_BYTES (64u << 10) // small answers may compress as well as they like

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

// A connection that was kept may lead into a network that is gone: nothing tells, and the request waits as for a slow
// answer. So until the answer begins it is looked every connect limit whether the other end still acknowledges.
static bool is_unheard(const struct td_attempt *a) {
    return a->status == 0;
}

static uint64_t look_at(const struct td_attempt *a) {
    return a->stats.connected_ns + (uint64_t)connect_ms(a) * (a->unheard_looks + 1) * TD_MS_NS;
}

// True where bytes wait to be acknowledged and either nothing at all came back for nine tenths of the limit, or they
// were sent again and again since. A slow reader acknowledges, and answers the kernel's probes of its closed window.
// tcp(7), TCP_INFO and SIOCOUTQ: Linux.
enum { SENT_AGAIN_MIN = 2 }; // each after twice the time of the one before

static bool is_lost(const struct td_attempt *a) {
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    int fd = a->by->descriptor(a), waiting = 0;
    return fd >= 0 && ioctl(fd, SIOCOUTQ, &waiting) == 0 && waiting > 0 &&
           getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
           (info.tcpi_last_ack_recv >= connect_ms(a) - connect_ms(a) / 10 || info.tcpi_retransmits >= SENT_AGAIN_MIN);
}

// Nothing more of the answer can come, though neither [DONE] nor the end of the body has.
static bool has_finished(const struct td_attempt *a) {
    return a->finishes && a->finishes >= a->spec.choices && a->reader && td_openai_reader_is_complete(a->reader);
}

// The next moment at which something is too late, and what it would be. TD_OK: the answer is whole then.
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
    else if (!a->connected)
        *what = a->by->is_resolving(a) ? TD_ERR_DNS : TD_ERR_CONNECT, at = start + connect_ms(a) * TD_MS_NS;
    else if (is_unheard(a) && look_at(a) < a->stats.connected_ns + t->first_token_ms * TD_MS_NS)
        *what = TD_ERR_CONNECT, at = look_at(a);
    else if (a->spec.stream && !a->stats.first_ns)
        *what = TD_ERR_FIRST_TOKEN, at = a->stats.connected_ns + t->first_token_ms * TD_MS_NS;
    else if (a->body_begun)
        *what = TD_ERR_IDLE, at = a->last_ns + t->idle_ms * TD_MS_NS;
    uint64_t end = sooner(t->total_ms ? start + t->total_ms * TD_MS_NS : 0, a->spec.deadline_ns);
    if (end && (!at || end < at))
        *what = TD_ERR_DEADLINE, at = end;
    if (!a->paused && has_finished(a))
        *what = TD_OK, at = sooner(at, a->last_ns + FINISH_GRACE_MS * TD_MS_NS);
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
    case TD_EV_FINISH:
        a->finishes++;
        a->last_ns = td_now_ns();
        break;
    case TD_EV_START:
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
    a->by->stop(a);
    return true;
}

static void fail(struct td_attempt *a, enum td_err code, int status, uint32_t retry_after_ms, const char *message) {
    const struct td_target *t = a->spec.target;
    if (td_log_on(TD_LOG_INFO))
        td_log(TD_LOG_INFO, "remote", a->spec.exchange_id,
               "while=attempt target=%.*s err=%s status=%d reused=%d detail=\"%.160s\"", TD_STR_ARG(t->name),
               td_err_code(code), status, a->stats.reused_connection, a->detail ? a->detail : "");
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
    fail(a, code, a->status, code == TD_ERR_OVERLOAD ? OVERLOAD_RETRY_MS : 0, message);
}

// Its connection may be used again should the end of the reply still come; the attempt lingers for that.
static void finish_without_end(struct td_attempt *a) {
    if (!a->by->is_sent(a)) { // the request's bytes may go now
        a->by->abort(a);
        a->under_way = false;
    }
    a->busy++;
    td_openai_reader_finish(a->reader, true);
    (void)leave_reader(a);
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
        a->by->stop(a);
        return;
    }
    if (what == TD_ERR_CONNECT && a->connected && !is_lost(a)) {
        a->unheard_looks++;
        schedule(a);
        return;
    }
    if (what == TD_OK) {
        finish_without_end(a);
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
        snprintf(text, sizeof text,
                 a->connected ? "the connection is dead: nothing acknowledged for %u ms" : "no connection within %u ms",
                 connect_ms(a));
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
    a->by->abort(a); // closed before anybody hears of it
    if (what == TD_ERR_CONNECT && a->connected)
        td_remote_refresh(a->r); // what else was kept leads there too
    a->under_way = false;
    fail_named(a, what, text);
}

// ---- the reply

bool td_attempt_refuse(struct td_attempt *a, enum td_err verdict, const char *what) {
    if (!a->verdict) {
        a->verdict = verdict;
        a->verdict_what = what;
    }
    return false;
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

void td_attempt_status(struct td_attempt *a, int status) {
    a->status = status;
    a->packed = a->typed_wrong = false;
}

void td_attempt_field(struct td_attempt *a, struct td_str name, struct td_str value) {
    switch (name.n) { // cheaper than comparing each header with each name
    case 11:
        if (td_str_ieq(name, TD_STR("retry-after")))
            keep(a->retry_after, sizeof a->retry_after, value);
        break;
    case 12:
        if (td_str_ieq(name, TD_STR("content-type")))
            a->typed_wrong = !type_fits(value);
        break;
    case 14:
        if (td_str_ieq(name, TD_STR("retry-after-ms")))
            keep(a->retry_after_ms, sizeof a->retry_after_ms, value);
        break;
    case 16:
        if (td_str_ieq(name, TD_STR("content-encoding")))
            a->packed = !td_str_ieq(value, TD_STR("identity"));
        break;
    }
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

// Where the first event ends, its empty line included; n where it does not end here.
static size_t event_end(const char *p, size_t n) {
    for (size_t at = 0; at < n; at++) {
        if (at + 1 < n && p[at] == '\r' && p[at + 1] == '\n')
            return at + 2;
        if (p[at] == '\n')
            return at + 1;
        const char *line = memchr(p + at, '\n', n - at);
        if (!line)
            break;
        at = (size_t)(line - p);
    }
    return n;
}

// Event by event, so that a pause takes effect between two of them, and one that lies whole in what came is read from
// there; *taken says how far it came. False: the attempt was destroyed meanwhile.
static bool feed(struct td_attempt *a, const char *p, size_t n, size_t *taken) {
    *taken = 0;
    a->busy++;
    while (n && !a->over && !a->doomed && !a->paused) {
        size_t piece = a->spec.stream ? event_end(p, n) : n;
        if (!td_openai_reader_feed(a->reader, td_str_n(p, piece)))
            break;
        p += piece;
        n -= piece;
        *taken += piece;
    }
    if (leave_reader(a))
        return false;
    if (a->finishes && !a->over)
        schedule(a);
    return true;
}

// Of an error's body only so much is kept as its reader may want.
static bool keep_error(struct td_attempt *a, const char *p, size_t n) {
    size_t room = ERROR_BODY_BYTES_MAX - a->error_body.n;
    if (a->body_bytes > ERROR_BODY_READ_MAX)
        return td_attempt_refuse(a, TD_ERR_UPSTREAM_GARBAGE, "its error is too large");
    return td_buf_add(&a->error_body, p, n < room ? n : room) == TD_OK ||
           td_attempt_refuse(a, TD_ERR_NOMEM, "out of memory");
}

bool td_attempt_body(struct td_attempt *a, const char *p, size_t n, uint64_t raw) {
    if (n == 0 || a->doomed)
        return false;
    a->body_bytes += n;
    if (a->over) // the last bytes after [DONE], or of an answer that failed
        return a->well && (a->late_bytes += n) <= LINGER_BYTES_MAX;
    if (a->packed && a->body_bytes > INFLATE_FREE_BYTES + (raw + TD_REMOTE_BUFFER_BYTES) * TD_INFLATE_RATIO_MAX)
        return td_attempt_refuse(a, TD_ERR_UPSTREAM_GARBAGE, "its compressed answer inflates too far");
    if (a->status < 200 || a->status > 299)
        return keep_error(a, p, n);
    if (a->typed_wrong)
        return td_attempt_refuse(a, TD_ERR_UPSTREAM_GARBAGE,
                                 "its answer has another content type than JSON or an event stream");
    if (!ensure_reader(a))
        return td_attempt_refuse(a, TD_ERR_NOMEM, "out of memory");
    if (!a->spec.stream || !a->body_begun)
        a->last_ns = td_now_ns();
    if (!a->body_begun) {
        a->body_begun = true;
        schedule(a);
    }
    if (a->paused)
        a->by->halt(a);
    if (a->hold.n) // order: what is held back goes first
        return td_buf_add(&a->hold, p, n) == TD_OK || td_attempt_refuse(a, TD_ERR_UPSTREAM_GARBAGE, "it does not wait");
    size_t taken;
    if (!feed(a, p, n, &taken))
        return false;
    if (a->over) // the request's bytes may go now
        return a->by->is_sent(a);
    if (!a->paused || taken == n)
        return true;
    a->by->halt(a);
    return td_buf_add(&a->hold, p + taken, n - taken) == TD_OK ||
           td_attempt_refuse(a, TD_ERR_UPSTREAM_GARBAGE, "it sent more than can be held back");
}

// The transfer is at its end and everything held back was handed up.
static void conclude(struct td_attempt *a) {
    const struct td_attempt_end *end = &a->end;
    if (a->verdict) {
        fail_named(a, a->verdict, a->verdict_what);
    } else if (a->status >= 300 && a->status <= 399) {
        fail_named(a, TD_ERR_UPSTREAM_GARBAGE, "it redirected, and redirects are not followed");
    } else if (a->status >= 400) {
        struct td_upstream_error error;
        td_openai_read_error(a->status, td_str_of(a->retry_after), td_str_of(a->retry_after_ms), td_wall_ms() / 1000,
                             td_buf_str(&a->error_body), &error);
        if (error.code == TD_ERR_UPSTREAM_AUTH) // a key in a file may have been replaced: read it again next time
            td_route_drop(&a->r->routes[a->spec.target->index]);
        fail(a, error.code, a->status, error.retry_after_ms, error.message);
    } else if (a->status >= 200 && a->connected && ensure_reader(a) && !a->typed_wrong &&
               (end->whole || end->cut || td_openai_reader_is_complete(a->reader))) {
        a->busy++;
        td_openai_reader_finish(a->reader, end->whole);
        (void)leave_reader(a);
    } else if (end->whole) {
        fail_named(a, TD_ERR_UPSTREAM_GARBAGE, "its answer is not what was asked for");
    } else {
        const char *what = end->err == TD_ERR_CUT ? "the connection closed before its answer began" : end->what;
        if ((end->err == TD_ERR_CONNECT || end->err == TD_ERR_TLS) && a->route->place.name)
            td_name_doubt(a->route->place.name);
        fail_named(a, end->err, what);
    }
}

void td_attempt_connected(struct td_attempt *a, bool reused) {
    a->connected = a->under_way = true;
    a->stats.connected_ns = td_now_ns();
    a->stats.reused_connection = reused;
    a->stats.bytes_out = a->spec.body.n;
    schedule(a);
}

void td_attempt_end(struct td_attempt *a, const struct td_attempt_end *end) {
    a->end = *end;
    a->under_way = false;
    if (a->detached)
        recycle(a);
    else if (a->over)
        return;
    else if (a->hold.n)
        a->end_held = true;
    else
        conclude(a);
}

// Hands up what was held back, or as much as is taken; nothing here needs memory, so no byte of it can be lost. False:
// the attempt was destroyed meanwhile.
static bool feed_held(struct td_attempt *a) {
    struct td_buf held = a->hold;
    size_t taken;
    td_buf_init(&a->hold, HOLD_BYTES_MAX);
    bool alive = feed(a, held.p, held.n, &taken);
    if (alive && !a->over && taken < held.n) {
        td_buf_drop(&held, taken);
        a->hold = held;
    } else {
        td_buf_finish(&held);
    }
    return alive;
}

void td_attempt_near(const struct td_attempt *a, struct td_near *near) {
    if (a->reader)
        td_openai_reader_near(a->reader, near);
    if (a->spec.near)
        a->spec.near(a->spec.user, near);
}

bool td_attempt_go_on(struct td_attempt *a) {
    if (a->paused || a->over)
        return !a->paused;
    if (a->hold.n && !feed_held(a))
        return false;
    if (a->over && a->under_way && !a->by->is_sent(a)) { // the request's bytes may go now
        a->by->abort(a);
        a->under_way = false;
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

void td_attempt_stopped(struct td_attempt *a) {
    recycle(a);
}

enum td_err td_attempt_init(struct td_attempt *a, struct td_remote *r, const struct td_carrier *by) {
    *a = (struct td_attempt){.by = by, .r = r};
    a->timer = td_timer_create(r->loop, on_time, a);
    return a->timer ? TD_OK : TD_ERR_NOMEM;
}

void td_attempt_finish(struct td_attempt *a) {
    unlink_attempt(a);
    td_openai_reader_destroy(a->reader);
    td_timer_destroy(a->timer);
    td_buf_finish(&a->hold);
    td_buf_finish(&a->error_body);
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
        a->by->destroy(a);
    } else {
        link_attempt(a, &route->ready);
        route->ready_count++;
    }
    td_route_release(route);
}

static struct td_attempt *take(struct td_remote *r, struct route *route) {
    struct td_attempt *a = route->ready;
    if (!a)
        return route->carrier->make(r, route);
    unlink_attempt(a);
    route->ready_count--;
    return a;
}

bool td_attempt_key_fits(const char *key) {
    size_t n = strlen(key);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)key[i] <= 0x20 || (unsigned char)key[i] >= 0x7f)
            return false;
    return n > 0 && n <= 128;
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
    a->connected = a->under_way = false;
    a->packed = a->typed_wrong = a->body_begun = false;
    a->unheard_looks = 0;
    a->retry_after[0] = a->retry_after_ms[0] = 0;
    a->body_bytes = a->late_bytes = a->last_ns = a->linger_until_ns = 0;
    a->verdict = TD_OK;
    a->detail = NULL;
    a->over = a->well = a->paused = a->end_held = a->detached = a->doomed = false;
    a->busy = 0;
    a->tokens = a->pieces = a->finishes = 0;
    a->stats = (struct td_attempt_stats){.start_ns = now,
                                         .mean_logprob = __builtin_nanf(""),
                                         .min_logprob = __builtin_nanf(""),
                                         .mean_entropy = __builtin_nanf("")};
    err = a->by->prepare(a);
    if (err) {
        recycle(a);
        return td_error_set(e, err, "out of memory while starting an attempt");
    }
    a->by->start(a);
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
    if (a->over && a->well && a->under_way && !a->hold.n && a->by->is_sent(a)) {
        a->detached = true;
        a->linger_until_ns = td_now_ns() + LINGER_MS * TD_MS_NS;
        if (a->paused)
            a->by->go_on(a);
        a->paused = false;
        link_attempt(a, &a->r->lingering);
        schedule(a);
        return;
    }
    a->doomed = true;
    if (!a->busy)
        a->by->stop(a);
}

static void attempt_pause(struct td_backend *b, struct td_attempt *a) {
    (void)b;
    a->paused = true;
    a->by->pause(a);
}

static void attempt_resume(struct td_backend *b, struct td_attempt *a) {
    (void)b;
    if (!a->paused)
        return;
    a->paused = false;
    a->last_ns = td_now_ns();
    a->by->go_on(a);
    schedule(a);
}

static void attempt_stats(struct td_backend *b, const struct td_attempt *a, struct td_attempt_stats *out) {
    (void)b;
    *out = a->stats;
    if (!out->completion_tokens) // no usage came (yet): most providers send a token an event
        out->completion_tokens = a->tokens > a->pieces ? a->tokens : a->pieces;
}

static bool attempt_sent(struct td_backend *b, const struct td_attempt *a) {
    (void)b;
    return a->by->is_sent(a);
}

const struct td_backend_ops td_attempt_ops = {"remote",       attempt_start, attempt_destroy, attempt_pause,
                                              attempt_resume, attempt_stats, attempt_sent};

void td_attempts_finish(struct td_remote *r) {
    while (r->lingering)
        r->lingering->by->stop(r->lingering);
}
