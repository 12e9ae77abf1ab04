// SPDX-License-Identifier: Apache-2.0
// Hostile model files. The real cases behind them: tensor counts and sizes whose product overflows (llama.cpp
// CVE-2024-23605, CVE-2025-53630 and its bypass CVE-2026-27940), offsets beyond the file (Ollama CVE-2026-7482).
#include "unit.h"

#include <sys/mman.h>
#include <unistd.h>

#include "local/gguf.h"

// A GGUF in the making; the defaults are a file that passes.
struct file {
    struct td_buf b;
};

static void put(struct file *f, uint64_t v, size_t n) {
    for (size_t i = 0; i < n; i++)
        assert_ok(td_buf_addc(&f->b, (char)(v >> (8 * i))));
}

static void put_string(struct file *f, const char *z) {
    put(f, strlen(z), 8);
    assert_ok(td_buf_addz(&f->b, z));
}

static void begin(struct file *f, uint64_t version, uint64_t tensors, uint64_t pairs) {
    td_buf_init(&f->b, 1 << 20);
    assert_ok(td_buf_addz(&f->b, "GGUF"));
    put(f, version, 4);
    put(f, tensors, 8);
    put(f, pairs, 8);
}

static void put_number(struct file *f, const char *key, uint64_t v) {
    put_string(f, key);
    put(f, 4, 4);
    put(f, v, 4);
}

static void put_model(struct file *f) { // 5 pairs
    put_string(f, "general.architecture");
    put(f, 8, 4);
    put_string(f, "llama");
    put_number(f, "llama.block_count", 2);
    put_number(f, "llama.embedding_length", 64);
    put_number(f, "llama.context_length", 512);
    put_number(f, "llama.attention.head_count", 4);
}

static void put_tensor(struct file *f, uint64_t columns, uint64_t rows, uint64_t type, uint64_t offset) {
    put_string(f, "token_embd.weight");
    put(f, 2, 4);
    put(f, columns, 8);
    put(f, rows, 8);
    put(f, type, 4);
    put(f, offset, 8);
}

static void put_data(struct file *f, size_t bytes) {
    while (f->b.n % 32)
        assert_ok(td_buf_addc(&f->b, 0));
    for (size_t i = 0; i < bytes; i++)
        assert_ok(td_buf_addc(&f->b, 0));
}

static enum td_err check(struct file *f, struct td_gguf *out) {
    struct td_gguf none;
    struct td_error e = {TD_OK, ""};
    int fd = memfd_create("gguf", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, f->b.p, f->b.n), f->b.n);
    enum td_err err = td_gguf_check(fd, out ? out : &none, &e);
    close(fd);
    td_buf_finish(&f->b);
    if (err)
        assert_true(e.message[0] != 0);
    return err;
}

static void good_file(struct file *f) {
    begin(f, 3, 1, 5);
    put_model(f);
    put_tensor(f, 64, 10, 0, 0);
    put_data(f, 64 * 10 * 4);
}

static void a_good_file_passes_and_is_understood(void **state) {
    (void)state;
    struct file f;
    struct td_gguf g;
    good_file(&f);
    assert_ok(check(&f, &g));
    assert_string_equal(g.architecture, "llama");
    assert_int_equal(g.elements, 640);
    assert_int_equal(g.tensor_bytes, 2560);
    assert_int_equal(g.kv_heads, 8);
    // 2 layers x 4 heads x (16 + 16) half floats x 256 tokens x 3 requests
    assert_true(td_gguf_memory(&g, 256, 3) - td_gguf_memory(&g, 256, 2) >= 2 * 8 * 32 * 256);
}

static void put_flag(struct file *f, const char *key, bool v) {
    put_string(f, key);
    put(f, 7, 4);
    put(f, v, 1);
}

static enum td_err read_chat(struct file *f, size_t cut, struct td_gguf_chat *out) {
    struct td_error e = {TD_OK, ""};
    int fd = memfd_create("gguf", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, f->b.p, f->b.n - cut), f->b.n - cut);
    enum td_err err = td_gguf_chat_read(fd, out, &e);
    close(fd);
    assert_true(err == TD_OK || e.message[0] != 0);
    return err;
}

