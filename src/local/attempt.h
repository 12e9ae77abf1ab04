// SPDX-License-Identifier: Apache-2.0
// What the files of the local backend share: attempts (local.c), links to guests (link.c), and how frames become events
// (frames.c).
//
// Invariants. Everything here belongs to the loop's thread. A link is this worker's connection to one guest; it lives
// until the guest's end of it closes and it is known why, or the backend goes. on_event may destroy any attempt, also
// the one it is called for: after each call `gone` says so, and nothing of the attempt is touched.
#ifndef TD_LOCAL_ATTEMPT_H
#define TD_LOCAL_ATTEMPT_H

#include "base/counters.h"
#include "local/guest.h"
#include "local/local.h"

enum td_local_state { TD_LOCAL_WAITING, TD_LOCAL_SENT, TD_LOCAL_OVER };

struct td_attempt {
    struct td_attempt *next; // in the backend's list while waiting, in the link's while sent
    struct td_local *local;
    struct td_attempt_spec copy;
    enum td_local_state state;
    struct td_model *model; // while waiting
    struct td_link *link;   // while sent
    struct td_guest *guest; // while sent
    uint32_t id, owed;      // credits to give back
    uint64_t prompt;
    bool paused;
    struct td_buf held;     // frames that came while paused
    struct td_timer *timer; // deadline; also hands out held frames after resume
    bool replay;
    bool *gone;
    struct td_attempt_stats stats;
    double logprob_sum, entropy_sum;
    uint32_t token_count, prompt_tokens;
};

struct td_link {
    struct td_link *next;
    struct td_local *local;
    struct td_guest *guest;
    int fd;
    struct td_watch *watch;
    struct td_buf in, out;
    struct td_attempt *attempts;
    uint32_t next_id;
    bool broken;
};

struct td_local {
    struct td_backend base;
    struct td_manager *manager;
    unsigned worker;
    struct td_loop *loop;
    struct td_link *links;
    struct td_attempt *waiting;
    struct td_timer *sweeper; // closes broken links outside of their own callbacks
    struct td_token *tokens;  // scratch for one event
    size_t token_cap;
    struct td_counter *known, *made;
};

// ---- link.c

// The link to `guest`, made where there is none. NULL: the guest has just ended (the manager will hear of it and tell),
// or there is no memory.
struct td_link *td_link_find(struct td_local *local, struct td_guest *guest);
// Nothing goes either way any more; the sweeper ends its attempts and destroys it, from the loop.
void td_link_break(struct td_link *link);
void td_link_destroy(struct td_link *link);
// Sends what stands in link->out, as far as it goes; breaks the link where the guest has gone.
void td_link_flush(struct td_link *link);
// A frame with no body, or with the number `n` in it.
void td_link_send(struct td_link *link, enum td_frame_type type, uint32_t id, const uint32_t *n);
// Hands out the frames that a pause held back, in order, until one pauses again.
void td_local_replay(struct td_attempt *a);

// ---- frames.c

// Hands an event up. False: the attempt has gone.
bool td_local_emit(struct td_attempt *a, const struct td_event *event);
// Makes an event of a frame and hands it up. False: the frame makes no sense. *alive false: the attempt has gone.
bool td_local_take(struct td_attempt *a, const struct td_frame *f, bool *alive);

// ---- local.c

// The attempt is over; `served`: by its guest, which is none the worse for it. Then, for fail, the ERROR; false: the
// attempt has gone.
void td_local_end(struct td_attempt *a, bool served);
bool td_local_fail(struct td_attempt *a, enum td_err code, struct td_str message, bool served);

#endif
