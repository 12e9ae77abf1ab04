// SPDX-License-Identifier: Apache-2.0
// The host's own products of 8-bit weights with a few columns, in the library's place.
#ifndef TD_HOST_NARROW_H
#define TD_HOST_NARROW_H

#include <stdbool.h>

// After the back ends have been loaded, while nothing is computed. `wanted` false: all is the library's again. Returns
// whether products are ours from now on; this build or this processor may do without.
bool host_narrow_use(bool wanted);

#endif
