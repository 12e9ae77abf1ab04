// SPDX-License-Identifier: Apache-2.0
// Providers agree on statuses but not on words: what they say when a prompt is too long or a filter struck is told by
// the phrases below, each seen from at least one of them.
#include "wire/openai_provider.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/limits.h"

// Phrases in lower case. Looked for in code, type and message together.
static const char *const context_phrases[] = {
    "context_length_exceeded",            // OpenAI, Azure, Groq: code
    "maximum context length",             // OpenAI, vLLM, DeepSeek
    "exceed_context_size",                // llama-server: type
    "available context size",             // llama-server
    "context window",                     // several
    "context length",                     // Ollama, LM Studio
    "context limit",                      // Anthropic: input length and max_tokens together
    "prompt is too long",                 // Anthropic
    "maximum model length",               // vLLM: longer than max_model_len
    "max_model_len",                      // vLLM
    "too large for model",                // Mistral: prompt contains N tokens, too large for model with M maximum
    "maximum prompt length",              // xAI
    "reduce the length of the",           // OpenAI, Groq: messages or completion
    "input is too long",                  // Bedrock and others behind compatible front ends
    "input token count",                  // Google: exceeds the maximum number of tokens
    "`inputs` tokens + `max_new_tokens`", // TGI
    "too many input tokens",
    NULL,
};
static const char *const content_phrases[] = {
    "content_filter",               // Azure, OpenAI: code
    "content_policy",               // OpenAI: content_policy_violation
    "responsibleaipolicyviolation", // Azure: innererror.code
    "content management policy",    // Azure
    "usage policy",                 // OpenAI: flagged as potentially violating our usage policy
    "usage policies",               // the same, other plural
    "safety system",                // OpenAI: rejected as a result of
    "content exists risk",          // DeepSeek
    "data_inspection_failed",       // DashScope
    "datainspectionfailed",         // DashScope
    "prohibited_content",           // Google
    "input was flagged",            // OpenRouter: moderation
    "requires moderation",          // OpenRouter
    "blocked by content",
    NULL,
};
static const char *const quota_phrases[] = {
    "insufficient_quota",    // OpenAI: code
    "exceeded your current", // OpenAI: quota, plan and billing
    "billing_hard_limit",    // OpenAI: code
    "billing_not_active",    // OpenAI: code
    "insufficient balance",  // DeepSeek
    "insufficient credits",  // OpenRouter
    "credit balance is too", // Anthropic: low
    "payment required",      NULL,
};
static const char *const model_phrases[] = {
    "model_not_found", // OpenAI: code
    "deploymentnotfound",
    "unknown_model",
    "invalid_model", // Mistral
    NULL,
};
static const char *const auth_phrases[] = {
    "invalid_api_key", "authentication_error", "invalid api key", "incorrect api key", NULL,
};
static const char *const rate_phrases[] = {
    "rate_limit", "rate limit", "too many requests", "resource_exhausted", NULL,
};
static const char *const overload_phrases[] = {
    "overloaded", "server_error", "internal_error", "internal error", "unavailable", "engine_overloaded", NULL,
};

static bool says(const char *haystack, const char *const *phrases) {
    for (; *phrases; phrases++)
        if (strstr(haystack, *phrases))
            return true;
    return false;
}

// What the body says, wherever the provider put it.
struct words {
    struct td_str message, code, type, inner;
    int64_t number; // a numeric code; 0 none
};

static struct td_str first_detail(td_json *detail) {
    td_json *first = yyjson_is_arr(detail) ? yyjson_arr_get_first(detail) : NULL;
    return yyjson_is_str(detail) ? td_json_str(detail) : td_json_get_str(first, "msg");
}

static void read_words(td_json *root, struct words *w) {
    if (yyjson_is_arr(root))
        root = yyjson_arr_get_first(root); // Google
    td_json *error = td_json_get(root, "error");
    if (yyjson_is_str(error)) { // Ollama, TGI
        w->message = td_json_str(error);
        w->type = td_json_get_str(root, "error_type");
        return;
    }
    if (!yyjson_is_obj(error))
        error = root; // vLLM, Mistral
    td_json *message = td_json_get(error, "message");
    w->message = yyjson_is_str(message) ? td_json_str(message) : first_detail(td_json_get(message, "detail"));
    if (!w->message.n)
        w->message = first_detail(td_json_get(error, "detail")); // FastAPI
    w->type = td_json_get_str(error, "type");
    if (!w->type.n)
        w->type = td_json_get_str(error, "status"); // Google
    w->code = td_json_get_str(error, "code");
    w->number = td_json_get_int(error, "code", 0);
    td_json *inner = td_json_get(error, "innererror"); // Azure
    w->inner = td_json_get_str(inner, "code");
}

