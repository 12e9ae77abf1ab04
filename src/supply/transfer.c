// SPDX-License-Identifier: Apache-2.0
#include "supply/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/beneath.h"
#include "loop/loop.h"
#include "remote/remote.h"

#define REDIRECTS_MAX 5u
#define TRIES_MAX 5u // of one file; each goes on where the one before broke off

static enum td_err fail(struct td_error *e, enum td_err err, const char *message) {
    return td_error_set(e, err, "%s", message);
}

static bool same_origin(const char *url, const char *origin) {
    size_t n = strlen(origin);
    return n > 0 && strncmp(url, origin, n) == 0 && (url[n] == '/' || url[n] == 0 || url[n] == '?');
}

void td_transfer_keep_origin(struct td_transfer *p) {
    const char *host = strstr(p->url, "://");
    size_t n = host ? (size_t)(host + 3 - p->url) + strcspn(host + 3, "/?#") : 0;
    memcpy(p->origin, p->url, n);
    p->origin[n] = 0;
}

// "NAME.part" and "NAME.part.etag", both beneath the models' folder.
static int open_beside(struct td_transfer *p, const char *suffix, int flags) {
    char name[320];
    snprintf(name, sizeof name, "%s%s", p->name, suffix);
    return td_beneath_open(p->folder, name, flags | O_NOFOLLOW, 0644);
}

static void remove_beside(struct td_transfer *p, const char *suffix) {
    char name[320];
    snprintf(name, sizeof name, "%s%s", p->name, suffix);
    unlinkat(p->folder, name, 0);
}

// The ETag a part belongs to stands beside it, so that a later run can go on. Written before the first byte of the
// part: a run that is killed leaves both.
static void remember_etag(struct td_transfer *p, bool write) {
    int fd = open_beside(p, ".part.etag", write ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY);
    FILE *f = fd < 0 ? NULL : fdopen(fd, write ? "w" : "r");
    if (f && write)
        fputs(p->etag, f);
    else if (f && !fgets(p->etag, sizeof p->etag, f))
        p->etag[0] = 0;
    if (f)
        fclose(f);
    else if (fd >= 0)
        close(fd);
}

// A digest of this file alone, and one of all parts of a model in their order.
static void begin_hash(struct td_transfer *p) {
    crypto_hash_sha256_init(&p->hash);
    p->whole = p->whole_before;
}

static void add_hash(struct td_transfer *p, const void *bytes, size_t n) {
    crypto_hash_sha256_update(&p->hash, bytes, n);
    if (p->parts > 1)
        crypto_hash_sha256_update(&p->whole, bytes, n);
}

static bool on_head(void *user, const struct td_fetch_head *head) {
    struct td_transfer *p = user;
    p->status = head->status;
    if (head->status >= 300 && head->status < 400 && head->location.n && head->location.n < sizeof p->url) {
        p->redirected = true;
        if (head->location.p[0] == '/') { // relative to the host: RFC 9110 section 10.2.2
            const char *host = strstr(p->url, "://");
            size_t n = host ? (size_t)(host + 3 - p->url) + strcspn(host + 3, "/?#") : 0;
            if (n + head->location.n >= sizeof p->url)
                return false;
            memcpy(p->url + n, head->location.p, head->location.n);
            p->url[n + head->location.n] = 0;
        } else {
            memcpy(p->url, head->location.p, head->location.n);
            p->url[head->location.n] = 0;
        }
        return false;
    }
    if (!p->to_file)
        return head->status == 200;
    if (head->status == 206 && head->range_start == (int64_t)p->have) {
        p->total = head->range_total > 0 ? (uint64_t)head->range_total : 0;
        return true;
    }
    if (head->status != 200) {
        // Nothing is missing (the ETag still fits, else all of it would come), or the part is longer than the file now
        // is.
        p->complete = head->status == 416 && p->have && head->range_total == (int64_t)p->have;
        p->restart = head->status == 416 && !p->complete;
        return false;
    }
    // The whole file comes (the server cannot resume, or the file has changed).
    if (p->have && (ftruncate(p->fd, 0) != 0 || lseek(p->fd, 0, SEEK_SET) != 0)) {
        p->write_failed = true;
        return false;
    }
    p->have = 0;
    begin_hash(p);
    p->total = head->content_length > 0 ? (uint64_t)head->content_length : 0;
    snprintf(p->etag, sizeof p->etag, "%.*s", (int)(head->etag.n < 255 ? head->etag.n : 0),
             head->etag.n ? head->etag.p : "");
    remember_etag(p, true);
    return true;
}

