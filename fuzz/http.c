// SPDX-License-Identifier: Apache-2.0
// HTTP framing: the first byte says where the input is cut, the rest is what a client sends. Whatever the cuts, the
// same requests must come out, and what is accepted must have no second reading.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/http_parse.h"

enum { BODY_MAX = 4096 };

struct outcome {
    int status; // of the head; 1 whole, 0 unfinished
    size_t head_n;
    struct td_http_head head;
    int chunks;
    size_t body_n, raw_n;
    char body[BODY_MAX];
};

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            abort();                                                                                                   \
    } while (0)

// Reads `n` bytes that arrive `step` at a time, each time in memory of exactly their size.
static void read_cut(const char *p, size_t n, size_t step, struct outcome *o) {
    const char *why = NULL;
    td_http_head_init(&o->head);
    o->status = 0;
    for (size_t have = 0; o->status == 0 && have < n;) {
        have = n - have < step ? n : have + step;
        char *exact = malloc(have);
        memcpy(exact, p, have);
        o->status = td_http_head_read(&o->head, exact, have, &why);
        free(exact);
    }
    MUST(o->status == 0 || o->status == 1 || (o->status >= 400 && o->status < 600 && why && *why));
    o->head_n = td_http_head_bytes(&o->head);
    o->chunks = -1;
    if (o->status != 1 || !o->head.chunked)
        return;
    struct td_http_chunks c;
    td_http_chunks_init(&c);
    o->body_n = o->raw_n = 0;
    o->chunks = TD_HTTP_CHUNKS_MORE;
    const char *raw = p + o->head_n;
    size_t left = n - o->head_n;
    while (o->chunks == TD_HTTP_CHUNKS_MORE && o->raw_n < left) {
        size_t take = left - o->raw_n < step ? left - o->raw_n : step, used, made;
        o->chunks =
            td_http_chunks_read(&c, raw + o->raw_n, take, o->body + o->body_n, o->body_n, BODY_MAX, &used, &made);
        MUST(used <= take && made <= used);
        MUST(used == take || o->chunks != TD_HTTP_CHUNKS_MORE);
        o->raw_n += used;
        o->body_n += made;
        MUST(o->body_n <= BODY_MAX);
    }
}

static void check_accepted(const char *p, const struct outcome *o) {
    const struct td_http_head *head = &o->head;
    unsigned lines = 0;
    MUST(o->head_n >= 4 && memcmp(p + o->head_n - 4, "\r\n\r\n", 4) == 0);
    for (size_t i = 0; i < o->head_n; i++) {
        MUST(p[i] != '\0');
        MUST(p[i] != '\n' || (i > 0 && p[i - 1] == '\r'));
        MUST(p[i] != '\r' || (i + 1 < o->head_n && p[i + 1] == '\n'));
        lines += p[i] == '\n';
        // No line is folded.
        MUST(i == 0 || p[i - 1] != '\n' || (p[i] != ' ' && p[i] != '\t'));
    }
    MUST(lines == head->field_count + 2 + (head->blank_skip ? 1 : 0));
    MUST(head->field_count <= TD_HEADER_FIELDS_MAX);
    MUST(head->host >= 0 && !(head->chunked && head->has_length));
    unsigned hosts = 0, lengths = 0, codings = 0;
    for (unsigned i = 0; i < head->field_count; i++) {
        struct td_str name = td_http_view(p, head->fields[i].name), value = td_http_view(p, head->fields[i].value);
        MUST(name.n > 0 && p[head->fields[i].name.at + name.n] == ':');
        MUST(value.n == 0 || (value.p[0] != ' ' && value.p[value.n - 1] != ' '));
        hosts += td_str_ieq(name, TD_STR("host"));
        lengths += td_str_ieq(name, TD_STR("content-length"));
        codings += td_str_ieq(name, TD_STR("transfer-encoding"));
    }
    MUST(hosts == 1 && lengths + codings <= 1);
    MUST(lengths == head->has_length && codings == head->chunked);
    struct td_str target = td_http_view(p, head->target);
    MUST(target.n > 0 && (target.p[0] == '/' || (target.n == 1 && target.p[0] == '*')));
    MUST(!memchr(target.p, ' ', target.n) && !memchr(target.p, '#', target.n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct outcome whole, cut;
    if (size < 2 || size > 70000)
        return 0;
    const char *p = (const char *)data + 1;
    size_t n = size - 1, step = data[0] ? data[0] : 1;
    if (n / step > 4000) // every cut reads what came so far once more
        step = n / 4000 + 1;
    read_cut(p, n, n, &whole);
    read_cut(p, n, step, &cut);
    // Of several reasons to refuse, the one that is seen first may be another.
    MUST((whole.status == cut.status) || (whole.status >= 400 && cut.status >= 400));
    if (whole.status == 1) {
        MUST(whole.head_n == cut.head_n && whole.head.field_count == cut.head.field_count);
        check_accepted(p, &whole);
        MUST(whole.chunks == cut.chunks);
        if (whole.chunks == TD_HTTP_CHUNKS_DONE) {
            MUST(whole.body_n == cut.body_n && whole.raw_n == cut.raw_n);
            MUST(memcmp(whole.body, cut.body, whole.body_n) == 0);
        }
    }
    return 0;
}
