/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Pages and volumes: what is allocated, what is refused, what threads see, and the ways to a volume through channels.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fixture.h"
#include "kmem_blk.h"

#define PAGES 64U
#define FIXED 2U /* superblock and one index page */
#define SPARE 2U
#define BLOCKS (PAGES - FIXED - SPARE)
#define MORE 16U /* pages of a second range */

static _Alignas(4096) uint8_t memory[PAGES * KMB_PAGE], more[MORE * KMB_PAGE], volatile_index[KMB_PAGE];
static uint8_t page_a[KMB_PAGE], page_b[KMB_PAGE], back[8 * KMB_PAGE], zeroes[KMB_PAGE];

struct world {
    struct kmb_pool *pool;
    struct kmb_volume *blocks;
};

static struct cxl_mem mem_of(uint8_t *base, uint64_t len, uint32_t coherence)
{
    return (struct cxl_mem){.base = base, .len = len, .coherence = coherence};
}

static struct kmb_pool *open_pool(uint32_t recall_ms, int event_fd)
{
    struct kmb_pool_conf conf = {.spare = SPARE, .recall_ms = recall_ms, .event_fd = event_fd};
    struct cxl_mem mem = mem_of(memory, sizeof(memory), CXL_COHERENCE_SOFTWARE);
    struct kmb_pool *pool;

    CHECK_EQ(kmb_pool_new(&conf, &pool), 0);
    CHECK_EQ(kmb_range_add(pool, &mem, &(struct kmb_range_conf){.first = 0, .pages = PAGES, .fixed = FIXED}), 0);
    return pool;
}

static int open_blocks(struct kmb_pool *pool, uint64_t *bad, struct kmb_volume **out)
{
    struct kmb_volume_conf conf = {.index = mem_of(memory, sizeof(memory), CXL_COHERENCE_SOFTWARE), .index_off = KMB_PAGE,
                                   .blocks = BLOCKS, .user = KMB_BLOCKS, .durable = 1};

    return kmb_volume_new(pool, &conf, bad, out);
}

static struct kmb_volume *open_swap(struct kmb_pool *pool, uint64_t blocks)
{
    struct kmb_volume_conf conf = {.index = mem_of(volatile_index, sizeof(volatile_index), CXL_COHERENCE_HARDWARE),
                                   .blocks = blocks, .user = KMB_SWAP};
    struct kmb_volume *v;
    uint64_t bad;

    CHECK_EQ(kmb_volume_new(pool, &conf, &bad, &v), 0);
    return v;
}

static struct world start(uint32_t recall_ms, int event_fd)
{
    struct world w = {.pool = open_pool(recall_ms, event_fd)};
    uint64_t bad;

    CHECK_EQ(open_blocks(w.pool, &bad, &w.blocks), 0);
    return w;
}

static struct world fresh(void)
{
    memset(memory, 0, sizeof(memory));
    memset(volatile_index, 0, sizeof(volatile_index));
    return start(0, -1);
}

static void stop(struct world *w)
{
    kmb_volume_free(w->blocks);
    kmb_pool_free(w->pool);
}

static struct kmb_counts counts(const struct world *w)
{
    struct kmb_counts c;

    kmb_pool_counts(w->pool, &c);
    return c;
}

static uint64_t *entry(uint64_t block)
{
    return (uint64_t *)(void *)(memory + KMB_PAGE) + block;
}

static int put(struct kmb_volume *v, uint64_t block, const uint8_t *page)
{
    return kmb_volume_write(v, block * KMB_PAGE, KMB_PAGE, page);
}

static void check_block(struct kmb_volume *v, uint64_t block, const uint8_t *expected)
{
    CHECK_EQ(kmb_volume_read(v, block * KMB_PAGE, KMB_PAGE, back), 0);
    CHECK(!memcmp(back, expected, KMB_PAGE));
}

