// SPDX-License-Identifier: Apache-2.0
// Quantises a GGUF with libllama, and is the small C side of evaluate.py.
//   quantise IN.gguf OUT.gguf
#include <ggml-backend.h>
#include <llama.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static struct llama_model *model;
static struct llama_context *ctx;

static void quiet(enum ggml_log_level level, const char *text, void *arg) {
    (void)arg;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

int shim_load(const char *lib_dir, const char *path, int threads) {
    llama_log_set(quiet, NULL);
    ggml_backend_load_all_from_path(lib_dir);
    llama_backend_init();
    struct llama_model_params mp = llama_model_default_params();
    model = llama_model_load_from_file(path, mp);
    if (model == NULL)
        return 1;
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = 1024;
    cp.n_batch = 1024;
    cp.n_threads = threads;
    cp.n_threads_batch = threads;
    cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    ctx = llama_init_from_model(model, cp);
    return ctx == NULL;
}

int shim_n_vocab(void) {
    return llama_vocab_n_tokens(llama_model_get_vocab(model));
}

int shim_tokenize(const char *text, int len, int *out, int max) {
    return llama_tokenize(llama_model_get_vocab(model), text, len, out, max, false, true);
}

static int times(const int *part, int count, const int *t, int n) {
    int found = 0;
    for (int i = 0; i + n <= count; i++)
        found += memcmp(part + i, t, (size_t)n * sizeof *t) == 0;
    return found;
}

// What the model host forbids a model that copies (host/PROTOCOL.md): `token` would lead the answer round in a circle.
static bool circles(const int *prompt, int n, const int *out, int made, int token) {
    if (made < 2)
        return false;
    int next[3] = {out[made - 2], out[made - 1], token};
    int meant = times(prompt, n, next + 1, 2);
    return meant ? times(out, made, next + 1, 2) >= meant : times(out, made, next, 3) > 0;
}

// Greedy decoding; prob[i] is the probability of out[i]. Returns the number of tokens, the stop token left out.
int shim_run(int *prompt, int n, int max_new, int *out, float *prob, int stop, int n_vocab) {
    llama_memory_clear(llama_get_memory(ctx), true);
    struct llama_batch b = llama_batch_get_one(prompt, n);
    int made = 0;
    for (;;) {
        if (llama_decode(ctx, b))
            return -1;
        float *l = llama_get_logits_ith(ctx, -1);
        int best;
        float most = l[0];
        double z = 0;
        for (int i = 1; i < n_vocab; i++)
            most = l[i] > most ? l[i] : most;
        for (int i = 0; i < n_vocab; i++)
            z += exp((double)(l[i] - most));
        for (;;) {
            best = 0;
            for (int i = 1; i < n_vocab; i++)
                if (l[i] > l[best])
                    best = i;
            if (best == stop || !circles(prompt, n, out, made, best))
                break;
            l[best] = -INFINITY;
        }
        if (best == stop || made == max_new)
            return made;
        prob[made] = (float)(exp((double)(l[best] - most)) / z);
        out[made] = best;
        b = llama_batch_get_one(&out[made], 1);
        made++;
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: quantise IN.gguf OUT.gguf\n");
        return 2;
    }
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model_quantize_params p = llama_model_quantize_default_params();
    p.ftype = LLAMA_FTYPE_MOSTLY_Q8_0;
    p.nthread = 1;
    return llama_model_quantize(argv[1], argv[2], &p) != 0;
}
