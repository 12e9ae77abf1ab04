// SPDX-License-Identifier: Apache-2.0
#include "wire/emit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/format.h"
#include "base/limits.h"

void td_emit_init(struct td_emit *m, struct td_buf *out) {
    *m = (struct td_emit){.out = out};
    td_buf_init(&m->scratch, TD_ARENA_BYTES_MAX);
}

void td_emit_finish(struct td_emit *m) {
    td_buf_finish(&m->scratch);
}

void td_emit_text(struct td_emit *m, struct td_str s) {
    if (m->err != TD_OK)
        return;
    if (!m->text) {
        m->err = td_buf_add_json(m->out, s);
        return;
    }
    td_buf_clear(&m->scratch);
    m->err = m->text(m->text_user, s, &m->scratch);
    if (m->err == TD_OK)
        m->err = td_buf_add_json(m->out, td_buf_str(&m->scratch));
}

void td_emit_u64(struct td_emit *m, uint64_t v) {
    char digits[TD_U64_DIGITS];
    size_t at = td_str_digits(digits, v);
    td_emit_raw(m, digits + at, sizeof digits - at);
}

void td_emit_i64(struct td_emit *m, int64_t v) {
    if (v < 0)
        td_emit_lit(m, "-");
    td_emit_u64(m, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

void td_emit_double(struct td_emit *m, double v) {
    char z[40];
    if (!isfinite(v)) {
        td_emit_lit(m, "null");
        return;
    }
    for (int digits = 6; digits <= 17; digits = digits < 15 ? 15 : digits + 1) {
        td_format(z, sizeof z, "%.*g", digits, v);
        if (digits == 17 || td_number(z) == v)
            break;
    }
    td_emit_raw(m, z, strlen(z));
}

void td_emit_float(struct td_emit *m, float v) {
    char z[40];
    if (!isfinite(v)) {
        td_emit_lit(m, "null");
        return;
    }
    for (int digits = 6; digits <= 9; digits++) {
        td_format(z, sizeof z, "%.*g", digits, (double)v);
        if (digits == 9 || (float)td_number(z) == v)
            break;
    }
    td_emit_raw(m, z, strlen(z));
}

static void emit_number(struct td_emit *m, td_json *v) {
    if (yyjson_is_uint(v))
        td_emit_u64(m, yyjson_get_uint(v));
    else if (yyjson_is_sint(v))
        td_emit_i64(m, yyjson_get_sint(v));
    else
        td_emit_double(m, yyjson_get_real(v));
}

// Recursion is bounded by the depth limit of the parser that made the value.
static void emit_hooked(struct td_emit *m, td_json *v) {
    size_t i, max;
    td_json *key, *item;
    if (m->err != TD_OK)
        return;
    if (yyjson_is_str(v)) {
        td_emit_text(m, td_json_str(v));
    } else if (yyjson_is_obj(v)) {
        td_emit_lit(m, "{");
        yyjson_obj_foreach(v, i, max, key, item) {
            if (i)
                td_emit_lit(m, ",");
            td_emit_string(m, td_json_str(key));
            td_emit_lit(m, ":");
            emit_hooked(m, item);
        }
        td_emit_lit(m, "}");
    } else if (yyjson_is_arr(v)) {
        td_emit_lit(m, "[");
        yyjson_arr_foreach(v, i, max, item) {
            if (i)
                td_emit_lit(m, ",");
            emit_hooked(m, item);
        }
        td_emit_lit(m, "]");
    } else if (yyjson_is_num(v)) {
        emit_number(m, v);
    } else if (yyjson_is_bool(v)) {
        if (yyjson_get_bool(v))
            td_emit_lit(m, "true");
        else
            td_emit_lit(m, "false");
    } else {
        td_emit_lit(m, "null");
    }
}

void td_emit_value(struct td_emit *m, td_json *v) {
    if (m->err != TD_OK)
        return;
    if (m->text || !yyjson_is_ctn(v))
        emit_hooked(m, v);
    else
        m->err = td_json_write(v, m->out);
}

void td_emit_member(struct td_emit *m, td_json *key, td_json *v) {
    td_emit_lit(m, ",");
    td_emit_string(m, td_json_str(key));
    td_emit_lit(m, ":");
    td_emit_value(m, v);
}

void td_emit_usd(struct td_emit *m, int64_t nusd) {
    uint64_t v = nusd < 0 ? 0 - (uint64_t)nusd : (uint64_t)nusd, rest = v % 1000000000;
    char point[10] = ".";
    size_t n = 10;
    if (nusd < 0)
        td_emit_lit(m, "-");
    td_emit_u64(m, v / 1000000000);
    if (rest == 0)
        return;
    for (size_t i = 9; i > 0; i--, rest /= 10)
        point[i] = (char)('0' + rest % 10);
    while (point[n - 1] == '0')
        n--;
    td_emit_raw(m, point, n);
}

void td_emit_named(struct td_emit *m, const char *name, size_t n, struct td_str value) {
    if (value.n == 0)
        return;
    td_emit_raw(m, name, n);
    td_emit_string(m, value);
    td_emit_lit(m, ",");
}

void td_emit_close(struct td_emit *m) {
    if (m->err == TD_OK && m->out->n && m->out->p[m->out->n - 1] == ',')
        m->out->n--;
    td_emit_lit(m, "}");
}