static void test_blocks(void)
{
    struct world w = fresh();

    TEST("holes, writes, rewrites, discards, and what is left after a restart");
    check_block(w.blocks, 7, zeroes);
    CHECK_EQ(put(w.blocks, 7, page_a), 0);
    check_block(w.blocks, 7, page_a);
    uint64_t before = *entry(7);
    CHECK_EQ(put(w.blocks, 7, page_b), 0);
    CHECK(*entry(7) != before); /* never in place */
    check_block(w.blocks, 7, page_b);
    CHECK_EQ(put(w.blocks, 8, page_a), 0);
    CHECK_EQ(counts(&w).used[KMB_BLOCKS], 2);
    CHECK_EQ(counts(&w).available, PAGES - FIXED - SPARE - 2);
    CHECK_EQ(kmb_volume_discard(w.blocks, 8 * KMB_PAGE, KMB_PAGE), 0);
    check_block(w.blocks, 8, zeroes);
    stop(&w);
    w = start(0, -1);
    check_block(w.blocks, 7, page_b);
    check_block(w.blocks, 8, zeroes);
    CHECK_EQ(kmb_volume_mapped(w.blocks), 1);
    CHECK_EQ(counts(&w).used[KMB_BLOCKS], 1);
    stop(&w);
}

static void test_bounds(void)
{
    struct world w = fresh();

    TEST("what is no whole block inside the volume");
    CHECK_EQ(kmb_volume_read(w.blocks, 512, KMB_PAGE, back), -EINVAL);
    CHECK_EQ(kmb_volume_read(w.blocks, 0, 512, back), -EINVAL);
    CHECK_EQ(kmb_volume_read(w.blocks, 0, 0, back), -EINVAL);
    CHECK_EQ(kmb_volume_read(w.blocks, BLOCKS * KMB_PAGE, KMB_PAGE, back), -EINVAL);
    CHECK_EQ(kmb_volume_discard(w.blocks, (BLOCKS - 1) * KMB_PAGE, 2 * KMB_PAGE), -EINVAL);
    CHECK_EQ(kmb_volume_write(w.blocks, UINT64_MAX / KMB_PAGE * KMB_PAGE, KMB_PAGE, page_a), -EINVAL);
    CHECK_EQ(kmb_volume_discard(w.blocks, (BLOCKS - 1) * KMB_PAGE, KMB_PAGE), 0);
    stop(&w);
}

static void test_full(void)
{
    struct world w = fresh();
    struct kmb_volume *swap = open_swap(w.pool, 64);

    TEST("a pool that is full refuses before any byte changes, and still rewrites");
    for (uint64_t block = 0; block < 2; block++)
        CHECK_EQ(put(w.blocks, block, page_a), 0);
    kmb_pool_set_reserve(w.pool, 3);
    for (uint64_t block = 0; block < BLOCKS - 2 - 3; block++)
        CHECK_EQ(put(swap, block, page_b), 0);
    CHECK_EQ(put(swap, 63, page_b), -ENOSPC); /* the reserve is not for swap */
    for (uint64_t block = 2; block < 5; block++)
        CHECK_EQ(put(w.blocks, block, page_a), 0);
    CHECK_EQ(put(swap, 0, page_a), 0); /* what has its page needs none, however deep blocks are in the reserve */
    memset(back, 7, sizeof(back));
    CHECK_EQ(kmb_volume_write(w.blocks, 4 * KMB_PAGE, 2 * KMB_PAGE, back), -ENOSPC); /* block 5 has no page, so 4 stays */
    check_block(w.blocks, 4, page_a);
    CHECK_EQ(put(w.blocks, 4, page_b), 0);
    check_block(w.blocks, 4, page_b);
    CHECK_EQ(kmb_volume_discard(swap, 0, KMB_PAGE), 0);
    CHECK_EQ(put(w.blocks, 5, page_a), 0);
    CHECK_EQ(counts(&w).available, 0);
    CHECK_EQ(counts(&w).free, SPARE);
    kmb_volume_free(swap);
    stop(&w);
}

