// SPDX-License-Identifier: Apache-2.0
// What operators ask of a configuration without running it: is it valid, what does it name that is not there, where is
// its data, which options are there.
#include <string.h>
#include <unistd.h>

#include "remote/secret.h"
#include "runtime/runtime.h"

char *td_config_data_dir(const struct td_options *options, struct td_failure *failure) {
    struct td_runtime rt = {.config_path = (char *)(uintptr_t)options->config_path,
                            .config_text = (char *)(uintptr_t)options->config_text};
    struct td_config *config = NULL;
    struct td_error e = {0};
    if (!options->data_dir && td_runtime_read_config(&rt, NULL, &config, &e) != TD_OK) {
        td_failure_from(failure, &e);
        return NULL;
    }
    char *dir = td_expand_home(options->data_dir ? td_str_of(options->data_dir) : config->data_dir);
    if (!dir)
        td_failure_set(failure, TD_ERR_CONFIG, "data_dir: HOME is not set");
    td_config_unref(config);
    return dir;
}

char *td_config_schema(bool markdown) {
    struct td_buf b;
    td_buf_init(&b, 1 << 20);
    enum td_err err = markdown ? td_config_schema_markdown(&b) : td_config_schema_json(&b);
    if (err != TD_OK || !td_buf_z(&b)) {
        td_buf_finish(&b);
        return NULL;
    }
    return b.p;
}

int td_config_check(const char *path, struct td_failure *failure) {
    struct td_config *config = NULL;
    struct td_error e = {0};
    if (td_config_load(path, NULL, &config, &e) != TD_OK)
        return td_failure_from(failure, &e);
    td_config_unref(config);
    return 0;
}

static enum td_err note_target(const struct td_target *t, struct td_buf *b) {
    const struct {
        const char *what;
        struct td_str path;
    } files[] = {{"ca_file", t->ca_file}, {"client_cert", t->client_cert_file}, {"client_key", t->client_key_file}};
    struct td_secret secret = {0};
    struct td_error e = {0};
    enum td_err err = TD_OK;
    if (t->provider == TD_PROVIDER_LLAMA && !t->model_found)
        err = td_buf_printf(b, "target '%.*s': there is no model file %.*s yet\n", TD_STR_ARG(t->name),
                            TD_STR_ARG(t->model));
    for (size_t i = 0; err == TD_OK && i < 3; i++)
        if (files[i].path.n && access(files[i].path.p, R_OK) != 0)
            err = td_buf_printf(b, "target '%.*s': %s %.*s cannot be read\n", TD_STR_ARG(t->name), files[i].what,
                                TD_STR_ARG(files[i].path));
    if (err == TD_OK && t->api_key_ref.n && td_secret_resolve(t->api_key_ref, &secret, &e) != TD_OK)
        err = td_buf_printf(b, "target '%.*s': %s\n", TD_STR_ARG(t->name), e.message);
    td_secret_finish(&secret);
    const char *at = t->proxy.n ? memrchr(t->proxy.p, '@', t->proxy.n) : NULL,
               *from = strstr(at ? t->proxy.p : "", "://");
    if (err == TD_OK && at && from &&
        td_secret_resolve(td_str_n(from + 3, (size_t)(at - from) - 3), &secret, &e) != TD_OK)
        err = td_buf_printf(b, "target '%.*s': proxy: %s\n", TD_STR_ARG(t->name), e.message);
    td_secret_finish(&secret);
    return err;
}

char *td_config_notes(const char *path) {
    struct td_config *config = NULL;
    struct td_buf b;
    td_buf_init(&b, 1 << 20);
    enum td_err err = td_config_load(path, NULL, &config, NULL);
    for (uint32_t i = 0; err == TD_OK && i < config->target_count; i++)
        err = note_target(&config->targets[i], &b);
    td_config_unref(config);
    if (err == TD_OK && td_buf_z(&b))
        return b.p;
    td_buf_finish(&b);
    return NULL;
}
