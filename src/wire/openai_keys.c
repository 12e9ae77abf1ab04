// SPDX-License-Identifier: Apache-2.0
#include "wire/openai_keys.h"

static const struct {
    const char *key;
    uint8_t length, kinds;
} keys[] = {
#define X(name, key, kinds) {key, sizeof(key) - 1, kinds},
    TD_OPENAI_KEY_LIST(X)
#undef X
};

enum td_openai_key td_openai_key_of(enum td_kind kind, struct td_str key) {
    for (unsigned i = 0; i < TD_OPENAI_KEY_COUNT; i++)
        if (keys[i].length == key.n && memcmp(keys[i].key, key.p, key.n) == 0)
            return keys[i].kinds & 1u << kind ? (enum td_openai_key)i : TD_OPENAI_KEY_COUNT;
    return TD_OPENAI_KEY_COUNT;
}

// Asked for every field of every chunk: lengths tell most words apart.
#define W(z)                                                                                                           \
    { z, sizeof(z) - 1 }
static bool one_of(struct td_str k, const struct td_str *known, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (known[i].n == k.n && memcmp(known[i].p, k.p, k.n) == 0)
            return true;
    return false;
}

bool td_openai_known_top(struct td_str k) {
    static const struct td_str known[] = {W("id"),      W("object"), W("created"), W("model"),
                                          W("choices"), W("usage"),  W("tandem"),  W("error")};
    return one_of(k, known, sizeof known / sizeof *known);
}

bool td_openai_known_choice(struct td_str k) {
    static const struct td_str known[] = {W("index"), W("delta"),    W("message"),
                                          W("text"),  W("logprobs"), W("finish_reason")};
    return one_of(k, known, sizeof known / sizeof *known);
}

bool td_openai_known_delta(struct td_str k) {
    static const struct td_str known[] = {W("role"),          W("content"),   W("tool_calls"),       W("refusal"),
                                          W("function_call"), W("reasoning"), W("reasoning_content")};
    return one_of(k, known, sizeof known / sizeof *known);
}
