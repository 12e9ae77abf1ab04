// SPDX-License-Identifier: Apache-2.0
#include "store/record.h"

#include <endian.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "store/ledger.h"

static const void *member(const void *record, const struct td_field *f) {
    return (const char *)record + f->offset;
}

static struct td_str text_of(const void *record, const struct td_field *f) {
    struct td_str s = *(const struct td_str *)member(record, f);
    if (f->type == TD_FIELD_BLOB)
        return s.n > TD_LEDGER_DECISION_BYTES_MAX ? TD_STR_NONE : s;
    if (s.n > TD_LEDGER_TEXT_BYTES_MAX)
        s.n = td_str_utf8_whole(td_str_n(s.p, TD_LEDGER_TEXT_BYTES_MAX));
    return s;
}

static int64_t number_of(const void *record, const struct td_field *f) {
    const void *m = member(record, f);
    switch (f->type) {
    case TD_FIELD_U32:
        return *(const uint32_t *)m;
    case TD_FIELD_INT:
    case TD_FIELD_WORD:
        return *(const int *)m;
    case TD_FIELD_BOOL:
        return *(const bool *)m;
    default:
        return *(const int64_t *)m;
    }
}

static const char *word_of(const void *record, const struct td_field *f) {
    int value = *(const int *)member(record, f);
    const char *word = value >= 0 && value < f->word_count ? f->word(value) : NULL;
    return word ? word : "";
}

static bool mac_is_set(const unsigned char *mac) {
    unsigned char any = 0;
    for (int i = 0; i < 32; i++)
        any |= mac[i];
    return any != 0;
}

unsigned char *td_varint_put(unsigned char *at, uint64_t v) {
    while (v >= 0x80) {
        *at++ = (unsigned char)(v | 0x80);
        v >>= 7;
    }
    *at++ = (unsigned char)v;
    return at;
}

bool td_varint_get(const unsigned char **at, const unsigned char *end, uint64_t *out) {
    const unsigned char *p = *at;
    uint64_t v = 0;
    for (unsigned shift = 0; p < end && shift < 64; shift += 7) {
        v |= (uint64_t)(*p & 0x7f) << shift;
        if (*p++ & 0x80)
            continue;
        if (shift == 63 && p[-1] > 1)
            return false;
        *at = p;
        *out = v;
        return true;
    }
    return false;
}

// Most are one byte.
static inline bool get_varint(const unsigned char **at, const unsigned char *end, uint64_t *out) {
    if (*at == end || **at >= 0x80)
        return td_varint_get(at, end, out);
    *out = *(*at)++;
    return true;
}

static unsigned char *put_bytes(unsigned char *at, bool fixed, const void *p, size_t n) {
    if (fixed) {
        *at++ = (unsigned char)n;
        *at++ = (unsigned char)(n >> 8);
    } else {
        at = td_varint_put(at, n);
    }
    if (n)
        memcpy(at, p, n);
    return at + n;
}

static unsigned char *put_fixed(unsigned char *at, uint64_t v) {
    v = htole64(v);
    memcpy(at, &v, 8);
    return at + 8;
}

static bool is_signed(enum td_field_type type) {
    return type == TD_FIELD_I64 || type == TD_FIELD_INT;
}

static unsigned char *put_number(unsigned char *at, bool fixed, enum td_field_type type, int64_t v) {
    uint64_t u = (uint64_t)v;
    if (fixed)
        return put_fixed(at, u);
    return td_varint_put(at, is_signed(type) ? u << 1 ^ (v < 0 ? UINT64_MAX : 0) : u);
}

static unsigned char *put_float(unsigned char *at, bool fixed, float v) {
    uint32_t bits = 0x7fc00000; // every NaN is the same one
    if (!isnan(v))
        memcpy(&bits, &v, 4);
    if (fixed)
        return put_fixed(at, bits);
    *at++ = !isnan(v);
    if (!at[-1])
        return at;
    bits = htole32(bits);
    memcpy(at, &bits, 4);
    return at + 4;
}

