// SPDX-License-Identifier: Apache-2.0
// A model's guests:
//
//   (none) → loading → ready → retiring → dead          retiring: a newer guest has taken over
//              └───────── dead ←┘                       dead: killed or ended, waits to be reaped, then freed
//
// Invariants. Everything below `lock` is read and written under it. A model has at most one guest that is loading and
// one that is ready. A guest's memory counts against the ceiling from before it is spawned until it has been reaped.
// Only the manager's thread spawns, reads control connections, reaps and kills. Guests are counted: the manager holds
// one count until it has reaped the process, each worker's connection one more.
#include "local/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/part_name.h"
#include "base/time.h"
#include "local/files.h"

#define WORKERS_MAX 64u
#define MODELS_MAX 256u            // names an operator may have configured over the process's life
#define SUSPECTS_MAX 64u           // prompts remembered per ended guest
#define QUARANTINE_MAX 256u        // prompts remembered in all; the oldest makes room
#define STRIKES_MAX 2u             // CONTRACT: a prompt that ended its guest twice is not tried again
#define CRASH_BACKOFF_MS_MAX 2000u // CONTRACT: back within 2 s plus the load
#define LOAD_BACKOFF_MS_MAX 30000u // a file that does not load is not tried at every request
#define MEMORY_WAIT_MS_MAX 10000u  // how long a load waits for serving models to fall idle
#define GUEST_BYTES_PER_MS 400000u // load time estimate before the first load: 400 MB a second
#define FD_HIGH 256                // above every number a guest expects: 3 + 1 + TD_MODEL_PARTS_MAX + WORKERS_MAX
#define CONTEXT_DEFAULT 8192u      // where the target states none and the model was trained for more

enum guest_state { GUEST_LOADING, GUEST_READY, GUEST_RETIRING, GUEST_DEAD };

struct td_guest {
    struct td_guest *next;
    struct td_model *model;
    enum guest_state state;
    unsigned counts;
    uint32_t generation, active, load_ms;
    int pid, pidfd, control;
    int connections[WORKERS_MAX];
    struct td_buf in;
    uint64_t memory_bytes, started_ns, heard_ns;
    struct td_proto_ready ready;
    bool ours, judged,
        guilty; // ours: ended for no fault of it; judged: how it ended is known; guilty: by its own fault
    uint64_t suspects[SUSPECTS_MAX];
    uint32_t suspect_count;
};

struct td_model {
    struct td_model *next;
    uint64_t number; // from 1
    char *path, *name;
    char *tools_file; // what requests are likely to bring; NULL none. As the target that came last says
    uint32_t context, parallel, threads, gpu_layers;
    uint64_t memory_bytes_max;
    struct td_guest *loading, *ready;
    bool preload, swap;
    uint32_t waiting, generation, load_ms;
    uint64_t memory_bytes, used_ns, retry_ns, memory_wait_ns;
    uint32_t capabilities;
    uint32_t load_failures, crashes;
    enum td_err error; // of the last load
    char message[240];
};

struct worker {
    struct td_loop *loop;
    void (*fn)(void *arg);
    void *arg;
    bool noted;
};

// Where notes to the workers start from. Counted apart from the manager, because a loop that is taken down late runs
// what was posted to it when the manager may have gone.
struct hub {
    pthread_mutex_t lock;
    unsigned counts;
    struct worker workers[WORKERS_MAX];
};

struct td_manager {
    pthread_mutex_t lock; // before the hub's, where both are held
    struct hub *hub;
    pthread_t thread;
    int wake_fd;
    bool stopping, note_again;
    char *host_path;
    unsigned worker_count;
    uint64_t memory_bytes_max;
    uint32_t idle_unload_ms, load_ms_max, hang_ms_max;
    struct td_model *models;
    uint32_t model_count;
    struct td_guest *guests;
    struct {
        uint64_t prompt;
        uint32_t strikes;
    } quarantine[QUARANTINE_MAX];
    uint32_t quarantine_next;
    uint8_t key[16]; // of the prompts' hashes
};

