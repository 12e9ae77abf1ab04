// SPDX-License-Identifier: Apache-2.0
// URLs of upstreams, read strictly: http or https, a host that is a plain DNS name or an address literal, an optional
// port and path, and nothing else. What two parsers might read differently (user names, back slashes, percent signs in
// the host, spaces, queries, fragments, dotted numbers with leading zeros) is refused, so that whatever connects later
// reads the same host. RFC 3986, a subset. Pure; views point into the text.
#ifndef TD_BASE_URL_H
#define TD_BASE_URL_H

#include <stdbool.h>

#include "base/err.h"
#include "base/str.h"

#define TD_URL_BYTES_MAX 2048u

struct td_url {
    bool tls;
    struct td_str host; // without brackets
    bool ipv6;
    uint16_t port;      // the scheme's own where not given
    struct td_str path; // from the first slash, without trailing slashes; "" none
    bool loopback;      // 127.0.0.0/8, ::1 or localhost
};

// TD_ERR_CONFIG with the reason.
enum td_err td_url_parse(struct td_str text, struct td_url *out, struct td_error *e) TD_MUST_USE;
// True for an address or name that only this machine can reach: 127.0.0.0/8, ::1, localhost.
bool td_host_is_loopback(struct td_str host);

#endif
