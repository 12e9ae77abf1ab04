// SPDX-License-Identifier: Apache-2.0
// The outbox written: each change is checked and made by the writer thread, in one transaction with the event that
// tells of it. Reading is in outbox_read.c and events.c, the texts' seals in outbox_text.c.
#include "store/outbox.h"

#include "base/time.h"
#include "store/inner.h"

#define OP_BYTES_MAX (2u * TD_OUTBOX_ENTRY_BYTES_MAX + (1u << 20)) // an operation's texts, plain copies and sealed

const char *td_outbox_state_word(enum td_outbox_state state) {
    static const char *const words[] = {
#define X(name, word, terminal) word,
        TD_OUTBOX_STATE_LIST(X)
#undef X
    };
    return state < TD_OUTBOX_STATE_COUNT ? words[state] : "";
}

bool td_outbox_move_is_legal(enum td_outbox_state from, enum td_outbox_state to) {
#define TO(name) (1u << TD_OUTBOX_##name)
    static const unsigned arrows[TD_OUTBOX_STATE_COUNT] = {
        [TD_OUTBOX_QUEUED] = TO(ANSWERED_LOCALLY) | TO(INTENT_SENT) | TO(EXPIRED) | TO(REJECTED) | TO(DROPPED),
        [TD_OUTBOX_ANSWERED_LOCALLY] = TO(INTENT_SENT) | TO(EXPIRED) | TO(REJECTED) | TO(DROPPED),
        [TD_OUTBOX_INTENT_SENT] =
            TO(ANSWERED_BY_CLOUD) | TO(QUEUED) | TO(ANSWERED_LOCALLY) | TO(EXPIRED) | TO(REJECTED) | TO(DROPPED),
        [TD_OUTBOX_ANSWERED_BY_CLOUD] = TO(RECONCILED) | TO(DROPPED),
        [TD_OUTBOX_RECONCILED] = TO(RECONCILED),
        [TD_OUTBOX_EXPIRED] = TO(QUEUED) | TO(ANSWERED_LOCALLY) | TO(DROPPED),
        [TD_OUTBOX_REJECTED] = TO(QUEUED) | TO(ANSWERED_LOCALLY) | TO(DROPPED),
    };
#undef TO
    return from < TD_OUTBOX_STATE_COUNT && to < TD_OUTBOX_STATE_COUNT && (arrows[from] >> to & 1);
}

static bool keep(struct td_arena *arena, struct td_str *s) {
    *s = td_arena_str(arena, *s);
    return s->p != NULL;
}

static enum td_err no_memory(struct td_op *op, struct td_error *e) {
    td_op_destroy(op);
    return td_error_set(e, TD_ERR_NOMEM, "while writing to the outbox");
}

// ---- adding

struct room {
    uint64_t entries, bytes;
};

static enum td_err measure(struct td_db *db, const char *sql, struct room *out, struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(db, sql);
    if (!s || sqlite3_step(s) != SQLITE_ROW)
        return td_db_fail(db, "measuring the outbox", e);
    *out = (struct room){(uint64_t)sqlite3_column_int64(s, 0), (uint64_t)sqlite3_column_int64(s, 1)};
    sqlite3_reset(s);
    return TD_OK;
}

static bool has_room(const struct td_store *store, const struct room *taken, const struct room *more) {
    return taken->entries + more->entries <= store->options.outbox_entries_max &&
           taken->bytes + more->bytes <= store->options.outbox_bytes_max;
}

// What is finished is kept to be looked at, but gives way, oldest first, to what is not.
static enum td_err give_way(struct td_store *store, struct td_db *db, const struct room *more, struct td_error *e) {
    struct room taken = {0};
    enum td_err err = measure(db, "SELECT count(*),total(bytes) FROM outbox", &taken, e);
    while (err == TD_OK && !has_room(store, &taken, more)) {
        sqlite3_stmt *s = td_db_statement(db, "DELETE FROM outbox WHERE id=(SELECT id FROM outbox WHERE state>=4"
                                              " ORDER BY changed_ms LIMIT 1)");
        err = td_db_done(db, s, "making room in the outbox", e);
        if (err != TD_OK || td_db_changes(db) == 0)
            break;
        err = measure(db, "SELECT count(*),total(bytes) FROM outbox", &taken, e);
    }
    return err;
}

