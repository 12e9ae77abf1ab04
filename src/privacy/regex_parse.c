// SPDX-License-Identifier: Apache-2.0
// An expression read into a tree, by recursive descent.
#include "privacy/regex_inner.h"

struct parser {
    struct td_arena *arena;
    struct td_str text;
    size_t at;
    bool fold, no_memory;
    unsigned depth;
    const char *wrong;
};

static struct td_regex_node *new_node(struct parser *p, enum td_regex_type type, struct td_regex_node *a,
                                      struct td_regex_node *b) {
    struct td_regex_node *n = td_arena_alloc(p->arena, sizeof *n);
    if (!n) {
        p->no_memory = true;
        return NULL;
    }
    *n = (struct td_regex_node){.type = type, .a = a, .b = b};
    return n;
}

static struct td_regex_node *fail(struct parser *p, const char *wrong) {
    if (!p->wrong)
        p->wrong = wrong;
    return NULL;
}

static int peek(const struct parser *p) {
    return p->at < p->text.n ? (unsigned char)p->text.p[p->at] : -1;
}

static struct td_regex_node *set_node(struct parser *p, struct td_byteset set) {
    struct td_regex_node *n = new_node(p, TD_REGEX_SET, NULL, NULL);
    if (n)
        n->set = set;
    return n;
}

static struct td_regex_node *range_node(struct parser *p, unsigned from, unsigned to) {
    struct td_byteset s = {{0}};
    td_byteset_range(&s, from, to);
    return set_node(p, s);
}

static struct td_regex_node *cat(struct parser *p, struct td_regex_node *a, struct td_regex_node *b) {
    return a && b ? new_node(p, TD_REGEX_CAT, a, b) : NULL;
}
static struct td_regex_node *alt(struct parser *p, struct td_regex_node *a, struct td_regex_node *b) {
    return a && b ? new_node(p, TD_REGEX_ALT, a, b) : NULL;
}

// One whole character outside ASCII.
static struct td_regex_node *multibyte(struct parser *p) {
    struct td_regex_node *two = cat(p, range_node(p, 0xc2, 0xdf), range_node(p, 0x80, 0xbf));
    struct td_regex_node *three =
        cat(p, range_node(p, 0xe0, 0xef), cat(p, range_node(p, 0x80, 0xbf), range_node(p, 0x80, 0xbf)));
    struct td_regex_node *four =
        cat(p, range_node(p, 0xf0, 0xf4),
            cat(p, range_node(p, 0x80, 0xbf), cat(p, range_node(p, 0x80, 0xbf), range_node(p, 0x80, 0xbf))));
    return alt(p, two, alt(p, three, four));
}

static void fold_set(const struct parser *p, struct td_byteset *s) {
    for (unsigned c = 'a'; p->fold && c <= 'z'; c++)
        if (td_byteset_has(s, c) || td_byteset_has(s, c - 32)) {
            td_byteset_add(s, c);
            td_byteset_add(s, c - 32);
        }
}

// \d \w \s and, as `negated`, \D \W \S, ASCII part only.
static bool escape_class(char c, struct td_byteset *s, bool *negated) {
    *negated = c >= 'A' && c <= 'Z';
    switch (c | 32) {
    case 'd':
        td_byteset_range(s, '0', '9');
        break;
    case 'w':
        for (unsigned i = 0; i < 128; i++)
            if (td_regex_is_word(i))
                td_byteset_add(s, i);
        break;
    case 's':
        td_byteset_range(s, 9, 13);
        td_byteset_add(s, ' ');
        break;
    default:
        return false;
    }
    for (unsigned i = 0; *negated && i < 2; i++)
        s->w[i] = ~s->w[i];
    return true;
}

static bool escape_char(char c, unsigned *out) {
    static const char letters[] = "ntrfv", values[] = "\n\t\r\f\v";
    const char *at = c ? strchr(letters, c) : NULL;
    if (at)
        *out = (unsigned char)values[at - letters];
    else if (td_regex_is_word((unsigned char)c))
        return false; // reserved
    else
        *out = (unsigned char)c;
    return true;
}

// A literal character of one or more bytes at p->at.
static struct td_regex_node *literal(struct parser *p) {
    struct td_regex_node *n = NULL;
    size_t len = 1;
    unsigned char lead = (unsigned char)p->text.p[p->at];
    if (lead >= 0xc0)
        len = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    for (size_t i = len; i-- > 0;) {
        struct td_byteset s = {{0}};
        td_byteset_add(&s, (unsigned char)p->text.p[p->at + i]);
        fold_set(p, &s);
        struct td_regex_node *one = set_node(p, s);
        n = n ? cat(p, one, n) : one;
    }
    p->at += len;
    return n;
}

