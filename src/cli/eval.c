// SPDX-License-Identifier: Apache-2.0
// tandem eval: runs utterances with expected intent and slots through any target and says how good it is. Intents are
// tool calls: TOOL, or TOOL.ACTION where the call has an `action` argument; a label file maps them to a public set's
// own labels.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "cli/agree.h"
#include "cli/chat.h"
#include "cli/cli.h"
#include "cli/metrics.h"

#define ITEMS_MAX 1000000u
#define SLOTS_MAX 32u
#define BINS 10u
#define KEEP 0.95         // share of right calls that a threshold is to keep
#define INTENTS_MAX 1024u // in the table; more are counted in the totals only

static const char *model, *tools_file, *labels_file, *set_name, *predictions_file;
static bool no_tools, agree;
static long limit;

struct pair {
    struct td_str name, value;
};

struct item {
    struct td_str id, intent, predicted;
    bool correct, exact, declined, failed;
    double confidence, ms;
};

struct intent_count {
    struct td_str name;
    unsigned total, correct;
};

struct eval {
    struct td_arena arena; // results; texts live in `line` only
    struct td_buf tools;   // JSON array offered with each utterance
    td_json *labels;       // of the set, NULL none
    struct item *items;
    unsigned count, cap;
    unsigned slots_expected, slots_predicted, slots_right;
    unsigned in_scope, in_scope_right;
    struct td_chat_session *session;
    FILE *predictions;
    bool predictions_failed;
};

// What one answer said.
struct answer {
    struct td_buf text, name, arguments;
    char code[64];
    double confidence;
    bool failed;
};

static void on_answer(void *user, const struct td_answer *a) {
    struct answer *out = user;
    enum td_err err = TD_OK;
    switch (a->type) {
    case TD_ANSWER_TEXT:
        err = td_buf_add(&out->text, a->text, a->text_length);
        break;
    case TD_ANSWER_TOOL_CALL:
        if (out->name.n == 0) {
            err = td_buf_addz(&out->name, a->name);
            if (err == TD_OK)
                err = td_buf_addz(&out->arguments, a->arguments);
        }
        break;
    case TD_ANSWER_END:
        out->confidence = a->confidence;
        break;
    case TD_ANSWER_ERROR:
        out->failed = true;
        snprintf(out->code, sizeof out->code, "%s", a->code);
        break;
    default:
        break;
    }
    out->failed |= err != TD_OK;
}

static enum td_err read_file(const char *path, struct td_buf *out) {
    FILE *f = fopen(path, "rb");
    enum td_err err = f ? TD_OK : TD_ERR_IO;
    char part[16384];
    size_t n;
    while (err == TD_OK && (n = fread(part, 1, sizeof part, f)) > 0)
        err = td_buf_add(out, part, n);
    if (f)
        fclose(f);
    return err;
}

static int load_tools(struct eval *ev) {
    char *found = tools_file ? NULL : td_resource_path("catalogue.json");
    const char *path = tools_file ? tools_file : found;
    int code = TD_EXIT_OK;
    if (!no_tools && !path)
        code = td_cli_fail(TD_EXIT_USAGE, "no tool catalogue found; name one with --tools, or say --no-tools");
    else if (!no_tools && read_file(path, &ev->tools) != TD_OK)
        code = td_cli_fail(TD_EXIT_USAGE, "%s cannot be read", path);
    td_string_free(found);
    return code;
}

static int load_labels(struct eval *ev) {
    struct td_buf text;
    td_json *root;
    struct td_error e;
    if (!labels_file)
        return TD_EXIT_OK;
    if (!set_name)
        return td_cli_fail(TD_EXIT_USAGE, "--labels needs --set, the name of the label set in it");
    td_buf_init(&text, 16 << 20);
    enum td_err err = read_file(labels_file, &text);
    if (err == TD_OK)
        err = td_json_parse(&ev->arena, td_buf_str(&text), 16, &root, &e);
    td_buf_finish(&text);
    if (err != TD_OK)
        return td_cli_fail(TD_EXIT_USAGE, "%s cannot be read", labels_file);
    ev->labels = td_json_get(td_json_get(root, "sets"), set_name);
    return ev->labels ? TD_EXIT_OK : td_cli_fail(TD_EXIT_USAGE, "%s has no set '%s'", labels_file, set_name);
}

