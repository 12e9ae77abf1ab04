// SPDX-License-Identifier: Apache-2.0
#include "host/chat.h"

#include <time.h>

#include <cmath>
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <random>

// llama.cpp's common library; in angle brackets, as two of its headers have the names of ours.
#include <chat-auto-parser.h>
#include <chat.h>
#include <json.h>
#include <log.h>
#include <sampling.h>

// Sanitizers make the work slower, not the template longer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEMPLATE_MS (30 * TD_TEMPLATE_MS_MAX)
#else
#define TEMPLATE_MS TD_TEMPLATE_MS_MAX
#endif

// What the tools and the response format make of a template, whatever the messages say: the grammar, the parser, the
// stops. Making it costs a hundred times what rendering a prompt does (the library tries the template out and writes a
// grammar for every tool), so the last few are kept.
struct mould {
    std::string key;
    common_chat_params params;
    common_chat_parser_params parse;
    std::set<llama_token> preserved;
    // The engine's: a sampler whose grammar is read already, for those that need no randomness of their own.
    mutable common_sampler_ptr sampler;
    mutable host_sampling sampling = {};
};

enum { MOULDS_MAX = 8 };

struct expected {
    common_chat_templates_inputs inputs;
};

struct host_templates {
    common_chat_templates_ptr t;
    const llama_vocab *vocab = nullptr;
    bool tools = false, parallel = false, special = true; // special: not the library's general way
    std::string source;                                   // early templates: what they were made of

    mutable std::mutex lock; // guards what follows
    mutable std::condition_variable changed;
    enum { EARLY, OURS, REFUSED } state = OURS;
    std::string pending;                                    // the key of what is being prepared; "" nothing
    std::unique_ptr<expected> next;                         // its inputs; the preparing thread's
    mutable std::list<std::shared_ptr<const mould>> moulds; // the last used first
};

struct host_turn {
    std::string prompt;
    std::shared_ptr<const mould> m;
    bool known = false;
};

struct host_sampler {
    common_sampler_ptr s;
};

struct host_parser {
    const host_turn *turn = nullptr;
    common_chat_msg msg; // what was handed out
    std::vector<std::string> ids;
    std::set<size_t> named;
    size_t pending_tool = 0;
};

static std::string str(td_str s) {
    return s.n ? std::string(s.p, s.n) : std::string();
}

static td_str view(const std::string &s) {
    return td_str{s.data(), s.size()};
}

void host_chat_quiet(void) {
    common_log_set_verbosity_thold(-1);
}

static void (*no_memory_fn)(void);

void host_on_no_memory(void (*fn)(void)) {
    no_memory_fn = fn;
    std::set_new_handler([] {
        no_memory_fn();
        throw std::bad_alloc();
    });
}

// The library knows some templates by their text and treats them in ways of its own, which may depend on the messages.
static bool is_special(const std::string &source) {
    if (source.empty())
        return false;
    try {
        common_chat_template t(source, "", "");
        autoparser::generation_params params;
        params.messages = common_json::parse(R"([{"role":"user","content":"x"}])");
        params.tools = common_json::array();
        return common_chat_try_specialized_template(t, source, params).has_value();
    } catch (const std::exception &) {
        return true;
    }
}

static std::unique_ptr<host_templates> read_templates(const llama_model *model, const std::string &source) {
    auto t = std::make_unique<host_templates>();
    t->t = common_chat_templates_init(model, source);
    auto caps = common_chat_templates_get_caps(t->t.get());
    t->tools = caps["supports_tools"] || caps["supports_tool_calls"];
    t->parallel = caps["supports_parallel_tool_calls"];
    std::string plain = common_chat_templates_source(t->t.get(), "");
    std::string with_tools = common_chat_templates_source(t->t.get(), "tool_use");
    t->special = is_special(plain) || (with_tools != plain && is_special(with_tools));
    return t;
}

host_templates *host_templates_create(const llama_model *model, const char *source, td_error *e) {
    try {
        auto t = read_templates(model, source);
        t->vocab = llama_model_get_vocab(model);
        return t.release();
    } catch (const std::exception &) {
        td_error_set(e, TD_ERR_HOST_LOAD, "the model's chat template cannot be read");
        return nullptr;
    }
}

