// SPDX-License-Identifier: Apache-2.0
// The life of guests: loading, ceilings, eviction, crashes, hanging, swapping, and the walls around them.
#include "unit.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "local.h"

#define WAIT_MS 30000
#define ENDLESS "\"temperature\":0,\"logit_bias\":{\"2\":-100,\"4\":-100}"

static const char *host, *tiny, *slow;
static struct house h;
static char folder[] = "/tmp/tandem-test-XXXXXX";

static void open_house(struct td_manager_options options) {
    options.host_path = host;
    options.workers = 1;
    assert_true(house_open(&h, &options));
}

static void ask_slow(struct ask *a, const char *body) {
    ask_open(a, &h, slow, TD_KIND_COMPLETION, body);
    a->target.context = 4096;
}

static void ask_short(struct ask *a, const char *gguf, uint32_t context) {
    ask_open(a, &h, gguf, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":2,\"temperature\":0}");
    a->target.context = context;
    assert_true(ask_all(a, WAIT_MS));
}

static bool process_gone(int pid) {
    return kill(pid, 0) != 0;
}

static void a_killed_guest_costs_each_attempt_one_event_and_comes_back(void **state) {
    (void)state;
    struct ask a[3];
    open_house((struct td_manager_options){0});
    for (int round = 1; round <= 3; round++) { // not the prompts' fault: never quarantined
        for (int i = 0; i < 3; i++) {
            ask_slow(&a[i], "{\"prompt\":\"x\"," ENDLESS "}");
            assert_ok(ask_start(&a[i]));
        }
        assert_true(house_until(&h, a[0].deltas && a[1].deltas && a[2].deltas, WAIT_MS));
        struct td_manager_status s = house_status(&h, &a[0].target);
        assert_int_equal(s.generation, round);
        assert_int_equal(s.active, 3);
        assert_int_equal(kill(s.pid, SIGKILL), 0);
        for (int i = 0; i < 3; i++) {
            assert_true(ask_wait(&a[i], 5000));
            assert_int_equal(a[i].error, TD_ERR_HOST_CRASH);
            assert_int_equal(a[i].ends, 1);
            assert_int_equal(a[i].finishes, 0);
            ask_close(&a[i]);
        }
    }
    uint64_t start = td_now_ns();
    ask_slow(&a[0], "{\"prompt\":\"x\",\"max_tokens\":2,\"temperature\":0}");
    assert_true(ask_all(&a[0], WAIT_MS));
    assert_int_equal(a[0].error, TD_OK);
    print_message("back after %.0f ms\n", (double)(td_now_ns() - start) / 1e6);
    assert_true(td_now_ns() - start < 6000 * TD_MS_NS); // 2 s and the load
    ask_close(&a[0]);
    house_close(&h);
}

static void a_prompt_that_ended_its_guest_twice_is_quarantined(void **state) {
    (void)state;
    struct ask a;
    open_house((struct td_manager_options){0});
    for (int i = 0; i < 2; i++) {
        ask_slow(&a, "{\"prompt\":\"bad\"," ENDLESS "}");
        assert_ok(ask_start(&a));
        assert_true(house_until(&h, a.deltas, WAIT_MS));
        assert_int_equal(kill(house_status(&h, &a.target).pid, SIGSEGV), 0); // as if by its own fault
        assert_true(ask_wait(&a, 5000));
        assert_int_equal(a.error, TD_ERR_HOST_CRASH);
        ask_close(&a);
    }
    // The verdict falls when the process has been reaped.
    ask_slow(&a, "{\"prompt\":\"good\",\"max_tokens\":1}");
    assert_true(ask_all(&a, WAIT_MS));
    assert_int_equal(a.error, TD_OK);
    ask_close(&a);
    ask_slow(&a, "{\"prompt\":\"bad\"," ENDLESS "}");
    assert_int_equal(ask_start(&a), TD_ERR_HOST_CRASH);
    ask_close(&a);
    house_close(&h);
}

// Of a running guest: from now on it gets nothing more.
static void take_its_memory(int pid) {
    struct rlimit none = {1 << 20, 1 << 20};
    assert_int_equal(prlimit(pid, RLIMIT_AS, &none, NULL), 0);
}

