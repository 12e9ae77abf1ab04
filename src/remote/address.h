// SPDX-License-Identifier: Apache-2.0
// What kind of address a connection would go to, so that a name in the configuration cannot lead into places it was not
// meant for (a cloud's metadata service, this machine, a neighbour's link). Pure; any thread.
#ifndef TD_REMOTE_ADDRESS_H
#define TD_REMOTE_ADDRESS_H

#include <sys/socket.h>

#include "base/mem.h"

// Bits, so that a place can allow several. From the IANA special-purpose registries (RFC 6890) and the cloud providers'
// published metadata addresses.
enum td_scope {
    TD_SCOPE_GLOBAL = 1,
    TD_SCOPE_PRIVATE = 2,    // RFC 1918, RFC 4193, shared address space RFC 6598
    TD_SCOPE_LOOPBACK = 4,   // 127.0.0.0/8, ::1
    TD_SCOPE_LINK_LOCAL = 8, // 169.254.0.0/16, fe80::/10
    TD_SCOPE_METADATA = 16,  // hands out credentials to whoever asks: never allowed
    TD_SCOPE_UNUSABLE = 32   // unspecified, multicast, broadcast, reserved: never allowed
};

// IPv4 addresses inside IPv6 (mapped, NAT64, 6to4) are judged as the IPv4 address they lead to.
enum td_scope td_address_scope(const struct sockaddr *address);
// Reads an IP literal (IPv6 with or without brackets). False: `host` is a name.
bool td_address_literal(struct td_str host, struct sockaddr_storage *out);

#endif
