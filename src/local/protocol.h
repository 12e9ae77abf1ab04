// SPDX-License-Identifier: Apache-2.0
// The model-host protocol: length-prefixed binary frames over stream socket pairs, shared by the house (src/local) and
// the guest (host/). host/PROTOCOL.md describes the conversation. Pure: bytes in, frames out; no I/O, no allocation but
// in the caller's buffer. A reader trusts nothing: every length is checked, a wrong frame ends the connection.
//
// Frame: u32 length of what follows the header, u8 type, 3 bytes zero, u32 request id; little endian. Strings are u32
// length and bytes; floats are IEEE 754 bits.
#ifndef TD_LOCAL_PROTOCOL_H
#define TD_LOCAL_PROTOCOL_H

#include "base/limits.h"
#include "base/mem.h"

#define TD_PROTO_VERSION 2u
#define TD_PROTO_HEADER_BYTES 12u
#define TD_PROTO_CONTROL_BYTES_MAX 4096u       // frames of the control connection are small
#define TD_PROTO_CREDITS 128u                  // event frames a request may have on the way before the house answers
#define TD_PROTO_EXIT_MEMORY 73                // the guest's status where it had to end for want of memory
#define TD_PROTO_TOKENS_MAX 4096u              // token records in one frame
#define TD_PROTO_PREPARE_BYTES_MAX (64u << 10) // goes into an empty socket whole: the manager's thread never waits

enum td_frame_type {
    // house → guest, control
    TD_FRAME_SETUP = 1, // how to load: struct td_proto_setup
    TD_FRAME_PING,      // are you alive? The engine answers with BEAT between two steps
    TD_FRAME_PREPARE,   // right after SETUP where that says so: tools that requests are likely to bring, JSON array
    // guest → house, control
    TD_FRAME_READY,  // loaded: struct td_proto_ready
    TD_FRAME_FAILED, // cannot load: code, message; the guest ends
    TD_FRAME_BEAT,   // alive: u32 requests in hand, u64 tokens decoded so far
    // house → guest, a worker's connection
    TD_FRAME_REQUEST, // struct td_proto_request
    TD_FRAME_CREDIT,  // u32 more event frames may come
    TD_FRAME_CANCEL,  // stop it; nothing more comes for this id
    // guest → house, a worker's connection
    TD_FRAME_START,     // model name, u32 TD_PROTO_START_…
    TD_FRAME_TEXT,      // u32 choice, text, tokens
    TD_FRAME_REASONING, // u32 choice, text, tokens
    TD_FRAME_TOOL,      // u32 choice, u32 index, id, name, arguments, tokens
    TD_FRAME_EMBEDDING, // u32 index, u32 count, floats
    TD_FRAME_USAGE,     // u32 prompt, completion, cached, reasoning tokens
    TD_FRAME_FINISH,    // u32 choice, u32 enum td_finish, tokens that showed no text
    TD_FRAME_END,       // the whole answer came
    TD_FRAME_ERROR,     // u32 enum td_err, message; nothing follows
    TD_FRAME_COUNT
};

struct td_frame {
    enum td_frame_type type;
    uint32_t id;
    struct td_str body;
};

// Looks for a whole frame at the head of `bytes`. *used is its length with the header, 0 when more bytes are needed.
// TD_ERR_UPSTREAM_GARBAGE: no frame of this protocol, or its body is longer than `body_max`.
enum td_err td_proto_next(struct td_str bytes, uint32_t body_max, struct td_frame *out, size_t *used) TD_MUST_USE;

// Writing: begin, put the fields, end. After a failed put the buffer is cut back to where begin stood by end, which
// returns the first error.
struct td_proto_writer {
    struct td_buf *out;
    size_t start;
    enum td_err err;
};
void td_proto_begin(struct td_proto_writer *w, struct td_buf *out, enum td_frame_type type, uint32_t id);
void td_proto_u32(struct td_proto_writer *w, uint32_t v);
void td_proto_u64(struct td_proto_writer *w, uint64_t v);
void td_proto_f32(struct td_proto_writer *w, float v);
void td_proto_str(struct td_proto_writer *w, struct td_str s);
void td_proto_bytes(struct td_proto_writer *w, const void *p, size_t n); // without a length
enum td_err td_proto_end(struct td_proto_writer *w) TD_MUST_USE;

// Reading a body: getters return zero or an empty view once something did not fit; ask `ok` at the end.
struct td_proto_reader {
    const char *p, *end;
    bool bad;
};
void td_proto_read(struct td_proto_reader *r, struct td_str body);
uint32_t td_proto_get_u32(struct td_proto_reader *r);
uint64_t td_proto_get_u64(struct td_proto_reader *r);
float td_proto_get_f32(struct td_proto_reader *r);
struct td_str td_proto_get_str(struct td_proto_reader *r);
struct td_str td_proto_get_bytes(struct td_proto_reader *r, size_t n);
// True when every byte was read and none was missing.
static inline bool td_proto_ok(const struct td_proto_reader *r) {
    return !r->bad && r->p == r->end;
}

// SETUP. The model file is an open descriptor that the guest inherits; it never sees a path.
struct td_proto_setup {
    uint32_t version, context, parallel, threads, gpu_layers;
    uint64_t memory_bytes_max; // the guest refuses to exceed it (RLIMIT_AS where the platform has it); 0 none
    bool prepares;             // a PREPARE frame follows
    struct td_str name;        // for START frames
};
enum td_err td_proto_put_setup(struct td_buf *out, const struct td_proto_setup *s) TD_MUST_USE;
bool td_proto_get_setup(struct td_str body, struct td_proto_setup *s);

struct td_proto_ready {
    uint32_t version, context, parallel, threads, capabilities, embedding_size, load_ms;
    uint64_t params, weights_bytes;
    uint32_t sandbox; // enum td_sandbox bits that are in force
};
enum td_sandbox { TD_SANDBOX_SECCOMP = 1, TD_SANDBOX_LANDLOCK = 2 };
enum td_err td_proto_put_ready(struct td_buf *out, const struct td_proto_ready *s) TD_MUST_USE;
bool td_proto_get_ready(struct td_str body, struct td_proto_ready *s);

// START: what this chat's tools and format ask for (parser, grammar) was made for it, or was there when it came.
enum { TD_PROTO_START_MADE = 1, TD_PROTO_START_KNOWN = 2 };

enum { TD_PROTO_WANT_TOKENS = 1 }; // token texts and alternatives, not only probabilities
struct td_proto_request {
    uint32_t kind;     // enum td_kind
    uint32_t flags;    // TD_PROTO_WANT_…
    uint32_t priority; // 0 interactive, 1 batch
    uint32_t credits;
    struct td_str body; // OpenAI JSON
};
enum td_err td_proto_put_request(struct td_buf *out, uint32_t id, const struct td_proto_request *s) TD_MUST_USE;
bool td_proto_get_request(struct td_str body, struct td_proto_request *s);

enum td_err td_proto_put_error(struct td_buf *out, enum td_frame_type type, uint32_t id, enum td_err code,
                               struct td_str message) TD_MUST_USE;
bool td_proto_get_error(struct td_str body, enum td_err *code, struct td_str *message);

#endif