// One member of a class: adds ASCII to `s`, other characters to *others. False with p->wrong set.
static bool class_member(struct parser *p, struct td_byteset *s, struct td_regex_node **others, bool *word_in) {
    unsigned from, to;
    bool negated;
    int c = peek(p);
    if (c >= 0x80) {
        struct td_regex_node *n = literal(p);
        *others = *others ? alt(p, *others, n) : n;
        return *others != NULL;
    }
    p->at++;
    from = (unsigned)c;
    if (c == '\\') {
        struct td_byteset e = {{0}};
        c = peek(p);
        p->at++;
        if (c >= 0 && escape_class((char)c, &e, &negated)) {
            for (int i = 0; i < 2; i++)
                s->w[i] |= e.w[i];
            *word_in = *word_in || c == 'w' || c == 'S' || c == 'D';
            return true;
        }
        if (c < 0 || !escape_char((char)c, &from))
            return fail(p, "unknown escape in a class");
    }
    to = from;
    if (peek(p) == '-' && p->at + 1 < p->text.n && p->text.p[p->at + 1] != ']') {
        p->at++;
        c = peek(p);
        p->at++;
        to = (unsigned)c;
        if (c == '\\') {
            c = peek(p);
            p->at++;
            if (c < 0 || !escape_char((char)c, &to))
                return fail(p, "unknown escape in a class");
        }
        if (to >= 0x80 || to < from)
            return fail(p, "a range in a class goes up and stays in ASCII");
    }
    td_byteset_range(s, from, to);
    return true;
}

static struct td_regex_node *parse_class(struct parser *p) {
    struct td_byteset s = {{0}};
    struct td_regex_node *others = NULL, *ascii;
    bool negated = false, word_in = false, first = true;
    if (peek(p) == '^') {
        negated = true;
        p->at++;
    }
    while (first || peek(p) != ']') {
        if (peek(p) < 0)
            return fail(p, "a class lacks its ]");
        if (!class_member(p, &s, &others, &word_in))
            return NULL;
        first = false;
    }
    p->at++;
    if (negated && others)
        return fail(p, "a negated class holds ASCII only");
    fold_set(p, &s);
    for (int i = 0; negated && i < 2; i++)
        s.w[i] = ~s.w[i];
    ascii = set_node(p, s);
    if (negated ? !word_in : word_in) // everything outside ASCII is a word character
        return alt(p, ascii, multibyte(p));
    return others ? alt(p, ascii, others) : ascii;
}

static struct td_regex_node *parse_alt(struct parser *p);

static struct td_regex_node *assertion(struct parser *p, enum td_regex_assertion a) {
    struct td_regex_node *n = new_node(p, TD_REGEX_ASSERT, NULL, NULL);
    if (n)
        n->assertion = a;
    return n;
}

static struct td_regex_node *parse_escape(struct parser *p) {
    struct td_byteset s = {{0}};
    bool negated;
    unsigned value;
    int c = peek(p);
    if (c < 0)
        return fail(p, "it ends in a backslash");
    if (c >= 0x80)
        return literal(p);
    p->at++;
    if (c == 'b' || c == 'B')
        return assertion(p, c == 'b' ? TD_REGEX_AT_WORD : TD_REGEX_AT_NOT_WORD);
    if (escape_class((char)c, &s, &negated)) {
        struct td_regex_node *ascii = set_node(p, s);
        return c == 'w' || c == 'S' || c == 'D' ? alt(p, ascii, multibyte(p)) : ascii;
    }
    if (!escape_char((char)c, &value))
        return fail(p, "unknown escape (back-references do not exist here)");
    td_byteset_add(&s, value);
    return set_node(p, s);
}

