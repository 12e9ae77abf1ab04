// SPDX-License-Identifier: Apache-2.0
#include "route/features.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/wide.h"
#include "privacy/content.h"
#include "target/words.h"

#define SHAPE_BYTES_MAX 8192u // of it; longer is long
#define CUE_BYTES_MAX 24u     // no cue is longer
#define CUE_WORDS_MAX 64u     // of the last user message: what a request is about stands at its beginning

// ---- tokens

// Thousandths of a token per byte, fitted to what byte-pair vocabularies of the 50,000 to 200,000 kind do on prose
// and code; a multi-byte character counts by its length, and a Latin
// letter with a mark more than one of an alphabet of its own, because it breaks a word apart.
static const uint16_t millitokens[256] = {
    [0 ... 31] = 750,      [' '] = 215,           ['!' ... '/'] = 750,   ['0' ... '9'] = 400, [':' ... '@'] = 750,
    ['A' ... 'Z'] = 300,   ['[' ... '`'] = 750,   ['a' ... 'z'] = 215,   ['{' ... 127] = 750, [0xc0 ... 0xc7] = 900,
    [0xc8 ... 0xdf] = 450, [0xe0 ... 0xef] = 850, [0xf0 ... 0xff] = 1500};

// Thirty-two bytes at a time (base/wide.h).
typedef uint8_t block __attribute__((vector_size(32)));
#define BLOCK sizeof(block)
#define BLOCKS_MAX 64u // counted in one go: below 256, so that a count fits its byte
#define BETWEEN(b, from, to) ((block)((b) - (uint8_t)(from) <= (uint8_t)((to) - (from))))
#define IN_WORD_OF(b)                                                                                                  \
    (BETWEEN((b) | 0x20, 'a', 'z') | BETWEEN(b, '0', '9') | (block)((b) == '\'') | (block)((b) >= 0x80))

static TD_INLINE uint32_t sum(const block *counts) {
    uint32_t n = 0;
    for (size_t i = 0; i < BLOCK; i++)
        n += (*counts)[i];
    return n;
}

static uint64_t millitokens_by_table(const char *p, size_t n) {
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += millitokens[(unsigned char)p[i]];
    return total;
}

// What the table says of `count` blocks of ASCII, most of which are small letters. False: they are not all ASCII.
static TD_INLINE bool millitokens_in(const char *p, size_t count, uint64_t *total) {
    block small = {0}, big = {0}, digits = {0}, all = {0};
    for (size_t i = 0; i < count; i++) {
        block b;
        memcpy(&b, p + i * BLOCK, BLOCK);
        small -= BETWEEN(b, 'a', 'z') | (block)(b == ' ');
        big -= BETWEEN(b, 'A', 'Z');
        digits -= BETWEEN(b, '0', '9');
        all |= b;
    }
    all >>= 7;
    if (sum(&all))
        return false;
    *total += count * BLOCK * millitokens[0] - sum(&small) * (uint64_t)(millitokens[0] - millitokens['a']) -
              sum(&big) * (uint64_t)(millitokens[0] - millitokens['A']) -
              sum(&digits) * (uint64_t)(millitokens[0] - millitokens['0']);
    return true;
}

TD_AVX2 static bool millitokens_avx2(const char *p, size_t count, uint64_t *total) {
    return millitokens_in(p, count, total);
}

static bool millitokens_by_block(const char *p, size_t count, uint64_t *total) {
    return td_has_avx2() ? millitokens_avx2(p, count, total) : millitokens_in(p, count, total);
}

static uint64_t millitokens_of(struct td_str text) {
    uint64_t total = 0;
    while (text.n >= BLOCK) {
        size_t count = text.n / BLOCK < BLOCKS_MAX ? text.n / BLOCK : BLOCKS_MAX;
        if (!millitokens_by_block(text.p, count, &total))
            total += millitokens_by_table(text.p, count * BLOCK);
        text.p += count * BLOCK;
        text.n -= count * BLOCK;
    }
    return total + millitokens_by_table(text.p, text.n);
}

