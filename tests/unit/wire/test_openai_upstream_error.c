// SPDX-License-Identifier: Apache-2.0
// What providers' errors mean, in the wordings of many.
#include "unit.h"

#include "wire/openai_provider.h"

struct said {
    int status;
    const char *body;
    enum td_err code;
};

static void errors_are_understood_in_many_wordings(void **state) {
    (void)state;
    static const struct said list[] = {
        {400,
         "{\"error\":{\"message\":\"This model's maximum context length is 8192 tokens.\",\"type\":"
         "\"invalid_request_error\",\"param\":\"messages\",\"code\":\"context_length_exceeded\"}}",
         TD_ERR_CONTEXT_LENGTH},
        {400,
         "{\"object\":\"error\",\"message\":\"The prompt is longer than the maximum model length of 4096\",\"type\":"
         "\"BadRequestError\",\"code\":400}",
         TD_ERR_CONTEXT_LENGTH},
        {400,
         "{\"error\":{\"code\":400,\"message\":\"the request exceeds the available context size\",\"type\":"
         "\"exceed_context_size_error\",\"n_ctx\":512}}",
         TD_ERR_CONTEXT_LENGTH},
        {500, "{\"error\":{\"code\":500,\"message\":\"input exceeds the available context size\"}}",
         TD_ERR_CONTEXT_LENGTH},
        {400, "{\"error\":\"prompt exceeds the context length\"}", TD_ERR_CONTEXT_LENGTH},
        {400,
         "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"prompt is too long: 300 "
         "tokens > 200 maximum\"}}",
         TD_ERR_CONTEXT_LENGTH},
        {400,
         "{\"object\":\"error\",\"message\":\"Prompt contains 40000 tokens, too large for model with 32768 maximum\"}",
         TD_ERR_CONTEXT_LENGTH},
        {400,
         "{\"error\":{\"message\":\"filtered\",\"code\":\"content_filter\",\"innererror\":{\"code\":"
         "\"ResponsibleAIPolicyViolation\"}}}",
         TD_ERR_CONTENT_POLICY},
        {400, "{\"error\":{\"message\":\"Content Exists Risk\"}}", TD_ERR_CONTENT_POLICY},
        {403, "{\"error\":{\"message\":\"openai requires moderation. Your input was flagged\",\"code\":403}}",
         TD_ERR_CONTENT_POLICY},
        {400, "{\"error\":{\"message\":\"max_tokens is too large\",\"param\":\"max_tokens\"}}",
         TD_ERR_UPSTREAM_REQUEST},
        {422, "{\"detail\":[{\"loc\":[\"body\"],\"msg\":\"field required\"}]}", TD_ERR_UPSTREAM_REQUEST},
        {401, "{\"error\":{\"message\":\"Incorrect API key provided: sk-ab*cd\",\"code\":\"invalid_api_key\"}}",
         TD_ERR_UPSTREAM_AUTH},
        {403, "{}", TD_ERR_UPSTREAM_AUTH},
        {402, "{\"error\":{\"message\":\"Insufficient Balance\"}}", TD_ERR_UPSTREAM_QUOTA},
        {429, "{\"error\":{\"message\":\"You exceeded your current quota\",\"code\":\"insufficient_quota\"}}",
         TD_ERR_UPSTREAM_QUOTA},
        {400, "{\"type\":\"error\",\"error\":{\"message\":\"Your credit balance is too low\"}}", TD_ERR_UPSTREAM_QUOTA},
        {429, "{\"error\":{\"message\":\"Rate limit reached\",\"code\":\"rate_limit_exceeded\"}}",
         TD_ERR_UPSTREAM_RATE},
        {429, "[{\"error\":{\"code\":429,\"status\":\"RESOURCE_EXHAUSTED\",\"message\":\"slow\"}}]",
         TD_ERR_UPSTREAM_RATE},
        {404, "{\"error\":{\"code\":\"DeploymentNotFound\"}}", TD_ERR_UPSTREAM_NOT_FOUND},
        {400, "{\"error\":{\"code\":\"model_not_found\"}}", TD_ERR_UPSTREAM_NOT_FOUND},
        {408, "", TD_ERR_UPSTREAM_SERVER},
        {413, "", TD_ERR_UPSTREAM_REQUEST},
        {500, "{}", TD_ERR_UPSTREAM_SERVER},
        {502, "<html>Bad Gateway</html>", TD_ERR_UPSTREAM_SERVER},
        {529, "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}", TD_ERR_UPSTREAM_SERVER},
        {302, "", TD_ERR_UPSTREAM_GARBAGE},
        // another Tandem
        {403, "{\"error\":{\"code\":\"tandem.policy.no_target\",\"message\":\"m\"}}", TD_ERR_UPSTREAM_REQUEST},
        {503, "{\"error\":{\"code\":\"tandem.policy.no_target\",\"message\":\"m\"}}", TD_ERR_UPSTREAM_SERVER},
        {400, "{\"error\":{\"code\":\"tandem.context_length\",\"message\":\"m\"}}", TD_ERR_CONTEXT_LENGTH},
        {422, "{\"error\":{\"code\":\"tandem.model.declined\",\"message\":\"m\"}}", TD_ERR_NOT_FOR_ME},
        {429, "{\"error\":{\"code\":\"tandem.budget.exhausted\",\"message\":\"m\"}}", TD_ERR_UPSTREAM_QUOTA},
        {401, "{\"error\":{\"code\":\"tandem.auth.key\",\"message\":\"m\"}}", TD_ERR_UPSTREAM_AUTH},
        {508, "{\"error\":{\"code\":\"tandem.chain.too_long\",\"message\":\"m\"}}", TD_ERR_CHAIN},
        {500, "{\"error\":{\"code\":\"tandem.no_such_code\",\"message\":\"m\"}}", TD_ERR_UPSTREAM_SERVER},
        {0, "{\"error\":{\"code\":503,\"message\":\"x\"}}", TD_ERR_UPSTREAM_SERVER},
        {0, "{\"error\":{\"message\":\"bad\",\"type\":\"invalid_request_error\"}}", TD_ERR_UPSTREAM_REQUEST},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct td_upstream_error e;
        td_openai_read_error(list[i].status, TD_STR_NONE, TD_STR_NONE, 0, td_str_of(list[i].body), &e);
        if (e.code != list[i].code)
            fail_msg("%d %s: %s", list[i].status, list[i].body, td_err_code(e.code));
        assert_true(e.message[0] != 0);
    }
    struct td_upstream_error e;
    td_openai_read_error(401, TD_STR_NONE, TD_STR_NONE, 0, td_str_of(list[12].body), &e);
    assert_null(strstr(e.message, "sk-")); // no part of a key reaches the client
    td_openai_read_error(400, TD_STR_NONE, TD_STR_NONE, 0, TD_STR("{\"error\":{\"message\":\"a\\nb\\u0000c\"}}"), &e);
    assert_string_equal(e.message, "a b c");
}

