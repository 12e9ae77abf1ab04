// SPDX-License-Identifier: Apache-2.0
#include "config/config.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/beneath.h"
#include "base/hash.h"
#include "base/place.h"
#include "base/url.h"
#include "config/option.h"
#include "target/words.h"

#define CONFIG_ARENA_BYTES_MAX (256u << 20) // a megabyte of text and the automata of its patterns

static enum td_err no_memory(struct td_loader *l) {
    return td_error_set(l->e, TD_ERR_NOMEM, "out of memory while reading the configuration");
}

uint32_t td_label_intern(struct td_loader *l, const struct td_node *node, struct td_str name) {
    struct td_policy *p = &l->config->policy;
    for (uint32_t i = 0; i < p->label_count; i++)
        if (td_str_eq(p->labels[i], name))
            return 1u << i;
    if (p->label_count == TD_LABELS_MAX - 1) { // the last bit stands for all labels nobody named
        td_option_error(l, node,
                        "more than %u different labels (a reload keeps those used before; a restart forgets them)",
                        TD_LABELS_MAX - 1);
        return 0;
    }
    struct td_str copy = td_arena_str(l->arena, name);
    if (!copy.p) {
        (void)no_memory(l);
        return 0;
    }
    p->labels[p->label_count] = copy;
    return 1u << p->label_count++;
}

static enum td_err start_labels(struct td_loader *l, const struct td_config *previous) {
    static const char *const fixed[TD_LABELS_FIXED] = {"pii", "phi", "pci", "secret"};
    static const struct td_node nowhere = {.line = 1, .column = 1};
    for (size_t i = 0; i < TD_LABELS_FIXED; i++)
        if (!td_label_intern(l, &nowhere, td_str_of(fixed[i])))
            return l->e && l->e->code ? l->e->code : TD_ERR_NOMEM;
    for (size_t i = 0; i < TD_LABELS_FIXED; i++)
        l->config->policy.label_class[i] = i == 3 ? TD_CLASS_RESTRICTED : TD_CLASS_CONFIDENTIAL;
    for (uint32_t i = TD_LABELS_FIXED; previous && i < previous->policy.label_count; i++)
        if (!td_label_intern(l, &nowhere, previous->policy.labels[i]))
            return TD_ERR_NOMEM;
    return TD_OK;
}

bool td_config_model_exists(const struct td_config *c, struct td_str name) {
    enum td_prefer prefer;
    if (td_str_is(name, "auto"))
        return true;
    if (td_str_starts(name, TD_STR("auto:")))
        return td_prefer_parse(td_str_n(name.p + 5, name.n - 5), &prefer);
    for (uint32_t i = 0; i < c->target_count; i++)
        if (td_str_eq(c->targets[i].name, name))
            return true;
    return false;
}

// ---- listen

enum td_err td_config_read_listen(struct td_loader *l, const struct td_node *node, void *base) {
    static const char expects[] = "listen: expected address:port such as 127.0.0.1:8484, or unix:/path";
    struct td_listen *out = &((struct td_config *)base)->listen;
    struct td_str s = node->text, port;
    uint64_t number;
    if (node->type != TD_NODE_SCALAR)
        return td_option_error(l, node, "%s", expects);
    if (td_str_starts(s, TD_STR("unix:"))) {
        enum td_err err = td_option_path(l, td_str_n(s.p + 5, s.n - 5), &out->unix_path);
        if (err == TD_OK && (s.n == 5 || out->unix_path.n > 107)) // sockaddr_un
            err = td_option_error(l, node, "listen: a socket's path has 1 to 107 bytes");
        out->loopback = true;
        return err;
    }
    size_t colon = s.n;
    while (colon && s.p[colon - 1] != ':')
        colon--;
    if (colon == 0)
        return td_option_error(l, node, "%s", expects);
    port = td_str_n(s.p + colon, s.n - colon);
    out->address = td_str_n(s.p, colon - 1);
    if (out->address.n >= 2 && out->address.p[0] == '[' && out->address.p[out->address.n - 1] == ']')
        out->address = td_str_n(out->address.p + 1, out->address.n - 2);
    else if (memchr(out->address.p, ':', out->address.n))
        return td_option_error(l, node, "listen: an IPv6 address stands in brackets: [::1]:8484");
    if (out->address.n == 0 || out->address.n > 253 || !td_str_to_u64(port, &number) || number > 65535)
        return td_option_error(l, node, "%s", expects);
    out->address = td_arena_str(l->arena, out->address); // NUL-terminated for the listener
    out->port = (uint16_t)number;
    out->loopback = td_host_is_loopback(out->address);
    return out->address.p ? TD_OK : no_memory(l);
}

