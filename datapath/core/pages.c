/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which pages of the pool are used. Nothing here is on the medium: the index of the block volume is, and the rest follows from it.
 */
#define _GNU_SOURCE
#include "pages.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define BITS 64U
#define NS_PER_MS 1000000L
#define NS_PER_S 1000000000L

struct range {
    struct mem_map map;
    uint64_t first, pages, fixed;
    uint64_t *bits; /* 1: used or fixed */
    uint64_t used;  /* without the fixed ones */
    uint64_t hint;  /* where the last search ended */
    bool leaving;
};

struct kmb_pool {
    struct kmb_pool_conf conf;
    pthread_rwlock_t table; /* of the ranges as such: written when one comes or goes */
    uint32_t ranges;
    struct range range[KMB_MAX_RANGES];
    pthread_mutex_t lock; /* of the rest */
    pthread_cond_t freed;
    uint64_t free;      /* in ranges that stay */
    uint64_t spare_out; /* spare pages that a rewrite is using */
    uint64_t owed;      /* used pages of leaving ranges: each will need one elsewhere */
    uint64_t wanted;
    bool in_vain; /* the last recall was, and nobody has given a page since: the next write need not wait as well */
    uint64_t used[KMB_USERS];
};

/* ---- bits -------------------------------------------------------------------------------------------------------------- */

static bool bit_get(const struct range *r, uint64_t n)
{
    return r->bits[n / BITS] >> (n % BITS) & 1;
}

static void bit_set(struct range *r, uint64_t n)
{
    r->bits[n / BITS] |= UINT64_C(1) << (n % BITS);
}

static void bit_clear(struct range *r, uint64_t n)
{
    r->bits[n / BITS] &= ~(UINT64_C(1) << (n % BITS));
}

/* The first of `run` free pages aligned to run, at or behind `from`; r->pages: none. */
static uint64_t find_run(const struct range *r, uint64_t from, uint64_t run)
{
    for (uint64_t n = (from + run - 1) / run * run; n < r->pages && run <= r->pages - n; n += run) {
        uint64_t i = 0;

        if (n % BITS == 0 && r->bits[n / BITS] == UINT64_MAX && run <= BITS) {
            n += BITS - run; /* a full word */
            continue;
        }
        while (i < run && !bit_get(r, n + i))
            i++;
        if (i == run)
            return n;
    }
    return r->pages;
}

static void tell_room(struct kmb_pool *pool)
{
    pool->in_vain = false;
    pthread_cond_broadcast(&pool->freed);
}

/* ---- the table of ranges --------------------------------------------------------------------------------------------------- */

void pages_hold(struct kmb_pool *pool)
{
    pthread_rwlock_rdlock(&pool->table);
}

void pages_release(struct kmb_pool *pool)
{
    pthread_rwlock_unlock(&pool->table);
}

static struct range *range_of(const struct kmb_pool *pool, uint64_t page)
{
    for (uint32_t i = 0; i < pool->ranges; i++) {
        const struct range *r = &pool->range[i];

        if (page >= r->first && page - r->first < r->pages)
            return (struct range *)(uintptr_t)r;
    }
    return NULL;
}

static struct range *range_at(struct kmb_pool *pool, uint64_t first)
{
    struct range *r = range_of(pool, first);

    return r && r->first == first ? r : NULL;
}

struct page_at page_find(const struct kmb_pool *pool, uint64_t page)
{
    const struct range *r = range_of(pool, page);

    return (struct page_at){.map = &r->map, .off = (page - r->first) * KMB_PAGE};
}

bool page_in_leaving(const struct kmb_pool *pool, uint64_t first, uint64_t page)
{
    const struct range *r = range_of(pool, page);

    return r && r->first == first && r->leaving;
}

static bool overlaps(const struct range *r, const struct kmb_range_conf *conf)
{
    return conf->first < r->first + r->pages && r->first < conf->first + conf->pages;
}

static int range_init(struct range *r, const struct cxl_mem *mem, const struct kmb_range_conf *conf)
{
    *r = (struct range){.first = conf->first, .pages = conf->pages, .fixed = conf->fixed, .hint = conf->fixed};
    if (!conf->pages || conf->fixed > conf->pages || conf->first > UINT64_MAX / KMB_PAGE - conf->pages)
        return -EINVAL;
    if (mem_map_init(&r->map, mem) || r->map.len / KMB_PAGE < conf->pages)
        return -EINVAL;
    r->bits = calloc((conf->pages + BITS - 1) / BITS, sizeof(*r->bits));
    if (!r->bits)
        return -ENOMEM;
    for (uint64_t n = 0; n < conf->fixed; n++)
        bit_set(r, n);
    return 0;
}

static int range_append(struct kmb_pool *pool, const struct cxl_mem *mem, const struct kmb_range_conf *conf)
{
    int err;

    if (pool->ranges == KMB_MAX_RANGES)
        return -ENOSPC;
    for (uint32_t i = 0; i < pool->ranges; i++) {
        if (overlaps(&pool->range[i], conf))
            return -EEXIST;
    }
    err = range_init(&pool->range[pool->ranges], mem, conf);
    if (err)
        return err;
    pool->ranges++;
    pool->free += conf->pages - conf->fixed;
    tell_room(pool);
    return 0;
}

