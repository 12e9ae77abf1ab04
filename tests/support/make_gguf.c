// SPDX-License-Identifier: Apache-2.0
// Writes a GGUF of the llama architecture with random weights, for tests (tiny) and benchmarks (a real model's shape:
// speed does not depend on the values). The tokenizer is SentencePiece-like with byte fallback, a few words, chat and
// infill tokens; the chat template is a small one with tool calls that llama.cpp's common library can parse.
//
//   make_gguf OUT [--layers N] [--embd N] [--heads N] [--kv-heads N] [--ff N] [--vocab N] [--ctx N] [--type
//   f32|f16|q8_0]
//                 [--seed N] [--template FILE] [--pooling N] [--scale X] [--temp X] [--beyond-prompt N]
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ggml.h>
#include <gguf.h>

static uint64_t rng_state;

static uint32_t rng(void) { // xorshift64*
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return (uint32_t)(rng_state * 2685821657736338717ull >> 32);
}

static float rng_normal(void) { // sum of uniforms: near enough, and the same on every machine
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(rng() >> 8) / 16777216.0f - 0.5f;
    return sum * 1.732f;
}

struct shape {
    int layers, embd, heads, kv_heads, ff, vocab, ctx, pooling, beyond_prompt;
    enum ggml_type type;
    float scale, temp; // temp below 0: the file says nothing of it
};

static const char chat_template[] =
    "{%- if tools %}{{- '<|im_start|>system\\nYou may call tools:\\n<tools>' }}"
    "{%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}"
    "{{- '\\n</tools>\\nCall one with <tool_call>\\n{\"name\": ..., \"arguments\": ...}\\n</tool_call><|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' and message.tool_calls %}"
    "{{- '<|im_start|>assistant\\n' + (message.content or '') }}"
    "{%- for call in message.tool_calls %}"
    "{{- '<tool_call>\\n{\"name\": \"' + call.function.name + '\", \"arguments\": ' + call.function.arguments | tojson "
    "+ "
    "'}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- elif message.role == 'tool' %}{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + "
    "'\\n</tool_response><|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

// Pieces a tokenizer of this kind would have learned; the rest of the vocabulary is invented syllables.
static const char *const words[] = {
    "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"};
enum { SPECIAL_COUNT = 8, BYTE_COUNT = 256 };

static void set_tokenizer(struct gguf_context *g, int vocab, const char *template_text) {
    char(*texts)[24] = calloc((size_t)vocab, sizeof *texts);
    const char **tokens = calloc((size_t)vocab, sizeof *tokens);
    float *scores = calloc((size_t)vocab, sizeof *scores);
    int32_t *types = calloc((size_t)vocab, sizeof *types);
    if (!texts || !tokens || !scores || !types)
        exit(1);
    for (int i = 0; i < vocab; i++) {
        int rest = i - SPECIAL_COUNT - BYTE_COUNT;
        tokens[i] = texts[i];
        types[i] = 1; // normal
        scores[i] = -(float)i;
        if (i < SPECIAL_COUNT) {
            snprintf(texts[i], sizeof texts[i], "%s", words[i]);
            types[i] = i == 0 ? 2 : 3; // unknown, control
            scores[i] = 0;
        } else if (rest < 0) {
            snprintf(texts[i], sizeof texts[i], "<0x%02X>", i - SPECIAL_COUNT);
            types[i] = 6; // byte
            scores[i] = 0;
        } else if (rest < 95) { // printable ASCII; a space is written U+2581
            if (rest == 0)
                snprintf(texts[i], sizeof texts[i], "\xe2\x96\x81");
            else
                snprintf(texts[i], sizeof texts[i], "%c", 32 + rest);
        } else { // syllables in a mixed radix: all different
            static const char *const onset[] = {"b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"};
            static const char *const vowel[] = {"a", "e", "i", "o", "u"};
            int n = rest - 95, at = 0;
            at += snprintf(texts[i], sizeof texts[i], "%s", n % 2 ? "\xe2\x96\x81" : "");
            n /= 2;
            do {
                at += snprintf(texts[i] + at, sizeof texts[i] - (size_t)at, "%s%s", onset[n % 14], vowel[n / 14 % 5]);
                n /= 70;
            } while (n > 0);
        }
    }
    gguf_set_val_str(g, "tokenizer.ggml.model", "llama");
    gguf_set_arr_str(g, "tokenizer.ggml.tokens", tokens, (size_t)vocab);
    gguf_set_arr_data(g, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores, (size_t)vocab);
    gguf_set_arr_data(g, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types, (size_t)vocab);
    gguf_set_val_u32(g, "tokenizer.ggml.unknown_token_id", 0);
    gguf_set_val_u32(g, "tokenizer.ggml.bos_token_id", 1);
    gguf_set_val_u32(g, "tokenizer.ggml.eos_token_id", 2);
    gguf_set_val_u32(g, "tokenizer.ggml.eot_token_id", 4);
    gguf_set_val_u32(g, "tokenizer.ggml.fim_pre_token_id", 5);
    gguf_set_val_u32(g, "tokenizer.ggml.fim_suf_token_id", 6);
    gguf_set_val_u32(g, "tokenizer.ggml.fim_mid_token_id", 7);
    gguf_set_val_bool(g, "tokenizer.ggml.add_bos_token", true);
    gguf_set_val_bool(g, "tokenizer.ggml.add_space_prefix", false);
    gguf_set_val_str(g, "tokenizer.chat_template", template_text);
    free(texts);
    free(tokens);
    free(scores);
    free(types);
}

