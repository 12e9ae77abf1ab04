// SPDX-License-Identifier: Apache-2.0
// The table of a group: each set of instructions that can be under way at once is a state, and a byte leads from one to
// the next.
#include "privacy/regex_inner.h"

#include "base/hash.h"

#define EMITS 0x8000u // in a table's entry, beside the state

// Bytes that no set tells apart share a class.
static void make_classes(struct td_regex_group *g) {
    uint32_t count = 2;
    for (unsigned c = 0; c < 256; c++)
        g->class_of[c] = td_regex_is_word(c);
    for (uint32_t s = 0; s < g->set_count; s++) {
        int split[256];
        uint32_t before = count;
        memset(split, -1, sizeof split);
        for (uint32_t k = 0; k < before; k++) {
            unsigned in = 0, out = 0;
            for (unsigned c = 0; c < 256; c++)
                if (g->class_of[c] == k)
                    *(td_byteset_has(&g->sets[s], c) ? &in : &out) = 1;
            if (in && out)
                split[k] = (int)count++;
        }
        for (unsigned c = 0; c < 256; c++)
            if (td_byteset_has(&g->sets[s], c) && split[g->class_of[c]] >= 0)
                g->class_of[c] = (uint8_t)split[g->class_of[c]];
    }
    g->class_count = count;
    for (unsigned c = 0; c < 256; c++)
        g->kind_of_class[g->class_of[c]] = td_regex_is_word(c) ? TD_REGEX_KIND_WORD : TD_REGEX_KIND_OTHER;
}

struct builder {
    struct td_regex_group *g;
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
    struct td_regex_group *g = b->g;
    uint64_t *key = work, *closed[3] = {work + b->key_words, work + 2 * b->key_words, work + 3 * b->key_words};
    unsigned sample[256];
    for (unsigned c = 256; c-- > 0;)
        sample[g->class_of[c]] = c;
    td_regex_begin(g, key);
    key[g->words] = TD_REGEX_AFTER_START;
    state_of(b, key);
    for (uint32_t s = 0; s < b->count; s++) {
        const uint64_t *raw = b->keys + (size_t)s * b->key_words;
        for (unsigned kind = 0; kind < 3; kind++)
            out[s][kind] = td_regex_close(g, raw, (enum td_regex_context)raw[g->words], (enum td_regex_kind)kind,
                                          closed[kind], stack);
        for (uint32_t class = 0; class < g->class_count; class ++) {
            td_regex_step(g, closed[g->kind_of_class[class]], sample[class], key);
            key[g->words] = g->kind_of_class[class] == TD_REGEX_KIND_WORD ? TD_REGEX_AFTER_WORD : TD_REGEX_AFTER_OTHER;
            uint32_t to = state_of(b, key);
            if (to == UINT32_MAX)
                return false;
            table[s * g->class_count + class] = (uint16_t)(to | (out[s][g->kind_of_class[class]] ? EMITS : 0));
        }
    }
    return true;
}

enum td_err td_regex_build_table(struct td_arena *arena, struct td_regex_group *g) {
    struct builder b = {.g = g, .key_words = g->words + 1, .cap = TD_REGEX_TABLE_STATES_MAX};
    enum td_err err = TD_ERR_NOMEM;
    make_classes(g);
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
        g->table = td_arena_array(arena, n, sizeof *table);
        g->out = td_arena_array(arena, b.count, sizeof *out);
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

uint32_t td_regex_run_table(const struct td_regex_group *g, struct td_str text) {
    uint32_t found = 0, state = 0;
    for (size_t i = 0; i < text.n; i++) {
        unsigned class = g->class_of[(unsigned char)text.p[i]];
        uint32_t next = g->table[state * g->class_count + class];
        if (next & EMITS)
            found |= g->out[state][g->kind_of_class[class]];
        state = next & ~EMITS;
    }
    return found | g->out[state][TD_REGEX_KIND_END];
}
