// SPDX-License-Identifier: Apache-2.0
#include "server/conn.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/time.h"

enum {
    READ_BYTES = 4 << 10,        // a usual request fits one read
    READ_BODY_BYTES = 256 << 10, // and a large body does not take thousands
    SEND_EARLY_BYTES = 16 << 10, // do not wait for the end of the turn with more than this
    KEEP_BYTES =
        (4 << 10) + 64, // a page and what its block is larger by: an empty buffer larger than this is given back
};

static uint64_t after_ms(unsigned ms) {
    return td_now_ns() + ms * TD_MS_NS;
}

static const struct td_server_limits *limits_of(const struct td_conn *c) {
    return &c->worker->listener->limits;
}

static size_t pending_of(const struct td_conn *c) {
    return c->out.n - c->out_at;
}

// The largest request, what was read beyond it, and what is read ahead of the next.
static const size_t in_ceiling =
    TD_REQUEST_LINE_BYTES_MAX + TD_HEADER_BYTES_MAX + TD_BODY_BYTES_MAX + TD_PIPELINE_BYTES_MAX + 2 * READ_BODY_BYTES;

static void give_back(struct td_buf *b) {
    size_t ceiling = b->ceiling;
    td_buf_finish(b);
    td_buf_init(b, ceiling);
}

static const char *date_of(struct td_listen_worker *w) {
    time_t now = time(NULL);
    if (now != w->date_s) {
        static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
        static const char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
        struct tm t;
        gmtime_r(&now, &t);
        snprintf(w->date, sizeof w->date, "%s, %02u %s %04u %02u:%02u:%02u GMT", days[t.tm_wday],
                 (unsigned)t.tm_mday % 100, months[t.tm_mon], (unsigned)(t.tm_year + 1900) % 10000,
                 (unsigned)t.tm_hour % 100, (unsigned)t.tm_min % 100, (unsigned)t.tm_sec % 100);
        w->date_s = now;
    }
    return w->date;
}

// ---- output

static void on_writable(void *arg, int events);

static void watch_write(struct td_conn *c, bool wanted) {
    if (wanted == c->writing || c->broken)
        return;
    if (!c->write_watch)
        c->write_watch = td_watch_create(c->worker->loop, c->stream.fd, on_writable, c);
    if (!c->write_watch || td_watch_set(c->write_watch, wanted ? TD_WATCH_WRITE : 0) != TD_OK)
        c->broken = true;
    else
        c->writing = wanted;
}

// Sends what the socket takes now; only what it does not take waits for an event.
static void flush(struct td_conn *c) {
    bool progress = false;
    while (pending_of(c) > 0 && !c->broken) {
        size_t asked = pending_of(c);
        ssize_t put = td_stream_write(&c->stream, c->out.p + c->out_at, asked);
        if (put == TD_STREAM_FAILED)
            c->broken = true;
        if (put < 0)
            break;
        c->out_at += (size_t)put;
        progress = true;
        if ((size_t)put < asked && !c->stream.ssl)
            break;
    }
    if (pending_of(c) == 0) {
        c->out_at = 0;
        td_buf_clear(&c->out);
        // The next piece of a stream finds the buffer that another one has just used in the processor's cache; its own
        // would have to be fetched.
        if (c->streaming || c->out.cap > KEEP_BYTES)
            give_back(&c->out);
        if (c->state == TD_CONN_RUNNING)
            c->deadline_ns = 0;
    } else if (progress || (c->state == TD_CONN_RUNNING && c->deadline_ns == 0)) {
        c->deadline_ns = after_ms(limits_of(c)->write_stall_ms);
    }
    watch_write(c, pending_of(c) > 0 || c->stream.read_wants_write);
}

// Appends to the output; the connection is broken when its ceiling or the memory does not allow it.
static void put(struct td_conn *c, const char *p, size_t n) {
    if (c->out_at > SEND_EARLY_BYTES) {
        td_buf_drop(&c->out, c->out_at);
        c->out_at = 0;
    }
    if (td_buf_add(&c->out, p, n) != TD_OK)
        c->broken = true;
}