static void add_tensor(struct gguf_context *g, struct ggml_context *c, const struct shape *s, const char *name,
                       int cols, int rows) {
    bool norm = rows == 1;
    struct ggml_tensor *t =
        norm ? ggml_new_tensor_1d(c, GGML_TYPE_F32, cols) : ggml_new_tensor_2d(c, s->type, cols, rows);
    ggml_set_name(t, name);
    float *row = malloc((size_t)cols * sizeof *row);
    if (!row)
        exit(1);
    float spread = s->scale / sqrtf((float)cols);
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < cols; i++)
            row[i] = norm ? 1.0f : rng_normal() * spread;
        char *to = (char *)t->data + (size_t)r * t->nb[1];
        if (t->type == GGML_TYPE_F32)
            memcpy(to, row, (size_t)cols * sizeof *row);
        else
            ggml_quantize_chunk(t->type, row, to, 0, 1, cols, NULL);
    }
    free(row);
    gguf_add_tensor(g, t);
}

static char *read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *text = n < 0 ? NULL : calloc(1, (size_t)n + 1);
    if (text && fread(text, 1, (size_t)n, f) != (size_t)n) {
        free(text);
        text = NULL;
    }
    fclose(f);
    return text;
}

static void add_weights(struct gguf_context *g, const struct shape *s, struct ggml_context *c) {
    char name[64];
    int kv = s->embd / s->heads * s->kv_heads;
    add_tensor(g, c, s, "token_embd.weight", s->embd, s->vocab);
    add_tensor(g, c, s, "output_norm.weight", s->embd, 1);
    add_tensor(g, c, s, "output.weight", s->embd, s->vocab);
    for (int l = 0; l < s->layers; l++) {
        const struct {
            const char *part;
            int cols, rows;
        } parts[] = {{"attn_norm", s->embd, 1},    {"attn_q", s->embd, s->embd},      {"attn_k", s->embd, kv},
                     {"attn_v", s->embd, kv},      {"attn_output", s->embd, s->embd}, {"ffn_norm", s->embd, 1},
                     {"ffn_gate", s->embd, s->ff}, {"ffn_up", s->embd, s->ff},        {"ffn_down", s->ff, s->embd}};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, parts[i].part);
            add_tensor(g, c, s, name, parts[i].cols, parts[i].rows);
        }
    }
}