struct note {
    struct hub *hub;
    unsigned worker;
};

static void wake_thread(struct td_manager *m) {
    uint64_t one = 1;
    ssize_t put = write(m->wake_fd, &one, sizeof one);
    (void)put; // a full eventfd is readable already
}

// Unlocks.
static void drop_hub(struct hub *hub) {
    bool last = --hub->counts == 0;
    pthread_mutex_unlock(&hub->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&hub->lock);
    td_free(hub);
}

static void on_note(void *arg) {
    struct note *note = arg;
    struct hub *hub = note->hub;
    pthread_mutex_lock(&hub->lock);
    struct worker w = hub->workers[note->worker];
    hub->workers[note->worker].noted = false;
    drop_hub(hub);
    if (w.fn)
        w.fn(w.arg); // detach runs on this thread too, so it cannot have gone meanwhile
    td_free(note);
}

static void note_workers(struct td_manager *m) {
    struct hub *hub = m->hub;
    pthread_mutex_lock(&hub->lock);
    for (unsigned i = 0; i < m->worker_count; i++) {
        struct worker *w = &hub->workers[i];
        if (!w->fn || w->noted)
            continue;
        struct note *note = td_malloc(sizeof *note);
        if (note) {
            *note = (struct note){hub, i};
            w->noted = td_loop_post(w->loop, on_note, note) == TD_OK;
        }
        if (w->noted) {
            hub->counts++;
        } else {
            td_free(note);
            m->note_again = true; // no memory now: the thread tries again soon, or attempts would wait for ever
        }
    }
    pthread_mutex_unlock(&hub->lock);
}

static void drop_guest(struct td_guest *g) {
    if (--g->counts)
        return;
    for (unsigned i = 0; i < WORKERS_MAX; i++)
        if (g->connections[i] >= 0)
            close(g->connections[i]);
    td_buf_finish(&g->in);
    td_free(g);
}

// ---- prompts that end guests

// A prompt is judged with the model that it ended: a broken model must not outlaw prompts for the others.
static uint64_t with_model(const struct td_model *model, uint64_t prompt) {
    return prompt ^ (model->number * 0x9E3779B97F4A7C15ull);
}

static bool is_quarantined(struct td_manager *m, uint64_t prompt) {
    for (uint32_t i = 0; i < QUARANTINE_MAX; i++)
        if (m->quarantine[i].strikes >= STRIKES_MAX && m->quarantine[i].prompt == prompt)
            return true;
    return false;
}

static void strike(struct td_manager *m, uint64_t prompt) {
    for (uint32_t i = 0; i < QUARANTINE_MAX; i++)
        if (m->quarantine[i].strikes && m->quarantine[i].prompt == prompt) {
            m->quarantine[i].strikes++;
            return;
        }
    m->quarantine[m->quarantine_next].prompt = prompt;
    m->quarantine[m->quarantine_next].strikes = 1;
    m->quarantine_next = (m->quarantine_next + 1) % QUARANTINE_MAX;
}

// Keyed, so that nobody can aim at another's prompt.
uint64_t td_manager_prompt(const struct td_manager *m, struct td_str body) {
    return td_siphash(m->key, body);
}

// ---- ending guests

static void end_guest(struct td_guest *g, bool ours) {
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
    note_workers(m);
}

