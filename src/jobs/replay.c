// SPDX-License-Identifier: Apache-2.0
#include "jobs/replay.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/time.h"
#include "base/wait.h"
#include "jobs/reconcile.h"
#include "runtime/call.h"
#include "runtime/events.h"
#include "runtime/heads.h"

#define LOOK_MS 200u             // how often the outbox is looked at while the network is there and it is empty
#define FREE_MS 20u              // after one that was refused for reasons of its own
#define DISK_RETRY_MS 500u       // while the disk takes nothing
#define SWEEP_MS 10000u          // how often what expired is moved on
#define KEEP_MS (7 * 86400000ll) // finished entries and events stay so long
#define TRY_MS_MAX 180000u       // one replay
#define DELAY_MS_BASE 2000u      // after a failed try: doubles with each, with full jitter
#define DELAY_MS_MAX 300000u
#define TRIES_MAX 12u // of those that may have cost money; then it is rejected

struct td_replayer {
    struct td_runtime *rt;
    struct td_side side;
    // The replay in hand (one at a time: the rate is limited anyway, and order by priority stays true).
    bool done;
    enum td_err err;
    bool sent;
    struct td_buf body, target, model;
    double quality, estimate, local_estimate;
    uint64_t last_sweep_ns, next_ns;
};

// An entry's copy: what the callback of a query gives lives only during it.
struct work {
    struct td_arena arena;
    struct td_runtime *rt; // for on_due
    bool found;
    struct td_outbox_entry entry;
    enum td_err err;
};

static struct td_str keep(struct work *w, struct td_str s) {
    struct td_str copy = td_arena_str(&w->arena, s);
    if (!copy.p)
        w->err = TD_ERR_NOMEM;
    return copy;
}

static bool on_entry(void *user, const struct td_outbox_entry *e) {
    struct work *w = user;
    w->entry = *e;
    w->entry.id = keep(w, e->id);
    w->entry.tenant = keep(w, e->tenant);
    w->entry.conversation = keep(w, e->conversation);
    w->entry.labels = keep(w, e->labels);
    w->entry.residency = keep(w, e->residency);
    w->entry.reconcile = keep(w, e->reconcile);
    w->entry.idempotency_key = keep(w, e->idempotency_key);
    w->entry.request = keep(w, e->request);
    w->entry.context = keep(w, e->context);
    w->entry.local.body = keep(w, e->local.body);
    w->entry.local.target = keep(w, e->local.target);
    w->entry.cloud.body = keep(w, e->cloud.body);
    w->entry.cloud.target = keep(w, e->cloud.target);
    w->found = true;
    return false;
}

// Not while the client of it is still being answered: that answer belongs beside the later one.
static bool on_due(void *user, const struct td_outbox_entry *e) {
    struct work *w = user;
    return td_call_keeps(w->rt, e->id) || on_entry(user, e);
}

static void on_done(void *user, const struct td_replayed *answer) {
    struct td_replayer *r = user;
    pthread_mutex_lock(&r->side.lock);
    r->err = answer->err;
    r->sent = answer->sent;
    r->quality = answer->quality;
    r->estimate = answer->estimate;
    r->local_estimate = answer->local_estimate;
    if (answer->err == TD_OK &&
        (td_buf_add_str(&r->body, answer->body) != TD_OK || td_buf_add_str(&r->target, answer->target) != TD_OK ||
         td_buf_add_str(&r->model, answer->model) != TD_OK))
        r->err = TD_ERR_NOMEM;
    r->done = true;
    pthread_cond_signal(&r->side.cond);
    pthread_mutex_unlock(&r->side.lock);
}

static enum td_err ask_again(struct td_replayer *r, const struct td_outbox_entry *e) {
    struct td_replay replay = {.id = e->id,
                               .request = e->request,
                               .tenant = e->tenant,
                               .residency = e->residency,
                               .idempotency_key = e->idempotency_key,
                               .local_target = e->local.target,
                               .allowed = e->context,
                               .better_than = e->local.body.n ? e->local.quality : -1,
                               .data_class = e->data_class,
                               .labels = e->labels,
                               .deadline_ms = TRY_MS_MAX,
                               .done = on_done,
                               .user = r};
    td_buf_clear(&r->body);
    td_buf_clear(&r->target);
    td_buf_clear(&r->model);
    r->done = r->sent = false;
    enum td_err err = td_call_replay(r->rt, &replay);
    if (err != TD_OK)
        return err;
    pthread_mutex_lock(&r->side.lock);
    while (!r->done)
        pthread_cond_wait(&r->side.cond, &r->side.lock);
    pthread_mutex_unlock(&r->side.lock);
    return r->err;
}

