// SPDX-License-Identifier: Apache-2.0
#include "local/protocol.h"

static void store_u32(unsigned char *p, uint32_t v) {
    p[0] = (unsigned char)v, p[1] = (unsigned char)(v >> 8), p[2] = (unsigned char)(v >> 16);
    p[3] = (unsigned char)(v >> 24);
}

static uint32_t load_u32(const char *z) {
    const unsigned char *p = (const unsigned char *)z;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

enum td_err td_proto_next(struct td_str bytes, uint32_t body_max, struct td_frame *out, size_t *used) {
    *used = 0;
    if (bytes.n < TD_PROTO_HEADER_BYTES)
        return TD_OK;
    uint32_t length = load_u32(bytes.p);
    unsigned char type = (unsigned char)bytes.p[4];
    if (length > body_max || type == 0 || type >= TD_FRAME_COUNT || bytes.p[5] || bytes.p[6] || bytes.p[7])
        return TD_ERR_UPSTREAM_GARBAGE;
    if (bytes.n - TD_PROTO_HEADER_BYTES < length)
        return TD_OK;
    *out = (struct td_frame){(enum td_frame_type)type, load_u32(bytes.p + 8),
                             td_str_n(bytes.p + TD_PROTO_HEADER_BYTES, length)};
    *used = TD_PROTO_HEADER_BYTES + (size_t)length;
    return TD_OK;
}

void td_proto_bytes(struct td_proto_writer *w, const void *p, size_t n) {
    if (w->err == TD_OK)
        w->err = td_buf_add(w->out, p, n);
}

void td_proto_begin(struct td_proto_writer *w, struct td_buf *out, enum td_frame_type type, uint32_t id) {
    unsigned char head[TD_PROTO_HEADER_BYTES] = {[4] = (unsigned char)type};
    store_u32(head + 8, id);
    *w = (struct td_proto_writer){out, out->n, TD_OK};
    td_proto_bytes(w, head, sizeof head);
}

void td_proto_u32(struct td_proto_writer *w, uint32_t v) {
    unsigned char b[4];
    store_u32(b, v);
    td_proto_bytes(w, b, sizeof b);
}

void td_proto_u64(struct td_proto_writer *w, uint64_t v) {
    td_proto_u32(w, (uint32_t)v);
    td_proto_u32(w, (uint32_t)(v >> 32));
}

void td_proto_f32(struct td_proto_writer *w, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    td_proto_u32(w, bits);
}

void td_proto_str(struct td_proto_writer *w, struct td_str s) {
    if (s.n > TD_HOST_FRAME_BYTES_MAX) {
        w->err = w->err ? w->err : TD_ERR_LIMIT;
        return;
    }
    td_proto_u32(w, (uint32_t)s.n);
    td_proto_bytes(w, s.p, s.n);
}

enum td_err td_proto_end(struct td_proto_writer *w) {
    size_t length = w->out->n - w->start - (w->err ? 0 : TD_PROTO_HEADER_BYTES);
    if (w->err == TD_OK && length > TD_HOST_FRAME_BYTES_MAX)
        w->err = TD_ERR_LIMIT;
    if (w->err)
        w->out->n = w->start;
    else
        store_u32((unsigned char *)w->out->p + w->start, (uint32_t)length);
    return w->err;
}

void td_proto_read(struct td_proto_reader *r, struct td_str body) {
    *r = (struct td_proto_reader){body.p, body.p + body.n, false};
}

struct td_str td_proto_get_bytes(struct td_proto_reader *r, size_t n) {
    if (r->bad || (size_t)(r->end - r->p) < n) {
        r->bad = true;
        return TD_STR_NONE;
    }
    struct td_str s = td_str_n(r->p, n);
    r->p += n;
    return s;
}

uint32_t td_proto_get_u32(struct td_proto_reader *r) {
    struct td_str s = td_proto_get_bytes(r, 4);
    return s.p ? load_u32(s.p) : 0;
}

uint64_t td_proto_get_u64(struct td_proto_reader *r) {
    uint64_t low = td_proto_get_u32(r);
    return low | (uint64_t)td_proto_get_u32(r) << 32;
}

float td_proto_get_f32(struct td_proto_reader *r) {
    uint32_t bits = td_proto_get_u32(r);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

struct td_str td_proto_get_str(struct td_proto_reader *r) {
    uint32_t n = td_proto_get_u32(r);
    return td_proto_get_bytes(r, n);
}

enum td_err td_proto_put_setup(struct td_buf *out, const struct td_proto_setup *s) {
    struct td_proto_writer w;
    td_proto_begin(&w, out, TD_FRAME_SETUP, 0);
    td_proto_u32(&w, s->version);
    td_proto_u32(&w, s->context);
    td_proto_u32(&w, s->parallel);
    td_proto_u32(&w, s->threads);
    td_proto_u32(&w, s->gpu_layers);
    td_proto_u64(&w, s->memory_bytes_max);
    td_proto_u32(&w, s->prepares);
    td_proto_str(&w, s->name);
    return td_proto_end(&w);
}

bool td_proto_get_setup(struct td_str body, struct td_proto_setup *s) {
    struct td_proto_reader r;
    td_proto_read(&r, body);
    s->version = td_proto_get_u32(&r);
    s->context = td_proto_get_u32(&r);
    s->parallel = td_proto_get_u32(&r);
    s->threads = td_proto_get_u32(&r);
    s->gpu_layers = td_proto_get_u32(&r);
    s->memory_bytes_max = td_proto_get_u64(&r);
    uint32_t prepares = td_proto_get_u32(&r);
    s->prepares = prepares == 1;
    s->name = td_proto_get_str(&r);
    return td_proto_ok(&r) && prepares <= 1;
}

enum td_err td_proto_put_ready(struct td_buf *out, const struct td_proto_ready *s) {
    struct td_proto_writer w;
    td_proto_begin(&w, out, TD_FRAME_READY, 0);
    td_proto_u32(&w, s->version);
    td_proto_u32(&w, s->context);
    td_proto_u32(&w, s->parallel);
    td_proto_u32(&w, s->threads);
    td_proto_u32(&w, s->capabilities);
    td_proto_u32(&w, s->embedding_size);
    td_proto_u32(&w, s->load_ms);
    td_proto_u64(&w, s->params);
    td_proto_u64(&w, s->weights_bytes);
    td_proto_u32(&w, s->sandbox);
    return td_proto_end(&w);
}

bool td_proto_get_ready(struct td_str body, struct td_proto_ready *s) {
    struct td_proto_reader r;
    td_proto_read(&r, body);
    s->version = td_proto_get_u32(&r);
    s->context = td_proto_get_u32(&r);
    s->parallel = td_proto_get_u32(&r);
    s->threads = td_proto_get_u32(&r);
    s->capabilities = td_proto_get_u32(&r);
    s->embedding_size = td_proto_get_u32(&r);
    s->load_ms = td_proto_get_u32(&r);
    s->params = td_proto_get_u64(&r);
    s->weights_bytes = td_proto_get_u64(&r);
    s->sandbox = td_proto_get_u32(&r);
    return td_proto_ok(&r);
}

enum td_err td_proto_put_request(struct td_buf *out, uint32_t id, const struct td_proto_request *s) {
    struct td_proto_writer w;
    td_proto_begin(&w, out, TD_FRAME_REQUEST, id);
    td_proto_u32(&w, s->kind);
    td_proto_u32(&w, s->flags);
    td_proto_u32(&w, s->priority);
    td_proto_u32(&w, s->credits);
    td_proto_str(&w, s->body);
    return td_proto_end(&w);
}

bool td_proto_get_request(struct td_str body, struct td_proto_request *s) {
    struct td_proto_reader r;
    td_proto_read(&r, body);
    s->kind = td_proto_get_u32(&r);
    s->flags = td_proto_get_u32(&r);
    s->priority = td_proto_get_u32(&r);
    s->credits = td_proto_get_u32(&r);
    s->body = td_proto_get_str(&r);
    return td_proto_ok(&r);
}

enum td_err td_proto_put_error(struct td_buf *out, enum td_frame_type type, uint32_t id, enum td_err code,
                               struct td_str message) {
    struct td_proto_writer w;
    td_proto_begin(&w, out, type, id);
    td_proto_u32(&w, code);
    td_proto_str(&w, message);
    return td_proto_end(&w);
}

bool td_proto_get_error(struct td_str body, enum td_err *code, struct td_str *message) {
    struct td_proto_reader r;
    td_proto_read(&r, body);
    uint32_t n = td_proto_get_u32(&r);
    *message = td_proto_get_str(&r);
    // A guest may be hostile: a code outside the list is an internal error, never an array index.
    *code = n > TD_OK && n < TD_ERR_COUNT ? (enum td_err)n : TD_ERR_INTERNAL;
    if (*code == TD_ERR_NOMEM)
        *code = TD_ERR_HOST_MEMORY; // its own want of memory is not the house's
    return td_proto_ok(&r);
}
