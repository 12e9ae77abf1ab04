// SPDX-License-Identifier: Apache-2.0
// From what the user calls a model (an URL, a file, a folder, a repository) to the files it is made of, one or, where
// the name says so, many parts; then each is transferred, and all are moved into place.
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/beneath.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/part_name.h"
#include "supply/name.h"
#include "supply/transfer.h"

struct piece {
    const char *name, *from; // in the folder; URL or path
    char digest[65];         // "" none is known
};

struct pull {
    struct td_transfer t;
    struct td_pulled *out;
    struct piece *pieces;
    unsigned count;
};

static enum td_err fail(struct td_error *e, enum td_err err, const char *message) {
    return td_error_set(e, err, "%s", message);
}

// The pieces of what lies at `from`: its last part is a file's name, what follows `from + end` belongs to an URL.
static enum td_err make_pieces(struct pull *p, const char *from, size_t end, struct td_error *e) {
    struct td_part_name part = {.count = 1};
    struct td_str base = td_supply_last_part(td_str_n(from, end));
    bool split = td_part_name_read(td_str_n(from, end), &part);
    if (split && part.count > TD_MODEL_PARTS_MAX)
        return td_error_set(e, TD_ERR_LIMIT, "a model may have at most %u parts", TD_MODEL_PARTS_MAX);
    if (!td_supply_good_name(base))
        return fail(e, TD_ERR_USAGE, "the file's name has characters that may not be in a model's name");
    p->pieces = td_arena_array(&p->t.arena, part.count, sizeof *p->pieces);
    for (unsigned i = 0; p->pieces && i < part.count; i++) {
        char path[TD_URL_BYTES_MAX + 256];
        if (split && !td_part_name_write(&part, i + 1, path, sizeof path))
            return fail(e, TD_ERR_LIMIT, "the name is too long");
        struct td_str where =
            split ? td_arena_printf(&p->t.arena, "%s%s", path, from + end) : td_arena_str(&p->t.arena, td_str_of(from));
        struct td_str name = td_arena_str(&p->t.arena, split ? td_supply_last_part(td_str_of(path)) : base);
        if (!where.p || !name.p)
            return fail(e, TD_ERR_NOMEM, "out of memory");
        p->pieces[i] = (struct piece){name.p, where.p, ""};
    }
    p->count = p->t.parts = part.count;
    return p->pieces ? TD_OK : fail(e, TD_ERR_NOMEM, "out of memory");
}

// Whether it stands for a model: parts after the first belong to it.
static bool is_model(struct td_str name) {
    struct td_part_name part;
    return name.n > 5 && td_str_ieq(td_str_n(name.p + name.n - 5, 5), TD_STR(".gguf")) &&
           (!td_part_name_read(name, &part) || part.number == 1);
}

static td_json *find_file(td_json *root, struct td_str path) {
    td_json *file;
    size_t i, n;
    yyjson_arr_foreach(root, i, n, file) if (td_str_eq(td_json_get_str(file, "path"), path)) return file;
    return NULL;
}

// The one GGUF of a repository's list, or the one that is asked for.
static enum td_err choose_file(td_json *root, struct td_str wanted, struct td_str *out, struct td_error *e) {
    unsigned candidates = 0;
    td_json *file;
    size_t i, n;
    yyjson_arr_foreach(root, i, n, file) {
        struct td_str path = td_json_get_str(file, "path");
        if (wanted.n ? !td_str_eq(path, wanted) : !is_model(path))
            continue;
        candidates++;
        *out = path;
    }
    if (candidates == 0)
        return fail(e, TD_ERR_NOT_FOUND, "the repository has no such GGUF file");
    if (candidates > 1)
        return td_error_set(e, TD_ERR_USAGE, "the repository has %u GGUF files: name one as owner/name:file",
                            candidates);
    return TD_OK;
}

// owner/name[:file] → URLs, file names and digests, from the repository's file list.
static enum td_err resolve_repository(struct pull *p, const char *source, struct td_error *e) {
    const char *endpoint = getenv("HF_ENDPOINT") ? getenv("HF_ENDPOINT") : "https://huggingface.co";
    const char *colon = strchr(source, ':'), *slash = strchr(source, '/');
    struct td_str repo = td_str_n(source, colon ? (size_t)(colon - source) : strlen(source));
    struct td_str wanted = td_str_of(colon ? colon + 1 : ""), found = TD_STR_NONE;
    td_json *root, *file;
    char url[TD_URL_BYTES_MAX];
    if (!slash || slash > repo.p + repo.n || !td_supply_good_name(td_str_n(repo.p, (size_t)(slash - repo.p))) ||
        !td_supply_good_name(td_str_n(slash + 1, (size_t)(repo.p + repo.n - slash) - 1)))
        return fail(e, TD_ERR_USAGE, "it is no URL, no file here, and no repository's name (owner/name[:file])");
    if (snprintf(p->t.url, sizeof p->t.url, "%s/api/models/%.*s/tree/main?recursive=true", endpoint,
                 TD_STR_ARG(repo)) >= (int)sizeof p->t.url)
        return fail(e, TD_ERR_LIMIT, "the repository's name is too long");
    enum td_err err = td_transfer_listing(&p->t, e);
    if (err == TD_OK)
        err = td_json_parse(&p->t.arena, td_buf_str(&p->t.body), 16, &root, e);
    if (err == TD_OK)
        err = choose_file(root, wanted, &found, e);
    if (err != TD_OK)
        return err;
    int n = snprintf(url, sizeof url, "%s/%.*s/resolve/main/%.*s", endpoint, TD_STR_ARG(repo), TD_STR_ARG(found));
    if (n >= (int)sizeof url)
        return fail(e, TD_ERR_LIMIT, "the file's name is too long");
    err = make_pieces(p, url, (size_t)n, e);
    for (unsigned i = 0; err == TD_OK && i < p->count; i++) {
        struct td_part_name part;
        char path[TD_URL_BYTES_MAX];
        struct td_str at = found;
        if (td_part_name_read(found, &part) && td_part_name_write(&part, i + 1, path, sizeof path))
            at = td_str_of(path);
        file = find_file(root, at);
        if (!file)
            return td_error_set(e, TD_ERR_NOT_FOUND, "part %u of %u is not in the repository", i + 1, p->count);
        struct td_str digest = td_json_get_str(td_json_get(file, "lfs"), "oid");
        if (digest.n == 64)
            snprintf(p->pieces[i].digest, sizeof p->pieces[i].digest, "%.*s", TD_STR_ARG(digest));
    }
    return err;
}