static enum td_err make_body(const struct eval *ev, struct td_str text, struct td_buf *b) {
    td_buf_clear(b);
    enum td_err err = td_buf_addz(b, "{\"model\":");
    if (err == TD_OK)
        err = td_buf_add_json(b, td_str_of(model ? model : "auto"));
    if (err == TD_OK)
        err = td_buf_addz(b, ",\"stream\":true,\"temperature\":0,\"messages\":[{\"role\":\"user\",\"content\":");
    if (err == TD_OK)
        err = td_buf_add_json(b, text);
    if (err == TD_OK)
        err = td_buf_addz(b, "}]");
    if (err == TD_OK && ev->tools.n) {
        err = td_buf_addz(b, ",\"tools\":");
        if (err == TD_OK)
            err = td_buf_add_str(b, td_buf_str(&ev->tools));
    }
    return err == TD_OK ? td_buf_addz(b, "}") : err;
}

// The label a call stands for in the set; the call's own name where there is no label file.
static struct td_str label_of_call(const struct eval *ev, struct td_arena *arena, struct td_str tool,
                                   td_json *arguments) {
    struct td_str action = td_json_get_str(arguments, "action");
    struct td_str full = action.n ? td_arena_printf(arena, "%.*s.%.*s", TD_STR_ARG(tool), TD_STR_ARG(action))
                                  : td_arena_str(arena, tool); // zero-terminated
    if (!ev->labels)
        return full;
    td_json *calls = td_json_get(ev->labels, "calls");
    struct td_str label = full.p ? td_json_get_str(calls, full.p) : TD_STR_NONE;
    if (!label.n && action.n) {
        struct td_str z = td_arena_str(arena, tool);
        label = z.p ? td_json_get_str(calls, z.p) : TD_STR_NONE;
    }
    return label.n ? label : full;
}

static struct td_str slot_name(const struct eval *ev, struct td_arena *arena, struct td_str tool,
                               const char *argument) {
    if (!ev->labels)
        return td_str_of(argument);
    td_json *slots = td_json_get(ev->labels, "slots");
    struct td_str full = td_arena_printf(arena, "%.*s.%s", TD_STR_ARG(tool), argument);
    struct td_str name = full.p ? td_json_get_str(slots, full.p) : TD_STR_NONE;
    return name.n ? name : td_json_get_str(slots, argument);
}

// Lower case, white space as single blanks, without outer punctuation: what two writings of one value share.
static struct td_str normal(struct td_arena *arena, struct td_str s) {
    s = td_str_trim(s);
    while (s.n && strchr(".,!?'\"", s.p[s.n - 1]))
        s.n--;
    char *out = td_arena_alloc(arena, s.n + 1);
    size_t n = 0;
    for (size_t i = 0; out && i < s.n; i++) {
        char c = s.p[i] >= 'A' && s.p[i] <= 'Z' ? (char)(s.p[i] + 32) : s.p[i];
        bool blank = c == ' ' || c == '\t' || c == '\n';
        if (!blank || (n && out[n - 1] != ' '))
            out[n++] = blank ? ' ' : c;
    }
    return td_str_n(out, out ? n : 0);
}

static unsigned add_value(struct td_arena *arena, struct pair *list, unsigned n, struct td_str name, td_json *value) {
    char number[40];
    struct td_str text = td_json_str(value);
    size_t i, count;
    td_json *one;
    if (yyjson_is_arr(value)) {
        yyjson_arr_foreach(value, i, count, one) n = add_value(arena, list, n, name, one);
        return n;
    }
    if (yyjson_is_num(value)) {
        snprintf(number, sizeof number, "%.10g", yyjson_get_num(value));
        text = td_arena_str(arena, td_str_of(number));
    }
    if (!text.p || n >= SLOTS_MAX || !name.n)
        return n;
    list[n++] = (struct pair){name, normal(arena, text)};
    return n;
}

