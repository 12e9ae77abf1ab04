// SPDX-License-Identifier: Apache-2.0
#include "base/err.h"

#include <stdio.h>

static const struct {
    const char *code;
    const char *text;
} errors[] = {{"", ""},
#define X(name, code, text) {code, text},
              TD_ERR_LIST(X)
#undef X
};

const char *td_err_code(enum td_err err) {
    return (unsigned)err < TD_ERR_COUNT ? errors[err].code : errors[TD_ERR_INTERNAL].code;
}

const char *td_err_text(enum td_err err) {
    return (unsigned)err < TD_ERR_COUNT ? errors[err].text : errors[TD_ERR_INTERNAL].text;
}

enum td_err td_error_set(struct td_error *e, enum td_err code, const char *fmt, ...) {
    if (e) {
        va_list args;
        e->code = code;
        e->param[0] = 0;
        va_start(args, fmt);
        vsnprintf(e->message, sizeof e->message, fmt, args);
        va_end(args);
    }
    return code;
}

enum td_err td_error_param(struct td_error *e, const char *fmt, ...) {
    if (!e)
        return TD_OK;
    va_list args;
    va_start(args, fmt);
    vsnprintf(e->param, sizeof e->param, fmt, args);
    va_end(args);
    return e->code;
}
