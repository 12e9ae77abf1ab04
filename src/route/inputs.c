// SPDX-License-Identifier: Apache-2.0
// Facts and world as compact JSON: only what differs from its default is written. One row per field; a field that is
// not in a row's JSON has its default, so that old rows stay readable when fields are added.
#include "route/decide.h"

#include "base/json.h"

enum field_type { FIELD_U32, FIELD_U64, FIELD_I64, FIELD_BOOL, FIELD_STR };

struct field {
    const char *key; // with its quotes and colon
    uint8_t key_length;
    enum field_type type;
    size_t offset;
    int64_t otherwise; // I64
};

#define KEY(key) "\"" key "\":", sizeof("\"" key "\":") - 1
#define F(key, type, member)                                                                                           \
    { KEY(key), type, offsetof(struct td_facts, member), 0 }
static const struct field fact_fields[] = {
    F("kind", FIELD_U32, kind),
    F("model", FIELD_STR, model),
    F("tenant", FIELD_STR, tenant),
    F("class", FIELD_U32, data_class),
    F("residency", FIELD_STR, residency),
    F("tiers", FIELD_U32, tiers_allowed),
    F("caps", FIELD_U32, capabilities),
    F("prefer", FIELD_U32, prefer),
    F("mode", FIELD_U32, mode),
    F("revisions", FIELD_BOOL, revisions),
    F("stream", FIELD_BOOL, stream),
    F("fresh", FIELD_BOOL, fresh),
    F("queue", FIELD_BOOL, queue),
    F("batch", FIELD_BOOL, batch),
    F("has_tools", FIELD_BOOL, has_tools),
    F("conversation", FIELD_BOOL, conversation),
    F("in", FIELD_U32, input_tokens),
    F("in_tools", FIELD_U32, tool_tokens),
    F("out", FIELD_U32, output_tokens),
    F("max", FIELD_U32, max_tokens),
    F("bytes", FIELD_U32, text_bytes),
    F("words", FIELD_U32, words),
    F("turns", FIELD_U32, turns),
    F("choices", FIELD_U32, choices),
    F("features", FIELD_U32, features),
    F("difficulty", FIELD_U32, difficulty_ppm),
    F("deadline", FIELD_U64, deadline_ms),
    {KEY("max_cost"), FIELD_I64, offsetof(struct td_facts, max_cost_nusd), -1},
    {KEY("budget"), FIELD_I64, offsetof(struct td_facts, budget_left_nusd), INT64_MAX},
    F("refine_after", FIELD_U32, refine_after_ms),
    F("draw", FIELD_U64, draw),
};
#undef F

#define F(key, type, member)                                                                                           \
    { KEY(key), type, offsetof(struct td_target_state, member), 0 }
static const struct field state_fields[] = {
    F("breaker", FIELD_U32, breaker),
    F("ready", FIELD_BOOL, ready),
    F("missing", FIELD_BOOL, missing),
    F("loaded", FIELD_BOOL, loaded),
    F("retry_after", FIELD_U32, retry_after_ms),
    F("ttft50", FIELD_U32, ttft_ms_p50),
    F("ttft95", FIELD_U32, ttft_ms_p95),
    F("itl50", FIELD_U32, itl_us_p50),
    F("connect95", FIELD_U32, connect_ms_p95),
    F("load", FIELD_U32, load_ms),
    F("active", FIELD_U32, active),
    F("queued", FIELD_U32, queued),
    F("failures", FIELD_U32, failures_ppm),
    {KEY("budget"), FIELD_I64, offsetof(struct td_target_state, budget_left_nusd), INT64_MAX},
    F("full", FIELD_BOOL, full),
    F("full_ms", FIELD_U32, full_ms),
    F("probe_ok", FIELD_BOOL, probe_ok),
    F("ramp", FIELD_U32, ramp_ppm),
    F("context", FIELD_U32, context),
    F("absent", FIELD_U32, capabilities_absent),
};
#undef F

#define F(key, type, member)                                                                                           \
    { KEY(key), type, offsetof(struct td_world, member), 0 }
static const struct field world_fields[] = {
    F("up", FIELD_BOOL, link.up),
    F("metered", FIELD_BOOL, link.metered),
    F("rtt", FIELD_U32, link.rtt_ms),
    F("kbps", FIELD_U32, link.kbps),
    F("forced", FIELD_U32, link.forced),
    F("ram", FIELD_U64, device.ram_bytes),
    F("ram_free", FIELD_U64, device.ram_free_bytes),
    F("cores", FIELD_U32, device.cores),
    F("accelerators", FIELD_U32, device.accelerators),
    F("on_battery", FIELD_BOOL, device.on_battery),
    F("battery", FIELD_U32, device.battery_percent),
    F("hot", FIELD_BOOL, device.hot),
};
#undef F

