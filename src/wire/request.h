// SPDX-License-Identifier: Apache-2.0
// The canonical request: what every client dialect is read into and every provider dialect is written from. All views
// point into the request's arena or into the body the arena's owner keeps; a request lives as long as its exchange.
// Plain data, built once by a reader, then read-only. No I/O anywhere in this room.
#ifndef TD_WIRE_REQUEST_H
#define TD_WIRE_REQUEST_H

#include "base/json.h"
#include "base/limits.h"

enum td_kind { TD_KIND_CHAT, TD_KIND_COMPLETION, TD_KIND_EMBEDDING };
enum td_dialect { TD_DIALECT_OPENAI }; // next: responses, anthropic

enum td_role { TD_ROLE_SYSTEM, TD_ROLE_DEVELOPER, TD_ROLE_USER, TD_ROLE_ASSISTANT, TD_ROLE_TOOL };
enum td_part_type { TD_PART_TEXT, TD_PART_IMAGE, TD_PART_AUDIO, TD_PART_FILE, TD_PART_REFUSAL };

// What a request needs of a target, and what a target can do.
enum td_capability {
    TD_CAP_CHAT = 1 << 0,
    TD_CAP_COMPLETION = 1 << 1,
    TD_CAP_EMBEDDING = 1 << 2,
    TD_CAP_TOOLS = 1 << 3,
    TD_CAP_JSON = 1 << 4,        // response_format json_object
    TD_CAP_JSON_SCHEMA = 1 << 5, // response_format json_schema
    TD_CAP_LOGPROBS = 1 << 6,
    TD_CAP_INFILL = 1 << 7, // `suffix`
    TD_CAP_IMAGE = 1 << 8,
    TD_CAP_AUDIO = 1 << 9,
    TD_CAP_FILE = 1 << 10,
    TD_CAP_CHOICES = 1 << 11,  // n > 1
    TD_CAP_CONTINUE = 1 << 12, // accepts a trailing assistant message as a prefix to go on from
};

struct td_part {
    enum td_part_type type;
    struct td_str text; // TEXT, REFUSAL; else the URL or data, for size only
    td_json *raw;
};

struct td_tool_call {
    struct td_str id, name, arguments; // arguments: JSON text as the model wrote it
};

struct td_message {
    enum td_role role;
    struct td_str name, tool_call_id;
    struct td_part *parts;
    uint32_t part_count;
    struct td_tool_call *tool_calls;
    uint32_t tool_call_count;
    td_json *raw; // the client's own object
};

struct td_tool {
    struct td_str name, description;
    td_json *parameters; // JSON schema or NULL
    td_json *raw;
};

enum td_tool_choice { TD_TOOL_CHOICE_AUTO, TD_TOOL_CHOICE_NONE, TD_TOOL_CHOICE_REQUIRED, TD_TOOL_CHOICE_NAMED };
// How a server is told to go on with the assistant's message that a request ends with, where it needs to be told.
enum td_prefix_mark { TD_PREFIX_PLAIN, TD_PREFIX_VLLM, TD_PREFIX_MISTRAL };
enum td_format { TD_FORMAT_TEXT, TD_FORMAT_JSON_OBJECT, TD_FORMAT_JSON_SCHEMA };

// Data classes, from the least to the most sensitive. UNKNOWN: nothing labelled it.
enum td_class { TD_CLASS_UNKNOWN, TD_CLASS_PUBLIC, TD_CLASS_INTERNAL, TD_CLASS_CONFIDENTIAL, TD_CLASS_RESTRICTED };
enum td_prefer {
    TD_PREFER_DEFAULT,
    TD_PREFER_BALANCED,
    TD_PREFER_FAST,
    TD_PREFER_CHEAP,
    TD_PREFER_QUALITY,
    TD_PREFER_PRIVATE
};
enum td_mode { TD_MODE_DEFAULT, TD_MODE_SINGLE, TD_MODE_FALLBACK, TD_MODE_CASCADE, TD_MODE_PROGRESSIVE, TD_MODE_HEDGE };

#define TD_WISH_TIERS_MAX 4

