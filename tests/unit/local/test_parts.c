// SPDX-License-Identifier: Apache-2.0
// Models in several files: the same answers as the whole, all parts counted, and every way in which parts can be wrong.
#include "unit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/log.h"
#include "local.h"
#include "scratch.h"

#define WAIT_MS 30000
#define BODY "{\"prompt\":\"the quick brown fox\",\"max_tokens\":24,\"temperature\":0,\"logprobs\":2}"

static const char *host, *tiny, *split_gguf;
static struct house h;
static char folder[256];

static const char *part(const char *stem, int number, int count) {
    static char ring[4][400];
    static unsigned at;
    char *p = ring[at++ & 3];
    snprintf(p, sizeof ring[0], "%s/%s-%05d-of-%05d.gguf", folder, stem, number, count);
    return p;
}

static void split_file(const char *whole, const char *stem, unsigned count, const char *more) {
    char command[1200];
    snprintf(command, sizeof command, "'%s' '%s' '%s/%s' %u %s", split_gguf, whole, folder, stem, count, more);
    assert_int_equal(system(command), 0);
}

static void split(const char *stem, unsigned count, const char *more) {
    split_file(tiny, stem, count, more);
}

static void copy_file(const char *from, const char *to) {
    char command[1000];
    snprintf(command, sizeof command, "cp '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
}

// What it answers; the error's text where it does not.
static enum td_err answer(const char *gguf, struct td_buf *pieces, char model[64]) {
    struct ask a;
    ask_open(&a, &h, gguf, TD_KIND_COMPLETION, BODY);
    assert_true(ask_all(&a, WAIT_MS));
    td_buf_clear(pieces);
    assert_ok(a.error ? td_buf_addz(pieces, a.message) : td_buf_add_str(pieces, td_buf_str(&a.pieces)));
    snprintf(model, 64, "%s", a.model);
    enum td_err err = a.error;
    ask_close(&a);
    return err;
}

static uint64_t memory_of(const char *gguf) {
    struct td_target t = {.model = td_str_of(gguf), .parallel = 4, .context = 512};
    struct td_error e = {TD_OK, ""};
    uint64_t bytes = 0;
    if (td_manager_estimate(&t, &bytes, &e) != TD_OK)
        fail_msg("%s", e.message);
    return bytes;
}

static void the_parts_answer_as_the_whole(void **state) {
    (void)state;
    static const struct {
        const char *stem, *more;
        int count;
    } cases[] = {{"two", "", 2}, {"five", "", 5}, {"bare", "--bare-first", 3}};
    struct td_buf whole, pieces;
    char model[64];
    td_buf_init(&whole, 1 << 20);
    td_buf_init(&pieces, 1 << 20);
    assert_ok(answer(tiny, &whole, model));
    assert_true(whole.n > 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        split(cases[i].stem, cases[i].count, cases[i].more);
        const char *first = part(cases[i].stem, 1, cases[i].count);
        if (answer(first, &pieces, model) != TD_OK)
            fail_msg("%s: %.*s", first, TD_STR_ARG(td_buf_str(&pieces)));
        assert_int_equal(pieces.n, whole.n);
        assert_memory_equal(pieces.p, whole.p, whole.n);
        assert_string_equal(model, cases[i].stem); // without the number of a part
        assert_int_equal(memory_of(first), memory_of(tiny));
    }
    td_buf_finish(&whole);
    td_buf_finish(&pieces);
}

static void refused(const char *gguf, const char *why) {
    struct td_target t = {.model = td_str_of(gguf), .parallel = 4, .context = 512};
    struct td_error e = {TD_OK, ""};
    struct td_buf pieces;
    char model[64];
    uint64_t bytes;
    td_buf_init(&pieces, 1 << 20);
    assert_int_equal(td_manager_estimate(&t, &bytes, &e), TD_ERR_HOST_LOAD);
    if (!strstr(e.message, why))
        fail_msg("%s, not: %s", e.message, why);
    assert_int_equal(answer(gguf, &pieces, model), TD_ERR_HOST_LOAD);
    assert_true(memmem(pieces.p, pieces.n, why, strlen(why)) != NULL);
    td_buf_finish(&pieces);
}

static void wrong_parts_are_refused_before_a_guest_starts(void **state) {
    (void)state;
    struct stat st;
    split("late", 3, "");
    refused(part("late", 2, 3), "it is part 2 of 3; name the first");
    split("gone", 3, "");
    assert_int_equal(unlink(part("gone", 3, 3)), 0);
    refused(part("gone", 1, 3), "cannot open part 3 of the model");
    split("mixed", 3, "");
    copy_file(part("mixed", 2, 3), part("mixed", 3, 3));
    refused(part("mixed", 1, 3), "in the place of part 3 of 3 is part 2 of 3");
    split("other", 3, "");
    split("other", 2, "");
    copy_file(part("other", 2, 2), part("other", 2, 3));
    refused(part("other", 1, 3), "in the place of part 2 of 3 is part 2 of 2");
    split("cut", 2, "");
    assert_int_equal(stat(part("cut", 2, 2), &st), 0);
    assert_int_equal(truncate(part("cut", 2, 2), st.st_size - 64), 0);
    refused(part("cut", 1, 2), "its tensors reach beyond its end");
    split("named", 2, "");
    copy_file(part("named", 1, 2), part("named", 1, 4));
    refused(part("named", 1, 4), "its name must end in -00001-of-00002.gguf");
    split("few", 3, "");
    split("more", 3, "--bare-first");
    copy_file(part("more", 1, 3), part("few", 1, 3)); // its tensors are missing now
    refused(part("few", 1, 3), "tensors");
    split("pipe", 2, "");
    assert_int_equal(unlink(part("pipe", 2, 2)), 0);
    assert_int_equal(mkfifo(part("pipe", 2, 2), 0600), 0);
    refused(part("pipe", 1, 2), "no regular file");
}

// Each part holds a tensor, and is a descriptor that the guest is handed.
static void as_many_parts_as_are_allowed_and_one_more(void **state) {
    (void)state;
    struct td_buf pieces;
    char model[64], whole[300], command[700];
    td_buf_init(&pieces, 1 << 20);
    snprintf(whole, sizeof whole, "%s/deep.gguf", folder);
    snprintf(command, sizeof command, "'%s' '%s' --layers 16", getenv("MAKE_GGUF"), whole);
    assert_int_equal(system(command), 0);
    split_file(whole, "many", TD_MODEL_PARTS_MAX, "");
    if (answer(part("many", 1, TD_MODEL_PARTS_MAX), &pieces, model) != TD_OK)
        fail_msg("%.*s", TD_STR_ARG(td_buf_str(&pieces)));
    td_buf_finish(&pieces);
    split_file(whole, "many", TD_MODEL_PARTS_MAX + 1, "");
    refused(part("many", 1, TD_MODEL_PARTS_MAX + 1), "it has 129 parts, at most 128 are loaded");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_parts_answer_as_the_whole),
        cmocka_unit_test(wrong_parts_are_refused_before_a_guest_starts),
        cmocka_unit_test(as_many_parts_as_are_allowed_and_one_more),
    };
    split_gguf = getenv("SPLIT_GGUF");
    if (argc < 3 || !split_gguf || !scratch_make(folder))
        return 2;
    host = argv[1];
    tiny = argv[2];
    td_log_set_level(TD_LOG_ERROR);
    struct td_manager_options options = {.host_path = host, .workers = 3};
    if (!house_open(&h, &options))
        return 2;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    house_close(&h);
    scratch_drop(folder);
    return failed;
}
