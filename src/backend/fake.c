// SPDX-License-Identifier: Apache-2.0
#include "backend/fake.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "loop/loop.h"

struct td_fake {
    struct td_backend base;
    struct td_loop *loop;
    td_fake_script_fn script;
    void *user;
};

enum step { STEP_START, STEP_TOOL, STEP_WORDS, STEP_USAGE, STEP_FINISH, STEP_END, STEP_OVER };

struct td_attempt {
    struct td_fake *fake;
    struct td_attempt_spec spec;
    struct td_fake_script script;
    struct td_timer *timer;
    enum step step;
    size_t at; // of the text
    uint32_t words;
    bool paused;
    struct td_attempt_stats stats;
};

static void hand_up(struct td_attempt *a, const struct td_event *event) {
    // The receiver may destroy the attempt from inside: nothing of it is touched afterwards.
    a->spec.on_event(a->spec.user, event);
}

static struct td_str next_word(struct td_attempt *a) {
    const char *p = a->script.text.p + a->at;
    size_t left = a->script.text.n - a->at;
    const char *space = memchr(p, ' ', left);
    size_t n = space ? (size_t)(space - p) + 1 : left;
    a->at += n;
    return td_str_n(p, n);
}

static void say_word(struct td_attempt *a) {
    struct td_event ev = {.type = TD_EV_DELTA};
    struct td_token token = {.logprob = a->script.logprob, .entropy = NAN};
    ev.delta.text = token.text = next_word(a);
    if (a->spec.want_tokens) {
        ev.delta.tokens = &token;
        ev.delta.token_count = 1;
    }
    if (a->words++ == 0)
        a->stats.first_ns = td_loop_now_ns(a->fake->loop);
    hand_up(a, &ev);
}

static void say_error(struct td_attempt *a) {
    struct td_event ev = {.type = TD_EV_ERROR};
    a->step = STEP_OVER;
    a->stats.end_ns = td_loop_now_ns(a->fake->loop);
    ev.error.code = a->script.fail;
    ev.error.message = td_str_of(td_err_text(a->script.fail));
    hand_up(a, &ev);
}

// One event; what it sets comes before it is handed up.
static void on_turn(void *arg) {
    struct td_attempt *a = arg;
    struct td_event ev = {.type = TD_EV_START};
    bool fails = a->script.fail != TD_OK;
    if (a->step == STEP_WORDS && (a->at == a->script.text.n || (fails && a->words == a->script.words)))
        a->step = STEP_USAGE;
    if (a->step != STEP_START && a->step != STEP_END)
        td_timer_arm(a->timer, a->script.pause_ms);
    switch (a->step) {
    case STEP_START:
        a->step = a->script.tool.n ? STEP_TOOL : STEP_WORDS;
        td_timer_arm(a->timer, a->script.pause_ms);
        ev.start.model = a->spec.target->model;
        hand_up(a, &ev);
        break;
    case STEP_TOOL:
        a->step = STEP_USAGE;
        ev.type = TD_EV_TOOL_CALL;
        ev.tool.index = 0;
        ev.tool.id = TD_STR("call_fake");
        ev.tool.name = a->script.tool;
        ev.tool.arguments = a->script.arguments;
        a->stats.first_ns = td_loop_now_ns(a->fake->loop);
        hand_up(a, &ev);
        break;
    case STEP_WORDS:
        if (a->paused)
            td_timer_disarm(a->timer); // resume goes on
        else
            say_word(a);
        break;
    case STEP_USAGE:
        if (fails) {
            td_timer_disarm(a->timer);
            say_error(a);
            break;
        }
        a->step = STEP_FINISH;
        ev.type = TD_EV_USAGE;
        ev.usage.prompt_tokens = a->stats.prompt_tokens = a->script.prompt_tokens;
        ev.usage.completion_tokens = a->stats.completion_tokens = a->words;
        hand_up(a, &ev);
        break;
    case STEP_FINISH:
        a->step = STEP_END;
        ev.type = TD_EV_FINISH;
        ev.finish.reason = a->script.tool.n ? TD_FINISH_TOOL_CALLS : TD_FINISH_STOP;
        hand_up(a, &ev);
        break;
    case STEP_END:
        a->step = STEP_OVER;
        ev.type = TD_EV_END;
        a->stats.end_ns = td_loop_now_ns(a->fake->loop);
        hand_up(a, &ev);
        break;
    case STEP_OVER:
        break;
    }
}

static enum td_err fake_start(struct td_backend *b, const struct td_attempt_spec *spec, struct td_attempt **out,
                              struct td_error *e) {
    struct td_fake *fake = (struct td_fake *)b;
    struct td_fake_script script = {0};
    fake->script(fake->user, spec, &script);
    if (script.refuse != TD_OK)
        return td_error_set(e, script.refuse, "%s", td_err_text(script.refuse));
    struct td_attempt *a = td_calloc(1, sizeof *a);
    if (!a)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while starting an attempt");
    a->fake = fake;
    a->spec = *spec;
    a->script = script;
    a->stats.start_ns = td_loop_now_ns(fake->loop);
    a->stats.mean_logprob = a->stats.min_logprob = a->stats.mean_entropy = NAN;
    a->timer = td_timer_create(fake->loop, on_turn, a);
    if (!a->timer) {
        td_free(a);
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while starting an attempt");
    }
    td_timer_arm(a->timer, script.pause_ms);
    *out = a;
    return TD_OK;
}

static void fake_destroy(struct td_backend *b, struct td_attempt *a) {
    (void)b;
    td_timer_destroy(a->timer);
    td_free(a);
}

static void fake_pause(struct td_backend *b, struct td_attempt *a) {
    (void)b;
    a->paused = true;
}

static void fake_resume(struct td_backend *b, struct td_attempt *a) {
    (void)b;
    if (a->paused && a->step != STEP_OVER)
        td_timer_arm(a->timer, a->script.pause_ms);
    a->paused = false;
}

static void fake_stats(struct td_backend *b, const struct td_attempt *a, struct td_attempt_stats *out) {
    (void)b;
    *out = a->stats;
}

static bool fake_sent(struct td_backend *b, const struct td_attempt *a) {
    (void)b;
    return a->step != STEP_START;
}

static const struct td_backend_ops fake_ops = {"fake",      fake_start, fake_destroy, fake_pause,
                                               fake_resume, fake_stats, fake_sent};

struct td_backend *td_fake_create(struct td_loop *loop, td_fake_script_fn script, void *user) {
    struct td_fake *fake = td_calloc(1, sizeof *fake);
    if (!fake)
        return NULL;
    *fake = (struct td_fake){.base = {&fake_ops}, .loop = loop, .script = script, .user = user};
    return &fake->base;
}

void td_fake_destroy(struct td_backend *backend) {
    td_free(backend);
}