// The model would add only its first and last token's text, and whether they go around every prompt.
host_templates *host_templates_early(td_str source) {
    try {
        std::string text = str(source);
        if (text.empty() || text == "chatml" || text.find("bos_token") != std::string::npos ||
            text.find("eos_token") != std::string::npos)
            return nullptr;
        auto t = read_templates(nullptr, text);
        t->source = std::move(text);
        t->state = host_templates::EARLY;
        return t.release();
    } catch (const std::exception &) {
        return nullptr;
    }
}

bool host_templates_adopt(host_templates *t, const llama_model *model) {
    const llama_vocab *vocab = llama_model_get_vocab(model);
    const char *source = llama_model_chat_template(model, nullptr);
    bool ours = source && t->source == source && !llama_model_chat_template(model, "tool_use") &&
                !llama_vocab_get_add_bos(vocab) && !llama_vocab_get_add_eos(vocab);
    std::lock_guard<std::mutex> hold(t->lock);
    t->vocab = vocab;
    t->state = ours ? host_templates::OURS : host_templates::REFUSED;
    t->changed.notify_all();
    return ours;
}

void host_templates_destroy(host_templates *t) {
    delete t;
}

bool host_templates_tools(const host_templates *t) {
    return t->tools;
}

// What the library says may quote the conversation, so only its fixed words are passed on.
static td_err refuse(td_error *e, const char *what, const std::exception &x) {
    static const char *const known[] = {"Cannot continue", "Unsupported", "Expected",
                                        "Missing",         "Invalid",     "not supported"};
    std::string text = x.what();
    for (const char *k : known)
        if (text.rfind(k, 0) == 0 && text.size() < 120 && text.find('\n') == std::string::npos)
            return td_error_set(e, TD_ERR_BAD_REQUEST, "%s: %s", what, text.c_str());
    return td_error_set(e, TD_ERR_BAD_REQUEST, "%s", what);
}

static std::shared_ptr<mould> make_mould(const host_templates *t, const common_chat_templates_inputs &inputs) {
    auto m = std::make_shared<mould>();
    m->params = common_chat_templates_apply(t->t.get(), inputs);
    m->parse = common_chat_parser_params(m->params);
    m->parse.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
    m->parse.is_continuation = inputs.continue_final_message != COMMON_CHAT_CONTINUATION_NONE;
    if (!m->params.parser.empty())
        m->parse.parser.load(m->params.parser);
    return m;
}

// What of it takes the model.
static void finish_mould(const host_templates *t, mould &m) {
    for (const auto &text : m.params.preserved_tokens) {
        auto tokens = common_tokenize(t->vocab, text, false, true);
        if (tokens.size() == 1)
            m.preserved.insert(tokens[0]);
    }
}

static std::string mould_key(const host_turn_in *in, bool parallel) {
    std::string key;
    for (td_str part : {in->tools, in->tool_choice, in->schema, in->kwargs})
        key += std::to_string(part.n) + ":" + str(part);
    return key + (parallel ? "p" : "") + (in->no_thinking ? "n" : "");
}

struct too_slow : std::exception {};

static uint64_t thread_ms() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

// The prompt alone, by the library's way that looks neither for tools nor for reasoning in the answer. A template is a
// program that came with the model: the door's watchdog (main.c) ends the guest where it never returns, and here it is
// refused where it takes too long.
static common_chat_params render_only(const host_templates *t, common_chat_templates_inputs inputs) {
    uint64_t start = thread_ms();
    inputs.force_pure_content = true;
    inputs.continue_final_message = COMMON_CHAT_CONTINUATION_NONE;
    inputs.add_generation_prompt = true;
    common_chat_params plain = common_chat_templates_apply(t->t.get(), inputs);
    if (thread_ms() - start > TEMPLATE_MS)
        throw too_slow();
    return plain;
}

