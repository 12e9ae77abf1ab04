// SPDX-License-Identifier: Apache-2.0
#include "sim.h"

#include <math.h>
#include <stdio.h>

enum fault fake_draw_fault(struct sim *s, uint32_t target) {
    static const enum fault device[] = {FAULT_CRASH, FAULT_MEMORY,  FAULT_NOT_FOR_ME,    FAULT_SILENT,
                                        FAULT_MUTE,  FAULT_CONTEXT, FAULT_END_UNFINISHED};
    if (s->cut_campaign)
        return s->fake_count == 0 || rng_chance(&s->rng, 20) ? FAULT_CUT : FAULT_NONE;
    if (!rng_chance(&s->rng, 55))
        return FAULT_NONE;
    if (target == DEVICE)
        return device[rng_below(&s->rng, sizeof device / sizeof *device)];
    return (enum fault)rng_below(&s->rng, FAULT_COUNT);
}

static uint64_t ms(uint32_t n) {
    return n * TD_MS_NS;
}

// What this attempt would answer if nothing went wrong: its family's story, from the prefix on.
static void compose(struct sim *s, struct fake *f, const struct td_x_start *start) {
    uint32_t family = s->family[f->target];
    const char *story = s->story[family];
    size_t n = s->story_n[family], from = start->prefix.n;
    if (from && (from > n || memcmp(story, start->prefix.p, from) != 0)) {
        // Another model wrote that: this one goes on in its own words.
        memcpy(f->full, start->prefix.p, from);
        size_t more = n < TEXT_MAX - from ? n : TEXT_MAX - from;
        memcpy(f->full + from, story, more);
        f->full_n = from + more;
    } else {
        memcpy(f->full, story, n);
        f->full_n = n;
    }
    f->pos = from;
    f->finish = s->tool_answer ? TD_FINISH_TOOL_CALLS : TD_FINISH_STOP;
    size_t stop_n = strlen(s->stop);
    if (stop_n == 0 || s->tool_answer)
        return;
    for (size_t i = from; i + stop_n <= f->full_n; i++)
        if (memcmp(f->full + i, s->stop, stop_n) == 0) {
            // It gives the text before the stop string; one that will be cut inside may have given a part of it.
            bool naive = f->fault == FAULT_CUT && rng_chance(&s->rng, 50);
            f->full_n = i + (naive ? stop_n - 1 : 0);
            if (naive)
                f->fault_at = UINT32_MAX; // strikes at the end
            return;
        }
}

void fake_start(struct sim *s, const struct td_x_start *start) {
    struct fake *f = &s->fakes[start->attempt];
    *f = (struct fake){.used = true, .alive = true, .target = start->target, .role = start->role};
    s->fake_count++;
    f->fault = fake_draw_fault(s, start->target);
    uint32_t moments = 1; // between two events, before the first and after the last
    for (size_t i = 0; i < s->story_n[s->family[f->target]]; i++)
        moments += s->story[s->family[f->target]][i] == ' ';
    f->fault_at = rng_below(&s->rng, moments + 1);
    f->tokens_max = start->max_tokens;
    f->burst = !s->request.stream && rng_chance(&s->rng, 70);
    f->splits = !s->cut_campaign && s->request.max_tokens == 0 && s->request.n == 1 && rng_chance(&s->rng, 15);
    f->sure = rng_chance(&s->rng, 60);
    f->reasoning = rng_chance(&s->rng, 10) ? 1 + rng_below(&s->rng, 3) : 0;
    f->step_ms = rng_below(&s->rng, 30);
    compose(s, f, start);
    f->next_ns = s->now_ns + (rng_chance(&s->rng, 20) ? ms(rng_below(&s->rng, 6)) : 0);
    if (!s->cut_campaign && rng_chance(&s->rng, 4)) // its receipt waits for a disk that is slow
        f->next_ns = s->now_ns + ms(rng_below(&s->rng, 2000));
}

static void send(struct sim *s, uint32_t attempt, struct td_event ev) {
    check_heard(s, attempt, &ev);
    if (ev.type == TD_EV_END || ev.type == TD_EV_ERROR)
        s->fakes[attempt].alive = false;
    sim_feed(s, (struct td_x_input){.type = TD_X_IN_EVENT, .attempt = attempt, .event = &ev});
}

static void fail_with(struct sim *s, uint32_t attempt, enum td_err code, int status, uint32_t after_ms) {
    struct td_event ev = {.type = TD_EV_ERROR};
    ev.error.code = code;
    ev.error.http_status = status;
    ev.error.retry_after_ms = after_ms;
    ev.error.message = TD_STR("simulated");
    send(s, attempt, ev);
}

