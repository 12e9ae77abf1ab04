// SPDX-License-Identifier: Apache-2.0
#include "remote/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/beneath.h"

#define FLAGS (O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)

// The part after `form`, or false.
static bool after(struct td_str ref, struct td_str form, struct td_str *rest) {
    if (!td_str_starts(ref, form) || ref.n == form.n)
        return false;
    *rest = td_str_n(ref.p + form.n, ref.n - form.n);
    return memchr(rest->p, 0, rest->n) == NULL;
}

bool td_secret_is_ref(struct td_str ref) {
    struct td_str rest;
    return after(ref, TD_STR("env:"), &rest) || after(ref, TD_STR("file:"), &rest) ||
           (after(ref, TD_STR("credential:"), &rest) && td_is_component(rest));
}

static enum td_err take(struct td_str raw, const char *what, struct td_secret *out, struct td_error *e) {
    struct td_str s = td_str_trim(raw);
    if (s.n == 0)
        return td_error_set(e, TD_ERR_CONFIG, "the secret in %s is empty", what);
    if (s.n > TD_SECRET_BYTES_MAX)
        return td_error_set(e, TD_ERR_CONFIG, "the secret in %s is longer than %u bytes", what, TD_SECRET_BYTES_MAX);
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f)
            return td_error_set(e, TD_ERR_CONFIG, "the secret in %s holds a control character", what);
    char *copy = td_strndup(s.p, s.n);
    if (!copy)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading a secret");
    *out = (struct td_secret){copy, s.n};
    return TD_OK;
}

// Takes over `fd`, of the file at `path`; -1: it could not be opened.
static enum td_err read_file(int fd, const char *path, bool strict, struct td_secret *out, struct td_error *e) {
    char bytes[TD_SECRET_BYTES_MAX + 2];
    struct stat st;
    size_t n = 0;
    enum td_err err;
    if (fd < 0)
        return td_error_set(e, TD_ERR_CONFIG, "the secret file %s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        err = td_error_set(e, TD_ERR_CONFIG, "the secret file %s is not a regular file", path);
        goto out;
    }
    if (strict && (st.st_mode & (S_IROTH | S_IWOTH | S_IWGRP))) {
        err = td_error_set(e, TD_ERR_CONFIG, "the secret file %s is open to others (mode %04o): chmod 600 it", path,
                           st.st_mode & 07777);
        goto out;
    }
    while (n < sizeof bytes) {
        ssize_t got = read(fd, bytes + n, sizeof bytes - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            err = td_error_set(e, TD_ERR_CONFIG, "the secret file %s: %s", path, strerror(errno));
            goto out;
        }
        if (got == 0)
            break;
        n += (size_t)got;
    }
    err = take(td_str_n(bytes, n), path, out, e);
out:
    sodium_memzero(bytes, sizeof bytes);
    close(fd);
    return err;
}

enum td_err td_secret_resolve(struct td_str ref, struct td_secret *out, struct td_error *e) {
    struct td_str rest;
    char name[4096], what[4200];
    *out = (struct td_secret){NULL, 0};
    bool env = after(ref, TD_STR("env:"), &rest), file = !env && after(ref, TD_STR("file:"), &rest);
    if (!env && !file && (!after(ref, TD_STR("credential:"), &rest) || !td_is_component(rest)))
        return td_error_set(e, TD_ERR_CONFIG, "a secret is env:NAME, file:PATH or credential:NAME");
    if (rest.n >= sizeof name)
        return td_error_set(e, TD_ERR_CONFIG, "a secret's reference is too long");
    snprintf(name, sizeof name, "%.*s", TD_STR_ARG(rest));
    if (file)
        return read_file(open(name, FLAGS), name, true, out, e);
    if (env) {
        const char *value = getenv(name);
        if (!value)
            return td_error_set(e, TD_ERR_CONFIG, "the environment variable %.100s is not set", name);
        snprintf(what, sizeof what, "the environment variable %.100s", name);
        return take(td_str_of(value), what, out, e);
    }
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    if (!directory)
        return td_error_set(e, TD_ERR_CONFIG, "credential:%.100s: CREDENTIALS_DIRECTORY is not set", name);
    int n = snprintf(what, sizeof what, "%s/%s", directory, name);
    if (n < 0 || (size_t)n >= sizeof what)
        return td_error_set(e, TD_ERR_CONFIG, "credential:%.100s: the path is too long", name);
    // The service manager made that directory for this service alone and owns its modes. A credential's name is one
    // component of a path (systemd.exec(5)).
    int folder = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = folder < 0 ? -1 : td_beneath_open(folder, name, FLAGS, 0);
    int problem = errno;
    if (folder >= 0)
        close(folder);
    errno = problem;
    return read_file(fd, what, false, out, e);
}

void td_secret_finish(struct td_secret *s) {
    if (s->p)
        sodium_memzero(s->p, s->n);
    td_free(s->p);
    *s = (struct td_secret){NULL, 0};
}
