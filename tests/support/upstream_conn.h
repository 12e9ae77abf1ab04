// SPDX-License-Identifier: Apache-2.0
// What the files of the scripted upstream share: the server, its connections, what it has seen, and how an answer is
// written. One thread.
#ifndef TD_TESTS_UPSTREAM_CONN_H
#define TD_TESTS_UPSTREAM_CONN_H

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <stdlib.h>
#include <zlib.h>

#include "upstream.h"

#define HEADERS_MAX 64
#define LOG_MAX 20000

struct server;
struct evconnlistener;

struct listener {
    struct server *s;
    struct evconnlistener *ev;
    struct ssl_ctx_st *tls;
    bool control;
    uint16_t port;
};

// What was seen of one request.
struct record {
    char method[16];
    char *path, *headers, *body;                 // headers: a JSON object
    double at_ms, first_ms, ended_ms, closed_ms; // since start; -1 not
    uint32_t tokens;
    int status;
    uint64_t connection;
    bool tls;
};

struct conn {
    struct conn *next, **prev;
    struct server *s;
    struct bufferevent *bev, *tunnel;
    struct event *timer;
    int fd;
    bool tls, closing, control, watching; // watching: waits for /_log's condition
    uint64_t number;
    struct td_str method, path;
    struct td_str names[HEADERS_MAX], values[HEADERS_MAX];
    uint32_t header_count;
    // The request being answered.
    bool busy, head_sent, chunked, keep;
    size_t take; // bytes of the input that belong to it
    size_t need; // as many must have come before it is worth looking
    struct td_arena arena;
    bool arena_live;
    struct job job;
    struct behaviour b;
    struct record *rec;
    char id[32];
    uint32_t next_token;
    bool finished, ended;       // the stream had its finish; and all that follows, but the body stays open
    uint64_t sent, first_at_ns; // first_at_ns: no token before

    struct td_buf head;
    size_t head_at;
    z_stream *gzip;
    uint64_t wait_requests, wait_closed, wait_until_ns;
};

struct server {
    struct event_base *base;
    struct listener listeners[2 + TLS_MODE_COUNT];
    uint32_t listener_count;
    struct conn *conns;
    struct event *stdin_event, *term_event, *int_event;
    struct behaviour *queue, standing;
    uint32_t queue_count;
    bool has_standing, down, instant, stamp;
    struct record *log[LOG_MAX];
    uint32_t log_count;
    uint64_t start_ns, next_conn, next_id;
    const char *api_key, *proxy_auth, *models;
    uint32_t tokens, token_ms, first_token_ms;
    char *instant_reply;
    size_t instant_n;
};

// ---- upstream.c

bool listener_open(struct listener *l);

// ---- upstream_serve.c

// One whole request at the start of the input? Then answers it.
void serve(struct conn *c);
void on_read(struct bufferevent *bev, void *arg);
void on_event(struct bufferevent *bev, short what, void *arg);
void on_timer(evutil_socket_t fd, short what, void *arg);
struct td_str header(const struct conn *c, const char *name); // TD_STR_NONE where there is none

// ---- upstream_send.c

double now_ms(const struct server *s); // since its start
void put(struct conn *c, const void *p, size_t n);
void conn_free(struct conn *c);
void reset(struct conn *c);
// Closes once everything queued has been sent.
void close_soon(struct conn *c);
// The answer is out: the connection waits for the next request, or closes.
void answered(struct conn *c);
// Bytes of the body, past the compression or through it. False: the connection is gone, do not touch it.
bool body_put(struct conn *c, const void *p, size_t n);
bool body_add(struct conn *c, const void *p, size_t n, bool last);
void body_end(struct conn *c);
// Builds the head; `length` < 0: chunked.
void make_head(struct conn *c, int status, const char *type, int64_t length, const char *extra);
void send_head(struct conn *c);
void reply(struct conn *c, int status, const char *type, struct td_str body, const char *extra);
void reply_error(struct conn *c, int status, const char *message, const char *type, const char *code);
// Comes back through on_timer.
void after(struct conn *c, int64_t ms);

// ---- upstream_stream.c

void stream_begin(struct conn *c);
void stream_next(struct conn *c);
void send_bomb(struct conn *c);
void send_giant(struct conn *c, int64_t n, bool line);
void send_noise(struct conn *c);

// ---- upstream_control.c

// NULL where the log is full, or without memory.
struct record *log_request(struct conn *c, struct td_str body);
void check_waiters(struct server *s);
bool script_read(struct server *s, struct td_str text, char why[128]);
// True where the path was one of the control's.
bool control(struct conn *c, struct td_str body);
uint64_t query_number(struct td_str path, const char *name); // what stands behind `name`; 0 none

#endif
