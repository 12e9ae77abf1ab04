// SPDX-License-Identifier: Apache-2.0
#include "exchange/internal.h"

#include <math.h>

// A model's mean token is about four bytes of text in the languages models are mostly used in; only for estimates.
#define BYTES_PER_TOKEN 4u
// More text than this in one event is not one token.
// After the last finish only usage and the end are missing: not worth a whole idle time.
#define AFTER_FINISH_MS 2000u

static void note_tokens(struct td_exchange *x, struct td_x_attempt *a, const struct td_token *tokens, uint32_t count) {
    uint32_t window = x->plan->hold_tokens ? x->plan->hold_tokens : UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        double p = (double)tokens[i].logprob;
        if (isnan(p))
            continue;
        if (a->probable++ == 0)
            a->first_logprob = p;
        else if (a->probable == 2)
            a->second_logprob = p;
        a->logprob_sum += p;
        if (a->window < window) {
            a->window_min = a->window == 0 || p < a->window_min ? p : a->window_min;
            a->window_sum += p;
            a->window++;
        }
        if (!isnan((double)tokens[i].entropy)) {
            a->entropy_sum += (double)tokens[i].entropy;
            a->entropies++;
        }
    }
}

// Is the answer, byte for byte, the target's way of declining?
static void note_declining(const struct td_target *t, struct td_x_attempt *a, const struct td_event *ev) {
    struct td_str text = ev->delta.text;
    if (a->declined == UINT32_MAX || t->declines.n == 0)
        return;
    bool same = ev->type == TD_EV_DELTA && ev->choice == 0 && text.n <= t->declines.n - a->declined &&
                memcmp(text.p, t->declines.p + a->declined, text.n) == 0;
    a->declined = same ? a->declined + (uint32_t)text.n : UINT32_MAX;
}

static void note_content(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev) {
    if (a->rec.first_ns == 0)
        a->rec.first_ns = x->now_ns;
    a->rec.events++;
    if (ev->choice < TD_CHOICES_MAX)
        a->content_choices |= 1u << ev->choice;
    if (ev->type == TD_EV_EMBEDDING)
        return;
    note_declining(td_x_target(x, a), a, ev);
    bool tool = ev->type == TD_EV_TOOL_CALL;
    const struct td_token *tokens = tool ? ev->tool.tokens : ev->delta.tokens;
    uint32_t count = tool ? ev->tool.token_count : ev->delta.token_count;
    a->rec.text_bytes += tool ? ev->tool.arguments.n + ev->tool.name.n : ev->delta.text.n;
    a->tokens += count ? count : 1;
    a->tokens_exact = a->tokens_exact && count > 0;
    note_tokens(x, a, tokens, count);
}

void td_x_attempt_note(struct td_exchange *x, struct td_x_attempt *a, const struct td_event *ev) {
    a->rec.sent = true;
    a->rec.damaged |= ev->damaged;
    a->last_ns = x->now_ns;
    if (a->state == TD_X_STARTING) {
        a->state = TD_X_RUNNING;
        a->sent_ns = x->now_ns;
    }
    switch (ev->type) {
    case TD_EV_START:
        if (ev->start.model.n)
            a->rec.model = td_arena_str(x->c.arena, ev->start.model);
        if (ev->start.provider_id.n)
            a->rec.provider_id = td_arena_str(x->c.arena, ev->start.provider_id);
        break;
    case TD_EV_USAGE:
        a->rec.usage = ev->usage;
        a->has_usage = true;
        break;
    case TD_EV_FINISH:
        if (ev->choice < TD_CHOICES_MAX) {
            a->finished_choices |= 1u << ev->choice;
            a->finishes[ev->choice] = ev->finish.reason;
        }
        if (ev->choice == 0) {
            a->rec.finished = true;
            a->rec.finish = ev->finish.reason;
        }
        break;
    case TD_EV_END:
    case TD_EV_ERROR:
        break;
    default:
        note_content(x, a, ev);
    }
}

void td_x_attempt_stats(struct td_x_attempt *a, const struct td_attempt_stats *stats) {
    if (!stats)
        return;
    if (!a->has_usage && stats->prompt_tokens) { // else it is estimated at the close, the prompt too
        a->rec.usage = (struct td_usage){
            .prompt_tokens = stats->prompt_tokens, .completion_tokens = stats->completion_tokens, .estimated = true};
        a->has_usage = true;
    }
    if (a->probable == 0 && stats->mean_logprob < 0) {
        uint32_t n = stats->completion_tokens ? stats->completion_tokens : 1;
        a->probable = a->window = n;
        a->logprob_sum = a->window_sum = (double)stats->mean_logprob * n;
        a->first_logprob = (double)stats->mean_logprob;
        a->window_min = stats->min_logprob < 0 ? (double)stats->min_logprob : (double)stats->mean_logprob;
        if (stats->mean_entropy >= 0) {
            a->entropies = n;
            a->entropy_sum = (double)stats->mean_entropy * n;
        }
    }
}

bool td_x_attempt_whole(const struct td_exchange *x, const struct td_x_attempt *a) {
    if (x->request->kind == TD_KIND_EMBEDDING)
        return a->rec.events > 0;
    return a->finished_choices != 0 && (a->content_choices & ~a->finished_choices) == 0;
}

bool td_x_attempt_may_decline(const struct td_exchange *x, const struct td_x_attempt *a) {
    return td_x_target(x, a)->declines.n > 0 && a->declined != UINT32_MAX;
}

bool td_x_attempt_declined(const struct td_exchange *x, const struct td_x_attempt *a) {
    const struct td_target *t = td_x_target(x, a);
    return t->declines.n > 0 && a->declined == t->declines.n && td_x_attempt_whole(x, a);
}

