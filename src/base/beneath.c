// SPDX-License-Identifier: Apache-2.0
#include "base/beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __has_include
#if __has_include(<linux/openat2.h>)
#include <linux/openat2.h>
#define HAVE_OPENAT2 1
#endif
#endif

bool td_is_component(struct td_str name) {
    return name.n > 0 && name.n <= 255 && !memchr(name.p, '/', name.n) && !memchr(name.p, 0, name.n) &&
           !td_str_is(name, ".") && !td_str_is(name, "..");
}

#define TRIES_MAX 16 // openat2 gives up where something is renamed meanwhile, which somebody could do for ever

int td_beneath_open(int folder_fd, const char *name, int flags, mode_t mode) {
    if (!td_is_component(td_str_of(name))) {
        errno = EINVAL;
        return -1;
    }
#if defined(HAVE_OPENAT2) && defined(SYS_openat2)
    struct open_how how = {.flags = (unsigned)(flags | O_CLOEXEC),
                           .mode = flags & O_CREAT ? mode : 0, // refused where nothing is made
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    long fd = -1;
    for (int i = 0; i < TRIES_MAX && (fd = syscall(SYS_openat2, folder_fd, name, &how, sizeof how)) < 0; i++)
        if (errno != EINTR && errno != EAGAIN)
            break;
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) // EPERM: a container's filter that does not know the call
        return (int)fd;
#endif
    return openat(folder_fd, name, flags | O_CLOEXEC | O_NOFOLLOW, mode);
}

bool td_beneath_is_readable(const char *folder, const char *name) {
    int in = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = in < 0 ? -1 : td_beneath_open(in, name, O_RDONLY | O_NOCTTY | O_NONBLOCK, 0);
    if (in >= 0)
        close(in);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}