// Lower-cased code, type and message, as far as they fit: phrases stand near the beginning.
static void join_words(const struct words *w, char *out, size_t room) {
    const struct td_str parts[] = {w->code, w->type, w->inner, w->message};
    size_t n = 0;
    for (size_t k = 0; k < 4; k++) {
        for (size_t i = 0; i < parts[k].n && n + 2 < room; i++) {
            char c = parts[k].p[i];
            out[n++] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c ? c : ' ';
        }
        out[n++] = '\n';
        if (n + 2 >= room)
            break;
    }
    out[n < room ? n : room - 1] = 0;
}

static enum td_err judge(int status, const char *said) {
    bool request = status == 0 || status == 400 || status == 413 || status == 422;
    if (status == 402 || ((request || status == 429 || status == 403) && says(said, quota_phrases)))
        return TD_ERR_UPSTREAM_QUOTA;
    // llama-server and some front ends answer 500 to a prompt that does not fit.
    if ((request || status == 500) && says(said, context_phrases))
        return TD_ERR_CONTEXT_LENGTH;
    if ((request || status == 403 || status == 451) && says(said, content_phrases))
        return TD_ERR_CONTENT_POLICY;
    if (request && says(said, model_phrases))
        return TD_ERR_UPSTREAM_NOT_FOUND;
    switch (status) {
    case 0:
        return says(said, rate_phrases)          ? TD_ERR_UPSTREAM_RATE
               : says(said, auth_phrases)        ? TD_ERR_UPSTREAM_AUTH
               : says(said, overload_phrases)    ? TD_ERR_UPSTREAM_SERVER
               : strstr(said, "invalid_request") ? TD_ERR_UPSTREAM_REQUEST
                                                 : TD_ERR_UPSTREAM_SERVER;
    case 401:
    case 403:
    case 407:
        return TD_ERR_UPSTREAM_AUTH;
    case 404:
        return TD_ERR_UPSTREAM_NOT_FOUND;
    case 429:
        return TD_ERR_UPSTREAM_RATE;
    case 408: // these pass: the same bytes may do a moment later
    case 409:
    case 425:
        return TD_ERR_UPSTREAM_SERVER;
    default:
        if (status >= 500)
            return TD_ERR_UPSTREAM_SERVER;
        if (status >= 400)
            return says(said, auth_phrases) ? TD_ERR_UPSTREAM_AUTH : TD_ERR_UPSTREAM_REQUEST;
        return TD_ERR_UPSTREAM_GARBAGE; // a redirect or another answer nobody asked for
    }
}

// What the next Tandem of a chain said, in our own words.
static enum td_err judge_own(struct td_str code, int status, enum td_err otherwise) {
    enum td_err e = TD_OK;
    if (!td_str_starts(code, TD_STR("tandem.")))
        return otherwise;
    for (int i = 1; i < TD_ERR_COUNT && e == TD_OK; i++)
        if (td_str_is(code, td_err_code((enum td_err)i)))
            e = (enum td_err)i;
    switch (e) {
    case TD_ERR_CONTEXT_LENGTH:
    case TD_ERR_CONTENT_POLICY:
    case TD_ERR_NOT_FOR_ME:
    case TD_ERR_CHAIN:
        return e;
    case TD_ERR_BUDGET:
    case TD_ERR_UPSTREAM_QUOTA:
        return TD_ERR_UPSTREAM_QUOTA;
    case TD_ERR_BLOCKED: // its policy is not ours: another target may still answer
    case TD_ERR_NO_TARGET:
        return status < 500 ? TD_ERR_UPSTREAM_REQUEST : TD_ERR_UPSTREAM_SERVER;
    default:
        return otherwise;
    }
}

// "12", "0.5" → the number, however large; -1 for anything else.
static double read_decimal(struct td_str s) {
    double v = 0, scale = 0;
    if (s.n == 0 || s.n > 64)
        return -1;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '.' && scale == 0 && i) {
            scale = 1;
        } else if (s.p[i] >= '0' && s.p[i] <= '9') {
            v = v * 10 + (s.p[i] - '0');
            scale *= 10;
        } else {
            return -1;
        }
    }
    return scale > 1 ? v / scale : v;
}

static uint32_t cap_ms(double ms) {
    return ms <= 0 ? 0 : ms >= TD_DEADLINE_MS_MAX ? TD_DEADLINE_MS_MAX : (uint32_t)(ms + 0.5);
}

