// SPDX-License-Identifier: Apache-2.0
// Answers as a pure function of the prompt. A conversation's answer depends on its messages without a trailing
// assistant message; that message, where it is a prefix of the answer, is continued at exactly its end. A completion's
// answer depends on the prompt's first 16 bytes, so that prompt plus text-so-far goes on where the text ended. Wishes
// in the last user message: "ECHO:text" answers with text, "[tokens=200]" makes it that long, "TOOL:name {json}" calls
// a tool.
#include "upstream.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/time.h"

static const char *const words[] = {
    "amber",   "birch",  "cedar",  "delta",  "ember", "fjord", "grove",  "harbor", "island",  "juniper",
    "kelp",    "lagoon", "meadow", "north",  "ocean", "pine",  "quartz", "river",  "stone",   "timber",
    "upland",  "valley", "willow", "yarrow", "zinc",  "arbre", "canyon", "dune",   "estuary", "frost",
    "glacier", "heath",  "naïve",  "Straße", "日本",  "海",    "🌊",      "мост",   "café",    "ñandú",
};
#define WORDS (sizeof words / sizeof *words)

static uint64_t mix(uint64_t h, const void *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const unsigned char *)p)[i]) * 0x100000001b3ull;
    return h;
}

static uint64_t draw(uint64_t seed, uint64_t i) {
    uint64_t x = seed + (i + 1) * 0x9e3779b97f4a7c15ull; // splitmix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint64_t mix_content(uint64_t h, td_json *content) {
    if (yyjson_is_str(content))
        return mix(h, yyjson_get_str(content), yyjson_get_len(content));
    size_t i, max;
    td_json *part;
    yyjson_arr_foreach(content, i, max, part) {
        struct td_str text = td_json_get_str(part, "text");
        h = mix(h, text.p, text.n);
    }
    return h;
}

static struct td_str text_of(struct td_arena *arena, td_json *content) {
    if (yyjson_is_str(content))
        return td_json_str(content);
    struct td_buf b;
    size_t i, max;
    td_json *part;
    td_buf_init(&b, 1 << 20);
    yyjson_arr_foreach(content, i, max, part) if (td_buf_add_str(&b, td_json_get_str(part, "text")) != TD_OK) break;
    struct td_str text = td_arena_str(arena, td_buf_str(&b));
    td_buf_finish(&b);
    return text;
}

static const char *find(struct td_str s, const char *needle) {
    return s.n ? memmem(s.p, s.n, needle, strlen(needle)) : NULL;
}

static uint32_t wished_tokens(struct td_str prompt, uint32_t otherwise) {
    const char *at = find(prompt, "[tokens=");
    if (!at)
        return otherwise;
    unsigned long n = 0;
    for (const char *p = at + 8; p < prompt.p + prompt.n && *p >= '0' && *p <= '9'; p++)
        n = n * 10 + (unsigned long)(*p - '0');
    return n < 100000 ? (uint32_t)n : 100000;
}

// The whole text before any prefix, limit or stop string.
static struct td_str full_text(struct td_arena *arena, uint64_t seed, struct td_str prompt, uint32_t count,
                               struct td_buf *marks) {
    struct td_buf b;
    td_buf_init(&b, 8 << 20);
    const char *echo = find(prompt, "ECHO:");
    struct td_str source = echo ? td_str_n(echo + 5, prompt.n - (size_t)(echo + 5 - prompt.p)) : TD_STR_NONE;
    enum td_err err = TD_OK;
    for (uint32_t i = 0; err == TD_OK && (echo ? source.n > 0 : i < count); i++) {
        uint32_t at = (uint32_t)b.n;
        if (echo) { // a token is a run of spaces and the word behind it
            size_t n = 0;
            while (n < source.n && source.p[n] == ' ')
                n++;
            while (n < source.n && source.p[n] != ' ')
                n++;
            err = td_buf_add(&b, source.p, n);
            source = td_str_n(source.p + n, source.n - n);
        } else {
            uint64_t d = draw(seed, i);
            err = td_buf_printf(&b, "%s%s%s", i ? " " : "", words[d % WORDS], (d >> 32) % 9 == 0 ? "," : "");
        }
        if (err == TD_OK)
            err = td_buf_add(marks, &at, sizeof at);
    }
    struct td_str text = td_arena_str(arena, td_buf_str(&b));
    td_buf_finish(&b);
    return text;
}

