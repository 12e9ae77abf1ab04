// SPDX-License-Identifier: Apache-2.0
// Two answers are read (agree_reading.h), as is their question, and the readings are compared; the rules stand in
// same_meaning.
#include "jobs/agree.h"

#include <math.h>
#include <string.h>

#include "jobs/agree_data.h"
#include "jobs/agree_reading.h"

#define ARENA_BYTES_MAX (16u << 20)
#define LONG_WORDS 12u // from here on a word or two may differ
#define LONG_SHARE 0.08

static bool has_word(const struct td_agree_reading *r, struct td_str stem) {
    for (uint32_t i = 0; i < r->word_count; i++)
        if (td_str_eq(r->words[i].stem, stem))
            return true;
    return false;
}

// A unit may be left to the question ("how many minutes").
static bool same_quantity(const struct td_agree_quantity *a, const struct td_agree_quantity *b) {
    bool bare = !a->dim != !b->dim;
    double x = bare ? a->raw : a->value, y = bare ? b->raw : b->value;
    return (bare || a->dim == b->dim) && fabs(x - y) <= fmax(fabs(x), fabs(y)) * 1e-6;
}

static bool has_quantity(const struct td_agree_reading *r, const struct td_agree_quantity *q) {
    for (uint32_t i = 0; i < r->quantity_count; i++)
        if (same_quantity(&r->quantities[i], q))
            return true;
    return false;
}

// Numbers that only one of them has may come from the question, and only on one side.
static bool quantities_hold(const struct td_agree_reading *question, const struct td_agree_reading *a,
                            const struct td_agree_reading *b) {
    uint32_t extra_a = 0, extra_b = 0;
    const struct td_agree_reading *both[2] = {a, b};
    for (int side = 0; side < 2; side++) {
        const struct td_agree_reading *own = both[side], *other = both[1 - side];
        for (uint32_t i = 0; i < own->quantity_count; i++) {
            if (has_quantity(other, &own->quantities[i]))
                continue;
            if (!has_quantity(question, &own->quantities[i]))
                return false;
            side ? extra_b++ : extra_a++;
        }
    }
    if (extra_a && extra_b)
        return false;
    // "3 to 2" is not "2 to 3": plain numbers keep their order.
    uint32_t j = 0;
    for (uint32_t i = 0; i < a->quantity_count; i++) {
        if (a->quantities[i].dim || !has_quantity(b, &a->quantities[i]))
            continue;
        while (j < b->quantity_count && (b->quantities[j].dim || !has_quantity(a, &b->quantities[j])))
            j++;
        if (j < b->quantity_count && !same_quantity(&a->quantities[i], &b->quantities[j++]))
            return false;
    }
    return true;
}

struct extra {
    uint32_t count, free;
    bool hard;
};

static struct extra extra_of(const struct td_agree_reading *question, const struct td_agree_reading *own,
                             const struct td_agree_reading *other) {
    struct extra x = {0};
    for (uint32_t i = 0; i < own->word_count; i++) {
        if (has_word(other, own->words[i].stem))
            continue;
        bool asked = has_word(question, own->words[i].stem) && !question->choice;
        x.count++;
        x.free += asked;
        x.hard |= own->words[i].hard && !asked;
    }
    return x;
}

static int place(const struct td_agree_reading *r, struct td_str stem) {
    for (uint32_t i = 0; i < r->word_count; i++)
        if (td_str_eq(r->words[i].stem, stem))
            return (int)i;
    return -1;
}

static bool is_neighbour(const struct td_agree_reading *r, int at, const struct td_agree_reading *other, int other_at,
                         int side) {
    int i = at + side, j = other_at + side;
    if (i < 0 || j < 0 || (uint32_t)i >= r->word_count || (uint32_t)j >= other->word_count)
        return false;
    return td_str_eq(r->words[i].stem, other->words[j].stem);
}

// The words both have, in the order of `own`, each once.
static uint32_t common_words(const struct td_agree_reading *own, const struct td_agree_reading *other,
                             struct td_str *out) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < own->word_count; i++)
        if (place(own, own->words[i].stem) == (int)i && has_word(other, own->words[i].stem))
            out[n++] = own->words[i].stem;
    return n;
}

static bool within(const struct td_agree_reading *part, const struct td_agree_reading *whole) {
    uint32_t j = 0;
    for (uint32_t i = 0; i < part->word_count; i++, j++) {
        while (j < whole->word_count && !td_str_eq(part->words[i].stem, whole->words[j].stem))
            j++;
        if (j == whole->word_count)
            return false;
    }
    return true;
}

// "If it lasts, see a doctor" and "see a doctor if it lasts".
static bool rotated(const struct td_str *a, const struct td_str *b, uint32_t n) {
    for (uint32_t shift = 1; shift < n; shift++) {
        uint32_t i = 0;
        while (i < n && td_str_eq(a[i], b[(i + shift) % n]))
            i++;
        if (i == n)
            return true;
    }
    return false;
}

static uint32_t moved_words(const struct td_str *a, const struct td_str *b, uint32_t n) {
    uint32_t moved = 0, last = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = 0;
        while (at < n && !td_str_eq(a[i], b[at]))
            at++;
        moved += at < last;
        last = at;
    }
    return moved;
}

