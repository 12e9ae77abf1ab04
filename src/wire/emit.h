// SPDX-License-Identifier: Apache-2.0
// Writing JSON without building a tree: appends to a buffer and keeps the first error, so that a writer checks once at
// its end. Private to this room. One owner.
#ifndef TD_WIRE_EMIT_H
#define TD_WIRE_EMIT_H

#include "base/json.h"
#include "wire/provider.h"

struct td_emit {
    struct td_buf *out;
    enum td_err err;
    td_text_fn text; // NULL: strings go as they are
    void *text_user;
    struct td_buf scratch; // what `text` wrote; initialised by td_emit_init
};

void td_emit_init(struct td_emit *m, struct td_buf *out);
void td_emit_finish(struct td_emit *m);

static inline void td_emit_raw(struct td_emit *m, const char *p, size_t n) {
    if (m->err == TD_OK)
        m->err = td_buf_add(m->out, p, n);
}
#define td_emit_lit(m, literal) td_emit_raw(m, "" literal, sizeof(literal) - 1)
// A string as it is, quoted and escaped.
static inline void td_emit_string(struct td_emit *m, struct td_str s) {
    if (m->err == TD_OK)
        m->err = td_buf_add_json(m->out, s);
}
// A string that carries text: through the hook.
void td_emit_text(struct td_emit *m, struct td_str s);
void td_emit_u64(struct td_emit *m, uint64_t v);
void td_emit_i64(struct td_emit *m, int64_t v);
// The shortest decimal that reads back as the same double; null for what JSON cannot say.
void td_emit_double(struct td_emit *m, double v);
// The same for a float.
void td_emit_float(struct td_emit *m, float v);
// Any value; its strings (not its keys) go through the hook when there is one.
void td_emit_value(struct td_emit *m, td_json *v);
// ,"key":value
void td_emit_member(struct td_emit *m, td_json *key, td_json *v);
// "key":"value", — nothing where the value is empty.
#define td_emit_word(m, key, value) td_emit_named(m, "\"" key "\":", sizeof("\"" key "\":") - 1, value)
void td_emit_named(struct td_emit *m, const char *name, size_t n, struct td_str value);
// Takes back the comma that the last member left, and closes the object.
void td_emit_close(struct td_emit *m);
// A sum of money as dollars, exactly: 1500 → 0.0000015.
void td_emit_usd(struct td_emit *m, int64_t nusd);

#endif