static size_t first_stop(td_json *stop, struct td_str text) {
    size_t best = text.n, i, max;
    td_json *one;
    if (yyjson_is_str(stop)) {
        const char *at = yyjson_get_len(stop) ? find(text, yyjson_get_str(stop)) : NULL;
        return at ? (size_t)(at - text.p) : best;
    }
    yyjson_arr_foreach(stop, i, max, one) {
        const char *at = yyjson_is_str(one) && yyjson_get_len(one) ? find(text, yyjson_get_str(one)) : NULL;
        if (at && (size_t)(at - text.p) < best)
            best = (size_t)(at - text.p);
    }
    return best;
}

// Fills text and tokens: from `prefix` on, at most `limit` tokens (0 none), up to a stop string.
static bool make_text(struct td_arena *arena, const struct job *j, uint64_t seed, struct td_str prompt, uint32_t count,
                      struct td_str prefix, bool tail, uint32_t limit, struct answer *a) {
    struct td_buf marks;
    td_buf_init(&marks, 1 << 20);
    struct td_str text = full_text(arena, seed, prompt, count, &marks);
    const uint32_t *starts = (const uint32_t *)(const void *)marks.p;
    uint32_t whole = (uint32_t)(marks.n / sizeof *starts), used = 0;
    size_t from = 0;
    if (!tail && td_str_starts(text, prefix))
        from = prefix.n;
    else if (tail)
        for (size_t n = prefix.n < text.n ? prefix.n : text.n; n > 0 && !from; n--)
            if (memcmp(prefix.p + prefix.n - n, text.p, n) == 0)
                from = n;
    a->tokens = td_arena_array(arena, whole + 1, sizeof *a->tokens);
    a->text = td_str_n(text.p + from, text.n - from);
    a->finish = "stop";
    size_t end = first_stop(td_json_get(j->root, "stop"), a->text);
    for (uint32_t i = 0; a->tokens && i < whole; i++) {
        size_t at = starts[i], stop = i + 1 < whole ? starts[i + 1] : text.n;
        if (stop <= from)
            continue;
        at = at < from ? 0 : at - from;
        stop -= from;
        if (at >= end)
            break;
        if (limit && used == limit) {
            a->finish = "length";
            end = at;
            break;
        }
        a->tokens[used++] = (struct token){(uint32_t)at, (uint32_t)((stop < end ? stop : end) - at)};
    }
    a->token_count = used;
    a->text.n = end;
    td_buf_finish(&marks);
    return a->tokens && (text.p || !whole);
}

// Arguments made up from the schema's properties, so that they always fit it.
static struct td_str invent_arguments(struct td_arena *arena, uint64_t seed, td_json *schema) {
    struct td_buf b;
    td_buf_init(&b, 65536);
    enum td_err err = td_buf_addc(&b, '{');
    size_t i, max;
    td_json *key, *value;
    yyjson_obj_foreach(td_json_get(schema, "properties"), i, max, key, value) {
        struct td_str type = td_json_get_str(value, "type");
        uint64_t d = draw(seed, i);
        td_json *choices = td_json_get(value, "enum");
        err = err != TD_OK ? err : td_buf_printf(&b, "%s\"%s\":", i ? "," : "", yyjson_get_str(key));
        if (err == TD_OK && yyjson_arr_size(choices))
            err = td_json_write(yyjson_arr_get(choices, d % yyjson_arr_size(choices)), &b);
        else if (err == TD_OK && td_str_is(type, "integer"))
            err = td_buf_printf(&b, "%u", (unsigned)(d % 100));
        else if (err == TD_OK && td_str_is(type, "number"))
            err = td_buf_printf(&b, "%u.5", (unsigned)(d % 100));
        else if (err == TD_OK && td_str_is(type, "boolean"))
            err = td_buf_addz(&b, d & 1 ? "true" : "false");
        else if (err == TD_OK)
            err = td_buf_printf(&b, "\"%s\"", words[d % WORDS]);
    }
    err = err != TD_OK ? err : td_buf_addc(&b, '}');
    struct td_str out = err == TD_OK ? td_arena_str(arena, td_buf_str(&b)) : TD_STR_NONE;
    td_buf_finish(&b);
    return out;
}

