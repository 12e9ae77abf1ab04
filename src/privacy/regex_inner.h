// SPDX-License-Identifier: Apache-2.0
// What the files of regex.h share. An expression is read into a tree (regex_parse.c), the trees of a group are written
// out as one program (regex_program.c), and the program becomes a table where that stays small (regex_table.c). All in
// the set's arena.
#ifndef TD_PRIVACY_REGEX_INNER_H
#define TD_PRIVACY_REGEX_INNER_H

#include "privacy/regex.h"

struct td_byteset {
    uint64_t w[4];
};
static inline void td_byteset_add(struct td_byteset *s, unsigned c) {
    s->w[c >> 6] |= 1ull << (c & 63);
}
static inline bool td_byteset_has(const struct td_byteset *s, unsigned c) {
    return s->w[c >> 6] >> (c & 63) & 1;
}
static inline void td_byteset_range(struct td_byteset *s, unsigned from, unsigned to) {
    for (unsigned c = from; c <= to; c++)
        td_byteset_add(s, c);
}
// Bytes of other alphabets belong to words, so that \b does not cut them.
static inline bool td_regex_is_word(unsigned c) {
    return c >= 0x80 || c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// ---- the tree

enum td_regex_type { TD_REGEX_EMPTY, TD_REGEX_SET, TD_REGEX_CAT, TD_REGEX_ALT, TD_REGEX_REPEAT, TD_REGEX_ASSERT };
enum td_regex_assertion { TD_REGEX_AT_START, TD_REGEX_AT_END, TD_REGEX_AT_WORD, TD_REGEX_AT_NOT_WORD };

struct td_regex_node {
    enum td_regex_type type;
    struct td_regex_node *a, *b;
    struct td_byteset set;
    enum td_regex_assertion assertion;
    unsigned min, max; // repeat; max UINT_MAX: no limit
};

// TD_ERR_CONFIG: what is wrong and at which byte; TD_ERR_NOMEM.
enum td_err td_regex_parse(struct td_arena *arena, struct td_str text, struct td_regex_node **out,
                           struct td_error *e) TD_MUST_USE;
bool td_regex_matches_empty(const struct td_regex_node *n);

// ---- the program

enum td_regex_op { TD_REGEX_OP_SET, TD_REGEX_OP_SPLIT, TD_REGEX_OP_ASSERT, TD_REGEX_OP_MATCH };

struct td_regex_inst {
    enum td_regex_op op;
    uint16_t x, y; // next; SPLIT: both
    uint32_t arg;  // SET: index of its set; ASSERT: which; MATCH: label bits
};

enum td_regex_kind { TD_REGEX_KIND_OTHER, TD_REGEX_KIND_WORD, TD_REGEX_KIND_END };         // of the byte that follows
enum td_regex_context { TD_REGEX_AFTER_OTHER, TD_REGEX_AFTER_WORD, TD_REGEX_AFTER_START }; // what came before it

struct td_regex_group { // patterns that run together
    struct td_regex_inst *prog;
    uint32_t prog_count, words; // words of a bit set over the program
    struct td_byteset *sets;
    uint32_t set_count;
    uint16_t *starts;
    uint32_t start_count;
    uint32_t labels; // all it can find
    uint8_t class_of[256], kind_of_class[256];
    uint32_t class_count;
    uint16_t *table;    // next state by state and class, EMITS where labels come with it; NULL: the program runs itself
    bool stays[3][256]; // by context and byte: a program that waits for a beginning still waits after it
    uint32_t (*out)[3]; // labels by state and the kind of byte that follows
    uint32_t state_count;
    struct td_regex_group *next;
};

// How many instructions a tree takes without its MATCH, saturating over TD_PATTERN_STATES_MAX.
uint32_t td_regex_size(const struct td_regex_node *n);
// Adds a tree to a group whose arrays have room for it.
void td_regex_emit(struct td_regex_group *g, const struct td_regex_node *tree, uint32_t label);
// Bit sets over the program, g->words long: `raw` are the instructions that wait for the next byte, `closed` these and
// all they lead to without taking one, where `context` lies before and `kind` behind. `stack` has room for twice the
// program and 128. Returns the labels found.
uint32_t td_regex_close(const struct td_regex_group *g, const uint64_t *raw, enum td_regex_context context,
                        enum td_regex_kind kind, uint64_t *closed, uint16_t *stack);
// `raw` at the beginning of a text; and after `byte`, where any pattern may begin anew.
void td_regex_begin(const struct td_regex_group *g, uint64_t *raw);
void td_regex_step(const struct td_regex_group *g, const uint64_t *closed, unsigned byte, uint64_t *raw);
// Fills g->stays: which bytes leave a program waiting for a beginning; most of most texts is passed over by it.
void td_regex_find_stays(struct td_regex_group *g);
uint32_t td_regex_run_program(const struct td_regex_group *g, struct td_str text);

// ---- the table

// Fills g->table, or leaves it NULL where it would have over TD_REGEX_TABLE_STATES_MAX states. TD_ERR_NOMEM.
enum td_err td_regex_build_table(struct td_arena *arena, struct td_regex_group *g) TD_MUST_USE;
uint32_t td_regex_run_table(const struct td_regex_group *g, struct td_str text);

#endif