// ---- targets

static const uint32_t capabilities_of[] = {
    [TD_PROVIDER_LLAMA] = TD_CAP_CHAT | TD_CAP_COMPLETION | TD_CAP_TOOLS | TD_CAP_JSON | TD_CAP_JSON_SCHEMA |
                          TD_CAP_LOGPROBS | TD_CAP_INFILL | TD_CAP_CHOICES | TD_CAP_CONTINUE,
    [TD_PROVIDER_OPENAI] = TD_CAP_CHAT | TD_CAP_COMPLETION | TD_CAP_TOOLS | TD_CAP_JSON | TD_CAP_JSON_SCHEMA |
                           TD_CAP_LOGPROBS | TD_CAP_CHOICES,
    [TD_PROVIDER_TANDEM] = TD_CAP_CHAT | TD_CAP_COMPLETION | TD_CAP_EMBEDDING | TD_CAP_TOOLS | TD_CAP_JSON |
                           TD_CAP_JSON_SCHEMA | TD_CAP_LOGPROBS | TD_CAP_CHOICES,
};
static const enum td_model_class class_of_tier[] = {TD_MODEL_SMALL, TD_MODEL_MEDIUM, TD_MODEL_MEDIUM, TD_MODEL_LARGE};
static const double quality_of_class[] = {[TD_MODEL_SMALL] = 0.4,
                                          [TD_MODEL_MEDIUM] = 0.65,
                                          [TD_MODEL_LARGE] = 0.85,
                                          [TD_MODEL_REASONING] = 0.92,
                                          [TD_MODEL_COMMAND] = 0.35};

static bool climbs(struct td_str path) {
    return td_str_is(path, "..") || td_str_starts(path, TD_STR("../")) || memmem(path.p, path.n, "/../", 4);
}

// A model file is looked for beside the configuration, in the current folder, where `tandem models pull` puts files,
// and where programs are installed.
static enum td_err find_model(struct td_loader *l, struct td_target *t) {
    struct td_str tries[4] = {0};
    char *installed = NULL, cwd[PATH_MAX];
    if (td_option_path(l, t->model, &tries[0]) != TD_OK)
        return TD_ERR_NOMEM;
    if (t->model.p[0] != '/' && t->model.p[0] != '~') {
        if (getcwd(cwd, sizeof cwd))
            tries[1] = td_arena_printf(l->arena, "%s/%.*s", cwd, TD_STR_ARG(t->model));
        struct td_str folder, pulled = td_arena_printf(l->arena, "%.*s/models", TD_STR_ARG(l->config->data_dir));
        if (!pulled.p || td_option_path(l, pulled, &folder) != TD_OK)
            return TD_ERR_NOMEM;
        // There it is a name, which leads nowhere else.
        if (td_is_component(t->model) && td_beneath_is_readable(folder.p, t->model.p)) {
            tries[2] = td_arena_printf(l->arena, "%.*s/%.*s", TD_STR_ARG(folder), TD_STR_ARG(t->model));
            if (!tries[2].p)
                return TD_ERR_NOMEM;
        }
        if (!climbs(t->model))
            installed = td_place_find(t->model.p);
        if (installed)
            tries[3] = td_arena_str(l->arena, td_str_of(installed));
        td_free(installed);
    }
    t->model = tries[0];
    for (size_t i = 0; i < 4 && !t->model_found; i++)
        if (tries[i].p && access(tries[i].p, R_OK) == 0) {
            t->model = tries[i];
            t->model_found = true;
        }
    return TD_OK;
}

static enum td_err complete_llama(struct td_loader *l, const struct td_node *n, struct td_target *t) {
    if (t->tier != TD_TIER_DEVICE)
        return td_option_error(l, n, "target '%.*s': provider llama runs here, so its tier is device",
                               TD_STR_ARG(t->name));
    if (t->base_url.n || t->api_key_ref.n)
        return td_option_error(l, n, "target '%.*s': provider llama has neither base_url nor api_key",
                               TD_STR_ARG(t->name));
    if (!t->parallel)
        t->parallel = 4;
    t->continues = true;
    t->loopback = true;
    if (!t->tools_file.p && t->model_class == TD_MODEL_COMMAND) {
        char *found = td_place_find("catalogue.json");
        if (found && !(t->tools_file = td_arena_str(l->arena, td_str_of(found))).p) {
            td_free(found);
            return TD_ERR_NOMEM;
        }
        td_free(found);
    }
    return find_model(l, t);
}

