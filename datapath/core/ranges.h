/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The memories of a page pool as a table of ranges, and a bit for each of their pages. Nothing here locks or counts for the pool.
 */
#ifndef CXL_RANGES_H
#define CXL_RANGES_H

#include "kmem_blk.h"
#include "mem.h"

struct range {
    struct mem_map map;
    uint64_t first, pages, fixed;
    uint64_t *bits; /* 1: used or fixed */
    uint64_t used;  /* without the fixed ones */
    uint64_t hint;  /* where the last search ended */
    bool leaving, is_volatile;
};

struct ranges {
    uint32_t count;
    struct range at[KMB_MAX_RANGES];
};

/* -ENOSPC: the table is full; -EEXIST: overlaps another one; -EINVAL; -ENOMEM. */
int ranges_add(struct ranges *t, const struct cxl_mem *mem, const struct kmb_range_conf *conf);
/* The last one takes its place. */
void ranges_drop(struct ranges *t, struct range *r);
void ranges_free(struct ranges *t);
/* NULL: none. */
struct range *ranges_of(const struct ranges *t, uint64_t page);
struct range *ranges_at(const struct ranges *t, uint64_t first);

/* Pages that nobody uses. */
uint64_t range_room(const struct range *r);
/* Numbers of pages as the pool has them. */
bool range_uses(const struct range *r, uint64_t page);
void range_mark(struct range *r, uint64_t page);
void range_unmark(struct range *r, uint64_t page);
/* The first page of `run` free ones aligned to run in the range (1, or a power of two); false: there are none. */
bool range_find(struct range *r, uint64_t run, uint64_t *page);

#endif
