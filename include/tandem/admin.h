// SPDX-License-Identifier: Apache-2.0
// For operators and for programs that put a protocol in front of Tandem: the daemon and the command line use this
// header beside tandem.h and nothing below it (base/ and loop/ apart, which know nothing of the product).
#ifndef TANDEM_ADMIN_H
#define TANDEM_ADMIN_H

#include "tandem/tandem.h"

#ifdef __cplusplus
extern "C" {
#endif

struct td_loop;

// The runtime's workers, each with its own event loop (loop/loop.h). A listener puts its sockets on these loops, so
// that a request stays on one thread from first byte to ledger record.
TD_API unsigned td_runtime_worker_count(const struct td_runtime *runtime);
TD_API struct td_loop *td_runtime_worker_loop(struct td_runtime *runtime, unsigned worker);

struct td_http_header {
    const char *name;
    size_t name_length;
    const char *value;
    size_t value_length;
};

// A request of a client dialect, already framed and bounded by the listener. All views need to stay alive until
// td_http_call returns: what is needed of them later was copied then.
struct td_http_request {
    const char *method, *path; // path without query
    const char *query;         // "" none
    const char *body;
    size_t body_length;
    const struct td_http_header *headers; // all of them; names in any case
    size_t header_count;
    const char *peer;    // "127.0.0.1", "unix"; for rate limits and the log
    bool local_peer;     // loopback or Unix socket
    const char *subject; // mTLS client certificate's subject, NULL none
};

// Where the answer goes. on_head once, on_data any number of times, on_end once; all on the worker's thread, possibly
// from inside td_http_call. `stream`: more data comes over time (server-sent events): send without delay, chunked.
// `content_length` is SIZE_MAX where unknown.
struct td_http_sink {
    void (*on_head)(void *user, int status, const struct td_http_header *headers, size_t header_count, bool stream,
                    size_t content_length);
    void (*on_data)(void *user, const char *data, size_t length);
    void (*on_end)(void *user,
                   bool clean); // clean false: the answer broke off; close the connection, no chunked terminator
};

// Serves one request of the API (everything under /v1/) on `worker`; call on that worker's thread. *out is set before
// any callback and must be given to td_call_release by the caller on that thread (also how a client that went away is
// reported).
TD_API void td_http_call(struct td_runtime *runtime, unsigned worker, const struct td_http_request *request,
                         const struct td_http_sink *sink, void *user, struct td_call **out);
// Back-pressure from a slow client, on the worker's thread.
TD_API void td_http_stop(struct td_call *call);
TD_API void td_http_proceed(struct td_call *call);

// What the listener must know, read from the current configuration. Pointers live until the next such call or
// td_runtime_close; one thread at a time.
struct td_listen_settings {
    const char *address; // host part, "127.0.0.1"; "unix:/path" for a socket
    unsigned port;
    bool loopback;                                  // the address cannot be reached from other machines
    bool has_keys;                                  // at least one API key exists
    const char *tls_cert, *tls_key, *tls_client_ca; // "" none
    const char *const *hosts;                       // further Host names allowed beside the address's own and localhost
    size_t host_count;
    const char *const *origins; // Origins allowed; none by default
    size_t origin_count;
    size_t body_bytes_max;
    unsigned connections_max, connections_per_peer_max;
    const char *data_dir;
    unsigned drain_ms; // how long a stop waits for running requests
};
TD_API void td_listen_settings_get(struct td_runtime *runtime, struct td_listen_settings *out);

// 0 ready, else 1; `why` gets a short reason.
TD_API int td_runtime_ready(struct td_runtime *runtime, char why[128]);
// Prometheus text; free with td_string_free. NULL without memory.
TD_API char *td_runtime_metrics(struct td_runtime *runtime);
TD_API void td_string_free(char *text);
// Reads the configuration again, whole or not at all; running requests keep the old one. `accept` (may be NULL) is
// shown what the listener would be told when everything else stands, and takes it or refuses (1, with *failure set):
// then the old configuration stays. One thread at a time.
typedef int td_accept_fn(void *user, const struct td_listen_settings *settings, struct td_failure *failure);
TD_API int td_runtime_reload(struct td_runtime *runtime, td_accept_fn *accept, void *user, struct td_failure *failure);
// No new requests; 0 when nothing runs any more, 1 after `timeout_ms`.
TD_API int td_runtime_drain(struct td_runtime *runtime, unsigned timeout_ms);

// One door for everything an operator does: `method` such as "explain", "models.list", "keys.create", "ledger.stats",
// "outbox.list"; parameters and result are JSON objects (docs/admin.md lists them). Free *result with td_string_free.
// The daemon offers the same door on data_dir/tandem.sock; td_admin_connect uses it where a daemon runs.
TD_API int td_admin_call(struct td_runtime *runtime, const char *method, const char *params, char **result,
                         struct td_failure *failure);
// Asks the daemon that holds `data_dir`. Returns 0, or 1 with code "tandem.not_found" when no daemon runs there.
TD_API int td_admin_remote(const char *data_dir, const char *method, const char *params, char **result,
                           struct td_failure *failure);
// Sends one HTTP request to the daemon that holds `data_dir`, over its Unix socket, and hands up the answer's body as
// it comes (chunked or not); on_data returns false to stop early; it is
// called without bytes, too, a few times a second while none come and after a signal. *status gets the HTTP status.
// Blocks. Returns 0, or 1 with code "tandem.not_found" when no daemon runs there, "tandem.internal.io" when the
// connection broke.
TD_API int td_daemon_request(const char *data_dir, const char *method, const char *path, const char *body,
                             size_t length, bool (*on_data)(void *user, const char *data, size_t length), void *user,
                             int *status, struct td_failure *failure);
// Where a file that came with Tandem lies ("starter.gguf", "catalogue.json", "tandem-host"): beside the running program
// in a build folder, else in the installed places. Free with td_string_free; NULL where there is none.
TD_API char *td_resource_path(const char *name);
// The data directory a configuration names, ready to use ("~" replaced), without opening anything; NULL
// options.config_path and config_text: the embedded defaults. Free with td_string_free; NULL on failure.
TD_API char *td_config_data_dir(const struct td_options *options, struct td_failure *failure);
// The table of all options, as JSON or Markdown; free with td_string_free. NULL without memory.
TD_API char *td_config_schema(bool markdown);
// What a valid configuration names that is not there now: model files, keys, certificates; one line each, "" nothing.
// Free with td_string_free; NULL where the file is not valid, or without memory.
TD_API char *td_config_notes(const char *path);
// Validates a configuration file without opening anything. On failure the message holds "file:line:column: …".
TD_API int td_config_check(const char *path, struct td_failure *failure);

// Whether two answers to a question mean the same, as the reconciliation of later answers judges it: cautiously, from
// the texts alone. `question` may be "".
TD_API bool td_texts_mean_same(const char *question, const char *first, const char *second);

// Fetches a model into `dir`: resumable (a partial file is gone on with where the server's ETag still fits), SHA-256
// computed on the way and compared, moved into place only when whole. `source` is an https URL, a file or a folder with
// one model in it on this machine, or a Hugging Face repository "owner/name[:file]" (HF_ENDPOINT and HF_TOKEN are
// honoured); there the published digest is compared. Where the file's name is that of a part (NAME-00001-of-00003.gguf)
// all parts are fetched; name and path are then the first's, the digest that of all of them one after the other, and
// progress that of the part under way. Blocks; its own connection, needs no runtime.
// on_progress (may be NULL) returns false to stop: what was fetched stays for the next try.
struct td_pull {
    const char *source, *dir;
    const char *sha256;                                             // 64 hexadecimal digits, NULL none known
    const char *ca_file;                                            // a private CA's certificates (PEM), NULL none
    bool (*on_progress)(void *user, uint64_t done, uint64_t total); // total 0: unknown
    void *user;
};
struct td_pulled {
    char path[4096], name[256], sha256[65];
    uint64_t bytes;
    bool verified; // a digest was known and is right
};
// Reads a model that is already here, with all its parts: name, digest, size. The files must look like GGUF.
TD_API int td_model_inspect(const char *path, struct td_pulled *out, struct td_failure *failure);
// Deletes a model's file or files where they lie in `dir` itself; what lies elsewhere is left alone (0).
TD_API int td_model_delete(const char *dir, const char *path, struct td_failure *failure);
TD_API int td_models_pull(const struct td_pull *pull, struct td_pulled *out, struct td_failure *failure);

#ifdef __cplusplus
}
#endif

#endif
