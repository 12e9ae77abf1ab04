// SPDX-License-Identifier: Apache-2.0
// Fetching model files. States: resolve (repository → URL and digest), fetch (resumed where possible, redirects taken
// one by one with a grant each and without credentials on another host), verify, move into place.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/limits.h"
#include "loop/loop.h"
#include "remote/remote.h"
#include "tandem/admin.h"

#define REDIRECTS_MAX 5u
#define URL_BYTES_MAX 4096u
#define LISTING_BYTES_MAX (16u << 20) // a repository's file list
#define TRIES_MAX 5u                  // of one file; each goes on where the one before broke off

struct pull {
    const struct td_pull *options;
    struct td_pulled *out;
    struct td_loop *loop;
    struct td_remote *remote;
    struct td_arena arena;
    char url[URL_BYTES_MAX], origin[URL_BYTES_MAX]; // origin: scheme and host the credentials belong to
    char expected[65], etag[256], part[4400];
    int fd;
    uint64_t have, total;
    crypto_hash_sha256_state hash;
    struct td_buf body; // of a listing
    bool to_file, redirected, restart, write_failed, stopped, not_gguf;
    int status;
    enum td_err err;
    char message[240];
};

static enum td_err fail(struct td_error *e, enum td_err err, const char *message) {
    return td_error_set(e, err, "%s", message);
}

static bool same_origin(const char *url, const char *origin) {
    size_t n = strlen(origin);
    return n > 0 && strncmp(url, origin, n) == 0 && (url[n] == '/' || url[n] == 0 || url[n] == '?');
}

static void keep_origin(struct pull *p) {
    const char *host = strstr(p->url, "://");
    size_t n = host ? (size_t)(host + 3 - p->url) + strcspn(host + 3, "/?#") : 0;
    memcpy(p->origin, p->url, n);
    p->origin[n] = 0;
}

// The ETag a part belongs to stands beside it, so that a later run can go on. Written before the first byte of the
// part: a run that is killed leaves both.
static void remember_etag(struct pull *p, bool write) {
    char path[4500];
    snprintf(path, sizeof path, "%s.etag", p->part);
    FILE *f = fopen(path, write ? "w" : "r");
    if (f && write)
        fputs(p->etag, f);
    else if (f && !fgets(p->etag, sizeof p->etag, f))
        p->etag[0] = 0;
    if (f)
        fclose(f);
}

static bool on_head(void *user, const struct td_fetch_head *head) {
    struct pull *p = user;
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
        p->restart = head->status == 416; // the part is longer than the file now is
        return false;
    }
    // The whole file comes (the server cannot resume, or the file has changed).
    if (p->have && (ftruncate(p->fd, 0) != 0 || lseek(p->fd, 0, SEEK_SET) != 0)) {
        p->write_failed = true;
        return false;
    }
    p->have = 0;
    crypto_hash_sha256_init(&p->hash);
    p->total = head->content_length > 0 ? (uint64_t)head->content_length : 0;
    snprintf(p->etag, sizeof p->etag, "%.*s", (int)(head->etag.n < 255 ? head->etag.n : 0),
             head->etag.n ? head->etag.p : "");
    remember_etag(p, true);
    return true;
}

static bool on_data(void *user, struct td_str bytes) {
    struct pull *p = user;
    if (!p->to_file)
        return td_buf_add_str(&p->body, bytes) == TD_OK;
    // The first bytes tell a model from a page that says why there is none.
    for (size_t i = 0; i < bytes.n && p->have + i < 4; i++)
        if (bytes.p[i] != "GGUF"[p->have + i])
            p->not_gguf = true;
    if (p->not_gguf)
        return false;
    crypto_hash_sha256_update(&p->hash, (const unsigned char *)bytes.p, bytes.n);
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
    struct pull *p = user;
    p->err = err;
    if (status)
        p->status = status;
    snprintf(p->message, sizeof p->message, "%s", message ? message : td_err_text(err));
    td_loop_stop(p->loop);
}

