// SPDX-License-Identifier: Apache-2.0
// File descriptors when there are few of them. A process may have so many (RLIMIT_NOFILE), shared by all that runs in
// it. The last ones are kept for what must not fail for want of one: the store, a model host, a secret, a name to
// resolve. Whoever opens a connection asks td_fd_room with the number it was given: the kernel gives the lowest free
// one (POSIX, 2.6 of "General Information"), so the number tells how many are taken. Where room is short it calls
// td_fd_shed, and all who keep idle connections close their oldest. Any thread, but for the shedders' own part.
#ifndef TD_LOOP_DESCRIPTORS_H
#define TD_LOOP_DESCRIPTORS_H

#include <sys/queue.h>

#include "loop/loop.h"

enum td_fd_room {
    TD_FD_PLENTY,
    TD_FD_TIGHT, // it can be used, but idle ones should go
    TD_FD_SHORT  // none was to be had, or what is left is kept for others: a connection must do without
};

// Raises the process's soft limit to the hard one, and takes note of it; without this only errors count as shortage.
void td_fd_limit_raise(void);
// What `fd` says: as socket, accept or the like gave it, or -1 with errno as they left it.
enum td_fd_room td_fd_room(int fd);

// Who keeps idle connections: closes at most `max` of them, those unused for the longest time first, and says how many
// it closed. Called on its loop's thread, never from inside a call it made itself.
struct td_fd_shedder {
    LIST_ENTRY(td_fd_shedder) all; // private, like the rest
    struct td_loop *loop;
    unsigned (*shed)(void *arg, unsigned max);
    void *arg;
    bool asked;
};

// On the loop's thread. `own` stays where it is until removed; removing one that was never added does nothing.
void td_fd_shedder_add(struct td_fd_shedder *own, struct td_loop *loop, unsigned (*shed)(void *arg, unsigned max),
                       void *arg);
void td_fd_shedder_remove(struct td_fd_shedder *own);

// Asks all shedders: those of `loop` at once, which must be the calling thread's own or NULL, the others on their
// threads soon. Returns how many connections were closed already.
unsigned td_fd_shed(struct td_loop *loop);

#endif
