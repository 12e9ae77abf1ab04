// SPDX-License-Identifier: Apache-2.0
// Many regular expressions at once, as automata: each is written out as a small non-deterministic program (Thompson,
// 1968); groups of them become one table that takes one step per byte. A group whose table would grow too large is
// halved; a single expression that still does not fit is run as the program itself. Either way time is linear in the
// text. Compiled once into an arena, then read-only. Internal to privacy/.
#ifndef TD_PRIVACY_REGEX_H
#define TD_PRIVACY_REGEX_H

#include "privacy/content.h"

#define TD_REGEX_TABLE_STATES_MAX 2048u // of one group; a table is at most 1 MiB
#define TD_REGEX_DEPTH_MAX 32u          // of groups in groups

struct td_regex_set;

struct td_regex_set *td_regex_create(struct td_arena *arena);
enum td_err td_regex_add(struct td_regex_set *set, struct td_str pattern, uint32_t label,
                         struct td_error *e) TD_MUST_USE;
enum td_err td_regex_compile(struct td_regex_set *set) TD_MUST_USE;
uint32_t td_regex_scan(const struct td_regex_set *set, struct td_str text);

#endif
