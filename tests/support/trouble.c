// SPDX-License-Identifier: Apache-2.0
// Preloaded into a program under test (LD_PRELOAD), this brings about what a test cannot ask the machine for: a full
// disk, a wall clock that jumps, a name server that never answers. TROUBLE names a file of three 64-bit integers that a
// test writes while the program runs:
//   0  not 0: writing below the folder TROUBLE_DIR fails for want of space
//   1  milliseconds added to the wall clock
//   2  not 0: getaddrinfo does not return as long as it is set
#undef _FILE_OFFSET_BITS // both names of each function are wanted
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FULL, CLOCK, DNS, COUNT };
static volatile int64_t *trouble;
static const char *dir;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("TROUBLE");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, COUNT * sizeof *trouble, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    dir = getenv("TROUBLE_DIR");
    trouble = p == MAP_FAILED ? NULL : p;
}

static int is_full(int fd) {
    char link[64], path[4096];
    if (!trouble || !trouble[FULL] || !dir)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    return n > 0 && (size_t)n > strlen(dir) && memcmp(path, dir, strlen(dir)) == 0;
}

#pragma GCC visibility push(default)
#define REAL(name) ((__typeof__(name) *)real(#name))
static void *real(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

#define FAIL_WHEN_FULL(fd)                                                                                             \
    if (is_full(fd)) {                                                                                                 \
        errno = ENOSPC;                                                                                                \
        return -1;                                                                                                     \
    }

ssize_t write(int fd, const void *p, size_t n) {
    FAIL_WHEN_FULL(fd)
    return REAL(write)(fd, p, n);
}
ssize_t pwrite(int fd, const void *p, size_t n, off_t at) {
    FAIL_WHEN_FULL(fd)
    return REAL(pwrite)(fd, p, n, at);
}
ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at) {
    FAIL_WHEN_FULL(fd)
    return REAL(pwrite64)(fd, p, n, at);
}
ssize_t writev(int fd, const struct iovec *v, int n) {
    FAIL_WHEN_FULL(fd)
    return REAL(writev)(fd, v, n);
}
int ftruncate(int fd, off_t n) {
    FAIL_WHEN_FULL(fd)
    return REAL(ftruncate)(fd, n);
}
int ftruncate64(int fd, off64_t n) {
    FAIL_WHEN_FULL(fd)
    return REAL(ftruncate64)(fd, n);
}
int fallocate(int fd, int mode, off_t at, off_t n) {
    FAIL_WHEN_FULL(fd)
    return REAL(fallocate)(fd, mode, at, n);
}

int fallocate64(int fd, int mode, off64_t at, off64_t n) {
    FAIL_WHEN_FULL(fd)
    return REAL(fallocate64)(fd, mode, at, n);
}

int clock_gettime(clockid_t id, struct timespec *t) {
    int rc = REAL(clock_gettime)(id, t);
    if (rc == 0 && id == CLOCK_REALTIME && trouble && trouble[CLOCK]) {
        int64_t ns = (int64_t)t->tv_nsec + trouble[CLOCK] % 1000 * 1000000;
        t->tv_sec += (time_t)(trouble[CLOCK] / 1000 + (ns < 0 ? -1 : ns / 1000000000));
        t->tv_nsec = (long)(ns < 0 ? ns + 1000000000 : ns % 1000000000);
    }
    return rc;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out) {
    while (trouble && trouble[DNS])
        usleep(20000);
    return REAL(getaddrinfo)(node, service, hints, out);
}