// A kept mould fits where the prompt ends in the same words as the one it was made with.
static std::shared_ptr<const mould> find_mould(const host_templates *t, const std::string &key,
                                               const common_chat_params &plain) {
    std::unique_lock<std::mutex> hold(t->lock);
    t->changed.wait(hold, [&] { return t->pending != key; });
    for (auto at = t->moulds.begin(); at != t->moulds.end(); ++at) {
        if ((*at)->key != key || (*at)->params.generation_prompt != plain.generation_prompt)
            continue;
        t->moulds.splice(t->moulds.begin(), t->moulds, at);
        return *at;
    }
    return nullptr;
}

// Templates for which the library has a way of its own may render otherwise: those are made anew each time.
static bool can_be_kept(const host_templates *t, const mould &m, const common_chat_params &plain) {
    return m.params.prompt == plain.prompt && m.params.generation_prompt == plain.generation_prompt && !t->special;
}

static void keep_mould(const host_templates *t, std::shared_ptr<const mould> m) {
    std::lock_guard<std::mutex> hold(t->lock);
    t->moulds.push_front(std::move(m));
    if (t->moulds.size() > MOULDS_MAX)
        t->moulds.pop_back();
}

static void take_mould(const host_templates *t, const common_chat_templates_inputs &inputs, std::string key,
                       host_turn &turn) {
    common_chat_params plain = render_only(t, inputs);
    turn.m = find_mould(t, key, plain);
    turn.known = turn.m != nullptr;
    if (turn.known) {
        turn.prompt = std::move(plain.prompt);
        return;
    }
    auto m = make_mould(t, inputs);
    finish_mould(t, *m);
    turn.prompt = m->params.prompt;
    turn.m = m;
    if (can_be_kept(t, *m, plain)) {
        m->key = std::move(key);
        keep_mould(t, m);
    }
}

// The library knows no refusals: to the next turn they are the assistant's words like any other.
static void refusals_to_text(common_json &messages) {
    for (auto &message : messages) {
        if (message.contains("content") && message["content"].is_array()) {
            for (auto &part : message["content"])
                if (part.contains("refusal") && part["refusal"].is_string()) {
                    std::string text = part["refusal"];
                    part["type"] = "text";
                    part["text"] = text;
                }
        } else if (message.contains("refusal") && message["refusal"].is_string() &&
                   (!message.contains("content") || message["content"].is_null())) {
            std::string text = message["refusal"];
            message["content"] = text;
        }
    }
}

// Templates take arguments as objects, and one that is none would end the conversation: what a model wrote amiss goes
// back to it as the text it is.
static void arguments_to_objects(std::vector<common_chat_msg> &messages) {
    for (auto &message : messages)
        for (auto &call : message.tool_calls) {
            bool object = false;
            try {
                object = common_json::parse(call.arguments).is_object();
            } catch (const std::exception &) {}
            if (!object && call.arguments.find_first_not_of(" \t\r\n") == std::string::npos) {
                call.arguments = "{}";
            } else if (!object) {
                common_json whole = common_json::parse("{}");
                whole["arguments"] = call.arguments;
                call.arguments = whole.dump();
            }
        }
}

static common_chat_templates_inputs read_inputs(const host_templates *t, const host_turn_in *in) {
    common_chat_templates_inputs inputs;
    common_json messages = common_json::parse(str(in->messages));
    refusals_to_text(messages);
    inputs.messages = common_chat_msgs_parse_oaicompat(messages);
    arguments_to_objects(inputs.messages);
    if (in->tools.n)
        inputs.tools = common_chat_tools_parse_oaicompat(common_json::parse(str(in->tools)));
    inputs.tool_choice = common_chat_tool_choice_parse_oaicompat(in->tool_choice.n ? str(in->tool_choice) : "auto");
    inputs.json_schema = str(in->schema);
    inputs.parallel_tool_calls = in->parallel_tools < 0 ? t->parallel : in->parallel_tools > 0;
    inputs.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
    inputs.enable_thinking = !in->no_thinking;
    if (in->kwargs.n) {
        common_json kwargs = common_json::parse(str(in->kwargs));
        for (const auto &item : kwargs.items())
            inputs.chat_template_kwargs[item.key()] = item.value().dump();
    }
    return inputs;
}

