// SPDX-License-Identifier: Apache-2.0
// The stable words of the enums that users write and read (data classes, preferences, modes and capabilities:
// wire/request.h). td_<enum>_word gives the word ("" for a value out of range); td_<enum>_of reads one and is false for
// any other text.
#ifndef TD_TARGET_WORDS_H
#define TD_TARGET_WORDS_H

#include "target/world.h"

const char *td_tier_word(enum td_tier v);
const char *td_provider_word(enum td_provider v);
const char *td_model_class_word(enum td_model_class v);
const char *td_kind_word(enum td_kind v);
const char *td_connectivity_word(enum td_connectivity v);

bool td_tier_of(struct td_str word, enum td_tier *out);
bool td_provider_of(struct td_str word, enum td_provider *out);
bool td_model_class_of(struct td_str word, enum td_model_class *out);
bool td_kind_of(struct td_str word, enum td_kind *out);
bool td_connectivity_of(struct td_str word, enum td_connectivity *out);

#endif
