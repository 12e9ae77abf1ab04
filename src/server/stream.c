// SPDX-License-Identifier: Apache-2.0
#include "server/stream.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"

struct td_tls {
    SSL_CTX *context;
};

// Nobody types a passphrase into a daemon: an encrypted key is an error at start, not a prompt.
static int no_passphrase(char *out, int cap, int writing, void *user) {
    (void)out, (void)cap, (void)writing, (void)user;
    return -1;
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in, unsigned in_n,
                   void *user) {
    static const unsigned char spoken[] = "\x08http/1.1";
    (void)ssl, (void)user;
    unsigned char *chosen;
    if (SSL_select_next_proto(&chosen, out_n, spoken, sizeof spoken - 1, in, in_n) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static enum td_err refuse(struct td_error *e, const char *option, const char *path) {
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return td_error_set(e, TD_ERR_CONFIG, "%s: cannot use \"%s\": %s", option, path,
                        reason ? reason : "unknown reason");
}

// A certificate that signed itself and yet is not taken for the end of a chain: no client's chain would ever end there.
static bool is_endless(X509 *certificate, EVP_PKEY *key) {
    return (X509_get_extension_flags(certificate) & (EXFLAG_SI | EXFLAG_SS)) == EXFLAG_SI &&
           X509_verify(certificate, key) == 1;
}

// Without memory for a certificate OpenSSL goes on as if it were not there, as if its key had no bits or as if it had
// not signed itself; and what its extensions say is read at the first handshake, where want of memory would spoil it
// for good. Either way every client would be refused for reasons that nobody finds. So all of it is read here.
static bool is_whole(X509_STORE *store, int names) {
    STACK_OF(X509_OBJECT) *all = X509_STORE_get0_objects(store);
    bool ok = sk_X509_OBJECT_num(all) >= names;
    for (int i = 0; ok && i < sk_X509_OBJECT_num(all); i++) {
        X509 *certificate = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(all, i));
        EVP_PKEY *key = certificate ? X509_get0_pubkey(certificate) : NULL;
        ok = !certificate || (key && EVP_PKEY_get_bits(key) > 0 && EVP_PKEY_get_security_bits(key) > 0 &&
                              X509_check_purpose(certificate, -1, 0) == 1 && !is_endless(certificate, key));
    }
    return ok;
}

static enum td_err load(SSL_CTX *context, const struct td_listen_settings *settings, struct td_error *e) {
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(context, settings->tls_cert) != 1)
        return refuse(e, "tls.cert", settings->tls_cert);
    if (!settings->tls_key || !settings->tls_key[0])
        return td_error_set(e, TD_ERR_CONFIG, "tls.key is missing beside tls.cert");
    if (SSL_CTX_use_PrivateKey_file(context, settings->tls_key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(context) != 1)
        return refuse(e, "tls.key", settings->tls_key);
    if (!settings->tls_client_ca || !settings->tls_client_ca[0])
        return TD_OK;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(settings->tls_client_ca);
    if (!names || SSL_CTX_load_verify_locations(context, settings->tls_client_ca, NULL) != 1 ||
        !is_whole(SSL_CTX_get_cert_store(context), sk_X509_NAME_num(names))) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return refuse(e, "tls.client_ca", settings->tls_client_ca);
    }
    SSL_CTX_set_client_CA_list(context, names);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return TD_OK;
}

