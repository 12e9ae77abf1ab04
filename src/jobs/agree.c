// SPDX-License-Identifier: Apache-2.0
// Each text is read into a `reading`: its words (folded, stemmed, function words left out), its quantities (numbers
// with units, times, dates, money), how often it negates. Then the readings are compared; the rules stand in
// same_meaning.
#include "jobs/agree.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "jobs/agree_words.h"

#define WORDS_MAX 4096u // of one text; more is not judged
#define WORD_BYTES_MAX 64u
#define QUANTITIES_MAX 512u
#define ARENA_BYTES_MAX (16u << 20)
#define LONG_WORDS 12u // from here on a word or two may differ
#define LONG_SHARE 0.08

struct word {
    struct td_str stem;
    bool hard; // a name, a colour, "if": never to be left out
};
struct quantity {
    double value;
    int dim;    // 0 a plain number
    double raw; // as it stood, before its unit
};
struct reading {
    struct word *words;
    struct quantity *quantities;
    uint32_t word_count, quantity_count, negations, items, numbered;
    int polarity; // of its first word
    bool choice, passive, comparison, colon, refuses, overflow;
};

// ---- words out of bytes

// What is left of a letter without its accent; 0: it stays as it is.
static size_t plain_letter(uint32_t c, char out[2]) {
    static const char latin1[] = "aaaaaa.ceeeeiiiidnooooo.ouuuuy..aaaaaa.ceeeeiiiidnooooo.ouuuuy.y";
    const char *two = c == 0xdf ? "ss" : c == 0xe6 || c == 0xc6 ? "ae" : c == 0x153 || c == 0x152 ? "oe" : NULL;
    if (two) {
        memcpy(out, two, 2);
        return 2;
    }
    if (c < 0xc0 || c > 0xff || latin1[c - 0xc0] == '.')
        return 0;
    *out = latin1[c - 0xc0];
    return 1;
}

struct cursor {
    struct td_str text;
    size_t at;
    uint32_t c; // the character at `at`; 0 at the end
    size_t n;   // its bytes
};

static void look(struct cursor *k) {
    const unsigned char *p = (const unsigned char *)k->text.p + k->at;
    size_t left = k->text.n - k->at;
    k->c = 0;
    k->n = 0;
    if (left == 0)
        return;
    k->c = *p;
    k->n = 1;
    if (*p >= 0xf0 && left >= 4)
        k->c = (*p & 7u) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u), k->n = 4;
    else if (*p >= 0xe0 && left >= 3)
        k->c = (*p & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u), k->n = 3;
    else if (*p >= 0xc0 && left >= 2)
        k->c = (*p & 31u) << 6 | (p[1] & 63u), k->n = 2;
    if (k->c == 0x2019 || k->c == 0x2018)
        k->c = '\'';
    else if (k->c == 0x2212 || k->c == 0x2010 || k->c == 0x2011)
        k->c = '-';
    else if (k->c == 0xa0 || k->c == 0x202f || k->c == 0x2009)
        k->c = ' ';
    if (k->c == 0)
        k->c = ' '; // a NUL byte is no end
}

static void step(struct cursor *k) {
    k->at += k->n;
    look(k);
}

static bool is_digit(uint32_t c) {
    return c >= '0' && c <= '9';
}
static bool is_upper(uint32_t c) {
    return (c >= 'A' && c <= 'Z') || (c >= 0xc0 && c <= 0xde && c != 0xd7);
}
static bool is_letter(uint32_t c) {
    if (c < 0x80)
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c < 0xc0 || c == 0xd7 || c == 0xf7)
        return false;
    return !(c >= 0x2000 && c <= 0x2bff) && !(c >= 0x3000 && c <= 0x3003); // punctuation and symbols
}

static uint32_t peek(const struct cursor *k, size_t ahead) { // bytes; only for ASCII
    size_t at = k->at + k->n + ahead - 1;
    return ahead && at < k->text.n ? (unsigned char)k->text.p[at] : 0;
}

