// SPDX-License-Identifier: Apache-2.0
// The model-host protocol: any bytes are read as frames and each frame as every body there is. Views stay inside the
// input, a frame that reads back whole is written the same, and where the bytes are cut makes no difference.
#include "fuzz.h"

#include <string.h>

#include "local/protocol.h"

static void inside(struct td_str s, struct td_str of) {
    fuzz_check(!s.p || (s.p >= of.p && s.p + s.n <= of.p + of.n));
}

static void read_bodies(const struct td_frame *f) {
    struct td_proto_setup setup;
    struct td_proto_ready ready;
    struct td_proto_request request;
    struct td_str message;
    struct td_buf b;
    enum td_err code;
    td_buf_init(&b, 1 << 20);
    if (td_proto_get_setup(f->body, &setup)) {
        inside(setup.name, f->body);
        fuzz_check(td_proto_put_setup(&b, &setup) == TD_OK);
        fuzz_check(td_str_eq(td_str_n(b.p + TD_PROTO_HEADER_BYTES, b.n - TD_PROTO_HEADER_BYTES), f->body));
    }
    td_buf_clear(&b);
    if (td_proto_get_request(f->body, &request)) {
        inside(request.body, f->body);
        fuzz_check(td_proto_put_request(&b, f->id, &request) == TD_OK);
        fuzz_check(td_str_eq(td_str_n(b.p + TD_PROTO_HEADER_BYTES, b.n - TD_PROTO_HEADER_BYTES), f->body));
    }
    if (td_proto_get_error(f->body, &code, &message)) {
        inside(message, f->body);
        fuzz_check(code > TD_OK && code < TD_ERR_COUNT);
    }
    td_buf_clear(&b);
    if (td_proto_get_ready(f->body, &ready)) {
        fuzz_check(td_proto_put_ready(&b, &ready) == TD_OK);
        fuzz_check(td_str_eq(td_str_n(b.p + TD_PROTO_HEADER_BYTES, b.n - TD_PROTO_HEADER_BYTES), f->body));
    }
    td_buf_finish(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct td_str in = td_str_n((const char *)data, size);
    while (in.n) {
        struct td_frame f, g;
        size_t used, again;
        if (td_proto_next(in, 1 << 16, &f, &used) != TD_OK || used == 0)
            break;
        fuzz_check(used <= in.n && f.body.n + TD_PROTO_HEADER_BYTES == used);
        inside(f.body, in);
        fuzz_check(td_proto_next(td_str_n(in.p, used - 1), 1 << 16, &g, &again) == TD_OK && again == 0);
        fuzz_check(td_proto_next(td_str_n(in.p, used), 1 << 16, &g, &again) == TD_OK && again == used);
        read_bodies(&f);
        in.p += used, in.n -= used;
    }
    return 0;
}
