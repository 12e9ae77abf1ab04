// SPDX-License-Identifier: Apache-2.0
// How a turn of the loop goes here. Everything enters through one of three events: `kick` (somebody asked for
// something), a socket, the timer. Each calls into libcurl (in_curl is set meanwhile; callbacks only note what is to be
// done) and then settles: works off the list, hears from libcurl what has ended and tells the owners, until nothing is
// left to do.
#include "remote/engine.h"

#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "base/time.h"
#include "remote/dial.h"
#include "remote/sockets.h"

#define ROUNDS_MAX 64 // of settling before other events get their turn

enum todo { TODO_ADD = 1, TODO_STOP = 2, TODO_GO_ON = 4, TODO_PAUSE = 8 };

static void todo_add(struct td_xfer *x, uint32_t what) {
    struct td_remote *r = x->r;
    if (!x->todo) {
        x->todo_next = NULL;
        x->todo_prev = r->todo_last;
        *r->todo_last = x;
        r->todo_last = &x->todo_next;
        if (!r->in_curl && !r->settling)
            event_active(r->kick, EV_TIMEOUT, 0);
    }
    x->todo |= what;
}

static uint32_t todo_take(struct td_xfer *x) {
    uint32_t what = x->todo;
    if (what) {
        *x->todo_prev = x->todo_next;
        if (x->todo_next)
            x->todo_next->todo_prev = x->todo_prev;
        else
            x->r->todo_last = x->todo_prev;
        x->todo = 0;
    }
    return what;
}

// ---- one transfer

static void drop_resolve(struct td_xfer *x) {
    if (!x->resolve)
        return;
    curl_easy_setopt(x->easy, CURLOPT_RESOLVE, NULL);
    curl_slist_free_all(x->resolve);
    x->resolve = NULL;
}

static void ended(struct td_xfer *x, CURLcode code) {
    x->state = TD_XFER_ENDED;
    x->code = code;
    drop_resolve(x);
    x->ops->on_end(x);
}

static void leave_multi(struct td_xfer *x) {
    td_name_unwait(&x->waiter);
    if (x->state == TD_XFER_RUNNING) {
        bool outer = x->r->in_curl;
        x->r->in_curl = true; // closing a connection calls back
        curl_multi_remove_handle(x->r->multi, x->easy);
        x->r->in_curl = outer;
    }
    drop_resolve(x);
    x->state = TD_XFER_ENDED;
}

// "host:port:address,address" for libcurl's own table, in the resolver's order. False: none of them is allowed.
static bool hand_addresses(struct td_xfer *x, const struct td_addresses *a) {
    struct td_buf line;
    uint32_t used = 0;
    const struct td_name *name = x->place->name;
    td_buf_init(&line, 4096);
    enum td_err err = td_buf_printf(&line, "%s:%u:", td_name_host(name), td_name_port(name));
    for (uint32_t i = 0; !err && i < a->count; i++) {
        char text[64];
        const struct sockaddr *one = (const struct sockaddr *)(const void *)&a->list[i];
        if (!(td_address_scope(one) & x->place->scopes))
            continue;
        const void *raw = one->sa_family == AF_INET
                              ? (const void *)&((const struct sockaddr_in *)(const void *)one)->sin_addr
                              : (const void *)&((const struct sockaddr_in6 *)(const void *)one)->sin6_addr;
        if (!evutil_inet_ntop(one->sa_family, raw, text, sizeof text))
            continue;
        err = td_buf_printf(&line, one->sa_family == AF_INET6 ? "%s[%s]" : "%s%s", used++ ? "," : "", text);
    }
    const char *z = err ? NULL : td_buf_z(&line);
    if (!used)
        x->refused = TD_ERR_CONNECT;
    else
        x->resolve = z ? curl_slist_append(NULL, z) : NULL;
    td_buf_finish(&line);
    if (!x->resolve)
        return false;
    curl_easy_setopt(x->easy, CURLOPT_RESOLVE, x->resolve);
    return true;
}

static void on_name(struct td_name_waiter *w, enum td_err err) {
    struct td_xfer *x = (struct td_xfer *)(void *)((char *)w - offsetof(struct td_xfer, waiter));
    if (err) {
        ended(x, CURLE_COULDNT_RESOLVE_HOST);
        return;
    }
    x->state = TD_XFER_QUEUED;
    todo_add(x, TODO_ADD);
}

