// SPDX-License-Identifier: Apache-2.0
// Answers that come over time, with the faults that a behaviour asks for; and bodies that are wrong on purpose.
#include "upstream_conn.h"

#include "base/time.h"

static bool event_put(struct conn *c, struct td_str json) {
    char small[8192];
    const char *open = c->b.crlf ? "data:" : "data: ", *close = c->b.crlf ? "\r\n\r\n" : "\n\n";
    size_t no = strlen(open), nc = strlen(close);
    if (json.n + no + nc <= sizeof small) {
        memcpy(small, open, no);
        memcpy(small + no, json.p, json.n);
        memcpy(small + no + json.n, close, nc);
        return body_add(c, small, no + json.n + nc, false);
    }
    return body_add(c, open, no, false) && body_add(c, json.p, json.n, false) && body_add(c, close, nc, false);
}

static uint32_t steps_of(const struct answer *a) {
    return a->call_count ? a->call_count * CALL_PIECES : a->token_count;
}

static void stream_comment(struct conn *c) {
    if (c->b.comment_ms > 0 && body_add(c, ": still here\n\n", 14, false))
        after(c, c->b.comment_ms);
}

// False: the connection is gone.
static bool stream_finish(struct conn *c) {
    struct td_buf out;
    bool alive = true;
    td_buf_init(&out, 1 << 20);
    for (uint32_t i = 0; i < c->job.n; i++) {
        for (int twice = 0; alive && !c->b.no_finish && twice < 1 + c->b.duplicate_finish; twice++) {
            td_buf_clear(&out);
            if (job_chunk_finish(&c->job, c->id, i, c->b.filter ? "content_filter" : NULL, &out) == TD_OK)
                alive = event_put(c, td_buf_str(&out));
        }
    }
    td_buf_finish(&out);
    c->finished = true;
    return alive;
}

static void stream_end(struct conn *c) {
    struct td_buf out;
    uint32_t tokens = 0;
    bool alive = true;
    td_buf_init(&out, 1 << 20);
    for (uint32_t i = 0; i < c->job.n; i++)
        tokens += c->job.answers[i].call_count ? c->job.answers[i].call_count * 8 : c->job.answers[i].token_count;
    if (c->job.include_usage && !c->b.no_usage && job_chunk_usage(&c->job, c->id, tokens, &out) == TD_OK)
        alive = event_put(c, td_buf_str(&out));
    if (alive && !c->b.no_done && !c->b.open_end)
        alive = event_put(c, TD_STR("[DONE]"));
    td_buf_finish(&out);
    c->ended = c->b.open_end;
    if (alive && !c->b.open_end)
        body_end(c);
    else if (alive)
        stream_comment(c);
}

static void stream_error(struct conn *c) {
    static const char text[] =
        "{\"error\":{\"message\":\"the engine died\",\"type\":\"server_error\",\"param\":null,\"code\":null}}";
    if (event_put(c, td_str_of(text)))
        body_end(c);
}

// One step of every choice. False: the connection is gone or the stream must stop here.
static bool stream_step(struct conn *c) {
    struct td_buf out;
    bool alive = true;
    uint32_t i = c->next_token++;
    td_buf_init(&out, 1 << 20);
    for (uint32_t choice = 0; alive && choice < c->job.n; choice++) {
        const struct answer *a = &c->job.answers[choice];
        enum td_err err = TD_OK;
        if (i >= steps_of(a))
            continue;
        td_buf_clear(&out);
        if (c->b.malformed_at > 0 && i + 1 == (uint64_t)c->b.malformed_at)
            err = td_buf_addz(&out, "{\"choices\": [{\"delta\": {\"content\": \"bro");
        else if (a->call_count)
            err = job_chunk_call(&c->job, c->id, choice, i / CALL_PIECES, i % CALL_PIECES, &out);
        else
            err = job_chunk(&c->job, c->id, choice, i, &out);
        if (!err)
            alive = event_put(c, td_buf_str(&out));
    }
    td_buf_finish(&out);
    if (!alive)
        return false;
    if (c->rec) {
        if (i == 0)
            c->rec->first_ms = now_ms(c->s);
        c->rec->tokens = i + 1;
    }
    return true;
}

