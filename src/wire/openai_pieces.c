// SPDX-License-Identifier: Apache-2.0
#include "wire/openai_writer.h"

#include <math.h>

void td_ow_unknown(struct td_emit *m, td_json *obj, bool (*known)(struct td_str)) {
    size_t i, max;
    td_json *key, *v;
    if (!yyjson_is_obj(obj))
        return;
    yyjson_obj_foreach(obj, i, max, key, v) {
        if (!yyjson_is_null(v) && !known(td_json_str(key)))
            td_emit_member(m, key, v);
    }
}

td_json *td_ow_raw_choice(td_json *raw, uint32_t index) {
    td_json *list = td_json_get(raw, "choices"), *v;
    size_t i, max;
    if (!yyjson_is_arr(list))
        return NULL;
    yyjson_arr_foreach(list, i, max, v) {
        if (td_json_get_int(v, "index", 0) == (int64_t)index)
            return v;
    }
    return NULL;
}

enum td_err td_openai_own_fields(td_json *raw, uint32_t choice, struct td_buf *out) {
    td_json *own = td_ow_raw_choice(raw, choice);
    struct td_emit m;
    td_emit_init(&m, out);
    td_emit_lit(&m, "{\"choices\":[{\"index\":");
    td_emit_u64(&m, choice);
    td_emit_lit(&m, ",\"delta\":{\"content\":null");
    td_ow_unknown(&m, td_ow_raw_message(own), td_openai_known_delta);
    td_emit_lit(&m, "}");
    td_ow_unknown(&m, own, td_openai_known_choice);
    td_emit_lit(&m, "}]");
    td_ow_unknown(&m, raw, td_openai_known_top);
    td_emit_lit(&m, "}");
    td_emit_finish(&m);
    return m.err;
}

td_json *td_ow_raw_message(td_json *choice) {
    td_json *delta = td_json_get(choice, "delta");
    return delta ? delta : td_json_get(choice, "message");
}

// Token texts may be parts of characters; JSON wants whole ones. The exact bytes stand beside it.
static void emit_token_text(struct td_emit *m, struct td_str s) {
    if (td_str_is_utf8(s)) {
        td_emit_string(m, s);
        return;
    }
    char whole[256];
    size_t n = 0;
    for (size_t i = 0; i < s.n && n + 3 <= sizeof whole; i++) {
        if ((unsigned char)s.p[i] < 0x80) {
            whole[n++] = s.p[i];
        } else {
            memcpy(whole + n, "\xef\xbf\xbd", 3);
            n += 3;
        }
    }
    td_emit_string(m, td_str_n(whole, n));
}

static void emit_token_head(struct td_emit *m, const struct td_token *t) {
    td_emit_lit(m, "{\"token\":");
    emit_token_text(m, t->text);
    td_emit_lit(m, ",\"logprob\":");
    td_emit_float(m, isfinite(t->logprob) ? t->logprob : -9999.0f);
    td_emit_lit(m, ",\"bytes\":[");
    for (size_t i = 0; i < t->text.n; i++) {
        if (i)
            td_emit_lit(m, ",");
        td_emit_u64(m, (unsigned char)t->text.p[i]);
    }
    td_emit_lit(m, "]");
}

static uint32_t top_count(const struct td_answer_writer *w, const struct td_token *t) {
    return t->top_count < w->spec.top_logprobs ? t->top_count : w->spec.top_logprobs;
}

void td_ow_chat_tokens(struct td_emit *m, const struct td_answer_writer *w, const struct td_token *tokens,
                       uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        if (i)
            td_emit_lit(m, ",");
        emit_token_head(m, &tokens[i]);
        td_emit_lit(m, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < top_count(w, &tokens[i]); k++) {
            if (k)
                td_emit_lit(m, ",");
            emit_token_head(m, &tokens[i].top[k]);
            td_emit_lit(m, "}");
        }
        td_emit_lit(m, "]}");
    }
}

uint64_t td_ow_characters(struct td_str s) {
    uint64_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    return n;
}