static bool on_data(void *user, struct td_str bytes) {
    struct td_transfer *p = user;
    if (!p->to_file)
        return td_buf_add_str(&p->body, bytes) == TD_OK;
    // The first bytes tell a model from a page that says why there is none.
    for (size_t i = 0; i < bytes.n && p->have + i < 4; i++)
        if (bytes.p[i] != "GGUF"[p->have + i])
            p->not_gguf = true;
    if (p->not_gguf)
        return false;
    add_hash(p, bytes.p, bytes.n);
    while (bytes.n) {
        ssize_t put = write(p->fd, bytes.p, bytes.n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            p->write_failed = true;
            return false;
        }
        bytes.p += put;
        bytes.n -= (size_t)put;
        p->have += (uint64_t)put;
    }
    if (p->options->on_progress && !p->options->on_progress(p->options->user, p->have, p->total))
        p->stopped = true;
    return !p->stopped;
}

static void on_done(void *user, enum td_err err, int status, const char *message) {
    struct td_transfer *p = user;
    p->err = err;
    if (status)
        p->status = status;
    snprintf(p->message, sizeof p->message, "%s", message ? message : td_err_text(err));
    td_loop_stop(p->loop);
}

// One GET of p->url; leaves status, err and what came in *p.
static enum td_err get_once(struct td_transfer *p, struct td_error *e) {
    struct td_egress_check check = {.allowed = true, .data_class = TD_CLASS_PUBLIC, .policy_version = 1};
    struct td_grant_terms terms = {.kind = TD_GRANT_MODEL_PULL, .url = td_str_of(p->url)};
    struct td_fetch *fetch = NULL;
    struct td_fetch_spec spec = {.kind = TD_GRANT_MODEL_PULL,
                                 .url = td_str_of(p->url),
                                 .range_from = p->to_file ? (int64_t)p->have : 0,
                                 .if_range = p->to_file && p->have ? td_str_of(p->etag) : TD_STR_NONE,
                                 .bytes_max = p->to_file ? UINT64_MAX : TD_LISTING_BYTES_MAX,
                                 .private_ok = true,
                                 .ca_file = p->options->ca_file ? td_str_of(p->options->ca_file) : TD_STR_NONE,
                                 .on_head = on_head,
                                 .on_data = on_data,
                                 .on_done = on_done,
                                 .user = p};
    if (getenv("HF_TOKEN") && same_origin(p->url, p->origin))
        spec.auth_ref = TD_STR("env:HF_TOKEN");
    td_loop_destroy(p->loop);
    p->loop = td_loop_create();
    if (!p->loop)
        return fail(e, TD_ERR_NOMEM, "out of memory");
    enum td_err err = td_remote_create(p->loop, NULL, &p->remote, e);
    if (err == TD_OK)
        err = td_grant_issue(&p->arena, &check, &terms, TD_STR_NONE, &spec.grant, e);
    if (err == TD_OK)
        err = td_remote_fetch(p->remote, &spec, &fetch, e);
    if (err == TD_OK)
        td_loop_run(p->loop);
    td_fetch_destroy(fetch);
    td_remote_destroy(p->remote);
    p->remote = NULL;
    return err;
}

// Follows redirects: each is a new request with a grant of its own.
static enum td_err get(struct td_transfer *p, struct td_error *e) {
    for (unsigned hop = 0; hop <= REDIRECTS_MAX; hop++) {
        bool was_secure = strncmp(p->url, "https://", 8) == 0;
        p->redirected = p->restart = p->complete = false;
        p->status = 0;
        enum td_err err = get_once(p, e);
        if (err != TD_OK || !p->redirected)
            return err;
        if (was_secure && strncmp(p->url, "https://", 8) != 0)
            return fail(e, TD_ERR_TLS, "the server redirects from https to something else");
    }
    return fail(e, TD_ERR_UPSTREAM_GARBAGE, "too many redirects");
}

