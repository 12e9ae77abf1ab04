// SPDX-License-Identifier: Apache-2.0
#include "unit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/hash.h"
#include "base/time.h"
#include "target/health.h"
#include "target/quantile.h"

#define MS TD_MS_NS
#define S TD_S_NS
static uint64_t t0 = 1000 * TD_S_NS;

static struct td_target target(const char *name, bool local) {
    struct td_target t = {.name = td_str_of(name),
                          .tier = local ? TD_TIER_DEVICE : TD_TIER_CLOUD,
                          .provider = local ? TD_PROVIDER_LLAMA : TD_PROVIDER_OPENAI,
                          .loopback = local,
                          .model_found = true,
                          .parallel = local ? 4 : 0,
                          .queue_max = 64,
                          .timeouts = {2000, 10000, 15000, 120000}};
    t.name_hash = td_hash64(t.name);
    return t;
}

static struct td_health *health_of(const struct td_target *targets, uint32_t count) {
    struct td_health *h = td_health_create();
    assert_non_null(h);
    assert_ok(td_health_adopt(h, targets, count, t0));
    return h;
}

static struct td_target_state state_of(struct td_health *h, const struct td_target *t, uint64_t now) {
    struct td_world w;
    td_health_world(h, t, 1, false, now, &w);
    return w.targets[0];
}

// One attempt from `now` that ends `after_ms` later.
static void attempt(struct td_health *h, const struct td_target *t, enum td_err code, uint64_t now, uint64_t after_ms) {
    struct td_admission a = td_health_admit(h, t, false, true, now);
    assert_true(a.admitted);
    struct td_health_outcome o = {.code = code,

                                  .answered = code == TD_OK || code == TD_ERR_UPSTREAM_SERVER,
                                  .ttft_us = code == TD_OK ? after_ms * 1000 : 0,
                                  .duration_us = after_ms * 1000};
    td_health_end(h, t, &a, &o, now + after_ms * MS);
}

static void three_failures_open_and_a_probe_closes(void **state) {
    (void)state;
    struct td_target t = target("c", false);
    struct td_health *h = health_of(&t, 1);
    for (int i = 0; i < 2; i++)
        attempt(h, &t, TD_ERR_UPSTREAM_SERVER, t0, 1);
    assert_int_equal(state_of(h, &t, t0).breaker, TD_BREAKER_CLOSED);
    attempt(h, &t, TD_ERR_UPSTREAM_SERVER, t0, 1);
    assert_int_equal(state_of(h, &t, t0 + MS).breaker, TD_BREAKER_OPEN);
    struct td_admission a = td_health_admit(h, &t, false, false, t0 + 500 * MS);
    assert_false(a.admitted);
    assert_int_equal(a.refused, TD_ADMIT_OPEN);
    assert_true(a.retry_after_ms > 0 && a.retry_after_ms <= 1000);
    assert_true(td_health_admit(h, &t, false, true, t0 + 500 * MS).admitted); // the last candidate is never ejected
    td_health_end(h, &t, &a, &(struct td_health_outcome){.code = TD_ERR_CANCELLED}, t0 + 501 * MS);
    uint64_t now = t0 + 1100 * MS;
    struct td_target_state s = state_of(h, &t, now);
    assert_int_equal(s.breaker, TD_BREAKER_HALF_OPEN);
    assert_true(s.probe_ok);
    a = td_health_admit(h, &t, false, false, now);
    assert_true(a.admitted && a.probe);
    assert_false(td_health_admit(h, &t, false, false, now + 1).admitted); // one probe at a time
    assert_false(state_of(h, &t, now).probe_ok);
    td_health_end(h, &t, &a, &(struct td_health_outcome){.answered = true, .ttft_us = 1000}, now + 10 * MS);
    s = state_of(h, &t, now + 10 * MS);
    assert_int_equal(s.breaker, TD_BREAKER_CLOSED);
    assert_int_equal(s.ramp_ppm, 250000);
    assert_int_equal(state_of(h, &t, now + 600 * MS).ramp_ppm, 500000);
    assert_int_equal(state_of(h, &t, now + 1100 * MS).ramp_ppm, 1000000);
    td_health_destroy(h);
}