static uint32_t whole(uint64_t milli) {
    uint64_t v = (milli + 999) / 1000;
    return v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

uint32_t td_tokens_estimate(struct td_str text) {
    return whole(millitokens_of(text));
}

// ---- cues

struct cue {
    const char *word;
    uint32_t features;
};

#define Q TD_FEATURE_QUESTION
#define A TD_FEATURE_ANALYSIS
#define W TD_FEATURE_CREATIVE
#define C TD_FEATURE_CODE
#define M TD_FEATURE_MATH
#define F TD_FEATURE_FRESH

// Sorted by byte. English, and the commonest of a few other languages; a learned classifier will know more.
static const struct cue cues[] = {
    {"algorithm", C},  {"analyse", A},      {"analyze", A},     {"api", C},         {"argue", A},     {"article", W},
    {"biography", Q},  {"bug", C},          {"code", C},        {"compare", A},     {"compile", C},   {"concept", Q},
    {"critique", A},   {"debug", C},        {"derivative", M},  {"derive", A | M},  {"describe", Q},  {"design", A},
    {"difference", Q}, {"discuss", Q},      {"dlaczego", Q},    {"draft", W},       {"equation", M},  {"erkläre", Q},
    {"essay", W},      {"evaluate", A},     {"explain", Q},     {"explica", Q},     {"explique", Q},  {"function", C},
    {"haiku", W},      {"histoire", Q},     {"historia", Q},    {"history", Q},     {"implement", C}, {"integral", M},
    {"javascript", C}, {"latest", F},       {"matrix", M},      {"meaning", Q},     {"napisz", W},    {"news", F},
    {"opisz", Q},      {"opowiedz", Q},     {"paragraph", W},   {"philosophy", Q},  {"plan", A},      {"poem", W},
    {"porównaj", A},   {"pourquoi", Q},     {"probability", M}, {"proof", M | A},   {"prove", M | A}, {"python", C},
    {"reason", A},     {"recently", F},     {"refactor", C},    {"regex", C},       {"rewrite", W},   {"rust", C},
    {"schreibe", W},   {"significance", Q}, {"solve", M},       {"sql", C},         {"story", W},     {"strategy", A},
    {"summarise", W},  {"summarize", W},    {"summary", W},     {"theorem", M | A}, {"theory", Q},    {"today", F},
    {"tonight", F},    {"translate", W},    {"typescript", C},  {"vergleiche", A},  {"warum", Q},     {"why", Q},
    {"wyjaśnij", Q},   {"écris", W}};

// At the beginning of the message.
static const struct cue openings[] = {{"how did ", Q},      {"how do i ", Q},           {"how do you ", Q},
                                      {"how do we ", Q},    {"how does ", Q},           {"tell me about ", Q},
                                      {"tell me more ", Q}, {"tell me the history", Q}, {"who was ", Q},
                                      {"who were ", Q},     {"what caused ", Q},        {"what was the ", Q},
                                      {"what were ", Q},    {"what are the ", Q},       {"give me an overview", Q},
                                      {"write ", W},        {"step by step", A},        {"was ist der unterschied", Q},
                                      {"co to jest ", Q},   {"czym jest ", Q},          {"qu'est-ce ", Q}};
#undef Q
#undef A
#undef W
#undef C
#undef M
#undef F

static unsigned char lower(unsigned char c) {
    return c >= 'A' && c <= 'Z' ? (unsigned char)(c + 32) : c;
}

// By first byte: where its cues stand in the list, and which lengths they have (bit n: one of n bytes).
static struct {
    uint8_t from, to;
    uint32_t lengths;
} cues_by_first[256];

static void sort_cues(void) {
    for (size_t i = 0; i < sizeof cues / sizeof cues[0]; i++) {
        unsigned char first = (unsigned char)cues[i].word[0];
        if (!cues_by_first[first].lengths)
            cues_by_first[first].from = (uint8_t)i;
        cues_by_first[first].to = (uint8_t)(i + 1);
        cues_by_first[first].lengths |= 1u << strlen(cues[i].word);
    }
}

static uint32_t cue_of(const char *p, size_t n) {
    char word[CUE_BYTES_MAX];
    unsigned char first = lower((unsigned char)p[0]);
    if (n > sizeof word || !(cues_by_first[first].lengths >> n & 1))
        return 0;
    for (size_t k = 0; k < n; k++)
        word[k] = (char)lower((unsigned char)p[k]);
    for (size_t i = cues_by_first[first].from; i < cues_by_first[first].to; i++)
        if (strncmp(cues[i].word, word, n) == 0 && cues[i].word[n] == 0)
            return cues[i].features;
    return 0;
}

enum { IN_WORD = 1, DIGIT = 2, OPERATOR = 4, MARK = 8 };
static const uint8_t kinds[256] = {['\''] = IN_WORD,
                                   ['0' ... '9'] = IN_WORD | DIGIT,
                                   ['A' ... 'Z'] = IN_WORD,
                                   ['a' ... 'z'] = IN_WORD,
                                   [0x80 ... 0xff] = IN_WORD,
                                   ['+'] = OPERATOR,
                                   ['*'] = OPERATOR,
                                   ['/'] = OPERATOR,
                                   ['='] = OPERATOR | MARK,
                                   ['^'] = OPERATOR,
                                   ['%'] = OPERATOR,
                                   ['{'] = MARK,
                                   ['}'] = MARK,
                                   [';'] = MARK,
                                   ['`'] = MARK};

struct census {
    uint32_t words, digits, operators, marks;
};

// `count` blocks, at most BLOCKS_MAX. A word counts where it begins; `inside`: the byte before is in a word.
static TD_INLINE void count_in(const char *p, size_t count, bool inside, struct census *c) {
    uint8_t in[(BLOCKS_MAX + 1) * BLOCK]; // of each byte whether it is in a word, from in[BLOCK] on
    block words = {0}, digits = {0}, operators = {0}, marks = {0};
    in[BLOCK - 1] = inside ? 0xff : 0;
    for (size_t i = 0; i < count; i++) {
        block b, here, equals;
        memcpy(&b, p + i * BLOCK, BLOCK);
        here = IN_WORD_OF(b);
        equals = (block)(b == '=');
        memcpy(in + (i + 1) * BLOCK, &here, BLOCK);
        digits -= BETWEEN(b, '0', '9');
        operators -=
            equals | (block)(b == '+') | (block)(b == '*') | (block)(b == '/') | (block)(b == '^') | (block)(b == '%');
        marks -= equals | (block)(b == '{') | (block)(b == '}') | (block)(b == ';') | (block)(b == '`');
    }
    for (size_t i = 1; i <= count; i++) { // apart: reading at once what was just written would wait for it
        block here, before;
        memcpy(&here, in + i * BLOCK, BLOCK);
        memcpy(&before, in + i * BLOCK - 1, BLOCK);
        words -= here & ~before;
    }
    c->words += sum(&words);
    c->digits += sum(&digits);
    c->operators += sum(&operators);
    c->marks += sum(&marks);
}

TD_AVX2 static void count_avx2(const char *p, size_t count, bool inside, struct census *c) {
    count_in(p, count, inside, c);
}

static void count_blocks(const char *p, size_t count, bool inside, struct census *c) {
    if (td_has_avx2())
        count_avx2(p, count, inside, c);
    else
        count_in(p, count, inside, c);
}

static void take_census(struct td_str s, struct census *c) {
    bool inside = false;
    for (size_t i = 0; i < s.n;) {
        size_t count = (s.n - i) / BLOCK;
        if (count) {
            count = count < BLOCKS_MAX ? count : BLOCKS_MAX;
            count_blocks(s.p + i, count, inside, c);
            i += count * BLOCK;
            inside = kinds[(unsigned char)s.p[i - 1]] & IN_WORD;
            continue;
        }
        uint8_t kind = kinds[(unsigned char)s.p[i++]];
        c->words += kind & IN_WORD && !inside;
        c->digits += kind >> 1 & 1;
        c->operators += kind >> 2 & 1;
        c->marks += kind >> 3 & 1;
        inside = kind & IN_WORD;
    }
}

static uint32_t cues_in(struct td_str s) {
    const char *p = s.p, *end = s.p + s.n;
    uint32_t features = 0;
    for (uint32_t words = 0; words < CUE_WORDS_MAX; words++) {
        while (p < end && !(kinds[(unsigned char)*p] & IN_WORD))
            p++;
        const char *from = p;
        while (p < end && kinds[(unsigned char)*p] & IN_WORD)
            p++;
        if (p == from)
            break;
        features |= cue_of(from, (size_t)(p - from));
    }
    return features;
}

// Shape of the last user message: cues, number of words, digits beside operators, marks of code.
static uint32_t shape_of(struct td_str s, uint32_t *words) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    char opening[32] = {0};
    struct census c = {0};
    uint32_t features = 0;
    pthread_once(&once, sort_cues);
    s = td_str_trim(s);
    for (size_t i = 0; i < s.n && i < sizeof opening - 1; i++)
        opening[i] = (char)lower((unsigned char)s.p[i]);
    for (size_t i = 0; i < sizeof openings / sizeof openings[0]; i++)
        if (opening[0] == openings[i].word[0] && strncmp(opening, openings[i].word, strlen(openings[i].word)) == 0)
            features |= openings[i].features;
    if (s.n > SHAPE_BYTES_MAX)
        s.n = SHAPE_BYTES_MAX;
    features |= cues_in(s);
    take_census(s, &c);
    *words = c.words;
    if (c.marks >= 6 || (c.marks >= 3 && memmem(s.p, s.n, "```", 3))) // backticks are marks
        features |= TD_FEATURE_CODE;
    if (c.digits >= 2 && c.operators >= 1 && !(features & TD_FEATURE_CODE))
        features |= TD_FEATURE_MATH;
    return features;
}

