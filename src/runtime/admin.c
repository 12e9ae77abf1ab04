// SPDX-License-Identifier: Apache-2.0
// The operators' door: one table of methods, JSON in and out. The command line reaches it in its own process or over
// the daemon's Unix socket. Methods may wait for the disk: never call this on a worker's loop.
//
// How to add a method: write a function below, add its row to `methods`, describe it in docs/admin.md.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/time.h"
#include "route/decide.h"
#include "route/features.h"
#include "runtime/call.h"
#include "runtime/events.h"
#include "runtime/heads.h"
#include "store/catalogue.h"
#include "target/words.h"

struct admin {
    struct td_runtime *rt;
    struct td_arena arena;
    td_json *params;
    struct td_buf out;
    bool first; // of a list being written
    enum td_err list_err;
};

typedef enum td_err method_fn(struct admin *a, struct td_error *e);

static enum td_err field(struct admin *a, const char *name, struct td_str value) {
    TD_TRY(td_buf_printf(&a->out, ",\"%s\":", name));
    return td_buf_add_json(&a->out, value);
}

static enum td_err separator(struct admin *a) {
    bool first = a->first;
    a->first = false;
    return first ? TD_OK : td_buf_addc(&a->out, ',');
}

// ---- explain

static enum td_err explain_plan(struct admin *a, const struct td_config *config, const struct td_request *request,
                                struct td_error *e) {
    struct td_facts_input in = {.tenant = TD_STR("default"), .budget_left_nusd = INT64_MAX};
    struct td_facts facts;
    struct td_world *world = td_arena_alloc(&a->arena, sizeof *world);
    const struct td_plan *plan;
    struct td_buf text;
    if (!world)
        return TD_ERR_NOMEM;
    TD_TRY(td_facts_make(request, &config->policy, &in, &facts));
    td_runtime_world(a->rt, config, facts.batch, td_now_ns(), world);
    enum td_err err = td_decide(&facts, &config->policy, world, &a->arena, &plan);
    if (err == TD_ERR_MODEL_NOT_FOUND)
        return td_error_set(e, err, "the model '%.*s' does not exist", TD_STR_ARG(request->model));
    TD_TRY(err);
    td_buf_init(&text, 1 << 20);
    err = td_explain_text(plan, &config->policy, &facts, &text);
    if (err == TD_OK)
        err = td_buf_addz(&a->out, "{\"plan\":");
    if (err == TD_OK)
        err = td_explain_json(plan, &config->policy, &facts, &a->out);
    if (err == TD_OK)
        err = field(a, "text", td_buf_str(&text));
    if (err == TD_OK)
        err = td_buf_addc(&a->out, '}');
    td_buf_finish(&text);
    return err;
}

static enum td_err explain(struct admin *a, struct td_error *e) {
    td_json *body = td_json_get(a->params, "body");
    struct td_buf text;
    struct td_request request;
    if (!body)
        return td_error_set(e, TD_ERR_USAGE, "explain wants a request in \"body\"");
    td_buf_init(&text, TD_BODY_BYTES_MAX);
    enum td_err err = td_json_write(body, &text);
    enum td_kind kind = td_json_get(body, "input")    ? TD_KIND_EMBEDDING
                        : td_json_get(body, "prompt") ? TD_KIND_COMPLETION
                                                      : TD_KIND_CHAT;
    if (err == TD_OK)
        err = td_dialect_ops(TD_DIALECT_OPENAI)->read_request(&a->arena, kind, td_buf_str(&text), &request, e);
    if (err == TD_OK) {
        struct td_config *config = td_runtime_config(a->rt, NULL);
        err = explain_plan(a, config, &request, e);
        td_config_unref(config);
    }
    td_buf_finish(&text);
    return err;
}

// ---- keys