static bool strike_early(struct sim *s, uint32_t a) {
    struct fake *f = &s->fakes[a];
    switch (f->fault) {
    case FAULT_RATE_AFTER:
        fail_with(s, a, TD_ERR_UPSTREAM_RATE, 429, 100 + rng_below(&s->rng, rng_chance(&s->rng, 50) ? 1500 : 60000));
        return true;
    case FAULT_RATE:
        fail_with(s, a, TD_ERR_UPSTREAM_RATE, 429, 0);
        return true;
    case FAULT_500:
    case FAULT_503:
        fail_with(s, a, TD_ERR_UPSTREAM_SERVER, f->fault == FAULT_500 ? 500 : 503, 0);
        return true;
    case FAULT_RESET:
        fail_with(s, a, TD_ERR_CONNECT, 0, 0);
        return true;
    case FAULT_MUTE:
        f->next_ns = UINT64_MAX;
        return true;
    case FAULT_LATE:
        f->next_ns = s->now_ns + ms(20000);
        f->fault = FAULT_NONE;
        return true;
    case FAULT_CONTEXT:
        fail_with(s, a, TD_ERR_CONTEXT_LENGTH, f->target == DEVICE ? 0 : 400, 0);
        return true;
    case FAULT_CONTENT:
        fail_with(s, a, TD_ERR_CONTENT_POLICY, 400, 0);
        return true;
    case FAULT_DNS:
        fail_with(s, a, TD_ERR_DNS, 0, 0);
        return true;
    case FAULT_TLS:
        fail_with(s, a, TD_ERR_TLS, 0, 0);
        return true;
    case FAULT_MEMORY:
        fail_with(s, a, TD_ERR_HOST_MEMORY, 0, 0);
        return true;
    case FAULT_NOT_FOR_ME:
        fail_with(s, a, TD_ERR_NOT_FOR_ME, 0, 0);
        return true;
    case FAULT_AUTH:
        fail_with(s, a, TD_ERR_UPSTREAM_AUTH, 401, 0);
        return true;
    case FAULT_REQUEST:
        fail_with(s, a, TD_ERR_UPSTREAM_REQUEST, 422, 0);
        return true;
    case FAULT_TOTAL:
        fail_with(s, a, TD_ERR_DEADLINE, 0, 0);
        return true;
    case FAULT_GARBAGE:
        fail_with(s, a, TD_ERR_UPSTREAM_GARBAGE, 200, 0);
        return true;
    case FAULT_PREFIX:
        if (f->role != TD_X_ROLE_CONTINUE)
            return false;
        fail_with(s, a, TD_ERR_UPSTREAM_REQUEST, 400, 0);
        return true;
    default:
        return false;
    }
}

static bool strike_late(struct sim *s, uint32_t a) {
    struct fake *f = &s->fakes[a];
    bool last = f->pos >= f->full_n || f->hit_max;
    if (f->events < f->fault_at && !last)
        return false;
    switch (f->fault) {
    case FAULT_CUT:
        fail_with(s, a, TD_ERR_CUT, 0, 0);
        return true;
    case FAULT_CRASH:
        fail_with(s, a, TD_ERR_HOST_CRASH, 0, 0);
        return true;
    case FAULT_INSIDE:
        fail_with(s, a, TD_ERR_UPSTREAM_SERVER, 0, 0);
        return true;
    case FAULT_SILENT:
        f->next_ns = UINT64_MAX;
        return true;
    case FAULT_END_UNFINISHED:
        send(s, a, (struct td_event){.type = TD_EV_END});
        return true;
    default:
        return false;
    }
}

static size_t token_end(const struct fake *f) {
    size_t end = f->pos + 1;
    while (end < f->full_n && f->full[end] != ' ')
        end++;
    return end;
}

static void say_vector(struct sim *s, uint32_t a) {
    static const float values[8] = {1, 2, 3};
    struct td_event ev = {.type = TD_EV_EMBEDDING};
    ev.embedding.values = values;
    ev.embedding.count = 8;
    s->fakes[a].pos = s->fakes[a].full_n;
    s->fakes[a].events++;
    send(s, a, ev);
}

