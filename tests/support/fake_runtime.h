// SPDX-License-Identifier: Apache-2.0
// A runtime without a core: real worker threads and loops, and answers by path, so that whatever stands in front of
// td_http_call can be tested and measured alone.
//   /v1/echo              200 with the request's body, at once
//   /v1/chat/completions  200 with 1 KiB of JSON, at once
//   /v1/later             200 with the body, from the loop after 5 ms
//   /v1/about             200 with method, path, query, peer, local, subject and header names and values as text
//   /v1/sse               400 events, one each 20 ms, each with its send time as "t"; ?n= events, ?ms= apart
//   /v1/hold              no answer
//   /v1/flood             a stream of 4 KiB pieces, as many as the client takes; ?n= pieces, then a clean end
//   /v1/cut               a streamed answer that breaks off after "some"; /v1/short: 5 of 10 announced bytes
//   /v1/evil              headers that try to split the response
//   /v1/silent            ends without a head
//   /v1/long              a turn of the loop in three parts: "first" is streamed; the answer ends; the turn ends.
//   Between
//                         them the loop breathes, and waits (5 s at most) until the test has set `long_turn` to 1 and 2
#ifndef TD_TESTS_FAKE_RUNTIME_H
#define TD_TESTS_FAKE_RUNTIME_H

#include <stdatomic.h>
#include <stdbool.h>

#include "tandem/admin.h"

struct td_runtime *fake_runtime_create(unsigned workers);
void fake_runtime_destroy(struct td_runtime *runtime);

// What happened so far, over all workers.
struct fake_counts {
    atomic_int calls, live, released_early, stops, proceeds, overrun; // overrun: pieces made while told to stop
    atomic_long pieces;
    atomic_bool unready;
    atomic_int long_turn;
};
struct fake_counts *fake_runtime_counts(struct td_runtime *runtime);

#endif
