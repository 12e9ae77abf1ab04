// SPDX-License-Identifier: Apache-2.0
#include "config/option.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/url.h"

enum { PROXY_BYTES_MAX = 1024 };

static const char *type_expects(const struct td_option *row, char *buf, size_t cap) {
    switch (row->type) {
    case TD_OPT_BOOL:
    case TD_OPT_TRISTATE:
        return "true or false";
    case TD_OPT_U16:
    case TD_OPT_U32:
    case TD_OPT_U64:
        snprintf(buf, cap, "a whole number from %.0f to %.0f", row->min, row->max);
        return buf;
    case TD_OPT_NUMBER:
        snprintf(buf, cap, "a number from %g to %g", row->min, row->max);
        return buf;
    case TD_OPT_TEXT:
        snprintf(buf, cap, "a text of %.0f to %.0f bytes", row->min, row->max);
        return buf;
    case TD_OPT_NAME:
        return "a name: letters, digits, '.', '_' and '-', at most 128, the first a letter or digit";
    case TD_OPT_PATH:
        return "a path";
    case TD_OPT_URL:
        return "a URL such as https://api.example.com/v1";
    case TD_OPT_PROXY:
        return "http://host:port, or http://env:NAME@host:port with user:password in NAME, never the password itself";
    case TD_OPT_SECRET:
        return "env:NAME, file:PATH or credential:NAME, never the secret itself";
    case TD_OPT_REGION:
        return "a region: lower-case letters and digits, parts joined by '-', such as eu or us-east";
    case TD_OPT_WORD:
        snprintf(buf, cap, "one of %s", row->words);
        return buf;
    case TD_OPT_WORDS:
        snprintf(buf, cap, "one or a list of %s", row->words);
        return buf;
    case TD_OPT_TEXTS:
        return "a text or a list of texts";
    case TD_OPT_BYTES:
        return "a size such as 512MiB or 4GiB";
    case TD_OPT_USD:
        return "an amount in USD such as 0.25, at most 9 decimals";
    case TD_OPT_PRICE:
        return "a price in USD per million tokens such as 2.50";
    case TD_OPT_SECTION:
        return "a map of options";
    case TD_OPT_CUSTOM:
        return row->words ? row->words : row->shape == TD_SHAPE_LIST ? "a list" : "a map";
    }
    return "something else";
}

enum td_err td_option_error(struct td_loader *l, const struct td_node *node, const char *fmt, ...) {
    char what[240];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return td_yaml_error(l->e, l->file, node->line, node->column, "%s", what);
}

static enum td_err no_memory(struct td_loader *l) {
    return td_error_set(l->e, TD_ERR_NOMEM, "out of memory while reading the configuration");
}

static enum td_err expected(struct td_loader *l, const struct td_node *node, const struct td_option *row) {
    char buf[200];
    static const char *const found[] = {"", ", found a list", ", found a map"};
    return td_option_error(l, node, "%s: expected %s%s", row->key, type_expects(row, buf, sizeof buf),
                           found[node->type]);
}

static bool is_list_type(enum td_option_type type) {
    return type == TD_OPT_WORDS || type == TD_OPT_TEXTS;
}

// Digits with at most `decimals` after the point, as an integer of 10^-decimals; false for anything else or overflow.
// `rounded` (may be NULL) allows more decimals and says that it rounded up.
static bool decimal_of(struct td_str s, unsigned decimals, bool round_up, int64_t *out) {
    int64_t v = 0;
    unsigned after = 0;
    bool point = false, digit = false, more = false;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '.' && !point && digit) {
            point = true;
            continue;
        }
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        digit = true;
        if (point && after == decimals) {
            if (!round_up && s.p[i] != '0')
                return false;
            more = more || s.p[i] != '0';
            continue;
        }
        if (v > (INT64_MAX - 10) / 10)
            return false;
        v = v * 10 + (s.p[i] - '0');
        after += point;
    }
    for (; after < decimals; after++) {
        if (v > (INT64_MAX - 10) / 10)
            return false;
        v *= 10;
    }
    if (!digit || s.p[s.n - 1] == '.')
        return false;
    *out = v + (more ? 1 : 0);
    return true;
}