// The part of the URL between its scheme and its path: whom we talked to, without what may be secret in a query.
static struct td_str host_of(const char *url) {
    const char *from = strstr(url, "://");
    from = from ? from + 3 : url;
    return td_str_n(from, strcspn(from, "/?#"));
}

enum td_err td_transfer_listing(struct td_transfer *p, struct td_error *e) {
    td_transfer_keep_origin(p);
    p->to_file = false;
    enum td_err err = get(p, e);
    if (err == TD_OK && p->err != TD_OK && p->status == 0)
        return td_error_set(e, p->err, "%.*s: the repository's file list could not be read: %s",
                            TD_STR_ARG(host_of(p->url)), td_err_text(p->err));
    if (err == TD_OK && (p->err != TD_OK || p->status != 200))
        err = td_error_set(e,
                           p->status == 404  ? TD_ERR_NOT_FOUND
                           : p->err != TD_OK ? p->err
                                             : TD_ERR_UPSTREAM_SERVER,
                           "the repository's file list could not be read (HTTP status %d)", p->status);
    return err;
}

// ---- file

static enum td_err hash_part(struct td_transfer *p, struct td_error *e) {
    unsigned char buf[65536];
    ssize_t n;
    begin_hash(p);
    p->have = 0;
    if (lseek(p->fd, 0, SEEK_SET) != 0)
        return fail(e, TD_ERR_IO, "the partial file cannot be read");
    while ((n = read(p->fd, buf, sizeof buf)) > 0) {
        add_hash(p, buf, (size_t)n);
        p->have += (uint64_t)n;
    }
    return n == 0 ? TD_OK : fail(e, TD_ERR_IO, "the partial file cannot be read");
}

static void forget_part(struct td_transfer *p) {
    remove_beside(p, ".part.etag");
    remove_beside(p, ".part");
}

// The first pull may come before the first start, which makes the data directory; only its owner may look into either.
static bool make_folders(const char *path) {
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (n >= sizeof part)
        return false;
    for (size_t i = 1; i <= n; i++)
        if (i == n || path[i] == '/') {
            memcpy(part, path, i);
            part[i] = 0;
            if (mkdir(part, 0700) != 0 && errno != EEXIST)
                return false;
        }
    return true;
}