size_t td_record_pack_as(const struct td_shape *shape, unsigned char version, const void *record, unsigned char *out) {
    unsigned char *at = out;
    const bool fixed = version < 2;
    *at++ = version;
    for (unsigned i = 0; i < shape->count; i++) {
        const struct td_field *f = &shape->fields[i];
        if (f->since > version)
            continue;
        switch (f->type) {
        case TD_FIELD_TEXT:
        case TD_FIELD_BLOB: {
            struct td_str s = text_of(record, f);
            at = put_bytes(at, fixed, s.p, s.n);
            break;
        }
        case TD_FIELD_WORD: {
            const char *word = word_of(record, f);
            at = put_bytes(at, fixed, word, strnlen(word, 40));
            break;
        }
        case TD_FIELD_F32:
            at = put_float(at, fixed, *(const float *)member(record, f));
            break;
        case TD_FIELD_MAC: {
            const unsigned char *mac = member(record, f);
            *at++ = mac_is_set(mac);
            if (at[-1]) {
                memcpy(at, mac, 32);
                at += 32;
            }
            break;
        }
        default:
            at = put_number(at, fixed, f->type, number_of(record, f));
        }
    }
    return (size_t)(at - out);
}

size_t td_record_pack(const struct td_shape *shape, const void *record, unsigned char *out) {
    return td_record_pack_as(shape, shape->version, record, out);
}

static void set_number(void *record, const struct td_field *f, int64_t v) {
    void *m = (char *)record + f->offset;
    switch (f->type) {
    case TD_FIELD_U32:
        *(uint32_t *)m = (uint32_t)v;
        break;
    case TD_FIELD_INT:
    case TD_FIELD_WORD:
        *(int *)m = (int)v;
        break;
    case TD_FIELD_BOOL:
        *(bool *)m = v != 0;
        break;
    default:
        *(int64_t *)m = v;
    }
}

int td_field_word_value(const struct td_field *f, struct td_str word) {
    for (int v = 0; v < f->word_count; v++) {
        const char *z = f->word(v);
        if (z && td_str_is(word, z))
            return v;
    }
    return 0;
}

// Length-prefixed bytes at the iterator; false when they run over the end.
static bool get_bytes(struct td_packed *it, struct td_str *out) {
    const unsigned char *at = it->at;
    uint64_t n;
    if (it->version >= 2) {
        if (!get_varint(&at, it->end, &n))
            return false;
    } else {
        if (it->end - at < 2)
            return false;
        n = (uint64_t)at[0] | (uint64_t)at[1] << 8;
        at += 2;
    }
    if ((uint64_t)(it->end - at) < n)
        return false;
    *out = td_str_n((const char *)at, (size_t)n);
    it->at = at + n;
    return true;
}

static bool get_fixed(struct td_packed *it, uint64_t *out) {
    if (it->end - it->at < 8)
        return false;
    memcpy(out, it->at, 8);
    *out = le64toh(*out);
    it->at += 8;
    return true;
}

static bool get_number(struct td_packed *it, enum td_field_type type, int64_t *out) {
    uint64_t v;
    if (!(it->version >= 2 ? get_varint(&it->at, it->end, &v) : get_fixed(it, &v)))
        return false;
    if (it->version >= 2 && is_signed(type))
        v = v >> 1 ^ (v & 1 ? UINT64_MAX : 0);
    *out = (int64_t)v;
    return true;
}

static bool get_float(struct td_packed *it, float *out) {
    uint64_t v;
    uint32_t bits = 0x7fc00000;
    if (it->version < 2) {
        if (!get_fixed(it, &v))
            return false;
        bits = (uint32_t)v;
    } else {
        if (it->end - it->at < 1 || (*it->at && it->end - it->at < 5))
            return false;
        if (*it->at++) {
            memcpy(&bits, it->at, 4);
            bits = le32toh(bits);
            it->at += 4;
        }
    }
    memcpy(out, &bits, 4);
    return true;
}

bool td_packed_start(struct td_packed *it, const struct td_shape *shape, const unsigned char *p, size_t n) {
    if (n < 1 || *p < 1 || *p > shape->version)
        return false;
    *it = (struct td_packed){p + 1, p + n, *p};
    return true;
}

bool td_packed_next(struct td_packed *it, const struct td_field *f, struct td_packed_value *out) {
    out->absent = f->since > it->version;
    if (out->absent)
        return true;
    switch (f->type) {
    case TD_FIELD_TEXT:
    case TD_FIELD_BLOB:
    case TD_FIELD_WORD:
        if (!get_bytes(it, &out->text))
            return false;
        out->absent = f->type == TD_FIELD_BLOB && out->text.n == 0;
        return true;
    case TD_FIELD_MAC:
        if (it->end - it->at < 1 || (*it->at && it->end - it->at < 33))
            return false;
        out->absent = *it->at++ == 0;
        if (!out->absent) {
            out->text = td_str_n((const char *)it->at, 32);
            it->at += 32;
        }
        return true;
    case TD_FIELD_F32:
        if (!get_float(it, &out->real))
            return false;
        out->absent = isnan(out->real);
        return true;
    default:
        return get_number(it, f->type, &out->number);
    }
}

