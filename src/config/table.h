// SPDX-License-Identifier: Apache-2.0
// What the tables of options share: what may stand there, and the words that are understood. The root is table.c,
// targets are in table_target.c, who may do what in table_policy.c. Internal to config/.
#ifndef TD_CONFIG_TABLE_H
#define TD_CONFIG_TABLE_H

#include "config/option.h"

#define TIERS "device | edge | onprem | cloud"
#define CLASSES "public | internal | confidential | restricted"
#define PREFERS "balanced | fast | cheap | quality | private"
#define MODES "single | fallback | cascade | progressive | hedge"
#define CAPABILITIES                                                                                                   \
    "chat | completion | embedding | tools | json | json_schema | logprobs | infill | image | audio | file | "         \
    "choices | continue"
#define U32_MAX 4294967295.0

// Each reads one word; false: it is none of those.
bool td_bit_capability(struct td_str s, uint32_t *v);
bool td_bit_feature(struct td_str s, uint32_t *v);
bool td_bit_kind(struct td_str s, uint32_t *v);
bool td_bit_mode(struct td_str s, uint32_t *v);
bool td_bit_prefer(struct td_str s, uint32_t *v);
bool td_bit_tier(struct td_str s, uint32_t *v);
bool td_word_class(struct td_str s, uint32_t *v);
bool td_word_connectivity(struct td_str s, uint32_t *v);
bool td_word_durability(struct td_str s, uint32_t *v);
bool td_word_log_level(struct td_str s, uint32_t *v);
bool td_word_mode(struct td_str s, uint32_t *v);
bool td_word_model_class(struct td_str s, uint32_t *v);
bool td_word_on_cut(struct td_str s, uint32_t *v);
bool td_word_path_style(struct td_str s, uint32_t *v);
bool td_word_prefer(struct td_str s, uint32_t *v);
bool td_word_prefix_mark(struct td_str s, uint32_t *v);
bool td_word_provider(struct td_str s, uint32_t *v);
bool td_word_reconcile(struct td_str s, uint32_t *v);
bool td_word_tier(struct td_str s, uint32_t *v);

// Where one or a list may stand: its items, or the one.
static inline struct td_node *td_first_item(const struct td_node *node) {
    return node->type == TD_NODE_LIST ? node->first : (struct td_node *)(uintptr_t)node;
}
static inline struct td_node *td_next_item(const struct td_node *list, const struct td_node *item) {
    return list->type == TD_NODE_LIST ? item->next : NULL;
}
// One or a list of labels into a bit set.
enum td_err td_config_read_labels(struct td_loader *l, const struct td_node *node, uint32_t *out) TD_MUST_USE;

// table_target.c
extern const struct td_option td_config_target_rows[];
enum td_err td_config_read_targets(struct td_loader *l, const struct td_node *node, void *config) TD_MUST_USE;

// table_policy.c
extern const struct td_option td_config_tenant_rows[], td_config_policy_rows[];
enum td_err td_config_read_tenants(struct td_loader *l, const struct td_node *node, void *config) TD_MUST_USE;

#endif
