// SPDX-License-Identifier: Apache-2.0
#include "child.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define DIE(...)                                                                                                       \
    do {                                                                                                               \
        fprintf(stderr, __VA_ARGS__);                                                                                  \
        fputc('\n', stderr);                                                                                           \
        abort();                                                                                                       \
    } while (0)

void upstream_start(struct upstream *u, const char *const *args) {
    const char *program = getenv("SCRIPTED_UPSTREAM"), *argv[24];
    int to[2], from[2], n = 0;
    char line[128];
    *u = (struct upstream){.folder = "/tmp/tandem-upstream-XXXXXX"};
    if (!program || !mkdtemp(u->folder) || pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0)
        DIE("cannot start the scripted upstream ($SCRIPTED_UPSTREAM: %s)", program ? program : "not set");
    argv[n++] = program;
    argv[n++] = "--tls";
    argv[n++] = u->folder;
    for (; args && *args && n < 23; args++)
        argv[n++] = *args;
    argv[n] = NULL;
    u->pid = fork();
    if (u->pid == 0) {
        dup2(to[0], 0);
        dup2(from[1], 1);
        execv(program, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    u->in = to[1];
    FILE *f = fdopen(from[0], "r");
    while (f && fgets(line, sizeof line, f) && strncmp(line, "ready", 5) != 0) {
        const struct {
            const char *name;
            uint16_t *to;
        } ports[] = {{"port=", &u->port},
                     {"control_port=", &u->control},
                     {"tls_port=", &u->tls},
                     {"tls_expired_port=", &u->tls_expired},
                     {"tls_wrong_host_port=", &u->tls_wrong_host},
                     {"tls_mtls_port=", &u->tls_mtls}};
        for (size_t i = 0; i < sizeof ports / sizeof *ports; i++)
            if (strncmp(line, ports[i].name, strlen(ports[i].name)) == 0)
                *ports[i].to = (uint16_t)atoi(line + strlen(ports[i].name));
    }
    if (!u->port || !u->tls_mtls)
        DIE("the scripted upstream did not start");
    fclose(f);
}

void upstream_stop(struct upstream *u) {
    static const char *const files[] = {"ca.pem", "client.pem", "client.key"};
    int status;
    char path[128];
    close(u->in);
    if (waitpid(u->pid, &status, 0) != u->pid || status != 0)
        DIE("the scripted upstream ended with status %d", status);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", u->folder, files[i]);
        unlink(path);
    }
    rmdir(u->folder);
}

// One request, the whole reply's body into `out`.
static void exchange(const struct upstream *u, const char *request, size_t n, struct td_buf *out) {
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(u->control), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char bytes[65536];
    ssize_t got;
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0 || write(fd, request, n) != (ssize_t)n)
        DIE("cannot reach the scripted upstream");
    while ((got = read(fd, bytes, sizeof bytes)) > 0)
        if (td_buf_add(out, bytes, (size_t)got) != TD_OK)
            DIE("the log is too long");
    close(fd);
    const char *body = out->n > 12 ? memmem(out->p, out->n, "\r\n\r\n", 4) : NULL;
    if (!body || strncmp(out->p, "HTTP/1.1 200", 12) != 0)
        DIE("the scripted upstream said: %.*s", (int)out->n, out->p ? out->p : "");
    td_buf_drop(out, (size_t)(body + 4 - out->p));
}

void upstream_post(const struct upstream *u, const char *path, const char *json) {
    struct td_buf request, reply;
    td_buf_init(&request, 16 << 20);
    td_buf_init(&reply, 1 << 20);
    if (td_buf_printf(&request, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                      path, strlen(json), json) != TD_OK)
        DIE("no memory");
    exchange(u, request.p, request.n, &reply);
    td_buf_finish(&request);
    td_buf_finish(&reply);
}

td_json *upstream_log(const struct upstream *u, struct td_arena *arena, unsigned requests, unsigned closed) {
    char request[256];
    struct td_buf reply;
    td_json *root;
    struct td_error e;
    td_buf_init(&reply, 256u << 20);
    int n = snprintf(request, sizeof request,
                     "GET /_log?requests=%u&closed=%u&timeout_ms=5000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                     requests, closed);
    exchange(u, request, (size_t)n, &reply);
    if (td_json_parse(arena, td_buf_str(&reply), 16, &root, &e) != TD_OK)
        DIE("the log is not JSON: %s", e.message);
    td_buf_finish(&reply);
    td_json *list = td_json_get(root, "requests"), *one;
    size_t i, max, over = 0;
    yyjson_arr_foreach(list, i, max, one) over +=
        td_json_get_num(one, "ended_ms", -1) >= 0 || td_json_get_num(one, "closed_ms", -1) >= 0;
    if (yyjson_arr_size(list) < requests || over < closed)
        DIE("the scripted upstream saw %zu requests, %zu of them ended; wanted %u and %u", yyjson_arr_size(list), over,
            requests, closed);
    return list;
}
