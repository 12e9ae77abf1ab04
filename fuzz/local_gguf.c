// SPDX-License-Identifier: Apache-2.0
// Model files: any bytes are refused with a reason or understood; what is understood has its tensors inside the file.
#include "fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include "local/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct td_gguf g;
    struct td_error e = {0};
    int fd = memfd_create("gguf", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    if (td_gguf_check(fd, &g, &e) == TD_OK) {
        fuzz_check(g.data_offset <= size && g.tensor_count > 0);
        fuzz_check(td_gguf_memory(&g, 0, 64) >= g.tensor_bytes || g.tensor_bytes > 1ull << 61);
    } else {
        fuzz_check(e.message[0] != 0);
    }
    struct td_gguf_chat chat;
    if (td_gguf_chat_read(fd, &chat, &e) == TD_OK) {
        fuzz_check(chat.text.n <= size);
        td_buf_finish(&chat.text);
    }
    close(fd);
    return 0;
}
