// SPDX-License-Identifier: Apache-2.0
// A server that says byte for byte what a case wants: a thread that answers each request on each connection with the
// same bytes, or wildly. One in a process.
#ifndef TD_TESTS_RAW_SERVER_H
#define TD_TESTS_RAW_SERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// An event of a stream with one choice.
#define CHUNK(rest) "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0," rest "}]}\n\n"

struct raw_server {
    int listener;
    uint16_t port;
    pthread_t thread;
    pthread_mutex_t lock; // guards what follows
    const char *reply;
    size_t reply_n, piece; // piece: bytes a send; 0 all at once
    bool close_after, early, close_idle, babble;
    bool wild;        // each answer is of its request, and comes in some other way
    bool stall;       // what comes after a first request is not read
    unsigned strange; // bytes of requests that no request should have
    unsigned number;  // that the last request's body named
    unsigned slow_us; // between two reads
    unsigned connections, requests, open;
    char request[8192];
    size_t request_n; // head of the last one
    size_t body_n;
    uint32_t body_sum;
    atomic_bool stop;
};
extern struct raw_server raw;

bool raw_open(void);
void raw_close(void);
// FNV-1a, as raw.body_sum has it.
uint32_t sum_of(const char *p, size_t n);
// Listens on `address`; port 0 becomes the one there is. -1: it cannot.
int listen_on(const char *address, uint16_t *port, int backlog);
// The same numbers each time, one row for each thread: the test's, the server's.
extern uint32_t dices[2];
unsigned roll_one(uint32_t *dice, unsigned sides);

#endif
