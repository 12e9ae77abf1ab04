// SPDX-License-Identifier: Apache-2.0
// Options as data: one row per option says its key, type, range, default and documentation, and where its value goes.
// The same rows read the file, explain what was expected, and print the schema and the documentation table. To add an
// option, add a field and a row (config/table.h says where). Internal to config/.
#ifndef TD_CONFIG_OPTION_H
#define TD_CONFIG_OPTION_H

#include "config/config.h"
#include "config/yaml.h"

enum td_option_type {
    TD_OPT_BOOL,     // bool
    TD_OPT_TRISTATE, // enum td_tristate
    TD_OPT_U16,
    TD_OPT_U32,
    TD_OPT_U64,
    TD_OPT_NUMBER,  // double
    TD_OPT_TEXT,    // struct td_str, min..max bytes
    TD_OPT_NAME,    // struct td_str of the name grammar
    TD_OPT_PATH,    // struct td_str, made absolute
    TD_OPT_URL,     // struct td_str, without trailing slash
    TD_OPT_PROXY,   // struct td_str: http://host:port, or http://SECRET@host:port with a secret as below
    TD_OPT_SECRET,  // struct td_str: env:NAME, file:PATH, credential:NAME
    TD_OPT_REGION,  // struct td_str of the region grammar
    TD_OPT_WORD,    // an enum of 4 bytes
    TD_OPT_WORDS,   // uint32_t, one bit per word; one or a list
    TD_OPT_TEXTS,   // struct td_str * and, right behind it, uint32_t; one or a list
    TD_OPT_BYTES,   // uint64_t: number with KiB, MiB, GiB
    TD_OPT_USD,     // int64_t nano-dollars
    TD_OPT_PRICE,   // int64_t nano-dollars per token, written as USD per million
    TD_OPT_SECTION, // a map of further options, read into the same object
    TD_OPT_CUSTOM   // `read` does it
};

struct td_loader {
    struct td_arena *arena;
    const char *file;
    struct td_str dir;
    struct td_error *e;
    struct td_config *config;
};

struct td_option {
    const char *key;
    enum td_option_type type;
    size_t offset;
    double min, max;
    const char *otherwise; // default as it would stand in the file; NULL none
    const char *doc;
    const char *words; // "a | b | c": what may stand here
    bool (*word)(struct td_str word, uint32_t *value);
    const struct td_option *section;                          // SECTION; CUSTOM: of each item
    enum { TD_SHAPE_ONE, TD_SHAPE_LIST, TD_SHAPE_MAP } shape; // CUSTOM: how the items come
    enum td_err (*read)(struct td_loader *l, const struct td_node *node, void *base);
    size_t stated; // 1 + offset of a bool set where the key is given; 0 none
};

// Reads `node` (a map, or NULL for all defaults) into `base` by the rows, the last of which has no key.
enum td_err td_option_read(struct td_loader *l, const struct td_node *node, const struct td_option *rows,
                           void *base) TD_MUST_USE;
// "file:line:column: message" at a node.
enum td_err td_option_error(struct td_loader *l, const struct td_node *node, const char *fmt, ...) TD_PRINTF(3, 4);
// The single value a row would read from this scalar text, for defaults.
enum td_err td_option_value(struct td_loader *l, const struct td_node *node, const struct td_option *row,
                            void *base) TD_MUST_USE;
// Makes room for a list's items in the arena; an error at `node` over `max`.
enum td_err td_option_items(struct td_loader *l, const struct td_node *node, uint32_t max, size_t size,
                            void **out) TD_MUST_USE;
// Absolute: "~/" is the home folder, other relative paths start at the configuration's folder.
enum td_err td_option_path(struct td_loader *l, struct td_str text, struct td_str *out) TD_MUST_USE;
bool td_region_valid(struct td_str region);
// The label's bit, given on first mention; 0 with an error set when all are used up.
uint32_t td_label_intern(struct td_loader *l, const struct td_node *node, struct td_str name);

// Fills in what follows from tier and provider, and refuses contradictions.
enum td_err td_config_target_complete(struct td_loader *l, const struct td_node *node,
                                      struct td_target *target) TD_MUST_USE;
// "address:port", "[v6]:port" or "unix:/path" into config->listen.
enum td_err td_config_read_listen(struct td_loader *l, const struct td_node *node, void *config) TD_MUST_USE;
// auto, auto:preference or the name of a target.
bool td_config_model_exists(const struct td_config *config, struct td_str name);

extern const struct td_option td_config_options[]; // the root

#endif
