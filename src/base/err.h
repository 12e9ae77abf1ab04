// SPDX-License-Identifier: Apache-2.0
// Errors of the whole program, grown from one list: number, stable public code and English text.
// Zero is success. A function that can fail returns `enum td_err` and is must-use; the story of what was being done
// goes into a caller-owned `struct td_error`, which stays untouched on success. Only the exchange turns these into HTTP
// statuses and ledger outcomes. Thread rule: values only, any thread.
#ifndef TD_BASE_ERR_H
#define TD_BASE_ERR_H

#include <stdarg.h>
#include <stddef.h>

#define TD_MUST_USE __attribute__((warn_unused_result))
#define TD_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

// X(NAME, "public.code", "English text")
#define TD_ERR_LIST(X)                                                                                                 \
    X(NOMEM, "tandem.internal.memory", "out of memory")                                                                \
    X(INTERNAL, "tandem.internal.error", "internal error")                                                             \
    X(LIMIT, "tandem.request.too_large", "a limit was exceeded")                                                       \
    X(USAGE, "tandem.usage", "wrong usage")                                                                            \
    X(IO, "tandem.internal.io", "input/output error")                                                                  \
    X(CONFIG, "tandem.config.invalid", "invalid configuration")                                                        \
    X(BAD_REQUEST, "tandem.request.invalid", "invalid request")                                                        \
    X(BAD_JSON, "tandem.request.json", "invalid JSON")                                                                 \
    X(UNSUPPORTED, "tandem.request.unsupported", "not supported")                                                      \
    X(UNAUTHORIZED, "tandem.auth.key", "missing or wrong API key")                                                     \
    X(FORBIDDEN, "tandem.auth.forbidden", "not allowed")                                                               \
    X(NOT_FOUND, "tandem.not_found", "not found")                                                                      \
    X(MODEL_NOT_FOUND, "tandem.model.not_found", "no such model")                                                      \
    X(NO_TARGET, "tandem.policy.no_target", "no target may answer this request")                                       \
    X(UNAVAILABLE, "tandem.unavailable", "no target can answer now")                                                   \
    X(BLOCKED, "tandem.policy.blocked", "a policy rule blocks this request")                                           \
    X(BUDGET, "tandem.budget.exhausted", "the budget is used up")                                                      \
    X(RATE, "tandem.rate.limited", "too many requests")                                                                \
    X(OVERLOAD, "tandem.overload", "too busy")                                                                         \
    X(DEADLINE, "tandem.deadline", "the deadline passed")                                                              \
    X(CONTEXT_LENGTH, "tandem.context_length", "the input is longer than the model's context")                         \
    X(CONTENT_POLICY, "tandem.content_policy", "the provider refused the content")                                     \
    X(CONNECT, "tandem.upstream.connect", "could not connect to the upstream")                                         \
    X(DNS, "tandem.upstream.dns", "could not resolve the upstream's name")                                             \
    X(TLS, "tandem.upstream.tls", "TLS with the upstream failed")                                                      \
    X(FIRST_TOKEN, "tandem.upstream.first_token", "no first token in time")                                            \
    X(IDLE, "tandem.upstream.idle", "the upstream fell silent")                                                        \
    X(CUT, "tandem.upstream.cut", "the upstream's answer ended before its finish")                                     \
    X(UPSTREAM_AUTH, "tandem.upstream.auth", "the upstream refused the credentials")                                   \
    X(UPSTREAM_RATE, "tandem.upstream.rate", "the upstream is limiting requests")                                      \
    X(UPSTREAM_QUOTA, "tandem.upstream.quota", "the account at the upstream is used up")                               \
    X(UPSTREAM_REQUEST, "tandem.upstream.request", "the upstream refused the request")                                 \
    X(UPSTREAM_NOT_FOUND, "tandem.upstream.not_found", "the upstream does not know the model")                         \
    X(UPSTREAM_SERVER, "tandem.upstream.server", "the upstream failed")                                                \
    X(UPSTREAM_GARBAGE, "tandem.upstream.garbage", "the upstream's answer was not understood")                         \
    X(HOST_CRASH, "tandem.host.crash", "the model host stopped")                                                       \
    X(HOST_LOAD, "tandem.host.load", "the model could not be loaded")                                                  \
    X(HOST_MEMORY, "tandem.host.memory", "not enough memory for the model")                                            \
    X(NOT_FOR_ME, "tandem.model.declined", "the model says this is not for it")                                        \
    X(GRANT, "tandem.egress.refused", "sending was refused: the bytes do not match what was allowed")                  \
    X(LEDGER, "tandem.ledger.unavailable", "the ledger cannot be written")                                             \
    X(EXPOSED, "tandem.listen.refused", "will not listen on an address that other machines reach")                     \
    X(LISTEN, "tandem.listen.failed", "could not listen")                                                              \
    X(LOCKED, "tandem.store.locked", "another process holds the data directory")                                       \
    X(CANCELLED, "tandem.cancelled", "cancelled")                                                                      \
    X(CHAIN, "tandem.chain.too_long", "the request has passed through too many Tandems")                               \
    X(METHOD, "tandem.request.method", "this path takes another method")                                               \
    X(KEY_REUSED, "tandem.request.key_reused", "this idempotency key came with another request before")                \
    X(IN_PROGRESS, "tandem.request.in_progress", "the first request with this idempotency key is being answered")

enum td_err {
    TD_OK = 0,
#define X(name, code, text) TD_ERR_##name,
    TD_ERR_LIST(X)
#undef X
        TD_ERR_COUNT
};

// What was being done when something failed; `message` is safe to show to the caller and never holds prompt text.
struct td_error {
    enum td_err code;
    char message[240];
    char param[80]; // the field of the request that is wrong ("messages[2].content"), "" none
};

// The stable public code ("tandem.policy.no_target"), "" for TD_OK. Static storage.
const char *td_err_code(enum td_err err);
// The English text, "" for TD_OK. Static storage.
const char *td_err_text(enum td_err err);
// Fills `e` (may be NULL) with `code` and a formatted message, and returns `code`, so `return td_error_set(…)` reads
// well.
enum td_err td_error_set(struct td_error *e, enum td_err code, const char *fmt, ...) TD_PRINTF(3, 4);

// Leaves the function that it stands in with the error of `call`, where it has one: for what writes piece by piece.
#define TD_TRY(call)                                                                                                   \
    do {                                                                                                               \
        enum td_err try_err_ = (call);                                                                                 \
        if (try_err_ != TD_OK)                                                                                         \
            return try_err_;                                                                                           \
    } while (0)

// Names the field at fault; call after td_error_set, which empties it. Returns e's code (TD_OK for NULL).
enum td_err td_error_param(struct td_error *e, const char *fmt, ...) TD_PRINTF(2, 3);

#endif