static void want_of_memory_is_told_from_a_crash(void **state) {
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); // the sanitizer ends a program that has no memory in its own way
#endif
    static const struct {
        int sig; // as libllama's assertion, or the use of what it did not get; 0: a request that cannot be read
        bool short_of_it;
        enum td_err told;
    } rows[] = {
        {0, true, TD_ERR_HOST_MEMORY},       {SIGABRT, true, TD_ERR_HOST_MEMORY}, {SIGSEGV, true, TD_ERR_HOST_MEMORY},
        {SIGABRT, false, TD_ERR_HOST_CRASH}, {SIGKILL, true, TD_ERR_HOST_CRASH}, // by somebody, not by the kernel
    };
    struct td_buf large;
    td_buf_init(&large, 8 << 20);
    assert_ok(td_buf_printf(&large, "{\"prompt\":\"%0*d\"}", 4 << 20, 0));
    const char *unreadable = td_buf_z(&large);
    assert_non_null(unreadable);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ask a, b;
        open_house((struct td_manager_options){0});
        ask_slow(&a, "{\"prompt\":\"x\"," ENDLESS "}");
        assert_ok(ask_start(&a));
        assert_true(house_until(&h, a.deltas, WAIT_MS));
        int pid = house_status(&h, &a.target).pid;
        if (rows[i].short_of_it)
            take_its_memory(pid);
        ask_slow(&b, unreadable);
        if (rows[i].sig)
            assert_int_equal(kill(pid, rows[i].sig), 0);
        else
            assert_ok(ask_start(&b));
        assert_true(ask_wait(&a, WAIT_MS));
        assert_int_equal(a.error, rows[i].told);
        assert_int_equal(a.ends, 1);
        assert_true(rows[i].sig || (ask_wait(&b, WAIT_MS) && b.error == rows[i].told));
        ask_close(&b);
        ask_close(&a);
        ask_slow(&a, "{\"prompt\":\"y\",\"max_tokens\":1}");
        assert_true(ask_all(&a, WAIT_MS));
        assert_int_equal(a.error, TD_OK);
        ask_close(&a);
        house_close(&h);
    }
    td_buf_finish(&large);
}

static void a_guest_that_hangs_is_killed(void **state) {
    (void)state;
    struct ask a;
    open_house((struct td_manager_options){.hang_ms_max = 800});
    ask_slow(&a, "{\"prompt\":\"x\"," ENDLESS "}");
    assert_ok(ask_start(&a));
    assert_true(house_until(&h, a.deltas, WAIT_MS));
    assert_int_equal(kill(house_status(&h, &a.target).pid, SIGSTOP), 0);
    assert_true(ask_wait(&a, 10000));
    assert_int_equal(a.error, TD_ERR_HOST_CRASH);
    ask_close(&a);
    ask_slow(&a, "{\"prompt\":\"y\",\"max_tokens\":1}");
    assert_true(ask_all(&a, WAIT_MS));
    assert_int_equal(a.error, TD_OK);
    ask_close(&a);
    house_close(&h);
}

static void pause_it(struct ask *a) {
    a->house->backend->ops->pause(a->house->backend, a->attempt);
    a->on_delta = NULL;
}

static void an_attempt_paused_for_long_does_not_count_as_hanging(void **state) {
    (void)state;
    struct ask a;
    open_house((struct td_manager_options){.hang_ms_max = 400});
    ask_open(&a, &h, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\"," ENDLESS "}");
    a.on_delta = pause_it;
    assert_ok(ask_start(&a));
    assert_true(house_until(&h, a.deltas, WAIT_MS));
    uint64_t until = td_now_ns() + 1600 * TD_MS_NS;
    while (td_now_ns() < until)
        house_turn(&h);
    h.backend->ops->resume(h.backend, a.attempt);
    assert_true(ask_wait(&a, WAIT_MS));
    assert_int_equal(a.error, TD_OK);
    assert_int_equal(house_status(&h, &a.target).generation, 1);
    ask_close(&a);
    house_close(&h);
}