static enum td_err make_room(struct td_store *store, struct td_db *db, uint64_t bytes, struct td_error *e) {
    struct room waiting = {0}, more = {1, bytes};
    enum td_err err = measure(db, "SELECT count(*),total(bytes) FROM outbox WHERE state<4", &waiting, e);
    if (err == TD_OK && !has_room(store, &waiting, &more))
        err = td_error_set(e, TD_ERR_OVERLOAD, "the outbox is full (%llu entries, %llu bytes)",
                           (unsigned long long)waiting.entries, (unsigned long long)waiting.bytes);
    return err ? err : give_way(store, db, &more, e);
}

static void bind_answer(sqlite3_stmt *s, int at, const struct td_outbox_answer *a) {
    td_db_bind_str(s, at, a->target);
    td_db_bind_str(s, at + 1, a->model);
    sqlite3_bind_double(s, at + 2, a->quality);
    td_db_bind_int(s, at + 3, a->wall_ms);
}

// The same request, kept once: its client did not hear that it was. Those that ended without an answer do not count.
static enum td_err find_twin(struct td_db *db, const struct td_outbox_entry *x, struct td_error *e) {
    enum td_err err = TD_OK;
    if (!td_str_starts(x->idempotency_key, TD_STR(TD_OUTBOX_CLIENT_KEY)) ||
        x->idempotency_key.n <= TD_OUTBOX_CLIENT_KEY_BYTES)
        return TD_OK;
    sqlite3_stmt *s = td_db_statement(db, "SELECT id,idempotency_key FROM outbox WHERE tenant=?1 AND state<5"
                                          " AND substr(idempotency_key,1,?3)=?2");
    if (!s)
        return td_db_fail(db, "reading the outbox", e);
    td_db_bind_str(s, 1, x->tenant);
    td_db_bind_str(s, 2, td_str_n(x->idempotency_key.p, TD_OUTBOX_CLIENT_KEY_BYTES));
    td_db_bind_int(s, 3, TD_OUTBOX_CLIENT_KEY_BYTES);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) {
        bool same = td_str_eq(td_db_str(s, 1), x->idempotency_key);
        if (same && x->twin)
            snprintf(x->twin, 27, "%.*s", TD_STR_ARG(td_db_str(s, 0)));
        err = same ? td_error_set(e, TD_ERR_IN_PROGRESS, "this request is in the outbox already")
                   : td_error_set(e, TD_ERR_KEY_REUSED, "%s", td_err_text(TD_ERR_KEY_REUSED));
    } else if (rc != SQLITE_DONE) {
        err = td_db_fail(db, "reading the outbox", e);
    }
    sqlite3_reset(s);
    return err;
}

static enum td_err run_add(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    const struct td_outbox_entry *x = arg;
    enum td_err err = find_twin(db, x, e);
    if (err == TD_OK)
        err = make_room(store, db, x->bytes, e);
    if (err != TD_OK)
        return err;
    sqlite3_stmt *s = td_db_statement(
        db, "INSERT INTO outbox(id,tenant,conversation,state,priority,created_ms,expires_ms,next_try_ms,changed_ms,"
            "attempts,policy_version,data_class,labels,residency,reconcile,idempotency_key,local_target,local_model,"
            "local_quality,local_ms,cloud_target,cloud_model,cloud_quality,cloud_ms,accepted,verdict,last_error,bytes,"
            "request,context,local_body) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,0,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,"
            "'','',0,0,0,'','',?20,?21,?22,?23) ON CONFLICT(id) DO NOTHING");
    if (s) {
        td_db_bind_str(s, 1, x->id);
        td_db_bind_str(s, 2, x->tenant);
        td_db_bind_str(s, 3, x->conversation);
        td_db_bind_int(s, 4, x->state);
        td_db_bind_int(s, 5, x->priority);
        td_db_bind_int(s, 6, x->created_ms);
        td_db_bind_int(s, 7, x->expires_ms);
        td_db_bind_int(s, 8, x->next_try_ms);
        td_db_bind_int(s, 9, x->changed_ms);
        td_db_bind_int(s, 10, (int64_t)x->policy_version);
        td_db_bind_int(s, 11, x->data_class);
        td_db_bind_str(s, 12, x->labels);
        td_db_bind_str(s, 13, x->residency);
        td_db_bind_str(s, 14, x->reconcile);
        td_db_bind_str(s, 15, x->idempotency_key);
        bind_answer(s, 16, &x->local);
        td_db_bind_int(s, 20, (int64_t)x->bytes);
        td_db_bind_blob(s, 21, x->request);
        td_db_bind_blob(s, 22, x->context);
        td_db_bind_blob(s, 23, x->local.body);
    }
    err = td_db_done(db, s, "adding to the outbox", e);
    if (err == TD_OK && td_db_changes(db) == 0)
        err = td_error_set(e, TD_ERR_USAGE, "this exchange is in the outbox already");
    return err;
}

