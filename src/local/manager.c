// SPDX-License-Identifier: Apache-2.0
#include "local/inside.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/part_name.h"
#include "base/time.h"

#define STRIKES_MAX 2u        // a prompt that ended its guest so often is not tried again
#define END_WAIT_MS_MAX 250u  // how a guest ended is known in a few; nobody who could ask elsewhere waits longer
#define CONTEXT_DEFAULT 8192u // where the target states none and the model was trained for more

// ---- prompts that end guests

static uint64_t with_model(const struct td_model *model, uint64_t prompt) {
    return prompt ^ (model->number * 0x9E3779B97F4A7C15ull);
}

static bool is_quarantined(struct td_manager *m, const struct td_model *model, uint64_t body) {
    uint64_t prompt = with_model(model, body);
    for (uint32_t i = 0; i < QUARANTINE_MAX; i++)
        if (m->quarantine[i].strikes >= STRIKES_MAX && m->quarantine[i].prompt == prompt)
            return true;
    return false;
}

void td_manager_strike(struct td_manager *m, const struct td_model *model, uint64_t body) {
    uint64_t prompt = with_model(model, body);
    for (uint32_t i = 0; i < QUARANTINE_MAX; i++)
        if (m->quarantine[i].strikes && m->quarantine[i].prompt == prompt) {
            m->quarantine[i].strikes++;
            return;
        }
    m->quarantine[m->quarantine_next].prompt = prompt;
    m->quarantine[m->quarantine_next].strikes = 1;
    m->quarantine_next = (m->quarantine_next + 1) % QUARANTINE_MAX;
}

// Keyed, so that nobody can aim at another's prompt.
uint64_t td_manager_prompt(const struct td_manager *m, struct td_str body) {
    return td_siphash(m->key, body);
}

// ---- the workers' side

static bool is_model(const struct td_model *model, const struct td_target *t) {
    return td_str_is(t->model, model->path) && model->context == t->context &&
           model->parallel == (t->parallel ? t->parallel : 1) && model->threads == t->threads &&
           model->gpu_layers == t->gpu_layers && model->memory_bytes_max == t->memory_bytes_max;
}

static struct td_model *find_model(struct td_manager *m, const struct td_target *t) {
    for (struct td_model *model = m->models; model; model = model->next)
        if (is_model(model, t))
            return model;
    return NULL;
}

// For the next load. Without memory it stays as it was.
static void take_tools_file(struct td_model *model, const struct td_target *t) {
    if (td_str_is(t->tools_file, model->tools_file ? model->tools_file : ""))
        return;
    char *copy = t->tools_file.n ? td_strndup(t->tools_file.p, t->tools_file.n) : NULL;
    if (t->tools_file.n && !copy)
        return;
    td_free(model->tools_file);
    model->tools_file = copy;
}

static struct td_model *find_or_add(struct td_manager *m, const struct td_target *t) {
    struct td_model *model = find_model(m, t);
    if (model)
        take_tools_file(model, t);
    if (model || m->model_count >= MODELS_MAX)
        return model;
    if (t->parallel > 64 || !t->model.n)
        return NULL;
    const char *slash = memrchr(t->model.p, '/', t->model.n);
    struct td_str name = t->model;
    if (slash)
        name = td_str_n(slash + 1, (size_t)(t->model.p + t->model.n - slash - 1));
    struct td_part_name part;
    if (td_part_name_read(name, &part))
        name = part.stem;
    else if (name.n > 5 && memcmp(name.p + name.n - 5, ".gguf", 5) == 0)
        name.n -= 5;
    if (name.n > TD_NAME_BYTES_MAX)
        name.n = TD_NAME_BYTES_MAX;
    model = td_calloc(1, sizeof *model);
    if (!model)
        return NULL;
    *model = (struct td_model){.next = m->models,
                               .number = m->model_count + 1,
                               .path = td_strndup(t->model.p, t->model.n),
                               .name = td_strndup(name.p, name.n),
                               .context = t->context,
                               .parallel = t->parallel ? t->parallel : 1,
                               .threads = t->threads,
                               .gpu_layers = t->gpu_layers,
                               .memory_bytes_max = t->memory_bytes_max};
    if (!model->path || !model->name) {
        td_free(model->path);
        td_free(model->name);
        td_free(model);
        return NULL;
    }
    take_tools_file(model, t);
    m->models = model;
    m->model_count++;
    return model;
}

