// SPDX-License-Identifier: Apache-2.0
// The engine: continuous batching over `parallel` sequences.
//
// Invariants. A slot is one sequence of the context's memory; `cache` names exactly the tokens that lie in it, also
// after its job has gone, so that a later request with the same beginning goes on from there. A job is one choice of
// one request, from admission to its FINISH. One turn: take up waiting jobs into free slots; build one batch of the
// next token of every job that generates plus a chunk of the prompts still to be read; decode; sample; hand out. The
// chunk is as long as decodes in CHUNK_MS, so a cancel or another stream never waits longer for a prompt.
//
//   queued → reading the prompt → generating → (out of credits: paused) → finished
//        any state → cancelled, failed
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <time.h>

#include "base/time.h"
#include "host/guest.h"
#include "host/place.h"
#include "host/prob.h"

#define CHUNK_MS 60.0       // of prompt, while nobody else is generating; half where somebody is
#define CHUNK_TOKENS_MIN 16 // below it the batch's fixed cost dominates
#define COPY_TOKENS_MIN 64  // a busy sequence is copied for a common prefix at least so long
#define SENTENCE_TOKENS 32  // of a model that copies its answers, where there is nothing to copy
#define PARSE_SHARE 4       // parse again only after 4 times what the last parse took: at most 20 % of the time

struct job {
    struct host_request *r;
    uint32_t choice;
    struct host_sampler *sampler;
    struct host_parser *parser;
    bool greedy;
    int32_t read;     // prompt tokens decoded
    int32_t index;    // of its logits in this batch, -1 none
    llama_token last; // sampled, not decoded yet; -1 none
    uint32_t produced, max;
    uint32_t own_max;      // the model's own limit; UINT32_MAX it has none
    struct td_buf text;    // the answer so far, whole characters
    unsigned char half[4]; // of a character
    uint32_t half_count;
    size_t shown;         // bytes of `text` given to the parser or handed out
    struct td_buf tokens; // records not handed out yet, as the frames carry them
    uint32_t token_count;
    uint64_t parse_ns, parsed_at_ns;
    bool handed_text;
};

struct slot {
    struct job *job; // NULL free
    llama_token *cache;
    int32_t cache_count;
    uint64_t used; // turn of last use
};

struct engine {
    struct host_guest *g;
    struct slot *slots;
    uint32_t slot_count;
    uint64_t turn;
    struct llama_batch batch;
    struct llama_context *embedder;
    struct td_buf out; // frames of this turn for one connection
    double tokens_per_ms;
    int32_t vocab_count, context;
    int32_t swa;      // sliding window, 0 none
    bool recurrent;   // sequences cannot be cut back
    uint64_t decoded; // tokens, for the sign of life
};

static double now_ms(void) {
    return (double)td_now_ns() / 1e6;
}

// ---- handing out

static void send_out(struct engine *e, struct host_request *r) {
    if (e->out.n && !host_send(e->g, r->conn, &e->out))
        atomic_store(&r->cancelled, true);
    td_buf_clear(&e->out);
}

static void spend_credit(struct host_request *r) {
    if (atomic_load(&r->credits))
        atomic_fetch_sub(&r->credits, 1);
}

static void fail_request(struct engine *e, struct host_request *r, enum td_err code, const char *why) {
    if (!r->dead) {
        if (td_proto_put_error(&e->out, TD_FRAME_ERROR, r->id, code, td_str_of(why)) != TD_OK)
            _exit(TD_PROTO_EXIT_MEMORY); // it cannot even be said
        send_out(e, r);
        host_note_end(e->g, code);
    }
    r->dead = true;
}

// Records of all tokens since the last frame go along with the next one.
static void put_tokens(struct td_proto_writer *w, struct job *j) {
    td_proto_u32(w, j->token_count);
    td_proto_bytes(w, j->tokens.p, j->tokens.n);
    td_buf_clear(&j->tokens);
    j->token_count = 0;
}