static void retry_after_is_read_in_all_its_forms(void **state) {
    (void)state;
    static const struct {
        const char *seconds, *ms, *body;
        uint32_t expected;
    } list[] = {
        {"7", "", "", 7000},
        {" 0.5 ", "", "", 500},
        {"7", "1250", "", 1250},
        {"Sun, 06 Nov 1994 08:49:47 GMT", "", "", 10000},
        {"Sun, 06 Nov 1994 08:49:30 GMT", "", "", 0}, // past
        {"Sun, 06 Foo 1994 08:49:47 GMT", "", "", 0},
        {"-5", "", "", 0},
        {"soon", "", "", 0},
        {"99999999999", "", "", TD_DEADLINE_MS_MAX},
        {"9999999999999999999999", "", "", TD_DEADLINE_MS_MAX},
        {"", "", "{\"error\":{\"message\":\"Please try again in 1.242s. Visit\"}}", 1242},
        {"", "", "{\"error\":{\"message\":\"try again in 20ms.\"}}", 20},
        {"", "", "{\"error\":{\"message\":\"try again in 6m30s\"}}", 390000},
        {"", "", "{\"error\":{\"message\":\"try again in a while\"}}", 0},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct td_upstream_error e;
        td_openai_read_error(429, td_str_of(list[i].seconds), td_str_of(list[i].ms), 784111777, td_str_of(list[i].body),
                             &e);
        if (e.retry_after_ms != list[i].expected)
            fail_msg("'%s' '%s' %s: %u", list[i].seconds, list[i].ms, list[i].body, e.retry_after_ms);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_understood_in_many_wordings),
        cmocka_unit_test(retry_after_is_read_in_all_its_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