static bool copy_entry(struct td_store *store, struct td_op *op, const struct td_outbox_entry *from) {
    struct td_outbox_entry *x = op->arg;
    struct td_arena *a = &op->arena;
    char fresh[27];
    td_id_new(fresh);
    *x = *from;
    x->bytes = from->request.n + from->context.n + from->local.body.n;
    x->changed_ms = td_wall_ms();
    if (x->idempotency_key.n == 0)
        x->idempotency_key = td_str_of(fresh);
    return td_outbox_seal(store, a, "request", from->id, from->request, &x->request) &&
           td_outbox_seal(store, a, "context", from->id, from->context, &x->context) &&
           td_outbox_seal(store, a, "local", from->id, from->local.body, &x->local.body) && keep(a, &x->id) &&
           keep(a, &x->tenant) && keep(a, &x->conversation) && keep(a, &x->labels) && keep(a, &x->residency) &&
           keep(a, &x->reconcile) && keep(a, &x->idempotency_key) && keep(a, &x->local.target) &&
           keep(a, &x->local.model);
}

enum td_err td_outbox_add(struct td_store *store, const struct td_outbox_entry *entry, const struct td_ack *ack,
                          struct td_error *e) {
    bool answered = entry->state == TD_OUTBOX_ANSWERED_LOCALLY;
    if (entry->id.n == 0 || entry->id.n > TD_NAME_BYTES_MAX || entry->request.n == 0)
        return td_error_set(e, TD_ERR_USAGE, "an outbox entry needs an id and a request");
    if ((!answered && entry->state != TD_OUTBOX_QUEUED) || answered != (entry->local.body.n > 0))
        return td_error_set(e, TD_ERR_USAGE, "an outbox entry begins queued, or answered_locally with its answer");
    if (entry->request.n + entry->context.n + entry->local.body.n > TD_OUTBOX_ENTRY_BYTES_MAX)
        return td_error_set(e, TD_ERR_LIMIT, "the request is too large for the outbox");
    struct td_op *op = td_op_create(sizeof *entry, OP_BYTES_MAX);
    if (!op || !copy_entry(store, op, entry))
        return no_memory(op, e);
    op->run = run_add;
    return td_op_submit(store, op, ack, e);
}

// ---- moving

struct move {
    struct td_str id;
    struct td_outbox_move m; // its pointers are not used; these are:
    struct td_outbox_answer local, cloud;
    struct td_outbox_event event;
    uint64_t bytes;
    int64_t wall_ms;
};

struct found {
    enum td_outbox_state state;
    enum td_accepted accepted;
    bool has_local, has_cloud;
    struct td_str tenant; // of the statement: reset it after use
    sqlite3_stmt *statement;
};

