/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A pool of pages as its owner sees it: its life, the memories that come and go, and leases.
 */
#define _GNU_SOURCE
#include "kmb_pool.h"

#include <errno.h>
#include <stdlib.h>

/* ---- memories ------------------------------------------------------------------------------------------------------------------ */

static void lock_all(struct kmb_pool *pool)
{
    pthread_rwlock_wrlock(&pool->table);
    pthread_mutex_lock(&pool->lock);
}

static void unlock_all(struct kmb_pool *pool)
{
    pthread_mutex_unlock(&pool->lock);
    pthread_rwlock_unlock(&pool->table);
}

int kmb_range_add(struct kmb_pool *pool, const struct cxl_mem *mem, const struct kmb_range_conf *conf)
{
    int err;

    lock_all(pool);
    err = ranges_add(&pool->ranges, mem, conf);
    if (!err) {
        *pages_free_in(pool, ranges_at(&pool->ranges, conf->first)) += conf->pages - conf->fixed;
        pages_tell_room(pool);
    }
    unlock_all(pool);
    return err;
}

static void stay(struct kmb_pool *pool, struct range *r)
{
    r->leaving = false;
    *pages_free_in(pool, r) += range_room(r);
    pool->owed -= r->used;
    pages_tell_room(pool);
}

int kmb_range_leave(struct kmb_pool *pool, uint64_t first)
{
    struct range *r;
    int err = 0;

    lock_all(pool);
    r = ranges_at(&pool->ranges, first);
    if (!r) {
        err = -ENOENT;
    } else if (!r->leaving) {
        uint64_t lost = r->is_volatile ? 0 : range_room(r);

        if (pages_available(pool) < lost + r->used) {
            err = -ENOSPC;
        } else {
            r->leaving = true;
            *pages_free_in(pool, r) -= range_room(r);
            pool->owed += r->used;
        }
    }
    unlock_all(pool);
    return err;
}

int kmb_range_stay(struct kmb_pool *pool, uint64_t first)
{
    struct range *r;

    lock_all(pool);
    r = ranges_at(&pool->ranges, first);
    if (r && r->leaving)
        stay(pool, r);
    unlock_all(pool);
    return r ? 0 : -ENOENT;
}

int kmb_range_remove(struct kmb_pool *pool, uint64_t first)
{
    struct range *r;
    int err = 0;

    lock_all(pool);
    r = ranges_at(&pool->ranges, first);
    if (!r) {
        err = -ENOENT;
    } else if (!r->leaving || r->used) {
        err = -EBUSY;
    } else {
        ranges_drop(&pool->ranges, r);
    }
    unlock_all(pool);
    return err;
}

uint64_t kmb_range_used(struct kmb_pool *pool, uint64_t first)
{
    const struct range *r;
    uint64_t used;

    pages_hold(pool);
    pthread_mutex_lock(&pool->lock);
    r = ranges_at(&pool->ranges, first);
    used = r ? r->used : 0;
    pthread_mutex_unlock(&pool->lock);
    pages_release(pool);
    return used;
}

/* ---- leases ---------------------------------------------------------------------------------------------------------------------- */

void kmb_give(struct kmb_pool *pool, const uint64_t *pages, uint64_t count)
{
    pages_hold(pool);
    for (uint64_t i = 0; i < count; i++)
        page_give(pool, KMB_LEASES, pages[i]);
    pages_release(pool);
}

int kmb_take(struct kmb_pool *pool, uint64_t count, uint64_t run, uint64_t *pages)
{
    uint64_t done;

    if (!count || !run || (run & (run - 1)) || count % run)
        return -EINVAL;
    pages_hold(pool);
    pthread_mutex_lock(&pool->lock);
    done = pages_take_runs(pool, count, run, pages);
    pthread_mutex_unlock(&pool->lock);
    pages_release(pool);
    if (done == count)
        return 0;
    kmb_give(pool, pages, done);
    return -ENOSPC;
}

int kmb_claim(struct kmb_pool *pool, const uint64_t *pages, uint64_t count)
{
    uint64_t done = 0;
    int err = 0;

    pages_hold(pool);
    while (done < count && !err) {
        err = page_claim(pool, KMB_LEASES, pages[done]);
        done += !err;
    }
    pages_release(pool);
    if (err)
        kmb_give(pool, pages, done);
    return err;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------ */

static void init_locks(struct kmb_pool *pool)
{
    pthread_rwlockattr_t table;
    pthread_condattr_t clock;

    pthread_rwlockattr_init(&table);
    pthread_rwlockattr_setkind_np(&table, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&pool->table, &table);
    pthread_rwlockattr_destroy(&table);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->freed, &clock);
    pthread_condattr_destroy(&clock);
}

int kmb_pool_new(const struct kmb_pool_conf *conf, struct kmb_pool **out)
{
    struct kmb_pool *pool;

    if (!conf || !conf->spare)
        return -EINVAL;
    pool = calloc(1, sizeof(*pool));
    if (!pool)
        return -ENOMEM;
    pool->conf = *conf;
    init_locks(pool);
    *out = pool;
    return 0;
}

void kmb_pool_set_reserve(struct kmb_pool *pool, uint64_t reserve)
{
    pthread_mutex_lock(&pool->lock);
    pool->conf.reserve = reserve;
    pthread_mutex_unlock(&pool->lock);
}

void kmb_pool_counts(struct kmb_pool *pool, struct kmb_counts *out)
{
    *out = (struct kmb_counts){0};
    pages_hold(pool);
    pthread_mutex_lock(&pool->lock);
    for (uint32_t i = 0; i < pool->ranges.count; i++) {
        out->pages += pool->ranges.at[i].pages;
        out->fixed += pool->ranges.at[i].fixed;
    }
    out->free = pool->free[0] + pool->free[1];
    out->available = pages_available(pool);
    out->reserve = pool->conf.reserve;
    out->wanted = pool->wanted;
    for (uint32_t i = 0; i < KMB_USERS; i++)
        out->used[i] = pool->used[i];
    pthread_mutex_unlock(&pool->lock);
    pages_release(pool);
}

void kmb_pool_free(struct kmb_pool *pool)
{
    if (!pool)
        return;
    ranges_free(&pool->ranges);
    pthread_rwlock_destroy(&pool->table);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->freed);
    free(pool);
}