// ---- one reading

struct reader {
    struct reading *r;
    struct td_arena *arena;
    struct cursor k;
    bool sentence_start, first;
    // a number whose unit may follow
    bool number_open, words_number, after_currency;
    struct quantity number;
    int currency, month;
};

static void add_word(struct reader *t, struct td_str stem, bool hard) {
    struct reading *r = t->r;
    if (r->word_count == WORDS_MAX) {
        r->overflow = true;
        return;
    }
    struct td_str kept = td_arena_str(t->arena, stem);
    if (!kept.p)
        r->overflow = true;
    else
        r->words[r->word_count++] = (struct word){kept, hard};
}

static void add_quantity(struct reader *t, double value, int dim, double raw) {
    struct reading *r = t->r;
    if (r->quantity_count == QUANTITIES_MAX)
        r->overflow = true;
    else
        r->quantities[r->quantity_count++] = (struct quantity){value, dim, raw};
}

static void close_number(struct reader *t) {
    if (t->number_open) {
        bool day = t->month && t->number.dim == 0 && t->number.value >= 1 && t->number.value <= 31 &&
                   floor(t->number.value) == t->number.value;
        if (day)
            add_quantity(t, t->month * 100 + t->number.value, TD_AGREE_DIM_DATE, NAN);
        else
            add_quantity(t, t->number.value, t->number.dim ? t->number.dim : t->currency, t->number.raw);
        if (day)
            t->month = 0;
    }
    t->number_open = t->words_number = false;
    t->currency = 0;
}

static void close_month(struct reader *t) {
    if (t->month)
        add_quantity(t, t->month * 100, TD_AGREE_DIM_DATE, NAN);
    t->month = 0;
}

static void open_number(struct reader *t, double value, int dim) {
    int currency = t->currency;
    t->currency = 0;
    close_number(t);
    t->currency = currency;
    t->number_open = true;
    t->number = (struct quantity){value, dim, value};
}

// Up to `n` digits from the cursor on.
static double digits(struct cursor *k, unsigned *count) {
    double value = 0;
    for (*count = 0; is_digit(k->c); step(k), ++*count)
        value = value * 10 + (double)(k->c - '0');
    return value;
}

// How many digits stand `ahead` bytes further.
static unsigned digits_at(const struct cursor *k, size_t ahead) {
    unsigned n = 0;
    while (is_digit(peek(k, ahead + n)))
        n++;
    return n;
}

// 1,440 · 380 000 · 2,5 · 3.14 · 17:45 · 1989-11-09 · 3rd
static void read_number(struct reader *t, bool minus) {
    struct cursor *k = &t->k;
    unsigned n, more;
    double value = digits(k, &n), part;
    if (n == 4 && k->c == '-' && digits_at(k, 1) == 2 && peek(k, 3) == '-' && digits_at(k, 4) == 2) {
        double month, day;
        step(k), month = digits(k, &more), step(k), day = digits(k, &more);
        add_quantity(t, month * 100 + day, TD_AGREE_DIM_DATE, NAN);
        add_quantity(t, value, 0, value);
        return;
    }
    if (k->c == ':' && digits_at(k, 1) == 2) {
        step(k);
        value = value * 60 + digits(k, &more);
        open_number(t, value, TD_AGREE_DIM_TIME_OF_DAY);
        return;
    }
    while (n <= 3 && (k->c == ',' || k->c == ' ' || k->c == '\'') && digits_at(k, 1) == 3) {
        step(k);
        value = value * 1000 + digits(k, &more);
    }
    if ((k->c == '.' || k->c == ',') && digits_at(k, 1) > 0) {
        step(k);
        part = digits(k, &more);
        value += part / pow(10, more);
    }
    open_number(t, minus ? -value : value, 0);
    if ((k->c == 's' && peek(k, 1) == 't') || (k->c == 'n' && peek(k, 1) == 'd') ||
        (k->c == 'r' && peek(k, 1) == 'd') || (k->c == 't' && peek(k, 1) == 'h'))
        step(k), step(k);
}

