// SPDX-License-Identifier: Apache-2.0
#include "sim.h"

#include <stdio.h>

static bool passes_by_itself(enum td_err code) { // another try of the same may end differently
    return code == TD_ERR_UPSTREAM_RATE || code == TD_ERR_UPSTREAM_SERVER || code == TD_ERR_CONNECT ||
           code == TD_ERR_DNS || code == TD_ERR_CUT || code == TD_ERR_HOST_CRASH;
}

void check_start(struct sim *s, const struct td_x_start *start) {
    const struct td_target *t = &s->targets[start->target];
    if (start->attempt != s->fake_count || s->fake_count >= TD_ATTEMPTS_MAX)
        sim_fail(s, "more attempts than allowed, or out of order");
    if (s->ends || s->client.gone || s->aborted || s->client.done || s->client.error)
        sim_fail(s, "a start after the end");
    if (s->plan.deadline_ms && s->now_ns >= s->start_ns + s->plan.deadline_ms * TD_MS_NS)
        sim_fail(s, "a start after the deadline");
    if (s->plan.mode == TD_MODE_SINGLE && start->step != 0)
        sim_fail(s, "single asked a second target");
    if (start->retry && (++s->retries > 2 || s->drain_sent))
        sim_fail(s, "more retries than allowed");
    if (s->shut >> start->target & 1)
        sim_fail(s, "a silent route, or one where it is pointless, was tried again");
    if (s->out >> start->step & 1)
        sim_fail(s, "a step that was refused was asked again");
    if (s->content_refused && start->role != TD_X_ROLE_HEDGE)
        sim_fail(s, "a content refusal was routed around");
    if (s->context_hit && t->context && t->context <= s->context_over)
        sim_fail(s, "a context overflow went to no more context");
    if (s->now_ns < s->not_before_ns[start->target])
        sim_fail(s, "Retry-After was not honoured");
    if (s->request.kind == TD_KIND_EMBEDDING && !td_str_eq(t->model, s->targets[s->plan.steps[0].target].model))
        sim_fail(s, "vectors from another model");
    if (start->prefix.n && !td_str_eq(start->prefix, td_str_n(s->client.text[0], s->client.text_n[0])))
        sim_fail(s, "the prefix is not what the client has");
    if (start->role == TD_X_ROLE_CONTINUE && (s->client.tool_n || s->request.n > 1 || start->prefix.n == 0))
        sim_fail(s, "continued what cannot be continued");
    const struct td_step *step = &s->plan.steps[start->step];
    s->connect_ms[start->attempt] = start->connect_ms;
    if (start->connect_ms && start->connect_ms != (s->hung ? step->connect_late_ms : step->connect_ms))
        sim_fail(s, "a connection is waited for as long as the plan does not say");
    uint32_t others = 0;
    for (uint32_t i = 0; i < s->plan.step_count; i++)
        others += i != start->step && !(s->steps_started >> i & 1);
    s->steps_started |= 1u << start->step;
    if (start->attempt == 0 && s->plan.mode != TD_MODE_SINGLE && s->request.kind != TD_KIND_EMBEDDING && others &&
        !start->connect_ms)
        sim_fail(s, "the first connection may use up what the next one needs");
}

void check_heard(struct sim *s, uint32_t attempt, const struct td_event *ev) {
    struct fake *f = &s->fakes[attempt];
    if (!f->alive || (f->paused && ev->type == TD_EV_DELTA))
        sim_fail(s, "the simulator speaks for a dead attempt");
    f->told_damage |= ev->damaged;
    bool content = ev->type == TD_EV_DELTA || ev->type == TD_EV_TOOL_CALL || ev->type == TD_EV_REASONING;
    if (content && s->plan.mode == TD_MODE_CASCADE && f->role == TD_X_ROLE_DRAFT && s->first_content_ns == 0)
        s->first_content_ns = s->now_ns;
}