static bool stream_fault(struct conn *c) {
    const struct behaviour *b = &c->b;
    uint32_t i = c->next_token;
    if (i == 0 && b->comment_ms > 0 && td_now_ns() + TD_MS_NS / 2 < c->first_at_ns) {
        if (body_add(c, ": still here\n\n", 14, false))
            after(c, b->comment_ms);
        return true;
    }
    if (b->error_after_tokens && (int64_t)i >= (b->error_after_tokens < 0 ? 0 : b->error_after_tokens)) {
        stream_error(c);
        return true;
    }
    if (b->cut_after_tokens > 0 && i >= b->cut_after_tokens) {
        if (strcmp(b->cut, "rst") == 0)
            reset(c);
        else
            close_soon(c);
        return true;
    }
    if (b->silence_after_tokens > 0 && i >= b->silence_after_tokens) {
        stream_comment(c);
        return true;
    }
    return false;
}

void stream_next(struct conn *c) {
    uint32_t most = 0;
    int64_t pace = c->b.token_ms ? c->b.token_ms : c->s->token_ms;
    for (uint32_t i = 0; i < c->job.n; i++)
        most = steps_of(&c->job.answers[i]) > most ? steps_of(&c->job.answers[i]) : most;
    do {
        if (stream_fault(c))
            return;
        if (c->next_token >= most) {
            bool first = !c->finished;
            if (c->ended)
                stream_comment(c);
            else if (first && !stream_finish(c))
                return;
            else if (first && c->b.end_ms > 0)
                after(c, c->b.end_ms);
            else
                stream_end(c);
            return;
        }
        if (!stream_step(c))
            return;
    } while (pace <= 0);
    after(c, pace);
}

void stream_begin(struct conn *c) {
    struct td_buf out;
    int64_t first = c->b.first_token_ms ? c->b.first_token_ms : c->s->first_token_ms;
    td_buf_init(&out, 1 << 20);
    bool alive = true;
    for (uint32_t i = 0; alive && c->job.kind == JOB_CHAT && i < c->job.n; i++) {
        td_buf_clear(&out);
        if (job_chunk_role(&c->job, c->id, i, &out) == TD_OK)
            alive = event_put(c, td_buf_str(&out));
    }
    td_buf_finish(&out);
    if (!alive)
        return;
    c->first_at_ns = td_now_ns() + (uint64_t)first * TD_MS_NS;
    if (first > 0)
        after(c, c->b.comment_ms > 0 && c->b.comment_ms < first ? c->b.comment_ms : first);
    else
        stream_next(c);
}

// ---- bodies that are wrong on purpose

void send_bomb(struct conn *c) {
    char *zeros = td_calloc(1, 1 << 20);
    make_head(c, 200, c->job.stream ? "text/event-stream" : "application/json", -1, NULL);
    send_head(c);
    for (int64_t i = 0; zeros && i < c->b.gzip_bomb_mb; i++) {
        memset(zeros, ' ', 1 << 20);
        if (!body_add(c, zeros, 1 << 20, false)) {
            td_free(zeros);
            return;
        }
    }
    td_free(zeros);
    body_end(c);
}

void send_giant(struct conn *c, int64_t n, bool line) {
    static char filler[65536];
    memset(filler, 'x', sizeof filler);
    make_head(c, 200, c->job.stream ? "text/event-stream" : "application/json", -1, NULL);
    send_head(c);
    if (!body_add(c, line ? "data: \"" : "{\"x\":\"", line ? 7 : 6, false))
        return;
    for (; n > 0; n -= (int64_t)sizeof filler)
        if (!body_add(c, filler, n < (int64_t)sizeof filler ? (size_t)n : sizeof filler, false))
            return;
    if (body_add(c, "\"\n\n", 3, false))
        body_end(c);
}

void send_noise(struct conn *c) {
    unsigned char noise[2000];
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (unsigned char)(i * 2654435761u >> 13);
    make_head(c, 200, c->job.stream ? "text/event-stream" : "application/json", (int64_t)sizeof noise, NULL);
    send_head(c);
    if (body_add(c, noise, sizeof noise, true))
        body_end(c);
}
