// SPDX-License-Identifier: Apache-2.0
#include "jobs/agree.h"

// Letters and digits, ASCII folded to lower case; everything else separates words.
static bool word_byte(unsigned char c) {
    return c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static struct td_str next_word(struct td_str *s) {
    while (s->n && !word_byte((unsigned char)*s->p))
        s->p++, s->n--;
    struct td_str w = {s->p, 0};
    while (s->n && word_byte((unsigned char)*s->p))
        s->p++, s->n--, w.n++;
    return w;
}

bool td_texts_agree(struct td_str a, struct td_str b) {
    for (;;) {
        struct td_str x = next_word(&a), y = next_word(&b);
        if (!td_str_ieq(x, y))
            return false;
        if (x.n == 0)
            return true;
    }
}