static enum td_err keys_create(struct admin *a, struct td_error *e) {
    char id[TD_KEY_ID_BYTES], key[TD_KEY_TEXT_BYTES];
    struct td_str tenant = td_json_get_str(a->params, "tenant");
    int64_t days = td_json_get_int(a->params, "days", 0), now = td_wall_ms();
    if (!td_name_valid(tenant))
        return td_error_set(e, TD_ERR_USAGE,
                            "a tenant's name is 1 to 128 letters, digits, dots, dashes or underscores");
    bool configured = td_str_is(tenant, "default");
    struct td_config *config = td_runtime_config(a->rt, NULL);
    for (uint32_t i = 0; i < config->policy.tenant_count; i++)
        configured = configured || td_str_eq(config->policy.tenants[i].name, tenant);
    td_config_unref(config);
    TD_TRY(td_govern_key_create(a->rt->govern, tenant, td_json_get_str(a->params, "name"), now,
                                days > 0 ? now + days * 86400000 : 0, id, key, e));
    TD_TRY(td_buf_printf(&a->out, "{\"id\":\"%s\",\"key\":\"%s\"", id, key));
    memset(key, 0, sizeof key);
    TD_TRY(field(a, "tenant", tenant));
    return td_buf_printf(&a->out, ",\"configured\":%s}", configured ? "true" : "false");
}

static enum td_err write_key(struct admin *a, const struct td_key_info *key) {
    TD_TRY(separator(a));
    TD_TRY(td_buf_printf(&a->out, "{\"id\":\"%s\"", key->id));
    TD_TRY(field(a, "tenant", td_str_of(key->tenant)));
    TD_TRY(field(a, "name", td_str_of(key->label)));
    return td_buf_printf(&a->out, ",\"created_ms\":%" PRId64 ",\"expires_ms\":%" PRId64 ",\"revoked\":%s}",
                         key->created_ms, key->expires_ms, key->revoked_ms ? "true" : "false");
}

static bool on_key(void *user, const struct td_key_info *key) {
    struct admin *a = user;
    a->list_err = write_key(a, key);
    return a->list_err == TD_OK;
}

static enum td_err keys_list(struct admin *a, struct td_error *e) {
    TD_TRY(td_buf_addz(&a->out, "{\"keys\":["));
    TD_TRY(td_govern_key_list(a->rt->govern, on_key, a, e));
    TD_TRY(a->list_err);
    return td_buf_addz(&a->out, "]}");
}

static enum td_err keys_revoke(struct admin *a, struct td_error *e) {
    TD_TRY(td_govern_key_revoke(a->rt->govern, td_json_get_str(a->params, "id"), td_wall_ms(), e));
    return td_buf_addz(&a->out, "{\"revoked\":true}");
}

// ---- ledger

// Rows bear labels as bits, which are names only together with a configuration: the one in force. Of a row that was
// written under another text of it, names beside the fixed ones may have moved.
static enum td_err write_label_names(struct admin *a, const struct td_ledger_row *row) {
    struct td_config *config = td_runtime_config(a->rt, NULL);
    const struct td_policy *p = &config->policy;
    const char *comma = "";
    bool sure = row->policy_version == p->version || row->labels >> TD_LABELS_FIXED == 0;
    enum td_err err = td_buf_addz(&a->out, ",\"label_names\":[");
    for (uint32_t left = row->labels; err == TD_OK && left; left &= left - 1, comma = ",") {
        struct td_str name = p->labels[__builtin_ctz(left)];
        err = td_buf_addz(&a->out, comma);
        err = err ? err : td_buf_add_json(&a->out, name.n ? name : TD_STR("*"));
    }
    td_config_unref(config);
    return err ? err : td_buf_addz(&a->out, sure ? "]}" : "],\"label_names_sure\":false}");
}

static bool on_row(void *user, const struct td_ledger_row *row) {
    struct admin *a = user;
    a->list_err = separator(a);
    if (a->list_err == TD_OK)
        a->list_err = td_ledger_row_json(row, false, &a->out);
    if (a->list_err == TD_OK && row->labels) {
        a->out.n--; // its brace: what its labels are called stands with them
        a->list_err = write_label_names(a, row);
    }
    return a->list_err == TD_OK;
}

static struct td_ledger_filter filter_of(const struct admin *a) {
    struct td_str exchange = td_json_get_str(a->params, "exchange");
    int64_t hours =
        td_json_get_int(a->params, "hours", exchange.n ? 0 : 24); // whoever knows its id knows what is meant
    return (struct td_ledger_filter){.exchange = exchange,
                                     .tenant = td_json_get_str(a->params, "tenant"),
                                     .target = td_json_get_str(a->params, "target"),
                                     .after = (uint64_t)td_json_get_int(a->params, "after", 0),
                                     .since_ms = hours > 0 ? td_wall_ms() - hours * 3600000 : 0};
}

