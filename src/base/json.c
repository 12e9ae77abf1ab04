// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

static void free_doc(void *doc) {
    yyjson_doc_free(doc);
}

static void *json_malloc(void *ctx, size_t n) {
    (void)ctx;
    return td_malloc(n);
}
static void *json_realloc(void *ctx, void *p, size_t old, size_t n) {
    (void)ctx, (void)old;
    return td_realloc(p, n);
}
static void json_free(void *ctx, void *p) {
    (void)ctx;
    td_free(p);
}
static const yyjson_alc allocator = {json_malloc, json_realloc, json_free, NULL};

// Where the string ends that began before `from`: its closing quote, or n. memchr does the walking, because most bytes
// of a body lie in strings; backslashes are counted once per quote they stand before.
static size_t string_end(const char *p, size_t from, size_t n) {
    while (from < n) {
        const char *quote = memchr(p + from, '"', n - from);
        if (!quote)
            return n;
        size_t at = (size_t)(quote - p), back = at;
        while (back > from && p[back - 1] == '\\')
            back--;
        if ((at - back) % 2 == 0)
            return at;
        from = at + 1;
    }
    return n;
}

// yyjson itself does not recurse, but what reads the values later may: depth is checked on the bytes before parsing.
static bool depth_exceeds(struct td_str s, unsigned max) {
    unsigned depth = 0;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '"') {
            i = string_end(s.p, i + 1, s.n);
        } else if (c == '{' || c == '[') {
            if (++depth > max)
                return true;
        } else if (c == '}' || c == ']') {
            if (depth)
                depth--;
        }
    }
    return false;
}

static enum td_err parse(struct td_str text, unsigned depth_max, const yyjson_alc *alc, yyjson_doc **out,
                         struct td_error *e) {
    yyjson_read_err read_err;
    if (depth_exceeds(text, depth_max))
        return td_error_set(e, TD_ERR_LIMIT, "JSON is nested deeper than %u levels", depth_max);
    *out = yyjson_read_opts((char *)(uintptr_t)text.p, text.n, YYJSON_READ_NOFLAG, alc, &read_err);
    if (*out)
        return TD_OK;
    if (read_err.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading JSON");
    return td_error_set(e, TD_ERR_BAD_JSON, "invalid JSON at byte %zu: %s", read_err.pos, read_err.msg);
}

enum td_err td_json_parse(struct td_arena *arena, struct td_str text, unsigned depth_max, td_json **out,
                          struct td_error *e) {
    yyjson_doc *doc;
    enum td_err err = parse(text, depth_max, &allocator, &doc, e);
    if (err != TD_OK)
        return err;
    if (td_arena_on_finish(arena, free_doc, doc) != TD_OK) {
        yyjson_doc_free(doc);
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading JSON");
    }
    *out = yyjson_doc_get_root(doc);
    return TD_OK;
}

#define POOL_BYTES_MAX (64u << 10) // what one of many idle streams may keep

enum td_err td_json_parse_pooled(struct td_json_pool *pool, struct td_str text, unsigned depth_max, td_json **out,
                                 struct td_error *e) {
    yyjson_doc *doc;
    yyjson_alc alc;
    enum td_err err;
    yyjson_doc_free(pool->doc);
    pool->doc = NULL;
    size_t need = text.n <= POOL_BYTES_MAX ? yyjson_read_max_memory_usage(text.n, YYJSON_READ_NOFLAG) : SIZE_MAX;
    if (need > POOL_BYTES_MAX) {
        err = parse(text, depth_max, &allocator, &doc, e);
        pool->doc = err == TD_OK ? doc : NULL;
    } else {
        if (pool->size < need) {
            td_free(pool->memory);
            pool->size = need < 4096 ? 4096 : need + need / 2;
            pool->memory = td_malloc(pool->size);
        }
        if (!pool->memory || !yyjson_alc_pool_init(&alc, pool->memory, pool->size)) {
            pool->size = 0;
            return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading JSON");
        }
        err = parse(text, depth_max, &alc, &doc, e);
    }
    if (err == TD_OK)
        *out = yyjson_doc_get_root(doc);
    return err;
}

void td_json_pool_finish(struct td_json_pool *pool) {
    yyjson_doc_free(pool->doc);
    td_free(pool->memory);
    *pool = (struct td_json_pool){0};
}

td_json *td_json_getn(td_json *obj, const char *key, size_t n) {
    td_json *v = yyjson_obj_getn(obj, key, n);
    return yyjson_is_null(v) ? NULL : v;
}

struct td_str td_json_getn_str(td_json *obj, const char *key, size_t n) {
    td_json *v = yyjson_obj_getn(obj, key, n);
    return yyjson_is_str(v) ? td_json_str(v) : TD_STR_NONE;
}

double td_json_getn_num(td_json *obj, const char *key, size_t n, double otherwise) {
    td_json *v = yyjson_obj_getn(obj, key, n);
    return yyjson_is_num(v) ? yyjson_get_num(v) : otherwise;
}

int64_t td_json_getn_int(td_json *obj, const char *key, size_t n, int64_t otherwise) {
    td_json *v = yyjson_obj_getn(obj, key, n);
    if (yyjson_is_uint(v) && yyjson_get_uint(v) > INT64_MAX)
        return otherwise;
    return yyjson_is_int(v) ? yyjson_get_sint(v) : otherwise;
}

bool td_json_getn_bool(td_json *obj, const char *key, size_t n, bool otherwise) {
    td_json *v = yyjson_obj_getn(obj, key, n);
    return yyjson_is_bool(v) ? yyjson_get_bool(v) : otherwise;
}

enum td_err td_json_write(td_json *v, struct td_buf *out) {
    size_t n;
    yyjson_write_err err;
    char *text = yyjson_val_write_opts(v, YYJSON_WRITE_NOFLAG, &allocator, &n, &err);
    if (!text)
        return TD_ERR_NOMEM;
    enum td_err e = td_buf_add(out, text, n);
    td_free(text);
    return e;
}
