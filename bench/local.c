// SPDX-License-Identifier: Apache-2.0
// Local decoding: through the model host and its protocol, and by libllama driven directly in this process with the
// same batch shape, same threads, same model; 1 and 4 requests at once. Where the host has products of its own
// (host/narrow.c), libllama is driven with these as well: what the host's own work costs is seen against that. Rounds
// alternate, so that what else the machine does hits all; the best round of each counts.
//
//   bench-local HOST MODEL.gguf [TOKENS] [ROUNDS] [THREADS]
#include <llama.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/log.h"
#include "host/backends.h"
#include "host/narrow.h"
#include "local.h"

#define PROMPT "the beginning of a text that has to be read first"

static int tokens = 64, rounds = 5, threads = 0;
static const char *gguf;
static struct llama_model *model;

static void no_log(enum ggml_log_level level, const char *text, void *arg) {
    (void)level, (void)text, (void)arg;
}

static void load(void) {
    llama_log_set(no_log, NULL);
    host_backends_load();
    model = llama_model_load_from_file(gguf, llama_model_default_params());
    if (!model)
        exit(1);
}

static llama_token best(const float *logits, int32_t n) {
    llama_token t = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[t])
            t = i;
    return t;
}

static double cpu_ms(clockid_t clock) {
    struct timespec t;
    return clock_gettime(clock, &t) == 0 ? (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6 : 0;
}

// Tokens per second of generation, all sequences together, from the first token on; *cpu gets the milliseconds of
// processor time per token. The prompt is not counted: the guest still has it from the round before.
static double direct(struct llama_context *c, int parallel, double *cpu) {
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    int32_t vocab_count = llama_vocab_n_tokens(vocab);
    llama_token prompt[256], last[8];
    int32_t n = llama_tokenize(vocab, PROMPT, (int32_t)strlen(PROMPT), prompt, 256, true, true);
    struct llama_batch b = llama_batch_init(256 * 8, 0, 1);
    llama_memory_clear(llama_get_memory(c), true);
    for (int s = 0; s < parallel; s++)
        for (int32_t i = 0; i < n; i++) {
            b.token[b.n_tokens] = prompt[i];
            b.pos[b.n_tokens] = i;
            b.n_seq_id[b.n_tokens] = 1;
            b.seq_id[b.n_tokens][0] = s;
            b.logits[b.n_tokens++] = i + 1 == n;
        }
    if (llama_decode(c, b) != 0)
        exit(1);
    for (int s = 0; s < parallel; s++)
        last[s] = best(llama_get_logits_ith(c, (s + 1) * n - 1), vocab_count);
    uint64_t start = td_now_ns();
    double before = cpu_ms(CLOCK_PROCESS_CPUTIME_ID);
    for (int k = 1; k < tokens; k++) {
        b.n_tokens = parallel;
        for (int s = 0; s < parallel; s++) {
            b.token[s] = last[s];
            b.pos[s] = n + k - 1;
            b.n_seq_id[s] = 1;
            b.seq_id[s][0] = s;
            b.logits[s] = 1;
        }
        if (llama_decode(c, b) != 0)
            exit(1);
        for (int s = 0; s < parallel; s++)
            last[s] = best(llama_get_logits_ith(c, s), vocab_count);
    }
    double seconds = (double)(td_now_ns() - start) / 1e9;
    *cpu = (cpu_ms(CLOCK_PROCESS_CPUTIME_ID) - before) / ((tokens - 1) * parallel);
    llama_batch_free(b);
    return (tokens - 1) * parallel / seconds;
}

static double through_host(struct house *h, int parallel, double *cpu) {
    struct ask a[8];
    char body[256];
    uint64_t first = 0, last = 0;
    clockid_t guest = CLOCK_PROCESS_CPUTIME_ID;
    struct td_target t = {.model = td_str_of(gguf), .parallel = 4, .threads = (uint32_t)threads, .context = 1024};
    int pid = house_status(h, &t).pid;
    bool loaded = pid && clock_getcpuclockid(pid, &guest) == 0;
    double before = cpu_ms(CLOCK_PROCESS_CPUTIME_ID) + (loaded ? cpu_ms(guest) : 0);
    snprintf(body, sizeof body, "{\"prompt\":\"" PROMPT "\",\"max_tokens\":%d,\"temperature\":0,\"logit_bias\":{}}",
             tokens);
    for (int i = 0; i < parallel; i++) {
        ask_open(&a[i], h, gguf, TD_KIND_COMPLETION, body);
        a[i].target = t;
        a[i].spec.want_tokens = false;
        if (ask_start(&a[i]) != TD_OK)
            exit(1);
    }
    uint32_t made = 0;
    for (int i = 0; i < parallel; i++) {
        if (!ask_wait(&a[i], 120000) || a[i].error) {
            fprintf(stderr, "bench-local: %s\n", a[i].message);
            exit(1);
        }
        first = a[i].first_ns > first ? a[i].first_ns : first; // from where all are generating
        last = a[i].over_ns > last ? a[i].over_ns : last;
        made += a[i].usage.completion_tokens;
    }
    double seconds = (double)(last - first) / 1e9;
    *cpu = (cpu_ms(CLOCK_PROCESS_CPUTIME_ID) + (loaded ? cpu_ms(guest) : 0) - before) / made;
    for (int i = 0; i < parallel; i++)
        ask_close(&a[i]);
    if (made != (uint32_t)(tokens * parallel))
        fprintf(stderr, "bench-local: only %u tokens: the model ended early\n", made);
    return (made - (uint32_t)parallel) / seconds;
}

int main(int argc, char **argv) {
    struct house h;
    struct utsname machine;
    if (argc < 3) {
        fprintf(stderr, "usage: bench-local HOST MODEL.gguf [TOKENS] [ROUNDS] [THREADS]\n");
        return 2;
    }
    gguf = argv[2];
    tokens = argc > 3 ? atoi(argv[3]) : tokens;
    rounds = argc > 4 ? atoi(argv[4]) : rounds;
    threads = argc > 5 ? atoi(argv[5]) : 1;
    td_log_set_level(TD_LOG_ERROR);
    load();
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = 4 * 1024;
    p.n_seq_max = 4;
    p.n_batch = 576;
    p.n_threads = p.n_threads_batch = threads;
    p.n_outputs_max = 4;
    struct llama_context *c = llama_init_from_model(model, p);
    struct td_manager_options options = {.host_path = argv[1], .workers = 1};
    if (!c || !house_open(&h, &options))
        return 1;
    uname(&machine);
    printf("%s %s, %ld processors, %d threads; %s, %.0f million parameters, %d tokens, best of %d rounds\n",
           machine.sysname, machine.machine, sysconf(_SC_NPROCESSORS_ONLN), threads, gguf,
           (double)llama_model_n_params(model) / 1e6, tokens, rounds);
    bool narrow = host_narrow_use(true);
    printf("%-10s %14s %16s %10s %8s %10s   %s\n", "parallel", "libllama t/s", "host's products", "host t/s", "ratio",
           "to both", "ms of CPU a token, the same three");
    for (int parallel = 1; parallel <= 4; parallel += 3) {
        double best_of[3] = {0}, cpu_of[3] = {1e9, 1e9, 1e9}; // libllama, the same with the host's products, the host
        through_host(&h, parallel, &cpu_of[2]);               // loads and warms
        cpu_of[2] = 1e9;
        for (int i = 0; i < 3 * rounds; i++) {
            double cpu, speed;
            host_narrow_use(i % 3 == 1);
            speed = i % 3 == 2 ? through_host(&h, parallel, &cpu) : direct(c, parallel, &cpu);
            best_of[i % 3] = speed > best_of[i % 3] ? speed : best_of[i % 3];
            cpu_of[i % 3] = cpu < cpu_of[i % 3] ? cpu : cpu_of[i % 3];
        }
        printf("%-10d %14.1f %16.1f %10.1f %8.3f %10.3f   %.3f %.3f %.3f\n", parallel, best_of[0], best_of[1],
               best_of[2], best_of[2] / best_of[0], best_of[2] / best_of[1], cpu_of[0], cpu_of[1], cpu_of[2]);
    }
    if (!narrow)
        printf("(the host has no products of its own in this build or on this processor)\n");
    house_close(&h);
    llama_free(c);
    llama_model_free(model);
    return 0;
}