// The process is gone: how did it end?
static void judge(struct td_manager *m, struct td_guest *g, const siginfo_t *how, bool known) {
    bool was_loading = g->model->loading == g, alive = g->state != GUEST_DEAD;
    // Killed from outside (an operator, the system short of memory) is nobody's prompt's fault.
    bool outside = known && how->si_code == CLD_KILLED && (how->si_status == SIGKILL || how->si_status == SIGTERM);
    g->judged = true;
    g->guilty = !g->ours && (!alive || !outside); // dead and not ours: it hung or broke the protocol
    for (uint32_t i = 0; i < g->suspect_count && g->guilty; i++)
        strike(m, with_model(g->model, g->suspects[i]));
    if (!alive)
        return;
    end_guest(g, false);
    if (was_loading) {
        fail_load(m, g->model, TD_ERR_HOST_LOAD, "the model host ended while it was loading the model");
        return;
    }
    td_log(TD_LOG_ERROR, "local", NULL, "while=serve model=%s err=%s code=%d status=%d", g->model->name,
           td_err_code(TD_ERR_HOST_CRASH), known ? how->si_code : 0, known ? how->si_status : 0);
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
        int rc = waitid(P_PID, (id_t)g->pid, &how, WEXITED | WNOHANG);
        if (rc == 0 && how.si_pid == 0) {
            at = &g->next;
            continue;
        }
        judge(m, g, &how, rc == 0);
        close(g->pidfd);
        close(g->control);
        *at = g->next;
        drop_guest(g);
        note_workers(m);
    }
}

// ---- starting guests

static int high(int fd) { // out of the way of the numbers the guest expects
    int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, FD_HIGH);
    if (fd >= 0)
        close(fd);
    return copy;
}

static bool make_pair(int *ours, int *theirs) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    *ours = pair[0];
    *theirs = high(pair[1]);
    if (*theirs < 0 || fcntl(*ours, F_SETFL, O_NONBLOCK) != 0) {
        close(*ours);
        if (*theirs >= 0)
            close(*theirs);
        return false;
    }
    return true;
}

static int spawn(struct td_manager *m, const int *files, unsigned count, unsigned part_count, int *pid) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    char workers[16], parts[16];
    const char *argv[] = {"tandem-host", "--workers", workers, "--parts", parts, NULL};
    // The house's environment may hold keys: none of it goes along. ggml would start a debugger when it aborts.
    const char *env[] = {"GGML_NO_BACKTRACE=1", "LC_ALL=C.UTF-8", NULL};
    snprintf(workers, sizeof workers, "%u", m->worker_count);
    snprintf(parts, sizeof parts, "%u", part_count);
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    int rc = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    // A crash message could quote a prompt: the guest has no one to tell it to.
    rc = rc ? rc : posix_spawn_file_actions_adddup2(&actions, 0, 1);
    rc = rc ? rc : posix_spawn_file_actions_adddup2(&actions, 0, 2);
    for (unsigned i = 0; i < count && !rc; i++)
        rc = posix_spawn_file_actions_adddup2(&actions, files[i], 3 + (int)i);
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
    rc = rc ? rc : posix_spawn_file_actions_addclosefrom_np(&actions, 3 + (int)count);
#endif
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setpgroup(&attr, 0); // ^C at the terminal is for the house
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    rc = rc ? rc : posix_spawn(pid, m->host_path, &actions, &attr, (char *const *)argv, (char *const *)env);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    return rc;
}

// The guest works without them, only its first answer comes later: so what cannot be read is no failure.
static void read_tools(const char *path, struct td_buf *out) {
    int file = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK) : -1;
    char *to = file >= 0 ? td_buf_reserve(out, TD_PROTO_PREPARE_BYTES_MAX + 1) : NULL;
    ssize_t n = 1;
    while (to && n > 0 && out->n <= TD_PROTO_PREPARE_BYTES_MAX)
        if ((n = read(file, out->p + out->n, TD_PROTO_PREPARE_BYTES_MAX + 1 - out->n)) > 0)
            td_buf_grew(out, (size_t)n);
    if (path && (!to || n < 0 || out->n > TD_PROTO_PREPARE_BYTES_MAX)) {
        td_log(TD_LOG_WARN, "local", NULL, "while=\"reading the tools to prepare\" err=%s",
               td_err_code(!to || n < 0 ? TD_ERR_IO : TD_ERR_LIMIT));
        td_buf_clear(out);
    }
    if (file >= 0)
        close(file);
}

