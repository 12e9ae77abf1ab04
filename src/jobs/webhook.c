// SPDX-License-Identifier: Apache-2.0
#include "jobs/webhook.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/counters.h"
#include "base/log.h"
#include "base/time.h"
#include "base/wait.h"
#include "loop/loop.h"
#include "runtime/call.h"
#include "store/outbox.h"

#define LOOK_MS 250u         // how late an event may be
#define IDLE_MS 1000u        // how late a reload that brings a webhook is noticed
#define PAUSE_MS_BASE 500u   // after a failed try: doubles with each
#define PAUSE_MS_MAX 300000u // a receiver that was down for a night is not kept waiting longer than that
#define WAIT_MS_MAX 3600000u // the longest Retry-After that is honoured
#define REFUSALS_MAX 5u      // so often may the receiver say 4xx to one event before it is left out
#define CONNECT_MS 5000u
#define TOTAL_MS 15000u
#define READER "webhook" // its name for td_events_mark

struct td_webhook_sender {
    struct td_runtime *rt;
    struct td_side side; // its lock guards the next line
    bool done, cleared;
    struct td_counter *delivered, *retried, *failed;
    struct td_gauge *pending;
    // Of the thread.
    uint64_t cursor, next_ns;
    int64_t pending_ms; // when the event that is next to be delivered came to be; 0: none
    bool has_cursor;
    uint32_t tries, refusals;
    // The delivery in hand: filled by the thread, used on the worker's loop until done.
    struct td_config *config;
    uint64_t epoch;
    struct td_arena arena;
    struct td_event_record event; // its views are the arena's
    struct td_str body, id;
    enum td_class data_class; // of what is sent
    uint32_t labels;
    struct td_fetch *fetch;
    enum td_err err;
    int status;
    uint32_t retry_after_ms;
};

// ---- what is sent

static bool on_event(void *user, const struct td_event_record *ev) {
    struct td_webhook_sender *w = user;
    w->event = (struct td_event_record){.id = ev->id,
                                        .tenant = td_arena_str(&w->arena, ev->tenant),
                                        .exchange = td_arena_str(&w->arena, ev->exchange),
                                        .type = td_arena_str(&w->arena, ev->type),
                                        .data = td_arena_str(&w->arena, ev->data),
                                        .wall_ms = ev->wall_ms};
    return false;
}

struct permission {
    struct td_webhook_sender *w;
    bool allowed;
    enum td_reason reason;
};

static bool line_in(struct td_str list, const char *line) {
    size_t n = strlen(line);
    for (size_t i = 0; i + n < list.n; i++)
        if ((i == 0 || list.p[i - 1] == '\n') && memcmp(list.p + i, line, n) == 0 && list.p[i + n] == '\n')
            return true;
    return false;
}

// May the receiver see this entry's text: under the policy it was accepted under (its context says so), and now?
static bool on_entry(void *user, const struct td_outbox_entry *entry) {
    struct permission *p = user;
    struct td_webhook_sender *w = p->w;
    const struct td_policy *policy = &w->config->policy;
    struct td_facts facts = {.kind = TD_KIND_CHAT,
                             .tenant = entry->tenant,
                             .data_class = entry->data_class,
                             .labels = td_policy_label_bits(policy, entry->labels),
                             .residency = entry->residency,
                             .max_cost_nusd = -1,
                             .budget_left_nusd = INT64_MAX};
    struct td_ruling ruling;
    td_policy_rule(policy, &facts, NULL, &ruling);
    p->reason = td_policy_admits(policy, &ruling, &facts, &w->config->webhook.place, NULL);
    if (p->reason == TD_REASON_CHOSEN && !line_in(entry->context, TD_OUTBOX_WEBHOOK_MARK))
        p->reason = TD_REASON_DENIED; // not by the policy it was accepted under
    p->allowed = p->reason == TD_REASON_CHOSEN;
    if (p->allowed) {
        w->data_class = ruling.data_class;
        w->labels = ruling.labels;
    }
    return false;
}

