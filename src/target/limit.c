// SPDX-License-Identifier: Apache-2.0
#include "target/limit.h"

#include "base/time.h"

#define LENGTH_TOKENS_MIN 16u // shorter prompts cost as much as this one
#define BURST_TIMES 8.0       // a burst waits at most so many times what an answer takes alone
#define BURST_US 1e6          // …or this
#define AIM 0.95              // of slowdown_max: where the slowest of a round should lie
#define UNEVEN_MAX 1.6 // the slowest of a round alone, against the mean: an uneven machine gets no more room than this
#define ROUND_MIN 8u   // attempts that decide about the next step
#define STEP_MAX 1.5   // of the limit in one round, up; down to half
#define STEP_SHARE 0.6 // of the way: the next round sees only what this one did
#define LEARN_SHARE (1.0 / 8) // of each attempt in what is learned, after the first few
#define LEARN_AGAIN 0.5       // …where what was learned is in doubt
#define MEASURE_FIRST 3u      // attempts alone when nothing is known
#define MEASURE_DOUBT 2u      // …when it may have changed
#define MEASURE_AGE 64.0 // ends for each of the limit without one: measured again, at a cost of two or three hundredths
#define WORST_UP 0.5     // a slow one is remembered
#define WORST_DOWN 0.1   // …for ten rounds or so
#define HELPED 0.95      // a lower limit must bring the slowdown below this share of it
#define OVER_NS (5 * TD_S_NS) // without turning anybody away: the overload is over
#define OVER_SHARE 0.25       // turned away of those who come, by a limit so low: all would fit if they could wait
#define SHARE_OF (1.0 / 32)   // of each of them in that share
#define BATCH_HOLD_NS                                                                                                  \
    TD_S_NS // batch waits so long, or twice an answer's time, after an interactive one was turned away
#define RETRY_MS_MIN 1000u
#define RETRY_MS_MAX 30000u

static double less(double a, double b) {
    return a < b ? a : b;
}

static double more(double a, double b) {
    return a > b ? a : b;
}

void td_limit_set(struct td_limit *l, uint32_t slots, uint32_t queue_max, double slowdown_max) {
    l->slots = slots;
    l->queue_max = queue_max;
    l->slowdown_max = slowdown_max;
    if (l->limit > slots + queue_max)
        l->limit = slots + queue_max;
    if (slowdown_max <= 1)
        l->overloaded = false;
}

// ---- what an attempt takes alone

static uint32_t length_of(uint32_t prompt_tokens) {
    uint32_t i = 0;
    for (; prompt_tokens > LENGTH_TOKENS_MIN && i + 1 < TD_LIMIT_LENGTHS; i++)
        prompt_tokens = prompt_tokens / 2 + prompt_tokens % 2;
    return i;
}

// A length that nobody had yet: as the next shorter one, in proportion, or as the next longer one.
static double first_alone_us(const struct td_limit *l, uint32_t length) {
    for (uint32_t i = length + 1; i-- > 0;)
        if (l->first_count[i])
            return l->first_us[i] * (double)(1u << (length - i));
    for (uint32_t i = length + 1; i < TD_LIMIT_LENGTHS; i++)
        if (l->first_count[i])
            return l->first_us[i];
    return 0;
}

static double alone_us(const struct td_limit *l, const struct td_limit_done *d) {
    double first = first_alone_us(l, length_of(d->prompt_tokens));
    if (first <= 0 || (d->tokens > 1 && !l->token_count))
        return 0;
    return first + (d->tokens > 1 ? (d->tokens - 1) * l->token_us : 0);
}

static void learn(double *mean, uint32_t *count, double value, double share) {
    if (*count < 1000)
        ++*count;
    *mean += (value - *mean) * more(share, 1.0 / *count);
}

