// SPDX-License-Identifier: Apache-2.0
// Embeddings of a reply: lists of numbers, or floats in base 64 (RFC 4648 sections 4 and 5).
#include "wire/openai_reader.h"

static int base64_digit(char c) {
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+' || c == '-' ? 62
           : c == '/' || c == '_' ? 63
                                  : -1;
}

// Little-endian floats. False where it is no base 64 of whole floats.
static bool read_base64(struct td_str s, float *out, uint32_t *count) {
    unsigned char *p = (unsigned char *)out;
    uint32_t bits = 0, have = 0;
    size_t n = 0;
    while (s.n && s.p[s.n - 1] == '=')
        s.n--;
    for (size_t i = 0; i < s.n; i++) {
        int d = base64_digit(s.p[i]);
        if (d < 0)
            return false;
        bits = bits << 6 | (uint32_t)d;
        have += 6;
        if (have >= 8) {
            have -= 8;
            p[n++] = (unsigned char)(bits >> have);
        }
    }
    *count = (uint32_t)(n / sizeof *out);
    return n && n % sizeof *out == 0;
}

static bool read_floats(td_json *list, float *out, uint32_t *count) {
    size_t i, max;
    td_json *v;
    yyjson_arr_foreach(list, i, max, v) {
        if (!yyjson_is_num(v))
            return false;
        out[i] = (float)yyjson_get_num(v);
    }
    *count = (uint32_t)yyjson_arr_size(list);
    return *count > 0;
}

static bool take_vector(struct td_reader *r, td_json *entry, uint32_t position) {
    td_json *v = td_json_get(entry, "embedding");
    size_t room = yyjson_is_str(v) ? yyjson_get_len(v) : yyjson_is_arr(v) ? yyjson_arr_size(v) * sizeof(float) : 0;
    float *values = room ? td_malloc(room + sizeof *values) : NULL;
    uint32_t count = 0;
    bool good = false;
    if (room && !values)
        td_or_no_memory(r);
    else if (values)
        good = yyjson_is_str(v) ? read_base64(td_json_str(v), values, &count) : read_floats(v, values, &count);
    int64_t index = td_json_get_int(entry, "index", position);
    good = good && index >= 0 && index < TD_INPUTS_MAX;
    if (good)
        td_or_hand_up(r, &(struct td_event){.type = TD_EV_EMBEDDING,
                                            .embedding = {.index = (uint32_t)index, .values = values, .count = count}});
    td_free(values);
    return good;
}

void td_or_take_vectors(struct td_reader *r, td_json *root) {
    td_json *data = td_json_get(root, "data"), *v;
    size_t i, max;
    if (!yyjson_is_arr(data) || yyjson_arr_size(data) == 0 || yyjson_arr_size(data) > TD_INPUTS_MAX) {
        td_or_fail(r, TD_ERR_UPSTREAM_GARBAGE, "the upstream sent no embeddings");
        return;
    }
    td_or_start(r, root);
    yyjson_arr_foreach(data, i, max, v) {
        if (!take_vector(r, v, (uint32_t)i)) {
            td_or_fail(r, TD_ERR_UPSTREAM_GARBAGE, "the upstream sent an embedding that is none");
            return;
        }
    }
    td_or_take_usage(r, td_json_get(root, "usage"));
    td_or_end_with(r, &(struct td_event){.type = TD_EV_END});
}
