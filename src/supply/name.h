// SPDX-License-Identifier: Apache-2.0
// What may be a model file's name, and a digest (this room only). Pure.
#ifndef TD_SUPPLY_NAME_H
#define TD_SUPPLY_NAME_H

#include "base/str.h"

// Letters, digits, dot, dash, underscore; no leading dot; at most 200 bytes.
bool td_supply_good_name(struct td_str name);
// 64 hexadecimal digits.
bool td_supply_is_digest(const char *text);
// What follows the last slash.
struct td_str td_supply_last_part(struct td_str path);

#endif
