// SPDX-License-Identifier: Apache-2.0
#include "exchange/internal.h"

#include "base/json.h"
#include "wire/openai_answer.h"

void td_x_store_init(struct td_x_store *s) {
    td_buf_init(&s->bytes, TD_REPLY_BYTES_MAX);
    td_buf_init(&s->texts, TD_REPLY_BYTES_MAX);
    td_buf_init(&s->pieces, TD_REPLY_BYTES_MAX);
    td_buf_init(&s->tokens, TD_REPLY_BYTES_MAX);
}

void td_x_store_finish(struct td_x_store *s) {
    td_buf_finish(&s->bytes);
    td_buf_finish(&s->texts);
    td_buf_finish(&s->pieces);
    td_buf_finish(&s->tokens);
}

static struct td_x_piece *pieces(const struct td_x_store *s) {
    return (struct td_x_piece *)(void *)s->pieces.p;
}

static struct td_x_kept_token *kept_tokens(const struct td_x_store *s) {
    return (struct td_x_kept_token *)(void *)s->tokens.p;
}

uint32_t td_x_store_count(const struct td_x_store *s) {
    return (uint32_t)(s->pieces.n / sizeof(struct td_x_piece));
}

static enum td_err add_token(struct td_x_store *s, const struct td_token *t, uint32_t top_at, uint32_t top_count) {
    struct td_x_kept_token kept = {s->texts.n, t->text.n, t->logprob, t->entropy, top_at, top_count};
    enum td_err err = td_buf_add_str(&s->texts, t->text);
    return err ? err : td_buf_add(&s->tokens, &kept, sizeof kept);
}

// Alternatives go before the run of tokens they belong to, so that each run stays contiguous.
static enum td_err add_tokens(struct td_x_store *s, const struct td_token *tokens, uint32_t count, uint32_t *at) {
    enum td_err err = TD_OK;
    uint32_t top = (uint32_t)(s->tokens.n / sizeof(struct td_x_kept_token));
    for (uint32_t i = 0; i < count && !err; i++)
        for (uint32_t k = 0; k < tokens[i].top_count && !err; k++)
            err = add_token(s, &tokens[i].top[k], 0, 0);
    *at = (uint32_t)(s->tokens.n / sizeof(struct td_x_kept_token));
    for (uint32_t i = 0; i < count && !err; i++) {
        err = add_token(s, &tokens[i], top, tokens[i].top_count);
        top += tokens[i].top_count;
    }
    return err;
}

static struct td_str payload(const struct td_event *ev) {
    switch (ev->type) {
    case TD_EV_TOOL_CALL:
        return ev->tool.arguments;
    case TD_EV_EMBEDDING:
        return td_str_n((const char *)ev->embedding.values, ev->embedding.count * sizeof(float));
    default:
        return ev->delta.text;
    }
}

enum td_err td_x_store_add(struct td_x_store *s, const struct td_event *ev, bool with_tokens) {
    enum td_err err = TD_OK;
    bool tokens = with_tokens && ev->type == TD_EV_DELTA && ev->delta.token_count > 0;
    struct td_str text = payload(ev);
    uint32_t n = td_x_store_count(s);
    struct td_x_piece *last = n ? &pieces(s)[n - 1] : NULL;
    uint32_t index = ev->type == TD_EV_TOOL_CALL   ? ev->tool.index
                     : ev->type == TD_EV_EMBEDDING ? ev->embedding.index
                                                   : 0;
    if (last && last->type == ev->type && last->choice == ev->choice && last->index == index &&
        last->at + last->n == s->bytes.n && !tokens && last->token_count == 0 && ev->type != TD_EV_EMBEDDING &&
        !(ev->type == TD_EV_TOOL_CALL && ev->tool.id.n) && !ev->raw) {
        err = td_buf_add_str(&s->bytes, text);
        if (!err)
            last->n += text.n;
        return err;
    }
    struct td_x_piece piece = {.type = ev->type, .choice = ev->choice, .index = index};
    if (ev->type == TD_EV_TOOL_CALL) {
        piece.id_at = s->bytes.n, piece.id_n = ev->tool.id.n;
        err = td_buf_add_str(&s->bytes, ev->tool.id);
        piece.name_at = s->bytes.n, piece.name_n = ev->tool.name.n;
        if (!err)
            err = td_buf_add_str(&s->bytes, ev->tool.name);
    }
    while (!err && ev->type == TD_EV_EMBEDDING && s->bytes.n % _Alignof(float))
        err = td_buf_addc(&s->bytes, 0);
    piece.at = s->bytes.n, piece.n = text.n;
    if (!err)
        err = td_buf_add_str(&s->bytes, text);
    if (!err && tokens) {
        piece.token_count = ev->delta.token_count;
        err = add_tokens(s, ev->delta.tokens, ev->delta.token_count, &piece.token_at);
    }
    if (!err && ev->raw) {
        piece.raw_at = s->texts.n;
        err = td_openai_own_fields(ev->raw, ev->choice, &s->texts);
        piece.raw_n = s->texts.n - piece.raw_at;
    }
    return err ? err : td_buf_add(&s->pieces, &piece, sizeof piece);
}

