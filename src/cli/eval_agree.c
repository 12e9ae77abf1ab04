// SPDX-License-Identifier: Apache-2.0
// The pairs are split in two halves by a hash of their texts: the judge may be tuned on one, its figures are those of
// the other.
#include "cli/eval.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "cli/cli.h"

#define KINDS_MAX 64u

struct count {
    char kind[32];
    unsigned same, same_found, other, other_missed; // other_missed: judged the same though they differ
};

struct tally {
    struct count halves[2], kinds[KINDS_MAX]; // [1] held out; kinds: of the held-out half
    unsigned kind_count;
    struct td_arena arena; // of one line
};

static void add(struct count *c, bool same, bool judged) {
    if (same) {
        c->same++;
        c->same_found += judged;
    } else {
        c->other++;
        c->other_missed += judged;
    }
}

static struct count *kind_of(struct tally *t, struct td_str kind) {
    for (unsigned i = 0; i < t->kind_count; i++)
        if (td_str_is(kind, t->kinds[i].kind))
            return &t->kinds[i];
    if (t->kind_count == KINDS_MAX)
        return NULL;
    struct count *c = &t->kinds[t->kind_count++];
    snprintf(c->kind, sizeof c->kind, "%.*s", TD_STR_ARG(kind));
    return c;
}

static const char *text(struct tally *t, td_json *root, const char *key) {
    struct td_str s = td_arena_str(&t->arena, td_json_get_str(root, key));
    return s.p ? s.p : "";
}

static bool take_line(struct tally *t, struct td_str line) {
    td_json *root = NULL, *label;
    if (td_json_parse(&t->arena, line, 64, &root, NULL) != TD_OK)
        return false;
    label = td_json_get(root, "same");
    if (!yyjson_is_bool(label) || !yyjson_is_str(td_json_get(root, "a")) || !yyjson_is_str(td_json_get(root, "b")))
        return false;
    const char *a = text(t, root, "a"), *b = text(t, root, "b");
    struct td_str both = td_arena_printf(&t->arena, "%s\n%s", a, b);
    if (!both.p)
        return false;
    bool same = yyjson_get_bool(label), judged = td_texts_mean_same(text(t, root, "q"), a, b);
    bool held_out = td_hash64(both) & 1;
    add(&t->halves[held_out], same, judged);
    struct count *kind = held_out ? kind_of(t, td_json_get_str(root, "kind")) : NULL;
    if (kind)
        add(kind, same, judged);
    return true;
}

static double share(unsigned part, unsigned whole) {
    return whole ? 100.0 * part / whole : 100.0;
}

static void print_count(const char *name, const struct count *c) {
    printf("%-18s %6u %6u %9.1f%% %7.1f%% %12u %12u\n", name, c->same + c->other, c->same,
           share(c->same_found, c->same_found + c->other_missed), share(c->same_found, c->same), c->other_missed,
           c->same - c->same_found);
}

static void report(const struct tally *t) {
    static const char *const names[2] = {"for tuning", "held out"};
    if (td_cli.json) {
        printf("{");
        for (int i = 0; i < 2; i++) {
            const struct count *c = &t->halves[i];
            printf("%s\"%s\":{\"pairs\":%u,\"same\":%u,\"precision\":%.4f,\"recall\":%.4f,\"wrong_same\":%u,"
                   "\"wrong_different\":%u}",
                   i ? "," : "", i ? "held_out" : "tuning", c->same + c->other, c->same,
                   share(c->same_found, c->same_found + c->other_missed) / 100, share(c->same_found, c->same) / 100,
                   c->other_missed, c->same - c->same_found);
        }
        printf("}\n");
        return;
    }
    printf("%s%-18s %6s %6s %10s %8s %12s %12s%s\n", td_cli_bold(), "PAIRS", "ALL", "SAME", "PRECISION", "RECALL",
           "WRONG \"SAME\"", "WRONG \"DIFF\"", td_cli_reset());
    for (int i = 0; i < 2; i++)
        print_count(names[i], &t->halves[i]);
    printf("\nheld out, by kind\n");
    for (unsigned i = 0; i < t->kind_count; i++)
        print_count(t->kinds[i].kind, &t->kinds[i]);
}

int td_eval_agree(const char *path) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    struct tally t = {0};
    char *line = NULL;
    size_t cap = 0, number = 0;
    ssize_t n;
    int code = TD_EXIT_OK;
    if (!f)
        return td_cli_fail(TD_EXIT_USAGE, "%s cannot be read", path);
    while (code == TD_EXIT_OK && (n = getline(&line, &cap, f)) > 0) {
        struct td_str one = td_str_trim(td_str_n(line, (size_t)n));
        number++;
        if (one.n == 0)
            continue;
        td_arena_init(&t.arena, 64 << 20);
        if (!take_line(&t, one))
            code = td_cli_fail(TD_EXIT_USAGE, "%s:%zu: not an object with \"a\", \"b\" and \"same\"", path, number);
        td_arena_finish(&t.arena);
    }
    if (f != stdin)
        fclose(f);
    free(line);
    if (code == TD_EXIT_OK && number == 0)
        code = td_cli_fail(TD_EXIT_USAGE, "%s holds no pairs", path);
    if (code == TD_EXIT_OK)
        report(&t);
    return code;
}
