// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#endif

#include "base/log.h"
#include "base/time.h"
#include "server/server.h"

static const char *host_path;
static long workers, drain_s = -1;

// What tells one version of the file from the next.
struct file_mark {
    struct timespec changed;
    off_t size;
    ino_t inode;
};

static bool look_at(const char *path, struct file_mark *mark) {
    struct stat st;
    if (!path || stat(path, &st) != 0)
        return false;
    *mark = (struct file_mark){st.st_mtim, st.st_size, st.st_ino};
    return true;
}

static bool same(const struct file_mark *a, const struct file_mark *b) {
    return a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec && a->size == b->size &&
           a->inode == b->inode;
}

// What can be typed as it stands: with the key where one is asked for, and for the daemon that was started.
static void greet(const struct td_server *server, const struct td_listen_settings *settings) {
    const char *url = td_server_url(server);
    printf("%sTandem %s%s listens on %s\n", td_cli_bold(), td_version(), td_cli_reset(), url);
    if (strncmp(url, "unix:", 5) != 0)
        printf("Try it:\n  curl %s/v1/chat/completions -H 'Content-Type: application/json'%s -d "
               "'{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}'\n",
               url, settings->has_keys ? " -H 'Authorization: Bearer KEY'" : "");
    else
        printf("Try it:\n");
    printf("  %s ask%s%s%s%s \"set a timer for 10 minutes\"\n", program_invocation_name,
           td_cli.config ? " --config " : "", td_cli.config ? td_cli.config : "", td_cli.data_dir ? " --data-dir " : "",
           td_cli.data_dir ? td_cli.data_dir : "");
    fflush(stdout);
}

static int on_listener(void *user, const struct td_listen_settings *settings, struct td_failure *failure) {
    return td_server_reload(user, settings, failure);
}

static void reload(struct td_runtime *runtime, struct td_server *server, const char *why) {
    struct td_failure failure;
    if (td_runtime_reload(runtime, on_listener, server, &failure) == 0)
        td_log(TD_LOG_INFO, "serve", NULL, "msg=reloaded why=%s", why);
    else
        td_log(TD_LOG_ERROR, "serve", NULL, "msg=\"reload refused, the old configuration stays\" why=%s err=\"%s\"",
               why, failure.message);
}

#ifdef __GLIBC__
static bool has_changed_text(const struct dl_phdr_info *info) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_DYNAMIC)
            continue;
        const ElfW(Dyn) *d = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
        for (; d->d_tag != DT_NULL; d++)
            if (d->d_tag == DT_TEXTREL || (d->d_tag == DT_FLAGS && d->d_un.d_val & DF_TEXTREL))
                return true;
    }
    return false;
}

static int give_back_pages(struct dl_phdr_info *info, size_t size, void *arg) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    (void)size, (void)arg;
    for (int i = 0; i < info->dlpi_phnum && !has_changed_text(info); i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t from = (info->dlpi_addr + part->p_vaddr) & ~(page - 1);
        uintptr_t to = (info->dlpi_addr + part->p_vaddr + part->p_filesz) & ~(page - 1);
        if (part->p_type == PT_LOAD && !(part->p_flags & PF_W) && to > from)
            madvise((void *)from, to - from, MADV_DONTNEED);
    }
    return 0;
}

// A debugger's breakpoints are changes to the program's pages.
static bool is_debugged(void) {
    char line[128];
    int tracer = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "TracerPid: %d", &tracer) == 1)
            break;
    if (f)
        fclose(f);
    return !f || tracer != 0;
}

// What only the start needed goes back: free heap, and the pages of program and libraries as they stand in their files.
// Those that are used come out of the file cache again when they are touched.
static void give_back(void) {
    malloc_trim(0);
    if (!is_debugged())
        dl_iterate_phdr(give_back_pages, NULL);
}
#else
static void give_back(void) {
}
#endif

