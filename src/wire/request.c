// SPDX-License-Identifier: Apache-2.0
#include "wire/request.h"

#include <math.h>

#include "wire/event.h"

static const char *const classes[] = {"", "public", "internal", "confidential", "restricted"};
static const char *const prefers[] = {"", "balanced", "fast", "cheap", "quality", "private"};
static const char *const modes[] = {"", "single", "fallback", "cascade", "progressive", "hedge"};
static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
static const char *const finishes[] = {"stop", "length", "tool_calls", "content_filter"};
static const char *const tiers[] = {"device", "edge", "onprem", "cloud"};
static const char *const priorities[] = {"interactive", "batch"};
static const char *const capabilities[] = { // by the number of the bit
    "chat",   "completion", "embedding", "tools", "json",    "json_schema", "logprobs",
    "infill", "image",      "audio",     "file",  "choices", "continue"};

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define WORD(list, i) ((unsigned)(i) < COUNT(list) ? list[i] : "")

const char *td_class_word(enum td_class c) {
    return WORD(classes, c);
}
const char *td_prefer_word(enum td_prefer p) {
    return WORD(prefers, p);
}
const char *td_mode_word(enum td_mode m) {
    return WORD(modes, m);
}
const char *td_role_word(enum td_role r) {
    return WORD(roles, r);
}
const char *td_finish_word(enum td_finish f) {
    return WORD(finishes, f);
}

static int find_word(struct td_str word, const char *const *list, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (word.n && td_str_is(word, list[i]))
            return (int)i;
    return -1;
}

bool td_class_parse(struct td_str word, enum td_class *out) {
    int i = find_word(word, classes, COUNT(classes));
    if (i >= 0)
        *out = (enum td_class)i;
    return i >= 0;
}

bool td_prefer_parse(struct td_str word, enum td_prefer *out) {
    int i = find_word(word, prefers, COUNT(prefers));
    if (i >= 0)
        *out = (enum td_prefer)i;
    return i >= 0;
}

const char *td_capability_word(unsigned number) {
    return WORD(capabilities, number);
}

bool td_capability_parse(struct td_str word, uint32_t *bit) {
    int i = find_word(word, capabilities, COUNT(capabilities));
    if (i >= 0)
        *bit = 1u << i;
    return i >= 0;
}

bool td_mode_parse(struct td_str word, enum td_mode *out) {
    int i = find_word(word, modes, COUNT(modes));
    if (i >= 0)
        *out = (enum td_mode)i;
    return i >= 0;
}

void td_wishes_init(struct td_wishes *w) {
    *w = (struct td_wishes){.max_cost_nusd = -1};
}

// One wish, from the body or from a header: the same setters serve both. A setter narrows what is there already.
enum wish {
    WISH_PREFER,
    WISH_DATA_CLASS,
    WISH_LABELS,
    WISH_RESIDENCY,
    WISH_DEADLINE_MS,
    WISH_MAX_COST_USD,
    WISH_FRESH,
    WISH_MODE,
    WISH_CONVERSATION,
    WISH_REFINE_AFTER_MS,
    WISH_QUEUE,
    WISH_PRIORITY,
    WISH_TIERS,
    WISH_HOPS,
    WISH_COUNT
};

static const struct {
    const char *key, *header; // header without "x-tandem-"
    const char *expected;
} wishes[] = {
    [WISH_PREFER] = {"prefer", "prefer", "one of balanced, fast, cheap, quality, private"},
    [WISH_DATA_CLASS] = {"data_class", "data-class", "one of public, internal, confidential, restricted"},
    [WISH_LABELS] = {"labels", "labels", "at most 32 labels of a-z, 0-9, '_', '-', '.'"},
    [WISH_RESIDENCY] = {"residency", "residency", "a region name of a-z, 0-9, '_', '-', '.'"},
    [WISH_DEADLINE_MS] = {"deadline_ms", "deadline-ms", "milliseconds from 1 to 86400000"},
    [WISH_MAX_COST_USD] = {"max_cost_usd", "max-cost-usd", "US dollars from 0 to 1000000"},
    [WISH_FRESH] = {"fresh", "fresh", "true or false"},
    [WISH_MODE] = {"mode", "mode", "one of single, fallback, cascade, progressive, hedge"},
    [WISH_CONVERSATION] = {"conversation", "conversation", "1 to 128 printable ASCII characters"},
    [WISH_REFINE_AFTER_MS] = {"refine_after_ms", "refine-after-ms", "milliseconds from 0 to 86400000"},
    [WISH_QUEUE] = {"queue", "queue", "true or false"},
    [WISH_PRIORITY] = {"priority", "priority", "one of interactive, batch"},
    [WISH_TIERS] = {"tiers", "tiers", "tiers out of device, edge, onprem, cloud"},
    [WISH_HOPS] = {"hops", "hops", "a number from 0 to 255"},
};

