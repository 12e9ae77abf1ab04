// SPDX-License-Identifier: Apache-2.0
#include "target/health.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/time.h"
#include "target/quantile.h"

#define OUTCOMES 16u    // remembered for the breaker
#define OUTCOMES_MIN 5u // fewer say nothing about a share
#define FAILURES_IN_A_ROW 3u
#define WINDOW_NS (30 * TD_S_NS) // older failures are forgiven
#define OPEN_MS_MIN 1000u
#define OPEN_MS_MAX 2000u    // with probe and ramp: back in use within 5 s of recovering
#define PROBE_GAP_NS TD_S_NS // at most one probe a second
#define RAMP_STEP_NS (TD_S_NS / 2)
#define RAMP_PPM_START 250000u      // doubling each step: all traffic a second after recovering
#define RETRY_AFTER_MS_MAX 3600000u // nobody asks for longer than an hour
#define RETRY_SHARE 0.1             // of calls
#define RETRY_TOKENS_MAX 10.0
#define RETRY_TOKENS_START 2.0      // so that the first failure of all can be tried again
#define LINK_QUIET_NS (5 * TD_S_NS) // an answer this recent speaks against a dead link

struct entry {
    pthread_mutex_t lock;
    struct entry *next; // retired
    uint64_t name_hash; // this and the name never change
    char name[TD_NAME_BYTES_MAX + 1];
    atomic_bool adopted; // of the configuration in force
    bool remote;         // beyond this machine: speaks for the link
    // breaker
    enum td_breaker breaker;
    uint32_t outcomes, outcome_count; // newest in bit 0; 1 is a failure
    uint32_t failures_in_a_row;
    uint64_t last_ns, open_until_ns, last_probe_ns, closed_ns;
    uint32_t open_ms;
    bool probing, ramping, link_failed;
    uint64_t retry_after_until_ns;
    double retry_tokens;
    // load
    uint32_t active, parallel;
    struct td_limit limit; // of a local model
    bool local;
    // latency
    struct td_quantile ttft_ms, itl_us, connect_ms;
    // local model
    bool model_known, ready, loaded;
    uint32_t load_ms, context, capabilities_absent;
};

struct td_health {
    pthread_mutex_t lock; // of adopting, and of the link
    _Atomic(struct entry *) entries[TD_HEALTH_ENTRIES_MAX];
    atomic_uint count;
    struct entry *retired; // replaced by other names; somebody may still look at them
    enum td_connectivity forced;
    atomic_uint link_returns;
    bool link_up;
    uint32_t rtt_ms;
    uint64_t link_since_ns, answered_ns, link_probe_ns;
    atomic_ullong calls, hedges;
};

struct td_health *td_health_create(void) {
    struct td_health *h = td_calloc(1, sizeof *h);
    if (!h)
        return NULL;
    pthread_mutex_init(&h->lock, NULL);
    h->link_up = true;
    return h;
}

void td_health_destroy(struct td_health *h) {
    if (!h)
        return;
    for (uint32_t i = 0; i < atomic_load(&h->count); i++) {
        struct entry *e = atomic_load(&h->entries[i]);
        e->next = h->retired;
        h->retired = e;
    }
    while (h->retired) {
        struct entry *e = h->retired;
        h->retired = e->next;
        pthread_mutex_destroy(&e->lock);
        td_free(e);
    }
    pthread_mutex_destroy(&h->lock);
    td_free(h);
}

static struct entry *find(struct td_health *h, const struct td_target *t) {
    uint32_t count = atomic_load_explicit(&h->count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++) {
        struct entry *e = atomic_load_explicit(&h->entries[i], memory_order_acquire);
        if (e->name_hash == t->name_hash && td_str_is(t->name, e->name))
            return e;
    }
    return NULL;
}

static struct entry *create(const struct td_target *t) {
    struct entry *e = t->name.n <= TD_NAME_BYTES_MAX ? td_calloc(1, sizeof *e) : NULL;
    if (!e)
        return NULL;
    pthread_mutex_init(&e->lock, NULL);
    memcpy(e->name, t->name.p, t->name.n);
    e->name_hash = t->name_hash;
    e->open_ms = OPEN_MS_MIN;
    e->retry_tokens = RETRY_TOKENS_START;
    return e;
}