void td_ow_completion_tokens(struct td_emit *m, const struct td_answer_writer *w, const struct td_token *tokens,
                             uint32_t count, int list, uint64_t offset) {
    for (uint32_t i = 0; i < count; i++) {
        const struct td_token *t = &tokens[i];
        if (i)
            td_emit_lit(m, ",");
        if (list == LP_TOKENS) {
            emit_token_text(m, t->text);
        } else if (list == LP_VALUES) {
            td_emit_float(m, isfinite(t->logprob) ? t->logprob : -9999.0f);
        } else if (list == LP_OFFSETS) {
            td_emit_u64(m, offset);
            offset += td_ow_characters(t->text);
        } else {
            td_emit_lit(m, "{");
            for (uint32_t k = 0; k < top_count(w, t); k++) {
                if (k)
                    td_emit_lit(m, ",");
                emit_token_text(m, t->top[k].text);
                td_emit_lit(m, ":");
                td_emit_float(m, isfinite(t->top[k].logprob) ? t->top[k].logprob : -9999.0f);
            }
            td_emit_lit(m, "}");
        }
    }
}

const char *const td_ow_lists[LP_COUNT] = {"{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[",
                                           "],\"text_offset\":["};

void td_ow_logprobs(struct td_emit *m, const struct td_answer_writer *w, const struct td_event *ev, uint64_t offset) {
    bool text = ev && (ev->type == TD_EV_DELTA || ev->type == TD_EV_REFUSAL);
    if (!w->spec.logprobs || !text || ev->delta.token_count == 0) {
        td_emit_lit(m, "null");
        return;
    }
    if (w->spec.kind == TD_KIND_COMPLETION) {
        for (int list = 0; list < LP_COUNT; list++) {
            td_emit_raw(m, td_ow_lists[list], strlen(td_ow_lists[list]));
            td_ow_completion_tokens(m, w, ev->delta.tokens, ev->delta.token_count, list, offset);
        }
        td_emit_lit(m, "]}");
        return;
    }
    bool refusal = ev->type == TD_EV_REFUSAL;
    if (refusal)
        td_emit_lit(m, "{\"content\":null,\"refusal\":[");
    else
        td_emit_lit(m, "{\"content\":[");
    td_ow_chat_tokens(m, w, ev->delta.tokens, ev->delta.token_count);
    if (refusal)
        td_emit_lit(m, "]}");
    else
        td_emit_lit(m, "],\"refusal\":null}");
}

void td_ow_usage(struct td_emit *m, const struct td_usage *u, bool embedding) {
    td_emit_lit(m, "{\"prompt_tokens\":");
    td_emit_u64(m, u->prompt_tokens);
    if (!embedding) {
        td_emit_lit(m, ",\"completion_tokens\":");
        td_emit_u64(m, u->completion_tokens);
    }
    td_emit_lit(m, ",\"total_tokens\":");
    td_emit_u64(m, (uint64_t)u->prompt_tokens + (embedding ? 0 : u->completion_tokens));
    if (u->cached_tokens) {
        td_emit_lit(m, ",\"prompt_tokens_details\":{\"cached_tokens\":");
        td_emit_u64(m, u->cached_tokens);
        td_emit_lit(m, "}");
    }
    if (u->reasoning_tokens) {
        td_emit_lit(m, ",\"completion_tokens_details\":{\"reasoning_tokens\":");
        td_emit_u64(m, u->reasoning_tokens);
        td_emit_lit(m, "}");
    }
    if (u->estimated)
        td_emit_lit(m, ",\"estimated\":true");
    td_emit_lit(m, "}");
}

static void emit_origin(struct td_emit *m, const char *key, const struct td_origin *o) {
    td_emit_lit(m, "\"");
    td_emit_raw(m, key, strlen(key));
    td_emit_lit(m, "\":{");
    td_emit_word(m, "target", o->target);
    td_emit_word(m, "tier", o->tier);
    td_emit_word(m, "model", o->model);
    td_emit_close(m);
    td_emit_lit(m, ",");
}

void td_ow_revision(struct td_emit *m, const struct td_answer_writer *w, bool opens, bool final) {
    td_emit_lit(m, "\"revision\":");
    td_emit_u64(m, w->revision);
    td_emit_lit(m, ",");
    if (opens)
        td_emit_word(m, "op", td_str_of(td_revision_word(w->op)));
    if (final)
        td_emit_lit(m, "\"final\":true,");
    else
        td_emit_lit(m, "\"final\":false,");
    emit_origin(m, "origin", &w->origin);
    if (w->draft.target.n && w->op != TD_REVISION_DRAFT)
        emit_origin(m, "draft", &w->draft);
}