// A folder stands for the one model in it.
static enum td_err only_model(const char *folder, char path[PATH_MAX], struct td_error *e) {
    DIR *dir = opendir(folder);
    struct dirent *entry;
    unsigned count = 0;
    if (!dir)
        return td_error_set(e, TD_ERR_NOT_FOUND, "%.160s: %s", folder, strerror(errno));
    while ((entry = readdir(dir)))
        if (is_model(td_str_of(entry->d_name)) && count++ == 0)
            snprintf(path, PATH_MAX, "%s/%s", folder, entry->d_name);
    closedir(dir);
    return count == 1
               ? TD_OK
               : td_error_set(e, count ? TD_ERR_USAGE : TD_ERR_NOT_FOUND,
                              count ? "%.160s holds %u GGUF files: name one of them" : "%.160s holds no GGUF file",
                              folder, count);
}

static enum td_err find_pieces(struct pull *p, bool *local, struct td_error *e) {
    const char *source = p->t.options->source;
    bool url = strncmp(source, "https://", 8) == 0 || strncmp(source, "http://", 7) == 0;
    char inside[PATH_MAX];
    struct stat st;
    enum td_err err = TD_OK;
    *local = !url && (source[0] == '/' || source[0] == '.' || access(source, R_OK) == 0);
    if (url && strlen(source) >= TD_URL_BYTES_MAX)
        return fail(e, TD_ERR_LIMIT, "the URL is too long");
    if (!url && !*local)
        return resolve_repository(p, source, e);
    if (*local && stat(source, &st) == 0 && S_ISDIR(st.st_mode)) {
        err = only_model(source, inside, e);
        source = inside;
    }
    return err ? err : make_pieces(p, source, url ? strcspn(source, "?#") : strlen(source), e);
}

// The digest that the user gave is that of the one file, or of all parts one after the other.
static enum td_err check_whole(struct pull *p, struct td_error *e) {
    unsigned char digest[crypto_hash_sha256_BYTES];
    const char *wanted = p->t.options->sha256;
    if (p->count == 1) {
        memcpy(p->out->sha256, p->t.sha256, sizeof p->out->sha256);
    } else {
        crypto_hash_sha256_final(&p->t.whole, digest);
        sodium_bin2hex(p->out->sha256, sizeof p->out->sha256, digest, sizeof digest);
    }
    p->out->verified = wanted || !p->t.unverified;
    if (p->count == 1 || !wanted || strcasecmp(wanted, p->out->sha256) == 0)
        return TD_OK;
    for (unsigned i = 0; i < p->count; i++)
        td_transfer_forget(&p->t, p->pieces[i].name);
    return td_error_set(e, TD_ERR_UPSTREAM_GARBAGE, "the SHA-256 of all parts is %.16s…, expected %.16s…",
                        p->out->sha256, wanted);
}

static enum td_err run(struct pull *p, struct td_error *e) {
    const char *wanted = p->t.options->sha256;
    bool local;
    if (wanted && !td_supply_is_digest(wanted))
        return fail(e, TD_ERR_USAGE, "a SHA-256 has 64 hexadecimal digits");
    enum td_err err = find_pieces(p, &local, e);
    for (unsigned i = 0; err == TD_OK && i < p->count; i++) {
        const struct piece *piece = &p->pieces[i];
        snprintf(p->t.expected, sizeof p->t.expected, "%s", wanted && p->count == 1 ? wanted : piece->digest);
        err = local ? td_transfer_copy(&p->t, piece->name, piece->from, e)
                    : td_transfer_fetch(&p->t, piece->name, piece->from, e);
    }
    if (err == TD_OK)
        err = check_whole(p, e);
    for (unsigned i = 0; err == TD_OK && i < p->count; i++)
        err = td_transfer_place(&p->t, p->pieces[i].name, e);
    if (err != TD_OK)
        return err;
    p->out->bytes = p->t.bytes;
    snprintf(p->out->name, sizeof p->out->name, "%s", p->pieces[0].name);
    snprintf(p->out->path, sizeof p->out->path, "%s/%s", p->t.options->dir, p->pieces[0].name);
    return TD_OK;
}

int td_models_pull(const struct td_pull *options, struct td_pulled *out, struct td_failure *failure) {
    struct pull *p = td_calloc(1, sizeof *p);
    struct td_error e = {0};
    enum td_err err = TD_ERR_NOMEM;
    memset(out, 0, sizeof *out);
    if (p && sodium_init() >= 0) {
        p->out = out;
        err = td_transfer_init(&p->t, options, &e);
        if (err == TD_OK)
            err = run(p, &e);
        td_transfer_finish(&p->t);
    }
    td_free(p);
    if (err != TD_OK && failure) {
        snprintf(failure->code, sizeof failure->code, "%s", td_err_code(err));
        snprintf(failure->message, sizeof failure->message, "%s", e.message[0] ? e.message : td_err_text(err));
    }
    return err != TD_OK;
}