static void hand_text(struct engine *e, struct job *j, enum td_frame_type type, struct td_str text) {
    struct td_proto_writer w;
    td_proto_begin(&w, &e->out, type, j->r->id);
    td_proto_u32(&w, j->choice);
    td_proto_str(&w, text);
    put_tokens(&w, j);
    if (td_proto_end(&w) != TD_OK)
        fail_request(e, j->r, TD_ERR_NOMEM, "out of memory");
    spend_credit(j->r);
    j->handed_text = true;
}

struct handing {
    struct engine *e;
    struct job *j;
};

static void on_piece(void *arg, const struct host_piece *p) {
    struct handing *h = arg;
    struct job *j = h->j;
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
    put_tokens(&w, j);
    if (td_proto_end(&w) != TD_OK)
        fail_request(h->e, j->r, TD_ERR_NOMEM, "out of memory");
    spend_credit(j->r);
    j->handed_text = true;
}

// Bytes at the end of the answer that may turn out to be the beginning of a stop string.
static size_t held_back(const struct job *j) {
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

// Cuts the answer before the first stop string that ends in the bytes from `from` on.
static bool cut_at_stop(struct job *j, size_t from) {
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

static enum td_err hand_out(struct engine *e, struct job *j, bool last, bool cut) {
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

// ---- text

// Takes bytes in as whole characters; what is no UTF-8 (RFC 3629) becomes U+FFFD.
static enum td_err add_byte(struct job *j, unsigned char byte) {
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

static enum td_err add_text(struct job *j, const char *p, size_t n) {
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

static int piece_of(struct engine *e, const struct job *j, llama_token token, char **out, char small[256]) {
    bool special = j->r->turn && host_turn_preserves(j->r->turn, token);
    int n = llama_token_to_piece(e->g->vocab, token, small, 256, 0, special);
    *out = small;
    if (n >= 0)
        return n;
    *out = td_malloc((size_t)-n);
    return *out ? llama_token_to_piece(e->g->vocab, token, *out, -n, 0, special) : 0;
}

static enum td_err record_token(struct engine *e, struct job *j, const float *logits, llama_token token,
                                const struct host_prob *p) {
    struct td_proto_writer w = {&j->tokens, j->tokens.n, TD_OK};
    char small[256], *text = NULL;
    td_proto_f32(&w, host_prob_of(p, logits, token));
    td_proto_f32(&w, p->entropy);
    int n = j->r->want_tokens ? piece_of(e, j, token, &text, small) : 0;
    td_proto_str(&w, td_str_n(text, (size_t)n));
    if (text && text != small)
        td_free(text);
    int32_t top[TD_LOGPROBS_MAX], count = 0;
    if (j->r->top_count)
        count = host_prob_top(logits, e->vocab_count, top, j->r->top_count);
    td_proto_u32(&w, (uint32_t)count);
    for (int32_t i = 0; i < count; i++) {
        n = piece_of(e, j, top[i], &text, small);
        td_proto_f32(&w, host_prob_of(p, logits, top[i]));
        td_proto_str(&w, td_str_n(text, (size_t)n));
        if (text != small)
            td_free(text);
    }
    j->token_count++;
    return w.err;
}

// ---- jobs

static void free_job(struct slot *s) {
    struct job *j = s->job;
    if (!j)
        return;
    host_sampler_destroy(j->sampler);
    host_parser_destroy(j->parser);
    td_buf_finish(&j->text);
    td_buf_finish(&j->tokens);
    td_free(j);
    s->job = NULL;
}

static void put_usage(struct engine *e, struct host_request *r, uint32_t prompt_tokens) {
    struct td_proto_writer w;
    td_proto_begin(&w, &e->out, TD_FRAME_USAGE, r->id);
    td_proto_u32(&w, prompt_tokens);
    td_proto_u32(&w, r->completion_tokens);
    td_proto_u32(&w, r->cached_tokens);
    td_proto_u32(&w, r->reasoning_tokens);
    if (td_proto_end(&w) != TD_OK)
        fail_request(e, r, TD_ERR_NOMEM, "out of memory");
}

static void put_end(struct engine *e, struct host_request *r) {
    struct td_proto_writer w;
    td_proto_begin(&w, &e->out, TD_FRAME_END, r->id);
    if (td_proto_end(&w) != TD_OK)
        fail_request(e, r, TD_ERR_NOMEM, "out of memory");
    else
        host_note_end(e->g, TD_OK);
    send_out(e, r);
    r->dead = true;
}

static void finish_job(struct engine *e, struct slot *s, enum td_finish reason) {
    struct job *j = s->job;
    struct host_request *r = j->r;
    while (j->half_count) {
        j->half_count--;
        if (td_buf_addz(&j->text, "\xef\xbf\xbd") != TD_OK)
            break;
    }
    enum td_err err = hand_out(e, j, true, reason == TD_FINISH_LENGTH);
    if (err != TD_OK) {
        fail_request(e, r, err,
                     err == TD_ERR_NOMEM ? "out of memory"
                                         : "the model's answer does not have the form its template promises");
    } else {
        struct td_proto_writer w;
        if (reason == TD_FINISH_STOP && j->parser && host_parser_has_tools(j->parser))
            reason = TD_FINISH_TOOL_CALLS;
        td_proto_begin(&w, &e->out, TD_FRAME_FINISH, r->id);
        td_proto_u32(&w, j->choice);
        td_proto_u32(&w, reason);
        put_tokens(&w, j);
        if (td_proto_end(&w) != TD_OK)
            fail_request(e, r, TD_ERR_NOMEM, "out of memory");
    }
    if (++r->choices_done == r->choices && !r->dead) {
        put_usage(e, r, (uint32_t)r->prompt_count);
        put_end(e, r);
    } else {
        send_out(e, r);
    }
    free_job(s);
}

static void take_token(struct engine *e, struct slot *s, llama_token token, const float *logits,
                       const struct host_prob *p) {
    struct job *j = s->job;
    char small[256], *piece;
    j->produced++;
    j->r->completion_tokens++;
    if (record_token(e, j, logits, token, p) != TD_OK) {
        fail_request(e, j->r, TD_ERR_NOMEM, "out of memory");
        return;
    }
    if (llama_vocab_is_eog(e->g->vocab, token)) {
        finish_job(e, s, TD_FINISH_STOP);
        return;
    }
    size_t before = j->text.n;
    int n = piece_of(e, j, token, &piece, small);
    enum td_err err = n > 0 ? add_text(j, piece, (size_t)n) : TD_OK;
    if (piece != small)
        td_free(piece);
    if (err) {
        fail_request(e, j->r, err, "the answer is too long to be kept");
        return;
    }
    j->last = token;
    if (cut_at_stop(j, before))
        finish_job(e, s, TD_FINISH_STOP);
    else if (j->produced >= j->max || s->cache_count + 1 >= e->context)
        finish_job(e, s, TD_FINISH_LENGTH);
    else if (j->produced >= j->own_max)
        fail_request(e, j->r, TD_ERR_NOT_FOR_ME, "the model found no end to its answer");
    else if (j->own_max == UINT32_MAX && hand_out(e, j, false, false) == TD_OK)
        send_out(e, j->r);
}

// How often the tokens `t` stand one after the other in this part of a sequence.
static int32_t times(const llama_token *part, int32_t count, const llama_token *t, int32_t n) {
    int32_t found = 0;
    for (int32_t i = 0; i + n <= count; i++)
        found += memcmp(part + i, t, (size_t)n * sizeof *t) == 0;
    return found;
}

// For a model whose answers are copied from the prompt. A copier loses its place where a text repeats itself, and then
// goes round: what followed the last token before may follow it as often as it does in the prompt, and no three tokens
// that the prompt does not have come twice. Short answers only: this looks at all of both for each token.
static void forbid_loops(const struct slot *s, float *logits) {
    const struct job *j = s->job;
    int32_t read = j->r->prompt_count, made = s->cache_count - read;
    const llama_token *prompt = s->cache, *answer = s->cache + read;
    if (made < 2)
        return;
    llama_token next[3] = {answer[made - 2], answer[made - 1]};
    for (int32_t i = 1; i < made; i++) {
        if (answer[i - 1] != next[1])
            continue;
        next[2] = answer[i];
        int32_t meant = times(prompt, read, next + 1, 2);
        bool again = meant ? times(answer, made, next + 1, 2) >= meant : times(answer, made, next, 3) > 0;
        if (again)
            logits[next[2]] = -INFINITY;
    }
}

static void sample(struct engine *e, struct slot *s) {
    struct job *j = s->job;
    float *logits = llama_get_logits_ith(e->g->context, j->index);
    struct host_prob p = {.best = -1};
    if (logits)
        host_prob(logits, e->vocab_count, &p);
    if (p.best < 0) {
        fail_request(e, j->r, TD_ERR_UPSTREAM_GARBAGE, "the model computed no numbers");
        return;
    }
    if (j->own_max != UINT32_MAX && !j->greedy)
        forbid_loops(s, logits); // after host_prob: the probabilities told are the model's own
    llama_token token = j->greedy ? p.best : host_sampler_next(j->sampler, e->g->context, j->index);
    if (token < 0 || token >= e->vocab_count) {
        if (host_was_short_of_memory())
            fail_request(e, j->r, TD_ERR_HOST_MEMORY, "no memory for the next token");
        else
            fail_request(e, j->r, TD_ERR_UPSTREAM_GARBAGE, "no token of the model fits the demanded form");
        return;
    }
    take_token(e, s, token, logits, &p);
}

// ---- slots

static int32_t common_prefix(const struct slot *s, const struct host_request *r) {
    int32_t most = s->cache_count < r->prompt_count - 1 ? s->cache_count : r->prompt_count - 1, n = 0;
    while (n < most && s->cache[n] == r->prompt[n])
        n++;
    return n;
}

// How much of `have` tokens in a sequence can really be kept when it is cut back to `keep`.
static int32_t keepable(struct engine *e, uint32_t seq, int32_t have, int32_t keep) {
    llama_memory_t memory = llama_get_memory(e->g->context);
    if (keep == 0 || (e->recurrent && keep != have))
        return 0;
    if (e->swa && llama_memory_seq_pos_min(memory, (llama_seq_id)seq) > (keep > e->swa ? keep - e->swa : 0))
        return 0;
    return keep;
}

static void cut_back(struct engine *e, uint32_t seq, int32_t keep) {
    llama_memory_t memory = llama_get_memory(e->g->context);
    struct slot *s = &e->slots[seq];
    keep = keepable(e, seq, s->cache_count, keep);
    if (!llama_memory_seq_rm(memory, (llama_seq_id)seq, keep, -1)) {
        llama_memory_seq_rm(memory, (llama_seq_id)seq, -1, -1);
        keep = 0;
    }
    s->cache_count = keep;
}

static struct slot *choose_slot(struct engine *e, const struct host_request *r, int32_t *shared) {
    struct host_place places[HOST_PARALLEL_MAX];
    for (uint32_t i = 0; i < e->slot_count; i++) {
        const struct slot *s = &e->slots[i];
        int32_t n = s->job ? 0 : common_prefix(s, r);
        n = n < 8 ? 0 : n; // a common first token says nothing
        places[i] = (struct host_place){s->job != NULL, s->cache_count, n, s->used};
    }
    int32_t best = host_place_choose(places, e->slot_count);
    *shared = best < 0 ? 0 : places[best].shared;
    return best < 0 ? NULL : &e->slots[best];
}

static void take_prefix(struct engine *e, struct slot *s, const struct host_request *r, int32_t shared) {
    uint32_t seq = (uint32_t)(s - e->slots);
    struct slot *from = NULL;
    for (uint32_t i = 0; i < e->slot_count && !e->recurrent && !e->swa; i++) {
        int32_t n = e->slots[i].job ? common_prefix(&e->slots[i], r) : 0;
        if (n >= shared + COPY_TOKENS_MIN) {
            from = &e->slots[i];
            shared = n;
        }
    }
    if (from) {
        llama_memory_t memory = llama_get_memory(e->g->context);
        llama_memory_seq_rm(memory, (llama_seq_id)seq, -1, -1);
        llama_memory_seq_cp(memory, (llama_seq_id)(from - e->slots), (llama_seq_id)seq, -1, -1);
        memcpy(s->cache, from->cache, (size_t)from->cache_count * sizeof *s->cache);
        s->cache_count = from->cache_count;
    }
    cut_back(e, seq, shared);
}

// How long an answer may get by the model's own word, UINT32_MAX any length. The word is about calls, whose text is
// copied from the prompt; without tools such a model says a sentence of its own, whatever it was asked.
static uint32_t own_max(const struct engine *e, const struct host_request *r) {
    if (!r->turn || !e->g->beyond_prompt || r->formed)
        return UINT32_MAX;
    uint32_t most = (uint32_t)r->prompt_count + e->g->beyond_prompt;
    return !r->calls && most < SENTENCE_TOKENS ? SENTENCE_TOKENS : most;
}

static bool admit(struct engine *e, struct host_request *r) {
    int32_t shared;
    struct td_error error = {TD_OK, ""};
    struct slot *s = choose_slot(e, r, &shared);
    if (!s)
        return false;
    struct job *j = td_calloc(1, sizeof *j);
    if (!j) {
        fail_request(e, r, TD_ERR_NOMEM, "out of memory");
        return true;
    }
    s->job = j;
    *j = (struct job){.r = r, .choice = r->choices_started++, .index = -1, .last = -1};
    td_buf_init(&j->text, TD_HOST_FRAME_BYTES_MAX / 2);
    td_buf_init(&j->tokens, TD_HOST_FRAME_BYTES_MAX / 4);
    struct host_sampling sampling = r->sampling;
    if (sampling.seed >= 0)
        sampling.seed += j->choice;
    enum td_err err = host_sampler_create(e->g->model, r->turn, &sampling, &j->sampler, &j->greedy, &error);
    if (err == TD_OK && r->turn && !(j->parser = host_parser_create(r->turn)))
        err = td_error_set(&error, TD_ERR_NOMEM, "out of memory");
    if (err) {
        fail_request(e, r, err, error.message);
        free_job(s);
        return true;
    }
    take_prefix(e, s, r, shared);
    j->read = s->cache_count;
    j->max = r->max_tokens ? r->max_tokens : UINT32_MAX;
    j->own_max = own_max(e, r);
    if (j->choice == 0)
        r->cached_tokens = (uint32_t)s->cache_count;
    return true;
}

static void put_start(struct engine *e, struct host_request *r) {
    struct td_proto_writer w;
    td_proto_begin(&w, &e->out, TD_FRAME_START, r->id);
    td_proto_str(&w, td_str_of(e->g->name));
    td_proto_u32(&w, !r->turn ? 0 : host_turn_known(r->turn) ? TD_PROTO_START_KNOWN : TD_PROTO_START_MADE);
    if (td_proto_end(&w) != TD_OK)
        fail_request(e, r, TD_ERR_NOMEM, "out of memory");
    send_out(e, r);
    r->started = true;
}

// ---- embeddings

static enum td_err open_embedder(struct engine *e) {
    if (e->embedder)
        return TD_OK;
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = p.n_batch = p.n_ubatch = (uint32_t)e->context;
    p.n_seq_max = 1;
    p.n_threads = p.n_threads_batch = (int32_t)e->g->ready.threads;
    p.embeddings = true;
    e->embedder = llama_init_from_model(e->g->model, p);
    if (e->embedder && llama_pooling_type(e->embedder) == LLAMA_POOLING_TYPE_NONE) {
        // A generative model: the mean over all tokens is what is usual.
        llama_free(e->embedder);
        p.pooling_type = LLAMA_POOLING_TYPE_MEAN;
        e->embedder = llama_init_from_model(e->g->model, p);
    }
    return e->embedder ? TD_OK : TD_ERR_NOMEM;
}

static void embed_next(struct engine *e, struct host_request *r) {
    if (open_embedder(e) != TD_OK) {
        (void)host_was_short_of_memory(); // it is said
        fail_request(e, r, TD_ERR_HOST_MEMORY, "no memory for the embedding context");
        return;
    }
    struct host_tokens *t = &r->inputs[r->inputs_done];
    llama_memory_t memory = llama_get_memory(e->embedder);
    if (memory)
        llama_memory_clear(memory, true);
    struct llama_batch b = llama_batch_init(t->count, 0, 1);
    b.n_tokens = t->count;
    for (int32_t i = 0; i < t->count; i++) {
        b.token[i] = t->tokens[i];
        b.pos[i] = i;
        b.n_seq_id[i] = 1;
        b.seq_id[i][0] = 0;
        b.logits[i] = 1;
    }
    int rc = llama_decode(e->embedder, b);
    llama_batch_free(b);
    const float *v = rc == 0 ? llama_get_embeddings_seq(e->embedder, 0) : NULL;
    int32_t n = llama_model_n_embd_out(e->g->model);
    double length = 0;
    for (int32_t i = 0; v && i < n; i++)
        length += (double)v[i] * v[i];
    if (!v || !isfinite(length)) {
        fail_request(e, r, TD_ERR_UPSTREAM_GARBAGE, "the model computed no vector");
        return;
    }
    length = length > 0 ? 1 / sqrt(length) : 0;
    struct td_proto_writer w;
    td_proto_begin(&w, &e->out, TD_FRAME_EMBEDDING, r->id);
    td_proto_u32(&w, r->inputs_done);
    td_proto_u32(&w, (uint32_t)n);
    for (int32_t i = 0; i < n; i++)
        td_proto_f32(&w, (float)(v[i] * length));
    if (td_proto_end(&w) != TD_OK)
        fail_request(e, r, TD_ERR_NOMEM, "out of memory");
    spend_credit(r);
    send_out(e, r);
    e->decoded += (uint64_t)t->count;
    if (++r->inputs_done == r->input_count && !r->dead) {
        uint32_t total = 0;
        for (uint32_t i = 0; i < r->input_count; i++)
            total += (uint32_t)r->inputs[i].count;
        put_usage(e, r, total);
        put_end(e, r);
    }
}

// ---- the turn

static void beat(struct engine *e, uint32_t requests) {
    struct td_proto_writer w;
    td_proto_begin(&w, &e->out, TD_FRAME_BEAT, 0);
    td_proto_u32(&w, requests);
    td_proto_u64(&w, e->decoded);
    if (td_proto_end(&w) == TD_OK)
        host_send(e->g, &e->g->conns[0], &e->out);
    td_buf_clear(&e->out);
}

// Frees what ended or was cancelled. With the lock held, for the list is shared.
static void sweep(struct engine *e) {
    for (uint32_t i = 0; i < e->slot_count; i++) {
        struct job *j = e->slots[i].job;
        if (j && (j->r->dead || atomic_load(&j->r->cancelled)))
            free_job(&e->slots[i]);
    }
    for (struct host_request **at = &e->g->requests; *at;) {
        struct host_request *r = *at;
        if (r->dead || atomic_load(&r->cancelled)) {
            *at = r->next;
            host_request_free(r);
        } else {
            at = &r->next;
        }
    }
}

// The next request with something to take up: interactive ones first, in order of arrival.
static struct host_request *next_waiting(struct engine *e) {
    struct host_request *best = NULL;
    for (struct host_request *r = e->g->requests; r; r = r->next) {
        if (r->dead || r->kind == TD_KIND_EMBEDDING || r->choices_started == r->choices)
            continue;
        // Further choices copy the first one's prompt: they wait until it has been read.
        bool early = false;
        for (uint32_t i = 0; i < e->slot_count && r->choices_started; i++)
            early |= e->slots[i].job && e->slots[i].job->r == r && e->slots[i].job->read < r->prompt_count;
        if (!early && (!best || r->priority < best->priority))
            best = r;
    }
    return best;
}

static struct host_request *next_embedding(struct engine *e) {
    for (struct host_request *r = e->g->requests; r; r = r->next)
        if (!r->dead && r->kind == TD_KIND_EMBEDDING && atomic_load(&r->credits))
            return r;
    return NULL;
}

static bool can_run(const struct job *j) {
    return j && !j->r->dead && atomic_load(&j->r->credits) > 0;
}

static bool has_free_slot(const struct engine *e) {
    for (uint32_t i = 0; i < e->slot_count; i++)
        if (!e->slots[i].job)
            return true;
    return false;
}

static bool has_work(struct engine *e) {
    for (uint32_t i = 0; i < e->slot_count; i++)
        if (can_run(e->slots[i].job))
            return true;
    if (has_free_slot(e) && next_waiting(e))
        return true;
    return next_embedding(e) != NULL;
}

static void add_to_batch(struct engine *e, llama_token token, int32_t pos, uint32_t seq, bool logits) {
    struct llama_batch *b = &e->batch;
    int32_t i = b->n_tokens++;
    b->token[i] = token;
    b->pos[i] = pos;
    b->n_seq_id[i] = 1;
    b->seq_id[i][0] = (llama_seq_id)seq;
    b->logits[i] = logits;
}

static int32_t prompt_budget(const struct engine *e, bool others) {
    double n = e->tokens_per_ms * (others ? CHUNK_MS / 2 : CHUNK_MS);
    if (n >= HOST_CHUNK_MAX)
        return HOST_CHUNK_MAX;
    return n < CHUNK_TOKENS_MIN ? CHUNK_TOKENS_MIN : (int32_t)n / CHUNK_TOKENS_MIN * CHUNK_TOKENS_MIN;
}

static void add_last(struct engine *e, uint32_t i) {
    struct slot *s = &e->slots[i];
    s->job->index = e->batch.n_tokens;
    s->cache[s->cache_count] = s->job->last;
    add_to_batch(e, s->job->last, s->cache_count++, i, true);
}

static void add_prompt(struct engine *e, uint32_t i, int32_t *left) {
    struct slot *s = &e->slots[i];
    struct job *j = s->job;
    for (; *left > 0 && j->read < j->r->prompt_count; --*left) {
        bool last = j->read + 1 == j->r->prompt_count;
        if (last)
            j->index = e->batch.n_tokens;
        s->cache[s->cache_count] = j->r->prompt[j->read++];
        add_to_batch(e, s->cache[s->cache_count], s->cache_count, i, last);
        s->cache_count++;
    }
}

// In the order of the slots (place.h says why). Returns how many prompt tokens are in the batch.
static int32_t build_batch(struct engine *e) {
    bool generating = false;
    e->batch.n_tokens = 0;
    for (uint32_t i = 0; i < e->slot_count; i++)
        generating |= can_run(e->slots[i].job) && e->slots[i].job->last >= 0;
    int32_t budget = prompt_budget(e, generating), left = budget;
    for (uint32_t i = 0; i < e->slot_count; i++) {
        struct job *j = e->slots[i].job;
        if (j)
            j->index = -1;
        if (!can_run(j))
            continue;
        if (j->last >= 0)
            add_last(e, i);
        else if (left > 0 && j->read < j->r->prompt_count)
            add_prompt(e, i, &left);
        else
            continue;
        e->slots[i].used = e->turn;
    }
    return budget - left;
}

static void decode_turn(struct engine *e) {
    int32_t prompt_tokens = build_batch(e);
    if (e->batch.n_tokens == 0)
        return;
    double start = now_ms();
    int rc = llama_decode(e->g->context, e->batch);
    if (rc != 0) {
        bool memory = host_was_short_of_memory() || rc == 1;
        for (uint32_t i = 0; i < e->slot_count; i++) {
            if (!e->slots[i].job)
                continue;
            fail_request(e, e->slots[i].job->r, memory ? TD_ERR_HOST_MEMORY : TD_ERR_INTERNAL,
                         "the model could not decode");
            cut_back(e, i, 0);
        }
        return;
    }
    double took = now_ms() - start;
    if (prompt_tokens >= CHUNK_TOKENS_MIN && took > 0.01)
        e->tokens_per_ms = prompt_tokens / took;
    e->decoded += (uint64_t)e->batch.n_tokens;
    for (uint32_t i = 0; i < e->slot_count; i++)
        if (e->slots[i].job && e->slots[i].job->index >= 0 && !e->slots[i].job->r->dead)
            sample(e, &e->slots[i]);
}

// With the lock held; lets go of it while it waits.
static void wait_for_work(struct engine *e) {
    struct host_guest *g = e->g;
    while (sweep(e), g->pinged || !has_work(e)) {
        if (!g->pinged) {
            host_leave_if_starved(g);
            pthread_cond_wait(&g->work, &g->lock);
            continue;
        }
        uint32_t requests = 0;
        for (const struct host_request *r = g->requests; r; r = r->next)
            requests++;
        g->pinged = false;
        pthread_mutex_unlock(&g->lock);
        beat(e, requests);
        pthread_mutex_lock(&g->lock);
    }
}

static void run_turn(struct engine *e) {
    struct host_request *r;
    struct host_guest *g = e->g;
    pthread_mutex_lock(&g->lock);
    wait_for_work(e);
    e->turn++;
    while (has_free_slot(e) && (r = next_waiting(e))) {
        pthread_mutex_unlock(&g->lock);
        if (!r->started)
            put_start(e, r);
        admit(e, r);
        pthread_mutex_lock(&g->lock);
    }
    r = next_embedding(e);
    pthread_mutex_unlock(&g->lock);
    if (r) {
        if (!r->started)
            put_start(e, r);
        if (!r->dead)
            embed_next(e, r);
    }
    if (g->context)
        decode_turn(e);
}

static bool open_engine(struct engine *e, struct host_guest *g) {
    *e = (struct engine){.g = g, .vocab_count = llama_vocab_n_tokens(g->vocab)};
    e->context = (int32_t)g->ready.context;
    e->slot_count = g->context ? g->ready.parallel : 0;
    e->swa = llama_model_n_swa(g->model);
    e->recurrent = llama_model_is_recurrent(g->model) || llama_model_is_hybrid(g->model);
    // A careful guess until the first prompt was measured: 10 billion multiply-adds a second and thread.
    double params = (double)g->ready.params + 1;
    e->tokens_per_ms = 1e7 * g->ready.threads / params;
    td_buf_init(&e->out, TD_HOST_FRAME_BYTES_MAX);
    e->slots = td_calloc(e->slot_count, sizeof *e->slots);
    e->batch = llama_batch_init(HOST_CHUNK_MAX + HOST_PARALLEL_MAX, 0, 1);
    if (!e->slots)
        return false;
    for (uint32_t i = 0; i < e->slot_count; i++)
        if (!(e->slots[i].cache = td_calloc((size_t)e->context + HOST_CHUNK_MAX, sizeof(llama_token))))
            return false;
    return true;
}

void *host_engine_run(void *guest) {
    struct engine e;
    if (!open_engine(&e, guest))
        _exit(70);
    for (;;)
        run_turn(&e);
    return NULL;
}