static void test_bad_index(void)
{
    static const struct {
        uint64_t page;
        const char *what;
    } cases[] = {{0x7fff, "outside"}, {1, "the index"}, {UINT64_MAX, "the largest number"}, {5, "a page that is used"}};
    struct world w = fresh();
    struct kmb_counts c;
    uint64_t bad;

    TEST("an index that names what it must not");
    stop(&w);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memset(memory, 0, sizeof(memory));
        *entry(3) = 5;
        *entry(9) = cases[i].page;
        w.pool = open_pool(0, -1);
        CHECK_EQ(open_blocks(w.pool, &bad, &w.blocks), -EUCLEAN);
        CHECK_EQ(bad, 9);
        kmb_pool_counts(w.pool, &c);
        CHECK_EQ(c.used[KMB_BLOCKS], 0);
        CHECK_EQ(c.free, PAGES - FIXED);
        kmb_pool_free(w.pool);
    }
}

static void test_leases(void)
{
    struct world w = fresh();
    uint64_t pages[PAGES];

    TEST("leases take runs, and all or nothing");
    CHECK_EQ(kmb_take(w.pool, 16, 8, pages), 0);
    CHECK(pages[0] % 8 == 0 && pages[7] == pages[0] + 7 && pages[8] % 8 == 0);
    CHECK_EQ(counts(&w).used[KMB_LEASES], 16);
    CHECK_EQ(kmb_take(w.pool, 4, 3, pages + 16), -EINVAL);
    CHECK_EQ(kmb_take(w.pool, PAGES, 1, pages + 16), -ENOSPC);
    CHECK_EQ(kmb_take(w.pool, 48, 16, pages + 16), -ENOSPC); /* enough pages, not enough runs */
    CHECK_EQ(counts(&w).used[KMB_LEASES], 16);
    CHECK_EQ(kmb_claim(w.pool, pages, 1), -EUCLEAN);
    kmb_give(w.pool, pages, 16);
    CHECK_EQ(kmb_claim(w.pool, pages, 2), 0);
    CHECK_EQ(counts(&w).used[KMB_LEASES], 2);
    kmb_give(w.pool, pages, 2);
    stop(&w);
}

static void test_ranges(void)
{
    struct world w = fresh();
    struct cxl_mem mem = mem_of(more, sizeof(more), CXL_COHERENCE_SOFTWARE);
    struct kmb_range_conf conf = {.first = PAGES, .pages = MORE, .fixed = 1};
    uint64_t pages[8], moved = 0;

    TEST("a range comes, is used, is emptied, and goes");
    CHECK_EQ(kmb_range_add(w.pool, &mem, &(struct kmb_range_conf){.first = PAGES - 1, .pages = MORE}), -EEXIST);
    CHECK_EQ(kmb_range_add(w.pool, &mem, &(struct kmb_range_conf){.first = PAGES, .pages = MORE + 1}), -EINVAL);
    CHECK_EQ(kmb_range_add(w.pool, &mem, &conf), 0);
    CHECK_EQ(kmb_range_leave(w.pool, PAGES), 0); /* nothing is in it yet */
    CHECK_EQ(kmb_range_stay(w.pool, PAGES), 0);
    CHECK_EQ(kmb_range_leave(w.pool, 3), -ENOENT);
    CHECK_EQ(kmb_take(w.pool, 8, 1, pages), 0);
    for (uint64_t block = 0; block < BLOCKS; block++)
        CHECK_EQ(put(w.blocks, block, page_b), 0);
    CHECK_EQ(kmb_range_leave(w.pool, PAGES), -ENOSPC);
    kmb_give(w.pool, pages, 8);
    CHECK_EQ(kmb_range_leave(w.pool, PAGES), 0);
    for (uint64_t block = 0; block < BLOCKS; block++)
        moved += *entry(block) >= PAGES;
    CHECK(moved);
    CHECK_EQ(kmb_range_remove(w.pool, PAGES), -EBUSY);
    CHECK_EQ(kmb_range_used(w.pool, PAGES), moved);
    CHECK_EQ(kmb_volume_evacuate(w.blocks, PAGES), 0);
    CHECK_EQ(kmb_range_used(w.pool, PAGES), 0);
    CHECK_EQ(kmb_range_remove(w.pool, PAGES), 0);
    memset(more, 0, sizeof(more));
    for (uint64_t block = 0; block < BLOCKS; block++)
        check_block(w.blocks, block, page_b);
    CHECK_EQ(counts(&w).used[KMB_BLOCKS], BLOCKS);
    CHECK_EQ(counts(&w).available, 0);
    CHECK_EQ(counts(&w).free, SPARE);
    stop(&w);
}

