// SPDX-License-Identifier: Apache-2.0
// The guest's walls, put up after the back ends are loaded and before a byte of the model file is read: no new
// privileges, no file by name (Landlock where the kernel has it), and a list of system calls without open, exec, fork,
// socket or executable memory. What the guest needs it holds already: the model's descriptor and its socket pairs.
#ifndef TD_HOST_SANDBOX_H
#define TD_HOST_SANDBOX_H

#include <stdint.h>

#include "base/err.h"

// *walls gets enum td_sandbox bits (local/protocol.h). Call on the only thread. Fails where seccomp is not available:
// the caller decides whether to go on.
enum td_err host_sandbox_enter(uint32_t *walls, struct td_error *e) TD_MUST_USE;

#endif
