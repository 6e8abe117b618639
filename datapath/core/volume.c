/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A volume: an index of page numbers, and the blocks in these pages. One block belongs to one caller at a time (readers share it).
 *
 * A durable block is never changed in place: its new content goes into another page, is stable there, and becomes the block by one
 * store into the index. So a crash leaves old or new content, and what the index does not name is free.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "pages.h"

#define STRIPES 64U /* a power of two: blocks share locks */

struct kmb_volume {
    struct kmb_pool *pool;
    struct mem_map map; /* of the index */
    uint64_t index_off;
    uint64_t blocks;
    enum kmb_user user;
    bool durable;
    _Atomic uint64_t mapped;
    pthread_rwlock_t stripe[STRIPES];
};

struct span { /* blocks first .. first + count */
    uint64_t first, count;
};

/* ---- the index ---------------------------------------------------------------------------------------------------------- */

static uint64_t entry_off(const struct kmb_volume *v, uint64_t block)
{
    return v->index_off + block * sizeof(uint64_t);
}

static uint64_t entry_get(const struct kmb_volume *v, uint64_t block)
{
    return mem_load64(&v->map, entry_off(v, block));
}

/* What the page held before is stable by then, and the page that the entry named may be used for something else afterwards. */
static void entry_publish(struct kmb_volume *v, uint64_t block, uint64_t page)
{
    mem_store64(&v->map, entry_off(v, block), page);
    if (!v->durable)
        return;
    mem_clean(&v->map, MEM_SITE_INDEX_CLEAN, entry_off(v, block), sizeof(uint64_t));
    mem_store_fence(&v->map, MEM_SITE_INDEX_FENCE);
}

/* ---- locks -------------------------------------------------------------------------------------------------------------- */

/* Stripes are taken in their order, so that two spans never wait for each other in a circle. */
static bool wants_stripe(const struct span *s, uint64_t stripe)
{
    return (stripe - s->first) % STRIPES < s->count;
}

static void lock(struct kmb_volume *v, const struct span *s, bool shared)
{
    pages_hold(v->pool);
    for (uint64_t i = 0; i < STRIPES; i++) {
        if (!wants_stripe(s, i))
            continue;
        if (shared)
            pthread_rwlock_rdlock(&v->stripe[i]);
        else
            pthread_rwlock_wrlock(&v->stripe[i]);
    }
}

static void unlock(struct kmb_volume *v, const struct span *s)
{
    for (uint64_t i = 0; i < STRIPES; i++) {
        if (wants_stripe(s, i))
            pthread_rwlock_unlock(&v->stripe[i]);
    }
    pages_release(v->pool);
}

static int span_of(const struct kmb_volume *v, uint64_t offset, uint32_t len, struct span *out)
{
    *out = (struct span){.first = offset / KMB_PAGE, .count = len / KMB_PAGE};
    if (!len || offset % KMB_PAGE || len % KMB_PAGE)
        return -EINVAL;
    return out->first <= v->blocks && out->count <= v->blocks - out->first ? 0 : -EINVAL;
}

/* ---- blocks ---------------------------------------------------------------------------------------------------------------- */

static void fill(struct kmb_volume *v, uint64_t page, const uint8_t *src)
{
    struct page_at at = page_find(v->pool, page);

    mem_copy_in(at.map, at.off, src, KMB_PAGE);
    if (!v->durable)
        return;
    mem_clean(at.map, MEM_SITE_PAGE_CLEAN, at.off, KMB_PAGE);
    mem_store_fence(at.map, MEM_SITE_PAGE_FENCE);
}

/* The block gets new content in another page. */
static void replace(struct kmb_volume *v, uint64_t block, uint64_t old, const uint8_t *src)
{
    uint64_t page = spare_take(v->pool);

    fill(v, page, src);
    entry_publish(v, block, page);
    spare_swapped(v->pool, old);
}

static void read_block(const struct kmb_volume *v, uint64_t block, uint8_t *dst)
{
    uint64_t page = entry_get(v, block);

    if (page) {
        struct page_at at = page_find(v->pool, page);

        mem_copy_out(at.map, dst, at.off, KMB_PAGE);
    } else {
        memset(dst, 0, KMB_PAGE);
    }
}

/* fresh: pages for the holes; the next one is *fresh. */
static void write_block(struct kmb_volume *v, uint64_t block, const uint8_t *src, const uint64_t **fresh)
{
    uint64_t old = entry_get(v, block);

    if (old && v->durable) {
        replace(v, block, old, src);
    } else if (old) {
        fill(v, old, src);
    } else {
        uint64_t page = *(*fresh)++;

        fill(v, page, src);
        entry_publish(v, block, page);
        atomic_fetch_add_explicit(&v->mapped, 1, memory_order_relaxed);
    }
}

static void discard_block(struct kmb_volume *v, uint64_t block)
{
    uint64_t page = entry_get(v, block);

    if (!page)
        return;
    entry_publish(v, block, 0);
    page_give(v->pool, v->user, page);
    atomic_fetch_sub_explicit(&v->mapped, 1, memory_order_relaxed);
}

/* ---- requests --------------------------------------------------------------------------------------------------------------- */

int kmb_volume_read(struct kmb_volume *v, uint64_t offset, uint32_t len, void *buf)
{
    struct span s;
    int err = span_of(v, offset, len, &s);

    if (err)
        return err;
    lock(v, &s, true);
    for (uint64_t i = 0; i < s.count; i++)
        read_block(v, s.first + i, (uint8_t *)buf + i * KMB_PAGE);
    unlock(v, &s);
    return 0;
}

