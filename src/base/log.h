// SPDX-License-Identifier: Apache-2.0
// One log line is one logfmt record on standard error: time, level, component, exchange id, what was being done. There
// is no way to log prompt text: callers pass short, fixed-vocabulary values, and the message is capped at 512 bytes
// with control bytes escaped. Any thread; a line is one write(2).
#ifndef TD_BASE_LOG_H
#define TD_BASE_LOG_H

#include <stdbool.h>

#include "base/err.h"

enum td_log_level { TD_LOG_ERROR, TD_LOG_WARN, TD_LOG_INFO, TD_LOG_DEBUG };

void td_log_set_level(enum td_log_level level); // default: info
bool td_log_on(enum td_log_level level);
// `component` e.g. "remote"; `exchange` an exchange id or NULL. The format gives logfmt pairs, e.g. "while=connect
// err=%s".
void td_log(enum td_log_level level, const char *component, const char *exchange, const char *fmt, ...) TD_PRINTF(4, 5);

#endif
