// SPDX-License-Identifier: Apache-2.0
// Clocks and random numbers. Decisions never call these: they take `now` and draws as inputs. Any thread.
#ifndef TD_BASE_TIME_H
#define TD_BASE_TIME_H

#include <stddef.h>
#include <stdint.h>

#define TD_MS_NS 1000000ull
#define TD_S_NS 1000000000ull

// Monotonic nanoseconds (CLOCK_MONOTONIC); never goes back, stops with the machine's sleep.
uint64_t td_now_ns(void);
// Wall clock, milliseconds since 1970-01-01 UTC; may jump.
int64_t td_wall_ms(void);
// Cryptographically strong random bytes: getrandom(2), else /dev/urandom. Up to 16 bytes (ids, draws) come from a store
// that each thread fills with one system call for many; more (keys) straight from the kernel.
void td_random(void *p, size_t n);
// A new id: 26 characters of Crockford base 32, sortable by time (48 bits of milliseconds, 80 random bits), plus NUL.
void td_id_new(char out[27]);

#endif
