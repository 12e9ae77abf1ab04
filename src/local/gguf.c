// SPDX-License-Identifier: Apache-2.0
#include "local/gguf.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"

#define HEADER_BYTES_MAX (256ull << 20) // vocabularies of 300,000 tokens with merges take about 20 MB
#define TENSORS_MAX 65536u              // the largest mixtures of experts have some thousand
#define PAIRS_MAX 65536u
#define KEY_BYTES_MAX 256u
#define STRING_BYTES_MAX (16ull << 20) // chat templates are below 1 MB
#define TENSOR_NAME_BYTES_MAX 63u      // ggml's own
#define ALIGNMENT_MAX 65536u
#define HOST_BYTES (48ull << 20) // the program and its libraries, resident
#define UBATCH 512ull            // tokens computed at once (host/guest.h)

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, TYPE_COUNT };
static const uint8_t scalar_bytes[TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

// Elements and bytes of a block, by ggml's type number; zero: a type that no longer exists.
static const struct {
    uint16_t elements, bytes;
} blocks[] = {{1, 4},    {1, 2},    {32, 18},   {32, 20},   {0, 0},     {0, 0},     {32, 22},   {32, 24},  {32, 34},
              {32, 36},  {256, 84}, {256, 110}, {256, 144}, {256, 176}, {256, 210}, {256, 292}, {256, 66}, {256, 74},
              {256, 98}, {256, 50}, {32, 18},   {256, 110}, {256, 82},  {256, 136}, {1, 1},     {1, 2},    {1, 4},
              {1, 8},    {1, 8},    {256, 56},  {1, 2},     {0, 0},     {0, 0},     {0, 0},     {256, 54}, {256, 66},
              {0, 0},    {0, 0},    {0, 0},     {32, 17},   {64, 36},   {128, 18},  {64, 18}};

struct reader {
    int fd;
    uint64_t at, size; // of the file
    char window[1 << 16];
    uint64_t window_at;
    size_t window_n;
    bool io_failed;
    const char *why;           // the first fault, a fixed text
    struct td_gguf_chat *chat; // who wants the template itself; NULL nobody
    bool no_bos, eos;          // the file says: no token before a prompt, one after it
};

static bool fail(struct reader *r, const char *why) {
    if (!r->why)
        r->why = why;
    return false;
}

static bool get(struct reader *r, void *out, size_t n) {
    char *to = out;
    if (n > r->size - r->at || r->at + n > HEADER_BYTES_MAX)
        return fail(r, "it ends inside its header");
    while (n) {
        if (r->at < r->window_at || r->at >= r->window_at + r->window_n) {
            ssize_t got = pread(r->fd, r->window, sizeof r->window, (off_t)r->at);
            if (got <= 0) {
                r->io_failed = true;
                return fail(r, "it cannot be read");
            }
            r->window_at = r->at;
            r->window_n = (size_t)got;
        }
        size_t offset = (size_t)(r->at - r->window_at), part = r->window_n - offset;
        part = part < n ? part : n;
        memcpy(to, r->window + offset, part);
        to += part;
        r->at += part;
        n -= part;
    }
    return true;
}

static bool skip(struct reader *r, uint64_t n) {
    if (n > r->size - r->at || r->at + n > HEADER_BYTES_MAX)
        return fail(r, "it ends inside its header");
    r->at += n;
    return true;
}

static uint64_t little(const unsigned char *p, size_t n) {
    uint64_t v = 0;
    while (n--)
        v = v << 8 | p[n];
    return v;
}

static bool get_uint(struct reader *r, size_t n, uint64_t *out) {
    unsigned char b[8];
    if (!get(r, b, n))
        return false;
    *out = little(b, n);
    return true;
}

static bool get_string(struct reader *r, uint64_t most, char *out, size_t size, uint64_t *length) {
    uint64_t n;
    if (!get_uint(r, 8, &n))
        return false;
    if (n > most)
        return fail(r, "a string in it is too long");
    size_t keep = n < size - 1 ? (size_t)n : size - 1;
    out[keep] = 0;
    *length = n;
    return get(r, out, keep) && skip(r, n - keep);
}

static bool ends_with(const char *key, const char *suffix) {
    size_t n = strlen(key), m = strlen(suffix);
    return n >= m && strcmp(key + n - m, suffix) == 0;
}

static void learn_number(struct td_gguf *g, const char *key, uint64_t v) {
    uint32_t n = v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
    if (ends_with(key, ".context_length"))
        g->context = n;
    else if (ends_with(key, ".block_count"))
        g->layers = n;
    else if (ends_with(key, ".embedding_length"))
        g->embedding = n;
    else if (ends_with(key, ".feed_forward_length"))
        g->feed_forward = n;
    else if (ends_with(key, ".attention.head_count"))
        g->heads = n;
    else if (ends_with(key, ".attention.head_count_kv"))
        g->kv_heads = n; // for each layer; multiplied at the end
    else if (ends_with(key, ".attention.key_length"))
        g->key_length = n;
    else if (ends_with(key, ".attention.value_length"))
        g->value_length = n;
    else if (ends_with(key, ".pooling_type"))
        g->embeds_only = n != 0;
    else if (!strcmp(key, "tokenizer.ggml.fim_pre_token_id") || !strcmp(key, "tokenizer.ggml.prefix_token_id"))
        g->infill = true;
}

static bool read_array(struct reader *r, struct td_gguf *g, const char *key, bool *kv_per_layer) {
    uint64_t type, n;
    if (!get_uint(r, 4, &type) || !get_uint(r, 8, &n))
        return false;
    if (type >= TYPE_COUNT || type == ARRAY)
        return fail(r, "an array in it has an unknown element type");
    uint64_t least = type == STRING ? 8 : scalar_bytes[type];
    if (n > (r->size - r->at) / least)
        return fail(r, "an array in it is longer than the file");
    if (!strcmp(key, "tokenizer.ggml.tokens"))
        g->vocabulary = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    if (ends_with(key, ".attention.head_count_kv") && (type == U32 || type == I32)) {
        g->kv_heads = 0;
        *kv_per_layer = true;
        for (uint64_t i = 0, v; i < n; i++) {
            if (!get_uint(r, 4, &v))
                return false;
            g->kv_heads += v;
        }
        return true;
    }
    if (type != STRING)
        return skip(r, n * least);
    for (uint64_t i = 0, length; i < n; i++) {
        char none[1];
        if (!get_string(r, STRING_BYTES_MAX, none, sizeof none, &length))
            return false;
    }
    return true;
}

static bool take_template(struct reader *r) {
    uint64_t n;
    char *to;
    if (!get_uint(r, 8, &n))
        return false;
    if (n > STRING_BYTES_MAX)
        return fail(r, "a string in it is too long");
    td_buf_clear(&r->chat->text); // said twice: the library takes the last one too, or refuses the file
    to = td_buf_reserve(&r->chat->text, (size_t)n);
    if ((n && !to) || !get(r, to, (size_t)n))
        return fail(r, "there is no memory for a string in it");
    td_buf_grew(&r->chat->text, (size_t)n);
    return true;
}

// Finds a word in a long string that goes by in pieces.
static bool read_template(struct reader *r, struct td_gguf *g) {
    uint64_t n;
    char piece[4096 + 8];
    size_t kept = 0;
    if (!get_uint(r, 8, &n))
        return false;
    if (n > STRING_BYTES_MAX)
        return fail(r, "a string in it is too long");
    while (n) {
        size_t part = n < 4096 ? (size_t)n : 4096;
        if (!get(r, piece + kept, part))
            return false;
        g->template_tools |= memmem(piece, kept + part, "tools", 5) != NULL;
        size_t tail = kept + part < 4 ? kept + part : 4;
        memmove(piece, piece + kept + part - tail, tail);
        kept = tail;
        n -= part;
    }
    g->chat_template = true;
    return true;
}

static bool read_pair(struct reader *r, struct td_gguf *g, uint64_t *alignment, bool *kv_per_layer) {
    char key[KEY_BYTES_MAX + 1], text[64];
    uint64_t length, type, v;
    if (!get_string(r, KEY_BYTES_MAX, key, sizeof key, &length) || !get_uint(r, 4, &type))
        return false;
    if (length == 0 || strlen(key) != length)
        return fail(r, "a key in it is empty or holds a NUL");
    if (type >= TYPE_COUNT)
        return fail(r, "a value in it has an unknown type");
    if (type == ARRAY)
        return read_array(r, g, key, kv_per_layer);
    if (r->chat && !strcmp(key, "tokenizer.chat_template.tool_use"))
        r->chat->plain = false;
    if (r->chat && type == STRING && !strcmp(key, "tokenizer.chat_template"))
        return take_template(r);
    if (type == STRING && ends_with(key, "tokenizer.chat_template"))
        return read_template(r, g);
    if (type == STRING) {
        if (!get_string(r, STRING_BYTES_MAX, text, sizeof text, &length))
            return false;
        if (!strcmp(key, "general.architecture"))
            snprintf(g->architecture, sizeof g->architecture, "%s", text);
        return true;
    }
    if (!get_uint(r, scalar_bytes[type], &v))
        return false;
    if (ends_with(key, ".attention.causal") && type == BOOL && !v)
        g->embeds_only = true;
    r->no_bos |= type == BOOL && !v && !strcmp(key, "tokenizer.ggml.add_bos_token");
    r->eos |= type == BOOL && v && !strcmp(key, "tokenizer.ggml.add_eos_token");
    if (type != F32 && type != F64)
        learn_number(g, key, v);
    if (!strcmp(key, "split.count") && (v > UINT16_MAX || type == F32 || type == F64))
        return fail(r, "it claims an impossible number of parts");
    if (!strcmp(key, "split.count"))
        g->part_count = (uint32_t)v;
    else if (!strcmp(key, "split.no"))
        g->part_number = v < UINT32_MAX ? (uint32_t)v + 1 : UINT32_MAX;
    else if (!strcmp(key, "split.tensors.count"))
        g->all_tensors = v;
    if (!strcmp(key, "general.alignment")) {
        if (type != U32 || v < 8 || v > ALIGNMENT_MAX || (v & (v - 1)))
            return fail(r, "its alignment is no power of two from 8 to 65536");
        *alignment = v;
    }
    return true;
}

// `*end` becomes the furthest byte that a tensor takes in the data section.
static bool read_tensor(struct reader *r, struct td_gguf *g, uint64_t alignment, uint64_t *end) {
    char name[TENSOR_NAME_BYTES_MAX + 1];
    uint64_t length, dims, type, offset, elements = 1, first = 1;
    if (!get_string(r, TENSOR_NAME_BYTES_MAX, name, sizeof name, &length) || !get_uint(r, 4, &dims))
        return false;
    if (length == 0 || strlen(name) != length)
        return fail(r, "a tensor's name in it is empty or holds a NUL");
    if (dims < 1 || dims > 4)
        return fail(r, "a tensor in it does not have 1 to 4 dimensions");
    for (uint64_t i = 0, n; i < dims; i++) {
        if (!get_uint(r, 8, &n))
            return false;
        if (n == 0 || n > INT64_MAX || __builtin_mul_overflow(elements, n, &elements) || elements > INT64_MAX)
            return fail(r, "a tensor's size in it overflows");
        if (i == 0)
            first = n;
    }
    if (!get_uint(r, 4, &type) || !get_uint(r, 8, &offset))
        return false;
    if (type >= sizeof blocks / sizeof *blocks || blocks[type].elements == 0)
        return fail(r, "a tensor in it has an unknown type");
    if (first % blocks[type].elements)
        return fail(r, "a tensor's rows in it are no whole blocks");
    uint64_t bytes, upto;
    if (__builtin_mul_overflow(elements / blocks[type].elements, (uint64_t)blocks[type].bytes, &bytes) ||
        __builtin_add_overflow(offset, bytes, &upto) || offset % alignment)
        return fail(r, "a tensor's place in it is impossible");
    if (__builtin_add_overflow(g->tensor_bytes, bytes, &g->tensor_bytes) ||
        __builtin_add_overflow(g->elements, elements, &g->elements))
        return fail(r, "its tensors are together too large");
    *end = upto > *end ? upto : *end;
    return true;
}

static bool describes_model(struct reader *r, struct td_gguf *g, bool kv_per_layer) {
    if (!g->architecture[0] || !g->layers || !g->embedding || !g->context)
        return fail(r, "it does not describe a language model");
    if (g->layers > 4096 || g->embedding > 1u << 20 || g->heads > 1u << 16 || g->kv_heads > 1u << 20)
        return fail(r, "its shape is impossible");
    if (!g->kv_heads)
        g->kv_heads = g->heads ? g->heads : 1;
    if (!kv_per_layer)
        g->kv_heads *= g->layers;
    return true;
}

static bool read_all(struct reader *r, struct td_gguf *g) {
    char magic[4];
    uint64_t version, tensors, pairs, alignment = 32, end = 0;
    bool kv_per_layer = false;
    if (!get(r, magic, sizeof magic))
        return false;
    if (memcmp(magic, "GGUF", 4) != 0)
        return fail(r, "it is no GGUF file");
    if (!get_uint(r, 4, &version) || !get_uint(r, 8, &tensors) || !get_uint(r, 8, &pairs))
        return false;
    if (version < 2 || version > 3)
        return fail(r, "its GGUF version is neither 2 nor 3");
    if (tensors > TENSORS_MAX || pairs > PAIRS_MAX)
        return fail(r, "it claims an impossible number of tensors or values");
    g->tensor_count = (uint32_t)tensors;
    g->pair_count = (uint32_t)pairs;
    for (uint64_t i = 0; i < pairs; i++)
        if (!read_pair(r, g, &alignment, &kv_per_layer))
            return false;
    for (uint64_t i = 0; i < tensors; i++)
        if (!read_tensor(r, g, alignment, &end))
            return false;
    g->data_offset = (r->at + alignment - 1) / alignment * alignment;
    if (g->data_offset > g->file_bytes || end > g->file_bytes - g->data_offset)
        return fail(r, "its tensors reach beyond its end");
    if (g->part_count < 2)
        g->part_count = g->part_number = 1;
    if (tensors == 0 && !(g->part_count > 1 && g->part_number == 1)) // a first part may hold the vocabulary alone
        return fail(r, "it claims an impossible number of tensors or values");
    if (g->part_number < 1 || g->part_number > g->part_count)
        return fail(r, "it does not say which of its parts it is");
    return g->part_number > 1 || describes_model(r, g, kv_per_layer);
}

enum td_err td_gguf_check(int fd, struct td_gguf *out, struct td_error *e) {
    struct stat st;
    struct td_gguf g = {0};
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return td_error_set(e, TD_ERR_HOST_LOAD, "the model is no regular file");
    struct reader r = {.fd = fd, .size = (uint64_t)st.st_size};
    g.file_bytes = r.size;
    if (!read_all(&r, &g))
        return td_error_set(e, r.io_failed ? TD_ERR_IO : TD_ERR_HOST_LOAD, "the model file is refused: %s", r.why);
    *out = g;
    return TD_OK;
}

enum td_err td_gguf_add_part(struct td_gguf *whole, const struct td_gguf *part, uint32_t number, struct td_error *e) {
    if (part->part_number != number || part->part_count != whole->part_count)
        return td_error_set(e, TD_ERR_HOST_LOAD,
                            "the model file is refused: what lies in the place of part %u of %u "
                            "is part %u of %u",
                            number, whole->part_count, part->part_number, part->part_count);
    if (__builtin_add_overflow(whole->tensor_bytes, part->tensor_bytes, &whole->tensor_bytes) ||
        __builtin_add_overflow(whole->elements, part->elements, &whole->elements) ||
        __builtin_add_overflow(whole->file_bytes, part->file_bytes, &whole->file_bytes) ||
        __builtin_add_overflow(whole->tensor_count, part->tensor_count, &whole->tensor_count))
        return td_error_set(e, TD_ERR_HOST_LOAD, "the model file is refused: its tensors are together too large");
    if (number == whole->part_count && whole->tensor_count != whole->all_tensors)
        return td_error_set(e, TD_ERR_HOST_LOAD,
                            "the model file is refused: its parts have %u tensors, of %llu it speaks",
                            whole->tensor_count, (unsigned long long)whole->all_tensors);
    return TD_OK;
}

enum td_err td_gguf_chat_read(int fd, struct td_gguf_chat *out, struct td_error *e) {
    struct stat st;
    struct td_gguf g = {0};
    char magic[4];
    uint64_t version, tensors, pairs = 0, alignment;
    bool kv_per_layer;
    td_buf_init(&out->text, STRING_BYTES_MAX);
    out->plain = true;
    if (fstat(fd, &st) != 0)
        return td_error_set(e, TD_ERR_IO, "the model file cannot be read");
    struct reader r = {.fd = fd, .size = (uint64_t)st.st_size, .chat = out};
    bool ok = get(&r, magic, sizeof magic) && get_uint(&r, 4, &version) && get_uint(&r, 8, &tensors) &&
              get_uint(&r, 8, &pairs) && pairs <= PAIRS_MAX;
    for (uint64_t i = 0; ok && i < pairs; i++)
        ok = read_pair(&r, &g, &alignment, &kv_per_layer);
    out->plain &= r.no_bos && !r.eos;
    if (ok)
        return TD_OK;
    td_buf_finish(&out->text);
    return td_error_set(e, r.io_failed ? TD_ERR_IO : TD_ERR_HOST_LOAD, "the model file is refused: %s",
                        r.why ? r.why : "it claims an impossible number of values");
}

uint64_t td_gguf_memory(const struct td_gguf *g, uint32_t context, uint32_t parallel) {
    uint64_t head = g->heads ? g->embedding / g->heads : g->embedding;
    uint64_t key = g->key_length ? g->key_length : head, value = g->value_length ? g->value_length : head;
    uint64_t tokens = (uint64_t)(context && context < g->context ? context : g->context);
    tokens = (tokens + 255) / 256 * 256 * parallel;
    // Half floats for keys and values; then what a batch needs while it goes through one layer, and the logits. In
    // floating point, as a hostile header may claim what no integer holds.
    double kv = g->embeds_only ? 0 : 2.0 * (double)g->kv_heads * (double)(key + value) * (double)tokens;
    double compute = 4.0 * UBATCH * (8.0 * g->embedding + 3.0 * g->feed_forward) + 8.0 * g->vocabulary * (parallel + 1);
    double all = (double)g->tensor_bytes + kv + compute + HOST_BYTES;
    return all < 9e18 ? (uint64_t)all : UINT64_MAX / 2;
}
