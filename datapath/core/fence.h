/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The fence line of a host's entry, as its own handlers see it (docs/cbd-format.md).
 */
#ifndef CXL_FENCE_H
#define CXL_FENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "mem.h"

struct fence {
    struct mem_map map;
    uint64_t off;        /* of the line; 0: there is none */
    uint32_t host_epoch; /* of this incarnation */
};

/* -EINVAL: not aligned to a line; -ERANGE: outside the mapping. */
int fence_init(struct fence *fence, const struct cxl_mem *mem, uint64_t off, uint32_t host_epoch);
/* Whether somebody has declared this incarnation dead. A line that stays torn says nothing. */
bool fence_raised(const struct fence *fence);

#endif
