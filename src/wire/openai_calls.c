// SPDX-License-Identifier: Apache-2.0
// Tool calls of a reply, put together from their pieces.
#include "wire/openai_reader.h"

#include <stdio.h>

#include "base/hash.h"

// 0 for the empty text alone.
static uint64_t hash(struct td_str s) {
    return s.n ? td_hash64(s) | 1 : 0;
}

static struct td_or_call *new_call(struct td_reader *r, struct td_or_choice *c, int64_t index, struct td_str id) {
    if (c->call_count == TD_TOOL_CALLS_MAX) {
        r->damaged = true;
        return NULL;
    }
    if (c->call_count == c->call_room) {
        uint32_t room = c->call_room ? c->call_room * 2 : 2;
        struct td_or_call *calls = td_realloc(c->calls, room * sizeof *calls);
        if (!calls) {
            td_or_no_memory(r);
            return NULL;
        }
        c->calls = calls;
        c->call_room = room;
    }
    struct td_or_call *call = &c->calls[c->call_count++];
    *call = (struct td_or_call){.provider_index = index, .id_hash = hash(id)};
    td_buf_init(&call->id, 1024);
    td_buf_init(&call->arguments, TD_SSE_LINE_BYTES_MAX);
    return call;
}

// Which call a piece belongs to. Providers differ: most number the calls; some give every call the index 0 but a new
// id; some leave the index out and send each call whole.
static struct td_or_call *find_call(struct td_reader *r, struct td_or_choice *c, int64_t index, struct td_str id,
                                    bool named) {
    for (uint32_t i = c->call_count; i-- > 0;) {
        struct td_or_call *call = &c->calls[i];
        if (index >= 0 ? call->provider_index != index : id.n && call->id_hash != hash(id))
            continue;
        if (index >= 0 && named && id.n && call->id_hash && call->id_hash != hash(id))
            break;
        if (index < 0 && !id.n && named)
            break;
        return call;
    }
    return new_call(r, c, index, id);
}

static void hand_up_call(struct td_reader *r, uint32_t choice, struct td_or_call *call, struct td_str id,
                         struct td_str name, struct td_str arguments) {
    uint32_t index = (uint32_t)(call - r->choices[choice].calls);
    td_or_hand_up(r, &(struct td_event){.type = TD_EV_TOOL_CALL,
                                        .choice = choice,
                                        .tool = {.index = index, .id = id, .name = name, .arguments = arguments}});
}

static void take_piece(struct td_reader *r, uint32_t choice, struct td_or_call *call, struct td_str id,
                       struct td_str name, struct td_str arguments) {
    char made[128];
    if (call->started) {
        if (arguments.n)
            hand_up_call(r, choice, call, TD_STR_NONE, TD_STR_NONE, arguments);
        return;
    }
    enum td_err err = TD_OK;
    if (call->id.n == 0)
        err = td_buf_add_str(&call->id, id);
    if (err == TD_OK && (name.n == 0 || call->arguments.n))
        err = td_buf_add_str(&call->arguments, arguments);
    if (err != TD_OK) {
        td_or_fail(r, err == TD_ERR_NOMEM ? err : TD_ERR_UPSTREAM_GARBAGE, "a tool call of the upstream is too large");
        return;
    }
    if (name.n == 0)
        return;
    call->started = true;
    if (call->id.n == 0) {
        snprintf(made, sizeof made, "call_%s%u_%u", r->id, choice, (unsigned)(call - r->choices[choice].calls));
        id = td_str_of(made);
    } else {
        id = td_buf_str(&call->id);
    }
    hand_up_call(r, choice, call, id, name, call->arguments.n ? td_buf_str(&call->arguments) : arguments);
    td_buf_finish(&call->arguments);
}

void td_or_take_call(struct td_reader *r, uint32_t choice, td_json *v, bool whole) {
    if (!yyjson_is_obj(v)) {
        r->damaged = true;
        return;
    }
    struct td_or_choice *c = &r->choices[choice];
    td_json *function = td_json_get(v, "function"), *arguments = td_json_get(function, "arguments");
    struct td_str id = td_json_get_str(v, "id"), name = td_json_get_str(function, "name"), text = TD_STR_NONE;
    struct td_buf written;
    td_buf_init(&written, TD_SSE_LINE_BYTES_MAX);
    if (yyjson_is_str(arguments)) {
        text = td_json_str(arguments);
    } else if (yyjson_is_obj(arguments)) { // Ollama's own form
        if (td_json_write(arguments, &written) == TD_OK)
            text = td_buf_str(&written);
        else
            r->damaged = true;
    } else if (arguments) {
        r->damaged = true;
    }
    int64_t index = td_json_get_int(v, "index", -1);
    struct td_or_call *call =
        whole ? new_call(r, c, index, id) : find_call(r, c, index < 0 ? -1 : index, id, name.n > 0);
    if (call)
        take_piece(r, choice, call, id, name, text);
    td_buf_finish(&written);
}

void td_or_take_function_call(struct td_reader *r, uint32_t choice, td_json *v) {
    struct td_or_choice *c = &r->choices[choice];
    struct td_or_call *call = c->call_count ? &c->calls[0] : new_call(r, c, -1, TD_STR_NONE);
    if (call)
        take_piece(r, choice, call, TD_STR_NONE, td_json_get_str(v, "name"), td_json_get_str(v, "arguments"));
}

void td_or_free_calls(struct td_or_choice *c) {
    for (uint32_t i = 0; i < c->call_count; i++) {
        td_buf_finish(&c->calls[i].id);
        td_buf_finish(&c->calls[i].arguments);
    }
    td_free(c->calls);
}