// Where a new entry goes: behind the others, or in place of one that no configuration has any more.
static uint32_t place_for(struct td_health *h) {
    uint32_t count = atomic_load(&h->count);
    for (uint32_t i = 0; count == TD_HEALTH_ENTRIES_MAX && i < count; i++)
        if (!atomic_load(&atomic_load(&h->entries[i])->adopted))
            return i;
    return count;
}

static struct entry *add(struct td_health *h, const struct td_target *t) {
    uint32_t place = place_for(h), count = atomic_load(&h->count);
    struct entry *e = place < TD_HEALTH_ENTRIES_MAX ? create(t) : NULL;
    if (!e)
        return NULL;
    if (place < count) {
        struct entry *old = atomic_load(&h->entries[place]);
        old->next = h->retired;
        h->retired = old;
    }
    atomic_store_explicit(&h->entries[place], e, memory_order_release);
    if (place == count)
        atomic_store_explicit(&h->count, count + 1, memory_order_release);
    return e;
}

enum td_err td_health_adopt(struct td_health *h, const struct td_target *targets, uint32_t count, uint64_t now_ns) {
    enum td_err err = TD_OK;
    pthread_mutex_lock(&h->lock);
    if (!h->link_since_ns)
        h->link_since_ns = now_ns;
    for (uint32_t i = 0; i < atomic_load(&h->count); i++) {
        bool kept = false;
        for (uint32_t k = 0; k < count && !kept; k++)
            kept = find(h, &targets[k]) == atomic_load(&h->entries[i]);
        atomic_store(&atomic_load(&h->entries[i])->adopted, kept);
    }
    for (uint32_t k = 0; k < count && err == TD_OK; k++) {
        struct entry *e = find(h, &targets[k]);
        if (!e)
            e = add(h, &targets[k]);
        if (!e) {
            err = TD_ERR_NOMEM;
            break;
        }
        pthread_mutex_lock(&e->lock);
        atomic_store(&e->adopted, true);
        e->local = targets[k].provider == TD_PROVIDER_LLAMA;
        e->remote = !targets[k].loopback;
        e->parallel = targets[k].parallel;
        td_limit_set(&e->limit, e->local ? e->parallel : 0, targets[k].queue_max, targets[k].slowdown_max);
        if (!e->local || !e->model_known)
            e->ready = !e->local || targets[k].model_found;
        pthread_mutex_unlock(&e->lock);
    }
    pthread_mutex_unlock(&h->lock);
    return err;
}

// ---- breaker

static bool is_failure(enum td_err code) {
    switch (code) {
    case TD_ERR_CONNECT:
    case TD_ERR_DNS:
    case TD_ERR_TLS:
    case TD_ERR_FIRST_TOKEN:
    case TD_ERR_IDLE:
    case TD_ERR_CUT:
    case TD_ERR_UPSTREAM_AUTH:
    case TD_ERR_UPSTREAM_RATE:
    case TD_ERR_UPSTREAM_NOT_FOUND:
    case TD_ERR_UPSTREAM_SERVER:
    case TD_ERR_UPSTREAM_GARBAGE:
    case TD_ERR_HOST_CRASH:
    case TD_ERR_HOST_LOAD:
    case TD_ERR_HOST_MEMORY:
        return true;
    default:
        return false; // the request's own fault, or nobody's
    }
}

// Says nothing about the target either way.
static bool is_silent(enum td_err code) {
    return code == TD_ERR_CANCELLED || code == TD_ERR_DEADLINE || code == TD_ERR_GRANT || code == TD_ERR_LEDGER ||
           code == TD_ERR_NOMEM || code == TD_ERR_INTERNAL || code == TD_ERR_OVERLOAD;
}

