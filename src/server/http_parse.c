// SPDX-License-Identifier: Apache-2.0
#include "server/http_parse.h"

#include "base/http_text.h"

static const char *const method_names[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};

const char *td_http_method_name(enum td_http_method method) {
    return method_names[method];
}

void td_http_head_init(struct td_http_head *head) {
    head->at = head->scanned = head->fields_at = head->blank_skip = 0;
    head->line_done = head->http10 = false;
    head->field_count = 0;
    head->seen = 0;
    head->host = head->origin = head->fetch_site = head->content_type = -1;
    head->content_length = 0;
    head->has_length = head->chunked = head->close = head->expect_continue = false;
}

#define REFUSE(status, text) return *why = (text), (status)

static int read_target(struct td_http_head *head, struct td_str target, const char **why) {
    if (target.n == 1 && target.p[0] == '*') {
        if (head->method != TD_HTTP_OPTIONS)
            REFUSE(400, "the request target * belongs to OPTIONS");
        return 0;
    }
    if (target.n == 0 || target.p[0] != '/')
        REFUSE(400, "the request target must be a path");
    if (!td_http_all(target.p, target.n, TD_HTTP_TARGET))
        REFUSE(400, "the request target holds a character that URLs do not allow");
    const char *end = target.p + target.n;
    for (const char *p = target.p; (p = memchr(p, '%', (size_t)(end - p))); p += 3)
        if (end - p < 3 || !td_http_all(p + 1, 2, TD_HTTP_HEX))
            REFUSE(400, "the request target holds a broken percent escape");
    return 0;
}

