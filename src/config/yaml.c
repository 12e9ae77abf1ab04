// SPDX-License-Identifier: Apache-2.0
#include "config/yaml.h"

#include <stdio.h>
#include <yaml.h>

#define FILE_NAME_SHOWN_MAX 96u // of the 240 bytes of a message

enum td_err td_yaml_error(struct td_error *e, const char *file, uint32_t line, uint32_t column, const char *fmt, ...) {
    char what[240];
    va_list args;
    size_t n = strlen(file);
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return td_error_set(e, TD_ERR_CONFIG, "%s%s:%u:%u: %s", n > FILE_NAME_SHOWN_MAX ? "…" : "",
                        n > FILE_NAME_SHOWN_MAX ? file + n - FILE_NAME_SHOWN_MAX : file, line, column, what);
}

struct reader {
    struct td_arena *arena;
    const char *file;
    struct td_error *e;
    struct td_node *stack[TD_YAML_DEPTH_MAX]; // open lists and maps
    uint32_t depth, nodes;
    struct td_node *root;
    struct td_node *key; // a key that waits for its value
};

static enum td_err fail_at(const struct reader *r, const yaml_mark_t *mark, const char *what) {
    return td_yaml_error(r->e, r->file, (uint32_t)mark->line + 1, (uint32_t)mark->column + 1, "%s", what);
}

static enum td_err fail_parser(const struct reader *r, const yaml_parser_t *p) {
    if (p->error == YAML_MEMORY_ERROR)
        return td_error_set(r->e, TD_ERR_NOMEM, "out of memory while reading the configuration");
    if (p->error == YAML_READER_ERROR) // its offset counts bytes; the place in lines is not known
        return td_error_set(r->e, TD_ERR_CONFIG, "%s: byte %zu: %s", r->file, p->problem_offset,
                            p->problem ? p->problem : "not readable as text");
    return td_yaml_error(r->e, r->file, (uint32_t)p->problem_mark.line + 1, (uint32_t)p->problem_mark.column + 1,
                         "%s%s%s", p->problem ? p->problem : "not valid YAML", p->context ? " " : "",
                         p->context ? p->context : "");
}

// Hangs a new node where it belongs: the document's root, a list's next item, a key's value.
static enum td_err attach(struct reader *r, struct td_node *node, const yaml_mark_t *mark) {
    if (++r->nodes > TD_YAML_NODES_MAX)
        return fail_at(r, mark, "the file has too many entries");
    node->line = (uint32_t)mark->line + 1;
    node->column = (uint32_t)mark->column + 1;
    if (r->depth == 0) {
        r->root = node;
        return TD_OK;
    }
    struct td_node *parent = r->stack[r->depth - 1];
    if (parent->type == TD_NODE_MAP) {
        if (!r->key) { // this one is the key
            if (node->type != TD_NODE_SCALAR)
                return fail_at(r, mark, "a key must be a plain word");
            if (parent->count >= TD_YAML_KEYS_MAX)
                return fail_at(r, mark, "too many keys in one place");
            for (const struct td_node *n = parent->first; n; n = n->next)
                if (td_str_eq(n->key, node->text))
                    return fail_at(r, mark, "this key stands here twice");
            r->key = node;
            return TD_OK;
        }
        node->key = r->key->text;
        node->key_line = r->key->line;
        node->key_column = r->key->column;
        r->key = NULL;
    }
    if (parent->last)
        parent->last->next = node;
    else
        parent->first = node;
    parent->last = node;
    parent->count++;
    return TD_OK;
}

static enum td_err open_node(struct reader *r, enum td_node_type type, const yaml_mark_t *mark) {
    struct td_node *node = td_arena_alloc(r->arena, sizeof *node);
    if (!node)
        return td_error_set(r->e, TD_ERR_NOMEM, "out of memory while reading the configuration");
    node->type = type;
    enum td_err err = attach(r, node, mark);
    if (err != TD_OK)
        return err;
    if (r->depth == TD_YAML_DEPTH_MAX)
        return fail_at(r, mark, "nested too deeply");
    r->stack[r->depth++] = node;
    return TD_OK;
}

static enum td_err on_scalar(struct reader *r, const yaml_event_t *ev) {
    struct td_node *node = td_arena_alloc(r->arena, sizeof *node);
    struct td_str text = {(const char *)ev->data.scalar.value, ev->data.scalar.length};
    if (!node)
        return td_error_set(r->e, TD_ERR_NOMEM, "out of memory while reading the configuration");
    if (memchr(text.p, 0, text.n))
        return fail_at(r, &ev->start_mark, "a text must not hold a NUL byte");
    node->type = TD_NODE_SCALAR;
    node->quoted = ev->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node->text = td_arena_str(r->arena, text);
    if (!node->text.p)
        return td_error_set(r->e, TD_ERR_NOMEM, "out of memory while reading the configuration");
    return attach(r, node, &ev->start_mark);
}

static bool has_extras(const yaml_event_t *ev) {
    switch (ev->type) {
    case YAML_SCALAR_EVENT:
        return ev->data.scalar.anchor || ev->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return ev->data.sequence_start.anchor || ev->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return ev->data.mapping_start.anchor || ev->data.mapping_start.tag;
    default:
        return ev->type == YAML_ALIAS_EVENT;
    }
}

static enum td_err on_event(struct reader *r, const yaml_event_t *ev, unsigned *documents) {
    if (has_extras(ev))
        return fail_at(r, &ev->start_mark, "anchors, aliases and tags are not used in this file");
    switch (ev->type) {
    case YAML_DOCUMENT_START_EVENT:
        return ++*documents > 1 ? fail_at(r, &ev->start_mark, "one document only") : TD_OK;
    case YAML_SCALAR_EVENT:
        return on_scalar(r, ev);
    case YAML_SEQUENCE_START_EVENT:
        return open_node(r, TD_NODE_LIST, &ev->start_mark);
    case YAML_MAPPING_START_EVENT:
        return open_node(r, TD_NODE_MAP, &ev->start_mark);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        r->depth--;
        return TD_OK;
    default:
        return TD_OK;
    }
}

enum td_err td_yaml_parse(struct td_arena *arena, struct td_str text, const char *file, struct td_node **out,
                          struct td_error *e) {
    struct reader r = {.arena = arena, .file = file, .e = e};
    yaml_parser_t parser;
    unsigned documents = 0;
    enum td_err err = TD_OK;
    bool done = false;
    if (!yaml_parser_initialize(&parser))
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading the configuration");
    yaml_parser_set_input_string(&parser, (const unsigned char *)(text.p ? text.p : ""), text.n);
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    while (!done && err == TD_OK) {
        yaml_event_t ev;
        if (!yaml_parser_parse(&parser, &ev)) {
            err = fail_parser(&r, &parser);
            break;
        }
        done = ev.type == YAML_STREAM_END_EVENT;
        err = on_event(&r, &ev, &documents);
        yaml_event_delete(&ev);
    }
    yaml_parser_delete(&parser);
    if (err == TD_OK)
        *out = r.root;
    return err;
}