// The event's own data, its text left out where the receiver may not see it.
static enum td_err write_data(struct td_webhook_sender *w, const struct permission *p, struct td_buf *out) {
    td_json *root = NULL, *key, *value;
    size_t i, max;
    enum td_err err = td_json_parse(&w->arena, w->event.data, TD_JSON_DEPTH_MAX, &root, NULL);
    if (err == TD_ERR_NOMEM)
        return err;
    if (err != TD_OK || !yyjson_is_obj(root))
        return td_buf_addz(out, "null");
    if (p->allowed)
        return td_buf_add_str(out, w->event.data);
    err = td_buf_addc(out, '{');
    yyjson_obj_foreach(root, i, max, key, value) {
        if (err != TD_OK || td_str_is(td_json_str(key), "text"))
            continue;
        err = td_buf_add_json(out, td_json_str(key));
        err = err ? err : td_buf_addc(out, ':');
        err = err ? err : td_json_write(value, out);
        err = err ? err : td_buf_addc(out, ',');
    }
    err = err ? err : td_buf_addz(out, "\"withheld\":");
    err = err ? err : td_buf_add_json(out, td_str_of(td_reason_word(p->reason)));
    return err ? err : td_buf_addc(out, '}');
}

static enum td_err compose(struct td_webhook_sender *w) {
    struct permission p = {.w = w, .reason = TD_REASON_REMOVED};
    struct td_buf out;
    struct td_error e;
    w->data_class = TD_CLASS_PUBLIC;
    w->labels = 0;
    enum td_err err = td_outbox_get(w->rt->store, w->event.tenant, w->event.exchange, on_entry, &p, &e);
    if (err != TD_OK && err != TD_ERR_NOT_FOUND)
        return err;
    td_buf_init(&out, TD_REPLY_BYTES_MAX);
    err = td_buf_printf(&out, "{\"id\":%" PRIu64 ",\"type\":", w->event.id);
    err = err ? err : td_buf_add_json(&out, w->event.type);
    err = err ? err : td_buf_addz(&out, ",\"exchange\":");
    err = err ? err : td_buf_add_json(&out, w->event.exchange);
    err = err ? err : td_buf_addz(&out, ",\"tenant\":");
    err = err ? err : td_buf_add_json(&out, w->event.tenant);
    err = err ? err : td_buf_printf(&out, ",\"time_ms\":%" PRId64 ",\"data\":", w->event.wall_ms);
    err = err ? err : write_data(w, &p, &out);
    err = err ? err : td_buf_addc(&out, '}');
    w->body = err ? TD_STR_NONE : td_arena_str(&w->arena, td_buf_str(&out));
    w->id = td_arena_printf(&w->arena, "%.*s.%" PRIu64, TD_STR_ARG(w->event.exchange), w->event.id);
    td_buf_finish(&out);
    return err ? err : w->body.p && w->id.p ? TD_OK : TD_ERR_NOMEM;
}

// ---- sending; on the worker's loop

static void finish(struct td_webhook_sender *w, enum td_err err) {
    pthread_mutex_lock(&w->side.lock);
    w->err = err;
    w->done = true;
    pthread_cond_broadcast(&w->side.cond);
    pthread_mutex_unlock(&w->side.lock);
}

static bool on_head(void *user, const struct td_fetch_head *head) {
    struct td_webhook_sender *w = user;
    w->status = head->status;
    w->retry_after_ms = head->retry_after_ms;
    return true;
}

static void on_done(void *user, enum td_err err, int http_status, const char *message) {
    struct td_webhook_sender *w = user;
    (void)message;
    w->status = http_status;
    finish(w, err);
}

static enum td_err permit(struct td_webhook_sender *w, struct td_grant **grant, struct td_error *e) {
    const struct td_target *place = &w->config->webhook.place;
    struct td_egress_check check = {
        .allowed = true, .data_class = w->data_class, .labels = w->labels, .policy_version = w->epoch};
    struct td_grant_terms terms = {.kind = TD_GRANT_WEBHOOK, .url = place->base_url, .receipt_key = w->rt->body_key};
    struct td_receipt receipt = {.wall_ms = td_wall_ms(),
                                 .kind = TD_EGRESS_WEBHOOK,
                                 .exchange = w->event.exchange,
                                 .attempt = w->tries + 1,
                                 .tenant = w->event.tenant,
                                 .target = place->name,
                                 .region = place->region,
                                 .data_class = w->data_class,
                                 .labels = w->labels,
                                 .policy_version = w->config->policy.version,
                                 .bytes = w->body.n};
    uint64_t number;
    enum td_err err = td_grant_issue(&w->arena, &check, &terms, w->body, grant, e);
    if (err != TD_OK)
        return err;
    td_grant_mac(*grant, receipt.body_mac);
    return td_receipt_append(w->rt->store, &receipt, NULL, &number);
}

