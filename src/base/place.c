// SPDX-License-Identifier: Apache-2.0
#include "base/place.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

#ifndef TD_SHARE_DIR
#define TD_SHARE_DIR "/usr/local/share/tandem"
#endif
#ifndef TD_LIBEXEC_DIR
#define TD_LIBEXEC_DIR "/usr/local/libexec/tandem"
#endif

// `folder` `between` `name`, if it is there and nobody else put it there: a program in /tmp must not take up a model
// host that a stranger left beside it. `owner`: of the program or library it is looked for around.
static char *there(const char *folder, const char *between, const char *name, uid_t owner) {
    char path[PATH_MAX];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s%s%s", folder, between, name);
    if (n <= 0 || (size_t)n >= sizeof path || access(path, R_OK) != 0 || stat(path, &st) != 0)
        return NULL;
    bool ours = st.st_uid == 0 || st.st_uid == geteuid() || st.st_uid == owner;
    char whole[PATH_MAX]; // without the dots between
    return ours && !(st.st_mode & S_IWOTH) ? td_strdup(realpath(path, whole) ? whole : path) : NULL;
}

// In a build folder the program is build/src/cli/tandem and the library build/libtandem.so; installed they are
// bin/tandem and lib/libtandem.so or, on Debian, lib/x86_64-linux-gnu/libtandem.so.
static char *around(char *file, const char *name) {
    static const char *const between[] = {"/",
                                          "/../../host/",
                                          "/../../../",
                                          "/../../../models/",
                                          "/../../../models/starter/",
                                          "/host/",
                                          "/../host/",
                                          "/../",
                                          "/../models/",
                                          "/../models/starter/",
                                          "/../../",
                                          "/../../models/",
                                          "/../../models/starter/",
                                          "/../libexec/tandem/",
                                          "/../share/tandem/",
                                          "/../../libexec/tandem/",
                                          "/../../share/tandem/"};
    char *slash = strrchr(file, '/'), *found = NULL;
    struct stat st;
    if (!slash || stat(file, &st) != 0)
        return NULL;
    *slash = 0;
    for (size_t i = 0; !found && i < sizeof between / sizeof between[0]; i++)
        found = there(file, between[i], name, st.st_uid);
    return found;
}

char *td_place_find(const char *name) {
    char file[PATH_MAX], *found = NULL;
    Dl_info own;
    ssize_t n = readlink("/proc/self/exe", file, sizeof file - 1);
    if (n > 0) {
        file[n] = 0;
        found = around(file, name);
    }
    if (!found && dladdr((void *)(uintptr_t)td_place_find, &own) && own.dli_fname && realpath(own.dli_fname, file))
        found = around(file, name);
    if (!found)
        found = there(TD_SHARE_DIR, "/", name, 0);
    return found ? found : there(TD_LIBEXEC_DIR, "/", name, 0);
}
