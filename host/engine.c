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
#include "host/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/time.h"
#include "host/place.h"

#define CHUNK_MS 60.0       // of prompt, while nobody else is generating; half where somebody is
#define CHUNK_TOKENS_MIN 16 // below it the batch's fixed cost dominates
#define COPY_TOKENS_MIN 64  // a busy sequence is copied for a common prefix at least so long
#define SENTENCE_TOKENS 32  // of a model that copies its answers, where there is nothing to copy

static double now_ms(void) {
    return (double)td_now_ns() / 1e6;
}

// ---- jobs

static void free_job(struct host_slot *s) {
    struct host_job *j = s->job;
    if (!j)
        return;
    host_sampler_destroy(j->sampler);
    host_parser_destroy(j->parser);
    td_buf_finish(&j->text);
    td_buf_finish(&j->tokens);
    td_free(j);
    s->job = NULL;
}

static void finish_job(struct host_engine *e, struct host_slot *s, enum td_finish reason) {
    struct host_job *j = s->job;
    struct host_request *r = j->r;
    while (j->half_count) {
        j->half_count--;
        if (td_buf_addz(&j->text, "\xef\xbf\xbd") != TD_OK)
            break;
    }
    enum td_err err = host_hand_out(e, j, true, reason == TD_FINISH_LENGTH);
    if (err != TD_OK) {
        host_fail_request(e, r, err,
                          err == TD_ERR_NOMEM ? "out of memory"
                                              : "the model's answer does not have the form its template promises");
    } else {
        struct td_proto_writer w;
        if (reason == TD_FINISH_STOP && j->parser && host_parser_has_tools(j->parser))
            reason = TD_FINISH_TOOL_CALLS;
        td_proto_begin(&w, &e->out, TD_FRAME_FINISH, r->id);
        td_proto_u32(&w, j->choice);
        td_proto_u32(&w, reason);
        host_put_tokens(&w, j);
        if (td_proto_end(&w) != TD_OK)
            host_fail_request(e, r, TD_ERR_NOMEM, "out of memory");
    }
    if (++r->choices_done == r->choices && !r->dead) {
        host_put_usage(e, r, (uint32_t)r->prompt_count);
        host_put_end(e, r);
    } else {
        host_send_out(e, r);
    }
    free_job(s);
}

