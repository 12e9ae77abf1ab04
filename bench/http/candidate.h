// SPDX-License-Identifier: Apache-2.0
// What each candidate server answers, so that the same load meets the same work: POST anything → 1 KiB of JSON;
// GET /sse → `CANDIDATE_TOKENS` server-sent events, one each 20 ms, each carrying its send time; POST /hold → no answer
// until the client goes away, which is reported on standard output as "gone".
#ifndef TD_BENCH_CANDIDATE_H
#define TD_BENCH_CANDIDATE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CANDIDATE_TOKENS = 400, CANDIDATE_TOKEN_MS = 20, CANDIDATE_ANSWER_BYTES = 1024 };

static inline uint64_t candidate_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline const char *candidate_answer(void) {
    static char text[CANDIDATE_ANSWER_BYTES + 1];
    if (!text[0]) {
        int n =
            snprintf(text, sizeof text, "{\"object\":\"chat.completion\",\"choices\":[{\"message\":{\"content\":\"");
        memset(text + n, 'x', sizeof text - (size_t)n);
        memcpy(text + CANDIDATE_ANSWER_BYTES - 5, "\"}}]}", 6);
    }
    return text;
}

static inline int candidate_token(char *out, size_t cap, int number) {
    return snprintf(
        out, cap,
        "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\","
        "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"w%d \"},\"finish_reason\":null}],\"t\":%llu}\n\n",
        number, (unsigned long long)candidate_now_ns());
}

#endif