static void mark(struct td_conn *c) {
    if (c->busy) {
        c->again = true;
    } else if (!c->is_dirty) {
        struct td_listen_worker *w = c->worker;
        if (!w->dirty) {
            w->dirty_last = &w->dirty;
            event_active(w->settle, 0, 0);
        }
        c->is_dirty = true;
        c->next_dirty = NULL;
        *w->dirty_last = c;
        w->dirty_last = &c->next_dirty;
    }
    c->worker->marked = true;
}

static void begin_answer(struct td_conn *c, int status, const struct td_http_header *headers, size_t header_count,
                         size_t content_length) {
    bool bodiless = status == 204 || status == 304 || status < 200;
    struct td_answer_head head = {status, headers, header_count, TD_FRAMING_NONE, content_length, false, NULL};
    if (!bodiless)
        head.framing = content_length != SIZE_MAX ? TD_FRAMING_LENGTH
                       : c->head.http10           ? TD_FRAMING_CLOSE
                                                  : TD_FRAMING_CHUNKED;
    if (head.framing == TD_FRAMING_CLOSE || atomic_load_explicit(&c->worker->listener->draining, memory_order_relaxed))
        c->close = true;
    head.close = c->close;
    head.date = date_of(c->worker);
    c->begun = true;
    c->framing = head.framing;
    c->answer_left = content_length;
    c->mute = bodiless || (c->state == TD_CONN_RUNNING && c->head.method == TD_HTTP_HEAD && c->head.line_done);
    if (td_answer_head_write(&head, &c->out) != TD_OK)
        c->broken = true;
}

static void on_head(void *user, int status, const struct td_http_header *headers, size_t header_count, bool stream,
                    size_t content_length) {
    struct td_conn *c = user;
    if (c->broken || c->begun)
        return;
    c->streaming = stream;
    begin_answer(c, status, headers, header_count, content_length);
    if (stream || c->broken)
        mark(c);
}

static void put_chunk(struct td_conn *c, const char *data, size_t length) {
    char size[18]; // sixteen digits and the line's end
    size_t at = sizeof size, rest = length;
    size[--at] = '\n';
    size[--at] = '\r';
    do
        size[--at] = "0123456789abcdef"[rest & 15];
    while (rest >>= 4);
    td_buf_expect(&c->out, length + sizeof size + 2); // at once instead of in steps
    put(c, size + at, sizeof size - at);
    put(c, data, length);
    put(c, "\r\n", 2);
}

static void on_data(void *user, const char *data, size_t length) {
    struct td_conn *c = user;
    if (c->broken || !c->begun || c->ended || c->mute || length == 0)
        return;
    if (c->framing == TD_FRAMING_CHUNKED) {
        put_chunk(c, data, length);
    } else if (c->framing == TD_FRAMING_LENGTH && length > c->answer_left) {
        c->broken = true; // more than was announced: the client would take the rest for the next answer
    } else {
        c->answer_left -= length;
        put(c, data, length);
    }
    if (pending_of(c) >= SEND_EARLY_BYTES && !c->busy && !c->writing)
        flush(c);
    if (c->streaming || c->broken || pending_of(c) >= TD_OUTPUT_HIGH_BYTES)
        mark(c);
}

static void on_end(void *user, bool clean) {
    struct td_conn *c = user;
    if (c->broken || c->ended)
        return;
    if (!c->begun) {
        static const char text[] =
            "{\"error\":{\"message\":\"internal error\",\"type\":\"server_error\",\"param\":null,"
            "\"code\":\"tandem.internal.error\"}}\n";
        static const struct td_http_header type = {"content-type", 12, "application/json", 16};
        begin_answer(c, 500, &type, 1, sizeof text - 1);
        on_data(c, text, sizeof text - 1);
    } else if (c->framing == TD_FRAMING_LENGTH && c->answer_left > 0 && !c->mute) {
        clean = false;
    }
    if (clean && c->framing == TD_FRAMING_CHUNKED && !c->mute)
        put(c, "0\r\n\r\n", 5);
    c->ended = true;
    c->clean = clean;
    if (!clean) {
        c->close = true;
        c->reset = c->framing == TD_FRAMING_CLOSE;
    }
    mark(c);
}

const struct td_http_sink td_conn_sink = {on_head, on_data, on_end};

