// SPDX-License-Identifier: Apache-2.0
// Where things that came with the program lie.
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/runtime.h"

#ifndef TD_SHARE_DIR
#define TD_SHARE_DIR "/usr/local/share/tandem"
#endif
#ifndef TD_LIBEXEC_DIR
#define TD_LIBEXEC_DIR "/usr/local/libexec/tandem"
#endif

char *td_expand_home(struct td_str path) {
    if (!td_str_starts(path, TD_STR("~/")) && !td_str_is(path, "~"))
        return td_strndup(path.p, path.n);
    const char *home = getenv("HOME");
    if (!home || !*home)
        return NULL;
    size_t n = strlen(home);
    char *out = td_malloc(n + path.n);
    if (out) {
        memcpy(out, home, n);
        memcpy(out + n, path.p + 1, path.n - 1);
        out[n + path.n - 1] = 0;
    }
    return out;
}

// `prefix`/`name` if it is there.
static char *there(const char *prefix, const char *suffix, const char *name) {
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s%s%s", prefix, suffix, name);
    return n > 0 && (size_t)n < sizeof path && access(path, R_OK) == 0 ? td_strdup(path) : NULL;
}

char *td_resource_path(const char *name) {
    // In a build folder the program is build/src/cli/tandem; installed it is bin/tandem.
    static const char *const around[] = {"/",
                                         "/../../host/",
                                         "/../../../models/",
                                         "/../../../models/starter/",
                                         "/../host/",
                                         "/../../models/",
                                         "/../../models/starter/",
                                         "/../libexec/tandem/",
                                         "/../share/tandem/"};
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    char *found = NULL;
    if (strchr(name, '/'))
        return NULL;
    if (n > 0) {
        exe[n] = 0;
        char *slash = strrchr(exe, '/');
        if (slash)
            *slash = 0;
        for (size_t i = 0; !found && i < sizeof around / sizeof around[0]; i++)
            found = there(exe, around[i], name);
    }
    if (!found)
        found = there(TD_SHARE_DIR, "/", name);
    return found ? found : there(TD_LIBEXEC_DIR, "/", name);
}

void td_string_free(char *text) {
    td_free(text);
}
