// SPDX-License-Identifier: Apache-2.0
// Start, accept, drain, stop. Worker 0 accepts and gives each connection to the worker that has the fewest, so that
// long streams spread evenly and no other thread wakes for nothing.
#include "server/server.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"
#include "server/conn.h"

enum {
    TICK_MS = 250,         // how late a deadline may be noticed
    ACCEPTS_PER_TURN = 64, // then the connections that exist have their turn
    ACCEPT_PAUSE_MS = 100, // without descriptors, try again after this
    WARN_EVERY_S = 60,     // of what may go on for long
    BACKLOG = 1024,
};

struct td_server {
    struct td_listener listener;
    struct td_listen_config *config, *next_config;
    struct td_listen_address address;
    unsigned port, asked_port; // the one bound; the one asked for, 0 any
    char url[160];
    int fd;
    dev_t socket_dev; // of a Unix socket's file: only our own is removed
    ino_t socket_ino;
    struct td_watch *accept_watch;
    struct td_timer *accept_pause;
    uint64_t warned_ns; // of descriptors that run short
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned worker_count;
    struct td_listen_worker workers[];
};

// ---- work on the workers' threads

struct task {
    struct td_listen_worker *worker;
    struct td_server *server;
    enum td_err (*run)(struct td_server *server, struct td_listen_worker *worker);
    enum td_err result;
    bool done;
};

static void on_task(void *arg) {
    struct task *t = arg;
    enum td_err result = t->run(t->server, t->worker);
    pthread_mutex_lock(&t->server->lock);
    t->result = result;
    t->done = true;
    pthread_cond_broadcast(&t->server->changed);
    pthread_mutex_unlock(&t->server->lock);
}

// Runs it on the worker's thread and waits.
static enum td_err run_on(struct td_server *s, unsigned worker,
                          enum td_err (*run)(struct td_server *, struct td_listen_worker *)) {
    struct task t = {&s->workers[worker], s, run, TD_OK, false};
    // Memory can be short for a moment; what must run must run.
    while (td_loop_post(t.worker->loop, on_task, &t) != TD_OK)
        usleep(1000);
    pthread_mutex_lock(&s->lock);
    while (!t.done)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return t.result;
}

static void on_settle(evutil_socket_t fd, short what, void *arg) {
    struct td_listen_worker *w = arg;
    (void)fd, (void)what;
    if (w->marked) { // once more around, behind what the core does with it in this turn: rows go before answers
        w->marked = false;
        event_active(w->settle, 0, 0);
    } else {
        td_conn_settle_dirty(w);
    }
}

static void on_breath(void *arg) {
    td_conn_settle_streams(arg);
}

static void on_worker_tick(void *arg) {
    struct td_listen_worker *w = arg;
    td_conn_tick(w, td_now_ns());
    w->ticking = w->conns != NULL;
    if (w->ticking)
        td_timer_arm(w->tick, TICK_MS);
}

static unsigned on_shed(void *arg, unsigned max) {
    return td_conn_shed(arg, max);
}

static enum td_err open_worker(struct td_server *s, struct td_listen_worker *w) {
    (void)s;
    w->settle = event_new(td_loop_base(w->loop), -1, 0, on_settle, w);
    w->tick = td_timer_create(w->loop, on_worker_tick, w);
    td_loop_on_breath(w->loop, on_breath, w);
    if (!w->settle || !w->tick)
        return TD_ERR_NOMEM;
    td_fd_shedder_add(&w->shedder, w->loop, on_shed, w);
    return TD_OK;
}

static enum td_err close_worker(struct td_server *s, struct td_listen_worker *w) {
    (void)s;
    td_fd_shedder_remove(&w->shedder);
    while (w->conns)
        td_conn_destroy(w->conns);
    td_loop_on_breath(w->loop, NULL, NULL);
    if (w->settle)
        event_free(w->settle);
    td_timer_destroy(w->tick);
    return TD_OK;
}

static enum td_err drain_worker(struct td_server *s, struct td_listen_worker *w) {
    (void)s;
    for (struct td_conn *c = w->conns, *next; c; c = next) {
        next = c->next;
        td_conn_drain(c);
    }
    return TD_OK;
}

// ---- accepting

struct arrival {
    struct td_listen_worker *worker;
    int fd;
    struct td_peer_key key;
    bool local;
    char peer[64];
};

static void open_arrival(const struct arrival *a) {
    struct td_listen_worker *w = a->worker;
    td_conn_open(w, a->fd, a->key, a->peer, a->local);
    if (!w->ticking && w->conns) {
        w->ticking = true;
        td_timer_arm(w->tick, TICK_MS);
    }
}

