// SPDX-License-Identifier: Apache-2.0
// A target: a model reachable somewhere, as the configuration states it. Part of a configuration snapshot: immutable,
// shared by all threads, alive as long as the snapshot. What changes (health, latency, load) is in target/world.h.
#ifndef TD_TARGET_TARGET_H
#define TD_TARGET_TARGET_H

#include "base/limits.h"
#include "wire/request.h"

enum td_tier { TD_TIER_DEVICE, TD_TIER_EDGE, TD_TIER_ONPREM, TD_TIER_CLOUD, TD_TIER_COUNT };
// What a model is good for, in general. COMMAND: made for short assistant commands, nothing else.
enum td_model_class { TD_MODEL_SMALL, TD_MODEL_MEDIUM, TD_MODEL_LARGE, TD_MODEL_REASONING, TD_MODEL_COMMAND };
enum td_provider { TD_PROVIDER_LLAMA, TD_PROVIDER_OPENAI, TD_PROVIDER_TANDEM, TD_PROVIDER_FAKE };

// Milliseconds; 0 is never "for ever": the configuration fills in defaults.
struct td_timeouts {
    uint32_t connect_ms;     // default 2000
    uint32_t first_token_ms; // default 10000
    uint32_t idle_ms;        // silence between events, default 15000
    uint32_t total_ms;       // default 120000
};

struct td_price { // nano-dollars per token: USD per million tokens x 1000
    int64_t input_nusd, output_nusd, cached_input_nusd;
};

struct td_header {
    struct td_str name, value;
};

struct td_target {
    uint32_t index; // in the snapshot's list; bit number in target sets
    struct td_str name;
    enum td_tier tier;
    enum td_provider provider;
    struct td_str model;      // provider's name, or the path of a GGUF file
    struct td_str base_url;   // remote only, without trailing slash
    struct td_str path_style; // "openai" (default) or "azure" (deployments path and api-version)
    struct td_str api_version;
    struct td_str api_key_ref; // "env:NAME", "file:PATH", "credential:NAME"; resolved by remote/, never logged
    struct td_str auth_header; // default "authorization" with "Bearer "; "api-key" for azure
    struct td_str ca_file, client_cert_file, client_key_file, proxy;
    struct td_header *headers; // custom, static
    uint32_t header_count;
    struct td_str region;    // "" unstated; "local" for the device
    enum td_class clearance; // highest class it may see; PUBLIC when unstated off this device
    bool clearance_stated;
    uint32_t labels_cleared; // label bits it may see; all bits where nothing is stated
    struct td_price price;
    bool paid;                                  // price not zero
    int64_t budget_day_nusd, budget_month_nusd; // most that may be spent here (UTC); 0 none
    uint32_t context;                           // tokens; 0 unknown
    uint32_t max_output;                        // tokens; 0 unknown
    uint32_t capabilities;                      // enum td_capability bits
    double quality;                             // prior 0..1
    struct td_str class_name;                   // capability class: small, medium, large, reasoning, command
    enum td_model_class model_class;
    struct td_str declines; // the whole answer by which the model says "not for me"; "" it never does
    uint32_t latency_ms;    // prior of time to first token; 0 by tier
    struct td_timeouts timeouts;
    struct td_str *fallback; // names that may follow when this target is pinned
    uint32_t fallback_count;
    bool terminal;  // states that it does not forward (docs/policy.md)
    bool continues; // accepts an assistant prefix
    enum td_prefix_mark prefix_mark;
    bool idempotency;             // honours an Idempotency-Key header
    bool hedge;                   // may be hedged though paid
    double cascade_threshold;     // confidence below which cascade escalates; NaN default
    uint32_t parallel;            // llama: sequences decoded together; remote: concurrent attempts, 0 unlimited
    uint32_t gpu_layers, threads; // llama
    uint32_t queue_max;           // waiting attempts before it counts as full
    double slowdown_max;          // llama: under overload, how many times what it takes alone; 0 any
    uint64_t memory_bytes_max;    // llama: 0 the runtime's ceiling alone
    struct td_str tools_file;     // llama: tools that requests are likely to bring, prepared with the load; "" none
    enum td_tier policy_tier;     // the tier that rules see: an openai target that may forward counts as cloud
    bool loopback;                // its traffic stays on this machine (llama, loopback address, Unix socket)
    bool fresh;                   // knows things newer than a model's training (search, retrieval)
    bool insecure;                // http:// beyond loopback was asked for explicitly
    bool model_found;             // llama: the model file existed when the configuration was read
    uint64_t name_hash;           // of `name`; the same in every snapshot
};

#endif