static enum td_err complete_remote(struct td_loader *l, const struct td_node *n, struct td_target *t) {
    struct td_url url;
    struct td_error why;
    if (t->tools_file.n)
        return td_option_error(l, n, "target '%.*s': only provider llama prepares tools", TD_STR_ARG(t->name));
    if (!t->base_url.n)
        return td_option_error(l, n, "target '%.*s' needs a base_url", TD_STR_ARG(t->name));
    if (td_url_parse(t->base_url, &url, &why) != TD_OK)
        return td_option_error(l, n, "target '%.*s': %s", TD_STR_ARG(t->name), why.message);
    t->loopback = url.loopback && !t->proxy.n;
    if (!url.tls && !url.loopback && !t->insecure)
        return td_option_error(l, n,
                               "target '%.*s': http:// would send prompts and keys in the clear; use https://, or say "
                               "insecure: true",
                               TD_STR_ARG(t->name));
    if (t->tier == TD_TIER_DEVICE && !url.loopback)
        return td_option_error(l, n, "target '%.*s': tier device means this machine, but its base_url is elsewhere",
                               TD_STR_ARG(t->name));
    if (t->client_cert_file.n && !t->client_key_file.n)
        return td_option_error(l, n, "target '%.*s': client_cert needs client_key", TD_STR_ARG(t->name));
    if (td_str_is(t->path_style, "azure") && !t->api_version.n)
        return td_option_error(l, n, "target '%.*s': path_style azure needs api_version", TD_STR_ARG(t->name));
    if (!t->auth_header.n)
        t->auth_header = td_str_is(t->path_style, "azure") ? TD_STR("api-key") : TD_STR("authorization");
    return TD_OK;
}

// What is unstated off this device sees public data only; an openai target that may forward counts as cloud.
static void complete_policy(struct td_target *t) {
    bool device = t->tier == TD_TIER_DEVICE;
    if (device && !t->region.n)
        t->region = TD_STR("local");
    if (!t->clearance_stated)
        t->clearance = device ? TD_CLASS_RESTRICTED : TD_CLASS_PUBLIC;
    if (!device && !t->region.n)
        t->clearance = TD_CLASS_PUBLIC;
    t->policy_tier = t->tier;
    if (t->provider == TD_PROVIDER_OPENAI && t->tier != TD_TIER_CLOUD && !t->terminal)
        t->policy_tier = TD_TIER_CLOUD;
    if (t->policy_tier == TD_TIER_CLOUD && device) { // it may forward: nothing about it is known to stay here
        t->clearance = t->clearance_stated ? t->clearance : TD_CLASS_PUBLIC;
        t->region = td_str_is(t->region, "local") ? TD_STR_NONE : t->region;
        if (!t->region.n)
            t->clearance = TD_CLASS_PUBLIC;
    }
}

enum td_err td_config_target_complete(struct td_loader *l, const struct td_node *n, struct td_target *t) {
    enum td_err err;
    if (!t->name.n || t->tier == TD_TIER_COUNT || t->provider == TD_PROVIDER_FAKE || !t->model.n)
        return td_option_error(l, n, "a target needs name, tier, provider and model; %s is missing",
                               !t->name.n                        ? "name"
                               : t->tier == TD_TIER_COUNT        ? "tier"
                               : t->provider == TD_PROVIDER_FAKE ? "provider"
                                                                 : "model");
    if (td_str_is(t->name, "auto"))
        return td_option_error(l, n, "'auto' is no name for a target: requests say it to let Tandem choose");
    for (uint32_t i = 0; i < l->config->target_count; i++)
        if (td_str_eq(l->config->targets[i].name, t->name))
            return td_option_error(l, n, "the target name '%.*s' stands here twice", TD_STR_ARG(t->name));
    if (td_str_is(t->region, "local") && t->tier != TD_TIER_DEVICE)
        return td_option_error(l, n, "target '%.*s': region local is this device itself", TD_STR_ARG(t->name));
    err = t->provider == TD_PROVIDER_LLAMA ? complete_llama(l, n, t) : complete_remote(l, n, t);
    if (err != TD_OK)
        return err;
    if (!t->class_name.n) {
        t->model_class = class_of_tier[t->tier];
        t->class_name = td_str_of(td_model_class_word(t->model_class));
    }
    if (!t->declines.p && t->provider == TD_PROVIDER_LLAMA)
        t->declines = TD_STR("Not for me.");
    if (t->quality < 0)
        t->quality = quality_of_class[t->model_class];
    if (t->capabilities == 0 || t->capabilities & 1u << 31)
        t->capabilities = (t->capabilities & ~(1u << 31)) | capabilities_of[t->provider];
    if (t->continues)
        t->capabilities |= TD_CAP_CONTINUE;
    if (t->prefix_mark != TD_PREFIX_PLAIN) // who says how also says that
        t->capabilities |= TD_CAP_CONTINUE;
    if (t->model_class == TD_MODEL_COMMAND && !t->continues)
        t->capabilities &= ~TD_CAP_CONTINUE; // it calls tools; another's sentence is nothing it could go on with
    t->continues = (t->capabilities & TD_CAP_CONTINUE) != 0;
    if (t->price.cached_input_nusd < 0)
        t->price.cached_input_nusd = t->price.input_nusd;
    t->paid = t->price.input_nusd || t->price.output_nusd || t->price.cached_input_nusd;
    t->name_hash = td_hash64(t->name);
    complete_policy(t);
    return TD_OK;
}

