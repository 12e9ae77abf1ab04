// SPDX-License-Identifier: Apache-2.0
// libcurl's multi interface on the worker's loop: what fetches, probes and the attempts carried by libcurl have in
// common. One transfer is one easy handle; its owner prepares the request, the engine finds the addresses, runs it and
// says once how it ended. All on the loop's thread. Private to this room.
//
// libcurl forbids most calls from inside its callbacks, so what an owner asks for there (start, stop, go on) is put on
// a list and done as soon as libcurl has returned, in the same turn of the loop.
#ifndef TD_REMOTE_ENGINE_H
#define TD_REMOTE_ENGINE_H

#include <curl/curl.h>

#include "loop/descriptors.h"
#include "remote/address.h"
#include "remote/remote.h"
#include "remote/resolve.h"

#define TD_REMOTE_AGENT "tandem/0.1"
#define TD_REMOTE_BUFFER_BYTES (8u << 10) // per running transfer; an event of a stream is below 1 KiB
#define TD_REMOTE_URL_BYTES_MAX 8192u     // signed addresses of download servers have two thousand and more
#define TD_CONNECT_MS_DEFAULT 5000u
#define TD_REMOTE_NO_DESCRIPTOR "no file descriptor was free for a connection to it"

struct event;
struct td_sock;
struct route;

// Where a transfer connects to: the URL's host, or the proxy's.
struct td_place {
    struct td_name *name; // NULL: an address, or localhost
    uint32_t scopes;      // enum td_scope bits that are allowed
};

enum td_xfer_state { TD_XFER_NEW, TD_XFER_RESOLVING, TD_XFER_QUEUED, TD_XFER_RUNNING, TD_XFER_ENDED };

struct td_xfer;
struct td_xfer_ops {
    // The connection stands and the request is about to go out.
    void (*on_connected)(struct td_xfer *x);
    // Ended by itself; not called after td_xfer_stop. x->code, x->refused say how. Nothing of libcurl is on the stack.
    void (*on_end)(struct td_xfer *x);
    // After td_xfer_go_on: the owner hands up what it held back. True: go on reading (then it must still exist).
    bool (*on_go_on)(struct td_xfer *x);
    // After td_xfer_stop: the engine has let go of it.
    void (*on_stopped)(struct td_xfer *x);
};

struct td_xfer {
    struct td_remote *r;
    const struct td_xfer_ops *ops;
    CURL *easy;
    const struct td_place *place;
    enum td_xfer_state state;
    uint32_t todo; // enum todo bits
    struct td_xfer *todo_next, **todo_prev;
    struct curl_slist *resolve;
    struct td_name_waiter waiter;
    uint32_t generation;                              // of the addresses handed to libcurl
    bool connected, reused, stopping, paused, halted; // paused: wanted; halted: libcurl knows
    CURLcode code;
    int local_port, peer_port; // of the connection, once connected
    enum td_err refused;       // why the engine itself ended it; TD_OK: it did not
    uint64_t start_ns, connected_ns;
    char why[CURL_ERROR_SIZE];
};

#define TD_PROXIES_MAX 16u            // proxies whose tunnels are kept
#define TD_IDLE_CONNECTION_S_MAX 118u // libcurl's own

struct td_remote {
    struct td_backend backend; // first: the backend is the remote
    struct td_loop *loop;
    CURLM *multi;
    CURLSH *share;
    struct td_plain *plain;
    struct td_resolver *resolver;
    struct event *kick, *timer;
    struct td_sock **socks; // by descriptor
    size_t sock_count;
    uint64_t idle_count; // sockets that became idle until now: the order in which they did
    struct td_fd_shedder shedder;
    struct td_xfer *todo, **todo_last;
    bool in_curl, due_now, settling;
    uint64_t due_ns, armed_ns; // when libcurl wants to be called; when the timer will fire; 0 not
    uint64_t policy_version_min;
    uint64_t refreshed_ns; // connections older than this are not used again; 0 never refreshed
    struct route *routes[TD_TARGETS_MAX];
    struct td_tunnels { // whose tunnels are kept, by proxy (route.h)
        uint64_t proxy_id, user_id, used_ns;
    } tunnels[TD_PROXIES_MAX];
    struct td_attempt *lingering; // ended for their owner, still reading the last bytes to keep the connection
};

// Works off what was asked for and hears what has ended, until nothing is left to do. After every call into libcurl
// that an event of the loop made.
void td_engine_settle(struct td_remote *r);

// A new easy handle with everything that is the same for all: verification, protocols, no redirects, no surprises from
// the environment.
enum td_err td_xfer_init(struct td_xfer *x, struct td_remote *r, const struct td_xfer_ops *ops) TD_MUST_USE;
void td_xfer_finish(struct td_xfer *x);
// Begins; on_end comes later. `place` stays alive until the end.
void td_xfer_start(struct td_xfer *x, const struct td_place *place);
// Ends it at once; on_stopped comes from inside, or right after libcurl returned where this is called from its
// callbacks.
void td_xfer_stop(struct td_xfer *x);
// Between pause and go_on nothing more is read from the network.
void td_xfer_pause(struct td_xfer *x);
void td_xfer_go_on(struct td_xfer *x);
// The same as pause, for the transfer's own write callback: libcurl would go on reading up to a hundred buffers before
// it returns to us.
void td_xfer_halt(struct td_xfer *x);
// Ends it from outside with an error of ours: like td_xfer_stop, but without on_stopped; the state is then ENDED.
void td_xfer_abort(struct td_xfer *x);

// Keeps a transfer from taking up a connection made before td_remote_refresh. `set` remembers what the handle was told.
enum td_err td_xfer_set_age(struct td_xfer *x, long *set) TD_MUST_USE;

// The descriptor of its connection, to be looked at only; -1 not known. libcurl names it to nobody while a transfer
// runs, so it is searched for among all: for rare use.
int td_xfer_descriptor(const struct td_xfer *x);

// What a curl result means, and in words fit for the caller.
enum td_err td_xfer_error(const struct td_xfer *x, const char **what);

// Takes a URL apart with libcurl's own parser (the one that will use it) and checks it: http or https, no user, no
// fragment, an ASCII host. `host` at least 256 bytes.
enum td_err td_url_check(struct td_str url, char *host, size_t host_size, uint16_t *port, bool *tls,
                         struct td_error *e) TD_MUST_USE;
// Appends path and query of a checked URL as that parser reads them: what stands in a request's first line.
enum td_err td_url_add_target(const char *url, struct td_buf *out) TD_MUST_USE;
// The interface that the zone of a link-local address in a URL names (RFC 6874), by name or number; 0 none, or unknown.
uint32_t td_url_zone(const char *url);
// The place for a host; `scopes` are those allowed for names, `literal_scopes` for addresses written out.
enum td_err td_place_set(struct td_remote *r, struct td_place *p, struct td_str host, uint16_t port, uint32_t scopes,
                         uint32_t literal_scopes, struct td_error *e) TD_MUST_USE;
// The options for TLS files and the proxy. Copies what it needs. TD_ERR_CONFIG.
enum td_err td_xfer_set_tls(CURL *easy, const char *ca, const char *cert, const char *key) TD_MUST_USE;
// `proxy`: http://[ref@]host:port, where ref is a secret reference to "user:password".
enum td_err td_xfer_set_proxy(CURL *easy, const char *proxy_url, const char *user_password) TD_MUST_USE;
struct td_secret;
enum td_err td_proxy_read(struct td_str proxy, char *url, size_t url_size, char *host, size_t host_size, uint16_t *port,
                          struct td_secret *user_password, struct td_error *e) TD_MUST_USE;

#endif
