// SPDX-License-Identifier: Apache-2.0
// The configuration: YAML in, one immutable snapshot out. A snapshot owns everything it points to (one arena) and is
// reference-counted: a request holds the one it was accepted under until it ends; a reload makes a new one, whole or
// not at all. Unknown keys, wrong types and contradictions are errors with file, line and column. Secrets are never in
// it: keys are references (env:, file:, credential:) that remote/ resolves. Every text is followed by a NUL byte. Any
// thread may read and count references.
#ifndef TD_CONFIG_CONFIG_H
#define TD_CONFIG_CONFIG_H

#include <stdatomic.h>

#include "base/log.h"
#include "config/durability.h"
#include "policy/policy.h"
#include "target/world.h"

#define TD_CONFIG_BYTES_MAX (1u << 20) // a configuration is written by people
#define TD_TENANTS_MAX 4096u
#define TD_ALIASES_MAX 256u

enum td_reconcile { TD_RECONCILE_TAKE_BETTER, TD_RECONCILE_KEEP_LOCAL, TD_RECONCILE_ASK };

struct td_listen {
    struct td_str address; // host part without brackets: "127.0.0.1", "::1"; "" for a Unix socket
    uint16_t port;         // 0: any free one
    struct td_str unix_path;
    bool loopback;        // cannot be reached from another machine
    struct td_str *hosts; // further Host names
    uint32_t host_count;
    struct td_str *origins;
    uint32_t origin_count;
    struct td_str tls_cert, tls_key, tls_client_ca;
    uint64_t body_bytes_max;
    uint32_t connections_max, connections_per_peer_max;
};

struct td_outbox_settings {
    bool enabled;
    uint32_t entries_max;
    uint64_t bytes_max;
    uint64_t expiry_s;
    uint32_t replay_per_min; // rate of replay after reconnecting
    enum td_reconcile reconcile;
};

// Where later answers are delivered. `place` says where it is and what it may see, in a target's words.
struct td_webhook {
    struct td_target place;   // base_url "": no webhook
    struct td_str secret_ref; // signs each delivery
    bool private_ok;          // its address may be this machine's or a private network's
};

struct td_config {
    struct td_arena arena;
    atomic_uint refs;
    struct td_str source; // file name, or "(default)"
    struct td_str dir;    // its folder: relative paths start here
    uint64_t version;     // of the text; the policy's version

    struct td_listen listen;
    struct td_str data_dir;
    uint32_t workers; // 0: the number of processors
    enum td_log_level log_level;
    enum td_connectivity connectivity;
    bool probes; // light probes tell when the network is back
    uint32_t probe_interval_ms;
    uint64_t memory_bytes_max; // all local models together; 0: half of what the machine has
    uint32_t idle_unload_s;    // 0 never
    uint32_t drain_ms;         // how long SIGTERM waits for running requests
    uint32_t keepalive_ms;     // a stream silent for so long gets a comment; 0 never
    enum td_durability durability;
    uint32_t ledger_batch_ms;
    uint32_t ledger_keep_days; // 0 for good
    struct td_outbox_settings outbox;
    struct td_webhook webhook;
    uint32_t key_requests_per_min, key_tokens_per_min; // of each API key; 0 unlimited

    struct td_target *targets;
    uint32_t target_count;
    struct td_policy policy; // with aliases and tenants
};

// Reads a file. `previous` (may be NULL) is the snapshot it replaces: labels keep their bits across a reload. On
// failure e->message is "file:line:column: what was expected" and *out is untouched. TD_ERR_CONFIG (also where there is
// no such file), TD_ERR_IO, TD_ERR_NOMEM, TD_ERR_LIMIT. The caller owns one reference.
enum td_err td_config_load(const char *path, const struct td_config *previous, struct td_config **out,
                           struct td_error *e) TD_MUST_USE;
// The same from text; `name` stands for the file in messages, `dir` is where relative paths start (NULL: the current
// folder).
enum td_err td_config_load_text(struct td_str text, const char *name, const char *dir, const struct td_config *previous,
                                struct td_config **out, struct td_error *e) TD_MUST_USE;
// The embedded defaults: the on-device starter model on 127.0.0.1:8484. Static storage.
struct td_str td_config_default_text(void);
struct td_config *td_config_ref(struct td_config *config);
// Takes NULL. The last reference frees it.
void td_config_unref(struct td_config *config);

// Names of targets and tenants: 1..128 of [A-Za-z0-9._-], first a letter or digit; no "..".
bool td_name_valid(struct td_str name);
// Appends the table of all options: as JSON (`tandem check --schema`) or Markdown (docs/config.md).
enum td_err td_config_schema_json(struct td_buf *out) TD_MUST_USE;
enum td_err td_config_schema_markdown(struct td_buf *out) TD_MUST_USE;

#endif
