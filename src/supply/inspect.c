// SPDX-License-Identifier: Apache-2.0
// Model files that are here already: what they are, and how they go.
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <unistd.h>

#include "base/beneath.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/part_name.h"
#include "supply/name.h"
#include "tandem/admin.h"

static int report(struct td_failure *failure, enum td_err err, const char *path, const char *problem) {
    if (failure) {
        snprintf(failure->code, sizeof failure->code, "%s", td_err_code(err));
        snprintf(failure->message, sizeof failure->message, "%.150s: %.80s", path, problem);
    }
    return 1;
}

// NULL: read to its end. Else what is wrong.
static const char *add_file(const char *path, crypto_hash_sha256_state *hash, uint64_t *bytes) {
    unsigned char buf[65536];
    uint64_t before = *bytes;
    ssize_t n = 0;
    const char *problem = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    while (!problem && fd >= 0 && (n = read(fd, buf, sizeof buf)) > 0) {
        if (*bytes == before && (n < 4 || memcmp(buf, "GGUF", 4) != 0))
            problem = "it is not a GGUF file";
        crypto_hash_sha256_update(hash, buf, (unsigned long long)n);
        *bytes += (uint64_t)n;
    }
    if (fd < 0 || n < 0)
        problem = strerror(errno);
    else if (!problem && *bytes == before)
        problem = "it is empty";
    if (fd >= 0)
        close(fd);
    return problem;
}

int td_model_inspect(const char *path, struct td_pulled *out, struct td_failure *failure) {
    unsigned char digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_state hash;
    struct td_part_name part = {.number = 1, .count = 1};
    struct td_str base = td_supply_last_part(td_str_of(path));
    char at[4096];
    const char *problem = NULL;
    bool split = td_part_name_read(td_str_of(path), &part);
    memset(out, 0, sizeof *out);
    if (!td_supply_good_name(base))
        return report(failure, TD_ERR_USAGE, path, "its name has characters that may not be in a model's name");
    if (part.number != 1)
        return report(failure, TD_ERR_USAGE, path, "it is a later part of a model: name the first");
    if (part.count > TD_MODEL_PARTS_MAX)
        return report(failure, TD_ERR_LIMIT, path, "the model has too many parts");
    crypto_hash_sha256_init(&hash);
    snprintf(at, sizeof at, "%s", path);
    for (unsigned i = 1; i <= part.count; i++) {
        if (split && !td_part_name_write(&part, i, at, sizeof at))
            problem = "its name is too long";
        else
            problem = add_file(at, &hash, &out->bytes);
        if (problem)
            return report(failure, TD_ERR_USAGE, at, problem);
    }
    crypto_hash_sha256_final(&hash, digest);
    sodium_bin2hex(out->sha256, sizeof out->sha256, digest, sizeof digest);
    snprintf(out->name, sizeof out->name, "%.*s", TD_STR_ARG(base));
    snprintf(out->path, sizeof out->path, "%s", path);
    return 0;
}

int td_model_delete(const char *dir, const char *path, struct td_failure *failure) {
    struct td_part_name part = {.count = 1};
    size_t n = strlen(dir);
    char name[300];
    int folder, problem = 0;
    if (strncmp(path, dir, n) != 0 || path[n] != '/' || !td_is_component(td_str_of(path + n + 1)))
        return 0; // it lies elsewhere: its owner's
    bool split = td_part_name_read(td_str_of(path + n + 1), &part);
    folder = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return report(failure, TD_ERR_IO, dir, strerror(errno));
    snprintf(name, sizeof name, "%s", path + n + 1);
    for (unsigned i = 1; i <= part.count && i <= TD_MODEL_PARTS_MAX; i++)
        if ((!split || td_part_name_write(&part, i, name, sizeof name)) && unlinkat(folder, name, 0) != 0)
            problem = problem ? problem : errno;
    close(folder);
    return problem ? report(failure, TD_ERR_IO, path, strerror(problem)) : 0;
}
