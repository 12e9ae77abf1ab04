// SPDX-License-Identifier: Apache-2.0
// Every fixed limit of the program with its reason. Each has a test at and over it. Bytes, milliseconds and counts are
// named in the unit. What an operator may change is in the configuration; these are what even an operator may not
// exceed.
#ifndef TD_BASE_LIMITS_H
#define TD_BASE_LIMITS_H

// HTTP from clients (RFC 9110 and 9112 leave these to us).
#define TD_REQUEST_LINE_BYTES_MAX (8u << 10) // longer lines are attacks, not URLs of this API
#define TD_HEADER_BYTES_MAX (32u << 10)      // all header fields together
#define TD_HEADER_FIELDS_MAX 100u            // bounds the cost of walking them
#define TD_HEADER_TIME_MS_MAX 10000u         // slow senders hold a connection, not a thread, but still a slot
#define TD_BODY_BYTES_MAX (32u << 20)        // images in base64 fit; more belongs into a file store
#define TD_BODY_RATE_BYTES_MIN 1024u         // per second, after the first ten seconds
#define TD_CONNECTIONS_MAX 4096u             // all clients
#define TD_CONNECTIONS_PER_PEER_MAX 64u      // one remote address (loopback is exempt)
#define TD_ACCESS_LIST_BYTES_MAX (1u << 20)  // configured Host names and Origins
#define TD_BODY_WINDOW_MS_MAX 10000u         // the stretch over which a body's rate is taken
#define TD_BODIES_BYTES_MAX (512u << 20)     // all bodies being received: many large ones must not exhaust the machine
#define TD_KEEPALIVE_MS_MAX 75000u           // an idle connection; common client pools let go earlier
#define TD_WRITE_STALL_MS_MAX 60000u         // a client that takes nothing of its answer is gone
#define TD_LINGER_MS_MAX 2000u               // reading on after a refusal, so that a reset does not swallow it
#define TD_PIPELINE_BYTES_MAX (64u << 10)    // read ahead while an answer runs; beyond it TCP holds the client back
#define TD_OUTPUT_HIGH_BYTES (64u << 10)     // unsent answer at which the upstream is told to stop
#define TD_OUTPUT_LOW_BYTES (16u << 10)      // and to proceed
#define TD_OUTPUT_BYTES_MAX (80u << 20)      // unsent answer: one whole upstream reply and its framing fit
#define TD_JSON_DEPTH_MAX 64u                // no API body of this field needs more than about 15

// What comes back from upstreams.
#define TD_REPLY_BYTES_MAX (64u << 20) // one whole answer
#define TD_REPLY_HEADER_BYTES_MAX (64u << 10)
#define TD_REPLY_INTERIM_MAX 8u                 // 1xx before the answer: one or two are usual
#define TD_REPLY_CHUNK_EXTENSION_BYTES_MAX 256u // of one chunk; nobody sends any
#define TD_SSE_LINE_BYTES_MAX (1u << 20)        // one event line of a stream
#define TD_INFLATE_RATIO_MAX 20u                // gzip bombs

// A request's inside.
#define TD_ARENA_BYTES_MAX (192u << 20) // body, its JSON tree (5 x) and the copies an attempt needs
#define TD_MESSAGES_MAX 16384u
#define TD_TOOLS_MAX 512u
#define TD_CHOICES_MAX 16u                       // `n`
#define TD_PROMPTS_MAX 128u                      // texts of one completion request; each is an exchange of its own
#define TD_COMPLETIONS_MAX 128u                  // `n` of all of them together, as OpenAI has it
#define TD_INPUTS_MAX 2048u                      // texts of one embedding request, OpenAI's own limit
#define TD_TOOL_CALLS_MAX 128u                   // in one message or answer; OpenAI allows as many tools
#define TD_DEADLINE_MS_MAX (24u * 3600u * 1000u) // a caller's wish: what waits longer belongs into the outbox
#define TD_STOPS_MAX 16u
#define TD_LOGPROBS_MAX 20u    // OpenAI's own limit
#define TD_LABELS_MAX 32u      // labels are bits of one word
#define TD_LABELS_FIXED 4u     // pii, phi, pci, secret: the same bits in every configuration
#define TD_NAME_BYTES_MAX 128u // names of targets, tenants, models, conversations

// The house.
#define TD_TARGETS_MAX 64u // a plan holds a verdict for each; bit sets are one word
#define TD_RULES_MAX 256u
#define TD_ATTEMPTS_MAX 8u                  // in one exchange, all kinds together
#define TD_HOPS_MAX 4u                      // chains of Tandems
#define TD_TEMPLATE_MS_MAX 100u             // rendering a chat template that a model file brought
#define TD_HOST_FRAME_BYTES_MAX (64u << 20) // one frame of the model-host protocol
#define TD_PRELOAD_BYTES_MAX (64l << 20)    // model files up to this size are loaded when Tandem starts
#define TD_MODEL_PARTS_MAX 128u             // files of one model; the largest published ones have some fifty
#define TD_HOST_BEYOND_PROMPT_MAX 65536u    // how much longer than its prompt a model may say its answers get

#endif