void host_templates_expect(host_templates *t, td_str tools) {
    try {
        auto x = std::make_unique<expected>();
        host_turn_in in = {};
        in.messages = TD_STR("[{\"role\":\"user\",\"content\":\"x\"}]");
        in.tools = tools;
        in.tool_choice = TD_STR("auto");
        in.parallel_tools = -1;
        x->inputs = read_inputs(t, &in);
        std::lock_guard<std::mutex> hold(t->lock);
        t->pending = mould_key(&in, x->inputs.parallel_tool_calls);
        t->next = std::move(x);
    } catch (const std::exception &) {}
}

// Everything of it that can be done without the model.
static std::shared_ptr<mould> prepare_mould(const host_templates *t) {
    try {
        if (!t->next || t->special)
            return nullptr;
        common_chat_params plain = render_only(t, t->next->inputs);
        auto m = make_mould(t, t->next->inputs);
        m->key = t->pending;
        return can_be_kept(t, *m, plain) ? m : nullptr;
    } catch (const std::exception &) {
        return nullptr;
    }
}

void host_templates_prepare(host_templates *t) {
    auto m = prepare_mould(t);
    std::unique_lock<std::mutex> hold(t->lock);
    t->changed.wait(hold, [&] { return t->state != host_templates::EARLY; });
    try {
        if (m && t->state == host_templates::OURS) {
            finish_mould(t, *m);
            t->moulds.push_front(std::move(m));
        }
    } catch (const std::exception &) {}
    t->pending.clear();
    t->next = nullptr;
    t->changed.notify_all();
}

td_err host_turn_create(const host_templates *t, const host_turn_in *in, host_turn **out, td_error *e) {
    try {
        auto turn = std::make_unique<host_turn>();
        common_chat_templates_inputs inputs = read_inputs(t, in);
        if (!inputs.messages.empty() && inputs.messages.back().role == "assistant") {
            if (!inputs.messages.back().tool_calls.empty())
                return td_error_set(e, TD_ERR_BAD_REQUEST, "an assistant message with tool calls cannot be continued");
            inputs.continue_final_message = COMMON_CHAT_CONTINUATION_AUTO;
            inputs.add_generation_prompt = false;
            render_only(t, inputs);
            auto m = make_mould(t, inputs); // its parser knows the prefix: of no use to others
            finish_mould(t, *m);
            turn->prompt = m->params.prompt;
            turn->m = m;
        } else {
            take_mould(t, inputs, mould_key(in, inputs.parallel_tool_calls), *turn);
        }
        *out = turn.release();
        return TD_OK;
    } catch (const std::bad_alloc &) {
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while rendering the chat template");
    } catch (const too_slow &) {
        return td_error_set(e, TD_ERR_LIMIT, "the model's chat template took longer than %u ms", TD_TEMPLATE_MS_MAX);
    } catch (const std::exception &x) {
        std::string text = x.what();
        bool schema = text.find("JSON schema error") != text.npos || text.find("JSON schema conversion") != text.npos;
        return refuse(e,
                      schema ? "no grammar can be made of the JSON schema (of response_format or a tool)"
                             : "the model's chat template refuses these messages",
                      x);
    }
}

void host_turn_destroy(host_turn *turn) {
    delete turn;
}

td_str host_turn_prompt(const host_turn *turn) {
    return view(turn->prompt);
}

bool host_turn_known(const host_turn *turn) {
    return turn->known;
}

size_t host_turn_stop_count(const host_turn *turn) {
    return turn->m->params.additional_stops.size();
}

td_str host_turn_stop(const host_turn *turn, size_t i) {
    return view(turn->m->params.additional_stops[i]);
}

bool host_turn_preserves(const host_turn *turn, llama_token token) {
    return turn->m->preserved.count(token) != 0;
}

static float model_wish(const llama_model *model, llama_model_meta_key key, float otherwise) {
    char text[64];
    const char *name = llama_model_meta_key_str(key);
    if (!name || llama_model_meta_val_str(model, name, text, sizeof text) <= 0)
        return otherwise;
    float v = strtof(text, nullptr);
    return std::isfinite(v) ? v : otherwise;
}

