// SPDX-License-Identifier: Apache-2.0
// What the files of `tandem eval` share: an evaluation under way (eval.c), how one answer is judged (eval_judge.c), and
// what is printed at the end (eval_report.c); and --agree, which is an evaluation of its own (eval_agree.c). One
// thread.
#ifndef TD_CLI_EVAL_H
#define TD_CLI_EVAL_H

#include <stdio.h>

#include "base/json.h"

#define TD_EVAL_SLOTS_MAX 32u // of one utterance; more are left out

struct td_chat_session;

struct td_eval_pair {
    struct td_str name, value;
};

struct td_eval_item {
    struct td_str id, intent, predicted;
    bool correct, exact, declined, failed;
    double confidence, ms; // confidence 0 to 1, NaN where nobody knows it
};

struct td_eval {
    struct td_arena arena; // what is kept of items; each line has an arena of its own
    struct td_buf tools;   // JSON array offered with each utterance
    td_json *labels;       // of the set, NULL none
    struct td_eval_item *items;
    unsigned count, cap;
    unsigned slots_expected, slots_predicted, slots_right;
    unsigned in_scope, in_scope_right;
    struct td_chat_session *session;
    FILE *predictions;
    bool predictions_failed;
};

// What one answer said.
struct td_eval_answer {
    struct td_buf text, name, arguments;
    char code[64];
    double confidence; // 0 to 1, NaN where nobody knows it
    bool failed;
};

struct td_eval_expected {
    struct td_str intent;
    struct td_eval_pair slots[TD_EVAL_SLOTS_MAX];
    unsigned count;
    bool has_slots; // known, though there may be none
};

// The label of utterances that no tool is meant for.
struct td_str td_eval_none(const struct td_eval *ev);
// Reads what a line of input expects: {"intent","slots"}, or {"tool_call":{"name","arguments"}}, the arguments as an
// object or as text. TD_ERR_BAD_JSON. Views into `row` and the arena.
enum td_err td_eval_expect(const struct td_eval *ev, struct td_arena *arena, td_json *row,
                           struct td_eval_expected *x) TD_MUST_USE;
// Fills *item from the answer, adds to the sums, writes the prediction where they are asked for.
void td_eval_judge(struct td_eval *ev, struct td_arena *arena, const struct td_eval_expected *x,
                   struct td_eval_answer *a, struct td_eval_item *item);
// Prints the tables or the JSON object; an exit code.
int td_eval_report(struct td_eval *ev);

// --agree: precision and recall of the judge that says whether two answers mean the same. Reads lines of
// {"q","a","b","same","kind"}, judges each pair, prints the table; an exit code.
int td_eval_agree(const char *path);

#endif