// ---- the whole request

struct counter {
    const struct td_content_rules *rules;
    uint32_t labels;
    uint64_t milli;
};

static void count_json(struct counter *c, td_json *v, bool tokens) {
    size_t i, max;
    td_json *key, *item;
    if (yyjson_is_str(v)) {
        struct td_str s = td_json_str(v);
        if (tokens)
            c->milli += millitokens_of(s) + 500;
        else
            c->labels |= td_content_scan(c->rules, s);
    } else if (yyjson_is_arr(v)) {
        yyjson_arr_foreach(v, i, max, item) count_json(c, item, tokens);
    } else if (yyjson_is_obj(v)) {
        yyjson_obj_foreach(v, i, max, key, item) {
            count_json(c, key, tokens);
            count_json(c, item, tokens);
        }
    } else if (tokens) {
        c->milli += 1000;
    }
}

static void count_text(struct counter *c, struct td_str text, bool scan) {
    c->milli += millitokens_of(text);
    if (scan)
        c->labels |= td_content_scan(c->rules, text);
}

#define IMAGE_MILLITOKENS 1000000u // about what providers charge for one in middle resolution

static void count_messages(struct counter *c, const struct td_request *r, bool scan) {
    for (uint32_t i = 0; i < r->message_count; i++) {
        const struct td_message *m = &r->messages[i];
        c->milli += 4000; // role and separators
        for (uint32_t k = 0; k < m->part_count; k++) {
            if (m->parts[k].type == TD_PART_TEXT || m->parts[k].type == TD_PART_REFUSAL)
                count_text(c, m->parts[k].text, scan);
            else
                c->milli += IMAGE_MILLITOKENS;
        }
        for (uint32_t k = 0; k < m->tool_call_count; k++) {
            count_text(c, m->tool_calls[k].name, scan);
            count_text(c, m->tool_calls[k].arguments, scan);
        }
    }
    count_text(c, r->prompt, scan);
    count_text(c, r->suffix, scan);
    for (uint32_t i = 0; i < r->input_count; i++)
        count_text(c, r->inputs[i], scan);
}

