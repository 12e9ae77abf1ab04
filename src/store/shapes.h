// SPDX-License-Identifier: Apache-2.0
// The two kinds of record that go through the ring: their fields, in the order of the packed form. A new field goes at
// the end, with the shape's next version.
#ifndef TD_STORE_SHAPES_H
#define TD_STORE_SHAPES_H

#include "store/record.h"

enum { TD_RECORD_ROW = 1, TD_RECORD_RECEIPT = 2 }; // kinds in the ring

extern const struct td_shape td_shape_row, td_shape_receipt;

#endif
