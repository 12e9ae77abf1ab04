// SPDX-License-Identifier: Apache-2.0
// The kill campaign of the store: `store_kill [--kills N] [--seed S]`. A child opens the store and works on it from
// several threads; it notes what was begun and what was acknowledged in shared memory; it is killed with SIGKILL at a
// random moment (also while it opens and recovers). The parent opens the store after it and holds it against the
// notes:
//   - each acknowledged ledger row and receipt is there, once, in order; none is there that was never begun;
//   - each outbox entry is in the state last acknowledged, or in the one that was on its way;
//   - each reconciled entry has exactly one event, ids rise and are never used twice;
//   - a provider was called more often than once only for entries found in intent_sent after a kill;
//   - the hash chain holds.
// The seed fixes what the child does and when it is to be killed; the scheduler has its say too, so a seed repeats a
// run's plan, not its exact interleaving. SIGKILL keeps the page cache: this says nothing about power loss.
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/time.h"
#include "scratch.h"
#include "store/ledger.h"
#include "store/outbox.h"

#define WRITERS 2
#define ENTRIES_MAX 200000u
#define LIVE_MAX 24u // entries worked on at once
#define NONE (-1)

struct entry {
    _Atomic int acked, pending; // states; acked NONE: not there yet; pending NONE: nothing on its way
    _Atomic uint32_t calls;     // of the pretended provider
    uint32_t kills_in_intent;   // the parent's
    bool finished;              // the parent's: checked in a final state
    uint32_t events;            // the parent's
};

struct notes {
    _Atomic uint64_t begun[WRITERS], acked[WRITERS]; // rows of each writer
    _Atomic uint64_t receipts_begun, receipts_acked; // a row that is tried again has one more
    _Atomic uint32_t entries;                        // ids given out
    _Atomic bool opened;
    struct entry entry[ENTRIES_MAX];
};

static struct notes *notes;
static char dir[256];
static unsigned failures;

#define CHECK(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            failures++;                                                                                                \
            fprintf(stderr, "FAILED: " __VA_ARGS__);                                                                   \
            fputc('\n', stderr);                                                                                       \
        }                                                                                                              \
    } while (0)