static enum td_err send_setup(const struct td_model *model, const char *tools_file, uint32_t context, int control) {
    struct td_buf b, tools;
    td_buf_init(&tools, TD_PROTO_PREPARE_BYTES_MAX + 1);
    read_tools(tools_file, &tools);
    struct td_proto_setup s = {.version = TD_PROTO_VERSION,
                               .context = context,
                               .parallel = model->parallel,
                               .threads = model->threads,
                               .gpu_layers = model->gpu_layers,
                               .prepares = tools.n > 0,
                               .name = td_str_of(model->name)};
    td_buf_init(&b, TD_PROTO_CONTROL_BYTES_MAX + TD_PROTO_PREPARE_BYTES_MAX);
    enum td_err err = td_proto_put_setup(&b, &s);
    if (err == TD_OK && tools.n) {
        struct td_proto_writer w;
        td_proto_begin(&w, &b, TD_FRAME_PREPARE, 0);
        td_proto_bytes(&w, tools.p, tools.n);
        err = td_proto_end(&w);
    }
    if (err == TD_OK && send(control, b.p, b.n, MSG_NOSIGNAL) != (ssize_t)b.n)
        err = TD_ERR_IO;
    td_buf_finish(&b);
    td_buf_finish(&tools);
    return err;
}

// Spawns a guest that gets the open model files. Without the lock: nothing here is shared yet.
static enum td_err start_guest(struct td_manager *m, struct td_model *model, const char *tools_file,
                               const struct td_model_files *parts, uint32_t context, struct td_guest **out,
                               struct td_error *e) {
    int files[WORKERS_MAX + TD_MODEL_PARTS_MAX + 1];
    unsigned count = 0;
    enum td_err err = TD_OK;
    struct td_guest *g = td_calloc(1, sizeof *g);
    if (!g)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    *g = (struct td_guest){.model = model, .counts = 1, .pidfd = -1, .control = -1};
    td_buf_init(&g->in, 2 * TD_PROTO_CONTROL_BYTES_MAX);
    for (unsigned i = 0; i < WORKERS_MAX; i++)
        g->connections[i] = -1;
    bool ok = make_pair(&g->control, &files[0]);
    count = ok;
    for (unsigned i = 0; i < parts->count && ok; i++, count += ok)
        ok = (files[count] = fcntl(parts->fds[i], F_DUPFD_CLOEXEC, FD_HIGH)) >= 0;
    for (unsigned i = 0; i < m->worker_count && ok; i++, count += ok)
        ok = make_pair(&g->connections[i], &files[count]);
    if (!ok)
        err = td_error_set(e, TD_ERR_IO, "no descriptors left for the model host");
    int rc = err ? 0 : spawn(m, files, count, parts->count, &g->pid);
    if (rc)
        err = td_error_set(e, TD_ERR_HOST_LOAD, "cannot start tandem-host: %s", strerror(rc));
    for (unsigned i = 0; i < count; i++)
        close(files[i]);
    if (!err) {
        g->pidfd = (int)syscall(SYS_pidfd_open, g->pid, 0);
        err = send_setup(model, tools_file, context, g->control);
    }
    if (err) {
        if (g->pid > 0) {
            kill(g->pid, SIGKILL);
            waitid(P_PID, (id_t)g->pid, NULL, WEXITED);
        }
        if (g->control >= 0)
            close(g->control);
        if (g->pidfd >= 0)
            close(g->pidfd);
        drop_guest(g);
        return err;
    }
    g->started_ns = g->heard_ns = td_now_ns();
    *out = g;
    return TD_OK;
}