// "TOOL:name {json}" (several, each on its line), or tool_choice required or named.
static void make_calls(struct td_arena *arena, const struct job *j, uint64_t seed, struct td_str prompt,
                       struct answer *a) {
    td_json *tools = td_json_get(j->root, "tools"), *choice = td_json_get(j->root, "tool_choice");
    if (!yyjson_arr_size(tools))
        return;
    const char *at = find(prompt, "TOOL:");
    while (at && a->call_count < 4) {
        const char *end = prompt.p + prompt.n, *name = at + 5, *p = name;
        while (p < end && *p != ' ' && *p != '\n')
            p++;
        const char *line = memchr(p, '\n', (size_t)(end - p));
        struct td_str rest = td_str_trim(td_str_n(p, (size_t)((line ? line : end) - p)));
        a->calls[a->call_count].name = td_str_n(name, (size_t)(p - name));
        a->calls[a->call_count++].arguments = rest.n ? rest : TD_STR("{}");
        at = line ? memmem(line, (size_t)(end - line), "TOOL:", 5) : NULL;
    }
    td_json *named = td_json_get(choice, "function");
    if (!a->call_count && (named || (yyjson_is_str(choice) && td_str_is(td_json_str(choice), "required")))) {
        td_json *tool = yyjson_arr_get_first(tools);
        size_t i, max;
        td_json *one;
        yyjson_arr_foreach(tools, i, max,
                           one) if (named && td_str_eq(td_json_get_str(td_json_get(one, "function"), "name"),
                                                       td_json_get_str(named, "name"))) tool = one;
        td_json *function = td_json_get(tool, "function");
        a->calls[0].name = td_json_get_str(function, "name");
        a->calls[0].arguments = invent_arguments(arena, seed, td_json_get(function, "parameters"));
        a->call_count = 1;
    }
    if (a->call_count) {
        a->finish = "tool_calls";
        a->token_count = 0;
        a->text.n = 0;
    }
}

static bool read_chat(struct td_arena *arena, struct job *j, uint32_t tokens, uint32_t limit, const char *say,
                      char why[128]) {
    td_json *messages = td_json_get(j->root, "messages"), *one;
    size_t count = yyjson_arr_size(messages), i, max;
    uint64_t seed = 0xcbf29ce484222325ull;
    struct td_str prompt = TD_STR_NONE, prefix = TD_STR_NONE;
    if (!count) {
        snprintf(why, 128, "'messages' must be a non-empty array");
        return false;
    }
    td_json *last = yyjson_arr_get(messages, count - 1);
    j->ends_with_assistant = td_str_is(td_json_get_str(last, "role"), "assistant") && !td_json_get(last, "tool_calls");
    yyjson_arr_foreach(messages, i, max, one) {
        if (j->ends_with_assistant && i + 1 == count) {
            prefix = text_of(arena, td_json_get(one, "content"));
            break;
        }
        struct td_str role = td_json_get_str(one, "role");
        seed = mix_content(mix(seed, role.p, role.n), td_json_get(one, "content"));
        if (td_str_is(role, "user"))
            prompt = text_of(arena, td_json_get(one, "content"));
    }
    td_json *format = td_json_get(j->root, "response_format");
    if (format && !td_str_is(td_json_get_str(format, "type"), "text") && !find(prompt, "ECHO:"))
        prompt = TD_STR("ECHO:{\"answer\": \"forty-two\", \"sure\": true}");
    if (say[0])
        prompt = td_arena_printf(arena, "ECHO:%s", say);
    tokens = wished_tokens(prompt, tokens);
    for (uint32_t c = 0; c < j->n; c++) {
        if (!make_text(arena, j, c ? draw(seed, c + 1000) : seed, prompt, tokens, prefix, false, limit, &j->answers[c]))
            return false;
        make_calls(arena, j, seed, prompt, &j->answers[c]);
    }
    return true;
}

static bool read_completion(struct td_arena *arena, struct job *j, uint32_t tokens, uint32_t limit, char why[128]) {
    td_json *value = td_json_get(j->root, "prompt");
    if (yyjson_is_arr(value))
        value = yyjson_arr_get_first(value);
    if (!yyjson_is_str(value)) {
        snprintf(why, 128, "'prompt' must be a string");
        return false;
    }
    struct td_str prompt = td_json_str(value);
    uint64_t seed = mix(0xcbf29ce484222325ull, prompt.p, prompt.n < 16 ? prompt.n : 16);
    for (uint32_t c = 0; c < j->n; c++)
        if (!make_text(arena, j, c ? draw(seed, c + 1000) : seed, TD_STR_NONE, wished_tokens(prompt, tokens), prompt,
                       true, limit, &j->answers[c]))
            return false;
    return true;
}