static unsigned expected_slots(struct td_arena *arena, td_json *slots, struct pair *list) {
    unsigned n = 0;
    size_t i, count;
    td_json *key, *value;
    if (yyjson_is_arr(slots)) {
        yyjson_arr_foreach(slots, i, count, value) n =
            add_value(arena, list, n, td_json_get_str(value, "slot"), td_json_get(value, "text"));
    } else if (yyjson_is_obj(slots)) {
        yyjson_obj_foreach(slots, i, count, key, value) n = add_value(arena, list, n, td_json_str(key), value);
    }
    return n;
}

static unsigned predicted_slots(const struct eval *ev, struct td_arena *arena, struct td_str tool, td_json *arguments,
                                struct pair *list) {
    unsigned n = 0;
    size_t i, count;
    td_json *key, *value;
    yyjson_obj_foreach(arguments, i, count, key, value) {
        if (!td_str_is(td_json_str(key), "action") || ev->labels)
            n = add_value(arena, list, n, slot_name(ev, arena, tool, yyjson_get_str(key)), value);
    }
    return n;
}

static unsigned matches(const struct pair *a, unsigned an, const struct pair *b, unsigned bn) {
    bool used[SLOTS_MAX] = {false};
    unsigned right = 0;
    for (unsigned i = 0; i < an; i++)
        for (unsigned j = 0; j < bn; j++)
            if (!used[j] && td_str_eq(a[i].name, b[j].name) && td_str_eq(a[i].value, b[j].value)) {
                used[j] = true;
                right++;
                break;
            }
    return right;
}

// Arguments under the names that the input's slots have, so that predictions can be compared or be input themselves.
static enum td_err write_slots(const struct eval *ev, struct td_arena *arena, struct td_str tool, td_json *arguments,
                               struct td_buf *b) {
    struct td_str names[SLOTS_MAX];
    td_json *values[SLOTS_MAX], *key, *value;
    unsigned n = 0, written = 0;
    size_t i, count;
    yyjson_obj_foreach(arguments, i, count, key, value) {
        if (n == SLOTS_MAX || (td_str_is(td_json_str(key), "action") && !ev->labels))
            continue;
        names[n] = slot_name(ev, arena, tool, yyjson_get_str(key));
        values[n] = value;
        n += names[n].n > 0;
    }
    enum td_err err = td_buf_addz(b, "{");
    for (unsigned j = 0; j < n && err == TD_OK; j++) {
        unsigned same = 0, before = 0;
        for (unsigned k = 0; k < n; k++) {
            same += td_str_eq(names[k], names[j]);
            before += k < j && td_str_eq(names[k], names[j]);
        }
        if (before)
            continue;
        err = written++ ? td_buf_addc(b, ',') : TD_OK;
        if (err == TD_OK)
            err = td_buf_add_json(b, names[j]);
        if (err == TD_OK)
            err = td_buf_addz(b, same > 1 ? ":[" : ":");
        for (unsigned k = j; k < n && err == TD_OK; k++) {
            if (!td_str_eq(names[k], names[j]))
                continue;
            err = k > j ? td_buf_addc(b, ',') : TD_OK;
            if (err == TD_OK)
                err = td_json_write(values[k], b);
        }
        if (err == TD_OK && same > 1)
            err = td_buf_addc(b, ']');
    }
    return err == TD_OK ? td_buf_addz(b, "}") : err;
}

static void write_prediction(struct eval *ev, struct td_arena *arena, const struct item *item, struct td_str tool,
                             td_json *arguments) {
    struct td_buf b;
    td_buf_init(&b, 1 << 20);
    enum td_err err = td_buf_addz(&b, "{\"id\":");
    if (err == TD_OK)
        err = td_buf_add_json(&b, item->id);
    if (err == TD_OK)
        err = td_buf_addz(&b, ",\"intent\":");
    if (err == TD_OK)
        err = td_buf_add_json(&b, item->predicted);
    if (err == TD_OK)
        err = td_buf_addz(&b, ",\"slots\":");
    if (err == TD_OK)
        err = write_slots(ev, arena, tool, arguments, &b);
    if (err == TD_OK && isnan(item->confidence))
        err = td_buf_addz(&b, ",\"confidence\":null");
    else if (err == TD_OK)
        err = td_buf_printf(&b, ",\"confidence\":%.6f", item->confidence);
    if (err == TD_OK)
        err = td_buf_printf(&b, ",\"ms\":%.3f}\n", item->ms);
    if (err != TD_OK || fwrite(b.p, 1, b.n, ev->predictions) != b.n)
        ev->predictions_failed = true;
    td_buf_finish(&b);
}