static void start(void *arg) {
    struct td_webhook_sender *w = arg;
    const struct td_webhook *hook = &w->config->webhook;
    struct td_remote *remote = w->rt->workers[0].remote;
    struct td_error e = {0};
    struct td_fetch_spec spec = {.kind = TD_GRANT_WEBHOOK,
                                 .url = hook->place.base_url,
                                 .post = true,
                                 .body = w->body,
                                 .auth_ref = hook->place.api_key_ref,
                                 .sign_ref = hook->secret_ref,
                                 .sign_id = w->id,
                                 .ca_file = hook->place.ca_file,
                                 .proxy = hook->place.proxy,
                                 .bytes_max = 64u << 10,
                                 .connect_ms = CONNECT_MS,
                                 .total_ms = TOTAL_MS,
                                 .private_ok = hook->private_ok,
                                 .log_id = w->event.exchange.p,
                                 .on_head = on_head,
                                 .on_done = on_done,
                                 .user = w};
    uint64_t epoch;
    td_config_unref(td_runtime_config(w->rt, &epoch));
    td_worker_prepare_remote(&w->rt->workers[0], epoch);
    enum td_err err = epoch == w->epoch ? permit(w, &spec.grant, &e) : TD_ERR_GRANT; // reloaded: judged again
    if (err == TD_OK)
        err = td_remote_fetch(remote, &spec, &w->fetch, &e);
    if (err != TD_OK) {
        td_log(TD_LOG_WARN, "webhook", w->event.exchange.p, "while=start err=%s", td_err_code(err));
        finish(w, err);
    }
}

static void clear(void *arg) {
    struct td_webhook_sender *w = arg;
    td_fetch_destroy(w->fetch);
    w->fetch = NULL;
    pthread_mutex_lock(&w->side.lock);
    w->cleared = true;
    pthread_cond_broadcast(&w->side.cond);
    pthread_mutex_unlock(&w->side.lock);
}

static void post(struct td_webhook_sender *w, void (*fn)(void *)) {
    while (td_loop_post(w->rt->workers[0].loop, fn, w) != TD_OK)
        nanosleep(&(struct timespec){0, 10000000}, NULL); // memory may come back
}

static void send(struct td_webhook_sender *w) {
    w->status = 0;
    w->retry_after_ms = 0;
    w->done = w->cleared = false;
    post(w, start);
    pthread_mutex_lock(&w->side.lock);
    while (!w->done && !w->side.stop)
        pthread_cond_wait(&w->side.cond, &w->side.lock);
    pthread_mutex_unlock(&w->side.lock);
    post(w, clear); // the transfer is ended on its own thread
    pthread_mutex_lock(&w->side.lock);
    while (!w->cleared)
        pthread_cond_wait(&w->side.cond, &w->side.lock);
    if (!w->done)
        w->err = TD_ERR_CANCELLED;
    pthread_mutex_unlock(&w->side.lock);
}

// ---- one after the other

static void wait_for_next(struct td_webhook_sender *w, uint64_t now_ns) {
    uint32_t shift = w->tries < 10 ? w->tries : 10;
    uint64_t pause_ms = (uint64_t)PAUSE_MS_BASE << shift, draw;
    td_random(&draw, sizeof draw);
    if (pause_ms > PAUSE_MS_MAX)
        pause_ms = PAUSE_MS_MAX;
    pause_ms = pause_ms / 2 + draw % (pause_ms / 2 + 1);
    if (w->retry_after_ms > pause_ms)
        pause_ms = w->retry_after_ms < WAIT_MS_MAX ? w->retry_after_ms : WAIT_MS_MAX;
    w->next_ns = now_ns + pause_ms * TD_MS_NS;
    w->tries++;
}

// A receiver that understood the request and does not want it; not one that is busy, late or being looked for.
static bool is_refusal(int status) {
    return status >= 400 && status < 500 && status != 401 && status != 403 && status != 404 && status != 408 &&
           status != 425 && status != 429;
}

static void pass(struct td_webhook_sender *w, struct td_counter *how) {
    struct td_error e;
    if (td_events_mark(w->rt->store, READER, w->event.id, &e) != TD_OK) {
        wait_for_next(w, td_now_ns()); // it is sent once more, with the same id
        return;
    }
    td_counter_add(how, 1);
    w->cursor = w->event.id;
    w->tries = w->refusals = 0;
    w->next_ns = 0;
}

