// SPDX-License-Identifier: Apache-2.0
// Attempts through a real model host with a tiny model of random weights.
#include "unit.h"

#include "local.h"

#include "base/log.h"

static const char *host, *gguf;
static struct house h;

static int open_house(void **state) {
    (void)state;
    struct td_manager_options options = {.host_path = host, .workers = 1};
    return house_open(&h, &options) ? 0 : 1;
}

static int close_house(void **state) {
    (void)state;
    house_close(&h);
    return 0;
}

#define WAIT_MS 20000

static void a_chat_streams_and_ends_once(void **state) {
    (void)state;
    struct ask a;
    ask_open(&a, &h, gguf, TD_KIND_CHAT,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"max_tokens\":12,\"temperature\":0}");
    assert_true(ask_all(&a, WAIT_MS));
    assert_int_equal(a.error, TD_OK);
    assert_int_equal(a.starts, 1);
    assert_int_equal(a.ends, 1);
    assert_int_equal(a.finishes, 1);
    assert_int_equal(a.usage.completion_tokens, a.stats.completion_tokens);
    assert_true(a.text.n > 0);
    assert_true(td_str_is_utf8(td_buf_str(&a.text)));
    assert_true(a.stats.mean_logprob < 0 && a.stats.min_logprob <= a.stats.mean_logprob);
    assert_true(a.stats.mean_entropy > 0);
    assert_true(a.stats.first_ns > a.stats.connected_ns && a.stats.end_ns >= a.stats.first_ns);
    ask_close(&a);
}

static void a_second_turn_reuses_the_first_ones_prefix(void **state) {
    (void)state;
    struct ask a;
    const char *body = "{\"prompt\":\"the same long beginning of a conversation\",\"max_tokens\":4,\"temperature\":0}";
    ask_open(&a, &h, gguf, TD_KIND_COMPLETION, body);
    assert_true(ask_all(&a, WAIT_MS));
    uint32_t prompt = a.usage.prompt_tokens;
    struct td_buf first = a.text;
    td_buf_init(&a.text, 1);
    ask_close(&a);
    ask_open(&a, &h, gguf, TD_KIND_COMPLETION, body);
    assert_true(ask_all(&a, WAIT_MS));
    assert_int_equal(a.usage.cached_tokens, prompt - 1);
    assert_int_equal(a.text.n, first.n);
    assert_memory_equal(a.text.p, first.p, first.n);
    td_buf_finish(&first);
    ask_close(&a);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    host = argv[1];
    gguf = argv[2];
    td_log_set_level(TD_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_chat_streams_and_ends_once, open_house, close_house),
        cmocka_unit_test_setup_teardown(a_second_turn_reuses_the_first_ones_prefix, open_house, close_house),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