static void what_can_never_fit_is_refused(void **state) {
    (void)state;
    struct ask a;
    uint64_t bytes;
    struct td_error e;
    open_house((struct td_manager_options){.memory_bytes_max = 20u << 20});
    ask_short(&a, tiny, 512);
    assert_int_equal(a.error, TD_ERR_HOST_MEMORY);
    assert_ok(td_manager_estimate(&a.target, &bytes, &e));
    assert_true(bytes > 20u << 20);
    ask_close(&a);
    ask_open(&a, &h, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\"}");
    assert_int_equal(ask_start(&a), TD_ERR_HOST_MEMORY); // known by now
    ask_close(&a);
    house_close(&h);
}

// The estimate is what a guest really takes, or a little more.
static void memory_is_known_before_loading(void **state) {
    (void)state;
    struct ask a;
    uint64_t bytes;
    struct td_error e;
    char path[64], line[256];
    long resident_kb = 0;
    open_house((struct td_manager_options){0});
    ask_slow(&a, "{\"prompt\":\"x\",\"max_tokens\":8,\"temperature\":0}");
    assert_true(ask_all(&a, WAIT_MS));
    assert_ok(td_manager_estimate(&a.target, &bytes, &e));
    snprintf(path, sizeof path, "/proc/%d/status", house_status(&h, &a.target).pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %ld", &resident_kb) == 1)
            break;
    fclose(f);
    print_message("estimated %llu MiB, resident %ld MiB\n", (unsigned long long)(bytes >> 20), resident_kb >> 10);
    assert_true((uint64_t)resident_kb << 10 < bytes + bytes / 10);
    ask_close(&a);
    house_close(&h);
}

static void three_models_share_a_ceiling_for_two(void **state) {
    (void)state;
    struct ask serving, a, b, c;
    uint64_t one;
    struct td_error e;
    struct td_target t = {.model = td_str_of(tiny), .parallel = 4, .context = 512};
    assert_ok(td_manager_estimate(&t, &one, &e));
    open_house((struct td_manager_options){.memory_bytes_max = one * 5 / 2});
    ask_short(&a, tiny, 512); // three targets: the same file with other contexts
    ask_short(&b, tiny, 480);
    assert_true(house_status(&h, &a.target).loaded && house_status(&h, &b.target).loaded);
    ask_short(&c, tiny, 448); // the least recently used one goes
    assert_int_equal(c.error, TD_OK);
    assert_false(house_status(&h, &a.target).loaded);
    assert_true(house_status(&h, &b.target).loaded && house_status(&h, &c.target).loaded);
    // b serves: c has to go for a, though b was used longer ago.
    ask_open(&serving, &h, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\"," ENDLESS "}");
    serving.target.context = 480;
    serving.on_delta = pause_it;
    assert_ok(ask_start(&serving));
    assert_true(house_until(&h, serving.deltas, WAIT_MS));
    ask_close(&a);
    ask_short(&a, tiny, 512);
    assert_int_equal(a.error, TD_OK);
    assert_true(house_status(&h, &b.target).loaded);
    assert_int_equal(house_status(&h, &b.target).generation, 1);
    assert_false(house_status(&h, &c.target).loaded);
    h.backend->ops->resume(h.backend, serving.attempt);
    assert_true(ask_wait(&serving, WAIT_MS));
    assert_int_equal(serving.error, TD_OK);
    ask_close(&serving);
    ask_close(&a);
    ask_close(&b);
    ask_close(&c);
    house_close(&h);
}

static void a_load_nobody_waits_for_is_dropped(void **state) {
    (void)state;
    struct ask a;
    open_house((struct td_manager_options){0});
    ask_slow(&a, "{\"prompt\":\"x\"}");
    assert_ok(ask_start(&a));
    assert_int_equal(house_status(&h, &a.target).queued, 1);
    assert_true(house_until(&h, house_status(&h, &a.target).loading, WAIT_MS));
    struct td_target t = a.target;
    int pid = house_status(&h, &t).pid;
    ask_close(&a);
    assert_true(house_until(&h, process_gone(pid), 5000));
    struct td_manager_status s = house_status(&h, &t);
    assert_false(s.loaded || s.loading);
    assert_int_equal(s.queued, 0);
    house_close(&h);
}

static void an_idle_model_is_unloaded(void **state) {
    (void)state;
    struct ask a;
    open_house((struct td_manager_options){.idle_unload_ms = 200});
    ask_short(&a, tiny, 512);
    int pid = house_status(&h, &a.target).pid;
    assert_true(pid > 0);
    assert_true(house_until(&h, process_gone(pid), 5000));
    assert_false(house_status(&h, &a.target).loaded);
    ask_close(&a);
    ask_short(&a, tiny, 512); // and comes back when it is needed
    assert_int_equal(a.error, TD_OK);
    assert_int_equal(house_status(&h, &a.target).generation, 2);
    ask_close(&a);
    house_close(&h);
}

static void a_swap_lets_the_first_guest_finish(void **state) {
    (void)state;
    struct ask before, after;
    struct td_error e;
    open_house((struct td_manager_options){0});
    ask_open(&before, &h, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\"," ENDLESS "}");
    before.on_delta = pause_it;
    assert_ok(ask_start(&before));
    assert_true(house_until(&h, before.deltas, WAIT_MS));
    int first = house_status(&h, &before.target).pid;
    assert_ok(td_manager_swap(h.manager, &before.target, &e));
    assert_true(house_until(&h, house_status(&h, &before.target).pid != first, WAIT_MS));
    ask_short(&after, tiny, 512);
    assert_int_equal(after.error, TD_OK);
    assert_false(before.over);
    assert_false(process_gone(first));
    h.backend->ops->resume(h.backend, before.attempt);
    assert_true(ask_wait(&before, WAIT_MS));
    assert_int_equal(before.error, TD_OK);
    assert_true(house_until(&h, process_gone(first), 5000));
    assert_int_equal(house_status(&h, &after.target).generation, 2);
    ask_close(&before);
    ask_close(&after);
    house_close(&h);
}

// ---- model files and templates that mean harm

static void write_file(const char *path, const char *p, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static size_t read_file(const char *path, char *p, size_t size) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(p, 1, size, f);
    fclose(f);
    return n;
}

// Whatever stands in the file: the house lives, and the attempt gets an answer or one typed error.
static void damaged_files_cost_one_attempt(void **state) {
    (void)state;
    static char bytes[1 << 20];
    char path[128];
    size_t n = read_file(tiny, bytes, sizeof bytes);
    uint64_t random = 42;
    unsigned refused = 0;
    assert_true(n < sizeof bytes);
    open_house((struct td_manager_options){0});
    for (int i = 0; i < 12; i++) {
        static char copy[1 << 20];
        memcpy(copy, bytes, n);
        for (int flips = 0; flips < 6; flips++) {
            random = random * 6364136223846793005ull + 1442695040888963407ull;
            copy[(random >> 33) % 4000] = (char)(random >> 20); // values, types and lengths live here
        }
        snprintf(path, sizeof path, "%s/damaged-%d.gguf", folder, i);
        write_file(path, copy, i % 4 == 3 ? n / 2 : n);
        struct ask a;
        ask_open(&a, &h, path, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":2}");
        assert_true(ask_all(&a, WAIT_MS));
        assert_true(a.error == TD_OK || a.error == TD_ERR_HOST_LOAD || a.error == TD_ERR_HOST_MEMORY ||
                    a.error == TD_ERR_HOST_CRASH || a.error == TD_ERR_CONTEXT_LENGTH ||
                    a.error == TD_ERR_UPSTREAM_GARBAGE || a.error == TD_ERR_BAD_REQUEST);
        assert_true(a.ends == 1 || (a.ends == 0 && !a.attempt));
        refused += a.error == TD_ERR_HOST_LOAD;
        ask_close(&a);
        unlink(path);
    }
    assert_true(refused >= 3); // those cut in half, at the least
    struct ask a;
    ask_short(&a, tiny, 512);
    assert_int_equal(a.error, TD_OK);
    ask_close(&a);
    house_close(&h);
}

static void make_model_with_template(const char *path, const char *text) {
    char command[1024], file[128];
    snprintf(file, sizeof file, "%s/template", folder);
    write_file(file, text, strlen(text));
    snprintf(command, sizeof command, "%s %s --template %s", getenv("MAKE_GGUF"), path, file);
    assert_int_equal(system(command), 0);
    unlink(file);
}

static void an_endless_template_ends_the_guest_not_the_house(void **state) {
    (void)state;
    char path[128];
    struct ask a;
    snprintf(path, sizeof path, "%s/endless.gguf", folder);
    make_model_with_template(path, "{%- for m in messages %}{{ m.content }}{%- if m.content == 'loop' %}"
                                   "{%- for a in range(30000) %}{%- for b in range(30000) %}{%- endfor %}{%- endfor %}"
                                   "{%- endif %}{%- endfor %}");
    open_house((struct td_manager_options){0});
    for (int i = 0; i < 2; i++) {
        ask_open(&a, &h, path, TD_KIND_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"loop\"}]}");
        assert_true(ask_all(&a, WAIT_MS));
        assert_int_equal(a.error, TD_ERR_HOST_CRASH);
        ask_close(&a);
    }
    ask_open(&a, &h, path, TD_KIND_CHAT,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":2,\"temperature\":0}");
    assert_true(ask_all(&a, WAIT_MS));
    assert_int_equal(a.error, TD_OK);
    ask_close(&a);
    ask_open(&a, &h, path, TD_KIND_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"loop\"}]}");
    assert_int_equal(ask_start(&a), TD_ERR_HOST_CRASH); // quarantined
    ask_close(&a);
    house_close(&h);
    unlink(path);
}

static void a_template_over_its_time_is_refused(void **state) {
    (void)state;
    char path[128];
    struct ask a;
    snprintf(path, sizeof path, "%s/lame.gguf", folder);
    make_model_with_template(path, "{%- for m in messages %}{{ m.content }}{%- if m.content == 'slow' %}"
                                   "{%- for a in range(100) %}{%- for b in range(120) %}{%- endfor %}{%- endfor %}"
                                   "{%- endif %}{%- endfor %}");
    open_house((struct td_manager_options){0});
    ask_open(&a, &h, path, TD_KIND_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"slow\"}],\"max_tokens\":1}");
    assert_true(ask_all(&a, WAIT_MS));
    print_message("slow template: %s\n", a.message);
    assert_true(a.error == TD_ERR_LIMIT || a.error == TD_ERR_HOST_CRASH); // a very slow machine: over a second
    ask_close(&a);
    house_close(&h);
    unlink(path);
}

// ---- the walls

static void status_field(int pid, const char *name, char out[64]) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    out[0] = 0;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, name, strlen(name)) == 0)
            snprintf(out, 64, "%s", line + strlen(name));
    fclose(f);
}

