// SPDX-License-Identifier: Apache-2.0
#include "local/inside.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"

#define CRASH_BACKOFF_MS_MAX 2000u // a host that ended is back within 2 s plus its load
#define LOAD_BACKOFF_MS_MAX 30000u // a file that does not load is not tried at every request
#define MEMORY_WAIT_MS_MAX 10000u  // how long a load waits for serving models to fall idle
#define CUT_MS_MAX 300u            // a guest that has ended is reaped long before
#define GUEST_BYTES_PER_MS 400000u // load time estimate before the first load: 400 MB a second

// ---- ending guests

void td_guest_end(struct td_guest *g, bool ours) {
    if (g->state == GUEST_DEAD)
        return;
    struct td_model *model = g->model;
    if (model->loading == g)
        model->loading = NULL;
    if (model->ready == g)
        model->ready = NULL;
    g->ours = ours;
    g->state = GUEST_DEAD;
    kill(g->pid, SIGKILL);
}

static void fail_load(struct td_manager *m, struct td_model *model, enum td_err code, const char *message) {
    uint32_t wait = 500u << (model->load_failures < 6 ? model->load_failures : 6);
    model->load_failures++;
    model->error = code;
    model->preload = model->swap = false;
    model->memory_wait_ns = 0;
    model->retry_ns = td_now_ns() + (wait < LOAD_BACKOFF_MS_MAX ? wait : LOAD_BACKOFF_MS_MAX) * TD_MS_NS;
    snprintf(model->message, sizeof model->message, "%s", message);
    td_log(TD_LOG_WARN, "local", NULL, "while=load model=%s err=%s", model->name, td_err_code(code));
    td_manager_note(m);
}

// SIGKILL that was not ours: did the kernel take the memory back? One kill is one guest's end.
static bool killed_by_kernel(struct td_manager *m, const struct td_guest *g) {
    struct td_starved now;
    td_starved_look(g->pid, &now);
    if (!td_starved_rose(&g->killed, &now))
        return false;
    for (struct td_guest *other = m->guests; other; other = other->next)
        if (other != g)
            td_starved_forget(&other->killed, &now);
    return true;
}

// The process is gone: how did it end?
static void judge(struct td_manager *m, struct td_guest *g, const siginfo_t *how, bool known) {
    bool was_loading = g->model->loading == g, alive = g->state != GUEST_DEAD;
    // Killed from outside (an operator, the system short of memory) is nobody's prompt's fault.
    bool outside = known && how->si_code == CLD_KILLED && (how->si_status == SIGKILL || how->si_status == SIGTERM);
    bool starved = known && (how->si_code == CLD_EXITED ? how->si_status == TD_PROTO_EXIT_MEMORY
                                                        : how->si_status == SIGKILL && alive && killed_by_kernel(m, g));
    g->judged = true;
    g->end = starved ? TD_ERR_HOST_MEMORY : TD_ERR_HOST_CRASH;
    g->guilty = !g->ours && (!alive || !outside); // dead and not ours: it hung or broke the protocol
    for (uint32_t i = 0; i < g->suspect_count && g->guilty; i++)
        td_manager_strike(m, g->model, g->suspects[i]);
    if (!alive)
        return;
    td_guest_end(g, false);
    if (was_loading) {
        char message[128];
        snprintf(message, sizeof message, "the model host %s while it was loading the model (%s %d)",
                 starved ? "had no memory left" : "ended", known && how->si_code != CLD_EXITED ? "signal" : "status",
                 known ? how->si_status : -1);
        fail_load(m, g->model, starved ? TD_ERR_HOST_MEMORY : TD_ERR_HOST_LOAD, message);
        return;
    }
    td_log(TD_LOG_ERROR, "local", NULL, "while=serve model=%s err=%s code=%d status=%d", g->model->name,
           td_err_code(g->end), known ? how->si_code : 0, known ? how->si_status : 0);
    uint32_t wait = 100u << (g->model->crashes < 5 ? g->model->crashes : 5);
    // The first crash costs no pause: it may be the only one.
    g->model->retry_ns =
        g->model->crashes ? td_now_ns() + (wait < CRASH_BACKOFF_MS_MAX ? wait : CRASH_BACKOFF_MS_MAX) * TD_MS_NS : 0;
    g->model->crashes++;
}

