// SPDX-License-Identifier: Apache-2.0
#include "privacy/content.h"

#include "base/hash.h"
#include "privacy/regex.h"

// Words are found by the hash of their first run of letters and digits, then compared in full. Case is folded where
// that is a matter of one character for another; ideographs stand for themselves, without white space around them.

struct entry {
    struct td_str text; // as the rule has it
    uint64_t hash;      // of the first run, folded
    uint32_t label;
    struct entry *next; // in its slot
};

struct td_content_rules {
    struct td_arena *arena;
    struct entry *entries, **slots;
    uint32_t entry_count, slot_mask, word_labels;
    struct td_regex_set *regexes;
};

enum shape { SHAPE_OTHER, SHAPE_SPACE, SHAPE_WORD, SHAPE_IDEOGRAPH };

// The code point at p (n > 0 bytes left), its length in *len. Bytes that are no UTF-8 come one by one.
static uint32_t decode(const char *z, size_t n, size_t *len) {
    const unsigned char *p = (const unsigned char *)z;
    *len = 1;
    if (p[0] < 0x80)
        return p[0];
    if (p[0] >= 0xc2 && p[0] < 0xe0 && n > 1) {
        *len = 2;
        return (uint32_t)(p[0] & 31) << 6 | (p[1] & 63);
    }
    if (p[0] >= 0xe0 && p[0] < 0xf0 && n > 2) {
        *len = 3;
        return (uint32_t)(p[0] & 15) << 12 | (uint32_t)(p[1] & 63) << 6 | (p[2] & 63);
    }
    if (p[0] >= 0xf0 && p[0] < 0xf5 && n > 3) {
        *len = 4;
        return (uint32_t)(p[0] & 7) << 18 | (uint32_t)(p[1] & 63) << 12 | (uint32_t)(p[2] & 63) << 6 | (p[3] & 63);
    }
    return 0xfffd;
}

// Lower case for Latin, Greek and Cyrillic letters whose two cases are one code point each.
static uint32_t fold(uint32_t c) {
    if (c < 0x80)
        return c >= 'A' && c <= 'Z' ? c + 32 : c;
    if (c >= 0xc0 && c <= 0xde && c != 0xd7)
        return c + 32;
    if ((c >= 0x100 && c <= 0x12f) || (c >= 0x132 && c <= 0x137) || (c >= 0x14a && c <= 0x177))
        return c | 1;
    if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17e))
        return c & 1 ? c + 1 : c;
    if (c == 0x178)
        return 0xff;
    if (c >= 0x391 && c <= 0x3a9)
        return c + 32;
    if (c == 0x3c2) // final sigma
        return 0x3c3;
    if (c >= 0x410 && c <= 0x42f)
        return c + 32;
    if (c >= 0x400 && c <= 0x40f)
        return c + 80;
    if ((c >= 0x460 && c <= 0x481) || (c >= 0x48a && c <= 0x4bf) || (c >= 0x4d0 && c <= 0x52f) ||
        (c >= 0x1e00 && c <= 0x1e95) || (c >= 0x1ea0 && c <= 0x1eff))
        return c | 1;
    return c;
}

static enum shape shape_of(uint32_t c) {
    if (c < 0x80) {
        if (c == ' ' || (c >= 9 && c <= 13))
            return SHAPE_SPACE;
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ? SHAPE_WORD : SHAPE_OTHER;
    }
    if (c == 0xa0 || c == 0x3000 || (c >= 0x2000 && c <= 0x200a) || c == 0x202f || c == 0x2028 || c == 0x2029)
        return SHAPE_SPACE;
    if ((c >= 0x2e80 && c <= 0x9fff && !(c >= 0x3000 && c <= 0x303f)) || (c >= 0xf900 && c <= 0xfaff) || c >= 0x20000)
        return SHAPE_IDEOGRAPH;
    if (c < 0xc0)
        return c == 0xaa || c == 0xb5 || c == 0xba ? SHAPE_WORD : SHAPE_OTHER;
    if (c == 0xd7 || c == 0xf7 || (c >= 0x2000 && c <= 0x2bff) || (c >= 0x3000 && c <= 0x303f) ||
        (c >= 0xff00 && c <= 0xff0f) || c == 0xfffd || (c >= 0x1f000 && c <= 0x1faff))
        return SHAPE_OTHER;
    return SHAPE_WORD;
}

static uint64_t hash_start(void) {
    return 0xcbf29ce484222325u;
}
static uint64_t hash_add(uint64_t h, uint32_t c) {
    return (h ^ c) * 0x100000001b3u;
}

// 0 where an ASCII byte is no letter or digit (nor anything else is), else its lower case.
static const unsigned char ascii_word[256] = {
#define L(c) [c - 32] = c, [c] = c
    ['0'] = '0', '1',    '2',    '3',    '4',    '5',    '6',    '7',    '8',    '9',    L('a'), L('b'), L('c'),
    L('d'),      L('e'), L('f'), L('g'), L('h'), L('i'), L('j'), L('k'), L('l'), L('m'), L('n'), L('o'), L('p'),
    L('q'),      L('r'), L('s'), L('t'), L('u'), L('v'), L('w'), L('x'), L('y'), L('z')
#undef L
};