static void the_guest_is_walled_in_and_holds_no_secret(void **state) {
    (void)state;
    struct ask a;
    char value[64], path[64], bytes[4096];
    setenv("CANARY_KEY", "sk-canary-7311", 1);
    int leak = dup(0); // inherited by nobody
    open_house((struct td_manager_options){0});
    ask_short(&a, tiny, 512);
    assert_int_equal(a.error, TD_OK);
    int pid = house_status(&h, &a.target).pid;
    status_field(pid, "Seccomp:", value);
    assert_int_equal(atoi(value), 2);
    status_field(pid, "NoNewPrivs:", value);
    assert_int_equal(atoi(value), 1);
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    size_t n = read_file(path, bytes, sizeof bytes);
    assert_null(memmem(bytes, n, "canary", 6));
    assert_true(n < 200);
    for (int fd = 0; fd < 1024; fd++) { // /dev/null, the socket pairs, the event descriptor, a look at its own size
        char target[256];
        snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length < 0)
            continue;
        target[length] = 0;
        assert_true(!strncmp(target, "/dev/null", 9) || !strncmp(target, "socket:", 7) ||
                    !strncmp(target, "anon_inode:", 11) || strstr(target, "statm"));
    }
    close(leak);
    unsetenv("CANARY_KEY");
    ask_close(&a);
    house_close(&h);
}

