// SPDX-License-Identifier: Apache-2.0
// What a text says, as far as the judge of agree.h looks: its words (folded, stemmed, function words left out), its
// quantities (numbers with units, times, dates, money), how often it negates. Everything lies in the caller's arena.
// Pure; any thread.
#ifndef TD_JOBS_AGREE_READING_H
#define TD_JOBS_AGREE_READING_H

#include <stdint.h>

#include "base/mem.h"
#include "jobs/agree_words.h"

#define TD_AGREE_WORDS_MAX 4096u // of one text; more is not judged
#define TD_AGREE_QUANTITIES_MAX 512u

struct td_agree_token {
    struct td_str stem;
    bool hard; // a name, a colour, "if": never to be left out
};
struct td_agree_quantity {
    double value;
    enum td_agree_dim dim;
    double raw; // as it stood, before its unit
};
struct td_agree_reading {
    struct td_agree_token *words;
    struct td_agree_quantity *quantities;
    uint32_t word_count, quantity_count, negations;
    uint32_t items, numbered; // of a list
    int polarity;             // of its first word: "yes" 1, "no" -1, else 0
    bool choice, passive, comparison, colon, refuses, overflow;
};

// False without memory, and where the text holds more than the two limits above.
bool td_agree_read(struct td_arena *arena, struct td_str text, struct td_agree_reading *r) TD_MUST_USE;

#endif
