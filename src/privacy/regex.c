// SPDX-License-Identifier: Apache-2.0
// The set: patterns are gathered, then divided into groups that run together.
#include "privacy/regex.h"

#include "privacy/regex_inner.h"

struct pattern {
    struct td_regex_node *tree;
    uint32_t label;
    uint32_t states;
    struct pattern *next;
};

struct td_regex_set {
    struct td_arena *arena;
    struct pattern *patterns, **tail;
    uint32_t pattern_count;
    struct td_regex_group *groups;
};

// Makes one group of `count` patterns from `first` on, or several when it would grow too large.
static enum td_err make_groups(struct td_regex_set *set, struct pattern *first, uint32_t count) {
    uint32_t states = 0;
    struct pattern *p = first;
    enum td_err err;
    for (uint32_t i = 0; i < count; i++, p = p->next)
        states += p->states + 1;
    if (count == 1 || states <= TD_PATTERN_STATES_MAX) {
        struct td_regex_group *g = td_arena_alloc(set->arena, sizeof *g);
        if (!g)
            return TD_ERR_NOMEM;
        g->prog = td_arena_array(set->arena, states, sizeof *g->prog);
        g->sets = td_arena_array(set->arena, states, sizeof *g->sets);
        g->starts = td_arena_array(set->arena, count, sizeof *g->starts);
        if (!g->prog || !g->sets || !g->starts)
            return TD_ERR_NOMEM;
        p = first;
        for (uint32_t i = 0; i < count; i++, p = p->next)
            td_regex_emit(g, p->tree, p->label);
        g->words = (g->prog_count + 63) / 64;
        err = td_regex_build_table(set->arena, g);
        if (err == TD_OK && !g->table && count == 1)
            td_regex_find_stays(g);
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

struct td_regex_set *td_regex_create(struct td_arena *arena) {
    struct td_regex_set *set = td_arena_alloc(arena, sizeof *set);
    if (set) {
        set->arena = arena;
        set->tail = &set->patterns;
    }
    return set;
}

enum td_err td_regex_add(struct td_regex_set *set, struct td_str text, uint32_t label, struct td_error *e) {
    struct td_regex_node *tree;
    if (text.n == 0 || text.n > TD_PATTERN_BYTES_MAX || !td_str_is_utf8(text))
        return td_error_set(e, TD_ERR_CONFIG, "a pattern is UTF-8 text of 1 to %u bytes", TD_PATTERN_BYTES_MAX);
    if (set->pattern_count == TD_CONTENT_PATTERNS_MAX)
        return td_error_set(e, TD_ERR_CONFIG, "more than %u patterns", TD_CONTENT_PATTERNS_MAX);
    enum td_err err = td_regex_parse(set->arena, text, &tree, e);
    if (err != TD_OK)
        return err;
    if (td_regex_matches_empty(tree))
        return td_error_set(e, TD_ERR_CONFIG, "the pattern matches everything: it can match nothing at all");
    struct pattern *new = td_arena_alloc(set->arena, sizeof *new);
    if (!new)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading a pattern");
    *new = (struct pattern){.tree = tree, .label = label, .states = td_regex_size(tree)};
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
    for (const struct td_regex_group *g = set->groups; g; g = g->next)
        if ((found & g->labels) != g->labels)
            found |= g->table ? td_regex_run_table(g, text) : td_regex_run_program(g, text);
    return found;
}
