// SPDX-License-Identifier: Apache-2.0
#include "base/http_text.h"

uint8_t td_http_class_of[256];

__attribute__((constructor)) static void fill_classes(void) {
    for (unsigned c = 0; c < 256; c++) {
        bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        uint8_t is = 0;
        if (alnum || (c && c < 128 && strchr("!#$%&'*+-.^_`|~", (int)c)))
            is |= TD_HTTP_TOKEN;
        if (alnum || (c && c < 128 && strchr("-._~!$&'()*+,;=:@/?%", (int)c)))
            is |= TD_HTTP_TARGET;
        if (c == '\t' || (c >= 0x20 && c != 0x7f))
            is |= TD_HTTP_VALUE;
        if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f'))
            is |= TD_HTTP_HEX;
        td_http_class_of[c] = is;
    }
}

bool td_http_next_element(struct td_str *list, struct td_str *element) {
    if (!list->p)
        return false;
    const char *comma = memchr(list->p, ',', list->n);
    size_t n = comma ? (size_t)(comma - list->p) : list->n;
    *element = td_str_trim(td_str_n(list->p, n));
    *list = comma ? td_str_n(comma + 1, list->n - n - 1) : TD_STR_NONE;
    return true;
}
