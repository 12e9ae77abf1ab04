// SPDX-License-Identifier: Apache-2.0
// The laws of the simulator: policies drawn from the seed, written as YAML and read and compiled by the configuration
// reader itself, each with the one before it in sight, as a reload does. What they mean is read a second time here,
// from the drawn rules and by the words of docs/policy.md alone, so that the door's verdict has something to be held
// against.
#ifndef TD_TESTS_LAW_H
#define TD_TESTS_LAW_H

#include "config/config.h"
#include "rng.h"

enum { DEVICE, CLOUD, SPARE, EDGE, TARGETS };
#define LAW_LABELS 6u
#define LAW_RULES_MAX 4u

struct law_set { // 0: not stated
    uint32_t tiers, regions, targets;
};
struct law_rule {
    uint32_t labels, labels_all, classes; // bits; 0: any
    uint32_t residency;                   // a region; 0: any
    enum td_tristate stream;
    struct law_set allow, deny;
    enum td_transform transform;
};
struct law_target {
    bool there, terminal;
    uint32_t clearance, region, labels; // 0 not stated
};
struct law {
    uint64_t number;
    struct td_config *config;
    enum td_class default_class;
    uint32_t labels_named;                 // bits of those that this law or one before it speaks of
    enum td_class label_class[LAW_LABELS]; // UNKNOWN: it raises nothing
    struct law_target targets[TARGETS];
    struct law_rule rules[LAW_RULES_MAX];
    uint32_t rule_count;
};

// What the laws look at in a request.
struct law_request {
    uint32_t labels, residency, tiers; // tiers: the only ones; 0 all
    enum td_class data_class;          // UNKNOWN: not stated
    bool stream;
};

// Draws a law, writes it down and has it read. `before` is the law in force (NULL: a start, every target is there);
// `plain`: no rules and no limits; `tell`: print it. False when the reader refused it.
bool law_make(struct law *law, const struct law *before, uint64_t number, struct rng *rng, bool plain, bool tell);
// A configuration with a fault in it is refused. False when it was taken.
bool law_refuses_nonsense(const struct law *in_force, struct rng *rng);
void law_finish(struct law *law);

const char *law_label(uint32_t i);
const char *law_region(uint32_t i);
uint32_t law_draw_region(struct rng *rng);
// May the target, as `described` has it, see this request under `law`? `accepted` is the law it came in under.
bool law_permits(const struct law *law, const struct law *described, const struct law *accepted,
                 const struct law_request *q, uint32_t target);

#endif