int main(int argc, char **argv) {
    struct shape s = {2, 64, 4, 2, 128, 640, 1024, -1, 0, GGML_TYPE_F32, 1.0f, -1.0f};
    const char *template_text = chat_template;
    char *from_file = NULL;
    uint64_t seed = 1;
    if (argc < 2 || argv[1][0] == '-')
        goto usage;
    for (int i = 2; i + 1 < argc; i += 2) {
        const char *k = argv[i], *v = argv[i + 1];
        int n = atoi(v);
        if (!strcmp(k, "--layers"))
            s.layers = n;
        else if (!strcmp(k, "--embd"))
            s.embd = n;
        else if (!strcmp(k, "--heads"))
            s.heads = n;
        else if (!strcmp(k, "--kv-heads"))
            s.kv_heads = n;
        else if (!strcmp(k, "--ff"))
            s.ff = n;
        else if (!strcmp(k, "--vocab"))
            s.vocab = n;
        else if (!strcmp(k, "--ctx"))
            s.ctx = n;
        else if (!strcmp(k, "--pooling"))
            s.pooling = n;
        else if (!strcmp(k, "--seed"))
            seed = strtoull(v, NULL, 10);
        else if (!strcmp(k, "--scale"))
            s.scale = (float)atof(v);
        else if (!strcmp(k, "--temp"))
            s.temp = (float)atof(v);
        else if (!strcmp(k, "--beyond-prompt"))
            s.beyond_prompt = n;
        else if (!strcmp(k, "--type"))
            s.type = !strcmp(v, "q8_0") ? GGML_TYPE_Q8_0 : !strcmp(v, "f16") ? GGML_TYPE_F16 : GGML_TYPE_F32;
        else if (!strcmp(k, "--template"))
            template_text = from_file = read_file(v);
        else
            goto usage;
    }
    if (s.vocab < SPECIAL_COUNT + BYTE_COUNT + 95 || s.heads < 1 || s.embd % s.heads || !template_text)
        goto usage;
    rng_state = seed * 0x9E3779B97F4A7C15ull + 1;

    size_t per_element = s.type == GGML_TYPE_F32 ? 4 : 2;
    size_t elements = (size_t)s.vocab * (size_t)s.embd * 2 +
                      (size_t)s.layers * ((size_t)s.embd * (size_t)s.embd * 4 + 3 * (size_t)s.embd * (size_t)s.ff);
    struct ggml_context *c = ggml_init((struct ggml_init_params){elements * per_element + (16u << 20), NULL, false});
    struct gguf_context *g = gguf_init_empty();
    gguf_set_val_str(g, "general.architecture", "llama");
    gguf_set_val_str(g, "general.name", "random");
    gguf_set_val_u32(g, "llama.block_count", (uint32_t)s.layers);
    gguf_set_val_u32(g, "llama.context_length", (uint32_t)s.ctx);
    gguf_set_val_u32(g, "llama.embedding_length", (uint32_t)s.embd);
    gguf_set_val_u32(g, "llama.feed_forward_length", (uint32_t)s.ff);
    gguf_set_val_u32(g, "llama.attention.head_count", (uint32_t)s.heads);
    gguf_set_val_u32(g, "llama.attention.head_count_kv", (uint32_t)s.kv_heads);
    gguf_set_val_u32(g, "llama.rope.dimension_count", (uint32_t)(s.embd / s.heads));
    gguf_set_val_u32(g, "llama.vocab_size", (uint32_t)s.vocab);
    gguf_set_val_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (s.pooling >= 0)
        gguf_set_val_u32(g, "llama.pooling_type", (uint32_t)s.pooling);
    if (s.temp >= 0)
        gguf_set_val_f32(g, "general.sampling.temp", s.temp);
    if (s.beyond_prompt)
        gguf_set_val_u32(g, "tandem.max_tokens_beyond_prompt", (uint32_t)s.beyond_prompt);
    set_tokenizer(g, s.vocab, template_text);
    add_weights(g, &s, c);
    if (!gguf_write_to_file(g, argv[1], false)) {
        fprintf(stderr, "make_gguf: cannot write %s\n", argv[1]);
        return 1;
    }
    gguf_free(g);
    ggml_free(c);
    free(from_file);
    return 0;
usage:
    fprintf(stderr, "usage: make_gguf OUT [--layers N] [--embd N] [--heads N] [--kv-heads N] [--ff N] [--vocab N] "
                    "[--ctx N] [--type f32|f16|q8_0] [--seed N] [--template FILE] [--pooling N] [--scale X] "
                    "[--temp X] [--beyond-prompt N]\n");
    return 2;
}