// A minute of outage under steady traffic: few probes while it lasts, and in use again soon after.
static void an_outage_costs_few_probes_and_ends_soon(void **state) {
    (void)state;
    struct td_target t = target("c", false);
    struct td_health *h = health_of(&t, 1);
    uint64_t down = t0 + 5 * S, up = t0 + 65 * S, back = 0;
    unsigned tries_down = 0;
    for (uint64_t now = t0; now < t0 + 80 * S; now += 50 * MS) {
        struct td_admission a = td_health_admit(h, &t, false, false, now);
        if (!a.admitted)
            continue;
        bool ok = now < down || now >= up;
        tries_down += !ok && now > down + S;
        if (ok && now >= up && !back)
            back = now;
        td_health_end(h, &t, &a,
                      &(struct td_health_outcome){.code = ok ? TD_OK : TD_ERR_UPSTREAM_SERVER, .answered = true},
                      now + 5 * MS);
    }
    assert_true(tries_down <= 60);
    assert_true(back && back - up <= 3 * S);
    assert_int_equal(state_of(h, &t, back + 2 * S).ramp_ppm, 1000000);
    td_health_destroy(h);
}

static void a_cancelled_probe_gives_its_place_back(void **state) {
    (void)state;
    struct td_target t = target("c", false);
    struct td_health *h = health_of(&t, 1);
    attempt(h, &t, TD_ERR_CONNECT, t0, 1);
    uint64_t now = t0 + 1200 * MS;
    struct td_admission a = td_health_admit(h, &t, false, true, now);
    assert_true(a.probe);
    td_health_end(h, &t, &a, &(struct td_health_outcome){.code = TD_ERR_CANCELLED}, now + MS);
    assert_int_equal(state_of(h, &t, now + MS).breaker, TD_BREAKER_HALF_OPEN);
    assert_false(state_of(h, &t, now + MS).probe_ok); // still one a second
    assert_true(state_of(h, &t, now + S).probe_ok);
    td_health_destroy(h);
}

static void the_requests_own_faults_do_not_count(void **state) {
    (void)state;
    static const enum td_err codes[] = {TD_ERR_UPSTREAM_REQUEST, TD_ERR_CONTEXT_LENGTH, TD_ERR_CONTENT_POLICY,
                                        TD_ERR_NOT_FOR_ME,       TD_ERR_CANCELLED,      TD_ERR_DEADLINE};
    struct td_target t = target("c", false);
    struct td_health *h = health_of(&t, 1);
    for (size_t i = 0; i < 60; i++)
        attempt(h, &t, codes[i % 6], t0 + i * MS, 1);
    assert_int_equal(state_of(h, &t, t0 + S).breaker, TD_BREAKER_CLOSED);
    assert_int_equal(state_of(h, &t, t0 + S).failures_ppm, 0);
    td_health_destroy(h);
}

static void half_of_many_opens_too_and_old_failures_are_forgiven(void **state) {
    (void)state;
    struct td_target t = target("c", false);
    struct td_health *h = health_of(&t, 1);
    for (int i = 0; i < 4; i++)
        attempt(h, &t, i % 2 ? TD_ERR_CUT : TD_OK, t0 + (uint64_t)i * MS, 1);
    assert_int_equal(state_of(h, &t, t0 + S).breaker, TD_BREAKER_CLOSED); // four are too few
    attempt(h, &t, TD_ERR_CUT, t0 + S, 1);
    assert_int_equal(state_of(h, &t, t0 + S + MS).breaker, TD_BREAKER_OPEN);
    struct td_target u = target("d", false);
    assert_ok(td_health_adopt(h, &u, 1, t0));
    attempt(h, &u, TD_ERR_CUT, t0, 1);
    attempt(h, &u, TD_ERR_CUT, t0, 1);
    attempt(h, &u, TD_ERR_CUT, t0 + 40 * S, 1);
    assert_int_equal(state_of(h, &u, t0 + 40 * S + MS).breaker, TD_BREAKER_CLOSED);
    td_health_destroy(h);
}

static void retry_after_is_kept(void **state) {
    (void)state;
    struct td_target t = target("c", false);
    struct td_health *h = health_of(&t, 1);
    struct td_admission a = td_health_admit(h, &t, false, false, t0);
    assert_true(a.admitted);
    td_health_end(h, &t, &a,
                  &(struct td_health_outcome){.code = TD_ERR_UPSTREAM_RATE, .retry_after_ms = 7000, .answered = true},
                  t0);
    a = td_health_admit(h, &t, false, true, t0 + 6999 * MS); // not even as the last one
    assert_false(a.admitted);
    assert_int_equal(a.refused, TD_ADMIT_RETRY_AFTER);
    assert_int_equal(a.retry_after_ms, 1);
    assert_int_equal(state_of(h, &t, t0 + 5 * S).retry_after_ms, 2000);
    assert_true(td_health_admit(h, &t, false, false, t0 + 7000 * MS).admitted);
    td_health_destroy(h);
}

