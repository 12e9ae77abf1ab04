// SPDX-License-Identifier: Apache-2.0
#include "jobs/agree_reading.h"

#include <math.h>
#include <string.h>

#include "jobs/agree.h"

#define WORD_BYTES_MAX 64u

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
    struct td_agree_reading *r;
    struct td_arena *arena;
    struct cursor k;
    bool sentence_start, first;
    // a number whose unit may follow
    bool number_open, words_number;
    struct td_agree_quantity number;
    enum td_agree_dim currency; // a sign that stood before its number
    int month;
};

static void add_word(struct reader *t, struct td_str stem, bool hard) {
    struct td_agree_reading *r = t->r;
    if (r->word_count == TD_AGREE_WORDS_MAX) {
        r->overflow = true;
        return;
    }
    struct td_str kept = td_arena_str(t->arena, stem);
    if (!kept.p)
        r->overflow = true;
    else
        r->words[r->word_count++] = (struct td_agree_token){kept, hard};
}

static void add_quantity(struct reader *t, double value, enum td_agree_dim dim, double raw) {
    struct td_agree_reading *r = t->r;
    if (r->quantity_count == TD_AGREE_QUANTITIES_MAX)
        r->overflow = true;
    else
        r->quantities[r->quantity_count++] = (struct td_agree_quantity){value, dim, raw};
}

static void close_number(struct reader *t) {
    if (t->number_open) {
        bool day = t->month && t->number.dim == TD_AGREE_DIM_NONE && t->number.value >= 1 && t->number.value <= 31 &&
                   floor(t->number.value) == t->number.value;
        if (day)
            add_quantity(t, t->month * 100 + t->number.value, TD_AGREE_DIM_DATE, NAN);
        else
            add_quantity(t, t->number.value, t->number.dim ? t->number.dim : t->currency, t->number.raw);
        if (day)
            t->month = 0;
    }
    t->number_open = t->words_number = false;
    t->currency = TD_AGREE_DIM_NONE;
}

static void close_month(struct reader *t) {
    if (t->month)
        add_quantity(t, t->month * 100, TD_AGREE_DIM_DATE, NAN);
    t->month = 0;
}

static void open_number(struct reader *t, double value, enum td_agree_dim dim) {
    enum td_agree_dim currency = t->currency;
    t->currency = TD_AGREE_DIM_NONE;
    close_number(t);
    t->currency = currency;
    t->number_open = true;
    t->number = (struct td_agree_quantity){value, dim, value};
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
        add_quantity(t, value, TD_AGREE_DIM_NONE, value);
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
    open_number(t, minus ? -value : value, TD_AGREE_DIM_NONE);
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
    enum td_agree_dim dim = t->number_open && !(t->number.dim && t->number.dim != TD_AGREE_DIM_TIME_OF_DAY)
                                ? td_agree_unit(w, &factor)
                                : TD_AGREE_DIM_NONE;
    bool afternoon = td_str_is(w, "pm");
    if (t->number_open && (afternoon || td_str_is(w, "am"))) {
        double minutes = t->number.dim ? t->number.value : t->number.value * 60;
        minutes = fmod(minutes, 720) + (afternoon ? 720 : 0);
        t->number = (struct td_agree_quantity){minutes, TD_AGREE_DIM_TIME_OF_DAY, NAN};
        close_number(t);
        return true;
    }
    if (t->number_open && t->number.dim == TD_AGREE_DIM_TIME_OF_DAY && dim == TD_AGREE_DIM_TIME_OF_DAY) {
        close_number(t); // "20:00 Uhr"
        return true;
    }
    if (!dim || t->number.dim)
        return false;
    t->number = (struct td_agree_quantity){t->number.value * factor, dim, t->number.raw};
    if (dim != TD_AGREE_DIM_DEGREES) // "degrees": Celsius or Fahrenheit may follow
        close_number(t);
    else
        t->number.dim = TD_AGREE_DIM_NONE, t->currency = TD_AGREE_DIM_DEGREES;
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
        open_number(t, value, TD_AGREE_DIM_NONE);
    }
    t->words_number = true;
    return true;
}

static void take_word(struct reader *t, struct td_str w, bool capital, bool mixed) {
    struct td_agree_reading *r = t->r;
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
        if (t->number_open && t->number.dim == TD_AGREE_DIM_NONE && t->number.value <= 31) { // "9 November"
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
    enum td_agree_dim dim = k->c == '$' || k->c == 0x20ac || k->c == 0xa3 || k->c == '%' || k->c == 0xb0
                                ? td_agree_unit(here, &factor)
                                : TD_AGREE_DIM_NONE;
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

bool td_agree_read(struct td_arena *arena, struct td_str text, struct td_agree_reading *r) {
    *r = (struct td_agree_reading){.words = td_arena_array(arena, TD_AGREE_WORDS_MAX, sizeof *r->words),
                                   .quantities = td_arena_array(arena, TD_AGREE_QUANTITIES_MAX, sizeof *r->quantities)};
    if (!r->words || !r->quantities)
        return false;
    struct reader t = {.r = r, .arena = arena};
    read_text(&t, text);
    r->refuses = td_answer_declines(text);
    return !r->overflow;
}
