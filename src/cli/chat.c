// SPDX-License-Identifier: Apache-2.0
#include "cli/chat.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/limits.h"
#include "base/time.h"
#include "base/wait.h"
#include "cli/cli.h"

#define SIGNAL_LOOK_MS 50u // how soon Ctrl-C is noticed

struct td_chat_session {
    bool daemon;
    struct td_runtime *runtime;
};

static atomic_bool interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    atomic_store(&interrupted, true);
}

void td_chat_interrupt(void) {
    atomic_store(&interrupted, true);
}

static bool on_nothing(void *user, const char *data, size_t length) {
    (void)user, (void)data, (void)length;
    return true;
}

struct td_chat_session *td_chat_session_open(struct td_failure *failure) {
    struct td_chat_session *s = td_calloc(1, sizeof *s);
    int status = 0;
    if (!s)
        return NULL;
    if (td_daemon_request(td_cli_data_dir(), "GET", "/healthz", "", 0, on_nothing, NULL, &status, failure) == 0) {
        s->daemon = true;
        return s;
    }
    struct td_options options;
    td_cli_options(&options);
    options.workers = 1;
    options.log = td_cli.verbose ? TD_LOG_VERBOSE : TD_LOG_QUIET; // the screen belongs to the answer
    if (td_runtime_open(&options, &s->runtime, failure) != 0) {
        td_free(s);
        return NULL;
    }
    return s;
}

void td_chat_session_close(struct td_chat_session *s) {
    if (!s)
        return;
    td_runtime_close(s->runtime);
    td_free(s);
}

// A zero-terminated copy in the arena; "" where there is none.
static const char *z(struct td_arena *arena, struct td_str s) {
    struct td_str copy = td_arena_str(arena, s);
    return copy.p ? copy.p : "";
}

struct pending_tool {
    struct td_buf arguments;
    char id[128], name[128];
};

// The daemon's stream: server-sent events, one JSON chunk each (docs/protocol.md).
struct stream {
    td_answer_fn on_answer;
    void *user;
    struct td_buf line, error_body;
    struct pending_tool tools[16];
    unsigned tool_count;
    struct td_arena arena; // strings of the answer so far
    struct td_answer now;
    bool begun, ended, failed;
};

static void emit(struct stream *s, enum td_answer_type type) {
    s->now.type = type;
    s->on_answer(s->user, &s->now);
    s->now.text = "";
    s->now.text_length = 0;
}

static void fail_with(struct stream *s, const char *code, const char *message) {
    if (s->ended)
        return;
    s->ended = s->failed = true;
    s->now.code = code;
    s->now.text = message;
    s->now.text_length = strlen(message);
    emit(s, TD_ANSWER_ERROR);
}

static void read_tandem(struct stream *s, td_json *t) {
    static const struct {
        const char *key;
        size_t offset;
    } texts[] = {{"exchange", offsetof(struct td_answer, exchange)},
                 {"target", offsetof(struct td_answer, target)},
                 {"tier", offsetof(struct td_answer, tier)},
                 {"model", offsetof(struct td_answer, model)},
                 {"reason", offsetof(struct td_answer, reason)}};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct td_str v = td_json_get_str(t, texts[i].key);
        if (v.n)
            *(const char **)((char *)&s->now + texts[i].offset) = z(&s->arena, v);
    }
    td_json *origin = td_json_get(t, "origin");
    if (origin)
        read_tandem(s, origin);
    s->now.degraded = td_json_get_bool(t, "degraded", s->now.degraded);
    s->now.queued = td_json_get_bool(t, "queued", s->now.queued);
    s->now.confidence = td_json_get_num(t, "confidence", s->now.confidence);
    double usd = td_json_get_num(t, "cost_usd", NAN);
    if (!isnan(usd))
        s->now.cost_nusd = (int64_t)llround(usd * 1e9);
    s->now.revision = (unsigned)td_json_get_int(t, "revision", s->now.revision);
}

static void read_tools(struct stream *s, td_json *calls) {
    size_t i, n;
    td_json *call;
    yyjson_arr_foreach(calls, i, n, call) {
        int64_t index = td_json_get_int(call, "index", 0);
        if (index < 0 || index >= 16)
            continue;
        struct pending_tool *tool = &s->tools[index];
        if ((unsigned)index >= s->tool_count) {
            s->tool_count = (unsigned)index + 1;
            td_buf_init(&tool->arguments, 1 << 20);
        }
        td_json *function = td_json_get(call, "function");
        struct td_str id = td_json_get_str(call, "id"), name = td_json_get_str(function, "name");
        if (id.n)
            snprintf(tool->id, sizeof tool->id, "%.*s", TD_STR_ARG(id));
        if (name.n)
            snprintf(tool->name, sizeof tool->name, "%.*s", TD_STR_ARG(name));
        if (td_buf_add_str(&tool->arguments, td_json_get_str(function, "arguments")) != TD_OK)
            fail_with(s, "tandem.internal.memory", "out of memory");
    }
}