// libcurl's table of names is filled by us, for ever, per multi: as long as a name's addresses have not changed since,
// nothing need be handed over again.
static void add(struct td_xfer *x) {
    struct td_name *name = x->place->name;
    const struct td_addresses *a = name ? td_name_get(name) : NULL;
    if (name && !a) {
        x->state = TD_XFER_RESOLVING;
        if (td_name_wait(name, &x->waiter) != TD_OK)
            ended(x, CURLE_COULDNT_RESOLVE_HOST);
        return;
    }
    x->generation = a ? a->generation : 0;
    if (name && !td_name_is_loaded(name, x->generation, x->place->scopes) && !hand_addresses(x, a)) {
        ended(x, x->refused ? CURLE_COULDNT_CONNECT : CURLE_OUT_OF_MEMORY);
        return;
    }
    x->r->in_curl = true;
    CURLMcode code = curl_multi_add_handle(x->r->multi, x->easy);
    x->r->in_curl = false;
    if (code != CURLM_OK) {
        ended(x, CURLE_OUT_OF_MEMORY);
        return;
    }
    x->state = TD_XFER_RUNNING;
}

// The owner may pause, stop and even free the transfer from inside on_go_on; it says so by returning false.
static void go_on(struct td_xfer *x) {
    if (x->ops->on_go_on(x) && x->state == TD_XFER_RUNNING && x->halted && !x->paused) {
        x->halted = false;
        x->r->in_curl = true;
        curl_easy_pause(x->easy, CURLPAUSE_CONT);
        x->r->in_curl = false;
    }
}

static void halt(struct td_xfer *x) {
    if (!x->halted)
        curl_easy_pause(x->easy, CURLPAUSE_RECV);
    x->halted = true;
}

static void work_off(struct td_remote *r) {
    struct td_xfer *x;
    while ((x = r->todo) != NULL) {
        uint32_t what = todo_take(x);
        if (what & TODO_STOP) {
            leave_multi(x);
            x->ops->on_stopped(x);
            continue;
        }
        if ((what & TODO_PAUSE) && x->state == TD_XFER_RUNNING && x->paused)
            halt(x);
        if (what & TODO_GO_ON)
            go_on(x);
        else if (what & TODO_ADD)
            add(x);
    }
}

static void hear(struct td_remote *r) {
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(r->multi, &left)) != NULL) {
        struct td_xfer *x = NULL;
        CURLcode code = m->data.result;
        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&x);
        r->in_curl = true;
        curl_multi_remove_handle(r->multi, m->easy_handle);
        r->in_curl = false;
        x->state = TD_XFER_ENDED;
        if (!x->stopping)
            ended(x, code);
    }
}

void td_engine_settle(struct td_remote *r) {
    int running;
    if (r->settling)
        return;
    r->settling = true;
    for (int round = 0; round < ROUNDS_MAX; round++) {
        work_off(r);
        if (r->due_now) {
            r->due_now = false;
            r->in_curl = true;
            curl_multi_socket_action(r->multi, CURL_SOCKET_TIMEOUT, 0, &running);
            r->in_curl = false;
            work_off(r);
        }
        hear(r);
        if (!r->todo && !r->due_now)
            break;
    }
    r->settling = false;
    // By way of a timer: what is made active from inside a turn is still part of it.
    if (r->todo || r->due_now)
        event_add(r->kick, &(struct timeval){0, 0});
}

// ---- what every easy handle is given

