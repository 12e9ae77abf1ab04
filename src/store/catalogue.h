// SPDX-License-Identifier: Apache-2.0
// The catalogue of model files on this machine, behind `tandem models`. Changes wait until they are durable.
#ifndef TD_STORE_CATALOGUE_H
#define TD_STORE_CATALOGUE_H

#include "store/store.h"

struct td_model_record {
    struct td_str name;   // unique: letters, digits, ".", "_", "-", "/" and ":" inside; no "..", no leading "/"
    struct td_str path;   // of the file
    struct td_str sha256; // 64 hexadecimal digits
    struct td_str source; // URL, directory or repository it came from
    uint64_t bytes;
    int64_t added_ms;
};
typedef bool (*td_model_record_fn)(void *user, const struct td_model_record *model);
// Adds or replaces. TD_ERR_USAGE: a name or digest that is none.
enum td_err td_catalogue_put(struct td_store *store, const struct td_model_record *model,
                             struct td_error *e) TD_MUST_USE;
// Forgets the entry; the file is the caller's. TD_ERR_NOT_FOUND.
enum td_err td_catalogue_remove(struct td_store *store, struct td_str name, struct td_error *e) TD_MUST_USE;
enum td_err td_catalogue_get(struct td_store *store, struct td_str name, td_model_record_fn fn, void *user,
                             struct td_error *e) TD_MUST_USE;
enum td_err td_catalogue_each(struct td_store *store, td_model_record_fn fn, void *user,
                              struct td_error *e) TD_MUST_USE;

#endif
