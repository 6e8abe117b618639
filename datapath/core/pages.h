/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What volumes need of the page pool. A caller holds the table of ranges (pages_hold) as long as it uses a page, so that no range
 * goes away under it.
 */
#ifndef CXL_PAGES_H
#define CXL_PAGES_H

#include "kmem_blk.h"
#include "mem.h"

/* A page of the pool in memory. */
struct page_at {
    const struct mem_map *map;
    uint64_t off;
};

void pages_hold(struct kmb_pool *pool);
void pages_release(struct kmb_pool *pool);

/* The page must be one of the pool. */
struct page_at page_find(const struct kmb_pool *pool, uint64_t page);

/* Takes count pages for a user, all or none; blocks wait for recalled pages. */
int pages_take(struct kmb_pool *pool, enum kmb_user user, uint64_t count, uint64_t *pages);
/* A page to rewrite a block through, waiting until another rewrite is done with it; never fails. It goes over to the user whose old
 * page spare_swapped() gives back. */
uint64_t spare_take(struct kmb_pool *pool);
void spare_swapped(struct kmb_pool *pool, uint64_t old);

/* -EUCLEAN: no page for data, or taken. */
int page_claim(struct kmb_pool *pool, enum kmb_user user, uint64_t page);
void page_give(struct kmb_pool *pool, enum kmb_user user, uint64_t page);
bool page_in_leaving(const struct kmb_pool *pool, uint64_t first, uint64_t page);

#endif