static void deliver(struct td_webhook_sender *w) {
    td_counter_add(w->retried, w->tries > 0);
    enum td_err err = compose(w);
    if (err != TD_OK) {
        td_log(TD_LOG_WARN, "webhook", NULL, "while=compose err=%s", td_err_code(err));
        wait_for_next(w, td_now_ns());
        return;
    }
    send(w);
    if (w->err == TD_OK && w->status >= 200 && w->status < 300) {
        pass(w, w->delivered);
    } else if (w->err != TD_ERR_CANCELLED) {
        td_log(TD_LOG_INFO, "webhook", w->event.exchange.p, "while=deliver event=%" PRIu64 " status=%d err=%s try=%u",
               w->event.id, w->status, w->err ? td_err_code(w->err) : "", w->tries + 1);
        w->refusals += w->err == TD_OK && is_refusal(w->status);
        if (w->refusals < REFUSALS_MAX) {
            wait_for_next(w, td_now_ns());
            return;
        }
        td_log(TD_LOG_WARN, "webhook", w->event.exchange.p, "msg=refused event=%" PRIu64 " status=%d", w->event.id,
               w->status);
        pass(w, w->failed);
    }
}

// Where delivery stands. A webhook that is new begins with what comes from now on.
static enum td_err find_cursor(struct td_webhook_sender *w) {
    struct td_error e;
    enum td_err err = td_events_marked(w->rt->store, READER, &w->cursor, &e);
    if (err == TD_OK && w->cursor == UINT64_MAX) {
        err = td_events_last(w->rt->store, &w->cursor, &e);
        err = err ? err : td_events_mark(w->rt->store, READER, w->cursor, &e);
    }
    w->has_cursor = err == TD_OK;
    return err;
}

static void note_pending(struct td_webhook_sender *w) {
    int64_t age_ms = w->pending_ms ? td_wall_ms() - w->pending_ms : 0;
    td_gauge_set(w->pending, age_ms > 0 ? age_ms / 1000 : 0); // a clock set back makes nothing negative
}

// Delivers what there is; where nothing may leave now, it only finds out since when something waits.
static void look(struct td_webhook_sender *w, bool may_leave) {
    struct td_error e;
    if (td_now_ns() < w->next_ns || (!w->has_cursor && find_cursor(w) != TD_OK))
        return;
    for (bool more = true; more;) {
        uint64_t before = w->cursor;
        td_arena_init(&w->arena, TD_ARENA_BYTES_MAX);
        w->event = (struct td_event_record){0};
        if (td_events_next(w->rt->store, w->cursor, on_event, w, &e) == TD_OK) {
            w->pending_ms = w->event.wall_ms;
            note_pending(w);
            if (may_leave && w->event.exchange.p)
                deliver(w);
        }
        more = w->cursor != before;
        td_arena_finish(&w->arena);
    }
}

static void *main_loop(void *arg) {
    struct td_webhook_sender *w = arg;
    uint32_t ms = IDLE_MS;
    do {
        w->config = td_runtime_config(w->rt, &w->epoch);
        bool on = w->config->webhook.place.base_url.n > 0;
        if (on)
            look(w, w->config->connectivity != TD_CONNECTIVITY_OFFLINE && !atomic_load(&w->rt->draining));
        else
            w->pending_ms = 0;
        note_pending(w);
        ms = on ? LOOK_MS : IDLE_MS;
        td_config_unref(w->config);
    } while (td_side_nap(&w->side, ms));
    return NULL;
}

enum td_err td_webhook_start(struct td_runtime *rt, struct td_webhook_sender **out) {
    struct td_webhook_sender *w = td_calloc(1, sizeof *w);
    if (!w)
        return TD_ERR_NOMEM;
    w->rt = rt;
    w->delivered = td_counter_get("tandem_webhook_delivered_total", "Events that the webhook's receiver took.");
    w->retried = td_counter_get("tandem_webhook_retried_total", "Tries of an event after its first.");
    w->failed = td_counter_get("tandem_webhook_failed_total", "Events left out because the receiver refused them.");
    w->pending = td_gauge_get("tandem_webhook_pending_seconds", "Age of the oldest event not delivered; 0 none.");
    enum td_err err = td_side_start(&w->side, "tandem-webhook", main_loop, w);
    if (err != TD_OK)
        td_free(w);
    else
        *out = w;
    return err;
}

void td_webhook_stop(struct td_webhook_sender *w) {
    if (!w)
        return;
    td_side_stop(&w->side);
    td_free(w);
}