static enum td_err ledger_tail(struct admin *a, struct td_error *e) {
    struct td_ledger_filter filter = filter_of(a);
    int64_t limit = td_json_get_int(a->params, "limit", 20);
    if (limit < 1 || limit > 10000)
        return td_error_set(e, TD_ERR_USAGE, "limit is 1 to 10000");
    if (td_store_flush(a->rt->store, 1000) != TD_OK)
        return td_error_set(e, TD_ERR_LEDGER, "the ledger cannot be written now");
    TD_TRY(td_buf_addz(&a->out, "{\"rows\":["));
    TD_TRY(td_ledger_tail(a->rt->store, &filter, (uint32_t)limit, on_row, a, e));
    TD_TRY(a->list_err);
    return td_buf_addz(&a->out, "]}");
}

struct stats_sum {
    struct admin *a;
    struct td_ledger_stats total;
};

static enum td_err write_stats(struct admin *a, const struct td_ledger_stats *s) {
    TD_TRY(separator(a));
    TD_TRY(td_buf_printf(&a->out, "{\"tier\":\"%s\"", td_tier_word(s->tier)));
    TD_TRY(field(a, "target", s->target));
    return td_buf_printf(&a->out,
                         ",\"attempts\":%" PRIu64 ",\"ok\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"delivered\":%" PRIu64
                         ",\"degraded\":%" PRIu64 ",\"prompt_tokens\":%" PRIu64 ",\"completion_tokens\":%" PRIu64
                         ",\"bytes_out\":%" PRIu64 ",\"cost_nusd\":%" PRId64 ",\"ttft_p50_ms\":%" PRIu64
                         ",\"ttft_p95_ms\":%" PRIu64 ",\"p50_ms\":%" PRIu64 ",\"p95_ms\":%" PRIu64 "}",
                         s->attempts, s->ok, s->failed, s->delivered, s->degraded, s->prompt_tokens,
                         s->completion_tokens, s->bytes_out, s->cost_nusd, s->ttft_us_p50 / 1000, s->ttft_us_p95 / 1000,
                         s->duration_us_p50 / 1000, s->duration_us_p95 / 1000);
}

static bool on_stats(void *user, const struct td_ledger_stats *stats) {
    struct stats_sum *sum = user;
    if (td_str_is(stats->target, "*")) {
        sum->total = *stats;
        return true;
    }
    sum->a->list_err = write_stats(sum->a, stats);
    return sum->a->list_err == TD_OK;
}

// The cloud target that would have answered everything: the best one.
static const struct td_target *best_cloud(const struct td_config *config) {
    const struct td_target *best = NULL;
    for (uint32_t i = 0; i < config->target_count; i++) {
        const struct td_target *t = &config->targets[i];
        if (t->tier == TD_TIER_CLOUD && t->paid && (!best || t->quality > best->quality))
            best = t;
    }
    return best;
}

static enum td_err ledger_stats(struct admin *a, struct td_error *e) {
    struct td_ledger_filter filter = filter_of(a);
    struct stats_sum sum = {.a = a};
    struct td_config *config = td_runtime_config(a->rt, NULL);
    const struct td_target *cloud = best_cloud(config);
    (void)!td_store_flush(a->rt->store, 1000);
    enum td_err err = td_buf_addz(&a->out, "{\"targets\":[");
    if (err == TD_OK)
        err = td_ledger_stats(a->rt->store, &filter, cloud ? &cloud->price : NULL, on_stats, &sum, e);
    if (err == TD_OK)
        err = a->list_err;
    if (err == TD_OK)
        err = td_buf_printf(&a->out, "],\"attempts\":%" PRIu64 ",\"delivered\":%" PRIu64 ",\"cost_nusd\":%" PRId64,
                            sum.total.attempts, sum.total.delivered, sum.total.cost_nusd);
    if (err == TD_OK && cloud)
        err = field(a, "cloud_only_target", cloud->name);
    if (err == TD_OK)
        err = td_buf_printf(&a->out, ",\"cloud_only_nusd\":%" PRId64 "}", sum.total.cloud_alone_nusd);
    td_config_unref(config);
    return err;
}

