// SPDX-License-Identifier: Apache-2.0
// The store: everything Tandem keeps on disk. This header opens and closes it; ledger.h, outbox.h, accounts.h and
// catalogue.h say what can be kept. None of them names a database: SQLite is one way to hold what they promise and
// lives in this room alone, so that another (PostgreSQL, beyond one machine) can stand beside it.
//
// One process at a time owns a data directory (an flock on data_dir/lock). One writer thread owns the only writing
// connection and is the only one that checkpoints. Ledger rows and receipts reach it through a ring in a shared file
// mapping (journal.h): memory that outlives `kill -9`, filled by the workers without a system call. Everything else
// reaches it as an operation whose acknowledgement comes when it is durable. Queries run on the caller's thread over a
// connection that never writes. Every function may be called from any thread.
#ifndef TD_STORE_STORE_H
#define TD_STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "config/durability.h"

struct td_store;
struct td_loop;

// Zero means the default.
struct td_store_options {
    enum td_durability durability;
    bool read_only;              // queries only: shares the directory with other readers, changes nothing on disk
    uint32_t batch_ms;           // how long rows may gather before a commit; default 10, at most 20
    uint32_t batch_rows;         // a commit starts at once when so many wait; default 512
    uint32_t ring_bytes;         // rows between workers and disk; default 4 MiB (some 4,000 rows), at most 256 MiB
    uint32_t outbox_entries_max; // default 10,000
    uint64_t outbox_bytes_max;   // all requests and answers kept in it; default 256 MiB
    const char *holder;          // who we are, for the message another process gets; default "tandem"
};

// Who is told that an operation is durable. `fn` runs on the loop's thread, or on the writer thread where `loop` is
// NULL (then it must not block nor call the store). Called exactly once, with TD_OK once the change is on the disk.
struct td_ack {
    struct td_loop *loop;
    void (*fn)(void *arg, enum td_err err);
    void *arg;
};

// Opens (makes, migrates, recovers) the store in `data_dir`, which is created with mode 0700 where it is missing; files
// in it are 0600. Rows that a killed process had handed over are brought into the ledger before this returns.
// TD_ERR_LOCKED: another process holds it (the message says which). TD_ERR_CONFIG: the directory is open to other
// users, the data is from a newer version, or the secret does not belong to it. TD_ERR_IO, TD_ERR_NOMEM.
enum td_err td_store_open(const char *data_dir, const struct td_store_options *options, struct td_store **out,
                          struct td_error *e) TD_MUST_USE;
// Commits what was handed over (waiting a few seconds at most when the disk refuses; what stays in the ring is not
// lost), delivers all acks, closes, gives up the lock. Takes NULL. No other call may run or follow.
void td_store_close(struct td_store *store);

// False while the disk refuses writes or the ring is nearly full: paid calls must be refused (TD_ERR_LEDGER). Turns
// true again by itself. Costs one load.
bool td_store_writable(const struct td_store *store);
// Waits until all that was handed over before is on the disk. TD_ERR_DEADLINE after `timeout_ms`.
enum td_err td_store_flush(struct td_store *store, uint32_t timeout_ms) TD_MUST_USE;

// Keys derived from the one secret of this data directory (data_dir/secret.key, 32 random bytes, 0600), one for each
// use, so that no two uses share a key.
enum td_secret_use {
    TD_SECRET_OUTBOX = 1,       // seals requests and answers at rest
    TD_SECRET_API_KEYS = 2,     // keyed hash of API keys
    TD_SECRET_CHAIN = 3,        // hash chain of ledger and receipts
    TD_SECRET_BODY = 4,         // MAC of the bytes that left, in receipts
    TD_SECRET_CONVERSATION = 5, // hash of a conversation's prefix
    TD_SECRET_REPEAT = 6,       // hash of a client's idempotency key
};
void td_store_secret(const struct td_store *store, enum td_secret_use use, unsigned char out[32]);

#endif