// The same words in another order: "Brazil beat Germany" is not "Germany beat Brazil", but clauses may change places,
// a list may be given in any order, and a passive turns things round.
static bool order_holds(struct td_arena *arena, const struct td_agree_reading *a, const struct td_agree_reading *b) {
    struct td_str *wa = td_arena_array(arena, TD_AGREE_WORDS_MAX, sizeof *wa),
                  *wb = td_arena_array(arena, TD_AGREE_WORDS_MAX, sizeof *wb);
    bool numbered = a->numbered && b->numbered;
    bool list = a->items + 1 >= 3 && b->items + 1 >= 3 && !a->colon && !b->colon && !numbered &&
                a->word_count <= 3 * (a->items + 1);
    if (!wa || !wb)
        return false;
    uint32_t common = common_words(a, b, wa);
    common_words(b, a, wb);
    uint32_t moved = moved_words(wa, wb, common);
    if (common < 2 || moved == 0 || within(a, b) || within(b, a) || (list && !a->comparison) ||
        a->passive != b->passive)
        return true;
    if (common >= 4 && !numbered && rotated(wa, wb, common))
        return true;
    if (a->comparison || numbered || a->colon || b->colon)
        return false;
    for (uint32_t i = 0; i < a->word_count; i++) {
        int at = place(b, a->words[i].stem);
        bool repeated = place(a, a->words[i].stem) != (int)i;
        if (at < 0 || repeated || !(a->words[i].hard || b->words[at].hard))
            continue;
        if (!is_neighbour(a, (int)i, b, at, 1) && !is_neighbour(a, (int)i, b, at, -1))
            return false;
    }
    return moved * 3 <= common + 2;
}

static bool polarity_holds(const struct td_agree_reading *a, const struct td_agree_reading *b) {
    if (a->polarity && b->polarity && a->polarity != b->polarity)
        return false;
    uint32_t na = a->negations, nb = b->negations;
    bool bare_a = a->polarity && a->word_count == 0, bare_b = b->polarity && b->word_count == 0;
    if (bare_a)
        na = a->polarity < 0;
    if (bare_b)
        nb = b->polarity < 0;
    if (a->polarity && b->polarity && (bare_a || bare_b)) // "No." and "No, it doesn't."
        return true;
    return na % 2 == nb % 2;
}

static bool same_meaning(struct td_arena *arena, const struct td_agree_reading *q, const struct td_agree_reading *a,
                         const struct td_agree_reading *b) {
    if (a->refuses || b->refuses)
        return a->refuses && b->refuses;
    if (!polarity_holds(a, b) || !quantities_hold(q, a, b))
        return false;
    bool core_a = a->word_count || a->quantity_count || a->polarity,
         core_b = b->word_count || b->quantity_count || b->polarity;
    if (!core_a || !core_b)
        return false;
    struct extra xa = extra_of(q, a, b), xb = extra_of(q, b, a);
    if (xa.hard || xb.hard)
        return false;
    if (xa.count && xb.count) { // words were exchanged: which is often the difference itself
        uint32_t words = a->word_count < b->word_count ? a->word_count : b->word_count;
        if (words < LONG_WORDS || xa.count + xb.count > LONG_SHARE * (a->word_count + b->word_count))
            return false;
    } else if (xa.count + xb.count > xa.free + xb.free) { // something was added that nobody asked
        uint32_t words = a->word_count < b->word_count ? a->word_count : b->word_count;
        if (words < LONG_WORDS || xa.count + xb.count > LONG_SHARE * words)
            return false;
    }
    return order_holds(arena, a, b);
}

// ---- the judgement

// Whitespace runs count as one space, letters without case.
static bool words_same(struct td_str a, struct td_str b) {
    size_t i = 0, j = 0;
    a = td_str_trim(a);
    b = td_str_trim(b);
    while (i < a.n && j < b.n) {
        bool sa = (unsigned char)a.p[i] <= ' ', sb = (unsigned char)b.p[j] <= ' ';
        if (sa != sb || (!sa && !td_str_ieq(td_str_n(a.p + i, 1), td_str_n(b.p + j, 1))))
            return false;
        for (i++; sa && i < a.n && (unsigned char)a.p[i] <= ' ';)
            i++;
        for (j++; sb && j < b.n && (unsigned char)b.p[j] <= ' ';)
            j++;
    }
    return i == a.n && j == b.n;
}

bool td_answers_agree(struct td_str question, struct td_str a, struct td_str b) {
    struct td_arena arena;
    struct td_agree_reading q, ra, rb;
    bool code = memmem(a.p ? a.p : "", a.n, "```", 3) || memmem(b.p ? b.p : "", b.n, "```", 3);
    if (!code && words_same(a, b))
        return true;
    if (a.n > TD_AGREE_BYTES_MAX || b.n > TD_AGREE_BYTES_MAX || !td_str_trim(a).n || !td_str_trim(b).n)
        return false;
    if (question.n > TD_AGREE_BYTES_MAX)
        question.n = 0;
    td_arena_init(&arena, ARENA_BYTES_MAX);
    enum td_agree_verdict v = td_agree_data(&arena, &a, &b);
    bool same = v == TD_AGREE_SAME;
    if (v == TD_AGREE_OPEN)
        same = td_agree_read(&arena, question, &q) && td_agree_read(&arena, a, &ra) && td_agree_read(&arena, b, &rb) &&
               same_meaning(&arena, &q, &ra, &rb);
    td_arena_finish(&arena);
    return same;
}
