// SPDX-License-Identifier: Apache-2.0
#include "upstream.h"

#include <stdio.h>

enum field_type { NUMBER, FLAG, TEXT };
#define N(name)                                                                                                        \
    { #name, NUMBER, offsetof(struct behaviour, name), 0 }
#define F(name)                                                                                                        \
    { #name, FLAG, offsetof(struct behaviour, name), 0 }
#define T(name)                                                                                                        \
    { #name, TEXT, offsetof(struct behaviour, name), sizeof(((struct behaviour *)0)->name) }

// One row per field of `struct behaviour`.
static const struct {
    const char *name;
    enum field_type type;
    size_t at, size;
} fields[] = {
    N(times),
    N(status),
    N(headers_ms),
    N(header_byte_ms),
    N(first_token_ms),
    N(token_ms),
    N(tokens),
    N(cut_after_tokens),
    N(cut_at_byte),
    N(silence_after_tokens),
    N(malformed_at),
    N(error_after_tokens),
    N(gzip_bomb_mb),
    N(giant_line_bytes),
    N(giant_body_bytes),
    N(header_flood_bytes),
    N(piece_bytes),
    N(comment_ms),
    N(end_ms),
    F(hang),
    F(reset),
    F(close_early),
    F(garbage),
    F(garbage_body),
    F(no_done),
    F(no_finish),
    F(no_usage),
    F(open_end),
    F(refuse_prefix),
    F(gzip),
    F(context_length),
    F(content_policy),
    F(close_after),
    F(deaf),
    F(crlf),
    F(filter),
    F(duplicate_finish),
    T(retry_after),
    T(retry_after_ms),
    T(content_type),
    T(location),
    T(cut),
    T(match),
    T(path),
    T(say),
};

bool behaviour_read(td_json *obj, struct behaviour *out, char why[128]) {
    size_t i, max;
    td_json *key, *value;
    *out = (struct behaviour){.times = 1};
    if (!yyjson_is_obj(obj)) {
        snprintf(why, 128, "a behaviour is an object");
        return false;
    }
    yyjson_obj_foreach(obj, i, max, key, value) {
        size_t f = 0;
        while (f < sizeof fields / sizeof *fields && strcmp(fields[f].name, yyjson_get_str(key)) != 0)
            f++;
        if (f == sizeof fields / sizeof *fields) {
            snprintf(why, 128, "unknown behaviour '%.40s'", yyjson_get_str(key));
            return false;
        }
        char *at = (char *)out + fields[f].at;
        if (fields[f].type == NUMBER && yyjson_is_int(value))
            *(int64_t *)(void *)at = yyjson_get_sint(value);
        else if (fields[f].type == FLAG && yyjson_is_bool(value))
            *(bool *)at = yyjson_get_bool(value);
        else if (fields[f].type == TEXT && yyjson_is_str(value) && yyjson_get_len(value) < fields[f].size)
            snprintf(at, fields[f].size, "%s", yyjson_get_str(value));
        else {
            snprintf(why, 128, "wrong type or size of '%.40s'", fields[f].name);
            return false;
        }
    }
    return true;
}