static enum td_err get_tokens(const struct td_x_store *s, const struct td_x_piece *p, struct td_arena *arena,
                              const struct td_token **out) {
    uint32_t tops = 0;
    const struct td_x_kept_token *kept = kept_tokens(s) + p->token_at;
    for (uint32_t i = 0; i < p->token_count; i++)
        tops += kept[i].top_count;
    struct td_token *all = td_arena_array(arena, (size_t)p->token_count + tops, sizeof *all);
    if (!all)
        return TD_ERR_NOMEM;
    struct td_token *top = all + p->token_count;
    for (uint32_t i = 0; i < p->token_count; i++) {
        all[i] = (struct td_token){td_str_n(s->texts.p + kept[i].at, kept[i].n), kept[i].logprob, kept[i].entropy, top,
                                   kept[i].top_count};
        for (uint32_t k = 0; k < kept[i].top_count; k++) {
            const struct td_x_kept_token *t = &kept_tokens(s)[kept[i].top_at + k];
            *top++ = (struct td_token){td_str_n(s->texts.p + t->at, t->n), t->logprob, t->entropy, NULL, 0};
        }
    }
    *out = all;
    return TD_OK;
}

enum td_err td_x_store_get(const struct td_x_store *s, uint32_t i, struct td_arena *arena, struct td_event *out) {
    const struct td_x_piece *p = &pieces(s)[i];
    *out = (struct td_event){.type = p->type, .choice = p->choice};
    struct td_str text = td_str_n(s->bytes.p ? s->bytes.p + p->at : NULL, p->n);
    if (p->raw_n) {
        struct td_str raw = td_str_n(s->texts.p + p->raw_at, p->raw_n);
        enum td_err err = td_json_parse(arena, raw, TD_JSON_DEPTH_MAX + 4, &out->raw, NULL);
        if (err == TD_ERR_NOMEM)
            return err;
    }
    if (p->type == TD_EV_TOOL_CALL) {
        out->tool.index = p->index;
        out->tool.id = td_str_n(s->bytes.p + p->id_at, p->id_n);
        out->tool.name = td_str_n(s->bytes.p + p->name_at, p->name_n);
        out->tool.arguments = text;
    } else if (p->type == TD_EV_EMBEDDING) {
        out->embedding.index = p->index;
        out->embedding.values = (const float *)(const void *)text.p;
        out->embedding.count = (uint32_t)(p->n / sizeof(float));
    } else {
        out->delta.text = text;
        out->delta.token_count = p->token_count;
        if (p->token_count)
            return get_tokens(s, p, arena, &out->delta.tokens);
    }
    return TD_OK;
}

struct td_str td_x_store_text(const struct td_x_store *s) {
    struct td_str text = TD_STR_NONE;
    for (uint32_t i = 0; i < td_x_store_count(s); i++) {
        const struct td_x_piece *p = &pieces(s)[i];
        if (p->type != TD_EV_DELTA || p->choice != 0)
            continue;
        if (text.n && text.p + text.n != s->bytes.p + p->at)
            return TD_STR_NONE;
        text = td_str_n(text.n ? text.p : s->bytes.p + p->at, text.n + p->n);
    }
    return text;
}