// Only where nothing but the template's text is needed: no token before or after a prompt, no other text for tools.
static void the_chat_template_is_read_where_it_is_all_there_is(void **state) {
    (void)state;
    static const struct {
        const char *key;
        bool value, plain;
    } rows[] = {{"tokenizer.ggml.add_bos_token", false, true},
                {"tokenizer.ggml.add_bos_token", true, false},
                {"tokenizer.ggml.add_eos_token", false, false}, // and of the first token the file says nothing
                {"some.other_key", false, false}};
    struct td_gguf_chat chat;
    struct file f;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        begin(&f, 3, 1, 7);
        put_string(&f, "tokenizer.chat_template");
        put(&f, 8, 4);
        put_string(&f, "{{ messages }}");
        put_flag(&f, rows[i].key, rows[i].value);
        put_model(&f);
        assert_ok(read_chat(&f, 0, &chat));
        assert_str(td_buf_str(&chat.text), "{{ messages }}");
        assert_int_equal(chat.plain, rows[i].plain);
        td_buf_finish(&chat.text);
        for (size_t cut = 1; cut < f.b.n; cut++)
            assert_int_equal(read_chat(&f, cut, &chat), TD_ERR_HOST_LOAD);
        td_buf_finish(&f.b);
    }
    static const char *const others[] = {"tokenizer.chat_template.tool_use", "tokenizer.ggml.add_eos_token"};
    for (size_t i = 0; i < 2; i++) {
        begin(&f, 3, 1, 2);
        put_flag(&f, "tokenizer.ggml.add_bos_token", false);
        if (i == 0) {
            put_string(&f, others[i]);
            put(&f, 8, 4);
            put_string(&f, "{{ tools }}");
        } else {
            put_flag(&f, others[i], true);
        }
        assert_ok(read_chat(&f, 0, &chat));
        assert_false(chat.plain);
        assert_int_equal(chat.text.n, 0);
        td_buf_finish(&chat.text);
        td_buf_finish(&f.b);
    }
    begin(&f, 3, 1, 1);
    put_string(&f, "tokenizer.chat_template");
    put(&f, 8, 4);
    put(&f, (16u << 20) + 1, 8);
    assert_int_equal(read_chat(&f, 0, &chat), TD_ERR_HOST_LOAD);
    td_buf_finish(&f.b);
}

static void every_cut_of_the_file_is_refused(void **state) {
    (void)state;
    struct file whole;
    good_file(&whole);
    for (size_t n = 0; n < whole.b.n; n += n < 300 ? 1 : 97) {
        struct file cut;
        td_buf_init(&cut.b, 1 << 20);
        assert_ok(td_buf_add(&cut.b, whole.b.p, n));
        assert_int_equal(check(&cut, NULL), TD_ERR_HOST_LOAD);
    }
    td_buf_finish(&whole.b);
}

static void wrong_magic_and_versions_are_refused(void **state) {
    (void)state;
    const uint64_t versions[] = {0, 1, 4, 0x03000000};
    struct file f;
    for (size_t i = 0; i < 4; i++) {
        begin(&f, versions[i], 1, 5);
        put_model(&f);
        put_tensor(&f, 64, 10, 0, 0);
        put_data(&f, 2560);
        assert_int_equal(check(&f, NULL), TD_ERR_HOST_LOAD);
    }
    good_file(&f);
    f.b.p[0] = 'X';
    assert_int_equal(check(&f, NULL), TD_ERR_HOST_LOAD);
}

static void huge_counts_are_refused_before_anything_is_made_of_them(void **state) {
    (void)state;
    const uint64_t counts[] = {65537, UINT32_MAX, 1ull << 62, UINT64_MAX};
    struct file f;
    for (size_t i = 0; i < 4; i++) {
        begin(&f, 3, counts[i], 5);
        put_model(&f);
        assert_int_equal(check(&f, NULL), TD_ERR_HOST_LOAD);
        begin(&f, 3, 1, counts[i]);
        put_model(&f);
        assert_int_equal(check(&f, NULL), TD_ERR_HOST_LOAD);
    }
}

static void strings_and_arrays_longer_than_the_file_are_refused(void **state) {
    (void)state;
    const uint64_t lengths[] = {1000, UINT32_MAX, 1ull << 61, UINT64_MAX - 7, UINT64_MAX};
    struct file f;
    for (size_t i = 0; i < 5; i++) {
        for (unsigned type = 0; type < 13; type++) { // array of each type
            begin(&f, 3, 1, 6);
            put_model(&f);
            put_string(&f, "tokenizer.ggml.tokens");
            put(&f, 9, 4);
            put(&f, type, 4);
            put(&f, lengths[i], 8);
            assert_int_equal(check(&f, NULL), TD_ERR_HOST_LOAD);
        }
        begin(&f, 3, 1, 6);
        put_model(&f);
        put_string(&f, "general.name");
        put(&f, 8, 4);
        put(&f, lengths[i], 8);
        assert_int_equal(check(&f, NULL), TD_ERR_HOST_LOAD);
    }
}

