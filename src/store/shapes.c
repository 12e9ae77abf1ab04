// SPDX-License-Identifier: Apache-2.0
#include "store/shapes.h"

#include "store/ledger.h"

const char *td_outcome_word(enum td_outcome outcome) {
    static const char *const words[] = {
#define X(name, word) word,
        TD_OUTCOME_LIST(X)
#undef X
    };
    return outcome < TD_OUTCOME_COUNT ? words[outcome] : "";
}

const char *td_egress_word(enum td_egress kind) {
    static const char *const words[] = {
#define X(name, word) word,
        TD_EGRESS_LIST(X)
#undef X
    };
    return kind < TD_EGRESS_COUNT ? words[kind] : "";
}

static const char *outcome_word(int v) {
    return td_outcome_word((enum td_outcome)v);
}
static const char *egress_word(int v) {
    return td_egress_word((enum td_egress)v);
}
static const char *reason_word(int v) {
    return td_reason_word((enum td_reason)v);
}
static const char *error_word(int v) {
    return td_err_code((enum td_err)v);
}

#define WORDS(fn, count, ...)                                                                                          \
    static const char *fn(int v) {                                                                                     \
        static const char *const words[count] = {__VA_ARGS__};                                                         \
        return v >= 0 && v < count ? words[v] : "";                                                                    \
    }
WORDS(kind_word, 3, "chat", "completion", "embedding")
WORDS(dialect_word, 1, "openai")
WORDS(mode_word, 6, "", "single", "fallback", "cascade", "progressive", "hedge")
WORDS(tier_word, 4, "device", "edge", "onprem", "cloud")
WORDS(provider_word, 4, "llama", "openai", "tandem", "fake")
WORDS(class_word, 5, "", "public", "internal", "confidential", "restricted")

#define F(struct_, member, type_)                                                                                      \
    { #member, TD_FIELD_##type_, offsetof(struct struct_, member), 1, NULL, 0 }
#define W(struct_, member, fn, count)                                                                                  \
    { #member, TD_FIELD_WORD, offsetof(struct struct_, member), 1, fn, count }

// The same for what the usage sums are made of.
#define FS(struct_, member, type_)                                                                                     \
    { #member, TD_FIELD_##type_, offsetof(struct struct_, member), 1, NULL, 0, true }
#define WS(struct_, member, fn, count)                                                                                 \
    { #member, TD_FIELD_WORD, offsetof(struct struct_, member), 1, fn, count, true }

static const struct td_field row_fields[] = {
    FS(td_ledger_row, exchange, TEXT),
    FS(td_ledger_row, attempt, U32),
    FS(td_ledger_row, tenant, TEXT),
    F(td_ledger_row, key_id, TEXT),
    F(td_ledger_row, conversation, TEXT),
    FS(td_ledger_row, wall_ms, I64),
    W(td_ledger_row, kind, kind_word, 3),
    W(td_ledger_row, dialect, dialect_word, 1),
    W(td_ledger_row, mode, mode_word, 6),
    W(td_ledger_row, reason, reason_word, TD_REASON_COUNT),
    F(td_ledger_row, rule, TEXT),
    FS(td_ledger_row, target, TEXT),
    F(td_ledger_row, model, TEXT),
    F(td_ledger_row, region, TEXT),
    WS(td_ledger_row, tier, tier_word, TD_TIER_COUNT),
    W(td_ledger_row, provider, provider_word, 4),
    W(td_ledger_row, data_class, class_word, 5),
    F(td_ledger_row, labels, U32),
    F(td_ledger_row, policy_version, U64),
    WS(td_ledger_row, outcome, outcome_word, TD_OUTCOME_COUNT),
    W(td_ledger_row, error, error_word, TD_ERR_COUNT),
    F(td_ledger_row, http_status, INT),
    FS(td_ledger_row, damaged, BOOL),
    FS(td_ledger_row, delivered, BOOL),
    FS(td_ledger_row, degraded, BOOL),
    F(td_ledger_row, receipt, U64),
    FS(td_ledger_row, bytes_out, U64),
    F(td_ledger_row, bytes_in, U64),
    F(td_ledger_row, body_mac, MAC),
    FS(td_ledger_row, prompt_tokens, U32),
    FS(td_ledger_row, completion_tokens, U32),
    FS(td_ledger_row, cached_tokens, U32),
    FS(td_ledger_row, reasoning_tokens, U32),
    F(td_ledger_row, tokens_estimated, BOOL),
    FS(td_ledger_row, cost_nusd, I64),
    F(td_ledger_row, cost_estimated, BOOL),
    F(td_ledger_row, queue_us, U64),
    F(td_ledger_row, connect_us, U64),
    FS(td_ledger_row, ttft_us, U64),
    FS(td_ledger_row, duration_us, U64),
    F(td_ledger_row, retries, U32),
    F(td_ledger_row, mean_logprob, F32),
    F(td_ledger_row, min_logprob, F32),
    F(td_ledger_row, mean_entropy, F32),
    F(td_ledger_row, mean_margin, F32),
    F(td_ledger_row, draft_tokens, U32),
    F(td_ledger_row, decision, BLOB),
};

static const struct td_field receipt_fields[] = {
    FS(td_receipt, wall_ms, I64),  W(td_receipt, kind, egress_word, TD_EGRESS_COUNT),
    F(td_receipt, exchange, TEXT), F(td_receipt, attempt, U32),
    F(td_receipt, tenant, TEXT),   F(td_receipt, target, TEXT),
    F(td_receipt, region, TEXT),   W(td_receipt, data_class, class_word, 5),
    F(td_receipt, labels, U32),    F(td_receipt, policy_version, U64),
    F(td_receipt, bytes, U64),     F(td_receipt, body_mac, MAC),
};

const struct td_shape td_shape_row = {"ledger", row_fields, sizeof row_fields / sizeof *row_fields, 2,
                                      sizeof(struct td_ledger_row)};
const struct td_shape td_shape_receipt = {"receipts", receipt_fields, sizeof receipt_fields / sizeof *receipt_fields, 2,
                                          sizeof(struct td_receipt)};