static void reap(struct td_manager *m) {
    for (struct td_guest **at = &m->guests; *at;) {
        struct td_guest *g = *at;
        siginfo_t how = {0};
        // Judged before it is reaped: then its control group is still known.
        int rc = waitid(P_PID, (id_t)g->pid, &how, WEXITED | WNOHANG | WNOWAIT);
        if (rc == 0 && how.si_pid == 0) {
            at = &g->next;
            continue;
        }
        judge(m, g, &how, rc == 0);
        waitid(P_PID, (id_t)g->pid, &(siginfo_t){0}, WEXITED | WNOHANG);
        close(g->pidfd);
        close(g->control);
        *at = g->next;
        td_guest_release(g);
        td_manager_note(m);
    }
}

// ---- loading

// What the file promises; the guest says later what is true.
static uint32_t capabilities_of(const struct td_gguf *info) {
    if (info->embeds_only)
        return TD_CAP_EMBEDDING;
    uint32_t c = TD_CAP_COMPLETION | TD_CAP_EMBEDDING | TD_CAP_LOGPROBS | TD_CAP_CHOICES | TD_CAP_CHAT | TD_CAP_JSON |
                 TD_CAP_JSON_SCHEMA | TD_CAP_CONTINUE;
    return c | (info->template_tools ? TD_CAP_TOOLS : 0) | (info->infill ? TD_CAP_INFILL : 0);
}

// Makes room by ending idle models, least recently used first. TD_OK: `need` bytes are free now. TD_ERR_OVERLOAD: not
// yet (something is ending, or a serving model may fall idle). TD_ERR_HOST_MEMORY: never.
static enum td_err make_room(struct td_manager *m, const struct td_model *model, uint64_t need) {
    uint64_t used = 0, idle = 0, ending = 0;
    if (need > m->memory_bytes_max || (model->memory_bytes_max && need > model->memory_bytes_max))
        return TD_ERR_HOST_MEMORY;
    for (struct td_guest *g = m->guests; g; g = g->next) {
        used += g->memory_bytes;
        if (g->state == GUEST_DEAD)
            ending += g->memory_bytes;
        else if (g->state == GUEST_READY && !g->active && !g->model->waiting && g->model != model)
            idle += g->memory_bytes;
    }
    if (used + need <= m->memory_bytes_max)
        return TD_OK;
    uint64_t after = used - ending;
    if (after - idle + need > m->memory_bytes_max)
        return TD_ERR_OVERLOAD; // ending the idle ones would not help
    while (after + need > m->memory_bytes_max) {
        struct td_guest *oldest = NULL;
        for (struct td_guest *g = m->guests; g; g = g->next)
            if (g->state == GUEST_READY && !g->active && !g->model->waiting && g->model != model &&
                (!oldest || g->model->used_ns < oldest->model->used_ns))
                oldest = g;
        if (!oldest)
            break;
        td_log(TD_LOG_INFO, "local", NULL, "while=evict model=%s for=%s", oldest->model->name, model->name);
        after -= oldest->memory_bytes;
        td_guest_end(oldest, true);
    }
    return TD_ERR_OVERLOAD;
}

// With the lock held; lets go of it while the file is read and the guest spawned.
static void try_start(struct td_manager *m, struct td_model *model) {
    struct td_error e = {TD_OK, ""};
    struct td_gguf info = {0};
    struct td_guest *g = NULL;
    struct td_model_files files;
    pthread_mutex_unlock(&m->lock);
    enum td_err err = td_model_files_open(&files, model->path, &info, &e);
    uint32_t context = td_model_context(model, &info);
    uint64_t need = err ? 0 : td_gguf_memory(&info, context, model->parallel);
    pthread_mutex_lock(&m->lock);
    if (!err) {
        model->memory_bytes = need;
        if (!model->capabilities)
            model->capabilities = capabilities_of(&info);
        if (!model->load_ms)
            model->load_ms = (uint32_t)(info.file_bytes / GUEST_BYTES_PER_MS) + 50;
        err = make_room(m, model, need);
        if (err == TD_ERR_HOST_MEMORY)
            td_error_set(&e, err, "the model takes %llu MiB, the ceiling for models is %llu MiB",
                         (unsigned long long)(need >> 20), (unsigned long long)(m->memory_bytes_max >> 20));
    }
    if (err == TD_ERR_OVERLOAD) {
        uint64_t now = td_now_ns();
        if (!model->memory_wait_ns)
            model->memory_wait_ns = now;
        if (now - model->memory_wait_ns < MEMORY_WAIT_MS_MAX * TD_MS_NS)
            goto out;
        err = td_error_set(&e, TD_ERR_HOST_MEMORY, "other models that are serving hold the memory");
    }
    if (!err) {
        char *tools_file = model->tools_file ? td_strdup(model->tools_file) : NULL; // another target may change it
        pthread_mutex_unlock(&m->lock);
        err = td_guest_start(m, model, tools_file, &files, context, &g, &e);
        td_free(tools_file);
        pthread_mutex_lock(&m->lock);
    }
    if (err) {
        fail_load(m, model, err, e.message);
        goto out;
    }
    g->memory_bytes = need;
    g->generation = ++model->generation;
    g->next = m->guests;
    m->guests = g;
    model->loading = g;
    model->memory_wait_ns = 0;
out:
    td_model_files_close(&files);
}