// The folded hash of the first run at p: a whole word, or one ideograph. *end is where it ends.
static uint64_t first_run(struct td_str s, size_t *end) {
    size_t len;
    uint64_t h = hash_start();
    uint32_t c;
    for (*end = 0; *end < s.n && ascii_word[(unsigned char)s.p[*end]]; ++*end)
        h = hash_add(h, ascii_word[(unsigned char)s.p[*end]]);
    if (*end == 0) {
        c = decode(s.p, s.n, &len);
        h = hash_add(h, fold(c));
        *end = len;
        if (shape_of(c) != SHAPE_WORD)
            return h;
    }
    while (*end < s.n && ((unsigned char)s.p[*end] >= 0x80 || ascii_word[(unsigned char)s.p[*end]])) {
        c = decode(s.p + *end, s.n - *end, &len);
        if (shape_of(c) != SHAPE_WORD)
            break;
        h = hash_add(h, fold(c));
        *end += len;
    }
    return h;
}

// Does `rule` stand at the beginning of `text`, whole?
static bool stands_here(struct td_str rule, struct td_str text) {
    size_t i = 0, j = 0, len;
    enum shape last = SHAPE_OTHER;
    while (i < rule.n) {
        uint32_t r = decode(rule.p + i, rule.n - i, &len);
        last = shape_of(r);
        i += len;
        if (j >= text.n)
            return false;
        uint32_t t = decode(text.p + j, text.n - j, &len);
        j += len;
        if (last != SHAPE_SPACE) {
            if (fold(r) != fold(t))
                return false;
            continue;
        }
        if (shape_of(t) != SHAPE_SPACE)
            return false;
        while (i < rule.n && shape_of(decode(rule.p + i, rule.n - i, &len)) == SHAPE_SPACE)
            i += len;
        while (j < text.n && shape_of(decode(text.p + j, text.n - j, &len)) == SHAPE_SPACE)
            j += len;
    }
    return last != SHAPE_WORD || j >= text.n || shape_of(decode(text.p + j, text.n - j, &len)) != SHAPE_WORD;
}

struct td_content_rules *td_content_create(struct td_arena *arena) {
    struct td_content_rules *rules = td_arena_alloc(arena, sizeof *rules);
    if (!rules)
        return NULL;
    rules->arena = arena;
    rules->regexes = td_regex_create(arena);
    return rules->regexes ? rules : NULL;
}

enum td_err td_content_add_word(struct td_content_rules *rules, struct td_str word, uint32_t label,
                                struct td_error *e) {
    size_t len;
    word = td_str_trim(word);
    if (word.n > TD_PATTERN_BYTES_MAX || !td_str_is_utf8(word))
        return td_error_set(e, TD_ERR_CONFIG, "a word is UTF-8 text of at most %u bytes", TD_PATTERN_BYTES_MAX);
    if (word.n == 0 || shape_of(decode(word.p, word.n, &len)) < SHAPE_WORD)
        return td_error_set(e, TD_ERR_CONFIG, "a word starts with a letter or digit");
    if (rules->entry_count == TD_CONTENT_WORDS_MAX)
        return td_error_set(e, TD_ERR_CONFIG, "more than %u words", TD_CONTENT_WORDS_MAX);
    struct entry *entry = td_arena_alloc(rules->arena, sizeof *entry);
    if (!entry)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading a word");
    *entry = (struct entry){word, first_run(word, &len), label, rules->entries};
    rules->entries = entry;
    rules->entry_count++;
    rules->word_labels |= label;
    return TD_OK;
}

enum td_err td_content_add_pattern(struct td_content_rules *rules, struct td_str pattern, uint32_t label,
                                   struct td_error *e) {
    return td_regex_add(rules->regexes, pattern, label, e);
}

enum td_err td_content_compile(struct td_content_rules *rules) {
    uint32_t slots = 64;
    while (slots < 2 * rules->entry_count)
        slots *= 2;
    rules->slots = td_arena_array(rules->arena, slots, sizeof *rules->slots);
    if (!rules->slots)
        return TD_ERR_NOMEM;
    rules->slot_mask = slots - 1;
    for (struct entry *e = rules->entries, *next; e; e = next) {
        next = e->next;
        struct entry **slot = &rules->slots[(e->hash ^ e->hash >> 32) & rules->slot_mask];
        e->next = *slot;
        *slot = e;
    }
    rules->entries = NULL;
    return td_regex_compile(rules->regexes);
}

static uint32_t scan_words(const struct td_content_rules *rules, struct td_str text) {
    uint32_t found = 0;
    size_t i = 0, len;
    while (i < text.n && found != rules->word_labels) {
        struct td_str rest = td_str_n(text.p + i, text.n - i);
        unsigned char first = (unsigned char)text.p[i];
        if (first < 0x80 && !ascii_word[first]) {
            i++;
            continue;
        }
        if (first >= 0x80 && shape_of(decode(rest.p, rest.n, &len)) < SHAPE_WORD) {
            i += len;
            continue;
        }
        uint64_t h = first_run(rest, &len);
        for (const struct entry *e = rules->slots[(h ^ h >> 32) & rules->slot_mask]; e; e = e->next)
            if (e->hash == h && (found & e->label) != e->label && stands_here(e->text, rest))
                found |= e->label;
        i += len;
    }
    return found;
}

uint32_t td_content_scan(const struct td_content_rules *rules, struct td_str text) {
    if (!rules || !text.n)
        return 0;
    return (rules->entry_count ? scan_words(rules, text) : 0) | td_regex_scan(rules->regexes, text);
}