// Takes a word's letters, folded, into `out`. Sets *capital and *shouts (all letters capital).
static struct td_str take_letters(struct cursor *k, char out[WORD_BYTES_MAX], bool *capital, bool *mixed) {
    size_t n = 0, letters = 0, uppers = 0;
    *capital = is_upper(k->c);
    *mixed = false;
    for (; n + 4 < WORD_BYTES_MAX; step(k)) {
        bool inner = (k->c == '\'' && is_letter(peek(k, 1))) ||
                     (k->c == '/' && letters <= 2 && is_letter(peek(k, 1)) && !is_letter(peek(k, 2)));
        if (is_digit(k->c))
            *mixed = true;
        else if (!is_letter(k->c) && !inner)
            break;
        letters += is_letter(k->c);
        uppers += is_upper(k->c);
        char letter[2];
        size_t plain = plain_letter(k->c, letter);
        if (plain) {
            memcpy(out + n, letter, plain);
            n += plain;
        } else if (k->c < 0x80) {
            out[n++] = (char)(k->c >= 'A' && k->c <= 'Z' ? k->c + 32 : k->c);
        } else {
            memcpy(out + n, k->text.p + k->at, k->n);
            n += k->n;
        }
    }
    *mixed |= letters > 1 && uppers == letters;
    return td_str_n(out, n);
}

static void take_word(struct reader *t, struct td_str w, bool capital, bool mixed);

static void take_short(struct reader *t, const char *word) {
    take_word(t, td_str_of(word), false, false);
}

// "isn't", "l'Espagne", "Anna's". True: it is dealt with.
static bool take_contraction(struct reader *t, struct td_str *w, bool capital, bool mixed) {
    const char *quote = memchr(w->p, '\'', w->n);
    if (td_str_is(*w, "can't") || td_str_is(*w, "cannot") || td_str_is(*w, "won't")) {
        take_short(t, "not");
        return true;
    }
    if (!quote)
        return false;
    size_t before = (size_t)(quote - w->p), after = w->n - before - 1;
    if (after == 1 && quote[1] == 't' && before > 1 && quote[-1] == 'n') { // "isn't": the verb is a function word
        take_short(t, "not");
        return true;
    }
    if (after > 1 && (before == 1 ? strchr("ldsjcnmt", w->p[0]) != NULL : before == 2 && w->p[0] == 'q')) { // French
        take_word(t, td_str_n(quote + 1, after), capital, mixed);
        return true;
    }
    w->n = before; // 's, 're, 've, 'll, 'd, 'm
    return false;
}

static bool take_unit(struct reader *t, struct td_str w) {
    double factor;
    int dim =
        t->number_open && !(t->number.dim && t->number.dim != TD_AGREE_DIM_TIME_OF_DAY) ? td_agree_unit(w, &factor) : 0;
    bool afternoon = td_str_is(w, "pm");
    if (t->number_open && (afternoon || td_str_is(w, "am"))) {
        double minutes = t->number.dim ? t->number.value : t->number.value * 60;
        minutes = fmod(minutes, 720) + (afternoon ? 720 : 0);
        t->number = (struct quantity){minutes, TD_AGREE_DIM_TIME_OF_DAY, NAN};
        close_number(t);
        return true;
    }
    if (t->number_open && t->number.dim == TD_AGREE_DIM_TIME_OF_DAY && dim == TD_AGREE_DIM_TIME_OF_DAY) {
        close_number(t); // "20:00 Uhr"
        return true;
    }
    if (!dim || t->number.dim)
        return false;
    t->number = (struct quantity){t->number.value * factor, dim, t->number.raw};
    if (dim != 27) // "degrees": Celsius or Fahrenheit may follow
        close_number(t);
    else
        t->number.dim = 0, t->currency = 27;
    return true;
}