// Walks the bytes of one kind of content, of one choice and tool, in order, whatever pieces they came in.
struct walk {
    const struct td_x_store *s;
    enum td_event_type type;
    uint32_t choice, index, piece;
    size_t at;
};

static int next_byte(struct walk *w) {
    for (; w->piece < td_x_store_count(w->s); w->piece++, w->at = 0) {
        const struct td_x_piece *p = &pieces(w->s)[w->piece];
        if (p->type == w->type && p->choice == w->choice && p->index == w->index && w->at < p->n)
            return (unsigned char)w->s->bytes.p[p->at + w->at++];
    }
    return -1;
}

static struct td_str tool_name(const struct td_x_store *s, uint32_t choice, uint32_t index) {
    for (uint32_t i = 0; i < td_x_store_count(s); i++) {
        const struct td_x_piece *p = &pieces(s)[i];
        if (p->type == TD_EV_TOOL_CALL && p->choice == choice && p->index == index && p->name_n)
            return td_str_n(s->bytes.p + p->name_at, p->name_n);
    }
    return TD_STR_NONE;
}

static bool covers(const struct td_x_store *a, const struct td_x_store *b) {
    for (uint32_t i = 0; i < td_x_store_count(a); i++) {
        const struct td_x_piece *p = &pieces(a)[i];
        if (p->type == TD_EV_REASONING)
            continue;
        struct walk wa = {a, p->type, p->choice, p->index, 0, 0}, wb = {b, p->type, p->choice, p->index, 0, 0};
        int ca, cb;
        do {
            ca = next_byte(&wa);
            cb = next_byte(&wb);
            if (ca != cb)
                return false;
        } while (ca >= 0);
        if (p->type == TD_EV_TOOL_CALL &&
            !td_str_eq(tool_name(a, p->choice, p->index), tool_name(b, p->choice, p->index)))
            return false;
    }
    return true;
}

bool td_x_store_same(const struct td_x_store *a, const struct td_x_store *b) {
    return covers(a, b) && covers(b, a);
}

// One call's arguments, put together from its pieces; *name from the piece that has it. False: there is none.
static bool gather_call(const struct td_x_store *s, uint32_t index, struct td_str *name, struct td_buf *arguments,
                        enum td_err *err) {
    bool found = false;
    *name = TD_STR_NONE;
    td_buf_clear(arguments);
    for (uint32_t i = 0; i < td_x_store_count(s) && *err == TD_OK; i++) {
        const struct td_x_piece *p = &pieces(s)[i];
        if (p->type != TD_EV_TOOL_CALL || p->choice != 0 || p->index != index)
            continue;
        found = true;
        if (p->name_n)
            *name = td_str_n(s->bytes.p + p->name_at, p->name_n);
        if (p->n)
            *err = td_buf_add(arguments, s->bytes.p + p->at, p->n);
    }
    return found;
}

enum td_err td_x_store_calls(const struct td_x_store *s, struct td_arena *arena, struct td_buf *out) {
    struct td_buf arguments;
    struct td_str name;
    td_json *root;
    td_buf_init(&arguments, TD_REPLY_BYTES_MAX);
    enum td_err err = td_buf_addz(out, "{\"tool_calls\":[");
    for (uint32_t i = 0; err == TD_OK && gather_call(s, i, &name, &arguments, &err) && err == TD_OK; i++) {
        err = td_buf_addz(out, i ? ",{\"name\":" : "{\"name\":");
        err = err ? err : td_buf_add_json(out, name);
        err = err ? err : td_buf_addz(out, ",\"arguments\":");
        bool json = td_json_parse(arena, td_buf_str(&arguments), TD_JSON_DEPTH_MAX, &root, NULL) == TD_OK;
        if (err == TD_OK) // what is no JSON goes along as the text that it is
            err = json ? td_buf_add_str(out, td_buf_str(&arguments)) : td_buf_add_json(out, td_buf_str(&arguments));
        err = err ? err : td_buf_addc(out, '}');
    }
    td_buf_finish(&arguments);
    return err ? err : td_buf_addz(out, "]}");
}
