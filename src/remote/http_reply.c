// SPDX-License-Identifier: Apache-2.0
// STATUS_LINE -> FIELDS -> BODY | UNTIL_CLOSE | SIZE_FIRST … -> TRAILER -> ENDED; an interim head leads back to
// STATUS_LINE. Heads and trailers are read line by line, chunk sizes byte by byte, bodies as they come.
#include "remote/http_reply.h"

#include "base/http_text.h"

enum {
    STATUS_LINE,
    FIELDS,
    BODY,
    UNTIL_CLOSE,
    SIZE_FIRST,
    SIZE_MORE,
    EXTENSION,
    SIZE_LF,
    CHUNK,
    CHUNK_CR,
    CHUNK_LF,
    TRAILER,
    ENDED,
    REFUSED
};

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool refuse(struct td_reply *r, const char *why) {
    r->state = REFUSED;
    r->why = why;
    return false;
}

void td_reply_init(struct td_reply *r) {
    *r = (struct td_reply){.state = STATUS_LINE};
}

// ---- lines

enum { LINE_BAD = -1, LINE_MORE, LINE_WHOLE };

// The next line without its end. The bytes of one that is not whole count against the cap too.
static int take_line(struct td_reply *r, const char *p, size_t n, size_t *used, struct td_str *line) {
    const char *nl = n > r->scanned ? memchr(p + r->scanned, '\n', n - r->scanned) : NULL;
    size_t length = nl ? (size_t)(nl - p) + 1 : n;
    if (length > TD_REPLY_HEADER_BYTES_MAX - r->line_bytes) {
        (void)refuse(r, "its header is too large");
        return LINE_BAD;
    }
    if (!nl) {
        r->scanned = (uint32_t)n;
        return LINE_MORE;
    }
    r->scanned = 0;
    r->line_bytes += (uint32_t)length;
    *used += length;
    *line = td_str_n(p, length - 1);
    if (line->n == 0 || line->p[line->n - 1] != '\r') {
        (void)refuse(r, "a line of its header does not end in CR LF");
        return LINE_BAD;
    }
    line->n--;
    return LINE_WHOLE;
}

// Not one byte of what is no HTTP waits for its line to end.
static bool begins_well(struct td_reply *r, const char *p, size_t n) {
    static const char start[] = "HTTP/1.";
    size_t shown = n < sizeof start - 1 ? n : sizeof start - 1;
    return memcmp(p, start, shown) == 0 || refuse(r, "its answer is not HTTP");
}

// HTTP-version SP status-code [ SP reason-phrase ] (RFC 9112 section 4; the second space is often left out).
static bool read_status_line(struct td_reply *r, struct td_str line) {
    const char *p = line.p;
    if (line.n < 12 || memcmp(p, "HTTP/1.", 7) != 0 || (p[7] != '0' && p[7] != '1') || p[8] != ' ' || !is_digit(p[9]) ||
        !is_digit(p[10]) || !is_digit(p[11]) || (line.n > 12 && p[12] != ' ') ||
        !td_http_all(p + 12, line.n - 12, TD_HTTP_VALUE))
        return refuse(r, "its answer is not HTTP");
    r->status = (uint16_t)((p[9] - '0') * 100 + (p[10] - '0') * 10 + (p[11] - '0'));
    r->http10 = p[7] == '0';
    if (r->status < 100 || r->status > 599)
        return refuse(r, "its status is not one of HTTP's");
    if (r->status == 101)
        return refuse(r, "it switched to another protocol");
    if (r->status < 200 && ++r->interim > TD_REPLY_INTERIM_MAX)
        return refuse(r, "it sent too many interim replies");
    return true;
}

static void read_keep_alive(struct td_reply *r, struct td_str value) {
    struct td_str one;
    uint64_t seconds;
    while (td_http_next_element(&value, &one))
        if (one.n > 8 && td_str_ieq(td_str_n(one.p, 8), TD_STR("timeout=")) &&
            td_str_to_u64(td_str_n(one.p + 8, one.n - 8), &seconds) && seconds > 0)
            r->keep_s = seconds < 86400 ? (uint32_t)seconds : 86400;
}

