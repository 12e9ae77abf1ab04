// SPDX-License-Identifier: Apache-2.0
#include "target/limit.h"

#include "base/time.h"

#define LENGTH_TOKENS_MIN 16u // shorter prompts cost as much as this one
#define BURST_TIMES 8.0       // a burst waits at most so many times what an answer takes alone
#define BURST_US 1e6          // …or this
#define AIM 0.97              // of slowdown_max: where the slowest of a hundred should lie
#define SPREAD_START 1.15     // until it is known
#define SPREAD_MAX 2.0        // a machine less even than this gets no more room
#define TOGETHER_MAX 1.3   // …unless alone it is, nobody is turned away for more: what stands still is not too full
#define SPREAD_STEP 0.05   // up for each above it; a 99th of it down for each below
#define SPREAD_ROUND 8u    // of so many
#define SPREAD_OVER_MAX 2u // …more above it are one event
#define SPREAD_SHARE (1.0 / 16) // of each in the mean that they are held against
#define ROUND_MIN 8u            // attempts that decide about the next step
#define GAIN_MIN 0.05           // of the way to where a round points
#define GAIN_MAX 0.5            // …at first, and of rounds that last long
#define GAIN_S 10.0             // what a machine's speed does within so many seconds should not move the limit
#define LEARN_SHARE (1.0 / 8)   // of each attempt in what is learned, after the first few
#define LEARN_AGAIN 0.5         // …where what was learned is in doubt
#define LOADED 1.2              // turning others away costs too: one alone under overload may be so much slower
#define FASTER 0.9              // in company, to tell that alone has become less
#define MEASURE_FIRST 3u        // attempts alone when nothing is known
#define MEASURE_DOUBT 2u        // …when it may have changed
#define MEASURE_SOON 16u        // ends until what was measured in doubt is measured again; doubled each time
#define MEASURE_AGE 128.0       // ends for each of the limit without one: measured again, at a cost of a hundredth
#define MARK 0.8                // a limit lowered to this share
#define HELPED 0.9              // …must bring the slowdown below this share of it
#define OVER_NS (5 * TD_S_NS)   // without turning anybody away: the overload is over
#define OVER_SHARE 0.25         // turned away of those who come, by a limit so low: all would fit if they could wait
#define SHARE_OF (1.0 / 32)     // of each of them in that share
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

// Those alone tell it; whoever was much faster in company tells that it has become less, and whoever was much slower
// alone under overload that it has become more.
static void learn_one(const struct td_limit *l, double *mean, uint32_t *count, double value, bool alone) {
    double share = alone && l->measure_after ? LEARN_AGAIN : LEARN_SHARE;
    if (!alone)
        value = *count && value < FASTER * *mean ? value / FASTER : *mean;
    else if (l->overloaded && !l->measure_after && *count && value > *mean)
        value = value > LOADED * *mean ? value / LOADED : *mean;
    if (alone || *count)
        learn(mean, count, value, share);
}

static void learn_alone(struct td_limit *l, const struct td_limit_done *d, bool alone) {
    uint32_t i = length_of(d->prompt_tokens);
    learn_one(l, &l->first_us[i], &l->first_count[i], (double)d->first_us, alone);
    if (d->tokens > 1 && d->duration_us > d->first_us)
        learn_one(l, &l->token_us, &l->token_count, (double)(d->duration_us - d->first_us) / (d->tokens - 1), alone);
}

// Held against the mean of those just before it, so a machine that is slower for some seconds does not count as uneven.
// Over is one in a hundred where as many steps lead up as down.
static void note_spread(struct td_limit_spread *s, double ratio, double most) {
    if (s->p99 <= 0)
        s->p99 = SPREAD_START;
    s->mean += (ratio - s->mean) * more(SPREAD_SHARE, 1.0 / (s->count + 1.0));
    if (s->count++ % SPREAD_ROUND == 0)
        s->over = 0;
    if (ratio <= s->p99 * s->mean)
        s->p99 *= 1 - SPREAD_STEP / 99;
    else if (s->over++ < SPREAD_OVER_MAX)
        s->p99 *= 1 + SPREAD_STEP;
    s->p99 = less(most, more(1, s->p99));
}

static double spread(const struct td_limit_spread *s) {
    return s->p99 > 0 ? s->p99 : SPREAD_START;
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

// Where the mean should lie, so that the slowest of a hundred are slowdown_max times the slowest of a hundred alone;
// never above that itself, though company makes some machines more even.
static double aim(const struct td_limit *l) {
    return l->slowdown_max * less(1, AIM * spread(&l->alone) / spread(&l->together));
}

static void begin_round(struct td_limit *l, uint64_t now_ns) {
    l->round_from = l->entered;
    l->round_ns = now_ns;
    l->round_sum = 0;
    l->round_count = 0;
}

static void begin_overload(struct td_limit *l, uint64_t now_ns) {
    l->overloaded = true;
    l->rounds = 0;
    l->mark_limit = 0;
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

// Fewer at once did not help: is it slower alone as well?
static bool in_doubt(struct td_limit *l) {
    bool lowered = l->limit < MARK * l->mark_limit;
    bool doubt = lowered && l->slowdown > aim(l) && l->slowdown > HELPED * l->mark_slowdown;
    if (lowered || l->slowdown <= aim(l) || l->limit >= l->mark_limit) {
        l->mark_limit = l->limit;
        l->mark_slowdown = l->slowdown;
    }
    return doubt;
}

// One step: by how much the mean missed the aim. Upwards only where the limit kept somebody out.
static void end_round(struct td_limit *l, uint64_t now_ns) {
    double gain = more(2.0 / (2 + l->rounds++), (double)(now_ns - l->round_ns) / TD_S_NS / GAIN_S);
    l->slowdown = l->round_sum / l->round_count;
    if (in_doubt(l)) {
        l->measure = MEASURE_DOUBT;
        l->measure_after = MEASURE_SOON;
    }
    double way = less(1, aim(l) / l->slowdown - 1);
    if (way < 0 || l->turned_ns >= l->round_ns)
        l->limit += l->limit * way * less(GAIN_MAX, more(GAIN_MIN, gain));
    l->limit = less(ceiling(l), more(1, l->limit));
    begin_round(l, now_ns);
}

// It had the model to itself, and was to.
static void end_measure(struct td_limit *l, uint64_t now_ns) {
    if (--l->measure)
        return;
    if (l->measure_after)
        l->measure_after *= 2;
    if (l->measure_after >= MEASURE_AGE * l->limit)
        l->measure_after = 0;
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
    double ratio = (double)done->duration_us / expected;
    if (!l->overloaded) {
        if (alone)
            note_spread(&l->alone, ratio, SPREAD_MAX);
        return;
    }
    l->age = alone ? 0 : l->age + 1;
    if (alone && l->measure) {
        end_measure(l, now_ns);
        return;
    }
    if (l->age >= (l->measure_after ? l->measure_after : MEASURE_AGE * l->limit) && !l->measure)
        l->measure = 1;
    if (ticket->number <= l->round_from || l->measure)
        return;
    note_spread(&l->together, ratio, more(TOGETHER_MAX, spread(&l->alone)));
    l->round_sum += ratio;
    if (++l->round_count >= ROUND_MIN && l->round_count >= l->limit)
        end_round(l, now_ns);
}

uint32_t td_limit_retry_ms(const struct td_limit *l) {
    double ms = l->active * l->gap_us / 1000;
    return ms < RETRY_MS_MIN ? RETRY_MS_MIN : ms > RETRY_MS_MAX ? RETRY_MS_MAX : (uint32_t)ms;
}
