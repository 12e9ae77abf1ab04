// SPDX-License-Identifier: Apache-2.0
// One worker's side of the model hosts.
//
// An attempt:  waiting → (guest ready) sent → START … END | ERROR → over
//                 └── failed ──────────────────────────────────────↗        destroy at any moment
//
// Invariants. Everything here belongs to the loop's thread. A link is this worker's connection to one guest; it lives
// until the guest's end of it closes, or the backend goes. on_event may destroy any attempt, also the one it is called
// for: after each call `gone` says so, and nothing of the attempt is touched.
#include "local/local.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/counters.h"
#include "base/time.h"
#include "local/guest.h"

#define READ_BYTES (64u << 10) // one turn of the loop reads at most this from one guest
#define CREDIT_STEP 32u        // credits go back in such parcels

enum state { WAITING, SENT, OVER };

struct td_attempt {
    struct td_attempt *next; // in the backend's list while waiting, in the link's while sent
    struct td_local *local;
    struct td_attempt_spec copy;
    enum state state;
    struct td_model *model; // while waiting
    struct link *link;      // while sent
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

struct link {
    struct link *next;
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
    struct link *links;
    struct td_attempt *waiting;
    struct td_timer *sweeper; // closes broken links outside of their own callbacks
    struct td_token *tokens;  // scratch for one event
    size_t token_cap;
    struct td_counter *known, *made;
};

// ---- links

static void sweep_soon(struct td_local *local) {
    td_timer_arm(local->sweeper, 0);
}

static void break_link(struct link *link) {
    enum td_err err = td_watch_set(link->watch, 0); // taking a watch off cannot fail
    (void)err;
    link->broken = true;
    sweep_soon(link->local);
}

static void flush(struct link *link) {
    while (link->out.n && !link->broken) {
        ssize_t n = send(link->fd, link->out.p, link->out.n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            td_buf_drop(&link->out, (size_t)n);
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            break_link(link);
        break;
    }
    if (!link->broken && td_watch_set(link->watch, TD_WATCH_READ | (link->out.n ? TD_WATCH_WRITE : 0)) != TD_OK)
        break_link(link);
}

static void send_number(struct link *link, enum td_frame_type type, uint32_t id, const uint32_t *n) {
    struct td_proto_writer w;
    if (link->broken)
        return;
    td_proto_begin(&w, &link->out, type, id);
    if (n)
        td_proto_u32(&w, *n);
    if (td_proto_end(&w) != TD_OK)
        break_link(link);
    else
        flush(link);
}

static void free_link(struct link *link) {
    td_watch_destroy(link->watch);
    close(link->fd);
    td_buf_finish(&link->in);
    td_buf_finish(&link->out);
    td_guest_drop(link->local->manager, link->guest);
    td_free(link);
}

// ---- attempts

static void detach_from_link(struct td_attempt *a, bool served) {
    for (struct td_attempt **at = &a->link->attempts; *at; at = &(*at)->next)
        if (*at == a) {
            *at = a->next;
            break;
        }
    td_manager_done(a->local->manager, a->guest, served);
    a->link = NULL;
    a->guest = NULL;
}

static void detach_from_waiting(struct td_attempt *a) {
    for (struct td_attempt **at = &a->local->waiting; *at; at = &(*at)->next)
        if (*at == a) {
            *at = a->next;
            break;
        }
}

// Hands an event up. False: the attempt has gone.
static bool emit(struct td_attempt *a, const struct td_event *event) {
    bool gone = false;
    a->gone = &gone;
    a->copy.on_event(a->copy.user, event);
    if (gone)
        return false;
    a->gone = NULL;
    return true;
}

static void end(struct td_attempt *a, bool served) {
    a->stats.end_ns = td_now_ns();
    if (a->state == SENT)
        detach_from_link(a, served);
    a->state = OVER;
    if (a->timer)
        td_timer_disarm(a->timer);
}

static bool fail(struct td_attempt *a, enum td_err code, struct td_str message, bool served) {
    struct td_event event = {.type = TD_EV_ERROR, .error = {.code = code, .message = message}};
    end(a, served);
    return emit(a, &event);
}

// ---- frames → events

struct records {
    const struct td_token *tokens;
    uint32_t count;
};

// Reads token records; texts stay where they are in the frame.
static bool read_tokens(struct td_attempt *a, struct td_proto_reader *r, struct records *out) {
    struct td_local *local = a->local;
    uint32_t count = td_proto_get_u32(r);
    size_t used = count;
    *out = (struct records){NULL, 0};
    if (count == 0)
        return !r->bad;
    if (count > TD_PROTO_TOKENS_MAX)
        return false;
    struct td_proto_reader again = *r;
    for (uint32_t i = 0; i < count && !again.bad; i++) { // how many alternatives?
        td_proto_get_u64(&again);
        td_proto_get_str(&again);
        uint32_t top = td_proto_get_u32(&again);
        if (top > TD_LOGPROBS_MAX)
            return false;
        for (uint32_t j = 0; j < top; j++) {
            td_proto_get_f32(&again);
            td_proto_get_str(&again);
        }
        used += top;
    }
    if (again.bad)
        return false;
    if (used > local->token_cap) {
        struct td_token *more = td_realloc(local->tokens, used * sizeof *more);
        if (!more)
            return false;
        local->tokens = more;
        local->token_cap = used;
    }
    struct td_token *top = local->tokens + count;
    for (uint32_t i = 0; i < count; i++) {
        struct td_token *t = &local->tokens[i];
        *t = (struct td_token){.logprob = td_proto_get_f32(r), .entropy = td_proto_get_f32(r)};
        t->text = td_proto_get_str(r);
        t->top_count = td_proto_get_u32(r);
        t->top = top;
        for (uint32_t j = 0; j < t->top_count; j++, top++) {
            *top = (struct td_token){.logprob = td_proto_get_f32(r), .entropy = NAN};
            top->text = td_proto_get_str(r);
        }
        a->logprob_sum += t->logprob;
        a->entropy_sum += t->entropy;
        a->stats.min_logprob =
            a->token_count == 0 || t->logprob < a->stats.min_logprob ? t->logprob : a->stats.min_logprob;
        a->token_count++;
    }
    *out = (struct records){local->tokens, count};
    return true;
}

static void spend(struct td_attempt *a) {
    if (++a->owed < CREDIT_STEP)
        return;
    send_number(a->link, TD_FRAME_CREDIT, a->id, &a->owed);
    a->owed = 0;
}

static void note_first(struct td_attempt *a) {
    if (!a->stats.first_ns)
        a->stats.first_ns = td_now_ns();
}

// False: the frame makes no sense. *alive false: the attempt has gone.
static bool on_text(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_proto_reader r;
    struct records tokens;
    td_proto_read(&r, f->body);
    struct td_event event = {.type = f->type == TD_FRAME_TEXT ? TD_EV_DELTA : TD_EV_REASONING};
    event.choice = td_proto_get_u32(&r);
    event.delta.text = td_proto_get_str(&r);
    if (!read_tokens(a, &r, &tokens) || !td_proto_ok(&r) || event.choice >= TD_CHOICES_MAX ||
        !td_str_is_utf8(event.delta.text))
        return false;
    if (a->copy.want_tokens) {
        event.delta.tokens = tokens.tokens;
        event.delta.token_count = tokens.count;
    }
    note_first(a);
    spend(a);
    *alive = emit(a, &event);
    return true;
}

static bool on_tool(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_proto_reader r;
    struct records tokens;
    struct td_event event = {.type = TD_EV_TOOL_CALL};
    td_proto_read(&r, f->body);
    event.choice = td_proto_get_u32(&r);
    event.tool.index = td_proto_get_u32(&r);
    event.tool.id = td_proto_get_str(&r);
    event.tool.name = td_proto_get_str(&r);
    event.tool.arguments = td_proto_get_str(&r);
    if (!read_tokens(a, &r, &tokens) || !td_proto_ok(&r) || event.choice >= TD_CHOICES_MAX ||
        !td_str_is_utf8(event.tool.id) || !td_str_is_utf8(event.tool.name) || !td_str_is_utf8(event.tool.arguments))
        return false;
    if (a->copy.want_tokens) {
        event.tool.tokens = tokens.tokens;
        event.tool.token_count = tokens.count;
    }
    note_first(a);
    spend(a);
    *alive = emit(a, &event);
    return true;
}

static bool on_embedding(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_proto_reader r;
    struct td_event event = {.type = TD_EV_EMBEDDING};
    td_proto_read(&r, f->body);
    event.embedding.index = td_proto_get_u32(&r);
    event.embedding.count = td_proto_get_u32(&r);
    if (event.embedding.count > 65536 || (size_t)(r.end - r.p) != 4ull * event.embedding.count)
        return false;
    float *values = td_malloc(event.embedding.count * sizeof *values);
    if (!values)
        return false;
    for (uint32_t i = 0; i < event.embedding.count; i++)
        values[i] = td_proto_get_f32(&r);
    event.embedding.values = values;
    note_first(a);
    spend(a);
    *alive = emit(a, &event);
    td_free(values);
    return true;
}

static bool on_usage(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_proto_reader r;
    struct td_event event = {.type = TD_EV_USAGE};
    td_proto_read(&r, f->body);
    event.usage.prompt_tokens = td_proto_get_u32(&r);
    event.usage.completion_tokens = td_proto_get_u32(&r);
    event.usage.cached_tokens = td_proto_get_u32(&r);
    event.usage.reasoning_tokens = td_proto_get_u32(&r);
    a->prompt_tokens = event.usage.prompt_tokens;
    *alive = td_proto_ok(&r) && emit(a, &event);
    return td_proto_ok(&r);
}

static bool on_finish(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_proto_reader r;
    struct records tokens;
    struct td_event event = {.type = TD_EV_FINISH};
    td_proto_read(&r, f->body);
    event.choice = td_proto_get_u32(&r);
    uint32_t reason = td_proto_get_u32(&r);
    if (!read_tokens(a, &r, &tokens) || !td_proto_ok(&r) || reason > TD_FINISH_TOOL_CALLS ||
        event.choice >= TD_CHOICES_MAX)
        return false;
    event.finish.reason = (enum td_finish)reason;
    *alive = emit(a, &event);
    return true;
}

static bool on_frame(struct td_attempt *a, const struct td_frame *f, bool *alive) {
    struct td_event event;
    struct td_str message;
    enum td_err code;
    *alive = true;
    switch (f->type) {
    case TD_FRAME_START: {
        struct td_proto_reader r;
        td_proto_read(&r, f->body);
        event = (struct td_event){.type = TD_EV_START, .start = {.model = td_proto_get_str(&r)}};
        uint32_t how = td_proto_get_u32(&r);
        if (!td_proto_ok(&r) || !td_str_is_utf8(event.start.model))
            return false;
        if (how & (TD_PROTO_START_KNOWN | TD_PROTO_START_MADE))
            td_counter_add(how & TD_PROTO_START_KNOWN ? a->local->known : a->local->made, 1);
        *alive = emit(a, &event);
        return true;
    }
    case TD_FRAME_TEXT:
    case TD_FRAME_REASONING:
        return on_text(a, f, alive);
    case TD_FRAME_TOOL:
        return on_tool(a, f, alive);
    case TD_FRAME_EMBEDDING:
        return on_embedding(a, f, alive);
    case TD_FRAME_USAGE:
        return on_usage(a, f, alive);
    case TD_FRAME_FINISH:
        return on_finish(a, f, alive);
    case TD_FRAME_END:
        end(a, true);
        event = (struct td_event){.type = TD_EV_END};
        *alive = emit(a, &event);
        return true;
    case TD_FRAME_ERROR:
        if (!td_proto_get_error(f->body, &code, &message) || !td_str_is_utf8(message))
            return false;
        *alive = fail(a, code, message, true);
        return true;
    default:
        return false;
    }
}

// ---- reading

static struct td_attempt *find(struct link *link, uint32_t id) {
    for (struct td_attempt *a = link->attempts; a; a = a->next)
        if (a->id == id)
            return a;
    return NULL;
}

// Hands out or holds one frame. False: the guest broke the protocol.
static bool deliver(struct link *link, const struct td_frame *f, size_t bytes) {
    struct td_attempt *a = find(link, f->id);
    bool alive;
    if (!a)
        return f->id != 0 && f->id < link->next_id; // cancelled a moment ago
    a->stats.bytes_in += bytes;
    if (!a->paused && a->held.n == 0)
        return on_frame(a, f, &alive);
    // Credits bound what can come; the ceiling is for a guest that ignores them.
    return td_buf_add(&a->held, f->body.p - TD_PROTO_HEADER_BYTES, bytes) == TD_OK;
}

static void read_link(struct link *link) {
    char *to = td_buf_reserve(&link->in, READ_BYTES);
    ssize_t n = to ? recv(link->fd, to, READ_BYTES, MSG_DONTWAIT) : -1;
    if (n < 0 && to && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        break_link(link);
        return;
    }
    td_buf_grew(&link->in, (size_t)n);
    size_t at = 0, used = 1;
    // The sweeper runs from the loop only, so the link outlives this call.
    while (used && !link->broken) {
        struct td_frame f;
        if (td_proto_next(td_str_n(link->in.p + at, link->in.n - at), TD_HOST_FRAME_BYTES_MAX, &f, &used) != TD_OK ||
            (used && !deliver(link, &f, used))) {
            td_manager_condemn(link->local->manager, link->guest);
            break_link(link);
            break;
        }
        at += used;
    }
    td_buf_drop(&link->in, at);
}

static void on_link(void *arg, int events) {
    struct link *link = arg;
    if (events & TD_WATCH_WRITE)
        flush(link);
    if (events & TD_WATCH_READ && !link->broken)
        read_link(link);
}

// Frames held back by pause, in order, until one pauses again.
static void replay(struct td_attempt *a) {
    struct td_local *local = a->local;
    struct link *link = a->link;
    size_t at = 0, used = 1;
    bool alive = true, ok = true;
    struct td_buf held = a->held; // the attempt may go while its frames are read
    td_buf_init(&a->held, TD_HOST_FRAME_BYTES_MAX);
    while (alive && ok && a->state == SENT && !a->paused && used) {
        struct td_frame f;
        ok = td_proto_next(td_str_n(held.p + at, held.n - at), TD_HOST_FRAME_BYTES_MAX, &f, &used) == TD_OK;
        at += used;
        if (ok && used)
            ok = on_frame(a, &f, &alive);
    }
    if (!ok) {
        td_manager_condemn(local->manager, link->guest);
        break_link(link);
    }
    if (alive && a->state == SENT && td_buf_add(&a->held, held.p + at, held.n - at) != TD_OK)
        break_link(link);
    td_buf_finish(&held);
}

// ---- finding a guest

// NULL: the guest has just ended (the manager will hear of it and tell), or there is no memory.
static struct link *find_link(struct td_local *local, struct td_guest *guest) {
    for (struct link *link = local->links; link; link = link->next)
        if (link->guest == guest && !link->broken)
            return link;
    struct link *link = td_calloc(1, sizeof *link);
    int fd = link ? td_guest_connection(local->manager, guest, local->worker) : -1;
    struct td_watch *watch = fd >= 0 ? td_watch_create(local->loop, fd, on_link, link) : NULL;
    if (!watch || td_watch_set(watch, TD_WATCH_READ) != TD_OK) {
        // Without memory the connection goes back, and another try follows soon.
        td_watch_destroy(watch);
        td_guest_return(local->manager, guest, local->worker, fd);
        td_free(link);
        td_timer_arm(local->sweeper, 50);
        return NULL;
    }
    *link = (struct link){.next = local->links, .local = local, .guest = guest, .fd = fd, .watch = watch, .next_id = 1};
    td_buf_init(&link->in, TD_HOST_FRAME_BYTES_MAX + READ_BYTES * 2);
    td_buf_init(&link->out, 4ull * TD_HOST_FRAME_BYTES_MAX);
    td_guest_hold(local->manager, guest);
    local->links = link;
    return link;
}

// The attempt has a guest: send it there.
static enum td_err send_request(struct td_attempt *a, struct td_guest *guest, struct link *link) {
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
    a->state = SENT;
    a->link = link;
    a->guest = guest;
    a->model = NULL;
    a->next = link->attempts;
    link->attempts = a;
    flush(link);
    return TD_OK;
}

// Waiting attempts look whether their model is there. Never from inside start.
static void on_models_changed(void *arg) {
    struct td_local *local = arg;
    bool again = true;
    while (again) { // a callback may change the list: start over after each
        again = false;
        for (struct td_attempt *a = local->waiting; a; a = a->next) {
            struct td_guest *guest;
            struct td_error e = {TD_OK, ""};
            enum td_err err = td_manager_take(local->manager, a->model, &guest, &e);
            if (!err && !guest)
                continue;
            struct link *link = guest ? find_link(local, guest) : NULL;
            if (guest && !link) {
                td_manager_put_back(local->manager, a->model, guest);
                continue;
            }
            detach_from_waiting(a);
            if (!err && (err = send_request(a, guest, link)) != TD_OK)
                td_manager_done(local->manager, guest, false);
            if (err)
                fail(a, err, e.code ? td_str_of(e.message) : td_str_of(td_err_text(err)), false);
            again = true;
            break;
        }
    }
}

// Ends the attempts of links whose guest has gone, then the links.
static void on_sweep(void *arg) {
    struct td_local *local = arg;
    for (struct link **at = &local->links; *at;) {
        struct link *link = *at;
        if (!link->broken) {
            at = &link->next;
            continue;
        }
        if (link->attempts) {
            struct td_attempt *a = link->attempts;
            td_manager_suspect(local->manager, link->guest, a->prompt);
            fail(a, TD_ERR_HOST_CRASH, td_str_of(td_err_text(TD_ERR_HOST_CRASH)), false);
            at = &local->links; // anything may have changed
            continue;
        }
        *at = link->next;
        td_manager_lost(local->manager, link->guest);
        free_link(link);
    }
    on_models_changed(local);
}

// ---- the backend's operations

static void on_timer(void *arg) {
    struct td_attempt *a = arg;
    uint64_t now = td_now_ns();
    if (a->copy.deadline_ns && now >= a->copy.deadline_ns && a->state != OVER) {
        if (a->state == WAITING) {
            detach_from_waiting(a);
            td_manager_unwant(a->local->manager, a->model);
        } else {
            send_number(a->link, TD_FRAME_CANCEL, a->id, NULL);
        }
        fail(a, TD_ERR_DEADLINE, td_str_of(td_err_text(TD_ERR_DEADLINE)), false);
        return;
    }
    if (a->copy.deadline_ns && a->state != OVER)
        td_timer_arm(a->timer, (a->copy.deadline_ns - now) / TD_MS_NS + 1);
    if (a->replay && a->state == SENT && !a->paused) {
        a->replay = false;
        replay(a);
    }
}

static enum td_err start(struct td_backend *b, const struct td_attempt_spec *spec, struct td_attempt **out,
                         struct td_error *e) {
    struct td_local *local = (struct td_local *)b;
    struct td_attempt *a = td_calloc(1, sizeof *a);
    if (!a)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    *a = (struct td_attempt){.local = local, .copy = *spec, .state = WAITING};
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
    struct link *link = guest ? find_link(local, guest) : NULL;
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
    if (a->state == WAITING) {
        detach_from_waiting(a);
        td_manager_unwant(a->local->manager, a->model);
    } else if (a->state == SENT) {
        struct link *link = a->link;
        detach_from_link(a, false);
        send_number(link, TD_FRAME_CANCEL, a->id, NULL);
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
    return a->state != WAITING; // the link has a copy
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
    enum td_err err =
        local->sweeper ? td_manager_attach(manager, worker, loop, on_models_changed, local) : TD_ERR_NOMEM;
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
        struct link *link = local->links;
        local->links = link->next;
        free_link(link);
    }
    td_timer_destroy(local->sweeper);
    td_free(local->tokens);
    td_free(local);
}