static uint32_t context_of(const struct td_model *model, const struct td_gguf *info) {
    uint32_t wanted = model->context ? model->context : CONTEXT_DEFAULT;
    return wanted < info->context ? wanted : info->context;
}

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
        end_guest(oldest, true);
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
    uint32_t context = context_of(model, &info);
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
        err = start_guest(m, model, tools_file, &files, context, &g, &e);
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
    note_workers(m);
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
        end_guest(g, true);
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
            end_guest(g, true);
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
            end_guest(g, true);
        } else if (now - g->started_ns > m->load_ms_max * TD_MS_NS) {
            end_guest(g, true);
            fail_load(m, model, TD_ERR_HOST_LOAD, "loading the model took too long");
        }
        return;
    }
    if (g->state == GUEST_DEAD)
        return;
    if (g->active && now - g->heard_ns > m->hang_ms_max * TD_MS_NS / 4)
        ping(g);
    if (g->active && now - g->heard_ns > m->hang_ms_max * TD_MS_NS) {
        td_log(TD_LOG_ERROR, "local", NULL, "while=serve model=%s hangs=true", model->name);
        end_guest(g, false); // by its own fault: counts against the prompts in it
        model->crashes++;
    } else if (g->state == GUEST_RETIRING && !g->active) {
        end_guest(g, true);
    } else if (g->state == GUEST_READY && !g->active && !model->waiting && !model->swap &&
               now - model->used_ns > m->idle_unload_ms * TD_MS_NS) {
        td_log(TD_LOG_INFO, "local", NULL, "while=unload model=%s idle=true", model->name);
        end_guest(g, true);
    }
}

