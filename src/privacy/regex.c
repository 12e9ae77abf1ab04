// SPDX-License-Identifier: Apache-2.0
#include "privacy/regex.h"

#include "base/hash.h"

// ---- reading an expression into a tree

enum node_type { NODE_EMPTY, NODE_SET, NODE_CAT, NODE_ALT, NODE_REPEAT, NODE_ASSERT };
enum assertion { ASSERT_START, ASSERT_END, ASSERT_WORD, ASSERT_NOT_WORD };

struct byteset {
    uint64_t w[4];
};

struct node {
    enum node_type type;
    struct node *a, *b;
    struct byteset set;
    enum assertion assertion;
    unsigned min, max; // repeat; max UINT_MAX: no limit
};

enum op { OP_SET, OP_SPLIT, OP_ASSERT, OP_MATCH };

struct inst {
    enum op op;
    uint16_t x, y; // next; SPLIT: both
    uint32_t arg;  // SET: index of its set; ASSERT: which; MATCH: label bits
};

struct pattern {
    struct td_str text;
    struct node *tree;
    uint32_t label;
    uint32_t states;
    struct pattern *next;
};

struct group { // patterns that run together
    struct inst *prog;
    uint32_t prog_count, words; // words of a bit set over the program
    struct byteset *sets;
    uint32_t set_count;
    uint16_t *starts;
    uint32_t start_count;
    uint32_t labels; // all it can find
    uint8_t class_of[256], kind_of_class[256];
    uint32_t class_count;
    uint16_t *table;    // next state by state and class, EMITS where labels come with it; NULL: the program runs itself
    bool stays[3][256]; // by context and byte: a program that waits for a beginning still waits after it
    uint32_t (*out)[3];
    uint32_t state_count;
    struct group *next;
};

#define EMITS 0x8000u

struct td_regex_set {
    struct td_arena *arena;
    struct pattern *patterns, **tail;
    uint32_t pattern_count;
    struct group *groups;
};

enum kind { KIND_OTHER, KIND_WORD, KIND_END }; // of the byte that follows
enum context { CONTEXT_OTHER, CONTEXT_WORD, CONTEXT_START };