bool job_read(struct td_arena *arena, enum job_kind kind, struct td_str body, uint32_t tokens, const char *say,
              struct job *j, char why[128]) {
    struct td_error e;
    *j = (struct job){.kind = kind, .n = 1};
    snprintf(why, 128, "bad request");
    if (td_json_parse(arena, body, TD_JSON_DEPTH_MAX, &j->root, &e) != TD_OK || !yyjson_is_obj(j->root)) {
        snprintf(why, 128, "the body is not a JSON object");
        return false;
    }
    struct td_str model = td_json_get_str(j->root, "model");
    snprintf(j->model, sizeof j->model, "%.*s", TD_STR_ARG(model));
    j->stream = td_json_get_bool(j->root, "stream", false);
    j->include_usage = td_json_get_bool(td_json_get(j->root, "stream_options"), "include_usage", false);
    td_json *logprobs = td_json_get(j->root, "logprobs");
    j->logprobs = yyjson_is_true(logprobs) || yyjson_is_int(logprobs);
    j->top_logprobs =
        (uint32_t)td_json_get_int(j->root, "top_logprobs", yyjson_is_int(logprobs) ? yyjson_get_int(logprobs) : 0);
    int64_t n = td_json_get_int(j->root, "n", 1);
    j->n = n < 1 ? 1 : n > 8 ? 8 : (uint32_t)n;
    j->prompt_tokens = (uint32_t)(body.n / 4 + 1);
    int64_t limit = td_json_get_int(j->root, "max_completion_tokens", td_json_get_int(j->root, "max_tokens", 0));
    if (limit < 0) {
        snprintf(why, 128, "'max_tokens' must not be negative");
        return false;
    }
    switch (kind) {
    case JOB_CHAT:
        return read_chat(arena, j, tokens, (uint32_t)limit, say, why);
    case JOB_COMPLETION:
        return read_completion(arena, j, tokens, (uint32_t)limit, why);
    case JOB_EMBEDDINGS:
        return td_json_get(j->root, "input") != NULL;
    }
    return false;
}

static double logprob_of(struct td_str text, uint32_t rank) {
    return -(double)(mix(0xcbf29ce484222325ull, text.p, text.n) % 200) / 100.0 - 0.7 * rank;
}

static enum td_err add_logprob(const struct job *j, struct td_str text, struct td_buf *out) {
    enum td_err err = td_buf_addz(out, "{\"token\":");
    err = err ? err : td_buf_add_json(out, text);
    err = err ? err : td_buf_printf(out, ",\"logprob\":%.4f,\"bytes\":null,\"top_logprobs\":[", logprob_of(text, 0));
    for (uint32_t i = 0; !err && i < j->top_logprobs; i++) {
        struct td_str other = i ? td_str_of(words[(text.n + i) % WORDS]) : text;
        err = td_buf_addz(out, i ? ",{\"token\":" : "{\"token\":");
        err = err ? err : td_buf_add_json(out, other);
        err = err ? err : td_buf_printf(out, ",\"logprob\":%.4f,\"bytes\":null}", logprob_of(text, i));
    }
    return err ? err : td_buf_addz(out, "]}");
}

static struct td_str token_text(const struct answer *a, uint32_t i) {
    return td_str_n(a->text.p + a->tokens[i].at, a->tokens[i].n);
}

static enum td_err open_chunk(const struct job *j, const char *id, uint32_t choice, struct td_buf *out) {
    return td_buf_printf(out,
                         "{\"id\":\"%s\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"%s\",\"choices\":[{"
                         "\"index\":%u,",
                         id, j->kind == JOB_CHAT ? "chat.completion.chunk" : "text_completion", j->model, choice);
}

enum td_err job_chunk_role(const struct job *j, const char *id, uint32_t choice, struct td_buf *out) {
    enum td_err err = open_chunk(j, id, choice, out);
    return err ? err
               : td_buf_addz(out, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}");
}