// A label that the label file counts as another.
static struct td_str same_as(const struct eval *ev, struct td_str intent) {
    td_json *other =
        ev->labels ? yyjson_obj_getn(td_json_get(ev->labels, "same_as"), intent.p ? intent.p : "", intent.n) : NULL;
    return yyjson_is_str(other) ? td_json_str(other) : intent;
}

struct expected {
    struct td_str intent;
    struct pair slots[SLOTS_MAX];
    unsigned count;
    bool has_slots; // known, though there may be none
};

// {"intent","slots"}, or {"tool_call":{"name","arguments"}}, the arguments as an object or as text.
static enum td_err read_expected(const struct eval *ev, struct td_arena *arena, td_json *row, struct expected *x) {
    td_json *call = td_json_get(row, "tool_call"), *slots = td_json_get(row, "slots");
    struct td_str intent = td_json_get_str(row, "intent");
    *x = (struct expected){.intent = same_as(ev, intent.n ? intent : td_json_get_str(row, "group"))};
    if (x->intent.n || !call) {
        x->has_slots = slots != NULL;
        x->count = expected_slots(arena, slots, x->slots);
        return TD_OK;
    }
    struct td_str tool = td_json_get_str(call, "name");
    td_json *arguments = td_json_get(call, "arguments");
    if (!tool.n ||
        (yyjson_is_str(arguments) && td_json_parse(arena, td_json_str(arguments), 16, &arguments, NULL) != TD_OK))
        return TD_ERR_BAD_JSON;
    x->has_slots = true;
    x->count = predicted_slots(ev, arena, tool, arguments, x->slots);
    x->intent = label_of_call(ev, arena, tool, arguments);
    return TD_OK;
}

static void judge(struct eval *ev, struct td_arena *arena, const struct expected *x, struct answer *a,
                  struct item *item) {
    struct pair predicted[SLOTS_MAX];
    td_json *arguments = NULL;
    struct td_str none = ev->labels ? td_json_get_str(ev->labels, "not_for_me") : TD_STR("none");
    unsigned pn = 0;
    item->declined = a->name.n == 0;
    item->failed = a->failed && strcmp(a->code, "tandem.model.declined") != 0;
    item->confidence = a->confidence;
    struct td_str label = none;
    if (!item->declined) {
        if (td_json_parse(arena, td_buf_str(&a->arguments), 16, &arguments, NULL) != TD_OK)
            arguments = NULL;
        label = label_of_call(ev, arena, td_buf_str(&a->name), arguments);
        pn = predicted_slots(ev, arena, td_buf_str(&a->name), arguments, predicted);
    }
    item->predicted = td_arena_str(&ev->arena, label);
    item->correct = !item->failed && td_str_eq(item->predicted, item->intent);
    unsigned right = item->correct ? matches(x->slots, x->count, predicted, pn) : 0;
    if (x->has_slots) {
        ev->slots_expected += x->count;
        ev->slots_predicted += pn;
        ev->slots_right += right;
    }
    item->exact = item->correct && right == x->count && right == pn;
    if (!td_str_eq(item->intent, none)) {
        ev->in_scope++;
        ev->in_scope_right += item->correct;
    }
    if (ev->predictions)
        write_prediction(ev, arena, item, td_buf_str(&a->name), arguments);
}

static enum td_err run_line(struct eval *ev, struct td_str line, struct td_buf *body) {
    struct td_arena arena;
    struct answer a = {.confidence = NAN};
    struct expected x;
    td_json *row;
    td_arena_init(&arena, 16 << 20);
    td_buf_init(&a.text, 16 << 20);
    td_buf_init(&a.name, 1024);
    td_buf_init(&a.arguments, 16 << 20);
    enum td_err err = td_json_parse(&arena, line, 16, &row, NULL);
    struct td_str text = err == TD_OK ? td_json_get_str(row, "text") : TD_STR_NONE;
    if (err == TD_OK && !text.n)
        err = TD_ERR_BAD_JSON;
    if (err == TD_OK)
        err = make_body(ev, text, body);
    if (err == TD_OK)
        err = read_expected(ev, &arena, row, &x);
    if (err == TD_OK) {
        struct item *item = &ev->items[ev->count++];
        item->id = td_arena_str(&ev->arena, td_json_get_str(row, "id"));
        item->intent = td_arena_str(&ev->arena, x.intent);
        uint64_t start = td_now_ns();
        td_chat_session_ask(ev->session, td_buf_str(body), on_answer, &a);
        item->ms = (double)(td_now_ns() - start) / 1e6;
        judge(ev, &arena, &x, &a, item);
    }
    td_buf_finish(&a.text);
    td_buf_finish(&a.name);
    td_buf_finish(&a.arguments);
    td_arena_finish(&arena);
    return err;
}

