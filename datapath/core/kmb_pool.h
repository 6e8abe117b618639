/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The inside of a page pool, for pages.c (who gets a page) and kmb_pool.c (its life, its memories, its leases).
 */
#ifndef CXL_KMB_POOL_H
#define CXL_KMB_POOL_H

#include <pthread.h>

#include "pages.h"
#include "ranges.h"

struct kmb_pool {
    struct kmb_pool_conf conf;
    pthread_rwlock_t table; /* of the ranges as such: written when one comes or goes; taken before the other lock */
    struct ranges ranges;
    pthread_mutex_t lock; /* of the rest */
    pthread_cond_t freed;
    uint64_t free[2];   /* in ranges that stay; [1]: in volatile ones */
    uint64_t spare_out; /* spare pages that a rewrite is using */
    uint64_t owed;      /* used pages of leaving ranges: each will need one elsewhere */
    uint64_t wanted;
    bool in_vain; /* the last recall was, and nobody has given a page since: the next write need not wait as well */
    uint64_t used[KMB_USERS];
};

/* The caller holds pool->lock. */

/* The count that a range's free pages are part of while it stays. */
uint64_t *pages_free_in(struct kmb_pool *pool, const struct range *r);
/* Pages that blocks may take: none of a volatile range. */
uint64_t pages_available(const struct kmb_pool *pool);
/* There is more room than before: who waits looks again. */
void pages_tell_room(struct kmb_pool *pool);
/* Pages for leases, in runs, as far as they go; how many. */
uint64_t pages_take_runs(struct kmb_pool *pool, uint64_t count, uint64_t run, uint64_t *pages);

#endif