// Days since 1970-01-01 in the proleptic Gregorian calendar.
static int64_t days_of(int64_t y, int64_t m, int64_t d) {
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400, yoe = y - era * 400;
    int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

// "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110 section 5.6.7; the two obsolete forms are not worth code). -1: not one.
static int64_t read_date(struct td_str s) {
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    char z[40], month[4];
    int day, year, h, m, sec;
    if (s.n >= sizeof z || s.n < 26)
        return -1;
    memcpy(z, s.p, s.n);
    z[s.n] = 0;
    if (sscanf(z, "%*3[A-Za-z], %2d %3s %4d %2d:%2d:%2d GMT", &day, month, &year, &h, &m, &sec) != 6)
        return -1;
    const char *at = strstr(months, month);
    if (strlen(month) != 3 || !at || (at - months) % 3 || year < 1970 || day < 1 || day > 31)
        return -1;
    return days_of(year, (at - months) / 3 + 1, day) * 86400 + h * 3600 + m * 60 + sec;
}

// "… try again in 1.242s", "… in 6m0s", "… in 20ms"
static uint32_t read_hint(struct td_str message) {
    static const char phrase[] = "try again in ";
    const size_t n = sizeof phrase - 1;
    for (size_t i = 0; i + n < message.n; i++) {
        if (strncasecmp(message.p + i, phrase, n) != 0)
            continue;
        double total = 0;
        size_t at = i + n;
        for (int part = 0; part < 3; part++) {
            size_t from = at;
            while (at < message.n && ((message.p[at] >= '0' && message.p[at] <= '9') || message.p[at] == '.'))
                at++;
            double v = read_decimal(td_str_n(message.p + from, at - from));
            struct td_str unit = td_str_n(message.p + at, message.n - at);
            if (v < 0)
                break;
            if (td_str_starts(unit, TD_STR("ms")))
                total += v, at += 2;
            else if (td_str_starts(unit, TD_STR("s")))
                total += v * 1000, at += 1;
            else if (td_str_starts(unit, TD_STR("m")))
                total += v * 60000, at += 1;
            else if (td_str_starts(unit, TD_STR("h")))
                total += v * 3600000, at += 1;
            else
                break;
        }
        return cap_ms(total);
    }
    return 0;
}

static uint32_t read_retry(struct td_str seconds, struct td_str ms, int64_t now_s, struct td_str message) {
    double v = read_decimal(td_str_trim(ms));
    if (v > 0)
        return cap_ms(v);
    seconds = td_str_trim(seconds);
    v = read_decimal(seconds);
    if (v >= 0)
        return cap_ms(v * 1000);
    int64_t at = read_date(seconds);
    if (at > now_s)
        return cap_ms((double)(at - now_s) * 1000);
    return at >= 0 ? 0 : read_hint(message);
}

// Whole characters, control bytes as spaces.
static void copy_text(char *out, size_t room, struct td_str s) {
    if (s.n >= room)
        s.n = td_str_utf8_whole(td_str_n(s.p, room - 1));
    for (size_t i = 0; i < s.n; i++)
        out[i] = (unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f ? ' ' : s.p[i];
    out[s.n] = 0;
}

void td_openai_read_error(int status, struct td_str retry_after, struct td_str retry_after_ms, int64_t now_s,
                          struct td_str body, struct td_upstream_error *out) {
    struct words w = {0};
    struct td_arena arena;
    td_json *root = NULL;
    char said[1024];
    *out = (struct td_upstream_error){0};
    td_arena_init(&arena, 1u << 20);
    // An error body is a page at most; what is longer is no JSON error of any provider.
    if (body.n <= (256u << 10) && td_json_parse(&arena, body, TD_JSON_DEPTH_MAX, &root, NULL) == TD_OK)
        read_words(root, &w);
    join_words(&w, said, sizeof said);
    if (status == 0 && w.number >= 400 && w.number < 600)
        status = (int)w.number;
    out->code = judge_own(w.code, status, judge(status, said));
    out->retry_after_ms = read_retry(retry_after, retry_after_ms, now_s, w.message);
    copy_text(out->provider_code, sizeof out->provider_code, w.code.n ? w.code : w.type);
    if (out->code == TD_ERR_UPSTREAM_AUTH || w.message.n == 0) // their words may show part of a key
        snprintf(out->message, sizeof out->message, status ? "%s (HTTP %d)" : "%s", td_err_text(out->code), status);
    else
        copy_text(out->message, sizeof out->message, w.message);
    td_arena_finish(&arena);
}
