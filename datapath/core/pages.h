/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What volumes need of the page pool. A caller holds the table of ranges (pages_hold) as long as it uses a page, so that no range
 * goes away under it.
 */
#ifndef CXL_PAGES_H
#define CXL_PAGES_H

#include <time.h>

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

/* Takes count pages for a user, all or none (-ENOSPC). */
int pages_take(struct kmb_pool *pool, enum kmb_user user, uint64_t count, uint64_t *pages);

/* The patience of one request: {0} at first. */
struct recall {
    bool begun;
    struct timespec until;
};

/* Asks for count pages back for blocks, and waits until there are as many. false: nobody gave enough in time, or there is no need to
 * wait because that is known. The caller holds nothing, so that the table can change and others read meanwhile. */
bool pages_recall(struct kmb_pool *pool, uint64_t count, struct recall *recall);
/* A page to rewrite a block through, waiting until another rewrite is done with it; never fails. It goes over to the user whose old
 * page spare_swapped() gives back. */
uint64_t spare_take(struct kmb_pool *pool);
void spare_swapped(struct kmb_pool *pool, uint64_t old);

/* -EUCLEAN: no page for data, or taken. */
int page_claim(struct kmb_pool *pool, enum kmb_user user, uint64_t page);
void page_give(struct kmb_pool *pool, enum kmb_user user, uint64_t page);
bool page_in_leaving(const struct kmb_pool *pool, uint64_t first, uint64_t page);

#endif