static void say_content(struct sim *s, uint32_t a) {
    struct fake *f = &s->fakes[a];
    bool gap = f->fault == FAULT_DAMAGED && f->events == f->fault_at;
    size_t end = token_end(f);
    if (gap && end < f->full_n) { // the unreadable event took its text with it
        f->pos = end;
        end = token_end(f);
    }
    if (f->splits && end - f->pos > 1 && rng_chance(&s->rng, 50))
        end = f->pos + 1 + rng_below(&s->rng, (uint32_t)(end - f->pos - 1)); // may be inside a character
    struct td_str text = td_str_n(f->full + f->pos, end - f->pos);
    struct td_event ev = {.type = TD_EV_DELTA, .choice = f->choice};
    struct td_token token = {.text = text, .logprob = f->sure ? -0.05f : -1.5f, .entropy = 0.3f};
    ev.damaged = gap;
    if (s->tool_answer) {
        ev.type = TD_EV_TOOL_CALL;
        if (f->events == 0) {
            ev.tool.id = TD_STR("call_x");
            ev.tool.name = TD_STR("set_timer");
        }
        ev.tool.arguments = text;
    } else {
        ev.delta.text = text;
    }
    if (f->target == DEVICE) {
        if (s->tool_answer) {
            ev.tool.tokens = &token;
            ev.tool.token_count = 1;
        } else {
            ev.delta.tokens = &token;
            ev.delta.token_count = 1;
        }
    }
    if (s->request.n > 1 && f->choice + 1 < s->request.n) {
        f->choice++; // the same piece for the next choice
    } else {
        f->choice = 0;
        f->pos = end;
        f->tokens++;
        f->hit_max = f->tokens_max && f->tokens >= f->tokens_max;
    }
    f->events++;
    send(s, a, ev);
}

static void say_finish(struct sim *s, uint32_t a) {
    struct fake *f = &s->fakes[a];
    struct td_event ev = {.type = TD_EV_FINISH, .choice = f->choice};
    ev.finish.reason = f->hit_max && f->pos < f->full_n ? TD_FINISH_LENGTH : f->finish;
    if (f->choice + 1 < s->request.n) {
        f->choice++;
    } else {
        f->stage = 5;
        f->told_finish = true;
        if (f->hit_max)
            f->full_n = f->pos; // that is all it was asked for
    }
    send(s, a, ev);
}

static void say_usage(struct sim *s, uint32_t a) {
    struct fake *f = &s->fakes[a];
    f->stage = 6;
    if (f->fault == FAULT_NO_DONE) {
        fail_with(s, a, TD_ERR_CUT, 0, 0);
        return;
    }
    if (f->fault == FAULT_NO_DONE_OPEN) {
        f->next_ns = UINT64_MAX;
        return;
    }
    struct td_event ev = {.type = TD_EV_USAGE};
    ev.usage.prompt_tokens = 10 + rng_below(&s->rng, 1000);
    ev.usage.cached_tokens = rng_below(&s->rng, 10);
    ev.usage.completion_tokens = f->tokens;
    send(s, a, ev);
}

static void speak_once(struct sim *s, uint32_t a) {
    struct fake *f = &s->fakes[a];
    switch (f->stage) {
    case 0:
        if (!sim_send(s, a))
            return;
        f->stage = 1;
        f->next_ns = s->now_ns + ms(rng_below(&s->rng, f->target == DEVICE ? 60 : 900));
        sim_feed(s, (struct td_x_input){.type = TD_X_IN_STARTED, .attempt = a});
        return;
    case 1:
        if (strike_early(s, a))
            return;
        f->stage = 2;
        send(s, a, (struct td_event){.type = TD_EV_START, .start.model = s->targets[f->target].model});
        return;
    case 2:
        if (f->reasoning && s->request.kind != TD_KIND_EMBEDDING) {
            f->reasoning--;
            send(s, a, (struct td_event){.type = TD_EV_REASONING, .delta.text = TD_STR("hm ")});
            return;
        }
        f->stage = 3;
        return;
    case 3:
        if (f->choice == 0 && strike_late(s, a))
            return;
        if (f->choice == 0 && (f->pos >= f->full_n || f->hit_max)) {
            f->stage = s->request.kind == TD_KIND_EMBEDDING ? 5 : 4;
            return;
        }
        if (s->request.kind == TD_KIND_EMBEDDING)
            say_vector(s, a);
        else
            say_content(s, a);
        return;
    case 4:
        say_finish(s, a);
        return;
    case 5:
        say_usage(s, a);
        return;
    default:
        send(s, a, (struct td_event){.type = TD_EV_END});
    }
}

void fake_speak(struct sim *s, uint32_t a) {
    struct fake *f = &s->fakes[a];
    uint64_t at = f->next_ns;
    do {
        speak_once(s, a);
    } while (f->alive && !f->paused && f->burst && f->stage > 1 && f->next_ns == at);
    if (f->alive && f->next_ns == at)
        f->next_ns = s->now_ns + ms(f->step_ms);
}
