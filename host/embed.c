// SPDX-License-Identifier: Apache-2.0
// Embeddings: one input at a time, in a context of their own.
#include "host/engine.h"

#include <math.h>

static enum td_err open_embedder(struct host_engine *e) {
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

void host_embed_next(struct host_engine *e, struct host_request *r) {
    if (open_embedder(e) != TD_OK) {
        (void)host_was_short_of_memory(); // it is said
        host_fail_request(e, r, TD_ERR_HOST_MEMORY, "no memory for the embedding context");
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
        host_fail_request(e, r, TD_ERR_UPSTREAM_GARBAGE, "the model computed no vector");
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
        host_fail_request(e, r, TD_ERR_NOMEM, "out of memory");
    host_spend_credit(r);
    host_send_out(e, r);
    e->decoded += (uint64_t)t->count;
    if (++r->inputs_done == r->input_count && !r->dead) {
        uint32_t total = 0;
        for (uint32_t i = 0; i < r->input_count; i++)
            total += (uint32_t)r->inputs[i].count;
        host_put_usage(e, r, total);
        host_put_end(e, r);
    }
}