static void open_breaker(struct entry *e, uint64_t now_ns) {
    e->breaker = TD_BREAKER_OPEN;
    e->ramping = false;
    e->open_until_ns = now_ns + e->open_ms * TD_MS_NS;
    e->open_ms = e->open_ms * 2 > OPEN_MS_MAX ? OPEN_MS_MAX : e->open_ms * 2;
}

static void close_breaker(struct entry *e, uint64_t now_ns) {
    e->breaker = TD_BREAKER_CLOSED;
    e->outcomes = e->outcome_count = e->failures_in_a_row = 0;
    e->open_ms = OPEN_MS_MIN;
    e->closed_ns = now_ns;
    e->ramping = true;
}

// Open becomes half open by itself when its time is over; a ramp ends when it has reached all.
static void advance(struct entry *e, uint64_t now_ns) {
    if (e->breaker == TD_BREAKER_OPEN && now_ns >= e->open_until_ns)
        e->breaker = TD_BREAKER_HALF_OPEN;
    if (e->ramping && now_ns >= e->closed_ns + 2 * RAMP_STEP_NS)
        e->ramping = false;
}

static uint32_t ramp_ppm(const struct entry *e, uint64_t now_ns) {
    if (!e->ramping)
        return 1000000;
    // Another thread may have closed it after this one looked at the clock.
    uint64_t since_ns = now_ns > e->closed_ns ? now_ns - e->closed_ns : 0;
    return RAMP_PPM_START << (since_ns / RAMP_STEP_NS);
}

static bool probe_ok(const struct entry *e, uint64_t now_ns) {
    return !e->probing && (!e->last_probe_ns || now_ns >= e->last_probe_ns + PROBE_GAP_NS);
}

static void count_outcome(struct entry *e, enum td_err code, uint64_t now_ns) {
    bool failed = is_failure(code);
    if (now_ns > e->last_ns + WINDOW_NS)
        e->outcomes = e->outcome_count = e->failures_in_a_row = 0;
    e->last_ns = now_ns;
    e->outcomes = (e->outcomes << 1 | failed) & ((1u << OUTCOMES) - 1);
    if (e->outcome_count < OUTCOMES)
        e->outcome_count++;
    e->failures_in_a_row = failed ? e->failures_in_a_row + 1 : 0;
    uint32_t failures = (uint32_t)__builtin_popcount(e->outcomes);
    bool unreachable = code == TD_ERR_CONNECT || code == TD_ERR_DNS; // the next would wait as long for nothing
    if (e->breaker != TD_BREAKER_CLOSED) {
        if (failed) // also a try that was forced because there was no other
            open_breaker(e, now_ns);
        else
            close_breaker(e, now_ns);
    } else if (failed && (unreachable || e->failures_in_a_row >= FAILURES_IN_A_ROW ||
                          (e->outcome_count >= OUTCOMES_MIN && 2 * failures >= e->outcome_count))) {
        open_breaker(e, now_ns);
    }
}

// ---- load

static bool is_full(struct entry *e, bool batch, uint64_t now_ns) {
    if (!e->parallel)
        return false;
    return e->local ? !td_limit_room(&e->limit, batch, now_ns) : e->active >= e->parallel;
}

// What the attempt says about how fast the model is, if anything: a whole answer of one that was loaded, at a pace that
// the client did not set.
static void leave(struct entry *e, const struct td_admission *a, const struct td_health_outcome *o, uint64_t now_ns) {
    struct td_limit_done d = {o->prompt_tokens, o->tokens, o->ttft_us, o->duration_us};
    bool tells = o->code == TD_OK && o->steady && a->warm && o->ttft_us;
    td_limit_leave(&e->limit, &a->ticket, tells ? &d : NULL, now_ns);
}

void td_health_turned_away(struct td_health *h, const struct td_target *t, bool batch, uint64_t now_ns) {
    struct entry *e = find(h, t);
    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    if (e->local)
        td_limit_turned_away(&e->limit, batch, now_ns);
    pthread_mutex_unlock(&e->lock);
}

