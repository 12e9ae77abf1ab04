// SPDX-License-Identifier: Apache-2.0
// While the model loads on one core, another makes ready what a first chat needs: the chat template, read from the
// file's head, and the parser and grammar for the tools that requests are likely to bring.
//
// Invariants. The thread sets `early` before `known`, and nobody sets it again. g->templates is set before `settled`:
// by the door, which adopts the early templates, or by the thread, which makes others from the model where there are no
// early ones or the model is found to have others. Turns wait for what is still being prepared then (chat.cpp).
#include "host/guest.h"

#include <fcntl.h>
#include <unistd.h>

#include "local/gguf.h"

static struct {
    int file; // the thread's own descriptor of the model
    struct td_str tools;
    pthread_mutex_t lock; // guards what follows
    pthread_cond_t changed;
    bool known, loaded, refused, settled;
    struct host_templates *early;
} p = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void set(bool *flag) {
    pthread_mutex_lock(&p.lock);
    *flag = true;
    pthread_cond_broadcast(&p.changed);
    pthread_mutex_unlock(&p.lock);
}

static void wait_for(const bool *flag, const bool *or_flag) {
    pthread_mutex_lock(&p.lock);
    while (!*flag && !*or_flag)
        pthread_cond_wait(&p.changed, &p.lock);
    pthread_mutex_unlock(&p.lock);
}

// A file without a template, or whose template takes more than its text, is left to the model.
static struct host_templates *read_early(void) {
    struct td_gguf_chat chat;
    struct td_error e = {TD_OK, ""};
    enum td_err err = td_gguf_chat_read(p.file, &chat, &e);
    close(p.file);
    if (err)
        return NULL; // libllama will say why
    struct host_templates *t = chat.plain ? host_templates_early(td_buf_str(&chat.text)) : NULL;
    td_buf_finish(&chat.text);
    return t;
}

static void expect_tools(struct host_templates *t) {
    struct td_arena arena;
    struct td_str tools;
    struct td_error e = {TD_OK, ""};
    td_arena_init(&arena, 64 * (size_t)TD_PROTO_PREPARE_BYTES_MAX);
    if (t && p.tools.n && host_tools_read(&arena, p.tools, &tools, &e) == TD_OK)
        host_templates_expect(t, tools);
    td_arena_finish(&arena);
}

static void *run(void *arg) {
    struct host_guest *g = arg;
    timer_t watchdog = host_watchdog_create();
    host_watchdog_arm(watchdog, true);
    p.early = read_early();
    expect_tools(p.early);
    set(&p.known);
    if (p.early)
        host_templates_prepare(p.early);
    wait_for(p.early ? &p.refused : &p.loaded, &p.settled);
    if (g->templates != p.early)
        host_templates_destroy(p.early);
    if (!p.settled) {
        g->templates = host_templates_create(g->model, "", &g->templates_error);
        expect_tools(g->templates);
        set(&p.settled);
        if (g->templates)
            host_templates_prepare(g->templates);
    }
    timer_delete(watchdog);
    return NULL;
}

bool host_prepare_start(struct host_guest *g, struct td_str tools) {
    pthread_t thread;
    p.file = fcntl(HOST_FILE_MODEL, F_DUPFD_CLOEXEC, 0); // the other is closed when the model is loaded
    p.tools = tools;
    return pthread_create(&thread, NULL, run, g) == 0 && pthread_detach(thread) == 0;
}

void host_prepare_loaded(void) {
    set(&p.loaded);
}

void host_prepare_settle(struct host_guest *g, bool chats) {
    wait_for(&p.known, &p.known);
    bool ours = p.early && host_templates_adopt(p.early, g->model);
    if (ours && chats)
        g->templates = p.early;
    set(ours || !chats ? &p.settled : &p.refused);
    wait_for(&p.settled, &p.settled);
}
