// SPDX-License-Identifier: Apache-2.0
// Request bodies: the first byte says which kind and whether a text hook is at work. What is read can be written; what
// was written reads back and is written the same again.
#include "fuzz.h"

#include <string.h>

#include "wire/openai_provider.h"
#include "wire/openai_request.h"

static enum td_err copy_text(void *user, struct td_str text, struct td_buf *out) {
    (void)user;
    return td_buf_add_str(out, text);
}

static void check_request(const struct td_request *r) {
    fuzz_check(r->model.n <= TD_NAME_BYTES_MAX); // empty: the request names none
    fuzz_check(r->n >= 1 && r->n <= TD_CHOICES_MAX);
    fuzz_check(r->stop_count <= TD_STOPS_MAX && r->top_logprobs <= TD_LOGPROBS_MAX);
    fuzz_check(r->wishes.label_count <= TD_LABELS_MAX && r->wishes.tier_count <= TD_WISH_TIERS_MAX);
    fuzz_check(!(r->temperature < 0 || r->temperature > 2));
    for (uint32_t i = 0; i < r->message_count; i++)
        for (uint32_t k = 0; k < r->messages[i].part_count; k++)
            fuzz_check(r->messages[i].parts[k].text.p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct td_arena arena;
    struct td_request req, again;
    struct td_error e = {0};
    struct td_buf first, second;
    if (size == 0)
        return 0;
    enum td_kind kind = (enum td_kind)(data[0] % 3);
    struct td_write_spec spec = {
        .model = TD_STR("m"), .same_dialect = true, .stream = data[0] & 4, .text = data[0] & 8 ? copy_text : NULL};
    td_arena_init(&arena, TD_ARENA_BYTES_MAX);
    td_buf_init(&first, TD_ARENA_BYTES_MAX);
    td_buf_init(&second, TD_ARENA_BYTES_MAX);
    enum td_err err = td_openai_read_request(&arena, kind, td_str_n((const char *)data + 1, size - 1), &req, &e);
    if (err != TD_OK) {
        fuzz_check(e.code == err && e.message[0] && memchr(e.param, 0, sizeof e.param));
        goto out;
    }
    check_request(&req);
    if (kind != TD_KIND_EMBEDDING)
        req.stream = spec.stream;
    fuzz_check(td_openai_write_request(&req, &spec, &first) == TD_OK);
    err = td_openai_read_request(&arena, kind, td_buf_str(&first), &again, &e);
    if (err != TD_OK)
        fprintf(stderr, "%s\n%.*s\n", e.message, TD_STR_ARG(td_buf_str(&first)));
    fuzz_check(err == TD_OK);
    fuzz_check(again.message_count == req.message_count && again.tool_count == req.tool_count);
    fuzz_check(td_openai_write_request(&again, &spec, &second) == TD_OK);
    fuzz_check(td_str_eq(td_buf_str(&first), td_buf_str(&second)));
out:
    td_buf_finish(&first);
    td_buf_finish(&second);
    td_arena_finish(&arena);
    return 0;
}
