// SPDX-License-Identifier: Apache-2.0
#include "store/segment.h"

#include <endian.h>
#include <sodium.h>
#include <string.h>

#include "store/record.h"

void td_segment_init(struct td_segment_draft *d) {
    d->s = (struct td_segment){0};
    td_buf_init(&d->records, TD_SEGMENT_BYTES_MAX + TD_RECORD_BYTES_MAX + 3 * TD_VARINT_BYTES_MAX);
}

void td_segment_finish(struct td_segment_draft *d) {
    td_buf_finish(&d->records);
    d->s = (struct td_segment){0};
}

void td_segment_clear(struct td_segment_draft *d) {
    td_buf_clear(&d->records);
    d->s = (struct td_segment){0};
}

bool td_segment_has_room(const struct td_segment_draft *d, size_t n) {
    return d->records.n == 0 || d->records.n + n <= TD_SEGMENT_BYTES_MAX;
}

static int compare(struct td_str a, struct td_str b) {
    size_t n = a.n < b.n ? a.n : b.n;
    int order = n ? memcmp(a.p, b.p, n) : 0;
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static void keep(struct td_str *view, char room[TD_LEDGER_TEXT_BYTES_MAX], struct td_str text) {
    size_t n = text.n < TD_LEDGER_TEXT_BYTES_MAX ? text.n : TD_LEDGER_TEXT_BYTES_MAX;
    memcpy(room, text.p, n);
    *view = td_str_n(room, n);
}

enum td_err td_segment_add(struct td_segment_draft *d, const struct td_journal_record *r, int64_t wall_ms,
                           struct td_str exchange) {
    struct td_segment *s = &d->s;
    const bool begins = s->last == 0;
    unsigned char *at = (unsigned char *)td_buf_reserve(&d->records, r->n + 3 * TD_VARINT_BYTES_MAX), *start = at;
    if (!at)
        return TD_ERR_NOMEM;
    at = td_varint_put(at, begins ? 1 : r->number - s->last);
    at = td_varint_put(at, r->kind);
    at = td_varint_put(at, r->n);
    if (r->n)
        memcpy(at, r->p, r->n);
    td_buf_grew(&d->records, (size_t)(at - start) + r->n);
    s->records = td_buf_str(&d->records);
    if (begins)
        s->first = r->number;
    s->last = r->number;
    if (begins || wall_ms < s->from_ms)
        s->from_ms = wall_ms;
    if (begins || wall_ms > s->until_ms)
        s->until_ms = wall_ms;
    if (exchange.n && (s->from_exchange.n == 0 || compare(exchange, s->from_exchange) < 0))
        keep(&s->from_exchange, d->from_exchange, exchange);
    if (exchange.n && compare(exchange, s->until_exchange) > 0)
        keep(&s->until_exchange, d->until_exchange, exchange);
    return TD_OK;
}

void td_segment_read(struct td_segment_reader *it, const struct td_segment *s) {
    const unsigned char *p = (const unsigned char *)s->records.p;
    *it = (struct td_segment_reader){p, p + s->records.n, s->first - 1, true};
}

bool td_segment_next(struct td_segment_reader *it, struct td_journal_record *out) {
    uint64_t step, kind, n;
    if (it->at == it->end || !it->sound)
        return false;
    it->sound = td_varint_get(&it->at, it->end, &step) && td_varint_get(&it->at, it->end, &kind) &&
                td_varint_get(&it->at, it->end, &n) && n <= (uint64_t)(it->end - it->at) && step > 0 &&
                kind <= UINT32_MAX;
    if (!it->sound)
        return false;
    it->number += step;
    *out = (struct td_journal_record){it->number, (uint32_t)kind, it->at, (size_t)n};
    it->at += n;
    return true;
}

static unsigned char *put_number(unsigned char *at, uint64_t v) {
    v = htole64(v);
    memcpy(at, &v, 8);
    return at + 8;
}

static unsigned char *put_text(unsigned char *at, struct td_str text) {
    size_t n = text.n < TD_LEDGER_TEXT_BYTES_MAX ? text.n : TD_LEDGER_TEXT_BYTES_MAX;
    at = put_number(at, text.n);
    if (n)
        memcpy(at, text.p, n);
    return at + n;
}

void td_segment_link(const unsigned char key[32], const struct td_segment *s, unsigned char head[32]) {
    static const char mark[8] = "segment"; // other uses of the key begin otherwise
    unsigned char facts[sizeof mark + 32 + 5 * 8 + 2 * (8 + TD_LEDGER_TEXT_BYTES_MAX)], *at = facts;
    crypto_generichash_state state;
    memcpy(at, mark, sizeof mark);
    memcpy(at + sizeof mark, head, 32);
    at = put_number(at + sizeof mark + 32, s->first);
    at = put_number(at, s->last);
    at = put_number(at, (uint64_t)s->from_ms);
    at = put_number(at, (uint64_t)s->until_ms);
    at = put_number(at, s->records.n);
    at = put_text(at, s->from_exchange);
    at = put_text(at, s->until_exchange);
    crypto_generichash_init(&state, key, 32, 32);
    crypto_generichash_update(&state, facts, (size_t)(at - facts));
    crypto_generichash_update(&state, (const unsigned char *)s->records.p, s->records.n);
    crypto_generichash_final(&state, head, 32);
}
