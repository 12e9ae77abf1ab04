// SPDX-License-Identifier: Apache-2.0
// A tree written out as a program whose instructions may all be under way at once, and such a program run.
#include "privacy/regex_inner.h"

#define PROG_WORDS_MAX (TD_PATTERN_STATES_MAX / 64 + 2)

uint32_t td_regex_size(const struct td_regex_node *n) {
    uint64_t v = 0, body;
    switch (n->type) {
    case TD_REGEX_EMPTY:
        return 0;
    case TD_REGEX_SET:
    case TD_REGEX_ASSERT:
        return 1;
    case TD_REGEX_CAT:
        v = (uint64_t)td_regex_size(n->a) + td_regex_size(n->b);
        break;
    case TD_REGEX_ALT:
        v = (uint64_t)td_regex_size(n->a) + td_regex_size(n->b) + 1;
        break;
    case TD_REGEX_REPEAT:
        body = td_regex_size(n->a);
        v = n->max == UINT32_MAX ? (body + 1) * (n->min ? n->min : 1) : body * n->min + (body + 1) * (n->max - n->min);
        break;
    }
    return v > TD_PATTERN_STATES_MAX ? TD_PATTERN_STATES_MAX + 1 : (uint32_t)v;
}

static uint32_t intern_set(struct td_regex_group *g, const struct td_byteset *s) {
    for (uint32_t i = 0; i < g->set_count; i++)
        if (memcmp(&g->sets[i], s, sizeof *s) == 0)
            return i;
    g->sets[g->set_count] = *s;
    return g->set_count++;
}

static uint16_t put(struct td_regex_group *g, enum td_regex_op op, uint16_t x, uint16_t y, uint32_t arg) {
    g->prog[g->prog_count] = (struct td_regex_inst){op, x, y, arg};
    return (uint16_t)g->prog_count++;
}

// Writes the program for `n`, which goes on to `next`; returns where it begins. Built from the end to the front.
static uint16_t emit(struct td_regex_group *g, const struct td_regex_node *n, uint16_t next) {
    uint16_t at, loop;
    switch (n->type) {
    case TD_REGEX_EMPTY:
        return next;
    case TD_REGEX_SET:
        return put(g, TD_REGEX_OP_SET, next, 0, intern_set(g, &n->set));
    case TD_REGEX_ASSERT:
        return put(g, TD_REGEX_OP_ASSERT, next, 0, n->assertion);
    case TD_REGEX_CAT:
        return emit(g, n->a, emit(g, n->b, next));
    case TD_REGEX_ALT:
        at = emit(g, n->a, next);
        return put(g, TD_REGEX_OP_SPLIT, at, emit(g, n->b, next), 0);
    case TD_REGEX_REPEAT:
        break;
    }
    at = next;
    unsigned left = n->min;
    if (n->max == UINT32_MAX) {
        loop = put(g, TD_REGEX_OP_SPLIT, 0, next, 0);
        g->prog[loop].x = emit(g, n->a, loop);
        at = n->min == 0 ? loop : g->prog[loop].x;
        left -= n->min != 0;
    }
    for (unsigned i = n->min; n->max != UINT32_MAX && i < n->max; i++) {
        uint16_t body = emit(g, n->a, at);
        at = put(g, TD_REGEX_OP_SPLIT, body, next, 0);
    }
    while (left-- > 0)
        at = emit(g, n->a, at);
    return at;
}

void td_regex_emit(struct td_regex_group *g, const struct td_regex_node *tree, uint32_t label) {
    g->starts[g->start_count++] = emit(g, tree, put(g, TD_REGEX_OP_MATCH, 0, 0, label));
    g->labels |= label;
}

// ---- running it