static enum td_err ledger_verify(struct admin *a, struct td_error *e) {
    struct td_ledger_proof p;
    (void)!td_store_flush(a->rt->store, 1000);
    TD_TRY(td_ledger_verify(a->rt->store, &p, e));
    return td_buf_printf(&a->out,
                         "{\"valid\":%s,\"rows\":%" PRIu64 ",\"receipts\":%" PRIu64 ",\"bad\":%" PRIu64
                         ",\"pruned\":%" PRIu64 "}",
                         p.bad ? "false" : "true", p.rows, p.receipts, p.bad, p.pruned);
}

// ---- models

static enum td_err write_target(struct admin *a, const struct td_target *t) {
    struct td_manager_status s = {0};
    if (t->provider == TD_PROVIDER_LLAMA && a->rt->manager)
        td_manager_status(a->rt->manager, t, &s);
    TD_TRY(separator(a));
    TD_TRY(td_buf_printf(&a->out, "{\"tier\":\"%s\",\"provider\":\"%s\"", td_tier_word(t->tier),
                         td_provider_word(t->provider)));
    TD_TRY(field(a, "name", t->name));
    TD_TRY(field(a, "model", t->model));
    TD_TRY(field(a, "region", t->region));
    if (t->provider == TD_PROVIDER_LLAMA)
        TD_TRY(td_runtime_load_write(a->rt, t, &a->out));
    return td_buf_printf(&a->out,
                         ",\"context\":%u,\"quality\":%.3f,\"found\":%s,\"loaded\":%s,\"loading\":%s,\"load_ms\":%u,"
                         "\"memory_bytes\":%" PRIu64 ",\"active\":%u,\"queued\":%u}",
                         t->context, t->quality, t->provider != TD_PROVIDER_LLAMA || t->model_found ? "true" : "false",
                         s.loaded ? "true" : "false", s.loading ? "true" : "false", s.load_ms, s.memory_bytes, s.active,
                         s.queued);
}

static enum td_err write_model(struct admin *a, const struct td_model_record *m) {
    TD_TRY(separator(a));
    TD_TRY(td_buf_printf(&a->out, "{\"bytes\":%" PRIu64 ",\"added_ms\":%" PRId64, m->bytes, m->added_ms));
    TD_TRY(field(a, "name", m->name));
    TD_TRY(field(a, "path", m->path));
    TD_TRY(field(a, "sha256", m->sha256));
    TD_TRY(field(a, "source", m->source));
    return td_buf_addc(&a->out, '}');
}

static bool on_model(void *user, const struct td_model_record *m) {
    struct admin *a = user;
    a->list_err = write_model(a, m);
    return a->list_err == TD_OK;
}

static enum td_err models_list(struct admin *a, struct td_error *e) {
    struct td_config *config = td_runtime_config(a->rt, NULL);
    enum td_err err = td_buf_addz(&a->out, "{\"targets\":[");
    for (uint32_t i = 0; err == TD_OK && i < config->target_count; i++)
        err = write_target(a, &config->targets[i]);
    td_config_unref(config);
    TD_TRY(err);
    a->first = true;
    TD_TRY(td_buf_addz(&a->out, "],\"models\":["));
    TD_TRY(td_catalogue_each(a->rt->store, on_model, a, e));
    TD_TRY(a->list_err);
    return td_buf_addz(&a->out, "]}");
}

static enum td_err models_add(struct admin *a, struct td_error *e) {
    struct td_model_record m = {.name = td_json_get_str(a->params, "name"),
                                .path = td_json_get_str(a->params, "path"),
                                .sha256 = td_json_get_str(a->params, "sha256"),
                                .source = td_json_get_str(a->params, "source"),
                                .bytes = (uint64_t)td_json_get_int(a->params, "bytes", 0),
                                .added_ms = td_wall_ms()};
    TD_TRY(td_catalogue_put(a->rt->store, &m, e));
    return td_buf_addz(&a->out, "{\"added\":true}");
}

static enum td_err models_get(struct admin *a, struct td_error *e) {
    a->first = true;
    TD_TRY(td_catalogue_get(a->rt->store, td_json_get_str(a->params, "name"), on_model, a, e));
    return a->list_err;
}