enum td_err td_transfer_init(struct td_transfer *p, const struct td_pull *options, struct td_error *e) {
    *p = (struct td_transfer){.options = options, .fd = -1, .folder = -1, .parts = 1};
    td_arena_init(&p->arena, 64 << 20);
    td_buf_init(&p->body, TD_LISTING_BYTES_MAX);
    crypto_hash_sha256_init(&p->whole_before);
    if (!make_folders(options->dir) || (p->folder = open(options->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        return td_error_set(e, TD_ERR_IO, "the directory %s cannot be made: %s", options->dir, strerror(errno));
    return TD_OK;
}

void td_transfer_finish(struct td_transfer *p) {
    if (p->fd >= 0)
        close(p->fd);
    if (p->folder >= 0)
        close(p->folder);
    td_loop_destroy(p->loop);
    td_buf_finish(&p->body);
    td_arena_finish(&p->arena);
}

static enum td_err open_part(struct td_transfer *p, const char *name, struct td_error *e) {
    if (p->fd >= 0)
        close(p->fd);
    snprintf(p->name, sizeof p->name, "%s", name);
    p->etag[0] = 0;
    p->err = TD_OK;
    p->write_failed = p->not_gguf = false;
    p->fd = open_beside(p, ".part", O_RDWR | O_CREAT);
    if (p->fd < 0)
        return td_error_set(e, TD_ERR_IO, "%s/%s.part cannot be written: %s", p->options->dir, name, strerror(errno));
    remember_etag(p, false);
    if (!p->etag[0] && ftruncate(p->fd, 0) != 0) // nothing says what the part belongs to
        return fail(e, TD_ERR_IO, "the partial file cannot be emptied");
    return hash_part(p, e);
}

static enum td_err finish_file(struct td_transfer *p, struct td_error *e) {
    unsigned char digest[crypto_hash_sha256_BYTES];
    char text[65];
    crypto_hash_sha256_final(&p->hash, digest);
    sodium_bin2hex(text, sizeof text, digest, sizeof digest);
    if (p->expected[0] && strcasecmp(p->expected, text) != 0) {
        forget_part(p);
        return td_error_set(e, TD_ERR_UPSTREAM_GARBAGE, "the file's SHA-256 is %.16s…, expected %.16s…", text,
                            p->expected);
    }
    if (fsync(p->fd) != 0)
        return td_error_set(e, TD_ERR_IO, "%s cannot be written: %s", p->name, strerror(errno));
    p->bytes += p->have;
    p->unverified |= !p->expected[0];
    p->whole_before = p->whole;
    memcpy(p->sha256, text, sizeof text);
    return TD_OK;
}

enum td_err td_transfer_place(struct td_transfer *p, const char *name, struct td_error *e) {
    char part[320];
    snprintf(p->name, sizeof p->name, "%s", name);
    snprintf(part, sizeof part, "%s.part", name);
    if (renameat(p->folder, part, p->folder, name) != 0)
        return td_error_set(e, TD_ERR_IO, "%s cannot be moved into place: %s", name, strerror(errno));
    forget_part(p);
    return TD_OK;
}

void td_transfer_forget(struct td_transfer *p, const char *name) {
    snprintf(p->name, sizeof p->name, "%s", name);
    forget_part(p);
}

enum td_err td_transfer_fetch(struct td_transfer *p, const char *name, const char *url, struct td_error *e) {
    enum td_err err = open_part(p, name, e);
    p->to_file = true;
    for (unsigned try = 0; err == TD_OK && try < TRIES_MAX; try++) {
        uint64_t before = p->have;
        snprintf(p->url, sizeof p->url, "%s", url);
        err = get(p, e);
        if (err != TD_OK)
            break;
        if (p->not_gguf) {
            forget_part(p);
            return fail(e, TD_ERR_UPSTREAM_GARBAGE, "what the server sends is not a GGUF file");
        }
        bool whole = p->complete ||
                     (p->err == TD_OK && (p->status == 200 || p->status == 206) && (!p->total || p->have == p->total));
        if (whole)
            return finish_file(p, e);
        if (p->stopped)
            return fail(e, TD_ERR_CANCELLED, "stopped; what was fetched stays for the next try");
        if (p->write_failed)
            return fail(e, TD_ERR_IO, "the file cannot be written (disk full?)");
        if (p->restart) {
            p->etag[0] = 0;
            if (ftruncate(p->fd, 0) != 0 || hash_part(p, e) != TD_OK)
                return fail(e, TD_ERR_IO, "the partial file cannot be emptied");
        } else if (p->status >= 400) {
            return td_error_set(e, p->status == 404 ? TD_ERR_NOT_FOUND : TD_ERR_UPSTREAM_REQUEST, "HTTP status %d",
                                p->status);
        } else if (p->have > before) {
            try = 0; // it moves: go on as long as it does
        }
    }
    return err != TD_OK ? err
                        : td_error_set(e, p->err != TD_OK ? p->err : TD_ERR_CUT, "%.*s: %s",
                                       TD_STR_ARG(host_of(p->url)), p->message);
}

enum td_err td_transfer_copy(struct td_transfer *p, const char *name, const char *source, struct td_error *e) {
    char buf[65536];
    ssize_t n = 0;
    int from = open(source, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return td_error_set(e, TD_ERR_NOT_FOUND, "%s: %s", source, strerror(errno));
    enum td_err err = open_part(p, name, e);
    if (err == TD_OK && (ftruncate(p->fd, 0) != 0 || hash_part(p, e) != TD_OK))
        err = fail(e, TD_ERR_IO, "the partial file cannot be emptied");
    p->to_file = true;
    while (err == TD_OK && (n = read(from, buf, sizeof buf)) > 0)
        if (!on_data(p, td_str_n(buf, (size_t)n)))
            err = p->not_gguf  ? fail(e, TD_ERR_USAGE, "it is not a GGUF file")
                  : p->stopped ? fail(e, TD_ERR_CANCELLED, "stopped")
                               : fail(e, TD_ERR_IO, "the file cannot be written (disk full?)");
    if (err == TD_OK && n < 0)
        err = fail(e, TD_ERR_IO, "the file cannot be read");
    close(from);
    if (err != TD_OK)
        forget_part(p);
    return err == TD_OK ? finish_file(p, e) : err;
}
