// SPDX-License-Identifier: Apache-2.0
// What OpenAI clients are told that is no answer: errors with their statuses, and the list of models.
#include "wire/openai_answer.h"

#include "wire/openai_keys.h"
#include "wire/openai_writer.h"

int td_openai_status(enum td_err err) {
    switch (err) {
    case TD_OK:
        return 200;
    case TD_ERR_BAD_REQUEST:
    case TD_ERR_BAD_JSON:
    case TD_ERR_UNSUPPORTED:
    case TD_ERR_USAGE:
    case TD_ERR_CONTEXT_LENGTH:
    case TD_ERR_CONTENT_POLICY:
    case TD_ERR_UPSTREAM_REQUEST:
        return 400;
    case TD_ERR_UNAUTHORIZED:
        return 401;
    case TD_ERR_FORBIDDEN:
    case TD_ERR_BLOCKED:
    case TD_ERR_NO_TARGET: // by policy; where waiting may help, it is UNAVAILABLE
        return 403;
    case TD_ERR_NOT_FOUND:
    case TD_ERR_MODEL_NOT_FOUND:
        return 404;
    case TD_ERR_METHOD:
        return 405;
    case TD_ERR_LIMIT:
        return 413;
    case TD_ERR_IN_PROGRESS:
        return 409;
    case TD_ERR_NOT_FOR_ME:
    case TD_ERR_KEY_REUSED:
        return 422;
    case TD_ERR_BUDGET:
    case TD_ERR_RATE:
    case TD_ERR_UPSTREAM_RATE:
    case TD_ERR_UPSTREAM_QUOTA:
        return 429;
    case TD_ERR_CHAIN:
        return 508; // RFC 5842: loop detected
    case TD_ERR_CANCELLED:
        return 499; // the client closed the request: nobody reads it, the log does
    case TD_ERR_CONNECT:
    case TD_ERR_DNS:
    case TD_ERR_TLS:
    case TD_ERR_CUT:
    case TD_ERR_UPSTREAM_AUTH:
    case TD_ERR_UPSTREAM_NOT_FOUND:
    case TD_ERR_UPSTREAM_SERVER:
    case TD_ERR_UPSTREAM_GARBAGE:
        return 502;
    case TD_ERR_NOMEM:
    case TD_ERR_OVERLOAD:
    case TD_ERR_UNAVAILABLE:
    case TD_ERR_HOST_CRASH:
    case TD_ERR_HOST_LOAD:
    case TD_ERR_HOST_MEMORY:
    case TD_ERR_LEDGER:
    case TD_ERR_LOCKED:
        return 503;
    case TD_ERR_DEADLINE:
    case TD_ERR_FIRST_TOKEN:
    case TD_ERR_IDLE:
        return 504;
    default:
        return 500;
    }
}

uint32_t td_openai_retry_after_s(enum td_err err, uint32_t retry_after_ms) {
    int status = td_openai_status(err);
    if (status != 429 && status != 503 && err != TD_ERR_IN_PROGRESS)
        return 0;
    if (retry_after_ms)
        return retry_after_ms / 1000 + (retry_after_ms % 1000 != 0);
    return err == TD_ERR_RATE || err == TD_ERR_OVERLOAD || err == TD_ERR_UPSTREAM_RATE ? 1 : 0;
}

static const char *error_type(enum td_err err, int status) {
    if (err == TD_ERR_BUDGET || err == TD_ERR_UPSTREAM_QUOTA)
        return "insufficient_quota";
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

void td_openai_emit_error(struct td_emit *m, enum td_err err, int status, struct td_str message, struct td_str param,
                          const char *code) {
    if (status == 0)
        status = td_openai_status(err);
    td_emit_lit(m, "\"error\":{\"message\":");
    td_emit_string(m, message.n ? message : td_str_of(td_err_text(err)));
    td_emit_lit(m, ",\"type\":");
    td_emit_string(m, td_str_of(error_type(err, status)));
    td_emit_lit(m, ",\"param\":");
    if (param.n)
        td_emit_string(m, param);
    else
        td_emit_lit(m, "null");
    td_emit_lit(m, ",\"code\":");
    td_emit_string(m, td_str_of(code ? code : td_err_code(err)));
    td_emit_lit(m, "}");
}

enum td_err td_openai_write_error(enum td_err err, int status, struct td_str message, struct td_str param,
                                  const char *code, const struct td_answer_meta *meta, struct td_buf *out) {
    struct td_emit m;
    size_t before = out->n;
    td_emit_init(&m, out);
    td_emit_lit(&m, "{");
    td_openai_emit_error(&m, err, status, message, param, code);
    td_ow_meta(&m, NULL, meta);
    td_emit_lit(&m, "}");
    td_emit_finish(&m);
    if (m.err != TD_OK)
        out->n = before;
    return m.err;
}

static void emit_model(struct td_emit *m, const struct td_model_entry *e) {
    td_emit_lit(m, "{\"id\":");
    td_emit_string(m, e->id);
    td_emit_lit(m, ",\"object\":\"model\",\"created\":");
    td_emit_i64(m, e->created_s);
    td_emit_lit(m, ",\"owned_by\":");
    td_emit_string(m, e->owned_by);
    if (e->tier.n) {
        td_emit_lit(m, ",\"tandem\":{");
        td_emit_word(m, "tier", e->tier);
        if (e->context) {
            td_emit_lit(m, "\"context\":");
            td_emit_u64(m, e->context);
            td_emit_lit(m, ",");
        }
        td_emit_lit(m, "\"capabilities\":[");
        bool first = true;
        for (unsigned i = 0; *td_capability_word(i); i++) {
            if (!(e->capabilities & 1u << i))
                continue;
            if (!first)
                td_emit_lit(m, ",");
            first = false;
            td_emit_string(m, td_str_of(td_capability_word(i)));
        }
        td_emit_lit(m, "]}");
    }
    td_emit_lit(m, "}");
}

enum td_err td_openai_write_model(const struct td_model_entry *model, struct td_buf *out) {
    struct td_emit m;
    size_t before = out->n;
    td_emit_init(&m, out);
    emit_model(&m, model);
    td_emit_finish(&m);
    if (m.err != TD_OK)
        out->n = before;
    return m.err;
}

enum td_err td_openai_write_models(const struct td_model_entry *models, uint32_t count, struct td_buf *out) {
    struct td_emit m;
    size_t before = out->n;
    td_emit_init(&m, out);
    td_emit_lit(&m, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < count; i++) {
        if (i)
            td_emit_lit(&m, ",");
        emit_model(&m, &models[i]);
    }
    td_emit_lit(&m, "]}");
    td_emit_finish(&m);
    if (m.err != TD_OK)
        out->n = before;
    return m.err;
}