void td_conn_answer(struct td_conn *c, int status, const char *content_type, struct td_str body, const char *allow) {
    struct td_http_header headers[2];
    size_t n = 0;
    if (content_type)
        headers[n++] = (struct td_http_header){"content-type", 12, content_type, strlen(content_type)};
    if (allow)
        headers[n++] = (struct td_http_header){"allow", 5, allow, strlen(allow)};
    c->state = TD_CONN_RUNNING;
    begin_answer(c, status, headers, n, body.n);
    on_data(c, body.p, body.n);
    on_end(c, true);
}

void td_conn_refuse(struct td_conn *c, int status, const char *message, const char *allow, bool close) {
    struct td_buf body;
    td_buf_init(&body, 1024);
    td_counter_add(c->worker->listener->refused, 1);
    if (close)
        c->close = c->linger = true;
    if (td_answer_error_write(status, td_answer_code(status), message, &body) == TD_OK)
        td_conn_answer(c, status, "application/json", td_buf_str(&body), allow);
    else
        c->broken = true;
    td_buf_finish(&body);
}

// ---- input

static void count_body(struct td_conn *c, size_t now) {
    struct td_listener *l = c->worker->listener;
    if (now >= c->body_counted)
        atomic_fetch_add_explicit(&l->body_bytes, now - c->body_counted, memory_order_relaxed);
    else
        atomic_fetch_sub_explicit(&l->body_bytes, c->body_counted - now, memory_order_relaxed);
    c->body_counted = now;
}

static size_t read_size(const struct td_conn *c) {
    if (c->state != TD_CONN_READ_BODY)
        return READ_BYTES;
    if (c->head.chunked)
        return c->body_n > READ_BODY_BYTES ? READ_BODY_BYTES : 4 * READ_BYTES;
    size_t missing = td_http_head_bytes(&c->head) + (size_t)c->head.content_length - c->in.n;
    return missing < READ_BYTES ? READ_BYTES : missing > READ_BODY_BYTES ? READ_BODY_BYTES : missing;
}

static void watch_read(struct td_conn *c, bool wanted) {
    if (!c->broken && td_watch_set(c->read_watch, wanted ? TD_WATCH_READ : 0) != TD_OK)
        c->broken = true;
}

// One read, or under TLS all that is decrypted.
static void read_some(struct td_conn *c) {
    do {
        struct td_buf *b = &c->in;
        if (c->state == TD_CONN_RUNNING && b->n >= TD_PIPELINE_BYTES_MAX) {
            c->ahead_full = true;
            watch_read(c, false);
            return;
        }
        size_t n = read_size(c);
        char *p = td_buf_reserve(b, n);
        ssize_t got = p ? td_stream_read(&c->stream, p, n) : TD_STREAM_FAILED;
        if (got == TD_STREAM_AGAIN) {
            if (b->n == 0)
                give_back(b);
            watch_write(c, pending_of(c) > 0 || c->stream.read_wants_write);
            return;
        }
        if (got <= 0) {
            c->broken = got < 0;
            c->input_ended = true;
            watch_read(c, false);
            return;
        }
        if (c->state == TD_CONN_READ_HEAD && b->n == 0)
            c->deadline_ns = after_ms(limits_of(c)->header_ms);
        td_buf_grew(b, (size_t)got);
    } while (td_stream_pending(&c->stream));
}

static void linger_on(struct td_conn *c) {
    char scrap[16 << 10];
    for (;;) {
        ssize_t got = td_stream_read(&c->stream, scrap, sizeof scrap);
        if (got == TD_STREAM_AGAIN)
            return;
        if (got <= 0) {
            c->broken = true;
            return;
        }
        if (!td_stream_pending(&c->stream))
            return;
    }
}

static void on_readable(void *arg, int events) {
    struct td_conn *c = arg;
    (void)events;
    if (c->state == TD_CONN_LINGER)
        linger_on(c);
    else
        read_some(c);
    mark(c);
}

static void on_writable(void *arg, int events) {
    struct td_conn *c = arg;
    if (c->stream.read_wants_write)
        on_readable(arg, events);
    else
        td_conn_settle(c);
}

// ---- the walk of a request

static void start_running(struct td_conn *c) {
    c->state = TD_CONN_RUNNING;
    c->deadline_ns = 0;
    count_body(c, 0);
    if (c->stream.ssl && !c->subject) {
        char subject[512];
        td_stream_subject(&c->stream, subject, sizeof subject);
        if (subject[0] && !(c->subject = td_strdup(subject))) {
            c->broken = true;
            return;
        }
    }
    td_route_call(c);
}