// ---- the whole

static const struct td_node *child(const struct td_node *map, const char *key) {
    const struct td_node *n = map ? map->first : NULL;
    while (n && !td_str_is(n->key, key))
        n = n->next;
    return n;
}

static enum td_err complete_webhook(struct td_loader *l, const struct td_node *n) {
    struct td_webhook *w = &l->config->webhook;
    struct td_target *t = &w->place;
    struct td_url url;
    struct td_error why;
    if (n && !t->base_url.n)
        return td_option_error(l, n, "webhook: url is missing");
    if (!t->base_url.n)
        return TD_OK;
    if (td_url_parse(t->base_url, &url, &why) != TD_OK)
        return td_option_error(l, n, "webhook: %s", why.message);
    if (!url.tls && !url.loopback && !t->insecure)
        return td_option_error(l, n,
                               "webhook: http:// would send answers in the clear; use https://, or say "
                               "insecure: true");
    if (url.loopback && !w->private_ok)
        return td_option_error(l, n, "webhook: an address of this machine needs private: true");
    t->name = TD_STR("webhook");
    t->index = TD_TARGET_UNLISTED;
    t->provider = TD_PROVIDER_OPENAI;
    t->terminal = true; // it answers nothing, so it is what its tier says
    t->loopback = url.loopback;
    complete_policy(t);
    return TD_OK;
}

// What can be judged only when all parts are known; `root` for the places of errors.
static enum td_err check_whole(struct td_loader *l, const struct td_node *root) {
    struct td_config *c = l->config;
    const struct td_node *targets = child(root, "targets"), *tls = child(root, "tls");
    const struct td_node *model = child(root, "default_model");
    const struct td_node *item = targets ? targets->first : NULL;
    for (uint32_t i = 0; i < c->target_count; i++, item = item->next) {
        const struct td_target *t = &c->targets[i];
        for (uint32_t j = 0; j < t->fallback_count; j++) {
            const struct td_target *other = td_policy_target(&c->policy, t->fallback[j]);
            if (!other || other == t)
                return td_option_error(l, child(item, "fallback"), "fallback: '%.*s' is not the name of another target",
                                       TD_STR_ARG(t->fallback[j]));
        }
    }
    if (!c->target_count)
        return td_option_error(l, targets ? targets : root, "at least one target is needed");
    if (model && !td_config_model_exists(c, c->policy.default_model))
        return td_option_error(l, model, "default_model: expected auto, auto:preference or the name of a target");
    if (!c->listen.tls_cert.n != !c->listen.tls_key.n)
        return td_option_error(l, tls, "tls: cert and key belong together");
    if (c->listen.tls_client_ca.n && !c->listen.tls_cert.n)
        return td_option_error(l, tls, "tls: client_ca needs cert and key");
    return complete_webhook(l, child(root, "webhook"));
}

