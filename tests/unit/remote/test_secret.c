// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "remote/secret.h"

static char folder[] = "/tmp/tandem-secret-XXXXXX", path[64], ref[128];

static int setup(void **state) {
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/key", folder);
    snprintf(ref, sizeof ref, "file:%s", path);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void put(const char *text, size_t n, mode_t mode) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
    assert_int_equal(chmod(path, mode), 0);
}

static void each_form_is_read(void **state) {
    (void)state;
    struct td_secret s;
    setenv("TD_TEST_SECRET", " sk-env \n", 1);
    assert_ok(td_secret_resolve(TD_STR("env:TD_TEST_SECRET"), &s, NULL));
    assert_string_equal(s.p, "sk-env");
    td_secret_finish(&s);
    assert_null(s.p);
    put("sk-file\n", 8, 0600);
    assert_ok(td_secret_resolve(td_str_of(ref), &s, NULL));
    assert_string_equal(s.p, "sk-file");
    td_secret_finish(&s);
    setenv("CREDENTIALS_DIRECTORY", folder, 1);
    put("sk-cred", 7, 0444); // the service manager's own modes
    assert_ok(td_secret_resolve(TD_STR("credential:key"), &s, NULL));
    assert_string_equal(s.p, "sk-cred");
    td_secret_finish(&s);
    unsetenv("CREDENTIALS_DIRECTORY");
    assert_int_equal(td_secret_resolve(TD_STR("credential:key"), &s, NULL), TD_ERR_CONFIG);
}

static void a_file_open_to_others_is_refused(void **state) {
    (void)state;
    struct td_secret s;
    struct td_error e = {0};
    for (int i = 0; i < 2; i++) {
        put("sk-canary", 9, i ? 0604 : 0620);
        assert_int_equal(td_secret_resolve(td_str_of(ref), &s, &e), TD_ERR_CONFIG);
        assert_null(strstr(e.message, "canary"));
        assert_non_null(strstr(e.message, path));
    }
    put("sk-group", 8, 0640);
    assert_ok(td_secret_resolve(td_str_of(ref), &s, NULL));
    td_secret_finish(&s);
}

static void bad_values_are_refused_and_not_quoted(void **state) {
    (void)state;
    struct td_secret s;
    struct td_error e = {0};
    static char big[TD_SECRET_BYTES_MAX + 1];
    const char split[] = "canary\r\nx-admin: 1";
    put(split, sizeof split - 1, 0600);
    assert_int_equal(td_secret_resolve(td_str_of(ref), &s, &e), TD_ERR_CONFIG);
    assert_null(strstr(e.message, "canary"));
    put(" \n", 2, 0600);
    assert_int_equal(td_secret_resolve(td_str_of(ref), &s, &e), TD_ERR_CONFIG);
    memset(big, 'a', sizeof big);
    put(big, sizeof big - 1, 0600);
    assert_ok(td_secret_resolve(td_str_of(ref), &s, &e));
    assert_int_equal(s.n, TD_SECRET_BYTES_MAX);
    td_secret_finish(&s);
    put(big, sizeof big, 0600);
    assert_int_equal(td_secret_resolve(td_str_of(ref), &s, &e), TD_ERR_CONFIG);
    assert_int_equal(td_secret_resolve(TD_STR("env:TD_TEST_ABSENT"), &s, &e), TD_ERR_CONFIG);
    assert_int_equal(td_secret_resolve(TD_STR("file:/dev/zero"), &s, &e), TD_ERR_CONFIG);
}

static void only_references_are_taken(void **state) {
    (void)state;
    struct td_secret s;
    const char *bad[] = {"sk-proj-canary", "env:", "file:", "credential:", "credential:../x", "credential:a/b", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct td_error e = {0};
        assert_false(td_secret_is_ref(td_str_of(bad[i])));
        assert_int_equal(td_secret_resolve(td_str_of(bad[i]), &s, &e), TD_ERR_CONFIG);
        assert_null(strstr(e.message, "canary"));
    }
    assert_true(td_secret_is_ref(TD_STR("env:X")) && td_secret_is_ref(TD_STR("credential:x.y")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_form_is_read),
        cmocka_unit_test(a_file_open_to_others_is_refused),
        cmocka_unit_test(bad_values_are_refused_and_not_quoted),
        cmocka_unit_test(only_references_are_taken),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