// A descriptor or memory that was missing here, though the client is told when to come back.
static void what_is_missing_here_is_not_the_targets_fault(void **state) {
    (void)state;
    static const enum td_err codes[] = {TD_ERR_OVERLOAD, TD_ERR_NOMEM, TD_ERR_LEDGER};
    struct td_target t = target("c", false);
    struct td_health *h = health_of(&t, 1);
    for (unsigned i = 0; i < 30; i++) {
        struct td_admission a = td_health_admit(h, &t, false, false, t0 + i * MS);
        assert_true(a.admitted);
        td_health_end(h, &t, &a, &(struct td_health_outcome){.code = codes[i % 3], .retry_after_ms = 7000},
                      t0 + i * MS);
    }
    assert_int_equal(state_of(h, &t, t0 + S).breaker, TD_BREAKER_CLOSED);
    assert_int_equal(state_of(h, &t, t0 + S).failures_ppm, 0);
    td_health_destroy(h);
}

static void retries_are_a_tenth_of_calls(void **state) {
    (void)state;
    struct td_target t = target("c", false);
    struct td_health *h = health_of(&t, 1);
    unsigned retries = 0;
    for (int i = 0; i < 1000; i++) {
        attempt(h, &t, TD_OK, t0 + (uint64_t)i * MS, 1);
        retries += td_health_retry(h, &t, t0);
    }
    assert_true(retries >= 100 && retries <= 103);
    for (int i = 0; i < 1000; i++)
        attempt(h, &t, TD_OK, t0 + S, 1);
    retries = 0;
    while (td_health_retry(h, &t, t0))
        retries++;
    assert_int_equal(retries, 10); // saved up, but not without end
    td_health_destroy(h);
}

#define SHARE_PPM 20000u

static void hedges_keep_their_share(void **state) {
    (void)state;
    struct td_target t = target("c", false);
    struct td_health *h = health_of(&t, 1);
    unsigned hedges = 0;
    assert_false(td_health_hedge(h, SHARE_PPM));
    for (unsigned calls = 1; calls <= 10000; calls++) {
        td_health_call(h);
        for (int i = 0; i < 3; i++) // a request's attempts, its hedge among them, are no calls
            attempt(h, &t, TD_OK, t0 + calls * MS, 1);
        hedges += td_health_hedge(h, SHARE_PPM);
        assert_false(td_health_hedge(h, SHARE_PPM));
        assert_int_equal(hedges, calls / 50);
        if (calls % 1000 == 0)
            assert_ok(td_health_adopt(h, &t, 1, t0 + calls * MS)); // a reload begins no new count
    }
    assert_false(td_health_hedge(h, 0));
    td_health_unhedge(h);
    assert_true(td_health_hedge(h, SHARE_PPM));
    assert_false(td_health_hedge(h, SHARE_PPM));
    td_health_destroy(h);
}

// What every thread may look at: `begun` runs ahead of the calls counted, `open` behind the places taken.
struct hedgers {
    struct td_health *h;
    atomic_uint begun, open, over;
};

static void *hedge_all(void *arg) {
    struct hedgers *c = arg;
    for (unsigned i = 0; i < 20000; i++) {
        atomic_fetch_add(&c->begun, 1);
        td_health_call(c->h);
        if (!td_health_hedge(c->h, SHARE_PPM))
            continue;
        unsigned open = atomic_fetch_add(&c->open, 1) + 1;
        if (open > atomic_load(&c->begun) / 50)
            atomic_fetch_add(&c->over, 1);
        if (i % 3 == 0) {
            atomic_fetch_sub(&c->open, 1);
            td_health_unhedge(c->h);
        }
    }
    return NULL;
}

static void many_threads_keep_the_hedges_share(void **state) {
    (void)state;
    struct td_target t = target("c", false);
    struct hedgers c = {.h = health_of(&t, 1)};
    pthread_t threads[8];
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hedge_all, &c), 0);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(c.over, 0);
    while (td_health_hedge(c.h, SHARE_PPM))
        c.open++;
    assert_int_equal(c.open, 8 * 20000 / 50); // and no place was lost
    td_health_destroy(c.h);
}