void td_health_load(struct td_health *h, const struct td_target *t, struct td_health_load *out) {
    struct entry *e = find(h, t);
    *out = (struct td_health_load){0};
    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    const struct td_limit *l = &e->limit;
    *out = (struct td_health_load){.active = e->active,
                                   .limit = e->local ? td_limit_now(l) : e->parallel,
                                   .overloaded = l->overloaded,
                                   .slowdown = l->slowdown,
                                   .alone_ms = l->alone_us / 1000,
                                   .turned_away = {l->turned[0], l->turned[1]}};
    pthread_mutex_unlock(&e->lock);
}

// ---- link

static bool link_is_up(const struct td_health *h) {
    return h->forced != TD_CONNECTIVITY_OFFLINE && h->link_up;
}

static void count_return(struct td_health *h, bool was_up) {
    if (!was_up && link_is_up(h))
        atomic_fetch_add(&h->link_returns, 1);
}

static void set_link(struct td_health *h, bool up, uint64_t now_ns) {
    bool was_up = link_is_up(h);
    if (h->link_up != up)
        h->link_since_ns = now_ns;
    h->link_up = up;
    count_return(h, was_up);
}

// A name that cannot be resolved or a connection that hangs speaks against the link unless something answered just now;
// a refused connection only when no other remote target is left that might answer.
static bool speaks_against_link(struct td_health *h, const struct td_target *t, const struct td_health_outcome *o,
                                uint64_t now_ns) {
    uint64_t limit_ms = o->connect_limit_ms ? o->connect_limit_ms : t->timeouts.connect_ms;
    if (h->answered_ns && now_ns < h->answered_ns + LINK_QUIET_NS)
        return false;
    if (o->code == TD_ERR_DNS || o->duration_us >= limit_ms * 800)
        return true;
    for (uint32_t i = 0; i < atomic_load(&h->count); i++) {
        struct entry *e = atomic_load(&h->entries[i]);
        if (atomic_load(&e->adopted) && e->remote && !e->link_failed)
            return false;
    }
    return true;
}

static void sense_link(struct td_health *h, struct entry *e, const struct td_target *t,
                       const struct td_health_outcome *o, uint64_t now_ns) {
    bool unreachable = !o->answered && (o->code == TD_ERR_CONNECT || o->code == TD_ERR_DNS);
    if (t->loopback || (!o->answered && !unreachable))
        return;
    pthread_mutex_lock(&h->lock);
    e->link_failed = unreachable;
    if (o->answered) {
        h->answered_ns = now_ns;
        set_link(h, true, now_ns);
    } else if (speaks_against_link(h, t, o, now_ns)) {
        set_link(h, false, now_ns);
    }
    pthread_mutex_unlock(&h->lock);
}

void td_health_force_link(struct td_health *h, enum td_connectivity connectivity) {
    pthread_mutex_lock(&h->lock);
    bool was_up = link_is_up(h);
    h->forced = connectivity;
    count_return(h, was_up);
    pthread_mutex_unlock(&h->lock);
}

unsigned td_health_link_returns(const struct td_health *h) {
    return atomic_load_explicit(&h->link_returns, memory_order_relaxed);
}

void td_health_link_result(struct td_health *h, bool up, uint32_t rtt_ms, uint64_t now_ns) {
    pthread_mutex_lock(&h->lock);
    set_link(h, up, now_ns);
    if (up) {
        h->answered_ns = now_ns;
        h->rtt_ms = rtt_ms ? rtt_ms : h->rtt_ms;
    }
    pthread_mutex_unlock(&h->lock);
}

bool td_health_link_probe_due(struct td_health *h, uint32_t interval_ms, uint64_t now_ns) {
    pthread_mutex_lock(&h->lock);
    bool due = !h->link_up && h->forced != TD_CONNECTIVITY_OFFLINE &&
               (!h->link_probe_ns || now_ns >= h->link_probe_ns + interval_ms * TD_MS_NS);
    if (due)
        h->link_probe_ns = now_ns;
    pthread_mutex_unlock(&h->lock);
    return due;
}