// Words that are one token trigger the grammar by that token, as the tokenizer cannot produce them any other way.
static void add_grammar(common_params_sampling &p, const llama_vocab *vocab, const mould &m) {
    const common_chat_params &c = m.params;
    if (c.grammar.empty())
        return;
    p.grammar = {COMMON_GRAMMAR_TYPE_TOOL_CALLS, c.grammar};
    p.grammar_lazy = c.grammar_lazy;
    p.generation_prompt = c.generation_prompt;
    p.preserved_tokens = m.preserved;
    for (const auto &trigger : c.grammar_triggers) {
        common_grammar_trigger copy = trigger;
        if (trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_WORD) {
            auto tokens = common_tokenize(vocab, trigger.value, false, true);
            if (tokens.size() == 1 && m.preserved.count(tokens[0])) {
                copy.type = COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN;
                copy.token = tokens[0];
            }
        }
        p.grammar_triggers.push_back(std::move(copy));
    }
    if (!c.thinking_end_tags.empty()) {
        p.reasoning_budget_start = common_tokenize(vocab, c.thinking_start_tag, false, true);
        for (const auto &tag : c.thinking_end_tags)
            if (!tag.empty())
                p.reasoning_budget_end.push_back(common_tokenize(vocab, tag, false, true));
    }
}

static bool same(float a, float b) {
    return a == b || (std::isnan(a) && std::isnan(b));
}

static bool same_sampling(const host_sampling &a, const host_sampling &b) {
    return same(a.temperature, b.temperature) && same(a.top_p, b.top_p) && a.seed == b.seed &&
           same(a.presence_penalty, b.presence_penalty) && same(a.frequency_penalty, b.frequency_penalty);
}

td_err host_sampler_create(const llama_model *model, const host_turn *turn, const host_sampling *in, host_sampler **out,
                           bool *greedy, td_error *e) {
    try {
        const llama_vocab *vocab = llama_model_get_vocab(model);
        common_params_sampling p;
        p.no_perf = true;
        p.temp = std::isnan(in->temperature) ? model_wish(model, LLAMA_MODEL_META_KEY_SAMPLING_TEMP, p.temp)
                                             : in->temperature;
        p.top_p = std::isnan(in->top_p) ? model_wish(model, LLAMA_MODEL_META_KEY_SAMPLING_TOP_P, p.top_p) : in->top_p;
        p.top_k = (int32_t)model_wish(model, LLAMA_MODEL_META_KEY_SAMPLING_TOP_K, (float)p.top_k);
        p.min_p = model_wish(model, LLAMA_MODEL_META_KEY_SAMPLING_MIN_P, p.min_p);
        p.penalty_repeat = model_wish(model, LLAMA_MODEL_META_KEY_SAMPLING_PENALTY_REPEAT, p.penalty_repeat);
        if (!std::isnan(in->presence_penalty))
            p.penalty_present = in->presence_penalty;
        if (!std::isnan(in->frequency_penalty))
            p.penalty_freq = in->frequency_penalty;
        if (in->seed >= 0)
            p.seed = (uint32_t)in->seed;
        p.logit_bias.assign(in->bias, in->bias + in->bias_count);
        if (turn)
            add_grammar(p, vocab, *turn->m);
        int32_t suppressed = 0;
        llama_vocab_get_suppress_tokens(vocab, &suppressed);
        *greedy = p.temp <= 0 && p.grammar.empty() && p.penalty_repeat == 1.0f && p.penalty_present == 0 &&
                  p.penalty_freq == 0 && p.logit_bias.empty() && suppressed == 0;
        auto s = std::make_unique<host_sampler>();
        const mould *m = turn && (p.temp <= 0 || in->seed >= 0) && in->bias_count == 0 ? turn->m.get() : nullptr;
        if (m && m->sampler && same_sampling(m->sampling, *in)) {
            s->s.reset(common_sampler_clone(m->sampler.get()));
        } else {
            s->s.reset(common_sampler_init(model, p));
            if (m && !m->key.empty()) {
                m->sampler.reset(common_sampler_clone(s->s.get()));
                m->sampling = *in;
            }
        }
        *out = s.release();
        return TD_OK;
    } catch (const std::bad_alloc &) {
        return td_error_set(e, TD_ERR_NOMEM, "out of memory while preparing the sampler");
    } catch (const std::exception &x) {
        return refuse(e, "no grammar can be made for these tools or this response format", x);
    }
}