/* ---- threads ------------------------------------------------------------------------------------------------------------ */

#define WRITERS 4
#define ROUNDS 400

struct job {
    struct world *w;
    uint64_t seed;
    pthread_t thread;
};

/* Every page of the three blocks that all fight for carries one value; a mixture would show two callers in one block at once. */
static void *fight(void *arg)
{
    struct job *job = arg;
    uint8_t mine[2 * KMB_PAGE];

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t dice = rng(&job->seed), block = dice >> 8 & 1;

        memset(mine, (int)(dice >> 16 & 0xff), sizeof(mine));
        if (dice % 4 == 0) {
            CHECK_EQ(kmb_volume_discard(job->w->blocks, block * KMB_PAGE, 2 * KMB_PAGE), 0);
        } else if (dice % 4 == 1) {
            CHECK_EQ(kmb_volume_write(job->w->blocks, block * KMB_PAGE, 2 * KMB_PAGE, mine), 0);
        } else {
            CHECK_EQ(kmb_volume_read(job->w->blocks, block * KMB_PAGE, 2 * KMB_PAGE, mine), 0);
            for (uint32_t page = 0; page < 2; page++)
                CHECK(!memcmp(mine + page * KMB_PAGE, mine + page * KMB_PAGE + 1, KMB_PAGE - 1));
        }
    }
    return NULL;
}

