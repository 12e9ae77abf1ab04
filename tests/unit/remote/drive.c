// SPDX-License-Identifier: Apache-2.0
#include "drive.h"

#include <event2/event.h>

#include "remote/engine.h"

static const struct td_egress_check fine = {.allowed = true, .data_class = TD_CLASS_PUBLIC, .policy_version = 1};

static void on_guard(void *arg) {
    struct drive *d = arg;
    if (d->strict) {
        fprintf(stderr, "the test waited in vain for %u attempts\n", d->waiting);
        abort();
    }
    event_base_loopbreak(td_loop_base(d->loop));
}

void drive_open(struct drive *d, const struct td_remote_options *options, const char *const *args) {
    *d = (struct drive){0};
    upstream_start(&d->up, args);
    td_arena_init(&d->arena, 64u << 20);
    d->loop = td_loop_create();
    assert_non_null(d->loop);
    assert_ok(td_remote_create(d->loop, options, &d->remote, NULL));
    d->backend = td_remote_backend(d->remote);
    d->guard = td_timer_create(d->loop, on_guard, d);
    d->target = (struct td_target){.name = TD_STR("cloud"),
                                   .tier = TD_TIER_CLOUD,
                                   .provider = TD_PROVIDER_OPENAI,
                                   .model = TD_STR("big-model"),
                                   .clearance = TD_CLASS_PUBLIC,
                                   .labels_cleared = ~0u,
                                   .idempotency = true,
                                   .timeouts = {2000, 2000, 2000, 8000}};
    drive_plain(d);
}

void drive_close(struct drive *d) {
    td_remote_destroy(d->remote);
    td_timer_destroy(d->guard);
    td_loop_destroy(d->loop);
    td_arena_finish(&d->arena);
    upstream_stop(&d->up);
}

void drive_url(struct drive *d, const char *url) {
    snprintf(d->url, sizeof d->url, "%s", url);
    d->target.base_url = td_str_of(d->url);
}

void drive_plain(struct drive *d) {
    snprintf(d->url, sizeof d->url, "http://127.0.0.1:%u/v1", d->up.port);
    d->target.base_url = td_str_of(d->url);
    d->target.ca_file = TD_STR_NONE;
}

void drive_tls(struct drive *d, uint16_t port) {
    snprintf(d->url, sizeof d->url, "https://localhost:%u/v1", port);
    snprintf(d->ca, sizeof d->ca, "%s/ca.pem", d->up.folder);
    d->target.base_url = td_str_of(d->url);
    d->target.ca_file = td_str_of(d->ca);
}

void drive_fresh(struct drive *d, bool tls) {
    upstream_post(&d->up, "/_reset", "{}");
    if (tls)
        drive_tls(d, d->up.tls);
    else
        drive_plain(d);
    d->target.tier = TD_TIER_ONPREM; // localhost is not for clouds
}

void drive_script(struct drive *d, const char *queue) {
    char text[1024];
    snprintf(text, sizeof text, "{\"queue\":[%s]}", queue);
    upstream_post(&d->up, "/_script", text);
}

struct td_grant *drive_grant(struct drive *d, enum td_grant_kind kind, struct td_str url, struct td_str bytes) {
    struct td_grant_terms terms = {.kind = kind, .target = url.n ? NULL : d->use ? d->use : &d->target, .url = url};
    struct td_grant *g = NULL;
    assert_ok(td_grant_issue(&d->arena, &fine, &terms, bytes, &g, NULL));
    return g;
}

static void over(struct take *t) {
    t->end_ns = td_now_ns();
    if (--t->d->waiting == 0)
        event_base_loopbreak(td_loop_base(t->d->loop));
}