enum td_err job_chunk(const struct job *j, const char *id, uint32_t choice, uint32_t i, struct td_buf *out) {
    struct td_str text = token_text(&j->answers[choice], i);
    char now[32];
    if (j->stamp)
        text = td_str_n(now, (size_t)snprintf(now, sizeof now, "@%llu ", (unsigned long long)td_now_ns()));
    enum td_err err = open_chunk(j, id, choice, out);
    err = err ? err : td_buf_addz(out, j->kind == JOB_CHAT ? "\"delta\":{\"content\":" : "\"text\":");
    err = err ? err : td_buf_add_json(out, text);
    err = err ? err : td_buf_addz(out, j->kind == JOB_CHAT ? "}," : ",");
    if (!err && j->logprobs && j->kind == JOB_CHAT) {
        err = td_buf_addz(out, "\"logprobs\":{\"content\":[");
        err = err ? err : add_logprob(j, text, out);
        err = err ? err : td_buf_addz(out, "]},");
    } else if (!err && j->logprobs) {
        err = td_buf_addz(out, "\"logprobs\":{\"tokens\":[");
        err = err ? err : td_buf_add_json(out, text);
        err = err ? err : td_buf_printf(out, "],\"token_logprobs\":[%.4f]},", logprob_of(text, 0));
    }
    return err ? err : td_buf_addz(out, "\"finish_reason\":null}]}");
}

enum td_err job_chunk_call(const struct job *j, const char *id, uint32_t choice, uint32_t call, uint32_t piece,
                           struct td_buf *out) {
    const struct answer *a = &j->answers[choice];
    struct td_str arguments = a->calls[call].arguments;
    enum td_err err = open_chunk(j, id, choice, out);
    err = err ? err : td_buf_printf(out, "\"delta\":{\"tool_calls\":[{\"index\":%u,", call);
    if (!err && piece == 0)
        err = td_buf_printf(out,
                            "\"id\":\"call_%s_%u\",\"type\":\"function\",\"function\":{\"name\":\"%.*s\","
                            "\"arguments\":\"\"}",
                            id, call, TD_STR_ARG(a->calls[call].name));
    else if (!err) {
        size_t from = arguments.n * (piece - 1) / (CALL_PIECES - 1), to = arguments.n * piece / (CALL_PIECES - 1);
        from = td_str_utf8_whole(td_str_n(arguments.p, from));
        to = td_str_utf8_whole(td_str_n(arguments.p, to));
        err = td_buf_addz(out, "\"function\":{\"arguments\":");
        err = err ? err : td_buf_add_json(out, td_str_n(arguments.p + from, to - from));
        err = err ? err : td_buf_addc(out, '}');
    }
    return err ? err : td_buf_addz(out, "}]},\"finish_reason\":null}]}");
}

enum td_err job_chunk_finish(const struct job *j, const char *id, uint32_t choice, const char *finish,
                             struct td_buf *out) {
    enum td_err err = open_chunk(j, id, choice, out);
    return err ? err
               : td_buf_printf(out, "%s,\"finish_reason\":\"%s\"}]}",
                               j->kind == JOB_CHAT ? "\"delta\":{}" : "\"text\":\"\"",
                               finish ? finish : j->answers[choice].finish);
}

static enum td_err add_usage(const struct job *j, uint32_t completion_tokens, struct td_buf *out) {
    return td_buf_printf(out, "\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u}",
                         j->prompt_tokens, completion_tokens, j->prompt_tokens + completion_tokens);
}

enum td_err job_chunk_usage(const struct job *j, const char *id, uint32_t completion_tokens, struct td_buf *out) {
    enum td_err err =
        td_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"%s\",\"choices\":[],",
                      id, j->kind == JOB_CHAT ? "chat.completion.chunk" : "text_completion", j->model);
    err = err ? err : add_usage(j, completion_tokens, out);
    return err ? err : td_buf_addc(out, '}');
}