static void test_one_block_one_caller(void)
{
    struct world w = fresh();
    struct job jobs[WRITERS];

    TEST("readers, writers and discards of one block are serialised");
    for (uint64_t i = 0; i < WRITERS; i++) {
        jobs[i] = (struct job){.w = &w, .seed = i};
        CHECK_EQ(pthread_create(&jobs[i].thread, NULL, fight, &jobs[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_join(jobs[i].thread, NULL);
    CHECK_EQ(counts(&w).used[KMB_BLOCKS], kmb_volume_mapped(w.blocks));
    CHECK_EQ(counts(&w).free + kmb_volume_mapped(w.blocks), PAGES - FIXED);
    stop(&w);
}

static void *recall(void *arg)
{
    struct job *job = arg;
    struct kmb_volume *swap = (struct kmb_volume *)(void *)job->w->blocks;
    uint64_t n;

    (void)!read((int)job->seed, &n, sizeof(n)); /* until a write waits */
    CHECK_EQ(kmb_volume_discard(swap, 0, 2 * KMB_PAGE), 0);
    return NULL;
}

static void test_recall(void)
{
    int event = eventfd(0, 0);
    struct world w = fresh(), other;
    struct kmb_volume *swap;
    struct job job;

    TEST("a write of blocks waits for pages that are called back");
    stop(&w);
    w = start(60000, event);
    swap = open_swap(w.pool, 64);
    for (uint64_t block = 0; block < BLOCKS; block++)
        CHECK_EQ(put(swap, block, page_b), 0);
    other = (struct world){.pool = w.pool, .blocks = swap};
    job = (struct job){.w = &other, .seed = (uint64_t)event};
    CHECK_EQ(pthread_create(&job.thread, NULL, recall, &job), 0);
    CHECK_EQ(kmb_volume_write(w.blocks, 0, 2 * KMB_PAGE, back), 0);
    pthread_join(job.thread, NULL);
    CHECK_EQ(counts(&w).wanted, 0);
    CHECK_EQ(counts(&w).available, 0);
    kmb_volume_free(swap);
    stop(&w);
    w = start(1, -1);
    swap = open_swap(w.pool, 64);
    CHECK_EQ(kmb_volume_write(w.blocks, 2 * KMB_PAGE, KMB_PAGE, back), -ENOSPC); /* nobody gives anything back */
    kmb_volume_free(swap);
    stop(&w);
    close(event);
}

static bool signalled(int event)
{
    uint64_t n;

    return read(event, &n, sizeof(n)) == sizeof(n);
}

static void test_recall_in_vain(void)
{
    int event = eventfd(0, EFD_NONBLOCK);
    struct world w = fresh();
    struct kmb_volume *swap;

    TEST("after a recall in vain the next write fails at once, until somebody gives a page");
    stop(&w);
    w = start(1, event);
    swap = open_swap(w.pool, 64);
    for (uint64_t block = 0; block < BLOCKS; block++)
        CHECK_EQ(put(swap, block, page_b), 0);
    CHECK_EQ(put(w.blocks, 0, page_a), -ENOSPC);
    CHECK(signalled(event));
    CHECK_EQ(put(w.blocks, 0, page_a), -ENOSPC);
    CHECK(!signalled(event));
    CHECK_EQ(kmb_volume_discard(swap, 0, KMB_PAGE), 0);
    CHECK_EQ(kmb_volume_write(w.blocks, 0, 2 * KMB_PAGE, back), -ENOSPC);
    CHECK(signalled(event));
    CHECK_EQ(put(w.blocks, 0, page_a), 0);
    kmb_volume_free(swap);
    stop(&w);
    close(event);
}

static void *grow_when_asked(void *arg)
{
    struct job *job = arg;
    struct cxl_mem mem = mem_of(more, sizeof(more), CXL_COHERENCE_SOFTWARE);
    uint64_t n;

    (void)!read((int)job->seed, &n, sizeof(n));
    CHECK_EQ(kmb_range_add(job->w->pool, &mem, &(struct kmb_range_conf){.first = PAGES, .pages = MORE, .fixed = 1}), 0);
    return NULL;
}

static void test_growth_ends_a_wait(void)
{
    int event = eventfd(0, 0);
    struct world w = fresh();
    struct kmb_volume *swap;
    struct job job;

    TEST("a pool grows while a write waits for pages, and the write goes on");
    stop(&w);
    w = start(60000, event);
    swap = open_swap(w.pool, 64);
    for (uint64_t block = 0; block < BLOCKS; block++)
        CHECK_EQ(put(swap, block, page_b), 0);
    job = (struct job){.w = &w, .seed = (uint64_t)event};
    CHECK_EQ(pthread_create(&job.thread, NULL, grow_when_asked, &job), 0);
    CHECK_EQ(put(w.blocks, 0, page_a), 0);
    pthread_join(job.thread, NULL);
    kmb_volume_free(swap);
    stop(&w);
    close(event);
}

static void test_volatile_range(void)
{
    struct cxl_mem mem = mem_of(more, sizeof(more), CXL_COHERENCE_SOFTWARE);
    struct world w = fresh();
    struct kmb_volume *swap = open_swap(w.pool, 64);
    struct kmb_counts before = counts(&w);
    uint64_t lent[BLOCKS];

    TEST("a volatile range is for swap, which goes there first");
    CHECK_EQ(kmb_range_add(w.pool, &mem, &(struct kmb_range_conf){.first = PAGES, .pages = MORE, .fixed = 1, .is_volatile = 1}), 0);
    CHECK_EQ(counts(&w).free, before.free + MORE - 1);
    CHECK_EQ(counts(&w).available, before.available);
    CHECK_EQ(kmb_take(w.pool, BLOCKS, 1, lent), 0);
    CHECK_EQ(kmb_range_used(w.pool, PAGES), 0);
    CHECK_EQ(put(w.blocks, 0, page_a), -ENOSPC);
    for (uint64_t block = 0; block < MORE - 1; block++)
        CHECK_EQ(put(swap, block, page_b), 0);
    CHECK_EQ(kmb_range_used(w.pool, PAGES), MORE - 1);
    CHECK_EQ(put(swap, MORE, page_b), -ENOSPC);
    CHECK_EQ(kmb_range_leave(w.pool, PAGES), -ENOSPC); /* nothing is free elsewhere */
    kmb_give(w.pool, lent, BLOCKS);
    CHECK_EQ(put(w.blocks, 0, page_a), 0);
    CHECK_EQ(kmb_range_leave(w.pool, PAGES), 0);
    CHECK_EQ(kmb_volume_evacuate(swap, PAGES), 0);
    CHECK_EQ(kmb_range_remove(w.pool, PAGES), 0);
    check_block(swap, MORE - 2, page_b);
    CHECK_EQ(counts(&w).available, before.available - 1 - (MORE - 1));
    kmb_volume_free(swap);
    stop(&w);
}

/* ---- through channels ----------------------------------------------------------------------------------------------------- */

static void do_all_kinds(struct fixture *f)
{
    CHECK_EQ(do_io(f, CBD_WRITE, 0, 4 * KMB_PAGE, KMB_PAGE, page_a), 0);
    CHECK_EQ(do_io(f, CBD_READ, 0, 4 * KMB_PAGE, KMB_PAGE, back), 0);
    CHECK(!memcmp(back, page_a, KMB_PAGE));
    CHECK_EQ(do_io(f, CBD_FLUSH, 0, 0, 0, NULL), 0);
    CHECK_EQ(do_io(f, CBD_WRITE, CBD_FUA, 5 * KMB_PAGE, KMB_PAGE, page_a), 0);
    CHECK_EQ(do_io(f, CBD_WRITE_ZEROES, 0, 4 * KMB_PAGE, KMB_PAGE, NULL), 0);
    CHECK_EQ(do_io(f, CBD_DISCARD, 0, 5 * KMB_PAGE, KMB_PAGE, NULL), 0);
    CHECK_EQ(do_io(f, CBD_READ, 0, 4 * KMB_PAGE, 2 * KMB_PAGE, back), 0);
    CHECK(!memcmp(back, zeroes, KMB_PAGE) && !memcmp(back + KMB_PAGE, zeroes, KMB_PAGE));
    CHECK_EQ(do_io(f, CBD_READ, 0, 512, 512, back), -EINVAL);
}

static const struct cbd_backend_conf volume_conf = {.fd = -1, .logical_block_size = KMB_PAGE, .capacity = BLOCKS * KMB_PAGE};

static void test_backend_and_relay(void)
{
    struct fixture near_end = {0}, far_end = {0};
    struct cbd_backend *relayed;
    struct kmb_relay *relay;
    struct world w = fresh();

    TEST("a volume behind a channel, and behind a second one");
    fixture_memory(&near_end, CXL_COHERENCE_HARDWARE, 0);
    CHECK_EQ(kmb_backend_new(&near_end.mem, &volume_conf, w.blocks, &near_end.backend), 0);
    CHECK_EQ(cbd_backend_engine(near_end.backend), CBD_ENGINE_INLINE);
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(cbd_backend_add(near_end.backend, &near_end.conf[i]), 0);
    CHECK_EQ(cbd_queue_new(&near_end.mem, &near_end.conf[0], &near_end.queue[0]), 0);
    do_all_kinds(&near_end);
    fixture_memory(&far_end, CXL_COHERENCE_SOFTWARE, CBD_FEATURE_DATA_CRC);
    CHECK_EQ(kmb_relay_new(&near_end.mem, &near_end.conf[1], 0, &relay), -EINVAL);
    CHECK_EQ(kmb_relay_new(&near_end.mem, &near_end.conf[1], 1, &relay), 0);
    CHECK_EQ(kmb_relay_backend_new(&far_end.mem, &volume_conf, relay, &relayed), 0);
    CHECK_EQ(cbd_backend_add(relayed, &far_end.conf[0]), 0);
    CHECK_EQ(cbd_queue_new(&far_end.mem, &far_end.conf[0], &far_end.queue[0]), 0);
    do_all_kinds(&far_end);
    CHECK_EQ(kmb_volume_mapped(w.blocks), 0);
    cbd_queue_free(far_end.queue[0]);
    cbd_backend_free(relayed);
    kmb_relay_free(relay);
    cbd_queue_free(near_end.queue[0]);
    cbd_backend_free(near_end.backend);
    stop(&w);
}

int main(void)
{
    memset(page_a, 0xaa, sizeof(page_a));
    memset(page_b, 0xbb, sizeof(page_b));
    test_blocks();
    test_bounds();
    test_full();
    test_bad_index();
    test_leases();
    test_ranges();
    test_one_block_one_caller();
    test_recall();
    test_recall_in_vain();
    test_growth_ends_a_wait();
    test_volatile_range();
    test_backend_and_relay();
    return 0;
}