// Those alone tell it; whoever was faster in company tells that it has become less.
static void learn_alone(struct td_limit *l, const struct td_limit_done *d, bool alone) {
    uint32_t i = length_of(d->prompt_tokens);
    double first = (double)d->first_us, share = l->measure ? LEARN_AGAIN : LEARN_SHARE;
    if (alone || (l->first_count[i] && first < l->first_us[i]))
        learn(&l->first_us[i], &l->first_count[i], first, share);
    if (d->tokens < 2 || d->duration_us <= d->first_us)
        return;
    double token = (double)(d->duration_us - d->first_us) / (d->tokens - 1);
    if (alone || (l->token_count && token < l->token_us))
        learn(&l->token_us, &l->token_count, token, share);
}

// ---- the limit

static double ceiling(const struct td_limit *l) {
    return (double)l->slots + l->queue_max;
}

static double burst(const struct td_limit *l) {
    if (l->slowdown_max <= 1 || l->gap_us <= 0)
        return ceiling(l);
    double patient = more(BURST_US, BURST_TIMES * l->alone_us) / l->gap_us;
    return less(ceiling(l), more(patient, l->slots + 1.0));
}

static double aim(const struct td_limit *l) {
    return AIM * l->slowdown_max * less(UNEVEN_MAX, more(1, l->uneven));
}

// The slowest of a round: what it was lately, quick to rise.
static void note_worst(double *worst, double value) {
    *worst += (value - *worst) * (*worst <= 0 ? 1 : value > *worst ? WORST_UP : WORST_DOWN);
}

static void begin_round(struct td_limit *l, uint64_t now_ns) {
    l->round_from = l->entered;
    l->round_ns = now_ns;
    l->round_sum = l->round_took = l->round_alone = l->round_worst = 0;
    l->round_count = 0;
}

static void begin_overload(struct td_limit *l, uint64_t now_ns) {
    l->overloaded = true;
    l->lowered = false;
    l->turned_share = 1;
    l->age = 0;
    l->measure = l->alone_us > 0 ? 0 : MEASURE_FIRST;
    if (l->limit <= 0)
        l->limit = l->alone_us > 0 && l->gap_us > 0 ? aim(l) * l->alone_us / l->gap_us : l->slots;
    l->limit = less(ceiling(l), more(1, l->limit));
    begin_round(l, now_ns);
}

static void advance(struct td_limit *l, uint64_t now_ns) {
    if (l->overloaded && (l->turned_share < OVER_SHARE || now_ns > l->turned_ns + OVER_NS)) {
        l->overloaded = false;
        l->measure = 0;
    }
}

double td_limit_now(const struct td_limit *l) {
    return !l->slots ? 0 : !l->overloaded ? burst(l) : l->measure ? 1 : l->limit;
}

static bool interactive_waits(const struct td_limit *l, uint64_t now_ns) {
    uint64_t hold_ns = (uint64_t)(l->alone_us * 2000);
    return l->turned_interactive_ns &&
           now_ns < l->turned_interactive_ns + (hold_ns > BATCH_HOLD_NS ? hold_ns : BATCH_HOLD_NS);
}

bool td_limit_room(struct td_limit *l, bool batch, uint64_t now_ns) {
    if (!l->slots)
        return true;
    advance(l, now_ns);
    double limit = td_limit_now(l);
    if (batch && !l->overloaded)
        limit = limit > l->slots ? l->slots + (double)(uint32_t)((limit - l->slots) / 2) : limit / 2;
    else if (batch)
        limit = interactive_waits(l, now_ns) ? 0 : more(1, limit - 1);
    if (l->active + 1 <= limit)
        return true;
    double part = limit - l->active;
    if (!l->overloaded || batch || part <= 0 || l->measure)
        return false;
    uint64_t since_ns = now_ns > l->changed_ns ? now_ns - l->changed_ns : 0;
    return (double)since_ns >= (1 - part) * l->gap_us * 1000;
}

struct td_limit_ticket td_limit_enter(struct td_limit *l, uint64_t now_ns) {
    if (!l->active)
        l->gap_from_ns = now_ns;
    l->changed_ns = now_ns;
    l->turned_share -= l->turned_share * SHARE_OF;
    return (struct td_limit_ticket){.number = ++l->entered, .alone = l->active++ == 0};
}

