// SPDX-License-Identifier: Apache-2.0
// From a name that somebody else chose (a model's, a credential's) to a file: in one folder and nowhere else. The
// kernel sees to it while it walks the path (openat2, RESOLVE_BENEATH, Linux 5.6), so that no link that is put there
// meanwhile leads out. Where the kernel lacks it, or a container forbids it, a name is one component and no symbolic
// link is followed: less is reached then, never more. Any thread.
#ifndef TD_BASE_BENEATH_H
#define TD_BASE_BENEATH_H

#include <sys/types.h>

#include "base/str.h"

// One component, and not one that leads elsewhere: not empty, not "." or "..", no slash, no NUL, at most 255
// bytes.
bool td_is_component(struct td_str name);

// Opens `name` below the folder `folder_fd` as open(2) does with `flags` (O_CLOEXEC is added) and, where O_CREAT is in
// them, `mode`. -1 with errno: EXDEV it leads out (or ELOOP, in the lesser way), EINVAL it is no component.
int td_beneath_open(int folder_fd, const char *name, int flags, mode_t mode);
// Whether there is such a file and this process may read it.
bool td_beneath_is_readable(const char *folder, const char *name);

#endif