static enum td_err move(struct td_replayer *r, struct td_str id, const struct td_outbox_move *m) {
    struct td_error e = {0};
    enum td_err err = td_outbox_move(r->rt->store, id, m, NULL, &e);
    if (err != TD_OK)
        td_log(TD_LOG_WARN, "outbox", id.p, "while=move to=%s err=%s", td_outbox_state_word(m->to), td_err_code(err));
    return err;
}

// What must not be forgotten, because it was paid or tried: while the disk takes nothing, nothing else could be
// replayed either, so this waits for it.
static enum td_err move_surely(struct td_replayer *r, struct td_str id, const struct td_outbox_move *m) {
    enum td_err err = move(r, id, m);
    while (err != TD_OK && err != TD_ERR_NOT_FOUND && err != TD_ERR_USAGE && err != TD_ERR_LIMIT &&
           td_side_nap(&r->side, DISK_RETRY_MS))
        err = move(r, id, m);
    return err;
}

// A failure that no later try can mend.
static bool is_final(enum td_err err) {
    return err == TD_ERR_CONTENT_POLICY || err == TD_ERR_BAD_REQUEST || err == TD_ERR_BAD_JSON ||
           err == TD_ERR_UNSUPPORTED || err == TD_ERR_BLOCKED || err == TD_ERR_UPSTREAM_REQUEST ||
           err == TD_ERR_CONTEXT_LENGTH || err == TD_ERR_LIMIT || err == TD_ERR_UNAUTHORIZED;
}

// Refused for what it is or whose it is, not for what is the matter with the targets: others are not held up by it.
static bool is_its_own(enum td_err err) {
    return err == TD_ERR_NO_TARGET || err == TD_ERR_BUDGET || err == TD_ERR_RATE;
}

// Nobody has worked for it: it may be tried until it expires.
static bool is_free(enum td_err err, bool sent) {
    return !sent || err == TD_ERR_CONNECT || err == TD_ERR_DNS || err == TD_ERR_TLS || err == TD_ERR_UPSTREAM_AUTH ||
           err == TD_ERR_UPSTREAM_RATE || err == TD_ERR_UPSTREAM_QUOTA || err == TD_ERR_UPSTREAM_NOT_FOUND ||
           err == TD_ERR_UPSTREAM_SERVER;
}

static void put_back(struct td_replayer *r, const struct td_outbox_entry *e, enum td_outbox_state from,
                     enum td_err err) {
    uint32_t shift = !r->sent ? 0 : e->attempts < 7 ? e->attempts : 7; // a closed door is looked at again soon
    uint64_t cap = (uint64_t)DELAY_MS_BASE << shift, draw;
    char data[160];
    td_random(&draw, sizeof draw);
    // Who may answer better may only be ill just now, which for a replay is no target as well: that is a closed door.
    if (cap > DELAY_MS_MAX || (!r->sent && is_its_own(err) && err != TD_ERR_NO_TARGET))
        cap = DELAY_MS_MAX;
    snprintf(data, sizeof data, "{\"exchange\":\"%.26s\",\"state\":\"rejected\",\"error\":\"%s\"}",
             e->id.n == 26 ? e->id.p : "", td_err_code(err));
    struct td_outbox_event event = {TD_STR("rejected"), td_str_of(data)};
    struct td_outbox_move m = {.from = TD_OUTBOX_INTENT_SENT,
                               .to = from,
                               .next_try_ms = td_wall_ms() + (int64_t)(draw % cap) + 250,
                               .attempted = r->sent,
                               .error = err};
    if (is_final(err) || (!is_free(err, r->sent) && e->attempts + 1 >= TRIES_MAX)) {
        m.to = TD_OUTBOX_REJECTED;
        m.event = &event;
    }
    if (move_surely(r, e->id, &m) == TD_OK && m.event)
        td_events_wake(r->rt->events);
}

static enum td_err write_event(const struct td_judgement *j, struct td_str target, struct td_str body,
                               struct td_buf *out) {
    enum td_err err = td_buf_printf(out, "{\"op\":\"%s\",\"verdict\":\"%s\",\"target\":", j->op, j->verdict);
    if (err == TD_OK)
        err = td_buf_add_json(out, target);
    if (err == TD_OK)
        err = td_buf_addz(out, ",\"text\":");
    if (err == TD_OK)
        err = td_buf_add_json(out, body);
    return err == TD_OK ? td_buf_addz(out, "}") : err;
}

// The last step of an entry that has both answers: one is accepted, its client is told.
static enum td_err reconcile(struct td_replayer *r, struct td_str id, const struct td_judgement *j,
                             const struct td_outbox_event *event) {
    struct td_outbox_move done = {.from = TD_OUTBOX_ANSWERED_BY_CLOUD,
                                  .to = TD_OUTBOX_RECONCILED,
                                  .accepted = j->accepted,
                                  .verdict = td_str_of(j->verdict),
                                  .event = event};
    enum td_err err = move_surely(r, id, &done);
    if (err == TD_OK)
        td_log(TD_LOG_INFO, "outbox", id.p, "msg=reconciled verdict=%s", j->verdict);
    return err;
}

