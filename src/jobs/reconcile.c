// SPDX-License-Identifier: Apache-2.0
#include "jobs/reconcile.h"

#include "base/json.h"
#include "base/limits.h"
#include "jobs/agree.h"

#define CLOSE 1e-9 // qualities are written with a few decimals

// What matters of the request: the question, and whether JSON was asked for.
struct request {
    struct td_str question;
    bool json;
};

static struct td_str text_of(td_json *content) {
    size_t i, max;
    td_json *part;
    if (!yyjson_is_arr(content))
        return td_json_str(content);
    yyjson_arr_foreach(content, i, max, part) {
        if (td_json_get_str(part, "text").n)
            return td_json_get_str(part, "text");
    }
    return TD_STR_NONE;
}

static void read_request(struct td_arena *arena, struct td_str body, struct request *out) {
    td_json *root, *message;
    size_t i, max;
    if (td_json_parse(arena, body, TD_JSON_DEPTH_MAX, &root, NULL) != TD_OK)
        return;
    out->question = td_json_get_str(root, "prompt");
    yyjson_arr_foreach(td_json_get(root, "messages"), i, max, message) {
        if (td_str_is(td_json_get_str(message, "role"), "user"))
            out->question = text_of(td_json_get(message, "content"));
    }
    out->json = td_str_starts(td_json_get_str(td_json_get(root, "response_format"), "type"), TD_STR("json"));
}

enum validity { VALID, EMPTY, DECLINES, NOT_JSON };

static enum validity validity_of(struct td_arena *arena, const struct request *request, struct td_str text) {
    td_json *root;
    if (!td_str_trim(text).n)
        return EMPTY;
    if (request->json && td_json_parse(arena, td_str_trim(text), TD_JSON_DEPTH_MAX, &root, NULL) != TD_OK)
        return NOT_JSON;
    return td_answer_declines(text) ? DECLINES : VALID;
}

static struct td_judgement keep(const char *verdict) {
    return (struct td_judgement){TD_ACCEPTED_LOCAL, verdict, "confirm"};
}

static struct td_judgement take(const char *verdict) {
    return (struct td_judgement){TD_ACCEPTED_CLOUD, verdict, "replace"};
}

static struct td_judgement judge(struct td_arena *arena, const struct td_rivals *r) {
    static const char *const later_words[] = {"", "cloud-empty", "cloud-declines", "cloud-not-json"};
    static const char *const local_words[] = {"", "local-empty", "local-declines", "local-not-json"};
    struct request request = {0};
    read_request(arena, r->request, &request);
    enum validity later = validity_of(arena, &request, r->later), local = validity_of(arena, &request, r->local);
    if (later != VALID && (local != EMPTY || later == EMPTY))
        return keep(later_words[later]);
    if (local != VALID)
        return take(local_words[local]);
    if (td_answers_agree(request.question, r->local, r->later))
        return keep("agree");
    if (td_str_is(r->rule, "keep_local"))
        return keep("keep-local");
    if (td_str_is(r->rule, "ask"))
        return (struct td_judgement){TD_ACCEPTED_NONE, "ask", "ask"};
    if (r->later_quality > r->local_quality + CLOSE)
        return take("better-target");
    if (r->later_quality < r->local_quality - CLOSE)
        return keep("local-better-target");
    return r->later_estimate > r->local_estimate + CLOSE ? take("better-estimate") : keep("local-at-least-as-good");
}

struct td_judgement td_reconcile(const struct td_rivals *r) {
    struct td_arena arena;
    td_arena_init(&arena, TD_ARENA_BYTES_MAX);
    struct td_judgement j = judge(&arena, r);
    td_arena_finish(&arena);
    return j;
}
