// SPDX-License-Identifier: Apache-2.0
#include "server/answer.h"

static struct td_str phrase_of(int status) {
    switch (status) {
#define PHRASE(number, text)                                                                                           \
    case number:                                                                                                       \
        return TD_STR("HTTP/1.1 " #number " " text "\r\n");
        PHRASE(200, "OK")
        PHRASE(201, "Created")
        PHRASE(202, "Accepted")
        PHRASE(204, "No Content")
        PHRASE(304, "Not Modified")
        PHRASE(400, "Bad Request")
        PHRASE(401, "Unauthorized")
        PHRASE(402, "Payment Required")
        PHRASE(403, "Forbidden")
        PHRASE(404, "Not Found")
        PHRASE(405, "Method Not Allowed")
        PHRASE(408, "Request Timeout")
        PHRASE(409, "Conflict")
        PHRASE(411, "Length Required")
        PHRASE(413, "Content Too Large")
        PHRASE(414, "URI Too Long")
        PHRASE(415, "Unsupported Media Type")
        PHRASE(417, "Expectation Failed")
        PHRASE(422, "Unprocessable Content")
        PHRASE(429, "Too Many Requests")
        PHRASE(431, "Request Header Fields Too Large")
        PHRASE(500, "Internal Server Error")
        PHRASE(501, "Not Implemented")
        PHRASE(502, "Bad Gateway")
        PHRASE(503, "Service Unavailable")
        PHRASE(504, "Gateway Timeout")
        PHRASE(505, "HTTP Version Not Supported")
#undef PHRASE
    default:
        return TD_STR_NONE;
    }
}

static enum td_err write_status(int status, struct td_buf *out) {
    struct td_str line = phrase_of(status);
    return line.n ? td_buf_add_str(out, line) : td_buf_printf(out, "HTTP/1.1 %03d Status\r\n", status);
}

static bool is_sound(const struct td_http_header *h) {
    if (h->name_length == 0)
        return false;
    for (size_t i = 0; i < h->name_length; i++)
        if ((uint8_t)h->name[i] <= ' ' || (uint8_t)h->name[i] >= 0x7f || h->name[i] == ':')
            return false;
    for (size_t i = 0; i < h->value_length; i++)
        if (((uint8_t)h->value[i] < ' ' && h->value[i] != '\t') || h->value[i] == 0x7f)
            return false;
    return true;
}

static bool is_ours(const struct td_http_header *h) {
    struct td_str name = {h->name, h->name_length};
    return td_str_ieq(name, TD_STR("content-length")) || td_str_ieq(name, TD_STR("transfer-encoding")) ||
           td_str_ieq(name, TD_STR("connection")) || td_str_ieq(name, TD_STR("date"));
}

static enum td_err write_framing(const struct td_answer_head *head, struct td_buf *out) {
    if (head->framing == TD_FRAMING_CHUNKED)
        return td_buf_add_str(out, TD_STR("transfer-encoding: chunked\r\n"));
    if (head->framing != TD_FRAMING_LENGTH)
        return TD_OK;
    char digits[20];
    size_t at = sizeof digits, n = head->content_length;
    do
        digits[--at] = (char)('0' + n % 10);
    while (n /= 10);
    enum td_err err = td_buf_add_str(out, TD_STR("content-length: "));
    if (err == TD_OK)
        err = td_buf_add(out, digits + at, sizeof digits - at);
    return err != TD_OK ? err : td_buf_add_str(out, TD_STR("\r\n"));
}

enum td_err td_answer_head_write(const struct td_answer_head *head, struct td_buf *out) {
    size_t before = out->n;
    enum td_err err = write_status(head->status, out);
    for (size_t i = 0; i < head->header_count && err == TD_OK; i++) {
        const struct td_http_header *h = &head->headers[i];
        if (!is_sound(h) || is_ours(h))
            continue;
        char *p = td_buf_reserve(out, h->name_length + h->value_length + 4);
        if (!p) {
            err = TD_ERR_NOMEM;
            break;
        }
        memcpy(p, h->name, h->name_length);
        memcpy(p + h->name_length, ": ", 2);
        memcpy(p + h->name_length + 2, h->value, h->value_length);
        memcpy(p + h->name_length + 2 + h->value_length, "\r\n", 2);
        td_buf_grew(out, h->name_length + h->value_length + 4);
    }
    if (err == TD_OK)
        err = write_framing(head, out);
    if (err == TD_OK && head->close)
        err = td_buf_add_str(out, TD_STR("connection: close\r\n"));
    if (err == TD_OK)
        err = td_buf_add_str(out, TD_STR("x-content-type-options: nosniff\r\ndate: "));
    if (err == TD_OK)
        err = td_buf_addz(out, head->date);
    if (err == TD_OK)
        err = td_buf_add_str(out, TD_STR("\r\n\r\n"));
    if (err != TD_OK)
        out->n = before;
    return err;
}

const char *td_answer_code(int status) {
    switch (status) {
    case 403:
        return "tandem.auth.forbidden";
    case 404:
        return "tandem.not_found";
    case 405:
    case 501:
        return "tandem.request.method";
    case 408:
        return "tandem.request.timeout";
    case 413:
    case 414:
    case 431:
        return "tandem.request.too_large";
    case 415:
        return "tandem.request.media_type";
    case 503:
        return "tandem.overload";
    case 500:
    case 502:
        return "tandem.internal.error";
    default:
        return "tandem.request.invalid";
    }
}

enum td_err td_answer_error_write(int status, const char *code, const char *message, struct td_buf *out) {
    const char *type = status == 403                                     ? "permission_error"
                       : status == 404                                   ? "not_found_error"
                       : status >= 500 && status != 501 && status != 505 ? "server_error"
                                                                         : "invalid_request_error";
    enum td_err err = td_buf_add_str(out, TD_STR("{\"error\":{\"message\":"));
    if (err == TD_OK)
        err = td_buf_add_json(out, td_str_of(message));
    if (err == TD_OK)
        err = td_buf_printf(out, ",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}\n", type, code);
    return err;
}
