// SPDX-License-Identifier: Apache-2.0
// Where things that came with the program lie.
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/place.h"
#include "runtime/runtime.h"

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

char *td_resource_path(const char *name) {
    return strchr(name, '/') ? NULL : td_place_find(name);
}

void td_string_free(char *text) {
    td_free(text);
}
