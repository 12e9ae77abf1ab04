// SPDX-License-Identifier: Apache-2.0
// What the guest does in its libraries' place comes to the same as what they do.
#include "unit.h"

#include <ggml-backend.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct string {
    const char *p;
    size_t n;
};
int host_string_compare(const struct string *s, const char *z) //
    __asm__("_ZNKSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE7compareEPKc");

static int sign(int v) {
    return (v > 0) - (v < 0);
}

// The standard: as unsigned bytes up to the shorter's end, then the shorter is less (C++17 [string.compare]).
static int as_the_standard_says(const char *a, size_t n, const char *z) {
    size_t m = strlen(z);
    for (size_t i = 0; i < n && i < m; i++)
        if (a[i] != z[i])
            return (unsigned char)a[i] < (unsigned char)z[i] ? -1 : 1;
    return n < m ? -1 : n > m;
}

static void strings_compare_as_ever(void **state) {
    (void)state;
    static const struct string strings[] = {
        {"", 0},     {"a", 1},    {"b", 1},     {"ab", 2},          {"abc", 3},       {"\0", 1},      {"\0a", 2},
        {"a\0b", 3}, {"\xff", 1}, {"\x80z", 2}, {"<|eot_id|>", 10}, {"<|eot_id|", 9}, {"<|end|>", 7}, {"a\xff", 2}};
    static const char *const words[] = {"",     "a",    "b",          "ab",      "abd",  "\xff",
                                        "\x80", "\x7f", "<|eot_id|>", "<|end|>", "a\xff"};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        for (size_t j = 0; j < sizeof words / sizeof *words; j++)
            assert_int_equal(sign(host_string_compare(&strings[i], words[j])),
                             as_the_standard_says(strings[i].p, strings[i].n, words[j]));
}

static bool is_all(const unsigned char *p, size_t n, unsigned char value) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != value)
            return false;
    return true;
}

static size_t resident_pages(const void *from, size_t n) {
    static unsigned char map[4096];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), count = 0;
    uintptr_t first = ((uintptr_t)from + page - 1) & ~(page - 1), last = ((uintptr_t)from + n) & ~(page - 1);
    assert_true((last - first) / page <= sizeof map);
    assert_int_equal(mincore((void *)first, last - first, map), 0);
    for (size_t i = 0; i < (last - first) / page; i++)
        count += map[i] & 1;
    return count;
}

// Small and large, to a page's end or not: what lies around the buffer stays.
static void a_cleared_buffer_is_all_zero(void **state) {
    (void)state;
    static const size_t sizes[] = {64, 4096, (1u << 20) - 32, 1u << 20, (1u << 20) + 96, (3u << 20) + 64};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int value = 0; value < 8; value += 7) {
            ggml_backend_buffer_t b = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), sizes[i]);
            assert_non_null(b);
            size_t n = ggml_backend_buffer_get_size(b);
            unsigned char *p = ggml_backend_buffer_get_base(b);
            memset(p, 0xAA, n);
            ggml_backend_buffer_clear(b, (uint8_t)value);
            if (value == 0 && n >= 1u << 20)
                assert_true(resident_pages(p, n) < 16); // and takes no memory until it is used
            assert_true(is_all(p, n, (unsigned char)value));
            memset(p, 0x55, n);
            assert_true(is_all(p, n, 0x55));
            ggml_backend_buffer_free(b);
        }
}

// A mapped file given back would come again with what the file says.
static void memory_that_is_not_the_buffers_own_is_written(void **state) {
    (void)state;
    size_t n = 2u << 20;
    int fd = memfd_create("file", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)n), 0);
    unsigned char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(p != MAP_FAILED);
    memset(p, 0xAA, n);
    ggml_backend_buffer_t b = ggml_backend_cpu_buffer_from_ptr(p, n);
    assert_non_null(b);
    ggml_backend_buffer_clear(b, 0);
    assert_true(is_all(p, n, 0));
    ggml_backend_buffer_free(b);
    munmap(p, n);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings_compare_as_ever),
        cmocka_unit_test(a_cleared_buffer_is_all_zero),
        cmocka_unit_test(memory_that_is_not_the_buffers_own_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