static uint64_t draw(uint64_t *state) { // SplitMix64
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void nap(uint64_t us) {
    nanosleep(&(struct timespec){(time_t)(us / 1000000), (long)(us % 1000000) * 1000}, NULL);
}

// ---- the child

struct worker {
    struct td_store *store;
    unsigned index;
    uint64_t random;
};

// Rows and receipts of one thread carry "W-NUMBER" as their exchange, so that order and gaps show.
static void *write_rows(void *arg) {
    struct worker *w = arg;
    for (;;) {
        char exchange[32];
        uint64_t number = atomic_load(&notes->acked[w->index]) + 1, receipt;
        snprintf(exchange, sizeof exchange, "%u-%" PRIu64, w->index, number);
        struct td_ledger_row row = {.exchange = td_str_of(exchange), .attempt = 1, .wall_ms = td_wall_ms()};
        char decision[3000];
        memset(decision, 'd', sizeof decision);
        row.decision = td_str_n(decision, draw(&w->random) % sizeof decision);
        struct td_receipt r = {.exchange = row.exchange, .wall_ms = row.wall_ms, .bytes = number};
        atomic_store(&notes->begun[w->index], number);
        atomic_fetch_add(&notes->receipts_begun, 1);
        enum td_err err = td_receipt_append(w->store, &r, NULL, &receipt);
        if (err == TD_OK)
            atomic_fetch_add(&notes->receipts_acked, 1);
        else
            atomic_fetch_sub(&notes->receipts_begun, 1);
        if (err == TD_OK && (err = td_ledger_append(w->store, &row)) == TD_OK)
            atomic_store(&notes->acked[w->index], number);
        if (err != TD_OK || draw(&w->random) % 4 == 0)
            nap(draw(&w->random) % 300);
    }
    return NULL;
}

static void on_ack(void *arg, enum td_err err) {
    struct entry *x = arg;
    if (err == TD_OK)
        atomic_store(&x->acked, atomic_load(&x->pending));
    atomic_store(&x->pending, NONE);
}

static void id_of(uint32_t index, char id[32]) {
    snprintf(id, 32, "E%08u", index);
}

static void add_entry(struct td_store *store, uint32_t index, bool local) {
    char id[32];
    struct entry *x = &notes->entry[index];
    id_of(index, id);
    struct td_outbox_entry entry = {.id = td_str_of(id),
                                    .tenant = TD_STR("t"),
                                    .conversation = TD_STR("c"),
                                    .state = local ? TD_OUTBOX_ANSWERED_LOCALLY : TD_OUTBOX_QUEUED,
                                    .created_ms = td_wall_ms(),
                                    .expires_ms = INT64_MAX,
                                    .request = TD_STR("{\"model\":\"auto\"}")};
    if (local)
        entry.local.body = TD_STR("local answer");
    struct td_ack ack = {NULL, on_ack, x};
    atomic_store(&x->pending, (int)entry.state);
    if (td_outbox_add(store, &entry, &ack, NULL) != TD_OK)
        atomic_store(&x->pending, NONE);
}

// One step of an entry's life, as replay and reconciliation would take it.
static void move_entry(struct td_store *store, uint32_t index, bool had_local, uint64_t dice) {
    static const struct td_outbox_answer answer = {{"cloud answer", 12}, {"cloud", 5}, {"big", 3}, 0.9, 1};
    static const struct td_outbox_answer local = {{"local answer", 12}, {"device", 6}, {"starter", 7}, 0.3, 1};
    static const struct td_outbox_event event = {{"revision", 8}, {"{}", 2}};
    char id[32];
    struct entry *x = &notes->entry[index];
    enum td_outbox_state from = (enum td_outbox_state)atomic_load(&x->acked);
    struct td_outbox_move m = {.from = from, .to = TD_OUTBOX_INTENT_SENT};
    id_of(index, id);
    if (from == TD_OUTBOX_QUEUED && dice % 4 == 0) {
        m.to = TD_OUTBOX_ANSWERED_LOCALLY;
        m.local = &local;
    } else if (dice % 50 == 7 && from != TD_OUTBOX_RECONCILED) {
        m.to = TD_OUTBOX_DROPPED;
    } else if (from == TD_OUTBOX_INTENT_SENT) {
        atomic_fetch_add(&x->calls, 1);
        m.attempted = true;
        m.to = TD_OUTBOX_ANSWERED_BY_CLOUD;
        m.cloud = &answer;
    } else if (from == TD_OUTBOX_ANSWERED_BY_CLOUD) {
        m.to = TD_OUTBOX_RECONCILED;
        m.accepted = had_local && dice % 2 ? TD_ACCEPTED_LOCAL : TD_ACCEPTED_CLOUD;
        m.event = &event;
    }
    struct td_ack ack = {NULL, on_ack, x};
    atomic_store(&x->pending, (int)m.to);
    if (td_outbox_move(store, td_str_of(id), &m, &ack, NULL) != TD_OK)
        atomic_store(&x->pending, NONE);
}

static void child(uint64_t seed) {
    struct worker w[WRITERS];
    struct td_store *store = NULL;
    pthread_t threads[WRITERS];
    uint32_t live[LIVE_MAX];
    unsigned count = 0;
    struct td_error e = {0};
    // A small ring, so that it goes round many times.
    if (td_store_open(
            dir, &(struct td_store_options){.ring_bytes = 64 << 10, .batch_ms = 2, .outbox_entries_max = ENTRIES_MAX},
            &store, &e) != TD_OK) {
        fprintf(stderr, "FAILED: open: %s\n", e.message);
        _exit(3);
    }
    atomic_store(&notes->opened, true);
    for (unsigned i = 0; i < WRITERS; i++) {
        w[i] = (struct worker){store, i, seed + i};
        if (pthread_create(&threads[i], NULL, write_rows, &w[i]) != 0)
            _exit(4);
    }
    // Those left over by the last child go on; new ones join.
    uint32_t known = atomic_load(&notes->entries);
    for (uint32_t i = known > 4096 ? known - 4096 : 0; i < known && count < LIVE_MAX; i++) {
        int state = atomic_load(&notes->entry[i].acked);
        if (state != NONE && state <= TD_OUTBOX_ANSWERED_BY_CLOUD)
            live[count++] = i;
    }
    for (;;) {
        uint64_t dice = draw(&seed);
        if (count < LIVE_MAX && atomic_load(&notes->entries) < ENTRIES_MAX) {
            uint32_t index = atomic_fetch_add(&notes->entries, 1);
            live[count++] = index;
            add_entry(store, index, index % 2);
            continue;
        }
        unsigned at = (unsigned)(dice % count);
        struct entry *x = &notes->entry[live[at]];
        int state = atomic_load(&x->acked);
        if (atomic_load(&x->pending) != NONE) {
            nap(20);
        } else if (state == NONE || state > TD_OUTBOX_ANSWERED_BY_CLOUD) {
            live[at] = live[--count];
        } else {
            move_entry(store, live[at], live[at] % 2 != 0, dice >> 8);
        }
    }
}

// ---- the parent

struct row_check {
    uint64_t next[WRITERS], last_number;
};

static bool on_row(void *user, const struct td_ledger_row *row) {
    struct row_check *c = user;
    unsigned writer = 0;
    uint64_t number = 0;
    char text[64];
    snprintf(text, sizeof text, "%.*s", TD_STR_ARG(row->exchange));
    CHECK(sscanf(text, "%u-%" SCNu64, &writer, &number) == 2 && writer < WRITERS, "a row nobody wrote: %s", text);
    if (writer < WRITERS) {
        CHECK(number == c->next[writer], "writer %u: row %" PRIu64 " where %" PRIu64 " was due", writer, number,
              c->next[writer]);
        c->next[writer] = number + 1;
    }
    CHECK(row->number > c->last_number, "numbers do not rise");
    c->last_number = row->number;
    return true;
}

static bool on_event(void *user, const struct td_event_record *r) {
    uint64_t *last = user;
    unsigned index = 0;
    char text[64];
    snprintf(text, sizeof text, "%.*s", TD_STR_ARG(r->exchange));
    CHECK(r->id > *last, "event ids do not rise");
    *last = r->id;
    CHECK(sscanf(text, "E%u", &index) == 1 && index < ENTRIES_MAX, "an event of nobody: %s", text);
    if (index < ENTRIES_MAX)
        notes->entry[index].events++;
    return true;
}

static bool on_state(void *user, const struct td_outbox_entry *entry) {
    *(int *)user = (int)entry->state;
    return true;
}

static void check_entry(struct td_store *store, uint32_t index) {
    char id[32];
    struct entry *x = &notes->entry[index];
    int acked = atomic_load(&x->acked), pending = atomic_load(&x->pending), is = NONE;
    if (x->finished)
        return;
    id_of(index, id);
    enum td_err err = td_outbox_get(store, TD_STR_NONE, td_str_of(id), on_state, &is, NULL);
    CHECK(err == TD_OK || err == TD_ERR_NOT_FOUND, "%s cannot be read", id);
    CHECK(is == acked || (pending != NONE && is == pending), "%s is in state %d; acknowledged %d, on its way %d", id,
          is, acked, pending);
    CHECK(is == acked || acked == NONE ||
              td_outbox_move_is_legal((enum td_outbox_state)acked, (enum td_outbox_state)is),
          "%s went from %d to %d", id, acked, is);
    CHECK(x->events == (is == TD_OUTBOX_RECONCILED), "%s in state %d has %u events", id, is, x->events);
    // A call without its answer on disk may have been paid: only such an entry may be paid again.
    CHECK(atomic_load(&x->calls) <= 1 + x->kills_in_intent, "%s was paid %u times over %u kills in intent_sent", id,
          atomic_load(&x->calls), x->kills_in_intent);
    x->kills_in_intent += is == TD_OUTBOX_INTENT_SENT;
    x->finished = is > TD_OUTBOX_ANSWERED_BY_CLOUD || (is == NONE && acked == NONE);
    atomic_store(&x->acked, is);
    atomic_store(&x->pending, NONE);
}

static void check_all(struct row_check *rows, uint64_t *last_event, uint32_t *oldest, bool chains) {
    struct td_store *store = NULL;
    struct td_error e = {0};
    struct td_ledger_proof proof;
    enum td_err err = td_store_open(dir, NULL, &store, &e);
    CHECK(err == TD_OK, "open after a kill: %s", e.message);
    if (err != TD_OK)
        return;
    struct td_ledger_filter filter = {.after = rows->last_number};
    CHECK(td_ledger_tail(store, &filter, UINT32_MAX, on_row, rows, &e) == TD_OK, "tail: %s", e.message);
    for (unsigned i = 0; i < WRITERS; i++) {
        uint64_t have = rows->next[i] - 1;
        CHECK(have >= atomic_load(&notes->acked[i]), "writer %u: %" PRIu64 " rows acknowledged, %" PRIu64 " there", i,
              atomic_load(&notes->acked[i]), have);
        CHECK(have <= atomic_load(&notes->begun[i]), "writer %u: more rows than begun", i);
        atomic_store(&notes->acked[i], have);
    }
    uint64_t before;
    do {
        before = *last_event;
        CHECK(td_events_after(store, TD_STR("t"), before, 1000, on_event, last_event, &e) == TD_OK, "events: %s",
              e.message);
    } while (*last_event != before);
    uint32_t entries = atomic_load(&notes->entries);
    for (uint32_t i = *oldest; i < entries; i++)
        check_entry(store, i);
    while (*oldest < entries && notes->entry[*oldest].finished)
        (*oldest)++;
    if (chains) {
        CHECK(td_ledger_verify(store, &proof, &e) == TD_OK, "verify: %s", e.message);
        CHECK(proof.bad == 0, "chain broken at %" PRIu64, proof.bad);
        uint64_t begun = atomic_load(&notes->receipts_begun), acked = atomic_load(&notes->receipts_acked);
        CHECK(proof.receipts >= acked && proof.receipts <= begun,
              "%" PRIu64 " receipts there, %" PRIu64 " acknowledged, %" PRIu64 " begun", proof.receipts, acked, begun);
    }
    td_store_close(store);
}

static void one_kill(uint64_t seed) {
    uint64_t random = seed;
    bool early = draw(&random) % 5 == 0; // also while it opens and recovers
    uint64_t delay = draw(&random) % (early ? 3000 : 25000);
    int status;
    atomic_store(&notes->opened, false);
    pid_t pid = fork();
    if (pid == 0) {
        child(seed);
        _exit(5);
    }
    for (uint64_t until = td_now_ns() + 10 * TD_S_NS; !early && !atomic_load(&notes->opened) && td_now_ns() < until;)
        nap(100);
    nap(delay);
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
          "the child ended by itself (%d)", status);
}

