// SPDX-License-Identifier: Apache-2.0
// TLS and mTLS of the listener, with certificates made on the spot and OpenSSL as the client.
#include "unit.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include "fake_runtime.h"
#include "raw_http.h"
#include "server/server.h"

static char dir[64];

struct identity {
    EVP_PKEY *key;
    X509 *certificate;
    char key_path[128], certificate_path[128];
};

static void write_pem(const char *path, EVP_PKEY *key, X509 *certificate) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    if (key)
        PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
    if (certificate)
        PEM_write_X509(f, certificate);
    fclose(f);
}

// A certificate for `name`, signed by `by` (NULL: itself, and then it is a CA).
static struct identity identity_make(const char *name, const struct identity *by) {
    static long serial = 1;
    struct identity id = {.key = EVP_EC_gen("P-256"), .certificate = X509_new()};
    X509 *x = id.certificate;
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, id.key);
    X509_NAME *subject = X509_NAME_new();
    X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8, (const unsigned char *)"Tests", -1, -1, 0);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0);
    X509_set_subject_name(x, subject);
    X509_set_issuer_name(x, by ? X509_get_subject_name(by->certificate) : subject);
    X509_NAME_free(subject);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, by ? "CA:FALSE" : "critical,CA:TRUE");
    X509_add_ext(x, e, -1);
    X509_EXTENSION_free(e);
    assert_true(X509_sign(x, by ? by->key : id.key, EVP_sha256()) > 0);
    snprintf(id.key_path, sizeof id.key_path, "%s/%s.key", dir, name);
    snprintf(id.certificate_path, sizeof id.certificate_path, "%s/%s.pem", dir, name);
    write_pem(id.key_path, id.key, NULL);
    write_pem(id.certificate_path, NULL, x);
    return id;
}

static void identity_finish(struct identity *id) {
    unlink(id->key_path);
    unlink(id->certificate_path);
    EVP_PKEY_free(id->key);
    X509_free(id->certificate);
}

static struct identity ca, strange_ca, server_id, client_id, stranger_id;

static int make_all(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tandem-tls-%d", getpid());
    mkdir(dir, 0700);
    ca = identity_make("ca", NULL);
    strange_ca = identity_make("strange-ca", NULL);
    server_id = identity_make("server", &ca);
    client_id = identity_make("robot-7", &ca);
    stranger_id = identity_make("stranger", &strange_ca);
    return 0;
}

static int drop_all(void **state) {
    (void)state;
    struct identity *all[] = {&ca, &strange_ca, &server_id, &client_id, &stranger_id};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        identity_finish(all[i]);
    rmdir(dir);
    return 0;
}

struct house {
    struct td_runtime *runtime;
    struct td_server *server;
    unsigned port;
};

static struct house house_open(bool mutual, unsigned header_ms) {
    struct td_listen_settings s = {.address = "127.0.0.1",
                                   .tls_cert = server_id.certificate_path,
                                   .tls_key = server_id.key_path,
                                   .tls_client_ca = mutual ? ca.certificate_path : ""};
    struct td_server_limits limits = {.header_ms = header_ms, .linger_ms = 50};
    struct house h = {.runtime = fake_runtime_create(2)};
    struct td_failure failure = {"", ""};
    if (td_server_start_limited(h.runtime, &s, &limits, &h.server, &failure) != 0)
        fail_msg("%s: %s", failure.code, failure.message);
    assert_memory_equal(td_server_url(h.server), "https://127.0.0.1:", 18);
    h.port = td_server_port(h.server);
    return h;
}

static void house_close(struct house *h) {
    td_server_stop(h->server);
    assert_int_equal(atomic_load(&fake_runtime_counts(h->runtime)->live), 0);
    fake_runtime_destroy(h->runtime);
}

struct client {
    SSL_CTX *context;
    SSL *ssl;
    struct raw_client raw;
};