static void finish_tools(struct stream *s) {
    for (unsigned i = 0; i < s->tool_count; i++) {
        s->now.call_id = s->tools[i].id;
        s->now.name = s->tools[i].name;
        s->now.arguments = td_buf_z(&s->tools[i].arguments);
        if (!s->now.arguments)
            s->now.arguments = "";
        emit(s, TD_ANSWER_TOOL_CALL);
    }
    s->now.call_id = s->now.name = s->now.arguments = "";
}

// What a revision replaces is void, its tool calls too.
static void forget_tools(struct stream *s) {
    for (unsigned i = 0; i < s->tool_count; i++) {
        td_buf_finish(&s->tools[i].arguments);
        s->tools[i] = (struct pending_tool){0};
    }
    s->tool_count = 0;
}

static void on_chunk(struct stream *s, td_json *root) {
    td_json *error = td_json_get(root, "error"), *tandem = td_json_get(root, "tandem");
    if (error) {
        if (tandem)
            read_tandem(s, tandem);
        struct td_str code = td_json_get_str(error, "code");
        fail_with(s, z(&s->arena, code), z(&s->arena, td_json_get_str(error, "message")));
        return;
    }
    struct td_str model = td_json_get_str(root, "model");
    if (model.n && !s->begun)
        s->now.model = z(&s->arena, model);
    if (tandem)
        read_tandem(s, tandem);
    if (!s->begun) {
        s->begun = true;
        emit(s, TD_ANSWER_BEGIN);
    }
    td_json *choice = yyjson_arr_get(td_json_get(root, "choices"), 0), *delta = td_json_get(choice, "delta");
    struct td_str text = td_json_get_str(delta, "content"), op = td_json_get_str(tandem, "op");
    bool replaces = td_str_is(op, "replace");
    if (replaces)
        forget_tools(s);
    read_tools(s, td_json_get(delta, "tool_calls"));
    if (replaces && td_json_get(tandem, "text"))
        text = td_json_get_str(tandem, "text");
    if (text.n || replaces) {
        s->now.text = text.p ? text.p : "";
        s->now.text_length = text.n;
        emit(s, replaces ? TD_ANSWER_REVISION : TD_ANSWER_TEXT);
    }
    struct td_str finish = td_json_get_str(choice, "finish_reason");
    if (finish.n)
        s->now.finish = z(&s->arena, finish);
    td_json *usage = td_json_get(root, "usage");
    if (usage) {
        s->now.prompt_tokens = (unsigned)td_json_get_int(usage, "prompt_tokens", 0);
        s->now.completion_tokens = (unsigned)td_json_get_int(usage, "completion_tokens", 0);
    }
}

static void on_line(struct stream *s, struct td_str line) {
    struct td_arena arena;
    td_json *root;
    if (!td_str_starts(line, TD_STR("data:")))
        return;
    line = td_str_trim(td_str_n(line.p + 5, line.n - 5));
    if (td_str_is(line, "[DONE]")) {
        if (!s->ended) {
            s->ended = true;
            finish_tools(s);
            emit(s, TD_ANSWER_END);
        }
        return;
    }
    td_arena_init(&arena, 16 << 20);
    if (td_json_parse(&arena, line, TD_JSON_DEPTH_MAX, &root, NULL) == TD_OK)
        on_chunk(s, root);
    td_arena_finish(&arena);
}

static bool on_bytes(void *user, const char *data, size_t length) {
    struct stream *s = user;
    if (td_buf_add(&s->error_body, data, s->error_body.n + length < 65536 ? length : 0) != TD_OK)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (data[i] != '\n') {
            if (td_buf_addc(&s->line, data[i]) != TD_OK)
                return false;
            continue;
        }
        on_line(s, td_buf_str(&s->line));
        td_buf_clear(&s->line);
    }
    return !atomic_load(&interrupted) && !s->failed;
}

