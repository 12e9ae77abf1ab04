// SPDX-License-Identifier: Apache-2.0
// Content rules: word lists and patterns that put labels on text. Compiled once, then read-only; scanning takes time
// linear in the text whatever the patterns and the text are. Pure; any thread.
#ifndef TD_PRIVACY_CONTENT_H
#define TD_PRIVACY_CONTENT_H

#include "base/mem.h"

#define TD_CONTENT_WORDS_MAX 100000u
#define TD_CONTENT_PATTERNS_MAX 256u
#define TD_PATTERN_BYTES_MAX 1024u
#define TD_PATTERN_STATES_MAX 2048u // positions after counted repeats are written out

struct td_content_rules;

// Everything lives in `arena`. NULL without memory.
struct td_content_rules *td_content_create(struct td_arena *arena);
// A word or phrase, matched whole and regardless of case (ASCII, Latin, Greek, Cyrillic); white space between the words
// of a phrase matches any white space. TD_ERR_CONFIG for text without a letter or digit.
enum td_err td_content_add_word(struct td_content_rules *rules, struct td_str word, uint32_t label,
                                struct td_error *e) TD_MUST_USE;
// A regular expression: literals, ., [classes], \d \w \s \b and their negations, (groups), |, * + ? {m,n}, ^ $ for the
// ends of the text, (?i) in front for ASCII case-insensitive. No back-references. TD_ERR_CONFIG says where it is wrong.
enum td_err td_content_add_pattern(struct td_content_rules *rules, struct td_str pattern, uint32_t label,
                                   struct td_error *e) TD_MUST_USE;
// After the last add. TD_ERR_NOMEM.
enum td_err td_content_compile(struct td_content_rules *rules) TD_MUST_USE;
// Label bits of everything that matches somewhere in `text`. `rules` may be NULL.
uint32_t td_content_scan(const struct td_content_rules *rules, struct td_str text);

#endif