static bool number_of(struct td_str s, double *out) {
    bool minus = s.n > 1 && s.p[0] == '-';
    int64_t v;
    if (minus)
        s = td_str_n(s.p + 1, s.n - 1);
    if (s.n > 15 || !decimal_of(s, 9, false, &v))
        return false;
    *out = (double)v / 1e9 * (minus ? -1 : 1);
    return true;
}

static bool bytes_of(struct td_str s, uint64_t *out) {
    static const struct {
        const char *unit;
        unsigned shift;
    } units[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}, {"K", 10}, {"M", 20}, {"G", 30}, {"T", 40}};
    unsigned shift = 0;
    for (size_t i = 0; i < sizeof units / sizeof units[0] && shift == 0; i++) {
        struct td_str unit = td_str_of(units[i].unit);
        if (s.n > unit.n && td_str_eq(td_str_n(s.p + s.n - unit.n, unit.n), unit)) {
            shift = units[i].shift;
            s = td_str_trim(td_str_n(s.p, s.n - unit.n));
        }
    }
    if (!td_str_to_u64(s, out) || *out > (UINT64_MAX >> 1) >> shift)
        return false;
    *out <<= shift;
    return true;
}

static bool bool_of(const struct td_node *node, bool *out) {
    if (node->quoted || (!td_str_is(node->text, "true") && !td_str_is(node->text, "false")))
        return false;
    *out = td_str_is(node->text, "true");
    return true;
}

static bool secret_valid(struct td_str s) {
    static const char *const schemes[] = {"env:", "file:", "credential:"};
    for (size_t i = 0; i < 3; i++) {
        struct td_str scheme = td_str_of(schemes[i]);
        if (td_str_starts(s, scheme) && s.n > scheme.n)
            return i == 1 || td_name_valid(td_str_n(s.p + scheme.n, s.n - scheme.n)) ||
                   (i == 0 && s.p[scheme.n] == '_');
    }
    return false;
}

// A proxy's URL; what stands before an '@' is a reference to its credentials.
static bool proxy_valid(struct td_loader *l, struct td_str s) {
    struct td_url url;
    struct td_error why;
    const char *slashes = s.n ? memmem(s.p, s.n, "://", 3) : NULL;
    if (!slashes || s.n > PROXY_BYTES_MAX)
        return false;
    size_t head = (size_t)(slashes + 3 - s.p);
    const char *at = memrchr(s.p + head, '@', s.n - head);
    if (at && !secret_valid(td_str_n(s.p + head, (size_t)(at - s.p) - head)))
        return false;
    const char *from = at ? at + 1 : s.p + head;
    struct td_str rest = td_str_n(from, s.n - (size_t)(from - s.p));
    struct td_str bare = td_arena_printf(l->arena, "%.*s%.*s", (int)head, s.p, TD_STR_ARG(rest));
    return bare.p && td_url_parse(bare, &url, &why) == TD_OK;
}

bool td_name_valid(struct td_str s) {
    if (s.n == 0 || s.n > TD_NAME_BYTES_MAX)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!alnum && (i == 0 || (c != '.' && c != '_' && c != '-')))
            return false;
        if (c == '.' && s.p[i - 1] == '.')
            return false;
    }
    return true;
}

