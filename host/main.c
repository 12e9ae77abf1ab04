// SPDX-License-Identifier: Apache-2.0
// tandem-host: one local model as a guest process. Started by Tandem only: descriptor 3 is the control connection, 4
// the model file (and the next ones its further parts), then one connection a worker. It loads the back ends, walls
// itself in, loads the model, then serves: the door (door.c) takes frames in and out, the engine (engine.c) decodes.
// The guest ends when the control connection does, and by itself wherever it finds something it must not go on from.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/time.h"
#include "host/backends.h"
#include "host/guest.h"
#include "host/narrow.h"
#include "host/parts.h"
#include "host/sandbox.h"

#define SLACK_BYTES (2ull << 30) // address space beyond what the loaded model takes
#define PROBE_BYTES (16ul << 20) // a thread's stack, or a step's scratch
#define STARVED_MAX 2            // one may have asked for too much
#define SMALL_PARAMS 50e6        // below it a second thread costs more than it brings
#define OUT_BYTES_MAX (2ull * TD_HOST_FRAME_BYTES_MAX)

static struct host_guest guest;
static char last_error[160]; // what libllama said last
static atomic_bool short_of_memory;

bool host_was_short_of_memory(void) {
    return atomic_exchange(&short_of_memory, false);
}

void host_note_end(struct host_guest *g, enum td_err code) {
    if (code == TD_OK)
        atomic_store(&g->starved, 0);
    else if (code == TD_ERR_NOMEM || code == TD_ERR_HOST_MEMORY)
        atomic_fetch_add(&g->starved, 1);
}

void host_leave_if_starved(struct host_guest *g) {
    if (!g->requests && atomic_load(&g->starved) >= STARVED_MAX)
        _exit(TD_PROTO_EXIT_MEMORY);
}

static void on_no_memory(void) {
    atomic_store(&short_of_memory, true);
}

// libllama asserts that it got what it asked for, and its C parts may use what they did not get. Not every part says
// what it was short of (a thread's stack, a table): then it shows in that there is no room for as much now.
static void on_fatal(int sig) {
    (void)sig;
    void *probe = mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (atomic_load(&short_of_memory) || probe == MAP_FAILED)
        _exit(TD_PROTO_EXIT_MEMORY);
    signal(sig, SIG_DFL);
    raise(sig); // when this returns
}

// Only the kind of fault: a hostile file's own strings stay inside.
static void on_log(enum ggml_log_level level, const char *text, void *arg) {
    (void)arg;
    if (level != GGML_LOG_LEVEL_ERROR)
        return;
    size_t n = 0;
    for (; text[n] && n + 1 < sizeof last_error; n++)
        last_error[n] = text[n] >= 32 && text[n] < 127 ? text[n] : ' ';
    last_error[n] = 0;
    if (strstr(last_error, "alloc") || strstr(last_error, "memory"))
        on_no_memory();
}

// ---- start

static void fail_start(enum td_err code, const char *message) {
    struct host_conn *c = &guest.conns[0];
    struct td_buf b;
    td_buf_init(&b, TD_PROTO_CONTROL_BYTES_MAX);
    if (td_proto_put_error(&b, TD_FRAME_FAILED, 0, code, td_str_of(message)) == TD_OK) {
        ssize_t n = send(c->fd, b.p, b.n, MSG_NOSIGNAL);
        (void)n; // the house sees the end in any case
    }
    _exit(HOST_EXIT_SETUP);
}

// Waits for the frame at the head of `in`; returns its length.
static size_t receive(struct td_buf *in, enum td_frame_type type, struct td_frame *f) {
    for (size_t used = 0;;) {
        if (td_proto_next(td_buf_str(in), TD_PROTO_PREPARE_BYTES_MAX, f, &used) != TD_OK || (used && f->type != type))
            _exit(HOST_EXIT_PROTOCOL);
        if (used)
            return used;
        struct pollfd p = {HOST_FILE_CONTROL, POLLIN, 0};
        char *to = td_buf_reserve(in, TD_PROTO_CONTROL_BYTES_MAX);
        ssize_t n = !to ? 0 : poll(&p, 1, -1) < 0 ? -1 : recv(HOST_FILE_CONTROL, to, TD_PROTO_CONTROL_BYTES_MAX, 0);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            _exit(0);
        td_buf_grew(in, (size_t)n);
    }
}

// What comes later than these frames stays in the connection's buffer.
static void receive_setup(struct host_guest *g, struct td_buf *tools) {
    struct td_buf *in = &g->conns[0].in;
    struct td_frame f;
    size_t used = receive(in, TD_FRAME_SETUP, &f);
    if (!td_proto_get_setup(f.body, &g->setup) || g->setup.version != TD_PROTO_VERSION)
        _exit(HOST_EXIT_PROTOCOL);
    snprintf(g->name, sizeof g->name, "%.*s", TD_STR_ARG(g->setup.name));
    g->setup.name = td_str_of(g->name);
    td_buf_drop(in, used);
    if (!g->setup.prepares)
        return;
    used = receive(in, TD_FRAME_PREPARE, &f);
    if (td_buf_add_str(tools, f.body) != TD_OK)
        fail_start(TD_ERR_NOMEM, "out of memory");
    td_buf_drop(in, used);
}

