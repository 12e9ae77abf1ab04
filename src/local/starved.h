// SPDX-License-Identifier: Apache-2.0
// Did the kernel kill a process for want of memory? It does so with SIGKILL, which says nothing; but it counts. Two
// looks at the counters, one while the process lives and one before it is reaped, tell. Any thread; a look reads three
// small files of the kernel's.
//
// Sources: oom_kill in memory.events (cgroup v2, Documentation/admin-guide/cgroup-v2.rst) or in memory.oom_control (v1)
// of the process's own control group; where that is not known, oom_kill in /proc/vmstat, which counts for the machine.
#ifndef TD_LOCAL_STARVED_H
#define TD_LOCAL_STARVED_H

#include <stdbool.h>
#include <stdint.h>

#define TD_STARVED_UNKNOWN UINT64_MAX

struct td_starved {
    uint64_t machine, group; // killed so far; TD_STARVED_UNKNOWN
    char path[192];          // of the group's counter; "" not known
};

void td_starved_look(int pid, struct td_starved *out);
// More were killed by the second look. Where the group is the same in both, only what was killed in it counts.
bool td_starved_rose(const struct td_starved *before, const struct td_starved *after);
// That kill has been put down to another process: it is no sign for the one that `before` was taken of.
void td_starved_forget(struct td_starved *before, const struct td_starved *after);

// The path of the group's counter below `root` ("/sys/fs/cgroup"), from the text of a /proc/PID/cgroup; "" none.
void td_starved_path(const char *root, const char *cgroups, char *out, unsigned size);
// The number behind "oom_kill " in such a file. TD_STARVED_UNKNOWN: there is none.
uint64_t td_starved_count(const char *file);

#endif
