// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include "wire/request.h"

static struct td_arena arena;
static struct td_error error;
static struct td_wishes w;

static int setup(void **state) {
    (void)state;
    td_arena_init(&arena, 1 << 20);
    td_wishes_init(&w);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    td_arena_finish(&arena);
    return 0;
}

static enum td_err read(const char *text) {
    td_json *v;
    assert_ok(td_json_parse(&arena, td_str_of(text), 64, &v, &error));
    return td_wishes_read(&arena, v, &w, &error);
}
static enum td_err header(const char *name, const char *value) {
    return td_wishes_read_header(&w, td_str_of(name), td_str_of(value), &error);
}

static void all_wishes_are_read(void **state) {
    (void)state;
    assert_ok(read("{\"prefer\":\"private\",\"data_class\":\"confidential\",\"labels\":[\"pii\",\"phi\",\"pii\"],"
                   "\"residency\":\"eu\",\"deadline_ms\":2500,\"max_cost_usd\":0.0025,\"fresh\":true,"
                   "\"mode\":\"progressive\",\"conversation\":\"c-1\",\"refine_after_ms\":300,\"queue\":true,"
                   "\"priority\":\"batch\",\"tiers\":[\"device\",\"cloud\"],\"hops\":2}"));
    assert_int_equal(w.prefer, TD_PREFER_PRIVATE);
    assert_int_equal(w.data_class, TD_CLASS_CONFIDENTIAL);
    assert_int_equal(w.label_count, 2);
    assert_str(w.labels[1], "phi");
    assert_str(w.residency, "eu");
    assert_int_equal(w.deadline_ms, 2500);
    assert_int_equal(w.max_cost_nusd, 2500000);
    assert_true(w.fresh && w.queue && w.revisions);
    assert_int_equal(w.mode, TD_MODE_PROGRESSIVE);
    assert_str(w.conversation, "c-1");
    assert_int_equal(w.refine_after_ms, 300);
    assert_str(w.priority, "batch");
    assert_int_equal(w.tier_count, 2);
    assert_int_equal(w.hops, 2);
}

static void wrong_wishes_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *json, *param;
    } list[] = {
        {"7", "tandem"},
        {"{\"lables\":[]}", "tandem.lables"},
        {"{\"no name\":1}", "tandem"},
        {"{\"\":1}", "tandem"},
        {"{\"prefer\":\"best\"}", "tandem.prefer"},
        {"{\"prefer\":\"\"}", "tandem.prefer"},
        {"{\"data_class\":3}", "tandem.data_class"},
        {"{\"labels\":\"pii\"}", "tandem.labels"},
        {"{\"labels\":[\"PII\"]}", "tandem.labels"},
        {"{\"labels\":[\"\"]}", "tandem.labels"},
        {"{\"residency\":\"e u\"}", "tandem.residency"},
        {"{\"deadline_ms\":0}", "tandem.deadline_ms"},
        {"{\"deadline_ms\":86400001}", "tandem.deadline_ms"},
        {"{\"deadline_ms\":1.5}", "tandem.deadline_ms"},
        {"{\"max_cost_usd\":-1}", "tandem.max_cost_usd"},
        {"{\"max_cost_usd\":1e300}", "tandem.max_cost_usd"},
        {"{\"fresh\":1}", "tandem.fresh"},
        {"{\"mode\":\"both\"}", "tandem.mode"},
        {"{\"conversation\":\"\"}", "tandem.conversation"},
        {"{\"conversation\":\"a b\"}", "tandem.conversation"},
        {"{\"priority\":\"high\"}", "tandem.priority"},
        {"{\"tiers\":[]}", "tandem.tiers"},
        {"{\"tiers\":[\"moon\"]}", "tandem.tiers"},
        {"{\"hops\":256}", "tandem.hops"},
        {"{\"fresh\":true,\"fresh\":true}", "tandem.fresh"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        td_wishes_init(&w);
        enum td_err err = read(list[i].json);
        if (err != TD_ERR_BAD_REQUEST || strcmp(error.param, list[i].param) != 0)
            fail_msg("%s: %s '%s'", list[i].json, td_err_code(err), error.param);
    }
    td_wishes_init(&w);
    assert_int_equal(read("{\"lables\":[]}"), TD_ERR_BAD_REQUEST);
    assert_non_null(strstr(error.message, "labels"));
}

static void labels_have_a_ceiling(void **state) {
    (void)state;
    for (int over = 0; over < 2; over++) {
        struct td_buf b;
        td_buf_init(&b, 4096);
        assert_ok(td_buf_addz(&b, "{\"labels\":["));
        for (unsigned i = 0; i < TD_LABELS_MAX + (unsigned)over; i++)
            assert_ok(td_buf_printf(&b, "%s\"l%u\"", i ? "," : "", i));
        assert_ok(td_buf_addz(&b, "]}"));
        td_wishes_init(&w);
        assert_int_equal(read(td_buf_z(&b)), over ? TD_ERR_BAD_REQUEST : TD_OK);
        td_buf_finish(&b);
    }
}

