// SPDX-License-Identifier: Apache-2.0
// Replies of upstreams: the first byte says where the input is cut, the rest is what a server sends. Whatever the cuts,
// the same must be read, and what is accepted must have no second reading.
#include "fuzz.h"

#include <string.h>

#include "remote/http_reply.h"

enum { KEPT_MAX = 1 << 17 };

struct outcome {
    enum td_reply_step last; // END, BAD or MORE
    int status;
    unsigned fields;
    size_t taken;
    bool chunked, keeps, ends_here;
    size_t body_n, text_n;
    char body[KEPT_MAX], text[KEPT_MAX]; // text: names and values
};

static void add_text(struct outcome *o, struct td_str s) {
    fuzz_check(o->text_n + s.n < sizeof o->text);
    memcpy(o->text + o->text_n, s.p, s.n);
    o->text_n += s.n;
}

static void check_field(const struct td_reply_piece *piece) {
    fuzz_check(piece->name.n > 0 && piece->name.p[piece->name.n] == ':');
    for (size_t i = 0; i < piece->name.n; i++)
        fuzz_check((unsigned char)piece->name.p[i] > 0x20 && (unsigned char)piece->name.p[i] < 0x7f);
    for (size_t i = 0; i < piece->value.n; i++)
        fuzz_check((unsigned char)piece->value.p[i] >= 0x20 || piece->value.p[i] == '\t');
    fuzz_check(!td_str_ieq(piece->name, TD_STR("content-length")));
    fuzz_check(!td_str_ieq(piece->name, TD_STR("transfer-encoding")));
}

// Reads `n` bytes that arrive `step` at a time, each time in memory of exactly their size.
static void read_cut(const char *p, size_t n, size_t step, struct outcome *o) {
    struct td_reply r;
    struct td_reply_piece piece;
    size_t from = 0, have = 0;
    td_reply_init(&r);
    o->last = TD_REPLY_MORE;
    o->status = 0;
    o->fields = 0;
    o->body_n = o->text_n = 0;
    while (o->last == TD_REPLY_MORE && have < n) {
        have = n - have < step ? n : have + step;
        char *exact = malloc(have - from);
        memcpy(exact, p + from, have - from);
        size_t at = 0, used;
        do {
            o->last = td_reply_read(&r, exact + at, have - from - at, &used, &piece);
            at += used;
            fuzz_check(at <= have - from);
            if (o->last == TD_REPLY_STATUS) {
                o->status = r.status;
                fuzz_check(o->fields == 0 && o->body_n == 0 && r.status >= 200 && r.status <= 599);
            } else if (o->last == TD_REPLY_FIELD) {
                o->fields++;
                fuzz_check(o->status && o->body_n == 0);
                check_field(&piece);
                add_text(o, piece.name);
                add_text(o, piece.value);
            } else if (o->last == TD_REPLY_DATA) {
                fuzz_check(o->status && piece.value.n && o->body_n + piece.value.n <= sizeof o->body);
                memcpy(o->body + o->body_n, piece.value.p, piece.value.n);
                o->body_n += piece.value.n;
            }
        } while (o->last == TD_REPLY_STATUS || o->last == TD_REPLY_FIELD || o->last == TD_REPLY_DATA);
        from += at;
        fuzz_check(o->last != TD_REPLY_MORE || have - from <= TD_REPLY_HEADER_BYTES_MAX);
        free(exact);
    }
    o->taken = from;
    o->chunked = r.chunked;
    o->keeps = td_reply_keeps(&r);
    o->ends_here = td_reply_ends_here(&r);
    fuzz_check(o->last != TD_REPLY_BAD || (r.why && *r.why));
}

// Of one that is whole: the head is lines that end in CR LF, none folded, and nothing was lost or made up.
static void check_whole(const char *p, const struct outcome *o) {
    const char *end = memmem(p, o->taken, "\r\n\r\n", 4);
    fuzz_check(end && memcmp(p, "HTTP/1.", 7) == 0);
    for (const char *c = p; c < end + 4; c++) {
        fuzz_check(*c != 0 && (*c != '\n' || (c > p && c[-1] == '\r')) && (*c != '\r' || c[1] == '\n'));
        fuzz_check(*c != '\n' || c == end + 3 || (c[1] != ' ' && c[1] != '\t'));
    }
    fuzz_check(o->body_n <= o->taken - 4);
    if (!o->chunked && o->body_n)
        fuzz_check(memcmp(p + o->taken - o->body_n, o->body, o->body_n) == 0);
    if (o->status == 204 || o->status == 304)
        fuzz_check(o->body_n == 0);
    if (o->chunked && o->status != 204 && o->status != 304)
        fuzz_check(memcmp(p + o->taken - 2, "\r\n", 2) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct outcome whole, cut;
    if (size < 2 || size > KEPT_MAX / 2)
        return 0;
    const char *p = (const char *)data + 1;
    size_t n = size - 1, step = data[0] ? data[0] : 1;
    if (n / step > 4000) // every cut inside a line reads it once more
        step = n / 4000 + 1;
    read_cut(p, n, n, &whole);
    read_cut(p, n, step, &cut);
    fuzz_check(whole.last == cut.last && whole.status == cut.status && whole.fields == cut.fields);
    fuzz_check(whole.body_n == cut.body_n && memcmp(whole.body, cut.body, whole.body_n) == 0);
    fuzz_check(whole.text_n == cut.text_n && memcmp(whole.text, cut.text, whole.text_n) == 0);
    if (whole.last != TD_REPLY_BAD)
        fuzz_check(whole.taken == cut.taken && whole.ends_here == cut.ends_here && whole.keeps == cut.keeps);
    if (whole.last == TD_REPLY_END)
        check_whole(p, &whole);
    return 0;
}
