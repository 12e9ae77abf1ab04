// SPDX-License-Identifier: Apache-2.0
// One worker's attempts at local models: waiting for a guest, sent to one, over.
//
// An attempt:  waiting → (guest ready) sent → START … END | ERROR → over
//                 └── failed ──────────────────────────────────────↗        destroy at any moment
#include "local/local.h"

#include <math.h>
#include <stdio.h>

#include "base/time.h"
#include "local/attempt.h"

#define LOOK_AGAIN_MS 50u // the manager's note may find no memory
#define MEMORY_TEXT "the model host ran out of memory"

static void leave_waiting(struct td_attempt *a) {
    for (struct td_attempt **at = &a->local->waiting; *at; at = &(*at)->next)
        if (*at == a) {
            *at = a->next;
            break;
        }
}

static void leave_link(struct td_attempt *a, bool served) {
    for (struct td_attempt **at = &a->link->attempts; *at; at = &(*at)->next)
        if (*at == a) {
            *at = a->next;
            break;
        }
    td_manager_done(a->local->manager, a->guest, served);
    a->link = NULL;
    a->guest = NULL;
}

void td_local_end(struct td_attempt *a, bool served) {
    a->stats.end_ns = td_now_ns();
    if (a->state == TD_LOCAL_SENT)
        leave_link(a, served);
    a->state = TD_LOCAL_OVER;
    if (a->timer)
        td_timer_disarm(a->timer);
}

bool td_local_fail(struct td_attempt *a, enum td_err code, struct td_str message, bool served) {
    struct td_event event = {.type = TD_EV_ERROR, .error = {.code = code, .message = message}};
    td_local_end(a, served);
    return td_local_emit(a, &event);
}

// ---- finding a guest

// The attempt has a guest: send it there.
static enum td_err send_request(struct td_attempt *a, struct td_guest *guest, struct td_link *link) {
    struct td_proto_request request = {.kind = a->copy.kind,
                                       .flags = a->copy.want_tokens ? TD_PROTO_WANT_TOKENS : 0,
                                       .priority = a->copy.priority,
                                       .credits = TD_PROTO_CREDITS,
                                       .body = a->copy.body};
    a->id = link->next_id++;
    size_t before = link->out.n;
    enum td_err err = td_proto_put_request(&link->out, a->id, &request);
    if (err)
        return err;
    a->stats.bytes_out = link->out.n - before;
    a->stats.connected_ns = td_now_ns();
    a->state = TD_LOCAL_SENT;
    a->link = link;
    a->guest = guest;
    a->model = NULL;
    a->next = link->attempts;
    link->attempts = a;
    td_link_flush(link);
    return TD_OK;
}

// Waiting attempts look whether their model is there. Never from inside start.
static void look_for_guests(struct td_local *local) {
    bool again = true;
    while (again) { // a callback may change the list: start over after each
        again = false;
        for (struct td_attempt *a = local->waiting; a; a = a->next) {
            struct td_guest *guest;
            struct td_error e = {TD_OK, ""};
            enum td_err err = td_manager_take(local->manager, a->model, &guest, &e);
            if (!err && !guest)
                continue;
            struct td_link *link = guest ? td_link_find(local, guest) : NULL;
            if (guest && !link) {
                td_manager_put_back(local->manager, a->model, guest);
                continue;
            }
            leave_waiting(a);
            if (!err && (err = send_request(a, guest, link)) != TD_OK)
                td_manager_done(local->manager, guest, false);
            if (err)
                td_local_fail(a, err, e.code ? td_str_of(e.message) : td_str_of(td_err_text(err)), false);
            again = true;
            break;
        }
    }
}

// Ends the attempts of links whose guest has gone, then the links: as soon as it is known how it ended, which the
// manager finds out at the same time.
static void on_sweep(void *arg) {
    struct td_local *local = arg;
    bool unknown = false;
    enum td_err code;
    for (struct td_link **at = &local->links; *at;) {
        struct td_link *link = *at;
        if (!link->broken) {
            at = &link->next;
            continue;
        }
        td_manager_lost(local->manager, link->guest);
        if (link->attempts && !td_manager_end_of(local->manager, link->guest, &code)) {
            unknown = true;
            at = &link->next;
            continue;
        }
        if (link->attempts) {
            struct td_attempt *a = link->attempts;
            td_manager_suspect(local->manager, link->guest, a->prompt);
            td_local_fail(a, code, td_str_of(code == TD_ERR_HOST_MEMORY ? MEMORY_TEXT : td_err_text(code)), false);
            at = &local->links; // anything may have changed
            continue;
        }
        *at = link->next;
        td_link_destroy(link);
    }
    if (unknown)
        td_timer_arm(local->sweeper, LOOK_AGAIN_MS);
    look_for_guests(local);
}

// ---- the backend's operations

static void on_timer(void *arg) {
    struct td_attempt *a = arg;
    uint64_t now = td_now_ns();
    if (a->copy.deadline_ns && now >= a->copy.deadline_ns && a->state != TD_LOCAL_OVER) {
        if (a->state == TD_LOCAL_WAITING) {
            leave_waiting(a);
            td_manager_unwant(a->local->manager, a->model);
        } else {
            td_link_send(a->link, TD_FRAME_CANCEL, a->id, NULL);
        }
        td_local_fail(a, TD_ERR_DEADLINE, td_str_of(td_err_text(TD_ERR_DEADLINE)), false);
        return;
    }
    if (a->copy.deadline_ns && a->state != TD_LOCAL_OVER)
        td_timer_arm(a->timer, (a->copy.deadline_ns - now) / TD_MS_NS + 1);
    if (a->replay && a->state == TD_LOCAL_SENT && !a->paused) {
        a->replay = false;
        td_local_replay(a);
    }
}