static void headers_narrow_what_the_body_said(void **state) {
    (void)state;
    assert_ok(read("{\"data_class\":\"confidential\",\"labels\":[\"pii\"],\"deadline_ms\":100,\"max_cost_usd\":0.5,"
                   "\"tiers\":[\"device\",\"edge\"],\"prefer\":\"fast\",\"mode\":\"progressive\"}"));
    assert_ok(header("X-Tandem-Data-Class", "public"));
    assert_int_equal(w.data_class, TD_CLASS_CONFIDENTIAL);
    assert_ok(header("x-tandem-data-class", "restricted"));
    assert_int_equal(w.data_class, TD_CLASS_RESTRICTED);
    assert_ok(header("x-tandem-labels", "phi, pii,,pci"));
    assert_int_equal(w.label_count, 3);
    assert_ok(header("x-tandem-deadline-ms", "200"));
    assert_int_equal(w.deadline_ms, 100);
    assert_ok(header("x-tandem-max-cost-usd", "0.000001"));
    assert_int_equal(w.max_cost_nusd, 1000);
    assert_ok(header("x-tandem-tiers", "edge,cloud"));
    assert_int_equal(w.tier_count, 1);
    assert_str(w.tiers[0], "edge");
    assert_int_equal(header("x-tandem-tiers", "cloud"), TD_ERR_BAD_REQUEST); // nothing would be left
    assert_ok(header("x-tandem-prefer", " cheap "));
    assert_int_equal(w.prefer, TD_PREFER_CHEAP);
    assert_true(w.revisions);
    assert_ok(header("x-tandem-mode", "single"));
    assert_false(w.revisions);
    assert_ok(
        header("x-tandem-mode", "progressive")); // said in a header it does not mean that revisions are understood
    assert_false(w.revisions);
}

static void unknown_headers_of_ours_are_refused_and_others_left_alone(void **state) {
    (void)state;
    assert_ok(header("content-type", "application/json"));
    assert_ok(header("x-tandem", "x"));
    assert_int_equal(header("x-tandem-resdency", "eu"), TD_ERR_BAD_REQUEST);
    assert_non_null(strstr(error.message, "x-tandem-residency"));
    assert_string_equal(error.param, "x-tandem-resdency");
    static const char *const wrong[][2] = {{"deadline-ms", "-1"},    {"deadline-ms", ""},    {"max-cost-usd", "1,5"},
                                           {"max-cost-usd", "1."},   {"max-cost-usd", ".5"}, {"max-cost-usd", "1e3"},
                                           {"fresh", "yes"},         {"labels", ""},         {"labels", "a b"},
                                           {"priority", "urgent"},   {"conversation", ""},   {"hops", "999"},
                                           {"refine-after-ms", "x"}, {"prefer", ""}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char name[64];
        snprintf(name, sizeof name, "x-tandem-%s", wrong[i][0]);
        if (header(name, wrong[i][1]) != TD_ERR_BAD_REQUEST || strcmp(error.param, name) != 0)
            fail_msg("%s: %s", name, wrong[i][1]);
    }
}

static void what_is_written_reads_back(void **state) {
    (void)state;
    assert_ok(
        read("{\"prefer\":\"quality\",\"data_class\":\"restricted\",\"labels\":[\"phi\"],\"residency\":\"eu\","
             "\"deadline_ms\":77,\"max_cost_usd\":1.000000001,\"fresh\":true,\"mode\":\"cascade\","
             "\"conversation\":\"c\\\"1\",\"queue\":true,\"priority\":\"batch\",\"tiers\":[\"onprem\"],\"hops\":3}"));
    struct td_buf b;
    td_buf_init(&b, 4096);
    assert_ok(td_wishes_write(&w, &b));
    struct td_wishes before = w;
    td_wishes_init(&w);
    assert_ok(read(td_buf_z(&b)));
    assert_int_equal(w.prefer, before.prefer);
    assert_int_equal(w.data_class, before.data_class);
    assert_int_equal(w.label_count, 1);
    assert_str(w.residency, "eu");
    assert_int_equal(w.deadline_ms, 77);
    assert_int_equal(w.max_cost_nusd, 1000000001);
    assert_str(w.conversation, "c\"1");
    assert_int_equal(w.mode, TD_MODE_CASCADE);
    assert_true(w.fresh && w.queue);
    assert_str(w.tiers[0], "onprem");
    assert_int_equal(w.hops, 3);
    td_buf_finish(&b);
}

static void words_and_enums_match(void **state) {
    (void)state;
    enum td_class c;
    assert_true(td_class_parse(TD_STR("restricted"), &c) && c == TD_CLASS_RESTRICTED);
    assert_false(td_class_parse(TD_STR(""), &c));
    assert_false(td_class_parse(TD_STR("secret"), &c));
    assert_string_equal(td_mode_word(TD_MODE_HEDGE), "hedge");
    assert_string_equal(td_mode_word((enum td_mode)99), "");
    assert_string_equal(td_role_word(TD_ROLE_TOOL), "tool");
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(all_wishes_are_read),
        T(wrong_wishes_are_refused),
        T(labels_have_a_ceiling),
        T(headers_narrow_what_the_body_said),
        T(unknown_headers_of_ours_are_refused_and_others_left_alone),
        T(what_is_written_reads_back),
        T(words_and_enums_match),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
