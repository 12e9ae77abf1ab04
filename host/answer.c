// SPDX-License-Identifier: Apache-2.0
// How an answer leaves the engine: bytes of tokens become characters, characters that no stop string can begin in any
// more become pieces in the form that the model's template promises, and pieces become frames.
#include "host/engine.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/time.h"

#define PARSE_SHARE 4 // parse again only after 4 times what the last parse took: at most 20 % of the time

void host_send_out(struct host_engine *e, struct host_request *r) {
    if (e->out.n && !host_send(e->g, r->conn, &e->out))
        atomic_store(&r->cancelled, true);
    td_buf_clear(&e->out);
}

void host_spend_credit(struct host_request *r) {
    if (atomic_load(&r->credits))
        atomic_fetch_sub(&r->credits, 1);
}

void host_fail_request(struct host_engine *e, struct host_request *r, enum td_err code, const char *why) {
    if (!r->dead) {
        if (td_proto_put_error(&e->out, TD_FRAME_ERROR, r->id, code, td_str_of(why)) != TD_OK)
            _exit(TD_PROTO_EXIT_MEMORY); // it cannot even be said
        host_send_out(e, r);
        host_note_end(e->g, code);
    }
    r->dead = true;
}

void host_put_tokens(struct td_proto_writer *w, struct host_job *j) {
    td_proto_u32(w, j->token_count);
    td_proto_bytes(w, j->tokens.p, j->tokens.n);
    td_buf_clear(&j->tokens);
    j->token_count = 0;
}

static void hand_text(struct host_engine *e, struct host_job *j, enum td_frame_type type, struct td_str text) {
    struct td_proto_writer w;
    td_proto_begin(&w, &e->out, type, j->r->id);
    td_proto_u32(&w, j->choice);
    td_proto_str(&w, text);
    host_put_tokens(&w, j);
    if (td_proto_end(&w) != TD_OK)
        host_fail_request(e, j->r, TD_ERR_NOMEM, "out of memory");
    host_spend_credit(j->r);
    j->handed_text = true;
}

struct handing {
    struct host_engine *e;
    struct host_job *j;
};

static void on_piece(void *arg, const struct host_piece *p) {
    struct handing *h = arg;
    struct host_job *j = h->j;
    if (p->kind != HOST_PIECE_TOOL) {
        if (p->kind == HOST_PIECE_REASONING)
            j->r->reasoning_tokens += j->token_count;
        hand_text(h->e, j, p->kind == HOST_PIECE_TEXT ? TD_FRAME_TEXT : TD_FRAME_REASONING, p->text);
        return;
    }
    struct td_proto_writer w;
    td_proto_begin(&w, &h->e->out, TD_FRAME_TOOL, j->r->id);
    td_proto_u32(&w, j->choice);
    td_proto_u32(&w, p->index);
    td_proto_str(&w, p->id);
    td_proto_str(&w, p->name);
    td_proto_str(&w, p->text);
    host_put_tokens(&w, j);
    if (td_proto_end(&w) != TD_OK)
        host_fail_request(h->e, j->r, TD_ERR_NOMEM, "out of memory");
    host_spend_credit(j->r);
    j->handed_text = true;
}

// Bytes at the end of the answer that may turn out to be the beginning of a stop string.
static size_t held_back(const struct host_job *j) {
    const struct host_request *r = j->r;
    size_t most = r->stop_bytes_max ? r->stop_bytes_max - 1 : 0;
    if (most > j->text.n)
        most = j->text.n;
    for (size_t n = most; n > 0; n--)
        for (uint32_t i = 0; i < r->stop_count; i++)
            if (n < r->stops[i].n && memcmp(j->text.p + j->text.n - n, r->stops[i].p, n) == 0)
                return n;
    return 0;
}

bool host_cut_at_stop(struct host_job *j, size_t from) {
    const struct host_request *r = j->r;
    if (!r->stop_count)
        return false;
    size_t start = from > r->stop_bytes_max ? from - r->stop_bytes_max : 0, best = SIZE_MAX;
    for (uint32_t i = 0; i < r->stop_count; i++) {
        const char *at = memmem(j->text.p + start, j->text.n - start, r->stops[i].p, r->stops[i].n);
        if (at && (size_t)(at - j->text.p) < best)
            best = (size_t)(at - j->text.p);
    }
    if (best == SIZE_MAX)
        return false;
    j->text.n = best > j->shown ? best : j->shown;
    return true;
}

