// SPDX-License-Identifier: Apache-2.0
#include "target/words.h"

struct word {
    const char *word;
    unsigned value;
};

static const char *word_of(const struct word *words, size_t n, unsigned value) {
    for (size_t i = 0; i < n; i++)
        if (words[i].value == value)
            return words[i].word;
    return "";
}

static bool value_of(const struct word *words, size_t n, struct td_str word, unsigned *out) {
    for (size_t i = 0; i < n; i++)
        if (td_str_is(word, words[i].word)) {
            *out = words[i].value;
            return true;
        }
    return false;
}

#define WORDS(name, type, ...)                                                                                         \
    static const struct word name##_words[] = {__VA_ARGS__};                                                           \
    const char *td_##name##_word(type v) {                                                                             \
        return word_of(name##_words, sizeof name##_words / sizeof name##_words[0], (unsigned)v);                       \
    }                                                                                                                  \
    bool td_##name##_of(struct td_str word, type *out) {                                                               \
        unsigned v;                                                                                                    \
        if (!value_of(name##_words, sizeof name##_words / sizeof name##_words[0], word, &v))                           \
            return false;                                                                                              \
        *out = (type)v;                                                                                                \
        return true;                                                                                                   \
    }

WORDS(tier, enum td_tier, {"device", TD_TIER_DEVICE}, {"edge", TD_TIER_EDGE}, {"onprem", TD_TIER_ONPREM},
      {"cloud", TD_TIER_CLOUD})
WORDS(provider, enum td_provider, {"llama", TD_PROVIDER_LLAMA}, {"openai", TD_PROVIDER_OPENAI},
      {"tandem", TD_PROVIDER_TANDEM}, {"fake", TD_PROVIDER_FAKE})
WORDS(model_class, enum td_model_class, {"small", TD_MODEL_SMALL}, {"medium", TD_MODEL_MEDIUM},
      {"large", TD_MODEL_LARGE}, {"reasoning", TD_MODEL_REASONING}, {"command", TD_MODEL_COMMAND})
WORDS(kind, enum td_kind, {"chat", TD_KIND_CHAT}, {"completion", TD_KIND_COMPLETION}, {"embedding", TD_KIND_EMBEDDING})
WORDS(connectivity, enum td_connectivity, {"auto", TD_CONNECTIVITY_AUTO}, {"offline", TD_CONNECTIVITY_OFFLINE},
      {"metered", TD_CONNECTIVITY_METERED})