static void a_reload_forgets_nothing(void **state) {
    (void)state;
    struct td_target two[2] = {target("a", false), target("b", false)};
    struct td_health *h = health_of(two, 2);
    attempt(h, &two[0], TD_OK, t0, 300);
    for (int i = 0; i < 3; i++)
        attempt(h, &two[1], TD_ERR_UPSTREAM_SERVER, t0, 1);
    struct td_target again[2] = {target("b", false), target("c", false)};
    assert_ok(td_health_adopt(h, again, 2, t0 + MS));
    assert_int_equal(state_of(h, &again[0], t0 + 2 * MS).breaker, TD_BREAKER_OPEN);
    assert_int_equal(state_of(h, &again[1], t0 + 2 * MS).breaker, TD_BREAKER_CLOSED);
    assert_between(state_of(h, &two[0], t0 + S).ttft_ms_p50, 270, 330); // a running request still counts there
    td_health_destroy(h);
}

static void more_names_than_entries_make_room(void **state) {
    (void)state;
    struct td_health *h = td_health_create();
    for (unsigned i = 0; i < TD_HEALTH_ENTRIES_MAX + 50; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%u", i);
        struct td_target t = target(name, false);
        assert_ok(td_health_adopt(h, &t, 1, t0));
        assert_true(td_health_admit(h, &t, false, false, t0).admitted);
    }
    td_health_destroy(h);
}

static void the_queue_is_bounded_and_batch_is_shed_first(void **state) {
    (void)state;
    struct td_target t = target("d", true);
    struct td_health *h = health_of(&t, 1);
    unsigned batch = 0, interactive = 0;
    while (td_health_admit(h, &t, true, false, t0).admitted)
        batch++;
    assert_int_equal(batch, 4 + 32);
    while (td_health_admit(h, &t, false, false, t0).admitted)
        interactive++;
    assert_int_equal(batch + interactive, 4 + 64);
    struct td_target_state s = state_of(h, &t, t0);
    assert_true(s.full);
    assert_int_equal(s.active, 4);
    assert_int_equal(s.queued, 64);
    assert_int_equal(td_health_admit(h, &t, false, true, t0).refused,
                     TD_ADMIT_FULL); // memory is not a matter of health
    td_health_destroy(h);
}

// Ten times what a local model can do; how the limit finds its place is test_limit's matter. A reload keeps it.
static void overload_is_remembered(void **state) {
    (void)state;
    struct td_target t = target("d", true);
    struct td_health *h = health_of(&t, 1);
    struct td_admission inside[70];
    uint32_t n = 0, next = 0, late = 0;
    uint64_t came[70], ends[70], free_ms = 0;
    t.slowdown_max = 2;
    assert_ok(td_health_adopt(h, &t, 1, t0));
    td_health_set_model(h, &t, true, true, 0, 0, 0);
    for (uint64_t ms = 0; ms < 20000; ms += 5) {
        if (n && ends[next] <= ms) { // one after the other, 50 ms each
            struct td_health_outcome o = {.answered = true, .steady = true, .prompt_tokens = 5, .tokens = 10};
            o.duration_us = (ms - came[next]) * 1000;
            o.ttft_us = o.duration_us - 45000;
            late += ms > 10000 && o.duration_us > 110000;
            td_health_end(h, &t, &inside[next], &o, t0 + ms * MS);
            next = (next + 1) % 70;
            n--;
        }
        struct td_admission a = td_health_admit(h, &t, false, false, t0 + ms * MS);
        if (a.admitted) {
            uint32_t i = (next + n++) % 70;
            inside[i] = a;
            came[i] = ms;
            ends[i] = free_ms = (free_ms > ms ? free_ms : ms) + 50;
        } else {
            assert_int_equal(a.refused, TD_ADMIT_FULL);
            assert_true(a.retry_after_ms >= 1000);
            td_health_turned_away(h, &t, false, t0 + ms * MS);
        }
    }
    struct td_health_load load, again;
    td_health_load(h, &t, &load);
    assert_true(load.overloaded && load.limit >= 1 && load.limit < 4 && load.turned_away[0] > 1000);
    assert_int_equal(late, 0);
    struct td_target_state s = state_of(h, &t, t0 + 20 * S);
    assert_true(!s.full || s.full_ms >= 1000);
    t.parallel = 2;
    assert_ok(td_health_adopt(h, &t, 1, t0 + 20 * S));
    td_health_load(h, &t, &again);
    assert_true(again.overloaded);
    assert_float_equal(again.limit, load.limit, 1e-9);
    td_health_destroy(h);
}