// ---- what guests say

static void on_ready(struct td_manager *m, struct td_guest *g, const struct td_proto_ready *ready) {
    struct td_model *model = g->model;
    g->ready = *ready;
    g->load_ms = model->load_ms = (uint32_t)((td_now_ns() - g->started_ns) / TD_MS_NS);
    model->capabilities = ready->capabilities;
    model->loading = NULL;
    if (model->ready)
        model->ready->state = GUEST_RETIRING;
    g->state = GUEST_READY;
    model->ready = g;
    model->error = TD_OK;
    model->load_failures = 0;
    model->preload = model->swap = false;
    model->used_ns = td_now_ns();
    td_log(TD_LOG_INFO, "local", NULL, "while=load model=%s ms=%u generation=%u pid=%d sandbox=%u", model->name,
           g->load_ms, g->generation, g->pid, ready->sandbox);
    td_manager_note(m);
}

// False: the guest speaks something else and must go.
static bool on_control(struct td_manager *m, struct td_guest *g, const struct td_frame *f) {
    struct td_proto_ready ready;
    struct td_str message;
    enum td_err code;
    char text[240];
    g->heard_ns = td_now_ns();
    switch (f->type) {
    case TD_FRAME_BEAT:
        return true;
    case TD_FRAME_READY:
        if (g->state != GUEST_LOADING || !td_proto_get_ready(f->body, &ready) || ready.version != TD_PROTO_VERSION)
            return false;
        on_ready(m, g, &ready);
        return true;
    case TD_FRAME_FAILED:
        if (g->state != GUEST_LOADING || !td_proto_get_error(f->body, &code, &message) || !td_str_is_utf8(message))
            return false;
        snprintf(text, sizeof text, "%.*s", TD_STR_ARG(message));
        td_guest_end(g, true);
        fail_load(m, g->model, code, text);
        return true;
    default:
        return false;
    }
}

static void read_control(struct td_manager *m, struct td_guest *g) {
    char *to = td_buf_reserve(&g->in, TD_PROTO_CONTROL_BYTES_MAX);
    ssize_t n = to ? recv(g->control, to, TD_PROTO_CONTROL_BYTES_MAX, MSG_DONTWAIT) : -1;
    if (n <= 0)
        return; // the end shows in pidfd
    td_buf_grew(&g->in, (size_t)n);
    for (size_t used = 1; used && g->state != GUEST_DEAD;) {
        struct td_frame f;
        if (td_proto_next(td_buf_str(&g->in), TD_PROTO_CONTROL_BYTES_MAX - TD_PROTO_HEADER_BYTES, &f, &used) != TD_OK ||
            (used && !on_control(m, g, &f))) {
            bool loading = g->state == GUEST_LOADING;
            td_guest_end(g, true);
            if (loading)
                fail_load(m, g->model, TD_ERR_HOST_LOAD, "the model host did not keep to its protocol");
            return;
        }
        td_buf_drop(&g->in, used);
    }
}

// ---- the thread

static void ping(struct td_guest *g) {
    struct td_buf b;
    struct td_proto_writer w;
    td_buf_init(&b, 64);
    td_proto_begin(&w, &b, TD_FRAME_PING, 0);
    if (td_proto_end(&w) == TD_OK) {
        ssize_t n = send(g->control, b.p, b.n, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)n; // a full socket: it does not read, and the missing answer will show it
    }
    td_buf_finish(&b);
}