static void start_body(struct td_conn *c) {
    c->state = TD_CONN_READ_BODY;
    c->deadline_ns = after_ms(limits_of(c)->body_window_ms);
    c->window_body_n = 0;
    c->body_n = 0;
    c->raw_at = td_http_head_bytes(&c->head);
    td_http_chunks_init(&c->chunks);
    if (c->head.expect_continue && !c->head.http10 && c->in.n == c->raw_at) {
        put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        flush(c);
    }
}

// True when something was done, so that there may be more to do.
static bool advance_head(struct td_conn *c) {
    const char *why = "";
    if (c->in.n == 0)
        return false;
    int status = td_http_head_read(&c->head, c->in.p, c->in.n, &why);
    if (status == 0)
        return false;
    c->close |= c->head.close;
    if (status != 1) {
        // What the head said so far must not shape the refusal.
        c->head.method = TD_HTTP_GET;
        td_conn_refuse(c, status, why, NULL, true);
    } else if (td_route_head(c)) {
        start_body(c);
    }
    return true;
}

static size_t received_of(const struct td_conn *c) {
    return c->head.chunked ? c->body_n : c->in.n - td_http_head_bytes(&c->head);
}

static bool advance_chunks(struct td_conn *c) {
    size_t used, made, head_n = td_http_head_bytes(&c->head);
    enum td_http_chunks_result result =
        td_http_chunks_read(&c->chunks, c->in.p + c->raw_at, c->in.n - c->raw_at, c->in.p + head_n + c->body_n,
                            c->body_n, c->worker->config->body_bytes_max, &used, &made);
    c->body_n += made;
    c->raw_at += used;
    if (result == TD_HTTP_CHUNKS_BAD)
        td_conn_refuse(c, 400, "malformed chunked body", NULL, true);
    if (result == TD_HTTP_CHUNKS_TOO_LARGE)
        td_conn_refuse(c, 413, "the body is too large", NULL, true);
    if (result == TD_HTTP_CHUNKS_BAD || result == TD_HTTP_CHUNKS_TOO_LARGE)
        return true;
    // What follows the body, or nothing, moves up behind the decoded bytes.
    size_t end = head_n + c->body_n, rest = c->in.n - c->raw_at;
    memmove(c->in.p + end, c->in.p + c->raw_at, rest);
    c->in.n = end + rest;
    c->raw_at = end;
    if (result == TD_HTTP_CHUNKS_DONE)
        start_running(c);
    return result == TD_HTTP_CHUNKS_DONE;
}

static bool advance_body(struct td_conn *c) {
    bool advanced;
    if (c->head.chunked) {
        advanced = advance_chunks(c);
    } else {
        advanced = received_of(c) >= c->head.content_length;
        c->body_n = advanced ? (size_t)c->head.content_length : 0;
        if (advanced)
            start_running(c);
    }
    if (c->state != TD_CONN_READ_BODY)
        return advanced;
    count_body(c, received_of(c));
    if (atomic_load_explicit(&c->worker->listener->body_bytes, memory_order_relaxed) > limits_of(c)->bodies_bytes) {
        td_conn_refuse(c, 503, "too many large requests at once", NULL, true);
        return true;
    }
    return false;
}

static void finish_connection(struct td_conn *c) {
    if (c->clean || c->state != TD_CONN_RUNNING)
        td_stream_shut(&c->stream);
    // Closing with unread input would send a reset, which can overtake the answer.
    if (c->input_ended || !c->clean || !(c->linger || c->in.n)) {
        c->broken = true;
        return;
    }
    c->state = TD_CONN_LINGER;
    c->deadline_ns = after_ms(limits_of(c)->linger_ms);
    give_back(&c->in);
    watch_read(c, true);
}

static void drop_request(struct td_conn *c) {
    td_free(c->headers);
    c->headers = NULL;
    size_t request_n = td_http_head_bytes(&c->head) + c->body_n;
    td_buf_drop(&c->in, request_n < c->in.n ? request_n : c->in.n);
    c->body_n = 0;
    if (c->in.n == 0)
        give_back(&c->in);
    c->dropped = true;
}