bool td_health_link_up(struct td_health *h, uint64_t *since_ns) {
    pthread_mutex_lock(&h->lock);
    bool up = link_is_up(h);
    if (since_ns)
        *since_ns = h->link_since_ns;
    pthread_mutex_unlock(&h->lock);
    return up;
}

// ---- attempts

static struct td_admission refuse(int why, uint64_t wait_ns) {
    struct td_admission a = {.admitted = false};
    a.refused = why;
    a.retry_after_ms = (uint32_t)((wait_ns + TD_MS_NS - 1) / TD_MS_NS);
    return a;
}

struct td_admission td_health_admit(struct td_health *h, const struct td_target *t, bool batch, bool forced,
                                    uint64_t now_ns) {
    struct entry *e = find(h, t);
    struct td_admission a = {.admitted = true};
    if (!e)
        return refuse(TD_ADMIT_OPEN, 0);
    if (!t->loopback && !forced && !td_health_link_up(h, NULL))
        return refuse(TD_ADMIT_OPEN, 0);
    pthread_mutex_lock(&e->lock);
    advance(e, now_ns);
    if (e->retry_after_until_ns > now_ns) {
        a = refuse(TD_ADMIT_RETRY_AFTER, e->retry_after_until_ns - now_ns);
    } else if (is_full(e, batch, now_ns)) {
        a = refuse(TD_ADMIT_FULL, e->local ? td_limit_retry_ms(&e->limit) * TD_MS_NS : 0);
    } else if (e->breaker == TD_BREAKER_OPEN && !forced) {
        a = refuse(TD_ADMIT_OPEN, e->open_until_ns - now_ns);
    } else if (e->breaker == TD_BREAKER_HALF_OPEN && !probe_ok(e, now_ns) && !forced) {
        a = refuse(TD_ADMIT_OPEN, PROBE_GAP_NS);
    } else {
        if (e->breaker == TD_BREAKER_HALF_OPEN && probe_ok(e, now_ns)) {
            a.probe = e->probing = true;
            e->last_probe_ns = now_ns;
        }
        e->active++;
        a.warm = e->loaded;
        if (e->local)
            a.ticket = td_limit_enter(&e->limit, now_ns);
        e->retry_tokens += RETRY_SHARE;
        if (e->retry_tokens > RETRY_TOKENS_MAX)
            e->retry_tokens = RETRY_TOKENS_MAX;
    }
    pthread_mutex_unlock(&e->lock);
    return a;
}

void td_health_end(struct td_health *h, const struct td_target *t, const struct td_admission *a,
                   const struct td_health_outcome *o, uint64_t now_ns) {
    struct entry *e = find(h, t);
    uint32_t wait_ms = o->retry_after_ms;
    if (!e)
        return;
    if (o->code == TD_ERR_UPSTREAM_RATE && !wait_ms)
        wait_ms = TD_RATE_PAUSE_MS;
    if (wait_ms > RETRY_AFTER_MS_MAX)
        wait_ms = RETRY_AFTER_MS_MAX;
    pthread_mutex_lock(&e->lock);
    advance(e, now_ns);
    if (a->probe)
        e->probing = false;
    if (e->local)
        leave(e, a, o, now_ns);
    if (o->ttft_us)
        td_quantile_add(&e->ttft_ms, (o->ttft_us + 500) / 1000);
    if (o->itl_us)
        td_quantile_add(&e->itl_us, o->itl_us);
    if (o->connect_us)
        td_quantile_add(&e->connect_ms, (o->connect_us + 999) / 1000);
    if (!is_silent(o->code))
        count_outcome(e, o->code, now_ns);
    if (wait_ms && !is_silent(o->code) && now_ns + wait_ms * TD_MS_NS > e->retry_after_until_ns)
        e->retry_after_until_ns = now_ns + wait_ms * TD_MS_NS;
    if (e->active)
        e->active--;
    pthread_mutex_unlock(&e->lock);
    sense_link(h, e, t, o, now_ns);
}

