// SPDX-License-Identifier: Apache-2.0
// Tables for the exchange: a plan, a script of inputs in short words, and the trace of effects it must give.
//
// Script, words separated by spaces:
//   go  gone  stall  flow  drain  abort  disk  nodisk   the inputs without an attempt
//   @250         the clock moves to 250 ms after arrival, and TIMER comes
//   0:on         STARTED         0:hi        the target accepted (START event, model "m0")
//   0:'text'     DELTA           0:90'text'  DELTA of one token with probability 0.90
//   0:?'text'    REASONING       0:*'{"a":'  TOOL_CALL piece (the first of an attempt carries id and name)
//   0:~'text'    DELTA after an event that could not be read
//   0:1'text'    would be a probability: choices are written 0:#1'text'
//   0:stop 0:length 0:tools 0:filter        FINISH of choice 0;  0:#1stop of choice 1
//   0:use,10,5   USAGE prompt, completion    0:end  END
//   0:!CUT  0:!UPSTREAM_RATE,429,1500       ERROR code[,status[,retry_after_ms]]
//   0:no,OVERLOAD                            REFUSED
//   -retry +retry -hedge +hedge              the shared budgets (both have room at first)
//
// Trace: S start (with connect=MS where the attempt gets a limit of its own), X cancel, R record, P pause, U resume, Q
// outbox; B begin, "text", O origin, V revision, F finish, D done (D~ degraded), E error; . end.
#ifndef TD_TESTS_EXCHANGE_SCRIPT_H
#define TD_TESTS_EXCHANGE_SCRIPT_H

#include "unit.h"

#include "exchange/exchange.h"

enum { DEVICE, CLOUD, SPARE, EDGE, TARGETS };

struct setup {
    enum td_mode mode;
    const char *steps; // one letter a step: d device, c cloud, s spare (refuses prefixes), e edge
    bool aware, whole; // understands revisions; does not stream
    bool outbox, degraded, durable, logprobs;
    enum td_on_cut on_cut;
    double min_quality, threshold;
    uint32_t retries, hold_tokens, hold_ms, hedge_ms, refine_ms, max_tokens, n, context;
    uint32_t connect_ms, connect_late_ms; // of every step
    uint64_t deadline_ms;
    enum td_format format;
    enum td_kind kind;
    const char *stop;
    const char *declines; // the device's
    bool command;         // the device is a command model
};

struct run {
    struct td_arena arena;
    struct td_request request;
    struct td_plan plan;
    struct td_target targets[TARGETS];
    struct td_exchange *x;
    struct td_buf trace;
    uint64_t now_ns, timer_ns;
    bool retry_budget, hedge_budget;
    uint32_t starts, records, cancels, ends, dones, errors;
    uint32_t started_bits, recorded_bits;
    int64_t cost_nusd, end_cost_nusd;
    struct td_usage usage, usage_total;
};

void run_open(struct run *r, const struct setup *s);
void run_script(struct run *r, const char *script);
void run_close(struct run *r);

struct row {
    const char *name;
    struct setup setup;
    const char *script, *trace;
};
// Opens, runs and compares each; prints both traces on a difference.
void run_rows(const struct row *rows, size_t count);
#define RUN_ROWS(rows) run_rows(rows, sizeof(rows) / sizeof *(rows))

#endif