static enum td_err start(struct td_backend *b, const struct td_attempt_spec *spec, struct td_attempt **out,
                         struct td_error *e) {
    struct td_local *local = (struct td_local *)b;
    struct td_attempt *a = td_calloc(1, sizeof *a);
    if (!a)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    *a = (struct td_attempt){.local = local, .copy = *spec, .state = TD_LOCAL_WAITING};
    td_buf_init(&a->held, TD_HOST_FRAME_BYTES_MAX);
    a->prompt = td_manager_prompt(local->manager, spec->body);
    a->stats.start_ns = td_now_ns();
    a->stats.mean_logprob = a->stats.min_logprob = a->stats.mean_entropy = NAN;
    a->timer = td_timer_create(local->loop, on_timer, a);
    enum td_err err = a->timer ? td_manager_want(local->manager, spec->target, a->prompt, &a->model, e)
                               : td_error_set(e, TD_ERR_NOMEM, "out of memory");
    if (err)
        goto fail;
    struct td_guest *guest;
    err = td_manager_take(local->manager, a->model, &guest, e);
    if (err)
        goto fail;
    struct td_link *link = guest ? td_link_find(local, guest) : NULL;
    if (guest && !link) {
        td_manager_put_back(local->manager, a->model, guest);
        guest = NULL;
    }
    if (guest && (err = send_request(a, guest, link)) != TD_OK) {
        td_manager_done(local->manager, guest, false);
        td_error_set(e, err, "%s", td_err_text(err));
        goto fail;
    }
    if (!guest) {
        a->next = local->waiting;
        local->waiting = a;
    }
    if (spec->deadline_ns) {
        uint64_t now = td_now_ns();
        td_timer_arm(a->timer, spec->deadline_ns > now ? (spec->deadline_ns - now) / TD_MS_NS + 1 : 0);
    }
    *out = a;
    return TD_OK;
fail:
    td_timer_destroy(a->timer);
    td_free(a);
    return err;
}

static void destroy(struct td_backend *b, struct td_attempt *a) {
    (void)b;
    if (!a)
        return;
    if (a->gone)
        *a->gone = true;
    if (a->state == TD_LOCAL_WAITING) {
        leave_waiting(a);
        td_manager_unwant(a->local->manager, a->model);
    } else if (a->state == TD_LOCAL_SENT) {
        struct td_link *link = a->link;
        leave_link(a, false);
        td_link_send(link, TD_FRAME_CANCEL, a->id, NULL);
    }
    td_timer_destroy(a->timer);
    td_buf_finish(&a->held);
    td_free(a);
}

static void pause_attempt(struct td_backend *b, struct td_attempt *a) {
    (void)b;
    a->paused = true;
}

static void resume_attempt(struct td_backend *b, struct td_attempt *a) {
    (void)b;
    if (!a->paused)
        return;
    a->paused = false;
    a->replay = true; // from the loop: the caller may be inside a callback
    td_timer_arm(a->timer, 0);
}

static void get_stats(struct td_backend *b, const struct td_attempt *a, struct td_attempt_stats *out) {
    (void)b;
    *out = a->stats;
    out->reused_connection = a->stats.connected_ns && a->stats.connected_ns - a->stats.start_ns < TD_MS_NS;
    out->prompt_tokens = a->prompt_tokens;
    out->completion_tokens = a->token_count;
    if (a->token_count) {
        out->mean_logprob = (float)(a->logprob_sum / a->token_count);
        out->mean_entropy = (float)(a->entropy_sum / a->token_count);
    }
}

static bool is_sent(struct td_backend *b, const struct td_attempt *a) {
    (void)b;
    return a->state != TD_LOCAL_WAITING; // the link has a copy
}

static const struct td_backend_ops ops = {"local", start, destroy, pause_attempt, resume_attempt, get_stats, is_sent};

enum td_err td_local_create(struct td_manager *manager, unsigned worker, struct td_loop *loop, struct td_backend **out,
                            struct td_error *e) {
    struct td_local *local = td_calloc(1, sizeof *local);
    if (!local)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    *local = (struct td_local){.base = {&ops}, .manager = manager, .worker = worker, .loop = loop};
    local->known = td_counter_get("tandem_local_chats_prepared_total",
                                  "Local chats whose tools' parser and grammar were there when they came.");
    local->made = td_counter_get("tandem_local_chats_unprepared_total",
                                 "Local chats for which a parser and a grammar had to be made.");
    local->sweeper = td_timer_create(loop, on_sweep, local);
    enum td_err err = local->sweeper ? td_manager_attach(manager, worker, loop, on_sweep, local) : TD_ERR_NOMEM;
    if (err) {
        td_timer_destroy(local->sweeper);
        td_free(local);
        return td_error_set(e, err, "the local backend of worker %u cannot be made", worker);
    }
    *out = &local->base;
    return TD_OK;
}

void td_local_destroy(struct td_backend *backend) {
    struct td_local *local = (struct td_local *)backend;
    if (!local)
        return;
    td_manager_detach(local->manager, local->worker);
    while (local->links) {
        struct td_link *link = local->links;
        local->links = link->next;
        td_link_destroy(link);
    }
    td_timer_destroy(local->sweeper);
    td_free(local->tokens);
    td_free(local);
}
