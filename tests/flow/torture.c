// SPDX-License-Identifier: Apache-2.0
// Every allocation fails once, over whole requests: a runtime is opened through the public library, asked in all the
// ways below (streamed and not, a tool call, a bad request, an upstream that fails, one that is cut in mid-stream, the
// device), and closed. First with all memory there, to count the allocations; then once for each of them, which fails.
// Whatever fails: open says why or works, every request ends once, in its right answer or in a typed error, the one
// after it is answered, and at the end no descriptor is left open. Leaks and wild reads are the sanitizers' business.
//   torture [--every N] [--first N] [--last N]    every Nth allocation, of those in the range
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "backend/fake.h"
#include "base/mem.h"
#include "child.h"
#include "runtime/runtime.h"
#include "torture_each.h"

#define DEVICE_ANSWER "the device answers this in a few words"

static struct upstream upstream;

static void complain(const char *what, const char *more) {
    fprintf(stderr, "allocation %llu: %s%s%s\n", (unsigned long long)torture_failing, what, *more ? ": " : "", more);
    abort();
}

// ---- requests

struct ask {
    const char *body;
    const char *answer; // the whole right one; NULL any
    const char *error;  // instead of an answer; NULL none
    bool device;
};

#define SAY(model, text, more)                                                                                         \
    "{\"model\":\"" model "\",\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}]" more "}"

static const struct ask asks[] = {
    {SAY("cloud", "ECHO:streamed and whole", ",\"stream\":true"), "streamed and whole", NULL, false},
    {SAY("cloud", "ECHO:not streamed", ""), "not streamed", NULL, false},
    {SAY("cloud", "TOOL:get_weather {}",
         ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{}}}]"),
     "get_weather({})", NULL, false},
    {SAY("device", "hello", ",\"stream\":true,\"tandem\":{\"conversation\":\"c1\",\"labels\":[\"pii\"]}"),
     DEVICE_ANSWER, NULL, true},
    {"{\"model\":\"cloud\",\"messages\":[{\"role\":\"use", NULL, "tandem.request.json", false},
    {SAY("nobody", "x", ""), NULL, "tandem.model.not_found", false},
    {SAY("first", "ECHO:FAILME over there", ""), "FAILME over there", NULL, false},
    {SAY("first", "CUTME about rivers", ",\"stream\":true"), NULL, NULL, false},
    {SAY("auto", "the diagnosis of this patient", ",\"tandem\":{\"residency\":\"eu\"}"), DEVICE_ANSWER, NULL, true},
};

static const char config[] =
    "version: 1\n"
    "connectivity: auto\n"
    "targets:\n"
    "  - {name: device, tier: device, provider: llama, model: \"%s\", quality: 0.3}\n"
    "  - {name: first, tier: cloud, provider: openai, base_url: \"http://127.0.0.1:%u/bad/v1\", model: m, region: "
    "us, clearance: internal, quality: 0.9, continues: true, fallback: [cloud], headers: {x-first: yes}}\n"
    "  - {name: cloud, tier: cloud, provider: openai, base_url: \"http://127.0.0.1:%u/v1\", model: good, region: us, "
    "clearance: internal, quality: 0.8, continues: true, price: {input: 1, output: 2}}\n"
    "policy: {rules: [{name: stay, when: {labels: [phi]}, allow: {tiers: device}}], content: {labels: {phi: {words: "
    "[diagnosis], class: restricted}}}}\n";

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned ends;
    bool late; // something came after the end
    char text[1024], code[64];
};

static void add(struct answer *a, const char *text) {
    size_t n = strlen(a->text);
    snprintf(a->text + n, sizeof a->text - n, "%s", text);
}

static void on_answer(void *user, const struct td_answer *ev) {
    struct answer *a = user;
    pthread_mutex_lock(&a->lock);
    a->late |= a->ends > 0;
    if (ev->type == TD_ANSWER_TEXT) {
        add(a, ev->text);
    } else if (ev->type == TD_ANSWER_TOOL_CALL) {
        char call[256];
        snprintf(call, sizeof call, "%s(%s)", ev->name, ev->arguments);
        add(a, call);
    } else if (ev->type == TD_ANSWER_ERROR) {
        snprintf(a->code, sizeof a->code, "%s", ev->code);
    }
    if (ev->type == TD_ANSWER_END || ev->type == TD_ANSWER_ERROR) {
        a->ends++;
        pthread_cond_signal(&a->cond);
    }
    pthread_mutex_unlock(&a->lock);
}

