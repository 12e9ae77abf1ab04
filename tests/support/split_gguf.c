// SPDX-License-Identifier: Apache-2.0
// Cuts a GGUF into parts as llama.cpp's own tool does: STEM-00001-of-0000N.gguf and so on, the description in the
// first, the tensors spread over all of them (or over all but the first).
//   split_gguf IN STEM PARTS [--bare-first]
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ggml.h>
#include <gguf.h>

int main(int argc, char **argv) {
    struct ggml_context *tensors = NULL;
    bool bare = argc == 5 && strcmp(argv[4], "--bare-first") == 0;
    int parts = argc >= 4 ? atoi(argv[3]) : 0;
    struct gguf_context *whole =
        parts > 1 ? gguf_init_from_file(argv[1], (struct gguf_init_params){false, &tensors}) : NULL;
    if (!whole) {
        fprintf(stderr, "usage: split_gguf IN STEM PARTS [--bare-first]\n");
        return 2;
    }
    int64_t count = gguf_get_n_tensors(whole);
    int takers = bare ? parts - 1 : parts;
    for (int part = 0; part < parts; part++) {
        char path[4096];
        struct gguf_context *g = gguf_init_empty();
        if (part == 0)
            gguf_set_kv(g, whole);
        gguf_set_val_u16(g, "split.no", (uint16_t)part);
        gguf_set_val_u16(g, "split.count", (uint16_t)parts);
        gguf_set_val_i32(g, "split.tensors.count", (int32_t)count);
        int taker = bare ? part - 1 : part;
        for (int64_t i = 0; i < count; i++)
            if (i * takers / count == taker)
                gguf_add_tensor(g, ggml_get_tensor(tensors, gguf_get_tensor_name(whole, i)));
        snprintf(path, sizeof path, "%s-%05d-of-%05d.gguf", argv[2], part + 1, parts);
        if (!gguf_write_to_file(g, path, false)) {
            fprintf(stderr, "split_gguf: cannot write %s\n", path);
            return 1;
        }
        gguf_free(g);
    }
    gguf_free(whole);
    ggml_free(tensors);
    return 0;
}