static enum td_err models_rm(struct admin *a, struct td_error *e) {
    TD_TRY(td_catalogue_remove(a->rt->store, td_json_get_str(a->params, "name"), e));
    return td_buf_addz(&a->out, "{\"removed\":true}");
}

// ---- outbox

static enum td_err write_entry(struct admin *a, const struct td_outbox_entry *entry) {
    static const char *const accepted[] = {"none", "local", "cloud"};
    TD_TRY(separator(a));
    TD_TRY(td_buf_printf(&a->out,
                         "{\"state\":\"%s\",\"priority\":\"%s\",\"created_ms\":%" PRId64 ",\"expires_ms\":%" PRId64
                         ",\"attempts\":%u,\"accepted\":\"%s\",\"error\":\"%s\"",
                         td_outbox_state_word(entry->state), entry->priority ? "batch" : "interactive",
                         entry->created_ms, entry->expires_ms, entry->attempts, accepted[entry->accepted % 3],
                         td_err_code(entry->last_error)));
    TD_TRY(field(a, "id", entry->id));
    TD_TRY(field(a, "tenant", entry->tenant));
    TD_TRY(field(a, "local_target", entry->local.target));
    TD_TRY(field(a, "cloud_target", entry->cloud.target));
    TD_TRY(field(a, "local_text", entry->local.body));
    TD_TRY(field(a, "cloud_text", entry->cloud.body));
    TD_TRY(field(a, "verdict", entry->verdict));
    return td_buf_addc(&a->out, '}');
}

static bool on_entry(void *user, const struct td_outbox_entry *entry) {
    struct admin *a = user;
    a->list_err = write_entry(a, entry);
    return a->list_err == TD_OK;
}

static enum td_err outbox_list(struct admin *a, struct td_error *e) {
    struct td_outbox_filter filter = {.limit = 1000};
    TD_TRY(td_buf_addz(&a->out, "{\"entries\":["));
    TD_TRY(td_outbox_list(a->rt->store, &filter, on_entry, a, e));
    TD_TRY(a->list_err);
    return td_buf_addz(&a->out, "]}");
}

static enum td_err outbox_show(struct admin *a, struct td_error *e) {
    a->first = true;
    TD_TRY(td_outbox_get(a->rt->store, TD_STR_NONE, td_json_get_str(a->params, "id"), on_entry, a, e));
    return a->list_err;
}

static enum td_err exchanges_get(struct admin *a, struct td_error *e) {
    a->first = true;
    TD_TRY(td_outbox_get(a->rt->store, td_json_get_str(a->params, "tenant"), td_json_get_str(a->params, "id"), on_entry,
                         a, e));
    return a->list_err;
}

struct decision {
    enum td_accepted accepted;
    enum td_outbox_state state;
    struct td_buf event;
    enum td_err err;
};

// What the entry's client is told: which answer stands now. Where a rule had decided, or a person before, it is another
// than the client was told.
static bool on_decided(void *user, const struct td_outbox_entry *entry) {
    struct decision *d = user;
    bool cloud = d->accepted == TD_ACCEPTED_CLOUD, other = cloud || entry->state == TD_OUTBOX_RECONCILED;
    const struct td_outbox_answer *answer = cloud ? &entry->cloud : &entry->local;
    d->state = entry->state;
    enum td_err err =
        td_buf_printf(&d->event, "{\"op\":\"%s\",\"verdict\":\"person\",\"target\":", other ? "replace" : "confirm");
    err = err ? err : td_buf_add_json(&d->event, answer->target);
    err = err ? err : td_buf_addz(&d->event, ",\"text\":");
    err = err ? err : td_buf_add_json(&d->event, answer->body);
    d->err = err ? err : td_buf_addc(&d->event, '}');
    return false;
}

static bool on_accepted(void *user, const struct td_outbox_entry *entry) {
    td_heads_put(user, entry, entry->accepted);
    return false;
}