static int by_number(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// How sure the model is that the utterance is for it at all.
static double scope_score(const struct item *i) {
    return i->declined ? 1 - i->confidence : i->confidence;
}

struct totals {
    unsigned right, exact, failed;
    double f1, auroc, ece, sure_right, sure_wrong, p50, p95, p99;
    struct td_threshold threshold;
};

static enum td_err sum_up(const struct eval *ev, struct totals *t) {
    struct td_str none = ev->labels ? td_json_get_str(ev->labels, "not_for_me") : TD_STR("none");
    double *ms = td_calloc(ev->count, sizeof *ms);
    struct td_scored *v = td_calloc(ev->count, sizeof *v);
    size_t scored = 0, calls = 0;
    *t = (struct totals){.f1 = td_metrics_f1(ev->slots_right, ev->slots_predicted, ev->slots_expected)};
    if (!ms || !v) {
        td_free(ms);
        td_free(v);
        return TD_ERR_NOMEM;
    }
    for (unsigned i = 0; i < ev->count; i++) {
        const struct item *it = &ev->items[i];
        t->right += it->correct;
        t->exact += it->exact;
        t->failed += it->failed;
        ms[i] = it->ms;
        if (!isnan(it->confidence))
            v[scored++] = (struct td_scored){scope_score(it), !td_str_eq(it->intent, none)};
    }
    qsort(ms, ev->count, sizeof *ms, by_number);
    t->p50 = td_metrics_percentile(ms, ev->count, 50);
    t->p95 = td_metrics_percentile(ms, ev->count, 95);
    t->p99 = td_metrics_percentile(ms, ev->count, 99);
    t->auroc = td_metrics_auroc(v, scored);
    scored = 0;
    for (unsigned i = 0; i < ev->count; i++)
        if (!isnan(ev->items[i].confidence))
            v[scored++] = (struct td_scored){ev->items[i].confidence, ev->items[i].correct};
    t->ece = td_metrics_ece(v, scored, BINS);
    t->sure_right = td_metrics_mean(v, scored, true);
    t->sure_wrong = td_metrics_mean(v, scored, false);
    for (unsigned i = 0; i < ev->count; i++) // a declined answer goes on to the next target at any threshold
        if (!isnan(ev->items[i].confidence) && !ev->items[i].declined)
            v[calls++] = (struct td_scored){ev->items[i].confidence, ev->items[i].correct};
    t->threshold = td_metrics_threshold(v, calls, KEEP);
    td_free(ms);
    td_free(v);
    return TD_OK;
}

static unsigned count_intents(struct eval *ev, struct intent_count *counts, unsigned max) {
    unsigned n = 0;
    for (unsigned i = 0; i < ev->count; i++) {
        unsigned at = 0;
        while (at < n && !td_str_eq(counts[at].name, ev->items[i].intent))
            at++;
        if (at == n && n < max)
            counts[n++] = (struct intent_count){.name = ev->items[i].intent};
        if (at < n) {
            counts[at].total++;
            counts[at].correct += ev->items[i].correct;
        }
    }
    return n;
}

static int by_accuracy(const void *a, const void *b) {
    const struct intent_count *x = a, *y = b;
    double p = (double)x->correct / x->total, q = (double)y->correct / y->total;
    return p != q ? (p > q) - (p < q) : (x->total < y->total) - (x->total > y->total);
}

static double percent(unsigned part, unsigned whole) {
    return whole ? 100.0 * part / whole : NAN;
}

static void print_number(const char *name, double value, const char *unit) {
    if (isnan(value))
        printf("%-34s      n/a\n", name);
    else
        printf("%-34s %8.*f%s\n", name, *unit ? 2 : 4, value, unit);
}

static void print_json_number(const char *name, double value) {
    if (isnan(value))
        printf(",\"%s\":null", name);
    else
        printf(",\"%s\":%.6g", name, value);
}

static void print_intents(struct eval *ev) {
    static struct intent_count counts[INTENTS_MAX];
    unsigned intents = count_intents(ev, counts, INTENTS_MAX);
    qsort(counts, intents, sizeof counts[0], by_accuracy);
    printf("%s%-34s %8s %8s%s\n", td_cli_bold(), "INTENT (worst first)", "ITEMS", "RIGHT", td_cli_reset());
    for (unsigned i = 0; i < intents; i++)
        printf("%-34.*s %8u %7.1f%%\n", TD_STR_ARG(counts[i].name), counts[i].total,
               percent(counts[i].correct, counts[i].total));
}

static void report_json(const struct eval *ev, const struct totals *t) {
    printf("{\"items\":%u,\"failed\":%u", ev->count, t->failed);
    print_json_number("accuracy", percent(t->right, ev->count));
    print_json_number("in_scope_accuracy", percent(ev->in_scope_right, ev->in_scope));
    print_json_number("exact_match", percent(t->exact, ev->count));
    print_json_number("slot_f1", t->f1);
    print_json_number("scope_auroc", t->auroc);
    print_json_number("ece", t->ece);
    print_json_number("confidence_right", t->sure_right);
    print_json_number("confidence_wrong", t->sure_wrong);
    print_json_number("threshold", t->threshold.at);
    print_json_number("threshold_keeps_right", 100 * t->threshold.kept);
    print_json_number("threshold_catches_wrong", 100 * t->threshold.caught);
    print_json_number("p50_ms", t->p50);
    print_json_number("p95_ms", t->p95);
    print_json_number("p99_ms", t->p99);
    printf("}\n");
}

static void report_text(struct eval *ev, const struct totals *t) {
    print_intents(ev);
    printf("\n%-34s %8u\n%-34s %8u\n", "items", ev->count, "failed", t->failed);
    print_number("intent accuracy", percent(t->right, ev->count), " %");
    print_number("intent accuracy, in scope", percent(ev->in_scope_right, ev->in_scope), " %");
    print_number("exact match", percent(t->exact, ev->count), " %");
    print_number("slot F1", t->f1, " %");
    print_number("in scope or not, AUROC", t->auroc, "");
    print_number("calibration error (ECE, 10 bins)", t->ece, "");
    print_number("confidence when right", t->sure_right, "");
    print_number("confidence when wrong", t->sure_wrong, "");
    print_number("threshold keeping 95 % right calls", t->threshold.at, "");
    print_number("  wrong calls it would escalate", 100 * t->threshold.caught, " %");
    print_number("latency p50", t->p50, " ms");
    print_number("latency p95", t->p95, " ms");
    print_number("latency p99", t->p99, " ms");
}

static int report(struct eval *ev) {
    struct totals t;
    if (sum_up(ev, &t) != TD_OK)
        return td_cli_fail(TD_EXIT_FAILED, "out of memory");
    if (td_cli.json)
        report_json(ev, &t);
    else
        report_text(ev, &t);
    return TD_EXIT_OK;
}

static int run_file(struct eval *ev, const char *path) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    char *line = NULL;
    size_t cap = 0, number = 0;
    ssize_t n;
    struct td_buf body;
    int code = TD_EXIT_OK;
    if (!f)
        return td_cli_fail(TD_EXIT_USAGE, "%s cannot be read", path);
    td_buf_init(&body, 32 << 20);
    while (code == TD_EXIT_OK && (!limit || ev->count < (unsigned)limit) && (n = getline(&line, &cap, f)) > 0) {
        struct td_str text = td_str_trim(td_str_n(line, (size_t)n));
        number++;
        if (text.n == 0)
            continue;
        if (ev->count == ev->cap) {
            unsigned more = ev->cap ? ev->cap * 2 : 1024;
            struct item *items = more <= ITEMS_MAX * 2 ? td_realloc(ev->items, more * sizeof *items) : NULL;
            if (!items) {
                code = td_cli_fail(TD_EXIT_FAILED, "too many items, or out of memory");
                break;
            }
            memset(items + ev->cap, 0, (more - ev->cap) * sizeof *items);
            ev->items = items;
            ev->cap = more;
        }
        enum td_err err = run_line(ev, text, &body);
        if (err != TD_OK)
            code = td_cli_fail(TD_EXIT_USAGE,
                               "%s:%zu: not an object with \"id\", \"text\", and \"intent\" or \"tool_call\"", path,
                               number);
        if (td_cli_stderr_is_terminal() && ev->count % 50 == 0)
            fprintf(stderr, "\r%u", ev->count);
    }
    if (td_cli_stderr_is_terminal())
        fprintf(stderr, "\r\033[K");
    if (f != stdin)
        fclose(f);
    free(line);
    td_buf_finish(&body);
    return code;
}

