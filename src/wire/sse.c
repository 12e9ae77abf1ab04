// SPDX-License-Identifier: Apache-2.0
// Views of the running event point into the piece being fed; what a piece leaves unfinished is copied into buffers at
// its end ("spilled"), so a view never outlives the call.
#include "wire/sse.h"

void td_sse_init(struct td_sse *s, size_t line_bytes_max, td_sse_fn on_event, void *user) {
    *s = (struct td_sse){.on_event = on_event, .user = user, .line_bytes_max = line_bytes_max};
    td_buf_init(&s->line, line_bytes_max);
    td_buf_init(&s->data, line_bytes_max);
    td_buf_init(&s->name, line_bytes_max);
    td_buf_init(&s->id, line_bytes_max);
}

void td_sse_finish(struct td_sse *s) {
    td_buf_finish(&s->line);
    td_buf_finish(&s->data);
    td_buf_finish(&s->name);
    td_buf_finish(&s->id);
}

#define LOOK_BYTES                                                                                                     \
    256u // ahead at once: an event in the usual case, and lines that end with CR do not cost their square

// First LF or CR, or n.
static size_t line_length(const char *p, size_t n) {
    for (size_t at = 0; at < n; at += LOOK_BYTES) {
        size_t look = n - at < LOOK_BYTES ? n - at : LOOK_BYTES;
        const char *lf = memchr(p + at, '\n', look);
        const char *cr = memchr(p + at, '\r', lf ? (size_t)(lf - p) - at : look);
        if (cr || lf)
            return (size_t)((cr ? cr : lf) - p);
    }
    return n;
}

static void forget_event(struct td_sse *s) {
    td_buf_clear(&s->data);
    td_buf_clear(&s->name);
    td_buf_clear(&s->id);
    s->data_view = s->name_view = s->id_view = TD_STR_NONE;
    s->has_data = false;
}

static struct td_str either(struct td_str view, const struct td_buf *b) {
    return view.p ? view : td_buf_str(b);
}

static void dispatch(struct td_sse *s) {
    if (s->has_data) {
        struct td_sse_event ev = {either(s->name_view, &s->name), either(s->data_view, &s->data),
                                  either(s->id_view, &s->id)};
        if (!s->on_event(s->user, &ev))
            s->stopped = true;
    }
    forget_event(s);
}

static enum td_err add_data(struct td_sse *s, struct td_str value) {
    enum td_err err = TD_OK;
    if (!s->has_data) {
        s->has_data = true;
        s->data_view = value;
        return TD_OK;
    }
    if (s->data_view.p) {
        err = td_buf_add_str(&s->data, s->data_view);
        s->data_view = TD_STR_NONE;
    }
    if (err == TD_OK)
        err = td_buf_addc(&s->data, '\n');
    return err == TD_OK ? td_buf_add_str(&s->data, value) : err;
}

static enum td_err take_line(struct td_sse *s, struct td_str line) {
    if (line.n == 0) {
        dispatch(s);
        return TD_OK;
    }
    const char *colon = memchr(line.p, ':', line.n);
    if (colon == line.p)
        return TD_OK; // a comment
    struct td_str field = {line.p, colon ? (size_t)(colon - line.p) : line.n};
    struct td_str value = colon ? td_str_n(colon + 1, line.n - field.n - 1) : td_str_n(line.p + line.n, 0);
    if (value.n && value.p[0] == ' ')
        value.p++, value.n--;
    if (td_str_is(field, "data"))
        return add_data(s, value);
    if (td_str_is(field, "event")) {
        td_buf_clear(&s->name);
        s->name_view = value;
    } else if (td_str_is(field, "id") && !(value.n && memchr(value.p, 0, value.n))) {
        td_buf_clear(&s->id);
        s->id_view = value;
    }
    return TD_OK;
}

static enum td_err spill(struct td_str *view, struct td_buf *b) {
    enum td_err err = TD_OK;
    if (view->p) {
        td_buf_clear(b);
        err = td_buf_add_str(b, *view);
        *view = TD_STR_NONE;
    }
    return err;
}

static enum td_err spill_event(struct td_sse *s) {
    enum td_err err = spill(&s->data_view, &s->data);
    if (err == TD_OK)
        err = spill(&s->name_view, &s->name);
    return err == TD_OK ? spill(&s->id_view, &s->id) : err;
}

// A line that an earlier piece began. Its views would point into s->line, which the next line overwrites: spilled.
static enum td_err take_joined(struct td_sse *s, struct td_str rest) {
    enum td_err err = td_buf_add_str(&s->line, rest);
    if (err == TD_OK)
        err = take_line(s, td_buf_str(&s->line));
    if (err == TD_OK)
        err = spill_event(s);
    td_buf_clear(&s->line);
    return err;
}

// Takes off a byte order mark at the very start; one that turns out not to be one belongs to the first line.
static enum td_err take_bom(struct td_sse *s, struct td_str *piece) {
    static const char bom[] = "\xef\xbb\xbf";
    while (s->bom < 3 && piece->n) {
        if (piece->p[0] != bom[s->bom]) {
            enum td_err err = td_buf_add(&s->line, bom, s->bom);
            s->bom = 3;
            return err;
        }
        s->bom++;
        piece->p++, piece->n--;
    }
    return TD_OK;
}

enum td_err td_sse_feed(struct td_sse *s, struct td_str piece) {
    enum td_err err = take_bom(s, &piece);
    while (err == TD_OK && piece.n && !s->stopped) {
        if (s->skip_lf) {
            s->skip_lf = false;
            if (piece.p[0] == '\n') {
                piece.p++, piece.n--;
                continue;
            }
        }
        size_t n = line_length(piece.p, piece.n);
        struct td_str line = {piece.p, n};
        if (n > s->line_bytes_max) {
            err = TD_ERR_LIMIT;
        } else if (n == piece.n) {
            err = td_buf_add_str(&s->line, line);
            piece.n = 0;
        } else {
            s->skip_lf = piece.p[n] == '\r';
            piece.p += n + 1, piece.n -= n + 1;
            err = s->line.n ? take_joined(s, line) : take_line(s, line);
        }
    }
    if (err == TD_OK && !s->stopped)
        err = spill_event(s);
    if (err != TD_OK)
        s->stopped = true;
    return err;
}

enum td_err td_sse_end(struct td_sse *s) {
    enum td_err err = TD_OK;
    if (s->stopped)
        return TD_OK;
    if (s->bom && s->bom < 3)
        err = td_buf_add(&s->line, "\xef\xbb\xbf", s->bom);
    s->bom = 3;
    if (err == TD_OK && s->line.n)
        err = take_joined(s, TD_STR_NONE);
    if (err == TD_OK && !s->stopped)
        dispatch(s);
    s->stopped = true;
    return err;
}