static enum td_err outbox_decide(struct admin *a, enum td_outbox_state to, enum td_accepted accepted,
                                 struct td_error *e) {
    struct td_str id = td_json_get_str(a->params, "id");
    struct decision d = {.accepted = accepted};
    struct td_outbox_event event = {TD_STR("revision"), TD_STR_NONE};
    td_buf_init(&d.event, TD_REPLY_BYTES_MAX);
    enum td_err err = td_outbox_get(a->rt->store, TD_STR_NONE, id, on_decided, &d, e);
    err = err ? err : d.err;
    if (err == TD_OK) {
        struct td_outbox_move move = {.from = d.state, .to = to, .accepted = accepted};
        if (to == TD_OUTBOX_RECONCILED) {
            event.data = td_buf_str(&d.event);
            move.verdict = TD_STR("person");
            move.event = &event;
        }
        err = td_outbox_move(a->rt->store, id, &move, NULL, e);
    }
    td_buf_finish(&d.event);
    TD_TRY(err);
    if (accepted != TD_ACCEPTED_NONE) // the conversation goes on from it, where it can still be read
        (void)!td_outbox_get(a->rt->store, TD_STR_NONE, id, on_accepted, a->rt->heads, e);
    td_events_wake(a->rt->events);
    return td_buf_printf(&a->out, "{\"state\":\"%s\"}", td_outbox_state_word(to));
}

static enum td_err outbox_accept(struct admin *a, struct td_error *e) {
    return outbox_decide(a, TD_OUTBOX_RECONCILED, TD_ACCEPTED_CLOUD, e);
}

static enum td_err outbox_reject(struct admin *a, struct td_error *e) {
    return outbox_decide(a, TD_OUTBOX_RECONCILED, TD_ACCEPTED_LOCAL, e);
}

static enum td_err outbox_drop(struct admin *a, struct td_error *e) {
    return outbox_decide(a, TD_OUTBOX_DROPPED, TD_ACCEPTED_NONE, e);
}

static enum td_err outbox_retry(struct admin *a, struct td_error *e) {
    struct td_config *config = td_runtime_config(a->rt, NULL);
    int64_t now = td_wall_ms(), expires = now + (int64_t)config->outbox.expiry_s * 1000;
    td_config_unref(config);
    TD_TRY(td_outbox_retry(a->rt->store, td_json_get_str(a->params, "id"), now, expires, e));
    return td_buf_addz(&a->out, "{\"state\":\"waiting\"}");
}

// ---- table

static const struct {
    const char *name;
    method_fn *fn;
} methods[] = {
    {"explain", explain},
    {"exchanges.get", exchanges_get},
    {"keys.create", keys_create},
    {"keys.list", keys_list},
    {"keys.revoke", keys_revoke},
    {"ledger.tail", ledger_tail},
    {"ledger.stats", ledger_stats},
    {"ledger.verify", ledger_verify},
    {"models.list", models_list},
    {"models.add", models_add},
    {"models.get", models_get},
    {"models.rm", models_rm},
    {"outbox.list", outbox_list},
    {"outbox.show", outbox_show},
    {"outbox.accept", outbox_accept},
    {"outbox.reject", outbox_reject},
    {"outbox.retry", outbox_retry},
    {"outbox.drop", outbox_drop},
};

int td_admin_call(struct td_runtime *runtime, const char *method, const char *params, char **result,
                  struct td_failure *failure) {
    struct admin a = {.rt = runtime, .first = true};
    struct td_error e = {0};
    enum td_err err = TD_ERR_NOT_FOUND;
    method_fn *fn = NULL;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (strcmp(methods[i].name, method) == 0)
            fn = methods[i].fn;
    td_arena_init(&a.arena, TD_ARENA_BYTES_MAX);
    td_buf_init(&a.out, TD_REPLY_BYTES_MAX);
    if (!fn)
        td_error_set(&e, err, "there is no admin method of this name");
    else
        err = td_json_parse(&a.arena, td_str_of(params), TD_JSON_DEPTH_MAX, &a.params, &e);
    if (err == TD_OK)
        err = fn(&a, &e);
    if (err == TD_OK && !td_buf_z(&a.out))
        err = TD_ERR_NOMEM;
    td_arena_finish(&a.arena);
    if (err == TD_OK) {
        *result = a.out.p;
        return 0;
    }
    td_buf_finish(&a.out);
    e.code = err;
    return td_failure_from(failure, &e);
}