static enum td_err add_whole_choice(const struct job *j, const char *id, uint32_t c, const char *finish,
                                    struct td_buf *out) {
    const struct answer *a = &j->answers[c];
    enum td_err err = td_buf_printf(out, "%s{\"index\":%u,", c ? "," : "", c);
    if (j->kind == JOB_COMPLETION) {
        err = err ? err : td_buf_addz(out, "\"text\":");
        err = err ? err : td_buf_add_json(out, a->text);
    } else {
        err = err ? err : td_buf_addz(out, "\"message\":{\"role\":\"assistant\",\"content\":");
        err = err ? err : a->call_count ? td_buf_addz(out, "null") : td_buf_add_json(out, a->text);
        for (uint32_t i = 0; !err && i < a->call_count; i++) {
            err = td_buf_printf(out,
                                "%s{\"id\":\"call_%s_%u\",\"type\":\"function\",\"function\":{\"name\":\"%.*s\","
                                "\"arguments\":",
                                i ? "," : ",\"tool_calls\":[", id, i, TD_STR_ARG(a->calls[i].name));
            err = err ? err : td_buf_add_json(out, a->calls[i].arguments);
            err = err ? err : td_buf_addz(out, i + 1 < a->call_count ? "}}" : "}}]");
        }
        err = err ? err : td_buf_addc(out, '}');
        for (uint32_t i = 0; !err && j->logprobs && i < a->token_count; i++) {
            err = td_buf_addz(out, i ? "," : ",\"logprobs\":{\"content\":[");
            err = err ? err : add_logprob(j, token_text(a, i), out);
        }
        if (!err && j->logprobs && a->token_count)
            err = td_buf_addz(out, "]}");
    }
    return err ? err : td_buf_printf(out, ",\"finish_reason\":\"%s\"}", finish ? finish : a->finish);
}

enum td_err job_whole(const struct job *j, const char *id, const char *finish, bool usage, struct td_buf *out) {
    uint32_t tokens = 0;
    enum td_err err =
        td_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"%s\",\"choices\":[", id,
                      j->kind == JOB_CHAT ? "chat.completion" : "text_completion", j->model);
    for (uint32_t c = 0; !err && c < j->n; c++) {
        err = add_whole_choice(j, id, c, finish, out);
        tokens += j->answers[c].call_count ? j->answers[c].call_count * 8 : j->answers[c].token_count;
    }
    err = err ? err : td_buf_addz(out, usage ? "]," : "]}");
    err = err || !usage ? err : add_usage(j, tokens, out);
    return err || !usage ? err : td_buf_addc(out, '}');
}

static enum td_err add_vector(const struct job *j, struct td_str text, uint32_t index, struct td_buf *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t dimensions = (uint32_t)td_json_get_int(j->root, "dimensions", 8);
    float values[2048] = {0};
    dimensions = dimensions < 1 ? 1 : dimensions > 2048 ? 2048 : dimensions;
    uint64_t seed = mix(0xcbf29ce484222325ull, text.p, text.n);
    for (uint32_t i = 0; i < dimensions; i++)
        values[i] = (float)((double)(draw(seed, i) % 20001) / 10000.0 - 1.0);
    enum td_err err =
        td_buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", index ? "," : "", index);
    if (!td_str_is(td_json_get_str(j->root, "encoding_format"), "base64")) {
        for (uint32_t i = 0; !err && i < dimensions; i++)
            err = td_buf_printf(out, "%s%.7g", i ? "," : "[", (double)values[i]);
        return err ? err : td_buf_addz(out, "]}");
    }
    const unsigned char *p = (const unsigned char *)values;
    size_t n = dimensions * sizeof *values;
    err = err ? err : td_buf_addc(out, '"');
    for (size_t i = 0; !err && i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        char four[4] = {digits[v >> 18], digits[v >> 12 & 63], i + 1 < n ? digits[v >> 6 & 63] : '=',
                        i + 2 < n ? digits[v & 63] : '='};
        err = td_buf_add(out, four, 4);
    }
    return err ? err : td_buf_addz(out, "\"}");
}

enum td_err job_embeddings(const struct job *j, struct td_buf *out) {
    td_json *input = td_json_get(j->root, "input"), *one;
    size_t i, max;
    enum td_err err = td_buf_printf(out, "{\"object\":\"list\",\"model\":\"%s\",\"data\":[", j->model);
    if (!err && yyjson_is_str(input))
        err = add_vector(j, td_json_str(input), 0, out);
    yyjson_arr_foreach(input, i, max, one) if (!err) err = add_vector(j, td_json_str(one), (uint32_t)i, out);
    return err ? err
               : td_buf_printf(out, "],\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u}}", j->prompt_tokens,
                               j->prompt_tokens);
}
