// SPDX-License-Identifier: Apache-2.0
// The data directory's one secret and what is made of it: derived keys, and sealing of texts at rest
// (XChaCha20-Poly1305, RFC 8439 with a 192-bit random nonce, so nonces never need to be counted). Pure but for
// td_secret_load. Any thread.
#ifndef TD_STORE_SEAL_H
#define TD_STORE_SEAL_H

#include "base/err.h"
#include "base/mem.h"

#define TD_SEAL_OVERHEAD_BYTES 40u // nonce and tag

// Reads data_dir/secret.key, or makes it where `may_create`. TD_ERR_CONFIG: readable by others, wrong size, or missing
// though data sealed with it exists.
enum td_err td_secret_load(int dir_fd, bool may_create, unsigned char secret[32], struct td_error *e) TD_MUST_USE;
void td_secret_derive(const unsigned char secret[32], unsigned use, unsigned char out[32]);

// Appends nonce, ciphertext and tag to `out`. `bound` is not kept but must be the same when opening: it says what this
// text is (table, row, column), so that sealed texts cannot be exchanged for one another.
enum td_err td_seal(const unsigned char key[32], struct td_str bound, struct td_str text,
                    struct td_buf *out) TD_MUST_USE;
// TD_ERR_IO when it does not open: changed, or another key.
enum td_err td_unseal(const unsigned char key[32], struct td_str bound, struct td_str sealed,
                      struct td_buf *out) TD_MUST_USE;

#endif
