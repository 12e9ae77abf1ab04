// SPDX-License-Identifier: Apache-2.0
#include "vectors.h"

// How much of `text` one unit takes; its bytes are appended.
static size_t unescape_one(struct vector *v, const char *text) {
    static const char from[] = "rnt0\\", to[] = "\r\n\t\0\\";
    unsigned times, byte;
    int used = 0;
    char c;
    if (sscanf(text, "{%u*FIELD}%n", &times, &used) == 1 && used) {
        while (times--)
            v->n += (size_t)sprintf(v->bytes + v->n, "X-F: v\r\n");
    } else if (sscanf(text, "{%u*INTERIM}%n", &times, &used) == 1 && used) {
        while (times--)
            v->n += (size_t)sprintf(v->bytes + v->n, "HTTP/1.1 100 Continue\r\n\r\n");
    } else if (sscanf(text, "{%u*%c}%n", &times, &c, &used) == 2 && used) {
        memset(v->bytes + v->n, c, times);
        v->n += times;
    } else if (*text == '\\' && text[1] == 'x' && sscanf(text + 2, "%2x", &byte) == 1) {
        v->bytes[v->n++] = (char)byte;
        used = 4;
    } else if (*text == '\\') {
        const char *at = strchr(from, text[1]);
        assert_non_null(at);
        v->bytes[v->n++] = to[at - from];
        used = 2;
    } else {
        v->bytes[v->n++] = *text;
        used = 1;
    }
    return (size_t)used;
}

unsigned vectors_each(void (*fn)(const struct vector *v)) {
    static struct vector v;
    char line[4096];
    unsigned count = 0;
    FILE *f = fopen(VECTORS, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (!line[0] || line[0] == '#')
            continue;
        assert_int_equal(sscanf(line, "%31s %31s", v.name, v.gives), 2);
        assert_true(strlen(line) >= 44);
        v.n = 0;
        for (const char *p = line + 44; *p;)
            p += unescape_one(&v, p);
        fn(&v);
        count++;
    }
    fclose(f);
    return count;
}