// Waits for signals and for a changed file until told to stop.
static void watch(struct td_runtime *runtime, struct td_server *server, const char *path, const sigset_t *signals) {
    struct file_mark seen = {0}, settled = {0}, now;
    look_at(path, &seen);
    settled = seen;
    for (;;) {
        struct timespec half_a_second = {0, 500000000};
        int sig = sigtimedwait(signals, NULL, &half_a_second);
        if (sig == SIGTERM || sig == SIGINT)
            return;
        if (sig == SIGHUP) {
            look_at(path, &seen);
            settled = seen;
            reload(runtime, server, "SIGHUP");
            continue;
        }
        // A file is taken when two looks in a row agree: an editor may write it in several steps.
        if (!look_at(path, &now))
            continue;
        if (same(&now, &settled) && !same(&now, &seen)) {
            seen = now;
            reload(runtime, server, "file");
        }
        settled = now;
    }
}

// The socket in the data directory, through which `tandem ask` and the operators' commands of this user come.
static struct td_server *listen_for_own(struct td_runtime *runtime, const struct td_listen_settings *settings,
                                        struct td_failure *failure) {
    struct td_listen_settings own = *settings;
    struct td_server *server = NULL;
    static char address[4096]; // must outlive the server
    snprintf(address, sizeof address, "unix:%s/tandem.sock", settings->data_dir);
    own.address = address;
    own.loopback = true;
    own.tls_cert = own.tls_key = own.tls_client_ca = "";
    return td_server_start(runtime, &own, &server, failure) == 0 ? server : NULL;
}

static int run(int argc, char **argv) {
    struct td_options options;
    struct td_failure failure;
    struct td_runtime *runtime = NULL;
    struct td_server *server = NULL;
    struct td_listen_settings settings;
    struct td_server *own = NULL; // data_dir/tandem.sock, for the command line
    sigset_t signals;
    int code = TD_EXIT_OK;
    (void)argv;
    if (argc > 0)
        return td_cli_fail(TD_EXIT_USAGE, "serve takes no arguments");
    // Blocked before any thread starts, so that every thread inherits it and only watch() takes them.
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    td_cli_options(&options);
    options.workers = (unsigned)workers;
    options.log = td_cli.verbose ? TD_LOG_VERBOSE : TD_LOG_AS_CONFIGURED;
    options.host_path = host_path;
    if (td_runtime_open(&options, &runtime, &failure) != 0)
        return td_cli_failure(&failure);
    td_listen_settings_get(runtime, &settings);
    give_back();
    if (td_server_start(runtime, &settings, &server, &failure) != 0 ||
        !(own = listen_for_own(runtime, &settings, &failure))) {
        code = strcmp(failure.code, "tandem.listen.failed") == 0 ? td_cli_fail(TD_EXIT_FAILED, "%s", failure.message)
                                                                 : td_cli_failure(&failure);
        goto out;
    }
    greet(server, &settings);
    watch(runtime, server, options.config_path, &signals);
    unsigned wait_ms = drain_s >= 0 ? (unsigned)drain_s * 1000 : settings.drain_ms;
    td_log(TD_LOG_INFO, "serve", NULL, "msg=\"finishing what runs\" wait_ms=%u", wait_ms);
    bool late = td_server_drain(server, wait_ms) != 0;
    late |= td_server_drain(own, late ? 0 : wait_ms) != 0;
    if (td_runtime_drain(runtime, late ? 0 : wait_ms) != 0)
        td_log(TD_LOG_WARN, "serve", NULL, "msg=\"some requests did not finish in time\"");
out:
    td_server_stop(own);
    td_server_stop(server);
    td_runtime_close(runtime);
    return code;
}

static const struct td_opt options[] = {
    {"workers", 'w', TD_OPT_NUMBER, "N", "threads (default: one a processor)", .number = &workers, .min = 1, .max = 16},
    {"drain", 0, TD_OPT_NUMBER, "S", "seconds to wait for running requests at SIGTERM (default: as configured)",
     .number = &drain_s, .min = 0, .max = 3600},
    {"host", 0, TD_OPT_STRING, "PATH", "the tandem-host program to use", .string = &host_path},
    {0},
};

const struct td_command td_command_serve = {
    .name = "serve",
    .arguments = "",
    .help = "serve the API on 127.0.0.1:8484 (or where the configuration says)",
    .details = "SIGHUP or a changed file reloads the configuration, whole or not at all; SIGTERM finishes what runs.",
    .options = options,
    .run = run,
};