// method SP request-target SP HTTP-version, single spaces (RFC 9112 section 3).
static int read_request_line(struct td_http_head *head, const char *base, struct td_str line, const char **why) {
    const char *end = line.p + line.n;
    const char *sp = memchr(line.p, ' ', line.n);
    if (!sp || sp == line.p || !td_http_all(line.p, (size_t)(sp - line.p), TD_HTTP_TOKEN))
        REFUSE(400, "malformed request line");
    struct td_str method = {line.p, (size_t)(sp - line.p)};
    const char *target = sp + 1;
    const char *sp2 = memchr(target, ' ', (size_t)(end - target));
    if (!sp2 || end - sp2 != 9 || memcmp(sp2, " HTTP/", 6) != 0 || sp2[7] != '.' || sp2[6] < '0' || sp2[6] > '9' ||
        sp2[8] < '0' || sp2[8] > '9')
        REFUSE(400, "malformed request line");
    if (sp2[6] != '1' || sp2[8] > '1')
        REFUSE(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    head->http10 = sp2[8] == '0';
    size_t m = 0;
    while (m < sizeof method_names / sizeof *method_names && !td_str_is(method, method_names[m]))
        m++;
    if (m == sizeof method_names / sizeof *method_names)
        REFUSE(501, "unknown method");
    head->method = (enum td_http_method)m;
    head->target = (struct td_http_span){(uint16_t)(target - base), (uint16_t)(sp2 - target)};
    return read_target(head, (struct td_str){target, (size_t)(sp2 - target)}, why);
}

static int read_length(struct td_http_head *head, struct td_str value, const char **why) {
    uint64_t length;
    if (value.n == 0 || value.n > 19 || !td_str_to_u64(value, &length))
        REFUSE(400, "malformed Content-Length");
    head->has_length = true;
    head->content_length = length;
    return 0;
}

static int read_coding(struct td_http_head *head, struct td_str value, const char **why) {
    if (td_str_ieq(value, TD_STR("chunked"))) {
        head->chunked = true;
        return 0;
    }
    struct td_str list = value, coding;
    while (td_http_next_element(&list, &coding))
        if (coding.n == 0 || (list.p && td_str_ieq(coding, TD_STR("chunked"))))
            REFUSE(400, "malformed Transfer-Encoding");
    REFUSE(501, "only the transfer coding chunked is understood");
}

static void read_connection(struct td_http_head *head, struct td_str value) {
    struct td_str list = value, option;
    while (td_http_next_element(&list, &option))
        if (td_str_ieq(option, TD_STR("close")))
            head->close = true;
}

// Fields that frame or guard the request: two of a kind would let two readers see two requests.
enum special {
    OTHER,
    HOST,
    ORIGIN,
    EXPECT,
    CONNECTION,
    CONTENT_TYPE,
    AUTHORIZATION,
    CONTENT_LENGTH,
    SEC_FETCH_SITE,
    CONTENT_ENCODING,
    TRANSFER_ENCODING
};

static enum special special_of(struct td_str name) {
    static const struct {
        const char *name;
        enum special special;
    } by_length[][3] = {[4] = {{"host", HOST}},
                        [6] = {{"origin", ORIGIN}, {"expect", EXPECT}},
                        [10] = {{"connection", CONNECTION}},
                        [12] = {{"content-type", CONTENT_TYPE}},
                        [13] = {{"authorization", AUTHORIZATION}},
                        [14] = {{"content-length", CONTENT_LENGTH}, {"sec-fetch-site", SEC_FETCH_SITE}},
                        [16] = {{"content-encoding", CONTENT_ENCODING}},
                        [17] = {{"transfer-encoding", TRANSFER_ENCODING}}};
    if (name.n >= sizeof by_length / sizeof *by_length)
        return OTHER;
    for (unsigned i = 0; i < 3 && by_length[name.n][i].name; i++)
        if (td_str_ieq(name, (struct td_str){by_length[name.n][i].name, name.n}))
            return by_length[name.n][i].special;
    return OTHER;
}

static int read_special(struct td_http_head *head, enum special special, struct td_str value, int index,
                        const char **why) {
    bool again = (head->seen & (1u << special)) != 0;
    head->seen |= (uint16_t)(1u << special);
    if (again && special != CONNECTION)
        REFUSE(400, "a header field that may appear once appears twice");
    switch (special) {
    case HOST:
        head->host = index;
        return 0;
    case ORIGIN:
        head->origin = index;
        return 0;
    case SEC_FETCH_SITE:
        head->fetch_site = index;
        return 0;
    case CONTENT_TYPE:
        head->content_type = index;
        return 0;
    case CONTENT_LENGTH:
        return read_length(head, value, why);
    case TRANSFER_ENCODING:
        return read_coding(head, value, why);
    case CONNECTION:
        read_connection(head, value);
        return 0;
    case EXPECT:
        if (!td_str_ieq(value, TD_STR("100-continue")))
            REFUSE(417, "only the expectation 100-continue is understood");
        head->expect_continue = true;
        return 0;
    case CONTENT_ENCODING:
        if (!td_str_ieq(value, TD_STR("identity")))
            REFUSE(415, "a request's body must not be compressed");
        return 0;
    default:
        return 0;
    }
}

static int read_field(struct td_http_head *head, const char *base, struct td_str line, const char **why) {
    struct td_str name, value;
    switch (td_http_field(line, &name, &value)) {
    case TD_HTTP_FIELD_FINE:
        break;
    case TD_HTTP_FIELD_FOLDED:
        REFUSE(400, "folded header fields are obsolete");
    case TD_HTTP_FIELD_NAME:
        REFUSE(400, "malformed header field name");
    default:
        REFUSE(400, "a header field's value holds a control character");
    }
    if (head->field_count == TD_HEADER_FIELDS_MAX)
        REFUSE(431, "too many header fields");
    int index = (int)head->field_count++;
    head->fields[index] = (struct td_http_field){{(uint16_t)(name.p - base), (uint16_t)name.n},
                                                 {(uint16_t)(value.p - base), (uint16_t)value.n}};
    enum special special = special_of(name);
    return special == OTHER ? 0 : read_special(head, special, value, index, why);
}

// What only the whole head can tell (RFC 9112 sections 3.2 and 6.3).
static int finish(struct td_http_head *head, const char **why) {
    bool takes_body = head->method == TD_HTTP_POST || head->method == TD_HTTP_PUT || head->method == TD_HTTP_PATCH;
    if (head->host < 0)
        REFUSE(400, "the Host header field is missing");
    if (head->chunked && head->has_length)
        REFUSE(400, "both Content-Length and Transfer-Encoding");
    if (head->chunked && head->http10)
        REFUSE(400, "HTTP/1.0 has no transfer codings");
    if (takes_body && !head->chunked && !head->has_length)
        REFUSE(411, "Content-Length is missing");
    if (!takes_body && (head->chunked || head->content_length > 0))
        REFUSE(400, "this method takes no body");
    if (head->http10)
        head->close = true;
    return 1;
}

// No line end yet: is what came so far still the beginning of something?
static int read_partial(struct td_http_head *head, const char *p, size_t n, size_t window, const char **why) {
    if (n >= window)
        REFUSE(head->line_done ? 431 : 414,
               head->line_done ? "the header is too large" : "the request line is too long");
    for (size_t i = head->scanned; !head->line_done && i < n; i++)
        if ((uint8_t)p[i] < 0x20 ? !(p[i] == '\r' && i + 1 == n) : (uint8_t)p[i] >= 0x7f)
            REFUSE(400, "malformed request line");
    // A final CR is looked at again with what follows it.
    head->scanned = (uint16_t)(n > head->scanned && p[n - 1] == '\r' ? n - 1 : n);
    return 0;
}

int td_http_head_read(struct td_http_head *head, const char *p, size_t n, const char **why) {
    for (;;) {
        size_t window = head->line_done ? (size_t)head->fields_at + TD_HEADER_BYTES_MAX + 2
                                        : (size_t)head->blank_skip + TD_REQUEST_LINE_BYTES_MAX + 2;
        size_t have = n < window ? n : window;
        const char *nl = memchr(p + head->scanned, '\n', have - head->scanned);
        if (!nl)
            return read_partial(head, p, have, window, why);
        struct td_str line = {p + head->at, (size_t)(nl - p) - head->at};
        if (line.n == 0 || line.p[line.n - 1] != '\r')
            REFUSE(400, "a line must end in CR LF");
        line.n--;
        size_t next = (size_t)(nl - p) + 1;
        bool empty = line.n == 0;
        int status = 0;
        if (empty && !head->line_done && head->at > 0)
            REFUSE(400, "malformed request line");
        head->at = head->scanned = (uint16_t)next;
        if (empty && head->line_done)
            return finish(head, why);
        if (empty) {
            head->blank_skip = 2;
            continue;
        }
        if (!head->line_done) {
            status = read_request_line(head, p, line, why);
            head->line_done = true;
            head->fields_at = (uint16_t)next;
        } else if (next > (size_t)head->fields_at + TD_HEADER_BYTES_MAX) {
            REFUSE(431, "the header is too large");
        } else {
            status = read_field(head, p, line, why);
        }
        if (status)
            return status;
    }
}

// chunk-size CRLF data CRLF … "0" CRLF CRLF
enum { SIZE_FIRST, SIZE_MORE, SIZE_LF, DATA, DATA_CR, DATA_LF, END_CR, END_LF };

void td_http_chunks_init(struct td_http_chunks *c) {
    *c = (struct td_http_chunks){.state = SIZE_FIRST};
}

static int hex_of(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

// One byte of framing; true when it is right where it stands.
static bool read_framing(struct td_http_chunks *c, char byte) {
    int hex = hex_of(byte);
    switch (c->state) {
    case SIZE_FIRST:
        c->left = (uint64_t)hex;
        c->digits = 1;
        c->state = SIZE_MORE;
        return hex >= 0;
    case SIZE_MORE:
        if (byte == '\r') {
            c->state = SIZE_LF;
            return true;
        }
        c->left = c->left << 4 | (uint64_t)hex;
        return hex >= 0 && ++c->digits <= 15;
    case SIZE_LF:
        c->state = c->left ? DATA : END_CR;
        return byte == '\n';
    case DATA_CR:
    case END_CR:
        c->state++;
        return byte == '\r';
    case DATA_LF:
        c->state = SIZE_FIRST;
        return byte == '\n';
    default:
        return byte == '\n';
    }
}

enum td_http_chunks_result td_http_chunks_read(struct td_http_chunks *c, const char *in, size_t n, char *out,
                                               size_t before, size_t max, size_t *used, size_t *made) {
    enum td_http_chunks_result result = TD_HTTP_CHUNKS_MORE;
    size_t i = 0, o = 0;
    while (i < n && result == TD_HTTP_CHUNKS_MORE) {
        if (c->state == DATA) {
            size_t take = n - i < c->left ? n - i : (size_t)c->left;
            memmove(out + o, in + i, take);
            i += take;
            o += take;
            c->left -= take;
            if (c->left == 0)
                c->state = DATA_CR;
            continue;
        }
        bool last = c->state == END_LF;
        if (!read_framing(c, in[i++]))
            result = TD_HTTP_CHUNKS_BAD;
        else if (last)
            result = TD_HTTP_CHUNKS_DONE;
        else if (c->state == DATA && (before + o > max || c->left > max - before - o))
            result = TD_HTTP_CHUNKS_TOO_LARGE;
    }
    *used = i;
    *made = o;
    return result;
}
