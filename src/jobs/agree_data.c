// SPDX-License-Identifier: Apache-2.0
#include "jobs/agree_data.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/limits.h"

static bool json_same(td_json *a, td_json *b) {
    size_t i, max;
    td_json *key, *value;
    if (yyjson_is_num(a) && yyjson_is_num(b))
        return fabs(yyjson_get_num(a) - yyjson_get_num(b)) <= 0;
    if (yyjson_get_type(a) != yyjson_get_type(b))
        return false;
    if (yyjson_is_str(a))
        return td_str_eq(td_json_str(a), td_json_str(b));
    if (yyjson_is_bool(a))
        return yyjson_get_bool(a) == yyjson_get_bool(b);
    if (yyjson_is_arr(a)) {
        if (yyjson_arr_size(a) != yyjson_arr_size(b))
            return false;
        yyjson_arr_foreach(a, i, max, value) {
            if (!json_same(value, yyjson_arr_get(b, i)))
                return false;
        }
        return true;
    }
    if (!yyjson_is_obj(a))
        return true; // null
    if (yyjson_obj_size(a) != yyjson_obj_size(b))
        return false;
    yyjson_obj_foreach(a, i, max, key, value) {
        td_json *other = yyjson_obj_getn(b, yyjson_get_str(key), yyjson_get_len(key));
        if (!other || !json_same(value, other))
            return false;
    }
    return true;
}

// The inside of the first fenced block; *rest what stands around it. {NULL, 0}: there is none.
static struct td_str fenced(struct td_str text, struct td_str *before, struct td_str *after) {
    const char *open = text.n ? memmem(text.p, text.n, "```", 3) : NULL;
    *before = text;
    *after = TD_STR_NONE;
    if (!open)
        return TD_STR_NONE;
    const char *end = text.p + text.n, *line = memchr(open, '\n', (size_t)(end - open));
    const char *close = line ? memmem(line, (size_t)(end - line), "```", 3) : NULL;
    if (!close)
        return TD_STR_NONE;
    *before = td_str_trim(td_str_n(text.p, (size_t)(open - text.p)));
    *after = td_str_trim(td_str_n(close + 3, (size_t)(end - close - 3)));
    return td_str_n(line + 1, (size_t)(close - line - 1));
}

static bool name_byte(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80);
}

// Byte for byte, but for white space that separates no two names. Indentation only as "more", "less" or "the same".
static bool code_same(struct td_str a, struct td_str b) {
    size_t i = 0, j = 0;
    a = td_str_trim(a);
    b = td_str_trim(b);
    while (i < a.n || j < b.n) {
        bool space_a = false, space_b = false;
        char before = i ? a.p[i - 1] : ' ';
        for (; i < a.n && (unsigned char)a.p[i] <= ' '; i++)
            space_a = true;
        for (; j < b.n && (unsigned char)b.p[j] <= ' '; j++)
            space_b = true;
        if (i == a.n || j == b.n)
            return i == a.n && j == b.n;
        if (a.p[i] != b.p[j] || (space_a != space_b && name_byte(before) && name_byte(a.p[i])))
            return false;
        i++, j++;
    }
    return true;
}

enum td_agree_verdict td_agree_data(struct td_arena *arena, struct td_str *a, struct td_str *b) {
    struct td_str before[2], after[2], code[2] = {fenced(*a, &before[0], &after[0]), fenced(*b, &before[1], &after[1])};
    struct td_str whole[2] = {*a, *b};
    td_json *json[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        struct td_str text = code[i].p && !before[i].n && !after[i].n ? td_str_trim(code[i]) : td_str_trim(whole[i]);
        if (text.n && (*text.p == '{' || *text.p == '[') &&
            td_json_parse(arena, text, TD_JSON_DEPTH_MAX, &json[i], NULL) != TD_OK)
            json[i] = NULL;
    }
    if (json[0] || json[1])
        return json[0] && json[1] && json_same(json[0], json[1]) ? TD_AGREE_SAME : TD_AGREE_DIFFERENT;
    if (!code[0].p && !code[1].p)
        return TD_AGREE_OPEN;
    if (!code[0].p || !code[1].p || !code_same(code[0], code[1]))
        return TD_AGREE_DIFFERENT;
    bool bare = !before[0].n && !after[0].n && !before[1].n && !after[1].n;
    if (memmem(after[0].p ? after[0].p : "", after[0].n, "```", 3) ||
        memmem(after[1].p ? after[1].p : "", after[1].n, "```", 3))
        return TD_AGREE_DIFFERENT; // several blocks are compared word for word alone
    *a = td_arena_printf(arena, "%.*s\n%.*s", TD_STR_ARG(before[0]), TD_STR_ARG(after[0]));
    *b = td_arena_printf(arena, "%.*s\n%.*s", TD_STR_ARG(before[1]), TD_STR_ARG(after[1]));
    return bare ? TD_AGREE_SAME : a->p && b->p ? TD_AGREE_OPEN : TD_AGREE_DIFFERENT;
}
