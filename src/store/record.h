// SPDX-License-Identifier: Apache-2.0
// One list per kind of record (ledger row, receipt) says what its fields are; from it grow the packed form, in which a
// record goes through the hand-over ring, under the chain's MAC and into the table, and the JSON form. The packed form
// is stable: it begins with its version, enum values travel as their words, and fields are only ever added at the end,
// with the version that brought them. Version 1 wrote lengths as 2 and numbers as 8 little-endian bytes; from version 2
// on both are varints (7 bits a byte, lowest first; a signed number with its sign in the lowest bit). Both are read.
// Pure. Any thread.
#ifndef TD_STORE_RECORD_H
#define TD_STORE_RECORD_H

#include <stdbool.h>

#include "base/mem.h"

#define TD_VARINT_BYTES_MAX 10u

enum td_field_type {
    TD_FIELD_TEXT, // struct td_str, at most TD_LEDGER_TEXT_BYTES_MAX
    TD_FIELD_BLOB, // struct td_str, at most TD_LEDGER_DECISION_BYTES_MAX; left out where larger
    TD_FIELD_I64,
    TD_FIELD_U64,
    TD_FIELD_U32,
    TD_FIELD_INT,
    TD_FIELD_BOOL,
    TD_FIELD_F32, // NaN is NULL
    TD_FIELD_MAC, // 32 bytes; all zero is NULL
    TD_FIELD_WORD // an enum (int) with its words
};

struct td_field {
    const char *name; // of the column and the JSON member
    enum td_field_type type;
    unsigned short offset;
    unsigned char since; // version of the shape that brought it
    const char *(*word)(int value);
    int word_count;
    bool summed; // the writer needs it: usage sums, what a segment says of its records
};

struct td_shape {
    const char *table;
    const struct td_field *fields;
    unsigned count;
    unsigned char version;
    size_t size; // of the struct
};

// No packed form is longer: one blob, and every other field at its cap.
#define TD_RECORD_BYTES_MAX 24576u

// Writes the packed form into TD_RECORD_BYTES_MAX bytes; returns its length.
size_t td_record_pack(const struct td_shape *shape, const void *record, unsigned char *out);
// Reads it back, or only the fields that are summed; views point into `p`. False when it is not of this shape or of a
// newer version.
bool td_record_unpack(const struct td_shape *shape, const unsigned char *p, size_t n, bool summed, void *record);
// One field out of a packed record at a time, in the shape's order.
struct td_packed {
    const unsigned char *at, *end;
    unsigned version;
};
struct td_packed_value { // the member of the field's type is set, unless it is absent
    bool absent;         // NULL: NaN, no MAC, or a field the packing version did not have
    struct td_str text;  // TEXT, BLOB, WORD, MAC
    int64_t number;
    float real; // F32
};
bool td_packed_start(struct td_packed *it, const struct td_shape *shape, const unsigned char *p, size_t n);
bool td_packed_next(struct td_packed *it, const struct td_field *f, struct td_packed_value *out);
// Puts a value into its field of a zeroed record.
void td_record_set(void *record, const struct td_field *f, const struct td_packed_value *v);
// The value whose word this is; 0 where none is.
int td_field_word_value(const struct td_field *f, struct td_str word);
// Packs as `version` did (old chains were made over that). Same as td_record_pack for the newest.
size_t td_record_pack_as(const struct td_shape *shape, unsigned char version, const void *record, unsigned char *out);
// Unsigned numbers as the packed form has them; put returns the end. False: cut off, or more than 64 bits.
unsigned char *td_varint_put(unsigned char *at, uint64_t v);
bool td_varint_get(const unsigned char **at, const unsigned char *end, uint64_t *out);
// Members without braces: "a":1,"b":"x"
enum td_err td_record_json(const struct td_shape *shape, const void *record, bool with_blobs,
                           struct td_buf *out) TD_MUST_USE;

#endif
