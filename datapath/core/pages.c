/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which pages of the pool are used. Nothing here is on the medium: the index of the block volume is, and the rest follows from it.
 */
#define _GNU_SOURCE
#include "pages.h"

#include <errno.h>
#include <unistd.h>

#include "kmb_pool.h"

#define NS_PER_MS 1000000L
#define NS_PER_S 1000000000L

/* ---- where a page is --------------------------------------------------------------------------------------------------------- */

void pages_hold(struct kmb_pool *pool)
{
    pthread_rwlock_rdlock(&pool->table);
}

void pages_release(struct kmb_pool *pool)
{
    pthread_rwlock_unlock(&pool->table);
}

struct page_at page_find(const struct kmb_pool *pool, uint64_t page)
{
    const struct range *r = ranges_of(&pool->ranges, page);

    return (struct page_at){.map = &r->map, .off = (page - r->first) * KMB_PAGE};
}

bool page_in_leaving(const struct kmb_pool *pool, uint64_t first, uint64_t page)
{
    const struct range *r = ranges_of(&pool->ranges, page);

    return r && r->first == first && r->leaving;
}

/* ---- how much is left -------------------------------------------------------------------------------------------------------- */

uint64_t *pages_free_in(struct kmb_pool *pool, const struct range *r)
{
    return &pool->free[r->is_volatile];
}

uint64_t pages_available(const struct kmb_pool *pool)
{
    uint64_t kept = pool->conf.spare - pool->spare_out + pool->owed;

    return pool->free[0] > kept ? pool->free[0] - kept : 0;
}

static bool may_take(const struct kmb_pool *pool, enum kmb_user user, uint64_t count)
{
    uint64_t left = pages_available(pool), reserve = user == KMB_BLOCKS ? 0 : pool->conf.reserve;

    left = left > reserve ? left - reserve : 0;
    return count <= left + (user == KMB_SWAP ? pool->free[1] : 0);
}

void pages_tell_room(struct kmb_pool *pool)
{
    pool->in_vain = false;
    pthread_cond_broadcast(&pool->freed);
}

/* ---- taking and giving ---------------------------------------------------------------------------------------------------------- */

/* All callers hold pool->lock, and a hold of the table. */

static void mark(struct kmb_pool *pool, struct range *r, uint64_t page)
{
    range_mark(r, page);
    if (r->leaving)
        pool->owed++;
    else
        --*pages_free_in(pool, r);
}

static void unmark(struct kmb_pool *pool, uint64_t page)
{
    struct range *r = ranges_of(&pool->ranges, page);

    range_unmark(r, page);
    if (r->leaving)
        pool->owed--;
    else
        ++*pages_free_in(pool, r);
    pthread_cond_broadcast(&pool->freed);
}

/* One aligned run, wherever it is free in volatile ranges or in the others; false: nowhere. */
static bool take_run(struct kmb_pool *pool, bool is_volatile, uint64_t run, uint64_t *pages)
{
    for (uint32_t i = 0; i < pool->ranges.count; i++) {
        struct range *r = &pool->ranges.at[i];

        if (r->leaving || r->is_volatile != is_volatile || !range_find(r, run, &pages[0]))
            continue;
        for (uint64_t k = 0; k < run; k++) {
            pages[k] = pages[0] + k;
            mark(pool, r, pages[k]);
        }
        return true;
    }
    return false;
}

static void take_counted(struct kmb_pool *pool, enum kmb_user user, uint64_t count, uint64_t *pages)
{
    for (uint64_t i = 0; i < count; i++) { /* free pages are counted, so there is one; swap leaves the better ones to others */
        if (user != KMB_SWAP || !take_run(pool, true, 1, &pages[i]))
            take_run(pool, false, 1, &pages[i]);
    }
    pool->used[user] += count;
}

static struct timespec deadline_in(uint32_t ms)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += (long)(ms % 1000) * NS_PER_MS;
    if (at.tv_nsec >= NS_PER_S) {
        at.tv_sec++;
        at.tv_nsec -= NS_PER_S;
    }
    return at;
}

int pages_take(struct kmb_pool *pool, enum kmb_user user, uint64_t count, uint64_t *pages)
{
    bool enough;

    pthread_mutex_lock(&pool->lock);
    enough = may_take(pool, user, count);
    if (enough)
        take_counted(pool, user, count, pages);
    pthread_mutex_unlock(&pool->lock);
    return enough ? 0 : -ENOSPC;
}

/* Others are asked to give pages back; whoever does wakes us. */
static bool await_room(struct kmb_pool *pool, uint64_t count, const struct timespec *until)
{
    uint64_t one = 1;
    bool enough;

    pool->wanted += count;
    if (pool->conf.event_fd >= 0 && write(pool->conf.event_fd, &one, sizeof(one)) < 0)
        errno = 0; /* the counter is at its end: it was signalled often enough */
    while (!(enough = may_take(pool, KMB_BLOCKS, count))) {
        if (pthread_cond_timedwait(&pool->freed, &pool->lock, until))
            break;
    }
    pool->wanted -= count;
    return enough;
}

bool pages_recall(struct kmb_pool *pool, uint64_t count, struct recall *recall)
{
    bool enough = false;

    pthread_mutex_lock(&pool->lock);
    if (!recall->begun)
        *recall = (struct recall){.begun = true, .until = deadline_in(pool->conf.recall_ms)};
    if (pool->conf.recall_ms && !pool->in_vain) {
        enough = await_room(pool, count, &recall->until);
        pool->in_vain = !enough;
    }
    pthread_mutex_unlock(&pool->lock);
    return enough;
}

uint64_t spare_take(struct kmb_pool *pool)
{
    uint64_t page = 0;

    pthread_mutex_lock(&pool->lock);
    while (pool->spare_out == pool->conf.spare || !take_run(pool, false, 1, &page))
        pthread_cond_wait(&pool->freed, &pool->lock);
    pool->spare_out++;
    pthread_mutex_unlock(&pool->lock);
    return page;
}

void spare_swapped(struct kmb_pool *pool, uint64_t old)
{
    pthread_mutex_lock(&pool->lock);
    pool->spare_out--;
    unmark(pool, old);
    pthread_mutex_unlock(&pool->lock);
}

int page_claim(struct kmb_pool *pool, enum kmb_user user, uint64_t page)
{
    struct range *r;
    int err = 0;

    pthread_mutex_lock(&pool->lock);
    r = ranges_of(&pool->ranges, page);
    if (!r || range_uses(r, page)) {
        err = -EUCLEAN;
    } else {
        mark(pool, r, page);
        pool->used[user]++;
    }
    pthread_mutex_unlock(&pool->lock);
    return err;
}

void page_give(struct kmb_pool *pool, enum kmb_user user, uint64_t page)
{
    pthread_mutex_lock(&pool->lock);
    pool->used[user]--;
    unmark(pool, page);
    pool->in_vain = false;
    pthread_mutex_unlock(&pool->lock);
}

uint64_t pages_take_runs(struct kmb_pool *pool, uint64_t count, uint64_t run, uint64_t *pages)
{
    uint64_t done = 0;

    if (may_take(pool, KMB_LEASES, count)) {
        while (done < count && take_run(pool, false, run, pages + done))
            done += run;
    }
    pool->used[KMB_LEASES] += done;
    return done;
}