static struct td_str last_user_text(const struct td_request *r, struct td_facts *f) {
    struct td_str last = r->prompt;
    for (uint32_t i = 0; i < r->message_count; i++) {
        const struct td_message *m = &r->messages[i];
        if (m->role == TD_ROLE_ASSISTANT)
            f->features |= TD_FEATURE_MULTI_TURN;
        if (m->role != TD_ROLE_USER)
            continue;
        f->turns++;
        for (uint32_t k = 0; k < m->part_count; k++)
            if (m->parts[k].type == TD_PART_TEXT)
                last = m->parts[k].text;
    }
    return last;
}

// What is asked, without the tools that are offered with it: a long catalogue makes no request long.
static uint32_t own_tokens(const struct td_facts *f) {
    return f->input_tokens - f->tool_tokens;
}

static uint32_t difficulty_of(const struct td_facts *f) {
    uint32_t d = 100000;
    d += f->features & TD_FEATURE_QUESTION ? 250000 : 0;
    d += f->features & TD_FEATURE_ANALYSIS ? 300000 : 0;
    d += f->features & TD_FEATURE_CODE ? 250000 : 0;
    d += f->features & TD_FEATURE_MATH && f->words > 20 ? 200000 : 0;
    d += f->features & TD_FEATURE_CREATIVE ? 200000 : 0;
    d += f->features & TD_FEATURE_MULTI_TURN ? 50000 : 0;
    d += f->words > 30 ? 100000 : 0;
    d += f->words > 120 ? 100000 : 0;
    d += own_tokens(f) > 1500 ? 100000 : 0;
    d += own_tokens(f) > 6000 ? 150000 : 0;
    return d > 1000000 ? 1000000 : d;
}

