// SPDX-License-Identifier: Apache-2.0
// JSON (RFC 8259) through yyjson: parse once, in place, with a depth limit; small typed getters that tell a wrong type
// from an absent key. Only this header includes yyjson. Values live as long as their document. One owner.
#ifndef TD_BASE_JSON_H
#define TD_BASE_JSON_H

#include <yyjson.h>

#include "base/err.h"
#include "base/mem.h"

typedef yyjson_val td_json; // yyjson's own handle, used through its own accessors; the one typedef in the tree

// Parses `text` (copied), at most `depth_max` levels deep. The document is freed with the arena. On error *e says where
// (byte offset) and why, without quoting the text. TD_ERR_BAD_JSON, TD_ERR_LIMIT (depth), TD_ERR_NOMEM.
enum td_err td_json_parse(struct td_arena *arena, struct td_str text, unsigned depth_max, td_json **out,
                          struct td_error *e) TD_MUST_USE;

// The same into memory that the next call reuses, for streams of small documents: values live until the next parse or
// until finish. Zero-initialise it before first use. One owner.
struct td_json_pool {
    void *memory;
    size_t size;
    yyjson_doc *doc; // a document too large for keeping its memory
};
enum td_err td_json_parse_pooled(struct td_json_pool *pool, struct td_str text, unsigned depth_max, td_json **out,
                                 struct td_error *e) TD_MUST_USE;
void td_json_pool_finish(struct td_json_pool *pool);

static inline struct td_str td_json_str(td_json *v) {
    const char *p = yyjson_get_str(v); // the length is also that of lists and objects
    return (struct td_str){p, p ? yyjson_get_len(v) : 0};
}
// obj[key] or NULL; also NULL where obj is no object or the value is JSON null.
td_json *td_json_getn(td_json *obj, const char *key, size_t n);
struct td_str td_json_getn_str(td_json *obj, const char *key, size_t n); // {NULL,0} when absent or no string
double td_json_getn_num(td_json *obj, const char *key, size_t n, double otherwise);
int64_t td_json_getn_int(td_json *obj, const char *key, size_t n, int64_t otherwise);
bool td_json_getn_bool(td_json *obj, const char *key, size_t n, bool otherwise);
// The same by a string, of a literal without measuring it anew each time.
#define td_json_get(obj, key) td_json_getn(obj, key, strlen(key))
#define td_json_get_str(obj, key) td_json_getn_str(obj, key, strlen(key))
#define td_json_get_num(obj, key, otherwise) td_json_getn_num(obj, key, strlen(key), otherwise)
#define td_json_get_int(obj, key, otherwise) td_json_getn_int(obj, key, strlen(key), otherwise)
#define td_json_get_bool(obj, key, otherwise) td_json_getn_bool(obj, key, strlen(key), otherwise)
// Appends the value as compact JSON.
enum td_err td_json_write(td_json *v, struct td_buf *out) TD_MUST_USE;

#endif
