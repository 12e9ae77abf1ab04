// SPDX-License-Identifier: Apache-2.0
#include "remote/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static const struct {
    uint32_t net;
    unsigned bits;
    enum td_scope scope;
} table4[] = {
    // most specific first
    {0xa9fea9fe, 32, TD_SCOPE_METADATA},   // 169.254.169.254: most clouds
    {0xa9feaa02, 32, TD_SCOPE_METADATA},   // 169.254.170.2: container credentials
    {0xa9feaa17, 32, TD_SCOPE_METADATA},   // 169.254.170.23: pod credentials
    {0x646464c8, 32, TD_SCOPE_METADATA},   // 100.100.100.200
    {0xa83f8110, 32, TD_SCOPE_METADATA},   // 168.63.129.16
    {0xffffffff, 32, TD_SCOPE_UNUSABLE},   // broadcast
    {0xc0000000, 24, TD_SCOPE_UNUSABLE},   // protocol assignments
    {0x0a000000, 8, TD_SCOPE_PRIVATE},     // 10/8
    {0xac100000, 12, TD_SCOPE_PRIVATE},    // 172.16/12
    {0xc0a80000, 16, TD_SCOPE_PRIVATE},    // 192.168/16
    {0x64400000, 10, TD_SCOPE_PRIVATE},    // 100.64/10
    {0xc6120000, 15, TD_SCOPE_PRIVATE},    // 198.18/15, benchmarking
    {0xa9fe0000, 16, TD_SCOPE_LINK_LOCAL}, // 169.254/16
    {0x7f000000, 8, TD_SCOPE_LOOPBACK},    // 127/8
    {0x00000000, 8, TD_SCOPE_UNUSABLE},    // "this network"
    {0xe0000000, 3, TD_SCOPE_UNUSABLE},    // multicast and reserved
};

static enum td_scope scope4(uint32_t ip) {
    for (size_t i = 0; i < sizeof table4 / sizeof *table4; i++)
        if ((ip ^ table4[i].net) >> (32 - table4[i].bits) == 0)
            return table4[i].scope;
    return TD_SCOPE_GLOBAL;
}

static uint32_t be32(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static enum td_scope scope6(const unsigned char a[16]) {
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    static const unsigned char nat64[12] = {0, 0x64, 0xff, 0x9b};
    static const unsigned char zero[15] = {0};
    static const unsigned char metadata[16] = {0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54};
    if (memcmp(a, zero, 15) == 0)
        return a[15] == 1 ? TD_SCOPE_LOOPBACK : TD_SCOPE_UNUSABLE;
    if (memcmp(a, mapped, 12) == 0 || memcmp(a, nat64, 12) == 0 || memcmp(a, zero, 12) == 0)
        return scope4(be32(a + 12));
    if (a[0] == 0x20 && a[1] == 0x02) // 6to4
        return scope4(be32(a + 2));
    if (memcmp(a, metadata, 16) == 0)
        return TD_SCOPE_METADATA;
    if (a[0] == 0xfe && (a[1] & 0xc0) == 0x80)
        return TD_SCOPE_LINK_LOCAL;
    if ((a[0] & 0xfe) == 0xfc || (a[0] == 0xfe && (a[1] & 0xc0) == 0xc0)) // unique local, old site-local
        return TD_SCOPE_PRIVATE;
    if (a[0] == 0xff || (a[0] & 0xe0) != 0x20) // multicast; only 2000::/3 is handed out
        return TD_SCOPE_UNUSABLE;
    return TD_SCOPE_GLOBAL;
}

enum td_scope td_address_scope(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return scope4(ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr));
    if (address->sa_family == AF_INET6)
        return scope6(((const struct sockaddr_in6 *)(const void *)address)->sin6_addr.s6_addr);
    return TD_SCOPE_UNUSABLE;
}

bool td_address_literal(struct td_str host, struct sockaddr_storage *out) {
    char text[64];
    struct sockaddr_in *in = (struct sockaddr_in *)(void *)out;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)out;
    if (host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']')
        host = td_str_n(host.p + 1, host.n - 2);
    if (host.n == 0 || host.n >= sizeof text)
        return false;
    memcpy(text, host.p, host.n);
    text[host.n] = 0;
    char *zone = strchr(text, '%');
    if (zone)
        *zone = 0;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, text, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        return true;
    }
    if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        return true;
    }
    return false;
}