// One GET of p->url; leaves status, err and what came in *p.
static enum td_err get_once(struct pull *p, struct td_error *e) {
    struct td_egress_check check = {.allowed = true, .data_class = TD_CLASS_PUBLIC, .policy_version = 1};
    struct td_grant_terms terms = {.kind = TD_GRANT_MODEL_PULL, .url = td_str_of(p->url)};
    struct td_fetch *fetch = NULL;
    struct td_fetch_spec spec = {.kind = TD_GRANT_MODEL_PULL,
                                 .url = td_str_of(p->url),
                                 .range_from = p->to_file ? (int64_t)p->have : 0,
                                 .if_range = p->to_file && p->have ? td_str_of(p->etag) : TD_STR_NONE,
                                 .bytes_max = p->to_file ? UINT64_MAX : LISTING_BYTES_MAX,
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
static enum td_err get(struct pull *p, struct td_error *e) {
    for (unsigned hop = 0; hop <= REDIRECTS_MAX; hop++) {
        bool was_secure = strncmp(p->url, "https://", 8) == 0;
        p->redirected = p->restart = false;
        p->status = 0;
        enum td_err err = get_once(p, e);
        if (err != TD_OK || !p->redirected)
            return err;
        if (was_secure && strncmp(p->url, "https://", 8) != 0)
            return fail(e, TD_ERR_TLS, "the server redirects from https to something else");
    }
    return fail(e, TD_ERR_UPSTREAM_GARBAGE, "too many redirects");
}

// --------------------------------------------------------------------------------------------------------------- names
// --

// Letters, digits, dot, dash, underscore; no leading dot: what may become a file's name here.
static bool good_name(struct td_str s) {
    if (s.n == 0 || s.n > 200 || s.p[0] == '.')
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
              c == '_'))
            return false;
    }
    return true;
}

static struct td_str last_part(const char *path) {
    size_t n = strcspn(path, "?#");
    size_t from = n;
    while (from > 0 && path[from - 1] != '/')
        from--;
    return td_str_n(path + from, n - from);
}

static bool is_digest(const char *z) {
    return strlen(z) == 64 && strspn(z, "0123456789abcdefABCDEF") == 64;
}

// owner/name[:file] → URL, file name and digest, from the repository's file list.
static enum td_err resolve_repository(struct pull *p, const char *source, struct td_error *e) {
    const char *endpoint = getenv("HF_ENDPOINT") ? getenv("HF_ENDPOINT") : "https://huggingface.co";
    const char *colon = strchr(source, ':');
    struct td_str repo = td_str_n(source, colon ? (size_t)(colon - source) : strlen(source));
    struct td_str wanted = td_str_of(colon ? colon + 1 : ""), found = TD_STR_NONE, digest = TD_STR_NONE;
    td_json *root, *file;
    size_t i, n;
    unsigned candidates = 0;
    if (snprintf(p->url, sizeof p->url, "%s/api/models/%.*s/tree/main?recursive=true", endpoint, TD_STR_ARG(repo)) >=
        (int)sizeof p->url)
        return fail(e, TD_ERR_LIMIT, "the repository's name is too long");
    keep_origin(p);
    enum td_err err = get(p, e);
    if (err == TD_OK && (p->err != TD_OK || p->status != 200))
        err = td_error_set(e,
                           p->status == 404  ? TD_ERR_NOT_FOUND
                           : p->err != TD_OK ? p->err
                                             : TD_ERR_UPSTREAM_SERVER,
                           "the repository's file list could not be read (HTTP status %d)", p->status);
    if (err == TD_OK)
        err = td_json_parse(&p->arena, td_buf_str(&p->body), 16, &root, e);
    if (err != TD_OK)
        return err;
    yyjson_arr_foreach(root, i, n, file) {
        struct td_str path = td_json_get_str(file, "path");
        bool gguf = path.n > 5 && td_str_ieq(td_str_n(path.p + path.n - 5, 5), TD_STR(".gguf"));
        if (wanted.n ? !td_str_eq(path, wanted) : !gguf)
            continue;
        candidates++;
        found = path;
        digest = td_json_get_str(td_json_get(file, "lfs"), "oid");
    }
    if (candidates == 0)
        return fail(e, TD_ERR_NOT_FOUND, "the repository has no such GGUF file");
    if (candidates > 1)
        return td_error_set(e, TD_ERR_USAGE, "the repository has %u GGUF files: name one as owner/name:file",
                            candidates);
    if (digest.n == 64)
        snprintf(p->expected, sizeof p->expected, "%.*s", TD_STR_ARG(digest));
    if (snprintf(p->url, sizeof p->url, "%s/%.*s/resolve/main/%.*s", endpoint, TD_STR_ARG(repo), TD_STR_ARG(found)) >=
        (int)sizeof p->url)
        return fail(e, TD_ERR_LIMIT, "the file's name is too long");
    struct td_str base = last_part(p->url);
    snprintf(p->out->name, sizeof p->out->name, "%.*s", TD_STR_ARG(base));
    return TD_OK;
}

// ---------------------------------------------------------------------------------------------------------------- file
// --