// The last load failed and its pause is not over.
static enum td_err fresh_failure(const struct td_model *model, struct td_error *e) {
    if (model->error && !model->ready && !model->loading && td_now_ns() < model->retry_ns)
        return td_error_set(e, model->error, "%s", model->message);
    return TD_OK;
}

enum td_err td_manager_want(struct td_manager *m, const struct td_target *target, uint64_t prompt,
                            struct td_model **out, struct td_error *e) {
    enum td_err err = TD_OK;
    pthread_mutex_lock(&m->lock);
    struct td_model *model = find_or_add(m, target);
    if (!model)
        err = td_error_set(e, TD_ERR_NOMEM, "no room for another model");
    else if (is_quarantined(m, model, prompt))
        err = td_error_set(e, TD_ERR_HOST_CRASH, "this prompt stopped the model twice and is not tried again");
    else
        err = fresh_failure(model, e);
    if (!err && target->queue_max) {
        uint32_t in_guest = model->ready ? model->ready->active : 0;
        if (in_guest + model->waiting >= model->parallel + target->queue_max)
            err = td_error_set(e, TD_ERR_OVERLOAD, "%u requests wait for this model already", target->queue_max);
    }
    if (!err) {
        model->waiting++;
        model->error = TD_OK;
        model->used_ns = td_now_ns();
        if (!model->ready && !model->loading)
            td_manager_wake(m);
        *out = model;
    }
    pthread_mutex_unlock(&m->lock);
    return err;
}

void td_manager_unwant(struct td_manager *m, struct td_model *model) {
    pthread_mutex_lock(&m->lock);
    if (--model->waiting == 0 && model->loading)
        td_manager_wake(m);
    pthread_mutex_unlock(&m->lock);
}

enum td_err td_manager_take(struct td_manager *m, struct td_model *model, struct td_guest **out, struct td_error *e) {
    enum td_err err = TD_OK;
    *out = NULL;
    pthread_mutex_lock(&m->lock);
    struct td_guest *g = model->ready;
    if (g) {
        model->waiting--;
        if (g->active++ == 0)
            g->heard_ns = td_now_ns();
        g->counts++;
        *out = g;
    } else if ((err = fresh_failure(model, e)) != TD_OK) {
        model->waiting--;
    }
    pthread_mutex_unlock(&m->lock);
    return err;
}

void td_manager_put_back(struct td_manager *m, struct td_model *model, struct td_guest *guest) {
    pthread_mutex_lock(&m->lock);
    model->waiting++;
    guest->active--;
    td_guest_release(guest);
    pthread_mutex_unlock(&m->lock);
}

void td_manager_done(struct td_manager *m, struct td_guest *guest, bool served) {
    pthread_mutex_lock(&m->lock);
    guest->model->used_ns = td_now_ns();
    if (served)
        guest->model->crashes = 0;
    if (--guest->active == 0 && (guest->state == GUEST_RETIRING || guest->model->next || m->models != guest->model))
        td_manager_wake(m); // it may go, or make room
    td_guest_release(guest);
    pthread_mutex_unlock(&m->lock);
}

void td_manager_suspect(struct td_manager *m, struct td_guest *guest, uint64_t prompt) {
    pthread_mutex_lock(&m->lock);
    if (guest->judged) {
        if (guest->guilty)
            td_manager_strike(m, guest->model, prompt);
    } else if (guest->suspect_count < SUSPECTS_MAX) {
        guest->suspects[guest->suspect_count++] = prompt;
    }
    pthread_mutex_unlock(&m->lock);
}

