// SPDX-License-Identifier: Apache-2.0
// Token probabilities of a reply, in the forms of chats and of completions.
#include "wire/openai_reader.h"

#include <math.h>

// The exact bytes where the provider gives them, else the text.
static struct td_str token_bytes(struct td_arena *a, td_json *obj) {
    td_json *bytes = td_json_get(obj, "bytes"), *v;
    size_t i, max;
    if (!yyjson_is_arr(bytes))
        return td_json_get_str(obj, "token");
    char *p = td_arena_alloc(a, yyjson_arr_size(bytes) + 1);
    if (!p)
        return TD_STR_NONE;
    yyjson_arr_foreach(bytes, i, max, v) {
        if (!yyjson_is_uint(v) || yyjson_get_uint(v) > 255)
            return td_json_get_str(obj, "token");
        p[i] = (char)yyjson_get_uint(v);
    }
    return td_str_n(p, yyjson_arr_size(bytes));
}

static struct td_token read_token(struct td_arena *a, td_json *obj) {
    double logprob = td_json_get_num(obj, "logprob", NAN);
    return (struct td_token){.text = token_bytes(a, obj), .logprob = (float)logprob, .entropy = NAN};
}

// Chat: [{token, logprob, bytes, top_logprobs: [{…}]}]
static void read_chat_tokens(struct td_or_tokens *t, td_json *list) {
    size_t i, max, k, top_max;
    td_json *v, *alternative;
    if (!yyjson_is_arr(list) || yyjson_arr_size(list) == 0)
        return;
    t->list = td_arena_array(&t->arena, yyjson_arr_size(list), sizeof *t->list);
    yyjson_arr_foreach(list, i, max, v) {
        if (!t->list || !yyjson_is_obj(v))
            return;
        struct td_token *token = &t->list[t->count++];
        *token = read_token(&t->arena, v);
        td_json *top = td_json_get(v, "top_logprobs");
        if (!yyjson_is_arr(top) || yyjson_arr_size(top) == 0)
            continue;
        struct td_token *tops = td_arena_array(&t->arena, yyjson_arr_size(top), sizeof *tops);
        yyjson_arr_foreach(top, k, top_max, alternative) {
            if (tops && yyjson_is_obj(alternative) && k < TD_LOGPROBS_MAX)
                tops[token->top_count++] = read_token(&t->arena, alternative);
        }
        token->top = tops;
    }
}

// Completions: parallel lists {tokens, token_logprobs, top_logprobs: [{text: logprob}]}
static void read_completion_tokens(struct td_or_tokens *t, td_json *logprobs) {
    td_json *texts = td_json_get(logprobs, "tokens"), *values = td_json_get(logprobs, "token_logprobs");
    td_json *tops = td_json_get(logprobs, "top_logprobs"), *v, *key, *p;
    size_t i, max, k, top_max;
    if (!yyjson_is_arr(texts) || !yyjson_is_arr(values) || yyjson_arr_size(texts) != yyjson_arr_size(values))
        return;
    t->list = td_arena_array(&t->arena, yyjson_arr_size(texts), sizeof *t->list);
    td_json *value = yyjson_arr_get_first(values), *top = yyjson_is_arr(tops) ? yyjson_arr_get_first(tops) : NULL;
    size_t top_left = yyjson_is_arr(tops) ? yyjson_arr_size(tops) : 0;
    yyjson_arr_foreach(texts, i, max, v) {
        if (!t->list)
            return;
        struct td_token *token = &t->list[t->count++];
        *token = (struct td_token){.text = td_json_str(v),
                                   .logprob = yyjson_is_num(value) ? (float)yyjson_get_num(value) : NAN,
                                   .entropy = NAN};
        if (top_left && yyjson_is_obj(top)) {
            struct td_token *list = td_arena_array(&t->arena, yyjson_obj_size(top), sizeof *list);
            yyjson_obj_foreach(top, k, top_max, key, p) {
                if (list && yyjson_is_num(p) && token->top_count < TD_LOGPROBS_MAX)
                    list[token->top_count++] = (struct td_token){
                        .text = td_json_str(key), .logprob = (float)yyjson_get_num(p), .entropy = NAN};
            }
            token->top = list;
        }
        value = unsafe_yyjson_get_next(value);
        if (top_left && --top_left)
            top = unsafe_yyjson_get_next(top);
    }
}

void td_or_read_tokens(struct td_or_tokens *t, td_json *choice, const char *list) {
    td_json *logprobs = td_json_get(choice, "logprobs");
    td_arena_init(&t->arena, TD_REPLY_BYTES_MAX);
    if (!yyjson_is_obj(logprobs))
        return;
    read_chat_tokens(t, td_json_get(logprobs, list));
    if (t->count == 0 && list[0] == 'c')
        read_completion_tokens(t, logprobs);
}
