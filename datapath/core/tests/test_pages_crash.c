/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A crash after every step of writes, discards and moves, with every choice of lines that reached the memory (all subsets where there
 * are few, the telling ones where there are many): each block is old or new, the index is sound, nothing is lost or used twice. And
 * each flush and fence is needed: without it some crash breaks that.
 */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "kmem_blk.h"
#include "recorded_mem.h"

#define PAGES 24U
#define BASE 16U /* pages of the first range; the rest is the second one */
#define FIXED 2U
#define BLOCKS 8U
#define FEW 6U
#define RANDOM_SUBSETS 12

static _Alignas(4096) uint8_t memory[PAGES * KMB_PAGE], image[PAGES * KMB_PAGE];
static uint8_t block_old[BLOCKS], block_new[BLOCKS]; /* the byte that fills each block; 0: a hole or zeroes */
static uint64_t crashes, broken, seed;

/* ---- what an image must be ------------------------------------------------------------------------------------------------- */

struct world {
    struct kmb_pool *pool;
    struct kmb_volume *v;
};

static int start(struct world *w, uint8_t *base)
{
    struct cxl_mem all = {.base = base, .len = sizeof(memory), .coherence = CXL_COHERENCE_SOFTWARE};
    struct kmb_pool_conf pool = {.spare = 1, .event_fd = -1};
    struct kmb_volume_conf conf = {.index = all, .index_off = KMB_PAGE, .blocks = BLOCKS, .user = KMB_BLOCKS, .durable = 1};
    uint64_t bad;
    int err;

    CHECK_EQ(kmb_pool_new(&pool, &w->pool), 0);
    /* One range over all; the second one is made where a test needs it. */
    CHECK_EQ(kmb_range_add(w->pool, &all, &(struct kmb_range_conf){.first = 0, .pages = PAGES, .fixed = FIXED}), 0);
    err = kmb_volume_new(w->pool, &conf, &bad, &w->v);
    if (err)
        kmb_pool_free(w->pool);
    return err;
}

static void stop(struct world *w)
{
    kmb_volume_free(w->v);
    kmb_pool_free(w->pool);
}

static bool filled_with(const uint8_t *page, uint8_t byte)
{
    return page[0] == byte && !memcmp(page, page + 1, KMB_PAGE - 1);
}

static bool sound(void)
{
    uint8_t page[KMB_PAGE];
    struct kmb_counts c;
    struct world w;
    bool ok = true;

    if (start(&w, image))
        return false;
    kmb_pool_counts(w.pool, &c);
    ok = c.free + kmb_volume_mapped(w.v) == PAGES - FIXED;
    for (uint64_t b = 0; b < BLOCKS && ok; b++) {
        CHECK_EQ(kmb_volume_read(w.v, b * KMB_PAGE, KMB_PAGE, page), 0);
        ok = filled_with(page, block_old[b]) || filled_with(page, block_new[b]);
    }
    stop(&w);
    return ok;
}

/* ---- every crash -------------------------------------------------------------------------------------------------------------- */

enum choice { NONE, ALL, ONLY, BUT, BITS, DICE };

struct subset {
    enum choice choice;
    uint64_t n; /* line of ONLY and BUT, mask of BITS, seed of DICE */
};

static bool keep(uint64_t n, const void *ctx)
{
    const struct subset *s = ctx;
    uint64_t dice = s->n ^ n * 0x9e3779b97f4a7c15ULL;

    switch (s->choice) {
    case NONE:
        return false;
    case ALL:
        return true;
    case ONLY:
        return n == s->n;
    case BUT:
        return n != s->n;
    case BITS:
        return s->n >> n & 1;
    case DICE:
        break;
    }
    return rng(&dice) & 1;
}

static void crash(enum choice choice, uint64_t n)
{
    after_crash(image, keep, &(struct subset){.choice = choice, .n = n});
    crashes++;
    broken += !sound();
}

static void crash_every_way(void)
{
    uint64_t lines = unstable_lines();

    if (lines <= FEW) {
        for (uint64_t mask = 0; mask < UINT64_C(1) << lines; mask++)
            crash(BITS, mask);
        return;
    }
    crash(NONE, 0);
    crash(ALL, 0);
    crash(ONLY, 0);
    crash(BUT, 0);
    crash(ONLY, lines - 1);
    crash(BUT, lines - 1);
    for (int i = 0; i < RANDOM_SUBSETS; i++)
        crash(DICE, rng(&seed));
}

/* ---- what is interrupted -------------------------------------------------------------------------------------------------------- */