static void on_arrival(void *arg) {
    open_arrival(arg);
    td_free(arg);
}

static struct td_listen_worker *least_loaded(struct td_server *s) {
    unsigned best = 0, best_load = UINT32_MAX;
    for (unsigned i = 0; i < s->worker_count; i++) {
        unsigned load = atomic_load_explicit(&s->workers[i].load, memory_order_relaxed);
        if (load < best_load) {
            best = i;
            best_load = load;
        }
    }
    return &s->workers[best];
}

// Its request could not be served, or it is over a limit: said at once rather than after it was read.
static void turn_away(struct td_server *s, int fd) {
    static const char body[] =
        "{\"error\":{\"message\":\"too many connections\",\"type\":\"server_error\",\"param\":null,"
        "\"code\":\"tandem.overload\"}}\n";
    char text[512];
    int n = snprintf(text, sizeof text,
                     "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
                     "content-length: %zu\r\nconnection: close\r\n\r\n%s",
                     sizeof body - 1, body);
    td_counter_add(s->listener.turned_away, 1);
    if (!s->workers[0].config->tls) {
        ssize_t put = send(fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)put; // it is a courtesy
        shutdown(fd, SHUT_WR);
    }
    close(fd);
}

static void take(struct td_server *s, int fd, const struct sockaddr *from) {
    struct td_listener *l = &s->listener;
    struct arrival a = {.fd = fd, .key = td_peer_key_of(from), .local = td_access_is_loopback(from)};
    td_access_address_text(from, a.peer, sizeof a.peer);
    if (atomic_fetch_add(&l->connections, 1) >= s->workers[0].config->connections_max) {
        atomic_fetch_sub(&l->connections, 1);
        turn_away(s, fd);
        return;
    }
    if (!td_peers_enter(&l->peers, a.key, s->workers[0].config->per_peer_max)) {
        atomic_fetch_sub(&l->connections, 1);
        turn_away(s, fd);
        return;
    }
    a.worker = least_loaded(s);
    atomic_fetch_add(&a.worker->load, 1);
    if (a.worker->index == 0) {
        open_arrival(&a);
        return;
    }
    struct arrival *posted = td_malloc(sizeof *posted);
    if (posted)
        *posted = a;
    if (posted && td_loop_post(a.worker->loop, on_arrival, posted) == TD_OK)
        return;
    td_free(posted);
    td_peers_leave(&l->peers, a.key);
    atomic_fetch_sub(&a.worker->load, 1);
    atomic_fetch_sub(&l->connections, 1);
    close(fd);
}

// Idle connections make room first. A client is turned away only where there are none: behind it stands a request that
// would want a connection upstream as well.
static enum td_fd_room make_room(struct td_server *s, enum td_fd_room room) {
    uint64_t now = td_now_ns();
    if (room == TD_FD_PLENTY)
        return room;
    if (room == TD_FD_SHORT && (!s->warned_ns || now > s->warned_ns + WARN_EVERY_S * TD_S_NS)) {
        s->warned_ns = now;
        td_log(TD_LOG_WARN, "server", NULL, "while=accept err=%s detail=\"file descriptors run short (RLIMIT_NOFILE)\"",
               td_err_code(TD_ERR_OVERLOAD));
    }
    return td_fd_shed(s->workers[0].loop) ? TD_FD_TIGHT : room;
}

static void on_accept(void *arg, int events) {
    struct td_server *s = arg;
    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage from = {0};
        socklen_t n = sizeof from;
        int fd = accept4(s->fd, (struct sockaddr *)&from, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        int error = errno;
        enum td_fd_room room = make_room(s, td_fd_room(fd));
        if (fd < 0) {
            // No descriptors or no memory: the waiting client keeps the socket readable, so look away for a while.
            if (error != EMFILE && error != ENFILE)
                td_log(TD_LOG_WARN, "server", NULL, "while=accept err=%s", strerror(error));
            if (td_watch_set(s->accept_watch, 0) == TD_OK)
                td_timer_arm(s->accept_pause, ACCEPT_PAUSE_MS);
            return;
        }
        if (s->address.is_unix)
            from.ss_family = AF_UNIX;
        if (room == TD_FD_SHORT)
            turn_away(s, fd);
        else
            take(s, fd, (struct sockaddr *)&from);
        if (room != TD_FD_PLENTY && !atomic_load_explicit(&s->listener.draining, memory_order_relaxed))
            return; // the other workers' turn to close theirs, before the next one
    }
}

