// SPDX-License-Identifier: Apache-2.0
// The guest's answers against libllama driven directly in this process: greedy, token for token, alone and in a batch.
#include "unit.h"

#include <llama.h>
#include <math.h>

#include "base/log.h"
#include "host/backends.h"
#include "local.h"

#define WAIT_MS 30000
#define TOKENS 48

static const char *host, *gguf, *q8;
static struct house h;
static struct llama_model *model;
static struct llama_context *context;

static void no_log(enum ggml_log_level level, const char *text, void *arg) {
    (void)level, (void)text, (void)arg;
}

static void load(void) {
    llama_log_set(no_log, NULL);
    host_backends_load();
    model = llama_model_load_from_file(gguf, llama_model_default_params());
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = 512;
    p.n_threads = p.n_threads_batch = 1;
    context = llama_init_from_model(model, p);
    assert_non_null(context);
}

// The likeliest next token, TOKENS times, as bytes.
static void direct(const char *prompt, struct td_buf *out) {
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    llama_token tokens[1024];
    int32_t n = llama_tokenize(vocab, prompt, (int32_t)strlen(prompt), tokens, 1024, true, true);
    assert_true(n > 0);
    llama_memory_clear(llama_get_memory(context), true);
    assert_int_equal(llama_decode(context, llama_batch_get_one(tokens, n)), 0);
    for (int i = 0; i < TOKENS; i++) {
        const float *logits = llama_get_logits_ith(context, -1);
        llama_token best = 0;
        for (llama_token t = 1; t < llama_vocab_n_tokens(vocab); t++)
            if (logits[t] > logits[best])
                best = t;
        if (llama_vocab_is_eog(vocab, best))
            break;
        char piece[64];
        int bytes = llama_token_to_piece(vocab, best, piece, sizeof piece, 0, false);
        assert_true(bytes >= 0);
        assert_ok(td_buf_add(out, piece, (size_t)bytes));
        assert_int_equal(llama_decode(context, llama_batch_get_one(&best, 1)), 0);
    }
}

static const char *const prompts[] = {
    "hello", "the quick brown fox jumps over the lazy dog", "x", "0123456789 and so on, with \xc3\xa4\xc3\xb6\xc3\xbc",
    "a longer beginning, so that more than one chunk of the prompt has to be read: bababa dedede gigigi kokoko lululu "
    "mamama nenene pipipi rororo sususu tatata vevevev zizizi bababa dedede gigigi kokoko lululu mamama nenene pipipi"};
enum { PROMPTS = sizeof prompts / sizeof *prompts };

static void body_of(const char *prompt, char body[1024]) {
    snprintf(body, 1024, "{\"prompt\":\"%s\",\"max_tokens\":%d,\"temperature\":0,\"logprobs\":2}", prompt, TOKENS);
}

static void one_request_gives_the_same_tokens(void **state) {
    (void)state;
    for (int i = 0; i < PROMPTS; i++) {
        struct td_buf want;
        struct ask a;
        char body[1024];
        td_buf_init(&want, 1 << 20);
        direct(prompts[i], &want);
        body_of(prompts[i], body);
        ask_open(&a, &h, gguf, TD_KIND_COMPLETION, body);
        assert_true(ask_all(&a, WAIT_MS));
        assert_int_equal(a.error, TD_OK);
        // A token at the end that shows no whole character comes with FINISH, not with text.
        assert_true(a.pieces.n <= want.n && want.n - a.pieces.n < 24);
        assert_memory_equal(a.pieces.p, want.p, a.pieces.n);
        assert_true(a.top_count >= 2 * a.token_count);
        ask_close(&a);
        td_buf_finish(&want);
    }
}