static bool take_number_word(struct reader *t, struct td_str w) {
    double value;
    bool scale;
    if (!td_agree_number(w, &value, &scale))
        return false;
    if (scale && t->number_open && !t->number.dim) {
        t->number.raw = t->number.value *= value;
    } else if (!scale && t->words_number && value < t->number.value &&
               fmod(t->number.value, value < 10 ? 10 : 100) == 0) {
        t->number.raw = t->number.value += value; // "twenty five", "one hundred twenty"
    } else {
        open_number(t, value, 0);
    }
    t->words_number = true;
    return true;
}

static void take_word(struct reader *t, struct td_str w, bool capital, bool mixed) {
    struct reading *r = t->r;
    struct td_str base;
    bool negates;
    bool first = t->first;
    t->first = false;
    if (w.n == 0 || take_contraction(t, &w, capital, mixed))
        return;
    if (t->month && !td_str_is(w, "the")) {
        close_number(t);
        close_month(t);
    }
    int polarity = td_agree_polarity(w);
    if (first && polarity) {
        r->polarity = polarity;
        return;
    }
    if (take_unit(t, w) || (!mixed && take_number_word(t, w)))
        return;
    int month = td_agree_month(w);
    if (month && (capital || !td_str_is(w, "may"))) {
        if (t->number_open && t->number.dim == 0 && t->number.value <= 31) { // "9 November"
            t->month = month;
            close_number(t);
        } else {
            close_number(t);
            close_month(t);
            t->month = month;
        }
        return;
    }
    bool of = td_str_is(w, "of");
    if (!of)
        close_number(t);
    r->choice |= td_str_is(w, "or") || td_str_is(w, "oder") || td_str_is(w, "ou");
    r->items += td_str_is(w, "and") || td_str_is(w, "und") || td_str_is(w, "et") || td_str_is(w, "y");
    r->passive |= td_str_is(w, "by") || td_str_is(w, "von") || td_str_is(w, "par") || td_str_is(w, "por");
    r->comparison |= td_str_is(w, "than") || td_str_is(w, "als");
    enum td_agree_class class = td_agree_word(w, &base, &negates);
    if (first && (td_str_is(w, "certainly") || td_str_is(w, "definitely")))
        class = TD_AGREE_STOP; // "Certainly! …"
    r->negations += class == TD_AGREE_NEGATION || negates;
    if (class == TD_AGREE_CONTENT || class == TD_AGREE_HARD)
        add_word(t, base, class == TD_AGREE_HARD || mixed || (capital && !t->sentence_start));
}

static void take_symbol(struct reader *t) {
    struct cursor *k = &t->k;
    char two[3] = {(char)k->c, (char)peek(k, 1), 0};
    double factor;
    struct td_str here = td_str_n(k->text.p + k->at, k->n);
    int dim =
        k->c == '$' || k->c == 0x20ac || k->c == 0xa3 || k->c == '%' || k->c == 0xb0 ? td_agree_unit(here, &factor) : 0;
    if (dim && t->number_open) {
        take_unit(t, here);
    } else if (dim) {
        close_number(t);
        t->currency = dim;
        step(k);
        return;
    } else if (k->c == '<' || k->c == '>' || ((k->c == '=' || k->c == '!') && two[1] == '=') ||
               ((k->c == '&' || k->c == '|') && two[1] == two[0])) {
        bool pair = two[1] == '=' || (two[1] == two[0] && (k->c == '&' || k->c == '|'));
        close_number(t);
        add_word(t, td_str_n(two, pair ? 2 : 1), true);
        if (pair)
            step(k);
    } else {
        bool end = k->c == '.' || k->c == '!' || k->c == '?' || k->c == ':' || k->c == '\n' || k->c == ';' ||
                   k->c == '*' || k->c == '"' || k->c == 0x201c;
        t->sentence_start |= end;
        t->r->colon |= k->c == ':';
        t->r->items += k->c == ',' || k->c == '\n' || k->c == ';';
        if (k->c != ' ' && k->c != '-')
            close_number(t);
        if (end && k->c != '"')
            close_month(t);
        step(k);
        return;
    }
    step(k);
}

