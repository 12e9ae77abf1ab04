// SPDX-License-Identifier: Apache-2.0
#include "local/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"
#include "loop/descriptors.h"

#define FD_HIGH 256 // above every number a guest expects: 3 + 1 + TD_MODEL_PARTS_MAX + WORKERS_MAX

void td_guest_release(struct td_guest *g) {
    if (--g->counts)
        return;
    for (unsigned i = 0; i < WORKERS_MAX; i++)
        if (g->connections[i] >= 0)
            close(g->connections[i]);
    td_buf_finish(&g->in);
    td_free(g);
}

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

static enum td_err no_descriptors(struct td_error *e) {
    (void)td_fd_shed(NULL); // idle connections go, and the next try finds some
    return td_error_set(e, TD_ERR_OVERLOAD, "no file descriptor was free for the model host");
}

enum td_err td_guest_start(struct td_manager *m, struct td_model *model, const char *tools_file,
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
        err = no_descriptors(e);
    int rc = err ? 0 : spawn(m, files, count, parts->count, &g->pid);
    if (rc)
        err = td_error_set(e, TD_ERR_HOST_LOAD, "cannot start tandem-host: %s", strerror(rc));
    for (unsigned i = 0; i < count; i++)
        close(files[i]);
    if (!err) {
        g->pidfd = (int)syscall(SYS_pidfd_open, g->pid, 0);
        err = g->pidfd < 0 && td_fd_room(-1) == TD_FD_SHORT ? no_descriptors(e)
                                                            : send_setup(model, tools_file, context, g->control);
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
        td_guest_release(g);
        return err;
    }
    td_starved_look(g->pid, &g->killed);
    g->started_ns = g->heard_ns = td_now_ns();
    *out = g;
    return TD_OK;
}
