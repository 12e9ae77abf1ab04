// SPDX-License-Identifier: Apache-2.0
// How many attempts a local model takes at once. Two regimes:
//
//   PATIENT   a burst may wait: up to eight times what it takes alone (a second at least), queue_max at most
//      │ somebody had to be turned away           ▲ fewer than a quarter were lately, or nobody for five seconds
//      ▼                                          │
//   OVERLOAD  as turning away cannot be helped, those let in are served in time: `limit` attempts at once, moved
//             so that one in a hundred takes longer than `slowdown_max` times what one in a hundred takes alone
//
// "Alone" is learned, never configured: time to first token by length of the prompt and time per token of attempts that
// had the model to themselves. By Little's law the mean number inside is throughput times latency, so the limit that
// holds the latency finds by itself how many decode together: about one and a half where one fills the processor, all
// slots and some waiting where decoding together costs little. The limit has a fraction: at 1.7 a second one is let in
// when the first has been alone for 0.3 of the time between two ends. Under lasting overload nobody is ever alone; so
// now and then, and when a lower limit did not help, one attempt is given the model to itself and measured again.
//
// Two loops: the mean of a round of answers moves the limit, slowly, for a machine that is slower for some seconds is
// not fuller; and how far the slowest of a hundred lie above the mean, of those alone and of those together, says where
// the mean should be. One in a hundred is too rare to steer by, how far it lies from the mean changes little.
//
// `batch` attempts get half of the burst's queue; under overload they are let in only while nobody interactive was
// turned away lately. A value without a lock or a clock: the caller has both.
#ifndef TD_TARGET_LIMIT_H
#define TD_TARGET_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#define TD_LIMIT_LENGTHS 18u // of prompts, by powers of two from 16 tokens on

// How much slower than the mean of those about it the slowest of a hundred is.
struct td_limit_spread {
    double mean; // times what it takes alone
    double p99;  // times that; 0 not known
    uint32_t count, over;
};

struct td_limit {
    // from the configuration
    uint32_t slots;      // decode together; 0: no limit at all
    uint32_t queue_max;  // may wait, however long it takes
    double slowdown_max; // 0: only queue_max counts
    // now
    uint32_t active;
    uint64_t changed_ns; // when `active` last did
    uint64_t entered;    // attempts ever let in: tells who stayed alone
    bool overloaded;
    double limit; // under overload; kept for the next one; 0 not known
    uint64_t turned_ns, turned_interactive_ns;
    double turned_share; // of those who came lately
    // learned; microseconds, 0 unknown
    double first_us[TD_LIMIT_LENGTHS], token_us; // alone
    uint32_t first_count[TD_LIMIT_LENGTHS], token_count;
    double alone_us; // what recent ones would have taken alone
    double gap_us;   // from one end to the next while there is work
    uint64_t gap_from_ns;
    struct td_limit_spread alone, together; // of answers in calm that had the model to themselves; under overload
    double slowdown;                        // mean of the last round
    // the round that decides about the next step of the limit
    uint64_t round_from, round_ns; // counts who entered later; when it began
    double round_sum;
    uint32_t round_count, rounds;     // rounds: since the overload began
    double mark_limit, mark_slowdown; // before it was lowered
    uint32_t measure_after;           // ends until the next measure; short while what was learned is in doubt
    uint32_t measure;                 // attempts still to be given the model to themselves
    uint32_t age;                     // ends since one was alone
    uint64_t turned[2];               // ever turned away: interactive, batch
};

// A new configuration; what was learned stays.
void td_limit_set(struct td_limit *l, uint32_t slots, uint32_t queue_max, double slowdown_max);
// May one more come in?
bool td_limit_room(struct td_limit *l, bool batch, uint64_t now_ns);

struct td_limit_ticket {
    uint64_t number;
    bool alone; // nobody else was inside when it came
};
struct td_limit_ticket td_limit_enter(struct td_limit *l, uint64_t now_ns);
// Somebody was not let in because of the limit.
void td_limit_turned_away(struct td_limit *l, bool batch, uint64_t now_ns);

struct td_limit_done {
    uint32_t prompt_tokens; // that had to be read: without what was still in memory
    uint32_t tokens;        // of the answer; 0 where there are none (embeddings)
    uint64_t first_us, duration_us;
};
// It is over. `done`: a whole answer that nobody else slowed down (a client, a load); NULL: it says nothing.
void td_limit_leave(struct td_limit *l, const struct td_limit_ticket *ticket, const struct td_limit_done *done,
                    uint64_t now_ns);

// How many may be inside now.
double td_limit_now(const struct td_limit *l);
// When one that was turned away may come again.
uint32_t td_limit_retry_ms(const struct td_limit *l);

#endif
