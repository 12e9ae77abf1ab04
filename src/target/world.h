// SPDX-License-Identifier: Apache-2.0
// The world as one decision sees it: a plain value, copied from live counters when a request arrives, stored with the
// ledger row so that the decision can be replayed. Indexed by target index. No pointers into live state.
#ifndef TD_TARGET_WORLD_H
#define TD_TARGET_WORLD_H

#include "target/target.h"

#define TD_RATE_PAUSE_MS 1000u // after a 429 that does not say how long

enum td_breaker { TD_BREAKER_CLOSED, TD_BREAKER_HALF_OPEN, TD_BREAKER_OPEN };
enum td_connectivity { TD_CONNECTIVITY_AUTO, TD_CONNECTIVITY_OFFLINE, TD_CONNECTIVITY_METERED };

struct td_target_state {
    enum td_breaker breaker;
    bool ready;                        // llama: loaded or loadable; remote: not known to be misconfigured
    bool missing;                      // llama: its model file is not there
    bool loaded;                       // llama: answers without loading first
    uint32_t retry_after_ms;           // from now, the server's own wish; 0 none
    uint32_t ttft_ms_p50, ttft_ms_p95; // measured; 0 unknown
    uint32_t itl_us_p50;               // time per output token, microseconds; 0 unknown
    uint32_t connect_ms_p95;           // of new connections, TLS included; 0 unknown
    uint32_t load_ms;                  // llama: expected loading time when not loaded
    uint32_t active, queued;           // attempts now
    uint32_t failures_ppm;             // recent share of failed attempts
    int64_t budget_left_nusd;          // what budgets leave for this target now; INT64_MAX unlimited
    bool full;                         // its queue takes no attempt of the caller's priority
    uint32_t full_ms;                  // …and when it may be worth asking again; 0 unknown
    bool probe_ok;                     // half open: this request may be the probe
    uint32_t ramp_ppm;                 // share of requests it may take after a recovery; 0 and 1000000: all
    uint32_t context;                  // tokens, learned from the loaded model; 0 unknown
    uint32_t capabilities_absent;      // enum td_capability bits that it was found not to have
};

struct td_world {
    uint32_t target_count;
    struct {
        bool up, metered;
        uint32_t rtt_ms, kbps; // 0 unknown
        enum td_connectivity forced;
    } link;
    struct {
        uint64_t ram_bytes, ram_free_bytes;
        uint32_t cores, accelerators;
        bool on_battery;
        uint32_t battery_percent; // 100 where there is none
        bool hot;                 // thermally throttled
    } device;
    // Last, because a request keeps only as many places as there are targets: a world is not copied.
    struct td_target_state targets[TD_TARGETS_MAX];
};

static inline size_t td_world_bytes(uint32_t targets) {
    return offsetof(struct td_world, targets) + targets * sizeof(struct td_target_state);
}

#endif