static enum td_err find_entry(struct td_db *db, struct td_str id, struct found *f, struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(db, "SELECT state,local_body IS NOT NULL,cloud_body IS NOT NULL,tenant,"
                                          "accepted FROM outbox WHERE id=?1");
    if (!s)
        return td_db_fail(db, "reading the outbox", e);
    td_db_bind_str(s, 1, id);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) {
        *f = (struct found){.state = (enum td_outbox_state)sqlite3_column_int(s, 0),
                            .accepted = (enum td_accepted)sqlite3_column_int(s, 4),
                            .has_local = sqlite3_column_int(s, 1) != 0,
                            .has_cloud = sqlite3_column_int(s, 2) != 0,
                            .tenant = td_db_str(s, 3),
                            .statement = s};
        return TD_OK;
    }
    enum td_err err = rc == SQLITE_DONE ? td_error_set(e, TD_ERR_NOT_FOUND, "no such entry in the outbox")
                                        : td_db_fail(db, "reading the outbox", e);
    sqlite3_reset(s);
    return err;
}

static enum td_err check_move(const struct found *f, const struct move *v, struct td_error *e) {
    bool local = f->has_local || v->local.body.n, cloud = f->has_cloud || v->cloud.body.n;
    if (f->state != v->m.from)
        return td_error_set(e, TD_ERR_USAGE, "the entry is %s, not %s", td_outbox_state_word(f->state),
                            td_outbox_state_word(v->m.from));
    if (!td_outbox_move_is_legal(v->m.from, v->m.to))
        return td_error_set(e, TD_ERR_USAGE, "an entry cannot go from %s to %s", td_outbox_state_word(v->m.from),
                            td_outbox_state_word(v->m.to));
    if ((v->m.to == TD_OUTBOX_ANSWERED_LOCALLY && !local) || (v->m.to == TD_OUTBOX_ANSWERED_BY_CLOUD && !cloud))
        return td_error_set(e, TD_ERR_USAGE, "the state %s does not fit the answers there are",
                            td_outbox_state_word(v->m.to));
    if (v->m.to == TD_OUTBOX_RECONCILED &&
        !((v->m.accepted == TD_ACCEPTED_LOCAL && local) || (v->m.accepted == TD_ACCEPTED_CLOUD && cloud)))
        return td_error_set(e, TD_ERR_USAGE, "reconciling needs an accepted answer that is there");
    if (v->m.from == TD_OUTBOX_RECONCILED && v->m.accepted == f->accepted)
        return td_error_set(e, TD_ERR_USAGE, "this answer stands already");
    return TD_OK;
}

static enum td_err put_state(struct td_db *db, const struct move *v, struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(
        db, "UPDATE outbox SET state=?2,changed_ms=?3,attempts=attempts+?4,"
            "next_try_ms=CASE WHEN ?5>0 THEN ?5 ELSE next_try_ms END,accepted=CASE WHEN ?6>0 THEN ?6 ELSE accepted END,"
            "verdict=CASE WHEN ?7<>'' THEN ?7 ELSE verdict END,last_error=CASE WHEN ?8<>'' THEN ?8 ELSE last_error END,"
            "bytes=bytes+?9 WHERE id=?1");
    if (s) {
        td_db_bind_str(s, 1, v->id);
        td_db_bind_int(s, 2, v->m.to);
        td_db_bind_int(s, 3, v->wall_ms);
        td_db_bind_int(s, 4, v->m.attempted);
        td_db_bind_int(s, 5, v->m.next_try_ms);
        td_db_bind_int(s, 6, v->m.accepted);
        td_db_bind_str(s, 7, v->m.verdict);
        td_db_bind_str(s, 8, td_str_of(td_err_code(v->m.error)));
        td_db_bind_int(s, 9, (int64_t)v->bytes);
    }
    return td_db_done(db, s, "moving an outbox entry", e);
}

static enum td_err put_answer(struct td_db *db, const char *sql, struct td_str id, const struct td_outbox_answer *a,
                              struct td_error *e) {
    if (a->body.n == 0)
        return TD_OK;
    sqlite3_stmt *s = td_db_statement(db, sql);
    if (s) {
        td_db_bind_str(s, 1, id);
        bind_answer(s, 2, a);
        td_db_bind_blob(s, 6, a->body);
    }
    return td_db_done(db, s, "keeping an answer", e);
}

