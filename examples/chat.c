// SPDX-License-Identifier: Apache-2.0
// The library in some fifty lines: open a runtime, ask one question, print the answer as it comes, and say where it
// came from.
//   cc chat.c $(pkg-config --cflags --libs tandem) -o chat && ./chat "set a timer for 10 minutes"
#include <pthread.h>
#include <stdio.h>
#include <tandem/tandem.h>

// What the model may do: one tool of the assistant catalogue, as OpenAI requests have it.
static const char tools[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"timer\",\"description\":\"Set, check or cancel a timer.\","
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"action\":{\"type\":\"string\",\"enum\":[\"set\",\"check\","
    "\"cancel\"]},\"duration\":{\"type\":\"string\",\"description\":\"Length as said, e.g. 10 minutes\"},\"label\":{"
    "\"type\":\"string\",\"description\":\"What it is for\"}},\"required\":[\"action\"]}}}]";

struct wait {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void on_answer(void *user, const struct td_answer *a) {
    struct wait *w = user;
    if (a->type == TD_ANSWER_TEXT)
        fputs(a->text, stdout);
    else if (a->type == TD_ANSWER_TOOL_CALL)
        printf("%s(%s)", a->name, a->arguments);
    else if (a->type == TD_ANSWER_END)
        printf("\n[%s, %s, $%.6f]\n", a->target, a->tier, (double)a->cost_nusd / 1e9);
    else if (a->type == TD_ANSWER_ERROR)
        printf("failed: %s (%s)\n", a->text, a->code);
    if (a->type == TD_ANSWER_END || a->type == TD_ANSWER_ERROR) {
        pthread_mutex_lock(&w->lock);
        w->done = true;
        pthread_cond_signal(&w->cond);
        pthread_mutex_unlock(&w->lock);
    }
}

int main(int argc, char **argv) {
    struct wait w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    struct td_options options = {.config_path = argc > 2 ? argv[2] : NULL};
    struct td_failure failure;
    struct td_runtime *runtime;
    struct td_call *call;
    char body[4096];
    int n = snprintf(body, sizeof body,
                     "{\"model\":\"auto\",\"tools\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}", tools,
                     argc > 1 ? argv[1] : "set a timer for 10 minutes"); // a real program escapes the text
    if (n < 0 || (size_t)n >= sizeof body)
        return 2;
    if (td_runtime_open(&options, &runtime, &failure) != 0) {
        fprintf(stderr, "%s (%s)\n", failure.message, failure.code);
        return 1;
    }
    if (td_chat(runtime, body, (size_t)n, NULL, on_answer, &w, &call, &failure) == 0) {
        pthread_mutex_lock(&w.lock);
        while (!w.done)
            pthread_cond_wait(&w.cond, &w.lock);
        pthread_mutex_unlock(&w.lock);
        td_call_release(call);
    }
    td_runtime_close(runtime);
    return 0;
}