#define COUNT(a) (sizeof(a) / sizeof *(a))

static enum td_err write_field(const struct field *f, const void *at, struct td_buf *out) {
    uint32_t u32;
    uint64_t u64;
    int64_t i64;
    struct td_str text;
    switch (f->type) {
    case FIELD_U32:
        memcpy(&u32, at, sizeof u32);
        return td_buf_add_u64(out, u32);
    case FIELD_U64:
        memcpy(&u64, at, sizeof u64);
        return td_buf_add_u64(out, u64);
    case FIELD_I64:
        memcpy(&i64, at, sizeof i64);
        if (i64 < 0)
            TD_TRY(td_buf_addc(out, '-'));
        return td_buf_add_u64(out, i64 < 0 ? 0 - (uint64_t)i64 : (uint64_t)i64);
    case FIELD_BOOL:
        return td_buf_addc(out, '1');
    case FIELD_STR:
        memcpy(&text, at, sizeof text);
        return td_buf_add_json(out, text);
    }
    return TD_OK;
}

static bool is_default(const struct field *f, const void *at) {
    uint32_t u32;
    uint64_t u64;
    int64_t i64;
    bool yes;
    struct td_str text;
    switch (f->type) {
    case FIELD_U32:
        return memcpy(&u32, at, sizeof u32), u32 == 0;
    case FIELD_U64:
        return memcpy(&u64, at, sizeof u64), u64 == 0;
    case FIELD_I64:
        return memcpy(&i64, at, sizeof i64), i64 == f->otherwise;
    case FIELD_BOOL:
        return memcpy(&yes, at, sizeof yes), !yes;
    case FIELD_STR:
        return memcpy(&text, at, sizeof text), text.n == 0;
    }
    return true;
}

// Writes `"key":value,…`; *first says whether a comma is due.
static enum td_err write_fields(const struct field *fields, size_t count, const void *base, bool *first,
                                struct td_buf *out) {
    for (size_t i = 0; i < count; i++) {
        const void *at = (const char *)base + fields[i].offset;
        if (is_default(&fields[i], at))
            continue;
        if (!*first)
            TD_TRY(td_buf_addc(out, ','));
        TD_TRY(td_buf_add(out, fields[i].key, fields[i].key_length));
        TD_TRY(write_field(&fields[i], at, out));
        *first = false;
    }
    return TD_OK;
}

static enum td_err write_labels(const struct td_policy *p, uint32_t labels, bool *first, struct td_buf *out) {
    const char *comma = "";
    if (!labels)
        return TD_OK;
    TD_TRY(td_buf_addz(out, *first ? "\"labels\":[" : ",\"labels\":["));
    *first = false;
    for (; labels; labels &= labels - 1, comma = ",") {
        TD_TRY(td_buf_addz(out, comma));
        TD_TRY(td_buf_add_json(out, p->labels[__builtin_ctz(labels)])); // "" for what the configuration does not name
    }
    return td_buf_addc(out, ']');
}

enum td_err td_decision_inputs_write(const struct td_facts *f, const struct td_world *w, const struct td_policy *p,
                                     struct td_buf *out) {
    bool first = true;
    TD_TRY(td_buf_addz(out, "{\"v\":1,\"facts\":{"));
    TD_TRY(write_fields(fact_fields, COUNT(fact_fields), f, &first, out));
    TD_TRY(write_labels(p, f->labels, &first, out));
    TD_TRY(td_buf_addz(out, "},\"world\":{"));
    first = true;
    TD_TRY(write_fields(world_fields, COUNT(world_fields), w, &first, out));
    TD_TRY(td_buf_addz(out, "},\"targets\":{"));
    for (uint32_t i = 0; i < p->target_count; i++) {
        TD_TRY(td_buf_addz(out, i ? "," : ""));
        TD_TRY(td_buf_add_json(out, p->targets[i].name));
        TD_TRY(td_buf_addz(out, ":{"));
        first = true;
        TD_TRY(write_fields(state_fields, COUNT(state_fields), &w->targets[i], &first, out));
        TD_TRY(td_buf_addc(out, '}'));
    }
    return td_buf_addz(out, "}}");
}