// `data` sealed already.
static enum td_err put_event(struct td_db *db, struct td_str tenant, struct td_str exchange, struct td_str type,
                             struct td_str data, int64_t wall_ms, struct td_error *e) {
    sqlite3_stmt *s =
        td_db_statement(db, "INSERT INTO events(tenant,exchange,type,data,wall_ms) VALUES(?1,?2,?3,?4,?5)");
    if (s) {
        td_db_bind_str(s, 1, tenant);
        td_db_bind_str(s, 2, exchange);
        td_db_bind_str(s, 3, type);
        td_db_bind_blob(s, 4, data);
        td_db_bind_int(s, 5, wall_ms);
    }
    return td_db_done(db, s, "writing an event", e);
}

// A local answer can come after replay has taken its entry: it is kept with it, and the state stays what it is.
static bool comes_late(const struct found *f, const struct move *v) {
    return v->m.from == TD_OUTBOX_QUEUED && v->m.to == TD_OUTBOX_ANSWERED_LOCALLY && v->local.body.n && !f->has_local &&
           (f->state == TD_OUTBOX_INTENT_SENT || f->state == TD_OUTBOX_ANSWERED_BY_CLOUD ||
            f->state == TD_OUTBOX_RECONCILED);
}

static enum td_err run_move(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    struct move *v = arg;
    struct found f;
    enum td_err err = find_entry(db, v->id, &f, e);
    if (err != TD_OK)
        return err;
    if (comes_late(&f, v)) {
        v->m = (struct td_outbox_move){.from = f.state, .to = f.state};
        v->event = (struct td_outbox_event){0};
    } else {
        if (v->m.to == TD_OUTBOX_QUEUED && f.has_local)
            v->m.to = TD_OUTBOX_ANSWERED_LOCALLY; // waiting again, with the answer it has by now
        err = check_move(&f, v, e);
    }
    if (err == TD_OK && v->bytes) // an answer is taken in any case
        err = give_way(store, db, &(struct room){0, v->bytes}, e);
    if (err == TD_OK)
        err = put_state(db, v, e);
    if (err == TD_OK)
        err = put_answer(db,
                         "UPDATE outbox SET local_target=?2,local_model=?3,local_quality=?4,local_ms=?5,"
                         "local_body=?6 WHERE id=?1",
                         v->id, &v->local, e);
    if (err == TD_OK)
        err = put_answer(db,
                         "UPDATE outbox SET cloud_target=?2,cloud_model=?3,cloud_quality=?4,cloud_ms=?5,"
                         "cloud_body=?6 WHERE id=?1",
                         v->id, &v->cloud, e);
    if (err == TD_OK && v->event.type.n)
        err = put_event(db, f.tenant, v->id, v->event.type, v->event.data, v->wall_ms, e);
    sqlite3_reset(f.statement);
    return err;
}

static bool copy_answer(struct td_store *store, struct td_op *op, const char *what, struct td_str id,
                        const struct td_outbox_answer *from, struct td_outbox_answer *to, uint64_t *bytes) {
    if (!from)
        return true;
    *to = *from;
    *bytes += from->body.n;
    return td_outbox_seal(store, &op->arena, what, id, from->body, &to->body) && keep(&op->arena, &to->target) &&
           keep(&op->arena, &to->model);
}

enum td_err td_outbox_move(struct td_store *store, struct td_str id, const struct td_outbox_move *move,
                           const struct td_ack *ack, struct td_error *e) {
    uint64_t n = (move->local ? move->local->body.n : 0) + (move->cloud ? move->cloud->body.n : 0);
    if (n > TD_OUTBOX_ENTRY_BYTES_MAX || (move->event && move->event->data.n > TD_OUTBOX_ENTRY_BYTES_MAX))
        return td_error_set(e, TD_ERR_LIMIT, "the answer is too large for the outbox");
    struct td_op *op = td_op_create(sizeof(struct move), OP_BYTES_MAX);
    if (!op)
        return no_memory(op, e);
    struct move *v = op->arg;
    *v = (struct move){.id = id, .m = *move, .wall_ms = td_wall_ms()};
    if (move->event)
        v->event = *move->event;
    if (!keep(&op->arena, &v->id) || !keep(&op->arena, &v->m.verdict) ||
        !copy_answer(store, op, "local", id, move->local, &v->local, &v->bytes) ||
        !copy_answer(store, op, "cloud", id, move->cloud, &v->cloud, &v->bytes) || !keep(&op->arena, &v->event.type) ||
        !td_outbox_seal(store, &op->arena, "event", id, v->event.data, &v->event.data))
        return no_memory(op, e);
    op->run = run_move;
    return td_op_submit(store, op, ack, e);
}