void check_record(struct sim *s, const struct td_x_record *r) {
    const struct fake *f = &s->fakes[r->attempt];
    if (r->attempt >= s->fake_count || s->recorded >> r->attempt & 1)
        sim_fail(s, "a record without a start, or a second one");
    s->recorded |= 1u << r->attempt;
    if (s->ends)
        sim_fail(s, "a record after the end");
    if (r->sent != f->sent)
        sim_fail(s, "what the record says was sent is not what left");
    if (f->sent && !f->allowed)
        sim_fail(s, "bytes for a target that the policy forbids");
    if (r->outcome == TD_X_OUTCOME_REFUSED && r->sent)
        sim_fail(s, "refused, and sent");
    if (r->end_ns < r->start_ns || (r->first_ns && r->first_ns < r->start_ns))
        sim_fail(s, "times out of order");
    if (r->cost_nusd != td_x_cost_nusd(&s->targets[r->target], &r->usage) || r->cost_nusd < 0)
        sim_fail(s, "the cost is not the usage's");
    if (r->damaged != f->told_damage)
        sim_fail(s, "damage is not marked");
    s->cost_nusd += r->cost_nusd;
    s->usage_total.prompt_tokens += r->usage.prompt_tokens;
    s->usage_total.completion_tokens += r->usage.completion_tokens;
    if (r->outcome == TD_X_OUTCOME_REFUSED && r->code == TD_ERR_NO_TARGET)
        s->out |= 1u << r->step;
    if (r->outcome != TD_X_OUTCOME_FAILED)
        return;
    uint32_t limit_ms =
        s->connect_ms[r->attempt] ? s->connect_ms[r->attempt] : s->targets[r->target].timeouts.connect_ms;
    s->hung |=
        (r->code == TD_ERR_CONNECT || r->code == TD_ERR_DNS) && r->end_ns - r->start_ns >= limit_ms * TD_MS_NS / 2;
    if (s->first_fault == TD_OK)
        s->first_fault = r->code;
    bool asked_afresh = r->role == TD_X_ROLE_CONTINUE && r->code == TD_ERR_UPSTREAM_REQUEST;
    if (!passes_by_itself(r->code) && !asked_afresh && r->code != TD_ERR_CONTEXT_LENGTH)
        s->shut |= 1ull << r->target;
    if (r->retry_after_ms)
        s->not_before_ns[r->target] = s->now_ns + r->retry_after_ms * TD_MS_NS;
    if (r->code == TD_ERR_CONTENT_POLICY)
        s->content_refused = true;
    if (r->code == TD_ERR_CONTEXT_LENGTH) {
        s->context_hit = true;
        if (s->targets[r->target].context > s->context_over)
            s->context_over = s->targets[r->target].context;
    }
}

static void append(struct sim *s, char *text, size_t *n, struct td_str more) {
    if (*n + more.n > TEXT_MAX) {
        sim_fail(s, "more text than there was");
        return;
    }
    memcpy(text + *n, more.p, more.n);
    *n += more.n;
}

static void on_shown(struct sim *s, const struct td_event *ev) {
    struct client *c = &s->client;
    if (!c->begun)
        sim_fail(s, "content before the beginning");
    if (ev->type == TD_EV_DELTA) {
        if (!td_str_is_utf8(ev->delta.text))
            sim_fail(s, "half a character was shown");
        append(s, c->text[ev->choice], &c->text_n[ev->choice], ev->delta.text);
        c->pieces += ev->choice == 0;
        if (ev->delta.token_count && !s->request.logprobs)
            sim_fail(s, "probabilities nobody asked for");
    } else if (ev->type == TD_EV_TOOL_CALL) {
        append(s, c->tool, &c->tool_n, ev->tool.arguments);
    } else if (ev->type == TD_EV_EMBEDDING) {
        c->floats += ev->embedding.count;
    }
}

static void on_revision(struct sim *s, const struct td_x_out *o) {
    struct client *c = &s->client;
    if (!s->request.wishes.revisions || !s->request.stream)
        sim_fail(s, "a revision for a client that knows none");
    if (o->revision != c->revision + 1)
        sim_fail(s, "revisions are not counted up");
    c->revision = o->revision;
    if (o->op == TD_X_OP_REPLACE)
        c->text_n[0] = c->text_n[1] = c->tool_n = c->pieces = 0;
}

// At least so many tokens the client has: each event is one, and what was kept and shown at once is counted by its
// spaces, as the simulated targets do.
static uint32_t tokens_of(const struct client *c, const char *text, size_t n) {
    uint32_t tokens = n > 0;
    for (size_t i = 1; i < n; i++)
        tokens += text[i] == ' ';
    return tokens > c->pieces ? tokens : c->pieces;
}

static const char *find(const char *text, size_t n, const char *what) {
    size_t what_n = strlen(what);
    for (size_t i = 0; what_n && i + what_n <= n; i++)
        if (memcmp(text + i, what, what_n) == 0)
            return text + i;
    return NULL;
}

