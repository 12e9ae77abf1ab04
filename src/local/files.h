// SPDX-License-Identifier: Apache-2.0
// A model's file, or the files of a model in parts, opened and checked before a guest gets the descriptors (this room
// only). Any thread.
#ifndef TD_LOCAL_FILES_H
#define TD_LOCAL_FILES_H

#include "base/limits.h"
#include "local/gguf.h"

struct td_model_files {
    int fds[TD_MODEL_PARTS_MAX];
    unsigned count;
};

// `path` names the file, or the first part; the others lie beside it. Call close in any case. TD_ERR_HOST_LOAD with the
// reason, TD_ERR_IO.
enum td_err td_model_files_open(struct td_model_files *files, const char *path, struct td_gguf *info,
                                struct td_error *e) TD_MUST_USE;
void td_model_files_close(struct td_model_files *files);

#endif