static void on_accept_pause(void *arg) {
    struct td_server *s = arg;
    if (s->accept_watch && td_watch_set(s->accept_watch, TD_WATCH_READ) != TD_OK)
        td_timer_arm(s->accept_pause, ACCEPT_PAUSE_MS);
}

static enum td_err open_accept(struct td_server *s, struct td_listen_worker *w) {
    s->accept_pause = td_timer_create(w->loop, on_accept_pause, s);
    s->accept_watch = td_watch_create(w->loop, s->fd, on_accept, s);
    if (!s->accept_pause || !s->accept_watch)
        return TD_ERR_NOMEM;
    return td_watch_set(s->accept_watch, TD_WATCH_READ);
}

static enum td_err close_accept(struct td_server *s, struct td_listen_worker *w) {
    (void)w;
    td_watch_destroy(s->accept_watch);
    td_timer_destroy(s->accept_pause);
    s->accept_watch = NULL;
    s->accept_pause = NULL;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    struct stat now;
    const char *path = s->address.local.sun_path;
    if (s->address.is_unix && s->socket_ino && lstat(path, &now) == 0 && now.st_ino == s->socket_ino &&
        now.st_dev == s->socket_dev)
        unlink(path);
    s->socket_ino = 0;
    return TD_OK;
}

// What already waits in the queue was promised an answer by the kernel.
static enum td_err drain_accept(struct td_server *s, struct td_listen_worker *w) {
    if (s->fd >= 0)
        on_accept(s, 0);
    return close_accept(s, w);
}

// ---- binding

// A socket file nobody answers on is left over from a process that died.
static void remove_stale(const struct td_listen_address *address) {
    struct stat now;
    if (lstat(address->local.sun_path, &now) != 0 || !S_ISSOCK(now.st_mode))
        return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, &address->any, address->length) != 0 && errno == ECONNREFUSED)
        unlink(address->local.sun_path);
    if (fd >= 0)
        close(fd);
}

// Accepted sockets inherit these.
static void set_options(int fd, bool tcp) {
    int one = 1, idle_s = 60, every_s = 15, stall_ms = (int)TD_WRITE_STALL_MS_MAX;
    if (!tcp)
        return;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &stall_ms, sizeof stall_ms);
}

static enum td_err bind_socket(struct td_server *s, struct td_error *e) {
    struct td_listen_address *a = &s->address;
    if (a->is_unix)
        remove_stale(a);
    s->fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd >= 0)
        set_options(s->fd, !a->is_unix);
    if (s->fd < 0 || bind(s->fd, &a->any, a->length) != 0)
        return td_error_set(e, TD_ERR_LISTEN, "cannot listen on %s port %u: %s",
                            a->is_unix ? a->local.sun_path : a->host, s->port, strerror(errno));
    struct stat now;
    // Between bind and listen nobody can connect, so the file's mode is right before the first client.
    if (a->is_unix && (chmod(a->local.sun_path, 0600) != 0 || lstat(a->local.sun_path, &now) != 0))
        return td_error_set(e, TD_ERR_LISTEN, "cannot protect %s: %s", a->local.sun_path, strerror(errno));
    if (a->is_unix) {
        s->socket_dev = now.st_dev;
        s->socket_ino = now.st_ino;
    }
    if (listen(s->fd, BACKLOG) != 0)
        return td_error_set(e, TD_ERR_LISTEN, "cannot listen: %s", strerror(errno));
    socklen_t n = sizeof a->storage;
    if (!a->is_unix && getsockname(s->fd, &a->any, &n) == 0)
        s->port = ntohs(a->any.sa_family == AF_INET ? ((struct sockaddr_in *)(void *)&a->storage)->sin_port
                                                    : ((struct sockaddr_in6 *)(void *)&a->storage)->sin6_port);
    if (a->is_unix)
        snprintf(s->url, sizeof s->url, "unix:%s", a->local.sun_path);
    else
        snprintf(s->url, sizeof s->url, "%s://%s:%u", s->config->tls ? "https" : "http", a->host, s->port);
    return TD_OK;
}

// ---- the interface

static unsigned within(unsigned wanted, unsigned max) {
    return wanted && wanted < max ? wanted : max;
}