// The answer is what the attempt that ended it stands for: not a byte less, doubled or invented.
static void check_answer(struct sim *s, uint32_t attempt) {
    const struct client *c = &s->client;
    const struct fake *f = &s->fakes[attempt];
    const char *text = s->tool_answer ? c->tool : c->text[0];
    size_t n = s->tool_answer ? c->tool_n : c->text_n[0];
    if (s->request.kind == TD_KIND_EMBEDDING) {
        if (c->floats != 8)
            sim_fail(s, "vectors are missing");
        return;
    }
    if (n > f->full_n || memcmp(text, f->full, n) != 0)
        sim_fail(s, "the answer is not what was said");
    if (s->request.n > 1 && (c->text_n[1] != n || memcmp(c->text[1], text, n) != 0))
        sim_fail(s, "the choices differ");
    const char *stop = s->tool_answer ? NULL : find(f->full, f->full_n, s->stop);
    size_t stop_at = stop ? (size_t)(stop - f->full) : 0;
    if (stop) { // it spans the cut
        if (n < stop_at || n >= stop_at + strlen(s->stop))
            sim_fail(s, "a stop string across the cut was missed");
    } else if (n != f->full_n) {
        bool spent = c->finish == TD_FINISH_LENGTH && tokens_of(c, text, n) >= s->request.max_tokens;
        if (!spent || s->request.max_tokens == 0)
            sim_fail(s, "a truncated answer was reported as success");
    } else if (!f->told_finish && (s->request.max_tokens == 0 || tokens_of(c, text, n) < s->request.max_tokens)) {
        sim_fail(s, "success without a finish");
    }
    if (c->finishes != (s->request.n > 1 ? 3u : 1u))
        sim_fail(s, "a finish is missing");
}

// `queued` is told with the end, so the end waits until it is sure.
static void check_kept(struct sim *s) {
    if (s->config.waits_for_outbox && s->kept_asked && !s->kept && !s->aborted &&
        s->now_ns < s->kept_asked_ns + TD_X_OUTBOX_WAIT_MS * TD_MS_NS &&
        !(s->plan.deadline_ms && s->now_ns >= s->start_ns + s->plan.deadline_ms * TD_MS_NS))
        sim_fail(s, "the end did not wait for the outbox");
}

static void on_error(struct sim *s, const struct td_x_out *o) {
    struct client *c = &s->client;
    check_kept(s);
    c->error = true;
    c->code = o->error.code;
    if (o->error.code == TD_OK || o->error.http_status < 400 || o->error.message.n == 0)
        sim_fail(s, "an error that says nothing");
    bool own = o->error.code == TD_ERR_DEADLINE || s->aborted || s->disk_fails;
    if (s->first_fault && !own && o->error.code != s->first_fault)
        sim_fail(s, "another fault was told than the first");
}

void check_out(struct sim *s, const struct td_x_out *o) {
    struct client *c = &s->client;
    if (c->done || c->error || c->gone || s->ends)
        sim_fail(s, "something was shown after the end");
    switch (o->type) {
    case TD_X_OUT_BEGIN:
        if (c->begun)
            sim_fail(s, "two beginnings");
        c->begun = true;
        break;
    case TD_X_OUT_ORIGIN:
        if (!c->begun)
            sim_fail(s, "another origin before the first");
        break;
    case TD_X_OUT_EVENT:
        on_shown(s, &o->event);
        s->fakes[o->attempt].delivered_all = true;
        break;
    case TD_X_OUT_REVISION:
        on_revision(s, o);
        break;
    case TD_X_OUT_FINISH:
        c->finishes |= 1u << o->finish.choice;
        c->finish = o->finish.reason;
        break;
    case TD_X_OUT_DONE:
        c->done = true;
        c->degraded = o->done.degraded;
        c->last_attempt = o->attempt;
        c->usage_total = o->done.usage_total;
        c->cost_nusd = o->done.cost_nusd;
        check_answer(s, o->attempt);
        check_kept(s);
        break;
    case TD_X_OUT_ERROR:
        on_error(s, o);
        break;
    }
}

void check_end(struct sim *s) {
    const struct client *c = &s->client;
    if (s->ends != 1)
        sim_fail(s, "not exactly one end");
    if (s->started != s->recorded)
        sim_fail(s, "an attempt without its record");
    if (c->done + c->error + (s->end == TD_X_END_GONE) != 1)
        sim_fail(s, "not exactly one of done, error, gone");
    if (s->cost_nusd != s->end_cost_nusd || (c->done && c->cost_nusd != s->cost_nusd))
        sim_fail(s, "money does not add up");
    if (c->done && (c->usage_total.prompt_tokens != s->usage_total.prompt_tokens ||
                    c->usage_total.completion_tokens != s->usage_total.completion_tokens))
        sim_fail(s, "usage does not add up");
    if (s->plan.deadline_ms && s->now_ns > s->start_ns + s->plan.deadline_ms * TD_MS_NS)
        sim_fail(s, "it went on after the deadline");
    if (!s->request.stream && c->error && c->begun && !s->config.durable_before_answer)
        sim_fail(s, "part of a whole answer was shown");
    for (uint32_t i = 0; i < s->fake_count; i++)
        if (s->fakes[i].alive)
            sim_fail(s, "an attempt was left running");
    if (s->end_code == TD_OK && !c->done)
        sim_fail(s, "an end that does not match what was shown");
}