// The request has been read by whom it is for; then the answer is complete and sent: the next request, or the end.
static bool advance_running(struct td_conn *c) {
    if (!c->dropped)
        drop_request(c);
    if (c->ended && c->call) {
        struct td_call *call = c->call;
        c->call = NULL;
        td_call_release(call);
    }
    if (!c->ended || pending_of(c) > 0)
        return false;
    count_body(c, 0);
    if (c->ahead_full && !c->input_ended) {
        c->ahead_full = false;
        watch_read(c, true);
    }
    if (c->close || atomic_load_explicit(&c->worker->listener->draining, memory_order_relaxed)) {
        finish_connection(c);
        return false;
    }
    td_http_head_init(&c->head);
    c->state = TD_CONN_READ_HEAD;
    c->kept = true;
    c->begun = c->ended = c->mute = c->streaming = c->stopped = c->dropped = false;
    c->deadline_ns = after_ms(c->in.n ? limits_of(c)->header_ms : limits_of(c)->keepalive_ms);
    if (td_stream_pending(&c->stream))
        read_some(c);
    return true;
}

static void hold_back(struct td_conn *c) {
    if (!c->call || c->ended)
        return;
    if (!c->stopped && pending_of(c) > TD_OUTPUT_HIGH_BYTES) {
        c->stopped = true;
        td_http_stop(c->call);
    } else if (c->stopped && pending_of(c) < TD_OUTPUT_LOW_BYTES) {
        c->stopped = false;
        td_http_proceed(c->call);
    }
}

static bool advance(struct td_conn *c) {
    switch (c->state) {
    case TD_CONN_READ_HEAD:
        return advance_head(c);
    case TD_CONN_READ_BODY:
        return advance_body(c);
    case TD_CONN_RUNNING:
        return advance_running(c);
    default:
        return false;
    }
}

void td_conn_settle(struct td_conn *c) {
    c->busy = true;
    bool more = true;
    while (more && !c->broken) {
        c->again = false;
        flush(c);
        more = !c->broken && advance(c);
        if (!c->broken)
            hold_back(c);
        more |= c->again;
    }
    c->busy = false;
    // The input has ended: what is not whole by now never will be, and a client that closed its sending side in the
    // middle of an answer cannot be told from one that went away. Only an answer already complete is still delivered.
    if (c->input_ended && !(c->state == TD_CONN_RUNNING && c->ended)) {
        if (c->state == TD_CONN_RUNNING)
            td_counter_add(c->worker->listener->gone, 1);
        c->broken = true;
    }
    if (c->broken)
        td_conn_destroy(c);
}

void td_conn_settle_dirty(struct td_listen_worker *worker) {
    while (worker->dirty) {
        struct td_conn *c = worker->dirty;
        worker->dirty = c->next_dirty;
        c->is_dirty = false;
        td_conn_settle(c);
    }
}

// An answer that has ended waits for its row; what else happened to a connection, for the others.
static bool may_leave(const struct td_conn *c) {
    return c->state == TD_CONN_RUNNING && c->streaming && !c->ended && !c->broken && !c->input_ended;
}

void td_conn_settle_streams(struct td_listen_worker *worker) {
    struct td_conn *c = worker->dirty, *leaving = NULL, **leaving_last = &leaving;
    worker->dirty = NULL;
    worker->dirty_last = &worker->dirty;
    for (struct td_conn *next; c; c = next) {
        next = c->next_dirty;
        c->next_dirty = NULL;
        struct td_conn ***last = may_leave(c) ? &leaving_last : &worker->dirty_last;
        **last = c;
        *last = &c->next_dirty;
    }
    while ((c = leaving) != NULL) {
        leaving = c->next_dirty;
        c->is_dirty = false;
        td_conn_settle(c);
    }
}

// ---- life and death

static void on_tick(struct td_conn *c) {
    if (c->state == TD_CONN_READ_HEAD && c->in.n > 0) {
        c->head.method = TD_HTTP_GET;
        td_conn_refuse(c, 408, "the request's header did not come in time", NULL, true);
    } else if (c->state == TD_CONN_READ_BODY) {
        size_t received = received_of(c);
        uint64_t least = (uint64_t)TD_BODY_RATE_BYTES_MIN * limits_of(c)->body_window_ms / 1000;
        if (received - c->window_body_n < least) {
            td_conn_refuse(c, 408, "the body comes too slowly", NULL, true);
        } else {
            c->window_body_n = received;
            c->deadline_ns = after_ms(limits_of(c)->body_window_ms);
        }
    } else {
        c->reset = c->state == TD_CONN_RUNNING;
        c->broken = true;
    }
    td_conn_settle(c);
}

