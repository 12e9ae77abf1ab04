// SPDX-License-Identifier: Apache-2.0
// What each error means for the plan, and which HTTP status it gets. One row an error: a new row of TD_ERR_LIST fails
// the unit test until it is judged here.
#include "exchange/internal.h"

static const struct {
    enum td_x_class class;
    int status;
} rows[TD_ERR_COUNT] = {
    [TD_OK] = {TD_X_CLASS_NEXT, 200},
    [TD_ERR_NOMEM] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_INTERNAL] = {TD_X_CLASS_NEXT, 500},
    [TD_ERR_LIMIT] = {TD_X_CLASS_NEXT, 413},
    [TD_ERR_USAGE] = {TD_X_CLASS_NEXT, 400},
    [TD_ERR_IO] = {TD_X_CLASS_LAST, 500},
    [TD_ERR_CONFIG] = {TD_X_CLASS_NEXT, 500},
    [TD_ERR_BAD_REQUEST] = {TD_X_CLASS_NEXT, 400},
    [TD_ERR_BAD_JSON] = {TD_X_CLASS_NEXT, 400},
    [TD_ERR_UNSUPPORTED] = {TD_X_CLASS_NEXT, 400},
    [TD_ERR_UNAUTHORIZED] = {TD_X_CLASS_NEXT, 401},
    [TD_ERR_FORBIDDEN] = {TD_X_CLASS_NEXT, 403},
    [TD_ERR_NOT_FOUND] = {TD_X_CLASS_NEXT, 404},
    [TD_ERR_MODEL_NOT_FOUND] = {TD_X_CLASS_NEXT, 404},
    [TD_ERR_NO_TARGET] = {TD_X_CLASS_NEXT, 403},
    [TD_ERR_UNAVAILABLE] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_BLOCKED] = {TD_X_CLASS_FINAL, 403},
    [TD_ERR_BUDGET] = {TD_X_CLASS_NEXT, 429},
    [TD_ERR_RATE] = {TD_X_CLASS_NEXT, 429},
    [TD_ERR_OVERLOAD] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_DEADLINE] = {TD_X_CLASS_NEXT, 504}, // of an attempt: the target's own total; the request's is in executor.c
    [TD_ERR_CONTEXT_LENGTH] = {TD_X_CLASS_CONTEXT, 400},
    [TD_ERR_CONTENT_POLICY] = {TD_X_CLASS_FINAL, 400},
    // The network may be gone: what can answer without it comes first.
    [TD_ERR_CONNECT] = {TD_X_CLASS_LAST, 502},
    [TD_ERR_DNS] = {TD_X_CLASS_LAST, 502},
    [TD_ERR_TLS] = {TD_X_CLASS_NEXT, 502},
    [TD_ERR_FIRST_TOKEN] = {TD_X_CLASS_SILENT, 504},
    [TD_ERR_IDLE] = {TD_X_CLASS_SILENT, 504},
    [TD_ERR_CUT] = {TD_X_CLASS_LAST, 502},
    [TD_ERR_UPSTREAM_AUTH] = {TD_X_CLASS_NEXT, 502},
    [TD_ERR_UPSTREAM_RATE] = {TD_X_CLASS_RETRY, 429},
    [TD_ERR_UPSTREAM_QUOTA] = {TD_X_CLASS_NEXT, 429}, // used up is not busy: waiting does not help
    [TD_ERR_UPSTREAM_REQUEST] = {TD_X_CLASS_NEXT, 400},
    [TD_ERR_UPSTREAM_NOT_FOUND] = {TD_X_CLASS_NEXT, 502},
    [TD_ERR_UPSTREAM_SERVER] = {TD_X_CLASS_RETRY, 502},
    [TD_ERR_UPSTREAM_GARBAGE] = {TD_X_CLASS_NEXT, 502},
    [TD_ERR_HOST_CRASH] = {TD_X_CLASS_LAST, 503},
    [TD_ERR_HOST_LOAD] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_HOST_MEMORY] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_NOT_FOR_ME] = {TD_X_CLASS_DECLINED, 422},
    [TD_ERR_GRANT] = {TD_X_CLASS_NEXT, 500},
    [TD_ERR_LEDGER] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_LOCKED] = {TD_X_CLASS_NEXT, 503},
    [TD_ERR_CANCELLED] = {TD_X_CLASS_NEXT, 499}, // as others write it in their logs; no client is left to read it
    [TD_ERR_METHOD] = {TD_X_CLASS_NEXT, 405},
    [TD_ERR_CHAIN] = {TD_X_CLASS_NEXT, 508}, // another target may answer it without a further hop
};

enum td_x_class td_x_fault_class(enum td_err code) {
    return (unsigned)code < TD_ERR_COUNT ? rows[code].class : TD_X_CLASS_NEXT;
}

int td_x_http_status(enum td_err code, int upstream_status) {
    if (code == TD_ERR_UPSTREAM_REQUEST && upstream_status >= 400 && upstream_status < 500)
        return upstream_status;
    int status = (unsigned)code < TD_ERR_COUNT ? rows[code].status : 0;
    return status ? status : 500;
}

const char *td_x_role_word(enum td_x_role role) {
    static const char *const words[] = {"main", "draft", "refine", "hedge", "continue", "splice"};
    return (unsigned)role < sizeof words / sizeof *words ? words[role] : "";
}

const char *td_x_outcome_word(enum td_x_outcome outcome) {
    static const char *const words[] = {"ok", "failed", "declined", "refused", "lost", "cancelled", "mismatch"};
    return (unsigned)outcome < sizeof words / sizeof *words ? words[outcome] : "";
}

const char *td_x_op_word(enum td_x_op op) {
    static const char *const words[] = {"append", "replace", "confirm"};
    return (unsigned)op < sizeof words / sizeof *words ? words[op] : "";
}
