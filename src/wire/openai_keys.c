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

bool td_openai_known_top(struct td_str k) {
    static const char *const known[] = {"id", "object", "created", "model", "choices", "usage", "tandem", "error"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (td_str_is(k, known[i]))
            return true;
    return false;
}

bool td_openai_known_choice(struct td_str k) {
    static const char *const known[] = {"index", "delta", "message", "text", "logprobs", "finish_reason"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (td_str_is(k, known[i]))
            return true;
    return false;
}

bool td_openai_known_delta(struct td_str k) {
    static const char *const known[] = {"role",          "content",   "tool_calls",       "refusal",
                                        "function_call", "reasoning", "reasoning_content"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (td_str_is(k, known[i]))
            return true;
    return false;
}
