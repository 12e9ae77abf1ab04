// SPDX-License-Identifier: Apache-2.0
// Every chat template of llama.cpp's repository: what the guest renders is what the common library renders from the
// same messages; where the library refuses, the guest refuses with a typed error.
#include <chat.h>
#include <dirent.h>
#include <dlfcn.h>
#include <json.h>

#include <fstream>
#include <sstream>
#include <vector>

extern "C" {
#include "unit.h"
}
#include "host/chat.h"

static llama_model *model;
static std::vector<std::string> names;
static std::string folder;

static const char *const conversations[] = {
    R"([{"role":"user","content":"hello"}])",
    R"([{"role":"system","content":"be brief"},{"role":"user","content":"hello"}])",
    R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}])",
    R"([{"role":"user","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]}])",
    R"([{"role":"user","content":"time?"},{"role":"assistant","content":null,"tool_calls":[{"id":"call_1",
        "type":"function","function":{"name":"clock","arguments":"{\"zone\":\"UTC\"}"}}]},
        {"role":"tool","tool_call_id":"call_1","name":"clock","content":"12:00"}])",
    R"([{"role":"user","content":"a"},{"role":"assistant","content":"the answer begins"}])",
};
static const char *const tools =
    R"([{"type":"function","function":{"name":"clock","description":"tells the time","parameters":
        {"type":"object","properties":{"zone":{"type":"string"}},"required":["zone"]}}}])";

static std::string source(const std::string &name) {
    std::ifstream file(folder + "/" + name);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

// As a program would that uses the common library directly.
static bool direct(const common_chat_templates *t, const char *messages, const char *with, common_chat_params &out) {
    try {
        common_chat_templates_inputs in;
        in.messages = common_chat_msgs_parse_oaicompat(common_json::parse(messages));
        if (with)
            in.tools = common_chat_tools_parse_oaicompat(common_json::parse(with));
        in.parallel_tool_calls = common_chat_templates_get_caps(t)["supports_parallel_tool_calls"];
        in.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
        if (in.messages.back().role == "assistant") {
            in.continue_final_message = COMMON_CHAT_CONTINUATION_AUTO;
            in.add_generation_prompt = false;
        }
        out = common_chat_templates_apply(t, in);
        return true;
    } catch (const std::exception &) {
        return false;
    }
}

static void compare(const std::string &name, const host_templates *ours, const common_chat_templates *theirs,
                    const char *messages, const char *with, int *rendered) {
    common_chat_params want;
    bool ok = direct(theirs, messages, with, want);
    host_turn_in in = {};
    host_turn *turn = nullptr;
    td_error e = {};
    in.messages = td_str_of(messages);
    in.tools = td_str_of(with);
    in.parallel_tools = -1;
    td_err err = host_turn_create(ours, &in, &turn, &e);
    if (ok != (err == TD_OK))
        fail_msg("%s: the library %s, the guest %s", name.c_str(), ok ? "renders" : "refuses",
                 ok ? e.message : "renders");
    if (!ok) {
        assert_int_equal(err, TD_ERR_BAD_REQUEST);
        return;
    }
    td_str got = host_turn_prompt(turn);
    if (std::string(got.p, got.n) != want.prompt)
        fail_msg("%s: another prompt", name.c_str());
    assert_int_equal(host_turn_stop_count(turn), want.additional_stops.size());
    ++*rendered;
    host_turn_destroy(turn);
}

static void every_template_is_rendered_as_the_library_does(void **state) {
    (void)state;
    int rendered = 0, with_tools = 0;
    assert_true(names.size() > 20);
    for (const auto &name : names) {
        std::string text = source(name);
        td_error e = {};
        host_templates *ours = host_templates_create(model, text.c_str(), &e);
        common_chat_templates_ptr theirs;
        try {
            theirs = common_chat_templates_init(model, text);
        } catch (const std::exception &) {}
        assert_int_equal(ours != nullptr, theirs != nullptr);
        for (size_t i = 0; ours && i < sizeof conversations / sizeof *conversations; i++) {
            compare(name, ours, theirs.get(), conversations[i], nullptr, &rendered);
            if (i % 2 == 0) // with tools the library takes long to try a template out
                compare(name, ours, theirs.get(), conversations[i], tools, &with_tools);
        }
        host_templates_destroy(ours);
    }
    print_message("%zu templates, %d renderings, %d with tools\n", names.size(), rendered, with_tools);
    assert_true(rendered > (int)names.size() * 3 && with_tools > (int)names.size());
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    folder = argv[2];
    DIR *d = opendir(folder.c_str());
    if (!d)
        return 77; // a system's llama.cpp: its templates are not installed
    while (dirent *entry = readdir(d))
        if (std::string(entry->d_name).find(".jinja") != std::string::npos)
            names.push_back(entry->d_name);
    closedir(d);
    host_chat_quiet();
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    Dl_info where;
    dladdr((void *)(uintptr_t)ggml_backend_load_all, &where);
    std::string libs = where.dli_fname;
    ggml_backend_load_all_from_path(libs.substr(0, libs.rfind('/')).c_str());
    model = llama_model_load_from_file(argv[1], llama_model_default_params());
    const CMUnitTest tests[] = {cmocka_unit_test(every_template_is_rendered_as_the_library_does)};
    int failed = cmocka_run_group_tests(tests, nullptr, nullptr);
    llama_model_free(model);
    return failed;
}