bool td_region_valid(struct td_str s) {
    if (s.n == 0 || s.n > 32)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '-' ? i == 0 || i + 1 == s.n || s.p[i - 1] == '-'
                     : !((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')))
            return false;
    }
    return true;
}

enum td_err td_option_path(struct td_loader *l, struct td_str text, struct td_str *out) {
    const char *home = getenv("HOME");
    if (text.n && text.p[0] == '/')
        *out = td_arena_str(l->arena, text);
    else if (td_str_starts(text, TD_STR("~/")) && home && home[0] == '/')
        *out = td_arena_printf(l->arena, "%s%.*s", home, (int)text.n - 1, text.p + 1);
    else
        *out = td_arena_printf(l->arena, "%.*s/%.*s", TD_STR_ARG(l->dir), TD_STR_ARG(text));
    return out->p ? TD_OK : no_memory(l);
}

enum td_err td_option_items(struct td_loader *l, const struct td_node *node, uint32_t max, size_t size, void **out) {
    if (node->count > max)
        return td_option_error(l, node, "%.*s: at most %u entries", TD_STR_ARG(node->key), max);
    *out = td_arena_array(l->arena, node->count ? node->count : 1, size);
    return *out ? TD_OK : no_memory(l);
}

static enum td_err read_words(struct td_loader *l, const struct td_node *node, const struct td_option *row,
                              uint32_t *out) {
    uint32_t bits = 0, value;
    const struct td_node *item = node->type == TD_NODE_LIST ? node->first : node;
    for (; item; item = node->type == TD_NODE_LIST ? item->next : NULL) {
        if (item->type != TD_NODE_SCALAR || !row->word(item->text, &value))
            return expected(l, item, row);
        bits |= value;
    }
    *out = bits;
    return TD_OK;
}

static enum td_err read_texts(struct td_loader *l, const struct td_node *node, const struct td_option *row,
                              struct td_str **out) {
    const struct td_node *item = node->type == TD_NODE_LIST ? node->first : node;
    uint32_t count = node->type == TD_NODE_LIST ? node->count : 1, i = 0;
    if (count > (uint32_t)row->max)
        return td_option_error(l, node, "%s: at most %.0f entries", row->key, row->max);
    struct td_str *texts = td_arena_array(l->arena, count ? count : 1, sizeof *texts);
    if (!texts)
        return no_memory(l);
    for (; item; item = node->type == TD_NODE_LIST ? item->next : NULL) {
        if (item->type != TD_NODE_SCALAR || item->text.n == 0)
            return expected(l, item, row);
        texts[i++] = item->text;
    }
    *out = texts;
    memcpy((char *)out + sizeof *out, &count, sizeof count);
    return TD_OK;
}

static enum td_err read_text(struct td_loader *l, const struct td_node *node, const struct td_option *row,
                             struct td_str *out) {
    struct td_str s = node->text;
    struct td_url url;
    struct td_error why;
    switch (row->type) {
    case TD_OPT_NAME:
        if (!td_name_valid(s))
            return expected(l, node, row);
        break;
    case TD_OPT_REGION:
        if (!td_region_valid(s))
            return expected(l, node, row);
        break;
    case TD_OPT_SECRET:
        if (!secret_valid(s))
            return expected(l, node, row);
        break;
    case TD_OPT_PROXY:
        if (!proxy_valid(l, s))
            return expected(l, node, row);
        break;
    case TD_OPT_PATH:
        return s.n && s.n < 4096 ? td_option_path(l, s, out) : expected(l, node, row);
    case TD_OPT_URL:
        if (td_url_parse(s, &url, &why) != TD_OK)
            return td_option_error(l, node, "%s: %s", row->key, why.message);
        while (s.n && s.p[s.n - 1] == '/')
            s.n--;
        s = td_arena_str(l->arena, s); // every text of a snapshot ends in NUL
        if (!s.p)
            return no_memory(l);
        break;
    default:
        if ((double)s.n < row->min || (double)s.n > row->max)
            return expected(l, node, row);
    }
    *out = s;
    return TD_OK;
}

static bool read_number(const struct td_node *node, const struct td_option *row, void *at) {
    uint64_t u;
    int64_t i;
    double d;
    switch (row->type) {
    case TD_OPT_U16:
    case TD_OPT_U32:
    case TD_OPT_U64:
        if (!td_str_to_u64(node->text, &u) || (double)u < row->min || (double)u > row->max)
            return false;
        if (row->type == TD_OPT_U64)
            memcpy(at, &u, sizeof u);
        else if (row->type == TD_OPT_U32)
            memcpy(at, &(uint32_t){(uint32_t)u}, sizeof(uint32_t));
        else
            memcpy(at, &(uint16_t){(uint16_t)u}, sizeof(uint16_t));
        return true;
    case TD_OPT_NUMBER:
        if (!number_of(node->text, &d) || d < row->min || d > row->max)
            return false;
        memcpy(at, &d, sizeof d);
        return true;
    case TD_OPT_BYTES:
        if (!bytes_of(node->text, &u) || (double)u < row->min || (double)u > row->max)
            return false;
        memcpy(at, &u, sizeof u);
        return true;
    default:
        // A price finer than a nano-dollar per token is rounded up: what is metered is never less than what is paid.
        if (!decimal_of(node->text, row->type == TD_OPT_PRICE ? 3 : 9, row->type == TD_OPT_PRICE, &i) ||
            i > 1000000 * (int64_t)1000000000)
            return false;
        memcpy(at, &i, sizeof i);
        return true;
    }
}

enum td_err td_option_value(struct td_loader *l, const struct td_node *node, const struct td_option *row, void *base) {
    void *at = (char *)base + row->offset;
    uint32_t word;
    bool yes;
    if (row->type == TD_OPT_CUSTOM)
        return row->read(l, node, base);
    if (row->type == TD_OPT_SECTION) {
        if (node->type == TD_NODE_SCALAR && !node->quoted && node->text.n == 0)
            node = NULL; // "tls:" with nothing behind it
        else if (node->type != TD_NODE_MAP)
            return expected(l, node, row);
        return td_option_read(l, node, row->section, at);
    }
    if (node->type != TD_NODE_SCALAR && !(node->type == TD_NODE_LIST && is_list_type(row->type)))
        return expected(l, node, row);
    switch (row->type) {
    case TD_OPT_BOOL:
        return bool_of(node, at) ? TD_OK : expected(l, node, row);
    case TD_OPT_TRISTATE:
        if (!bool_of(node, &yes))
            return expected(l, node, row);
        *(enum td_tristate *)at = yes ? TD_YES : TD_NO;
        return TD_OK;
    case TD_OPT_WORD:
        if (!row->word(node->text, &word))
            return expected(l, node, row);
        memcpy(at, &word, sizeof word);
        return TD_OK;
    case TD_OPT_WORDS:
        return read_words(l, node, row, at);
    case TD_OPT_TEXTS:
        return read_texts(l, node, row, at);
    case TD_OPT_TEXT:
    case TD_OPT_NAME:
    case TD_OPT_PATH:
    case TD_OPT_URL:
    case TD_OPT_PROXY:
    case TD_OPT_SECRET:
    case TD_OPT_REGION:
        return read_text(l, node, row, at);
    default:
        return !node->quoted && read_number(node, row, at) ? TD_OK : expected(l, node, row);
    }
}

static const struct td_option *row_of(const struct td_option *rows, struct td_str key) {
    for (; rows->key; rows++)
        if (td_str_is(key, rows->key))
            return rows;
    return NULL;
}

static enum td_err unknown_key(struct td_loader *l, const struct td_node *node, const struct td_option *rows) {
    const char *nearest = NULL;
    unsigned best = 4; // farther is no likely slip
    for (; rows->key; rows++) {
        unsigned d = td_str_distance(node->key, td_str_of(rows->key), 4);
        if (d < best && d < node->key.n) {
            best = d;
            nearest = rows->key;
        }
    }
    int n = node->key.n > 40 ? 40 : (int)node->key.n;
    return td_yaml_error(l->e, l->file, node->key_line, node->key_column, "unknown key '%.*s'%s%s%s", n, node->key.p,
                         nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}

enum td_err td_option_read(struct td_loader *l, const struct td_node *node, const struct td_option *rows, void *base) {
    enum td_err err = TD_OK;
    for (const struct td_node *n = node ? node->first : NULL; n; n = n->next)
        if (!row_of(rows, n->key))
            return unknown_key(l, n, rows);
    for (const struct td_option *row = rows; row->key && err == TD_OK; row++) {
        const struct td_node *n = node ? node->first : NULL;
        while (n && !td_str_is(n->key, row->key))
            n = n->next;
        if (n) {
            err = td_option_value(l, n, row, base);
            if (row->stated)
                *((bool *)base + row->stated - 1) = true;
        } else if (row->type == TD_OPT_SECTION) {
            err = td_option_read(l, NULL, row->section, (char *)base + row->offset);
        } else if (row->otherwise) {
            struct td_node def = {.type = TD_NODE_SCALAR, .text = td_str_of(row->otherwise), .line = 1, .column = 1};
            err = td_option_value(l, &def, row, base);
        }
    }
    return err;
}
