// SPDX-License-Identifier: Apache-2.0
#include "host/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "local/protocol.h"

#ifdef __has_include
#if __has_include(<linux/landlock.h>)
#include <linux/landlock.h>
#define HAVE_LANDLOCK 1
#endif
#endif

#ifdef HAVE_LANDLOCK
// Every access right of the running kernel's Landlock is handled and none is granted.
static bool landlock_all(void) {
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1)
        return false;
    // 13 rights came with the first version; refer, truncate, ioctl on devices came one by one after it.
    uint64_t rights = (1ull << 13) - 1;
    if (abi >= 2)
        rights |= 1ull << 13;
    if (abi >= 3)
        rights |= 1ull << 14;
    if (abi >= 5)
        rights |= 1ull << 15;
    struct landlock_ruleset_attr attr = {.handled_access_fs = rights};
    long fd = syscall(SYS_landlock_create_ruleset, &attr, sizeof attr.handled_access_fs, 0);
    if (fd < 0)
        return false;
    bool ok = syscall(SYS_landlock_restrict_self, fd, 0) == 0;
    close((int)fd);
    return ok;
}
#else
static bool landlock_all(void) {
    return false;
}
#endif

// Memory, threads, time, the descriptors at hand. Names a kernel lacks are skipped by libseccomp.
static const char *const allowed[] = {"read",
                                      "write",
                                      "readv",
                                      "writev",
                                      "pread64",
                                      "sendto",
                                      "recvfrom",
                                      "sendmsg",
                                      "recvmsg",
                                      "poll",
                                      "ppoll",
                                      "close",
                                      "fstat",
                                      "lseek",
                                      "_llseek",
                                      "munmap",
                                      "mremap",
                                      "madvise",
                                      "brk",
                                      "mlock",
                                      "munlock",
                                      "mincore",
                                      "futex",
                                      "futex_waitv",
                                      "futex_time64",
                                      "set_robust_list",
                                      "rseq",
                                      "sched_yield",
                                      "sched_getaffinity",
                                      "sched_setaffinity",
                                      "sched_getparam",
                                      "sched_getscheduler",
                                      "membarrier",
                                      "getpid",
                                      "gettid",
                                      "getrandom",
                                      "clock_gettime",
                                      "clock_getres",
                                      "clock_nanosleep",
                                      "nanosleep",
                                      "gettimeofday",
                                      "time",
                                      "rt_sigaction",
                                      "rt_sigprocmask",
                                      "rt_sigreturn",
                                      "sigaltstack",
                                      "tgkill",
                                      "exit",
                                      "exit_group",
                                      "restart_syscall",
                                      "timer_create",
                                      "timer_settime",
                                      "timer_delete",
                                      "timer_gettime",
                                      "getrusage",
                                      "sysinfo",
                                      "uname",
                                      "get_mempolicy",
                                      "prlimit64",
                                      "getcpu",
                                      "fcntl"};

static int add_rules(scmp_filter_ctx f) {
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        int nr = seccomp_syscall_resolve_name(allowed[i]);
        if (nr == __NR_SCMP_ERROR)
            continue;
        if (seccomp_rule_add(f, SCMP_ACT_ALLOW, nr, 0) != 0)
            return -1;
    }
    // Memory that is written may never be run.
    if (seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)) != 0 ||
        seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)) != 0)
        return -1;
    // libc's fstat: a descriptor, no path.
    if (seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1, SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH)) != 0)
        return -1;
    // Threads, no processes. clone3's flags are out of a filter's sight: "no such call" makes libc use clone.
    if (seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                         SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD)) != 0 ||
        seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0) != 0)
        return -1;
    return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
}

enum td_err host_sandbox_enter(uint32_t *walls, struct td_error *e) {
    *walls = 0;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return td_error_set(e, TD_ERR_INTERNAL, "cannot give up privileges: %s", strerror(errno));
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); // a core dump would hold prompts
    if (landlock_all())
        *walls |= TD_SANDBOX_LANDLOCK;
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (!f)
        return td_error_set(e, TD_ERR_INTERNAL, "cannot make a system call filter");
    int rc = add_rules(f);
    if (rc == 0)
        rc = seccomp_load(f);
    seccomp_release(f);
    if (rc != 0)
        return td_error_set(e, TD_ERR_INTERNAL, "cannot load the system call filter: %s", strerror(-rc));
    *walls |= TD_SANDBOX_SECCOMP;
    return TD_OK;
}