// Names of labels and regions: lower case, so that two spellings cannot mean two labels.
static bool is_name(struct td_str s) {
    if (s.n == 0 || s.n > 64)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.'))
            return false;
    }
    return true;
}

static bool is_conversation(struct td_str s) {
    if (s.n == 0 || s.n > TD_NAME_BYTES_MAX)
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < 0x21 || s.p[i] > 0x7e)
            return false;
    return true;
}

static bool add_label(struct td_wishes *w, struct td_str label) {
    if (!is_name(label))
        return false;
    for (uint32_t i = 0; i < w->label_count; i++)
        if (td_str_eq(w->labels[i], label))
            return true;
    if (w->label_count == TD_LABELS_MAX)
        return false;
    w->labels[w->label_count++] = label;
    return true;
}

// Words of `set` that are already there stay; an empty list means all tiers, so the first set is taken whole.
static bool keep_tiers(struct td_wishes *w, const struct td_str *set, uint32_t count) {
    struct td_str kept[TD_WISH_TIERS_MAX];
    uint32_t n = 0;
    for (size_t t = 0; t < COUNT(tiers); t++) {
        bool in_new = false, in_old = w->tier_count == 0;
        for (uint32_t i = 0; i < count; i++)
            in_new = in_new || td_str_is(set[i], tiers[t]);
        for (uint32_t i = 0; i < w->tier_count; i++)
            in_old = in_old || td_str_is(w->tiers[i], tiers[t]);
        if (in_new && in_old)
            kept[n++] = td_str_of(tiers[t]);
    }
    if (n == 0)
        return false;
    memcpy(w->tiers, kept, sizeof kept[0] * n);
    w->tier_count = n;
    return true;
}

static bool set_word(struct td_wishes *w, enum wish wish, struct td_str s) {
    enum td_class c;
    switch (wish) {
    case WISH_PREFER:
        return td_prefer_parse(s, &w->prefer);
    case WISH_DATA_CLASS:
        if (!td_class_parse(s, &c))
            return false;
        if (c > w->data_class)
            w->data_class = c;
        return true;
    case WISH_RESIDENCY:
        if (!is_name(s))
            return false;
        w->residency = s;
        return true;
    case WISH_MODE:
        return td_mode_parse(s, &w->mode);
    case WISH_CONVERSATION:
        if (!is_conversation(s))
            return false;
        w->conversation = s;
        return true;
    case WISH_PRIORITY:
        if (find_word(s, priorities, COUNT(priorities)) < 0)
            return false;
        w->priority = s;
        return true;
    default:
        return false;
    }
}

static bool set_number(struct td_wishes *w, enum wish wish, uint64_t v) {
    switch (wish) {
    case WISH_DEADLINE_MS:
        if (v == 0 || v > TD_DEADLINE_MS_MAX)
            return false;
        if (w->deadline_ms == 0 || v < w->deadline_ms)
            w->deadline_ms = v;
        return true;
    case WISH_REFINE_AFTER_MS:
        if (v > TD_DEADLINE_MS_MAX)
            return false;
        w->refine_after_ms = (uint32_t)v;
        return true;
    case WISH_HOPS:
        if (v > 255)
            return false;
        if (v > w->hops)
            w->hops = (uint32_t)v;
        return true;
    default:
        return false;
    }
}

