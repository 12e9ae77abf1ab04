// SPDX-License-Identifier: Apache-2.0
// One client connection on one worker's loop, and what the connections of a worker share. All of it belongs to that
// worker's thread, save the atomics of struct td_listener.
//
//            first byte          head whole            body whole            answer sent
//   READ_HEAD ─────────► READ_HEAD ─────────► READ_BODY ─────────► RUNNING ─────────► READ_HEAD (kept alive)
//       │  refused: status, close                 │                   │ refused or pipelined bytes left
//       ▼                                         ▼                   ▼
//      end ◄───────────────────────────────────────────────────── LINGER (output shut, input thrown away)
//
// A connection is destroyed only at the end of td_conn_settle, which every entry point (readable, writable, tick, end
// of turn) calls last. The core's callbacks never call back into the core: they fill the output buffer, set marks and
// ask for a settling at the end of this turn of the loop. So one writev-sized send carries all that one turn brought.
#ifndef TD_SERVER_CONN_H
#define TD_SERVER_CONN_H

#include <stdatomic.h>
#include <time.h>

#include "base/counters.h"
#include "base/mem.h"
#include "loop/descriptors.h"
#include "loop/loop.h"
#include "server/access.h"
#include "server/answer.h"
#include "server/http_parse.h"
#include "server/peers.h"
#include "server/server.h"
#include "server/stream.h"

struct event;
struct td_conn;

// What a reload replaces, whole. Immutable while any worker points to it.
struct td_listen_config {
    struct td_arena arena; // the settings' lists of hosts and origins
    struct td_listen_settings settings;
    struct td_access access;
    struct td_tls *tls;
    size_t body_bytes_max;
    unsigned connections_max, per_peer_max;
};

// What all workers see of the server.
struct td_listener {
    struct td_runtime *runtime;
    struct td_server_limits limits;
    struct td_peers peers;
    atomic_uint connections;
    atomic_size_t body_bytes; // of all bodies being received
    atomic_bool draining;
    struct td_counter *requests, *refused, *gone, *turned_away;
    struct td_gauge *open;
};

struct td_listen_worker {
    struct td_listener *listener;
    const struct td_listen_config *config;
    unsigned index;
    struct td_loop *loop;
    struct td_conn *conns, *dirty, **dirty_last; // first come, first settled
    bool marked;                                 // since `settle` was last looked at
    struct event *settle;                        // made active to run after what is ready in this turn
    struct td_timer *tick;
    bool ticking;
    struct td_fd_shedder shedder;
    atomic_uint load; // connections, for the acceptor's choice
    time_t date_s;
    char date[32];
};

enum td_conn_state { TD_CONN_READ_HEAD, TD_CONN_READ_BODY, TD_CONN_RUNNING, TD_CONN_LINGER };

struct td_conn {
    // What every piece of a stream asks for, so that it lies in few lines of the cache (runtime/start.c fetches them).
    struct td_listen_worker *worker;
    struct td_conn *next_dirty;
    struct td_call *call;
    struct td_stream stream;
    enum td_conn_state state;
    uint64_t deadline_ns; // 0 none
    // Output.
    struct td_buf out;
    size_t out_at;      // first byte not yet sent
    size_t answer_left; // of a known length
    enum td_framing framing;
    bool is_dirty, busy, again, dropped; // dropped: the running request's bytes
    bool begun, ended, clean, mute;      // the answer; mute: no body goes out (HEAD, 204)
    bool streaming, stopped;             // upstream told to stop
    bool close, linger, broken, reset, input_ended, ahead_full, writing;
    bool kept; // it has been answered at least once and waits for the next request
    bool local;

    struct td_conn *previous, *next;
    struct td_watch *read_watch, *write_watch;

    // Input. `in` holds the head, then the body (chunks are decoded in place), then what follows. Once the core has the
    // request its bytes are dropped: an answer that streams for minutes holds nothing here.
    struct td_buf in;
    struct td_http_head head;
    struct td_http_chunks chunks;
    size_t body_n, raw_at;  // body bytes ready; first raw byte not yet decoded
    size_t body_counted;    // of this body in td_listener.body_bytes
    uint64_t window_body_n; // body bytes when the current rate window began
    struct td_http_header *headers;
    struct td_peer_key peer_key;
    char peer[64];
    char *subject; // mTLS
};

// Takes over `fd`. On failure the descriptor is closed and the counts are given back.
void td_conn_open(struct td_listen_worker *worker, int fd, struct td_peer_key key, const char *peer, bool local);
// Sends, reads on, finishes, destroys: whatever is due.
void td_conn_settle(struct td_conn *c);
void td_conn_destroy(struct td_conn *c);
// Draining: an idle connection closes, a running one closes after its answer.
void td_conn_drain(struct td_conn *c);
// Closes at most `max` connections that wait for a further request, those that wait longest; returns how many.
unsigned td_conn_shed(struct td_listen_worker *worker, unsigned max);
// Every connection whose time is up.
void td_conn_tick(struct td_listen_worker *worker, uint64_t now_ns);
// Settles what the core's callbacks touched in this turn.
void td_conn_settle_dirty(struct td_listen_worker *worker);
// Of these, those whose streams go on: where one turn brings pieces of many, the first does not wait for the last.
void td_conn_settle_streams(struct td_listen_worker *worker);

// For route.c: begins, fills and ends an answer of the listener's own. `allow` is the Allow field's value or NULL.
void td_conn_answer(struct td_conn *c, int status, const char *content_type, struct td_str body, const char *allow);
// An error in OpenAI's form; `close`: the rest of the input is not worth reading, end the connection after it.
void td_conn_refuse(struct td_conn *c, int status, const char *message, const char *allow, bool close);

// route.c. A head is whole: refuses it, answers it, or returns true when its body shall be read and td_route_call
// called.
bool td_route_head(struct td_conn *c);
// Head and body are whole: hands the request to the core.
void td_route_call(struct td_conn *c);
extern const struct td_http_sink td_conn_sink;

#endif