static int run(int argc, char **argv) {
    struct eval ev = {0};
    struct td_failure failure;
    int code = TD_EXIT_OK;
    if (argc != 1)
        return td_cli_fail(TD_EXIT_USAGE, "eval wants one JSONL file (or -)");
    if (agree)
        return td_cli_eval_agree(argv[0]);
    td_arena_init(&ev.arena, (size_t)2 << 30);
    td_buf_init(&ev.tools, 4 << 20);
    code = load_tools(&ev);
    if (code == TD_EXIT_OK)
        code = load_labels(&ev);
    if (code == TD_EXIT_OK && predictions_file && !(ev.predictions = fopen(predictions_file, "wb")))
        code = td_cli_fail(TD_EXIT_USAGE, "%s cannot be written", predictions_file);
    if (code == TD_EXIT_OK && !(ev.session = td_chat_session_open(&failure)))
        code = td_cli_failure(&failure);
    if (code == TD_EXIT_OK)
        code = run_file(&ev, argv[0]);
    if (code == TD_EXIT_OK && ev.count == 0)
        code = td_cli_fail(TD_EXIT_USAGE, "%s holds no items", argv[0]);
    if (code == TD_EXIT_OK)
        code = report(&ev);
    if (ev.predictions && (fclose(ev.predictions) != 0 || ev.predictions_failed) && code == TD_EXIT_OK)
        code = td_cli_fail(TD_EXIT_FAILED, "%s could not be written whole", predictions_file);
    td_chat_session_close(ev.session);
    td_free(ev.items);
    td_buf_finish(&ev.tools);
    td_arena_finish(&ev.arena);
    return code;
}