static void sizes_that_overflow_are_refused(void **state) {
    (void)state;
    const uint64_t shapes[][2] = {{1ull << 32, 1ull << 32}, {1ull << 62, 4},          {UINT64_MAX, 1},
                                  {1ull << 61, 2},          {1ull << 40, 1ull << 23}, {0, 4}};
    struct file f;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        begin(&f, 3, 1, 5);
        put_model(&f);
        put_tensor(&f, shapes[i][0], shapes[i][1], 0, 0);
        put_data(&f, 2560);
        assert_int_equal(check(&f, NULL), TD_ERR_HOST_LOAD);
    }
}

static void offsets_outside_the_file_are_refused(void **state) {
    (void)state;
    // One element too far, off the grid, far out, and such that offset + size wraps round.
    const uint64_t offsets[] = {32, 1, 1ull << 40, UINT64_MAX - 2560 + 1, UINT64_MAX - 31};
    struct file f;
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        begin(&f, 3, 1, 5);
        put_model(&f);
        put_tensor(&f, 64, 10, 0, offsets[i]);
        put_data(&f, 2560);
        assert_int_equal(check(&f, NULL), TD_ERR_HOST_LOAD);
    }
}

static void unknown_types_and_broken_blocks_are_refused(void **state) {
    (void)state;
    const uint64_t types[] = {4, 5, 31, 43, 1000, UINT32_MAX};
    struct file f;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        begin(&f, 3, 1, 5);
        put_model(&f);
        put_tensor(&f, 64, 10, types[i], 0);
        put_data(&f, 2560);
        assert_int_equal(check(&f, NULL), TD_ERR_HOST_LOAD);
    }
    begin(&f, 3, 1, 5);
    put_model(&f);
    put_tensor(&f, 33, 10, 8, 0); // q8_0 has blocks of 32
    put_data(&f, 2560);
    assert_int_equal(check(&f, NULL), TD_ERR_HOST_LOAD);
}

static void strange_alignments_are_refused(void **state) {
    (void)state;
    const uint64_t values[] = {0, 1, 7, 33, 1u << 17, UINT32_MAX};
    struct file f;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        begin(&f, 3, 1, 6);
        put_model(&f);
        put_number(&f, "general.alignment", values[i]);
        put_tensor(&f, 64, 10, 0, 0);
        put_data(&f, 2560);
        assert_int_equal(check(&f, NULL), TD_ERR_HOST_LOAD);
    }
}

static void an_impossible_shape_needs_more_memory_than_any_machine_has(void **state) {
    (void)state;
    struct td_gguf g = {.context = UINT32_MAX,
                        .layers = 4096,
                        .embedding = 1u << 20,
                        .heads = 1,
                        .kv_heads = 1u << 20,
                        .key_length = UINT32_MAX,
                        .value_length = UINT32_MAX};
    assert_true(td_gguf_memory(&g, 0, 64) > 1ull << 60);
}

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    struct td_gguf g;
    int pair[2];
    assert_int_equal(pipe(pair), 0);
    assert_int_equal(td_gguf_check(pair[0], &g, NULL), TD_ERR_HOST_LOAD);
    assert_int_equal(td_gguf_check(-1, &g, NULL), TD_ERR_HOST_LOAD);
    close(pair[0]);
    close(pair[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_file_passes_and_is_understood),
        cmocka_unit_test(the_chat_template_is_read_where_it_is_all_there_is),
        cmocka_unit_test(every_cut_of_the_file_is_refused),
        cmocka_unit_test(wrong_magic_and_versions_are_refused),
        cmocka_unit_test(huge_counts_are_refused_before_anything_is_made_of_them),
        cmocka_unit_test(strings_and_arrays_longer_than_the_file_are_refused),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(offsets_outside_the_file_are_refused),
        cmocka_unit_test(unknown_types_and_broken_blocks_are_refused),
        cmocka_unit_test(strange_alignments_are_refused),
        cmocka_unit_test(an_impossible_shape_needs_more_memory_than_any_machine_has),
        cmocka_unit_test(what_is_no_file_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