// True where the field is about framing, and then read (or refused).
static bool read_framing_field(struct td_reply *r, struct td_str name, struct td_str value) {
    struct td_str one;
    switch (name.n) {
    case 10:
        if (td_str_ieq(name, TD_STR("connection"))) {
            while (td_http_next_element(&value, &one))
                r->close = r->close || td_str_ieq(one, TD_STR("close"));
            return true;
        }
        if (td_str_ieq(name, TD_STR("keep-alive"))) {
            read_keep_alive(r, value);
            return true;
        }
        return false;
    case 14:
        if (!td_str_ieq(name, TD_STR("content-length")))
            return false;
        if (r->has_length)
            (void)refuse(r, "its answer has two lengths");
        else if (value.n == 0 || value.n > 18 || !td_str_to_u64(value, &r->left))
            (void)refuse(r, "its answer's length is malformed");
        r->has_length = true;
        return true;
    case 17:
        if (!td_str_ieq(name, TD_STR("transfer-encoding")))
            return false;
        if (r->chunked || !td_str_ieq(value, TD_STR("chunked")))
            (void)refuse(r, "its answer has a transfer coding other than chunked");
        r->chunked = true;
        return true;
    default:
        return false;
    }
}

static bool read_field(struct td_reply *r, struct td_str line, struct td_reply_piece *piece) {
    switch (td_http_field(line, &piece->name, &piece->value)) {
    case TD_HTTP_FIELD_FINE:
        return true;
    case TD_HTTP_FIELD_FOLDED:
        return refuse(r, "a line of its header is folded");
    case TD_HTTP_FIELD_NAME:
        return refuse(r, "a field name of its header is malformed");
    default:
        return refuse(r, "its header holds a control character");
    }
}

// How the body is framed (RFC 9112 section 6.3).
static bool finish_head(struct td_reply *r) {
    if (r->status < 200) { // what its fields said was about nothing
        uint8_t interim = r->interim;
        uint32_t bytes = r->line_bytes;
        td_reply_init(r);
        r->interim = interim;
        r->line_bytes = bytes;
        return true;
    }
    r->line_bytes = 0; // the trailer's from here on
    if (r->chunked && r->has_length)
        return refuse(r, "its answer has both a length and chunks");
    if (r->chunked && r->http10)
        return refuse(r, "its answer has chunks, which HTTP/1.0 does not know");
    if (r->status == 204 || r->status == 304) {
        r->state = ENDED;
        // Such an answer has no body; who announces one all the same may send it too.
        r->close = r->close || r->http10 || (r->status == 204 && (r->chunked || r->left > 0));
    } else if (r->chunked) {
        r->state = SIZE_FIRST;
    } else if (r->has_length) {
        r->state = r->left ? BODY : ENDED;
    } else {
        r->state = UNTIL_CLOSE;
        r->close = true;
    }
    r->close = r->close || r->http10;
    return true;
}

// One line of a head or trailer. MORE also where a line was taken that says nothing to the caller.
static enum td_reply_step read_line(struct td_reply *r, struct td_str line, struct td_reply_piece *piece) {
    if (r->state == STATUS_LINE) {
        if (!read_status_line(r, line))
            return TD_REPLY_BAD;
        r->state = FIELDS;
        return r->status < 200 ? TD_REPLY_MORE : TD_REPLY_STATUS;
    }
    if (line.n == 0) {
        if (r->state == TRAILER)
            r->state = ENDED;
        else if (!finish_head(r))
            return TD_REPLY_BAD;
        return TD_REPLY_MORE;
    }
    if (!read_field(r, line, piece))
        return TD_REPLY_BAD;
    if (r->state == TRAILER || r->status < 200)
        return TD_REPLY_MORE;
    if (read_framing_field(r, piece->name, piece->value))
        return r->state == REFUSED ? TD_REPLY_BAD : TD_REPLY_MORE;
    return TD_REPLY_FIELD;
}