static uint64_t holes(const struct kmb_volume *v, const struct span *s)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < s->count; i++)
        n += !entry_get(v, s->first + i);
    return n;
}

/* *missing: pages that it takes, when they are not there. */
static int write_span(struct kmb_volume *v, const struct span *s, const uint8_t *buf, uint64_t *missing)
{
    uint64_t pages[KMB_MAX_BLOCKS];
    const uint64_t *fresh = pages;
    int err;

    lock(v, s, false);
    *missing = holes(v, s);
    err = pages_take(v->pool, v->user, *missing, pages);
    for (uint64_t i = 0; i < s->count && !err; i++)
        write_block(v, s->first + i, buf + i * KMB_PAGE, &fresh);
    unlock(v, s);
    return err;
}

int kmb_volume_write(struct kmb_volume *v, uint64_t offset, uint32_t len, const void *buf)
{
    struct recall recall = {0};
    uint64_t missing;
    struct span s;
    int err = span_of(v, offset, len, &s);

    if (err || s.count > KMB_MAX_BLOCKS)
        return -EINVAL;
    do
        err = write_span(v, &s, buf, &missing);
    while (err == -ENOSPC && v->user == KMB_BLOCKS && pages_recall(v->pool, missing, &recall));
    return err;
}

/* Block by block: a discard may be as long as the volume, and nobody is promised that it happens at once. */
int kmb_volume_discard(struct kmb_volume *v, uint64_t offset, uint32_t len)
{
    struct span s;
    int err = span_of(v, offset, len, &s);

    for (uint64_t i = 0; i < s.count && !err; i++) {
        struct span one = {.first = s.first + i, .count = 1};

        if (!entry_get(v, one.first))
            continue; /* a write that comes at the same time comes afterwards */
        lock(v, &one, false);
        discard_block(v, one.first);
        unlock(v, &one);
    }
    return err;
}

int kmb_volume_evacuate(struct kmb_volume *v, uint64_t first)
{
    uint8_t *copy = malloc(KMB_PAGE);

    if (!copy)
        return -ENOMEM;
    for (uint64_t block = 0; block < v->blocks; block++) {
        struct span one = {.first = block, .count = 1};
        uint64_t page;

        lock(v, &one, false);
        page = entry_get(v, block);
        if (page && page_in_leaving(v->pool, first, page)) {
            read_block(v, block, copy);
            replace(v, block, page, copy);
        }
        unlock(v, &one);
    }
    free(copy);
    return 0;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

uint64_t kmb_volume_mapped(const struct kmb_volume *v)
{
    return atomic_load_explicit(&v->mapped, memory_order_relaxed);
}

/* Gives back the pages of the first `blocks` entries, without a change of the index. */
static void unclaim(struct kmb_volume *v, uint64_t blocks)
{
    pages_hold(v->pool);
    for (uint64_t block = 0; block < blocks; block++) {
        uint64_t page = entry_get(v, block);

        if (page)
            page_give(v->pool, v->user, page);
    }
    pages_release(v->pool);
}

/* Another host may have had the pool since we read this. From here on only we write, and our own cache tells us what. */
static void drop_stale(const struct mem_map *map, uint64_t off, uint64_t len)
{
    mem_invalidate(map, MEM_SITE_VOLUME_INVALIDATE, off, len);
    mem_load_fence(map, MEM_SITE_VOLUME_LOAD_FENCE);
}

static int claim_all(struct kmb_volume *v, uint64_t *bad)
{
    int err = 0;

    pages_hold(v->pool);
    if (v->durable)
        drop_stale(&v->map, v->index_off, v->blocks * sizeof(uint64_t));
    for (*bad = 0; *bad < v->blocks; ++*bad) {
        uint64_t page = entry_get(v, *bad);

        if (!page)
            continue;
        err = page_claim(v->pool, v->user, page);
        if (err)
            break;
        if (v->durable)
            drop_stale(page_find(v->pool, page).map, page_find(v->pool, page).off, KMB_PAGE);
        v->mapped++;
    }
    pages_release(v->pool);
    if (err)
        unclaim(v, *bad);
    return err;
}

static int check_conf(const struct kmb_volume_conf *conf, const struct mem_map *map)
{
    if (conf->user > KMB_SWAP || conf->index_off % sizeof(uint64_t) || !conf->blocks ||
        conf->blocks > INT64_MAX / KMB_PAGE)
        return -EINVAL;
    return mem_in_range(map, conf->index_off, conf->blocks * sizeof(uint64_t)) ? 0 : -ERANGE;
}

int kmb_volume_new(struct kmb_pool *pool, const struct kmb_volume_conf *conf, uint64_t *bad, struct kmb_volume **out)
{
    struct kmb_volume *v = calloc(1, sizeof(*v));
    int err = v ? mem_map_init(&v->map, &conf->index) : -ENOMEM;

    *bad = 0;
    if (!err)
        err = check_conf(conf, &v->map);
    if (err) {
        free(v);
        return err;
    }
    v->pool = pool;
    v->index_off = conf->index_off;
    v->blocks = conf->blocks;
    v->user = (enum kmb_user)conf->user;
    v->durable = conf->durable;
    for (uint32_t i = 0; i < STRIPES; i++)
        pthread_rwlock_init(&v->stripe[i], NULL);
    err = claim_all(v, bad);
    if (err)
        kmb_volume_free(v);
    else
        *out = v;
    return err;
}

void kmb_volume_free(struct kmb_volume *v)
{
    if (!v)
        return;
    for (uint32_t i = 0; i < STRIPES; i++)
        pthread_rwlock_destroy(&v->stripe[i]);
    free(v);
}