// True: answered (or refused) as it should be when nothing fails.
static bool put(struct td_runtime *rt, const struct ask *ask) {
    struct answer a = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, false, "", ""};
    struct td_failure failure = {0};
    struct td_call *call = NULL;
    struct timespec until;
    if (td_chat(rt, ask->body, strlen(ask->body), NULL, on_answer, &a, &call, &failure) != 0) {
        if (strncmp(failure.code, "tandem.", 7) != 0)
            complain("a request was refused without a code", ask->body);
        snprintf(a.code, sizeof a.code, "%s", failure.code);
    } else {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 60;
        pthread_mutex_lock(&a.lock);
        while (a.ends == 0)
            if (pthread_cond_timedwait(&a.cond, &a.lock, &until) != 0)
                complain("a request never ended", ask->body);
        pthread_mutex_unlock(&a.lock);
        td_call_release(call); // after this nothing comes any more
        if (a.ends != 1 || a.late)
            complain("a request did not end exactly once", ask->body);
    }
    if (a.code[0] && strncmp(a.code, "tandem.", 7) != 0)
        complain("an error without a code of ours", a.code);
    if (torture_failing == 0 && a.code[0] && !ask->error)
        fprintf(stderr, "%s\n", a.code);
    if (!a.code[0] && ask->error)
        complain("an answer where an error is due", ask->body);
    if (!a.code[0] && ask->answer && strcmp(a.text, ask->answer) != 0)
        complain("a wrong answer", a.text);
    return ask->error ? strcmp(a.code, ask->error) == 0 : a.code[0] == 0;
}

// ---- one round

static void device_script(void *user, const struct td_attempt_spec *spec, struct td_fake_script *out) {
    (void)user;
    (void)spec;
    *out = (struct td_fake_script){.text = TD_STR(DEVICE_ANSWER), .prompt_tokens = 9, .logprob = -0.01f};
}

static void remove_folder(const char *path) {
    char at[512];
    DIR *d = opendir(path);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        snprintf(at, sizeof at, "%s/%s", path, e->d_name);
        unlink(at); // the data directory holds files alone
    }
    if (d)
        closedir(d);
    rmdir(path);
}

// The device's guest is replaced by the fake: what is tortured is the house, and a guest takes long to start.
static struct td_backend *replace_device(struct td_worker *w, struct td_backend *by) {
    struct td_backend *was = w->local;
    w->local = by;
    return was;
}

// Asks everything. False: the runtime could not be opened.
static bool run(const char *model, uint64_t fail_at) {
    char text[4096], dir[] = "/tmp/tandem-torture-XXXXXX";
    struct td_failure failure = {0};
    struct td_runtime *rt = NULL;
    if (!mkdtemp(dir))
        complain("no scratch folder", "");
    snprintf(text, sizeof text, config, model, upstream.port, upstream.port);
    struct td_options options = {.config_text = text, .data_dir = dir, .workers = 1, .log = TD_LOG_QUIET};
    td_alloc_fail_at(fail_at);
    if (td_runtime_open(&options, &rt, &failure) != 0) {
        td_alloc_fail_at(0);
        if (strncmp(failure.code, "tandem.", 7) != 0 || !failure.message[0])
            complain("open failed without saying why", failure.code);
        remove_folder(dir);
        return false;
    }
    struct td_backend *fake = td_fake_create(rt->workers[0].loop, device_script, NULL), *real = NULL;
    if (fake)
        real = replace_device(&rt->workers[0], fake);
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++)
        if ((fake || !asks[i].device) && !put(rt, &asks[i]) && fail_at == TORTURE_NONE)
            complain("not answered as it should be", asks[i].body);
    // Whatever it was, it is over: the next request is answered.
    bool well = false;
    for (int i = 0; i < 100 && !well; i++) {
        well = put(rt, &asks[1]);
        if (!well)
            nanosleep(&(struct timespec){0, 100000000}, NULL);
    }
    if (!well)
        complain("not well afterwards", "");
    if (real)
        replace_device(&rt->workers[0], real);
    td_runtime_close(rt);
    torture_allocations = td_alloc_count();
    td_alloc_fail_at(0);
    td_fake_destroy(fake);
    remove_folder(dir);
    return true;
}

int main(int argc, char **argv) {
    static const char script[] =
        "{\"queue\":[{\"match\":\"FAILME\",\"path\":\"/bad/v1/chat/completions\",\"status\":401,"
        "\"times\":1000000000},{\"match\":\"CUTME\",\"path\":\"/bad/v1/chat/completions\","
        "\"cut_after_tokens\":5,\"times\":1000000000}]}";
    const char *model = getenv("TORTURE_MODEL");
    if (!torture_options(argc, argv) || !model)
        return 2;
    const char *const args[] = {"--tokens", "12", "--script", script, NULL};
    upstream_start(&upstream, args);
    torture_each(run, model, complain, "opening");
    upstream_stop(&upstream);
    return 0;
}