static void guests_go_with_the_house(void **state) {
    (void)state;
    struct ask a;
    open_house((struct td_manager_options){0});
    ask_short(&a, tiny, 512);
    int pid = house_status(&h, &a.target).pid;
    ask_close(&a);
    house_close(&h);
    assert_true(process_gone(pid));
}

// Every allocation of the house fails once: the attempt ends with an answer or a typed error, and the next one works.
static void an_allocation_that_fails_costs_one_attempt(void **state) {
    (void)state;
    struct ask a;
    unsigned failed = 0;
    open_house((struct td_manager_options){0});
    for (uint64_t n = 1; n < 90; n++) {
        if (n % 9 == 0) { // those of starting a guest, too
            struct td_target t = {.model = td_str_of(tiny), .parallel = 4, .context = 512};
            int pid = house_status(&h, &t).pid;
            if (pid)
                kill(pid, SIGKILL);
            house_until(&h, house_status(&h, &t).pid != pid, 2000);
        }
        ask_open(&a, &h, tiny, TD_KIND_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":3,\"temperature\":0}");
        td_alloc_fail_at(n);
        bool ended = ask_all(&a, 5000);
        td_alloc_fail_at(0);
        if (!ended)
            fail_msg("allocation %u: the attempt never ends", (unsigned)n);
        assert_true(a.ends == 1 || !a.attempt);
        failed += a.error != TD_OK;
        ask_close(&a);
        house_until(&h, false, 1);
    }
    assert_true(failed > 3);
    house_until(&h, false, 600); // the pause after a failed load
    ask_short(&a, tiny, 512);
    assert_int_equal(a.error, TD_OK);
    ask_close(&a);
    house_close(&h);
}

