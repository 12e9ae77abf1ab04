// SPDX-License-Identifier: Apache-2.0
#include "remote/unpack.h"

#include <zlib.h>

#define PIECE_BYTES (16u << 10)
#define GZIP_OR_ZLIB 32 // zlib: tell the two forms apart by their header

struct td_unpack {
    z_stream z;
    bool ended;
    char piece[PIECE_BYTES];
};

static void *take(void *opaque, uInt count, uInt n) {
    (void)opaque;
    return td_calloc(count, n);
}

static void give(void *opaque, void *p) {
    (void)opaque;
    td_free(p);
}

struct td_unpack *td_unpack_create(void) {
    struct td_unpack *u = td_calloc(1, sizeof *u);
    if (!u)
        return NULL;
    u->z.zalloc = take;
    u->z.zfree = give;
    if (inflateInit2(&u->z, GZIP_OR_ZLIB + MAX_WBITS) != Z_OK) {
        td_free(u);
        return NULL;
    }
    return u;
}

void td_unpack_destroy(struct td_unpack *u) {
    if (!u)
        return;
    inflateEnd(&u->z);
    td_free(u);
}

enum td_err td_unpack_some(struct td_unpack *u, struct td_str *in, struct td_str *out) {
    *out = TD_STR_NONE;
    if (u->ended)
        return in->n ? TD_ERR_UPSTREAM_GARBAGE : TD_OK;
    u->z.next_in = (Bytef *)(uintptr_t)(in->p ? in->p : ""); // it is not written to
    u->z.avail_in = (uInt)in->n;
    u->z.next_out = (Bytef *)u->piece;
    u->z.avail_out = PIECE_BYTES;
    int got = inflate(&u->z, Z_NO_FLUSH);
    size_t taken = in->n - u->z.avail_in;
    if (taken)
        *in = td_str_n(in->p + taken, in->n - taken);
    *out = td_str_n(u->piece, PIECE_BYTES - u->z.avail_out);
    u->ended = got == Z_STREAM_END;
    if (got == Z_MEM_ERROR)
        return TD_ERR_NOMEM;
    return got == Z_OK || got == Z_STREAM_END || (got == Z_BUF_ERROR && !in->n) ? TD_OK : TD_ERR_UPSTREAM_GARBAGE;
}

bool td_unpack_is_whole(const struct td_unpack *u) {
    return u->ended;
}
