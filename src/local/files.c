// SPDX-License-Identifier: Apache-2.0
#include "local/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "base/part_name.h"
#include "loop/descriptors.h"

static enum td_err open_one(struct td_model_files *files, const char *path, struct td_gguf *info, struct td_error *e) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (td_fd_room(fd) == TD_FD_SHORT && fd < 0) {
        (void)td_fd_shed(NULL);
        return td_error_set(e, TD_ERR_OVERLOAD, "no file descriptor was free for the model's file");
    }
    if (fd < 0 && files->count)
        return td_error_set(e, TD_ERR_HOST_LOAD, "cannot open part %u of the model: %s", files->count + 1,
                            strerror(errno));
    if (fd < 0)
        return td_error_set(e, TD_ERR_HOST_LOAD, "cannot open the model file: %s", strerror(errno));
    files->fds[files->count++] = fd;
    return td_gguf_check(fd, info, e);
}

enum td_err td_model_files_open(struct td_model_files *files, const char *path, struct td_gguf *info,
                                struct td_error *e) {
    struct td_part_name name;
    char at[PATH_MAX];
    files->count = 0;
    enum td_err err = open_one(files, path, info, e);
    if (err || info->part_count == 1)
        return err;
    if (info->part_number != 1)
        return td_error_set(e, TD_ERR_HOST_LOAD, "the model file is refused: it is part %u of %u; name the first",
                            info->part_number, info->part_count);
    if (info->part_count > TD_MODEL_PARTS_MAX)
        return td_error_set(e, TD_ERR_HOST_LOAD, "the model file is refused: it has %u parts, at most %u are loaded",
                            info->part_count, TD_MODEL_PARTS_MAX);
    if (!td_part_name_read(td_str_of(path), &name) || name.number != 1 || name.count != info->part_count)
        return td_error_set(e, TD_ERR_HOST_LOAD,
                            "the model file is refused: as the first of %u parts its name must end in "
                            "-00001-of-%05u.gguf",
                            info->part_count, info->part_count);
    for (unsigned i = 2; !err && i <= info->part_count; i++) {
        struct td_gguf part;
        if (!td_part_name_write(&name, i, at, sizeof at))
            return td_error_set(e, TD_ERR_HOST_LOAD, "the model's path is too long");
        err = open_one(files, at, &part, e);
        if (!err)
            err = td_gguf_add_part(info, &part, i, e);
    }
    return err;
}

void td_model_files_close(struct td_model_files *files) {
    while (files->count)
        close(files->fds[--files->count]);
}
