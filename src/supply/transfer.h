// SPDX-License-Identifier: Apache-2.0
// Model files on their way into the models' folder (this room only): each is fetched (resumed where possible, redirects
// taken one by one with a grant each and without credentials on another host) or copied as NAME.part, its digest
// compared, and moved into place when the whole model is there. All names lie beneath that one folder. Blocks; one
// thread.
#ifndef TD_SUPPLY_TRANSFER_H
#define TD_SUPPLY_TRANSFER_H

#include <sodium.h>

#include "base/mem.h"
#include "tandem/admin.h"

#define TD_URL_BYTES_MAX 4096u
#define TD_LISTING_BYTES_MAX (16u << 20) // a repository's file list

struct td_transfer {
    const struct td_pull *options;
    struct td_loop *loop;
    struct td_remote *remote;
    struct td_arena arena;
    struct td_buf body; // of a listing
    int folder, fd;
    char url[TD_URL_BYTES_MAX], origin[TD_URL_BYTES_MAX]; // origin: scheme and host the credentials belong to
    char name[256], expected[65], etag[256];              // of the file under way; expected "" none is known
    uint64_t have, total;
    crypto_hash_sha256_state hash, whole, whole_before; // whole: of all parts, each added when it is whole
    unsigned parts;                                     // of the model
    bool to_file, redirected, restart, complete, write_failed, stopped, not_gguf;
    int status;
    enum td_err err;
    char message[240];
    // Of what is whole.
    char sha256[65]; // of the last file
    uint64_t bytes;
    bool unverified; // of some file no digest was known
};

// Makes the folder where it is missing. TD_ERR_IO. Call finish in any case.
enum td_err td_transfer_init(struct td_transfer *p, const struct td_pull *options, struct td_error *e) TD_MUST_USE;
void td_transfer_finish(struct td_transfer *p);
// Credentials go to the scheme and host of p->url alone.
void td_transfer_keep_origin(struct td_transfer *p);
// GETs p->url into p->body.
enum td_err td_transfer_listing(struct td_transfer *p, struct td_error *e) TD_MUST_USE;
// As "NAME.part"; `name` is one component of a path, p->expected what it must hash to.
enum td_err td_transfer_fetch(struct td_transfer *p, const char *name, const char *url, struct td_error *e) TD_MUST_USE;
enum td_err td_transfer_copy(struct td_transfer *p, const char *name, const char *source,
                             struct td_error *e) TD_MUST_USE;
// Moves it into place, or removes it.
enum td_err td_transfer_place(struct td_transfer *p, const char *name, struct td_error *e) TD_MUST_USE;
void td_transfer_forget(struct td_transfer *p, const char *name);

#endif