static void on_event(void *user, const struct td_event *ev) {
    struct take *t = user;
    assert_false(t->inside);
    assert_true(t->start_ns != 0); // never from inside start
    assert_int_equal(t->ends + t->errors, 0);
    t->inside = true;
    t->damaged = t->damaged || ev->damaged;
    switch (ev->type) {
    case TD_EV_START:
        t->starts++;
        break;
    case TD_EV_DELTA:
        if (!t->deltas++)
            t->first_ns = td_now_ns();
        assert_ok(td_buf_add_str(&t->text, ev->delta.text));
        break;
    case TD_EV_TOOL_CALL:
        t->tool_calls++;
        assert_ok(td_buf_add_str(&t->text, ev->tool.arguments));
        break;
    case TD_EV_EMBEDDING:
        t->vectors++;
        break;
    case TD_EV_USAGE:
        t->usage = ev->usage;
        break;
    case TD_EV_FINISH:
        t->finishes++;
        break;
    case TD_EV_END:
        t->ends++;
        break;
    case TD_EV_ERROR:
        t->errors++;
        t->code = ev->error.code;
        t->http_status = ev->error.http_status;
        t->retry_after_ms = ev->error.retry_after_ms;
        snprintf(t->message, sizeof t->message, "%.*s", TD_STR_ARG(ev->error.message));
        break;
    default:
        break;
    }
    t->inside = false;
    if (ev->type == TD_EV_END || ev->type == TD_EV_ERROR) {
        t->d->backend->ops->stats(t->d->backend, t->attempt, &t->stats);
        over(t);
    } else if (t->on_delta && ev->type == TD_EV_DELTA) {
        t->on_delta(t);
    }
    if (ev->type == TD_EV_DELTA && t->destroy_after && t->deltas == t->destroy_after && t->attempt) {
        t->d->backend->ops->destroy(t->d->backend, t->attempt);
        t->attempt = NULL;
        over(t);
    }
    if (ev->type == TD_EV_DELTA && t->pause_after && t->deltas == t->pause_after)
        t->d->backend->ops->pause(t->d->backend, t->attempt);
}

enum td_err take_start_body(struct take *t, struct drive *d, enum td_kind kind, const char *body, bool stream) {
    struct td_str bytes = td_arena_str(&d->arena, td_str_of(body));
    struct td_attempt_spec spec = {.target = d->use ? d->use : &d->target,
                                   .kind = kind,
                                   .stream = stream,
                                   .body = bytes,
                                   .grant = drive_grant(d, TD_GRANT_INFERENCE, TD_STR_NONE, bytes),
                                   .exchange_id = "exchange-1",
                                   .idempotency_key = "key-1",
                                   .connect_ms = d->connect_ms,
                                   .on_event = on_event,
                                   .user = t};
    t->d = d;
    if (!t->text.ceiling)
        td_buf_init(&t->text, 64u << 20);
    enum td_err err = d->backend->ops->start(d->backend, &spec, &t->attempt, NULL);
    t->start_ns = td_now_ns();
    if (err == TD_OK)
        d->waiting++;
    return err;
}

enum td_err take_start(struct take *t, struct drive *d, const char *prompt, bool stream) {
    char body[1024];
    snprintf(body, sizeof body,
             "{\"model\":\"big-model\",\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"stream\":%s,"
             "\"stream_options\":{\"include_usage\":true}}",
             prompt, stream ? "true" : "false");
    return take_start_body(t, d, TD_KIND_CHAT, body, stream);
}

void take_finish(struct take *t) {
    if (t->attempt)
        t->d->backend->ops->destroy(t->d->backend, t->attempt);
    t->attempt = NULL;
    td_buf_finish(&t->text);
}

// A stopped td_loop does not run again, so this breaks out of the loop below it.
void drive_stop(struct drive *d) {
    event_base_loopbreak(td_loop_base(d->loop));
}

void drive_run_ms(struct drive *d, unsigned ms) {
    td_timer_arm(d->guard, ms);
    event_base_loop(td_loop_base(d->loop), EVLOOP_NO_EXIT_ON_EMPTY);
    td_timer_disarm(d->guard);
}

void drive_run(struct drive *d) {
    if (!d->waiting)
        return;
    d->strict = true;
    drive_run_ms(d, 60000); // far above what any case needs: the machine may have other things to do
    d->strict = false;
}

void drive_once(struct drive *d, struct take *t, const char *prompt) {
    *t = (struct take){0};
    assert_ok(take_start(t, d, prompt, true));
    drive_run(d);
    assert_int_equal(t->ends + t->errors, 1);
    d->backend->ops->destroy(d->backend, t->attempt);
    t->attempt = NULL;
    while (d->remote->lingering) // the last bytes, after which the connection is there for the next
        drive_run_ms(d, 1);
}