static bool set_cost(struct td_wishes *w, double usd) {
    if (!(usd >= 0 && usd <= 1e6))
        return false;
    int64_t nusd = (int64_t)floor(usd * 1e9 + 1e-3); // the wish is a ceiling: never rounded up by more than noise
    if (w->max_cost_nusd < 0 || nusd < w->max_cost_nusd)
        w->max_cost_nusd = nusd;
    return true;
}

static bool set_list(struct td_wishes *w, enum wish wish, td_json *list) {
    struct td_str set[TD_LABELS_MAX];
    uint32_t n = 0;
    if (!yyjson_is_arr(list) || yyjson_arr_size(list) > TD_LABELS_MAX)
        return false;
    size_t i, max;
    td_json *v;
    yyjson_arr_foreach(list, i, max, v) {
        if (!yyjson_is_str(v))
            return false;
        set[n++] = td_json_str(v);
    }
    if (wish == WISH_LABELS) {
        for (uint32_t k = 0; k < n; k++)
            if (!add_label(w, set[k]))
                return false;
        return true;
    }
    for (uint32_t k = 0; k < n; k++)
        if (find_word(set[k], tiers, COUNT(tiers)) < 0)
            return false;
    return n > 0 && keep_tiers(w, set, n);
}

static bool set_json(struct td_wishes *w, enum wish wish, td_json *v) {
    switch (wish) {
    case WISH_LABELS:
    case WISH_TIERS:
        return set_list(w, wish, v);
    case WISH_MAX_COST_USD:
        return yyjson_is_num(v) && set_cost(w, yyjson_get_num(v));
    case WISH_FRESH:
    case WISH_QUEUE:
        if (!yyjson_is_bool(v))
            return false;
        *(wish == WISH_FRESH ? &w->fresh : &w->queue) = yyjson_get_bool(v);
        return true;
    case WISH_DEADLINE_MS:
    case WISH_REFINE_AFTER_MS:
    case WISH_HOPS:
        return yyjson_is_uint(v) && set_number(w, wish, yyjson_get_uint(v));
    default:
        return yyjson_is_str(v) && set_word(w, wish, td_json_str(v));
    }
}

static const char *nearest(struct td_str word, bool header) {
    unsigned best = 4;
    const char *found = NULL;
    for (size_t i = 0; i < WISH_COUNT; i++) {
        const char *z = header ? wishes[i].header : wishes[i].key;
        unsigned d = td_str_distance(word, td_str_of(z), 3);
        if (d < best)
            best = d, found = z;
    }
    return found;
}

// An unknown name is told back where it looks like a name; "" else.
static struct td_str sayable(struct td_str word) {
    for (size_t i = 0; i < word.n; i++)
        if (!((word.p[i] | 32) >= 'a' && (word.p[i] | 32) <= 'z') && !(word.p[i] >= '0' && word.p[i] <= '9') &&
            word.p[i] != '_' && word.p[i] != '-')
            return TD_STR_NONE;
    return word.n <= 32 ? word : TD_STR_NONE;
}

enum td_err td_wishes_read(struct td_arena *arena, td_json *tandem, struct td_wishes *w, struct td_error *e) {
    (void)arena;
    if (!yyjson_is_obj(tandem)) {
        td_error_set(e, TD_ERR_BAD_REQUEST, "Invalid type for 'tandem': expected an object.");
        return td_error_param(e, "tandem"), TD_ERR_BAD_REQUEST;
    }
    size_t i, max;
    td_json *key, *v;
    uint32_t seen = 0;
    yyjson_obj_foreach(tandem, i, max, key, v) {
        struct td_str k = td_json_str(key);
        size_t wish = 0;
        while (wish < WISH_COUNT && !td_str_is(k, wishes[wish].key))
            wish++;
        if (wish == WISH_COUNT) {
            const char *hint = nearest(k, false);
            k = sayable(k);
            td_error_set(e, TD_ERR_BAD_REQUEST, "Unknown field in 'tandem'%s%.*s%s%s%s", k.n ? ": " : "", TD_STR_ARG(k),
                         hint ? "; did you mean '" : "", hint ? hint : "", hint ? "'?" : ".");
            return td_error_param(e, "tandem%s%.*s", k.n ? "." : "", TD_STR_ARG(k)), TD_ERR_BAD_REQUEST;
        }
        const char *name = wishes[wish].key;
        if (seen & 1u << wish) {
            td_error_set(e, TD_ERR_BAD_REQUEST, "'tandem.%s' is given twice.", name);
            return td_error_param(e, "tandem.%s", name), TD_ERR_BAD_REQUEST;
        }
        seen |= 1u << wish;
        if (yyjson_is_null(v))
            continue;
        if (!set_json(w, (enum wish)wish, v)) {
            td_error_set(e, TD_ERR_BAD_REQUEST, "Invalid value for 'tandem.%s': expected %s.", name,
                         wishes[wish].expected);
            return td_error_param(e, "tandem.%s", name), TD_ERR_BAD_REQUEST;
        }
    }
    w->revisions = w->mode == TD_MODE_PROGRESSIVE;
    return TD_OK;
}