void td_manager_condemn(struct td_manager *m, struct td_guest *guest) {
    pthread_mutex_lock(&m->lock);
    td_guest_end(guest, false);
    td_manager_wake(m);
    pthread_mutex_unlock(&m->lock);
}

void td_manager_lost(struct td_manager *m, struct td_guest *guest) {
    pthread_mutex_lock(&m->lock);
    if (!guest->cut_ns)
        guest->cut_ns = td_now_ns();
    td_manager_wake(m);
    pthread_mutex_unlock(&m->lock);
}

bool td_manager_end_of(struct td_manager *m, const struct td_guest *guest, enum td_err *end) {
    pthread_mutex_lock(&m->lock);
    bool known = guest->judged || (guest->cut_ns && td_now_ns() - guest->cut_ns > END_WAIT_MS_MAX * TD_MS_NS);
    *end = guest->judged ? guest->end : TD_ERR_HOST_CRASH;
    pthread_mutex_unlock(&m->lock);
    return known;
}

int td_guest_connection(struct td_manager *m, struct td_guest *guest, unsigned worker) {
    pthread_mutex_lock(&m->lock);
    int fd = guest->connections[worker];
    guest->connections[worker] = -1;
    pthread_mutex_unlock(&m->lock);
    return fd;
}

void td_guest_return(struct td_manager *m, struct td_guest *guest, unsigned worker, int fd) {
    if (fd < 0)
        return;
    pthread_mutex_lock(&m->lock);
    guest->connections[worker] = fd;
    pthread_mutex_unlock(&m->lock);
}

void td_guest_hold(struct td_manager *m, struct td_guest *guest) {
    pthread_mutex_lock(&m->lock);
    guest->counts++;
    pthread_mutex_unlock(&m->lock);
}

void td_guest_drop(struct td_manager *m, struct td_guest *guest) {
    pthread_mutex_lock(&m->lock);
    td_guest_release(guest);
    pthread_mutex_unlock(&m->lock);
}

// ---- the operator's side

void td_manager_status(struct td_manager *m, const struct td_target *target, struct td_manager_status *out) {
    *out = (struct td_manager_status){.ready = true};
    pthread_mutex_lock(&m->lock);
    struct td_model *model = find_model(m, target);
    if (model) {
        struct td_guest *g = model->ready ? model->ready : model->loading;
        struct td_error none;
        *out = (struct td_manager_status){.known = true,
                                          .loaded = model->ready != NULL,
                                          .loading = model->loading != NULL,
                                          .ready = fresh_failure(model, &none) == TD_OK,
                                          .last_error = model->error,
                                          .load_ms = model->load_ms,
                                          .active = model->ready ? model->ready->active : 0,
                                          .queued = model->waiting,
                                          .generation = model->generation,
                                          .context = model->ready ? model->ready->ready.context : 0,
                                          .capabilities = model->capabilities,
                                          .memory_bytes = model->memory_bytes,
                                          .pid = g ? g->pid : 0};
    }
    pthread_mutex_unlock(&m->lock);
}

static enum td_err demand(struct td_manager *m, const struct td_target *target, bool swap, struct td_error *e) {
    pthread_mutex_lock(&m->lock);
    struct td_model *model = find_or_add(m, target);
    if (model) {
        model->preload |= !model->ready;
        model->swap |= swap && model->ready;
        model->retry_ns = 0;
        td_manager_wake(m);
    }
    pthread_mutex_unlock(&m->lock);
    return model ? TD_OK : td_error_set(e, TD_ERR_NOMEM, "no room for another model");
}

enum td_err td_manager_preload(struct td_manager *m, const struct td_target *target, struct td_error *e) {
    return demand(m, target, false, e);
}

enum td_err td_manager_swap(struct td_manager *m, const struct td_target *target, struct td_error *e) {
    return demand(m, target, true, e);
}