static curl_socket_t on_open(void *user, curlsocktype purpose, struct curl_sockaddr *address) {
    struct td_xfer *x = user;
    int one = 1;
    (void)purpose;
    if (!(td_address_scope(&address->addr) & x->place->scopes)) {
        x->refused = TD_ERR_CONNECT;
        return CURL_SOCKET_BAD;
    }
    int fd = td_dial_socket(x->r->loop, address->family, address->socktype, address->protocol);
    if (fd < 0) {
        x->refused = errno == EMFILE ? TD_ERR_OVERLOAD : TD_OK;
        return CURL_SOCKET_BAD;
    }
    td_sockets_forget(x->r, fd); // the number was another's before
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static int on_close(void *user, curl_socket_t fd) {
    td_sockets_forget(user, fd);
    return close(fd);
}

// Called once per sending. A second time means libcurl found a kept connection dead after it had sent the request, and
// would now send it again on another: that is for the exchange to decide, not for the way out.
static int on_ready(void *user, char *to, char *from, int to_port, int from_port) {
    struct td_xfer *x = user;
    long connects = 0;
    struct sockaddr_storage address;
    (void)from;
    if (x->connected || x->stopping)
        return CURL_PREREQFUNC_ABORT;
    curl_easy_getinfo(x->easy, CURLINFO_NUM_CONNECTS, &connects);
    if (!td_address_literal(td_str_of(to), &address) ||
        !(td_address_scope((const struct sockaddr *)(const void *)&address) & x->place->scopes)) {
        x->refused = TD_ERR_CONNECT; // a kept connection that another target was allowed to make
        return CURL_PREREQFUNC_ABORT;
    }
    if (x->resolve)
        td_name_set_loaded(x->place->name, x->generation, x->place->scopes);
    x->connected = true;
    x->reused = connects == 0;
    x->connected_ns = td_now_ns();
    x->local_port = from_port;
    x->peer_port = to_port;
    x->ops->on_connected(x);
    return x->stopping ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

#define SET(option, value)                                                                                             \
    do {                                                                                                               \
        if (curl_easy_setopt(easy, option, value) != CURLE_OK)                                                         \
            goto fail;                                                                                                 \
    } while (0)

enum td_err td_xfer_init(struct td_xfer *x, struct td_remote *r, const struct td_xfer_ops *ops) {
    CURL *easy = curl_easy_init();
    *x = (struct td_xfer){.r = r, .ops = ops, .easy = easy};
    x->waiter.fn = on_name;
    if (!easy)
        return TD_ERR_NOMEM;
    SET(CURLOPT_PRIVATE, x);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_SHARE, r->share);
#if LIBCURL_VERSION_NUM >= 0x075500
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
#else
    SET(CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    SET(CURLOPT_PROXY, ""); // none, whatever http_proxy says: ways out come from the configuration alone
    SET(CURLOPT_NOPROXY, "");
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    SET(CURLOPT_CONNECTTIMEOUT_MS, 600000L); // ours comes long before
    SET(CURLOPT_DNS_CACHE_TIMEOUT, -1L);     // entries are ours and replaced by us
    SET(CURLOPT_BUFFERSIZE, (long)TD_REMOTE_BUFFER_BYTES);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_ERRORBUFFER, x->why);
    SET(CURLOPT_OPENSOCKETFUNCTION, on_open);
    SET(CURLOPT_OPENSOCKETDATA, x);
    SET(CURLOPT_CLOSESOCKETFUNCTION, on_close);
    SET(CURLOPT_CLOSESOCKETDATA, r);
    SET(CURLOPT_PREREQFUNCTION, on_ready);
    SET(CURLOPT_PREREQDATA, x);
    return TD_OK;
fail:
    curl_easy_cleanup(easy);
    x->easy = NULL;
    return TD_ERR_NOMEM;
}

void td_xfer_finish(struct td_xfer *x) {
    if (!x->easy)
        return;
    bool outer = x->r->in_curl;
    x->r->in_curl = true;
    curl_easy_cleanup(x->easy);
    x->r->in_curl = outer;
    x->easy = NULL;
}

void td_xfer_start(struct td_xfer *x, const struct td_place *place) {
    x->place = place;
    x->connected = x->reused = x->stopping = x->paused = x->halted = false;
    x->refused = TD_OK;
    x->code = CURLE_OK;
    x->why[0] = 0;
    x->connected_ns = 0;
    x->start_ns = td_now_ns();
    x->state = TD_XFER_QUEUED;
    todo_add(x, TODO_ADD);
}

void td_xfer_stop(struct td_xfer *x) {
    if (x->stopping)
        return;
    x->stopping = true;
    if (x->r->in_curl) {
        todo_add(x, TODO_STOP);
        return;
    }
    todo_take(x);
    leave_multi(x);
    x->ops->on_stopped(x);
}

void td_xfer_abort(struct td_xfer *x) {
    todo_take(x);
    leave_multi(x);
}

void td_xfer_pause(struct td_xfer *x) {
    x->paused = true;
    if (x->r->in_curl)
        todo_add(x, TODO_PAUSE);
    else if (x->state == TD_XFER_RUNNING)
        halt(x);
}

void td_xfer_halt(struct td_xfer *x) {
    x->paused = true;
    if (x->state == TD_XFER_RUNNING)
        halt(x);
}

void td_xfer_go_on(struct td_xfer *x) {
    x->paused = false;
    todo_add(x, TODO_GO_ON);
}

// libcurl counts a connection's age in whole seconds; after two minutes unused it drops it anyway.
enum td_err td_xfer_set_age(struct td_xfer *x, long *set) {
    struct td_remote *r = x->r;
    uint64_t since_s = r->refreshed_ns ? (td_now_ns() - r->refreshed_ns) / TD_S_NS : 0;
    if (since_s > TD_IDLE_CONNECTION_S_MAX)
        r->refreshed_ns = 0;
    long age = r->refreshed_ns ? (long)since_s + 1 : 0;
    if (age == *set)
        return TD_OK;
    *set = age;
    return curl_easy_setopt(x->easy, CURLOPT_MAXLIFETIME_CONN, age) == CURLE_OK ? TD_OK : TD_ERR_NOMEM;
}