static void set_limits(struct td_listener *l, const struct td_server_limits *limits) {
    static const struct td_server_limits none;
    if (!limits)
        limits = &none;
    l->limits.header_ms = within(limits->header_ms, TD_HEADER_TIME_MS_MAX);
    l->limits.body_window_ms = within(limits->body_window_ms, TD_BODY_WINDOW_MS_MAX);
    l->limits.keepalive_ms = within(limits->keepalive_ms, TD_KEEPALIVE_MS_MAX);
    l->limits.write_stall_ms = within(limits->write_stall_ms, TD_WRITE_STALL_MS_MAX);
    l->limits.linger_ms = within(limits->linger_ms, TD_LINGER_MS_MAX);
    l->limits.bodies_bytes = within(limits->bodies_bytes, TD_BODIES_BYTES_MAX);
}

static void config_destroy(struct td_listen_config *config) {
    if (!config)
        return;
    td_tls_destroy(config->tls);
    td_arena_finish(&config->arena);
    td_free(config);
}

static enum td_err copy_list(struct td_arena *arena, const char *const *from, size_t n, const char *const **out) {
    const char **list = td_arena_array(arena, n ? n : 1, sizeof *list);
    for (size_t i = 0; i < n && list; i++) {
        list[i] = td_arena_str(arena, td_str_of(from[i])).p;
        if (!list[i])
            return TD_ERR_NOMEM;
    }
    *out = list;
    return list ? TD_OK : TD_ERR_NOMEM;
}

// Reads files and checks; binds nothing.
static enum td_err config_create(const struct td_server *s, const struct td_listen_settings *settings,
                                 struct td_listen_config **out, struct td_error *e) {
    struct td_listen_config *c = td_calloc(1, sizeof *c);
    if (!c)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    td_arena_init(&c->arena, TD_ACCESS_LIST_BYTES_MAX);
    c->settings = *settings;
    enum td_err err = td_access_check_exposure(&s->address, &c->settings, e);
    if (err == TD_OK &&
        (copy_list(&c->arena, settings->hosts, settings->host_count, &c->settings.hosts) != TD_OK ||
         copy_list(&c->arena, settings->origins, settings->origin_count, &c->settings.origins) != TD_OK))
        err = td_error_set(e, TD_ERR_NOMEM, "out of memory");
    if (err == TD_OK)
        err = td_tls_create(&c->settings, &c->tls, e);
    if (err != TD_OK) {
        config_destroy(c);
        return err;
    }
    c->access = (struct td_access){&c->settings, &s->address, s->port, c->tls != NULL};
    size_t body = settings->body_bytes_max;
    c->body_bytes_max = body && body < TD_BODY_BYTES_MAX ? body : TD_BODY_BYTES_MAX;
    c->connections_max = within(settings->connections_max, TD_CONNECTIONS_MAX);
    c->per_peer_max = within(settings->connections_per_peer_max, TD_CONNECTIONS_PER_PEER_MAX);
    // What only the start needs may go with the caller's strings.
    c->settings.address = c->settings.data_dir = NULL;
    c->settings.tls_cert = c->settings.tls_key = c->settings.tls_client_ca = NULL;
    *out = c;
    return TD_OK;
}

static void prepare_process(void) {
    td_fd_limit_raise();
    signal(SIGPIPE, SIG_IGN); // OpenSSL writes without MSG_NOSIGNAL
}

static void set_counters(struct td_listener *l) {
    l->requests = td_counter_get("tandem_http_requests_total", "Requests whose head was read.");
    l->refused = td_counter_get("tandem_http_refused_total", "Requests that the listener itself refused.");
    l->gone =
        td_counter_get("tandem_http_clients_gone_total", "Clients that went away before their answer was complete.");
    l->turned_away = td_counter_get("tandem_http_turned_away_total",
                                    "Connections over a connection limit, or for want of file descriptors.");
    l->open = td_gauge_get("tandem_http_connections", "Client connections now open.");
}

static enum td_err start(struct td_server *s, const struct td_listen_settings *settings,
                         const struct td_server_limits *limits, struct td_error *e) {
    struct td_listener *l = &s->listener;
    s->port = settings->port;
    s->asked_port = settings->port;
    enum td_err err = td_listen_address_read(settings->address, settings->port, &s->address, e);
    if (err == TD_OK)
        err = config_create(s, settings, &s->config, e);
    if (err != TD_OK)
        return err;
    set_limits(l, limits);
    set_counters(l);
    // A reload may raise the limit of connections up to the fixed one.
    if (td_peers_init(&l->peers, TD_CONNECTIONS_MAX) != TD_OK)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    prepare_process();
    err = bind_socket(s, e);
    s->config->access.port = s->port;
    for (unsigned i = 0; i < s->worker_count; i++)
        s->workers[i].config = s->config;
    for (unsigned i = 0; i < s->worker_count && err == TD_OK; i++)
        if (run_on(s, i, open_worker) != TD_OK)
            err = td_error_set(e, TD_ERR_NOMEM, "out of memory");
    if (err == TD_OK && run_on(s, 0, open_accept) != TD_OK)
        err = td_error_set(e, TD_ERR_NOMEM, "out of memory");
    return err;
}

