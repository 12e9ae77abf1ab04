// SPDX-License-Identifier: Apache-2.0
// What the two tortures share: a round is run with all memory there, which counts its allocations, then once for each
// of them, which fails. One thread calls.
#ifndef TD_TESTS_TORTURE_EACH_H
#define TD_TESTS_TORTURE_EACH_H

#include <stdbool.h>
#include <stdint.h>

#define TORTURE_NONE UINT64_MAX // counts, fails none

extern uint64_t torture_failing;     // the allocation that fails in this round; 0 none
extern uint64_t torture_allocations; // of the last round; the round sets it

// The words of the command line: --every N, --first N, --last N. False: they make no sense.
bool torture_options(int argc, char **argv);
// Runs `round` as often as the command line says and prints a line. `complain` ends the program; it is told of a
// descriptor that a round left open. False from a round: it was refused at its beginning, `what` then.
void torture_each(bool (*round)(const char *arg, uint64_t fail_at), const char *arg,
                  void (*complain)(const char *what, const char *more), const char *what);

#endif
