// SPDX-License-Identifier: Apache-2.0
// The words of enums and sets, as the rows want them.
#include "config/table.h"

#include "target/words.h"

#define OF_tier td_tier_of
#define OF_model_class td_model_class_of
#define OF_connectivity td_connectivity_of
#define OF_kind td_kind_of
#define OF_class td_class_parse
#define OF_prefer td_prefer_parse
#define OF_mode td_mode_parse

// Adapters: the words of an enum as the rows want them.
#define WORD(name, type)                                                                                               \
    bool td_word_##name(struct td_str s, uint32_t *v) {                                                                \
        type e;                                                                                                        \
        if (!OF_##name(s, &e))                                                                                         \
            return false;                                                                                              \
        *v = (uint32_t)e;                                                                                              \
        return true;                                                                                                   \
    }
#define BITS(name, type)                                                                                               \
    bool td_bit_##name(struct td_str s, uint32_t *v) {                                                                 \
        type e;                                                                                                        \
        if (!OF_##name(s, &e))                                                                                         \
            return false;                                                                                              \
        *v = 1u << (uint32_t)e;                                                                                        \
        return true;                                                                                                   \
    }
WORD(tier, enum td_tier)
WORD(model_class, enum td_model_class)
WORD(class, enum td_class)
WORD(prefer, enum td_prefer)
WORD(connectivity, enum td_connectivity)
BITS(tier, enum td_tier)
BITS(kind, enum td_kind)
BITS(prefer, enum td_prefer)
BITS(mode, enum td_mode)

static bool word_of_list(struct td_str s, const char *const *words, uint32_t *v) {
    for (uint32_t i = 0; words[i]; i++)
        if (td_str_is(s, words[i])) {
            *v = i;
            return true;
        }
    return false;
}

bool td_word_provider(struct td_str s, uint32_t *v) {
    enum td_provider p;
    if (!td_provider_of(s, &p) || p == TD_PROVIDER_FAKE) // the fake is for tests, which build their targets by hand
        return false;
    *v = p;
    return true;
}
bool td_word_mode(struct td_str s, uint32_t *v) {
    enum td_mode m = TD_MODE_DEFAULT;
    if (!td_str_is(s, "auto") && !td_mode_parse(s, &m))
        return false;
    *v = m;
    return true;
}
bool td_word_on_cut(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"continue", "restart", "error", NULL}, v);
}
bool td_word_durability(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"batched", "before_answer", "before_egress", NULL}, v);
}
bool td_word_reconcile(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"take_better", "keep_local", "ask", NULL}, v);
}
bool td_word_log_level(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"error", "warn", "info", "debug", NULL}, v);
}
bool td_word_path_style(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"openai", "azure", NULL}, v);
}
bool td_word_prefix_mark(struct td_str s, uint32_t *v) {
    return word_of_list(s, (const char *const[]){"plain", "vllm", "mistral", NULL}, v);
}
bool td_bit_capability(struct td_str s, uint32_t *v) {
    return td_capability_parse(s, v);
}
bool td_bit_feature(struct td_str s, uint32_t *v) {
    if (!word_of_list(s,
                      (const char *const[]){"question", "command", "code", "math", "fresh", "multi_turn", "long",
                                            "creative", "analysis", NULL},
                      v))
        return false;
    *v = 1u << *v;
    return true;
}
