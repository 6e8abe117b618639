/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "check.h"
#include "mem.h"

#define LEN 8192U
#define ROUNDS 200000U

static uint8_t *base;

static void test_ranges(void)
{
    struct cxl_mem mem = {.base = base, .len = LEN, .coherence = CXL_COHERENCE_SOFTWARE};
    uint8_t bytes[128] = {0};

    TEST("ranges");
    CHECK_EQ(cxl_mem_write(&mem, LEN - 64, bytes, 64), 0);
    CHECK_EQ(cxl_mem_write(&mem, LEN - 64, bytes, 65), -ERANGE);
    CHECK_EQ(cxl_mem_read(&mem, LEN, bytes, 0), 0);
    CHECK_EQ(cxl_mem_read(&mem, LEN + 1, bytes, 0), -ERANGE);
    CHECK_EQ(cxl_mem_read(&mem, UINT64_MAX - 63, bytes, 64), -ERANGE);
    CHECK_EQ(cxl_mem_read(&mem, 64, bytes, UINT64_MAX - 32), -ERANGE);
}

static void test_arguments(void)
{
    struct cxl_mem unaligned = {.base = base + 8, .len = 64}, nowhere = {.len = 64}, odd = {.base = base, .len = 64, .coherence = 2};
    uint8_t byte;

    TEST("arguments");
    CHECK_EQ(cxl_mem_read(&unaligned, 0, &byte, 1), -EINVAL);
    CHECK_EQ(cxl_mem_read(&nowhere, 0, &byte, 1), -EINVAL);
    CHECK_EQ(cxl_mem_read(&odd, 0, &byte, 1), -EINVAL);
}

/* Every length and alignment of the copy loops, and nothing beside the range. */
static void test_copies(enum cxl_coherence coherence)
{
    struct cxl_mem mem = {.base = base, .len = LEN, .coherence = coherence};
    uint8_t in[600], out[600 + 2];
    uint64_t state = 7;

    fill_random(in, sizeof(in), &state);
    for (uint32_t len = 0; len < 300; len++) {
        uint64_t off = 1 + rng(&state) % 200, skew = rng(&state) % 64;

        memset(base, 0xee, LEN);
        memset(out, 0xdd, sizeof(out));
        CHECK_EQ(cxl_mem_write(&mem, off, in + skew, len), 0);
        CHECK_EQ(base[off - 1], 0xee);
        CHECK_EQ(base[off + len], 0xee);
        CHECK_EQ(cxl_mem_read(&mem, off, out + 1, len), 0);
        CHECK_EQ(memcmp(out + 1, in + skew, len), 0);
        CHECK_EQ(out[0], 0xdd);
        CHECK_EQ(out[len + 1], 0xdd);
    }
}

static void test_flushes(void)
{
    static const enum mem_flush kinds[] = {MEM_NONE, MEM_CLFLUSH, MEM_CLFLUSHOPT, MEM_CLWB};
    struct mem_map map = {.base = base, .len = LEN};

    TEST("every flush instruction that this CPU has keeps the bytes");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if ((kinds[i] == MEM_CLWB && !__builtin_cpu_supports("clwb")) ||
            (kinds[i] == MEM_CLFLUSHOPT && !__builtin_cpu_supports("clflushopt")))
            continue;
        map.clean = map.invalidate = kinds[i];
        memset(base, (int)i + 1, LEN);
        mem_clean(&map, MEM_SITE_META_CLEAN, 0, LEN);
        mem_store_fence(&map, MEM_SITE_SLOT_FENCE);
        mem_invalidate(&map, MEM_SITE_META_INVALIDATE, 0, LEN);
        mem_load_fence(&map, MEM_SITE_META_LOAD_FENCE);
        for (uint32_t b = 0; b < LEN; b++)
            CHECK_EQ(base[b], i + 1);
    }
}

static void test_choice(void)
{
    struct cxl_mem mem = {.base = base, .len = LEN, .coherence = CXL_COHERENCE_HARDWARE};
    struct mem_map map;

    TEST("coherent memory is never flushed, and clwb is never taken for an invalidation");
    CHECK_EQ(mem_map_init(&map, &mem), 0);
    CHECK(map.clean == MEM_NONE && map.invalidate == MEM_NONE);
    mem.coherence = CXL_COHERENCE_SOFTWARE;
    CHECK_EQ(mem_map_init(&map, &mem), 0);
    CHECK(map.clean != MEM_NONE);
    CHECK(map.invalidate == MEM_CLFLUSH || map.invalidate == MEM_CLFLUSHOPT);
}

/* Both stored, then both looked: at least one must see the other, or two hosts could hold one claim. */
struct dekker {
    struct cxl_mem mem;
    atomic_uint arrived;
    uint64_t seen[2];
};

static void meet(struct dekker *d, unsigned *meetings)
{
    *meetings += 2;
    atomic_fetch_add(&d->arrived, 1);
    while (atomic_load(&d->arrived) < *meetings)
        ;
}

static void store_and_look(struct dekker *d, uint32_t who, uint64_t round)
{
    CHECK_EQ(cxl_mem_write(&d->mem, who * 64, &round, sizeof(round)), 0);
    CHECK_EQ(cxl_mem_read(&d->mem, (1 - who) * 64, &d->seen[who], sizeof(round)), 0);
}

static void *other_host(void *arg)
{
    struct dekker *d = arg;
    unsigned meetings = 0;

    for (uint64_t round = 1; round <= ROUNDS; round++) {
        meet(d, &meetings);
        store_and_look(d, 1, round);
        meet(d, &meetings);
    }
    return NULL;
}

static void test_store_load_order(void)
{
    struct dekker d = {.mem = {.base = base, .len = LEN, .coherence = CXL_COHERENCE_HARDWARE}};
    unsigned meetings = 0;
    pthread_t thread;

    TEST("a later read is not done before a write is visible, not even on coherent memory");
    memset(base, 0, LEN);
    CHECK_EQ(pthread_create(&thread, NULL, other_host, &d), 0);
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        meet(&d, &meetings);
        store_and_look(&d, 0, round);
        meet(&d, &meetings);
        CHECK(d.seen[0] == round || d.seen[1] == round);
    }
    pthread_join(thread, NULL);
}

static void test_site_names(void)
{
    TEST("every site has a name of its own");
    for (int i = 0; i < MEM_SITE_COUNT; i++) {
        CHECK(mem_site_name((enum mem_site)i));
        for (int j = 0; j < i; j++)
            CHECK(strcmp(mem_site_name((enum mem_site)i), mem_site_name((enum mem_site)j)));
    }
    CHECK(!mem_site_name(MEM_SITE_COUNT));
}

int main(void)
{
    base = aligned_alloc(64, LEN);
    CHECK(base);
    test_ranges();
    test_arguments();
    TEST("copies");
    test_copies(CXL_COHERENCE_HARDWARE);
    test_copies(CXL_COHERENCE_SOFTWARE);
    test_flushes();
    test_choice();
    test_store_load_order();
    test_site_names();
    free(base);
    return 0;
}
