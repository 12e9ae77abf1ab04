// SPDX-License-Identifier: Apache-2.0
// Between the manager and the workers' backends (this room only): how an attempt finds a guest. A worker wants a model,
// waits until it is told to look again, takes a guest, says when it is done with it. Any thread; a guest's descriptor
// belongs to the worker it was made for.
#ifndef TD_LOCAL_GUEST_H
#define TD_LOCAL_GUEST_H

#include "local/manager.h"
#include "local/protocol.h"

struct td_model; // lives as long as the manager
struct td_guest; // counted

// `fn` runs on the worker's loop whenever a model it waits for may have changed. TD_ERR_USAGE: no such worker, or
// taken.
enum td_err td_manager_attach(struct td_manager *m, unsigned worker, struct td_loop *loop, void (*fn)(void *arg),
                              void *arg) TD_MUST_USE;
void td_manager_detach(struct td_manager *m, unsigned worker);

// A keyed hash of a prompt, the same for all workers.
uint64_t td_manager_prompt(const struct td_manager *m, struct td_str body);
// Registers one waiting attempt for this target's model and wakes the manager where it must load. `prompt` is the
// body's hash. The errors are those of td_local_create's list.
enum td_err td_manager_want(struct td_manager *m, const struct td_target *target, uint64_t prompt,
                            struct td_model **out, struct td_error *e) TD_MUST_USE;
// The attempt waits no more (it was destroyed).
void td_manager_unwant(struct td_manager *m, struct td_model *model);
// Takes the model's guest if it is ready: *out set (counted, one attempt active), the attempt waits no more. *out NULL:
// still loading. An error: it failed since `want` (the attempt waits no more either).
enum td_err td_manager_take(struct td_manager *m, struct td_model *model, struct td_guest **out,
                            struct td_error *e) TD_MUST_USE;
// The guest that was taken turned out to be gone: the attempt waits again.
void td_manager_put_back(struct td_manager *m, struct td_model *model, struct td_guest *guest);
// The attempt has left the guest; `served`: with an answer or a typed error, so the guest is well.
void td_manager_done(struct td_manager *m, struct td_guest *guest, bool served);
// The guest ended while this prompt was in it. Counted against the prompt when the guest ended by itself.
void td_manager_suspect(struct td_manager *m, struct td_guest *guest, uint64_t prompt);
// The guest broke the protocol: end it.
void td_manager_condemn(struct td_manager *m, struct td_guest *guest);
// The connection to it is gone. Where it has ended that will be known in a moment; else nobody could reach it ever
// again from there, and it is replaced.
void td_manager_lost(struct td_manager *m, struct td_guest *guest);
// How did the guest end whose connection is gone? False: that is not known yet (a note follows). TD_ERR_HOST_MEMORY:
// for want of memory, by itself or by the kernel; TD_ERR_HOST_CRASH: in any other way, or nobody has found out for too
// long.
bool td_manager_end_of(struct td_manager *m, const struct td_guest *guest, enum td_err *end);
// The worker's connection to the guest, given away once: -1 afterwards.
int td_guest_connection(struct td_manager *m, struct td_guest *guest, unsigned worker);
// Back again, unused; -1 does nothing.
void td_guest_return(struct td_manager *m, struct td_guest *guest, unsigned worker, int fd);
void td_guest_hold(struct td_manager *m, struct td_guest *guest);
void td_guest_drop(struct td_manager *m, struct td_guest *guest);

#endif
