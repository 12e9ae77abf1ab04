// SPDX-License-Identifier: Apache-2.0
// Candidate: Tandem's own listener on one worker, with the core replaced by instant answers. Usage: candidate-tandem
// PORT
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fake_runtime.h"
#include "server/server.h"

int main(int argc, char **argv) {
    struct td_runtime *runtime = fake_runtime_create(1);
    struct td_listen_settings settings = {.address = "127.0.0.1", .port = (unsigned)atoi(argc > 1 ? argv[1] : "18505")};
    struct td_server *server;
    struct td_failure failure;
    if (td_server_start(runtime, &settings, &server, &failure) != 0) {
        fprintf(stderr, "%s: %s\n", failure.code, failure.message);
        return 1;
    }
    struct fake_counts *counts = fake_runtime_counts(runtime);
    for (int seen = 0;; usleep(500))
        if (atomic_load(&counts->released_early) != seen) {
            seen = atomic_load(&counts->released_early);
            puts("gone");
            fflush(stdout);
        }
}
