// SPDX-License-Identifier: Apache-2.0
// An item's expected intent and slots against what was answered, under the labels of the data.
#include "cli/eval.h"

#include <math.h>
#include <string.h>

struct td_str td_eval_none(const struct td_eval *ev) {
    return ev->labels ? td_json_get_str(ev->labels, "not_for_me") : TD_STR("none");
}

// The label a call stands for in the set; the call's own name where there is no label file.
static struct td_str label_of_call(const struct td_eval *ev, struct td_arena *arena, struct td_str tool,
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

static struct td_str slot_name(const struct td_eval *ev, struct td_arena *arena, struct td_str tool,
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

static unsigned add_value(struct td_arena *arena, struct td_eval_pair *list, unsigned n, struct td_str name,
                          td_json *value) {
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
    if (!text.p || n >= TD_EVAL_SLOTS_MAX || !name.n)
        return n;
    list[n++] = (struct td_eval_pair){name, normal(arena, text)};
    return n;
}

static unsigned expected_slots(struct td_arena *arena, td_json *slots, struct td_eval_pair *list) {
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

static unsigned predicted_slots(const struct td_eval *ev, struct td_arena *arena, struct td_str tool,
                                td_json *arguments, struct td_eval_pair *list) {
    unsigned n = 0;
    size_t i, count;
    td_json *key, *value;
    yyjson_obj_foreach(arguments, i, count, key, value) {
        if (!td_str_is(td_json_str(key), "action") || ev->labels)
            n = add_value(arena, list, n, slot_name(ev, arena, tool, yyjson_get_str(key)), value);
    }
    return n;
}

static unsigned matches(const struct td_eval_pair *a, unsigned an, const struct td_eval_pair *b, unsigned bn) {
    bool used[TD_EVAL_SLOTS_MAX] = {false};
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
static enum td_err write_slots(const struct td_eval *ev, struct td_arena *arena, struct td_str tool, td_json *arguments,
                               struct td_buf *b) {
    struct td_str names[TD_EVAL_SLOTS_MAX];
    td_json *values[TD_EVAL_SLOTS_MAX], *key, *value;
    unsigned n = 0, written = 0;
    size_t i, count;
    yyjson_obj_foreach(arguments, i, count, key, value) {
        if (n == TD_EVAL_SLOTS_MAX || (td_str_is(td_json_str(key), "action") && !ev->labels))
            continue;
        names[n] = slot_name(ev, arena, tool, yyjson_get_str(key));
        values[n] = value;
        n += names[n].n > 0;
    }
    TD_TRY(td_buf_addz(b, "{"));
    for (unsigned j = 0; j < n; j++) {
        unsigned same = 0, before = 0;
        for (unsigned k = 0; k < n; k++) {
            same += td_str_eq(names[k], names[j]);
            before += k < j && td_str_eq(names[k], names[j]);
        }
        if (before)
            continue;
        if (written++)
            TD_TRY(td_buf_addc(b, ','));
        TD_TRY(td_buf_add_json(b, names[j]));
        TD_TRY(td_buf_addz(b, same > 1 ? ":[" : ":"));
        for (unsigned k = j; k < n; k++) {
            if (!td_str_eq(names[k], names[j]))
                continue;
            if (k > j)
                TD_TRY(td_buf_addc(b, ','));
            TD_TRY(td_json_write(values[k], b));
        }
        if (same > 1)
            TD_TRY(td_buf_addc(b, ']'));
    }
    return td_buf_addz(b, "}");
}

static enum td_err make_prediction(const struct td_eval *ev, struct td_arena *arena, const struct td_eval_item *item,
                                   struct td_str tool, td_json *arguments, struct td_buf *b) {
    TD_TRY(td_buf_addz(b, "{\"id\":"));
    TD_TRY(td_buf_add_json(b, item->id));
    TD_TRY(td_buf_addz(b, ",\"intent\":"));
    TD_TRY(td_buf_add_json(b, item->predicted));
    TD_TRY(td_buf_addz(b, ",\"slots\":"));
    TD_TRY(write_slots(ev, arena, tool, arguments, b));
    if (isnan(item->confidence))
        TD_TRY(td_buf_addz(b, ",\"confidence\":null"));
    else
        TD_TRY(td_buf_printf(b, ",\"confidence\":%.6f", item->confidence));
    return td_buf_printf(b, ",\"ms\":%.3f}\n", item->ms);
}

static void write_prediction(struct td_eval *ev, struct td_arena *arena, const struct td_eval_item *item,
                             struct td_str tool, td_json *arguments) {
    struct td_buf b;
    td_buf_init(&b, 1 << 20);
    if (make_prediction(ev, arena, item, tool, arguments, &b) != TD_OK || fwrite(b.p, 1, b.n, ev->predictions) != b.n)
        ev->predictions_failed = true;
    td_buf_finish(&b);
}

// A label that the label file counts as another.
static struct td_str same_as(const struct td_eval *ev, struct td_str intent) {
    td_json *other =
        ev->labels ? yyjson_obj_getn(td_json_get(ev->labels, "same_as"), intent.p ? intent.p : "", intent.n) : NULL;
    return yyjson_is_str(other) ? td_json_str(other) : intent;
}

enum td_err td_eval_expect(const struct td_eval *ev, struct td_arena *arena, td_json *row, struct td_eval_expected *x) {
    td_json *call = td_json_get(row, "tool_call"), *slots = td_json_get(row, "slots");
    struct td_str intent = td_json_get_str(row, "intent");
    *x = (struct td_eval_expected){.intent = same_as(ev, intent.n ? intent : td_json_get_str(row, "group"))};
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

void td_eval_judge(struct td_eval *ev, struct td_arena *arena, const struct td_eval_expected *x,
                   struct td_eval_answer *a, struct td_eval_item *item) {
    struct td_eval_pair predicted[TD_EVAL_SLOTS_MAX];
    td_json *arguments = NULL;
    struct td_str none = td_eval_none(ev);
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