static uint32_t physical_cores(void) {
    uint32_t count = 0;
    for (int i = 0; i < 1024; i++) {
        char path[96], text[16] = "";
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", i);
        FILE *f = fopen(path, "r");
        if (!f)
            break;
        if (fgets(text, sizeof text, f) && atoi(text) == i)
            count++;
        fclose(f);
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (count == 0 || (online > 0 && count > (uint32_t)online))
        count = online > 0 ? (uint32_t)online : 1;
    return count;
}

static bool meta_says(const char *suffix, const char *value) {
    char architecture[64], key[128], text[64];
    if (llama_model_meta_val_str(guest.model, "general.architecture", architecture, sizeof architecture) < 0)
        return false;
    snprintf(key, sizeof key, "%s.%s", architecture, suffix);
    return llama_model_meta_val_str(guest.model, key, text, sizeof text) >= 0 && (!value || !strcmp(text, value));
}

// A model of short answers may say how much longer than its prompt one can get (PROTOCOL.md).
static uint32_t read_beyond_prompt(void) {
    char text[16];
    uint64_t n;
    if (llama_model_meta_val_str(guest.model, "tandem.max_tokens_beyond_prompt", text, sizeof text) < 0 ||
        !td_str_to_u64(td_str_of(text), &n))
        return 0;
    return n < TD_HOST_BEYOND_PROMPT_MAX ? (uint32_t)n : TD_HOST_BEYOND_PROMPT_MAX;
}

static uint32_t capabilities(struct host_guest *g) {
    if (!g->context)
        return TD_CAP_EMBEDDING;
    uint32_t c = TD_CAP_COMPLETION | TD_CAP_EMBEDDING | TD_CAP_LOGPROBS | TD_CAP_CHOICES;
    if (g->templates) {
        c |= TD_CAP_CHAT | TD_CAP_JSON | TD_CAP_JSON_SCHEMA | TD_CAP_CONTINUE;
        if (host_templates_tools(g->templates))
            c |= TD_CAP_TOOLS;
    }
    if (llama_vocab_fim_pre(g->vocab) >= 0 && llama_vocab_fim_suf(g->vocab) >= 0 && llama_vocab_fim_mid(g->vocab) >= 0)
        c |= TD_CAP_INFILL;
    return c;
}

static bool on_progress(float done, void *arg) {
    (void)done, (void)arg;
    static uint64_t last;
    uint64_t now = td_now_ns();
    if (now - last < 250 * TD_MS_NS)
        return true;
    last = now;
    struct td_buf b;
    struct td_proto_writer w;
    td_buf_init(&b, TD_PROTO_CONTROL_BYTES_MAX);
    td_proto_begin(&w, &b, TD_FRAME_BEAT, 0);
    td_proto_u32(&w, 0);
    td_proto_u64(&w, 0);
    if (td_proto_end(&w) == TD_OK)
        host_send(&guest, &guest.conns[0], &b);
    td_buf_finish(&b);
    return true;
}

static void load_model(struct host_guest *g, FILE *file, unsigned parts, uint32_t cores) {
    struct llama_model_params p = llama_model_default_params();
    p.n_gpu_layers = (int32_t)g->setup.gpu_layers;
    p.progress_callback = on_progress;
    g->model = parts > 1 ? host_parts_load(HOST_FILE_MODEL, parts, p) : llama_model_load_from_file_ptr(file, p);
    fclose(file);
    for (unsigned i = 1; i < parts; i++)
        close(HOST_FILE_MODEL + (int)i);
    if (!g->model) {
        char message[240];
        snprintf(message, sizeof message, "libllama cannot load this file: %s", last_error);
        fail_start(host_was_short_of_memory() ? TD_ERR_HOST_MEMORY : TD_ERR_HOST_LOAD, message);
    }
    g->vocab = llama_model_get_vocab(g->model);
    g->ready.params = llama_model_n_params(g->model);
    g->ready.weights_bytes = llama_model_size(g->model);
    g->ready.embedding_size = (uint32_t)llama_model_n_embd_out(g->model);
    g->ready.threads = g->setup.threads ? g->setup.threads : (double)g->ready.params < SMALL_PARAMS ? 1 : cores;
    uint32_t trained = (uint32_t)llama_model_n_ctx_train(g->model);
    g->beyond_prompt = read_beyond_prompt();
    g->ready.context = g->setup.context && g->setup.context < trained ? g->setup.context : trained;
}

static void open_context(struct host_guest *g) {
    g->ready.parallel = g->setup.parallel;
    bool embeds_only = (meta_says("pooling_type", NULL) && !meta_says("pooling_type", "0")) ||
                       meta_says("attention.causal", "false") || !llama_model_has_decoder(g->model);
    if (embeds_only)
        return;
    if (llama_model_has_encoder(g->model))
        fail_start(TD_ERR_HOST_LOAD, "encoder-decoder models are not supported");
    host_prepare_loaded();
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = g->ready.context * g->ready.parallel;
    p.n_seq_max = g->ready.parallel;
    p.n_batch = HOST_CHUNK_MAX + HOST_PARALLEL_MAX;
    p.n_ubatch = HOST_CHUNK_MAX;
    p.n_outputs_max = g->ready.parallel;
    p.n_threads = p.n_threads_batch = (int32_t)g->ready.threads;
    g->context = llama_init_from_model(g->model, p);
    if (!g->context)
        fail_start(TD_ERR_HOST_MEMORY, "no memory for the model's context");
    if (llama_n_ctx_seq(g->context) < g->ready.context)
        g->ready.context = llama_n_ctx_seq(g->context);
}

// A template or a grammar that eats memory without end fails there instead of pushing the machine into swap.
static void limit_memory(int statm) {
    char text[64] = "";
    if (pread(statm, text, sizeof text - 1, 0) <= 0)
        return;
    rlim_t bytes = (rlim_t)(strtoull(text, NULL, 10) * 4096 + SLACK_BYTES);
    setrlimit(RLIMIT_AS, &(struct rlimit){bytes, bytes});
}

static void start(struct host_guest *g, unsigned parts) {
    static struct td_buf tools; // for the thread that prepares, as long as it runs
    uint64_t begin = td_now_ns();
    struct td_error e = {TD_OK, ""};
    td_buf_init(&tools, TD_PROTO_PREPARE_BYTES_MAX);
    receive_setup(g, &tools);
    if (g->setup.parallel == 0 || g->setup.parallel > HOST_PARALLEL_MAX)
        _exit(HOST_EXIT_PROTOCOL);
    llama_log_set(on_log, NULL);
    host_chat_quiet();
    host_on_no_memory(on_no_memory);
    signal(SIGABRT, on_fatal);
    signal(SIGSEGV, on_fatal);
    uint32_t cores = physical_cores();
    FILE *file = fdopen(HOST_FILE_MODEL, "rb");
    if (!file)
        fail_start(TD_ERR_HOST_LOAD, "the model file was not handed over");
    int statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    tzset(); // templates may print the date; after this no file can be opened
    host_backends_load();
    (void)host_narrow_use(true); // without it is slower
    if (host_sandbox_enter(&g->ready.sandbox, &e) != TD_OK)
        fail_start(TD_ERR_HOST_LOAD, e.message);
    if (!host_prepare_start(g, td_buf_str(&tools)))
        fail_start(TD_ERR_NOMEM, "a thread could not be started");
    load_model(g, file, parts, cores);
    open_context(g);
    host_prepare_settle(g, g->context != NULL);
    limit_memory(statm);
    g->ready.version = TD_PROTO_VERSION;
    g->ready.capabilities = capabilities(g);
    g->ready.load_ms = (uint32_t)((td_now_ns() - begin) / TD_MS_NS);
}

int main(int argc, char **argv) {
    struct host_guest *g = &guest;
    bool asked = argc == 5 && !strcmp(argv[1], "--workers") && !strcmp(argv[3], "--parts");
    int workers = asked ? atoi(argv[2]) : 0, parts = asked ? atoi(argv[4]) : 0;
    if (workers < 1 || workers >= HOST_CONNS_MAX || parts < 1 || parts > HOST_PARTS_MAX) {
        fprintf(stderr, "tandem-host runs a model for Tandem, which starts it; it is of no use by itself.\n");
        return 2;
    }
    g->conn_count = (uint32_t)workers + 1;
    for (uint32_t i = 0; i < g->conn_count; i++) {
        struct host_conn *c = &g->conns[i];
        c->fd = i == 0 ? HOST_FILE_CONTROL : HOST_FILE_MODEL + parts - 1 + (int)i;
        pthread_mutex_init(&c->lock, NULL);
        td_buf_init(&c->in, TD_HOST_FRAME_BYTES_MAX + (1u << 17));
        td_buf_init(&c->out, OUT_BYTES_MAX);
    }
    pthread_cond_init(&g->work, NULL);
    pthread_mutex_init(&g->lock, NULL);
    g->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    host_door_init();
    if (g->wake_fd < 0)
        return HOST_EXIT_SETUP;
    start(g, (unsigned)parts);
    pthread_t engine;
    struct td_buf b;
    td_buf_init(&b, TD_PROTO_CONTROL_BYTES_MAX);
    if (pthread_create(&engine, NULL, host_engine_run, g) != 0 || td_proto_put_ready(&b, &g->ready) != TD_OK ||
        !host_send(g, &g->conns[0], &b))
        return HOST_EXIT_SETUP;
    td_buf_finish(&b);
    host_door_serve(g);
}