uint32_t td_regex_close(const struct td_regex_group *g, const uint64_t *raw, enum td_regex_context context,
                        enum td_regex_kind kind, uint64_t *closed, uint16_t *stack) {
    uint32_t labels = 0, depth = 0;
    bool boundary = (context == TD_REGEX_AFTER_WORD) != (kind == TD_REGEX_KIND_WORD);
    memset(closed, 0, g->words * sizeof *closed);
    for (uint32_t w = 0; w < g->words; w++)
        for (uint64_t bits = raw[w]; bits; bits &= bits - 1) {
            stack[depth++] = (uint16_t)(w * 64 + (uint32_t)__builtin_ctzll(bits));
            while (depth) {
                uint16_t i = stack[--depth];
                const struct td_regex_inst *in = &g->prog[i];
                if (closed[i >> 6] >> (i & 63) & 1)
                    continue;
                closed[i >> 6] |= 1ull << (i & 63);
                if (in->op == TD_REGEX_OP_MATCH)
                    labels |= in->arg;
                else if (in->op == TD_REGEX_OP_SPLIT) {
                    stack[depth++] = in->x;
                    stack[depth++] = in->y;
                } else if (in->op == TD_REGEX_OP_ASSERT &&
                           (in->arg == TD_REGEX_AT_START  ? context == TD_REGEX_AFTER_START
                            : in->arg == TD_REGEX_AT_END  ? kind == TD_REGEX_KIND_END
                            : in->arg == TD_REGEX_AT_WORD ? boundary
                                                          : !boundary))
                    stack[depth++] = in->x;
            }
        }
    return labels;
}

void td_regex_begin(const struct td_regex_group *g, uint64_t *raw) {
    memset(raw, 0, g->words * sizeof *raw);
    for (uint32_t i = 0; i < g->start_count; i++)
        raw[g->starts[i] >> 6] |= 1ull << (g->starts[i] & 63);
}

void td_regex_step(const struct td_regex_group *g, const uint64_t *closed, unsigned byte, uint64_t *raw) {
    td_regex_begin(g, raw);
    for (uint32_t w = 0; w < g->words; w++)
        for (uint64_t bits = closed[w]; bits; bits &= bits - 1) {
            const struct td_regex_inst *in = &g->prog[w * 64 + (uint32_t)__builtin_ctzll(bits)];
            if (in->op == TD_REGEX_OP_SET && td_byteset_has(&g->sets[in->arg], byte))
                raw[in->x >> 6] |= 1ull << (in->x & 63);
        }
}

uint32_t td_regex_run_program(const struct td_regex_group *g, struct td_str text) {
    uint64_t raw[PROG_WORDS_MAX], closed[PROG_WORDS_MAX], fresh[PROG_WORDS_MAX];
    uint16_t stack[2 * TD_PATTERN_STATES_MAX + 128]; // each instruction is pushed at most twice
    enum td_regex_context context = TD_REGEX_AFTER_START;
    uint32_t found = 0;
    bool waiting = true; // nothing but the beginnings is alive
    td_regex_begin(g, raw);
    memcpy(fresh, raw, g->words * sizeof *raw);
    for (size_t i = 0; i < text.n && found != g->labels; i++) {
        unsigned c = (unsigned char)text.p[i];
        if (waiting && g->stays[context][c]) {
            context = td_regex_is_word(c) ? TD_REGEX_AFTER_WORD : TD_REGEX_AFTER_OTHER;
            continue;
        }
        found |= td_regex_close(g, raw, context, td_regex_is_word(c) ? TD_REGEX_KIND_WORD : TD_REGEX_KIND_OTHER, closed,
                                stack);
        td_regex_step(g, closed, c, raw);
        waiting = memcmp(raw, fresh, g->words * sizeof *raw) == 0;
        context = td_regex_is_word(c) ? TD_REGEX_AFTER_WORD : TD_REGEX_AFTER_OTHER;
    }
    return found | td_regex_close(g, raw, context, TD_REGEX_KIND_END, closed, stack);
}

void td_regex_find_stays(struct td_regex_group *g) {
    uint64_t raw[PROG_WORDS_MAX], closed[PROG_WORDS_MAX], next[PROG_WORDS_MAX];
    uint16_t stack[2 * TD_PATTERN_STATES_MAX + 128];
    td_regex_begin(g, raw);
    for (unsigned context = 0; context < 3; context++)
        for (unsigned kind = 0; kind < 2; kind++) {
            uint32_t labels =
                td_regex_close(g, raw, (enum td_regex_context)context, (enum td_regex_kind)kind, closed, stack);
            for (unsigned c = 0; c < 256; c++) {
                if ((td_regex_is_word(c) ? TD_REGEX_KIND_WORD : TD_REGEX_KIND_OTHER) != kind)
                    continue;
                td_regex_step(g, closed, c, next);
                g->stays[context][c] = !labels && memcmp(next, raw, g->words * sizeof *raw) == 0;
            }
        }
}