static uint32_t output_of(const struct td_facts *f) {
    uint32_t tokens = 250;
    if (f->kind == TD_KIND_EMBEDDING)
        return 0;
    if (f->kind == TD_KIND_COMPLETION)
        tokens = 120;
    else if (f->features & (TD_FEATURE_CODE | TD_FEATURE_CREATIVE | TD_FEATURE_ANALYSIS))
        tokens = 800;
    else if (f->features & TD_FEATURE_QUESTION)
        tokens = 400;
    else if (f->words <= 20)
        tokens = 60;
    return f->max_tokens && f->max_tokens < tokens ? f->max_tokens : tokens;
}

// The tiers that the caller, or the Tandem before this one, still allows. 0 would mean all: where nothing is left of
// them it is a bit that no tier has.
static uint32_t narrow_tiers(const struct td_wishes *w, uint32_t allowed) {
    uint32_t wished = 0;
    for (uint32_t i = 0; i < w->tier_count; i++)
        for (int t = 0; t < TD_TIER_COUNT; t++)
            if (td_str_is(w->tiers[i], td_tier_word((enum td_tier)t)))
                wished |= 1u << t;
    if (w->tier_count == 0)
        return allowed;
    wished &= allowed ? allowed : ~0u;
    return wished ? wished : 1u << TD_TIER_COUNT;
}

static void take_wishes(const struct td_wishes *w, const struct td_policy *p, struct td_facts *f) {
    f->prefer = w->prefer;
    f->mode = w->mode;
    f->revisions = w->revisions;
    f->fresh = w->fresh;
    f->queue = w->queue;
    f->batch = td_str_is(w->priority, "batch");
    f->residency = w->residency;
    f->deadline_ms = w->deadline_ms;
    f->max_cost_nusd = w->max_cost_nusd;
    f->refine_after_ms = w->refine_after_ms;
    f->data_class = w->data_class;
    f->tiers_allowed = narrow_tiers(w, f->tiers_allowed);
    f->stated_labels = w->labels;
    f->stated_label_count = w->label_count;
    for (uint32_t i = 0; i < w->label_count; i++)
        f->labels |= td_policy_label(p, w->labels[i]);
}

enum td_err td_facts_make(const struct td_request *r, const struct td_policy *p, const struct td_facts_input *in,
                          struct td_facts *f) {
    struct counter c = {.rules = p->content};
    const struct td_tenant *tenant = in->tenant.n ? td_policy_tenant(p, in->tenant) : NULL;
    memset(f, 0, sizeof *f);
    f->kind = r->kind;
    f->model = r->model;
    f->tenant = in->tenant;
    f->tiers_allowed = in->tiers_allowed;
    f->capabilities = r->capabilities;
    f->stream = r->stream;
    f->has_tools = r->tool_count > 0;
    f->max_tokens = r->max_tokens;
    f->text_bytes = r->text_bytes;
    f->choices = r->n ? r->n : 1;
    f->budget_left_nusd = in->budget_left_nusd;
    f->draw = in->draw;
    take_wishes(&r->wishes, p, f);
    f->batch = f->batch || (tenant && tenant->batch);

    // Labels are looked for in every string of the body, also in fields nobody knows.
    if (p->content && r->root)
        count_json(&c, r->root, false);
    count_messages(&c, r, p->content && !r->root);
    f->labels |= c.labels | in->sticky_labels;
    if (in->sticky_class > f->data_class)
        f->data_class = in->sticky_class;
    f->data_class = td_policy_class_raise(p, f->data_class, f->labels);

    uint64_t own_milli = c.milli;
    for (uint32_t i = 0; i < r->tool_count; i++)
        count_json(&c, r->tools[i].raw, true);
    f->tool_tokens = whole(c.milli - own_milli);
    f->input_tokens = whole(own_milli) + f->tool_tokens;
    f->features |= shape_of(last_user_text(r, f), &f->words);
    if (own_tokens(f) > 3000 || f->max_tokens > 2000)
        f->features |= TD_FEATURE_LONG;
    if (f->fresh)
        f->features |= TD_FEATURE_FRESH;
    if (f->words && f->words <= 20 &&
        !(f->features & (TD_FEATURE_QUESTION | TD_FEATURE_CODE | TD_FEATURE_CREATIVE | TD_FEATURE_ANALYSIS)))
        f->features |= TD_FEATURE_COMMAND;
    f->conversation = r->wishes.conversation.n > 0 || f->features & TD_FEATURE_MULTI_TURN;
    f->difficulty_ppm = difficulty_of(f);
    f->output_tokens = output_of(f);
    return TD_OK;
}