static void emit_attempt(struct td_emit *m, const struct td_answer_attempt *a, bool parts) {
    td_emit_lit(m, "{");
    if (parts) {
        td_emit_lit(m, "\"prompt\":");
        td_emit_u64(m, a->part);
        td_emit_lit(m, ",");
    }
    td_emit_word(m, "target", a->origin.target);
    td_emit_word(m, "tier", a->origin.tier);
    td_emit_word(m, "model", a->origin.model);
    td_emit_word(m, "reason", a->reason);
    td_emit_word(m, "outcome", a->outcome);
    td_emit_lit(m, "\"usage\":");
    td_ow_usage(m, &a->usage, false);
    td_emit_lit(m, ",\"cost_usd\":");
    td_emit_usd(m, a->cost_nusd);
    td_emit_lit(m, ",\"ttft_ms\":");
    td_emit_u64(m, a->ttft_ms);
    td_emit_lit(m, ",\"duration_ms\":");
    td_emit_u64(m, a->duration_ms);
    td_emit_lit(m, "}");
}

void td_ow_meta(struct td_emit *m, const struct td_answer_writer *w, const struct td_answer_meta *meta) {
    if (!meta)
        return;
    td_emit_lit(m, ",\"tandem\":{");
    td_emit_word(m, "exchange", meta->exchange.n || !w ? meta->exchange : w->spec.exchange);
    for (uint32_t i = 0; i < meta->exchange_count; i++) {
        if (i)
            td_emit_lit(m, ",\"");
        else
            td_emit_lit(m, "\"exchanges\":[\"");
        td_emit_raw(m, meta->exchanges[i].p, meta->exchanges[i].n);
        td_emit_lit(m, "\"");
    }
    if (meta->exchange_count)
        td_emit_lit(m, "],");
    td_emit_word(m, "target", meta->origin.target);
    td_emit_word(m, "tier", meta->origin.tier);
    td_emit_word(m, "model", meta->origin.model);
    td_emit_word(m, "reason", meta->reason);
    td_emit_word(m, "mode", meta->mode);
    if (w && w->revision)
        td_ow_revision(m, w, false, true);
    if (meta->degraded)
        td_emit_lit(m, "\"degraded\":true,");
    else
        td_emit_lit(m, "\"degraded\":false,");
    if (meta->queued)
        td_emit_lit(m, "\"queued\":true,");
    td_emit_word(m, "queued_as", meta->queued_as);
    if (meta->damaged || (w && w->damaged))
        td_emit_lit(m, "\"damaged\":true,");
    if (isfinite(meta->confidence)) {
        td_emit_lit(m, "\"confidence\":");
        td_emit_float(m, (float)meta->confidence);
        td_emit_lit(m, ",");
    }
    td_emit_lit(m, "\"cost_usd\":");
    td_emit_usd(m, meta->cost_nusd);
    td_emit_lit(m, ",\"cost_nusd\":");
    td_emit_i64(m, meta->cost_nusd);
    td_emit_lit(m, ",\"usage_total\":");
    td_ow_usage(m, &meta->usage_total, false);
    td_emit_lit(m, ",\"attempts\":[");
    for (uint32_t i = 0; i < meta->attempt_count; i++) {
        if (i)
            td_emit_lit(m, ",");
        emit_attempt(m, &meta->attempts[i], meta->exchange_count > 0);
    }
    td_emit_lit(m, "]}");
}

const struct td_usage *td_ow_final_usage(const struct td_answer_writer *w, const struct td_answer_meta *meta) {
    return meta && meta->usage ? meta->usage : w->has_usage ? &w->usage : NULL;
}

struct td_str td_ow_made_id(struct td_answer_writer *w, uint32_t choice, uint32_t index) {
    return td_arena_printf(&w->arena, "call_%.*s%u_%u", TD_STR_ARG(w->spec.exchange), choice, index);
}
