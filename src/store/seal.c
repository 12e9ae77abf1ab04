// SPDX-License-Identifier: Apache-2.0
#include "store/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/time.h"

#define NAME "secret.key"

static enum td_err read_secret(int fd, unsigned char secret[32], struct td_error *e) {
    struct stat st;
    if (fstat(fd, &st) != 0)
        return td_error_set(e, TD_ERR_IO, "while reading " NAME ": %s", strerror(errno));
    if (st.st_mode & 077)
        return td_error_set(e, TD_ERR_CONFIG, NAME " can be read by other users; chmod 600 it");
    if (st.st_size != 32 || read(fd, secret, 32) != 32)
        return td_error_set(e, TD_ERR_CONFIG, NAME " must hold 32 bytes");
    return TD_OK;
}

// Whole or not at all: written beside, then renamed.
static enum td_err make_secret(int dir_fd, unsigned char secret[32], struct td_error *e) {
    enum td_err err = TD_OK;
    td_random(secret, 32);
    int fd = openat(dir_fd, NAME ".new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || write(fd, secret, 32) != 32 || fsync(fd) != 0 || renameat(dir_fd, NAME ".new", dir_fd, NAME) != 0 ||
        fsync(dir_fd) != 0)
        err = td_error_set(e, TD_ERR_IO, "while making " NAME ": %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    return err;
}

enum td_err td_secret_load(int dir_fd, bool may_create, unsigned char secret[32], struct td_error *e) {
    if (sodium_init() < 0)
        return td_error_set(e, TD_ERR_INTERNAL, "libsodium could not be initialised");
    int fd = openat(dir_fd, NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT && may_create)
        return make_secret(dir_fd, secret, e);
    if (fd < 0 && errno == ENOENT)
        return td_error_set(e, TD_ERR_CONFIG, NAME " is missing, but there is data that was sealed with it");
    if (fd < 0)
        return td_error_set(e, TD_ERR_IO, "while opening " NAME ": %s", strerror(errno));
    enum td_err err = read_secret(fd, secret, e);
    close(fd);
    return err;
}

void td_secret_derive(const unsigned char secret[32], unsigned use, unsigned char out[32]) {
    crypto_kdf_derive_from_key(out, 32, use, "tandemst", secret);
}

enum td_err td_seal(const unsigned char key[32], struct td_str bound, struct td_str text, struct td_buf *out) {
    char *p = td_buf_reserve(out, text.n + TD_SEAL_OVERHEAD_BYTES);
    if (!p)
        return TD_ERR_NOMEM;
    unsigned char *nonce = (unsigned char *)p;
    unsigned long long n;
    td_random(nonce, crypto_aead_xchacha20poly1305_ietf_NPUBBYTES);
    crypto_aead_xchacha20poly1305_ietf_encrypt(nonce + crypto_aead_xchacha20poly1305_ietf_NPUBBYTES, &n,
                                               (const unsigned char *)text.p, text.n, (const unsigned char *)bound.p,
                                               bound.n, NULL, nonce, key);
    td_buf_grew(out, crypto_aead_xchacha20poly1305_ietf_NPUBBYTES + (size_t)n);
    return TD_OK;
}

enum td_err td_unseal(const unsigned char key[32], struct td_str bound, struct td_str sealed, struct td_buf *out) {
    if (sealed.n < TD_SEAL_OVERHEAD_BYTES)
        return TD_ERR_IO;
    char *p = td_buf_reserve(out, sealed.n);
    if (!p)
        return TD_ERR_NOMEM;
    const unsigned char *nonce = (const unsigned char *)sealed.p;
    const size_t nonce_n = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES;
    unsigned long long n;
    if (crypto_aead_xchacha20poly1305_ietf_decrypt((unsigned char *)p, &n, NULL, nonce + nonce_n, sealed.n - nonce_n,
                                                   (const unsigned char *)bound.p, bound.n, nonce, key) != 0)
        return TD_ERR_IO;
    td_buf_grew(out, (size_t)n);
    return TD_OK;
}
