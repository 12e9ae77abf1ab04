// SPDX-License-Identifier: Apache-2.0
// Who may speak to this listener: which addresses it may bind, which Host names it answers to and which web pages may
// use it (SECURITY: open by default, DNS rebinding, cross-site requests). Pure but for reading addresses; any thread.
#ifndef TD_SERVER_ACCESS_H
#define TD_SERVER_ACCESS_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/err.h"
#include "base/str.h"
#include "tandem/admin.h"

// Where to listen, made from a configured address.
struct td_listen_address {
    union {
        struct sockaddr any;
        struct sockaddr_storage storage;
        struct sockaddr_un local;
    };
    socklen_t length;
    bool is_unix, loopback, wildcard;
    char host[64]; // as it stands in a URL: "127.0.0.1", "[::1]"; "" for a Unix socket
};

// Reads "127.0.0.1", "::1", "localhost" or "unix:/path" and a port. Names are not resolved: what is listened on must
// not depend on a name service. TD_ERR_LISTEN.
enum td_err td_listen_address_read(const char *text, unsigned port, struct td_listen_address *out,
                                   struct td_error *e) TD_MUST_USE;
// Refuses an address that other machines reach unless keys and TLS guard it. TD_ERR_EXPOSED.
enum td_err td_access_check_exposure(const struct td_listen_address *address, const struct td_listen_settings *settings,
                                     struct td_error *e) TD_MUST_USE;

// What Host and Origin are held against.
struct td_access {
    const struct td_listen_settings *settings;
    const struct td_listen_address *address;
    unsigned port; // the one really bound
    bool tls;
};

// True when `host` (the field's value) names this listener: a loopback name or the address itself, with the port;
// `connected` (the address the client reached, as in a URL; "" unknown) where all addresses are listened on; or a
// configured host, with this port, with no port, or with the port it was configured with. Exact, but for letter case.
bool td_access_host(const struct td_access *a, struct td_str host, const char *connected);
// True when the page at `origin` is this listener's own (same scheme, `host` as in the Host field, which was checked)
// or a configured one. "null" is never allowed.
bool td_access_origin(const struct td_access *a, struct td_str origin, struct td_str host);

// The address of a socket as in a URL, without port: "192.0.2.1", "[2001:db8::1]", "unix"; "" for what is none.
void td_access_address_text(const struct sockaddr *address, char *out, size_t cap);
bool td_access_is_loopback(const struct sockaddr *address);

#endif