// "3. " and "3) " at the beginning of a line number an item.
static bool takes_list_number(struct reader *t, bool line_start) {
    struct cursor *k = &t->k;
    unsigned n = 1 + digits_at(k, 1);
    uint32_t mark = peek(k, n), next = peek(k, n + 1);
    if (!line_start || n > 2 || (mark != '.' && mark != ')') || next != ' ')
        return false;
    for (unsigned i = 0; i <= n; i++)
        step(k);
    t->r->numbered++;
    t->sentence_start = true;
    return true;
}

static void read_text(struct reader *t, struct td_str text) {
    struct cursor *k = &t->k;
    char letters[WORD_BYTES_MAX];
    bool line_start = true, spaced = true;
    *k = (struct cursor){.text = text};
    t->sentence_start = t->first = true;
    for (look(k); k->n;) {
        bool was_spaced = spaced, was_line_start = line_start;
        spaced = k->c == ' ' || k->c == '\n' || k->c == '(' || k->c == '\t';
        line_start = k->c == '\n' || (line_start && (k->c == ' ' || k->c == '\t'));
        if (is_digit(k->c)) {
            if (!takes_list_number(t, was_line_start))
                read_number(t, false);
            t->first = t->sentence_start = false;
        } else if (k->c == '-' && was_spaced && is_digit(peek(k, 1))) {
            step(k);
            read_number(t, true);
            t->first = t->sentence_start = false;
        } else if (is_letter(k->c)) {
            bool capital, mixed;
            struct td_str w = take_letters(k, letters, &capital, &mixed);
            take_word(t, w, capital, mixed);
            t->sentence_start = false;
        } else {
            take_symbol(t);
        }
    }
    close_number(t);
    close_month(t);
}

static bool holds_words(struct td_str text, const char *words) {
    size_t n = strlen(words);
    for (size_t i = 0; i + n <= text.n; i++)
        if (td_str_ieq(td_str_n(text.p + i, n), td_str_n(words, n)))
            return true;
    return false;
}

bool td_answer_declines(struct td_str text) {
    static const char *const ways[] = {"not for me",
                                       "i can't",
                                       "i can\xe2\x80\x99t",
                                       "i cannot",
                                       "i am unable",
                                       "i'm unable",
                                       "i don't know",
                                       "i do not know",
                                       "i have no access",
                                       "i am not able",
                                       "i'm not able",
                                       "can't help with",
                                       "cannot help with",
                                       "can't assist",
                                       "as an ai",
                                       "ich kann nicht",
                                       "ich wei\xc3\x9f nicht",
                                       "je ne peux pas",
                                       "je ne sais pas",
                                       "no puedo",
                                       "no lo s\xc3\xa9"};
    struct td_str head = td_str_n(text.p, text.n < 160 ? text.n : 160);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (holds_words(head, ways[i]))
            return true;
    return false;
}

static bool make_reading(struct td_arena *arena, struct td_str text, struct reading *r) {
    *r = (struct reading){.words = td_arena_array(arena, WORDS_MAX, sizeof *r->words),
                          .quantities = td_arena_array(arena, QUANTITIES_MAX, sizeof *r->quantities)};
    if (!r->words || !r->quantities)
        return false;
    struct reader t = {.r = r, .arena = arena};
    read_text(&t, text);
    r->refuses = td_answer_declines(text);
    return !r->overflow;
}

// ---- comparing readings

static bool has_word(const struct reading *r, struct td_str stem) {
    for (uint32_t i = 0; i < r->word_count; i++)
        if (td_str_eq(r->words[i].stem, stem))
            return true;
    return false;
}

// A unit may be left to the question ("how many minutes").
static bool same_quantity(const struct quantity *a, const struct quantity *b) {
    bool bare = !a->dim != !b->dim;
    double x = bare ? a->raw : a->value, y = bare ? b->raw : b->value;
    return (bare || a->dim == b->dim) && fabs(x - y) <= fmax(fabs(x), fabs(y)) * 1e-6;
}

