// SPDX-License-Identifier: Apache-2.0
#include "wire/alike.h"

#include "base/limits.h"

#define CHUNK_BYTES_MAX 1024u // a stream keeps as much for as long as it lasts
#define VAIN_MAX 4u

void td_alike_init(struct td_alike *a) {
    *a = (struct td_alike){0};
    td_buf_init(&a->around, CHUNK_BYTES_MAX);
}

void td_alike_finish(struct td_alike *a) {
    td_buf_finish(&a->around);
}

// What can stand between the quotes as it is.
static bool is_bare(struct td_str s) {
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    uint64_t beyond_ascii = 0;
    size_t i = 0;
    for (; i + 8 <= s.n; i += 8) {
        uint64_t w;
        memcpy(&w, s.p + i, 8);
        uint64_t quote = w ^ ones * '"', back = w ^ ones * '\\';
        if (((w - ones * 0x20) | (quote - ones) | (back - ones)) & ~w & high)
            return false;
        beyond_ascii |= w & high;
    }
    for (; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c == '"' || c == '\\')
            return false;
        beyond_ascii |= c & 0x80u;
    }
    return !beyond_ascii || td_str_is_utf8(s);
}

bool td_alike_text(struct td_alike *a, struct td_str chunk, struct td_str *text) {
    size_t n = a->around.n, before = a->before_n, after = n - before;
    if (n == 0 || chunk.n < n || memcmp(chunk.p, a->around.p, before) != 0 ||
        memcmp(chunk.p + chunk.n - after, a->around.p + before, after) != 0)
        return false;
    *text = td_str_n(chunk.p + before, chunk.n - n);
    a->learned_in_vain = 0;
    return is_bare(*text);
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

// Where the value of `key` begins behind its quote, if the key, written so, stands in the chunk once: in valid JSON
// such bytes cannot be the inside of a string, where the quotes would have a backslash before them. NULL otherwise.
static const char *value_of(struct td_str chunk, struct td_str key) {
    const char *end = chunk.p + chunk.n, *at = memmem(chunk.p, chunk.n, key.p, key.n);
    const char *p = at ? at + key.n : end;
    if (!at || memmem(p, (size_t)(end - p), key.p, key.n))
        return NULL;
    while (p < end && is_space(*p))
        p++;
    if (p == end || *p++ != ':')
        return NULL;
    while (p < end && is_space(*p))
        p++;
    return p < end && *p == '"' ? p + 1 : NULL;
}

// The one choice of a chunk that says no more than its text; NULL else.
static td_json *plain_choice(td_json *root) {
    td_json *choices = td_json_get(root, "choices"), *choice = yyjson_arr_get_first(choices);
    td_json *delta = td_json_get(choice, "delta");
    bool plain = yyjson_arr_size(choices) == 1 && yyjson_is_obj(choice) && !td_json_get(root, "usage") &&
                 !td_json_get(root, "error") && !td_json_get(choice, "finish_reason") &&
                 !td_json_get(choice, "logprobs") && !td_json_get(choice, "message") &&
                 (!delta || (yyjson_is_obj(delta) && !td_json_get(delta, "reasoning_content") &&
                             !td_json_get(delta, "reasoning") && !td_json_get(delta, "tool_calls") &&
                             !td_json_get(delta, "function_call") && !td_json_get(delta, "refusal")));
    return plain ? choice : NULL;
}

void td_alike_learn(struct td_alike *a, struct td_str chunk, td_json *root) {
    td_json *choice = a->learned_in_vain < VAIN_MAX ? plain_choice(root) : NULL;
    td_json *delta = td_json_get(choice, "delta");
    struct td_str text = delta ? td_json_get_str(delta, "content") : td_json_get_str(choice, "text");
    const char *at = text.n ? value_of(chunk, delta ? TD_STR("\"content\"") : TD_STR("\"text\"")) : NULL;
    size_t before = at ? (size_t)(at - chunk.p) : 0;
    int64_t index = td_json_get_int(choice, "index", 0);
    // As many bytes as the text, the same, and the quote behind them: it was written without escapes.
    if (!at || index < 0 || index >= TD_CHOICES_MAX || chunk.n - before <= text.n || memcmp(at, text.p, text.n) != 0 ||
        at[text.n] != '"')
        return;
    td_buf_clear(&a->around);
    if (td_buf_add(&a->around, chunk.p, before) != TD_OK ||
        td_buf_add(&a->around, at + text.n, chunk.n - before - text.n) != TD_OK) {
        td_buf_clear(&a->around);
        return;
    }
    a->before_n = before;
    a->choice = (uint32_t)index;
    a->learned_in_vain++;
}
