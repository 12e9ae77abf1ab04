// SPDX-License-Identifier: Apache-2.0
#include "wire/openai_body.h"

static const char *type_word(td_json *v) {
    return yyjson_is_str(v)    ? "a string"
           : yyjson_is_bool(v) ? "a boolean"
           : yyjson_is_num(v)  ? "a number"
           : yyjson_is_arr(v)  ? "an array"
           : yyjson_is_obj(v)  ? "an object"
           : yyjson_is_null(v) ? "null"
                               : "nothing";
}

enum td_err td_openai_wrong_type(struct td_openai_body *r, const char *field, const char *expected, td_json *v) {
    return REFUSE(r, BAD_REQUEST, field, "Invalid type for '%s': expected %s, got %s.", field, expected, type_word(v));
}

enum td_err td_openai_twice(struct td_openai_body *r, const char *field) {
    return REFUSE(r, BAD_REQUEST, field, "'%s' is given twice in one object.", field);
}

enum td_err td_openai_read_text(struct td_openai_body *r, const char *field, td_json *v, struct td_str *out) {
    if (!yyjson_is_str(v))
        return td_openai_wrong_type(r, field, "a string", v);
    struct td_str s = td_json_str(v);
    if (s.n && memchr(s.p, 0, s.n))
        return REFUSE(r, BAD_REQUEST, field, "'%s' holds a NUL character.", field);
    r->text_bytes += s.n;
    *out = s;
    return TD_OK;
}

enum td_err td_openai_read_name(struct td_openai_body *r, const char *field, td_json *v, size_t bytes_max,
                                struct td_str *out) {
    uint64_t before = r->text_bytes;
    enum td_err err = td_openai_read_text(r, field, v, out);
    r->text_bytes = before;
    if (err == TD_OK && out->n > bytes_max)
        return REFUSE(r, BAD_REQUEST, field, "'%s' is longer than %zu bytes.", field, bytes_max);
    return err;
}

enum td_err td_openai_read_bool(struct td_openai_body *r, const char *field, td_json *v, bool *out) {
    if (!yyjson_is_bool(v))
        return td_openai_wrong_type(r, field, "a boolean", v);
    *out = yyjson_get_bool(v);
    return TD_OK;
}

enum td_err td_openai_read_number(struct td_openai_body *r, const char *field, td_json *v, double low, double high,
                                  double *out) {
    if (!yyjson_is_num(v))
        return td_openai_wrong_type(r, field, "a number", v);
    double d = yyjson_get_num(v);
    if (!(d >= low && d <= high))
        return REFUSE(r, BAD_REQUEST, field, "Invalid value for '%s': expected a number from %g to %g.", field, low,
                      high);
    *out = d;
    return TD_OK;
}

enum td_err td_openai_read_count(struct td_openai_body *r, const char *field, td_json *v, uint32_t low, uint32_t high,
                                 uint32_t *out) {
    if (!yyjson_is_int(v))
        return td_openai_wrong_type(r, field, "an integer", v);
    if (!yyjson_is_uint(v) || yyjson_get_uint(v) < low || yyjson_get_uint(v) > high)
        return REFUSE(r, BAD_REQUEST, field, "Invalid value for '%s': expected an integer from %u to %u.", field, low,
                      high);
    *out = (uint32_t)yyjson_get_uint(v);
    return TD_OK;
}

uint64_t td_openai_json_text_bytes(td_json *v) {
    size_t i, max;
    td_json *key, *item;
    uint64_t n = 1;
    if (yyjson_is_str(v))
        return yyjson_get_len(v) + 2;
    if (yyjson_is_obj(v)) {
        yyjson_obj_foreach(v, i, max, key, item) n += yyjson_get_len(key) + 4 + td_openai_json_text_bytes(item);
    } else if (yyjson_is_arr(v)) {
        yyjson_arr_foreach(v, i, max, item) n += 1 + td_openai_json_text_bytes(item);
    }
    return n;
}
