// SPDX-License-Identifier: Apache-2.0
// What the wire room costs on its own: nanoseconds per operation, best of several rounds.
// usage: bench-wire [SECONDS]        default 2, over all rows
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>

#include "base/time.h"
#include "wire/openai_answer.h"
#include "wire/openai_provider.h"
#include "wire/openai_request.h"
#include "wire/sse.h"

static struct td_buf body; // a chat request of about 2 KB
static struct td_buf chunk, whole;
static struct td_request request;
static struct td_arena request_arena;

static void must(enum td_err err) {
    if (err == TD_OK)
        return;
    fprintf(stderr, "bench-wire: %s\n", td_err_text(err));
    exit(1);
}

static void make_inputs(void) {
    struct td_error e;
    td_buf_init(&body, 1 << 20);
    must(
        td_buf_addz(&body, "{\"model\":\"auto\",\"messages\":[{\"role\":\"system\",\"content\":\"You are helpful.\"}"));
    for (int i = 0; i < 8; i++)
        must(
            td_buf_printf(&body,
                          ",{\"role\":\"%s\",\"content\":\"Turn %d: the quick brown fox jumps over the lazy dog, and "
                          "then it jumps back again,\\nbecause \\\"once\\\" was not enough for anybody who watched it, "
                          "least of all the dog itself.\"}",
                          i % 2 ? "assistant" : "user", i));
    must(td_buf_addz(&body, ",{\"role\":\"user\",\"content\":\"And now?\"}],\"temperature\":0.7,\"max_tokens\":256,"
                            "\"stream\":true,\"stream_options\":{\"include_usage\":true},\"user\":\"u-1\"}"));
    td_arena_init(&request_arena, TD_ARENA_BYTES_MAX);
    must(td_openai_read_chat(&request_arena, td_buf_str(&body), &request, &e));
    td_buf_init(&chunk, 1 << 20);
    must(td_buf_addz(&chunk, "data: {\"id\":\"chatcmpl-123456789\",\"object\":\"chat.completion.chunk\",\"created\":"
                             "1700000000,\"model\":\"big-model-2025\",\"system_fingerprint\":\"fp_44709d6fcb\","
                             "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,"
                             "\"finish_reason\":null}]}\n\n"));
    td_buf_init(&whole, 1 << 20);
}

static void read_request(void) {
    struct td_arena arena;
    struct td_request req;
    struct td_error e;
    td_arena_init(&arena, TD_ARENA_BYTES_MAX);
    must(td_openai_read_chat(&arena, td_buf_str(&body), &req, &e));
    td_arena_finish(&arena);
}

static void write_request(void) {
    struct td_write_spec spec = {.model = TD_STR("big-model"), .stream = true, .same_dialect = true};
    td_buf_clear(&whole);
    must(td_openai_write_request(&request, &spec, &whole));
}

static bool count(void *user, const struct td_sse_event *ev) {
    *(size_t *)user += ev->data.n;
    return true;
}
static struct td_sse sse;
static size_t counted;
static void parse_sse(void) {
    must(td_sse_feed(&sse, td_buf_str(&chunk)));
}

static struct td_reader *reader;
static struct td_answer_writer *writer;
static bool relay;
static void on_event(void *user, const struct td_event *ev) {
    (void)user;
    counted++;
    if (relay && ev->type != TD_EV_START)
        must(td_openai_answer_event(writer, ev, &whole));
}
static void new_reader(bool raw) {
    struct td_reader_spec spec = {
        .stream = true, .raw = raw, .on_event = on_event, .reply_bytes_max = SIZE_MAX, .id = TD_STR("X")};
    td_openai_reader_destroy(reader);
    must(td_openai_reader_create(&spec, &reader));
}
static void read_chunk(void) {
    td_openai_reader_feed(reader, td_buf_str(&chunk));
}

static void write_chunk(void) {
    static const struct td_event ev = {.type = TD_EV_DELTA, .delta = {.text = {" token", 6}}};
    td_buf_clear(&whole);
    must(td_openai_answer_event(writer, &ev, &whole));
}

static void relay_chunk(void) {
    td_buf_clear(&whole);
    read_chunk();
}

static void measure(const char *name, void (*fn)(void), double seconds) {
    double best = 1e18;
    uint64_t end = td_now_ns() + (uint64_t)(seconds * 1e9);
    do {
        uint64_t from = td_now_ns();
        for (int i = 0; i < 50; i++) // short rounds: a busy machine interrupts the long ones
            fn();
        double ns = (double)(td_now_ns() - from) / 50;
        best = ns < best ? ns : best;
    } while (td_now_ns() < end);
    printf("%-52s %8.0f ns\n", name, best);
}

static void machine(void) {
    struct utsname u;
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "model name", 10) == 0) {
            printf("machine: %s", strchr(line, ':') + 2);
            break;
        }
    }
    if (f)
        fclose(f);
    if (uname(&u) == 0)
        printf("system:  %s %s %s\n", u.sysname, u.release, u.machine);
}

int main(int argc, char **argv) {
    double each = (argc > 1 ? atof(argv[1]) : 2) / 8;
    char name[80];
    struct td_answer_spec spec = {
        .exchange = TD_STR("01JD3Z9V5R8T4C2B6N7M1K0H3G"), .model = TD_STR("big-model"), .stream = true};
    machine();
    make_inputs();
    must(td_openai_answer_create(&spec, &writer));
    snprintf(name, sizeof name, "read a chat request of %zu bytes", body.n);
    measure(name, read_request, each);
    measure("write it for a provider", write_request, each);
    td_sse_init(&sse, TD_SSE_LINE_BYTES_MAX, count, &counted);
    snprintf(name, sizeof name, "parse one event of %zu bytes", chunk.n);
    measure(name, parse_sse, each);
    new_reader(false);
    measure("read it into a canonical event", read_chunk, each);
    new_reader(true);
    measure("the same, keeping the provider's chunk", read_chunk, each);
    measure("write one text frame for a client", write_chunk, each);
    relay = true;
    new_reader(false);
    measure("relay one chunk (read and write)", relay_chunk, each);
    new_reader(true);
    measure("relay one chunk, unknown fields passed through", relay_chunk, each);
    td_openai_reader_destroy(reader);
    td_openai_answer_destroy(writer);
    td_sse_finish(&sse);
    td_arena_finish(&request_arena);
    td_buf_finish(&body);
    td_buf_finish(&chunk);
    td_buf_finish(&whole);
    return counted == 0;
}
