// SPDX-License-Identifier: Apache-2.0
// The option table as JSON Schema (draft 2020-12, for editors and `tandem check --schema`) and as Markdown.
#include <stdio.h>

#include "config/option.h"

static const char *json_type(enum td_option_type type) {
    switch (type) {
    case TD_OPT_BOOL:
    case TD_OPT_TRISTATE:
        return "boolean";
    case TD_OPT_U16:
    case TD_OPT_U32:
    case TD_OPT_U64:
        return "integer";
    case TD_OPT_NUMBER:
    case TD_OPT_USD:
    case TD_OPT_PRICE:
        return "number";
    case TD_OPT_SECTION:
        return "object";
    case TD_OPT_WORDS:
    case TD_OPT_TEXTS:
    case TD_OPT_BYTES:
    case TD_OPT_CUSTOM:
        return NULL; // several
    default:
        return "string";
    }
}

static bool is_simple_words(const char *words) {
    for (; *words; words++)
        if (!(*words >= 'a' && *words <= 'z') && *words != '_' && *words != ' ' && *words != '|')
            return false;
    return true;
}

static enum td_err write_words(const char *words, struct td_buf *out) {
    enum td_err err = td_buf_addz(out, "[\"");
    for (; *words && err == TD_OK; words++) {
        if (strncmp(words, " | ", 3) == 0) {
            err = td_buf_addz(out, "\",\"");
            words += 2;
        } else {
            err = td_buf_addc(out, *words);
        }
    }
    return err == TD_OK ? td_buf_addz(out, "\"]") : err;
}

static enum td_err write_rows(const struct td_option *rows, struct td_buf *out);

static enum td_err write_custom(const struct td_option *row, struct td_buf *out) {
    if (!row->section)
        return TD_OK;
    enum td_err err = td_buf_addz(out, row->shape == TD_SHAPE_LIST ? ",\"type\":\"array\",\"items\":{"
                                                                   : ",\"type\":\"object\",\"additionalProperties\":{");
    if (err == TD_OK)
        err = write_rows(row->section, out);
    return err == TD_OK ? td_buf_addc(out, '}') : err;
}

static enum td_err write_row(const struct td_option *row, struct td_buf *out) {
    const char *type = json_type(row->type);
    enum td_err err = td_buf_add_json(out, td_str_of(row->key));
    if (err == TD_OK)
        err = td_buf_addz(out, ":{\"description\":");
    if (err == TD_OK)
        err = td_buf_add_json(out, td_str_of(row->doc));
    if (err == TD_OK && type && row->type != TD_OPT_SECTION)
        err = td_buf_printf(out, ",\"type\":\"%s\"", type);
    if (err == TD_OK && row->max > 0 && (row->type == TD_OPT_NUMBER || (type && strcmp(type, "integer") == 0)))
        err = td_buf_printf(out, ",\"minimum\":%g,\"maximum\":%.0f", row->min, row->max);
    if (err == TD_OK && row->type == TD_OPT_WORD && is_simple_words(row->words)) {
        err = td_buf_addz(out, ",\"enum\":");
        if (err == TD_OK)
            err = write_words(row->words, out);
    }
    if (err == TD_OK && row->otherwise && row->type != TD_OPT_CUSTOM) {
        bool bare = type && strcmp(type, "string") != 0;
        err = td_buf_printf(out, bare ? ",\"default\":%s" : ",\"default\":\"%s\"", row->otherwise);
    }
    if (err == TD_OK && row->type == TD_OPT_SECTION) {
        err = td_buf_addc(out, ',');
        if (err == TD_OK)
            err = write_rows(row->section, out);
    }
    if (err == TD_OK && row->type == TD_OPT_CUSTOM)
        err = write_custom(row, out);
    return err == TD_OK ? td_buf_addc(out, '}') : err;
}

static enum td_err write_rows(const struct td_option *rows, struct td_buf *out) {
    enum td_err err = td_buf_addz(out, "\"type\":\"object\",\"additionalProperties\":false,\"properties\":{");
    for (const struct td_option *row = rows; row->key && err == TD_OK; row++) {
        if (row != rows)
            err = td_buf_addc(out, ',');
        if (err == TD_OK)
            err = write_row(row, out);
    }
    return err == TD_OK ? td_buf_addc(out, '}') : err;
}

enum td_err td_config_schema_json(struct td_buf *out) {
    enum td_err err = td_buf_addz(out, "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"title\":"
                                       "\"Tandem configuration\",\"required\":[\"version\",\"targets\"],");
    if (err == TD_OK)
        err = write_rows(td_config_options, out);
    return err == TD_OK ? td_buf_addz(out, "}\n") : err;
}

static const char *what_stands_here(const struct td_option *row, char *buf, size_t cap) {
    static const char *const words[] = {
        [TD_OPT_BOOL] = "true \\| false",
        [TD_OPT_TRISTATE] = "true \\| false",
        [TD_OPT_TEXT] = "text",
        [TD_OPT_NAME] = "name",
        [TD_OPT_PATH] = "path",
        [TD_OPT_URL] = "URL",
        [TD_OPT_PROXY] = "URL",
        [TD_OPT_REGION] = "region",
        [TD_OPT_TEXTS] = "text or list",
        [TD_OPT_BYTES] = "size",
        [TD_OPT_USD] = "USD",
        [TD_OPT_PRICE] = "USD per million",
        [TD_OPT_SECTION] = "",
        [TD_OPT_SECRET] = "env:… \\| file:… \\| credential:…",
    };
    size_t n = 0;
    switch (row->type) {
    case TD_OPT_U16:
    case TD_OPT_U32:
    case TD_OPT_U64:
        snprintf(buf, cap, "%.0f…%.0f", row->min, row->max);
        return buf;
    case TD_OPT_NUMBER:
        snprintf(buf, cap, "%g…%g", row->min, row->max);
        return buf;
    case TD_OPT_WORD:
    case TD_OPT_WORDS:
    case TD_OPT_CUSTOM:
        for (const char *w = row->words ? row->words : ""; *w && n + 3 < cap; w++) {
            if (*w == '|')
                buf[n++] = '\\';
            buf[n++] = *w;
        }
        buf[n] = 0;
        return buf;
    default:
        return words[row->type];
    }
}

static enum td_err write_table(const char *prefix, const struct td_option *rows, struct td_buf *out) {
    enum td_err err = TD_OK;
    for (const struct td_option *row = rows; row->key && err == TD_OK; row++) {
        char name[160], expects[400];
        static const char *const shapes[] = {"", "[]", ".LABEL"};
        snprintf(name, sizeof name, "%s%s%s", prefix, prefix[0] ? "." : "", row->key);
        bool shown = row->otherwise;
        err = td_buf_printf(out, "| `%s%s` | %s | %s%s%s | %s |\n", name,
                            row->type == TD_OPT_CUSTOM ? shapes[row->shape] : "",
                            what_stands_here(row, expects, sizeof expects), shown ? "`" : "",
                            shown ? row->otherwise : "", shown ? "`" : "", row->doc);
        if (err == TD_OK && row->section) {
            size_t n = strlen(name);
            if (row->type == TD_OPT_CUSTOM)
                snprintf(name + n, sizeof name - n, "%s", shapes[row->shape]);
            err = write_table(name, row->section, out);
        }
    }
    return err;
}

enum td_err td_config_schema_markdown(struct td_buf *out) {
    enum td_err err = td_buf_addz(out, "| option | expects | default | what it does |\n|---|---|---|---|\n");
    return err == TD_OK ? write_table("", td_config_options, out) : err;
}
