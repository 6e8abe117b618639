/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ranges.h"

#include <errno.h>
#include <stdlib.h>

#define BITS 64U

/* ---- bits: numbers inside of a range --------------------------------------------------------------------------------------- */

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

/* At or behind `from`; r->pages: none. */
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

/* ---- one range --------------------------------------------------------------------------------------------------------------- */

uint64_t range_room(const struct range *r)
{
    return r->pages - r->fixed - r->used;
}

bool range_uses(const struct range *r, uint64_t page)
{
    return bit_get(r, page - r->first);
}

void range_mark(struct range *r, uint64_t page)
{
    bit_set(r, page - r->first);
    r->used++;
}

void range_unmark(struct range *r, uint64_t page)
{
    bit_clear(r, page - r->first);
    r->used--;
}

bool range_find(struct range *r, uint64_t run, uint64_t *page)
{
    uint64_t n = range_room(r) < run ? r->pages : find_run(r, r->hint, run);

    if (n == r->pages && range_room(r) >= run)
        n = find_run(r, 0, run);
    if (n == r->pages)
        return false;
    if (run == 1)
        r->hint = n + 1;
    *page = r->first + n;
    return true;
}

static int range_init(struct range *r, const struct cxl_mem *mem, const struct kmb_range_conf *conf)
{
    *r = (struct range){.first = conf->first, .pages = conf->pages, .fixed = conf->fixed, .hint = conf->fixed,
                        .is_volatile = conf->is_volatile};
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

/* ---- the table ---------------------------------------------------------------------------------------------------------------- */

static bool overlaps(const struct range *r, const struct kmb_range_conf *conf)
{
    return conf->first < r->first + r->pages && r->first < conf->first + conf->pages;
}

int ranges_add(struct ranges *t, const struct cxl_mem *mem, const struct kmb_range_conf *conf)
{
    int err;

    if (t->count == KMB_MAX_RANGES)
        return -ENOSPC;
    for (uint32_t i = 0; i < t->count; i++) {
        if (overlaps(&t->at[i], conf))
            return -EEXIST;
    }
    err = range_init(&t->at[t->count], mem, conf);
    if (!err)
        t->count++;
    return err;
}

void ranges_drop(struct ranges *t, struct range *r)
{
    free(r->bits);
    *r = t->at[--t->count];
}

void ranges_free(struct ranges *t)
{
    for (uint32_t i = 0; i < t->count; i++)
        free(t->at[i].bits);
    t->count = 0;
}

struct range *ranges_of(const struct ranges *t, uint64_t page)
{
    for (uint32_t i = 0; i < t->count; i++) {
        const struct range *r = &t->at[i];

        if (page >= r->first && page - r->first < r->pages)
            return (struct range *)(uintptr_t)r;
    }
    return NULL;
}

struct range *ranges_at(const struct ranges *t, uint64_t first)
{
    struct range *r = ranges_of(t, first);

    return r && r->first == first ? r : NULL;
}