static bool ask_daemon(struct td_str body, td_answer_fn on_answer, void *user) {
    struct stream s = {.on_answer = on_answer, .user = user};
    struct td_failure failure = {"", ""};
    int status = 0;
    s.now = (struct td_answer){.text = "",
                               .call_id = "",
                               .name = "",
                               .arguments = "",
                               .finish = "",
                               .code = "",
                               .exchange = "",
                               .target = "",
                               .tier = "",
                               .model = "",
                               .reason = "",
                               .confidence = NAN};
    td_arena_init(&s.arena, 16 << 20);
    td_buf_init(&s.line, TD_SSE_LINE_BYTES_MAX);
    td_buf_init(&s.error_body, 65536);
    int failed = td_daemon_request(td_cli_data_dir(), "POST", "/v1/chat/completions", body.p, body.n, on_bytes, &s,
                                   &status, &failure);
    if (atomic_load(&interrupted))
        fail_with(&s, "tandem.cancelled", "cancelled");
    else if (failed)
        fail_with(&s, failure.code, failure.message);
    else if (status != 200) {
        td_json *root;
        if (td_json_parse(&s.arena, td_buf_str(&s.error_body), 8, &root, NULL) == TD_OK)
            on_chunk(&s, root);
        fail_with(&s, "tandem.internal.error", "the daemon refused the request");
    } else if (!s.ended)
        fail_with(&s, "tandem.upstream.cut", "the stream ended before the answer did");
    forget_tools(&s);
    td_buf_finish(&s.line);
    td_buf_finish(&s.error_body);
    td_arena_finish(&s.arena);
    return !s.failed;
}

struct wait {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done, failed;
    td_answer_fn on_answer;
    void *user;
};

static void on_own_answer(void *user, const struct td_answer *answer) {
    struct wait *w = user;
    w->on_answer(w->user, answer);
    if (answer->type == TD_ANSWER_END || answer->type == TD_ANSWER_ERROR) {
        pthread_mutex_lock(&w->lock);
        w->done = true;
        w->failed = answer->type == TD_ANSWER_ERROR;
        pthread_cond_signal(&w->cond);
        pthread_mutex_unlock(&w->lock);
    }
}

static bool ask_runtime(struct td_runtime *runtime, struct td_str body, td_answer_fn on_answer, void *user) {
    struct wait w = {.lock = PTHREAD_MUTEX_INITIALIZER, .on_answer = on_answer, .user = user};
    td_wait_init(&w.cond);
    struct td_failure failure;
    struct td_call *call = NULL;
    if (td_chat(runtime, body.p, body.n, NULL, on_own_answer, &w, &call, &failure) != 0) {
        pthread_cond_destroy(&w.cond);
        td_cli_failure(&failure);
        return false;
    }
    pthread_mutex_lock(&w.lock);
    while (!w.done) {
        td_wait_until(&w.cond, &w.lock, td_now_ns() + SIGNAL_LOOK_MS * TD_MS_NS);
        if (atomic_exchange(&interrupted, false)) {
            pthread_mutex_unlock(&w.lock);
            td_call_cancel(call);
            pthread_mutex_lock(&w.lock);
        }
    }
    pthread_mutex_unlock(&w.lock);
    td_call_release(call);
    pthread_cond_destroy(&w.cond);
    return !w.failed;
}

bool td_chat_session_ask(struct td_chat_session *s, struct td_str body, td_answer_fn on_answer, void *user) {
    struct sigaction action = {.sa_handler = on_interrupt}, before;
    atomic_store(&interrupted, false);
    sigaction(SIGINT, &action, &before);
    bool ok = s->daemon ? ask_daemon(body, on_answer, user) : ask_runtime(s->runtime, body, on_answer, user);
    sigaction(SIGINT, &before, NULL);
    return ok;
}

static enum td_err add_tools(struct td_buf *b, struct td_str text) {
    struct td_arena arena;
    td_json *root;
    td_arena_init(&arena, 32 << 20);
    enum td_err err = td_json_parse(&arena, text, 32, &root, NULL);
    td_json *tools = err != TD_OK ? NULL : yyjson_is_obj(root) ? td_json_get(root, "tools") : root;
    if (err == TD_OK)
        err = yyjson_is_arr(tools) ? td_buf_addz(b, ",\"tools\":") : TD_ERR_BAD_JSON;
    if (err == TD_OK)
        err = td_json_write(tools, b);
    td_arena_finish(&arena);
    return err;
}

enum td_err td_chat_add_tools(struct td_buf *b, const char *tools_file, struct td_error *e) {
    char *found = tools_file ? NULL : td_resource_path("catalogue.json");
    struct td_buf text;
    enum td_err err = TD_OK;
    td_buf_init(&text, 4 << 20);
    if (tools_file || found) {
        const char *path = tools_file ? tools_file : found;
        err = td_cli_read_file(path, &text);
        if (err == TD_ERR_IO)
            td_error_set(e, err, "%s: %m", path);
        if (err == TD_OK && (err = add_tools(b, td_buf_str(&text))) == TD_ERR_BAD_JSON)
            td_error_set(e, err, "%s is no list of tools in JSON", path);
    }
    td_buf_finish(&text);
    td_string_free(found);
    return err;
}
