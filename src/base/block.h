// SPDX-License-Identifier: Apache-2.0
// Blocks whose owner remembers their size, so that the allocator need not ask for it. For the allocator's own kin
// (arenas, buffers); everybody else calls td_malloc. Any thread.
#ifndef TD_BASE_BLOCK_H
#define TD_BASE_BLOCK_H

#include <stddef.h>

// How many bytes a block for `n` has, at least `n`.
size_t td_block_size(size_t n);
// A block of at least *n bytes; *n becomes how many it has. NULL without memory.
void *td_block_take(size_t *n);
// Back, of `n` bytes as one of the two above gave it. Takes NULL.
void td_block_give(void *p, size_t n);

#endif
