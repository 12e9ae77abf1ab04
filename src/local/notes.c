// SPDX-License-Identifier: Apache-2.0
#include "local/inside.h"

#include <unistd.h>

struct note {
    struct td_hub *hub;
    unsigned worker;
};

void td_manager_wake(struct td_manager *m) {
    uint64_t one = 1;
    ssize_t put = write(m->wake_fd, &one, sizeof one);
    (void)put; // a full eventfd is readable already
}

void td_hub_release(struct td_hub *hub) {
    bool last = --hub->counts == 0;
    pthread_mutex_unlock(&hub->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&hub->lock);
    td_free(hub);
}

static void on_note(void *arg) {
    struct note *note = arg;
    struct td_hub *hub = note->hub;
    pthread_mutex_lock(&hub->lock);
    struct td_hub_worker w = hub->workers[note->worker];
    hub->workers[note->worker].noted = false;
    td_hub_release(hub);
    if (w.fn)
        w.fn(w.arg); // detach runs on this thread too, so it cannot have gone meanwhile
    td_free(note);
}

void td_manager_note(struct td_manager *m) {
    struct td_hub *hub = m->hub;
    pthread_mutex_lock(&hub->lock);
    for (unsigned i = 0; i < m->worker_count; i++) {
        struct td_hub_worker *w = &hub->workers[i];
        if (!w->fn || w->noted)
            continue;
        struct note *note = td_malloc(sizeof *note);
        if (note) {
            *note = (struct note){hub, i};
            w->noted = td_loop_post(w->loop, on_note, note) == TD_OK;
        }
        if (w->noted) {
            hub->counts++;
        } else {
            td_free(note);
            m->note_again = true; // no memory now: the thread tries again soon, or attempts would wait for ever
        }
    }
    pthread_mutex_unlock(&hub->lock);
}

enum td_err td_manager_attach(struct td_manager *m, unsigned worker, struct td_loop *loop, void (*fn)(void *arg),
                              void *arg) {
    if (worker >= m->worker_count)
        return TD_ERR_USAGE;
    pthread_mutex_lock(&m->hub->lock);
    bool free_place = m->hub->workers[worker].fn == NULL;
    if (free_place)
        m->hub->workers[worker] = (struct td_hub_worker){loop, fn, arg, false};
    pthread_mutex_unlock(&m->hub->lock);
    return free_place ? TD_OK : TD_ERR_USAGE;
}

void td_manager_detach(struct td_manager *m, unsigned worker) {
    pthread_mutex_lock(&m->hub->lock);
    m->hub->workers[worker].fn = NULL;
    pthread_mutex_unlock(&m->hub->lock);
}
