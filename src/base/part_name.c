// SPDX-License-Identifier: Apache-2.0
#include "base/part_name.h"

#include <stdio.h>

#define SUFFIX_BYTES 20u // "-00001-of-00003.gguf"

bool td_part_name_read(struct td_str path, struct td_part_name *out) {
    uint64_t number, count;
    if (path.n <= SUFFIX_BYTES)
        return false;
    struct td_str end = td_str_n(path.p + path.n - SUFFIX_BYTES, SUFFIX_BYTES);
    if (end.p[0] != '-' || memcmp(end.p + 6, "-of-", 4) != 0 || memcmp(end.p + 15, ".gguf", 5) != 0 ||
        end.p[-1] == '/' || !td_str_to_u64(td_str_n(end.p + 1, 5), &number) ||
        !td_str_to_u64(td_str_n(end.p + 10, 5), &count) || number < 1 || number > count || count < 2)
        return false;
    *out = (struct td_part_name){td_str_n(path.p, path.n - SUFFIX_BYTES), (unsigned)number, (unsigned)count};
    return true;
}

bool td_part_name_write(const struct td_part_name *name, unsigned number, char *out, size_t cap) {
    int n = snprintf(out, cap, "%.*s-%05u-of-%05u.gguf", TD_STR_ARG(name->stem), number, name->count);
    return n > 0 && (size_t)n < cap;
}