static void set_add(struct byteset *s, unsigned c) {
    s->w[c >> 6] |= 1ull << (c & 63);
}
static bool set_has(const struct byteset *s, unsigned c) {
    return s->w[c >> 6] >> (c & 63) & 1;
}
static void set_range(struct byteset *s, unsigned from, unsigned to) {
    for (unsigned c = from; c <= to; c++)
        set_add(s, c);
}
// Bytes of other alphabets belong to words, so that \b does not cut them.
static bool is_word(unsigned c) {
    return c >= 0x80 || c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

struct parser {
    struct td_arena *arena;
    struct td_str text;
    size_t at;
    bool fold, no_memory;
    unsigned depth;
    const char *wrong;
};

static struct node *new_node(struct parser *p, enum node_type type, struct node *a, struct node *b) {
    struct node *n = td_arena_alloc(p->arena, sizeof *n);
    if (!n) {
        p->no_memory = true;
        return NULL;
    }
    *n = (struct node){.type = type, .a = a, .b = b};
    return n;
}

static struct node *fail(struct parser *p, const char *wrong) {
    if (!p->wrong)
        p->wrong = wrong;
    return NULL;
}

static int peek(const struct parser *p) {
    return p->at < p->text.n ? (unsigned char)p->text.p[p->at] : -1;
}

static struct node *set_node(struct parser *p, struct byteset set) {
    struct node *n = new_node(p, NODE_SET, NULL, NULL);
    if (n)
        n->set = set;
    return n;
}

static struct node *range_node(struct parser *p, unsigned from, unsigned to) {
    struct byteset s = {{0}};
    set_range(&s, from, to);
    return set_node(p, s);
}

static struct node *cat(struct parser *p, struct node *a, struct node *b) {
    return a && b ? new_node(p, NODE_CAT, a, b) : NULL;
}
static struct node *alt(struct parser *p, struct node *a, struct node *b) {
    return a && b ? new_node(p, NODE_ALT, a, b) : NULL;
}

// One whole character outside ASCII.
static struct node *multibyte(struct parser *p) {
    struct node *two = cat(p, range_node(p, 0xc2, 0xdf), range_node(p, 0x80, 0xbf));
    struct node *three =
        cat(p, range_node(p, 0xe0, 0xef), cat(p, range_node(p, 0x80, 0xbf), range_node(p, 0x80, 0xbf)));
    struct node *four =
        cat(p, range_node(p, 0xf0, 0xf4),
            cat(p, range_node(p, 0x80, 0xbf), cat(p, range_node(p, 0x80, 0xbf), range_node(p, 0x80, 0xbf))));
    return alt(p, two, alt(p, three, four));
}

static void fold_set(const struct parser *p, struct byteset *s) {
    for (unsigned c = 'a'; p->fold && c <= 'z'; c++)
        if (set_has(s, c) || set_has(s, c - 32)) {
            set_add(s, c);
            set_add(s, c - 32);
        }
}

// \d \w \s and, as `negated`, \D \W \S, ASCII part only.
static bool escape_class(char c, struct byteset *s, bool *negated) {
    *negated = c >= 'A' && c <= 'Z';
    switch (c | 32) {
    case 'd':
        set_range(s, '0', '9');
        break;
    case 'w':
        for (unsigned i = 0; i < 128; i++)
            if (is_word(i))
                set_add(s, i);
        break;
    case 's':
        set_range(s, 9, 13);
        set_add(s, ' ');
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
    else if (is_word((unsigned char)c))
        return false; // reserved
    else
        *out = (unsigned char)c;
    return true;
}

// A literal character of one or more bytes at p->at.
static struct node *literal(struct parser *p) {
    struct node *n = NULL;
    size_t len = 1;
    unsigned char lead = (unsigned char)p->text.p[p->at];
    if (lead >= 0xc0)
        len = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    for (size_t i = len; i-- > 0;) {
        struct byteset s = {{0}};
        set_add(&s, (unsigned char)p->text.p[p->at + i]);
        fold_set(p, &s);
        struct node *one = set_node(p, s);
        n = n ? cat(p, one, n) : one;
    }
    p->at += len;
    return n;
}

// One member of a class: adds ASCII to `s`, other characters to *others. False with p->wrong set.
static bool class_member(struct parser *p, struct byteset *s, struct node **others, bool *word_in) {
    unsigned from, to;
    bool negated;
    int c = peek(p);
    if (c >= 0x80) {
        struct node *n = literal(p);
        *others = *others ? alt(p, *others, n) : n;
        return *others != NULL;
    }
    p->at++;
    from = (unsigned)c;
    if (c == '\\') {
        struct byteset e = {{0}};
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
    set_range(s, from, to);
    return true;
}

static struct node *parse_class(struct parser *p) {
    struct byteset s = {{0}};
    struct node *others = NULL, *ascii;
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

static struct node *parse_alt(struct parser *p);

static struct node *assertion(struct parser *p, enum assertion a) {
    struct node *n = new_node(p, NODE_ASSERT, NULL, NULL);
    if (n)
        n->assertion = a;
    return n;
}

static struct node *parse_escape(struct parser *p) {
    struct byteset s = {{0}};
    bool negated;
    unsigned value;
    int c = peek(p);
    if (c < 0)
        return fail(p, "it ends in a backslash");
    if (c >= 0x80)
        return literal(p);
    p->at++;
    if (c == 'b' || c == 'B')
        return assertion(p, c == 'b' ? ASSERT_WORD : ASSERT_NOT_WORD);
    if (escape_class((char)c, &s, &negated)) {
        struct node *ascii = set_node(p, s);
        return c == 'w' || c == 'S' || c == 'D' ? alt(p, ascii, multibyte(p)) : ascii;
    }
    if (!escape_char((char)c, &value))
        return fail(p, "unknown escape (back-references do not exist here)");
    set_add(&s, value);
    return set_node(p, s);
}

static struct node *parse_atom(struct parser *p) {
    struct byteset s = {{0}};
    struct node *n;
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
        return assertion(p, c == '^' ? ASSERT_START : ASSERT_END);
    case '.':
        p->at++;
        set_range(&s, 0, 127);
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

static struct node *parse_repeat(struct parser *p) {
    struct node *n = parse_atom(p);
    unsigned min, max, repeats = 0;
    while (n && parse_bounds(p, &min, &max)) {
        if (++repeats > 4)
            return fail(p, "repeats of repeats");
        struct node *r = new_node(p, NODE_REPEAT, n, NULL);
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

static struct node *parse_alt(struct parser *p) {
    struct node *whole = NULL;
    for (;;) {
        struct node *run = new_node(p, NODE_EMPTY, NULL, NULL);
        while (run && peek(p) >= 0 && peek(p) != '|' && peek(p) != ')')
            run = cat(p, run, parse_repeat(p));
        whole = whole ? alt(p, whole, run) : run;
        if (!whole || peek(p) != '|')
            return whole;
        p->at++;
    }
}

// ---- from the tree to a program

// How many instructions a tree takes, saturating over the limit.
static uint32_t size_of(const struct node *n) {
    uint64_t v = 0, body;
    switch (n->type) {
    case NODE_EMPTY:
        return 0;
    case NODE_SET:
    case NODE_ASSERT:
        return 1;
    case NODE_CAT:
        v = (uint64_t)size_of(n->a) + size_of(n->b);
        break;
    case NODE_ALT:
        v = (uint64_t)size_of(n->a) + size_of(n->b) + 1;
        break;
    case NODE_REPEAT:
        body = size_of(n->a);
        v = n->max == UINT32_MAX ? (body + 1) * (n->min ? n->min : 1) : body * n->min + (body + 1) * (n->max - n->min);
        break;
    }
    return v > TD_PATTERN_STATES_MAX ? TD_PATTERN_STATES_MAX + 1 : (uint32_t)v;
}

static bool matches_empty(const struct node *n) {
    switch (n->type) {
    case NODE_EMPTY:
    case NODE_ASSERT:
        return true;
    case NODE_SET:
        return false;
    case NODE_CAT:
        return matches_empty(n->a) && matches_empty(n->b);
    case NODE_ALT:
        return matches_empty(n->a) || matches_empty(n->b);
    case NODE_REPEAT:
        return n->min == 0 || matches_empty(n->a);
    }
    return false;
}

static uint32_t intern_set(struct group *g, const struct byteset *s) {
    for (uint32_t i = 0; i < g->set_count; i++)
        if (memcmp(&g->sets[i], s, sizeof *s) == 0)
            return i;
    g->sets[g->set_count] = *s;
    return g->set_count++;
}

static uint16_t put(struct group *g, enum op op, uint16_t x, uint16_t y, uint32_t arg) {
    g->prog[g->prog_count] = (struct inst){op, x, y, arg};
    return (uint16_t)g->prog_count++;
}

// Writes the program for `n`, which goes on to `next`; returns where it begins. Built from the end to the front.
static uint16_t emit(struct group *g, const struct node *n, uint16_t next) {
    uint16_t at, loop;
    switch (n->type) {
    case NODE_EMPTY:
        return next;
    case NODE_SET:
        return put(g, OP_SET, next, 0, intern_set(g, &n->set));
    case NODE_ASSERT:
        return put(g, OP_ASSERT, next, 0, n->assertion);
    case NODE_CAT:
        return emit(g, n->a, emit(g, n->b, next));
    case NODE_ALT:
        at = emit(g, n->a, next);
        return put(g, OP_SPLIT, at, emit(g, n->b, next), 0);
    case NODE_REPEAT:
        break;
    }
    at = next;
    unsigned left = n->min;
    if (n->max == UINT32_MAX) {
        loop = put(g, OP_SPLIT, 0, next, 0);
        g->prog[loop].x = emit(g, n->a, loop);
        at = n->min == 0 ? loop : g->prog[loop].x;
        left -= n->min != 0;
    }
    for (unsigned i = n->min; n->max != UINT32_MAX && i < n->max; i++) {
        uint16_t body = emit(g, n->a, at);
        at = put(g, OP_SPLIT, body, next, 0);
    }
    while (left-- > 0)
        at = emit(g, n->a, at);
    return at;
}

// ---- running it

// Everything reachable from `raw` without taking a byte, where `context` lies before and `kind` behind. Returns labels.
static uint32_t close_over(const struct group *g, const uint64_t *raw, enum context context, enum kind kind,
                           uint64_t *closed, uint16_t *stack) {
    uint32_t labels = 0, depth = 0;
    bool boundary = (context == CONTEXT_WORD) != (kind == KIND_WORD);
    memset(closed, 0, g->words * sizeof *closed);
    for (uint32_t w = 0; w < g->words; w++)
        for (uint64_t bits = raw[w]; bits; bits &= bits - 1) {
            stack[depth++] = (uint16_t)(w * 64 + (uint32_t)__builtin_ctzll(bits));
            while (depth) {
                uint16_t i = stack[--depth];
                const struct inst *in = &g->prog[i];
                if (closed[i >> 6] >> (i & 63) & 1)
                    continue;
                closed[i >> 6] |= 1ull << (i & 63);
                if (in->op == OP_MATCH)
                    labels |= in->arg;
                else if (in->op == OP_SPLIT) {
                    stack[depth++] = in->x;
                    stack[depth++] = in->y;
                } else if (in->op == OP_ASSERT && (in->arg == ASSERT_START  ? context == CONTEXT_START
                                                   : in->arg == ASSERT_END  ? kind == KIND_END
                                                   : in->arg == ASSERT_WORD ? boundary
                                                                            : !boundary))
                    stack[depth++] = in->x;
            }
        }
    return labels;
}

static void start(const struct group *g, uint64_t *raw) {
    memset(raw, 0, g->words * sizeof *raw);
    for (uint32_t i = 0; i < g->start_count; i++)
        raw[g->starts[i] >> 6] |= 1ull << (g->starts[i] & 63);
}

static void step(const struct group *g, const uint64_t *closed, unsigned byte, uint64_t *raw) {
    start(g, raw);
    for (uint32_t w = 0; w < g->words; w++)
        for (uint64_t bits = closed[w]; bits; bits &= bits - 1) {
            const struct inst *in = &g->prog[w * 64 + (uint32_t)__builtin_ctzll(bits)];
            if (in->op == OP_SET && set_has(&g->sets[in->arg], byte))
                raw[in->x >> 6] |= 1ull << (in->x & 63);
        }
}

#define PROG_WORDS_MAX (TD_PATTERN_STATES_MAX / 64 + 2)

static uint32_t run_program(const struct group *g, struct td_str text) {
    uint64_t raw[PROG_WORDS_MAX], closed[PROG_WORDS_MAX], fresh[PROG_WORDS_MAX];
    uint16_t stack[2 * TD_PATTERN_STATES_MAX + 128]; // each instruction is pushed at most twice
    enum context context = CONTEXT_START;
    uint32_t found = 0;
    bool waiting = true; // nothing but the beginnings is alive
    start(g, raw);
    memcpy(fresh, raw, g->words * sizeof *raw);
    for (size_t i = 0; i < text.n && found != g->labels; i++) {
        unsigned c = (unsigned char)text.p[i];
        if (waiting && g->stays[context][c]) {
            context = is_word(c) ? CONTEXT_WORD : CONTEXT_OTHER;
            continue;
        }
        found |= close_over(g, raw, context, is_word(c) ? KIND_WORD : KIND_OTHER, closed, stack);
        step(g, closed, c, raw);
        waiting = memcmp(raw, fresh, g->words * sizeof *raw) == 0;
        context = is_word(c) ? CONTEXT_WORD : CONTEXT_OTHER;
    }
    return found | close_over(g, raw, context, KIND_END, closed, stack);
}

static uint32_t run_table(const struct group *g, struct td_str text) {
    uint32_t found = 0, state = 0;
    for (size_t i = 0; i < text.n; i++) {
        unsigned class = g->class_of[(unsigned char)text.p[i]];
        uint32_t next = g->table[state * g->class_count + class];
        if (next & EMITS)
            found |= g->out[state][g->kind_of_class[class]];
        state = next & ~EMITS;
    }
    return found | g->out[state][KIND_END];
}

// ---- from programs to tables

// Bytes that no set tells apart share a class.
static void make_classes(struct group *g) {
    uint32_t count = 2;
    for (unsigned c = 0; c < 256; c++)
        g->class_of[c] = is_word(c);
    for (uint32_t s = 0; s < g->set_count; s++) {
        int split[256];
        uint32_t before = count;
        memset(split, -1, sizeof split);
        for (uint32_t k = 0; k < before; k++) {
            unsigned in = 0, out = 0;
            for (unsigned c = 0; c < 256; c++)
                if (g->class_of[c] == k)
                    *(set_has(&g->sets[s], c) ? &in : &out) = 1;
            if (in && out)
                split[k] = (int)count++;
        }
        for (unsigned c = 0; c < 256; c++)
            if (set_has(&g->sets[s], c) && split[g->class_of[c]] >= 0)
                g->class_of[c] = (uint8_t)split[g->class_of[c]];
    }
    g->class_count = count;
    for (unsigned c = 0; c < 256; c++)
        g->kind_of_class[g->class_of[c]] = is_word(c) ? KIND_WORD : KIND_OTHER;
}

struct builder {
    struct group *g;
    uint64_t *keys; // per state: raw set and, in the last word, the context
    uint32_t key_words, count, cap;
    uint32_t *slots; // hash table, state + 1
    uint32_t slot_mask;
};

static uint32_t state_of(struct builder *b, const uint64_t *key) {
    uint64_t h = td_hash64(td_str_n((const char *)key, b->key_words * sizeof *key));
    uint32_t at = (uint32_t)h & b->slot_mask;
    for (; b->slots[at]; at = (at + 1) & b->slot_mask)
        if (memcmp(b->keys + (size_t)(b->slots[at] - 1) * b->key_words, key, b->key_words * sizeof *key) == 0)
            return b->slots[at] - 1;
    if (b->count == b->cap)
        return UINT32_MAX;
    memcpy(b->keys + (size_t)b->count * b->key_words, key, b->key_words * sizeof *key);
    b->slots[at] = ++b->count;
    return b->count - 1;
}

// Fills g->table. False when it would have too many states.
static bool build_states(struct builder *b, uint16_t *table, uint32_t (*out)[3], uint64_t *work, uint16_t *stack) {
    struct group *g = b->g;
    uint64_t *key = work, *closed[3] = {work + b->key_words, work + 2 * b->key_words, work + 3 * b->key_words};
    unsigned sample[256];
    for (unsigned c = 256; c-- > 0;)
        sample[g->class_of[c]] = c;
    memset(key, 0, b->key_words * sizeof *key);
    for (uint32_t i = 0; i < g->start_count; i++)
        key[g->starts[i] >> 6] |= 1ull << (g->starts[i] & 63);
    key[g->words] = CONTEXT_START;
    state_of(b, key);
    for (uint32_t s = 0; s < b->count; s++) {
        const uint64_t *raw = b->keys + (size_t)s * b->key_words;
        for (unsigned kind = 0; kind < 3; kind++)
            out[s][kind] = close_over(g, raw, (enum context)raw[g->words], (enum kind)kind, closed[kind], stack);
        for (uint32_t class = 0; class < g->class_count; class ++) {
            step(g, closed[g->kind_of_class[class]], sample[class], key);
            key[g->words] = g->kind_of_class[class] == KIND_WORD ? CONTEXT_WORD : CONTEXT_OTHER;
            uint32_t to = state_of(b, key);
            if (to == UINT32_MAX)
                return false;
            table[s * g->class_count + class] = (uint16_t)(to | (out[s][g->kind_of_class[class]] ? EMITS : 0));
        }
    }
    return true;
}

// TD_OK with or without a table.
static enum td_err build_table(struct td_regex_set *set, struct group *g) {
    struct builder b = {.g = g, .key_words = g->words + 1, .cap = TD_REGEX_TABLE_STATES_MAX};
    enum td_err err = TD_ERR_NOMEM;
    uint16_t *table = td_calloc((size_t)b.cap * g->class_count, sizeof *table);
    uint32_t(*out)[3] = td_calloc(b.cap, sizeof *out);
    uint64_t *work = td_calloc(4 * (size_t)b.key_words, sizeof *work);
    uint16_t *stack = td_calloc(2 * (size_t)g->prog_count + 128, sizeof *stack);
    b.slot_mask = 4 * b.cap - 1;
    b.slots = td_calloc(b.slot_mask + 1, sizeof *b.slots);
    b.keys = td_calloc((size_t)b.cap * b.key_words, sizeof *b.keys);
    if (!table || !out || !work || !stack || !b.slots || !b.keys)
        goto out;
    err = TD_OK;
    if (build_states(&b, table, out, work, stack)) {
        size_t n = (size_t)b.count * g->class_count;
        g->table = td_arena_array(set->arena, n, sizeof *table);
        g->out = td_arena_array(set->arena, b.count, sizeof *out);
        g->state_count = b.count;
        err = g->table && g->out ? TD_OK : TD_ERR_NOMEM;
        if (err == TD_OK) {
            memcpy(g->table, table, n * sizeof *table);
            memcpy(g->out, out, b.count * sizeof *out);
        }
    }
out:
    td_free(table);
    td_free(out);
    td_free(work);
    td_free(stack);
    td_free(b.slots);
    td_free(b.keys);
    return err;
}

// Which bytes leave a program waiting for a beginning; most of most texts is passed over by it.
static void find_stays(struct group *g) {
    uint64_t raw[PROG_WORDS_MAX], closed[PROG_WORDS_MAX], next[PROG_WORDS_MAX];
    uint16_t stack[2 * TD_PATTERN_STATES_MAX + 128];
    start(g, raw);
    for (unsigned context = 0; context < 3; context++)
        for (unsigned kind = 0; kind < 2; kind++) {
            uint32_t labels = close_over(g, raw, (enum context)context, (enum kind)kind, closed, stack);
            for (unsigned c = 0; c < 256; c++) {
                if ((is_word(c) ? KIND_WORD : KIND_OTHER) != kind)
                    continue;
                step(g, closed, c, next);
                g->stays[context][c] = !labels && memcmp(next, raw, g->words * sizeof *raw) == 0;
            }
        }
}

// Makes one group of `count` patterns from `first` on, or several when it would grow too large.
static enum td_err make_groups(struct td_regex_set *set, struct pattern *first, uint32_t count) {
    uint32_t states = 0;
    struct pattern *p = first;
    enum td_err err;
    for (uint32_t i = 0; i < count; i++, p = p->next)
        states += p->states + 1;
    if (count == 1 || states <= TD_PATTERN_STATES_MAX) {
        struct group *g = td_arena_alloc(set->arena, sizeof *g);
        if (!g)
            return TD_ERR_NOMEM;
        g->prog = td_arena_array(set->arena, states, sizeof *g->prog);
        g->sets = td_arena_array(set->arena, states, sizeof *g->sets);
        g->starts = td_arena_array(set->arena, count, sizeof *g->starts);
        if (!g->prog || !g->sets || !g->starts)
            return TD_ERR_NOMEM;
        p = first;
        for (uint32_t i = 0; i < count; i++, p = p->next) {
            g->starts[g->start_count++] = emit(g, p->tree, put(g, OP_MATCH, 0, 0, p->label));
            g->labels |= p->label;
        }
        g->words = (g->prog_count + 63) / 64;
        make_classes(g);
        err = build_table(set, g);
        if (err == TD_OK && !g->table && count == 1)
            find_stays(g);
        if (err != TD_OK || g->table || count == 1) {
            g->next = set->groups;
            set->groups = g;
            return err;
        }
    }
    err = make_groups(set, first, count / 2);
    p = first;
    for (uint32_t i = 0; i < count / 2; i++)
        p = p->next;
    return err == TD_OK ? make_groups(set, p, count - count / 2) : err;
}

// ---- the door

struct td_regex_set *td_regex_create(struct td_arena *arena) {
    struct td_regex_set *set = td_arena_alloc(arena, sizeof *set);
    if (set) {
        set->arena = arena;
        set->tail = &set->patterns;
    }
    return set;
}

enum td_err td_regex_add(struct td_regex_set *set, struct td_str text, uint32_t label, struct td_error *e) {
    struct parser p = {.arena = set->arena, .text = text};
    if (text.n == 0 || text.n > TD_PATTERN_BYTES_MAX || !td_str_is_utf8(text))
        return td_error_set(e, TD_ERR_CONFIG, "a pattern is UTF-8 text of 1 to %u bytes", TD_PATTERN_BYTES_MAX);
    if (set->pattern_count == TD_CONTENT_PATTERNS_MAX)
        return td_error_set(e, TD_ERR_CONFIG, "more than %u patterns", TD_CONTENT_PATTERNS_MAX);
    if (td_str_starts(text, TD_STR("(?i)"))) {
        p.fold = true;
        p.at = 4;
    }
    struct node *tree = parse_alt(&p);
    if (p.no_memory)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading a pattern");
    if (p.wrong)
        return td_error_set(e, TD_ERR_CONFIG, "pattern, at byte %zu: %s", p.at, p.wrong);
    if (p.at < text.n)
        return td_error_set(e, TD_ERR_CONFIG, "pattern, at byte %zu: a ) without its (", p.at);
    if (matches_empty(tree))
        return td_error_set(e, TD_ERR_CONFIG, "the pattern matches everything: it can match nothing at all");
    struct pattern *new = td_arena_alloc(set->arena, sizeof *new);
    if (!new)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading a pattern");
    *new = (struct pattern){.text = text, .tree = tree, .label = label, .states = size_of(tree)};
    if (new->states > TD_PATTERN_STATES_MAX - 1)
        return td_error_set(e, TD_ERR_CONFIG,
                            "the pattern is too large: over %u positions with its repeats written out",
                            TD_PATTERN_STATES_MAX);
    *set->tail = new;
    set->tail = &new->next;
    set->pattern_count++;
    return TD_OK;
}

enum td_err td_regex_compile(struct td_regex_set *set) {
    set->groups = NULL;
    return set->pattern_count ? make_groups(set, set->patterns, set->pattern_count) : TD_OK;
}

uint32_t td_regex_scan(const struct td_regex_set *set, struct td_str text) {
    uint32_t found = 0;
    for (const struct group *g = set->groups; g; g = g->next)
        if ((found & g->labels) != g->labels)
            found |= g->table ? run_table(g, text) : run_program(g, text);
    return found;
}
