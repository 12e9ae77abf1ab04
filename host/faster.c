// SPDX-License-Identifier: Apache-2.0
// Two functions that libllama calls while it loads, which this program brings in its libraries' place: they do the same
// sooner. Who links statically, or has other libraries, does without; nothing depends on them.
#include <dlfcn.h>
#include <ggml-backend.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

#if defined(__linux__)
// The memory for keys and values is new when it is cleared, and zero: to write zeros into it takes as long as to use
// it, and makes it resident, though most requests never come near the end of their context. Given back, it reads as
// zeros.
static bool is_worth_it(ggml_backend_buffer_t buffer, uint8_t value) {
    return value == 0 && ggml_backend_buffer_get_size(buffer) >= 1u << 20 &&
           ggml_backend_buffer_get_type(buffer) == ggml_backend_cpu_buffer_type(); // its own memory, no mapped file
}

EXPORTED void host_buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) __asm__("ggml_backend_buffer_clear");
void host_buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    void (*next)(ggml_backend_buffer_t, uint8_t);
    if (is_worth_it(buffer, value)) {
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)ggml_backend_buffer_get_base(buffer);
        uintptr_t end = from + ggml_backend_buffer_get_size(buffer);
        uintptr_t first = (from + page - 1) & ~(page - 1), last = end & ~(page - 1);
        if (madvise((void *)first, last - first, MADV_DONTNEED) == 0) {
            memset((void *)from, 0, first - from);
            memset((void *)last, 0, end - last);
            return;
        }
    }
    *(void **)&next = dlsym(RTLD_NEXT, "ggml_backend_buffer_clear");
    next(buffer, value);
}
#endif

// std::string::compare(const char *) of libstdc++. A vocabulary is searched for its special tokens by comparing every
// token with some seventy words, nearly none of which begins like it; the library's own measures the word first.
struct string {
    const char *p;
    size_t n;
};
EXPORTED int host_string_compare(const struct string *s, const char *z) //
    __asm__("_ZNKSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE7compareEPKc");
int host_string_compare(const struct string *s, const char *z) {
    if (s->p[0] != z[0]) // each ends with a NUL
        return (unsigned char)s->p[0] < (unsigned char)z[0] ? -1 : 1;
    size_t n = strlen(z);
    int order = memcmp(s->p, z, s->n < n ? s->n : n);
    return order ? order : s->n < n ? -1 : s->n > n;
}