static void take_token(struct host_engine *e, struct host_slot *s, llama_token token, const float *logits,
                       const struct host_prob *p) {
    struct host_job *j = s->job;
    char small[256], *piece;
    j->produced++;
    j->r->completion_tokens++;
    if (host_record_token(e, j, logits, token, p) != TD_OK) {
        host_fail_request(e, j->r, TD_ERR_NOMEM, "out of memory");
        return;
    }
    if (llama_vocab_is_eog(e->g->vocab, token)) {
        finish_job(e, s, TD_FINISH_STOP);
        return;
    }
    size_t before = j->text.n;
    int n = host_piece_of(e, j, token, &piece, small);
    enum td_err err = n > 0 ? host_add_text(j, piece, (size_t)n) : TD_OK;
    if (piece != small)
        td_free(piece);
    if (err) {
        host_fail_request(e, j->r, err, "the answer is too long to be kept");
        return;
    }
    j->last = token;
    if (host_cut_at_stop(j, before))
        finish_job(e, s, TD_FINISH_STOP);
    else if (j->produced >= j->max || s->cache_count + 1 >= e->context)
        finish_job(e, s, TD_FINISH_LENGTH);
    else if (j->produced >= j->own_max)
        host_fail_request(e, j->r, TD_ERR_NOT_FOR_ME, "the model found no end to its answer");
    else if (j->own_max == UINT32_MAX && host_hand_out(e, j, false, false) == TD_OK)
        host_send_out(e, j->r);
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
static void forbid_loops(const struct host_slot *s, float *logits) {
    const struct host_job *j = s->job;
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

static void sample(struct host_engine *e, struct host_slot *s) {
    struct host_job *j = s->job;
    float *logits = llama_get_logits_ith(e->g->context, j->index);
    struct host_prob p = {.best = -1};
    if (logits)
        host_prob(logits, e->vocab_count, &p);
    if (p.best < 0) {
        host_fail_request(e, j->r, TD_ERR_UPSTREAM_GARBAGE, "the model computed no numbers");
        return;
    }
    if (j->own_max != UINT32_MAX && !j->greedy)
        forbid_loops(s, logits); // after host_prob: the probabilities told are the model's own
    llama_token token = j->greedy ? p.best : host_sampler_next(j->sampler, e->g->context, j->index);
    if (token < 0 || token >= e->vocab_count) {
        if (host_was_short_of_memory())
            host_fail_request(e, j->r, TD_ERR_HOST_MEMORY, "no memory for the next token");
        else
            host_fail_request(e, j->r, TD_ERR_UPSTREAM_GARBAGE, "no token of the model fits the demanded form");
        return;
    }
    take_token(e, s, token, logits, &p);
}

// ---- slots

static int32_t common_prefix(const struct host_slot *s, const struct host_request *r) {
    int32_t most = s->cache_count < r->prompt_count - 1 ? s->cache_count : r->prompt_count - 1, n = 0;
    while (n < most && s->cache[n] == r->prompt[n])
        n++;
    return n;
}

// How much of `have` tokens in a sequence can really be kept when it is cut back to `keep`.
static int32_t keepable(struct host_engine *e, uint32_t seq, int32_t have, int32_t keep) {
    llama_memory_t memory = llama_get_memory(e->g->context);
    if (keep == 0 || (e->recurrent && keep != have))
        return 0;
    if (e->swa && llama_memory_seq_pos_min(memory, (llama_seq_id)seq) > (keep > e->swa ? keep - e->swa : 0))
        return 0;
    return keep;
}

static void cut_back(struct host_engine *e, uint32_t seq, int32_t keep) {
    llama_memory_t memory = llama_get_memory(e->g->context);
    struct host_slot *s = &e->slots[seq];
    keep = keepable(e, seq, s->cache_count, keep);
    if (!llama_memory_seq_rm(memory, (llama_seq_id)seq, keep, -1)) {
        llama_memory_seq_rm(memory, (llama_seq_id)seq, -1, -1);
        keep = 0;
    }
    s->cache_count = keep;
}

static struct host_slot *choose_slot(struct host_engine *e, const struct host_request *r, int32_t *shared) {
    struct host_place places[HOST_PARALLEL_MAX];
    for (uint32_t i = 0; i < e->slot_count; i++) {
        const struct host_slot *s = &e->slots[i];
        int32_t n = s->job ? 0 : common_prefix(s, r);
        n = n < 8 ? 0 : n; // a common first token says nothing
        places[i] = (struct host_place){s->job != NULL, s->cache_count, n, s->used};
    }
    int32_t best = host_place_choose(places, e->slot_count);
    *shared = best < 0 ? 0 : places[best].shared;
    return best < 0 ? NULL : &e->slots[best];
}

static void take_prefix(struct host_engine *e, struct host_slot *s, const struct host_request *r, int32_t shared) {
    uint32_t seq = (uint32_t)(s - e->slots);
    struct host_slot *from = NULL;
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
static uint32_t own_max(const struct host_engine *e, const struct host_request *r) {
    if (!r->turn || !e->g->beyond_prompt || r->formed)
        return UINT32_MAX;
    uint32_t most = (uint32_t)r->prompt_count + e->g->beyond_prompt;
    return !r->calls && most < SENTENCE_TOKENS ? SENTENCE_TOKENS : most;
}

static bool admit(struct host_engine *e, struct host_request *r) {
    int32_t shared;
    struct td_error error = {TD_OK, ""};
    struct host_slot *s = choose_slot(e, r, &shared);
    if (!s)
        return false;
    struct host_job *j = td_calloc(1, sizeof *j);
    if (!j) {
        host_fail_request(e, r, TD_ERR_NOMEM, "out of memory");
        return true;
    }
    s->job = j;
    *j = (struct host_job){.r = r, .choice = r->choices_started++, .index = -1, .last = -1};
    td_buf_init(&j->text, TD_HOST_FRAME_BYTES_MAX / 2);
    td_buf_init(&j->tokens, TD_HOST_FRAME_BYTES_MAX / 4);
    struct host_sampling sampling = r->sampling;
    if (sampling.seed >= 0)
        sampling.seed += j->choice;
    enum td_err err = host_sampler_create(e->g->model, r->turn, &sampling, &j->sampler, &j->greedy, &error);
    if (err == TD_OK && r->turn && !(j->parser = host_parser_create(r->turn)))
        err = td_error_set(&error, TD_ERR_NOMEM, "out of memory");
    if (err) {
        host_fail_request(e, r, err, error.message);
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

static void put_start(struct host_engine *e, struct host_request *r) {
    struct td_proto_writer w;
    td_proto_begin(&w, &e->out, TD_FRAME_START, r->id);
    td_proto_str(&w, td_str_of(e->g->name));
    td_proto_u32(&w, !r->turn ? 0 : host_turn_known(r->turn) ? TD_PROTO_START_KNOWN : TD_PROTO_START_MADE);
    if (td_proto_end(&w) != TD_OK)
        host_fail_request(e, r, TD_ERR_NOMEM, "out of memory");
    host_send_out(e, r);
    r->started = true;
}

// ---- the turn

static void beat(struct host_engine *e, uint32_t requests) {
    struct td_proto_writer w;
    td_proto_begin(&w, &e->out, TD_FRAME_BEAT, 0);
    td_proto_u32(&w, requests);
    td_proto_u64(&w, e->decoded);
    if (td_proto_end(&w) == TD_OK)
        host_send(e->g, &e->g->conns[0], &e->out);
    td_buf_clear(&e->out);
}

// Frees what ended or was cancelled. With the lock held, for the list is shared.
static void sweep(struct host_engine *e) {
    for (uint32_t i = 0; i < e->slot_count; i++) {
        struct host_job *j = e->slots[i].job;
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
static struct host_request *next_waiting(struct host_engine *e) {
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

static struct host_request *next_embedding(struct host_engine *e) {
    for (struct host_request *r = e->g->requests; r; r = r->next)
        if (!r->dead && r->kind == TD_KIND_EMBEDDING && atomic_load(&r->credits))
            return r;
    return NULL;
}

static bool can_run(const struct host_job *j) {
    return j && !j->r->dead && atomic_load(&j->r->credits) > 0;
}

static bool has_free_slot(const struct host_engine *e) {
    for (uint32_t i = 0; i < e->slot_count; i++)
        if (!e->slots[i].job)
            return true;
    return false;
}

static bool has_work(struct host_engine *e) {
    for (uint32_t i = 0; i < e->slot_count; i++)
        if (can_run(e->slots[i].job))
            return true;
    if (has_free_slot(e) && next_waiting(e))
        return true;
    return next_embedding(e) != NULL;
}

static void add_to_batch(struct host_engine *e, llama_token token, int32_t pos, uint32_t seq, bool logits) {
    struct llama_batch *b = &e->batch;
    int32_t i = b->n_tokens++;
    b->token[i] = token;
    b->pos[i] = pos;
    b->n_seq_id[i] = 1;
    b->seq_id[i][0] = (llama_seq_id)seq;
    b->logits[i] = logits;
}

static int32_t prompt_budget(const struct host_engine *e, bool others) {
    double n = e->tokens_per_ms * (others ? CHUNK_MS / 2 : CHUNK_MS);
    if (n >= HOST_CHUNK_MAX)
        return HOST_CHUNK_MAX;
    return n < CHUNK_TOKENS_MIN ? CHUNK_TOKENS_MIN : (int32_t)n / CHUNK_TOKENS_MIN * CHUNK_TOKENS_MIN;
}

static void add_last(struct host_engine *e, uint32_t i) {
    struct host_slot *s = &e->slots[i];
    s->job->index = e->batch.n_tokens;
    s->cache[s->cache_count] = s->job->last;
    add_to_batch(e, s->job->last, s->cache_count++, i, true);
}

static void add_prompt(struct host_engine *e, uint32_t i, int32_t *left) {
    struct host_slot *s = &e->slots[i];
    struct host_job *j = s->job;
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
static int32_t build_batch(struct host_engine *e) {
    bool generating = false;
    e->batch.n_tokens = 0;
    for (uint32_t i = 0; i < e->slot_count; i++)
        generating |= can_run(e->slots[i].job) && e->slots[i].job->last >= 0;
    int32_t budget = prompt_budget(e, generating), left = budget;
    for (uint32_t i = 0; i < e->slot_count; i++) {
        struct host_job *j = e->slots[i].job;
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

static void decode_turn(struct host_engine *e) {
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
            host_fail_request(e, e->slots[i].job->r, memory ? TD_ERR_HOST_MEMORY : TD_ERR_INTERNAL,
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
static void wait_for_work(struct host_engine *e) {
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

static void run_turn(struct host_engine *e) {
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
            host_embed_next(e, r);
    }
    if (g->context)
        decode_turn(e);
}

static bool open_engine(struct host_engine *e, struct host_guest *g) {
    *e = (struct host_engine){.g = g, .vocab_count = llama_vocab_n_tokens(g->vocab)};
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
    struct host_engine e;
    if (!open_engine(&e, guest))
        _exit(HOST_EXIT_SETUP);
    for (;;)
        run_turn(&e);
    return NULL;
}