static void settle(struct td_replayer *r, const struct td_outbox_entry *e) {
    struct td_rivals rivals = {.request = e->request,
                               .rule = e->reconcile,
                               .local = e->local.body,
                               .later = td_buf_str(&r->body),
                               .local_quality = e->local.quality,
                               .later_quality = r->quality,
                               .local_estimate = r->local_estimate,
                               .later_estimate = r->estimate};
    struct td_judgement j = td_reconcile(&rivals);
    struct td_buf data;
    struct td_outbox_answer cloud = {.body = td_buf_str(&r->body),
                                     .target = td_buf_str(&r->target),
                                     .model = td_buf_str(&r->model),
                                     .quality = r->quality,
                                     .wall_ms = td_wall_ms()};
    td_buf_init(&data, TD_REPLY_BYTES_MAX);
    struct td_outbox_event event = {TD_STR("revision"), TD_STR_NONE};
    struct td_outbox_move answered = {.from = TD_OUTBOX_INTENT_SENT,
                                      .to = TD_OUTBOX_ANSWERED_BY_CLOUD,
                                      .cloud = &cloud,
                                      .attempted = true,
                                      .verdict = td_str_of(j.verdict)};
    bool asks = j.accepted == TD_ACCEPTED_NONE;
    enum td_err err = write_event(&j, cloud.target, cloud.body, &data);
    if (err == TD_OK && (cloud.body.n > TD_OUTBOX_ENTRY_BYTES_MAX || data.n > TD_OUTBOX_ENTRY_BYTES_MAX))
        err = TD_ERR_LIMIT;
    if (err != TD_OK) {
        put_back(r, e, e->state, err); // it cannot be kept, however often it is given
    } else {
        event.data = td_buf_str(&data);
        answered.event = asks ? &event : NULL;
        if (move_surely(r, e->id, &answered) == TD_OK && !asks && reconcile(r, e->id, &j, &event) == TD_OK &&
            j.accepted == TD_ACCEPTED_CLOUD) {
            struct td_outbox_entry accepted = *e;
            accepted.cloud = cloud;
            td_heads_put(r->rt->heads, &accepted, TD_ACCEPTED_CLOUD);
        }
        td_events_wake(r->rt->events);
    }
    td_buf_finish(&data);
}

// Takes one entry as far as it goes. False: there was nothing to do. `*free`: nobody else was asked or held up.
static bool work_one(struct td_replayer *r, bool *free) {
    struct work w = {.rt = r->rt, .err = TD_OK};
    struct td_error error;
    struct td_outbox_filter filter = {.due_ms = td_wall_ms(), .limit = UINT32_MAX >> 1, .texts = true};
    td_arena_init(&w.arena, TD_ARENA_BYTES_MAX);
    enum td_err err = td_outbox_list(r->rt->store, &filter, on_due, &w, &error); // one is taken, its texts alone opened
    if (err == TD_OK && w.found && w.err == TD_OK) {
        struct td_outbox_move intent = {.from = w.entry.state, .to = TD_OUTBOX_INTENT_SENT};
        if (move(r, w.entry.id, &intent) == TD_OK) {
            err = ask_again(r, &w.entry);
            *free = !r->sent && is_its_own(err);
            if (err == TD_OK)
                settle(r, &w.entry);
            else
                put_back(r, &w.entry, w.entry.state, err);
        }
    }
    td_arena_finish(&w.arena);
    return w.found;
}

// What a crash left in intent_sent may have been paid already; it is asked once more, with the same idempotency key.
static bool recover_intent(struct td_replayer *r) {
    struct work w = {.err = TD_OK};
    struct td_error error;
    struct td_outbox_filter filter = {.states = 1u << TD_OUTBOX_INTENT_SENT, .limit = 1, .texts = true};
    td_arena_init(&w.arena, TD_ARENA_BYTES_MAX);
    enum td_err err = td_outbox_list(r->rt->store, &filter, on_entry, &w, &error);
    bool more = err == TD_OK && w.found && w.err == TD_OK;
    if (more) {
        struct td_outbox_move back = {.from = TD_OUTBOX_INTENT_SENT,
                                      .to = w.entry.local.body.n ? TD_OUTBOX_ANSWERED_LOCALLY : TD_OUTBOX_QUEUED,
                                      .attempted = true};
        more = move_surely(r, w.entry.id, &back) == TD_OK;
    }
    td_arena_finish(&w.arena);
    return more;
}