static const struct td_opt options[] = {
    {"model", 'm', TD_OPT_STRING, "NAME", "the target to evaluate (default: auto)", .string = &model},
    {"tools", 0, TD_OPT_STRING, "FILE", "tools to offer (default: the assistant catalogue)", .string = &tools_file},
    {"no-tools", 0, TD_OPT_FLAG, NULL, "offer no tools", .flag = &no_tools},
    {"labels", 'l', TD_OPT_STRING, "FILE", "maps calls and arguments to the labels of the data",
     .string = &labels_file},
    {"set", 's', TD_OPT_STRING, "NAME", "which set of the label file", .string = &set_name},
    {"predictions", 'p', TD_OPT_STRING, "FILE", "write one JSON line per item", .string = &predictions_file},
    {"agree", 0, TD_OPT_FLAG, NULL,
     "measure instead how answers are judged to mean the same: lines of {\"q\",\"a\",\"b\",\"same\",\"kind\"}",
     .flag = &agree},
    {"limit", 'n', TD_OPT_NUMBER, "N", "only the first N items", .number = &limit, .min = 1, .max = 1000000},
    {0},
};

const struct td_command td_command_eval = {
    .name = "eval",
    .arguments = "FILE",
    .help = "measure a target on utterances with expected intent and slots (JSONL)",
    .details = "Input lines: {\"id\",\"text\",\"intent\",\"slots\"}, or with \"tool_call\":{\"name\",\"arguments\"} "
               "for the last two. Predictions: "
               "{\"id\",\"intent\",\"slots\",\"confidence\",\"ms\"}.",
    .options = options,
    .run = run,
};