enum td_err host_hand_out(struct host_engine *e, struct host_job *j, bool last, bool cut) {
    size_t upto = last ? j->text.n : j->text.n - held_back(j);
    enum td_err err = TD_OK;
    if (!j->parser) {
        if (upto > j->shown)
            hand_text(e, j, TD_FRAME_TEXT, td_str_n(j->text.p + j->shown, upto - j->shown));
    } else if (last || upto > j->shown) {
        uint64_t start = td_now_ns();
        if (!last && start - j->parsed_at_ns < PARSE_SHARE * j->parse_ns)
            return TD_OK;
        struct handing h = {e, j};
        err = host_parser_feed(j->parser, td_str_n(j->text.p ? j->text.p : "", upto), !last || cut, on_piece, &h);
        j->parsed_at_ns = td_now_ns();
        j->parse_ns = j->parsed_at_ns - start;
        if (err && err != TD_ERR_NOMEM && !j->handed_text && upto) {
            // Not the promised form, and nothing shown yet: it is plain text then.
            hand_text(e, j, TD_FRAME_TEXT, td_str_n(j->text.p, upto));
            err = TD_OK;
        }
    }
    j->shown = upto > j->shown ? upto : j->shown;
    return err;
}

void host_put_usage(struct host_engine *e, struct host_request *r, uint32_t prompt_tokens) {
    struct td_proto_writer w;
    td_proto_begin(&w, &e->out, TD_FRAME_USAGE, r->id);
    td_proto_u32(&w, prompt_tokens);
    td_proto_u32(&w, r->completion_tokens);
    td_proto_u32(&w, r->cached_tokens);
    td_proto_u32(&w, r->reasoning_tokens);
    if (td_proto_end(&w) != TD_OK)
        host_fail_request(e, r, TD_ERR_NOMEM, "out of memory");
}

void host_put_end(struct host_engine *e, struct host_request *r) {
    struct td_proto_writer w;
    td_proto_begin(&w, &e->out, TD_FRAME_END, r->id);
    if (td_proto_end(&w) != TD_OK)
        host_fail_request(e, r, TD_ERR_NOMEM, "out of memory");
    else
        host_note_end(e->g, TD_OK);
    host_send_out(e, r);
    r->dead = true;
}

// ---- text

// Takes bytes in as whole characters; what is no UTF-8 (RFC 3629) becomes U+FFFD.
static enum td_err add_byte(struct host_job *j, unsigned char byte) {
    j->half[j->half_count++] = byte;
    struct td_str s = {(const char *)j->half, j->half_count};
    if (td_str_is_utf8(s)) {
        j->half_count = 0;
        return td_buf_add(&j->text, s.p, s.n);
    }
    if (j->half_count < sizeof j->half && td_str_utf8_whole(s) == 0)
        return TD_OK;
    // It cannot become a character any more: the first byte was wrong, the rest may start a new one.
    unsigned char rest[sizeof j->half];
    uint32_t count = j->half_count - 1;
    memcpy(rest, j->half + 1, count);
    j->half_count = 0;
    enum td_err err = td_buf_addz(&j->text, "\xef\xbf\xbd");
    for (uint32_t i = 0; i < count && !err; i++)
        err = add_byte(j, rest[i]);
    return err;
}

enum td_err host_add_text(struct host_job *j, const char *p, size_t n) {
    enum td_err err = TD_OK;
    for (size_t i = 0; i < n && !err;) {
        size_t ascii = i;
        while (ascii < n && (unsigned char)p[ascii] < 0x80 && j->half_count == 0)
            ascii++;
        if (ascii > i)
            err = td_buf_add(&j->text, p + i, ascii - i);
        else
            err = add_byte(j, (unsigned char)p[ascii++]);
        i = ascii;
    }
    return err;
}

int host_piece_of(struct host_engine *e, const struct host_job *j, llama_token token, char **out, char small[256]) {
    bool special = j->r->turn && host_turn_preserves(j->r->turn, token);
    int n = llama_token_to_piece(e->g->vocab, token, small, 256, 0, special);
    *out = small;
    if (n >= 0)
        return n;
    *out = td_malloc((size_t)-n);
    return *out ? llama_token_to_piece(e->g->vocab, token, *out, -n, 0, special) : 0;
}

enum td_err host_record_token(struct host_engine *e, struct host_job *j, const float *logits, llama_token token,
                              const struct host_prob *p) {
    struct td_proto_writer w = {&j->tokens, j->tokens.n, TD_OK};
    char small[256], *text = NULL;
    td_proto_f32(&w, host_prob_of(p, logits, token));
    td_proto_f32(&w, p->entropy);
    int n = j->r->want_tokens ? host_piece_of(e, j, token, &text, small) : 0;
    td_proto_str(&w, td_str_n(text, (size_t)n));
    if (text && text != small)
        td_free(text);
    int32_t top[TD_LOGPROBS_MAX], count = 0;
    if (j->r->top_count)
        count = host_prob_top(logits, e->vocab_count, top, j->r->top_count);
    td_proto_u32(&w, (uint32_t)count);
    for (int32_t i = 0; i < count; i++) {
        n = host_piece_of(e, j, top[i], &text, small);
        td_proto_f32(&w, host_prob_of(p, logits, top[i]));
        td_proto_str(&w, td_str_n(text, (size_t)n));
        if (text != small)
            td_free(text);
    }
    j->token_count++;
    return w.err;
}