// Returns how long the thread may sleep, in milliseconds.
static int check_all(struct td_manager *m) {
    uint64_t now = td_now_ns();
    int turn_ms = m->hang_ms_max / 4 < 500 ? (int)m->hang_ms_max / 4 + 1 : 500;
    int sleep_ms = m->guests ? turn_ms : -1;
    if (m->note_again) {
        m->note_again = false;
        note_workers(m);
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

static void *run(void *arg) {
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

// ---- the workers' side

enum td_err td_manager_attach(struct td_manager *m, unsigned worker, struct td_loop *loop, void (*fn)(void *arg),
                              void *arg) {
    if (worker >= m->worker_count)
        return TD_ERR_USAGE;
    pthread_mutex_lock(&m->hub->lock);
    bool free_place = m->hub->workers[worker].fn == NULL;
    if (free_place)
        m->hub->workers[worker] = (struct worker){loop, fn, arg, false};
    pthread_mutex_unlock(&m->hub->lock);
    return free_place ? TD_OK : TD_ERR_USAGE;
}

void td_manager_detach(struct td_manager *m, unsigned worker) {
    pthread_mutex_lock(&m->hub->lock);
    m->hub->workers[worker].fn = NULL;
    pthread_mutex_unlock(&m->hub->lock);
}

static bool is_model(const struct td_model *model, const struct td_target *t) {
    return td_str_is(t->model, model->path) && model->context == t->context &&
           model->parallel == (t->parallel ? t->parallel : 1) && model->threads == t->threads &&
           model->gpu_layers == t->gpu_layers && model->memory_bytes_max == t->memory_bytes_max;
}

static struct td_model *find_model(struct td_manager *m, const struct td_target *t) {
    for (struct td_model *model = m->models; model; model = model->next)
        if (is_model(model, t))
            return model;
    return NULL;
}

// For the next load. Without memory it stays as it was.
static void take_tools_file(struct td_model *model, const struct td_target *t) {
    if (td_str_is(t->tools_file, model->tools_file ? model->tools_file : ""))
        return;
    char *copy = t->tools_file.n ? td_strndup(t->tools_file.p, t->tools_file.n) : NULL;
    if (t->tools_file.n && !copy)
        return;
    td_free(model->tools_file);
    model->tools_file = copy;
}

static struct td_model *find_or_add(struct td_manager *m, const struct td_target *t) {
    struct td_model *model = find_model(m, t);
    if (model)
        take_tools_file(model, t);
    if (model || m->model_count >= MODELS_MAX)
        return model;
    if (t->parallel > 64 || !t->model.n)
        return NULL;
    const char *slash = memrchr(t->model.p, '/', t->model.n);
    struct td_str name = t->model;
    if (slash)
        name = td_str_n(slash + 1, (size_t)(t->model.p + t->model.n - slash - 1));
    struct td_part_name part;
    if (td_part_name_read(name, &part))
        name = part.stem;
    else if (name.n > 5 && memcmp(name.p + name.n - 5, ".gguf", 5) == 0)
        name.n -= 5;
    if (name.n > TD_NAME_BYTES_MAX)
        name.n = TD_NAME_BYTES_MAX;
    model = td_calloc(1, sizeof *model);
    if (!model)
        return NULL;
    *model = (struct td_model){.next = m->models,
                               .number = m->model_count + 1,
                               .path = td_strndup(t->model.p, t->model.n),
                               .name = td_strndup(name.p, name.n),
                               .context = t->context,
                               .parallel = t->parallel ? t->parallel : 1,
                               .threads = t->threads,
                               .gpu_layers = t->gpu_layers,
                               .memory_bytes_max = t->memory_bytes_max};
    if (!model->path || !model->name) {
        td_free(model->path);
        td_free(model->name);
        td_free(model);
        return NULL;
    }
    take_tools_file(model, t);
    m->models = model;
    m->model_count++;
    return model;
}

// The last load failed and its pause is not over.
static enum td_err fresh_failure(const struct td_model *model, struct td_error *e) {
    if (model->error && !model->ready && !model->loading && td_now_ns() < model->retry_ns)
        return td_error_set(e, model->error, "%s", model->message);
    return TD_OK;
}

enum td_err td_manager_want(struct td_manager *m, const struct td_target *target, uint64_t prompt,
                            struct td_model **out, struct td_error *e) {
    enum td_err err = TD_OK;
    pthread_mutex_lock(&m->lock);
    struct td_model *model = find_or_add(m, target);
    if (!model)
        err = td_error_set(e, TD_ERR_NOMEM, "no room for another model");
    else if (is_quarantined(m, with_model(model, prompt)))
        err = td_error_set(e, TD_ERR_HOST_CRASH, "this prompt stopped the model twice and is not tried again");
    else
        err = fresh_failure(model, e);
    if (!err && target->queue_max) {
        uint32_t in_guest = model->ready ? model->ready->active : 0;
        if (in_guest + model->waiting >= model->parallel + target->queue_max)
            err = td_error_set(e, TD_ERR_OVERLOAD, "%u requests wait for this model already", target->queue_max);
    }
    if (!err) {
        model->waiting++;
        model->error = TD_OK;
        model->used_ns = td_now_ns();
        if (!model->ready && !model->loading)
            wake_thread(m);
        *out = model;
    }
    pthread_mutex_unlock(&m->lock);
    return err;
}

void td_manager_unwant(struct td_manager *m, struct td_model *model) {
    pthread_mutex_lock(&m->lock);
    if (--model->waiting == 0 && model->loading)
        wake_thread(m);
    pthread_mutex_unlock(&m->lock);
}

enum td_err td_manager_take(struct td_manager *m, struct td_model *model, struct td_guest **out, struct td_error *e) {
    enum td_err err = TD_OK;
    *out = NULL;
    pthread_mutex_lock(&m->lock);
    struct td_guest *g = model->ready;
    if (g) {
        model->waiting--;
        if (g->active++ == 0)
            g->heard_ns = td_now_ns();
        g->counts++;
        *out = g;
    } else if ((err = fresh_failure(model, e)) != TD_OK) {
        model->waiting--;
    }
    pthread_mutex_unlock(&m->lock);
    return err;
}

void td_manager_put_back(struct td_manager *m, struct td_model *model, struct td_guest *guest) {
    pthread_mutex_lock(&m->lock);
    model->waiting++;
    guest->active--;
    drop_guest(guest);
    pthread_mutex_unlock(&m->lock);
}

void td_manager_done(struct td_manager *m, struct td_guest *guest, bool served) {
    pthread_mutex_lock(&m->lock);
    guest->model->used_ns = td_now_ns();
    if (served)
        guest->model->crashes = 0;
    if (--guest->active == 0 && (guest->state == GUEST_RETIRING || guest->model->next || m->models != guest->model))
        wake_thread(m); // it may go, or make room
    drop_guest(guest);
    pthread_mutex_unlock(&m->lock);
}

void td_manager_suspect(struct td_manager *m, struct td_guest *guest, uint64_t prompt) {
    pthread_mutex_lock(&m->lock);
    if (guest->judged) {
        if (guest->guilty)
            strike(m, with_model(guest->model, prompt));
    } else if (guest->suspect_count < SUSPECTS_MAX) {
        guest->suspects[guest->suspect_count++] = prompt;
    }
    pthread_mutex_unlock(&m->lock);
}

void td_manager_condemn(struct td_manager *m, struct td_guest *guest) {
    pthread_mutex_lock(&m->lock);
    end_guest(guest, false);
    wake_thread(m);
    pthread_mutex_unlock(&m->lock);
}

int td_guest_connection(struct td_manager *m, struct td_guest *guest, unsigned worker) {
    pthread_mutex_lock(&m->lock);
    int fd = guest->connections[worker];
    guest->connections[worker] = -1;
    pthread_mutex_unlock(&m->lock);
    return fd;
}

void td_guest_return(struct td_manager *m, struct td_guest *guest, unsigned worker, int fd) {
    if (fd < 0)
        return;
    pthread_mutex_lock(&m->lock);
    guest->connections[worker] = fd;
    pthread_mutex_unlock(&m->lock);
}

void td_guest_hold(struct td_manager *m, struct td_guest *guest) {
    pthread_mutex_lock(&m->lock);
    guest->counts++;
    pthread_mutex_unlock(&m->lock);
}

void td_guest_drop(struct td_manager *m, struct td_guest *guest) {
    pthread_mutex_lock(&m->lock);
    drop_guest(guest);
    pthread_mutex_unlock(&m->lock);
}

// ---- the operator's side

void td_manager_status(struct td_manager *m, const struct td_target *target, struct td_manager_status *out) {
    *out = (struct td_manager_status){.ready = true};
    pthread_mutex_lock(&m->lock);
    struct td_model *model = find_model(m, target);
    if (model) {
        struct td_guest *g = model->ready ? model->ready : model->loading;
        struct td_error none;
        *out = (struct td_manager_status){.known = true,
                                          .loaded = model->ready != NULL,
                                          .loading = model->loading != NULL,
                                          .ready = fresh_failure(model, &none) == TD_OK,
                                          .last_error = model->error,
                                          .load_ms = model->load_ms,
                                          .active = model->ready ? model->ready->active : 0,
                                          .queued = model->waiting,
                                          .generation = model->generation,
                                          .context = model->ready ? model->ready->ready.context : 0,
                                          .capabilities = model->capabilities,
                                          .memory_bytes = model->memory_bytes,
                                          .pid = g ? g->pid : 0};
    }
    pthread_mutex_unlock(&m->lock);
}

static enum td_err demand(struct td_manager *m, const struct td_target *target, bool swap, struct td_error *e) {
    pthread_mutex_lock(&m->lock);
    struct td_model *model = find_or_add(m, target);
    if (model) {
        model->preload |= !model->ready;
        model->swap |= swap && model->ready;
        model->retry_ns = 0;
        wake_thread(m);
    }
    pthread_mutex_unlock(&m->lock);
    return model ? TD_OK : td_error_set(e, TD_ERR_NOMEM, "no room for another model");
}

enum td_err td_manager_preload(struct td_manager *m, const struct td_target *target, struct td_error *e) {
    return demand(m, target, false, e);
}

enum td_err td_manager_swap(struct td_manager *m, const struct td_target *target, struct td_error *e) {
    return demand(m, target, true, e);
}

enum td_err td_manager_estimate(const struct td_target *target, uint64_t *bytes, struct td_error *e) {
    struct td_model_files files;
    struct td_gguf info = {0};
    struct td_model model = {.context = target->context};
    char *path = td_strndup(target->model.p, target->model.n);
    if (!path)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    enum td_err err = td_model_files_open(&files, path, &info, e);
    if (!err)
        *bytes = td_gguf_memory(&info, context_of(&model, &info), target->parallel ? target->parallel : 1);
    td_model_files_close(&files);
    td_free(path);
    return err;
}

static uint64_t machine_memory(void) {
    struct sysinfo info;
    uint64_t bytes = sysinfo(&info) == 0 ? (uint64_t)info.totalram * info.mem_unit : 4ull << 30;
    char text[32] = "";
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "re"); // a container may be allowed less
    if (f) {
        uint64_t limit;
        if (fgets(text, sizeof text, f) && td_str_to_u64(td_str_trim(td_str_of(text)), &limit) && limit < bytes)
            bytes = limit;
        fclose(f);
    }
    return bytes;
}

enum td_err td_manager_create(const struct td_manager_options *o, struct td_manager **out, struct td_error *e) {
    if (!o->host_path || !o->workers || o->workers > WORKERS_MAX)
        return td_error_set(e, TD_ERR_USAGE, "the model manager needs a host program and 1 to %u workers", WORKERS_MAX);
    struct td_manager *m = td_calloc(1, sizeof *m);
    if (!m)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    m->host_path = td_strdup(o->host_path);
    m->worker_count = o->workers;
    m->memory_bytes_max = o->memory_bytes_max ? o->memory_bytes_max : machine_memory() / 4 * 3;
    m->idle_unload_ms = o->idle_unload_ms ? o->idle_unload_ms : 300000;
    m->load_ms_max = o->load_ms_max ? o->load_ms_max : 120000;
    m->hang_ms_max = o->hang_ms_max ? o->hang_ms_max : 10000;
    td_random(m->key, sizeof m->key);
    pthread_mutex_init(&m->lock, NULL);
    m->hub = td_calloc(1, sizeof *m->hub);
    if (m->hub) {
        m->hub->counts = 1;
        pthread_mutex_init(&m->hub->lock, NULL);
    }
    m->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!m->host_path || !m->hub || m->wake_fd < 0 || pthread_create(&m->thread, NULL, run, m) != 0) {
        if (m->wake_fd >= 0)
            close(m->wake_fd);
        td_free(m->hub);
        td_free(m->host_path);
        pthread_mutex_destroy(&m->lock);
        td_free(m);
        return td_error_set(e, TD_ERR_NOMEM, "out of memory or threads");
    }
    *out = m;
    return TD_OK;
}

void td_manager_destroy(struct td_manager *m) {
    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    m->stopping = true;
    wake_thread(m);
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->thread, NULL);
    while (m->guests) {
        struct td_guest *g = m->guests;
        m->guests = g->next;
        end_guest(g, true);
        waitid(P_PID, (id_t)g->pid, NULL, WEXITED);
        close(g->pidfd);
        close(g->control);
        drop_guest(g);
    }
    while (m->models) {
        struct td_model *model = m->models;
        m->models = model->next;
        td_free(model->tools_file);
        td_free(model->path);
        td_free(model->name);
        td_free(model);
    }
    close(m->wake_fd);
    pthread_mutex_lock(&m->hub->lock);
    drop_hub(m->hub);
    pthread_mutex_destroy(&m->lock);
    td_free(m->host_path);
    td_free(m);
}
