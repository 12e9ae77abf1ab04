// SPDX-License-Identifier: Apache-2.0
// libggml comes with one back end for each family of processors and opens all of them to ask which fits best. Most of
// that is known beforehand, and opening one costs a millisecond that a person waits for.
#include "host/backends.h"

#include <dirent.h>
#include <dlfcn.h>
#include <ggml-backend.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define CPU_PREFIX "libggml-cpu-"

static bool one_of(const char *name, const char *const *list) {
    for (; *list; list++)
        if (strcmp(name, *list) == 0)
            return true;
    return false;
}

// A variant that this processor cannot run, or for which it has a better one. Unknown names are worth asking.
static bool is_hopeless(const char *variant) {
#if defined(__x86_64__)
    static const char *const wide[] = {"cannonlake.so",     "cascadelake.so", "cooperlake.so", "icelake.so",
                                       "sapphirerapids.so", "skylakex.so",    "zen4.so",       NULL};
    static const char *const narrow[] = {"ivybridge.so", "piledriver.so", "sandybridge.so", "sse42.so", "x64.so", NULL};
    __builtin_cpu_init();
    if (one_of(variant, wide))
        return !__builtin_cpu_supports("avx512f");
    return one_of(variant, narrow) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    (void)variant;
    return false;
#endif
}

// The folder's best back end for this processor; false where there is none, or more than those of processors.
static bool load_best_processor(const char *folder) {
    char path[4096], best[4096] = "";
    int best_score = 0;
    bool only = true;
    DIR *dir = opendir(folder);
    if (!dir)
        return false;
    for (struct dirent *d; only && (d = readdir(dir));) {
        if (strncmp(d->d_name, "libggml-", 8) != 0 || strncmp(d->d_name, "libggml-base.", 13) == 0)
            continue;
        only = strncmp(d->d_name, CPU_PREFIX, strlen(CPU_PREFIX)) == 0;
        if (!only || is_hopeless(d->d_name + strlen(CPU_PREFIX)) ||
            snprintf(path, sizeof path, "%s/%s", folder, d->d_name) >= (int)sizeof path)
            continue;
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); // stays open: at most a few, and one of them is taken
        int (*score)(void) = library ? (int (*)(void))dlsym(library, "ggml_backend_score") : NULL;
        int points = score ? score() : 0;
        if (points > best_score) {
            best_score = points;
            memcpy(best, path, sizeof best);
        }
    }
    closedir(dir);
    return only && best_score > 0 && ggml_backend_load(best) != NULL;
}

void host_backends_load(void) {
    Dl_info where;
    char folder[4096];
    if (dladdr((void *)(uintptr_t)ggml_backend_load_all, &where) && where.dli_fname) {
        snprintf(folder, sizeof folder, "%s", where.dli_fname);
        char *slash = strrchr(folder, '/');
        if (slash)
            *slash = 0;
        if (!load_best_processor(folder))
            ggml_backend_load_all_from_path(folder);
    }
    if (ggml_backend_dev_count() == 0)
        ggml_backend_load_all();
}