uint32_t td_model_context(const struct td_model *model, const struct td_gguf *info) {
    uint32_t wanted = model->context ? model->context : CONTEXT_DEFAULT;
    return wanted < info->context ? wanted : info->context;
}

enum td_err td_manager_estimate(const struct td_target *target, uint64_t *bytes, struct td_error *e) {
    struct td_model_files files;
    struct td_gguf info = {0};
    struct td_model model = {.context = target->context};
    char *path = td_strndup(target->model.p, target->model.n);
    if (!path)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    enum td_err err = td_model_files_open(&files, path, &info, e);
    if (!err)
        *bytes = td_gguf_memory(&info, td_model_context(&model, &info), target->parallel ? target->parallel : 1);
    td_model_files_close(&files);
    td_free(path);
    return err;
}

static uint64_t machine_memory(void) {
    struct sysinfo info;
    uint64_t bytes = sysinfo(&info) == 0 ? (uint64_t)info.totalram * info.mem_unit : 4ull << 30;
    char text[32] = "";
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "re"); // a container may be allowed less
    if (f) {
        uint64_t limit;
        if (fgets(text, sizeof text, f) && td_str_to_u64(td_str_trim(td_str_of(text)), &limit) && limit < bytes)
            bytes = limit;
        fclose(f);
    }
    return bytes;
}

enum td_err td_manager_create(const struct td_manager_options *o, struct td_manager **out, struct td_error *e) {
    if (!o->host_path || !o->workers || o->workers > WORKERS_MAX)
        return td_error_set(e, TD_ERR_USAGE, "the model manager needs a host program and 1 to %u workers", WORKERS_MAX);
    struct td_manager *m = td_calloc(1, sizeof *m);
    if (!m)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    m->host_path = td_strdup(o->host_path);
    m->worker_count = o->workers;
    m->memory_bytes_max = o->memory_bytes_max ? o->memory_bytes_max : machine_memory() / 4 * 3;
    m->idle_unload_ms = o->idle_unload_ms ? o->idle_unload_ms : 300000;
    m->load_ms_max = o->load_ms_max ? o->load_ms_max : 120000;
    m->hang_ms_max = o->hang_ms_max ? o->hang_ms_max : 10000;
    td_random(m->key, sizeof m->key);
    pthread_mutex_init(&m->lock, NULL);
    m->hub = td_calloc(1, sizeof *m->hub);
    if (m->hub) {
        m->hub->counts = 1;
        pthread_mutex_init(&m->hub->lock, NULL);
    }
    m->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!m->host_path || !m->hub || m->wake_fd < 0 || pthread_create(&m->thread, NULL, td_manager_run, m) != 0) {
        if (m->wake_fd >= 0)
            close(m->wake_fd);
        td_free(m->hub);
        td_free(m->host_path);
        pthread_mutex_destroy(&m->lock);
        td_free(m);
        return td_error_set(e, TD_ERR_NOMEM, "out of memory or threads");
    }
    *out = m;
    return TD_OK;
}

void td_manager_destroy(struct td_manager *m) {
    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    m->stopping = true;
    td_manager_wake(m);
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->thread, NULL);
    while (m->guests) {
        struct td_guest *g = m->guests;
        m->guests = g->next;
        td_guest_end(g, true);
        waitid(P_PID, (id_t)g->pid, NULL, WEXITED);
        close(g->pidfd);
        close(g->control);
        td_guest_release(g);
    }
    while (m->models) {
        struct td_model *model = m->models;
        m->models = model->next;
        td_free(model->tools_file);
        td_free(model->path);
        td_free(model->name);
        td_free(model);
    }
    close(m->wake_fd);
    pthread_mutex_lock(&m->hub->lock);
    td_hub_release(m->hub);
    pthread_mutex_destroy(&m->lock);
    td_free(m->host_path);
    td_free(m);
}