static void write_one(struct world *w, uint64_t block, uint8_t byte)
{
    static uint8_t data[KMB_PAGE];

    memset(data, byte, sizeof(data));
    block_new[block] = byte;
    CHECK_EQ(kmb_volume_write(w->v, block * KMB_PAGE, KMB_PAGE, data), 0);
    block_old[block] = byte;
}

static void discard_one(struct world *w, uint64_t block)
{
    block_new[block] = 0;
    CHECK_EQ(kmb_volume_discard(w->v, block * KMB_PAGE, KMB_PAGE), 0);
    block_old[block] = 0;
}

/* Blocks come, change and go while pages are scarce, so that a freed page is soon used for another block. */
static void live(struct world *w)
{
    uint64_t lent[PAGES];

    CHECK_EQ(kmb_take(w->pool, PAGES - FIXED - 4, 1, lent), 0); /* three pages for blocks, and the spare one */
    for (uint32_t round = 0; round < 3; round++) {
        for (uint64_t b = 0; b < 3; b++)
            write_one(w, b + round, (uint8_t)(1U + round * 16U + b));
        write_one(w, round + 1, (uint8_t)(9 + round * 16));
        for (uint64_t b = 0; b < 3; b++)
            discard_one(w, b + round);
    }
    kmb_give(w->pool, lent, PAGES - FIXED - 4);
}

static uint64_t run(enum mem_site dropped)
{
    struct world w;

    memset(memory, 0, sizeof(memory));
    memset(block_old, 0, sizeof(block_old));
    memset(block_new, 0, sizeof(block_new));
    seed = crashes = broken = 0;
    CHECK_EQ(start(&w, memory), 0);
    recording_start(memory, sizeof(memory), dropped, crash_every_way);
    live(&w);
    recording_stop();
    stop(&w);
    return broken;
}

/* The same pages as two ranges, and every block moved out of the second one. */
static void test_move(void)
{
    struct cxl_mem all = {.base = memory, .len = sizeof(memory), .coherence = CXL_COHERENCE_SOFTWARE};
    struct cxl_mem high = {.base = memory + BASE * KMB_PAGE, .len = (PAGES - BASE) * KMB_PAGE,
                           .coherence = CXL_COHERENCE_SOFTWARE};
    struct kmb_pool_conf pool = {.spare = 1, .event_fd = -1};
    struct kmb_volume_conf conf = {.index = all, .index_off = KMB_PAGE, .blocks = BLOCKS, .user = KMB_BLOCKS, .durable = 1};
    struct world w;
    uint64_t bad;

    TEST("crashes while blocks are moved");
    memset(memory, 0, sizeof(memory));
    for (uint64_t b = 0; b < BLOCKS; b++) { /* each in the second range */
        ((uint64_t *)(void *)(memory + KMB_PAGE))[b] = b < PAGES - BASE - 1 ? BASE + 1 + b : 0;
        block_old[b] = block_new[b] = b < PAGES - BASE - 1 ? (uint8_t)(b + 1) : 0;
        if (block_old[b])
            memset(memory + (BASE + 1 + b) * KMB_PAGE, block_old[b], KMB_PAGE);
    }
    crashes = broken = 0;
    CHECK_EQ(kmb_pool_new(&pool, &w.pool), 0);
    CHECK_EQ(kmb_range_add(w.pool, &all, &(struct kmb_range_conf){.first = 0, .pages = BASE, .fixed = FIXED}), 0);
    CHECK_EQ(kmb_range_add(w.pool, &high, &(struct kmb_range_conf){.first = BASE, .pages = PAGES - BASE, .fixed = 1}), 0);
    CHECK_EQ(kmb_volume_new(w.pool, &conf, &bad, &w.v), 0);
    CHECK_EQ(kmb_range_leave(w.pool, BASE), 0);
    recording_start(memory, sizeof(memory), MEM_SITE_COUNT, crash_every_way);
    CHECK_EQ(kmb_volume_evacuate(w.v, BASE), 0);
    recording_stop();
    CHECK_EQ(kmb_range_remove(w.pool, BASE), 0);
    stop(&w);
    CHECK(crashes > 100);
    CHECK_EQ(broken, 0);
}

int main(void)
{
    static const enum mem_site sites[] = {MEM_SITE_PAGE_CLEAN, MEM_SITE_PAGE_FENCE, MEM_SITE_INDEX_CLEAN, MEM_SITE_INDEX_FENCE};

    TEST("crashes of writes and discards");
    CHECK_EQ(run(MEM_SITE_COUNT), 0);
    CHECK(crashes > 500);
    test_move();
    for (size_t i = 0; i < sizeof(sites) / sizeof(sites[0]); i++) {
        printf("- without flush or fence %d\n", (int)sites[i]);
        CHECK(run(sites[i]) > 0);
    }
    return 0;
}
