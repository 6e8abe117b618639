/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The least that two processes can do with shared memory: a number in a cache line of one, and one in a line of the other.
 */
#ifndef CXL_BENCH_LINE_H
#define CXL_BENCH_LINE_H

#include <stdint.h>

#include "mem.h"

struct court {
    struct mem_map map;
    uint64_t mine, theirs; /* offsets of the two lines */
};

static inline struct court line_other_side(const struct court *court)
{
    return (struct court){.map = court->map, .mine = court->theirs, .theirs = court->mine};
}

static inline void line_send(const struct court *court, uint64_t value)
{
    mem_store64(&court->map, court->mine, value);
    mem_clean(&court->map, MEM_SITE_SLOT_CLEAN, court->mine, MEM_LINE);
    mem_store_fence(&court->map, MEM_SITE_SLOT_FENCE);
}

static inline void line_await(const struct court *court, uint64_t value)
{
    do {
        mem_invalidate(&court->map, MEM_SITE_SLOT_INVALIDATE, court->theirs, MEM_LINE);
        mem_load_fence(&court->map, MEM_SITE_SLOT_LOAD_FENCE);
    } while (mem_load64(&court->map, court->theirs) != value);
}

#endif
