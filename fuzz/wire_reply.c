// SPDX-License-Identifier: Apache-2.0
// Replies of providers: the first byte says what was asked for, the second how the bytes are cut. Events keep the order
// of event.h, end exactly once, are the same at every cut, and can be written for a client. The same bytes are also
// tried as an error body.
#include "fuzz.h"

#include <string.h>

#include "wire/openai_answer.h"
#include "wire/openai_provider.h"

struct watch {
    uint64_t hash;
    bool started, ended, finished[TD_CHOICES_MAX];
    uint32_t calls[TD_CHOICES_MAX];
    struct td_answer_writer *stream, *whole;
    struct td_buf *out;
};

static void mix(struct watch *w, struct td_str s) {
    for (size_t i = 0; i < s.n; i++)
        w->hash = (w->hash ^ (unsigned char)s.p[i]) * 1099511628211u;
    w->hash = (w->hash ^ s.n) * 1099511628211u;
}

static void check_text(struct watch *w, const struct td_event *ev) {
    fuzz_check(td_str_is_utf8(ev->delta.text));
    mix(w, ev->delta.text);
    for (uint32_t i = 0; i < ev->delta.token_count; i++) {
        fuzz_check(ev->delta.tokens[i].top_count <= TD_LOGPROBS_MAX);
        mix(w, ev->delta.tokens[i].text);
        for (uint32_t k = 0; k < ev->delta.tokens[i].top_count; k++)
            mix(w, ev->delta.tokens[i].top[k].text);
    }
}

static void on_event(void *user, const struct td_event *ev) {
    struct watch *w = user;
    fuzz_check(!w->ended && ev->choice < TD_CHOICES_MAX);
    fuzz_check(ev->type == TD_EV_ERROR || (ev->type == TD_EV_START) == !w->started);
    w->started = true;
    w->hash = (w->hash ^ (uint64_t)ev->type ^ (uint64_t)ev->choice << 8 ^ (uint64_t)ev->damaged << 16) * 1099511628211u;
    switch (ev->type) {
    case TD_EV_DELTA:
    case TD_EV_REASONING:
    case TD_EV_REFUSAL:
        fuzz_check(!w->finished[ev->choice]);
        check_text(w, ev);
        break;
    case TD_EV_TOOL_CALL:
        fuzz_check(!w->finished[ev->choice] && ev->tool.index < TD_TOOL_CALLS_MAX);
        fuzz_check(ev->tool.name.n == 0 || ev->tool.id.n);
        mix(w, ev->tool.id);
        mix(w, ev->tool.name);
        mix(w, ev->tool.arguments);
        break;
    case TD_EV_FINISH:
        fuzz_check(!w->finished[ev->choice]);
        w->finished[ev->choice] = true;
        break;
    case TD_EV_EMBEDDING:
        fuzz_check(ev->embedding.count > 0);
        break;
    case TD_EV_ERROR:
        fuzz_check(ev->error.code != TD_OK && ev->error.message.n && td_str_is_utf8(ev->error.message));
        /* fallthrough */
    case TD_EV_END:
        w->ended = true;
        return;
    default:
        break;
    }
    if (w->stream)
        fuzz_check(td_openai_answer_event(w->stream, ev, w->out) == TD_OK);
    if (w->whole)
        fuzz_check(td_openai_answer_event(w->whole, ev, NULL) == TD_OK);
}

static void run(struct td_reader_spec spec, struct td_str in, size_t step, size_t jitter, struct watch *w) {
    struct td_reader *r;
    spec.on_event = on_event;
    spec.user = w;
    fuzz_check(td_openai_reader_create(&spec, &r) == TD_OK);
    bool more = true;
    while (in.n && more) {
        size_t n = step < in.n ? step : in.n;
        char *piece = malloc(n);
        if (!piece)
            break;
        memcpy(piece, in.p, n);
        more = td_openai_reader_feed(r, td_str_n(piece, n));
        free(piece);
        in.p += n, in.n -= n;
        step = jitter ? 1 + (step * 7 + jitter) % 61 : step;
    }
    td_openai_reader_finish(r, true);
    fuzz_check(w->ended);
    td_openai_reader_destroy(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct watch whole = {0}, cut = {0};
    struct td_buf out;
    if (size < 2)
        return 0;
    struct td_str in = {(const char *)data + 2, size - 2};
    struct td_reader_spec spec = {.kind = (enum td_kind)(data[0] % 3),
                                  .stream = true,
                                  .raw = data[0] & 4,
                                  .choices = 1 + (data[0] >> 3 & 3),
                                  .line_bytes_max = 8192,
                                  .id = TD_STR("X")};
    struct td_answer_spec answer = {.kind = spec.kind,
                                    .exchange = TD_STR("X"),
                                    .model = TD_STR("m"),
                                    .choices = 4,
                                    .logprobs = data[0] & 32,
                                    .top_logprobs = 20,
                                    .include_usage = data[0] & 64};
    td_buf_init(&out, 1u << 28);
    whole.out = &out;
    answer.stream = true;
    fuzz_check(td_openai_answer_create(&answer, &whole.stream) == TD_OK);
    answer.stream = false;
    fuzz_check(td_openai_answer_create(&answer, &whole.whole) == TD_OK);
    run(spec, in, in.n, 0, &whole);
    run(spec, in, 1 + data[1] % 61, data[1], &cut);
    fuzz_check(whole.hash == cut.hash);
    enum td_err a = td_openai_answer_end(whole.stream, NULL, &out), b = td_openai_answer_end(whole.whole, NULL, &out);
    fuzz_check((a == TD_OK || a == TD_ERR_CUT) && a == b);
    td_openai_answer_destroy(whole.stream);
    td_openai_answer_destroy(whole.whole);
    td_buf_finish(&out);
    struct td_upstream_error e;
    td_openai_read_error(data[1] & 1 ? 400 : 429, in, in, 0, in, &e);
    fuzz_check(e.code != TD_OK && memchr(e.message, 0, sizeof e.message) && td_str_is_utf8(td_str_of(e.message)));
    return 0;
}