static struct td_regex_node *parse_atom(struct parser *p) {
    struct td_byteset s = {{0}};
    struct td_regex_node *n;
    int c = peek(p);
    switch (c) {
    case '(':
        p->at++;
        if (peek(p) == '?') {
            if (p->at + 1 >= p->text.n || p->text.p[p->at + 1] != ':')
                return fail(p, "of the (?…) forms only (?:…) and a leading (?i) exist");
            p->at += 2;
        }
        if (++p->depth > TD_REGEX_DEPTH_MAX)
            return fail(p, "groups are nested too deeply");
        n = parse_alt(p);
        p->depth--;
        if (n && peek(p) != ')')
            return fail(p, "a group lacks its )");
        p->at++;
        return n;
    case '[':
        p->at++;
        return parse_class(p);
    case '\\':
        p->at++;
        return parse_escape(p);
    case '^':
    case '$':
        p->at++;
        return assertion(p, c == '^' ? TD_REGEX_AT_START : TD_REGEX_AT_END);
    case '.':
        p->at++;
        td_byteset_range(&s, 0, 127);
        s.w[0] &= ~(1ull << '\n');
        return alt(p, set_node(p, s), multibyte(p));
    case '*':
    case '+':
    case '?':
        return fail(p, "a repeat has nothing before it");
    default:
        return literal(p);
    }
}

static bool parse_count(struct parser *p, unsigned *out) {
    unsigned v = 0;
    size_t from = p->at;
    while (peek(p) >= '0' && peek(p) <= '9' && v < 10000)
        v = v * 10 + (unsigned)(p->text.p[p->at++] - '0');
    *out = v;
    return p->at > from && v <= 1000;
}

// Reads a repeat's bounds; false where none stands here (or it is wrong, p->wrong set).
static bool parse_bounds(struct parser *p, unsigned *min, unsigned *max) {
    int c = peek(p);
    *min = c == '+';
    *max = c == '?' ? 1 : UINT32_MAX;
    if (c == '*' || c == '+' || c == '?') {
        p->at++;
        return true;
    }
    if (c != '{')
        return false;
    p->at++;
    if (!parse_count(p, min))
        return fail(p, "a repeat counts from 0 to 1000");
    *max = *min;
    if (peek(p) == ',') {
        p->at++;
        *max = UINT32_MAX;
        if (peek(p) != '}' && (!parse_count(p, max) || *max < *min))
            return fail(p, "a repeat's upper bound is a number from its lower one to 1000");
    }
    if (peek(p) != '}')
        return fail(p, "a repeat lacks its }");
    p->at++;
    return true;
}

static struct td_regex_node *parse_repeat(struct parser *p) {
    struct td_regex_node *n = parse_atom(p);
    unsigned min, max, repeats = 0;
    while (n && parse_bounds(p, &min, &max)) {
        if (++repeats > 4)
            return fail(p, "repeats of repeats");
        struct td_regex_node *r = new_node(p, TD_REGEX_REPEAT, n, NULL);
        if (!r)
            return NULL;
        r->min = min;
        r->max = max;
        n = r;
        if (peek(p) == '?') // a lazy repeat finds the same texts
            p->at++;
    }
    return p->wrong ? NULL : n;
}

static struct td_regex_node *parse_alt(struct parser *p) {
    struct td_regex_node *whole = NULL;
    for (;;) {
        struct td_regex_node *run = new_node(p, TD_REGEX_EMPTY, NULL, NULL);
        while (run && peek(p) >= 0 && peek(p) != '|' && peek(p) != ')')
            run = cat(p, run, parse_repeat(p));
        whole = whole ? alt(p, whole, run) : run;
        if (!whole || peek(p) != '|')
            return whole;
        p->at++;
    }
}

enum td_err td_regex_parse(struct td_arena *arena, struct td_str text, struct td_regex_node **out, struct td_error *e) {
    struct parser p = {.arena = arena, .text = text};
    if (td_str_starts(text, TD_STR("(?i)"))) {
        p.fold = true;
        p.at = 4;
    }
    struct td_regex_node *tree = parse_alt(&p);
    if (p.no_memory)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading a pattern");
    if (p.wrong)
        return td_error_set(e, TD_ERR_CONFIG, "pattern, at byte %zu: %s", p.at, p.wrong);
    if (p.at < text.n)
        return td_error_set(e, TD_ERR_CONFIG, "pattern, at byte %zu: a ) without its (", p.at);
    *out = tree;
    return TD_OK;
}

bool td_regex_matches_empty(const struct td_regex_node *n) {
    switch (n->type) {
    case TD_REGEX_EMPTY:
    case TD_REGEX_ASSERT:
        return true;
    case TD_REGEX_SET:
        return false;
    case TD_REGEX_CAT:
        return td_regex_matches_empty(n->a) && td_regex_matches_empty(n->b);
    case TD_REGEX_ALT:
        return td_regex_matches_empty(n->a) || td_regex_matches_empty(n->b);
    case TD_REGEX_REPEAT:
        return n->min == 0 || td_regex_matches_empty(n->a);
    }
    return false;
}