static bool has_quantity(const struct reading *r, const struct quantity *q) {
    for (uint32_t i = 0; i < r->quantity_count; i++)
        if (same_quantity(&r->quantities[i], q))
            return true;
    return false;
}

// Numbers that only one of them has may come from the question, and only on one side.
static bool quantities_hold(const struct reading *question, const struct reading *a, const struct reading *b) {
    uint32_t extra_a = 0, extra_b = 0;
    const struct reading *both[2] = {a, b};
    for (int side = 0; side < 2; side++) {
        const struct reading *own = both[side], *other = both[1 - side];
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

static struct extra extra_of(const struct reading *question, const struct reading *own, const struct reading *other) {
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

static int place(const struct reading *r, struct td_str stem) {
    for (uint32_t i = 0; i < r->word_count; i++)
        if (td_str_eq(r->words[i].stem, stem))
            return (int)i;
    return -1;
}

static bool is_neighbour(const struct reading *r, int at, const struct reading *other, int other_at, int side) {
    int i = at + side, j = other_at + side;
    if (i < 0 || j < 0 || (uint32_t)i >= r->word_count || (uint32_t)j >= other->word_count)
        return false;
    return td_str_eq(r->words[i].stem, other->words[j].stem);
}

// The words both have, in the order of `own`, each once.
static uint32_t common_words(const struct reading *own, const struct reading *other, struct td_str *out) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < own->word_count; i++)
        if (place(own, own->words[i].stem) == (int)i && has_word(other, own->words[i].stem))
            out[n++] = own->words[i].stem;
    return n;
}

static bool within(const struct reading *part, const struct reading *whole) {
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
static bool order_holds(struct td_arena *arena, const struct reading *a, const struct reading *b) {
    struct td_str *wa = td_arena_array(arena, WORDS_MAX, sizeof *wa),
                  *wb = td_arena_array(arena, WORDS_MAX, sizeof *wb);
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

static bool polarity_holds(const struct reading *a, const struct reading *b) {
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

static bool same_meaning(struct td_arena *arena, const struct reading *q, const struct reading *a,
                         const struct reading *b) {
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

// ---- texts that are data

static bool json_same(td_json *a, td_json *b) {
    size_t i, max;
    td_json *key, *value;
    if (yyjson_is_num(a) && yyjson_is_num(b))
        return fabs(yyjson_get_num(a) - yyjson_get_num(b)) <= 0;
    if (yyjson_get_type(a) != yyjson_get_type(b))
        return false;
    if (yyjson_is_str(a))
        return td_str_eq(td_json_str(a), td_json_str(b));
    if (yyjson_is_bool(a))
        return yyjson_get_bool(a) == yyjson_get_bool(b);
    if (yyjson_is_arr(a)) {
        if (yyjson_arr_size(a) != yyjson_arr_size(b))
            return false;
        yyjson_arr_foreach(a, i, max, value) {
            if (!json_same(value, yyjson_arr_get(b, i)))
                return false;
        }
        return true;
    }
    if (!yyjson_is_obj(a))
        return true; // null
    if (yyjson_obj_size(a) != yyjson_obj_size(b))
        return false;
    yyjson_obj_foreach(a, i, max, key, value) {
        td_json *other = yyjson_obj_getn(b, yyjson_get_str(key), yyjson_get_len(key));
        if (!other || !json_same(value, other))
            return false;
    }
    return true;
}

// The inside of the first fenced block; *rest what stands around it. {NULL, 0}: there is none.
static struct td_str fenced(struct td_str text, struct td_str *before, struct td_str *after) {
    const char *open = text.n ? memmem(text.p, text.n, "```", 3) : NULL;
    *before = text;
    *after = TD_STR_NONE;
    if (!open)
        return TD_STR_NONE;
    const char *end = text.p + text.n, *line = memchr(open, '\n', (size_t)(end - open));
    const char *close = line ? memmem(line, (size_t)(end - line), "```", 3) : NULL;
    if (!close)
        return TD_STR_NONE;
    *before = td_str_trim(td_str_n(text.p, (size_t)(open - text.p)));
    *after = td_str_trim(td_str_n(close + 3, (size_t)(end - close - 3)));
    return td_str_n(line + 1, (size_t)(close - line - 1));
}

static bool name_byte(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80);
}

// Byte for byte, but for white space that separates no two names. Indentation only as "more", "less" or "the same".
static bool code_same(struct td_str a, struct td_str b) {
    size_t i = 0, j = 0;
    a = td_str_trim(a);
    b = td_str_trim(b);
    while (i < a.n || j < b.n) {
        bool space_a = false, space_b = false;
        char before = i ? a.p[i - 1] : ' ';
        for (; i < a.n && (unsigned char)a.p[i] <= ' '; i++)
            space_a = true;
        for (; j < b.n && (unsigned char)b.p[j] <= ' '; j++)
            space_b = true;
        if (i == a.n || j == b.n)
            return i == a.n && j == b.n;
        if (a.p[i] != b.p[j] || (space_a != space_b && name_byte(before) && name_byte(a.p[i])))
            return false;
        i++, j++;
    }
    return true;
}

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

enum verdict { DIFFERENT, SAME, OPEN };

static enum verdict judge_data(struct td_arena *arena, struct td_str *a, struct td_str *b) {
    struct td_str before[2], after[2], code[2] = {fenced(*a, &before[0], &after[0]), fenced(*b, &before[1], &after[1])};
    struct td_str whole[2] = {*a, *b};
    td_json *json[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        struct td_str text = code[i].p && !before[i].n && !after[i].n ? td_str_trim(code[i]) : td_str_trim(whole[i]);
        if (text.n && (*text.p == '{' || *text.p == '[') &&
            td_json_parse(arena, text, TD_JSON_DEPTH_MAX, &json[i], NULL) != TD_OK)
            json[i] = NULL;
    }
    if (json[0] || json[1])
        return json[0] && json[1] && json_same(json[0], json[1]) ? SAME : DIFFERENT;
    if (!code[0].p && !code[1].p)
        return OPEN;
    if (!code[0].p || !code[1].p || !code_same(code[0], code[1]))
        return DIFFERENT;
    bool bare = !before[0].n && !after[0].n && !before[1].n && !after[1].n;
    if (memmem(after[0].p ? after[0].p : "", after[0].n, "```", 3) ||
        memmem(after[1].p ? after[1].p : "", after[1].n, "```", 3))
        return DIFFERENT; // several blocks are compared word for word alone
    *a = td_arena_printf(arena, "%.*s\n%.*s", TD_STR_ARG(before[0]), TD_STR_ARG(after[0]));
    *b = td_arena_printf(arena, "%.*s\n%.*s", TD_STR_ARG(before[1]), TD_STR_ARG(after[1]));
    return bare ? SAME : a->p && b->p ? OPEN : DIFFERENT;
}

bool td_answers_agree(struct td_str question, struct td_str a, struct td_str b) {
    struct td_arena arena;
    struct reading q, ra, rb;
    bool code = memmem(a.p ? a.p : "", a.n, "```", 3) || memmem(b.p ? b.p : "", b.n, "```", 3);
    if (!code && words_same(a, b))
        return true;
    if (a.n > TD_AGREE_BYTES_MAX || b.n > TD_AGREE_BYTES_MAX || !td_str_trim(a).n || !td_str_trim(b).n)
        return false;
    if (question.n > TD_AGREE_BYTES_MAX)
        question.n = 0;
    td_arena_init(&arena, ARENA_BYTES_MAX);
    enum verdict v = judge_data(&arena, &a, &b);
    bool same = v == SAME;
    if (v == OPEN)
        same = make_reading(&arena, question, &q) && make_reading(&arena, a, &ra) && make_reading(&arena, b, &rb) &&
               same_meaning(&arena, &q, &ra, &rb);
    td_arena_finish(&arena);
    return same;
}
