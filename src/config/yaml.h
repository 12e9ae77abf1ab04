// SPDX-License-Identifier: Apache-2.0
// YAML into a tree of nodes with their places, through libyaml (this folder alone includes yaml.h). A strict subset:
// one document; no anchors, aliases or tags (a file of a few lines could unfold to gigabytes); no key twice. Nodes live
// in the arena. Internal to config/.
#ifndef TD_CONFIG_YAML_H
#define TD_CONFIG_YAML_H

#include "base/mem.h"

#define TD_YAML_DEPTH_MAX 16u     // the deepest option lies at 7
#define TD_YAML_KEYS_MAX 1024u    // of one map; each is compared with the others
#define TD_YAML_NODES_MAX 200000u // word lists are the long ones

enum td_node_type { TD_NODE_SCALAR, TD_NODE_LIST, TD_NODE_MAP };

struct td_node {
    enum td_node_type type;
    bool quoted;           // "true" in quotes is text
    struct td_str text;    // scalar
    uint32_t line, column; // from 1
    struct td_node *first, *last, *next;
    uint32_t count;
    struct td_str key; // in a map
    uint32_t key_line, key_column;
};

// *out is NULL for an empty document. Errors: "file:line:column: …". TD_ERR_CONFIG, TD_ERR_NOMEM.
enum td_err td_yaml_parse(struct td_arena *arena, struct td_str text, const char *file, struct td_node **out,
                          struct td_error *e) TD_MUST_USE;
// Sets "file:line:column: " and the message; long file names keep their end.
enum td_err td_yaml_error(struct td_error *e, const char *file, uint32_t line, uint32_t column, const char *fmt, ...)
    TD_PRINTF(5, 6);

#endif
