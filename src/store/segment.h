// SPDX-License-Identifier: Apache-2.0
// A segment: the records that one turn of the writer took out of the ring, rows and receipts in the order of their
// numbers, packed as the workers handed them over, in one row of the table `segments`. What a query must know to pass a
// segment by stands beside the packed bytes. A segment's link in the hash chain covers all of it.
//
//   records := { number - the one before (from `first` - 1 on), kind, length, packed form }     numbers as varints
//
// Pure. One owner.
#ifndef TD_STORE_SEGMENT_H
#define TD_STORE_SEGMENT_H

#include "store/journal.h"
#include "store/ledger.h"

#define TD_SEGMENT_BYTES_MAX (128u << 10) // beyond this the next record begins another one

struct td_segment {
    uint64_t first, last;                        // numbers of its records; 0 empty
    int64_t from_ms, until_ms;                   // earliest and latest wall time of its records
    struct td_str from_exchange, until_exchange; // smallest and largest exchange of its rows, as bytes; "" no rows
    struct td_str records;
};

// A segment being filled.
struct td_segment_draft {
    struct td_segment s; // views into what follows
    struct td_buf records;
    char from_exchange[TD_LEDGER_TEXT_BYTES_MAX], until_exchange[TD_LEDGER_TEXT_BYTES_MAX];
};
void td_segment_init(struct td_segment_draft *d);
void td_segment_finish(struct td_segment_draft *d);
// Empties it, keeps the memory.
void td_segment_clear(struct td_segment_draft *d);
bool td_segment_has_room(const struct td_segment_draft *d, size_t n);
// Numbers rise from one call to the next. `exchange` "" for what is no row. TD_ERR_NOMEM: nothing changed.
enum td_err td_segment_add(struct td_segment_draft *d, const struct td_journal_record *r, int64_t wall_ms,
                           struct td_str exchange) TD_MUST_USE;

// One record after the other; views point into s->records. False: there is no further one, or (*sound false) the bytes
// make no sense from here on.
struct td_segment_reader {
    const unsigned char *at, *end;
    uint64_t number;
    bool sound;
};
void td_segment_read(struct td_segment_reader *it, const struct td_segment *s);
bool td_segment_next(struct td_segment_reader *it, struct td_journal_record *out);

// head: the link before, and then this segment's: a keyed BLAKE2b over the link before and all that the segment is.
void td_segment_link(const unsigned char key[32], const struct td_segment *s, unsigned char head[32]);

#endif