double td_x_attempt_confidence(const struct td_exchange *x, const struct td_x_attempt *a) {
    if (a->window == 0)
        return NAN;
    // A function-calling model decides with its first two tokens: call or decline, and which call.
    if (td_x_target(x, a)->model_class == TD_MODEL_COMMAND)
        return exp(a->first_logprob + a->second_logprob);
    double logprob = x->c.confidence == TD_X_CONFIDENCE_FIRST ? a->first_logprob
                     : x->c.confidence == TD_X_CONFIDENCE_MIN ? a->window_min
                                                              : a->window_sum / a->window;
    return exp(logprob < 0 ? logprob : 0);
}

// Providers charge for what they began to work on and cannot say so once the connection is gone; what they refused
// with a status, or what never reached them, costs nothing.
static bool used_nothing(const struct td_x_record *r) {
    if (!r->sent)
        return true;
    if (r->events > 0)
        return false;
    return r->http_status >= 400 || r->code == TD_ERR_CONNECT || r->code == TD_ERR_DNS || r->code == TD_ERR_TLS ||
           r->code == TD_ERR_GRANT || r->code == TD_ERR_UPSTREAM_RATE || r->code == TD_ERR_UPSTREAM_SERVER ||
           r->code == TD_ERR_UPSTREAM_REQUEST || r->code == TD_ERR_CONTEXT_LENGTH;
}

void td_x_attempt_close(struct td_exchange *x, struct td_x_attempt *a, enum td_x_outcome outcome, enum td_err code) {
    struct td_x_record *r = &a->rec;
    a->state = TD_X_OVER;
    r->outcome = outcome;
    r->code = code;
    r->end_ns = x->now_ns;
    r->confidence = td_x_attempt_confidence(x, a);
    r->mean_logprob = a->probable ? a->logprob_sum / a->probable : NAN;
    r->mean_entropy = a->entropies ? a->entropy_sum / a->entropies : NAN;
    if (!a->has_usage && !used_nothing(r)) {
        uint32_t by_text = (uint32_t)(r->text_bytes / BYTES_PER_TOKEN);
        r->usage = (struct td_usage){
            .prompt_tokens = x->c.prompt_tokens + r->prefix_bytes / BYTES_PER_TOKEN,
            .completion_tokens = a->tokens_exact || by_text < a->tokens ? a->tokens : by_text,
            .estimated = true,
        };
    }
    r->cost_nusd = td_x_cost_nusd(td_x_target(x, a), &r->usage);
}

void td_x_attempt_record(struct td_exchange *x, struct td_x_attempt *a) {
    if (a->recorded)
        return;
    a->recorded = true;
    td_x_effect_add(x, TD_X_DO_RECORD)->record = &a->rec;
}

void td_x_attempt_stop(struct td_exchange *x, struct td_x_attempt *a) {
    if (a->ended)
        return;
    a->ended = true;
    td_x_effect_add(x, TD_X_DO_CANCEL)->attempt = a->rec.attempt;
}

void td_x_attempt_cancel(struct td_exchange *x, struct td_x_attempt *a, enum td_x_outcome outcome, enum td_err code) {
    td_x_attempt_stop(x, a);
    if (a->state != TD_X_OVER)
        td_x_attempt_close(x, a, outcome, code);
    td_x_attempt_record(x, a);
}

uint64_t td_x_attempt_limit(const struct td_exchange *x, const struct td_x_attempt *a, enum td_err *code) {
    const struct td_timeouts *t = &td_x_target(x, a)->timeouts;
    uint64_t limit = 0;
    if (a->state == TD_X_OVER || a->paused)
        return 0;
    if (t->total_ms) {
        limit = (a->sent_ns ? a->sent_ns : a->rec.start_ns) + t->total_ms * TD_MS_NS;
        *code = a->rec.first_ns ? TD_ERR_CUT : TD_ERR_FIRST_TOKEN;
    }
    // A whole answer in one piece comes when it comes; its transport knows more than is known here. A local model may
    // have to be loaded and to read a long prompt; its backend asks the host for signs of life meanwhile.
    bool local = td_x_target(x, a)->provider == TD_PROVIDER_LLAMA;
    if (a->state == TD_X_STARTING || (!x->request->stream && !local))
        return limit;
    uint64_t other = 0;
    enum td_err why = TD_ERR_IDLE;
    if (a->rec.first_ns == 0 && a->finished_choices == 0) {
        why = TD_ERR_FIRST_TOKEN;
        if (!local && t->first_token_ms)
            other = a->sent_ns + ((uint64_t)t->first_token_ms + t->connect_ms) * TD_MS_NS;
    } else if (t->idle_ms) {
        bool whole = td_x_attempt_whole(x, a);
        other = a->last_ns + (whole && t->idle_ms > AFTER_FINISH_MS ? AFTER_FINISH_MS : t->idle_ms) * TD_MS_NS;
    }
    if (other && (limit == 0 || other < limit)) {
        limit = other;
        *code = why;
    }
    return limit;
}

int64_t td_x_cost_nusd(const struct td_target *target, const struct td_usage *usage) {
    const struct td_price *p = &target->price;
    uint32_t cached = usage->cached_tokens < usage->prompt_tokens ? usage->cached_tokens : usage->prompt_tokens;
    int64_t fresh, again, out, sum;
    if (__builtin_mul_overflow((int64_t)(usage->prompt_tokens - cached), p->input_nusd, &fresh) ||
        __builtin_mul_overflow((int64_t)cached, p->cached_input_nusd, &again) ||
        __builtin_mul_overflow((int64_t)usage->completion_tokens, p->output_nusd, &out) ||
        __builtin_add_overflow(fresh, again, &sum) || __builtin_add_overflow(sum, out, &sum))
        return INT64_MAX;
    return sum;
}