static void a_dead_link_is_noticed_at_the_first_timeout(void **state) {
    (void)state;
    struct td_target two[2] = {target("a", false), target("b", false)};
    struct td_health *h = health_of(two, 2);
    uint64_t since;
    assert_true(td_health_link_up(h, NULL));
    attempt(h, &two[0], TD_OK, t0, 100);
    uint64_t now = t0 + 10 * S;
    attempt(h, &two[0], TD_ERR_CONNECT, now, 2000); // hung until the connect limit
    now += 2 * S;
    assert_false(td_health_link_up(h, &since));
    assert_true(since == now);
    assert_false(td_health_admit(h, &two[1], false, false, now).admitted); // without waiting for it
    assert_true(td_health_link_probe_due(h, 2000, now));
    assert_false(td_health_link_probe_due(h, 2000, now + S));
    assert_true(td_health_link_probe_due(h, 2000, now + 2 * S));
    td_health_link_result(h, true, 30, now + 3 * S);
    assert_true(td_health_link_up(h, NULL));
    assert_true(td_health_admit(h, &two[1], false, false, now + 3 * S).admitted);
    td_health_destroy(h);
}

// An attempt that had less time than the target's own limit, because another was waiting.
static void a_shorter_wait_speaks_against_the_link_too(void **state) {
    (void)state;
    struct td_target two[2] = {target("a", false), target("b", false)};
    struct td_health *h = health_of(two, 2);
    struct td_admission a = td_health_admit(h, &two[0], false, false, t0);
    assert_true(a.admitted);
    struct td_health_outcome o = {.code = TD_ERR_CONNECT, .duration_us = 1100000};
    td_health_end(h, &two[0], &a, &o, t0 + 1100 * MS);
    assert_true(td_health_link_up(h, NULL)); // 1.1 s of 2 s: refused late
    a = td_health_admit(h, &two[0], false, true, t0 + 2 * S);
    assert_true(a.admitted);
    o.connect_limit_ms = 1100;
    td_health_end(h, &two[0], &a, &o, t0 + 3100 * MS);
    assert_false(td_health_link_up(h, NULL));
    td_health_destroy(h);
}

static void connecting_is_learned(void **state) {
    (void)state;
    struct td_target t = target("c", false);
    struct td_health *h = health_of(&t, 1);
    assert_int_equal(state_of(h, &t, t0).connect_ms_p95, 0);
    for (int i = 0; i < 20; i++) {
        struct td_admission a = td_health_admit(h, &t, false, false, t0);
        assert_true(a.admitted);
        td_health_end(h, &t, &a, &(struct td_health_outcome){.answered = true, .connect_us = i % 2 ? 0 : 149500},
                      t0 + S);
    }
    assert_between(state_of(h, &t, t0).connect_ms_p95, 136, 164);
    td_health_destroy(h);
}

static void a_refused_connection_is_the_targets_own_matter(void **state) {
    (void)state;
    struct td_target two[2] = {target("a", false), target("b", false)};
    struct td_health *h = health_of(two, 2);
    attempt(h, &two[0], TD_ERR_CONNECT, t0, 1);
    assert_true(td_health_link_up(h, NULL));
    assert_int_equal(state_of(h, &two[0], t0 + 2 * MS).breaker, TD_BREAKER_OPEN); // nobody else waits for it
    attempt(h, &two[1], TD_ERR_CONNECT, t0 + 3 * MS, 1);
    assert_false(td_health_link_up(h, NULL)); // nobody is left who might answer
    attempt(h, &two[1], TD_OK, t0 + 5 * MS, 1);
    assert_true(td_health_link_up(h, NULL));
    struct td_target local = target("l", true);
    assert_ok(td_health_adopt(h, &local, 1, t0));
    attempt(h, &local, TD_ERR_CONNECT, t0 + 20 * S, 2000);
    assert_true(td_health_link_up(h, NULL)); // what stays on this machine says nothing of the network
    td_health_destroy(h);
}

