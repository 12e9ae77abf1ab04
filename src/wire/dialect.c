// SPDX-License-Identifier: Apache-2.0
#include "wire/dialect.h"

#include "wire/openai_answer.h"
#include "wire/openai_provider.h"
#include "wire/openai_request.h"

static const struct td_dialect_ops dialects[] = {
    [TD_DIALECT_OPENAI] =
        {
            .name = "openai",
            .read_request = td_openai_read_request,
            .answer_create = td_openai_answer_create,
            .answer_destroy = td_openai_answer_destroy,
            .answer_event = td_openai_answer_event,
            .answer_revision = td_openai_answer_revision,
            .answer_end = td_openai_answer_end,
            .answer_fail = td_openai_answer_fail,
            .answer_reset = td_openai_answer_reset,
            .answer_part = td_openai_answer_part,
            .answer_keepalive = td_openai_answer_keepalive,
            .answer_near = td_openai_answer_near,
            .status = td_openai_status,
            .write_error = td_openai_write_error,
            .write_models = td_openai_write_models,
            .write_request = td_openai_write_request,
            .write_url = td_openai_write_url,
            .reader_create = td_openai_reader_create,
            .reader_feed = td_openai_reader_feed,
            .reader_finish = td_openai_reader_finish,
            .reader_is_complete = td_openai_reader_is_complete,
            .reader_stop = td_openai_reader_stop,
            .reader_destroy = td_openai_reader_destroy,
            .read_error = td_openai_read_error,
        },
};

const struct td_dialect_ops *td_dialect_ops(enum td_dialect dialect) {
    return &dialects[(unsigned)dialect < sizeof dialects / sizeof *dialects ? dialect : TD_DIALECT_OPENAI];
}