static void a_missing_program_or_file_is_a_load_error(void **state) {
    (void)state;
    struct ask a;
    struct td_manager_options options = {.host_path = "/nonexistent/tandem-host", .workers = 1};
    assert_true(house_open(&h, &options));
    ask_short(&a, tiny, 512);
    assert_int_equal(a.error, TD_ERR_HOST_LOAD);
    ask_close(&a);
    ask_short(&a, "/nonexistent/model.gguf", 512);
    assert_int_equal(a.error, TD_ERR_HOST_LOAD);
    ask_close(&a);
    house_close(&h);
}

int main(int argc, char **argv) {
    if (argc > 4) // one test by name, for a person
        cmocka_set_test_filter(argv[4]);
    if (argc < 4 || !mkdtemp(folder))
        return 2;
    host = argv[1];
    tiny = argv[2];
    slow = argv[3];
    td_log_set_level(TD_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_guest_costs_each_attempt_one_event_and_comes_back),
        cmocka_unit_test(a_prompt_that_ended_its_guest_twice_is_quarantined),
        cmocka_unit_test(want_of_memory_is_told_from_a_crash),
        cmocka_unit_test(a_guest_that_hangs_is_killed),
        cmocka_unit_test(an_attempt_paused_for_long_does_not_count_as_hanging),
        cmocka_unit_test(what_can_never_fit_is_refused),
        cmocka_unit_test(memory_is_known_before_loading),
        cmocka_unit_test(three_models_share_a_ceiling_for_two),
        cmocka_unit_test(a_load_nobody_waits_for_is_dropped),
        cmocka_unit_test(an_idle_model_is_unloaded),
        cmocka_unit_test(a_swap_lets_the_first_guest_finish),
        cmocka_unit_test(damaged_files_cost_one_attempt),
        cmocka_unit_test(an_endless_template_ends_the_guest_not_the_house),
        cmocka_unit_test(a_template_over_its_time_is_refused),
        cmocka_unit_test(the_guest_is_walled_in_and_holds_no_secret),
        cmocka_unit_test(guests_go_with_the_house),
        cmocka_unit_test(an_allocation_that_fails_costs_one_attempt),
        cmocka_unit_test(a_missing_program_or_file_is_a_load_error),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
