// SPDX-License-Identifier: Apache-2.0
#include "supply/name.h"

bool td_supply_good_name(struct td_str s) {
    if (s.n == 0 || s.n > 200 || s.p[0] == '.')
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
              c == '_'))
            return false;
    }
    return true;
}

bool td_supply_is_digest(const char *text) {
    return strlen(text) == 64 && strspn(text, "0123456789abcdefABCDEF") == 64;
}

struct td_str td_supply_last_part(struct td_str path) {
    size_t from = path.n;
    while (from > 0 && path.p[from - 1] != '/')
        from--;
    return td_str_n(path.p + from, path.n - from);
}