// The caller's wishes: the `tandem` object of the body or x-tandem-… headers (headers win). They narrow, never widen.
struct td_wishes {
    enum td_prefer prefer;
    enum td_class data_class;
    struct td_str labels[TD_LABELS_MAX];
    uint32_t label_count;
    struct td_str residency; // "eu", "" none
    uint64_t deadline_ms;    // from arrival; 0 none
    int64_t max_cost_nusd;   // nano-dollars; -1 none
    bool fresh;              // wants information newer than a model's training
    enum td_mode mode;
    bool revisions;                       // the client said mode: progressive in the body, so it understands revisions
    struct td_str conversation, priority; // priority: "interactive" (default) or "batch"
    uint32_t refine_after_ms;
    bool queue; // wants a better answer later if only a lesser one can be had now (outbox)
    // Chains of Tandems: what the Tandem before this one still allows.
    struct td_str tiers[TD_WISH_TIERS_MAX]; // "device", "edge", "onprem", "cloud"; none: all
    uint32_t tier_count;
    uint32_t hops; // Tandems that this request has passed already
};

struct td_request {
    enum td_kind kind;
    enum td_dialect dialect;
    td_json *root;       // the client's body
    struct td_str model; // as the client wrote it
    struct td_message *messages;
    uint32_t message_count;
    struct td_tool *tools;
    uint32_t tool_count;
    enum td_tool_choice tool_choice;
    struct td_str tool_choice_name;
    bool parallel_tool_calls;
    enum td_format format;
    td_json *schema; // of json_schema
    struct td_str schema_name;
    struct td_str prompt, suffix; // completions
    struct td_str *prompts;       // all of them where there are several, the first of which is `prompt`; else NULL
    uint32_t prompt_count;
    struct td_str *inputs; // embeddings
    uint32_t input_count;
    uint32_t dimensions;                                            // 0 default
    bool base64;                                                    // encoding_format
    double temperature, top_p, presence_penalty, frequency_penalty; // NaN: not given
    int64_t seed;                                                   // -1: not given
    uint32_t max_tokens;                                            // 0: not given
    uint32_t n;                                                     // at least 1
    struct td_str stops[TD_STOPS_MAX];
    uint32_t stop_count;
    bool stream, include_usage;
    bool logprobs;
    uint32_t top_logprobs;
    bool max_completion_tokens; // max_tokens came under its newer name
    struct td_str user;
    uint32_t capabilities; // enum td_capability bits this request needs
    uint32_t text_bytes;   // all text in it, for token estimates
    struct td_wishes wishes;
};

// The words of the wire for these enums; "" for DEFAULT and UNKNOWN. Static storage.
const char *td_class_word(enum td_class c);
const char *td_prefer_word(enum td_prefer p);
const char *td_mode_word(enum td_mode m);
const char *td_role_word(enum td_role r);
// The reverse; false, *out untouched, where the word is not known (DEFAULT and UNKNOWN have none).
bool td_class_parse(struct td_str word, enum td_class *out);
bool td_prefer_parse(struct td_str word, enum td_prefer *out);
bool td_mode_parse(struct td_str word, enum td_mode *out);
// The same for capabilities, by the number of the bit ("" beyond the last); parsing gives the bit itself.
const char *td_capability_word(unsigned number);
bool td_capability_parse(struct td_str word, uint32_t *bit);

// No wishes: what every reader starts from (max_cost_nusd -1, all else zero).
void td_wishes_init(struct td_wishes *w);
// The `tandem` object of a body. `arena` as long as the request. Unknown keys are refused: a wish that narrows must
// not get lost to a typing error. TD_ERR_BAD_REQUEST (with e->param "tandem.…"), TD_ERR_NOMEM.
enum td_err td_wishes_read(struct td_arena *arena, td_json *tandem, struct td_wishes *w,
                           struct td_error *e) TD_MUST_USE;
// One header field; `name` in any case. Names that do not begin with "x-tandem-" are TD_OK and change nothing. Apply
// after the body was read: class, deadline and cost take the stricter of both, labels and tiers add up (tiers to the
// common ones), for all else the header wins. `value` must live as long as the request. TD_ERR_BAD_REQUEST (e->param is
// the header's name) for an unknown x-tandem- name or a value that is not allowed.
enum td_err td_wishes_read_header(struct td_wishes *w, struct td_str name, struct td_str value,
                                  struct td_error *e) TD_MUST_USE;
// Appends the wishes as a `tandem` object for the next Tandem of a chain; only what is set. Mode "progressive" is left
// out: revisions are not relayed.
enum td_err td_wishes_write(const struct td_wishes *w, struct td_buf *out) TD_MUST_USE;

#endif
