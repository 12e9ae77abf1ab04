// SPDX-License-Identifier: Apache-2.0
// A model in several files. libllama opens the parts by name, and inside its walls the guest can open nothing: so it is
// given names that stand for descriptors it already has. For that this program brings the fopen that libllama and
// libggml call; every other name goes on to libc.
#ifndef TD_HOST_PARTS_H
#define TD_HOST_PARTS_H

#include <llama.h>

enum { HOST_PARTS_MAX = 128 };

// The model whose parts are the descriptors first_fd … first_fd + count - 1, which stay open; NULL: libllama's log says
// why. One thread, once.
struct llama_model *host_parts_load(int first_fd, unsigned count, struct llama_model_params params);

#endif