struct retry {
    struct td_str id;
    int64_t now_ms, expires_ms;
};

static enum td_err run_retry(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    const struct retry *r = arg;
    struct found f;
    (void)store;
    enum td_err err = find_entry(db, r->id, &f, e);
    if (err != TD_OK)
        return err;
    sqlite3_reset(f.statement);
    if (f.state != TD_OUTBOX_QUEUED && f.state != TD_OUTBOX_ANSWERED_LOCALLY && f.state != TD_OUTBOX_EXPIRED &&
        f.state != TD_OUTBOX_REJECTED)
        return td_error_set(e, TD_ERR_USAGE, "an entry that is %s cannot be tried again",
                            td_outbox_state_word(f.state));
    sqlite3_stmt *s = td_db_statement(db, "UPDATE outbox SET state=?2,changed_ms=?3,next_try_ms=?3,attempts=0,"
                                          "expires_ms=max(expires_ms,?4) WHERE id=?1");
    if (s) {
        td_db_bind_str(s, 1, r->id);
        td_db_bind_int(s, 2, f.has_local ? TD_OUTBOX_ANSWERED_LOCALLY : TD_OUTBOX_QUEUED);
        td_db_bind_int(s, 3, r->now_ms);
        td_db_bind_int(s, 4, r->expires_ms);
    }
    return td_db_done(db, s, "trying an outbox entry again", e);
}

enum td_err td_outbox_retry(struct td_store *store, struct td_str id, int64_t now_ms, int64_t expires_ms,
                            struct td_error *e) {
    return td_store_do(store, run_retry, &(struct retry){id, now_ms, expires_ms}, e);
}

// ---- labels

struct naming {
    enum td_err (*name)(void *user, uint32_t bits, struct td_buf *out);
    void *user;
};

static enum td_err name_bits(struct td_db *db, const struct naming *n, int64_t bits, struct td_error *e) {
    struct td_buf names;
    td_buf_init(&names, 64u << 10);
    enum td_err err = n->name(n->user, (uint32_t)bits, &names);
    if (err != TD_OK)
        err = td_error_set(e, err, "while naming labels");
    sqlite3_stmt *s =
        err == TD_OK ? td_db_statement(db, "UPDATE outbox SET labels=?2,label_bits=NULL WHERE label_bits=?1") : NULL;
    if (s) {
        td_db_bind_int(s, 1, bits);
        td_db_bind_str(s, 2, td_buf_str(&names));
    }
    if (err == TD_OK)
        err = td_db_done(db, s, "naming labels", e);
    td_buf_finish(&names);
    return err;
}

static enum td_err run_name(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    enum td_err err = TD_OK;
    (void)store;
    for (;;) {
        sqlite3_stmt *s = td_db_statement(db, "SELECT label_bits FROM outbox WHERE label_bits IS NOT NULL LIMIT 1");
        int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
        if (rc == SQLITE_DONE || rc != SQLITE_ROW)
            return rc == SQLITE_DONE ? TD_OK : td_db_fail(db, "reading the outbox", e);
        int64_t bits = sqlite3_column_int64(s, 0);
        sqlite3_reset(s);
        err = name_bits(db, arg, bits, e);
        if (err != TD_OK)
            return err;
    }
}

enum td_err td_outbox_name_labels(struct td_store *store,
                                  enum td_err (*name)(void *user, uint32_t bits, struct td_buf *out), void *user,
                                  struct td_error *e) {
    return td_store_do(store, run_name, &(struct naming){name, user}, e);
}

// ---- sweeping

struct sweep {
    int64_t now_ms, keep_ms;
    uint32_t limit;
};