void td_record_set(void *record, const struct td_field *f, const struct td_packed_value *v) {
    void *m = (char *)record + f->offset;
    if (f->type == TD_FIELD_F32)
        *(float *)m = v->absent ? NAN : v->real;
    else if (v->absent)
        return;
    else if (f->type == TD_FIELD_TEXT || f->type == TD_FIELD_BLOB)
        *(struct td_str *)m = v->text;
    else if (f->type == TD_FIELD_WORD)
        *(int *)m = td_field_word_value(f, v->text);
    else if (f->type == TD_FIELD_MAC)
        memcpy(m, v->text.p, 32);
    else
        set_number(record, f, v->number);
}

// Steps over a field without looking at it.
static inline bool skip_field(struct td_packed *it, const struct td_field *f) {
    const unsigned char *at = it->at, *end = it->end;
    struct td_packed_value unused;
    uint64_t n;
    if (it->version < 2 || f->since > 2)
        return td_packed_next(it, f, &unused);
    switch (f->type) {
    case TD_FIELD_TEXT:
    case TD_FIELD_BLOB:
    case TD_FIELD_WORD:
        if (!get_varint(&at, end, &n))
            return false;
        break;
    case TD_FIELD_MAC:
        n = at < end && *at ? 33 : 1;
        break;
    case TD_FIELD_F32:
        n = at < end && *at ? 5 : 1;
        break;
    default:
        while (at < end && *at & 0x80)
            at++;
        n = 1;
    }
    if ((uint64_t)(end - at) < n)
        return false;
    it->at = at + n;
    return true;
}

bool td_record_unpack(const struct td_shape *shape, const unsigned char *p, size_t n, bool summed, void *record) {
    struct td_packed it;
    struct td_packed_value v;
    memset(record, 0, shape->size);
    if (!td_packed_start(&it, shape, p, n))
        return false;
    for (const struct td_field *f = shape->fields, *end = f + shape->count; f < end; f++) {
        if (summed && !f->summed) {
            if (!skip_field(&it, f))
                return false;
            continue;
        }
        if (!td_packed_next(&it, f, &v))
            return false;
        td_record_set(record, f, &v);
    }
    return it.at == it.end;
}

static enum td_err json_value(const struct td_field *f, const void *record, struct td_buf *out) {
    switch (f->type) {
    case TD_FIELD_TEXT:
        return td_buf_add_json(out, text_of(record, f));
    case TD_FIELD_BLOB: {
        struct td_str s = text_of(record, f); // JSON already
        return s.n ? td_buf_add_str(out, s) : td_buf_addz(out, "null");
    }
    case TD_FIELD_WORD:
        return td_buf_add_json(out, td_str_of(word_of(record, f)));
    case TD_FIELD_F32: {
        float v = *(const float *)member(record, f);
        return isfinite(v) ? td_buf_printf(out, "%.6g", (double)v) : td_buf_addz(out, "null");
    }
    case TD_FIELD_MAC: {
        const unsigned char *mac = member(record, f);
        if (!mac_is_set(mac))
            return td_buf_addz(out, "null");
        enum td_err err = td_buf_addc(out, '"');
        for (int i = 0; err == TD_OK && i < 32; i++)
            err = td_buf_printf(out, "%02x", mac[i]);
        return err != TD_OK ? err : td_buf_addc(out, '"');
    }
    case TD_FIELD_BOOL:
        return td_buf_addz(out, number_of(record, f) ? "true" : "false");
    default:
        return td_buf_printf(out, "%" PRId64, number_of(record, f));
    }
}

enum td_err td_record_json(const struct td_shape *shape, const void *record, bool with_blobs, struct td_buf *out) {
    enum td_err err = TD_OK;
    bool first = true;
    for (unsigned i = 0; err == TD_OK && i < shape->count; i++) {
        const struct td_field *f = &shape->fields[i];
        if (f->type == TD_FIELD_BLOB && !with_blobs)
            continue;
        err = td_buf_printf(out, "%s\"%s\":", first ? "" : ",", f->name);
        if (err == TD_OK)
            err = json_value(f, record, out);
        first = false;
    }
    return err;
}
