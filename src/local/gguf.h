// SPDX-License-Identifier: Apache-2.0
// The strict look at a GGUF file before a guest may load it: magic, version, counts, every string, array, dimension and
// offset inside the file, no sum that overflows. It also learns what loading will take. Reads the header only, through
// the descriptor that the guest will get, so what was checked is what is loaded. The format: GGUF versions 2 and 3 as
// ggml documents it, also in parts (split.no, split.count, split.tensors.count). Any thread.
#ifndef TD_LOCAL_GGUF_H
#define TD_LOCAL_GGUF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

struct td_gguf {
    uint64_t file_bytes, data_offset, tensor_bytes; // tensor_bytes: all weights
    uint64_t elements;                              // parameters
    uint32_t tensor_count, pair_count;
    char architecture[64];
    uint32_t context, layers, embedding, heads, feed_forward, vocabulary, key_length, value_length;
    uint64_t kv_heads; // summed over the layers
    bool chat_template, template_tools, infill, embeds_only;
    uint32_t part_number, part_count; // 1 of 1: the whole model; only the first part describes it
    uint64_t all_tensors;             // of all parts, as the file says
};
// One file, whole or a part. TD_ERR_HOST_LOAD with the reason, TD_ERR_IO.
enum td_err td_gguf_check(int fd, struct td_gguf *out, struct td_error *e) TD_MUST_USE;
// Adds part `number` (2, 3 …, in order) to what the first is known to take. TD_ERR_HOST_LOAD: it is another part, or
// with the last of them tensors are missing.
enum td_err td_gguf_add_part(struct td_gguf *whole, const struct td_gguf *part, uint32_t number,
                             struct td_error *e) TD_MUST_USE;
// The chat template as the file has it, before anybody loads the model: for the guest, which makes it ready meanwhile.
// `plain`: the file says that no token goes before a prompt, none that one goes after it, and has no second template
// for tools. `text` is empty where there is none; free it with td_buf_finish. Reads what td_gguf_check accepted; its
// errors.
struct td_gguf_chat {
    struct td_buf text;
    bool plain;
};
enum td_err td_gguf_chat_read(int fd, struct td_gguf_chat *out, struct td_error *e) TD_MUST_USE;
// Weights, key-value memory of `parallel` requests of `context` tokens, compute buffers, the program itself.
uint64_t td_gguf_memory(const struct td_gguf *g, uint32_t context, uint32_t parallel);

#endif
