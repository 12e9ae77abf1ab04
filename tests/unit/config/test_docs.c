// SPDX-License-Identifier: Apache-2.0
// The documentation's table of options is the program's own, and the example in it loads.
#include "unit.h"

#include <stdio.h>

#include "config/config.h"
#include "docs.h"

static void the_table_of_options_is_current(void **state) {
    (void)state;
    char *doc = docs_read("config.md");
    struct td_buf b;
    td_buf_init(&b, 1 << 18);
    assert_ok(td_config_schema_markdown(&b));
    if (!strstr(doc, td_buf_z(&b)))
        fail_msg("docs/config.md is out of date; its table must be:\n%s", td_buf_z(&b));
    td_buf_finish(&b);
    free(doc);
}

static void examples_load(const char *name, const char *before) {
    char *doc = docs_read(name), *at = doc;
    unsigned examples = 0;
    while ((at = strstr(at, "```yaml\n"))) {
        at += 8;
        char *end = strstr(at, "```");
        struct td_buf text;
        struct td_config *c = NULL;
        struct td_error e = {0};
        assert_non_null(end);
        td_buf_init(&text, 1 << 16);
        assert_ok(td_buf_addz(&text, before));
        assert_ok(td_buf_add(&text, at, (size_t)(end - at)));
        if (td_config_load_text(td_buf_str(&text), name, "/", NULL, &c, &e) != TD_OK)
            fail_msg("%s", e.message);
        td_config_unref(c);
        td_buf_finish(&text);
        at = end + 3;
        examples++;
    }
    assert_true(examples > 0);
    free(doc);
}

static void the_examples_load(void **state) {
    (void)state;
    examples_load("config.md", "");
    examples_load("policy.md", "version: 1\ntargets: [{name: d, tier: device, provider: llama, model: /x}]\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_of_options_is_current),
        cmocka_unit_test(the_examples_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