static void check_guest(struct td_manager *m, struct td_guest *g, uint64_t now) {
    struct td_model *model = g->model;
    if (g->state == GUEST_LOADING) {
        bool wanted = model->waiting || model->preload || model->swap;
        if (!wanted) {
            td_log(TD_LOG_INFO, "local", NULL, "while=load model=%s dropped=true", model->name);
            td_guest_end(g, true);
        } else if (now - g->started_ns > m->load_ms_max * TD_MS_NS) {
            td_guest_end(g, true);
            fail_load(m, model, TD_ERR_HOST_LOAD, "loading the model took too long");
        }
        return;
    }
    if (g->state == GUEST_DEAD)
        return;
    if (g->cut_ns && now - g->cut_ns > CUT_MS_MAX * TD_MS_NS) {
        td_log(TD_LOG_ERROR, "local", NULL, "while=serve model=%s cut=true", model->name);
        td_guest_end(g, false);
        model->crashes++;
        return;
    }
    if (g->active && now - g->heard_ns > m->hang_ms_max * TD_MS_NS / 4)
        ping(g);
    if (g->active && now - g->heard_ns > m->hang_ms_max * TD_MS_NS) {
        td_log(TD_LOG_ERROR, "local", NULL, "while=serve model=%s hangs=true", model->name);
        td_guest_end(g, false); // by its own fault: counts against the prompts in it
        model->crashes++;
    } else if (g->state == GUEST_RETIRING && !g->active) {
        td_guest_end(g, true);
    } else if (g->state == GUEST_READY && !g->active && !model->waiting && !model->swap &&
               now - model->used_ns > m->idle_unload_ms * TD_MS_NS) {
        td_log(TD_LOG_INFO, "local", NULL, "while=unload model=%s idle=true", model->name);
        td_guest_end(g, true);
    }
}

// Returns how long the thread may sleep, in milliseconds.
static int check_all(struct td_manager *m) {
    uint64_t now = td_now_ns();
    int turn_ms = m->hang_ms_max / 4 < 500 ? (int)m->hang_ms_max / 4 + 1 : 500;
    int sleep_ms = m->guests ? turn_ms : -1;
    if (m->note_again) {
        m->note_again = false;
        td_manager_note(m);
    }
    for (struct td_guest *g = m->guests; g; g = g->next)
        check_guest(m, g, now);
    for (struct td_model *model = m->models; model; model = model->next) {
        bool wanted = model->swap || (!model->ready && (model->waiting || model->preload));
        if (!wanted)
            model->memory_wait_ns = 0;
        if (!wanted || model->loading)
            continue;
        if (now >= model->retry_ns)
            try_start(m, model);
        if (!model->loading && (model->waiting || model->preload || model->swap))
            sleep_ms = 50;
    }
    return m->note_again ? 50 : sleep_ms;
}

void *td_manager_run(void *arg) {
    struct td_manager *m = arg;
    struct pollfd fds[1 + 2 * MODELS_MAX];
    int sleep_ms = -1;
    for (;;) {
        unsigned n = 1;
        fds[0] = (struct pollfd){m->wake_fd, POLLIN, 0};
        pthread_mutex_lock(&m->lock);
        for (struct td_guest *g = m->guests; g && n + 2 <= sizeof fds / sizeof *fds; g = g->next) {
            fds[n++] = (struct pollfd){g->state == GUEST_DEAD ? -1 : g->control, POLLIN, 0};
            fds[n++] = (struct pollfd){g->pidfd, POLLIN, 0};
        }
        pthread_mutex_unlock(&m->lock);
        poll(fds, n, sleep_ms);
        uint64_t count;
        if (fds[0].revents && read(m->wake_fd, &count, sizeof count) < 0)
            continue;
        pthread_mutex_lock(&m->lock);
        if (m->stopping)
            break;
        // Only this thread takes guests out of the list: it is still what was polled, with new ones at its head.
        for (struct td_guest *g = m->guests; g; g = g->next)
            if (g->state != GUEST_DEAD)
                read_control(m, g);
        reap(m);
        sleep_ms = check_all(m);
        pthread_mutex_unlock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}