static enum td_err hash_part(struct pull *p, struct td_error *e) {
    unsigned char buf[65536];
    ssize_t n;
    crypto_hash_sha256_init(&p->hash);
    p->have = 0;
    if (lseek(p->fd, 0, SEEK_SET) != 0)
        return fail(e, TD_ERR_IO, "the partial file cannot be read");
    while ((n = read(p->fd, buf, sizeof buf)) > 0) {
        crypto_hash_sha256_update(&p->hash, buf, (unsigned long long)n);
        p->have += (uint64_t)n;
    }
    return n == 0 ? TD_OK : fail(e, TD_ERR_IO, "the partial file cannot be read");
}

static void forget_part(struct pull *p) {
    char path[4500];
    snprintf(path, sizeof path, "%s.etag", p->part);
    unlink(path);
    unlink(p->part);
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

static enum td_err open_part(struct pull *p, struct td_error *e) {
    if (!make_folders(p->options->dir))
        return td_error_set(e, TD_ERR_IO, "the directory %s cannot be made: %s", p->options->dir, strerror(errno));
    snprintf(p->out->path, sizeof p->out->path, "%s/%s", p->options->dir, p->out->name);
    snprintf(p->part, sizeof p->part, "%s.part", p->out->path);
    p->fd = open(p->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (p->fd < 0)
        return td_error_set(e, TD_ERR_IO, "%s cannot be written: %s", p->part, strerror(errno));
    remember_etag(p, false);
    if (!p->etag[0] && ftruncate(p->fd, 0) != 0) // nothing says what the part belongs to
        return fail(e, TD_ERR_IO, "the partial file cannot be emptied");
    return hash_part(p, e);
}

static enum td_err finish_file(struct pull *p, struct td_error *e) {
    unsigned char digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_final(&p->hash, digest);
    sodium_bin2hex(p->out->sha256, sizeof p->out->sha256, digest, sizeof digest);
    p->out->bytes = p->have;
    if (p->expected[0] && strcasecmp(p->expected, p->out->sha256) != 0) {
        forget_part(p);
        return td_error_set(e, TD_ERR_UPSTREAM_GARBAGE, "the file's SHA-256 is %.16s…, expected %.16s…", p->out->sha256,
                            p->expected);
    }
    p->out->verified = p->expected[0] != 0;
    if (fsync(p->fd) != 0 || rename(p->part, p->out->path) != 0)
        return td_error_set(e, TD_ERR_IO, "%s cannot be moved into place: %s", p->out->path, strerror(errno));
    forget_part(p);
    return TD_OK;
}

static enum td_err fetch_file(struct pull *p, struct td_error *e) {
    char first_url[URL_BYTES_MAX];
    enum td_err err = open_part(p, e);
    snprintf(first_url, sizeof first_url, "%s", p->url);
    p->to_file = true;
    for (unsigned try = 0; err == TD_OK && try < TRIES_MAX; try++) {
        uint64_t before = p->have;
        snprintf(p->url, sizeof p->url, "%s", first_url);
        err = get(p, e);
        if (err != TD_OK)
            break;
        if (p->not_gguf) {
            forget_part(p);
            return fail(e, TD_ERR_UPSTREAM_GARBAGE, "what the server sends is not a GGUF file");
        }
        bool whole = p->err == TD_OK && (p->status == 200 || p->status == 206) && (!p->total || p->have == p->total);
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
    return err != TD_OK ? err : td_error_set(e, p->err != TD_OK ? p->err : TD_ERR_CUT, "%s", p->message);
}

static enum td_err copy_local(struct pull *p, const char *source, struct td_error *e) {
    char buf[65536];
    ssize_t n = 0;
    int from = open(source, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return td_error_set(e, TD_ERR_NOT_FOUND, "%s: %s", source, strerror(errno));
    enum td_err err = open_part(p, e);
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

// A folder stands for the one model in it.
static enum td_err only_model(struct pull *p, const char *folder, char path[PATH_MAX], struct td_error *e) {
    DIR *dir = opendir(folder);
    struct dirent *entry;
    unsigned count = 0;
    if (!dir)
        return td_error_set(e, TD_ERR_NOT_FOUND, "%.160s: %s", folder, strerror(errno));
    while ((entry = readdir(dir))) {
        struct td_str name = td_str_of(entry->d_name);
        if (name.n > 5 && td_str_ieq(td_str_n(name.p + name.n - 5, 5), TD_STR(".gguf")) && count++ == 0) {
            snprintf(path, PATH_MAX, "%s/%s", folder, entry->d_name);
            snprintf(p->out->name, sizeof p->out->name, "%s", entry->d_name);
        }
    }
    closedir(dir);
    return count == 1
               ? TD_OK
               : td_error_set(e, count ? TD_ERR_USAGE : TD_ERR_NOT_FOUND,
                              count ? "%.160s holds %u GGUF files: name one of them" : "%.160s holds no GGUF file",
                              folder, count);
}

static enum td_err run(struct pull *p, struct td_error *e) {
    const char *source = p->options->source;
    bool url = strncmp(source, "https://", 8) == 0 || strncmp(source, "http://", 7) == 0;
    if (p->options->sha256) {
        if (!is_digest(p->options->sha256))
            return fail(e, TD_ERR_USAGE, "a SHA-256 has 64 hexadecimal digits");
        memcpy(p->expected, p->options->sha256, 64);
    }
    bool local = !url && (source[0] == '/' || source[0] == '.' || access(source, R_OK) == 0);
    char inside[PATH_MAX];
    struct stat st;
    enum td_err err = TD_OK;
    if (url && strlen(source) >= sizeof p->url)
        return fail(e, TD_ERR_LIMIT, "the URL is too long");
    if (url || local) {
        struct td_str base = last_part(source);
        snprintf(p->out->name, sizeof p->out->name, "%.*s", (int)(base.n < 255 ? base.n : 255), base.p);
    }
    if (local && stat(source, &st) == 0 && S_ISDIR(st.st_mode)) {
        err = only_model(p, source, inside, e);
        source = inside;
    }
    if (url) {
        snprintf(p->url, sizeof p->url, "%s", source);
        // A token in the environment is for Hugging Face alone.
        p->origin[0] = 0;
    } else if (!local) {
        err = resolve_repository(p, source, e);
    }
    if (err != TD_OK)
        return err;
    if (!good_name(td_str_of(p->out->name)))
        return fail(e, TD_ERR_USAGE, "the file's name has characters that may not be in a model's name");
    return local ? copy_local(p, source, e) : fetch_file(p, e);
}

int td_models_pull(const struct td_pull *options, struct td_pulled *out, struct td_failure *failure) {
    struct pull *p = td_calloc(1, sizeof *p);
    struct td_error e = {0};
    enum td_err err = TD_ERR_NOMEM;
    memset(out, 0, sizeof *out);
    if (p && sodium_init() >= 0) {
        p->options = options;
        p->out = out;
        p->fd = -1;
        td_arena_init(&p->arena, 64 << 20);
        td_buf_init(&p->body, LISTING_BYTES_MAX);
        err = run(p, &e);
        if (p->fd >= 0)
            close(p->fd);
        td_loop_destroy(p->loop);
        td_buf_finish(&p->body);
        td_arena_finish(&p->arena);
    }
    td_free(p);
    if (err != TD_OK && failure) {
        snprintf(failure->code, sizeof failure->code, "%s", td_err_code(err));
        snprintf(failure->message, sizeof failure->message, "%s", e.message[0] ? e.message : td_err_text(err));
    }
    return err != TD_OK;
}

int td_model_inspect(const char *path, struct td_pulled *out, struct td_failure *failure) {
    unsigned char buf[65536], digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_state hash;
    const char *problem = NULL;
    ssize_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    memset(out, 0, sizeof *out);
    crypto_hash_sha256_init(&hash);
    while (fd >= 0 && (n = read(fd, buf, sizeof buf)) > 0) {
        if (out->bytes == 0 && (n < 4 || memcmp(buf, "GGUF", 4) != 0)) {
            problem = "it is not a GGUF file";
            break;
        }
        crypto_hash_sha256_update(&hash, buf, (unsigned long long)n);
        out->bytes += (uint64_t)n;
    }
    if (fd < 0 || n < 0)
        problem = strerror(errno);
    else if (!problem && out->bytes == 0)
        problem = "it is empty";
    if (fd >= 0)
        close(fd);
    struct td_str base = last_part(path);
    if (!problem && !good_name(base))
        problem = "its name has characters that may not be in a model's name";
    if (problem) {
        if (failure) {
            snprintf(failure->code, sizeof failure->code, "%s", td_err_code(TD_ERR_USAGE));
            snprintf(failure->message, sizeof failure->message, "%.150s: %.80s", path, problem);
        }
        return 1;
    }
    crypto_hash_sha256_final(&hash, digest);
    sodium_bin2hex(out->sha256, sizeof out->sha256, digest, sizeof digest);
    snprintf(out->name, sizeof out->name, "%.*s", TD_STR_ARG(base));
    snprintf(out->path, sizeof out->path, "%s", path);
    return 0;
}
