/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A host has a pool of pages and may lose its power in any step of a write, a rewrite, a discard or a move; then another host opens the
 * pool: each block is old or new, what had ended has ended, and each page is free or belongs to one block.
 */
#include <string.h>

#include "kmem_blk.h"
#include "scenarios.h"

#define FIRST_PAGES 10U /* of the range with superblock and index; behind it the second one */
#define SECOND_PAGES 7U
#define FIXED 2U
#define BLOCKS 6U
#define OPERATIONS 12U

enum { OWNER, HEIR }; /* hosts */

static const struct kmb_range_conf ranges[] = {
    {.first = 0, .pages = FIRST_PAGES, .fixed = FIXED},
    {.first = FIRST_PAGES, .pages = SECOND_PAGES, .fixed = 1},
};

static struct world {
    struct kmb_pool *pools[2]; /* by host */
    struct kmb_volume *volumes[2];
    uint8_t old[BLOCKS], new[BLOCKS]; /* the byte that fills each block; they differ while it is written */
    uint32_t ranges;                  /* that the pool has */
    bool ended;
} world;

static void expect(int err, const char *what)
{
    if (err)
        sim_fail("%s: error %d", what, err);
}

static int open_pool(struct world *w, uint32_t host)
{
    struct cxl_mem mem = sim_mem(host);
    struct kmb_volume_conf conf = {.index = mem, .index_off = KMB_PAGE, .blocks = BLOCKS, .user = KMB_BLOCKS, .durable = 1};
    uint64_t bad;

    expect(kmb_pool_new(&(struct kmb_pool_conf){.spare = 1, .event_fd = -1}, &w->pools[host]), "no pool");
    for (uint32_t i = 0; i < w->ranges; i++) {
        struct cxl_mem part = mem;

        part.base += ranges[i].first * KMB_PAGE;
        part.len = ranges[i].pages * KMB_PAGE;
        expect(kmb_range_add(w->pools[host], &part, &ranges[i]), "no range");
    }
    return kmb_volume_new(w->pools[host], &conf, &bad, &w->volumes[host]);
}

/* ---- the owner ------------------------------------------------------------------------------------------------------------- */

static void put(struct world *w, uint64_t block, uint8_t byte)
{
    uint8_t data[KMB_PAGE];

    memset(data, byte, sizeof(data));
    w->new[block] = byte;
    if (byte)
        expect(kmb_volume_write(w->volumes[OWNER], block * KMB_PAGE, KMB_PAGE, data), "a write");
    else
        expect(kmb_volume_discard(w->volumes[OWNER], block * KMB_PAGE, KMB_PAGE), "a discard");
    w->old[block] = byte;
    sim_progress();
}

/* Few pages are left, so that one that was freed is soon used for another block. */
static void change(struct world *w)
{
    uint32_t used = 0;

    for (uint32_t n = 1; n <= OPERATIONS; n++) {
        uint32_t block = sim_random(BLOCKS);
        bool write = used < 3 ? sim_random(4) : w->old[block] && sim_random(2);

        used += write ? !w->old[block] : 0;
        used -= !write && w->old[block];
        put(w, block, write ? (uint8_t)n : 0);
    }
}

static void move(struct world *w)
{
    uint64_t lent[FIRST_PAGES - FIXED];

    expect(kmb_take(w->pools[OWNER], FIRST_PAGES - FIXED, 1, lent), "pages of the first range");
    for (uint8_t block = 0; block < BLOCKS - 1; block++)
        put(w, block, (uint8_t)(block + 1));
    kmb_give(w->pools[OWNER], lent, FIRST_PAGES - FIXED);
    expect(kmb_range_leave(w->pools[OWNER], FIRST_PAGES), "a range leaves");
    expect(kmb_volume_evacuate(w->volumes[OWNER], FIRST_PAGES), "a move");
    expect(kmb_range_remove(w->pools[OWNER], FIRST_PAGES), "a range that is empty");
    w->ranges = 1;
}

static void own(void (*use)(struct world *), struct world *w)
{
    expect(open_pool(w, OWNER), "a pool without blocks");
    use(w);
    w->ended = true;
}

static void own_changing(void *arg)
{
    own(change, arg);
}

static void own_moving(void *arg)
{
    own(move, arg);
}

/* ---- the heir ----------------------------------------------------------------------------------------------------------------- */

static bool filled_with(const uint8_t *page, uint8_t byte)
{
    return page[0] == byte && !memcmp(page, page + 1, KMB_PAGE - 1);
}

static void inherit(void *arg)
{
    struct world *w = arg;
    uint8_t page[KMB_PAGE];
    struct kmb_counts counts;

    while (!w->ended && !sim_is_dead(OWNER))
        sim_rest();
    expect(open_pool(w, HEIR), "the index of the pool is wrong");
    kmb_pool_counts(w->pools[HEIR], &counts);
    if (counts.free + counts.used[KMB_BLOCKS] != counts.pages - counts.fixed ||
        counts.used[KMB_BLOCKS] != kmb_volume_mapped(w->volumes[HEIR]))
        sim_fail("pages are lost");
    for (uint64_t block = 0; block < BLOCKS; block++) {
        expect(kmb_volume_read(w->volumes[HEIR], block * KMB_PAGE, KMB_PAGE, page), "a read");
        if (!filled_with(page, w->old[block]) && !filled_with(page, w->new[block]))
            sim_fail("block %u is neither old nor new", (unsigned)block);
    }
}

void scenario_pages(uint32_t variant)
{
    memset(&world, 0, sizeof(world));
    world.ranges = variant & PAGES_MOVE ? 2 : 1;
    sim_actor(OWNER, variant & PAGES_MOVE ? own_moving : own_changing, &world);
    sim_actor(HEIR, inherit, &world);
    sim_crash_sometime(OWNER, NULL);
    sim_go();
    for (uint32_t host = OWNER; host <= HEIR; host++) {
        kmb_volume_free(world.volumes[host]);
        kmb_pool_free(world.pools[host]);
    }
}
