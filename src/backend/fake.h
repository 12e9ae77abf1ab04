// SPDX-License-Identifier: Apache-2.0
// The fake beside the real backends: answers from a script, with no socket and no guest. It keeps the backend's
// contract to the letter (START first, nothing from inside start, exactly one END or ERROR, silence after destroy, no
// DELTA while paused), so that whatever stands on a backend can be tested without one. Belongs to its loop's thread.
#ifndef TD_BACKEND_FAKE_H
#define TD_BACKEND_FAKE_H

#include "backend/backend.h"

struct td_loop;

// What one attempt does. Zero-initialise; texts must outlive the attempt.
struct td_fake_script {
    struct td_str text;            // handed up word by word, each with the space behind it
    struct td_str tool, arguments; // a tool call instead
    enum td_err refuse;            // start fails with this, nothing comes
    enum td_err fail;              // ends with this ERROR after `words` words
    uint32_t words;                // with `fail`
    uint32_t pause_ms;             // between events
    uint32_t prompt_tokens;        // of USAGE; completion tokens are the words
    float logprob;                 // of each word, where the attempt wants them
};

// Called by start, on the loop's thread: what shall this attempt do?
typedef void (*td_fake_script_fn)(void *user, const struct td_attempt_spec *spec, struct td_fake_script *out);

// NULL without memory. Destroy after all attempts were destroyed; takes NULL.
struct td_backend *td_fake_create(struct td_loop *loop, td_fake_script_fn script, void *user);
void td_fake_destroy(struct td_backend *backend);

#endif
