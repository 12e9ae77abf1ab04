// SPDX-License-Identifier: Apache-2.0
// A model too large for one file comes in parts, as llama.cpp names them: NAME-00001-of-00003.gguf and so on. Pure.
#ifndef TD_BASE_PART_NAME_H
#define TD_BASE_PART_NAME_H

#include "base/str.h"

struct td_part_name {
    struct td_str stem;     // what stands before "-00001-of-00003.gguf"; a view into what was read
    unsigned number, count; // from 1
};

// False: this is no part's name (one part of one is the whole model). `path` may hold folders.
bool td_part_name_read(struct td_str path, struct td_part_name *out);
// The path of part `number` of the same model. False: it does not fit into `cap` bytes.
bool td_part_name_write(const struct td_part_name *name, unsigned number, char *out, size_t cap);

#endif