void td_limit_turned_away(struct td_limit *l, bool batch, uint64_t now_ns) {
    l->turned[batch]++;
    if (!l->slots || td_limit_room(l, false, now_ns)) // batch that is held back is no overload
        return;
    l->turned_ns = now_ns;
    l->turned_share += (1 - l->turned_share) * SHARE_OF;
    if (!batch)
        l->turned_interactive_ns = now_ns;
    if (!l->overloaded && l->slowdown_max > 1)
        begin_overload(l, now_ns);
}

// One step: by how much the slowest of the last rounds missed the aim. Upwards only where the limit kept somebody out.
static void end_round(struct td_limit *l, uint64_t now_ns) {
    double mean = l->round_sum / l->round_count, before = l->limit;
    double middle = more(mean, l->round_took / l->round_alone); // of all, and of the long ones
    note_worst(&l->worst, l->round_worst);
    double slowdown = more(middle, l->worst);
    bool doubt = l->lowered && middle > HELPED * l->slowdown && slowdown > aim(l);
    double wanted = more(l->limit / 2, less(l->limit * STEP_MAX, l->limit * aim(l) / slowdown));
    l->slowdown = middle;
    if (doubt) { // fewer at once did not help: is it slower alone as well?
        l->measure = MEASURE_DOUBT;
        l->worst = 0;
    }
    if (wanted < l->limit || l->turned_ns >= l->round_ns)
        l->limit += (wanted - l->limit) * STEP_SHARE;
    l->limit = less(ceiling(l), more(1, l->limit));
    l->lowered = l->limit < before * HELPED;
    begin_round(l, now_ns);
}

void td_limit_leave(struct td_limit *l, const struct td_limit_ticket *ticket, const struct td_limit_done *done,
                    uint64_t now_ns) {
    bool alone = ticket->alone && l->entered == ticket->number;
    if (l->active)
        l->active--;
    l->changed_ns = now_ns;
    if (!done || !done->duration_us) {
        l->gap_from_ns = now_ns;
        return;
    }
    if (now_ns > l->gap_from_ns) {
        double gap = (double)(now_ns - l->gap_from_ns) / 1000;
        l->gap_us += (gap - l->gap_us) * (l->gap_us > 0 ? LEARN_SHARE : 1);
        l->gap_from_ns = now_ns;
    }
    learn_alone(l, done, alone);
    double expected = alone_us(l, done);
    if (expected <= 0)
        return;
    l->alone_us += (expected - l->alone_us) * (l->alone_us > 0 ? LEARN_SHARE : 1);
    if (alone && !l->overloaded) {
        l->alone_worst = more(l->alone_worst, (double)done->duration_us / expected);
        if (++l->alone_count % ROUND_MIN == 0) {
            if (l->alone_count > ROUND_MIN) // the first round still learned what is usual
                note_worst(&l->uneven, l->alone_worst);
            l->alone_worst = 0;
        }
    }
    if (!l->overloaded)
        return;
    l->age = alone ? 0 : l->age + 1;
    if (alone && l->measure) {
        if (--l->measure == 0)
            begin_round(l, now_ns);
        return;
    }
    if (l->age >= MEASURE_AGE * l->limit && !l->measure)
        l->measure = 1;
    if (ticket->number <= l->round_from || l->measure)
        return;
    double took = (double)done->duration_us, ratio = took / expected;
    l->round_sum += ratio;
    l->round_worst = more(l->round_worst, ratio);
    l->round_took += took;
    l->round_alone += expected;
    if (++l->round_count >= ROUND_MIN && l->round_count >= l->limit)
        end_round(l, now_ns);
}

uint32_t td_limit_retry_ms(const struct td_limit *l) {
    double ms = l->active * l->gap_us / 1000;
    return ms < RETRY_MS_MIN ? RETRY_MS_MIN : ms > RETRY_MS_MAX ? RETRY_MS_MAX : (uint32_t)ms;
}