static struct client client_open(unsigned port, const struct identity *id, int version_max) {
    struct client c = {.context = SSL_CTX_new(TLS_client_method()), .raw = raw_connect(port)};
    struct timeval wait = {RAW_WAIT_MS / 1000, 0};
    setsockopt(c.raw.fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    SSL_CTX_set_max_proto_version(c.context, version_max);
    SSL_CTX_set_security_level(c.context, 0);
    SSL_CTX_load_verify_locations(c.context, ca.certificate_path, NULL);
    SSL_CTX_set_verify(c.context, SSL_VERIFY_PEER, NULL);
    if (id) {
        SSL_CTX_use_certificate(c.context, id->certificate);
        SSL_CTX_use_PrivateKey(c.context, id->key);
    }
    c.ssl = SSL_new(c.context);
    SSL_set_fd(c.ssl, c.raw.fd);
    return c;
}

static void client_close(struct client *c) {
    SSL_free(c->ssl);
    SSL_CTX_free(c->context);
    raw_close(&c->raw);
    ERR_clear_error();
}

// The response's text up to the end of the connection ("" when the server let nobody in).
static char *fetch(struct client *c, unsigned port, const char *path) {
    static char text[1 << 20];
    char request[256];
    size_t n = 0;
    text[0] = '\0';
    int request_n = snprintf(request, sizeof request,
                             "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nConnection: close\r\n\r\n", path, port);
    if (SSL_connect(c->ssl) != 1 || SSL_write(c->ssl, request, request_n) != request_n)
        return text;
    for (int got; n < sizeof text - 1 && (got = SSL_read(c->ssl, text + n, (int)(sizeof text - 1 - n))) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    return text;
}

static void requests_go_through_tls(void **state) {
    (void)state;
    struct house h = house_open(false, 0);
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    for (int i = 0; i < 2; i++) {
        struct client c = client_open(h.port, NULL, versions[i]);
        char *text = fetch(&c, h.port, "/v1/about");
        assert_non_null(strstr(text, "HTTP/1.1 200 OK\r\n"));
        assert_non_null(strstr(text, "subject=\n"));
        client_close(&c);
    }
    // Many records and a client slower than the server.
    struct client c = client_open(h.port, NULL, TLS1_3_VERSION);
    char *text = fetch(&c, h.port, "/v1/flood?n=200");
    size_t xs = 0;
    for (char *p = strstr(text, "\r\n\r\n"); p && *p; p++)
        xs += *p == 'x';
    assert_int_equal(xs, 200 * 4096);
    assert_non_null(strstr(text, "\r\n0\r\n\r\n"));
    client_close(&c);
    house_close(&h);
}

static void old_versions_of_tls_are_turned_away(void **state) {
    (void)state;
    struct house h = house_open(false, 0);
    struct client c = client_open(h.port, NULL, TLS1_1_VERSION);
    assert_string_equal(fetch(&c, h.port, "/healthz"), "");
    client_close(&c);
    house_close(&h);
}

static void a_client_certificate_names_the_caller(void **state) {
    (void)state;
    struct house h = house_open(true, 0);
    for (int i = 0; i < 3; i++) { // again: a resumed session must know it too
        struct client c = client_open(h.port, &client_id, TLS1_3_VERSION);
        assert_non_null(strstr(fetch(&c, h.port, "/v1/about"), "subject=CN=robot-7,O=Tests\n"));
        client_close(&c);
    }
    house_close(&h);
}

static void without_the_right_certificate_nobody_comes_in(void **state) {
    (void)state;
    struct house h = house_open(true, 0);
    const struct identity *const wrong[] = {NULL, &stranger_id};
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    for (int i = 0; i < 4; i++) {
        struct client c = client_open(h.port, wrong[i / 2], versions[i % 2]);
        assert_string_equal(fetch(&c, h.port, "/healthz"), "");
        client_close(&c);
    }
    assert_int_equal(atomic_load(&fake_runtime_counts(h.runtime)->calls), 0);
    house_close(&h);
}

static void a_reload_brings_the_new_certificate(void **state) {
    (void)state;
    struct house h = house_open(false, 0);
    struct identity renewed = identity_make("renewed", &ca);
    struct td_listen_settings s = {
        .address = "127.0.0.1", .tls_cert = renewed.certificate_path, .tls_key = renewed.key_path};
    struct td_failure failure = {"", ""};
    struct client old = client_open(h.port, NULL, TLS1_3_VERSION);
    assert_int_equal(SSL_connect(old.ssl), 1);
    assert_int_equal(td_server_reload(h.server, &s, &failure), 0);
    struct client c = client_open(h.port, NULL, TLS1_3_VERSION);
    assert_non_null(strstr(fetch(&c, h.port, "/healthz"), "200 OK"));
    X509 *shown = SSL_get1_peer_certificate(c.ssl);
    assert_int_equal(X509_cmp(shown, renewed.certificate), 0);
    X509_free(shown);
    assert_non_null(strstr(fetch(&old, h.port, "/healthz"), "200 OK"));
    s.tls_cert = s.tls_key = "";
    assert_int_equal(td_server_reload(h.server, &s, &failure), 1); // never from TLS to plain while running
    client_close(&c);
    client_close(&old);
    identity_finish(&renewed);
    house_close(&h);
}

static void plain_http_and_silence_are_cut_off(void **state) {
    (void)state;
    struct house h = house_open(false, 100);
    struct raw_client plain = raw_connect(h.port), silent = raw_connect(h.port);
    raw_sendz(&plain, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(raw_wait_closed(&plain));
    assert_null(strstr(plain.in, "HTTP/1.1 200"));
    assert_true(raw_wait_closed(&silent)); // no handshake within the header's time
    raw_close(&plain);
    raw_close(&silent);
    house_close(&h);
}

static void a_client_gone_under_tls_is_noticed(void **state) {
    (void)state;
    struct house h = house_open(false, 0);
    struct fake_counts *counts = fake_runtime_counts(h.runtime);
    struct client c = client_open(h.port, NULL, TLS1_3_VERSION);
    char request[128];
    int n = snprintf(request, sizeof request, "GET /v1/hold HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n\r\n", h.port);
    assert_int_equal(SSL_connect(c.ssl), 1);
    assert_int_equal(SSL_write(c.ssl, request, n), n);
    raw_wait(atomic_load(&counts->live) == 1);
    client_close(&c);
    raw_wait(atomic_load(&counts->released_early) == 1);
    house_close(&h);
}

// The extension says nothing readable: a CA like that would vouch for nobody, which must not show only when clients
// come.
static struct identity spoiled_ca_make(void) {
    struct identity id = identity_make("spoiled-ca", NULL);
    ASN1_OCTET_STRING *text = ASN1_OCTET_STRING_new();
    ASN1_OCTET_STRING_set(text, (const unsigned char *)"\x04\x01", 2);
    X509_EXTENSION *e = X509_EXTENSION_create_by_NID(NULL, NID_basic_constraints, 1, text);
    X509_EXTENSION_free(X509_delete_ext(id.certificate, 0));
    X509_add_ext(id.certificate, e, 0);
    assert_true(X509_sign(id.certificate, id.key, EVP_sha256()) > 0);
    write_pem(id.certificate_path, NULL, id.certificate);
    X509_EXTENSION_free(e);
    ASN1_OCTET_STRING_free(text);
    return id;
}

static void wrong_files_are_refused_at_start(void **state) {
    (void)state;
    struct identity spoiled_ca = spoiled_ca_make();
    const struct {
        const char *cert, *key, *ca, *says;
    } rows[] = {
        {server_id.certificate_path, client_id.key_path, "", "tls.key"},
        {server_id.certificate_path, "", "", "tls.key"},
        {server_id.key_path, server_id.key_path, "", "tls.cert"},
        {server_id.certificate_path, server_id.key_path, server_id.key_path, "tls.client_ca"},
        {server_id.certificate_path, server_id.key_path, spoiled_ca.certificate_path, "tls.client_ca"},
        {"", "", ca.certificate_path, "tls.cert"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct td_listen_settings s = {
            .address = "127.0.0.1", .tls_cert = rows[i].cert, .tls_key = rows[i].key, .tls_client_ca = rows[i].ca};
        struct td_runtime *runtime = fake_runtime_create(1);
        struct td_server *server;
        struct td_failure failure = {"", ""};
        assert_int_equal(td_server_start(runtime, &s, &server, &failure), 1);
        assert_string_equal(failure.code, "tandem.config.invalid");
        assert_non_null(strstr(failure.message, rows[i].says));
        fake_runtime_destroy(runtime);
    }
    identity_finish(&spoiled_ca);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_go_through_tls),
        cmocka_unit_test(old_versions_of_tls_are_turned_away),
        cmocka_unit_test(a_client_certificate_names_the_caller),
        cmocka_unit_test(without_the_right_certificate_nobody_comes_in),
        cmocka_unit_test(a_reload_brings_the_new_certificate),
        cmocka_unit_test(plain_http_and_silence_are_cut_off),
        cmocka_unit_test(a_client_gone_under_tls_is_noticed),
        cmocka_unit_test(wrong_files_are_refused_at_start),
    };
    return cmocka_run_group_tests(tests, make_all, drop_all);
}
