// SPDX-License-Identifier: Apache-2.0
// Event streams: the first two bytes say how the rest is cut. The events are the same as without a cut, and no line
// passes its ceiling.
#include "fuzz.h"

#include <string.h>

#include "wire/sse.h"

#define LINE_MAX 4096u

static uint64_t mix(uint64_t h, struct td_str s) {
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * 1099511628211u;
    return (h ^ s.n) * 1099511628211u;
}

static bool on_event(void *user, const struct td_sse_event *ev) {
    uint64_t *h = user;
    fuzz_check(ev->data.n <= LINE_MAX);
    *h = mix(mix(mix(*h, ev->name), ev->data), ev->id);
    return true;
}

static enum td_err run(struct td_str in, size_t step, size_t jitter, uint64_t *h) {
    struct td_sse s;
    enum td_err err = TD_OK;
    *h = 1;
    td_sse_init(&s, LINE_MAX, on_event, h);
    while (in.n && err == TD_OK) {
        size_t n = step < in.n ? step : in.n;
        char *piece = malloc(n);
        if (!piece)
            break;
        memcpy(piece, in.p, n);
        err = td_sse_feed(&s, td_str_n(piece, n));
        free(piece);
        in.p += n, in.n -= n;
        step = jitter ? 1 + (step * 7 + jitter) % 61 : step;
    }
    if (err == TD_OK)
        err = td_sse_end(&s);
    td_sse_finish(&s);
    return err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t whole, cut, bytes;
    if (size < 2)
        return 0;
    struct td_str in = {(const char *)data + 2, size - 2};
    enum td_err a = run(in, in.n, 0, &whole), b = run(in, 1 + data[0] % 61, data[1], &cut), c = run(in, 1, 0, &bytes);
    fuzz_check(a == b && b == c);
    fuzz_check(a != TD_OK || (whole == cut && cut == bytes));
    return 0;
}
