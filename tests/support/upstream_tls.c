// SPDX-License-Identifier: Apache-2.0
#include "upstream.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>

static bool extend(X509 *cert, X509 *issuer, int nid, const char *value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    bool ok = extension && X509_add_ext(cert, extension, -1);
    X509_EXTENSION_free(extension);
    return ok;
}

// `issuer` NULL: self-signed authority. Times in seconds from now.
static X509 *make_cert(const char *name, const char *alt, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key, long from,
                       long to) {
    static long serial = 1;
    X509 *cert = X509_new();
    if (!cert)
        return NULL;
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(cert), from);
    X509_gmtime_adj(X509_getm_notAfter(cert), to);
    X509_set_pubkey(cert, key);
    X509_NAME *subject = X509_get_subject_name(cert);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(cert, issuer ? X509_get_subject_name(issuer) : subject);
    bool ok = issuer ? extend(cert, issuer, NID_basic_constraints, "critical,CA:FALSE") &&
                           extend(cert, issuer, NID_subject_alt_name, alt)
                     : extend(cert, cert, NID_basic_constraints, "critical,CA:TRUE") &&
                           extend(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign");
    if (!ok || !X509_sign(cert, issuer ? issuer_key : key, EVP_sha256())) {
        X509_free(cert);
        return NULL;
    }
    return cert;
}

static bool save(const char *folder, const char *name, X509 *cert, EVP_PKEY *key) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    if (!f)
        return false;
    bool ok = cert ? PEM_write_X509(f, cert) == 1 : PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1;
    return fclose(f) == 0 && ok;
}

static SSL_CTX *make_context(X509 *cert, EVP_PKEY *key, X509 *client_ca) {
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (!context || SSL_CTX_use_certificate(context, cert) != 1 || SSL_CTX_use_PrivateKey(context, key) != 1) {
        SSL_CTX_free(context);
        return NULL;
    }
    if (client_ca) {
        X509_STORE_add_cert(SSL_CTX_get_cert_store(context), client_ca);
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    return context;
}

bool tls_make(const char *folder, SSL_CTX *contexts[TLS_MODE_COUNT]) {
    static const char here[] = "DNS:localhost,IP:127.0.0.1,IP:::1";
    const long day = 86400;
    EVP_PKEY *ca_key = EVP_EC_gen("P-256"), *key = EVP_EC_gen("P-256"), *client_key = EVP_EC_gen("P-256");
    X509 *ca = ca_key ? make_cert("Scripted Upstream CA", NULL, ca_key, NULL, NULL, -day, 30 * day) : NULL;
    X509 *good = NULL, *expired = NULL, *wrong = NULL, *client = NULL;
    bool ok = ca && key && client_key &&
              (good = make_cert("localhost", here, key, ca, ca_key, -day, 30 * day)) != NULL &&
              (expired = make_cert("localhost", here, key, ca, ca_key, -3 * day, -day)) != NULL &&
              (wrong = make_cert("wrong.example", "DNS:wrong.example", key, ca, ca_key, -day, 30 * day)) != NULL &&
              (client = make_cert("client", "DNS:client", client_key, ca, ca_key, -day, 30 * day)) != NULL &&
              save(folder, "ca.pem", ca, NULL) && save(folder, "client.pem", client, NULL) &&
              save(folder, "client.key", NULL, client_key) && save(folder, "server.pem", good, NULL) &&
              save(folder, "server.key", NULL, key);
    if (ok) {
        contexts[TLS_GOOD] = make_context(good, key, NULL);
        contexts[TLS_EXPIRED] = make_context(expired, key, NULL);
        contexts[TLS_WRONG_HOST] = make_context(wrong, key, NULL);
        contexts[TLS_MTLS] = make_context(good, key, ca);
        for (int i = 0; i < TLS_MODE_COUNT; i++)
            ok = ok && contexts[i];
    }
    X509_free(ca), X509_free(good), X509_free(expired), X509_free(wrong), X509_free(client);
    EVP_PKEY_free(ca_key), EVP_PKEY_free(key), EVP_PKEY_free(client_key);
    return ok;
}