static struct td_server *create(struct td_runtime *runtime) {
    unsigned workers = td_runtime_worker_count(runtime);
    struct td_server *s = td_calloc(1, sizeof *s + workers * sizeof *s->workers);
    if (!s)
        return NULL;
    s->fd = -1;
    s->listener.runtime = runtime;
    s->worker_count = workers;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    for (unsigned i = 0; i < workers; i++) {
        s->workers[i].listener = &s->listener;
        s->workers[i].index = i;
        s->workers[i].loop = td_runtime_worker_loop(runtime, i);
    }
    return s;
}

static int report(struct td_failure *failure, enum td_err err, const struct td_error *e) {
    if (failure) {
        snprintf(failure->code, sizeof failure->code, "%s", td_err_code(err));
        snprintf(failure->message, sizeof failure->message, "%s", e->message);
    }
    return 1;
}

int td_server_start_limited(struct td_runtime *runtime, const struct td_listen_settings *settings,
                            const struct td_server_limits *limits, struct td_server **out, struct td_failure *failure) {
    struct td_error e = {.code = TD_OK};
    *out = NULL;
    struct td_server *s = create(runtime);
    enum td_err err = s ? start(s, settings, limits, &e) : td_error_set(&e, TD_ERR_NOMEM, "out of memory");
    if (err == TD_OK) {
        *out = s;
        return 0;
    }
    td_server_stop(s);
    return report(failure, err, &e);
}

int td_server_start(struct td_runtime *runtime, const struct td_listen_settings *settings, struct td_server **out,
                    struct td_failure *failure) {
    return td_server_start_limited(runtime, settings, NULL, out, failure);
}

static enum td_err take_config(struct td_server *s, struct td_listen_worker *w) {
    w->config = s->next_config;
    return TD_OK;
}

static enum td_err check_address(const struct td_server *s, const struct td_listen_settings *settings,
                                 struct td_error *e) {
    struct td_listen_address next;
    enum td_err err = td_listen_address_read(settings->address, settings->port, &next, e);
    if (err == TD_OK && (next.is_unix != s->address.is_unix || strcmp(next.host, s->address.host) != 0 ||
                         (next.is_unix ? strcmp(next.local.sun_path, s->address.local.sun_path) != 0
                                       : settings->port != s->asked_port)))
        err = td_error_set(e, TD_ERR_CONFIG, "listen: a change needs a restart");
    return err;
}

int td_server_reload(struct td_server *server, const struct td_listen_settings *settings, struct td_failure *failure) {
    struct td_error e = {.code = TD_OK};
    struct td_listen_config *old = server->config;
    enum td_err err = check_address(server, settings, &e);
    if (err == TD_OK)
        err = config_create(server, settings, &server->next_config, &e);
    if (err == TD_OK && (server->next_config->tls != NULL) != (old->tls != NULL)) {
        config_destroy(server->next_config);
        err = td_error_set(&e, TD_ERR_CONFIG, "switching TLS on or off needs a restart");
    }
    if (err != TD_OK)
        return report(failure, err, &e);
    for (unsigned i = 0; i < server->worker_count; i++)
        run_on(server, i, take_config);
    server->config = server->next_config;
    config_destroy(old);
    return 0;
}

const char *td_server_url(const struct td_server *server) {
    return server->url;
}

unsigned td_server_port(const struct td_server *server) {
    return server->address.is_unix ? 0 : server->port;
}

int td_server_drain(struct td_server *server, unsigned timeout_ms) {
    uint64_t end_ns = td_now_ns() + timeout_ms * TD_MS_NS;
    atomic_store(&server->listener.draining, true);
    run_on(server, 0, drain_accept);
    for (unsigned i = 0; i < server->worker_count; i++)
        run_on(server, i, drain_worker);
    while (atomic_load(&server->listener.connections) > 0) {
        if (td_now_ns() >= end_ns)
            return 1;
        usleep(5000);
    }
    return 0;
}

void td_server_stop(struct td_server *server) {
    if (!server)
        return;
    if (server->worker_count > 0)
        run_on(server, 0, close_accept);
    for (unsigned i = 0; i < server->worker_count; i++)
        run_on(server, i, close_worker);
    td_peers_finish(&server->listener.peers);
    config_destroy(server->config);
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    td_free(server);
}