static bool on_answered(void *user, const struct td_outbox_entry *e) {
    return td_str_is(e->verdict, "ask") || on_entry(user, e); // those wait for a person
}

// What a crash left with the cloud's answer, but not yet reconciled. Nobody is asked again.
static bool recover_answered(struct td_replayer *r) {
    struct work w = {.err = TD_OK};
    struct td_error error;
    struct td_buf data;
    struct td_outbox_filter filter = {.states = 1u << TD_OUTBOX_ANSWERED_BY_CLOUD, .limit = UINT32_MAX, .texts = true};
    td_arena_init(&w.arena, TD_ARENA_BYTES_MAX);
    td_buf_init(&data, TD_REPLY_BYTES_MAX);
    enum td_err err = td_outbox_list(r->rt->store, &filter, on_answered, &w, &error);
    bool more = err == TD_OK && w.found && w.err == TD_OK;
    if (more) {
        struct td_rivals rivals = {.request = w.entry.request,
                                   .rule = w.entry.reconcile,
                                   .local = w.entry.local.body,
                                   .later = w.entry.cloud.body,
                                   .local_quality = w.entry.local.quality,
                                   .later_quality = w.entry.cloud.quality,
                                   // of the router's estimates its word is left
                                   .later_estimate = td_str_is(w.entry.verdict, "better-estimate")};
        struct td_judgement j = td_reconcile(&rivals);
        more = write_event(&j, w.entry.cloud.target, w.entry.cloud.body, &data) == TD_OK;
        if (more) {
            struct td_outbox_event event = {TD_STR("revision"), td_buf_str(&data)};
            more = reconcile(r, w.entry.id, &j, &event) == TD_OK;
            if (more && j.accepted == TD_ACCEPTED_CLOUD)
                td_heads_put(r->rt->heads, &w.entry, TD_ACCEPTED_CLOUD);
        }
    }
    td_buf_finish(&data);
    td_arena_finish(&w.arena);
    return more;
}

static void recover(struct td_replayer *r) {
    while (!atomic_load(&r->rt->draining) && (recover_intent(r) || recover_answered(r)))
        ;
}

static void sweep(struct td_replayer *r, uint64_t now_ns) {
    struct td_error e;
    if (r->last_sweep_ns && now_ns - r->last_sweep_ns < SWEEP_MS * TD_MS_NS)
        return;
    r->last_sweep_ns = now_ns;
    if (td_outbox_sweep(r->rt->store, td_wall_ms(), KEEP_MS, 100, NULL, &e) != TD_OK)
        td_log(TD_LOG_WARN, "outbox", NULL, "while=sweep err=%s", td_err_code(e.code));
}

static void *main_loop(void *arg) {
    struct td_replayer *r = arg;
    uint32_t wait_ms = LOOK_MS;
    recover(r);
    while (td_side_nap(&r->side, wait_ms)) {
        struct td_config *config = td_runtime_config(r->rt, NULL);
        uint64_t now = td_now_ns();
        uint32_t rate = config->outbox.replay_per_min ? config->outbox.replay_per_min : 60;
        bool on = config->outbox.enabled;
        wait_ms = LOOK_MS;
        td_config_unref(config);
        if (!on)
            continue;
        sweep(r, now);
        if (!td_health_link_up(r->rt->health, NULL) || now < r->next_ns || atomic_load(&r->rt->draining))
            continue;
        bool free = false;
        if (!work_one(r, &free))
            continue;
        if (free) {
            wait_ms = FREE_MS;
        } else {
            // Jittered spacing keeps many Tandems from coming back in step.
            uint64_t spacing = 60000ull / rate, draw;
            td_random(&draw, sizeof draw);
            r->next_ns = now + (spacing / 2 + draw % (spacing + 1)) * TD_MS_NS;
            wait_ms = spacing < LOOK_MS ? (uint32_t)spacing : LOOK_MS;
        }
    }
    return NULL;
}

enum td_err td_replayer_start(struct td_runtime *rt, struct td_replayer **out) {
    struct td_replayer *r = td_calloc(1, sizeof *r);
    if (!r)
        return TD_ERR_NOMEM;
    r->rt = rt;
    td_buf_init(&r->body, TD_REPLY_BYTES_MAX);
    td_buf_init(&r->target, 1024);
    td_buf_init(&r->model, 1024);
    enum td_err err = td_side_start(&r->side, "tandem-replay", main_loop, r);
    if (err != TD_OK)
        td_free(r);
    else
        *out = r;
    return err;
}

void td_replayer_stop(struct td_replayer *r) {
    if (!r)
        return;
    td_side_stop(&r->side);
    td_buf_finish(&r->body);
    td_buf_finish(&r->target);
    td_buf_finish(&r->model);
    td_free(r);
}
