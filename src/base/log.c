// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static atomic_int level_now = TD_LOG_INFO;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

void td_log_set_level(enum td_log_level level) {
    atomic_store(&level_now, (int)level);
}

bool td_log_on(enum td_log_level level) {
    return (int)level <= atomic_load_explicit(&level_now, memory_order_relaxed);
}

void td_log(enum td_log_level level, const char *component, const char *exchange, const char *fmt, ...) {
    if (!td_log_on(level))
        return;
    char line[768];
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    int n =
        snprintf(line, sizeof line, "ts=%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ level=%s component=%s%s%s ",
                 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000,
                 level_names[level], component, exchange ? " exchange=" : "", exchange ? exchange : "");
    if (n < 0 || n > 200)
        return;
    va_list args;
    va_start(args, fmt);
    int m = vsnprintf(line + n, 512, fmt, args);
    va_end(args);
    if (m < 0)
        return;
    int end = n + (m < 511 ? m : 511);
    for (int i = n; i < end; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = ' ';
    line[end++] = '\n';
    ssize_t done = write(STDERR_FILENO, line, (size_t)end);
    (void)done; // a log that cannot be written must not stop the program
}