static void a_forced_link_is_not_sensed(void **state) {
    (void)state;
    struct td_target t = target("a", false);
    struct td_health *h = health_of(&t, 1);
    struct td_world w;
    td_health_force_link(h, TD_CONNECTIVITY_OFFLINE);
    assert_false(td_health_link_up(h, NULL));
    assert_false(td_health_link_probe_due(h, 1000, t0));
    td_health_world(h, &t, 1, false, t0, &w);
    assert_int_equal(w.link.forced, TD_CONNECTIVITY_OFFLINE);
    td_health_force_link(h, TD_CONNECTIVITY_AUTO);
    assert_true(td_health_link_up(h, NULL));
    td_health_destroy(h);
}

static void quantiles_are_close_and_fade(void **state) {
    (void)state;
    struct td_quantile q = {0};
    assert_int_equal(td_quantile_at(&q, 500000), 0);
    for (uint32_t i = 1; i <= 100; i++)
        td_quantile_add(&q, i * 10);
    assert_between(td_quantile_at(&q, 500000), 440, 560);
    assert_between(td_quantile_at(&q, 950000), 840, 1060);
    for (uint32_t i = 0; i < 1000; i++)
        td_quantile_add(&q, 20);
    assert_between(td_quantile_at(&q, 950000), 18, 22);
    td_quantile_add(&q, UINT64_MAX);
    td_quantile_add(&q, 0);
}

struct crowd {
    struct td_health *h;
    const struct td_target *t;
};
static void *hammer(void *arg) {
    struct crowd *c = arg;
    for (uint64_t i = 0; i < 2000; i++) {
        struct td_world w;
        struct td_admission a = td_health_admit(c->h, c->t, i & 1, false, t0 + i * MS);
        td_health_world(c->h, c->t, 1, false, t0 + i * MS, &w);
        if (a.admitted)
            td_health_end(
                c->h, c->t, &a,
                &(struct td_health_outcome){.code = i % 7 ? TD_OK : TD_ERR_CUT, .answered = true, .ttft_us = 1000},
                t0 + i * MS);
        if (i % 100 == 0)
            (void)!td_health_adopt(c->h, c->t, 1, t0);
    }
    return NULL;
}

static void many_threads_lose_no_count(void **state) {
    (void)state;
    struct td_target t = target("d", true);
    struct crowd c = {health_of(&t, 1), &t};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, &c), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    struct td_target_state s = state_of(c.h, &t, t0 + 100 * S);
    assert_int_equal(s.active + s.queued, 0);
    td_health_destroy(c.h);
}

static void this_machine_has_memory_and_cores(void **state) {
    (void)state;
    struct td_world w = {0};
    td_device_facts(&w, td_now_ns());
    assert_true(w.device.cores >= 1 && w.device.ram_bytes > w.device.ram_free_bytes && w.device.ram_free_bytes > 0);
    assert_true(w.device.battery_percent <= 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_failures_open_and_a_probe_closes),
        cmocka_unit_test(an_outage_costs_few_probes_and_ends_soon),
        cmocka_unit_test(a_cancelled_probe_gives_its_place_back),
        cmocka_unit_test(the_requests_own_faults_do_not_count),
        cmocka_unit_test(half_of_many_opens_too_and_old_failures_are_forgiven),
        cmocka_unit_test(retry_after_is_kept),
        cmocka_unit_test(what_is_missing_here_is_not_the_targets_fault),
        cmocka_unit_test(retries_are_a_tenth_of_calls),
        cmocka_unit_test(hedges_keep_their_share),
        cmocka_unit_test(many_threads_keep_the_hedges_share),
        cmocka_unit_test(a_reload_forgets_nothing),
        cmocka_unit_test(more_names_than_entries_make_room),
        cmocka_unit_test(the_queue_is_bounded_and_batch_is_shed_first),
        cmocka_unit_test(overload_is_remembered),
        cmocka_unit_test(a_dead_link_is_noticed_at_the_first_timeout),
        cmocka_unit_test(a_shorter_wait_speaks_against_the_link_too),
        cmocka_unit_test(connecting_is_learned),
        cmocka_unit_test(a_refused_connection_is_the_targets_own_matter),
        cmocka_unit_test(a_forced_link_is_not_sensed),
        cmocka_unit_test(quantiles_are_close_and_fade),
        cmocka_unit_test(many_threads_lose_no_count),
        cmocka_unit_test(this_machine_has_memory_and_cores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
