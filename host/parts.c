// SPDX-License-Identifier: Apache-2.0
#include "host/parts.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFIX "model:part/"

static int first;
static unsigned parts; // 0: no name stands for a descriptor

static FILE *open_part(const char *number, const char *mode) {
    unsigned long i = strtoul(number, NULL, 10);
    int fd = i < parts && strcmp(mode, "rb") == 0 ? fcntl(first + (int)i, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd < 0 || lseek(fd, 0, SEEK_SET) != 0) { // each reader closes before the next opens: they share the offset
        if (fd >= 0)
            close(fd);
        errno = ENOENT;
        return NULL;
    }
    return fdopen(fd, mode);
}

static FILE *open_any(const char *libc_name, const char *path, const char *mode) {
    FILE *(*next)(const char *, const char *);
    if (parts && strncmp(path, PREFIX, sizeof PREFIX - 1) == 0)
        return open_part(path + sizeof PREFIX - 1, mode);
    *(void **)&next = dlsym(RTLD_NEXT, libc_name);
    return next(path, mode);
}

// By their symbols: what the headers call fopen is one or the other.
__attribute__((visibility("default"))) FILE *host_fopen(const char *path, const char *mode) __asm__("fopen");
__attribute__((visibility("default"))) FILE *host_fopen64(const char *path, const char *mode) __asm__("fopen64");

FILE *host_fopen(const char *path, const char *mode) {
    return open_any("fopen", path, mode);
}

FILE *host_fopen64(const char *path, const char *mode) {
    return open_any("fopen64", path, mode);
}

struct llama_model *host_parts_load(int first_fd, unsigned count, struct llama_model_params params) {
    char names[HOST_PARTS_MAX][sizeof PREFIX + 4];
    const char *paths[HOST_PARTS_MAX];
    if (count > HOST_PARTS_MAX)
        return NULL;
    for (unsigned i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], PREFIX "%u", i);
        paths[i] = names[i];
    }
    first = first_fd;
    parts = count;
    struct llama_model *model = llama_model_load_from_splits(paths, count, params);
    parts = 0;
    return model;
}