static bool read_fields(td_json *obj, const struct field *fields, size_t count, void *base) {
    for (size_t i = 0; i < count; i++) {
        void *at = (char *)base + fields[i].offset;
        td_json *v = yyjson_obj_getn(obj, fields[i].key + 1, fields[i].key_length - 3u);
        switch (fields[i].type) {
        case FIELD_U32:
            if (v && (!yyjson_is_uint(v) || yyjson_get_uint(v) > UINT32_MAX))
                return false;
            memcpy(at, &(uint32_t){v ? (uint32_t)yyjson_get_uint(v) : 0}, sizeof(uint32_t));
            break;
        case FIELD_U64:
            if (v && !yyjson_is_uint(v))
                return false;
            memcpy(at, &(uint64_t){v ? yyjson_get_uint(v) : 0}, sizeof(uint64_t));
            break;
        case FIELD_I64:
            if (v && (!yyjson_is_int(v) || (yyjson_is_uint(v) && yyjson_get_uint(v) > INT64_MAX)))
                return false;
            memcpy(at, &(int64_t){v ? yyjson_get_sint(v) : fields[i].otherwise}, sizeof(int64_t));
            break;
        case FIELD_BOOL:
            if (v && (!yyjson_is_uint(v) || yyjson_get_uint(v) != 1))
                return false;
            memcpy(at, &(bool){v != NULL}, sizeof(bool));
            break;
        case FIELD_STR:
            if (v && !yyjson_is_str(v))
                return false;
            memcpy(at, &(struct td_str){v ? yyjson_get_str(v) : "", v ? yyjson_get_len(v) : 0}, sizeof(struct td_str));
            break;
        }
    }
    return true;
}

static bool read_labels(td_json *list, const struct td_policy *p, uint32_t *labels) {
    size_t i, max;
    td_json *item;
    *labels = 0;
    if (list && !yyjson_is_arr(list))
        return false;
    yyjson_arr_foreach(list, i, max, item) {
        if (!yyjson_is_str(item))
            return false;
        *labels |= yyjson_get_len(item) ? td_policy_label(p, td_json_str(item)) : TD_LABEL_OTHER;
    }
    return true;
}

// What no enum holds cannot have been written.
static bool in_range(const struct td_facts *f, const struct td_world *w) {
    return f->tool_tokens <= f->input_tokens && (unsigned)f->kind <= TD_KIND_EMBEDDING &&
           (unsigned)f->data_class <= TD_CLASS_RESTRICTED && (unsigned)f->prefer <= TD_PREFER_PRIVATE &&
           (unsigned)f->mode <= TD_MODE_HEDGE && (unsigned)w->link.forced <= TD_CONNECTIVITY_METERED;
}

enum td_err td_decision_inputs_read(struct td_str text, const struct td_policy *p, struct td_arena *arena,
                                    struct td_facts *f, struct td_world *w, struct td_error *e) {
    td_json *root, *targets;
    enum td_err err = td_json_parse(arena, text, 8, &root, e);
    if (err != TD_OK)
        return err;
    targets = td_json_get(root, "targets");
    memset(f, 0, sizeof *f);
    memset(w, 0, sizeof *w);
    if (td_json_get_int(root, "v", 0) != 1 || !yyjson_is_obj(td_json_get(root, "facts")) ||
        !yyjson_is_obj(td_json_get(root, "world")) || !yyjson_is_obj(targets))
        return td_error_set(e, TD_ERR_BAD_JSON, "these are no inputs of a decision");
    bool ok = read_fields(td_json_get(root, "facts"), fact_fields, COUNT(fact_fields), f) &&
              read_labels(td_json_get(td_json_get(root, "facts"), "labels"), p, &f->labels) &&
              read_fields(td_json_get(root, "world"), world_fields, COUNT(world_fields), w) && in_range(f, w);
    w->target_count = p->target_count;
    for (uint32_t i = 0; ok && i < p->target_count; i++) {
        struct td_target_state *s = &w->targets[i];
        td_json *v = yyjson_obj_getn(targets, p->targets[i].name.p, p->targets[i].name.n);
        if (v && !yyjson_is_obj(v))
            ok = false;
        else if (v)
            ok = read_fields(v, state_fields, COUNT(state_fields), s) && (unsigned)s->breaker <= TD_BREAKER_OPEN;
        else // a target that came later: as if all were well with it
            *s = (struct td_target_state){.ready = true, .loaded = true, .budget_left_nusd = INT64_MAX};
    }
    return ok ? TD_OK : td_error_set(e, TD_ERR_BAD_JSON, "these are no inputs of a decision");
}
