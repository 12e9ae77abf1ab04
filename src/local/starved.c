// SPDX-License-Identifier: Apache-2.0
#include "local/starved.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"

#define CGROUPS_BYTES_MAX 4096 // a dozen controllers, each with a path

uint64_t td_starved_count(const char *file) {
    char line[128];
    uint64_t n = TD_STARVED_UNKNOWN;
    FILE *f = fopen(file, "re");
    if (!f)
        return n;
    while (n == TD_STARVED_UNKNOWN && fgets(line, sizeof line, f)) {
        struct td_str s = td_str_trim(td_str_of(line));
        uint64_t value;
        if (td_str_starts(s, TD_STR("oom_kill ")) && td_str_to_u64(td_str_n(s.p + 9, s.n - 9), &value))
            n = value;
    }
    fclose(f);
    return n;
}

// Version 1 says "/" of whoever is ending, and counts nothing at its root.
static bool is_group(const char *line, bool old) {
    return line[0] == '/' && (line[1] != '\n' || !old);
}

void td_starved_path(const char *root, const char *cgroups, char *out, unsigned size) {
    int n = -1;
    out[0] = 0;
    for (const char *line = cgroups; line && *line; line = strchr(line, '\n'), line += line != NULL) {
        const char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        struct td_str controllers = td_str_n(names + 1, (size_t)(path - names - 1));
        const char *end = strchr(++path, '\n');
        int length = (int)(end ? (size_t)(end - path) : strlen(path));
        bool at_root = length == 1;
        if (td_str_eq(controllers, TD_STR("memory")) && is_group(path, true)) {
            n = snprintf(out, size, "%s/memory%.*s/memory.oom_control", root, length, path);
            break; // where both are mounted, it is the one that has the memory
        }
        if (controllers.n == 0 && n < 0 && is_group(path, false))
            n = snprintf(out, size, "%s%.*s/memory.events", root, at_root ? 0 : length, path);
    }
    if (n >= (int)size)
        out[0] = 0;
}

void td_starved_look(int pid, struct td_starved *out) {
    char file[48], text[CGROUPS_BYTES_MAX] = "";
    *out = (struct td_starved){.machine = td_starved_count("/proc/vmstat"), .group = TD_STARVED_UNKNOWN};
    snprintf(file, sizeof file, "/proc/%d/cgroup", pid);
    FILE *f = fopen(file, "re");
    if (!f)
        return;
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    td_starved_path("/sys/fs/cgroup", text, out->path, sizeof out->path);
    if (out->path[0])
        out->group = td_starved_count(out->path);
}

static bool same_group(const struct td_starved *a, const struct td_starved *b) {
    return a->group != TD_STARVED_UNKNOWN && b->group != TD_STARVED_UNKNOWN && !strcmp(a->path, b->path);
}

static bool rose(uint64_t before, uint64_t after) {
    return before != TD_STARVED_UNKNOWN && after != TD_STARVED_UNKNOWN && after > before;
}

bool td_starved_rose(const struct td_starved *before, const struct td_starved *after) {
    return same_group(before, after) ? rose(before->group, after->group) : rose(before->machine, after->machine);
}

void td_starved_forget(struct td_starved *before, const struct td_starved *after) {
    if (rose(before->machine, after->machine))
        before->machine++;
    if (same_group(before, after) && rose(before->group, after->group))
        before->group++;
}