enum td_err td_tls_create(const struct td_listen_settings *settings, struct td_tls **out, struct td_error *e) {
    *out = NULL;
    if (!settings->tls_cert || !settings->tls_cert[0]) {
        if ((settings->tls_key && settings->tls_key[0]) || (settings->tls_client_ca && settings->tls_client_ca[0]))
            return td_error_set(e, TD_ERR_CONFIG, "tls.cert is missing beside tls.key or tls.client_ca");
        return TD_OK;
    }
    struct td_tls *tls = td_calloc(1, sizeof *tls);
    if (!tls)
        return td_error_set(e, TD_ERR_NOMEM, "out of memory");
    tls->context = SSL_CTX_new(TLS_server_method());
    enum td_err err = tls->context ? TD_OK : td_error_set(e, TD_ERR_NOMEM, "out of memory");
    if (err == TD_OK) {
        SSL_CTX_set_min_proto_version(tls->context, TLS1_2_VERSION);
        SSL_CTX_set_options(tls->context,
                            SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
        SSL_CTX_set_mode(tls->context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                           SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_default_passwd_cb(tls->context, no_passphrase);
        SSL_CTX_set_alpn_select_cb(tls->context, on_alpn, NULL);
        // Without a name for its sessions clients that resume one under mTLS would be turned away.
        static const unsigned char session_name[] = "tandem";
        SSL_CTX_set_session_id_context(tls->context, session_name, sizeof session_name - 1);
        err = load(tls->context, settings, e);
    }
    if (err != TD_OK) {
        td_tls_destroy(tls);
        return err;
    }
    *out = tls;
    return TD_OK;
}

void td_tls_destroy(struct td_tls *tls) {
    if (!tls)
        return;
    SSL_CTX_free(tls->context);
    td_free(tls);
}

enum td_err td_stream_init(struct td_stream *s, int fd, struct td_tls *tls) {
    *s = (struct td_stream){.fd = fd};
    if (!tls)
        return TD_OK;
    SSL *ssl = SSL_new(tls->context);
    if (!ssl || SSL_set_fd(ssl, fd) != 1) {
        SSL_free(ssl);
        return TD_ERR_NOMEM;
    }
    SSL_set_accept_state(ssl);
    s->ssl = ssl;
    return TD_OK;
}

void td_stream_finish(struct td_stream *s, bool reset) {
    SSL_free(s->ssl);
    s->ssl = NULL;
    if (s->fd < 0)
        return;
    if (reset) {
        struct linger now = {1, 0};
        setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    close(s->fd);
    s->fd = -1;
}

static ssize_t outcome(struct td_stream *s, int result, bool reading) {
    switch (SSL_get_error(s->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        s->write_wants_read = !reading;
        return TD_STREAM_AGAIN;
    case SSL_ERROR_WANT_WRITE:
        s->read_wants_write = reading;
        return TD_STREAM_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        ERR_clear_error();
        return TD_STREAM_FAILED;
    }
}

ssize_t td_stream_read(struct td_stream *s, char *p, size_t n) {
    if (s->ssl) {
        s->read_wants_write = false;
        ERR_clear_error();
        int got = SSL_read(s->ssl, p, n > 1 << 30 ? 1 << 30 : (int)n);
        return got > 0 ? got : outcome(s, got, true);
    }
    ssize_t got;
    do
        got = recv(s->fd, p, n, 0);
    while (got < 0 && errno == EINTR);
    return got >= 0 ? got : errno == EAGAIN || errno == EWOULDBLOCK ? TD_STREAM_AGAIN : TD_STREAM_FAILED;
}

ssize_t td_stream_write(struct td_stream *s, const char *p, size_t n) {
    if (s->ssl) {
        s->write_wants_read = false;
        ERR_clear_error();
        int put = SSL_write(s->ssl, p, n > 1 << 30 ? 1 << 30 : (int)n);
        return put > 0 ? put : outcome(s, put, false) == TD_STREAM_AGAIN ? TD_STREAM_AGAIN : TD_STREAM_FAILED;
    }
    ssize_t put;
    do
        put = send(s->fd, p, n, MSG_NOSIGNAL);
    while (put < 0 && errno == EINTR);
    return put >= 0 ? put : errno == EAGAIN || errno == EWOULDBLOCK ? TD_STREAM_AGAIN : TD_STREAM_FAILED;
}

bool td_stream_pending(const struct td_stream *s) {
    return s->ssl && SSL_has_pending(s->ssl);
}

void td_stream_shut(struct td_stream *s) {
    if (s->ssl) {
        ERR_clear_error();
        SSL_shutdown(s->ssl);
    }
    shutdown(s->fd, SHUT_WR);
}

void td_stream_subject(const struct td_stream *s, char *out, size_t cap) {
    out[0] = '\0';
    if (!s->ssl)
        return;
    X509 *certificate = SSL_get1_peer_certificate(s->ssl);
    BIO *text = certificate ? BIO_new(BIO_s_mem()) : NULL;
    if (text && X509_NAME_print_ex(text, X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) > 0) {
        int n = BIO_read(text, out, (int)cap - 1);
        out[n > 0 ? n : 0] = '\0';
        // A subject cut short could name somebody else.
        if (BIO_pending(text) > 0)
            out[0] = '\0';
    }
    BIO_free(text);
    X509_free(certificate);
}