static enum td_err expire_one(struct td_store *store, struct td_db *db, struct td_str id, struct td_str tenant,
                              int64_t now_ms, struct td_error *e) {
    struct td_arena arena;
    struct td_str data;
    td_arena_init(&arena, 4096);
    struct move v = {.id = id, .m = {.to = TD_OUTBOX_EXPIRED}, .wall_ms = now_ms};
    struct td_str plain = td_arena_printf(&arena, "{\"exchange\":\"%.*s\",\"state\":\"expired\"}", TD_STR_ARG(id));
    enum td_err err = plain.p && td_outbox_seal(store, &arena, "event", id, plain, &data)
                          ? put_state(db, &v, e)
                          : td_error_set(e, TD_ERR_NOMEM, "while expiring outbox entries");
    if (err == TD_OK)
        err = put_event(db, tenant, id, TD_STR("expired"), data, now_ms, e);
    td_arena_finish(&arena);
    return err;
}

static enum td_err forget(struct td_db *db, const char *sql, int64_t before_ms, uint32_t limit, struct td_error *e) {
    sqlite3_stmt *s = td_db_statement(db, sql);
    if (s) {
        td_db_bind_int(s, 1, before_ms);
        td_db_bind_int(s, 2, limit);
    }
    return td_db_done(db, s, "removing what was kept long enough", e);
}

static enum td_err run_sweep(struct td_store *store, struct td_db *db, void *arg, struct td_error *e) {
    const struct sweep *w = arg;
    enum td_err err = TD_OK;
    int rc = SQLITE_DONE;
    // Ids are copied out first: a table is not changed under a statement that walks it.
    struct td_arena arena;
    struct td_str *ids = NULL;
    uint32_t n = 0;
    td_arena_init(&arena, 16u << 20);
    sqlite3_stmt *s =
        td_db_statement(db, "SELECT id,tenant FROM outbox WHERE state<2 AND expires_ms<=?1 ORDER BY id LIMIT ?2");
    ids = td_arena_array(&arena, w->limit * 2u, sizeof *ids);
    if (!s || !ids)
        err = s ? td_error_set(e, TD_ERR_NOMEM, "while expiring outbox entries") : td_db_fail(db, "sweeping", e);
    if (err == TD_OK) {
        td_db_bind_int(s, 1, w->now_ms);
        td_db_bind_int(s, 2, w->limit);
        while (n < w->limit && (rc = sqlite3_step(s)) == SQLITE_ROW) {
            ids[2 * n] = td_arena_str(&arena, td_db_str(s, 0));
            ids[2 * n + 1] = td_arena_str(&arena, td_db_str(s, 1));
            n++;
        }
        sqlite3_reset(s);
        if (rc != SQLITE_DONE && rc != SQLITE_ROW)
            err = td_db_fail(db, "sweeping the outbox", e);
    }
    for (uint32_t i = 0; err == TD_OK && i < n; i++)
        err = ids[2 * i].p ? expire_one(store, db, ids[2 * i], ids[2 * i + 1], w->now_ms, e)
                           : td_error_set(e, TD_ERR_NOMEM, "while expiring outbox entries");
    td_arena_finish(&arena);
    if (err == TD_OK)
        err = forget(db,
                     "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE changed_ms<?1 AND state>=4"
                     " ORDER BY changed_ms LIMIT ?2)",
                     w->now_ms - w->keep_ms, w->limit, e);
    if (err == TD_OK)
        err = forget(db, "DELETE FROM events WHERE wall_ms<?1 AND id IN (SELECT id FROM events ORDER BY id LIMIT ?2)",
                     w->now_ms - w->keep_ms, w->limit, e);
    return err;
}

enum td_err td_outbox_sweep(struct td_store *store, int64_t now_ms, int64_t keep_ms, uint32_t limit,
                            const struct td_ack *ack, struct td_error *e) {
    struct td_op *op = td_op_create(sizeof(struct sweep), 4096);
    if (!op)
        return no_memory(op, e);
    *(struct sweep *)op->arg = (struct sweep){now_ms, keep_ms, limit < 10000 ? limit : 10000};
    op->run = run_sweep;
    return td_op_submit(store, op, ack, e);
}