bool td_health_retry(struct td_health *h, const struct td_target *t, uint64_t now_ns) {
    struct entry *e = find(h, t);
    bool ok = false;
    (void)now_ns;
    if (!e)
        return false;
    pthread_mutex_lock(&e->lock);
    if (e->retry_tokens >= 1) {
        e->retry_tokens -= 1;
        ok = true;
    }
    pthread_mutex_unlock(&e->lock);
    return ok;
}

void td_health_call(struct td_health *h) {
    atomic_fetch_add_explicit(&h->calls, 1, memory_order_relaxed);
}

bool td_health_hedge(struct td_health *h, uint32_t ppm_max) {
    uint64_t hedges = atomic_load(&h->hedges);
    do { // an old number of calls is a smaller one
        if ((hedges + 1) * 1000000 > atomic_load(&h->calls) * ppm_max)
            return false;
    } while (!atomic_compare_exchange_weak(&h->hedges, &hedges, hedges + 1));
    return true;
}

void td_health_unhedge(struct td_health *h) {
    atomic_fetch_sub(&h->hedges, 1);
}

void td_health_set_model(struct td_health *h, const struct td_target *t, bool ready, bool loaded, uint32_t load_ms,
                         uint32_t context, uint32_t capabilities_absent) {
    struct entry *e = find(h, t);
    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    e->model_known = true;
    e->ready = ready;
    e->loaded = loaded;
    e->load_ms = load_ms;
    if (context) {
        e->context = context;
        e->capabilities_absent = capabilities_absent;
    }
    pthread_mutex_unlock(&e->lock);
}

// ---- the snapshot

static void write_state(struct entry *e, bool batch, uint64_t now_ns, struct td_target_state *s) {
    pthread_mutex_lock(&e->lock);
    advance(e, now_ns);
    uint32_t running = e->parallel && e->active > e->parallel ? e->parallel : e->active;
    uint64_t wait_ns = e->retry_after_until_ns > now_ns ? e->retry_after_until_ns - now_ns : 0;
    bool full = is_full(e, batch, now_ns);
    *s = (struct td_target_state){
        .breaker = e->breaker,
        .ready = e->ready,
        .loaded = e->loaded || !e->local,
        .retry_after_ms = (uint32_t)((wait_ns + TD_MS_NS - 1) / TD_MS_NS),
        .ttft_ms_p50 = td_quantile_at(&e->ttft_ms, 500000),
        .ttft_ms_p95 = td_quantile_at(&e->ttft_ms, 950000),
        .itl_us_p50 = td_quantile_at(&e->itl_us, 500000),
        .connect_ms_p95 = td_quantile_at(&e->connect_ms, 950000),
        .load_ms = e->load_ms,
        .active = running,
        .queued = e->active - running,
        .failures_ppm = e->outcome_count ? (uint32_t)__builtin_popcount(e->outcomes) * 1000000u / e->outcome_count : 0,
        .budget_left_nusd = INT64_MAX,
        .full = full,
        .full_ms = full && e->local ? td_limit_retry_ms(&e->limit) : 0,
        .probe_ok = e->breaker == TD_BREAKER_HALF_OPEN && probe_ok(e, now_ns),
        .ramp_ppm = ramp_ppm(e, now_ns),
        .context = e->context,
        .capabilities_absent = e->capabilities_absent,
    };
    pthread_mutex_unlock(&e->lock);
}

void td_health_world(struct td_health *h, const struct td_target *targets, uint32_t count, bool batch, uint64_t now_ns,
                     struct td_world *out) {
    memset(out->targets, 0, count * sizeof *out->targets); // those beyond are nobody's
    memset(&out->link, 0, sizeof out->link);
    memset(&out->device, 0, sizeof out->device);
    out->target_count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct entry *e = find(h, &targets[i]);
        if (e)
            write_state(e, batch, now_ns, &out->targets[i]);
    }
    pthread_mutex_lock(&h->lock);
    out->link.up = h->link_up;
    out->link.rtt_ms = h->rtt_ms;
    out->link.forced = h->forced;
    pthread_mutex_unlock(&h->lock);
    out->device.battery_percent = 100;
}
