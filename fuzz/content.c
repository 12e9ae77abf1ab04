// SPDX-License-Identifier: Apache-2.0
// Content rules: up to the first newline a pattern, up to the second a word, the rest is the text they are looked for
// in. Whatever they are, scanning ends, and a text that holds the text twice holds what one holds (patterns that ask
// for an end apart, which have no such law).
#include <stdint.h>
#include <stdlib.h>

#include "privacy/content.h"

static struct td_str line_of(struct td_str *rest) {
    const char *end = rest->n ? memchr(rest->p, '\n', rest->n) : NULL;
    struct td_str line = {rest->p, end ? (size_t)(end - rest->p) : rest->n};
    size_t used = line.n + (end != NULL);
    *rest = (struct td_str){rest->p + used, rest->n - used};
    return line;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct td_str rest = {(const char *)data, n};
    struct td_str pattern = line_of(&rest), word = line_of(&rest);
    struct td_arena arena;
    struct td_error e = {0};
    if (n > 4096)
        return 0;
    td_arena_init(&arena, 64 << 20);
    struct td_content_rules *rules = td_content_create(&arena);
    if (!rules)
        abort();
    if (td_content_add_pattern(rules, pattern, 1, &e) != TD_OK && !e.message[0])
        abort();
    bool has_word = td_content_add_word(rules, word, 2, &e) == TD_OK;
    if (td_content_compile(rules) == TD_OK) {
        uint32_t found = td_content_scan(rules, rest);
        struct td_buf twice;
        td_buf_init(&twice, 1 << 16);
        if (found & ~3u || (found & 2 && !has_word))
            abort();
        if (td_buf_add_str(&twice, rest) == TD_OK && td_buf_addz(&twice, " \n ") == TD_OK &&
            td_buf_add_str(&twice, rest) == TD_OK && found & 2 && !(td_content_scan(rules, td_buf_str(&twice)) & 2))
            abort();
        td_buf_finish(&twice);
    }
    td_arena_finish(&arena);
    return 0;
}