// "0.0025" → 2500000; at most nine decimals count, more are cut off (the wish is a ceiling).
static bool parse_usd(struct td_str s, double *usd) {
    uint64_t whole = 0, part = 0;
    size_t dot = 0;
    while (dot < s.n && s.p[dot] != '.')
        dot++;
    if (!td_str_to_u64(td_str_n(s.p, dot), &whole) || whole > 1000000)
        return false;
    double scale = 1;
    if (dot < s.n) {
        size_t digits = s.n - dot - 1;
        for (size_t i = dot + 1; i < s.n; i++)
            if (s.p[i] < '0' || s.p[i] > '9')
                return false;
        if (digits == 0 || !td_str_to_u64(td_str_n(s.p + dot + 1, digits < 9 ? digits : 9), &part))
            return false;
        for (size_t i = 0; i < digits && i < 9; i++)
            scale *= 10;
    }
    *usd = (double)whole + (double)part / scale;
    return true;
}

static bool set_header_list(struct td_wishes *w, enum wish wish, struct td_str value) {
    struct td_str set[TD_LABELS_MAX];
    uint32_t n = 0;
    while (value.n) {
        const char *comma = memchr(value.p, ',', value.n);
        size_t len = comma ? (size_t)(comma - value.p) : value.n;
        struct td_str word = td_str_trim(td_str_n(value.p, len));
        value = comma ? td_str_n(comma + 1, value.n - len - 1) : TD_STR_NONE;
        if (word.n == 0)
            continue;
        if (n == TD_LABELS_MAX)
            return false;
        set[n++] = word;
    }
    for (uint32_t i = 0; i < n; i++)
        if (wish == WISH_LABELS ? !add_label(w, set[i]) : find_word(set[i], tiers, COUNT(tiers)) < 0)
            return false;
    return n > 0 && (wish == WISH_LABELS || keep_tiers(w, set, n));
}

static bool set_header(struct td_wishes *w, enum wish wish, struct td_str value) {
    uint64_t number;
    double usd;
    switch (wish) {
    case WISH_LABELS:
    case WISH_TIERS:
        return set_header_list(w, wish, value);
    case WISH_MAX_COST_USD:
        return parse_usd(value, &usd) && set_cost(w, usd);
    case WISH_FRESH:
    case WISH_QUEUE:
        if (!td_str_is(value, "true") && !td_str_is(value, "false"))
            return false;
        *(wish == WISH_FRESH ? &w->fresh : &w->queue) = td_str_is(value, "true");
        return true;
    case WISH_DEADLINE_MS:
    case WISH_REFINE_AFTER_MS:
    case WISH_HOPS:
        return td_str_to_u64(value, &number) && set_number(w, wish, number);
    default:
        return set_word(w, wish, value);
    }
}