static enum td_reply_step read_lines(struct td_reply *r, const char *p, size_t n, size_t *used,
                                     struct td_reply_piece *piece) {
    while (r->state == STATUS_LINE || r->state == FIELDS || r->state == TRAILER) {
        struct td_str line;
        if (r->state == STATUS_LINE && !begins_well(r, p + *used, n - *used))
            return TD_REPLY_BAD;
        int got = take_line(r, p + *used, n - *used, used, &line);
        if (got != LINE_WHOLE)
            return got == LINE_BAD ? TD_REPLY_BAD : TD_REPLY_MORE;
        enum td_reply_step step = read_line(r, line, piece);
        if (step != TD_REPLY_MORE)
            return step;
    }
    return TD_REPLY_MORE;
}

// ---- chunks

static int hex_of(char c) {
    return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// One byte between the data of chunks (RFC 9112 section 7.1); false where it is wrong there.
static bool read_chunk_byte(struct td_reply *r, char byte) {
    int hex = hex_of(byte);
    switch (r->state) {
    case SIZE_FIRST:
        r->left = (uint64_t)hex;
        r->digits = 1;
        r->extension = 0;
        r->state = SIZE_MORE;
        return hex >= 0;
    case SIZE_MORE:
        if (byte == '\r' || byte == ';') {
            r->state = byte == ';' ? EXTENSION : SIZE_LF;
            return true;
        }
        r->left = r->left << 4 | (uint64_t)hex;
        return hex >= 0 && ++r->digits <= 15; // no size that could overflow
    case EXTENSION:
        if (byte == '\r') {
            r->state = SIZE_LF;
            return true;
        }
        return (td_http_class_of[(uint8_t)byte] & TD_HTTP_VALUE) &&
               ++r->extension <= TD_REPLY_CHUNK_EXTENSION_BYTES_MAX;
    case SIZE_LF:
        r->state = r->left ? CHUNK : TRAILER;
        return byte == '\n';
    case CHUNK_CR:
        r->state = CHUNK_LF;
        return byte == '\r';
    default: // CHUNK_LF
        r->state = SIZE_FIRST;
        return byte == '\n';
    }
}

static enum td_reply_step read_chunk_frame(struct td_reply *r, const char *p, size_t n, size_t *used) {
    while (*used < n && r->state >= SIZE_FIRST && r->state < TRAILER && r->state != CHUNK)
        if (!read_chunk_byte(r, p[(*used)++])) {
            (void)refuse(r, "a chunk of its answer is malformed");
            return TD_REPLY_BAD;
        }
    return TD_REPLY_MORE;
}

// ---- all together

static enum td_reply_step take_data(struct td_reply *r, const char *p, size_t n, size_t *used,
                                    struct td_reply_piece *piece) {
    size_t take = n - *used;
    if (r->state != UNTIL_CLOSE) {
        take = take < r->left ? take : (size_t)r->left;
        r->left -= take;
        if (r->left == 0)
            r->state = r->state == BODY ? ENDED : CHUNK_CR;
    }
    piece->value = td_str_n(p + *used, take);
    *used += take;
    return TD_REPLY_DATA;
}

enum td_reply_step td_reply_read(struct td_reply *r, const char *p, size_t n, size_t *used,
                                 struct td_reply_piece *piece) {
    *used = 0;
    for (;;) {
        if (r->state == REFUSED)
            return TD_REPLY_BAD;
        if (r->state == ENDED)
            return TD_REPLY_END;
        if (*used == n)
            return TD_REPLY_MORE;
        if (r->state == BODY || r->state == UNTIL_CLOSE || r->state == CHUNK)
            return take_data(r, p, n, used, piece);
        bool lines = r->state <= FIELDS || r->state == TRAILER;
        size_t before = *used;
        enum td_reply_step step = lines ? read_lines(r, p, n, used, piece) : read_chunk_frame(r, p, n, used);
        if (step != TD_REPLY_MORE || *used == before)
            return step;
    }
}

bool td_reply_ends_here(const struct td_reply *r) {
    return r->state == UNTIL_CLOSE || r->state == ENDED;
}
