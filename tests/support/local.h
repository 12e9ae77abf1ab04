// SPDX-License-Identifier: Apache-2.0
// For tests and benchmarks of local models: one worker's loop with a manager and a backend, and questions asked through
// them until they end. Prints nothing; a deadline ends what hangs.
#ifndef TD_TESTS_LOCAL_H
#define TD_TESTS_LOCAL_H

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/time.h"
#include "local/local.h"

struct house {
    struct td_loop *loop;
    struct td_manager *manager;
    struct td_backend *backend;
    struct td_timer *tick;
};

// One attempt and what came of it.
struct ask {
    struct house *house;
    struct td_attempt *attempt;
    struct td_target target;
    struct td_attempt_spec spec;
    struct td_buf text, pieces, arguments, reasoning; // pieces: the tokens' own bytes
    char model[64], tool_name[64], tool_id[64];
    uint32_t deltas, tools, embeddings, finishes, token_count, embedding_size, ends, starts;
    float *embedding; // the last one
    float logprob_sum, entropy_sum, top_first;
    uint32_t top_count;
    enum td_finish finish;
    enum td_err error; // of an ERROR event or of start
    char message[240];
    struct td_usage usage;
    struct td_attempt_stats stats;
    bool over;
    uint64_t first_ns, over_ns;
    void (*on_delta)(struct ask *a); // may destroy the attempt
};

static void house_tick(void *arg) {
    struct house *h = arg;
    td_timer_arm(h->tick, 10);
}

static inline bool house_open(struct house *h, const struct td_manager_options *options) {
    struct td_error e = {TD_OK, ""};
    *h = (struct house){.loop = td_loop_create()};
    if (!h->loop || td_manager_create(options, &h->manager, &e) != TD_OK ||
        td_local_create(h->manager, 0, h->loop, &h->backend, &e) != TD_OK) {
        fprintf(stderr, "house: %s\n", e.message);
        return false;
    }
    h->tick = td_timer_create(h->loop, house_tick, h);
    td_timer_arm(h->tick, 10);
    return h->tick != NULL;
}

static inline void house_close(struct house *h) {
    td_timer_destroy(h->tick);
    td_local_destroy(h->backend);
    td_loop_destroy(h->loop);
    td_manager_destroy(h->manager);
}

static inline void house_turn(struct house *h) {
    event_base_loop(td_loop_base(h->loop), EVLOOP_ONCE);
}

static void ask_on_event(void *user, const struct td_event *ev) {
    struct ask *a = user;
    enum td_err err = TD_OK;
    switch (ev->type) {
    case TD_EV_START:
        a->starts++;
        snprintf(a->model, sizeof a->model, "%.*s", TD_STR_ARG(ev->start.model));
        break;
    case TD_EV_REASONING:
        err = td_buf_add_str(&a->reasoning, ev->delta.text);
        break;
    case TD_EV_DELTA:
        if (!a->first_ns)
            a->first_ns = td_now_ns();
        a->deltas++;
        err = td_buf_add_str(&a->text, ev->delta.text);
        for (uint32_t i = 0; i < ev->delta.token_count && !err; i++) {
            const struct td_token *t = &ev->delta.tokens[i];
            a->token_count++;
            a->logprob_sum += t->logprob;
            a->entropy_sum += t->entropy;
            a->top_count += t->top_count;
            if (t->top_count)
                a->top_first = t->top[0].logprob;
            err = td_buf_add_str(&a->pieces, t->text);
        }
        if (a->on_delta)
            a->on_delta(a);
        break;
    case TD_EV_TOOL_CALL:
        if (!a->first_ns)
            a->first_ns = td_now_ns();
        if (ev->tool.name.n) {
            a->tools++;
            snprintf(a->tool_name, sizeof a->tool_name, "%.*s", TD_STR_ARG(ev->tool.name));
            snprintf(a->tool_id, sizeof a->tool_id, "%.*s", TD_STR_ARG(ev->tool.id));
        }
        err = td_buf_add_str(&a->arguments, ev->tool.arguments);
        break;
    case TD_EV_EMBEDDING:
        a->embeddings++;
        free(a->embedding);
        a->embedding_size = ev->embedding.count;
        a->embedding = malloc(ev->embedding.count * sizeof(float));
        memcpy(a->embedding, ev->embedding.values, ev->embedding.count * sizeof(float));
        break;
    case TD_EV_USAGE:
        a->usage = ev->usage;
        break;
    case TD_EV_FINISH:
        a->finishes++;
        a->finish = ev->finish.reason;
        break;
    case TD_EV_END:
    case TD_EV_ERROR:
        a->ends++;
        a->over = true;
        a->over_ns = td_now_ns();
        if (ev->type == TD_EV_ERROR) {
            a->error = ev->error.code;
            snprintf(a->message, sizeof a->message, "%.*s", TD_STR_ARG(ev->error.message));
        }
        break;
    default:
        break;
    }
    if (err)
        abort();
}

// `gguf` and `body` must stay alive until ask_close.
static inline void ask_open(struct ask *a, struct house *h, const char *gguf, enum td_kind kind, const char *body) {
    *a = (struct ask){.house = h};
    td_buf_init(&a->text, 64u << 20);
    td_buf_init(&a->pieces, 64u << 20);
    td_buf_init(&a->arguments, 1u << 20);
    td_buf_init(&a->reasoning, 1u << 20);
    a->target = (struct td_target){.name = TD_STR("device"), .model = td_str_of(gguf), .parallel = 4, .context = 512};
    a->spec = (struct td_attempt_spec){.target = &a->target,
                                       .kind = kind,
                                       .stream = true,
                                       .body = td_str_of(body),
                                       .want_tokens = true,
                                       .on_event = ask_on_event,
                                       .user = a};
}

static inline enum td_err ask_start(struct ask *a) {
    struct td_error e = {TD_OK, ""};
    enum td_err err = a->house->backend->ops->start(a->house->backend, &a->spec, &a->attempt, &e);
    if (err) {
        a->error = err;
        a->over = true;
        snprintf(a->message, sizeof a->message, "%s", e.message);
    }
    return err;
}

// False: it did not end in time.
static inline bool ask_wait(struct ask *a, uint32_t ms_max) {
    uint64_t until = td_now_ns() + ms_max * TD_MS_NS;
    while (!a->over && td_now_ns() < until)
        house_turn(a->house);
    if (a->attempt)
        a->house->backend->ops->stats(a->house->backend, a->attempt, &a->stats);
    return a->over;
}

static inline void ask_close(struct ask *a) {
    if (a->attempt)
        a->house->backend->ops->destroy(a->house->backend, a->attempt);
    a->attempt = NULL;
    td_buf_finish(&a->text);
    td_buf_finish(&a->pieces);
    td_buf_finish(&a->arguments);
    td_buf_finish(&a->reasoning);
    free(a->embedding);
    a->embedding = NULL;
}

// Turns the loop until `condition` or the deadline.
#define house_until(h, condition, ms_max)                                                                              \
    ({                                                                                                                 \
        uint64_t until_ = td_now_ns() + (ms_max)*TD_MS_NS;                                                             \
        while (!(condition) && td_now_ns() < until_)                                                                   \
            house_turn(h);                                                                                             \
        (condition);                                                                                                   \
    })

static inline struct td_manager_status house_status(struct house *h, const struct td_target *t) {
    struct td_manager_status s;
    td_manager_status(h->manager, t, &s);
    return s;
}

// Starts and waits; the outcome is in *a.
static inline bool ask_all(struct ask *a, uint32_t ms_max) {
    return ask_start(a) == TD_OK ? ask_wait(a, ms_max) : true;
}

#endif