void host_sampler_destroy(host_sampler *s) {
    delete s;
}

llama_token host_sampler_next(host_sampler *s, llama_context *context, int32_t index) {
    try {
        llama_token token = common_sampler_sample(s->s.get(), context, index);
        common_sampler_accept(s->s.get(), token, true);
        return token;
    } catch (const std::exception &) {
        return LLAMA_TOKEN_NULL;
    }
}

host_parser *host_parser_create(const host_turn *turn) {
    try {
        auto p = std::make_unique<host_parser>();
        p->turn = turn;
        p->msg.role = "assistant";
        if (turn->m->parse.is_continuation) {
            // The prefix is the caller's already: only what follows it is new.
            try {
                p->msg = common_chat_parse("", true, turn->m->parse);
            } catch (const std::exception &) {}
        }
        return p.release();
    } catch (const std::exception &) {
        return nullptr;
    }
}

void host_parser_destroy(host_parser *p) {
    delete p;
}

static std::string new_call_id() {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    static thread_local std::mt19937_64 random{std::random_device{}()};
    std::string id = "call_";
    for (int i = 0; i < 24; i++)
        id += letters[random() % 62];
    return id;
}

// A call's name goes out whole, with its id, before its first argument: clients key on it.
static void hand_out(host_parser &p, const common_chat_msg_diff &d, void (*fn)(void *, const host_piece *), void *arg) {
    host_piece piece = {};
    if (!d.reasoning_content_delta.empty()) {
        piece.kind = host_piece::HOST_PIECE_REASONING;
        piece.text = view(d.reasoning_content_delta);
        fn(arg, &piece);
    }
    if (!d.content_delta.empty()) {
        piece.kind = host_piece::HOST_PIECE_TEXT;
        piece.text = view(d.content_delta);
        fn(arg, &piece);
    }
    if (d.tool_call_index == std::string::npos)
        return;
    size_t i = d.tool_call_index;
    piece.kind = host_piece::HOST_PIECE_TOOL;
    piece.index = (uint32_t)i;
    piece.text = view(d.tool_call_delta.arguments);
    if (i < p.msg.tool_calls.size() && p.named.insert(i).second) {
        piece.id = view(p.msg.tool_calls[i].id);
        piece.name = view(p.msg.tool_calls[i].name);
    }
    if (piece.name.n || piece.text.n)
        fn(arg, &piece);
}

td_err host_parser_feed(host_parser *p, td_str answer, bool partial, void (*fn)(void *, const host_piece *),
                        void *arg) {
    try {
        common_chat_msg msg = common_chat_parse(str(answer), partial, p->turn->m->parse);
        if (msg.empty())
            return TD_OK;
        if (partial)
            // A name still growing is not handed out: the arguments' beginning shows that it is whole.
            while (!msg.tool_calls.empty() && msg.tool_calls.back().arguments.empty() &&
                   msg.tool_calls.size() > p->msg.tool_calls.size())
                msg.tool_calls.pop_back();
        msg.set_tool_call_ids(p->ids, new_call_id);
        auto diffs = common_chat_msg_diff::compute_diffs(p->msg, msg);
        p->msg = std::move(msg);
        for (const auto &d : diffs)
            hand_out(*p, d, fn, arg);
        return TD_OK;
    } catch (const std::bad_alloc &) {
        return partial ? TD_OK : TD_ERR_NOMEM;
    } catch (const std::exception &) {
        return partial ? TD_OK : TD_ERR_UPSTREAM_GARBAGE;
    }
}

bool host_parser_has_tools(const host_parser *p) {
    return !p->msg.tool_calls.empty();
}
