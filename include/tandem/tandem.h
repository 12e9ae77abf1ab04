// SPDX-License-Identifier: Apache-2.0
// Tandem's public API: open a runtime from a configuration, send requests, get events, cancel, close. The daemon is
// built on this header (and admin.h) alone. Strings are UTF-8. Functions that can fail return 0 on success and fill a
// caller-owned `struct td_failure` otherwise. Every function may be called from any thread unless it says otherwise;
// callbacks run on one of the runtime's worker threads and must not block.
#ifndef TANDEM_H
#define TANDEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TANDEM_VERSION_MAJOR 0
#define TANDEM_VERSION_MINOR 1
#define TANDEM_VERSION_PATCH 0
#define TANDEM_VERSION "0.1.0"

#define TD_API __attribute__((visibility("default")))

struct td_runtime; // targets, policy, ledger, workers; heavy: one per process is the rule
struct td_call;    // one request in flight

// What went wrong: a stable code ("tandem.policy.no_target"; docs/errors.md lists them) and an English sentence. Never
// holds text of the request.
struct td_failure {
    char code[48];
    char message[240];
};

// What goes to standard error; QUIET: warnings and errors.
enum td_log_wish { TD_LOG_AS_CONFIGURED, TD_LOG_QUIET, TD_LOG_VERBOSE };

// Zero-initialise; zero means the default.
struct td_options {
    const char *config_path; // YAML file; NULL: the embedded defaults
    const char *config_text; // YAML text instead of a file
    const char *data_dir;    // overrides the configuration
    unsigned workers;        // threads; 0: the number of processors, at most 16
    const char *host_path;   // tandem-host; NULL: beside the running program, then the installed one
    enum td_log_wish log;
    bool operator_only; // no workers and no models: for td_admin_call alone
};

// Opens a runtime and starts its workers. Small local models load at once, others on first use. `options` may be NULL
// and need not outlive the call. Close with td_runtime_close. "tandem.config.invalid": the message holds file, line and
// column; "tandem.store.locked": another process holds the data directory; "tandem.internal.io",
// "tandem.internal.memory".
TD_API int td_runtime_open(const struct td_options *options, struct td_runtime **out, struct td_failure *failure);
// Cancels what still runs, writes out the ledger, frees everything. Takes NULL. Not from a callback.
TD_API void td_runtime_close(struct td_runtime *runtime);

enum td_answer_type {
    TD_ANSWER_BEGIN,     // target, tier, model, reason are known
    TD_ANSWER_TEXT,      // text appended to choice
    TD_ANSWER_TOOL_CALL, // a whole tool call: name, arguments (JSON text), call_id
    TD_ANSWER_REVISION,  // the answer so far is replaced by `text` (only if the request asked for mode "progressive")
    TD_ANSWER_END,       // complete: finish ("stop", "length", "tool_calls", "content_filter"), tokens, cost
    TD_ANSWER_ERROR      // failed: code, text; nothing follows
};

// Valid during the callback only. Strings are NUL-terminated, "" where they do not apply.
struct td_answer {
    enum td_answer_type type;
    const char *text;
    size_t text_length; // bytes
    const char *call_id, *name, *arguments;
    unsigned choice;   // 0 to n - 1 of the request
    unsigned revision; // the text belongs to: 0 the first, then rising by one
    const char *finish, *code;
    const char *exchange, *target, *tier, *model, *reason;
    bool degraded;     // a better target exists, but could not be reached
    bool queued;       // END: kept for a better answer, which will follow
    double confidence; // 0..1 of a local model, NaN unknown
    unsigned prompt_tokens, completion_tokens;
    int64_t cost_nusd; // nano-dollars, all attempts
};

typedef void (*td_answer_fn)(void *user, const struct td_answer *answer);

// Starts a chat request: `body` is an OpenAI chat-completions body (JSON, `length` bytes, copied), with the optional
// "tandem" object (docs/protocol.md). Events come to `on_answer` on a worker thread, possibly before this returns; END
// or ERROR last and exactly once, for a body that is wrong, too. `key` is an API key and says for which tenant the
// request is; NULL: this process asks for itself, as the default tenant. *out stays valid until td_call_release. Fails
// only where nothing was started, without any event: "tandem.request.too_large", "tandem.usage" (operator_only),
// "tandem.internal.memory".
TD_API int td_chat(struct td_runtime *runtime, const char *body, size_t length, const char *key, td_answer_fn on_answer,
                   void *user, struct td_call **out, struct td_failure *failure);
// Stops it: the upstream or the local model stops within milliseconds, what was used is accounted. An ERROR event with
// code "tandem.cancelled" still comes unless the call has ended already. Also from a callback.
TD_API void td_call_cancel(struct td_call *call);
// Gives the handle back. A call still running is cancelled first, without a further event. Also from a callback. Takes
// NULL.
TD_API void td_call_release(struct td_call *call);

// TANDEM_VERSION of the library that runs.
TD_API const char *td_version(void);

#ifdef __cplusplus
}
#endif

#endif
