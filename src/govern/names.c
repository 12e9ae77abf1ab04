// SPDX-License-Identifier: Apache-2.0
#include "govern/inner.h"

static uint64_t hash_of(struct td_str s) {
    uint64_t h = 1469598103934665603ull;
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * 1099511628211ull;
    return h ^ h >> 32;
}

uint32_t td_names_find(const struct td_names *n, struct td_str name) {
    if (n->cap == 0)
        return TD_GOVERN_NO_SLOT;
    for (uint32_t at = (uint32_t)hash_of(name) & (n->cap - 1);; at = (at + 1) & (n->cap - 1)) {
        if (!n->entries[at].name)
            return TD_GOVERN_NO_SLOT;
        if (td_str_is(name, n->entries[at].name))
            return n->entries[at].slot;
    }
}

static void place(struct td_name *entries, uint32_t cap, struct td_name entry) {
    uint32_t at = (uint32_t)hash_of(td_str_of(entry.name)) & (cap - 1);
    while (entries[at].name)
        at = (at + 1) & (cap - 1);
    entries[at] = entry;
}

enum td_err td_names_add(struct td_names *n, const char *name, uint32_t slot) {
    if (n->count * 2 >= n->cap) {
        uint32_t cap = n->cap ? n->cap * 2 : 32;
        struct td_name *entries = td_calloc(cap, sizeof *entries);
        if (!entries)
            return TD_ERR_NOMEM;
        for (uint32_t i = 0; i < n->cap; i++)
            if (n->entries[i].name)
                place(entries, cap, n->entries[i]);
        td_free(n->entries);
        n->entries = entries;
        n->cap = cap;
    }
    place(n->entries, n->cap, (struct td_name){name, slot});
    n->count++;
    return TD_OK;
}