// With weights of 8 bits: float sums may round differently in another batch, and random weights know many near ties.
static void four_at_once_give_what_each_gives_alone(void **state) {
    (void)state;
    struct ask alone[4], together[4];
    char bodies[4][1024];
    for (int i = 0; i < 4; i++) {
        body_of(prompts[i], bodies[i]);
        ask_open(&alone[i], &h, q8, TD_KIND_COMPLETION, bodies[i]);
        assert_true(ask_all(&alone[i], WAIT_MS));
    }
    for (int i = 0; i < 4; i++) {
        ask_open(&together[i], &h, q8, TD_KIND_COMPLETION, bodies[i]);
        assert_ok(ask_start(&together[i]));
    }
    for (int i = 0; i < 4; i++) {
        assert_true(ask_wait(&together[i], WAIT_MS));
        assert_int_equal(together[i].error, TD_OK);
        assert_int_equal(alone[i].text.n, together[i].text.n);
        assert_memory_equal(alone[i].text.p, together[i].text.p, alone[i].text.n);
    }
    for (int i = 0; i < 4; i++) {
        ask_close(&alone[i]);
        ask_close(&together[i]);
    }
}

static void embeddings_are_the_normalised_mean(void **state) {
    (void)state;
    struct ask a;
    const char *text = "hello there";
    llama_token tokens[64];
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = p.n_batch = p.n_ubatch = 512;
    p.n_threads = p.n_threads_batch = 1;
    p.embeddings = true;
    p.pooling_type = LLAMA_POOLING_TYPE_MEAN;
    struct llama_context *c = llama_init_from_model(model, p);
    assert_non_null(c);
    int32_t n = llama_tokenize(llama_model_get_vocab(model), text, (int32_t)strlen(text), tokens, 64, true, false);
    assert_int_equal(llama_decode(c, llama_batch_get_one(tokens, n)), 0);
    const float *want = llama_get_embeddings_seq(c, 0);
    assert_non_null(want);
    ask_open(&a, &h, gguf, TD_KIND_EMBEDDING, "{\"input\":\"hello there\"}");
    assert_true(ask_all(&a, WAIT_MS));
    assert_int_equal(a.error, TD_OK);
    assert_int_equal(a.embeddings, 1);
    assert_int_equal(a.embedding_size, llama_model_n_embd_out(model));
    assert_int_equal(a.usage.prompt_tokens, n);
    double length = 0, of_ours = 0;
    for (uint32_t i = 0; i < a.embedding_size; i++)
        length += (double)want[i] * want[i];
    for (uint32_t i = 0; i < a.embedding_size; i++) {
        of_ours += (double)a.embedding[i] * a.embedding[i];
        assert_true(fabs(want[i] / sqrt(length) - a.embedding[i]) < 1e-5);
    }
    assert_true(fabs(of_ours - 1) < 1e-4);
    ask_close(&a);
    llama_free(c);
}

static void infill_puts_the_models_own_tokens(void **state) {
    (void)state;
    struct ask a, b;
    // The same prompt written out with the special tokens.
    ask_open(&a, &h, gguf, TD_KIND_COMPLETION,
             "{\"prompt\":\"<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>\",\"max_tokens\":12,\"temperature\":0}");
    ask_open(&b, &h, gguf, TD_KIND_COMPLETION,
             "{\"prompt\":\"ab\",\"suffix\":\"cd\",\"max_tokens\":12,\"temperature\":0}");
    assert_true(ask_all(&a, WAIT_MS) && ask_all(&b, WAIT_MS));
    assert_int_equal(a.error, TD_OK);
    assert_int_equal(b.error, TD_OK);
    assert_int_equal(a.usage.prompt_tokens, b.usage.prompt_tokens);
    assert_int_equal(a.text.n, b.text.n);
    assert_memory_equal(a.text.p, b.text.p, a.text.n);
    ask_close(&a);
    ask_close(&b);
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    host = argv[1];
    gguf = argv[2];
    q8 = argv[3];
    td_log_set_level(TD_LOG_ERROR);
    struct td_manager_options options = {.host_path = host, .workers = 1};
    load();
    if (!house_open(&h, &options))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_request_gives_the_same_tokens),
        cmocka_unit_test(four_at_once_give_what_each_gives_alone),
        cmocka_unit_test(embeddings_are_the_normalised_mean),
        cmocka_unit_test(infill_puts_the_models_own_tokens),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    house_close(&h);
    llama_free(context);
    llama_model_free(model);
    return failed;
}