/* The table's lock comes before the other one. */
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
    err = range_append(pool, mem, conf);
    unlock_all(pool);
    return err;
}

/* ---- how much is left -------------------------------------------------------------------------------------------------------- */

static uint64_t available(const struct kmb_pool *pool)
{
    uint64_t kept = pool->conf.spare - pool->spare_out + pool->owed;

    return pool->free > kept ? pool->free - kept : 0;
}

static bool may_take(const struct kmb_pool *pool, enum kmb_user user, uint64_t count)
{
    uint64_t left = available(pool), reserve = user == KMB_BLOCKS ? 0 : pool->conf.reserve;

    return !count || (left >= reserve && count <= left - reserve);
}

static uint64_t range_free(const struct range *r)
{
    return r->pages - r->fixed - r->used;
}

static void stay(struct kmb_pool *pool, struct range *r)
{
    r->leaving = false;
    pool->free += range_free(r);
    pool->owed -= r->used;
    tell_room(pool);
}

int kmb_range_leave(struct kmb_pool *pool, uint64_t first)
{
    struct range *r;
    int err = 0;

    lock_all(pool);
    r = range_at(pool, first);
    if (!r) {
        err = -ENOENT;
    } else if (!r->leaving) {
        uint64_t left = available(pool);

        if (left < range_free(r) + r->used) {
            err = -ENOSPC;
        } else {
            r->leaving = true;
            pool->free -= range_free(r);
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
    r = range_at(pool, first);
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
    r = range_at(pool, first);
    if (!r) {
        err = -ENOENT;
    } else if (!r->leaving || r->used) {
        err = -EBUSY;
    } else {
        free(r->bits);
        *r = pool->range[--pool->ranges];
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
    r = range_at(pool, first);
    used = r ? r->used : 0;
    pthread_mutex_unlock(&pool->lock);
    pages_release(pool);
    return used;
}

/* ---- taking and giving ---------------------------------------------------------------------------------------------------------- */

/* All callers hold pool->lock, and a hold of the table. */

static void mark(struct kmb_pool *pool, struct range *r, uint64_t n)
{
    bit_set(r, n);
    r->used++;
    if (r->leaving)
        pool->owed++;
    else
        pool->free--;
}

static void unmark(struct kmb_pool *pool, uint64_t page)
{
    struct range *r = range_of(pool, page);

    bit_clear(r, page - r->first);
    r->used--;
    if (r->leaving)
        pool->owed--;
    else
        pool->free++;
    pthread_cond_broadcast(&pool->freed);
}

/* One aligned run, wherever it is free; false: nowhere. */
static bool take_run(struct kmb_pool *pool, uint64_t run, uint64_t *pages)
{
    for (uint32_t i = 0; i < pool->ranges; i++) {
        struct range *r = &pool->range[i];
        uint64_t n;

        if (r->leaving || range_free(r) < run)
            continue;
        n = find_run(r, r->hint, run);
        if (n == r->pages)
            n = find_run(r, 0, run);
        if (n == r->pages)
            continue;
        for (uint64_t k = 0; k < run; k++) {
            mark(pool, r, n + k);
            pages[k] = r->first + n + k;
        }
        if (run == 1)
            r->hint = n + 1;
        return true;
    }
    return false;
}

static void take_counted(struct kmb_pool *pool, enum kmb_user user, uint64_t count, uint64_t *pages)
{
    for (uint64_t i = 0; i < count; i++)
        take_run(pool, 1, &pages[i]); /* free pages are counted, so there is one */
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
    while (pool->spare_out == pool->conf.spare || !take_run(pool, 1, &page))
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
    r = range_of(pool, page);
    if (!r || bit_get(r, page - r->first)) {
        err = -EUCLEAN;
    } else {
        mark(pool, r, page - r->first);
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

/* ---- leases ---------------------------------------------------------------------------------------------------------------------- */

void kmb_give(struct kmb_pool *pool, const uint64_t *pages, uint64_t count)
{
    pages_hold(pool);
    for (uint64_t i = 0; i < count; i++)
        page_give(pool, KMB_LEASES, pages[i]);
    pages_release(pool);
}

static uint64_t take_runs(struct kmb_pool *pool, uint64_t count, uint64_t run, uint64_t *pages)
{
    uint64_t done = 0;

    pthread_mutex_lock(&pool->lock);
    if (may_take(pool, KMB_LEASES, count)) {
        while (done < count && take_run(pool, run, pages + done))
            done += run;
    }
    pool->used[KMB_LEASES] += done;
    pthread_mutex_unlock(&pool->lock);
    return done;
}

int kmb_take(struct kmb_pool *pool, uint64_t count, uint64_t run, uint64_t *pages)
{
    uint64_t done;

    if (!count || !run || (run & (run - 1)) || count % run)
        return -EINVAL;
    pages_hold(pool);
    done = take_runs(pool, count, run, pages);
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
    for (uint32_t i = 0; i < pool->ranges; i++) {
        out->pages += pool->range[i].pages;
        out->fixed += pool->range[i].fixed;
    }
    out->free = pool->free;
    out->available = available(pool);
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
    for (uint32_t i = 0; i < pool->ranges; i++)
        free(pool->range[i].bits);
    pthread_rwlock_destroy(&pool->table);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->freed);
    free(pool);
}