enum td_err td_wishes_read_header(struct td_wishes *w, struct td_str name, struct td_str value, struct td_error *e) {
    static const char prefix[] = "x-tandem-";
    const size_t n = sizeof prefix - 1;
    if (name.n < n || !td_str_ieq(td_str_n(name.p, n), td_str_n(prefix, n)))
        return TD_OK;
    struct td_str rest = td_str_n(name.p + n, name.n - n);
    size_t wish = 0;
    while (wish < WISH_COUNT && !td_str_ieq(rest, td_str_of(wishes[wish].header)))
        wish++;
    if (wish == WISH_COUNT) {
        const char *hint = nearest(rest, true);
        rest = sayable(rest);
        td_error_set(e, TD_ERR_BAD_REQUEST, "Unknown header x-tandem-%.*s%s%s%s", TD_STR_ARG(rest),
                     hint ? "; did you mean 'x-tandem-" : "", hint ? hint : "", hint ? "'?" : ".");
        return td_error_param(e, "x-tandem-%.*s", TD_STR_ARG(rest)), TD_ERR_BAD_REQUEST;
    }
    if (!set_header(w, (enum wish)wish, td_str_trim(value))) {
        td_error_set(e, TD_ERR_BAD_REQUEST, "Invalid value for header 'x-tandem-%s': expected %s.", wishes[wish].header,
                     wishes[wish].expected);
        return td_error_param(e, "x-tandem-%s", wishes[wish].header), TD_ERR_BAD_REQUEST;
    }
    if (wish == WISH_MODE && w->mode != TD_MODE_PROGRESSIVE)
        w->revisions = false;
    return TD_OK;
}

static enum td_err write_list(struct td_buf *out, const char *key, const struct td_str *list, uint32_t count) {
    enum td_err err = td_buf_printf(out, "\"%s\":[", key);
    for (uint32_t i = 0; err == TD_OK && i < count; i++) {
        err = i ? td_buf_addc(out, ',') : TD_OK;
        if (err == TD_OK)
            err = td_buf_add_json(out, list[i]);
    }
    return err == TD_OK ? td_buf_addz(out, "],") : err;
}

static enum td_err write_word(struct td_buf *out, const char *key, struct td_str word) {
    if (word.n == 0)
        return TD_OK;
    enum td_err err = td_buf_printf(out, "\"%s\":", key);
    if (err == TD_OK)
        err = td_buf_add_json(out, word);
    return err == TD_OK ? td_buf_addc(out, ',') : err;
}

enum td_err td_wishes_write(const struct td_wishes *w, struct td_buf *out) {
    size_t before = out->n;
    enum td_err err = td_buf_addc(out, '{');
    if (err == TD_OK)
        err = write_word(out, "prefer", td_str_of(td_prefer_word(w->prefer)));
    if (err == TD_OK)
        err = write_word(out, "data_class", td_str_of(td_class_word(w->data_class)));
    if (err == TD_OK && w->label_count)
        err = write_list(out, "labels", w->labels, w->label_count);
    if (err == TD_OK)
        err = write_word(out, "residency", w->residency);
    if (err == TD_OK && w->deadline_ms)
        err = td_buf_printf(out, "\"deadline_ms\":%llu,", (unsigned long long)w->deadline_ms);
    if (err == TD_OK && w->max_cost_nusd >= 0)
        err = td_buf_printf(out, "\"max_cost_usd\":%lld.%09lld,", (long long)(w->max_cost_nusd / 1000000000),
                            (long long)(w->max_cost_nusd % 1000000000));
    if (err == TD_OK && w->fresh)
        err = td_buf_addz(out, "\"fresh\":true,");
    if (err == TD_OK && w->mode != TD_MODE_PROGRESSIVE)
        err = write_word(out, "mode", td_str_of(td_mode_word(w->mode)));
    if (err == TD_OK)
        err = write_word(out, "conversation", w->conversation);
    if (err == TD_OK && w->queue)
        err = td_buf_addz(out, "\"queue\":true,");
    if (err == TD_OK)
        err = write_word(out, "priority", w->priority);
    if (err == TD_OK && w->tier_count)
        err = write_list(out, "tiers", w->tiers, w->tier_count);
    if (err == TD_OK)
        err = td_buf_printf(out, "\"hops\":%u}", w->hops);
    if (err != TD_OK)
        out->n = before;
    return err;
}