void td_conn_tick(struct td_listen_worker *worker, uint64_t now_ns) {
    for (struct td_conn *c = worker->conns, *next; c; c = next) {
        next = c->next;
        if (c->deadline_ns && now_ns >= c->deadline_ns)
            on_tick(c);
    }
}

static bool is_idle(const struct td_conn *c) {
    return c->kept && c->state == TD_CONN_READ_HEAD && c->in.n == 0 && pending_of(c) == 0 && !c->busy && !c->is_dirty;
}

unsigned td_conn_shed(struct td_listen_worker *worker, unsigned max) {
    unsigned closed = 0;
    uint64_t done = 0;
    while (closed < max) {
        struct td_conn *oldest = NULL;
        char byte;
        for (struct td_conn *c = worker->conns; c; c = c->next)
            if (is_idle(c) && c->deadline_ns > done && (!oldest || c->deadline_ns < oldest->deadline_ns))
                oldest = c;
        if (!oldest)
            break;
        done = oldest->deadline_ns;
        if (recv(oldest->stream.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 ||
            (errno != EAGAIN && errno != EWOULDBLOCK)) // a request that has reached this machine is still answered
            continue;
        td_stream_shut(&oldest->stream);
        td_conn_destroy(oldest);
        closed++;
    }
    return closed;
}

void td_conn_drain(struct td_conn *c) {
    c->close = true;
    if (c->state != TD_CONN_READ_HEAD || c->in.n > 0)
        return;
    // A request that has reached this machine is still answered.
    read_some(c);
    if (c->in.n == 0) {
        td_stream_shut(&c->stream);
        c->broken = true;
    }
    td_conn_settle(c);
}

void td_conn_open(struct td_listen_worker *worker, int fd, struct td_peer_key key, const char *peer, bool local) {
    struct td_listener *l = worker->listener;
    struct td_conn *c = td_calloc(1, sizeof *c);
    if (!c || td_stream_init(&c->stream, fd, worker->config->tls) != TD_OK) {
        td_free(c);
        close(fd);
        td_peers_leave(&l->peers, key);
        atomic_fetch_sub(&l->connections, 1);
        atomic_fetch_sub(&worker->load, 1);
        return;
    }
    c->worker = worker;
    c->local = local;
    c->peer_key = key;
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    td_buf_init(&c->in, in_ceiling);
    td_buf_init(&c->out, TD_OUTPUT_BYTES_MAX);
    td_http_head_init(&c->head);
    c->deadline_ns = after_ms(l->limits.header_ms);
    c->next = worker->conns;
    if (c->next)
        c->next->previous = c;
    worker->conns = c;
    td_gauge_add(l->open, 1);
    c->read_watch = td_watch_create(worker->loop, fd, on_readable, c);
    if (!c->read_watch || td_watch_set(c->read_watch, TD_WATCH_READ) != TD_OK)
        td_conn_destroy(c);
}

void td_conn_destroy(struct td_conn *c) {
    struct td_listen_worker *w = c->worker;
    struct td_listener *l = w->listener;
    // From here on callbacks of the call fall through.
    c->broken = c->busy = true;
    struct td_call *call = c->call;
    c->call = NULL;
    td_call_release(call);
    for (struct td_conn **at = &w->dirty; c->is_dirty && *at; at = &(*at)->next_dirty)
        if (*at == c) {
            *at = c->next_dirty;
            if (!c->next_dirty)
                w->dirty_last = at;
            break;
        }
    *(c->previous ? &c->previous->next : &w->conns) = c->next;
    if (c->next)
        c->next->previous = c->previous;
    count_body(c, 0);
    td_watch_destroy(c->read_watch);
    td_watch_destroy(c->write_watch);
    td_stream_finish(&c->stream, c->reset);
    td_peers_leave(&l->peers, c->peer_key);
    td_buf_finish(&c->in);
    td_buf_finish(&c->out);
    td_free(c->headers);
    td_free(c->subject);
    td_free(c);
    td_gauge_add(l->open, -1);
    atomic_fetch_sub(&w->load, 1);
    atomic_fetch_sub(&l->connections, 1);
}