int main(int argc, char **argv) {
    uint64_t seed = 0, kills = 25;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--kills") == 0)
            kills = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 10);
    }
    if (seed == 0)
        td_random(&seed, 4);
    printf("store_kill --kills %" PRIu64 " --seed %" PRIu64 "\n", kills, seed);
    fflush(stdout);
    notes = mmap(NULL, sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (notes == MAP_FAILED || !scratch_make(dir)) {
        perror("store_kill");
        return 1;
    }
    for (uint32_t i = 0; i < ENTRIES_MAX; i++) {
        atomic_store(&notes->entry[i].acked, NONE);
        atomic_store(&notes->entry[i].pending, NONE);
    }
    struct row_check rows = {.next = {1, 1}};
    uint64_t last_event = 0, done = 0;
    uint32_t oldest = 0;
    for (; done < kills && failures == 0; done++) {
        one_kill(seed + done);
        check_all(&rows, &last_event, &oldest, done % 50 == 49 || done + 1 == kills);
    }
    printf("%" PRIu64 " kills, %" PRIu64 " rows, %u outbox entries, %" PRIu64 " events, %u failures\n", done,
           rows.next[0] + rows.next[1] - 2, atomic_load(&notes->entries), last_event, failures);
    if (failures == 0)
        scratch_drop(dir);
    else
        printf("left for a look: %s\n", dir);
    return failures ? 1 : 0;
}