static enum td_err read_tree(struct td_loader *l, const struct td_node *root) {
    struct td_config *c = l->config;
    static const struct td_node start = {.type = TD_NODE_MAP, .line = 1, .column = 1};
    if (!root || root->type != TD_NODE_MAP)
        return td_option_error(l, root ? root : &start, "expected options, starting with version: 1");
    if (!child(root, "version"))
        return td_option_error(l, root, "the file must start with version: 1");
    c->policy.on_cut_min_quality = 0;
    c->webhook.place.labels_cleared = UINT32_MAX;
    enum td_err err = td_option_read(l, root, td_config_options, c);
    c->policy.version = c->version;
    c->policy.targets = c->targets;
    c->policy.target_count = c->target_count;
    return err == TD_OK ? check_whole(l, root) : err;
}

enum td_err td_config_load_text(struct td_str text, const char *name, const char *dir, const struct td_config *previous,
                                struct td_config **out, struct td_error *e) {
    struct td_arena arena;
    struct td_error own = {0};
    struct td_loader l = {.file = name, .e = e ? e : &own};
    struct td_node *root = NULL;
    char cwd[PATH_MAX];
    enum td_err err;
    if (text.n > TD_CONFIG_BYTES_MAX)
        return td_error_set(e, TD_ERR_LIMIT, "%s: larger than %u bytes", name, TD_CONFIG_BYTES_MAX);
    td_arena_init(&arena, CONFIG_ARENA_BYTES_MAX);
    struct td_config *c = td_arena_alloc(&arena, sizeof *c);
    if (!c) {
        td_arena_finish(&arena);
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while reading the configuration");
    }
    l.arena = &c->arena;
    l.config = c;
    c->arena = arena;
    atomic_init(&c->refs, 1);
    c->source = td_arena_str(l.arena, td_str_of(name));
    c->dir = td_arena_str(l.arena, td_str_of(dir ? dir : getcwd(cwd, sizeof cwd) ? cwd : "."));
    l.dir = c->dir;
    c->version = td_hash64(text);
    err = c->source.p && c->dir.p ? start_labels(&l, previous) : no_memory(&l);
    if (err == TD_OK)
        err = td_yaml_parse(l.arena, text, name, &root, l.e);
    if (err == TD_OK)
        err = read_tree(&l, root);
    if (err == TD_OK)
        *out = c;
    else
        td_config_unref(c);
    return err;
}

static enum td_err read_file(const char *path, struct td_buf *text, struct td_error *e) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return td_error_set(e, TD_ERR_CONFIG, "cannot open %.160s: %m", path);
    enum td_err err = TD_OK;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        err = td_error_set(e, TD_ERR_CONFIG, "%.160s is a folder", path);
    for (ssize_t n = 1; err == TD_OK && n > 0;) {
        char part[16384];
        n = read(fd, part, sizeof part);
        if (n < 0)
            err = td_error_set(e, TD_ERR_IO, "cannot read %.160s: %m", path);
        else if ((err = td_buf_add(text, part, (size_t)n)) != TD_OK)
            td_error_set(e, err, "%.160s: larger than %u bytes", path, TD_CONFIG_BYTES_MAX);
    }
    close(fd);
    return err;
}

enum td_err td_config_load(const char *path, const struct td_config *previous, struct td_config **out,
                           struct td_error *e) {
    struct td_buf text;
    char full[PATH_MAX];
    td_buf_init(&text, TD_CONFIG_BYTES_MAX);
    enum td_err err = read_file(path, &text, e);
    if (err == TD_OK && !realpath(path, full))
        err = td_error_set(e, TD_ERR_IO, "cannot resolve %.160s: %m", path);
    if (err == TD_OK) {
        *strrchr(full, '/') = 0;
        err = td_config_load_text(td_buf_str(&text), path, full, previous, out, e);
    }
    td_buf_finish(&text);
    return err;
}

struct td_config *td_config_ref(struct td_config *c) {
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void td_config_unref(struct td_config *c) {
    if (c && atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1) {
        struct td_arena arena = c->arena; // the snapshot lives in its own arena
        td_arena_finish(&arena);
    }
}

struct td_str td_config_default_text(void) {
    return TD_STR("version: 1\n"
                  "listen: 127.0.0.1:8484\n"
                  "targets:\n"
                  "  - name: device\n"
                  "    tier: device\n"
                  "    provider: llama\n"
                  "    model: models/starter.gguf\n"
                  "    class: command\n"
                  "    capabilities: [default, embedding]\n"
                  "    quality: 0.35\n"
                  "    cascade_threshold: 0.75\n" // keeps 97 % of its right calls (models/starter/README.md)
                  "    parallel: 4\n");
}
